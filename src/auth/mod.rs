//! Who is calling, and the sealing of what clients carry for us.
//!
//! It owns credentials and the principals they prove. It refuses to know sessions, protocols and catalogs: a session token is only
//! something that [`seal`] closed for somebody.

pub mod certificate;
pub mod config;
pub mod credential;
pub mod realm;
pub mod seal;

mod basic;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::{Explain, Kind};
use crate::names::PrincipalName;
use crate::secret::SecretString;
use config::{Config, ConfigError, Mode};
use credential::Credential;
use seal::Sealer;

/// Who everybody is with `mode: none`.
const ANONYMOUS: &str = "anonymous";

/// The authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Its name: the user name, or `anonymous`.
    pub name: PrincipalName,
    /// The credential that the catalogs see.
    pub credential: Credential,
    /// When what it has shown lapses: it has to log in again then.
    pub expires: Option<SystemTime>,
}

impl Principal {
    fn new(name: &str) -> Self {
        Self { name: name.into(), credential: Credential::service(), expires: None }
    }
}

/// What a client sent as `authorization`.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// User name and password.
    Basic {
        /// The name as sent.
        user: String,
        /// The password as sent.
        password: SecretString,
    },
    /// A token.
    Bearer(SecretString),
}

impl Credentials {
    /// Reads the value of an `authorization` header.
    ///
    /// # Errors
    /// [`AuthError::Malformed`] when it is neither `Basic` nor `Bearer`, or cannot be decoded.
    pub fn parse(header: &str) -> Result<Self, AuthError> {
        let (scheme, value) = header.trim().split_once(' ').ok_or(AuthError::Malformed)?;
        if scheme.eq_ignore_ascii_case("basic") {
            let (user, password) = basic::decode(value).ok_or(AuthError::Malformed)?;
            Ok(Self::Basic { user, password })
        } else if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Self::Bearer(value.trim().into()))
        } else {
            Err(AuthError::Malformed)
        }
    }
}

/// Why a caller is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Nothing was sent.
    #[error("log in with user name and password, or send the token of an earlier log-in as `authorization: Bearer …`")]
    Missing,
    /// The header makes no sense.
    #[error("the authorization header must be `Basic <base64 of user:password>` or `Bearer <token>`")]
    Malformed,
    /// Unknown user or wrong password; which of them is not said.
    #[error("user name or password is wrong")]
    Rejected,
    /// A token that no gateway of this kind gave out.
    #[error("the bearer token is not one that this gateway gave out; log in with user name and password")]
    ForeignToken,
    /// Too many log-ins at once.
    #[error("too many log-ins at once (auth.max_parallel_logins, auth.max_waiting_logins)")]
    Busy,
    /// The verification itself broke.
    #[error("verifying a password failed: {0}")]
    Verification(String),
}

impl Explain for AuthError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing | Self::Malformed | Self::Rejected | Self::ForeignToken => Kind::Unauthenticated,
            Self::Busy => Kind::ResourceExhausted(Some(Duration::from_secs(1))),
            Self::Verification(_) => Kind::Internal,
        }
    }
}

/// Proves callers, and seals what they carry. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    door: Arc<Door>,
    sealer: Sealer,
}

enum Door {
    Open,
    Users(Box<basic::Users>),
}

impl Authenticator {
    /// Reads hashes and key now.
    ///
    /// # Errors
    /// When a secret cannot be read or is not what it should be.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let sealer = Sealer::from_config(config.key.as_ref())?;
        let door = match config.mode {
            Mode::None => Door::Open,
            Mode::Users => Door::Users(Box::new(basic::Users::new(config)?)),
        };
        Ok(Self { door: Arc::new(door), sealer })
    }

    /// The sealer of this process.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Proves who is calling from the `authorization` header. With `mode: none` everybody is `anonymous`, whatever they send. A
    /// session token is not proven here: the session layer opens it first.
    ///
    /// # Errors
    /// When the caller is not let in.
    pub async fn login(&self, header: Option<&str>) -> Result<Principal, AuthError> {
        let users = match &*self.door {
            Door::Open => return Ok(Principal::new(ANONYMOUS)),
            Door::Users(users) => users,
        };
        match Credentials::parse(header.ok_or(AuthError::Missing)?)? {
            Credentials::Basic { user, password } => match users.verify(&user, &password).await {
                Ok(()) => Ok(Principal::new(&user)),
                Err(error) => {
                    tracing::warn!(user, %error, "log-in refused");
                    Err(error)
                }
            },
            Credentials::Bearer(_) => Err(AuthError::ForeignToken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn with_mode_none_everybody_is_anonymous() {
        let auth = Authenticator::new(&Config::default()).unwrap();
        for header in [None, Some("Basic YW5hOmE="), Some("Bearer x"), Some("nonsense")] {
            assert_eq!(auth.login(header).await.unwrap(), Principal::new("anonymous"));
        }
    }

    #[test]
    fn schemes_are_read_in_any_case() {
        assert!(matches!(Credentials::parse("basic YW5hOmE"), Ok(Credentials::Basic { user, .. }) if user == "ana"));
        assert!(matches!(Credentials::parse("BEARER t"), Ok(Credentials::Bearer(_))));
        for wrong in ["", "Basic", "Basic %", "Digest x", "Bearer"] {
            assert!(matches!(Credentials::parse(wrong), Err(AuthError::Malformed)), "{wrong}");
        }
    }
}
