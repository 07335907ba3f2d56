//! Tokens against an identity provider that answers over a real socket, changes its keys and breaks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures::FutureExt as _;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::auth::config::Mode;
use crate::auth::credential::Own;
use crate::auth::tests::catalog::Catalog;
use crate::auth::tests::{config, in_seconds};
use crate::auth::{Authenticator, Caller};
use crate::secret::ExposeSecret;

/// One key of the provider.
struct Signer {
    id: String,
    key: EncodingKey,
    /// Of an Ed25519 key, for which the library makes no JWK.
    point: Vec<u8>,
    algorithm: Algorithm,
}

impl Signer {
    fn new(id: &str, algorithm: Algorithm) -> Self {
        let kind = match algorithm {
            Algorithm::EdDSA => &rcgen::PKCS_ED25519,
            Algorithm::ES384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            _ => &rcgen::PKCS_ECDSA_P256_SHA256,
        };
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        let (der, point) = (pair.serialize_der(), pair.public_key_raw().to_vec());
        let key = if algorithm == Algorithm::EdDSA { EncodingKey::from_ed_der(&der) } else { EncodingKey::from_ec_der(&der) };
        Self { id: id.to_owned(), key, point, algorithm }
    }

    fn public(&self) -> Value {
        if self.algorithm == Algorithm::EdDSA {
            return json!({ "kty": "OKP", "crv": "Ed25519", "x": BASE64_URL_SAFE_NO_PAD.encode(&self.point), "kid": self.id });
        }
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

/// How the provider answers.
#[derive(Clone)]
enum Answer {
    Keys(Vec<Value>),
    Text(String),
    Status(&'static str),
    /// To another server.
    Away(String),
    Silence,
}

/// An identity provider on a port of its own.
struct Provider {
    uri: String,
    answer: Arc<Mutex<Answer>>,
    asked_for_keys: Arc<AtomicUsize>,
}

impl Provider {
    async fn start(keys: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(Answer::Keys(keys.iter().map(|key| key.public()).collect())));
        let provider = Self { uri: uri.clone(), answer: Arc::clone(&answer), asked_for_keys: Arc::default() };
        let asked = Arc::clone(&provider.asked_for_keys);
        tokio::spawn(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let (uri, answer, asked) = (uri.clone(), Arc::clone(&answer), Arc::clone(&asked));
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let len = io.read(&mut request).await.unwrap_or_default();
                    let discovery = request[..len].starts_with(b"GET /.well-known/openid-configuration ");
                    if !discovery {
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    let answer = answer.lock().unwrap().clone();
                    let (status, extra, body) = match answer {
                        Answer::Silence => return tokio::time::sleep(Duration::from_secs(60)).await,
                        Answer::Status(status) => (status, String::new(), String::new()),
                        Answer::Away(to) => ("302 Found", format!("location: {to}\r\n"), String::new()),
                        Answer::Text(text) => ("200 OK", String::new(), text),
                        Answer::Keys(_) if discovery => {
                            let document = json!({ "issuer": uri, "jwks_uri": format!("{uri}/keys") });
                            ("200 OK", String::new(), document.to_string())
                        }
                        Answer::Keys(keys) => ("200 OK", String::new(), json!({ "keys": keys }).to_string()),
                    };
                    let head = format!("HTTP/1.1 {status}\r\n{extra}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    let _ = io.write_all(head.as_bytes()).await;
                    let _ = io.write_all(body.as_bytes()).await;
                });
            }
        });
        provider
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn has(&self, keys: &[&Signer]) {
        self.answers(Answer::Keys(keys.iter().map(|key| key.public()).collect()));
    }

    fn asked(&self) -> usize {
        self.asked_for_keys.swap(0, Ordering::Relaxed)
    }

    fn config(&self) -> IssuerConfig {
        let audience = vec!["polynya".to_owned()];
        IssuerConfig { issuer: self.uri.clone(), audience, timeout: Duration::from_secs(20), ..IssuerConfig::default() }
    }

    fn issuers(&self, config: IssuerConfig) -> Issuers {
        Issuers::new(&Config { issuers: vec![config], ..Config::default() }).unwrap()
    }

    /// What a good token says.
    fn claims(&self) -> Value {
        json!({ "iss": self.uri, "aud": "polynya", "sub": "ada", "exp": in_seconds(60), "iat": in_seconds(-1), "groups": ["a"] })
    }
}

async fn verify(issuers: &Issuers, token: &str) -> Result<Verified, AuthError> {
    issuers.verify(token, SystemTime::now()).await
}

/// Keys that may be asked for again at once.
fn eager(provider: &Provider, config: IssuerConfig) -> Issuers {
    let mut issuers = provider.issuers(config);
    issuers.0[0].keys.fetch_every = Duration::ZERO;
    issuers
}

#[tokio::test]
async fn a_token_of_the_issuer_is_taken_and_says_who_it_is() {
    for algorithm in [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA] {
        let signer = Signer::new("one", algorithm);
        let provider = Provider::start(&[&Signer::new("other", algorithm), &signer]).await;
        let issuers = provider.issuers(provider.config());
        let token = signer.sign(&provider.claims());
        assert!(issuers.claim_to_have_made(&token));
        let verified = verify(&issuers, &token).await.unwrap();
        assert_eq!((verified.name.as_str(), verified.issuer.as_str()), ("ada", provider.uri.as_str()));
        assert_eq!(verified.claims["groups"], json!(["a"]));
        assert_eq!(verified.taken_until, verified.expires + Duration::from_secs(30));
        assert!(verified.good_for > Duration::from_secs(80), "{:?}", verified.good_for);
        verify(&issuers, &token).await.unwrap();
        assert_eq!(provider.asked(), 1);
    }
}

#[tokio::test]
async fn each_check_that_fails_says_which_it_was_and_never_shows_the_token() {
    let signer = Signer::new("one", Algorithm::ES256);
    let provider = Provider::start(&[&signer]).await;
    let issuers = provider.issuers(provider.config());
    let with = |name: &str, value: Value| {
        let mut claims = provider.claims();
        claims[name] = value;
        signer.sign(&claims)
    };
    let without = |name: &str| {
        let mut claims = provider.claims();
        claims.as_object_mut().unwrap().remove(name);
        signer.sign(&claims)
    };
    let good = with("sub", json!("ada"));
    let (head, rest) = good.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let forged = signer.sign(&json!({ "iss": provider.uri, "sub": "root" }));
    let header = |text: Value| BASE64_URL_SAFE_NO_PAD.encode(text.to_string());
    let shared = {
        let key = EncodingKey::from_secret(provider.claims().to_string().as_bytes());
        let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &provider.claims(), &key).unwrap()
    };
    let cases = [
        (with("exp", json!(in_seconds(-31))), "it expired at 20"),
        (with("nbf", json!(in_seconds(40))), "it is not valid before 20"),
        (with("iat", json!(in_seconds(40))), "(iat); is a clock wrong?"),
        (with("aud", json!("another")), "its audience is \"another\", expected polynya"),
        (with("aud", json!(["a", "b"])), "its audience is \"a, b\", expected polynya"),
        (without("aud"), "its audience is missing, expected polynya"),
        (without("exp"), "its claim exp is missing"),
        (with("exp", json!("soon")), "its claim exp is missing or not of its type"),
        (without("sub"), "its claim sub is missing"),
        (with("sub", json!("a\nb")), "its claim sub is missing or not"),
        (with("iss", json!("https://elsewhere")), "its issuer \"https://elsewhere\" is not one of auth.issuers: http://127"),
        (without("iss"), "its issuer \"\" is not one of"),
        (shared, "its algorithm \"HS256\" is not one of: RS256"),
        (format!("{}.{payload}.", header(json!({ "alg": "none" }))), "its algorithm \"none\" is not one of"),
        (format!("{}.{payload}.{signature}", header(json!({ "alg": "ES256", "kid": "one", "crit": ["x"] }))), "(crit)"),
        (format!("{}.{payload}.{signature}", header(json!({ "alg": "ES256", "kid": "two" }))), "its key \"two\" is not one of"),
        (format!("{head}.{}.{signature}", forged.split('.').nth(1).unwrap()), "its signature is wrong"),
        (format!("{head}.{payload}.{}", forged.rsplit('.').next().unwrap()), "its signature is wrong"),
        (format!("{head}.{payload}."), "its signature is wrong"),
        (Signer::new("one", Algorithm::ES256).sign(&provider.claims()), "its signature is wrong"),
        ("opaque".to_owned(), "it is not a JSON Web Token"),
    ];
    for (token, expected) in cases {
        let text = verify(&issuers, &token).await.unwrap_err().to_string();
        assert!(text.contains(expected), "expected {expected:?}, got {text}");
        assert!(token.split('.').filter(|part| part.len() > 20).all(|part| !text.contains(part)), "{text}");
    }
    verify(&issuers, &good).await.unwrap();
}

#[tokio::test]
async fn clocks_may_differ_by_the_configured_skew() {
    let signer = Signer::new("one", Algorithm::ES256);
    let provider = Provider::start(&[&signer]).await;
    let strict = provider.issuers(IssuerConfig { clock_skew: Duration::ZERO, ..provider.config() });
    let lax = provider.issuers(provider.config());
    for (claim, seconds) in [("exp", -20), ("nbf", 20), ("iat", 20)] {
        let mut claims = provider.claims();
        claims[claim] = json!(in_seconds(seconds));
        let token = signer.sign(&claims);
        verify(&lax, &token).await.unwrap();
        assert!(verify(&strict, &token).await.is_err(), "{claim}");
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_and_a_withdrawn_one_is_gone() {
    let (old, new) = (Signer::new("old", Algorithm::ES256), Signer::new("new", Algorithm::ES256));
    let provider = Provider::start(&[&old]).await;
    let issuers = eager(&provider, provider.config());
    verify(&issuers, &old.sign(&provider.claims())).await.unwrap();
    provider.has(&[&new]);
    verify(&issuers, &old.sign(&provider.claims())).await.unwrap();
    verify(&issuers, &new.sign(&provider.claims())).await.unwrap();
    let text = verify(&issuers, &old.sign(&provider.claims())).await.unwrap_err().to_string();
    assert!(text.contains("its key \"old\" is not one of the keys of"), "{text}");
}

#[tokio::test]
async fn keys_are_fetched_again_after_a_while_so_that_withdrawn_ones_go() {
    let (old, new) = (Signer::new("old", Algorithm::ES256), Signer::new("new", Algorithm::ES256));
    let provider = Provider::start(&[&old]).await;
    let issuers = eager(&provider, IssuerConfig { refresh: Duration::from_millis(200), ..provider.config() });
    let token = old.sign(&provider.claims());
    assert_eq!(verify(&issuers, &token).await.unwrap().good_for, Duration::from_millis(200), "looked at again by then");
    provider.has(&[&new]);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(verify(&issuers, &token).await.is_err());
}

#[tokio::test]
async fn unknown_keys_have_the_keys_fetched_only_now_and_then_and_once_for_many() {
    let signer = Signer::new("one", Algorithm::ES256);
    let provider = Provider::start(&[&signer]).await;
    let mut issuers = provider.issuers(provider.config());
    assert_eq!(issuers.0[0].keys.fetch_every, Duration::from_secs(10));
    // Twenty strangers may take longer than that on a busy machine.
    issuers.0[0].keys.fetch_every = Duration::from_secs(3600);
    let token = signer.sign(&provider.claims());
    let many = futures::future::join_all((0..50).map(|_| verify(&issuers, &token))).await;
    assert!(many.iter().all(Result::is_ok));
    assert_eq!(provider.asked(), 1);
    for n in 0..20 {
        let stranger = Signer::new(&n.to_string(), Algorithm::ES256).sign(&provider.claims());
        assert!(matches!(verify(&issuers, &stranger).await, Err(AuthError::Token(TokenFault::UnknownKey { .. }))));
    }
    assert_eq!(provider.asked(), 0, "within that time");
}

#[tokio::test]
async fn who_goes_away_at_once_takes_no_fetch_along() {
    let (old, new) = (Signer::new("old", Algorithm::ES256), Signer::new("new", Algorithm::ES256));
    let provider = Provider::start(&[&old]).await;
    let issuers = provider.issuers(provider.config());
    let (stranger, token) = (Signer::new("none", Algorithm::ES256).sign(&provider.claims()), new.sign(&provider.claims()));
    assert!(verify(&issuers, &stranger).now_or_never().is_none(), "nothing was known");
    verify(&issuers, &old.sign(&provider.claims())).await.unwrap();
    provider.has(&[&old, &new]);
    let mut issuers = issuers;
    issuers.0[0].keys.fetch_every = Duration::from_millis(10);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(verify(&issuers, &stranger).now_or_never().is_none());
    issuers.0[0].keys.fetch_every = Duration::from_secs(3600);
    verify(&issuers, &token).await.unwrap();
}

#[tokio::test]
async fn a_token_of_an_issuer_waits_for_nobody_at_its_address_who_guesses() {
    use crate::auth::config::{Mode, ThrottleConfig};
    use crate::auth::{Authenticator, Caller};
    let signer = Signer::new("a", Algorithm::ES256);
    let provider = Provider::start(&[&signer]).await;
    let hour = Duration::from_secs(3600);
    let throttle = ThrottleConfig { address_failures: 2, first_delay: hour, max_delay: hour, ..ThrottleConfig::default() };
    let mapped = crate::auth::tests::config(Mode::Mapped, json!([{ "any": true, "role": "r" }]));
    let config = Config { issuers: vec![provider.config()], throttle, ..mapped };
    let auth = Authenticator::new(&config, crate::auth::tests::catalog::Catalog::knowing(&[])).unwrap();
    let login = async |header: String| {
        let address = Some("10.0.0.1".parse().unwrap());
        auth.login(Caller { authorization: Some(&header), address, ..Caller::default() }).await
    };
    for user_and_password in ["YTph", "Yjph"] {
        assert_eq!(login(format!("Basic {user_and_password}")).await, Err(AuthError::Rejected));
    }
    assert!(matches!(login("Basic Yzph".to_owned()).await, Err(AuthError::Throttled(_))));
    let token = signer.sign(&provider.claims());
    login(format!("Bearer {token}")).await.unwrap();
    for n in 0..5 {
        let forged = Signer::new("a", Algorithm::ES256).sign(&provider.claims());
        let refused = login(format!("Bearer {forged}")).await;
        assert_eq!(refused, Err(AuthError::Token(TokenFault::Signature)), "{n}");
    }
}

#[tokio::test]
async fn an_issuer_that_is_down_is_gone_on_without_for_a_grace_and_then_is_unavailable() {
    let signer = Signer::new("one", Algorithm::ES256);
    let provider = Provider::start(&[&signer]).await;
    let refresh = Duration::from_millis(100);
    let issuers = eager(&provider, IssuerConfig { refresh, grace: Duration::from_millis(2500), ..provider.config() });
    let token = signer.sign(&provider.claims());
    verify(&issuers, &token).await.unwrap();
    provider.answers(Answer::Status("503 Service Unavailable"));
    tokio::time::sleep(Duration::from_millis(150)).await;
    verify(&issuers, &token).await.unwrap();
    let stranger = Signer::new("two", Algorithm::ES256).sign(&provider.claims());
    let unknown = verify(&issuers, &stranger).await.unwrap_err();
    assert!(matches!(unknown, AuthError::IssuerUnavailable { .. }), "nobody can tell: {unknown}");
    tokio::time::sleep(Duration::from_millis(2600)).await;
    let text = verify(&issuers, &token).await.unwrap_err().to_string();
    assert!(text.contains("the keys of http://127.0.0.1") && text.contains("503 Service Unavailable"), "{text}");
    provider.has(&[&signer]);
    tokio::time::sleep(FIRST_AGAIN).await;
    verify(&issuers, &token).await.unwrap();
}

/// After so long the keys of an issuer of which none are known are asked for again.
const FIRST_AGAIN: Duration = Duration::from_millis(1100);

#[tokio::test]
async fn answers_that_cannot_be_trusted_or_never_end_are_none() {
    let signer = Signer::new("one", Algorithm::ES256);
    let provider = Provider::start(&[&signer]).await;
    let elsewhere = Provider::start(&[&signer]).await;
    let token = signer.sign(&provider.claims());
    let other = json!({ "issuer": elsewhere.uri, "jwks_uri": format!("{}/keys", elsewhere.uri) }).to_string();
    let cases = [
        (Answer::Away(format!("{}/keys", elsewhere.uri)), "another server"),
        (Answer::Text(format!("[{}]", " ".repeat(2 << 20))), "more than 1048576 bytes"),
        (Answer::Text(other), "is the discovery document of"),
        (Answer::Text("{}".to_owned()), "did not answer as expected"),
        (Answer::Silence, "no answer"),
    ];
    for (answer, expected) in cases {
        provider.answers(answer);
        let began = std::time::Instant::now();
        let config = IssuerConfig { timeout: Duration::from_secs(1), ..provider.config() };
        let error = verify(&provider.issuers(config), &token).await.unwrap_err();
        assert!(error.to_string().contains(expected), "expected {expected:?}, got {error}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }
    assert_eq!(elsewhere.asked(), 0);
}

#[tokio::test]
async fn a_jwks_uri_needs_no_discovery_and_keys_of_other_kinds_do_no_harm() {
    let signer = Signer::new("one", Algorithm::ES256);
    let provider = Provider::start(&[]).await;
    let mut encrypts = Signer::new("two", Algorithm::ES256).public();
    encrypts["use"] = json!("enc");
    let short = json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "four" });
    let others = [json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "three" }), json!({ "kty": "new" }), json!(7), encrypts, short];
    provider.answers(Answer::Keys(others.into_iter().chain([signer.public()]).collect()));
    let config = IssuerConfig { jwks_uri: Some(format!("{}/keys", provider.uri)), ..provider.config() };
    let issuers = provider.issuers(config);
    verify(&issuers, &signer.sign(&provider.claims())).await.unwrap();
    // One that cannot be a key is none.
    let by_short = Signer::new("four", Algorithm::EdDSA);
    let refused = verify(&issuers, &by_short.sign(&provider.claims())).await.unwrap_err();
    assert!(matches!(refused, AuthError::Token(TokenFault::UnknownKey { .. })), "{refused:?}");
    // With one key of its kind a token need not name it.
    let header = Header::new(Algorithm::ES256);
    let unnamed = jsonwebtoken::encode(&header, &provider.claims(), &signer.key).unwrap();
    verify(&issuers, &unnamed).await.unwrap();
}

/// The example of RFC 7515, A.2, which is signed by RS256 and expired in 2011.
#[tokio::test]
async fn rsa_signatures_are_verified() {
    let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let provider = Provider::start(&[]).await;
    provider.answers(Answer::Keys(vec![json!({ "kty": "RSA", "n": n, "e": "AQAB" })]));
    let config = IssuerConfig { issuer: "joe".to_owned(), jwks_uri: Some(provider.uri.clone()), ..provider.config() };
    let issuers = provider.issuers(config);
    let token = format!("eyJhbGciOiJSUzI1NiJ9.{payload}.{signature}");
    let expired = verify(&issuers, &token).await.unwrap_err();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_300_819_380);
    assert_eq!(expired, AuthError::Token(TokenFault::Expired(at)), "its signature is right");
    let altered = format!("eyJhbGciOiJSUzI1NiJ9.{payload}.d{}", &signature[1..]);
    assert_eq!(verify(&issuers, &altered).await.unwrap_err(), AuthError::Token(TokenFault::Signature));
}

#[tokio::test]
async fn a_newer_token_that_the_realm_refuses_does_not_take_the_place_of_a_good_one() {
    let signer = Signer::new("one", Algorithm::ES256);
    let provider = Provider::start(&[&signer]).await;
    let token = |seconds: i64| {
        let mut claims = provider.claims();
        claims["exp"] = json!(in_seconds(seconds));
        signer.sign(&claims)
    };
    let (good, newer) = (token(600), token(6000));
    let config = Config { issuers: vec![provider.config()], ..config(Mode::Polaris, json!([])) };
    let auth = Authenticator::new(&config, Catalog::knowing(&[&good])).unwrap();
    let login = async |token: &str| {
        let header = format!("Bearer {token}");
        auth.login(Caller { authorization: Some(&header), ..Caller::default() }).await
    };
    let principal = login(&good).await.unwrap();
    assert!(matches!(login(&newer).await, Err(AuthError::Refused { .. })));
    let Own::Token { current, .. } = principal.credential.own() else { panic!() };
    assert_eq!(current.get().secret.expose_secret(), good);
}
