//! Owns what the gateway itself reads of a table's past: its metadata, and the manifests of a snapshot, with the access that the
//! caller's credential has. Refuses to open data files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;

use super::store::{Asked, Outcome, StoreFault};
use crate::auth::credential::Credential;
use crate::lake::history::{History, Snapshot};
use crate::lake::{self, LiveFile, ManifestAt};
use crate::names::TableRef;
use crate::relay::Relay;
use crate::relay::cache::Step;
use crate::relay::confine::{Confinement, normal};
use crate::relay::error::CatalogError;
use crate::relay::table::{local_path, outside};
use crate::relay::upstream::Purpose;
use crate::relay::views::View;

/// The longest list of manifests, and the longest manifest, in bytes. Writers aim at manifests of 8 MB.
const MAX_BYTES: u64 = 64 << 20;

/// How many manifests of a snapshot are read at once.
const PARALLEL: usize = 4;

/// One is parsed at a time, whoever asked: a large one takes hundreds of megabytes while it is.
pub(in crate::relay) static PARSING: Semaphore = Semaphore::const_new(1);

impl Relay {
    /// What the metadata of a table say of its past. It takes the right to read its rows.
    ///
    /// # Errors
    /// When the table is not there, must not be read, or cannot be read.
    pub async fn history(&self, credential: &Credential, table: &TableRef) -> Result<History, CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        let whole = self.look(&view, table, Purpose::Data, Step::begins(), false).await?.whole.clone();
        let bad = |reason: String| bad(table, &reason);
        let read = tokio::task::spawn_blocking(move || History::read(&whole)).await.map_err(|panic| bad(panic.to_string()))?;
        read.map_err(|error| bad(format!("its metadata cannot be read: {error}")))
    }

    /// Reads the files of a snapshot, manifest by manifest in their order, and hands them to `take` until that says `false`.
    ///
    /// # Errors
    /// When a manifest lies outside the catalog's storage, or cannot be read.
    pub async fn live_files(
        &self,
        credential: &Credential,
        table: &TableRef,
        snapshot: &Snapshot,
        mut take: impl FnMut(Vec<LiveFile>) -> bool + Send,
    ) -> Result<(), CatalogError> {
        let view = self.view(credential, &table.catalog)?;
        let location = snapshot.manifest_list.as_ref().ok_or_else(|| bad(table, "its snapshot has no manifest list"))?;
        let list = self.metadata_file(&view, table, "a manifest list", location).await?;
        let manifests = parsed(table, "manifest list", move || lake::manifest_list(&list)).await?;
        let read = futures::stream::iter(manifests).map(|manifest| self.manifest(&view, table, manifest));
        let mut read = std::pin::pin!(read.buffered(PARALLEL));
        while let Some(files) = read.try_next().await? {
            if !take(files) {
                break;
            }
        }
        Ok(())
    }

    async fn manifest(&self, view: &Arc<View>, table: &TableRef, manifest: ManifestAt) -> Result<Vec<LiveFile>, CatalogError> {
        let bytes = self.metadata_file(view, table, "a manifest", &manifest.location).await?;
        parsed(table, "manifest", move || lake::live_files(&manifest, &bytes)).await
    }

    async fn metadata_file(&self, view: &Arc<View>, table: &TableRef, what: &str, location: &str) -> Result<Bytes, CatalogError> {
        outside(table, what, location, &view.confinement)?;
        let unread = |reason: String| bad(table, &format!("{what} of it cannot be read: {reason}"));
        if let Some(path) = normal(location).filter(|location| location.starts_with("file:")).as_deref().and_then(local_path) {
            let confinement = Arc::clone(&view.confinement);
            let read = tokio::task::spawn_blocking(move || local_file(&path, &confinement)).await;
            return read.map_err(|panic| unread(panic.to_string()))?.map_err(|error| unread(error.to_string()));
        }
        let asked = Asked::file(location).ok_or_else(|| unread("it has no place in a store".to_owned()))?;
        let fault = |fault: StoreFault| match fault {
            StoreFault::Access(error) => error,
            fault => unread(fault.to_string()),
        };
        match self.store.ask(&view.storage, asked).await.map_err(fault)? {
            Outcome::Refused(refused) => Err(unread(refused.to_string())),
            Outcome::Served(served) => {
                let body = self.store.body(Arc::clone(&view.storage), *served).map_err(fault);
                let whole = body.try_fold(BytesMut::new(), |mut whole, part| async move {
                    if (whole.len() + part.len()) as u64 > MAX_BYTES {
                        return Err(unread(too_long()));
                    }
                    whole.extend_from_slice(&part);
                    Ok(whole)
                });
                Ok(whole.await?.freeze())
            }
        }
    }
}

/// Parses on a thread that may block.
async fn parsed<T: Send + 'static>(
    table: &TableRef,
    what: &str,
    parse: impl FnOnce() -> Option<T> + Send + 'static,
) -> Result<T, CatalogError> {
    let turn = PARSING.acquire().await.ok();
    let parsed = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        parse()
    });
    let parsed = parsed.await.ok().flatten();
    parsed.ok_or_else(|| bad(table, &format!("a {what} of it is none that can be read")))
}

/// Reads a file of this machine, unless a link leads out of the catalog's places.
fn local_file(path: &Path, confinement: &Confinement) -> std::io::Result<Bytes> {
    let real = path.canonicalize()?;
    let places = confinement.prefixes().iter().filter_map(|prefix| local_path(prefix)?.canonicalize().ok());
    let is_inside = places.collect::<Vec<PathBuf>>().iter().any(|place| real.starts_with(place));
    let about = real.metadata()?;
    if !is_inside || !about.is_file() {
        return Err(std::io::Error::other("it is no file in the catalog's own place"));
    }
    if about.len() > MAX_BYTES {
        return Err(std::io::Error::other(too_long()));
    }
    std::fs::read(real).map(Bytes::from)
}

fn too_long() -> String {
    format!("it is longer than {} MB", MAX_BYTES >> 20)
}

fn bad(table: &TableRef, reason: &str) -> CatalogError {
    CatalogError::BadAnswer { catalog: table.catalog.clone(), reason: format!("table \"{table}\": {reason}") }
}
