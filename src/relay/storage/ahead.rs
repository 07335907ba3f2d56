//! Owns manifest lists and manifests that are read ahead of workers, and kept for those that come later: these files never change.
//! DuckDB's Iceberg extension ends its process when it cannot read a manifest, and all statements in it; a manifest list that it cannot
//! read fails the one statement. So a list is given out only when its manifests are here. Refuses to read ahead more than a few: a
//! statement may need some of many.
//!
//! Reading begins when a table is loaded, for all tables of a statement at once, while the worker still binds; DuckDB would read one
//! after the other. A file is read once, however many wait for it. Then the ends of the data files follow, where they are few.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::ends::Ends;
use super::store::{Asked, Outcome, PASSED_BACK, Store, StoreFault};
use crate::lake;
use crate::relay::confine::normal;
use crate::relay::views::View;

/// Manifests that are read ahead for one list, their bytes, and how many at once.
const MAX_MANIFESTS: usize = 32;
const MAX_BYTES: u64 = 8 << 20;
const PARALLEL: usize = 8;

/// Lists that are begun before a worker asks, at once: what is on its way is in memory. Of more, workers ask themselves.
const MAX_BEGUN: usize = 16;

/// A list above this is passed through as it comes.
const MAX_LIST: u64 = 4 << 20;

/// A manifest above this names many files, of whose ends none are read ahead.
const MAX_PARSED: usize = 64 << 10;

/// What is kept of all workers' lists and manifests, and how long. A worker keeps what it has read itself; this is for the others.
const KEPT_BYTES: u64 = 64 << 20;
const KEPT: Duration = Duration::from_secs(600);

/// A file that was read whole.
#[derive(Clone)]
pub(super) struct Whole {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What a list or a short manifest names: locations, and their lengths.
    names: Arc<[(String, u64)]>,
}

impl Whole {
    /// A part of a file, which is all of it that was asked for.
    pub(super) fn part(headers: HeaderMap, body: Bytes) -> Self {
        Self { status: StatusCode::PARTIAL_CONTENT, headers, body, names: Arc::default() }
    }
}

/// Who may see a file, and where it lies.
pub(super) type At = (String, String);

/// Lists and manifests that are here, or on their way.
pub(in crate::relay) struct Ahead {
    store: Arc<Store>,
    files: moka::future::Cache<At, Whole>,
    ends: Ends,
    begun: Arc<Semaphore>,
}

/// Why a file is not here.
enum Missed {
    /// The store refused it, or it is too long: whoever wants it is to ask for it again.
    NotKept,
    Fault(StoreFault),
}

impl Ahead {
    pub(in crate::relay) fn new(store: Arc<Store>) -> Arc<Self> {
        let weight = |_: &At, whole: &Whole| u32::try_from(whole.body.len() + 1024).unwrap_or(u32::MAX);
        let files = moka::future::Cache::builder().max_capacity(KEPT_BYTES).weigher(weight).time_to_live(KEPT).build();
        let ends = Ends::new(Arc::clone(&store));
        Arc::new(Self { store, files, ends, begun: Arc::new(Semaphore::new(MAX_BEGUN)) })
    }

    /// Begins to read a list that a worker will ask for soon, and what it names. What cannot be had is the worker's to learn.
    pub(in crate::relay) fn begin(self: &Arc<Self>, view: &Arc<View>, list: &str) {
        let is_in_store = normal(list).is_some_and(|list| list.starts_with("s3://") || list.starts_with("gs://"));
        let Some(asked) = Asked::file(list).filter(|asked| is_in_store && is_list(asked)) else { return };
        if !view.confinement.allows(list) || self.files.contains_key(&at(view, list)) {
            return;
        }
        let Ok(place) = Arc::clone(&self.begun).try_acquire_owned() else { return };
        let (ahead, view) = (Arc::clone(self), Arc::clone(view));
        tokio::spawn(async move {
            let _place = place;
            match ahead.list(&view, &asked).await {
                Ok(list) => ahead.begin_ends(&view, list.iter().flat_map(|list| list.names.iter())).await,
                Err(fault) => tracing::debug!(location = asked.location, %fault, "a manifest list cannot be read ahead"),
            }
        });
    }

    /// A file that is here, or a list once its manifests are; `None` when it is to be asked for. Only for who has access to it that a
    /// store would take: what is here is not seen for longer than what is there.
    ///
    /// # Errors
    /// When there is no access to it, or the list or a manifest cannot be had.
    pub(super) async fn get(&self, view: &Arc<View>, asked: &Asked) -> Result<Option<Whole>, StoreFault> {
        if !matches!(asked.method, Method::GET | Method::HEAD) {
            return Ok(None);
        }
        if asked.range.is_some() {
            return self.ends.get(view, asked).await;
        }
        if is_list(asked) {
            view.storage.access(&asked.location, None).await?;
            return self.list(view, asked).await;
        }
        let Some(whole) = self.files.get(&at(view, &asked.location)).await else { return Ok(None) };
        view.storage.access(&asked.location, None).await?;
        Ok(Some(whole))
    }

    /// Begins to read the ends of what these manifests name, if they are here.
    async fn begin_ends(&self, view: &Arc<View>, manifests: impl Iterator<Item = &(String, u64)>) {
        let mut files = Vec::new();
        for (location, _) in manifests {
            let Some(manifest) = self.files.get(&at(view, location)).await else { return };
            files.extend_from_slice(&manifest.names);
        }
        self.ends.begin(view, &files);
    }

    async fn list(&self, view: &Arc<View>, asked: &Asked) -> Result<Option<Whole>, StoreFault> {
        let Some(list) = self.whole(view, asked.clone(), MAX_LIST).await? else { return Ok(None) };
        let bytes = list.names.iter().fold(0_u64, |sum, (_, length)| sum.saturating_add(*length));
        if list.names.len() > MAX_MANIFESTS || bytes > MAX_BYTES {
            return Ok(Some(list));
        }
        let allowed = list.names.iter().filter(|(location, _)| view.confinement.allows(location));
        let asked: Vec<Asked> = allowed.filter_map(|(location, _)| Asked::file(location)).collect();
        let read = |manifest: Asked| async move { self.whole(view, manifest, MAX_BYTES).await.map(drop) };
        futures::stream::iter(asked).map(read).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        Ok(Some(list))
    }

    /// A file, from here or from its store; `None` when it cannot be kept.
    async fn whole(&self, view: &Arc<View>, asked: Asked, limit: u64) -> Result<Option<Whole>, StoreFault> {
        match self.files.try_get_with(at(view, &asked.location), fetch(&self.store, view, asked, limit)).await {
            Ok(whole) => Ok(Some(whole)),
            Err(missed) => match &*missed {
                Missed::NotKept => Ok(None),
                Missed::Fault(fault) => Err(fault.clone()),
            },
        }
    }
}

async fn fetch(store: &Arc<Store>, view: &Arc<View>, asked: Asked, limit: u64) -> Result<Whole, Missed> {
    let is_list = is_list(&asked);
    let Outcome::Served(served) = store.ask(&view.storage, asked).await? else { return Err(Missed::NotKept) };
    let is_short = served.response.content_length().is_some_and(|length| length <= limit);
    if served.response.status() != StatusCode::OK || !is_short {
        return Err(Missed::NotKept);
    }
    let mut headers = HeaderMap::new();
    for name in PASSED_BACK {
        if let Some(value) = served.response.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let body = store.body(Arc::clone(&view.storage), *served);
    let body = body.try_fold(BytesMut::new(), |mut all, part| async move {
        all.extend_from_slice(&part);
        Ok(all)
    });
    let body = body.await?.freeze();
    let names = named(is_list, &body).await;
    Ok(Whole { status: StatusCode::OK, headers, body, names })
}

/// What a list, or a manifest of a few files, names. What cannot be read here is DuckDB's to complain of.
async fn named(is_list: bool, body: &Bytes) -> Arc<[(String, u64)]> {
    let read = if is_list { lake::manifests } else { lake::files };
    if !is_list && body.len() > MAX_PARSED {
        return Arc::default();
    }
    let bytes = body.clone();
    let named = tokio::task::spawn_blocking(move || read(&bytes)).await;
    named.ok().flatten().unwrap_or_default().into()
}

impl From<StoreFault> for Missed {
    fn from(fault: StoreFault) -> Self {
        Self::Fault(fault)
    }
}

/// Whether a file is a manifest list, by the name that every writer gives one.
fn is_list(asked: &Asked) -> bool {
    let name = asked.key.rsplit('/').next().unwrap_or_default();
    asked.method == Method::GET && asked.range.is_none() && name.starts_with("snap-") && name.ends_with(".avro")
}

pub(super) fn at(view: &View, location: &str) -> At {
    (format!("{} {}", view.upstream.name(), view.viewer.as_str()), normal(location).unwrap_or_default())
}
