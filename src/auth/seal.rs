//! Owns the sealing of what clients carry for the gateway: session tokens and tickets. Unreadable and unalterable outside
//! (XChaCha20-Poly1305), good for one purpose, until a time. Refuses to know what is inside.
//!
//! ```text
//! bytes 0..4    "PLY1"
//! bytes 4..12   key id: which key sealed it, so that "another key" can be told from "altered"
//! bytes 12..20  expiry, seconds since 1970, u64 BE
//! bytes 20..44  nonce
//! bytes 44..    ciphertext and tag; bytes 0..20 and the purpose are authenticated with it
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::RngCore;

use crate::auth::config::ConfigError;
use crate::secret::{ExposeSecret, SecretRef};

const MAGIC: &[u8; 4] = b"PLY1";
const KEY_ID_LEN: usize = 8;
const HEAD_LEN: usize = MAGIC.len() + KEY_ID_LEN + 8;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;

/// What a sealed thing is for; one kind is never accepted as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A session token.
    Session,
    /// A Flight ticket.
    Ticket,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Session => b"session",
            Self::Ticket => b"ticket",
        }
    }
}

/// Why something sealed could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It never came from a gateway like this one.
    #[error("not sealed by this gateway")]
    Foreign,
    /// Sealed by a key that this process, which has made its own, doesn't have.
    #[error("sealed by another key: the gateway was restarted without a configured key (auth.key)")]
    OtherKey,
    /// Sealed by a key that is not configured.
    #[error("sealed by a key that the gateway does not have any more (auth.key, auth.previous_keys)")]
    RetiredKey,
    /// Cut, changed, or meant for another purpose.
    #[error("altered, cut short, or meant for another use")]
    Altered,
    /// Its time is over.
    #[error("expired")]
    Expired,
}

/// Seals with one key and opens with any that it has. Cheap to clone.
#[derive(Clone)]
pub struct Sealer(Arc<Keys>);

struct Keys {
    current: Key,
    previous: Vec<Key>,
    /// They come from the config, so what another process with the same config has sealed opens here.
    configured: bool,
}

struct Key {
    cipher: XChaCha20Poly1305,
    id: [u8; KEY_ID_LEN],
}

impl Sealer {
    /// With a key of its own, made now: everything sealed dies with the process.
    #[must_use]
    pub fn random() -> Self {
        Self(Arc::new(Keys { current: Key::new(&rand::random()), previous: Vec::new(), configured: false }))
    }

    /// With the configured key, or a random one. The previous ones only open.
    ///
    /// # Errors
    /// When a key cannot be read or is not 32 bytes.
    pub fn from_config(key: Option<&SecretRef>, previous: &[SecretRef]) -> Result<Self, ConfigError> {
        let Some(key) = key else { return Ok(Self::random()) };
        let current = Key::from_config("auth.key", key)?;
        let read = |(number, key)| Key::from_config(&format!("auth.previous_keys, number {number}"), key);
        let previous = (1..).zip(previous).map(read).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Keys { current, previous, configured: true })))
    }

    /// Seals `plain` for `purpose`; it can be opened for `ttl` from now.
    #[must_use]
    pub fn seal(&self, purpose: Purpose, plain: &[u8], ttl: Duration) -> Vec<u8> {
        self.seal_until(purpose, plain, unix_seconds().saturating_add(ttl.as_secs()))
    }

    fn seal_until(&self, purpose: Purpose, plain: &[u8], expiry: u64) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(HEAD_LEN + NONCE_LEN + plain.len() + TAG_LEN);
        sealed.extend_from_slice(MAGIC);
        sealed.extend_from_slice(&self.0.current.id);
        sealed.extend_from_slice(&expiry.to_be_bytes());
        let mut nonce = XNonce::default();
        rand::rng().fill_bytes(&mut nonce);
        let aad = [&sealed[..], purpose.label()].concat();
        // The cipher refuses only messages of more than 256 GB.
        let body = self.0.current.cipher.encrypt(&nonce, Payload { msg: plain, aad: &aad }).unwrap_or_default();
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        sealed
    }

    /// Opens what [`Sealer::seal`] made.
    ///
    /// # Errors
    /// When it is not from here, altered, for another purpose, or too old.
    pub fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let head = sealed.strip_prefix(MAGIC).ok_or(SealError::Foreign)?;
        if sealed.len() < HEAD_LEN + NONCE_LEN + TAG_LEN {
            return Err(SealError::Altered);
        }
        let mut keys = std::iter::once(&self.0.current).chain(&self.0.previous);
        let unknown = if self.0.configured { SealError::RetiredKey } else { SealError::OtherKey };
        let key = keys.find(|key| head[..KEY_ID_LEN] == key.id).ok_or(unknown)?;
        let (head, rest) = sealed.split_at(HEAD_LEN);
        let (nonce, body) = rest.split_at(NONCE_LEN);
        let aad = [head, purpose.label()].concat();
        let plain =
            key.cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: body, aad: &aad }).map_err(|_| SealError::Altered)?;
        let expiry = head[HEAD_LEN - 8..].iter().fold(0, |n: u64, byte| n << 8 | u64::from(*byte));
        if expiry < unix_seconds() {
            return Err(SealError::Expired);
        }
        Ok(plain)
    }

    /// [`Sealer::seal`] as text that can stand in a header.
    #[must_use]
    pub fn seal_text(&self, purpose: Purpose, plain: &[u8], ttl: Duration) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.seal(purpose, plain, ttl))
    }

    /// Opens what [`Sealer::seal_text`] made.
    ///
    /// # Errors
    /// As [`Sealer::open`].
    pub fn open_text(&self, purpose: Purpose, sealed: &str) -> Result<Vec<u8>, SealError> {
        // "PLY1" and the key id are 12 bytes, so exactly 16 characters of base64: the beginning can be told from a foreign token
        // even when the rest is broken.
        let ours = BASE64_URL_SAFE_NO_PAD.encode(MAGIC);
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(sealed)
            .map_err(|_| if sealed.starts_with(&ours[..5]) { SealError::Altered } else { SealError::Foreign })?;
        self.open(purpose, &bytes)
    }
}

impl Key {
    fn from_config(place: &str, key: &SecretRef) -> Result<Self, ConfigError> {
        let text = key.resolve().map_err(|source| ConfigError::Secret { place: place.to_owned(), source })?;
        let bytes = key_bytes(text.expose_secret().trim()).ok_or_else(|| ConfigError::Key(place.to_owned()))?;
        Ok(Self::new(&bytes))
    }

    fn new(key: &[u8; 32]) -> Self {
        let cipher = XChaCha20Poly1305::new(key.into());
        // A tag over a constant under a nonce that is used for nothing else: it tells keys apart and says nothing of the key.
        let tag = cipher.encrypt(&XNonce::default(), Payload { msg: &[], aad: b"key id" }).unwrap_or_default();
        let mut id = [0; KEY_ID_LEN];
        for (to, from) in id.iter_mut().zip(tag) {
            *to = from;
        }
        Self { cipher, id }
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn key_bytes(text: &str) -> Option<[u8; 32]> {
    if text.len() == 64 {
        let mut key = [0; 32];
        for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
        }
        return Some(key);
    }
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_was_sealed_opens_for_its_purpose_only() {
        let sealer = Sealer::random();
        let token = sealer.seal_text(Purpose::Session, b"who", HOUR);
        assert_eq!(sealer.open_text(Purpose::Session, &token).unwrap(), b"who");
        assert_eq!(sealer.open_text(Purpose::Ticket, &token), Err(SealError::Altered));
        assert_ne!(token, sealer.seal_text(Purpose::Session, b"who", HOUR), "nonces differ");
    }

    #[test]
    fn every_altered_bit_and_every_cut_is_noticed() {
        let sealer = Sealer::random();
        let sealed = sealer.seal(Purpose::Ticket, b"select 1", HOUR);
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let error = sealer.open(Purpose::Ticket, &altered).unwrap_err();
            let expected = match bit / 8 {
                0..4 => SealError::Foreign,
                4..12 => SealError::OtherKey,
                _ => SealError::Altered,
            };
            assert_eq!(error, expected, "bit {bit}");
        }
        for len in 0..sealed.len() {
            let error = sealer.open(Purpose::Ticket, &sealed[..len]).unwrap_err();
            assert_eq!(error, if len < 4 { SealError::Foreign } else { SealError::Altered }, "cut to {len}");
        }
    }

    #[test]
    fn another_key_is_told_from_an_altered_text() {
        let token = Sealer::random().seal_text(Purpose::Session, b"who", HOUR);
        assert_eq!(Sealer::random().open_text(Purpose::Session, &token), Err(SealError::OtherKey));
    }

    #[test]
    fn a_foreign_token_is_recognised() {
        let sealer = Sealer::random();
        for foreign in ["", "abc", "eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "secret token!"] {
            assert_eq!(sealer.open_text(Purpose::Session, foreign), Err(SealError::Foreign), "{foreign}");
        }
        let token = sealer.seal_text(Purpose::Session, b"who", HOUR);
        assert_eq!(sealer.open_text(Purpose::Session, &format!("{token}!")), Err(SealError::Altered));
    }

    #[test]
    fn what_is_expired_stays_shut() {
        let sealer = Sealer::random();
        let sealed = sealer.seal_until(Purpose::Ticket, b"x", unix_seconds() - 1);
        assert_eq!(sealer.open(Purpose::Ticket, &sealed), Err(SealError::Expired));
    }

    #[test]
    fn a_configured_key_survives_a_restart() {
        let hex = SecretRef::Text("00ff".repeat(16).into());
        let base64 = SecretRef::Text(BASE64_STANDARD.encode([0, 255].repeat(16)).into());
        let sealed = Sealer::from_config(Some(&hex), &[]).unwrap().seal(Purpose::Ticket, b"x", HOUR);
        assert_eq!(Sealer::from_config(Some(&base64), &[]).unwrap().open(Purpose::Ticket, &sealed).unwrap(), b"x");
        for wrong in ["", "short", &"zz".repeat(32), &"é".repeat(32)] {
            let wrong = SecretRef::Text(wrong.into());
            let error = Sealer::from_config(Some(&wrong), &[]).err().unwrap().to_string();
            assert!(error.starts_with("auth.key must be 32 bytes"), "{error}");
            let error = Sealer::from_config(Some(&hex), &[base64.clone(), wrong]).err().unwrap().to_string();
            assert!(error.starts_with("auth.previous_keys, number 2 must be"), "{error}");
        }
    }

    #[test]
    fn after_a_rotation_old_things_open_and_new_ones_have_the_new_key() {
        let [one, two, three] = ["11", "22", "33"].map(|byte| SecretRef::Text(byte.repeat(32).into()));
        let with = |key: &SecretRef, previous: &[SecretRef]| Sealer::from_config(Some(key), previous).unwrap();
        let old = with(&one, &[]).seal(Purpose::Session, b"x", HOUR);
        let rotated = with(&two, std::slice::from_ref(&one));
        assert_eq!(rotated.open(Purpose::Session, &old).unwrap(), b"x");
        let new = rotated.seal(Purpose::Session, b"y", HOUR);
        assert_eq!(with(&one, &[]).open(Purpose::Session, &new), Err(SealError::RetiredKey));
        assert_eq!(with(&three, &[two.clone(), one]).open(Purpose::Session, &new).unwrap(), b"y");
        assert_eq!(with(&three, &[two]).open(Purpose::Session, &old), Err(SealError::RetiredKey));
    }
}
