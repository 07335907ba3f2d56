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
    probing: bool,
    probed: Instant,
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
        match self.probe() {
            Some(probe) => (timeout, Some(probe)),
            None => (timeout.min(IMPATIENCE.max(timeout / 4)), None),
        }
    }

    fn begin(&self, hard: bool, why: &dyn std::fmt::Display) {
        let mut trouble = self.trouble();
        if let Some(trouble) = trouble.as_mut() {
            trouble.hard |= hard;
        } else {
            let now = Instant::now();
            *trouble = Some(Trouble { since: now, hard, probing: false, probed: now });
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
        let mut trouble = self.trouble();
        let trouble = trouble.as_mut()?;
        if trouble.probing || trouble.probed.elapsed() < PROBE_PAUSE {
            return None;
        }
        (trouble.probing, trouble.probed) = (true, Instant::now());
        Some(Probe(Arc::clone(self)))
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(trouble) = self.0.trouble().as_mut() {
            (trouble.probing, trouble.probed) = (false, Instant::now());
        }
    }
}
