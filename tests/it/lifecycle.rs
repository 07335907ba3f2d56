//! Workers and statements come and go: deadlines, cancellation, lost workers, drain, restart.

use std::time::{Duration, Instant};

use futures::StreamExt;
use tonic::Code;

use crate::harness::{Gateway, cpu_ticks, kill, until};

/// A statement that runs for minutes if nobody ends it.
const ENDLESS: &str = "SELECT count(*) FROM range(100000000000) t(i) WHERE (i * i) % 7 = 3";

/// What happens at once or never is given so long on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn are_quiet(pids: &[u32]) -> bool {
    let before: u64 = pids.iter().map(|&pid| cpu_ticks(pid)).sum();
    std::thread::sleep(Duration::from_millis(300));
    let after: u64 = pids.iter().map(|&pid| cpu_ticks(pid)).sum();
    // One that has ended is quiet, too.
    after.saturating_sub(before) <= 3
}

#[tokio::test]
async fn a_statement_ends_at_its_deadline() {
    let gateway = Gateway::with(&["query.statement_timeout=1s"]);
    let began = Instant::now();
    let status = gateway.query(ENDLESS).await.expect_err("a deadline");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // A second is little for any statement on a busy machine.
    gateway.runs_again("others run after it", "SELECT 1").await;
    let workers = gateway.workers();
    until("a statement past its deadline gives its worker up", SOON, || are_quiet(&workers));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_cancels_its_statement() {
    // No spare, which may still be on its way when workers are counted.
    let gateway = Gateway::with(&["pool.spares=0"]);
    let mut client = gateway.client().await;
    let sql = "SELECT * FROM range(100000000000)";
    let info = client.execute(sql.to_owned(), None).await.expect("a description");
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let mut stream = client.do_get(ticket).await.expect("a stream");
    stream.next().await.expect("a batch").expect("a good batch");
    drop(stream);
    let workers = gateway.workers();
    until("a statement that nobody reads gives its worker up", SOON, || are_quiet(&workers));
    assert_eq!(gateway.value("SELECT 1").await, "1");
    assert_eq!(gateway.workers(), workers, "a cancelled statement cost a worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced() {
    let gateway = Gateway::start();
    assert_eq!(gateway.value("SELECT 1").await, "1");
    for pid in gateway.workers() {
        kill(pid);
    }
    // A statement may meet a worker whose death is not yet known; it is then told so, or retried.
    until("statements work again", Duration::from_secs(20), || {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(gateway.query("SELECT 1")).is_ok())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_resource_exhausted_with_a_hint() {
    let gateway = Gateway::with(&[
        "pool.max_workers=1",
        "pool.spares=0",
        "pool.readers_per_key=1",
        "pool.max_statements=1",
        "pool.queue=1",
        "pool.queue_timeout=3s",
    ]);
    // Its worker is there before the time of those who wait begins to run.
    gateway.runs_again("there is a worker", "SELECT 1").await;
    let mut client = gateway.client().await;
    let info = client.execute("SELECT * FROM range(100000000000)".to_owned(), None).await.expect("a description");
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let mut stream = client.do_get(ticket).await.expect("a stream");
    stream.next().await.expect("a batch").expect("a good batch");
    // One waits for the whole queue_timeout, the other finds the queue full.
    let (one, two) = tokio::join!(gateway.query("SELECT 1"), gateway.query("SELECT 1"));
    for status in [one.expect_err("no worker is free"), two.expect_err("no worker is free")] {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.metadata().contains_key("retry-after-ms") || status.message().contains("try again"), "{status:?}");
    }
    drop(stream);
    gateway.runs_again("the dropped stream's place is free", "SELECT 1").await;
}

#[tokio::test]
async fn sigterm_drains_and_leaves_nothing() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    let workers = gateway.workers();
    assert!(!workers.is_empty());
    let (status, dir) = gateway.terminate();
    assert!(status.success(), "{status}");
    for pid in workers {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "worker {pid} is left");
    }
    let left = std::fs::read_dir(dir.path()).expect("the directory").flatten();
    let left: Vec<_> = left.map(|e| e.file_name()).filter(|name| name.to_string_lossy().starts_with("polynya-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn the_gateway_s_death_ends_its_workers() {
    let gateway = Gateway::start();
    assert_eq!(gateway.value("SELECT 1").await, "1");
    let workers = gateway.workers();
    kill(gateway.pid());
    until("workers end with the gateway", SOON, || workers.iter().all(|pid| has_ended(*pid)));
}

fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

/// Directories of gateways below their `run_dir`.
fn run_dirs(gateway: &Gateway) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(gateway.dir.path()).expect("the directory").flatten();
    entries
        .map(|e| e.path())
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("polynya-")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn spill_files_of_a_killed_gateway_go_at_the_next_start() {
    let set = ["pool.max_workers=1", "pool.spares=0", "pool.memory_budget=60MiB"];
    let gateway = Gateway::with(&set);
    let left = run_dirs(&gateway);
    let mut client = gateway.client().await;
    let sort = "SELECT hash(i) AS h, i FROM range(100000000) t(i) ORDER BY h";
    let info = client.execute(sort.to_owned(), None).await.expect("a description");
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let sorting = tokio::spawn(async move { client.do_get(ticket).await.map(drop) });
    let spilt = || walk(&left[0]).iter().any(|path| path.to_string_lossy().contains("/spill/"));
    tokio::task::block_in_place(|| until("the sort spills", Duration::from_secs(120), spilt));
    let workers = gateway.workers();
    assert!(workers.iter().any(|pid| cpu_ticks(*pid) > 20), "nobody sorts");
    kill(gateway.pid());
    tokio::task::block_in_place(|| {
        until("workers that spill end with the gateway", SOON, || workers.iter().all(|pid| has_ended(*pid)));
    });
    sorting.await.expect("no panic").expect_err("the gateway is gone");
    assert!(left[0].exists(), "nobody was left to remove it");
    let again = Gateway::in_dir(std::sync::Arc::clone(&gateway.dir), &set);
    assert!(!left[0].exists(), "{left:?} is left");
    assert_eq!(again.value("SELECT 1").await, "1");
    assert_eq!(run_dirs(&again).len(), 1);
}

/// Every file below a directory.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.flat_map(|e| if e.path().is_dir() { walk(&e.path()) } else { vec![e.path()] }).collect()
}

#[tokio::test]
async fn tables_are_there_after_a_restart() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    gateway.run("CREATE TABLE lake.bronze.t AS SELECT i AS a FROM range(10) r(i)").await;
    let (status, dir) = gateway.terminate();
    assert!(status.success(), "{status}");
    let again = Gateway::in_dir(dir, &[]);
    assert_eq!(again.value("SELECT sum(a)::BIGINT FROM lake.bronze.t").await, "45");
}
