//! Owns the client's side: draining results and timing small statements, by the Flight client of the arrow-flight crate as it comes.
//! Refuses to look at values: what a client does with its batches is its own cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::{FlightData, Ticket};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tonic::transport::{Channel, Endpoint};

use crate::Stream;

/// Times of the statements before this are not counted.
const WARM_UP: Duration = Duration::from_millis(500);

async fn connect(uri: &str) -> Channel {
    Endpoint::from_shared(uri.replace("grpc://", "http://"))
        .expect("an address")
        .tcp_nodelay(true)
        .connect()
        .await
        .expect("a server")
}

async fn ticket(channel: &Channel, sql: &str) -> Ticket {
    let info = FlightSqlServiceClient::new(channel.clone()).execute(sql.to_owned(), None).await.expect("a ticket");
    info.endpoint[0].ticket.clone().expect("a ticket")
}

async fn get(channel: &Channel, ticket: Ticket) -> tonic::Streaming<FlightData> {
    let mut client = FlightServiceClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    client.do_get(ticket).await.expect("a result").into_inner()
}

async fn open(channel: &Channel, direct: bool, sql: &str) -> tonic::Streaming<FlightData> {
    let ticket = if direct { Ticket { ticket: sql.to_owned().into() } } else { ticket(channel, sql).await };
    get(channel, ticket).await
}

/// The messages as Arrow batches; `bytes` grows by their buffers.
fn batches(messages: tonic::Streaming<FlightData>, bytes: &Arc<AtomicU64>) -> FlightRecordBatchStream {
    let bytes = Arc::clone(bytes);
    let counted = messages.map_err(FlightError::from).inspect_ok(move |message| {
        bytes.fetch_add(message.data_body.len() as u64, Ordering::Relaxed);
    });
    FlightRecordBatchStream::new_from_flight_data(counted)
}

/// Drains the results of these statements, at once, each on a connection of its own.
pub async fn read(uri: &str, direct: bool, statements: &[String]) -> Stream {
    let channels = join_all(statements.iter().map(|_| connect(uri))).await;
    let (rows, bytes) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let firsts = join_all(channels.iter().zip(statements).map(async |(channel, sql)| {
        let mut first = None;
        let mut batches = batches(open(channel, direct, sql).await, &bytes);
        while let Some(batch) = batches.next().await {
            first.get_or_insert_with(|| began.elapsed().as_secs_f64());
            rows.fetch_add(batch.expect("a batch").num_rows() as u64, Ordering::Relaxed);
        }
        first.unwrap_or_default()
    }))
    .await;
    Stream {
        first: firsts.into_iter().fold(f64::INFINITY, f64::min),
        total: began.elapsed().as_secs_f64(),
        rows: rows.into_inner(),
        bytes: bytes.load(Ordering::Relaxed),
    }
}

/// All messages of a result.
pub async fn messages(uri: &str, sql: &str) -> Vec<FlightData> {
    let mut messages = Vec::new();
    let mut stream = open(&connect(uri).await, false, sql).await;
    while let Some(message) = stream.next().await {
        let message = message.expect("a message");
        // As slices of what was read they would keep more memory alive than they show.
        messages.push(FlightData {
            data_header: message.data_header.to_vec().into(),
            data_body: message.data_body.to_vec().into(),
            ..FlightData::default()
        });
    }
    messages
}

/// Milliseconds of a statement from GetFlightInfo to the end of DoGet, and statements a second of all clients together.
#[derive(Serialize)]
pub struct Latency {
    /// Of GetFlightInfo alone.
    info_p50: f64,
    p50: f64,
    p99: f64,
    per_second: f64,
}

/// Runs one statement over and over by many clients, each on a connection of its own.
pub async fn latency(uri: &str, direct: bool, sql: &str, clients: usize, seconds: f64) -> Latency {
    let channels = join_all((0..clients).map(|_| connect(uri))).await;
    let counted_from = Instant::now() + WARM_UP;
    let until = counted_from + Duration::from_secs_f64(seconds);
    let tasks =
        channels.into_iter().map(|channel| tokio::spawn(one_client(channel, direct, sql.to_owned(), counted_from, until)));
    let times: Vec<[f64; 2]> = join_all(tasks).await.into_iter().flat_map(|times| times.expect("a client")).collect();
    let sorted = |part: usize| {
        let mut times: Vec<f64> = times.iter().map(|both| both[part]).collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let (info, all) = (sorted(0), sorted(1));
    let at = |times: &[f64], share: usize| times[times.len() * share / 100];
    #[expect(clippy::cast_precision_loss, reason = "a count of statements")]
    let per_second = times.len() as f64 / seconds;
    Latency { info_p50: at(&info, 50), p50: at(&all, 50), p99: at(&all, 99), per_second }
}

async fn one_client(channel: Channel, direct: bool, sql: String, counted_from: Instant, until: Instant) -> Vec<[f64; 2]> {
    let (mut times, bytes) = (Vec::new(), Arc::default());
    loop {
        let began = Instant::now();
        if began >= until {
            return times;
        }
        let ticket = if direct { Ticket { ticket: sql.clone().into() } } else { ticket(&channel, &sql).await };
        let informed = began.elapsed();
        let mut batches = batches(get(&channel, ticket).await, &bytes);
        let mut rows = 0;
        while let Some(batch) = batches.next().await {
            rows += batch.expect("a batch").num_rows();
        }
        assert!(rows > 0, "{sql} gave no row");
        if began >= counted_from {
            times.push([informed, began.elapsed()].map(|time| time.as_secs_f64() * 1000.0));
        }
    }
}
