//! Owns the steps of a table's files: what is shown to their store, and that one of them can be read as workers read it. Refuses to know
//! how stores are asked.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::catalog::Loaded;
use super::login::span;
use super::{Fault, Found, Record, Step, Subject};
use crate::lake;
use crate::relay::Relay;
use crate::relay::confine::normal;
use crate::relay::error::CatalogError;
use crate::relay::storage::PARSING;
use crate::relay::storage::sample::{Trouble, sample};
use crate::relay::storage::turns::in_turn;
use crate::relay::storage::{Access, Handed};
use crate::relay::views::View;
use crate::relay::words::host_of;

/// The largest list and manifest that are read, and manifests that are looked through for a data file.
const MAX_LIST: usize = 32 << 20;
const MAX_MANIFESTS: usize = 8;

/// A list that is longer unpacked is not read.
const MAX_UNPACKED: u64 = 64 << 20;

/// What is read of a table without rows.
const BEGINNING: u64 = 1024;

/// Keys that live shorter are renewed all the time.
const SHORT_LIFE_S: u64 = 60;

/// What a Parquet file begins and ends with.
const PARQUET: &[u8] = b"PAR1";

pub(super) async fn run(
    subject: &Subject,
    relay: &Arc<Relay>,
    view: &Arc<View>,
    loaded: Option<&Loaded>,
    record: &mut Record<'_>,
) {
    let began = Instant::now();
    let Some(loaded) = loaded else {
        for step in [Step::Credentials, Step::Read] {
            record.note(step, began, Found::skipped("not tried: there is no table to try it with"));
        }
        return;
    };
    let place = loaded.metadata["location"].as_str().unwrap_or_default();
    if local(place).is_some() {
        record.note(Step::Credentials, began, Found::skipped("none are needed: the files lie on this machine"));
    } else if !record.note(Step::Credentials, began, keys(subject, view, loaded, place).await) {
        return record.not_tried(&[Step::Read]);
    }
    let began = Instant::now();
    let files = Files { relay, view };
    let found = match files.read(loaded).await {
        Ok(found) => found,
        Err((fault, detail)) => subject.failed_at(fault, Some(place), detail),
    };
    record.note(Step::Read, began, found);
}

/// What is shown to the store of this place.
async fn keys(subject: &Subject, view: &View, loaded: &Loaded, place: &str) -> Found {
    let failed = |fault, detail: String| subject.failed_at(fault, Some(place), detail);
    let handed = Handed::in_answer(&loaded.body);
    let is_configured = view.storage.has_own_keys(place);
    let places = handed.as_ref().map(|handed| handed.places.clone()).unwrap_or_default();
    view.storage.note(&loaded.table, &places, handed);
    let access = match view.storage.access(place, None).await {
        Ok(access) => access,
        Err(error @ CatalogError::Forbidden { .. }) => return failed(Fault::NoVending, error.to_string()),
        Err(error @ CatalogError::BadAnswer { .. }) => return failed(Fault::WrongStore, error.to_string()),
        Err(error) => return failed(Fault::of_catalog(&error), error.to_string()),
    };
    let store = told(&access);
    let left = access.expires.map(|expires| expires.duration_since(SystemTime::now()));
    match left {
        None if is_configured => Found::ok(format!("configured, for {store}")),
        None => Found::warning(
            format!("vended, for {store}, without saying when they expire"),
            "they are used until the store refuses them; let the catalog say when keys expire",
        ),
        Some(Err(_)) => failed(Fault::ClockOff, format!("vended, for {store}, and already expired by this clock")),
        Some(Ok(left)) if left.as_secs() < SHORT_LIFE_S => Found::warning(
            format!("vended, for {store}, good for {}", span(left)),
            "keys that live so short are renewed all the time: let the catalog vend longer ones",
        ),
        Some(Ok(left)) => Found::ok(format!("vended, for {store}, good for {}", span(left))),
    }
}

fn told(access: &Access) -> String {
    format!("{}://{}, region {}", access.endpoint.scheme(), host_of(&access.endpoint), access.region)
}

/// Why a file could not be read, in words without a secret.
type Unread = (Fault, String);

struct Files<'a> {
    relay: &'a Relay,
    view: &'a Arc<View>,
}

impl Files<'_> {
    /// Reads what a scan would read first; says what it was.
    async fn read(&self, loaded: &Loaded) -> Result<Found, Unread> {
        let current = &loaded.metadata["current-snapshot-id"];
        let snapshots = loaded.metadata["snapshots"].as_array();
        let snapshot = snapshots.into_iter().flatten().find(|snapshot| snapshot["snapshot-id"] == *current);
        let Some(list) = snapshot.and_then(|snapshot| snapshot["manifest-list"].as_str()) else {
            return self.read_metadata(loaded).await.map(Found::ok);
        };
        let bytes = self.file(list, None).await?;
        let unfit = |location: &str, what: &str| (Fault::BadFile, format!("{location} is no {what}"));
        let manifests = in_turn(&PARSING, move || lake::manifests(&bytes, MAX_UNPACKED)).await.ok().flatten();
        let manifests = manifests.ok_or_else(|| unfit(list, "manifest list"))?;
        let mut unread = None;
        for (manifest, _) in manifests.iter().take(MAX_MANIFESTS) {
            let bytes = self.file(manifest, None).await?;
            let (data, length) = match in_turn(&PARSING, move || lake::data_file(&bytes)).await {
                Ok(Ok(Some(file))) => file,
                Ok(Ok(None)) | Err(_) => continue,
                Ok(Err(reason)) => {
                    unread = Some(format!("{manifest} cannot be looked into: {reason}"));
                    continue;
                }
            };
            let (Some(last), true) = (length.checked_sub(1), length >= 12) else { return Err(unfit(&data, "data file")) };
            let first = self.file(&data, Some((0, 3))).await?;
            let end = self.file(&data, Some((last - 3, last))).await?;
            if data.ends_with(".parquet") && (first != PARQUET || end != PARQUET) {
                return Err(unfit(&data, "Parquet file"));
            }
            let read = format!("beginning and end of {data} ({length} bytes), by its manifest and manifest list");
            return Ok(Found::ok(read));
        }
        Ok(match unread {
            Some(reason) => Found::warning(reason, "no data file was tried; read the table to see whether DuckDB can"),
            None => Found::ok(format!("{list}; it names no data file to try")),
        })
    }

    /// A table without rows has its metadata only.
    async fn read_metadata(&self, loaded: &Loaded) -> Result<String, Unread> {
        let answer: serde_json::Value = serde_json::from_slice(&loaded.body).unwrap_or_default();
        let Some(location) = answer["metadata-location"].as_str() else {
            return Ok("nothing: the table has no rows, and the catalog does not say where its metadata lies".to_owned());
        };
        self.file(location, Some((0, BEGINNING - 1))).await?;
        Ok(format!("beginning of {location}; the table has no rows"))
    }

    async fn file(&self, location: &str, part: Option<(u64, u64)>) -> Result<Bytes, Unread> {
        if !self.view.confinement.allows(location) {
            return Err((Fault::OutsideLocations, format!("{location} lies outside the catalog's locations")));
        }
        if let Some(path) = local(location) {
            return local_file(&path, part).await;
        }
        sample(self.relay, &self.view.storage, location, part, MAX_LIST).await.map_err(|trouble| told_of(location, trouble))
    }
}

async fn local_file(path: &Path, part: Option<(u64, u64)>) -> Result<Bytes, Unread> {
    let shown = path.display();
    let (first, length) = part.map_or((0, MAX_LIST as u64 + 1), |(first, last)| (first, (last + 1).saturating_sub(first)));
    let bytes = read_part(path, first, length).await.map_err(|error| {
        let fault = if error.kind() == io::ErrorKind::NotFound { Fault::FileGone } else { Fault::Directory };
        (fault, format!("{shown} cannot be read: {error}"))
    })?;
    if bytes.len() > MAX_LIST {
        return Err((Fault::BadFile, format!("{shown} has more than {MAX_LIST} bytes")));
    }
    Ok(bytes.into())
}

async fn read_part(path: &Path, first: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path).await?;
    file.seek(io::SeekFrom::Start(first)).await?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn told_of(location: &str, trouble: Trouble) -> Unread {
    match trouble {
        Trouble::NoAccess(error @ CatalogError::Forbidden { .. }) => (Fault::NoVending, error.to_string()),
        Trouble::NoAccess(error) => (Fault::of_catalog(&error), error.to_string()),
        Trouble::Unreachable(reason) => (Fault::StoreUnreachable, reason),
        Trouble::Failing(reason) => (Fault::Failing, reason),
        Trouble::Unfit(reason) => (Fault::BadFile, reason),
        Trouble::Refused { status, code, message } => {
            let said =
                [code.as_str(), message.as_str()].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
            let detail = format!("the store refuses {location} with {status} {said}");
            (Fault::of_store(status, &code, &message), detail.trim_end().to_owned())
        }
    }
}

/// The path of a place on this machine.
fn local(location: &str) -> Option<PathBuf> {
    normal(location)?.strip_prefix("file://").map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_large_file_only_the_part_is_read() {
        const LENGTH: u64 = 1 << 40;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.parquet");
        // A hole takes no room on the disk, and more than there is in memory.
        let file = std::fs::File::create(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, PARQUET, LENGTH - 4).unwrap();
        assert_eq!(local_file(&path, Some((LENGTH - 4, LENGTH - 1))).await.unwrap(), PARQUET);
        assert_eq!(local_file(&path, Some((0, 3))).await.unwrap(), [0; 4].as_slice());
        assert_eq!(local_file(&path, Some((LENGTH - 2, LENGTH + 9))).await.unwrap(), &PARQUET[2..]);
        let (fault, detail) = local_file(&path, None).await.unwrap_err();
        assert_eq!(fault, Fault::BadFile, "{detail}");
        assert_eq!(local_file(&dir.path().join("none"), None).await.unwrap_err().0, Fault::FileGone);
    }
}
