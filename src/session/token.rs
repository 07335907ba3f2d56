//! Owns what a session token says: which session, whose, and what it takes to make it again. Refuses to grow: what does not fit into a
//! header that every client takes is left out, and such a session ends with the process.

use std::time::Duration;

use prost::Message;

use super::ended::OpenedMs;
use super::{Defaults, SessionError};
use crate::auth::seal::{Purpose, SealError, Sealer};
use crate::names::{PrincipalId, SessionId};

/// Clients refuse answers with more than 8 KB of headers, and send the token with every call.
const MAX_BYTES: usize = 4096;

/// What a token says, opened.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) session: SessionId,
    pub(super) principal: PrincipalId,
    pub(super) opened: OpenedMs,
    /// What the session began with.
    pub(super) initial: Defaults,
    /// What the authenticator keeps of the principal; `None` when it was too large.
    pub(super) kept: Option<Vec<u8>>,
}

/// The same as bytes.
#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(string, tag = "1")]
    session: String,
    #[prost(string, tag = "2")]
    principal: String,
    #[prost(uint64, tag = "3")]
    opened_ms: u64,
    #[prost(string, tag = "4")]
    catalog: String,
    #[prost(string, tag = "5")]
    schema: String,
    #[prost(bytes = "vec", optional, tag = "6")]
    kept: Option<Vec<u8>>,
}

impl Token {
    pub(super) fn seal(self, sealer: &Sealer, ttl: Duration) -> String {
        let mut body = Body {
            session: self.session.to_string(),
            principal: self.principal.to_string(),
            opened_ms: self.opened,
            catalog: self.initial.catalog.to_string(),
            schema: self.initial.schema,
            kept: self.kept,
        };
        let token = sealer.seal_text(Purpose::Session, &body.encode_to_vec(), ttl);
        if token.len() <= MAX_BYTES || body.kept.take().is_none() {
            return token;
        }
        sealer.seal_text(Purpose::Session, &body.encode_to_vec(), ttl)
    }

    pub(super) fn open(sealer: &Sealer, token: &str) -> Result<Self, SessionError> {
        let plain = sealer.open_text(Purpose::Session, token).map_err(|error| match error {
            SealError::Foreign => SessionError::ForeignToken,
            other => SessionError::Token(other),
        })?;
        let body = Body::decode(plain.as_slice()).map_err(|_| SessionError::Token(SealError::Altered))?;
        Ok(Self {
            session: body.session.into(),
            principal: body.principal.into(),
            opened: body.opened_ms,
            initial: Defaults { catalog: body.catalog.into(), schema: body.schema, as_of: None },
            kept: body.kept,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(kept: usize) -> Token {
        let initial = Defaults { catalog: "lake".into(), schema: "main".to_owned(), as_of: None };
        Token { session: "s".into(), principal: "ada".into(), opened: 7, initial, kept: Some(vec![1; kept]) }
    }

    #[test]
    fn what_does_not_fit_into_a_header_is_left_out() {
        let (sealer, hour) = (Sealer::random(), Duration::from_secs(3600));
        for (kept, fits) in [(0, true), (2900, true), (3100, false), (16 << 10, false)] {
            let sealed = token(kept).seal(&sealer, hour);
            assert!(sealed.len() <= MAX_BYTES, "{}", sealed.len());
            let opened = Token::open(&sealer, &sealed).unwrap();
            assert_eq!(opened.kept.is_some(), fits, "{kept}");
            assert_eq!((opened.session.as_str(), opened.principal.as_str(), opened.opened), ("s", "ada", 7));
        }
    }
}
