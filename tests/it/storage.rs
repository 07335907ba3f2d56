//! Tables in an object store: a real MinIO behind a front for faults, and the reference catalog with its warehouse there. Keys are
//! configured, or vended with each table by the store's own STS.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tonic::Code;

use crate::harness::{Gateway, ReferenceRest, begun, held};
use crate::s3_front::minio::{KEY, Minio, SECRET};
use crate::s3_front::vending::Vending;
use crate::s3_front::{Faults, Front};

/// A warehouse in a store.
struct Lake {
    minio: Arc<Minio>,
    front: Front,
    rest: ReferenceRest,
}

impl Lake {
    async fn start() -> Self {
        let minio = Arc::new(Minio::start("lake").await);
        let front = Front::of(&minio.endpoint).await;
        let rest = tokio::task::block_in_place(|| ReferenceRest::start_on("s3://lake/warehouse"));
        Self { minio, front, rest }
    }

    fn catalog(uri: &str) -> Vec<String> {
        vec![
            "catalogs.rest.type=rest".to_owned(),
            format!("catalogs.rest.uri={uri}"),
            "catalogs.rest.allowed_locations=['s3://lake/warehouse']".to_owned(),
            "default_catalog=rest".to_owned(),
            "telemetry.level=polynya=debug,warn".to_owned(),
        ]
    }

    /// A gateway with keys of its own.
    fn with_fixed_keys(&self, more: &[&str]) -> Gateway {
        let mut set = Self::catalog(&format!("http://127.0.0.1:{}", self.rest.port));
        set.push(format!(
            "catalogs.rest.storage=[{{type: s3, endpoint: '{}', region: us-east-1, path_style: true, access_key_id: {KEY}, \
             secret_access_key: {{env: STORE_SECRET}}}}]",
            self.front.endpoint
        ));
        let set: Vec<&str> = set.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Gateway::with_env(&set, &[("STORE_SECRET", SECRET)])
    }

    /// A gateway that has keys from the catalog only.
    async fn with_vended_keys(&self, more: &[&str]) -> (Gateway, Vending) {
        let catalog = format!("http://127.0.0.1:{}", self.rest.port);
        let vending = Vending::of(&catalog, Arc::clone(&self.minio), &self.front.endpoint).await;
        let set = Self::catalog(&vending.uri);
        let set: Vec<&str> = set.iter().map(String::as_str).chain(more.iter().copied()).collect();
        (Gateway::with(&set), vending)
    }
}

/// What a table of so many numbers tells of itself.
const TOLD: &str = "SELECT count(*) || ' ' || sum(i)::BIGINT || ' ' || count(DISTINCT i % 1000) || ' ' || max(length(s))";

async fn make(gateway: &Gateway, table: &str, rows: u64) {
    gateway.run("CREATE SCHEMA IF NOT EXISTS rest.gold").await;
    gateway.run(&format!("CREATE TABLE rest.gold.{table} AS SELECT i, 'row ' || i AS s FROM range({rows}) r(i)")).await;
}

async fn told(gateway: &Gateway, table: &str) -> String {
    gateway.value(&format!("{TOLD} FROM rest.gold.{table}")).await
}

fn right(rows: u64) -> String {
    format!("{rows} {} {} {}", rows * (rows - 1) / 2, rows.min(1000), format!("row {}", rows - 1).len())
}

/// Everything that a table lives through.
async fn lives(gateway: &Gateway) {
    make(gateway, "t", 5000).await;
    assert_eq!(told(gateway, "t").await, right(5000));
    gateway.run("INSERT INTO rest.gold.t SELECT i, 'row ' || i FROM range(5000, 10000) r(i)").await;
    assert_eq!(told(gateway, "t").await, right(10_000));
    gateway.run("UPDATE rest.gold.t SET s = 'changed' WHERE i < 10").await;
    gateway.run("DELETE FROM rest.gold.t WHERE i >= 9000").await;
    let counts = "SELECT count(*) || ' ' || count(*) FILTER (s = 'changed') FROM rest.gold.t";
    assert_eq!(gateway.value(counts).await, "9000 10");
    gateway.run("CREATE TABLE rest.gold.u (day DATE, v BIGINT)").await;
    gateway.run("INSERT INTO rest.gold.u SELECT DATE '2026-01-01' + (i % 3)::INTEGER, i FROM range(300) r(i)").await;
    let joined = "SELECT count(*) FROM rest.gold.t JOIN rest.gold.u ON v = i WHERE day = DATE '2026-01-02'";
    assert_eq!(gateway.value(joined).await, "100");
    gateway.run("DROP TABLE rest.gold.u").await;
}

/// Nothing that a client or an operator reads shows a key.
fn assert_hidden(text: &str, vending: Option<&Vending>) {
    let vended = vending.map(Vending::vended).unwrap_or_default();
    let secrets = vended.iter().flat_map(|keys| [keys.secret.clone(), keys.token.clone()]).chain([SECRET.to_owned()]);
    for secret in secrets {
        assert!(!text.contains(&secret), "a secret shows: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_a_store_lives_by_configured_keys() {
    let lake = Lake::start().await;
    let gateway = lake.with_fixed_keys(&[]);
    lives(&gateway).await;
    assert_hidden(&gateway.log(), None);
    assert!(lake.front.faults().tokens.is_empty(), "a worker's token has reached the store");
    let refused = gateway.query("SELECT * FROM duckdb_secrets()").await.expect_err("secrets");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    // Keys that the store does not know.
    let set = format!(
        "catalogs.rest.storage=[{{endpoint: '{}', path_style: true, access_key_id: {KEY}, secret_access_key: wrong-one}}]",
        lake.front.endpoint
    );
    let wrong = lake.with_fixed_keys(&[&set]);
    let refused = wrong.query("SELECT sum(i) FROM rest.gold.t").await.expect_err("rows");
    assert!(refused.message().contains("store"), "{refused}");
    assert!(!wrong.log().contains("wrong-one") && !refused.message().contains("wrong-one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_without_locations_of_its_own_has_tables_in_any_store() {
    let lake = Lake::start().await;
    lives(&lake.with_fixed_keys(&["catalogs.rest.allowed_locations=[]"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_a_store_lives_by_vended_keys() {
    let lake = Lake::start().await;
    let (gateway, vending) = lake.with_vended_keys(&[]).await;
    lives(&gateway).await;
    assert!(!vending.vended().is_empty());
    assert_hidden(&gateway.log(), Some(&vending));

    // A catalog that vends nothing.
    let plain = Gateway::with(
        &Lake::catalog(&format!("http://127.0.0.1:{}", lake.rest.port)).iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let refused = plain.query("SELECT sum(i) FROM rest.gold.t").await.expect_err("rows");
    assert!(refused.message().contains("hands out no keys"), "{refused}");

    // A store that the catalog may not name.
    let (elsewhere, _vending) = lake.with_vended_keys(&["catalogs.rest.allowed_endpoints=['https://s3.example.com']"]).await;
    let refused = elsewhere.query("SELECT sum(i) FROM rest.gold.t").await.expect_err("rows");
    assert!(refused.message().contains("allowed_endpoints"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_of_a_table_in_a_store_is_read_with_its_keys() {
    let lake = Lake::start().await;
    let (gateway, vending) = lake.with_vended_keys(&[]).await;
    make(&gateway, "t", 5000).await;
    gateway.run("INSERT INTO rest.gold.t SELECT i, 'row ' || i FROM range(5000, 10000) r(i)").await;
    gateway.run("DELETE FROM rest.gold.t WHERE i >= 9000").await;
    let snapshots = "SELECT string_agg(snapshot_id::VARCHAR, ' ' ORDER BY committed_at) FROM table_snapshots('rest.gold.t')";
    let ids = gateway.value(snapshots).await;
    let first = ids.split(' ').next().expect("a snapshot");
    for (sql, expected) in [
        (format!("SELECT count(*) FROM rest.gold.t AT (VERSION => {first})"), "5000"),
        ("SELECT count(*) FROM rest.gold.t AT (VERSION => 'main')".to_owned(), "9000"),
        (
            "SELECT string_agg(content || ':' || record_count, ' ' ORDER BY ALL) FROM table_files('rest.gold.t')".to_owned(),
            "0:5000 0:5000 1:1000",
        ),
        (format!("SELECT sum(record_count)::BIGINT FROM table_files('rest.gold.t', version => {first})"), "5000"),
        (
            "SELECT record_count || ' ' || position_delete_record_count FROM table_partitions('rest.gold.t')".to_owned(),
            "10000 1000",
        ),
        ("SELECT count(*) FROM table_files('rest.gold.t') WHERE file_path LIKE 's3://lake/warehouse/%'".to_owned(), "3"),
    ] {
        assert_eq!(gateway.value(&sql).await, expected, "{sql}");
    }
    assert_hidden(&gateway.log(), Some(&vending));
    // A store that does not serve a manifest fails the statement, and no more than that.
    lake.front.faults().busy = u32::MAX;
    let refused = gateway.query("SELECT count(*) FROM table_files('rest.gold.t')").await.expect_err("no manifest");
    assert!(
        refused.code() == Code::Unavailable && refused.message().contains("a manifest list of it cannot be read"),
        "{refused}"
    );
    lake.front.faults().busy = 0;
    assert_eq!(gateway.value("SELECT count(*) FROM table_files('rest.gold.t')").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_refused_in_the_middle_of_a_scan_are_replaced() {
    const ROWS: u64 = 6_000_000;
    let lake = Lake::start().await;
    let (gateway, vending) = lake.with_vended_keys(&[]).await;
    make(&gateway, "t", ROWS).await;
    for status in [403, 400] {
        // One whose workers have read nothing yet.
        let (gateway, vending) = lake.with_vended_keys(&[]).await;
        let mut client = gateway.client().await;
        let mut rows = begun(&mut client, "SELECT i, s FROM rest.gold.t").await.expect("rows");
        {
            let mut faults = lake.front.faults();
            faults.refused_with = Some(status);
            faults.refusals = 0;
            faults.refused.extend(vending.vended().into_iter().map(|keys| keys.token));
        }
        let before = vending.vended().len();
        let mut seen = 0;
        while let Some(batch) = rows.next().await {
            seen += batch.expect("a batch").num_rows() as u64;
        }
        assert!(seen < ROWS && seen > ROWS - 200_000, "{seen} rows behind the first batch");
        assert!(lake.front.faults().refusals > 0, "the scan was over too soon");
        assert_eq!(vending.vended().len(), before + 1, "renewed once, however many were refused");
        assert_eq!(told(&gateway, "t").await, right(ROWS));
        assert_hidden(&gateway.log(), Some(&vending));
    }
    // A commit is not lost either: what was refused is written with new keys.
    lake.front.faults().refused.extend(vending.vended().into_iter().map(|keys| keys.token));
    gateway.run("INSERT INTO rest.gold.t SELECT i, 'row ' || i FROM range(6000000, 6100000) r(i)").await;
    assert_eq!(told(&gateway, "t").await, right(6_100_000));
}

/// Makes the store refuse each key once its life is over, for as long as it is polled.
async fn refuse_the_expired(front: &Front, vending: &Vending, life: Duration) {
    let mut since: Vec<(Instant, String)> = Vec::new();
    loop {
        for keys in vending.vended().into_iter().skip(since.len()) {
            since.push((Instant::now(), keys.token));
        }
        let expired = since.iter().filter(|(vended, _)| vended.elapsed() > life).map(|(_, token)| token.clone());
        front.faults().refused.extend(expired);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_renewed_before_they_expire() {
    const LIFE: Duration = Duration::from_secs(9);
    const FILES: u64 = 6;
    // Too long for what is read ahead of a worker.
    const ROWS: u64 = 100_000;
    let lake = Lake::start().await;
    let (gateway, vending) = lake.with_vended_keys(&["relay.max_staleness=1h"]).await;
    make(&gateway, "t", ROWS).await;
    for file in 1..FILES {
        let (from, to) = (file * ROWS, (file + 1) * ROWS);
        gateway.run(&format!("INSERT INTO rest.gold.t SELECT i, 'row ' || i FROM range({from}, {to}) r(i)")).await;
    }
    drop(gateway);
    // One whose workers have read nothing, and whose keys live short from the first.
    vending.set_life(LIFE);
    let set = Lake::catalog(&vending.uri);
    let set: Vec<&str> = set.iter().map(String::as_str).chain(["relay.max_staleness=1h"]).collect();
    let gateway = Gateway::with(&set);
    let of_file = async |file: u64| {
        let (from, to) = (file * ROWS, (file + 1) * ROWS);
        let sql = format!("SELECT count(DISTINCT s) || ' ' || sum(i)::BIGINT FROM rest.gold.t WHERE i >= {from} AND i < {to}");
        let sum = (from..to).sum::<u64>();
        assert_eq!(gateway.value(&sql).await, format!("{ROWS} {sum}"), "file {file}");
    };
    let reads = async {
        of_file(0).await;
        let loaded = vending.vended().len();
        for file in 1..FILES {
            tokio::time::sleep(Duration::from_secs(4)).await;
            let before = lake.front.faults().reads.len();
            of_file(file).await;
            assert!(lake.front.faults().reads.len() > before, "file {file} was not read in the store");
        }
        vending.vended().len() - loaded
    };
    let renewed = tokio::select! {
        renewed = reads => renewed,
        () = refuse_the_expired(&lake.front, &vending, LIFE) => unreachable!("it does not end"),
    };
    let faults = lake.front.faults();
    assert!(!faults.refused.is_empty(), "no key has expired");
    assert_eq!(faults.refusals, 0, "an expired key was shown");
    // The table is not loaded again in this time: whatever was vended since is a renewal.
    assert!(renewed >= 2, "{renewed} renewals in twenty seconds of keys that live for nine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_on_a_bad_day_gives_right_rows_or_a_clear_error() {
    let lake = Lake::start().await;
    let maker = lake.with_fixed_keys(&[]);
    make(&maker, "t", 300_000).await;
    drop(maker);
    let on = |fault: Set, times: u32| fault(&mut lake.front.faults(), times);
    for (name, fault) in FAULTS {
        let gateway = lake.with_fixed_keys(&["pool.spares=0"]);
        on(fault, 2);
        assert_eq!(told(&gateway, "t").await, right(300_000), "{name}");
        assert_eq!(left(&lake), 0, "{name} did not come about");
        drop(gateway);
        let gateway = lake.with_fixed_keys(&["pool.spares=0"]);
        on(fault, 1_000_000);
        let error = gateway.query(&format!("{TOLD} FROM rest.gold.t")).await;
        // What breaks off again and again is put together.
        if let Ok(rows) = &error {
            assert_eq!((name, rows[0].num_rows()), ("cut", 1));
        } else {
            let error = error.expect_err("an error");
            assert_eq!(error.code(), Code::Unavailable, "{name}: {error}");
            assert!(!error.message().contains(SECRET) && !error.message().contains("127.0.0.1/"), "{error}");
        }
        on(fault, 0);
        assert_eq!(told(&gateway, "t").await, right(300_000), "after {name}");
    }
    let gateway = lake.with_fixed_keys(&["pool.spares=0"]);
    lake.front.faults().slow = Duration::from_millis(150);
    assert_eq!(told(&gateway, "t").await, right(300_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_manifests_cannot_be_had_ends_in_a_clear_error() {
    let lake = Lake::start().await;
    make(&lake.with_fixed_keys(&[]), "t", 1000).await;
    for (name, file, fault) in
        FAULTS.iter().flat_map(|(name, fault)| ["-m0.avro", "/snap-", "/data/"].map(|file| (name, file, fault)))
    {
        let gateway = lake.with_fixed_keys(&["pool.spares=0"]);
        lake.front.faults().only = Some(file);
        fault(&mut lake.front.faults(), 1_000_000);
        match told_or_not(&gateway, "t").await {
            // Only parts of files are cut, shifted and whole, and short files are read at once.
            Ok(rows) => assert!(rows == 1 && *name != "busy", "{name} of {file}"),
            Err(error) => {
                assert_eq!(error.code(), Code::Unavailable, "{name} of {file}: {error}");
                assert!(error.message().starts_with("the store "), "{name} of {file}: {error}");
            }
        }
        assert!(!gateway.log().contains("worker lost"), "{name} of {file} has cost a worker:\n{}", gateway.log());
        fault(&mut lake.front.faults(), 0);
        lake.front.faults().only = None;
        assert_eq!(told(&gateway, "t").await, right(1000), "after {name} of {file}");
    }
}

/// Paths of the manifests and manifest lists that were read with other session tokens than these.
fn metadata_read(lake: &Lake, except: &HashSet<String>) -> Vec<String> {
    let reads = lake.front.faults().reads.clone().into_iter();
    reads.filter(|(token, path)| path.ends_with(".avro") && !except.contains(token)).map(|(_, path)| path).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_read_once_for_all_workers_of_a_credential() {
    let lake = Lake::start().await;
    let maker = lake.with_fixed_keys(&[]);
    for (table, rows) in [("a", 1000), ("b", 1000), ("c", 100_000)] {
        make(&maker, table, rows).await;
    }
    lake.front.faults().reads.clear();
    let (gateway, _vending) = lake.with_vended_keys(&["relay.max_staleness=1h"]).await;
    let joined = "SELECT count(*) FROM rest.gold.a JOIN rest.gold.b USING (i) JOIN rest.gold.c USING (i)";
    let files = || lake.front.faults().reads.iter().filter(|(_, path)| path.ends_with(".parquet")).count();
    assert_eq!(gateway.value(joined).await, "1000");
    let (first, data) = (metadata_read(&lake, &HashSet::new()), files());
    assert_eq!((first.len(), first.iter().collect::<HashSet<_>>().len()), (6, 6), "{first:?}");
    for pid in gateway.workers() {
        crate::harness::kill(pid);
    }
    crate::harness::until("other workers", Duration::from_secs(20), || gateway.log().contains("worker lost"));
    assert_eq!(gateway.value(joined).await, "1000");
    assert_eq!(metadata_read(&lake, &HashSet::new()), first);
    assert!(files() > data, "another worker reads the data itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_read_while_a_statement_is_described_and_once() {
    let lake = Lake::start().await;
    let maker = lake.with_fixed_keys(&[]);
    for table in ["a", "b", "c"] {
        make(&maker, table, 1000).await;
    }
    lake.front.faults().reads.clear();
    let (gateway, _vending) = lake.with_vended_keys(&["relay.max_staleness=1h"]).await;
    let joined = "SELECT count(*) FROM rest.gold.a JOIN rest.gold.b USING (i) JOIN rest.gold.c USING (i)";
    let files = || lake.front.faults().reads.iter().filter(|(_, path)| path.ends_with(".parquet")).count();
    let mut client = gateway.client().await;
    let info = client.execute(joined.to_owned(), None).await.expect("a ticket");
    crate::harness::until("the data is read ahead", Duration::from_secs(20), || files() == 3);
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let rows: Vec<_> = client.do_get(ticket).await.expect("rows").collect().await;
    let rows: usize = rows.into_iter().map(|batch| batch.expect("a batch").num_rows()).sum();
    assert_eq!((rows, files()), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_reads_with_has_keys_of_its_own_and_nothing_that_was_read_by_others() {
    let lake = Lake::start().await;
    make(&lake.with_fixed_keys(&[]), "t", 1000).await;
    lake.front.faults().reads.clear();
    let [mode, users] = crate::harness::user_ada();
    let of = |client: &str| format!("{{type: oauth2, client_id: {client}, client_secret: secret, scope: catalog}}");
    let role = format!("roles.loader.catalogs.rest={{credentials: {}, reader_credentials: {}}}", of("writer"), of("reader"));
    let mapping = "auth.mappings=[{user: ada, role: loader}]";
    let set = [mode.as_str(), &users, "auth.mode=mapped", &role, mapping, "relay.max_staleness=1h"];
    let (gateway, vending) = lake.with_vended_keys(&set).await;
    let ada = crate::sessions::log_in(&gateway, "ada", "correct horse").await.expect("a session");
    let run = async |sql: &str| crate::sessions::run(&gateway, &ada, sql).await.expect("rows");

    assert_eq!(run("SELECT count(*) FROM rest.gold.t").await, "1000");
    let readers = vending.vended_to("reader");
    assert!(!readers.is_empty() && vending.vended_to("writer").is_empty(), "a read needs no writer's keys");
    let shown: HashSet<String> = lake.front.faults().reads.iter().map(|(token, _)| token.clone()).collect();
    assert!(shown.is_subset(&readers), "{shown:?}");

    let doubled = "INSERT INTO rest.gold.t SELECT i + 1000, s FROM rest.gold.t";
    crate::harness::query(&mut crate::sessions::with_token(&gateway, &ada).await, doubled).await.expect("a commit");
    let (readers, writers) = (vending.vended_to("reader"), vending.vended_to("writer"));
    assert!(!writers.is_empty() && readers.is_disjoint(&writers));
    // The writer has the manifests from the store by its own keys, although they are here for the reader.
    assert!(!metadata_read(&lake, &readers).is_empty());
    assert_eq!(run("SELECT count(*) FROM rest.gold.t").await, "2000");
    assert_hidden(&gateway.log(), Some(&vending));
}

async fn told_or_not(gateway: &Gateway, table: &str) -> Result<usize, tonic::Status> {
    let rows = gateway.query(&format!("{TOLD} FROM rest.gold.{table}")).await?;
    Ok(rows.iter().map(arrow::array::RecordBatch::num_rows).sum())
}

/// Makes a fault happen so many times.
type Set = fn(&mut Faults, u32);

const FAULTS: [(&str, Set); 4] = [
    ("busy", |faults, times| faults.busy = times),
    ("cut", |faults, times| faults.cut = times),
    ("shifted", |faults, times| faults.shifted = times),
    ("whole", |faults, times| faults.whole = times),
];

fn left(lake: &Lake) -> u32 {
    let faults = lake.front.faults();
    faults.busy + faults.cut + faults.shifted + faults.whole
}

/// `make soak` asks for more.
fn many() -> usize {
    std::env::var("POLYNYA_STORE_QUERIES").ok().and_then(|number| number.parse().ok()).unwrap_or(300)
}

fn median(mut micros: Vec<u128>) -> u128 {
    micros.sort_unstable();
    micros[micros.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accumulates_over_many_queries() {
    let lake = Lake::start().await;
    let (gateway, vending) = lake.with_vended_keys(&["relay.max_staleness=1h", "pool.spares=0", "pool.readers_per_key=1"]).await;
    make(&gateway, "t", 1000).await;
    let mut client = gateway.client().await;
    let resident = || gateway.workers().iter().map(|pid| held(*pid).resident_mb).max().unwrap_or(0);
    let (queries, mut took, mut idle) = (many(), Vec::new(), Vec::new());
    let mut first = None;
    for query in 0..queries {
        let began = Instant::now();
        let rows = crate::harness::query(&mut client, "SELECT count(*) FROM rest.gold.t WHERE i >= 0").await.expect("rows");
        took.push(began.elapsed().as_micros());
        assert_eq!(rows[0].num_rows(), 1);
        // What a statement takes that reads nothing shows how busy the machine is.
        if query < queries / 10 || query >= queries - queries / 10 {
            let began = Instant::now();
            crate::harness::query(&mut client, "SELECT 1").await.expect("a row");
            idle.push(began.elapsed().as_micros());
        }
        if query == queries / 10 {
            first = Some((resident(), lake.front.faults().came.values().sum::<usize>(), vending.vended().len()));
        }
    }
    let (memory_mb, requests, keys) = first.expect("the first queries");
    assert!(resident() < memory_mb + 30, "{} MB, {memory_mb} MB at first", resident());
    assert!(vending.vended().len() <= keys + queries / 1000, "keys are had once while they are good");
    let more = lake.front.faults().came.values().sum::<usize>() - requests;
    assert!(more <= queries, "{more} requests for data that workers have");
    let (tenth, last) = (queries / 10, took.split_off(queries - queries / 10));
    took.truncate(tenth);
    let (vended, early, late) = (vending.vended().len(), median(took), median(last));
    let idle_last = idle.split_off(tenth);
    let (idle_early, idle_late) = (median(idle), median(idle_last));
    println!(
        "keys {vended}, memory {memory_mb} MB then {} MB, median {early} us then {late} us; of SELECT 1 {idle_early} us then \
         {idle_late} us",
        resident()
    );
    // A cost that grew with each query would have grown tenfold; medians of a busy machine may double, and more.
    let busier = idle_late.max(idle_early);
    assert!(
        late * idle_early < 6 * early * busier,
        "a query took {early} us at first, and {late} us in the end; SELECT 1 {idle_early} us and {idle_late} us"
    );
}
