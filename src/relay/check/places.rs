//! Owns the names of the settings that advice points to: where an operator changes them, whichever tier or file says them. Refuses to
//! find that out, which the config does.

use crate::names::CatalogName;
use crate::relay::confine::{is_within, normal};

/// Where a catalog's settings stand, each as an operator finds it.
#[derive(Clone, Debug)]
pub struct Places {
    /// Its address.
    pub uri: String,
    /// The directory of an embedded one.
    pub path: String,
    /// What the gateway shows it.
    pub credentials: String,
    /// How tokens are had for callers.
    pub callers: String,
    /// Authorities to trust.
    pub ca_file: String,
    /// Which of the server's catalogs it is.
    pub warehouse: String,
    /// Where its tables may lie.
    pub allowed_locations: String,
    /// Stores that the server may name.
    pub allowed_endpoints: String,
    /// Whether access to the data is asked for.
    pub access_delegation: String,
    /// The stores of its files, where there is no layer for them.
    pub storage: String,
    /// The layers that it names, of a catalog in two tiers.
    pub layers: Option<String>,
    /// Each of them.
    pub stores: Vec<StorePlace>,
}

/// A layer of the platform.
#[derive(Clone, Debug)]
pub struct StorePlace {
    /// Where its files lie.
    pub location: String,
    /// Where it stands.
    pub key: String,
}

impl Places {
    /// By what is said of each key of the catalog.
    #[must_use]
    pub fn new(key: impl Fn(&str) -> String) -> Self {
        Self {
            uri: key("uri"),
            path: key("path"),
            credentials: key("credentials"),
            callers: key("callers"),
            ca_file: key("ca_file"),
            warehouse: key("warehouse"),
            allowed_locations: key("allowed_locations"),
            allowed_endpoints: key("allowed_endpoints"),
            access_delegation: key("access_delegation"),
            storage: key("storage"),
            layers: None,
            stores: Vec::new(),
        }
    }

    /// Of a catalog in one piece, without the name of a file.
    #[must_use]
    pub fn of_one_piece(catalog: &CatalogName) -> Self {
        Self::new(|key| format!("catalogs.{catalog}.{key}"))
    }

    /// Where the store of this location is described; not given: any of the catalog's.
    pub(super) fn store_of(&self, location: Option<&str>) -> String {
        let location = location.and_then(normal);
        let holds = |store: &&StorePlace| {
            location.as_ref().zip(normal(&store.location)).is_some_and(|(location, store)| is_within(location, &store))
        };
        if let Some(store) = self.stores.iter().filter(holds).max_by_key(|store| store.location.len()) {
            return store.key.clone();
        }
        match &self.stores[..] {
            [] => self.storage.clone(),
            stores => stores.iter().map(|store| store.key.as_str()).collect::<Vec<_>>().join(" or "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_that_of_the_longest_layer_around_a_location() {
        let store = |location: &str, key: &str| StorePlace { location: location.to_owned(), key: key.to_owned() };
        let one_piece = Places::of_one_piece(&"c".into());
        assert_eq!(one_piece.store_of(Some("s3://a/t")), "catalogs.c.storage");
        let tiers = Places { stores: vec![store("s3://a/", "outer"), store("s3://a/b", "inner")], ..one_piece };
        assert_eq!(tiers.store_of(Some("s3a://a/b/t")), "inner");
        assert_eq!(tiers.store_of(Some("s3://a/bc/t")), "outer");
        assert_eq!(tiers.store_of(Some("s3://elsewhere/t")), "outer or inner");
        assert_eq!(tiers.store_of(None), "outer or inner");
    }
}
