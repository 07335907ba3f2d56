//! Uploads that are no Arrow data, or almost: rows to ingest and parameters whose headers, bodies and order were changed at random. Each is
//! refused or taken, no call breaks, no process ends, and nothing is written but what was taken.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::Int64Type;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate, CommandStatementIngest, ProstMessageExt, TableDefinitionOptions, TableExistsOption,
    TableNotExistOption,
};
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{Action, FlightData, FlightDescriptor};
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::Gateway;

const ROUNDS: usize = 400;

/// Rows of plain and nested types.
fn rows() -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("one"), Some("a text of more than twelve bytes"), None]));
    let lists: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]));
    let structs: ArrayRef =
        Arc::new(StructArray::try_from(vec![("a", numbers.clone()), ("b", texts.clone())]).expect("a struct"));
    let columns = [("a", numbers), ("b", texts), ("c", lists), ("d", structs)];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("a batch")
}

fn parameters() -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["text"]));
    RecordBatch::try_from_iter([("1", numbers), ("2", texts)]).expect("a batch")
}

fn messages(batch: &RecordBatch, command: &impl ProstMessageExt) -> Vec<FlightData> {
    let mut messages = batches_to_flight_data(&batch.schema(), vec![batch.clone(), batch.clone()]).expect("messages");
    messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(command.as_any().encode_to_vec()));
    messages
}

fn spoil(messages: &mut Vec<FlightData>, random: &mut SmallRng) {
    for _ in 0..random.random_range(1..3) {
        let at = random.random_range(0..messages.len());
        match random.random_range(0..12) {
            0 if messages.len() > 1 => drop(messages.remove(at)),
            1 => messages.insert(at, messages[at].clone()),
            2 => messages[at].data_body = random_bytes(random).into(),
            3 => messages[at].data_header = random_bytes(random).into(),
            4 => messages[at].data_body = bytes::Bytes::new(),
            5 => {
                let to = random.random_range(0..messages.len());
                messages.swap(at, to);
            }
            6 | 7 if !messages[at].data_body.is_empty() => {
                messages[at].data_body = changed(&messages[at].data_body, random).into();
            }
            _ => messages[at].data_header = changed(&messages[at].data_header, random).into(),
        }
    }
}

fn random_bytes(random: &mut SmallRng) -> Vec<u8> {
    (0..random.random_range(0..300)).map(|_| random.random()).collect()
}

fn changed(bytes: &[u8], random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..4) {
        let Some(at) = bytes.len().checked_sub(1).map(|last| random.random_range(0..=last)) else { break };
        match random.random_range(0..5) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
            2 => {
                let end = (at + 8).min(bytes.len());
                let value = [i64::MAX, i64::MIN, -1, 1 << 40, 0][random.random_range(0..5)].to_le_bytes();
                bytes[at..end].copy_from_slice(&value[..end - at]);
            }
            3 => bytes.truncate(at),
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
    }
    bytes
}

struct Uploader {
    client: FlightServiceClient<Channel>,
}

impl Uploader {
    async fn put(&mut self, messages: Vec<FlightData>) -> Result<(), Status> {
        let mut answers = self.client.do_put(futures::stream::iter(messages)).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    }

    async fn prepare(&mut self, sql: &str) -> bytes::Bytes {
        let request = ActionCreatePreparedStatementRequest { query: sql.to_owned(), transaction_id: None };
        let action = Action::new("CreatePreparedStatement", request.as_any().encode_to_vec());
        let mut results = self.client.do_action(action).await.expect("an answer").into_inner();
        let body = results.message().await.expect("an answer").expect("a result").body;
        let result: ActionCreatePreparedStatementResult =
            Any::decode(body).expect("an Any").unpack().expect("a result").expect("a result");
        result.prepared_statement_handle
    }
}

fn ingest(table: &str) -> CommandStatementIngest {
    CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Create.into(),
            if_exists: TableExistsOption::Append.into(),
        }),
        table: table.to_owned(),
        schema: Some("bronze".to_owned()),
        catalog: Some("lake".to_owned()),
        ..CommandStatementIngest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_anything_is_refused_or_taken() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    gateway.run("CREATE TABLE lake.bronze.t (a BIGINT, b VARCHAR)").await;
    let mut uploader = Uploader { client: FlightServiceClient::new(gateway.channel().await) };
    let update = uploader.prepare("INSERT INTO lake.bronze.t VALUES (?::BIGINT, ?::VARCHAR)").await;
    let query = uploader.prepare("SELECT ?::BIGINT, ?::VARCHAR").await;
    // In order they are taken: else the refusals would say nothing.
    uploader.put(messages(&rows(), &ingest("n"))).await.expect("an ingest");
    let bind = CommandPreparedStatementQuery { prepared_statement_handle: query };
    let update = CommandPreparedStatementUpdate { prepared_statement_handle: update };
    uploader.put(messages(&parameters(), &update)).await.expect("an update");
    let mut random = SmallRng::seed_from_u64(3);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let mut upload = match round % 4 {
            0 | 1 => messages(&rows(), &ingest("n")),
            2 => messages(&parameters(), &update),
            _ => messages(&parameters(), &bind),
        };
        spoil(&mut upload, &mut random);
        let shown = format!("{upload:?}");
        match uploader.put(upload).await {
            Ok(()) => taken += 1,
            Err(status) => {
                // A first message without its descriptor names no command.
                let expected = matches!(status.code(), Code::InvalidArgument | Code::Unimplemented | Code::ResourceExhausted);
                assert!(expected && !status.message().is_empty(), "round {round}: {status:?} for {shown}");
                refused += 1;
            }
        }
        if round % 50 == 0 {
            assert_eq!(gateway.value("SELECT 42").await, "42");
        }
    }
    eprintln!("{taken} taken, {refused} refused");
    assert!(taken > 10 && refused > 100);
    let log = gateway.log();
    assert!(!log.contains("worker lost") && !log.contains(" ERROR "), "{log}");
    gateway.run("SELECT * FROM lake.bronze.n").await;
    gateway.run("SELECT * FROM lake.bronze.t").await;
}

/// A table that SQL refuses to name could be neither read nor dropped again.
#[tokio::test]
async fn an_ingest_makes_no_table_that_no_statement_can_name() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    let mut uploader = Uploader { client: FlightServiceClient::new(gateway.channel().await) };
    for name in ["../../x", "/etc/x.parquet", "x.parquet", "a*", "C:\\x", "x\ny"] {
        let status = uploader.put(messages(&parameters(), &ingest(name))).await.expect_err("a refusal");
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
    }
    for name in ["q\"; DROP TABLE t; --", "Größe", "select"] {
        uploader.put(messages(&parameters(), &ingest(name))).await.expect("an ordinary name, quoted");
        let quoted = name.replace('"', "\"\"");
        assert_eq!(gateway.value(&format!("SELECT count(*) FROM lake.bronze.\"{quoted}\"")).await, "2");
    }
    assert_eq!(gateway.value("SELECT count(*) FROM information_schema.tables").await, "3");
}
