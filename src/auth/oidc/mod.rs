//! Tokens of identity providers: signature, issuer, audience, times. Each check that fails says which it was and what it expected, and
//! never shows the token.
//!
//! It owns the configured issuers and what a token must say. It refuses to know what a token opens.

pub(super) mod claims;
mod keys;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

use super::config::{Config, ConfigError, IssuerConfig};
use super::error::{AuthError, TokenFault, shortened};
use keys::Keys;

/// The identity providers whose tokens are taken.
pub(super) struct Issuers(Vec<Issuer>);

struct Issuer {
    config: IssuerConfig,
    keys: Keys,
}

/// What a verified token says.
#[derive(Debug)]
pub(super) struct Verified {
    /// Whose it is, as configured.
    pub(super) issuer: String,
    /// Who it names.
    pub(super) name: String,
    /// Everything in it.
    pub(super) claims: Map<String, Value>,
    /// When it expires, by its own word.
    pub(super) expires: SystemTime,
    /// Until when it is taken here: the clocks may differ.
    pub(super) taken_until: SystemTime,
    /// How long it needs no other look: a key may be withdrawn.
    pub(super) good_for: Duration,
    /// The catalog does not take it, but exchanges it.
    pub(super) exchange: bool,
}

impl Issuers {
    /// Reads the files that the config names; asks nobody.
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        let issuer = |config: &IssuerConfig| Keys::new(config).map(|keys| Issuer { keys, config: config.clone() });
        config.issuers.iter().map(issuer).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the token says that it is of one of them. Nothing is proven by that.
    pub(super) fn claim_to_have_made(&self, token: &str) -> bool {
        self.named_in(token).is_ok()
    }

    /// Whether the tokens of this one are exchanged; `None` when it is not configured.
    pub(super) fn exchanges(&self, issuer: &str) -> Option<bool> {
        self.0.iter().find(|known| known.config.issuer == issuer).map(|known| known.config.exchange)
    }

    /// Verifies a token.
    pub(super) async fn verify(&self, token: &str, now: SystemTime) -> Result<Verified, AuthError> {
        let issuer = self.named_in(token).map_err(AuthError::Token)?;
        let claims = issuer.signed(token).await?;
        issuer.judge(claims, now).map_err(AuthError::Token)
    }

    fn named_in(&self, token: &str) -> Result<&Issuer, TokenFault> {
        let claims = claims::unverified(token).ok_or(TokenFault::NotJwt)?;
        let named = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        self.0.iter().find(|issuer| issuer.config.issuer == named).ok_or_else(|| {
            let known = self.0.iter().map(|issuer| issuer.config.issuer.as_str()).collect::<Vec<_>>().join(", ");
            TokenFault::UnknownIssuer { issuer: shortened(named), known }
        })
    }
}

impl Issuer {
    /// What a token says whose signature is right.
    async fn signed(&self, token: &str) -> Result<Map<String, Value>, AuthError> {
        let (algorithm, id) = self.header(token).map_err(AuthError::Token)?;
        let found = self.keys.find(id.as_deref(), algorithm).await?;
        // Only the signature is judged there: the texts about the rest are better here.
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        let data = jsonwebtoken::decode::<Map<String, Value>>(token, &found.key().decoding, &validation);
        Ok(data.map_err(|_| AuthError::Token(TokenFault::Signature))?.claims)
    }

    /// How it is signed, and by which key.
    fn header(&self, token: &str) -> Result<(Algorithm, Option<String>), TokenFault> {
        let header = claims::header(token).ok_or(TokenFault::NotJwt)?;
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        let named = text("alg").ok_or(TokenFault::NotJwt)?;
        let algorithm = self.config.algorithms.iter().find(|taken| format!("{taken:?}") == named).copied();
        let algorithm = algorithm.ok_or_else(|| TokenFault::Algorithm {
            found: shortened(named),
            taken: self.config.algorithms.iter().map(|taken| format!("{taken:?}")).collect::<Vec<_>>().join(", "),
        })?;
        if header.contains_key("crit") {
            return Err(TokenFault::Critical);
        }
        Ok((algorithm, text("kid").map(str::to_owned)))
    }

    fn judge(&self, claims: Map<String, Value>, now: SystemTime) -> Result<Verified, TokenFault> {
        let (config, skew) = (&self.config, self.config.clock_skew);
        let missing = |name: &str| TokenFault::Claim(name.to_owned());
        if claims.get("iss").and_then(Value::as_str) != Some(config.issuer.as_str()) {
            return Err(missing("iss"));
        }
        let expires = claims::time(&claims, "exp")?.ok_or_else(|| missing("exp"))?;
        let taken_until = expires.checked_add(skew).unwrap_or(expires);
        if taken_until <= now {
            return Err(TokenFault::Expired(expires));
        }
        for claim in ["nbf", "iat"] {
            let from = claims::time(&claims, claim)?;
            if let Some(from) = from.filter(|from| now.checked_add(skew).is_none_or(|latest| *from > latest)) {
                return Err(TokenFault::NotYet { claim, from });
            }
        }
        let audiences = claims::texts(claims.get("aud"));
        if !audiences.iter().any(|audience| config.audience.iter().any(|expected| expected == audience)) {
            let found = if audiences.is_empty() { "missing".to_owned() } else { shortened(&audiences.join(", ")) };
            return Err(TokenFault::Audience { found, expected: config.audience.join(" or ") });
        }
        let name = claims.get(&config.principal_claim).and_then(Value::as_str).filter(|name| claims::can_be_a_name(name));
        let name = name.ok_or_else(|| missing(&config.principal_claim))?.to_owned();
        let good_for = taken_until.duration_since(now).unwrap_or_default().min(config.refresh);
        let (issuer, exchange) = (config.issuer.clone(), config.exchange);
        Ok(Verified { issuer, name, claims, expires, taken_until, good_for, exchange })
    }
}
