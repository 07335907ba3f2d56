//! Owns a catalog that knows clients and tokens, for tests of who is let in. Counts how often it is asked, and can be down.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::auth::credential::{Credential, Own};
use crate::auth::realm::{RealmFault, Realms};
use crate::names::RealmName;
use crate::secret::ExposeSecret;

/// The realm of all that it knows.
pub const REALM: &str = "lakehouse";

#[derive(Default)]
pub struct Catalog {
    /// `id:secret` of clients, and tokens.
    pub knows: Mutex<BTreeSet<String>>,
    pub asked: AtomicUsize,
    pub down: AtomicBool,
    /// It asks for no token.
    pub open: AtomicBool,
    /// Whose principals they are; [`REALM`] when not given.
    realm: Option<RealmName>,
}

impl Catalog {
    pub fn knowing(what: &[&str]) -> Arc<Self> {
        Self::of_realm(REALM, what)
    }

    /// The same in another realm.
    pub fn of_realm(realm: &str, what: &[&str]) -> Arc<Self> {
        let catalog = Self { realm: Some(realm.into()), ..Self::default() };
        catalog.knows.lock().unwrap().extend(what.iter().map(|&known| known.to_owned()));
        Arc::new(catalog)
    }

    /// How often it was asked since the last look.
    pub fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

#[async_trait]
impl Realms for Catalog {
    fn realms(&self) -> Vec<RealmName> {
        vec![self.realm.clone().unwrap_or_else(|| REALM.into())]
    }

    async fn prove(&self, credential: &Credential) -> Result<(), RealmFault> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        if self.down.load(Ordering::Relaxed) {
            return Err(RealmFault::Unavailable("it does not answer".to_owned()));
        }
        let shown = match credential.own() {
            Own::Client { client_id, client_secret, .. } => format!("{client_id}:{}", client_secret.expose_secret()),
            Own::Token { current, .. } => current.get().secret.expose_secret().to_owned(),
            Own::Service | Own::Nothing => return Err(RealmFault::Refused("it has shown nothing".to_owned())),
        };
        let known = self.open.load(Ordering::Relaxed) || self.knows.lock().unwrap().contains(&shown);
        if known { Ok(()) } else { Err(RealmFault::Refused("it is not known".to_owned())) }
    }
}
