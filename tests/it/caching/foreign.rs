//! Commits of a foreign writer, PyIceberg: when they are seen, and never half.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::util::pretty::pretty_format_batches;
use arrow_flight::sql::CommandGetTables;
use futures::TryStreamExt;
use serde_json::json;

use super::writer::{Commits, Writer};
use super::{Client, Lake, gateway, number, row, wait_ms};
use crate::harness::{Gateway, ReferenceRest, query};
use crate::s3_front::Front;
use crate::s3_front::minio::{KEY, Minio, SECRET};
use crate::stand_in::{Setup, StandIn};

/// `POLYNYA_TEST_FOREIGN_SECONDS` makes the loops longer than CI has the time for.
fn seconds() -> f64 {
    std::env::var("POLYNYA_TEST_FOREIGN_SECONDS").map_or(6.0, |seconds| seconds.parse().expect("a number"))
}

/// So many at least, however short the loop: on a busy machine a reader sees one of many.
const COMMITS: usize = 40;

/// What one reader has seen.
#[derive(Debug, Default)]
struct Seen {
    statements: usize,
    snapshots: usize,
}

/// Reads the table of a [`Writer::commit_for`] in every way until the writer has ended.
async fn read_until(mut client: Client, table: &str, staleness: Duration, commits: Commits, ended: Arc<AtomicBool>) -> Seen {
    let forms = [
        format!(
            "SELECT (SELECT max(n) FROM {table}), (SELECT count(*) FROM {table}), (SELECT sum(n)::BIGINT FROM {table}), \
             (SELECT count(*) FROM {table} a JOIN {table} b ON a.n = b.n AND a.n = 3)"
        ),
        format!(
            "WITH v AS MATERIALIZED (SELECT n FROM {table}), w AS (SELECT max(n) AS m FROM {table}) SELECT m, (SELECT count(*) FROM \
             v), (SELECT sum(n)::BIGINT FROM {table} WHERE n <= m), (SELECT count(*) FROM v a JOIN {table} b USING (n) WHERE n = 3) \
             FROM w"
        ),
    ];
    let (mut seen, mut last) = (Seen::default(), 0);
    for form in forms.iter().cycle() {
        if ended.load(Ordering::Acquire) {
            break;
        }
        let began = Instant::now();
        let told = row(&mut client, form).await;
        let number = |at: usize| told[at].parse::<i64>().unwrap_or_default();
        let at_least = began.checked_sub(staleness).map_or(0, |then| commits.at(then));
        let head = number(0);
        assert!(head >= at_least.max(last), "commit {head} is the last one seen: {last} was seen, and {at_least} made in time");
        let whole = (head, head * (head + 1) / 2, head * (head + 1) * (2 * head + 1) / 6, if head < 3 { 0 } else { 9 });
        assert_eq!((head, number(1), number(2), number(3)), whole, "a mixture of snapshots");
        seen.statements += 1;
        seen.snapshots += usize::from(head > last);
        last = head;
        // The writer is to get on as well, on a machine with few cores.
        wait_ms(20).await;
    }
    seen
}

/// A foreign writer in a loop, and readers of gateways that differ in how old a table may be.
async fn read_while_written(mut writer: Writer, gateways: Vec<(Gateway, Duration)>) {
    writer.creates("gold.t", json!([["n", "long"]]));
    let (commits, ended) = (Commits::default(), Arc::new(AtomicBool::new(false)));
    let mut readers = Vec::new();
    for (gateway, staleness) in &gateways {
        for _ in 0..2 {
            let mut client = gateway.client().await;
            // Its worker is there before the first commit.
            assert_eq!(number(&mut client, "SELECT count(*) FROM rest.gold.t").await, 0);
            readers.push((*staleness, client));
        }
    }
    let read = |(staleness, client)| {
        let (commits, ended) = (commits.clone(), Arc::clone(&ended));
        (staleness, tokio::spawn(async move { read_until(client, "rest.gold.t", staleness, commits, ended).await }))
    };
    let readers: Vec<_> = readers.into_iter().map(read).collect();
    let writing = commits.clone();
    let written = tokio::task::spawn_blocking(move || writer.commit_for("gold.t", seconds(), COMMITS, &writing));
    let made = written.await.expect("a writer");
    ended.store(true, Ordering::Release);
    for (staleness, reader) in readers {
        let seen = reader.await.expect("a reader");
        println!("{made} foreign commits; at {staleness:?} a reader saw {seen:?}");
        assert!(seen.statements > 3 && seen.snapshots > 2, "{seen:?} of {made} commits");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_commit_is_seen_within_the_bound_and_never_half() {
    let polaris = StandIn::start(Setup::lakehouse()).await;
    let bounds = [("0s", Duration::ZERO), ("1s", Duration::from_secs(1))];
    let gateways = bounds.map(|(text, bound)| (gateway(&polaris, text, &[]), bound));
    read_while_written(Writer::start(&polaris), gateways.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_commit_in_an_object_store_is_seen_within_the_bound_and_never_half() {
    let minio = Arc::new(Minio::start("lake").await);
    let front = Front::of(&minio.endpoint).await;
    let rest = tokio::task::block_in_place(|| ReferenceRest::start_on("s3://lake/warehouse"));
    let uri = format!("http://127.0.0.1:{}", rest.port);
    let writer = Writer::with(&json!({
        "uri": uri,
        "s3.endpoint": minio.endpoint,
        "s3.access-key-id": KEY,
        "s3.secret-access-key": SECRET,
        "s3.region": "us-east-1",
        "s3.force-virtual-addressing": "false",
    }));
    let storage = format!(
        "catalogs.rest.storage=[{{type: s3, endpoint: '{}', region: us-east-1, path_style: true, access_key_id: {KEY}, \
         secret_access_key: {{env: STORE_SECRET}}}}]",
        front.endpoint
    );
    let catalog = format!("catalogs.rest.uri={uri}");
    let set = ["catalogs.rest.type=rest", &catalog, "catalogs.rest.allowed_locations=['s3://lake/warehouse']", &storage];
    let gateway = Gateway::with_env(&[set.as_slice(), &["relay.max_staleness=200ms"]].concat(), &[("STORE_SECRET", SECRET)]);
    read_while_written(writer, vec![(gateway, Duration::from_millis(200))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_five_seconds_apart_change_nothing() {
    let lake = Lake::start("0s").await;
    let mut writer = Writer::start(&lake.polaris);
    writer.creates("gold.t", json!([["n", "long"]]));
    let mut client = lake.gateway.client().await;
    let told = "SELECT count(*) * 1000 + sum(n)::BIGINT FROM rest.gold.t";
    let (mut rows, mut sum) = (0, 0);
    let (mut made, mut times) = (Vec::new(), Vec::new());
    for (added, off) in (1_i64..).zip([0, 5, -5, 5, 0, -5]) {
        writer.sets_clock_off(off);
        let snapshot = writer.appends("gold.t", json!({ "n": [added] }));
        (rows, sum) = (rows + 1, sum + added);
        assert_eq!(number(&mut client, told).await, rows * 1000 + sum, "a clock {off} s off");
        made.push((snapshot, rows));
        // The gateway's own writes stand on what is there, and are seen as soon.
        let own = format!("INSERT INTO rest.gold.t VALUES ({})", 10 + added);
        query(&mut client, &own).await.unwrap_or_else(|error| panic!("{own} after a clock {off} s off: {error}"));
        (rows, sum) = (rows + 1, sum + 10 + added);
        assert_eq!(number(&mut client, told).await, rows * 1000 + sum, "an own insert after a clock {off} s off");
        let snapshot = writer.appends("gold.t", json!({ "n": [-added] }));
        (rows, sum) = (rows + 1, sum - added);
        made.push((snapshot, rows));
        let own = format!("UPDATE rest.gold.t SET n = n + 100 WHERE n = {}", -added);
        query(&mut client, &own).await.unwrap_or_else(|error| panic!("{own} after a clock {off} s off: {error}"));
        sum += 100;
        assert_eq!(number(&mut client, told).await, rows * 1000 + sum, "an own update after a clock {off} s off");
        let now = "SELECT count(*) FROM rest.gold.t AT (TIMESTAMP => now())";
        assert_eq!(number(&mut client, now).await, rows, "by time, after a clock {off} s off");
        times.push(row(&mut client, "SELECT (now() AT TIME ZONE 'UTC')::VARCHAR").await.remove(0));
    }
    let mut counts = Vec::new();
    for time in times {
        let past = format!("SELECT count(*) FROM rest.gold.t AT (TIMESTAMP => TIMESTAMP '{time}')");
        counts.push(number(&mut client, &past).await);
    }
    assert!(counts.is_sorted() && counts.last() <= Some(&rows), "the past goes one way: {counts:?}");
    for (snapshot, rows) in made {
        let past = format!("SELECT count(*) FROM rest.gold.t AT (VERSION => {snapshot})");
        assert_eq!(number(&mut client, &past).await, rows, "{past}");
    }
}

/// A result as people read it.
async fn shown(client: &mut Client, sql: &str) -> String {
    let rows = query(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    pretty_format_batches(&rows).expect("a table").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_dropped_and_made_again_is_the_new_one() {
    let lake = Lake::start("300ms").await;
    let mut writer = Writer::start(&lake.polaris);
    let old = writer.creates("gold.t", json!([["n", "long"], ["gone", "string"]]));
    writer.appends("gold.t", json!({ "n": [1, 2, 3], "gone": ["a", "b", "c"] }));
    let mut client = lake.gateway.client().await;
    let all = "SELECT * FROM rest.gold.t ORDER BY n";
    let columns = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position) FROM \
                   information_schema.columns WHERE table_name = 't' AND table_schema = 'gold'";
    let listed =
        CommandGetTables { include_schema: true, table_name_filter_pattern: Some("t".into()), ..CommandGetTables::default() };
    let mut prepared = client.prepare(all.to_owned(), None).await.expect("a statement");
    // Every worker has bound it, and its plan was described.
    let at_once = futures::future::join_all((0..8).map(|_| async { shown(&mut lake.gateway.client().await, all).await })).await;
    assert!(at_once.iter().all(|rows| rows.contains("gone")), "{at_once:?}");
    assert_eq!(row(&mut client, columns).await, ["n BIGINT, gone VARCHAR"]);

    writer.drops("gold.t");
    let new = writer.creates("gold.t", json!([["other", "string"], ["n", "int"]]));
    assert_ne!(old, new);
    writer.appends("gold.t", json!({ "other": ["x", "y"], "n": [8, 9] }));
    // Longer than the bound, and than a prepared statement is taken at its word.
    wait_ms(1050).await;
    let at_once = futures::future::join_all((0..8).map(|_| async { shown(&mut lake.gateway.client().await, all).await })).await;
    for rows in at_once {
        assert!(rows.contains("other") && !rows.contains("gone") && rows.contains(" 9 ") && !rows.contains(" 3 "), "{rows}");
    }
    assert_eq!(row(&mut client, columns).await, ["other VARCHAR, n INTEGER"]);
    assert!(shown(&mut client, "DESCRIBE rest.gold.t").await.contains("other"));
    let info = client.execute(all.to_owned(), None).await.expect("a ticket");
    let described = info.clone().try_decode_schema().expect("a schema");
    assert_eq!(described.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["other", "n"]);
    let info = client.get_tables(listed).await.expect("a list");
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let tables: Vec<_> = client.do_get(ticket).await.expect("rows").try_collect().await.expect("rows");
    let schema = tables.iter().find(|batch: &&arrow::array::RecordBatch| batch.num_rows() > 0).expect("a table");
    let bytes = arrow::array::cast::AsArray::as_binary::<i32>(schema.column_by_name("table_schema").expect("schemas"));
    let text = String::from_utf8_lossy(bytes.value(0)).into_owned();
    assert!(text.contains("other") && !text.contains("gone"), "{text}");

    // A prepared statement is what it says, run on what is there.
    let info = prepared.execute().await.expect("a ticket");
    let promised = info.clone().try_decode_schema().expect("a schema");
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let rows: Vec<arrow::array::RecordBatch> = client.do_get(ticket).await.expect("rows").try_collect().await.expect("rows");
    let rows = rows.into_iter().find(|batch| batch.num_rows() > 0).expect("rows");
    assert_eq!(rows.num_rows(), 2);
    assert_eq!(rows.schema().field(0).name(), "other");
    assert_eq!(promised.fields().len(), 2);
    assert_eq!(promised.field(0).name(), "other", "what is promised is what comes");
    // A column that was added is there; what was written by others is not lost by own writes.
    writer.does(&json!({ "do": "add-column", "table": "gold.t", "column": "late", "type": "long" }));
    wait_ms(350).await;
    query(&mut client, "INSERT INTO rest.gold.t VALUES ('z', 10, 11)").await.expect("a row");
    assert_eq!(row(&mut client, "SELECT count(*), sum(late)::BIGINT FROM rest.gold.t").await, ["3", "11"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_made_elsewhere_is_found_within_the_negative_bound() {
    for (staleness, wait) in [("1m", 320), ("0s", 0)] {
        let polaris = StandIn::start(Setup::lakehouse()).await;
        let gateway = gateway(&polaris, staleness, &["relay.negative_ttl=300ms"]);
        let mut writer = Writer::start(&polaris);
        let mut client = gateway.client().await;
        let sql = "SELECT count(*) FROM rest.gold.late";
        for _ in 0..3 {
            let error = query(&mut client, sql).await.expect_err("no such table");
            assert_eq!(error.code(), tonic::Code::NotFound, "{error}");
        }
        writer.creates("gold.late", json!([["n", "long"]]));
        writer.appends("gold.late", json!({ "n": [1] }));
        wait_ms(wait).await;
        assert_eq!(number(&mut client, sql).await, 1);
    }
}
