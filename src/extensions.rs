//! Owns where DuckDB's extension files are found, and what to say when they are not. Refuses to fetch, verify or load them.
//!
//! The first of these that holds the wanted files is taken: `POLYNYA_EXTENSION_DIR` (when set, it alone), `extensions` beside the
//! binary, `../lib/polynya/extensions` from there, and the cache that `make setup` fills
//! (`${POLYNYA_CACHE:-~/.cache/polynya}/duckdb-<version>/extensions`).

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The DuckDB that this build is made for; extension files of another version do not load.
pub const DUCKDB_VERSION: &str = "1.5.5";

/// The variable that names the directory of the extension files.
pub const DIR_VARIABLE: &str = "POLYNYA_EXTENSION_DIR";

const CACHE_VARIABLE: &str = "POLYNYA_CACHE";

/// Extension files that are not where they were looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct MissingExtensions {
    /// Each place in the order of looking, with the names that it lacks.
    pub looked: Vec<(PathBuf, Vec<String>)>,
    /// `POLYNYA_EXTENSION_DIR` named the only place.
    pub by_variable: bool,
}

impl fmt::Display for MissingExtensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DuckDB {DUCKDB_VERSION} extensions are missing. Looked in ")?;
        for (at, (dir, missing)) in self.looked.iter().enumerate() {
            let comma = if at == 0 { "" } else { "; " };
            write!(f, "{comma}{} (without {})", dir.display(), missing.join(", "))?;
        }
        if self.by_variable {
            write!(
                f,
                ". {DIR_VARIABLE} must name a directory with <name>.duckdb_extension files; unset, the usual places are tried"
            )
        } else {
            write!(f, ". Run `make setup` to fetch them, or set {DIR_VARIABLE} to a directory that holds them")
        }
    }
}

/// The directory that holds `<name>.duckdb_extension` for each of `names`.
///
/// # Errors
/// When no place has all of them; the error lists each place and what it lacks.
pub fn find(names: &[&str]) -> Result<PathBuf, MissingExtensions> {
    let exe_dir = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    find_in(&Places::of(|name| env::var_os(name), exe_dir.as_deref()), names)
}

/// A directory that the user names, which must hold the file of each of `names`.
///
/// # Errors
/// When it lacks any.
pub fn check(dir: PathBuf, names: &[&str]) -> Result<PathBuf, MissingExtensions> {
    let missing = missing_in(&dir, names);
    if missing.is_empty() { Ok(dir) } else { Err(MissingExtensions { looked: vec![(dir, missing)], by_variable: false }) }
}

/// The name of an extension's file.
#[must_use]
pub fn file_name(extension: &str) -> String {
    format!("{extension}.duckdb_extension")
}

/// Where to look, in order.
struct Places {
    dirs: Vec<PathBuf>,
    by_variable: bool,
}

impl Places {
    fn of(variable: impl Fn(&str) -> Option<OsString>, exe_dir: Option<&Path>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(dir) = set(DIR_VARIABLE) {
            return Self { dirs: vec![dir], by_variable: true };
        }
        let mut dirs = Vec::new();
        if let Some(exe_dir) = exe_dir {
            dirs.push(exe_dir.join("extensions"));
            // Through the parent rather than "..", which would show in the error.
            dirs.extend(exe_dir.parent().map(|prefix| prefix.join("lib/polynya/extensions")));
        }
        let cache = set(CACHE_VARIABLE).or_else(|| set("HOME").map(|home| home.join(".cache/polynya")));
        dirs.extend(cache.map(|cache| cache.join(format!("duckdb-{DUCKDB_VERSION}/extensions"))));
        Self { dirs, by_variable: false }
    }
}

fn find_in(places: &Places, names: &[&str]) -> Result<PathBuf, MissingExtensions> {
    let mut looked = Vec::with_capacity(places.dirs.len());
    for dir in &places.dirs {
        let missing = missing_in(dir, names);
        if missing.is_empty() && dir.is_dir() {
            return Ok(dir.clone());
        }
        looked.push((dir.clone(), missing));
    }
    Err(MissingExtensions { looked, by_variable: places.by_variable })
}

/// Which of `names` have no file in `dir`.
#[must_use]
pub fn missing_in(dir: &Path, names: &[&str]) -> Vec<String> {
    names.iter().filter(|name| !dir.join(file_name(name)).is_file()).map(|&name| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(file_name(name)), b"").unwrap();
        }
        dir
    }

    #[test]
    fn the_variable_is_the_only_place_when_set() {
        let places = Places::of(|name| (name == DIR_VARIABLE).then(|| "/given".into()), Some(Path::new("/opt/bin")));
        assert_eq!((places.dirs, places.by_variable), (vec![PathBuf::from("/given")], true));
    }

    #[test]
    fn the_usual_places_come_in_order() {
        let places = Places::of(|name| (name == "HOME").then(|| "/home/a".into()), Some(Path::new("/opt/bin")));
        let expected = ["/opt/bin/extensions", "/opt/lib/polynya/extensions", "/home/a/.cache/polynya/duckdb-1.5.5/extensions"];
        assert_eq!(places.dirs, expected.map(PathBuf::from));
    }

    #[test]
    fn an_incomplete_directory_is_passed_over() {
        let (some, all) = (dir_with(&["avro"]), dir_with(&["avro", "iceberg"]));
        let places = Places { dirs: vec![some.path().into(), all.path().into()], by_variable: false };
        assert_eq!(find_in(&places, &["avro", "iceberg"]).unwrap(), all.path());
    }

    #[test]
    fn the_error_says_what_is_missing_and_what_to_do() {
        let dir = dir_with(&["avro"]);
        let places = Places { dirs: vec![dir.path().into()], by_variable: false };
        let text = find_in(&places, &["avro", "tpch"]).unwrap_err().to_string();
        assert!(text.contains("(without tpch)") && text.contains("make setup"), "{text}");
    }
}
