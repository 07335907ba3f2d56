//! UPDATE, DELETE, TRUNCATE, MERGE and ALTER TABLE.

use duckdb::Connection;

use super::{DuckParser, judged, judged_by, tables};
use crate::wire::proto::Class;

/// Statement, tables read, and the text that runs.
const CHANGES: &[(&str, &[&str], &str)] = &[
    ("UPDATE t SET x = 1", &[], "UPDATE \"lake\".\"bronze\".\"t\" SET \"x\" = 1"),
    (
        "update t as q set x = q.x + 1, \"y z\" = upper(s) where q.x is not distinct from 3",
        &[],
        "UPDATE \"lake\".\"bronze\".\"t\" AS \"q\" SET \"x\" = (q.x + 1), \"y z\" = upper(s) WHERE (q.x IS NOT DISTINCT FROM 3)",
    ),
    (
        "UPDATE t SET x = a IS DISTINCT FROM b FROM u WHERE u.a = t.a",
        &["u"],
        "SET \"x\" = (a IS DISTINCT FROM b) FROM lake.bronze.u WHERE (u.a = t.a)",
    ),
    (
        "UPDATE t q SET x = CASE WHEN y THEN 1 ELSE 2 END WHERE CASE WHEN y THEN true END",
        &[],
        " SET \"x\" = CASE  WHEN (y) THEN (1) ELSE 2 END WHERE ",
    ),
    (
        "UPDATE t SET x = [1, 2], y = {'a': 1, 'b': 2}, z = (SELECT max(x) FROM u, v)",
        &["u", "v"],
        "\"z\" = (SELECT max(x) FROM lake.bronze.u , lake.bronze.v)",
    ),
    ("UPDATE t SET x = u.from, y = u.where, z = u.end, w = u.case FROM u", &["u"], "\"x\" = u.\"from\", \"y\" = u.\"where\""),
    ("UPDATE t SET x = s.k FROM (VALUES (1, 2)) AS s(k, v) JOIN u ON u.a = s.k, v WHERE s.k = t.x", &["u", "v"], "AS s(k, v)"),
    ("UPDATE t SET x = ?, y = ? WHERE z = ?", &[], "SET \"x\" = $1, \"y\" = $2 WHERE (z = $3)"),
    ("UPDATE t SET x = $2 WHERE z = $1", &[], "SET \"x\" = $2 WHERE (z = $1)"),
    ("UPDATE t SET x = current_schema, y = current_database() || '?'", &[], "SET \"x\" = 'bronze', \"y\" = ('lake' || '?')"),
    (
        "WITH a AS (SELECT * FROM u) UPDATE t SET x = (FROM a) FROM a WHERE a.x = t.x",
        &["u"],
        "WITH a AS (SELECT * FROM lake.bronze.u) UPDATE",
    ),
    ("WITH update AS (SELECT 1 AS x), b AS (FROM update) UPDATE t SET x = (FROM b)", &[], "SET \"x\" = (SELECT * FROM b)"),
    ("UPDATE t SET x = (SELECT max(x) FROM u AT (VERSION => 3))", &["u"], "AT (VERSION => 3)"),
    ("UPDATE t SET x = 1e3", &[], "SET \"x\" = "),
    ("DELETE FROM gold.mart.t", &[], "DELETE FROM \"Gold\".\"mart\".\"t\""),
    ("DELETE FROM t q WHERE q.x = 1", &[], "DELETE FROM \"lake\".\"bronze\".\"t\" AS \"q\" WHERE (q.x = 1)"),
    ("DELETE FROM t USING u, v AS w WHERE u.x = t.x", &["u", "v"], "USING lake.bronze.u , lake.bronze.v AS w WHERE"),
    ("WITH a AS (SELECT ? AS x) DELETE FROM t USING a WHERE a.x = t.x AND t.y > ?", &[], "WITH a AS (SELECT $1 AS x) DELETE"),
    ("DELETE FROM t WHERE EXISTS (FROM information_schema.tables)", &[], "listed_information_schema_tables"),
    ("TRUNCATE t", &[], "TRUNCATE \"lake\".\"bronze\".\"t\""),
    ("truncate table t;", &[], "TRUNCATE \"lake\".\"bronze\".\"t\""),
    (
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED AND u.b = CASE WHEN t.a = 1 THEN 2 ELSE 3 END THEN UPDATE SET b = u.b, c = 1 WHEN MATCHED THEN DELETE \
         WHEN NOT MATCHED THEN INSERT (a, \"b c\") VALUES (u.a, [1, 2])",
        &["u"],
        "THEN UPDATE SET \"b\" = u.b, \"c\" = 1 WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (\"a\", \"b c\") VALUES (u.a, main.list_value(1, 2))",
    ),
    (
        "merge into t as x using (select * from u join v using (a)) as s using (a) when not matched by source and x.a > 1 then delete when not matched by target then insert *",
        &["u", "v"],
        "USING (\"a\") WHEN NOT MATCHED BY SOURCE AND (x.a > 1) THEN DELETE WHEN NOT MATCHED BY TARGET THEN INSERT *",
    ),
    (
        "MERGE INTO t USING u ON true WHEN MATCHED THEN DO NOTHING WHEN NOT MATCHED THEN INSERT BY NAME *",
        &["u"],
        "THEN DO NOTHING WHEN NOT MATCHED THEN INSERT BY NAME",
    ),
    (
        "MERGE INTO t USING u ON true WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN ERROR 'no ' || u.a",
        &["u"],
        "UPDATE SET * WHEN NOT MATCHED THEN ERROR ('no ' || u.a)",
    ),
    (
        "MERGE INTO t USING u ON true WHEN MATCHED THEN ERROR WHEN NOT MATCHED THEN INSERT VALUES (?, u.b)",
        &["u"],
        "THEN ERROR WHEN NOT MATCHED THEN INSERT VALUES ($1, u.b)",
    ),
    (
        "WITH s AS (SELECT 1 AS a) MERGE INTO t USING s ON s.a = t.a WHEN MATCHED THEN UPDATE BY NAME",
        &[],
        "MERGE INTO \"lake\".\"bronze\".\"t\" USING s ON (s.a = t.a)",
    ),
];

#[test]
fn changes_of_rows_are_classed_and_rebuilt() {
    let mut parser = DuckParser::new();
    for (sql, expected, text) in CHANGES {
        let verdict = judged_by(&mut parser, sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        assert_eq!(verdict.class, Class::OtherWrite, "{sql}");
        let expected: Vec<String> = expected.iter().map(|table| format!("lake.bronze.{table}")).collect();
        assert_eq!(tables(&verdict), expected, "{sql}");
        assert!(verdict.sql.contains(text), "{sql}\nwas rebuilt as\n{}", verdict.sql);
        assert!(verdict.target.is_some() && !verdict.creates_target, "{sql}");
        if verdict.listings.is_empty() {
            let again = judged_by(&mut parser, &verdict.sql).unwrap_or_else(|refusal| panic!("{}: {refusal}", verdict.sql));
            assert_eq!(again.sql, verdict.sql, "the rebuilt text is judged as itself");
        }
    }
}

const ALTERS: &[(&str, &str)] = &[
    ("ALTER TABLE t ADD COLUMN x INT", "ALTER TABLE \"lake\".\"bronze\".\"t\" ADD COLUMN \"x\" INTEGER"),
    (
        "alter table if exists gold.mart.t add if not exists \"x y\" decimal(10,2) null",
        "IF EXISTS \"Gold\".\"mart\".\"t\" ADD COLUMN IF NOT EXISTS \"x y\" DECIMAL(10, 2)",
    ),
    ("ALTER TABLE t DROP COLUMN IF EXISTS x CASCADE", "DROP COLUMN IF EXISTS \"x\""),
    ("ALTER TABLE t DROP x", "DROP COLUMN \"x\""),
    ("ALTER TABLE t RENAME COLUMN x TO y", "RENAME COLUMN \"x\" TO \"y\""),
    ("ALTER TABLE t RENAME x TO y", "RENAME COLUMN \"x\" TO \"y\""),
    ("ALTER TABLE t RENAME TO \"u v\"", "\"t\" RENAME TO \"u v\""),
    ("ALTER TABLE t ALTER COLUMN x TYPE BIGINT", "ALTER COLUMN \"x\" TYPE BIGINT"),
    ("ALTER TABLE t ALTER x SET DATA TYPE double precision", "ALTER COLUMN \"x\" TYPE DOUBLE"),
    ("ALTER TABLE t SET PARTITIONED BY (day(d), bucket(4, x), y)", "SET PARTITIONED BY (day(\"d\"), bucket(4, \"x\"), \"y\")"),
    ("ALTER TABLE t RESET PARTITIONED BY", "\"t\" RESET PARTITIONED BY"),
];

#[test]
fn alter_table_is_rebuilt_as_ddl() {
    let mut parser = DuckParser::new();
    for (sql, text) in ALTERS {
        let verdict = judged_by(&mut parser, sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        assert_eq!((verdict.class, verdict.creates_target), (Class::Ddl, false), "{sql}");
        assert!(verdict.sql.contains(text), "{sql}\nwas rebuilt as\n{}", verdict.sql);
        // A table that must be there is loaded first, so that its absence is told as such.
        assert_eq!(verdict.tables.len(), usize::from(!verdict.sql.contains("IF EXISTS \"Gold\"")), "{sql}");
        let again = judged_by(&mut parser, &verdict.sql).unwrap_or_else(|refusal| panic!("{}: {refusal}", verdict.sql));
        assert_eq!(again.sql, verdict.sql, "the rebuilt text is judged as itself");
    }
}

/// The rebuilt text does in DuckDB's own tables what the client's text does there.
#[test]
fn rebuilt_changes_do_what_the_clients_text_does() {
    const SET_UP: &str = "ATTACH ':memory:' AS lake; CREATE SCHEMA lake.bronze; USE lake.bronze;
        CREATE TABLE t (a INTEGER, b VARCHAR, c INTEGER[]); CREATE TABLE u (a INTEGER, b VARCHAR);
        INSERT INTO t VALUES (1, 'x', [1]), (2, 'y', NULL), (3, NULL, [3, 4]); INSERT INTO u VALUES (1, 'one'), (3, 'three'), (9, 'nine')";
    let rows = |sql: &str| -> (usize, String) {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SET_UP).unwrap();
        let changed = connection.execute(sql, []).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text: Option<String> =
            connection.query_row("SELECT string_agg(t::VARCHAR, ';' ORDER BY a, b) FROM t", [], |row| row.get(0)).unwrap();
        (changed, text.unwrap_or_default())
    };
    for sql in [
        "UPDATE t SET b = u.b FROM u WHERE u.a = t.a",
        "UPDATE t AS q SET a = q.a + 10, b = CASE WHEN b IS NULL THEN 'null' ELSE b || '!' END WHERE b IS DISTINCT FROM 'y'",
        "UPDATE bronze.t SET c = list_transform(c, e -> e + 1), b = (SELECT max(b) FROM u WHERE u.a = t.a)",
        "UPDATE t SET a = a - 1 - 1 * 2, b = 'it''s' WHERE NOT (a = 1 OR a = 2) AND true",
        "UPDATE t SET b = s.v FROM (VALUES (1, 'p'), (2, 'q')) AS s(k, v) LEFT JOIN u ON u.a = s.k WHERE s.k = t.a AND u.a IS NULL",
        "WITH s AS (SELECT 2 AS k), r AS (SELECT k + 1 AS k FROM s) UPDATE t SET b = 'r' FROM r WHERE r.k = t.a",
        "DELETE FROM t USING u, (SELECT 1 AS one) AS o WHERE u.a = t.a AND o.one = t.a",
        "DELETE FROM t WHERE a BETWEEN 2 AND 3 AND c IS NOT NULL",
        "TRUNCATE TABLE t",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED AND t.a = 1 THEN UPDATE SET b = u.b WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (a, b) VALUES (u.a, u.b)",
        "MERGE INTO t AS x USING (SELECT a, b FROM u WHERE a > 1) AS s USING (a) WHEN MATCHED THEN UPDATE BY NAME WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN NOT MATCHED THEN INSERT BY NAME",
        "WITH s AS (SELECT 3 AS a) MERGE INTO t USING s ON s.a = t.a WHEN MATCHED THEN UPDATE SET c = [s.a, 5]",
    ] {
        let verdict = judged(sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        assert_eq!(rows(&verdict.sql), rows(sql), "{sql}\nwas rebuilt as\n{}", verdict.sql);
    }
}
