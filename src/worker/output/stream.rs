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

/// A batch of this size goes out as it is.
const WIDE_BYTES: usize = 256 << 10;

/// Narrow batches are gathered up to this size.
const GATHERED_BYTES: usize = 512 << 10;

/// No frame is larger, unless a single row is.
const FRAME_BYTES: usize = 2 << 20;

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

/// Sends the batches of one statement. The first goes out at once; later narrow ones are gathered.
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

    /// Takes the next rows.
    pub fn push(&mut self, Measured { batch, bytes }: Measured) -> Result<(), StreamError> {
        self.rows += batch.num_rows() as u64;
        if !std::mem::replace(&mut self.sent_first, true) || bytes >= WIDE_BYTES {
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
        let batches = std::mem::take(&mut self.gathered);
        match batches.as_slice() {
            [] => Ok(()),
            [one] => self.send(one, bytes),
            [first, ..] => self.send(&concat_batches(first.schema_ref(), &batches)?, bytes),
        }
    }

    /// Sends what is held back. Returns the number of rows sent in all.
    pub fn finish(mut self) -> Result<u64, StreamError> {
        self.flush()?;
        Ok(self.rows)
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
