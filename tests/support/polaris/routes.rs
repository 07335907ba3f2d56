//! Owns the way of one request: what it asks for, who asks, what goes wrong on purpose, and the answer. Refuses to know what is in
//! catalogs and who may do what.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::response::Response;
use percent_encoding::percent_decode_str;
use polynya::names::Namespace;
use tokio_util::sync::CancellationToken;

use super::Core;
use super::answer::{Answer, Problem};
use super::faults::{Fault, Moment, Operation, Subject};
use super::identity::authorize::Caller;
use super::identity::realm::Realm;
use super::identity::token::TokenRequest;
use super::log::Call;
use super::server::Line;
use super::setup::HOME;
use super::tables::Visit;

/// How large a body may be.
const MAX_BODY: usize = 256 << 20;

/// Between the levels of a namespace in a path.
const LEVEL_SEPARATOR: char = '\u{1f}';

/// What a request asks for.
struct Asked {
    operation: Operation,
    warehouse: Option<String>,
    namespace: Option<Namespace>,
    table: Option<String>,
    query: HashMap<String, String>,
}

/// Who asks.
enum Asker {
    /// At the token endpoint.
    Client(TokenRequest),
    /// With a bearer token that is in order.
    Caller(Caller),
    Nobody,
}

pub(super) fn routes(core: Arc<Core>) -> Router {
    Router::new().fallback(serve).with_state(core)
}

async fn serve(State(core): State<Arc<Core>>, ConnectInfo(line): ConnectInfo<Line>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
        return Answer::empty(413).into_response();
    };
    // What was begun goes on when the client goes away, as it does in a server with threads of its own.
    let gone = CancellationToken::new();
    let _gone = gone.clone().drop_guard();
    match tokio::spawn(answer(core, parts, body, gone)).await {
        Ok(Some(answer)) => answer.into_response(),
        Ok(None) => {
            line.cut();
            Answer::empty(500).into_response()
        }
        Err(_) => Answer::on_purpose(500).into_response(),
    }
}

/// None means that the connection is to be closed.
async fn answer(core: Arc<Core>, parts: Parts, body: Bytes, gone: CancellationToken) -> Option<Answer> {
    let Some((realm, path)) = realm_of(&core, &parts) else {
        return Some(Problem::new(404, "MissingOrInvalidRealm", "Missing or invalid realm").into());
    };
    let asked = Asked::read(&parts, &path);
    let (asker, principal) = asker(&realm, &asked, &parts, &body).await;
    let target = asked.target(&asker);
    let faults = core.faults.strike(&Subject {
        operation: asked.operation,
        realm: &realm.name,
        principal: principal.as_deref(),
        warehouse: asked.warehouse.as_deref(),
        target: target.as_deref(),
    });
    let entry = core.log.arrived(Call {
        number: 0,
        at_ms: 0,
        realm: realm.name.clone(),
        operation: asked.operation,
        principal,
        warehouse: asked.warehouse.clone(),
        target,
        delegation: parts.headers.contains_key("x-iceberg-access-delegation"),
        conditional: parts.headers.contains_key(header::IF_NONE_MATCH),
        faults: faults.iter().map(|(_, fault)| fault.clone()).collect(),
        status: None,
        took_ms: None,
    });
    let answer = answer_with(&core, &faults, &gone, async |stale| match asker {
        Asker::Client(request) => match realm.issue(&request, stale).await {
            Ok(token) => Answer::json(&token),
            Err(refused) => {
                let (status, body) = refused.answer();
                Answer::json(&body).with_status(status)
            }
        },
        Asker::Caller(caller) if !stale => perform(&realm, &caller, &asked, &parts, &body).await.unwrap_or_else(Answer::from),
        Asker::Caller(_) | Asker::Nobody => Answer::unauthorized(),
    })
    .await;
    core.log.answered(&entry, answer.as_ref().map(|answer| answer.status));
    answer
}

/// The answer as the faults leave it. What is carried out hears whether its token is to count as expired.
async fn answer_with(
    core: &Core,
    faults: &[(Moment, Fault)],
    gone: &CancellationToken,
    carry_out: impl AsyncFnOnce(bool) -> Answer,
) -> Option<Answer> {
    let stale = faults.iter().any(|(_, fault)| *fault == Fault::ExpiredToken);
    if let Some(instead) = suffer(core, faults, Moment::Before, gone).await {
        return instead;
    }
    let mut answer = carry_out(stale).await;
    if faults.iter().any(|(_, fault)| *fault == Fault::Cut) {
        answer = answer.cut();
    }
    for (_, fault) in faults {
        if let Fault::ClockOffS(seconds) = fault {
            answer = answer.dated(*seconds);
        }
    }
    suffer(core, faults, Moment::After, gone).await.unwrap_or(Some(answer))
}

/// Waits where a fault says so; gives what is answered instead, if anything: None in it closes the connection.
async fn suffer(core: &Core, faults: &[(Moment, Fault)], moment: Moment, gone: &CancellationToken) -> Option<Option<Answer>> {
    for (_, fault) in faults.iter().filter(|(when, _)| *when == moment) {
        match fault {
            Fault::DelayMs(_) => core.faults.wait(fault).await,
            // A request that hangs and whose client gives up was never carried out.
            Fault::Hang => tokio::select! {
                () = core.faults.wait(fault) => {}
                () = gone.cancelled() => return Some(None),
            },
            Fault::Status(status) => return Some(Some(Answer::on_purpose(*status))),
            Fault::Close => return Some(None),
            Fault::Cut | Fault::ExpiredToken | Fault::ClockOffS(_) => {}
        }
    }
    None
}

/// The realm by the path (`/realms/<name>/api/…`, as a proxy before Polaris gives each its own address), by the header, or the first.
fn realm_of(core: &Core, parts: &Parts) -> Option<(Arc<Realm>, String)> {
    let path = parts.uri.path();
    if let Some((name, rest)) = path.strip_prefix("/realms/").and_then(|rest| rest.split_once('/')) {
        return Some((core.realm(name)?, format!("/{rest}")));
    }
    let named = parts.headers.get("polaris-realm").and_then(|name| name.to_str().ok());
    let realm = match named {
        Some(name) => core.realm(name)?,
        None => core.realm(HOME).or_else(|| core.realms.first().cloned())?,
    };
    Some((realm, path.to_owned()))
}

async fn asker(realm: &Realm, asked: &Asked, parts: &Parts, body: &[u8]) -> (Asker, Option<String>) {
    let shown = parts.headers.get(header::AUTHORIZATION).and_then(|shown| shown.to_str().ok());
    if asked.operation == Operation::Token {
        let request = TokenRequest::new(shown.map(str::to_owned), body);
        let principal = realm.asker(&request).await;
        return (Asker::Client(request), principal);
    }
    let caller = match shown.and_then(|shown| shown.strip_prefix("Bearer ")) {
        Some(token) => realm.bearer(token).await,
        None => None,
    };
    match caller {
        Some(caller) => {
            let principal = caller.principal.clone();
            (Asker::Caller(caller), Some(principal))
        }
        None => (Asker::Nobody, None),
    }
}

impl Asked {
    fn read(parts: &Parts, path: &str) -> Self {
        let query: HashMap<String, String> =
            url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let segments: Vec<String> = path
            .strip_prefix("/api/catalog/v1/")
            .unwrap_or_default()
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let operation = operation_of(&parts.method, &segments);
        let (mut warehouse, mut namespace, mut table) = (None, None, None);
        match (operation, segments.as_slice()) {
            (Operation::Config, _) => warehouse = query.get("warehouse").cloned(),
            (Operation::Token | Operation::Unknown, _) => {}
            (_, [catalog, rest @ ..]) => {
                warehouse = Some((*catalog).to_owned());
                namespace = rest.get(1).filter(|_| rest[0] == "namespaces").map(|levels| levels_of(levels));
                table = rest.get(3).map(|name| (*name).to_owned());
            }
            (_, []) => {}
        }
        Self { operation, warehouse, namespace, table, query }
    }

    /// What it is about, for the log.
    fn target(&self, asker: &Asker) -> Option<String> {
        match (asker, &self.namespace, &self.table) {
            (Asker::Client(request), _, _) => Some(request.grant_type().to_owned()),
            (_, Some(namespace), Some(table)) => Some(format!("{namespace}.{table}")),
            (_, namespace, _) => namespace.as_ref().map(ToString::to_string),
        }
    }
}

fn operation_of(method: &Method, segments: &[&str]) -> Operation {
    use Operation::*;
    match (method.as_str(), segments) {
        ("POST", ["oauth", "tokens"]) => Token,
        ("GET", ["config"]) => Config,
        ("GET", [_, "namespaces"]) => ListNamespaces,
        ("POST", [_, "namespaces"]) => CreateNamespace,
        ("GET", [_, "namespaces", _]) => LoadNamespace,
        ("HEAD", [_, "namespaces", _]) => NamespaceExists,
        ("DELETE", [_, "namespaces", _]) => DropNamespace,
        ("POST", [_, "namespaces", _, "properties"]) => UpdateNamespace,
        ("GET", [_, "namespaces", _, "tables"]) => ListTables,
        ("POST", [_, "namespaces", _, "tables"]) => CreateTable,
        ("POST", [_, "namespaces", _, "register"]) => RegisterTable,
        ("GET", [_, "namespaces", _, "tables", _]) => LoadTable,
        ("HEAD", [_, "namespaces", _, "tables", _]) => TableExists,
        ("POST", [_, "namespaces", _, "tables", _]) => CommitTable,
        ("DELETE", [_, "namespaces", _, "tables", _]) => DropTable,
        ("GET", [_, "namespaces", _, "tables", _, "credentials"]) => LoadCredentials,
        ("POST", [_, "namespaces", _, "tables", _, "metrics"]) => ReportMetrics,
        ("GET", [_, "namespaces", _, "views"]) => ListViews,
        ("POST", [_, "tables", "rename"]) => RenameTable,
        ("POST", [_, "transactions", "commit"]) => CommitTransaction,
        _ => Unknown,
    }
}

fn levels_of(text: &str) -> Namespace {
    Namespace::new(text.split(LEVEL_SEPARATOR).map(str::to_owned).collect())
}

async fn perform(realm: &Realm, caller: &Caller, asked: &Asked, parts: &Parts, body: &[u8]) -> Result<Answer, Problem> {
    if asked.operation == Operation::Unknown {
        return Ok(Answer::empty(404));
    }
    let Some(name) = asked.warehouse.as_deref().filter(|name| !name.is_empty()) else {
        return Err(Problem::bad_request("Please specify a warehouse"));
    };
    let Some(warehouse) = realm.warehouse(name) else {
        return Err(Problem::new(404, "NotFoundException", format!("Unable to find warehouse {name}")));
    };
    let visit = Visit { realm, warehouse: &warehouse, caller, delegation: wants_credentials(parts)? };
    let query = &asked.query;
    let Some(namespace) = &asked.namespace else {
        let parent = query.get("parent").filter(|parent| !parent.is_empty()).map(|parent| levels_of(parent));
        return match asked.operation {
            Operation::Config => Ok(Answer::json(&warehouse.configuration())),
            Operation::ListNamespaces => visit.list_namespaces(parent.as_ref(), query).await,
            Operation::CreateNamespace => visit.create_namespace(body).await,
            Operation::RenameTable => visit.rename_table(body).await,
            Operation::CommitTransaction => visit.commit_transaction(body).await,
            _ => Ok(Answer::empty(404)),
        };
    };
    let Some(table) = &asked.table else {
        return match asked.operation {
            Operation::LoadNamespace => visit.load_namespace(namespace).await,
            Operation::NamespaceExists => visit.namespace_exists(namespace).await,
            Operation::UpdateNamespace => visit.update_namespace(namespace, body).await,
            Operation::DropNamespace => visit.drop_namespace(namespace).await,
            Operation::ListTables => visit.list_tables(namespace, query).await,
            Operation::CreateTable => visit.create_table(namespace, body).await,
            Operation::ListViews => visit.list_views(namespace).await,
            _ => Err(Problem::new(406, "UnsupportedOperationException", "The stand-in does not have this endpoint")),
        };
    };
    match asked.operation {
        Operation::LoadTable => {
            let known = parts.headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
            visit.load_table(namespace, table, known, query.get("snapshots").map(String::as_str)).await
        }
        Operation::TableExists => visit.table_exists(namespace, table).await,
        Operation::LoadCredentials => visit.load_credentials(namespace, table).await,
        Operation::CommitTable => visit.commit_table(namespace, table, body).await,
        Operation::DropTable => {
            let purge = query.get("purgeRequested").is_some_and(|purge| purge.eq_ignore_ascii_case("true"));
            visit.drop_table(namespace, table, purge).await
        }
        Operation::ReportMetrics => visit.report_metrics(namespace, table, body).await,
        _ => Ok(Answer::empty(404)),
    }
}

/// Whether vended credentials are asked for.
fn wants_credentials(parts: &Parts) -> Result<bool, Problem> {
    let Some(modes) = parts.headers.get("x-iceberg-access-delegation").and_then(|modes| modes.to_str().ok()) else {
        return Ok(false);
    };
    if modes.split(',').any(|mode| mode.trim() == "vended-credentials") {
        return Ok(true);
    }
    Err(Problem::invalid(format!("Unsupported access delegation mode: {modes}")))
}
