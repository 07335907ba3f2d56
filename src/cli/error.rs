//! Owns what a command can end with besides success, and what the user reads of it. Refuses to know which command it was.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use arrow::error::ArrowError;

use super::client::ClientError;
use super::local::LocalError;
use crate::config::ConfigError;
use crate::gateway::GatewayError;
use crate::telemetry::FilterError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What the user gave is wrong; the text says what would be right.
    #[error("{0}")]
    Usage(String),
    /// The gateway refused, failed, or could not be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The local worker, which reads the user's files, failed.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A file, a pipe or a terminal did not do what it should.
    #[error("cannot {action}")]
    Io {
        /// What was tried, after "cannot".
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// A result could not be put into the wanted format.
    #[error("cannot write the result as {format}")]
    Format {
        /// The format's name.
        format: &'static str,
        /// What arrow said.
        source: ArrowError,
    },
    /// The config is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A gateway did not start.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The log cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] FilterError),
    /// A gateway that was asked whether it is ready is not.
    #[error("{0}")]
    NotReady(String),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    /// A failed file or terminal operation; `action` completes "cannot …".
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// A failed write of a result in `format`. arrow wraps what the pipe said; unwrapped, a closed pipe is recognised as such.
    pub fn format(format: &'static str) -> impl FnOnce(ArrowError) -> Self {
        move |source| match source {
            ArrowError::IoError(_, source) => Self::Io { action: "write the result".into(), source },
            source => Self::Format { format, source },
        }
    }

    /// The reader of our output went away, as `head` does: nothing to complain about.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Prints the error for the user and says how the process ends.
    pub fn report(&self) -> ExitCode {
        if self.is_closed_pipe() {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {}", chain(self));
        match self {
            Self::Interrupted => ExitCode::from(130),
            _ => ExitCode::FAILURE,
        }
    }
}

/// An error and its sources in one line. Some libraries repeat the source's text in their own; it is shown once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if next.starts_with(&text) {
            text = next;
        } else if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_recognised_through_arrow() {
        let error = CliError::format("CSV")(ArrowError::IoError("x".into(), io::ErrorKind::BrokenPipe.into()));
        assert!(error.is_closed_pipe());
    }

    #[test]
    fn the_chain_shows_each_source_once() {
        let error = CliError::io("read a.sql")(io::Error::other("no such file"));
        assert_eq!(chain(&error), "cannot read a.sql: no such file");
    }
}
