//! Owns a prepared statement: what it is, its parameters and columns before it runs, and running it.

use std::ptr;
use std::sync::Arc;

use duckdb::ffi;

use super::{
    Column, Connection, EngineError, EngineResult, ErrorKind, Handle, LogicalType, Outcome, Scalar, borrow_text, c_text,
    take_text,
};

/// What a statement gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// Rows.
    Query,
    /// A number of changed rows, or nothing.
    Command,
}

/// One prepared statement, for the thread that uses its connection. Dropping it frees it; its rows must be gone by then, which the borrow
/// sees to.
pub struct Prepared {
    /// Keeps the connection open.
    handle: Arc<Handle>,
    raw: ffi::duckdb_prepared_statement,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // SAFETY: owned by this value, destroyed once.
        unsafe { ffi::duckdb_destroy_prepare(&mut self.raw) }
    }
}

struct Extracted(ffi::duckdb_extracted_statements);

impl Drop for Extracted {
    fn drop(&mut self) {
        // SAFETY: owned by this value, destroyed once.
        unsafe { ffi::duckdb_destroy_extracted(&mut self.0) }
    }
}

impl Prepared {
    pub(super) fn new(connection: &Connection, sql: &str) -> EngineResult<Self> {
        let sql = c_text(sql)?;
        let mut raw = ptr::null_mut();
        // SAFETY: the connection is open and the text NUL-terminated; the extracted list is destroyed by its guard.
        let (count, extracted) = unsafe {
            let count = ffi::duckdb_extract_statements(connection.raw(), sql.as_ptr(), &mut raw);
            (count, Extracted(raw))
        };
        if count != 1 {
            // SAFETY: the list is live; its text stays with it.
            let message = unsafe { borrow_text(ffi::duckdb_extract_statements_error(extracted.0)) };
            return Err(match (count, message.is_empty()) {
                (0, false) => EngineError::from_message(message),
                (0, true) => EngineError::new(ErrorKind::Invalid, "there is no statement in the text".to_owned()),
                _ => EngineError::new(ErrorKind::Invalid, format!("one statement at a time, the text has {count}")),
            });
        }
        let mut raw = ptr::null_mut();
        // SAFETY: index 0 exists; on failure, too, DuckDB gives a statement that holds the message and must be destroyed.
        let state = unsafe { ffi::duckdb_prepare_extracted_statement(connection.raw(), extracted.0, 0, &mut raw) };
        let prepared = Self { raw, handle: Arc::clone(&connection.handle) };
        if state != ffi::DuckDBSuccess {
            // SAFETY: as above.
            return Err(EngineError::from_message(unsafe { borrow_text(ffi::duckdb_prepare_error(prepared.raw)) }));
        }
        Ok(prepared)
    }

    /// What it gives back, judged by its type: no statement with RETURNING gets this far.
    #[must_use]
    pub fn kind(&self) -> StatementKind {
        // SAFETY: the statement is live.
        match unsafe { ffi::duckdb_prepared_statement_type(self.raw) } {
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_SELECT
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_EXPLAIN
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_CALL
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_PRAGMA
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_RELATION => StatementKind::Query,
            _ => StatementKind::Command,
        }
    }

    /// How many parameters it has.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        // SAFETY: the statement is live.
        unsafe { ffi::duckdb_nparams(self.raw) as usize }
    }

    /// Name and type of a parameter, counted from 0; no type where the statement does not settle one.
    #[must_use]
    pub fn parameter(&self, at: usize) -> (String, Option<LogicalType>) {
        let index = at as u64 + 1;
        // SAFETY: the statement is live; an index out of range gives null. Name and type are ours to free.
        unsafe {
            let name = take_text(ffi::duckdb_parameter_name(self.raw, index).cast_mut());
            let logical = LogicalType::from_raw(ffi::duckdb_param_logical_type(self.raw, index));
            (name, logical.filter(LogicalType::is_resolved))
        }
    }

    /// How many columns its result has, as far as that is known before it runs.
    #[must_use]
    pub fn column_count(&self) -> usize {
        // SAFETY: the statement is live.
        unsafe { ffi::duckdb_prepared_statement_column_count(self.raw) as usize }
    }

    /// Columns of the result before it runs; `None` while one of them hangs on a parameter without a type. DuckDB copies all types to
    /// tell one of them.
    #[must_use]
    pub fn columns(&self) -> Option<Vec<Column>> {
        // SAFETY: the statement is live; names and types are ours to free.
        unsafe {
            let mut columns = Vec::with_capacity(self.column_count());
            for at in 0..self.column_count() as u64 {
                let logical = LogicalType::from_raw(ffi::duckdb_prepared_statement_column_logical_type(self.raw, at))?;
                if logical.id() == ffi::DUCKDB_TYPE_DUCKDB_TYPE_INVALID {
                    return None;
                }
                let name = take_text(ffi::duckdb_prepared_statement_column_name(self.raw, at).cast_mut());
                columns.push((name, logical));
            }
            Some(columns)
        }
    }

    /// Sets a parameter, counted from 0.
    pub fn bind(&mut self, at: usize, scalar: &Scalar<'_>) -> EngineResult<()> {
        let value = scalar.to_value()?;
        // SAFETY: the statement is live, the value lives through the call and is copied.
        let state = unsafe { ffi::duckdb_bind_value(self.raw, at as u64 + 1, value.0) };
        if state == ffi::DuckDBSuccess {
            return Ok(());
        }
        // SAFETY: the statement is live; the text stays with it.
        Err(EngineError::from_message(unsafe { borrow_text(ffi::duckdb_prepare_error(self.raw)) }))
    }

    /// Runs it; rows come as DuckDB makes them.
    pub fn stream(&mut self) -> EngineResult<Outcome<'_>> {
        // SAFETY: an all-zero `duckdb_result` is what the C API expects to fill; `Outcome` takes it over whatever the state. The
        // connection is open, and no other statement runs on it.
        unsafe {
            let mut result: ffi::duckdb_result = std::mem::zeroed();
            let state = ffi::duckdb_execute_prepared_streaming(self.raw, &mut result);
            let made = state == ffi::DuckDBSuccess && ffi::duckdb_execution_is_finished(self.handle.raw);
            Outcome::new(state, result, made)
        }
    }

    /// Runs it to its end.
    pub fn complete(&mut self) -> EngineResult<Outcome<'_>> {
        // SAFETY: as in `stream`.
        unsafe {
            let mut result: ffi::duckdb_result = std::mem::zeroed();
            let state = ffi::duckdb_execute_prepared(self.raw, &mut result);
            Outcome::new(state, result, true)
        }
    }
}
