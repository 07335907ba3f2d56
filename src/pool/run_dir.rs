//! Owns the directories on disk that workers use: one of the gateway, in it one of each worker with its socket and spill files, and
//! the removal of what a dead gateway left. Refuses to touch anything that is not certainly such a directory without an owner.
//!
//! A gateway's directory is `polynya-<pid>-<8 hex digits>` with a lock file that the gateway holds locked while it lives. The kernel
//! gives the lock up however the gateway ends, so a directory is left over if, and only if, its lock can be had; process ids, which
//! come again, tell only people something. The directory gets its name when the lock is held, so no other gateway finds it before.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// Marks a gateway's directory; locked while its gateway lives.
const LOCK: &str = "gateway.lock";

/// What a directory is called until its lock is held.
const UNFINISHED: &str = ".new";

/// An unlocked directory without its final name is left over when it is so old: nobody takes so long to lock it.
const UNFINISHED_FOR: Duration = Duration::from_secs(60);

/// The directory of this gateway; removed when dropped.
#[derive(Debug)]
pub struct RunRoot {
    path: PathBuf,
    /// Locked as long as it is open. Not inherited by workers.
    _lock: File,
}

/// A worker's own directory; removed when dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// The gateway's directory stays for as long as one of its workers' does.
    _root: Arc<RunRoot>,
}

impl RunRoot {
    /// Makes the gateway's directory in `parent`, after removing those that dead gateways of this user left there.
    ///
    /// # Errors
    /// When the system refuses. What cannot be removed is only logged.
    pub fn create(parent: &Path) -> io::Result<Arc<Self>> {
        remove_left_over(parent);
        let name = format!("polynya-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let (unfinished, path) = (parent.join(format!("{name}{UNFINISHED}")), parent.join(name));
        private_dir(&unfinished)?;
        let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished.join(LOCK))?;
        // A file system without locks still gives a directory; nobody else can lock it either, so it is not taken for left over.
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            tracing::warn!(path = %parent.display(), %error, "no file locks here: what is left after a crash is not removed");
        }
        fs::rename(&unfinished, &path)?;
        Ok(Arc::new(Self { path, _lock: lock }))
    }

    /// Makes a worker's directory.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn worker(self: &Arc<Self>, number: u64) -> io::Result<RunDir> {
        let path = self.path.join(number.to_string());
        private_dir(&path)?;
        Ok(RunDir { path, _root: Arc::clone(self) })
    }
}

impl RunDir {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the worker listens for data connections.
    pub fn socket(&self) -> PathBuf {
        self.path.join("worker.sock")
    }
}

impl Drop for RunRoot {
    fn drop(&mut self) {
        remove(&self.path, "the gateway's directory could not be removed");
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove(&self.path, "a worker's directory could not be removed");
    }
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(false).create(path)
}

fn remove(path: &Path, complaint: &str) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "{complaint}");
    }
}

fn remove_left_over(parent: &Path) {
    // A parent that cannot be read is reported by the creation of our own directory in it.
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_ours(name)) else { continue };
        let path = entry.path();
        match abandoned(&path, name.ends_with(UNFINISHED)) {
            Ok(Some(lock)) => {
                tracing::info!(path = %path.display(), "removing what a gateway left that did not end orderly");
                remove(&path, "a dead gateway's directory could not be removed");
                drop(lock);
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(path = %path.display(), %error, "not looked into"),
        }
    }
}

/// `polynya-<digits>-<8 hex digits>`, perhaps unfinished.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(UNFINISHED).unwrap_or(name);
    let parts = name.strip_prefix("polynya-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(pid, random)| {
        !pid.is_empty()
            && pid.bytes().all(|b| b.is_ascii_digit())
            && random.len() == 8
            && random.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// The lock of a directory of this user whose gateway is gone; none when it lives.
fn abandoned(path: &Path, unfinished: bool) -> io::Result<Option<File>> {
    let own = rustix::process::geteuid().as_raw();
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != own {
        return Ok(None);
    }
    if unfinished && found.modified()? + UNFINISHED_FOR > SystemTime::now() {
        return Ok(None);
    }
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).map_err(io::Error::other)?;
    let lock = OpenOptions::new().write(true).custom_flags(flags).open(path.join(LOCK))?;
    let marker = lock.metadata()?;
    if !marker.is_file() || marker.uid() != own {
        return Ok(None);
    }
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parent: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(parent).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// As a gateway leaves it that was killed: the directory is there and nobody holds the lock.
    fn left_over(parent: &Path, name: &str) -> PathBuf {
        let path = parent.join(name);
        fs::create_dir_all(path.join("1/spill")).unwrap();
        fs::write(path.join("1/spill/duckdb_temp_storage-0.tmp"), "rows").unwrap();
        fs::write(path.join(LOCK), "").unwrap();
        path
    }

    #[test]
    fn directories_are_private_and_go_away() {
        let parent = tempfile::tempdir().unwrap();
        let root = RunRoot::create(parent.path()).unwrap();
        let worker = root.worker(1).unwrap();
        for path in [&root.path, &worker.path] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
        }
        fs::write(worker.path().join("spilt"), "rows").unwrap();
        drop(root);
        assert!(worker.path().exists(), "the worker's directory went before the worker");
        drop(worker);
        assert!(names(parent.path()).is_empty());
    }

    #[test]
    fn what_a_dead_gateway_left_is_removed_whoever_has_its_process_id_now() {
        let parent = tempfile::tempdir().unwrap();
        let dead = left_over(parent.path(), &format!("polynya-{}-0123abcd", std::process::id()));
        let _root = RunRoot::create(parent.path()).unwrap();
        assert!(!dead.exists());
    }

    #[test]
    fn a_living_gateway_keeps_its_directory() {
        let parent = tempfile::tempdir().unwrap();
        let one = RunRoot::create(parent.path()).unwrap();
        let two = RunRoot::create(parent.path()).unwrap();
        assert!(one.path.exists() && two.path.exists());
        assert_eq!(names(parent.path()).len(), 2);
    }

    #[test]
    fn nothing_else_is_touched() {
        let parent = tempfile::tempdir().unwrap();
        for name in [
            "polynya-data",
            "polynya-1-0123abc",
            "polynya-x-0123abcd",
            "polynya--0123abcd",
            "polynya-1-0123abcd-2",
            "other-1-0123abcd",
        ] {
            left_over(parent.path(), name);
        }
        // No lock file; a link as lock file; a link as directory; one that is just being made.
        fs::create_dir(parent.path().join("polynya-2-0123abcd")).unwrap();
        let linked = left_over(parent.path(), "polynya-3-0123abcd");
        fs::rename(linked.join(LOCK), parent.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(parent.path().join("elsewhere"), linked.join(LOCK)).unwrap();
        std::os::unix::fs::symlink(parent.path().join("polynya-data"), parent.path().join("polynya-4-0123abcd")).unwrap();
        left_over(parent.path(), "polynya-5-0123abcd.new");
        let before = names(parent.path());
        drop(RunRoot::create(parent.path()).unwrap());
        assert_eq!(names(parent.path()), before);
        assert!(parent.path().join("polynya-data/1/spill/duckdb_temp_storage-0.tmp").exists());
    }
}
