//! Owns what answers look like: bodies, errors by Iceberg's names, and the few headers that matter. Refuses to decide what is
//! answered.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::{StreamExt as _, stream};
use polynya::lake::LakeError;
use serde_json::{Value, json};
use uuid::Uuid;

use super::identity::authorize::Denial;

const JSON: &str = "application/json;charset=UTF-8";

/// An answer, before it is one of HTTP.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    content_type: Option<&'static str>,
    headers: Vec<(HeaderName, String)>,
    /// Whether the body ends too early.
    cut: bool,
}

impl Answer {
    /// 200 with a body.
    pub fn json(body: &Value) -> Self {
        Self::text(body.to_string())
    }

    /// 200 with a body that is JSON already.
    pub fn text(body: String) -> Self {
        Self { status: 200, body, content_type: Some(JSON), headers: Vec::new(), cut: false }
    }

    /// A status and nothing else.
    pub fn empty(status: u16) -> Self {
        Self { status, body: String::new(), content_type: None, headers: Vec::new(), cut: false }
    }

    /// 401 as Polaris gives it for a missing, wrong or expired token.
    pub fn unauthorized() -> Self {
        Self::empty(401).with(header::WWW_AUTHENTICATE, "Bearer")
    }

    /// What a status looks like when it is given on purpose: Polaris' own shape, or that of a proxy before it.
    pub fn on_purpose(status: u16) -> Self {
        match status {
            401 => Self::unauthorized(),
            429 => Self::empty(429).with(header::RETRY_AFTER, "1"),
            403 => Problem::new(403, "ForbiddenException", "Told to forbid this").into(),
            409 => {
                let message = "Requirement failed: branch main has changed: expected id 1 != 2";
                Problem::new(409, "CommitFailedException", message).into()
            }
            500 => Problem::new(500, "RuntimeException", "Told to fail").into(),
            502..=504 => {
                let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
                let body = format!("<html><head><title>{status} {reason}</title></head></html>");
                Self { status, body, content_type: Some("text/html"), headers: Vec::new(), cut: false }
            }
            other => Problem::new(other, "WebApplicationException", "Told to answer so").into(),
        }
    }

    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same with a date so many seconds from now.
    pub fn dated(self, off_s: i64) -> Self {
        let by = Duration::from_secs(off_s.unsigned_abs());
        let now = std::time::SystemTime::now();
        let date = if off_s < 0 { now - by } else { now + by };
        self.with(header::DATE, &httpdate::fmt_http_date(date))
    }

    /// The same with half of its body, and then the end of the connection.
    pub fn cut(mut self) -> Self {
        self.cut = true;
        self
    }

    /// The answer of HTTP.
    pub fn into_response(self) -> Response {
        let body = if self.cut {
            let half = self.body.as_bytes()[..self.body.len() / 2].to_vec();
            let pause = async {
                // So that the half has left before the connection breaks.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(io::Error::from(io::ErrorKind::ConnectionReset))
            };
            Body::from_stream(stream::once(async { Ok(half) }).chain(stream::once(pause)))
        } else {
            Body::from(self.body)
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let id = (HeaderName::from_static("x-request-id"), Uuid::new_v4().to_string());
        let content_type = self.content_type.map(|content_type| (header::CONTENT_TYPE, content_type.to_owned()));
        for (name, value) in self.headers.into_iter().chain(content_type).chain([id]) {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// An error with Iceberg's name for it.
#[derive(Clone, Debug)]
pub struct Problem {
    pub status: u16,
    pub kind: &'static str,
    pub message: String,
}

impl Problem {
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }

    pub fn no_namespace(namespace: &impl std::fmt::Display) -> Self {
        Self::new(404, "NoSuchNamespaceException", format!("Namespace does not exist: {namespace}"))
    }

    pub fn no_table(namespace: &impl std::fmt::Display, table: &str) -> Self {
        Self::new(404, "NoSuchTableException", format!("Table does not exist: {namespace}.{table}"))
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequestException", message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "IllegalArgumentException", message)
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let body = json!({ "error": { "message": problem.message, "type": problem.kind, "code": problem.status } });
        Self {
            status: problem.status,
            body: body.to_string(),
            content_type: Some("application/json"),
            headers: Vec::new(),
            cut: false,
        }
    }
}

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        Self::new(403, "ForbiddenException", denial.to_string())
    }
}

/// In Polaris' words, as far as they were recorded.
impl From<LakeError> for Problem {
    fn from(error: LakeError) -> Self {
        match error {
            LakeError::NoSuchNamespace(namespace) => Self::no_namespace(&namespace),
            LakeError::NoSuchTable(namespace, table) => Self::no_table(&namespace, &table),
            LakeError::NamespaceExists(namespace) => {
                let message = format!("Cannot create namespace {namespace}. Namespace already exists");
                Self::new(409, "AlreadyExistsException", message)
            }
            LakeError::TableExists(namespace, table) => {
                Self::new(409, "AlreadyExistsException", format!("Table already exists: {namespace}.{table}"))
            }
            LakeError::NamespaceNotEmpty(namespace) => {
                Self::new(409, "NamespaceNotEmptyException", format!("Namespace {namespace} is not empty"))
            }
            LakeError::Conflict(reason) => Self::new(409, "CommitFailedException", reason),
            LakeError::Invalid(reason) => Self::invalid(in_java(reason)),
            LakeError::Outside(location) => Self::new(
                403,
                "ForbiddenException",
                format!("Invalid locations '[{location}]': not in the list of allowed locations"),
            ),
            other => Self::new(500, "RuntimeException", other.to_string()),
        }
    }
}

/// Ids stand in quotes in the words of the crate, and not in those of Iceberg's own library.
fn in_java(reason: String) -> String {
    match reason.split_once(" with id: '") {
        Some((before, id)) => format!("{before}: {}", id.trim_end_matches('\'')),
        None => reason,
    }
}
