//! Whether the gateway can work, for load balancers and probes.
//!
//! This file owns the question: which catalogs must work, how often they are asked, and what their answers come to. It refuses to know
//! how catalogs are asked, which the relay does, and how the answer is served.

mod service;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::names::CatalogName;
use crate::relay::Relay;
use crate::relay::check::ready::{Logins, NotReady};
use watches::Watches;

pub use service::{PeerOf, READINESS};
pub use watches::Peer;

/// The `health` section of the config.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often the catalogs are asked.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How long one may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Which of them must work.
    pub catalogs: Needed,
    /// Calls of Watch under way at once.
    pub max_watches: usize,
    /// How many of them one address may have; `None` stands for half of them.
    pub max_watches_per_address: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            catalogs: Needed::Some(Quantity::Any),
            max_watches: 100,
            max_watches_per_address: None,
        }
    }
}

/// Which catalogs must work.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "any, all, or a list of catalogs")]
pub enum Needed {
    /// Not named.
    Some(Quantity),
    /// These.
    Named(Vec<CatalogName>),
}

/// How many catalogs must work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// One of them.
    Any,
    /// All of them.
    All,
}

impl Config {
    /// Whether it can be used with these catalogs.
    ///
    /// # Errors
    /// With the key and what is wrong with it.
    pub fn check(&self, catalogs: &BTreeSet<CatalogName>) -> Result<(), (&'static str, String)> {
        if self.interval.is_zero() || self.timeout.is_zero() {
            let key = if self.interval.is_zero() { "interval" } else { "timeout" };
            return Err((key, "must be above 0".to_owned()));
        }
        if self.max_watches_per_address == Some(0) {
            return Err(("max_watches_per_address", "must be at least 1".to_owned()));
        }
        let Needed::Named(named) = &self.catalogs else { return Ok(()) };
        match named.iter().find(|name| !catalogs.contains(name)) {
            _ if named.is_empty() => Err(("catalogs", "names none; write any, all, or a list of catalogs".to_owned())),
            Some(unknown) => {
                let known: Vec<&str> = catalogs.iter().map(CatalogName::as_str).collect();
                Err(("catalogs", format!("`{unknown}` is not one of the catalogs: {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }
}

/// How the gateway stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Catalogs cannot be worked with, or were not asked yet.
    NotReady,
    Ready,
    /// No new calls are taken.
    Draining,
}

/// The health of a gateway. Cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    config: Config,
    /// How long a catalog that is out of reach counts as working.
    grace: Duration,
    standing: watch::Sender<Standing>,
    watches: Watches,
    peer_of: PeerOf,
    /// What is watched ends with it.
    stop: CancellationToken,
}

/// When each catalog has worked last.
type Worked = BTreeMap<CatalogName, Instant>;

impl Health {
    /// Not ready until catalogs were asked.
    #[must_use]
    pub fn new(config: Config, grace: Duration, peer_of: PeerOf, stop: CancellationToken) -> Self {
        let of_address = config.max_watches_per_address.unwrap_or((config.max_watches / 2).max(1));
        let watches = Watches::new(config.max_watches, of_address);
        let standing = watch::Sender::new(Standing::NotReady);
        Self(Arc::new(Inner { config, grace, standing, watches, peer_of, stop }))
    }

    /// Asks the catalogs again and again, until it is dropped.
    pub async fn keep_asking(&self, relay: &Relay, logins: Logins) {
        let Config { interval, timeout, .. } = self.0.config;
        let mut worked = Worked::new();
        let mut told = None;
        loop {
            let answers = relay.readiness(logins, timeout).await;
            let outcome = judged(&self.0.config.catalogs, self.0.grace, answers, &mut worked, Instant::now());
            self.stand(if outcome.is_ok() { Standing::Ready } else { Standing::NotReady });
            if told.as_ref() != Some(&outcome) {
                match &outcome {
                    Ok(()) => tracing::info!("ready: catalogs can be worked with"),
                    Err(reason) => tracing::warn!(reason, "not ready: {reason}"),
                }
                told = Some(outcome);
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// From here on it is not ready any more.
    pub fn drain(&self) {
        self.0.standing.send_replace(Standing::Draining);
    }

    fn stand(&self, standing: Standing) {
        self.0.standing.send_if_modified(|now| {
            let changes = *now != Standing::Draining && *now != standing;
            if changes {
                *now = standing;
            }
            changes
        });
    }
}

/// Whether the answers are enough; why not, otherwise.
fn judged(
    needed: &Needed,
    grace: Duration,
    answers: BTreeMap<CatalogName, Result<(), NotReady>>,
    worked: &mut Worked,
    now: Instant,
) -> Result<(), String> {
    if answers.is_empty() {
        return Err("no catalog is opened to anybody (roles)".to_owned());
    }
    let mut failed = BTreeMap::new();
    let asked: BTreeSet<CatalogName> = answers.keys().cloned().collect();
    for (catalog, answer) in answers {
        match answer {
            Ok(()) => {
                worked.insert(catalog, now);
            }
            // Tables that are known are read on.
            Err(why) if why.outage && worked.get(&catalog).is_some_and(|at| now.duration_since(*at) < grace) => {}
            Err(why) => {
                // A refusal ends what was known.
                worked.remove(&catalog);
                failed.insert(catalog, why.reason);
            }
        }
    }
    let enough = match needed {
        Needed::Some(Quantity::Any) => failed.len() < asked.len(),
        Needed::Some(Quantity::All) => failed.is_empty(),
        Needed::Named(names) => {
            failed.retain(|name, _| names.contains(name));
            let shut = names.iter().filter(|name| !asked.contains(*name));
            failed.extend(shut.map(|name| (name.clone(), format!("catalog \"{name}\" is opened to nobody (roles)"))));
            failed.is_empty()
        }
    };
    if enough { Ok(()) } else { Err(failed.into_values().collect::<Vec<_>>().join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn answers(of: &[(&str, Option<bool>)]) -> BTreeMap<CatalogName, Result<(), NotReady>> {
        let not = |name: &str, outage| NotReady { reason: format!("{name} fails"), outage };
        of.iter()
            .map(|(name, outage)| (CatalogName::from(*name), outage.map_or(Ok(()), |outage| Err(not(name, outage)))))
            .collect()
    }

    #[test]
    fn any_all_or_named_catalogs_must_work() {
        let judge =
            |needed: &Needed, of: &[(&str, Option<bool>)]| judged(needed, GRACE, answers(of), &mut Worked::new(), Instant::now());
        let (any, all) = (Needed::Some(Quantity::Any), Needed::Some(Quantity::All));
        let half = [("a", None), ("b", Some(false))];
        assert_eq!(judge(&any, &half), Ok(()));
        assert_eq!(judge(&all, &half), Err("b fails".to_owned()));
        assert_eq!(judge(&Needed::Named(vec!["a".into()]), &half), Ok(()));
        assert_eq!(judge(&Needed::Named(vec!["b".into()]), &half), Err("b fails".to_owned()));
        assert_eq!(judge(&any, &[("a", Some(true)), ("b", Some(false))]), Err("a fails; b fails".to_owned()));
        // Nobody can come to it, so it was not asked.
        let shut = judge(&Needed::Named(vec!["a".into(), "c".into()]), &half);
        assert_eq!(shut, Err("catalog \"c\" is opened to nobody (roles)".to_owned()));
    }

    #[test]
    fn an_outage_counts_when_the_grace_is_over_and_a_refusal_at_once() {
        let any = Needed::Some(Quantity::Any);
        let mut worked = Worked::new();
        let began = Instant::now();
        let mut at = |seconds, outage| {
            judged(&any, GRACE, answers(&[("a", outage)]), &mut worked, began + Duration::from_secs(seconds)).is_ok()
        };
        assert!(!at(0, Some(true)), "it has never worked");
        assert!(at(1, None) && at(60, Some(true)) && !at(61, Some(true)));
        assert!(at(70, None) && !at(71, Some(false)) && !at(72, Some(true)));
        assert!(at(73, None));
    }

    #[test]
    fn what_must_work_is_read_and_checked() {
        let needed = |text: &str| serde_json::from_str::<Needed>(text).map_err(|error| error.to_string());
        assert_eq!(needed("\"any\""), Ok(Needed::Some(Quantity::Any)));
        assert_eq!(needed("\"all\""), Ok(Needed::Some(Quantity::All)));
        assert!(needed("\"some\"").unwrap_err().contains("any, all, or a list"));
        let named = needed("[\"a\"]").unwrap();
        let check = |catalogs: Needed| Config { catalogs, ..Config::default() }.check(&BTreeSet::from(["b".into()]));
        assert!(check(named).unwrap_err().1.contains("`a` is not one of the catalogs: b"));
        assert!(check(Needed::Named(Vec::new())).is_err());
        assert!(check(Needed::Named(vec!["b".into()])).is_ok());
        let none = Config { max_watches_per_address: Some(0), ..Config::default() };
        assert_eq!(none.check(&BTreeSet::new()).unwrap_err().0, "max_watches_per_address");
    }

    #[tokio::test]
    async fn what_drains_is_never_ready_again() {
        let health = Health::new(Config::default(), GRACE, |_| None, CancellationToken::new());
        health.stand(Standing::Ready);
        assert_eq!(*health.0.standing.borrow(), Standing::Ready);
        health.drain();
        health.stand(Standing::Ready);
        assert_eq!(*health.0.standing.borrow(), Standing::Draining);
    }
}
