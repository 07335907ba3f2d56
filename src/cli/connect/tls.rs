//! Owns the client's side of TLS: whom it trusts, which certificate it shows, and what a failed handshake means for the user. Refuses to
//! connect.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::GatewayUri;
use crate::cli::error::CliError;

/// Where systems keep the authorities that they trust; the first that is there counts.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// The variable that names another file of them, as for OpenSSL.
const ROOTS_VARIABLE: &str = "SSL_CERT_FILE";

/// Finding out why a call failed must not take longer than failing.
const DIAGNOSIS: Duration = Duration::from_secs(3);

/// A client certificate and its key, both PEM.
#[derive(Clone)]
pub struct Shown {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// Whom to trust, and what to show. `Debug` shows neither.
#[derive(Clone, Default)]
pub struct Trust {
    /// Authorities as PEM; `None` means the system's, or where it has none the public ones.
    ca: Option<Vec<u8>>,
    shown: Option<Shown>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

impl Trust {
    /// Reads the files of `--tls-ca`, and of `--tls-cert` with `--tls-key`.
    ///
    /// # Errors
    /// When one cannot be read, has not what it should, or certificate and key don't belong together.
    pub fn from_files(ca: Option<&Path>, shown: Option<(&Path, &Path)>) -> Result<Self, CliError> {
        let ca = ca.map(authorities).transpose()?;
        Ok(Self { ca, shown: shown.map(|(cert, key)| Shown::from_files(cert, key)).transpose()? })
    }

    fn authorities(&self) -> Option<Vec<u8>> {
        let named = std::env::var_os(ROOTS_VARIABLE).map(PathBuf::from);
        let usual = SYSTEM_ROOTS.iter().map(PathBuf::from);
        self.ca.clone().or_else(|| named.into_iter().chain(usual).find_map(|path| std::fs::read(path).ok()))
    }

    /// How tonic is to shake hands.
    pub fn config(&self) -> ClientTlsConfig {
        let config = match self.authorities() {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        match &self.shown {
            Some(Shown { cert, key }) => config.identity(Identity::from_pem(cert, key)),
            None => config,
        }
    }

    /// The same for a handshake of our own; without the public authorities.
    fn own_config(&self) -> Option<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.authorities().unwrap_or_default()).unwrap_or_default());
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().ok()?.with_root_certificates(roots);
        let mut config = match &self.shown {
            Some(Shown { cert, key }) => {
                config.with_client_auth_cert(certificates(cert)?, PrivateKeyDer::from_pem_slice(key).ok()?).ok()?
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Some(config)
    }
}

impl Shown {
    fn from_files(cert: &Path, key: &Path) -> Result<Self, CliError> {
        let (cert_pem, key_pem) = (read(cert)?, read(key)?);
        let chain = certificates(&cert_pem).ok_or_else(|| no_certificate("--tls-cert", cert))?;
        let no_key = format!("--tls-key {} has no private key that can be read (PEM, without a passphrase)", key.display());
        let parsed = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| CliError::Usage(no_key))?;
        let misfit =
            format!("the key in --tls-key {} does not fit the certificate in --tls-cert {}", key.display(), cert.display());
        let fits = CertifiedKey::from_der(chain, parsed, &rustls::crypto::ring::default_provider());
        fits.map_err(|_| CliError::Usage(misfit))?;
        Ok(Self { cert: cert_pem, key: key_pem })
    }
}

fn authorities(path: &Path) -> Result<Vec<u8>, CliError> {
    let pem = read(path)?;
    certificates(&pem).map(|_| pem).ok_or_else(|| no_certificate("--tls-ca", path))
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(CliError::io(format!("read {}", path.display())))
}

/// The certificates of a file; `None` when there are none, or a broken one.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.ok().filter(|certificates| !certificates.is_empty())
}

fn no_certificate(option: &str, path: &Path) -> CliError {
    CliError::Usage(format!("{option} {} has no certificate that can be read (PEM)", path.display()))
}

/// Why a call to `uri` failed whose error does not say it: by a handshake of our own. A refused client certificate comes to light only
/// after the handshake of TLS 1.3, and a call that fails of it may know no more than that the connection was closed.
pub async fn diagnose(uri: &GatewayUri, trust: &Trust) -> Option<String> {
    tokio::time::timeout(DIAGNOSIS, shake_hands(uri, trust)).await.ok()?
}

async fn shake_hands(uri: &GatewayUri, trust: &Trust) -> Option<String> {
    let io = TcpStream::connect(uri.authority()).await.ok()?;
    let host = uri.host.to_string();
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()?;
    let connector = TlsConnector::from(Arc::new(trust.own_config()?));
    let failed = match connector.connect(name, io).await {
        Ok(_) if !uri.tls => return Some(speaks_tls(uri)),
        Ok(mut stream) => stream.read_u8().await.err()?,
        Err(error) => error,
    };
    match tls_error(&failed)? {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) if !uri.tls => None,
        _ if !uri.tls => Some(speaks_tls(uri)),
        // The call came further, by the public authorities.
        rustls::Error::InvalidCertificate(_) => None,
        error => Some(describe(uri, error)),
    }
}

fn speaks_tls(uri: &GatewayUri) -> String {
    format!("the server speaks TLS; use {}", uri.with_tls(true))
}

/// What a failure to speak with `uri` comes from, when it is TLS, or a lack of it.
pub fn explain(uri: &GatewayUri, error: &(dyn Error + 'static)) -> Option<String> {
    let mut source = Some(error);
    while let Some(cause) = source {
        if let Some(error) = tls_error(cause) {
            return Some(describe(uri, error));
        }
        source = cause.source();
    }
    None
}

/// The error of the TLS library, which travels inside those of the system.
fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inside = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    cause.downcast_ref().or_else(|| inside?.downcast_ref())
}

fn describe(uri: &GatewayUri, error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            format!("the server speaks plaintext; use {}", uri.with_tls(false))
        }
        rustls::Error::InvalidCertificate(error) => refused_server(uri, error),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server asks for a client certificate: name one with --tls-cert and its key with --tls-key".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the server speaks TLS, but not gRPC (HTTP/2)".to_owned()
        }
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError),
        ) => format!("the server refuses the client certificate of --tls-cert ({alert:?})"),
        other => format!("the TLS handshake failed: {other}"),
    }
}

fn refused_server(uri: &GatewayUri, error: &CertificateError) -> String {
    let reason = match error {
        CertificateError::UnknownIssuer => {
            "comes from none of the trusted authorities; --tls-ca names the file with yours".to_owned()
        }
        CertificateError::NotValidForName => format!("is not for {}", uri.host),
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!(
                "is not for {}, but for {}",
                uri.host,
                if presented.is_empty() { "no name".into() } else { presented.join(", ") }
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet".to_owned(),
        // A self-signed one is usually made so.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "is one of an authority (CA:TRUE), which cannot serve; make one with CA:FALSE".to_owned()
        }
        other => format!("is not accepted: {other}"),
    };
    format!("the server's certificate {reason}")
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    fn explained(uri: &str, error: rustls::Error) -> String {
        let error = io::Error::other(error);
        explain(&uri.parse().unwrap(), &error).unwrap()
    }

    #[test]
    fn a_failed_handshake_says_what_to_change() {
        use CertificateError::{Expired, NotValidForNameContext, UnknownIssuer};
        use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage as Broken};
        let expected = ServerName::try_from("lake.example.com").unwrap();
        let other_name = NotValidForNameContext { expected, presented: vec!["a.example".into(), "b.example".into()] };
        for (error, wanted) in [
            (Broken(InvalidMessage::InvalidContentType), "the server speaks plaintext; use grpc://lake.example.com:1"),
            (InvalidCertificate(UnknownIssuer), "--tls-ca names the file"),
            (InvalidCertificate(other_name), "is not for lake.example.com, but for a.example, b.example"),
            (InvalidCertificate(Expired), "the server's certificate has expired"),
            (AlertReceived(AlertDescription::CertificateRequired), "name one with --tls-cert"),
            (AlertReceived(AlertDescription::UnknownCA), "refuses the client certificate of --tls-cert (UnknownCA)"),
            (AlertReceived(AlertDescription::NoApplicationProtocol), "but not gRPC"),
            (rustls::Error::DecryptError, "the TLS handshake failed: cannot decrypt peer's message"),
        ] {
            let text = explained("grpc+tls://lake.example.com:1", error);
            assert!(text.contains(wanted), "{text}");
        }
    }

    #[test]
    fn other_failures_are_not_taken_for_tls() {
        let uri: GatewayUri = "grpc://lake.example.com".parse().unwrap();
        assert_eq!(explain(&uri, &io::Error::from(io::ErrorKind::ConnectionReset)), None);
    }
}
