//! Owns what is said to a token endpoint and what its answers mean. Refuses to keep anything, and to repeat in an error what it has sent.

use std::time::Duration;

use bytes::BytesMut;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::source::TokenFault;
use crate::relay::config::{ClientAuth, ExchangeClient};
use crate::relay::words;
use crate::secret::{ExposeSecret, SecretString};

/// More than any token endpoint says.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What kind of token a caller shows (RFC 8693).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Where tokens are had.
#[derive(Clone)]
pub(in crate::relay) struct Endpoint {
    /// Its address.
    pub(in crate::relay) uri: String,
    /// What the tokens are for; empty for nothing in particular.
    pub(in crate::relay) scope: String,
    /// How a client's id and secret are sent.
    pub(in crate::relay) auth: ClientAuth,
}

/// What an exchange says besides the caller's token.
#[derive(Clone, Default)]
pub(in crate::relay) struct Audience {
    /// Whom the new token is for.
    pub(in crate::relay) audience: Option<String>,
    /// The gateway's own client.
    pub(in crate::relay) client: Option<ExchangeClient>,
}

/// A token as it came.
pub(super) struct Had {
    pub(super) secret: SecretString,
    /// Seconds; whatever the endpoint thought a number.
    pub(super) expires_in: Option<f64>,
}

/// A client as it identifies itself.
pub(super) struct ClientIs<'a> {
    pub(super) id: &'a str,
    pub(super) secret: &'a SecretString,
    pub(super) auth: ClientAuth,
}

/// Asks for a token by client credentials.
pub(super) async fn by_client(
    http: &Client,
    timeout: Duration,
    endpoint: &Endpoint,
    client: ClientIs<'_>,
) -> Result<Had, TokenFault> {
    let mut form = vec![("grant_type", "client_credentials")];
    let request = identified(http.post(&endpoint.uri), &mut form, &client);
    if !endpoint.scope.is_empty() {
        form.push(("scope", &endpoint.scope));
    }
    ask(request.form(&form), timeout, &[client.secret]).await
}

/// Asks for a token in exchange for the caller's.
pub(super) async fn by_exchange(
    http: &Client,
    timeout: Duration,
    endpoint: &Endpoint,
    audience: &Audience,
    subject: &SecretString,
) -> Result<Had, TokenFault> {
    let mut form = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", subject.expose_secret()),
        ("subject_token_type", ACCESS_TOKEN),
    ];
    let mut sent = vec![subject];
    let own;
    let request = match &audience.client {
        // A catalog's own endpoint wants to see who asks, and that is the caller.
        None => http.post(&endpoint.uri).bearer_auth(subject.expose_secret()),
        Some(client) => {
            own = secret_of(&client.client_secret).await?;
            sent.push(&own);
            let client = ClientIs { id: &client.client_id, secret: &own, auth: client.client_auth };
            identified(http.post(&endpoint.uri), &mut form, &client)
        }
    };
    if !endpoint.scope.is_empty() {
        form.push(("scope", &endpoint.scope));
    }
    if let Some(audience) = &audience.audience {
        form.push(("audience", audience));
    }
    ask(request.form(&form), timeout, &sent).await
}

/// A secret of the config, as it is now.
pub(super) async fn secret_of(secret: &crate::secret::SecretRef) -> Result<SecretString, TokenFault> {
    let secret = secret.clone();
    let read = tokio::task::spawn_blocking(move || secret.resolve()).await;
    match read {
        Ok(Ok(secret)) => Ok(secret),
        Ok(Err(error)) => Err(TokenFault::NoSecret(error.to_string())),
        Err(panic) => Err(TokenFault::NoSecret(panic.to_string())),
    }
}

fn identified<'a>(request: RequestBuilder, form: &mut Vec<(&'a str, &'a str)>, client: &ClientIs<'a>) -> RequestBuilder {
    match client.auth {
        ClientAuth::Post => {
            form.push(("client_id", client.id));
            form.push(("client_secret", client.secret.expose_secret()));
            request
        }
        ClientAuth::Basic => {
            // Both are form-encoded before they are put together (RFC 6749, 2.3.1).
            let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            request.basic_auth(encoded(client.id), Some(encoded(client.secret.expose_secret())))
        }
    }
}

async fn ask(request: RequestBuilder, timeout: Duration, sent: &[&SecretString]) -> Result<Had, TokenFault> {
    let (client, request) = request.timeout(timeout).build_split();
    let request = request.map_err(|error| TokenFault::Wrong(words::innermost(&error)))?;
    let host = words::host_of(request.url());
    let broken = |error: reqwest::Error| {
        if error.is_timeout() && !error.is_connect() {
            TokenFault::Timeout { host: host.clone(), after: timeout }
        } else {
            TokenFault::Unreachable { host: host.clone(), reason: words::innermost(&error) }
        }
    };
    let mut response = client.execute(request).await.map_err(broken)?;
    let status = response.status();
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(broken)? {
        if body.len() + part.len() > MAX_ANSWER_BYTES {
            return Err(TokenFault::Wrong(format!("the token endpoint at {host} answered more than {MAX_ANSWER_BYTES} bytes")));
        }
        body.extend_from_slice(&part);
    }
    if status.is_success() { read(&body, &host) } else { Err(fault(status, &body, &host, sent)) }
}

fn read(body: &[u8], host: &str) -> Result<Had, TokenFault> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: SecretString,
        #[serde(default)]
        expires_in: Value,
    }
    let answer: Answer = serde_json::from_slice(body)
        // The parser's own words could quote the token.
        .map_err(|_| TokenFault::Wrong(format!("the token endpoint at {host} answered without an access_token")))?;
    let expires_in = match &answer.expires_in {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    Ok(Had { secret: answer.access_token, expires_in })
}

fn fault(status: StatusCode, body: &[u8], host: &str, sent: &[&SecretString]) -> TokenFault {
    let said = words::said_without(status, body, sent);
    match status.as_u16() {
        400 | 401 | 403 => TokenFault::Refused(said),
        408 | 429 | 500.. => {
            TokenFault::Failing(format!("the token endpoint at {host} answered {}", words::described(status, &said)))
        }
        _ => TokenFault::Wrong(format!("the token endpoint at {host} answered {}", words::described(status, &said))),
    }
}
