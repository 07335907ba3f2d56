//! Owns what a ticket says: a statement to run, a prepared statement to run, or the outcome of one that has run. Sealed and bound to
//! the principal, so that a ticket is worth nothing to anybody else; a ticket of a write holds nothing that could run again. Refuses to
//! run anything.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use arrow::datatypes::Schema;
use arrow_flight::sql::{Any, ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use bytes::Bytes;
use prost::Message;

use super::handshake::Call;
use super::types::schema_bytes;
use super::{Edge, FlightError};
use crate::as_of::AsOf;
use crate::auth::seal::{Purpose, SealError};
use crate::session::{Defaults, PreparedId};

/// What a ticket stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// Run this when the rows are fetched.
    Statement { sql: String, defaults: Defaults, parameters: Bytes, begun: Option<Begun> },
    /// Run this prepared statement with its binding of this number: used when the parameters are too large for a ticket.
    Prepared { id: PreparedId, binding: u64 },
    /// It has run, and returned no rows.
    Outcome,
}

/// When a statement was described, on this gateway's own clock: that of another one, or of one before it, says nothing here.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Begun {
    /// Tells the clocks apart.
    #[prost(uint64, tag = "1")]
    clock: u64,
    /// When its description was asked for, in microseconds.
    #[prost(uint64, tag = "2")]
    asked_us: u64,
    /// When it was there.
    #[prost(uint64, tag = "3")]
    described_us: u64,
}

/// Rows that are fetched so soon behind the description belong to one statement with it, and may be as old as it. Fetched later, or once
/// more later, they are read anew, and the right to them is asked for again.
const SOON: Duration = Duration::from_millis(250);

impl Begun {
    pub(super) fn now() -> Self {
        let clock = Clock::get();
        Self { clock: clock.mark, asked_us: clock.now_us(), described_us: 0 }
    }

    /// It was asked for then.
    pub(super) fn at(asked: Instant) -> Self {
        let clock = Clock::get();
        let since = asked.saturating_duration_since(clock.zero);
        let asked_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        Self { clock: clock.mark, asked_us, described_us: asked_us }
    }

    pub(super) fn described(self) -> Self {
        Self { described_us: Clock::get().now_us(), ..self }
    }

    /// When it was, if the rows are fetched soon behind the description.
    pub(super) fn if_soon(self) -> Option<Instant> {
        let clock = Clock::get();
        let at = |us| clock.zero.checked_add(Duration::from_micros(us)).filter(|_| self.clock == clock.mark);
        at(self.described_us).filter(|described| described.elapsed() < SOON).and_then(|_| at(self.asked_us))
    }
}

/// The clock of this process.
#[derive(Clone, Copy)]
struct Clock {
    mark: u64,
    zero: Instant,
}

impl Clock {
    fn get() -> Self {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        *CLOCK.get_or_init(|| Self { mark: rand::random(), zero: Instant::now() })
    }

    fn now_us(self) -> u64 {
        u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

#[derive(Clone, PartialEq, Message)]
struct Sealed {
    #[prost(string, tag = "1")]
    principal: String,
    #[prost(oneof = "Body", tags = "2, 3, 4")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Body {
    #[prost(message, tag = "2")]
    Statement(StatementBody),
    #[prost(message, tag = "3")]
    Prepared(PreparedBody),
    #[prost(message, tag = "4")]
    Outcome(OutcomeBody),
}

#[derive(Clone, PartialEq, Message)]
struct StatementBody {
    #[prost(string, tag = "1")]
    sql: String,
    #[prost(string, tag = "2")]
    catalog: String,
    #[prost(string, tag = "3")]
    schema: String,
    #[prost(bytes = "bytes", tag = "4")]
    parameters: Bytes,
    /// Milliseconds since 1970.
    #[prost(int64, optional, tag = "5")]
    as_of: Option<i64>,
    #[prost(message, tag = "6")]
    begun: Option<Begun>,
}

#[derive(Clone, PartialEq, Message)]
struct PreparedBody {
    #[prost(bytes = "bytes", tag = "1")]
    handle: Bytes,
    #[prost(uint64, tag = "2")]
    binding: u64,
}

#[derive(Clone, PartialEq, Message)]
struct OutcomeBody {}

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        match content {
            Content::Statement { sql, defaults, parameters, begun } => {
                let Defaults { catalog, schema, as_of } = defaults;
                let as_of = as_of.map(AsOf::ms);
                Self::Statement(StatementBody { sql, catalog: catalog.to_string(), schema, parameters, as_of, begun })
            }
            Content::Prepared { id, binding } => Self::Prepared(PreparedBody { handle: id.to_bytes(), binding }),
            Content::Outcome => Self::Outcome(OutcomeBody {}),
        }
    }
}

impl From<Body> for Content {
    fn from(body: Body) -> Self {
        match body {
            Body::Statement(StatementBody { sql, catalog, schema, parameters, as_of, begun }) => {
                let defaults = Defaults { catalog: catalog.into(), schema, as_of: as_of.map(AsOf::from_ms) };
                Self::Statement { sql, defaults, parameters, begun }
            }
            Body::Prepared(PreparedBody { handle, binding }) => Self::Prepared { id: PreparedId::from_bytes(&handle), binding },
            Body::Outcome(OutcomeBody {}) => Self::Outcome,
        }
    }
}

impl Edge {
    /// The answer to GetFlightInfo: one endpoint without location, which means this same connection.
    pub(super) fn ticket_info(
        &self,
        call: &Call,
        descriptor: FlightDescriptor,
        schema: Option<&Schema>,
        total_records: i64,
        content: Content,
    ) -> Result<FlightInfo, FlightError> {
        let ticket = TicketStatementQuery { statement_handle: self.seal_ticket(call, content) };
        flight_info(descriptor, schema, total_records, ticket.as_any().encode_to_vec().into())
    }

    fn seal_ticket(&self, call: &Call, content: Content) -> Bytes {
        let sealed = Sealed { principal: call.principal().id.to_string(), body: Some(content.into()) };
        self.auth.sealer().seal(Purpose::Ticket, &sealed.encode_to_vec(), self.config.ticket_ttl).into()
    }

    /// Opens the handle of a `TicketStatementQuery`.
    pub(super) fn open_ticket(&self, call: &Call, handle: &[u8]) -> Result<Content, FlightError> {
        let plain = self.auth.sealer().open(Purpose::Ticket, handle).map_err(FlightError::Ticket)?;
        let sealed = Sealed::decode(plain.as_slice()).map_err(|_| FlightError::Ticket(SealError::Altered))?;
        if sealed.principal != call.principal().id.as_str() {
            return Err(FlightError::OthersTicket);
        }
        sealed.body.map(Content::from).ok_or(FlightError::Ticket(SealError::Altered))
    }
}

/// A FlightInfo with one endpoint. Without a schema clients take the stream's; with one some of them compare the two.
pub(super) fn flight_info(
    descriptor: FlightDescriptor,
    schema: Option<&Schema>,
    total_records: i64,
    ticket: Bytes,
) -> Result<FlightInfo, FlightError> {
    Ok(FlightInfo {
        schema: schema.map(schema_bytes).transpose()?.unwrap_or_default(),
        flight_descriptor: Some(descriptor),
        endpoint: vec![FlightEndpoint { ticket: Some(Ticket { ticket }), ..FlightEndpoint::default() }],
        total_records,
        total_bytes: -1,
        ordered: false,
        app_metadata: Bytes::new(),
    })
}

/// Unpacks a protobuf `Any` that holds a Flight SQL message.
pub(super) fn unpack(bytes: &[u8]) -> Result<Any, FlightError> {
    match Any::decode(bytes) {
        Ok(any) if any.type_url.starts_with("type.googleapis.com/") => Ok(any),
        _ => Err(FlightError::NotAny),
    }
}
