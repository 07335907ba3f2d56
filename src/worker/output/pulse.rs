//! Owns the thread that sends held rows when nothing else has sent them for a moment. Most results are one small batch and an end: sent
//! together they wake the gateway once. Refuses to wait for a peer: what a socket does not take at once goes with its next frame.

use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::socket::Outgoing;

/// Held rows wait for so long at least, and about twice as long at the most.
const BEAT: Duration = Duration::from_millis(1);

/// After so many beats without held rows the thread sleeps until it is woken; a busy worker never pays for waking it.
const IDLE_BEATS: u32 = 50;

/// The worker's only one.
static PULSE: LazyLock<Arc<Pulse>> = LazyLock::new(Pulse::start);

struct Pulse {
    waiting: Mutex<Waiting>,
    woken: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Held since the last beat.
    fresh: Vec<Weak<Outgoing>>,
    asleep: bool,
    /// There was no thread to be had: nothing may be held.
    broken: bool,
}

/// Asks for what a socket holds to be sent soon; `false` when nobody will.
pub(super) fn send_soon(outgoing: &Arc<Outgoing>) -> bool {
    let mut waiting = PULSE.waiting();
    if waiting.broken {
        return false;
    }
    waiting.fresh.push(Arc::downgrade(outgoing));
    if waiting.asleep {
        waiting.asleep = false;
        PULSE.woken.notify_one();
    }
    true
}

impl Pulse {
    fn start() -> Arc<Self> {
        let pulse = Arc::new(Self { waiting: Mutex::default(), woken: Condvar::new() });
        let beating = Arc::clone(&pulse);
        if let Err(error) = thread::Builder::new().name("pulse".to_owned()).spawn(move || beating.beat()) {
            tracing::warn!(%error, "small results are sent without delay: there is no thread for it");
            pulse.waiting().broken = true;
        }
        pulse
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self) {
        let (mut due, mut idle) = (Vec::new(), 0);
        loop {
            thread::sleep(BEAT);
            for outgoing in due.drain(..).filter_map(|outgoing: Weak<Outgoing>| outgoing.upgrade()) {
                outgoing.send_held();
            }
            let mut waiting = self.waiting();
            std::mem::swap(&mut due, &mut waiting.fresh);
            idle = if due.is_empty() { idle + 1 } else { 0 };
            if idle < IDLE_BEATS {
                continue;
            }
            waiting.asleep = true;
            while waiting.asleep {
                waiting = self.woken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            idle = 0;
        }
    }
}
