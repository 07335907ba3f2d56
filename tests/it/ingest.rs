//! Batches of a client become rows by CommandStatementIngest, in one commit: all of them, or none when the client breaks off.

use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch, record_batch};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    Any, CommandStatementIngest, DoPutUpdateResult, ProstMessageExt, TableDefinitionOptions, TableExistsOption,
    TableNotExistOption,
};
use arrow_flight::{FlightData, FlightDescriptor};
use futures::stream::{self, StreamExt, TryStreamExt};
use prost::Message;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::harness::Gateway;

const CREATE: TableDefinitionOptions = options(TableNotExistOption::Create, TableExistsOption::Fail);
const APPEND: TableDefinitionOptions = options(TableNotExistOption::Fail, TableExistsOption::Append);
const CREATE_APPEND: TableDefinitionOptions = options(TableNotExistOption::Create, TableExistsOption::Append);

const fn options(if_not_exist: TableNotExistOption, if_exists: TableExistsOption) -> TableDefinitionOptions {
    TableDefinitionOptions { if_not_exist: if_not_exist as i32, if_exists: if_exists as i32 }
}

/// The messages of an upload: the command goes with the first.
async fn messages(table: &str, options: TableDefinitionOptions, batches: Vec<RecordBatch>) -> Vec<FlightData> {
    let command = CommandStatementIngest {
        table: table.to_owned(),
        schema: Some("bronze".to_owned()),
        table_definition_options: Some(options),
        ..CommandStatementIngest::default()
    };
    let command: Any = command.as_any();
    let descriptor = FlightDescriptor::new_cmd(command.encode_to_vec());
    let encoder = FlightDataEncoderBuilder::new().with_flight_descriptor(Some(descriptor));
    encoder.build(stream::iter(batches.into_iter().map(Ok))).try_collect().await.expect("messages")
}

/// A whole upload; gives the number of rows that the server says.
async fn ingest(
    gateway: &Gateway,
    table: &str,
    options: TableDefinitionOptions,
    batches: Vec<RecordBatch>,
) -> Result<i64, Status> {
    let messages = messages(table, options, batches).await;
    let mut client = FlightServiceClient::new(gateway.channel().await);
    let answers = client.do_put(stream::iter(messages)).await?.into_inner();
    let answers: Vec<_> = answers.try_collect().await?;
    Ok(DoPutUpdateResult::decode(answers[0].app_metadata.clone()).expect("a number of rows").record_count)
}

async fn with_schema() -> Gateway {
    with_schema_and(&[]).await
}

/// The same with `--set` pairs.
async fn with_schema_and(set: &[&str]) -> Gateway {
    let gateway = Gateway::with(set);
    gateway.run("CREATE SCHEMA lake.bronze").await;
    gateway
}

#[tokio::test]
async fn rows_are_created_appended_and_created_or_appended() {
    let gateway = with_schema().await;
    let rows =
        || vec![record_batch!(("id", Int64, [1, 2, 3]), ("name", Utf8, [Some("a"), None, Some("ä")])).expect("a batch"); 2];
    assert_eq!(ingest(&gateway, "t", CREATE, rows()).await.expect("created"), 6);
    assert_eq!(ingest(&gateway, "t", APPEND, rows()).await.expect("appended"), 6);
    assert_eq!(ingest(&gateway, "t", CREATE_APPEND, rows()).await.expect("appended"), 6);
    assert_eq!(ingest(&gateway, "u", CREATE_APPEND, rows()).await.expect("created"), 6);
    assert_eq!(gateway.value("SELECT count(*) || ' ' || sum(id) || ' ' || count(name) FROM lake.bronze.t").await, "18 36 12");
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.u").await, "6");

    let there = ingest(&gateway, "t", CREATE, rows()).await.expect_err("a table that is there");
    assert_eq!(there.code(), Code::AlreadyExists, "{there}");
    let missing = ingest(&gateway, "nowhere", APPEND, rows()).await.expect_err("a table that is not there");
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t").await, "18");
}

#[tokio::test]
async fn columns_are_matched_by_name_and_an_unknown_one_is_an_error() {
    let gateway = with_schema().await;
    gateway.run("CREATE TABLE lake.bronze.t (id BIGINT, name VARCHAR, price DOUBLE)").await;
    let other_order = record_batch!(("Price", Float64, [1.5, 2.5]), ("ID", Int64, [1, 2])).expect("a batch");
    assert_eq!(ingest(&gateway, "t", APPEND, vec![other_order]).await.expect("appended"), 2);
    assert_eq!(gateway.value("SELECT sum(id) || ' ' || sum(price) || ' ' || count(name) FROM lake.bronze.t").await, "3 4.0 0");
    let unknown = record_batch!(("id", Int64, [1]), ("prize", Float64, [1.5])).expect("a batch");
    let error = ingest(&gateway, "t", APPEND, vec![unknown]).await.expect_err("an unknown column");
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().contains("prize") && error.message().contains("price"), "{error}");
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t").await, "2");
}

/// Sends the schema and so many batches, waits for as long, and drops the call. Gives the upload's sender: dropped too early, it would
/// end the upload well.
async fn break_off(
    gateway: &Gateway,
    table: &str,
    options: TableDefinitionOptions,
    batches: i64,
    wait: Duration,
) -> Sender<FlightData> {
    let batch = |from: i64| {
        RecordBatch::try_from_iter([("id", std::sync::Arc::new(Int64Array::from_iter_values(from..from + 5000)) as _)])
            .expect("a batch")
    };
    let messages = messages(table, options, (0..batches).map(|i| batch(i * 5000)).collect()).await;
    let (send, receive) = mpsc::channel(1);
    let mut client = FlightServiceClient::new(gateway.channel().await);
    let call =
        tokio::spawn(async move { client.do_put(ReceiverStream::new(receive)).await.map(|answer| answer.into_inner().boxed()) });
    for message in messages {
        send.send(message).await.expect("the call goes on");
    }
    tokio::time::sleep(wait).await;
    assert!(!call.is_finished(), "the upload was answered before its end");
    call.abort();
    assert!(call.await.is_err_and(|error| error.is_cancelled()), "the call was not dropped");
    send
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_upload_commits_nothing() {
    // A worker that gives up nothing would be found by how long the next upload waits for it.
    let gateway = with_schema_and(&["pool.cancel_grace=2m"]).await;
    gateway.run("CREATE TABLE lake.bronze.t (id BIGINT)").await;
    gateway.run("INSERT INTO lake.bronze.t VALUES (1)").await;
    let workers = gateway.workers();
    let mut senders = Vec::new();
    for (round, batches) in [0, 1, 40, 200, 1, 40].into_iter().enumerate() {
        let wait = Duration::from_millis(if round < 4 { 300 } else { 5 });
        senders.push(break_off(&gateway, "t", APPEND, batches, wait).await);
        senders.push(break_off(&gateway, &format!("new_{round}"), CREATE, batches, wait).await);
    }
    // Each has ended by then: statements on the same tables find no commit of theirs, and none comes afterwards.
    let check = async || {
        assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t").await, "1");
        assert_eq!(gateway.value("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'bronze'").await, "1");
    };
    check().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    check().await;
    let began = Instant::now();
    let rows = record_batch!(("id", Int64, [1, 2, 3])).expect("a batch");
    assert_eq!(ingest(&gateway, "t", APPEND, vec![rows]).await.expect("appended"), 3);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let lost = workers.iter().filter(|pid| !gateway.workers().contains(pid)).count();
    assert_eq!(lost, 0, "a cancelled upload cost a worker");
}
