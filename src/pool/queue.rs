//! Owns the order in which those who wait are served: within a key who came first, and among keys that wait for a worker the one whose
//! turn it is. Refuses to know workers; the roster says who can be served.
//!
//! A key goes to the end of its turns when it is served, and takes its credential's other key with it, so a credential gets one worker a
//! round however many statements it has waiting. Every step costs the logarithm of a length at the most.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::{WorkerClass, WorkerKey};

/// Those who wait, `W` being what one is told by.
#[derive(Debug)]
pub struct Queue<W> {
    lines: HashMap<WorkerKey, Line<W>>,
    waiting: usize,
    next: u64,
    /// Keys without any worker.
    pub first: Turns,
    /// Keys whose workers are full, and who may have more.
    pub further: Turns,
}

/// Where somebody stands.
#[derive(Debug)]
pub struct Ticket {
    /// Whose line.
    pub key: WorkerKey,
    number: u64,
}

/// Those who wait for slots of one key, by the number of their coming.
#[derive(Debug)]
struct Line<W> {
    common: BTreeMap<u64, Waiter<W>>,
    /// Those who must not be among others, of whom only so many are let in at once.
    alone: BTreeMap<u64, Waiter<W>>,
}

#[derive(Debug)]
struct Waiter<W> {
    since: Instant,
    told_by: W,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { lines: HashMap::new(), waiting: 0, next: 0, first: Turns::default(), further: Turns::default() }
    }
}

impl<W> Queue<W> {
    /// Puts somebody at the end of a key's line.
    pub fn push(&mut self, key: &WorkerKey, alone: bool, told_by: W, now: Instant) -> Ticket {
        let number = self.next;
        self.next += 1;
        self.waiting += 1;
        let line = self.lines.entry(key.clone()).or_insert_with(|| Line { common: BTreeMap::new(), alone: BTreeMap::new() });
        let part = if alone { &mut line.alone } else { &mut line.common };
        part.insert(number, Waiter { since: now, told_by });
        Ticket { key: key.clone(), number }
    }

    /// Takes somebody out who waits no longer; none when it was that one's turn meanwhile.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<W> {
        let line = self.lines.get_mut(&ticket.key)?;
        let waiter = line.common.remove(&ticket.number).or_else(|| line.alone.remove(&ticket.number))?;
        self.left(&ticket.key);
        Some(waiter.told_by)
    }

    /// Takes the first one of a key's line, and says whether that one must be alone. Those are passed over unless `alone_too`.
    pub fn pop(&mut self, key: &WorkerKey, alone_too: bool) -> Option<(W, bool)> {
        let line = self.lines.get_mut(key)?;
        let common = line.common.first_key_value().map(|(number, _)| *number);
        let alone = line.alone.first_key_value().map(|(number, _)| *number).filter(|_| alone_too);
        let is_alone = match (common, alone) {
            (Some(common), Some(alone)) => alone < common,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (None, None) => return None,
        };
        let part = if is_alone { &mut line.alone } else { &mut line.common };
        let (_, waiter) = part.pop_first()?;
        self.left(key);
        Some((waiter.told_by, is_alone))
    }

    fn left(&mut self, key: &WorkerKey) {
        self.waiting -= 1;
        if self.lines.get(key).is_some_and(|line| line.common.is_empty() && line.alone.is_empty()) {
            self.lines.remove(key);
        }
    }

    /// How many of a key's line could be served at once, if so many may be alone.
    pub fn servable(&self, key: &WorkerKey, alone: usize) -> usize {
        self.lines.get(key).map_or(0, |line| line.common.len() + line.alone.len().min(alone))
    }

    /// Whether somebody of this key waits to be alone.
    pub fn awaits_alone(&self, key: &WorkerKey) -> bool {
        self.lines.get(key).is_some_and(|line| !line.alone.is_empty())
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// How long the one has waited who came first. Looks at every key.
    pub fn longest(&self, now: Instant) -> Duration {
        let first = |line: &Line<W>| {
            let firsts = [line.common.first_key_value(), line.alone.first_key_value()];
            firsts.into_iter().flatten().map(|(_, waiter)| waiter.since).min()
        };
        self.lines.values().filter_map(first).min().map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Sends everybody away.
    pub fn clear(&mut self) -> Vec<W> {
        (self.first, self.further, self.waiting) = (Turns::default(), Turns::default(), 0);
        let waiters = self.lines.drain().flat_map(|(_, line)| line.common.into_values().chain(line.alone.into_values()));
        waiters.map(|waiter| waiter.told_by).collect()
    }

    /// How many keys have a line.
    #[cfg(test)]
    pub fn lines(&self) -> usize {
        self.lines.len()
    }
}

/// Keys in the order of their turns.
#[derive(Debug, Default)]
pub struct Turns {
    order: BTreeMap<u64, WorkerKey>,
    turns: HashMap<WorkerKey, Turn>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    number: u64,
    since: Instant,
}

impl Turns {
    /// Puts a key at the end, unless it is there.
    pub fn join(&mut self, key: &WorkerKey, now: Instant) {
        if !self.turns.contains_key(key) {
            self.append(key.clone(), now);
        }
    }

    /// Takes a key out, if it is there.
    pub fn leave(&mut self, key: &WorkerKey) {
        if let Some(turn) = self.turns.remove(key) {
            self.order.remove(&turn.number);
        }
    }

    /// Takes a key out that is served. The other key of its credential stands behind all others now, but has waited as long as before.
    pub fn served(&mut self, key: &WorkerKey) {
        self.leave(key);
        let class = match key.class {
            WorkerClass::Reader => WorkerClass::Exclusive,
            WorkerClass::Exclusive => WorkerClass::Reader,
        };
        let other = WorkerKey { class, ..key.clone() };
        if let Some(turn) = self.turns.remove(&other) {
            self.order.remove(&turn.number);
            self.append(other, turn.since);
        }
    }

    fn append(&mut self, key: WorkerKey, since: Instant) {
        let number = self.next;
        self.next += 1;
        self.order.insert(number, key.clone());
        self.turns.insert(key, Turn { number, since });
    }

    /// Whose turn it is.
    pub fn front(&self) -> Option<&WorkerKey> {
        self.order.first_key_value().map(|(_, key)| key)
    }

    /// Since when they wait, in the order of their turns.
    pub fn since(&self) -> impl Iterator<Item = Instant> {
        self.order.values().filter_map(|key| self.turns.get(key).map(|turn| turn.since))
    }

    /// Whether a key waits that is not this one.
    pub fn has_other_than(&self, key: &WorkerKey) -> bool {
        self.turns.len() > usize::from(self.turns.contains_key(key))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::roster::tests::{exclusive, reader};
    use super::*;

    #[test]
    fn within_a_key_who_came_first_is_served_first() {
        let (mut queue, now, ana) = (Queue::default(), Instant::now(), exclusive("ana"));
        for (number, alone) in [false, true, false, true, true].into_iter().enumerate() {
            queue.push(&ana, alone, number, now);
        }
        assert_eq!((queue.len(), queue.servable(&ana, 0), queue.servable(&ana, 1)), (5, 2, 3));
        assert_eq!(queue.pop(&ana, true), Some((0, false)));
        assert_eq!(queue.pop(&ana, true), Some((1, true)));
        // While no more may be alone, those behind them go first.
        assert_eq!(queue.pop(&ana, false), Some((2, false)));
        assert_eq!(queue.pop(&ana, false), None);
        assert_eq!(queue.pop(&ana, true), Some((3, true)));
        assert_eq!(queue.pop(&ana, true), Some((4, true)));
        assert_eq!((queue.len(), queue.lines()), (0, 0));
    }

    #[test]
    fn who_leaves_is_passed_over_and_leaves_nothing_behind() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let tickets: Vec<Ticket> = (0..3).map(|n| queue.push(&reader("ana"), false, n, now)).collect();
        queue.push(&reader("bob"), true, 9, now);
        assert_eq!(queue.remove(&tickets[1]), Some(1));
        assert_eq!(queue.remove(&tickets[1]), None);
        assert_eq!(queue.pop(&reader("ana"), true), Some((0, false)));
        assert_eq!(queue.pop(&reader("ana"), true), Some((2, false)));
        assert_eq!(queue.remove(&tickets[0]), None);
        assert_eq!((queue.len(), queue.lines()), (1, 1));
        assert_eq!(queue.clear(), [9]);
        assert_eq!((queue.len(), queue.lines()), (0, 0));
    }

    #[test]
    fn the_longest_wait_is_that_of_who_came_first() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        assert_eq!(queue.longest(now), Duration::ZERO);
        let later = now + Duration::from_secs(1);
        queue.push(&reader("bob"), false, 1, later);
        let first = queue.push(&exclusive("ana"), true, 0, now);
        assert_eq!(queue.longest(later), Duration::from_secs(1));
        queue.remove(&first);
        assert_eq!(queue.longest(later), Duration::ZERO);
    }

    fn serve(turns: &mut Turns) -> WorkerKey {
        let key = turns.front().expect("somebody waits").clone();
        turns.served(&key);
        key
    }

    #[test]
    fn keys_take_turns() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for name in ["ana", "bob", "cleo"] {
            turns.join(&reader(name), now);
        }
        // Who is there keeps its place.
        turns.join(&reader("ana"), now);
        assert_eq!(serve(&mut turns), reader("ana"));
        turns.join(&reader("ana"), now);
        turns.leave(&reader("cleo"));
        assert_eq!((serve(&mut turns), serve(&mut turns)), (reader("bob"), reader("ana")));
        assert!(turns.is_empty() && turns.order.is_empty());
    }

    #[test]
    fn a_credential_with_two_keys_gets_one_worker_a_round() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for key in [reader("ana"), exclusive("ana"), reader("bob"), reader("cleo")] {
            turns.join(&key, now);
        }
        assert_eq!(serve(&mut turns), reader("ana"));
        // Ana's reader is full again at once, and her writes have not had their turn.
        turns.join(&reader("ana"), now);
        let order = [serve(&mut turns), serve(&mut turns), serve(&mut turns), serve(&mut turns)];
        assert_eq!(order, [reader("bob"), reader("cleo"), exclusive("ana"), reader("ana")]);
    }

    #[test]
    fn moved_to_the_end_a_key_has_waited_as_long_as_before() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        turns.join(&exclusive("ana"), now);
        turns.join(&reader("bob"), later);
        turns.join(&reader("ana"), later);
        turns.served(&reader("ana"));
        assert_eq!(turns.since().collect::<Vec<_>>(), [later, now]);
        assert!(turns.has_other_than(&reader("bob")));
        turns.leave(&exclusive("ana"));
        assert!(!turns.has_other_than(&reader("bob")) && turns.has_other_than(&reader("ana")));
    }
}
