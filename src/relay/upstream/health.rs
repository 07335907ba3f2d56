//! Owns whether one catalog answers, as all its callers together see it. Refuses to ask it: who has a call to make reports what came
//! of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::names::CatalogName;

/// How often a catalog that is out of reach is asked by reads that have an answer already.
const PROBE_PAUSE: Duration = Duration::from_millis(500);

/// How long a call waits for a catalog that has failed the call before, or a quarter of its time if that is longer.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// The health of one catalog.
pub(in crate::relay) struct Health {
    catalog: CatalogName,
    /// Looked at by every call; changed together with `trouble`.
    ails: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
}

struct Trouble {
    since: Instant,
    /// It has failed a call, and is not only late with one.
    hard: bool,
    probing: Probing,
    probed: Instant,
}

/// What somebody does who finds out whether the catalog is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probing {
    Nobody,
    /// The call is about to begin.
    Begins,
    Calls,
}

/// The right to find out whether a catalog is back. Dropping it gives it to the next who asks.
pub(in crate::relay) struct Probe(Arc<Health>);

impl Health {
    pub(in crate::relay) fn new(catalog: CatalogName) -> Arc<Self> {
        Arc::new(Self { catalog, ails: AtomicBool::new(false), trouble: Mutex::new(None) })
    }

    /// Whether the latest that was heard of it was that it does not answer.
    pub(in crate::relay) fn ails(&self) -> bool {
        self.ails.load(Ordering::Acquire)
    }

    /// It has answered, whatever it said.
    pub(in crate::relay) fn answered(&self) {
        if !self.ails() {
            return;
        }
        let mut trouble = self.trouble();
        self.ails.store(false, Ordering::Release);
        if let Some(trouble) = trouble.take() {
            let after_ms = trouble.since.elapsed().as_millis();
            tracing::info!(catalog = %self.catalog, after_ms, "catalog \"{}\" answers again", self.catalog);
        }
    }

    /// It has not answered.
    pub(in crate::relay) fn failed(&self, why: &dyn std::fmt::Display) {
        self.begin(true, why);
    }

    /// It takes longer than a read waits that has another way.
    pub(in crate::relay) fn is_late(&self, after: Duration) {
        self.begin(false, &format!("no answer within {} s", after.as_secs_f32()));
    }

    /// How long a call may take of `timeout`: all of it, unless the catalog is known to fail. Then one call at a time is given all of
    /// it, and holds the right to that; the others are given up soon, so that what they hold is free for other catalogs.
    pub(in crate::relay) fn patience(self: &Arc<Self>, timeout: Duration) -> (Duration, Option<Probe>) {
        if !self.ails() || !self.trouble().as_ref().is_some_and(|trouble| trouble.hard) {
            return (timeout, None);
        }
        if self.begins_call() {
            return (timeout, None);
        }
        match self.probe_under_way() {
            Some(probe) => (timeout, Some(probe)),
            None => (timeout.min(IMPATIENCE.max(timeout / 4)), None),
        }
    }

    /// Whether somebody has the right to a call that has not begun yet; the next one that begins is taken for it.
    fn begins_call(&self) -> bool {
        let mut trouble = self.trouble();
        let Some(trouble) = trouble.as_mut().filter(|trouble| trouble.probing == Probing::Begins) else { return false };
        trouble.probing = Probing::Calls;
        true
    }

    fn begin(&self, hard: bool, why: &dyn std::fmt::Display) {
        let mut trouble = self.trouble();
        if let Some(trouble) = trouble.as_mut() {
            trouble.hard |= hard;
        } else {
            let now = Instant::now();
            *trouble = Some(Trouble { since: now, hard, probing: Probing::Nobody, probed: now });
            self.ails.store(true, Ordering::Release);
            tracing::warn!(
                catalog = %self.catalog,
                reason = %why,
                "catalog \"{}\" is out of reach; tables that are known well enough are read as they were",
                self.catalog
            );
        }
    }

    /// The right to ask it in the background; one has it at a time, and not at once after the last one.
    pub(in crate::relay) fn probe(self: &Arc<Self>) -> Option<Probe> {
        self.probing(Probing::Begins)
    }

    /// The same for a call that has begun.
    pub(in crate::relay) fn probe_under_way(self: &Arc<Self>) -> Option<Probe> {
        self.probing(Probing::Calls)
    }

    fn probing(self: &Arc<Self>, how: Probing) -> Option<Probe> {
        let mut trouble = self.trouble();
        let trouble = trouble.as_mut()?;
        if trouble.probing != Probing::Nobody || trouble.probed.elapsed() < PROBE_PAUSE {
            return None;
        }
        (trouble.probing, trouble.probed) = (how, Instant::now());
        Some(Probe(Arc::clone(self)))
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(trouble) = self.0.trouble().as_mut() {
            (trouble.probing, trouble.probed) = (Probing::Nobody, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Duration = Duration::from_secs(20);

    /// A catalog that has failed a call, and not just now.
    fn failing() -> Arc<Health> {
        let health = Health::new(CatalogName::from("lake"));
        health.failed(&"connection refused");
        health.rest();
        health
    }

    impl Health {
        fn rest(&self) {
            self.trouble().as_mut().unwrap().probed -= PROBE_PAUSE;
        }
    }

    #[test]
    fn the_call_of_a_probe_has_the_whole_time_and_it_alone() {
        let health = failing();
        let probe = health.probe();
        assert!(probe.is_some() && health.probe().is_none());
        let (patience, other) = health.patience(ALL);
        assert_eq!((patience, other.is_none()), (ALL, true));
        assert_eq!(health.patience(ALL).0, ALL / 4);
        drop(probe);
        health.rest();
        let (patience, probe) = health.patience(ALL);
        assert_eq!((patience, probe.is_some()), (ALL, true));
        assert_eq!(health.patience(ALL).0, ALL / 4);
    }

    #[test]
    fn a_probe_of_a_call_that_has_begun_gives_no_other_call_the_whole_time() {
        let health = failing();
        let _probe = health.probe_under_way().unwrap();
        assert_eq!(health.patience(ALL).0, ALL / 4);
    }
}
