//! Owns the way of result batches to the data socket: the types that clients get, how large a frame is, how long rows may be held
//! back, and how long a stalled peer is waited for. Refuses to know where the batches come from.

use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arrow::array::ArrayRef;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::encode::{self, Encoded};
use crate::wire::{FrameHeader, FrameKind, HEADER_LEN, read_frame, write_message};

/// A batch of this size goes out as it is.
const WIDE_BYTES: usize = 256 << 10;

/// Narrow batches are gathered up to this size.
const GATHERED_BYTES: usize = 512 << 10;

/// No frame is larger, unless a single row is.
const FRAME_BYTES: usize = 2 << 20;

/// Rows wait no longer than this for others to join them.
const HELD_BACK: Duration = Duration::from_millis(50);

/// A peer that takes no byte for so long ends the statement: it pins a thread and a transaction.
const STALLED_AFTER: Duration = Duration::from_secs(300);

/// How often a waiting write looks whether the statement was cancelled. Set as the socket's time-out for writing.
const WRITE_SLICE: Duration = Duration::from_millis(500);

/// How often a waiting read does the same.
const READ_SLICE: Duration = Duration::from_millis(100);

/// The data socket: whole frames only, and patience with a peer that is slow.
#[derive(Clone)]
pub struct DataSocket(Arc<UnixStream>);

impl DataSocket {
    /// Takes over a connected socket.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_write_timeout(Some(WRITE_SLICE))?;
        Ok(Self(Arc::new(socket)))
    }

    /// The next frame; `None` when the peer has closed.
    pub fn read(&self) -> io::Result<Option<(FrameHeader, Vec<u8>)>> {
        read_frame(&mut &*self.0)
    }

    /// Waits until the peer has sent something or has closed; `false` when nobody wants it any longer.
    pub fn wait_readable(&self, gone: impl Fn() -> bool) -> io::Result<bool> {
        let slice = Timespec { tv_sec: 0, tv_nsec: i64::from(READ_SLICE.subsec_nanos()) };
        while !gone() {
            let mut sockets = [PollFd::new(&*self.0, PollFlags::IN)];
            match poll(&mut sockets, Some(&slice)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Writes a frame with a message.
    pub fn write_message(&self, kind: FrameKind, message: &impl prost::Message, cancelled: &AtomicBool) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + message.encoded_len());
        write_message(&mut bytes, kind, message)?;
        self.write(&mut [IoSlice::new(&bytes)], cancelled)
    }

    /// Writes a frame with Arrow data.
    pub fn write_frame(&self, frame: &Encoded, cancelled: &AtomicBool) -> io::Result<()> {
        self.write(&mut frame.slices(), cancelled)
    }

    /// Writes all bytes; gives up when cancelled or when the peer stalls. After an error the socket may hold half a frame: the
    /// connection must end.
    fn write(&self, mut rest: &mut [IoSlice<'_>], cancelled: &AtomicBool) -> io::Result<()> {
        let mut progress = Instant::now();
        while !rest.is_empty() {
            match (&*self.0).write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut rest, written);
                    progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if cancelled.load(Ordering::Acquire) || progress.elapsed() > STALLED_AFTER {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The schema that clients get: dictionaries become their values, views become plain text and bytes.
#[must_use]
pub fn client_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> =
        schema.fields().iter().map(|field| Field::new(field.name(), client_type(field.data_type()), true)).collect();
    Arc::new(Schema::new(fields))
}

/// The type that clients get for one of DuckDB's.
#[must_use]
pub fn client_type(data_type: &DataType) -> DataType {
    let child = |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(client_type(field.data_type())));
    match data_type {
        DataType::Dictionary(_, value) => client_type(value),
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(field) => DataType::List(child(field)),
        DataType::LargeList(field) => DataType::LargeList(child(field)),
        DataType::FixedSizeList(field, len) => DataType::FixedSizeList(child(field), *len),
        DataType::Map(field, sorted) => DataType::Map(child(field), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(child).collect::<Fields>()),
        other => other.clone(),
    }
}

/// A batch in the types of the client's schema.
pub fn client_batch(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let (_, columns, _) = batch.into_parts();
    let columns: Vec<ArrayRef> = columns
        .into_iter()
        .zip(schema.fields())
        .map(
            |(column, field)| if column.data_type() == field.data_type() { Ok(column) } else { cast(&column, field.data_type()) },
        )
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Sends the batches of one statement. The first goes out at once; later narrow ones are gathered.
pub struct ResultStream {
    outbox: Arc<Outbox>,
    flusher: Option<JoinHandle<()>>,
    sent_first: bool,
    rows: u64,
}

/// What the statement's thread and its flusher share. The lock is held while a frame is written, so that frames stay whole and in
/// order; nobody calls DuckDB under it.
struct Outbox {
    held: Mutex<Held>,
    changed: Condvar,
    socket: DataSocket,
    cancelled: Arc<AtomicBool>,
}

#[derive(Default)]
struct Held {
    batches: Vec<RecordBatch>,
    bytes: usize,
    since: Option<Instant>,
    failed: Option<StreamError>,
    closed: bool,
}

/// Why rows cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer is gone or stalled, or the statement was cancelled while it waited; the connection must end.
    #[error("cannot send rows: {0}")]
    Socket(#[from] io::Error),
    /// The rows have no form on the wire.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

impl ResultStream {
    /// Begins with the schema's frame.
    pub fn begin(socket: DataSocket, schema: &Schema, cancelled: Arc<AtomicBool>) -> Result<Self, StreamError> {
        socket.write_frame(&encode::schema(schema)?, &cancelled)?;
        let outbox = Arc::new(Outbox { held: Mutex::default(), changed: Condvar::new(), socket, cancelled });
        Ok(Self { outbox, flusher: None, sent_first: false, rows: 0 })
    }

    /// Takes the next rows.
    pub fn push(&mut self, batch: RecordBatch) -> Result<(), StreamError> {
        self.rows += batch.num_rows() as u64;
        let bytes = encode::batch_bytes(&batch);
        let mut held = self.outbox.lock();
        if let Some(error) = held.failed.take() {
            return Err(error);
        }
        if !self.sent_first || bytes >= WIDE_BYTES {
            self.sent_first = true;
            self.outbox.flush(&mut held)?;
            return self.outbox.send(&batch, bytes);
        }
        held.batches.push(batch);
        held.bytes += bytes;
        if held.bytes >= GATHERED_BYTES {
            return self.outbox.flush(&mut held);
        }
        if held.since.is_none() {
            held.since = Some(Instant::now());
            drop(held);
            self.wake_flusher();
        }
        Ok(())
    }

    /// Sends what is held back. Returns the number of rows sent in all.
    pub fn finish(mut self) -> Result<u64, StreamError> {
        let mut held = self.outbox.lock();
        let outcome = match held.failed.take() {
            Some(error) => Err(error),
            None => self.outbox.flush(&mut held),
        };
        drop(held);
        self.stop_flusher();
        outcome.map(|()| self.rows)
    }

    fn wake_flusher(&mut self) {
        if self.flusher.is_some() {
            self.outbox.changed.notify_one();
            return;
        }
        let outbox = Arc::clone(&self.outbox);
        // Without a thread rows are held back for longer, which is no reason to fail.
        self.flusher = thread::Builder::new().name("flusher".to_owned()).spawn(move || outbox.flush_when_due()).ok();
    }

    fn stop_flusher(&mut self) {
        self.outbox.lock().closed = true;
        self.outbox.changed.notify_one();
        if let Some(flusher) = self.flusher.take() {
            // It never panics while it holds the lock; there is nothing else to learn from it.
            let _ = flusher.join();
        }
    }
}

impl Drop for ResultStream {
    fn drop(&mut self) {
        self.stop_flusher();
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush_when_due(&self) {
        let mut held = self.lock();
        while !held.closed {
            let Some(since) = held.since else {
                held = self.changed.wait(held).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let waited = since.elapsed();
            if waited < HELD_BACK {
                let slept = self.changed.wait_timeout(held, HELD_BACK.saturating_sub(waited));
                held = slept.unwrap_or_else(PoisonError::into_inner).0;
            } else if let Err(error) = self.flush(&mut held) {
                held.failed = Some(error);
                return;
            }
        }
    }

    fn flush(&self, held: &mut Held) -> Result<(), StreamError> {
        held.since = None;
        let bytes = std::mem::take(&mut held.bytes);
        let batches = std::mem::take(&mut held.batches);
        match batches.as_slice() {
            [] => Ok(()),
            [one] => self.send(one, bytes),
            [first, ..] => self.send(&concat_batches(first.schema_ref(), &batches)?, bytes),
        }
    }

    fn send(&self, batch: &RecordBatch, bytes: usize) -> Result<(), StreamError> {
        if bytes <= FRAME_BYTES || batch.num_rows() <= 1 {
            self.socket.write_frame(&encode::batch(batch)?, &self.cancelled)?;
            return Ok(());
        }
        // Rows differ in size, so each half is measured anew.
        let half = batch.num_rows() / 2;
        for piece in [batch.slice(0, half), batch.slice(half, batch.num_rows() - half)] {
            self.send(&piece, encode::batch_bytes(&piece))?;
        }
        Ok(())
    }
}
