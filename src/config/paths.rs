//! Owns which values of a config file are paths, and that relative ones are meant from where the file lies. Refuses to look whether
//! anything is there.

use std::path::Path;

use serde_json::{Map, Value};

use super::{OF_CATALOGS, SECRET_KEYS};

/// Paths besides those of keys that end in `_file`, and those of secrets and embedded catalogs.
const DIRECTORIES: [&str; 2] = ["run_dir", "extension_dir"];

/// Makes relative paths of a file's tree those that they are from the working directory.
pub(super) fn relative_to(file: &Path, mut tree: Value) -> Value {
    let folder = file.parent().unwrap_or(Path::new("."));
    for place in OF_CATALOGS {
        let entries = tree.pointer_mut(place).and_then(Value::as_object_mut);
        let paths = entries.into_iter().flat_map(Map::values_mut).filter_map(|entry| entry.get_mut("path"));
        paths.for_each(|path| join(folder, path));
    }
    walk(folder, &mut tree);
    tree
}

fn walk(folder: &Path, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key.ends_with("_file") || DIRECTORIES.contains(&key.as_str()) {
                    join(folder, value);
                } else if SECRET_KEYS.contains(&key.as_str()) {
                    secret(folder, value);
                }
                // A catalog may bear such a name.
                walk(folder, value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(folder, item)),
        _ => {}
    }
}

/// A secret, or a list of them, of which some may be in files.
fn secret(folder: &Path, value: &mut Value) {
    match value {
        Value::Object(map) => map.get_mut("file").into_iter().for_each(|file| join(folder, file)),
        Value::Array(secrets) => secrets.iter_mut().for_each(|one| secret(folder, one)),
        _ => {}
    }
}

fn join(folder: &Path, path: &mut Value) {
    if let Some(relative) = path.as_str().filter(|path| Path::new(path).is_relative()) {
        *path = Value::String(folder.join(relative.trim_start_matches("./")).to_string_lossy().into_owned());
    }
}
