//! The Flight SQL edge: from gRPC calls to the query layer and back.
//!
//! It owns the protocol: commands, tickets, actions, and how results look to drivers. It has no logic of its own about statements, and
//! refuses to know DuckDB, workers and catalogs. Each RPC finds its caller, delegates, and maps the error; what a command does stands
//! in the module named after it.

mod action;
mod handshake;
mod ingest;
mod kernel;
mod metadata;
mod prepared;
mod sql_info;
mod statement;
mod ticket;
pub mod transport;
mod types;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::sql::{Any, Command};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo,
    PutResult, Result as ActionResult, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::request::Parts;
use prost::Message;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::seal::SealError;
use crate::auth::{AuthError, Authenticator};
use crate::error::{Explain, Kind};
use crate::query::{Engine, QueryError};
use crate::session::{SessionError, Sessions};
use crate::status::to_status;
use handshake::Call;
use kernel::Kernel;
use metadata::CatalogCommand;
use ticket::unpack;
use transport::results::{Calls, Messages, PassThrough};
use transport::{Limits, UnexpiredCallers, WholeRequests, listener, tls};
use types::schema_bytes;

/// A command may hand back a FlightInfo, with the schema of its result.
const LEAST_COMMAND_BYTES: usize = 4 << 20;

/// The `flight` section of the config: limits of the protocol edge.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port.
    pub listen: SocketAddr,
    /// How long a ticket can be used.
    #[serde(with = "humantime_serde")]
    pub ticket_ttl: Duration,
    /// The largest message of an upload, in bytes. Others are bounded by the statement that may be in them.
    pub max_message_bytes: usize,
    /// The longest statement, in bytes.
    pub max_statement_bytes: usize,
    /// How many bytes of parameters one execution may have.
    pub max_parameter_bytes: usize,
    /// Parameters up to this size travel in the ticket; larger ones stay with the session.
    pub max_ticket_parameter_bytes: usize,
    /// The largest request headers, in bytes. The usual 8 KB are too few for the tokens of some identity providers.
    pub max_header_bytes: u32,
    /// How often an idle connection is probed: below the 240–350 s after which load balancers cut it.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// How long a new connection may take to open, with its TLS handshake.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How many connections may be opening at once; one more takes the place of the one that has waited longest.
    pub max_handshakes: usize,
    /// How many connections there may be, those that are opening among them; one more is closed.
    pub max_connections: usize,
    /// The same from one address, so that none takes all.
    pub max_connections_per_address: usize,
    /// How many calls one connection may have under way; a client keeps further ones back.
    pub max_streams_per_connection: u32,
    /// The certificate to serve; `None` serves plaintext.
    pub tls: Option<tls::Config>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 32010)),
            ticket_ttl: Duration::from_secs(3600),
            max_message_bytes: 64 << 20,
            max_statement_bytes: 1 << 20,
            max_parameter_bytes: 16 << 20,
            max_ticket_parameter_bytes: 16 << 10,
            max_header_bytes: 64 << 10,
            keepalive: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(30),
            max_handshakes: 256,
            max_connections: 10_000,
            max_connections_per_address: 5_000,
            max_streams_per_connection: 200,
            tls: None,
        }
    }
}

/// How often idle connections may be probed: not so often that the probes are a load, and before load balancers cut them.
const KEEPALIVE: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(240);

/// How long a peer may take to answer a probe.
const PROBE_ANSWERED_WITHIN: Range<Duration> = Duration::from_secs(5)..Duration::from_secs(20);

/// Why the `flight` section cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Too rare or too often.
    #[error("flight.keepalive must be at least 1s and below 240s, after which load balancers cut idle connections")]
    Keepalive,
    /// Nobody could connect.
    #[error("flight.handshake_timeout and flight.max_handshakes must be above 0")]
    NoHandshakes,
    /// Nobody could stay connected.
    #[error("flight.max_connections, flight.max_connections_per_address and flight.max_streams_per_connection must be above 0")]
    NoConnections,
    /// TLS cannot be served as configured.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

impl Config {
    /// Checks the section and the files that it names; what is allowed but should be known, one text each.
    ///
    /// # Errors
    /// When it cannot be served so.
    pub fn check(&self) -> Result<Vec<String>, ConfigError> {
        if !KEEPALIVE.contains(&self.keepalive) {
            return Err(ConfigError::Keepalive);
        }
        if self.handshake_timeout.is_zero() || self.max_handshakes == 0 {
            return Err(ConfigError::NoHandshakes);
        }
        if self.max_connections == 0 || self.max_connections_per_address == 0 || self.max_streams_per_connection == 0 {
            return Err(ConfigError::NoConnections);
        }
        Ok(self.tls.as_ref().map(tls::check).transpose()?.unwrap_or_default())
    }

    /// The largest message in bytes that is no upload: a command with a statement, or a ticket with one and its parameters. Some
    /// more, so that a statement which is too long is told so.
    fn max_command_bytes(&self) -> usize {
        let statement = self.max_statement_bytes.saturating_mul(4);
        let ticket = statement.saturating_add(self.max_ticket_parameter_bytes).saturating_add(64 << 10);
        ticket.max(LEAST_COMMAND_BYTES).min(self.max_message_bytes)
    }

    /// A tonic server with the transport settings of this section.
    #[must_use]
    pub fn server(&self) -> Server {
        let answered_within = self.keepalive.clamp(PROBE_ANSWERED_WITHIN.start, PROBE_ANSWERED_WITHIN.end);
        Server::builder()
            .http2_max_header_list_size(self.max_header_bytes)
            .max_concurrent_streams(self.max_streams_per_connection)
            .http2_keepalive_interval(Some(self.keepalive))
            .http2_keepalive_timeout(Some(answered_within))
    }

    /// How connections are taken.
    #[must_use]
    pub fn connections(&self) -> listener::Settings {
        let limits = Limits {
            within: self.handshake_timeout,
            at_once: self.max_handshakes,
            open: self.max_connections,
            open_per_address: self.max_connections_per_address,
        };
        listener::Settings { limits, keepalive: self.keepalive }
    }
}

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
enum FlightError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("the ticket is not valid: {0}; call GetFlightInfo again for a new one")]
    Ticket(SealError),
    #[error("the ticket was given to another principal")]
    OthersTicket,
    #[error("the parameters were bound again after this ticket was given out; call GetFlightInfo again for a new one")]
    BoundAgain,
    #[error("the command is not a google.protobuf.Any with a Flight SQL message; wrap it in one")]
    NotAny,
    #[error("{0}")]
    Invalid(String),
    #[error("reading the client's stream failed: {0}")]
    Upload(String),
    #[error("the statement has {bytes} bytes, more than {limit} (flight.max_statement_bytes)")]
    LongStatement { bytes: usize, limit: usize },
    #[error(
        "the parameters have more than {limit} bytes (flight.max_parameter_bytes); bind fewer rows at once, or use an ingest"
    )]
    LargeParameters { limit: usize },
    #[error("at least one row of parameters must be bound")]
    NoRows,
    #[error("the statement takes {expected} parameter(s), but {bound} were bound: bind one value for each")]
    ParameterCount { expected: usize, bound: usize },
    #[error("the statement returns rows; run it as a query, not as an update")]
    ReturnsRows,
    #[error("there is no such transaction: transactions are not supported, every statement commits by itself")]
    NoSuchTransaction,
    #[error("{0}")]
    Unimplemented(&'static str),
    #[error("encoding an answer failed")]
    Arrow(#[from] ArrowError),
    #[error("building an answer failed")]
    Metadata(#[from] arrow_flight::error::FlightError),
    #[error("{0}")]
    Defect(String),
}

impl Explain for FlightError {
    fn kind(&self) -> Kind {
        match self {
            Self::Auth(error) => error.kind(),
            Self::Session(error) => error.kind(),
            Self::Query(error) => error.kind(),
            Self::Ticket(SealError::Expired) => Kind::NotFound,
            Self::Ticket(_) | Self::NotAny | Self::Invalid(_) | Self::Upload(_) | Self::NoRows | Self::ReturnsRows => {
                Kind::InvalidArgument
            }
            Self::LongStatement { .. } | Self::LargeParameters { .. } | Self::ParameterCount { .. } => Kind::InvalidArgument,
            Self::OthersTicket => Kind::PermissionDenied,
            Self::BoundAgain => Kind::FailedPrecondition,
            Self::NoSuchTransaction => Kind::NotFound,
            Self::Unimplemented(_) => Kind::Unimplemented,
            Self::Arrow(_) | Self::Metadata(_) | Self::Defect(_) => Kind::Internal,
        }
    }

    fn client_message(&self) -> String {
        match self {
            Self::Auth(error) => error.client_message(),
            Self::Session(error) => error.client_message(),
            Self::Query(error) => error.client_message(),
            Self::Arrow(error) => format!("{self}: {error}"),
            Self::Metadata(error) => format!("{self}: {error}"),
            other => other.to_string(),
        }
    }
}

impl From<FlightError> for Status {
    fn from(error: FlightError) -> Self {
        to_status(&error)
    }
}

/// What all calls share.
struct Edge {
    kernel: Arc<dyn Kernel>,
    auth: Authenticator,
    sessions: Sessions,
    config: Config,
}

/// The Flight SQL service. Cheap to clone.
#[derive(Clone)]
pub struct FlightServer(Arc<Edge>);

impl FlightServer {
    /// A service over the query layer. Serve it on connections from [`listener::connections`]: callers without a token are known by
    /// their connection.
    #[must_use]
    pub fn new(engine: Engine, auth: Authenticator, sessions: Sessions, config: Config) -> Self {
        Self::over(Arc::new(engine), auth, sessions, config)
    }

    fn over(kernel: Arc<dyn Kernel>, auth: Authenticator, sessions: Sessions, config: Config) -> Self {
        Self(Arc::new(Edge { kernel, auth, sessions, config }))
    }

    /// Serves the connections of `listener` until `stop` is cancelled; ends when the calls under way have ended. With `tls`, it takes
    /// only connections that shake hands. The services `beside` it know their callers themselves.
    ///
    /// # Errors
    /// When the transport fails as a whole; a connection's own failure ends only that connection.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Option<tls::Current>,
        beside: Routes,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let connections = listener::connections(listener, self.0.sessions.clone(), self.0.config.connections(), tls);
        let mut server = self.0.config.server();
        let router = server.add_routes(beside).add_service(self.into_service());
        router.serve_with_incoming_shutdown(connections, stop.cancelled_owned()).await
    }

    /// The service as tonic serves it.
    #[must_use]
    pub fn into_service(self) -> UnexpiredCallers<WholeRequests<PassThrough<FlightServiceServer<Self>, Self>>> {
        let (commands, uploads) = (self.0.config.max_command_bytes(), self.0.config.max_message_bytes);
        let service = |limit| FlightServiceServer::new(self.clone()).max_decoding_message_size(limit);
        let (inner, uploads) = (service(commands), service(uploads));
        UnexpiredCallers(WholeRequests(PassThrough { inner, uploads, calls: self, max_ticket_bytes: commands }))
    }
}

impl Calls for FlightServer {
    type Call = Call;

    async fn caller(&self, head: &Parts) -> Result<Call, Status> {
        Ok(self.0.call(&head.headers, &head.extensions).await?)
    }

    async fn do_get(self, call: Call, ticket: Ticket) -> Result<Messages, Status> {
        Ok(self.0.rows(&call, &ticket.ticket).await?)
    }
}

/// The call of a request, which was known before the rest of it was read.
fn known<T>(mut request: Request<T>) -> Result<(Call, T), FlightError> {
    let call = request.extensions_mut().remove::<Call>();
    let call = call.ok_or_else(|| FlightError::Defect("a call came past the service that knows its caller".to_owned()))?;
    Ok((call, request.into_inner()))
}

type Answer<T> = BoxStream<'static, Result<T, Status>>;

fn all<T: Send + 'static>(items: impl IntoIterator<Item = T, IntoIter: Send + 'static>) -> Response<Answer<T>> {
    Response::new(stream::iter(items.into_iter().map(Ok)).boxed())
}

#[tonic::async_trait]
impl FlightService for FlightServer {
    type HandshakeStream = Answer<HandshakeResponse>;
    type ListFlightsStream = Answer<FlightInfo>;
    type DoGetStream = Answer<FlightData>;
    type DoPutStream = Answer<PutResult>;
    type DoExchangeStream = Answer<FlightData>;
    type DoActionStream = Answer<ActionResult>;
    type ListActionsStream = Answer<ActionType>;

    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Result<Response<Self::HandshakeStream>, Status> {
        Ok(self.0.handshake(request).await?)
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        known(request)?;
        Ok(all([]))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let (call, descriptor) = known(request)?;
        Ok(Response::new(self.0.flight_info(&call, descriptor).await?))
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let (call, descriptor) = known(request)?;
        let info = self.0.flight_info(&call, descriptor).await?;
        // No descriptor to poll again with: it is complete.
        Ok(Response::new(PollInfo { info: Some(info), progress: Some(1.0), ..PollInfo::default() }))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let (call, descriptor) = known(request)?;
        let schema = self.0.schema(&call, &descriptor).await?;
        Ok(Response::new(SchemaResult { schema: schema_bytes(&schema)? }))
    }

    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        Err(FlightError::Defect("a DoGet came past the service that answers it".to_owned()).into())
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let (call, messages) = known(request)?;
        let app_metadata = self.0.put(&call, messages).await?;
        Ok(all([PutResult { app_metadata }]))
    }

    async fn do_exchange(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        known(request)?;
        Err(FlightError::Unimplemented("DoExchange is not used by Flight SQL").into())
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let (call, action) = known(request)?;
        let bodies = self.0.action(&call, action).await?;
        Ok(all(bodies.into_iter().map(|body| ActionResult { body }).collect::<Vec<_>>()))
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        known(request)?;
        Ok(all(action::action_types()))
    }
}

impl Edge {
    async fn flight_info(&self, call: &Call, descriptor: FlightDescriptor) -> Result<FlightInfo, FlightError> {
        self.kernel.check_open()?;
        let any = described(&descriptor)?;
        match command(any.clone())? {
            Command::CommandStatementQuery(command) => self.statement_info(call, descriptor, command).await,
            Command::CommandPreparedStatementQuery(command) => self.prepared_info(call, descriptor, &command).await,
            other => CatalogCommand::from_command(other, "GetFlightInfo")?.info(descriptor, &any),
        }
    }

    async fn schema(&self, call: &Call, descriptor: &FlightDescriptor) -> Result<Schema, FlightError> {
        match command(described(descriptor)?)? {
            Command::CommandStatementQuery(command) => self.statement_schema(call, command).await,
            Command::CommandPreparedStatementQuery(command) => Self::prepared_schema(call, &command),
            other => Ok(CatalogCommand::from_command(other, "GetSchema")?.schema()?.as_ref().clone()),
        }
    }

    async fn rows(&self, call: &Call, ticket: &[u8]) -> Result<Messages, FlightError> {
        self.kernel.check_open()?;
        match command(unpack(ticket)?)? {
            Command::TicketStatementQuery(ticket) => self.ticket_rows(call, &ticket.statement_handle).await,
            other => self.catalog_rows(call, CatalogCommand::from_command(other, "DoGet")?).await,
        }
    }

    /// Runs what the first message of a DoPut names; the metadata of its one result.
    async fn put(&self, call: &Call, mut messages: Streaming<FlightData>) -> Result<Bytes, FlightError> {
        let first = messages.message().await.map_err(|status| FlightError::Upload(status.message().to_owned()))?;
        let first = first.ok_or_else(|| FlightError::Invalid("DoPut without a message".to_owned()))?;
        let descriptor = first.flight_descriptor.as_ref();
        let descriptor =
            descriptor.ok_or_else(|| FlightError::Invalid("DoPut whose first message has no descriptor".to_owned()))?;
        let record_count = match command(described(descriptor)?)? {
            Command::CommandStatementUpdate(command) => self.statement_update(call, command).await?,
            Command::CommandPreparedStatementUpdate(command) => {
                let parameters = self.parameters(first, messages).await?;
                self.prepared_update(call, &command, parameters).await?
            }
            Command::CommandPreparedStatementQuery(command) => {
                let parameters = self.parameters(first, messages).await?;
                return Ok(Self::bind(call, command, parameters)?.encode_to_vec().into());
            }
            Command::CommandStatementIngest(command) => self.ingest(call, command, first, messages).await?,
            other => return Err(unfit("DoPut", &other)),
        };
        Ok(arrow_flight::sql::DoPutUpdateResult { record_count }.encode_to_vec().into())
    }
}

/// The message in a descriptor.
fn described(descriptor: &FlightDescriptor) -> Result<Any, FlightError> {
    if descriptor.r#type() == DescriptorType::Path {
        return Err(FlightError::Invalid("descriptors by path are not supported; send a Flight SQL command".to_owned()));
    }
    unpack(&descriptor.cmd)
}

fn command(any: Any) -> Result<Command, FlightError> {
    Command::try_from(any).map_err(|error| FlightError::Invalid(format!("the command cannot be decoded: {error}")))
}

/// A command that does not belong to this RPC, or that nobody knows.
fn unfit(rpc: &str, command: &Command) -> FlightError {
    match command {
        Command::CommandStatementSubstraitPlan(_) => FlightError::Unimplemented("Substrait plans are not supported; send SQL"),
        other => FlightError::Invalid(format!("{rpc} does not take {}", short_name(other.type_url()))),
    }
}

fn short_name(type_url: &str) -> &str {
    type_url.rsplit(['/', '.']).next().unwrap_or(type_url)
}
