//! Owns a result of DuckDB: fetches its chunks and imports them as Arrow batches, in DuckDB's own Arrow types.

use std::marker::PhantomData;

use arrow::array::StructArray;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ffi::{FFI_ArrowArray, from_ffi_and_data_type};
use arrow::record_batch::RecordBatch;
use duckdb::ffi;

use super::types::{ArrowOptions, arrow_schema};
use super::{Column, EngineError, EngineResult, ErrorKind, LogicalType, borrow_text};

/// What came of a statement.
pub enum Outcome<'s> {
    /// Rows to fetch.
    Rows(Rows<'s>),
    /// Rows changed.
    Changed(u64),
    /// Nothing to tell.
    Nothing,
}

struct RawResult(ffi::duckdb_result);

impl Drop for RawResult {
    fn drop(&mut self) {
        // SAFETY: filled by DuckDB, destroyed once.
        unsafe { ffi::duckdb_destroy_result(&mut self.0) }
    }
}

impl Outcome<'_> {
    /// Takes over a result.
    ///
    /// # Safety
    /// `result` was filled by the call that returned `state`, and nobody else destroys it.
    pub(super) unsafe fn new(state: ffi::duckdb_state, result: ffi::duckdb_result, made: bool) -> EngineResult<Self> {
        let mut result = RawResult(result);
        // SAFETY: the result is live in all calls below.
        unsafe {
            if state != ffi::DuckDBSuccess {
                return Err(EngineError::of_result(&mut result.0));
            }
            Ok(match ffi::duckdb_result_return_type(result.0) {
                ffi::duckdb_result_type_DUCKDB_RESULT_TYPE_QUERY_RESULT => Self::Rows(Rows::new(result, made)?),
                ffi::duckdb_result_type_DUCKDB_RESULT_TYPE_CHANGED_ROWS => Self::Changed(ffi::duckdb_rows_changed(&mut result.0)),
                _ => Self::Nothing,
            })
        }
    }
}

/// The rows of a running statement. Dropping them ends it.
pub struct Rows<'s> {
    result: RawResult,
    options: ArrowOptions,
    schema: SchemaRef,
    made: bool,
    _statement: PhantomData<&'s mut ()>,
}

impl Rows<'_> {
    fn new(mut result: RawResult, made: bool) -> EngineResult<Self> {
        // SAFETY: the result is live; options are ours to destroy.
        let options = unsafe { ArrowOptions(ffi::duckdb_result_get_arrow_options(&mut result.0)) };
        let schema = arrow_schema(&options, &columns(&mut result))?;
        Ok(Self { result, options, schema, made, _statement: PhantomData })
    }

    /// Whether DuckDB has made all rows already: to fetch them waits for nothing.
    #[must_use]
    pub fn are_made(&self) -> bool {
        self.made
    }

    /// The columns, in DuckDB's Arrow form.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next rows, at most 2,048; `None` at the end. Blocks until DuckDB has some.
    pub fn next_batch(&mut self) -> EngineResult<Option<RecordBatch>> {
        // SAFETY: the result is live; the chunk is ours to destroy.
        let chunk = unsafe { ffi::duckdb_fetch_chunk(self.result.0) };
        if chunk.is_null() {
            // SAFETY: the result is live.
            return unsafe {
                if ffi::duckdb_result_error(&mut self.result.0).is_null()
                    || borrow_text(ffi::duckdb_result_error(&mut self.result.0)).is_empty()
                {
                    Ok(None)
                } else {
                    Err(EngineError::of_result(&mut self.result.0))
                }
            };
        }
        let chunk = Chunk(chunk);
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: options and chunk are live; the two structs share the C data interface's layout, and DuckDB fills ours.
        let data = unsafe {
            let out = (&raw mut array).cast::<ffi::ArrowArray>();
            EngineError::check(ffi::duckdb_data_chunk_to_arrow(self.options.0, chunk.0, out))?;
            from_ffi_and_data_type(array, DataType::Struct(self.schema.fields().clone()))
        };
        let mut data = data.map_err(arrow_error)?;
        data.align_buffers();
        let (_, columns, _) = StructArray::from(data).into_parts();
        let rows = chunk.len();
        let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map(Some).map_err(arrow_error)
    }
}

/// A chunk of DuckDB that we own.
pub(super) struct Chunk(pub(super) ffi::duckdb_data_chunk);

impl Chunk {
    pub(super) fn len(&self) -> usize {
        // SAFETY: the chunk is live.
        unsafe { ffi::duckdb_data_chunk_get_size(self.0) as usize }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: owned by this value, destroyed once.
        unsafe { ffi::duckdb_destroy_data_chunk(&mut self.0) }
    }
}

fn columns(result: &mut RawResult) -> Vec<Column> {
    // SAFETY: the result is live; types are ours to free, names stay with the result.
    unsafe {
        (0..ffi::duckdb_column_count(&mut result.0))
            .filter_map(|at| {
                let logical = LogicalType::from_raw(ffi::duckdb_column_logical_type(&mut result.0, at))?;
                Some((borrow_text(ffi::duckdb_column_name(&mut result.0, at)), logical))
            })
            .collect()
    }
}

fn arrow_error(error: arrow::error::ArrowError) -> EngineError {
    EngineError::new(ErrorKind::Other, format!("cannot import a chunk as Arrow: {error}"))
}
