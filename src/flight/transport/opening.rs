//! Owns connections until they are open: many at once, each with a deadline, and a limit on how many. It finds out what the client
//! speaks, shakes hands, and tells the log why a connection was refused. Refuses to serve calls.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::misdirected::{self, Beginning};
use super::places::{NoPlace, Place, Places};
use super::tls;
use crate::auth::certificate::PeerCertificate;
use crate::telemetry::Allowance;

/// When all places are taken, the connection that has waited longest gives up its own, but not before it has had this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Limits on connections, most of them on those that are not open yet.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long one may take to open.
    pub within: Duration,
    /// How many there may be at once.
    pub at_once: usize,
    /// How many there may be together with those that are open.
    pub open: usize,
    /// The same of those from one address.
    pub open_per_address: usize,
}

/// The bytes of an open connection.
pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An open connection.
pub(super) struct Open {
    pub(super) io: Io,
    pub(super) certificate: Option<Arc<PeerCertificate>>,
    pub(super) place: Place,
}

/// Why a connection did not open.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it sent nothing")]
    Nothing,
    #[error("it was not done within {0:?} (flight.handshake_timeout)")]
    Slow(Duration),
    #[error("others were waiting, and all places are taken (flight.max_handshakes)")]
    Cut,
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    #[error("it speaks plaintext, and this port speaks TLS")]
    Plaintext,
    #[error("it speaks TLS, and this port has none: it needs grpc://, or the gateway needs flight.tls")]
    Tls,
    #[error("its certificate cannot be read: {0}")]
    Certificate(String),
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("it broke off: {0}")]
    Broken(#[from] io::Error),
}

/// Connections that are about to open. Dropped, they end.
pub(super) struct Opening {
    tls: Option<tls::Current>,
    limits: Limits,
    /// One for each connection, taken for as long as it lasts.
    places: Places,
    running: JoinSet<Result<Open, (SocketAddr, Refusal)>>,
    /// Oldest first. Those that have ended are taken out late.
    waiting: VecDeque<Waiting>,
    complaints: Complaints,
}

struct Waiting {
    remote: SocketAddr,
    since: Instant,
    handle: AbortHandle,
    cut: bool,
}

impl Opening {
    pub(super) fn new(tls: Option<tls::Current>, limits: Limits) -> Self {
        let places = Places::new(limits.open, limits.open_per_address);
        Self { tls, limits, places, running: JoinSet::new(), waiting: VecDeque::new(), complaints: Complaints::default() }
    }

    /// Whether another may come.
    pub(super) fn has_room(&self) -> bool {
        self.running.len() < self.limits.at_once
    }

    /// Begins with one more; closes it when there are too many.
    pub(super) fn add(&mut self, io: TcpStream, remote: SocketAddr) {
        let place = match self.places.take(remote.ip()) {
            Ok(place) => place,
            Err(none) => return self.complaints.log(remote, &none.into()),
        };
        let config = self.tls.as_ref().map(|tls| Arc::clone(&tls.borrow()));
        let within = self.limits.within;
        let handle = self.running.spawn(async move {
            let opened = tokio::time::timeout(within, open(io, config, place)).await;
            opened.unwrap_or(Err(Refusal::Slow(within))).map_err(|refusal| (remote, refusal))
        });
        self.waiting.retain(|waiting| !waiting.handle.is_finished());
        self.waiting.push_back(Waiting { remote, since: Instant::now(), handle, cut: false });
    }

    /// Ready when one has ended: it is open, or it was refused. Nothing is lost when this is dropped.
    pub(super) async fn ended(&mut self) -> Option<Open> {
        match self.running.join_next().await {
            Some(Ok(Ok(open))) => return Some(open),
            Some(Ok(Err((remote, refusal)))) => self.complaints.log(remote, &refusal),
            // It was cut, which was said then.
            Some(Err(ended)) if ended.is_cancelled() => {}
            Some(Err(broken)) => tracing::error!(%broken, "opening a connection broke"),
            None => std::future::pending().await,
        }
        None
    }

    /// When the oldest must make room.
    pub(super) fn crowded_at(&self) -> Option<Instant> {
        let oldest = self.oldest().filter(|_| !self.has_room())?;
        Some(oldest.since + PATIENCE)
    }

    fn oldest(&self) -> Option<&Waiting> {
        self.waiting.iter().find(|waiting| !waiting.cut && !waiting.handle.is_finished())
    }

    /// Ends the oldest.
    pub(super) fn cut_oldest(&mut self) {
        let oldest = self.waiting.iter_mut().find(|waiting| !waiting.cut && !waiting.handle.is_finished());
        let Some(oldest) = oldest else { return };
        oldest.handle.abort();
        oldest.cut = true;
        self.complaints.log(oldest.remote, &Refusal::Cut);
    }
}

async fn open(io: TcpStream, config: Option<Arc<rustls::ServerConfig>>, place: Place) -> Result<Open, Refusal> {
    match (Beginning::of(&io).await?.ok_or(Refusal::Nothing)?, config) {
        (Beginning::Tls, Some(config)) => shake_hands(io, config, place).await,
        (Beginning::Plaintext, None) => Ok(Open { io: Io::Plain(io), certificate: None, place }),
        (Beginning::Tls, None) => {
            misdirected::tell_to_use_plaintext(io).await?;
            Err(Refusal::Tls)
        }
        (Beginning::Plaintext, Some(_)) => {
            misdirected::tell_to_use_tls(io).await?;
            Err(Refusal::Plaintext)
        }
    }
}

async fn shake_hands(io: TcpStream, config: Arc<rustls::ServerConfig>, place: Place) -> Result<Open, Refusal> {
    let stream = match TlsAcceptor::from(config).accept(io).into_fallible().await {
        Ok(stream) => stream,
        Err((error, io)) => {
            // The client is told why by an alert, and may still be sending its first call.
            misdirected::linger(io).await;
            return Err(Refusal::Handshake(error));
        }
    };
    let certificate = tls::peer_certificate(stream.get_ref().1.peer_certificates()).map_err(Refusal::Certificate)?;
    Ok(Open { io: Io::Tls(Box::new(stream)), certificate, place })
}

/// Tells the log of refused connections, but does not let strangers fill it.
#[derive(Default)]
struct Complaints(Allowance);

impl Complaints {
    fn log(&mut self, remote: SocketAddr, refusal: &Refusal) {
        // Load balancers look whether the port is open by connecting to it.
        if matches!(refusal, Refusal::Nothing) {
            tracing::debug!(%remote, "a connection was opened and closed");
            return;
        }
        let Some(untold) = self.0.line(StdInstant::now()) else { return };
        if untold > 0 {
            tracing::warn!(connections = untold, "more connections were refused, of which there is no line");
        }
        tracing::warn!(%remote, "a connection was refused: {refusal}");
    }
}
