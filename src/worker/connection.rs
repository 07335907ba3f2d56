//! Owns one data connection: one OS thread, one DuckDB connection, one statement at a time from its request to its last frame.
//! Refuses to know what a statement may do (the guard) and how rows are put on the wire (the stream).

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use prost::Message;
use tracing::{debug, warn};

use super::binding::{Connection, EngineError, Instance, Outcome, Prepared, Rows, StatementKind};
use super::failure::StatementError;
use super::guard::{PlanForm, Refusal, Scope, Verdict};
use super::input::column_types::naming_the_column;
use super::input::ingest;
use super::input::parameters::{self, ParameterRows};
use super::judge::{Bench, Judge};
use super::listing::Listings;
use super::once;
use super::output::pipeline::Stopped;
use super::output::socket::DataSocket;
use super::output::stream::{Measured, ResultStream, StreamError};
use super::output::types::{check_column_count, client_batch, client_schema};
use super::output::{encode, pipeline, plan};
use super::past;
use super::plans::Plans;
use super::statements::{InTurn, Running, Statements};
use crate::wire::proto::failure::Kind;
use crate::wire::proto::{Class, Described, Done, Judged, Listing, Proceed, Request, Run, request};
use crate::wire::{FrameHeader, FrameKind};

/// What all data connections of a worker share.
pub struct Shared {
    /// The instance.
    pub instance: Instance,
    /// Judging; none in a worker that serves the command line on the user's own files.
    pub bench: Option<Bench>,
    /// Names of the attached catalogs.
    pub catalogs: Vec<String>,
    /// The statements in work.
    pub statements: Arc<Statements>,
    /// Ends the worker: the instance is no longer usable.
    pub end: Box<dyn Fn() + Send + Sync>,
}

/// One data connection.
pub struct DataConnection {
    socket: DataSocket,
    plans: Plans,
    engine: Connection,
    judge: Option<Judge>,
    shared: Arc<Shared>,
    statements: InTurn,
    /// Frames of an ingest may still come that its statement did not live to read.
    input_left: bool,
}

/// Why a statement did not end well.
pub enum Trouble {
    /// The gateway is told, and the connection serves on.
    Statement(StatementError),
    /// Nobody can be told: the connection ends.
    Broken(io::Error),
}

impl<E: Into<StatementError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Statement(error.into())
    }
}

impl From<StreamError> for Trouble {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Socket(error) => Self::Broken(error),
            StreamError::Arrow(error) => Self::Statement(error.into()),
            StreamError::LargeRow(_) => StatementError::new(Kind::Invalid, error.to_string()).into(),
        }
    }
}

impl From<Stopped<EngineError>> for Trouble {
    fn from(stopped: Stopped<EngineError>) -> Self {
        match stopped {
            Stopped::Failed(error) => error.into(),
            Stopped::Stream(error) => error.into(),
            Stopped::Cancelled => interrupted().into(),
            Stopped::NoThread(error) => {
                StatementError::new(Kind::Internal, format!("no thread to send the rows: {error}")).into()
            }
        }
    }
}

/// How a statement ends on the wire.
enum Ending {
    Done(Done),
    Described(Described),
    HandedBack,
}

/// What is to be run, after the gateway has let it through.
struct Admitted {
    verdict: Arc<Verdict>,
    listings: Vec<Listing>,
}

impl DataConnection {
    /// A connection of the instance for this socket.
    pub fn new(socket: UnixStream, shared: Arc<Shared>) -> io::Result<Self> {
        let engine = shared.instance.connect().map_err(io::Error::other)?;
        let judge = shared.bench.as_ref().map(Bench::judge).transpose().map_err(io::Error::other)?;
        let statements = shared.statements.in_turn();
        let socket = DataSocket::new(socket)?;
        Ok(Self { socket, plans: Plans::default(), engine, judge, shared, statements, input_left: false })
    }

    /// Serves statements until the gateway closes the connection.
    pub fn serve(mut self) {
        loop {
            match self.socket.read_when_there() {
                Ok(Some((header, payload))) => {
                    if let Err(error) = self.statement(header, &payload) {
                        debug!(%error, "a data connection broke");
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    debug!(%error, "a data connection broke between statements");
                    return;
                }
            }
        }
    }

    fn statement(&mut self, header: FrameHeader, payload: &[u8]) -> io::Result<()> {
        let request = expect_message::<Request>(header, payload, FrameKind::Request)?;
        let running = self.statements.begin(request.statement_id, self.engine.interrupter());
        let cancelled = running.cancel_flag();
        let ending = self.carry_out(&request, &running);
        // Before the last frame: from then on the gateway may send the next statement here, or close the connection.
        drop(running);
        match ending {
            Ok(Ending::Done(done)) => self.socket.write_message(FrameKind::Done, &done, &cancelled),
            Ok(Ending::Described(described)) => self.socket.write_message(FrameKind::Described, &described, &cancelled),
            Ok(Ending::HandedBack) => Ok(()),
            Err(Trouble::Broken(error)) => Err(error),
            Err(Trouble::Statement(error)) => {
                let told = self.socket.write_message(FrameKind::Failed, &error.to_failure(), &cancelled);
                if error.fatal {
                    warn!(message = error.to_failure().message, "the instance is no longer usable");
                    (self.shared.end)();
                }
                told?;
                self.skip_input()
            }
        }
    }

    /// Reads away what is left of an ingest that failed. The gateway has been told by then, and may end its input early.
    fn skip_input(&mut self) -> io::Result<()> {
        while std::mem::take(&mut self.input_left) {
            let (header, _) = self.socket.read()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.input_left = header.kind != FrameKind::EndOfInput;
        }
        Ok(())
    }

    fn carry_out(&mut self, request: &Request, running: &Running) -> Result<Ending, Trouble> {
        let action = request.action.as_ref().ok_or_else(|| invalid_frame("a request without an action"))?;
        if let request::Action::Ingest(order) = action {
            let input_left = &mut self.input_left;
            let parts = ingest::Parts { shared: &self.shared, engine: &self.engine, socket: &self.socket, input_left };
            let outcome = ingest::serve(parts, request, order, running).map_err(|trouble| as_cancelled(trouble, running))?;
            return Ok(outcome.map_or(Ending::HandedBack, Ending::Done));
        }
        let Some(admitted) = self.admit(request, action, running)? else {
            return Ok(Ending::HandedBack);
        };
        if admitted.verdict.class == Class::Session {
            return Ok(session_ending(action, &admitted.verdict));
        }
        let mut listings = Listings::default();
        let outcome = listings
            .create(&self.shared.instance, &self.engine, &admitted.listings, &admitted.verdict.system)
            .map_err(Trouble::from)
            .and_then(|()| {
                self.check_target(&admitted)?;
                let ending = match action {
                    request::Action::Run(run) => {
                        let done = self.run(&admitted, run, running).map(Ending::Done);
                        done.map_err(|trouble| self.unmasked(trouble, &admitted, run, running))
                    }
                    _ => self.describe(&admitted).map(Ending::Described),
                };
                ending.map_err(|trouble| self.explained(trouble, &admitted))
            });
        // The statement's own outcome counts: a commit is not undone by this.
        if let Err(error) = listings.drop_from(&self.engine) {
            warn!(%error, "a listing stays on its connection");
        }
        outcome.map_err(|trouble| as_cancelled(trouble, running))
    }

    /// Judges, tells the gateway, and waits for its word where it has something to do first. `None` when handed back.
    fn admit(&mut self, request: &Request, action: &request::Action, running: &Running) -> Result<Option<Admitted>, Trouble> {
        let Some(judge) = self.judge.as_mut() else {
            return self.admit_local(request, running).map(Some);
        };
        let scope = Scope::new(&self.shared.catalogs, &request.default_catalog, &request.default_schema);
        let scope = scope.in_the_past(request.in_the_past);
        let verdict = judge.judge(&scope, &request.sql).map_err(refused)?;
        let may_run = verdict.class == Class::Session || request.allowed.contains(&verdict.class.into());
        // What stands in AT is evaluated by a worker that is the statement's own, for a description too.
        let is_elsewhere = !verdict.past.is_empty() && !request.allowed.is_empty();
        let tells_columns = verdict.columns.is_some() && matches!(action, request::Action::Describe(order) if !order.bind);
        let handed_back = tells_columns || !may_run && (matches!(action, request::Action::Run(_)) || is_elsewhere);
        let mut judged = judged(&verdict, handed_back);
        judged.columns = if tells_columns { verdict.columns.clone() } else { None };
        if !handed_back {
            judged.past = past::evaluated(&self.engine, &verdict.past)?;
        }
        let waiting = judged.waiting;
        self.tell_judged(&judged, running)?;
        if handed_back {
            return Ok(None);
        }
        let Proceed { listings, versions } = if waiting { self.proceed(running)? } else { Proceed::default() };
        let verdict = match self.judge.as_mut().filter(|_| !verdict.past.is_empty()) {
            Some(judge) => {
                let versions = past::settled(&verdict.past, &versions)?;
                judge.judge_settled(&scope.with_versions(&versions), &request.sql).map_err(refused)?
            }
            None => verdict,
        };
        Ok(Some(Admitted { verdict, listings }))
    }

    /// On the user's own files everything is allowed, and nothing is looked up first.
    fn admit_local(&mut self, request: &Request, running: &Running) -> Result<Admitted, Trouble> {
        self.tell_judged(&Judged { class: Class::Read.into(), ..Judged::default() }, running)?;
        let verdict = Verdict { sql: request.sql.clone(), ..Verdict::default() };
        Ok(Admitted { verdict: Arc::new(verdict), listings: Vec::new() })
    }

    /// The target's own columns: a virtual one of the same name would show where its files lie.
    fn check_target(&self, admitted: &Admitted) -> Result<(), Trouble> {
        let Some(needed) = &admitted.verdict.target_has else { return Ok(()) };
        let columns = self.engine.prepare(&needed.query)?.columns().unwrap_or_default();
        let lacks = |name: &&&str| !columns.iter().any(|(column, _)| column.eq_ignore_ascii_case(name));
        match needed.names.iter().find(lacks) {
            Some(name) => Err(StatementError::new(Kind::Invalid, no_column(name)).into()),
            None => Ok(()),
        }
    }

    /// At once where the gateway has something to do; else with what follows.
    fn tell_judged(&self, judged: &Judged, running: &Running) -> Result<(), Trouble> {
        let told = if judged.waiting || judged.handed_back {
            self.socket.write_message(FrameKind::Judged, judged, &running.cancel_flag())
        } else {
            self.socket.hold_message(FrameKind::Judged, judged)
        };
        told.map_err(Trouble::Broken)
    }

    fn proceed(&self, running: &Running) -> Result<Proceed, Trouble> {
        if !self.socket.wait_readable(|| running.is_cancelled()).map_err(Trouble::Broken)? {
            // PROCEED may still come, and would be taken for the next request.
            return Err(closed());
        }
        let (header, payload) = self.socket.read().map_err(Trouble::Broken)?.ok_or_else(closed)?;
        expect_message(header, &payload, FrameKind::Proceed).map_err(Trouble::Broken)
    }

    fn describe(&self, admitted: &Admitted) -> Result<Described, Trouble> {
        let statement = self.engine.prepare(&admitted.verdict.sql)?;
        let parameter_schema =
            encode::encapsulated_schema(&parameters::describe(&self.engine, &statement, &admitted.verdict.parameter_types)?)?
                .into();
        let (mut result_schema, mut provisional) = (Bytes::new(), false);
        if statement.kind() == StatementKind::Query {
            check_column_count(statement.column_count())?;
            let schema = match statement.columns() {
                Some(columns) => client_schema(self.engine.arrow_schema(&columns)?.as_ref())?,
                None => {
                    provisional = true;
                    self.provisional_schema(admitted)?
                }
            };
            result_schema = encode::encapsulated_schema(&schema)?.into();
        }
        Ok(Described { class: admitted.verdict.class.into(), parameter_schema, result_schema, session: None, provisional })
    }

    /// The columns of a query of which some hang on parameters without a type. DuckDB tells them only of a statement that has values:
    /// text, as such parameters are described, or NULLs where text does not fit.
    fn provisional_schema(&self, admitted: &Admitted) -> Result<SchemaRef, Trouble> {
        if admitted.verdict.sql.starts_with("EXPLAIN ") {
            // No query can be made around it, and its columns hang on nothing.
            let text = |name| Field::new(name, DataType::Utf8, true);
            return Ok(Arc::new(Schema::new(vec![text("explain_key"), text("explain_value")])));
        }
        // None of its rows is made under this limit.
        let mut limited = self.engine.prepare(&format!("SELECT * FROM ({}\n) LIMIT 0", admitted.verdict.sql))?;
        parameters::bind_text(&mut limited, &admitted.verdict.parameter_types)?;
        let as_text = limited.stream().map(|outcome| rows_schema(&outcome));
        match as_text {
            Ok(schema) => schema,
            Err(_) => {
                parameters::bind_nulls(&mut limited)?;
                rows_schema(&limited.stream()?)
            }
        }
    }

    fn run(&mut self, admitted: &Admitted, run: &Run, running: &Running) -> Result<Done, Trouble> {
        let Verdict { sql, constant, .. } = admitted.verdict.as_ref();
        if once::is_possible(&admitted.verdict, run) {
            return self.run_once(sql, running);
        }
        if !constant {
            let mut statement = self.engine.prepare(sql)?;
            return self.execute(&mut statement, admitted, run, running);
        }
        let mut statement = self.plans.take(&self.engine, sql)?;
        let done = self.execute(&mut statement, admitted, run, running)?;
        self.plans.keep(sql, statement);
        Ok(done)
    }

    /// A query that DuckDB plans once.
    fn run_once(&self, sql: &str, running: &Running) -> Result<Done, Trouble> {
        let mut statement = once::prepare(&self.engine, sql)?;
        check_cancelled(running)?;
        let outcome = statement.stream().map_err(|error| once::explained(&self.engine, sql, error))?;
        let Outcome::Rows(rows) = outcome else { return Err(without_rows()) };
        let schema = once::with_own_names(&self.shared.instance, sql, client_schema(rows.schema())?)?;
        self.send_rows(rows, &schema, running)
    }

    fn execute(&self, statement: &mut Prepared, admitted: &Admitted, run: &Run, running: &Running) -> Result<Done, Trouble> {
        let rows = ParameterRows::decode(&run.parameters)?;
        match (statement.kind(), rows) {
            (_, None) => parameters::check_count(statement, 0)?,
            (StatementKind::Command, Some(rows)) if rows.len() != 1 => return self.run_each(statement, &rows, running),
            (_, Some(rows)) => {
                let (batch, row) = rows.only()?;
                parameters::bind(&self.engine, statement, batch, row)?;
            }
        }
        check_cancelled(running)?;
        let outcome = match statement.kind() {
            StatementKind::Query => statement.stream()?,
            StatementKind::Command => statement.complete()?,
        };
        match outcome {
            Outcome::Rows(rows) => match admitted.verdict.plan {
                None => {
                    let schema = client_schema(rows.schema())?;
                    self.send_rows(rows, &schema, running)
                }
                Some(form) => self.send_plan(rows, form, running),
            },
            Outcome::Changed(rows) => Ok(changed(rows)),
            Outcome::Nothing => Ok(Done { affected: -1, ..Done::default() }),
        }
    }

    /// One execution a row of parameters, all of them or none.
    fn run_each(&self, statement: &mut Prepared, rows: &ParameterRows, running: &Running) -> Result<Done, Trouble> {
        self.engine.run("BEGIN TRANSACTION")?;
        let outcome = self.execute_each(statement, rows, running).and_then(|total| {
            self.engine.run("COMMIT")?;
            Ok(changed(total))
        });
        if outcome.is_err()
            && let Err(error) = self.engine.run("ROLLBACK")
        {
            // A failed COMMIT has ended the transaction already.
            debug!(%error, "nothing to roll back");
        }
        outcome
    }

    fn execute_each(&self, statement: &mut Prepared, rows: &ParameterRows, running: &Running) -> Result<u64, Trouble> {
        let mut total = 0;
        for (batch, row) in rows.iter() {
            check_cancelled(running)?;
            parameters::bind(&self.engine, statement, batch, row)?;
            if let Outcome::Changed(rows) = statement.complete()? {
                total += rows;
            }
        }
        Ok(total)
    }

    /// When a thread of a query fails, DuckDB interrupts its others, and tells who fetches rows at that time of the interrupt only. Where
    /// nobody has cancelled it, the query is run once more, without its rows, for what it has failed of.
    fn unmasked(&self, trouble: Trouble, admitted: &Admitted, run: &Run, running: &Running) -> Trouble {
        let verdict = &admitted.verdict;
        let is_masked = matches!(&trouble, Trouble::Statement(error) if error.kind == Kind::Interrupted)
            && !running.is_cancelled()
            && verdict.plan.is_none()
            && matches!(verdict.class, Class::Read | Class::TimeTravel);
        if !is_masked {
            return trouble;
        }
        match self.run_without_rows(&verdict.sql, run) {
            Err(Trouble::Statement(cause)) if cause.kind != Kind::Interrupted => cause.without_excerpt().into(),
            Err(broken @ Trouble::Broken(_)) => broken,
            _ => {
                let message = "the statement failed, and did not when it was run again: run it again";
                StatementError::new(Kind::Unreachable, message).into()
            }
        }
    }

    fn run_without_rows(&self, sql: &str, run: &Run) -> Result<(), Trouble> {
        let mut statement = self.engine.prepare(&format!("EXPLAIN ANALYZE {sql}"))?;
        if let Some(rows) = ParameterRows::decode(&run.parameters)? {
            let (batch, row) = rows.only()?;
            parameters::bind(&self.engine, &mut statement, batch, row)?;
        }
        statement.complete()?;
        Ok(())
    }

    fn explained(&self, trouble: Trouble, admitted: &Admitted) -> Trouble {
        match trouble {
            Trouble::Statement(error) => naming_the_column(error, &self.engine, &admitted.verdict.sql).into(),
            broken @ Trouble::Broken(_) => broken,
        }
    }

    /// The rows of EXPLAIN, as the client may see them.
    fn send_plan(&self, mut rows: Rows<'_>, form: PlanForm, running: &Running) -> Result<Done, Trouble> {
        let schema = client_schema(rows.schema())?;
        let mut stream = ResultStream::begin(&self.socket, &schema, running.cancel_flag())?;
        while let Some(batch) = rows.next_batch()? {
            let batch = client_batch(batch, &schema)?;
            let plans = batch.column(1).as_string::<i32>().iter();
            let plans = plans.map(|plan| plan.map(|plan| plan::shown(plan, form)).transpose());
            let plans = Arc::new(plans.collect::<Result<StringArray, StatementError>>()?);
            let shown = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(batch.column(0)), plans])?;
            stream.push(Measured::of(shown))?;
        }
        drop(rows);
        Ok(Done { rows: stream.finish()?, affected: -1, session: None })
    }

    fn send_rows(&self, mut rows: Rows<'_>, schema: &SchemaRef, running: &Running) -> Result<Done, Trouble> {
        let cancelled = running.cancel_flag();
        let stream = ResultStream::begin(&self.socket, schema, Arc::clone(&cancelled))?;
        let made = rows.are_made();
        let next = || {
            let batch = rows.next_batch().map_err(Stopped::Failed)?;
            batch.map(|batch| client_batch(batch, schema)).transpose().map_err(|error| Stopped::Stream(error.into()))
        };
        let send = if made { pipeline::send_made } else { pipeline::send_all };
        let rows = send(next, stream, &cancelled)?;
        Ok(Done { rows, affected: -1, session: None })
    }
}

fn rows_schema(outcome: &Outcome<'_>) -> Result<SchemaRef, Trouble> {
    match outcome {
        Outcome::Rows(rows) => Ok(client_schema(rows.schema())?),
        _ => Err(without_rows()),
    }
}

fn without_rows() -> Trouble {
    StatementError::new(Kind::Internal, "a query without rows").into()
}

fn session_ending(action: &request::Action, verdict: &Verdict) -> Ending {
    let session = verdict.session.clone();
    match action {
        request::Action::Run(_) => Ending::Done(Done { rows: 0, affected: -1, session }),
        _ => {
            let no_parameters = encode::encapsulated_schema(&Schema::empty()).unwrap_or_default();
            Ending::Described(Described {
                class: verdict.class.into(),
                parameter_schema: no_parameters.into(),
                result_schema: Bytes::new(),
                session,
                provisional: false,
            })
        }
    }
}

fn judged(verdict: &Verdict, handed_back: bool) -> Judged {
    let looks_up = !verdict.tables.is_empty() || verdict.target.is_some() || !verdict.listings.is_empty();
    Judged {
        class: verdict.class.into(),
        tables: verdict.tables.clone(),
        target: verdict.target.clone(),
        listings: verdict.listings.clone(),
        waiting: looks_up && !handed_back,
        handed_back,
        session: verdict.session.clone(),
        creates_target: verdict.creates_target,
        whole_metadata: verdict.time_travel,
        glance: verdict.glance,
        past: Vec::new(),
        columns: None,
    }
}

fn refused(refusal: Refusal) -> Trouble {
    let (kind, message) = match refusal {
        Refusal::Syntax(message) => (Kind::Invalid, message),
        Refusal::Refused(message) => (Kind::Refused, message),
        Refusal::Unsupported(message) => (Kind::Unsupported, message),
        Refusal::NotFound(message) => (Kind::NotFound, message),
    };
    StatementError::new(kind, message).into()
}

fn no_column(name: &str) -> String {
    format!(
        "the table has no column \"{name}\": a column of that name of another table is written with its table's name before it"
    )
}

/// The end of a statement that changed so many rows.
#[expect(clippy::cast_possible_wrap, reason = "numbers of rows")]
pub fn changed(rows: u64) -> Done {
    Done { rows: 0, affected: rows as i64, session: None }
}

/// What a cancelled statement ran into, it ran into because it was cancelled; but what a commit came to must be told as it is.
fn as_cancelled(trouble: Trouble, running: &Running) -> Trouble {
    match trouble {
        Trouble::Statement(error) if running.is_cancelled() && !error.fatal && !error.tells_of_a_commit() => interrupted().into(),
        other => other,
    }
}

/// Fails once the statement is cancelled.
pub fn check_cancelled(running: &Running) -> Result<(), StatementError> {
    if running.is_cancelled() { Err(interrupted()) } else { Ok(()) }
}

fn interrupted() -> StatementError {
    StatementError::new(Kind::Interrupted, "the statement was cancelled")
}

/// A message of the kind that is due.
pub fn expect_message<M: Message + Default>(header: FrameHeader, payload: &[u8], kind: FrameKind) -> io::Result<M> {
    if header.kind != kind {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{:?} frame instead of {kind:?}", header.kind)));
    }
    M::decode(payload).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn invalid_frame(reason: &str) -> Trouble {
    Trouble::Broken(io::Error::new(io::ErrorKind::InvalidData, reason.to_owned()))
}

/// The gateway closed the connection in the middle of a statement.
pub fn closed() -> Trouble {
    Trouble::Broken(io::ErrorKind::UnexpectedEof.into())
}
