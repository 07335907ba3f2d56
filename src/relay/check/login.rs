//! Owns the steps of a token: that one can be had, and another one. Refuses to show it to a catalog.

use std::time::{Duration, Instant};

use super::{Fault, Found, Record, Step, Subject};
use crate::relay::config::RestCredentials;
use crate::relay::tokens::TokenFault;
use crate::relay::views::Way;

/// A token that lives shorter than this is asked for so often that its endpoint is a part of many statements.
const SHORT_LIFE: Duration = Duration::from_secs(60);

/// Whether what follows can be tried.
pub(super) async fn run(subject: &Subject, way: &Way<'_>, record: &mut Record<'_>) -> bool {
    let began = Instant::now();
    match way.credentials {
        RestCredentials::None => {
            let detail = match subject.callers_log_in {
                true => "callers log in at the catalog by themselves (auth.mode)",
                false => "none is configured: the catalog is asked without a log-in",
            };
            record.note(Step::Token, began, Found::skipped(detail));
            record.note(Step::Refresh, began, Found::skipped("there is no token to renew"));
            true
        }
        RestCredentials::Bearer { .. } => {
            let had = way.source.token().await;
            let found = had.map(|_| Found::ok("a fixed token is configured")).unwrap_or_else(|fault| failed(subject, &fault));
            if !record.note(Step::Token, began, found) {
                record.not_tried(&[Step::Refresh]);
                return false;
            }
            let detail = "a fixed token is never renewed; one in a file is read again when it changes";
            record.note(Step::Refresh, began, Found::skipped(detail));
            true
        }
        RestCredentials::Oauth2 { client_id, .. } => {
            let found = match way.source.renew().await {
                Ok(()) => Found::ok(format!("had for client {client_id}{}", lives(way))),
                Err(fault) => failed(subject, &fault),
            };
            if !record.note(Step::Token, began, found) {
                record.not_tried(&[Step::Refresh]);
                return false;
            }
            let began = Instant::now();
            let found = refreshed(subject, way).await;
            record.note(Step::Refresh, began, found);
            true
        }
    }
}

fn lives(way: &Way<'_>) -> String {
    let life = way.source.life().and_then(|life| life.good_for);
    life.map_or_else(|| ", without a stated life".to_owned(), |life| format!(", good for {}", span(life)))
}

async fn refreshed(subject: &Subject, way: &Way<'_>) -> Found {
    if let Err(fault) = way.source.renew().await {
        return failed(subject, &fault);
    }
    let life = way.source.life();
    let due = life.and_then(|life| life.renewed_in).map(|due| format!("; it is due in {}", span(due))).unwrap_or_default();
    let detail = format!("another one can be had{due}");
    match life.and_then(|life| life.good_for) {
        Some(short) if short < SHORT_LIFE => Found::warning(
            detail,
            format!("tokens live for {} only: let the endpoint give longer ones, such as 1 h", span(short)),
        ),
        _ => Found::ok(detail),
    }
}

fn failed(subject: &Subject, fault: &TokenFault) -> Found {
    let (kind, detail) = match fault {
        TokenFault::Refused(said) if said.to_ascii_lowercase().contains("scope") => {
            (Fault::BadScope, format!("the token endpoint refuses the scope: {said}"))
        }
        // OAuth2 would say in words why.
        TokenFault::Refused(said) if said.starts_with("status ") => {
            (Fault::WrongTokenUri, format!("what is asked for a token refuses, and does not speak OAuth2: {said}"))
        }
        TokenFault::Refused(said) => (Fault::BadSecret, format!("the token endpoint refuses the client: {said}")),
        TokenFault::Lapsed => (Fault::BadSecret, "the token has expired".to_owned()),
        TokenFault::NoSecret(reason) => (Fault::BadConfig, reason.clone()),
        TokenFault::Unreachable { host, reason } => {
            (Fault::WrongHost, format!("the token endpoint at {host} cannot be reached: {reason}"))
        }
        TokenFault::Timeout { host, after } => {
            (Fault::Failing, format!("the token endpoint at {host} did not answer within {}", span(*after)))
        }
        TokenFault::Failing(reason) => (Fault::Failing, reason.clone()),
        TokenFault::Wrong(reason) => (Fault::WrongTokenUri, reason.clone()),
    };
    Found::failed(kind, &subject.name, detail)
}

/// Two units at the most.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}
