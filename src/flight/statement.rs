//! Owns unprepared statements and the running of any statement. A statement that returns no rows runs in GetFlightInfo, exactly once:
//! clients often never send the DoGet, and its ticket holds only that it has run. Refuses to run anything twice.

use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow_flight::sql::{CommandStatementQuery, CommandStatementUpdate};
use arrow_flight::{FlightData, FlightDescriptor, FlightInfo};
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::handshake::Call;
use super::ticket::{Begun, Content};
use super::transport::results::{Messages, whole_message};
use super::types::{schema_header_with_metadata, schema_message, with_metadata};
use super::{Edge, FlightError};
use crate::query::{Execution, Frames, SessionChange};
use crate::session::{Defaults, Session};
use crate::status::to_status;

/// Setting what another setting hides would look as if it had worked.
pub(super) const AS_OF_BY_HEADER: &str = "this connection sends as_of with each of its calls (a property of its driver), which counts before the session's option: change it there";

/// A statement without its rows yet.
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) defaults: Defaults,
    pub(super) parameters: Bytes,
}

impl Edge {
    /// GetFlightInfo of a statement: describes a query, runs anything else.
    pub(super) async fn statement_info(
        &self,
        call: &Call,
        descriptor: FlightDescriptor,
        command: CommandStatementQuery,
    ) -> Result<FlightInfo, FlightError> {
        self.check_statement(&command.query, command.transaction_id.as_ref())?;
        let begun = Begun::now();
        let defaults = call.defaults();
        let description = self.kernel.describe(&call.caller_at(defaults.clone()), &command.query, call.limits).await?;
        let statement = Statement { sql: command.query, defaults, parameters: Bytes::new() };
        match description.columns {
            Some(columns) => {
                let Statement { sql, defaults, parameters } = statement;
                let content = Content::Statement { sql, defaults, parameters, begun: Some(begun.described()) };
                self.ticket_info(call, descriptor, Some(&with_metadata(&columns, None)), -1, content)
            }
            None => self.run_info(call, descriptor, statement).await,
        }
    }

    /// Runs a statement that returns no rows, and answers with its outcome. ADBC reports `total_records` as the number of rows
    /// changed.
    pub(super) async fn run_info(
        &self,
        call: &Call,
        descriptor: FlightDescriptor,
        statement: Statement,
    ) -> Result<FlightInfo, FlightError> {
        let affected = self.run(call, statement).await?;
        self.ticket_info(call, descriptor, Some(&Schema::empty()), affected.unwrap_or(-1), Content::Outcome)
    }

    /// The schema of a statement's result, for GetSchema; without fields when it returns no rows.
    pub(super) async fn statement_schema(&self, call: &Call, command: CommandStatementQuery) -> Result<Schema, FlightError> {
        self.check_statement(&command.query, command.transaction_id.as_ref())?;
        let description = self.kernel.describe(&call.caller(), &command.query, call.limits).await?;
        Ok(description.columns.map_or_else(Schema::empty, |columns| with_metadata(&columns, None)))
    }

    /// DoPut of a statement: runs it once, and answers the number of rows changed.
    pub(super) async fn statement_update(&self, call: &Call, command: CommandStatementUpdate) -> Result<i64, FlightError> {
        self.check_statement(&command.query, command.transaction_id.as_ref())?;
        let statement = Statement { sql: command.query, defaults: call.defaults(), parameters: Bytes::new() };
        Ok(self.run(call, statement).await?.unwrap_or(0))
    }

    /// Runs a statement that must not return rows, and applies what it changes in the session. `None` where it has no number of rows.
    pub(super) async fn run(&self, call: &Call, statement: Statement) -> Result<Option<i64>, FlightError> {
        let caller = call.caller_at(statement.defaults);
        match self.kernel.execute(&caller, &statement.sql, statement.parameters, call.limits).await? {
            Execution::Rows(_) => Err(FlightError::ReturnsRows),
            Execution::Done { affected, session } => {
                if let Some(change) = session {
                    self.apply(call, change)?;
                }
                Ok(affected.map(|rows| i64::try_from(rows).unwrap_or(i64::MAX)))
            }
        }
    }

    /// DoGet of a ticket of ours.
    pub(super) async fn ticket_rows(&self, call: &Call, handle: &[u8]) -> Result<Messages, FlightError> {
        let (statement, begun) = match self.open_ticket(call, handle)? {
            Content::Outcome => return Ok(stream::once(async { whole_message(&schema_message(&Schema::empty())) }).boxed()),
            Content::Statement { sql, defaults, parameters, begun } => (Statement { sql, defaults, parameters }, begun),
            Content::Prepared { id, binding } => (self.bound_statement(call, &id, binding)?, None),
        };
        let mut caller = call.caller_at(statement.defaults);
        caller.begun = begun.and_then(Begun::if_soon).unwrap_or(caller.begun);
        match self.kernel.execute(&caller, &statement.sql, statement.parameters, call.limits).await? {
            Execution::Rows(frames) => Ok(messages(frames, Arc::clone(&call.session))),
            Execution::Done { .. } => {
                Err(FlightError::Defect("a statement was described with rows and returned none".to_owned()))
            }
        }
    }

    /// The limits on a statement's text, and no transactions.
    pub(super) fn check_statement(&self, sql: &str, transaction: Option<&Bytes>) -> Result<(), FlightError> {
        if sql.len() > self.config.max_statement_bytes {
            return Err(FlightError::LongStatement { bytes: sql.len(), limit: self.config.max_statement_bytes });
        }
        match transaction {
            Some(id) if !id.is_empty() => Err(FlightError::NoSuchTransaction),
            _ => Ok(()),
        }
    }

    /// Changes the session as a statement says.
    fn apply(&self, call: &Call, change: SessionChange) -> Result<(), FlightError> {
        let now = call.session.defaults();
        let changed = match change {
            SessionChange::Names { catalog, schema } => Defaults { catalog, schema, ..now },
            SessionChange::AsOf(_) if call.as_of.is_some() => return Err(FlightError::Invalid(AS_OF_BY_HEADER.to_owned())),
            SessionChange::AsOf(as_of) => Defaults { as_of, ..now },
        };
        self.sessions.set_defaults(&call.session, changed);
        Ok(())
    }
}

/// Frames as they came from the worker, but for the schema's, which is given its metadata. The session counts as in use until the
/// stream ends.
fn messages(frames: Frames, session: Arc<Session>) -> Messages {
    frames
        .enumerate()
        .map(move |(number, frame)| {
            let _in_use = &session;
            let frame = frame.map_err(|error| to_status(&error))?;
            if number > 0 {
                return Ok(frame.message);
            }
            whole_message(&FlightData { data_header: schema_header_with_metadata(frame.header), ..FlightData::default() })
        })
        .boxed()
}
