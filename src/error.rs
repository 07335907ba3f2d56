//! Owns the closed list of what can go wrong as a client sees it, and the trait by which each layer's error says which of them it
//! is; and how an error is told with what is behind it. Refuses to know gRPC: `status` turns a kind into a code.

use std::error::Error;
use std::time::Duration;

/// What a failure means for the caller. Closed, so that the mapping to gRPC codes and to metrics is an exhaustive match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The statement, a parameter or an option is wrong; the same call will fail again.
    InvalidArgument,
    /// No credentials, wrong ones, or lapsed ones.
    Unauthenticated,
    /// The caller is known and may not do this, or the guard allows nobody to.
    PermissionDenied,
    /// A catalog, schema, table, handle or ticket that is not there.
    NotFound,
    /// Something to be created is there already.
    AlreadyExists,
    /// A commit lost a race; running the statement again may work.
    Aborted,
    /// A limit was reached: queue, sessions, memory. With a hint when to try again, where one is known.
    ResourceExhausted(Option<Duration>),
    /// The statement's deadline passed.
    DeadlineExceeded,
    /// The caller went away or cancelled.
    Cancelled,
    /// A worker, the catalog or the object store could not be reached; trying again may work.
    Unavailable,
    /// A feature that the gateway does not have.
    Unimplemented,
    /// The call does not fit the state that it meets.
    FailedPrecondition,
    /// A defect of the gateway. The client gets a request id, the log gets the text.
    Internal,
}

/// What a client may learn of an error. Each layer's error type implements it; nothing else crosses to the edge.
pub trait Explain: Error + Send + Sync + 'static {
    /// The closed kind.
    fn kind(&self) -> Kind;

    /// The text for the client: what was wrong and what would be right. Never a secret, never for `Kind::Internal`.
    fn client_message(&self) -> String {
        with_sources(self.to_string(), self.source())
    }
}

/// An error with all its sources, as one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    with_sources(error.to_string(), error.source())
}

/// A text, then what an error behind it says, and all that is behind that, as one line.
#[must_use]
pub fn with_sources(mut text: String, mut source: Option<&dyn Error>) -> String {
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
