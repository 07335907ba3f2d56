//! Owns accepted connections: their socket options, an id for each, its peer's certificate, and the end of its sessions when it closes.
//! Refuses to bind an address, and to know what is said on a connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tonic::Extensions;
use tonic::transport::server::Connected;

use super::opening::{Io, Limits, Open, Opening};
use super::places::{Place, counted_as};
use super::tls;
use crate::auth::Recognised;
use crate::auth::certificate::PeerCertificate;
use crate::session::Sessions;

/// HTTP/2 begins with so many bytes from the client; from then on its pings find out whether the client is there.
const PREFACE_LEN: usize = 24;

/// Lost probes after which the system gives a connection up.
const LOST_PROBES: u32 = 3;

/// How long the port rests when the system cannot accept, as when there are no file handles left.
const REST: Duration = Duration::from_millis(50);

/// Names one accepted connection; never used again in the life of the process. Addresses are used again, so they are not names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub(in crate::flight) u64);

/// What each request carries of its connection, as a request extension.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Which connection.
    pub id: ConnectionId,
    /// The peer's address.
    pub remote: Option<SocketAddr>,
    /// The certificate that the peer has shown and that was verified; a call comes through only while it is valid. `None` without TLS,
    /// and where the peer showed none.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// What was logged in with on it.
    pub recognised: Arc<Recognised>,
}

impl ConnectionInfo {
    /// Of the connection that a request came in on, with or without TLS.
    pub(in crate::flight) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get::<Self>().cloned()
    }

    /// The number of the connection that a request came in on, which no other one has in the life of the process, and the address that
    /// its peer is counted by.
    #[must_use]
    pub fn peer_in(extensions: &Extensions) -> Option<(u64, Option<IpAddr>)> {
        extensions.get::<Self>().map(|info| (info.id.0, info.remote.map(|remote| counted_as(remote.ip()))))
    }
}

/// How connections are taken.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a new connection may take, and how many may be new at once.
    pub limits: Limits,
    /// After how long without a byte the system probes a connection.
    pub keepalive: Duration,
}

/// One accepted connection.
pub struct Connection {
    pub(super) io: Io,
    info: ConnectionInfo,
    beginning: Option<Beginning>,
    sessions: Sessions,
    /// Held for as long as the connection lasts.
    _place: Place,
}

/// A connection whose client has not sent the preface of HTTP/2 yet.
struct Beginning {
    until: Pin<Box<Sleep>>,
    missing: usize,
}

impl Connection {
    fn new(open: Open, within: Duration, sessions: Sessions) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let remote = open.io.socket().peer_addr().ok();
        let id = ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed));
        let beginning = Beginning { until: Box::pin(tokio::time::sleep(within)), missing: PREFACE_LEN };
        let info = ConnectionInfo { id, remote, certificate: open.certificate, recognised: Arc::default() };
        Self { io: open.io, info, beginning: Some(beginning), sessions, _place: open.place }
    }

    /// An error when the client takes too long to begin.
    fn poll_beginning(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(beginning) = &mut self.beginning else { return Ok(()) };
        if beginning.until.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        tracing::debug!(remote = ?self.info.remote, "a connection without HTTP/2 was closed (flight.handshake_timeout)");
        Err(io::ErrorKind::TimedOut.into())
    }

    fn has_read(&mut self, bytes: usize) {
        if let Some(beginning) = &mut self.beginning {
            beginning.missing = beginning.missing.saturating_sub(bytes);
            if beginning.missing == 0 {
                self.beginning = None;
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.sessions.end_connection(self.info.id.0);
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl Io {
    /// The socket below.
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(io) => io,
            Self::Tls(io) => io.get_ref().0,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        };
        match read {
            Poll::Pending => self.poll_beginning(cx)?,
            Poll::Ready(_) => self.has_read(buf.filled().len() - before),
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bytes),
            // It encrypts from the slices themselves.
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }
}

/// The connections that `listener` accepts, for `Server::serve_with_incoming_shutdown`; with `tls`, only those that shake hands.
pub fn connections(
    listener: TcpListener,
    sessions: Sessions,
    settings: Settings,
    tls: Option<tls::Current>,
) -> impl Stream<Item = io::Result<Connection>> {
    let port = Port { listener, sessions, settings, opening: Opening::new(tls, settings.limits) };
    futures::stream::unfold(port, |mut port| async move {
        let connection = port.next().await;
        Some((Ok(connection), port))
    })
}

struct Port {
    listener: TcpListener,
    sessions: Sessions,
    settings: Settings,
    opening: Opening,
}

impl Port {
    async fn next(&mut self) -> Connection {
        loop {
            let crowded_at = self.opening.crowded_at();
            let (is_crowded, crowded_at) = (crowded_at.is_some(), crowded_at.unwrap_or_else(Instant::now));
            tokio::select! {
                ended = self.opening.ended() => {
                    if let Some(open) = ended {
                        return Connection::new(open, self.settings.limits.within, self.sessions.clone());
                    }
                }
                accepted = self.listener.accept(), if self.opening.has_room() => match accepted {
                    Ok((io, remote)) => {
                        set_options(&io, self.settings.keepalive);
                        self.opening.add(io, remote);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(REST).await;
                    }
                },
                () = tokio::time::sleep_until(crowded_at), if is_crowded => self.opening.cut_oldest(),
            }
        }
    }
}

/// A socket that refuses an option still works.
fn set_options(io: &TcpStream, keepalive: Duration) {
    // Without it a small answer may wait 40 ms for the peer's acknowledgement.
    if let Err(error) = io.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let probed = sockopt::set_tcp_keepidle(io, keepalive)
        .and_then(|()| sockopt::set_tcp_keepintvl(io, keepalive))
        .and_then(|()| sockopt::set_tcp_keepcnt(io, LOST_PROBES))
        .and_then(|()| sockopt::set_socket_keepalive(io, true));
    if let Err(error) = probed {
        tracing::debug!(%error, "TCP keepalive could not be set");
    }
}
