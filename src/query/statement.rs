//! Owns the way of one statement through the workers.
//!
//! ```text
//! ask a reader ─▶ Judged ─┬─ read ──────────────▶ prepare ─┬─▶ proceed ─▶ Schema, Batch*, Done
//!                         │                                └─ too large ─▶ ask an exclusive worker ─▶ Judged ─▶ as above
//!                         ├─ handed back ─▶ ask an exclusive worker with the verdict's lease terms ─▶ Judged ─▶ as above
//!                         └─ session ─▶ Done with the change, which is checked here; nothing ran
//! ```
//!
//! A read whose worker is lost before its first row is asked once more, and alone, on an exclusive worker: among all that ran on a lost
//! worker one may have brought it down, and would do so again to the others. A write never is. How large a read is, is estimated from the
//! sizes of its tables alone; a few rows of a table, or their number, are never large.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::log::StatementLog;
use super::prepare::Prepared;
use super::{Caller, Engine, Execution, Frame, Frames, Limits, QueryError, SessionChange, is_write};
use crate::as_of::AsOf;
use crate::auth::credential::Credential;
use crate::names::{CatalogName, Namespace};
use crate::pool::connection::{RawFrame, Reply};
use crate::pool::{Lease, PoolError, WorkerClass, WorkerKey};
use crate::relay::lease::LeaseTerms;
use crate::wire::proto::{self, Class, Done, Judged, Request, Run, failure, request};

/// How long a cancelled write's last word may take beyond the grace after which its worker is killed.
pub(super) const LAST_WORD: Duration = Duration::from_secs(2);

/// So long before its deadline a statement gives its catalogs up, so that the client hears of it.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// How a statement began to answer.
enum Opening {
    /// It has a result with this schema, whose first batch or end is here.
    Rows { schema: RawFrame, first: Box<First> },
    /// It is over.
    Over(Done),
    /// It changes the session, and nothing ran.
    Session(SessionChange),
}

/// Until this has come, a read can be asked again unseen.
enum First {
    Batch(RawFrame, Lease),
    End(Done),
}

/// How long a statement that has lost a worker waits for one of its own, before it is asked among others again.
const ALONE_WITHIN: Duration = Duration::from_secs(10);

/// Who is asked, and on which terms.
#[derive(Clone, Copy)]
enum Way {
    /// A reader: nobody has judged the statement yet.
    Reader,
    /// An exclusive worker, for a read that is too large for a reader.
    LargeRead,
    /// An exclusive worker where one is to be had soon, else a reader: the worker was lost that had it before.
    Again,
    /// An exclusive worker, for what a reader handed back.
    HandedBack {
        /// The reader's verdict.
        class: Class,
        /// It names tables or listings, so that its worker waits for PROCEED before it runs.
        waits: bool,
    },
}

impl Way {
    fn of_handed_back(judged: &Judged) -> Self {
        let waits = !judged.tables.is_empty() || judged.target.is_some() || !judged.listings.is_empty();
        Self::HandedBack { class: judged.class(), waits }
    }

    fn class(self) -> Class {
        match self {
            Self::Reader | Self::LargeRead | Self::Again => Class::Read,
            Self::HandedBack { class, .. } => class,
        }
    }

    fn writes(self) -> bool {
        is_write(self.class())
    }

    fn terms(self) -> LeaseTerms {
        match self {
            // As a reader sees it.
            Self::Reader | Self::LargeRead | Self::Again => LeaseTerms::default(),
            Self::HandedBack { class, .. } => {
                LeaseTerms { whole_metadata: true, writes: self.writes(), blind_insert: class == Class::BlindInsert }
            }
        }
    }
}

/// One asking of a statement.
struct Attempt<'a> {
    caller: &'a Caller,
    way: Way,
    deadline: Instant,
    /// Something of it may have run.
    ran: AtomicBool,
}

impl Engine {
    /// Runs a statement. Rows stream from the worker as they are taken; everything else has happened when this returns.
    ///
    /// `parameters` is an Arrow IPC stream with a row an execution, or empty.
    ///
    /// # Errors
    /// When it is refused, fails before its first row, or no worker is to be had.
    pub async fn execute(&self, caller: &Caller, sql: &str, parameters: Bytes, limits: Limits) -> Result<Execution, QueryError> {
        let mut log = self.begin(caller, "execute", sql)?;
        let deadline = self.deadline(limits);
        let opening = self.open(caller, sql, parameters, deadline, &mut log).await;
        match opening {
            Ok(Opening::Rows { schema, first }) => Ok(Execution::Rows(rows(schema, *first, log, deadline))),
            Ok(Opening::Over(done)) => {
                log.end(Some(done.affected).filter(|n| *n >= 0));
                Ok(Execution::Done { affected: u64::try_from(done.affected).ok(), session: None })
            }
            Ok(Opening::Session(change)) => {
                log.end(None);
                Ok(Execution::Done { affected: None, session: Some(change) })
            }
            Err(error) => {
                log.fail(&error);
                Err(error)
            }
        }
    }

    /// Waits for the last word on a write. At the deadline the pool cancels it on its worker, which then says what came of it; a write
    /// that was already committed is done, however late. Only where no word comes of one that may have run is the outcome unknown.
    pub(super) async fn to_the_last_word<T>(
        &self,
        deadline: Instant,
        cut: &CancellationToken,
        ran: &AtomicBool,
        step: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<T, QueryError> {
        let began = Instant::now();
        let last = deadline + self.pool().cancel_grace() + LAST_WORD;
        let lost = |error| if ran.load(Ordering::Acquire) { QueryError::WriteUnknown(error) } else { QueryError::NotRun(error) };
        match tokio::time::timeout_at(last, step).await {
            Ok(Err(QueryError::Pool(PoolError::Statement(failure)))) if failure.kind() == failure::Kind::Interrupted => {
                if cut.is_cancelled() {
                    Err(QueryError::Cut(began.elapsed()))
                } else if Instant::now() >= deadline {
                    Err(QueryError::Deadline(deadline - began))
                } else {
                    Err(PoolError::Statement(failure).into())
                }
            }
            Ok(Err(QueryError::Pool(error @ PoolError::Lost { .. }))) => Err(lost(error)),
            Ok(outcome) => outcome,
            Err(_) => Err(lost(PoolError::Lost { reason: "it did not stop at its deadline".to_owned() })),
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
        let mut way = Way::Reader;
        loop {
            let run = request::Action::Run(Run { parameters: parameters.clone() });
            let request = asked(caller, sql, &[way.class()], run);
            // What does not wait for PROCEED runs as soon as it is asked.
            let ran = AtomicBool::new(matches!(way, Way::HandedBack { waits: false, .. }));
            let attempt = Attempt { caller, way, deadline, ran };
            match (self.first_answer(&attempt, request, log).await, way) {
                (Ok(Answer::Opening(opening)), _) => return Ok(*opening),
                (Ok(Answer::Elsewhere(other)), Way::Reader | Way::Again) => way = other,
                (Ok(Answer::Elsewhere(_)), _) => return Err(PoolError::Protocol("a statement was classed in two ways").into()),
                (Err(QueryError::Pool(lost @ PoolError::Lost { .. })), _) => {
                    losses.bear(lost)?;
                    if matches!(way, Way::Reader) {
                        way = Way::Again;
                    }
                }
                (Err(error), _) => return Err(error),
            }
        }
    }

    /// Asks a worker that fits, and follows the statement to its first row or its end.
    async fn first_answer(&self, attempt: &Attempt<'_>, request: Request, log: &mut StatementLog) -> Result<Answer, QueryError> {
        let (deadline, cut) = (attempt.deadline, log.cut());
        let lease = within(deadline, &cut, self.lease_for(attempt, log)).await?;
        let answer = self.answer(attempt, lease, request, log);
        if attempt.way.writes() {
            self.to_the_last_word(deadline, &cut, &attempt.ran, answer).await
        } else {
            within(deadline, &cut, answer).await
        }
    }

    async fn lease_for(&self, attempt: &Attempt<'_>, log: &mut StatementLog) -> Result<Lease, QueryError> {
        match attempt.way {
            Way::Reader => self.lease(attempt.caller, Class::Read, WorkerClass::Reader, log).await,
            Way::HandedBack { class, .. } => self.lease(attempt.caller, class, WorkerClass::Exclusive, log).await,
            Way::LargeRead => {
                let key = WorkerKey { credential: attempt.caller.reads(), class: WorkerClass::Exclusive };
                let lease = self.pool().lease_alone(&key).await?;
                log.leased(lease.worker_id());
                Ok(lease)
            }
            Way::Again => self.lease_again(attempt.caller, log).await,
        }
    }

    /// For a statement that has lost a worker.
    pub(super) async fn lease_again(&self, caller: &Caller, log: &mut StatementLog) -> Result<Lease, QueryError> {
        let key = WorkerKey { credential: caller.reads(), class: WorkerClass::Exclusive };
        match tokio::time::timeout(ALONE_WITHIN, self.pool().lease_alone(&key)).await {
            Ok(Ok(lease)) => {
                log.leased(lease.worker_id());
                Ok(lease)
            }
            Ok(Err(PoolError::QueueFull { .. } | PoolError::QueueTimeout { .. } | PoolError::Start { .. })) | Err(_) => {
                self.lease(caller, Class::Read, WorkerClass::Reader, log).await
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }

    async fn answer(
        &self,
        attempt: &Attempt<'_>,
        mut lease: Lease,
        request: Request,
        log: &mut StatementLog,
    ) -> Result<Answer, QueryError> {
        lease.ask(request, attempt.way.terms(), attempt.deadline.into_std()).await?;
        loop {
            match lease.next().await? {
                Reply::Judged(judged) => {
                    log.classed(judged.class().as_str_name());
                    if is_write(judged.class()) {
                        self.check_may_write(attempt.caller)?;
                    }
                    if judged.handed_back {
                        return Ok(Answer::Elsewhere(Way::of_handed_back(&judged)));
                    }
                    // The lease is dropped: the statement waits to be let on, and nothing of it has run.
                    if judged.waiting && !self.lets_on(attempt, &mut lease, &judged, log).await? {
                        return Ok(Answer::Elsewhere(Way::LargeRead));
                    }
                }
                Reply::Schema(schema) => return Ok(Answer::opening(first_row(lease, schema).await?)),
                Reply::Done(Done { session: Some(change), .. }) => {
                    drop(lease);
                    return Ok(Answer::opening(self.checked_change(attempt.caller, change).await?));
                }
                Reply::Done(done) => return Ok(Answer::opening(Opening::Over(done))),
                _ => return Err(PoolError::Protocol("a batch without a schema").into()),
            }
        }
    }

    /// Makes ready what a statement waits for and lets it on; `false` when a reader has one that is too large for it.
    async fn lets_on(
        &self,
        attempt: &Attempt<'_>,
        lease: &mut Lease,
        judged: &Judged,
        log: &mut StatementLog,
    ) -> Result<bool, QueryError> {
        // A catalog that does not answer must not cost the worker, which cannot give up what it waits for.
        let prepared = self.prepared(attempt.caller, judged, false, attempt.deadline, &log.cut()).await?;
        log.reads(prepared.data_bytes);
        let is_large = prepared.data_bytes > self.config().large_read.as_u64();
        if is_large && !judged.glance && lease.class() == WorkerClass::Reader {
            return Ok(false);
        }
        lease.proceed(&prepared.proceed).await?;
        attempt.ran.store(true, Ordering::Release);
        Ok(true)
    }

    /// Prepares a statement in time for its client to be told which catalog has not answered.
    pub(super) async fn prepared(
        &self,
        caller: &Caller,
        judged: &Judged,
        described: bool,
        deadline: Instant,
        cut: &CancellationToken,
    ) -> Result<Prepared, QueryError> {
        let asked = within(last_moment(deadline), cut, self.prepare(caller, judged, described)).await;
        asked.map_err(|error| match error {
            QueryError::Deadline(after) => {
                let listed = self.listed_catalogs(caller, &judged.listings);
                QueryError::SilentCatalog { catalogs: catalogs_of(judged, listed), after }
            }
            error => error,
        })
    }

    /// A worker for a statement that is judged, or taken, to be of `class`.
    pub(super) async fn lease(
        &self,
        caller: &Caller,
        class: Class,
        worker: WorkerClass,
        log: &mut StatementLog,
    ) -> Result<Lease, QueryError> {
        let key = WorkerKey { credential: caller.credential_of(class), class: worker };
        let lease = self.pool().lease(&key).await?;
        log.leased(lease.worker_id());
        Ok(lease)
    }

    async fn checked_change(&self, caller: &Caller, change: proto::SessionChange) -> Result<Opening, QueryError> {
        if let Some(text) = change.as_of {
            return Ok(Opening::Session(SessionChange::AsOf(AsOf::parse(&text)?)));
        }
        let catalog = CatalogName::from(change.catalog.as_str());
        if !self.schema_exists(caller, &catalog, &change.schema).await? {
            return Err(QueryError::NoSchema { catalog, schema: change.schema });
        }
        Ok(Opening::Session(SessionChange::Names { catalog, schema: change.schema }))
    }

    /// Refuses what changes a table in a session that reads the past.
    pub(super) fn check_may_write(&self, caller: &Caller) -> Result<(), QueryError> {
        caller.as_of.map_or(Ok(()), |as_of| Err(QueryError::ReadsThePast(as_of)))
    }

    /// Whether the schema is there for what this caller reads.
    ///
    /// # Errors
    /// When the catalog is not configured or does not answer.
    pub async fn schema_exists(&self, caller: &Caller, catalog: &CatalogName, schema: &str) -> Result<bool, QueryError> {
        self.schema_seen(caller, &caller.reads(), catalog, schema).await
    }

    /// The same for one of the caller's credentials.
    pub(super) async fn schema_seen(
        &self,
        caller: &Caller,
        credential: &Credential,
        catalog: &CatalogName,
        schema: &str,
    ) -> Result<bool, QueryError> {
        self.known_catalog(caller, catalog)?;
        Ok(self.relay().namespace_exists(credential, catalog, &Namespace::from_schema(schema)).await?)
    }
}

enum Answer {
    Opening(Box<Opening>),
    /// Another worker must be asked.
    Elsewhere(Way),
}

impl Answer {
    fn opening(opening: Opening) -> Self {
        Self::Opening(Box::new(opening))
    }
}

/// The workers that one statement has lost.
#[derive(Default)]
pub(super) struct Losses {
    first: bool,
}

impl Losses {
    /// The first one is borne; the second is the statement's end.
    pub(super) fn bear(&mut self, lost: PoolError) -> Result<(), QueryError> {
        if std::mem::replace(&mut self.first, true) {
            return Err(QueryError::LostTwice(lost));
        }
        tracing::info!(error = %lost, "a worker was lost before the first row: the statement is asked once more");
        Ok(())
    }
}

/// When catalogs are given up by a statement that must end at `deadline`.
pub(super) fn last_moment(deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    deadline - LAST_MOMENT.min(left / 10)
}

/// The catalogs that a statement names or lists, in order.
fn catalogs_of(judged: &Judged, listed: Vec<CatalogName>) -> Vec<CatalogName> {
    let named = judged.tables.iter().chain(&judged.target).map(|table| CatalogName::from(table.catalog.as_str()));
    named.chain(listed).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Bounds a step by the statement's deadline and by the cut of a drain; a lease inside it is dropped, which cancels the statement.
pub(super) async fn within<T>(
    deadline: Instant,
    cut: &CancellationToken,
    step: impl Future<Output = Result<T, QueryError>>,
) -> Result<T, QueryError> {
    let began = Instant::now();
    tokio::select! {
        outcome = tokio::time::timeout_at(deadline, step) => outcome.unwrap_or(Err(QueryError::Deadline(deadline - began))),
        () = cut.cancelled() => Err(QueryError::Cut(began.elapsed())),
    }
}

async fn first_row(mut lease: Lease, schema: RawFrame) -> Result<Opening, QueryError> {
    let first = match lease.next().await? {
        Reply::Batch(batch) => First::Batch(batch, lease),
        Reply::Done(done) => First::End(done),
        _ => return Err(PoolError::Protocol("an answer in the middle of a result").into()),
    };
    Ok(Opening::Rows { schema, first: Box::new(first) })
}

pub(super) fn asked(caller: &Caller, sql: &str, allowed: &[Class], action: request::Action) -> Request {
    Request {
        statement_id: 0,
        sql: sql.to_owned(),
        default_catalog: caller.catalog.to_string(),
        default_schema: caller.schema.clone(),
        in_the_past: caller.as_of.is_some(),
        allowed: allowed.iter().map(|&class| class.into()).collect(),
        action: Some(action),
    }
}

/// A result. The lease lives in it, so that dropping the stream cancels the statement.
fn rows(schema: RawFrame, first: First, mut log: StatementLog, deadline: Instant) -> Frames {
    let head = |frame: RawFrame| stream::iter([Ok(Frame::from(frame))]);
    match first {
        First::Batch(batch, lease) => {
            log.sent_batch(&batch.header, batch.message.len());
            let rest = Rest { lease, cut: log.cut(), log, began: Instant::now(), deadline };
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
    cut: CancellationToken,
}

impl Rest {
    async fn next(rest: Option<Self>) -> Option<(Result<Frame, QueryError>, Option<Self>)> {
        let mut rest = rest?;
        let error = match rest.reply().await {
            Ok(Reply::Batch(batch)) => {
                rest.log.sent_batch(&batch.header, batch.message.len());
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
        tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(QueryError::Cut(self.log.elapsed())),
            reply = tokio::time::timeout_at(self.deadline, self.lease.next()) => match reply {
                Ok(reply) => Ok(reply?),
                Err(_) => Err(over()),
            },
        }
    }
}
