//! Owns DuckDB in this process: what a statement costs without worker, gateway and gRPC. Refuses to keep a batch.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use duckdb::{Config, Connection};

use crate::Stream;

/// One instance; each statement gets a connection of its own.
pub struct Engine(Mutex<Connection>);

/// An instance after these statements.
pub fn open(setup: &str) -> Engine {
    let config = Config::default().allow_unsigned_extensions().expect("a setting");
    let connection = Connection::open_in_memory_with_flags(config).expect("an instance");
    connection.execute_batch(setup).expect("the set-up");
    Engine(Mutex::new(connection))
}

impl Engine {
    /// Streams one statement; `take` is given the schema, then each batch, and returns false to stop.
    pub fn stream(&self, sql: &str, begin: impl FnOnce(SchemaRef), mut take: impl FnMut(RecordBatch) -> bool) {
        let connection = self.0.lock().unwrap().try_clone().expect("a connection");
        // Prepared and run in one transaction, as by DuckDB's own clients: else a catalog would be asked for each table twice.
        connection.execute_batch("BEGIN").expect("a transaction");
        let mut statement = connection.prepare(sql).expect("a statement");
        let batches = statement.stream_arrow([]).expect("a result");
        begin(batches.get_schema());
        for batch in batches {
            if !take(batch) {
                break;
            }
        }
        drop(statement);
        connection.execute_batch("COMMIT").expect("a transaction's end");
    }
}

/// Runs these statements at once and drops their batches.
pub fn scan(engine: &Engine, statements: Vec<String>) -> Stream {
    let (rows, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let first = Mutex::new(f64::INFINITY);
    let began = Instant::now();
    thread::scope(|threads| {
        for sql in &statements {
            let (rows, bytes, first) = (&rows, &bytes, &first);
            threads.spawn(move || {
                let mut seen = false;
                engine.stream(
                    sql,
                    |_| (),
                    |batch| {
                        if !std::mem::replace(&mut seen, true) {
                            let mut first = first.lock().unwrap();
                            *first = first.min(began.elapsed().as_secs_f64());
                        }
                        rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                        bytes.fetch_add(batch.get_array_memory_size() as u64, Ordering::Relaxed);
                        true
                    },
                );
            });
        }
    });
    Stream {
        first: first.into_inner().unwrap(),
        total: began.elapsed().as_secs_f64(),
        rows: rows.into_inner(),
        bytes: bytes.into_inner(),
    }
}
