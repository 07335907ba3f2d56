//! Owns the order of the steps of an Iceberg REST catalog. Refuses to know what each finds.

use std::time::Instant;

use url::Url;

use super::catalog::Knocked;
use super::reach::{Sight, look};
use super::{Fault, Found, Record, Step, Subject, catalog, clock, files, login};
use crate::auth::config::is_loopback;
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
    let relay = match subject.relay().await {
        Ok(relay) => relay,
        Err(error) => {
            record.note(Step::Config, began, Found::failed(Fault::BadConfig, &subject.name, super::embedded::chain(&error)));
            return record.not_tried(&STEPS);
        }
    };
    let credential = subject.credential();
    let (view, way) = match (relay.view(&credential, &subject.name), relay.views.way(&credential, &subject.name)) {
        (Ok(view), Some(way)) => (view, way),
        (view, _) => {
            let reason = view.err().map_or_else(|| "it has no credentials of the config".to_owned(), |error| error.to_string());
            record.note(Step::Config, began, Found::failed(Fault::BadConfig, &subject.name, reason));
            return record.not_tried(&STEPS);
        }
    };
    let warehouse = rest.warehouse.as_ref().map(|warehouse| format!(", warehouse {warehouse}")).unwrap_or_default();
    record.note(Step::Config, began, Found::ok(format!("{}{warehouse}, {}", rest.uri, shown(subject, way.credentials))));
    if !see(subject, &way, record).await {
        return record.not_tried(&STEPS[3..]);
    }
    if !login::run(subject, &way, record).await {
        return record.not_tried(&STEPS[5..]);
    }
    match catalog::knock(subject, &way, &view, record).await {
        Knocked::Open => {}
        Knocked::Failed => return record.not_tried(&STEPS[6..]),
        Knocked::AsksForLogin => return,
    }
    let Some(loaded) = catalog::table(subject, &view, record).await else { return record.not_tried(&STEPS[8..]) };
    files::run(subject, &relay, &view, loaded.as_ref(), record).await;
}

fn shown(subject: &Subject, credentials: &RestCredentials) -> String {
    let whose = subject.role.as_ref().map(|(role, _)| format!(" of role {role}")).unwrap_or_default();
    match credentials {
        RestCredentials::None => format!("without credentials{whose}"),
        RestCredentials::Bearer { .. } => format!("with the token{whose}"),
        RestCredentials::Oauth2 { client_id, .. } => format!("with client {client_id}{whose}"),
    }
}

/// Reach, TLS and clock of the catalog, and of the token endpoint where that is elsewhere. Whether what follows can be tried.
async fn see(subject: &Subject, way: &Way<'_>, record: &mut Record<'_>) -> bool {
    let catalog = &subject.name;
    let began = Instant::now();
    let means = way.reach.means();
    let limit = way.config.connect_timeout.unwrap_or(subject.config.connect_timeout);
    let mut seen: Vec<(Url, Sight)> = Vec::new();
    for url in addresses(way) {
        let sight = look(&means.client, &url, means.timeout.min(limit * 2)).await;
        let found = sight.reached(catalog);
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
        record.note(Step::Tls, Instant::now(), Found::failed(Fault::BadCa, catalog, detail));
        record.not_tried(&[Step::Clock]);
        return false;
    }
    record.note(Step::Tls, Instant::now(), encrypted(&seen));
    let skew = |(url, sight): &(Url, Sight)| match sight {
        Sight::Answers { skew: Some(skew), .. } => Some((host_of(url), *skew)),
        _ => None,
    };
    let skews: Vec<_> = seen.iter().filter_map(skew).collect();
    record.note(Step::Clock, Instant::now(), clock::found(catalog, &skews));
    true
}

/// What each address of the catalog is asked for: no more than whether it answers.
fn addresses(way: &Way<'_>) -> Vec<Url> {
    let catalog = Url::parse(&way.reach.config_uri());
    let endpoint = match way.credentials {
        RestCredentials::Oauth2 { .. } => way.reach.endpoint_of(way.credentials).ok().and_then(|at| Url::parse(&at.uri).ok()),
        RestCredentials::None | RestCredentials::Bearer { .. } => None,
    };
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
