//! Owns how an Iceberg REST catalog is reached: its address and prefix, tokens, deadlines, and retries of reads. Refuses to retry
//! anything that changes the catalog, but for a refused token, and to know what a failed commit means.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, RequestBuilder, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::token::{ClientCredentials, Credentials, Token};
use crate::names::{CatalogName, Namespace, TableRef};
use crate::relay::config::{Config, RestConfig, RestCredentials};
use crate::relay::error::{CatalogError, RelayError};

/// What a path segment keeps as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The pause before a read is tried again; doubled each time, and shortened at random.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How much of a catalog's message is passed on.
const MAX_MESSAGE: usize = 1000;

/// The place of one catalog, for requests and for error texts.
pub(super) struct Site {
    pub(super) catalog: CatalogName,
    host: String,
    pub(super) timeout: Duration,
    max_body_bytes: usize,
}

/// A call that brought no answer, or one that was not to be had.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: CatalogError,
    /// Whether the catalog may have got the request.
    pub(super) sent: bool,
}

/// An answer, whatever its status.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) etag: Option<String>,
    pub(super) body: Bytes,
}

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
    /// Asks for access to the table's files too.
    pub(super) delegated: bool,
    pub(super) body: Option<&'a Value>,
}

/// A connection to one Iceberg REST catalog with one credential.
pub(super) struct Connection {
    pub(super) site: Site,
    client: Client,
    credentials: Credentials,
    uri: String,
    warehouse: Option<String>,
    prefix: Option<String>,
    read_attempts: u32,
    place: OnceCell<Place>,
}

impl Connection {
    /// Prepares a connection; nothing is sent.
    pub(super) fn new(catalog: CatalogName, config: &Config, rest: &RestConfig) -> Result<Self, RelayError> {
        let wrong = |reason: String| RelayError::Config { catalog: catalog.clone(), reason };
        let uri = rest.uri.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let url = parse_uri(&uri).map_err(|reason| wrong(format!("uri {reason}")))?;
        let secret = |source| RelayError::Secret { catalog: catalog.clone(), source };
        let credentials = match &rest.credentials {
            RestCredentials::None => Credentials::None,
            RestCredentials::Bearer { token } => Credentials::Bearer(token.resolve().map_err(secret)?),
            RestCredentials::Oauth2 { client_id, client_secret, scope, token_uri } => {
                let token_uri = token_uri.clone().unwrap_or_else(|| format!("{uri}/v1/oauth/tokens"));
                parse_uri(&token_uri).map_err(|reason| wrong(format!("token_uri {reason}")))?;
                Credentials::Oauth2(Box::new(ClientCredentials {
                    uri: token_uri,
                    client_id: client_id.clone(),
                    client_secret: client_secret.resolve().map_err(secret)?,
                    scope: scope.clone(),
                    current: Mutex::new(None),
                }))
            }
        };
        let client = Client::builder()
            .connect_timeout(config.connect_timeout)
            .tcp_keepalive(Duration::from_secs(60))
            // A redirect would carry the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("polynya/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| wrong(format!("no HTTP client can be made: {error}")))?;
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let timeout = rest.request_timeout.unwrap_or(config.request_timeout);
        Ok(Self {
            site: Site { catalog, host, timeout, max_body_bytes: config.max_body_bytes },
            client,
            credentials,
            uri,
            warehouse: rest.warehouse.clone(),
            prefix: rest.prefix.clone(),
            read_attempts: config.read_attempts.max(1),
            place: OnceCell::new(),
        })
    }

    /// A call that changes nothing: tried again when the catalog cannot be reached or is overloaded, all within the deadline.
    pub(super) async fn read(&self, call: Call<'_>) -> Result<Reply, CatalogError> {
        let tried = async {
            let mut pause = FIRST_PAUSE;
            let mut attempts = 0;
            loop {
                attempts += 1;
                let outcome = self.once(&call).await;
                let worth_another = match &outcome {
                    Ok(reply) => matches!(reply.status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504),
                    Err(fault) => matches!(fault.error, CatalogError::Unreachable { .. }),
                };
                if !worth_another || attempts >= self.read_attempts {
                    return outcome.map_err(|fault| fault.error);
                }
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause *= 2;
            }
        };
        tokio::time::timeout(self.site.timeout, tried).await.unwrap_or_else(|_| Err(self.site.timed_out()))
    }

    /// One call. A refused token is renewed once: the catalog has not looked at the request then.
    pub(super) async fn once(&self, call: &Call<'_>) -> Result<Reply, Fault> {
        let place = self.place().await?;
        let token = self.credentials.token(&self.client, &self.site, None).await?;
        let reply = self.site.exchange(self.request(place, call, token.as_ref())).await?;
        if !is_refused_token(reply.status) || !self.credentials.can_renew() {
            return Ok(reply);
        }
        let token = self.credentials.token(&self.client, &self.site, token.as_ref()).await?;
        self.site.exchange(self.request(place, call, token.as_ref())).await
    }

    /// Whether the catalog has an operation. One that lists none has all.
    pub(super) async fn offers(&self, endpoint: &str) -> Result<bool, Fault> {
        let endpoints = &self.place().await?.endpoints;
        Ok(endpoints.is_empty() || endpoints.iter().any(|offered| offered == endpoint))
    }

    fn request(&self, place: &Place, call: &Call<'_>, token: Option<&Token>) -> RequestBuilder {
        let mut request =
            self.client.request(call.method.clone(), format!("{}{}", place.base, call.path)).timeout(self.site.timeout);
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if let Some(etag) = call.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        if call.delegated {
            request = request.header("X-Iceberg-Access-Delegation", "vended-credentials");
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        authorised(request, token)
    }

    /// Whether the catalog takes the credentials, asked anew.
    pub(super) async fn prove(&self) -> Result<(), CatalogError> {
        self.ask_place().await.map(drop).map_err(|fault| fault.error)
    }

    /// Asks the catalog once what it says of itself; a failure is not remembered.
    async fn place(&self) -> Result<&Place, Fault> {
        self.place.get_or_try_init(|| self.ask_place()).await.map_err(|fault| Fault { sent: false, ..fault })
    }

    async fn ask_place(&self) -> Result<Place, Fault> {
        #[derive(Deserialize, Default)]
        struct Said {
            #[serde(default)]
            defaults: Option<Value>,
            #[serde(default)]
            overrides: Option<Value>,
            #[serde(default)]
            endpoints: Option<Vec<String>>,
        }
        let ask = |token: Option<Token>| {
            let mut request = self.client.get(format!("{}/v1/config", self.uri)).timeout(self.site.timeout);
            if let Some(warehouse) = &self.warehouse {
                request = request.query(&[("warehouse", warehouse)]);
            }
            self.site.exchange(authorised(request, token.as_ref()))
        };
        let token = self.credentials.token(&self.client, &self.site, None).await?;
        let mut reply = ask(token.clone()).await?;
        if is_refused_token(reply.status) && self.credentials.can_renew() {
            reply = ask(self.credentials.token(&self.client, &self.site, token.as_ref()).await?).await?;
        }
        if !reply.status.is_success() {
            let error = match reply.status.as_u16() {
                404 => CatalogError::Invalid { catalog: self.site.catalog.clone(), reason: reply.message() },
                _ => self.site.refused(&reply),
            };
            return Err(Fault { error, sent: false });
        }
        let said: Said = serde_json::from_slice(&reply.body)
            .map_err(|error| Fault { error: self.site.bad(format!("its configuration cannot be read: {error}")), sent: false })?;
        let text = |of: &Option<Value>, key: &str| of.as_ref().and_then(|of| of[key].as_str().map(str::to_owned));
        let prefix = text(&said.overrides, "prefix").or_else(|| self.prefix.clone()).or_else(|| text(&said.defaults, "prefix"));
        let prefix = prefix.map(|prefix| prefix.trim_matches('/').to_owned()).filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map(|prefix| prefix.split('/').map(segment).collect::<Vec<_>>().join("/") + "/").unwrap_or_default();
        // The token goes where the administrator said, not where the catalog says.
        Ok(Place { base: format!("{}/v1/{prefix}", self.uri), endpoints: said.endpoints.unwrap_or_default() })
    }
}

impl Site {
    /// Sends a request and reads its answer whole.
    pub(super) async fn exchange(&self, request: RequestBuilder) -> Result<Reply, Fault> {
        let mut response = request.send().await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let mut body = BytesMut::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.broken(&error))? {
            if body.len() + part.len() > self.max_body_bytes {
                let error = self.bad(format!("its answer is larger than {} bytes", self.max_body_bytes));
                return Err(Fault { error, sent: true });
            }
            body.extend_from_slice(&part);
        }
        Ok(Reply { status, etag, body: body.freeze() })
    }

    /// What an answer means that is not a success and has no meaning of its own to the call.
    pub(super) fn refused(&self, reply: &Reply) -> CatalogError {
        let catalog = self.catalog.clone();
        match reply.status.as_u16() {
            401 | 419 => CatalogError::Unauthorized { catalog, reason: reply.message() },
            403 => CatalogError::Forbidden { catalog, reason: reply.message() },
            400 | 422 => CatalogError::Invalid { catalog, reason: reply.message() },
            405 | 406 | 501 => CatalogError::Unsupported { catalog, reason: reply.message() },
            _ => self.bad(format!("it answered {}", reply.describe())),
        }
    }

    pub(super) fn bad(&self, reason: String) -> CatalogError {
        CatalogError::BadAnswer { catalog: self.catalog.clone(), reason }
    }

    fn timed_out(&self) -> CatalogError {
        CatalogError::Timeout { catalog: self.catalog.clone(), host: self.host.clone(), after: self.timeout }
    }

    fn broken(&self, error: &reqwest::Error) -> Fault {
        let sent = !error.is_connect() && !error.is_builder();
        let error = if error.is_timeout() && sent {
            self.timed_out()
        } else {
            CatalogError::Unreachable { catalog: self.catalog.clone(), host: self.host.clone(), reason: innermost(error) }
        };
        Fault { error, sent }
    }
}

impl Reply {
    /// The catalog's own words, whichever of the two usual shapes they come in.
    pub(super) fn message(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let iceberg = body["error"]["message"].as_str();
        let oauth = body["error_description"].as_str().or_else(|| body["error"].as_str());
        match iceberg.or(oauth).filter(|text| !text.is_empty()) {
            Some(text) => text.chars().take(MAX_MESSAGE).collect(),
            None => format!("status {}", self.status.as_u16()),
        }
    }

    /// Iceberg's name for what went wrong, such as `NoSuchTableException`.
    pub(super) fn exception(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["error"]["type"].as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn describe(&self) -> String {
        let message = self.message();
        let status = self.status.as_u16();
        if message == format!("status {status}") { message } else { format!("status {status}: {message}") }
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

fn authorised(request: RequestBuilder, token: Option<&Token>) -> RequestBuilder {
    match token {
        Some(token) => request.bearer_auth(token.expose()),
        None => request,
    }
}

fn is_refused_token(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 419)
}

fn parse_uri(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("\"{text}\" cannot be read: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("\"{text}\" must begin with https:// or http:// and a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password; use `credentials`".to_owned());
    }
    Ok(url)
}

/// The last cause, without the address that the outer ones repeat.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
