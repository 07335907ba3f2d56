//! The pool under fire: workers are killed and stopped while clients read, and clients come, go and forget what they opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch};
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::future::join_all;
use futures::{Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{Gateway, Held, held, kill, open, query, stop, until};
use crate::large::{DEBUG, field};

/// Rows of the table that is read; each value is there once.
const ROWS: i64 = 300_000;

const SUM: i64 = ROWS * (ROWS - 1) / 2;

/// A statement that runs for minutes if nobody ends it.
const ENDLESS: &str = "SELECT count(*) FROM range(100000000000) t(i) WHERE (i * i) % 7 = 3";

/// A result that never ends.
const ENDLESS_ROWS: &str = "SELECT * FROM range(100000000000)";

async fn with_table(set: &[&str]) -> Gateway {
    let gateway = Gateway::with(set);
    gateway.run("CREATE SCHEMA lake.gold").await;
    gateway.run(&format!("CREATE TABLE lake.gold.t AS SELECT i AS v FROM range({ROWS}) r(i)")).await;
    gateway
}

type Client = FlightSqlServiceClient<Channel>;

/// Rows and sum of one column, as far as they came, and how it ended.
async fn read(client: &mut Client, sql: &str) -> (i64, i64, Result<(), Status>) {
    let (mut rows, mut sum) = (0, 0);
    let mut stream = match open(client, sql).await {
        Ok(stream) => Box::pin(stream),
        Err(status) => return (0, 0, Err(status)),
    };
    while let Some(batch) = stream.next().await {
        let batch = match batch {
            Ok(batch) => batch,
            Err(status) => return (rows, sum, Err(status)),
        };
        let values: &Int64Array = batch.column(0).as_any().downcast_ref().expect("BIGINT");
        rows += i64::try_from(values.len()).expect("a number of rows");
        sum += values.values().iter().sum::<i64>();
    }
    (rows, sum, Ok(()))
}

#[derive(Default)]
struct Tally {
    good: AtomicUsize,
    cut: AtomicUsize,
    lost_twice: AtomicUsize,
}

impl Tally {
    /// One read of the whole table or of its sum: right, or lost in a way that is allowed.
    async fn read(&self, client: &mut Client, whole: bool) {
        let sql = if whole { "SELECT v FROM lake.gold.t" } else { "SELECT sum(v)::BIGINT FROM lake.gold.t" };
        match read(client, sql).await {
            (rows, sum, Ok(())) => {
                assert_eq!((rows, sum), (if whole { ROWS } else { 1 }, SUM), "{sql}");
                self.good.fetch_add(1, Ordering::Relaxed);
            }
            (rows, _, Err(status)) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                if rows > 0 {
                    self.cut.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert!(status.message().contains("run twice"), "lost once before the first row: {status}");
                    self.lost_twice.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Clients that read until the flag is set.
async fn readers(gateway: &Gateway, number: usize, over: &AtomicBool, tally: &Tally) {
    join_all((0..number).map(async |n| {
        let mut client = gateway.client().await;
        let mut whole = n % 2 == 0;
        while !over.load(Ordering::Relaxed) {
            tally.read(&mut client, whole).await;
            whole = !whole;
        }
    }))
    .await;
}

/// Sets the flag after a time.
async fn after(time: Duration, over: &AtomicBool) {
    tokio::time::sleep(time).await;
    over.store(true, Ordering::Relaxed);
}

/// Waits until so many got through, on a machine that may be busy.
async fn reached(tally: &AtomicUsize, number: usize) {
    let counted = async {
        while tally.load(Ordering::Relaxed) < number {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(180);
    tokio::time::timeout(limit, counted).await.unwrap_or_else(|_| panic!("{tally:?} of {number} got through in {limit:?}"));
}

/// How long what is used no more may take to go on a busy machine.
const SOME_TIME: Duration = Duration::from_secs(60);

/// What the gateway holds when it is idle for so long that only its spare is left.
async fn at_rest(gateway: &Gateway) -> Held {
    tokio::task::block_in_place(|| until("only the spare is left", SOME_TIME, || gateway.workers().len() == 1));
    tokio::time::sleep(Duration::from_millis(300)).await;
    held(gateway.pid())
}

/// Nothing is left over of what happened between two rests. What goes last may take a while to go.
async fn no_more_than(before: Held, gateway: &Gateway) {
    let mut after = at_rest(gateway).await;
    let end = Instant::now() + SOME_TIME;
    // Threads for blocking calls stay for some seconds after their last use.
    let is_more = |after: Held| {
        after.files > before.files + 8 || after.threads > before.threads + 8 || after.resident_mb > before.resident_mb + 48
    };
    while is_more(after) {
        assert!(Instant::now() < end, "before {before:?}, {SOME_TIME:?} after {after:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = held(gateway.pid());
    }
    eprintln!("before {before:?}, after {after:?}");
}

const AT_REST_SOON: &str = "pool.idle_timeout=1s";

/// On a busy machine it takes a while until as many workers are started as are lost.
const PATIENT: &str = "pool.queue_timeout=5m";

#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_cost_nothing_but_results_under_way() {
    let gateway = Arc::new(with_table(&[AT_REST_SOON, PATIENT]).await);
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    tokio::join!(readers(&gateway, 16, &over, &tally), after(Duration::from_secs(1), &over));
    assert_eq!((tally.cut.into_inner(), tally.lost_twice.into_inner()), (0, 0), "nobody was killed yet");
    let before = at_rest(&gateway).await;

    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let asked_again = || gateway.log().matches("asked once more").count();
    let killer = async {
        let mut kills = 0;
        // Sooner or later one is lost before a first row.
        while kills < 20 || (kills < 60 && asked_again() == 0) {
            let good = tally.good.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(500)).await;
            // On a busy machine it takes longer than that to start a worker and to read something by it.
            reached(&tally.good, good + 3).await;
            let workers = gateway.workers();
            if let Some(&pid) = workers.get((kills * 7) % workers.len().max(1)) {
                kill(pid);
            }
            kills += 1;
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(readers(&gateway, 16, &over, &tally), killer);
    let asked_again = asked_again();
    eprintln!("good {:?}, cut {:?}, lost twice {:?}, asked again {asked_again}", tally.good, tally.cut, tally.lost_twice);
    assert!(asked_again > 0, "no worker was lost before a first row");
    no_more_than(before, &gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_is_killed_and_the_others_go_on() {
    let gateway = with_table(&["pool.spares=0", "query.statement_timeout=24s", "pool.cancel_grace=1s", PATIENT]).await;
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let both_readers = async {
        // And the exclusive worker of the set-up.
        while gateway.workers().len() < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        after(Duration::from_secs(1), &over).await;
    };
    tokio::join!(readers(&gateway, 4, &over, &tally), both_readers);
    let workers = gateway.workers();

    let mut clients = join_all((0..12).map(|_| gateway.client())).await;
    let mut streams = clients.split_off(10);
    let mut small = clients.split_off(4);
    let began = Instant::now();
    let endless = join_all(clients.iter_mut().map(async |client| {
        let status = query(client, ENDLESS).await.expect_err("a deadline");
        (status, began.elapsed())
    }));
    let stopped = async {
        // Late enough that who waits for the stopped worker has time left when it is killed.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let (one, two) = streams.split_at_mut(1);
        let mut one = Box::pin(open(&mut one[0], ENDLESS_ROWS).await.expect("a stream"));
        let mut two = Box::pin(open(&mut two[0], ENDLESS_ROWS).await.expect("a stream"));
        one.next().await.expect("a batch").expect("a good batch");
        two.next().await.expect("a batch").expect("a good batch");
        let pid = busy_reader(&workers);
        let _stopped = stop(pid);
        let ends = async { tokio::join!(end_of(&mut one), end_of(&mut two)) };
        let reads = join_all(small.iter_mut().map(async |client| {
            let (rows, sum, ended) = read(client, "SELECT sum(v)::BIGINT FROM lake.gold.t").await;
            ended.expect("asked again when the stopped worker was killed");
            assert_eq!((rows, sum), (1, SUM));
            gateway.workers().contains(&pid)
        }));
        tokio::join!(ends, reads)
    };
    let (endless, (ends, reads)) = tokio::join!(endless, stopped);
    for (status, time) in endless {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!((23_900..50_000).contains(&time.as_millis()), "{time:?}");
    }
    // The stopped worker's stream was cut when it was killed, and the other one's went on to its own deadline.
    let mut ends = [ends.0.code(), ends.1.code()];
    ends.sort_by_key(|code| *code as i32);
    assert_eq!(ends, [Code::DeadlineExceeded, Code::Unavailable]);
    eprintln!("small reads done while there was a stopped worker: {reads:?}");
    assert!(reads.contains(&true), "the other worker did not go on");
    assert!(reads.contains(&false), "no read met the stopped worker");
    assert!(gateway.log().contains("Stuck"), "{}", gateway.log());
}

/// Of the workers, a reader that has used the processor: the exclusive one is asleep by now.
fn busy_reader(workers: &[u32]) -> u32 {
    let ticks = || workers.iter().map(|pid| crate::harness::cpu_ticks(*pid));
    let before: Vec<u64> = ticks().collect();
    let mut busiest = 0;
    until("a reader uses the processor", Duration::from_secs(5), || {
        let used = ticks().zip(&before).map(|(now, before)| now.saturating_sub(*before));
        let (most, pid) = used.zip(workers).max().expect("a worker");
        busiest = *pid;
        most >= 5
    });
    busiest
}

async fn end_of(stream: &mut (impl Stream<Item = Result<RecordBatch, Status>> + Unpin)) -> Status {
    loop {
        match stream.next().await {
            Some(Ok(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            Some(Err(status)) => return status,
            None => panic!("the end of an endless result"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_and_reads_do_not_disturb_each_other() {
    let gateway = with_table(&[]).await;
    for n in 0..10 {
        gateway.run(&format!("CREATE TABLE lake.gold.t{n} (a INTEGER)")).await;
    }
    let (tally, over, listed) = (Tally::default(), AtomicBool::new(false), AtomicUsize::new(0));
    let listers = join_all((0..16).map(async |_| {
        let mut client = gateway.client().await;
        while !over.load(Ordering::Relaxed) {
            let batches = query(&mut client, "SELECT * FROM information_schema.tables").await.expect("a listing");
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 11);
            listed.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let enough = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        reached(&tally.good, 20).await;
        reached(&listed, 20).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(readers(&gateway, 16, &over, &tally), listers, enough);
    eprintln!("{:?} reads, {listed:?} listings", tally.good);
    assert_eq!((tally.cut.into_inner(), tally.lost_twice.into_inner()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_queries_on_one_channel_leave_nothing() {
    let gateway = with_table(&[AT_REST_SOON, "telemetry.level=warn"]).await;
    let mut client = gateway.client().await;
    for _ in 0..50 {
        query(&mut client, "SELECT 1").await.expect("a row");
    }
    let before = at_rest(&gateway).await;
    for n in 0..1_000 {
        let batches = query(&mut client, &format!("SELECT {n}::BIGINT")).await.expect("a row");
        let values: &Int64Array = batches[0].column(0).as_any().downcast_ref().expect("BIGINT");
        assert_eq!(values.values(), &[n]);
    }
    let workers = gateway.workers();
    assert_eq!(workers.len(), 2, "one client needs one reader, beside the spare");
    no_more_than(before, &gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_streams_leave_nothing() {
    let gateway = with_table(&[AT_REST_SOON]).await;
    let client = gateway.client().await;
    let abandon = async || {
        let mut stream = Box::pin(open(&mut client.clone(), ENDLESS_ROWS).await.expect("a stream"));
        stream.next().await.expect("a batch").expect("a good batch");
    };
    join_all((0..10).map(|_| abandon())).await;
    let before = at_rest(&gateway).await;
    for _ in 0..20 {
        join_all((0..10).map(|_| abandon())).await;
    }
    assert_eq!(gateway.value("SELECT 1").await, "1");
    assert!(!gateway.log().contains("worker lost"), "a cancelled statement cost a worker");
    no_more_than(before, &gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_give_their_slots_back() {
    let slots = ["pool.max_statements=2", "pool.readers_per_key=1", "pool.spares=0", "query.statement_timeout=4s"];
    let gateway = Gateway::with(&slots);
    // Its worker is there before the time begins to run.
    gateway.runs_again("there is a worker", "SELECT 1").await;
    let mut client = gateway.client().await;
    let mut sleeping = Vec::new();
    for _ in 0..2 {
        sleeping.push(Box::pin(open(&mut client, ENDLESS_ROWS).await.expect("a stream")));
    }
    let began = Instant::now();
    // Waits until the two have had their time, which is a little longer than its own.
    while let Err(status) = gateway.query("SELECT 1").await {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(began.elapsed() < Duration::from_secs(30), "the slots stay taken");
    }
    // Who reads on after that is told why it ends.
    for stream in &mut sleeping {
        assert_eq!(end_of(stream).await.code(), Code::DeadlineExceeded);
    }
    drop(sleeping);
    let (one, two) = tokio::join!(gateway.query("SELECT 1"), gateway.query("SELECT 1"));
    one.and(two).expect("both slots are free, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_nothing() {
    // Fewer places for sessions than connections: each gives its own back.
    let gateway = with_table(&[AT_REST_SOON, "session.max_sessions=20", "telemetry.level=warn"]).await;
    assert_eq!(gateway.value("SELECT 1").await, "1");
    let before = at_rest(&gateway).await;
    for n in 0..50 {
        join_all((0..10).map(async |_| {
            let mut client = gateway.client().await;
            // Some ask for nothing, some leave without the rows that they have asked for.
            match n % 3 {
                0 => drop(query(&mut client, "SELECT 1").await.expect("a row")),
                1 => drop(client.execute("SELECT 1".to_owned(), None).await.expect("a description")),
                _ => drop(client.prepare("SELECT 1".to_owned(), None).await.expect("a statement")),
            }
        }))
        .await;
    }
    no_more_than(before, &gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_given_up_half_way_costs_no_worker() {
    let gateway = Gateway::with(&["pool.spares=0", "pool.readers_per_key=1", "pool.cancel_grace=500ms"]);
    assert_eq!(gateway.value("SELECT 1").await, "1");
    let workers = gateway.workers();
    // More than a socket takes: the stopped worker gets a part of it.
    let long = format!("SELECT 1 -- {}", "x".repeat(900_000));
    let stopped = stop(workers[0]);
    let mut client = gateway.client().await;
    let given_up = tokio::time::timeout(Duration::from_secs(1), query(&mut client, &long)).await;
    assert!(given_up.is_err(), "{given_up:?}");
    // For longer than the grace after which a worker is killed that does not say that a cancelled statement has ended.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    drop(stopped);
    assert_eq!(gateway.value("SELECT 2").await, "2");
    assert_eq!(gateway.workers(), workers, "{}", gateway.log());
    assert!(!gateway.log().contains("worker lost"), "{}", gateway.log());
}

/// The process of the first worker of a class; for gateways that log what they start.
pub fn worker_of(gateway: &Gateway, class: &str) -> u32 {
    *workers_of(gateway, class).first().unwrap_or_else(|| panic!("no {class}:\n{}", gateway.log()))
}

/// The processes of all workers of a class so far.
pub fn workers_of(gateway: &Gateway, class: &str) -> Vec<u32> {
    let log = gateway.log();
    let attached = log.lines().filter(|line| line.contains("worker attached") && field(line, "class") == Some(class));
    // The last line may be one that is still being written.
    attached.filter_map(|line| field(line, "pid")?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_lost_before_it_ran_is_known_not_to_have_run() {
    let gateway = with_table(&["pool.spares=0", "pool.exclusive_per_key=1", DEBUG]).await;
    let exclusive = worker_of(&gateway, "Exclusive");
    let mut client = gateway.client().await;
    query(&mut client, "SELECT 1").await.expect("a row");
    let stopped = stop(exclusive);
    let writing = tokio::spawn(async move { query(&mut client, "INSERT INTO lake.gold.t VALUES (1)").await });
    // It is with the stopped worker by then.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!writing.is_finished(), "it does not wait for the stopped worker");
    kill(exclusive);
    drop(stopped);
    let status = writing.await.expect("no panic").expect_err("a lost worker");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("nothing of the statement has run"), "{status}");
    assert_eq!(gateway.value("SELECT count(*) FROM lake.gold.t").await, ROWS.to_string());
}

/// Makes DuckDB 1.5.5 read where nothing is: its process ends by a signal.
const CRASH: &str = "SELECT lag(x, -9223372036854775808) OVER () FROM range(3) t(x)";

/// Ends with an INTERNAL error of DuckDB 1.5.5.
const INTERNAL: &str = "SELECT * FROM repeat_row(1, num_rows := -1) LIMIT 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_crashes_its_worker_costs_itself_only() {
    let gateway = with_table(&["pool.spares=0", PATIENT]).await;
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let crashes = async {
        let mut client = gateway.client().await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let status = query(&mut client, CRASH).await.expect_err("DuckDB 1.5.5 does not bear it");
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().contains("run twice"), "{status}");
        }
        reached(&tally.good, 8).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(readers(&gateway, 8, &over, &tally), crashes);
    eprintln!("good {:?}, cut {:?}, lost twice {:?}", tally.good, tally.cut, tally.lost_twice);
    // Asked once more it was alone.
    assert_eq!(tally.lost_twice.into_inner(), 0, "a neighbour's statement failed");
    // It reads where nothing is, or aborts on what it finds there. The client may know of the last one before the log does.
    let signals = || gateway.log().matches("exit=\"signal: ").count();
    tokio::task::block_in_place(|| until("all of them are in the log", Duration::from_secs(20), || signals() >= 6));
    assert_eq!(signals(), 6, "{}", gateway.log());
    assert_eq!(gateway.value("SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_internal_error_retires_the_instance_and_its_neighbours_are_asked_again() {
    let gateway = with_table(&["pool.spares=0", "pool.readers_per_key=1", PATIENT]).await;
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let asked_again = || gateway.log().contains("asked once more");
    let errors = async {
        let (mut client, mut errors) = (gateway.client().await, 0);
        // A neighbour that had no row yet is there sooner or later.
        while errors < 3 || (errors < 20 && !asked_again()) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let status = query(&mut client, INTERNAL).await.expect_err("DuckDB 1.5.5 does not bear it");
            assert_eq!(status.code(), Code::Internal, "{status}");
            assert!(status.message().starts_with("internal error; request id"), "{status}");
            errors += 1;
        }
        reached(&tally.good, 8).await;
        over.store(true, Ordering::Relaxed);
        errors
    };
    let ((), errors) = tokio::join!(readers(&gateway, 8, &over, &tally), errors);
    eprintln!("good {:?}, cut {:?}, lost twice {:?}", tally.good, tally.cut, tally.lost_twice);
    // The client may know of the last one before the log does.
    let lost = || gateway.log().matches("worker lost").count();
    tokio::task::block_in_place(|| until("all of them are in the log", Duration::from_secs(20), || lost() >= errors));
    let log = gateway.log();
    // Nobody killed one: each was given up for its error. Its own last word may come, or why it was lost, or both: it is killed while it
    // still ends by itself.
    assert_eq!(log.matches("worker lost").count(), errors, "{log}");
    assert!(log.contains("the instance is no longer usable") || log.contains("why=Some(Fatal)"), "{log}");
    assert!(asked_again(), "no neighbour was asked again:\n{log}");
    assert_eq!(tally.lost_twice.into_inner(), 0, "a neighbour's statement failed");
    assert_eq!(gateway.value("SELECT sum(v)::BIGINT FROM lake.gold.t").await, SUM.to_string());
}
