//! Owns what of a principal travels in a sealed session token, so that a gateway which has forgotten the session can make the principal
//! again. Refuses to seal, and to judge whether the config still knows the principal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

use super::certificate::PeerCertificate;
use super::config::Mode;
use super::credential::Own;
use super::{Principal, Proof};
use crate::names::RealmName;
use crate::secret::{ExposeSecret, SecretString};

#[derive(Clone, PartialEq, Message)]
struct Kept {
    #[prost(string, tag = "1")]
    mode: String,
    #[prost(string, tag = "2")]
    name: String,
    /// Milliseconds since 1970.
    #[prost(uint64, optional, tag = "3")]
    expires_ms: Option<u64>,
    #[prost(oneof = "Shown", tags = "4, 5, 6, 7")]
    shown: Option<Shown>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Shown {
    #[prost(message, tag = "4")]
    User(User),
    #[prost(message, tag = "5")]
    Client(Client),
    #[prost(message, tag = "6")]
    Token(Token),
    #[prost(message, tag = "7")]
    Certificate(Certificate),
}

#[derive(Clone, PartialEq, Message)]
struct User {
    /// Of the password that it logged in with.
    #[prost(bytes = "vec", tag = "1")]
    mark: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Client {
    #[prost(string, tag = "1")]
    realm: String,
    #[prost(string, tag = "2")]
    secret: String,
}

#[derive(Clone, PartialEq, Message)]
struct Token {
    #[prost(string, optional, tag = "1")]
    issuer: Option<String>,
    #[prost(string, tag = "2")]
    token: String,
    /// Who was shown it.
    #[prost(string, optional, tag = "3")]
    realm: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Certificate {
    #[prost(string, tag = "1")]
    subject: String,
    #[prost(string, repeated, tag = "2")]
    names: Vec<String>,
    #[prost(string, tag = "3")]
    fingerprint: String,
}

/// A principal as it was, before the config is asked whether it still is.
pub(super) struct Keepsake {
    pub(super) mode: String,
    pub(super) name: String,
    pub(super) expires: Option<SystemTime>,
    pub(super) shown: Remains,
}

/// What it had shown.
pub(super) enum Remains {
    Nothing,
    User { mark: Vec<u8> },
    Client { realm: RealmName, secret: SecretString },
    Token { realm: Option<RealmName>, issuer: Option<String>, token: SecretString },
    Certificate(PeerCertificate),
}

/// The principal as bytes that only the sealer may see.
pub(super) fn write(mode: Mode, principal: &Principal) -> Vec<u8> {
    let shown = match (&principal.proof, principal.credential.own()) {
        (Proof::Client, Own::Client { realm, client_secret, .. }) => {
            Some(Shown::Client(Client { realm: realm.to_string(), secret: client_secret.expose_secret().to_owned() }))
        }
        (Proof::User(mark), _) => Some(Shown::User(User { mark: mark.to_vec() })),
        (Proof::Token { issuer, token }, own) => {
            let realm = if let Own::Token { realm, .. } = own { Some(realm.to_string()) } else { None };
            Some(Shown::Token(Token { issuer: issuer.clone(), token: token.expose_secret().to_owned(), realm }))
        }
        (Proof::Certificate(certificate), _) => Some(Shown::Certificate(Certificate {
            subject: certificate.subject.clone(),
            names: certificate.names.clone(),
            fingerprint: certificate.fingerprint.clone(),
        })),
        (Proof::Nothing | Proof::Client, _) => None,
    };
    let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let expires_ms = principal.expires.map(|at| u64::try_from(since(at)).unwrap_or(u64::MAX));
    Kept { mode: mode.as_str().to_owned(), name: principal.name.to_string(), expires_ms, shown }.encode_to_vec()
}

/// `None` when the bytes are none of ours.
pub(super) fn read(bytes: &[u8]) -> Option<Keepsake> {
    let kept = Kept::decode(bytes).ok()?;
    let expires = kept.expires_ms.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    let shown = match kept.shown {
        None => Remains::Nothing,
        Some(Shown::User(User { mark })) => Remains::User { mark },
        Some(Shown::Client(client)) => Remains::Client { realm: client.realm.into(), secret: client.secret.into() },
        Some(Shown::Token(Token { issuer, token, realm })) => {
            Remains::Token { realm: realm.map(RealmName::from), issuer, token: token.into() }
        }
        Some(Shown::Certificate(Certificate { subject, names, fingerprint })) => {
            Remains::Certificate(PeerCertificate { subject, names, fingerprint, not_after: expires.unwrap_or(UNIX_EPOCH) })
        }
    };
    Some(Keepsake { mode: kept.mode, name: kept.name, expires, shown })
}
