//! The limits on memory and disk: large sorts spill and end, small reads go on beside them, and a full disk is told as one.

use std::time::{Duration, Instant};

use arrow::array::UInt64Array;
use futures::TryStreamExt;
use tonic::Code;

use crate::harness::{Gateway, query, until};

const ROWS: usize = 6_000_000;

/// Rows in the order of their hashes; about 100 MB in memory, which the wide column makes 400.
fn sort(rows: usize) -> String {
    format!("SELECT hash(i) AS h, i, i || '-{}' AS wide FROM range({rows}) t(i) ORDER BY h", "x".repeat(40))
}

/// Reads a sorted result to its end, and checks it; counts the rows.
async fn sorted_rows(gateway: &Gateway) -> usize {
    let mut client = gateway.client().await;
    let info = client.execute(sort(ROWS), None).await.expect("a description");
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let mut stream = client.do_get(ticket).await.expect("a sorted result");
    let (mut rows, mut last) = (0, 0);
    while let Some(batch) = stream.try_next().await.expect("a batch") {
        let hashes: &UInt64Array = batch.column(0).as_any().downcast_ref().expect("UBIGINT");
        for hash in hashes.values() {
            assert!(*hash >= last, "out of order at row {rows}");
            last = *hash;
            rows += 1;
        }
    }
    rows
}

fn spilt(gateway: &Gateway) -> bool {
    fn any(dir: &std::path::Path) -> bool {
        std::fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
            let path = entry.path();
            if path.is_dir() { any(&path) } else { path.to_string_lossy().contains("/spill/") }
        })
    }
    any(gateway.dir.path())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_sorts_spill_and_small_reads_go_on() {
    let gateway = Gateway::with(&["pool.max_workers=4", "pool.memory_budget=900MiB", "pool.spares=0"]);
    gateway.run("CREATE SCHEMA lake.gold").await;
    gateway.run("CREATE TABLE lake.gold.t AS SELECT i AS v FROM range(100000) r(i)").await;
    let sorts = async { tokio::join!(sorted_rows(&gateway), sorted_rows(&gateway)) };
    tokio::pin!(sorts);
    let mut client = gateway.client().await;
    let since = Instant::now();
    let (mut slowest, mut reads, mut spills) = (Duration::ZERO, 0, false);
    let rows = loop {
        let began = Instant::now();
        tokio::select! {
            biased;
            rows = &mut sorts => break rows,
            read = query(&mut client, "SELECT sum(v)::BIGINT FROM lake.gold.t") => {
                assert_eq!(read.expect("a small read")[0].num_rows(), 1);
                slowest = slowest.max(began.elapsed());
                reads += 1;
                spills |= spilt(&gateway);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let took = since.elapsed();
    eprintln!("{reads} small reads beside the sorts, which took {took:?}, the slowest {slowest:?}");
    assert_eq!(rows, (ROWS, ROWS));
    assert!(spills, "nothing was spilt");
    let bound = if cfg!(debug_assertions) { Duration::from_secs(10) } else { Duration::from_secs(1) };
    // What the sorts take shows how busy the machine is.
    let bound = bound.max(took / 2);
    assert!(reads > 3 && slowest < bound, "{reads} reads, {slowest:?} of {took:?}");
    until("spilt rows are removed", Duration::from_secs(60), || !spilt(&gateway));
}

#[tokio::test]
async fn a_full_spill_directory_names_its_key() {
    let gateway = Gateway::with(&["pool.max_workers=2", "pool.memory_budget=200MiB", "pool.spill_limit=16MiB"]);
    let status = gateway.query(&sort(ROWS)).await.expect_err("the disk is too small");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("pool.spill_limit"), "{status}");
    assert!(!status.message().contains("max_temp_directory_size"), "{status}");
    assert_eq!(gateway.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn what_cannot_be_spilt_names_the_memory_s_key() {
    let gateway = Gateway::with(&["pool.max_workers=2", "pool.memory_budget=200MiB"]);
    let status = gateway.query("SELECT list(i) FROM range(100000000) t(i)").await.expect_err("the memory is too small");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("pool.memory_budget"), "{status}");
    assert!(!status.message().contains("SET "), "{status}");
    assert_eq!(gateway.value("SELECT 1").await, "1");
}
