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

/// Rows of a full chunk of DuckDB: more are likely to follow.
const WHOLE_CHUNK: usize = 2048;

/// The largest first batch that waits a moment for the end of its result.
const SMALL_BYTES: usize = 32 << 10;

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

/// Sends the batches of one statement. The first goes out at once, a small one within two milliseconds; later narrow ones are gathered.
pub struct ResultStream {
    socket: DataSocket,
    cancelled: Arc<AtomicBool>,
    sent_first: bool,
    rows: u64,
    gathered: Vec<RecordBatch>,
    bytes: usize,
}

impl ResultStream {
    /// Begins with the schema's frame, which goes out with the first rows or the end.
    pub fn begin(socket: DataSocket, schema: &Schema, cancelled: Arc<AtomicBool>) -> Result<Self, StreamError> {
        socket.hold_frame(&encode::schema(schema)?);
        Ok(Self { socket, cancelled, sent_first: false, rows: 0, gathered: Vec::new(), bytes: 0 })
    }

    /// Takes the next rows.
    pub fn push(&mut self, batch: RecordBatch) -> Result<(), StreamError> {
        self.rows += batch.num_rows() as u64;
        let bytes = encode::batch_bytes(&batch);
        if !std::mem::replace(&mut self.sent_first, true) {
            return self.send_first(&batch, bytes);
        }
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

    /// The first rows go out without delay, but for a batch that is likely to be the only one.
    fn send_first(&self, batch: &RecordBatch, bytes: usize) -> Result<(), StreamError> {
        if batch.num_rows() < WHOLE_CHUNK && bytes <= SMALL_BYTES {
            return Ok(self.socket.write_frame_soon(&encode::batch(batch)?, &self.cancelled)?);
        }
        self.send(batch, bytes)
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
