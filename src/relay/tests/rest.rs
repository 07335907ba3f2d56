//! Iceberg REST catalogs as upstream. The catalog is another relay: a real one, with real commits behind it. Only the token endpoint
//! is made up.

use std::collections::VecDeque;
use std::sync::Mutex;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};

use super::*;
use crate::relay::config::{AccessDelegation, CallersConfig, ClientAuth, RestConfig, RestCredentials};
use crate::relay::error::{CatalogError, RelayError};
use crate::secret::{SecretRef, SecretString};

fn rest(uri: &str, credentials: RestCredentials, locations: &[&str]) -> CatalogConfig {
    CatalogConfig::Rest(Box::new(RestConfig {
        uri: uri.to_owned(),
        warehouse: Some("lake".to_owned()),
        realm: None,
        prefix: None,
        credentials,
        callers: CallersConfig::default(),
        access_delegation: AccessDelegation::default(),
        ca_file: None,
        allowed_locations: locations.iter().map(|location| (*location).to_owned()).collect(),
        storage: Vec::new(),
        allowed_endpoints: None,
        request_timeout: None,
        connect_timeout: None,
    }))
}

fn bearer(token: &WorkerToken) -> RestCredentials {
    RestCredentials::Bearer { token: SecretRef::Text(SecretString::from(token.as_str())) }
}

fn oauth2(token_uri: String) -> RestCredentials {
    RestCredentials::Oauth2 {
        client_id: "me".to_owned(),
        client_secret: SecretRef::Text(SecretString::from("s3cret&more")),
        scope: "PRINCIPAL_ROLE:ALL".to_owned(),
        token_uri: Some(token_uri),
        client_auth: ClientAuth::Post,
    }
}

/// A relay in front of another one's embedded catalog.
async fn in_front_of(inner: &Bench, credentials: RestCredentials) -> Bench {
    let locations = inner.relay.allowed_locations(&[name()]);
    let lake = rest(&inner.relay.endpoint(), credentials, &[&locations[0]]);
    let relay = Relay::bind(config(), BTreeMap::from([(name(), lake)]), BTreeMap::new()).await.unwrap();
    let bench = Bench::serve(relay, inner.directory.clone());
    bench.relay.grant(&bench.worker, WRITES);
    bench
}

/// An OAuth2 token endpoint.
#[derive(Default)]
struct Tokens {
    /// What it answers, in this order; the last one for ever.
    answers: Mutex<VecDeque<Value>>,
    /// The forms that it was sent.
    asked: Mutex<Vec<String>>,
}

impl Tokens {
    async fn serve(answers: Vec<Value>) -> (Arc<Self>, String) {
        let tokens = Arc::new(Self { answers: Mutex::new(answers.into()), asked: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/tokens", listener.local_addr().unwrap());
        let routes = Router::new().route("/tokens", post(Self::answer)).with_state(tokens.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (tokens, uri)
    }

    async fn answer(State(tokens): State<Arc<Self>>, form: String) -> Json<Value> {
        tokens.asked.lock().unwrap().push(form);
        tokio::time::sleep(Duration::from_millis(30)).await;
        let mut answers = tokens.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Json(answer.unwrap())
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn token(worker: &WorkerToken, expires_in: Option<f64>) -> Value {
    let mut answer = json!({ "access_token": worker, "token_type": "bearer" });
    if let Some(seconds) = expires_in {
        answer["expires_in"] = json!(seconds);
    }
    answer
}

#[tokio::test]
async fn a_rest_catalog_does_what_an_embedded_one_does() {
    let (inner, _) = Bench::new().await.with_table().await;
    let bench = in_front_of(&inner, bearer(&inner.worker)).await;
    assert_eq!(bench.post("lake/namespaces", json!({ "namespace": ["gold", "eu"] })).await.0, 200);
    assert_eq!(bench.post("lake/namespaces", json!({ "namespace": ["gold"] })).await.0, 409);
    let all = bench.relay.namespaces(&credential(), &name(), &no_ceiling(), None).await.unwrap();
    assert_eq!(*all, [Namespace::from_schema("gold"), Namespace::from_schema("gold.eu")]);
    assert!(bench.relay.namespace_exists(&credential(), &name(), &all[1]).await.unwrap());
    assert!(!bench.relay.namespace_exists(&credential(), &name(), &Namespace::from_schema("no")).await.unwrap());

    let location = bench.create("u").await;
    assert_eq!(*bench.relay.tables(&credential(), &name(), &all[0], &no_ceiling(), None).await.unwrap(), ["t", "u"]);
    assert_eq!(bench.transact(vec![append("u", &location, None, 1, now_ms())]).await.0, 204);
    assert_eq!(bench.metadata("u").await["current-snapshot-id"], 1);
    let (status, answer) = bench.transact(vec![append("u", &location, None, 2, now_ms())]).await;
    assert_eq!((status.as_u16(), &answer["error"]["type"]), (409, &json!("CommitFailedException")));
    let both = vec![set_property("t", "a", "b"), append("u", &location, Some(7), 3, now_ms())];
    assert_eq!(bench.transact(both).await.0, 409);
    assert!(bench.metadata("t").await["properties"].get("a").is_none());
    let both = vec![set_property("t", "a", "b"), append("u", &location, Some(1), 3, now_ms())];
    assert_eq!(bench.transact(both).await.0, 204);
    assert_eq!(bench.metadata("t").await["properties"]["a"], "b");

    let rename = json!({
        "source": { "namespace": ["gold"], "name": "u" },
        "destination": { "namespace": ["gold", "eu"], "name": "a/b %é" },
    });
    assert_eq!(bench.post("lake/tables/rename", rename).await.0, 204);
    let moved = TableRef { catalog: name(), namespace: all[1].clone(), table: "a/b %é".to_owned() };
    assert_eq!(bench.relay.loaded_columns(&credential(), &moved).await.unwrap().len(), 2);
    assert_eq!(bench.call(Method::DELETE, "lake/namespaces/gold%1Feu", None).await.0, 409);
    assert_eq!(bench.call(Method::DELETE, "lake/namespaces/gold/tables/t", None).await.0, 204);
    let missing = bench.relay.load(&credential(), &table("t")).await.unwrap_err();
    assert_eq!(missing, CatalogError::NoSuchTable(table("t")));
}

#[tokio::test]
async fn a_token_is_fetched_once_however_many_ask() {
    let (inner, _) = Bench::new().await.with_table().await;
    let (tokens, uri) = Tokens::serve(vec![token(&inner.worker, Some(3600.0))]).await;
    let bench = in_front_of(&inner, oauth2(uri)).await;
    let gold = Namespace::from_schema("gold");
    let (credential, name, ceiling) = (credential(), name(), &no_ceiling());
    let asked = (0..20).map(|_| bench.relay.tables(&credential, &name, &gold, ceiling, None));
    for answer in futures::future::join_all(asked).await {
        assert_eq!(*answer.unwrap(), ["t"]);
    }
    assert_eq!(tokens.count(), 1);
    let form = tokens.asked.lock().unwrap()[0].clone();
    assert_eq!(form, "grant_type=client_credentials&client_id=me&client_secret=s3cret%26more&scope=PRINCIPAL_ROLE%3AALL");
}

#[tokio::test]
async fn a_token_is_renewed_ahead_of_its_expiry() {
    let (inner, _) = Bench::new().await.with_table().await;
    let (tokens, uri) = Tokens::serve(vec![token(&inner.worker, Some(3.0)), token(&inner.worker, Some(3600.0))]).await;
    let bench = in_front_of(&inner, oauth2(uri)).await;
    let gold = Namespace::from_schema("gold");
    bench.relay.namespace_exists(&credential(), &name(), &gold).await.unwrap();
    assert_eq!(tokens.count(), 1);
    tokio::time::sleep(Duration::from_millis(1600)).await;
    // Who asks now has the token before, and another one is on its way.
    bench.relay.namespace_exists(&credential(), &name(), &gold).await.unwrap();
    for _ in 0..500 {
        if tokens.count() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(tokens.count(), 2);
    bench.relay.namespace_exists(&credential(), &name(), &gold).await.unwrap();
    assert_eq!(tokens.count(), 2);
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_also_for_a_commit() {
    let (inner, location) = Bench::new().await.with_table().await;
    let other = inner.relay.admit(WorkerGrant { credential: credential(), catalogs: vec![name()] });
    inner.relay.grant(&other, WRITES);
    // No `expires_in`: such a token is kept until it is refused.
    let (tokens, uri) = Tokens::serve(vec![token(&inner.worker, None), token(&other, None)]).await;
    let bench = in_front_of(&inner, oauth2(uri)).await;
    bench.metadata("t").await;
    assert_eq!(tokens.count(), 1);
    inner.relay.expel(&inner.worker);
    assert_eq!(bench.transact(vec![append("t", &location, None, 1, now_ms())]).await.0, 204);
    assert_eq!(tokens.count(), 2);
    inner.relay.expel(&other);
    let refused =
        bench.relay.tables(&credential(), &name(), &Namespace::from_schema("gold"), &no_ceiling(), None).await.unwrap_err();
    assert!(matches!(refused, CatalogError::Unauthorized { .. }), "{refused}");
    assert_eq!(tokens.count(), 3);
    let text = refused.to_string();
    assert!(text.contains("catalog \"lake\" refused the gateway's credentials"), "{text}");
    assert!(!text.contains(other.as_str()) && !text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn a_token_endpoint_that_answers_nonsense_is_no_secret_leak() {
    let (inner, _) = Bench::new().await.with_table().await;
    let (_tokens, uri) = Tokens::serve(vec![json!({ "token": "hush" })]).await;
    let bench = in_front_of(&inner, oauth2(uri)).await;
    let error = bench.relay.load(&credential(), &table("t")).await.unwrap_err();
    let told = error.to_string();
    assert!(told.starts_with("catalog \"lake\" failed: the token endpoint at 127.0.0.1:"), "{told}");
    assert!(told.ends_with(" answered without an access_token"), "{told}");
}

#[tokio::test]
async fn a_catalog_that_is_not_there_is_named_with_its_host() {
    // Bound and not listened at: connections are refused, and nobody else takes the port.
    let refuses = tokio::net::TcpSocket::new_v4().unwrap();
    refuses.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let uri = format!("http://{}", refuses.local_addr().unwrap());
    let relay =
        Relay::bind(config(), BTreeMap::from([(name(), rest(&uri, RestCredentials::None, &[]))]), BTreeMap::new()).await.unwrap();
    let error = relay.load(&credential(), &table("t")).await.unwrap_err();
    let host = uri.strip_prefix("http://").unwrap();
    assert!(error.to_string().starts_with(&format!("catalog \"lake\" at {host} cannot be reached: ")), "{error}");
}

#[tokio::test]
async fn a_catalog_that_does_not_answer_is_given_up_at_the_deadline() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/api", silent.local_addr().unwrap());
    let CatalogConfig::Rest(mut lake) = rest(&uri, RestCredentials::None, &[]) else { panic!() };
    lake.request_timeout = Some(Duration::from_millis(200));
    let relay = Relay::bind(config(), BTreeMap::from([(name(), CatalogConfig::Rest(lake))]), BTreeMap::new()).await.unwrap();
    let began = std::time::Instant::now();
    let error = relay.load(&credential(), &table("t")).await.unwrap_err();
    assert!(matches!(error, CatalogError::Timeout { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn files_are_out_of_bounds_for_a_rest_catalog_unless_configured() {
    let (inner, _) = Bench::new().await.with_table().await;
    let lake = rest(&inner.relay.endpoint(), bearer(&inner.worker), &[]);
    let relay = Relay::bind(config(), BTreeMap::from([(name(), lake)]), BTreeMap::new()).await.unwrap();
    let error = relay.load(&credential(), &table("t")).await.unwrap_err();
    assert!(matches!(error, CatalogError::OutsideLocation { .. }), "{error}");
    let grant = WorkerGrant { credential: credential(), catalogs: vec![name()] };
    assert!(relay.allowed_locations(&grant.catalogs).iter().all(|prefix| !prefix.starts_with("file")));
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_at_the_start() {
    for uri in ["polaris.example.com", "ftp://polaris.example.com", "https://user:pw@polaris.example.com"] {
        let bound =
            Relay::bind(config(), BTreeMap::from([(name(), rest(uri, RestCredentials::None, &[]))]), BTreeMap::new()).await;
        assert!(matches!(bound, Err(RelayError::Config { .. })), "{uri}");
    }
    let missing = RestCredentials::Bearer { token: SecretRef::Env { env: "POLYNYA_TEST_NO_SUCH_VARIABLE".to_owned() } };
    let bound = Relay::bind(config(), BTreeMap::from([(name(), rest("http://h", missing, &[]))]), BTreeMap::new()).await;
    assert!(matches!(bound, Err(RelayError::Secret { .. })));
    let bound =
        Relay::bind(config(), BTreeMap::from([(name(), rest("http://h", RestCredentials::None, &["lake"]))]), BTreeMap::new())
            .await;
    assert!(matches!(bound, Err(RelayError::Config { .. })));
}

#[test]
fn catalogs_are_described_in_yaml() {
    let read = |text: &str| serde_saphyr::from_str::<BTreeMap<CatalogName, CatalogConfig>>(text);
    let catalogs = read(
        "
lake: { type: embedded, path: /var/lib/polynya }
polaris:
  type: rest
  uri: https://polaris.example.com/api/catalog
  warehouse: lakehouse
  credentials: { type: oauth2, client_id: me, client_secret: { env: SECRET } }
  allowed_locations: [s3://lake/]
  request_timeout: 5s
",
    )
    .unwrap();
    let CatalogConfig::Rest(polaris) = &catalogs[&CatalogName::from("polaris")] else { panic!() };
    assert_eq!(polaris.request_timeout, Some(Duration::from_secs(5)));
    let RestCredentials::Oauth2 { scope, .. } = &polaris.credentials else { panic!() };
    assert_eq!(scope, "PRINCIPAL_ROLE:ALL");
    for wrong in [
        "lake: { type: embedded, path: /x, warehouse: y }",
        "lake: { type: rest, uri: http://h, pathh: y }",
        "lake: { type: rest, uri: http://h, credentials: { type: oauth2, client_id: me } }",
        "lake: { type: rest, uri: http://h, credentials: { type: bearer, token: x, scope: y } }",
        "lake: { type: hive }",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    let relay: Config = serde_saphyr::from_str("max_staleness: 250ms").unwrap();
    assert_eq!((relay.max_staleness, relay.commit_attempts), (Duration::from_millis(250), 4));
    assert!(serde_saphyr::from_str::<Config>("max_stalenes: 1s").is_err());
}

/// Remembers the path of each call, and answers to any of them.
async fn notes(State(came): State<Arc<Mutex<Vec<String>>>>, uri: axum::http::Uri) -> Json<Value> {
    came.lock().unwrap().push(uri.path().to_owned());
    Json(json!({
        "access_token": "a", "token_type": "bearer", "expires_in": 3600,
        "defaults": {}, "overrides": {},
        "metadata": { "location": "s3://lake/gold/t" },
    }))
}

#[tokio::test]
async fn a_catalog_is_made_ready_when_a_worker_is_let_in_and_once() {
    let came: Arc<Mutex<Vec<String>>> = Arc::default();
    let routes = Router::new().fallback(notes).with_state(came.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let lake = rest(&uri, oauth2(format!("{uri}/tokens")), &["s3://lake/"]);
    let relay = Relay::bind(config(), BTreeMap::from([(name(), lake)]), BTreeMap::new()).await.unwrap();
    assert!(came.lock().unwrap().is_empty(), "nobody has come yet");
    let bench = Bench::serve(relay, Arc::new(tempfile::tempdir().unwrap()));
    for _ in 0..500 {
        if came.lock().unwrap().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(*came.lock().unwrap(), ["/tokens", "/v1/config"]);
    bench.relay.admit(WorkerGrant { credential: credential(), catalogs: bench.relay.catalogs() });
    let table = TableRef { catalog: name(), namespace: Namespace::from_schema("gold"), table: "t".to_owned() };
    bench.relay.load(&credential(), &table).await.unwrap();
    assert_eq!(*came.lock().unwrap(), ["/tokens", "/v1/config", "/v1/namespaces/gold/tables/t"]);
}
