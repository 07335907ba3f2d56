//! Owns the control socket and with it the life of the worker: open, attach, serve, end. Refuses to look into statements.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::binding::{Instance, version};
use super::connection::{DataConnection, Shared};
use super::database;
use super::failure::StatementError;
use super::guard::{self, STACK_BYTES};
use super::harden;
use super::judge::{Bench, JudgeFn};
use super::statements::Statements;
use crate::wire::proto::failure::Kind;
use crate::wire::proto::{Attach, Attached, Control, Init, Mode, Ready, control, event};
use crate::wire::read_control;

/// The data socket in the worker's directory.
pub const DATA_SOCKET: &str = "worker.sock";

/// How long statements may take to end after the control socket has closed: no worker outlives its gateway by two seconds.
const ENDING: Duration = Duration::from_secs(1);

/// Pause after a data connection that could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The gateway closed the control socket and nothing is left in work.
    Orderly,
    /// It could not be set up; the gateway was told why.
    NotSetUp,
    /// The instance is unusable or something is stuck in it: leave without closing it.
    Stuck,
}

/// Serves one gateway on this control socket until it closes. The process belongs to the worker: the kernel confines it for good.
pub fn serve_on(control: UnixStream) -> io::Result<End> {
    serve(control, guard::judge, harden::confine)
}

/// The same in a process that does other things too and with another judge: for tests of everything but these.
#[cfg(test)]
pub(super) fn serve_judged_by(control: UnixStream, judge: JudgeFn) -> io::Result<End> {
    serve(control, judge, |_| {})
}

fn serve(control: UnixStream, judge: JudgeFn, confine: fn(&Init)) -> io::Result<End> {
    let mut reader = control.try_clone()?;
    let Some(Control { message: Some(control::Message::Init(init)) }) = read_control(&mut reader)? else {
        return Ok(End::Orderly);
    };
    // Binds threads that start from here on, and no others.
    confine(&init);
    let statements = Statements::new(control.try_clone()?);
    let (instance, bench, listener) = match set_up(&init, judge) {
        Ok(parts) => parts,
        Err(error) => return fail(&statements, &error),
    };
    statements.tell(event::Message::Ready(Ready { duckdb_version: version() }))?;
    let shared =
        SharedParts { bench, instance, statements: Arc::clone(&statements), control: Arc::new(control), failed: Arc::default() };
    let mut acceptor = Acceptor::new(listener);
    if init.mode() == Mode::Local {
        acceptor.start(shared.build(None, Vec::new()))?;
    }
    let interrupting = Arc::clone(&statements);
    thread::Builder::new().name("interrupter".to_owned()).spawn(move || interrupting.interrupt_cancelled())?;
    while let Ok(Some(Control { message: Some(message) })) = read_control(&mut reader) {
        match message {
            control::Message::Cancel(cancel) => statements.cancel(cancel.statement_id),
            control::Message::Attach(attach) if !acceptor.started() => match shared.attach(&attach) {
                Ok((parts, attached)) => {
                    acceptor.start(parts)?;
                    statements.tell(event::Message::Attached(attached))?;
                }
                Err(error) => return fail(&statements, &error),
            },
            control::Message::Attach(_) | control::Message::Init(_) => warn!("a second set-up was ignored"),
        }
    }
    statements.close();
    let drained = acceptor.stop();
    let usable = !shared.failed.load(Ordering::Acquire);
    info!(drained, usable, "the control socket has closed");
    Ok(if drained && usable { End::Orderly } else { End::Stuck })
}

/// Whatever takes time and needs no catalog: a worker is set up before anybody waits for it.
fn set_up(init: &Init, judge: JudgeFn) -> Result<(Instance, Option<Bench>, UnixListener), StatementError> {
    let instance = database::open(init)?;
    let bench = (init.mode() != Mode::Local).then(|| Bench::open(judge)).transpose()?;
    let path = Path::new(&init.run_dir).join(DATA_SOCKET);
    let listener = UnixListener::bind(&path)
        .map_err(|e| StatementError::new(Kind::Internal, format!("cannot bind {}: {e}", path.display())))?;
    Ok((instance, bench, listener))
}

fn fail(statements: &Statements, error: &StatementError) -> io::Result<End> {
    error!(message = error.message, "the worker cannot be set up");
    statements.tell(event::Message::Failed(error.to_failure()))?;
    Ok(End::NotSetUp)
}

struct SharedParts {
    bench: Option<Bench>,
    instance: Instance,
    statements: Arc<Statements>,
    control: Arc<UnixStream>,
    failed: Arc<AtomicBool>,
}

impl SharedParts {
    fn attach(&self, attach: &Attach) -> Result<(Arc<Shared>, Attached), StatementError> {
        let attached = database::attach(&self.instance, attach)?;
        let catalogs = attach.catalogs.iter().map(|catalog| catalog.name.clone()).collect();
        Ok((self.build(self.bench.clone(), catalogs), attached))
    }

    fn build(&self, bench: Option<Bench>, catalogs: Vec<String>) -> Arc<Shared> {
        let (control, failed) = (Arc::clone(&self.control), Arc::clone(&self.failed));
        // The control thread wakes up as if the gateway had closed the socket.
        let end = move || {
            failed.store(true, Ordering::Release);
            if let Err(error) = control.shutdown(Shutdown::Read) {
                warn!(%error, "cannot end the control loop");
            }
        };
        Arc::new(Shared {
            instance: self.instance.clone(),
            bench,
            catalogs,
            statements: Arc::clone(&self.statements),
            end: Box::new(end),
        })
    }
}

/// Accepts data connections, a thread for each.
struct Acceptor {
    listener: Arc<UnixListener>,
    open: Arc<OpenConnections>,
    started: bool,
}

/// The data connections there are, so that they can be shut down from outside.
#[derive(Default)]
struct OpenConnections {
    sockets: Mutex<HashMap<u64, UnixStream>>,
    changed: Condvar,
    next: AtomicU64,
}

impl Acceptor {
    fn new(listener: UnixListener) -> Self {
        Self { listener: Arc::new(listener), open: Arc::default(), started: false }
    }

    fn started(&self) -> bool {
        self.started
    }

    fn start(&mut self, shared: Arc<Shared>) -> io::Result<()> {
        self.started = true;
        let (listener, open) = (Arc::clone(&self.listener), Arc::clone(&self.open));
        thread::Builder::new().name("accept".to_owned()).spawn(move || {
            loop {
                let accepted = listener.accept().and_then(|(socket, _)| open.spawn(socket, Arc::clone(&shared)));
                match accepted {
                    Ok(()) => {}
                    // The listener is shut down.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                    // Out of files or threads: a worker that took no connection any more would hang whoever comes.
                    Err(error) => {
                        warn!(%error, "a data connection was turned away");
                        thread::sleep(ACCEPT_PAUSE);
                    }
                }
            }
        })?;
        Ok(())
    }

    /// Shuts everything down; `true` when all connections have ended in time.
    fn stop(&self) -> bool {
        if let Err(error) = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both) {
            warn!(%error, "cannot shut the listener down");
        }
        let deadline = Instant::now() + ENDING;
        let mut sockets = self.open.lock();
        for socket in sockets.values() {
            // Errors mean that it is shut down already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        while !sockets.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            sockets = self.open.changed.wait_timeout(sockets, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl OpenConnections {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, UnixStream>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(self: &Arc<Self>, socket: UnixStream, shared: Arc<Shared>) -> io::Result<()> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, socket.try_clone()?);
        let open = Arc::clone(self);
        let thread = thread::Builder::new().name(format!("data-{id}")).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            let served = catch_unwind(AssertUnwindSafe(|| DataConnection::new(socket, shared).map(DataConnection::serve)));
            match served {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "a data connection cannot be served"),
                Err(_) => error!("a data connection's thread panicked"),
            }
            open.remove(id);
        });
        if spawned.is_err() {
            self.remove(id);
        }
        spawned.map(|_| ())
    }

    fn remove(&self, id: u64) {
        let socket = self.lock().remove(&id);
        if let Some(socket) = socket {
            // This copy would keep the peer from seeing the end.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }
}
