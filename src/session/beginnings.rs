//! Owns where a session begins to look names up: as the config says for its caller's role, or for everybody, as far as the caller may
//! look there. Refuses to know which catalogs a caller may see.

use std::collections::BTreeMap;

use crate::as_of::AsOf;
use crate::names::{CatalogName, RoleName};

/// Where names without catalog or schema are looked up, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The catalog.
    pub catalog: CatalogName,
    /// The schema in it.
    pub schema: String,
    /// When tables are read as they were at some time: that time.
    pub as_of: Option<AsOf>,
}

impl Defaults {
    /// Tables as they are now.
    #[must_use]
    pub fn now(catalog: CatalogName, schema: String) -> Self {
        Self { catalog, schema, as_of: None }
    }
}

/// What the config says of it.
#[derive(Clone, Debug)]
pub struct Beginnings {
    everybody: Defaults,
    roles: BTreeMap<RoleName, Defaults>,
}

impl From<Defaults> for Beginnings {
    fn from(everybody: Defaults) -> Self {
        Self::new(everybody, BTreeMap::new())
    }
}

impl Beginnings {
    /// For everybody, and for callers of these roles.
    #[must_use]
    pub fn new(everybody: Defaults, roles: BTreeMap<RoleName, Defaults>) -> Self {
        Self { everybody, roles }
    }

    /// What is said for a role, if anything is.
    #[must_use]
    pub fn role(&self, role: &RoleName) -> Option<&Defaults> {
        self.roles.get(role)
    }

    /// For a caller who sees these catalogs; `None` for one who sees none. One who sees neither the role's nor everybody's begins in the
    /// first that there is: without any, no name at all could be looked up, and clients would have nothing to list.
    pub(super) fn of(&self, role: Option<&RoleName>, visible: &[CatalogName]) -> Option<Defaults> {
        let own = role.and_then(|role| self.roles.get(role)).unwrap_or(&self.everybody);
        let seen = [own, &self.everybody].into_iter().find(|defaults| visible.contains(&defaults.catalog));
        let first = || Some(Defaults { catalog: visible.first()?.clone(), ..own.clone() });
        seen.cloned().or_else(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(catalog: &str, schema: &str) -> Defaults {
        Defaults::now(catalog.into(), schema.to_owned())
    }

    #[test]
    fn a_session_begins_where_its_role_says_if_it_may_look_there() {
        let roles = BTreeMap::from([("analyst".into(), at("sales", "gold")), ("guest".into(), at("lake", "public"))]);
        let beginnings = Beginnings::new(at("lake", "main"), roles);
        let of = |role: &str, visible: &[&str]| {
            let visible: Vec<CatalogName> = visible.iter().map(|name| (*name).into()).collect();
            beginnings.of(Some(&role.into()), &visible)
        };
        assert_eq!(of("analyst", &["lake", "sales"]), Some(at("sales", "gold")));
        assert_eq!(of("analyst", &["crm", "lake"]), Some(at("lake", "main")), "the role's schema goes with its catalog");
        assert_eq!(of("guest", &["crm", "lake"]), Some(at("lake", "public")));
        assert_eq!(of("guest", &["crm"]), Some(at("crm", "public")));
        assert_eq!(of("other", &["crm", "lake"]), Some(at("lake", "main")));
        assert_eq!(of("other", &["crm", "sales"]), Some(at("crm", "main")));
        assert_eq!(of("analyst", &[]), None);
        assert_eq!(beginnings.of(None, &["lake".into()]), Some(at("lake", "main")));
    }
}
