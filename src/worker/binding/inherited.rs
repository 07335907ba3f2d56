//! Owns the closing of files that a worker got from whoever started the gateway. Refuses to run in a process that has opened files.

use std::fs;
use std::io;
use std::os::fd::RawFd;

/// Closes all files but standard input, output and error. The gateway opens none that a child inherits, but a shell or a supervisor
/// that started it may have. Must be the first thing that a worker process does: it then owns no descriptor above 2 itself.
///
/// # Errors
/// When other threads run, which may own some, or the system does not say which files are open.
pub fn close_inherited() -> io::Result<()> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("other threads run already"));
    }
    let entries = fs::read_dir("/proc/self/fd")?;
    // The list is read to its end first: the directory's own descriptor is in it, and is closed by then.
    let listed: Vec<RawFd> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let is_open = |file: &RawFd| fs::symlink_metadata(format!("/proc/self/fd/{file}")).is_ok();
    for file in listed.into_iter().filter(|file| *file > 2 && is_open(file)) {
        // SAFETY: it is open, and nobody owns it: this process has opened no file yet.
        unsafe { rustix::io::close(file) }
    }
    Ok(())
}
