//! Owns which identity providers a realm believes, their keys, and what their tokens say. Refuses to issue tokens.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;

use super::super::setup::IssuerSetup;

/// The identity providers of a realm.
pub struct Issuers {
    known: RwLock<HashMap<String, Issuer>>,
}

#[derive(Clone)]
struct Issuer {
    setup: IssuerSetup,
    keys: Option<JwkSet>,
}

/// What a token of an identity provider says.
pub struct Foreign {
    pub principal: String,
    /// As in a token of our own.
    pub scope: String,
}

impl Issuers {
    pub fn new(setups: Vec<IssuerSetup>) -> Self {
        let issuers = Self { known: RwLock::default() };
        setups.into_iter().for_each(|setup| issuers.add(setup));
        issuers
    }

    /// Believes an issuer from now on, by these terms and no older ones.
    pub fn add(&self, setup: IssuerSetup) {
        let keys = setup.jwks.clone().and_then(|keys| serde_json::from_value(keys).ok());
        let name = setup.issuer.clone();
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(name, Issuer { setup, keys });
    }

    /// Does not believe an issuer any more.
    pub fn remove(&self, issuer: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(issuer);
    }

    /// What the token says, if it is in order and of an issuer that is believed.
    pub async fn verify(&self, token: &str) -> Option<Foreign> {
        let name = stated_issuer(token)?;
        let known = |issuers: &Self| issuers.known.read().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        let issuer = known(self)?;
        let header = jsonwebtoken::decode_header(token).ok()?;
        let key = |issuer: &Issuer| {
            let keys = issuer.keys.as_ref()?;
            let found = match &header.kid {
                Some(kid) => keys.find(kid),
                None => keys.keys.first(),
            };
            found.cloned()
        };
        let found = match key(&issuer) {
            Some(found) => found,
            None if issuer.setup.jwks.is_some() => return None,
            None => {
                self.fetch_keys(&name).await?;
                key(&known(self)?)?
            }
        };
        let mut rules = Validation::new(header.alg);
        rules.leeway = 0;
        rules.validate_nbf = true;
        rules.set_issuer(&[&name]);
        rules.validate_aud = !issuer.setup.audience.is_empty();
        if rules.validate_aud {
            rules.set_audience(&issuer.setup.audience.iter().collect::<Vec<_>>());
            rules.required_spec_claims.insert("aud".to_owned());
        }
        let claims = jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(&found).ok()?, &rules).ok()?.claims;
        let principal = claims[&issuer.setup.name_claim].as_str()?.to_owned();
        let scope = match &issuer.setup.roles_claim {
            None => "PRINCIPAL_ROLE:ALL".to_owned(),
            Some(claim) => {
                let roles = claims[claim].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str);
                roles.map(|role| format!("PRINCIPAL_ROLE:{role}")).collect::<Vec<_>>().join(" ")
            }
        };
        Some(Foreign { principal, scope })
    }

    async fn fetch_keys(&self, name: &str) -> Option<()> {
        let discovery = format!("{}/.well-known/openid-configuration", name.trim_end_matches('/'));
        let document: Value = reqwest::get(discovery).await.ok()?.json().await.ok()?;
        let keys: JwkSet = reqwest::get(document["jwks_uri"].as_str()?).await.ok()?.json().await.ok()?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.get_mut(name)?.keys = Some(keys);
        Some(())
    }
}

/// Who a token says that it is of, unchecked: only to know whose keys to check it with.
fn stated_issuer(token: &str) -> Option<String> {
    let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(token).ok()?.claims;
    claims["iss"].as_str().map(str::to_owned)
}
