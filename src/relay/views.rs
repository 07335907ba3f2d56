//! Owns which catalogs a credential opens, and what it shows each of them. Refuses to ask them anything.
//!
//! ```text
//! catalog    named by the role           of the caller's realm     service
//! embedded   shared by all who may       no                        shared by all
//! rest       the role's credentials      the caller's own          the catalog's own
//! ```
//! Nothing else is there for the credential: a catalog that it does not open cannot be told from one that is not configured.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::config::{CatalogConfig, Config, RestConfig, RestCredentials, RoleConfig};
use super::confine::Confinement;
use super::error::{CatalogError, RelayError};
use super::storage::{Storage, Stores};
use super::tokens::{Source, TokenSources};
use super::upstream::Upstream;
use super::upstream::embedded::Embedded;
use super::upstream::http::Whose;
use super::upstream::reach::{Clients, Reach};
use super::upstream::rest::Rest;
use crate::auth::credential::{Credential, Own};
use crate::error::chain;
use crate::lake::catalog::Catalog;
use crate::names::{CatalogName, CredentialId, RealmName, RoleName};

/// A view that is not asked for so long is forgotten, with the tokens in it.
const IDLE: Duration = Duration::from_secs(3600);

/// The same for a view of a credential that nobody holds any more. A client that opens connections one after the other holds none
/// in between.
const IDLE_UNHELD: Duration = Duration::from_secs(60);

/// How often forgotten views are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(20);

/// Views kept at once.
const MAX_VIEWS: usize = 20_000;

/// A catalog as one credential has it.
pub(super) struct View {
    /// Which upstream credential it is seen with: what cached answers are kept apart by.
    pub(super) viewer: CredentialId,
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) confinement: Arc<Confinement>,
    /// What reaches its files.
    pub(super) storage: Arc<Storage>,
}

/// All catalogs and roles.
pub(super) struct Views {
    catalogs: BTreeMap<CatalogName, Configured>,
    roles: BTreeMap<RoleName, RoleConfig>,
    sources: TokenSources,
    /// Of REST catalogs, by what is shown. Held for look-ups only.
    opened: Mutex<HashMap<(CatalogName, CredentialId), Opened>>,
}

struct Opened {
    view: Arc<View>,
    source: Arc<Source>,
    used: Instant,
}

impl Opened {
    fn is_done_with(&self, now: Instant) -> bool {
        let idle = now.duration_since(self.used);
        idle > IDLE || (idle > IDLE_UNHELD && !self.source.is_held())
    }
}

/// A catalog, whoever asks.
pub(super) enum Configured {
    /// The same for all who may see it.
    Shared(Arc<View>),
    /// Asked with the credentials of each.
    Rest { config: Box<RestConfig>, reach: Arc<Reach>, confinement: Arc<Confinement>, stores: Arc<Stores> },
}

impl Configured {
    /// Opens an embedded catalog; a REST catalog is first asked when it is needed.
    pub(super) async fn open(
        name: CatalogName,
        catalog: CatalogConfig,
        config: &Config,
        clients: &mut Clients,
    ) -> Result<Self, RelayError> {
        match catalog {
            CatalogConfig::Embedded { path } => {
                let catalog = Catalog::open(&path).await.map_err(|source| RelayError::Open { catalog: name.clone(), source })?;
                let confinement = confined(&name, vec![catalog.uri().to_owned()])?;
                Ok(Self::shared(Arc::new(Embedded::new(name, Arc::new(catalog))), confinement))
            }
            CatalogConfig::Rest(rest) => Self::reached(&name, rest, config, clients),
        }
    }

    /// A catalog elsewhere; nothing is sent. What cannot be read is said before secrets that are not there.
    pub(super) fn reached(
        name: &CatalogName,
        config: Box<RestConfig>,
        relay: &Config,
        clients: &mut Clients,
    ) -> Result<Self, RelayError> {
        let confinement = confined(name, config.allowed_locations.clone())?;
        let reach = Reach::new(name.clone(), relay, &config, clients)?;
        let stores = Arc::new(Stores::new(name, &config, relay)?);
        Ok(Self::Rest { config, reach, confinement, stores })
    }

    /// The same for all who may see it.
    pub(super) fn shared(upstream: Arc<dyn Upstream>, confinement: Arc<Confinement>) -> Self {
        let storage = Arc::new(Storage::new(Arc::clone(&upstream), Arc::default()));
        Self::Shared(Arc::new(View { viewer: Credential::service().id().clone(), upstream, confinement, storage }))
    }

    fn confinement(&self) -> &Confinement {
        match self {
            Self::Shared(view) => &view.confinement,
            Self::Rest { confinement, .. } => confinement,
        }
    }
}

/// How a credential comes to a REST catalog.
pub(super) struct Way<'a> {
    pub(super) config: &'a RestConfig,
    /// What the config has for it; `None` for a caller's own.
    pub(super) credentials: Option<&'a RestCredentials>,
    pub(super) reach: &'a Arc<Reach>,
    pub(super) source: Arc<Source>,
}

/// What a credential shows a catalog.
enum Shown<'a> {
    /// The credentials of the catalog's own section.
    Catalogs,
    /// The role's.
    Roles(&'a RestCredentials),
    /// The caller's.
    Callers,
}

impl Views {
    /// Fails when the credentials of a catalog or a role cannot be used.
    pub(super) fn new(
        catalogs: BTreeMap<CatalogName, Configured>,
        roles: BTreeMap<RoleName, RoleConfig>,
    ) -> Result<Self, RelayError> {
        let views = Self { catalogs, roles, sources: TokenSources::default(), opened: Mutex::default() };
        for catalog in views.catalogs.values() {
            if let Configured::Rest { config, reach, .. } = catalog {
                views.configured(&config.credentials, reach)?;
            }
        }
        for (role, of_role) in &views.roles {
            for (name, shown) in &of_role.catalogs {
                let credentials = || [&shown.credentials, &shown.reader_credentials].into_iter().flatten();
                let wrong = |reason: String| RelayError::Config { catalog: name.clone(), reason };
                match views.catalogs.get(name) {
                    None => return Err(wrong(format!("role \"{role}\" names it, but it is not configured"))),
                    Some(Configured::Shared(_)) if credentials().next().is_some() => {
                        return Err(wrong(format!("role \"{role}\" has credentials for it, but it takes none")));
                    }
                    Some(Configured::Shared(_)) => {}
                    Some(Configured::Rest { reach, .. }) => {
                        for credentials in credentials() {
                            views.configured(credentials, reach)?;
                        }
                    }
                }
            }
        }
        Ok(views)
    }

    /// Forgets views that are not used any more, and keys that have expired, until it is dropped.
    pub(super) async fn keep_swept(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.sweep(Instant::now());
            let storages: Vec<Arc<Storage>> = self.opened().values().map(|opened| Arc::clone(&opened.view.storage)).collect();
            for storage in storages {
                storage.sweep(SystemTime::now());
            }
        }
    }

    pub(super) fn sweep(&self, now: Instant) {
        self.opened().retain(|_, opened| !opened.is_done_with(now));
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.opened().len()
    }

    /// All configured catalogs, in order.
    pub(super) fn all(&self) -> Vec<CatalogName> {
        self.catalogs.keys().cloned().collect()
    }

    /// The catalogs that a credential opens, in order.
    pub(super) fn of(&self, credential: &Credential) -> Vec<CatalogName> {
        self.catalogs.keys().filter(|name| self.shown(credential, name).is_some()).cloned().collect()
    }

    /// The realms of REST catalogs, in order.
    pub(super) fn realms(&self) -> Vec<RealmName> {
        let mut realms: Vec<RealmName> = self.catalogs.values().filter_map(realm_of).collect();
        realms.sort();
        realms.dedup();
        realms
    }

    /// The catalogs of the caller's own realm, in order.
    pub(super) fn of_realm(&self, credential: &Credential) -> Vec<CatalogName> {
        let callers = |name: &&CatalogName| matches!(self.shown(credential, name), Some(Shown::Callers));
        self.catalogs.keys().filter(callers).cloned().collect()
    }

    /// Storage prefixes of these catalogs.
    pub(super) fn locations(&self, catalogs: &[CatalogName]) -> Vec<String> {
        let of = |catalog: &CatalogName| self.catalogs.get(catalog).map(|catalog| catalog.confinement().prefixes().to_vec());
        let mut locations: Vec<String> = catalogs.iter().filter_map(of).flatten().collect();
        locations.sort();
        locations.dedup();
        locations
    }

    /// The catalog as the credential sees it.
    pub(super) fn view(&self, credential: &Credential, catalog: &CatalogName) -> Result<Arc<View>, CatalogError> {
        let nothing = || CatalogError::NoSuchCatalog(catalog.clone());
        let shown = self.shown(credential, catalog).ok_or_else(nothing)?;
        let (config, reach, confinement, stores) = match self.catalogs.get(catalog).ok_or_else(nothing)? {
            Configured::Shared(view) => return Ok(Arc::clone(view)),
            Configured::Rest { config, reach, confinement, stores } => (config, reach, confinement, stores),
        };
        let viewer = match shown {
            Shown::Catalogs => Credential::service().id().clone(),
            Shown::Callers => credential.id().clone(),
            Shown::Roles(_) => viewer_of_role(credential),
        };
        let key = (catalog.clone(), viewer.clone());
        let now = Instant::now();
        if let Some(opened) = self.opened().get_mut(&key) {
            opened.used = now;
            opened.source.hold(credential);
            return Ok(Arc::clone(&opened.view));
        }
        let unusable = |error: RelayError| CatalogError::Unauthorized { catalog: catalog.clone(), reason: chain(&error) };
        let (whose, source) = match shown {
            Shown::Catalogs => (Whose::Gateways, self.configured(&config.credentials, reach).map_err(unusable)?),
            Shown::Roles(credentials) => (Whose::Gateways, self.configured(credentials, reach).map_err(unusable)?),
            Shown::Callers => (Whose::Callers, self.sources.callers(credential, reach.callers(), &reach.means())),
        };
        let upstream: Arc<dyn Upstream> = Arc::new(Rest::new(Arc::clone(reach), whose, Arc::clone(&source)));
        let storage = Arc::new(Storage::new(Arc::clone(&upstream), Arc::clone(stores)));
        let view = Arc::new(View { viewer, upstream, confinement: Arc::clone(confinement), storage });
        let mut opened = self.opened();
        if opened.len() >= MAX_VIEWS {
            make_room(&mut opened, now);
        }
        // Somebody may have been faster.
        let opened = opened.entry(key).or_insert(Opened { view, source, used: now });
        Ok(Arc::clone(&opened.view))
    }

    /// The way of a credential; `None` where there is none, or none that is a way over the network.
    pub(super) fn way(&self, credential: &Credential, catalog: &CatalogName) -> Option<Way<'_>> {
        let Configured::Rest { config, reach, .. } = self.catalogs.get(catalog)? else { return None };
        let credentials = match self.shown(credential, catalog)? {
            Shown::Catalogs => Some(&config.credentials),
            Shown::Roles(credentials) => Some(credentials),
            Shown::Callers => None,
        };
        let source = match credentials {
            Some(credentials) => self.configured(credentials, reach).ok()?,
            None => self.sources.callers(credential, reach.callers(), &reach.means()),
        };
        Some(Way { config, credentials, reach, source })
    }

    /// The roles that open a catalog, in order.
    pub(super) fn roles_of(&self, catalog: &CatalogName) -> Vec<RoleName> {
        let opens = |(_, role): &(&RoleName, &RoleConfig)| role.catalogs.contains_key(catalog);
        self.roles.iter().filter(opens).map(|(name, _)| name.clone()).collect()
    }

    /// The source of tokens of credentials in the config.
    fn configured(&self, credentials: &RestCredentials, reach: &Reach) -> Result<Arc<Source>, RelayError> {
        let endpoint = reach.endpoint_of(credentials)?;
        let source = self.sources.configured(credentials, endpoint, &reach.means());
        source.map_err(|source| RelayError::Secret { catalog: reach.catalog().clone(), source })
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<(CatalogName, CredentialId), Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when the credential does not open the catalog.
    fn shown(&self, credential: &Credential, name: &CatalogName) -> Option<Shown<'_>> {
        let catalog = self.catalogs.get(name)?;
        let role = credential.role().and_then(|role| self.roles.get(role)).and_then(|role| role.catalogs.get(name));
        if let Some(role) = role {
            let readers = role.reader_credentials.as_ref().filter(|_| credential.is_for_reads());
            return Some(readers.or(role.credentials.as_ref()).map_or(Shown::Catalogs, Shown::Roles));
        }
        match credential.own() {
            Own::Service => Some(Shown::Catalogs),
            Own::Nothing => None,
            Own::Client { realm, .. } | Own::Token { realm, .. } => {
                (realm_of(catalog).as_ref() == Some(realm)).then_some(Shown::Callers)
            }
        }
    }
}

fn confined(catalog: &CatalogName, locations: Vec<String>) -> Result<Arc<Confinement>, RelayError> {
    let confinement = Confinement::new(locations);
    confinement.map(Arc::new).map_err(|reason| RelayError::Config { catalog: catalog.clone(), reason })
}

fn realm_of(catalog: &Configured) -> Option<RealmName> {
    match catalog {
        Configured::Shared(_) => None,
        Configured::Rest { config, .. } => Some(config.realm()),
    }
}

fn viewer_of_role(credential: &Credential) -> CredentialId {
    let role = credential.role().map(RoleName::as_str).unwrap_or_default();
    // What tells them apart stands before the name, which may hold anything.
    CredentialId::from(if credential.is_for_reads() { format!("role-reads:{role}") } else { format!("role:{role}") })
}

/// Forgets what is done with, or else what was not used for longest.
fn make_room(opened: &mut HashMap<(CatalogName, CredentialId), Opened>, now: Instant) {
    opened.retain(|_, opened| !opened.is_done_with(now));
    if opened.len() >= MAX_VIEWS
        && let Some(oldest) = opened.iter().min_by_key(|(_, opened)| opened.used).map(|(key, _)| key.clone())
    {
        opened.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::viewer_of_role;
    use crate::auth::credential::Wallet;

    #[test]
    fn the_reads_of_a_role_are_seen_apart_from_every_other_role() {
        let wallet = Wallet::default();
        let reads = viewer_of_role(&wallet.role(&"a".into()).for_reads());
        for other in ["a", "a:reads", "reads:a", "reads"] {
            assert_ne!(reads, viewer_of_role(&wallet.role(&other.into())), "{other}");
        }
    }
}
