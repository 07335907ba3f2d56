//! Owns why a caller is not let in, in words for the caller. Refuses to hold a secret or a token: a text says which check failed, and
//! against what.

use std::time::{Duration, SystemTime};

use humantime_serde::re::humantime::format_rfc3339_seconds;

use crate::error::{Explain, Kind};
use crate::names::RealmName;

/// Why a caller is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Nothing was sent.
    #[error("{0}")]
    Missing(&'static str),
    /// The header makes no sense.
    #[error("the authorization header must be `Basic <base64 of user:password>` or `Bearer <token>`")]
    Malformed,
    /// Unknown user or wrong password; which of them is not said.
    #[error("user name or password is wrong")]
    Rejected,
    /// A token that no gateway of this kind gave out.
    #[error("the bearer token is not one that this gateway gave out; log in with user name and password")]
    ForeignToken,
    /// Another way of logging in is asked for.
    #[error("{0}")]
    OtherWay(&'static str),
    /// Too many log-ins at once.
    #[error("too many log-ins at once (auth.max_parallel_logins, auth.max_waiting_logins)")]
    Busy,
    /// Too many failed ones.
    #[error("too many failed log-ins; try again in {} s", .0.as_secs_f64().ceil())]
    Throttled(Duration),
    /// The catalog does not know the caller.
    #[error("the catalog refused the log-in: {reason} (realm {realm})")]
    Refused {
        /// Who refused.
        realm: RealmName,
        /// In its own words.
        reason: String,
    },
    /// The catalog cannot be asked.
    #[error("the log-in cannot be checked now: {reason} (realm {realm})")]
    RealmUnavailable {
        /// Who does not answer.
        realm: RealmName,
        /// What happened.
        reason: String,
    },
    /// A check of a token failed.
    #[error("the bearer token is not accepted: {0}")]
    Token(TokenFault),
    /// The identity provider's keys cannot be had.
    #[error("the bearer token cannot be checked now: the keys of {issuer} cannot be had ({reason})")]
    IssuerUnavailable {
        /// Whose.
        issuer: String,
        /// What happened.
        reason: String,
    },
    /// The caller is known, and nothing is open to it.
    #[error("nothing in auth.mappings fits {0}, so no catalog is open to it; ask the administrator of the gateway for a role")]
    NoMapping(String),
    /// The caller sees no catalog.
    #[error(
        "no catalog is open to {0}: none of the configured ones is of its realm or of its role; ask the administrator of the gateway"
    )]
    NothingOpen(String),
    /// What a session was opened with is not taken any more.
    #[error("the session cannot be gone on with: {0}; log in again")]
    Forgotten(&'static str),
    /// What the caller had shown is over.
    #[error("{}", lapsed(*.certificate, *.at))]
    Lapsed {
        /// It was a client certificate, not a token.
        certificate: bool,
        /// Since when.
        at: SystemTime,
    },
    /// The verification itself broke.
    #[error("verifying a password failed: {0}")]
    Verification(String),
}

/// Which check of a token failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Not three parts of base64 with JSON in them.
    #[error("it is not a JSON Web Token")]
    NotJwt,
    /// No such issuer is configured.
    #[error("its issuer {issuer} is not one of auth.issuers: {known}")]
    UnknownIssuer {
        /// What it says, shortened.
        issuer: String,
        /// Those that there are.
        known: String,
    },
    /// Signed by a way that is not taken.
    #[error("its algorithm {found} is not one of: {taken}")]
    Algorithm {
        /// What it says, shortened.
        found: String,
        /// What is configured.
        taken: String,
    },
    /// It asks for extensions.
    #[error("it asks for an extension (crit) that is not known")]
    Critical,
    /// The issuer has no such key.
    #[error("its key {kid} is not one of the keys of {issuer}; they were fetched {age_s} s ago")]
    UnknownKey {
        /// What it says, shortened.
        kid: String,
        /// Whose keys.
        issuer: String,
        /// When they were fetched.
        age_s: u64,
    },
    /// It names no key.
    #[error("it names no key (kid), and {0} has more than one of its kind")]
    WhichKey(String),
    /// The signature is not by that key.
    #[error("its signature is wrong")]
    Signature,
    /// A claim is missing or of another type.
    #[error("its claim {0} is missing or not of its type")]
    Claim(String),
    /// It is too old.
    #[error("it expired at {}; connect again with a new one", format_rfc3339_seconds(*.0))]
    Expired(SystemTime),
    /// It is of the future.
    #[error("it is not valid before {} ({claim}); is a clock wrong?", format_rfc3339_seconds(*.from))]
    NotYet {
        /// `nbf` or `iat`.
        claim: &'static str,
        /// From when on.
        from: SystemTime,
    },
    /// It is meant for others.
    #[error("its audience is {found}, expected {expected}")]
    Audience {
        /// What it says, shortened.
        found: String,
        /// What is configured.
        expected: String,
    },
}

impl AuthError {
    /// Whether it may have been a guess, which counts. Who has no right or a lapsed token guesses nothing.
    pub(super) fn may_be_a_guess(&self) -> bool {
        match self {
            Self::Rejected | Self::Refused { .. } => true,
            Self::Token(fault) => !matches!(fault, TokenFault::Expired(_)),
            _ => false,
        }
    }
}

impl Explain for AuthError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing(_)
            | Self::Malformed
            | Self::Rejected
            | Self::ForeignToken
            | Self::OtherWay(_)
            | Self::Refused { .. }
            | Self::Token(_)
            | Self::Forgotten(_)
            | Self::Lapsed { .. } => Kind::Unauthenticated,
            Self::NoMapping(_) | Self::NothingOpen(_) => Kind::PermissionDenied,
            Self::Busy => Kind::ResourceExhausted(Some(Duration::from_secs(1))),
            Self::Throttled(wait) => Kind::ResourceExhausted(Some(*wait)),
            Self::RealmUnavailable { .. } | Self::IssuerUnavailable { .. } => Kind::Unavailable,
            Self::Verification(_) => Kind::Internal,
        }
    }
}

fn lapsed(certificate: bool, at: SystemTime) -> String {
    let (what, time) = (if certificate { "client certificate" } else { "token" }, format_rfc3339_seconds(at));
    format!("your {what} lapsed at {time}; connect again with a new one")
}

/// A claim as it may stand in a text: short, and without anything that a log or a terminal would act on.
pub(super) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().filter(|c| !c.is_control()).take(100).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("\"{short}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_waits_are_told_so_that_a_reader_can_use_them() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let text = |error: AuthError| error.to_string();
        assert_eq!(
            text(AuthError::Lapsed { certificate: false, at }),
            "your token lapsed at 2023-11-14T22:13:20Z; connect again with a new one"
        );
        assert!(text(AuthError::Token(TokenFault::Expired(at))).contains("expired at 2023-11-14T22:13:20Z"));
        assert_eq!(text(AuthError::Throttled(Duration::from_millis(1200))), "too many failed log-ins; try again in 2 s");
        assert_eq!(shortened("a\u{1b}[1mb\n"), "\"a[1mb…\"");
        assert!(shortened(&"é".repeat(500)).chars().count() < 110);
    }
}
