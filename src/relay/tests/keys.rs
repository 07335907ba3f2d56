//! Keys that a catalog vends with its tables: renewed where they end or are refused, asked for in the name of their own table, and what
//! was read ahead by them. The catalog and the store are made up here; the tests of the whole gateway have real ones.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;

use super::*;
use crate::relay::config::RestConfig;
use crate::relay::storage::manifest_list;

/// A catalog that vends other keys with each load of a table, and the store that they are for.
struct House {
    endpoint: String,
    state: Mutex<HouseState>,
    /// The store gives a file when there is a permit.
    gate: Semaphore,
}

#[derive(Default)]
struct HouseState {
    /// How long keys live.
    life: Duration,
    /// Where all tables lie; each in a folder of its own if this is not given.
    location: Option<String>,
    /// What the catalog answers to loads in place of a table.
    fails: Option<StatusCode>,
    /// What the manifest lists in the store say.
    list: Bytes,
    /// The store refuses keys that were vended up to this number.
    refused_to: usize,
    /// Tables that were loaded, in order. The keys are numbered by it.
    loads: Vec<String>,
    /// Paths that the store was asked for, and by which keys.
    reads: Vec<(String, usize)>,
}

impl House {
    /// With a worker of a relay in front of it.
    async fn open(life: Duration) -> (Arc<Self>, Bench) {
        let store = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", store.local_addr().unwrap());
        let state = Mutex::new(HouseState { life, ..HouseState::default() });
        let house = Arc::new(Self { endpoint, state, gate: Semaphore::new(1_000_000) });
        let files = Router::new().fallback(Self::file).with_state(Arc::clone(&house));
        tokio::spawn(async move { axum::serve(store, files).await });
        let tables = Router::new()
            .route("/v1/config", get(async || Json(json!({ "defaults": {}, "overrides": {} }))))
            .fallback(Self::table)
            .with_state(Arc::clone(&house));
        let catalog = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", catalog.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(catalog, tables).await });
        let section = format!("uri: {uri}\ncredentials: {{ type: none }}\nallowed_locations: ['s3://lake/gold/']");
        let rest: RestConfig = serde_saphyr::from_str(&section).unwrap();
        let catalogs = BTreeMap::from([(name(), CatalogConfig::Rest(Box::new(rest)))]);
        let relay = Relay::bind(Config { read_attempts: 1, ..config() }, catalogs, BTreeMap::new()).await.unwrap();
        (house, Bench::serve(relay, Arc::new(tempfile::tempdir().unwrap())))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, HouseState> {
        self.state.lock().unwrap()
    }

    async fn table(State(house): State<Arc<Self>>, uri: Uri) -> Response {
        let mut state = house.state();
        let table = uri.path().rsplit('/').next().unwrap().to_owned();
        state.loads.push(table.clone());
        if let Some(status) = state.fails {
            let error = json!({ "error": { "message": "no", "type": "ForbiddenException", "code": status.as_u16() } });
            return (status, Json(error)).into_response();
        }
        let expires = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + state.life;
        let location = state.location.clone().unwrap_or_else(|| format!("s3://lake/gold/{table}"));
        let list = format!("{location}/metadata/snap-7.avro");
        Json(json!({
            "metadata": {
                "location": location,
                "current-snapshot-id": 7,
                "snapshots": [{ "snapshot-id": 7, "manifest-list": list }],
            },
            "config": {
                "s3.endpoint": house.endpoint,
                "s3.path-style-access": "true",
                "s3.access-key-id": format!("key-{}", state.loads.len()),
                "s3.secret-access-key": "s3cret",
                "s3.session-token-expires-at-ms": expires.as_millis().to_string(),
            },
        }))
        .into_response()
    }

    async fn file(State(house): State<Arc<Self>>, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let shown = request.headers()["authorization"].to_str().unwrap();
        let (_, number) = shown.split_once("Credential=key-").unwrap();
        let number: usize = number.split('/').next().unwrap().parse().unwrap();
        let (refused_to, list) = {
            let mut state = house.state();
            state.reads.push((path.clone(), number));
            (state.refused_to, state.list.clone())
        };
        if number <= refused_to {
            return (StatusCode::FORBIDDEN, "<Error><Code>ExpiredToken</Code><Message>no</Message></Error>").into_response();
        }
        house.gate.acquire().await.unwrap().forget();
        if path.contains("/snap-") { list.into_response() } else { "0123456789".into_response() }
    }

    fn loads(&self) -> usize {
        self.state().loads.len()
    }

    /// How often the store was asked for files of this name.
    fn reads_of(&self, name: &str) -> usize {
        self.state().reads.iter().filter(|(path, _)| path.contains(name)).count()
    }

    async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !reached(self) {
            assert!(began.elapsed() < Duration::from_secs(30), "{what}: {:?}", self.state().reads);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

impl Bench {
    async fn loads(&self, table: &str) {
        let (status, answer) = self.get(&format!("lake/namespaces/gold/tables/{table}")).await;
        assert_eq!(status, 200, "{answer}");
    }

    async fn reads(&self, path: &str) -> u16 {
        let request = self.http.get(format!("http://{}{path}", self.relay.storage_endpoint()));
        request.header("x-amz-security-token", self.worker.as_str()).send().await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn keys_that_cannot_be_renewed_are_shown_until_they_are_over() {
    const LIFE: Duration = Duration::from_secs(6);
    let (house, bench) = House::open(LIFE).await;
    let began = Instant::now();
    bench.loads("t").await;
    let vended = Instant::now();
    assert_eq!(bench.reads("/lake/gold/t/a").await, 200);
    house.state().fails = Some(StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::sleep_until((vended + LIFE * 7 / 10).into()).await;
    let (loads, status) = (house.loads(), bench.reads("/lake/gold/t/a").await);
    if began.elapsed() < LIFE {
        assert_eq!(status, 200, "a catalog that is away for a moment does not stop what still works");
        assert!(house.loads() > loads, "they were due");
    }
    tokio::time::sleep_until((vended + LIFE + Duration::from_millis(50)).into()).await;
    let reads = house.reads_of("");
    assert_ne!(bench.reads("/lake/gold/t/a").await, 200);
    assert_eq!(house.reads_of(""), reads, "keys that are over are not shown");
    house.state().fails = None;
    assert_eq!(bench.reads("/lake/gold/t/a").await, 200);
    let last = house.state().reads.last().map(|(_, number)| *number);
    assert_eq!(last, Some(house.loads()), "by new keys");
}

#[tokio::test]
async fn refused_keys_are_renewed_once_for_all_and_a_missing_right_is_not_asked_about_each_time() {
    let (house, bench) = House::open(HOUR).await;
    bench.loads("t").await;
    house.state().refused_to = house.loads();
    let before = house.loads();
    let statuses = futures::future::join_all((0..10).map(|_| bench.reads("/lake/gold/t/a"))).await;
    assert_eq!((statuses, house.loads() - before), (vec![200; 10], 1));

    house.state().refused_to = usize::MAX;
    let (before, began) = (house.loads(), Instant::now());
    for _ in 0..20 {
        assert_eq!(bench.reads("/lake/gold/t/a").await, 403);
    }
    let asked = house.loads() - before;
    assert!(asked as u64 <= 2 + began.elapsed().as_secs(), "{asked} times within {:?}", began.elapsed());
}

#[tokio::test]
async fn keys_are_asked_for_in_the_name_of_the_table_that_has_the_place_now() {
    let (house, bench) = House::open(HOUR).await;
    house.state().location = Some("s3://lake/gold/place".to_owned());
    bench.loads("old").await;
    bench.loads("new").await;
    house.state().refused_to = house.loads();
    assert_eq!(bench.reads("/lake/gold/place/a").await, 200);
    assert_eq!(house.state().loads, ["old", "new", "new"]);
}

#[tokio::test]
async fn what_was_read_ahead_is_given_only_to_who_has_keys_for_it() {
    const LIFE: Duration = Duration::from_secs(4);
    let (house, bench) = House::open(LIFE).await;
    house.state().list = manifest_list(&[("s3://lake/gold/t/metadata/m0.avro", 10), ("s3://lake/silver/m1.avro", 10)]);
    bench.relay.load(&credential(), &table("t")).await.unwrap();
    house.until("what the list names", |house| house.reads_of("m0.avro") > 0).await;
    let files = ["/lake/gold/t/metadata/snap-7.avro", "/lake/gold/t/metadata/m0.avro"];
    for file in files {
        assert_eq!(bench.reads(file).await, 200);
        assert_eq!(house.reads_of(file), 1, "it is here");
    }
    assert_eq!(house.reads_of("silver"), 0, "what lies elsewhere is not looked at");
    house.state().fails = Some(StatusCode::FORBIDDEN);
    tokio::time::sleep(LIFE + Duration::from_millis(50)).await;
    for file in files {
        assert_eq!(bench.reads(file).await, 403, "{file}");
        assert_eq!(house.reads_of(file), 1);
    }
}

#[tokio::test]
async fn of_large_manifests_and_of_many_tables_only_so_much_is_read_ahead() {
    const TABLES: usize = 40;
    const MOST: usize = 16;
    let (house, bench) = House::open(HOUR).await;
    house.gate.forget_permits(1_000_000);
    // Two of five megabytes.
    house.state().list =
        manifest_list(&[("s3://lake/gold/t0/metadata/m0.avro", 5 << 20), ("s3://lake/gold/t0/metadata/m1.avro", 5 << 20)]);
    for number in 0..TABLES {
        bench.relay.load(&credential(), &table(&format!("t{number}"))).await.unwrap();
    }
    house.until("lists on their way", |house| house.reads_of("snap-") >= MOST).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(house.reads_of("snap-"), MOST, "the workers ask for the others");
    house.gate.add_permits(1_000_000);
    assert_eq!(bench.reads("/lake/gold/t0/metadata/snap-7.avro").await, 200);
    // Those that were begun have their places until they have ended.
    let asked: BTreeSet<String> = house.state().reads.iter().map(|(path, _)| path.clone()).collect();
    assert!(asked.iter().all(|path| path.contains("snap-")), "manifests that large are the worker's to ask for: {asked:?}");
}
