//! Owns an ingest: batches that a client sends become rows of a table, in bounded memory, by one INSERT or CREATE TABLE AS that reads
//! them through the feed. Refuses types that Iceberg lacks before anything runs.

use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::arrow_input::{ArrowInput, Input};
use super::column_types::{FedSchema, check_creatable};
use crate::wire::proto::failure::Kind;
use crate::wire::proto::{Class, Done, Ingest, IngestMode, Judged, Request, TableName};
use crate::wire::{FrameHeader, FrameKind};
use crate::worker::binding::{Connection, EngineError, ErrorKind, feed};
use crate::worker::connection::{Shared, Trouble, changed, check_cancelled, closed};
use crate::worker::database::identifier;
use crate::worker::failure::StatementError;
use crate::worker::guard;
use crate::worker::output::socket::DataSocket;
use crate::worker::statements::Running;

/// What an ingest needs of its data connection.
pub struct Parts<'a> {
    /// The worker.
    pub shared: &'a Shared,
    /// Runs the statement.
    pub engine: &'a Connection,
    /// Brings the rows.
    pub socket: &'a DataSocket,
    /// Set while frames of the input may still come that nobody has read.
    pub input_left: &'a mut bool,
}

/// Serves one ingest; `None` when it was handed back.
pub fn serve(parts: Parts<'_>, request: &Request, order: &Ingest, running: &Running) -> Result<Option<Done>, Trouble> {
    let judged = judged(request, order);
    parts.socket.write_message(FrameKind::Judged, &judged, &running.cancel_flag()).map_err(Trouble::Broken)?;
    if judged.handed_back {
        return Ok(None);
    }
    *parts.input_left = true;
    if !parts.socket.wait_readable(|| running.is_cancelled()).map_err(Trouble::Broken)? {
        check_cancelled(running)?;
    }
    let (header, payload) = first_frame(parts.socket)?;
    let input = ArrowInput::begin(header, &payload)?;
    let fed = FedSchema::new(input.schema())?;
    let statement = plan(parts.engine, order, input.schema())?;
    let (feed, feeder) = feed::open(parts.shared.instance.connect()?, fed.schema().clone())?;
    let sql = statement.sql(&feed.sql());
    let over = AtomicBool::new(false);
    let pump = Pump { socket: parts.socket, input, fed, running, over: &over };
    let (executed, pumped) = std::thread::scope(|scope| {
        let pumping = scope.spawn(move || pump.run(feeder));
        let executed = execute(parts.engine, &sql);
        // A pump that still waits for its client, or for room in the queue, is let go.
        over.store(true, Ordering::Release);
        drop(feed);
        (executed, pumping.join())
    });
    let pumped = pumped.map_err(|_| StatementError::new(Kind::Internal, "a panic while rows were read"))?;
    *parts.input_left = !pumped.at_end;
    if executed.is_ok() && pumped.outcome.is_ok() {
        // Committed, even if somebody wanted it to stop meanwhile.
        return Ok(Some(changed(pumped.rows)));
    }
    check_cancelled(running)?;
    // What went wrong with the rows says more than the statement that missed them.
    pumped.outcome?;
    executed?;
    Ok(Some(changed(pumped.rows)))
}

/// As for a statement: the gateway loads the target before anything runs.
fn judged(request: &Request, order: &Ingest) -> Judged {
    let class = match order.mode() {
        IngestMode::Append => Class::BlindInsert,
        IngestMode::Create | IngestMode::CreateOrAppend => Class::Ddl,
    };
    let handed_back = !request.allowed.contains(&class.into());
    Judged {
        class: class.into(),
        target: Some(target(order)),
        waiting: !handed_back,
        handed_back,
        creates_target: order.mode() != IngestMode::Append,
        ..Judged::default()
    }
}

fn target(order: &Ingest) -> TableName {
    TableName { catalog: order.catalog.clone(), schema: order.schema.clone(), table: order.table.clone() }
}

/// The schema's frame, after a PROCEED; a gateway that has nothing to prepare may leave the PROCEED out.
fn first_frame(socket: &DataSocket) -> Result<(FrameHeader, Vec<u8>), Trouble> {
    let first = socket.read().map_err(Trouble::Broken)?.ok_or_else(closed)?;
    if first.0.kind != FrameKind::Proceed {
        return Ok(first);
    }
    socket.read().map_err(Trouble::Broken)?.ok_or_else(closed)
}

/// How the rows get into the table.
enum Plan {
    Create { table: String },
    Append { table: String, columns: Vec<String> },
}

impl Plan {
    fn sql(&self, feed: &str) -> String {
        match self {
            Self::Create { table } => format!("CREATE TABLE {table} AS SELECT * FROM {feed}"),
            Self::Append { table, columns } => {
                format!("INSERT INTO {table} ({}) SELECT * FROM {feed}", columns.join(", "))
            }
        }
    }
}

fn plan(engine: &Connection, order: &Ingest, schema: &SchemaRef) -> Result<Plan, StatementError> {
    if schema.fields().is_empty() {
        return Err(StatementError::new(Kind::Invalid, "the rows to ingest have no columns"));
    }
    // Where there is no such table, DuckDB would look for a file of this name.
    guard::judge_table_name(&target(order)).map_err(|refusal| StatementError::new(Kind::Invalid, refusal.to_string()))?;
    let table = [&order.catalog, &order.schema, &order.table].map(|part| identifier(part)).join(".");
    let existing = match order.mode() {
        IngestMode::Create => None,
        IngestMode::Append => Some(columns_of(engine, &table)?),
        IngestMode::CreateOrAppend => match columns_of(engine, &table) {
            Ok(columns) => Some(columns),
            Err(error) if error.kind == ErrorKind::Catalog => None,
            Err(error) => return Err(error.into()),
        },
    };
    match existing {
        Some(columns) => Ok(Plan::Append { columns: matched(&columns, schema, order)?, table }),
        None => {
            check_creatable(schema)?;
            Ok(Plan::Create { table })
        }
    }
}

fn columns_of(engine: &Connection, table: &str) -> Result<Vec<String>, EngineError> {
    let statement = engine.prepare(&format!("SELECT * FROM {table}"))?;
    Ok(statement.columns().unwrap_or_default().into_iter().map(|(name, _)| name).collect())
}

/// The table's column for each of the fed ones, quoted; names match whatever their case.
fn matched(columns: &[String], schema: &SchemaRef, order: &Ingest) -> Result<Vec<String>, StatementError> {
    let mut names: Vec<String> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let column = columns.iter().find(|column| column.to_lowercase() == field.name().to_lowercase()).ok_or_else(|| {
            let message = format!(
                "table {}.{}.{} has no column \"{}\"; its columns are {}",
                order.catalog,
                order.schema,
                order.table,
                field.name(),
                columns.join(", ")
            );
            StatementError::new(Kind::Invalid, message)
        })?;
        let name = identifier(column);
        if names.contains(&name) {
            return Err(StatementError::new(Kind::Invalid, format!("column \"{column}\" comes twice in the rows to ingest")));
        }
        names.push(name);
    }
    Ok(names)
}

fn execute(engine: &Connection, sql: &str) -> Result<(), StatementError> {
    engine.prepare(sql)?.complete()?;
    Ok(())
}

/// Brings the client's batches to the statement that reads them.
struct Pump<'a> {
    socket: &'a DataSocket,
    input: ArrowInput,
    fed: FedSchema,
    running: &'a Running,
    /// The statement has ended.
    over: &'a AtomicBool,
}

struct Pumped {
    /// Rows handed to the statement. DuckDB does not count those of a CREATE TABLE AS.
    rows: u64,
    /// The last frame of the input was read.
    at_end: bool,
    outcome: Result<(), Trouble>,
}

impl Pump<'_> {
    fn run(mut self, feeder: feed::Feeder) -> Pumped {
        let (mut at_end, mut rows) = (false, 0);
        let outcome = self.pump(&feeder, &mut at_end, &mut rows);
        match &outcome {
            Ok(()) if at_end => feeder.finish(),
            Ok(()) => drop(feeder),
            Err(Trouble::Statement(error)) => feeder.fail(error.message.clone()),
            Err(Trouble::Broken(error)) => feeder.fail(error.to_string()),
        }
        Pumped { rows, at_end, outcome }
    }

    fn pump(&mut self, feeder: &feed::Feeder, at_end: &mut bool, rows: &mut u64) -> Result<(), Trouble> {
        loop {
            let gone = || self.running.is_cancelled() || self.over.load(Ordering::Acquire);
            if !self.socket.wait_readable(gone).map_err(Trouble::Broken)? {
                return Ok(());
            }
            let (header, payload) = self.socket.read().map_err(Trouble::Broken)?.ok_or_else(closed)?;
            *at_end = header.kind == FrameKind::EndOfInput;
            let Some(batch) = self.next(header, &payload)? else {
                return Ok(());
            };
            if feeder.push(&batch)?.is_err() {
                return Ok(());
            }
            *rows += batch.num_rows() as u64;
        }
    }

    fn next(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Option<RecordBatch>, StatementError> {
        match self.input.next(header, payload)? {
            Input::Rows(batch) => self.fed.convert(&batch).map(Some),
            Input::Nothing => Ok(Some(RecordBatch::new_empty(self.fed.schema().clone()))),
            Input::End => Ok(None),
        }
    }
}
