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
    /// How old a cached table may be before the catalog is asked whether it has changed. Own commits are seen at once.
    #[serde(with = "humantime_serde")]
    pub max_staleness: Duration,
    /// How long "there is no such table" and "not allowed" are remembered.
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
    /// The largest answer taken from a catalog, and the largest request from a worker.
    pub max_body_bytes: usize,
    /// How object stores are spoken to.
    pub storage: storage::config::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            max_staleness: Duration::from_secs(1),
            negative_ttl: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            commit_timeout: Duration::from_secs(25),
            commit_attempts: 4,
            read_attempts: 3,
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
    /// A fixed token.
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
    },
}

pub(super) fn polaris_scope() -> String {
    "PRINCIPAL_ROLE:ALL".to_owned()
}
