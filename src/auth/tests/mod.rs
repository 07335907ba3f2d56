//! Who is let in, in each mode, and who is let in again by a sealed session token.

pub mod catalog;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::certificate::PeerCertificate;
use super::config::{Config, Mode, User};
use super::credential::Own;
use super::*;
use crate::error::{Explain, Kind};
use crate::secret::{ExposeSecret, SecretRef};
use catalog::Catalog;

/// argon2id of a password, as cheap as it gets.
pub fn hash(password: &str) -> SecretRef {
    use argon2::password_hash::{PasswordHasher, SaltString};
    let params = argon2::Params::new(64, 1, 1, None).unwrap();
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let salt = SaltString::encode_b64(b"0123456789abcdef").unwrap();
    SecretRef::Text(argon2.hash_password(password.as_bytes(), &salt).unwrap().to_string().into())
}

/// The section with this mode, the user `ada` of the password `geheim`, a key, and these mappings.
pub fn config(mode: Mode, mappings: Value) -> Config {
    let users = vec![User { name: "ada".to_owned(), password_hash: hash("geheim") }];
    let key = Some(SecretRef::Text("5a".repeat(32).into()));
    Config { mode, users, key, mappings: serde_json::from_value(mappings).unwrap(), ..Config::default() }
}

/// A token of the catalog's own: its signature is nobody's business here.
pub fn own_token(claims: Value) -> String {
    let encoded = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("{}.{encoded}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#))
}

pub fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

fn authenticator(config: &Config, catalog: &Arc<Catalog>) -> Authenticator {
    config.validate("127.0.0.1:1".parse().unwrap(), false).unwrap();
    Authenticator::new(config, catalog.clone()).unwrap()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

async fn login(auth: &Authenticator, header: &str) -> Result<Principal, AuthError> {
    let address = Some("10.0.0.1".parse().unwrap());
    auth.login(Caller { authorization: Some(header), address, ..Caller::default() }).await
}

/// Who somebody is after a restart with the same key.
fn again(config: &Config, principal: &Principal, before: &Authenticator) -> Result<Principal, AuthError> {
    authenticator(config, &Catalog::knowing(&[])).restore(&before.keep(principal))
}

#[tokio::test]
async fn with_mode_none_everybody_is_anonymous() {
    let auth = authenticator(&Config::default(), &Catalog::knowing(&[]));
    for authorization in [None, Some("Basic YW5hOmE="), Some("Bearer x"), Some("nonsense")] {
        let caller = Caller { authorization, ..Caller::default() };
        assert_eq!(auth.login(caller).await.unwrap(), Principal::service("anonymous"));
    }
}

#[tokio::test]
async fn a_polaris_log_in_is_proven_by_the_catalog_and_then_remembered() {
    let (catalog, config) = (Catalog::knowing(&["id:s:e:c"]), config(Mode::Polaris, json!([])));
    let auth = authenticator(&config, &catalog);
    let principal = login(&auth, &basic("id", "s:e:c")).await.unwrap();
    let Own::Client { client_id, client_secret, realm } = principal.credential.own() else { panic!() };
    assert_eq!((client_id.as_str(), client_secret.expose_secret(), realm.as_str()), ("id", "s:e:c", catalog::REALM));
    assert_eq!(login(&auth, &basic("id", "s:e:c")).await.unwrap(), principal);
    assert_eq!(catalog.asked(), 1);
    let refused = login(&auth, &basic("id", "planted")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unauthenticated);
    assert!(refused.to_string().contains("it is not known (realm lakehouse)"), "{refused}");
    assert_eq!(catalog.asked(), 1);
    let long = login(&auth, &basic("id", &"x".repeat(1025))).await.unwrap_err();
    assert_eq!((long, catalog.asked()), (AuthError::Rejected, 0));
}

#[tokio::test]
async fn with_nothing_remembered_a_changed_secret_counts_at_once() {
    let catalog = Catalog::knowing(&["id:old"]);
    let auth = authenticator(&Config { remember_logins: Duration::ZERO, ..config(Mode::Polaris, json!([])) }, &catalog);
    login(&auth, &basic("id", "old")).await.unwrap();
    catalog.knows.lock().unwrap().clear();
    assert!(login(&auth, &basic("id", "old")).await.is_err());
    assert_eq!(catalog.asked(), 2);
}

#[tokio::test]
async fn a_catalog_that_does_not_answer_says_nothing_of_the_caller() {
    let catalog = Catalog::knowing(&["id:s"]);
    let auth = authenticator(&config(Mode::Polaris, json!([])), &catalog);
    catalog.down.store(true, Ordering::Relaxed);
    for _ in 0..20 {
        assert_eq!(login(&auth, &basic("id", "s")).await.unwrap_err().kind(), Kind::Unavailable);
    }
    catalog.down.store(false, Ordering::Relaxed);
    login(&auth, &basic("id", "s")).await.unwrap();
}

#[tokio::test]
async fn who_guesses_a_client_s_secret_stops_being_asked_about() {
    let catalog = Catalog::knowing(&["id:s"]);
    let auth = authenticator(&config(Mode::Polaris, json!([])), &catalog);
    for n in 0..20 {
        login(&auth, &basic("id", &n.to_string())).await.unwrap_err();
    }
    assert_eq!(catalog.asked(), 5);
    let refused = login(&auth, &basic("id", "s")).await.unwrap_err();
    assert!(matches!(refused.kind(), Kind::ResourceExhausted(Some(_))), "{refused}");
    let elsewhere = Some("10.0.0.2".parse().unwrap());
    let header = basic("id", "s");
    assert!(auth.login(Caller { authorization: Some(&header), address: elsewhere, ..Caller::default() }).await.is_ok());
}

#[tokio::test]
async fn a_connection_goes_on_for_a_grace_while_the_catalog_is_down() {
    let catalog = Catalog::knowing(&["id:s"]);
    let config =
        Config { remember_logins: Duration::ZERO, login_grace: Duration::from_secs(2), ..config(Mode::Polaris, json!([])) };
    let auth = authenticator(&config, &catalog);
    let (here, other, header) = (Recognised::default(), Recognised::default(), basic("id", "s"));
    let on = |recognised| auth.login(Caller { authorization: Some(&header), recognised: Some(recognised), ..Caller::default() });
    let principal = on(&here).await.unwrap();
    catalog.down.store(true, Ordering::Relaxed);
    assert_eq!(on(&here).await.unwrap(), principal);
    assert_eq!(on(&other).await.unwrap_err().kind(), Kind::Unavailable, "another connection has shown nothing");
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(on(&here).await.unwrap_err().kind(), Kind::Unavailable);
    catalog.down.store(false, Ordering::Relaxed);
    on(&here).await.unwrap();
    catalog.knows.lock().unwrap().clear();
    assert_eq!(on(&here).await.unwrap_err().kind(), Kind::Unauthenticated);
    catalog.down.store(true, Ordering::Relaxed);
    assert_eq!(on(&here).await.unwrap_err().kind(), Kind::Unavailable, "what was refused is not gone on with");
}

#[tokio::test]
async fn refused_log_ins_cannot_fill_the_log() {
    #[derive(Clone, Default)]
    struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let log = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(move || log.clone()).finish();
    let _during = tracing::subscriber::set_default(subscriber);
    let auth = authenticator(&config(Mode::Users, json!([])), &Catalog::knowing(&[]));
    for n in 0..60 {
        login(&auth, &basic(&format!("{n}{}", "x".repeat(40_000)), "wrong")).await.unwrap_err();
    }
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.matches("log-in refused").count(), 20);
    assert!(text.len() < 20_000, "{} bytes", text.len());
}

#[tokio::test]
async fn a_token_of_the_catalog_s_own_is_believed_once_the_catalog_has_taken_it() {
    let good = own_token(json!({ "sub": "ada", "scope": "ALL", "exp": in_seconds(60) }));
    let catalog = Catalog::knowing(&[&good, "opaque"]);
    for mode in [Mode::Polaris, Mode::Passthrough] {
        let auth = authenticator(&config(mode, json!([])), &catalog);
        let ada = login(&auth, &bearer(&good)).await.unwrap();
        assert_eq!(ada.name.as_str(), "ada");
        assert!(ada.expires.is_some());
        login(&auth, &bearer(&good)).await.unwrap();
        assert_eq!(catalog.asked(), 2, "once with a made-up token, and once with this one");
        // A forged one of the same claims that lives longer must not become what the catalog is shown for ada.
        let forged = own_token(json!({ "sub": "ada", "scope": "ALL", "exp": in_seconds(6000) }));
        login(&auth, &bearer(&forged)).await.unwrap_err();
        let Own::Token { current, .. } = ada.credential.own() else { panic!() };
        assert_eq!(current.get().secret.expose_secret(), good);
        let opaque = login(&auth, &bearer("opaque")).await.unwrap();
        assert!(opaque.name.as_str().starts_with("token ") && opaque.expires.is_none(), "{opaque:?}");
        catalog.asked();
    }
}

#[tokio::test]
async fn a_token_is_not_believed_of_a_catalog_that_answers_anybody() {
    let forged = own_token(json!({ "sub": "root", "exp": in_seconds(60) }));
    let catalog = Catalog::knowing(&["ada:s", &forged]);
    let auth = authenticator(&config(Mode::Polaris, json!([])), &catalog);
    catalog.open.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let refused = login(&auth, &bearer(&forged)).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unauthenticated);
        assert!(refused.to_string().contains("whatever token it is shown"), "{refused}");
    }
    catalog.down.store(true, Ordering::Relaxed);
    assert_eq!(login(&auth, &bearer(&forged)).await.unwrap_err().kind(), Kind::Unavailable);
    catalog.down.store(false, Ordering::Relaxed);
    catalog.open.store(false, Ordering::Relaxed);
    login(&auth, &bearer(&forged)).await.expect("it looks at tokens now, and takes this one");
}

#[tokio::test]
async fn passthrough_takes_tokens_only_and_users_no_tokens() {
    let catalog = Catalog::knowing(&["ada:geheim"]);
    let auth = authenticator(&config(Mode::Passthrough, json!([])), &catalog);
    let refused = login(&auth, &basic("ada", "geheim")).await.unwrap_err();
    assert!(refused.to_string().contains("bearer tokens only"), "{refused}");
    let auth = authenticator(&config(Mode::Users, json!([])), &catalog);
    assert_eq!(login(&auth, &bearer("x")).await.unwrap_err(), AuthError::ForeignToken);
    assert_eq!(catalog.asked(), 0);
    let nothing = auth.login(Caller::default()).await.unwrap_err();
    assert!(nothing.to_string().starts_with("log in with user name and password"), "{nothing}");
}

#[tokio::test]
async fn in_mapped_mode_a_user_has_its_role_and_whom_nothing_fits_is_told_so() {
    let mut config = config(Mode::Mapped, json!([{ "user": "ada", "role": "analyst" }]));
    config.users.push(User { name: "bob".to_owned(), password_hash: hash("geheim") });
    let auth = authenticator(&config, &Catalog::knowing(&[]));
    let ada = login(&auth, &basic("ada", "geheim")).await.unwrap();
    assert_eq!(ada.credential.role().unwrap().as_str(), "analyst");
    assert!(matches!(ada.credential.own(), Own::Nothing));
    let refused = login(&auth, &basic("bob", "geheim")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::PermissionDenied);
    assert!(refused.to_string().contains("auth.mappings fits user \"bob\""), "{refused}");
    assert_eq!(login(&auth, &basic("bob", "wrong")).await.unwrap_err(), AuthError::Rejected);
}

#[tokio::test]
async fn a_mapping_gives_a_polaris_login_a_role_besides() {
    let catalog = Catalog::knowing(&["ada:s", "bob:s"]);
    let auth = authenticator(&config(Mode::Polaris, json!([{ "user": "ada", "role": "archive" }])), &catalog);
    let ada = login(&auth, &basic("ada", "s")).await.unwrap();
    assert_eq!(ada.credential.role().unwrap().as_str(), "archive");
    assert_eq!(login(&auth, &basic("bob", "s")).await.unwrap().credential.role(), None);
}

fn certificate(subject: &str, not_after: SystemTime) -> Arc<PeerCertificate> {
    let names = vec!["DNS:etl.example.com".to_owned()];
    Arc::new(PeerCertificate { subject: subject.to_owned(), names, fingerprint: "00".to_owned(), not_after })
}

#[tokio::test]
async fn a_certificate_alone_logs_in_where_nothing_else_is_sent() {
    let mappings = json!([{ "certificate": "CN=etl,O=Example", "role": "etl" }, { "user": "ada", "role": "analyst" }]);
    let auth = authenticator(&config(Mode::Mapped, mappings), &Catalog::knowing(&[]));
    let hour = SystemTime::now() + Duration::from_secs(3600);
    let (etl, other) = (certificate("CN=etl,O=Example", hour), certificate("CN=x", hour));
    let with = |authorization, certificate| Caller { authorization, certificate: Some(certificate), ..Caller::default() };
    let principal = auth.login(with(None, &etl)).await.unwrap();
    assert_eq!((principal.name.as_str(), principal.expires), ("CN=etl,O=Example", Some(hour)));
    assert_eq!(principal.credential.role().unwrap().as_str(), "etl");
    let ada = basic("ada", "geheim");
    let principal = auth.login(with(Some(&ada), &etl)).await.unwrap();
    assert_eq!(principal.credential.role().unwrap().as_str(), "analyst", "what is sent counts");
    let refused = auth.login(with(None, &other)).await.unwrap_err();
    assert!(refused.to_string().contains("the certificate of \"CN=x\""), "{refused}");
    let wrong = basic("ada", "wrong");
    assert!(auth.login(with(Some(&wrong), &etl)).await.is_err(), "a certificate is no way round a wrong password");
}

#[tokio::test]
async fn principals_are_made_again_from_what_was_kept_without_asking_anybody() {
    let token = own_token(json!({ "sub": "ada", "exp": in_seconds(60) }));
    let catalog = Catalog::knowing(&["id:s", &token, "opaque"]);
    let polaris = config(Mode::Polaris, json!([{ "user": "id", "role": "r" }]));
    let auth = authenticator(&polaris, &catalog);
    for header in [basic("id", "s"), bearer(&token), bearer("opaque")] {
        let principal = login(&auth, &header).await.unwrap();
        let restored = again(&polaris, &principal, &auth).unwrap();
        assert_eq!((&restored.name, restored.credential.role()), (&principal.name, principal.credential.role()));
        let until = |at: Option<SystemTime>| at.map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(until(restored.expires), until(principal.expires));
        match (restored.credential.own(), principal.credential.own()) {
            (Own::Client { client_secret: a, .. }, Own::Client { client_secret: b, .. }) => {
                assert_eq!(a.expose_secret(), b.expose_secret());
            }
            (Own::Token { current: a, .. }, Own::Token { current: b, .. }) => {
                assert_eq!(a.get().secret.expose_secret(), b.get().secret.expose_secret());
            }
            _ => panic!("another kind"),
        }
    }
}

#[tokio::test]
async fn whom_the_config_does_not_know_any_more_is_not_made_again() {
    let mapped = config(Mode::Mapped, json!([{ "user": "ada", "role": "r" }, { "certificate": "CN=etl", "role": "r" }]));
    let auth = authenticator(&mapped, &Catalog::knowing(&[]));
    let ada = login(&auth, &basic("ada", "geheim")).await.unwrap();
    let etl = certificate("CN=etl", SystemTime::now() + Duration::from_secs(60));
    let etl = auth.login(Caller { certificate: Some(&etl), ..Caller::default() }).await.unwrap();
    assert_eq!(again(&mapped, &ada, &auth).unwrap().credential.role().unwrap().as_str(), "r");
    assert_eq!(again(&mapped, &etl, &auth).unwrap().credential.role().unwrap().as_str(), "r");
    let text = |config: &Config, principal| again(config, principal, &auth).unwrap_err().to_string();
    let users = config(Mode::Users, json!([]));
    assert!(text(&users, &ada).contains("auth.mode"));
    let bob = User { name: "bob".to_owned(), password_hash: hash("x") };
    let without =
        Config { users: vec![bob], mappings: config(Mode::Mapped, json!([{ "any": true, "role": "r" }])).mappings, ..mapped };
    assert!(text(&without, &ada).contains("auth.users"));
    let unmapped = config(Mode::Mapped, json!([{ "certificate": "CN=other", "role": "r" }]));
    assert!(text(&unmapped, &ada).contains("auth.mappings fits user \"ada\""));
    assert!(text(&unmapped, &etl).contains("the certificate of \"CN=etl\""));
    assert!(auth.restore(b"nonsense").is_err());
    let mut changed = config(Mode::Mapped, json!([{ "user": "ada", "role": "r" }]));
    changed.users[0].password_hash = hash("another");
    assert!(text(&changed, &ada).contains("another password"));
}

#[tokio::test]
async fn a_token_that_one_realm_has_taken_is_not_shown_to_another_after_a_restart() {
    let token = own_token(json!({ "sub": "ada", "exp": in_seconds(60) }));
    let known = [token.as_str(), "id:s"];
    let (before, moved) = (Catalog::knowing(&known), Catalog::of_realm("elsewhere", &known));
    let config = config(Mode::Polaris, json!([]));
    let (auth, after) = (authenticator(&config, &before), authenticator(&config, &moved));
    for header in [bearer(&token), basic("id", "s")] {
        let kept = auth.keep(&login(&auth, &header).await.unwrap());
        assert!(auth.restore(&kept).is_ok());
        let refused = after.restore(&kept).unwrap_err().to_string();
        assert!(refused.contains("auth.realm"), "{refused}");
    }
}

#[test]
fn schemes_are_read_in_any_case() {
    assert!(matches!(Credentials::parse("basic YW5hOmE"), Ok(Credentials::Basic { user, .. }) if user == "ana"));
    assert!(matches!(Credentials::parse("BEARER t"), Ok(Credentials::Bearer(_))));
    for wrong in ["", "Basic", "Basic %", "Digest x", "Bearer"] {
        assert!(matches!(Credentials::parse(wrong), Err(AuthError::Malformed)), "{wrong}");
    }
}

#[test]
fn no_secret_is_in_a_principal_s_debug_text() {
    let token = SecretString::from("planted");
    let proof = Proof::Token { issuer: None, token };
    assert!(!format!("{:?}", Principal { proof, ..Principal::service("ada") }).contains("planted"));
}
