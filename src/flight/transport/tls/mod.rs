//! TLS on the port: its config, what is read from the files, and their reload.
//!
//! It owns which certificate is served and which clients' certificates are taken. New files count for new connections; open ones go on
//! with what they began with. It refuses to accept connections, and to say who a certificate's holder is to the gateway.

mod peer;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use humantime_serde::re::humantime::format_rfc3339_seconds;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use serde::Deserialize;
use tokio::sync::watch;

use crate::auth::certificate::PeerCertificate;

/// No certificate file is so large; reading ends there.
const MAX_FILE_BYTES: u64 = 4 << 20;

const CERT_FILE: &str = "flight.tls.cert_file";
const KEY_FILE: &str = "flight.tls.key_file";
const CLIENT_CA_FILE: &str = "flight.tls.client_ca_file";

/// The section `flight.tls` of the config.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// PEM: the server's certificate, then those that lead to its authority.
    pub cert_file: PathBuf,
    /// PEM: the key of the first certificate.
    pub key_file: PathBuf,
    /// PEM: the authorities whose client certificates are taken.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients show a certificate.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// How often the files are looked at.
    #[serde(with = "humantime_serde", default = "every_ten_seconds")]
    pub reload: Duration,
}

fn every_ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// They may; one that is not valid is refused.
    Optional,
    /// They must.
    Required,
}

/// Why TLS cannot be served as configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting}: cannot read {path}")]
    Unreadable {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file has nothing of what it should.
    #[error("{setting}: {path} has no {wanted} in PEM form")]
    Empty {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// A file holds something that cannot be used.
    #[error("{setting}: {path}: {reason}")]
    Unusable {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Two files that do not belong together.
    #[error("the key in {key} (flight.tls.key_file) does not fit the first certificate in {cert} (flight.tls.cert_file)")]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// Clients shall show certificates, of nobody.
    #[error("flight.tls.client_certificates needs flight.tls.client_ca_file: the authorities whose certificates are taken")]
    NoAuthorities,
    /// Authorities for nothing.
    #[error(
        "flight.tls.client_ca_file is set, but clients are not asked: set flight.tls.client_certificates to optional or required"
    )]
    NobodyAsked,
    /// The files would be looked at without a pause.
    #[error("flight.tls.reload must be at least 100ms")]
    RestlessReload,
    /// The TLS library refused the settings as a whole.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// The files' contents.
#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What is served from some files.
struct Served {
    server: Arc<ServerConfig>,
    certificate: PeerCertificate,
    not_before: SystemTime,
}

/// Checks config and files; what is allowed but should be known, one text each.
///
/// # Errors
/// When TLS cannot be served so.
pub fn check(config: &Config) -> Result<Vec<String>, TlsError> {
    if config.reload < Duration::from_millis(100) {
        return Err(TlsError::RestlessReload);
    }
    let served = Served::build(config, &Files::read(config)?)?;
    Ok(served.warning(config, SystemTime::now()).into_iter().collect())
}

/// The certificate that is served, kept up to date by [`Certificates::keep_reloaded`].
pub struct Certificates {
    config: Config,
    seen: Files,
    expiry_told: bool,
    served: Served,
    current: watch::Sender<Arc<ServerConfig>>,
}

/// Where new connections find how to shake hands.
pub type Current = watch::Receiver<Arc<ServerConfig>>;

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// As [`check`].
    pub fn open(config: Config) -> Result<Self, TlsError> {
        let seen = Files::read(&config)?;
        let served = Served::build(&config, &seen)?;
        served.log("TLS: serving this certificate");
        let expiry_told = served.certificate.has_expired(SystemTime::now());
        let current = watch::Sender::new(Arc::clone(&served.server));
        Ok(Self { config, seen, expiry_told, served, current })
    }

    /// What new connections are to use, now and later.
    #[must_use]
    pub fn current(&self) -> Current {
        self.current.subscribe()
    }

    /// Looks at the files again and again; for one task of the gateway. New ones that are broken change nothing, and are told of once.
    pub async fn keep_reloaded(mut self) {
        let mut unreadable = None;
        loop {
            tokio::time::sleep(self.config.reload).await;
            let config = self.config.clone();
            // A file system that hangs shall hold up nothing else.
            let Ok(read) = tokio::task::spawn_blocking(move || Files::read(&config)).await else { continue };
            match read {
                Ok(files) => {
                    unreadable = None;
                    self.take(files);
                }
                Err(error) => {
                    let text = format!("{error:?}");
                    if unreadable.as_ref() != Some(&text) {
                        self.keep_old(&error);
                        unreadable = Some(text);
                    }
                }
            }
            self.tell_of_expiry(SystemTime::now());
        }
    }

    fn take(&mut self, files: Files) {
        if files == self.seen {
            return;
        }
        match Served::build(&self.config, &files) {
            Ok(served) => {
                served.log("TLS: the files have changed, new connections get this certificate");
                self.current.send_replace(Arc::clone(&served.server));
                self.served = served;
                self.expiry_told = false;
            }
            Err(error) => self.keep_old(&error),
        }
        self.seen = files;
    }

    fn keep_old(&self, error: &TlsError) {
        let not_after = format_rfc3339_seconds(self.served.certificate.not_after);
        let error: &dyn std::error::Error = error;
        tracing::error!(error, %not_after, "TLS: the changed files cannot be used; the old certificate is served on");
    }

    fn tell_of_expiry(&mut self, now: SystemTime) {
        if !self.expiry_told
            && let Some(warning) = self.served.warning(&self.config, now)
        {
            tracing::error!("{warning}");
            self.expiry_told = true;
        }
    }
}

impl Files {
    fn read(config: &Config) -> Result<Self, TlsError> {
        let client_ca = config.client_ca_file.as_deref().map(|path| read(CLIENT_CA_FILE, path)).transpose()?;
        Ok(Self { cert: read(CERT_FILE, &config.cert_file)?, key: read(KEY_FILE, &config.key_file)?, client_ca })
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let result = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
    result.map_err(|source| TlsError::Unreadable { setting, path: path.to_owned(), source })?;
    Ok(bytes)
}

impl Served {
    fn build(config: &Config, files: &Files) -> Result<Self, TlsError> {
        let chain = certificates(CERT_FILE, &config.cert_file, &files.cert)?;
        let unusable = |reason| TlsError::Unusable { setting: CERT_FILE, path: config.cert_file.clone(), reason };
        let read = chain.first().map(|first| peer::read(first)).transpose().map_err(unusable)?;
        let read = read.ok_or(rustls::Error::NoCertificatesPresented)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = signing_key(config, chain, &files.key, &provider)?;
        let verifier = verifier(config, files.client_ca.as_deref(), &provider)?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        server.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { server: Arc::new(server), certificate: read.certificate, not_before: read.not_before })
    }

    fn log(&self, message: &str) {
        let PeerCertificate { subject, names, fingerprint, not_after } = &self.certificate;
        let (names, not_after) = (names.join(", "), format_rfc3339_seconds(*not_after));
        tracing::info!(subject, names, fingerprint, %not_after, "{message}");
    }

    /// That clients will refuse the certificate, when they will.
    fn warning(&self, config: &Config, now: SystemTime) -> Option<String> {
        let path = config.cert_file.display();
        if self.certificate.has_expired(now) {
            let since = format_rfc3339_seconds(self.certificate.not_after);
            return Some(format!(
                "EXPIRED CERTIFICATE: clients will refuse the one in {path} (flight.tls.cert_file), expired {since}"
            ));
        }
        let from = format_rfc3339_seconds(self.not_before);
        (now < self.not_before).then(|| {
            format!("CERTIFICATE NOT VALID YET: clients will refuse the one in {path} (flight.tls.cert_file) until {from}")
        })
    }
}

fn certificates(setting: &'static str, path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    let path = path.to_owned();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(TlsError::Empty { setting, path, wanted: "certificate" }),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::Unusable { setting, path, reason: broken_pem(&error).to_owned() }),
    }
}

/// What is wrong with a file, without a word of its content: it may be a key.
fn broken_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section of the PEM form has no end; the file is cut short",
        pem::Error::IllegalSectionStart { .. } => "a line that begins a section of the PEM form is malformed",
        pem::Error::Base64Decode(_) => "a section of the PEM form is not base64",
        _ => "it is not in PEM form",
    }
}

fn signing_key(
    config: &Config,
    chain: Vec<CertificateDer<'static>>,
    bytes: &[u8],
    provider: &rustls::crypto::CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let path = config.key_file.clone();
    let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            TlsError::Empty { setting: KEY_FILE, path: path.clone(), wanted: "private key without a passphrase" }
        }
        error => TlsError::Unusable { setting: KEY_FILE, path: path.clone(), reason: broken_pem(&error).to_owned() },
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { cert: config.cert_file.clone(), key: path },
        error => TlsError::Unusable { setting: KEY_FILE, path, reason: error.to_string() },
    })
}

fn verifier(
    config: &Config,
    client_ca: Option<&[u8]>,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let (path, bytes) = match (config.client_certificates, &config.client_ca_file, client_ca) {
        (ClientCertificates::None, None, _) => return Ok(WebPkiClientVerifier::no_client_auth()),
        (ClientCertificates::None, Some(_), _) => return Err(TlsError::NobodyAsked),
        (_, Some(path), Some(bytes)) => (path, bytes),
        _ => return Err(TlsError::NoAuthorities),
    };
    let unusable = |reason: String| TlsError::Unusable { setting: CLIENT_CA_FILE, path: path.clone(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CLIENT_CA_FILE, path, bytes)? {
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = match config.client_certificates {
        ClientCertificates::Optional => builder.allow_unauthenticated(),
        _ => builder,
    };
    builder.build().map_err(|error| unusable(error.to_string()))
}

/// The client's certificate of a finished handshake; `None` when it showed none.
///
/// # Errors
/// When it cannot be read although it was verified; the text says why.
pub(super) fn peer_certificate(shown: Option<&[CertificateDer<'_>]>) -> Result<Option<Arc<PeerCertificate>>, String> {
    let Some(first) = shown.and_then(<[_]>::first) else { return Ok(None) };
    Ok(Some(Arc::new(peer::read(first)?.certificate)))
}

#[cfg(test)]
mod tests;
