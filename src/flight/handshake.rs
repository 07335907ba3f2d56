//! Owns who is on the other end of a call: the Handshake, and for every later call the way from its headers to a session. Refuses to
//! judge passwords and tokens itself.
//!
//! A session is found by the bearer token, else by the connection: some clients repeat `Basic` on every call, and anonymous ones carry
//! nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::{HandshakeRequest, HandshakeResponse};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::HeaderMap;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::transport::listener::ConnectionInfo;
use super::{Edge, FlightError};
use crate::as_of::AsOf;
use crate::auth::{self, AuthError, Credentials, Principal};
use crate::names::{CatalogName, SessionId};
use crate::query::{Caller, Limits};
use crate::secret::ExposeSecret;
use crate::session::{Defaults, Session, SessionError};

/// How long a Handshake waits for the client to end its side after it has been answered. Resetting the stream before could make a
/// client drop an answer that it has already got.
const HALF_CLOSE_WITHIN: Duration = Duration::from_millis(250);

const OTHER_CERTIFICATE: &str = "the session was opened by a client certificate; connect with the same one";

/// One call of a known caller.
#[derive(Clone)]
pub struct Call {
    pub(super) session: Arc<Session>,
    pub(super) limits: Limits,
    /// What the call itself says of when tables are read, in place of its session: `Some(None)` is now.
    pub(super) as_of: Option<Option<AsOf>>,
}

impl Call {
    pub(super) fn principal(&self) -> &Principal {
        self.session.principal()
    }

    /// The caller, with the session's defaults as they are now.
    pub(super) fn caller(&self) -> Caller {
        self.caller_at(self.defaults())
    }

    /// Where and when its names are looked up.
    pub(super) fn defaults(&self) -> Defaults {
        let defaults = self.session.defaults();
        let as_of = self.as_of.unwrap_or(defaults.as_of);
        Defaults { as_of, ..defaults }
    }

    /// The caller of a statement that begins now, with other defaults.
    pub(super) fn caller_at(&self, defaults: Defaults) -> Caller {
        Caller {
            id: self.principal().id.clone(),
            principal: self.principal().name.clone(),
            credential: self.principal().credential.clone(),
            session: self.session.id().clone(),
            catalog: defaults.catalog,
            schema: defaults.schema,
            as_of: defaults.as_of,
            begun: Instant::now(),
        }
    }
}

impl Edge {
    /// From the headers of a call to its session.
    pub(super) async fn call(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Call, FlightError> {
        let header = authorization(headers);
        let limits = Limits { deadline: deadline(headers) };
        let as_of = as_of(headers)?;
        if let Some(session) = self.resumed(header, extensions)? {
            return Ok(Call { session, limits, as_of });
        }
        let (principal, defaults) = self.login(header, extensions).await?;
        let connection = ConnectionInfo::of(extensions)
            .ok_or_else(|| FlightError::Defect("a request without its connection's id".to_owned()))?;
        Ok(Call { session: self.sessions.of_connection(connection.id.0, &principal, defaults)?, limits, as_of })
    }

    /// Who shows this, and where names are looked up for it at first.
    async fn login(&self, header: Option<&str>, extensions: &Extensions) -> Result<(Principal, Defaults), FlightError> {
        let connection = ConnectionInfo::of(extensions);
        let shown = auth::Caller {
            authorization: header,
            address: connection.as_ref().and_then(|connection| connection.remote).map(|remote| remote.ip()),
            certificate: connection.as_ref().and_then(|connection| connection.certificate.as_ref()),
            recognised: connection.as_ref().map(|connection| &*connection.recognised),
        };
        let principal = self.auth.login(shown).await?;
        // It looks nothing up yet.
        let caller = Caller {
            id: principal.id.clone(),
            principal: principal.name.clone(),
            credential: principal.credential.clone(),
            session: SessionId::from(""),
            catalog: CatalogName::from(""),
            schema: String::new(),
            as_of: None,
            begun: Instant::now(),
        };
        let visible = self.kernel.catalogs(&caller);
        let defaults = self.sessions.beginning(&principal, &visible);
        let defaults = defaults.ok_or_else(|| AuthError::NothingOpen(principal.name.to_string()))?;
        Ok((principal, defaults))
    }

    /// The session of a bearer token; `None` when the call carries none of ours.
    fn resumed(&self, header: Option<&str>, extensions: &Extensions) -> Result<Option<Arc<Session>>, FlightError> {
        let Some(Ok(Credentials::Bearer(token))) = header.map(Credentials::parse) else { return Ok(None) };
        let session = match self.sessions.resume(token.expose_secret()) {
            Ok(session) => session,
            Err(SessionError::ForeignToken) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let connection = ConnectionInfo::of(extensions);
        let certificate = connection.as_ref().and_then(|connection| connection.certificate.as_deref());
        if !session.principal().may_come_with(certificate) {
            return Err(AuthError::OtherWay(OTHER_CERTIFICATE).into());
        }
        Ok(Some(session))
    }

    /// Answers a log-in from its headers alone: some clients send no message at all. The token goes back as a header, which is where
    /// every stock client looks, and in the payload.
    pub(super) async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<BoxStream<'static, Result<HandshakeResponse, Status>>>, FlightError> {
        self.kernel.check_open()?;
        let header = authorization(request.metadata().as_ref());
        let token = match (header, self.resumed(header, request.extensions())?) {
            (Some(header), Some(_)) => match Credentials::parse(header)? {
                Credentials::Bearer(token) => token.expose_secret().to_owned(),
                Credentials::Basic { .. } => return Err(AuthError::Malformed.into()),
            },
            _ => {
                let (principal, defaults) = self.login(header, request.extensions()).await?;
                let (session, token) = self.sessions.open(&principal, defaults)?;
                tracing::info!(principal = %principal.name, session = %session.id(), "logged in");
                token
            }
        };
        let value = AsciiMetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|error| FlightError::Defect(format!("a token that is no header: {error}")))?;
        let answer = HandshakeResponse { protocol_version: 0, payload: token.into() };
        let rest = drained(request.into_inner());
        let mut response = Response::new(stream::once(async { Ok(answer) }).chain(rest).boxed());
        response.metadata_mut().insert("authorization", value);
        Ok(response)
    }
}

/// A stream of nothing that ends when the client has ended its side, or the time is over.
fn drained(mut requests: Streaming<HandshakeRequest>) -> impl futures::Stream<Item = Result<HandshakeResponse, Status>> {
    stream::once(async move {
        let until_end = async { while matches!(requests.message().await, Ok(Some(_))) {} };
        // Either way the answer is complete.
        let _ = tokio::time::timeout(HALF_CLOSE_WITHIN, until_end).await;
    })
    .filter_map(|()| async { None })
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get("authorization").map(|value| value.to_str().unwrap_or_default())
}

/// When the call reads tables, if it says so. Drivers put unknown properties of a connection into such headers.
fn as_of(headers: &HeaderMap) -> Result<Option<Option<AsOf>>, FlightError> {
    let Some(value) = headers.get("as_of") else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    AsOf::parse(&text).map(Some).map_err(|error| FlightError::Invalid(error.to_string()))
}

/// The client's own deadline, as gRPC writes it: at most eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_deadlines_are_read() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers)
        };
        assert_eq!(read("60S"), Some(Duration::from_secs(60)));
        assert_eq!(read("59998m"), Some(Duration::from_millis(59_998)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["S", "60", "60s", "123456789S", "-1S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }
}
