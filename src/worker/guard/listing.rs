//! Owns SHOW, DESCRIBE and SUMMARIZE: of tables they become a query over the listings that the gateway sends, with the columns that
//! DuckDB's own answer has; of queries the query is judged. Refuses what only DuckDB's catalog could answer.

use super::grammar::Cursor;
use super::names::{Meaning, quote_text};
use super::query::listing_table;
use super::{Parser, Reads, Refusal, Scope, Verdict, names, verdict};
use crate::wire::proto;

/// The forms that there are, for messages.
const FORMS: &str = "there are SHOW TABLES [FROM schema], SHOW ALL TABLES, SHOW SCHEMAS, SHOW DATABASES, SHOW COLUMNS FROM table, DESCRIBE table | query and SUMMARIZE table | query";

/// Judges a SHOW, DESCRIBE or SUMMARIZE.
pub(super) fn judge(parser: &mut dyn Parser, scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    let word = cursor.peek_word();
    cursor.next();
    if word != "SHOW" {
        cursor.take_words(&["TABLE"]);
        let is_query = matches!(cursor.peek_word().as_str(), "SELECT" | "WITH" | "FROM" | "VALUES" | "PIVOT" | "UNPIVOT" | "(");
        return match (word.as_str(), is_query) {
            ("SUMMARIZE", true) => of_query(parser, scope, "SUMMARIZE", cursor.rest()),
            ("SUMMARIZE", false) => summarize(parser, scope, cursor),
            (_, true) => of_query(parser, scope, "DESCRIBE", cursor.rest()),
            (_, false) => describe(parser, scope, cursor),
        };
    }
    if cursor.take_words(&["ALL", "TABLES"]) {
        cursor.expect_end()?;
        return Ok(all_tables());
    }
    let mut after = *cursor;
    after.next();
    let ends_here = after.at_end();
    match cursor.peek_word().as_str() {
        "TABLES" if ends_here => tables(scope, &[]),
        "TABLES" if ["FROM", "IN"].contains(&after.peek_word().as_str()) => {
            after.next();
            let path = after.path("a schema")?;
            after.expect_end()?;
            tables(scope, &path.iter().map(String::as_str).collect::<Vec<_>>())
        }
        "SCHEMAS" if ends_here => Ok(schemas(scope)),
        "DATABASES" | "CATALOGS" if ends_here => Ok(databases(scope)),
        "COLUMNS" if ["FROM", "IN"].contains(&after.peek_word().as_str()) => {
            after.next();
            describe(parser, scope, &mut after)
        }
        "TABLES" | "SCHEMAS" | "DATABASES" | "CATALOGS" | "COLUMNS" | "ALL" | "FUNCTIONS" | "VARIABLES" | "CREATE"
        | "INDEXES" | "VIEWS" | "SEARCH_PATH" | "TIME" | "TRANSACTION" => {
            Err(Refusal::Unsupported(format!("SHOW {} is not supported: {FORMS}", cursor.peek_word())))
        }
        _ => describe(parser, scope, cursor),
    }
}

fn from(listing: &str) -> String {
    format!("temp.main.{}", listing_table(listing))
}

/// A condition on names, which DuckDB compares without regard to case.
fn is(column: &str, name: &str) -> String {
    format!("lower({column}) = lower({})", quote_text(name))
}

fn reading(sql: String, listing: &str) -> Verdict {
    let mut reads = Reads::default();
    reads.add_listing(proto::WantedListing { name: listing.to_owned(), any_of: Vec::new(), about: None });
    verdict(proto::Class::Read, sql, reads)
}

/// SHOW TABLES: one column, of one schema, or of all of a catalog where only that is named.
fn tables(scope: &Scope<'_>, path: &[&str]) -> Result<Verdict, Refusal> {
    let (catalog, condition) = match *path {
        [name] if let Some(catalog) = scope.catalog(name) => (catalog.to_owned(), is("table_catalog", catalog)),
        _ => {
            let path = if path.is_empty() { &[scope.default_schema] } else { path };
            let (catalog, schema) = scope.schema(path)?;
            let condition = format!("{} AND {}", is("table_catalog", &catalog), is("table_schema", &schema));
            (catalog, condition)
        }
    };
    let sql = format!("SELECT table_name AS \"name\" FROM {} WHERE {condition} ORDER BY ALL", from("tables"));
    let mut verdict = reading(sql, "tables");
    // No other catalog is asked, which could be slow, or down.
    let part = proto::TablePatterns { catalogs: vec![catalog], ..proto::TablePatterns::default() };
    verdict.listings.iter_mut().for_each(|listing| listing.any_of = vec![part.clone()]);
    Ok(verdict)
}

/// SHOW ALL TABLES without DuckDB's lists of columns, for which each table of the lakehouse would have to be loaded.
fn all_tables() -> Verdict {
    let columns = "table_catalog AS \"database\", table_schema AS \"schema\", table_name AS \"name\", false AS \"temporary\"";
    reading(format!("SELECT {columns} FROM {} ORDER BY ALL", from("tables")), "tables")
}

fn schemas(scope: &Scope<'_>) -> Verdict {
    let current = format!("{} AND {}", is("catalog_name", scope.default_catalog), is("schema_name", scope.default_schema));
    let columns = format!("catalog_name AS database_name, schema_name, ({current}) AS \"current\"");
    reading(format!("SELECT {columns} FROM {} ORDER BY ALL", from("schemata")), "schemata")
}

fn databases(scope: &Scope<'_>) -> Verdict {
    let names: Vec<String> = scope.catalogs.iter().map(|catalog| quote_text(catalog)).collect();
    let list = format!("CAST([{}] AS VARCHAR[])", names.join(", "));
    verdict(proto::Class::Read, format!("SELECT unnest({list}) AS database_name ORDER BY ALL"), Reads::default())
}

/// DESCRIBE of a table. The table counts as read, so that one that isn't there is an error and not an empty answer.
fn describe(parser: &mut dyn Parser, scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    if cursor.at_end() {
        return Err(Refusal::Unsupported(format!("DESCRIBE without a table is not supported: {FORMS}")));
    }
    let start = *cursor;
    let path = cursor.path("the name of a table")?;
    cursor.expect_end()?;
    let table = match scope.resolve(&path.iter().map(String::as_str).collect::<Vec<_>>())? {
        Meaning::Table(table) => table,
        Meaning::System(_) => return of_query(parser, scope, "DESCRIBE", &format!("FROM {}", cursor.since(&start))),
    };
    let condition = format!(
        "{} AND {} AND {}",
        is("table_catalog", &table.catalog),
        is("table_schema", &table.schema),
        is("table_name", &table.table)
    );
    let columns = "column_name, data_type AS column_type, is_nullable AS \"null\", CAST(NULL AS VARCHAR) AS \"key\", column_default AS \"default\", \
                   CAST(NULL AS VARCHAR) AS extra";
    // A listing of its own: only the columns of the tables that the statement names, not of the whole lakehouse.
    let sql = format!("SELECT {columns} FROM {} WHERE {condition} ORDER BY ordinal_position", from("described"));
    let mut verdict = reading(sql, "described");
    verdict.tables.push(table);
    Ok(verdict)
}

/// DESCRIBE or SUMMARIZE of a query.
fn of_query(parser: &mut dyn Parser, scope: &Scope<'_>, word: &str, text: &str) -> Result<Verdict, Refusal> {
    let mut verdict = super::query(parser, scope, text)?;
    verdict.sql = format!("{word} {}", verdict.sql);
    Ok(verdict)
}

/// SUMMARIZE of a table: of the query that reads all of it.
fn summarize(parser: &mut dyn Parser, scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    let path = cursor.path("the name of a table or a query")?;
    cursor.expect_end()?;
    let path: Vec<String> = path.iter().map(|part| names::quote(part)).collect();
    of_query(parser, scope, "SUMMARIZE", &format!("FROM {}", path.join(".")))
}
