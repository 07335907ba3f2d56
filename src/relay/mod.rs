//! The relay: the Iceberg REST catalog that workers attach, and the gateway's own way to the catalogs.
//!
//! Everything hard about a shared lakehouse has its one home here: the upstream catalogs and their tokens, the table cache, what a
//! worker's lease allows it, and commits. It refuses to know SQL, sessions and clients.

mod cache;
mod commit;
pub mod config;
mod confine;
pub mod error;
pub mod lease;
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

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::cache::{Step, TableCache, Wanted};
use self::config::{CatalogConfig, Config, RoleConfig};
pub use self::error::{CatalogError, RelayError};
use self::lease::{LeaseTerms, Leases, WorkerGrant};
use self::storage::Store;
use self::upstream::reach::Clients;
use self::upstream::{PageRequest, Purpose, Upstream};
use self::views::{Configured, View, Views};
use self::workers::Workers;
use crate::auth::credential::Credential;
use crate::auth::realm::{RealmFault, Realms};
use crate::lake::Column;
use crate::names::{CatalogName, Namespace, RealmName, RoleName, TableRef, WorkerToken};

/// How many levels of namespaces are looked through.
const MAX_NAMESPACE_DEPTH: usize = 16;

/// How many namespaces of a catalog are asked for their children at once.
const PARALLEL_LISTS: usize = 8;

/// How many pages of one list are read before the catalog is taken to be going round in circles.
const MAX_PAGES: usize = 10_000;

/// The relay of one gateway.
pub struct Relay {
    config: Config,
    address: SocketAddr,
    door_address: SocketAddr,
    /// Taken by `serve`; the second one is the door's.
    listeners: Mutex<Option<(TcpListener, TcpListener)>>,
    views: Views,
    workers: Workers,
    cache: Arc<TableCache>,
    store: Arc<Store>,
    ahead: storage::Ahead,
    /// Parts of files that are held at once.
    uploads: Semaphore,
}

impl Relay {
    /// Binds a loopback port and opens the embedded catalogs. Others are first asked when they are needed.
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

    async fn bind_to(
        config: Config,
        catalogs: BTreeMap<CatalogName, Configured>,
        roles: BTreeMap<RoleName, RoleConfig>,
    ) -> Result<Arc<Self>, RelayError> {
        let views = Views::new(catalogs, roles)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let store = Store::new(config.storage.clone()).map_err(std::io::Error::other)?;
        let cache = Arc::new(TableCache::new(&config));
        Ok(Arc::new(Self {
            address: listener.local_addr()?,
            door_address: door.local_addr()?,
            listeners: Mutex::new(Some((listener, door))),
            store: Arc::new(store),
            ahead: storage::Ahead::default(),
            uploads: Semaphore::new(config.storage.parallel_uploads.max(1)),
            views,
            workers: Workers::default(),
            cache,
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

    /// All namespaces of a catalog that the credential may see, of every level, parents before their children.
    ///
    /// # Errors
    /// When the catalog is not there or does not answer.
    pub async fn namespaces(&self, credential: &Credential, catalog: &CatalogName) -> Result<Vec<Namespace>, CatalogError> {
        let upstream = &self.view(credential, catalog)?.upstream;
        let mut found: BTreeSet<Namespace> = all_namespaces(&**upstream, None).await?.into_iter().collect();
        let mut level: Vec<Namespace> = found.iter().cloned().collect();
        for _ in 0..MAX_NAMESPACE_DEPTH {
            let asked = level.into_iter().map(|parent| children_of(upstream.clone(), parent));
            let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(PARALLEL_LISTS).collect().await;
            let mut below = Vec::new();
            for (parent, children) in answers {
                let children = match children {
                    Ok(children) => children,
                    // Seen in the list of its parent, but not to be looked into; or dropped meanwhile.
                    Err(CatalogError::Forbidden { .. } | CatalogError::NoSuchNamespace { .. }) => continue,
                    Err(error) => return Err(error),
                };
                let inside = |child: &Namespace| {
                    child.levels().len() > parent.levels().len() && child.levels().starts_with(parent.levels())
                };
                // A catalog that does not know the parameter `parent` answers with the outermost ones again.
                below.extend(children.into_iter().filter(inside).filter(|child| found.insert(child.clone())));
            }
            if below.is_empty() {
                break;
            }
            level = below;
        }
        Ok(found.into_iter().collect())
    }

    /// Whether the namespace is there.
    ///
    /// # Errors
    /// When the catalog is not there or does not answer.
    pub async fn namespace_exists(
        &self,
        credential: &Credential,
        catalog: &CatalogName,
        namespace: &Namespace,
    ) -> Result<bool, CatalogError> {
        match self.view(credential, catalog)?.upstream.load_namespace(namespace).await {
            // Its properties are not for the credential to see; tables in it may be.
            Ok(_) | Err(CatalogError::Forbidden { .. }) => Ok(true),
            Err(CatalogError::NoSuchNamespace { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names of a namespace's tables, in order.
    ///
    /// # Errors
    /// When the catalog or the namespace is not there, or does not answer.
    pub async fn tables(
        &self,
        credential: &Credential,
        catalog: &CatalogName,
        namespace: &Namespace,
    ) -> Result<Vec<String>, CatalogError> {
        let upstream = &self.view(credential, catalog)?.upstream;
        let mut page = PageRequest::default();
        let mut tables = Vec::new();
        for _ in 0..MAX_PAGES {
            let answer = upstream.list_tables(namespace, &page).await?;
            tables.extend(answer.items);
            match answer.next {
                Some(token) => page.token = Some(token),
                None => {
                    tables.sort_unstable();
                    tables.dedup();
                    return Ok(tables);
                }
            }
        }
        Err(endless(catalog))
    }

    /// The columns of a table as a statement has it that it was just loaded ahead of. Who has not loaded it may get an older one.
    ///
    /// # Errors
    /// When the table is not there, must not be read, or cannot be read.
    pub async fn loaded_columns(&self, credential: &Credential, table: &TableRef) -> Result<Arc<[Column]>, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        self.look(&view, table, Purpose::Data, Step::Ahead, false).await?.columns(&table.catalog)
    }

    /// The columns of a table for a listing: the right to see them is enough.
    ///
    /// # Errors
    /// When the table is not there, must not be seen, or cannot be read.
    pub async fn listed_columns(&self, credential: &Credential, table: &TableRef) -> Result<Arc<[Column]>, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        // Whoever may read a table may see its columns; what is known already needs no call.
        let known = self.cache.fresh(&view.viewer, table, Purpose::Data);
        let table_seen = match known {
            Some(known) => known,
            None => self.look(&view, table, Purpose::Columns, Step::begins(), false).await?,
        };
        table_seen.columns(&table.catalog)
    }

    /// Loads a table ahead of a statement that begins now, so that its worker finds it in the cache; gives an estimate of the bytes in
    /// its data files.
    ///
    /// # Errors
    /// When the table is not there, must not be read, or cannot be read.
    pub async fn load(&self, credential: &Credential, table: &TableRef) -> Result<u64, CatalogError> {
        self.load_since(credential, table, Instant::now()).await
    }

    /// The same for a statement that began then: what was heard of the table since is new enough.
    ///
    /// # Errors
    /// When the table is not there, must not be read, or cannot be read.
    pub async fn load_since(&self, credential: &Credential, table: &TableRef, begun: Instant) -> Result<u64, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        let loaded = self.look(&view, table, Purpose::Data, Step::Begun(begun), false).await?;
        self.cache.is_ahead_of(begun, &view.viewer, table, Purpose::Data);
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
    fn admit(&self, grant: WorkerGrant) -> WorkerToken {
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

async fn children_of(upstream: Arc<dyn Upstream>, parent: Namespace) -> (Namespace, Result<Vec<Namespace>, CatalogError>) {
    let children = all_namespaces(&*upstream, Some(&parent)).await;
    (parent, children)
}

async fn all_namespaces(upstream: &dyn Upstream, parent: Option<&Namespace>) -> Result<Vec<Namespace>, CatalogError> {
    let mut page = PageRequest::default();
    let mut found = Vec::new();
    for _ in 0..MAX_PAGES {
        let answer = upstream.list_namespaces(parent, &page).await?;
        found.extend(answer.items);
        match answer.next {
            Some(token) => page.token = Some(token),
            None => return Ok(found),
        }
    }
    Err(endless(upstream.name()))
}

fn endless(catalog: &CatalogName) -> CatalogError {
    CatalogError::BadAnswer { catalog: catalog.clone(), reason: "a list of it has no end".to_owned() }
}
