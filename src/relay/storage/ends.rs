//! Owns the ends of data files that are read ahead of a worker: there a Parquet file says what is in it, and a small one is there whole.
//! DuckDB reads them one table after the other. Refuses to read ahead of more than a few files, and to keep what is read for long: a
//! worker asks for it at once, and keeps it itself.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::ahead::{At, Whole, at};
use super::store::{Asked, Outcome, Store, StoreFault};
use crate::relay::views::View;

/// Files of one table that are read ahead.
pub(super) const MAX_FILES: usize = 8;

/// What DuckDB reads first of a Parquet file, from its end.
const END: u64 = 16 << 10;

/// A file that is not longer is read whole.
const SMALL: u64 = 64 << 10;

/// Ends that are on their way at once, of all tables. Of more, workers ask themselves.
const MAX_COMING: usize = 128;

/// What is kept of all workers' files, and how long.
const KEPT_BYTES: u64 = 16 << 20;
const KEPT: Duration = Duration::from_secs(30);

/// An end that is here or on its way.
#[derive(Clone)]
struct Coming {
    /// Offset of its first byte.
    from: u64,
    /// Of the file.
    length: u64,
    /// `None` when it cannot be had: whoever wants it is to ask.
    part: Shared<BoxFuture<'static, Option<Part>>>,
}

#[derive(Clone)]
struct Part {
    headers: HeaderMap,
    body: Bytes,
}

/// The ends of files.
pub(super) struct Ends {
    store: Arc<Store>,
    coming: moka::sync::Cache<At, Coming>,
    begun: Arc<Semaphore>,
}

impl Ends {
    pub(super) fn new(store: Arc<Store>) -> Self {
        let weight = |_: &At, coming: &Coming| u32::try_from(coming.length - coming.from + 1024).unwrap_or(u32::MAX);
        let coming = moka::sync::Cache::builder().max_capacity(KEPT_BYTES).weigher(weight).time_to_live(KEPT).build();
        Self { store, coming, begun: Arc::new(Semaphore::new(MAX_COMING)) }
    }

    /// Begins to read the ends of these files, each with its length: a few, as who asks sees to.
    pub(super) fn begin(&self, view: &Arc<View>, files: &[(String, u64)]) {
        let parquet = |(location, length): &&(String, u64)| location.ends_with(".parquet") && *length > 0;
        for (location, length) in files.iter().filter(parquet) {
            let at = at(view, location);
            let Some(asked) = Asked::file(location).filter(|_| view.confinement.allows(location)) else { continue };
            if self.coming.contains_key(&at) {
                continue;
            }
            let Ok(place) = Arc::clone(&self.begun).try_acquire_owned() else { return };
            let from = if *length <= SMALL { 0 } else { length - END };
            let asked = Asked { range: Some((from, Some(length - 1))), ..asked };
            let (store, view, length) = (Arc::clone(&self.store), Arc::clone(view), *length);
            let part = async move {
                let _place = place;
                // Who waits for it would wait for ever if it broke.
                let part = AssertUnwindSafe(read(&store, &view, asked, length - from)).catch_unwind().await;
                part.ok()?.ok().flatten()
            };
            let part = part.boxed().shared();
            self.coming.insert(at, Coming { from, length, part: part.clone() });
            tokio::spawn(part);
        }
    }

    /// A part of a file that lies in its end.
    ///
    /// # Errors
    /// When there is no access to the file.
    pub(super) async fn get(&self, view: &Arc<View>, asked: &Asked) -> Result<Option<Whole>, StoreFault> {
        let (Some((from, Some(to))), &Method::GET) = (asked.range, &asked.method) else { return Ok(None) };
        let Some(coming) = self.coming.get(&at(view, &asked.location)) else { return Ok(None) };
        if from < coming.from || to >= coming.length {
            return Ok(None);
        }
        view.storage.access(&asked.location, None).await?;
        let Some(Part { headers, body }) = coming.part.await else { return Ok(None) };
        let within = |offset: u64| usize::try_from(offset - coming.from).unwrap_or(usize::MAX);
        if within(to) >= body.len() {
            return Ok(None);
        }
        let body = body.slice(within(from)..=within(to));
        Ok(head_of(headers, from, to, coming.length).map(|headers| Whole::part(headers, body)))
    }
}

/// The head of a part of what was read: its own range and length in place of those of the whole end.
fn head_of(mut headers: HeaderMap, from: u64, to: u64, of: u64) -> Option<HeaderMap> {
    headers.insert(header::CONTENT_RANGE, HeaderValue::try_from(format!("bytes {from}-{to}/{of}")).ok()?);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(to - from + 1));
    Some(headers)
}

/// `None` when the store refuses it, or gives less.
async fn read(store: &Arc<Store>, view: &Arc<View>, asked: Asked, length: u64) -> Result<Option<Part>, StoreFault> {
    let Outcome::Served(served) = store.ask(&view.storage, asked).await? else { return Ok(None) };
    if served.response.status() != StatusCode::PARTIAL_CONTENT || served.response.content_length() != Some(length) {
        return Ok(None);
    }
    let headers = served.passed_back();
    Ok(store.whole(&view.storage, *served, length).await?.map(|body| Part { headers, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_one_range_its_own() {
        let mut whole = HeaderMap::new();
        whole.insert(header::CONTENT_RANGE, HeaderValue::from_static("bytes 0-1954/1955"));
        whole.insert(header::CONTENT_LENGTH, HeaderValue::from_static("1955"));
        whole.insert(header::ETAG, HeaderValue::from_static("\"x\""));
        let head = head_of(whole, 1900, 1954, 1955).unwrap();
        let all = |name: header::HeaderName| head.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all(header::CONTENT_RANGE), ["bytes 1900-1954/1955"]);
        assert_eq!(all(header::CONTENT_LENGTH), ["55"]);
        assert_eq!(all(header::ETAG), ["\"x\""]);
    }
}
