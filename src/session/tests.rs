//! What sessions are found by, what ends them, and what brings them back.

use serde_json::json;

use super::*;
use crate::auth::config::{Config as AuthConfig, Mode};
use crate::auth::seal::{Purpose, Sealer};
use crate::auth::tests::catalog::Catalog;
use crate::auth::tests::{config as auth_config, in_seconds, own_token};
use crate::auth::{Caller, Credentials};
use crate::secret::SecretRef;

const TTL: Duration = Duration::from_secs(60);

fn gold() -> Defaults {
    Defaults { catalog: "lake".into(), schema: "gold".to_owned(), as_of: None }
}

fn sessions(config: Config) -> Sessions {
    let auth = Authenticator::new(&AuthConfig::default(), Catalog::knowing(&[])).unwrap();
    Sessions::new(config, auth, TTL, gold())
}

fn prepared(sql: &str) -> PreparedStatement {
    let defaults = Defaults { catalog: "lake".into(), schema: "gold".to_owned(), as_of: None };
    let parameters = Arc::new(arrow::datatypes::Schema::empty());
    let (described, has_run) = (Instant::now(), std::sync::atomic::AtomicBool::new(false));
    PreparedStatement { sql: sql.to_owned(), defaults, parameters, columns: None, provisional: false, described, has_run }
}

fn principal(name: &str) -> Principal {
    Principal::service(name)
}

#[test]
fn a_token_leads_to_its_session_until_that_is_closed() {
    let all = sessions(Config::default());
    let (session, token) = all.open(&principal("ana"), gold()).unwrap();
    all.set_defaults(&session, Defaults { catalog: "other".into(), schema: "s".to_owned(), as_of: None });
    let found = all.resume(&token).unwrap();
    assert_eq!((found.principal(), found.defaults().schema), (&principal("ana"), "s".to_owned()));
    all.close(&found);
    assert_eq!(all.resume(&token).err(), Some(SessionError::Ended));
    assert_eq!(all.resume("abc").err(), Some(SessionError::ForeignToken));
    let other = sessions(Config::default()).open(&principal("ana"), gold()).unwrap().1;
    assert_eq!(all.resume(&other).err(), Some(SessionError::Token(SealError::OtherKey)));
}

#[test]
fn connections_and_principals_are_kept_apart_and_end_with_the_connection() {
    let all = sessions(Config::default());
    let first = all.of_connection(1, &principal("ana"), gold()).unwrap();
    assert_eq!(all.of_connection(1, &principal("ana"), gold()).unwrap().id(), first.id());
    assert_ne!(all.of_connection(1, &principal("bob"), gold()).unwrap().id(), first.id());
    assert_ne!(all.of_connection(2, &principal("ana"), gold()).unwrap().id(), first.id());
    all.end_connection(1);
    assert_eq!(all.len(), 1);
    assert_ne!(all.of_connection(1, &principal("ana"), gold()).unwrap().id(), first.id());
}

#[test]
fn an_idle_session_ends_and_one_in_use_does_not() {
    let all = sessions(Config { idle_ttl: Duration::ZERO, max_sessions: 2, ..Config::default() });
    let (streaming, token) = all.open(&principal("ana"), gold()).unwrap();
    let (idle, idle_token) = all.open(&principal("ana"), gold()).unwrap();
    drop(idle);
    assert_eq!(all.resume(&idle_token).err(), Some(SessionError::Ended));
    assert!(all.resume(&token).is_ok());
    drop(streaming);
    assert!(all.resume(&token).is_err());
}

#[test]
fn what_nobody_comes_back_for_is_swept() {
    let config = Config { idle_ttl: Duration::from_secs(60), prepared_ttl: Duration::from_secs(20), ..Config::default() };
    let all = sessions(config);
    let (session, _) = all.open(&principal("ana"), gold()).unwrap();
    session.prepare(prepared("SELECT 1")).unwrap();
    let start = Instant::now();
    all.sweep(start + Duration::from_secs(10));
    assert_eq!((all.len(), session.lock().prepared.len()), (1, 1));
    all.sweep(start + Duration::from_secs(30));
    assert_eq!((all.len(), session.lock().prepared.len()), (1, 0));
    drop(session);
    all.sweep(start + Duration::from_secs(90));
    assert!(all.is_empty() && all.lock().accounts.is_empty());
}

#[test]
fn a_principal_s_sessions_share_the_room_for_prepared_statements() {
    let all = sessions(Config { max_prepared_per_principal: 2, ..Config::default() });
    let (one, _) = all.open(&principal("ana"), gold()).unwrap();
    let other = all.of_connection(7, &principal("ana"), gold()).unwrap();
    one.prepare(prepared("SELECT 1")).unwrap();
    let id = other.prepare(prepared("SELECT 2")).unwrap();
    assert_eq!(one.prepare(prepared("SELECT 3")).err(), Some(SessionError::TooManyPreparedOfPrincipal(2)));
    all.open(&principal("bob"), gold()).unwrap().0.prepare(prepared("SELECT 4")).unwrap();
    assert!(other.close_prepared(&id));
    one.prepare(prepared("SELECT 5")).unwrap();
    all.end_connection(7);
    all.close(&one);
    drop((one, other));
    assert!(all.open(&principal("ana"), gold()).unwrap().0.prepare(prepared("SELECT 6")).is_ok());
}

#[test]
fn in_a_full_register_the_longest_unused_give_way() {
    let all = sessions(Config { max_sessions: 200, ..Config::default() });
    let tokens: Vec<String> = (0..200).map(|_| all.open(&principal("ana"), gold()).unwrap().1).collect();
    let in_use = all.resume(&tokens[1]).unwrap();
    all.lock().make_room(Duration::from_secs(60), Instant::now(), None);
    assert_eq!(all.len(), 200, "none was unused for long enough");
    all.lock().make_room(Duration::from_secs(60), Instant::now() + Duration::from_secs(61), None);
    assert_eq!(all.len(), 197);
    let gone: Vec<usize> = (0..200).filter(|n| all.resume(&tokens[*n]).is_err()).collect();
    assert_eq!(gone, [0, 2, 3]);
    drop(in_use);
}

#[test]
fn a_full_register_makes_room_only_of_idle_sessions() {
    let all = sessions(Config { max_sessions: 1, ..Config::default() });
    let _held = all.open(&principal("ana"), gold()).unwrap();
    assert_eq!(all.open(&principal("bob"), gold()).err(), Some(SessionError::TooMany(1)));
    assert_eq!(all.of_connection(7, &principal("bob"), gold()).err(), Some(SessionError::TooMany(1)));
    let short = sessions(Config { max_sessions: 1, idle_ttl: Duration::ZERO, ..Config::default() });
    drop(short.of_connection(1, &principal("ana"), gold()).unwrap());
    assert!(short.open(&principal("bob"), gold()).is_ok());
    assert_eq!(short.len(), 1);
}

#[test]
fn one_principal_does_not_take_the_places_of_others() {
    let all = sessions(Config { max_sessions: 10, max_sessions_per_principal: 2, ..Config::default() });
    let held: Vec<_> = (0..2).map(|_| all.open(&principal("ana"), gold()).unwrap()).collect();
    let limit = SessionError::TooManyOfPrincipal { principal: "ana".into(), limit: 2 };
    assert_eq!(all.open(&principal("ana"), gold()).err(), Some(limit.clone()));
    assert_eq!(all.of_connection(3, &principal("ana"), gold()).err(), Some(limit));
    let bob = all.open(&principal("bob"), gold()).unwrap().1;
    drop(held);
    all.lock().make_room(Duration::ZERO, Instant::now(), Some(&principal("ana").id));
    assert!(all.open(&principal("ana"), gold()).is_ok());
    assert!(all.resume(&bob).is_ok(), "ana's room was made of bob's");
}

/// A gateway's authenticator and register with this config and the catalog that knows what the tests log in with.
struct Gateway {
    auth: Authenticator,
    all: Sessions,
}

/// A token of the catalog's own that lives for so many milliseconds.
fn token_for(name: &str, ms: u64) -> String {
    let until = (now_ms() + ms) as f64 / 1000.0;
    own_token(json!({ "sub": name, "exp": until }))
}

impl Gateway {
    fn start(config: &AuthConfig, limits: Config, known: &[&str]) -> Self {
        let auth = Authenticator::new(config, Catalog::knowing(known)).unwrap();
        Self { all: Sessions::new(limits, auth.clone(), TTL, gold()), auth }
    }

    fn users() -> Self {
        Self::start(&auth_config(Mode::Users, json!([])), Config::default(), &[])
    }

    async fn login(&self, header: &str) -> Principal {
        assert!(Credentials::parse(header).is_ok());
        self.auth.login(Caller { authorization: Some(header), ..Caller::default() }).await.unwrap()
    }

    /// A session of `ada`, who has the password `geheim`, and its token.
    async fn ada(&self) -> (Arc<Session>, String) {
        self.all.open(&self.login("Basic YWRhOmdlaGVpbQ==").await, gold()).unwrap()
    }
}

#[tokio::test]
async fn a_session_token_that_was_altered_or_cut_is_refused() {
    let gateway = Gateway::users();
    let (_, token) = gateway.ada().await;
    for at in 17..token.len() {
        let other = if &token[at..=at] == "A" { "B" } else { "A" };
        let altered = format!("{}{other}{}", &token[..at], &token[at + 1..]);
        assert_eq!(gateway.all.resume(&altered).err(), Some(SessionError::Token(SealError::Altered)), "at {at}");
        assert!(matches!(gateway.all.resume(&token[..at]).err(), Some(SessionError::Token(SealError::Altered))), "cut at {at}");
    }
    assert!(gateway.all.resume(&token).is_ok());
}

#[tokio::test]
async fn a_session_token_from_another_key_is_refused_and_says_why() {
    let (_, token) = Gateway::users().ada().await;
    let without = Gateway::start(&AuthConfig { key: None, ..auth_config(Mode::Users, json!([])) }, Config::default(), &[]);
    let text = without.all.resume(&token).err().unwrap().to_string();
    assert!(text.contains("restarted without a configured key (auth.key)"), "{text}");
    let key = Some(SecretRef::Text("77".repeat(32).into()));
    let other = Gateway::start(&AuthConfig { key, ..auth_config(Mode::Users, json!([])) }, Config::default(), &[]);
    assert_eq!(other.all.resume(&token).err(), Some(SessionError::Token(SealError::RetiredKey)));
}

#[tokio::test]
async fn a_session_token_that_names_another_principal_is_refused() {
    let gateway = Gateway::users();
    let (session, token) = gateway.ada().await;
    let mut forged = Token::open(gateway.auth.sealer(), &token).unwrap();
    forged.principal = "bob".into();
    let forged = forged.seal(gateway.auth.sealer(), TTL);
    assert_eq!(gateway.all.resume(&forged).err(), Some(SessionError::Ended));
    gateway.all.lock().remove(session.id());
    assert_eq!(gateway.all.resume(&forged).err(), Some(SessionError::Ended), "nor is it made again");
    assert!(gateway.all.resume(&token).is_ok());
}

#[tokio::test]
async fn an_expired_session_token_is_refused() {
    let auth = Authenticator::new(&auth_config(Mode::Users, json!([])), Catalog::knowing(&[])).unwrap();
    let gateway = Gateway { all: Sessions::new(Config::default(), auth.clone(), Duration::from_secs(0), gold()), auth };
    let (_session, token) = gateway.ada().await;
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(gateway.all.resume(&token).err(), Some(SessionError::Token(SealError::Expired)));
}

#[tokio::test]
async fn a_session_token_replayed_after_logout_is_refused() {
    let gateway = Gateway::users();
    let (session, token) = gateway.ada().await;
    gateway.all.close(&session);
    drop(session);
    assert_eq!(gateway.all.resume(&token).err(), Some(SessionError::Ended));
    gateway.all.sweep(Instant::now() + 2 * TTL);
    assert_eq!(gateway.all.resume(&token).err(), Some(SessionError::Ended), "and stays so for as long as it is good");
}

#[test]
fn a_ticket_is_no_session_token() {
    let gateway = Gateway::users();
    let ticket = gateway.auth.sealer().seal_text(Purpose::Ticket, b"x", TTL);
    assert_eq!(gateway.all.resume(&ticket).err(), Some(SessionError::Token(SealError::Altered)));
    assert!(Sealer::random().seal_text(Purpose::Session, b"x", TTL).len() < 200);
}

#[tokio::test]
async fn a_restarted_gateway_with_its_key_goes_on_with_old_sessions() {
    let polaris = auth_config(Mode::Polaris, json!([]));
    let short = own_token(json!({ "sub": "ada", "exp": in_seconds(60) }));
    let long = own_token(json!({ "sub": "bob", "exp": in_seconds(60), "groups": "x".repeat(16 << 10) }));
    let known = ["ada:geheim", &short, &long, "opaque"];
    let before = Gateway::start(&polaris, Config::default(), &known);
    let after = Gateway::start(&polaris, Config::default(), &known);
    let archive = Defaults { catalog: "archive".into(), schema: "y2020".to_owned(), as_of: None };
    for (header, name) in [("Basic YWRhOmdlaGVpbQ==".to_owned(), "ada"), (format!("Bearer {short}"), "ada")] {
        let (session, token) = before.all.open(&before.login(&header).await, archive.clone()).unwrap();
        let again = after.all.resume(&token).unwrap();
        assert_eq!((again.id(), again.principal().name.as_str()), (session.id(), name));
        assert_eq!((again.defaults(), again.initial()), (archive.clone(), &archive));
        assert!(Arc::ptr_eq(&again, &after.all.resume(&token).unwrap()), "made again once");
        after.all.close(&again);
        assert_eq!(after.all.resume(&token).err(), Some(SessionError::Ended));
    }
    let (session, token) = before.all.open(&before.login("Bearer opaque").await, gold()).unwrap();
    let again = after.all.resume(&token).unwrap();
    assert_eq!((again.id(), again.principal().name.as_str()), (session.id(), session.principal().name.as_str()));
    let (_, token) = before.all.open(&before.login(&format!("Bearer {long}")).await, gold()).unwrap();
    assert!(token.len() < 1000, "a token of {} bytes for one of 16 KB", token.len());
    assert!(before.all.resume(&token).is_ok());
    assert_eq!(after.all.resume(&token).err(), Some(SessionError::NotKept));
}

#[tokio::test]
async fn what_made_room_comes_back_and_what_was_idle_does_not() {
    let config = Config { max_sessions: 200, idle_ttl: Duration::from_secs(3600), ..Config::default() };
    let gateway = Gateway::start(&auth_config(Mode::Users, json!([])), config, &[]);
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(gateway.ada().await.1);
    }
    gateway.all.lock().make_room(Duration::ZERO, Instant::now(), None);
    assert_eq!(gateway.all.len(), 2);
    assert!(tokens.iter().all(|token| gateway.all.resume(token).is_ok()));
    gateway.all.sweep(Instant::now() + Duration::from_secs(4000));
    assert!(gateway.all.is_empty());
    assert!(tokens.iter().all(|token| gateway.all.resume(token).err() == Some(SessionError::Ended)));
}

#[tokio::test]
async fn the_call_after_a_token_has_lapsed_is_refused_and_a_newer_one_goes_on() {
    let (old, new, next) = (token_for("ada", 3_000), token_for("ada", 60_000), token_for("ada", 300));
    let config = auth_config(Mode::Passthrough, json!([]));
    let gateway = Gateway::start(&config, Config::default(), &[&old, &new, &next]);
    let principal = gateway.login(&format!("Bearer {old}")).await;
    let (_, token) = gateway.all.open(&principal, gold()).unwrap();
    let session = gateway.all.of_connection(1, &principal, gold()).unwrap();
    assert!(gateway.all.resume(&token).is_ok());
    std::thread::sleep(Duration::from_millis(3_050));
    let text = gateway.all.resume(&token).err().unwrap().to_string();
    assert!(text.starts_with("your token lapsed at 20") && text.ends_with("connect again with a new one"), "{text}");
    assert!(session.check_unlapsed().is_err());
    let principal = gateway.login(&format!("Bearer {new}")).await;
    let same = gateway.all.of_connection(1, &principal, gold()).unwrap();
    assert!(Arc::ptr_eq(&same, &session) && session.check_unlapsed().is_ok(), "a newer token of the same rights");
}

#[tokio::test]
async fn on_one_connection_principals_of_one_name_but_other_rights_are_kept_apart() {
    let token = |scope: &str| own_token(json!({ "sub": "ada", "scope": scope, "exp": in_seconds(60) }));
    let (all, few) = (token("ALL"), token("FEW"));
    let gateway = Gateway::start(&auth_config(Mode::Passthrough, json!([])), Config::default(), &[&all, &few]);
    let (one, other) = (gateway.login(&format!("Bearer {all}")).await, gateway.login(&format!("Bearer {few}")).await);
    assert_eq!(one.name, other.name);
    let first = gateway.all.of_connection(1, &one, gold()).unwrap();
    assert_ne!(gateway.all.of_connection(1, &other, gold()).unwrap().id(), first.id());
    assert_eq!(gateway.all.of_connection(1, &one, gold()).unwrap().id(), first.id());
    gateway.all.close(&first);
    assert_eq!(gateway.all.len(), 1);
}

#[tokio::test]
async fn callers_of_one_name_who_prove_it_elsewhere_share_neither_limits_nor_sessions() {
    let token = own_token(json!({ "sub": "ada", "exp": in_seconds(60) }));
    let limits = Config { max_sessions_per_principal: 1, ..Config::default() };
    let gateway = Gateway::start(&auth_config(Mode::Polaris, json!([])), limits, &["ada:geheim", &token]);
    let (client, by_token) = (gateway.login("Basic YWRhOmdlaGVpbQ==").await, gateway.login(&format!("Bearer {token}")).await);
    assert!(client.name == by_token.name && client.id != by_token.id);
    let (_first, sealed) = gateway.all.open(&client, gold()).unwrap();
    let _second = gateway.all.open(&by_token, gold()).unwrap();
    assert!(matches!(gateway.all.open(&client, gold()), Err(SessionError::TooManyOfPrincipal { .. })));
    let mut forged = Token::open(gateway.auth.sealer(), &sealed).unwrap();
    forged.principal = by_token.id.clone();
    assert_eq!(gateway.all.resume(&forged.seal(gateway.auth.sealer(), TTL)).err(), Some(SessionError::Ended));
    let after = Gateway::start(&auth_config(Mode::Polaris, json!([])), Config::default(), &[]);
    assert_eq!(after.all.resume(&sealed).unwrap().principal().id, client.id, "the same in every process");
}

#[tokio::test]
async fn who_has_logged_out_stays_so_after_a_restart_and_so_does_who_was_idle() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        Config { closed_file: Some(dir.path().join("closed")), idle_ttl: Duration::from_secs(3600), ..Config::default() };
    let start = || {
        let gateway = Gateway::start(&auth_config(Mode::Users, json!([])), config.clone(), &[]);
        gateway.all.recall().map(|()| gateway)
    };
    let before = start().unwrap();
    let (closed, by_log_out) = before.ada().await;
    before.all.close(&closed);
    let (_, by_idling) = before.ada().await;
    before.all.sweep(Instant::now() + Duration::from_secs(4000));
    let (_open, going_on) = before.ada().await;
    let after = start().unwrap();
    for token in [&by_log_out, &by_idling] {
        assert_eq!(after.all.resume(token).err(), Some(SessionError::Ended));
    }
    assert!(after.all.resume(&going_on).is_ok());
    std::fs::write(dir.path().join("closed"), "nonsense\n").unwrap();
    assert!(start().is_err());
}

#[tokio::test]
async fn a_session_that_gave_way_does_not_come_back_once_it_has_been_idle_for_too_long() {
    let config = Config { idle_ttl: Duration::from_secs(2), ..Config::default() };
    let gateway = Gateway::start(&auth_config(Mode::Users, json!([])), config, &[]);
    let (_, token) = gateway.ada().await;
    let give_way = || gateway.all.lock().make_room(Duration::ZERO, Instant::now(), None);
    give_way();
    assert!(gateway.all.is_empty() && gateway.all.resume(&token).is_ok());
    give_way();
    std::thread::sleep(Duration::from_millis(2_050));
    assert_eq!(gateway.all.resume(&token).err(), Some(SessionError::Ended));
}

#[test]
fn a_session_that_reads_the_past_is_never_made_again_in_the_present() {
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("closed");
    let config = || Config { closed_file: Some(closed.clone()), max_sessions: 2, ..Config::default() };
    let auth = AuthConfig { key: Some(SecretRef::Text("77".repeat(32).into())), ..AuthConfig::default() };
    let start = || {
        let auth = Authenticator::new(&auth, Catalog::knowing(&[])).unwrap();
        let all = Sessions::new(config(), auth, TTL, gold());
        all.recall().unwrap();
        all
    };
    let then = Defaults { as_of: Some(crate::as_of::AsOf::from_ms(1)), ..gold() };
    let first = start();
    let (past, past_token) = first.open(&principal("anonymous"), gold()).unwrap();
    let (back, back_token) = first.open(&principal("anonymous"), gold()).unwrap();
    first.set_defaults(&past, then.clone());
    first.set_defaults(&back, then);
    first.set_defaults(&back, gold());
    drop((past, back));
    first.lock().make_room(Duration::ZERO, Instant::now(), None);
    first.lock().make_room(Duration::ZERO, Instant::now(), None);
    assert!(first.is_empty());
    assert_eq!(first.resume(&past_token).err(), Some(SessionError::Ended), "it gave way");
    assert!(first.resume(&back_token).is_ok());
    let (past, again_token) = first.open(&principal("anonymous"), gold()).unwrap();
    first.set_defaults(&past, Defaults { as_of: Some(crate::as_of::AsOf::from_ms(1)), ..gold() });
    assert!(first.resume(&again_token).is_ok());
    let second = start();
    assert_eq!(second.resume(&past_token).err(), Some(SessionError::Ended));
    assert_eq!(second.resume(&again_token).err(), Some(SessionError::Ended), "the gateway was restarted");
    assert!(second.resume(&back_token).is_ok());
}
