//! A catalog that vends: whatever it is asked for goes on to the catalog behind it, and with a table that is loaded or created comes
//! a key of the store's own STS, as Polaris does it. Refuses to vend to who does not ask for it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::minio::{Minio, Temporary};

/// A catalog in front of another one; it ends with its value.
pub struct Vending {
    /// `http://127.0.0.1:<port>`.
    pub uri: String,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    catalog: String,
    store: Arc<Minio>,
    /// The store's address as it is vended.
    endpoint: String,
    client: reqwest::Client,
    /// By what was shown as `authorization`.
    vended: Mutex<Vec<(String, Temporary)>>,
    life: Mutex<Duration>,
}

impl Vending {
    /// In front of the catalog at this address, for the store behind this endpoint.
    pub async fn of(catalog: &str, store: Arc<Minio>, endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared {
            catalog: catalog.to_owned(),
            store,
            endpoint: endpoint.to_owned(),
            client: reqwest::Client::new(),
            vended: Mutex::default(),
            life: Mutex::new(Duration::from_secs(900)),
        });
        let routes = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        let stop = CancellationToken::new();
        let serve = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::spawn(async move { serve.await });
        Self { uri, shared, _stop: stop.drop_guard() }
    }

    /// What was vended so far.
    pub fn vended(&self) -> Vec<Temporary> {
        self.shared.vended.lock().expect("the list").iter().map(|(_, keys)| keys.clone()).collect()
    }

    /// The session tokens that were vended to who has this client id.
    pub fn vended_to(&self, client: &str) -> HashSet<String> {
        let vended = self.shared.vended.lock().expect("the list");
        vended.iter().filter(|(shown, _)| shown.ends_with(&format!("sub={client}"))).map(|(_, keys)| keys.token.clone()).collect()
    }

    /// How long keys are said to live from here on.
    pub fn set_life(&self, life: Duration) {
        *self.shared.life.lock().expect("the life") = life;
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let place = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let path = parts.uri.path();
    let of_table = match parts.method {
        Method::GET => path.contains("/tables/"),
        Method::POST => path.ends_with("/tables"),
        _ => false,
    };
    let asked = parts.headers.remove("X-Iceberg-Access-Delegation").is_some_and(|mode| mode == "vended-credentials");
    let shown = parts.headers.get(header::AUTHORIZATION).and_then(|shown| shown.to_str().ok()).unwrap_or_default().to_owned();
    parts.headers.remove(header::HOST);
    // The catalog's marks know nothing of keys.
    parts.headers.remove(header::IF_NONE_MATCH);
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let sent = shared.client.request(parts.method, format!("{}{place}", shared.catalog)).headers(parts.headers).body(body);
    let Ok(answer) = sent.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    if let Some(kind) = answer.headers().get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    let succeeded = answer.status().is_success();
    let mut body = answer.bytes().await.unwrap_or_default();
    if succeeded
        && of_table
        && asked
        && let Ok(mut table) = serde_json::from_slice::<Value>(&body)
    {
        shared.vend(&mut table, shown).await;
        body = table.to_string().into();
    }
    *response.body_mut() = Body::from(body);
    response
}

impl Shared {
    async fn vend(&self, table: &mut Value, shown: String) {
        let keys = self.store.assume_role().await;
        let expires = SystemTime::now() + *self.life.lock().expect("the life");
        let expires_ms = expires.duration_since(UNIX_EPOCH).expect("a time").as_millis().to_string();
        let secret = json!({
            "s3.access-key-id": keys.key,
            "s3.secret-access-key": keys.secret,
            "s3.session-token": keys.token,
            "s3.session-token-expires-at-ms": expires_ms,
        });
        let mut config = secret.clone();
        config["s3.endpoint"] = json!(self.endpoint);
        config["s3.path-style-access"] = json!("true");
        config["client.region"] = json!("us-east-1");
        let prefix = table["metadata"]["location"].clone();
        table["config"] = config;
        table["storage-credentials"] = json!([{ "prefix": prefix, "config": secret }]);
        self.vended.lock().expect("the list").push((shown, keys));
    }
}
