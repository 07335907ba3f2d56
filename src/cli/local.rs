//! Owns a worker process of the command's own: it reads the user's files with DuckDB, and its frames are handed on undecoded. Refuses
//! to know a gateway; such a worker has no guard and no catalog, and nothing but this process can reach it.
//!
//! Everything here blocks; async callers put it on a thread of its own.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow_flight::FlightData;
use arrow_flight::utils::flight_data_to_batches;
use bytes::Bytes;
use prost::Message;

use crate::extensions::{self, MissingExtensions};
use crate::wire::proto::{Class, Control, Event, Failure, Init, Judged, Mode, Proceed, Request, Run, control, event, request};
use crate::wire::{self, FrameKind};

/// Starting takes a tenth of a second; a machine out of breath may need more.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The worker ends by itself when its control socket closes.
const EXIT_TIMEOUT: Duration = Duration::from_secs(3);

/// `sun_path` holds 108 bytes.
const MAX_SOCKET_PATH: usize = 100;

const SOCKET_NAME: &str = "worker.sock";

/// The worker's log would be noise on the user's terminal.
const LOG_NAME: &str = "worker.log";

/// What a worker may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// DuckDB's memory in bytes; above it, it spills.
    pub memory_bytes: u64,
    /// Spill files in bytes.
    pub spill_bytes: u64,
    /// DuckDB's threads.
    pub threads: u32,
}

impl Limits {
    /// These bytes of memory, as many threads as there are processors (4 at most), and plenty of spill space.
    #[must_use]
    pub fn of_memory(memory_bytes: u64) -> Self {
        let threads = thread::available_parallelism().map_or(1, |n| n.get().min(4) as u32);
        Self { memory_bytes, spill_bytes: 64 << 30, threads }
    }
}

/// What went wrong between this process and its worker.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Extension files are not there.
    #[error(transparent)]
    Extensions(#[from] MissingExtensions),
    /// The process could not be started.
    #[error("cannot start the local worker")]
    Start(#[source] io::Error),
    /// The process ended, or its answers make no sense.
    #[error("the local worker broke off{}", .last_words.as_ref().map(|words| format!(" ({words})")).unwrap_or_default())]
    Broken {
        /// How the process ended and the last line of its log, where there is such.
        last_words: Option<String>,
        /// What its socket said.
        source: io::Error,
    },
    /// DuckDB's own error: the file or the statement is wrong.
    #[error("{0}")]
    Statement(String),
    /// The answer is not what was asked for.
    #[error("cannot read the local worker's answer")]
    Decode(#[from] ArrowError),
}

fn broken(source: io::Error) -> LocalError {
    LocalError::Broken { last_words: None, source }
}

/// A running worker. It ends, and its directory goes, when this is dropped.
pub struct LocalWorker {
    child: Child,
    control: Option<UnixStream>,
    run_dir: RunDir,
    last_statement: Arc<AtomicU64>,
}

impl LocalWorker {
    /// Starts this binary again as a worker with these DuckDB extensions, and waits until it is ready.
    ///
    /// # Errors
    /// When extension files are missing or the process does not come up.
    pub fn start(wanted: &[&str], limits: Limits) -> Result<Self, LocalError> {
        let extension_dir = if wanted.is_empty() { PathBuf::new() } else { extensions::find(wanted)? };
        let run_dir = RunDir::create().map_err(LocalError::Start)?;
        let (control, theirs) = UnixStream::pair().map_err(LocalError::Start)?;
        let child = spawn(theirs, &run_dir.0).map_err(LocalError::Start)?;
        let mut worker = Self { child, control: Some(control), run_dir, last_statement: Arc::default() };
        let init = Init {
            extension_dir: path_text(&extension_dir)?,
            run_dir: path_text(&worker.run_dir.0)?,
            memory_limit_bytes: limits.memory_bytes,
            threads: limits.threads,
            spill_limit_bytes: limits.spill_bytes,
            mode: Mode::Local.into(),
            extensions: wanted.iter().map(|&name| name.to_owned()).collect(),
            local_directories: Vec::new(),
            connect_ports: Vec::new(),
        };
        worker.wait_ready(init)?;
        Ok(worker)
    }

    fn wait_ready(&mut self, init: Init) -> Result<(), LocalError> {
        match self.greet(init) {
            Ok(Some(Event { message: Some(event::Message::Ready(_)) })) => Ok(()),
            Ok(Some(Event { message: Some(event::Message::Failed(failure)) })) => Err(LocalError::Statement(failure.message)),
            Ok(Some(_)) => Err(broken(io::Error::other("another answer than Ready"))),
            Ok(None) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn greet(&mut self, init: Init) -> io::Result<Option<Event>> {
        let Some(control) = &mut self.control else { return Ok(None) };
        control.set_read_timeout(Some(READY_TIMEOUT))?;
        wire::write_control(control, &Control { message: Some(control::Message::Init(init)) })?;
        wire::read_control(control)
    }

    /// An error of a socket together with what became of the process.
    fn broken(&mut self, source: io::Error) -> LocalError {
        let status = wait_until(&mut self.child, Instant::now() + Duration::from_millis(200)).map(|status| status.to_string());
        let log = fs::read_to_string(self.run_dir.0.join(LOG_NAME)).unwrap_or_default();
        let words = status.into_iter().chain(log.lines().last().map(str::to_owned)).collect::<Vec<_>>();
        LocalError::Broken { last_words: (!words.is_empty()).then(|| words.join("; ")), source }
    }

    /// A way in for a thread that must not keep the worker alive.
    #[must_use]
    pub fn door(&self) -> Door {
        Door { socket: self.run_dir.0.join(SOCKET_NAME), last_statement: Arc::clone(&self.last_statement) }
    }
}

impl Drop for LocalWorker {
    fn drop(&mut self) {
        self.control = None;
        if wait_until(&mut self.child, Instant::now() + EXIT_TIMEOUT).is_none() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// A way to run statements on a worker; they break off when the worker is dropped.
#[derive(Clone, Debug)]
pub struct Door {
    socket: PathBuf,
    last_statement: Arc<AtomicU64>,
}

impl Door {
    /// Starts a statement and reads up to its schema. A statement without a result gives rows that end at once.
    ///
    /// # Errors
    /// DuckDB's error, or a worker that is gone.
    pub fn query(&self, sql: &str) -> Result<LocalRows, LocalError> {
        let socket = UnixStream::connect(&self.socket).map_err(broken)?;
        let request = Request {
            statement_id: self.last_statement.fetch_add(1, Ordering::Relaxed) + 1,
            sql: sql.to_owned(),
            default_catalog: "memory".into(),
            default_schema: "main".into(),
            in_the_past: false,
            allowed: [Class::Read, Class::TimeTravel, Class::BlindInsert, Class::OtherWrite, Class::Ddl, Class::Session]
                .map(i32::from)
                .to_vec(),
            action: Some(request::Action::Run(Run::default())),
        };
        let mut rows = LocalRows { socket, schema: None, ended: false };
        wire::write_message(&mut rows.socket, FrameKind::Request, &request).map_err(broken)?;
        rows.schema = rows.read()?;
        Ok(rows)
    }

    /// Runs a statement and gives all of its rows: only for small answers.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub fn collect(&self, sql: &str) -> Result<Vec<RecordBatch>, LocalError> {
        let mut rows = self.query(sql)?;
        let mut frames = Vec::new();
        while let Some(frame) = rows.next()? {
            frames.push(frame.into_flight_data());
        }
        if frames.is_empty() { Ok(Vec::new()) } else { Ok(flight_data_to_batches(&frames)?) }
    }
}

fn wait_until(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

/// The environment is cleared: it may hold the user's passwords. The worker is in a process group of its own, so that Ctrl-C reaches
/// only this process, which then ends it in order.
fn spawn(control: UnixStream, run_dir: &Path) -> io::Result<Child> {
    let log = File::create(run_dir.join(LOG_NAME))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("worker").env_clear().process_group(0);
    command.stdin(Stdio::from(OwnedFd::from(control))).stdout(Stdio::null()).stderr(Stdio::from(log));
    if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", path);
    }
    command.spawn()
}

fn path_text(path: &Path) -> Result<String, LocalError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| LocalError::Start(io::Error::other(format!("{} is not UTF-8", path.display()))))
}

/// A directory of the worker's own, for its socket and its spill files.
struct RunDir(PathBuf);

impl RunDir {
    fn create() -> io::Result<Self> {
        let name = OsString::from(format!("polynya-{}", uuid::Uuid::new_v4().simple()));
        let mut path = std::env::temp_dir().join(&name);
        if path.join(SOCKET_NAME).as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
            path = Path::new("/tmp").join(&name);
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// An Arrow IPC message as the worker made it.
#[derive(Clone, Debug)]
pub struct LocalFrame {
    /// The flatbuffer message.
    pub header: Bytes,
    /// The buffers.
    pub body: Bytes,
}

impl LocalFrame {
    /// The frame as Flight carries it.
    #[must_use]
    pub fn into_flight_data(self) -> FlightData {
        FlightData { data_header: self.header, data_body: self.body, ..FlightData::default() }
    }

    /// Rows of a batch; 0 for a schema.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let message = arrow_ipc::root_as_message(&self.header).ok();
        let batch = message.and_then(|message| message.header_as_record_batch());
        batch.and_then(|batch| u64::try_from(batch.length()).ok()).unwrap_or(0)
    }
}

/// The frames of one statement: the schema first, then batches.
pub struct LocalRows {
    socket: UnixStream,
    schema: Option<LocalFrame>,
    ended: bool,
}

impl LocalRows {
    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// DuckDB's error, whenever it happens, or a worker that is gone.
    #[expect(clippy::should_implement_trait, reason = "an error ends the rows, which an iterator's user would not see")]
    pub fn next(&mut self) -> Result<Option<LocalFrame>, LocalError> {
        match self.schema.take() {
            Some(schema) => Ok(Some(schema)),
            None if self.ended => Ok(None),
            None => self.read(),
        }
    }

    fn read(&mut self) -> Result<Option<LocalFrame>, LocalError> {
        loop {
            let frame = wire::read_frame(&mut self.socket).map_err(broken)?;
            let (header, payload) = frame.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))?;
            match header.kind {
                FrameKind::Schema | FrameKind::Batch => {
                    let payload = Bytes::from(payload);
                    let head_at = usize::from(header.header_at);
                    let head = payload.slice(head_at..head_at + header.header_len as usize);
                    return Ok(Some(LocalFrame { header: head, body: payload.slice(header.body_at as usize..) }));
                }
                FrameKind::Judged => self.go_on(&payload)?,
                FrameKind::Done => {
                    self.ended = true;
                    return Ok(None);
                }
                FrameKind::Failed => {
                    self.ended = true;
                    return Err(statement_error(&Failure::decode(payload.as_slice()).map_err(invalid)?));
                }
                other => return Err(broken(io::Error::other(format!("unexpected frame {other:?}")))),
            }
        }
    }

    /// A local worker has no listings to wait for; should it wait all the same, it waits for nothing.
    fn go_on(&mut self, payload: &[u8]) -> Result<(), LocalError> {
        let judged = Judged::decode(payload).map_err(invalid)?;
        if judged.handed_back {
            return Err(LocalError::Statement("the local worker does not run this kind of statement".into()));
        }
        if judged.waiting {
            wire::write_message(&mut self.socket, FrameKind::Proceed, &Proceed::default()).map_err(broken)?;
        }
        Ok(())
    }
}

/// DuckDB's text without the excerpt of the statement, which is ours and not the user's.
fn statement_error(failure: &Failure) -> LocalError {
    let text = failure.message.split("\n\nLINE ").next().unwrap_or_default();
    LocalError::Statement(text.to_owned())
}

fn invalid(error: prost::DecodeError) -> LocalError {
    broken(io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::wire::proto::Done;

    fn rows_of(write: impl FnOnce(&mut UnixStream) + Send + 'static) -> LocalRows {
        let (socket, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || write(&mut theirs));
        LocalRows { socket, schema: None, ended: false }
    }

    #[test]
    fn the_run_directory_is_private_and_goes_away() {
        let dir = RunDir::create().unwrap();
        let path = dir.0.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn a_frame_is_cut_from_its_message_without_decoding() {
        use std::io::Write;
        let mut rows = rows_of(|socket| {
            let header = wire::FrameHeader { len: 10, kind: FrameKind::Batch, header_at: 2, header_len: 3, body_at: 6 };
            socket.write_all(&header.to_bytes()).unwrap();
            socket.write_all(b"..abc.body").unwrap();
            wire::write_message(socket, FrameKind::Done, &Done::default()).unwrap();
        });
        let frame = rows.next().unwrap().unwrap();
        assert_eq!((&frame.header[..], &frame.body[..]), (&b"abc"[..], &b"body"[..]));
        assert!(rows.next().unwrap().is_none() && rows.next().unwrap().is_none());
    }

    #[test]
    fn a_failed_statement_gives_duckdbs_own_text() {
        let mut rows = rows_of(|socket| {
            let failure = Failure { message: "no such file\n\nLINE 1: SELECT".into(), ..Failure::default() };
            wire::write_message(socket, FrameKind::Failed, &failure).unwrap();
        });
        assert_eq!(rows.next().unwrap_err().to_string(), "no such file");
    }

    #[test]
    fn a_worker_that_goes_away_is_an_error_and_not_an_end() {
        let mut rows = rows_of(|_| {});
        assert!(matches!(rows.next(), Err(LocalError::Broken { .. })));
    }
}
