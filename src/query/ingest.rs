//! Owns the way of a client's batches into a table: one exclusive worker, batches passed on as they come, and an eye on the worker
//! meanwhile, which may refuse at any time. Refuses to decode the batches; the worker does.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt};
use tokio::time::Instant;

use super::log::StatementLog;
use super::statement::within;
use super::{Caller, Engine, Frame, IngestMode, Limits, QueryError};
use crate::names::TableRef;
use crate::pool::connection::{Reply, Requests};
use crate::pool::{Lease, PoolError, WorkerClass};
use crate::relay::lease::LeaseTerms;
use crate::wire::FrameKind;
use crate::wire::proto::{Class, Ingest, IngestMode as WireMode, Request, request};

impl Engine {
    /// Appends a client's batches to a table, in one commit; gives the number of rows.
    ///
    /// # Errors
    /// When the table or its schema is not as the mode asks, a column's type has no place in Iceberg, the client's stream breaks
    /// off (nothing is committed then), or the commit fails.
    pub async fn ingest(
        &self,
        caller: &Caller,
        table: TableRef,
        mode: IngestMode,
        frames: impl Stream<Item = Result<Frame, QueryError>> + Send + Unpin + 'static,
        limits: Limits,
    ) -> Result<u64, QueryError> {
        let mut log = self.begin(caller, "ingest", &table.to_string())?;
        log.classed("BLIND_INSERT");
        let deadline = self.deadline(limits);
        match self.ingest_on_worker(caller, table, mode, frames, deadline, &mut log).await {
            Ok(rows) => {
                log.end(i64::try_from(rows).ok());
                Ok(rows)
            }
            Err(error) => {
                log.fail(&error);
                Err(error)
            }
        }
    }

    async fn ingest_on_worker(
        &self,
        caller: &Caller,
        table: TableRef,
        mode: IngestMode,
        frames: impl Stream<Item = Result<Frame, QueryError>> + Send + Unpin + 'static,
        deadline: Instant,
        log: &mut StatementLog,
    ) -> Result<u64, QueryError> {
        let cut = log.cut();
        self.check_may_write(caller)?;
        within(deadline, &cut, self.check_target(caller, &table, mode)).await?;
        let mut lease = within(deadline, &cut, self.lease(caller, Class::BlindInsert, WorkerClass::Exclusive, log)).await?;
        let terms = LeaseTerms { whole_metadata: true, writes: true, blind_insert: true };
        let whole = AtomicBool::new(false);
        let ingest = async {
            lease.ask(request(&table, mode), terms, deadline.into_std()).await?;
            match lease.next().await? {
                Reply::Judged(judged) if !judged.handed_back => {}
                _ => return Err(PoolError::Protocol("an ingest was not let in").into()),
            }
            stream_to_worker(&mut lease, frames, &whole, log).await
        };
        self.to_the_last_word(deadline, &cut, &whole, ingest).await
    }

    async fn check_target(&self, caller: &Caller, table: &TableRef, mode: IngestMode) -> Result<(), QueryError> {
        let schema = table.namespace.to_string();
        if !self.schema_seen(caller, &caller.credential, &table.catalog, &schema).await? {
            return Err(QueryError::NoSchema { catalog: table.catalog.clone(), schema });
        }
        if mode == IngestMode::Append {
            self.relay().load(&caller.credential, table).await?;
        }
        Ok(())
    }
}

fn request(table: &TableRef, mode: IngestMode) -> Request {
    let ingest = Ingest {
        catalog: table.catalog.to_string(),
        schema: table.namespace.to_string(),
        table: table.table.clone(),
        mode: match mode {
            IngestMode::Append => WireMode::Append,
            IngestMode::Create => WireMode::Create,
            IngestMode::CreateOrAppend => WireMode::CreateOrAppend,
        }
        .into(),
    };
    let allowed = [Class::BlindInsert, Class::Ddl].map(Into::into).to_vec();
    Request { action: Some(request::Action::Ingest(ingest)), allowed, ..Request::default() }
}

/// `whole` is set when the worker has been told that the input ends: before that it commits nothing.
async fn stream_to_worker(
    lease: &mut Lease,
    frames: impl Stream<Item = Result<Frame, QueryError>> + Unpin,
    whole: &AtomicBool,
    log: &mut StatementLog,
) -> Result<u64, QueryError> {
    let (reply, input_sent) = {
        let (requests, replies) = lease.halves()?;
        let input = send_all(requests, frames, whole, log);
        // One future for the whole wait: a reading given up half-way would lose its bytes.
        let reply = replies.next();
        tokio::pin!(input, reply);
        tokio::select! {
            // The worker's word counts first: when it refused, writing to it fails as well.
            biased;
            reply = &mut reply => (reply, false),
            // A client that broke off drops the lease, which cancels the statement before anything is committed.
            sent = &mut input => match sent {
                Ok(()) => (reply.await, true),
                Err(InputError::Client(error)) => return Err(error),
                Err(InputError::Worker(_)) => (reply.await, false),
            },
        }
    };
    match lease.settle(reply, input_sent) {
        Ok(Reply::Done(done)) => Ok(u64::try_from(done.affected).unwrap_or(0)),
        Ok(_) => Err(PoolError::Protocol("an ingest was answered with rows").into()),
        Err(error) => Err(error.into()),
    }
}

enum InputError {
    Client(QueryError),
    Worker(#[expect(dead_code, reason = "the worker's own message is read instead")] std::io::Error),
}

async fn send_all(
    requests: &mut Requests,
    mut frames: impl Stream<Item = Result<Frame, QueryError>> + Unpin,
    whole: &AtomicBool,
    log: &mut StatementLog,
) -> Result<(), InputError> {
    let mut kind = FrameKind::Schema;
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(InputError::Client)?;
        requests.ipc(kind, &frame.header, &frame.body).await.map_err(InputError::Worker)?;
        log.sent(frame.body.len());
        kind = FrameKind::Batch;
    }
    // Before it is sent: it may arrive although the sending fails.
    whole.store(true, Ordering::Release);
    requests.end_of_input().await.map_err(InputError::Worker)
}
