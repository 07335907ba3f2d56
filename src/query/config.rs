//! Owns the section `query` of the config: the limits on one statement and on listings.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

/// The section `query` of the config; `config/polynya.yaml` documents each key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// From the statement's arrival to its last row.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// A read whose tables have more bytes of data files than this runs on an exclusive worker.
    pub large_read: ByteSize,
    /// Statements of one principal at once, those that wait included.
    pub max_statements_per_principal: usize,
    /// Tables loaded at once for a listing with columns.
    pub listing_loads: usize,
    /// Tables that one listing may name.
    pub listing_tables: usize,
    /// Bytes of rows that one listing of a statement may have.
    pub listing_bytes: ByteSize,
    /// Files, or partitions, that `table_files` and `table_partitions` may show of one table.
    pub listing_files: usize,
    /// Whether the query log carries the statements' text.
    pub log_sql: bool,
}
