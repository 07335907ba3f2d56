//! Owns what an error of DuckDB is: its kind and its text. Refuses to know what a client is told.

use duckdb::ffi;

use super::borrow_text;

/// DuckDB's own classes of errors, as far as anybody tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The statement does not parse, bind or convert; also arithmetic and input errors.
    Invalid,
    /// A name that is not in the catalog, or one that is there already.
    Catalog,
    /// DuckDB cannot do it.
    NotImplemented,
    /// Outside what the locked-down instance may do.
    Permission,
    /// The memory or spill limit.
    OutOfMemory,
    /// Interrupted by this side.
    Interrupted,
    /// A transaction that cannot go on, or whose commit failed.
    Transaction,
    /// A constraint or unique key.
    Constraint,
    /// The object store, the catalog or a file.
    Io,
    /// What the Iceberg extension says of a table or catalog that is not as it should be.
    Configuration,
    /// The instance is no longer usable.
    Fatal,
    /// Anything else.
    Other,
}

/// An error that DuckDB reported. The text starts with DuckDB's own class (`Binder Error: …`).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// Its class.
    pub kind: ErrorKind,
    /// DuckDB's text.
    pub message: String,
}

/// The first words of DuckDB's messages. Errors while preparing come with a text only, so the text is what tells.
const PREFIXES: &[(&str, ErrorKind)] = &[
    ("Parser Error", ErrorKind::Invalid),
    ("Syntax Error", ErrorKind::Invalid),
    ("Binder Error", ErrorKind::Invalid),
    ("Conversion Error", ErrorKind::Invalid),
    ("Out of Range Error", ErrorKind::Invalid),
    ("Invalid Input Error", ErrorKind::Invalid),
    ("Invalid type Error", ErrorKind::Invalid),
    ("Mismatch Type Error", ErrorKind::Invalid),
    ("Divide by Zero Error", ErrorKind::Invalid),
    ("Decimal Error", ErrorKind::Invalid),
    ("Expression Error", ErrorKind::Invalid),
    ("Parameter Not Resolved Error", ErrorKind::Invalid),
    ("Parameter Not Allowed Error", ErrorKind::Invalid),
    ("Object Size Error", ErrorKind::Invalid),
    ("Settings Error", ErrorKind::Invalid),
    ("Invalid Configuration Error", ErrorKind::Configuration),
    ("Catalog Error", ErrorKind::Catalog),
    ("Not implemented Error", ErrorKind::NotImplemented),
    ("Permission Error", ErrorKind::Permission),
    ("Out of Memory Error", ErrorKind::OutOfMemory),
    ("INTERRUPT Error", ErrorKind::Interrupted),
    ("TransactionContext Error", ErrorKind::Transaction),
    ("Constraint Error", ErrorKind::Constraint),
    ("IO Error", ErrorKind::Io),
    ("HTTP Error", ErrorKind::Io),
    ("Network Error", ErrorKind::Io),
    ("Connection Error", ErrorKind::Io),
    ("FATAL Error", ErrorKind::Fatal),
    ("INTERNAL Error", ErrorKind::Fatal),
];

/// What DuckDB puts before the error of a result that it was already producing.
const PENDING: &str = "Invalid Input Error: Attempting to execute an unsuccessful or closed pending query result\nError: ";

impl EngineError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: ErrorKind, message: String) -> Self {
        Self { kind, message }
    }

    /// An error of the kind that its text begins with.
    #[must_use]
    pub fn from_message(message: String) -> Self {
        let message = message.strip_prefix(PENDING).map_or(message.clone(), str::to_owned);
        let kind = PREFIXES
            .iter()
            .find(|(prefix, _)| message.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(':')))
            .map_or(ErrorKind::Other, |(_, kind)| *kind);
        Self { kind, message }
    }

    /// The error of a failed result.
    ///
    /// # Safety
    /// `result` was filled by DuckDB and not yet destroyed.
    pub(super) unsafe fn of_result(result: *mut ffi::duckdb_result) -> Self {
        // SAFETY: by the contract of this function; the text stays with the result.
        let (message, code) = unsafe { (borrow_text(ffi::duckdb_result_error(result)), ffi::duckdb_result_error_type(result)) };
        let mut error = Self::from_message(message);
        if matches!(code, ffi::duckdb_error_type_DUCKDB_ERROR_FATAL | ffi::duckdb_error_type_DUCKDB_ERROR_INTERNAL) {
            error.kind = ErrorKind::Fatal;
        }
        error
    }

    /// Turns the C API's error object into a result, and frees it.
    ///
    /// # Safety
    /// `data` is null or an error object that the caller owns.
    pub(super) unsafe fn check(mut data: ffi::duckdb_error_data) -> Result<(), Self> {
        if data.is_null() {
            return Ok(());
        }
        // SAFETY: by the contract of this function; destroyed once, after the text was copied.
        unsafe {
            let failed = ffi::duckdb_error_data_has_error(data);
            let message = borrow_text(ffi::duckdb_error_data_message(data));
            ffi::duckdb_destroy_error_data(&mut data);
            if failed { Err(Self::from_message(message)) } else { Ok(()) }
        }
    }
}
