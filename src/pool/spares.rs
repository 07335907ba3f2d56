//! Owns the processes that are no key's yet: those that are ready, those on their way, and who waits for one. Whoever needs a process has
//! the next one that comes, and another one is begun at once, so that while keys change faster than processes start none stands about.
//! Refuses to know how a process is started and what becomes of it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::error::PoolError;
use super::process::Fresh;

/// The processes without a key.
#[derive(Debug)]
pub struct Spares {
    wanted: usize,
    /// Guards the lists; held for a few instructions only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<Fresh>,
    on_their_way: usize,
    waiting: VecDeque<oneshot::Sender<Result<Fresh, PoolError>>>,
    closed: bool,
}

/// A process for somebody who needs one; nothing comes once the spares are closed.
pub struct Next {
    /// What brings it.
    pub comes: oneshot::Receiver<Result<Fresh, PoolError>>,
    /// It is one that stood ready.
    pub was_ready: bool,
}

/// How often a process is tried that ends before it serves its key.
#[derive(Debug)]
pub struct Attempts {
    new: u32,
    ready: usize,
}

impl Attempts {
    /// So many new ones, beside those that stand ready: such a one may have ended long ago, which says nothing of a new one. More
    /// than are kept ready were not all there before.
    pub fn new(new: u32, ready: usize) -> Self {
        Self { new, ready }
    }

    /// One was tried.
    pub fn count(&mut self, was_ready: bool) {
        if was_ready && self.ready > 0 {
            self.ready -= 1;
        } else {
            self.new = self.new.saturating_sub(1);
        }
    }

    /// Whether another one may be.
    pub fn are_left(&self) -> bool {
        self.new > 0
    }
}

impl Spares {
    /// So many are kept ready.
    pub fn new(wanted: usize) -> Self {
        Self { wanted, state: Mutex::default() }
    }

    /// Takes one. Whatever comes of it, [`Self::missing`] then says what to start.
    pub fn take(&self) -> Next {
        let (sender, comes) = oneshot::channel();
        let mut state = self.state();
        let ready = state.ready.pop();
        let was_ready = ready.is_some();
        match ready {
            // The receiver is here, so it arrives.
            Some(fresh) => drop(sender.send(Ok(fresh))),
            None if state.closed => {}
            None => state.waiting.push_back(sender),
        }
        Next { comes, was_ready }
    }

    /// How many to start now; each is brought by [`Self::deliver`].
    pub fn missing(&self) -> usize {
        let mut state = self.state();
        // Dropped below, when the lock is free again: their directories go with them.
        let _ended: Vec<Fresh> = state.ready.extract_if(.., |spare| !spare.is_alive()).collect();
        state.waiting.retain(|waiting| !waiting.is_closed());
        if state.closed {
            return 0;
        }
        let missing = (self.wanted + state.waiting.len()).saturating_sub(state.ready.len() + state.on_their_way);
        state.on_their_way += missing;
        drop(state);
        missing
    }

    /// Hands one that was started to who waits, or keeps it; gives it back when nobody needs it. A failure is told to one who waits.
    pub fn deliver(&self, mut started: Result<Fresh, PoolError>) -> Option<Fresh> {
        let mut state = self.state();
        state.on_their_way -= 1;
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(started) {
                Ok(()) => return None,
                Err(unsent) => started = unsent,
            }
        }
        match started {
            Ok(fresh) if state.closed || state.ready.len() >= self.wanted => return Some(fresh),
            Ok(fresh) => state.ready.push(fresh),
            Err(error) => tracing::error!(%error, "a spare worker did not start"),
        }
        None
    }

    /// Nothing more is handed out; gives what was ready.
    pub fn close(&self) -> Vec<Fresh> {
        let mut state = self.state();
        state.closed = true;
        state.waiting.clear();
        std::mem::take(&mut state.ready)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Attempts;

    /// How many are tried when all of them end.
    fn tried(mut attempts: Attempts, ready: impl Fn(u32) -> bool) -> u32 {
        (1..100)
            .find(|number| {
                attempts.count(ready(*number));
                !attempts.are_left()
            })
            .unwrap_or(100)
    }

    #[test]
    fn processes_that_all_end_are_not_tried_for_ever_even_when_one_is_always_ready() {
        assert_eq!(tried(Attempts::new(3, 0), |_| false), 3);
        assert_eq!(tried(Attempts::new(3, 2), |_| true), 5);
        assert_eq!(tried(Attempts::new(3, 2), |number| number <= 2), 5, "those that stood ready cost no new one");
        assert_eq!(tried(Attempts::new(3, 2), |number| number <= 1), 4);
    }
}
