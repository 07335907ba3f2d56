//! Owns the `auth` section of the config and the rules by which a listen address may go with a way of logging in. Refuses to listen.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

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

/// The `auth` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How callers prove who they are.
    pub mode: Mode,
    /// Who may log in with `mode: users`.
    pub users: Vec<User>,
    /// How long a session token is good for, however busy its session is.
    #[serde(with = "humantime_serde")]
    pub session_ttl: Duration,
    /// 32 bytes in base64 or hex that seal tokens and tickets. Without it they are good for this process only.
    pub key: Option<SecretRef>,
    /// Let passwords travel unencrypted beyond loopback.
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
            session_ttl: Duration::from_secs(24 * 3600),
            key: None,
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
        "auth.mode is none, but {0} can be reached from other machines; listen on 127.0.0.1 or [::1], or set auth.mode: users"
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
    /// The sealing key is not 32 bytes.
    #[error("auth.key must be 32 bytes in base64 or hex (`openssl rand -base64 32` makes one)")]
    Key,
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
                "PASSWORDS IN CLEAR: clients on other machines send their passwords to {address} unencrypted (auth.allow_plaintext: true)"
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
        if self.max_parallel_logins == 0 {
            return Err(ConfigError::NoLogins);
        }
        match self.mode {
            Mode::None if !loopback => Err(ConfigError::OpenToOthers(listen)),
            Mode::None => Ok(vec![Warning::NobodyIsAsked(listen)]),
            Mode::Users => {
                self.validate_users()?;
                match (loopback || tls, self.allow_plaintext) {
                    (true, _) => Ok(Vec::new()),
                    (false, true) => Ok(vec![Warning::Plaintext(listen)]),
                    (false, false) => Err(ConfigError::Plaintext(listen)),
                }
            }
        }
    }

    fn validate_users(&self) -> Result<(), ConfigError> {
        if self.users.is_empty() {
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
}
