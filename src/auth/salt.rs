//! Owns digests by which secrets and names are remembered without being kept. Those of secrets cannot be compared across processes: each
//! has a salt of its own.

use sha2::{Digest as _, Sha256};

/// What stands for something secret.
pub(super) type Digest = [u8; 32];

/// The salt of this process, or of one part of it.
#[derive(Clone, Copy)]
pub(super) struct Salt([u8; 32]);

impl Salt {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// Parts are told apart: `["ab", "c"]` is not `["a", "bc"]`.
    pub(super) fn digest(&self, parts: &[&[u8]]) -> Digest {
        digest(&self.0, parts)
    }

    /// The same as text.
    pub(super) fn text(&self, parts: &[&[u8]]) -> String {
        hex(&self.digest(parts))
    }
}

/// A digest without a salt, as text: the same in every process, so of nothing that could be guessed and is secret.
pub(super) fn plain(parts: &[&[u8]]) -> String {
    hex(&digest(&[], parts))
}

fn digest(salt: &[u8], parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(salt);
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn hex(digest: &Digest) -> String {
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_processes_are_told_apart() {
        let salt = Salt::random();
        assert_eq!(salt.digest(&[b"a", b"b"]), salt.digest(&[b"a", b"b"]));
        assert_ne!(salt.digest(&[b"ab", b"c"]), salt.digest(&[b"a", b"bc"]));
        assert_ne!(salt.digest(&[b"a"]), Salt::random().digest(&[b"a"]));
    }
}
