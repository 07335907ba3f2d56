//! Owns what the gateway is told when a statement fails. Refuses to know the wire.

use arrow::error::ArrowError;
use serde_json::Value;

use super::binding::{EngineError, ErrorKind};
use super::once::FRAME;
use super::output::types::TooWide;
use crate::wire::proto::Failure;
use crate::wire::proto::failure::Kind;

/// How DuckDB begins an excerpt of the text that ran, behind its message.
const EXCERPT: &str = "\n\nLINE ";

/// DuckDB quotes whole values in its messages, of gigabytes if need be. A client gets less still, in one header of its answer.
const MAX_MESSAGE_BYTES: usize = 16 << 10;

/// Why a statement did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StatementError {
    /// What it means for the caller.
    pub kind: Kind,
    /// What was wrong and what would be right.
    pub message: String,
    /// The instance is no longer usable.
    pub fatal: bool,
}

impl StatementError {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), fatal: false }
    }

    /// It says what a commit came to, or that nobody knows.
    #[must_use]
    pub fn tells_of_a_commit(&self) -> bool {
        matches!(self.kind, Kind::OutcomeUnknown | Kind::Conflict)
    }

    /// Without DuckDB's excerpt of the text that ran, where that is not the client's.
    #[must_use]
    pub fn without_excerpt(mut self) -> Self {
        if let Some(at) = self.message.find(EXCERPT) {
            self.message.truncate(at);
        }
        self
    }

    /// For the wire: the beginning of what there is to say.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let told = &self.message[..self.message.floor_char_boundary(MAX_MESSAGE_BYTES)];
        let more = self.message.len() - told.len();
        let message = if more == 0 { told.to_owned() } else { format!("{told} … ({more} bytes more)") };
        Failure { kind: self.kind.into(), message, fatal: self.fatal }
    }
}

impl From<EngineError> for StatementError {
    fn from(error: EngineError) -> Self {
        let text = error.message.as_str();
        let answer = match error.kind {
            ErrorKind::Transaction | ErrorKind::Io | ErrorKind::Configuration => Answer::in_text(text),
            _ => Answer::default(),
        };
        let kind = match error.kind {
            ErrorKind::Invalid | ErrorKind::Constraint => Kind::Invalid,
            ErrorKind::Catalog if text.contains("already exists") => Kind::AlreadyExists,
            ErrorKind::Catalog if text.contains("can't be altered to type") => Kind::Unsupported,
            ErrorKind::Catalog => Kind::NotFound,
            ErrorKind::NotImplemented => Kind::Unsupported,
            ErrorKind::Permission => Kind::Refused,
            ErrorKind::OutOfMemory => Kind::OutOfMemory,
            ErrorKind::Interrupted => Kind::Interrupted,
            ErrorKind::Transaction => answer.kind().unwrap_or_else(|| commit_kind(text)),
            ErrorKind::Io => answer.kind().unwrap_or_else(|| io_kind(text)),
            ErrorKind::Configuration => answer.kind().unwrap_or(Kind::Invalid),
            // Another statement's error has taken the instance down: this one can be asked elsewhere.
            ErrorKind::Fatal if text.contains("has been invalidated because of a previous fatal error") => Kind::Unreachable,
            ErrorKind::Fatal | ErrorKind::Other => Kind::Internal,
        };
        // DuckDB's excerpt of the text that ran, where that has the names of system tables as the worker makes them, or is no more than
        // the frame of a query.
        let text = match text.split_once(EXCERPT) {
            Some((before, excerpt)) if excerpt.contains("listed_") || excerpt.contains(FRAME) => before,
            _ => text,
        };
        // Names that are near to a missing one, among them DuckDB's own tables.
        let text = if error.kind == ErrorKind::Catalog { text.split("\nDid you mean ").next().unwrap_or_default() } else { text };
        // Advice to call functions that no client may call.
        let text = text.split("You can modify Iceberg table properties").next().unwrap_or_default();
        let message = match error.kind {
            ErrorKind::OutOfMemory => out_of_memory(text),
            ErrorKind::Permission => file_outside(text).unwrap_or_else(|| text.to_owned()),
            _ => answer.message().unwrap_or_else(|| without_relay(text)),
        };
        Self { kind, fatal: error.kind == ErrorKind::Fatal, message }
    }
}

/// Says which limit was met by the key that sets it. DuckDB's own advice is to change settings that a client cannot change.
fn out_of_memory(text: &str) -> String {
    let what = text.lines().next().unwrap_or_default().trim_end_matches('.');
    let (key, limit) = if text.contains("max_temp_directory_size") {
        ("pool.spill_limit", "the disk that a worker may spill to")
    } else {
        ("pool.memory_budget", "the memory of a worker, its share of all workers'")
    };
    let what = what.split(" This limit was set by").next().unwrap_or(what).trim_end_matches('.');
    format!("{what}. {key} bounds {limit}: let the statement sort, join or collect fewer rows, or raise it")
}

/// DuckDB says that a file cannot be accessed by configuration. No statement names files, so a table's metadata has named it.
fn file_outside(text: &str) -> Option<String> {
    let file = text.split_once("Cannot access file \"")?.1.split_once("\" - file system operations are disabled")?.0;
    Some(format!("a file of the table lies outside the locations allowed for the catalogs: {file}"))
}

impl From<TooWide> for StatementError {
    fn from(error: TooWide) -> Self {
        Self::new(Kind::Invalid, error.to_string())
    }
}

impl From<ArrowError> for StatementError {
    fn from(error: ArrowError) -> Self {
        Self::new(Kind::Internal, error.to_string())
    }
}

/// DuckDB's Iceberg extension names the address that it asked. That is the relay's, which means nothing to a client.
fn without_relay(text: &str) -> String {
    let Some((before, rest)) = text.split_once("'http://127.0.0.1:") else {
        return text.to_owned();
    };
    let after = rest.split_once('\'').map_or("", |(_, after)| after);
    format!("{before}the catalog{}", without_relay(after))
}

/// What the catalog answered, as the text of DuckDB's Iceberg extension carries it: the status as `(Conflict_409)` or `(HTTP 403)`,
/// and the body with the Iceberg REST error.
#[derive(Debug, Default)]
struct Answer {
    status: Option<u16>,
    /// `error.type` and `error.message` of the body.
    error: Option<(String, String)>,
}

impl Answer {
    /// The extension has four ways to tell it: the body as it came, a JSON text within another one, lines, and a sentence without the
    /// type.
    fn in_text(text: &str) -> Self {
        if let Some(outer) = first_json(text, "{\"exception_type\"")
            && let Some(inner) = outer["exception_message"].as_str()
        {
            return Self::in_text(inner);
        }
        let of_body = first_json(text, "{\"error\"").and_then(|body| {
            let field = |name: &str| body["error"][name].as_str().map(str::to_owned);
            Some((field("type")?, field("message")?))
        });
        if let (None, Some((status, message))) = (&of_body, in_sentence(text)) {
            return Self { status: Some(status), error: Some((String::new(), message)) };
        }
        Self { status: status(&without_relay(text)), error: of_body.or_else(|| in_lines(text)) }
    }

    fn kind(&self) -> Option<Kind> {
        let by_type = self.error.as_ref().and_then(|(class, _)| match class.as_str() {
            "CommitStateUnknownException" => Some(Kind::OutcomeUnknown),
            "CommitFailedException" => Some(Kind::Conflict),
            "AlreadyExistsException" => Some(Kind::AlreadyExists),
            "NamespaceNotEmptyException" => Some(Kind::Precondition),
            "NoSuchTableException" | "NoSuchNamespaceException" | "NoSuchViewException" => Some(Kind::NotFound),
            "ForbiddenException" => Some(Kind::Refused),
            // The relay knows its workers: it is the caller whom a catalog does not know any more.
            "NotAuthorizedException" => Some(Kind::Unauthenticated),
            // Nothing was changed: what may have been is a CommitStateUnknownException.
            "BadGatewayException" => Some(Kind::Unreachable),
            "BadRequestException" | "ValidationException" | "IllegalArgumentException" => Some(Kind::Invalid),
            _ => None,
        });
        by_type.or(match self.status? {
            400 => Some(Kind::Invalid),
            401 | 403 => Some(Kind::Refused),
            404 => Some(Kind::NotFound),
            409 => Some(Kind::Conflict),
            501 => Some(Kind::Unsupported),
            _ => None,
        })
    }

    /// The catalog's own words, where it had any.
    fn message(&self) -> Option<String> {
        self.error.as_ref().map(|(_, message)| message.clone()).filter(|message| !message.is_empty())
    }
}

fn first_json(text: &str, beginning: &str) -> Option<Value> {
    let at = text.find(beginning)?;
    serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>().next()?.ok()
}

/// Type and message from ` message: …`, ` type: …`, a line each.
fn in_lines(text: &str) -> Option<(String, String)> {
    let (_, rest) = text.split_once("\n message: ")?;
    let (message, rest) = rest.split_once("\n type: ")?;
    Some((rest.lines().next()?.trim().to_owned(), message.to_owned()))
}

/// Status and message from `… returned response code Forbidden_403 with message "…"`; the message ends with the text.
fn in_sentence(text: &str) -> Option<(u16, String)> {
    let (_, rest) = text.split_once(" returned response code ")?;
    let (status, message) = rest.split_once(" with message \"")?;
    let (_, digits) = status.rsplit_once('_')?;
    Some((digits.parse().ok()?, message.strip_suffix('"').unwrap_or(message).to_owned()))
}

/// The first `_409)` or `HTTP 409`; digits elsewhere are parts of paths and ids.
fn status(text: &str) -> Option<u16> {
    let after =
        |mark: &str| text.match_indices(mark).find_map(|(at, _)| text.get(at + mark.len()..at + mark.len() + 3)?.parse().ok());
    let in_parentheses = || {
        text.match_indices(')').find_map(|(at, _)| {
            let (before, digits) = text.get(..at)?.rsplit_once('_')?;
            (digits.len() == 3 && before.ends_with(char::is_alphabetic)).then(|| digits.parse().ok())?
        })
    };
    after("HTTP ").or_else(in_parentheses)
}

/// A commit that failed without an answer that says how: nobody knows whether it was made.
fn commit_kind(text: &str) -> Kind {
    // Addresses and names hold words of users.
    let text = without_relay(text).to_ascii_lowercase();
    let mut words = text.split_whitespace().filter(|part| !part.contains("://") && !part.contains(['"', '\'']));
    let is_conflict =
        |part: &str| matches!(part.trim_matches(|c: char| c.is_ascii_punctuation()), "conflict" | "conflicts" | "conflicting");
    if words.any(is_conflict) { Kind::Conflict } else { Kind::OutcomeUnknown }
}

/// A request that the catalog or the object store did not serve.
fn io_kind(text: &str) -> Kind {
    if text.contains("No files found") { Kind::NotFound } else { Kind::Unreachable }
}

#[cfg(test)]
mod tests {
    use super::{EngineError, Kind, MAX_MESSAGE_BYTES, StatementError};

    fn told(message: &str) -> (Kind, bool, String) {
        let error = StatementError::from(EngineError::from_message(message.to_owned()));
        (error.kind, error.fatal, error.message)
    }

    #[test]
    fn an_instance_that_is_no_longer_usable_is_fatal() {
        assert_eq!(told("FATAL Error: Failed: database has been invalidated").0, Kind::Internal);
        assert!(told("FATAL Error: Failed: database has been invalidated").1);
        let neighbour =
            told("FATAL Error: Failed: database has been invalidated because of a previous fatal error. Original error: x");
        assert!(neighbour.0 == Kind::Unreachable && neighbour.1);
        assert!(told("INTERNAL Error: Attempted to dereference a null pointer").1);
        assert!(!told("Binder Error: FATAL Error: not at the beginning").1);
    }

    #[test]
    fn of_a_long_message_the_beginning_is_told() {
        let told = |message: &str| StatementError::new(Kind::Invalid, message).to_failure().message;
        let most = "x".repeat(MAX_MESSAGE_BYTES);
        assert_eq!(told(&most), most);
        assert_eq!(told(&format!("{most}yz")), format!("{most} … (2 bytes more)"));
        assert!(told(&"ä".repeat(1 << 20)).ends_with("ää … (2080768 bytes more)"));
    }

    #[test]
    fn what_the_catalog_answered_tells_the_kind_and_hides_the_relay() {
        let lost = "TransactionContext Error: Failed to commit: Request to 'http://127.0.0.1:181/v1/x' returned a non-200 status code (Conflict_409).";
        let (kind, _, message) = told(lost);
        assert_eq!(kind, Kind::Conflict);
        assert_eq!(
            message,
            "TransactionContext Error: Failed to commit: Request to the catalog returned a non-200 status code (Conflict_409)."
        );
        assert_eq!(told("HTTP Error: Could not establish connection").0, Kind::Unreachable);
        assert_eq!(told("IO Error: cannot open 's3://b/0409-403-404.parquet'").0, Kind::Unreachable);
        let unknown = "TransactionContext Error: Failed to commit: Request to 'http://127.0.0.1:1/v1/x' returned a non-200 status code \
                       (BadGateway_502), with reason: Bad Gateway, body: {\"error\":{\"message\":\"cannot tell\",\"type\":\"CommitStateUnknownException\",\"code\":502}}";
        let (kind, _, message) = told(unknown);
        assert_eq!((kind, message.as_str()), (Kind::OutcomeUnknown, "cannot tell"));
        let answered = |status: &str, class: &str, code: u16| {
            format!(
                "TransactionContext Error: Failed to commit: Request to 'http://127.0.0.1:1/v1/x' returned a non-200 status code \
                 ({status}_{code}), with reason: x, body: {{\"error\":{{\"message\":\"log in \\\"again\\\"\",\"type\":\"{class}\",\"code\":{code}}}}}"
            )
        };
        let nested = serde_json::json!({ "exception_message": answered("Forbidden", "ForbiddenException", 403) });
        let nested = format!("Invalid Configuration Error: x body: {{\"exception_type\":\"y\",{}", &nested.to_string()[1..]);
        let (kind, _, message) = told(&nested);
        assert_eq!((kind, message.as_str()), (Kind::Refused, "log in \"again\""));
        let lines = "TransactionContext Error: Failed to commit: x (Forbidden_403). \n message: no, \"you\"\n type: ForbiddenException\n reason: y\n";
        let (kind, _, message) = told(lines);
        assert_eq!((kind, message.as_str()), (Kind::Refused, "no, \"you\""));
        let sentence =
            "HTTP Error: GetTableInformation endpoint returned response code Forbidden_403 with message \"no \"x\" (y)\"";
        let (kind, _, message) = told(sentence);
        assert_eq!((kind, message.as_str()), (Kind::Refused, "no \"x\" (y)"));
        assert_eq!(told(&sentence.replace("Forbidden_403", "BadGateway_502")).0, Kind::Unreachable);
        let (kind, _, message) = told(&answered("Forbidden", "NotAuthorizedException", 403));
        assert_eq!((kind, message.as_str()), (Kind::Unauthenticated, "log in \"again\""));
        assert_eq!(told(&answered("BadGateway", "BadGatewayException", 502)).0, Kind::Unreachable);
        assert_eq!(told(&answered("BadGateway", "", 502)).0, Kind::OutcomeUnknown, "a stranger's 502 says nothing");
        assert_eq!(told("HTTP Error: HTTP GET error reading 's3://b/x' (HTTP 403)").0, Kind::Refused);
        let inner = "Binder Error: no x\n\nLINE 1: SELECT x FROM \"temp\".main.listed_tables\n               ^";
        assert_eq!(told(inner).2, "Binder Error: no x");
        assert_eq!(told("Conversion Error: no 'x'\n\nLINE 1: FROM query($1)\n             ^").2, "Conversion Error: no 'x'");
        for (lost, kind) in [
            (
                "Failed to commit: Request to 'http://127.0.0.1:1/v1/lake/namespaces/gold/tables/conflict_log' failed",
                Kind::OutcomeUnknown,
            ),
            (
                "Failed to commit: Request to 'http://127.0.0.1:1/v1/lake/namespaces/a conflict/tables/x_409)' failed",
                Kind::OutcomeUnknown,
            ),
            ("Failed to commit table \"conflict\": cannot write s3://b/conflict/x.parquet", Kind::OutcomeUnknown),
            ("Failed to commit: write-write conflict on key: 1", Kind::Conflict),
            ("Failed to commit: Transaction conflict: cannot update a table", Kind::Conflict),
        ] {
            assert_eq!(told(&format!("TransactionContext Error: {lost}")).0, kind, "{lost}");
        }
        let near = "Catalog Error: Table with name x does not exist!\nDid you mean \"pg_catalog.pg_enum\"?";
        let (kind, _, message) = told(near);
        assert_eq!((kind, message.as_str()), (Kind::NotFound, "Catalog Error: Table with name x does not exist!"));
        assert_eq!(told("Catalog Error: Table with name \"x\" already exists").0, Kind::AlreadyExists);
        let (kind, _, message) =
            told("Permission Error: Cannot access file \"/etc/x\" - file system operations are disabled by configuration");
        assert_eq!(kind, Kind::Refused);
        assert_eq!(message, "a file of the table lies outside the locations allowed for the catalogs: /etc/x");
        let (kind, _, message) =
            told("Out of Memory Error: failed to allocate data (9 MiB/9 MiB used)\n\nPossible solutions:\n* SET threads=X");
        assert_eq!(kind, Kind::OutOfMemory);
        let pending = "Invalid Input Error: Attempting to execute an unsuccessful or closed pending query result\nError: ";
        assert_eq!(told(&format!("{pending}Out of Memory Error: failed to pin block")).0, Kind::OutOfMemory);
        assert!(told(&format!("{pending}INTERNAL Error: x")).1);
        assert!(message.contains("pool.memory_budget") && message.contains("9 MiB") && !message.contains("SET"), "{message}");
    }
}
