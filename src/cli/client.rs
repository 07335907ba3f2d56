//! Owns the command line's Flight SQL client: where to connect and as whom, statements, result streams, ingest. Refuses to know what
//! is done with rows, and prints nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    CommandGetDbSchemas, CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
    CommandStatementUpdate, DoPutUpdateResult, ProstMessageExt, TableDefinitionOptions, TableExistsOption, TableNotExistOption,
};
use arrow_flight::{Action, FlightData, FlightDescriptor, HandshakeRequest, IpcMessage, Ticket};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use secrecy::{ExposeSecret, SecretString};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use super::connect::{self, ConnectError, Target};
use super::naming::TableName;
use crate::auth;

/// Results come in messages of up to 2 MB; a single wide row may be larger.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Saying goodbye must not hold up the command's end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Who the client says it is.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nothing is sent.
    Anonymous,
    /// Exchanged for a token by a handshake.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A bearer token, sent as it is.
    Token(SecretString),
}

/// What went wrong between the client and the gateway.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The gateway's own refusal or failure.
    #[error("{}", describe_status(.0))]
    Refused(Box<Status>),
    /// The answer does not follow the protocol.
    #[error("the server's answer is not Flight SQL: {0}")]
    Protocol(String),
}

impl ClientError {
    /// The gRPC code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(status) => Some(status.code()),
            _ => None,
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<FlightError> for ClientError {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => Self::Refused(status),
            other => Self::Protocol(other.to_string()),
        }
    }
}

fn protocol(error: impl ToString) -> ClientError {
    ClientError::Protocol(error.to_string())
}

/// The server's text, then the code's name and, where the server gave one, when to try again.
fn describe_status(status: &Status) -> String {
    let mut text = match status.message().trim() {
        "" => "the server gave no reason".to_owned(),
        message => message.to_owned(),
    };
    text.push_str(&format!(" ({})", code_name(status.code())));
    if let Some(delay) = status.get_details_retry_info().and_then(|retry| retry.retry_delay) {
        text.push_str(&format!("; try again in {:.1} s", delay.as_secs_f64()));
    }
    text
}

/// A code as gRPC's documents write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What an ingest does when the table is there, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum IngestMode {
    /// The table must not be there.
    Create,
    /// The table must be there.
    Append,
    /// The table is made when it is not there.
    CreateAppend,
}

impl IngestMode {
    fn options(self) -> TableDefinitionOptions {
        let (if_not_exist, if_exists) = match self {
            Self::Create => (TableNotExistOption::Create, TableExistsOption::Fail),
            Self::Append => (TableNotExistOption::Fail, TableExistsOption::Append),
            Self::CreateAppend => (TableNotExistOption::Create, TableExistsOption::Append),
        };
        TableDefinitionOptions { if_not_exist: if_not_exist.into(), if_exists: if_exists.into() }
    }
}

/// What came of a statement.
pub enum Outcome {
    /// It returns rows.
    Rows(Box<Rows>),
    /// It has run.
    Done {
        /// Rows changed; `None` where the statement has no such number.
        affected: Option<u64>,
    },
}

/// One connection to a gateway, in a session of its own where there was a log-in.
#[derive(Clone, Debug)]
pub struct Client {
    flight: FlightServiceClient<Channel>,
    target: Target,
    authorization: Option<MetadataValue<Ascii>>,
    /// The session came with our own log-in, so nobody else uses it.
    own_session: bool,
}

impl Client {
    /// Connects and logs in.
    ///
    /// # Errors
    /// When nothing listens there, TLS fails, or the credentials are refused.
    pub async fn connect(target: &Target, credentials: &Credentials) -> Result<Self, ClientError> {
        let channel = connect::open(target).await?;
        let flight = FlightServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut client = Self { flight, target: target.clone(), authorization: None, own_session: false };
        match credentials {
            Credentials::Anonymous => {}
            Credentials::Token(token) => client.authorization = Some(header(&auth::Credentials::Bearer(token.clone()))?),
            Credentials::Password { user, password } => client.log_in(user, password).await?,
        }
        Ok(client)
    }

    /// Basic credentials go in the headers of a handshake; the token for all later calls comes back the same way.
    async fn log_in(&mut self, user: &str, password: &SecretString) -> Result<(), ClientError> {
        let shown = auth::Credentials::Basic { user: user.to_owned(), password: password.clone() };
        let mut request = Request::new(stream::iter([HandshakeRequest::default()]));
        request.metadata_mut().insert("authorization", header(&shown)?);
        let response = self.flight.handshake(request).await;
        let response = self.answered(response).await?;
        self.authorization = response.metadata().get("authorization").cloned();
        response.into_inner().try_collect::<Vec<_>>().await?;
        if self.authorization.is_none() {
            return Err(protocol("the log-in gave no token"));
        }
        self.own_session = true;
        Ok(())
    }

    /// The answer of a call that may have been the first of its connection.
    async fn answered<T>(&self, answer: Result<Response<T>, Status>) -> Result<Response<T>, ClientError> {
        match answer {
            Ok(response) => Ok(response),
            Err(status) => {
                let transport = connect::call_error(&self.target, &status).await;
                Err(transport.map_or_else(|| status.into(), ClientError::Connect))
            }
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }

    /// Runs one statement of any kind, exactly once.
    ///
    /// It is prepared first: only so does a client learn, before anything has run, whether rows come back.
    ///
    /// # Errors
    /// What the server says, or an answer that is not Flight SQL. An error in mid-stream comes from [`Rows::next`].
    pub async fn run(&mut self, sql: &str) -> Result<Outcome, ClientError> {
        let prepared = self.prepare(sql).await?;
        let handle = prepared.prepared_statement_handle.clone();
        let outcome = self.run_prepared(prepared).await;
        if !matches!(outcome, Ok(Outcome::Rows(_))) {
            self.close_prepared(handle).await;
        }
        outcome
    }

    async fn run_prepared(&mut self, prepared: ActionCreatePreparedStatementResult) -> Result<Outcome, ClientError> {
        let handle = prepared.prepared_statement_handle;
        let schema = read_schema(prepared.dataset_schema)?;
        if schema.fields().is_empty() {
            let command = CommandPreparedStatementUpdate { prepared_statement_handle: handle };
            return Ok(Outcome::Done { affected: self.update(command).await? });
        }
        let command = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() };
        let mut rows = self.query(command, schema).await?;
        rows.prepared = Some((self.clone(), handle));
        Ok(Outcome::Rows(Box::new(rows)))
    }

    async fn prepare(&mut self, sql: &str) -> Result<ActionCreatePreparedStatementResult, ClientError> {
        let body = ActionCreatePreparedStatementRequest { query: sql.to_owned(), transaction_id: None };
        let action = Action { r#type: "CreatePreparedStatement".into(), body: body.as_any().encode_to_vec().into() };
        let results = self.flight.do_action(self.request(action)).await;
        let mut results = self.answered(results).await?.into_inner();
        let result = results.message().await?.ok_or_else(|| protocol("no answer to CreatePreparedStatement"))?;
        // Read to the end, so that an error after the answer is not lost.
        while results.message().await?.is_some() {}
        let any = Any::decode(&*result.body).map_err(protocol)?;
        any.unpack().map_err(protocol)?.ok_or_else(|| protocol("another answer than to CreatePreparedStatement"))
    }

    /// Best effort: a handle left over ends with its session.
    async fn close_prepared(&mut self, handle: Bytes) {
        let body = ActionClosePreparedStatementRequest { prepared_statement_handle: handle };
        let action = Action { r#type: "ClosePreparedStatement".into(), body: body.as_any().encode_to_vec().into() };
        let request = self.request(action);
        let call = async {
            if let Ok(results) = self.flight.do_action(request).await {
                results.into_inner().for_each(|_| async {}).await;
            }
        };
        tokio::time::timeout(CLOSE_TIMEOUT, call).await.ok();
    }

    async fn query(&mut self, command: impl ProstMessageExt, schema: SchemaRef) -> Result<Rows, ClientError> {
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let info = self.flight.get_flight_info(self.request(descriptor)).await;
        let info = self.answered(info).await?.into_inner();
        let tickets = info.endpoint.into_iter().filter_map(|endpoint| endpoint.ticket).collect::<Vec<_>>();
        if tickets.is_empty() {
            return Err(protocol("a result without a ticket"));
        }
        let received = Arc::new(AtomicU64::new(0));
        let data = self.fetch(tickets, Arc::clone(&received));
        Ok(Rows { stream: FlightRecordBatchStream::new_from_flight_data(data), schema, received, prepared: None })
    }

    /// The messages of all tickets, one after the other. Every endpoint repeats the schema; only the first is handed on.
    fn fetch(
        &self,
        tickets: Vec<Ticket>,
        received: Arc<AtomicU64>,
    ) -> impl Stream<Item = Result<FlightData, FlightError>> + Send + 'static {
        let client = self.clone();
        stream::iter(tickets.into_iter().enumerate())
            .then(move |(nth, ticket)| {
                let mut client = client.clone();
                async move {
                    let request = client.request(ticket);
                    let data = client.flight.do_get(request).await?.into_inner();
                    Ok::<_, Status>(data.skip(usize::from(nth > 0)))
                }
            })
            .try_flatten()
            .inspect_ok(move |data| {
                received.fetch_add((data.data_header.len() + data.data_body.len()) as u64, Ordering::Relaxed);
            })
            .map_err(FlightError::from)
    }

    /// Runs a statement known to return no rows; gives the number of rows changed, where there is one.
    ///
    /// # Errors
    /// What the server says, or an answer that is not Flight SQL.
    pub async fn run_update(&mut self, sql: &str) -> Result<Option<u64>, ClientError> {
        self.update(CommandStatementUpdate { query: sql.to_owned(), transaction_id: None }).await
    }

    async fn update(&mut self, command: impl ProstMessageExt) -> Result<Option<u64>, ClientError> {
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let data = FlightData { flight_descriptor: Some(descriptor), ..FlightData::default() };
        self.put(stream::iter([data])).await
    }

    /// Sends frames (the schema first, then batches) to a table; gives the number of rows that the server took.
    ///
    /// Dropping the future before it is ready cancels the call, and nothing is committed. A source that fails must therefore leave
    /// `frames` pending and have this future dropped: the end of `frames` means that all is there.
    ///
    /// # Errors
    /// What the server says, or an answer that is not Flight SQL.
    pub async fn ingest(
        &mut self,
        table: &TableName,
        mode: IngestMode,
        frames: impl Stream<Item = FlightData> + Send + 'static,
    ) -> Result<Option<u64>, ClientError> {
        let command = CommandStatementIngest {
            table_definition_options: Some(mode.options()),
            table: table.table.clone(),
            schema: Some(table.schema.clone()),
            catalog: table.catalog.clone(),
            ..CommandStatementIngest::default()
        };
        let mut descriptor = Some(FlightDescriptor::new_cmd(command.as_any().encode_to_vec()));
        self.put(frames.map(move |frame| FlightData { flight_descriptor: descriptor.take(), ..frame })).await
    }

    async fn put(&mut self, data: impl Stream<Item = FlightData> + Send + 'static) -> Result<Option<u64>, ClientError> {
        let request = self.request(data);
        let results = self.flight.do_put(request).await;
        let mut results = self.answered(results).await?.into_inner();
        let result = results.message().await?.ok_or_else(|| protocol("no answer to DoPut"))?;
        while results.message().await?.is_some() {}
        let update = DoPutUpdateResult::decode(&*result.app_metadata).map_err(protocol)?;
        Ok(u64::try_from(update.record_count).ok())
    }

    /// Whether a namespace of this name is there, in `catalog` where one is given.
    ///
    /// # Errors
    /// What the server says, or an answer that is not Flight SQL.
    pub async fn has_schema(&mut self, catalog: Option<&str>, schema: &str) -> Result<bool, ClientError> {
        let command = CommandGetDbSchemas { catalog: catalog.map(str::to_owned), db_schema_filter_pattern: None };
        let mut rows = self.query(command, Arc::new(Schema::empty())).await?;
        let mut found = false;
        while let Some(batch) = rows.next().await? {
            let names = batch.column_by_name("db_schema_name").and_then(|names| names.as_any().downcast_ref::<StringArray>());
            let names = names.ok_or_else(|| protocol("GetDbSchemas without db_schema_name"))?;
            found |= names.iter().flatten().any(|name| name == schema);
        }
        Ok(found)
    }

    /// Ends the session where it is our own. Best effort: the server ends idle sessions itself.
    pub async fn close(mut self) {
        if self.own_session {
            let request = self.request(Action { r#type: "CloseSession".into(), body: Bytes::new() });
            tokio::time::timeout(CLOSE_TIMEOUT, self.flight.do_action(request)).await.ok();
        }
    }
}

fn header(shown: &auth::Credentials) -> Result<MetadataValue<Ascii>, ClientError> {
    let mut value = MetadataValue::try_from(shown.to_header().expose_secret()).map_err(|_| ConnectError::BadToken)?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_schema(bytes: Bytes) -> Result<SchemaRef, ClientError> {
    if bytes.is_empty() {
        return Ok(Arc::new(Schema::empty()));
    }
    Schema::try_from(IpcMessage(bytes)).map(Arc::new).map_err(protocol)
}

/// The rows of a result as they come. Dropped early, the statement is cancelled.
pub struct Rows {
    stream: FlightRecordBatchStream,
    schema: SchemaRef,
    received: Arc<AtomicU64>,
    prepared: Option<(Client, Bytes)>,
}

impl Rows {
    /// The next batch; `None` at the end.
    ///
    /// # Errors
    /// An error of the statement, whenever it happens, or a broken connection.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, ClientError> {
        let batch = self.stream.try_next().await?;
        if batch.is_none()
            && let Some((mut client, handle)) = self.prepared.take()
        {
            client.close_prepared(handle).await;
        }
        Ok(batch)
    }

    /// The columns: those of the stream once its first message is there, before that those announced.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema().unwrap_or(&self.schema).clone()
    }

    /// Bytes received so far, as Arrow sends them.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
