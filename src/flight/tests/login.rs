//! Who gets in, and whose session a call belongs to.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use serde_json::json;
use tonic::Code;

use super::*;
use crate::auth::tests::{in_seconds, own_token};

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn a_handshake_answers_a_token_in_header_and_payload_without_any_request_message() {
    let edge = Edge::start(users(), Config::default()).await;
    let client = edge.client().await;
    // "bob:geheim" needs one `=`; ADBC sends none.
    let unpadded = format!("Basic {}", BASE64_STANDARD_NO_PAD.encode("bob:geheim"));
    for header in [basic("bob", "geheim"), unpadded] {
        let (token, payload) = client.with(&header).handshake().await.unwrap();
        assert_eq!(token.strip_prefix("Bearer ").unwrap().as_bytes(), payload);
        let info = client.with(&token).query("select 1").await.unwrap();
        client.with(&token).get(ticket(&info)).await.unwrap();
        let (again, _) = client.with(&token).handshake().await.unwrap();
        assert_eq!(again, token, "a handshake with the token keeps it");
    }
    assert!(edge.kernel.ran.lock().unwrap().iter().all(|ran| ran.principal == "bob"));
    assert_eq!(edge.sessions.len(), 2);
}

#[tokio::test]
async fn wrong_or_missing_credentials_are_refused_with_a_text_and_no_hint() {
    let edge = Edge::start(users(), Config::default()).await;
    let mut client = edge.client().await;
    assert_eq!(client.handshake().await.unwrap_err().code(), Code::Unauthenticated);
    assert!(client.query("select 1").await.unwrap_err().message().contains("log in"));
    let mut texts = Vec::new();
    for header in [basic("ana", "wrong"), basic("nobody", "geheim")] {
        let status = client.with(&header).handshake().await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        texts.push(status.message().to_owned());
    }
    assert_eq!(texts, ["user name or password is wrong"; 2]);
    let foreign = client.with("Bearer eyJhbGciOiJub25lIn0.e30.").handshake().await.unwrap_err();
    assert!(foreign.message().contains("not one that this gateway gave out"), "{}", foreign.message());
    let other = Edge::start(users(), Config::default()).await;
    let (token, _) = other.client().await.with(&basic("ana", "geheim")).handshake().await.unwrap();
    let status = client.with(&token).query("select 1").await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("sealed by another key"), "{}", status.message());
    assert_eq!(edge.sessions.len(), 0);
}

#[tokio::test]
async fn basic_on_every_call_keeps_one_session_for_the_connection() {
    let edge = Edge::start(users(), Config::default()).await;
    let mut client = edge.client().await.with(&basic("ana", "geheim"));
    let (created, _) = client.prepare("select 1").await.unwrap();
    let command =
        arrow_flight::sql::CommandPreparedStatementQuery { prepared_statement_handle: created.prepared_statement_handle };
    assert!(client.info(&command).await.is_ok());
    assert_eq!(client.with(&basic("bob", "geheim")).info(&command).await.unwrap_err().code(), Code::NotFound);
    let mut elsewhere = edge.client().await.with(&basic("ana", "geheim"));
    assert_eq!(elsewhere.info(&command).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn with_auth_none_any_credentials_will_do_and_the_connection_is_the_session() {
    let edge = Edge::open().await;
    for header in [None, Some("Basic !!!"), Some("Bearer abc"), Some("nonsense")] {
        let mut client = edge.client().await;
        client.header = header.map(str::to_owned);
        assert!(client.handshake().await.is_ok(), "{header:?}");
        client.query("use gold").await.unwrap();
        let info = client.query("select 1").await.unwrap();
        client.get(ticket(&info)).await.unwrap();
        assert_eq!(edge.kernel.ran.lock().unwrap().last().unwrap().schema, "lake.gold");
        let mut other = edge.client().await;
        let info = other.query("select 1").await.unwrap();
        other.get(ticket(&info)).await.unwrap();
        assert_eq!(edge.kernel.ran.lock().unwrap().last().unwrap().schema, "lake.main");
    }
    assert!(edge.kernel.ran.lock().unwrap().iter().all(|ran| ran.principal == "anonymous"));
}

#[tokio::test]
async fn a_token_of_30_kb_fits_into_the_headers() {
    let edge = Edge::open().await;
    let mut client = edge.client().await.with(&format!("Bearer {}", "x".repeat(30 << 10)));
    assert!(client.handshake().await.is_ok());
    assert!(client.query("select 1").await.is_ok());
}

#[tokio::test]
async fn a_stranger_is_refused_before_its_message_is_read() {
    let edge = Edge::start(users(), Config { max_message_bytes: 10_000, ..Config::default() }).await;
    let mut client = edge.client().await;
    let long = "x".repeat(1 << 20);
    assert_eq!(client.query(&long).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(client.get(Ticket { ticket: long.clone().into() }).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(client.action("CloseSession", long.clone().into()).await.unwrap_err().code(), Code::Unauthenticated);
    let mut known = client.with(&basic("ana", "geheim"));
    assert_eq!(known.query(&long).await.unwrap_err().code(), Code::OutOfRange);
    // One that never ends what it sends.
    let endless = client.request(futures::stream::pending());
    let refused = tokio::time::timeout(Duration::from_secs(5), client.inner.do_put(endless)).await.unwrap();
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_connection_has_no_more_calls_under_way_than_configured() {
    let edge = Edge::start(users(), Config { max_streams_per_connection: 2, ..Config::default() }).await;
    let mut client = edge.client().await.with(&basic("ana", "geheim"));
    client.query("select 1").await.unwrap();
    let uploads = [client.clone(), client.clone()].map(|mut client| {
        tokio::spawn(async move {
            let endless = client.request(futures::stream::pending());
            client.inner.do_put(endless).await.map(drop)
        })
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), client.query("select 1")).await.is_err());
    uploads.iter().for_each(tokio::task::JoinHandle::abort);
    tokio::time::timeout(Duration::from_secs(5), client.query("select 1")).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_closed_connection_takes_its_session_with_it() {
    let edge = Edge::open().await;
    let mut client = edge.client().await;
    client.query("use gold").await.unwrap();
    assert_eq!(edge.sessions.len(), 1);
    drop(client);
    for _ in 0..100 {
        if edge.sessions.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the session is still there");
}

#[tokio::test]
async fn a_session_that_has_ended_asks_for_a_new_log_in() {
    let edge = Edge::start(users(), Config::default()).await;
    let client = edge.client().await;
    let (token, _) = client.with(&basic("ana", "geheim")).handshake().await.unwrap();
    let mut client = client.with(&token);
    let closed = client.action("CloseSession", Vec::new()).await.unwrap();
    assert_eq!(closed, [Bytes::from_static(&[8, 1])]);
    let status = client.query("select 1").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "session has ended; log in again"));
}

#[tokio::test]
async fn a_ticket_is_worth_nothing_to_another_principal() {
    let edge = Edge::start(users(), Config::default()).await;
    let client = edge.client().await;
    let info = client.with(&basic("ana", "geheim")).query("select 1").await.unwrap();
    let status = client.with(&basic("bob", "geheim")).get(ticket(&info)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(edge.kernel.texts(), [""; 0]);
    let mut elsewhere = edge.client().await.with(&basic("ana", "geheim"));
    assert_eq!(elsewhere.get(ticket(&info)).await.unwrap().len(), 3, "another connection of the same principal may");
}

/// A config of this mode in which `ana` and `bob` have the password `geheim`.
fn mode(mode: Mode, mappings: serde_json::Value) -> AuthConfig {
    AuthConfig { mode, mappings: serde_json::from_value(mappings).unwrap(), ..users() }
}

#[tokio::test]
async fn a_client_of_the_catalog_logs_in_by_handshake_or_with_each_call() {
    let edge = Edge::start(mode(Mode::Polaris, json!([])), Config::default()).await;
    let client = edge.client().await;
    let (token, _) = client.with(&basic("ana", "geheim")).handshake().await.unwrap();
    for header in [token, basic("ana", "geheim"), "Bearer opaque-token".to_owned()] {
        let info = client.with(&header).query("select 1").await.unwrap();
        assert_eq!(client.with(&header).get(ticket(&info)).await.unwrap().len(), 3);
    }
    let status = client.with(&basic("bob", "geheim")).handshake().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("the catalog refused the log-in: it is not known"), "{}", status.message());
}

#[tokio::test]
async fn who_guesses_is_told_when_to_try_again() {
    let edge = Edge::start(users(), Config::default()).await;
    let client = edge.client().await;
    for n in 0..5 {
        let status = client.with(&basic("ana", &n.to_string())).handshake().await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{n}");
    }
    let status = client.with(&basic("ana", "geheim")).handshake().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too many failed log-ins; try again in 1 s"));
    let wait: u64 = status.metadata().get("retry-after-ms").unwrap().to_str().unwrap().parse().unwrap();
    client.with(&basic("bob", "geheim")).handshake().await.unwrap();
    tokio::time::sleep(Duration::from_millis(wait + 50)).await;
    client.with(&basic("ana", "geheim")).handshake().await.unwrap();
}

#[tokio::test]
async fn a_session_begins_in_the_first_catalog_that_is_visible_and_none_is_a_refusal() {
    let mappings = json!([{ "user": "ana", "role": "historian" }, { "user": "bob", "role": "nothing" }]);
    let edge = Edge::start(mode(Mode::Mapped, mappings), Config::default()).await;
    let client = edge.client().await;
    let (token, _) = client.with(&basic("ana", "geheim")).handshake().await.unwrap();
    for header in [token, basic("ana", "geheim")] {
        let info = client.with(&header).query("select 1").await.unwrap();
        client.with(&header).get(ticket(&info)).await.unwrap();
        assert_eq!(edge.kernel.ran.lock().unwrap().last().unwrap().schema, "archive.main");
    }
    for status in [
        client.with(&basic("bob", "geheim")).handshake().await.unwrap_err(),
        client.with(&basic("bob", "geheim")).query("select 1").await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().starts_with("no catalog is open to bob"), "{}", status.message());
    }
    assert_eq!(edge.sessions.len(), 2);
}

#[tokio::test]
async fn a_large_token_is_answered_by_a_short_one() {
    let large = own_token(json!({ "sub": "eve", "groups": "x".repeat(16 << 10), "exp": in_seconds(60) }));
    let edge = Edge::knowing(mode(Mode::Passthrough, json!([])), Config::default(), &[&large]).await;
    let client = edge.client().await;
    let (token, _) = client.with(&format!("Bearer {large}")).handshake().await.unwrap();
    assert!(token.len() < 1000, "{} bytes", token.len());
    assert!(client.with(&token).query("select 1").await.is_ok());
    assert!(client.with(&format!("Bearer {large}")).query("select 1").await.is_ok());
}

#[tokio::test]
async fn a_call_after_the_token_s_end_asks_for_a_new_one() {
    let until = std::time::SystemTime::now() + Duration::from_secs(5);
    let until = until.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let short = own_token(json!({ "sub": "eve", "exp": until }));
    let edge = Edge::knowing(mode(Mode::Passthrough, json!([])), Config::default(), &[&short]).await;
    let client = edge.client().await;
    let (token, _) = client.with(&format!("Bearer {short}")).handshake().await.unwrap();
    client.with(&token).query("select 1").await.unwrap();
    tokio::time::sleep(Duration::from_millis(5100)).await;
    let bearer = format!("Bearer {short}");
    for (header, said) in [(token, "your token lapsed at 20"), (bearer, "the bearer token is not accepted: it expired at 20")] {
        let status = client.with(&header).query("select 1").await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().starts_with(said), "{}", status.message());
        assert!(status.message().contains("connect again with a new one"), "{}", status.message());
    }
}

#[tokio::test]
async fn a_ticket_that_was_altered_cut_expired_or_sealed_by_another_key_is_refused() {
    let edge = Edge::start(users(), Config::default()).await;
    let mut client = edge.client().await.with(&basic("ana", "geheim"));
    let info = client.query("select 1").await.unwrap();
    let whole = ticket(&info);
    for at in [60, whole.ticket.len() - 1] {
        let mut altered = whole.ticket.to_vec();
        altered[at] ^= 1;
        assert!(client.get(Ticket { ticket: altered.into() }).await.is_err(), "altered at {at}");
        assert!(client.get(Ticket { ticket: whole.ticket.slice(..at) }).await.is_err(), "cut at {at}");
    }
    let other = Edge::start(users(), Config::default()).await;
    let foreign = other.client().await.with(&basic("ana", "geheim")).query("select 1").await.unwrap();
    let status = client.get(ticket(&foreign)).await.unwrap_err();
    assert!(status.message().contains("sealed by another key"), "{}", status.message());
    assert_eq!(client.get(whole).await.unwrap().len(), 3);
    assert_eq!(edge.kernel.texts().len(), 1);

    let brief = Edge::start(users(), Config { ticket_ttl: Duration::from_secs(1), ..Config::default() }).await;
    let mut client = brief.client().await.with(&basic("ana", "geheim"));
    let expires = ticket(&client.query("select 1").await.unwrap());
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let status = client.get(expires).await.unwrap_err();
    assert_eq!((status.code(), status.message().contains("expired")), (Code::NotFound, true), "{}", status.message());
    assert_eq!(brief.kernel.texts().len(), 0);
}

#[tokio::test]
async fn a_ticket_is_worth_nothing_with_a_session_that_was_closed() {
    let edge = Edge::start(users(), Config::default()).await;
    let client = edge.client().await;
    let (token, _) = client.with(&basic("ana", "geheim")).handshake().await.unwrap();
    let mut client = client.with(&token);
    let info = client.query("select 1").await.unwrap();
    client.action("CloseSession", Vec::new()).await.unwrap();
    assert_eq!(client.get(ticket(&info)).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(edge.kernel.texts(), [""; 0]);
}
