//! Owns what it takes to reach files of a store: address, region, keys and their expiry, as configured or as a catalog vends them.
//! Refuses to print secrets and to ask anybody.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::Client;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::config::{StoreConfig, StoreType};
use super::sign::Keys;
use crate::secret::{ExposeSecret, SecretError, SecretString};

/// The region of requests to a store that has none.
const NO_REGION: &str = "us-east-1";

/// What a request shows a store.
#[derive(Clone, Debug)]
pub(in crate::relay) enum Shown {
    /// A signature made with these keys.
    Keys(Keys),
    /// A token.
    Bearer(SecretString),
    /// Nothing.
    Nothing,
}

/// What it takes to reach files.
#[derive(Clone, Debug)]
pub(in crate::relay) struct Access {
    /// Without a path.
    pub(in crate::relay) endpoint: Url,
    pub(in crate::relay) region: String,
    /// The bucket stands in the path.
    pub(in crate::relay) path_style: bool,
    pub(in crate::relay) shown: Shown,
    /// When the keys are worth nothing any more.
    pub(in crate::relay) expires: Option<SystemTime>,
    /// When they were had.
    pub(in crate::relay) had: SystemTime,
    /// The way there, where it is not the usual one.
    pub(in crate::relay) client: Option<Client>,
}

impl Access {
    /// Whether a store would see no difference.
    pub(in crate::relay) fn shows_the_same(&self, other: &Self) -> bool {
        let text = |token: &Option<SecretString>| token.as_ref().map(|token| token.expose_secret().to_owned());
        match (&self.shown, &other.shown) {
            (Shown::Keys(one), Shown::Keys(two)) => {
                one.id == two.id
                    && text(&one.session_token) == text(&two.session_token)
                    && one.secret.expose_secret() == two.secret.expose_secret()
            }
            (Shown::Bearer(one), Shown::Bearer(two)) => one.expose_secret() == two.expose_secret(),
            (Shown::Nothing, Shown::Nothing) => true,
            _ => false,
        }
    }

    /// What is not to be shown of it.
    pub(in crate::relay) fn secrets(&self) -> Vec<&SecretString> {
        match &self.shown {
            Shown::Keys(keys) => std::iter::once(&keys.secret).chain(&keys.session_token).collect(),
            Shown::Bearer(token) => vec![token],
            Shown::Nothing => Vec::new(),
        }
    }

    /// Whether the keys should be had anew: with a third of their life left, or five minutes of a long one.
    pub(in crate::relay) fn is_due(&self, now: SystemTime) -> bool {
        const AHEAD: Duration = Duration::from_secs(300);
        let Some(expires) = self.expires else { return false };
        let life = expires.duration_since(self.had).unwrap_or_default();
        now + (life / 3).min(AHEAD) >= expires
    }

    /// Whether the keys are worth nothing any more.
    pub(in crate::relay) fn is_over(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

/// The settings of a load answer that are about storage. What it does not say, the config may.
#[derive(Clone, Debug, Default)]
struct Said {
    endpoint: Option<String>,
    region: Option<String>,
    path_style: Option<bool>,
    shown: Option<Shown>,
    expires: Option<SystemTime>,
}

impl Said {
    fn in_settings(settings: &HashMap<String, Value>) -> Self {
        let text = |keys: &[&str]| {
            let found = keys.iter().find_map(|key| settings.get(*key))?;
            let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            Some(text).filter(|text| !text.is_empty())
        };
        let secret = |keys: &[&str]| text(keys).map(SecretString::from);
        let keys = match (text(&["s3.access-key-id"]), secret(&["s3.secret-access-key"])) {
            (Some(id), Some(secret_key)) => {
                Some(Shown::Keys(Keys { id, secret: secret_key, session_token: secret(&["s3.session-token"]) }))
            }
            _ => None,
        };
        let expires = ["s3.session-token-expires-at-ms", "gcs.oauth2.token-expires-at", "expiration-time"];
        Self {
            endpoint: text(&["s3.endpoint", "gcs.service.host"]),
            region: text(&["client.region", "s3.region", "region"]),
            path_style: text(&["s3.path-style-access"]).map(|value| value == "true"),
            shown: keys.or_else(|| secret(&["gcs.oauth2.token"]).map(Shown::Bearer)),
            expires: text(&expires).and_then(|ms| ms.parse().ok()).map(|ms| UNIX_EPOCH + Duration::from_millis(ms)),
        }
    }

    fn or(self, other: &Self) -> Self {
        let (shown, expires) =
            if self.shown.is_some() { (self.shown, self.expires) } else { (other.shown.clone(), other.expires) };
        Self {
            endpoint: self.endpoint.or_else(|| other.endpoint.clone()),
            region: self.region.or_else(|| other.region.clone()),
            path_style: self.path_style.or(other.path_style),
            shown,
            expires,
        }
    }
}

/// What a catalog handed out with a table.
#[derive(Debug)]
pub(in crate::relay) struct Handed {
    /// Where the table's files lie: its location, and where its properties say that files are written.
    pub(in crate::relay) places: Vec<String>,
    /// By prefix; the empty one is for all of them.
    by_prefix: Vec<(String, Said)>,
    had: SystemTime,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    config: Option<HashMap<String, Value>>,
    #[serde(rename = "storage-credentials", default)]
    credentials: Option<Vec<Credential>>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Credential {
    prefix: String,
    #[serde(default)]
    config: HashMap<String, Value>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    location: String,
    #[serde(default)]
    properties: Option<HashMap<String, Value>>,
}

impl Handed {
    /// Reads a load or create answer; `None` when it is none.
    pub(in crate::relay) fn in_answer(body: &[u8]) -> Option<Self> {
        let answer: Answer = serde_json::from_slice(body).ok()?;
        let general = Said::in_settings(&answer.config.unwrap_or_default());
        let mut by_prefix: Vec<(String, Said)> = answer
            .credentials
            .unwrap_or_default()
            .into_iter()
            .map(|credential| (credential.prefix, Said::in_settings(&credential.config).or(&general)))
            .collect();
        by_prefix.push((String::new(), general));
        let properties = answer.metadata.properties.unwrap_or_default();
        let written = super::super::table::PLACE_PROPERTIES.iter().filter_map(|name| properties.get(*name)?.as_str());
        let places = std::iter::once(answer.metadata.location.as_str()).chain(written).map(str::to_owned).collect();
        Some(Self { places, by_prefix, had: SystemTime::now() })
    }

    /// Whether all keys in it are worth nothing any more.
    pub(in crate::relay) fn is_over(&self, now: SystemTime) -> bool {
        let mut keys = self.by_prefix.iter().filter(|(_, said)| said.shown.is_some()).peekable();
        keys.peek().is_some() && keys.all(|(_, said)| said.expires.is_some_and(|expires| now >= expires))
    }

    /// The prefixes that keys were handed out for, other than the table's places.
    pub(in crate::relay) fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.by_prefix
            .iter()
            .filter(|(prefix, said)| !prefix.is_empty() && said.shown.is_some())
            .map(|(prefix, _)| prefix.as_str())
    }

    /// What reaches a file, with the address that the config gives instead, if it does. `None` when no keys were handed out for it.
    ///
    /// # Errors
    /// When the address is none.
    pub(in crate::relay) fn access(&self, location: &str, config: Option<&StoreConfig>) -> Option<Result<Access, String>> {
        let fits = |prefix: &str| location.starts_with(prefix);
        let fitting = self.by_prefix.iter().filter(|(prefix, said)| fits(prefix) && said.shown.is_some());
        let only = || Some(self.by_prefix.iter().filter(|(_, said)| said.shown.is_some())).filter(|all| all.clone().count() == 1);
        let (_, said) = fitting.max_by_key(|(prefix, _)| prefix.len()).or_else(|| only()?.next())?;
        let said = config.map_or_else(Said::default, of_config).or(said);
        Some(built(said, config.map_or(store_of(location), |config| config.store), self.had))
    }
}

/// What reaches the files of a configured store with keys of its own; `None` when it has none.
pub(super) fn fixed(config: &StoreConfig) -> Result<Option<Access>, FixedError> {
    let shown = match (&config.access_key_id, &config.secret_access_key, &config.bearer_token) {
        (Some(id), Some(secret), None) => {
            let session_token = config.session_token.as_ref().map(|token| token.resolve()).transpose()?;
            Shown::Keys(Keys { id: id.clone(), secret: secret.resolve()?, session_token })
        }
        (None, None, Some(token)) => Shown::Bearer(token.resolve()?),
        (None, None, None) if config.session_token.is_none() => return Ok(None),
        _ => {
            let reason = "access_key_id and secret_access_key belong together, and bearer_token stands alone".to_owned();
            return Err(FixedError::Wrong(reason));
        }
    };
    let said = Said { shown: Some(shown), ..of_config(config) };
    built(said, config.store, SystemTime::now()).map(Some).map_err(FixedError::Wrong)
}

/// Why a configured store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FixedError {
    #[error("{0}")]
    Wrong(String),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

fn of_config(config: &StoreConfig) -> Said {
    Said {
        endpoint: config.endpoint.clone(),
        region: config.region.clone(),
        path_style: config.path_style,
        shown: None,
        expires: None,
    }
}

fn store_of(location: &str) -> StoreType {
    if location.starts_with("gs://") { StoreType::Gcs } else { StoreType::S3 }
}

fn built(said: Said, store: StoreType, had: SystemTime) -> Result<Access, String> {
    let region = said.region.unwrap_or_else(|| NO_REGION.to_owned());
    let endpoint = said.endpoint.unwrap_or_else(|| match store {
        StoreType::S3 => format!("https://s3.{region}.amazonaws.com"),
        StoreType::Gcs => "https://storage.googleapis.com".to_owned(),
    });
    let endpoint = address(&endpoint).ok_or_else(|| format!("\"{endpoint}\" is no address of a store"))?;
    let path_style = said.path_style.unwrap_or(store == StoreType::Gcs);
    Ok(Access {
        endpoint,
        region,
        path_style,
        shown: said.shown.unwrap_or(Shown::Nothing),
        expires: said.expires,
        had,
        client: None,
    })
}

/// An address of a store: `http` or `https`, a host, and nothing behind it.
pub(super) fn address(text: &str) -> Option<Url> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = Url::parse(&text).ok()?;
    let is_plain = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
    let is_bare =
        matches!(url.path(), "" | "/") && url.query().is_none() && url.username().is_empty() && url.password().is_none();
    (is_plain && is_bare).then_some(url)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(id: &str, expires_ms: u64) -> Value {
        json!({
            "s3.access-key-id": id,
            "s3.secret-access-key": "secret",
            "s3.session-token": "token",
            "s3.session-token-expires-at-ms": expires_ms.to_string(),
        })
    }

    fn handed(credentials: Value, config: Value) -> Handed {
        let answer = json!({
            "metadata": { "location": "s3://lake/gold/t", "properties": { "write.data.path": "s3://other/d" } },
            "config": config,
            "storage-credentials": credentials,
        });
        Handed::in_answer(answer.to_string().as_bytes()).unwrap()
    }

    fn id(access: &Access) -> &str {
        let Shown::Keys(keys) = &access.shown else { panic!("{:?}", access.shown) };
        &keys.id
    }

    #[test]
    fn the_keys_of_the_longest_prefix_are_taken_with_what_is_said_of_all() {
        let general =
            json!({ "s3.endpoint": "http://127.0.0.1:9000", "client.region": "eu-west-1", "s3.path-style-access": "true" });
        let credentials = json!([
            { "prefix": "s3://lake", "config": keys("bucket", 1) },
            { "prefix": "s3://lake/gold/t", "config": keys("table", 2000) },
        ]);
        let handed = handed(credentials, general);
        assert_eq!(handed.places, ["s3://lake/gold/t", "s3://other/d"]);
        let access = handed.access("s3://lake/gold/t/data/x", None).unwrap().unwrap();
        assert_eq!(id(&access), "table");
        assert_eq!(
            (access.endpoint.as_str(), access.region.as_str(), access.path_style),
            ("http://127.0.0.1:9000/", "eu-west-1", true)
        );
        assert_eq!(access.expires, Some(UNIX_EPOCH + Duration::from_secs(2)));
        assert_eq!(id(&handed.access("s3://lake/silver/x", None).unwrap().unwrap()), "bucket");
        // Two sets of keys, and none for this place.
        assert!(handed.access("s3://other/d/x", None).is_none());
        let config = StoreConfig { endpoint: Some("https://inside.example.com".to_owned()), ..StoreConfig::default() };
        let access = handed.access("s3://lake/gold/t/data/x", Some(&config)).unwrap().unwrap();
        assert_eq!((id(&access), access.endpoint.as_str()), ("table", "https://inside.example.com/"));
    }

    #[test]
    fn the_only_keys_are_for_all_places_and_none_are_none() {
        let only = handed(json!([{ "prefix": "s3://lake/gold/t", "config": keys("table", 1) }]), json!({}));
        let access = only.access("s3://other/d/x", None).unwrap().unwrap();
        assert_eq!((id(&access), access.endpoint.as_str()), ("table", "https://s3.us-east-1.amazonaws.com/"));
        assert!(handed(json!([]), json!({ "client.region": "eu-west-1" })).access("s3://lake/gold/t/x", None).is_none());
        let wrong = handed(json!([]), {
            let mut all = keys("k", 1);
            all["s3.endpoint"] = json!("file:///etc/passwd");
            all
        });
        assert!(wrong.access("s3://lake/gold/t/x", None).unwrap().is_err());
    }

    #[test]
    fn keys_are_due_ahead_of_their_expiry() {
        let had = SystemTime::now();
        let with = |life: u64| Access {
            endpoint: Url::parse("http://s").unwrap(),
            region: String::new(),
            path_style: true,
            shown: Shown::Nothing,
            expires: Some(had + Duration::from_secs(life)),
            had,
            client: None,
        };
        let at = |seconds| had + Duration::from_secs(seconds);
        assert!(!with(3600).is_due(at(3299)) && with(3600).is_due(at(3300)));
        assert!(!with(90).is_due(at(59)) && with(90).is_due(at(60)));
        assert!(!with(90).is_over(at(89)) && with(90).is_over(at(90)));
    }
}
