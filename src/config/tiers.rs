//! Owns how a catalog comes to be of two tiers: the platform's endpoints and layers, which differ from one environment to the next, and
//! the catalogs that users name, which do not. Refuses to know which file says what, and to ask any place that is named.
//!
//! ```text
//! platform.endpoints.NAME   a catalog's server: address, credentials, whose log-ins it takes, whom it trusts, limits
//! platform.layers.NAME      a store: location, address, region, keys
//! catalogs.NAME             one of these endpoints, some of these layers, and which of the endpoint's catalogs is meant
//! ```
//! What comes out has the shape of a catalog that is described in one piece, so nobody else knows of tiers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ConfigError, SECRET_KEYS, explain, overlay, unknown_key};
use crate::relay::config::CatalogConfig;
use crate::relay::storage::config::StoreConfig;

/// What a catalog says for itself, over what its endpoint says: which catalog there is meant, and how patient its users are. All the
/// rest decides where secrets go and which files are reached, and is the platform's.
const CATALOGS_OWN: [&str; 4] = ["warehouse", "prefix", "request_timeout", "connect_timeout"];

/// The same with their types: an endpoint of either kind takes only what fits, whether or not it has a use for it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is read as a check; the tree goes on")]
struct CatalogsOwn {
    warehouse: Option<String>,
    prefix: Option<String>,
    #[serde(default, with = "humantime_serde::option")]
    request_timeout: Option<Duration>,
    #[serde(default, with = "humantime_serde::option")]
    connect_timeout: Option<Duration>,
}

/// What only an endpoint says.
const ENDPOINTS_OWN: [&str; 9] =
    ["type", "path", "uri", "realm", "credentials", "callers", "access_delegation", "ca_file", "allowed_endpoints"];

/// What comes from layers.
const LAYERS_OWN: [&str; 2] = ["allowed_locations", "storage"];

/// The `platform` section. By the time a config is read, it has been put into the catalogs that name it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Platform {
    /// Catalog servers, or directories of embedded catalogs, without what is one catalog's or one layer's.
    pub endpoints: BTreeMap<String, CatalogConfig>,
    /// Stores.
    pub layers: BTreeMap<String, StoreConfig>,
}

/// Makes each catalog that names an endpoint whole.
///
/// # Errors
/// When the platform's section is wrong or holds a secret, or a catalog names what is not there or says what is the platform's.
pub(super) fn resolve(tree: &mut Value) -> Result<(), ConfigError> {
    let platform = tree.get("platform").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    check(&platform)?;
    let Some(catalogs) = tree.get_mut("catalogs").and_then(Value::as_object_mut) else { return Ok(()) };
    let tiers = Tiers { endpoints: section(&platform, "endpoints"), layers: section(&platform, "layers") };
    for (name, catalog) in catalogs {
        let Some(said) = catalog.as_object() else { continue };
        if said.contains_key("endpoint") {
            *catalog = tiers.whole(name, said.clone())?;
        } else if !said.contains_key("type") {
            let known = listed(tiers.endpoints.keys());
            let reason =
                format!("must name an `endpoint` of platform.endpoints or have a `type`, embedded or rest; of endpoints {known}");
            return Err(ConfigError::Invalid { path: format!("catalogs.{name}"), reason });
        } else if said.contains_key("layers") {
            let reason = "go with an `endpoint`; a catalog of a `type` has allowed_locations and storage of its own";
            return Err(invalid(format!("catalogs.{name}.layers"), reason));
        }
    }
    Ok(())
}

fn invalid(path: String, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { path, reason: reason.into() }
}

/// Names for a message.
fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() {
        "there are none, so a platform's file may be missing (--config)".to_owned()
    } else {
        format!("there are: {}", names.join(", "))
    }
}

fn section(platform: &Value, name: &str) -> Map<String, Value> {
    platform.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Whether the section is well formed, before anything of it is put elsewhere: messages then name the place where it stands.
fn check(platform: &Value) -> Result<(), ConfigError> {
    refuse_secrets(platform, "platform")?;
    for (name, endpoint) in section(platform, "endpoints") {
        if let Some(key) = LAYERS_OWN.iter().find(|key| endpoint.get(**key).is_some()) {
            let reason =
                "is a layer's: describe it in platform.layers, and name it in the `layers` of the catalogs that it is for";
            return Err(invalid(format!("platform.endpoints.{name}.{key}"), reason));
        }
    }
    let read: Platform = serde_path_to_error::deserialize(platform.clone()).map_err(|error| {
        let inside = error.path().to_string();
        let path = if inside == "." { "platform".to_owned() } else { format!("platform.{inside}") };
        invalid(path, explain(&error.into_inner().to_string()))
    })?;
    let places = read.layers.iter().filter_map(|(name, layer)| Some((name, layer.location.as_ref()?)));
    match places.into_iter().find(|(_, location)| !is_location(location)) {
        Some((name, location)) => {
            let reason = format!("\"{location}\" is no storage location such as s3://lake/gold/");
            Err(invalid(format!("platform.layers.{name}.location"), reason))
        }
        None => Ok(()),
    }
}

/// Whether it has the form of a place of files; the relay is stricter.
fn is_location(text: &str) -> bool {
    let is_of_store = |(scheme, rest): (&str, &str)| !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/');
    is_of_files(text) || text.split_once("://").is_some_and(is_of_store)
}

/// Whether it is a directory of this machine.
fn is_of_files(location: &str) -> bool {
    location.starts_with('/') || location.starts_with("file:")
}

/// The section is shown around in a team, and lies in a repository: it says where secrets are, and holds none.
fn refuse_secrets(value: &Value, path: &str) -> Result<(), ConfigError> {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{path}.{key}");
                if SECRET_KEYS.contains(&key.as_str()) && !matches!(value, Value::Object(_) | Value::Null) {
                    let reason = "must be { env: NAME } or { file: PATH }: the platform section holds no secret itself";
                    return Err(invalid(path, reason));
                }
                refuse_secrets(value, &path)?;
            }
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(|item| refuse_secrets(item, path)),
        _ => Ok(()),
    }
}

struct Tiers {
    endpoints: Map<String, Value>,
    layers: Map<String, Value>,
}

impl Tiers {
    /// A catalog in one piece.
    fn whole(&self, name: &str, mut said: Map<String, Value>) -> Result<Value, ConfigError> {
        let at = |key: &str| format!("catalogs.{name}.{key}");
        let (named, layers) = (said.remove("endpoint").unwrap_or_default(), said.remove("layers"));
        let named = named.as_str().ok_or_else(|| invalid(at("endpoint"), "must be the name of one of platform.endpoints"))?;
        let endpoint = self.endpoints.get(named).ok_or_else(|| {
            let known = listed(self.endpoints.keys());
            invalid(at("endpoint"), format!("`{named}` is not one of platform.endpoints; {known}"))
        })?;
        if let Some(key) = said.keys().find(|key| !CATALOGS_OWN.contains(&key.as_str())) {
            return Err(invalid(at(key), not_its_own(key, named)));
        }
        let layers = self.layers(&at("layers"), layers)?;
        serde_path_to_error::deserialize::<_, CatalogsOwn>(Value::Object(said.clone())).map_err(|error| {
            let key = error.path().to_string();
            invalid(at(&key), explain(&error.into_inner().to_string()))
        })?;
        if endpoint["type"] == "embedded" {
            let folder = said.get("warehouse").and_then(Value::as_str).unwrap_or(name);
            return embedded(endpoint, folder).ok_or_else(|| {
                let reason =
                    format!("\"{folder}\" is to be the catalog's directory at endpoint `{named}`, so it must be the name of one");
                invalid(at("warehouse"), reason)
            });
        }
        if layers.is_empty() {
            let known = listed(self.layers.keys());
            let reason = "is missing or empty, and the catalog's tables may lie in its layers only: name some of platform.layers";
            return Err(invalid(at("layers"), format!("{reason}; {known}")));
        }
        let mut whole = endpoint.clone();
        overlay(&mut whole, Value::Object(said));
        let (mut locations, mut stores) = (Vec::new(), Vec::new());
        for layer in layers {
            let (location, store) = layer.placed()?;
            locations.push(Value::String(location));
            stores.extend(store);
        }
        whole["allowed_locations"] = Value::Array(locations);
        whole["storage"] = Value::Array(stores);
        Ok(whole)
    }

    /// The layers that a catalog names.
    fn layers(&self, path: &str, named: Option<Value>) -> Result<Vec<Layer<'_>>, ConfigError> {
        let none = || invalid(path.to_owned(), "must be a list of names of platform.layers, such as [gold] or [gold/sales]");
        let named = match named {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(named)) => named,
            Some(_) => return Err(none()),
        };
        let layer = |named: &Value| {
            let named = named.as_str().ok_or_else(none)?;
            let (name, below) = split(named);
            let (known, store) = self.layers.get_key_value(name).ok_or_else(|| {
                let known = listed(self.layers.keys());
                invalid(path.to_owned(), format!("`{name}` is not one of platform.layers; {known}"))
            })?;
            let below = below.trim_end_matches('/');
            if !below.is_empty() && !below.split('/').all(is_folder) {
                return Err(invalid(path.to_owned(), format!("`{named}`: a layer's name may be followed by folders in it only")));
            }
            Ok(Layer { name: known, store, below: below.to_owned() })
        };
        named.iter().map(layer).collect()
    }
}

/// The layers that a catalog names, each with the folders in it.
pub(super) fn layers_named(catalog: &Value) -> impl Iterator<Item = (&str, &str)> {
    let named = catalog["layers"].as_array().into_iter().flatten().filter_map(Value::as_str);
    named.map(split)
}

fn split(named: &str) -> (&str, &str) {
    named.split_once('/').unwrap_or((named, ""))
}

/// Why a catalog with an endpoint does not say this.
fn not_its_own(key: &str, endpoint: &str) -> String {
    if LAYERS_OWN.contains(&key) {
        return "comes from the platform's layers: name them in `layers`".to_owned();
    }
    let own = ["endpoint", "layers"].into_iter().chain(CATALOGS_OWN).collect::<Vec<_>>();
    if ENDPOINTS_OWN.contains(&key) {
        let place = format!("platform.endpoints.{endpoint}.{key}");
        return format!("belongs to the platform, as {place}; a catalog with an endpoint says only {}", own.join(", "));
    }
    unknown_key(key, &own)
}

/// An embedded endpoint is a directory with one for each catalog, so that catalogs which name none don't end up as one.
fn embedded(endpoint: &Value, folder: &str) -> Option<Value> {
    let path = endpoint["path"].as_str().filter(|_| is_folder(folder))?;
    let path = Path::new(path).join(folder).to_string_lossy().into_owned();
    Some(serde_json::json!({ "type": "embedded", "path": path }))
}

/// Whether it can only be the name of a folder, to stores and file systems alike.
fn is_folder(name: &str) -> bool {
    let odd = |c: char| c.is_control() || matches!(c, '/' | '\\' | '%' | '?' | '*' | ':');
    !name.is_empty() && !matches!(name, "." | "..") && !name.contains(odd)
}

/// A layer as a catalog names it: the whole of it, or a folder in it.
struct Layer<'a> {
    name: &'a str,
    store: &'a Value,
    below: String,
}

impl Layer<'_> {
    /// Where the catalog's files lie, and what is to be known of their store, if anything is.
    fn placed(&self) -> Result<(String, Option<Value>), ConfigError> {
        let path = format!("platform.layers.{}.location", self.name);
        let Some(location) = self.store["location"].as_str() else {
            return Err(invalid(path, "is missing: say where the layer's files lie, such as s3://lake/gold/"));
        };
        let location = match self.below.as_str() {
            "" => location.to_owned(),
            below => format!("{}/{below}/", location.trim_end_matches('/')),
        };
        let says_more = |store: &Map<String, Value>| store.iter().any(|(key, value)| key != "location" && !value.is_null());
        if !self.store.as_object().is_some_and(says_more) {
            return Ok((location, None));
        }
        if is_of_files(&location) {
            return Err(invalid(path, "is a directory, and a layer of files has nothing besides its location"));
        }
        let mut store = self.store.clone();
        store["location"] = Value::String(location.clone());
        Ok((location, Some(store)))
    }
}
