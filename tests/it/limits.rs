//! What clients leave behind expires, each principal has limits of its own, and a drain says what it cut.

use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::fire::{worker_of, workers_of};
use crate::harness::{Gateway, begun, cpu_ticks, query, status, stop, until};
use crate::large::DEBUG;

const ENDLESS_ROWS: &str = "SELECT * FROM range(100000000000)";

type Client = FlightSqlServiceClient<Channel>;

/// Settings by which only `ada` and `bob` are let in, both with the password `correct horse`.
fn two_users() -> [String; 2] {
    let [mode, ada] = crate::harness::user_ada();
    let users = ada.trim_start_matches("auth.users=[").trim_end_matches(']').to_owned();
    [mode, format!("auth.users=[{users}, {}]", users.replace("ada", "bob"))]
}

async fn logged_in(gateway: &Gateway, name: &str) -> Client {
    let mut client = gateway.client().await;
    client.handshake(name, "correct horse").await.expect("a login");
    client
}

fn refused<T>(outcome: Result<T, Status>, code: Code, words: &str) {
    let Err(status) = outcome else { panic!("let through, and not {words}") };
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(words), "{status}");
}

/// A prepared statement with a text bound to its one parameter.
async fn bound(client: &mut Client, text: &str) -> Result<(), Status> {
    let mut prepared = client.prepare("SELECT ?::VARCHAR".to_owned(), None).await.map_err(arrow)?;
    let schema = Schema::new(vec![Field::new("1", DataType::Utf8, true)]);
    let row = RecordBatch::try_new(schema.into(), vec![std::sync::Arc::new(StringArray::from(vec![text]))]).expect("a row");
    prepared.set_parameters(row).map_err(arrow)?;
    prepared.execute().await.map_err(arrow)?;
    // Closing it would make room again.
    std::mem::forget(prepared);
    Ok(())
}

fn arrow(error: impl Into<FlightError>) -> Status {
    status(error.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_ticket_expires() {
    let gateway = Gateway::with(&["flight.ticket_ttl=3s"]);
    let mut client = gateway.client().await;
    let info = client.execute("SELECT 1".to_owned(), None).await.expect("a description");
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    client.do_get(ticket.clone()).await.expect("a fresh ticket");
    tokio::time::sleep(Duration::from_millis(4_100)).await;
    refused(client.do_get(ticket).await.map_err(status), Code::NotFound, "call GetFlightInfo again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_session_ends_and_its_token_with_it() {
    let users = two_users();
    let set = [users[0].as_str(), users[1].as_str(), "session.idle_ttl=2s", "telemetry.level=polynya=debug,warn"];
    let gateway = Gateway::with(&set);
    let mut streaming = logged_in(&gateway, "ada").await;
    // In use while its stream is open, even if nobody reads.
    let stream = Box::pin(begun(&mut streaming, ENDLESS_ROWS).await.expect("a stream"));
    let mut client = logged_in(&gateway, "ada").await;
    query(&mut client, "SELECT 1").await.expect("a row");
    tokio::task::block_in_place(|| {
        until("the session is swept", Duration::from_secs(10), || gateway.log().contains("ended what was not used any more"));
    });
    refused(query(&mut client, "SELECT 1").await, Code::Unauthenticated, "log in again");
    query(&mut streaming, "SELECT 1").await.expect("a session in use");
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_prepared_statement_is_dropped() {
    let gateway = Gateway::with(&["session.prepared_ttl=3s", "session.max_prepared_per_session=1"]);
    let mut client = gateway.client().await;
    let mut prepared = client.prepare("SELECT 1".to_owned(), None).await.expect("a statement");
    prepared.execute().await.expect("a description");
    refused(
        client.prepare("SELECT 2".to_owned(), None).await.map_err(arrow),
        Code::ResourceExhausted,
        "max_prepared_per_session",
    );
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    refused(prepared.execute().await.map_err(arrow), Code::NotFound, "prepare it again");
    client.prepare("SELECT 2".to_owned(), None).await.expect("its place is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_principal_s_limits_are_its_own() {
    let users = two_users();
    let gateway = Gateway::with(&[
        &users[0],
        &users[1],
        "query.max_statements_per_principal=2",
        "session.max_sessions_per_principal=4",
        "session.max_prepared_per_principal=3",
        "session.max_prepared_bytes_per_principal=100000",
        "session.max_bound_bytes_per_session=60000",
    ]);
    let (mut ada, mut bob) = (logged_in(&gateway, "ada").await, logged_in(&gateway, "bob").await);

    // Statements at once.
    let streams =
        [begun(&mut ada, ENDLESS_ROWS).await.expect("a stream"), begun(&mut ada, ENDLESS_ROWS).await.expect("a stream")];
    refused(query(&mut ada, "SELECT 1").await, Code::ResourceExhausted, "query.max_statements_per_principal");
    query(&mut bob, "SELECT 1").await.expect("bob has none in work");
    drop(streams);
    let began = Instant::now();
    while query(&mut ada, "SELECT 1").await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "dropped streams still count");
    }

    // Bytes and numbers of what is prepared, in all sessions together.
    let mut second = logged_in(&gateway, "ada").await;
    refused(bound(&mut ada, &"x".repeat(70_000)).await, Code::ResourceExhausted, "max_bound_bytes_per_session");
    bound(&mut ada, &"x".repeat(50_000)).await.expect("room for these");
    refused(bound(&mut second, &"x".repeat(55_000)).await, Code::ResourceExhausted, "max_prepared_bytes_per_principal");
    refused(
        second.prepare("SELECT 1".to_owned(), None).await.map_err(arrow),
        Code::ResourceExhausted,
        "max_prepared_per_principal",
    );
    bound(&mut bob, &"x".repeat(50_000)).await.expect("bob has room of his own");

    // Sessions.
    let _third = logged_in(&gateway, "ada").await;
    let _fourth = logged_in(&gateway, "ada").await;
    let error = gateway.client().await.handshake("ada", "correct horse").await.expect_err("a fifth session").to_string();
    assert!(error.contains("session.max_sessions_per_principal"), "{error}");
    logged_in(&gateway, "bob").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_streams_end_and_tells_new_calls_to_reconnect() {
    let gateway = Gateway::with(&["drain_timeout=10m"]);
    let mut client = gateway.client().await;
    let rows = 5_000_000;
    let mut stream = Box::pin(begun(&mut client, &format!("SELECT * FROM range({rows})")).await.expect("a stream"));
    let mut other = gateway.client().await;
    query(&mut other, "SELECT 1").await.expect("a row");
    gateway.tell_to_end();
    let began = Instant::now();
    loop {
        match query(&mut other, "SELECT 1").await {
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(20), "new statements are still let in"),
            refusal => break refused(refusal, Code::Unavailable, "connect again"),
        }
    }
    // Who connects anew is told the same, as are other calls.
    refused(gateway.query("SELECT 1").await, Code::Unavailable, "connect again");
    refused(other.get_catalogs().await.map_err(status), Code::Unavailable, "connect again");
    refused(other.prepare("SELECT 1".to_owned(), None).await.map_err(arrow), Code::Unavailable, "connect again");
    let (mut sum, mut seen) = (0, 0);
    while let Some(batch) = stream.next().await {
        let batch = batch.expect("the stream goes on to its end");
        let values: &Int64Array = batch.column(0).as_any().downcast_ref().expect("BIGINT");
        seen += values.len() as i64;
        sum += values.values().iter().sum::<i64>();
    }
    // But for the first batch, which was read before.
    let first = rows - seen;
    assert!(first > 0 && first < 1_000_000, "{seen}");
    assert_eq!(sum, (first..rows).sum::<i64>());
    let (exit, log) = gateway.ended(Duration::from_secs(60));
    assert!(exit.success(), "{exit}\n{log}");
    assert!(!log.contains("statement cut"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_what_it_cut() {
    let gateway = Gateway::with(&["drain_timeout=1s", "pool.cancel_grace=10s", DEBUG]);
    gateway.run("CREATE SCHEMA lake.gold").await;
    let (mut reading, mut sleeping, mut counting, mut writing) =
        (gateway.client().await, gateway.client().await, gateway.client().await, gateway.client().await);
    let mut read = Box::pin(begun(&mut reading, ENDLESS_ROWS).await.expect("a stream"));
    let asleep = Box::pin(begun(&mut sleeping, ENDLESS_ROWS).await.expect("a stream"));
    let endless = "FROM range(100000000000) t(i) WHERE (i * i) % 7 = 3";
    let (creator, readers) = (worker_of(&gateway, "Exclusive"), workers_of(&gateway, "Reader"));
    let before = [cpu_ticks(creator), readers.iter().copied().map(cpu_ticks).sum()];
    let count = tokio::spawn(async move { query(&mut counting, &format!("SELECT count(*) {endless}")).await });
    let create =
        tokio::spawn(async move { query(&mut writing, &format!("CREATE TABLE lake.gold.t AS SELECT i {endless}")).await });
    // Streams that nobody reads use no processor; what the others use is for longer than they are judged.
    let run = || {
        let readers: u64 = workers_of(&gateway, "Reader").into_iter().map(cpu_ticks).sum();
        cpu_ticks(creator) > before[0] + 50 && readers > before[1] + 100
    };
    tokio::task::block_in_place(|| until("all of them run", Duration::from_secs(60), run));
    gateway.tell_to_end();
    let end = loop {
        match read.next().await {
            Some(Ok(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            Some(Err(status)) => break Err::<(), _>(status),
            None => panic!("the end of an endless result"),
        }
    };
    refused(end, Code::Unavailable, "cut the statement after");
    refused(count.await.expect("no panic"), Code::Unavailable, "connect again and run it anew");
    refused(create.await.expect("no panic"), Code::Unavailable, "connect again and run it anew");
    let (exit, log) = gateway.ended(Duration::from_secs(60));
    drop(asleep);
    assert!(exit.success(), "{exit}\n{log}");
    let cut: Vec<&str> = log.lines().filter(|line| line.contains("statement cut")).collect();
    assert_eq!(cut.len(), 4, "{log}");
    for line in &cut {
        for field in [" WARN ", "statement=", "principal=", "total_ms=", "outcome=\"cut\""] {
            assert!(line.contains(field), "no {field}: {line}");
        }
    }
    let rows = |line: &&&str| line.contains(ENDLESS_ROWS) && line.contains(" rows=");
    assert_eq!(cut.iter().filter(rows).count(), 2, "{cut:?}");
    assert!(log.contains("statements that still ran were cut statements=4"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waits_for_a_worker_past_its_deadline_is_told_so() {
    let set = ["pool.exclusive_per_key=1", "pool.spares=0", "query.statement_timeout=10s", "pool.cancel_grace=60s", DEBUG];
    let gateway = Gateway::with(&set);
    // Its worker is there before the time begins to run.
    gateway.runs_again("there is a worker", "CREATE SCHEMA IF NOT EXISTS lake.gold").await;
    // Takes a statement, and neither ends it nor gives it up.
    let stopped = stop(worker_of(&gateway, "Exclusive"));
    let mut busy = gateway.client().await;
    let first = tokio::spawn(async move { query(&mut busy, "CREATE SCHEMA lake.first").await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    // Not "unknown whether it was committed", and not later than its deadline.
    refused(gateway.query("CREATE SCHEMA lake.second").await, Code::DeadlineExceeded, "deadline");
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    drop(stopped);
    // Its worker has the last word on this one, which came too late, or was just made.
    let _ = first.await.expect("no panic");
    gateway.run("CREATE SCHEMA lake.second").await;
}
