//! Owns which sessions have ended although their tokens are still good, so that none of them comes back by its token, and which have
//! only given way. Refuses to grow without bound, and to let an ended one come back for that: when it is full it refuses all that are as
//! old as those it forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use super::closed::{self, ClosedError, ClosedFile};
use crate::names::SessionId;

/// When a session was opened, in milliseconds since 1970.
pub(super) type OpenedMs = u64;

/// So many lines of the file may be of sessions that are forgotten, and then as many as are not.
const LINES_TOO_MANY: usize = 10_000;

/// Sessions that are not there any more.
#[derive(Debug)]
pub(super) struct Ended {
    max: usize,
    /// One that is not used for so long has ended.
    idle_ttl: Duration,
    /// The oldest first. A token expires at a fixed time after its session was opened, so the oldest are also the first to be done with.
    sessions: BTreeMap<(OpenedMs, SessionId), Gone>,
    /// What was opened then or before counts as ended.
    until: Option<OpenedMs>,
    /// Those that are there, and must not be made again from their tokens, which do not say enough of them.
    held: BTreeSet<(OpenedMs, SessionId)>,
    /// Where those that have ended outlive the process.
    file: Option<ClosedFile>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    /// Closed, or idle for too long.
    Ended,
    /// Made room for others; it was last used then.
    GaveWay(Instant),
}

impl Gone {
    fn has_ended(self, idle_ttl: Duration, now: Instant) -> bool {
        match self {
            Self::Ended => true,
            Self::GaveWay(used) => now.saturating_duration_since(used) >= idle_ttl,
        }
    }
}

impl Ended {
    pub(super) fn new(max: usize, idle_ttl: Duration) -> Self {
        Self { max, idle_ttl, sessions: BTreeMap::new(), until: None, held: BTreeSet::new(), file: None }
    }

    /// Takes over what the file says of sessions that were opened since, and writes all that follows there.
    pub(super) fn recall(&mut self, path: &Path, since: OpenedMs) -> Result<(), ClosedError> {
        let known = closed::read(path)?;
        self.until = self.until.max(known.until);
        for (opened, id) in known.sessions {
            self.insert(opened, id, Gone::Ended);
        }
        self.forget_before(since);
        self.file = Some(ClosedFile::write(path, self.until, self.ended())?);
        Ok(())
    }

    /// It is there, and counts as ended once the process is another one, or may be made again then.
    pub(super) fn hold(&mut self, opened: OpenedMs, id: &SessionId, held: bool) {
        let session = (opened, id.clone());
        let changed = if held { self.held.insert(session) } else { self.held.remove(&session) };
        match &mut self.file {
            Some(file) if changed && held => file.add(opened, id),
            Some(file) if changed => file.take_back(opened, id),
            _ => {}
        }
    }

    /// It has ended.
    pub(super) fn add(&mut self, opened: OpenedMs, id: SessionId) {
        // One that was held is written down already.
        let is_held = self.held.remove(&(opened, id.clone()));
        if let Some(file) = self.file.as_mut().filter(|_| !is_held) {
            file.add(opened, &id);
        }
        self.insert(opened, id, Gone::Ended);
    }

    /// It makes room for others, and may come back until it has been idle for too long.
    pub(super) fn give_way(&mut self, opened: OpenedMs, id: SessionId, used: Instant) {
        self.insert(opened, id, Gone::GaveWay(used));
    }

    /// It has come back.
    pub(super) fn come_back(&mut self, opened: OpenedMs, id: &SessionId) {
        self.sessions.remove(&(opened, id.clone()));
    }

    pub(super) fn contains(&self, opened: OpenedMs, id: &SessionId, now: Instant) -> bool {
        let gone = self.sessions.get(&(opened, id.clone()));
        Some(opened) <= self.until || gone.is_some_and(|gone| gone.has_ended(self.idle_ttl, now))
    }

    /// Ends those that gave way and have been idle for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        for ((opened, id), gone) in &mut self.sessions {
            if *gone != Gone::Ended && gone.has_ended(self.idle_ttl, now) {
                *gone = Gone::Ended;
                if let Some(file) = &mut self.file {
                    file.add(*opened, id);
                }
            }
        }
    }

    /// Forgets those that were opened before this, whose tokens have expired.
    pub(super) fn forget_before(&mut self, opened: OpenedMs) {
        self.sessions = self.sessions.split_off(&(opened, SessionId::from("")));
        self.held = self.held.split_off(&(opened, SessionId::from("")));
        self.until = self.until.filter(|until| *until >= opened);
        let Some(mut file) = self.file.take() else { return };
        if file.lines > LINES_TOO_MANY + 2 * (self.sessions.len() + self.held.len()) {
            file.rewrite(self.until, self.ended());
        }
        self.file = Some(file);
    }

    fn insert(&mut self, opened: OpenedMs, id: SessionId, gone: Gone) {
        self.sessions.insert((opened, id), gone);
        while self.sessions.len() > self.max {
            let Some(((forgotten, _), _)) = self.sessions.pop_first() else { return };
            self.until = self.until.max(Some(forgotten));
        }
    }

    fn ended(&self) -> impl Iterator<Item = &(OpenedMs, SessionId)> {
        self.sessions.iter().filter(|(_, gone)| **gone == Gone::Ended).map(|(session, _)| session).chain(&self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn id(n: u64) -> SessionId {
        n.to_string().into()
    }

    #[test]
    fn what_has_ended_never_comes_back_however_many_there_are() {
        let (mut ended, now) = (Ended::new(10, HOUR), Instant::now());
        for n in 0..100 {
            ended.add(n, id(n));
        }
        assert_eq!(ended.sessions.len(), 10);
        assert!((0..100).all(|n| ended.contains(n, &id(n), now)));
        assert!(!ended.contains(95, &id(1000), now) && !ended.contains(100, &id(100), now), "others go on");
        ended.forget_before(95);
        assert_eq!(ended.sessions.len(), 5);
        assert!(!ended.contains(5, &id(1000), now) && ended.contains(95, &id(95), now));
    }

    #[test]
    fn what_gave_way_comes_back_until_it_was_idle_for_too_long() {
        let (mut ended, now) = (Ended::new(10, HOUR), Instant::now());
        for n in 0..2 {
            ended.give_way(n, id(n), now);
        }
        assert!(!ended.contains(0, &id(0), now + HOUR / 2));
        ended.come_back(0, &id(0));
        ended.sweep(now + HOUR);
        assert_eq!(ended.ended().count(), 1);
        assert!(!ended.contains(0, &id(0), now + HOUR) && ended.contains(1, &id(1), now));
    }

    #[test]
    fn what_is_held_has_ended_after_a_restart_unless_it_was_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("closed");
        let now = Instant::now();
        let mut first = Ended::new(10, HOUR);
        first.recall(&path, 0).unwrap();
        for n in 0..3 {
            first.hold(n, &id(n), true);
        }
        first.hold(1, &id(1), false);
        first.hold(1, &id(1), false);
        first.add(2, id(2));
        assert!(!first.contains(0, &id(0), now), "it is there");
        drop(first);
        let mut second = Ended::new(10, HOUR);
        second.recall(&path, 0).unwrap();
        assert_eq!([0, 1, 2].map(|n| second.contains(n, &id(n), now)), [true, false, true]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "0 0\n2 2\n");
    }

    #[test]
    fn what_has_ended_is_known_after_a_restart_and_the_file_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("closed");
        let now = Instant::now();
        let start = |since| {
            let mut ended = Ended::new(5, HOUR);
            ended.recall(&path, since).unwrap();
            ended
        };
        let lines = || std::fs::read_to_string(&path).unwrap().lines().count();
        let mut first = start(0);
        for n in 0..8 {
            first.add(n, id(n));
        }
        first.give_way(9, id(9), now);
        drop(first);
        let mut second = start(0);
        assert!((0..8).all(|n| second.contains(n, &id(n), now)), "those that it had no room for, too");
        assert!(!second.contains(8, &id(8), now) && !second.contains(9, &id(9), now + 2 * HOUR));
        second.give_way(9, id(9), now);
        second.sweep(now + HOUR);
        drop(second);
        let mut third = start(6);
        assert!(third.contains(9, &id(9), now) && third.contains(7, &id(7), now));
        assert_eq!((lines(), third.contains(5, &id(5), now)), (3, false), "their tokens have expired");
        for n in 100..100 + 2 * LINES_TOO_MANY as u64 {
            third.add(n, id(n));
        }
        third.forget_before(7);
        assert!(lines() < 10, "{}", lines());
    }
}
