//! Owns what can go wrong between the gateway and its workers.

use std::time::Duration;

use crate::error::{Explain, Kind};
use crate::wire::proto::{Failure, failure};

/// Why there is no worker, or no answer from one.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Too many statements wait already.
    #[error("{waiting} statements are waiting for a worker already (pool.queue): try again in {} ms", retry_after.as_millis())]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// None became free in time.
    #[error("no worker became free within {} ms (pool.queue_timeout): try again later", waited.as_millis())]
    QueueTimeout {
        /// How long the statement waited.
        waited: Duration,
    },
    /// A new worker did not come up.
    #[error("a worker process did not start: {reason}")]
    Start {
        /// What it said.
        reason: String,
        /// Its process ended by itself; another attempt may go better.
        ended: bool,
    },
    /// The worker died, was killed, or closed the connection.
    #[error("the worker process that ran the statement was lost: {reason}")]
    Lost {
        /// What was seen of it.
        reason: String,
    },
    /// The statement failed in the worker.
    #[error("{}", .0.message)]
    Statement(Failure),
    /// The worker sent something that does not belong there.
    #[error("unexpected message from a worker: {0}")]
    Protocol(&'static str),
    /// The gateway is draining.
    #[error("the gateway is shutting down: connect again")]
    Draining,
}

impl Explain for PoolError {
    fn kind(&self) -> Kind {
        match self {
            Self::QueueFull { retry_after, .. } => Kind::ResourceExhausted(Some(*retry_after)),
            Self::QueueTimeout { waited } => Kind::ResourceExhausted(Some(*waited)),
            Self::Start { .. } | Self::Lost { .. } | Self::Draining => Kind::Unavailable,
            Self::Statement(failure) => failure_kind(failure.kind()),
            Self::Protocol(_) => Kind::Internal,
        }
    }
}

fn failure_kind(kind: failure::Kind) -> Kind {
    match kind {
        failure::Kind::Internal => Kind::Internal,
        failure::Kind::Invalid | failure::Kind::Parameters => Kind::InvalidArgument,
        failure::Kind::Refused => Kind::PermissionDenied,
        failure::Kind::Unsupported => Kind::Unimplemented,
        failure::Kind::NotFound => Kind::NotFound,
        failure::Kind::AlreadyExists => Kind::AlreadyExists,
        failure::Kind::Conflict => Kind::Aborted,
        failure::Kind::OutOfMemory => Kind::ResourceExhausted(None),
        failure::Kind::Interrupted => Kind::Cancelled,
        failure::Kind::Unreachable => Kind::Unavailable,
        failure::Kind::Unauthenticated => Kind::Unauthenticated,
        // Not UNAVAILABLE: clients run that again by themselves.
        failure::Kind::OutcomeUnknown | failure::Kind::Precondition => Kind::FailedPrecondition,
    }
}
