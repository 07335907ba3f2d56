//! Owns the Iceberg REST protocol as workers speak it with the relay: routes, tokens, what a lease allows, statuses. Refuses to
//! know the catalogs behind it.
//!
//! DuckDB sends a request again on 408, 418, 429, 500, 503 and 504, also a commit that was made. None of these ever goes to a worker.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Relay;
use super::cache::Step;
use super::commit::commit;
use super::error::CatalogError;
use super::table::{self, Table};
use super::upstream::{PageRequest, PropertyChange, Purpose, TableChange};
use super::views::View;
use super::workers::Visitor;
use crate::names::{CatalogName, Namespace, TableRef};

/// What the relay offers; DuckDB decides by it what to call.
const ENDPOINTS: [&str; 14] = [
    "GET /v1/{prefix}/namespaces",
    "POST /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "DELETE /v1/{prefix}/namespaces/{namespace}",
    "POST /v1/{prefix}/namespaces/{namespace}/properties",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "POST /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "DELETE /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/tables/rename",
    "POST /v1/{prefix}/transactions/commit",
];

/// Between the levels of a namespace in a path.
const LEVEL_SEPARATOR: char = '\u{1f}';

/// How long a table is read again after its commit: together with the commit less than the 30 s after which a worker would send it a
/// second time.
const LOOK_AFTER_COMMIT: Duration = Duration::from_secs(2);

type Options = Query<HashMap<String, String>>;
type Answer = Result<Response, Refusal>;

/// Answers until `stop` is cancelled.
pub(super) async fn serve(relay: Arc<Relay>, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
    // Without it each answer waits for the acknowledgement of its own head.
    let listener = listener.tap_io(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a worker's connection keeps Nagle's algorithm");
        }
    });
    axum::serve(listener, routes(relay)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn routes(relay: Arc<Relay>) -> Router {
    let limit = DefaultBodyLimit::max(relay.config.max_body_bytes);
    Router::new()
        .route("/v1/config", get(config))
        .route("/v1/{catalog}/namespaces", get(list_namespaces).post(create_namespace))
        .route("/v1/{catalog}/namespaces/{namespace}", get(load_namespace).delete(drop_namespace))
        .route("/v1/{catalog}/namespaces/{namespace}/properties", post(update_namespace))
        .route("/v1/{catalog}/namespaces/{namespace}/tables", get(list_tables).post(create_table))
        .route("/v1/{catalog}/namespaces/{namespace}/tables/{table}", get(load_table).post(commit_table).delete(drop_table))
        .route("/v1/{catalog}/tables/rename", post(rename_table))
        .route("/v1/{catalog}/transactions/commit", post(commit_transaction))
        .fallback(nowhere)
        .layer(limit)
        .with_state(relay)
}

async fn config(State(relay): State<Arc<Relay>>, visitor: Visitor, Query(query): Options) -> Answer {
    let catalog = CatalogName::from(query.get("warehouse").map(String::as_str).unwrap_or_default());
    relay.seen_by(&visitor, &catalog)?;
    Ok(Json(json!({ "defaults": {}, "overrides": { "prefix": catalog }, "endpoints": ENDPOINTS })).into_response())
}

async fn list_namespaces(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path(catalog): Path<CatalogName>,
    Query(query): Options,
) -> Answer {
    let parent = query.get("parent").filter(|parent| !parent.is_empty()).map(|parent| levels(parent));
    let served = relay.seen_by(&visitor, &catalog)?;
    let page = served.upstream.list_namespaces(parent.as_ref(), &page_of(&query)).await?;
    let namespaces: Vec<&[String]> = page.items.iter().map(Namespace::levels).collect();
    Ok(Json(json!({ "namespaces": namespaces, "next-page-token": page.next })).into_response())
}

async fn load_namespace(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path((catalog, namespace)): Path<(CatalogName, String)>,
) -> Answer {
    let namespace = levels(&namespace);
    let properties = match relay.seen_by(&visitor, &catalog)?.upstream.load_namespace(&namespace).await {
        // Its properties are not for the credential to see. DuckDB would take it for missing, and never ask for what is allowed in it,
        // nor learn why the rest is not.
        Err(CatalogError::Forbidden { .. }) => BTreeMap::new(),
        properties => properties?,
    };
    Ok(Json(json!({ "namespace": namespace.levels(), "properties": properties })).into_response())
}

async fn create_namespace(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path(catalog): Path<CatalogName>,
    body: Bytes,
) -> Answer {
    #[derive(Deserialize)]
    struct Request {
        namespace: Vec<String>,
        #[serde(default)]
        properties: Option<BTreeMap<String, String>>,
    }
    let served = relay.written_by(&visitor, &catalog)?;
    let request: Request = parse(&catalog, &body)?;
    let namespace = Namespace::new(request.namespace);
    let properties = request.properties.unwrap_or_default();
    let _voids = relay.changing_namespace(&catalog, &namespace);
    served.upstream.create_namespace(&namespace, properties.clone()).await?;
    Ok(Json(json!({ "namespace": namespace.levels(), "properties": properties })).into_response())
}

async fn update_namespace(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path((catalog, namespace)): Path<(CatalogName, String)>,
    body: Bytes,
) -> Answer {
    #[derive(Deserialize)]
    struct Request {
        #[serde(default)]
        removals: Option<Vec<String>>,
        #[serde(default)]
        updates: Option<BTreeMap<String, String>>,
    }
    let served = relay.written_by(&visitor, &catalog)?;
    let request: Request = parse(&catalog, &body)?;
    let change = PropertyChange { removals: request.removals.unwrap_or_default(), updates: request.updates.unwrap_or_default() };
    let answer = json!({ "updated": change.updates.keys().collect::<Vec<_>>(), "removed": change.removals, "missing": [] });
    served.upstream.update_namespace(&levels(&namespace), change).await?;
    Ok(Json(answer).into_response())
}

async fn drop_namespace(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path((catalog, namespace)): Path<(CatalogName, String)>,
) -> Answer {
    let namespace = levels(&namespace);
    let served = relay.written_by(&visitor, &catalog)?;
    let _voids = relay.changing_namespace(&catalog, &namespace);
    served.upstream.drop_namespace(&namespace).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn list_tables(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path((catalog, namespace)): Path<(CatalogName, String)>,
    Query(query): Options,
) -> Answer {
    let namespace = levels(&namespace);
    let page = relay.seen_by(&visitor, &catalog)?.upstream.list_tables(&namespace, &page_of(&query)).await?;
    let identifiers: Vec<Value> =
        page.items.iter().map(|name| json!({ "namespace": namespace.levels(), "name": name })).collect();
    Ok(Json(json!({ "identifiers": identifiers, "next-page-token": page.next })).into_response())
}

async fn create_table(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path((catalog, namespace)): Path<(CatalogName, String)>,
    body: Bytes,
) -> Answer {
    let served = relay.written_by(&visitor, &catalog)?;
    let request: Value = parse(&catalog, &body)?;
    let name = request["name"].as_str().unwrap_or_default().to_owned();
    let table = TableRef { catalog, namespace: levels(&namespace), table: name };
    if let Some(location) = request["location"].as_str() {
        table::outside(&table, "the new table", location, &served.confinement)?;
    }
    let _voids = relay.renaming([table.clone()]);
    let created = served.upstream.create_table(&table.namespace, request).await?;
    let created = Table::read(table.clone(), created, None, served.confinement.clone()).await?;
    created.tell(&table, &served.storage);
    relay.workers.opens(&visitor, &table.catalog);
    created.make_directories().await;
    Ok(json_bytes(created.whole))
}

async fn load_table(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path((catalog, namespace, table)): Path<(CatalogName, String, String)>,
) -> Answer {
    let served = relay.seen_by(&visitor, &catalog)?;
    let table = TableRef { catalog, namespace: levels(&namespace), table };
    let terms = visitor.terms();
    // All tables of a read were loaded ahead; a change finds out by itself whether its target is there.
    let step = visitor.lease.filter(|_| terms.writes).map_or(Step::Ahead, |lease| Step::Begun(lease.granted));
    let loaded = relay.look(&served, &table, Purpose::Data, step, terms.writes).await?;
    relay.workers.opens(&visitor, &table.catalog);
    if terms.writes {
        loaded.make_directories().await;
    }
    // A writer must see the true head, whatever else its lease says.
    Ok(json_bytes(match visitor.lease {
        Some(lease) if terms.whole_metadata || terms.writes => loaded.whole_at(lease.granted_ms).await,
        _ => loaded.trimmed.clone(),
    }))
}

async fn drop_table(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path((catalog, namespace, table)): Path<(CatalogName, String, String)>,
    Query(query): Options,
) -> Answer {
    let served = relay.written_by(&visitor, &catalog)?;
    let table = TableRef { catalog, namespace: levels(&namespace), table };
    let purge = query.get("purgeRequested").is_some_and(|purge| purge.eq_ignore_ascii_case("true"));
    let _voids = relay.renaming([table.clone()]);
    served.upstream.drop_table(&table, purge).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct Identifier {
    namespace: Vec<String>,
    name: String,
}

impl Identifier {
    fn in_catalog(self, catalog: &CatalogName) -> TableRef {
        TableRef { catalog: catalog.clone(), namespace: Namespace::new(self.namespace), table: self.name }
    }
}

async fn rename_table(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path(catalog): Path<CatalogName>,
    body: Bytes,
) -> Answer {
    #[derive(Deserialize)]
    struct Request {
        source: Identifier,
        destination: Identifier,
    }
    let served = relay.written_by(&visitor, &catalog)?;
    let request: Request = parse(&catalog, &body)?;
    let (from, to) = (request.source.in_catalog(&catalog), request.destination.in_catalog(&catalog));
    let _voids = relay.renaming([from.clone(), to.clone()]);
    served.upstream.rename_table(&from, &to).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct ChangeRequest {
    #[serde(default)]
    identifier: Option<Identifier>,
    #[serde(default)]
    requirements: Vec<Value>,
    #[serde(default)]
    updates: Vec<Value>,
}

async fn commit_table(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path((catalog, namespace, table)): Path<(CatalogName, String, String)>,
    body: Bytes,
) -> Answer {
    let served = relay.seen_by(&visitor, &catalog)?;
    let request: ChangeRequest = parse(&catalog, &body)?;
    let table = TableRef { catalog, namespace: levels(&namespace), table };
    let change = TableChange { table: table.clone(), requirements: request.requirements, updates: request.updates };
    commit(&relay, &table.catalog, &served, &visitor, vec![change]).await?;
    // The commit is made, whatever comes of reading the table again; DuckDB does not look at the body.
    match tokio::time::timeout(LOOK_AFTER_COMMIT, relay.table(&visitor.grant.credential, &table)).await {
        Ok(Ok(loaded)) => return Ok(json_bytes(loaded.whole.clone())),
        Ok(Err(error)) => tracing::warn!(%table, %error, "a table cannot be read after its commit"),
        Err(_) => tracing::warn!(%table, "a table is not read in time after its commit"),
    }
    Ok(Json(json!({})).into_response())
}

async fn commit_transaction(
    State(relay): State<Arc<Relay>>,
    visitor: Visitor,
    Path(catalog): Path<CatalogName>,
    body: Bytes,
) -> Answer {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Request {
        table_changes: Vec<ChangeRequest>,
    }
    let served = relay.seen_by(&visitor, &catalog)?;
    let request: Request = parse(&catalog, &body)?;
    let mut changes = Vec::with_capacity(request.table_changes.len());
    for change in request.table_changes {
        let Some(identifier) = change.identifier else {
            return Err(invalid(&catalog, "a table change does not name its table").into());
        };
        let table = identifier.in_catalog(&catalog);
        changes.push(TableChange { table, requirements: change.requirements, updates: change.updates });
    }
    commit(&relay, &catalog, &served, &visitor, changes).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn nowhere(_: Visitor) -> Response {
    refusal(StatusCode::NOT_FOUND, "NoSuchEndpointException", "the relay does not have this endpoint")
}

impl Relay {
    /// The catalog, if the worker may reach it at all.
    fn seen_by(&self, visitor: &Visitor, catalog: &CatalogName) -> Result<Arc<View>, CatalogError> {
        if !visitor.grant.catalogs.contains(catalog) {
            return Err(CatalogError::NoSuchCatalog(catalog.clone()));
        }
        self.view(&visitor.grant.credential, catalog)
    }

    /// The catalog, if the worker's statement may change it.
    fn written_by(&self, visitor: &Visitor, catalog: &CatalogName) -> Result<Arc<View>, CatalogError> {
        if !self.workers.may_write(visitor) {
            return Err(CatalogError::Forbidden { catalog: catalog.clone(), reason: "the statement may not write".to_owned() });
        }
        self.seen_by(visitor, catalog)
    }
}

impl FromRequestParts<Arc<Relay>> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, relay: &Arc<Relay>) -> Result<Self, Response> {
        let shown = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = shown.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        token
            .and_then(|token| relay.workers.visit(token))
            .ok_or_else(|| refusal(StatusCode::UNAUTHORIZED, "NotAuthorizedException", "the relay does not know this worker"))
    }
}

/// A [`CatalogError`] on its way to a worker.
struct Refusal(CatalogError);

impl From<CatalogError> for Refusal {
    fn from(error: CatalogError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, name) = match &self.0 {
            CatalogError::NoSuchCatalog(_) => (StatusCode::NOT_FOUND, "NotFoundException"),
            CatalogError::NoSuchNamespace { .. } => (StatusCode::NOT_FOUND, "NoSuchNamespaceException"),
            CatalogError::NoSuchTable(_) | CatalogError::NoSuchSnapshot { .. } => (StatusCode::NOT_FOUND, "NoSuchTableException"),
            CatalogError::AlreadyExists { .. } => (StatusCode::CONFLICT, "AlreadyExistsException"),
            CatalogError::NotEmpty { .. } => (StatusCode::CONFLICT, "NamespaceNotEmptyException"),
            CatalogError::Conflict { .. } => (StatusCode::CONFLICT, "CommitFailedException"),
            CatalogError::Forbidden { .. } | CatalogError::OutsideLocation { .. } => {
                (StatusCode::FORBIDDEN, "ForbiddenException")
            }
            CatalogError::Invalid { .. } | CatalogError::TooManyNames { .. } => (StatusCode::BAD_REQUEST, "BadRequestException"),
            CatalogError::Unsupported { .. } => (StatusCode::NOT_ACCEPTABLE, "UnsupportedOperationException"),
            // Not 401: the worker's own token is in order.
            CatalogError::LoggedOut { .. } => (StatusCode::FORBIDDEN, "NotAuthorizedException"),
            CatalogError::Unauthorized { .. }
            | CatalogError::Unreachable { .. }
            | CatalogError::Timeout { .. }
            | CatalogError::Failing { .. }
            | CatalogError::Broke
            | CatalogError::BadAnswer { .. } => (StatusCode::BAD_GATEWAY, "BadGatewayException"),
            CatalogError::OutcomeUnknown { .. } => (StatusCode::BAD_GATEWAY, "CommitStateUnknownException"),
        };
        refusal(status, name, &self.0.to_string())
    }
}

fn refusal(status: StatusCode, name: &str, message: &str) -> Response {
    (status, Json(json!({ "error": { "message": message, "type": name, "code": status.as_u16() } }))).into_response()
}

fn json_bytes(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn parse<T: DeserializeOwned>(catalog: &CatalogName, body: &[u8]) -> Result<T, CatalogError> {
    serde_json::from_slice(body).map_err(|error| invalid(catalog, &format!("the request cannot be read: {error}")))
}

fn invalid(catalog: &CatalogName, reason: &str) -> CatalogError {
    CatalogError::Invalid { catalog: catalog.clone(), reason: reason.to_owned() }
}

fn levels(text: &str) -> Namespace {
    Namespace::new(text.split(LEVEL_SEPARATOR).map(str::to_owned).collect())
}

fn page_of(query: &HashMap<String, String>) -> PageRequest {
    let given = |name: &str| query.get(name).filter(|value| !value.is_empty()).cloned();
    PageRequest { token: given("pageToken"), size: given("pageSize") }
}
