//! Owns accepted connections: TCP_NODELAY, an id for each, and the end of its sessions when it closes. Refuses to bind an address or to
//! speak TLS; the server does both around it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::Extensions;
use tonic::transport::server::{Connected, TlsConnectInfo};

use crate::session::Sessions;

/// Names one accepted connection; never used again in the life of the process. Addresses are used again, so they are not names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub(in crate::flight) u64);

/// What each request carries of its connection, as a request extension.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionInfo {
    /// Which connection.
    pub id: ConnectionId,
    /// The peer's address.
    pub remote: Option<SocketAddr>,
}

impl ConnectionInfo {
    /// Of the connection that a request came in on, with or without TLS.
    pub(in crate::flight) fn of(extensions: &Extensions) -> Option<Self> {
        let plain = extensions.get::<Self>();
        plain.or_else(|| extensions.get::<TlsConnectInfo<Self>>().map(TlsConnectInfo::get_ref)).copied()
    }
}

/// One accepted connection.
pub struct Connection {
    io: TcpStream,
    id: ConnectionId,
    sessions: Sessions,
}

impl Connection {
    fn new(io: TcpStream, sessions: Sessions) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Without it a small answer may wait 40 ms for the peer's acknowledgement; a socket that refuses it still works.
        if let Err(error) = io.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        Self { io, id: ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed)), sessions }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.sessions.end_connection(self.id.0);
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo { id: self.id, remote: self.io.peer_addr().ok() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The connections that `listener` accepts, for `Server::serve_with_incoming_shutdown`.
pub fn connections(listener: TcpListener, sessions: Sessions) -> impl Stream<Item = io::Result<Connection>> {
    futures::stream::unfold((listener, sessions), |(listener, sessions)| async move {
        let accepted = listener.accept().await.map(|(io, _)| Connection::new(io, sessions.clone()));
        Some((accepted, (listener, sessions)))
    })
}
