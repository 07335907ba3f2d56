//! The door to object stores: who is let in, to what, and what a store gets to see. The store is made up here; the tests of the whole
//! gateway have a real one.

use std::sync::Mutex;
use std::time::SystemTime;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::StreamExt as _;

use super::*;
use crate::relay::config::RestConfig;
use crate::relay::error::CatalogError;
use crate::relay::storage::{Handed, MAX_TABLES};

/// What came to the store.
#[derive(Default)]
struct Came(Mutex<Vec<(Method, String, HeaderMap, Bytes)>>);

impl Came {
    async fn take(State(came): State<Arc<Self>>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let path = parts.uri.to_string();
        came.0.lock().unwrap().push((parts.method, path.clone(), parts.headers, body));
        if path.contains("wrong-part") {
            return (StatusCode::PARTIAL_CONTENT, [("content-range", "bytes 1-3/10")], "abc").into_response();
        }
        if path.contains("short-part") {
            return (StatusCode::PARTIAL_CONTENT, [("content-range", "bytes 0-1/10")], "ab").into_response();
        }
        if path.contains("torn") {
            return torn(path.contains("drop"), &came);
        }
        if path.contains("secretive") {
            let body =
                "<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message><StringToSign>AWS4 s3cret</StringToSign></Error>";
            return (StatusCode::FORBIDDEN, body).into_response();
        }
        "0123456789".into_response()
    }
}

/// A part of a file of a hundred bytes that breaks off, by `drops` after each byte, else in the middle; there the file is another one when
/// the rest is asked for.
fn torn(drops: bool, came: &Came) -> Response {
    let came = came.0.lock().unwrap();
    let (_, _, headers, _) = came.last().unwrap();
    let from: usize = headers["range"].to_str().unwrap()["bytes=".len()..].split('-').next().unwrap().parse().unwrap();
    if from > 0 && !drops && headers.contains_key("if-match") {
        return StatusCode::PRECONDITION_FAILED.into_response();
    }
    let sent = if drops { 1 } else { 100 - from.max(50) };
    let (letter, broken) = (if from > 0 && !drops { "b" } else { "a" }, std::io::Error::other("the line is cut"));
    // Later, or the line is cut before the head is out.
    let cut = async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        (from + sent < 100).then_some(Err(broken))
    };
    let body = futures::stream::iter([Ok(Bytes::from(letter.repeat(sent)))]);
    let body = body.chain(futures::stream::once(cut).filter_map(std::future::ready));
    let headers = [
        ("content-range", format!("bytes {from}-99/100")),
        ("content-length", (100 - from).to_string()),
        ("etag", "\"first\"".to_owned()),
    ];
    (StatusCode::PARTIAL_CONTENT, headers, axum::body::Body::from_stream(body)).into_response()
}

/// A store, and what the section of its catalog says of it, with fixed keys.
async fn store() -> (Arc<Came>, String) {
    let came = Arc::new(Came::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().fallback(Came::take).with_state(came.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let section = format!(
        "allowed_locations: ['s3://lake/gold/']\nstorage:\n  - endpoint: {endpoint}\n    path_style: true\n    \
         access_key_id: gateway\n    secret_access_key: s3cret\n"
    );
    (came, section)
}

/// A relay whose catalog has this store.
async fn with_store() -> (Bench, Arc<Came>) {
    let (came, section) = store().await;
    let rest: RestConfig = serde_saphyr::from_str(&format!("uri: http://127.0.0.1:9\n{section}")).unwrap();
    let catalogs = BTreeMap::from([(name(), CatalogConfig::Rest(Box::new(rest)))]);
    let relay = Relay::bind(config(), catalogs, BTreeMap::new()).await.unwrap();
    (Bench::serve(relay, Arc::new(tempfile::tempdir().unwrap())), came)
}

impl Bench {
    async fn at_the_door(&self, token: &str, method: Method, path: &str, range: Option<&str>) -> (u16, String) {
        let mut request = self.http.request(method, format!("http://{}{path}", self.relay.storage_endpoint()));
        request = request.header("x-amz-security-token", token).body("rows");
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

#[tokio::test]
async fn the_door_lets_workers_read_their_files_and_write_while_their_statement_may() {
    let (bench, came) = with_store().await;
    let worker = bench.worker.as_str().to_owned();
    let file = "/lake/gold/t/data/a%20b.parquet";
    assert_eq!(bench.at_the_door(&worker, Method::GET, file, None).await, (200, "0123456789".to_owned()));
    for (token, method, path) in [
        ("somebody", Method::GET, file),
        (&worker, Method::GET, "/lake/golden/t/data/x.parquet"),
        (&worker, Method::GET, "/lake/gold/%2e%2e/silver/x.parquet"),
        (&worker, Method::GET, "/lake/gold/..%2Fsilver/x.parquet"),
        (&worker, Method::GET, "/lake/gold/?list-type=2"),
        (&worker, Method::GET, "/lake/gold/t/x?acl"),
        (&worker, Method::GET, "/lake"),
        (&worker, Method::PUT, file),
        (&worker, Method::POST, "/lake/gold/t/x?uploads"),
        (&worker, Method::DELETE, file),
    ] {
        let (status, body) = bench.at_the_door(token, method.clone(), path, None).await;
        assert!(matches!(status, 400 | 403), "{method} {path}: {status} {body}");
    }
    assert_eq!(came.0.lock().unwrap().len(), 1);
    bench.relay.grant(&bench.worker, WRITES);
    assert_eq!(bench.at_the_door(&worker, Method::PUT, file, None).await.0, 200);
    for (method, path) in [
        (Method::DELETE, file),
        (Method::PUT, "/lake/silver/x.parquet"),
        (Method::POST, "/lake/?delete"),
        (Method::DELETE, "/lake/gold/t/x?uploadId=1"),
    ] {
        assert!(matches!(bench.at_the_door(&worker, method, path, None).await.0, 400 | 403), "{path}");
    }
    bench.relay.expel(&bench.worker);
    assert_eq!(bench.at_the_door(&worker, Method::GET, file, None).await.0, 403);

    let came = came.0.lock().unwrap();
    let [(_, read, headers, _), (put, written, _, body)] = came.as_slice() else { panic!("{came:?}") };
    assert_eq!((read.as_str(), put, written.as_str(), body.as_ref()), (file, &Method::PUT, file, b"rows".as_slice()));
    let text: String = headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect();
    assert!(text.contains("Credential=gateway/"), "{text}");
    assert!(!text.contains(&worker) && !text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn another_part_than_asked_for_never_gets_through_and_a_refusal_tells_no_secrets() {
    let (bench, came) = with_store().await;
    let worker = bench.worker.as_str().to_owned();
    let (status, body) = bench.at_the_door(&worker, Method::GET, "/lake/gold/wrong-part", Some("bytes=0-2")).await;
    assert_eq!(status, 502, "{body}");
    assert!(body.contains("bytes 1-3 of the file instead of 0-2"), "{body}");
    assert_eq!(came.0.lock().unwrap().len(), 4);
    assert_eq!(
        bench.at_the_door(&worker, Method::GET, "/lake/gold/wrong-part", Some("bytes=1-3")).await,
        (206, "abc".to_owned())
    );
    let (status, body) = bench.at_the_door(&worker, Method::GET, "/lake/gold/whole", Some("bytes=0-2")).await;
    assert!(status == 502 && body.contains("the whole file instead of a part"), "{status} {body}");
    let (status, body) = bench.at_the_door(&worker, Method::GET, "/lake/gold/short-part", Some("bytes=0-2")).await;
    assert!(status == 502 && body.contains("bytes 0-1 of the file instead of 0-2"), "{status} {body}");
    let (status, body) = bench.at_the_door(&worker, Method::GET, "/lake/gold/secretive", None).await;
    assert!(status == 403 && body.contains("SignatureDoesNotMatch") && !body.contains("AWS4"), "{status} {body}");
}

#[tokio::test]
async fn what_breaks_off_is_never_continued_with_another_file_nor_for_ever() {
    let (bench, came) = with_store().await;
    for (path, most) in [("/lake/gold/torn", 2), ("/lake/gold/torn-drops", 17)] {
        came.0.lock().unwrap().clear();
        let request = bench.http.get(format!("http://{}{path}", bench.relay.storage_endpoint()));
        let request = request.header("x-amz-security-token", bench.worker.as_str()).header("range", "bytes=0-99");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        let body = answer.text().await;
        assert!(body.is_err(), "{path}: {body:?}");
        assert_eq!(came.0.lock().unwrap().len(), most, "{path}");
    }
}

#[tokio::test]
async fn a_store_s_section_is_for_its_folder_and_the_innermost_counts() {
    let (came, section) = store().await;
    let (_, store) = section.split_once("storage:\n").unwrap();
    let of = |place: &str, key: &str| {
        let placed = store.replace("  - endpoint", &format!("  - location: s3://lake/{place}\n    endpoint"));
        placed.replace("access_key_id: gateway", &format!("access_key_id: {key}"))
    };
    let section = format!("uri: http://127.0.0.1:9\nstorage:\n{}{}", of("gold", "outer"), of("gold/inner", "inner"));
    let rest: RestConfig = serde_saphyr::from_str(&section).unwrap();
    let catalogs = BTreeMap::from([(name(), CatalogConfig::Rest(Box::new(rest)))]);
    let relay = Relay::bind(config(), catalogs, BTreeMap::new()).await.unwrap();
    let bench = Bench::serve(relay, Arc::new(tempfile::tempdir().unwrap()));
    for (path, key) in [
        ("/lake/gold/x", Some("=outer/")),
        ("/lake/gold/inner/x", Some("=inner/")),
        ("/lake/gold/inner2/x", Some("=outer/")),
        ("/lake/golden/x", None),
    ] {
        let (status, _) = bench.at_the_door(bench.worker.as_str(), Method::GET, path, None).await;
        assert_eq!(status, if key.is_some() { 200 } else { 403 }, "{path}");
        let came = std::mem::take(&mut *came.0.lock().unwrap());
        let shown: Vec<&str> = came.iter().map(|(_, _, headers, _)| headers["authorization"].to_str().unwrap()).collect();
        assert!(shown.len() == usize::from(key.is_some()) && key.is_none_or(|key| shown[0].contains(key)), "{path}: {shown:?}");
    }
}

#[tokio::test]
async fn expired_keys_are_not_kept_and_others_are() {
    let (bench, _came) = with_store().await;
    let storage = Arc::clone(&bench.relay.view(&credential(), &name()).unwrap().storage);
    let now = SystemTime::now();
    for (table, life) in [("a", Some(60)), ("b", Some(600)), ("c", None)] {
        let place = format!("s3://lake/gold/{table}");
        let mut answer = json!({
            "metadata": { "location": place },
            "config": { "s3.access-key-id": "id", "s3.secret-access-key": "s3cret" },
        });
        if let Some(life) = life {
            let expires = now.duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_secs(life);
            answer["config"]["s3.session-token-expires-at-ms"] = json!(expires.as_millis().to_string());
        }
        let handed = Handed::in_answer(answer.to_string().as_bytes());
        storage.note(&gold(table), &[place], handed);
    }
    for (after, left) in [(59, 3), (61, 2), (10_000, 1)] {
        storage.sweep(now + Duration::from_secs(after));
        assert_eq!(storage.keys(), left, "{after} s later");
    }
}

#[tokio::test]
async fn of_very_many_tables_those_that_were_loaded_last_are_known() {
    let (bench, _came) = with_store().await;
    let storage = Arc::clone(&bench.relay.view(&credential(), &name()).unwrap().storage);
    let place = |number: u64| format!("s3://lake/gold/t{number}");
    let all = 2 * MAX_TABLES;
    for number in 0..all {
        storage.note(&gold(&number.to_string()), &[place(number)], None);
    }
    assert!((0..all).rev().take(1000).all(|number| storage.knows(&place(number)) == Some(place(number).len())));
    assert!((0..all).filter(|number| storage.knows(&place(*number)) != Some(0)).count() < all as usize, "all are kept");
}

#[tokio::test]
async fn a_table_of_one_catalog_is_not_read_by_the_keys_of_another() {
    let metadata = |location: &str| json!({ "location": location });
    let (came, section) = store().await;
    let hr = section.replace("lake/gold", "hr").replace("gateway", "for-hr");
    // Reaches everything, as a catalog without locations does.
    let open = section.replace("allowed_locations: ['s3://lake/gold/']\n", "");
    let catalogs = [
        ("a", catalog_of(metadata("s3://lake/gold/t"), &open).await),
        ("b", catalog_of(metadata("s3://lake/gold/t"), &section).await),
        ("hr", catalog_of(metadata("s3://hr/t"), &hr.replace("  - endpoint", "  - location: s3://hr/\n    endpoint")).await),
    ];
    let catalogs = catalogs.map(|(name, catalog)| (CatalogName::from(name), catalog));
    let relay = Relay::bind(config(), BTreeMap::from(catalogs), BTreeMap::new()).await.unwrap();
    let bench = Bench::serve(relay, Arc::new(tempfile::tempdir().unwrap()));
    let shown = || {
        let came = std::mem::take(&mut *came.0.lock().unwrap());
        came.iter().map(|(_, _, headers, _)| headers["authorization"].to_str().unwrap().contains("=for-hr/")).collect::<Vec<_>>()
    };
    let read = async |path: &str| bench.at_the_door(bench.worker.as_str(), Method::GET, path, None).await.0;
    assert_eq!(read("/lake/gold/t/x.parquet").await, 403, "no table was asked for");
    bench.get("b/namespaces/gold/tables/t").await;
    assert_eq!(read("/lake/gold/t/x.parquet").await, 200);
    assert_eq!((read("/hr/t/x.parquet").await, shown()), (403, vec![false]));
    bench.get("a/namespaces/gold/tables/t").await;
    assert_eq!((read("/hr/t/x.parquet").await, shown()), (200, vec![false]), "by the keys of the catalog that points there");
    assert_eq!(bench.get("hr/namespaces/gold/tables/t").await.0, 200);
    assert_eq!((read("/hr/t/x.parquet").await, shown()), (200, vec![true]));
    // What one worker has opened is not open to another one.
    let other = bench.relay.admit(WorkerGrant { credential: credential(), catalogs: bench.relay.catalogs() });
    assert_eq!(bench.at_the_door(other.as_str(), Method::GET, "/hr/t/x.parquet", None).await.0, 403);
}

/// A relay whose catalog answers to each load with this metadata; what more the catalog's section says.
async fn with_metadata(metadata: Value, section: &str) -> Arc<Relay> {
    let catalogs = BTreeMap::from([(name(), catalog_of(metadata, section).await)]);
    Relay::bind(config(), catalogs, BTreeMap::new()).await.unwrap()
}

async fn catalog_of(metadata: Value, section: &str) -> CatalogConfig {
    let routes = Router::new()
        .route("/v1/config", get(async || Json(json!({ "defaults": {}, "overrides": {} }))))
        .fallback(async move || Json(json!({ "metadata": metadata })));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let rest: RestConfig = serde_saphyr::from_str(&format!("uri: {uri}\ncredentials: {{ type: none }}\n{section}")).unwrap();
    CatalogConfig::Rest(Box::new(rest))
}

fn gold(table: &str) -> TableRef {
    TableRef { catalog: name(), namespace: Namespace::from_schema("gold"), table: table.to_owned() }
}

#[tokio::test]
async fn a_manifest_list_is_read_when_its_table_is_loaded_and_once() {
    let (came, section) = store().await;
    let list = "/lake/gold/t/metadata/snap-7.avro";
    let snapshots = json!([{ "snapshot-id": 7, "manifest-list": format!("s3:/{list}") }]);
    let metadata = json!({ "location": "s3://lake/gold/t", "current-snapshot-id": 7, "snapshots": snapshots });
    let bench = Bench::serve(with_metadata(metadata, &section).await, Arc::new(tempfile::tempdir().unwrap()));
    let paths = || came.0.lock().unwrap().iter().map(|(_, path, ..)| path.clone()).collect::<Vec<_>>();
    bench.relay.load(&credential(), &gold("t")).await.unwrap();
    for _ in 0..500 {
        if !paths().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(paths(), [list], "no worker has asked");
    for _ in 0..2 {
        assert_eq!(bench.at_the_door(bench.worker.as_str(), Method::GET, list, None).await, (200, "0123456789".to_owned()));
        bench.relay.load(&credential(), &gold("t")).await.unwrap();
    }
    assert_eq!(paths(), [list]);
    // A part of a file is data.
    bench.at_the_door(bench.worker.as_str(), Method::GET, list, Some("bytes=0-2")).await;
    assert!(paths().len() > 1);
}

#[tokio::test]
async fn a_table_in_a_store_that_workers_do_not_reach_is_refused_by_name() {
    let relay = with_metadata(json!({ "location": "abfss://c@account.dfs.core.windows.net/t" }), "").await;
    let refused = relay.load(&credential(), &gold("t")).await.unwrap_err();
    assert!(matches!(refused, CatalogError::Unsupported { .. }), "{refused}");
    assert!(refused.to_string().contains("\"gold.t\" lies in abfss://"), "{refused}");
}
