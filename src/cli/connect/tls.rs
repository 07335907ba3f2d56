//! Owns the client's side of TLS: whom it trusts, which certificate it shows, and what a failed handshake means for the user. Refuses to
//! connect.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, InvalidMessage};
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

/// Reads the authorities to trust.
///
/// # Errors
/// When the file cannot be read or has none.
pub fn authorities(path: &Path) -> Result<Certificate, CliError> {
    let pem = read(path)?;
    certificates("--tls-ca", path, &pem)?;
    Ok(Certificate::from_pem(pem))
}

/// Reads the certificate to show and its key.
///
/// # Errors
/// When one cannot be read, has not what it should, or they don't belong together.
pub fn identity(cert: &Path, key: &Path) -> Result<Identity, CliError> {
    let (cert_pem, key_pem) = (read(cert)?, read(key)?);
    let chain = certificates("--tls-cert", cert, &cert_pem)?;
    let usage = |what: String| move |_| CliError::Usage(what);
    let no_key = format!("--tls-key {} has no private key that can be read (PEM, without a passphrase)", key.display());
    let parsed = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| CliError::Usage(no_key))?;
    let misfit = format!("the key in --tls-key {} does not fit the certificate in --tls-cert {}", key.display(), cert.display());
    CertifiedKey::from_der(chain, parsed, &rustls::crypto::ring::default_provider()).map_err(usage(misfit))?;
    Ok(Identity::from_pem(cert_pem, key_pem))
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(CliError::io(format!("read {}", path.display())))
}

fn certificates(option: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CliError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.ok().filter(|certificates| !certificates.is_empty());
    read.ok_or_else(|| CliError::Usage(format!("{option} {} has no certificate that can be read (PEM)", path.display())))
}

/// How to shake hands: with these authorities, or the system's, or where it has none the public ones.
pub fn config(ca: Option<&Certificate>, identity: Option<&Identity>) -> ClientTlsConfig {
    let config = match ca.cloned().or_else(system_authorities) {
        Some(ca) => ClientTlsConfig::new().ca_certificate(ca),
        None => ClientTlsConfig::new().with_webpki_roots(),
    };
    match identity {
        Some(identity) => config.identity(identity.clone()),
        None => config,
    }
}

fn system_authorities() -> Option<Certificate> {
    let named = std::env::var_os(ROOTS_VARIABLE).map(PathBuf::from);
    let usual = SYSTEM_ROOTS.iter().map(PathBuf::from);
    let pem = named.into_iter().chain(usual).find_map(|path| std::fs::read(path).ok())?;
    Some(Certificate::from_pem(pem))
}

/// What a failure to speak with `uri` comes from, when it is TLS, or a lack of it.
pub fn explain(uri: &GatewayUri, error: &(dyn Error + 'static)) -> Option<String> {
    let mut source = Some(error);
    while let Some(cause) = source {
        if let Some(error) = tls_error(cause) {
            return Some(describe(uri, error));
        }
        // An alert of TLS, read as a frame of HTTP/2.
        if !uri.tls && cause.to_string().contains("frame with invalid size") {
            return Some(format!("the server does not speak gRPC in plaintext; if it speaks TLS, use {}", uri.with_tls(true)));
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
        let cut = io::Error::other("frame with invalid size");
        assert!(explain(&uri, &cut).unwrap().contains("use grpc+tls://lake.example.com:32010"));
        assert_eq!(explain(&uri.with_tls(true), &cut), None);
    }
}
