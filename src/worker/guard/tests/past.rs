//! What reads the past: which tables, when, and what becomes of the text once it is known which snapshots stand for it.

use super::super::{PastAt, PastRead, Refusal, Scope, Verdict, judge};
use super::{DuckParser, judged, listings};
use crate::wire::proto::Class;

fn in_the_past(sql: &str) -> Verdict {
    let catalogs = ["lake".to_owned(), "Gold".to_owned()];
    let scope = Scope::new(&catalogs, "lake", "bronze").in_the_past(true);
    judge(&mut DuckParser::new(), &scope, sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"))
}

/// The text that runs when the reads get the snapshots 1, 2, 3, …, and `none` of them has one.
fn settled(sql: &str, session: bool, none: Option<usize>) -> String {
    let catalogs = ["lake".to_owned(), "Gold".to_owned()];
    let scope = Scope::new(&catalogs, "lake", "bronze").in_the_past(session);
    let mut parser = DuckParser::new();
    let first = judge(&mut parser, &scope, sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
    let snapshot = |at: usize| i64::try_from(at + 1).ok().filter(|_| none != Some(at));
    let versions: Vec<_> = first.past.iter().cloned().enumerate().map(|(at, read)| (read, snapshot(at))).collect();
    let again = judge(&mut parser, &scope.with_versions(&versions), sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
    assert_eq!((again.class, &again.tables, &again.past), (first.class, &first.tables, &first.past), "{sql}");
    again.sql
}

fn reads(verdict: &Verdict) -> Vec<(String, PastAt)> {
    verdict.past.iter().map(|PastRead { table, at }| (table.table.clone(), at.clone())).collect()
}

#[test]
fn every_table_of_a_session_in_the_past_is_read_then() {
    for (sql, expected) in [
        ("SELECT * FROM t", "SELECT * FROM lake.bronze.t AT (VERSION => '1')"),
        ("FROM t AS x(k) JOIN silver.u ON k = u.a", "lake.bronze.t AS x(k) AT (VERSION => '1')"),
        ("FROM t AS x(k) JOIN silver.u ON k = u.a", "lake.silver.u AT (VERSION => '2')"),
        ("SELECT (SELECT max(a) FROM t) AS m", "FROM lake.bronze.t AT (VERSION => '1')"),
        ("WITH c AS (FROM t) SELECT * FROM c", "FROM lake.bronze.t AT (VERSION => '1')"),
        ("SELECT filename FROM t", "FROM lake.bronze.t AT (VERSION => '1')"),
        ("SUMMARIZE t", "FROM lake.bronze.t AT (VERSION => '1')"),
        ("EXPLAIN FROM t", "FROM lake.bronze.t AT (VERSION => '1')"),
        ("CALL range((SELECT max(a) FROM t))", "FROM lake.bronze.t AT (VERSION => '1')"),
        // Its own AT comes before the session's.
        ("SELECT * FROM t AT (VERSION => 7)", "AT (VERSION => '1')"),
        ("FROM t PIVOT (sum(x) FOR y IN ('a'))", "lake.bronze.t AT (VERSION => '1')"),
    ] {
        let text = settled(sql, true, None);
        assert!(text.contains(expected), "{sql}: {text}");
        assert_eq!(in_the_past(sql).class, Class::TimeTravel, "{sql}");
    }
    assert_eq!(reads(&in_the_past("FROM t, t AS u")), [("t".to_owned(), PastAt::Session)]);
    for sql in ["SELECT 1", "FROM information_schema.tables", "SHOW TABLES", "DESCRIBE t", "FROM range(3)"] {
        let verdict = in_the_past(sql);
        assert_eq!((verdict.class, verdict.past), (Class::Read, Vec::new()), "{sql}");
    }
}

#[test]
fn a_table_without_snapshots_has_no_rows_whatever_is_committed_meanwhile() {
    let text = settled("SELECT * FROM t, u", true, Some(0));
    assert_eq!(text, "SELECT * FROM lake.bronze.t TABLESAMPLE Reservoir(0 ROWS) , lake.bronze.u AT (VERSION => '2')");
    // Here the rows are there already: the statement must not see them.
    let parser = DuckParser::new();
    let connection = &parser.connection;
    connection.execute_batch("ATTACH ':memory:' AS lake; CREATE SCHEMA lake.bronze; CREATE SCHEMA lake.silver").unwrap();
    connection.execute_batch("CREATE TABLE lake.bronze.t AS SELECT 1 AS a, 'x' AS b FROM range(5000)").unwrap();
    for (sql, columns) in [
        ("FROM t", 2),
        ("SELECT t.b, bronze.t.a FROM bronze.t", 2),
        ("FROM t AS x(k)", 2),
        ("SELECT k FROM lake.bronze.t AS x(k) WHERE k = 1", 1),
        ("FROM t AT (TIMESTAMP => now())", 2),
        ("FROM t TABLESAMPLE 50 PERCENT (bernoulli)", 2),
        ("FROM t LIMIT 3", 2),
        ("WITH c AS (FROM t) SELECT b FROM c", 1),
        ("SELECT b, max(a) FROM t GROUP BY b", 2),
        ("SELECT * FROM (SELECT (SELECT max(a) FROM t) AS m) WHERE m IS NOT NULL", 1),
    ] {
        let text = settled(sql, true, Some(0));
        let mut statement = connection.prepare(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let rows = statement.query_arrow([]).unwrap();
        assert_eq!(rows.get_schema().fields().len(), columns, "{text}");
        assert_eq!(rows.map(|batch| batch.num_rows()).sum::<usize>(), 0, "{text}");
    }
}

#[test]
fn beside_the_past_the_present_is_held_to_one_snapshot() {
    let sql = "FROM t AS o AT (TIMESTAMP => now() - INTERVAL 1 DAY) JOIN t USING (a) JOIN u AT (VERSION => 'audited') USING (a)";
    let expected = [
        ("t".to_owned(), PastAt::Timestamp("(now() - to_days(CAST(trunc(CAST(1 AS DOUBLE)) AS INTEGER)))".to_owned())),
        ("u".to_owned(), PastAt::Version("'audited'".to_owned())),
        ("t".to_owned(), PastAt::Now),
    ];
    assert_eq!(reads(&judged(sql).unwrap()), expected);
    let text = settled(sql, false, None);
    for (table, version) in [("t AS o", 1), ("t", 3), ("u", 2)] {
        assert!(text.contains(&format!("lake.bronze.{table} AT (VERSION => '{version}')")), "{text}");
    }
    assert_eq!(reads(&judged("FROM t").unwrap()), []);
    // A write sees the head of its target and of what it reads now.
    let write = judged("INSERT INTO t SELECT * FROM u AT (VERSION => 3), v").unwrap();
    assert_eq!(reads(&write), [("u".to_owned(), PastAt::Version("3".to_owned()))]);
}

#[test]
fn at_takes_values_that_are_known_before_the_statement_runs() {
    for (sql, told) in [
        ("FROM t AT (VERSION => ?)", "AT takes no parameter"),
        ("FROM t AT (TIMESTAMP => $1::TIMESTAMP)", "AT takes no parameter"),
        ("FROM t AT (VERSION => (SELECT 1))", "AT takes a value, no query"),
        ("FROM t AT (VERSION => 1 + (SELECT max(a) FROM u))", "AT takes a value, no query"),
        ("FROM t AT (VERSION => row_number() OVER ())", "without columns"),
    ] {
        let refusal = judged(sql).unwrap_err();
        assert!(matches!(&refusal, Refusal::Unsupported(text) if text.contains(told)), "{sql}: {refusal}");
    }
}

#[test]
fn functions_that_show_metadata_become_listings() {
    for (sql, part, table, version) in [
        ("FROM table_snapshots('silver.t')", "snapshots", "lake.silver.t", ""),
        ("FROM TABLE_HISTORY('t')", "history", "lake.bronze.t", ""),
        ("FROM table_files('gold.mart.\"T x\"')", "files", "Gold.mart.T x", ""),
        ("FROM table_files('t', version => 8028069877581103214)", "files", "lake.bronze.t", "8028069877581103214"),
        ("FROM table_partitions('t', version := 'audited') AS p", "partitions", "lake.bronze.t", "audited"),
        ("CALL table_files('t')", "files", "lake.bronze.t", ""),
        ("SUMMARIZE FROM table_files('t')", "files", "lake.bronze.t", ""),
        ("EXPLAIN FROM table_files('t')", "files", "lake.bronze.t", ""),
        ("WITH f AS (FROM table_files('t')) SELECT (SELECT count(*) FROM f)", "files", "lake.bronze.t", ""),
    ] {
        let verdict = judged(sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        let [listing] = verdict.listings.as_slice() else { panic!("{sql}: {:?}", verdict.listings) };
        let about = listing.about.as_ref().unwrap();
        let named = about.table.as_ref().map(|table| format!("{}.{}.{}", table.catalog, table.schema, table.table));
        assert_eq!((about.part.as_str(), named.as_deref(), about.version.as_str()), (part, Some(table), version), "{sql}");
        assert!(verdict.sql.contains(&format!("main.listed_{}", listing.name)), "{sql}: {}", verdict.sql);
        assert_eq!((verdict.class, verdict.tables.len()), (Class::Read, 0), "{sql}");
    }
    // The same twice is one listing, another is another.
    let verdict =
        judged("FROM table_files('t') a, table_files('bronze.t') b, table_files('T') c, table_files('t', version => 1) d")
            .unwrap();
    assert_eq!(verdict.listings.len(), 3, "{:?}", listings(&verdict));
    // A name of its own in the statement, as functions have it.
    assert!(judged("SELECT table_files.content FROM table_files('t')").unwrap().sql.contains("AS table_files"));
    // What was read must not be rebased.
    assert_eq!(judged("INSERT INTO u SELECT snapshot_id FROM table_history('t')").unwrap().class, Class::OtherWrite);
}

#[test]
fn calls_that_name_no_table_are_refused() {
    for sql in [
        "FROM table_files()",
        "FROM table_files(t)",
        "FROM table_files(?)",
        "FROM table_files(NULL)",
        "FROM table_files(1)",
        "FROM table_files('')",
        "FROM table_files('t', 1)",
        "FROM table_files('t', 'u')",
        "FROM table_files('t', version => ?)",
        "FROM table_files('t', version => (SELECT 1))",
        "FROM table_files('t', version => '')",
        "FROM table_files('t', other => 1)",
        "FROM table_files(t => 't')",
        "FROM table_history('t', version => 1)",
        "FROM table_files('a.b.c.d')",
        "FROM table_files('t; DROP TABLE t')",
        "FROM table_files('t, u')",
        "FROM table_files('t AT (VERSION => 1)')",
        "FROM table_files('nowhere.bronze.t')",
        "FROM table_files('pg_catalog.pg_class')",
        "FROM table_files('''/etc/passwd''')",
        "FROM table_files('/etc/passwd')",
        "FROM table_files('\"/etc/passwd\"')",
        "FROM table_files('a.b.parquet')",
        "FROM table_files('s3://bucket/t')",
        "FROM table_files((SELECT 't'))",
        "FROM table_files('t' || 'u')",
        "FROM table_files('t') WITH ORDINALITY",
        "FROM x.table_files('t')",
        "FROM t, LATERAL table_files(t.a)",
        "SELECT table_files('t')",
        "FROM temp.main.listed_files_0",
    ] {
        assert!(judged(sql).is_err(), "{sql}");
    }
}

#[test]
fn set_as_of_changes_the_session_only() {
    for (sql, value) in [
        ("SET as_of = '2026-03-01T12:00:00Z'", "2026-03-01T12:00:00Z"),
        ("SET SESSION AS_OF TO '~'", "~"),
        ("SET as_of = DEFAULT", ""),
        ("SET as_of TO NULL", ""),
        ("RESET as_of", ""),
        ("RESET SESSION as_of;", ""),
    ] {
        let verdict = judged(sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        assert_eq!(verdict.session.unwrap().as_of.as_deref(), Some(value), "{sql}");
        assert_eq!((verdict.class, verdict.sql.as_str()), (Class::Session, ""), "{sql}");
    }
    for sql in [
        "SET as_of",
        "SET as_of = now()",
        "SET GLOBAL as_of = '2026'",
        "RESET as_of = 'x'",
        "RESET threads",
        "RESET",
        "SET as_of = 'a' 'b'",
    ] {
        assert!(judged(sql).is_err(), "{sql}");
    }
}
