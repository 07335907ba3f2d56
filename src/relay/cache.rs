//! Owns the tables that the relay remembers, per credential: bounded by bytes, asked again when they are too old, loaded once
//! however many ask, and forgotten when a commit passes through. Refuses to know catalogs' protocols.
//!
//! A load that began before a commit ended may bring the state from before it. [`TableCache::forget`] therefore strikes the loads
//! under way from the list, and a load stores its result only while it or one that took its place is still on it; who asks afterwards
//! starts a new one.
//!
//! A table that is too old, but not older than the grace, is served as it is while its catalog is out of reach: at once where that is
//! known, else after `slow_after`. The asking goes on in the background, one at a time for a catalog that is known to be out of reach.
//!
//! A load is shared by all who want its answer, and dropped with the last of them; one of them going away means nothing to the others.
//!
//! A statement asks once: its tables are loaded ahead as old as they may be, and what is asked on its behalf afterwards, by its worker
//! above all, takes what is there. Entries are only ever replaced by newer ones, so that is never older than what the statement was
//! promised, however short `max_staleness` is.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
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

/// The lists of loads under way and of who holds what are swept of what is gone when they are longer than this, and again when they
/// are twice as long as the last sweep left them.
const SWEEP_ABOVE: usize = 4096;

/// How long after a table was loaded ahead of a statement what is asked on its behalf takes it as it is.
const AHEAD_FOR: Duration = Duration::from_secs(10);

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
    pub(super) step: Step,
    /// Never an old table in the place of a catalog out of reach.
    pub(super) strict: bool,
}

/// Where the statement stands that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It began then: what was asked for since is new enough, or what is at most `max_staleness` old.
    Begun(Instant),
    /// All its tables were loaded ahead.
    Ahead,
}

impl Step {
    /// It begins now.
    pub(super) fn begins() -> Self {
        Self::Begun(Instant::now())
    }
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
    /// When the last statement began that it was loaded ahead of, in microseconds since the cache was made; 0 for none. Shared with
    /// the entries that take its place.
    ahead_of: Arc<AtomicU64>,
}

/// A load under way.
struct Flight {
    number: u64,
    /// Loads from this number on may be stored: the first since the table was last forgotten, and those that took its place because
    /// it had become too old to be joined.
    valid_from: u64,
    begun: Instant,
    /// Weak: a load that nobody waits for any more is not polled either, and must not be joined later.
    load: WeakShared<BoxFuture<'static, Outcome>>,
}

#[derive(Default)]
struct Flights {
    next: u64,
    under_way: HashMap<Key, Flight>,
    under_way_sweep: Sweep,
    /// Who has an entry for a table, so that all of them can be forgotten.
    holders: HashMap<TableRef, HashSet<(CredentialId, Purpose)>>,
    /// Of all tables.
    held: usize,
    held_sweep: Sweep,
}

/// When a list is swept next: seldom enough for a sweep to cost a constant share of what came since the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sweep {
    left: usize,
}

impl Sweep {
    fn is_due(self, length: usize) -> bool {
        length > SWEEP_ABOVE.max(2 * self.left)
    }
}

/// The cache.
pub(super) struct TableCache {
    made: Instant,
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
        Self { made: Instant::now(), entries, flights: Mutex::default(), max_staleness, negative_ttl, stale_grace, slow_after }
    }

    /// The table as new as the step asks for, or at most `stale_grace` old while its catalog is out of reach.
    pub(super) async fn get(
        self: &Arc<Self>,
        wanted: Wanted<'_>,
        upstream: &Arc<dyn Upstream>,
        confinement: &Arc<Confinement>,
    ) -> Outcome {
        let key = wanted.key();
        let known = self.entries.get(&key);
        if let Some(entry) = known.as_ref().filter(|entry| self.is_new_enough(entry, wanted.step)) {
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
                        let probe = health.probe_under_way();
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
        let entry = self.entries.get(&Key { viewer: viewer.clone(), purpose, table: table.clone() });
        entry.filter(|entry| self.is_fresh(entry)).and_then(|entry| entry.outcome.ok())
    }

    /// Notes that a statement which began then has this table loaded ahead.
    pub(super) fn is_ahead_of(&self, begun: Instant, viewer: &CredentialId, table: &TableRef, purpose: Purpose) {
        if let Some(entry) = self.entries.get(&Key { viewer: viewer.clone(), purpose, table: table.clone() }) {
            entry.ahead_of.fetch_max(self.micros(begun), Ordering::AcqRel);
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.made)).max(1)
    }

    /// What is known of the table, however old, without asking anybody.
    pub(super) fn peek(&self, viewer: &CredentialId, table: &TableRef) -> Option<Arc<Table>> {
        let of = |purpose| self.entries.get(&Key { viewer: viewer.clone(), purpose, table: table.clone() });
        [Purpose::Data, Purpose::Columns].into_iter().find_map(|purpose| of(purpose)?.outcome.ok())
    }

    fn is_fresh(&self, entry: &Entry) -> bool {
        let fresh_for = if entry.outcome.is_ok() { self.max_staleness } else { self.negative_ttl.min(self.max_staleness) };
        entry.as_of.elapsed() < fresh_for
    }

    fn is_new_enough(&self, entry: &Entry, step: Step) -> bool {
        let began = match step {
            Step::Begun(began) => return self.is_fresh(entry) || entry.as_of >= began,
            Step::Ahead => entry.ahead_of.load(Ordering::Acquire),
        };
        let is_ahead = began > 0 && self.micros(Instant::now()).saturating_sub(began) < micros(AHEAD_FOR);
        self.is_fresh(entry) || (is_ahead && entry.outcome.is_ok())
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
        let holders = flights.holders.remove(table).unwrap_or_default();
        flights.held -= holders.len();
        for (viewer, purpose) in holders {
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
        if flights.under_way_sweep.is_due(flights.under_way.len()) {
            flights.under_way.retain(|_, flight| flight.load.upgrade().is_some());
            flights.under_way_sweep.left = flights.under_way.len();
        }
        let number = flights.next;
        flights.next += 1;
        let valid_from = flights.under_way.get(&key).map_or(number, |replaced| replaced.valid_from);
        let begun = Instant::now();
        let (cache, upstream, confinement) = (self.clone(), upstream.clone(), confinement.clone());
        let of = key.clone();
        let load = async move {
            let outcome = fetch(&of, known, &*upstream, confinement).await;
            cache.settle(&of, number, outcome.clone(), begun);
            outcome
        }
        .boxed()
        .shared();
        if let Some(weak) = load.downgrade() {
            flights.under_way.insert(key, Flight { number, valid_from, begun, load: weak });
        }
        load
    }

    /// Takes a finished load off the list, and remembers what it brought if nothing newer is known and nobody has made it void.
    fn settle(&self, key: &Key, number: u64, outcome: Outcome, as_of: Instant) {
        let mut flights = self.flights();
        let Some(flight) = flights.under_way.get(key).filter(|flight| number >= flight.valid_from) else { return };
        if flight.number == number {
            flights.under_way.remove(key);
        }
        let known = self.entries.get(key);
        if known.as_ref().is_some_and(|known| known.as_of > as_of) {
            return;
        }
        match &outcome {
            Ok(_) | Err(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace { .. } | CatalogError::Forbidden { .. }) => {
            }
            // Nothing was heard of the table: what is known stays as old as it is.
            Err(error) if error.is_outage() => return,
            Err(_) => return self.entries.invalidate(key),
        }
        if flights.held_sweep.is_due(flights.held) {
            self.sweep(&mut flights);
        }
        let is_new = flights.holders.entry(key.table.clone()).or_default().insert((key.viewer.clone(), key.purpose));
        flights.held += usize::from(is_new);
        let ahead_of = known.map(|known| known.ahead_of).unwrap_or_default();
        self.entries.insert(key.clone(), Entry { outcome, as_of, ahead_of });
    }

    /// Takes tables off the list of holders that the cache has dropped for want of room.
    fn sweep(&self, flights: &mut Flights) {
        flights.holders.retain(|table, holders| {
            holders.retain(|(viewer, purpose)| {
                self.entries.contains_key(&Key { viewer: viewer.clone(), purpose: *purpose, table: table.clone() })
            });
            !holders.is_empty()
        });
        flights.held = flights.holders.values().map(HashSet::len).sum();
        flights.held_sweep.left = flights.held;
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{CatalogName, Namespace};

    const MANY: usize = 5 * SWEEP_ABOVE;

    fn cache(cache_bytes: u64) -> TableCache {
        TableCache::new(&Config { cache_bytes, ..Config::default() })
    }

    fn table(name: usize) -> TableRef {
        let (catalog, namespace) = (CatalogName::from("lake"), Namespace::from_schema("gold"));
        TableRef { catalog, namespace, table: name.to_string() }
    }

    impl TableCache {
        /// A load that ends at once, and found no table.
        fn heard(&self, viewer: usize, table: TableRef) -> Sweep {
            let outcome: Outcome = Err(CatalogError::NoSuchTable(table.clone()));
            let key = Key { viewer: CredentialId::from(viewer.to_string().as_str()), purpose: Purpose::Data, table };
            let load = futures::future::ready(outcome.clone()).boxed().shared();
            let mut flights = self.flights();
            let (number, begun) = (flights.next, Instant::now());
            flights.next += 1;
            flights.under_way.insert(key.clone(), Flight { number, valid_from: number, begun, load: load.downgrade().unwrap() });
            drop(flights);
            self.settle(&key, number, outcome, begun);
            self.flights().held_sweep
        }

        fn held(&self) -> usize {
            let flights = self.flights();
            let held = flights.holders.values().map(HashSet::len).sum();
            assert_eq!(flights.held, held);
            held
        }
    }

    #[test]
    fn a_list_of_many_tables_is_swept_seldom() {
        let cache = cache(1 << 30);
        let mut sweeps: Vec<Sweep> = (0..MANY).map(|name| cache.heard(0, table(name))).collect();
        sweeps.dedup();
        assert_eq!(sweeps.len(), 4, "none, then after 4096, 8192 and 16384: {sweeps:?}");
        assert_eq!(cache.held(), MANY);
        cache.forget(&table(7));
        assert_eq!(cache.held(), MANY - 1);
    }

    #[test]
    fn the_list_of_who_holds_a_table_is_not_longer_than_the_cache_is_large() {
        let cache = cache(512 * 100);
        for viewer in 0..MANY {
            cache.heard(viewer, table(0));
        }
        assert!(cache.held() <= SWEEP_ABOVE + 1, "{}", cache.held());
    }
}
