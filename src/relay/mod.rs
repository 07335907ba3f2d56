//! The relay: the Iceberg REST catalog that workers attach, and the gateway's own way to the catalogs.
//!
//! Everything hard about a shared lakehouse has its one home here: the upstream catalogs and their tokens, the table cache, what a
//! worker's lease allows it, and commits. It refuses to know SQL, sessions and clients.

mod cache;
pub mod check;
mod commit;
pub mod config;
mod confine;
pub mod error;
pub mod lease;
mod listing;
mod server;
pub mod storage;
mod table;
#[cfg(test)]
mod tests;
mod tokens;
mod upstream;
mod views;
mod words;
mod workers;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::cache::{Step, TableCache, Wanted};
use self::config::{CatalogConfig, Config, RoleConfig};
pub use self::error::{CatalogError, RelayError};
use self::lease::{LeaseTerms, Leases, WorkerGrant};
use self::listing::Listings;
pub use self::listing::{Ceiling, Extent, Fits};
use self::storage::Store;
use self::upstream::Purpose;
use self::upstream::reach::Clients;
use self::views::{Configured, View, Views};
use self::workers::Workers;
use crate::auth::credential::Credential;
use crate::auth::realm::{RealmFault, Realms};
use crate::error::chain;
use crate::lake::Column;
use crate::names::{CatalogName, RealmName, RoleName, TableRef, WorkerToken};

/// The relay of one gateway.
pub struct Relay {
    config: Config,
    address: SocketAddr,
    door_address: SocketAddr,
    /// Taken by `serve`; the second one is the door's.
    listeners: Mutex<Option<(TcpListener, TcpListener)>>,
    views: Views,
    workers: Workers,
    cache: TableCache,
    listings: Listings,
    store: Arc<Store>,
    ahead: Arc<storage::Ahead>,
    /// Parts of files that are held at once.
    uploads: Semaphore,
}

impl Relay {
    /// Binds a loopback port and opens the embedded catalogs. Others are first asked when a worker that may reach them is let in.
    ///
    /// # Errors
    /// When the port, an embedded catalog or a configured secret cannot be had, or a setting cannot be used.
    pub async fn bind(
        config: Config,
        catalogs: BTreeMap<CatalogName, CatalogConfig>,
        roles: BTreeMap<RoleName, RoleConfig>,
    ) -> Result<Arc<Self>, RelayError> {
        let mut configured = BTreeMap::new();
        let mut clients = Clients::default();
        for (name, catalog) in catalogs {
            configured.insert(name.clone(), Configured::open(name, catalog, &config, &mut clients).await?);
        }
        Self::bind_to(config, configured, roles).await
    }

    /// Whether catalogs elsewhere are described as [`Relay::bind`] takes them; nothing is opened, bound or asked. Gives the secrets that
    /// cannot be had here, one text each.
    ///
    /// # Errors
    /// When a catalog's address, a store or a certificate cannot be used.
    pub fn check(config: &Config, catalogs: &BTreeMap<CatalogName, CatalogConfig>) -> Result<Vec<String>, RelayError> {
        let mut clients = Clients::default();
        let mut missing = Vec::new();
        for (name, catalog) in catalogs {
            let CatalogConfig::Rest(rest) = catalog else { continue };
            match Configured::reached(name, rest.clone(), config, &mut clients) {
                Err(error @ RelayError::Secret { .. }) => missing.push(chain(&error)),
                checked => drop(checked?),
            }
        }
        Ok(missing)
    }

    async fn bind_to(
        config: Config,
        catalogs: BTreeMap<CatalogName, Configured>,
        roles: BTreeMap<RoleName, RoleConfig>,
    ) -> Result<Arc<Self>, RelayError> {
        let views = Views::new(catalogs, roles)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let store = Arc::new(Store::new(config.storage.clone()).map_err(std::io::Error::other)?);
        let cache = TableCache::new(&config);
        let listings = Listings::new(&config, views.all());
        Ok(Arc::new(Self {
            address: listener.local_addr()?,
            door_address: door.local_addr()?,
            listeners: Mutex::new(Some((listener, door))),
            ahead: storage::Ahead::new(Arc::clone(&store)),
            store,
            uploads: Semaphore::new(config.storage.parallel_uploads.max(1)),
            views,
            workers: Workers::default(),
            cache,
            listings,
            config,
        }))
    }

    /// Answers workers until `stop` is cancelled; requests under way are finished.
    ///
    /// # Errors
    /// When it is called a second time.
    pub async fn serve(self: Arc<Self>, stop: CancellationToken) -> Result<(), RelayError> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (listener, door) = listeners.ok_or_else(|| std::io::Error::other("the relay is served already"))?;
        let relay = Arc::clone(&self);
        let served = async {
            tokio::try_join!(server::serve(Arc::clone(&self), listener, stop.clone()), storage::door::serve(self, door, stop))
        };
        tokio::select! {
            served = served => Ok(served.map(drop)?),
            () = relay.views.keep_swept() => Ok(()),
        }
    }

    /// The configured catalogs, in order.
    #[must_use]
    pub fn catalogs(&self) -> Vec<CatalogName> {
        self.views.all()
    }

    /// The catalogs that the credential opens, in order.
    #[must_use]
    pub fn catalogs_of(&self, credential: &Credential) -> Vec<CatalogName> {
        self.views.of(credential)
    }

    /// The columns of a table whose rows the credential may read, for a statement that began then.
    ///
    /// # Errors
    /// When the table is not there, must not be read, or cannot be read.
    pub async fn columns(
        &self,
        credential: &Credential,
        table: &TableRef,
        begun: Instant,
    ) -> Result<Arc<[Column]>, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        self.look(&view, table, Purpose::Data, Step::Begun(begun), false).await?.columns(&table.catalog)
    }

    /// The columns of a table as a statement has it that it was just loaded ahead of. Who has not loaded it may get an older one.
    ///
    /// # Errors
    /// When the table is not there, must not be read, or cannot be read.
    pub async fn loaded_columns(&self, credential: &Credential, table: &TableRef) -> Result<Arc<[Column]>, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        self.look(&view, table, Purpose::Data, Step::Ahead, false).await?.columns(&table.catalog)
    }

    /// Loads a table, so that the worker which asks for it next finds it in the cache, and its manifests on their way; gives an
    /// estimate of the bytes in its data files.
    ///
    /// # Errors
    /// When the table is not there, must not be read, cannot be read, or lies in a store that workers do not reach.
    pub async fn load(&self, credential: &Credential, table: &TableRef) -> Result<u64, CatalogError> {
        self.load_since(credential, table, Instant::now()).await
    }

    /// The same for a statement that began then: what was heard of the table since is new enough.
    ///
    /// # Errors
    /// As for [`Relay::load`].
    pub async fn load_since(&self, credential: &Credential, table: &TableRef, begun: Instant) -> Result<u64, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        let loaded = self.look(&view, table, Purpose::Data, Step::Begun(begun), false).await?;
        self.cache.is_ahead(&view.viewer, table, Purpose::Data);
        loaded.readable(table)?;
        if let Some(list) = loaded.news() {
            self.ahead.begin(&view, &list);
        }
        Ok(loaded.data_bytes)
    }

    async fn table(&self, credential: &Credential, table: &TableRef) -> Result<Arc<table::Table>, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        self.look(&view, table, Purpose::Data, Step::begins(), false).await
    }

    /// A table as a view has it. A strict look never takes an old one in the place of a catalog out of reach.
    async fn look(
        &self,
        view: &View,
        table: &TableRef,
        purpose: Purpose,
        step: Step,
        strict: bool,
    ) -> Result<Arc<table::Table>, CatalogError> {
        let purpose = if view.upstream.tells_data_from_columns() { purpose } else { Purpose::Data };
        let wanted = Wanted { viewer: &view.viewer, table, purpose, step, strict };
        let loaded = self.cache.get(wanted, &view.upstream, &view.confinement).await?;
        loaded.tell(table, &view.storage);
        Ok(loaded)
    }

    /// The catalog as this credential sees it.
    fn view(&self, credential: &Credential, catalog: &CatalogName) -> Result<Arc<View>, CatalogError> {
        self.views.view(credential, catalog)
    }
}

#[async_trait]
impl Realms for Relay {
    fn realms(&self) -> Vec<RealmName> {
        self.views.realms()
    }

    async fn prove(&self, credential: &Credential) -> Result<(), RealmFault> {
        let mut fault = RealmFault::Unavailable("no catalog takes this log-in".to_owned());
        // The first that says yes or no decides: they take the same log-ins.
        for catalog in self.views.of_realm(credential) {
            let view = self.view(credential, &catalog).map_err(|error| RealmFault::Unavailable(error.to_string()))?;
            match view.upstream.prove().await {
                Ok(()) => return Ok(()),
                Err(CatalogError::LoggedOut { reason, .. }) => return Err(RealmFault::Refused(reason)),
                Err(CatalogError::Forbidden { reason, .. }) => fault = RealmFault::Refused(reason),
                Err(error) if matches!(fault, RealmFault::Unavailable(_)) => fault = RealmFault::Unavailable(error.to_string()),
                Err(_) => {}
            }
        }
        Err(fault)
    }
}

impl Leases for Relay {
    /// While the worker attaches, its catalogs are made ready for the statement that it is for: with a far one that takes as long.
    fn admit(&self, grant: WorkerGrant) -> WorkerToken {
        let views = grant.catalogs.iter().filter_map(|catalog| self.view(&grant.credential, catalog).ok());
        for view in views {
            tokio::spawn(async move { view.upstream.make_ready().await });
        }
        self.workers.admit(grant)
    }

    fn grant(&self, worker: &WorkerToken, terms: LeaseTerms) {
        self.workers.grant(worker, terms);
    }

    fn clear(&self, worker: &WorkerToken) {
        self.workers.clear(worker);
    }

    fn expel(&self, worker: &WorkerToken) {
        self.workers.expel(worker);
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn storage_endpoint(&self) -> String {
        self.door_address.to_string()
    }

    fn catalogs_of(&self, credential: &Credential) -> Vec<CatalogName> {
        self.views.of(credential)
    }

    fn allowed_locations(&self, catalogs: &[CatalogName]) -> Vec<String> {
        self.views.locations(catalogs)
    }
}
