//! Owns the port: it listens, stops listening and listens again on the same one, and connections that can be closed at any moment
//! without an answer. Refuses to know what is spoken on them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A server that can go and come back.
pub struct Server {
    pub address: SocketAddr,
    /// With TLS, its certificate in PEM, signed by nobody else.
    pub certificate: Option<String>,
    routes: Router,
    tls: Option<TlsAcceptor>,
    /// Held while it goes or comes.
    state: Mutex<State>,
}

enum State {
    /// Cancelled, it stops listening and closes its connections.
    Up(CancellationToken),
    /// The socket is bound and does not listen: connections are refused and nobody else takes the port.
    Down(TcpSocket),
}

impl Server {
    /// Listens on 127.0.0.1; port 0 chooses one.
    ///
    /// # Errors
    /// When the port is taken, or no certificate can be made.
    pub fn start(port: u16, with_tls: bool, routes: Router) -> io::Result<Self> {
        let (certificate, tls) = if with_tls { certified().map(|(pem, tls)| (Some(pem), Some(tls)))? } else { (None, None) };
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let up = serve(listener, tls.clone(), &routes);
        Ok(Self { address, certificate, routes, tls, state: Mutex::new(State::Up(up)) })
    }

    /// Closes all connections and refuses new ones.
    ///
    /// # Errors
    /// When the port cannot be kept.
    pub async fn down(&self) -> io::Result<()> {
        let mut state = self.state.lock().await;
        if let State::Up(up) = &*state {
            up.cancel();
            // The listener is closed by its own task, soon.
            let mut tries = 0;
            let socket = loop {
                match TcpStream::connect(self.address).await {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break bind(self.address)?,
                    _ if tries > 1000 => return Err(io::Error::other("the listener does not end")),
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
                tries += 1;
            };
            *state = State::Down(socket);
        }
        Ok(())
    }

    /// Listens again.
    ///
    /// # Errors
    /// When the port cannot be had again.
    pub async fn up(&self) -> io::Result<()> {
        let mut state = self.state.lock().await;
        if matches!(*state, State::Down(_)) {
            let previous = std::mem::replace(&mut *state, State::Up(CancellationToken::new()));
            if let State::Down(socket) = previous {
                *state = State::Up(serve(socket.listen(BACKLOG)?, self.tls.clone(), &self.routes));
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let State::Up(up) = self.state.get_mut() {
            up.cancel();
        }
    }
}

const BACKLOG: u32 = 1024;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections of the last time may still linger on the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A new certificate for this machine, in PEM, and what speaks TLS with it.
fn certified() -> io::Result<(String, TlsAcceptor)> {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((made.cert.pem(), TlsAcceptor::from(Arc::new(config))))
}

fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, routes: &Router) -> CancellationToken {
    let up = CancellationToken::new();
    let service = routes.clone().into_make_service_with_connect_info::<Line>();
    let listener = Door { listener, tls, handshakes: JoinSet::new(), up: up.clone() };
    let stop = up.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = axum::serve(listener, service) => {}
            () = stop.cancelled() => {}
        }
    });
    up
}

/// A listener whose connections can be closed.
struct Door {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    /// A client that is slow to shake hands keeps nobody waiting.
    handshakes: JoinSet<Option<(Socket, SocketAddr)>>,
    up: CancellationToken,
}

impl Door {
    fn wire(&self, socket: Socket) -> Wire {
        let closed = self.up.child_token();
        let waiting = Box::pin(closed.clone().cancelled_owned());
        Wire { socket, closed, waiting }
    }
}

impl Listener for Door {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            tokio::select! {
                (socket, peer) = Listener::accept(&mut self.listener) => {
                    let _ = socket.set_nodelay(true);
                    let Some(tls) = self.tls.clone() else { return (self.wire(Box::new(socket)), peer) };
                    self.handshakes.spawn(async move {
                        let shaken = tokio::time::timeout(HANDSHAKE, tls.accept(socket)).await.ok()?.ok()?;
                        Some((Box::new(shaken) as Socket, peer))
                    });
                }
                Some(shaken) = self.handshakes.join_next() => {
                    if let Ok(Some((socket, peer))) = shaken {
                        return (self.wire(socket), peer);
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// What a connection can do, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Socket = Box<dyn Stream>;

/// A connection that breaks when it is told to, for reads and writes alike.
struct Wire {
    socket: Socket,
    closed: CancellationToken,
    waiting: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    fn broken(&mut self, cx: &mut Context<'_>) -> bool {
        self.waiting.as_mut().poll(cx).is_ready()
    }
}

fn reset<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.broken(cx) { reset() } else { Pin::new(&mut *self.socket).poll_read(cx, buffer) }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.closed.is_cancelled() { reset() } else { Pin::new(&mut *self.socket).poll_write(cx, bytes) }
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.closed.is_cancelled() { reset() } else { Pin::new(&mut *self.socket).poll_write_vectored(cx, parts) }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket).poll_shutdown(cx)
    }
}

/// The connection of a request.
#[derive(Clone)]
pub struct Line(CancellationToken);

impl Line {
    /// Closes the connection: nothing that is answered on it arrives.
    pub fn cut(&self) {
        self.0.cancel();
    }
}

impl Connected<IncomingStream<'_, Door>> for Line {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(stream.io().closed.clone())
    }
}
