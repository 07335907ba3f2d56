//! Owns the `session` section of the config. Refuses nothing: every value is a plain limit.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// The `session` section: limits on what clients leave with the gateway between calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How many sessions may be open at once.
    pub max_sessions: usize,
    /// How many of them may be one principal's.
    pub max_sessions_per_principal: usize,
    /// A session that is not used for so long ends.
    #[serde(with = "humantime_serde")]
    pub idle_ttl: Duration,
    /// How many ended sessions are known one by one, so that none comes back by its token.
    pub max_ended: usize,
    /// Where they are written down, so that none comes back after a restart either.
    pub closed_file: Option<PathBuf>,
    /// How many prepared statements one session may hold.
    pub max_prepared_per_session: usize,
    /// How many prepared statements one principal may hold in all its sessions.
    pub max_prepared_per_principal: usize,
    /// How many bytes their texts, columns and bound parameters may have.
    pub max_prepared_bytes_per_principal: usize,
    /// A prepared statement that is not used for so long is dropped.
    #[serde(with = "humantime_serde")]
    pub prepared_ttl: Duration,
    /// How many bytes of bound parameters one session may hold.
    pub max_bound_bytes_per_session: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_sessions: 10_000,
            max_sessions_per_principal: 5_000,
            idle_ttl: Duration::from_secs(4 * 3600),
            max_ended: 100_000,
            closed_file: None,
            max_prepared_per_session: 256,
            max_prepared_per_principal: 20_000,
            max_prepared_bytes_per_principal: 256 << 20,
            prepared_ttl: Duration::from_secs(3600),
            max_bound_bytes_per_session: 64 << 20,
        }
    }
}
