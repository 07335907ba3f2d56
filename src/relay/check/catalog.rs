//! Owns the steps of a catalog once there is a token: it takes the token and knows the warehouse, lists, and loads a table. Refuses to
//! read files.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde_json::Value;

use super::caller::{Entry, fault_of};
use super::{Fault, Found, Login, Record, Step, Subject};
use crate::names::{Namespace, TableRef};
use crate::relay::config::RestCredentials;
use crate::relay::error::CatalogError;
use crate::relay::table::Table;
use crate::relay::upstream::{Answer, PageRequest, Purpose};
use crate::relay::views::{View, Way};

/// Namespaces that are looked into for a table, and tables that are tried for one that can be loaded and has rows.
const MAX_NAMESPACES: usize = 20;
const MAX_TABLES: usize = 5;

/// A table as the catalog gave it.
pub(super) struct Loaded {
    pub(super) table: TableRef,
    /// The load answer.
    pub(super) body: Bytes,
    pub(super) metadata: Value,
}

/// How knocking ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knocked {
    /// What follows can be tried.
    Open,
    Failed,
    /// All is well, but what follows takes a log-in that is not at hand; the steps have been told of.
    AsksForLogin,
}

/// Shows the catalog the token, and the warehouse's name. A caller has to come in at the gateway's entry, too.
pub(super) async fn knock(
    subject: &Subject,
    way: &Way<'_>,
    view: &View,
    entry: Option<&Entry<'_>>,
    record: &mut Record<'_>,
) -> Knocked {
    let began = Instant::now();
    let without_login = matches!(way.credentials, Some(RestCredentials::None));
    let asks_for_caller = match &subject.login {
        Login::NoCaller { pass } if without_login => Some(*pass),
        _ => None,
    };
    let known = way.config.warehouse.as_ref().map_or_else(|| "known".to_owned(), |warehouse| format!("{warehouse} is known"));
    match view.upstream.knock().await {
        Ok(()) => {
            let admitted = match entry {
                Some(entry) => entry.admitted().await,
                None => Ok(()),
            };
            let found = match admitted {
                Ok(()) => Found::ok(known),
                Err(error) => subject.failed(fault_of(&error), format!("a gateway would not let the caller in: {error}")),
            };
            if record.note(Step::Warehouse, began, found) { Knocked::Open } else { Knocked::Failed }
        }
        Err(error) => {
            let is_refusal = matches!(error, CatalogError::Unauthorized { .. } | CatalogError::Forbidden { .. });
            if let Some(pass) = asks_for_caller.filter(|_| is_refusal) {
                record.note(Step::Warehouse, began, Found::ok("the catalog answers, and asks for a log-in"));
                let steps = [Step::List, Step::Load, Step::Credentials, Step::Read];
                for step in steps {
                    record.note(step, began, Found::skipped(format!("not tried: it takes a caller's log-in: {pass}")));
                }
                return Knocked::AsksForLogin;
            }
            let fault = Fault::of_catalog(&error);
            let fault = if fault == Fault::BadLogin && is_fixed(way.credentials) { Fault::BadSecret } else { fault };
            record.note(Step::Warehouse, began, subject.failed(fault, error.to_string()));
            Knocked::Failed
        }
    }
}

fn is_fixed(credentials: Option<&RestCredentials>) -> bool {
    matches!(credentials, Some(RestCredentials::Bearer { .. }))
}

/// Lists, and loads a table; `Some(None)` when there is none to load, `None` when nothing more can be tried.
pub(super) async fn table(subject: &Subject, view: &View, record: &mut Record<'_>) -> Option<Option<Loaded>> {
    let began = Instant::now();
    let (found, candidates) = listed(subject, view).await;
    let goes_on = record.note(Step::List, began, found);
    let candidates = match &subject.table {
        Some((namespace, table)) => vec![(namespace.clone(), table.clone())],
        None if !goes_on => {
            record.not_tried(&[Step::Load]);
            return None;
        }
        None => candidates,
    };
    let began = Instant::now();
    if candidates.is_empty() {
        let detail = "there is no table to try; --write makes one, and --table NAMESPACE.TABLE names one further down";
        record.note(Step::Load, began, Found::skipped(detail));
        return Some(None);
    }
    match loaded(subject, view, candidates).await {
        Ok(loaded) => {
            let snapshots = loaded.metadata["snapshots"].as_array().map_or(0, Vec::len);
            let place = loaded.metadata["location"].as_str().unwrap_or_default();
            record.note(Step::Load, began, Found::ok(format!("{}, {snapshots} snapshot(s), at {place}", loaded.table)));
            record.table = Some(loaded.table.clone());
            Some(Some(loaded))
        }
        Err(found) => {
            record.note(Step::Load, began, found);
            None
        }
    }
}

/// What there is to see, and tables to try.
async fn listed(subject: &Subject, view: &View) -> (Found, Vec<(Namespace, String)>) {
    let failed = |error: &CatalogError| subject.failed(Fault::of_catalog(error), error.to_string());
    let page = PageRequest::default();
    let namespaces = match view.upstream.list_namespaces(None, &page).await {
        Ok(namespaces) => namespaces,
        Err(error) => return (failed(&error), Vec::new()),
    };
    let more = if namespaces.next.is_some() { " and more" } else { "" };
    let (mut tables, mut looked, mut refused) = (Vec::new(), 0, None);
    for namespace in namespaces.items.iter().take(MAX_NAMESPACES) {
        match view.upstream.list_tables(namespace, &page).await {
            Ok(names) => {
                looked += 1;
                tables.extend(names.items.into_iter().map(|name| (namespace.clone(), name)));
            }
            // Others may be for the credential to see.
            Err(error @ (CatalogError::Forbidden { .. } | CatalogError::NoSuchNamespace { .. })) => refused = Some(error),
            Err(error) => return (failed(&error), Vec::new()),
        }
        if tables.len() >= MAX_TABLES {
            break;
        }
    }
    let detail = format!(
        "{} schema(s){more}, {} table(s) in {looked} of them that were looked into",
        namespaces.items.len(),
        tables.len()
    );
    match refused {
        Some(error) if looked == 0 => (failed(&error), tables),
        Some(error) => (Found::warning(detail, format!("not all of them may be looked into: {error}")), tables),
        None => (Found::ok(detail), tables),
    }
}

/// The first table that can be loaded and has a snapshot, or else the first that can be loaded.
async fn loaded(subject: &Subject, view: &View, candidates: Vec<(Namespace, String)>) -> Result<Loaded, Found> {
    let (mut empty, mut refused) = (None, None);
    for (namespace, table) in candidates.into_iter().take(MAX_TABLES) {
        let table = TableRef { catalog: subject.name.clone(), namespace, table };
        match load(view, &table).await {
            Ok(loaded) if loaded.metadata["current-snapshot-id"].as_i64().is_some_and(|id| id >= 0) => return Ok(loaded),
            Ok(loaded) => empty = empty.or(Some(loaded)),
            // A wall of many may have a door.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let failed = |error: &CatalogError| {
        // By now the catalog is known for one.
        let fault = match Fault::of_catalog(error) {
            Fault::NoWarehouse | Fault::WrongUri => Fault::Failing,
            fault => fault,
        };
        subject.failed(fault, error.to_string())
    };
    match (empty, refused) {
        (Some(empty), _) => Ok(empty),
        (None, Some(error)) => Err(failed(&error)),
        (None, None) => Err(Found::skipped("there is no table to try")),
    }
}

async fn load(view: &View, table: &TableRef) -> Result<Loaded, CatalogError> {
    let bad = |reason: String| CatalogError::BadAnswer { catalog: table.catalog.clone(), reason };
    let Answer::Fresh { body, etag } = view.upstream.load_table(table, None, Purpose::Data).await? else {
        return Err(bad("it says that nothing has changed without having been asked".to_owned()));
    };
    // As workers would get it: it must lie where the config allows it.
    Table::read(table.clone(), body.clone(), etag, Arc::clone(&view.confinement)).await?;
    let mut answer: Value = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    let metadata = answer["metadata"].take();
    Ok(Loaded { table: table.clone(), body, metadata })
}
