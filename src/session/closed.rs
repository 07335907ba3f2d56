//! Owns the file by which ended sessions stay ended when the gateway is started again (`session.closed_file`): a line for each, and
//! one for the time up to which all count as ended. Refuses to begin with a file that it cannot read, because who has logged out could
//! come back then.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::ended::OpenedMs;
use crate::names::SessionId;

/// The longest line without its end.
const MAX_LINE: usize = 96;
/// The word before the time up to which all have ended.
const UNTIL: &str = "until";
/// The word before a session that may come back, whatever a line before it says.
const MAY_RETURN: &str = "not";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClosedError {
    /// It cannot be read, or made.
    #[error("session.closed_file: {path} cannot be used: {source}")]
    Io {
        /// As configured.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "session.closed_file: line {line} of {path} is no ended session; put back what it was, or remove the file: sessions that were closed then come back by their tokens"
    )]
    Broken {
        /// As configured.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What was opened then or before has ended.
    pub(super) until: Option<OpenedMs>,
    pub(super) sessions: Vec<(OpenedMs, SessionId)>,
}

/// The file, open for more lines.
#[derive(Debug)]
pub(super) struct ClosedFile {
    path: PathBuf,
    file: File,
    /// Those in it.
    pub(super) lines: usize,
}

/// Reads the file; one that is not there says nothing.
pub(super) fn read(path: &Path) -> Result<Known, ClosedError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
        read => read.map_err(|source| ClosedError::Io { path: path.to_owned(), source })?,
    };
    let (mut until, mut sessions) = (None, BTreeSet::new());
    for (number, line) in (1..).zip(String::from_utf8_lossy(&bytes).split_inclusive('\n')) {
        let broken = || ClosedError::Broken { path: path.to_owned(), line: number };
        let Some(whole) = line.strip_suffix('\n') else {
            // The gateway was killed while it wrote the last line.
            if could_be_begun(line) {
                break;
            }
            return Err(broken());
        };
        let session = |line: &str| {
            let (time, id) = line.split_once(' ').filter(|(_, id)| !id.is_empty() && could_be_begun(whole)).ok_or_else(broken)?;
            Ok::<_, ClosedError>((time.parse::<OpenedMs>().map_err(|_| broken())?, SessionId::from(id)))
        };
        match whole.split_once(' ') {
            Some((UNTIL, time)) => until = until.max(Some(time.parse().map_err(|_| broken())?)),
            Some((MAY_RETURN, line)) => {
                sessions.remove(&session(line)?);
            }
            _ => {
                sessions.insert(session(whole)?);
            }
        }
    }
    Ok(Known { until, sessions: sessions.into_iter().collect() })
}

fn could_be_begun(line: &str) -> bool {
    line.len() <= MAX_LINE && line.bytes().all(|byte| byte == b' ' || byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

impl ClosedFile {
    /// Writes the file anew, with these only.
    pub(super) fn write<'a>(
        path: &Path,
        until: Option<OpenedMs>,
        sessions: impl Iterator<Item = &'a (OpenedMs, SessionId)>,
    ) -> Result<Self, ClosedError> {
        let mut text = until.map(|until| format!("{UNTIL} {until}\n")).unwrap_or_default();
        let mut lines = 0;
        for (opened, id) in sessions {
            // Writing to a text does not fail.
            let _ = writeln!(text, "{opened} {id}");
            lines += 1;
        }
        let written = || {
            // Whoever is killed meanwhile finds the old one.
            let beside = path.with_added_extension("new");
            let mut file = File::create(&beside)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&beside, path)?;
            Ok(file)
        };
        let file = written().map_err(|source| ClosedError::Io { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file, lines })
    }

    /// Writes it anew in its place; goes on with the old one when that fails.
    pub(super) fn rewrite<'a>(&mut self, until: Option<OpenedMs>, sessions: impl Iterator<Item = &'a (OpenedMs, SessionId)>) {
        match Self::write(&self.path, until, sessions) {
            Ok(new) => *self = new,
            Err(error) => tracing::error!(%error, "ended sessions could not be written down anew"),
        }
    }

    /// Adds one. A log-out does not fail for it: in this process it counts anyway.
    pub(super) fn add(&mut self, opened: OpenedMs, id: &SessionId) {
        self.append(&format!("{opened} {id}\n"), id);
    }

    /// Takes one back.
    pub(super) fn take_back(&mut self, opened: OpenedMs, id: &SessionId) {
        self.append(&format!("{MAY_RETURN} {opened} {id}\n"), id);
    }

    fn append(&mut self, line: &str, id: &SessionId) {
        self.lines += 1;
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            let path = self.path.display();
            tracing::error!(%path, %error, session = %id, "whether a session may be made again could not be written down: after a restart its token may open it, or not");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_says_something_else_is_refused_and_a_line_cut_short_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("closed");
        let sessions = |text: &[u8]| {
            fs::write(&path, text).unwrap();
            read(&path).map(|known| (known.until, known.sessions.len())).map_err(|error| error.to_string())
        };
        assert_eq!(sessions(b"7 ab\n8 cd\n"), Ok((None, 2)));
        assert_eq!(sessions(b"7 ab\n8 cd\nnot 7 ab\n"), Ok((None, 1)), "one may come back");
        assert_eq!(sessions(b"7 ab\nnot 7 ab\n7 ab\n"), Ok((None, 1)));
        assert_eq!(sessions(b"until 6\n7 ab\n8 c"), Ok((Some(6), 1)));
        for (text, line) in [
            (&b"7 ab\nnonsense\n8 cd\n"[..], 2),
            (b"7\n", 1),
            (b"7 \n", 1),
            (b"x ab\n", 1),
            (b"until x\n", 1),
            (b"not 7\n", 1),
            (b"not x ab\n", 1),
            (b"7 ab\n\xff\0", 2),
            (b"[gateway]", 1),
        ] {
            let error = sessions(text).unwrap_err();
            assert!(error.contains(&format!("line {line} of")) && error.contains("remove the file"), "{text:?}: {error}");
        }
        assert!(read(dir.path()).unwrap_err().to_string().contains("cannot be used"), "a directory");
        assert!(ClosedFile::write(&dir.path().join("no/closed"), None, [].iter()).is_err());
    }
}
