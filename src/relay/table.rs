//! Owns one table as a catalog gave it, made ready for workers: checked for where it points, stripped of credentials, whole and
//! trimmed. Refuses to know how old it is.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

use super::confine::{Confinement, normal};
use super::error::CatalogError;
use super::storage::turns::in_turn;
use super::storage::{Handed, Storage};
use crate::lake::{self, Column, order, size, trim};
use crate::names::{CatalogName, TableRef};

/// An answer above this is parsed on a thread that may block.
pub(super) const LARGE_BYTES: usize = 256 << 10;

/// Of metadata larger than this, in bytes, two are read at once; more wait. While it is read it takes some times its size, and what a
/// hostile catalog makes of it much more.
const HUGE_BYTES: usize = 8 << 20;
static READING_HUGE: Semaphore = Semaphore::const_new(2);

/// Reads metadata of so many bytes on a thread that may block.
async fn on_thread<T: Send + 'static>(length: usize, read: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if length > HUGE_BYTES { in_turn(&READING_HUGE, read).await } else { spawn_blocking(read).await }
}

/// Table properties that say where files are written.
pub(super) const PLACE_PROPERTIES: [&str; 4] =
    ["write.data.path", "write.metadata.path", "write.object-storage.path", "write.folder-storage.path"];

/// A table, ready to be handed to workers.
#[derive(Debug)]
pub(super) struct Table {
    /// The catalog's own mark of this state.
    pub(super) etag: Option<String>,
    /// The load answer with full metadata; its `config` is empty.
    pub(super) whole: Bytes,
    /// When it was changed last, if the times of its history agree with their order.
    last_ms: Option<i64>,
    /// The load answer with trimmed and backdated metadata; its `config` is empty.
    pub(super) trimmed: Bytes,
    /// The current columns, or why they cannot be read.
    pub(super) columns: Result<Arc<[Column]>, String>,
    /// Bytes in the data files of the current snapshot, estimated.
    pub(super) data_bytes: u64,
    /// `last-updated-ms` of the metadata.
    pub(super) last_updated_ms: i64,
    /// Its directory, when it lies on this machine's file system.
    directory: Option<PathBuf>,
    /// The scheme of its location, when workers cannot read there.
    unread_scheme: Option<String>,
    /// Where its files lie.
    places: Vec<String>,
    /// What was handed out with it, until it is noted by who keeps it.
    handed: Mutex<Option<Handed>>,
    /// The manifest list of the current snapshot, until somebody begins to read it.
    list: Mutex<Option<String>>,
}

/// The load answer as a catalog sends it. Everything else in it, above all `config` and `storage-credentials`, stays here: a
/// left-over setting would make DuckDB create a secret that hides the worker's own.
#[derive(Deserialize)]
struct LoadAnswer<'a> {
    #[serde(rename = "metadata-location", default)]
    location: Option<String>,
    #[serde(borrow)]
    metadata: &'a RawValue,
}

impl Table {
    /// Reads a load or create answer.
    ///
    /// # Errors
    /// `BadAnswer` when it cannot be read, `OutsideLocation` when it points out of the catalog's storage.
    pub(super) async fn read(
        table: TableRef,
        answer: Bytes,
        etag: Option<String>,
        confinement: Arc<Confinement>,
    ) -> Result<Self, CatalogError> {
        if answer.len() < LARGE_BYTES {
            return Self::read_now(&table, &answer, etag, &confinement);
        }
        let catalog = table.catalog.clone();
        on_thread(answer.len(), move || Self::read_now(&table, &answer, etag, &confinement))
            .await
            .unwrap_or_else(|panic| Err(CatalogError::BadAnswer { catalog, reason: panic.to_string() }))
    }

    fn read_now(table: &TableRef, answer: &[u8], etag: Option<String>, confinement: &Confinement) -> Result<Self, CatalogError> {
        let catalog = &table.catalog;
        let bad = |reason: String| CatalogError::BadAnswer { catalog: catalog.clone(), reason };
        let unread = |error: serde_json::Error| bad(format!("the metadata of table \"{table}\" cannot be read: {error}"));
        let handed = Handed::in_answer(answer);
        let answer: LoadAnswer<'_> = serde_json::from_slice(answer).map_err(unread)?;
        let mut metadata: Value = serde_json::from_str(answer.metadata.get()).map_err(unread)?;
        if !metadata.is_object() {
            return Err(bad(format!("the metadata of table \"{table}\" is no object")));
        }
        check(table, answer.location.as_deref(), &metadata, confinement)?;
        let columns = lake::columns(&metadata).map(Arc::from).map_err(|error| error.to_string());
        let data_bytes = size::data_bytes(&metadata, columns.as_ref().map_or(0, |columns: &Arc<[Column]>| columns.len()));
        let last_updated_ms = metadata["last-updated-ms"].as_i64().unwrap_or_default();
        let whole = body(answer.location.as_deref(), answer.metadata.get());
        let list = Mutex::new(current_list(&metadata));
        let last_ms = order::last_ms(&metadata);
        trim::trim(&mut metadata);
        let trimmed = body(answer.location.as_deref(), &metadata.to_string());
        let directory = metadata["location"].as_str().and_then(local_path);
        let unread_scheme =
            normal(metadata["location"].as_str().unwrap_or_default()).and_then(|location| unread_scheme(&location));
        let places = handed.as_ref().map(|handed| handed.places.clone()).unwrap_or_default();
        let handed = Mutex::new(handed);
        Ok(Self {
            etag,
            whole,
            last_ms,
            trimmed,
            columns,
            data_bytes,
            last_updated_ms,
            directory,
            unread_scheme,
            places,
            handed,
            list,
        })
    }

    /// The load answer with full metadata for a statement that began then, whose current snapshot is the youngest one and not younger
    /// than the statement, whatever clocks say.
    pub(super) async fn whole_at(&self, begun_ms: i64) -> Bytes {
        if self.last_ms.is_some_and(|last_ms| last_ms <= begun_ms) {
            return self.whole.clone();
        }
        let whole = self.whole.clone();
        let in_order = move || {
            let mut answer: Value = serde_json::from_slice(&whole).ok()?;
            order::put_in_order(answer.get_mut("metadata")?, begun_ms);
            Some(Bytes::from(answer.to_string()))
        };
        let length = self.whole.len();
        let in_order = if length < LARGE_BYTES { in_order() } else { on_thread(length, in_order).await.ok().flatten() };
        in_order.unwrap_or_else(|| self.whole.clone())
    }

    /// Makes the directories that a writer expects: DuckDB makes none on a local file system, and a catalog need not. The place was
    /// checked against the catalog's allowed locations when the table was read. What cannot be made shows when the writer fails.
    pub(super) async fn make_directories(&self) {
        for part in ["metadata", "data"] {
            if let Some(directory) = self.directory.as_ref().map(|table| table.join(part))
                && let Err(error) = tokio::fs::create_dir_all(&directory).await
            {
                tracing::warn!(directory = %directory.display(), %error, "a table's directory cannot be made");
            }
        }
    }

    /// Tells who keeps access to files where this table's lie, and what was handed out with it: that is not kept here, where it would
    /// outlive its expiry.
    pub(super) fn tell(&self, table: &TableRef, storage: &Storage) {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        storage.note(table, &self.places, handed.take());
    }

    /// The manifest list of the current snapshot, the first time that it is asked for.
    pub(super) fn news(&self) -> Option<String> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Refuses a table in a store that workers do not reach, before one of them tries.
    ///
    /// # Errors
    /// `Unsupported`, when it lies in such a one.
    pub(super) fn readable(&self, table: &TableRef) -> Result<(), CatalogError> {
        let Some(scheme) = &self.unread_scheme else { return Ok(()) };
        let reason = format!(
            "table \"{}.{}\" lies in {scheme}://, and the files of tables are read in S3 and what is like it, in Google's store and in \
             local directories only",
            table.namespace, table.table
        );
        Err(CatalogError::Unsupported { catalog: table.catalog.clone(), reason })
    }

    /// The columns, with an error that names the table.
    pub(super) fn columns(&self, catalog: &CatalogName) -> Result<Arc<[Column]>, CatalogError> {
        self.columns.clone().map_err(|reason| CatalogError::BadAnswer { catalog: catalog.clone(), reason })
    }

    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        let columns = self.columns.as_ref().map_or(0, |columns| columns.len());
        self.whole.len() + self.trimmed.len() + columns * 256
    }
}

fn current_list(metadata: &Value) -> Option<String> {
    let current = trim::current_snapshot(metadata)?;
    let mut snapshots = metadata["snapshots"].as_array()?.iter();
    let snapshot = snapshots.find(|snapshot| snapshot["snapshot-id"].as_i64() == Some(current))?;
    snapshot["manifest-list"].as_str().map(str::to_owned)
}

/// The scheme of a location in normal spelling that no worker can read.
fn unread_scheme(location: &str) -> Option<String> {
    let (scheme, _) = location.split_once("://")?;
    (!matches!(scheme, "s3" | "gs" | "file")).then(|| scheme.to_owned())
}

/// The path of a `file:` location.
pub(super) fn local_path(location: &str) -> Option<PathBuf> {
    let path = location.strip_prefix("file:")?;
    let path = path.strip_prefix("//localhost").filter(|path| path.starts_with('/')).unwrap_or(path);
    Some(PathBuf::from(format!("/{}", path.trim_start_matches('/'))))
}

fn body(location: Option<&str>, metadata: &str) -> Bytes {
    let location = location.map(|location| format!("\"metadata-location\":{},", Value::from(location))).unwrap_or_default();
    Bytes::from(format!("{{{location}\"metadata\":{metadata},\"config\":{{}}}}"))
}

/// Refuses metadata by which a worker would read or write outside the catalog's storage.
fn check(table: &TableRef, location: Option<&str>, metadata: &Value, confinement: &Confinement) -> Result<(), CatalogError> {
    let within = |what: &str, location: &str| outside(table, what, location, confinement);
    within("the table", metadata["location"].as_str().unwrap_or_default())?;
    if let Some(location) = location {
        within("the metadata file", location)?;
    }
    for snapshot in metadata["snapshots"].as_array().into_iter().flatten() {
        check_snapshot(table, snapshot, confinement)?;
    }
    for name in PLACE_PROPERTIES {
        if let Some(place) = metadata["properties"][name].as_str() {
            within(&format!("property {name}"), place)?;
        }
    }
    for list in ["statistics", "partition-statistics"] {
        for file in metadata[list].as_array().into_iter().flatten() {
            within("a statistics file", file["statistics-path"].as_str().unwrap_or_default())?;
        }
    }
    Ok(())
}

/// Refuses a snapshot whose manifests lie outside the catalog's storage.
pub(super) fn check_snapshot(table: &TableRef, snapshot: &Value, confinement: &Confinement) -> Result<(), CatalogError> {
    if let Some(list) = snapshot["manifest-list"].as_str() {
        outside(table, "a manifest list", list, confinement)?;
    }
    for manifest in snapshot["manifests"].as_array().into_iter().flatten() {
        outside(table, "a manifest", manifest.as_str().unwrap_or_default(), confinement)?;
    }
    Ok(())
}

/// Refuses one location of a table.
pub(super) fn outside(table: &TableRef, what: &str, location: &str, confinement: &Confinement) -> Result<(), CatalogError> {
    if confinement.allows(location) {
        return Ok(());
    }
    Err(CatalogError::OutsideLocation {
        catalog: table.catalog.clone(),
        what: format!("{what} of \"{}.{}\"", table.namespace, table.table),
        location: location.to_owned(),
    })
}
