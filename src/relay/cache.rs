//! Owns the tables that the relay remembers, per credential: bounded by bytes, asked again when they are too old, loaded once
//! however many ask, and forgotten when a commit passes through. Refuses to know catalogs' protocols.
//!
//! A load that began before a commit ended may bring the state from before it. [`TableCache::forget`] therefore strikes the loads
//! under way from the list, and a load stores its result only while it is still on it; who asks afterwards starts a new one.
//!
//! A table that is too old, but not older than the grace, is served as it is while its catalog is out of reach: at once where that is
//! known, else after `slow_after`. The asking goes on in the background, one at a time for a catalog that is known to be out of reach.
//!
//! A load is shared by all who want its answer, and dropped with the last of them; one of them going away means nothing to the others.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::config::Config;
use super::confine::Confinement;
use super::error::CatalogError;
use super::table::Table;
use super::upstream::{Answer, Purpose, Upstream};
use crate::names::{CredentialId, TableRef};

/// The lists of loads under way and of who holds what are swept of what is gone when they are longer than this.
const SWEEP_ABOVE: usize = 4096;

type Outcome = Result<Arc<Table>, CatalogError>;
type Load = Shared<BoxFuture<'static, Outcome>>;

/// Which table, seen by whom, and what for: the right to the one purpose says nothing of the right to the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    viewer: CredentialId,
    purpose: Purpose,
    table: TableRef,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) viewer: &'a CredentialId,
    pub(super) table: &'a TableRef,
    pub(super) purpose: Purpose,
    /// Never an old table in the place of a catalog out of reach.
    pub(super) strict: bool,
}

impl Wanted<'_> {
    fn key(self) -> Key {
        Key { viewer: self.viewer.clone(), purpose: self.purpose, table: self.table.clone() }
    }
}

/// What was last heard of a table.
#[derive(Clone)]
struct Entry {
    outcome: Outcome,
    /// When the call that brought it began.
    as_of: Instant,
}

/// A load under way.
struct Flight {
    number: u64,
    begun: Instant,
    /// Weak: a load that nobody waits for any more is not polled either, and must not be joined later.
    load: WeakShared<BoxFuture<'static, Outcome>>,
}

#[derive(Default)]
struct Flights {
    next: u64,
    under_way: HashMap<Key, Flight>,
    /// Who has an entry for a table, so that all of them can be forgotten.
    holders: HashMap<TableRef, HashSet<(CredentialId, Purpose)>>,
}

/// The cache.
pub(super) struct TableCache {
    entries: moka::sync::Cache<Key, Entry>,
    /// Guards the loads under way together with storing; held only for map operations.
    flights: Mutex<Flights>,
    max_staleness: Duration,
    negative_ttl: Duration,
    stale_grace: Duration,
    slow_after: Duration,
}

impl TableCache {
    pub(super) fn new(config: &Config) -> Self {
        let weight = |_: &Key, entry: &Entry| {
            u32::try_from(entry.outcome.as_ref().map_or(512, |table| table.weight())).unwrap_or(u32::MAX)
        };
        let entries = moka::sync::Cache::builder().max_capacity(config.cache_bytes).weigher(weight).build();
        let &Config { max_staleness, negative_ttl, stale_grace, slow_after, .. } = config;
        Self { entries, flights: Mutex::default(), max_staleness, negative_ttl, stale_grace, slow_after }
    }

    /// The table, at most `max_staleness` old, or `stale_grace` while its catalog is out of reach.
    pub(super) async fn get(
        self: &Arc<Self>,
        wanted: Wanted<'_>,
        upstream: &Arc<dyn Upstream>,
        confinement: &Arc<Confinement>,
    ) -> Outcome {
        let key = wanted.key();
        let known = self.entries.get(&key);
        if let Some(entry) = known.as_ref().filter(|entry| self.is_fresh(entry)) {
            return entry.outcome.clone();
        }
        let spare = known.as_ref().filter(|entry| !wanted.strict && entry.as_of.elapsed() < self.stale_grace);
        let spare = spare.and_then(|entry| entry.outcome.clone().ok());
        let known = known.and_then(|entry| entry.outcome.ok());
        let load = || self.join(key, known, upstream, confinement);
        match (spare, upstream.health()) {
            (Some(spare), Some(health)) if health.ails() => {
                if let Some(probe) = health.probe() {
                    let load = load();
                    tokio::spawn(async move {
                        let _outcome = load.await;
                        drop(probe);
                    });
                }
                Ok(spare)
            }
            (Some(spare), Some(health)) => {
                let load = load();
                match tokio::time::timeout(self.slow_after, load.clone()).await {
                    Ok(Err(error)) if error.is_outage() => Ok(spare),
                    Ok(outcome) => outcome,
                    Err(_) => {
                        health.is_late(self.slow_after);
                        let probe = health.probe();
                        tokio::spawn(async move {
                            let _outcome = load.await;
                            drop(probe);
                        });
                        Ok(spare)
                    }
                }
            }
            _ => load().await,
        }
    }

    /// The table, if it is known and not too old; nobody is asked.
    pub(super) fn fresh(&self, viewer: &CredentialId, table: &TableRef, purpose: Purpose) -> Option<Arc<Table>> {
        let entry = self.entries.get(&Wanted { viewer, table, purpose, strict: true }.key());
        entry.filter(|entry| self.is_fresh(entry)).and_then(|entry| entry.outcome.ok())
    }

    /// What is known of the table, however old, without asking anybody.
    pub(super) fn peek(&self, viewer: &CredentialId, table: &TableRef) -> Option<Arc<Table>> {
        let of = |purpose| self.entries.get(&Wanted { viewer, table, purpose, strict: true }.key());
        [Purpose::Data, Purpose::Columns].into_iter().find_map(|purpose| of(purpose)?.outcome.ok())
    }

    fn is_fresh(&self, entry: &Entry) -> bool {
        let fresh_for = if entry.outcome.is_ok() { self.max_staleness } else { self.negative_ttl };
        entry.as_of.elapsed() < fresh_for
    }

    /// How many bytes the remembered tables take, once the cache has done its housekeeping.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.weighted_size()
    }

    /// Forgets a table for everybody, and keeps loads that are under way from being remembered.
    pub(super) fn forget(&self, table: &TableRef) {
        let mut flights = self.flights();
        flights.under_way.retain(|key, _| key.table != *table);
        for (viewer, purpose) in flights.holders.remove(table).unwrap_or_default() {
            self.entries.invalidate(&Key { viewer, purpose, table: table.clone() });
        }
    }

    /// Joins the load under way, or starts one.
    fn join(
        self: &Arc<Self>,
        key: Key,
        known: Option<Arc<Table>>,
        upstream: &Arc<dyn Upstream>,
        confinement: &Arc<Confinement>,
    ) -> Load {
        let mut flights = self.flights();
        if let Some(flight) = flights.under_way.get(&key)
            && flight.begun.elapsed() <= self.max_staleness
            && let Some(load) = flight.load.upgrade()
        {
            return load;
        }
        if flights.under_way.len() > SWEEP_ABOVE {
            flights.under_way.retain(|_, flight| flight.load.upgrade().is_some());
        }
        let number = flights.next;
        flights.next += 1;
        let begun = Instant::now();
        let (cache, upstream, confinement) = (self.clone(), upstream.clone(), confinement.clone());
        let of = key.clone();
        let load = async move {
            let outcome = fetch(&of, known, &*upstream, confinement).await;
            cache.settle(&of, number, Entry { outcome: outcome.clone(), as_of: begun });
            outcome
        }
        .boxed()
        .shared();
        if let Some(weak) = load.downgrade() {
            flights.under_way.insert(key, Flight { number, begun, load: weak });
        }
        load
    }

    /// Takes a finished load off the list, and remembers what it brought if it was still on it.
    fn settle(&self, key: &Key, number: u64, entry: Entry) {
        let mut flights = self.flights();
        if flights.under_way.get(key).is_none_or(|flight| flight.number != number) {
            return;
        }
        flights.under_way.remove(key);
        match &entry.outcome {
            Ok(_) | Err(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace { .. } | CatalogError::Forbidden { .. }) => {
            }
            // Nothing was heard of the table: what is known stays as old as it is.
            Err(error) if error.is_outage() => return,
            Err(_) => return self.entries.invalidate(key),
        }
        if flights.holders.len() > SWEEP_ABOVE {
            self.sweep(&mut flights);
        }
        flights.holders.entry(key.table.clone()).or_default().insert((key.viewer.clone(), key.purpose));
        self.entries.insert(key.clone(), entry);
    }

    /// Takes tables off the list of holders that the cache has dropped for want of room.
    fn sweep(&self, flights: &mut Flights) {
        flights.holders.retain(|table, holders| {
            holders.retain(|(viewer, purpose)| {
                self.entries.contains_key(&Key { viewer: viewer.clone(), purpose: *purpose, table: table.clone() })
            });
            !holders.is_empty()
        });
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fetch(of: &Key, known: Option<Arc<Table>>, upstream: &dyn Upstream, confinement: Arc<Confinement>) -> Outcome {
    let table = &of.table;
    let etag = known.as_ref().and_then(|known| known.etag.clone());
    match (upstream.load_table(table, etag.as_deref(), of.purpose).await?, known) {
        (Answer::Fresh { body, etag }, _) => Ok(Arc::new(Table::read(table.clone(), body, etag, confinement).await?)),
        (Answer::NotModified, Some(known)) => Ok(known),
        (Answer::NotModified, None) => Err(CatalogError::BadAnswer {
            catalog: table.catalog.clone(),
            reason: format!("it says that table \"{table}\" has not changed, although nothing was known of it"),
        }),
    }
}
