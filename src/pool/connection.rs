//! Owns one data connection to a worker: frames out, frames in, one statement at a time. Refuses to decode Arrow data and to
//! decide when a statement ends; the lease does.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::wire::proto::{Described, Done, Failure, Judged};
use crate::wire::{FrameHeader, FrameKind, HEADER_LEN, MAX_MESSAGE_BYTES};

/// Bytes read at once while looking for a frame's header; more of a large payload would be copied.
const READ_AHEAD: usize = 8 << 10;

/// Large frames of one connection whose memory is kept.
const BUFFERS: usize = 4;

/// Larger ones are given back: of some rows each a little larger than the one before, none would be used again.
const LARGEST_KEPT: usize = 4 << 20;

/// Buffers differ by so much at least, so that frames of nearly the same size share them.
const BUFFER_STEP: usize = 64 << 10;

/// One Arrow IPC message as it passes through: the whole gRPC message, and where its parts stand in it.
#[derive(Clone, Debug)]
pub struct RawFrame {
    /// 5-byte gRPC prefix and protobuf `FlightData`.
    pub message: Bytes,
    /// The IPC flatbuffer.
    pub header: Bytes,
    /// The IPC body.
    pub body: Bytes,
}

/// What a worker answers.
#[derive(Debug)]
pub enum Reply {
    /// The guard's verdict.
    Judged(Judged),
    /// End of a Describe.
    Described(Described),
    /// The schema of the result; batches follow.
    Schema(RawFrame),
    /// One batch.
    Batch(RawFrame),
    /// End of a statement that worked.
    Done(Done),
    /// End of a statement that did not.
    Failed(Failure),
}

/// The reading half. Small frames come several at once, and are read so.
#[derive(Debug)]
pub struct Replies {
    socket: OwnedReadHalf,
    /// Read and not taken yet.
    ahead: BytesMut,
    buffers: Buffers,
}

/// The writing half.
#[derive(Debug)]
pub struct Requests(OwnedWriteHalf);

/// Opens a connection to the worker that listens at `path`.
pub async fn open(path: &Path) -> io::Result<(Requests, Replies)> {
    let (read, write) = UnixStream::connect(path).await?.into_split();
    Ok((Requests(write), Replies { socket: read, ahead: BytesMut::new(), buffers: Buffers::default() }))
}

impl Requests {
    /// Sends one protobuf frame.
    pub async fn message(&mut self, kind: FrameKind, message: &impl Message) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + message.encoded_len());
        crate::wire::write_message(&mut bytes, kind, message)?;
        self.0.write_all(&bytes).await
    }

    /// Sends one IPC message that a client sent; the prefix of a gRPC message is not needed in this direction.
    pub async fn ipc(&mut self, kind: FrameKind, header: &[u8], body: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::InvalidData, "an Arrow message above 4 GB");
        let frame = FrameHeader {
            len: u32::try_from(header.len() + body.len()).map_err(too_large)?,
            kind,
            header_at: 0,
            header_len: u32::try_from(header.len()).map_err(too_large)?,
            body_at: u32::try_from(header.len()).map_err(too_large)?,
        };
        self.0.write_all(&frame.to_bytes()).await?;
        self.0.write_all(header).await?;
        self.0.write_all(body).await
    }

    /// Says that the client's batches end here.
    pub async fn end_of_input(&mut self) -> io::Result<()> {
        self.0.write_all(&FrameHeader::plain(FrameKind::EndOfInput, 0)?.to_bytes()).await
    }
}

impl Replies {
    /// The next answer. The worker closing the connection is an error: it says how a statement ended.
    pub async fn next(&mut self) -> io::Result<Reply> {
        while self.ahead.len() < HEADER_LEN {
            self.ahead.reserve(READ_AHEAD);
            if self.socket.read_buf(&mut self.ahead).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut bytes = [0; HEADER_LEN];
        self.ahead.copy_to_slice(&mut bytes);
        let header = FrameHeader::from_bytes(bytes)?;
        if header.len as usize > MAX_MESSAGE_BYTES {
            let message = format!("a worker sent a {:?} frame of {} bytes", header.kind, header.len);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let payload = self.payload(header.len as usize).await?;
        if !matches!(header.kind, FrameKind::Schema | FrameKind::Batch) {
            // No large frame for some time.
            self.buffers = Buffers::default();
        }
        decode(header, payload)
    }

    /// What was read ahead of it, and the rest straight from the socket.
    async fn payload(&mut self, len: usize) -> io::Result<Bytes> {
        if len <= self.ahead.len() {
            return Ok(self.ahead.split_to(len).freeze());
        }
        let mut payload = self.buffers.take(len);
        payload.extend_from_slice(&self.ahead.split());
        let mut rest = (&mut self.socket).take((len - payload.len()) as u64);
        while payload.len() < len {
            if rest.read_buf(&mut payload).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let frame = payload.split().freeze();
        self.buffers.keep(payload);
        Ok(frame)
    }
}

/// The memory of large frames, used again when the client has got them: memory from the system must be cleared page by page.
#[derive(Debug, Default)]
struct Buffers(VecDeque<BytesMut>);

impl Buffers {
    /// An empty buffer of this capacity.
    fn take(&mut self, len: usize) -> BytesMut {
        // The oldest is the likeliest to be free.
        match self.0.iter_mut().position(|buffer| buffer.try_reclaim(len)) {
            Some(free) => self.0.swap_remove_back(free).unwrap_or_default(),
            None => BytesMut::with_capacity(len.next_multiple_of(BUFFER_STEP)),
        }
    }

    /// Takes back a buffer whose frame is under way.
    fn keep(&mut self, buffer: BytesMut) {
        if buffer.capacity() > LARGEST_KEPT {
            return;
        }
        if self.0.len() == BUFFERS {
            self.0.pop_front();
        }
        self.0.push_back(buffer);
    }
}

fn decode(header: FrameHeader, payload: Bytes) -> io::Result<Reply> {
    let invalid = |e: prost::DecodeError| io::Error::new(io::ErrorKind::InvalidData, e);
    Ok(match header.kind {
        FrameKind::Judged => Reply::Judged(Judged::decode(payload).map_err(invalid)?),
        FrameKind::Described => Reply::Described(Described::decode(payload).map_err(invalid)?),
        FrameKind::Schema => Reply::Schema(raw(header, payload)),
        FrameKind::Batch => Reply::Batch(raw(header, payload)),
        FrameKind::Done => Reply::Done(Done::decode(payload).map_err(invalid)?),
        FrameKind::Failed => Reply::Failed(Failure::decode(payload).map_err(invalid)?),
        FrameKind::Request | FrameKind::Proceed | FrameKind::EndOfInput => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a worker sent a frame that only the gateway sends"));
        }
    })
}

fn raw(header: FrameHeader, message: Bytes) -> RawFrame {
    let from = usize::from(header.header_at);
    let to = from + header.header_len as usize;
    RawFrame { header: message.slice(from..to), body: message.slice(header.body_at as usize..), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_above_the_limit_ends_the_connection_unread() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut replies = Replies { socket: ours.into_split().0, ahead: BytesMut::new(), buffers: Buffers::default() };
        let rows = FrameHeader::plain(FrameKind::Batch, 1 + MAX_MESSAGE_BYTES).unwrap();
        theirs.write_all(&rows.to_bytes()).await.unwrap();
        let error = replies.next().await.unwrap_err();
        assert_eq!(error.to_string(), "a worker sent a Batch frame of 67108865 bytes");
    }
}
