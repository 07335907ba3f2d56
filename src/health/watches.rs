//! Owns how many calls of Watch there may be: in all, on one connection, and from one address, so that no client takes the places of all
//! others. Refuses to know what is watched, and which addresses are one.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::counts::Counts;

/// A client watches one service, or two, on a connection.
const OF_CONNECTION: usize = 4;

/// Where a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The number of its connection.
    pub connection: u64,
    /// The address that its calls are counted by.
    pub address: Option<IpAddr>,
}

/// The places; a clone counts the same ones.
#[derive(Clone)]
pub(super) struct Watches {
    most: usize,
    most_per_address: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_connection: Counts<u64>,
    by_address: Counts<IpAddr>,
}

/// A call's place, which it gives back by dropping this.
pub(super) struct Place {
    watches: Watches,
    peer: Option<Peer>,
    counts: bool,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("{0} calls of Watch are under way already (health.max_watches)")]
    Full(usize),
    #[error("{OF_CONNECTION} calls of Watch on this connection are under way already")]
    ConnectionFull,
    #[error("{0} calls of Watch from this address are under way already (health.max_watches_per_address)")]
    AddressFull(usize),
}

impl Watches {
    pub(super) fn new(most: usize, most_per_address: usize) -> Self {
        Self { most, most_per_address, taken: Arc::default() }
    }

    /// A place for one more call of this peer. One that does not count takes none of those that all share.
    pub(super) fn take(&self, peer: Option<Peer>, counts: bool) -> Result<Place, NoPlace> {
        let mut taken = self.taken();
        if counts && taken.all >= self.most {
            return Err(NoPlace::Full(self.most));
        }
        if peer.is_some_and(|peer| taken.by_connection.of(&peer.connection) >= OF_CONNECTION) {
            return Err(NoPlace::ConnectionFull);
        }
        let address = peer.and_then(|peer| peer.address).filter(|_| counts);
        if address.is_some_and(|address| taken.by_address.of(&address) >= self.most_per_address) {
            return Err(NoPlace::AddressFull(self.most_per_address));
        }
        taken.all += usize::from(counts);
        if let Some(peer) = peer {
            taken.by_connection.add(peer.connection);
        }
        if let Some(address) = address {
            taken.by_address.add(address);
        }
        Ok(Place { watches: self.clone(), peer, counts })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.watches.taken();
        taken.all -= usize::from(self.counts);
        let Some(peer) = self.peer else { return };
        taken.by_connection.remove(&peer.connection);
        if let Some(address) = peer.address.filter(|_| self.counts) {
            taken.by_address.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_to_others_and_what_is_given_back_is_forgotten() {
        let watches = Watches::new(6, 3);
        let from = |connection, last| Some(Peer { connection, address: Some(IpAddr::from([10, 0, 0, last])) });
        let mut held: Vec<Place> = (0..3).map(|connection| watches.take(from(connection, 1), true).unwrap()).collect();
        assert_eq!(watches.take(from(3, 1), true).err(), Some(NoPlace::AddressFull(3)));
        // What nobody serves takes no place of the address either.
        held.push(watches.take(from(4, 1), false).unwrap());
        held.extend((5..8).map(|connection| watches.take(from(connection, 2), true).unwrap()));
        assert_eq!(watches.take(from(8, 3), true).err(), Some(NoPlace::Full(6)));
        held.clear();
        let taken = watches.taken();
        assert!(taken.all == 0 && taken.by_connection.is_empty() && taken.by_address.is_empty());
    }
}
