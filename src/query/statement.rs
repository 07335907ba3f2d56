//! Owns the way of one statement through the workers.
//!
//! ```text
//! ask a reader ─▶ Judged ─┬─ read ──────────────▶ prepare ─▶ proceed ─▶ Schema, Batch*, Done
//!                         ├─ handed back ─▶ ask an exclusive worker with the verdict's lease terms ─▶ Judged ─▶ as above
//!                         └─ session ─▶ Done with the change, which is checked here; nothing ran
//! ```
//!
//! A read whose worker is lost before its first row is asked once more; a write never is.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow_ipc::convert::try_schema_from_ipc_buffer;
use bytes::Bytes;
use futures::stream;
use tokio::time::Instant;

use super::log::{DESCRIBE, StatementLog};
use super::{Caller, Description, Engine, Execution, Frame, Frames, Limits, QueryError, SessionChange, worker_key};
use crate::names::{CatalogName, Namespace};
use crate::pool::connection::{RawFrame, Reply};
use crate::pool::{Lease, PoolError, WorkerClass};
use crate::relay::lease::LeaseTerms;
use crate::wire::proto::{self, Class, Describe, Described, Done, Judged, Request, Run, request};

/// How a statement began to answer.
enum Opening {
    /// It has a result; its schema is here and the lease goes on.
    Rows { lease: Lease, schema: RawFrame },
    /// It is over.
    Over(Done),
    /// It changes the session, and nothing ran.
    Session(proto::SessionChange),
}

impl Engine {
    /// Judges and binds a statement without running it.
    ///
    /// # Errors
    /// When it is refused, does not bind, or names what is not there.
    pub async fn describe(&self, caller: &Caller, sql: &str, limits: Limits) -> Result<Description, QueryError> {
        let mut log = StatementLog::begin(self.config(), caller, DESCRIBE, sql);
        let described = self.within(limits, self.describe_on_worker(caller, sql, &mut log)).await;
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
        let opening = self.within(limits, self.open(caller, sql, parameters, &mut log)).await;
        match opening {
            Ok(Opening::Rows { lease, schema }) => Ok(Execution::Rows(rows(lease, schema, log, deadline))),
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
    pub(super) async fn within<T>(&self, limits: Limits, step: impl Future<Output = Result<T, QueryError>>) -> Result<T, QueryError> {
        let deadline = self.deadline(limits);
        let allowed = deadline - Instant::now();
        tokio::time::timeout_at(deadline, step).await.unwrap_or(Err(QueryError::Deadline(allowed)))
    }

    async fn describe_on_worker(&self, caller: &Caller, sql: &str, log: &mut StatementLog) -> Result<Described, QueryError> {
        let mut lease = self.lease(caller, WorkerClass::Reader, log).await?;
        let action = request::Action::Describe(Describe {});
        lease.ask(asked(caller, sql, &[], action), LeaseTerms::default()).await?;
        loop {
            match lease.next().await? {
                Reply::Judged(judged) => self.after_judged(caller, &mut lease, &judged, log).await?,
                Reply::Described(described) => return Ok(described),
                _ => return Err(PoolError::Protocol("a Describe was answered with rows").into()),
            }
        }
    }

    async fn open(&self, caller: &Caller, sql: &str, parameters: Bytes, log: &mut StatementLog) -> Result<Opening, QueryError> {
        let run = || request::Action::Run(Run { parameters: parameters.clone() });
        let mut lost_once = false;
        let judged = loop {
            let request = asked(caller, sql, &[Class::Read], run());
            let lease = self.lease(caller, WorkerClass::Reader, log).await?;
            match self.first_answer(caller, lease, request, LeaseTerms::default(), log).await {
                Ok(Answer::Opening(opening)) => return Ok(opening),
                Ok(Answer::HandedBack(judged)) => break judged,
                Err(QueryError::Pool(PoolError::Lost { .. })) if !lost_once => lost_once = true,
                Err(error) => return Err(error),
            }
        };
        self.open_exclusive(caller, asked(caller, sql, &[judged.class()], run()), judged.class(), log).await
    }

    async fn open_exclusive(
        &self,
        caller: &Caller,
        request: Request,
        class: Class,
        log: &mut StatementLog,
    ) -> Result<Opening, QueryError> {
        let writes = class != Class::TimeTravel;
        let terms = LeaseTerms { whole_metadata: true, writes, blind_insert: class == Class::BlindInsert };
        let lease = self.lease(caller, WorkerClass::Exclusive, log).await?;
        match self.first_answer(caller, lease, request, terms, log).await {
            Ok(Answer::Opening(opening)) => Ok(opening),
            Ok(Answer::HandedBack(_)) => Err(PoolError::Protocol("a statement was classed in two ways").into()),
            Err(QueryError::Pool(lost @ PoolError::Lost { .. })) if writes => Err(QueryError::WriteUnknown(lost)),
            Err(error) => Err(error),
        }
    }

    /// Asks, and follows the statement to its first row or its end.
    async fn first_answer(
        &self,
        caller: &Caller,
        mut lease: Lease,
        request: Request,
        terms: LeaseTerms,
        log: &mut StatementLog,
    ) -> Result<Answer, QueryError> {
        lease.ask(request, terms).await?;
        loop {
            match lease.next().await? {
                Reply::Judged(judged) if judged.handed_back => {
                    log.classed(judged.class().as_str_name());
                    return Ok(Answer::HandedBack(judged));
                }
                Reply::Judged(judged) => self.after_judged(caller, &mut lease, &judged, log).await?,
                Reply::Schema(schema) => return Ok(Answer::Opening(Opening::Rows { lease, schema })),
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

fn asked(caller: &Caller, sql: &str, allowed: &[Class], action: request::Action) -> Request {
    Request {
        statement_id: 0,
        timeout_ms: 0,
        sql: sql.to_owned(),
        default_catalog: caller.catalog.to_string(),
        default_schema: caller.schema.clone(),
        allowed: allowed.iter().map(|&class| class.into()).collect(),
        action: Some(action),
    }
}

/// The rest of a result. The lease lives in it, so that dropping the stream cancels the statement.
fn rows(lease: Lease, schema: RawFrame, log: StatementLog, deadline: Instant) -> Frames {
    struct Rest {
        lease: Lease,
        log: StatementLog,
        began: Instant,
        deadline: Instant,
        first: Option<RawFrame>,
    }
    let began = Instant::now();
    let rest = Rest { lease, log, began, deadline, first: Some(schema) };
    Box::pin(stream::unfold(Some(rest), async move |rest| {
        let mut rest = rest?;
        if let Some(schema) = rest.first.take() {
            return Some((Ok(Frame::from(schema)), Some(rest)));
        }
        let next = tokio::time::timeout_at(rest.deadline, rest.lease.next()).await;
        let error = match next {
            Ok(Ok(Reply::Batch(batch))) => {
                rest.log.sent(batch.message.len());
                return Some((Ok(Frame::from(batch)), Some(rest)));
            }
            Ok(Ok(Reply::Done(done))) => {
                rest.log.end(i64::try_from(done.rows).ok());
                return None;
            }
            Ok(Ok(_)) => QueryError::Pool(PoolError::Protocol("an answer in the middle of a result")),
            Ok(Err(error)) => QueryError::Pool(error),
            Err(_) => QueryError::Deadline(rest.deadline - rest.began),
        };
        rest.log.fail(&error);
        Some((Err(error), None))
    }))
}

fn description(described: &Described) -> Result<Description, QueryError> {
    let columns = if described.result_schema.is_empty() { None } else { Some(schema(&described.result_schema)?) };
    let parameters = if described.parameter_schema.is_empty() { Arc::new(Schema::empty()) } else { schema(&described.parameter_schema)? };
    Ok(Description { parameters, columns, provisional: described.provisional })
}

fn schema(message: &[u8]) -> Result<SchemaRef, QueryError> {
    let schema = try_schema_from_ipc_buffer(message);
    schema.map(Arc::new).map_err(|e| QueryError::Defect(format!("a worker's schema cannot be read: {e}")))
}
