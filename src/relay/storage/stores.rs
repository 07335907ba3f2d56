//! Owns what the config says of one catalog's stores, whoever asks: addresses, keys of its own, and which stores the catalog may name.
//! Refuses to know tables.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Client;
use url::Url;

use super::access::{Access, FixedError, address, fixed};
use super::config::StoreConfig;
use super::store;
use crate::names::CatalogName;
use crate::relay::config::{Config, RestConfig};
use crate::relay::confine::{is_within, normal};
use crate::relay::error::RelayError;

/// The stores of one catalog.
#[derive(Default)]
pub(in crate::relay) struct Stores {
    sections: Vec<Section>,
    /// By scheme, host and port; `None` for any.
    allowed: Option<HashSet<String>>,
}

/// A part of a catalog's files for which the config says something.
pub(super) struct Section {
    /// Normal spelling; empty for all.
    prefix: String,
    pub(super) config: StoreConfig,
    /// Where other authorities are trusted than the usual ones.
    pub(super) client: Option<Client>,
    /// With keys of its own. Read again from its file or variable after a refusal.
    fixed: Mutex<Option<Arc<Access>>>,
}

impl Stores {
    /// Reads configured keys; asks nobody.
    ///
    /// # Errors
    /// When a section cannot be used.
    pub(in crate::relay) fn new(catalog: &CatalogName, rest: &RestConfig, config: &Config) -> Result<Self, RelayError> {
        let wrong = |reason: String| RelayError::Config { catalog: catalog.clone(), reason: format!("storage: {reason}") };
        let section = |store: &StoreConfig| {
            let prefix = store.location.as_ref().map_or(Some(String::new()), |location| normal(location));
            let prefix = prefix.ok_or_else(|| wrong("location is none such as s3://bucket/path/".to_owned()))?;
            if let Some(endpoint) = store.endpoint.as_ref().filter(|endpoint| address(endpoint).is_none()) {
                return Err(wrong(format!("endpoint \"{endpoint}\" is no address such as https://s3.example.com")));
            }
            let client =
                store.ca_file.as_ref().map(|file| store::client(&config.storage, Some(file))).transpose().map_err(wrong)?;
            let fixed = fixed(store).map_err(|error| match error {
                FixedError::Wrong(reason) => wrong(reason),
                FixedError::Secret(source) => RelayError::Secret { catalog: catalog.clone(), source },
            })?;
            let fixed = Mutex::new(fixed.map(|access| Arc::new(Access { client: client.clone(), ..access })));
            Ok(Section { prefix, config: store.clone(), client, fixed })
        };
        let sections = rest.storage.iter().map(section).collect::<Result<_, _>>()?;
        let named = |text: &String| {
            let endpoint = address(text).ok_or_else(|| wrong(format!("allowed_endpoints: \"{text}\" is no address")))?;
            Ok(origin(&endpoint))
        };
        let allowed = rest.allowed_endpoints.as_ref();
        let allowed = allowed.map(|all| all.iter().map(named).collect::<Result<_, RelayError>>()).transpose()?;
        Ok(Self { sections, allowed })
    }

    /// The section whose prefix is the longest that fits, and that prefix's length.
    pub(super) fn section(&self, location: &str) -> Option<(usize, &Section)> {
        let fitting = self.sections.iter().filter(|section| fits(&section.prefix, location));
        fitting.map(|section| (section.prefix.len(), section)).max_by_key(|(length, _)| *length)
    }

    /// Whether the catalog may name this store.
    ///
    /// # Errors
    /// With the store's name, when it may not.
    pub(super) fn allow(&self, endpoint: &Url) -> Result<(), String> {
        let named = origin(endpoint);
        match &self.allowed {
            Some(allowed) if !allowed.contains(&named) => {
                Err(format!("it names the store {named}, which is not among its allowed_endpoints"))
            }
            _ => Ok(()),
        }
    }
}

impl Section {
    /// Its own keys, if it has any. Refused ones are read again from where they are kept.
    pub(super) fn access(&self, refused: Option<&Access>, catalog: &CatalogName) -> Option<Arc<Access>> {
        let mut current = self.fixed.lock().unwrap_or_else(PoisonError::into_inner);
        let access = current.clone()?;
        if refused.is_some_and(|refused| refused.shows_the_same(&access)) {
            match fixed(&self.config) {
                Ok(Some(again)) => *current = Some(Arc::new(Access { client: self.client.clone(), ..again })),
                Ok(None) => {}
                Err(error) => tracing::warn!(%catalog, %error, "configured keys of a store cannot be read again"),
            }
        }
        current.clone()
    }
}

/// A section without a prefix is for all locations.
fn fits(prefix: &str, location: &str) -> bool {
    prefix.is_empty() || is_within(location, prefix)
}

fn origin(endpoint: &Url) -> String {
    endpoint.origin().ascii_serialization()
}
