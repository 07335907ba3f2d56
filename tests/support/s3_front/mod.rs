//! A front for an S3 store that does on command what stores do on bad days: it refuses a session token, is slow, is busy, breaks
//! off, and answers with another part of a file. Requests go on as they came, so signatures hold. Refuses to store anything.

pub mod minio;
pub mod vending;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Answers shorter than this are never cut or shifted: they are footers and manifests as often as data.
const SHORT: usize = 10_000;

/// What is to go wrong, and what came.
#[derive(Default)]
pub struct Faults {
    /// Session tokens that are refused.
    pub refused: HashSet<String>,
    /// With this status, as stores differ: 403, or 400 as Amazon's.
    pub refused_with: Option<u16>,
    /// Only of files whose path has this in it, and also of short answers.
    pub only: Option<&'static str>,
    /// The store's clock is far from that of whoever signs. It says so with the token that it was shown.
    pub skewed: bool,
    /// Nothing may be written.
    pub read_only: bool,
    /// How long each request waits.
    pub slow: Duration,
    /// So many requests are answered 503.
    pub busy: u32,
    /// So many answers break off half-way.
    pub cut: u32,
    /// So many parts of files are other ones than asked for, of the same length.
    pub shifted: u32,
    /// So many parts of files are the whole file.
    pub whole: u32,
    /// What came, by method.
    pub came: BTreeMap<String, usize>,
    /// The session token and path of each request for a file.
    pub reads: Vec<(String, String)>,
    /// Requests that were refused.
    pub refusals: usize,
    /// Session tokens that came.
    pub tokens: HashSet<String>,
}

/// A front; it ends with its value.
pub struct Front {
    /// `http://127.0.0.1:<port>`.
    pub endpoint: String,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    store: String,
    client: reqwest::Client,
    faults: Mutex<Faults>,
}

impl Front {
    /// A front for the store at this address.
    pub async fn of(store: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let client = reqwest::Client::builder().http1_only().build().expect("a client");
        let shared = Arc::new(Shared { store: store.to_owned(), client, faults: Mutex::default() });
        let routes = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        let stop = CancellationToken::new();
        let serve = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::spawn(async move { serve.await });
        Self { endpoint, shared, _stop: stop.drop_guard() }
    }

    /// What is to go wrong, and what came.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.shared.faults.lock().expect("the faults")
    }
}

/// One fault, chosen for one request.
enum Fault {
    Refused(StatusCode),
    Skewed(String),
    ReadOnly,
    Busy,
    Cut,
    Shifted,
    Whole,
}

impl Faults {
    fn choose(&mut self, request: &Request) -> Option<Fault> {
        *self.came.entry(request.method().to_string()).or_default() += 1;
        let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        if request.method() == Method::GET {
            let token = text("x-amz-security-token").unwrap_or_default();
            self.reads.push((token.to_owned(), request.uri().path().to_owned()));
        }
        if let Some(token) = text("x-amz-security-token") {
            self.tokens.insert(token.to_owned());
            if self.refused.contains(token) {
                self.refusals += 1;
                let status = self.refused_with.and_then(|status| StatusCode::from_u16(status).ok());
                return Some(Fault::Refused(status.unwrap_or(StatusCode::FORBIDDEN)));
            }
        }
        if self.skewed {
            return Some(Fault::Skewed(text("x-amz-security-token").unwrap_or_default().to_owned()));
        }
        if self.read_only && !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Some(Fault::ReadOnly);
        }
        if self.only.is_some_and(|part| !request.uri().path().contains(part)) {
            return None;
        }
        if take(&mut self.busy) {
            return Some(Fault::Busy);
        }
        let (from, to) = text("range").and_then(range)?;
        if request.method() != Method::GET || (to - from < SHORT && self.only.is_none()) {
            return None;
        }
        if take(&mut self.cut) {
            Some(Fault::Cut)
        } else if take(&mut self.shifted) {
            Some(Fault::Shifted)
        } else {
            take(&mut self.whole).then_some(Fault::Whole)
        }
    }
}

fn take(left: &mut u32) -> bool {
    let some = *left > 0;
    *left = left.saturating_sub(1);
    some
}

fn range(text: &str) -> Option<(usize, usize)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

async fn pass(State(shared): State<Arc<Shared>>, mut request: Request) -> Response {
    let (fault, slow) = {
        let mut faults = shared.faults.lock().expect("the faults");
        (faults.choose(&request), faults.slow)
    };
    tokio::time::sleep(slow).await;
    match &fault {
        Some(Fault::Refused(status)) => {
            let body = "<?xml version=\"1.0\"?><Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>";
            return (*status, body).into_response();
        }
        Some(Fault::Skewed(token)) => {
            let body = format!(
                "<?xml version=\"1.0\"?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the \
                 server's time is too large for {token}.</Message></Error>"
            );
            return (StatusCode::FORBIDDEN, body).into_response();
        }
        Some(Fault::ReadOnly) => {
            let body = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>";
            return (StatusCode::FORBIDDEN, body).into_response();
        }
        Some(Fault::Busy) => {
            let body = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>";
            return (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
        }
        Some(Fault::Shifted) => shift(&mut request),
        Some(Fault::Whole) => {
            request.headers_mut().remove(header::RANGE);
        }
        Some(Fault::Cut) | None => {}
    }
    match forward(&shared, request).await {
        Ok((mut head, body)) => {
            let body = if matches!(fault, Some(Fault::Cut)) { half(body) } else { Body::from(body) };
            *head.body_mut() = body;
            head
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// The part before, or behind where there is none before.
fn shift(request: &mut Request) {
    let asked = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok()).and_then(range);
    let Some((from, to)) = asked else { return };
    let other = if from >= 4 { format!("bytes={}-{}", from - 4, to - 4) } else { format!("bytes={}-{}", from + 4, to + 4) };
    request.headers_mut().insert(header::RANGE, HeaderValue::from_str(&other).expect("a range"));
}

async fn forward(shared: &Shared, request: Request) -> Result<(Response, Bytes), reqwest::Error> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let place = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let sent = shared.client.request(parts.method.clone(), format!("{}{place}", shared.store)).headers(parts.headers).body(body);
    let answer = sent.send().await?;
    let mut head = Response::new(Body::empty());
    *head.status_mut() = answer.status();
    *head.headers_mut() = answer.headers().clone();
    head.headers_mut().remove(header::TRANSFER_ENCODING);
    Ok((head, answer.bytes().await?))
}

fn half(body: Bytes) -> Body {
    let broken = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "on purpose");
    Body::from_stream(stream::iter([Ok(body.slice(..body.len() / 2)), Err(broken)]))
}
