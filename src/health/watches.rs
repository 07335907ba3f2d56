//! Owns how many calls of Watch there may be: in all, and on one connection, so that no client takes the places of all others. Refuses to
//! know what is watched.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A client watches one service, or two, on a connection.
const OF_CONNECTION: usize = 4;

/// The places; a clone counts the same ones.
#[derive(Clone)]
pub(super) struct Watches {
    most: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// Only connections that have one.
    by_connection: HashMap<u64, usize>,
}

/// A call's place, which it gives back by dropping this.
pub(super) struct Place {
    watches: Watches,
    connection: Option<u64>,
    counts: bool,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("{0} calls of Watch are under way already (health.max_watches)")]
    Full(usize),
    #[error("{OF_CONNECTION} calls of Watch on this connection are under way already")]
    ConnectionFull,
}

impl Watches {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// A place for one more call on this connection. One that does not count takes none of those that all share.
    pub(super) fn take(&self, connection: Option<u64>, counts: bool) -> Result<Place, NoPlace> {
        let mut taken = self.taken();
        if counts && taken.all >= self.most {
            return Err(NoPlace::Full(self.most));
        }
        if let Some(connection) = connection {
            let of_connection = taken.by_connection.get(&connection).copied().unwrap_or(0);
            if of_connection >= OF_CONNECTION {
                return Err(NoPlace::ConnectionFull);
            }
            taken.by_connection.insert(connection, of_connection + 1);
        }
        taken.all += usize::from(counts);
        Ok(Place { watches: self.clone(), connection, counts })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.watches.taken();
        taken.all -= usize::from(self.counts);
        let Some(connection) = self.connection else { return };
        if let Some(of_connection) = taken.by_connection.get_mut(&connection) {
            *of_connection -= 1;
            if *of_connection == 0 {
                taken.by_connection.remove(&connection);
            }
        }
    }
}
