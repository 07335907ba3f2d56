//! INSERT, CREATE, DROP, SHOW, DESCRIBE, USE.

use duckdb::Connection;

use super::{DuckParser, judged, judged_by, tables};
use crate::wire::proto::Class;

/// Statement, class, tables read, and the text that runs.
const CASES: &[(&str, Class, &[&str], &str)] = &[
    (
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        Class::BlindInsert,
        &[],
        "INSERT INTO \"lake\".\"bronze\".\"t\" VALUES (1, 'a'), (2, 'b')",
    ),
    (
        "insert into gold.mart.t (a, \"b c\") values (?, $2)",
        Class::BlindInsert,
        &[],
        "INSERT INTO \"Gold\".\"mart\".\"t\" (\"a\", \"b c\") VALUES ($1, $2)",
    ),
    ("INSERT INTO t VALUES (1 + 1, upper('x'), [1], {'a': 1})", Class::BlindInsert, &[], ""),
    ("INSERT INTO t SELECT 1", Class::BlindInsert, &[], "INSERT INTO \"lake\".\"bronze\".\"t\" SELECT 1"),
    ("INSERT INTO t (SELECT 1)", Class::BlindInsert, &[], "INSERT INTO \"lake\".\"bronze\".\"t\" SELECT 1"),
    ("INSERT INTO t (a) (SELECT 1)", Class::BlindInsert, &[], "(\"a\") SELECT 1"),
    ("INSERT INTO t SELECT * FROM range(10)", Class::BlindInsert, &[], ""),
    ("INSERT INTO t FROM u", Class::OtherWrite, &["lake.bronze.u"], "SELECT * FROM lake.bronze.u"),
    ("INSERT INTO t SELECT * FROM t", Class::OtherWrite, &["lake.bronze.t"], ""),
    ("INSERT INTO t VALUES ((SELECT max(x) FROM t))", Class::OtherWrite, &["lake.bronze.t"], ""),
    ("INSERT INTO t SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM t)", Class::OtherWrite, &["lake.bronze.t"], ""),
    ("INSERT INTO t SELECT count(*) FROM information_schema.tables", Class::OtherWrite, &[], ""),
    ("INSERT INTO t WITH a AS (SELECT * FROM u) SELECT 1", Class::OtherWrite, &["lake.bronze.u"], ""),
    ("WITH a AS (SELECT 1 AS x) INSERT INTO t SELECT * FROM a", Class::BlindInsert, &[], ""),
    (
        "WITH a AS (SELECT * FROM u), b(x) AS MATERIALIZED (FROM a) INSERT INTO t SELECT * FROM b",
        Class::OtherWrite,
        &["lake.bronze.u"],
        "",
    ),
    ("WITH insert AS (SELECT 1 AS x) INSERT INTO t SELECT * FROM insert", Class::BlindInsert, &[], ""),
    (
        "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r WHERE x < 3) INSERT INTO t FROM r",
        Class::BlindInsert,
        &[],
        "",
    ),
    ("WITH a AS (SELECT 1) INSERT INTO t VALUES ((FROM a))", Class::BlindInsert, &[], ""),
    ("INSERT INTO t BY NAME SELECT 1 AS b", Class::BlindInsert, &[], "\"t\" BY NAME SELECT 1 AS b"),
    ("INSERT INTO t (from, values) VALUES (1, 2)", Class::BlindInsert, &[], "(\"from\", \"values\")"),
    ("INSERT INTO t SELECT * FROM u AT (VERSION => 1)", Class::OtherWrite, &["lake.bronze.u"], ""),
    (
        "INSERT INTO t SELECT 1 FROM u JOIN conflict ON conflict.x = u.x",
        Class::OtherWrite,
        &["lake.bronze.u", "lake.bronze.conflict"],
        "",
    ),
    ("CREATE TABLE t AS WITH data AS (SELECT 1 AS x) SELECT * FROM data", Class::Ddl, &[], ""),
    ("CREATE SCHEMA s", Class::Ddl, &[], "CREATE SCHEMA \"lake\".\"s\""),
    ("CREATE SCHEMA IF NOT EXISTS gold.\"a.b\"", Class::Ddl, &[], "CREATE SCHEMA IF NOT EXISTS \"Gold\".\"a.b\""),
    (
        "CREATE TABLE t (x INT NOT NULL, \"y z\" TEXT)",
        Class::Ddl,
        &[],
        "CREATE TABLE \"lake\".\"bronze\".\"t\" (\"x\" INTEGER NOT NULL, \"y z\" VARCHAR)",
    ),
    (
        "create table if not exists s.t (a decimal(10,2), b double precision null, c timestamp with time zone, d int[][], e struct(f int, g map(text, date)), h varchar(20), i numeric)",
        Class::Ddl,
        &[],
        "CREATE TABLE IF NOT EXISTS \"lake\".\"s\".\"t\" (\"a\" DECIMAL(10, 2), \"b\" DOUBLE, \"c\" TIMESTAMP WITH TIME ZONE, \"d\" INTEGER[][], \"e\" STRUCT(\"f\" INTEGER, \
         \"g\" MAP(VARCHAR, DATE)), \"h\" VARCHAR, \"i\" DECIMAL(18, 3))",
    ),
    (
        "CREATE TABLE t (x INT, d DATE) PARTITIONED BY (x, bucket(4, x), DAY(d), truncate(x, 10), identity(d)) WITH ('format-version' = 3, 'write.target-file-size-bytes' = '1000')",
        Class::Ddl,
        &[],
        "PARTITIONED BY (\"x\", bucket(4, \"x\"), day(\"d\"), truncate(10, \"x\"), \"d\") WITH ('format-version' = '3', 'write.target-file-size-bytes' = '1000')",
    ),
    ("CREATE TABLE t AS SELECT 1 AS x", Class::Ddl, &[], "CREATE TABLE \"lake\".\"bronze\".\"t\" AS SELECT 1 AS x"),
    (
        "CREATE TABLE IF NOT EXISTS t PARTITIONED BY (x) AS SELECT x FROM u",
        Class::Ddl,
        &["lake.bronze.u"],
        "\"t\" PARTITIONED BY (\"x\") AS SELECT x FROM lake.bronze.u",
    ),
    ("CREATE TABLE t AS WITH a AS (SELECT 1 AS x) FROM a", Class::Ddl, &[], ""),
    ("CREATE TABLE t AS VALUES (1, 2)", Class::Ddl, &[], ""),
    ("DROP TABLE t", Class::Ddl, &[], "DROP TABLE \"lake\".\"bronze\".\"t\""),
    ("DROP TABLE IF EXISTS gold.mart.t", Class::Ddl, &[], "DROP TABLE IF EXISTS \"Gold\".\"mart\".\"t\""),
    ("DROP SCHEMA IF EXISTS s RESTRICT", Class::Ddl, &[], "DROP SCHEMA IF EXISTS \"lake\".\"s\""),
];

#[test]
fn writes_and_ddl_are_classed_and_rebuilt() {
    let mut parser = DuckParser::new();
    for (sql, class, expected, text) in CASES {
        let verdict = judged_by(&mut parser, sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        assert_eq!(verdict.class, *class, "{sql}");
        assert_eq!(tables(&verdict), *expected, "{sql}");
        assert!(verdict.sql.contains(text), "{sql}\nwas rebuilt as\n{}", verdict.sql);
        let upper = sql.to_uppercase();
        assert_eq!(verdict.target.is_some(), !upper.contains("SCHEMA "), "{sql}");
        assert_eq!(verdict.creates_target, upper.starts_with("CREATE TABLE"), "{sql}");
        if !verdict.listings.is_empty() {
            continue;
        }
        let again = judged_by(&mut parser, &verdict.sql).unwrap_or_else(|refusal| panic!("{}: {refusal}", verdict.sql));
        assert_eq!(again.sql, verdict.sql, "the rebuilt text is judged as itself");
        assert_eq!((again.class, again.tables, again.target), (verdict.class, verdict.tables, verdict.target), "{sql}");
    }
}

#[test]
fn an_insert_that_reads_anything_is_never_blind() {
    for sql in [
        "INSERT INTO t SELECT * FROM t",
        "INSERT INTO t VALUES (1), ((SELECT 1 FROM t LIMIT 1))",
        "INSERT INTO t SELECT 1 ORDER BY (SELECT max(x) FROM u)",
        "INSERT INTO t SELECT 1 LIMIT (SELECT max(x) FROM u)",
        "INSERT INTO t SELECT list_transform([1], e -> (SELECT max(x) FROM u))",
        "INSERT INTO t SELECT CASE WHEN EXISTS (FROM u) THEN 1 END",
        "INSERT INTO t SELECT sum(1) FILTER (WHERE 1 IN (FROM u))",
        "INSERT INTO t SELECT sum(1) OVER (ORDER BY (SELECT max(x) FROM u))",
        "INSERT INTO t SELECT * FROM unnest((SELECT list(x) FROM u))",
        "INSERT INTO t WITH a AS (FROM u) SELECT 1",
        "INSERT INTO t SELECT 1 UNION ALL FROM u",
        "INSERT INTO t SELECT * FROM range(3), u",
        "INSERT INTO t SELECT 1 QUALIFY row_number() OVER (ORDER BY (SELECT max(x) FROM u)) = 1",
        "INSERT INTO t WITH t AS (SELECT 1) SELECT * FROM bronze.t",
        "WITH a AS (SELECT 1 FROM u) INSERT INTO t VALUES (1)",
    ] {
        let verdict = judged(sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        assert_eq!(verdict.class, Class::OtherWrite, "{sql}");
        assert!(!verdict.tables.is_empty(), "{sql}");
    }
}

#[test]
fn an_insert_gives_its_parameters_the_types_of_the_columns() {
    let mut parser = DuckParser::new();
    parser
        .connection
        .execute_batch(
            "ATTACH ':memory:' AS lake; CREATE SCHEMA lake.bronze; CREATE TABLE lake.bronze.t (a TIMESTAMP, b DECIMAL(5, 2))",
        )
        .unwrap();
    for sql in ["INSERT INTO t VALUES (?, ?)", "INSERT INTO t (b, a) VALUES ($2, $1), ('1.5', '2020-01-01')"] {
        let verdict = judged_by(&mut parser, sql).unwrap();
        let mut statement = parser.connection.prepare(&verdict.sql).unwrap();
        statement.execute(["2020-01-01 00:00:00", "2.25"]).unwrap();
    }
    let count: i64 =
        parser.connection.query_row("SELECT count(*) FROM lake.bronze.t WHERE a IS NOT NULL", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 3);
}

#[test]
fn rebuilt_ddl_is_what_duckdb_parses() {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("ATTACH ':memory:' AS lake; CREATE SCHEMA lake.bronze").unwrap();
    for sql in [
        "CREATE TABLE t (x INT NOT NULL, y STRUCT(\"a b\" INT)[], z MAP(TEXT, UUID))",
        "CREATE TABLE u AS VALUES (1, 2)",
        "DROP TABLE IF EXISTS t",
        "CREATE SCHEMA s",
        "DROP SCHEMA s",
    ] {
        let verdict = judged(sql).unwrap();
        connection.execute_batch(&verdict.sql).unwrap_or_else(|error| panic!("{}: {error}", verdict.sql));
    }
    // DuckDB's own tables cannot be partitioned; that it says so shows that the text was parsed.
    let verdict =
        judged("CREATE TABLE p (x INT, d DATE) PARTITIONED BY (bucket(4, x), day(d)) WITH ('format-version' = 3)").unwrap();
    let error = connection.execute_batch(&verdict.sql).unwrap_err().to_string();
    assert!(error.contains("not supported for tables in a duckdb catalog"), "{error}");
}

#[test]
fn show_and_describe_read_listings() {
    let connection = Connection::open_in_memory().unwrap();
    connection
        .execute_batch(
            "CREATE TEMP TABLE listed_schemata (catalog_name VARCHAR, schema_name VARCHAR);
             INSERT INTO listed_schemata VALUES ('lake', 'bronze'), ('Gold', 'mart');
             CREATE TEMP TABLE listed_tables (table_catalog VARCHAR, table_schema VARCHAR, table_name VARCHAR, table_type VARCHAR);
             INSERT INTO listed_tables VALUES ('lake', 'bronze', 't', 'BASE TABLE'), ('Gold', 'mart', 'u', 'BASE TABLE'), ('Gold', 'x', 'v', 'BASE TABLE');
             CREATE TEMP TABLE listed_described (table_catalog VARCHAR, table_schema VARCHAR, table_name VARCHAR, column_name VARCHAR,
                 ordinal_position INTEGER, column_default VARCHAR, is_nullable VARCHAR, data_type VARCHAR, comment VARCHAR);
             INSERT INTO listed_described VALUES ('lake', 'bronze', 't', 'b', 2, NULL, 'YES', 'VARCHAR', NULL),
                 ('lake', 'bronze', 't', 'a', 1, NULL, 'NO', 'INTEGER', NULL), ('Gold', 'mart', 'u', 'c', 1, NULL, 'YES', 'DATE', NULL);",
        )
        .unwrap();
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("SHOW TABLES", &["tables"], &["name=t"]),
        ("show tables from Gold.mart;", &["tables"], &["name=u"]),
        ("SHOW TABLES FROM gold", &["tables"], &["name=u", "name=v"]),
        ("SHOW TABLES IN bronze", &["tables"], &["name=t"]),
        (
            "SHOW ALL TABLES",
            &["tables"],
            &[
                "database=Gold schema=mart name=u temporary=false",
                "database=Gold schema=x name=v temporary=false",
                "database=lake schema=bronze name=t temporary=false",
            ],
        ),
        (
            "SHOW SCHEMAS",
            &["schemata"],
            &["database_name=Gold schema_name=mart current=false", "database_name=lake schema_name=bronze current=true"],
        ),
        ("SHOW DATABASES", &[], &["database_name=Gold", "database_name=lake"]),
        ("SHOW CATALOGS", &[], &["database_name=Gold", "database_name=lake"]),
        (
            "DESCRIBE t",
            &["described"],
            &[
                "column_name=a column_type=INTEGER null=NO key=NULL default=NULL extra=NULL",
                "column_name=b column_type=VARCHAR null=YES key=NULL default=NULL extra=NULL",
            ],
        ),
        ("DESC gold.mart.U", &["described"], &["column_name=c column_type=DATE null=YES key=NULL default=NULL extra=NULL"]),
        (
            "SHOW COLUMNS FROM bronze.t",
            &["described"],
            &[
                "column_name=a column_type=INTEGER null=NO key=NULL default=NULL extra=NULL",
                "column_name=b column_type=VARCHAR null=YES key=NULL default=NULL extra=NULL",
            ],
        ),
        (
            "DESCRIBE TABLE \"t\"",
            &["described"],
            &[
                "column_name=a column_type=INTEGER null=NO key=NULL default=NULL extra=NULL",
                "column_name=b column_type=VARCHAR null=YES key=NULL default=NULL extra=NULL",
            ],
        ),
        (
            "SHOW t",
            &["described"],
            &[
                "column_name=a column_type=INTEGER null=NO key=NULL default=NULL extra=NULL",
                "column_name=b column_type=VARCHAR null=YES key=NULL default=NULL extra=NULL",
            ],
        ),
    ];
    for (sql, listings, expected) in cases {
        let verdict = judged(sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        assert_eq!((verdict.class, super::listings(&verdict).as_slice()), (Class::Read, *listings), "{sql}");
        assert_eq!(verdict.tables.len(), usize::from(*listings == ["described"]), "{sql}");
        let mut statement = connection.prepare(&verdict.sql).unwrap_or_else(|error| panic!("{}: {error}", verdict.sql));
        let mut rows = statement.query([]).unwrap();
        let mut found = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let names = row.as_ref().column_names();
            let cells = names.iter().enumerate().map(|(at, name)| match row.get::<_, duckdb::types::Value>(at).unwrap() {
                duckdb::types::Value::Text(text) => format!("{name}={text}"),
                duckdb::types::Value::Boolean(flag) => format!("{name}={flag}"),
                duckdb::types::Value::Null => format!("{name}=NULL"),
                other => format!("{name}={other:?}"),
            });
            found.push(cells.collect::<Vec<_>>().join(" "));
        }
        assert_eq!(found, *expected, "{sql}");
    }
}

#[test]
fn use_changes_the_session_only() {
    let cases = [
        ("USE gold", "Gold", "bronze"),
        ("USE silver;", "lake", "silver"),
        ("use gold.mart", "Gold", "mart"),
        ("USE \"lake\".\"a.b\"", "lake", "a.b"),
        ("SET schema = 'silver'", "lake", "silver"),
        ("SET SESSION schema TO gold.mart", "Gold", "mart"),
        ("SET schema = '\"Gold\".\"m\"'", "Gold", "m"),
        ("SET schema = 'gold'", "lake", "gold"),
    ];
    for (sql, catalog, schema) in cases {
        let verdict = judged(sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        let session = verdict.session.unwrap();
        assert_eq!((session.catalog.as_str(), session.schema.as_str()), (catalog, schema), "{sql}");
        assert_eq!((verdict.class, verdict.sql.as_str(), verdict.tables.len()), (Class::Session, "", 0), "{sql}");
    }
}
