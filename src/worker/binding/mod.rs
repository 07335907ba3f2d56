//! Owns every `unsafe` line of the crate: safe wrappers over DuckDB's C API. One [`Instance`], any number of [`Connection`]s on it,
//! each used by one thread at a time; a [`Prepared`] statement borrows its connection, and [`Rows`] borrow the statement.
//!
//! It refuses to know what is attached, who asks, or what may be run. The `duckdb` crate serves only for its declarations: its own
//! iterator panics on an error in mid-stream, and its `prepare` runs all statements of a text but the last.
#![expect(unsafe_code, reason = "the C API of DuckDB; this folder is the only place for it")]

mod error;
pub mod feed;
mod inherited;
mod rows;
mod statement;
mod types;
mod value;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use duckdb::ffi;

pub use error::{EngineError, ErrorKind};
pub use inherited::close_inherited;
pub use rows::{Outcome, Rows};
pub use statement::{Prepared, StatementKind};
pub use types::{Column, LogicalType};
pub use value::Scalar;

/// What a call into DuckDB gives.
pub type EngineResult<T> = Result<T, EngineError>;

/// One DuckDB instance in memory. It closes when it and the last connection on it are dropped.
#[derive(Clone)]
pub struct Instance {
    database: Arc<Database>,
}

struct Database(ffi::duckdb_database);

// SAFETY: a `duckdb_database` is a reference to a thread-safe object; DuckDB allows connects from any thread.
unsafe impl Send for Database {}
// SAFETY: as above.
unsafe impl Sync for Database {}

impl Drop for Database {
    fn drop(&mut self) {
        // SAFETY: opened by `Instance::open`, closed exactly once here; connections hold an `Arc` of it.
        unsafe { ffi::duckdb_close(&mut self.0) }
    }
}

impl Instance {
    /// Opens an instance in memory with these settings.
    pub fn open(settings: &[(&str, &str)]) -> EngineResult<Self> {
        let config = Config::new(settings)?;
        let mut database = ptr::null_mut();
        let mut error: *mut c_char = ptr::null_mut();
        // SAFETY: the path is NUL-terminated, the config lives until after the call, and both out-pointers are valid.
        let state = unsafe { ffi::duckdb_open_ext(c":memory:".as_ptr(), &mut database, config.0, &mut error) };
        if state != ffi::DuckDBSuccess {
            // SAFETY: on failure DuckDB hands over an allocated text, or null.
            return Err(EngineError::from_message(unsafe { take_text(error) }));
        }
        Ok(Self { database: Arc::new(Database(database)) })
    }

    /// Another connection to the instance.
    pub fn connect(&self) -> EngineResult<Connection> {
        let mut raw = ptr::null_mut();
        // SAFETY: the database is open as long as `self.database` lives.
        let state = unsafe { ffi::duckdb_connect(self.database.0, &mut raw) };
        if state != ffi::DuckDBSuccess {
            return Err(EngineError::from_message("cannot connect to the instance".to_owned()));
        }
        let handle = Arc::new(Handle { raw, _database: Arc::clone(&self.database) });
        Ok(Connection { handle, _one_thread: PhantomData })
    }
}

struct Config(ffi::duckdb_config);

impl Config {
    fn new(settings: &[(&str, &str)]) -> EngineResult<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: valid out-pointer; the result is destroyed in `drop`.
        unsafe { ffi::duckdb_create_config(&mut raw) };
        let config = Self(raw);
        for (name, value) in settings {
            let (c_name, c_value) = (c_text(name)?, c_text(value)?);
            // SAFETY: both texts are NUL-terminated and copied by DuckDB.
            let state = unsafe { ffi::duckdb_set_config(config.0, c_name.as_ptr(), c_value.as_ptr()) };
            if state != ffi::DuckDBSuccess {
                return Err(EngineError::from_message(format!("setting {name} does not take this value")));
            }
        }
        Ok(config)
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        unsafe { ffi::duckdb_destroy_config(&mut self.0) }
    }
}

struct Handle {
    raw: ffi::duckdb_connection,
    /// Closes after the last connection.
    _database: Arc<Database>,
}

// SAFETY: shared between the thread that uses the connection and those that only call `duckdb_interrupt`, which sets an atomic flag.
unsafe impl Send for Handle {}
// SAFETY: as above; `Connection` itself is not `Sync`, so no other call is made from two threads.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: connected in `Instance::connect`, disconnected once.
        unsafe { ffi::duckdb_disconnect(&mut self.raw) }
    }
}

/// One connection: it may move between threads, but one thread at a time uses it.
pub struct Connection {
    handle: Arc<Handle>,
    _one_thread: PhantomData<Cell<()>>,
}

/// Interrupts what runs on a connection, from any thread.
#[derive(Clone)]
pub struct Interrupter(Arc<Handle>);

impl Interrupter {
    /// Asks the running statement to stop. Lost if none has started: repeat until it has ended.
    pub fn interrupt(&self) {
        // SAFETY: the handle keeps the connection alive; the call only sets a flag and may race with any other.
        unsafe { ffi::duckdb_interrupt(self.0.raw) }
    }
}

impl Connection {
    /// For other threads to interrupt what runs here.
    #[must_use]
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(Arc::clone(&self.handle))
    }

    /// Runs set-up text of the worker's own, any number of statements; rows are dropped.
    pub fn run(&self, sql: &str) -> EngineResult<()> {
        let sql = c_text(sql)?;
        // SAFETY: an all-zero `duckdb_result` is what the C API expects to fill; it is destroyed whatever the outcome.
        unsafe {
            let mut result: ffi::duckdb_result = std::mem::zeroed();
            let state = ffi::duckdb_query(self.handle.raw, sql.as_ptr(), &mut result);
            let outcome = if state == ffi::DuckDBSuccess { Ok(()) } else { Err(EngineError::of_result(&mut result)) };
            ffi::duckdb_destroy_result(&mut result);
            outcome
        }
    }

    /// Prepares a text that must hold exactly one statement.
    pub fn prepare(&self, sql: &str) -> EngineResult<Prepared> {
        Prepared::new(self, sql)
    }

    fn raw(&self) -> ffi::duckdb_connection {
        self.handle.raw
    }
}

/// DuckDB's version, as `v1.5.5`.
#[must_use]
pub fn version() -> String {
    // SAFETY: DuckDB returns a static text.
    unsafe { borrow_text(ffi::duckdb_library_version()) }
}

fn c_text(text: &str) -> EngineResult<CString> {
    CString::new(text).map_err(|_| EngineError::new(ErrorKind::Invalid, "the text holds a NUL character".to_owned()))
}

/// Copies a text that DuckDB keeps.
///
/// # Safety
/// `text` is null or a NUL-terminated text that lives through the call.
unsafe fn borrow_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the contract of this function.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Copies and frees a text that DuckDB hands over.
///
/// # Safety
/// `text` is null or a text that the caller must free by `duckdb_free`.
unsafe fn take_text(text: *mut c_char) -> String {
    // SAFETY: by the contract of this function.
    unsafe {
        let copy = borrow_text(text);
        ffi::duckdb_free(text.cast());
        copy
    }
}
