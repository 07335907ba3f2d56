//! Owns the record of every request: who asked for what, when, and what came of it. It loses none: a request stands in it from its
//! arrival on. Refuses to know bodies, tokens and secrets.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use super::faults::{Fault, Operation};

/// One request.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// Counted from the start of the log.
    pub number: usize,
    /// When it came, in milliseconds since the stand-in started.
    pub at_ms: u64,
    pub realm: String,
    pub operation: Operation,
    /// Whose token or client id it showed, if the stand-in knows it.
    pub principal: Option<String>,
    pub warehouse: Option<String>,
    /// `namespace` or `namespace.table`, levels joined by dots; at the token endpoint the last word of the grant type.
    pub target: Option<String>,
    /// Whether it asked for vended credentials.
    pub delegation: bool,
    /// Whether it named a version that it has already.
    pub conditional: bool,
    /// What went wrong on purpose.
    pub faults: Vec<Fault>,
    /// None while it waits, and for good when the client went away or the connection was closed on purpose.
    pub status: Option<u16>,
    pub took_ms: Option<u64>,
}

/// All requests since the start, or since it was cleared.
pub struct Log {
    started: Instant,
    /// Held for a push or a look.
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    /// Number of the first call in the list.
    first: usize,
    list: Vec<Call>,
}

/// A request in the log.
pub struct Entry {
    number: usize,
    arrived: Instant,
}

impl Log {
    pub fn new() -> Self {
        Self { started: Instant::now(), calls: Mutex::default() }
    }

    /// Records an arrival; number and time are set here.
    pub fn arrived(&self, mut call: Call) -> Entry {
        let arrived = Instant::now();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        call.number = calls.first + calls.list.len();
        call.at_ms = millis(arrived - self.started);
        let number = call.number;
        calls.list.push(call);
        Entry { number, arrived }
    }

    /// Records what was answered.
    pub fn answered(&self, entry: &Entry, status: Option<u16>) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let place = entry.number.checked_sub(calls.first);
        if let Some(call) = place.and_then(|place| calls.list.get_mut(place)) {
            call.status = status;
            call.took_ms = Some(millis(entry.arrived.elapsed()));
        }
    }

    /// Every request, in the order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).list.clone()
    }

    /// How often this was asked for by this principal.
    pub fn count(&self, operation: Operation, principal: &str) -> usize {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |call: &&Call| call.operation == operation && call.principal.as_deref() == Some(principal);
        calls.list.iter().filter(fits).count()
    }

    /// How often each was asked for, by principal; `None` is whoever showed nothing that is known.
    pub fn counts(&self) -> BTreeMap<(Operation, Option<String>), usize> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = BTreeMap::new();
        for call in &calls.list {
            *counts.entry((call.operation, call.principal.clone())).or_default() += 1;
        }
        counts
    }

    /// Forgets the requests so far.
    pub fn clear(&self) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.first += calls.list.len();
        calls.list.clear();
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
