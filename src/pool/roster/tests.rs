//! The books of the pool, as plain logic: no clock, no tasks, no processes.

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
            assert!(desk.phase != Phase::Yielding || desk.running > 0, "nothing will end it: {desk:?}");
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
fn a_worker_that_has_just_become_idle_ends_although_more_wait_than_it_has_places() {
    let mut play = Play::new(Rules { turn: 1_000 * MS, ..rules(2) });
    play.arrive(&reader("ana"), false, 30_000 * MS);
    let bob = play.arrive(&reader("bob"), false, 1_950 * MS);
    play.pass(1_000 * MS);
    let (cleo, dora) = (play.arrive(&reader("cleo"), false, 10 * MS), play.arrive(&reader("dora"), false, 10 * MS));
    // Bob's becomes idle at 1,990 ms; two are due at 2,000 ms, when it must not be taken yet.
    play.pass(1_500 * MS);
    assert_eq!(play.ended[0], (play.worker(bob), Retired::Evicted));
    assert_eq!(play.waited(cleo), Some(990 * MS + LINGER + END + START));
    assert_eq!(play.waited(dora), Some(990 * MS + 10 * MS + 2 * (LINGER + END + START)));
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
