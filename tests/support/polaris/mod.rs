//! Owns a stand-in for Apache Polaris: the embedded catalog behind OAuth2, principals, roles, grants and token lifetimes, on a port
//! of 127.0.0.1, answering as a real one was recorded to (`tests/data/polaris`). It can be told to fail, and remembers every
//! request. Refuses to be more than that: no views, no registering of tables, no management API.
//!
//! ```ignore
//! let polaris = StandIn::start(Setup::lakehouse().with_token_lifetime(8)).await;
//! let (client_id, secret) = polaris.realm(HOME).credentials("analyst").expect("a principal");
//! let gateway = Gateway::with(&polaris.settings("rest", "lakehouse", "engineer").iter().map(String::as_str).collect::<Vec<_>>());
//! polaris.realm(HOME).grant("lakehouse", "gold_reader", Grant::on_table(Privilege::TableReadData, "silver", "orders"));
//! polaris.faults().add(Rule::new(Fault::Status(502)).on(Operation::COMMITS).by("engineer").after().times(3));
//! gateway.run("INSERT INTO rest.gold.t VALUES (1)").await;
//! assert_eq!(polaris.log().count(Operation::Token, "engineer"), 1);
//! polaris.down().await; // connections are refused …
//! polaris.up().await; // … and taken again, on the same port
//! ```
//!
//! Nothing but a test's own files is on disk, and nothing is left of it when the stand-in is dropped. As a process:
//! `cargo run --example polaris-stand-in -- setup.json`, controlled over HTTP (see `control`).

#![allow(dead_code, unused_imports, reason = "each program that includes this uses another part of it")]
#![allow(clippy::expect_used, reason = "a stand-in that cannot be started is a failed test")]

mod answer;
pub mod control;
mod faults;
mod generated;
mod identity;
mod log;
mod namespaces;
mod routes;
mod server;
mod setup;
mod tables;

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

pub use faults::{Fault, Faults, Moment, Operation, Rule};
pub use generated::GeneratedSetup;
pub use identity::authorize::{Grant, Privilege};
pub use identity::realm::Realm;
pub use log::{Call, Log};
pub use setup::{HOME, IssuerSetup, PrincipalSetup, RealmSetup, S3Setup, Setup, WarehouseSetup};
pub use tables::Warehouse;

/// A running stand-in. Dropped, it closes its connections and deletes its files.
pub struct StandIn {
    core: Arc<Core>,
    server: server::Server,
}

/// What requests find.
struct Core {
    realms: Vec<Arc<Realm>>,
    faults: Faults,
    log: Log,
    /// Where warehouses lie that have no directory of their own.
    scratch: TempDir,
}

impl Core {
    fn realm(&self, name: &str) -> Option<Arc<Realm>> {
        self.realms.iter().find(|realm| realm.name == name).cloned()
    }
}

impl StandIn {
    /// Starts it.
    pub async fn start(setup: Setup) -> Self {
        Self::try_start(setup).await.expect("a stand-in")
    }

    /// The same.
    ///
    /// # Errors
    /// When a directory or the port cannot be used, in words.
    pub async fn try_start(setup: Setup) -> Result<Self, String> {
        let scratch = TempDir::new().map_err(|error| format!("no directory: {error}"))?;
        let mut realms = Vec::new();
        for realm in setup.realms {
            realms.push(Arc::new(Realm::start(realm, scratch.path()).await?));
        }
        let core = Arc::new(Core { realms, faults: Faults::new(), log: Log::new(), scratch });
        let server = server::Server::start(setup.port, setup.tls, routes::routes(Arc::clone(&core)))
            .map_err(|error| format!("port {}: {error}", setup.port))?;
        Ok(Self { core, server })
    }

    /// `http://127.0.0.1:<port>/api/catalog`, what a client takes as the catalog's address.
    pub fn uri(&self) -> String {
        format!("{}/api/catalog", self.origin())
    }

    /// The same for one realm, without a header.
    pub fn uri_of(&self, realm: &str) -> String {
        format!("{}/realms/{realm}/api/catalog", self.origin())
    }

    fn origin(&self) -> String {
        let scheme = if self.server.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.server.address)
    }

    /// With TLS, the certificate in PEM that a client must trust.
    pub fn certificate(&self) -> Option<&str> {
        self.server.certificate.as_deref()
    }

    /// A realm, to look at it and to change it.
    pub fn realm(&self, name: &str) -> Arc<Realm> {
        self.core.realm(name).expect("a realm of the set-up")
    }

    /// The realm of requests that name none.
    pub fn first_realm(&self) -> Arc<Realm> {
        self.core.realms.first().cloned().expect("a realm in the set-up")
    }

    /// What goes wrong on purpose.
    pub fn faults(&self) -> &Faults {
        &self.core.faults
    }

    /// What was asked so far.
    pub fn log(&self) -> &Log {
        &self.core.log
    }

    /// Where warehouses without a directory of their own lie.
    pub fn scratch(&self) -> &Path {
        self.core.scratch.path()
    }

    /// Closes all connections and refuses new ones.
    pub async fn down(&self) {
        self.server.down().await.expect("the port is kept");
    }

    /// Takes connections again, on the same port.
    pub async fn up(&self) {
        self.server.up().await.expect("the port is there");
    }

    /// `--set` pairs by which a gateway has a warehouse of the first realm as this catalog, with the principal's client credentials.
    pub fn settings(&self, catalog: &str, warehouse: &str, principal: &str) -> Vec<String> {
        let realm = self.first_realm();
        let (client_id, client_secret) = realm.credentials(principal).expect("a principal");
        let base = realm.warehouse(warehouse).expect("a warehouse").base().to_owned();
        vec![
            format!("catalogs.{catalog}.type=rest"),
            format!("catalogs.{catalog}.uri={}", self.uri()),
            format!("catalogs.{catalog}.warehouse={warehouse}"),
            format!("catalogs.{catalog}.credentials={{type: oauth2, client_id: {client_id}, client_secret: {client_secret}}}"),
            format!("catalogs.{catalog}.allowed_locations=['{base}']"),
        ]
    }
}
