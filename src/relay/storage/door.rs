//! Owns the door: the S3 address that workers read and write files at, on loopback. It lets in who shows a worker's token, to the
//! locations of the worker's catalogs, for writing only while its statement may write, and never for deleting. Refuses everything
//! of S3 but objects, and to know keys.
//!
//! DuckDB sends a request again on 408, 418, 429, 500, 503 and 504. The relay has tried often enough by then: none of these is
//! answered.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt as _;
use futures::TryStreamExt as _;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::ahead::Whole;
use super::store::{Asked, Outcome, Refused, StoreFault};
use crate::relay::Relay;
use crate::relay::views::View;
use crate::relay::workers::Visitor;

/// The largest part of a file that is taken at once; workers are set to send less.
const MAX_PART: usize = 128 << 20;

/// Why a worker does not get in, or does not get what it asks for.
struct Denied {
    status: StatusCode,
    code: String,
    message: String,
}

/// Answers until `stop` is cancelled.
pub(in crate::relay) async fn serve(relay: Arc<Relay>, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
    let listener = listener.tap_io(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a worker's connection keeps Nagle's algorithm");
        }
    });
    let routes = Router::new().fallback(pass).with_state(relay);
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn pass(State(relay): State<Arc<Relay>>, request: Request) -> Response {
    let is_head = request.method() == Method::HEAD;
    match served(&relay, request).await {
        Ok(response) => response,
        Err(denied) => denied.into_response(is_head),
    }
}

async fn served(relay: &Arc<Relay>, request: Request) -> Result<Response, Denied> {
    let visitor = visitor(relay, request.headers())?;
    let (parts, body) = request.into_parts();
    let mut asked = asked(&parts.method, &parts.uri, &parts.headers)?;
    let view = view(relay, &visitor, &asked.location)?;
    if let Some(whole) = relay.ahead.get(&view, &asked).await.map_err(|fault| told(&asked.location, fault))? {
        return Ok(given(whole, &parts.method));
    }
    // Held until the store has answered, so that only so many parts are in memory.
    let mut _turn = None;
    if !matches!(asked.method, Method::GET | Method::HEAD) {
        if !relay.workers.may_write(&visitor) {
            return Err(Denied::access("the statement may not write"));
        }
        _turn = relay.uploads.acquire().await.ok();
        let read = tokio::time::timeout(relay.config.storage.stall_timeout, axum::body::to_bytes(body, MAX_PART)).await;
        let incomplete = |reason: String| Denied::new(StatusCode::BAD_REQUEST, "IncompleteBody", &reason);
        let read = read.map_err(|_| incomplete("the worker did not send it in time".to_owned()))?;
        asked.body = read.map_err(|error| incomplete(error.to_string()))?;
    }
    let location = asked.location.clone();
    match relay.store.ask(&view.storage, asked).await {
        Ok(Outcome::Served(served)) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = served.response.status();
            *response.headers_mut() = served.passed_back();
            if parts.method != Method::HEAD {
                let body = relay.store.body(Arc::clone(&view.storage), *served);
                *response.body_mut() = Body::from_stream(body.inspect_err(move |fault| {
                    tracing::warn!(location, %fault, "a file could not be read to its end");
                }));
            }
            Ok(response)
        }
        Ok(Outcome::Refused(refused)) => Err(Denied::by_store(&view, &refused)),
        Err(fault) => Err(told(&location, fault)),
    }
}

fn told(location: &str, fault: StoreFault) -> Denied {
    tracing::warn!(location, %fault, "a store did not serve a file");
    fault.into()
}

/// A file that is here.
fn given(whole: Whole, method: &Method) -> Response {
    let mut response = Response::new(if method == Method::HEAD { Body::empty() } else { Body::from(whole.body) });
    *response.status_mut() = whole.status;
    *response.headers_mut() = whole.headers;
    response
}

/// Who shows a worker's token. It comes as the session token of the worker's own keys, which mean nothing otherwise.
fn visitor(relay: &Relay, headers: &HeaderMap) -> Result<Visitor, Denied> {
    let token = headers.get("x-amz-security-token").and_then(|token| token.to_str().ok());
    token.and_then(|token| relay.workers.visit(token)).ok_or_else(|| Denied::access("the relay does not know this worker"))
}

/// The catalog of the worker whose file it is: of those that it has a table of, and that allow the location, the one that knows most of
/// it. Of the others no key is used, wherever a table points: nobody has asked what the caller may read there.
fn view(relay: &Relay, visitor: &Visitor, location: &str) -> Result<Arc<View>, Denied> {
    let catalogs = visitor.grant.catalogs.iter().filter(|catalog| relay.workers.has_open(visitor, catalog));
    let views = catalogs.filter_map(|catalog| relay.view(&visitor.grant.credential, catalog).ok());
    let known = views.filter(|view| view.confinement.allows(location));
    let known = known.filter_map(|view| Some((view.storage.knows(location)?, view)));
    let best = known.max_by_key(|(length, _)| *length).map(|(_, view)| view);
    let best = best.ok_or_else(|| Denied::access("the file lies outside the locations of the worker's tables"))?;
    relay.workers.opens(visitor, best.upstream.name());
    Ok(best)
}

/// Reads what a worker asks for. Lists, settings of buckets and deletions are none of it.
fn asked(method: &Method, uri: &axum::http::Uri, headers: &HeaderMap) -> Result<Asked, Denied> {
    let bad = |reason: &str| Denied::new(StatusCode::BAD_REQUEST, "InvalidRequest", reason);
    let path = percent_decode_str(uri.path()).decode_utf8().map_err(|_| bad("the path is not UTF-8"))?;
    let (bucket, key) = path.trim_start_matches('/').split_once('/').ok_or_else(|| bad("no object is named"))?;
    if bucket.is_empty() || key.is_empty() || key.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(bad("no object is named"));
    }
    let query = pairs(uri.query().unwrap_or_default()).ok_or_else(|| bad("the query is not UTF-8"))?;
    let names: Vec<&str> = query.iter().map(|(name, _)| name.as_str()).collect();
    let repeatable = match (method.as_str(), names.as_slice()) {
        ("GET" | "HEAD" | "PUT", []) | ("PUT", ["partNumber", "uploadId"] | ["uploadId", "partNumber"]) => true,
        ("POST", ["uploads"]) => true,
        // What has been put together cannot be put together again.
        ("POST", ["uploadId"]) => false,
        _ => return Err(Denied::access("workers read and write objects, and do nothing else with stores")),
    };
    let range = headers.get(header::RANGE).map(|range| range.to_str().ok().and_then(range_of));
    let range = range.map(|range| range.ok_or_else(|| bad("the range is none"))).transpose()?;
    let mut passed = HeaderMap::new();
    if let Some(value) = headers.get(header::CONTENT_TYPE) {
        passed.insert(header::CONTENT_TYPE, value.clone());
    }
    let scheme = scheme(headers);
    Ok(Asked {
        method: method.clone(),
        location: format!("{scheme}://{bucket}/{key}"),
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        query,
        range,
        headers: passed,
        body: bytes::Bytes::new(),
        repeatable,
    })
}

/// A worker's keys are named after the kind of location that they are for.
fn scheme(headers: &HeaderMap) -> &'static str {
    let signed = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if signed.contains("Credential=gs/") { "gs" } else { "s3" }
}

/// `bytes=0-9` or `bytes=10-`.
fn range_of(text: &str) -> Option<(u64, Option<u64>)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let from = from.parse().ok()?;
    let to = if to.is_empty() { None } else { Some(to.parse().ok()?) };
    to.is_none_or(|to| from <= to).then_some((from, to))
}

fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    let decoded = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

impl Denied {
    fn new(status: StatusCode, code: &str, message: &str) -> Self {
        Self { status, code: code.to_owned(), message: message.to_owned() }
    }

    fn access(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "AccessDenied", message)
    }

    fn by_store(view: &View, refused: &Refused) -> Self {
        let status = match refused.status.as_u16() {
            404 | 412 | 416 => refused.status,
            // A redirect is one to another region, and there is none here.
            _ => StatusCode::FORBIDDEN,
        };
        let message = format!("the store of catalog \"{}\" answered {refused}", view.upstream.name());
        Self::new(status, if refused.code.is_empty() { "AccessDenied" } else { &refused.code }, &message)
    }

    /// As S3 says it. The message is JSON, in which the worker finds it again among DuckDB's own words.
    fn into_response(self, is_head: bool) -> Response {
        let inner = json!({ "error": { "type": "StorageException", "message": self.message } }).to_string();
        let inner = inner.replace('&', "+").replace(['<', '>'], "'");
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{}</Code><Message>{inner}</Message></Error>", self.code);
        let xml = [(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"))];
        if is_head { self.status.into_response() } else { (self.status, xml, body).into_response() }
    }
}

impl From<StoreFault> for Denied {
    fn from(fault: StoreFault) -> Self {
        let status = if matches!(fault, StoreFault::Access(_)) { StatusCode::FORBIDDEN } else { StatusCode::BAD_GATEWAY };
        Self::new(status, "StorageFault", &fault.to_string())
    }
}
