//! Owns manifests that are read ahead of a worker. DuckDB's Iceberg extension ends its process when it cannot read a manifest, and all
//! statements in it; a manifest list that it cannot read fails the one statement. So a list is given out only when its manifests are
//! here. Refuses to read ahead more than a few: a statement may need some of many.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};

use super::store::{Asked, Outcome, PASSED_BACK, StoreFault};
use crate::lake;
use crate::relay::Relay;
use crate::relay::confine::normal;
use crate::relay::views::View;

/// Manifests that are read ahead for one list, their bytes, and how many at once.
const MAX_MANIFESTS: usize = 32;
const MAX_BYTES: u64 = 8 << 20;
const PARALLEL: usize = 8;

/// A list above this is passed through as it comes.
const MAX_LIST: u64 = 4 << 20;

/// What is kept of all workers' manifests, and how long: a worker asks for them at once, and keeps them itself.
const KEPT_BYTES: u64 = 64 << 20;
const KEPT: Duration = Duration::from_secs(60);

/// A file that was read whole.
#[derive(Clone)]
pub(in crate::relay) struct Whole {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Manifests by who may see them and where they lie. They never change.
pub(in crate::relay) struct Ahead(moka::sync::Cache<(String, String), Whole>);

impl Default for Ahead {
    fn default() -> Self {
        let weight = |_: &(String, String), whole: &Whole| u32::try_from(whole.body.len() + 1024).unwrap_or(u32::MAX);
        Self(moka::sync::Cache::builder().max_capacity(KEPT_BYTES).weigher(weight).time_to_live(KEPT).build())
    }
}

impl Ahead {
    /// What was read ahead.
    pub(super) fn get(&self, view: &View, asked: &Asked) -> Option<Whole> {
        let reads = matches!(asked.method, Method::GET | Method::HEAD) && asked.range.is_none();
        if reads { self.0.get(&key(view, &asked.location)) } else { None }
    }
}

/// Whether a file is a manifest list, by the name that every writer gives one.
pub(super) fn is_list(asked: &Asked) -> bool {
    let name = asked.key.rsplit('/').next().unwrap_or_default();
    asked.method == Method::GET && asked.range.is_none() && name.starts_with("snap-") && name.ends_with(".avro")
}

/// Reads the manifests of a list that a store is giving; gives the list. `None` when the store refused it or it is too long.
///
/// # Errors
/// When the list or a manifest cannot be had.
pub(super) async fn read(relay: &Arc<Relay>, view: &Arc<View>, list: Asked) -> Result<Option<Whole>, StoreFault> {
    let Some(whole) = fetch(relay, view, list, MAX_LIST).await? else { return Ok(None) };
    let bytes = whole.body.clone();
    // What cannot be read here is DuckDB's to complain of.
    let named = tokio::task::spawn_blocking(move || lake::manifests(&bytes)).await.ok().flatten().unwrap_or_default();
    let bytes = named.iter().fold(0_u64, |sum, (_, length)| sum.saturating_add(*length));
    if named.len() > MAX_MANIFESTS || bytes > MAX_BYTES {
        return Ok(Some(whole));
    }
    let missing = named.iter().filter(|(location, _)| view.confinement.allows(location));
    let missing = missing.filter(|(location, _)| relay.ahead.0.get(&key(view, location)).is_none());
    let asked: Vec<Asked> = missing.filter_map(|(location, _)| Asked::file(location)).collect();
    let (relay, view) = (Arc::clone(relay), Arc::clone(view));
    let read = move |manifest: Asked| keep(Arc::clone(&relay), Arc::clone(&view), manifest);
    futures::stream::iter(asked).map(read).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    Ok(Some(whole))
}

async fn keep(relay: Arc<Relay>, view: Arc<View>, manifest: Asked) -> Result<(), StoreFault> {
    let at = key(&view, &manifest.location);
    if let Some(whole) = fetch(&relay, &view, manifest, MAX_BYTES).await? {
        relay.ahead.0.insert(at, whole);
    }
    Ok(())
}

async fn fetch(relay: &Arc<Relay>, view: &Arc<View>, asked: Asked, limit: u64) -> Result<Option<Whole>, StoreFault> {
    let Outcome::Served(served) = relay.store.ask(&view.storage, asked).await? else { return Ok(None) };
    let is_short = served.response.content_length().is_some_and(|length| length <= limit);
    if served.response.status() != StatusCode::OK || !is_short {
        return Ok(None);
    }
    let mut headers = HeaderMap::new();
    for name in PASSED_BACK {
        if let Some(value) = served.response.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let body = relay.store.body(Arc::clone(&view.storage), *served);
    let body = body.try_fold(BytesMut::new(), |mut all, part| async move {
        all.extend_from_slice(&part);
        Ok(all)
    });
    Ok(Some(Whole { headers, body: body.await?.freeze() }))
}

fn key(view: &View, location: &str) -> (String, String) {
    (format!("{} {}", view.upstream.name(), view.viewer.as_str()), normal(location).unwrap_or_default())
}
