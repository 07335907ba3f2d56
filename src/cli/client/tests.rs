//! The client against a small Flight SQL server in this process, which keeps count of what it was asked.

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use arrow::array::{ArrayRef, Int64Array};
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{SqlInfo, TicketStatementQuery};
use arrow_flight::{FlightEndpoint, FlightInfo, HandshakeResponse, SchemaAsIpc};
use futures::FutureExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Response, Streaming};

use super::*;
use crate::flight::transport::WholeRequests;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the server saw.
#[derive(Default)]
struct Seen {
    open_handles: AtomicU64,
    ingests_begun: AtomicU64,
    /// Rows of each ingest that came to its end.
    ingested: Mutex<Vec<u64>>,
    sessions_closed: AtomicU64,
}

/// Takes the statement's text for the handle; `SELECT …` gives three batches, `FAIL …` one and then an error, the rest changes 7 rows.
struct Fake(Arc<Seen>);

fn numbers(from: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 10));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

fn logged_in<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get("authorization") {
        Some(value) if value == "Bearer session-1" => Ok(()),
        _ => Err(Status::unauthenticated("log in first")),
    }
}

#[tonic::async_trait]
impl FlightSqlService for Fake {
    type FlightService = Fake;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Answers<HandshakeResponse>>, Status> {
        // ana:pw
        if request.metadata().get("authorization").is_none_or(|value| value != "Basic YW5hOnB3") {
            return Err(Status::unauthenticated("wrong user or password"));
        }
        let mut response = Response::new(stream::empty().boxed() as Answers<HandshakeResponse>);
        response.metadata_mut().insert("authorization", "Bearer session-1".parse().unwrap());
        Ok(response)
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        logged_in(&request)?;
        if query.query == "SELECT nope" {
            return Err(Status::invalid_argument("column \"nope\" is not there"));
        }
        self.0.open_handles.fetch_add(1, Ordering::Relaxed);
        let rows = query.query.starts_with("SELECT") || query.query.starts_with("FAIL");
        let schema = if rows { numbers(0).schema() } else { Arc::new(Schema::empty()) };
        let IpcMessage(dataset_schema) = SchemaAsIpc::new(&schema, &IpcWriteOptions::default()).try_into().unwrap();
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: query.query.into(),
            dataset_schema,
            parameter_schema: Bytes::new(),
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        _query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        logged_in(&request)?;
        self.0.open_handles.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        logged_in(&request)?;
        let ticket = TicketStatementQuery { statement_handle: query.prepared_statement_handle };
        let endpoint = || FlightEndpoint::new().with_ticket(Ticket::new(ticket.as_any().encode_to_vec()));
        Ok(Response::new(FlightInfo::new().with_endpoint(endpoint()).with_endpoint(endpoint())))
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        logged_in(&request)?;
        let fails = ticket.statement_handle.starts_with(b"FAIL");
        let last = if fails { Err(Status::invalid_argument("'x' is no number").into()) } else { Ok(numbers(20)) };
        let batches = stream::iter([Ok(numbers(0)), last]);
        let data = FlightDataEncoderBuilder::new().with_schema(numbers(0).schema()).build(batches);
        Ok(Response::new(data.map_err(Status::from).boxed()))
    }

    async fn do_put_prepared_statement_update(
        &self,
        query: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        logged_in(&request)?;
        Ok(if query.prepared_statement_handle.starts_with(b"CREATE") { -1 } else { 7 })
    }

    async fn do_put_statement_ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        logged_in(&request)?;
        if command.table == "there" {
            return Err(Status::already_exists("table \"there\" is there already"));
        }
        self.0.ingests_begun.fetch_add(1, Ordering::Relaxed);
        let batches = FlightRecordBatchStream::new_from_flight_data(request.into_inner().map_err(FlightError::from));
        let rows = batches.try_fold(0, async |rows, batch| Ok(rows + batch.num_rows() as u64)).await?;
        self.0.ingested.lock().unwrap().push(rows);
        Ok(rows as i64)
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        assert_eq!(request.get_ref().r#type, "CloseSession");
        self.0.sessions_closed.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(stream::empty().boxed()))
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}

async fn serve() -> (Target, Arc<Seen>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("grpc://{}", listener.local_addr().unwrap()).parse().unwrap();
    let seen = Arc::new(Seen::default());
    let service = WholeRequests(FlightServiceServer::new(Fake(Arc::clone(&seen))));
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    (Target::at(uri), seen)
}

fn password(password: &str) -> Credentials {
    Credentials::Password { user: "ana".into(), password: password.into() }
}

async fn client() -> (Client, Arc<Seen>) {
    let (target, seen) = serve().await;
    (Client::connect(&target, &password("pw")).await.unwrap(), seen)
}

async fn rows(client: &mut Client, sql: &str) -> Box<Rows> {
    match client.run(sql).await.unwrap() {
        Outcome::Rows(rows) => rows,
        Outcome::Done { .. } => panic!("no rows"),
    }
}

/// The schema and one batch as the local worker would hand them on.
async fn frames() -> Vec<FlightData> {
    let batches = stream::iter([Ok(numbers(0))]);
    FlightDataEncoderBuilder::new().with_schema(numbers(0).schema()).build(batches).try_collect().await.unwrap()
}

fn table(name: &str) -> TableName {
    TableName { catalog: Some("lake".into()), schema: "bronze".into(), table: name.into() }
}

#[tokio::test]
async fn a_password_is_exchanged_for_a_session_that_is_closed_at_the_end() {
    let (mut client, seen) = client().await;
    assert!(client.run("SELECT 1").await.is_ok());
    client.close().await;
    assert_eq!(seen.sessions_closed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_session_that_came_with_a_token_is_left_open() {
    let (target, seen) = serve().await;
    let mut client = Client::connect(&target, &Credentials::Token("session-1".into())).await.unwrap();
    assert!(client.run("SELECT 1").await.is_ok());
    client.close().await;
    assert_eq!(seen.sessions_closed.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_wrong_password_gives_the_servers_text() {
    let (target, _) = serve().await;
    let error = Client::connect(&target, &password("wrong")).await.unwrap_err();
    assert_eq!(error.to_string(), "wrong user or password (UNAUTHENTICATED)");
}

#[tokio::test]
async fn rows_come_from_every_endpoint_and_the_handle_is_closed() {
    let (mut client, seen) = client().await;
    let mut rows = rows(&mut client, "SELECT n").await;
    let mut read = Vec::new();
    while let Some(batch) = rows.next().await.unwrap() {
        read.push(batch);
    }
    assert_eq!(read, [numbers(0), numbers(20), numbers(0), numbers(20)]);
    assert!(rows.received_bytes() > 4 * 80);
    assert_eq!(seen.open_handles.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_error_in_mid_stream_comes_after_the_rows_before_it() {
    let (mut client, _) = client().await;
    let mut failing = rows(&mut client, "FAIL in the middle").await;
    assert_eq!(failing.next().await.unwrap(), Some(numbers(0)));
    assert_eq!(failing.next().await.unwrap_err().to_string(), "'x' is no number (INVALID_ARGUMENT)");
    assert!(rows(&mut client, "SELECT n").await.next().await.is_ok());
}

#[tokio::test]
async fn statements_without_rows_tell_how_many_they_changed_where_they_know() {
    let (mut client, seen) = client().await;
    for (sql, expected) in [("INSERT …", Some(7)), ("CREATE …", None)] {
        let outcome = client.run(sql).await.unwrap();
        assert!(matches!(outcome, Outcome::Done { affected } if affected == expected), "{sql}");
    }
    assert_eq!(seen.open_handles.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_wrong_statement_gives_the_servers_text() {
    let (mut client, _) = client().await;
    let error = client.run("SELECT nope").await.err().unwrap();
    assert_eq!(error.to_string(), "column \"nope\" is not there (INVALID_ARGUMENT)");
}

#[tokio::test]
async fn frames_are_ingested_as_they_are() {
    let (mut client, seen) = client().await;
    let frames = stream::iter(frames().await);
    assert_eq!(client.ingest(&table("new"), IngestMode::Create, frames).await.unwrap(), Some(10));
    assert_eq!(*seen.ingested.lock().unwrap(), [10]);
}

#[tokio::test]
async fn a_refused_ingest_does_not_wait_for_the_rest_of_the_frames() {
    let (mut client, _) = client().await;
    let endless = stream::iter(frames().await).chain(stream::pending());
    let error = client.ingest(&table("there"), IngestMode::Create, endless).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::AlreadyExists));
}

#[tokio::test]
async fn a_dropped_ingest_never_comes_to_its_end() {
    let (mut client, seen) = client().await;
    let unfinished = stream::iter(frames().await).chain(stream::pending());
    {
        let table = table("new");
        let mut ingest = std::pin::pin!(client.ingest(&table, IngestMode::Create, unfinished));
        while seen.ingests_begun.load(Ordering::Relaxed) == 0 {
            assert!(ingest.as_mut().now_or_never().is_none());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // The connection is in order: the next call is answered, and by then the broken one has ended.
    assert!(client.run("SELECT n").await.is_ok());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(seen.ingested.lock().unwrap().is_empty());
}

#[test]
fn a_refusal_with_a_retry_hint_shows_it() {
    let details = tonic_types::ErrorDetails::with_retry_info(Some(Duration::from_millis(1500)));
    let status = Status::with_error_details(Code::ResourceExhausted, "the queue is full", details);
    assert_eq!(ClientError::from(status).to_string(), "the queue is full (RESOURCE_EXHAUSTED); try again in 1.5 s");
}

#[test]
fn a_token_that_cannot_be_a_header_is_refused_without_showing_it() {
    let error = header(&auth::Credentials::Bearer("sec\nret".into())).map(|_| ()).map_err(|e| e.to_string());
    assert!(error.is_err_and(|text| !text.contains("ret")));
}
