//! What queries become: names in full, tables found, listings, session functions, classes.

use super::{DuckParser, judged, judged_by, listings, tables};
use crate::wire::proto::Class;
use crate::worker::guard::{Scope, judge};

/// Query, class, tables, and a piece of the text that runs.
pub(super) const CASES: &[(&str, Class, &[&str], &str)] = &[
    ("SELECT 1", Class::Read, &[], "SELECT 1"),
    ("select 1;", Class::Read, &[], "SELECT 1"),
    ("-- a; comment\nselect /* ; /* nested */ */ 1 ; -- end", Class::Read, &[], "SELECT 1"),
    ("SELECT ';' AS \"a;b\", $$;$$", Class::Read, &[], "';' AS \"a;b\""),
    ("FROM t", Class::Read, &["lake.bronze.t"], "FROM lake.bronze.t"),
    ("SELECT * FROM silver.t", Class::Read, &["lake.silver.t"], "FROM lake.silver.t"),
    ("SELECT * FROM gold.t", Class::Read, &["Gold.bronze.t"], "FROM Gold.bronze.t"),
    ("SELECT * FROM GOLD.mart.t", Class::Read, &["Gold.mart.t"], "FROM Gold.mart.t"),
    ("SELECT * FROM \"a.b\".t", Class::Read, &["lake.a.b.t"], "FROM lake.\"a.b\".t"),
    ("SELECT * FROM \"Größe\".\"weird \"\"name\"", Class::Read, &["lake.Größe.weird \"name"], "\"weird \"\"name\""),
    ("SELECT bronze.t.x FROM bronze.t", Class::Read, &["lake.bronze.t"], "SELECT bronze.t.x FROM lake.bronze.t"),
    ("SELECT * FROM t, u JOIN t AS v USING (x)", Class::Read, &["lake.bronze.t", "lake.bronze.u"], "AS v"),
    (
        "SELECT (SELECT max(x) FROM u), EXISTS (FROM v) FROM t WHERE x IN (FROM w)",
        Class::Read,
        &["lake.bronze.t", "lake.bronze.u", "lake.bronze.v", "lake.bronze.w"],
        "",
    ),
    ("SELECT * FROM t AT (VERSION => 3)", Class::TimeTravel, &["lake.bronze.t"], "lake.bronze.t AT (VERSION => 3)"),
    (
        "SELECT * FROM t AT (TIMESTAMP => now() - INTERVAL 1 DAY), u",
        Class::TimeTravel,
        &["lake.bronze.t", "lake.bronze.u"],
        "AT (TIMESTAMP =>",
    ),
    ("SELECT (SELECT max(x) FROM t AT (VERSION => 3))", Class::TimeTravel, &["lake.bronze.t"], ""),
    ("SELECT * FROM txt, bronze.delta", Class::Read, &["lake.bronze.delta", "lake.bronze.txt"], ""),
    ("WITH csv AS (SELECT 1) SELECT * FROM csv", Class::Read, &[], ""),
    ("WITH t AS (SELECT 1) SELECT * FROM t", Class::Read, &[], "FROM t"),
    ("WITH T AS (SELECT 1) SELECT * FROM t", Class::Read, &[], "FROM t"),
    ("WITH \"É\" AS (SELECT 1) SELECT * FROM \"é\"", Class::Read, &["lake.bronze.é"], ""),
    (
        "WITH t AS (SELECT * FROM t) SELECT * FROM t",
        Class::Read,
        &["lake.bronze.t"],
        "(SELECT * FROM lake.bronze.t)SELECT * FROM t",
    ),
    ("WITH t AS (SELECT 1) SELECT * FROM bronze.t", Class::Read, &["lake.bronze.t"], "FROM lake.bronze.t"),
    ("WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", Class::Read, &["lake.bronze.b"], "FROM lake.bronze.b"),
    ("(WITH t AS (SELECT 1 AS x) SELECT * FROM t) UNION ALL SELECT x FROM t", Class::Read, &["lake.bronze.t"], "UNION"),
    ("SELECT * FROM (WITH t AS (SELECT 1 AS x) SELECT * FROM t) AS q, t", Class::Read, &["lake.bronze.t"], ""),
    (
        "WITH RECURSIVE r AS (SELECT x FROM t UNION ALL SELECT x + 1 FROM r, u WHERE x < 3) SELECT * FROM r",
        Class::Read,
        &["lake.bronze.t", "lake.bronze.u"],
        "FROM r",
    ),
    (
        "WITH RECURSIVE r AS (SELECT x FROM r UNION ALL SELECT x + 1 FROM r WHERE x < 3) SELECT * FROM r",
        Class::Read,
        &["lake.bronze.r"],
        "",
    ),
    ("SELECT ?, $2 FROM t LIMIT ? OFFSET ?", Class::Read, &["lake.bronze.t"], "$1"),
    ("SELECT $a, $b, $a", Class::Read, &[], "$a"),
    ("SELECT * FROM t LIMIT $1", Class::Read, &["lake.bronze.t"], "LIMIT $1"),
    (
        "SELECT current_schema(), current_database(), current_schema, current_catalog",
        Class::Read,
        &[],
        "SELECT 'bronze' AS \"current_schema()\", 'lake' AS \"current_database()\"",
    ),
    ("SELECT pg_catalog.current_schema() AS s WHERE current_schema() = 'x'", Class::Read, &[], "('bronze' = 'x')"),
    ("SELECT t.current_schema FROM t", Class::Read, &["lake.bronze.t"], "SELECT t.current_schema FROM"),
    ("SELECT version(), current_user, current_date, now(), pg_typeof(1)", Class::Read, &[], "now()"),
    ("SELECT y.upper() FROM t", Class::Read, &["lake.bronze.t"], "upper(y)"),
    ("SELECT 'x'::JSON, 'y'::ENUM('y'), 1::UTINYINT, [1]::INT[], {'a': 1}::STRUCT(a BIGINT)", Class::Read, &[], ""),
    ("PIVOT t ON y IN ('a', 'b') USING sum(x)", Class::Read, &["lake.bronze.t"], "PIVOT"),
    ("UNPIVOT t ON a, b INTO NAME n VALUE v", Class::Read, &["lake.bronze.t"], "UNPIVOT"),
    ("EXPLAIN SELECT * FROM t", Class::Read, &["lake.bronze.t"], "EXPLAIN SELECT * FROM lake.bronze.t"),
    ("explain (format json) (from t)", Class::Read, &["lake.bronze.t"], "EXPLAIN (FORMAT json) SELECT * FROM lake.bronze.t"),
    ("EXPLAIN (FORMAT TEXT) select 1", Class::Read, &[], "EXPLAIN SELECT 1"),
    (
        "EXPLAIN ANALYZE SELECT * FROM t",
        Class::Read,
        &["lake.bronze.t"],
        "EXPLAIN (ANALYZE, FORMAT json) SELECT * FROM lake.bronze.t",
    ),
    ("EXPLAIN (FORMAT text, ANALYZE) (SELECT 1)", Class::Read, &[], "EXPLAIN (ANALYZE, FORMAT json) SELECT 1"),
    ("EXPLAIN ANALYZE FROM t AT (VERSION => 3)", Class::TimeTravel, &["lake.bronze.t"], "EXPLAIN (ANALYZE, FORMAT json) SELECT"),
    ("CALL range(3)", Class::Read, &[], "SELECT * FROM \"range\"(3)"),
    ("call pg_timezone_names();", Class::Read, &[], "SELECT * FROM pg_timezone_names()"),
    ("EXPLAIN (SELECT 1)", Class::Read, &[], "EXPLAIN SELECT 1"),
    ("EXPLAIN FROM t AT (VERSION => 3)", Class::TimeTravel, &["lake.bronze.t"], "EXPLAIN SELECT"),
    ("EXPLAIN UPDATE t SET x = 1 FROM u", Class::TimeTravel, &["lake.bronze.t", "lake.bronze.u"], "EXPLAIN UPDATE \"lake\""),
    ("EXPLAIN INSERT INTO t VALUES (1)", Class::TimeTravel, &["lake.bronze.t"], "EXPLAIN INSERT INTO \"lake\""),
    (
        "EXPLAIN WITH a AS (SELECT 1) DELETE FROM t USING a",
        Class::TimeTravel,
        &["lake.bronze.t"],
        "EXPLAIN WITH a AS (SELECT 1) DELETE",
    ),
    ("DESCRIBE SELECT * FROM t", Class::Read, &["lake.bronze.t"], "DESCRIBE SELECT * FROM lake.bronze.t"),
    ("DESC (WITH a AS (FROM t) FROM a)", Class::Read, &["lake.bronze.t"], "DESCRIBE WITH a AS"),
    ("DESCRIBE VALUES (1, 2)", Class::Read, &[], "DESCRIBE VALUES (1, 2)"),
    ("SUMMARIZE t", Class::Read, &["lake.bronze.t"], "SUMMARIZE SELECT * FROM lake.bronze.t"),
    ("SUMMARIZE TABLE gold.mart.\"a b\"", Class::Read, &["Gold.mart.a b"], "SUMMARIZE SELECT * FROM Gold.mart.\"a b\""),
    ("SUMMARIZE SELECT x FROM t AT (VERSION => 3)", Class::TimeTravel, &["lake.bronze.t"], "SUMMARIZE SELECT x"),
    ("SELECT error('no')", Class::Read, &[], "('no')"),
];

#[test]
fn queries_are_classed_and_their_names_filled_in() {
    let mut parser = DuckParser::new();
    for (sql, class, expected, piece) in CASES {
        let verdict = judged_by(&mut parser, sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        assert_eq!(verdict.class, *class, "{sql}");
        let mut found = tables(&verdict);
        found.sort();
        assert_eq!(found, *expected, "{sql}");
        assert!(verdict.sql.contains(piece), "{sql}\nwas rebuilt as\n{}", verdict.sql);
        assert_eq!((verdict.target, verdict.creates_target, verdict.session), (None, false, None), "{sql}");
        let again = judged_by(&mut parser, &verdict.sql).unwrap_or_else(|refusal| panic!("{}: {refusal}", verdict.sql));
        assert_eq!(again.sql, verdict.sql, "the rebuilt text is judged as itself");
        assert_eq!((again.class, again.tables), (verdict.class, verdict.tables), "{sql}");
    }
}

#[test]
fn listings_are_read_from_their_temporary_tables() {
    let verdict =
        judged("SELECT table_name FROM information_schema.tables WHERE information_schema.tables.table_schema = 'bronze'")
            .unwrap();
    assert_eq!(
        verdict.sql,
        "SELECT table_name FROM \"temp\".main.listed_information_schema_tables AS \"tables\" WHERE (\"tables\".table_schema = 'bronze')"
    );
    assert_eq!((verdict.listings[0].name.as_str(), verdict.tables), ("tables", vec![]));
    let verdict =
        judged("SELECT * FROM lake.INFORMATION_SCHEMA.Columns AS c JOIN information_schema.schemata AS s ON true, t").unwrap();
    assert_eq!(listings(&verdict), ["columns", "schemata"]);
    assert_eq!(tables(&verdict), ["lake.bronze.t"]);
}

#[test]
fn what_runs_is_the_rebuilt_text_never_the_clients_bytes() {
    for sql in [
        "SELECT /* client */ 1",
        "SELECT 1 -- client",
        "INSERT /* client */ INTO t /* client */ VALUES (1 /* client */)",
        "CREATE /* client */ TABLE t (x /* client */ INT)",
        "DROP TABLE /* client */ t",
        "SHOW /* client */ TABLES",
        "WITH a AS (SELECT 1 /* client */) INSERT INTO t SELECT * FROM a",
        "CREATE TABLE t AS /* client */ SELECT 1 AS x",
    ] {
        let verdict = judged(sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        assert!(!verdict.sql.contains("client"), "{}", verdict.sql);
    }
}

#[test]
fn a_quoted_current_schema_is_a_column() {
    assert_eq!(judged("SELECT \"current_schema\" FROM t").unwrap().sql, "SELECT current_schema FROM lake.bronze.t");
    assert_eq!(judged("SELECT current_schema FROM t").unwrap().sql, "SELECT 'bronze' AS current_schema FROM lake.bronze.t");
}

#[test]
fn only_queries_without_parameters_can_be_a_part_of_another() {
    let mut parser = DuckParser::new();
    let mut embeds = |sql: &str| judged_by(&mut parser, sql).unwrap_or_else(|error| panic!("{sql}: {error}")).embeds;
    for sql in [
        "SELECT a FROM bronze.t",
        "FROM bronze.t",
        "WITH x AS (SELECT 1 AS a) SELECT * FROM x",
        "SELECT a FROM bronze.t UNION SELECT 1 ORDER BY 1",
        "SELECT '$1', '?', j ->> '$.a' FROM bronze.t",
    ] {
        assert!(embeds(sql), "{sql}");
    }
    for sql in [
        "SELECT a FROM bronze.t WHERE a = $1",
        "SELECT a FROM bronze.t WHERE a = ?",
        "SELECT a FROM bronze.t WHERE a IN (SELECT ?)",
        "WITH x AS (SELECT $1 AS a) SELECT * FROM x",
        "SELECT a FROM bronze.t LIMIT ?",
        "EXPLAIN SELECT a FROM bronze.t",
        "EXPLAIN ANALYZE SELECT a FROM bronze.t",
        "INSERT INTO bronze.t SELECT 1",
        "CREATE TABLE bronze.u AS SELECT 1 AS a",
        "UPDATE bronze.t SET a = 1",
    ] {
        assert!(!embeds(sql), "{sql}");
    }
}

#[test]
fn only_constants_are_constant() {
    let mut parser = DuckParser::new();
    for sql in [
        "SELECT 1",
        "select 1 as ok, 'it''s', NULL, true, 1.5, -1, 1e3",
        "SELECT 1::BIGINT, CAST('x' AS VARCHAR)",
        "SELECT current_schema()",
    ] {
        assert!(judged_by(&mut parser, sql).unwrap().constant, "{sql}");
    }
    for sql in [
        "SELECT now()",
        "SELECT current_timestamp",
        "SELECT current_date",
        "SELECT age(TIMESTAMP '2020-01-01')",
        "SELECT random()",
        "SELECT 1 + 1",
        "SELECT DATE '2020-01-01'",
        "SELECT '2020-01-01 00:00:00'::TIMESTAMPTZ",
        "SELECT '12:00'::TIMETZ",
        "SELECT ?",
        "SELECT ?::BIGINT",
        "SELECT [1]",
        "SELECT (SELECT 1)",
        "SELECT (1)::VARCHAR::DATE",
        "SELECT 1 FROM t",
        "SELECT 1 FROM range(3)",
        "SELECT 1 FROM information_schema.tables",
        "SELECT 1 WHERE false",
        "SELECT 1 LIMIT 1",
        "SELECT 1 ORDER BY 1",
        "SELECT DISTINCT 1",
        "SELECT 1 USING SAMPLE 10%",
        "SELECT 1 UNION ALL SELECT 2",
        "WITH q AS (SELECT random()) SELECT 1",
        "VALUES (1)",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "DESCRIBE SELECT 1",
        "SUMMARIZE SELECT 1",
        "CALL range(3)",
        "INSERT INTO t SELECT 1",
        "CREATE TABLE t2 AS SELECT 1 AS a",
        "USE bronze",
    ] {
        if let Ok(verdict) = judged_by(&mut parser, sql) {
            assert!(!verdict.constant, "{sql}");
        }
    }
}

#[test]
fn a_few_rows_or_their_number_are_a_glance() {
    let mut parser = DuckParser::new();
    for sql in [
        "SELECT * FROM t LIMIT 10",
        "FROM t LIMIT 10 OFFSET 20",
        "SELECT a, b::VARCHAR, 1 FROM t LIMIT 1000",
        "SELECT * EXCLUDE (a) FROM t LIMIT 10",
        "SELECT * FROM (SELECT * FROM t) AS q LIMIT 10",
        "SELECT a FROM (SELECT a, b FROM t LIMIT 500) LIMIT 10",
        "SELECT count(*) FROM t",
        "SELECT count(*) AS n FROM silver.t",
    ] {
        assert!(judged_by(&mut parser, sql).unwrap().glance, "{sql}");
    }
    for sql in [
        "SELECT * FROM t",
        "SELECT * FROM t LIMIT 10000000",
        "SELECT * FROM t LIMIT 10 OFFSET 10000000",
        "SELECT * FROM t LIMIT 10 PERCENT",
        "SELECT * FROM t LIMIT (SELECT max(a) FROM t)",
        "SELECT * FROM t LIMIT ?",
        "SELECT * FROM t WHERE a = 1 LIMIT 10",
        "SELECT * FROM t ORDER BY a LIMIT 10",
        "SELECT DISTINCT a FROM t LIMIT 10",
        "SELECT sum(a) FROM t LIMIT 10",
        "SELECT sum(a)::BIGINT FROM t LIMIT 10",
        "SELECT * REPLACE (sum(a) OVER () AS a) FROM t LIMIT 10",
        "SELECT a FROM t GROUP BY a LIMIT 10",
        "SELECT * FROM t, u LIMIT 10",
        "SELECT * FROM (SELECT * FROM t ORDER BY a) LIMIT 10",
        "SELECT * FROM (SELECT sum(a) FROM t) LIMIT 10",
        "WITH q AS (SELECT * FROM t) SELECT * FROM q LIMIT 10",
        "SELECT * FROM t TABLESAMPLE 10 ROWS LIMIT 10",
        "SELECT count(*) FROM t WHERE a = 1",
        "SELECT count(*) FILTER (WHERE a = 1) FROM t",
        "SELECT count(a) FROM t",
        "SELECT count(*), max(a) FROM t",
        "SELECT count(*) FROM (SELECT DISTINCT a FROM t)",
        "SELECT * FROM t LIMIT 10 UNION ALL SELECT * FROM t",
    ] {
        if let Ok(verdict) = judged_by(&mut parser, sql) {
            assert!(!verdict.glance, "{sql}");
        }
    }
}

#[test]
fn a_query_of_one_tables_columns_says_which_they_are() {
    let mut parser = DuckParser::new();
    let mut told = |sql: &str| {
        let columns = judged_by(&mut parser, sql).ok()?.columns?;
        let shown = columns.shown.iter().map(|column| match (column.name.as_str(), column.alias.as_str()) {
            ("", _) => "*".to_owned(),
            (name, "") => name.to_owned(),
            (name, alias) => format!("{name}={alias}"),
        });
        Some(shown.chain(columns.needed.iter().map(|name| format!("+{name}"))).collect::<Vec<_>>().join(" "))
    };
    for (sql, columns) in [
        ("SELECT * FROM t", "*"),
        ("FROM silver.t LIMIT 10 OFFSET 5", "*"),
        ("SELECT a, t.*, a AS b, T.a FROM lake.bronze.t", "a * a=b a"),
        ("SELECT x.a, x.* FROM t AS x ORDER BY b DESC, x.c LIMIT 10000000000", "a * +b +c"),
        ("TABLE t", "*"),
        ("SELECT \"say \"\"x\"\"\" FROM t", "say \"x\""),
    ] {
        assert_eq!(told(sql).as_deref(), Some(columns), "{sql}");
    }
    for sql in [
        "SELECT * AS x FROM t",
        "SELECT t.* x FROM t",
        "SELECT x: * FROM t",
        "SELECT *, * FROM t",
        "SELECT t.a FROM t AS x",
        "SELECT s.a.b FROM t",
        "SELECT bronze.t.a FROM t",
        "SELECT a + 1 FROM t",
        "SELECT 1 FROM t",
        "SELECT count(*) FROM t",
        "SELECT a::INTEGER FROM t",
        "SELECT DISTINCT a FROM t",
        "SELECT a FROM t WHERE a = 1",
        "SELECT a FROM t GROUP BY a",
        "SELECT a FROM t QUALIFY row_number() OVER () = 1",
        "SELECT a FROM t USING SAMPLE 10 ROWS",
        "SELECT a FROM t TABLESAMPLE 10 ROWS",
        "SELECT a FROM t ORDER BY a + 1",
        "SELECT a FROM t ORDER BY 1",
        "SELECT a FROM t ORDER BY ALL",
        "SELECT a FROM t LIMIT 'x'",
        "SELECT a FROM t LIMIT -1",
        "SELECT a FROM t LIMIT 10 PERCENT",
        "SELECT a FROM t LIMIT ?",
        "SELECT a FROM t LIMIT 1 OFFSET ?",
        "SELECT * EXCLUDE (a) FROM t",
        "SELECT * REPLACE (1 AS a) FROM t",
        "SELECT * RENAME (a AS b) FROM t",
        "SELECT * LIKE 'a%' FROM t",
        "SELECT COLUMNS('a') FROM t",
        "SELECT COLUMNS(*) FROM t",
        "SELECT u.* FROM t",
        "SELECT x FROM t AS q(x)",
        "SELECT * FROM t, u",
        "SELECT * FROM t JOIN t AS u USING (a)",
        "SELECT * FROM (SELECT * FROM t)",
        "WITH t AS (SELECT 1 AS a) SELECT * FROM t",
        "WITH q AS (SELECT 1) SELECT * FROM t",
        "SELECT * FROM t UNION ALL SELECT * FROM t",
        "SELECT * FROM t AT (VERSION => 1)",
        "SELECT filename FROM t",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM range(3)",
        "SELECT * FROM table_snapshots('t')",
        "EXPLAIN SELECT * FROM t",
        "SUMMARIZE t",
        "DESCRIBE t",
        "INSERT INTO t SELECT * FROM u",
        "CREATE TABLE t AS SELECT * FROM u",
    ] {
        assert_eq!(told(sql), None, "{sql}");
    }
    for (many, told_so) in [(1_000, true), (1_001, false)] {
        let names = vec!["a"; many].join(", ");
        assert_eq!(told(&format!("SELECT {names} FROM t")).is_some(), told_so);
        assert_eq!(told(&format!("SELECT a FROM t ORDER BY {names}")).is_some(), told_so);
    }
    let verdict = judge(&mut parser, &Scope::new(&["lake".to_owned()], "lake", "bronze").in_the_past(true), "FROM t").unwrap();
    assert_eq!(verdict.columns, None);
}
