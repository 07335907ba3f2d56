//! Owns a realm's access tokens: the token endpoint's rules, JWTs signed with the realm's own key, and tokens of identity providers
//! that it takes. Refuses to know what a caller may do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::setup::IssuerSetup;
use super::authorize::Caller;
use super::issuers::Issuers;
use super::realm::{Realm, Subject};

const ALL_ROLES: &str = "PRINCIPAL_ROLE:ALL";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// What signs tokens and whose are taken.
pub struct Tokens {
    /// Another one makes every token so far worthless.
    key: RwLock<[u8; 32]>,
    lifetime_s: AtomicU64,
    pub issuers: Issuers,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    iat: u64,
    exp: u64,
    jti: String,
    active: bool,
    client_id: String,
    #[serde(rename = "principalId")]
    principal_id: u64,
    scope: String,
}

/// What the token endpoint answers instead of a token, by its name in OAuth2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    InvalidRequest,
    InvalidClient,
    UnauthorizedClient,
    UnsupportedGrantType,
    InvalidScope,
}

impl Refused {
    /// Status and body.
    pub fn answer(self) -> (u16, Value) {
        let (status, name, description) = match self {
            Self::InvalidRequest => (400, "invalid_request", "The request is invalid"),
            Self::InvalidClient => (401, "invalid_client", "The Client is invalid"),
            Self::UnauthorizedClient => (401, "unauthorized_client", "The client is not authorized"),
            Self::UnsupportedGrantType => (400, "unsupported_grant_type", "The grant type is invalid"),
            Self::InvalidScope => (400, "invalid_scope", "The scope is invalid"),
        };
        (status, json!({ "error": name, "error_description": description, "error_uri": null }))
    }
}

/// A request at the token endpoint.
pub struct TokenRequest {
    form: HashMap<String, String>,
    /// The Authorization header.
    shown: Option<String>,
}

impl TokenRequest {
    pub fn new(shown: Option<String>, body: &[u8]) -> Self {
        Self { form: url::form_urlencoded::parse(body).into_owned().collect(), shown }
    }

    /// For the log: how a token is asked for.
    pub fn grant_type(&self) -> &str {
        self.field("grant_type").unwrap_or_default().rsplit(':').next().unwrap_or_default()
    }

    /// Client id and secret, from the form or else from the header.
    pub fn client(&self) -> Result<Option<(String, String)>, Refused> {
        if let Some(secret) = self.field("client_secret") {
            return Ok(Some((self.field("client_id").unwrap_or_default().to_owned(), secret.to_owned())));
        }
        let Some(basic) = self.shown.as_deref().and_then(|shown| shown.strip_prefix("Basic ")) else { return Ok(None) };
        let text = BASE64_STANDARD.decode(basic).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let (id, secret) = text.as_deref().and_then(|text| text.split_once(':')).ok_or(Refused::InvalidRequest)?;
        Ok(Some((id.to_owned(), secret.to_owned())))
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.form.get(name).map(String::as_str)
    }
}

impl Tokens {
    pub fn new(lifetime_s: u64, issuers: Vec<IssuerSetup>) -> Self {
        Self { key: RwLock::new(rand::random()), lifetime_s: AtomicU64::new(lifetime_s), issuers: Issuers::new(issuers) }
    }

    /// How long tokens live from now on, in seconds.
    pub fn set_lifetime(&self, seconds: u64) {
        self.lifetime_s.store(seconds, Ordering::Relaxed);
    }

    /// Makes every token that was given worthless, as a Polaris does that came back with another key.
    pub fn expire_all(&self) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = rand::random();
    }

    fn key(&self) -> [u8; 32] {
        *self.key.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token whose life began `age_s` ago.
    fn sign(&self, subject: &Subject, scope: &str, age_s: u64) -> Result<String, Refused> {
        let iat = now_s().saturating_sub(age_s);
        let claims = Claims {
            iss: "polaris".to_owned(),
            sub: subject.principal.clone(),
            iat,
            exp: iat + self.lifetime_s.load(Ordering::Relaxed),
            jti: Uuid::new_v4().to_string(),
            active: true,
            client_id: subject.client_id.clone(),
            principal_id: subject.id,
            scope: scope.to_owned(),
        };
        let key = EncodingKey::from_secret(&self.key());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|_| Refused::InvalidRequest)
    }

    fn verify(&self, token: &str) -> Option<Claims> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.leeway = 0;
        rules.set_issuer(&["polaris"]);
        let key = DecodingKey::from_secret(&self.key());
        jsonwebtoken::decode::<Claims>(token, &key, &rules).ok().map(|data| data.claims).filter(|claims| claims.active)
    }
}

impl Realm {
    /// Who shows this bearer token; nobody when it is worth nothing.
    pub async fn bearer(&self, token: &str) -> Option<Caller> {
        if let Some(claims) = self.tokens.verify(token) {
            return self.knows(&claims.sub, claims.principal_id).then(|| self.caller(&claims.sub, &claims.scope))?;
        }
        let foreign = self.tokens.issuers.verify(token).await?;
        self.subject(&foreign.principal)?;
        self.caller(&foreign.principal, &foreign.scope)
    }

    /// The principal that a token is asked for, as far as can be told, for faults and for the log.
    pub async fn asker(&self, request: &TokenRequest) -> Option<String> {
        match request.client() {
            Ok(Some((client_id, _))) => self.principal_of(&client_id),
            _ => self.bearer(request.field("subject_token")?).await.map(|caller| caller.principal),
        }
    }

    /// The body of an answer with a token; one that has expired already when `stale`.
    ///
    /// # Errors
    /// What Polaris answers instead.
    pub async fn issue(&self, request: &TokenRequest, stale: bool) -> Result<Value, Refused> {
        let grant_type = request.field("grant_type").unwrap_or_default();
        if !matches!(grant_type, "client_credentials" | TOKEN_EXCHANGE) {
            return Err(Refused::UnsupportedGrantType);
        }
        if request.field("requested_token_type").is_some_and(|wanted| wanted != ACCESS_TOKEN) {
            return Err(Refused::InvalidRequest);
        }
        if request.shown.is_none() && request.field("client_secret").is_none() {
            return Err(Refused::InvalidClient);
        }
        let (subject, scope) = match request.client()? {
            Some((client_id, secret)) => {
                if client_id.is_empty() || secret.is_empty() {
                    return Err(Refused::InvalidClient);
                }
                let scope = check_scope(request.field("scope").unwrap_or_default())?;
                (self.login(&client_id, &secret).ok_or(Refused::UnauthorizedClient)?, scope)
            }
            None => self.exchange(request).await?,
        };
        let lifetime = self.tokens.lifetime_s.load(Ordering::Relaxed);
        let age_s = if stale { lifetime + 1 } else { 0 };
        let token = self.tokens.sign(&subject, &scope, age_s)?;
        Ok(json!({
            "access_token": token,
            "token_type": "bearer",
            "issued_token_type": ACCESS_TOKEN,
            "expires_in": lifetime,
        }))
    }

    async fn exchange(&self, request: &TokenRequest) -> Result<(Subject, String), Refused> {
        let token = request.field("subject_token").filter(|token| !token.trim().is_empty()).ok_or(Refused::InvalidRequest)?;
        let kind = request.field("subject_token_type").unwrap_or_default();
        let (principal, held) = match self.tokens.verify(token) {
            Some(_) if kind != ACCESS_TOKEN => return Err(Refused::InvalidRequest),
            Some(claims) if self.knows(&claims.sub, claims.principal_id) => (claims.sub, claims.scope),
            Some(_) => return Err(Refused::UnauthorizedClient),
            None if !matches!(kind, ACCESS_TOKEN | JWT | ID_TOKEN) => return Err(Refused::InvalidRequest),
            None => {
                let foreign = self.tokens.issuers.verify(token).await.ok_or(Refused::InvalidClient)?;
                (foreign.principal, foreign.scope)
            }
        };
        let scope = match request.field("scope") {
            Some(wanted) => {
                let wanted = check_scope(wanted)?;
                let within = |one: &str| held.split(' ').any(|had| had == ALL_ROLES || had == one);
                if wanted.split(' ').all(within) { wanted } else { return Err(Refused::InvalidScope) }
            }
            None => held,
        };
        Ok((self.subject(&principal).ok_or(Refused::UnauthorizedClient)?, scope))
    }
}

/// A scope is a list of principal roles, each `PRINCIPAL_ROLE:<name>`.
fn check_scope(scope: &str) -> Result<String, Refused> {
    let fits = |one: &str| one.strip_prefix("PRINCIPAL_ROLE:").is_some_and(|name| !name.is_empty());
    if scope.split(' ').all(fits) { Ok(scope.to_owned()) } else { Err(Refused::InvalidScope) }
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
