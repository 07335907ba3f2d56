//! What runs when, and what drivers get back.

use std::collections::HashMap;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementUpdate,
    DoPutPreparedStatementResult, DoPutUpdateResult, TableDefinitionOptions, TicketStatementQuery,
};
use arrow_flight::utils::{batches_to_flight_data, flight_data_to_batches};
use arrow_flight::{CancelStatus, Criteria, Empty, IpcMessage};
use tonic::Code;

use super::*;
use crate::query::IngestMode;

fn sent(command: &impl ProstMessageExt, batch: Option<RecordBatch>) -> Vec<FlightData> {
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let mut messages = match batch {
        Some(batch) => batches_to_flight_data(&batch.schema(), vec![batch]).unwrap(),
        None => vec![FlightData::default()],
    };
    messages[0].flight_descriptor = Some(descriptor);
    messages
}

fn column(values: Vec<i64>) -> RecordBatch {
    RecordBatch::try_from_iter([("0", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap()
}

fn no_columns() -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(0));
    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options).unwrap()
}

fn updated(app_metadata: Bytes) -> i64 {
    DoPutUpdateResult::decode(app_metadata).unwrap().record_count
}

fn ipc_schema(bytes: &Bytes) -> Schema {
    IpcMessage(bytes.clone()).try_into().unwrap()
}

#[tokio::test]
async fn a_query_is_described_first_and_runs_when_fetched() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let info = client.query("select 1").await.unwrap();
    assert_eq!(edge.kernel.texts(), [""; 0]);
    assert_eq!(info.total_records, -1);
    let schema = schema_of(&info);
    assert_eq!(schema.field(0).metadata()["ARROW:FLIGHT:SQL:TYPE_NAME"], "BIGINT");
    let messages = client.get(ticket(&info)).await.unwrap();
    assert_eq!(edge.kernel.texts(), ["select 1"]);
    let batches = flight_data_to_batches(&messages).unwrap();
    assert_eq!(batches[0].schema().as_ref(), &schema, "the stream's schema is the announced one");
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
}

#[tokio::test]
async fn a_write_runs_once_in_get_flight_info_and_its_ticket_runs_nothing() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let info = client.query("insert into t values (1)").await.unwrap();
    assert_eq!((info.total_records, schema_of(&info).fields().len()), (3, 0));
    for _ in 0..2 {
        let messages = client.get(ticket(&info)).await.unwrap();
        assert_eq!(messages.len(), 1);
        assert_eq!(Schema::try_from(&messages[0]).unwrap().fields().len(), 0);
    }
    assert_eq!(client.query("create table t (a bigint)").await.unwrap().total_records, -1);
    assert_eq!(edge.kernel.texts(), ["insert into t values (1)", "create table t (a bigint)"]);
}

#[tokio::test]
async fn an_update_by_put_runs_once() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let update = |sql: &str| sent(&CommandStatementUpdate { query: sql.to_owned(), transaction_id: None }, None);
    assert_eq!(updated(client.put(update("insert into t values (1)")).await.unwrap()), 3);
    assert_eq!(updated(client.put(update("drop table t")).await.unwrap()), 0);
    assert_eq!(edge.kernel.texts(), ["insert into t values (1)", "drop table t"]);
    let status = client.put(update("select 1")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("returns rows"), "{}", status.message());
}

#[tokio::test]
async fn use_changes_the_session_whichever_way_it_comes() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    client.put(sent(&CommandStatementUpdate { query: "use gold".to_owned(), transaction_id: None }, None)).await.unwrap();
    let info = client.query("select 1").await.unwrap();
    client.query("use silver").await.unwrap();
    client.get(ticket(&info)).await.unwrap();
    assert_eq!(edge.kernel.ran.lock().unwrap().last().unwrap().schema, "lake.gold", "a ticket keeps its defaults");
}

#[tokio::test]
async fn a_prepared_query_keeps_its_handle_after_binding() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let (created, _) = client.prepare("select ?").await.unwrap();
    assert_eq!(ipc_schema(&created.dataset_schema).fields().len(), 1);
    assert_eq!(ipc_schema(&created.parameter_schema).field(0).data_type(), &arrow::datatypes::DataType::Int64);
    let command = CommandPreparedStatementQuery { prepared_statement_handle: created.prepared_statement_handle.clone() };
    let answer = client.put(sent(&command, Some(column(vec![5])))).await.unwrap();
    let bound = DoPutPreparedStatementResult::decode(answer).unwrap();
    assert_eq!(bound.prepared_statement_handle, Some(created.prepared_statement_handle));
    let info = client.info(&command).await.unwrap();
    client.get(ticket(&info)).await.unwrap();
    let ran = edge.kernel.ran.lock().unwrap().last().unwrap().clone();
    let mut reader = arrow::ipc::reader::StreamReader::try_new(ran.parameters.as_ref(), None).unwrap();
    assert_eq!(reader.next().unwrap().unwrap(), column(vec![5]));
}

#[tokio::test]
async fn columns_that_may_turn_out_otherwise_are_not_promised() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let text = RecordBatch::try_from_iter([("0", Arc::new(StringArray::from(vec!["5"])) as ArrayRef)]).unwrap();
    for (sql, parameters, promised) in
        [("select ?", column(vec![5]), true), ("select ?", text.clone(), false), ("select any ?", column(vec![5]), false)]
    {
        let (created, _) = client.prepare(sql).await.unwrap();
        assert_eq!(ipc_schema(&created.dataset_schema).fields().len(), 1, "described all the same");
        let command = CommandPreparedStatementQuery { prepared_statement_handle: created.prepared_statement_handle };
        client.put(sent(&command, Some(parameters))).await.unwrap();
        let info = client.info(&command).await.unwrap();
        assert_eq!(!info.schema.is_empty(), promised, "{sql}");
        assert!(client.get(ticket(&info)).await.is_ok());
    }
}

#[tokio::test]
async fn large_parameters_stay_with_the_session_and_rebinding_voids_the_ticket() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let (created, _) = client.prepare("select ?").await.unwrap();
    let command = CommandPreparedStatementQuery { prepared_statement_handle: created.prepared_statement_handle };
    client.put(sent(&command, Some(column((0..5000).collect())))).await.unwrap();
    let info = client.info(&command).await.unwrap();
    assert!(ticket(&info).ticket.len() < 1000);
    client.get(ticket(&info)).await.unwrap();
    assert!(edge.kernel.ran.lock().unwrap()[0].parameters.len() > 40_000);
    client.put(sent(&command, Some(column(vec![1])))).await.unwrap();
    assert_eq!(client.get(ticket(&info)).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_prepared_update_without_parameters_runs_exactly_once_however_it_is_put() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let (created, any) = client.prepare("insert into t values (1)").await.unwrap();
    assert!(!created.dataset_schema.is_empty(), "ODBC crashes without it");
    assert_eq!(ipc_schema(&created.dataset_schema).fields().len(), 0, "JDBC takes no fields for an update");
    assert_eq!(any.value[any.value.len() - 2..], [0x20, 1], "is_update");
    let command = CommandPreparedStatementUpdate { prepared_statement_handle: created.prepared_statement_handle };
    let schema_only = sent(&command, Some(no_columns()))[..1].to_vec();
    for (runs, messages) in [sent(&command, Some(no_columns())), sent(&command, None), schema_only].into_iter().enumerate() {
        assert_eq!(updated(client.put(messages).await.unwrap()), 3);
        assert_eq!(edge.kernel.texts().len(), runs + 1);
    }
    assert!(edge.kernel.ran.lock().unwrap().iter().all(|ran| ran.parameters.is_empty()));
}

#[tokio::test]
async fn rows_of_parameters_are_one_execution_and_no_rows_are_none() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let (created, _) = client.prepare("insert into t values (?)").await.unwrap();
    let command = CommandPreparedStatementUpdate { prepared_statement_handle: created.prepared_statement_handle };
    assert_eq!(updated(client.put(sent(&command, Some(column(vec![1, 2, 3])))).await.unwrap()), 3);
    assert_eq!(updated(client.put(sent(&command, Some(column(vec![])))).await.unwrap()), 0);
    assert_eq!(edge.kernel.texts().len(), 1);
}

#[tokio::test]
async fn a_prepared_write_runs_once_for_each_get_flight_info() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let (created, _) = client.prepare("insert into t values (1)").await.unwrap();
    let command = CommandPreparedStatementQuery { prepared_statement_handle: created.prepared_statement_handle };
    for runs in 1..=2 {
        let info = client.info(&command).await.unwrap();
        assert_eq!(info.total_records, 3);
        assert_eq!(client.get(ticket(&info)).await.unwrap().len(), 1);
        assert_eq!(edge.kernel.texts().len(), runs);
    }
}

#[tokio::test]
async fn a_closed_or_unknown_handle_is_not_found_and_closing_twice_is_no_error() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let (created, _) = client.prepare("select 1").await.unwrap();
    let handle = created.prepared_statement_handle;
    let close = arrow_flight::sql::ActionClosePreparedStatementRequest { prepared_statement_handle: handle.clone() };
    for _ in 0..2 {
        assert!(client.action("ClosePreparedStatement", close.as_any().encode_to_vec()).await.unwrap().is_empty());
    }
    for handle in [handle, Bytes::new(), Bytes::from_static(&[0xFF, 0xFE])] {
        let status = client.info(&CommandPreparedStatementQuery { prepared_statement_handle: handle }).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().contains("prepare it again"), "{}", status.message());
    }
}

#[tokio::test]
async fn errors_keep_their_text_before_and_in_mid_stream() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let status = client.query("select nope").await.unwrap_err();
    assert!(status.message().contains("nope"), "{}", status.message());
    assert!(client.prepare("select nope").await.is_err());
    let info = client.query("select breaks").await.unwrap();
    let status = client.get(ticket(&info)).await.unwrap_err();
    assert_eq!(status.message(), "cast failed in row 3");
    assert!(client.query("select 1").await.is_ok(), "the next statement works");
}

#[tokio::test]
async fn commands_without_any_and_tampered_tickets_are_refused() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let recorded = [Vec::new(), vec![0x0a, 4, b't', b'p', b'c', b'h'], vec![0x0a, 1, 1]];
    for cmd in recorded {
        let request = client.request(FlightDescriptor::new_cmd(cmd));
        let status = client.inner.get_flight_info(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("google.protobuf.Any"), "{}", status.message());
    }
    let path = client.request(FlightDescriptor::new_path(vec!["a".to_owned()]));
    assert_eq!(client.inner.get_flight_info(path).await.unwrap_err().code(), Code::InvalidArgument);
    let info = client.query("select 1").await.unwrap();
    let ours = Any::decode(ticket(&info).ticket).unwrap().unpack::<TicketStatementQuery>().unwrap().unwrap();
    let mut altered = ours.statement_handle.to_vec();
    *altered.last_mut().unwrap() ^= 1;
    for handle in [altered, Vec::new(), b"select 1".to_vec()] {
        let forged = TicketStatementQuery { statement_handle: handle.into() };
        let status = client.get(Ticket { ticket: forged.as_any().encode_to_vec().into() }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let query = CommandStatementQuery { query: "select 1".to_owned(), transaction_id: None };
    let status = client.get(Ticket { ticket: query.as_any().encode_to_vec().into() }).await.unwrap_err();
    assert_eq!(status.message(), "DoGet does not take CommandStatementQuery");
    assert_eq!(edge.kernel.texts(), [""; 0]);
}

#[tokio::test]
async fn every_catalog_command_answers_with_the_schema_that_it_announced() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let keys = || ("lake".to_owned(), "orders".to_owned());
    let commands: Vec<(Any, usize, usize)> = vec![
        (CommandGetCatalogs {}.as_any(), 1, 2),
        (CommandGetDbSchemas::default().as_any(), 2, 2),
        (CommandGetDbSchemas { catalog: Some(String::new()), ..Default::default() }.as_any(), 2, 0),
        (CommandGetTables::default().as_any(), 4, 1),
        (CommandGetTables { include_schema: true, ..Default::default() }.as_any(), 5, 1),
        (CommandGetTables { table_types: vec!["VIEW".to_owned()], ..Default::default() }.as_any(), 4, 0),
        (CommandGetTableTypes {}.as_any(), 1, 1),
        (CommandGetPrimaryKeys { catalog: Some(keys().0), db_schema: None, table: keys().1 }.as_any(), 6, 0),
        (CommandGetExportedKeys { catalog: None, db_schema: None, table: keys().1 }.as_any(), 13, 0),
        (CommandGetImportedKeys { catalog: None, db_schema: None, table: keys().1 }.as_any(), 13, 0),
        (CommandGetCrossReference::default().as_any(), 13, 0),
        (CommandGetSqlInfo { info: Vec::new() }.as_any(), 2, 91),
        (CommandGetSqlInfo { info: vec![8] }.as_any(), 2, 1),
        (CommandGetXdbcTypeInfo { data_type: None }.as_any(), 19, 13),
    ];
    for (any, columns, rows) in commands {
        let descriptor = FlightDescriptor::new_cmd(any.encode_to_vec());
        let request = client.request(descriptor.clone());
        let info = client.inner.get_flight_info(request).await.unwrap().into_inner();
        let request = client.request(descriptor);
        let schema = ipc_schema(&client.inner.get_schema(request).await.unwrap().into_inner().schema);
        let batches = flight_data_to_batches(&client.get(ticket(&info)).await.unwrap()).unwrap();
        assert_eq!(schema_of(&info), schema, "{}", any.type_url);
        assert_eq!(batches[0].schema().as_ref(), &schema, "{}", any.type_url);
        assert_eq!((batches[0].num_columns(), batches[0].num_rows()), (columns, rows), "{}", any.type_url);
    }
}

#[tokio::test]
async fn a_listed_table_has_columns_with_metadata() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let info = client.info(&CommandGetTables { include_schema: true, ..Default::default() }).await.unwrap();
    let batches = flight_data_to_batches(&client.get(ticket(&info)).await.unwrap()).unwrap();
    let schema = ipc_schema(&Bytes::copy_from_slice(batches[0].column(4).as_binary::<i32>().value(0)));
    assert_eq!(schema.field(0).metadata()["ARROW:FLIGHT:SQL:TABLE_NAME"], "orders");
}

#[tokio::test]
async fn a_broken_off_upload_never_comes_to_its_end() {
    let edge = Edge::open().await;
    for _ in 0..20 {
        *edge.kernel.frames.lock().unwrap() = 0;
        let options = TableDefinitionOptions { if_not_exist: 1, if_exists: 2 };
        let command =
            CommandStatementIngest { table: "ing".to_owned(), table_definition_options: Some(options), ..Default::default() };
        let upload = futures::StreamExt::chain(
            futures::stream::iter(sent(&command, Some(column(vec![1, 2])))),
            futures::stream::pending(),
        );
        let mut client = edge.client().await;
        let call = tokio::spawn(async move { client.inner.do_put(upload).await.map(drop) });
        while *edge.kernel.frames.lock().unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        call.abort();
        assert!(call.await.is_err());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(edge.kernel.ingested.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_ingest_streams_its_batches_to_the_sessions_defaults() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    let command = |exists: i32| CommandStatementIngest {
        table: "ing".to_owned(),
        transaction_id: Some(Bytes::new()),
        table_definition_options: Some(TableDefinitionOptions { if_not_exist: 1, if_exists: exists }),
        ..CommandStatementIngest::default()
    };
    assert_eq!(updated(client.put(sent(&command(2), Some(column(vec![1, 2])))).await.unwrap()), 7);
    let (table, mode, frames) = edge.kernel.ingested.lock().unwrap()[0].clone();
    assert_eq!((table.to_string().as_str(), mode, frames), ("lake.main.ing", IngestMode::CreateOrAppend, 2));
    let replace = client.put(sent(&command(3), Some(column(vec![1])))).await.unwrap_err();
    assert_eq!(replace.code(), Code::Unimplemented);
}

/// `{"session_options": {"catalog": {"string_value": "archive"}}}` and its like, as protobuf.
fn set_options(options: &[(&str, &str)]) -> Vec<u8> {
    let text = |tag: u8, text: &[u8]| [&[tag << 3 | 2, u8::try_from(text.len()).unwrap()], text].concat();
    let entry = |(name, value): &(&str, &str)| text(1, &[text(1, name.as_bytes()), text(2, &text(1, value.as_bytes()))].concat());
    options.iter().flat_map(entry).collect()
}

#[tokio::test]
async fn session_options_are_set_read_and_refused_by_name() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Refused {
        #[prost(map = "string, message", tag = "1")]
        errors: HashMap<String, Value>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Value {
        #[prost(int32, tag = "1")]
        value: i32,
    }
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    // As recorded from the JDBC driver.
    assert_eq!(set_options(&[("catalog", "tpch")])[..4], [0x0a, 0x11, 0x0a, 7]);
    let mut set = async |options: &[(&str, &str)]| {
        let bodies = client.action("SetSessionOptions", set_options(options)).await.unwrap();
        let refused = Refused::decode(bodies[0].clone()).unwrap().errors;
        let mut refused: Vec<_> = refused.into_iter().map(|(name, error)| (name, error.value)).collect();
        refused.sort();
        refused
    };
    assert_eq!(set(&[("schema", "y2020"), ("catalog", "archive")]).await, []);
    let refused = set(&[("catalog", "tpch"), ("colour", "blue"), ("schema", "nowhere")]).await;
    assert_eq!(refused, [("catalog".to_owned(), 2), ("colour".to_owned(), 1), ("schema".to_owned(), 2)]);
    let options = client.action("GetSessionOptions", Vec::new()).await.unwrap();
    let mut expected = [set_options(&[("catalog", "archive")]), set_options(&[("schema", "y2020")])];
    if !options[0].starts_with(&expected[0]) {
        expected.reverse();
    }
    assert_eq!(options[0], expected.concat());
    let info = client.query("select 1").await.unwrap();
    client.get(ticket(&info)).await.unwrap();
    assert_eq!(edge.kernel.ran.lock().unwrap()[0].schema, "archive.y2020");
}

#[tokio::test]
async fn what_is_not_supported_says_so() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    for (name, part) in [
        ("BeginTransaction", "transactions are not supported"),
        ("EndTransaction", "transactions are not supported"),
        ("CreatePreparedSubstraitPlan", "Substrait"),
        ("CancelQuery", "end the call"),
        ("RenewFlightEndpoint", "GetFlightInfo again"),
    ] {
        let status = client.action(name, Vec::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{name}");
        assert!(status.message().contains(part), "{}", status.message());
    }
    let unknown = client.action("Dance", Vec::new()).await.unwrap_err();
    assert!(unknown.message().contains("CreatePreparedStatement"), "{}", unknown.message());
    let cancelled = client.action("CancelFlightInfo", Vec::new()).await.unwrap();
    assert_eq!(cancelled[0], Bytes::from(vec![8, CancelStatus::NotCancellable as u8]));
    let query = CommandStatementQuery { query: "select 1".to_owned(), transaction_id: Some(Bytes::from_static(b"x")) };
    assert_eq!(client.info(&query).await.unwrap_err().code(), Code::NotFound);
    let request = client.request(Criteria::default());
    assert!(client.inner.list_flights(request).await.unwrap().into_inner().message().await.unwrap().is_none());
    let request = client.request(Empty {});
    assert!(client.inner.list_actions(request).await.unwrap().into_inner().message().await.unwrap().is_some());
}

#[tokio::test]
async fn limits_and_deadlines_reach_the_statement() {
    let config = Config { max_statement_bytes: 20, ..Config::default() };
    let edge = Edge::start(AuthConfig::default(), config).await;
    let mut client = edge.client().await;
    let status = client.query(&format!("select {}", "1".repeat(20))).await.unwrap_err();
    assert!(status.message().contains("flight.max_statement_bytes"), "{}", status.message());
    let query = CommandStatementQuery { query: "select 1".to_owned(), transaction_id: None };
    let mut request = client.request(FlightDescriptor::new_cmd(query.as_any().encode_to_vec()));
    request.set_timeout(Duration::from_secs(5));
    client.inner.get_flight_info(request).await.unwrap();
    let deadline = edge.kernel.deadlines.lock().unwrap()[0].deadline.unwrap();
    assert_eq!(deadline, Duration::from_secs(5));
    client.query("select 1").await.unwrap();
    assert_eq!(edge.kernel.deadlines.lock().unwrap()[1].deadline, None);
}
