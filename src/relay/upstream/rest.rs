//! Owns the Iceberg REST protocol as a client: which call an operation is, and what its answers mean. Refuses to know tokens and
//! retries: `http` has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::health::Health;
use super::http::{Call, Connection, Whose, namespace_segment, table_path};
use super::reach::{Fault, Reach, Reply};
use super::{Answer, CommitFault, Page, PageRequest, PropertyChange, Purpose, TableChange, Upstream};
use crate::names::{CatalogName, Namespace, TableRef};
use crate::relay::config::AccessDelegation;
use crate::relay::error::CatalogError;
use crate::relay::tokens::Source;
use crate::relay::words::About;

/// The operation that commits several tables at once.
const TRANSACTION: &str = "POST /v1/{prefix}/transactions/commit";

/// Any Iceberg REST catalog.
pub(in crate::relay) struct Rest {
    connection: Connection,
}

impl Rest {
    /// Prepares it; nothing is sent.
    pub(in crate::relay) fn new(reach: Arc<Reach>, whose: Whose, source: Arc<Source>) -> Self {
        Self { connection: Connection::new(reach, whose, source) }
    }

    async fn read(&self, path: String, query: Vec<(&'static str, String)>) -> Result<Reply, CatalogError> {
        self.connection.read(Call { method: Method::GET, path, query, etag: None, delegated: false, body: None }).await
    }

    /// A call that changes something, for which nobody looks afterwards what became of it.
    async fn change(
        &self,
        method: Method,
        path: String,
        query: Vec<(&'static str, String)>,
        body: Option<&Value>,
    ) -> Result<Reply, CatalogError> {
        self.changed(Call { method, path, query, etag: None, delegated: false, body }).await
    }

    async fn changed(&self, call: Call<'_>) -> Result<Reply, CatalogError> {
        match self.connection.once_in_time(&call).await {
            Ok(reply) if reply.status.is_server_error() && reply.status.as_u16() != 501 => {
                Err(self.unknown(self.connection.refused(&reply, About::Catalog)))
            }
            Ok(reply) => Ok(reply),
            Err(fault) if fault.sent => Err(self.unknown(fault.error)),
            Err(fault) => Err(fault.error),
        }
    }

    fn unknown(&self, error: CatalogError) -> CatalogError {
        CatalogError::OutcomeUnknown { catalog: self.name().clone(), reason: error.to_string() }
    }

    fn parse<T: DeserializeOwned>(&self, reply: &Reply) -> Result<T, CatalogError> {
        serde_json::from_slice(&reply.body)
            .map_err(|error| self.connection.reach.bad(format!("its answer cannot be read: {error}")))
    }

    /// What an answer means to a call about a namespace.
    fn about_namespace(&self, namespace: &Namespace, reply: &Reply) -> CatalogError {
        let catalog = self.name().clone();
        match (reply.status.as_u16(), reply.exception().as_str()) {
            (404, "NoSuchNamespaceException" | "") => CatalogError::NoSuchNamespace { catalog, namespace: namespace.clone() },
            (409, "AlreadyExistsException" | "NamespaceAlreadyExistsException") => {
                CatalogError::AlreadyExists { catalog, what: format!("schema \"{namespace}\"") }
            }
            (409, "NamespaceNotEmptyException" | "") => CatalogError::NotEmpty { catalog, namespace: namespace.clone() },
            (409, _) => CatalogError::Conflict { catalog, reason: reply.message() },
            (404, _) => CatalogError::Invalid { catalog, reason: reply.message() },
            _ => self.connection.refused(reply, About::Namespace(namespace)),
        }
    }

    /// What an answer means to a call about a table.
    fn about_table(&self, table: &TableRef, reply: &Reply) -> CatalogError {
        let catalog = self.name().clone();
        match (reply.status.as_u16(), reply.exception().as_str()) {
            (404, "NoSuchNamespaceException") => CatalogError::NoSuchNamespace { catalog, namespace: table.namespace.clone() },
            (404, "NoSuchTableException" | "NoSuchViewException" | "") => CatalogError::NoSuchTable(table.clone()),
            (404, _) => CatalogError::Invalid { catalog, reason: reply.message() },
            (409, "AlreadyExistsException" | "TableAlreadyExistsException") => {
                CatalogError::AlreadyExists { catalog, what: format!("table \"{}.{}\"", table.namespace, table.table) }
            }
            (409, _) => CatalogError::Conflict { catalog, reason: reply.message() },
            _ => self.connection.refused(reply, About::Table(table)),
        }
    }

    /// What an answer means to a commit.
    fn about_commit(&self, changes: &[TableChange], reply: &Reply) -> CommitFault {
        let error = match changes {
            _ if reply.status.as_u16() == 409 => CatalogError::Conflict { catalog: self.name().clone(), reason: reply.message() },
            [one, ..] => self.about_table(&one.table, reply),
            [] => self.connection.refused(reply, About::Catalog),
        };
        match reply.status.as_u16() {
            429 => CommitFault::NotMade(error),
            501 => CommitFault::Refused(error),
            408 | 500.. => CommitFault::Unknown(error),
            _ => CommitFault::Refused(error),
        }
    }
}

#[async_trait]
impl Upstream for Rest {
    fn name(&self) -> &CatalogName {
        &self.connection.reach.catalog
    }

    fn health(&self) -> Option<&Arc<Health>> {
        Some(&self.connection.reach.health)
    }

    fn tells_data_from_columns(&self) -> bool {
        self.connection.reach.access_delegation == AccessDelegation::VendedCredentials
    }

    async fn make_ready(&self) {
        self.connection.make_ready().await;
    }

    async fn prove(&self) -> Result<(), CatalogError> {
        self.connection.prove().await
    }

    async fn knock(&self) -> Result<(), CatalogError> {
        self.connection.knock().await
    }

    async fn list_namespaces(&self, parent: Option<&Namespace>, page: &PageRequest) -> Result<Page<Namespace>, CatalogError> {
        #[derive(Deserialize)]
        struct Listed {
            namespaces: Vec<Vec<String>>,
            #[serde(rename = "next-page-token", default)]
            next: Option<String>,
        }
        let mut query = page_query(page);
        query.extend(parent.map(|parent| ("parent", parent.levels().join("\u{1f}"))));
        let reply = self.read("namespaces".to_owned(), query).await?;
        if !reply.status.is_success() {
            return Err(match parent {
                Some(parent) => self.about_namespace(parent, &reply),
                None => self.connection.refused(&reply, About::Catalog),
            });
        }
        let listed: Listed = self.parse(&reply)?;
        Ok(Page { items: listed.namespaces.into_iter().map(Namespace::new).collect(), next: next_of(listed.next) })
    }

    async fn create_namespace(&self, namespace: &Namespace, properties: BTreeMap<String, String>) -> Result<(), CatalogError> {
        let body = json!({ "namespace": namespace.levels(), "properties": properties });
        let reply = self.change(Method::POST, "namespaces".to_owned(), Vec::new(), Some(&body)).await?;
        if reply.status.is_success() { Ok(()) } else { Err(self.about_namespace(namespace, &reply)) }
    }

    async fn load_namespace(&self, namespace: &Namespace) -> Result<BTreeMap<String, String>, CatalogError> {
        #[derive(Deserialize)]
        struct Loaded {
            #[serde(default)]
            properties: Option<BTreeMap<String, Value>>,
        }
        let reply = self.read(format!("namespaces/{}", namespace_segment(namespace)), Vec::new()).await?;
        if !reply.status.is_success() {
            return Err(self.about_namespace(namespace, &reply));
        }
        let loaded: Loaded = self.parse(&reply)?;
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Ok(loaded.properties.unwrap_or_default().into_iter().map(|(key, value)| (key, text(value))).collect())
    }

    async fn update_namespace(&self, namespace: &Namespace, change: PropertyChange) -> Result<(), CatalogError> {
        let body = json!({ "removals": change.removals, "updates": change.updates });
        let path = format!("namespaces/{}/properties", namespace_segment(namespace));
        let reply = self.change(Method::POST, path, Vec::new(), Some(&body)).await?;
        if reply.status.is_success() { Ok(()) } else { Err(self.about_namespace(namespace, &reply)) }
    }

    async fn drop_namespace(&self, namespace: &Namespace) -> Result<(), CatalogError> {
        let path = format!("namespaces/{}", namespace_segment(namespace));
        let reply = self.change(Method::DELETE, path, Vec::new(), None).await?;
        if reply.status.is_success() { Ok(()) } else { Err(self.about_namespace(namespace, &reply)) }
    }

    async fn list_tables(&self, namespace: &Namespace, page: &PageRequest) -> Result<Page<String>, CatalogError> {
        #[derive(Deserialize)]
        struct Listed {
            identifiers: Vec<Identifier>,
            #[serde(rename = "next-page-token", default)]
            next: Option<String>,
        }
        #[derive(Deserialize)]
        struct Identifier {
            name: String,
        }
        let path = format!("namespaces/{}/tables", namespace_segment(namespace));
        let reply = self.read(path, page_query(page)).await?;
        if !reply.status.is_success() {
            return Err(self.about_namespace(namespace, &reply));
        }
        let listed: Listed = self.parse(&reply)?;
        Ok(Page { items: listed.identifiers.into_iter().map(|table| table.name).collect(), next: next_of(listed.next) })
    }

    async fn load_table(&self, table: &TableRef, etag: Option<&str>, purpose: Purpose) -> Result<Answer, CatalogError> {
        let delegated = purpose == Purpose::Data && self.tells_data_from_columns();
        let call = Call { method: Method::GET, path: table_path(table), query: Vec::new(), etag, delegated, body: None };
        let reply = self.connection.read(call).await?;
        match reply.status.as_u16() {
            304 => Ok(Answer::NotModified),
            200 => Ok(Answer::Fresh { body: reply.body, etag: reply.etag }),
            _ => Err(self.about_table(table, &reply)),
        }
    }

    async fn create_table(&self, namespace: &Namespace, request: Value) -> Result<Bytes, CatalogError> {
        let name = request["name"].as_str().unwrap_or_default().to_owned();
        let path = format!("namespaces/{}/tables", namespace_segment(namespace));
        let call = Call {
            method: Method::POST,
            path,
            query: Vec::new(),
            etag: None,
            delegated: self.tells_data_from_columns(),
            body: Some(&request),
        };
        let reply = self.changed(call).await?;
        if reply.status.is_success() {
            return Ok(reply.body);
        }
        let table = TableRef { catalog: self.name().clone(), namespace: namespace.clone(), table: name };
        Err(self.about_table(&table, &reply))
    }

    /// One table goes by its own call, which every catalog has, and which alone can create a table in some.
    async fn commit(&self, changes: &[TableChange]) -> Result<(), CommitFault> {
        let (path, body) = match changes {
            [one] => (table_path(&one.table), change_body(one)),
            _ => {
                if !self.connection.offers(TRANSACTION).await.map_err(not_made)? {
                    let reason = "commits of several tables at once".to_owned();
                    return Err(CommitFault::Refused(CatalogError::Unsupported { catalog: self.name().clone(), reason }));
                }
                let changes: Vec<Value> = changes.iter().map(change_body).collect();
                ("transactions/commit".to_owned(), json!({ "table-changes": changes }))
            }
        };
        let call = Call { method: Method::POST, path, query: Vec::new(), etag: None, delegated: false, body: Some(&body) };
        match self.connection.once(&call).await {
            Ok(reply) if reply.status.is_success() => Ok(()),
            Ok(reply) => Err(self.about_commit(changes, &reply)),
            Err(fault) if fault.sent => Err(CommitFault::Unknown(fault.error)),
            Err(fault) => Err(not_made(fault)),
        }
    }

    async fn drop_table(&self, table: &TableRef, purge: bool) -> Result<(), CatalogError> {
        let query = vec![("purgeRequested", purge.to_string())];
        let reply = self.change(Method::DELETE, table_path(table), query, None).await?;
        if reply.status.is_success() { Ok(()) } else { Err(self.about_table(table, &reply)) }
    }

    async fn rename_table(&self, from: &TableRef, to: &TableRef) -> Result<(), CatalogError> {
        let body = json!({ "source": identifier(from), "destination": identifier(to) });
        let reply = self.change(Method::POST, "tables/rename".to_owned(), Vec::new(), Some(&body)).await?;
        if reply.status.is_success() {
            return Ok(());
        }
        let about = if reply.status.as_u16() == 409 { to } else { from };
        Err(self.about_table(about, &reply))
    }
}

/// A commit that was not even sent. Whether it may be tried again depends on what stood in its way.
fn not_made(fault: Fault) -> CommitFault {
    match fault.error {
        error if error.is_outage() => CommitFault::NotMade(error),
        error @ CatalogError::BadAnswer { .. } => CommitFault::NotMade(error),
        error => CommitFault::Refused(error),
    }
}

fn change_body(change: &TableChange) -> Value {
    json!({ "identifier": identifier(&change.table), "requirements": change.requirements, "updates": change.updates })
}

fn identifier(table: &TableRef) -> Value {
    json!({ "namespace": table.namespace.levels(), "name": table.table })
}

fn page_query(page: &PageRequest) -> Vec<(&'static str, String)> {
    let token = page.token.clone().map(|token| ("pageToken", token));
    let size = page.size.clone().map(|size| ("pageSize", size));
    token.into_iter().chain(size).collect()
}

/// Some catalogs end a list with an empty mark instead of none.
fn next_of(token: Option<String>) -> Option<String> {
    token.filter(|token| !token.is_empty())
}
