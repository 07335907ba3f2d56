//! Token endpoints and catalogs that hang, and which tokens are shared between catalogs. The server answers nothing but refusals that
//! no table is there, so what is looked at is whom it was asked by and when.

use std::sync::Mutex;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{Response, StatusCode as Status};
use axum::response::IntoResponse as _;
use axum::routing::any;
use axum::{Json, Router, body::Body};

use super::*;
use crate::auth::credential::{BearerToken, Wallet};
use crate::names::RealmName;
use crate::relay::config::RestConfig;
use crate::relay::error::CatalogError;
use crate::secret::SecretString;

/// The forms that the token endpoint was sent.
type Forms = Arc<Mutex<Vec<String>>>;

/// A catalog without tables, where no change ends. Its token endpoint never answers the client `slow`.
async fn empty_catalog() -> (String, Forms) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let forms = Forms::default();
    let routes = Router::new().fallback(any(answer)).with_state(forms.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (uri, forms)
}

async fn answer(State(forms): State<Forms>, request: Request) -> Response<Body> {
    let (is_change, path) = (request.method() == "DELETE", request.uri().path().to_owned());
    if path.ends_with("/tokens") {
        let form = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let form = String::from_utf8_lossy(&form).into_owned();
        if form.contains("client_id=slow") {
            std::future::pending::<()>().await;
        }
        let mut forms = forms.lock().unwrap();
        forms.push(form);
        return Json(json!({ "access_token": format!("token-{}", forms.len()), "expires_in": 3600 })).into_response();
    }
    if is_change {
        std::future::pending::<()>().await;
    }
    if path.ends_with("/config") {
        return Json(json!({})).into_response();
    }
    let gone = json!({ "error": { "message": "no", "type": "NoSuchTableException", "code": 404 } });
    (Status::NOT_FOUND, Json(gone)).into_response()
}

fn catalog_at(uri: &str, more: &str) -> CatalogConfig {
    let rest: RestConfig = serde_saphyr::from_str(&format!("uri: {uri}\nrealm: r\n{more}")).unwrap();
    CatalogConfig::Rest(Box::new(rest))
}

fn login(wallet: &Wallet, client_id: &str) -> Credential {
    wallet.client(&RealmName::from("r"), client_id, &SecretString::from("secret"), None)
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_holds_no_turn_and_is_not_the_catalogs_fault() {
    let (uri, _) = empty_catalog().await;
    let config = Config { max_reads_per_catalog: 1, ..config() };
    let catalogs = BTreeMap::from([(name(), catalog_at(&uri, "request_timeout: 6s"))]);
    let relay = Relay::bind(config, catalogs, BTreeMap::new()).await.unwrap();
    let wallet = Wallet::default();
    let (slow, quick) = (login(&wallet, "slow"), login(&wallet, "quick"));
    let waiting = tokio::spawn({
        let relay = relay.clone();
        async move { relay.load(&slow, &table("t")).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    for wanted in ["a", "b", "c"] {
        let answered = relay.load(&quick, &table(wanted)).await.unwrap_err();
        assert_eq!(answered, CatalogError::NoSuchTable(table(wanted)));
    }
    assert!(!waiting.is_finished(), "the others did not wait for it");
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_outage(), "{error}");
    let view = relay.view(&quick, &name()).unwrap();
    assert!(!view.upstream.health().unwrap().ails());
}

#[tokio::test]
async fn a_change_ends_before_a_worker_would_send_it_again() {
    let (uri, _) = empty_catalog().await;
    // A call may take ten times as long.
    let config = Config { commit_timeout: Duration::from_secs(2), ..config() };
    let relay = Relay::bind(config, BTreeMap::from([(name(), catalog_at(&uri, ""))]), BTreeMap::new()).await.unwrap();
    let wallet = Wallet::default();
    // The token is there before the time begins to run.
    relay.load(&login(&wallet, "quick"), &table("t")).await.unwrap_err();
    let began = Instant::now();
    let drop_as = async |client| {
        let caller = login(&wallet, client);
        let view = relay.view(&caller, &name()).unwrap();
        view.upstream.drop_namespace(&Namespace::from_schema("gold")).await.unwrap_err()
    };
    let sent = drop_as("quick").await;
    assert!(matches!(sent, CatalogError::OutcomeUnknown { .. }), "{sent}");
    let unsent = drop_as("slow").await;
    assert!(matches!(unsent, CatalogError::Timeout { .. }), "{unsent}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_token_for_one_audience_is_not_shown_to_another() {
    let ((uri, _), (idp, forms)) = (empty_catalog().await, empty_catalog().await);
    let said = |more: &str| catalog_at(&uri, &format!("callers: {{ exchange: {{ token_uri: '{idp}/tokens', {more} }} }}"));
    let client = |id: &str| format!("audience: a, client: {{ client_id: {id}, client_secret: s }}");
    let catalogs = [
        ("a", said("audience: a")),
        ("b", said("audience: b")),
        ("c", said(&client("one"))),
        ("d", said(&client("two"))),
        ("e", said("audience: a")),
    ];
    let names: Vec<CatalogName> = catalogs.iter().map(|(name, _)| (*name).into()).collect();
    let catalogs = catalogs.into_iter().map(|(name, catalog)| (name.into(), catalog)).collect();
    let relay = Relay::bind(config(), catalogs, BTreeMap::new()).await.unwrap();
    let token = BearerToken { secret: SecretString::from("of-an-issuer"), expires: None, exchange: true };
    let caller = Wallet::default().token(&RealmName::from("r"), "ada", "{}", token, None);
    for catalog in names {
        let wanted = TableRef { catalog, ..table("t") };
        assert_eq!(relay.load(&caller, &wanted).await.unwrap_err(), CatalogError::NoSuchTable(wanted));
    }
    let forms = forms.lock().unwrap();
    let with = |part: &str| forms.iter().filter(|form| form.contains(part)).count();
    assert_eq!((with("audience=a"), with("audience=b"), with("client_id=one"), with("client_id=two")), (3, 1, 1, 1));
    assert_eq!(forms.len(), 4, "those that would get the same token share it");
}
