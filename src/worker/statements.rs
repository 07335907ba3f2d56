//! Owns which statements are in work, their cancellation, and the word to the gateway that one has ended. Refuses to know what they do.
//!
//! That word is said only where the gateway may wait for it: of a statement that was cancelled, and of one whose connection the gateway
//! closed. Of all others the last frame says it, and a word more would wake the gateway once more for each.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;

use super::binding::Interrupter;
use crate::wire::proto::{Ended, Event, event};
use crate::wire::write_control;

/// Pause between two interrupts of a statement: one that comes before DuckDB starts is lost.
const INTERRUPT_EVERY: Duration = Duration::from_millis(20);

/// How many cancelled ids are remembered whose request has not arrived: the two sockets are not ordered.
const REMEMBERED_CANCELS: usize = 256;

/// The statements of one worker.
pub struct Statements {
    table: Mutex<Table>,
    /// Says that a statement was cancelled, or that all is over.
    changed: Condvar,
    /// The control socket's writing side.
    events: Mutex<UnixStream>,
}

#[derive(Default)]
struct Table {
    running: HashMap<u64, Entry>,
    /// Ended, and the gateway has not shown yet that it knows: the last statement of each connection at the most.
    untold: HashSet<u64>,
    early_cancels: VecDeque<u64>,
    closed: bool,
}

struct Entry {
    interrupter: Interrupter,
    cancelled: Arc<AtomicBool>,
}

/// The statements of one data connection, one after the other. Dropped when the connection ends: the gateway may have given up the last
/// one before it read how that ended, and is told.
pub struct InTurn {
    last: Option<u64>,
    statements: Arc<Statements>,
}

/// A statement in work. Dropping it takes it out of the table, however far it came; the gateway is told at once if it has cancelled it.
pub struct Running {
    id: u64,
    cancelled: Arc<AtomicBool>,
    statements: Arc<Statements>,
}

impl Statements {
    /// An empty table that reports to this control socket.
    #[must_use]
    pub fn new(events: UnixStream) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), changed: Condvar::new(), events: Mutex::new(events) })
    }

    /// The statements of a new data connection.
    #[must_use]
    pub fn in_turn(self: &Arc<Self>) -> InTurn {
        InTurn { last: None, statements: Arc::clone(self) }
    }

    /// Cancels a statement, or remembers to when its request comes. Of one that has ended the gateway is told so.
    pub fn cancel(&self, id: u64) {
        let mut table = self.lock();
        if table.untold.remove(&id) {
            drop(table);
            return self.tell_ended(id);
        }
        if let Some(entry) = table.running.get(&id) {
            entry.cancelled.store(true, Ordering::Release);
        } else {
            if table.early_cancels.len() == REMEMBERED_CANCELS {
                table.early_cancels.pop_front();
            }
            table.early_cancels.push_back(id);
        }
        drop(table);
        self.changed.notify_all();
    }

    /// Cancels everything, now and from now on.
    pub fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        for entry in table.running.values() {
            entry.cancelled.store(true, Ordering::Release);
        }
        drop(table);
        self.changed.notify_all();
    }

    /// Interrupts cancelled statements until each has ended; returns when all is over and none is left.
    pub fn interrupt_cancelled(&self) {
        let mut table = self.lock();
        loop {
            let mut any = false;
            for entry in table.running.values().filter(|entry| entry.cancelled.load(Ordering::Acquire)) {
                entry.interrupter.interrupt();
                any = true;
            }
            if table.closed && table.running.is_empty() {
                return;
            }
            table = if any {
                let waited = self.changed.wait_timeout(table, INTERRUPT_EVERY);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.changed.wait(table).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Sends an event on the control socket.
    pub fn tell(&self, message: event::Message) -> io::Result<()> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        write_control(&mut *events, &Event { message: Some(message) })
    }

    fn tell_ended(&self, id: u64) {
        if let Err(error) = self.tell(event::Message::Ended(Ended { statement_id: id })) {
            warn!(%error, "cannot tell the gateway that a statement has ended");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InTurn {
    /// Takes the connection's next statement in. It may be cancelled already. That it was sent here shows that the gateway knows how the
    /// last one ended.
    #[must_use]
    pub fn begin(&mut self, id: u64, interrupter: Interrupter) -> Running {
        let mut table = self.statements.lock();
        if let Some(last) = self.last.replace(id) {
            table.untold.remove(&last);
        }
        let early = table.early_cancels.contains(&id) || table.closed;
        let cancelled = Arc::new(AtomicBool::new(early));
        table.running.insert(id, Entry { interrupter, cancelled: Arc::clone(&cancelled) });
        drop(table);
        if early {
            self.statements.changed.notify_all();
        }
        Running { id, cancelled, statements: Arc::clone(&self.statements) }
    }
}

impl Drop for InTurn {
    fn drop(&mut self) {
        let Some(last) = self.last else { return };
        let untold = self.statements.lock().untold.remove(&last);
        if untold {
            self.statements.tell_ended(last);
        }
    }
}

impl Running {
    /// Somebody wants it to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// The flag itself, for who waits elsewhere on the statement's behalf.
    #[must_use]
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut table = self.statements.lock();
        table.running.remove(&self.id);
        // Looked at under the lock, so that a cancel is answered here or by itself.
        let cancelled = self.is_cancelled();
        if !cancelled {
            table.untold.insert(self.id);
        }
        let closed = table.closed;
        drop(table);
        if closed {
            self.statements.changed.notify_all();
        }
        if cancelled {
            self.statements.tell_ended(self.id);
        }
    }
}
