//! Object stores: workers reach their files through the relay's door, and the relay alone holds what the stores ask for.
//!
//! This file owns which access fits a file of one catalog as one credential sees it: configured, or vended with its table, renewed
//! ahead of its expiry and when a store has refused it. Refuses to speak to stores; [`door`] and [`store`] do.

mod access;
pub mod config;
pub(super) mod door;
pub mod sign;
mod store;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub(super) use self::access::{Access, Handed};
use self::access::{FixedError, address, fixed};
use self::config::StoreConfig;
pub(super) use self::store::Store;
use super::confine::normal;
use super::error::{CatalogError, RelayError};
use super::upstream::{Answer, Upstream};
use crate::names::{CatalogName, TableRef};

/// Tables whose access is remembered, and how long without a use.
const MAX_TABLES: u64 = 20_000;
const IDLE: Duration = Duration::from_secs(3600);

/// After a refusal keys are asked for anew at most so often: a right that is missing looks like keys that are over.
const FORCED_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// A part of a catalog's files for which the config says something.
struct Section {
    /// Normal spelling; empty for all.
    prefix: String,
    config: StoreConfig,
    /// With keys of its own. Read again from its file or variable after a refusal.
    fixed: Mutex<Option<Arc<Access>>>,
}

/// What is known of one table's files.
struct Known {
    table: TableRef,
    /// Guards only this value.
    hands: Mutex<Hands>,
    /// Held while it is renewed, so that others wait for that.
    renewing: tokio::sync::Mutex<()>,
}

/// What a table's catalog has handed out.
#[derive(Default)]
struct Hands {
    handed: Option<Arc<Handed>>,
    /// When it was last asked for because of a refusal.
    forced: Option<Instant>,
}

/// The files of one catalog as one credential has them.
pub(super) struct Storage {
    catalog: CatalogName,
    sections: Vec<Section>,
    endpoints: Option<HashSet<String>>,
    /// By place, in normal spelling.
    places: moka::sync::Cache<String, Arc<Known>>,
    upstream: Arc<dyn Upstream>,
}

impl Storage {
    /// Reads configured keys; asks nobody.
    ///
    /// # Errors
    /// When a section of the config cannot be used.
    pub(super) fn new(
        upstream: Arc<dyn Upstream>,
        sections: &[StoreConfig],
        endpoints: Option<&[String]>,
    ) -> Result<Self, RelayError> {
        let catalog = upstream.name().clone();
        let wrong = |reason: String| RelayError::Config { catalog: catalog.clone(), reason: format!("storage: {reason}") };
        let section = |config: &StoreConfig| {
            let prefix = config.location.as_ref().map_or(Some(String::new()), |location| normal(location));
            let prefix = prefix.ok_or_else(|| wrong("location is none such as s3://bucket/path/".to_owned()))?;
            if let Some(endpoint) = config.endpoint.as_ref().filter(|endpoint| address(endpoint).is_none()) {
                return Err(wrong(format!("endpoint \"{endpoint}\" is no address such as https://s3.example.com")));
            }
            let fixed = fixed(config).map_err(|error| match error {
                FixedError::Wrong(reason) => wrong(reason),
                FixedError::Secret(source) => RelayError::Secret { catalog: catalog.clone(), source },
            })?;
            Ok(Section { prefix, config: config.clone(), fixed: Mutex::new(fixed.map(Arc::new)) })
        };
        let sections = sections.iter().map(section).collect::<Result<_, _>>()?;
        let host_of = |text: &String| {
            let endpoint = address(text).ok_or_else(|| wrong(format!("allowed_endpoints: \"{text}\" is no address")))?;
            Ok(origin(&endpoint))
        };
        let endpoints = endpoints.map(|all| all.iter().map(host_of).collect::<Result<_, RelayError>>()).transpose()?;
        let places = moka::sync::Cache::builder().max_capacity(MAX_TABLES).time_to_idle(IDLE).build();
        Ok(Self { catalog, sections, endpoints, places, upstream })
    }

    /// Of a catalog whose files lie on this machine.
    pub(super) fn local(upstream: Arc<dyn Upstream>) -> Self {
        let catalog = upstream.name().clone();
        let places = moka::sync::Cache::builder().max_capacity(0).build();
        Self { catalog, sections: Vec::new(), endpoints: None, places, upstream }
    }

    /// Takes note of where a table's files lie, and of what was handed out with it.
    pub(super) fn note(&self, table: &TableRef, places: &[String], handed: Option<Handed>) {
        let places: Vec<String> =
            places.iter().map(String::as_str).chain(handed.iter().flat_map(Handed::prefixes)).filter_map(normal).collect();
        let known = places.iter().filter_map(|place| self.places.get(place)).find(|known| known.table == *table);
        let known = known.unwrap_or_else(|| {
            Arc::new(Known { table: table.clone(), hands: Mutex::default(), renewing: tokio::sync::Mutex::default() })
        });
        if let Some(handed) = handed {
            known.hands().handed = Some(Arc::new(handed));
        }
        for place in places {
            if !self.places.get(&place).is_some_and(|there| Arc::ptr_eq(&there, &known)) {
                self.places.insert(place, Arc::clone(&known));
            }
        }
    }

    /// How many characters of a location are known here; `None` when nothing is known of it. Of two catalogs that both allow a
    /// location, the one that knows more of it has the file.
    pub(super) fn knows(&self, location: &str) -> Option<usize> {
        let location = normal(location)?;
        let section = self.sections.iter().filter(|section| fits(&section.prefix, &location)).map(|section| section.prefix.len());
        section.chain(self.known(&location).map(|(length, _)| length)).max()
    }

    /// What reaches a file. `refused` is what a store did not take: it is not given again if another can be had.
    ///
    /// # Errors
    /// When nothing is known of the file, the catalog hands out no keys for it, or cannot be asked.
    pub(super) async fn access(&self, location: &str, refused: Option<&Access>) -> Result<Arc<Access>, CatalogError> {
        let location = normal(location).ok_or_else(|| self.nothing("it is no location"))?;
        let sections = self.sections.iter().filter(|section| fits(&section.prefix, &location));
        let section = sections.max_by_key(|section| section.prefix.len());
        if let Some(access) = section.and_then(|section| section.access(refused, &self.catalog)) {
            return Ok(access);
        }
        let (_, known) = self.known(&location).ok_or_else(|| self.nothing("it belongs to no table that was loaded"))?;
        let config = section.map(|section| &section.config);
        if let Some(access) = self.usable(&known, &location, config, refused)? {
            return Ok(access);
        }
        let _turn = known.renewing.lock().await;
        if let Some(access) = self.usable(&known, &location, config, refused)? {
            return Ok(access);
        }
        let before = self.handed_access(&known, &location, config)?;
        if refused.is_some() {
            known.hands().forced = Some(Instant::now());
        }
        match self.renew(&known).await {
            Ok(()) => {}
            // Due is not over: a catalog that is away for a moment does not stop what still works.
            Err(error) => match before {
                Some(access) if refused.is_none() && !access.is_over(SystemTime::now()) => {
                    tracing::warn!(table = %known.table, %error, "access to a table's files cannot be renewed yet");
                    return Ok(access);
                }
                _ => return Err(error),
            },
        }
        self.handed_access(&known, &location, config)?
            .ok_or_else(|| self.nothing("the catalog hands out no keys for it, and none are configured (catalogs.*.storage)"))
    }

    /// What was handed out, if it is good for some time, and not what was refused.
    fn usable(
        &self,
        known: &Known,
        location: &str,
        config: Option<&StoreConfig>,
        refused: Option<&Access>,
    ) -> Result<Option<Arc<Access>>, CatalogError> {
        let now = SystemTime::now();
        let is_good = |access: &Arc<Access>| match refused {
            _ if access.is_over(now) => false,
            Some(refused) if access.shows_the_same(refused) => {
                known.hands().forced.is_some_and(|forced| forced.elapsed() < FORCED_AT_MOST_EVERY)
            }
            Some(_) => true,
            None => !access.is_due(now),
        };
        Ok(self.handed_access(known, location, config)?.filter(is_good))
    }

    fn handed_access(
        &self,
        known: &Known,
        location: &str,
        config: Option<&StoreConfig>,
    ) -> Result<Option<Arc<Access>>, CatalogError> {
        let Some(handed) = known.hands().handed.clone() else { return Ok(None) };
        let Some(access) = handed.access(location, config) else { return Ok(None) };
        let bad = |reason| CatalogError::BadAnswer { catalog: self.catalog.clone(), reason };
        let access = access.map_err(bad)?;
        let is_configured = config.is_some_and(|config| config.endpoint.is_some());
        if !is_configured && self.endpoints.as_ref().is_some_and(|allowed| !allowed.contains(&origin(&access.endpoint))) {
            let reason = format!("it names the store {}, which is not among its allowed_endpoints", origin(&access.endpoint));
            return Err(bad(reason));
        }
        Ok(Some(Arc::new(access)))
    }

    /// Asks the catalog for the table's access anew.
    async fn renew(&self, known: &Known) -> Result<(), CatalogError> {
        let Answer::Fresh { body, .. } = self.upstream.load_table(&known.table, None).await? else {
            let reason = "it says that nothing has changed without having been asked".to_owned();
            return Err(CatalogError::BadAnswer { catalog: self.catalog.clone(), reason });
        };
        known.hands().handed = Handed::in_answer(&body).map(Arc::new);
        tracing::debug!(table = %known.table, "access to a table's files was renewed");
        Ok(())
    }

    /// The table whose place is the longest that holds the location.
    fn known(&self, location: &str) -> Option<(usize, Arc<Known>)> {
        let mut place = location;
        loop {
            if let Some(known) = self.places.get(place) {
                return Some((place.len(), known));
            }
            let (above, _) = place.rsplit_once('/')?;
            if above.ends_with('/') {
                return None;
            }
            place = above;
        }
    }

    fn nothing(&self, reason: &str) -> CatalogError {
        CatalogError::Forbidden { catalog: self.catalog.clone(), reason: format!("no access to the file: {reason}") }
    }
}

impl Section {
    /// Its own keys, if it has any.
    fn access(&self, refused: Option<&Access>, catalog: &CatalogName) -> Option<Arc<Access>> {
        let mut current = self.fixed.lock().unwrap_or_else(PoisonError::into_inner);
        let access = current.clone()?;
        if refused.is_some_and(|refused| refused.shows_the_same(&access)) {
            match fixed(&self.config) {
                Ok(Some(again)) => *current = Some(Arc::new(again)),
                Ok(None) => {}
                Err(error) => tracing::warn!(%catalog, %error, "configured keys of a store cannot be read again"),
            }
        }
        current.clone()
    }
}

impl Known {
    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fits(prefix: &str, location: &str) -> bool {
    prefix.is_empty() || location.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

fn origin(endpoint: &url::Url) -> String {
    endpoint.origin().ascii_serialization()
}
