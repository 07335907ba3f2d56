//! Owns how log events leave the process. Refuses to decide what is logged: each part logs where it handles a thing.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

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

/// Lines of one kind, and for how long that is all there are.
const LINES: u32 = 20;
const LINES_WITHIN: Duration = Duration::from_secs(60);

/// How many lines of one kind the log takes in a while, for those that strangers can cause.
#[derive(Debug, Default)]
pub struct Allowance {
    since: Option<Instant>,
    lines: u32,
    untold: u64,
}

impl Allowance {
    /// Whether there may be another line now, and if so, how many had none since the last one was told of.
    pub fn line(&mut self, now: Instant) -> Option<u64> {
        let mut untold = 0;
        if self.since.is_none_or(|since| now.duration_since(since) > LINES_WITHIN) {
            untold = self.untold;
            *self = Self { since: Some(now), ..Self::default() };
        }
        if self.lines < LINES {
            self.lines += 1;
            return Some(untold);
        }
        self.untold += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_kind_are_few_and_the_others_are_counted() {
        let (mut allowance, start) = (Allowance::default(), Instant::now());
        let told = (0..100).filter(|_| allowance.line(start) == Some(0)).count();
        assert_eq!(told, LINES as usize);
        let later = start + LINES_WITHIN + Duration::from_secs(1);
        assert_eq!((allowance.line(later), allowance.line(later)), (Some(100 - u64::from(LINES)), Some(0)));
    }
}
