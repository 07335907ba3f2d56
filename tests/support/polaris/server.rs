//! Owns the port: it listens, stops listening and listens again on the same one, and connections that can be closed at any moment
//! without an answer. Refuses to know what is spoken on them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A server that can go and come back.
pub struct Server {
    pub address: SocketAddr,
    routes: Router,
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
    /// When the port is taken.
    pub fn start(port: u16, routes: Router) -> io::Result<Self> {
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let up = serve(listener, &routes);
        Ok(Self { address, routes, state: Mutex::new(State::Up(up)) })
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
                    _ => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
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
                *state = State::Up(serve(socket.listen(BACKLOG)?, &self.routes));
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

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections of the last time may still linger on the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn serve(listener: TcpListener, routes: &Router) -> CancellationToken {
    let up = CancellationToken::new();
    let service = routes.clone().into_make_service_with_connect_info::<Line>();
    let listener = Door { listener, up: up.clone() };
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
    up: CancellationToken,
}

impl Listener for Door {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        let (socket, peer) = Listener::accept(&mut self.listener).await;
        let _ = socket.set_nodelay(true);
        let closed = self.up.child_token();
        let waiting = Box::pin(closed.clone().cancelled_owned());
        (Wire { socket, closed, waiting }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that breaks when it is told to, for reads and writes alike.
struct Wire {
    socket: TcpStream,
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
        if self.broken(cx) { reset() } else { Pin::new(&mut self.socket).poll_read(cx, buffer) }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.closed.is_cancelled() { reset() } else { Pin::new(&mut self.socket).poll_write(cx, bytes) }
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.closed.is_cancelled() { reset() } else { Pin::new(&mut self.socket).poll_write_vectored(cx, parts) }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
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
