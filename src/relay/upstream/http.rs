//! Owns a connection to one Iceberg REST catalog with one credential: the prefix of its paths, the token of each call, and retries of
//! reads. Refuses to retry anything that changes the catalog, but for a refused token, and to know what a failed commit means.
//!
//! A read ends within the catalog's `request_timeout`, all attempts and waiting for its turn included, and sooner while the catalog is
//! known to fail. A statement that ends sooner drops the call; whoever shares it goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::reach::{Fault, Reach, Reply};
use crate::names::{Namespace, TableRef};
use crate::relay::error::CatalogError;
use crate::relay::tokens::{Source, Token, TokenFault};
use crate::relay::words::{self, About};

/// What a path segment keeps as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The pause before a read is tried again; doubled each time, and shortened at random.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// By which a catalog is asked for access to a table's data, and checks the right to it.
const ACCESS_DELEGATION: &str = "x-iceberg-access-delegation";

/// What a catalog says of itself.
#[derive(Clone, Debug)]
struct Place {
    /// `<uri>/v1/<prefix>/`.
    base: String,
    endpoints: Vec<String>,
}

/// A request within the catalog, before the token.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Below the prefix; segments encoded.
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) etag: Option<&'a str>,
    /// Access to the table's data is asked for.
    pub(super) delegated: bool,
    pub(super) body: Option<&'a Value>,
}

/// Whose credential a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) enum Whose {
    /// The gateway's, from the config: its administrator is to look when it is refused.
    Gateways,
    /// The caller's own: logging in again may help.
    Callers,
}

/// What an attempt of a read comes to.
#[derive(Clone, Copy, Default)]
struct Verdict {
    /// The same may go well in a moment.
    again: bool,
    /// If it stays so, the catalog is out of reach.
    down: bool,
}

impl Verdict {
    /// A 500 says something of one request only; what comes from 502 on, proxies answer in the place of a catalog that does not.
    fn on_status(status: u16) -> Self {
        Self { again: matches!(status, 408 | 429 | 500 | 502 | 503 | 504), down: matches!(status, 502..=504) }
    }

    fn on_fault(fault: &Fault) -> Self {
        let again = matches!(fault.error, CatalogError::Unreachable { .. } | CatalogError::Failing { .. });
        Self { again, down: fault.asked && fault.error.is_outage() }
    }
}

/// What is asked of the catalog itself, on the way of one call.
struct Asking {
    /// An exchange with the catalog waits for its turn.
    in_turn: bool,
    /// The catalog has been asked and has not answered, or not by itself. What is waited for before that is not its fault.
    open: AtomicBool,
}

impl Asking {
    fn read() -> Self {
        Self { in_turn: true, open: AtomicBool::new(false) }
    }

    fn change() -> Self {
        Self { in_turn: false, open: AtomicBool::new(false) }
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

/// A connection to one Iceberg REST catalog with one credential. Cheap to make.
pub(super) struct Connection {
    pub(super) reach: Arc<Reach>,
    whose: Whose,
    source: Arc<Source>,
    place: OnceCell<Place>,
}

impl Connection {
    pub(super) fn new(reach: Arc<Reach>, whose: Whose, source: Arc<Source>) -> Self {
        Self { reach, whose, source, place: OnceCell::new() }
    }

    /// A call that changes nothing: tried again when the catalog cannot be reached or is overloaded, all within the deadline.
    pub(super) async fn read(&self, call: Call<'_>) -> Result<Reply, CatalogError> {
        let verdict = |outcome: &Result<Reply, Fault>| match outcome {
            Ok(reply) => Verdict::on_status(reply.status.as_u16()),
            Err(fault) => Verdict::on_fault(fault),
        };
        let asking = Asking::read();
        self.retried_as(&asking, || self.asked(&call, &asking), verdict).await
    }

    /// For a step that asks the catalog at once.
    async fn retried<T, Once>(
        &self,
        once: impl Fn() -> Once,
        verdict: impl Fn(&Result<T, Fault>) -> Verdict,
    ) -> Result<T, CatalogError>
    where
        Once: Future<Output = Result<T, Fault>>,
    {
        self.retried_as(&Asking { in_turn: true, open: AtomicBool::new(true) }, once, verdict).await
    }

    async fn retried_as<T, Once>(
        &self,
        asking: &Asking,
        once: impl Fn() -> Once,
        verdict: impl Fn(&Result<T, Fault>) -> Verdict,
    ) -> Result<T, CatalogError>
    where
        Once: Future<Output = Result<T, Fault>>,
    {
        let tried = async {
            let mut pause = FIRST_PAUSE;
            let mut attempts = 0;
            loop {
                attempts += 1;
                let outcome = once().await;
                let verdict = verdict(&outcome);
                if !verdict.again || attempts >= self.reach.read_attempts {
                    if verdict.down {
                        self.reach
                            .health
                            .failed(outcome.as_ref().err().map_or(&"it answers by errors of a proxy", |fault| &fault.error));
                    }
                    return outcome.map_err(|fault| fault.error);
                }
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause *= 2;
            }
        };
        let (patience, _probe) = self.reach.health.patience(self.reach.timeout);
        tokio::time::timeout(patience, tried).await.unwrap_or_else(|_| {
            let error = self.reach.timed_out(patience);
            if asking.is_open() {
                self.reach.health.failed(&error);
            }
            Err(error)
        })
    }

    /// One call. A refused token is renewed once: the catalog has not looked at the request then.
    pub(super) async fn once(&self, call: &Call<'_>) -> Result<Reply, Fault> {
        self.asked(call, &Asking::change()).await
    }

    /// The same, ended when the catalog's time for a change is over.
    pub(super) async fn once_in_time(&self, call: &Call<'_>) -> Result<Reply, Fault> {
        let asking = Asking::change();
        let limit = self.reach.change_timeout;
        let tried = async {
            let place = self.place(&Asking::change()).await?;
            self.authorised(|| self.request(place, call), &asking).await
        };
        tokio::time::timeout(limit, tried).await.unwrap_or_else(|_| {
            Err(Fault { error: self.reach.timed_out(limit), sent: asking.is_open(), asked: asking.is_open() })
        })
    }

    async fn asked(&self, call: &Call<'_>, asking: &Asking) -> Result<Reply, Fault> {
        let place = self.place(asking).await?;
        self.authorised(|| self.request(place, call), asking).await
    }

    /// Whether the catalog has an operation. One that lists none has all.
    pub(super) async fn offers(&self, endpoint: &str) -> Result<bool, Fault> {
        let endpoints = &self.place(&Asking::change()).await?.endpoints;
        Ok(endpoints.is_empty() || endpoints.iter().any(|offered| offered == endpoint))
    }

    /// Asks for a token and what the catalog says of itself, unless they are known. Calls that come meanwhile wait for this one.
    pub(super) async fn make_ready(&self) {
        if self.place.initialized() {
            return;
        }
        let asking = Asking::read();
        let place = || async { self.place(&asking).await.map(drop) };
        let verdict = |outcome: &Result<(), Fault>| outcome.as_ref().err().map(Verdict::on_fault).unwrap_or_default();
        if let Err(error) = self.retried_as(&asking, place, verdict).await {
            tracing::debug!(catalog = %self.reach.catalog, %error, "a catalog could not be made ready ahead of a statement");
        }
    }

    /// Whether the catalog takes the credential, asked anew. What is had on the way serves the calls that follow.
    pub(super) async fn prove(&self) -> Result<(), CatalogError> {
        self.source.renew().await.map_err(|fault| self.no_token(fault).error)?;
        // The endpoint has looked at id and secret itself, and the catalog has taken its tokens before.
        if self.source.proves_by_itself() && self.place.initialized() {
            return Ok(());
        }
        self.knock().await
    }

    /// Asks the catalog anew what it says of itself, with the token that is there.
    pub(super) async fn knock(&self) -> Result<(), CatalogError> {
        let verdict = |outcome: &Result<Place, Fault>| outcome.as_ref().err().map(Verdict::on_fault).unwrap_or_default();
        let place = self.retried(|| self.ask_place(), verdict).await?;
        // Somebody may have been faster; both were told the same.
        let _ = self.place.set(place);
        Ok(())
    }

    /// What an answer means that is not a success and has no meaning of its own to the call.
    pub(super) fn refused(&self, reply: &Reply, about: About<'_>) -> CatalogError {
        let catalog = self.reach.catalog.clone();
        match reply.status.as_u16() {
            401 | 419 => self.unauthorised(reply.message()),
            403 => CatalogError::Forbidden { catalog, reason: words::denial(&reply.message(), about) },
            400 | 422 => CatalogError::Invalid { catalog, reason: reply.message() },
            405 | 406 | 501 => CatalogError::Unsupported { catalog, reason: reply.message() },
            408 | 429 | 500.. => CatalogError::Failing { catalog, reason: format!("it answered {}", reply.describe()) },
            _ => self.reach.bad(format!("it answered {}", reply.describe())),
        }
    }

    fn unauthorised(&self, reason: String) -> CatalogError {
        let catalog = self.reach.catalog.clone();
        match self.whose {
            Whose::Gateways => CatalogError::Unauthorized { catalog, reason },
            Whose::Callers => CatalogError::LoggedOut { catalog, reason },
        }
    }

    /// Nothing that a catalog was asked to do has been sent yet, so any failure here is one before sending.
    fn no_token(&self, fault: TokenFault) -> Fault {
        let catalog = self.reach.catalog.clone();
        let error = match fault {
            TokenFault::Refused(reason) => self.unauthorised(reason),
            TokenFault::Lapsed => CatalogError::LoggedOut { catalog, reason: "the token has expired".to_owned() },
            TokenFault::Unreachable { host, reason } => CatalogError::Unreachable { catalog, host, reason },
            TokenFault::Timeout { host, after } => CatalogError::Timeout { catalog, host, after },
            TokenFault::Failing(reason) => CatalogError::Failing { catalog, reason },
            TokenFault::Wrong(reason) => self.reach.bad(reason),
            TokenFault::NoSecret(reason) => CatalogError::Unauthorized { catalog, reason },
        };
        Fault { error, sent: false, asked: false }
    }

    /// Sends a request with a token, and once more with another one when the catalog does not take the first.
    async fn authorised(&self, request: impl Fn() -> RequestBuilder, asking: &Asking) -> Result<Reply, Fault> {
        let token = self.token().await?;
        let reply = self.shown(request(), token.as_ref(), asking).await?;
        let Some(token) = token.filter(|token| is_refused_token(reply.status) && self.source.refused(token)) else {
            return Ok(reply);
        };
        tracing::debug!(catalog = %self.reach.catalog, "a token was refused; asking for another one");
        drop(token);
        let token = self.token().await?;
        self.shown(request(), token.as_ref(), asking).await
    }

    async fn token(&self) -> Result<Option<Token>, Fault> {
        self.source.token().await.map_err(|fault| self.no_token(fault))
    }

    async fn shown(&self, request: RequestBuilder, token: Option<&Token>, asking: &Asking) -> Result<Reply, Fault> {
        let Some(token) = token else { return self.exchange(request, asking).await };
        let mut reply = self.exchange(request.bearer_auth(token.expose()), asking).await?;
        if !is_refused_token(reply.status) {
            token.was_taken();
        }
        if !reply.status.is_success() {
            let body = words::without(&String::from_utf8_lossy(&reply.body), &[token.secret()]);
            reply.body = body.into();
        }
        Ok(reply)
    }

    /// A turn is held for an exchange alone: what gives tokens may hang while the catalog is well.
    async fn exchange(&self, request: RequestBuilder, asking: &Asking) -> Result<Reply, Fault> {
        // Never closed.
        let _turn = if asking.in_turn { self.reach.reads.acquire().await.ok() } else { None };
        asking.open.store(true, Ordering::Relaxed);
        let reply = self.reach.exchange(request).await?;
        asking.open.store(Verdict::on_status(reply.status.as_u16()).down, Ordering::Relaxed);
        Ok(reply)
    }

    fn request(&self, place: &Place, call: &Call<'_>) -> RequestBuilder {
        let uri = format!("{}{}", place.base, call.path);
        let mut request = self.reach.client.request(call.method.clone(), uri).timeout(self.reach.timeout);
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if let Some(etag) = call.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        if call.delegated {
            request = request.header(ACCESS_DELEGATION, "vended-credentials");
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        request
    }

    /// Asks the catalog once what it says of itself; a failure is not remembered.
    async fn place(&self, asking: &Asking) -> Result<&Place, Fault> {
        self.place.get_or_try_init(|| self.ask_place_as(asking)).await.map_err(|fault| Fault { sent: false, ..fault })
    }

    async fn ask_place(&self) -> Result<Place, Fault> {
        self.ask_place_as(&Asking::read()).await
    }

    async fn ask_place_as(&self, asking: &Asking) -> Result<Place, Fault> {
        #[derive(Deserialize, Default)]
        struct Said {
            #[serde(default)]
            defaults: Option<Value>,
            #[serde(default)]
            overrides: Option<Value>,
            #[serde(default)]
            endpoints: Option<Vec<String>>,
        }
        let Reach { uri, client, timeout, .. } = &*self.reach;
        let request = || {
            let request = client.get(format!("{uri}/v1/config")).timeout(*timeout);
            request.query(&self.reach.warehouse.iter().map(|warehouse| ("warehouse", warehouse)).collect::<Vec<_>>())
        };
        let reply = self.authorised(request, asking).await?;
        if !reply.status.is_success() {
            let error = match reply.status.as_u16() {
                404 => CatalogError::Invalid { catalog: self.reach.catalog.clone(), reason: reply.message() },
                _ => self.refused(&reply, About::Catalog),
            };
            return Err(Fault { error, sent: false, asked: true });
        }
        let unread = |error| {
            let error = self.reach.bad(format!("its configuration cannot be read: {error}"));
            Fault { error, sent: false, asked: true }
        };
        let said: Said = serde_json::from_slice(&reply.body).map_err(unread)?;
        let text = |of: &Option<Value>, key: &str| of.as_ref().and_then(|of| of[key].as_str().map(str::to_owned));
        let configured = self.reach.prefix.clone();
        let prefix = text(&said.overrides, "prefix").or(configured).or_else(|| text(&said.defaults, "prefix"));
        let prefix = prefix.map(|prefix| prefix.trim_matches('/').to_owned()).filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map(|prefix| prefix.split('/').map(segment).collect::<Vec<_>>().join("/") + "/").unwrap_or_default();
        // The token goes where the administrator said, not where the catalog says.
        Ok(Place { base: format!("{uri}/v1/{prefix}"), endpoints: said.endpoints.unwrap_or_default() })
    }
}

/// A namespace as a path segment.
pub(super) fn namespace_segment(namespace: &Namespace) -> String {
    segment(&namespace.levels().join("\u{1f}"))
}

/// A table's path.
pub(super) fn table_path(table: &TableRef) -> String {
    format!("namespaces/{}/tables/{}", namespace_segment(&table.namespace), segment(&table.table))
}

fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn is_refused_token(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 419)
}
