//! Owns what the gateway itself reads of a table's past: its metadata, and the manifests of a snapshot, with the access that the
//! caller's credential has. Refuses to open data files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::store::{Asked, Outcome, StoreFault};
use super::turns::in_turn;
use crate::as_of::AsOf;
use crate::auth::credential::Credential;
use crate::lake::history::{History, Snapshot};
use crate::lake::{self, LiveFile, ManifestAt, Unreadable};
use crate::names::TableRef;
use crate::relay::Relay;
use crate::relay::cache::Step;
use crate::relay::confine::{Confinement, normal};
use crate::relay::error::CatalogError;
use crate::relay::table::{local_path, outside};
use crate::relay::upstream::Purpose;
use crate::relay::views::View;

/// The longest list of manifests, in bytes.
const MAX_LIST_BYTES: u64 = 16 << 20;
/// The longest manifest, in bytes. Writers aim at 8 MB.
const MAX_BYTES: u64 = 64 << 20;
/// How much longer than its list says a manifest may be: some writers leave a part out.
const SLACK_BYTES: u64 = 64 << 10;

/// What lists and manifests may take that are held as bytes, whoever asked, in kilobytes. It is taken before a file is asked for.
const HELD_KB: u32 = 256 << 10;
static HELD: Semaphore = Semaphore::const_new(HELD_KB as usize);

/// How many manifests of a snapshot are read at once.
const PARALLEL: usize = 4;

/// One is parsed at a time, whoever asked: a large one takes hundreds of megabytes while it is.
pub(in crate::relay) static PARSING: Semaphore = Semaphore::const_new(1);

impl Relay {
    /// What the metadata of a table say of its past, for a statement that began then. It takes the right to read its rows.
    ///
    /// # Errors
    /// When the table is not there, must not be read, or cannot be read.
    pub async fn history(&self, credential: &Credential, table: &TableRef, begun: Instant) -> Result<History, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        let whole = self.look(&view, table, Purpose::Data, Step::Begun(begun), false).await?.whole.clone();
        let bad = |reason: String| bad(table, &reason);
        let then = AsOf::from_ms(AsOf::now().ms() - i64::try_from(begun.elapsed().as_millis()).unwrap_or(0) - 1);
        let read =
            tokio::task::spawn_blocking(move || History::read(&whole, then)).await.map_err(|panic| bad(panic.to_string()))?;
        read.map_err(|error| bad(format!("its metadata cannot be read: {error}")))
    }

    /// Reads the files of a snapshot, manifest by manifest in their order, and folds them into `state` until that says `false`, on a thread
    /// that may block.
    ///
    /// # Errors
    /// When a manifest lies outside the catalog's storage, or cannot be read.
    pub async fn live_files<S: Send + 'static>(
        &self,
        credential: &Credential,
        table: &TableRef,
        snapshot: &Snapshot,
        mut state: S,
        fold: fn(&mut S, Vec<LiveFile>) -> bool,
    ) -> Result<S, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        let location = snapshot.manifest_list.as_ref().ok_or_else(|| bad(table, "its snapshot has no manifest list"))?;
        let list = self.metadata_file(&view, table, "a manifest list", location, MAX_LIST_BYTES).await?;
        let manifests = parsed(table, "manifest list", move || lake::manifest_list(&list.bytes)).await?;
        let read = futures::stream::iter(manifests).map(|manifest| self.manifest(&view, table, manifest));
        let mut read = std::pin::pin!(read.buffered(PARALLEL));
        while let Some(files) = read.try_next().await? {
            let folded = tokio::task::spawn_blocking(move || {
                let goes_on = fold(&mut state, files);
                (state, goes_on)
            });
            let goes_on;
            (state, goes_on) = folded.await.map_err(|panic| bad(table, &panic.to_string()))?;
            if !goes_on {
                break;
            }
        }
        Ok(state)
    }

    async fn manifest(&self, view: &Arc<View>, table: &TableRef, manifest: ManifestAt) -> Result<Vec<LiveFile>, CatalogError> {
        if manifest.length > MAX_BYTES {
            return Err(bad(table, &format!("a manifest of it cannot be read: {}", too_long(MAX_BYTES))));
        }
        let most = manifest.length + SLACK_BYTES;
        let file = self.metadata_file(view, table, "a manifest", &manifest.location, most).await?;
        parsed(table, "manifest", move || lake::live_files(&manifest, &file.bytes)).await
    }

    /// Reads a file of at most so many bytes, once there is room for them.
    async fn metadata_file(
        &self,
        view: &Arc<View>,
        table: &TableRef,
        what: &str,
        location: &str,
        most: u64,
    ) -> Result<Held, CatalogError> {
        outside(table, what, location, &view.confinement)?;
        let room = room_for(most).await;
        let unread = |reason: String| bad(table, &format!("{what} of it cannot be read: {reason}"));
        if let Some(path) = normal(location).filter(|location| location.starts_with("file:")).as_deref().and_then(local_path) {
            let confinement = Arc::clone(&view.confinement);
            let read = tokio::task::spawn_blocking(move || local_file(&path, &confinement, most)).await;
            let bytes = read.map_err(|panic| unread(panic.to_string()))?.map_err(|error| unread(error.to_string()))?;
            return Ok(Held { bytes, _room: room });
        }
        let asked = Asked::file(location).ok_or_else(|| unread("it has no place in a store".to_owned()))?;
        let fault = |fault: StoreFault| match fault {
            StoreFault::Access(error) => error,
            fault => unread(fault.to_string()),
        };
        match self.store.ask(&view.storage, asked).await.map_err(fault)? {
            Outcome::Refused(refused) => Err(unread(refused.to_string())),
            Outcome::Served(served) => {
                let whole = self.store.whole(&view.storage, *served, most).await.map_err(fault)?;
                let bytes = whole.ok_or_else(|| unread(too_long(most)))?;
                Ok(Held { bytes, _room: room })
            }
        }
    }
}

/// A file that is held as bytes, and the room that it takes.
struct Held {
    bytes: Bytes,
    _room: Option<SemaphorePermit<'static>>,
}

/// Waits until so many bytes may be held.
async fn room_for(bytes: u64) -> Option<SemaphorePermit<'static>> {
    let kb = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(HELD_KB).min(HELD_KB);
    // Nobody closes it.
    HELD.acquire_many(kb).await.ok()
}

/// Parses on a thread that may block.
async fn parsed<T: Send + 'static>(
    table: &TableRef,
    what: &str,
    parse: impl FnOnce() -> Result<T, Unreadable> + Send + 'static,
) -> Result<T, CatalogError> {
    let parsed = in_turn(&PARSING, parse).await.unwrap_or(Err(Unreadable::Broken));
    parsed.map_err(|reason| bad(table, &format!("a {what} of it cannot be read: {reason}")))
}

/// Reads a file of this machine, unless a link leads out of the catalog's places.
fn local_file(path: &Path, confinement: &Confinement, most: u64) -> std::io::Result<Bytes> {
    let real = path.canonicalize()?;
    let places = confinement.prefixes().iter().filter_map(|prefix| local_path(prefix)?.canonicalize().ok());
    let is_inside = places.collect::<Vec<PathBuf>>().iter().any(|place| real.starts_with(place));
    let about = real.metadata()?;
    if !is_inside || !about.is_file() {
        return Err(std::io::Error::other("it is no file in the catalog's own place"));
    }
    if about.len() > most {
        return Err(std::io::Error::other(too_long(most)));
    }
    std::fs::read(real).map(Bytes::from)
}

fn too_long(most: u64) -> String {
    format!("it is longer than {most} bytes, which is what it may take")
}

fn bad(table: &TableRef, reason: &str) -> CatalogError {
    CatalogError::BadAnswer { catalog: table.catalog.clone(), reason: format!("table \"{table}\": {reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_bytes_are_held_and_the_next_file_waits() {
        let held: Vec<_> = futures::future::join_all((0..4).map(|_| room_for(MAX_BYTES))).await;
        assert!(held.iter().all(Option::is_some));
        let mut next = std::pin::pin!(room_for(1));
        assert!(futures::poll!(&mut next).is_pending(), "there is no room left");
        drop(held);
        assert!(next.await.is_some());
        assert!(room_for(u64::MAX).await.is_some(), "what says that it is longer than all waits for all, not for ever");
    }
}
