//! Owns what a table's name means: which catalog and schema it falls back on, which names are refused because DuckDB would open a
//! file for them, and which are listings. Refuses to know whether a table exists; the relay says that.

use super::system::{self, SystemTable};
use super::{Refusal, Scope};
use crate::wire::proto;

/// Endings for which DuckDB opens a file, or fetches an extension that does, when it finds no table of that name. It joins catalog,
/// schema and table by dots before it looks, so a missing table `a.b.parquet` counts as a file.
const SCANNED_ENDINGS: [&str; 13] =
    ["parquet", "csv", "tsv", "json", "jsonl", "ndjson", "avro", "db", "duckdb", "xlsx", "shp", "gpkg", "fgb"];

/// Endings of other files; a table may have one of these as its whole name.
const FILE_ENDINGS: [&str; 17] = [
    "geojson", "arrow", "arrows", "ipc", "feather", "orc", "ddb", "sqlite", "sqlite3", "xls", "lance", "vortex", "delta", "blob",
    "txt", "parq", "pq",
];

const COMPRESSED_ENDINGS: [&str; 8] = ["gz", "zst", "zip", "bz2", "xz", "lz4", "br", "snappy"];

/// What a table's name stands for.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning {
    /// A table of the lakehouse.
    Table(proto::TableName),
    /// A table of `information_schema` or `pg_catalog`.
    System(&'static SystemTable),
}

/// A name in SQL, quoted whether it has to be or not.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string in SQL.
pub(super) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A table in SQL, with all three parts.
pub(super) fn quote_table(table: &proto::TableName) -> String {
    format!("{}.{}.{}", quote(&table.catalog), quote(&table.schema), quote(&table.table))
}

impl Scope<'_> {
    /// The catalog as its owner writes it, whatever the case here.
    pub(super) fn catalog(&self, name: &str) -> Option<&str> {
        self.catalogs.iter().find(|catalog| same(catalog, name)).map(String::as_str)
    }

    /// The default catalog as its owner writes it.
    pub(super) fn owners_default_catalog(&self) -> &str {
        self.catalog(self.default_catalog).unwrap_or(self.default_catalog)
    }

    /// What a name of one to three parts means. Of two parts, the first is a catalog if there is one of that name (the schema is then
    /// the default one), and otherwise a schema of the default catalog.
    pub(super) fn resolve(&self, parts: &[&str]) -> Result<Meaning, Refusal> {
        for part in parts {
            refuse_odd_name(part)?;
        }
        let (catalog, schema, table) = match *parts {
            // As in PostgreSQL, these are found before any table of the default schema.
            [table] if system::table("pg_catalog", table).is_some() => (self.default_catalog, "pg_catalog", table),
            [table] => (self.default_catalog, self.default_schema, table),
            [first, table] => match self.catalog(first) {
                Some(catalog) => (catalog, self.default_schema, table),
                None => (self.default_catalog, first, table),
            },
            [catalog, schema, table] => (self.known(catalog)?, schema, table),
            _ => {
                return Err(Refusal::Unsupported(format!(
                    "the name {} has too many parts: catalog.schema.table at most",
                    parts.join(".")
                )));
            }
        };
        if system::SCHEMAS.iter().any(|system| same(system, schema)) {
            return system::table(schema, table).map(Meaning::System).ok_or_else(|| no_system_table(schema, table));
        }
        let name =
            proto::TableName { catalog: self.known(catalog)?.to_owned(), schema: schema.to_owned(), table: table.to_owned() };
        refuse_file(&name)?;
        Ok(Meaning::Table(name))
    }

    /// What a name means where only a table will do.
    pub(super) fn table(&self, parts: &[&str]) -> Result<proto::TableName, Refusal> {
        match self.resolve(parts)? {
            Meaning::Table(table) => Ok(table),
            Meaning::System(table) => Err(Refusal::Unsupported(format!("{}.{} can only be read", table.schema, table.name))),
        }
    }

    /// A schema's catalog and name, of one or two parts.
    pub(super) fn schema(&self, parts: &[&str]) -> Result<(String, String), Refusal> {
        for part in parts {
            refuse_odd_name(part)?;
        }
        match *parts {
            [schema] => Ok((self.known(self.default_catalog)?.to_owned(), schema.to_owned())),
            [catalog, schema] => Ok((self.known(catalog)?.to_owned(), schema.to_owned())),
            _ => Err(Refusal::Unsupported(format!("the name {} has too many parts: catalog.schema at most", parts.join(".")))),
        }
    }

    fn known(&self, catalog: &str) -> Result<&str, Refusal> {
        self.catalog(catalog).ok_or_else(|| {
            let known = if self.catalogs.is_empty() { "none".to_owned() } else { self.catalogs.join(", ") };
            Refusal::NotFound(format!("catalog {} does not exist; there are: {known}", quote(catalog)))
        })
    }
}

fn no_system_table(schema: &str, table: &str) -> Refusal {
    let known = system::names(schema).join(", ");
    Refusal::NotFound(format!("there is no {schema}.{table}; of {schema} there are {known}"))
}

/// Whether two names are one to DuckDB, which folds the case of ASCII letters only.
pub(super) fn same(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}

/// Refuses what no catalog, schema, table or CTE is called, but a path or a pattern is.
pub(super) fn refuse_odd_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::Refused("an empty name is not a table".to_owned()));
    }
    if name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | '*' | '?' | '[' | ':')) {
        return Err(file_refused(name));
    }
    Ok(())
}

pub(super) fn refuse_file(name: &proto::TableName) -> Result<(), Refusal> {
    let path = format!("{}.{}.{}", name.catalog, name.schema, name.table);
    let scanned = SCANNED_ENDINGS.contains(&ending(&path).as_str());
    if scanned || (name.table.contains('.') && looks_like_file(&path)) { Err(file_refused(&name.table)) } else { Ok(()) }
}

/// Whether a name ends as a file's does.
pub(super) fn looks_like_file(name: &str) -> bool {
    let ending = ending(name);
    SCANNED_ENDINGS.contains(&ending.as_str()) || FILE_ENDINGS.contains(&ending.as_str())
}

/// What stands behind the last dot in lower case, the ending of a compression aside.
fn ending(name: &str) -> String {
    let name = name.trim_end().to_lowercase();
    let mut parts = name.rsplit('.');
    let last = parts.next().unwrap_or_default();
    let ending = if COMPRESSED_ENDINGS.contains(&last) { parts.next().unwrap_or(last) } else { last };
    ending.to_owned()
}

pub(super) fn file_refused(name: &str) -> Refusal {
    Refusal::Refused(format!(
        "{} could be a file's name: quoted file names are refused, a statement reads tables of the catalogs only",
        quote(name)
    ))
}
