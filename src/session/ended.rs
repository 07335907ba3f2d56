//! Owns which sessions have ended although their tokens are still good, so that none of them comes back by its token. Refuses to grow
//! without bound, and to let one of them come back for that: when it is full it refuses all that are as old as those it forgets.

use std::collections::BTreeSet;

use crate::names::SessionId;

/// When a session was opened, in milliseconds since 1970.
pub(super) type OpenedMs = u64;

/// Sessions that were closed or idle for too long.
#[derive(Debug)]
pub(super) struct Ended {
    max: usize,
    /// The oldest first. A token expires at a fixed time after its session was opened, so the oldest are also the first to be done with.
    sessions: BTreeSet<(OpenedMs, SessionId)>,
    /// What was opened then or before counts as ended.
    until: Option<OpenedMs>,
}

impl Ended {
    pub(super) fn new(max: usize) -> Self {
        Self { max, sessions: BTreeSet::new(), until: None }
    }

    pub(super) fn add(&mut self, opened: OpenedMs, id: SessionId) {
        self.sessions.insert((opened, id));
        while self.sessions.len() > self.max {
            let Some((forgotten, _)) = self.sessions.pop_first() else { return };
            self.until = self.until.max(Some(forgotten));
        }
    }

    pub(super) fn contains(&self, opened: OpenedMs, id: &SessionId) -> bool {
        Some(opened) <= self.until || self.sessions.contains(&(opened, id.clone()))
    }

    /// Forgets those that were opened before this, whose tokens have expired.
    pub(super) fn forget_before(&mut self, opened: OpenedMs) {
        self.sessions = self.sessions.split_off(&(opened, SessionId::from("")));
        self.until = self.until.filter(|until| *until >= opened);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> SessionId {
        n.to_string().into()
    }

    #[test]
    fn what_has_ended_never_comes_back_however_many_there_are() {
        let mut ended = Ended::new(10);
        for n in 0..100 {
            ended.add(n, id(n));
        }
        assert_eq!(ended.sessions.len(), 10);
        assert!((0..100).all(|n| ended.contains(n, &id(n))));
        assert!(!ended.contains(95, &id(1000)) && !ended.contains(100, &id(100)), "others go on");
        ended.forget_before(95);
        assert_eq!(ended.sessions.len(), 5);
        assert!(!ended.contains(5, &id(1000)) && ended.contains(95, &id(95)));
    }
}
