//! Owns the one mapping from what went wrong to a gRPC status. Refuses to decide what a failure means: each layer's error says its own
//! [`Kind`], and no text of a `Kind::Internal` leaves the process.

use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Explain, Kind};

/// The longest message put into a status, in bytes after percent-encoding. It travels as an HTTP/2 header, and clients refuse more
/// than 8 KB of headers.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Turns an error into the status that the client sees. The text of an internal error goes to the log instead, under the request id
/// that the client is told.
pub fn to_status(error: &(impl Explain + ?Sized)) -> Status {
    let kind = error.kind();
    match kind {
        Kind::Internal => internal(&error.client_message()),
        Kind::ResourceExhausted(retry_after) => exhausted(&error.client_message(), retry_after),
        _ => Status::new(code(kind), shortened(&error.client_message())),
    }
}

/// A status for a defect: logs `text`, and tells the client only a request id.
pub fn internal(text: &str) -> Status {
    let request_id = uuid::Uuid::now_v7().simple().to_string();
    tracing::error!(request_id, error = text, "internal error {request_id}: {text}");
    Status::internal(format!("internal error; request id {request_id}"))
}

fn exhausted(message: &str, retry_after: Option<Duration>) -> Status {
    let message = shortened(message);
    let Some(retry_after) = retry_after else { return Status::resource_exhausted(message) };
    let mut status =
        Status::with_error_details(Code::ResourceExhausted, message, ErrorDetails::with_retry_info(Some(retry_after)));
    let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
    status.metadata_mut().insert("retry-after-ms", MetadataValue::from(ms));
    status
}

/// The gRPC code of each kind.
#[must_use]
pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::Aborted => Code::Aborted,
        Kind::ResourceExhausted(_) => Code::ResourceExhausted,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Unavailable => Code::Unavailable,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Internal => Code::Internal,
    }
}

/// Cuts a message at a character so that it fits into a header.
fn shortened(message: &str) -> String {
    let mut encoded = 0;
    for (at, c) in message.char_indices() {
        encoded += if c.is_ascii_graphic() && c != '%' || c == ' ' { 1 } else { 3 * c.len_utf8() };
        if encoded > MAX_MESSAGE_BYTES {
            return format!("{} …", &message[..at]);
        }
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{1}")]
    struct Failure(Kind, String);

    impl Explain for Failure {
        fn kind(&self) -> Kind {
            self.0
        }
    }

    #[test]
    fn an_internal_error_tells_the_client_only_a_request_id() {
        let status = to_status(&Failure(Kind::Internal, "secret path".to_owned()));
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().starts_with("internal error; request id "), "{}", status.message());
        assert!(!status.message().contains("secret"));
    }

    #[test]
    fn a_full_queue_says_when_to_try_again() {
        let status = to_status(&Failure(Kind::ResourceExhausted(Some(Duration::from_millis(250))), "queue is full".to_owned()));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "queue is full");
        assert_eq!(status.metadata().get("retry-after-ms").unwrap(), "250");
        let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert_eq!(delay, Duration::from_millis(250));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let status = to_status(&Failure(Kind::InvalidArgument, "é".repeat(5000)));
        assert!(status.message().len() < 1500, "{}", status.message().len());
        assert!(status.message().ends_with('…'));
        let short = to_status(&Failure(Kind::NotFound, "table \"x\" is not there".to_owned()));
        assert_eq!((short.code(), short.message()), (Code::NotFound, "table \"x\" is not there"));
    }
}
