//! Owns how a result's batches become frames: how large a frame is, and which rows go out together. Refuses to know where the
//! batches come from, and how long rows may be held back: who pushes them says when to flush.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::encode;
use super::socket::DataSocket;
use crate::wire::MAX_MESSAGE_BYTES;

/// A batch of this size goes out as it is.
const WIDE_BYTES: usize = 256 << 10;

/// Narrow batches are gathered up to this size.
const GATHERED_BYTES: usize = 512 << 10;

/// No frame is larger, unless a single row is; of these none is larger than a message may be.
const FRAME_BYTES: usize = 2 << 20;

/// The last rows of a result go out with its end if they are no more than this: they are copied for it.
const LAST_BYTES: usize = 64 << 10;

/// Why rows cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer is gone or stalled, or the statement was cancelled while it waited; the connection must end.
    #[error("cannot send rows: {0}")]
    Socket(#[from] io::Error),
    /// The rows have no form on the wire.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    /// A single row of so many bytes.
    #[error("a row of the result has {} MB, the most is {}: select parts of its values", .0.div_ceil(1 << 20), MAX_MESSAGE_BYTES >> 20)]
    LargeRow(usize),
}

/// A batch with the bytes of its values, which are counted once.
pub struct Measured {
    batch: RecordBatch,
    /// See [`encode::batch_bytes`].
    pub bytes: usize,
}

impl Measured {
    /// Measures a batch.
    #[must_use]
    pub fn of(batch: RecordBatch) -> Self {
        Self { bytes: encode::batch_bytes(&batch), batch }
    }
}

/// Sends the batches of one statement. What is pushed first goes out at once; narrow ones are gathered, and the last go with the end.
pub struct ResultStream<'s> {
    socket: &'s DataSocket,
    cancelled: Arc<AtomicBool>,
    sent_first: bool,
    rows: u64,
    gathered: Vec<RecordBatch>,
    bytes: usize,
}

impl<'s> ResultStream<'s> {
    /// Begins with the schema's frame, which goes out with the first rows or the end.
    pub fn begin(socket: &'s DataSocket, schema: &Schema, cancelled: Arc<AtomicBool>) -> Result<Self, StreamError> {
        socket.hold_frame(&encode::schema(schema)?);
        Ok(Self { socket, cancelled, sent_first: false, rows: 0, gathered: Vec::new(), bytes: 0 })
    }

    /// Takes the next rows. Whether there are more is not known yet, so the first ones do not wait.
    pub fn push(&mut self, Measured { batch, bytes }: Measured) -> Result<(), StreamError> {
        if self.sent_first {
            return self.gather(Measured { batch, bytes });
        }
        self.sent_first = true;
        self.rows += batch.num_rows() as u64;
        self.send(&batch, bytes)
    }

    /// Takes rows that others follow at once, or the end.
    pub fn gather(&mut self, Measured { batch, bytes }: Measured) -> Result<(), StreamError> {
        self.rows += batch.num_rows() as u64;
        if bytes >= WIDE_BYTES {
            self.flush()?;
            return self.send(&batch, bytes);
        }
        self.gathered.push(batch);
        self.bytes += bytes;
        if self.bytes >= GATHERED_BYTES { self.flush() } else { Ok(()) }
    }

    /// Sends what is held back.
    pub fn flush(&mut self) -> Result<(), StreamError> {
        let bytes = std::mem::take(&mut self.bytes);
        match self.take_gathered()? {
            None => Ok(()),
            Some(batch) => self.send(&batch, bytes),
        }
    }

    /// Leaves the last rows to go out with the next message, the statement's end. Returns the number of rows in all.
    pub fn finish(mut self) -> Result<u64, StreamError> {
        if self.bytes > LAST_BYTES {
            self.flush()?;
        } else if let Some(batch) = self.take_gathered()? {
            self.socket.hold_frame(&encode::batch(&batch)?);
        }
        Ok(self.rows)
    }

    fn take_gathered(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let batches = std::mem::take(&mut self.gathered);
        match batches.as_slice() {
            [] => Ok(None),
            [_] => Ok(batches.into_iter().next()),
            [first, ..] => concat_batches(first.schema_ref(), &batches).map(Some),
        }
    }

    fn send(&self, batch: &RecordBatch, bytes: usize) -> Result<(), StreamError> {
        if bytes <= FRAME_BYTES || batch.num_rows() <= 1 {
            let frame = encode::batch(batch)?;
            if frame.payload_len() > MAX_MESSAGE_BYTES {
                return Err(StreamError::LargeRow(frame.payload_len()));
            }
            self.socket.write_frame(&frame, &self.cancelled)?;
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
