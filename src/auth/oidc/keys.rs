//! Owns the keys of one identity provider: where they are (discovery), when they are fetched, and which one a token names. Refuses to judge
//! tokens.
//!
//! ```text
//! known, not older than `refresh`     used; a key that is not among them has them fetched, at most once per 10 s
//! older than `refresh`                who comes first fetches them, others go on with the old ones meanwhile
//! older than `refresh` + `grace`      nobody is let in by them any more
//! ```
//! What is fetched takes the place of what was known: a key that the issuer has withdrawn is gone with the next fetch. One fetch at a time
//! is under way, and it runs by itself: an asker that goes away takes nobody's keys along.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use reqwest::redirect::{Attempt, Policy};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::auth::config::{ConfigError, IssuerConfig};
use crate::auth::error::{AuthError, TokenFault, shortened};
use crate::error::with_sources;

/// How often an unknown key may have the keys fetched again.
const FETCH_EVERY: Duration = Duration::from_secs(10);
/// The same while nothing is known at all.
const FIRST_FETCH_EVERY: Duration = Duration::from_secs(1);
/// The largest answer that is read.
const MAX_BYTES: usize = 1 << 20;
/// Keys of one issuer that are kept.
const MAX_KEYS: usize = 100;
/// Bytes of the only kind of such keys that there is.
const ED25519_KEY_BYTES: usize = 32;
/// Redirects that are followed, on the same server.
const MAX_REDIRECTS: usize = 3;

/// The keys of one issuer.
pub(super) struct Keys {
    /// An unknown key has the keys fetched again no more often than this.
    pub(super) fetch_every: Duration,
    source: Arc<Source>,
}

/// Where they come from, and what is known of them.
struct Source {
    config: IssuerConfig,
    client: reqwest::Client,
    /// Never held over a fetch.
    state: Mutex<State>,
}

type Fetch = Shared<BoxFuture<'static, ()>>;

#[derive(Default)]
struct State {
    known: Option<Known>,
    tried: Option<Instant>,
    under_way: Option<Fetch>,
    /// What became of the last fetch, when it failed.
    fault: Option<String>,
}

#[derive(Clone)]
struct Known {
    keys: Arc<[Key]>,
    fetched: Instant,
}

/// One key.
pub(super) struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    pub(super) decoding: DecodingKey,
}

/// The part of a discovery document that is used.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// A key that a token names.
pub(super) struct Found {
    keys: Arc<[Key]>,
    at: usize,
}

impl Found {
    pub(super) fn key(&self) -> &Key {
        &self.keys[self.at]
    }
}

impl Keys {
    pub(super) fn new(config: &IssuerConfig) -> Result<Self, ConfigError> {
        let wrong = |reason: String| ConfigError::Issuer { issuer: config.issuer.clone(), reason };
        let mut builder = reqwest::Client::builder()
            .timeout(config.timeout)
            .connect_timeout(config.timeout)
            .redirect(Policy::custom(same_server))
            .user_agent(concat!("polynya/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).map_err(|error| wrong(format!("cannot read ca_file {}: {error}", path.display())))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| wrong(format!("ca_file {} is not PEM: {error}", path.display())))?;
            if authorities.is_empty() {
                return Err(wrong(format!("ca_file {} has no certificate in it", path.display())));
            }
            builder = builder.tls_built_in_root_certs(false);
            for authority in authorities {
                builder = builder.add_root_certificate(authority);
            }
        }
        let client = builder.build().map_err(|error| wrong(format!("no connection can be set up: {error}")))?;
        let source = Source { config: config.clone(), client, state: Mutex::default() };
        Ok(Self { fetch_every: FETCH_EVERY, source: Arc::new(source) })
    }

    /// The key that a token names, for its algorithm.
    pub(super) async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Found, AuthError> {
        let known = self.current().await?;
        match known.find(id, algorithm, &self.source.config.issuer) {
            Err(TokenFault::UnknownKey { .. }) => {}
            found => return found.map_err(AuthError::Token),
        }
        // Perhaps a new one.
        self.fetch(Some(known.fetched), self.fetch_every).await;
        let (known, fault) = {
            let state = self.source.lock();
            (state.known.clone().unwrap_or(known), state.fault.clone())
        };
        let found = known.find(id, algorithm, &self.source.config.issuer);
        match (found, fault) {
            // Nobody can tell whether it is a new one.
            (Err(TokenFault::UnknownKey { .. }), Some(reason)) => Err(self.unavailable(reason)),
            (found, _) => found.map_err(AuthError::Token),
        }
    }

    fn unavailable(&self, reason: String) -> AuthError {
        AuthError::IssuerUnavailable { issuer: self.source.config.issuer.clone(), reason }
    }

    /// Keys that are good enough to be used.
    async fn current(&self) -> Result<Known, AuthError> {
        let config = &self.source.config;
        let known = self.source.lock().known.clone();
        match &known {
            Some(known) if known.fetched.elapsed() < config.refresh => return Ok(known.clone()),
            Some(known) if known.fetched.elapsed() < config.refresh + config.grace => {
                // One tries; the others don't wait for it.
                let is_first = self.source.lock().under_way.is_none();
                if is_first {
                    self.fetch(Some(known.fetched), self.fetch_every).await;
                }
            }
            _ => self.fetch(known.as_ref().map(|known| known.fetched), FIRST_FETCH_EVERY).await,
        }
        let state = self.source.lock();
        let usable = |known: &&Known| known.fetched.elapsed() < config.refresh + config.grace;
        let reason = || state.fault.clone().unwrap_or_else(|| "they are being fetched".to_owned());
        state.known.as_ref().filter(usable).cloned().ok_or_else(|| self.unavailable(reason()))
    }

    /// Waits for the fetch under way, or has the keys fetched, unless somebody has since `seen`, or has tried within `every`.
    async fn fetch(&self, seen: Option<Instant>, every: Duration) {
        let fetch = {
            let mut state = self.source.lock();
            let done = state.known.as_ref().map(|known| known.fetched) > seen;
            let too_early = state.tried.is_some_and(|tried| tried.elapsed() < every);
            match &state.under_way {
                _ if done => return,
                Some(fetch) => fetch.clone(),
                None if too_early => return,
                None => self.source.launch(&mut state),
            }
        };
        fetch.await;
    }
}

impl Source {
    /// To be called with the state locked, and nothing under way.
    fn launch(self: &Arc<Self>, state: &mut State) -> Fetch {
        let source = Arc::clone(self);
        let fetch = async move { source.fetch().await }.boxed().shared();
        state.tried = Some(Instant::now());
        state.under_way = Some(fetch.clone());
        // Bounded by its own deadline. It ends even if nobody waits for it.
        tokio::spawn(fetch.clone());
        fetch
    }

    async fn fetch(&self) {
        let issuer = &self.config.issuer;
        // One that breaks must not stay under way.
        let ask = AssertUnwindSafe(self.ask()).catch_unwind();
        let fetched = match tokio::time::timeout(self.config.timeout, ask).await {
            Ok(fetched) => fetched.unwrap_or_else(|_| Err("reading its answer broke".to_owned())),
            Err(_) => Err(format!("no answer within {:?}", self.config.timeout)),
        };
        let mut state = self.lock();
        state.under_way = None;
        match fetched {
            Ok(keys) => {
                if state.fault.take().is_some() {
                    tracing::info!(issuer, keys = keys.len(), "the issuer's keys can be had again");
                }
                state.known = Some(Known { keys: keys.into(), fetched: Instant::now() });
            }
            Err(reason) => {
                if state.fault.as_ref() != Some(&reason) {
                    tracing::warn!(issuer, reason, "fetching the issuer's keys failed");
                }
                state.fault = Some(reason);
            }
        }
    }

    async fn ask(&self) -> Result<Vec<Key>, String> {
        let uri = match &self.config.jwks_uri {
            Some(uri) => uri.clone(),
            None => self.discover().await?,
        };
        let set: KeySet = self.get(&uri).await?;
        // A key of a kind that is not known says nothing against the others.
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::read).take(MAX_KEYS).collect();
        if keys.is_empty() { Err(format!("{uri} names no key that can verify a signature")) } else { Ok(keys) }
    }

    async fn discover(&self) -> Result<String, String> {
        let issuer = &self.config.issuer;
        let uri = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let found: Discovery = self.get(&uri).await?;
        if found.issuer != *issuer {
            return Err(format!("{uri} is the discovery document of {}", shortened(&found.issuer)));
        }
        let jwks = Url::parse(&found.jwks_uri).map_err(|error| format!("{uri} names no address of keys: {error}"))?;
        if jwks.scheme() != "https" && issuer.starts_with("https:") {
            return Err(format!("{uri} names keys that are not behind https"));
        }
        Ok(found.jwks_uri)
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, uri: &str) -> Result<T, String> {
        let failed = |error: reqwest::Error| format!("{uri}: {}", reason(&error));
        let mut answer = self.client.get(uri).header("accept", "application/json").send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(format!("{uri} answered {}", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(format!("{uri} answered with more than {MAX_BYTES} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|error| format!("{uri} did not answer as expected: {error}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn find(&self, id: Option<&str>, algorithm: Algorithm, issuer: &str) -> Result<Found, TokenFault> {
        let fit = |key: &Key| id.is_none_or(|id| key.id.as_deref() == Some(id)) && key.fits(algorithm);
        let mut fitting = (0..self.keys.len()).filter(|at| fit(&self.keys[*at]));
        match (fitting.next(), id) {
            (Some(_), None) if fitting.next().is_some() => Err(TokenFault::WhichKey(issuer.to_owned())),
            (Some(at), _) => Ok(Found { keys: Arc::clone(&self.keys), at }),
            (None, id) => Err(TokenFault::UnknownKey {
                kid: shortened(id.unwrap_or_default()),
                issuer: issuer.to_owned(),
                age_s: self.fetched.elapsed().as_secs(),
            }),
        }
    }
}

impl Key {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        // What verifies by them takes their length for granted.
        if let AlgorithmParameters::OctetKeyPair(pair) = &jwk.algorithm
            && BASE64_URL_SAFE_NO_PAD.decode(&pair.x).map_or(true, |key| key.len() != ED25519_KEY_BYTES)
        {
            return None;
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let signs = !matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption));
        let asymmetric = decoding.family() != AlgorithmFamily::Hmac;
        let algorithm = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
        (signs && asymmetric).then_some(Self { id: jwk.common.key_id, algorithm, decoding })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.decoding.family() == algorithm.family() && self.algorithm.as_ref().is_none_or(|own| *own == format!("{algorithm:?}"))
    }
}

/// Whoever could send us to another server could have its keys taken for the issuer's.
fn same_server(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let server = |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    let same = attempt.previous().first().is_some_and(|first| server(first) == server(attempt.url()));
    if same && attempt.previous().len() <= MAX_REDIRECTS {
        attempt.follow()
    } else {
        attempt.error("it sent us on to another server, or round in circles")
    }
}

/// What happened, without the address, which the caller names.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let what = if error.is_connect() { "cannot connect" } else { "the call failed" };
    with_sources(what.to_owned(), std::error::Error::source(error))
}
