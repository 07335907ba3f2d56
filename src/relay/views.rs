//! Owns which catalogs a credential opens, and what it shows each of them. Refuses to ask them anything.
//!
//! ```text
//! catalog    named by the role           of the caller's realm     service
//! embedded   shared by all who may       no                        shared by all
//! rest       the role's credentials      the caller's own          the catalog's own
//! ```
//! Nothing else is there for the credential: a catalog that it does not open cannot be told from one that is not configured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::config::{CatalogConfig, Config, RestConfig, RestCredentials, RoleConfig};
use super::confine::Confinement;
use super::error::{CatalogError, RelayError};
use super::storage::Storage;
use super::upstream::Upstream;
use super::upstream::embedded::Embedded;
use super::upstream::rest::Rest;
use crate::auth::credential::{Credential, Own};
use crate::lake::catalog::Catalog;
use crate::names::{CatalogName, CredentialId, RealmName, RoleName};
use crate::secret::SecretRef;

/// A view that is not asked for so long is forgotten, with the tokens in it.
const IDLE: Duration = Duration::from_secs(3600);

/// Views kept at once.
const MAX_VIEWS: u64 = 20_000;

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
    config: Config,
    catalogs: BTreeMap<CatalogName, Configured>,
    roles: BTreeMap<RoleName, RoleConfig>,
    /// Of REST catalogs, by what is shown.
    opened: moka::sync::Cache<(CatalogName, CredentialId), Arc<View>>,
}

/// A catalog, whoever asks.
pub(super) enum Configured {
    /// The same for all who may see it.
    Shared(Arc<View>),
    /// Asked with the credentials of each.
    Rest { config: Box<RestConfig>, confinement: Arc<Confinement> },
}

impl Configured {
    /// Opens an embedded catalog; a REST catalog is first asked when it is needed.
    pub(super) async fn open(name: CatalogName, catalog: CatalogConfig) -> Result<Self, RelayError> {
        let confined = |locations| {
            let confinement = Confinement::new(locations);
            confinement.map(Arc::new).map_err(|reason| RelayError::Config { catalog: name.clone(), reason })
        };
        match catalog {
            CatalogConfig::Embedded { path } => {
                let catalog = Catalog::open(&path).await.map_err(|source| RelayError::Open { catalog: name.clone(), source })?;
                let confinement = confined(vec![catalog.uri().to_owned()])?;
                Ok(Self::shared(Arc::new(Embedded::new(name, Arc::new(catalog))), confinement))
            }
            CatalogConfig::Rest(rest) => {
                let confinement = confined(rest.allowed_locations.clone())?;
                Ok(Self::Rest { config: rest, confinement })
            }
        }
    }

    /// The same for all who may see it.
    pub(super) fn shared(upstream: Arc<dyn Upstream>, confinement: Arc<Confinement>) -> Self {
        let storage = Arc::new(Storage::local(Arc::clone(&upstream)));
        Self::Shared(Arc::new(View { viewer: Credential::service().id().clone(), upstream, confinement, storage }))
    }

    fn confinement(&self) -> &Confinement {
        match self {
            Self::Shared(view) => &view.confinement,
            Self::Rest { confinement, .. } => confinement,
        }
    }
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
    /// Fails when a catalog's or a role's settings cannot be used.
    pub(super) fn new(
        config: Config,
        catalogs: BTreeMap<CatalogName, Configured>,
        roles: BTreeMap<RoleName, RoleConfig>,
    ) -> Result<Self, RelayError> {
        let opened = moka::sync::Cache::builder().max_capacity(MAX_VIEWS).time_to_idle(IDLE).build();
        let views = Self { config, catalogs, roles, opened };
        for (name, catalog) in &views.catalogs {
            if let Configured::Rest { config, .. } = catalog {
                storage_of(Arc::new(Rest::new(name.clone(), &views.config, config)?), config)?;
            }
        }
        Ok(views)
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

    /// A catalog of the caller's own realm.
    pub(super) fn of_realm(&self, credential: &Credential) -> Option<&CatalogName> {
        let callers = |name: &&CatalogName| matches!(self.shown(credential, name), Some(Shown::Callers));
        self.catalogs.keys().find(callers)
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
        let (config, confinement) = match self.catalogs.get(catalog).ok_or_else(nothing)? {
            Configured::Shared(view) => return Ok(Arc::clone(view)),
            Configured::Rest { config, confinement } => (config, confinement),
        };
        let viewer = match shown {
            Shown::Catalogs => Credential::service().id().clone(),
            Shown::Callers => credential.id().clone(),
            Shown::Roles(_) => viewer_of_role(credential),
        };
        let key = (catalog.clone(), viewer.clone());
        if let Some(view) = self.opened.get(&key) {
            return Ok(view);
        }
        let rest = match shown {
            Shown::Catalogs => (**config).clone(),
            Shown::Roles(credentials) => RestConfig { credentials: credentials.clone(), ..(**config).clone() },
            Shown::Callers => RestConfig { credentials: callers(credential, config), ..(**config).clone() },
        };
        let upstream = Rest::new(catalog.clone(), &self.config, &rest)
            .map_err(|error| CatalogError::BadAnswer { catalog: catalog.clone(), reason: error.to_string() })?;
        let upstream: Arc<dyn Upstream> = Arc::new(upstream);
        let storage = storage_of(Arc::clone(&upstream), &rest)
            .map_err(|error| CatalogError::BadAnswer { catalog: catalog.clone(), reason: error.to_string() })?;
        let view = Arc::new(View { viewer, upstream, confinement: Arc::clone(confinement), storage: Arc::new(storage) });
        // Somebody may have been faster.
        Ok(self.opened.get_with(key, || view))
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

fn storage_of(upstream: Arc<dyn Upstream>, config: &RestConfig) -> Result<Storage, RelayError> {
    Storage::new(upstream, &config.storage, config.allowed_endpoints.as_deref())
}

fn realm_of(catalog: &Configured) -> Option<RealmName> {
    match catalog {
        Configured::Shared(_) => None,
        Configured::Rest { config, .. } => Some(config.realm()),
    }
}

fn viewer_of_role(credential: &Credential) -> CredentialId {
    let role = credential.role().map(RoleName::as_str).unwrap_or_default();
    CredentialId::from(if credential.is_for_reads() { format!("role:{role}:reads") } else { format!("role:{role}") })
}

/// The caller's own credentials, as the catalog is shown them.
fn callers(credential: &Credential, config: &RestConfig) -> RestCredentials {
    match credential.own() {
        Own::Client { client_id, client_secret, .. } => {
            let (scope, token_uri) = match &config.credentials {
                RestCredentials::Oauth2 { scope, token_uri, .. } => (scope.clone(), token_uri.clone()),
                _ => (super::config::polaris_scope(), None),
            };
            RestCredentials::Oauth2 {
                client_id: client_id.clone(),
                client_secret: SecretRef::Text(client_secret.clone()),
                scope,
                token_uri,
            }
        }
        Own::Token { current, .. } => RestCredentials::Bearer { token: SecretRef::Text(current.get().secret) },
        Own::Service | Own::Nothing => RestCredentials::None,
    }
}
