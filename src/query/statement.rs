//! Owns the way of one statement through the workers.
//!
//! ```text
//! ask a reader ─▶ Judged ─┬─ read ──────────────▶ prepare ─▶ proceed ─▶ Schema, Batch*, Done
//!                         ├─ handed back ─▶ ask an exclusive worker with the verdict's lease terms ─▶ Judged ─▶ as above
//!                         └─ session ─▶ Done with the change, which is checked here; nothing ran
//! ```
//!
//! A read whose worker is lost before its first row is asked once more, and so is a Describe; a write never is.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use arrow_ipc::convert::try_schema_from_ipc_buffer;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::log::{DESCRIBE, StatementLog};
use super::{Caller, Description, Engine, Execution, Frame, Frames, Limits, QueryError, SessionChange, worker_key};
use crate::names::{CatalogName, Namespace};
use crate::pool::connection::{RawFrame, Reply};
use crate::pool::{Lease, PoolError, WorkerClass};
use crate::relay::lease::LeaseTerms;
use crate::wire::proto::{self, Class, Describe, Described, Done, Judged, Request, Run, failure, request};

/// How long a cancelled write's last word may take beyond the grace after which its worker is killed.
const LAST_WORD: Duration = Duration::from_secs(2);

/// How a statement began to answer.
enum Opening {
    /// It has a result with this schema, whose first batch or end is here.
    Rows { schema: RawFrame, first: First },
    /// It is over.
    Over(Done),
    /// It changes the session, and nothing ran.
    Session(proto::SessionChange),
}

/// Until this has come, a read can be asked again unseen.
enum First {
    Batch(RawFrame, Lease),
    End(Done),
}

impl Engine {
    /// Judges and binds a statement without running it.
    ///
    /// # Errors
    /// When it is refused, does not bind, or names what is not there.
    pub async fn describe(&self, caller: &Caller, sql: &str, limits: Limits) -> Result<Description, QueryError> {
        let mut log = StatementLog::begin(self.config(), caller, DESCRIBE, sql);
        let deadline = self.deadline(limits);
        let described = self.within(deadline, self.describe_on_worker(caller, sql, deadline, &mut log)).await;
        match described.and_then(|described| description(&described)) {
            Ok(description) => {
                log.end(None);
                Ok(description)
            }
            Err(error) => {
                log.fail(&error);
                Err(error)
            }
        }
    }

    /// Runs a statement. Rows stream from the worker as they are taken; everything else has happened when this returns.
    ///
    /// `parameters` is an Arrow IPC stream with a row an execution, or empty.
    ///
    /// # Errors
    /// When it is refused, fails before its first row, or no worker is to be had.
    pub async fn execute(&self, caller: &Caller, sql: &str, parameters: Bytes, limits: Limits) -> Result<Execution, QueryError> {
        let mut log = StatementLog::begin(self.config(), caller, "execute", sql);
        let deadline = self.deadline(limits);
        let opening = self.open(caller, sql, parameters, deadline, &mut log).await;
        match opening {
            Ok(Opening::Rows { schema, first }) => Ok(Execution::Rows(rows(schema, first, log, deadline))),
            Ok(Opening::Over(done)) => {
                log.end(Some(done.affected).filter(|n| *n >= 0));
                Ok(Execution::Done { affected: u64::try_from(done.affected).ok(), session: None })
            }
            Ok(Opening::Session(change)) => {
                log.end(None);
                let change = SessionChange { catalog: CatalogName::from(change.catalog), schema: change.schema };
                Ok(Execution::Done { affected: None, session: Some(change) })
            }
            Err(error) => {
                log.fail(&error);
                Err(error)
            }
        }
    }

    /// Bounds a step by the statement's deadline; a lease inside it is dropped, which cancels the statement.
    pub(super) async fn within<T>(
        &self,
        deadline: Instant,
        step: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<T, QueryError> {
        let allowed = deadline - Instant::now();
        tokio::time::timeout_at(deadline, step).await.unwrap_or(Err(QueryError::Deadline(allowed)))
    }

    /// Waits for the last word on a write. At the deadline the pool cancels it on its worker, which then says what came of it; a write
    /// that was already committed is done, however late. Only where no word comes is the outcome unknown.
    pub(super) async fn to_the_last_word<T>(
        &self,
        deadline: Instant,
        step: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<T, QueryError> {
        let allowed = deadline - Instant::now();
        let last = deadline + self.pool().cancel_grace() + LAST_WORD;
        match tokio::time::timeout_at(last, step).await {
            Ok(Err(QueryError::Pool(PoolError::Statement(failure))))
                if failure.kind() == failure::Kind::Interrupted && Instant::now() >= deadline =>
            {
                Err(QueryError::Deadline(allowed))
            }
            Ok(Err(QueryError::Pool(lost @ PoolError::Lost { .. }))) => Err(QueryError::WriteUnknown(lost)),
            Ok(outcome) => outcome,
            Err(_) => Err(QueryError::WriteUnknown(PoolError::Lost { reason: "it did not stop at its deadline".to_owned() })),
        }
    }

    async fn describe_on_worker(
        &self,
        caller: &Caller,
        sql: &str,
        deadline: Instant,
        log: &mut StatementLog,
    ) -> Result<Described, QueryError> {
        let mut losses = Losses::default();
        let mut worker = WorkerClass::Reader;
        loop {
            let request = asked(caller, sql, &[], request::Action::Describe(Describe {}));
            match self.described(caller, request, worker, deadline, log).await {
                // Readers have no metadata of the past.
                Ok(None) => worker = WorkerClass::Exclusive,
                Ok(Some(described)) => return Ok(described),
                Err(QueryError::Pool(lost @ PoolError::Lost { .. })) => losses.bear(lost)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// `None` when the statement needs another class of worker.
    async fn described(
        &self,
        caller: &Caller,
        request: Request,
        worker: WorkerClass,
        deadline: Instant,
        log: &mut StatementLog,
    ) -> Result<Option<Described>, QueryError> {
        let mut lease = self.lease(caller, worker, log).await?;
        let terms = LeaseTerms { whole_metadata: true, ..LeaseTerms::default() };
        lease.ask(request, terms, deadline.into_std()).await?;
        loop {
            match lease.next().await? {
                Reply::Judged(judged) if worker == WorkerClass::Reader && needs_the_past(&judged) => return Ok(None),
                Reply::Judged(judged) => self.after_judged(caller, &mut lease, &judged, log).await?,
                Reply::Described(described) => return Ok(Some(described)),
                _ => return Err(PoolError::Protocol("a Describe was answered with rows").into()),
            }
        }
    }

    async fn open(
        &self,
        caller: &Caller,
        sql: &str,
        parameters: Bytes,
        deadline: Instant,
        log: &mut StatementLog,
    ) -> Result<Opening, QueryError> {
        let mut losses = Losses::default();
        // What a reader may run; after it has handed the statement back, the class that it gave.
        let mut class = Class::Read;
        loop {
            let run = request::Action::Run(Run { parameters: parameters.clone() });
            let request = asked(caller, sql, &[class], run);
            let answer = self.first_answer(caller, request, class, deadline, log);
            let answer =
                if writes(class) { self.to_the_last_word(deadline, answer).await } else { self.within(deadline, answer).await };
            match answer {
                Ok(Answer::Opening(opening)) => return Ok(opening),
                Ok(Answer::HandedBack(judged)) if class == Class::Read => class = judged.class(),
                Ok(Answer::HandedBack(_)) => return Err(PoolError::Protocol("a statement was classed in two ways").into()),
                Err(QueryError::Pool(lost @ PoolError::Lost { .. })) => losses.bear(lost)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks a worker that fits the class, and follows the statement to its first row or its end.
    async fn first_answer(
        &self,
        caller: &Caller,
        request: Request,
        class: Class,
        deadline: Instant,
        log: &mut StatementLog,
    ) -> Result<Answer, QueryError> {
        let (worker, terms) = match class {
            Class::Read => (WorkerClass::Reader, LeaseTerms::default()),
            _ => {
                let blind_insert = class == Class::BlindInsert;
                (WorkerClass::Exclusive, LeaseTerms { whole_metadata: true, writes: writes(class), blind_insert })
            }
        };
        let mut lease = self.lease(caller, worker, log).await?;
        lease.ask(request, terms, deadline.into_std()).await?;
        loop {
            match lease.next().await? {
                Reply::Judged(judged) if judged.handed_back => {
                    log.classed(judged.class().as_str_name());
                    return Ok(Answer::HandedBack(judged));
                }
                Reply::Judged(judged) => self.after_judged(caller, &mut lease, &judged, log).await?,
                Reply::Schema(schema) => return Ok(Answer::Opening(first_row(lease, schema).await?)),
                Reply::Done(Done { session: Some(change), .. }) => {
                    drop(lease);
                    return Ok(Answer::Opening(self.checked_change(caller, change).await?));
                }
                Reply::Done(done) => return Ok(Answer::Opening(Opening::Over(done))),
                _ => return Err(PoolError::Protocol("a batch without a schema").into()),
            }
        }
    }

    async fn after_judged(
        &self,
        caller: &Caller,
        lease: &mut Lease,
        judged: &Judged,
        log: &mut StatementLog,
    ) -> Result<(), QueryError> {
        log.classed(judged.class().as_str_name());
        if judged.waiting {
            let proceed = self.prepare(caller, judged).await?;
            lease.proceed(&proceed).await?;
        }
        Ok(())
    }

    pub(super) async fn lease(&self, caller: &Caller, class: WorkerClass, log: &mut StatementLog) -> Result<Lease, QueryError> {
        let lease = self.pool().lease(&worker_key(caller, class)).await?;
        log.leased(lease.worker_id());
        Ok(lease)
    }

    async fn checked_change(&self, caller: &Caller, change: proto::SessionChange) -> Result<Opening, QueryError> {
        let catalog = CatalogName::from(change.catalog.as_str());
        if !self.schema_exists(caller, &catalog, &change.schema).await? {
            return Err(QueryError::NoSchema { catalog, schema: change.schema });
        }
        Ok(Opening::Session(change))
    }

    /// Whether the schema is there for this caller.
    ///
    /// # Errors
    /// When the catalog is not configured or does not answer.
    pub async fn schema_exists(&self, caller: &Caller, catalog: &CatalogName, schema: &str) -> Result<bool, QueryError> {
        self.known_catalog(catalog)?;
        Ok(self.relay().namespace_exists(&caller.credential, catalog, &Namespace::from_schema(schema)).await?)
    }
}

enum Answer {
    Opening(Opening),
    HandedBack(Judged),
}

/// The workers that one statement has lost.
#[derive(Default)]
struct Losses {
    first: bool,
}

impl Losses {
    /// The first one is borne; the second is the statement's end.
    fn bear(&mut self, lost: PoolError) -> Result<(), QueryError> {
        if std::mem::replace(&mut self.first, true) {
            return Err(QueryError::LostTwice(lost));
        }
        tracing::info!(error = %lost, "a worker was lost before the first row: the statement is asked once more");
        Ok(())
    }
}

fn needs_the_past(judged: &Judged) -> bool {
    judged.class() == Class::TimeTravel || judged.whole_metadata
}

fn writes(class: Class) -> bool {
    !matches!(class, Class::Read | Class::TimeTravel | Class::Session)
}

async fn first_row(mut lease: Lease, schema: RawFrame) -> Result<Opening, QueryError> {
    let first = match lease.next().await? {
        Reply::Batch(batch) => First::Batch(batch, lease),
        Reply::Done(done) => First::End(done),
        _ => return Err(PoolError::Protocol("an answer in the middle of a result").into()),
    };
    Ok(Opening::Rows { schema, first })
}

fn asked(caller: &Caller, sql: &str, allowed: &[Class], action: request::Action) -> Request {
    Request {
        statement_id: 0,
        sql: sql.to_owned(),
        default_catalog: caller.catalog.to_string(),
        default_schema: caller.schema.clone(),
        allowed: allowed.iter().map(|&class| class.into()).collect(),
        action: Some(action),
    }
}

/// A result. The lease lives in it, so that dropping the stream cancels the statement.
fn rows(schema: RawFrame, first: First, mut log: StatementLog, deadline: Instant) -> Frames {
    let head = |frame: RawFrame| stream::iter([Ok(Frame::from(frame))]);
    match first {
        First::Batch(batch, lease) => {
            log.sent(batch.message.len());
            let rest = Rest { lease, log, began: Instant::now(), deadline };
            Box::pin(head(schema).chain(head(batch)).chain(stream::unfold(Some(rest), Rest::next)))
        }
        First::End(done) => {
            log.end(i64::try_from(done.rows).ok());
            Box::pin(head(schema))
        }
    }
}

/// A result behind its first batch.
struct Rest {
    lease: Lease,
    log: StatementLog,
    began: Instant,
    deadline: Instant,
}

impl Rest {
    async fn next(rest: Option<Self>) -> Option<(Result<Frame, QueryError>, Option<Self>)> {
        let mut rest = rest?;
        let error = match rest.reply().await {
            Ok(Reply::Batch(batch)) => {
                rest.log.sent(batch.message.len());
                return Some((Ok(Frame::from(batch)), Some(rest)));
            }
            Ok(Reply::Done(done)) => {
                rest.log.end(i64::try_from(done.rows).ok());
                return None;
            }
            Ok(_) => PoolError::Protocol("an answer in the middle of a result").into(),
            Err(error) => error,
        };
        rest.log.fail(&error);
        Some((Err(error), None))
    }

    async fn reply(&mut self) -> Result<Reply, QueryError> {
        let over = || QueryError::Deadline(self.deadline - self.began);
        // Looked at first: a time-out takes what is there already, and a client that reads slowly would never meet it.
        if Instant::now() >= self.deadline {
            return Err(over());
        }
        match tokio::time::timeout_at(self.deadline, self.lease.next()).await {
            Ok(reply) => Ok(reply?),
            Err(_) => Err(over()),
        }
    }
}

fn description(described: &Described) -> Result<Description, QueryError> {
    let columns = if described.result_schema.is_empty() { None } else { Some(schema(&described.result_schema)?) };
    let parameters =
        if described.parameter_schema.is_empty() { Arc::new(Schema::empty()) } else { schema(&described.parameter_schema)? };
    Ok(Description { parameters, columns, provisional: described.provisional })
}

fn schema(message: &[u8]) -> Result<SchemaRef, QueryError> {
    let schema = try_schema_from_ipc_buffer(message);
    schema.map(Arc::new).map_err(|e| QueryError::Defect(format!("a worker's schema cannot be read: {e}")))
}
