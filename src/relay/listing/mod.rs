//! Owns what the relay lists of catalogs: namespaces, names of tables, and columns of many tables at once. All of it is remembered per
//! credential, by the rules of `cache::remembered`, and own changes make it void at once. Refuses to read tables: statements have those
//! that they read from the table cache, however old a listing is.
//!
//! Names are as old as tables may be, `max_staleness`. Columns of a few tables are, too; those of many may be `listing_staleness` old, as
//! to ask about each of thousands takes seconds. What a read has heard of a table since then counts.

mod ceiling;
mod columns;
mod voids;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::Semaphore;

pub use self::ceiling::Ceiling;
use self::columns::Listed;
use self::walk::Walk;
use super::Relay;
use super::cache::remembered::{Key, Remembered, Terms, Value};
use super::config::Config;
use super::error::CatalogError;
use super::upstream::Purpose;
use super::views::View;
use crate::auth::credential::Credential;
use crate::lake::Column;
use crate::names::{CatalogName, Namespace, TableRef};

/// One list of a catalog, shared with those who read it.
struct Names<T>(Arc<[T]>);

impl Value for Names<Namespace> {
    fn weight(&self) -> usize {
        self.0.iter().map(|namespace| 24 + namespace.levels().iter().map(|level| 24 + level.len()).sum::<usize>()).sum()
    }
}

impl Value for Names<String> {
    fn weight(&self) -> usize {
        self.0.iter().map(|name| 24 + name.len()).sum()
    }
}

impl<T> Names<T> {
    fn of(names: BTreeSet<T>) -> Arc<Self> {
        Arc::new(Self(names.into_iter().collect()))
    }
}

/// Which names a listing wants; `None` for all.
pub type Fits<'a, T> = Option<&'a (dyn Fn(&T) -> bool + Sync)>;

/// What a listing wants of a whole list, shared with others if that is all of it; `None` when it is to be looked for name by name, as the
/// whole list is more than whoever began to ask for it may hold.
fn part_of<T: Clone>(
    all: Result<Arc<Names<T>>, CatalogError>,
    catalog: &CatalogName,
    ceiling: &Ceiling,
    fits: Fits<'_, T>,
) -> Result<Option<Arc<[T]>>, CatalogError> {
    let all = match all {
        Err(CatalogError::TooManyNames { .. }) if fits.is_none() && ceiling.was_passed() => {
            return Err(ceiling.too_many(catalog));
        }
        Err(CatalogError::TooManyNames { .. }) => return Ok(None),
        all => all?,
    };
    let fitting = fits.map_or(all.0.len(), |fits| all.0.iter().filter(|name| fits(name)).count());
    ceiling.keep(catalog, fitting)?;
    let is_all = fitting == all.0.len();
    let part = || all.0.iter().filter(|name| fits.is_none_or(|fits| fits(name))).cloned().collect();
    Ok(Some(if is_all { Arc::clone(&all.0) } else { part() }))
}

/// A namespace with its catalog: what a list of tables is about.
type Place = (CatalogName, Namespace);

/// How many tables a listing has of which the columns are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So few that each can be asked about: their columns are as old as tables may be.
    Few,
    /// Their columns may be `listing_staleness` old.
    Many,
}

/// What is remembered of lists.
pub(super) struct Listings {
    namespaces: Arc<Remembered<CatalogName, Names<Namespace>>>,
    tables: Arc<Remembered<Place, Names<String>>>,
    columns: Arc<Remembered<TableRef, Listed>>,
    /// Calls for listings at one catalog: half of its reads, so that statements always find a turn.
    turns: BTreeMap<CatalogName, Arc<Semaphore>>,
    max_staleness: Duration,
    listing_staleness: Duration,
    page_size: usize,
}

impl Listings {
    pub(super) fn new(config: &Config, catalogs: Vec<CatalogName>) -> Self {
        let at_once = (config.max_reads_per_catalog / 2).max(1);
        // Columns take the most by far.
        let of_names = config.listing_cache_bytes / 8;
        Self {
            namespaces: Remembered::new(of_names, config),
            tables: Remembered::new(of_names, config),
            columns: Remembered::new(config.listing_cache_bytes - 2 * of_names, config),
            turns: catalogs.into_iter().map(|catalog| (catalog, Arc::new(Semaphore::new(at_once)))).collect(),
            max_staleness: config.max_staleness,
            listing_staleness: config.listing_staleness,
            page_size: config.list_page_size,
        }
    }

    /// The way to ask a catalog as a view sees it.
    fn walk(&self, view: &View, catalog: &CatalogName) -> Result<Walk, CatalogError> {
        Ok(Walk::new(Arc::clone(&view.upstream), Arc::clone(self.turns(catalog)?), self.page_size))
    }

    fn turns(&self, catalog: &CatalogName) -> Result<&Arc<Semaphore>, CatalogError> {
        self.turns.get(catalog).ok_or_else(|| CatalogError::NoSuchCatalog(catalog.clone()))
    }

    /// The walk takes a turn for each of its calls.
    fn names(&self) -> Terms<'static> {
        Terms { fresh_for: self.max_staleness, since: None, strict: false, is_long: true, turns: None }
    }

    fn fresh_for(&self, extent: Extent) -> Duration {
        match extent {
            Extent::Few => self.max_staleness,
            Extent::Many => self.listing_staleness.max(self.max_staleness),
        }
    }
}

fn key<S>(view: &View, of: S) -> Key<S> {
    Key { viewer: view.viewer.clone(), purpose: Purpose::Columns, of }
}

impl Relay {
    /// The namespaces of a catalog that the credential may see and that fit, of every level, parents before their children.
    ///
    /// # Errors
    /// When the catalog is not there or does not answer, or there are more than the listing may have.
    pub async fn namespaces(
        &self,
        credential: &Credential,
        catalog: &CatalogName,
        ceiling: &Ceiling,
        fits: Fits<'_, Namespace>,
    ) -> Result<Arc<[Namespace]>, CatalogError> {
        let view = self.view(credential, catalog)?;
        let walk = self.listings.walk(&view, catalog)?;
        let coming = ceiling.coming();
        let load = move |_| async move { walk::all_namespaces(&walk, coming).await.map(Names::of) }.boxed();
        let listed = &self.listings;
        let all = listed.namespaces.get(key(&view, catalog.clone()), listed.names(), view.upstream.health(), load).await;
        if let Some(part) = part_of(all, catalog, ceiling, fits)? {
            return Ok(part);
        }
        let mut found = BTreeSet::new();
        let see = |namespace: &Namespace| {
            if fits.is_none_or(|fits| fits(namespace)) {
                return found.insert(namespace.clone()).then(|| ceiling.keep(catalog, 1)).transpose().map(|new| new.is_some());
            }
            Ok(true)
        };
        self.listings.walk(&view, catalog)?.namespaces(see).await?;
        Ok(found.into_iter().collect())
    }

    /// The names of a namespace's tables that fit, in order.
    ///
    /// # Errors
    /// When the catalog or the namespace is not there, or does not answer, or there are more than the listing may have.
    pub async fn tables(
        &self,
        credential: &Credential,
        catalog: &CatalogName,
        namespace: &Namespace,
        ceiling: &Ceiling,
        fits: Fits<'_, String>,
    ) -> Result<Arc<[String]>, CatalogError> {
        let view = self.view(credential, catalog)?;
        let walk = self.listings.walk(&view, catalog)?;
        let of = (catalog.clone(), namespace.clone());
        let (place, coming) = (namespace.clone(), ceiling.coming());
        let load = move |_| async move { walk::all_tables(&walk, &place, coming).await.map(Names::of) }.boxed();
        let listed = &self.listings;
        let all = listed.tables.get(key(&view, of), listed.names(), view.upstream.health(), load).await;
        if let Some(part) = part_of(all, catalog, ceiling, fits)? {
            return Ok(part);
        }
        let mut found = BTreeSet::new();
        let see = |name: String| {
            let is_new = fits.is_none_or(|fits| fits(&name)) && found.insert(name);
            if is_new { ceiling.keep(catalog, 1) } else { Ok(()) }
        };
        self.listings.walk(&view, catalog)?.tables(namespace, see).await?;
        Ok(found.into_iter().collect())
    }

    /// Whether the namespace is there.
    ///
    /// # Errors
    /// When the catalog is not there or does not answer.
    pub async fn namespace_exists(
        &self,
        credential: &Credential,
        catalog: &CatalogName,
        namespace: &Namespace,
    ) -> Result<bool, CatalogError> {
        match self.view(credential, catalog)?.upstream.load_namespace(namespace).await {
            // Its properties are not for the credential to see; tables in it may be.
            Ok(_) | Err(CatalogError::Forbidden { .. }) => Ok(true),
            Err(CatalogError::NoSuchNamespace { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The columns of a table for a listing: the right to see them is enough.
    ///
    /// # Errors
    /// When the table is not there, must not be seen, or cannot be read.
    pub async fn listed_columns(
        &self,
        credential: &Credential,
        table: &TableRef,
        extent: Extent,
    ) -> Result<Arc<[Column]>, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        if let Some(known) = self.fresh_columns(&view, table, extent) {
            return known;
        }
        let listed = &self.listings;
        let turns = listed.turns(&table.catalog)?;
        let terms = Terms { fresh_for: listed.fresh_for(extent), since: None, strict: false, is_long: false, turns: Some(turns) };
        let (of, upstream) = (table.clone(), Arc::clone(&view.upstream));
        let load = move |known| async move { columns::load(&*upstream, &of, known).await }.boxed();
        let found = listed.columns.get(key(&view, table.clone()), terms, view.upstream.health(), load).await?;
        found.columns(&table.catalog)
    }

    /// The same if nobody has to be asked.
    #[must_use]
    pub fn known_columns(
        &self,
        credential: &Credential,
        table: &TableRef,
        extent: Extent,
    ) -> Option<Result<Arc<[Column]>, CatalogError>> {
        let view = self.view(credential, &table.catalog).ok()?;
        self.fresh_columns(&view, table, extent)
    }

    /// What was heard last of the table's columns, by a listing or by a read, if that is not too old.
    fn fresh_columns(&self, view: &View, table: &TableRef, extent: Extent) -> Option<Result<Arc<[Column]>, CatalogError>> {
        let listed = &self.listings;
        let fresh_for = listed.fresh_for(extent);
        let seen = listed.columns.known(&key(view, table.clone()));
        // Whoever may read a table may see its columns.
        let read = self.cache.known(&view.viewer, table, Purpose::Data).filter(|read| read.outcome.is_ok());
        if let Some(read) = read
            && seen.as_ref().is_none_or(|seen| seen.as_of < read.as_of)
        {
            return (read.as_of.elapsed() < fresh_for).then(|| read.outcome.and_then(|read| read.columns(&table.catalog)));
        }
        let seen = seen.filter(|seen| listed.columns.is_fresh(seen, fresh_for))?;
        Some(seen.outcome.and_then(|seen| seen.columns(&table.catalog)))
    }

    /// How many bytes the remembered columns take.
    #[cfg(test)]
    pub(super) fn listed_bytes(&self) -> u64 {
        self.listings.columns.bytes()
    }
}
