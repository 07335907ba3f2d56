//! Owns how one Iceberg REST catalog is reached, whoever asks: its address, connections, deadlines, how many reads at once, and its
//! health. Refuses to know credentials.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, StatusCode, header};
use tokio::sync::Semaphore;
use url::Url;

use super::health::Health;
use crate::names::CatalogName;
use crate::relay::config::{AccessDelegation, Config, RestConfig, RestCredentials, polaris_scope};
use crate::relay::error::{CatalogError, RelayError};
use crate::relay::tokens::{Audience, CallersTokens, Endpoint, TokenMeans};
use crate::relay::words;

/// Idle connections are closed before load balancers and catalogs do it.
const IDLE_CONNECTION: Duration = Duration::from_secs(50);

/// Idle connections kept to one host.
const IDLE_CONNECTIONS: usize = 32;

/// A call that brought no answer, or one that was not to be had.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: CatalogError,
    /// Whether the catalog may have got the request.
    pub(super) sent: bool,
    /// It says something of the catalog, and not of what gives tokens for it.
    pub(super) asked: bool,
}

/// An answer, whatever its status.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) etag: Option<String>,
    pub(super) body: Bytes,
}

/// The connections, one pool for all catalogs that are reached in the same way. Principals share them: a token goes with each request.
#[derive(Default)]
pub(in crate::relay) struct Clients(HashMap<(Option<PathBuf>, Duration), Client>);

impl Clients {
    fn client(&mut self, ca_file: Option<&PathBuf>, connect_timeout: Duration) -> Result<Client, String> {
        let key = (ca_file.cloned(), connect_timeout);
        if let Some(client) = self.0.get(&key) {
            return Ok(client.clone());
        }
        let builder = client_builder(connect_timeout, ca_file)?
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            // A connection that has died unseen holds up all requests on it.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(10));
        let client = builder.build().map_err(|error| format!("no HTTP client can be made: {}", words::innermost(&error)))?;
        self.0.insert(key, client.clone());
        Ok(client)
    }
}

/// What all connections of the relay have in common, to catalogs and to stores.
pub(in crate::relay) fn client_builder(connect_timeout: Duration, ca_file: Option<&PathBuf>) -> Result<ClientBuilder, String> {
    let mut builder = Client::builder()
        .connect_timeout(connect_timeout)
        .tcp_keepalive(Duration::from_secs(60))
        // A redirect would carry tokens and keys elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("polynya/", env!("CARGO_PKG_VERSION")));
    for certificate in ca_file.map(certificates).transpose()?.unwrap_or_default() {
        builder = builder.add_root_certificate(certificate);
    }
    Ok(builder)
}

/// The certificates of a PEM file.
fn certificates(file: &PathBuf) -> Result<Vec<Certificate>, String> {
    let unusable = |why: &dyn std::fmt::Display| format!("ca_file {} cannot be used: {why}", file.display());
    let pem = std::fs::read(file).map_err(|error| unusable(&error))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&words::innermost(&error)))?;
    if found.is_empty() { Err(unusable(&"there is no certificate in it")) } else { Ok(found) }
}

/// How one catalog is reached.
pub(in crate::relay) struct Reach {
    pub(super) catalog: CatalogName,
    /// Host and port, for error texts.
    pub(super) host: String,
    /// Up to and without `/v1`.
    pub(super) uri: String,
    pub(super) warehouse: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) client: Client,
    /// How long one call may take, and a read with all its attempts.
    pub(super) timeout: Duration,
    /// How long a change may take with all that belongs to it: less than a worker waits before it sends it again.
    pub(super) change_timeout: Duration,
    max_body_bytes: usize,
    pub(super) read_attempts: u32,
    /// Reads under way, so that a slow catalog does not gather all there are.
    pub(super) reads: Semaphore,
    pub(super) health: Arc<Health>,
    pub(super) access_delegation: AccessDelegation,
    callers: CallersTokens,
}

impl Reach {
    /// Fails with what is wrong in the config; nothing is sent.
    pub(in crate::relay) fn new(
        catalog: CatalogName,
        config: &Config,
        rest: &RestConfig,
        clients: &mut Clients,
    ) -> Result<Arc<Self>, RelayError> {
        let wrong = |reason: String| RelayError::Config { catalog: catalog.clone(), reason };
        let uri = rest.uri.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let url = parse_uri(&uri).map_err(|reason| wrong(format!("uri {reason}")))?;
        let connect_timeout = rest.connect_timeout.unwrap_or(config.connect_timeout);
        let client = clients.client(rest.ca_file.as_ref(), connect_timeout).map_err(wrong)?;
        let callers = callers(rest, &own_endpoint(&uri)).map_err(wrong)?;
        Ok(Arc::new(Self {
            health: Health::new(catalog.clone()),
            host: words::host_of(&url),
            uri,
            warehouse: rest.warehouse.clone(),
            prefix: rest.prefix.clone(),
            client,
            timeout: rest.request_timeout.unwrap_or(config.request_timeout),
            change_timeout: config.commit_timeout,
            max_body_bytes: config.max_body_bytes,
            read_attempts: config.read_attempts.max(1),
            reads: Semaphore::new(config.max_reads_per_catalog.max(1)),
            access_delegation: rest.access_delegation,
            callers,
            catalog,
        }))
    }

    /// What users call the catalog.
    pub(in crate::relay) fn catalog(&self) -> &CatalogName {
        &self.catalog
    }

    /// Where it says what it is.
    pub(in crate::relay) fn config_uri(&self) -> String {
        format!("{}/v1/config", self.uri)
    }

    /// Where and how tokens are had for callers with log-ins of their own.
    pub(in crate::relay) fn callers(&self) -> &CallersTokens {
        &self.callers
    }

    /// How tokens are asked for.
    pub(in crate::relay) fn means(&self) -> TokenMeans {
        TokenMeans { client: self.client.clone(), timeout: self.timeout }
    }

    /// Where these credentials have their tokens from.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub(in crate::relay) fn endpoint_of(&self, credentials: &RestCredentials) -> Result<Endpoint, RelayError> {
        let wrong = |reason: String| RelayError::Config { catalog: self.catalog.clone(), reason };
        endpoint(credentials, &own_endpoint(&self.uri)).map_err(wrong)
    }

    /// Sends a request and reads its answer whole. Whether a catalog is out of reach is for those to say who have tried more than once.
    pub(super) async fn exchange(&self, request: RequestBuilder) -> Result<Reply, Fault> {
        let reply = self.exchange_unseen(request).await?;
        if !matches!(reply.status.as_u16(), 502..=504) {
            self.health.answered();
        }
        Ok(reply)
    }

    async fn exchange_unseen(&self, request: RequestBuilder) -> Result<Reply, Fault> {
        let mut response = request.send().await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let mut body = BytesMut::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.broken(&error))? {
            if body.len() + part.len() > self.max_body_bytes {
                let error = self.bad(format!("its answer is larger than {} bytes", self.max_body_bytes));
                return Err(Fault { error, sent: true, asked: true });
            }
            body.extend_from_slice(&part);
        }
        Ok(Reply { status, etag, body: body.freeze() })
    }

    pub(super) fn bad(&self, reason: String) -> CatalogError {
        CatalogError::BadAnswer { catalog: self.catalog.clone(), reason }
    }

    pub(super) fn timed_out(&self, after: Duration) -> CatalogError {
        CatalogError::Timeout { catalog: self.catalog.clone(), host: self.host.clone(), after }
    }

    fn broken(&self, error: &reqwest::Error) -> Fault {
        let sent = !error.is_connect() && !error.is_builder();
        let error = if error.is_timeout() && sent {
            self.timed_out(self.timeout)
        } else {
            let reason = words::innermost(error);
            CatalogError::Unreachable { catalog: self.catalog.clone(), host: self.host.clone(), reason }
        };
        Fault { error, sent, asked: true }
    }
}

impl Reply {
    /// The catalog's own words.
    pub(super) fn message(&self) -> String {
        words::said(self.status, &self.body)
    }

    /// Iceberg's name for what went wrong, such as `NoSuchTableException`.
    pub(super) fn exception(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["error"]["type"].as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn describe(&self) -> String {
        words::described(self.status, &self.message())
    }
}

fn own_endpoint(uri: &str) -> String {
    format!("{uri}/v1/oauth/tokens")
}

fn endpoint(credentials: &RestCredentials, own: &str) -> Result<Endpoint, String> {
    let (uri, scope, auth) = match credentials {
        RestCredentials::Oauth2 { scope, token_uri, client_auth, .. } => (token_uri.clone(), scope.clone(), *client_auth),
        _ => (None, polaris_scope(), crate::relay::config::ClientAuth::default()),
    };
    let uri = uri.unwrap_or_else(|| own.to_owned());
    parse_uri(&uri).map_err(|reason| format!("token_uri {reason}"))?;
    Ok(Endpoint { uri, scope, auth })
}

fn callers(rest: &RestConfig, own: &str) -> Result<CallersTokens, String> {
    let mut login = endpoint(&rest.credentials, own)?;
    let said = &rest.callers;
    if let Some(uri) = &said.token_uri {
        parse_uri(uri).map_err(|reason| format!("callers.token_uri {reason}"))?;
        login.uri.clone_from(uri);
    }
    if let Some(scope) = &said.scope {
        login.scope.clone_from(scope);
    }
    login.auth = said.client_auth.unwrap_or(login.auth);
    let mut exchange = login.clone();
    if let Some(uri) = &said.exchange.token_uri {
        parse_uri(uri).map_err(|reason| format!("callers.exchange.token_uri {reason}"))?;
        exchange.uri.clone_from(uri);
    }
    if let Some(scope) = &said.exchange.scope {
        exchange.scope.clone_from(scope);
    }
    if let Some(client) = &said.exchange.client {
        let catalogs = own.trim_end_matches("/v1/oauth/tokens").to_ascii_lowercase();
        if exchange.uri.to_ascii_lowercase().starts_with(&catalogs) {
            return Err(
                "callers.exchange.client is for an endpoint elsewhere (callers.exchange.token_uri): the catalog's own would \
                        give a token of this client, with its rights, instead of the caller's"
                    .to_owned(),
            );
        }
        client.client_secret.resolve().map_err(|error| format!("callers.exchange.client: {error}"))?;
    }
    let audience = Audience { audience: said.exchange.audience.clone(), client: said.exchange.client.clone() };
    Ok(CallersTokens { login, exchange, audience })
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
