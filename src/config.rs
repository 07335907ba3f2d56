//! Owns how the config comes together: the documented defaults (`config/polynya.yaml` itself), the user's file, environment
//! variables, and flags, each over the one before. Refuses to know what a section means: each part owns its own `Config`.
//!
//! - A key that no part knows is an error that names it and the nearest known one.
//! - `POLYNYA__POOL__MAX_WORKERS=4` sets `pool.max_workers`; `--set pool.max_workers=4` does too, and wins.
//! - Maps are merged key by key; lists and single values are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::flight::transport::tls::ClientCertificates;
use crate::names::{CatalogName, RealmName, RoleName};
use crate::relay::config::CatalogConfig;
use crate::{auth, flight, health, pool, query, relay, session, telemetry};

/// The reference config, which is also the defaults.
pub const DEFAULTS: &str = include_str!("../config/polynya.yaml");

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

/// Where the layers over the defaults come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The user's file.
    pub file: Option<PathBuf>,
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

/// Puts the layers together, as one tree.
///
/// # Errors
/// When a text cannot be read or is not YAML.
pub fn merged(sources: &Sources, environment: impl Iterator<Item = (String, String)>) -> Result<Value, ConfigError> {
    let mut tree = parse(DEFAULTS, "the built-in default config")?;
    if let Some(path) = &sources.file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let layer = relative_to(parse(&text, &path.display().to_string())?, path);
        // The built-in catalog is an example: a file that names catalogs of its own means just these.
        if layer.get("catalogs").is_some_and(|own| is_new_set(&tree["catalogs"], own)) {
            tree["catalogs"] = Value::Object(Map::new());
        }
        overlay(&mut tree, layer);
    }
    let mut variables: Vec<_> = environment.filter_map(|(k, v)| Some((k.strip_prefix(ENV_PREFIX)?.to_lowercase(), v))).collect();
    variables.sort();
    for (key, value) in variables {
        overlay(
            &mut tree,
            nested(key.split("__"), parse(&value, &format!("environment variable {ENV_PREFIX}{}", key.to_uppercase()))?),
        );
    }
    for (key, value) in &sources.set {
        overlay(&mut tree, nested(key.split('.'), parse(value, &format!("--set {key}"))?));
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
        let known: Vec<&str> = config.catalogs.keys().map(CatalogName::as_str).collect();
        return Err(ConfigError::Invalid {
            path: "default_catalog".to_owned(),
            reason: format!("`{}` is not one of the catalogs: {}", config.default_catalog, known.join(", ")),
        });
    }
    config
        .health
        .check(&config.catalogs.keys().cloned().collect())
        .map_err(|(key, reason)| ConfigError::Invalid { path: format!("health.{key}"), reason })?;
    check_identity(&config)?;
    Ok(config)
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
    config.auth.realm_among(&realms).map_err(in_auth)?;
    config.auth.check_roles(&config.roles.keys().cloned().collect()).map_err(in_auth)?;
    let asked = config.flight.tls.as_ref().is_some_and(|tls| tls.client_certificates != ClientCertificates::None);
    if !asked && config.auth.mappings.iter().any(|mapping| mapping.certificate.is_some()) {
        let reason =
            "is none, or not set, so no client shows the certificates that auth.mappings looks for; set optional or required";
        return Err(invalid("flight.tls.client_certificates".to_owned(), reason.to_owned()));
    }
    Ok(())
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

/// Whether a layer brings catalogs of its own, of which none changes one that is there.
fn is_new_set(base: &Value, layer: &Value) -> bool {
    let (Value::Object(base), Value::Object(layer)) = (base, layer) else { return false };
    !layer.is_empty() && layer.keys().all(|name| !base.contains_key(name))
}

/// Paths of embedded catalogs in a file are meant from where the file lies.
fn relative_to(mut tree: Value, file: &Path) -> Value {
    let folder = file.parent().unwrap_or(Path::new("."));
    let catalogs = tree.get_mut("catalogs").and_then(Value::as_object_mut);
    for path in catalogs.into_iter().flat_map(Map::values_mut).filter_map(|catalog| catalog.get_mut("path")) {
        if let Some(relative) = path.as_str().filter(|p| Path::new(p).is_relative()) {
            *path = Value::String(folder.join(relative).to_string_lossy().into_owned());
        }
    }
    tree
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
        _ => {}
    }
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

/// Adds the nearest known key to serde's message about an unknown one.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return message.to_owned();
    }
    let Some(unknown) = quoted.next() else { return message.to_owned() };
    let known: Vec<&str> = quoted.collect();
    let what = if message.starts_with("unknown field") { "unknown key" } else { "unknown value" };
    let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)));
    match nearest {
        Some(nearest) => format!("{what} `{unknown}`; did you mean `{nearest}`? Known here: {}", known.join(", ")),
        None => format!("{what} `{unknown}`: nothing can be set here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[&str]) -> Result<Config, ConfigError> {
        let pairs = set.iter().map(|pair| pair.split_once('=').expect("a pair"));
        let sources = Sources { file: None, set: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect() };
        load(merged(&sources, std::iter::empty())?)
    }

    #[test]
    fn the_documented_defaults_are_a_config() {
        with(&[]).expect("defaults");
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let error = with(&["pool.max_worker=4"]).expect_err("unknown key").to_string();
        assert!(error.contains("unknown key `max_worker`") && error.contains("`max_workers`"), "{error}");
        let error = with(&["flights.listen=x"]).expect_err("unknown section").to_string();
        assert!(error.contains("did you mean `flight`"), "{error}");
    }

    #[test]
    fn a_wrong_type_names_the_path() {
        let error = with(&["pool.max_workers=many"]).expect_err("a text").to_string();
        assert!(error.contains("pool.max_workers"), "{error}");
    }

    #[test]
    fn the_environment_is_over_the_file_and_a_flag_over_both() {
        let variables = [("POLYNYA__POOL__MAX_WORKERS".to_owned(), "3".to_owned())];
        let tree = merged(&Sources::default(), variables.clone().into_iter()).expect("merge");
        assert_eq!(load(tree).expect("load").pool.max_workers, 3);
        let sources = Sources { file: None, set: vec![("pool.max_workers".to_owned(), "5".to_owned())] };
        let tree = merged(&sources, variables.into_iter()).expect("merge");
        assert_eq!(load(tree).expect("load").pool.max_workers, 5);
    }

    #[test]
    fn check_config_shows_no_secret() {
        let sources = Sources { file: None, set: vec![("auth.key".to_owned(), "planted-secret".to_owned())] };
        let tree = merged(&sources, std::iter::empty()).expect("merge");
        let shown = redacted(&tree).expect("yaml");
        assert!(!shown.contains("planted-secret") && shown.contains("<redacted>"), "{shown}");
    }

    #[test]
    fn check_config_shows_no_secret_of_a_role_and_no_previous_key() {
        let credentials = "{type: oauth2, client_id: gateway, client_secret: planted-one}";
        let set = [
            ("roles.r.catalogs.prod.credentials", credentials),
            ("auth.previous_keys", "[planted-two, {env: SHOWN_NAME}]"),
            ("auth.key", "0x1234"),
        ];
        let set = set.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let tree = merged(&Sources { file: None, set }, std::iter::empty()).expect("merge");
        let shown = redacted(&tree).expect("yaml");
        assert!(!shown.contains("planted") && !shown.contains("4660") && !shown.contains("0x1234"), "{shown}");
        assert!(shown.contains("SHOWN_NAME") && shown.contains("client_id: gateway"), "{shown}");
    }

    #[test]
    fn roles_realms_and_mappings_name_what_is_there() {
        let prod = ["catalogs.prod.type=rest", "catalogs.prod.uri=https://a/"];
        let other = ["catalogs.other.type=rest", "catalogs.other.uri=https://b"];
        let ok = |set: &[&str]| with(&[&prod, set].concat()).map(|_| ()).map_err(|error| error.to_string());
        let error = |set: &[&str]| ok(set).expect_err("an error");
        ok(&["auth.mode=polaris"]).expect("the only realm");
        ok(&[&other[..], &["auth.mode=polaris", "auth.realm=https://b"]].concat()).expect("one of two");
        assert!(error(&[&other[..], &["auth.mode=polaris"]].concat()).contains("realms are: https://a, https://b"));
        assert!(error(&["auth.mode=polaris", "auth.realm=c"]).contains("`c` is no catalog's realm; there are: https://a"));
        assert!(with(&["auth.mode=passthrough"]).expect_err("no realm").to_string().contains("no catalog of type rest"));
        assert!(error(&["roles.r.catalogs.nope={}"]).contains("roles.r.catalogs.nope: is not one of the catalogs: lake, prod"));
        assert!(error(&["roles.r.catalogs.lake.credentials={type: none}"]).contains("asks for no credentials"));
        let mapping = "auth.mappings=[{any: true, role: q}]";
        assert!(error(&["auth.mode=mapped", "roles.r.catalogs.lake={}", mapping]).contains("role `q`, which is not in `roles`"));
        let certificate = "auth.mappings=[{certificate: CN=a, role: r}]";
        let text = error(&["auth.mode=mapped", "roles.r.catalogs.lake={}", certificate]);
        assert!(text.contains("flight.tls.client_certificates"), "{text}");
    }

    #[test]
    fn an_unreadable_text_is_not_shown() {
        let variables = [("POLYNYA__AUTH__KEY".to_owned(), "'planted-secret: x".to_owned())];
        let error = merged(&Sources::default(), variables.into_iter()).expect_err("not YAML").to_string();
        assert!(error.contains("POLYNYA__AUTH__KEY") && !error.contains("planted"), "{error}");
    }

    #[test]
    fn limits_that_would_stop_everything_are_refused() {
        for key in ["pool.max_workers", "pool.max_statements", "session.max_sessions", "query.listing_loads", "pool.threads"] {
            let error = with(&[&format!("{key}=0")]).expect_err("a zero").to_string();
            assert!(error.contains(key) && error.contains("at least 1"), "{error}");
        }
    }

    #[test]
    fn every_worker_needs_a_thread_of_the_budget() {
        let error = with(&["pool.thread_budget=5", "pool.max_workers=6"]).expect_err("too few").to_string();
        assert!(error.contains("pool.thread_budget") && error.contains("at least pool.max_workers, 6"), "{error}");
        with(&["pool.thread_budget=6", "pool.max_workers=6"]).expect("enough");
    }

    #[test]
    fn a_default_catalog_must_be_there() {
        let error = with(&["default_catalog=nowhere"]).expect_err("missing catalog").to_string();
        assert!(error.contains("nowhere") && error.contains("lake"), "{error}");
    }
}
