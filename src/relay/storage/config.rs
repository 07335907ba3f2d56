//! Owns how object stores are described in the config. Refuses to know where the config comes from.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::secret::SecretRef;

/// How stores are spoken to. Durations are texts such as `5s`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a connection may take to open.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long a store may take to begin an answer.
    #[serde(with = "humantime_serde")]
    pub answer_timeout: Duration,
    /// How long an answer may pause.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// How often a request is tried that does not change anything, or does the same however often it is made.
    pub attempts: u32,
    /// Parts of files that are held for sending at once; more wait.
    pub parallel_uploads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(20),
            attempts: 4,
            parallel_uploads: 16,
        }
    }
}

/// Which protocol a store speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreType {
    /// Amazon S3 and what is like it.
    #[default]
    S3,
    /// Google Cloud Storage; untested.
    Gcs,
}

/// One store of a catalog, or a part of one. Without keys of its own it is used with those that the catalog vends, whose address it
/// then replaces.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// Its protocol.
    #[serde(rename = "type", default)]
    pub store: StoreType,
    /// The files that it is for, such as `s3://lake/gold/`; all of the catalog's, if not given. The longest that fits counts.
    #[serde(default)]
    pub location: Option<String>,
    /// Its address, such as `https://minio.example.com:9000`. Not given: Amazon's, or Google's.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Its region.
    #[serde(default)]
    pub region: Option<String>,
    /// Whether the bucket stands in the path instead of the host name.
    #[serde(default)]
    pub path_style: Option<bool>,
    /// A PEM file with certificates of authorities to trust besides the usual ones.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A fixed key. Not given: the catalog vends keys.
    #[serde(default)]
    pub access_key_id: Option<String>,
    /// What belongs to the key.
    #[serde(default)]
    pub secret_access_key: Option<SecretRef>,
    /// What belongs to a temporary key.
    #[serde(default)]
    pub session_token: Option<SecretRef>,
    /// A fixed token, for Google.
    #[serde(default)]
    pub bearer_token: Option<SecretRef>,
}
