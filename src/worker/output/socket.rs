//! Owns the data socket: whole frames only, small ones held back to go with the next, and patience with a peer that is slow. Refuses to
//! know what the frames say.

use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::encode::Encoded;
use crate::wire::{FrameHeader, FrameKind, read_frame, write_message};

/// A peer that takes no byte for so long ends the statement: it pins a thread and a transaction.
const STALLED_AFTER: Duration = Duration::from_secs(300);

/// Room for some frames of 2,048 wide rows, so that few writes wait for the gateway. The system gives less where its limit is lower.
const SEND_BUFFER: usize = 1 << 20;

/// How often a waiting write looks whether the statement was cancelled. Set as the socket's time-out for writing.
const WRITE_SLICE: Duration = Duration::from_millis(500);

/// How often a waiting read does the same.
const READ_SLICE: Duration = Duration::from_millis(100);

/// The data socket of one connection.
pub struct DataSocket {
    socket: UnixStream,
    /// Frames that go out before the next one. Locked while one is written, so that frames stay whole and in order.
    held: Mutex<Vec<u8>>,
}

impl DataSocket {
    /// Takes over a connected socket.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_write_timeout(Some(WRITE_SLICE))?;
        if let Err(error) = set_socket_send_buffer_size(&socket, SEND_BUFFER) {
            tracing::debug!(%error, "the send buffer stays as it is");
        }
        Ok(Self { socket, held: Mutex::default() })
    }

    /// The first frame of the next statement; `None` when the peer has closed. A read that blocked would be woken by the kernel each time
    /// that the peer has read what was written here; a poll is woken only by something to read.
    pub fn read_when_there(&self) -> io::Result<Option<(FrameHeader, Vec<u8>)>> {
        while let Err(error) = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], None) {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        self.read()
    }

    /// The next frame; `None` when the peer has closed.
    pub fn read(&self) -> io::Result<Option<(FrameHeader, Vec<u8>)>> {
        read_frame(&mut &self.socket)
    }

    /// Waits until the peer has sent something or has closed; `false` when nobody wants it any longer.
    pub fn wait_readable(&self, gone: impl Fn() -> bool) -> io::Result<bool> {
        let slice = Timespec { tv_sec: 0, tv_nsec: i64::from(READ_SLICE.subsec_nanos()) };
        while !gone() {
            let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut sockets, Some(&slice)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Keeps a frame with a message until the next one is written: each write wakes the gateway, which has nothing to do before that.
    pub fn hold_message(&self, kind: FrameKind, message: &impl prost::Message) -> io::Result<()> {
        write_message(&mut *self.held(), kind, message)
    }

    /// Keeps a frame with Arrow data until the next one is written.
    pub fn hold_frame(&self, frame: &Encoded) {
        let mut held = self.held();
        for slice in frame.slices() {
            held.extend_from_slice(&slice);
        }
    }

    /// Writes a frame with a message.
    pub fn write_message(&self, kind: FrameKind, message: &impl prost::Message, cancelled: &AtomicBool) -> io::Result<()> {
        self.hold_message(kind, message)?;
        self.write(&mut [], cancelled)
    }

    /// Writes a frame with Arrow data.
    pub fn write_frame(&self, frame: &Encoded, cancelled: &AtomicBool) -> io::Result<()> {
        self.write(&mut frame.slices(), cancelled)
    }

    fn held(&self) -> MutexGuard<'_, Vec<u8>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is held, then these bytes.
    fn write(&self, slices: &mut [IoSlice<'_>], cancelled: &AtomicBool) -> io::Result<()> {
        let mut held = self.held();
        let bytes = std::mem::take(&mut *held);
        let mut all = Vec::with_capacity(1 + slices.len());
        all.extend((!bytes.is_empty()).then(|| IoSlice::new(&bytes)));
        all.extend_from_slice(slices);
        self.write_all(&mut all, cancelled)
    }

    /// Writes all bytes; gives up when cancelled or when the peer stalls. After an error the socket may hold half a frame: the
    /// connection must end.
    fn write_all(&self, mut rest: &mut [IoSlice<'_>], cancelled: &AtomicBool) -> io::Result<()> {
        let mut progress = Instant::now();
        while !rest.is_empty() {
            match (&self.socket).write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut rest, written);
                    progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if cancelled.load(Ordering::Acquire) || progress.elapsed() > STALLED_AFTER {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
