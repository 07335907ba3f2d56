//! Owns what a look at an address finds: a name, something that takes connections, a certificate, an answer. Refuses to show any
//! credential, so it can be done before there is one.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use reqwest::{Client, header};
use tokio::net::TcpStream;
use url::{Host, Url};

use super::clock::Skew;
use super::{Fault, Found, Subject};
use crate::relay::words::{host_of, innermost};

/// Variables by which the way leads over a proxy.
const PROXIES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// What was found at an address.
#[derive(Debug)]
pub(super) enum Sight {
    /// Nothing took a connection.
    Unreached(Fault, String),
    /// Something did, but does not speak as the address says.
    Mute(String),
    /// Its certificate is not to be trusted.
    Untrusted(String),
    /// It answers.
    Answers { from: String, status: u16, skew: Option<Skew> },
}

/// Looks at an address. Any answer will do.
pub(super) async fn look(client: &Client, url: &Url, timeout: Duration) -> Sight {
    let from = match connect(url, timeout).await {
        Ok(address) => format!("{} ({address})", host_of(url)),
        // The name may be the proxy's to know.
        Err(_) if PROXIES.iter().any(|name| std::env::var_os(name).is_some()) => format!("{} (by way of a proxy)", host_of(url)),
        Err(unreached) => return unreached,
    };
    let asked = SystemTime::now();
    match client.get(url.clone()).timeout(timeout).send().await {
        Ok(answer) => {
            let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
            let skew = date.and_then(|date| Skew::of(date, asked, SystemTime::now()));
            Sight::Answers { from, status: answer.status().as_u16(), skew }
        }
        Err(error) => unanswered(url, &from, &error),
    }
}

async fn connect(url: &Url, timeout: Duration) -> Result<SocketAddr, Sight> {
    let port = url.port_or_known_default().unwrap_or_default();
    let addresses = match url.host() {
        Some(Host::Ipv4(ip)) => vec![SocketAddr::from((ip, port))],
        Some(Host::Ipv6(ip)) => vec![SocketAddr::from((ip, port))],
        Some(Host::Domain(name)) => resolve(name, port, timeout).await?,
        None => Vec::new(),
    };
    let mut unreached = Sight::Unreached(Fault::WrongHost, format!("{} has no address", host_of(url)));
    for address in addresses {
        unreached = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(address),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Sight::Unreached(Fault::WrongPort, format!("nothing listens at {} ({address}): connection refused", host_of(url)))
            }
            Ok(Err(error)) => Sight::Unreached(Fault::WrongHost, format!("{} ({address}): {error}", host_of(url))),
            Err(_) => {
                let seconds = timeout.as_secs_f32();
                Sight::Unreached(Fault::WrongHost, format!("{} ({address}) took no connection within {seconds} s", host_of(url)))
            }
        };
    }
    Err(unreached)
}

async fn resolve(name: &str, port: u16, timeout: Duration) -> Result<Vec<SocketAddr>, Sight> {
    let unknown =
        |reason: String| Sight::Unreached(Fault::WrongHost, format!("the host name {name} cannot be resolved: {reason}"));
    match tokio::time::timeout(timeout, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(unknown(error.to_string())),
        Err(_) => Err(unknown(format!("no answer within {} s", timeout.as_secs_f32()))),
    }
}

fn unanswered(url: &Url, from: &str, error: &reqwest::Error) -> Sight {
    match tls_fault(error) {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            Sight::Untrusted(format!("the certificate of {from} is not to be trusted: {}", certificate(reason)))
        }
        Some(rustls::Error::InvalidMessage(_)) => Sight::Mute(format!("{from} does not speak TLS")),
        Some(other) => Sight::Untrusted(format!("the TLS handshake with {from} fails: {other}")),
        None if error.is_timeout() => Sight::Mute(format!("{from} takes connections, but did not answer in time")),
        None => {
            let words = if url.scheme() == "https" { "TLS and HTTP" } else { "plain HTTP" };
            Sight::Mute(format!("{from} takes connections, but does not answer to {words}: {}", innermost(error)))
        }
    }
}

fn certificate(reason: &rustls::CertificateError) -> String {
    match reason {
        rustls::CertificateError::UnknownIssuer => "no authority that is trusted here has signed it".to_owned(),
        rustls::CertificateError::NotValidForName => "it is for another host name".to_owned(),
        other => other.to_string(),
    }
}

/// The fault of TLS in an error, wherever in it.
fn tls_fault(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(now) = cause {
        if let Some(tls) = now.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // What an I/O error holds is not its source, but that one's source is.
        let held: Option<&(dyn Error + 'static)> = match now.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => None,
        };
        cause = held.or_else(|| now.source());
    }
    None
}

impl Sight {
    /// What it says of reaching the place.
    pub(super) fn reached(&self, subject: &Subject) -> Found {
        match self {
            Self::Unreached(fault, detail) => subject.failed(*fault, detail),
            Self::Mute(detail) => subject.failed(Fault::WrongScheme, detail),
            Self::Untrusted(_) => Found::ok("takes connections"),
            Self::Answers { from, .. } => Found::ok(format!("{from} answers")),
        }
    }
}
