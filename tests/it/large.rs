//! Large reads run alone, and what all workers may use together stays within the budget.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use tonic::{Code, Status};

use crate::fire::worker_of;
use crate::harness::{Gateway, begun, cpu_ticks, kill, query, until};

/// The gateway logs which workers it starts.
pub const DEBUG: &str = "telemetry.level=polynya=debug,warn";

/// A value of a log line's field.
pub fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let at = line.find(&format!(" {name}="))? + name.len() + 2;
    Some(line[at..].split_whitespace().next().unwrap_or_default().trim_matches('"'))
}

fn number(line: &str, name: &str) -> u64 {
    field(line, name).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
}

/// The class of the worker that ran the last statement with this text.
fn ran_on(log: &str, sql: &str) -> String {
    let event = log.lines().rfind(|line| line.contains("action=\"execute\"") && line.contains(sql));
    let event = event.unwrap_or_else(|| panic!("{sql} has not run:\n{log}"));
    let worker = field(event, "worker").unwrap_or_else(|| panic!("no worker: {event}"));
    let attached = log.lines().find(|line| line.contains("worker attached") && field(line, "worker") == Some(worker));
    field(attached.unwrap_or_else(|| panic!("worker {worker} is unknown")), "class").expect("a class").to_owned()
}

/// A gateway on which a table with 100,000 rows of two columns is large.
async fn with_tables(set: &[&str]) -> Gateway {
    let gateway = Gateway::with(&[&["query.large_read=100KiB", "pool.spares=0", DEBUG], set].concat());
    gateway.run("CREATE SCHEMA lake.gold").await;
    gateway.run("CREATE TABLE lake.gold.big AS SELECT i AS v, i || 'x' AS s FROM range(100000) r(i)").await;
    gateway.run("CREATE TABLE lake.gold.small AS SELECT i AS v FROM range(10) r(i)").await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_read_does_not_run_on_a_reader_and_small_ones_do() {
    let gateway = with_tables(&[]).await;
    for (sql, class) in [
        ("SELECT sum(v)::BIGINT FROM lake.gold.big", "Exclusive"),
        ("SELECT max(b.v) FROM lake.gold.small AS a, lake.gold.big AS b WHERE a.v = b.v", "Exclusive"),
        ("SELECT count(*) FROM lake.gold.big WHERE v > 7", "Exclusive"),
        ("SELECT sum(v)::BIGINT FROM lake.gold.small", "Reader"),
        ("SELECT v FROM lake.gold.big LIMIT 3", "Reader"),
        ("SELECT count(*) FROM lake.gold.big", "Reader"),
        ("EXPLAIN SELECT max(s) FROM lake.gold.big", "Reader"),
        ("SELECT sum(i)::BIGINT FROM range(1000000) r(i)", "Reader"),
    ] {
        gateway.value(sql).await;
        assert_eq!(ran_on(&gateway.log(), sql), class, "{sql}");
    }
    assert_eq!(gateway.value("SELECT sum(v)::BIGINT FROM lake.gold.big").await, (99_999_u64 * 50_000).to_string());
    // The reader that judged a large one is as it was.
    assert!(!gateway.log().contains("worker lost"), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_reads_wait_for_each_other_and_for_nobody_else() {
    let gateway = with_tables(&["pool.queue_timeout=6s"]).await;
    let large = "SELECT a.s FROM lake.gold.big AS a, lake.gold.big AS b";
    let mut client = gateway.client().await;
    let first = Box::pin(begun(&mut client, large).await.expect("a large read"));
    // There may be two exclusive workers, and one is left to writes.
    let mut other = gateway.client().await;
    let refused = query(&mut other, large).await.expect_err("the one place is taken");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    gateway.run("INSERT INTO lake.gold.small VALUES (10)").await;
    assert_eq!(gateway.value("SELECT sum(v)::BIGINT FROM lake.gold.small").await, "55");
    drop(first);
    assert_eq!(gateway.value("SELECT count(*) FROM lake.gold.big WHERE v >= 0").await, "100000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_read_whose_worker_is_lost_before_the_first_row_is_asked_once_more() {
    let gateway = with_tables(&["query.statement_timeout=5m"]).await;
    let mut client = gateway.client().await;
    let sql = "SELECT count(*) FROM lake.gold.big AS a, lake.gold.big AS b WHERE (a.v * b.v) % 7 = 3";
    let exclusive = worker_of(&gateway, "Exclusive");
    let before = cpu_ticks(exclusive);
    let reading = tokio::spawn(async move { query(&mut client, sql).await });
    let soon = Duration::from_secs(90);
    // Far longer than it takes to describe it.
    let runs = || cpu_ticks(exclusive) > before + 60;
    tokio::task::block_in_place(|| until("the exclusive worker of the set-up runs it", soon, runs));
    assert!(!reading.is_finished());
    kill(exclusive);
    let is_asked_again = || gateway.log().contains("asked once more");
    tokio::task::block_in_place(|| until("it is asked once more", soon, is_asked_again));
    reading.abort();
}

/// What DuckDB says in `85.3 MiB`, in bytes.
fn bytes(words: &str) -> f64 {
    let (number, unit) = words.split_once(' ').unwrap_or_else(|| panic!("{words}"));
    let unit = match unit {
        "KiB" => 1_024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        other => panic!("{other}"),
    };
    number.parse::<f64>().expect("a number") * unit
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sum_of_all_workers_grants_never_exceeds_the_budget() {
    const BUDGET: u64 = 1 << 30;
    let set = ["pool.max_workers=4", "pool.memory_budget=1GiB", "pool.thread_budget=4", "pool.idle_timeout=500ms"];
    let gateway = with_tables(&set).await;
    for round in 0..4 {
        let reads = join_all((0..8).map(|_| gateway.query("SELECT sum(v)::BIGINT FROM lake.gold.small")));
        let large = join_all((0..3).map(|_| gateway.query("SELECT count(DISTINCT s) FROM lake.gold.big")));
        let (reads, large, ()) = tokio::join!(reads, large, gateway.run("INSERT INTO lake.gold.small VALUES (1)"));
        let failed = reads.into_iter().chain(large).filter_map(Result::err).collect::<Vec<_>>();
        assert!(failed.is_empty(), "{failed:?}");
        if round == 1 {
            let killed = gateway.workers();
            killed.iter().copied().for_each(kill);
            // A write that meets one whose death is not known yet would be told that it did not run.
            let are_lost = || gateway.workers().iter().all(|pid| !killed.contains(pid));
            tokio::task::block_in_place(|| until("the gateway knows of their deaths", Duration::from_secs(20), are_lost));
        }
        tokio::time::sleep(Duration::from_millis(if round == 2 { 1_000 } else { 100 })).await;
    }

    let (mut alive, mut most, mut seen) = (HashMap::new(), (0, 0), HashMap::new());
    let log = gateway.log();
    for line in log.lines() {
        if line.contains("worker attached") {
            let granted = number(line, "memory_bytes");
            let words = line.split("DuckDB keeps to ").nth(1).expect("DuckDB's words");
            let words = words.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
            assert!((bytes(&words) - granted as f64).abs() < 100_000.0, "{words} instead of {granted}");
            alive.insert(number(line, "worker"), (granted, number(line, "threads")));
            *seen.entry(field(line, "class").expect("a class").to_owned()).or_insert(granted) = granted;
        } else if line.contains("worker ended") || line.contains("worker lost") {
            assert!(alive.remove(&number(line, "worker")).is_some(), "{line}");
        }
        let sum = alive.values().fold((0, 0), |sum: (u64, u64), grant| (sum.0 + grant.0, sum.1 + grant.1));
        assert!(sum.0 <= BUDGET && sum.1 <= 4, "{sum:?} after {line}");
        most = (most.0.max(sum.0), most.1.max(sum.1));
    }
    eprintln!("at most {most:?} of {BUDGET}; {seen:?}");
    assert!(most.0 >= BUDGET / 2, "hardly anything was granted: {most:?}");
    assert_eq!(seen["Exclusive"], 2 * seen["Reader"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_keeps_to_what_it_was_granted() {
    let gateway = with_tables(&["pool.max_workers=4", "pool.memory_budget=600MiB", "query.large_read=1GiB"]).await;
    let used_up = |status: Status| {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let words = status.message().split("MiB/").nth(1).unwrap_or_else(|| panic!("{status}")).to_owned();
        words.split(' ').next().expect("a number").to_owned()
    };
    let collect = "SELECT list(i) AS l FROM range(100000000) r(i)";
    let reader = used_up(gateway.query(collect).await.expect_err("too much"));
    let exclusive =
        used_up(gateway.query(&format!("CREATE TABLE lake.gold.l AS {collect}")).await.expect_err("too much for it, too"));
    assert_eq!((reader.as_str(), exclusive.as_str()), ("100.0", "200.0"));
}
