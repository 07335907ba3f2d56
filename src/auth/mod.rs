//! Who is calling, and the sealing of what clients carry for us.
//!
//! It owns log-ins and the principals that they prove. It refuses to know sessions, protocols and catalogs: a session token is only
//! something that [`seal`] closed for somebody, and what only a catalog knows is asked of [`realm::Realms`].

mod authenticator;
pub mod certificate;
pub mod config;
pub mod credential;
mod error;
mod keepsake;
mod login;
mod mapping;
mod oidc;
pub mod realm;
mod salt;
pub mod seal;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::SystemTime;

pub use authenticator::{Authenticator, Caller, check};
pub use error::{AuthError, TokenFault};
pub use login::Recognised;
pub use mapping::MappingError;

use crate::names::{PrincipalId, PrincipalName};
use crate::secret::{ExposeSecret, SecretString};
use certificate::PeerCertificate;
use credential::{Credential, Own};
use login::basic::PasswordMark;

/// The authenticated caller.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Which one it is: what is somebody's own, such as tickets and limits, goes by this.
    pub id: PrincipalId,
    /// Its name, for readers: the user name, the client id, what its token names, the subject of its certificate, or `anonymous`.
    pub name: PrincipalName,
    /// The credential that the catalogs see.
    pub credential: Credential,
    /// When what it has shown lapses: it has to log in again then.
    pub expires: Option<SystemTime>,
    /// What it has shown.
    proof: Proof,
}

/// What a principal has shown, as far as it is needed to make it again. A client's secret is in its credential.
#[derive(Clone, Debug)]
enum Proof {
    Nothing,
    User(PasswordMark),
    Client,
    /// A token of an issuer, or one of the realm's own.
    Token {
        issuer: Option<String>,
        token: SecretString,
    },
    Certificate(Arc<PeerCertificate>),
}

impl Principal {
    /// Somebody whom catalogs don't know: they are shown the credentials of their own config.
    #[must_use]
    pub fn service(name: &str) -> Self {
        Self::new(name.into(), Credential::service(), None, Proof::Nothing)
    }

    fn new(name: PrincipalName, credential: Credential, expires: Option<SystemTime>, proof: Proof) -> Self {
        let id = proof.id_of(&name, credential.own());
        Self { id, name, credential, expires, proof }
    }

    /// Whether a connection with this certificate may go on as this principal. Who logged in by a certificate alone has nothing else to
    /// show, so a session token of it is worth nothing to who does not hold the certificate.
    #[must_use]
    pub fn may_come_with(&self, certificate: Option<&PeerCertificate>) -> bool {
        match &self.proof {
            Proof::Certificate(own) => certificate.is_some_and(|c| c.subject == own.subject && c.names == own.names),
            _ => true,
        }
    }

    /// The refusal, once what it has shown has lapsed.
    #[must_use]
    pub fn lapsed(&self, now: SystemTime) -> Option<AuthError> {
        self.lapsed_with(self.expires, now)
    }

    /// The same when it has shown something newer meanwhile, which lapses then.
    #[must_use]
    pub fn lapsed_with(&self, expires: Option<SystemTime>, now: SystemTime) -> Option<AuthError> {
        let at = expires.filter(|at| *at <= now)?;
        Some(AuthError::Lapsed { certificate: matches!(self.proof, Proof::Certificate(_)), at })
    }
}

impl Proof {
    /// By the kind of proof, who vouches for the name, and the name.
    fn id_of(&self, name: &PrincipalName, own: &Own) -> PrincipalId {
        let realm = match own {
            Own::Client { realm, .. } | Own::Token { realm, .. } => realm.as_str(),
            Own::Service | Own::Nothing => "",
        };
        let (kind, by) = match self {
            Self::Nothing => ("none", ""),
            Self::User(_) => ("user", ""),
            Self::Client => ("client", realm),
            Self::Token { issuer: None, .. } => ("realm", realm),
            Self::Token { issuer: Some(issuer), .. } => ("issuer", issuer.as_str()),
            Self::Certificate(_) => ("certificate", ""),
        };
        let mut parts = vec![kind, by, name.as_str()];
        if let Self::Certificate(certificate) = self {
            parts.extend(certificate.names.iter().map(String::as_str));
        }
        let parts: Vec<&[u8]> = parts.into_iter().map(str::as_bytes).collect();
        PrincipalId::from(salt::plain(&parts))
    }
}

/// The same one, of the same rights; until when does not matter.
impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.credential == other.credential
    }
}

impl Eq for Principal {}

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
            let (user, password) = login::basic::decode(value).ok_or(AuthError::Malformed)?;
            Ok(Self::Basic { user, password })
        } else if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Self::Bearer(value.trim().into()))
        } else {
            Err(AuthError::Malformed)
        }
    }

    /// The value of an `authorization` header that [`Self::parse`] reads as this.
    #[must_use]
    pub fn to_header(&self) -> SecretString {
        match self {
            Self::Basic { user, password } => format!("Basic {}", login::basic::encode(user, password)).into(),
            Self::Bearer(token) => format!("Bearer {}", token.expose_secret()).into(),
        }
    }
}
