//! Owns what can be at fault with a catalog, and what to do about each. Refuses to find out.

use serde::Serialize;

use super::{Login, Subject};
use crate::auth::Credentials;
use crate::relay::error::CatalogError;

/// What to do about clocks.
pub(super) const BY_NTP: &str = "set the clocks by NTP: by a wrong one, signatures are refused, and tokens and keys lapse";

/// What is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A setting, or a file or variable that it names.
    BadConfig,
    /// The directory of an embedded catalog.
    Directory,
    /// The host is not known, or cannot be reached.
    WrongHost,
    /// Nothing listens at the port.
    WrongPort,
    /// One side speaks TLS and the other does not.
    WrongScheme,
    /// The certificate is not to be trusted.
    BadCa,
    /// The clocks differ.
    ClockOff,
    /// The client id or its secret, or a fixed token.
    BadSecret,
    /// The scope.
    BadScope,
    /// What is at the address is no token endpoint.
    WrongTokenUri,
    /// The catalog does not know the warehouse, or was not told one.
    NoWarehouse,
    /// What is at the address is no Iceberg REST catalog.
    WrongUri,
    /// The catalog does not take the token, or was shown none.
    BadLogin,
    /// A right is lacking.
    NoGrants,
    /// There is no such table.
    NoTable,
    /// The table lies where the config does not allow it.
    OutsideLocations,
    /// There are no keys for the store.
    NoVending,
    /// The catalog names a store that the config does not allow, or none.
    WrongStore,
    /// The store does not answer.
    StoreUnreachable,
    /// The store wants another region.
    WrongRegion,
    /// The bucket is not there.
    BucketGone,
    /// A file that the metadata names is not there.
    FileGone,
    /// A file is not what the metadata says.
    BadFile,
    /// The store does not know the keys.
    BadKeys,
    /// The store knows the keys and refuses the file.
    StoreRefuses,
    /// A table can be read and not written.
    ReadOnly,
    /// A service is out of order for now.
    Failing,
    /// A gateway of this config does not start, or does not do its part.
    Gateway,
}

impl Fault {
    /// What an error of a catalog says, once a token is there.
    pub(super) fn of_catalog(error: &CatalogError) -> Self {
        match error {
            CatalogError::Unauthorized { .. } | CatalogError::LoggedOut { .. } => Self::BadLogin,
            CatalogError::Forbidden { .. } => Self::NoGrants,
            CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace { .. } => Self::NoTable,
            CatalogError::OutsideLocation { .. } => Self::OutsideLocations,
            CatalogError::BadAnswer { .. } | CatalogError::Broke | CatalogError::Unsupported { .. } => Self::WrongUri,
            CatalogError::Invalid { .. } | CatalogError::NoSuchCatalog(_) => Self::NoWarehouse,
            CatalogError::Unreachable { .. }
            | CatalogError::Timeout { .. }
            | CatalogError::Failing { .. }
            | CatalogError::AlreadyExists { .. }
            | CatalogError::NotEmpty { .. }
            | CatalogError::Conflict { .. }
            | CatalogError::NoSuchSnapshot { .. }
            | CatalogError::TooManyNames { .. }
            | CatalogError::OutcomeUnknown { .. } => Self::Failing,
        }
    }

    /// What a store's refusal says.
    pub(super) fn of_store(status: u16, code: &str, message: &str) -> Self {
        match code {
            "RequestTimeTooSkewed" => Self::ClockOff,
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException"
            | "InvalidRegion" => Self::WrongRegion,
            "NoSuchBucket" => Self::BucketGone,
            "NoSuchKey" => Self::FileGone,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidClientTokenId"
            | "InvalidToken"
            | "ExpiredToken"
            | "InvalidTokenId" => Self::BadKeys,
            _ if matches!(status, 301 | 302 | 307) || message.contains("region") => Self::WrongRegion,
            _ => match status {
                401 => Self::BadKeys,
                403 => Self::StoreRefuses,
                404 => Self::FileGone,
                _ => Self::Failing,
            },
        }
    }

    /// What to do, with files of this location where it is about some.
    pub(super) fn advice(self, subject: &Subject, location: Option<&str>) -> String {
        let for_caller = match &subject.login {
            Login::Caller(login) => self.advice_for_caller(subject, &login.shown),
            _ => None,
        };
        let on_login = || self.advice_on_login(subject);
        for_caller.or_else(on_login).unwrap_or_else(|| self.advice_on_rest(subject, location))
    }

    /// What somebody does who has passed a caller's log-in: the config has no part in that.
    fn advice_for_caller(self, subject: &Subject, shown: &Credentials) -> Option<String> {
        let places = &subject.places;
        let token_uri = format!("token_uri in {} (without it, in {})", places.callers, places.credentials);
        let advice = match (self, shown) {
            (Self::BadSecret, Credentials::Basic { .. }) => {
                "look at the client id and the secret that were passed (--user; POLYNYA_PASSWORD, --password-env, --password-file): \
                 rotated, or of another realm?"
                    .to_owned()
            }
            (Self::BadSecret, Credentials::Bearer(_)) => {
                "pass another token (POLYNYA_TOKEN, --token-env, --token-file): this one has lapsed, is meant for others, or is of an \
                 issuer that auth.issuers does not describe"
                    .to_owned()
            }
            (Self::BadScope, _) => format!(
                "set scope in {} (without it, that in {} counts) to one that the token endpoint gives callers; PRINCIPAL_ROLE:ALL for \
                 Polaris, where the caller needs principal roles, too",
                places.callers, places.credentials
            ),
            (Self::WrongTokenUri, _) => format!("set {token_uri} to the address of the OAuth2 token endpoint"),
            (Self::BadLogin, Credentials::Basic { .. }) => format!(
                "the gateway's own credentials play no part here: does the catalog know this caller, and believe the endpoint of its \
                 tokens? See {token_uri}, and auth.realm"
            ),
            (Self::BadLogin, Credentials::Bearer(_)) => {
                "the gateway's own credentials play no part here: the catalog does not take this caller's token; is it of an issuer that \
                 the catalog believes, and of a principal that it knows?"
                    .to_owned()
            }
            (Self::NoGrants, _) => {
                "let an administrator of the catalog grant this caller what it lacks: to read, list namespaces and tables and read the \
                 tables' data (Polaris: NAMESPACE_LIST, TABLE_LIST and TABLE_READ_DATA to a catalog role that one of its principal roles \
                 uses)"
                    .to_owned()
            }
            (Self::ReadOnly, _) => {
                "if this caller is to write, let an administrator grant it TABLE_CREATE, TABLE_WRITE_DATA and TABLE_DROP (Polaris) in the \
                 catalog, and let the keys that it gets put and delete objects at the store; else leave --write out"
                    .to_owned()
            }
            _ => return None,
        };
        Some(advice)
    }

    /// What to do about the way in.
    fn advice_on_login(self, subject: &Subject) -> Option<String> {
        let places = &subject.places;
        let (uri, credentials) = (&places.uri, &places.credentials);
        let advice = match self {
            Self::WrongHost => format!("look at the host in {uri} (or token_uri), and whether this machine can resolve and reach it"),
            Self::WrongPort => {
                format!("look at the port in {uri} (or token_uri), and whether the service runs and no firewall refuses it")
            }
            Self::WrongScheme => format!("write https:// in {uri} (or token_uri) when the service speaks TLS, http:// when it does not"),
            Self::BadCa => format!(
                "set {} to a PEM file with the authority that signed the service's certificate, and use a host that the certificate names",
                places.ca_file
            ),
            Self::BadSecret => format!("look at client_id and client_secret (or token) in {credentials}: rotated, or of another realm?"),
            Self::BadScope => format!(
                "set scope in {credentials} to one that the token endpoint gives this client; PRINCIPAL_ROLE:ALL for Polaris, which also \
                 wants roles that the principal has"
            ),
            Self::WrongTokenUri => format!("set token_uri in {credentials} to the address of the OAuth2 token endpoint"),
            Self::NoWarehouse => {
                format!("set {} to a name that the catalog knows; for Polaris the catalog's name there", places.warehouse)
            }
            Self::WrongUri => {
                format!("look at the path of {uri}: it is what stands before /v1, such as https://polaris.example.com/api/catalog")
            }
            Self::BadLogin => format!(
                "look at {credentials}: the catalog asks for a log-in and does not take this one; its token may come from an endpoint that \
                 the catalog does not believe (token_uri)"
            ),
            Self::NoGrants => {
                "grant the principal what it lacks: to read, list namespaces and tables and read the tables' data (Polaris: NAMESPACE_LIST, \
                 TABLE_LIST and TABLE_READ_DATA to a catalog role that one of its principal roles uses)"
                    .to_owned()
            }
            _ => return None,
        };
        Some(advice)
    }

    /// What to do about all else.
    fn advice_on_rest(self, subject: &Subject, location: Option<&str>) -> String {
        let places = &subject.places;
        let storage = places.store_of(location);
        match self {
            Self::Directory => format!("give {} a directory that the gateway's user may write", places.path),
            Self::ClockOff => BY_NTP.to_owned(),
            Self::NoTable => "name a table that is there: --table NAMESPACE.TABLE".to_owned(),
            Self::OutsideLocations => match &places.layers {
                None => format!("add the place to {} if its files belong to this catalog", places.allowed_locations),
                Some(layers) => format!(
                    "if its files belong to this catalog, name their layer in {layers}, or put right location in {}",
                    places.store_of(None)
                ),
            },
            Self::NoVending => format!(
                "let the catalog vend keys (vended-credentials as {}, and a storage configuration with a role to assume at the catalog), \
                 or give keys in {storage}",
                places.access_delegation
            ),
            Self::WrongStore => {
                format!("look at the store's address in {storage} and in the catalog, and at {}", places.allowed_endpoints)
            }
            Self::StoreUnreachable => format!(
                "make the store reachable from here; where the catalog names an address that only it can reach, set endpoint in {storage}"
            ),
            Self::WrongRegion => format!("set region in {storage}, or in the catalog's storage configuration, to that of the bucket"),
            Self::BucketGone => format!("make the bucket again, or point the catalog or endpoint in {storage} at where it is"),
            Self::FileGone => "was the file deleted beside the catalog, or is this another store than the catalog means?".to_owned(),
            Self::BadFile => "the file is not what the metadata says: was it cut, or written by something else?".to_owned(),
            Self::BadKeys => format!("the store does not know these keys: look at {storage}, or at whom the catalog has keys from"),
            Self::StoreRefuses => {
                "let the keys (or the role that the catalog assumes) read the bucket: s3:GetObject on its objects, and the key of its \
                 encryption if it has one"
                    .to_owned()
            }
            Self::ReadOnly => {
                "for writing, grant TABLE_CREATE, TABLE_WRITE_DATA and TABLE_DROP (Polaris) in the catalog, and s3:PutObject and \
                 s3:DeleteObject at the store; for a gateway that only reads, leave --write out"
                    .to_owned()
            }
            Self::Failing => "look at the log of the service that is named; it is reached, but does not do its part".to_owned(),
            Self::Gateway => "look at what is named; `polynya serve` with this config would fail the same way".to_owned(),
            Self::BadConfig
            | Self::WrongHost
            | Self::WrongPort
            | Self::WrongScheme
            | Self::BadCa
            | Self::BadSecret
            | Self::BadScope
            | Self::WrongTokenUri
            | Self::NoWarehouse
            | Self::WrongUri
            | Self::BadLogin
            | Self::NoGrants => "put right what is named; `polynya check-config` shows what the config comes to".to_owned(),
        }
    }
}
