//! Owns the embedded catalog's files: where tables lie in its directory, and metadata files that are either whole or not there.
//! Refuses to know what is in them.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::LakeError;
use crate::names::Namespace;

/// The directory of one embedded catalog.
#[derive(Clone, Debug)]
pub(super) struct Warehouse {
    root: PathBuf,
    uri: String,
}

impl Warehouse {
    /// Makes the directory if need be.
    pub(super) fn open(root: &Path) -> Result<Self, LakeError> {
        let failed = |action: &'static str| move |source| LakeError::Io { action, path: root.display().to_string(), source };
        std::fs::create_dir_all(root).map_err(failed("create"))?;
        let root = root.canonicalize().map_err(failed("read"))?;
        let Some(text) = root.to_str() else {
            return Err(failed("use")(io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8")));
        };
        Ok(Self { uri: format!("file://{}/", text.trim_end_matches('/')), root })
    }

    /// `file:///…/`, with a slash at its end.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// The catalog's database.
    pub(super) fn database(&self) -> PathBuf {
        self.root.join("catalog.db")
    }

    /// A place for a new table that no other table has or had: names are cut down to letters that mean nothing to a file system.
    pub(super) fn new_location(&self, namespace: &Namespace, table: &str) -> String {
        let mut location = self.uri.clone();
        for level in namespace.levels() {
            location.push_str(&plain(level));
            location.push('/');
        }
        format!("{location}{}-{}", plain(table), Uuid::new_v4().simple())
    }

    /// The path of a `file:` location below this directory, and not the directory itself; nor behind a link that leads out of it.
    pub(super) fn path_of(&self, location: &str) -> Result<PathBuf, LakeError> {
        let outside = || LakeError::Outside(location.to_owned());
        let below = location.strip_prefix(&self.uri).ok_or_else(outside)?.trim_end_matches('/');
        if below.is_empty() || below.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(outside());
        }
        let path = self.root.join(below);
        let leads_out = real(&path).is_none_or(|real| !real.starts_with(&self.root));
        if leads_out { Err(outside()) } else { Ok(path) }
    }

    /// Makes the directories that a writer expects to be there.
    pub(super) fn make_table_directories(&self, location: &str) -> Result<(), LakeError> {
        let table = self.path_of(location)?;
        for part in ["metadata", "data"] {
            let path = table.join(part);
            std::fs::create_dir_all(&path).map_err(|source| LakeError::Io {
                action: "create",
                path: path.display().to_string(),
                source,
            })?;
        }
        Ok(())
    }

    /// Reads a file of the catalog.
    pub(super) async fn read(&self, location: &str) -> Result<Vec<u8>, LakeError> {
        let path = self.path_of(location)?;
        tokio::fs::read(&path).await.map_err(|source| LakeError::Io { action: "read", path: path.display().to_string(), source })
    }

    /// Writes a file so that after a crash it is either whole or not there.
    pub(super) async fn write(&self, location: &str, bytes: Vec<u8>) -> Result<(), LakeError> {
        let path = self.path_of(location)?;
        let shown = path.display().to_string();
        tokio::task::spawn_blocking(move || write_whole(&path, &bytes))
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(|source| LakeError::Io { action: "write", path: shown, source })
    }

    /// Deletes files that no commit refers to. Left-overs are harmless, so it does not fail.
    pub(super) async fn discard(&self, locations: Vec<String>) {
        for location in locations {
            if let Ok(path) = self.path_of(&location)
                && let Err(error) = tokio::fs::remove_file(&path).await
            {
                tracing::debug!(path = %path.display(), %error, "an unused metadata file was left behind");
            }
        }
    }

    /// Deletes a dropped table's metadata and data directories, and the table's own one if nothing else is in it.
    pub(super) async fn purge(&self, location: &str) -> Result<(), LakeError> {
        let table = self.path_of(location)?;
        for path in [table.join("metadata"), table.join("data")] {
            match tokio::fs::remove_dir_all(&path).await {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(LakeError::Io { action: "delete", path: path.display().to_string(), source });
                }
                _ => {}
            }
        }
        // Fails when something else is in it, and that is meant.
        let _ = tokio::fs::remove_dir(&table).await;
        Ok(())
    }
}

/// Where a path leads through its links, as far as it is there already.
fn real(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|place| place.symlink_metadata().is_ok())?.canonicalize().ok()
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(directory)?;
    let part = directory.join(format!(".{}.part", Uuid::new_v4().simple()));
    let written = std::fs::File::create_new(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        std::fs::File::open(directory)?.sync_all()
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

fn plain(name: &str) -> String {
    let kept: String = name
        .chars()
        .take(64)
        .map(|letter| if letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-') { letter } else { '_' })
        .collect();
    if kept.is_empty() { "_".to_owned() } else { kept }
}
