//! Owns how a caller comes in for a check: by the gateway's own rules, first as whom, then with the catalog's word for it. Refuses to
//! judge a log-in by rules of its own, and to show it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Fault;
use crate::auth::config::{Config, ConfigError};
use crate::auth::credential::{Credential, Own};
use crate::auth::{AuthError, Authenticator, Caller, Credentials};
use crate::names::RoleName;
use crate::relay::Relay;
use crate::relay::config::RoleConfig;
use crate::secret::ExposeSecret;

/// What a caller logs in with, and the rules for it.
#[derive(Clone, Debug)]
pub struct CallersLogin {
    /// Who may call, and what mappings give them.
    pub auth: Config,
    /// What these may give.
    pub roles: BTreeMap<RoleName, RoleConfig>,
    /// The log-in.
    pub shown: Credentials,
}

impl CallersLogin {
    /// Who it is, as a report names it.
    #[must_use]
    pub fn who(&self) -> String {
        match &self.shown {
            Credentials::Basic { user, .. } => format!("caller {user}"),
            Credentials::Bearer(_) => "caller by token".to_owned(),
        }
    }
}

/// A caller at the gateway's entry.
pub(super) struct Entry<'a> {
    auth: Authenticator,
    login: &'a CallersLogin,
}

impl<'a> Entry<'a> {
    /// Reads what the rules name; asks nobody.
    pub(super) fn open(login: &'a CallersLogin, relay: &Arc<Relay>) -> Result<Self, ConfigError> {
        let relay: Arc<Relay> = Arc::clone(relay);
        Ok(Self { auth: Authenticator::new(&login.auth, relay)?, login })
    }

    /// Whom the log-in makes the caller. The catalog is not asked yet.
    pub(super) async fn credential(&self) -> Result<Credential, AuthError> {
        self.auth.introduced(&self.login.shown).await.map(|principal| principal.credential)
    }

    /// Whether a gateway would let the caller in.
    pub(super) async fn admitted(&self) -> Result<(), AuthError> {
        let header = self.login.shown.to_header();
        let caller = Caller { authorization: Some(header.expose_secret()), ..Caller::default() };
        self.auth.login(caller).await.map(drop)
    }
}

/// Whether the catalog gets another token in the place of the caller's.
pub(super) fn is_exchanged(own: &Own) -> bool {
    matches!(own, Own::Token { current, .. } if current.get().exchange)
}

/// What a refusal at the entry says.
pub(super) fn fault_of(error: &AuthError) -> Fault {
    match error {
        AuthError::Token(_) | AuthError::Rejected | AuthError::Malformed => Fault::BadSecret,
        AuthError::RealmUnavailable { .. } | AuthError::IssuerUnavailable { .. } | AuthError::Busy | AuthError::Throttled(_) => {
            Fault::Failing
        }
        _ => Fault::BadLogin,
    }
}
