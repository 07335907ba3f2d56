//! Owns a checkout of one worker for one statement at a time. Dropped in the middle of a statement it cancels it: whoever holds a
//! lease need not remember to. Refuses to know what the statement means.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{self, Replies, Reply, Requests};
use super::error::PoolError;
use super::worker::{Retired, Worker};
use super::{Inner, Slot, WorkerClass};
use crate::relay::lease::LeaseTerms;
use crate::wire::FrameKind;
use crate::wire::proto::{Failure, Proceed, Request, failure};

/// Where the lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was asked, or the last frame of the answer was read.
    Free,
    /// A statement is on its way to the worker, which knows nothing of it until it has all of it.
    Asking(u64),
    /// A statement is with the worker.
    Asked(u64),
    /// The connection broke: neither it nor the statement can be trusted.
    Broken(u64),
    /// The statement outlived its time while nobody looked, and the slot is gone.
    Released,
}

/// A slot on a worker, with a data connection of its own.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Inner>,
    worker: Arc<Worker>,
    connection: Option<(Requests, Replies)>,
    phase: Phase,
}

impl Lease {
    /// Takes over a slot. `None` when the worker takes no connection any more; the slot is given back.
    pub(super) async fn open(pool: Arc<Inner>, slot: Slot) -> Option<Self> {
        let worker = slot.into_worker()?;
        let mut lease = Self { pool, worker, connection: None, phase: Phase::Free };
        lease.connection = match lease.worker.take_connection() {
            Some(connection) => Some(connection),
            None => match connection::open(&lease.worker.socket).await {
                Ok(connection) => Some(connection),
                Err(error) => {
                    tracing::debug!(worker = lease.worker.id, %error, "a worker took no connection");
                    lease.worker.doubt();
                    return None;
                }
            },
        };
        Some(lease)
    }

    /// What its worker is for.
    #[must_use]
    pub fn class(&self) -> WorkerClass {
        self.worker.key.class
    }

    /// The worker's number, for the log.
    #[must_use]
    pub fn worker_id(&self) -> u64 {
        self.worker.id
    }

    /// Sends a statement; its id is set here. On an exclusive worker the terms hold until it has ended. At `expires` it is cancelled
    /// even if nobody reads its answer.
    ///
    /// # Errors
    /// When the worker is gone.
    pub async fn ask(&mut self, mut request: Request, terms: LeaseTerms, expires: Instant) -> Result<(), PoolError> {
        let id = self.pool.next_number();
        request.statement_id = id;
        if self.worker.key.class == WorkerClass::Exclusive {
            self.pool.leases.grant(&self.worker.token, terms);
        }
        self.worker.began(id, expires);
        self.phase = Phase::Asking(id);
        let sent = self.requests()?.message(FrameKind::Request, &request).await;
        self.checked(sent)?;
        self.phase = Phase::Asked(id);
        Ok(())
    }

    /// Lets a statement that waits go on.
    ///
    /// # Errors
    /// When the worker is gone.
    pub async fn proceed(&mut self, proceed: &Proceed) -> Result<(), PoolError> {
        let sent = self.requests()?.message(FrameKind::Proceed, proceed).await;
        self.checked(sent)
    }

    /// The next answer. After `Described`, `Done`, `Failed` or a `Judged` that hands back, the lease is free for another statement.
    ///
    /// # Errors
    /// When the worker is gone; a statement's own failure comes as [`PoolError::Statement`].
    pub async fn next(&mut self) -> Result<Reply, PoolError> {
        let Some((_, replies)) = self.connection.as_mut() else {
            return Err(PoolError::Protocol("a lease without a connection"));
        };
        let reply = replies.next().await;
        match self.checked(reply)? {
            Reply::Failed(failure) => Err(self.failed(failure)),
            reply @ (Reply::Described(_) | Reply::Done(_)) => {
                self.free();
                Ok(reply)
            }
            Reply::Judged(judged) => {
                if judged.handed_back {
                    self.free();
                }
                Ok(Reply::Judged(judged))
            }
            reply => Ok(reply),
        }
    }

    /// The two halves, for a statement that reads the client's batches while it may fail at any time.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn halves(&mut self) -> Result<(&mut Requests, &mut Replies), PoolError> {
        match self.connection.as_mut() {
            Some((requests, replies)) => Ok((requests, replies)),
            None => Err(PoolError::Protocol("a lease without a connection")),
        }
    }

    /// Settles an answer that was read from [`Self::halves`].
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn settle(&mut self, reply: io::Result<Reply>, input_sent: bool) -> Result<Reply, PoolError> {
        let reply = self.checked(reply)?;
        // A statement that ended before its input did leaves batches in the socket: the connection cannot be used again.
        if !input_sent {
            self.connection = None;
        }
        match reply {
            Reply::Failed(failure) => Err(self.failed(failure)),
            reply => {
                self.free();
                Ok(reply)
            }
        }
    }

    /// A failure that ends the instance ends the worker; one that another statement's failure brought about is a loss.
    fn failed(&mut self, failure: Failure) -> PoolError {
        self.free();
        if failure.fatal {
            self.worker.retire(Retired::Fatal);
        }
        if failure.fatal && failure.kind() == failure::Kind::Unreachable {
            return PoolError::Lost { reason: failure.message };
        }
        PoolError::Statement(failure)
    }

    fn requests(&mut self) -> Result<&mut Requests, PoolError> {
        match self.connection.as_mut() {
            Some((requests, _)) => Ok(requests),
            None => Err(PoolError::Protocol("a lease without a connection")),
        }
    }

    fn free(&mut self) {
        let holds_slot = match self.phase {
            Phase::Asking(id) | Phase::Asked(id) | Phase::Broken(id) => self.worker.forget_statement(id),
            Phase::Free => true,
            Phase::Released => false,
        };
        self.phase = if holds_slot { Phase::Free } else { Phase::Released };
    }

    fn checked<T>(&mut self, result: io::Result<T>) -> Result<T, PoolError> {
        result.map_err(|error| {
            match self.phase {
                Phase::Asked(id) => self.phase = Phase::Broken(id),
                // Half a request is none.
                Phase::Asking(_) => self.free(),
                _ => {}
            }
            self.connection = None;
            self.worker.doubt();
            PoolError::Lost { reason: error.to_string() }
        })
    }
}

/// Dropped between statements the slot is free again; dropped within one, the statement is cancelled first.
impl Drop for Lease {
    fn drop(&mut self) {
        match self.phase {
            Phase::Free => self.worker.give_back(self.connection.take()),
            Phase::Released => {}
            // The worker gets half a request and the end of the connection, and will never say that this statement has ended.
            Phase::Asking(_) => {
                self.connection = None;
                self.free();
                if self.phase == Phase::Free {
                    self.worker.give_back(None);
                }
            }
            Phase::Asked(id) | Phase::Broken(id) => {
                // Closed before the cancel is sent: a worker that writes rows then stops at its next write.
                self.connection = None;
                self.worker.abandon(id, self.pool.config.cancel_grace);
            }
        }
    }
}
