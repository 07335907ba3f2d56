//! Owns the tables that the relay remembers: what of them is asked for and how a load reads it. How long they are good for, and what a
//! commit makes of them, is in `remembered`, which listings share. Refuses to know catalogs' protocols.
//!
//! A statement asks once: its tables are loaded ahead as old as they may be, and what is asked on its behalf afterwards, by its worker
//! above all, takes what is there. Entries are only ever replaced by newer ones, so that is never older than what the statement was
//! promised, however short `max_staleness` is.

pub(super) mod remembered;

use std::sync::Arc;
use std::sync::atomic::Ordering;
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
    made: Instant,
    /// An entry's mark is when the last statement began that it was loaded ahead of, in microseconds since `made`; 0 for none.
    tables: Arc<Remembered<TableRef, Table>>,
    max_staleness: Duration,
}

impl TableCache {
    pub(super) fn new(config: &Config) -> Self {
        Self { made: Instant::now(), tables: Remembered::new(config.cache_bytes, config), max_staleness: config.max_staleness }
    }

    /// The table as new as the step asks for, or at most `stale_grace` old while its catalog is out of reach.
    pub(super) async fn get(
        &self,
        wanted: Wanted<'_>,
        upstream: &Arc<dyn Upstream>,
        confinement: &Arc<Confinement>,
    ) -> Outcome<Table> {
        let key = wanted.key();
        if let Some(entry) = self.tables.known(&key).filter(|entry| self.is_of_the_statement(entry, wanted.step)) {
            return entry.outcome;
        }
        let terms = Terms { fresh_for: self.max_staleness, strict: wanted.strict, is_long: false, turns: None };
        let (of, upstream_of, confinement) = (key.clone(), Arc::clone(upstream), Arc::clone(confinement));
        let load = move |known| async move { fetch(&of, known, &*upstream_of, confinement).await }.boxed();
        self.tables.get(key, terms, upstream.health(), load).await
    }

    /// What is known of a table for this purpose, however old, without asking anybody.
    pub(super) fn known(&self, viewer: &CredentialId, table: &TableRef, purpose: Purpose) -> Option<Entry<Table>> {
        self.tables.known(&Key { viewer: viewer.clone(), purpose, of: table.clone() })
    }

    /// Notes that a statement which began then has this table loaded ahead.
    pub(super) fn is_ahead_of(&self, begun: Instant, viewer: &CredentialId, table: &TableRef, purpose: Purpose) {
        if let Some(entry) = self.known(viewer, table, purpose) {
            entry.mark.fetch_max(self.micros(begun), Ordering::AcqRel);
        }
    }

    /// Whether it was asked for since the statement began, or loaded ahead of it, so that its age does not matter.
    fn is_of_the_statement(&self, entry: &Entry<Table>, step: Step) -> bool {
        let began = match step {
            Step::Begun(began) => return entry.as_of >= began,
            Step::Ahead => entry.mark.load(Ordering::Acquire),
        };
        let is_ahead = began > 0 && self.micros(Instant::now()).saturating_sub(began) < micros(AHEAD_FOR);
        is_ahead && entry.outcome.is_ok()
    }

    fn micros(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.made)).max(1)
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

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
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
