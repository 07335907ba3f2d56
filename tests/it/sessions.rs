//! Session tokens over the wire: which are refused, and which outlive the gateway.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use polynya::auth::seal::{Purpose, Sealer};
use polynya::secret::SecretRef;
use prost::Message;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::harness::{Gateway, query, status, user_ada};
use crate::stand_in::{Setup, StandIn};

/// 32 bytes.
const KEY: &str = "4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b";
const OTHER_KEY: &str = "6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f";

/// A gateway for `ada` only, sealing with `KEY`.
fn gateway(more: &[&str]) -> Gateway {
    in_dir(Arc::new(TempDir::new().expect("a directory")), &[&[format!("auth.key={KEY}").as_str()], more].concat())
}

fn in_dir(dir: Arc<TempDir>, set: &[&str]) -> Gateway {
    let ada = user_ada();
    Gateway::in_dir(dir, &[&[ada[0].as_str(), ada[1].as_str()], set].concat())
}

/// The token of a handshake.
pub async fn log_in(gateway: &Gateway, user: &str, password: &str) -> Result<String, Status> {
    let basic = BASE64_STANDARD.encode(format!("{user}:{password}"));
    handshake(gateway.channel().await, &format!("Basic {basic}")).await
}

/// The same by what is sent as `authorization`.
pub async fn handshake(channel: Channel, authorization: &str) -> Result<String, Status> {
    let mut request = Request::new(futures::stream::empty());
    request.metadata_mut().insert("authorization", authorization.parse().expect("a header"));
    let mut answer = FlightServiceClient::new(channel).handshake(request).await?.into_inner();
    let token = answer.message().await?.expect("an answer").payload;
    Ok(String::from_utf8(token.to_vec()).expect("a text"))
}

async fn ada(gateway: &Gateway) -> String {
    log_in(gateway, "ada", "correct horse").await.expect("a session")
}

/// A client that sends this token with every call.
pub async fn with_token(gateway: &Gateway, token: &str) -> FlightSqlServiceClient<Channel> {
    let mut client = gateway.client().await;
    client.set_token(token.to_owned());
    client
}

/// What comes of a statement with this token.
pub async fn run(gateway: &Gateway, token: &str, sql: &str) -> Result<String, Status> {
    let batches = query(&mut with_token(gateway, token).await, sql).await?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).expect("a row");
    Ok(arrow::util::display::array_value_to_string(batch.column(0), 0).expect("a value"))
}

async fn refusal(gateway: &Gateway, token: &str) -> String {
    let status = run(gateway, token, "SELECT 1").await.expect_err("a refusal");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    status.message().to_owned()
}

async fn close_session(gateway: &Gateway, token: &str) {
    let mut request = Request::new(Action::new("CloseSession", ""));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    let mut client = FlightServiceClient::new(gateway.channel().await);
    let mut answer = client.do_action(request).await.expect("an answer").into_inner();
    while answer.message().await.expect("a result").is_some() {}
}

#[tokio::test]
async fn a_session_token_that_was_altered_or_cut_opens_nothing() {
    let gateway = gateway(&[]);
    let token = ada(&gateway).await;
    let at = token.len() / 2;
    let other = if &token[at..=at] == "A" { "B" } else { "A" };
    for wrong in [format!("{}{other}{}", &token[..at], &token[at + 1..]), token[..at].to_owned()] {
        assert!(refusal(&gateway, &wrong).await.contains("altered, cut short, or meant for another use"));
    }
    assert_eq!(run(&gateway, &token, "SELECT 42").await.expect("a value"), "42");
}

#[tokio::test]
async fn a_session_token_of_another_principal_opens_nothing() {
    #[derive(Clone, PartialEq, Message)]
    struct Body {
        #[prost(string, tag = "1")]
        session: String,
        #[prost(string, tag = "2")]
        principal: String,
        #[prost(uint64, tag = "3")]
        opened_ms: u64,
        #[prost(string, tag = "4")]
        catalog: String,
        #[prost(string, tag = "5")]
        schema: String,
        #[prost(bytes = "vec", optional, tag = "6")]
        kept: Option<Vec<u8>>,
    }
    let gateway = gateway(&[]);
    let token = ada(&gateway).await;
    // Whoever has the key can seal what it likes; even so a session is its own principal's only.
    let sealer = Sealer::from_config(Some(&SecretRef::Text(KEY.into())), &[]).expect("a key");
    let plain = sealer.open_text(Purpose::Session, &token).expect("a token");
    let mut body = Body::decode(plain.as_slice()).expect("a body");
    // A digest of who vouches for the name, and of the name.
    assert!(body.principal.len() >= 32, "{}", body.principal);
    body.principal = body.principal.chars().rev().collect();
    let forged = sealer.seal_text(Purpose::Session, &body.encode_to_vec(), Duration::from_secs(60));
    assert_eq!(refusal(&gateway, &forged).await, "session has ended; log in again");
}

#[tokio::test]
async fn an_expired_session_token_opens_nothing() {
    let gateway = gateway(&["auth.session_ttl=1s"]);
    let token = ada(&gateway).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(refusal(&gateway, &token).await, "the session token is not valid: expired; log in again");
}

#[tokio::test]
async fn a_session_token_replayed_after_logout_opens_nothing() {
    let gateway = gateway(&[]);
    let (token, other) = (ada(&gateway).await, ada(&gateway).await);
    close_session(&gateway, &token).await;
    for _ in 0..2 {
        assert_eq!(refusal(&gateway, &token).await, "session has ended; log in again");
    }
    assert_eq!(run(&gateway, &other, "SELECT 1").await.expect("a value"), "1");
}

#[tokio::test]
async fn a_restarted_gateway_goes_on_with_its_key_and_says_why_not_without() {
    let set = |pairs: &[&str]| pairs.iter().map(|pair| (*pair).to_owned()).collect::<Vec<_>>();
    let first = gateway(&[]);
    let token = ada(&first).await;
    let (_, dir) = first.terminate();
    let (key, other) = (format!("auth.key={KEY}"), format!("auth.key={OTHER_KEY}"));
    let previous = format!("auth.previous_keys=['{KEY}']");
    for (pairs, expected) in [
        (set(&[&key]), None),
        (set(&[&other, &previous]), None),
        (set(&[&other]), Some("sealed by a key that the gateway does not have any more (auth.key, auth.previous_keys)")),
        (set(&[]), Some("sealed by another key: the gateway was restarted without a configured key (auth.key)")),
    ] {
        let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
        let next = in_dir(Arc::clone(&dir), &pairs);
        match expected {
            None => assert_eq!(run(&next, &token, "SELECT 42").await.expect("a value"), "42"),
            Some(expected) => assert!(refusal(&next, &token).await.contains(expected), "{pairs:?}"),
        }
        drop(next);
    }
}

#[tokio::test]
async fn a_user_who_is_taken_away_does_not_come_back_by_a_token() {
    let first = gateway(&[]);
    let token = ada(&first).await;
    let (_, dir) = first.terminate();
    let [mode, users] = user_ada();
    let next = Gateway::in_dir(dir, &[&mode, &users.replace("name: ada", "name: eve"), &format!("auth.key={KEY}")]);
    assert!(refusal(&next, &token).await.contains("its user is not configured any more (auth.users)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polaris_log_in_outlives_the_gateway_with_the_rights_that_it_has_then() {
    let stand_in = StandIn::start(Setup::lakehouse()).await;
    let mut set = stand_in.settings("rest", "lakehouse", "engineer");
    set.extend(["auth.mode=polaris".to_owned(), format!("auth.key={KEY}")]);
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let (id, secret) = stand_in.first_realm().credentials("analyst").expect("a principal");
    let (engineer, engineers) = stand_in.first_realm().credentials("engineer").expect("a principal");
    let first = Gateway::with(&set);
    let writer = log_in(&first, &engineer, &engineers).await.expect("a session");
    for sql in ["CREATE TABLE rest.gold.t AS SELECT 7 AS n", "CREATE TABLE rest.silver.t AS SELECT 8 AS n"] {
        let mut client = with_token(&first, &writer).await;
        client.execute(sql.to_owned(), None).await.map_err(status).expect(sql);
    }
    let token = log_in(&first, &id, &secret).await.expect("a session");
    let (_, dir) = first.terminate();
    let next = Gateway::in_dir(dir, &set);
    assert_eq!(run(&next, &token, "SELECT n FROM rest.gold.t").await.expect("a value"), "7");
    let denied = run(&next, &token, "SELECT n FROM rest.silver.t").await.expect_err("no grant");
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    assert!(!next.log().contains(&secret));
}
