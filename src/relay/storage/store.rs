//! Owns one exchange with a store, until it is right or cannot be: signed, tried again where that does no harm, with new keys where
//! the old ones were refused, checked for being the part of the file that was asked for, and continued where it broke off. Refuses
//! to know workers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use futures::stream::{Stream, try_unfold};
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Client, Method, Response, StatusCode, header};
use url::Url;

use super::access::Shown;
use super::config::Config;
use super::sign::{Signed, encoded_path, encoded_query, sha256};
use super::{Access, Storage};
use crate::relay::error::CatalogError;
use crate::relay::upstream::reach::client_builder;
use crate::relay::words::{host_of, innermost, without};

/// The pause before a request is tried again; doubled each time, and shortened at random.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How often an answer is continued that breaks off, however much of it comes each time.
const MAX_BREAKS: u32 = 16;

/// How often new keys are asked for while a request is served.
const MAX_RENEWALS: u32 = 2;

/// How much of a refusal is read for its reason.
const MAX_REFUSAL: usize = 64 << 10;

/// A request to a store.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// Such as `s3://bucket/key`, decoded.
    pub(super) location: String,
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) query: Vec<(String, String)>,
    /// First byte, and last if there is one.
    pub(super) range: Option<(u64, Option<u64>)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Made twice it does what it does made once.
    pub(super) repeatable: bool,
}

impl Asked {
    /// The whole of a file.
    pub(super) fn file(location: &str) -> Option<Self> {
        let (_, rest) = location.split_once("://")?;
        let (bucket, key) = rest.split_once('/')?;
        Some(Self {
            method: Method::GET,
            location: location.to_owned(),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            query: Vec::new(),
            range: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            repeatable: true,
        })
    }
}

/// Why a store did not give what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum StoreFault {
    /// There are no keys for it.
    #[error(transparent)]
    Access(#[from] CatalogError),
    /// No connection, or it broke.
    #[error("the store {host} cannot be reached: {reason}")]
    Unreachable { host: String, reason: String },
    /// It did not answer in time.
    #[error("the store {host} did not answer within {} s", .after.as_secs_f32())]
    Timeout { host: String, after: Duration },
    /// It answered something else.
    #[error("the store {host} answered {reason}")]
    Wrong { host: String, reason: String },
}

/// What a store refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// The store's own word, such as `NoSuchKey`.
    pub(super) code: String,
    pub(super) message: String,
}

/// What came of a request.
pub(super) enum Outcome {
    /// It was served; the body follows.
    Served(Box<Served>),
    /// The store will not.
    Refused(Refused),
}

/// An answer whose head is right.
pub(super) struct Served {
    pub(super) response: Response,
    asked: Asked,
    access: Arc<Access>,
}

impl Served {
    /// What of its head a worker gets.
    pub(super) fn passed_back(&self) -> HeaderMap {
        let headers = self.response.headers();
        PASSED_BACK.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
    }
}

/// The way to stores.
pub(in crate::relay) struct Store {
    client: Client,
    config: Config,
}

impl Store {
    /// Nothing is sent.
    pub(in crate::relay) fn new(config: Config) -> Result<Self, String> {
        Ok(Self { client: client(&config, None)?, config })
    }

    /// Asks until there is an answer that is right.
    pub(super) async fn ask(&self, storage: &Storage, asked: Asked) -> Result<Outcome, StoreFault> {
        let access = storage.access(&asked.location, None).await?;
        self.ask_with(storage, asked, access).await
    }

    async fn ask_with(&self, storage: &Storage, asked: Asked, mut access: Arc<Access>) -> Result<Outcome, StoreFault> {
        let mut pause = FIRST_PAUSE;
        let (mut attempts, mut renewals) = (0, 0);
        loop {
            attempts += 1;
            let may_repeat = asked.repeatable && attempts < self.config.attempts.max(1);
            let fault = match self.once(&asked, &access).await {
                Ok(response) if response.status().is_success() => match misfit(&asked, &response) {
                    None => return Ok(Outcome::Served(Box::new(Served { response, asked, access }))),
                    Some(reason) => wrong(&access, reason),
                },
                Ok(response) => {
                    let refused = refusal(response, &access).await;
                    if refused.is_of_keys() && renewals < MAX_RENEWALS {
                        renewals += 1;
                        let other = storage.access(&asked.location, Some(&access)).await?;
                        if !other.shows_the_same(&access) {
                            tracing::info!(
                                location = asked.location,
                                code = refused.code,
                                "a store refused its keys: with new ones"
                            );
                            access = other;
                            attempts -= 1;
                            continue;
                        }
                    }
                    if !refused.may_pass() {
                        return Ok(Outcome::Refused(refused));
                    }
                    wrong(&access, refused.to_string())
                }
                Err(fault) => fault,
            };
            if !may_repeat {
                return Err(fault);
            }
            tracing::debug!(location = asked.location, %fault, "a store is asked again");
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause *= 2;
        }
    }

    /// One request; gives the head of its answer.
    async fn once(&self, asked: &Asked, access: &Access) -> Result<Response, StoreFault> {
        let (url, path) = placed(asked, access).ok_or_else(|| wrong(access, "nothing: its address cannot be used".to_owned()))?;
        let client = access.client.as_ref().unwrap_or(&self.client);
        let mut request = client.request(asked.method.clone(), url.clone()).headers(asked.headers.clone());
        if let Some((from, to)) = asked.range {
            let to = to.map(|to| to.to_string()).unwrap_or_default();
            request = request.header(header::RANGE, format!("bytes={from}-{to}"));
        }
        match &access.shown {
            Shown::Keys(keys) => {
                // Over TLS the body is safe without a hash of its own.
                let payload = if url.scheme() == "https" && !asked.body.is_empty() {
                    "UNSIGNED-PAYLOAD".to_owned()
                } else {
                    sha256(&asked.body)
                };
                let host = host_of(&url);
                let signed = Signed {
                    method: asked.method.as_str(),
                    host: &host,
                    path: &path,
                    query: url.query().unwrap_or_default(),
                    payload: &payload,
                    service: "s3",
                    region: &access.region,
                };
                for (name, value) in keys.sign(&signed, SystemTime::now()) {
                    request = request.header(name, value);
                }
            }
            Shown::Bearer(token) => request = request.bearer_auth(crate::secret::ExposeSecret::expose_secret(token)),
            Shown::Nothing => {}
        }
        if matches!(asked.method, Method::PUT | Method::POST) {
            request = request.body(asked.body.clone());
        }
        // Sending a large body takes its time.
        let limit = self.config.answer_timeout + Duration::from_micros(asked.body.len() as u64);
        match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(StoreFault::Unreachable { host: host_of(&access.endpoint), reason: innermost(&error) }),
            Err(_) => Err(StoreFault::Timeout { host: host_of(&access.endpoint), after: limit }),
        }
    }

    /// The body of an answer. Where it breaks off, the rest is asked for, of the same version of the file.
    pub(super) fn body(
        self: &Arc<Self>,
        storage: Arc<Storage>,
        served: Served,
    ) -> impl Stream<Item = Result<Bytes, StoreFault>> + Send + 'static {
        let first = served.asked.range.map_or(0, |(from, _)| from);
        let length = served.response.content_length();
        let etag = served.response.headers().get(header::ETAG).cloned();
        let Served { response, asked, access } = served;
        let reading = Reading {
            store: Arc::clone(self),
            storage,
            response,
            asked,
            access,
            etag,
            next: first,
            end: length.map(|length| first + length),
            breaks: 0,
        };
        try_unfold(reading, Reading::next)
    }

    /// The whole body of an answer; `None` when it has more than so many bytes.
    pub(super) async fn whole(
        self: &Arc<Self>,
        storage: &Arc<Storage>,
        served: Served,
        most: u64,
    ) -> Result<Option<Bytes>, StoreFault> {
        let mut parts = std::pin::pin!(self.body(Arc::clone(storage), served));
        let mut whole = BytesMut::new();
        while let Some(part) = parts.try_next().await? {
            if (whole.len() + part.len()) as u64 > most {
                return Ok(None);
            }
            whole.extend_from_slice(&part);
        }
        Ok(Some(whole.freeze()))
    }
}

/// Connections to stores.
pub(super) fn client(config: &Config, ca_file: Option<&PathBuf>) -> Result<Client, String> {
    let builder = client_builder(config.connect_timeout, ca_file)?.http1_only();
    builder.build().map_err(|error| format!("no HTTP client can be made: {}", innermost(&error)))
}

/// A body on its way.
struct Reading {
    store: Arc<Store>,
    storage: Arc<Storage>,
    response: Response,
    asked: Asked,
    access: Arc<Access>,
    etag: Option<header::HeaderValue>,
    /// Offset in the file of the byte that comes next.
    next: u64,
    /// Offset behind the last byte, where it is known.
    end: Option<u64>,
    breaks: u32,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreFault> {
        loop {
            let limit = self.store.config.stall_timeout;
            let host = || host_of(&self.access.endpoint);
            let fault = match tokio::time::timeout(limit, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    self.next += chunk.len() as u64;
                    return Ok(Some((chunk, self)));
                }
                Ok(Ok(None)) if self.end.is_none_or(|end| self.next == end) => return Ok(None),
                Ok(Ok(None)) => StoreFault::Unreachable { host: host(), reason: "its answer broke off".to_owned() },
                Ok(Err(error)) => StoreFault::Unreachable { host: host(), reason: innermost(&error) },
                Err(_) => StoreFault::Timeout { host: host(), after: limit },
            };
            self.go_on(fault).await?;
        }
    }

    /// Asks for the rest of what broke off with this fault.
    async fn go_on(&mut self, fault: StoreFault) -> Result<(), StoreFault> {
        let (Some(end), Some(etag)) = (self.end, self.etag.clone()) else { return Err(fault) };
        self.breaks += 1;
        if self.breaks > MAX_BREAKS || self.asked.method != Method::GET {
            return Err(fault);
        }
        tracing::info!(location = self.asked.location, %fault, at = self.next, "an answer of a store is continued");
        let mut rest = self.asked.clone();
        rest.range = Some((self.next, Some(end - 1)));
        rest.headers.insert(header::IF_MATCH, etag);
        match self.store.ask_with(&self.storage, rest, Arc::clone(&self.access)).await? {
            Outcome::Served(served) => {
                self.response = served.response;
                self.access = served.access;
                Ok(())
            }
            Outcome::Refused(refused) => Err(wrong(&self.access, refused.to_string())),
        }
    }
}

impl Refused {
    /// Whether other keys might help. Stores say so with different statuses; what they say of a missing right looks the same.
    fn is_of_keys(&self) -> bool {
        match self.status.as_u16() {
            401 | 403 => true,
            // Without a body, as for HEAD, nothing tells an expired token from another fault.
            400 => self.code.is_empty() || self.code.contains("Token"),
            _ => false,
        }
    }

    /// Whether it may be otherwise soon.
    fn may_pass(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// Where a request goes: the whole address, and its path as it is signed.
fn placed(asked: &Asked, access: &Access) -> Option<(Url, String)> {
    let mut url = access.endpoint.clone();
    let key = asked.key.split('/');
    let path = if access.path_style {
        encoded_path(std::iter::once(asked.bucket.as_str()).chain(key))
    } else {
        let host = format!("{}.{}", asked.bucket, url.host_str()?);
        url.set_host(Some(&host)).ok()?;
        encoded_path(key)
    };
    url.set_path(&path);
    if !asked.query.is_empty() {
        url.set_query(Some(&encoded_query(&asked.query)));
    }
    // An address that was tidied up would be another than the signed one.
    (url.path() == path).then_some((url, path))
}

/// What is wrong with the head of an answer that says it is served. DuckDB would take any bytes of the right number.
fn misfit(asked: &Asked, response: &Response) -> Option<String> {
    let (from, to) = asked.range?;
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some("with the whole file instead of a part".to_owned());
    }
    let said = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    let Some((first, last, size)) = content_range(said) else {
        return Some("with a part of the file without saying which".to_owned());
    };
    let due = to.map_or(size.saturating_sub(1), |to| to.min(size.saturating_sub(1)));
    let length = response.content_length();
    if first == from && last == due && length.is_none_or(|length| length == last + 1 - first) {
        return None;
    }
    Some(format!("with the bytes {first}-{last} of the file instead of {from}-{due}"))
}

/// `bytes 0-9/100`.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (part, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?)).filter(|(first, last, size)| first <= last && last < size)
}

async fn refusal(mut response: Response, access: &Access) -> Refused {
    let status = response.status();
    let mut body = Vec::new();
    while let Ok(Ok(Some(part))) = tokio::time::timeout(Duration::from_secs(5), response.chunk()).await {
        body.extend_from_slice(&part);
        if body.len() > MAX_REFUSAL {
            break;
        }
    }
    // It may repeat what it was shown; a part of that, left by a cut, would not be found any more.
    let body = without(&String::from_utf8_lossy(&body), &access.secrets());
    // Only these two: the rest of what S3 says of a refusal may hold the key's id and what was signed.
    Refused { status, code: element(&body, "Code"), message: element(&body, "Message") }
}

fn element(body: &str, name: &str) -> String {
    let inner = body.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
    inner.map(|(text, _)| text.chars().filter(|c| !c.is_control()).take(300).collect()).unwrap_or_default()
}

fn wrong(access: &Access, reason: String) -> StoreFault {
    StoreFault::Wrong { host: host_of(&access.endpoint), reason }
}

/// Headers of a store's answer that a worker gets.
const PASSED_BACK: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::ACCEPT_RANGES,
];
