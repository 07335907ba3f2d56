//! Owns one OAuth2 access token: fetched by client credentials, renewed ahead of its expiry, one fetch however many ask. Refuses to
//! show it to anybody but the request that carries it.

use std::time::{Duration, Instant};

use reqwest::Client;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::http::{Fault, Site};
use crate::relay::error::CatalogError;
use crate::secret::{ExposeSecret, SecretString};

/// A token is renewed so long before its expiry, or at half its life if that is later.
const AHEAD: Duration = Duration::from_secs(60);

/// What a token without a stated life is taken to have. A refusal renews it earlier.
const UNSTATED_LIFE: Duration = Duration::from_secs(3600);

/// What the gateway shows the catalog.
pub(super) enum Credentials {
    /// Nothing.
    None,
    /// A fixed token.
    Bearer(SecretString),
    /// OAuth2 client credentials.
    Oauth2(Box<ClientCredentials>),
}

/// OAuth2 client credentials, and the token had with them.
pub(super) struct ClientCredentials {
    pub(super) uri: String,
    pub(super) client_id: String,
    pub(super) client_secret: SecretString,
    pub(super) scope: String,
    /// Held while a token is fetched, so that others wait for that one.
    pub(super) current: Mutex<Option<Token>>,
}

/// A token that was had.
#[derive(Clone)]
pub(super) struct Token {
    secret: SecretString,
    renew_at: Instant,
}

impl Token {
    pub(super) fn expose(&self) -> &str {
        self.secret.expose_secret()
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: SecretString,
    #[serde(default)]
    expires_in: Option<f64>,
}

impl Credentials {
    /// The token to show now. `refused` is one that the catalog did not take: it is not given again if another can be had.
    pub(super) async fn token(&self, client: &Client, site: &Site, refused: Option<&Token>) -> Result<Option<Token>, Fault> {
        match self {
            Self::None => Ok(None),
            Self::Bearer(secret) => Ok(Some(Token { secret: secret.clone(), renew_at: Instant::now() })),
            Self::Oauth2(credentials) => credentials.token(client, site, refused).await.map(Some),
        }
    }

    /// Whether a refused token may be answered by another one.
    pub(super) fn can_renew(&self) -> bool {
        matches!(self, Self::Oauth2(_))
    }
}

impl ClientCredentials {
    async fn token(&self, client: &Client, site: &Site, refused: Option<&Token>) -> Result<Token, Fault> {
        let mut current = self.current.lock().await;
        if let Some(token) = &*current {
            let is_refused = refused.is_some_and(|refused| refused.expose() == token.expose());
            if !is_refused && Instant::now() < token.renew_at {
                return Ok(token.clone());
            }
        }
        let token = self.fetch(client, site).await?;
        *current = Some(token.clone());
        Ok(token)
    }

    async fn fetch(&self, client: &Client, site: &Site) -> Result<Token, Fault> {
        let asked = Instant::now();
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            ("client_secret", self.client_secret.expose_secret()),
        ];
        if !self.scope.is_empty() {
            form.push(("scope", &self.scope));
        }
        let request = client.post(&self.uri).form(&form).timeout(site.timeout);
        // Nothing that a catalog was asked to do has been sent yet, so any failure here is one before sending.
        let before_sending = |fault: Fault| Fault { sent: false, ..fault };
        let answer = site.exchange(request).await.map_err(before_sending)?;
        if !answer.status.is_success() {
            let error = match answer.status.as_u16() {
                400 | 401 | 403 => CatalogError::Unauthorized { catalog: site.catalog.clone(), reason: answer.message() },
                _ => site.bad(format!("its token endpoint answered {}", answer.describe())),
            };
            return Err(Fault { error, sent: false });
        }
        let token: TokenAnswer = serde_json::from_slice(&answer.body).map_err(|_| Fault {
            // The parser's own words could quote the token.
            error: site.bad("its token endpoint answered without an access_token".to_owned()),
            sent: false,
        })?;
        let life = token
            .expires_in
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .unwrap_or(UNSTATED_LIFE)
            .min(Duration::from_secs(30 * 24 * 3600));
        let renew_after = life.saturating_sub(AHEAD).max(life / 2);
        Ok(Token { secret: token.access_token, renew_at: asked + renew_after })
    }
}
