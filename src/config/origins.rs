//! Owns which source of the config says a thing: a file, a variable, an option; and by that, where an operator changes what a catalog is
//! made of, whichever tier says it. Refuses to judge what is said.

use serde_json::Value;

use super::tiers::layers_named;
use super::{ConfigError, Layer, Origin, Sources, laid, layers};
use crate::names::{CatalogName, RoleName};
use crate::relay::check::{Places, StorePlace};

/// What an endpoint of the platform says for its catalogs.
const OF_ENDPOINT: [&str; 7] = ["uri", "path", "credentials", "callers", "ca_file", "allowed_endpoints", "access_delegation"];

/// The sources of a config, each with what it says.
pub struct Origins {
    layers: Vec<Layer>,
    /// What they come to, in two tiers.
    tree: Value,
}

impl Origins {
    /// Reads the sources.
    ///
    /// # Errors
    /// When one cannot be read or is not YAML.
    pub fn of(sources: &Sources, environment: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let layers = layers(sources, environment)?;
        Ok(Self { tree: laid(&layers)?, layers })
    }

    /// Where an operator changes what a catalog is made of.
    #[must_use]
    pub fn of_catalog(&self, name: &CatalogName) -> Places {
        let name = name.as_str();
        let catalog = &self.tree["catalogs"][name];
        let Some(endpoint) = catalog["endpoint"].as_str() else {
            return Places::new(|key| self.shown(&["catalogs", name, key]));
        };
        let at_endpoint = &self.tree["platform"]["endpoints"][endpoint];
        let of_platform = |key: &str| {
            let own = catalog[key].is_null() && !at_endpoint[key].is_null();
            own || OF_ENDPOINT.contains(&key)
        };
        let mut places = Places::new(|key| match of_platform(key) {
            true => self.shown(&["platform", "endpoints", endpoint, key]),
            false => self.shown(&["catalogs", name, key]),
        });
        places.layers = Some(self.shown(&["catalogs", name, "layers"]));
        let named = layers_named(catalog).filter_map(|(layer, below)| {
            let location = self.tree["platform"]["layers"][layer]["location"].as_str()?;
            let location = format!("{}/{below}", location.trim_end_matches('/'));
            Some(StorePlace { location, key: self.shown(&["platform", "layers", layer]) })
        });
        places.stores = named.collect();
        places
    }

    /// Where an operator changes what a role shows a catalog: the key is `credentials` or `reader_credentials`.
    #[must_use]
    pub fn of_role(&self, role: &RoleName, catalog: &CatalogName, key: &str) -> String {
        self.shown(&["roles", role.as_str(), "catalogs", catalog.as_str(), key])
    }

    /// The key, and who says it: of those who say most of its way, the last one; all of them where each may say a part of it.
    fn shown(&self, path: &[&str]) -> String {
        let key = path.join(".");
        let most = self.layers.iter().map(|layer| depth(&layer.tree, path)).max().unwrap_or(0);
        // The section alone says nothing of it.
        let said: Vec<&Layer> = self.layers.iter().filter(|layer| most > 1 && depth(&layer.tree, path) == most).collect();
        let Some(last) = said.last() else { return key };
        let is_file = |layer: &&&Layer| matches!(layer.origin, Origin::File(_));
        let said = match path.iter().fold(&last.tree, |at, part| &at[*part]) {
            // Nobody says it: it would be written where the rest is.
            Value::Null => vec![*said.iter().rfind(is_file).unwrap_or(last)],
            Value::Object(_) => said,
            _ => vec![*last],
        };
        let mut names: Vec<String> = said.into_iter().map(|layer| layer.origin.to_string()).collect();
        names.dedup();
        format!("{key} [{}]", names.join(", "))
    }
}

/// How much of a path there is.
fn depth(tree: &Value, path: &[&str]) -> usize {
    let mut at = tree;
    let there = path.iter().take_while(|part| {
        at = &at[**part];
        !at.is_null()
    });
    there.count()
}
