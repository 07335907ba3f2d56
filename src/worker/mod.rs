//! The other process: one DuckDB instance, attached once, that runs judged statements for the gateway over a Unix socket. The only
//! user of DuckDB, and the only place where a crash or a full memory may happen without harm to others.
//!
//! ```text
//! control socket (fd 0)   Init → Ready → Attach → Attached → Cancel* ; Ended of what the gateway gave up ; ends the process when it closes
//! data sockets            REQUEST → JUDGED → (PROCEED) → DESCRIBED | SCHEMA BATCH* DONE | FAILED ; one thread a connection
//! ```
//!
//! The process is started in its own directory: relative names that DuckDB still allows itself must lead nowhere else.
//! It refuses to know principals, tokens of the real catalogs, and any client protocol.

mod binding;
mod connection;
mod control;
mod database;
mod failure;
pub mod guard;
mod harden;
mod input;
mod judge;
mod listing;
mod once;
mod output;
mod past;
mod plans;
mod statements;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::process::{Signal, getpid, kill_process};
use tracing::error;

pub use control::{DATA_SOCKET, End, serve_on};

/// The worker process. Its control socket is fd 0; its log is stderr. Returns when the control socket has closed.
#[must_use]
pub fn run() -> ExitCode {
    // A hardening step that fails is logged, and a log to standard error owns no file of its own.
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false);
    // A second subscriber is no reason to end.
    let _ = log.try_init();
    harden::harden();
    match control_socket().and_then(serve_on) {
        Ok(End::Orderly) => ExitCode::SUCCESS,
        Ok(End::NotSetUp) => ExitCode::FAILURE,
        Ok(End::Stuck) => leave(),
        Err(error) => {
            error!(%error, "the control socket does not work");
            leave()
        }
    }
}

fn control_socket() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Ends the process at once: an orderly exit would wait for DuckDB's threads, or run its destructors under them.
fn leave() -> ExitCode {
    if let Err(error) = kill_process(getpid(), Signal::KILL) {
        error!(%error, "cannot end the process");
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests;
