//! Owns the relay's settings and how a catalog is described in the config. Refuses to know where the config comes from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::storage;
use super::storage::config::StoreConfig;
use crate::names::{CatalogName, RealmName};
use crate::secret::SecretRef;

/// Settings of the relay itself. Durations are texts such as `1s` or `250ms`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many bytes of table metadata are kept.
    pub cache_bytes: u64,
    /// How many bytes of lists and of listed columns are kept.
    pub listing_cache_bytes: u64,
    /// How old the columns of a table may be in a listing of many. Own changes are seen at once.
    #[serde(with = "humantime_serde")]
    pub listing_staleness: Duration,
    /// How many names a catalog is asked for at once; 0 leaves it to the catalog.
    pub list_page_size: usize,
    /// How old a cached table may be before the catalog is asked whether it has changed; 0 for at every statement. Own commits are
    /// seen at once.
    #[serde(with = "humantime_serde")]
    pub max_staleness: Duration,
    /// How long "there is no such table" and "not allowed" are remembered; never longer than `max_staleness`.
    #[serde(with = "humantime_serde")]
    pub negative_ttl: Duration,
    /// How long a connection to a catalog may take to open.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long one call to a catalog may take; a catalog's own `request_timeout` comes first.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long a commit may take with everything that belongs to it: sending it, finding out what became of it, sending it again.
    /// Less than the 30 s after which a worker would send it a second time.
    #[serde(with = "humantime_serde")]
    pub commit_timeout: Duration,
    /// How often a commit is sent when it certainly was not made.
    pub commit_attempts: u32,
    /// How often a read is tried.
    pub read_attempts: u32,
    /// Reads under way at one catalog; more wait for their turn, within their deadline.
    pub max_reads_per_catalog: usize,
    /// How old a known table may be while its catalog is out of reach; 0 for never.
    #[serde(with = "humantime_serde")]
    pub stale_grace: Duration,
    /// How long a read waits for a slow catalog before it takes a known table as it is.
    #[serde(with = "humantime_serde")]
    pub slow_after: Duration,
    /// The largest answer taken from a catalog, and the largest request from a worker.
    pub max_body_bytes: usize,
    /// How object stores are spoken to.
    pub storage: storage::config::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            listing_cache_bytes: 128 << 20,
            listing_staleness: Duration::from_secs(30),
            list_page_size: 1000,
            max_staleness: Duration::from_secs(1),
            negative_ttl: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            commit_timeout: Duration::from_secs(25),
            commit_attempts: 4,
            read_attempts: 3,
            max_reads_per_catalog: 64,
            stale_grace: Duration::from_secs(60),
            slow_after: Duration::from_secs(1),
            max_body_bytes: 256 << 20,
            storage: storage::config::Config::default(),
        }
    }
}

/// One catalog.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum CatalogConfig {
    /// A catalog of the gateway's own, in a directory: SQLite and local files.
    Embedded {
        /// The directory; made when it is not there.
        path: PathBuf,
    },
    /// An Iceberg REST catalog, such as Apache Polaris.
    Rest(Box<RestConfig>),
}

/// How an Iceberg REST catalog is reached.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestConfig {
    /// Its address up to and without `/v1`, such as `https://polaris.example.com/api/catalog`.
    pub uri: String,
    /// The warehouse to ask for; for Polaris the catalog's name there.
    #[serde(default)]
    pub warehouse: Option<String>,
    /// Path prefix, when the catalog does not say it itself.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Whose principals it knows: catalogs of one realm take the same log-ins. Not given: its address.
    #[serde(default)]
    pub realm: Option<RealmName>,
    /// What the gateway shows the catalog when it does not ask for a caller of its own.
    #[serde(default)]
    pub credentials: RestCredentials,
    /// How tokens are had for callers with log-ins of their own.
    #[serde(default)]
    pub callers: CallersConfig,
    /// Whether reads ask for access to the data too, so that the catalog checks the right to it.
    #[serde(default)]
    pub access_delegation: AccessDelegation,
    /// A PEM file with certificates of authorities to trust besides the usual ones.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Storage prefixes that its tables may lie in, such as `s3://lake/gold/`. None given: any object store, never `file:`.
    #[serde(default)]
    pub allowed_locations: Vec<String>,
    /// The stores of its files. Nothing is needed here for a catalog that vends keys and names the address.
    #[serde(default)]
    pub storage: Vec<StoreConfig>,
    /// The stores that the catalog may name. Not given: any.
    #[serde(default)]
    pub allowed_endpoints: Option<Vec<String>>,
    /// How long one call may take, when it differs from the relay's setting.
    #[serde(default, with = "humantime_serde::option")]
    pub request_timeout: Option<Duration>,
    /// How long a connection may take to open, when it differs from the relay's setting.
    #[serde(default, with = "humantime_serde::option")]
    pub connect_timeout: Option<Duration>,
}

/// What a read asks for besides metadata. A catalog with rights of its own for data, such as Polaris, checks them only if it is asked
/// for access to the data. What it hands out for that is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessDelegation {
    /// Credentials for the table's files.
    #[default]
    VendedCredentials,
    /// Nothing: who may see a table's columns may read it.
    None,
}

/// How tokens are had for callers with log-ins of their own. What is not given is as in the catalog's `credentials`, where these are
/// `oauth2`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallersConfig {
    /// Where tokens are had.
    #[serde(default)]
    pub token_uri: Option<String>,
    /// What they are for.
    #[serde(default)]
    pub scope: Option<String>,
    /// How a caller's client id and secret are sent.
    #[serde(default)]
    pub client_auth: Option<ClientAuth>,
    /// How tokens of an identity provider are exchanged.
    #[serde(default)]
    pub exchange: ExchangeConfig,
}

/// How a caller's token is exchanged for one of the catalog (RFC 8693).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeConfig {
    /// Where, when not where other tokens are had.
    #[serde(default)]
    pub token_uri: Option<String>,
    /// What for, when it differs from other tokens.
    #[serde(default)]
    pub scope: Option<String>,
    /// Whom the new token is for, if the endpoint wants to know.
    #[serde(default)]
    pub audience: Option<String>,
    /// The gateway's own client at the endpoint, if that wants one. Never for a catalog's own endpoint: Polaris would give the client's
    /// token instead of the caller's.
    #[serde(default)]
    pub client: Option<ExchangeClient>,
}

/// The gateway as a client of an identity provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeClient {
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: SecretRef,
    /// How both are sent.
    #[serde(default)]
    pub client_auth: ClientAuth,
}

/// How a client's id and secret are sent to a token endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// In the form.
    #[default]
    Post,
    /// As HTTP Basic.
    Basic,
}

impl RestConfig {
    /// Whose principals it knows.
    #[must_use]
    pub fn realm(&self) -> RealmName {
        self.realm.clone().unwrap_or_else(|| RealmName::from(self.uri.trim_end_matches('/')))
    }
}

/// What a role opens. It opens nothing else.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// By the name of the catalog.
    pub catalogs: BTreeMap<CatalogName, RoleCatalog>,
    /// Where sessions of the role look up names without a catalog at first; not given: where everybody's do.
    #[serde(default)]
    pub default_catalog: Option<CatalogName>,
    /// The same for names without a schema.
    #[serde(default)]
    pub default_schema: Option<String>,
}

/// How a role is seen by one catalog.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleCatalog {
    /// What the catalog is shown; without it the credentials of its own section.
    #[serde(default)]
    pub credentials: Option<RestCredentials>,
    /// The same for statements that only read; without it they have `credentials`.
    #[serde(default)]
    pub reader_credentials: Option<RestCredentials>,
}

/// What the gateway shows an Iceberg REST catalog.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RestCredentials {
    /// Nothing.
    #[default]
    None,
    /// A fixed token; one in a file is read again when it changes.
    Bearer {
        /// The token.
        token: SecretRef,
    },
    /// OAuth2 client credentials; the token is renewed ahead of its expiry.
    Oauth2 {
        /// The client's id.
        client_id: String,
        /// The client's secret.
        client_secret: SecretRef,
        /// What the token is for.
        #[serde(default = "polaris_scope")]
        scope: String,
        /// Where tokens are had, when not at `<uri>/v1/oauth/tokens`.
        #[serde(default)]
        token_uri: Option<String>,
        /// How the client's id and secret are sent.
        #[serde(default)]
        client_auth: ClientAuth,
    },
}

/// All roles of the principal.
pub(super) fn polaris_scope() -> String {
    "PRINCIPAL_ROLE:ALL".to_owned()
}
