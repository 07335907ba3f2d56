//! Owns the order of the steps of an Iceberg REST catalog. Refuses to know what each finds.

use std::sync::Arc;
use std::time::Instant;

use url::Url;

use super::caller::Entry;
use super::catalog::Knocked;
use super::reach::{Sight, look};
use super::{Fault, Found, Login, Record, Step, Subject, catalog, clock, files, login};
use crate::auth::Credentials;
use crate::auth::config::is_loopback;
use crate::relay::Relay;
use crate::relay::config::{RestConfig, RestCredentials};
use crate::relay::views::Way;
use crate::relay::words::host_of;

/// Those behind the first.
const STEPS: [Step; 10] = [
    Step::Reach,
    Step::Tls,
    Step::Clock,
    Step::Token,
    Step::Refresh,
    Step::Warehouse,
    Step::List,
    Step::Load,
    Step::Credentials,
    Step::Read,
];

pub(super) async fn run(subject: &Subject, rest: &RestConfig, record: &mut Record<'_>) {
    let began = Instant::now();
    let (relay, entry) = match opened(subject).await {
        Ok(opened) => opened,
        Err(reason) => {
            record.note(Step::Config, began, subject.failed(Fault::BadConfig, reason));
            return record.not_tried(&STEPS);
        }
    };
    let configured = subject.credential();
    let Some(way) = relay.views.way(&configured, &subject.name) else {
        record.note(Step::Config, began, subject.failed(Fault::BadConfig, "it has no credentials of the config"));
        return record.not_tried(&STEPS);
    };
    record.note(Step::Config, began, told(subject, rest, &way));
    if !see(subject, &way, record).await {
        return record.not_tried(&STEPS[3..]);
    }
    let credential = match &entry {
        None => configured,
        Some(entry) => match login::introduce(subject, entry, record).await {
            Some(credential) => credential,
            None => return record.not_tried(&STEPS[4..]),
        },
    };
    let (view, way) = match (relay.view(&credential, &subject.name), relay.views.way(&credential, &subject.name)) {
        (Ok(view), Some(way)) => (view, way),
        (view, _) => {
            let reason = view.err().map_or_else(|| "there is no way to it".to_owned(), |error| error.to_string());
            record.note(Step::Token, Instant::now(), subject.failed(Fault::BadConfig, reason));
            return record.not_tried(&STEPS[4..]);
        }
    };
    if !login::run(subject, &credential, &way, record).await {
        return record.not_tried(&STEPS[5..]);
    }
    match catalog::knock(subject, &way, &view, entry.as_ref(), record).await {
        Knocked::Open => {}
        Knocked::Failed => return record.not_tried(&STEPS[6..]),
        Knocked::AsksForLogin => return,
    }
    let Some(loaded) = catalog::table(subject, &view, record).await else { return record.not_tried(&STEPS[8..]) };
    files::run(subject, &relay, &view, loaded.as_ref(), record).await;
}

/// A relay, and for a caller the gateway's entry; why there is none, otherwise.
async fn opened(subject: &Subject) -> Result<(Arc<Relay>, Option<Entry<'_>>), String> {
    let relay = subject.relay().await.map_err(|error| super::embedded::chain(&error))?;
    let entry = match &subject.login {
        Login::Caller(login) => Some(Entry::open(login, &relay).map_err(|error| super::embedded::chain(&error))?),
        Login::Catalogs | Login::Role { .. } | Login::NoCaller { .. } => None,
    };
    Ok((relay, entry))
}

/// What is looked at, and with what.
fn told(subject: &Subject, rest: &RestConfig, way: &Way<'_>) -> Found {
    let warehouse = rest.warehouse.as_ref().map(|warehouse| format!(", warehouse {warehouse}")).unwrap_or_default();
    let whose = match &subject.login {
        Login::Caller(login) => {
            return Found::ok(format!("{}{warehouse}, with the log-in of {}", rest.uri, login.who()));
        }
        Login::Role { .. } => subject.login.who().map(|who| format!(" of {who}")).unwrap_or_default(),
        Login::Catalogs | Login::NoCaller { .. } => String::new(),
    };
    let shown = match way.credentials {
        None | Some(RestCredentials::None) => format!("without credentials{whose}"),
        Some(RestCredentials::Bearer { .. }) => format!("with the token{whose}"),
        Some(RestCredentials::Oauth2 { client_id, .. }) => format!("with client {client_id}{whose}"),
    };
    let detail = format!("{}{warehouse}, {shown}", rest.uri);
    match (&subject.login, way.credentials) {
        (Login::NoCaller { pass }, Some(RestCredentials::Bearer { .. } | RestCredentials::Oauth2 { .. })) => Found::warning(
            format!("{detail}, though callers log in by themselves (auth.mode)"),
            format!("what follows is not what callers may do; to see that, pass a log-in: {pass}"),
        ),
        _ => Found::ok(detail),
    }
}

/// Reach, TLS and clock of the catalog, and of the token endpoint where that is elsewhere. Whether what follows can be tried.
async fn see(subject: &Subject, way: &Way<'_>, record: &mut Record<'_>) -> bool {
    let began = Instant::now();
    let means = way.reach.means();
    let limit = way.config.connect_timeout.unwrap_or(subject.config.connect_timeout);
    let mut seen: Vec<(Url, Sight)> = Vec::new();
    for url in addresses(subject, way) {
        let sight = look(&means.client, &url, means.timeout.min(limit * 2)).await;
        let found = sight.reached(subject);
        let has_failed = found.has_failed();
        seen.push((url, sight));
        if has_failed {
            record.note(Step::Reach, began, found);
            record.not_tried(&[Step::Tls, Step::Clock]);
            return false;
        }
    }
    let places: Vec<String> = seen.iter().map(|(url, _)| host_of(url)).collect();
    record.note(Step::Reach, began, Found::ok(format!("{} takes connections", places.join(" and "))));
    let untrusted = seen.iter().find_map(|(_, sight)| match sight {
        Sight::Untrusted(detail) => Some(detail),
        _ => None,
    });
    if let Some(detail) = untrusted {
        record.note(Step::Tls, Instant::now(), subject.failed(Fault::BadCa, detail));
        record.not_tried(&[Step::Clock]);
        return false;
    }
    record.note(Step::Tls, Instant::now(), encrypted(&seen));
    let skew = |(url, sight): &(Url, Sight)| match sight {
        Sight::Answers { skew: Some(skew), .. } => Some((host_of(url), *skew)),
        _ => None,
    };
    let skews: Vec<_> = seen.iter().filter_map(skew).collect();
    record.note(Step::Clock, Instant::now(), clock::found(&skews));
    true
}

/// What each address of the catalog is asked for: no more than whether it answers.
fn addresses(subject: &Subject, way: &Way<'_>) -> Vec<Url> {
    let catalog = Url::parse(&way.reach.config_uri());
    let endpoint = match (&subject.login, way.credentials) {
        (Login::Caller(login), _) => match &login.shown {
            Credentials::Basic { .. } => Some(way.reach.callers().login.uri.clone()),
            // It is shown as it is, or not: that is not known yet.
            Credentials::Bearer(_) => None,
        },
        (_, Some(credentials @ RestCredentials::Oauth2 { .. })) => way.reach.endpoint_of(credentials).ok().map(|at| at.uri),
        (_, None | Some(RestCredentials::None | RestCredentials::Bearer { .. })) => None,
    };
    let endpoint = endpoint.and_then(|uri| Url::parse(&uri).ok());
    let catalog: Vec<Url> = catalog.into_iter().collect();
    let elsewhere = endpoint.filter(|endpoint| catalog.iter().all(|catalog| catalog.origin() != endpoint.origin()));
    catalog.into_iter().chain(elsewhere).collect()
}

fn encrypted(seen: &[(Url, Sight)]) -> Found {
    let plain = seen.iter().find(|(url, _)| url.scheme() != "https").map(|(url, _)| url);
    match plain {
        None => Found::ok("the certificates are trusted"),
        Some(url) if is_loopback(url) => Found::skipped(format!("{} is asked without TLS, on this machine", host_of(url))),
        Some(url) => Found::warning(
            format!("{} is asked without TLS", host_of(url)),
            "secrets and tokens can be read on their way: write https:// where the service has it",
        ),
    }
}
