//! Owns listings of catalogs, schemas, tables and columns, for the metadata calls of the edges and for SQL that reads them. They
//! come from the catalogs through the relay with the caller's credential, never from DuckDB's own catalog.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};

use super::{Caller, Engine, ListedTable, QueryError, TableFilter};
use crate::lake::Column;
use crate::names::{CatalogName, Namespace, TableRef};
use crate::relay::CatalogError;
use crate::wire::proto::{Listing, TablePatterns, WantedListing};

/// Key of the field metadata that carries a column's SQL type.
pub const TYPE_NAME: &str = "ARROW:FLIGHT:SQL:TYPE_NAME";

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

    /// Schemas with their catalogs, in the order of their names. A catalog that is not configured has none.
    ///
    /// # Errors
    /// When a catalog does not answer.
    pub async fn schemas(
        &self,
        caller: &Caller,
        catalog: Option<&CatalogName>,
        pattern: Option<&str>,
    ) -> Result<Vec<(CatalogName, String)>, QueryError> {
        let fits = |name: &CatalogName, schema: Option<&str>| {
            catalog.is_none_or(|wanted| wanted == name)
                && schema.is_none_or(|schema| pattern.is_none_or(|pattern| is_like(schema, pattern)))
        };
        self.schemas_that(caller, fits).await
    }

    /// Schemas that fit; a catalog is asked only if it fits by itself.
    async fn schemas_that(
        &self,
        caller: &Caller,
        fits: impl Fn(&CatalogName, Option<&str>) -> bool,
    ) -> Result<Vec<(CatalogName, String)>, QueryError> {
        let mut found = Vec::new();
        for name in self.catalogs(caller).into_iter().filter(|name| fits(name, None)) {
            let namespaces = match self.relay().namespaces(&caller.reads(), &name).await {
                // What the caller may not list is not in a listing.
                Err(CatalogError::Forbidden { .. }) => continue,
                namespaces => namespaces?,
            };
            let mut schemas: Vec<String> = namespaces.iter().map(Namespace::to_string).collect();
            schemas.retain(|schema| fits(&name, Some(schema)));
            schemas.sort();
            found.extend(schemas.into_iter().map(|schema| (name.clone(), schema)));
        }
        Ok(found)
    }

    /// Tables in the order of their names; with columns where the filter asks for them and the table can be loaded.
    ///
    /// # Errors
    /// When a catalog does not answer, or there are more tables than `query.listing_tables`.
    pub async fn tables(&self, caller: &Caller, filter: &TableFilter) -> Result<Vec<ListedTable>, QueryError> {
        let schemas = self.schemas(caller, filter.catalog.as_ref(), filter.schema.as_deref()).await?;
        let fits = |table: &TableRef| filter.table.as_deref().is_none_or(|pattern| is_like(&table.table, pattern));
        let tables = self.tables_that(caller, schemas, fits).await?;
        if !filter.with_columns {
            return Ok(tables.into_iter().map(|table| ListedTable { table, columns: None }).collect());
        }
        let with_columns = self.with_columns(caller, tables).await?;
        Ok(with_columns
            .into_iter()
            .map(|(table, columns)| ListedTable { table, columns: columns.as_deref().map(schema_of) })
            .collect())
    }

    /// The tables of these schemas that fit.
    async fn tables_that(
        &self,
        caller: &Caller,
        schemas: Vec<(CatalogName, String)>,
        fits: impl Fn(&TableRef) -> bool,
    ) -> Result<Vec<TableRef>, QueryError> {
        let mut tables = Vec::new();
        for (catalog, schema) in schemas {
            let namespace = Namespace::from_schema(&schema);
            let mut names = match self.relay().tables(&caller.reads(), &catalog, &namespace).await {
                // Dropped between the two listings, or nothing that the caller may list.
                Err(CatalogError::NoSuchNamespace { .. } | CatalogError::Forbidden { .. }) => continue,
                names => names?,
            };
            names.sort();
            let there = names.into_iter().map(|table| TableRef { catalog: catalog.clone(), namespace: namespace.clone(), table });
            tables.extend(there.filter(&fits));
            if tables.len() > self.config().listing_tables {
                return Err(QueryError::ListingTooLarge { limit: self.config().listing_tables });
            }
        }
        Ok(tables)
    }

    async fn with_columns(
        &self,
        caller: &Caller,
        tables: Vec<TableRef>,
    ) -> Result<Vec<(TableRef, Option<Arc<[Column]>>)>, QueryError> {
        let loads = stream::iter(tables).map(async |table| match self.relay().listed_columns(&caller.reads(), &table).await {
            Ok(columns) => Ok((table, Some(columns))),
            Err(error) if error.is_of_the_catalog() => Err(error.into()),
            // A table that cannot be loaded is still listed; asking for it says why.
            Err(_) => Ok((table, None)),
        });
        loads.buffered(self.config().listing_loads.max(1)).try_collect().await
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
                "described" => column_rows(&self.described_columns(caller, read).await?),
                "schemata" => schemata(&self.schemas_that(caller, |catalog, schema| wanted.fit(catalog, schema, None)).await?),
                "tables" => table_rows(&self.wanted_tables(caller, &wanted).await?),
                "columns" => column_rows(&self.with_columns(caller, self.wanted_tables(caller, &wanted).await?).await?),
                other => return Err(QueryError::Defect(format!("unknown listing {other}"))),
            };
            listings.push(Listing { name: name.clone(), rows: ipc_stream(&rows?)? });
        }
        Ok(listings)
    }

    /// The catalogs that these listings are made of.
    pub(super) fn listed_catalogs(&self, caller: &Caller, wanted: &[WantedListing]) -> Vec<CatalogName> {
        let mut asked = self.catalogs(caller);
        asked.retain(|catalog| {
            wanted.iter().any(|listing| match listing.about.as_ref().and_then(|about| about.table.as_ref()) {
                Some(table) => table.catalog == catalog.as_str(),
                None => listing.name != "described" && Patterns(&listing.any_of).fit(catalog, None, None),
            })
        });
        asked
    }

    /// The columns of these tables; of a session that reads the past those that they had then.
    async fn described_columns(
        &self,
        caller: &Caller,
        tables: &[TableRef],
    ) -> Result<Vec<(TableRef, Option<Arc<[Column]>>)>, QueryError> {
        let Some(then) = caller.as_of else { return self.with_columns(caller, tables.to_vec()).await };
        let loads = tables.iter().map(async |table| {
            let columns = self.columns_then(caller, table, then).await?;
            Ok((table.clone(), Some(Arc::from(columns))))
        });
        try_join_all(loads).await
    }

    async fn wanted_tables(&self, caller: &Caller, wanted: &Patterns<'_>) -> Result<Vec<TableRef>, QueryError> {
        let schemas = self.schemas_that(caller, |catalog, schema| wanted.fit(catalog, schema, None)).await?;
        let fits = |table: &TableRef| wanted.fit(&table.catalog, Some(&table.namespace.to_string()), Some(&table.table));
        self.tables_that(caller, schemas, fits).await
    }
}

/// Which part of a listing a statement needs.
struct Patterns<'a>(&'a [TablePatterns]);

impl Patterns<'_> {
    /// Whether something may belong to it, as far as its names are given.
    fn fit(&self, catalog: &CatalogName, schema: Option<&str>, table: Option<&str>) -> bool {
        let any = |patterns: &[String], name: Option<&str>| {
            name.is_none_or(|name| patterns.is_empty() || patterns.iter().any(|pattern| is_like(name, pattern)))
        };
        let one = |wanted: &TablePatterns| {
            any(&wanted.catalogs, Some(catalog.as_str())) && any(&wanted.schemas, schema) && any(&wanted.tables, table)
        };
        self.0.is_empty() || self.0.iter().any(one)
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

fn schemata(schemas: &[(CatalogName, String)]) -> Result<RecordBatch, QueryError> {
    batch(vec![
        ("catalog_name", texts(schemas.iter().map(|(catalog, _)| Some(catalog.as_str())))),
        ("schema_name", texts(schemas.iter().map(|(_, schema)| Some(schema.as_str())))),
    ])
}

fn table_rows(tables: &[TableRef]) -> Result<RecordBatch, QueryError> {
    let namespaces: Vec<String> = tables.iter().map(|table| table.namespace.to_string()).collect();
    batch(vec![
        ("table_catalog", texts(tables.iter().map(|table| Some(table.catalog.as_str())))),
        ("table_schema", texts(namespaces.iter().map(|n| Some(n.as_str())))),
        ("table_name", texts(tables.iter().map(|table| Some(table.table.as_str())))),
        ("table_type", texts(tables.iter().map(|_| Some("BASE TABLE")))),
    ])
}

fn column_rows(tables: &[(TableRef, Option<Arc<[Column]>>)]) -> Result<RecordBatch, QueryError> {
    struct Row<'a> {
        table: &'a TableRef,
        namespace: String,
        ordinal: i32,
        column: &'a Column,
    }
    let mut rows = Vec::new();
    for (table, columns) in tables {
        for (column, ordinal) in columns.iter().flat_map(|columns| columns.iter()).zip(1..) {
            rows.push(Row { table, namespace: table.namespace.to_string(), ordinal, column });
        }
    }
    batch(vec![
        ("table_catalog", texts(rows.iter().map(|r| Some(r.table.catalog.as_str())))),
        ("table_schema", texts(rows.iter().map(|r| Some(r.namespace.as_str())))),
        ("table_name", texts(rows.iter().map(|r| Some(r.table.table.as_str())))),
        ("column_name", texts(rows.iter().map(|r| Some(r.column.name.as_str())))),
        ("ordinal_position", Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.ordinal)))),
        ("column_default", texts(rows.iter().map(|_| None))),
        ("is_nullable", texts(rows.iter().map(|r| Some(if r.column.nullable { "YES" } else { "NO" })))),
        ("data_type", texts(rows.iter().map(|r| Some(r.column.sql_type.as_str())))),
        ("comment", texts(rows.iter().map(|r| r.column.comment.as_deref()))),
    ])
}

pub(super) fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

pub(super) fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, QueryError> {
    let columns = columns.into_iter().map(|(name, values)| (name, values, true));
    RecordBatch::try_from_iter_with_nullable(columns).map_err(|e| QueryError::Defect(e.to_string()))
}

pub(super) fn ipc_stream(batch: &RecordBatch) -> Result<Bytes, QueryError> {
    let write = || {
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
        writer.write(batch)?;
        writer.into_inner()
    };
    write().map(Bytes::from).map_err(|e: arrow::error::ArrowError| QueryError::Defect(e.to_string()))
}

/// SQL LIKE with `%`, `_` and the escape `\`, on characters.
fn is_like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    let (mut t, mut p) = (0, 0);
    // Where to go on when a match fails: the last `%`, and the text position that it was tried at.
    let mut last_percent: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('%') => {
                last_percent = Some((p, t));
                p += 1;
            }
            Some('_') => (t, p) = (t + 1, p + 1),
            Some('\\') if pattern.get(p + 1) == Some(&text[t]) => (t, p) = (t + 1, p + 2),
            Some(c) if *c != '\\' && *c == text[t] => (t, p) = (t + 1, p + 1),
            _ => match last_percent {
                Some((at, tried)) => {
                    last_percent = Some((at, tried + 1));
                    (t, p) = (tried + 1, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '%')
}

#[cfg(test)]
mod tests {
    use super::is_like;

    #[test]
    fn patterns_are_sql_like() {
        for (text, pattern, expected) in [
            ("orders", "orders", true),
            ("orders", "%", true),
            ("orders", "o%s", true),
            ("orders", "o_ders", true),
            ("orders", "", false),
            ("", "%", true),
            ("a_b", r"a\_b", true),
            ("axb", r"a\_b", false),
            ("abcabd", "%abd", true),
            ("größe", "gr__e", true),
            ("100%", r"100\%", true),
        ] {
            assert_eq!(is_like(text, pattern), expected, "{text} LIKE {pattern}");
        }
    }
}
