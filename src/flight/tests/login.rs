//! Who gets in, and whose session a call belongs to.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use tonic::Code;

use super::*;

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
