//! Owns the steps of a token: that one can be had, and another one. Refuses to show it to a catalog.

use std::time::{Duration, Instant, SystemTime};

use super::caller::{Entry, fault_of, is_exchanged};
use super::{Fault, Found, Login, Record, Step, Subject};
use crate::auth::credential::{Credential, Own};
use crate::relay::config::RestCredentials;
use crate::relay::tokens::TokenFault;
use crate::relay::views::Way;

/// A token that lives shorter than this is asked for so often that its endpoint is a part of many statements.
const SHORT_LIFE: Duration = Duration::from_secs(60);

/// Whom a caller's log-in makes it; the step has been told of when that is nobody.
pub(super) async fn introduce(subject: &Subject, entry: &Entry<'_>, record: &mut Record<'_>) -> Option<Credential> {
    let began = Instant::now();
    match entry.credential().await {
        Ok(credential) => Some(credential),
        Err(error) => {
            record.note(Step::Token, began, subject.failed(fault_of(&error), error.to_string()));
            None
        }
    }
}

/// Whether what follows can be tried.
pub(super) async fn run(subject: &Subject, credential: &Credential, way: &Way<'_>, record: &mut Record<'_>) -> bool {
    let began = Instant::now();
    let Some(credentials) = way.credentials else { return of_caller(subject, credential.own(), way, record).await };
    match credentials {
        RestCredentials::None => {
            let detail = match &subject.login {
                Login::NoCaller { pass } => {
                    format!("callers log in at the catalog by themselves (auth.mode); none was passed: {pass}")
                }
                _ => "none is configured: the catalog is asked without a log-in".to_owned(),
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
        RestCredentials::Oauth2 { client_id, .. } => asked(subject, way, &format!("had for client {client_id}"), record).await,
    }
}

/// A caller's own token, or those that are had for it.
async fn of_caller(subject: &Subject, own: &Own, way: &Way<'_>, record: &mut Record<'_>) -> bool {
    let current = match own {
        Own::Client { client_id, .. } => return asked(subject, way, &format!("had for caller {client_id}"), record).await,
        Own::Token { .. } if is_exchanged(own) => return asked(subject, way, "had in exchange for the caller's", record).await,
        Own::Token { current, .. } => current.get(),
        // Nobody who comes with a log-in shows nothing.
        Own::Service | Own::Nothing => return true,
    };
    let began = Instant::now();
    let left = current.expires.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
    let lives = left.map_or_else(|| ", which does not say how long".to_owned(), |left| format!(", good for {}", span(left)));
    let found = match way.source.token().await {
        Ok(_) => Found::ok(format!("the caller's own is shown{lives}")),
        Err(fault) => failed(subject, &fault),
    };
    if !record.note(Step::Token, began, found) {
        record.not_tried(&[Step::Refresh]);
        return false;
    }
    record.note(Step::Refresh, began, Found::skipped("a caller's token is not renewed: the caller logs in again with another"));
    true
}

/// Asks an endpoint for a token, and for another one.
async fn asked(subject: &Subject, way: &Way<'_>, had: &str, record: &mut Record<'_>) -> bool {
    let began = Instant::now();
    let found = match way.source.renew().await {
        Ok(()) => Found::ok(format!("{had}{}", lives(way))),
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
    subject.failed(kind, detail)
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
