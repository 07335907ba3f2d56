//! Many principals on few workers: a pool of its own with real worker processes, asked with more credentials than it has places.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use polynya::auth::credential::Wallet;
use polynya::config::{self, Sources};
use polynya::extensions;
use polynya::names::{CatalogName, RoleName};
use polynya::pool::connection::Reply;
use polynya::pool::{self, Census, Environment, Lease, Pool, PoolError, Running, WorkerClass, WorkerKey};
use polynya::relay::Relay;
use polynya::relay::config::{RoleCatalog, RoleConfig};
use polynya::relay::lease::{LeaseTerms, Leases};
use polynya::wire::proto::{Class, Request, Run, failure, request};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A pool on an embedded catalog; its workers end with it.
struct Workers {
    pool: Pool,
    stop: CancellationToken,
    tasks: TaskTracker,
    _dir: TempDir,
}

impl Workers {
    /// With so many places and these `--set` pairs.
    async fn with(places: usize, set: &[&str]) -> Self {
        let dir = TempDir::new().expect("a directory");
        let pairs = [format!("pool.max_workers={places}"), format!("catalogs.lake.path={}", dir.path().join("lake").display())];
        let pairs = pairs.iter().map(String::as_str).chain(set.iter().copied());
        let pairs = pairs.map(|pair| pair.split_once('=').expect("a pair")).map(|(k, v)| (k.to_owned(), v.to_owned()));
        let tree = config::merged(&Sources { files: Vec::new(), set: pairs.collect() }, std::iter::empty()).expect("a tree");
        let config = config::load(tree).expect("a config");
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let relay = Relay::bind(config.relay, config.catalogs, roles()).await.expect("a relay");
        tasks.spawn(Arc::clone(&relay).serve(stop.clone()));
        let environment = Environment {
            worker_exe: env!("CARGO_BIN_EXE_polynya").into(),
            extension_dir: extensions::find(&pool::EXTENSIONS).expect("the extensions"),
            run_root: dir.path().to_owned(),
            catalogs: relay.catalogs(),
            machine_memory: 4 << 30,
            machine_cores: 2,
        };
        let leases: Arc<dyn Leases> = relay;
        let pool = Pool::start(config.pool, environment, leases, tasks.clone(), stop.clone()).expect("a pool");
        Self { pool, stop, tasks, _dir: dir }
    }

    /// Runs one statement and holds its slot for a while after its last row.
    async fn run(&self, key: &WorkerKey, sql: &str, hold: Duration) -> Result<(), PoolError> {
        let mut lease = self.pool.lease(key).await?;
        answer(&mut lease, sql).await?;
        tokio::time::sleep(hold).await;
        Ok(())
    }

    /// Waits until the pool holds what is expected.
    async fn until(&self, what: &str, reached: impl Fn(Census) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !reached(self.pool.census()) {
            assert!(Instant::now() < end, "not in time: {what}: {:?}", self.pool.census());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        assert_eq!(self.pool.census(), Census { workers: 0, keys: 0, waiting: 0 });
    }
}

/// A role for each name that the tests use; all of them open the one catalog.
fn roles() -> BTreeMap<RoleName, RoleConfig> {
    let catalogs = BTreeMap::from([(CatalogName::from("lake"), RoleCatalog::default())]);
    let opens = RoleConfig { catalogs, ..RoleConfig::default() };
    let fixed = ["warm", "one", "hog", "ana", "bob", "cleo", "dora", "late"].map(str::to_owned);
    let numbered = (0..1000).flat_map(|n| [n.to_string(), format!("principal {n}"), format!("newcomer {n}")]);
    fixed.into_iter().chain(numbered).map(|name| (RoleName::from(name), opens.clone())).collect()
}

fn reader(name: &str) -> WorkerKey {
    WorkerKey { credential: Wallet::default().role(&RoleName::from(name)), class: WorkerClass::Reader }
}

fn exclusive(name: &str) -> WorkerKey {
    WorkerKey { class: WorkerClass::Exclusive, ..reader(name) }
}

async fn ask(lease: &mut Lease, sql: &str) -> Result<(), PoolError> {
    let request = Request {
        sql: sql.to_owned(),
        default_catalog: "lake".to_owned(),
        default_schema: "main".to_owned(),
        allowed: vec![Class::Read.into()],
        action: Some(request::Action::Run(Run::default())),
        ..Request::default()
    };
    lease.ask(request, LeaseTerms::default(), Instant::now() + Duration::from_secs(60)).await
}

/// Reads a statement's answer to its end.
async fn answer(lease: &mut Lease, sql: &str) -> Result<(), PoolError> {
    ask(lease, sql).await?;
    let mut rows = false;
    loop {
        match lease.next().await? {
            Reply::Batch(_) => rows = true,
            Reply::Done(_) => break,
            _ => {}
        }
    }
    assert!(rows, "{sql}: no rows");
    Ok(())
}

/// A statement that runs for minutes if nobody ends it.
const ENDLESS: &str = "SELECT count(*) FROM range(100000000000) t(i) WHERE (i * i) % 7 = 3";

/// Makes DuckDB 1.5.5 read where nothing is: its process ends by a signal.
const CRASH: &str = "SELECT lag(x, -9223372036854775808) OVER () FROM range(3) t(x)";

const NO_TIME: Duration = Duration::ZERO;

fn of(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

/// How many principals: more than CI has the time for, when asked.
fn principals() -> usize {
    std::env::var("POLYNYA_TEST_PRINCIPALS").map_or(120, |number| number.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn many_principals_get_their_statements_done_by_two_workers() {
    let workers = Workers::with(2, &["pool.queue_timeout=600s"]).await;
    let number = principals();
    workers.run(&reader("warm"), "SELECT 1", NO_TIME).await.expect("a row");
    let began = Instant::now();
    let one = reader("one");
    join_all((0..number).map(|_| workers.run(&one, "SELECT 42", NO_TIME))).await.into_iter().for_each(|r| r.expect("a row"));
    let alone = began.elapsed();

    let began = Instant::now();
    let runs = (0..number).map(async |n| {
        // Described and then run, as drivers do.
        let key = reader(&format!("principal {n}"));
        for _ in 0..2 {
            workers.run(&key, "SELECT 42", NO_TIME).await.expect("a row");
        }
        began.elapsed()
    });
    let watched = async {
        let mut most = Census { workers: 0, keys: 0, waiting: 0 };
        while began.elapsed() < Duration::from_secs(1) {
            let now = workers.pool.census();
            most = Census { workers: most.workers.max(now.workers), keys: most.keys.max(now.keys), waiting: now.waiting };
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        most
    };
    let (mut times, most) = tokio::join!(join_all(runs), watched);
    let all = began.elapsed();
    eprintln!(
        "{number} principals with two statements each: {all:?}, {:?} for a change of workers; half had theirs after {:?}. The same \
         number of statements of one principal: {alone:?}",
        all * 2 / u32::try_from(number).expect("few"),
        of(&mut times, 50)
    );
    assert!(most.workers <= 2 && most.keys <= 2, "{most:?}");
    assert_eq!(workers.pool.census().waiting, 0);
    workers.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hog_delays_a_newcomer_by_a_turn() {
    let workers = Workers::with(1, &["pool.turn=1s", "pool.max_statements=4"]).await;
    let hold = Duration::from_millis(200);
    let hog = reader("hog");
    workers.run(&hog, "SELECT 1", NO_TIME).await.expect("a row");
    let began = Instant::now();
    let done = AtomicUsize::new(0);
    let hogs = async {
        let runs = (0..100).map(async |_| {
            workers.run(&hog, "SELECT 1", hold).await.expect("a row");
            done.fetch_add(1, Ordering::Relaxed);
            began.elapsed()
        });
        join_all(runs).await
    };
    let newcomer = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut waits = Vec::new();
        for n in 0..2 {
            let (arrived, before) = (Instant::now(), done.load(Ordering::Relaxed));
            workers.run(&exclusive(&format!("newcomer {n}")), "SELECT 1", NO_TIME).await.expect("a row");
            waits.push((arrived.elapsed(), done.load(Ordering::Relaxed) - before));
        }
        waits
    };
    let (hogs, waits) = tokio::join!(hogs, newcomer);
    let last = hogs.into_iter().max().expect("some");
    eprintln!("beside 100 waiting statements newcomers waited {waits:?}; the last of the 100 was done after {last:?}");
    // Each waited for a turn, not for less, and not for all: four are done in 200 ms at the most.
    for (wait, passed) in waits {
        assert!(wait.as_millis() >= 900 && passed <= 60, "{passed} of the hog's statements went before in {wait:?}");
    }
    workers.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_is_told_so_and_who_leaves_makes_room_in_the_queue() {
    let workers = Workers::with(1, &["pool.queue=2", "pool.queue_timeout=16s", "pool.turn=500ms"]).await;
    let mut busy = workers.pool.lease(&reader("ana")).await.expect("a slot");
    ask(&mut busy, ENDLESS).await.expect("asked");
    let pool = workers.pool.clone();
    let waiting = tokio::spawn(async move { pool.lease(&reader("bob")).await.map(drop) });
    let pool = workers.pool.clone();
    let leaving = tokio::spawn(async move { pool.lease(&reader("cleo")).await.map(drop) });
    workers.until("two wait", |census| census.waiting == 2).await;
    // The last to come has so much longer to wait for what becomes free when the first has waited in vain.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let full = workers.pool.lease(&reader("dora")).await.map(drop).expect_err("a full queue").to_string();
    assert!(
        full.starts_with("2 statements are waiting") && full.contains("pool.queue") && full.contains("the longest for "),
        "{full}"
    );
    leaving.abort();
    workers.until("one has left", |census| census.waiting == 1).await;
    let (pool, late) = (workers.pool.clone(), exclusive("ana"));
    let last = tokio::spawn(async move { pool.lease(&late).await.map(drop) });
    workers.until("its place was free", |census| census.waiting == 2).await;
    let timeout = waiting.await.expect("no panic").expect_err("nothing is free").to_string();
    assert!(timeout.contains("pool.queue_timeout") && timeout.contains("and 1 other statements are waiting"), "{timeout}");
    // What runs was not cut for them; when it ends, the one that is left is served.
    drop(busy);
    last.await.expect("no panic").expect("a slot");
    assert_eq!(workers.pool.census().waiting, 0);
    workers.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_sends_away_who_waits() {
    let workers = Workers::with(1, &[]).await;
    let mut busy = workers.pool.lease(&reader("ana")).await.expect("a slot");
    ask(&mut busy, ENDLESS).await.expect("asked");
    let waits = (0..20).map(|n| {
        let (pool, key) = (workers.pool.clone(), reader(&n.to_string()));
        tokio::spawn(async move { pool.lease(&key).await.map(drop) })
    });
    let waits: Vec<_> = waits.collect();
    workers.until("all wait", |census| census.waiting == 20).await;
    workers.stop.cancel();
    for wait in join_all(waits).await {
        let refused = wait.expect("no panic").expect_err("the gateway drains");
        assert!(matches!(refused, PoolError::Draining), "{refused}");
    }
    assert!(matches!(workers.pool.lease(&reader("late")).await, Err(PoolError::Draining)));
    drop(busy);
    workers.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_worker_that_dies_get_another() {
    let workers = Workers::with(1, &["pool.max_statements=1"]).await;
    let key = reader("ana");
    for _ in 0..3 {
        let mut crashes = workers.pool.lease(&key).await.expect("a slot");
        let first = crashes.worker_id();
        let waits = join_all((0..10).map(async |n| {
            let key = if n % 2 == 0 { &key } else { &reader("bob") };
            workers.run(key, "SELECT 1", NO_TIME).await
        }));
        let crash = async {
            workers.until("ten wait", |census| census.waiting == 10).await;
            let lost = answer(&mut crashes, CRASH).await.expect_err("DuckDB 1.5.5 does not bear it");
            drop(crashes);
            lost
        };
        let (waits, lost) = tokio::join!(waits, crash);
        assert!(matches!(lost, PoolError::Lost { .. }), "{lost}");
        waits.into_iter().for_each(|wait| wait.expect("a row from another worker"));
        assert_ne!(workers.pool.lease(&key).await.expect("a slot").worker_id(), first);
    }
    workers.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_credential_s_statements_finish_or_are_cut_and_new_ones_get_a_new_worker() {
    let workers = Workers::with(3, &[]).await;
    let (ana, bob) = (reader("ana"), reader("bob"));
    let mut finishing = workers.pool.lease(&ana).await.expect("a slot");
    let other = workers.pool.lease(&bob).await.expect("a slot").worker_id();
    ask(&mut finishing, "SELECT sum(i * i % 7) FROM range(50000000) t(i)").await.expect("asked");
    workers.pool.retire_credential(ana.credential.id(), Running::Finishes);
    let mut cut = workers.pool.lease(&ana).await.expect("a slot");
    assert_ne!(cut.worker_id(), finishing.worker_id());
    loop {
        if let Reply::Done(done) = finishing.next().await.expect("it goes on to its end") {
            assert_eq!(done.rows, 1);
            break;
        }
    }
    drop(finishing);

    ask(&mut cut, ENDLESS).await.expect("asked");
    tokio::time::sleep(Duration::from_millis(100)).await;
    workers.pool.retire_credential(ana.credential.id(), Running::IsCut);
    let ended = loop {
        match cut.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let PoolError::Statement(failure) = &ended else { panic!("{ended}") };
    assert_eq!(failure.kind(), failure::Kind::Interrupted, "{ended}");
    let last = cut.worker_id();
    drop(cut);
    assert_ne!(workers.pool.lease(&ana).await.expect("a slot").worker_id(), last);
    assert_eq!(workers.pool.lease(&bob).await.expect("a slot").worker_id(), other, "bob's has nothing to do with it");
    workers.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_principal_waits_for_an_attach_not_for_a_start() {
    let workers = Workers::with(2, &[]).await;
    let spareless = Workers::with(2, &["pool.spares=0"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (workers, spares) in [(&workers, "a spare"), (&spareless, "no spare")] {
        let mut first = Vec::new();
        for n in 0..20 {
            // As people come: one after another, each when the last one has what it wants.
            tokio::time::sleep(Duration::from_millis(150)).await;
            let began = Instant::now();
            workers.run(&reader(&format!("principal {n}")), "SELECT 1", NO_TIME).await.expect("a row");
            first.push(began.elapsed());
        }
        eprintln!(
            "first statements with {spares}: half within {:?}, nine in ten within {:?}",
            of(&mut first, 50),
            of(&mut first, 90)
        );
        assert!(workers.pool.census().keys <= 2, "{:?}", workers.pool.census());
    }
    workers.end().await;
    spareless.end().await;
}
