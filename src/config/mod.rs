//! Owns how the config comes together: the documented defaults (`config/polynya.yaml` itself), the user's files, environment
//! variables, and flags, each over the one before. Refuses to know what a section means: each part owns its own `Config`.
//!
//! - A key that no part knows is an error that names it and the nearest known one.
//! - `POLYNYA__POOL__MAX_WORKERS=4` sets `pool.max_workers`; `--set pool.max_workers=4` does too, and wins.
//! - Maps are merged key by key; lists and single values are replaced. In a file, a catalog, an endpoint or credentials of another kind
//!   than before take the place of those. A section with nothing in it counts as left out.
//! - A relative path in a file is meant from where the file lies (`paths`); one of a variable or flag from the working directory.
//! - Catalogs that name an endpoint of the platform are made whole at the end (`tiers`).

pub mod origins;
mod paths;
#[cfg(test)]
mod tests;
pub mod tiers;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::flight::transport::tls::ClientCertificates;
use crate::names::{CatalogName, RealmName, RoleName};
use crate::relay::config::{CatalogConfig, RoleConfig};
use crate::session::{Beginnings, Defaults};
use crate::{auth, flight, health, pool, query, relay, session, telemetry};
use tiers::Platform;

/// The reference config, which is also the defaults.
pub const DEFAULTS: &str = include_str!("../../config/polynya.yaml");

/// Prefix of environment variables that set config keys.
const ENV_PREFIX: &str = "POLYNYA__";

/// Keys whose value `check-config` does not print.
const SECRET_KEYS: [&str; 9] = [
    "client_secret",
    "token",
    "key",
    "previous_keys",
    "password",
    "password_hash",
    "secret_access_key",
    "session_token",
    "bearer_token",
];

/// The whole config.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The Flight SQL edge.
    pub flight: flight::Config,
    /// Who may call.
    pub auth: auth::config::Config,
    /// Limits on sessions.
    pub session: session::config::Config,
    /// Limits on statements.
    pub query: query::Config,
    /// Worker processes.
    pub pool: pool::Config,
    /// The catalog relay.
    pub relay: relay::config::Config,
    /// What the platform has, for catalogs to name; these are whole already.
    pub platform: Platform,
    /// The catalogs, by the name that users write.
    pub catalogs: BTreeMap<CatalogName, relay::config::CatalogConfig>,
    /// What mappings may give callers.
    pub roles: BTreeMap<RoleName, relay::config::RoleConfig>,
    /// Where names without a catalog are looked up.
    pub default_catalog: CatalogName,
    /// Where names without a schema are looked up.
    pub default_schema: String,
    /// Whether the gateway can work, for load balancers.
    pub health: health::Config,
    /// The log.
    pub telemetry: telemetry::Config,
    /// How long running statements may go on after SIGTERM.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Config {
    /// Where sessions begin, for everybody and for the roles that say something else.
    #[must_use]
    pub fn beginnings(&self) -> Beginnings {
        let everybody = Defaults::now(self.default_catalog.clone(), self.default_schema.clone());
        let own = self.roles.iter().filter(|(_, role)| role.default_catalog.is_some() || role.default_schema.is_some());
        let of_roles = own.map(|(name, role)| {
            let catalog = role.default_catalog.clone().unwrap_or_else(|| everybody.catalog.clone());
            let schema = role.default_schema.clone().unwrap_or_else(|| everybody.schema.clone());
            (name.clone(), Defaults::now(catalog, schema))
        });
        Beginnings::new(everybody.clone(), of_roles.collect())
    }
}

/// Where the layers over the defaults come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The user's files.
    pub files: Vec<PathBuf>,
    /// Dotted key and value, in order.
    pub set: Vec<(String, String)>,
}

/// What is wrong with the config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A text is not YAML.
    #[error("{place} is not valid YAML: {reason}")]
    Yaml {
        /// Which text.
        place: String,
        /// What the parser said.
        reason: String,
    },
    /// A key or value has no place in the config.
    #[error("config: {path}: {reason}")]
    Invalid {
        /// Dotted path of the key.
        path: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// Puts the layers together, as one tree in which every catalog is whole.
///
/// # Errors
/// When a text cannot be read or is not YAML, or a catalog and the platform don't fit.
pub fn merged(sources: &Sources, environment: impl Iterator<Item = (String, String)>) -> Result<Value, ConfigError> {
    let mut tree = laid(&layers(sources, environment)?)?;
    tiers::resolve(&mut tree)?;
    Ok(tree)
}

/// Who says a part of the config.
enum Origin {
    File(PathBuf),
    /// An environment variable, by its name.
    Variable(String),
    /// `--set`.
    Option,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Option => f.write_str("--set"),
        }
    }
}

/// What one source says.
struct Layer {
    origin: Origin,
    tree: Value,
}

/// The layers over the defaults, in order.
fn layers(sources: &Sources, environment: impl Iterator<Item = (String, String)>) -> Result<Vec<Layer>, ConfigError> {
    let mut layers = Vec::new();
    for path in &sources.files {
        layers.push(Layer { origin: Origin::File(path.clone()), tree: read(path)? });
    }
    let mut variables: Vec<_> = environment.filter_map(|(k, v)| Some((k.strip_prefix(ENV_PREFIX)?.to_lowercase(), v))).collect();
    variables.sort();
    for (key, value) in variables {
        let name = format!("{ENV_PREFIX}{}", key.to_uppercase());
        let tree = nested(key.split("__"), parse(&value, &format!("environment variable {name}"))?);
        layers.push(Layer { origin: Origin::Variable(name), tree });
    }
    for (key, value) in &sources.set {
        let tree = nested(key.split('.'), parse(value, &format!("--set {key}"))?);
        layers.push(Layer { origin: Origin::Option, tree });
    }
    Ok(layers)
}

/// The defaults with the layers over them.
fn laid(layers: &[Layer]) -> Result<Value, ConfigError> {
    let defaults = parse(DEFAULTS, "the built-in default config")?;
    let mut tree = defaults.clone();
    let is_file = |layer: &&Layer| matches!(layer.origin, Origin::File(_));
    // The built-in catalog is an example: files that name catalogs of their own mean just these.
    let files = layers.iter().filter(is_file);
    let mut named = files.filter_map(|file| file.tree.get("catalogs")?.as_object()).flat_map(Map::keys).peekable();
    if named.peek().is_some() && named.all(|name| tree["catalogs"].get(name).is_none()) {
        tree["catalogs"] = Value::Object(Map::new());
    }
    for layer in layers {
        let mut said = layer.tree.clone();
        if is_file(&layer) {
            drop_empty(&mut said, &defaults);
            make_way(&mut tree, &said);
        }
        overlay(&mut tree, said);
    }
    Ok(tree)
}

/// Reads the tree as a config.
///
/// # Errors
/// When a key is unknown or a value is not of its type.
pub fn load(tree: Value) -> Result<Config, ConfigError> {
    let config: Config = serde_path_to_error::deserialize(tree).map_err(|error| {
        let path = error.path().to_string();
        let reason = explain(&error.into_inner().to_string());
        ConfigError::Invalid { path, reason }
    })?;
    let limits = [
        ("flight.max_message_bytes", config.flight.max_message_bytes),
        ("flight.max_statement_bytes", config.flight.max_statement_bytes),
        ("session.max_sessions", config.session.max_sessions),
        ("query.listing_loads", config.query.listing_loads),
        ("query.max_statements_per_principal", config.query.max_statements_per_principal),
        ("pool.max_workers", config.pool.max_workers),
        ("pool.readers_per_key", config.pool.readers_per_key),
        ("pool.exclusive_per_key", config.pool.exclusive_per_key),
        ("pool.max_statements", config.pool.max_statements),
        ("pool.queue", config.pool.queue),
        ("health.max_watches", config.health.max_watches),
        ("pool.threads", config.pool.threads.map_or(1, |threads| threads as usize)),
    ];
    if let Some((key, _)) = limits.into_iter().find(|(_, value)| *value == 0) {
        return Err(ConfigError::Invalid { path: key.to_owned(), reason: "must be at least 1".to_owned() });
    }
    if config.pool.thread_budget.is_some_and(|threads| (threads as usize) < config.pool.max_workers) {
        let reason = format!("must be at least pool.max_workers, {}: every worker needs a thread", config.pool.max_workers);
        return Err(ConfigError::Invalid { path: "pool.thread_budget".to_owned(), reason });
    }
    if !config.catalogs.contains_key(&config.default_catalog) {
        return Err(ConfigError::Invalid {
            path: "default_catalog".to_owned(),
            reason: no_catalog(&config, &config.default_catalog),
        });
    }
    config
        .health
        .check(&config.catalogs.keys().cloned().collect())
        .map_err(|(key, reason)| ConfigError::Invalid { path: format!("health.{key}"), reason })?;
    check_directories(&config.catalogs)?;
    check_identity(&config)?;
    Ok(config)
}

/// Two embedded catalogs in one directory would be one, with two names and two sets of rights.
fn check_directories(catalogs: &BTreeMap<CatalogName, CatalogConfig>) -> Result<(), ConfigError> {
    let mut taken: BTreeMap<PathBuf, &CatalogName> = BTreeMap::new();
    for (name, catalog) in catalogs {
        let CatalogConfig::Embedded { path } = catalog else { continue };
        // Without what does not change the place: `./`, `//`, and a slash at the end.
        let place: PathBuf = std::path::absolute(path).unwrap_or_else(|_| path.clone()).components().collect();
        if let Some(other) = taken.insert(place, name) {
            let reason = format!("its directory {} is that of catalog `{other}` too; give it one of its own", path.display());
            return Err(ConfigError::Invalid { path: format!("catalogs.{name}"), reason });
        }
    }
    Ok(())
}

fn no_catalog(config: &Config, name: &CatalogName) -> String {
    let known: Vec<&str> = config.catalogs.keys().map(CatalogName::as_str).collect();
    format!("`{name}` is not one of the catalogs: {}", known.join(", "))
}

/// Whether realm, mappings, roles and catalogs name one another rightly.
fn check_identity(config: &Config) -> Result<(), ConfigError> {
    let invalid = |path: String, reason: String| ConfigError::Invalid { path, reason };
    for (name, role) in &config.roles {
        for (catalog, shown) in &role.catalogs {
            let path = || format!("roles.{name}.catalogs.{catalog}");
            match config.catalogs.get(catalog) {
                None => {
                    let known: Vec<&str> = config.catalogs.keys().map(CatalogName::as_str).collect();
                    return Err(invalid(path(), format!("is not one of the catalogs: {}", known.join(", "))));
                }
                Some(CatalogConfig::Embedded { .. }) if shown.credentials.is_some() || shown.reader_credentials.is_some() => {
                    return Err(invalid(path(), "an embedded catalog asks for no credentials; leave {}".to_owned()));
                }
                Some(_) => {}
            }
        }
    }
    let realms: BTreeSet<RealmName> = config.catalogs.values().filter_map(realm_of).collect();
    let realms: Vec<RealmName> = realms.into_iter().collect();
    let in_auth = |error: auth::config::ConfigError| invalid("auth".to_owned(), error.to_string());
    let callers = config.auth.realm_among(&realms).map_err(in_auth)?;
    for (name, role) in &config.roles {
        check_beginning(config, name, role, callers.as_ref())?;
    }
    config.auth.check_roles(&config.roles.keys().cloned().collect()).map_err(in_auth)?;
    let asked = config.flight.tls.as_ref().is_some_and(|tls| tls.client_certificates != ClientCertificates::None);
    if !asked && config.auth.mappings.iter().any(|mapping| mapping.certificate.is_some()) {
        let reason =
            "is none, or not set, so no client shows the certificates that auth.mappings looks for; set optional or required";
        return Err(invalid("flight.tls.client_certificates".to_owned(), reason.to_owned()));
    }
    Ok(())
}

/// Whether a role begins where it can be: in a catalog that it opens, or one of the realm that its callers log in to.
fn check_beginning(config: &Config, name: &RoleName, role: &RoleConfig, callers: Option<&RealmName>) -> Result<(), ConfigError> {
    let invalid = |key: &str, reason: String| Err(ConfigError::Invalid { path: format!("roles.{name}.{key}"), reason });
    if role.default_schema.as_deref() == Some("") {
        return invalid("default_schema", "is empty; leave it out for the default_schema of everybody".to_owned());
    }
    let Some(begins) = &role.default_catalog else { return Ok(()) };
    let Some(catalog) = config.catalogs.get(begins) else { return invalid("default_catalog", no_catalog(config, begins)) };
    let of_callers = callers.is_some() && realm_of(catalog).as_ref() == callers;
    if of_callers || role.catalogs.contains_key(begins) {
        return Ok(());
    }
    let opened: Vec<&str> = role.catalogs.keys().map(CatalogName::as_str).collect();
    invalid("default_catalog", format!("the role does not open `{begins}`; its catalogs are: {}", opened.join(", ")))
}

fn realm_of(catalog: &CatalogConfig) -> Option<RealmName> {
    match catalog {
        CatalogConfig::Rest(rest) => Some(rest.realm()),
        CatalogConfig::Embedded { .. } => None,
    }
}

/// The tree as YAML with secrets blotted out.
///
/// # Errors
/// When it cannot be written as YAML, which a parsed tree always can.
pub fn redacted(tree: &Value) -> Result<String, ConfigError> {
    let mut tree = tree.clone();
    blot(&mut tree);
    serde_saphyr::to_string(&tree)
        .map_err(|e| ConfigError::Yaml { place: "the effective config".to_owned(), reason: e.to_string() })
}

fn parse(text: &str, place: &str) -> Result<Value, ConfigError> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    // Without the piece of text that the parser would show: it may hold a secret.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|e| ConfigError::Yaml { place: place.to_owned(), reason: e.to_string() })
}

/// Lays one tree over another.
fn overlay(base: &mut Value, layer: Value) {
    match (base, layer) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(layer)) => {
            for (key, value) in layer {
                match base.get_mut(&key) {
                    // `key: ~` in a file takes an optional value away.
                    Some(slot) if value.is_null() => *slot = Value::Null,
                    Some(slot) => overlay(slot, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, layer) => *base = layer,
    }
}

/// Takes out sections that have nothing in them, as when all their lines are comments.
fn drop_empty(layer: &mut Value, defaults: &Value) {
    let (Value::Object(layer), Value::Object(defaults)) = (layer, defaults) else { return };
    layer.retain(|key, value| !value.is_null() || !defaults.get(key).is_some_and(Value::is_object));
    // Catalogs are no sections: one without anything is a mistake.
    for (key, value) in layer.iter_mut().filter(|(key, _)| *key != "catalogs") {
        drop_empty(value, defaults.get(key).unwrap_or(&Value::Null));
    }
}

/// Where catalogs stand, and what they are made of.
const OF_CATALOGS: [&str; 2] = ["/catalogs", "/platform/endpoints"];

/// Takes away each catalog, endpoint and credentials for which the layer has another kind: nothing that was said of it holds for that.
fn make_way(tree: &mut Value, layer: &Value) {
    for place in OF_CATALOGS {
        let (Some(base), Some(layer)) = (tree.pointer_mut(place).and_then(Value::as_object_mut), layer.pointer(place)) else {
            continue;
        };
        base.retain(|name, entry| match (kind(entry), layer.get(name).and_then(kind)) {
            (Some(before), Some(now)) => before == now,
            _ => true,
        });
    }
    new_credentials(tree, layer);
}

/// Takes away credentials for which the layer has some of another type.
fn new_credentials(tree: &mut Value, layer: &Value) {
    let (Value::Object(tree), Value::Object(layer)) = (tree, layer) else { return };
    tree.retain(|key, before| match layer.get(key).filter(|_| CREDENTIALS.contains(&key.as_str())) {
        Some(now) => now.get("type").is_none() || now.get("type") == before.get("type"),
        None => true,
    });
    for (key, value) in tree {
        new_credentials(value, layer.get(key).unwrap_or(&Value::Null));
    }
}

/// Keys of what a catalog is shown.
const CREDENTIALS: [&str; 2] = ["credentials", "reader_credentials"];

/// What a catalog is, if that is said.
fn kind(entry: &Value) -> Option<&str> {
    if entry.get("endpoint").is_some() { Some("of an endpoint") } else { entry.get("type")?.as_str() }
}

fn read(path: &Path) -> Result<Value, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let tree = parse(&text, &path.display().to_string())?;
    if !matches!(tree, Value::Object(_) | Value::Null) {
        let reason = "a config file has sections, such as `catalogs:` or `platform:`".to_owned();
        return Err(ConfigError::Invalid { path: path.display().to_string(), reason });
    }
    Ok(paths::relative_to(path, tree))
}

fn nested<'a>(keys: impl Iterator<Item = &'a str>, value: Value) -> Value {
    keys.collect::<Vec<_>>().into_iter().rev().fold(value, |inner, key| Value::Object(Map::from_iter([(key.to_owned(), inner)])))
}

fn blot(tree: &mut Value) {
    match tree {
        Value::Object(map) => {
            for (key, value) in map {
                if SECRET_KEYS.contains(&key.as_str()) {
                    blot_secret(value);
                } else {
                    blot(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blot),
        Value::String(text) => {
            if let Some(shown) = blotted_address(text) {
                *text = shown;
            }
        }
        _ => {}
    }
}

/// An address without the user, the password and the query in it, if it has any: keys stand there.
fn blotted_address(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let host = authority.rsplit_once('@').map(|(_, host)| format!("<redacted>@{host}"));
    let path = behind.split_once('?').map(|(path, _)| format!("{path}?<redacted>"));
    if host.is_none() && path.is_none() {
        return None;
    }
    let (host, path) = (host.unwrap_or_else(|| authority.to_owned()), path.unwrap_or_else(|| behind.to_owned()));
    Some(format!("{scheme}://{host}{path}"))
}

/// A secret, or a list of them; where one is to be had may be shown.
fn blot_secret(value: &mut Value) {
    match value {
        Value::String(secret) => "<redacted>".clone_into(secret),
        Value::Array(secrets) => secrets.iter_mut().for_each(blot_secret),
        // A secret of digits only is read as a number.
        Value::Number(_) => *value = Value::String("<redacted>".to_owned()),
        other => blot(other),
    }
}

/// Serde's message with the nearest known key where one is unknown, and without the value where that is wrong: it may be a secret that
/// stands in the wrong place.
fn explain(message: &str) -> String {
    if message.starts_with("invalid type: ") || message.starts_with("invalid value: ") {
        let (said, expected) = message.rsplit_once(", expected ").unwrap_or((message, "something else"));
        let kind = said.split(['"', '`']).next().unwrap_or_default().trim_end();
        return format!("{kind}, expected {expected}");
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return message.to_owned();
    }
    let Some(unknown) = quoted.next() else { return message.to_owned() };
    let known: Vec<&str> = quoted.collect();
    if message.starts_with("unknown field") { unknown_key(unknown, &known) } else { unknown_as("value", unknown, &known) }
}

fn unknown_key(unknown: &str, known: &[&str]) -> String {
    unknown_as("key", unknown, known)
}

fn unknown_as(what: &str, unknown: &str, known: &[&str]) -> String {
    let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)));
    match nearest {
        Some(nearest) => format!("unknown {what} `{unknown}`; did you mean `{nearest}`? Known here: {}", known.join(", ")),
        None => format!("unknown {what} `{unknown}`: nothing can be set here"),
    }
}
