//! Owns the `auth` section of the config and the rules by which its parts go together: modes, listen addresses, issuers, mappings.
//! Refuses to listen, to ask anybody, and to know catalogs.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::Deserialize;
use url::Url;

use super::mapping::{MappingError, Mappings};
use crate::names::{RealmName, RoleName};
use crate::secret::{SecretError, SecretRef};

/// How callers prove who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nobody is asked; only on a loopback address.
    #[default]
    None,
    /// User name and password, from the list in the config.
    Users,
    /// Client id and secret, or a bearer token, of a principal of a catalog's realm: the catalog sees that principal.
    Polaris,
    /// A bearer token only: the catalog sees it, or one that was exchanged for it.
    Passthrough,
    /// A user of the list, a bearer token of an identity provider, or a client certificate: what is mapped to it gives a role.
    Mapped,
}

impl Mode {
    /// As the config writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Users => "users",
            Self::Polaris => "polaris",
            Self::Passthrough => "passthrough",
            Self::Mapped => "mapped",
        }
    }

    /// Whether catalogs see the caller's own credentials.
    #[must_use]
    pub fn shows_callers(self) -> bool {
        matches!(self, Self::Polaris | Self::Passthrough)
    }
}

/// One user who may log in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name that clients send, and the principal's name.
    pub name: String,
    /// An argon2 hash in PHC form (`$argon2id$v=19$…`).
    pub password_hash: SecretRef,
}

/// An identity provider whose tokens are taken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssuerConfig {
    /// Its name, exactly as its tokens say in `iss`; also where its discovery document is found.
    pub issuer: String,
    /// A token must be meant for one of these (`aud`).
    pub audience: Vec<String>,
    /// Where its keys are; `None` asks its discovery document.
    pub jwks_uri: Option<String>,
    /// Certificate authorities (PEM) by which its server is known, in place of the usual ones.
    pub ca_file: Option<PathBuf>,
    /// The claim that names the principal.
    pub principal_claim: String,
    /// By how much its clock may differ from ours.
    #[serde(with = "humantime_serde")]
    pub clock_skew: Duration,
    /// Signatures that are taken; asymmetric ones only.
    pub algorithms: Vec<Algorithm>,
    /// Its tokens are not shown to the catalog but exchanged for the catalog's own.
    pub exchange: bool,
    /// How often its keys are fetched again.
    #[serde(with = "humantime_serde")]
    pub refresh: Duration,
    /// How long its keys go on beyond that while it cannot be reached.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How long one call to it may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for IssuerConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: Vec::new(),
            jwks_uri: None,
            ca_file: None,
            principal_claim: "sub".to_owned(),
            clock_skew: Duration::from_secs(30),
            algorithms: vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
                Algorithm::ES256,
                Algorithm::ES384,
                Algorithm::EdDSA,
            ],
            exchange: false,
            refresh: Duration::from_secs(600),
            grace: Duration::from_secs(3600),
            timeout: Duration::from_secs(5),
        }
    }
}

/// One line of `auth.mappings`: exactly one of `user`, `claim`, `certificate` and `any`, and the role.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappingConfig {
    /// The user name or client id of a log-in with a password.
    pub user: Option<String>,
    /// A claim of a token: its name, or a path into nested ones such as `realm_access.roles`.
    pub claim: Option<String>,
    /// What the claim is, or what one of its items is; `x*` stands for all that begins with `x`.
    pub value: Option<String>,
    /// Only tokens of this issuer, or of the realm (`realm`); must be given where tokens of more than one kind are taken.
    pub issuer: Option<String>,
    /// The subject of a client certificate as RFC 4514 writes it, or one of its names with its kind, such as `DNS:etl.example.com`.
    pub certificate: Option<String>,
    /// Everybody.
    #[serde(default)]
    pub any: bool,
    /// What it gives; one of `roles`.
    pub role: RoleName,
}

/// How failed log-ins are slowed down.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThrottleConfig {
    /// So many failed log-ins of one user from one address are free; 0 never slows down.
    pub failures: u32,
    /// The same for all users of one address together; 0 never slows down.
    pub address_failures: u32,
    /// How long the next one has to wait then; it doubles with each further failure.
    #[serde(with = "humantime_serde")]
    pub first_delay: Duration,
    /// The longest wait.
    #[serde(with = "humantime_serde")]
    pub max_delay: Duration,
}

impl Default for ThrottleConfig {
    fn default() -> Self {
        Self { failures: 5, address_failures: 100, first_delay: Duration::from_secs(1), max_delay: Duration::from_secs(60) }
    }
}

/// The `auth` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How callers prove who they are.
    pub mode: Mode,
    /// Who may log in with `mode: users` and `mode: mapped`.
    pub users: Vec<User>,
    /// Whose principals log in with `mode: polaris` and `mode: passthrough`; `None` stands for the only realm that there is.
    pub realm: Option<RealmName>,
    /// Identity providers whose tokens are taken.
    pub issuers: Vec<IssuerConfig>,
    /// What gives callers a role; the first that fits counts.
    pub mappings: Vec<MappingConfig>,
    /// How long a log-in that was right is taken again without asking anybody.
    #[serde(with = "humantime_serde")]
    pub remember_logins: Duration,
    /// How long a connection goes on with a log-in that was right while the catalog cannot be asked about it.
    #[serde(with = "humantime_serde")]
    pub login_grace: Duration,
    /// How failed log-ins are slowed down.
    pub throttle: ThrottleConfig,
    /// How long a session token is good for, however busy its session is.
    #[serde(with = "humantime_serde")]
    pub session_ttl: Duration,
    /// 32 bytes in base64 or hex that seal tokens and tickets. Without it they are good for this process only.
    pub key: Option<SecretRef>,
    /// Keys that open what was sealed before `key` took their place.
    pub previous_keys: Vec<SecretRef>,
    /// Let passwords and tokens travel unencrypted beyond loopback.
    pub allow_plaintext: bool,
    /// How many passwords are verified at once; each takes one core for a while and, with usual hashes, 19 MiB.
    pub max_parallel_logins: usize,
    /// How many more log-ins may wait for that.
    pub max_waiting_logins: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::None,
            users: Vec::new(),
            realm: None,
            issuers: Vec::new(),
            mappings: Vec::new(),
            remember_logins: Duration::from_secs(30),
            login_grace: Duration::from_secs(60),
            throttle: ThrottleConfig::default(),
            session_ttl: Duration::from_secs(24 * 3600),
            key: None,
            previous_keys: Vec::new(),
            allow_plaintext: false,
            max_parallel_logins: 2,
            max_waiting_logins: 64,
        }
    }
}

/// Why the `auth` section cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `mode: none` where others than this machine can connect.
    #[error(
        "auth.mode is none, but {0} can be reached from other machines; listen on 127.0.0.1 or [::1], or set another auth.mode, such as users"
    )]
    OpenToOthers(SocketAddr),
    /// Passwords would cross a network in clear.
    #[error(
        "passwords would reach {0} unencrypted from other machines; set flight.tls, listen on loopback, or set auth.allow_plaintext: true"
    )]
    Plaintext(SocketAddr),
    /// `mode: users` without users.
    #[error("auth.mode is users, but auth.users is empty; add at least one {{ name, password_hash }}")]
    NoUsers,
    /// A name that cannot be sent as user name.
    #[error("auth.users: `{0}` cannot be a user name; it must not be empty, and must have no colon and no control character")]
    Name(String),
    /// The same name twice.
    #[error("auth.users: `{0}` is listed twice")]
    Twice(String),
    /// Not an argon2 hash.
    #[error("auth.users: the password_hash of `{name}` is not an argon2 hash in PHC form ($argon2id$v=19$…): {reason}")]
    Hash {
        /// Whose it is.
        name: String,
        /// What the parser said.
        reason: String,
    },
    /// A limit that would lock everybody out.
    #[error("auth.max_parallel_logins must be at least 1")]
    NoLogins,
    /// A section that the mode does not look at, although whoever wrote it relies on it.
    #[error("auth.{section} says who may do what, but auth.mode: {mode} does not look at it; {remedy}")]
    NotLookedAt {
        /// Which one.
        section: &'static str,
        /// The mode.
        mode: &'static str,
        /// What would be right.
        remedy: &'static str,
    },
    /// `mode: mapped` where nothing gives a role, or nobody can log in.
    #[error("auth.mode is mapped, but {0}")]
    Mapped(&'static str),
    /// No catalog knows principals.
    #[error("auth.mode is {0}, but no catalog of type rest is configured, whose principals could log in")]
    NoRealm(&'static str),
    /// The realm cannot be guessed.
    #[error("auth.realm must say whose principals log in; the catalogs' realms are: {0}")]
    WhichRealm(String),
    /// The realm is not there.
    #[error("auth.realm: `{name}` is no catalog's realm; there are: {known}")]
    UnknownRealm {
        /// As configured.
        name: RealmName,
        /// Those that there are.
        known: String,
    },
    /// An issuer cannot be used as configured.
    #[error("auth.issuers, `{issuer}`: {reason}")]
    Issuer {
        /// Which one.
        issuer: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A mapping cannot be used as configured.
    #[error("auth.mappings: {0}")]
    Mapping(#[from] MappingError),
    /// The throttle would do nothing or never end.
    #[error("auth.throttle: first_delay must be above 0 and not above max_delay")]
    Throttle,
    /// The sealing key is not 32 bytes.
    #[error("{0} must be 32 bytes in base64 or hex (`openssl rand -base64 32` makes one)")]
    Key(String),
    /// Old keys without a new one.
    #[error("auth.previous_keys only opens what was sealed before; set auth.key, which seals")]
    OnlyPreviousKeys,
    /// A secret could not be read.
    #[error("cannot read the secret of {place}")]
    Secret {
        /// Which setting refers to it.
        place: String,
        /// What went wrong.
        source: SecretError,
    },
}

/// Something that the operator should know, and that the gateway says at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// `mode: none`.
    NobodyIsAsked(SocketAddr),
    /// `allow_plaintext` beyond loopback.
    Plaintext(SocketAddr),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyIsAsked(address) => write!(
                f,
                "NO AUTHENTICATION: every process on this machine that can connect to {address} may read and write all configured catalogs (auth.mode: none)"
            ),
            Self::Plaintext(address) => write!(
                f,
                "PASSWORDS IN CLEAR: clients on other machines send their passwords and tokens to {address} unencrypted (auth.allow_plaintext: true)"
            ),
        }
    }
}

impl Config {
    /// Judges the section for a server on `listen`, with or without TLS.
    ///
    /// # Errors
    /// When the combination would let anybody in, or would send passwords in clear against the operator's word, or is incomplete.
    pub fn validate(&self, listen: SocketAddr, tls: bool) -> Result<Vec<Warning>, ConfigError> {
        let loopback = listen.ip().to_canonical().is_loopback();
        self.validate_parts()?;
        match self.mode {
            Mode::None if !loopback => Err(ConfigError::OpenToOthers(listen)),
            Mode::None => Ok(vec![Warning::NobodyIsAsked(listen)]),
            Mode::Users | Mode::Polaris | Mode::Passthrough | Mode::Mapped => match (loopback || tls, self.allow_plaintext) {
                (true, _) => Ok(Vec::new()),
                (false, true) => Ok(vec![Warning::Plaintext(listen)]),
                (false, false) => Err(ConfigError::Plaintext(listen)),
            },
        }
    }

    /// The realm whose principals log in; `None` when the mode shows catalogs nothing of a caller.
    ///
    /// # Errors
    /// When it is not among `realms`, or cannot be guessed.
    pub fn realm_among(&self, realms: &[RealmName]) -> Result<Option<RealmName>, ConfigError> {
        if !self.mode.shows_callers() {
            return Ok(None);
        }
        let known = || realms.iter().map(RealmName::as_str).collect::<Vec<_>>().join(", ");
        match (&self.realm, realms) {
            (_, []) => Err(ConfigError::NoRealm(self.mode.as_str())),
            (Some(name), _) if !realms.contains(name) => Err(ConfigError::UnknownRealm { name: name.clone(), known: known() }),
            (Some(name), _) | (None, [name]) => Ok(Some(name.clone())),
            (None, _) => Err(ConfigError::WhichRealm(known())),
        }
    }

    /// Whether every role that a mapping gives is one of these.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check_roles(&self, roles: &BTreeSet<RoleName>) -> Result<(), ConfigError> {
        Ok(Mappings::new(self)?.check_roles(roles)?)
    }

    fn validate_parts(&self) -> Result<(), ConfigError> {
        if self.max_parallel_logins == 0 {
            return Err(ConfigError::NoLogins);
        }
        if self.throttle.first_delay.is_zero() || self.throttle.first_delay > self.throttle.max_delay {
            return Err(ConfigError::Throttle);
        }
        if self.key.is_none() && !self.previous_keys.is_empty() {
            return Err(ConfigError::OnlyPreviousKeys);
        }
        if matches!(self.mode, Mode::None | Mode::Users) {
            let sections = [("issuers", self.issuers.is_empty()), ("mappings", self.mappings.is_empty())];
            if let Some((section, _)) = sections.into_iter().find(|(_, empty)| !empty) {
                let remedy = "set auth.mode: mapped, polaris or passthrough, or take it away";
                return Err(ConfigError::NotLookedAt { section, mode: self.mode.as_str(), remedy });
            }
        }
        self.validate_users()?;
        self.validate_issuers()?;
        Mappings::new(self)?;
        if self.mode == Mode::Mapped {
            self.validate_mapped()?;
        }
        Ok(())
    }

    fn validate_mapped(&self) -> Result<(), ConfigError> {
        let by_certificate = self.mappings.iter().any(|mapping| mapping.certificate.is_some() || mapping.any);
        if self.mappings.is_empty() {
            return Err(ConfigError::Mapped("auth.mappings is empty, so nobody would be let in; add at least one"));
        }
        if self.users.is_empty() && self.issuers.is_empty() && !by_certificate {
            return Err(ConfigError::Mapped("nobody can log in; add auth.users, auth.issuers or a mapping of a certificate"));
        }
        Ok(())
    }

    fn validate_users(&self) -> Result<(), ConfigError> {
        if self.users.is_empty() && self.mode == Mode::Users {
            return Err(ConfigError::NoUsers);
        }
        let mut seen = HashSet::new();
        for user in &self.users {
            if user.name.is_empty() || user.name.contains(|c: char| c == ':' || c.is_control()) {
                return Err(ConfigError::Name(user.name.clone()));
            }
            if !seen.insert(user.name.as_str()) {
                return Err(ConfigError::Twice(user.name.clone()));
            }
        }
        Ok(())
    }

    fn validate_issuers(&self) -> Result<(), ConfigError> {
        let mut seen = HashSet::new();
        for issuer in &self.issuers {
            let wrong = |reason: String| ConfigError::Issuer { issuer: issuer.issuer.clone(), reason };
            issuer.check(self.allow_plaintext).map_err(wrong)?;
            if !seen.insert(issuer.issuer.as_str()) {
                return Err(wrong("is listed twice".to_owned()));
            }
        }
        Ok(())
    }
}

impl IssuerConfig {
    fn check(&self, allow_plaintext: bool) -> Result<(), String> {
        self.check_uri("issuer", &self.issuer, allow_plaintext)?;
        if let Some(uri) = &self.jwks_uri {
            self.check_uri("jwks_uri", uri, allow_plaintext)?;
        }
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            return Err(
                "audience must say which tokens are meant for this gateway, such as [polynya]; without it every token that the \
                        issuer gives to anybody, for whatever application, would open the catalogs"
                    .to_owned(),
            );
        }
        if self.algorithms.is_empty() {
            return Err("algorithms must name at least one, such as RS256".to_owned());
        }
        if let Some(shared) = self.algorithms.iter().find(|algorithm| algorithm.family() == AlgorithmFamily::Hmac) {
            return Err(format!(
                "algorithms: {shared:?} signs by a shared secret; only asymmetric ones are taken, such as RS256"
            ));
        }
        if self.principal_claim.is_empty() {
            return Err("principal_claim must name a claim, such as sub".to_owned());
        }
        if self.refresh.is_zero() || self.timeout.is_zero() {
            return Err("refresh and timeout must be above 0".to_owned());
        }
        Ok(())
    }

    /// Whoever can change the keys on their way can log in as anybody.
    fn check_uri(&self, key: &str, text: &str, allow_plaintext: bool) -> Result<(), String> {
        let url =
            Url::parse(text).map_err(|error| format!("{key} must be an address such as https://login.example.com: {error}"))?;
        match url.scheme() {
            "https" => Ok(()),
            "http" if allow_plaintext || is_loopback(&url) => Ok(()),
            "http" => Err(format!("{key} must be https: its keys decide who is let in, and could be changed on their way")),
            other => Err(format!("{key} must be https, not {other}")),
        }
    }
}

/// Whether what is sent to an address never leaves this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Config {
        let user = User { name: "ana".to_owned(), password_hash: SecretRef::Text("x".into()) };
        Config { mode: Mode::Users, users: vec![user], ..Config::default() }
    }

    #[test]
    fn nobody_is_asked_only_on_loopback() {
        let config = Config::default();
        for here in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            let listen = here.parse().unwrap();
            assert_eq!(config.validate(listen, false).unwrap(), [Warning::NobodyIsAsked(listen)]);
        }
        for everywhere in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1"] {
            for tls in [false, true] {
                let error = config.validate(everywhere.parse().unwrap(), tls).unwrap_err();
                assert!(matches!(error, ConfigError::OpenToOthers(_)), "{error}");
            }
        }
    }

    #[test]
    fn passwords_in_clear_beyond_loopback_need_the_operators_word() {
        let far = "0.0.0.0:1".parse().unwrap();
        assert!(matches!(users().validate(far, false), Err(ConfigError::Plaintext(_))));
        assert_eq!(users().validate(far, true).unwrap(), []);
        assert_eq!(users().validate("127.0.0.1:1".parse().unwrap(), false).unwrap(), []);
        let allowed = Config { allow_plaintext: true, ..users() };
        assert_eq!(allowed.validate(far, false).unwrap(), [Warning::Plaintext(far)]);
    }

    #[test]
    fn user_lists_are_checked() {
        let here = "127.0.0.1:1".parse().unwrap();
        let with = |users: Vec<User>| Config { mode: Mode::Users, users, ..Config::default() };
        assert!(matches!(with(Vec::new()).validate(here, false), Err(ConfigError::NoUsers)));
        let twice = [users().users, users().users].concat();
        assert!(matches!(with(twice).validate(here, false), Err(ConfigError::Twice(_))));
        let colon = User { name: "a:b".to_owned(), password_hash: SecretRef::Text("x".into()) };
        assert!(matches!(with(vec![colon]).validate(here, false), Err(ConfigError::Name(_))));
    }

    #[test]
    fn an_issuer_must_say_for_whom_its_tokens_are_and_be_out_of_reach_of_others() {
        let here = "127.0.0.1:1".parse().unwrap();
        let good = IssuerConfig {
            issuer: "https://login.example.com".to_owned(),
            audience: vec!["polynya".to_owned()],
            ..IssuerConfig::default()
        };
        let judged = |issuer: IssuerConfig| {
            let config = Config { mode: Mode::Polaris, issuers: vec![issuer], ..Config::default() };
            config.validate(here, false).map(|_| ()).map_err(|error| error.to_string())
        };
        judged(good.clone()).unwrap();
        judged(IssuerConfig { issuer: "http://localhost:8080/realms/x".to_owned(), ..good.clone() }).unwrap();
        for (issuer, expected) in [
            (IssuerConfig { audience: Vec::new(), ..good.clone() }, "without it every token"),
            (IssuerConfig { audience: vec![String::new()], ..good.clone() }, "audience must say"),
            (IssuerConfig { issuer: "http://login.example.com".to_owned(), ..good.clone() }, "issuer must be https"),
            (IssuerConfig { issuer: "login".to_owned(), ..good.clone() }, "issuer must be an address"),
            (IssuerConfig { jwks_uri: Some("ftp://x".to_owned()), ..good.clone() }, "jwks_uri must be https, not ftp"),
            (
                IssuerConfig { algorithms: vec![Algorithm::RS256, Algorithm::HS256], ..good.clone() },
                "HS256 signs by a shared secret",
            ),
            (IssuerConfig { algorithms: Vec::new(), ..good.clone() }, "algorithms must name"),
            (IssuerConfig { refresh: Duration::ZERO, ..good.clone() }, "must be above 0"),
        ] {
            let text = judged(issuer).unwrap_err();
            assert!(text.contains("auth.issuers, `") && text.contains(expected), "{text}");
        }
        let twice = Config { mode: Mode::Polaris, issuers: vec![good.clone(), good], ..Config::default() };
        assert!(twice.validate(here, false).unwrap_err().to_string().contains("listed twice"));
    }

    #[test]
    fn what_a_mode_does_not_look_at_is_an_error_and_not_ignored() {
        let here = "127.0.0.1:1".parse().unwrap();
        let mappings: Vec<MappingConfig> = serde_json::from_str(r#"[{ "any": true, "role": "r" }]"#).unwrap();
        let text = |config: Config| config.validate(here, false).unwrap_err().to_string();
        assert!(text(Config { mappings: mappings.clone(), ..users() }).contains("auth.mappings says who may do what"));
        assert!(text(Config { mode: Mode::Mapped, ..users() }).contains("auth.mappings is empty"));
        let claim = serde_json::from_str(r#"[{ "user": "ana", "role": "r" }]"#).unwrap();
        assert!(text(Config { mode: Mode::Mapped, mappings: claim, ..Config::default() }).contains("not in auth.users"));
        assert!(Config { mode: Mode::Mapped, mappings, ..Config::default() }.validate(here, false).is_ok());
        let previous_keys = vec![SecretRef::Text("x".into())];
        assert!(text(Config { previous_keys, ..users() }).contains("set auth.key"));
        let throttle = ThrottleConfig { first_delay: Duration::ZERO, ..ThrottleConfig::default() };
        assert!(text(Config { throttle, ..users() }).contains("auth.throttle"));
    }
}
