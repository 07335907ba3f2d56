//! Owns which statements are in work: how many each principal has, whether new ones are let in, and the word that cuts them when the
//! gateway drains. Refuses to know what they are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::QueryError;
use crate::counts::Counts;
use crate::names::{PrincipalId, PrincipalName};

/// When a principal with too many statements may try again: they end at a pace that nobody knows, and a second is a start.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The statements in work.
pub(super) struct Admission {
    max_per_principal: usize,
    /// No statement is let in any more.
    closed: CancellationToken,
    /// Those that are left end now.
    cut: CancellationToken,
    in_work: TaskTracker,
    /// Guards the numbers of statements; held for a map operation only.
    by_principal: Mutex<Counts<PrincipalId>>,
    next: AtomicU64,
}

/// A statement in work, until this is dropped.
pub(super) struct Admitted {
    /// Number in the life of the gateway.
    pub id: u64,
    /// Cancelled when the statement must end at once.
    pub cut: CancellationToken,
    principal: PrincipalId,
    admission: Arc<Admission>,
    _in_work: TaskTrackerToken,
}

impl Admission {
    /// Lets in so many statements of each principal at once.
    pub fn new(max_per_principal: usize) -> Arc<Self> {
        Arc::new(Self {
            max_per_principal,
            closed: CancellationToken::new(),
            cut: CancellationToken::new(),
            in_work: TaskTracker::new(),
            by_principal: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// Whether new statements are let in.
    ///
    /// # Errors
    /// When the gateway drains.
    pub fn check_open(&self) -> Result<(), QueryError> {
        if self.closed.is_cancelled() { Err(QueryError::Draining) } else { Ok(()) }
    }

    /// Lets a statement in. `name` is for the refusal only.
    ///
    /// # Errors
    /// When the gateway drains, or the principal has too many statements.
    pub fn enter(self: &Arc<Self>, principal: &PrincipalId, name: &PrincipalName) -> Result<Admitted, QueryError> {
        // Counted before the look, so that a drain which starts meanwhile waits for it.
        let in_work = self.in_work.token();
        self.check_open()?;
        let mut by_principal = self.by_principal();
        let own = by_principal.of(principal);
        if own >= self.max_per_principal {
            return Err(QueryError::TooManyStatements { principal: name.clone(), limit: own, retry_after: TRY_AGAIN });
        }
        by_principal.add(principal.clone());
        drop(by_principal);
        Ok(Admitted {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            cut: self.cut.clone(),
            principal: principal.clone(),
            admission: Arc::clone(self),
            _in_work: in_work,
        })
    }

    /// Lets no statement in from here on.
    pub fn close(&self) {
        self.closed.cancel();
        self.in_work.close();
    }

    /// Statements in work.
    pub fn in_work(&self) -> usize {
        self.in_work.len()
    }

    /// Tells those that are left to end.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits until none is left. Never ends before [`Self::close`].
    pub async fn empty(&self) {
        self.in_work.wait().await;
    }

    fn by_principal(&self) -> MutexGuard<'_, Counts<PrincipalId>> {
        self.by_principal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.by_principal().remove(&self.principal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_principal_s_statements_are_bounded_and_a_drain_waits_for_all() {
        let admission = Admission::new(2);
        // Two callers of one name.
        let (ana, bob, name) = (PrincipalId::from("1"), PrincipalId::from("2"), PrincipalName::from("ana"));
        let first = admission.enter(&ana, &name).unwrap();
        let second = admission.enter(&ana, &name).unwrap();
        assert!(matches!(admission.enter(&ana, &name), Err(QueryError::TooManyStatements { limit: 2, .. })));
        let other = admission.enter(&bob, &name).unwrap();
        assert_ne!(first.id, other.id);
        drop(first);
        drop(admission.enter(&ana, &name).unwrap());
        admission.close();
        assert!(matches!(admission.enter(&bob, &name), Err(QueryError::Draining)));
        assert_eq!(admission.in_work(), 2);
        let waits = Duration::from_millis(10);
        assert!(tokio::time::timeout(waits, admission.empty()).await.is_err());
        admission.cut();
        assert!(second.cut.is_cancelled());
        drop((second, other));
        admission.empty().await;
        assert!(admission.by_principal().is_empty());
    }
}
