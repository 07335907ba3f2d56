//! Owns the start of a worker process: the child, its control socket, and the hand-shake up to the point where it can take
//! statements. Refuses to know leases and queues.
//!
//! The control socket is the child's standard input (one end of a socket pair), so nothing but that socket is inherited and the
//! worker sees the gateway's end when the gateway ends, however it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::error::PoolError;
use super::run_dir::{RunDir, RunRoot};
use crate::wire::proto::{Attach, Attached, Control, Event, Init, control, event};
use crate::wire::{MAX_MESSAGE_BYTES, encode_control};

/// A worker that has loaded its extensions and is attached to nothing.
#[derive(Debug)]
pub struct Fresh {
    /// The process; killed when this is dropped.
    pub child: Child,
    /// The gateway's end of its control socket.
    pub control: ControlSocket,
    /// Its 0700 directory with `worker.sock` and `spill/`; removed when dropped.
    pub run_dir: RunDir,
}

impl Fresh {
    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the process and waits until it is gone.
    pub async fn end(mut self) {
        // An error means that it has ended.
        let _ = self.child.kill().await;
    }
}

/// The gateway's end of a control socket.
#[derive(Debug)]
pub struct ControlSocket(UnixStream);

impl ControlSocket {
    /// Sends one message.
    pub async fn send(&mut self, message: control::Message) -> io::Result<()> {
        self.0.write_all(&encode_control(&Control { message: Some(message) })?).await
    }

    /// Splits into a reading half, which must be polled by one task only, and a writing half.
    pub fn split(self) -> (Events, Commands) {
        let (read, write) = self.0.into_split();
        (Events { socket: read, buffer: Vec::new() }, Commands(write))
    }

    async fn event(&mut self) -> io::Result<event::Message> {
        let len = self.0.read_u32_le().await? as usize;
        let mut bytes = vec![0; checked(len)?];
        self.0.read_exact(&mut bytes).await?;
        decode(&bytes)
    }
}

/// The writing half of a control socket.
#[derive(Debug)]
pub struct Commands(tokio::net::unix::OwnedWriteHalf);

impl Commands {
    /// Sends one message.
    pub async fn send(&mut self, message: control::Message) -> io::Result<()> {
        self.0.write_all(&encode_control(&Control { message: Some(message) })?).await
    }
}

/// The reading half of a control socket.
#[derive(Debug)]
pub struct Events {
    socket: tokio::net::unix::OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event. Safe to drop half-way: what was read stays in the buffer.
    pub async fn next(&mut self) -> io::Result<event::Message> {
        loop {
            if let Some(prefix) = self.buffer.first_chunk::<4>() {
                let end = 4 + checked(u32::from_le_bytes(*prefix) as usize)?;
                if self.buffer.len() >= end {
                    let message = decode(&self.buffer[4..end])?;
                    self.buffer.drain(..end);
                    return Ok(message);
                }
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn checked(len: usize) -> io::Result<usize> {
    if len > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a control message beyond any sense"));
    }
    Ok(len)
}

fn decode(bytes: &[u8]) -> io::Result<event::Message> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let event = Event::decode(bytes).map_err(|e| invalid(e.to_string()))?;
    event.message.ok_or_else(|| invalid("an empty event".to_owned()))
}

/// Starts one worker and waits until its extensions are loaded.
pub async fn start(
    exe: &Path,
    run_root: &Arc<RunRoot>,
    worker: u64,
    mut init: Init,
    limit: Duration,
) -> Result<Fresh, PoolError> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| PoolError::Start { reason: format!("{what}: {error}"), ended: false };
    let run_dir = run_root.worker(worker).map_err(|e| failed("no directory in pool.run_dir", &e))?;
    init.run_dir = run_dir.path().to_string_lossy().into_owned();

    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|e| failed("no socket pair", &e))?;
    ours.set_nonblocking(true).map_err(|e| failed("control socket", &e))?;
    let control = UnixStream::from_std(ours).map_err(|e| failed("control socket", &e))?;
    let child = command(exe, theirs, &run_dir).spawn().map_err(|e| failed(&exe.display().to_string(), &e))?;

    let mut fresh = Fresh { child, control: ControlSocket(control), run_dir };
    exchange(&mut fresh, control::Message::Init(init), limit).await?;
    Ok(fresh)
}

fn command(exe: &Path, control: std::os::unix::net::UnixStream, run_dir: &RunDir) -> Command {
    let mut command = Command::new(exe);
    command
        .arg("worker")
        .env_clear()
        // DuckDB makes a relative directory while it creates a table.
        .current_dir(run_dir.path())
        .stdin(Stdio::from(OwnedFd::from(control)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    // The only variable that a worker needs: where a user's own libduckdb lies.
    if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", path);
    }
    command
}

/// Attaches a fresh worker to its catalogs and waits until it is locked down; gives what it then keeps to.
pub async fn attach(fresh: &mut Fresh, attach: Attach, limit: Duration) -> Result<Attached, PoolError> {
    match exchange(fresh, control::Message::Attach(attach), limit).await? {
        event::Message::Attached(attached) => Ok(attached),
        _ => Err(PoolError::Protocol("an Attach was answered with something else")),
    }
}

async fn exchange(fresh: &mut Fresh, message: control::Message, limit: Duration) -> Result<event::Message, PoolError> {
    let answer = tokio::time::timeout(limit, async {
        fresh.control.send(message).await?;
        fresh.control.event().await
    });
    match answer.await {
        Ok(Ok(event @ (event::Message::Ready(_) | event::Message::Attached(_)))) => Ok(event),
        Ok(Ok(event::Message::Failed(failure))) => Err(PoolError::Start { reason: failure.message, ended: false }),
        Ok(Ok(event::Message::Ended(_))) => Err(PoolError::Protocol("Ended before any statement")),
        Ok(Err(error)) => Err(PoolError::Start {
            reason: format!("it ended while starting ({error}); its own message is in the log"),
            ended: true,
        }),
        Err(_) => {
            Err(PoolError::Start { reason: format!("not ready after {} s (pool.start_timeout)", limit.as_secs()), ended: false })
        }
    }
}
