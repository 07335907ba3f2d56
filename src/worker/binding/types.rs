//! Owns DuckDB's logical types as values, and their Arrow form. Refuses to judge which of them a client or Iceberg can take.

use std::ffi::{CString, c_char};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ffi::FFI_ArrowSchema;
use duckdb::ffi;

use super::{Connection, EngineError, EngineResult, ErrorKind, c_text};

/// A type of DuckDB.
pub struct LogicalType(pub(super) ffi::duckdb_logical_type);

/// A column of a result: name and type.
pub type Column = (String, LogicalType);

impl Drop for LogicalType {
    fn drop(&mut self) {
        // SAFETY: owned by this value, destroyed once; null is allowed.
        unsafe { ffi::duckdb_destroy_logical_type(&mut self.0) }
    }
}

impl LogicalType {
    /// Takes over a type that the C API handed out.
    ///
    /// # Safety
    /// `raw` is null or a type that the caller owns.
    pub(super) unsafe fn from_raw(raw: ffi::duckdb_logical_type) -> Option<Self> {
        (!raw.is_null()).then_some(Self(raw))
    }

    pub(super) fn id(&self) -> ffi::duckdb_type {
        // SAFETY: `self.0` is a live type.
        unsafe { ffi::duckdb_get_type_id(self.0) }
    }

    /// The type is known: not one of a parameter before it is bound.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        !matches!(
            self.id(),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_INVALID | ffi::DUCKDB_TYPE_DUCKDB_TYPE_ANY | ffi::DUCKDB_TYPE_DUCKDB_TYPE_SQLNULL
        )
    }

    /// SQL's name of a type that Iceberg has not, and the cast that would do.
    #[must_use]
    pub fn unknown_to_iceberg(&self) -> Option<(&'static str, &'static str)> {
        Some(match self.id() {
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_TINYINT => ("TINYINT", "INTEGER"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_SMALLINT => ("SMALLINT", "INTEGER"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_UTINYINT => ("UTINYINT", "INTEGER"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_USMALLINT => ("USMALLINT", "INTEGER"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_UINTEGER => ("UINTEGER", "BIGINT"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_UBIGINT => ("UBIGINT", "DECIMAL(20,0) or BIGINT"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_UHUGEINT => ("UHUGEINT", "DECIMAL(38,0)"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIGNUM => ("BIGNUM", "DECIMAL(38,0) or VARCHAR"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_INTERVAL => ("INTERVAL", "VARCHAR"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME_TZ => ("TIME WITH TIME ZONE", "TIME"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIT => ("BIT", "VARCHAR"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_ENUM => ("ENUM", "VARCHAR"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_UNION => ("UNION", "VARCHAR"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_ARRAY => ("ARRAY", "a list, as FLOAT[]"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_SQLNULL => ("NULL", "the type that the column shall have"),
            _ => return self.children().iter().find_map(Self::unknown_to_iceberg),
        })
    }

    /// SQL's name of the type, or of one inside it, that no client could read: VARIANT has no Arrow form at all, the others come as
    /// the bytes that DuckDB keeps them in.
    #[must_use]
    pub fn without_arrow_form(&self) -> Option<&'static str> {
        match self.id() {
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_VARIANT => Some("VARIANT"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIT => Some("BIT"),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIGNUM => Some("BIGNUM"),
            _ => self.children().iter().find_map(Self::without_arrow_form),
        }
    }

    fn children(&self) -> Vec<Self> {
        let raw = self.0;
        // SAFETY: each call fits the type's id, asked just before, and hands out a type that we own.
        unsafe {
            let children: Vec<ffi::duckdb_logical_type> = match self.id() {
                ffi::DUCKDB_TYPE_DUCKDB_TYPE_LIST => vec![ffi::duckdb_list_type_child_type(raw)],
                ffi::DUCKDB_TYPE_DUCKDB_TYPE_ARRAY => vec![ffi::duckdb_array_type_child_type(raw)],
                ffi::DUCKDB_TYPE_DUCKDB_TYPE_MAP => {
                    vec![ffi::duckdb_map_type_key_type(raw), ffi::duckdb_map_type_value_type(raw)]
                }
                ffi::DUCKDB_TYPE_DUCKDB_TYPE_STRUCT => {
                    (0..ffi::duckdb_struct_type_child_count(raw)).map(|at| ffi::duckdb_struct_type_child_type(raw, at)).collect()
                }
                ffi::DUCKDB_TYPE_DUCKDB_TYPE_UNION => {
                    (0..ffi::duckdb_union_type_member_count(raw)).map(|at| ffi::duckdb_union_type_member_type(raw, at)).collect()
                }
                _ => Vec::new(),
            };
            children.into_iter().filter_map(|child| Self::from_raw(child)).collect()
        }
    }
}

/// Arrow options of a connection or result: time zone and the like.
pub(super) struct ArrowOptions(pub(super) ffi::duckdb_arrow_options);

impl Drop for ArrowOptions {
    fn drop(&mut self) {
        // SAFETY: owned by this value, destroyed once.
        unsafe { ffi::duckdb_destroy_arrow_options(&mut self.0) }
    }
}

impl Connection {
    /// The Arrow schema that a result with these columns has, in DuckDB's own form.
    pub fn arrow_schema(&self, columns: &[Column]) -> EngineResult<SchemaRef> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the connection is open; the options are ours to destroy.
        unsafe { ffi::duckdb_connection_get_arrow_options(self.raw(), &mut raw) };
        arrow_schema(&ArrowOptions(raw), columns)
    }

    /// The Arrow type of one DuckDB type.
    pub fn arrow_type(&self, logical: LogicalType) -> EngineResult<DataType> {
        let schema = self.arrow_schema(&[("x".to_owned(), logical)])?;
        Ok(schema.field(0).data_type().clone())
    }
}

pub(super) fn arrow_schema(options: &ArrowOptions, columns: &[Column]) -> EngineResult<SchemaRef> {
    let unreadable = columns.iter().find_map(|(name, logical)| logical.without_arrow_form().map(|sql_type| (name, sql_type)));
    if let Some((name, sql_type)) = unreadable {
        let message =
            format!("column \"{name}\" is {sql_type}, which has no Arrow form: cast it, for example CAST(\"{name}\" AS VARCHAR)");
        return Err(EngineError::new(ErrorKind::Invalid, message));
    }
    let texts: Vec<CString> = columns.iter().map(|(name, _)| c_text(name)).collect::<EngineResult<_>>()?;
    let mut names: Vec<*const c_char> = texts.iter().map(|name| name.as_ptr()).collect();
    let mut types: Vec<ffi::duckdb_logical_type> = columns.iter().map(|(_, logical)| logical.0).collect();
    let mut schema = FFI_ArrowSchema::empty();
    // SAFETY: both lists have `columns.len()` entries that live through the call; the two structs share the C data interface's layout.
    unsafe {
        let out = (&raw mut schema).cast::<ffi::ArrowSchema>();
        EngineError::check(ffi::duckdb_to_arrow_schema(
            options.0,
            types.as_mut_ptr(),
            names.as_mut_ptr(),
            columns.len() as u64,
            out,
        ))?;
    }
    let schema = Schema::try_from(&schema).map_err(|e| EngineError::new(ErrorKind::Other, e.to_string()))?;
    Ok(Arc::new(plain(&schema)))
}

/// Drops the extension metadata that DuckDB adds (JSON and the like are plain text for clients), and makes every field nullable.
fn plain(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(|field| Field::new(field.name(), field.data_type().clone(), true)).collect::<Vec<_>>())
}
