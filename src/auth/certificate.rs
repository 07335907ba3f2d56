//! Owns what is known of a caller from a client certificate. Refuses to read certificates and to judge them: whoever accepts the
//! connection has verified it before it becomes one of these.

use std::time::SystemTime;

/// The certificate that a connection's peer has proven to hold, signed by one of the configured authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The subject's distinguished name as RFC 4514 writes it, most specific part first: `CN=ada,OU=bi,O=Example`. Empty when the
    /// certificate has none.
    pub subject: String,
    /// Alternative names with their kind, as in `DNS:etl.example.com`, `URI:spiffe://example.com/etl`, `email:ada@example.com`. Without
    /// the kind a name of one could be taken for one of another.
    pub names: Vec<String>,
    /// SHA-256 of the certificate in lower-case hexadecimal digits.
    pub fingerprint: String,
    /// When it expires.
    pub not_after: SystemTime,
}

impl PeerCertificate {
    /// Whether it is no longer valid.
    #[must_use]
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.not_after < now
    }
}
