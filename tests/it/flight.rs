//! The Flight SQL calls themselves, by a plain client: what each answers, and that side effects happen exactly once.

use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch, record_batch};
use arrow::datatypes::{DataType, Int64Type};
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetTables};
use arrow_flight::{FlightInfo, Ticket};
use futures::TryStreamExt;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::{Gateway, status, stop};

type Client = FlightSqlServiceClient<Channel>;

fn ticket(info: &FlightInfo) -> Ticket {
    info.endpoint[0].ticket.clone().expect("a ticket")
}

async fn fetch(client: &mut Client, info: &FlightInfo) -> Vec<RecordBatch> {
    client.do_get(ticket(info)).await.expect("a stream").try_collect().await.expect("rows")
}

fn strings(batches: &[RecordBatch], column: &str) -> Vec<String> {
    let values = batches.iter().flat_map(|batch| {
        let values = batch.column_by_name(column).expect("the column").as_string::<i32>().clone();
        (0..values.len()).map(move |i| values.value(i).to_owned()).collect::<Vec<_>>()
    });
    values.collect()
}

async fn with_table() -> (Gateway, Client) {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    gateway.run("CREATE TABLE lake.bronze.t (id INTEGER, name VARCHAR, price DECIMAL(12,2), at TIMESTAMP, day DATE)").await;
    let client = gateway.client().await;
    (gateway, client)
}

#[tokio::test]
async fn ddl_and_dml_run_once_at_get_flight_info_and_never_at_do_get() {
    let (gateway, mut client) = with_table().await;
    let sql = "INSERT INTO lake.bronze.t (id) VALUES (1), (2)";
    let info = client.execute(sql.to_owned(), None).await.expect("executed");
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t").await, "2");
    for _ in 0..3 {
        fetch(&mut client, &info).await;
    }
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t").await, "2");
}

#[tokio::test]
async fn an_update_by_do_put_runs_once_and_says_how_many_rows() {
    let (gateway, mut client) = with_table().await;
    let rows = client.execute_update("INSERT INTO lake.bronze.t (id) SELECT i FROM range(7) r(i)".to_owned(), None).await;
    assert_eq!(rows.expect("executed"), 7);
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t").await, "7");
}

#[tokio::test]
async fn changes_in_place_say_how_many_rows() {
    let (gateway, mut client) = with_table().await;
    for (sql, expected) in [
        ("INSERT INTO lake.bronze.t (id, name) SELECT i, 'n' || i FROM range(10) r(i)", 10),
        ("UPDATE lake.bronze.t SET name = 'low' WHERE id < 4", 4),
        ("UPDATE lake.bronze.t SET name = 'none' WHERE id > 100", 0),
        ("UPDATE lake.bronze.t AS t SET price = s.p FROM (VALUES (1, 1.5), (2, 2.5), (77, 3)) AS s(id, p) WHERE s.id = t.id", 2),
        ("DELETE FROM lake.bronze.t WHERE id % 5 = 0", 2),
        (
            "MERGE INTO lake.bronze.t AS t USING (SELECT i AS id FROM range(8, 14) r(i)) AS s USING (id) \
          WHEN MATCHED THEN UPDATE SET name = 'merged' WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
            6,
        ),
        ("TRUNCATE lake.bronze.t", 12),
    ] {
        assert_eq!(client.execute_update(sql.to_owned(), None).await.expect(sql), expected, "{sql}");
    }
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t").await, "0");
}

#[tokio::test]
async fn a_prepared_update_in_place_runs_once_a_row_of_parameters() {
    let (gateway, mut client) = with_table().await;
    gateway.run("INSERT INTO lake.bronze.t (id) SELECT i FROM range(6) r(i)").await;
    let mut update = client.prepare("UPDATE lake.bronze.t SET name = ? WHERE id = ?".to_owned(), None).await.expect("prepared");
    assert_eq!(update.parameter_schema().expect("a schema").fields().len(), 2);
    let rows = record_batch!(("1", Utf8, [Some("a"), None, Some("ä")]), ("2", Int32, [1, 2, 99])).expect("a batch");
    update.set_parameters(rows).expect("parameters");
    assert_eq!(update.execute_update().await.expect("executed"), 2);
    update.close().await.expect("closed");
    assert_eq!(gateway.value("SELECT string_agg(id || name) FROM lake.bronze.t").await, "1a");
}

#[tokio::test]
async fn a_prepared_update_runs_once_a_row_of_parameters() {
    let (gateway, mut client) = with_table().await;
    let mut insert =
        client.prepare("INSERT INTO lake.bronze.t (id, name) VALUES (?, ?)".to_owned(), None).await.expect("prepared");
    assert_eq!(insert.parameter_schema().expect("a schema").fields().len(), 2);
    let rows = record_batch!(("1", Int32, [1, 2, 3]), ("2", Utf8, [Some("a"), None, Some("ä")])).expect("a batch");
    insert.set_parameters(rows).expect("parameters");
    assert_eq!(insert.execute_update().await.expect("executed"), 3);
    insert.close().await.expect("closed");
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t WHERE name IS NOT NULL").await, "2");
}

#[tokio::test]
async fn a_prepared_query_has_types_before_it_runs_and_rows_after() {
    let (gateway, mut client) = with_table().await;
    gateway.run("INSERT INTO lake.bronze.t (id, price) SELECT i, i * 1.5 FROM range(10) r(i)").await;
    let sql = "SELECT id, price FROM lake.bronze.t WHERE id > ? ORDER BY id";
    let mut query = client.prepare(sql.to_owned(), None).await.expect("prepared");
    let columns = query.dataset_schema().expect("a schema").clone();
    assert_eq!(columns.field(0).data_type(), &DataType::Int32);
    assert_eq!(columns.field(1).data_type(), &DataType::Decimal128(12, 2));
    assert_eq!(query.parameter_schema().expect("a schema").field(0).data_type(), &DataType::Int32);
    for (bound, expected) in [(6, 3), (8, 1)] {
        query.set_parameters(record_batch!(("1", Int32, [bound])).expect("a batch")).expect("parameters");
        let info = query.execute().await.expect("executed");
        let rows: usize = fetch(&mut client, &info).await.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, expected);
    }
    query.close().await.expect("closed");
}

#[tokio::test]
async fn catalogs_schemas_and_tables_are_listed_with_patterns() {
    let (gateway, mut client) = with_table().await;
    gateway.run("CREATE SCHEMA lake.silver").await;
    gateway.run("CREATE TABLE lake.silver.other (a BIGINT NOT NULL)").await;
    let info = client.get_catalogs().await.expect("catalogs");
    assert_eq!(strings(&fetch(&mut client, &info).await, "catalog_name"), ["lake"]);

    let schemas = CommandGetDbSchemas { catalog: Some("lake".to_owned()), db_schema_filter_pattern: Some("b%".to_owned()) };
    let info = client.get_db_schemas(schemas).await.expect("schemas");
    assert_eq!(strings(&fetch(&mut client, &info).await, "db_schema_name"), ["bronze"]);

    let tables = CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: None,
        table_name_filter_pattern: Some("%".to_owned()),
        table_types: Vec::new(),
        include_schema: true,
    };
    let info = client.get_tables(tables.clone()).await.expect("tables");
    let batches = fetch(&mut client, &info).await;
    assert_eq!(strings(&batches, "table_name"), ["t", "other"]);
    assert_eq!(strings(&batches, "table_type"), ["TABLE", "TABLE"]);
    assert!(batches[0].column_by_name("table_schema").is_some());
    let none = CommandGetTables { table_types: vec!["VIEW".to_owned()], ..tables };
    let info = client.get_tables(none).await.expect("tables");
    assert!(strings(&fetch(&mut client, &info).await, "table_name").is_empty());
}

#[tokio::test]
async fn filters_that_no_name_fits_and_messages_that_no_command_needs_are_refused() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let refused = async |client: &mut Client, command: CommandGetTables| {
        status(client.get_tables(command).await.expect_err("a filter that no name fits"))
    };
    let pattern = CommandGetTables { table_name_filter_pattern: Some("a".repeat(5000)), ..CommandGetTables::default() };
    let told = refused(&mut client, pattern).await;
    assert_eq!(told.code(), Code::InvalidArgument);
    assert!(told.message().contains("a filter of 5000 bytes") && told.message().contains("up to 4096"), "{told}");
    let types = CommandGetTables { table_types: vec!["TABLE".to_owned(); 1001], ..CommandGetTables::default() };
    assert_eq!(refused(&mut client, types).await.code(), Code::InvalidArgument);
    let info = client.get_sql_info(vec![arrow_flight::sql::SqlInfo::FlightSqlServerName; 1001]).await;
    assert_eq!(status(info.expect_err("too many")).code(), Code::InvalidArgument);
    // A message of a size that only data has.
    let large = CommandGetTables { table_types: vec!["TABLE".to_owned(); 1 << 20], ..CommandGetTables::default() };
    assert_eq!(refused(&mut client, large).await.code(), Code::OutOfRange);
    let ticket = Ticket { ticket: vec![b't'; 5 << 20].into() };
    assert_eq!(status(client.do_get(ticket).await.expect_err("no ticket is as large")).code(), Code::OutOfRange);
    let long = format!("SELECT '{}'", "x".repeat(2 << 20));
    let told = status(client.execute(long, None).await.expect_err("a long statement"));
    assert!(told.code() == Code::InvalidArgument && told.message().contains("flight.max_statement_bytes"), "{told}");
}

#[tokio::test]
async fn a_new_table_is_listed_at_once_and_a_dropped_one_is_gone() {
    let (gateway, _client) = with_table().await;
    let count = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'bronze'";
    assert_eq!(gateway.value(count).await, "1");
    gateway.run("CREATE TABLE lake.bronze.u AS SELECT 1 AS a").await;
    assert_eq!(gateway.value(count).await, "2");
    gateway.run("DROP TABLE lake.bronze.u").await;
    assert_eq!(gateway.value(count).await, "1");
    gateway.query("SELECT * FROM lake.bronze.u").await.expect_err("a dropped table");
}

#[tokio::test]
async fn a_session_keeps_its_schema_and_others_do_not_see_it() {
    let (gateway, mut client) = with_table().await;
    let mut other = gateway.client().await;
    client.execute("USE lake.bronze".to_owned(), None).await.expect("used");
    let info = client.execute("SELECT count(*) AS n FROM t".to_owned(), None).await.expect("found by the session's schema");
    let rows = fetch(&mut client, &info).await;
    assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), 0);
    other.execute("SELECT count(*) FROM t".to_owned(), None).await.expect_err("another session");
    client.execute("USE lake.nowhere".to_owned(), None).await.expect_err("a missing schema");
}

#[tokio::test]
async fn no_message_is_above_two_megabytes_and_the_first_is_small() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let sql = "SELECT repeat('x', 3000) AS wide, i FROM range(5000) t(i)";
    let info = client.execute(sql.to_owned(), None).await.expect("executed");
    let mut raw = arrow_flight::flight_service_client::FlightServiceClient::new(gateway.channel().await);
    let stream = raw.do_get(ticket(&info)).await.expect("a stream").into_inner();
    let sizes: Vec<usize> = stream.map_ok(|m| m.data_body.len() + m.data_header.len()).try_collect().await.expect("messages");
    assert!(sizes.iter().all(|&size| size <= 2 << 20), "{sizes:?}");
    assert!(sizes.iter().sum::<usize>() > 15_000_000, "{sizes:?}");
}

#[tokio::test]
async fn narrow_rows_are_coalesced() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let info = client.execute("SELECT i FROM range(2000000) t(i)".to_owned(), None).await.expect("executed");
    let batches = fetch(&mut client, &info).await;
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2_000_000);
    // 2,048-row chunks would be 977 messages.
    assert!(batches.len() < 200, "{} batches", batches.len());
}

/// The names of a query's columns, by GetFlightInfo alone.
async fn described(client: &mut Client, sql: &str) -> Result<Vec<String>, tonic::Status> {
    let info = client.execute(sql.to_owned(), None).await.map_err(status)?;
    let schema = info.try_decode_schema().expect("a schema");
    Ok(schema.fields().iter().map(|field| field.name().clone()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_described_from_memory_until_its_table_changes() {
    let (gateway, mut client) = with_table().await;
    gateway.run("CREATE TABLE lake.bronze.d (a INTEGER)").await;
    let sql = "SELECT * FROM lake.bronze.d";
    assert_eq!(described(&mut client, sql).await.expect("columns"), ["a"]);
    {
        let _stopped: Vec<_> = gateway.workers().into_iter().map(stop).collect();
        let answer = tokio::time::timeout(Duration::from_secs(5), described(&mut client, sql)).await;
        assert_eq!(answer.expect("no worker was asked").expect("columns"), ["a"]);
        let new = tokio::time::timeout(Duration::from_secs(1), described(&mut client, "SELECT 2 * a FROM lake.bronze.d")).await;
        assert!(new.is_err(), "a text that was never asked for needs a worker, and all are stopped: {new:?}");
    }
    gateway.run("ALTER TABLE lake.bronze.d ADD COLUMN b VARCHAR").await;
    assert_eq!(described(&mut client, sql).await.expect("columns"), ["a", "b"]);
    gateway.run("DROP TABLE lake.bronze.d").await;
    assert_eq!(described(&mut client, sql).await.expect_err("a table that is gone").code(), Code::NotFound);
    gateway.run("CREATE TABLE lake.bronze.d (c DATE)").await;
    assert_eq!(described(&mut client, sql).await.expect("columns"), ["c"]);
}
