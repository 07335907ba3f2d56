//! Owns the two halves of sending a result: one thread asks DuckDB for batches, another encodes and writes them, so that DuckDB computes
//! while the socket takes bytes. Refuses to start the second thread for a result of one batch, or for one that DuckDB has made already.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use arrow::record_batch::RecordBatch;

use super::stream::{Measured, ResultStream, StreamError};

/// Rows wait no longer than this for others to join them.
const HELD_BACK: Duration = Duration::from_millis(50);

/// The sender is woken for so much.
const WORTHWHILE_BYTES: usize = 256 << 10;

/// No more than this, and a batch, is between the two threads.
const FULL_BYTES: usize = 2 << 20;

/// Why not all rows were sent.
#[derive(Debug)]
pub enum Stopped<E> {
    /// DuckDB failed; the rows before that were sent.
    Failed(E),
    /// The rows cannot be sent.
    Stream(StreamError),
    /// The statement was cancelled.
    Cancelled,
    /// There is no thread to be had.
    NoThread(io::Error),
}

impl<E> From<StreamError> for Stopped<E> {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

/// Sends what `next` gives at once until it gives `None`. Returns the number of rows. Most results are like this: small, and DuckDB has all
/// of it before it gives the first row. They go out with their end, in one write if they can, which wakes the gateway once.
pub fn send_made<E>(
    mut next: impl FnMut() -> Result<Option<RecordBatch>, Stopped<E>>,
    mut stream: ResultStream<'_>,
    cancelled: &AtomicBool,
) -> Result<u64, Stopped<E>> {
    while let Some(batch) = next()? {
        if cancelled.load(Ordering::Acquire) {
            return Err(Stopped::Cancelled);
        }
        stream.gather(Measured::of(batch))?;
    }
    Ok(stream.finish()?)
}

/// Sends what `next` gives until it gives `None`. Returns the number of rows.
pub fn send_all<E: Send>(
    mut next: impl FnMut() -> Result<Option<RecordBatch>, Stopped<E>>,
    mut stream: ResultStream<'_>,
    cancelled: &AtomicBool,
) -> Result<u64, Stopped<E>> {
    let mut next = || match next()? {
        _ if cancelled.load(Ordering::Acquire) => Err(Stopped::Cancelled),
        batch => Ok(batch.map(Measured::of)),
    };
    let Some(first) = next()? else {
        return Ok(stream.finish()?);
    };
    stream.push(first)?;
    let Some(second) = next()? else {
        return Ok(stream.finish()?);
    };
    let handover = Handover::default();
    thread::scope(|scope| {
        let sending = || {
            let _gone = Gone(&handover);
            send(stream, &handover)
        };
        let thread = thread::Builder::new().name("sender".to_owned()).spawn_scoped(scope, sending).map_err(Stopped::NoThread)?;
        let fetched = fetch(second, next, &handover);
        handover.close();
        // The sender's own error is why the fetching ended, where there is one.
        let rows = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        fetched.map(|()| rows)
    })
}

/// Hands over batches until there are no more, or the sender has ended.
fn fetch<E>(
    mut batch: Measured,
    mut next: impl FnMut() -> Result<Option<Measured>, Stopped<E>>,
    handover: &Handover,
) -> Result<(), Stopped<E>> {
    while handover.give(batch) {
        match next()? {
            Some(following) => batch = following,
            None => break,
        }
    }
    Ok(())
}

/// Batches on their way from one thread to the other. The taker is woken for what is worth a message, not for each narrow batch.
#[derive(Default)]
struct Handover {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    batches: Vec<Measured>,
    bytes: usize,
    closed: bool,
    taker_gone: bool,
}

/// What the taker is woken for.
enum Taken {
    /// Enough for a message.
    Enough(Vec<Measured>),
    /// What came in time, or nothing: it waits no longer.
    Late(Vec<Measured>),
    End,
}

impl Handover {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room; `false` when nobody takes any more.
    fn give(&self, batch: Measured) -> bool {
        let full = |waiting: &mut Waiting| waiting.bytes >= FULL_BYTES && !waiting.taker_gone;
        let mut waiting = self.changed.wait_while(self.waiting(), full).unwrap_or_else(PoisonError::into_inner);
        let before = waiting.bytes;
        waiting.bytes += batch.bytes;
        waiting.batches.push(batch);
        if before < WORTHWHILE_BYTES && waiting.bytes >= WORTHWHILE_BYTES {
            self.changed.notify_one();
        }
        !waiting.taker_gone
    }

    /// Waits until there is enough for a message, the end, or `limit` is over.
    fn take(&self, limit: Duration) -> Taken {
        let little = |waiting: &mut Waiting| waiting.bytes < WORTHWHILE_BYTES && !waiting.closed;
        let waited = self.changed.wait_timeout_while(self.waiting(), limit, little);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        if waiting.batches.is_empty() && waiting.closed {
            return Taken::End;
        }
        let bytes = std::mem::take(&mut waiting.bytes);
        let batches = std::mem::take(&mut waiting.batches);
        self.changed.notify_one();
        if bytes >= WORTHWHILE_BYTES { Taken::Enough(batches) } else { Taken::Late(batches) }
    }

    fn close(&self) {
        self.waiting().closed = true;
        self.changed.notify_one();
    }
}

/// Tells the giver when the taker ends, however it does.
struct Gone<'a>(&'a Handover);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.waiting().taker_gone = true;
        self.0.changed.notify_one();
    }
}

/// Sends what is handed over until the end.
fn send(mut stream: ResultStream<'_>, handover: &Handover) -> Result<u64, StreamError> {
    loop {
        let (batches, late) = match handover.take(HELD_BACK) {
            Taken::Enough(batches) => (batches, false),
            Taken::Late(batches) => (batches, true),
            Taken::End => return stream.finish(),
        };
        for batch in batches {
            stream.push(batch)?;
        }
        if late {
            stream.flush()?;
        }
    }
}
