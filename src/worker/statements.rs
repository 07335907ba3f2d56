//! Owns which statements are in work, their cancellation, and the word to the gateway when one has ended. Refuses to know what
//! they do.

use std::collections::{HashMap, VecDeque};
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
    early_cancels: VecDeque<u64>,
    closed: bool,
}

struct Entry {
    interrupter: Interrupter,
    cancelled: Arc<AtomicBool>,
}

/// A statement in work. Dropping it takes it out of the table and tells the gateway that it has ended,
/// however far it came: the gateway may have given it up at any point.
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

    /// Takes a statement in. It may be cancelled already.
    #[must_use]
    pub fn begin(self: &Arc<Self>, id: u64, interrupter: Interrupter) -> Running {
        let mut table = self.lock();
        let early = table.early_cancels.contains(&id) || table.closed;
        let cancelled = Arc::new(AtomicBool::new(early));
        table.running.insert(id, Entry { interrupter, cancelled: Arc::clone(&cancelled) });
        drop(table);
        if early {
            self.changed.notify_all();
        }
        Running { id, cancelled, statements: Arc::clone(self) }
    }

    /// Cancels a statement, or remembers to when its request comes.
    pub fn cancel(&self, id: u64) {
        let mut table = self.lock();
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

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
        let closed = table.closed;
        drop(table);
        if closed {
            self.statements.changed.notify_all();
        }
        if let Err(error) = self.statements.tell(event::Message::Ended(Ended { statement_id: self.id })) {
            warn!(%error, "cannot tell the gateway that a statement has ended");
        }
    }
}
