//! System tables against DuckDB's own, and the part of a listing that a statement is seen to need.

use duckdb::Connection;

use super::super::{Scope, Verdict, judge, system};
use super::{DuckParser, judged, listings, with_extensions};

/// Listings of one table, as the gateway makes them.
const LISTINGS: &str = "
    CREATE TEMP TABLE listed_schemata AS SELECT 'lake' AS catalog_name, 'bronze' AS schema_name;
    CREATE TEMP TABLE listed_tables AS
        SELECT 'lake' AS table_catalog, 'bronze' AS table_schema, 't' AS table_name, 'BASE TABLE' AS table_type;
    CREATE TEMP TABLE listed_columns AS SELECT 'lake' AS table_catalog, 'bronze' AS table_schema, 't' AS table_name,
        column_name, column_index::INTEGER AS ordinal_position, column_default,
        CASE WHEN is_nullable THEN 'YES' ELSE 'NO' END AS is_nullable, data_type, comment
        FROM duckdb_columns() WHERE schema_name = 'bronze';";

/// A column of every type that a table of the lakehouse can have.
const TABLE: &str = "
    ATTACH ':memory:' AS lake; CREATE SCHEMA lake.bronze; USE lake.bronze;
    CREATE TABLE t (a BOOLEAN, b INTEGER NOT NULL, c BIGINT, d FLOAT, e DOUBLE, f DECIMAL(12,2), g VARCHAR, h BLOB, i DATE, j TIME,
        k TIMESTAMP, l TIMESTAMPTZ, m UUID, n INTEGER[], o STRUCT(x INTEGER, y DECIMAL(9,3)), p MAP(VARCHAR, INTEGER), q TIMESTAMP_NS,
        r DECIMAL(38,0)[]);
    COMMENT ON COLUMN t.a IS 'a comment';";

fn prepared(connection: &Connection, sql: &str) -> Verdict {
    let verdict = judged(sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
    make(connection, &verdict);
    verdict
}

fn make(connection: &Connection, verdict: &Verdict) {
    for object in &verdict.system {
        let create = format!("CREATE OR REPLACE TEMP {} temp.main.{}{}", object.kind, object.name, object.definition);
        connection.execute_batch(&create).unwrap_or_else(|error| panic!("{create}: {error}"));
    }
}

fn rows(connection: &Connection, sql: &str) -> Vec<String> {
    let text = format!("SELECT CAST(to_json(the_row) AS VARCHAR) FROM ({sql}) AS the_row");
    let mut statement = connection.prepare(&text).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let rows = statement.query_map([], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.map(|row| row.unwrap()).collect()
}

/// The rows of a client's statement.
fn answer(connection: &Connection, sql: &str) -> Vec<String> {
    let verdict = prepared(connection, sql);
    rows(connection, &verdict.sql)
}

fn lakehouse() -> Connection {
    let connection = with_extensions();
    connection.execute_batch(&format!("{TABLE}{LISTINGS}")).unwrap();
    connection
}

#[test]
fn system_tables_have_the_columns_and_types_of_duckdb() {
    let connection = lakehouse();
    let mut compared = 0;
    for schema in system::SCHEMAS {
        for name in system::names(schema) {
            let query = format!("SELECT * FROM {schema}.{name}");
            let own = rows(
                &connection,
                &format!("SELECT column_name, column_type FROM (DESCRIBE {})", prepared(&connection, &query).sql),
            );
            let duckdb = rows(&connection, &format!("SELECT column_name, column_type FROM (DESCRIBE {query})"));
            // DuckDB gives a client a bare NULL as INTEGER.
            let duckdb: Vec<String> = duckdb.iter().map(|row| row.replace("\"\\\"NULL\\\"\"", "\"INTEGER\"")).collect();
            assert_eq!(own, duckdb, "{query}");
            compared += 1;
        }
    }
    assert!(compared > 25, "only {compared} system tables were found");
}

#[test]
fn columns_are_told_as_duckdb_tells_its_own() {
    let connection = lakehouse();
    let query = "SELECT * FROM information_schema.columns WHERE table_name = 't' ORDER BY ordinal_position";
    let own = answer(&connection, query);
    assert_eq!(own, rows(&connection, query));
    assert_eq!(own.len(), 18);
    let modifiers =
        "SELECT attname, atttypmod, attnotnull FROM pg_catalog.pg_attribute WHERE attname IN ('b', 'f', 'g') ORDER BY attnum";
    assert_eq!(answer(&connection, modifiers), rows(&connection, modifiers));
}

#[test]
fn oids_join_the_tables_of_pg_catalog() {
    let connection = lakehouse();
    let found = answer(
        &connection,
        "SELECT n.nspname, c.relname, a.attname, t.typname, format_type(a.atttypid, a.atttypmod) AS type, pg_get_userbyid(c.relowner) AS owner
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
         JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
         WHERE c.relkind IN ('r', 'v') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND tn.nspname = 'pg_catalog'
           AND pg_catalog.pg_table_is_visible(c.oid) AND has_schema_privilege(n.oid, 'USAGE') ORDER BY a.attnum",
    );
    assert_eq!(found.len(), 18, "every type of a column is in pg_type: {found:?}");
    let f = r#"{"nspname":"bronze","relname":"t","attname":"f","typname":"numeric","type":"numeric(12,2)","owner":"duckdb"}"#;
    assert_eq!(found[5], f);
    let count = |sql: &str| answer(&connection, sql)[0].clone();
    assert_eq!(count("SELECT count(DISTINCT oid) = count(*) AS one FROM pg_type"), r#"{"one":true}"#);
    assert_eq!(count("SELECT objsubid, description FROM pg_description"), r#"{"objsubid":1,"description":"a comment"}"#);
    assert_eq!(count("SELECT string_agg(datname, ',' ORDER BY datname) AS d FROM pg_database"), r#"{"d":"Gold,lake"}"#);
    assert_eq!(
        count("SELECT current_schemas(true) AS s, current_schemas(false)[1] AS t"),
        r#"{"s":["bronze","pg_catalog"],"t":"bronze"}"#
    );
    assert_eq!(count("SELECT quote_ident('a\"b') AS q"), r#"{"q":"\"a\"\"b\""}"#);
}

#[test]
fn a_clients_name_in_a_definition_is_nothing_but_a_text() {
    let connection = lakehouse();
    let catalogs = ["it's {schema}".to_owned()];
    for schema in ["{catalog}{types}'", "'); DROP TABLE t; --", "{schema}", "{", "}", "a\"b", "\\'"] {
        let scope = Scope::new(&catalogs, "it's {schema}", schema);
        let verdict =
            judge(&mut DuckParser::new(), &scope, "SELECT current_schemas(false)[1] AS s, datname FROM pg_database").unwrap();
        make(&connection, &verdict);
        let expected = format!(r#"{{"s":{},"datname":"it's {{schema}}"}}"#, serde_json::Value::from(schema));
        assert_eq!(rows(&connection, &verdict.sql), [expected]);
    }
    assert_eq!(rows(&connection, "SELECT count(*) AS n FROM t"), [r#"{"n":0}"#]);
}

#[test]
fn a_listing_is_no_larger_than_the_statement_can_be_seen_to_need() {
    let part = |sql: &str| {
        let verdict = judged(sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        let wanted = &verdict.listings[0];
        let all = wanted
            .any_of
            .iter()
            .map(|one| [&one.catalogs, &one.schemas, &one.tables].map(|patterns| patterns.join("|")).join(" "));
        format!("{}: {}", wanted.name, all.collect::<Vec<_>>().join(", "))
    };
    for (sql, expected) in [
        ("SELECT * FROM information_schema.columns WHERE table_name = 'a_b' AND 'gold' = table_schema", "columns:  gold a\\_b"),
        (
            "SELECT * FROM information_schema.columns c WHERE c.table_catalog = 'lake' AND (true AND c.table_schema IN ('x', 'y'))",
            "columns: lake x|y ",
        ),
        ("SELECT * FROM information_schema.tables WHERE table_name LIKE 'a%' AND table_type = 'BASE TABLE'", "tables:   a%"),
        ("SELECT * FROM pg_tables WHERE schemaname = 'x' AND tablename = 'y'", "tables: lake x y"),
        ("SELECT * FROM pg_class", "tables: lake  "),
        ("SHOW TABLES", "tables: lake  "),
        ("SHOW TABLES FROM gold.mart", "tables: Gold  "),
        (
            "SELECT * FROM information_schema.tables WHERE table_schema = current_schema() AND table_catalog = current_database()",
            "tables: lake bronze ",
        ),
        ("SELECT * FROM pg_namespace", "schemata: lake  "),
        (
            "SELECT * FROM information_schema.tables t JOIN information_schema.schemata s ON true WHERE t.table_name = 'x'",
            "tables:   x",
        ),
        // What is not a condition on every row, or not surely one on this table, narrows nothing.
        ("SELECT * FROM information_schema.columns WHERE table_name = 'x' OR table_schema = 'y'", "columns: "),
        ("SELECT * FROM information_schema.columns WHERE NOT table_name = 'x'", "columns: "),
        ("SELECT * FROM information_schema.columns WHERE table_name = ?", "columns: "),
        ("SELECT * FROM information_schema.columns WHERE lower(table_name) = 'x'", "columns: "),
        ("SELECT * FROM information_schema.columns WHERE table_name NOT IN ('x')", "columns: "),
        ("SELECT * FROM information_schema.columns WHERE table_name = column_name", "columns: "),
        ("SELECT (table_name = 'x') FROM information_schema.columns", "columns: "),
        ("SELECT * FROM information_schema.columns AS c(table_name) WHERE table_name = 'x'", "columns: "),
        ("SELECT * FROM information_schema.columns TABLESAMPLE 10% WHERE table_name = 'x'", "columns: "),
        ("SELECT * FROM information_schema.tables, (SELECT 1 AS x) AS q WHERE table_name = 'x'", "tables: "),
        ("SELECT * FROM information_schema.tables t POSITIONAL JOIN range(3) WHERE t.table_name = 'x'", "tables: "),
        (
            "SELECT * FROM information_schema.tables t ASOF JOIN information_schema.tables u ON t.table_name >= u.table_name WHERE u.table_name = 'x'",
            "tables: ",
        ),
        (
            "SELECT * FROM information_schema.tables WHERE table_name = 'x' UNION ALL SELECT * FROM information_schema.tables",
            "tables: ",
        ),
        // Two parts of one listing.
        (
            "SELECT * FROM information_schema.tables WHERE table_name = 'x' UNION ALL SELECT * FROM information_schema.tables WHERE table_schema = 'y'",
            "tables:   x,  y ",
        ),
    ] {
        assert_eq!(part(sql), expected, "{sql}");
    }
    assert_eq!(listings(&judged("SELECT * FROM pg_type, pg_database, information_schema.views").unwrap()), [""; 0]);
    let columns = ["pg_class", "pg_namespace", "pg_tables", "pg_views", "pg_index", "pg_constraint"];
    for table in columns {
        let verdict = judged(&format!("SELECT * FROM pg_catalog.{table}")).unwrap();
        assert!(!listings(&verdict).contains(&"columns"), "{table} loads every table");
    }
}
