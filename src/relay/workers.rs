//! Owns which workers the relay knows, and what each may do just now. Refuses to know what a request wants.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::lease::{LeaseTerms, WorkerGrant};
use crate::names::{CatalogName, WorkerToken};

/// How long after it was last used a catalog stays open to a worker that many statements share: longer than a scan may pause.
const OPEN_FOR: Duration = Duration::from_secs(3600);

/// The known workers.
#[derive(Default)]
pub(super) struct Workers {
    /// Guards only this map; never held over anything that waits.
    known: Mutex<HashMap<WorkerToken, Worker>>,
    leases: AtomicU64,
}

struct Worker {
    grant: Arc<WorkerGrant>,
    lease: Option<Lease>,
    /// The catalogs of which it was given a table, and when each was last used.
    open: HashMap<CatalogName, Instant>,
    /// It was leased to one session, whose transaction may rest for as long as it likes.
    is_exclusive: bool,
}

/// One statement's terms. Its number tells it from the worker's next lease.
#[derive(Clone, Copy)]
pub(super) struct Lease {
    number: u64,
    /// When it was granted: before the statement began.
    pub(super) granted: Instant,
    /// The same in milliseconds since 1970.
    pub(super) granted_ms: i64,
    /// What the statement may do.
    pub(super) terms: LeaseTerms,
}

/// A request's worker, as it was when the request came in.
#[derive(Clone)]
pub(super) struct Visitor {
    token: WorkerToken,
    /// What the worker is.
    pub(super) grant: Arc<WorkerGrant>,
    /// What its statement may do.
    pub(super) lease: Option<Lease>,
}

impl Visitor {
    /// The terms of its lease, or those of a reader.
    pub(super) fn terms(&self) -> LeaseTerms {
        self.lease.map(|lease| lease.terms).unwrap_or_default()
    }
}

impl Workers {
    pub(super) fn admit(&self, grant: WorkerGrant) -> WorkerToken {
        let secret: [u8; 32] = rand::random();
        let token = WorkerToken::from(secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        self.known()
            .insert(token.clone(), Worker { grant: Arc::new(grant), lease: None, open: HashMap::new(), is_exclusive: false });
        token
    }

    pub(super) fn grant(&self, token: &WorkerToken, terms: LeaseTerms) {
        let number = self.leases.fetch_add(1, Ordering::Relaxed);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let granted_ms = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
        if let Some(worker) = self.known().get_mut(token) {
            worker.lease = Some(Lease { number, granted: Instant::now(), granted_ms, terms });
            worker.is_exclusive = true;
        }
    }

    pub(super) fn clear(&self, token: &WorkerToken) {
        if let Some(worker) = self.known().get_mut(token) {
            worker.lease = None;
        }
    }

    pub(super) fn expel(&self, token: &WorkerToken) {
        self.known().remove(token);
    }

    /// Who it is that shows this token.
    pub(super) fn visit(&self, token: &str) -> Option<Visitor> {
        let token = WorkerToken::from(token);
        let known = self.known();
        let worker = known.get(&token)?;
        Some(Visitor { grant: worker.grant.clone(), lease: worker.lease, token })
    }

    /// A catalog has given the worker a table, or one of its files: the worker may have more of them.
    pub(super) fn opens(&self, visitor: &Visitor, catalog: &CatalogName) {
        if let Some(worker) = self.known().get_mut(&visitor.token) {
            worker.open.insert(catalog.clone(), Instant::now());
        }
    }

    /// Whether the worker has a table of this catalog: only then may it be given files by that catalog's keys. What a table of another
    /// catalog points at is no reason. One that can reach a single catalog has no other.
    pub(super) fn has_open(&self, visitor: &Visitor, catalog: &CatalogName) -> bool {
        if visitor.grant.catalogs.len() == 1 {
            return true;
        }
        let known = self.known();
        let Some(worker) = known.get(&visitor.token) else { return false };
        worker.open.get(catalog).is_some_and(|used| worker.is_exclusive || used.elapsed() < OPEN_FOR)
    }

    /// Whether the request's own lease is still the worker's, and lets it write. A commit asks just before each sending, so that one
    /// which waited cannot go out after its statement has ended.
    pub(super) fn may_write(&self, visitor: &Visitor) -> bool {
        let number = |lease: &Option<Lease>| lease.filter(|lease| lease.terms.writes).map(|lease| lease.number);
        let own = number(&visitor.lease);
        own.is_some() && self.known().get(&visitor.token).is_some_and(|worker| number(&worker.lease) == own)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<WorkerToken, Worker>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
