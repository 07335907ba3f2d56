//! Owns the books of the pool: which workers hold the places, which statements hold their slots, who waits, and who is served next. It
//! starts and ends nothing itself but says what is to be done. Refuses to know processes, tasks and the clock, so that what it decides
//! can be tested as plain logic.
//!
//! ```text
//! slot free   ─▶ the first of its key's line
//! place free  ─▶ the key whose turn it is: those without a worker, then those who may have one more
//! none free   ─▶ an idle worker ends, the least recently used first
//!             ─▶ and when somebody has waited for a turn: the worker that yields soonest and fairest takes no new statements, finishes
//!                those that it has, and ends
//! ```

#[cfg(test)]
pub mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::queue::{Queue, Ticket};
use super::worker::Retired;
use super::{Config, WorkerClass, WorkerKey};
use crate::names::CredentialId;

/// How long an idle worker is kept from others who wait: a client that was told what a statement gives comes back for its rows, and a
/// worker's start costs more than this.
const LINGER: Duration = Duration::from_millis(20);

/// The shortest turn, however many wait: a few times what a change of workers costs.
const SHORTEST_TURN: Duration = Duration::from_millis(200);

/// What the books are kept by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Workers at the most, those included that start or end.
    pub places: usize,
    /// Statements at once on a reader.
    pub reader_slots: usize,
    /// Readers of one key at the most.
    pub readers_per_key: usize,
    /// Exclusive workers of one key at the most.
    pub exclusive_per_key: usize,
    /// Who may wait.
    pub queue: usize,
    /// How long one may wait.
    pub queue_timeout: Duration,
    /// How long a key without a worker waits until others make room.
    pub turn: Duration,
}

impl From<&Config> for Rules {
    fn from(config: &Config) -> Self {
        Self {
            places: config.max_workers,
            reader_slots: config.max_statements,
            readers_per_key: config.readers_per_key,
            exclusive_per_key: config.exclusive_per_key,
            queue: config.queue,
            queue_timeout: config.queue_timeout,
            turn: config.turn.max(Duration::from_millis(1)),
        }
    }
}

impl Rules {
    fn slots(&self, class: WorkerClass) -> usize {
        match class {
            WorkerClass::Reader => self.reader_slots,
            WorkerClass::Exclusive => 1,
        }
    }

    fn per_key(&self, class: WorkerClass) -> usize {
        match class {
            WorkerClass::Reader => self.readers_per_key,
            WorkerClass::Exclusive => self.exclusive_per_key,
        }
    }

    /// How many statements of a key may ask to be alone at once: while there may be several workers, one is left to others.
    fn alone(&self, class: WorkerClass) -> usize {
        self.per_key(class).saturating_sub(1).max(1)
    }

    /// How long a turn is while so many keys wait: short enough for all to have theirs within half of the time that one may wait.
    fn turn(&self, waiting: usize) -> Duration {
        let places = u32::try_from(self.places).unwrap_or(u32::MAX);
        let share = self.queue_timeout.saturating_mul(places) / u32::try_from(2 * waiting.max(1)).unwrap_or(u32::MAX);
        self.turn.min(share.max(SHORTEST_TURN))
    }
}

/// What the books need to know of a worker that only itself knows.
pub trait Member: Clone {
    /// A cancelled statement has not ended yet: the worker may hang.
    fn is_cancelling(&self) -> bool;

    /// How long its oldest statement has been running.
    fn longest(&self, now: Instant) -> Duration;
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect<M, W> {
    /// This one who waited has a slot on this worker.
    Give(W, M),
    /// A place is booked for a worker of this key.
    Start(Booking),
    /// This worker runs nothing and takes nothing more.
    End(M, Retired),
}

/// The place of a worker on its way.
#[derive(Clone, Debug)]
pub struct Booking {
    /// Whose worker.
    pub key: WorkerKey,
    number: u64,
}

/// The books; `M` stands for a worker and `W` for what one who waits is told by.
#[derive(Debug)]
pub struct Roster<M, W> {
    rules: Rules,
    desks: HashMap<u64, Desk<M>>,
    groups: HashMap<WorkerKey, Group>,
    queue: Queue<W>,
    /// Workers on their way.
    starting: usize,
    /// Workers whose processes are being ended.
    leaving: usize,
    bookings: u64,
    effects: Vec<Effect<M, W>>,
    look_at: Option<Instant>,
    closed: bool,
}

/// A worker as the books have it.
#[derive(Debug)]
struct Desk<M> {
    key: WorkerKey,
    member: M,
    phase: Phase,
    /// Slots taken.
    running: usize,
    /// Taken by a statement that asked to be alone.
    alone: bool,
    /// When a slot was last taken or given back.
    last_used: Instant,
    /// Since when it has its place.
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Takes statements.
    Open,
    /// Takes none while another key waits for a place, and ends with its last one.
    Yielding,
    /// Takes no more, and ends with its last one.
    Closing(Retired),
    /// Its process is being ended.
    Leaving,
}

/// What belongs to one key; kept as long as it has a worker or one on its way.
#[derive(Debug, Default)]
struct Group {
    /// Workers that take statements.
    open: Vec<u64>,
    /// All its workers.
    desks: usize,
    starting: usize,
    /// Slots taken by statements that asked to be alone.
    alone: usize,
    /// Workers booked before this number are not to be used.
    void_before: u64,
}

impl<M: Member, W> Roster<M, W> {
    /// Empty books.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            desks: HashMap::new(),
            groups: HashMap::new(),
            queue: Queue::default(),
            starting: 0,
            leaving: 0,
            bookings: 0,
            effects: Vec::new(),
            look_at: None,
            closed: false,
        }
    }

    /// A free slot for a newcomer. Nobody is overtaken: slots that somebody could take who waits are not free.
    pub fn take(&mut self, key: &WorkerKey, alone: bool, now: Instant) -> Option<M> {
        if self.closed || alone && (self.free_alone(key) == 0 || self.queue.awaits_alone(key)) {
            return None;
        }
        let id = self.least_loaded(key)?;
        self.occupy(id, alone, now)
    }

    /// How many wait and for how long, when no more may.
    pub fn full(&self, now: Instant) -> Option<(usize, Duration)> {
        let waiting = self.queue.len();
        (waiting >= self.rules.queue).then(|| (waiting, self.queue.longest(now)))
    }

    /// Lets somebody wait.
    pub fn wait(&mut self, key: &WorkerKey, alone: bool, told_by: W, now: Instant) -> Ticket {
        let ticket = self.queue.push(key, alone, told_by, now);
        self.settle(key, now);
        self.dispatch(now);
        ticket
    }

    /// Somebody waits no longer.
    pub fn leave(&mut self, ticket: &Ticket, now: Instant) {
        if self.queue.remove(ticket).is_some() {
            self.settle(&ticket.key, now);
            self.dispatch(now);
        }
    }

    /// A slot is free again.
    pub fn release(&mut self, id: u64, now: Instant) {
        let Some(desk) = self.desks.get_mut(&id) else { return };
        desk.running = desk.running.saturating_sub(1);
        desk.last_used = now;
        let key = desk.key.clone();
        if std::mem::take(&mut desk.alone)
            && let Some(group) = self.groups.get_mut(&key)
        {
            group.alone = group.alone.saturating_sub(1);
        }
        let (phase, running) = (desk.phase, desk.running);
        match phase {
            Phase::Yielding if running == 0 => self.end(id, Retired::Evicted),
            Phase::Closing(why) if running == 0 => self.end(id, why),
            _ => {}
        }
        self.fill(&key, now);
        self.dispatch(now);
    }

    /// A worker has come for its booking.
    pub fn joined(&mut self, booking: &Booking, id: u64, member: M, now: Instant) {
        let key = booking.key.clone();
        self.starting -= 1;
        let group = self.groups.entry(key.clone()).or_default();
        group.starting = group.starting.saturating_sub(1);
        group.desks += 1;
        group.open.push(id);
        let is_void = booking.number < group.void_before;
        let (phase, running, alone) = (Phase::Open, 0, false);
        self.desks.insert(id, Desk { key: key.clone(), member, phase, running, alone, last_used: now, since: now });
        if self.closed {
            self.end(id, Retired::Drained);
        } else if is_void {
            self.end(id, Retired::Revoked);
        }
        self.fill(&key, now);
        self.dispatch(now);
    }

    /// A booked worker does not come. Gives the one who waited for it, and hears of it; nobody, while the key has other workers.
    pub fn failed(&mut self, booking: &Booking, now: Instant) -> Option<W> {
        let key = &booking.key;
        self.starting -= 1;
        let others = self.groups.get_mut(key).is_some_and(|group| {
            group.starting = group.starting.saturating_sub(1);
            group.starting + group.open.len() > 0
        });
        let told = if others { None } else { self.queue.pop(key, true).map(|(told_by, _)| told_by) };
        self.settle(key, now);
        if others {
            // Not tried again before something happens: it would fail again at once.
            self.queue.further.leave(key);
        }
        self.forget_empty(key);
        self.dispatch(now);
        told
    }

    /// A worker takes no more statements, and ends with its last one.
    pub fn close(&mut self, id: u64, why: Retired, now: Instant) {
        let Some(desk) = self.desks.get_mut(&id) else { return };
        if !matches!(desk.phase, Phase::Open | Phase::Yielding) {
            return;
        }
        desk.phase = Phase::Closing(why);
        let (key, idle) = (desk.key.clone(), desk.running == 0);
        self.not_open(&key, id);
        if idle {
            self.end(id, why);
        }
        self.settle(&key, now);
        self.dispatch(now);
    }

    /// A worker's process is being ended, whatever it runs.
    pub fn leaving(&mut self, id: u64, now: Instant) {
        let Some(desk) = self.desks.get_mut(&id) else { return };
        if desk.phase == Phase::Leaving {
            return;
        }
        desk.phase = Phase::Leaving;
        self.leaving += 1;
        let key = desk.key.clone();
        self.not_open(&key, id);
        self.settle(&key, now);
        self.dispatch(now);
    }

    /// A worker's process has ended: its place is free.
    pub fn gone(&mut self, id: u64, now: Instant) {
        let Some(desk) = self.desks.remove(&id) else { return };
        if desk.phase == Phase::Leaving {
            self.leaving -= 1;
        }
        self.not_open(&desk.key, id);
        if let Some(group) = self.groups.get_mut(&desk.key) {
            group.desks -= 1;
            group.alone -= usize::from(desk.alone);
        }
        self.settle(&desk.key, now);
        self.forget_empty(&desk.key);
        self.dispatch(now);
    }

    /// Ends a worker that runs nothing, if it has done so for this long.
    pub fn end_idle(&mut self, id: u64, why: Retired, idle_for: Duration, now: Instant) {
        let idle = |desk: &Desk<M>| {
            desk.phase != Phase::Leaving && desk.running == 0 && now.saturating_duration_since(desk.last_used) >= idle_for
        };
        if self.desks.get(&id).is_some_and(idle) {
            self.end(id, why);
            self.dispatch(now);
        }
    }

    /// No worker of this credential takes a new statement any more, those on their way included; new ones are started for who waits.
    /// Gives those that still run something.
    pub fn revoke(&mut self, credential: &CredentialId, now: Instant) -> Vec<M> {
        for (key, group) in &mut self.groups {
            if key.credential.id() == credential {
                group.void_before = self.bookings;
            }
        }
        let own: Vec<u64> = self.desks.iter().filter(|(_, d)| d.key.credential.id() == credential).map(|(id, _)| *id).collect();
        for id in &own {
            self.close(*id, Retired::Revoked, now);
        }
        let still_running = |id: &u64| self.desks.get(id).filter(|desk| desk.running > 0).map(|desk| desk.member.clone());
        own.iter().filter_map(still_running).collect()
    }

    /// Nobody gets anything any more; gives those who waited.
    pub fn shut(&mut self) -> Vec<W> {
        self.closed = true;
        self.look_at = None;
        self.queue.clear()
    }

    /// Whether [`Self::shut`] was called.
    pub fn is_shut(&self) -> bool {
        self.closed
    }

    /// What came of the last events, to be done now.
    pub fn effects(&mut self) -> Vec<Effect<M, W>> {
        std::mem::take(&mut self.effects)
    }

    /// When to [`Self::look`] at the latest.
    pub fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Does what time alone brings about.
    pub fn look(&mut self, now: Instant) {
        self.dispatch(now);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The workers that there are.
    pub fn members(&self) -> Vec<M> {
        self.desks.values().map(|desk| desk.member.clone()).collect()
    }

    /// How many keys something is kept of beside who waits.
    pub fn keys(&self) -> usize {
        self.groups.len()
    }

    fn free_alone(&self, key: &WorkerKey) -> usize {
        self.rules.alone(key.class).saturating_sub(self.groups.get(key).map_or(0, |group| group.alone))
    }

    fn has_free_place(&self) -> bool {
        self.desks.len() + self.starting < self.rules.places
    }

    fn least_loaded(&self, key: &WorkerKey) -> Option<u64> {
        let slots = self.rules.slots(key.class);
        let open = self.groups.get(key)?.open.iter();
        let mut free = open.filter_map(|id| Some((*id, self.desks.get(id)?))).filter(|(_, desk)| desk.running < slots);
        let first = free.next()?;
        let Some(second) = free.next() else { return Some(first.0) };
        let load = |(_, desk): &(u64, &Desk<M>)| (desk.member.is_cancelling(), desk.running);
        [first, second].into_iter().chain(free).min_by_key(load).map(|(id, _)| id)
    }

    /// Takes a slot. A second statement on a worker is worth a place that is free, not one that another key has.
    fn occupy(&mut self, id: u64, alone: bool, now: Instant) -> Option<M> {
        let desk = self.desks.get_mut(&id)?;
        desk.running += 1;
        desk.last_used = now;
        desk.alone = alone;
        let (key, member, shared) = (desk.key.clone(), desk.member.clone(), desk.running > 1);
        if let Some(group) = self.groups.get_mut(&key) {
            group.alone += usize::from(alone);
            let more = group.open.len() + group.starting < self.rules.per_key(key.class);
            if shared && more && self.queue.first.is_empty() && self.has_free_place() {
                self.book(&key);
            }
        }
        Some(member)
    }

    /// Hands a key's free slots to those who wait for them.
    fn fill(&mut self, key: &WorkerKey, now: Instant) {
        loop {
            let free_alone = self.free_alone(key);
            if self.queue.servable(key, free_alone) == 0 {
                break;
            }
            let Some(id) = self.least_loaded(key) else { break };
            let Some((told_by, alone)) = self.queue.pop(key, free_alone > 0) else { break };
            if let Some(member) = self.occupy(id, alone, now) {
                self.effects.push(Effect::Give(told_by, member));
            }
        }
        self.settle(key, now);
    }

    /// Sees to it that a key waits for a place if, and only if, it needs one.
    fn settle(&mut self, key: &WorkerKey, now: Instant) {
        let waiting = self.queue.servable(key, self.free_alone(key));
        let (open, starting) = self.groups.get(key).map_or((0, 0), |group| (group.open.len(), group.starting));
        let more = open + starting < self.rules.per_key(key.class) && waiting > starting * self.rules.slots(key.class);
        if waiting > 0 && open + starting == 0 {
            self.queue.further.leave(key);
            self.queue.first.join(key, now);
        } else if waiting > 0 && more {
            self.queue.first.leave(key);
            self.queue.further.join(key, now);
        } else {
            self.queue.first.leave(key);
            self.queue.further.leave(key);
        }
    }

    fn book(&mut self, key: &WorkerKey) {
        let group = self.groups.entry(key.clone()).or_default();
        group.starting += 1;
        self.starting += 1;
        let booking = Booking { key: key.clone(), number: self.bookings };
        self.bookings += 1;
        self.queue.first.served(key);
        self.queue.further.leave(key);
        self.effects.push(Effect::Start(booking));
    }

    fn not_open(&mut self, key: &WorkerKey, id: u64) {
        if let Some(group) = self.groups.get_mut(key) {
            group.open.retain(|open| *open != id);
        }
    }

    fn end(&mut self, id: u64, why: Retired) {
        let Some(desk) = self.desks.get_mut(&id) else { return };
        desk.phase = Phase::Leaving;
        self.leaving += 1;
        let (key, member) = (desk.key.clone(), desk.member.clone());
        self.not_open(&key, id);
        self.effects.push(Effect::End(member, why));
    }

    fn forget_empty(&mut self, key: &WorkerKey) {
        if self.groups.get(key).is_some_and(|group| group.desks == 0 && group.starting == 0) {
            self.groups.remove(key);
        }
    }

    /// Hands out free places, and makes room where there are none.
    fn dispatch(&mut self, now: Instant) {
        self.look_at = None;
        if self.closed {
            return;
        }
        while self.has_free_place() {
            let Some(key) = self.queue.first.front().or_else(|| self.queue.further.front()).cloned() else { break };
            self.book(&key);
            self.settle(&key, now);
        }
        self.take_back(now);
        if !self.queue.first.is_empty() {
            self.make_room(now);
        } else if let Some(key) = self.queue.further.front().cloned() {
            self.make_room_for_more(&key, now);
        }
    }

    /// A worker that yields takes statements again when no other key waits for a place.
    fn take_back(&mut self, now: Instant) {
        let needless = |desk: &Desk<M>| desk.phase == Phase::Yielding && !self.queue.first.has_other_than(&desk.key);
        let needless: Vec<u64> = self.desks.iter().filter(|(_, desk)| needless(desk)).map(|(id, _)| *id).collect();
        for id in needless {
            let Some(desk) = self.desks.get_mut(&id) else { continue };
            desk.phase = Phase::Open;
            let key = desk.key.clone();
            self.groups.entry(key.clone()).or_default().open.push(id);
            self.fill(&key, now);
        }
    }

    fn look_by(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |other| other.min(at)));
    }

    /// Whether its key has no other worker that takes statements.
    fn is_only(&self, desk: &Desk<M>) -> bool {
        self.groups.get(&desk.key).is_none_or(|group| group.open.len() <= 1)
    }

    /// For keys without a worker: idle workers end, and where these are not enough, busy ones yield.
    fn make_room(&mut self, now: Instant) {
        let mut needed = self.queue.first.len().saturating_sub(self.leaving);
        let idle = self.desks.iter().filter(|(_, desk)| desk.phase == Phase::Open && desk.running == 0);
        let mut idle: Vec<_> = idle.map(|(id, desk)| (self.is_only(desk), desk.last_used, *id)).collect();
        idle.sort_unstable();
        idle.truncate(needed);
        for (_, last_used, id) in idle {
            needed -= 1;
            let until = last_used + LINGER.min(self.rules.turn);
            if until <= now { self.end(id, Retired::Evicted) } else { self.look_by(until) }
        }
        if needed > 0 {
            self.make_yield(self.queue.first.len() - needed, now);
        }
    }

    /// Each key that has waited for a turn makes one worker yield, and another one with each further turn; so many places are on their
    /// way already.
    fn make_yield(&mut self, coming: usize, now: Instant) {
        let turn = self.rules.turn(self.queue.first.len());
        let mut due = 0;
        let waits: Vec<Instant> = self.queue.first.since().take(self.rules.places).collect();
        for since in waits {
            let turns = now.saturating_duration_since(since).as_nanos() / turn.as_nanos().max(1);
            let turns = u32::try_from(turns).unwrap_or(u32::MAX - 1);
            due += turns as usize;
            self.look_by(since + turn.saturating_mul(turns + 1));
        }
        let yielding = self.desks.values().filter(|desk| desk.phase == Phase::Yielding).count();
        for _ in yielding + coming..due.min(self.rules.places) {
            let Some(id) = self.victim(turn, now) else { break };
            let Some(desk) = self.desks.get_mut(&id) else { break };
            desk.phase = Phase::Yielding;
            let key = desk.key.clone();
            self.not_open(&key, id);
            self.settle(&key, now);
        }
    }

    /// The worker that yields next: a key's second one before anybody's only one, then one of the credential that has the most, one that
    /// has been busy with the same statement for a turn later than others, and who has had the place for longest first. Everybody has a
    /// turn before. Never an idle one: nothing would end there any more, and so neither would the worker.
    fn victim(&mut self, turn: Duration, now: Instant) -> Option<u64> {
        let wanting = self.queue.first.front()?.credential.id().clone();
        let mut held: HashMap<&CredentialId, usize> = HashMap::from([(&wanting, 1)]);
        for desk in self.desks.values() {
            *held.entry(desk.key.credential.id()).or_default() += 1;
        }
        let open = self.desks.iter().filter(|(_, desk)| desk.phase == Phase::Open && desk.running > 0);
        let (ripe, early): (Vec<_>, Vec<_>) = open.partition(|(_, desk)| desk.since + turn <= now);
        let order = |(id, desk): &(&u64, &Desk<M>)| {
            let held = held.get(desk.key.credential.id()).copied().unwrap_or(0);
            (self.is_only(desk), Reverse(held), desk.member.longest(now) >= turn, desk.since, **id)
        };
        let next = ripe.into_iter().min_by_key(order).map(|(id, _)| *id);
        let ripens = early.into_iter().map(|(_, desk)| desk.since + turn).min();
        if let Some(at) = ripens.filter(|_| next.is_none()) {
            self.look_by(at);
        }
        next
    }

    /// For a key whose workers are full: a worker of another key ends that has had nothing to do for a turn.
    fn make_room_for_more(&mut self, key: &WorkerKey, now: Instant) {
        if self.leaving > 0 {
            return;
        }
        let idle = self.desks.iter().filter(|(_, desk)| desk.phase == Phase::Open && desk.running == 0 && desk.key != *key);
        let Some((last_used, id)) = idle.map(|(id, desk)| (desk.last_used, *id)).min() else { return };
        let until = last_used + self.rules.turn;
        if until <= now { self.end(id, Retired::Evicted) } else { self.look_by(until) }
    }
}
