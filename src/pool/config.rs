//! Owns the section `pool` of the config: how many workers, how much each may use, how long callers wait.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

/// The section `pool` of the config; `config/polynya.yaml` documents each key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Workers at the most.
    pub max_workers: usize,
    /// Reader workers of one key at the most.
    pub readers_per_key: usize,
    /// Exclusive workers of one key at the most.
    pub exclusive_per_key: usize,
    /// Statements that one reader runs at once.
    pub max_statements: usize,
    /// Started and empty processes kept ready beside the workers.
    pub spares: usize,
    /// Memory of all workers together; none stands for 60 % of the machine's.
    pub memory_budget: Option<ByteSize>,
    /// DuckDB threads of one worker at the most; none stands for the machine's cores.
    pub threads: Option<u32>,
    /// DuckDB threads of all workers together; none stands for as many as each may have.
    pub thread_budget: Option<u32>,
    /// Disk that one worker may spill to.
    pub spill_limit: ByteSize,
    /// Where workers keep their sockets and spill files; none stands for the system's temporary directory.
    pub run_dir: Option<PathBuf>,
    /// DuckDB's extension files; none stands for the places that `polynya --help` lists.
    pub extension_dir: Option<PathBuf>,
    /// Statements that may wait for a worker; one more is refused with RESOURCE_EXHAUSTED.
    pub queue: usize,
    /// How long one waits.
    #[serde(with = "humantime_serde")]
    pub queue_timeout: Duration,
    /// How long a key without a worker waits for a place until workers of other keys take no new statements.
    #[serde(with = "humantime_serde")]
    pub turn: Duration,
    /// How long a new worker may take to start and attach.
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
    /// How long a cancelled statement may go on before its worker is killed.
    #[serde(with = "humantime_serde")]
    pub cancel_grace: Duration,
    /// A worker without a statement for this long is ended.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
}
