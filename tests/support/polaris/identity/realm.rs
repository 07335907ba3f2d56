//! Owns one realm while it runs: its principals, their secrets and roles, and what is granted. Everything can be changed at any
//! time and counts from the next request on. Refuses to know HTTP and files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::super::setup::{PrincipalSetup, RealmSetup, WarehouseSetup};
use super::super::tables::Warehouse;
use super::authorize::{Caller, Denial, Grant, Privilege, Securable};
use super::token::Tokens;

/// One realm.
pub struct Realm {
    pub name: String,
    /// Its tokens, and whose it takes.
    pub tokens: Tokens,
    warehouses: RwLock<BTreeMap<String, Arc<Warehouse>>>,
    /// Held for a look or a change, never while anything waits.
    people: RwLock<People>,
}

#[derive(Default)]
struct People {
    principals: BTreeMap<String, Principal>,
    /// Client id → principal.
    clients: HashMap<String, String>,
    /// Principal role → (warehouse, catalog role).
    uses: BTreeMap<String, BTreeSet<(String, String)>>,
    /// (warehouse, catalog role) → grants.
    grants: BTreeMap<(String, String), BTreeSet<Grant>>,
    /// Ids are never given twice: a new principal with an old name is somebody else.
    last_id: u64,
}

#[derive(Clone)]
struct Principal {
    id: u64,
    client_id: String,
    client_secret: String,
    active: bool,
    roles: BTreeSet<String>,
}

/// Whom a token is about.
#[derive(Clone, Debug)]
pub struct Subject {
    pub principal: String,
    pub id: u64,
    pub client_id: String,
}

impl Realm {
    /// # Errors
    /// When a warehouse's directory cannot be used, in words.
    pub async fn start(setup: RealmSetup, scratch: &Path) -> Result<Self, String> {
        let mut people = People::default();
        for principal in setup.principals {
            people.add(principal);
        }
        for (role, uses) in setup.principal_roles {
            for used in uses {
                let (warehouse, catalog_role) = used.split_once('.').ok_or_else(|| format!("{used} is not warehouse.role"))?;
                people.uses.entry(role.clone()).or_default().insert((warehouse.to_owned(), catalog_role.to_owned()));
            }
        }
        let realm = Self {
            tokens: Tokens::new(setup.token_lifetime_s, setup.issuers),
            warehouses: RwLock::default(),
            people: RwLock::new(people),
            name: setup.name,
        };
        for warehouse in setup.warehouses {
            realm.add_warehouse(warehouse, scratch).await?;
        }
        Ok(realm)
    }

    /// Adds a catalog with its roles.
    ///
    /// # Errors
    /// When its directory cannot be used, in words.
    pub async fn add_warehouse(&self, mut setup: WarehouseSetup, scratch: &Path) -> Result<(), String> {
        for (role, grants) in std::mem::take(&mut setup.roles) {
            self.change().grants.insert((setup.name.clone(), role), grants.into_iter().collect());
        }
        let name = setup.name.clone();
        let directory = scratch.join(&self.name).join(&name);
        let warehouse = Warehouse::open(setup, &directory).await.map_err(|error| format!("warehouse {name}: {error}"))?;
        self.warehouses.write().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(warehouse));
        Ok(())
    }

    pub fn warehouse(&self, name: &str) -> Option<Arc<Warehouse>> {
        self.warehouses.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Adds a principal, or one anew under an old name: tokens of the old one are worth nothing then.
    pub fn create_principal(&self, setup: PrincipalSetup) {
        self.change().add(setup);
    }

    /// Removes a principal. Its tokens are refused at once.
    pub fn drop_principal(&self, principal: &str) {
        let mut people = self.change();
        if let Some(gone) = people.principals.remove(principal) {
            people.clients.remove(&gone.client_id);
        }
    }

    /// Lets a principal in or not. Its tokens are worth something again when it comes back.
    pub fn set_active(&self, principal: &str, active: bool) {
        if let Some(found) = self.change().principals.get_mut(principal) {
            found.active = active;
        }
    }

    /// Gives a principal another secret; the old one is worth nothing any more, tokens had with it live on.
    pub fn rotate_secret(&self, principal: &str, secret: &str) {
        if let Some(found) = self.change().principals.get_mut(principal) {
            secret.clone_into(&mut found.client_secret);
        }
    }

    /// Client id and secret.
    pub fn credentials(&self, principal: &str) -> Option<(String, String)> {
        self.look().principals.get(principal).map(|found| (found.client_id.clone(), found.client_secret.clone()))
    }

    /// Gives a principal a principal role, or takes it away.
    pub fn set_role(&self, principal: &str, role: &str, given: bool) {
        if let Some(found) = self.change().principals.get_mut(principal) {
            if given {
                found.roles.insert(role.to_owned());
            } else {
                found.roles.remove(role);
            }
        }
    }

    /// Lets a principal role use a catalog role, or no longer.
    pub fn set_use(&self, role: &str, warehouse: &str, catalog_role: &str, used: bool) {
        let key = (warehouse.to_owned(), catalog_role.to_owned());
        let mut people = self.change();
        let uses = people.uses.entry(role.to_owned()).or_default();
        if used {
            uses.insert(key);
        } else {
            uses.remove(&key);
        }
    }

    pub fn grant(&self, warehouse: &str, catalog_role: &str, grant: Grant) {
        self.change().grants.entry((warehouse.to_owned(), catalog_role.to_owned())).or_default().insert(grant);
    }

    /// Takes a grant away; says whether it was there.
    pub fn revoke(&self, warehouse: &str, catalog_role: &str, grant: &Grant) -> bool {
        let key = (warehouse.to_owned(), catalog_role.to_owned());
        self.change().grants.get_mut(&key).is_some_and(|grants| grants.remove(grant))
    }

    /// Grants on a table go with its name, and end with the table.
    pub fn table_moved(&self, warehouse: &str, from: (&str, &str), to: Option<(&str, &str)>) {
        let is_on = |grant: &Grant| grant.namespace.as_deref() == Some(from.0) && grant.table.as_deref() == Some(from.1);
        for ((of, _), grants) in &mut self.change().grants {
            if of == warehouse && grants.iter().any(is_on) {
                let (moved, mut kept): (BTreeSet<Grant>, _) = std::mem::take(grants).into_iter().partition(is_on);
                if let Some((namespace, table)) = to {
                    kept.extend(moved.into_iter().map(|grant| Grant::on_table(grant.privilege, namespace, table)));
                }
                *grants = kept;
            }
        }
    }

    /// Which principal a client id is of.
    pub fn principal_of(&self, client_id: &str) -> Option<String> {
        self.look().clients.get(client_id).cloned()
    }

    /// The principal with these credentials, if it is active.
    pub fn login(&self, client_id: &str, client_secret: &str) -> Option<Subject> {
        let people = self.look();
        let name = people.clients.get(client_id)?;
        let found = people.principals.get(name).filter(|found| found.active && found.client_secret == client_secret)?;
        Some(Subject { principal: name.clone(), id: found.id, client_id: found.client_id.clone() })
    }

    /// The principal of a name, if it is active.
    pub fn subject(&self, principal: &str) -> Option<Subject> {
        let people = self.look();
        let found = people.principals.get(principal).filter(|found| found.active)?;
        Some(Subject { principal: principal.to_owned(), id: found.id, client_id: found.client_id.clone() })
    }

    /// Whether this principal is still there, the same one and active.
    pub fn knows(&self, principal: &str, id: u64) -> bool {
        self.look().principals.get(principal).is_some_and(|found| found.active && found.id == id)
    }

    /// A caller with those of its roles that the scope activates: `PRINCIPAL_ROLE:ALL`, or some by name.
    pub fn caller(&self, principal: &str, scope: &str) -> Option<Caller> {
        let mut roles = self.look().principals.get(principal)?.roles.clone();
        let asked: BTreeSet<&str> = scope.split(' ').filter_map(|one| one.strip_prefix("PRINCIPAL_ROLE:")).collect();
        if !asked.contains("ALL") {
            roles.retain(|role| asked.contains(role.as_str()));
        }
        Some(Caller { principal: principal.to_owned(), roles })
    }

    /// Whether the caller has every one of these privileges.
    ///
    /// # Errors
    /// The refusal in Polaris' words.
    pub fn authorize(
        &self,
        caller: &Caller,
        warehouse: &str,
        operation: &'static str,
        needed: &[(Privilege, Securable)],
    ) -> Result<(), Denial> {
        let people = self.look();
        let uses = caller.roles.iter().filter_map(|role| people.uses.get(role)).flatten();
        let used: BTreeSet<&(String, String)> = uses.filter(|(of, _)| of == warehouse).collect();
        let held = |privilege: Privilege, target: &Securable| {
            let grants = used.iter().filter_map(|key| people.grants.get(*key)).flatten();
            grants.into_iter().any(|grant| grant.gives(privilege, target))
        };
        if needed.iter().all(|(privilege, target)| held(*privilege, target)) {
            return Ok(());
        }
        let catalog_roles = used.iter().map(|(_, role)| role.clone());
        Err(Denial {
            principal: caller.principal.clone(),
            roles: caller.roles.clone(),
            activated: caller.roles.iter().cloned().chain(catalog_roles).collect(),
            operation,
        })
    }

    fn look(&self) -> RwLockReadGuard<'_, People> {
        self.people.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, People> {
        self.people.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl People {
    fn add(&mut self, setup: PrincipalSetup) {
        self.last_id += 1;
        let PrincipalSetup { name, client_id, client_secret, roles } = setup;
        self.clients.insert(client_id.clone(), name.clone());
        let principal = Principal { id: self.last_id, client_id, client_secret, active: true, roles };
        if let Some(old) = self.principals.insert(name, principal.clone())
            && old.client_id != principal.client_id
        {
            self.clients.remove(&old.client_id);
        }
    }
}
