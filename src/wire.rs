//! Owns the language between gateway and worker: the generated control messages, the frame header, and their reading and writing on
//! a blocking socket. Refuses to know what a statement is, and never decodes Arrow data: a frame's payload passes through whole.
//!
//! A control socket carries only length-prefixed protobuf (`u32` little-endian, then the message). A data socket carries frames in
//! both directions:
//!
//! ```text
//! bytes 0..4   payload length, u32 LE
//! byte  4      kind (FrameKind)
//! byte  5      0
//! bytes 6..8   offset of the IPC header in the payload, u16 LE   (SCHEMA and BATCH only)
//! bytes 8..12  length of the IPC header, u32 LE                  (SCHEMA and BATCH only)
//! bytes 12..16 offset of the IPC body in the payload, u32 LE     (SCHEMA and BATCH only)
//! ```
//!
//! The payload of SCHEMA and BATCH is a whole gRPC message (5-byte prefix, protobuf `FlightData`), so that the gateway can hand on
//! slices of it without decoding or copying them.

use std::io::{self, Read, Write};

use prost::Message;

#[expect(missing_docs, clippy::all, reason = "generated from proto/worker.proto, which is documented")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/polynya.worker.v1.rs"));
}

/// Length of a frame header in bytes.
pub const HEADER_LEN: usize = 16;

/// A message above this is a broken peer, not a message. The gateway holds each as a whole, rows of a result too.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// What a frame's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// gateway → worker: protobuf `Request`.
    Request = 1,
    /// gateway → worker: protobuf `Proceed`.
    Proceed = 2,
    /// Both ways: a gRPC `FlightData` message with an IPC schema.
    Schema = 3,
    /// Both ways: a gRPC `FlightData` message with an IPC record batch.
    Batch = 4,
    /// gateway → worker: the client's batches end here (ingest); no payload.
    EndOfInput = 5,
    /// worker → gateway: protobuf `Judged`.
    Judged = 6,
    /// worker → gateway: protobuf `Described`; ends the statement.
    Described = 7,
    /// worker → gateway: protobuf `Done`; ends the statement.
    Done = 8,
    /// worker → gateway: protobuf `Failure`; ends the statement.
    Failed = 9,
}

impl FrameKind {
    fn from_byte(byte: u8) -> io::Result<Self> {
        Ok(match byte {
            1 => Self::Request,
            2 => Self::Proceed,
            3 => Self::Schema,
            4 => Self::Batch,
            5 => Self::EndOfInput,
            6 => Self::Judged,
            7 => Self::Described,
            8 => Self::Done,
            9 => Self::Failed,
            other => return Err(invalid(format!("unknown frame kind {other}"))),
        })
    }
}

/// The 16 bytes before each payload on a data socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Length of the payload in bytes.
    pub len: u32,
    /// What the payload is.
    pub kind: FrameKind,
    /// Where the IPC header stands in the payload.
    pub header_at: u16,
    /// Length of the IPC header in bytes.
    pub header_len: u32,
    /// Where the IPC body stands in the payload; it reaches to the end.
    pub body_at: u32,
}

impl FrameHeader {
    /// A header for a payload that is not Arrow data.
    pub fn plain(kind: FrameKind, len: usize) -> io::Result<Self> {
        Ok(Self {
            len: u32::try_from(len).map_err(|_| invalid("frame above 4 GB"))?,
            kind,
            header_at: 0,
            header_len: 0,
            body_at: 0,
        })
    }

    /// The header as it goes over the socket.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[6..8].copy_from_slice(&self.header_at.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.header_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.body_at.to_le_bytes());
        bytes
    }

    /// Reads a header, and refuses offsets that point outside the payload.
    pub fn from_bytes(bytes: [u8; HEADER_LEN]) -> io::Result<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header = Self {
            len: u32_at(0),
            kind: FrameKind::from_byte(bytes[4])?,
            header_at: u16::from_le_bytes([bytes[6], bytes[7]]),
            header_len: u32_at(8),
            body_at: u32_at(12),
        };
        let header_end = u64::from(header.header_at) + u64::from(header.header_len);
        if header_end > u64::from(header.len) || header.body_at > header.len {
            return Err(invalid("frame offsets outside its payload"));
        }
        Ok(header)
    }
}

/// Writes one frame with a protobuf payload.
pub fn write_message(socket: &mut impl Write, kind: FrameKind, message: &impl Message) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + message.encoded_len());
    bytes.extend_from_slice(&FrameHeader::plain(kind, message.encoded_len())?.to_bytes());
    message.encode(&mut bytes).map_err(invalid)?;
    socket.write_all(&bytes)
}

/// Reads one frame whole; `None` when the peer closed the socket between two frames.
pub fn read_frame(socket: &mut impl Read) -> io::Result<Option<(FrameHeader, Vec<u8>)>> {
    let mut bytes = [0; HEADER_LEN];
    if !read_or_end(socket, &mut bytes)? {
        return Ok(None);
    }
    let header = FrameHeader::from_bytes(bytes)?;
    let mut payload = vec![0; header.len as usize];
    socket.read_exact(&mut payload)?;
    Ok(Some((header, payload)))
}

/// Writes one length-prefixed message to a control socket.
pub fn write_control(socket: &mut impl Write, message: &impl Message) -> io::Result<()> {
    socket.write_all(&encode_control(message)?)
}

/// One length-prefixed message as bytes.
pub fn encode_control(message: &impl Message) -> io::Result<Vec<u8>> {
    let len = u32::try_from(message.encoded_len()).map_err(invalid)?;
    let mut bytes = Vec::with_capacity(4 + message.encoded_len());
    bytes.extend_from_slice(&len.to_le_bytes());
    message.encode(&mut bytes).map_err(invalid)?;
    Ok(bytes)
}

/// Reads one length-prefixed message; `None` when the peer closed the socket.
pub fn read_control<M: Message + Default>(socket: &mut impl Read) -> io::Result<Option<M>> {
    let mut prefix = [0; 4];
    if !read_or_end(socket, &mut prefix)? {
        return Ok(None);
    }
    let len = u32::from_le_bytes(prefix) as usize;
    if len > MAX_MESSAGE_BYTES {
        return Err(invalid(format!("control message of {len} bytes")));
    }
    let mut bytes = vec![0; len];
    socket.read_exact(&mut bytes)?;
    M::decode(bytes.as_slice()).map(Some).map_err(invalid)
}

/// Fills `bytes`, or says `false` when the peer closed the socket before the first byte.
fn read_or_end(socket: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < bytes.len() {
        match socket.read(&mut bytes[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}
