//! Object stores: workers reach their files through the relay's door, and the relay alone holds what the stores ask for.
//!
//! This file owns which access fits a file of one catalog as one credential sees it: configured, or vended with its table, renewed
//! ahead of its expiry and when a store has refused it. Refuses to speak to stores; [`door`] and [`store`] do.

mod access;
mod ahead;
pub mod config;
pub(super) mod door;
mod ends;
mod manifests;
pub(super) mod sample;
pub mod sign;
mod store;
mod stores;
pub(super) mod turns;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub(super) use self::access::{Access, Handed};
pub(super) use self::ahead::Ahead;
#[cfg(test)]
pub(super) use self::ahead::tests::manifest_list;
pub(super) use self::manifests::PARSING;
pub(super) use self::store::Store;
use self::stores::Section;
pub(super) use self::stores::Stores;
use super::confine::normal;
use super::error::CatalogError;
use super::upstream::{Answer, Purpose, Upstream};
use crate::names::TableRef;

/// Tables whose access is remembered, and how long without a use.
pub(super) const MAX_TABLES: u64 = 20_000;
const IDLE: Duration = Duration::from_secs(3600);

/// After a refusal keys are asked for anew at most so often: a right that is missing looks like keys that are over.
const FORCED_AT_MOST_EVERY: Duration = Duration::from_secs(1);

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
    stores: Arc<Stores>,
    /// By place, in normal spelling.
    places: moka::sync::Cache<String, Arc<Known>>,
    upstream: Arc<dyn Upstream>,
}

impl Storage {
    /// Asks nobody.
    pub(super) fn new(upstream: Arc<dyn Upstream>, stores: Arc<Stores>) -> Self {
        // The longest unused goes, and never the one that was just noted, whose files are about to be read.
        let lru = moka::policy::EvictionPolicy::lru();
        let places = moka::sync::Cache::builder().max_capacity(MAX_TABLES).eviction_policy(lru).time_to_idle(IDLE).build();
        Self { stores, places, upstream }
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

    /// Forgets keys that are worth nothing any more: of tables that are read on they are had anew, and others are gone.
    pub(super) fn sweep(&self, now: SystemTime) {
        for (_, known) in &self.places {
            let mut hands = known.hands();
            if hands.handed.as_ref().is_some_and(|handed| handed.is_over(now)) {
                hands.handed = None;
            }
        }
    }

    /// Of how many places there are keys.
    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.places.iter().filter(|(_, known)| known.hands().handed.is_some()).count()
    }

    /// How many characters of a location are known here; `None` when nothing is known of it. Of two catalogs that both allow a
    /// location, the one that knows more of it has the file.
    pub(super) fn knows(&self, location: &str) -> Option<usize> {
        let location = normal(location)?;
        let section = self.stores.section(&location).map(|(length, _)| length);
        section.max(self.known(&location).map(|(length, _)| length))
    }

    /// Whether the config has keys for a file, which are shown whatever the catalog hands out.
    pub(super) fn has_own_keys(&self, location: &str) -> bool {
        let section = normal(location).and_then(|location| Some(self.stores.section(&location)?.1));
        section.is_some_and(|section| section.access(None, self.upstream.name()).is_some())
    }

    /// What reaches a file. `refused` is what a store did not take: it is not given again if another can be had.
    ///
    /// # Errors
    /// When nothing is known of the file, the catalog hands out no keys for it, or cannot be asked.
    pub(super) async fn access(&self, location: &str, refused: Option<&Access>) -> Result<Arc<Access>, CatalogError> {
        let location = normal(location).ok_or_else(|| self.nothing("it is no location"))?;
        let section = self.stores.section(&location).map(|(_, section)| section);
        if let Some(access) = section.and_then(|section| section.access(refused, self.upstream.name())) {
            return Ok(access);
        }
        let (_, known) = self.known(&location).ok_or_else(|| self.nothing("it belongs to no table that was loaded"))?;
        if let Some(access) = self.usable(&known, &location, section, refused)? {
            return Ok(access);
        }
        let _turn = known.renewing.lock().await;
        if let Some(access) = self.usable(&known, &location, section, refused)? {
            return Ok(access);
        }
        let before = self.handed_access(&known, &location, section)?;
        let renewed = self.renew(&known).await;
        // Behind it: who is refused meanwhile waits for the new ones, and does not take it that there are none.
        if refused.is_some() {
            known.hands().forced = Some(Instant::now());
        }
        match renewed {
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
        self.handed_access(&known, &location, section)?
            .ok_or_else(|| self.nothing("the catalog hands out no keys for it, and none are configured (catalogs.*.storage)"))
    }

    /// What was handed out, if it is good for some time, and not what was refused.
    fn usable(
        &self,
        known: &Known,
        location: &str,
        section: Option<&Section>,
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
        Ok(self.handed_access(known, location, section)?.filter(is_good))
    }

    fn handed_access(
        &self,
        known: &Known,
        location: &str,
        section: Option<&Section>,
    ) -> Result<Option<Arc<Access>>, CatalogError> {
        let Some(handed) = known.hands().handed.clone() else { return Ok(None) };
        let config = section.map(|section| &section.config);
        let Some(access) = handed.access(location, config) else { return Ok(None) };
        let bad = |reason| CatalogError::BadAnswer { catalog: self.upstream.name().clone(), reason };
        let access = access.map_err(bad)?;
        if config.is_none_or(|config| config.endpoint.is_none()) {
            self.stores.allow(&access.endpoint).map_err(bad)?;
        }
        Ok(Some(Arc::new(Access { client: section.and_then(|section| section.client.clone()), ..access })))
    }

    /// Asks the catalog for the table's access anew.
    async fn renew(&self, known: &Known) -> Result<(), CatalogError> {
        let Answer::Fresh { body, .. } = self.upstream.load_table(&known.table, None, Purpose::Data).await? else {
            let reason = "it says that nothing has changed without having been asked".to_owned();
            return Err(CatalogError::BadAnswer { catalog: self.upstream.name().clone(), reason });
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
        CatalogError::Forbidden { catalog: self.upstream.name().clone(), reason: format!("no access to the file: {reason}") }
    }
}

impl Known {
    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
