//! Owns how log events leave the process. Refuses to decide what is logged: each part logs where it handles a thing.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// The section `telemetry` of the config.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `text` for people, `json` for collectors.
    pub format: Format,
    /// Filter as in `info` or `polynya=debug,warn`.
    pub level: String,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// The log filter could not be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "telemetry.level `{level}` is not a log filter: write a level (`error`, `warn`, `info`, `debug`) or `target=level` pairs"
)]
pub struct FilterError {
    level: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Sends log events to standard error. A second call in the same process changes nothing.
///
/// # Errors
/// When the filter cannot be read.
pub fn start(config: &Config) -> Result<(), FilterError> {
    let filter = EnvFilter::try_new(&config.level).map_err(|source| FilterError { level: config.level.clone(), source })?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // Failing to install means that the process has a subscriber already (tests start many gateways in one process).
    let _ = match config.format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
