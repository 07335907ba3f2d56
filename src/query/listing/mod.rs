//! Owns listings of catalogs, schemas, tables and columns, for the metadata calls of the edges and for SQL that reads them. They
//! come from the catalogs through the relay with the caller's credential, never from DuckDB's own catalog.
//!
//! Names are gathered first, so that a listing that is too large is refused before its first row. Columns come as they are loaded, a
//! bounded number of tables ahead of who reads them. Each load runs by itself: it may be shared with a statement and hold a turn at the
//! catalog, and a client that does not read on must not keep either. A listing of the edges counts as a statement, with its place, its
//! deadline and its line in the log; one that a statement reads is a part of it.

mod flow;
mod parts;
mod patterns;
mod rows;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt, TryStreamExt, stream};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::flow::Flow;
use self::parts::Part;
use self::patterns::{Choice, Patterns};
use self::rows::{Rows, Shape};
use super::{Caller, Engine, ListedTable, QueryError, TableFilter};
use crate::lake::Column;
use crate::names::{CatalogName, Namespace, TableRef};
use crate::relay::{CatalogError, Ceiling, Extent, Fits};
use crate::wire::proto::{Listing, WantedListing};

/// Key of the field metadata that carries a column's SQL type.
pub const TYPE_NAME: &str = "ARROW:FLIGHT:SQL:TYPE_NAME";

/// How many catalogs are asked for their schemas at once.
const PARALLEL_CATALOGS: usize = 8;

/// After so many tables a listing lets others have the thread.
const TABLES_AT_A_STRETCH: usize = 256;

/// Tables of a listing, in the order of their names. Dropping it ends what is under way for it.
pub type ListedTables = Pin<Box<dyn Stream<Item = Result<ListedTable, QueryError>> + Send>>;

/// Schemas of a listing with their catalogs, in the order of their names, some at a time. Dropping it ends it.
pub type ListedSchemas = Pin<Box<dyn Stream<Item = Result<Vec<(CatalogName, String)>, QueryError>> + Send>>;

/// How many schemas come at a time.
const SCHEMAS_AT_A_TIME: usize = 4096;

/// A table and its columns; none when they cannot be had.
type WithColumns = (TableRef, Option<Arc<[Column]>>);

impl Engine {
    /// The catalogs that the caller may name.
    #[must_use]
    pub fn catalogs(&self, caller: &Caller) -> Vec<CatalogName> {
        self.relay().catalogs_of(&caller.credential)
    }

    /// Fails with the list of what there is when the caller has no such catalog.
    pub(super) fn known_catalog(&self, caller: &Caller, name: &CatalogName) -> Result<(), QueryError> {
        let known = self.catalogs(caller);
        if known.contains(name) { Ok(()) } else { Err(QueryError::NoCatalog { name: name.clone(), known }) }
    }

    /// Lets a listing in, as a statement; `what` is for the log.
    fn begin_listing(&self, caller: &Caller, what: &str) -> Result<Flow, QueryError> {
        let log = self.begin(caller, "list", what)?;
        let limit = self.config().statement_timeout;
        Ok(Flow { log, deadline: Instant::now() + limit, limit })
    }

    /// Schemas with their catalogs, in the order of their names. A catalog that is not configured has none.
    ///
    /// # Errors
    /// When a catalog does not answer, or the principal has too many statements in work.
    pub async fn schemas(
        &self,
        caller: &Caller,
        catalog: Option<&CatalogName>,
        pattern: Option<&str>,
    ) -> Result<ListedSchemas, QueryError> {
        let flow = self.begin_listing(caller, &format!("GetDbSchemas{}", told(catalog, &[("schema", pattern)])))?;
        let (catalog, schema) = (catalog.cloned(), pattern.map(str::to_owned));
        let filter = TableFilter { catalog, schema, table: None, with_columns: false };
        let (found, flow) = flow.first(self.schemas_that(caller, &filter)).await?;
        let pieces: Vec<_> = found.chunks(SCHEMAS_AT_A_TIME).map(|piece| Ok(piece.to_vec())).collect();
        Ok(flow.leave(stream::iter(pieces), Vec::len))
    }

    /// Schemas that are wanted, in the order of their names.
    async fn schemas_that(&self, caller: &Caller, choice: &dyn Choice) -> Result<Vec<(CatalogName, String)>, QueryError> {
        let credential = &caller.reads();
        let ceiling = &Ceiling::new(self.config().listing_tables);
        let asked: Vec<CatalogName> = self.catalogs(caller).into_iter().filter(|name| choice.catalog(name)).collect();
        let lists = stream::iter(asked).map(async |name| {
            let fits = |namespace: &Namespace| choice.schema(&name, &namespace.to_string());
            let fits: Fits<'_, Namespace> = if choice.has_all_schemas() { None } else { Some(&fits) };
            let namespaces = self.relay().namespaces(credential, &name, ceiling, fits).await;
            (name, namespaces)
        });
        let mut lists = lists.buffer_unordered(PARALLEL_CATALOGS);
        let mut found = Vec::new();
        while let Some((name, namespaces)) = lists.next().await {
            let namespaces = match namespaces {
                // What the caller may not list is not in a listing.
                Err(CatalogError::Forbidden { .. }) => continue,
                namespaces => namespaces.map_err(|error| too_large("schemas", error))?,
            };
            found.extend(namespaces.iter().map(|namespace| (name.clone(), namespace.to_string())));
        }
        found.sort();
        Ok(found)
    }

    /// Tables in the order of their names; with columns where the filter asks for them and the table can be loaded. What is wrong with
    /// the names is said at once; columns come as they are asked for.
    ///
    /// # Errors
    /// When a catalog does not answer, there are more tables than `query.listing_tables`, or the principal has too many statements in work.
    pub async fn tables(&self, caller: &Caller, filter: &TableFilter) -> Result<ListedTables, QueryError> {
        let patterns = [("schema", filter.schema.as_deref()), ("table", filter.table.as_deref())];
        let columns = if filter.with_columns { " with columns" } else { "" };
        let what = format!("GetTables{}{columns}", told(filter.catalog.as_ref(), &patterns));
        let ((parts, number), flow) = self.begin_listing(caller, &what)?.first(self.parts_that(caller, filter)).await?;
        let tables = parts::tables(parts);
        if !filter.with_columns {
            return Ok(flow.leave(stream::iter(tables).map(|table| Ok(ListedTable { table, columns: None })), |_| 1));
        }
        let listed = self.with_columns(caller, tables, number).map_ok(|(table, columns)| {
            let columns = columns.as_deref().map(schema_of);
            ListedTable { table, columns }
        });
        Ok(flow.leave(listed, |_| 1))
    }

    /// The tables that are wanted, schema by schema, and how many they are.
    async fn parts_that(&self, caller: &Caller, choice: &dyn Choice) -> Result<(Vec<Part>, usize), QueryError> {
        let schemas = self.schemas_that(caller, choice).await?;
        let credential = &caller.reads();
        let ceiling = &Ceiling::new(self.config().listing_tables);
        let lists = stream::iter(schemas).map(async |(catalog, schema)| {
            let namespace = Namespace::from_schema(&schema);
            let fits = |name: &String| choice.table(&catalog, &schema, name);
            let fits: Fits<'_, String> = if choice.has_all_tables() { None } else { Some(&fits) };
            let names = self.relay().tables(credential, &catalog, &namespace, ceiling, fits).await;
            (catalog, namespace, names)
        });
        let mut lists = lists.buffer_unordered(self.loads_at_once());
        let (mut parts, mut number) = (Vec::new(), 0);
        while let Some((catalog, namespace, names)) = lists.next().await {
            let names = match names {
                // Dropped between the two listings, or nothing that the caller may list.
                Err(CatalogError::NoSuchNamespace { .. } | CatalogError::Forbidden { .. }) => continue,
                names => names.map_err(|error| too_large("tables", error))?,
            };
            number += names.len();
            if !names.is_empty() {
                parts.push(Part { catalog, namespace, names });
            }
        }
        Ok((parts, number))
    }

    fn loads_at_once(&self) -> usize {
        self.config().listing_loads.max(1)
    }

    /// These tables, of which there are so many, with their columns, in their order.
    fn with_columns(
        &self,
        caller: &Caller,
        tables: impl Iterator<Item = TableRef> + Send + 'static,
        number: usize,
    ) -> impl Stream<Item = Result<WithColumns, QueryError>> + Send + 'static {
        let at_once = self.loads_at_once();
        let extent = if number > at_once { Extent::Many } else { Extent::Few };
        let (relay, credential) = (Arc::clone(self.relay()), caller.reads());
        let columns = move |table: TableRef| {
            if let Some(known) = relay.known_columns(&credential, &table, extent) {
                return std::future::ready(columns_or_none(table, known)).left_future();
            }
            let (relay, credential) = (Arc::clone(&relay), credential.clone());
            let load = async move {
                let columns = relay.listed_columns(&credential, &table, extent).await;
                columns_or_none(table, columns)
            };
            let load = AbortOnDropHandle::new(tokio::spawn(load));
            load.map(|loaded| loaded.unwrap_or_else(|panic| Err(QueryError::Defect(panic.to_string())))).right_future()
        };
        stream::iter(tables).map(columns).buffered(at_once).try_filter_map(async |listed| Ok(listed))
    }

    /// The listings that a statement reads, as the worker's temporary tables take them; `described` has the columns of the tables
    /// that it reads only.
    pub(super) async fn listings(
        &self,
        caller: &Caller,
        wanted: &[WantedListing],
        read: &[TableRef],
    ) -> Result<Vec<Listing>, QueryError> {
        let mut listings = Vec::with_capacity(wanted.len());
        for WantedListing { name, any_of, .. } in wanted.iter().filter(|wanted| wanted.about.is_none()) {
            let wanted = Patterns(any_of);
            let rows = match name.as_str() {
                "described" => self.described_rows(caller, read).await?,
                "schemata" => self.schema_rows(caller, &wanted).await?,
                "tables" => self.table_rows(caller, &wanted).await?,
                "columns" => self.column_rows(caller, &wanted).await?,
                other => return Err(QueryError::Defect(format!("unknown listing {other}"))),
            };
            listings.push(Listing { name: name.clone(), rows });
        }
        Ok(listings)
    }

    /// The columns of tables that the statement loads anyway: as it will read them, which may be as they were at some time.
    async fn described_rows(&self, caller: &Caller, read: &[TableRef]) -> Result<Bytes, QueryError> {
        let credential = caller.reads();
        let mut rows = self.rows(Shape::Columns)?;
        for table in read {
            if let Some(then) = caller.as_of {
                rows.column_rows(table, &self.columns_then(caller, table, then).await?)?;
                continue;
            }
            match self.relay().columns(&credential, table, caller.begun).await {
                Ok(columns) => rows.column_rows(table, &columns)?,
                Err(error) if error.is_of_the_catalog() => return Err(error.into()),
                // The statement's own load says why.
                Err(_) => {}
            }
        }
        rows.finish()
    }

    async fn schema_rows(&self, caller: &Caller, wanted: &Patterns<'_>) -> Result<Bytes, QueryError> {
        let mut rows = self.rows(Shape::Schemata)?;
        for (catalog, schema) in self.schemas_that(caller, wanted).await? {
            rows.schema_row(&catalog, &schema)?;
        }
        rows.finish()
    }

    async fn table_rows(&self, caller: &Caller, wanted: &Patterns<'_>) -> Result<Bytes, QueryError> {
        let mut rows = self.rows(Shape::Tables)?;
        for table in self.wanted_tables(caller, wanted).await? {
            rows.table_row(&table)?;
        }
        rows.finish()
    }

    async fn column_rows(&self, caller: &Caller, wanted: &Patterns<'_>) -> Result<Bytes, QueryError> {
        let mut rows = self.rows(Shape::Columns)?;
        let tables = self.wanted_tables(caller, wanted).await?;
        let number = tables.len();
        let mut tables = self.with_columns(caller, tables.into_iter(), number).enumerate().boxed();
        while let Some((number, listed)) = tables.next().await {
            let (table, columns) = listed?;
            rows.column_rows(&table, columns.as_deref().unwrap_or_default())?;
            if number % TABLES_AT_A_STRETCH == 0 {
                tokio::task::yield_now().await;
            }
        }
        rows.finish()
    }

    fn rows(&self, shape: Shape) -> Result<Rows, QueryError> {
        Rows::new(shape, usize::try_from(self.config().listing_bytes.as_u64()).unwrap_or(usize::MAX))
    }

    /// The catalogs that these listings are made of.
    pub(super) fn listed_catalogs(&self, caller: &Caller, wanted: &[WantedListing]) -> Vec<CatalogName> {
        let mut asked = self.catalogs(caller);
        asked.retain(|catalog| {
            wanted.iter().any(|listing| match listing.about.as_ref().and_then(|about| about.table.as_ref()) {
                Some(table) => table.catalog == catalog.as_str(),
                None => listing.name != "described" && Patterns(&listing.any_of).catalog(catalog),
            })
        });
        asked
    }

    async fn wanted_tables(&self, caller: &Caller, wanted: &Patterns<'_>) -> Result<Vec<TableRef>, QueryError> {
        let (parts, _) = self.parts_that(caller, wanted).await?;
        Ok(parts::tables(parts).collect())
    }
}

/// That there are too many names, as it is told of a listing.
fn too_large(what: &'static str, error: CatalogError) -> QueryError {
    match error {
        CatalogError::TooManyNames { limit, .. } => QueryError::ListingTooLarge { what, limit },
        error => error.into(),
    }
}

/// The columns of a table as an Arrow schema; each field names its SQL type.
fn schema_of(columns: &[Column]) -> Arc<Schema> {
    let field = |column: &Column| {
        let metadata = HashMap::from([(TYPE_NAME.to_owned(), column.sql_type.clone())]);
        Field::new(&column.name, column.data_type.clone(), column.nullable).with_metadata(metadata)
    };
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// A table that is gone since its name was listed is left out. One that cannot be loaded is listed all the same; asking for it says why.
fn columns_or_none(table: TableRef, columns: Result<Arc<[Column]>, CatalogError>) -> Result<Option<WithColumns>, QueryError> {
    match columns {
        Ok(columns) => Ok(Some((table, Some(columns)))),
        Err(error) if error.is_of_the_catalog() => Err(error.into()),
        Err(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace { .. }) => Ok(None),
        Err(_) => Ok(Some((table, None))),
    }
}

/// A filter, for the log.
fn told(catalog: Option<&CatalogName>, patterns: &[(&str, Option<&str>)]) -> String {
    let catalog = catalog.map(|name| format!(" catalog={:?}", name.as_str()));
    let patterns = patterns.iter().filter_map(|(key, pattern)| pattern.map(|pattern| format!(" {key}={pattern:?}")));
    catalog.into_iter().chain(patterns).collect()
}
