//! Owns what one connection has logged in with, and for how long that goes on while nobody can be asked. Refuses to be shared between
//! connections: who is let in by it has shown the same on the same connection, and it was right.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Known;
use crate::auth::salt::Digest;

/// Log-ins that one connection may have at once: a proxy may send the calls of many over one.
const AT_ONCE: usize = 32;

/// The right log-ins of one connection. Some clients log in with each call; others at their address who guess must not make them wait.
#[derive(Default)]
pub struct Recognised(Mutex<VecDeque<(Digest, Known)>>);

impl Recognised {
    pub(super) fn get(&self, key: &Digest) -> Option<Known> {
        self.lock().iter().find(|(own, _)| own == key).map(|(_, known)| known.clone())
    }

    /// The one that came first makes room.
    pub(super) fn add(&self, key: Digest, known: &Known) {
        let mut all = self.lock();
        if let Some((_, own)) = all.iter_mut().find(|(own, _)| *own == key) {
            own.clone_from(known);
            return;
        }
        if all.len() >= AT_ONCE {
            all.pop_front();
        }
        all.push_back((key, known.clone()));
    }

    pub(super) fn remove(&self, key: &Digest) {
        self.lock().retain(|(own, _)| own != key);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Digest, Known)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recognised").finish_non_exhaustive()
    }
}
