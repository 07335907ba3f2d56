//! Owns prepared statements as clients see them: create, bind, run, close. Refuses to change a handle: after binding, one client goes
//! on with the handle that it gets back and another with the old one, and the same one suits both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::Schema;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    CommandPreparedStatementQuery, CommandPreparedStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt,
};
use arrow_flight::{FlightDescriptor, FlightInfo};
use bytes::Bytes;
use prost::Message;

use super::handshake::Call;
use super::ingest::Parameters;
use super::statement::Statement;
use super::ticket::{Begun, Content};
use super::types::{schema_bytes, with_metadata};
use super::{Edge, FlightError};
use crate::session::{Binding, PreparedId, PreparedStatement};

/// Field 4 of ActionCreatePreparedStatementResult, `optional bool is_update`, as protobuf: the generated message is older than it.
const IS_UPDATE_TAG: u8 = 4 << 3;

/// How long a prepared statement is taken to return the columns that it was described with: its tables may be other ones by then. It is
/// described anew after that, mostly from memory.
const PROMISED_FOR: Duration = Duration::from_secs(1);

impl Edge {
    /// The action CreatePreparedStatement; returns the `Any` that is its result.
    pub(super) async fn create_prepared(
        &self,
        call: &Call,
        request: ActionCreatePreparedStatementRequest,
    ) -> Result<Bytes, FlightError> {
        self.check_statement(&request.query, request.transaction_id.as_ref())?;
        let (defaults, described) = (call.defaults(), Instant::now());
        let description = self.kernel.describe(&call.caller_at(defaults.clone()), &request.query, call.limits).await?;
        let statement = PreparedStatement {
            sql: request.query,
            defaults,
            parameters: description.parameters,
            columns: description.columns,
            provisional: description.provisional,
            described,
            has_run: AtomicBool::new(false),
        };
        let is_update = statement.columns.is_none();
        // Without fields, never absent, for a statement without rows: the JDBC driver takes both for an update, the ODBC driver
        // crashes without a schema.
        let dataset_schema = schema_bytes(&result_schema(&statement))?;
        let parameter_schema = schema_bytes(&statement.parameters)?;
        let handle = call.session.prepare(statement)?.to_bytes();
        let result = ActionCreatePreparedStatementResult { prepared_statement_handle: handle, dataset_schema, parameter_schema };
        let mut value = result.encode_to_vec();
        value.extend_from_slice(&[IS_UPDATE_TAG, u8::from(is_update)]);
        let type_url = ActionCreatePreparedStatementResult::type_url().to_owned();
        Ok(Any { type_url, value: value.into() }.encode_to_vec().into())
    }

    /// The action ClosePreparedStatement. Closing what is not there is no error: the statement may have been too old.
    pub(super) fn close_prepared(call: &Call, request: &ActionClosePreparedStatementRequest) {
        call.session.close_prepared(&PreparedId::from_bytes(&request.prepared_statement_handle));
    }

    /// GetFlightInfo of a prepared statement: a ticket for a query; anything else runs now, once for each call.
    pub(super) async fn prepared_info(
        &self,
        call: &Call,
        descriptor: FlightDescriptor,
        command: &CommandPreparedStatementQuery,
    ) -> Result<FlightInfo, FlightError> {
        let id = PreparedId::from_bytes(&command.prepared_statement_handle);
        let (statement, Binding { parameters, other_types, number }) = call.session.prepared(&id)?;
        if parameters.is_empty() {
            check_count(&statement, 0)?;
        }
        let (sql, defaults) = (statement.sql.clone(), statement.defaults.clone());
        if statement.columns.is_none() {
            return self.run_info(call, descriptor, Statement { sql, defaults, parameters }).await;
        }
        // What may turn out otherwise is not promised: ADBC refuses a stream with another schema than its FlightInfo's.
        let promised = !statement.provisional && !other_types;
        // Most drivers prepare and run at once: that is one statement, whose tables are asked for once.
        let is_first = !statement.has_run.swap(true, Ordering::AcqRel);
        let mut begun =
            Some(statement.described).filter(|described| is_first && described.elapsed() <= PROMISED_FOR).map(Begun::at);
        let schema = if promised && statement.described.elapsed() > PROMISED_FOR {
            let now = Begun::now();
            let description = self.kernel.describe(&call.caller_at(defaults.clone()), &sql, call.limits).await?;
            begun = Some(now.described());
            description.columns.filter(|_| !description.provisional).map(|columns| with_metadata(&columns, None))
        } else {
            promised.then(|| result_schema(&statement))
        };
        let content = if parameters.len() <= self.config.max_ticket_parameter_bytes {
            Content::Statement { sql, defaults, parameters, begun }
        } else {
            Content::Prepared { id, binding: number }
        };
        self.ticket_info(call, descriptor, schema.as_ref(), -1, content)
    }

    /// GetSchema of a prepared statement: as it was described, whatever is bound.
    pub(super) fn prepared_schema(call: &Call, command: &CommandPreparedStatementQuery) -> Result<Schema, FlightError> {
        let (statement, _) = call.session.prepared(&PreparedId::from_bytes(&command.prepared_statement_handle))?;
        Ok(result_schema(&statement))
    }

    /// DoPut of parameters for a query. The answer names the same handle: with an empty one the JDBC driver would go on without any.
    pub(super) fn bind(
        call: &Call,
        command: CommandPreparedStatementQuery,
        parameters: Parameters,
    ) -> Result<DoPutPreparedStatementResult, FlightError> {
        let id = PreparedId::from_bytes(&command.prepared_statement_handle);
        let (statement, _) = call.session.prepared(&id)?;
        let (parameters, other_types) = match parameters {
            Parameters::Absent => (Bytes::new(), false),
            Parameters::Rows { rows: 0, .. } => return Err(FlightError::NoRows),
            Parameters::Rows { stream, types, .. } => {
                check_count(&statement, types.len())?;
                let described = statement.parameters.fields().iter().map(|field| field.data_type());
                (stream, !types.iter().eq(described))
            }
        };
        call.session.bind(&id, parameters, other_types)?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(command.prepared_statement_handle) })
    }

    /// DoPut of a prepared update: once for each row of parameters, in one execution; once when there are no parameters, however the
    /// client says so.
    pub(super) async fn prepared_update(
        &self,
        call: &Call,
        command: &CommandPreparedStatementUpdate,
        parameters: Parameters,
    ) -> Result<i64, FlightError> {
        let (statement, bound) = call.session.prepared(&PreparedId::from_bytes(&command.prepared_statement_handle))?;
        if statement.columns.is_some() {
            return Err(FlightError::ReturnsRows);
        }
        let parameters = match parameters {
            // Some clients bind first, as for a query.
            Parameters::Absent if bound.parameters.is_empty() => {
                check_count(&statement, 0)?;
                Bytes::new()
            }
            Parameters::Absent => bound.parameters,
            Parameters::Rows { rows: 0, .. } => return Ok(0),
            Parameters::Rows { stream, types, .. } => {
                check_count(&statement, types.len())?;
                stream
            }
        };
        let statement = Statement { sql: statement.sql.clone(), defaults: statement.defaults.clone(), parameters };
        Ok(self.run(call, statement).await?.unwrap_or(0))
    }

    /// The statement that a ticket refers to, if what is bound to it is still the same.
    pub(super) fn bound_statement(&self, call: &Call, id: &PreparedId, binding: u64) -> Result<Statement, FlightError> {
        let (statement, Binding { parameters, number, .. }) = call.session.prepared(id)?;
        if number != binding {
            return Err(FlightError::BoundAgain);
        }
        Ok(Statement { sql: statement.sql.clone(), defaults: statement.defaults.clone(), parameters })
    }
}

fn check_count(statement: &PreparedStatement, bound: usize) -> Result<(), FlightError> {
    let expected = statement.parameters.fields().len();
    if bound == expected { Ok(()) } else { Err(FlightError::ParameterCount { expected, bound }) }
}

fn result_schema(statement: &PreparedStatement) -> Schema {
    statement.columns.as_ref().map_or_else(Schema::empty, |columns| with_metadata(columns, None))
}
