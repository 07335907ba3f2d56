//! The stock drivers log in as principals of the catalog in each way that their documentation has: by user and password, by a token, by
//! client credentials of OAuth2, also with tokens of 16 KB and over TLS. What each is told when it is refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::callers::{self, token_of};
use crate::harness::{Gateway, Program};
use crate::pki::{Authority, Files};
use crate::stand_in::{HOME, IssuerSetup, Setup, StandIn};

const AUDIENCE: &str = "lakehouse";

/// An identity provider: keys and tokens are had over HTTP.
#[derive(Clone)]
struct Issuer {
    uri: String,
    key: EncodingKey,
    keys: Value,
    /// Tokens given so far.
    given: Arc<AtomicUsize>,
    /// How long the next ones live.
    lifetime_s: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start() -> Self {
        let key = EncodingKey::from_ec_der(&rcgen::KeyPair::generate().expect("a key").serialize_der());
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("a public key");
        public.common.key_id = Some("k1".to_owned());
        let keys = json!({ "keys": [public] });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}", listener.local_addr().expect("an address"));
        let issuer = Self { uri: uri.clone(), key, keys: keys.clone(), given: Arc::default(), lifetime_s: Arc::new(300.into()) };
        let (discovery, giving) = (json!({ "issuer": uri, "jwks_uri": format!("{uri}/keys") }), issuer.clone());
        let routes = axum::Router::new()
            .route("/.well-known/openid-configuration", get(async move || Json(discovery)))
            .route("/keys", get(async move || Json(keys)))
            .route("/token", post(async move |headers: HeaderMap, form: String| giving.answer(&headers, &form)));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        issuer
    }

    /// By client credentials, the id being the name and the secret `<name>-password`.
    fn answer(&self, headers: &HeaderMap, form: &str) -> (StatusCode, Json<Value>) {
        let shown = headers.get("authorization").and_then(|shown| shown.to_str().ok()?.strip_prefix("Basic "));
        let shown = shown.and_then(|shown| String::from_utf8(BASE64_STANDARD.decode(shown).ok()?).ok()).unwrap_or_default();
        match shown.split_once(':') {
            Some((name, password))
                if password == format!("{name}-password") && form.contains("grant_type=client_credentials") =>
            {
                self.given.fetch_add(1, Ordering::Relaxed);
                let lifetime = self.lifetime_s.load(Ordering::Relaxed);
                let token = self.large_token(name, i64::try_from(lifetime).expect("seconds"));
                (StatusCode::OK, Json(json!({ "access_token": token, "token_type": "Bearer", "expires_in": lifetime })))
            }
            _ => (StatusCode::UNAUTHORIZED, Json(json!({ "error": "invalid_client" }))),
        }
    }

    /// A token of 16 KB that expires so many seconds from now.
    fn large_token(&self, name: &str, seconds: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
        let expires = i64::try_from(now.as_secs()).expect("a time") + seconds;
        let groups: Vec<String> = (0..400).map(|n| format!("group-{n}-of-a-large-organisation")).collect();
        let claims = json!({ "iss": self.uri, "aud": AUDIENCE, "exp": expires, "sub": name, "groups": groups });
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
        let token = jsonwebtoken::encode(&header, &claims, &self.key).expect("a token");
        assert!(token.len() > 16 << 10, "{} bytes", token.len());
        token
    }
}

/// One catalog, an identity provider that it believes, and a gateway without and one with TLS.
struct Lake {
    polaris: StandIn,
    issuer: Issuer,
    plain: Gateway,
    tls: Gateway,
    /// The authority of the one with TLS.
    ca: String,
    _files: Files,
}

const SQL: &str = "SELECT sum(v)::BIGINT FROM rest.silver.t";

impl Lake {
    async fn new(mode: &str) -> Self {
        let (polaris, issuer) = tokio::join!(StandIn::start(Setup::lakehouse()), Issuer::start());
        polaris.realm(HOME).tokens.issuers.add(IssuerSetup {
            issuer: issuer.uri.clone(),
            jwks: Some(issuer.keys.clone()),
            audience: BTreeSet::from([AUDIENCE.to_owned()]),
            name_claim: "sub".to_owned(),
            roles_claim: None,
        });
        let settings = polaris.settings("rest", "lakehouse", "engineer");
        let maker = Gateway::with(&settings.iter().map(String::as_str).collect::<Vec<_>>());
        maker.run("CREATE TABLE rest.silver.t AS SELECT 42 AS v").await;
        drop(maker);
        let (authority, files) = (Authority::new("servers"), Files::new());
        let ca = files.write("ca.crt", &authority.pem);
        let [cert, key] = files.certified("server", &authority.server("gateway"));
        let mut set = vec!["auth.allow_plaintext=true".to_owned(), "flight.handshake_timeout=2m".to_owned()];
        set.push(format!("auth.issuers=[{{issuer: '{}', audience: [{AUDIENCE}]}}]", issuer.uri));
        let plain = callers::gateway(&polaris, mode, &set);
        set.extend([format!("flight.tls.cert_file={cert}"), format!("flight.tls.key_file={key}")]);
        let tls = callers::gateway(&polaris, mode, &set);
        Self { polaris, issuer, plain, tls, ca, _files: files }
    }

    /// What came of each of these ways to log in.
    fn adbc(&self, gateway: &Gateway, ways: &[Way]) -> Vec<String> {
        let program = Program::python("adbc_login.py", gateway).env("POLYNYA_SQL", SQL);
        let program = if gateway.uri().contains("+tls") { program.env("POLYNYA_TLS_CA", &self.ca) } else { program };
        outcomes(program, ways)
    }

    fn jdbc(&self, gateway: &Gateway, ways: &[Way]) -> Vec<String> {
        let tls = gateway.uri().contains("+tls");
        let options = if tls { format!("&tlsRootCerts={}", self.ca) } else { String::new() };
        outcomes(Program::java("JdbcLogin.java", gateway, &options).env("POLYNYA_SQL", SQL), ways)
    }
}

/// The driver's options.
type Way = Vec<(&'static str, String)>;

fn outcomes(program: Program, ways: &[Way]) -> Vec<String> {
    let lines = |way: &Way| way.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n");
    let output = ways.iter().fold(program, |program, way| program.arg(lines(way))).succeed();
    let outcomes: Vec<String> = output.lines().map(str::to_owned).collect();
    assert_eq!(outcomes.len(), ways.len(), "{output}");
    outcomes
}

#[track_caller]
fn judge(outcomes: &[String], expected: &[&str]) {
    for (outcome, expected) in outcomes.iter().zip(expected) {
        let fits = match expected.split_once('\t') {
            Some(("refused", text)) => outcome.starts_with("refused\t") && outcome.contains(text),
            _ => outcome == expected,
        };
        assert!(fits, "expected {expected:?} in: {outcome}\nof all: {outcomes:#?}");
        for hidden in ["engineer-secret", "analyst-secret", "guess-secret"] {
            assert!(!outcome.contains(hidden), "{outcome}");
        }
    }
    assert_eq!(outcomes.len(), expected.len());
}

const LET_IN: &str = "in\t42";
const NO_RIGHT: &str = "refused\tprincipal \"analyst\" lacks TABLE_READ_DATA on table \"silver.t\"";
const WRONG: &str = "refused\tthe catalog refused the log-in";
const EXPIRED: &str = "refused\tthe bearer token is not accepted: it expired at ";

/// Those that both drivers have: user and password, a wrong one, tokens of the catalog and of the identity provider.
async fn common(lake: &Lake, by_password: [&'static str; 2], by_token: impl Fn(String) -> Way) -> (Vec<Way>, Vec<&'static str>) {
    let [user, password] = by_password;
    let basic = |name: &str, secret: &str| vec![(user, format!("{name}-client-id")), (password, secret.to_owned())];
    let ways = vec![
        basic("engineer", "engineer-secret"),
        basic("analyst", "analyst-secret"),
        basic("engineer", "guess-secret"),
        by_token(token_of(&lake.polaris, "engineer").await),
        by_token(token_of(&lake.polaris, "analyst").await),
        by_token(lake.issuer.large_token("engineer", 600)),
        by_token(lake.issuer.large_token("analyst", 600)),
        by_token(lake.issuer.large_token("engineer", -600)),
        by_token("made-up".to_owned()),
    ];
    (ways, vec![LET_IN, NO_RIGHT, WRONG, LET_IN, NO_RIGHT, LET_IN, NO_RIGHT, EXPIRED, WRONG])
}

/// The driver's own way with a token endpoint.
fn oauth(token_uri: String, client_id: &str, client_secret: &str) -> Way {
    vec![
        ("adbc.flight.sql.oauth.flow", "client_credentials".to_owned()),
        ("adbc.flight.sql.oauth.token_uri", token_uri),
        ("adbc.flight.sql.oauth.client_id", client_id.to_owned()),
        ("adbc.flight.sql.oauth.client_secret", client_secret.to_owned()),
        ("adbc.flight.sql.oauth.scope", "PRINCIPAL_ROLE:ALL".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_adbc_driver_logs_in_by_password_and_token() {
    let lake = Lake::new("polaris").await;
    let by_token = |token: String| vec![("adbc.flight.sql.authorization_header", format!("Bearer {token}"))];
    let (ways, expected) = common(&lake, ["username", "password"], by_token).await;
    judge(&lake.adbc(&lake.plain, &ways), &expected);
    judge(&lake.adbc(&lake.tls, &ways), &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_adbc_driver_logs_in_by_client_credentials_of_oauth2() {
    let lake = Lake::new("polaris").await;
    let endpoint = || format!("{}/token", lake.issuer.uri);
    let right = || oauth(endpoint(), "engineer", "engineer-password");
    // The driver sends such tokens over TLS only.
    judge(&lake.adbc(&lake.plain, &[right()]), &["refused\ttransport level security"]);
    let ways = [right(), oauth(endpoint(), "analyst", "analyst-password"), oauth(endpoint(), "engineer", "guess")];
    judge(&lake.adbc(&lake.tls, &ways), &[LET_IN, NO_RIGHT, "refused\tinvalid_client"]);
    // It asks once for each connection that may be, the one without TLS too, and not again when the token lapses.
    assert_eq!(lake.issuer.given.load(Ordering::Relaxed), 3);
    lake.issuer.lifetime_s.store(2, Ordering::Relaxed);
    judge(&lake.adbc(&lake.tls, &[right()]), &["refused\ttoken expired and refresh token is not set"]);

    // It leaves the scope out, without which a Polaris gives no token. There user and password do, as the gateway asks for the token.
    let polaris = oauth(format!("{}/v1/oauth/tokens", lake.polaris.uri()), "engineer-client-id", "engineer-secret");
    judge(&lake.adbc(&lake.tls, &[polaris]), &["refused\tinvalid_scope"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_jdbc_driver_logs_in_by_password_and_token() {
    let lake = Lake::new("polaris").await;
    let (ways, expected) = common(&lake, ["user", "password"], |token| vec![("token", token)]).await;
    judge(&lake.jdbc(&lake.plain, &ways), &expected);
    judge(&lake.jdbc(&lake.tls, &ways), &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn passthrough_takes_tokens_of_both_drivers_and_no_passwords() {
    let lake = Lake::new("passthrough").await;
    let token = lake.issuer.large_token("engineer", 600);
    let tokens_only = "refused\tthis gateway takes bearer tokens only";
    let basic = |user| vec![(user, "engineer-client-id".to_owned()), ("password", "engineer-secret".to_owned())];
    let header = vec![("adbc.flight.sql.authorization_header", format!("Bearer {token}"))];
    judge(&lake.adbc(&lake.plain, &[basic("username"), header]), &[tokens_only, LET_IN]);
    judge(&lake.jdbc(&lake.tls, &[basic("user"), vec![("token", token)]]), &[tokens_only, LET_IN]);
}
