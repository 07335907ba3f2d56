//! Owns what can be at fault with a catalog, and what to do about each. Refuses to find out.

use serde::Serialize;

use crate::names::CatalogName;
use crate::relay::error::CatalogError;

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
            CatalogError::BadAnswer { .. } | CatalogError::Unsupported { .. } => Self::WrongUri,
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

    /// What to do.
    pub(super) fn advice(self, catalog: &CatalogName) -> String {
        let key = |rest: &str| format!("catalogs.{catalog}.{rest}");
        let (uri, credentials, storage) = (key("uri"), key("credentials"), key("storage"));
        match self {
            Self::BadConfig => "put right what is named; `polynya check-config` shows what the config comes to".to_owned(),
            Self::Directory => format!("give {} a directory that the gateway's user may write", key("path")),
            Self::WrongHost => format!("look at the host in {uri} (or token_uri), and whether this machine can resolve and reach it"),
            Self::WrongPort => {
                format!("look at the port in {uri} (or token_uri), and whether the service runs and no firewall refuses it")
            }
            Self::WrongScheme => format!("write https:// in {uri} (or token_uri) when the service speaks TLS, http:// when it does not"),
            Self::BadCa => format!(
                "set {} to a PEM file with the authority that signed the service's certificate, and use a host that the certificate names",
                key("ca_file")
            ),
            Self::ClockOff => "set the clocks by NTP: by a wrong one, signatures are refused, and tokens and keys lapse".to_owned(),
            Self::BadSecret => format!("look at client_id and client_secret (or token) in {credentials}: rotated, or of another realm?"),
            Self::BadScope => format!(
                "set scope in {credentials} to one that the token endpoint gives this client; PRINCIPAL_ROLE:ALL for Polaris, which also \
                 wants roles that the principal has"
            ),
            Self::WrongTokenUri => format!("set token_uri in {credentials} to the address of the OAuth2 token endpoint"),
            Self::NoWarehouse => format!("set {} to a name that the catalog knows; for Polaris the catalog's name there", key("warehouse")),
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
            Self::NoTable => "name a table that is there: --table NAMESPACE.TABLE".to_owned(),
            Self::OutsideLocations => format!("add the place to {} if its files belong to this catalog", key("allowed_locations")),
            Self::NoVending => format!(
                "let the catalog vend keys (access_delegation: vended-credentials, and a storage configuration with a role to assume at \
                 the catalog), or give keys in {storage}"
            ),
            Self::WrongStore => format!("look at the store's address in {storage} and in the catalog, and at {}", key("allowed_endpoints")),
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
        }
    }
}
