//! Owns user names and passwords against the argon2 hashes of the config. Blocking work: a verification is made to be slow, takes
//! one core and, with usual hashes, 19 MiB, so it runs on tokio's blocking threads behind a semaphore.
//! Refuses to tell an unknown user from a wrong password, by text or by time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::{PasswordHash, PasswordHashString, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rand::RngCore;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::auth::config::{Config, ConfigError};
use crate::auth::error::AuthError;
use crate::secret::{ExposeSecret, SecretString};

/// How long a log-in waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(10);
/// Hashing a password of megabytes would be a cheap attack.
pub(in crate::auth) const MAX_PASSWORD_BYTES: usize = 1024;

/// A digest of the text of a password hash: another one when the password was changed.
pub(in crate::auth) type PasswordMark = [u8; 32];

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Splits the base64 text of a `Basic` header into user name and password.
pub(in crate::auth) fn decode(text: &str) -> Option<(String, SecretString)> {
    let decoded = String::from_utf8(BASE64.decode(text.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), SecretString::from(password)))
}

/// The base64 text of a `Basic` header.
pub(in crate::auth) fn encode(user: &str, password: &SecretString) -> String {
    BASE64.encode(format!("{user}:{}", password.expose_secret()))
}

/// The users of the config.
pub(in crate::auth) struct Users {
    hashes: HashMap<String, PasswordHashString>,
    /// Verified for users that are not there, so that they take the same time.
    decoy: PasswordHashString,
    turns: Arc<Semaphore>,
    queue: Semaphore,
}

impl Users {
    pub(in crate::auth) fn new(config: &Config) -> Result<Self, ConfigError> {
        let mut hashes = HashMap::new();
        for user in &config.users {
            let text = user
                .password_hash
                .resolve()
                .map_err(|source| ConfigError::Secret { place: format!("auth.users, `{}`", user.name), source })?;
            hashes.insert(user.name.clone(), parse(&user.name, text.expose_secret())?);
        }
        Ok(Self {
            decoy: decoy(hashes.values().next())?,
            hashes,
            turns: Arc::new(Semaphore::new(config.max_parallel_logins)),
            queue: Semaphore::new(
                config.max_parallel_logins.saturating_add(config.max_waiting_logins).min(Semaphore::MAX_PERMITS),
            ),
        })
    }

    /// Succeeds when this is the user's password.
    pub(in crate::auth) async fn verify(&self, user: &str, password: &SecretString) -> Result<(), AuthError> {
        let _place = self.queue.try_acquire().map_err(|_| AuthError::Busy)?;
        let turn = tokio::time::timeout(TURN_WITHIN, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| AuthError::Busy)?
            .map_err(|_| AuthError::Busy)?;
        let known = self.hashes.get(user);
        let hash = known.unwrap_or(&self.decoy).clone();
        let password = password.clone();
        let right = tokio::task::spawn_blocking(move || {
            // The turn ends with the work, not with the caller's patience.
            let _turn = turn;
            Argon2::default().verify_password(password.expose_secret().as_bytes(), &hash.password_hash()).is_ok()
        })
        .await
        .map_err(|error| AuthError::Verification(error.to_string()))?;
        if right && known.is_some() { Ok(()) } else { Err(AuthError::Rejected) }
    }

    /// What stands for the user's password hash, in every process; `None` when there is no such user.
    pub(in crate::auth) fn mark(&self, user: &str) -> Option<PasswordMark> {
        self.hashes.get(user).map(|hash| Sha256::digest(hash.as_str()).into())
    }
}

fn parse(name: &str, text: &str) -> Result<PasswordHashString, ConfigError> {
    let wrong = |reason: String| ConfigError::Hash { name: name.to_owned(), reason };
    let hash = PasswordHash::new(text.trim()).map_err(|error| wrong(error.to_string()))?;
    if Algorithm::try_from(hash.algorithm).is_err() {
        return Err(wrong(format!("its algorithm is {}", hash.algorithm)));
    }
    Params::try_from(&hash).map_err(|error| wrong(error.to_string()))?;
    if hash.hash.is_none() {
        return Err(wrong("it has no hash, only parameters".to_owned()));
    }
    Ok(hash.serialize())
}

/// A hash of nothing that anybody knows, as dear as `like`.
fn decoy(like: Option<&PasswordHashString>) -> Result<PasswordHashString, ConfigError> {
    let wrong = |reason: String| ConfigError::Hash { name: "(unknown users)".to_owned(), reason };
    let params = like.and_then(|hash| Params::try_from(&hash.password_hash()).ok()).unwrap_or_default();
    let (mut salt, mut password) = ([0; 16], [0; 32]);
    rand::rng().fill_bytes(&mut salt);
    rand::rng().fill_bytes(&mut password);
    let salt = SaltString::encode_b64(&salt).map_err(|error| wrong(error.to_string()))?;
    let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(&password, &salt)
        .map_err(|error| wrong(error.to_string()))?;
    Ok(hash.serialize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::config::{Mode, User};
    use crate::secret::SecretRef;

    fn cheap_hash(password: &str) -> SecretRef {
        let salt = SaltString::encode_b64(b"0123456789abcdef").unwrap();
        let params = Params::new(64, 1, 1, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        SecretRef::Text(argon2.hash_password(password.as_bytes(), &salt).unwrap().to_string().into())
    }

    fn config() -> Config {
        let user = User { name: "ana".to_owned(), password_hash: cheap_hash("geheim") };
        Config { mode: Mode::Users, users: vec![user], ..Config::default() }
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_is_taken() {
        let users = Users::new(&config()).unwrap();
        assert!(users.verify("ana", &"geheim".into()).await.is_ok());
        for (user, password) in [("ana", ""), ("ana", "geheim "), ("bob", "geheim"), ("", ""), ("anag", "eheim")] {
            assert!(matches!(users.verify(user, &password.into()).await, Err(AuthError::Rejected)), "{user}:{password}");
        }
    }

    #[tokio::test]
    async fn logins_beyond_the_queue_are_turned_away() {
        let users = Users::new(&Config { max_parallel_logins: 1, max_waiting_logins: 0, ..config() }).unwrap();
        let _busy = users.queue.try_acquire().unwrap();
        assert!(matches!(users.verify("ana", &"geheim".into()).await, Err(AuthError::Busy)));
    }

    #[test]
    fn a_hash_that_is_not_argon2_names_its_user() {
        for (text, part) in
            [("geheim", "ana"), ("$scrypt$ln=1$AAAAAAAAAAA$AAAAAAAAAAAAAA", "scrypt"), ("$argon2id$v=19$m=64,t=1,p=1", "no hash")]
        {
            let user = User { name: "ana".to_owned(), password_hash: SecretRef::Text(text.into()) };
            let error = Users::new(&Config { users: vec![user], ..config() }).err().unwrap().to_string();
            assert!(error.contains("`ana`") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn credentials_decode_with_and_without_padding() {
        for text in ["YW5hOmE6Yg==", "YW5hOmE6Yg", " YW5hOmE6Yg== "] {
            let (user, password) = decode(text).unwrap();
            assert_eq!((user.as_str(), password.expose_secret()), ("ana", "a:b"), "{text}");
        }
        for text in ["", "YW5h", "%%%", "/w=="] {
            assert!(decode(text).is_none(), "{text}");
        }
    }
}
