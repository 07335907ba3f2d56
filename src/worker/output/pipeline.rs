//! Owns the two halves of sending a result: one thread asks DuckDB for batches, another encodes and writes them, so that DuckDB computes
//! while the socket takes bytes. Refuses to start the second thread for a result of one batch.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;

use arrow::record_batch::RecordBatch;

use super::stream::{ResultStream, StreamError};

/// Batches on their way from one thread to the other.
const QUEUE: usize = 4;

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

/// Sends what `next` gives until it gives `None`, as `convert` makes it. Returns the number of rows.
pub fn send_all<E: Send>(
    mut next: impl FnMut() -> Result<Option<RecordBatch>, E>,
    convert: impl FnMut(RecordBatch) -> Result<RecordBatch, Stopped<E>> + Send,
    stream: ResultStream,
    cancelled: &AtomicBool,
) -> Result<u64, Stopped<E>> {
    let mut sender = Sender { convert, stream };
    let mut next = || match next() {
        Ok(_) if cancelled.load(Ordering::Acquire) => Err(Stopped::Cancelled),
        Ok(batch) => Ok(batch),
        Err(error) => Err(Stopped::Failed(error)),
    };
    let Some(first) = next()? else {
        return sender.finish();
    };
    sender.take(first)?;
    let Some(second) = next()? else {
        return sender.finish();
    };
    thread::scope(|scope| {
        let (batches, queue) = mpsc::sync_channel(QUEUE);
        let thread = thread::Builder::new().name("sender".to_owned()).spawn_scoped(scope, move || sender.run(&queue));
        let thread = thread.map_err(Stopped::NoThread)?;
        let fetched = fetch(second, next, batches);
        // The sender's own error is why the fetching ended, where there is one.
        let rows = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        fetched.map(|()| rows)
    })
}

/// Hands over batches until there are no more, or the sender has ended.
fn fetch<E>(
    mut batch: RecordBatch,
    mut next: impl FnMut() -> Result<Option<RecordBatch>, Stopped<E>>,
    batches: SyncSender<RecordBatch>,
) -> Result<(), Stopped<E>> {
    while batches.send(batch).is_ok() {
        match next()? {
            Some(following) => batch = following,
            None => break,
        }
    }
    Ok(())
}

struct Sender<F> {
    convert: F,
    stream: ResultStream,
}

impl<F> Sender<F> {
    fn take<E>(&mut self, batch: RecordBatch) -> Result<(), Stopped<E>>
    where
        F: FnMut(RecordBatch) -> Result<RecordBatch, Stopped<E>>,
    {
        let batch = (self.convert)(batch)?;
        Ok(self.stream.push(batch)?)
    }

    fn run<E>(mut self, queue: &Receiver<RecordBatch>) -> Result<u64, Stopped<E>>
    where
        F: FnMut(RecordBatch) -> Result<RecordBatch, Stopped<E>>,
    {
        loop {
            let batch = match self.stream.due() {
                Some(wait) => queue.recv_timeout(wait),
                None => queue.recv().map_err(RecvTimeoutError::from),
            };
            match batch {
                Ok(batch) => self.take(batch)?,
                Err(RecvTimeoutError::Timeout) => self.stream.flush()?,
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            }
        }
    }

    fn finish<E>(self) -> Result<u64, Stopped<E>> {
        Ok(self.stream.finish()?)
    }
}
