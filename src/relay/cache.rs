//! Owns the tables that the relay remembers: what of them is asked for and how a load reads it. How long they are good for, and what a
//! commit makes of them, is in `remembered`, which listings share. Refuses to know catalogs' protocols.
//!
//! A statement asks once: its tables are loaded ahead as new as it needs them, and what is asked on its behalf afterwards, by its worker
//! above all, takes what is there. Entries are only ever replaced by newer ones, so that is never older than what the statement was
//! promised, however short `max_staleness` is.

pub(super) mod remembered;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;

use self::remembered::{Entry, Key, Outcome, Remembered, Terms, Value};
use super::config::Config;
use super::confine::Confinement;
use super::error::CatalogError;
use super::table::Table;
use super::upstream::{Answer, Purpose, Upstream};
use crate::names::{CredentialId, TableRef};

/// How long after a table was loaded ahead of a statement what is asked on its behalf takes it as it is.
const AHEAD_FOR: Duration = Duration::from_secs(10);

/// Of so many tables it is known that they were loaded ahead; of others their catalog is asked once more.
const MANY_AHEAD: u64 = 100_000;

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) viewer: &'a CredentialId,
    pub(super) table: &'a TableRef,
    pub(super) purpose: Purpose,
    pub(super) step: Step,
    /// Never an old table in the place of a catalog out of reach.
    pub(super) strict: bool,
}

/// Where the statement stands that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It began then: what was asked for since is new enough, or what is at most `max_staleness` old.
    Begun(Instant),
    /// All its tables were loaded ahead.
    Ahead,
}

impl Step {
    /// It begins now.
    pub(super) fn begins() -> Self {
        Self::Begun(Instant::now())
    }
}

impl Wanted<'_> {
    fn key(self) -> Key<TableRef> {
        Key { viewer: self.viewer.clone(), purpose: self.purpose, of: self.table.clone() }
    }
}

impl Value for Table {
    fn weight(&self) -> usize {
        Table::weight(self)
    }
}

/// The cache.
pub(super) struct TableCache {
    tables: Arc<Remembered<TableRef, Table>>,
    /// What was loaded ahead of a statement a short while ago.
    ahead: moka::sync::Cache<Key<TableRef>, ()>,
    max_staleness: Duration,
}

impl TableCache {
    pub(super) fn new(config: &Config) -> Self {
        let ahead = moka::sync::Cache::builder().max_capacity(MANY_AHEAD).time_to_live(AHEAD_FOR).build();
        Self { tables: Remembered::new(config.cache_bytes, config), ahead, max_staleness: config.max_staleness }
    }

    /// The table as new as the step asks for, or at most `stale_grace` old while its catalog is out of reach.
    pub(super) async fn get(
        &self,
        wanted: Wanted<'_>,
        upstream: &Arc<dyn Upstream>,
        confinement: &Arc<Confinement>,
    ) -> Outcome<Table> {
        let key = wanted.key();
        let since = match wanted.step {
            Step::Begun(begun) => Some(begun),
            Step::Ahead if self.ahead.contains_key(&key) => match self.tables.known(&key).and_then(|entry| entry.outcome.ok()) {
                Some(table) => return Ok(table),
                None => None,
            },
            Step::Ahead => None,
        };
        let terms = Terms { fresh_for: self.max_staleness, since, strict: wanted.strict, is_long: false, turns: None };
        let (of, upstream_of, confinement) = (key.clone(), Arc::clone(upstream), Arc::clone(confinement));
        let load = move |known| async move { fetch(&of, known, &*upstream_of, confinement).await }.boxed();
        self.tables.get(key, terms, upstream.health(), load).await
    }

    /// Notes that a statement has this table loaded ahead.
    pub(super) fn is_ahead(&self, viewer: &CredentialId, table: &TableRef, purpose: Purpose) {
        self.ahead.insert(Key { viewer: viewer.clone(), purpose, of: table.clone() }, ());
    }

    /// What is known of a table for this purpose, however old, without asking anybody.
    pub(super) fn known(&self, viewer: &CredentialId, table: &TableRef, purpose: Purpose) -> Option<Entry<Table>> {
        self.tables.known(&Key { viewer: viewer.clone(), purpose, of: table.clone() })
    }

    /// What is known of the table for any purpose.
    pub(super) fn peek(&self, viewer: &CredentialId, table: &TableRef) -> Option<Arc<Table>> {
        let purposes = [Purpose::Data, Purpose::Columns];
        purposes.into_iter().find_map(|purpose| self.known(viewer, table, purpose)?.outcome.ok())
    }

    /// How many bytes the remembered tables take, once the cache has done its housekeeping.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.tables.bytes()
    }

    /// Forgets a table for everybody, and keeps loads that are under way from being remembered.
    pub(super) fn forget(&self, table: &TableRef) {
        self.tables.forget(table);
    }
}

async fn fetch(
    of: &Key<TableRef>,
    known: Option<Arc<Table>>,
    upstream: &dyn Upstream,
    confinement: Arc<Confinement>,
) -> Outcome<Table> {
    let table = &of.of;
    let etag = known.as_ref().and_then(|known| known.etag.clone());
    match (upstream.load_table(table, etag.as_deref(), of.purpose).await?, known) {
        (Answer::Fresh { body, etag }, _) => Ok(Arc::new(Table::read(table.clone(), body, etag, confinement).await?)),
        (Answer::NotModified, Some(known)) => Ok(known),
        (Answer::NotModified, None) => Err(CatalogError::BadAnswer {
            catalog: table.catalog.clone(),
            reason: format!("it says that table \"{table}\" has not changed, although nothing was known of it"),
        }),
    }
}
