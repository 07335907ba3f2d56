//! The import rules of the crate: modules import only from lower layers, and what is reserved for one room stays there.

#![expect(clippy::expect_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first; modules of one layer don't import each other, but for the first, whose order is as written.
const LAYERS: &[&[&str]] = &[
    &["as_of", "counts", "error", "headers", "names", "secret"],
    &["shutdown", "telemetry", "wire", "extensions"],
    &["auth"],
    &["lake"],
    &["relay"],
    &["worker", "pool"],
    &["session"],
    &["query"],
    &["status"],
    &["flight", "health", "trino", "transform", "admin"],
    &["config"],
    &["gateway"],
    &["cli"],
];

/// Words that only these rooms may use.
const RESERVED: &[(&str, &[&str])] = &[
    ("duckdb::", &["worker"]),
    ("apache_avro::", &["lake"]),
    ("iceberg::", &["lake"]),
    ("iceberg_catalog_sql::", &["lake"]),
    ("sqlx::", &["lake"]),
    ("tonic::", &["flight", "health", "trino", "transform", "status", "cli", "gateway"]),
    ("landlock::", &["worker"]),
    ("reqwest::", &["relay", "auth"]),
    ("jsonwebtoken::", &["auth"]),
    ("x509_parser::", &["flight"]),
    ("axum::", &["relay", "admin", "trino"]),
];

struct Source {
    path: PathBuf,
    room: String,
    code: String,
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a source folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(&root).expect("below src");
            let first = inside.components().next().expect("a component").as_os_str().to_string_lossy();
            let room = first.trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).expect("a source file");
            // Tests may reach anywhere; comments reach nowhere.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default().lines();
            let code = code.map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
            Source { path: inside.to_owned(), room, code }
        })
        .collect()
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// Rooms named by `crate::room` or in `use crate::{room, …}`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let (mut depth, mut word) = (0, String::new());
                for c in list.chars() {
                    match c {
                        '}' if depth == 0 => break,
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => found.push(std::mem::take(&mut word)),
                        c if depth == 0 => word.push(c),
                        _ => {}
                    }
                }
                found.push(word);
            }
            None => found.push(rest.to_owned()),
        }
    }
    let name = |text: &String| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    found.iter().map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_room_has_a_layer() {
    for source in sources() {
        if !matches!(source.room.as_str(), "lib" | "main") {
            assert!(layer(&source.room).is_some(), "{} is in no layer", source.path.display());
        }
    }
}

#[test]
fn imports_go_downwards_only() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(own) = layer(&source.room) else { continue };
        for import in imports(&source.code) {
            let Some(other) = layer(&import) else { continue };
            if import != source.room && (other > own || (other == own && own > 0)) {
                wrong.push(format!("{} imports {import}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn reserved_crates_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (word, rooms) in RESERVED {
            let used = source.code.match_indices(word).any(|(at, _)| {
                let before = source.code[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if used && !rooms.contains(&source.room.as_str()) {
                wrong.push(format!("{} uses {word}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_stays_in_the_binding() {
    for source in sources() {
        let code = source.code.replace("unsafe_code", "");
        let inside = source.path.starts_with("worker/binding") || source.path.ends_with("worker/binding.rs");
        assert!(inside || !code.contains("unsafe"), "{} has unsafe code", source.path.display());
    }
}

#[test]
fn files_and_folders_stay_readable() {
    let mut folders: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for source in sources() {
        let lines = source.code.lines().count();
        assert!(lines <= 800, "{} has {lines} lines", source.path.display());
        *folders.entry(source.path.parent().expect("a folder").to_owned()).or_default() += 1;
        let full = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&source.path)).expect("a file");
        assert!(full.starts_with("//!"), "{} does not say what it owns", source.path.display());
    }
    for (folder, files) in folders {
        let limit = if folder.as_os_str().is_empty() { 20 } else { 12 };
        assert!(files <= limit, "{} has {files} files", folder.display());
    }
}
