//! What a real Polaris answered, sent again by a server that knows nothing else: each answer must become the right error, in words
//! that help, and nothing secret must come through.

use axum::extract::{Request, State};
use axum::http::Response;
use axum::routing::any;
use axum::{Router, body::Body};

use super::*;
use crate::error::{Explain as _, Kind};
use crate::relay::config::{AccessDelegation, CallersConfig, ClientAuth, RestConfig, RestCredentials};
use crate::relay::error::CatalogError;
use crate::relay::tokens::TokenSources;
use crate::relay::upstream::http::Whose;
use crate::relay::upstream::reach::{Clients, Reach};
use crate::relay::upstream::rest::Rest;
use crate::relay::upstream::{Answer, CommitFault, PageRequest, Purpose, TableChange};
use crate::secret::{SecretRef, SecretString};

fn recording(case: &str) -> Value {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/polaris");
    let file = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem[2..] == format!("-{case}")));
    serde_json::from_slice(&std::fs::read(file.unwrap_or_else(|| panic!("no recording {case}"))).unwrap()).unwrap()
}

/// Answers each request with the first of the recordings for its method, path and condition.
async fn replay(State(recordings): State<Arc<Vec<Value>>>, request: Request) -> Response<Body> {
    let path = request.uri().path_and_query().map_or("", |path| path.as_str()).trim_start_matches('/');
    let condition = request.headers().get("if-none-match").and_then(|etag| etag.to_str().ok());
    let fits = |one: &&Value| {
        let recorded = &one["request"];
        recorded["method"] == request.method().as_str()
            && (recorded["path"] == path || recorded["path"] == request.uri().path().trim_start_matches('/'))
            && recorded["headers"]["If-None-Match"].as_str() == condition
    };
    let found = recordings.iter().find(fits).unwrap_or_else(|| panic!("no recording for {} {path}", request.method()));
    let answer = &found["response"];
    let mut response = Response::builder().status(u16::try_from(answer["status"].as_u64().unwrap()).unwrap());
    if let Some(etag) = answer["headers"]["ETag"].as_str() {
        response = response.header("etag", etag);
    }
    let body = match &answer["body"] {
        Value::String(text) => text.clone(),
        body => body.to_string(),
    };
    response.body(Body::from(body)).unwrap()
}

/// A Polaris that knows the recordings, with the token endpoint and the configuration of a good client unless others are given.
async fn polaris(warehouse: &str, cases: &[&str]) -> Rest {
    let recordings = cases.iter().chain(&["token-ok", "config-ok"]).map(|case| recording(case)).collect::<Vec<_>>();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/api/catalog", listener.local_addr().unwrap());
    let routes = Router::new().fallback(any(replay)).with_state(Arc::new(recordings));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let rest = RestConfig {
        uri,
        warehouse: Some(warehouse.to_owned()),
        realm: None,
        prefix: None,
        credentials: RestCredentials::Oauth2 {
            client_id: "analyst".to_owned(),
            client_secret: SecretRef::Text(SecretString::from("hush-hush")),
            scope: "PRINCIPAL_ROLE:ALL".to_owned(),
            token_uri: None,
            client_auth: ClientAuth::Post,
        },
        callers: CallersConfig::default(),
        access_delegation: AccessDelegation::None,
        ca_file: None,
        allowed_locations: Vec::new(),
        storage: Vec::new(),
        allowed_endpoints: None,
        request_timeout: None,
        connect_timeout: None,
    };
    let reach = Reach::new(name(), &config(), &rest, &mut Clients::default()).unwrap();
    let endpoint = reach.endpoint_of(&rest.credentials).unwrap();
    let source = TokenSources::default().configured(&rest.credentials, endpoint, &reach.means()).unwrap();
    Rest::new(reach, Whose::Gateways, source)
}

fn gold() -> Namespace {
    Namespace::from_schema("gold")
}

fn silver_table() -> TableRef {
    TableRef { catalog: name(), namespace: Namespace::from_schema("silver"), table: "rec_s".to_owned() }
}

fn change(requirement: Value) -> TableChange {
    TableChange {
        table: table("rec_t"),
        requirements: vec![requirement],
        updates: vec![json!({ "action": "set-properties", "updates": { "k": "w" } })],
    }
}

#[tokio::test]
async fn polaris_lists_its_namespaces_and_tables() {
    let catalog = polaris("lakehouse", &["namespaces", "tables", "namespace-get"]).await;
    let listed = catalog.list_namespaces(None, &PageRequest::default()).await.unwrap();
    assert_eq!(listed.items, ["bronze", "silver", "gold"].map(Namespace::from_schema));
    assert!(listed.next.is_none());
    let tables = catalog.list_tables(&gold(), &PageRequest::default()).await.unwrap();
    assert_eq!(tables.items, ["rec_t"]);
    catalog.load_namespace(&gold()).await.unwrap();
}

#[tokio::test]
async fn a_table_of_polaris_is_loaded_and_found_unchanged() {
    let catalog = polaris("lakehouse", &["table-load", "table-load-if-none-match"]).await;
    let Answer::Fresh { body, etag } = catalog.load_table(&table("rec_t"), None, Purpose::Data).await.unwrap() else { panic!() };
    let again = catalog.load_table(&table("rec_t"), etag.as_deref(), Purpose::Data).await.unwrap();
    assert!(matches!(again, Answer::NotModified));
    let confinement = Arc::new(Confinement::new(vec!["s3://lake1/lakehouse/".to_owned()]).unwrap());
    let read = super::super::table::Table::read(table("rec_t"), body.clone(), etag, confinement).await.unwrap();
    let whole: Value = serde_json::from_slice(&read.whole).unwrap();
    assert_eq!(whole["config"], json!({}), "nothing of the catalog's storage settings reaches a worker");
    assert_eq!(read.columns.unwrap().len(), 2);
    let elsewhere = Arc::new(Confinement::new(vec!["s3://lake2/".to_owned()]).unwrap());
    let refused = super::super::table::Table::read(table("rec_t"), body, None, elsewhere).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::PermissionDenied);
}

#[tokio::test]
async fn what_polaris_forbids_says_who_lacks_which_privilege_and_who_can_help() {
    let catalog = polaris(
        "lakehouse",
        &["tables-forbidden", "table-load-forbidden-without-delegation", "commit-forbidden", "drop-forbidden"],
    )
    .await;
    let silver = Namespace::from_schema("silver");
    let Err(CommitFault::Refused(commit)) = catalog.commit(&[change(json!({}))]).await else { panic!() };
    let denied = [
        (catalog.list_tables(&silver, &PageRequest::default()).await.map(drop).unwrap_err(), "TABLE_LIST on schema \"silver\""),
        (
            catalog.load_table(&silver_table(), None, Purpose::Data).await.map(drop).unwrap_err(),
            "TABLE_READ_PROPERTIES on table \"silver.rec_s\"",
        ),
        (catalog.drop_table(&silver_table(), false).await.unwrap_err(), "TABLE_DROP on table \"silver.rec_s\""),
        (commit, "TABLE_SET_PROPERTIES on table \"gold.rec_t\""),
    ];
    for (error, lacked) in denied {
        assert_eq!(
            error.to_string(),
            format!(
                "catalog \"lake\" does not allow it: principal \"analyst\" lacks {lacked} (principal roles: analysts; grants by way \
                 of: analysts, gold_reader); an administrator of the catalog can grant it"
            )
        );
        assert_eq!(error.kind(), Kind::PermissionDenied);
    }
}

#[tokio::test]
async fn what_polaris_does_not_have_is_not_found() {
    let catalog = polaris("lakehouse", &["table-missing", "namespace-missing"]).await;
    let error = catalog.load_table(&table("nope"), None, Purpose::Data).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::NotFound, "table \"gold.nope\" does not exist in catalog \"lake\"")
    );
    let error = catalog.load_namespace(&Namespace::from_schema("nope")).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::NotFound, "schema \"nope\" does not exist in catalog \"lake\"")
    );
    let error =
        polaris("nope", &["config-unknown-warehouse"]).await.load_table(&table("t"), None, Purpose::Data).await.unwrap_err();
    assert_eq!(error.to_string(), "catalog \"lake\" refused the request: Unable to find warehouse nope");
}

#[tokio::test]
async fn what_polaris_has_already_is_not_made_again() {
    let catalog = polaris("lakehouse", &["namespace-create-exists", "table-create-exists"]).await;
    let error = catalog.create_namespace(&gold(), BTreeMap::new()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::AlreadyExists, "schema \"gold\" already exists in catalog \"lake\"")
    );
    let error = catalog.create_table(&gold(), json!({ "name": "rec_t" })).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::AlreadyExists, "table \"gold.rec_t\" already exists in catalog \"lake\"")
    );
}

#[tokio::test]
async fn commits_to_polaris_are_made_refused_or_lost() {
    for (case, message) in [
        ("commit-conflict", "Requirement failed: branch or tag main is missing, expected 12345"),
        (
            "commit-uuid-mismatch",
            "Requirement failed: UUID does not match: expected a43ec95d-58ba-4249-b549-3e26afd90b70 != 00000000-0000-0000-0000-000000000000",
        ),
    ] {
        let Err(CommitFault::Refused(error)) = polaris("lakehouse", &[case]).await.commit(&[change(json!({}))]).await else {
            panic!()
        };
        assert_eq!(error.kind(), Kind::Aborted);
        assert_eq!(error.to_string(), format!("the commit to catalog \"lake\" lost against another one: {message}"));
    }
    let Err(CommitFault::Refused(error)) = polaris("lakehouse", &["commit-invalid"]).await.commit(&[change(json!({}))]).await
    else {
        panic!()
    };
    assert_eq!(error.kind(), Kind::InvalidArgument);
    let two = [change(json!({})), change(json!({}))];
    polaris("lakehouse", &["transactions-commit"]).await.commit(&two).await.unwrap();
    let lost = polaris("lakehouse", &["transactions-commit-conflict"]).await.commit(&two).await;
    assert!(matches!(lost, Err(CommitFault::Refused(CatalogError::Conflict { .. }))));
}

#[tokio::test]
async fn renames_and_drops_of_polaris_have_no_body_to_speak_of() {
    let catalog = polaris("lakehouse", &["rename", "drop"]).await;
    catalog.rename_table(&table("rec_t"), &table("rec_t2")).await.unwrap();
    catalog.drop_table(&table("rec_t2"), false).await.unwrap();
}

#[tokio::test]
async fn credentials_that_polaris_refuses_are_the_administrators_matter() {
    for (case, reason) in [
        ("token-wrong-secret", "The client is not authorized"),
        ("token-bad-scope", "The scope is invalid"),
        ("config-bad-token", "status 401"),
    ] {
        let error = polaris("lakehouse", &[case]).await.load_table(&table("rec_t"), None, Purpose::Data).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!(
            error.to_string(),
            format!("catalog \"lake\" refused the gateway's credentials ({reason}); an administrator must check them")
        );
    }
}
