//! Owns how many connections there may be: in all, and from one address, so that no peer takes the places of all others. Refuses to know
//! what a connection is.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::counts::Counts;

/// The places; a clone counts the same ones.
#[derive(Clone)]
pub(super) struct Places(Arc<Inner>);

struct Inner {
    most: usize,
    most_per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: Counts<IpAddr>,
}

/// A connection's place, which it gives back by dropping this.
pub(super) struct Place {
    places: Places,
    address: IpAddr,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("there are {0} already (flight.max_connections)")]
    Full(usize),
    #[error("its address has {0} already (flight.max_connections_per_address)")]
    AddressFull(usize),
}

impl Places {
    pub(super) fn new(most: usize, most_per_address: usize) -> Self {
        Self(Arc::new(Inner { most, most_per_address, taken: Mutex::default() }))
    }

    /// A place for one more connection from this address.
    pub(super) fn take(&self, address: IpAddr) -> Result<Place, NoPlace> {
        let address = counted_as(address);
        let mut taken = self.taken();
        if taken.all >= self.0.most {
            return Err(NoPlace::Full(self.0.most));
        }
        let of_address = taken.by_address.of(&address);
        if of_address >= self.0.most_per_address {
            return Err(NoPlace::AddressFull(of_address));
        }
        taken.by_address.add(address);
        taken.all += 1;
        Ok(Place { places: self.clone(), address })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        taken.by_address.remove(&self.address);
    }
}

/// Who has an IPv6 address usually has all of its /64.
pub(super) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() >> 64 << 64).to_be_bytes()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_does_not_take_the_places_of_others() {
        let places = Places::new(3, 2);
        let [first, second, other] = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"].map(address);
        let (one, two) = (places.take(first).unwrap(), places.take(second).unwrap());
        assert_eq!(places.take(first).err(), Some(NoPlace::AddressFull(2)));
        let three = places.take(other).unwrap();
        assert_eq!(places.take(other).err(), Some(NoPlace::Full(3)));
        drop(one);
        let again = places.take(first).unwrap();
        drop((two, three, again));
        assert!(places.taken().by_address.is_empty() && places.taken().all == 0);
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_count_together() {
        let places = Places::new(10, 1);
        let _one = places.take(address("2001:db8::1")).unwrap();
        assert_eq!(places.take(address("2001:db8::ffff:2")).err(), Some(NoPlace::AddressFull(1)));
        places.take(address("2001:db8:0:1::1")).unwrap();
    }
}
