//! Owns what the catalogs see of a caller: the unit by which workers and cached answers are kept apart. Refuses to talk to catalogs:
//! the relay turns a credential into tokens.
//!
//! ```text
//! own           from the caller          catalogs that it opens
//! Service       nothing                  all, with the credentials of their own config sections
//! Client        client id and secret     those of its realm
//! Token         a bearer token           those of its realm
//! Nothing       nothing                  none
//! + role        by a mapping             those that the role names, with the role's credentials
//! ```

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use super::salt::Salt;
use crate::names::{CredentialId, RealmName, RoleName};
use crate::secret::{ExposeSecret, SecretString};

/// Entries of credentials that are gone are swept when there are more than this.
const SWEEP_ABOVE: usize = 1024;

/// The only one of its kind.
static SERVICE: LazyLock<Credential> = LazyLock::new(|| Credential::new("service".into(), Own::Service, None));

/// What a caller shows catalogs of its realm.
pub enum Own {
    /// Nothing of the caller's: every catalog is asked with the credentials of its config section.
    Service,
    /// Nothing: only the role opens catalogs.
    Nothing,
    /// OAuth2 client credentials of a principal of the realm.
    Client {
        /// Whose principal it is.
        realm: RealmName,
        /// The client's id.
        client_id: String,
        /// The client's secret.
        client_secret: SecretString,
    },
    /// A bearer token that the realm takes, or exchanges for one of its own.
    Token {
        /// Who takes it.
        realm: RealmName,
        /// The latest one of this caller.
        current: CurrentToken,
    },
}

/// The latest bearer token of one caller: a caller that logs in again with a newer one renews it for all its sessions.
pub struct CurrentToken(Mutex<BearerToken>);

/// A bearer token as it was shown.
#[derive(Clone)]
pub struct BearerToken {
    /// The token.
    pub secret: SecretString,
    /// When it lapses; `None` for one that does not say.
    pub expires: Option<SystemTime>,
    /// Of an identity provider whose tokens the realm exchanges for its own.
    pub exchange: bool,
}

impl CurrentToken {
    /// The token to show now.
    #[must_use]
    pub fn get(&self) -> BearerToken {
        self.lock().clone()
    }

    fn renew(&self, token: BearerToken) {
        let mut current = self.lock();
        if token.expires.is_none() || token.expires > current.expires {
            *current = token;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BearerToken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the catalogs see of a caller. Cheap to clone; equal when it stands for the same rights. The secrets in it go with its last
/// clone.
#[derive(Clone)]
pub struct Credential {
    inner: Arc<Inner>,
    /// For reads alone, for which a role may have credentials of their own.
    reads: bool,
}

struct Inner {
    id: CredentialId,
    own: Own,
    role: Option<RoleName>,
}

impl Credential {
    /// The catalogs' own credentials, the same for everybody.
    #[must_use]
    pub fn service() -> Self {
        SERVICE.clone()
    }

    fn new(id: CredentialId, own: Own, role: Option<RoleName>) -> Self {
        Self { inner: Arc::new(Inner { id, own, role }), reads: false }
    }

    /// Which one it is; says nothing of a secret.
    #[must_use]
    pub fn id(&self) -> &CredentialId {
        &self.inner.id
    }

    /// What the caller itself shows.
    #[must_use]
    pub fn own(&self) -> &Own {
        &self.inner.own
    }

    /// What a mapping has given the caller.
    #[must_use]
    pub fn role(&self) -> Option<&RoleName> {
        self.inner.role.as_ref()
    }

    /// The same for statements that only read.
    #[must_use]
    pub fn for_reads(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), reads: self.inner.role.is_some() }
    }

    /// Whether it is for statements that only read.
    #[must_use]
    pub fn is_for_reads(&self) -> bool {
        self.reads
    }

    /// The same, without keeping it.
    #[must_use]
    pub fn downgrade(&self) -> WeakCredential {
        WeakCredential(Arc::downgrade(&self.inner))
    }
}

/// A credential that others may or may not hold still: what is had with it keeps this, so that its secrets go with its last holder.
#[derive(Clone)]
pub struct WeakCredential(Weak<Inner>);

impl WeakCredential {
    /// The credential, while somebody holds it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Credential> {
        self.0.upgrade().map(|inner| Credential { inner, reads: false })
    }

    /// Whether nobody holds it any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.inner.id == other.inner.id && self.reads == other.reads
    }
}

impl Eq for Credential {}

impl Hash for Credential {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.id.hash(state);
        self.reads.hash(state);
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("id", &self.inner.id).field("reads", &self.reads).finish_non_exhaustive()
    }
}

/// The credentials in use, each once, so that callers of the same rights share workers, tokens and cached answers. Refuses to keep one
/// that nobody uses.
pub struct Wallet {
    known: Mutex<HashMap<CredentialId, Weak<Inner>>>,
    /// Ids stand in the log, and must not let anybody try secrets against them.
    salt: Salt,
}

impl Default for Wallet {
    fn default() -> Self {
        Self { known: Mutex::default(), salt: Salt::random() }
    }
}

impl Wallet {
    /// The credential of a principal's client id and secret. Another secret is another credential: what was had with the old one is not
    /// shown to who has the new one, or the other way round.
    pub fn client(&self, realm: &RealmName, client_id: &str, secret: &SecretString, role: Option<&RoleName>) -> Credential {
        let id = self.id_of("client", &[realm.as_str(), client_id, secret.expose_secret()], client_id, role);
        self.one(id, role, || Own::Client {
            realm: realm.clone(),
            client_id: client_id.to_owned(),
            client_secret: secret.clone(),
        })
    }

    /// The credential of a bearer token. `rights` is everything in the token that may decide what it opens: callers whose tokens agree in
    /// it are one, and the newest of their tokens is shown.
    pub fn token(
        &self,
        realm: &RealmName,
        subject: &str,
        rights: &str,
        token: BearerToken,
        role: Option<&RoleName>,
    ) -> Credential {
        let id = self.id_of("token", &[realm.as_str(), subject, rights], subject, role);
        let first = token.clone();
        let credential = self.one(id, role, || Own::Token { realm: realm.clone(), current: CurrentToken(Mutex::new(first)) });
        if let Own::Token { current, .. } = credential.own() {
            current.renew(token);
        }
        credential
    }

    /// Whether somebody holds the credential of such a token now.
    pub fn holds_token(&self, realm: &RealmName, subject: &str, rights: &str, role: Option<&RoleName>) -> bool {
        let id = self.id_of("token", &[realm.as_str(), subject, rights], subject, role);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&id).is_some_and(|inner| inner.strong_count() > 0)
    }

    /// The credential of everybody in a role.
    pub fn role(&self, role: &RoleName) -> Credential {
        self.one(CredentialId::from(format!("role:{role}")), Some(role), || Own::Nothing)
    }

    fn one(&self, id: CredentialId, role: Option<&RoleName>, own: impl FnOnce() -> Own) -> Credential {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = known.get(&id).and_then(Weak::upgrade) {
            return Credential { inner, reads: false };
        }
        if known.len() > SWEEP_ABOVE {
            known.retain(|_, inner| inner.strong_count() > 0);
        }
        let credential = Credential::new(id.clone(), own(), role.cloned());
        known.insert(id, Arc::downgrade(&credential.inner));
        credential
    }

    /// `kind:readable:digest`.
    fn id_of(&self, kind: &str, parts: &[&str], readable: &str, role: Option<&RoleName>) -> CredentialId {
        let parts: Vec<&[u8]> = parts.iter().copied().chain(role.map(RoleName::as_str)).map(str::as_bytes).collect();
        let digest = self.salt.text(&parts);
        CredentialId::from(format!("{kind}:{readable}:{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(secret: &str, expires: u64) -> BearerToken {
        let expires = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(expires);
        BearerToken { secret: secret.into(), expires: Some(expires), exchange: false }
    }

    #[test]
    fn callers_of_the_same_rights_share_a_credential_and_others_do_not() {
        let (wallet, realm) = (Wallet::default(), RealmName::from("r"));
        let role = RoleName::from("analyst");
        let ada = wallet.client(&realm, "ada", &"s".into(), None);
        assert_eq!(ada, wallet.client(&realm, "ada", &"s".into(), None));
        for other in [
            wallet.client(&realm, "ada", &"other".into(), None),
            wallet.client(&RealmName::from("q"), "ada", &"s".into(), None),
            wallet.client(&realm, "ada", &"s".into(), Some(&role)),
            wallet.role(&role),
            Credential::service(),
        ] {
            assert_ne!(ada, other);
        }
        assert_eq!(ada, ada.for_reads(), "without a role, reads are nothing of their own");
        assert_ne!(wallet.role(&role), wallet.role(&role).for_reads());
    }

    #[test]
    fn the_newest_token_of_a_caller_is_shown() {
        let (wallet, realm) = (Wallet::default(), RealmName::from("r"));
        let first = wallet.token(&realm, "ada", "{}", bearer("one", 10), None);
        assert!(wallet.holds_token(&realm, "ada", "{}", None) && !wallet.holds_token(&realm, "ada", "{a}", None));
        for (secret, expires) in [("two", 20), ("old", 15)] {
            assert_eq!(first, wallet.token(&realm, "ada", "{}", bearer(secret, expires), None));
        }
        let Own::Token { current, .. } = first.own() else { panic!() };
        assert_eq!(current.get().secret.expose_secret(), "two");
    }

    #[test]
    fn no_secret_is_in_its_name_or_debug_text() {
        let wallet = Wallet::default();
        let ada = wallet.client(&"r".into(), "ada", &"planted-secret".into(), None);
        assert!(!format!("{ada:?} {}", ada.id()).contains("planted"));
    }

    #[test]
    fn what_nobody_uses_is_not_kept() {
        let wallet = Wallet::default();
        let kept = wallet.client(&"r".into(), "ada", &"s".into(), None);
        for n in 0..10_000 {
            wallet.client(&"r".into(), &n.to_string(), &"s".into(), None);
        }
        assert!(wallet.known.lock().unwrap().len() <= SWEEP_ABOVE + 1);
        assert_eq!(kept, wallet.client(&"r".into(), "ada", &"s".into(), None));
    }
}
