//! Owns how answers of catalogs are remembered, per credential: bounded by bytes, asked for again when they are too old, asked for once
//! however many want them, and forgotten when a change passes through. Refuses to know what they are answers to, and catalogs' protocols.
//!
//! A load that began before a change ended may bring the state from before it. [`Remembered::forget`] therefore strikes the loads
//! under way from the list, and a load stores its result only while it or one that took its place is still on it; who asks afterwards
//! starts a new one.
//!
//! An answer that is too old, but not older than the grace, is given as it is while its catalog is out of reach: at once where that is
//! known, else after `slow_after`. The asking goes on in the background, one at a time for a catalog that is known to be out of reach.
//!
//! A load is shared by all who want its answer, and dropped with the last of them; one of them going away means nothing to the others.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;

use crate::names::CredentialId;
use crate::relay::config::Config;
use crate::relay::error::CatalogError;
use crate::relay::upstream::Purpose;
use crate::relay::upstream::health::Health;

/// The lists of loads under way and of who holds what are swept of what is gone when they are longer than this, and again when they
/// are twice as long as the last sweep left them.
const SWEEP_ABOVE: usize = 4096;

/// What an answer takes besides its own bytes, about.
const OVERHEAD: usize = 512;

/// What comes of asking.
pub(in crate::relay) type Outcome<V> = Result<Arc<V>, CatalogError>;
type Load<V> = Shared<BoxFuture<'static, Outcome<V>>>;

/// What a question is about: what a change makes void for everybody.
pub(in crate::relay) trait Subject: Clone + Eq + Hash + Send + Sync + 'static {}

impl<S: Clone + Eq + Hash + Send + Sync + 'static> Subject for S {}

/// What is remembered.
pub(in crate::relay) trait Value: Send + Sync + 'static {
    /// About how many bytes it takes.
    fn weight(&self) -> usize;
}

/// A question: about what, seen by whom, and what for. The right to the one purpose says nothing of the right to the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::relay) struct Key<S> {
    pub(in crate::relay) viewer: CredentialId,
    pub(in crate::relay) purpose: Purpose,
    pub(in crate::relay) of: S,
}

/// How old an answer may be, and how it is asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::relay) struct Terms<'a> {
    /// It is taken without asking up to this age.
    pub(in crate::relay) fresh_for: Duration,
    /// And at any age if it was asked for since then.
    pub(in crate::relay) since: Option<Instant>,
    /// Never an older one in the place of a catalog out of reach.
    pub(in crate::relay) strict: bool,
    /// It may take several calls: that it takes long says nothing of the catalog.
    pub(in crate::relay) is_long: bool,
    /// Of these, one is held while it is asked for. To wait for it is not the catalog's fault either.
    pub(in crate::relay) turns: Option<&'a Semaphore>,
}

/// What was last heard.
pub(in crate::relay) struct Entry<V: ?Sized> {
    pub(in crate::relay) outcome: Outcome<V>,
    /// When the call that brought it began.
    pub(in crate::relay) as_of: Instant,
}

impl<V: ?Sized> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self { outcome: self.outcome.clone(), as_of: self.as_of }
    }
}

/// A load under way.
struct Flight<V: ?Sized> {
    number: u64,
    /// Loads from this number on may be stored: the first since its subject was last forgotten, and those that took its place because
    /// it had become too old to be joined.
    valid_from: u64,
    begun: Instant,
    /// Weak: a load that nobody waits for any more is not polled either, and must not be joined later.
    load: WeakShared<BoxFuture<'static, Outcome<V>>>,
}

struct Flights<S, V: ?Sized> {
    next: u64,
    under_way: HashMap<Key<S>, Flight<V>>,
    under_way_sweep: Sweep,
    /// Who has an entry for a subject, so that all of them can be forgotten.
    holders: HashMap<S, HashSet<(CredentialId, Purpose)>>,
    /// Of all subjects.
    held: usize,
    held_sweep: Sweep,
}

impl<S, V: ?Sized> Default for Flights<S, V> {
    fn default() -> Self {
        let (under_way, holders) = (HashMap::new(), HashMap::new());
        Self { next: 0, under_way, under_way_sweep: Sweep::default(), holders, held: 0, held_sweep: Sweep::default() }
    }
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

/// Answers of one kind.
pub(in crate::relay) struct Remembered<S: Subject, V: Value + ?Sized> {
    entries: moka::sync::Cache<Key<S>, Entry<V>>,
    /// Guards the loads under way together with storing; held only for map operations.
    flights: Mutex<Flights<S, V>>,
    negative_ttl: Duration,
    stale_grace: Duration,
    slow_after: Duration,
}

impl<S: Subject, V: Value + ?Sized> Remembered<S, V> {
    /// So many bytes of them.
    pub(in crate::relay) fn new(bytes: u64, config: &Config) -> Arc<Self> {
        let weight = |_: &Key<S>, entry: &Entry<V>| {
            let own = entry.outcome.as_ref().map_or(0, |value| value.weight());
            u32::try_from(own + OVERHEAD).unwrap_or(u32::MAX)
        };
        let entries = moka::sync::Cache::builder().max_capacity(bytes).weigher(weight).build();
        let &Config { negative_ttl, stale_grace, slow_after, .. } = config;
        Arc::new(Self { entries, flights: Mutex::default(), negative_ttl, stale_grace, slow_after })
    }

    /// The answer, at most `fresh_for` old, or `stale_grace` while its catalog is out of reach; otherwise by `load`, which is given what
    /// is known, however old.
    pub(in crate::relay) async fn get(
        self: &Arc<Self>,
        key: Key<S>,
        terms: Terms<'_>,
        health: Option<&Arc<Health>>,
        load: impl FnOnce(Option<Arc<V>>) -> BoxFuture<'static, Outcome<V>>,
    ) -> Outcome<V> {
        let known = self.entries.get(&key);
        let will_do =
            |entry: &&Entry<V>| self.is_fresh(entry, terms.fresh_for) || terms.since.is_some_and(|since| entry.as_of >= since);
        if let Some(entry) = known.as_ref().filter(will_do) {
            return entry.outcome.clone();
        }
        let ails = || health.is_some_and(|health| health.ails());
        let turn = match terms.turns {
            // Nobody closes them.
            Some(turns) if !(ails() && self.spare(known.as_ref(), terms).is_some()) => turns.acquire().await.ok(),
            _ => None,
        };
        // Whoever had to wait may find the answer there.
        let known = if turn.is_some() { self.entries.get(&key) } else { known };
        if let Some(entry) = known.as_ref().filter(will_do) {
            return entry.outcome.clone();
        }
        let spare = self.spare(known.as_ref(), terms);
        if let (Some(spare), Some(health)) = (&spare, health)
            && health.ails()
        {
            if let Some(probe) = health.probe() {
                let load = self.join(key, terms, || load(known.and_then(|entry| entry.outcome.ok())));
                tokio::spawn(async move {
                    let _outcome = load.await;
                    drop(probe);
                });
            }
            return Ok(Arc::clone(spare));
        }
        let load = self.join(key, terms, || load(known.and_then(|entry| entry.outcome.ok())));
        match (spare, health) {
            (Some(spare), Some(health)) => self.or_spare(load, spare, health, terms.is_long).await,
            _ => load.await,
        }
    }

    /// What is taken while the catalog is out of reach.
    fn spare(&self, known: Option<&Entry<V>>, terms: Terms<'_>) -> Option<Arc<V>> {
        let known = known.filter(|entry| !terms.strict && entry.as_of.elapsed() < self.stale_grace);
        known.and_then(|entry| entry.outcome.clone().ok())
    }

    /// What the load brings, or what is known if the catalog cannot be asked or does not answer in time.
    async fn or_spare(&self, load: Load<V>, spare: Arc<V>, health: &Arc<Health>, is_long: bool) -> Outcome<V> {
        let in_time =
            async { if is_long { Ok(load.clone().await) } else { tokio::time::timeout(self.slow_after, load.clone()).await } };
        match in_time.await {
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

    /// What is known, however old, without asking anybody.
    pub(in crate::relay) fn known(&self, key: &Key<S>) -> Option<Entry<V>> {
        self.entries.get(key)
    }

    /// Whether it may be taken without asking.
    pub(in crate::relay) fn is_fresh(&self, entry: &Entry<V>, fresh_for: Duration) -> bool {
        let fresh_for = if entry.outcome.is_ok() { fresh_for } else { fresh_for.min(self.negative_ttl) };
        entry.as_of.elapsed() < fresh_for
    }

    /// How many bytes the answers take, once the cache has done its housekeeping.
    #[cfg(test)]
    pub(in crate::relay) fn bytes(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.weighted_size()
    }

    /// Forgets a subject for everybody, and keeps loads that are under way from being remembered.
    pub(in crate::relay) fn forget(&self, of: &S) {
        let mut flights = self.flights();
        flights.under_way.retain(|key, _| key.of != *of);
        let holders = flights.holders.remove(of).unwrap_or_default();
        flights.held -= holders.len();
        for (viewer, purpose) in holders {
            self.entries.invalidate(&Key { viewer, purpose, of: of.clone() });
        }
    }

    /// Joins the load under way, or starts one.
    fn join(self: &Arc<Self>, key: Key<S>, terms: Terms<'_>, load: impl FnOnce() -> BoxFuture<'static, Outcome<V>>) -> Load<V> {
        let mut flights = self.flights();
        if let Some(flight) = flights.under_way.get(&key)
            && (flight.begun.elapsed() <= terms.fresh_for || terms.since.is_some_and(|since| flight.begun >= since))
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
        let (cache, of, load) = (self.clone(), key.clone(), load());
        let load = async move {
            // Who waits for it would wait for ever if it broke, and who comes later break likewise.
            let outcome = AssertUnwindSafe(load).catch_unwind().await.unwrap_or(Err(CatalogError::Broke));
            cache.settle(&of, number, Entry { outcome: outcome.clone(), as_of: begun });
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
    fn settle(&self, key: &Key<S>, number: u64, entry: Entry<V>) {
        let mut flights = self.flights();
        let Some(flight) = flights.under_way.get(key).filter(|flight| number >= flight.valid_from) else { return };
        if flight.number == number {
            flights.under_way.remove(key);
        }
        if self.entries.get(key).is_some_and(|known| known.as_of > entry.as_of) {
            return;
        }
        match &entry.outcome {
            Ok(_) | Err(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace { .. } | CatalogError::Forbidden { .. }) => {
            }
            // Nothing was heard: what is known stays as old as it is.
            Err(error) if error.is_outage() || matches!(error, CatalogError::TooManyNames { .. }) => return,
            Err(_) => return self.entries.invalidate(key),
        }
        if flights.held_sweep.is_due(flights.held) {
            self.sweep(&mut flights);
        }
        let is_new = flights.holders.entry(key.of.clone()).or_default().insert((key.viewer.clone(), key.purpose));
        flights.held += usize::from(is_new);
        self.entries.insert(key.clone(), entry);
    }

    /// Takes subjects off the list of holders that the cache has dropped for want of room.
    fn sweep(&self, flights: &mut Flights<S, V>) {
        flights.holders.retain(|of, holders| {
            holders.retain(|(viewer, purpose)| {
                self.entries.contains_key(&Key { viewer: viewer.clone(), purpose: *purpose, of: of.clone() })
            });
            !holders.is_empty()
        });
        flights.held = flights.holders.values().map(HashSet::len).sum();
        flights.held_sweep.left = flights.held;
    }

    fn flights(&self) -> MutexGuard<'_, Flights<S, V>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{CatalogName, Namespace, TableRef};

    const MANY: usize = 5 * SWEEP_ABOVE;

    struct Nothing;

    impl Value for Nothing {
        fn weight(&self) -> usize {
            0
        }
    }

    type Cache = Remembered<TableRef, Nothing>;

    fn cache(bytes: u64) -> Arc<Cache> {
        Cache::new(bytes, &Config::default())
    }

    fn table(name: usize) -> TableRef {
        let (catalog, namespace) = (CatalogName::from("lake"), Namespace::from_schema("gold"));
        TableRef { catalog, namespace, table: name.to_string() }
    }

    impl Cache {
        /// A load that ends at once, and found no table.
        fn heard(&self, viewer: usize, table: TableRef) -> Sweep {
            let outcome: Outcome<Nothing> = Err(CatalogError::NoSuchTable(table.clone()));
            let viewer = CredentialId::from(viewer.to_string().as_str());
            let key = Key { viewer, purpose: Purpose::Data, of: table };
            let load = futures::future::ready(outcome.clone()).boxed().shared();
            let mut flights = self.flights();
            let (number, begun) = (flights.next, Instant::now());
            flights.next += 1;
            flights.under_way.insert(key.clone(), Flight { number, valid_from: number, begun, load: load.downgrade().unwrap() });
            drop(flights);
            self.settle(&key, number, Entry { outcome, as_of: begun });
            self.flights().held_sweep
        }

        fn held(&self) -> usize {
            let flights = self.flights();
            let held = flights.holders.values().map(HashSet::len).sum();
            assert_eq!(flights.held, held);
            held
        }
    }

    fn question() -> Key<TableRef> {
        Key { viewer: CredentialId::from("0"), purpose: Purpose::Data, of: table(0) }
    }

    fn terms(fresh_for: Duration) -> Terms<'static> {
        Terms { fresh_for, since: None, strict: false, is_long: false, turns: None }
    }

    #[tokio::test]
    async fn an_answer_is_as_old_as_its_question() {
        let cache = cache(1 << 30);
        let begun = Instant::now();
        let slow = |_| tokio::time::sleep(Duration::from_millis(100)).map(|()| Ok(Arc::new(Nothing))).boxed();
        cache.get(question(), terms(Duration::from_secs(60)), None, slow).await.unwrap();
        let (heard, known) = (begun.elapsed(), cache.known(&question()).unwrap());
        assert!(known.as_of - begun < heard / 2, "it may be of the moment when it was asked for");
    }

    #[tokio::test]
    async fn an_older_answer_never_takes_the_place_of_a_newer_one() {
        let cache = cache(1 << 30);
        // Each begins when the ones before it are too old to be joined, and ends when it is let go.
        let ask = async || {
            let (let_go, held) = tokio::sync::oneshot::channel::<Arc<Nothing>>();
            let load = move |_| held.map(|held| Ok(held.unwrap())).boxed();
            let mut asked = cache.get(question(), terms(Duration::ZERO), None, load).boxed();
            assert!(futures::poll!(&mut asked).is_pending());
            std::thread::sleep(Duration::from_millis(2));
            (let_go, asked)
        };
        let ((first, older), (second, newer), (_third, _newest)) = (ask().await, ask().await, ask().await);
        let (of_first, of_second) = (Arc::new(Nothing), Arc::new(Nothing));
        for (let_go, asked, brought) in [(second, newer, &of_second), (first, older, &of_first)] {
            assert!(let_go.send(Arc::clone(brought)).is_ok());
            assert!(Arc::ptr_eq(&asked.await.unwrap(), brought));
            let known = cache.known(&question()).unwrap().outcome.unwrap();
            assert!(Arc::ptr_eq(&known, &of_second), "the first one's answer is older");
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
        let cache = cache((OVERHEAD * 100) as u64);
        for viewer in 0..MANY {
            cache.heard(viewer, table(0));
        }
        assert!(cache.held() <= SWEEP_ABOVE + 1, "{}", cache.held());
    }
}
