//! Owns what a worker may do at the relay: a token for its life, and lease terms for each statement. Refuses to know how workers
//! are started or what they run.
//!
//! The relay tells workers apart only by their token, so whatever it treats differently is a property of the lease, set before a
//! statement starts and cleared when the worker says that it has ended.

use crate::auth::credential::Credential;
use crate::names::{CatalogName, WorkerToken};

/// What a worker is for as long as it lives.
#[derive(Clone, Debug)]
pub struct WorkerGrant {
    /// The upstream credential that its requests are made with.
    pub credential: Credential,
    /// The catalogs that it may reach.
    pub catalogs: Vec<CatalogName>,
}

/// What one statement may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Whole metadata (time travel, writes) instead of trimmed and backdated.
    pub whole_metadata: bool,
    /// It may commit, create, drop and rename.
    pub writes: bool,
    /// Its commit is an INSERT that read no lakehouse table, so it may be rebased on a newer head.
    pub blind_insert: bool,
}

/// The pool's side of the relay: it registers workers and their leases. Implemented by the relay.
pub trait Leases: Send + Sync + 'static {
    /// Lets a new worker in; the token is what it attaches with. It may read trimmed metadata without any lease.
    fn admit(&self, grant: WorkerGrant) -> WorkerToken;

    /// Sets the terms for the statement that starts next on an exclusive worker.
    fn grant(&self, worker: &WorkerToken, terms: LeaseTerms);

    /// The statement has ended: back to trimmed reads.
    fn clear(&self, worker: &WorkerToken);

    /// The worker is gone: its token is worth nothing from here on, and a request under way with it can no longer commit.
    fn expel(&self, worker: &WorkerToken);

    /// The catalogs that this credential opens, in order.
    fn catalogs_of(&self, credential: &Credential) -> Vec<CatalogName>;

    /// Base address for `ATTACH … (ENDPOINT …)`, `http://127.0.0.1:<port>`.
    fn endpoint(&self) -> String;

    /// Where workers read and write files of object stores, `127.0.0.1:<port>`; they show their token there too.
    fn storage_endpoint(&self) -> String;

    /// Storage prefixes that workers of these catalogs may touch.
    fn allowed_locations(&self, catalogs: &[CatalogName]) -> Vec<String>;
}
