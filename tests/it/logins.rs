//! Who is let in by real gateways in front of the stand-in for Polaris: clients of the catalog, tokens, roles, certificates; and what
//! the catalog is asked for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Gateway, query, status};
use crate::pki::{Authority, Files, trusting};
use crate::sessions::{handshake, log_in, run, with_token};
use crate::stand_in::{HOME, IssuerSetup, Operation, Setup, StandIn};

/// A stand-in with tables that only some may read, and the settings of a gateway in front of it.
struct Lake {
    stand_in: StandIn,
    settings: Vec<String>,
}

impl Lake {
    async fn open(more: &[&str]) -> Self {
        Self::of(Setup::lakehouse(), more).await
    }

    async fn of(setup: Setup, more: &[&str]) -> Self {
        let stand_in = StandIn::start(setup).await;
        let settings = stand_in.settings("rest", "lakehouse", "engineer");
        let service = Gateway::with(&settings.iter().map(String::as_str).collect::<Vec<_>>());
        service.run("CREATE TABLE rest.gold.t AS SELECT 7 AS n").await;
        service.run("CREATE TABLE rest.silver.t AS SELECT 8 AS n").await;
        stand_in.log().clear();
        let settings = settings.into_iter().chain(more.iter().map(|&pair| pair.to_owned())).collect();
        Self { stand_in, settings }
    }

    fn gateway(&self, more: &[String]) -> Gateway {
        Gateway::with(&self.settings.iter().chain(more).map(String::as_str).collect::<Vec<_>>())
    }

    fn credentials(&self, principal: &str) -> (String, String) {
        self.stand_in.first_realm().credentials(principal).expect("a principal")
    }

    fn tokens(&self, principal: &str) -> usize {
        self.stand_in.log().count(Operation::Token, principal)
    }

    /// A token that the catalog itself signs.
    async fn own_token(&self, principal: &str) -> String {
        let (id, secret) = self.credentials(principal);
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &id),
            ("client_secret", &secret),
            ("scope", "PRINCIPAL_ROLE:ALL"),
        ];
        let request = reqwest::Client::new().post(format!("{}/v1/oauth/tokens", self.stand_in.uri())).form(&form);
        let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        answer["access_token"].as_str().expect("a token").to_owned()
    }
}

/// `analyst` reads gold and is denied silver.
async fn is_analyst(gateway: &Gateway, token: &str) {
    assert_eq!(run(gateway, token, "SELECT n FROM rest.gold.t").await.expect("gold"), "7");
    let denied = run(gateway, token, "SELECT n FROM rest.silver.t").await.expect_err("no grant");
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
}

#[tokio::test(flavor = "multi_thread")]
async fn catalog_principals_log_in_and_the_catalog_is_asked_once() {
    let lake = Lake::open(&["auth.mode=polaris"]).await;
    let gateway = lake.gateway(&[]);
    let (id, secret) = lake.credentials("analyst");
    let token = log_in(&gateway, &id, &secret).await.expect("a session");
    is_analyst(&gateway, &token).await;
    for _ in 0..10 {
        let token = log_in(&gateway, &id, &secret).await.expect("a session");
        assert_eq!(run(&gateway, &token, "SELECT 1").await.expect("a value"), "1");
    }
    assert_eq!(lake.tokens("analyst"), 1, "one token request however many log-ins and statements");
    assert_eq!(lake.tokens("engineer"), 0, "the gateway's own credentials are not for callers");
    let refused = log_in(&gateway, &id, "planted-secret").await.expect_err("a wrong secret");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let unknown = log_in(&gateway, "nobody", "planted-secret").await.expect_err("nobody");
    assert_eq!(unknown.code(), Code::Unauthenticated, "{unknown}");
    for told in [refused.message(), unknown.message(), &gateway.log()] {
        assert!(!told.contains("planted-secret") && !told.contains(&secret), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_is_asked_for_once_log_ins_are_forgotten() {
    let lake = Lake::open(&["auth.mode=polaris", "auth.remember_logins=1s"]).await;
    let gateway = lake.gateway(&[]);
    let (id, secret) = lake.credentials("analyst");
    log_in(&gateway, &id, &secret).await.expect("a session");
    lake.stand_in.realm(HOME).rotate_secret("analyst", "another");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let refused = log_in(&gateway, &id, &secret).await.expect_err("the old secret");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let token = log_in(&gateway, &id, "another").await.expect("a session");
    is_analyst(&gateway, &token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_costs_the_catalog_nothing() {
    let lake = Lake::open(&["auth.mode=polaris"]).await;
    let gateway = lake.gateway(&[]);
    let (id, _) = lake.credentials("analyst");
    let mut waits = 0;
    for n in 0..50 {
        let refused = log_in(&gateway, &id, &n.to_string()).await.expect_err("a guess");
        waits += usize::from(refused.code() == Code::ResourceExhausted);
        assert!(refused.code() != Code::ResourceExhausted || refused.metadata().contains_key("retry-after-ms"), "{refused}");
    }
    let asked = lake.stand_in.log().calls().iter().filter(|call| call.operation == Operation::Token).count();
    assert!(waits >= 40 && asked + waits == 50, "{waits} had to wait, {asked} were asked about");
    let (other, secret) = lake.credentials("engineer");
    log_in(&gateway, &other, &secret).await.expect("another principal at the same address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_down_refuses_nobody_for_good() {
    let lake = Lake::open(&["auth.mode=polaris", "relay.connect_timeout=1s", "relay.read_attempts=1"]).await;
    let gateway = lake.gateway(&[]);
    let (id, secret) = lake.credentials("analyst");
    lake.stand_in.down().await;
    for _ in 0..8 {
        let down = log_in(&gateway, &id, &secret).await.expect_err("it is down");
        assert_eq!(down.code(), Code::Unavailable, "{down}");
    }
    lake.stand_in.up().await;
    let until = Instant::now() + Duration::from_secs(20);
    let token = loop {
        match log_in(&gateway, &id, &secret).await {
            Ok(token) => break token,
            Err(error) => assert!(Instant::now() < until && error.code() == Code::Unavailable, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    is_analyst(&gateway, &token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_catalog_signed_opens_what_its_principal_may_see_until_it_lapses() {
    let lake = Lake::of(Setup::lakehouse().with_token_lifetime(8), &["auth.mode=passthrough"]).await;
    let gateway = lake.gateway(&[]);
    let token = lake.own_token("analyst").await;
    let asked = lake.tokens("analyst");
    is_analyst(&gateway, &token).await;
    assert_eq!(lake.tokens("analyst"), asked, "it is shown as it is");
    tokio::time::sleep(Duration::from_secs(9)).await;
    let lapsed = run(&gateway, &token, "SELECT n FROM rest.gold.t").await.expect_err("it has lapsed");
    assert_eq!(lapsed.code(), Code::Unauthenticated, "{lapsed}");
    is_analyst(&gateway, &lake.own_token("analyst").await).await;
    let basic = log_in(&gateway, "analyst", "x").await.expect_err("a password");
    assert!(basic.message().contains("bearer tokens only"), "{basic}");
}

/// An identity provider on a port of its own.
struct Provider {
    issuer: String,
    key: EncodingKey,
    public: Value,
}

impl Provider {
    async fn start() -> Self {
        let der = rcgen::KeyPair::generate().expect("a key").serialize_der();
        let key = EncodingKey::from_ec_der(&der);
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("a public key");
        public.common.key_id = Some("k1".to_owned());
        let public = json!({ "keys": [public] });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let issuer = format!("http://{}", listener.local_addr().expect("an address"));
        let (discovery, keys) = (json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") }), public.clone());
        let routes = axum::Router::new()
            .route("/.well-known/openid-configuration", axum::routing::get(async move || axum::Json(discovery)))
            .route("/keys", axum::routing::get(async move || axum::Json(keys)));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { issuer, key, public }
    }

    /// For `polynya`, and for who is not `audience`.
    fn sign(&self, audience: &str, claims: Value) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
        let mut all = json!({ "iss": self.issuer, "aud": [audience, "lakehouse"], "exp": now + 60 });
        for (name, value) in claims.as_object().expect("claims") {
            all[name] = value.clone();
        }
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &all, &self.key).expect("a token")
    }

    fn settings(&self, exchange: bool) -> String {
        format!("auth.issuers=[{{issuer: '{}', audience: [polynya], exchange: {exchange}}}]", self.issuer)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_provider_s_token_is_checked_here_and_shown_or_exchanged() {
    let lake = Lake::open(&["auth.mode=passthrough"]).await;
    let provider = Provider::start().await;
    lake.stand_in.realm(HOME).tokens.issuers.add(IssuerSetup {
        issuer: provider.issuer.clone(),
        jwks: Some(provider.public.clone()),
        audience: ["lakehouse".to_owned()].into(),
        name_claim: "sub".to_owned(),
        roles_claim: None,
    });
    for exchange in [false, true] {
        let gateway = lake.gateway(&[provider.settings(exchange)]);
        let token = provider.sign("polynya", json!({ "sub": "analyst", "large": "x".repeat(12_000) }));
        is_analyst(&gateway, &token).await;
        let session = handshake(gateway.channel().await, &format!("Bearer {token}")).await.expect("a session");
        assert!(token.len() > 16_000 && session.len() < 1000, "{} bytes for {}", session.len(), token.len());
        is_analyst(&gateway, &session).await;
        for (wrong, part) in [
            (
                provider.sign("elsewhere", json!({ "sub": "analyst" })),
                "its audience is \"elsewhere, lakehouse\", expected polynya",
            ),
            (provider.sign("polynya", json!({ "sub": "analyst", "exp": 1 })), "it expired at 1970-01-01T00:00:01Z"),
            (Provider::start().await.sign("polynya", json!({ "sub": "analyst", "iss": provider.issuer })), "signature is wrong"),
        ] {
            let refused = run(&gateway, &wrong, "SELECT 1").await.expect_err(part);
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
            assert!(refused.message().contains(part) && !refused.message().contains(&wrong), "{refused}");
        }
        let nobody = run(&gateway, &provider.sign("polynya", json!({ "sub": "nobody" })), "SELECT 1").await;
        assert_eq!(nobody.expect_err("no principal of the catalog").code(), Code::Unauthenticated);
    }
    assert_eq!(lake.tokens("analyst"), 1, "one exchange");
}

/// Roles that are seen by the catalog as `analyst` and as `engineer`.
fn roles(lake: &Lake) -> Vec<String> {
    let role = |role: &str, principal: &str| {
        let (id, secret) = lake.credentials(principal);
        format!("roles.{role}.catalogs.rest.credentials={{type: oauth2, client_id: {id}, client_secret: {secret}}}")
    };
    vec![role("reader", "analyst"), role("writer", "engineer")]
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_mapped_to_roles_and_the_catalog_sees_the_role_s_principal() {
    let lake = Lake::open(&["auth.mode=mapped"]).await;
    let provider = Provider::start().await;
    let mut set = roles(&lake);
    set.push(provider.settings(false));
    set.push(
        "auth.mappings=[{claim: groups, value: data-*, role: writer}, {claim: realm_access.roles, value: bi, role: reader}]"
            .to_owned(),
    );
    let gateway = lake.gateway(&set);
    let with = |claims: Value| provider.sign("polynya", claims);
    is_analyst(&gateway, &with(json!({ "sub": "ada", "realm_access": { "roles": ["x", "bi"] } }))).await;
    let writer = with(json!({ "sub": "bob", "groups": ["data-platform"] }));
    assert_eq!(run(&gateway, &writer, "SELECT n FROM rest.silver.t").await.expect("silver"), "8");
    let refused = run(&gateway, &with(json!({ "sub": "eve", "groups": "sales" })), "SELECT 1").await.expect_err("no role");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("nothing in auth.mappings fits the token of \"eve\""), "{refused}");
    let both = run(&gateway, &writer, "SELECT count(*) FROM lake.information_schema.tables").await.expect_err("not of the role");
    assert!(matches!(both.code(), Code::NotFound | Code::PermissionDenied | Code::InvalidArgument), "{both}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_changed_with_what_a_role_reads_with() {
    let lake = Lake::open(&["auth.mode=mapped"]).await;
    let provider = Provider::start().await;
    let of = |principal: &str| {
        let (id, secret) = lake.credentials(principal);
        format!("{{type: oauth2, client_id: {id}, client_secret: {secret}}}")
    };
    let gateway = lake.gateway(&[
        format!("roles.loader.catalogs.rest={{credentials: {}, reader_credentials: {}}}", of("engineer"), of("analyst")),
        provider.settings(false),
        "auth.mappings=[{claim: sub, value: ada, role: loader}]".to_owned(),
    ]);
    let ada = provider.sign("polynya", json!({ "sub": "ada" }));
    query(&mut with_token(&gateway, &ada).await, "USE rest.gold").await.expect("a schema");
    assert_eq!((lake.tokens("analyst"), lake.tokens("engineer")), (1, 0));
    // So is the past read.
    for sql in [
        "SELECT n FROM rest.gold.t AT (VERSION => 'main')",
        "FROM table_files('rest.gold.t')",
        "FROM table_history('rest.gold.t')",
    ] {
        query(&mut with_token(&gateway, &ada).await, sql).await.expect(sql);
        let denied = query(&mut with_token(&gateway, &ada).await, &sql.replace("gold", "silver")).await.expect_err("no grant");
        assert!(denied.message().contains("\"analyst\" lacks TABLE_READ_DATA"), "{denied}");
    }
    assert_eq!((lake.tokens("analyst"), lake.tokens("engineer")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_alone_logs_in_and_its_session_is_its_own() {
    let lake = Lake::open(&["auth.mode=mapped"]).await;
    let (authority, clients, files) = (Authority::new("servers"), Authority::new("clients"), Files::new());
    let [cert, key] = files.certified("server", &authority.server("first"));
    let mut set = roles(&lake);
    set.extend([
        format!("flight.tls.cert_file={cert}"),
        format!("flight.tls.key_file={key}"),
        "flight.tls.client_certificates=optional".to_owned(),
        format!("flight.tls.client_ca_file={}", files.write("clients.crt", &clients.pem)),
        "auth.mappings=[{certificate: CN=etl, role: writer}, {certificate: 'DNS:bi.example.com', role: reader}]".to_owned(),
    ]);
    let gateway = Arc::new(lake.gateway(&set));
    let client = async |shown: Option<&crate::pki::Certified>| {
        let channel = gateway.tls_channel(trusting(&authority, shown)).await.expect("a connection");
        arrow_flight::sql::client::FlightSqlServiceClient::new(channel)
    };
    let (etl, bi, eve) = (clients.client("etl"), clients.client("bi"), clients.client("eve"));
    assert!(query(&mut client(Some(&etl)).await, "SELECT n FROM rest.silver.t").await.is_ok());
    let denied = query(&mut client(Some(&bi)).await, "SELECT n FROM rest.silver.t").await.expect_err("no grant");
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    let refused = query(&mut client(Some(&eve)).await, "SELECT 1").await.expect_err("no role");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(query(&mut client(None).await, "SELECT 1").await.expect_err("nothing shown").code(), Code::Unauthenticated);

    // Its session token is worth nothing to who does not hold the certificate.
    let channel = gateway.tls_channel(trusting(&authority, Some(&etl))).await.expect("a connection");
    let mut raw = arrow_flight::flight_service_client::FlightServiceClient::new(channel);
    let mut answer = raw.handshake(futures::stream::empty()).await.expect("a session").into_inner();
    let token = answer.message().await.expect("an answer").expect("a token").payload;
    let token = String::from_utf8(token.to_vec()).expect("a text");
    for (shown, works) in [(Some(&etl), true), (Some(&bi), false), (None, false)] {
        let mut client = client(shown).await;
        client.set_token(token.clone());
        let outcome = client.execute("SELECT n FROM rest.silver.t".to_owned(), None).await.map_err(status);
        assert_eq!(outcome.is_ok(), works, "{outcome:?}");
    }
}
