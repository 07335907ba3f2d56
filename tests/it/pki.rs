//! Certificates for tests: authorities, what they sign, and files of them. Knows nothing of gateways.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Somebody who signs certificates.
pub struct Authority {
    /// Its own certificate.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Certified {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// For this machine.
    pub fn server(&self, name: &str) -> Certified {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, name, in_a_day())
    }

    /// For a server elsewhere.
    pub fn server_elsewhere(&self, host: &str) -> Certified {
        self.sign(CertificateParams::new([host.to_owned()]).expect("a name"), host, in_a_day())
    }

    pub fn client(&self, name: &str) -> Certified {
        self.client_until(name, in_a_day())
    }

    pub fn client_until(&self, name: &str, not_after: SystemTime) -> Certified {
        let mut params = CertificateParams::new([format!("{name}.example.com")]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, name, not_after)
    }

    fn sign(&self, mut params: CertificateParams, name: &str, not_after: SystemTime) -> Certified {
        params.distinguished_name.push(DnType::CommonName, name);
        let since = not_after.duration_since(UNIX_EPOCH).expect("after 1970");
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since;
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Certified { cert: cert.pem(), key: key.serialize_pem() }
    }
}

fn in_a_day() -> SystemTime {
    SystemTime::now() + Duration::from_secs(86_400)
}

/// How a client trusts this authority, and what it shows.
pub fn trusting(authority: &Authority, shown: Option<&Certified>) -> ClientTlsConfig {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem));
    match shown {
        Some(shown) => config.identity(Identity::from_pem(&shown.cert, &shown.key)),
        None => config,
    }
}

/// Files in a directory that goes with this value.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file; gives its path as text.
    pub fn write(&self, name: &str, text: &str) -> String {
        // Whoever looks at it has all of it or what was there before.
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).and_then(|()| std::fs::rename(new, self.path(name))).expect("a file");
        self.path(name).display().to_string()
    }

    /// Writes both files of a certificate; gives their paths.
    pub fn certified(&self, name: &str, certified: &Certified) -> [String; 2] {
        [self.write(&format!("{name}.crt"), &certified.cert), self.write(&format!("{name}.key"), &certified.key)]
    }
}
