//! Accepted connections themselves: what a request knows of its connection, and the options of the socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::server::Connected;

use super::listener::{Connection, Settings, connections};
use super::opening::Limits;
use super::tls::{Certificates, ClientCertificates, Config};
use crate::auth::Authenticator;
use crate::auth::config::Config as AuthConfig;
use crate::auth::tests::catalog::Catalog;
use crate::session::config::Config as SessionConfig;
use crate::session::{Defaults, Sessions};

type Port = (SocketAddr, Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>);

async fn port(tls: Option<super::tls::Current>) -> Port {
    let defaults = Defaults { catalog: "lake".into(), schema: "main".to_owned(), as_of: None };
    let auth = Authenticator::new(&AuthConfig::default(), Catalog::knowing(&[])).unwrap();
    let sessions = Sessions::new(SessionConfig::default(), auth, Duration::from_secs(60), defaults);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let limits = Limits { within: Duration::from_secs(10), at_once: 4, open: 2, open_per_address: 2 };
    let settings = Settings { limits, keepalive: Duration::from_secs(77) };
    (addr, Box::pin(connections(listener, sessions, settings, tls)))
}

async fn accepted(port: &mut Port) -> Connection {
    tokio::time::timeout(Duration::from_secs(10), port.1.next()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn the_system_probes_idle_sockets_and_sends_at_once() {
    use rustix::net::sockopt;
    let mut port = port(None).await;
    let mut client = TcpStream::connect(port.0).await.unwrap();
    client.write_all(b"PRI").await.unwrap();
    let connection = accepted(&mut port).await;
    let socket = connection.io.socket();
    assert!(socket.nodelay().unwrap());
    assert!(sockopt::socket_keepalive(socket).unwrap());
    assert_eq!(sockopt::tcp_keepidle(socket).unwrap(), Duration::from_secs(77));
    assert_eq!(sockopt::tcp_keepintvl(socket).unwrap(), Duration::from_secs(77));
    let info = connection.connect_info();
    assert_eq!((info.remote, info.certificate), (Some(client.local_addr().unwrap()), None));
}

#[tokio::test]
async fn a_connection_too_many_is_closed_and_the_end_of_one_makes_room() {
    let mut port = port(None).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(port.0).await.unwrap();
        client.write_all(b"PRI").await.unwrap();
        open.push((client, accepted(&mut port).await));
    }
    let mut client = TcpStream::connect(port.0).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut answer));
    tokio::select! {
        _ = port.1.next() => panic!("one more was taken"),
        closed = closed => assert_eq!(closed.unwrap().unwrap_or_default(), 0),
    }
    open.pop();
    let mut client = TcpStream::connect(port.0).await.unwrap();
    client.write_all(b"PRI").await.unwrap();
    accepted(&mut port).await;
}

struct Pki {
    dir: TempDir,
    ca: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        Self { dir: TempDir::new().unwrap(), ca, issuer: Issuer::new(params, key) }
    }

    fn signed(&self, host: &str, name: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn certificates(&self) -> Certificates {
        let (cert, key) = self.signed("localhost", "server");
        let file = |name: &str, text: &str| {
            std::fs::write(self.dir.path().join(name), text).unwrap();
            self.dir.path().join(name)
        };
        let config = Config {
            cert_file: file("cert", &cert.pem()),
            key_file: file("key", &key.serialize_pem()),
            client_ca_file: Some(file("ca", &self.ca.pem())),
            client_certificates: ClientCertificates::Optional,
            reload: Duration::from_secs(10),
        };
        Certificates::open(config).unwrap()
    }

    async fn connect(
        &self,
        addr: SocketAddr,
        shown: Option<&(rcgen::Certificate, KeyPair)>,
        version: Version,
    ) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let config = config.with_root_certificates(roots);
        let mut config = match shown {
            Some((cert, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                config.with_client_auth_cert(vec![CertificateDer::from(cert.der().to_vec())], key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let io = TcpStream::connect(addr).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, io).await.unwrap()
    }
}

type Version = &'static rustls::SupportedProtocolVersion;

#[tokio::test]
async fn a_request_knows_the_certificate_of_its_connection_in_each_version() {
    let pki = Pki::new();
    let mut port = port(Some(pki.certificates().current())).await;
    let shown = pki.signed("etl.example.com", "ada");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for shown in [Some(&shown), None] {
            let (client, connection) = tokio::join!(pki.connect(port.0, shown, version), async {
                // The handshake is done by the port alone.
                accepted(&mut port).await
            });
            assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(client.get_ref().1.protocol_version(), Some(version.version));
            let certificate = connection.connect_info().certificate;
            assert_eq!(certificate.is_some(), shown.is_some());
            let Some(certificate) = certificate else { continue };
            assert_eq!(certificate.subject, "CN=ada,O=Example");
            assert_eq!(certificate.names, ["DNS:etl.example.com"]);
            assert!(!certificate.has_expired(SystemTime::now()));
        }
    }
}
