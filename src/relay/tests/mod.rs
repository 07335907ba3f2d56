//! The relay over real HTTP on real embedded catalogs. Faults are put between the relay and its catalog, never in place of it.

mod caching;
mod commits;
mod faults;
mod identity;
mod keys;
mod listing;
mod polaris;
mod rest;
mod serving;
mod storage;
mod tokens;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::{CatalogConfig, Config};
use super::confine::Confinement;
use super::lease::{LeaseTerms, Leases, WorkerGrant};
use super::upstream::Upstream;
use super::upstream::embedded::Embedded;
use super::views::Configured;
use super::{Ceiling, Relay};
use crate::auth::credential::Credential;
use crate::lake::catalog::Catalog;
use crate::names::{CatalogName, Namespace, TableRef, WorkerToken};

/// A listing of as many names as there are.
fn no_ceiling() -> Ceiling {
    Ceiling::new(usize::MAX)
}

const WRITES: LeaseTerms = LeaseTerms { whole_metadata: true, writes: true, blind_insert: false };

/// A served relay with one catalog `lake`, and a worker in it.
struct Bench {
    relay: Arc<Relay>,
    worker: WorkerToken,
    http: reqwest::Client,
    _stop: DropGuard,
    directory: Arc<tempfile::TempDir>,
}

impl Bench {
    async fn new() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        Self::at(directory, config()).await
    }

    async fn at(directory: Arc<tempfile::TempDir>, config: Config) -> Self {
        let lake = CatalogConfig::Embedded { path: directory.path().join("lake") };
        let relay = Relay::bind(config, BTreeMap::from([(name(), lake)]), BTreeMap::new()).await.unwrap();
        Self::serve(relay, directory)
    }

    /// With a catalog that `between` stands in front of.
    async fn behind(config: Config, between: impl FnOnce(Arc<dyn Upstream>) -> Arc<dyn Upstream>) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let catalog = Catalog::open(&directory.path().join("lake")).await.unwrap();
        let confinement = Arc::new(Confinement::new(vec![catalog.uri().to_owned()]).unwrap());
        let upstream = between(Arc::new(Embedded::new(name(), Arc::new(catalog))));
        let relay =
            Relay::bind_to(config, BTreeMap::from([(name(), Configured::shared(upstream, confinement))]), BTreeMap::new())
                .await
                .unwrap();
        Self::serve(relay, directory)
    }

    fn serve(relay: Arc<Relay>, directory: Arc<tempfile::TempDir>) -> Self {
        let stop = CancellationToken::new();
        tokio::spawn(relay.clone().serve(stop.clone()));
        let worker = relay.admit(WorkerGrant { credential: credential(), catalogs: relay.catalogs() });
        Self { relay, worker, http: reqwest::Client::new(), _stop: stop.drop_guard(), directory }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.call_as(&self.worker, method, path, body).await
    }

    async fn call_as(&self, worker: &WorkerToken, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.relay.endpoint())).bearer_auth(worker.as_str());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::POST, path, Some(body)).await
    }

    /// A bench whose worker may write, with the table `gold.t`, whose location it gives.
    async fn with_table(self) -> (Self, String) {
        self.relay.grant(&self.worker, WRITES);
        assert_eq!(self.post("lake/namespaces", json!({ "namespace": ["gold"] })).await.0, 200);
        let location = self.create("t").await;
        (self, location)
    }

    /// What is asked from here on is asked by another statement.
    fn begins_another_statement(&self) {
        self.relay.grant(&self.worker, WRITES);
    }

    async fn create(&self, table: &str) -> String {
        let (status, created) = self.post("lake/namespaces/gold/tables", new_table(table)).await;
        assert_eq!(status, 200, "{created}");
        created["metadata"]["location"].as_str().unwrap().to_owned()
    }

    async fn metadata(&self, table: &str) -> Value {
        let (status, loaded) = self.get(&format!("lake/namespaces/gold/tables/{table}")).await;
        assert_eq!(status, 200, "{loaded}");
        loaded["metadata"].clone()
    }

    async fn transact(&self, changes: Vec<Value>) -> (StatusCode, Value) {
        self.post("lake/transactions/commit", json!({ "table-changes": changes })).await
    }
}

fn config() -> Config {
    Config { commit_timeout: Duration::from_secs(20), ..Config::default() }
}

fn name() -> CatalogName {
    CatalogName::from("lake")
}

fn credential() -> Credential {
    Credential::service()
}

fn table(table: &str) -> TableRef {
    TableRef { catalog: name(), namespace: Namespace::from_schema("gold"), table: table.to_owned() }
}

fn new_table(name: &str) -> Value {
    json!({
        "name": name,
        "schema": { "type": "struct", "schema-id": 0, "fields": [
            { "id": 1, "name": "id", "required": true, "type": "long", "doc": "the key" },
            { "id": 2, "name": "amount", "required": false, "type": "decimal(12, 2)" },
        ] },
    })
}

/// The table change of an append, as DuckDB sends it.
fn append(table: &str, location: &str, parent: Option<i64>, id: i64, timestamp_ms: i64) -> Value {
    let mut snapshot = json!({
        "snapshot-id": id,
        "sequence-number": id,
        "timestamp-ms": timestamp_ms,
        "manifest-list": format!("{location}/metadata/snap-{id}.avro"),
        "summary": { "operation": "append" },
        "schema-id": 0,
    });
    if let Some(parent) = parent {
        snapshot["parent-snapshot-id"] = json!(parent);
    }
    json!({
        "identifier": { "namespace": ["gold"], "name": table },
        "requirements": [{ "type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": parent }],
        "updates": [
            { "action": "add-snapshot", "snapshot": snapshot },
            { "action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": id },
        ],
    })
}

fn set_property(table: &str, key: &str, value: &str) -> Value {
    json!({
        "identifier": { "namespace": ["gold"], "name": table },
        "requirements": [],
        "updates": [{ "action": "set-properties", "updates": { key: value } }],
    })
}

fn now_ms() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn snapshot_ids(metadata: &Value) -> Vec<i64> {
    let mut ids: Vec<i64> =
        metadata["snapshots"].as_array().into_iter().flatten().map(|one| one["snapshot-id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

fn path_of(location: &str) -> &Path {
    Path::new(location.strip_prefix("file://").unwrap())
}
