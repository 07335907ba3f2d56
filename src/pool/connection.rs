//! Owns one data connection to a worker: frames out, frames in, one statement at a time. Refuses to decode Arrow data and to
//! decide when a statement ends; the lease does.

use std::io;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::wire::proto::{Described, Done, Failure, Judged};
use crate::wire::{FrameHeader, FrameKind, HEADER_LEN};

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

/// The reading half.
#[derive(Debug)]
pub struct Replies(OwnedReadHalf);

/// The writing half.
#[derive(Debug)]
pub struct Requests(OwnedWriteHalf);

/// Opens a connection to the worker that listens at `path`.
pub async fn open(path: &Path) -> io::Result<(Requests, Replies)> {
    let (read, write) = UnixStream::connect(path).await?.into_split();
    Ok((Requests(write), Replies(read)))
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
        let mut bytes = [0; HEADER_LEN];
        self.0.read_exact(&mut bytes).await?;
        let header = FrameHeader::from_bytes(bytes)?;
        let payload = read_payload(&mut self.0, header.len as usize).await?;
        decode(header, payload)
    }
}

async fn read_payload(socket: &mut (impl AsyncRead + Unpin), len: usize) -> io::Result<Bytes> {
    let mut payload = Vec::with_capacity(len);
    let mut rest = socket.take(len as u64);
    while payload.len() < len {
        if rest.read_buf(&mut payload).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(payload.into())
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
