//! Owns what is said to clients that speak plaintext to a port with TLS, or TLS to a port without. Refuses to serve them.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a client of gRPC reads when it speaks plaintext to a port with TLS.
const WANTS_TLS: &str = "this port speaks TLS only: connect with grpc+tls:// (ADBC), useEncryption=true (JDBC)";
const _: () = assert!(WANTS_TLS.len() < 127, "longer texts have another length in front");

/// What others read there, and what a client of TLS reads at a port without. The latter calls it a broken record and shows its first
/// bytes, which says more of what is wrong than an alert would.
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\n";

/// The first bytes of every HTTP/2 connection.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client that sends more than this is not listened to any longer.
const MAX_BYTES: usize = 128 << 10;

/// How long a client may take to read what it was told, and to call once more; closing before could take it away again.
const LINGER: Duration = Duration::from_secs(1);

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM_AND_HEADERS: u8 = 5;

/// What a connection begins with, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A TLS handshake.
    Tls,
    /// Anything else.
    Plaintext,
}

impl Beginning {
    /// Looks at the first byte and leaves it where it is; `None` when the client went away without one.
    pub(super) async fn of(io: &TcpStream) -> io::Result<Option<Self>> {
        let mut first = [0];
        Ok(match (io.peek(&mut first).await?, first) {
            (0, _) => None,
            (_, [0x16]) => Some(Self::Tls),
            _ => Some(Self::Plaintext),
        })
    }
}

/// Tells a client in plaintext that the port wants TLS: gRPC clients by the status of their calls, others as well as can be.
pub(super) async fn tell_to_use_tls(mut io: TcpStream) -> io::Result<()> {
    let mut first = [0; PREFACE.len()];
    let read = io.peek(&mut first).await?;
    if PREFACE.starts_with(&first[..read]) {
        refuse_calls(&mut io).await?;
    } else {
        io.write_all(BAD_REQUEST).await?;
        io.write_all(WANTS_TLS.as_bytes()).await?;
    }
    linger(io).await;
    Ok(())
}

/// Tells a client of TLS that the port has none.
pub(super) async fn tell_to_use_plaintext(mut io: TcpStream) -> io::Result<()> {
    io.write_all(BAD_REQUEST).await?;
    io.write_all(b"this port speaks plaintext only: connect with grpc://").await?;
    linger(io).await;
    Ok(())
}

/// Ends the connection so that the last words arrive: unread bytes at the close would make the system throw them away.
pub(super) async fn linger(mut io: TcpStream) {
    let rest = async {
        let mut waste = [0; 4096];
        io.shutdown().await?;
        while io.read(&mut waste).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the client waits for it is up to the client.
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// Speaks as much HTTP/2 as it takes to end each call with a status, until the client sends none any more. A farewell right behind the
/// first answer would meet a second call on its way, whose client would then read of a connection that drains and not of TLS.
async fn refuse_calls(io: &mut TcpStream) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    io.read_exact(&mut preface).await?;
    io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let (mut left, mut last) = (MAX_BYTES, 0);
    while let Ok(stream) = tokio::time::timeout(LINGER, next_call(io, &mut left)).await {
        last = match stream {
            Ok(stream) => stream,
            // It has been told, and goes away.
            Err(_) if last != 0 => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut answer = vec![0x88];
        for (name, value) in [("content-type", "application/grpc"), ("grpc-status", "9"), ("grpc-message", WANTS_TLS)] {
            answer.extend(literal(name, value));
        }
        io.write_all(&frame(HEADERS, END_STREAM_AND_HEADERS, last, &answer)).await?;
    }
    let mut farewell = last.to_be_bytes().to_vec();
    farewell.extend([0; 4]);
    farewell.extend(WANTS_TLS.as_bytes());
    io.write_all(&frame(GOAWAY, 0, 0, &farewell)).await
}

/// The stream of the next call; takes what it reads off `left`.
async fn next_call(io: &mut TcpStream, left: &mut usize) -> io::Result<u32> {
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        *left = left.checked_sub(len + head.len()).ok_or(io::ErrorKind::InvalidData)?;
        let mut body = vec![0; len];
        io.read_exact(&mut body).await?;
        match kind {
            HEADERS => return Ok(u32::from_be_bytes(stream) & 0x7fff_ffff),
            SETTINGS if flags & ACK == 0 => io.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

/// A header as HPACK writes it in full: not indexed, not compressed, names and values below 127 bytes.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).unwrap_or_default());
        bytes.extend(text.as_bytes());
    }
    bytes
}
