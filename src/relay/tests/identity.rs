//! What is kept of callers, and for how long; what catalogs are shown, and what of it may come back.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use axum::extract::Request;
use axum::http::StatusCode as Status;
use axum::routing::any;
use axum::serve::Listener;
use axum::{Json, Router};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::auth::credential::{BearerToken, Wallet};
use crate::auth::realm::{RealmFault, Realms};
use crate::names::RealmName;
use crate::relay::config::RestConfig;
use crate::secret::SecretString;

async fn relay_to(uri: &str, more: &str) -> Arc<Relay> {
    let rest: RestConfig =
        serde_saphyr::from_str(&format!("uri: {uri}\nrealm: r\nallowed_locations: [s3://lake/]\n{more}")).unwrap();
    let catalogs = BTreeMap::from([(name(), CatalogConfig::Rest(Box::new(rest)))]);
    Relay::bind(config(), catalogs, BTreeMap::new()).await.unwrap()
}

fn login(wallet: &Wallet, client_id: &str, secret: &str) -> Credential {
    wallet.client(&RealmName::from("r"), client_id, &SecretString::from(secret), None)
}

#[tokio::test]
async fn what_is_kept_for_a_caller_goes_when_nobody_holds_its_credential() {
    let relay = relay_to("http://127.0.0.1:9", "").await;
    let wallet = Wallet::default();
    let began = Instant::now();
    let callers: Vec<Credential> = (0..500).map(|n| login(&wallet, &format!("client-{n}"), "s")).collect();
    for caller in &callers {
        relay.view(caller, &name()).unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(20), "500 views took {:?}", began.elapsed());
    let soon = |seconds| Instant::now() + Duration::from_secs(seconds);
    relay.views.sweep(soon(70));
    assert_eq!(relay.views.count(), 500, "they are held");
    let kept = callers[0].clone();
    drop(callers);
    relay.views.sweep(soon(50));
    assert_eq!(relay.views.count(), 500, "some may come back at once");
    relay.views.sweep(soon(70));
    assert_eq!(relay.views.count(), 1);
    // One that comes back in another life has the view of before, and the view has it.
    let weak = kept.downgrade();
    drop(kept);
    assert!(weak.is_gone());
    let again = login(&wallet, "client-0", "s");
    relay.view(&again, &name()).unwrap();
    relay.views.sweep(soon(70));
    assert_eq!(relay.views.count(), 1);
    relay.views.sweep(soon(4000));
    assert_eq!(relay.views.count(), 0);
}

/// A catalog that says in its refusals all that it was sent.
async fn indiscreet() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let repeat = async |request: Request| {
        let shown = format!("{:?}", request.headers().get("authorization"));
        let path = request.uri().path().to_owned();
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let sent = format!("{shown} {}", String::from_utf8_lossy(&body));
        if path.ends_with("/tokens") && sent.contains("right") {
            return (Status::OK, Json(json!({ "access_token": "planted-token" })));
        }
        if path.ends_with("/tokens") {
            return (Status::UNAUTHORIZED, Json(json!({ "error": "invalid_client", "error_description": sent })));
        }
        (Status::FORBIDDEN, Json(json!({ "error": { "message": sent, "type": "ForbiddenException", "code": 403 } })))
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(any(repeat))).await });
    uri
}

#[tokio::test]
async fn what_was_sent_in_secret_never_comes_back_in_a_text() {
    let relay = relay_to(&indiscreet().await, "").await;
    let wallet = Wallet::default();
    let bearer = |exchange| {
        let token = BearerToken { secret: SecretString::from("planted-bearer"), expires: None, exchange };
        wallet.token(&RealmName::from("r"), if exchange { "x" } else { "y" }, "{}", token, None)
    };
    let callers =
        [login(&wallet, "me", "planted-secret&more"), login(&wallet, "me", "planted-secret-right"), bearer(false), bearer(true)];
    for caller in callers {
        let load = relay.load(&caller, &table("t")).await.unwrap_err();
        let proof = relay.prove(&caller).await.unwrap_err();
        assert!(matches!(proof, RealmFault::Refused(_)), "{proof}");
        for text in [load.to_string(), format!("{load:?}"), proof.to_string(), format!("{proof:?}")] {
            assert!(!text.contains("planted"), "{text}");
            assert!(text.contains("hidden"), "{text}");
        }
    }
}

/// HTTP/1.1 over TLS; keeps what clients offered to speak.
struct Tls {
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    offered: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (socket, address) = self.listener.accept().await.unwrap();
            let Ok(start) = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await else { continue };
            let offered = start.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
            *self.offered.lock().unwrap() = offered;
            if let Ok(stream) = start.into_stream(self.config.clone()).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[tokio::test]
async fn a_catalog_behind_an_authority_of_ones_own_is_reached_by_tls() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, certified.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let served = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let offered = Arc::new(Mutex::new(Vec::new()));
    let tls = Tls { listener, config: Arc::new(served), offered: offered.clone() };
    let answer = async |request: Request| match request.uri().path() {
        "/v1/config" => Json(json!({ "overrides": {}, "defaults": {} })),
        _ => Json(json!({ "namespaces": [["gold"]] })),
    };
    tokio::spawn(async move { axum::serve(tls, Router::new().fallback(any(answer))).await });

    let trusting = relay_to(&uri, &format!("ca_file: {}", ca_file.display())).await;
    assert!(
        trusting.namespaces(&credential(), &name(), &no_ceiling(), None).await.unwrap().contains(&Namespace::from_schema("gold"))
    );
    assert_eq!(*offered.lock().unwrap(), [b"h2".to_vec(), b"http/1.1".to_vec()]);
    let error = relay_to(&uri, "").await.namespaces(&credential(), &name(), &no_ceiling(), None).await.unwrap_err();
    assert!(matches!(error, crate::relay::CatalogError::Unreachable { .. }), "{error}");

    for (file, why) in [("/nowhere/ca.pem", "cannot be used"), (file_with(&directory, "no certificate"), "no certificate in it")]
    {
        let rest: RestConfig = serde_saphyr::from_str(&format!("uri: {uri}\nca_file: {file}")).unwrap();
        let bound = Relay::bind(config(), BTreeMap::from([(name(), CatalogConfig::Rest(Box::new(rest)))]), BTreeMap::new()).await;
        let Err(error) = bound else { panic!("{file} was taken") };
        assert!(error.to_string().contains(why), "{error}");
    }
}

fn file_with(directory: &tempfile::TempDir, text: &str) -> &'static str {
    let file = directory.path().join("other.pem");
    std::fs::write(&file, text).unwrap();
    Box::leak(file.display().to_string().into_boxed_str())
}

#[tokio::test]
async fn the_gateways_client_is_never_shown_to_a_catalogs_own_endpoint_in_an_exchange() {
    for token_uri in ["", "token_uri: 'http://H:8181/api/catalog/v1/oauth/tokens/', "] {
        let text = format!(
            "uri: http://h:8181/api/catalog\ncallers: {{ exchange: {{ {token_uri}client: {{ client_id: me, client_secret: s }} }} }}"
        );
        let rest: RestConfig = serde_saphyr::from_str(&text).unwrap();
        let bound = Relay::bind(config(), BTreeMap::from([(name(), CatalogConfig::Rest(Box::new(rest)))]), BTreeMap::new()).await;
        let Err(error) = bound else { panic!("{text} was taken") };
        assert!(error.to_string().contains("instead of the caller's"), "{error}");
    }
}
