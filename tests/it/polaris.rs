//! The stand-in for Polaris is shown to do what other tests ask of it: grants, tokens, faults, its log. What a real one answered is
//! in `recorded`. Refuses to test the gateway, but for one way through it.

mod recorded;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::Gateway;
use crate::stand_in::{
    Fault, Grant, HOME, IssuerSetup, Operation, PrincipalSetup, Privilege, RealmSetup, Rule, Setup, StandIn, WarehouseSetup,
    control,
};

const ALL_ROLES: &str = "PRINCIPAL_ROLE:ALL";

/// An answer of the stand-in.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

/// A plain HTTP client of the stand-in.
struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    fn of(stand_in: &StandIn) -> Self {
        Self { http: reqwest::Client::new(), base: format!("{}/v1", stand_in.uri()) }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        Ok(Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    async fn call(&self, token: &str, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, reqwest::Error> {
        let mut request = self.http.request(method, format!("{}/{path}", self.base)).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, Method::GET, path, None).await.expect("an answer")
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.call(token, Method::POST, path, Some(body)).await.expect("an answer")
    }

    async fn token_by(&self, form: &[(&str, &str)]) -> Answer {
        self.send(self.http.post(format!("{}/oauth/tokens", self.base)).form(form)).await.expect("an answer")
    }

    /// A token of a principal with the usual credentials.
    async fn token(&self, principal: &str) -> String {
        let (id, secret) = (format!("{principal}-client-id"), format!("{principal}-secret"));
        let form = [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", &secret), ("scope", ALL_ROLES)];
        let answer = self.token_by(&form).await;
        answer.body["access_token"].as_str().unwrap_or_else(|| panic!("a token for {principal}: {answer:?}")).to_owned()
    }

    async fn create(&self, token: &str, namespace: &str, table: &str) -> Answer {
        self.post(token, &format!("lakehouse/namespaces/{namespace}/tables"), &new_table(table)).await
    }
}

fn new_table(name: &str) -> Value {
    let fields = json!([{ "id": 1, "name": "id", "required": false, "type": "long" }]);
    json!({ "name": name, "schema": { "type": "struct", "schema-id": 0, "fields": fields } })
}

fn set_property(key: &str, value: &str) -> Value {
    json!({ "requirements": [], "updates": [{ "action": "set-properties", "updates": { key: value } }] })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

const GOLD: &str = "lakehouse/namespaces/gold/tables";
const SILVER: &str = "lakehouse/namespaces/silver/tables";

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_reaches_downwards_and_implies_no_more_than_polaris_says() {
    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let client = Client::of(&stand_in);
    let (engineer, analyst) = (client.token("engineer").await, client.token("analyst").await);
    for table in ["a", "b"] {
        assert_eq!(client.create(&engineer, "silver", table).await.status, 200);
    }
    let realm = stand_in.realm(HOME);
    let role = "gold_reader";
    let may = async |method: Method, path: &str, body: Option<Value>| {
        let answer = client.call(&analyst, method, path, body.as_ref()).await.expect("an answer");
        assert!(answer.status != 403 || answer.message().starts_with("Principal 'analyst' with activated"), "{answer:?}");
        answer.status < 300
    };
    let (a, b) = (format!("{SILVER}/a"), format!("{SILVER}/b"));
    let property = || Some(set_property("k", "v"));
    assert!(!may(Method::GET, &a, None).await);

    // On one table: read, and nothing else; not the list that it stands in.
    realm.grant("lakehouse", role, Grant::on_table(Privilege::TableReadData, "silver", "a"));
    assert!(may(Method::GET, &a, None).await);
    assert!(may(Method::HEAD, &a, None).await);
    assert!(!may(Method::GET, &b, None).await);
    assert!(!may(Method::GET, SILVER, None).await);
    assert!(!may(Method::POST, &a, property()).await);
    assert!(!may(Method::DELETE, &a, None).await);

    // Who may write the properties of a namespace's tables may look at them, and neither drop them nor read their data.
    realm.grant("lakehouse", role, Grant::on_namespace(Privilege::TableWriteProperties, "silver"));
    assert!(may(Method::POST, &b, property()).await);
    assert!(may(Method::GET, SILVER, None).await);
    assert!(!may(Method::DELETE, &b, None).await);
    let vended = client.http.get(format!("{}/{b}", client.base)).bearer_auth(&analyst);
    let vended = client.send(vended.header("X-Iceberg-Access-Delegation", "vended-credentials")).await.expect("an answer");
    assert!(vended.message().ends_with("for op LOAD_TABLE_WITH_READ_DELEGATION"), "{vended:?}");

    // A grant on a namespace holds for those below, and for no other that begins with its name.
    for namespace in [json!(["silver", "deep"]), json!(["silverware"])] {
        let body = json!({ "namespace": namespace, "properties": {} });
        assert_eq!(client.post(&engineer, "lakehouse/namespaces", &body).await.status, 200);
    }
    assert!(may(Method::GET, "lakehouse/namespaces/silver%1Fdeep/tables", None).await);
    assert!(!may(Method::GET, "lakehouse/namespaces/silverware/tables", None).await);

    // Taken away, it is gone for a token that is there already.
    assert!(realm.revoke("lakehouse", role, &Grant::on_namespace(Privilege::TableWriteProperties, "silver")));
    assert!(!may(Method::GET, &b, None).await);
    realm.set_use("analysts", "lakehouse", "content_writer", true);
    assert!(may(Method::DELETE, &b, None).await);
    realm.set_role("analyst", "analysts", false);
    let answer = client.get(&analyst, &a).await;
    assert_eq!(
        answer.message(),
        "Principal 'analyst' with activated PrincipalRoles '[]' and activated grants via '[]' is not authorized for op LOAD_TABLE"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_on_a_table_goes_with_its_name_and_ends_with_the_table() {
    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let client = Client::of(&stand_in);
    let (engineer, analyst) = (client.token("engineer").await, client.token("analyst").await);
    client.create(&engineer, "silver", "a").await;
    stand_in.realm(HOME).grant("lakehouse", "gold_reader", Grant::on_table(Privilege::TableReadData, "silver", "a"));
    let names = json!({ "source": { "namespace": ["silver"], "name": "a" },
                        "destination": { "namespace": ["bronze"], "name": "b" } });
    assert_eq!(client.post(&engineer, "lakehouse/tables/rename", &names).await.status, 200);
    let moved = "lakehouse/namespaces/bronze/tables/b";
    assert_eq!(client.get(&analyst, moved).await.status, 200);
    client.call(&engineer, Method::DELETE, moved, None).await.expect("an answer");
    client.create(&engineer, "bronze", "b").await;
    assert_eq!(client.get(&analyst, moved).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lives_as_long_as_it_says_and_activates_what_it_was_asked_for() {
    let stand_in = StandIn::start(Setup::lakehouse().with_token_lifetime(4)).await;
    let client = Client::of(&stand_in);
    let config = "config?warehouse=lakehouse";
    let short = client.token("engineer").await;
    assert_eq!(client.get(&short, config).await.status, 200);
    let realm = stand_in.realm(HOME);
    realm.tokens.set_lifetime(3600);
    let long = client.token("engineer").await;
    tokio::time::sleep(Duration::from_millis(5100)).await;
    let answer = client.get(&short, config).await;
    assert_eq!((answer.status, answer.header("www-authenticate"), &answer.body), (401, Some("Bearer"), &json!("")));
    assert_eq!(client.get(&long, config).await.status, 200);
    realm.tokens.expire_all();
    assert_eq!(client.get(&long, config).await.status, 401);

    // By one role of two; an exchange may keep it or narrow it, and not widen it.
    realm.set_role("engineer", "analysts", true);
    let narrow = |scope: &'static str| {
        [
            ("grant_type", "client_credentials"),
            ("client_id", "engineer-client-id"),
            ("client_secret", "engineer-secret"),
            ("scope", scope),
        ]
    };
    let token =
        client.token_by(&narrow("PRINCIPAL_ROLE:analysts")).await.body["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(client.create(&token, "gold", "t").await.status, 403);
    let exchange = async |scope: &str| {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", token.as_str()),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("scope", scope),
        ];
        let request = client.http.post(format!("{}/oauth/tokens", client.base)).bearer_auth(&token).form(&form);
        client.send(request).await.expect("an answer")
    };
    assert_eq!(exchange("PRINCIPAL_ROLE:analysts").await.status, 200);
    assert_eq!(exchange(ALL_ROLES).await.body["error"], "invalid_scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_did_not_change_is_not_sent_again() {
    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let client = Client::of(&stand_in);
    let engineer = client.token("engineer").await;
    client.create(&engineer, "gold", "t").await;
    let table = format!("{GOLD}/t");
    let etag = client.get(&engineer, &table).await.header("etag").expect("a version").to_owned();
    let ask = async || {
        let request = client.http.get(format!("{}/{table}", client.base)).bearer_auth(&engineer);
        client.send(request.header("If-None-Match", &etag)).await.expect("an answer").status
    };
    assert_eq!(ask().await, 304);
    client.post(&engineer, &table, &set_property("k", "v")).await;
    assert_eq!(ask().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let client = Client::of(&stand_in);
    let engineer = client.token("engineer").await;
    for number in 0..5 {
        client.create(&engineer, "gold", &format!("t{number}")).await;
    }
    let (mut names, mut next) = (Vec::new(), String::new());
    loop {
        let page = client.get(&engineer, &format!("{GOLD}?pageSize=2&pageToken={next}")).await.body;
        let identifiers = page["identifiers"].as_array().expect("a list");
        assert!(identifiers.len() <= 2);
        names.extend(identifiers.iter().map(|one| text(&one["name"]).to_owned()));
        match page["next-page-token"].as_str() {
            Some(token) => next = token.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["t0", "t1", "t2", "t3", "t4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_that_is_shut_out_is_refused_at_once() {
    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let client = Client::of(&stand_in);
    let realm = stand_in.realm(HOME);
    let config = "config?warehouse=lakehouse";
    let analyst = client.token("analyst").await;
    let login = async |secret: &str| {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "analyst-client-id"),
            ("client_secret", secret),
            ("scope", ALL_ROLES),
        ];
        let answer = client.token_by(&form).await;
        (answer.status, text(&answer.body["error"]).to_owned())
    };
    let refused = (401, "unauthorized_client".to_owned());

    realm.set_active("analyst", false);
    assert_eq!(client.get(&analyst, config).await.status, 401);
    assert_eq!(login("analyst-secret").await, refused);
    realm.set_active("analyst", true);
    assert_eq!(client.get(&analyst, config).await.status, 200);

    // Another secret: the old one is worth nothing, the token lives on.
    realm.rotate_secret("analyst", "fresh");
    assert_eq!(login("analyst-secret").await, refused);
    assert_eq!(login("fresh").await.0, 200);
    assert_eq!(client.get(&analyst, config).await.status, 200);

    // A new principal of the same name is somebody else.
    realm.drop_principal("analyst");
    assert_eq!(client.get(&analyst, config).await.status, 401);
    realm.create_principal(PrincipalSetup::named("analyst", "analysts"));
    assert_eq!(client.get(&analyst, config).await.status, 401);
    assert_eq!(login("analyst-secret").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_strikes_whom_it_should_and_as_often_as_it_should() {
    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let client = Client::of(&stand_in);
    let (engineer, analyst) = (client.token("engineer").await, client.token("analyst").await);
    client.create(&engineer, "gold", "t").await;
    let table = format!("{GOLD}/t");
    let faults = stand_in.faults();

    faults.add(Rule::new(Fault::Status(429)).on([Operation::LoadTable]).by("analyst").at("gold.t").skip(1).times(2));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        assert_eq!(client.get(&engineer, &table).await.status, 200);
        statuses.push(client.get(&analyst, &table).await.status);
    }
    assert_eq!(statuses, [200, 429, 429, 200]);
    assert!(faults.left().is_empty());

    // A proxy's answer is no JSON, an expired token's is empty.
    faults.add(Rule::new(Fault::Status(502)).times(1));
    assert!(client.get(&engineer, &table).await.body.is_string());
    faults.add(Rule::new(Fault::ExpiredToken).on([Operation::LoadTable]).times(1));
    let refused = client.get(&engineer, &table).await;
    assert_eq!((refused.status, &refused.body), (401, &json!("")));

    // Before it is carried out, and after.
    let commit = async |key: &str| client.call(&engineer, Method::POST, &table, Some(&set_property(key, "v"))).await;
    let properties = async || client.get(&engineer, &table).await.body["metadata"]["properties"].clone();
    for (key, rule) in [
        ("status-before", Rule::new(Fault::Status(502))),
        ("status-after", Rule::new(Fault::Status(502)).after()),
        ("close-before", Rule::new(Fault::Close)),
        ("close-after", Rule::new(Fault::Close).after()),
    ] {
        faults.add(rule.on(Operation::COMMITS).times(1));
        match commit(key).await {
            Ok(answer) => assert_eq!(answer.status, 502, "{key}"),
            Err(error) => assert!(key.starts_with("close") && !error.is_connect(), "{key}: {error}"),
        }
        assert_eq!(properties().await[key].is_string(), key.ends_with("after"), "{key}");
    }

    // The head of an answer and half of its body.
    faults.add(Rule::new(Fault::Cut).on([Operation::LoadTable]).times(1));
    let broken = client.call(&engineer, Method::GET, &table, None).await.expect_err("half an answer");
    assert!(broken.is_body() || broken.is_decode(), "{broken:?}");

    faults.add(Rule::new(Fault::DelayMs(300)).times(1));
    let began = Instant::now();
    assert_eq!(client.get(&engineer, &table).await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));

    // What hangs goes on when the faults are cleared; a commit whose client gave up meanwhile does not.
    faults.add(Rule::new(Fault::Hang));
    let given_up = tokio::time::timeout(Duration::from_millis(200), commit("given-up")).await;
    assert!(given_up.is_err());
    let waiting = async { tokio::time::timeout(Duration::from_secs(20), commit("patient")).await };
    let release = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        faults.clear();
    };
    assert_eq!(tokio::join!(waiting, release).0.expect("in time").expect("an answer").status, 200);
    let properties = properties().await;
    assert!(properties["patient"].is_string() && properties["given-up"].is_null(), "{properties}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_down_and_comes_back_on_its_port() {
    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let client = Client::of(&stand_in);
    let engineer = client.token("engineer").await;
    for _ in 0..3 {
        // A request under way ends too.
        stand_in.faults().add(Rule::new(Fault::Hang).on([Operation::ListNamespaces]));
        let hanging = client.call(&engineer, Method::GET, "lakehouse/namespaces", None);
        let down = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            stand_in.down().await;
        };
        assert!(tokio::join!(hanging, down).0.is_err());
        stand_in.faults().clear();
        let refused = client.call(&engineer, Method::GET, "config?warehouse=lakehouse", None).await.expect_err("no answer");
        assert!(refused.is_connect(), "{refused}");
        stand_in.up().await;
        assert_eq!(client.get(&engineer, "config?warehouse=lakehouse").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_loses_no_request() {
    const CLIENTS: usize = 16;
    const CALLS: usize = 40;
    let stand_in = Arc::new(StandIn::start(Setup::lakehouse()).await);
    let client = Arc::new(Client::of(&stand_in));
    let engineer = client.token("engineer").await;
    client.create(&engineer, "gold", "t").await;
    stand_in.log().clear();
    stand_in.faults().add(Rule::new(Fault::Close).on([Operation::LoadTable]).skip(100).times(5));
    let call = |client: Arc<Client>| async move {
        let token = client.token("analyst").await;
        for _ in 0..CALLS {
            // Some are closed on purpose; they count as well.
            let _ = client.call(&token, Method::GET, &format!("{GOLD}/t"), None).await;
        }
    };
    let tasks: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(call(Arc::clone(&client)))).collect();
    for task in tasks {
        task.await.expect("a client");
    }
    let log = stand_in.log();
    assert_eq!(log.count(Operation::Token, "analyst"), CLIENTS);
    let loads: Vec<_> = log.calls().into_iter().filter(|call| call.operation == Operation::LoadTable).collect();
    // A client sends a request again that it could not have sent, on a connection of before: the log has those too.
    assert!(loads.len() >= CLIENTS * CALLS, "{}", loads.len());
    assert_eq!(loads.iter().filter(|call| call.status.is_none()).count(), 5);
    assert!(loads.iter().all(|call| call.target.as_deref() == Some("gold.t") && call.warehouse.as_deref() == Some("lakehouse")));
    let numbers: BTreeSet<usize> = log.calls().iter().map(|call| call.number).collect();
    assert_eq!(numbers.len(), log.calls().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn realms_and_warehouses_know_nothing_of_each_other() {
    let mut setup = Setup::lakehouse();
    let mut other: RealmSetup = setup.realms[0].clone();
    other.name = "OTHER".to_owned();
    setup.realms.push(other);
    let stand_in = StandIn::start(setup).await;
    let client = Client::of(&stand_in);
    let engineer = client.token("engineer").await;
    assert_eq!(client.create(&engineer, "gold", "t").await.status, 200);

    let there = Client { http: client.http.clone(), base: format!("{}/v1", stand_in.uri_of("OTHER")) };
    assert_eq!(there.get(&engineer, "config?warehouse=lakehouse").await.status, 401);
    let native = there.token("engineer").await;
    assert_eq!(there.get(&native, &format!("{GOLD}/t")).await.status, 404);
    let named = client.http.get(format!("{}/{GOLD}/t", client.base)).bearer_auth(&native).header("Polaris-Realm", "OTHER");
    assert_eq!(client.send(named).await.expect("an answer").status, 404);
    let unknown = client.http.get(format!("{}/config", client.base)).bearer_auth(&native).header("Polaris-Realm", "NOWHERE");
    assert_eq!(client.send(unknown).await.expect("an answer").body["error"]["type"], "MissingOrInvalidRealm");

    let realm = stand_in.realm(HOME);
    realm.add_warehouse(WarehouseSetup::three_layers("second"), stand_in.scratch()).await.expect("a warehouse");
    assert_eq!(client.get(&engineer, "second/namespaces").await.status, 403);
    realm.set_use("engineers", "second", "content_writer", true);
    assert_eq!(client.get(&engineer, "second/namespaces").await.status, 200);
    assert_eq!(client.get(&engineer, "second/namespaces/gold/tables/t").await.status, 404);
}

/// A key of an identity provider.
struct IssuerKey {
    id: &'static str,
    key: EncodingKey,
}

impl IssuerKey {
    fn new(id: &'static str) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key").serialize_der();
        Self { id, key: EncodingKey::from_ec_der(&key) }
    }

    fn public(&self) -> Value {
        let mut public = Jwk::from_encoding_key(&self.key, Algorithm::ES256).expect("a public key");
        public.common.key_id = Some(self.id.to_owned());
        json!({ "keys": [public] })
    }

    /// A token that expires so many seconds from now.
    fn sign(&self, issuer: &str, audience: &str, seconds: i64, name: &str) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
        let expires = i64::try_from(now).expect("a time") + seconds;
        let claims = json!({ "iss": issuer, "aud": audience, "exp": expires, "sub": "0815", "preferred_username": name });
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.key).expect("a token")
    }
}

fn believed(issuer: &str, jwks: Option<Value>) -> IssuerSetup {
    IssuerSetup {
        issuer: issuer.to_owned(),
        jwks,
        audience: BTreeSet::from(["lakehouse".to_owned()]),
        name_claim: "preferred_username".to_owned(),
        roles_claim: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_believed_issuer_are_taken_and_exchanged() {
    let key = IssuerKey::new("k1");
    let issuer = "https://login.example/tenant";
    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let client = Client::of(&stand_in);
    stand_in.realm(HOME).tokens.issuers.add(believed(issuer, Some(key.public())));
    let config = "config?warehouse=lakehouse";
    let good = key.sign(issuer, "lakehouse", 60, "analyst");
    assert_eq!(client.get(&good, config).await.status, 200);
    assert_eq!(client.get(&good, SILVER).await.status, 403);
    for bad in [
        key.sign(issuer, "other", 60, "analyst"),
        key.sign(issuer, "lakehouse", -5, "analyst"),
        key.sign(issuer, "lakehouse", 60, "nobody"),
        key.sign("https://login.example/other", "lakehouse", 60, "analyst"),
        IssuerKey::new("k1").sign(issuer, "lakehouse", 60, "analyst"),
    ] {
        assert_eq!(client.get(&bad, config).await.status, 401);
    }
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", good.as_str()),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
    ];
    let request = client.http.post(format!("{}/oauth/tokens", client.base)).bearer_auth(&good).form(&form);
    let exchanged = client.send(request).await.expect("an answer");
    let own = text(&exchanged.body["access_token"]).to_owned();
    stand_in.realm(HOME).tokens.issuers.remove(issuer);
    assert_eq!(client.get(&good, config).await.status, 401);
    assert_eq!(client.get(&own, config).await.status, 200);
    assert_eq!(stand_in.log().count(Operation::Token, "analyst"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuers_new_key_is_found_when_a_token_names_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let issuer = format!("http://{}", listener.local_addr().expect("an address"));
    let (first, second) = (IssuerKey::new("k1"), IssuerKey::new("k2"));
    let keys = Arc::new(Mutex::new(first.public()));
    let discovery = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") });
    let shown = Arc::clone(&keys);
    let routes = axum::Router::new()
        .route("/.well-known/openid-configuration", axum::routing::get(async move || axum::Json(discovery)))
        .route("/keys", axum::routing::get(async move || axum::Json(shown.lock().expect("the keys").clone())));
    tokio::spawn(async move { axum::serve(listener, routes).await });

    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let client = Client::of(&stand_in);
    stand_in.realm(HOME).tokens.issuers.add(believed(&issuer, None));
    let config = "config?warehouse=lakehouse";
    let (old, new) = (first.sign(&issuer, "lakehouse", 60, "analyst"), second.sign(&issuer, "lakehouse", 60, "analyst"));
    assert_eq!(client.get(&old, config).await.status, 200);
    assert_eq!(client.get(&new, config).await.status, 401);
    *keys.lock().expect("the keys") = second.public();
    assert_eq!(client.get(&new, config).await.status, 200);
    assert_eq!(client.get(&old, config).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_tls_it_speaks_to_who_trusts_its_certificate() {
    let stand_in = StandIn::start(Setup::lakehouse().with_tls()).await;
    let certificate = stand_in.certificate().expect("a certificate");
    let trusted = reqwest::Certificate::from_pem(certificate.as_bytes()).expect("PEM");
    let http = reqwest::Client::builder().add_root_certificate(trusted).build().expect("a client");
    let client = Client { http, base: format!("{}/v1", stand_in.uri()) };
    let token = client.token("analyst").await;
    let url = format!("{}/config?warehouse=lakehouse", client.base);
    let answer = client.http.get(&url).bearer_auth(&token).send().await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    assert!(reqwest::get(&url).await.expect_err("no trust").is_connect());
    stand_in.faults().add(Rule::new(Fault::Close).times(1));
    assert!(client.call(&token, Method::GET, "config?warehouse=lakehouse", None).await.is_err());
    assert_eq!(client.get(&token, "config?warehouse=lakehouse").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_controlled_over_http_as_by_its_handle() {
    let stand_in = Arc::new(StandIn::start(Setup::lakehouse()).await);
    let client = Client::of(&stand_in);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let routes = control::routes(Arc::clone(&stand_in));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let control = async |command: &str, body: Value| {
        let request = client.http.post(format!("http://{address}/control/{command}")).json(&body);
        client.send(request).await.expect("an answer")
    };
    let create = json!({ "create_principal": { "name": "guest", "client_id": "guest-client-id", "client_secret": "guest-secret",
                                               "roles": ["analysts"] } });
    assert_eq!(control("create-principal", create).await.status, 200);
    let guest = client.token("guest").await;
    assert_eq!(client.get(&guest, SILVER).await.status, 403);
    let grant = json!({ "warehouse": "lakehouse", "catalog_role": "gold_reader",
                        "grant": { "privilege": "TABLE_LIST", "namespace": "silver" } });
    assert_eq!(control("grant", grant.clone()).await.status, 200);
    assert_eq!(client.get(&guest, SILVER).await.status, 200);
    assert_eq!(control("revoke", grant).await.body, json!({ "revoked": true }));
    let rule =
        json!({ "fault": { "status": 500 }, "moment": "after", "operations": ["list-tables"], "principal": "guest", "times": 1 });
    assert_eq!(control("fail", rule).await.status, 200);
    assert_eq!(client.get(&guest, GOLD).await.status, 500);
    assert_eq!(client.get(&guest, GOLD).await.status, 200);
    let counts = control("counts", json!({})).await.body;
    assert!(
        counts.as_array().expect("a list").contains(&json!({ "operation": "token", "principal": "guest", "count": 1 })),
        "{counts}"
    );
    assert_eq!(control("deactivate", json!({ "principal": "guest" })).await.status, 200);
    assert_eq!(client.get(&guest, GOLD).await.status, 401);
    assert_eq!(control("down", json!({})).await.status, 200);
    assert!(client.call(&guest, Method::GET, GOLD, None).await.is_err());
    assert_eq!(control("up", json!({})).await.status, 200);
    assert_eq!(control("fly", json!({})).await.status, 400);
    assert_eq!(control("log", json!({})).await.body.as_array().map(Vec::len), Some(stand_in.log().calls().len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_reads_and_writes_through_it() {
    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let settings = stand_in.settings("rest", "lakehouse", "engineer");
    let gateway = Gateway::with(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    gateway.run("CREATE SCHEMA rest.gold_2").await;
    gateway.run("CREATE TABLE rest.gold_2.t (n INTEGER, s VARCHAR)").await;
    gateway.run("INSERT INTO rest.gold_2.t SELECT i, 'x' FROM range(1000) r(i)").await;
    gateway.run("CREATE TABLE rest.gold.copy AS SELECT * FROM rest.gold_2.t WHERE n < 10").await;
    gateway.run("UPDATE rest.gold.copy SET s = 'y' WHERE n = 3").await;
    gateway.run("DELETE FROM rest.gold.copy WHERE n = 4").await;
    assert_eq!(gateway.value("SELECT count(*) FROM rest.gold_2.t").await, "1000");
    assert_eq!(gateway.value("SELECT string_agg(s, '' ORDER BY n) FROM rest.gold.copy").await, "xxxyxxxxx");

    // A commit that was made and not acknowledged is found, not made again.
    stand_in.faults().add(Rule::new(Fault::Status(502)).on(Operation::COMMITS).after().times(1));
    gateway.run("INSERT INTO rest.gold_2.t VALUES (1, 'once')").await;
    assert_eq!(gateway.value("SELECT count(*) FROM rest.gold_2.t WHERE s = 'once'").await, "1");
    assert!(stand_in.faults().left().is_empty());

    assert_eq!(stand_in.log().count(Operation::Token, "engineer"), 1);
    let by_others = stand_in.log().calls().into_iter().filter(|call| call.principal.as_deref() != Some("engineer")).count();
    assert_eq!(by_others, 0);
    let denied = stand_in.settings("rest", "lakehouse", "analyst");
    let gateway = Gateway::with(&denied.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(gateway.value("SELECT count(*) FROM rest.gold.copy").await, "9");
    let status = gateway.query("SELECT count(*) FROM rest.gold_2.t").await.expect_err("no grant");
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
    assert!(status.message().contains("principal \"analyst\""), "{status}");
}
