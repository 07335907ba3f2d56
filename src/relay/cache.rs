//! Owns the tables that the relay remembers, per credential: bounded by bytes, asked again when they are too old, loaded once
//! however many ask, and forgotten when a commit passes through. Refuses to know catalogs' protocols.
//!
//! A load that began before a commit ended may bring the state from before it. [`TableCache::forget`] therefore strikes the loads
//! under way from the list, and a load stores its result only while it is still on it; who asks afterwards starts a new one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::confine::Confinement;
use super::error::CatalogError;
use super::table::Table;
use super::upstream::{Answer, Upstream};
use crate::names::{CredentialId, TableRef};

/// The lists of loads under way and of who holds what are swept of what is gone when they are longer than this.
const SWEEP_ABOVE: usize = 4096;

type Outcome = Result<Arc<Table>, CatalogError>;
type Load = Shared<BoxFuture<'static, Outcome>>;

/// Which table, seen by whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    credential: CredentialId,
    table: TableRef,
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
    /// Which credentials have an entry for a table, so that all of them can be forgotten.
    holders: HashMap<TableRef, Vec<CredentialId>>,
}

/// The cache.
pub(super) struct TableCache {
    entries: moka::sync::Cache<Key, Entry>,
    /// Guards the loads under way together with storing; held only for map operations.
    flights: Mutex<Flights>,
    max_staleness: Duration,
    negative_ttl: Duration,
}

impl TableCache {
    pub(super) fn new(bytes: u64, max_staleness: Duration, negative_ttl: Duration) -> Self {
        let weight = |_: &Key, entry: &Entry| {
            u32::try_from(entry.outcome.as_ref().map_or(512, |table| table.weight())).unwrap_or(u32::MAX)
        };
        let entries = moka::sync::Cache::builder().max_capacity(bytes).weigher(weight).build();
        Self { entries, flights: Mutex::default(), max_staleness, negative_ttl }
    }

    /// The table, at most `max_staleness` old.
    pub(super) async fn get(
        self: &Arc<Self>,
        credential: &CredentialId,
        table: &TableRef,
        upstream: &Arc<dyn Upstream>,
        confinement: &Arc<Confinement>,
    ) -> Outcome {
        let key = Key { credential: credential.clone(), table: table.clone() };
        let known = self.entries.get(&key);
        if let Some(entry) = &known {
            let fresh_for = if entry.outcome.is_ok() { self.max_staleness } else { self.negative_ttl };
            if entry.as_of.elapsed() < fresh_for {
                return entry.outcome.clone();
            }
        }
        let known = known.and_then(|entry| entry.outcome.ok());
        self.join(key, known, upstream, confinement).await
    }

    /// What is known of the table, however old, without asking anybody.
    pub(super) fn peek(&self, credential: &CredentialId, table: &TableRef) -> Option<Arc<Table>> {
        let key = Key { credential: credential.clone(), table: table.clone() };
        self.entries.get(&key).and_then(|entry| entry.outcome.ok())
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
        for credential in flights.holders.remove(table).unwrap_or_default() {
            self.entries.invalidate(&Key { credential, table: table.clone() });
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
            let outcome = fetch(&of.table, known, &*upstream, confinement).await;
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
        let worth_keeping = match &entry.outcome {
            Ok(_) | Err(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace { .. } | CatalogError::Forbidden { .. }) => {
                true
            }
            Err(_) => false,
        };
        if !worth_keeping {
            self.entries.invalidate(key);
            return;
        }
        if flights.holders.len() > SWEEP_ABOVE {
            self.sweep(&mut flights);
        }
        let holders = flights.holders.entry(key.table.clone()).or_default();
        if !holders.contains(&key.credential) {
            holders.push(key.credential.clone());
        }
        self.entries.insert(key.clone(), entry);
    }

    /// Takes tables off the list of holders that the cache has dropped for want of room.
    fn sweep(&self, flights: &mut Flights) {
        flights.holders.retain(|table, credentials| {
            credentials
                .retain(|credential| self.entries.contains_key(&Key { credential: credential.clone(), table: table.clone() }));
            !credentials.is_empty()
        });
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fetch(table: &TableRef, known: Option<Arc<Table>>, upstream: &dyn Upstream, confinement: Arc<Confinement>) -> Outcome {
    let etag = known.as_ref().and_then(|known| known.etag.clone());
    match (upstream.load_table(table, etag.as_deref()).await?, known) {
        (Answer::Fresh { body, etag }, _) => Ok(Arc::new(Table::read(table.clone(), body, etag, confinement).await?)),
        (Answer::NotModified, Some(known)) => Ok(known),
        (Answer::NotModified, None) => Err(CatalogError::BadAnswer {
            catalog: table.catalog.clone(),
            reason: format!("it says that table \"{table}\" has not changed, although nothing was known of it"),
        }),
    }
}
