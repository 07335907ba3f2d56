//! Owns the tokens that catalogs are shown: one source for each credential and endpoint, whichever catalogs take its tokens. Refuses to
//! know what else is asked of a catalog.
//!
//! ```text
//! source          a token comes from                                   another one
//! fixed           the config or the environment                        never
//! file            a file                                               looked for once a second, and after a refusal
//! client          a request with a client id and secret                ahead of its expiry, and after a refusal
//! callers         the caller, as it is                                 when the caller logs in again
//! exchange        a request with the caller's token                    as for a client, while the caller's own is good
//! ```

mod request;
mod source;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sha2::{Digest, Sha256};

pub(super) use self::request::{Audience, Endpoint};
use self::source::Grant;
pub(super) use self::source::{Means as TokenMeans, Source, Token, TokenFault};
use super::config::{ClientAuth, RestCredentials};
use crate::auth::credential::{Credential, Own};
use crate::names::CredentialId;
use crate::secret::{ExposeSecret, SecretError, SecretRef};

/// Entries of sources that are gone are swept when there are more than this.
const SWEEP_ABOVE: usize = 1024;

/// Where and how tokens are had for callers with log-ins of their own.
pub(super) struct CallersTokens {
    /// For a client id and secret.
    pub(super) login: Endpoint,
    /// For the token of an identity provider.
    pub(super) exchange: Endpoint,
    /// What the exchange says besides.
    pub(super) audience: Audience,
}

/// All sources in use, each once.
pub(super) struct TokenSources {
    known: Mutex<HashMap<Key, Weak<Source>>>,
    /// So that what is kept of a secret lets nobody try others against it.
    salt: [u8; 32],
}

/// Which source it is: equal for those that would get the same token.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Nothing,
    Fixed(SecretKey),
    Client {
        uri: String,
        scope: String,
        auth: ClientAuth,
        client_id: String,
        secret: SecretKey,
    },
    /// `None` for a token that is shown as it is.
    Callers {
        credential: CredentialId,
        at: Option<CallersKey>,
    },
}

/// All that a request with a caller's log-in says besides.
#[derive(Clone, PartialEq, Eq, Hash)]
struct CallersKey {
    uri: String,
    scope: String,
    auth: ClientAuth,
    audience: Option<String>,
    /// The gateway's own client.
    client: Option<(String, SecretKey, ClientAuth)>,
}

/// A secret as the config has it.
#[derive(Clone, PartialEq, Eq, Hash)]
enum SecretKey {
    Digest([u8; 32]),
    Env(String),
    File(PathBuf),
}

impl Default for TokenSources {
    fn default() -> Self {
        Self { known: Mutex::default(), salt: rand::random() }
    }
}

impl TokenSources {
    /// The source of what the config has.
    ///
    /// # Errors
    /// When a secret cannot be had.
    pub(super) fn configured(
        &self,
        credentials: &RestCredentials,
        endpoint: Endpoint,
        means: &TokenMeans,
    ) -> Result<Arc<Source>, SecretError> {
        let (key, grant) = match credentials {
            RestCredentials::None => (Key::Nothing, Grant::Nothing),
            RestCredentials::Bearer { token } => {
                let read = token.resolve()?;
                let grant = match token {
                    SecretRef::File { file } => Grant::File(file.clone()),
                    _ => Grant::Fixed(Token::fixed(read)),
                };
                (Key::Fixed(self.secret_key(token)), grant)
            }
            RestCredentials::Oauth2 { client_id, client_secret, .. } => {
                client_secret.resolve()?;
                let key = Key::Client {
                    uri: endpoint.uri.clone(),
                    scope: endpoint.scope.clone(),
                    auth: endpoint.auth,
                    client_id: client_id.clone(),
                    secret: self.secret_key(client_secret),
                };
                (key, Grant::Client { endpoint, client_id: client_id.clone(), secret: client_secret.clone() })
            }
        };
        Ok(self.one(key, || Source::new(grant, means.clone(), None)))
    }

    /// The source of what a caller has brought. It keeps nothing of the caller's beyond the credential's own life.
    pub(super) fn callers(&self, credential: &Credential, at: &CallersTokens, means: &TokenMeans) -> Arc<Source> {
        let (said, grant) = match credential.own() {
            Own::Client { .. } => {
                (Some(self.callers_key(&at.login, &Audience::default())), Grant::CallersClient { endpoint: at.login.clone() })
            }
            Own::Token { current, .. } if current.get().exchange => (
                Some(self.callers_key(&at.exchange, &at.audience)),
                Grant::Exchange { endpoint: at.exchange.clone(), audience: at.audience.clone() },
            ),
            Own::Token { .. } => (None, Grant::Callers),
            Own::Service | Own::Nothing => (None, Grant::Nothing),
        };
        let key = Key::Callers { credential: credential.id().clone(), at: said };
        let source = self.one(key, || Source::new(grant, means.clone(), Some(credential.downgrade())));
        source.hold(credential);
        source
    }

    fn one(&self, key: Key, make: impl FnOnce() -> Source) -> Arc<Source> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = known.get(&key).and_then(Weak::upgrade) {
            return source;
        }
        if known.len() > SWEEP_ABOVE {
            known.retain(|_, source| source.strong_count() > 0);
        }
        let source = Arc::new(make());
        known.insert(key, Arc::downgrade(&source));
        source
    }

    fn callers_key(&self, endpoint: &Endpoint, audience: &Audience) -> CallersKey {
        let client = audience.client.as_ref();
        CallersKey {
            uri: endpoint.uri.clone(),
            scope: endpoint.scope.clone(),
            auth: endpoint.auth,
            audience: audience.audience.clone(),
            client: client.map(|own| (own.client_id.clone(), self.secret_key(&own.client_secret), own.client_auth)),
        }
    }

    fn secret_key(&self, secret: &SecretRef) -> SecretKey {
        match secret {
            SecretRef::Text(text) => {
                SecretKey::Digest(Sha256::new().chain_update(self.salt).chain_update(text.expose_secret()).finalize().into())
            }
            SecretRef::Env { env } => SecretKey::Env(env.clone()),
            SecretRef::File { file } => SecretKey::File(file.clone()),
        }
    }
}
