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
    /// turn before.
    fn victim(&mut self, turn: Duration, now: Instant) -> Option<u64> {
        let wanting = self.queue.first.front()?.credential.id().clone();
        let mut held: HashMap<&CredentialId, usize> = HashMap::from([(&wanting, 1)]);
        for desk in self.desks.values() {
            *held.entry(desk.key.credential.id()).or_default() += 1;
        }
        let open = self.desks.iter().filter(|(_, desk)| desk.phase == Phase::Open);
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

#[cfg(test)]
pub mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use super::*;
    use crate::auth::credential::Wallet;
    use crate::names::RoleName;

    pub fn reader(name: &str) -> WorkerKey {
        WorkerKey { credential: Wallet::default().role(&RoleName::from(name)), class: WorkerClass::Reader }
    }

    pub fn exclusive(name: &str) -> WorkerKey {
        WorkerKey { class: WorkerClass::Exclusive, ..reader(name) }
    }

    const MS: Duration = Duration::from_millis(1);
    const START: Duration = Duration::from_millis(40);
    const END: Duration = Duration::from_millis(5);
    const FOREVER: Duration = Duration::from_secs(1_000_000);

    /// A worker of a play, with the times at which its statements began.
    #[derive(Clone, Debug, Default)]
    struct Toy {
        id: u64,
        began: Rc<RefCell<BTreeMap<usize, Instant>>>,
    }

    impl Member for Toy {
        fn is_cancelling(&self) -> bool {
            false
        }

        fn longest(&self, now: Instant) -> Duration {
            self.began.borrow().values().map(|began| now - *began).max().unwrap_or_default()
        }
    }

    #[derive(Debug)]
    struct Job {
        key: WorkerKey,
        alone: bool,
        takes: Duration,
        arrived: Duration,
        /// When it got its slot, and on which worker.
        served: Option<(Duration, u64)>,
        ticket: Option<Ticket>,
    }

    #[derive(Debug)]
    enum Event {
        Ends(usize, Toy),
        Comes(Booking),
        IsGone(u64),
    }

    /// Plays the pool's part: workers come and go after their time, statements end after theirs.
    struct Play {
        roster: Roster<Toy, usize>,
        began: Instant,
        now: Duration,
        events: BTreeMap<(Duration, u64), Event>,
        next: u64,
        jobs: Vec<Job>,
        ended: Vec<(u64, Retired)>,
        /// Keys in the order in which workers were started for them.
        started: Vec<WorkerKey>,
    }

    impl Play {
        fn new(rules: Rules) -> Self {
            Self {
                roster: Roster::new(rules),
                began: Instant::now(),
                now: Duration::ZERO,
                events: BTreeMap::new(),
                next: 1,
                jobs: Vec::new(),
                ended: Vec::new(),
                started: Vec::new(),
            }
        }

        fn at(&self) -> Instant {
            self.began + self.now
        }

        fn later(&mut self, after: Duration, event: Event) {
            self.next += 1;
            self.events.insert((self.now + after, self.next), event);
        }

        fn serve(&mut self, job: usize, toy: Toy) {
            self.jobs[job].served = Some((self.now, toy.id));
            toy.began.borrow_mut().insert(job, self.at());
            self.later(self.jobs[job].takes, Event::Ends(job, toy));
        }

        fn perform(&mut self) {
            for effect in self.roster.effects() {
                match effect {
                    Effect::Give(job, toy) => self.serve(job, toy),
                    Effect::Start(booking) => {
                        self.started.push(booking.key.clone());
                        self.later(START, Event::Comes(booking));
                    }
                    Effect::End(toy, why) => {
                        assert!(toy.began.borrow().is_empty(), "{why:?} cuts {toy:?}");
                        self.ended.push((toy.id, why));
                        self.later(END, Event::IsGone(toy.id));
                    }
                }
            }
            self.check();
        }

        fn check(&self) {
            let roster = &self.roster;
            assert!(roster.desks.len() + roster.starting <= roster.rules.places);
            for (id, desk) in &roster.desks {
                assert!(desk.running <= roster.rules.slots(desk.key.class), "{desk:?}");
                assert_eq!(desk.running, desk.member.began.borrow().len(), "{desk:?}");
                let free = desk.phase == Phase::Open && desk.running < roster.rules.slots(desk.key.class);
                let servable = roster.queue.servable(&desk.key, roster.free_alone(&desk.key));
                assert!(!free || servable == 0, "{servable} wait for {id}: {desk:?}");
            }
            let some_wait = !roster.queue.first.is_empty() && !roster.closed;
            assert!(!some_wait || roster.leaving > 0 || roster.look_at.is_some(), "nobody looks after those who wait");
        }

        fn arrive(&mut self, key: &WorkerKey, alone: bool, takes: Duration) -> usize {
            let job = self.jobs.len();
            let arrived = self.now;
            self.jobs.push(Job { key: key.clone(), alone, takes, arrived, served: None, ticket: None });
            match self.roster.take(key, alone, self.at()) {
                Some(toy) => self.serve(job, toy),
                None => self.jobs[job].ticket = Some(self.roster.wait(key, alone, job, self.at())),
            }
            self.perform();
            job
        }

        fn leave(&mut self, job: usize) {
            let ticket = self.jobs[job].ticket.take().expect("it waited");
            self.roster.leave(&ticket, self.at());
            self.perform();
        }

        /// Plays on for so long.
        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            loop {
                let event = self.events.first_key_value().map(|((at, _), _)| *at);
                let look = self.roster.look_at().map(|at| at - self.began);
                let Some(next) = event.into_iter().chain(look).min().filter(|at| *at <= end) else { break };
                assert!(next >= self.now, "a look in the past");
                self.now = next;
                if event == Some(next) {
                    let (_, event) = self.events.pop_first().expect("an event");
                    self.happens(event);
                } else {
                    let arranged = self.roster.look_at();
                    self.roster.look(self.began + next);
                    assert_ne!(self.roster.look_at(), arranged, "it looks for ever");
                }
                self.perform();
            }
            self.now = end;
        }

        fn happens(&mut self, event: Event) {
            let now = self.at();
            match event {
                Event::Ends(job, toy) => {
                    toy.began.borrow_mut().remove(&job);
                    self.roster.release(toy.id, now);
                }
                Event::Comes(booking) => {
                    self.next += 1;
                    self.roster.joined(&booking, self.next, Toy { id: self.next, ..Toy::default() }, now);
                }
                Event::IsGone(id) => self.roster.gone(id, now),
            }
        }

        fn waited(&self, job: usize) -> Option<Duration> {
            self.jobs[job].served.map(|(at, _)| at - self.jobs[job].arrived)
        }

        fn worker(&self, job: usize) -> u64 {
            self.jobs[job].served.expect("it was served").1
        }

        /// Starts again with a statement of the same kind whenever one ends, for so long.
        fn hog(&mut self, key: &WorkerKey, at_once: usize, takes: Duration, time: Duration) {
            let end = self.now + time;
            let mut own: Vec<usize> = (0..at_once).map(|_| self.arrive(key, false, takes)).collect();
            while self.now < end {
                self.pass(MS);
                for job in &mut own {
                    if self.jobs[*job].served.is_some_and(|(at, _)| at + takes <= self.now) {
                        *job = self.arrive(key, false, takes);
                    }
                }
            }
        }
    }

    fn rules(places: usize) -> Rules {
        let (second, turn) = (Duration::from_secs(1), Duration::from_secs(2));
        Rules { places, reader_slots: 4, readers_per_key: 2, exclusive_per_key: 2, queue: 1000, queue_timeout: 30 * second, turn }
    }

    #[test]
    fn a_free_slot_is_taken_at_once_and_a_freed_one_goes_to_the_first_in_line() {
        let mut play = Play::new(Rules { readers_per_key: 1, reader_slots: 1, ..rules(1) });
        let jobs: Vec<usize> = (0..3).map(|_| play.arrive(&reader("ana"), false, 100 * MS)).collect();
        assert_eq!(play.started, [reader("ana")]);
        play.pass(START);
        assert_eq!((play.waited(jobs[0]), play.waited(jobs[1])), (Some(START), None));
        play.pass(100 * MS);
        // Who comes just when a slot is freed does not overtake the third.
        let late = play.arrive(&reader("ana"), false, 100 * MS);
        assert_eq!((play.waited(jobs[1]), play.waited(late)), (Some(START + 100 * MS), None));
        play.pass(200 * MS);
        assert_eq!(play.waited(jobs[2]), Some(START + 200 * MS));
        assert_eq!(play.waited(late), Some(200 * MS));
        play.pass(100 * MS);
        let free = play.arrive(&reader("ana"), false, 100 * MS);
        assert_eq!((play.waited(free), play.started.len()), (Some(Duration::ZERO), 1));
    }

    #[test]
    fn a_hundred_keys_take_two_places_in_the_order_of_their_coming() {
        let mut play = Play::new(rules(2));
        let keys: Vec<WorkerKey> = (0..100).map(|n| reader(&n.to_string())).collect();
        for key in &keys {
            play.arrive(key, false, 10 * MS);
        }
        play.pass(Duration::from_secs(10));
        assert_eq!(play.started, keys);
        let last = play.waited(99).expect("served");
        // Nobody waits for more than the changes of those before: start, statement, linger, end.
        assert!(last <= 50 * (START + 10 * MS + LINGER + END), "{last:?}");
        assert_eq!((play.roster.queue.len(), play.roster.queue.lines()), (0, 0));
        assert!(play.roster.keys() <= 2, "{:?}", play.roster.groups);
    }

    #[test]
    fn two_hundred_waiting_statements_delay_a_newcomer_by_one_turn() {
        let mut play = Play::new(rules(2));
        let takes = 300 * MS;
        for _ in 0..200 {
            play.arrive(&reader("ana"), false, takes);
        }
        play.pass(10 * MS);
        let bob = play.arrive(&reader("bob"), false, 10 * MS);
        play.pass(Duration::from_secs(60));
        let waited = play.waited(bob).expect("served");
        assert!(waited <= 2_000 * MS + takes + END + START, "{waited:?}");
        assert!((0..200).all(|job| play.waited(job).is_some()), "somebody was forgotten");
    }

    #[test]
    fn nobody_starves_while_others_send_without_end() {
        let mut play = Play::new(rules(2));
        let newcomers = 3;
        for name in ["ana", "bob"] {
            play.hog(&reader(name), 6, 50 * MS, 200 * MS);
        }
        let mut worst = Duration::ZERO;
        for round in 0..newcomers {
            let job = play.arrive(&reader(&format!("cleo {round}")), false, 50 * MS);
            // Both others have a statement at any time.
            for _ in 0..80 {
                play.hog(&reader("ana"), 6, 50 * MS, 50 * MS);
                play.hog(&reader("bob"), 6, 50 * MS, 50 * MS);
            }
            worst = worst.max(play.waited(job).expect("served"));
        }
        assert!(worst <= Duration::from_secs(5), "{worst:?}");
    }

    #[test]
    fn an_idle_worker_makes_room_after_a_moment_the_least_recently_used_first() {
        let mut play = Play::new(rules(2));
        let ana = play.arrive(&reader("ana"), false, 10 * MS);
        let bob = play.arrive(&reader("bob"), false, 10 * MS);
        play.pass(START + 20 * MS);
        play.arrive(&reader("ana"), false, 10 * MS);
        play.pass(10 * MS);
        let cleo = play.arrive(&reader("cleo"), false, 10 * MS);
        // Bob has had nothing to do for 20 ms.
        assert_eq!(play.ended, [(play.worker(bob), Retired::Evicted)]);
        play.pass(END + START);
        assert_eq!(play.waited(cleo), Some(END + START));
        let dora = play.arrive(&reader("dora"), false, 10 * MS);
        assert_eq!(play.ended[1], (play.worker(ana), Retired::Evicted));
        play.pass(END + START);
        // Cleo's is idle since 35 ms, dora's runs.
        let eve = play.arrive(&reader("eve"), false, 10 * MS);
        assert_eq!(play.ended[2], (play.worker(cleo), Retired::Evicted));
        play.pass(END + START + 10 * MS);
        assert!(play.waited(dora).is_some() && play.waited(eve) == Some(END + START));
        // Eve's has just become idle, dora's 45 ms ago.
        play.arrive(&reader("fay"), false, 10 * MS);
        assert_eq!(play.ended[3].0, play.worker(dora));
    }

    #[test]
    fn who_comes_back_within_a_moment_keeps_the_worker() {
        let mut play = Play::new(rules(1));
        let first = play.arrive(&reader("ana"), false, 10 * MS);
        play.pass(START + 5 * MS);
        let bob = play.arrive(&reader("bob"), false, 10 * MS);
        play.pass(10 * MS);
        let again = play.arrive(&reader("ana"), false, 10 * MS);
        assert_eq!(play.worker(again), play.worker(first));
        play.pass(10 * MS + LINGER + END + START);
        assert!(play.waited(bob).is_some(), "{:?}", play.roster);
    }

    #[test]
    fn a_second_worker_yields_before_anybody_s_only_one() {
        let mut play = Play::new(rules(3));
        let bob = play.arrive(&reader("bob"), false, FOREVER);
        play.pass(100 * MS);
        let ana: Vec<usize> = (0..8).map(|_| play.arrive(&reader("ana"), false, 300 * MS)).collect();
        play.pass(100 * MS);
        assert_eq!(play.started, [reader("bob"), reader("ana"), reader("ana")]);
        for _ in 0..20 {
            play.arrive(&reader("ana"), false, 300 * MS);
        }
        let cleo = play.arrive(&reader("cleo"), false, 10 * MS);
        play.pass(Duration::from_secs(4));
        assert!(play.waited(cleo).is_some_and(|waited| waited <= 2_400 * MS), "{:?}", play.waited(cleo));
        assert_ne!(play.ended[0].0, play.worker(bob));
        assert!(ana.iter().any(|job| play.worker(*job) == play.ended[0].0));
    }

    #[test]
    fn a_credential_s_own_worker_yields_to_its_other_class() {
        let mut play = Play::new(rules(2));
        play.arrive(&reader("bob"), false, 10 * MS);
        play.pass(50 * MS);
        let bob = play.arrive(&reader("bob"), false, FOREVER);
        let ana = play.arrive(&reader("ana"), false, 2_100 * MS);
        play.pass(100 * MS);
        let write = play.arrive(&exclusive("ana"), false, 10 * MS);
        play.pass(Duration::from_secs(3));
        // Although bob has had his for longer.
        assert_eq!(play.ended, [(play.worker(ana), Retired::Evicted)]);
        assert!(play.waited(write).is_some() && play.worker(bob) != play.worker(ana));
    }

    #[test]
    fn what_runs_is_never_cut_and_a_worker_that_yields_in_vain_serves_again() {
        let mut play = Play::new(Rules { readers_per_key: 1, ..rules(1) });
        let long = play.arrive(&reader("ana"), false, Duration::from_secs(20));
        play.pass(START);
        let bob = play.arrive(&reader("bob"), false, 10 * MS);
        play.pass(3_000 * MS);
        // Its worker yields by now.
        let short = play.arrive(&reader("ana"), false, 10 * MS);
        play.pass(1_000 * MS);
        assert_eq!((play.waited(short), play.waited(bob), play.ended.len()), (None, None, 0));
        play.leave(bob);
        assert_eq!(play.waited(short), Some(1_000 * MS));
        assert_eq!(play.worker(short), play.worker(long));
        play.pass(FOREVER);
        assert!(play.ended.is_empty(), "{:?}", play.ended);
    }

    #[test]
    fn a_worker_that_ends_soon_yields_before_one_that_does_not() {
        let mut play = Play::new(rules(2));
        play.arrive(&reader("ana"), false, FOREVER);
        play.pass(100 * MS);
        play.hog(&reader("bob"), 4, 100 * MS, Duration::from_secs(3));
        let cleo = play.arrive(&reader("cleo"), false, 10 * MS);
        play.hog(&reader("bob"), 4, 100 * MS, Duration::from_secs(4));
        assert!(play.waited(cleo).is_some_and(|waited| waited < 2_300 * MS), "{:?}", play.waited(cleo));
    }

    #[test]
    fn a_worker_is_added_where_a_place_is_free_and_elsewhere_only_after_a_turn() {
        let mut play = Play::new(rules(2));
        let writes: Vec<usize> = (0..2).map(|_| play.arrive(&exclusive("ana"), false, FOREVER)).collect();
        assert_eq!(play.started, [exclusive("ana"), exclusive("ana")]);
        play.pass(START);
        assert!(writes.iter().all(|job| play.waited(*job).is_some()));

        let mut play = Play::new(rules(2));
        let bob = play.arrive(&reader("bob"), false, 10 * MS);
        play.pass(START);
        let writes: Vec<usize> = (0..2).map(|_| play.arrive(&exclusive("ana"), false, FOREVER)).collect();
        play.pass(1_900 * MS);
        assert!(play.ended.is_empty() && play.waited(writes[1]).is_none(), "she has one already");
        play.pass(200 * MS);
        assert_eq!(play.ended, [(play.worker(bob), Retired::Evicted)]);
        assert!(play.waited(writes[1]).is_some());
    }

    #[test]
    fn lone_reads_leave_one_worker_to_writes() {
        let mut play = Play::new(rules(4));
        let (one, two) = (play.arrive(&exclusive("ana"), true, 500 * MS), play.arrive(&exclusive("ana"), true, 500 * MS));
        play.pass(START);
        let write = play.arrive(&exclusive("ana"), false, 100 * MS);
        play.pass(START);
        assert_eq!((play.waited(one), play.waited(two), play.waited(write)), (Some(START), None, Some(START)));
        play.pass(400 * MS);
        // The write is done; the second read waits although its worker is free.
        assert_eq!(play.waited(two), None);
        let third = play.arrive(&exclusive("ana"), true, 10 * MS);
        play.pass(100 * MS);
        assert!(play.waited(two).is_some() && play.waited(third).is_none());
        play.pass(500 * MS);
        assert!(play.waited(third).is_some());
    }

    #[test]
    fn who_leaves_the_queue_costs_no_worker_and_leaves_nothing() {
        let mut play = Play::new(rules(1));
        play.arrive(&reader("ana"), false, 100 * MS);
        play.pass(START);
        let (bob, cleo) = (play.arrive(&reader("bob"), false, 10 * MS), play.arrive(&reader("cleo"), false, 10 * MS));
        assert!(play.roster.full(play.at()).is_none());
        play.leave(bob);
        assert_eq!((play.roster.waiting(), play.roster.queue.first.len(), play.roster.keys()), (1, 1, 1));
        play.pass(1_000 * MS);
        assert!(play.waited(cleo).is_some() && play.waited(bob).is_none());
        assert_eq!(play.started, [reader("ana"), reader("cleo")]);
    }

    #[test]
    fn a_full_queue_says_how_many_wait_and_for_how_long() {
        let mut play = Play::new(Rules { queue: 3, ..rules(1) });
        play.arrive(&reader("ana"), false, FOREVER);
        play.pass(START);
        for _ in 0..3 {
            assert_eq!(play.roster.full(play.at()), None);
            play.arrive(&reader("bob"), false, FOREVER);
            play.pass(MS);
        }
        assert_eq!(play.roster.full(play.at()), Some((3, 3 * MS)));
    }

    #[test]
    fn a_start_that_fails_is_told_to_one_and_the_next_one_has_a_start_of_its_own() {
        let mut roster: Roster<Toy, usize> = Roster::new(rules(1));
        let now = Instant::now();
        for job in 0..2 {
            roster.wait(&reader("ana"), false, job, now);
        }
        for job in 0..2 {
            let effects = roster.effects();
            let [Effect::Start(booking)] = &effects[..] else { panic!("{effects:?}") };
            assert_eq!(roster.failed(booking, now), Some(job));
        }
        assert_eq!((roster.effects().len(), roster.keys(), roster.waiting(), roster.starting), (0, 0, 0, 0));
    }

    #[test]
    fn a_further_worker_that_does_not_start_costs_nobody_anything_and_is_not_tried_for_ever() {
        let mut play = Play::new(Rules { reader_slots: 1, ..rules(2) });
        let first = play.arrive(&reader("ana"), false, 100 * MS);
        play.pass(START);
        let second = play.roster.wait(&reader("ana"), false, 9, play.at());
        let effects = play.roster.effects();
        let [Effect::Start(booking)] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(play.roster.failed(booking, play.at()), None);
        assert_eq!((play.roster.effects().len(), play.roster.waiting()), (0, 1));
        // It still has the other's slot when that is free.
        let worker = play.worker(first);
        play.events.clear();
        play.roster.release(worker, play.at());
        let effects = play.roster.effects();
        assert!(matches!(&effects[..], [Effect::Give(9, toy)] if toy.id == worker), "{effects:?}");
        play.roster.leave(&second, play.at());
        assert_eq!((play.roster.waiting(), play.roster.starting, play.roster.effects().len()), (0, 0, 0));
    }

    #[test]
    fn those_who_wait_for_a_worker_that_dies_get_another() {
        let mut play = Play::new(Rules { readers_per_key: 1, reader_slots: 1, ..rules(1) });
        let first = play.arrive(&reader("ana"), false, FOREVER);
        let second = play.arrive(&reader("ana"), false, 10 * MS);
        play.pass(START);
        let dead = play.worker(first);
        // Nothing more comes of what ran there.
        play.events.clear();
        let toy = play.roster.members().remove(0);
        toy.began.borrow_mut().clear();
        play.roster.release(dead, play.at());
        assert!(matches!(&play.roster.effects()[..], [Effect::Give(job, _)] if *job == second), "the slot is handed on");
        let third = play.roster.wait(&reader("ana"), false, 9, play.at());
        play.roster.leaving(dead, play.at());
        assert!(play.roster.effects().is_empty(), "its place is not free yet");
        play.roster.gone(dead, play.at());
        assert!(matches!(&play.roster.effects()[..], [Effect::Start(booking)] if booking.key == third.key));
        play.roster.release(dead, play.at());
        assert_eq!((play.roster.keys(), play.roster.waiting()), (1, 1));
    }

    #[test]
    fn a_revoked_credential_s_workers_take_nothing_more_even_those_on_their_way() {
        let mut play = Play::new(rules(4));
        let running = play.arrive(&reader("ana"), false, 500 * MS);
        play.arrive(&reader("bob"), false, 500 * MS);
        play.pass(START);
        let write = play.arrive(&exclusive("ana"), false, 100 * MS);
        let cut = play.roster.revoke(reader("ana").credential.id(), play.at());
        play.perform();
        assert_eq!(cut.iter().map(|toy| toy.id).collect::<Vec<_>>(), [play.worker(running)]);
        let later = play.arrive(&reader("ana"), false, 10 * MS);
        play.pass(START);
        // The write's worker was on its way, and is not used; a new one is.
        assert_eq!(play.waited(write), None);
        assert_eq!(play.ended.len(), 1);
        assert_ne!(play.worker(later), play.worker(running));
        play.pass(1_000 * MS);
        assert!(play.waited(write).is_some());
        let revoked: Vec<u64> = play.ended.iter().filter(|(_, why)| *why == Retired::Revoked).map(|(id, _)| *id).collect();
        assert_eq!(revoked.len(), 2);
        assert!(revoked.contains(&play.worker(running)));
    }

    #[test]
    fn when_it_is_shut_everybody_is_sent_away_and_nobody_is_served() {
        let mut play = Play::new(rules(1));
        play.arrive(&reader("ana"), false, 100 * MS);
        let waiting: Vec<usize> = (0..5).map(|_| play.arrive(&reader("bob"), false, 10 * MS)).collect();
        let mut sent = play.roster.shut();
        sent.sort_unstable();
        assert_eq!(sent[1..], waiting[..]);
        assert_eq!(play.roster.take(&reader("ana"), false, play.at()).map(|toy| toy.id), None);
        play.pass(1_000 * MS);
        // The one that was on its way is ended when it comes.
        assert_eq!(play.ended.len(), 1);
        assert_eq!((play.started.len(), play.roster.keys(), play.roster.members().len()), (1, 0, 0));
    }

    /// Numbers that look random and are the same each time.
    fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |sides| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        }
    }

    #[test]
    fn whatever_comes_in_whatever_order_everybody_is_served_and_nothing_is_left() {
        for seed in 0..40 {
            let mut roll = dice(seed);
            let mut play = Play::new(Rules { places: 1 + roll(4) as usize, ..rules(1) });
            let keys = 1 + roll(30);
            for _ in 0..300 {
                let name = roll(keys).to_string();
                let (key, alone) = match roll(6) {
                    0 => (exclusive(&name), true),
                    1 => (exclusive(&name), false),
                    _ => (reader(&name), false),
                };
                let longest = if roll(20) == 0 { 5_000 } else { 100 };
                let takes = MS * u32::try_from(1 + roll(longest)).expect("small");
                let job = play.arrive(&key, alone, takes);
                play.pass(MS * u32::try_from(roll(40)).expect("small"));
                if roll(10) == 0 && play.waited(job).is_none() {
                    play.leave(job);
                    play.jobs[job].takes = FOREVER;
                }
            }
            play.pass(Duration::from_secs(600));
            for job in &play.jobs {
                assert!(job.served.is_some() || job.takes == FOREVER, "seed {seed}: {job:?}");
                assert!(!(job.alone && job.key.class == WorkerClass::Reader));
            }
            let places = play.roster.rules.places;
            assert!(play.roster.keys() <= places && play.roster.queue.lines() == 0, "seed {seed}: {:?}", play.roster);
            for id in play.roster.desks.keys().copied().collect::<Vec<_>>() {
                play.roster.end_idle(id, Retired::Idle, Duration::ZERO, play.at());
            }
            play.perform();
            play.pass(END);
            assert_eq!((play.roster.keys(), play.roster.members().len(), play.roster.leaving), (0, 0, 0), "seed {seed}");
        }
    }

    #[test]
    fn turns_are_shorter_where_many_wait() {
        let rules = rules(2);
        assert_eq!(rules.turn(1), Duration::from_secs(2));
        assert_eq!(rules.turn(15), Duration::from_secs(2));
        assert_eq!(rules.turn(30), Duration::from_secs(1));
        assert_eq!(rules.turn(500), SHORTEST_TURN);
        assert_eq!(Rules { turn: 50 * MS, ..rules }.turn(500), 50 * MS);
    }
}
