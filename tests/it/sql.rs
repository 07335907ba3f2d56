//! The sqllogictest files under `tests/slt/`, each over Flight on a gateway of its own.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType};
use tonic::transport::Channel;

use crate::harness::{Gateway, query, root};

struct OverFlight(FlightSqlServiceClient<Channel>);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

#[async_trait::async_trait]
impl AsyncDB for OverFlight {
    type Error = Failed;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let batches = query(&mut self.0, sql).await.map_err(|s| Failed(format!("{:?}: {}", s.code(), s.message())))?;
        let columns = batches.first().map_or(0, |b| b.num_columns());
        if columns == 0 {
            return Ok(DBOutput::StatementComplete(0));
        }
        let failed = |e: arrow::error::ArrowError| Failed(e.to_string());
        let options = FormatOptions::default().with_null("NULL");
        let mut rows = Vec::new();
        for batch in &batches {
            let formatters: Result<Vec<_>, _> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect();
            let formatters = formatters.map_err(failed)?;
            for row in 0..batch.num_rows() {
                let text = |f: &ArrayFormatter<'_>| {
                    let text = f.value(row).to_string();
                    if text.is_empty() { "(empty)".to_owned() } else { text }
                };
                rows.push(formatters.iter().map(text).collect());
            }
        }
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows })
    }

    async fn shutdown(&mut self) {}
}

#[tokio::test]
async fn sqllogictest_files() {
    let mut files: Vec<_> = std::fs::read_dir(root().join("tests/slt")).expect("tests/slt").flatten().map(|e| e.path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let gateway = Gateway::start();
        let mut runner = sqllogictest::Runner::new(async || Ok(OverFlight(gateway.client().await)));
        if let Err(error) = runner.run_file_async(&file).await {
            panic!("{}", error.display(false));
        }
    }
}

/// The snapshots of `lake.bronze.t`, oldest first.
fn snapshots(gateway: &Gateway) -> Vec<i64> {
    let schema = gateway.dir.path().join("lake/bronze");
    let tables: Vec<_> = std::fs::read_dir(schema).expect("the schema's folder").flatten().collect();
    let table = tables.iter().find(|entry| entry.file_name().to_string_lossy().starts_with("t-")).expect("the table's folder");
    let metadata = std::fs::read_dir(table.path().join("metadata")).expect("metadata").flatten().map(|entry| entry.path());
    let mut versions: Vec<_> = metadata.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect();
    versions.sort_by_key(|path| std::fs::metadata(path).and_then(|file| file.modified()).expect("a time"));
    let newest = std::fs::read_to_string(versions.last().expect("a version")).expect("a text");
    let newest: serde_json::Value = serde_json::from_str(&newest).expect("JSON");
    let number = |snapshot: &serde_json::Value, field: &str| snapshot[field].as_i64().expect("a number");
    let mut snapshots: Vec<_> = newest["snapshots"].as_array().expect("snapshots").iter().collect();
    snapshots.sort_by_key(|snapshot| number(snapshot, "sequence-number"));
    snapshots.into_iter().map(|snapshot| number(snapshot, "snapshot-id")).collect()
}

#[tokio::test]
async fn the_past_is_read_and_described_by_version() {
    let gateway = Gateway::start();
    for sql in [
        "CREATE SCHEMA lake.bronze",
        "CREATE TABLE lake.bronze.t (a BIGINT)",
        "INSERT INTO lake.bronze.t VALUES (1)",
        "INSERT INTO lake.bronze.t VALUES (2), (3)",
        "CREATE TABLE lake.bronze.copy (a BIGINT)",
    ] {
        gateway.run(sql).await;
    }
    let [first, second] = snapshots(&gateway)[..] else { panic!("two snapshots") };
    let past = format!("lake.bronze.t AS old AT (VERSION => {first})");
    assert_eq!(gateway.value(&format!("SELECT count(*) FROM {past}")).await, "1");
    assert_eq!(gateway.value(&format!("SELECT count(*) FROM lake.bronze.t AT (VERSION => {second})")).await, "3");
    assert_eq!(gateway.value(&format!("SELECT count(*) FROM {past} JOIN lake.bronze.t USING (a)")).await, "1");
    let mut client = gateway.client().await;
    let insert = format!("INSERT INTO lake.bronze.copy SELECT a + ? FROM {past}");
    let prepared = client.prepare(insert, None).await.expect("an INSERT from the past is described");
    assert_eq!(prepared.parameter_schema().expect("parameters").fields().len(), 1);
    gateway.run(&format!("INSERT INTO lake.bronze.copy SELECT a FROM {past}")).await;
    gateway.run(&format!("CREATE TABLE lake.bronze.old AS FROM {past}")).await;
    gateway.run(&format!("UPDATE lake.bronze.copy SET a = (SELECT 10 + max(a) FROM {past})")).await;
    assert_eq!(gateway.value("SELECT max(o.a) + max(c.a) FROM lake.bronze.copy AS c, lake.bronze.old AS o").await, "12");
    assert_eq!(gateway.value(&format!("EXPLAIN ANALYZE FROM {past}")).await, "analyzed_plan");
}

#[tokio::test]
async fn a_parameter_in_a_cast_has_its_type_beside_one_that_has_none() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let types = async |client: &mut FlightSqlServiceClient<Channel>, sql: &str| {
        let prepared = client.prepare(sql.to_owned(), None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text = |schema: &arrow::datatypes::Schema| {
            schema.fields().iter().map(|field| field.data_type().to_string()).collect::<Vec<_>>().join(" ")
        };
        let columns = prepared.dataset_schema().expect("columns");
        (text(prepared.parameter_schema().expect("parameters")), text(columns))
    };
    for (sql, parameters, columns) in [
        ("SELECT ?, CAST(? AS INTEGER)", "Utf8 Int32", "Utf8 Int32"),
        ("SELECT ?::DATE, ?, TRY_CAST(? AS DECIMAL(9,2))", "Date32 Utf8 Decimal128(9, 2)", "Date32 Utf8 Decimal128(9, 2)"),
        // Two casts that differ settle nothing.
        ("SELECT $2, $1::BIGINT, $1::DATE", "Utf8 Utf8", "Utf8 Int64 Date32"),
        ("SELECT CAST(? AS INTEGER) + 1", "Int32", "Int32"),
        ("EXPLAIN SELECT ?", "Utf8", "Utf8 Utf8"),
        ("EXPLAIN ANALYZE SELECT ?", "Utf8", "Utf8 Utf8"),
    ] {
        assert_eq!(types(&mut client, sql).await, (parameters.to_owned(), columns.to_owned()), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_one_name_keep_it_in_what_is_told_and_in_the_rows() {
    let gateway = Gateway::start();
    for sql in ["CREATE SCHEMA lake.gold", "CREATE TABLE lake.gold.t AS SELECT i AS id, i * 2 AS id_1 FROM range(3) r(i)"] {
        gateway.run(sql).await;
    }
    let mut client = gateway.client().await;
    for (sql, names) in [
        ("SELECT * FROM lake.gold.t", "id id_1"),
        ("SELECT * FROM lake.gold.t a JOIN lake.gold.t b ON a.id = b.id", "id id_1 id id_1"),
        ("SELECT id, id_1, id FROM lake.gold.t", "id id_1 id"),
        ("SELECT count(*), count(*), max(id) FROM lake.gold.t", "count_star() count_star() max(id)"),
        ("SELECT id, ID, Id_1 FROM lake.gold.t ORDER BY id DESC LIMIT 1", "id id id_1"),
        ("WITH a AS (SELECT id FROM lake.gold.t) SELECT * FROM a, a AS b", "id id"),
        ("SELECT id, id FROM lake.gold.t UNION ALL SELECT 7, 8", "id id"),
    ] {
        let prepared = client.prepare(sql.to_owned(), None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let of =
            |schema: &arrow::datatypes::Schema| schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(" ");
        let told = of(prepared.dataset_schema().expect("columns"));
        let batches = query(&mut client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(of(&batches[0].schema()), told, "{sql}");
        assert_eq!(told, names, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_a_tables_columns_is_what_comes() {
    let gateway = Gateway::start();
    let types = [
        "BOOLEAN",
        "INTEGER",
        "BIGINT",
        "FLOAT",
        "DOUBLE",
        "DECIMAL(9,2)",
        "DECIMAL(38,10)",
        "DATE",
        "TIME",
        "TIMESTAMP",
        "TIMESTAMPTZ",
        "VARCHAR",
        "UUID",
        "BLOB",
        "INTEGER[]",
        "STRUCT(a INTEGER, b VARCHAR[])",
        "MAP(VARCHAR, BIGINT)",
    ];
    let columns: Vec<String> = types.iter().enumerate().map(|(at, sql_type)| format!("c{at} {sql_type}")).collect();
    for sql in [
        "CREATE SCHEMA lake.gold".to_owned(),
        format!("CREATE TABLE lake.gold.every ({})", columns.join(", ")),
        format!("CREATE TABLE lake.gold.plain ({}, \"Mixed Case\" INTEGER NOT NULL)", columns[..14].join(", ")),
        "INSERT INTO lake.gold.plain (c1, \"Mixed Case\") VALUES (1, 7), (2, 8)".to_owned(),
    ] {
        gateway.run(&sql).await;
    }
    let mut client = gateway.client().await;
    let mut compared = 0;
    for (sql, rows) in [
        ("SELECT * FROM lake.gold.every", 0),
        ("SELECT * FROM lake.gold.plain", 2),
        ("FROM lake.gold.plain ORDER BY \"Mixed Case\" DESC LIMIT 1", 1),
        ("SELECT p.*, c1 AS \"C1\", P.c2 FROM lake.gold.plain AS p LIMIT 7 OFFSET 1", 1),
        ("SELECT *, c2, * FROM lake.gold.plain", 2),
        ("SELECT * AS x FROM lake.gold.plain", 2),
        ("SELECT c2 AS c1, c1 AS c2 FROM lake.gold.plain ORDER BY c1", 2),
        ("SELECT \"mixed case\", \"Mixed Case\" AS x, \"Mixed Case\", c0 FROM lake.gold.plain", 2),
        ("SELECT c13, c13, c12 FROM lake.gold.plain LIMIT 0", 0),
        ("SELECT c15.a, every.c14 FROM lake.gold.every", 0),
    ] {
        let info = client.execute(sql.to_owned(), None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let told = info.clone().try_decode_schema().expect("a schema");
        let prepared = client.prepare(sql.to_owned(), None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(prepared.dataset_schema().expect("columns").fields(), told.fields(), "{sql}");
        let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
        let stream = client.do_get(ticket).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let batches: Vec<_> = stream.try_collect().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        for batch in &batches {
            assert_eq!(batch.schema().fields(), told.fields(), "{sql}");
            compared += 1;
        }
        assert_eq!(batches.iter().map(arrow::record_batch::RecordBatch::num_rows).sum::<usize>(), rows, "{sql}");
    }
    assert!(compared >= 4, "{compared} batches");
    for (sql, said) in [
        ("SELECT nope FROM lake.gold.plain", "nope"),
        ("SELECT c0 FROM lake.gold.plain ORDER BY nope", "nope"),
        ("SELECT c0 FROM lake.gold.missing", "gold.missing"),
        ("SELECT every.c0 FROM lake.gold.plain", "every"),
    ] {
        let error = client.execute(sql.to_owned(), None).await.expect_err(sql).to_string();
        assert!(error.contains(said), "{sql}: {error}");
    }
}
