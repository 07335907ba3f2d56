//! Owns the table function through which Arrow batches enter DuckDB: `polynya_feed(<id>)`. A [`Feeder`] converts batches and puts
//! them into a bounded queue; the statement that reads the function takes them out. Refuses to know where batches come from.
//!
//! Not the crate's own Arrow table function: that one leaks each batch and follows an address given in SQL.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, StructArray};
use arrow::datatypes::SchemaRef;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow::record_batch::RecordBatch;
use duckdb::ffi;

use super::rows::Chunk;
use super::{Connection, EngineError, EngineResult, ErrorKind, LogicalType, c_text};

/// Rows of a chunk: DuckDB takes no more from a table function at once.
const CHUNK_ROWS: usize = 2048;

/// Chunks that wait between the feeder and the statement: the bound on an ingest's memory.
const QUEUED_CHUNKS: usize = 8;

/// The function's name in SQL. The guard lets no client call it.
const FUNCTION: &str = "polynya_feed";

static FEEDS: Mutex<BTreeMap<u64, Entry>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

struct Entry {
    columns: Vec<(CString, LogicalType)>,
    queue: Option<Receiver<Piece>>,
}

// SAFETY: a logical type is a plain value of DuckDB's without ties to a thread.
unsafe impl Send for LogicalType {}
// SAFETY: a chunk is a plain value of DuckDB's; it moves from the feeder to the statement's thread and is used by one at a time.
unsafe impl Send for Chunk {}

enum Piece {
    Rows(Filled),
    /// All rows were pushed. A queue that closes without it has lost its feeder, which must fail the statement.
    End,
    Failed(String),
}

/// A chunk whose vectors point into the batch's buffers. DuckDB ties all of them to the first column only, so that the batch must be
/// kept as long as any of them is read.
struct Filled {
    chunk: Chunk,
    _batch: RecordBatch,
}

fn feeds() -> MutexGuard<'static, BTreeMap<u64, Entry>> {
    FEEDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the function known in the connection's instance. Once an instance.
pub fn register(connection: &Connection) -> EngineResult<()> {
    let name = c_text(FUNCTION)?;
    // SAFETY: function and type are destroyed after DuckDB has copied them; the callbacks have the signatures that it asks for.
    let state = unsafe {
        let mut function = ffi::duckdb_create_table_function();
        ffi::duckdb_table_function_set_name(function, name.as_ptr());
        let id = LogicalType(ffi::duckdb_create_logical_type(ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIGINT));
        ffi::duckdb_table_function_add_parameter(function, id.0);
        ffi::duckdb_table_function_set_bind(function, Some(on_bind));
        ffi::duckdb_table_function_set_init(function, Some(on_init));
        ffi::duckdb_table_function_set_function(function, Some(on_next));
        let state = ffi::duckdb_register_table_function(connection.raw(), function);
        ffi::duckdb_destroy_table_function(&mut function);
        state
    };
    if state == ffi::DuckDBSuccess {
        Ok(())
    } else {
        Err(EngineError::new(ErrorKind::Other, format!("cannot register the function {FUNCTION}")))
    }
}

/// The reading end's place in SQL. Dropping it closes the feed.
pub struct Feed {
    id: u64,
}

impl Feed {
    /// What to write after FROM, once.
    #[must_use]
    pub fn sql(&self) -> String {
        format!("{FUNCTION}({})", self.id)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        feeds().remove(&self.id);
    }
}

/// The writing end. It has a connection of its own, so that it may work beside the statement that reads.
pub struct Feeder {
    connection: Connection,
    schema: SchemaRef,
    converted: Converted,
    queue: SyncSender<Piece>,
}

/// The statement that read the feed has ended.
#[derive(Debug)]
pub struct Closed;

struct Converted(ffi::duckdb_arrow_converted_schema);

// SAFETY: a plain value of DuckDB's that only its feeder uses.
unsafe impl Send for Converted {}

impl Drop for Converted {
    fn drop(&mut self) {
        // SAFETY: owned by this value, destroyed once.
        unsafe { ffi::duckdb_destroy_arrow_converted_schema(&mut self.0) }
    }
}

/// Opens a feed of rows of this schema; `connection` is the feeder's own.
pub fn open(connection: Connection, schema: SchemaRef) -> EngineResult<(Feed, Feeder)> {
    let converted = convert_schema(&connection, &schema)?;
    let (sender, receiver) = sync_channel(QUEUED_CHUNKS);
    let feeder = Feeder { connection, schema, converted, queue: sender };
    let sample = feeder.fill(RecordBatch::new_empty(feeder.schema.clone()))?;
    let mut columns = Vec::with_capacity(feeder.schema.fields().len());
    for (at, field) in feeder.schema.fields().iter().enumerate() {
        // SAFETY: the chunk has a vector for each field; the type is ours to free.
        let logical = unsafe {
            let vector = ffi::duckdb_data_chunk_get_vector(sample.chunk.0, at as u64);
            LogicalType(ffi::duckdb_vector_get_column_type(vector))
        };
        columns.push((c_text(field.name())?, logical));
    }
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    feeds().insert(id, Entry { columns, queue: Some(receiver) });
    Ok((Feed { id }, feeder))
}

fn convert_schema(connection: &Connection, schema: &SchemaRef) -> EngineResult<Converted> {
    let mut exported =
        FFI_ArrowSchema::try_from(schema.as_ref()).map_err(|e| EngineError::new(ErrorKind::Invalid, e.to_string()))?;
    let mut converted = ptr::null_mut();
    // SAFETY: the two structs share the C data interface's layout; DuckDB only reads ours, and we own what it makes.
    unsafe {
        let schema = (&raw mut exported).cast::<ffi::ArrowSchema>();
        EngineError::check(ffi::duckdb_schema_from_arrow(connection.raw(), schema, &mut converted))?;
    }
    Ok(Converted(converted))
}

impl Feeder {
    /// Queues the rows of a batch of the feed's schema. Waits while the queue is full.
    pub fn push(&self, batch: &RecordBatch) -> EngineResult<Result<(), Closed>> {
        let mut at = 0;
        while at < batch.num_rows() {
            let rows = CHUNK_ROWS.min(batch.num_rows() - at);
            let filled = self.fill(batch.slice(at, rows))?;
            if self.queue.send(Piece::Rows(filled)).is_err() {
                return Ok(Err(Closed));
            }
            at += rows;
        }
        Ok(Ok(()))
    }

    /// Says that all rows were pushed. A feeder that is dropped without it fails the statement.
    pub fn finish(self) {
        // The statement may have ended by itself; then nobody listens.
        let _ = self.queue.send(Piece::End);
    }

    /// Fails the statement with this text.
    pub fn fail(self, message: String) {
        let _ = self.queue.send(Piece::Failed(message));
    }

    fn fill(&self, batch: RecordBatch) -> EngineResult<Filled> {
        let mut array = FFI_ArrowArray::new(&StructArray::from(batch.clone()).into_data());
        let mut chunk = ptr::null_mut();
        // SAFETY: the array lives through the call and DuckDB takes over its release; `Filled` keeps the buffers for longer.
        unsafe {
            let array = (&raw mut array).cast::<ffi::ArrowArray>();
            EngineError::check(ffi::duckdb_data_chunk_from_arrow(self.connection.raw(), array, self.converted.0, &mut chunk))?;
        }
        Ok(Filled { chunk: Chunk(chunk), _batch: batch })
    }
}

/// State of one scan: the queue, and the chunk that DuckDB is working on.
struct Scan {
    queue: Receiver<Piece>,
    current: Option<Filled>,
}

unsafe extern "C" fn on_bind(info: ffi::duckdb_bind_info) {
    let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<(), &str> {
        // SAFETY: DuckDB calls with a live bind info; the parameter is there and BIGINT, and is ours to destroy.
        let id = unsafe {
            let mut value = ffi::duckdb_bind_get_parameter(info, 0);
            let id = ffi::duckdb_get_int64(value);
            ffi::duckdb_destroy_value(&mut value);
            id.cast_unsigned()
        };
        let feeds = feeds();
        let entry = feeds.get(&id).ok_or("there is no such feed")?;
        // SAFETY: names and types live through the calls and are copied; the bind data is freed by `drop_box`.
        unsafe {
            for (name, logical) in &entry.columns {
                ffi::duckdb_bind_add_result_column(info, name.as_ptr(), logical.0);
            }
            ffi::duckdb_bind_set_bind_data(info, Box::into_raw(Box::new(id)).cast(), Some(drop_box::<u64>));
        }
        Ok(())
    }));
    if let Some(message) = failure(outcome) {
        // SAFETY: the text is NUL-terminated and copied.
        unsafe { ffi::duckdb_bind_set_error(info, message.as_ptr()) }
    }
}

unsafe extern "C" fn on_init(info: ffi::duckdb_init_info) {
    let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<(), &str> {
        // SAFETY: the bind data is the id that `on_bind` left.
        let id = unsafe { *ffi::duckdb_init_get_bind_data(info).cast::<u64>() };
        let queue = feeds().get_mut(&id).and_then(|entry| entry.queue.take()).ok_or("the feed was read already")?;
        let scan = Box::into_raw(Box::new(Scan { queue, current: None }));
        // SAFETY: the state is freed by `drop_box`.
        unsafe {
            ffi::duckdb_init_set_init_data(info, scan.cast(), Some(drop_box::<Scan>));
            ffi::duckdb_init_set_max_threads(info, 1);
        }
        Ok(())
    }));
    if let Some(message) = failure(outcome) {
        // SAFETY: the text is NUL-terminated and copied.
        unsafe { ffi::duckdb_init_set_error(info, message.as_ptr()) }
    }
}

unsafe extern "C" fn on_next(info: ffi::duckdb_function_info, output: ffi::duckdb_data_chunk) {
    let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<(), String> {
        // SAFETY: the init data is the `Scan` that `on_init` left, and one thread at a time scans.
        let scan = unsafe { &mut *ffi::duckdb_function_get_init_data(info).cast::<Scan>() };
        match scan.queue.recv() {
            Ok(Piece::Rows(filled)) => {
                emit(&filled.chunk, output);
                // The chunk before is dropped only now: DuckDB has asked for more, so it is through with it.
                scan.current = Some(filled);
                Ok(())
            }
            Ok(Piece::End) => {
                // SAFETY: the output is a live chunk.
                unsafe { ffi::duckdb_data_chunk_set_size(output, 0) };
                Ok(())
            }
            Ok(Piece::Failed(message)) => Err(message),
            Err(_) => Err("the client's rows stopped before their end".to_owned()),
        }
    }));
    if let Some(message) = failure(outcome) {
        // SAFETY: the text is NUL-terminated and copied.
        unsafe { ffi::duckdb_function_set_error(info, message.as_ptr()) }
    }
}

/// Lets the output's vectors refer to the chunk's.
fn emit(chunk: &Chunk, output: ffi::duckdb_data_chunk) {
    // SAFETY: both chunks are live and have the columns that `on_bind` declared.
    unsafe {
        for at in 0..ffi::duckdb_data_chunk_get_column_count(output) {
            let target = ffi::duckdb_data_chunk_get_vector(output, at);
            ffi::duckdb_vector_reference_vector(target, ffi::duckdb_data_chunk_get_vector(chunk.0, at));
        }
        ffi::duckdb_data_chunk_set_size(output, chunk.len() as u64);
    }
}

unsafe extern "C" fn drop_box<T>(data: *mut c_void) {
    // SAFETY: made by `Box::into_raw` of a `Box<T>`, freed once by DuckDB. A panic must not cross into C.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(data.cast::<T>()) })));
}

/// The text to hand to DuckDB when a callback failed or panicked.
fn failure<E: ToString>(outcome: std::thread::Result<Result<(), E>>) -> Option<CString> {
    let message = match outcome {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a panic while rows were fed in".to_owned(),
    };
    Some(CString::new(message.replace('\0', " ")).unwrap_or_default())
}
