//! Forges Iceberg tables: a copy of a real table of the embedded catalog whose files are then falsified one by one, so that it fails for
//! nothing but what was falsified. Owns files and the catalog's list of tables; asks no gateway.

use std::fs;
use std::path::{Path, PathBuf};

use apache_avro::types::Value as Avro;
use apache_avro::{Reader, Writer};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

/// Which reference of a table is falsified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A manifest's data file.
    DataFile,
    /// A manifest's delete file: Parquet or, in format version 3, Puffin.
    DeleteFile,
    /// A manifest list's manifest of data files.
    Manifest,
    /// A manifest list's manifest of delete files.
    DeleteManifest,
    /// The current snapshot's manifest list.
    ManifestList,
}

/// A forged table.
pub struct Forged {
    /// Its own directory.
    pub dir: PathBuf,
    /// Its metadata; written by `save`.
    pub metadata: Value,
}

/// The directory of a table that the gateway has made: its name, and letters that mean nothing.
pub fn made_by_gateway(namespace: &Path, table: &str) -> PathBuf {
    let entries = fs::read_dir(namespace).expect("a namespace's directory").flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{table}-")));
    entries.into_iter().find(is_it).expect("a table's directory")
}

/// The files of a directory whose names end so, in order.
pub fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort();
    files
}

/// `file:///…`
pub fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

impl Forged {
    /// A copy of a table's newest state in a directory of its own, whole and consistent.
    pub fn copy(original: &Path, dir: &Path) -> Self {
        for part in ["metadata", "data"] {
            fs::create_dir_all(dir.join(part)).expect("a directory");
            for file in files(&original.join(part), "") {
                fs::copy(&file, dir.join(part).join(file.file_name().expect("a name"))).expect("a copy");
            }
        }
        let newest = files(&dir.join("metadata"), ".metadata.json").pop().expect("metadata");
        let (from, to) = (original.display().to_string(), dir.display().to_string());
        let text = fs::read_to_string(newest).expect("metadata").replace(&from, &to);
        for file in files(&dir.join("metadata"), ".avro") {
            rewrite(&file, |text| *text = text.replace(&from, &to));
        }
        Self { dir: dir.to_owned(), metadata: serde_json::from_str(&text).expect("metadata") }
    }

    fn snapshot(&mut self) -> &mut Value {
        let current = self.metadata["current-snapshot-id"].clone();
        let snapshots = self.metadata["snapshots"].as_array_mut().expect("snapshots");
        snapshots.iter_mut().find(|snapshot| snapshot["snapshot-id"] == current).expect("the current snapshot")
    }

    /// The path of the current manifest list.
    pub fn manifest_list(&mut self) -> PathBuf {
        PathBuf::from(self.snapshot()["manifest-list"].as_str().expect("a location").trim_start_matches("file://"))
    }

    /// The paths of the current manifests of data files (0) or of delete files (1).
    pub fn manifests(&mut self, content: i32) -> Vec<PathBuf> {
        let mut found = Vec::new();
        edit(&self.manifest_list(), |row| {
            if field(row, "content").is_some_and(|value| *value == Avro::Int(content))
                && let Some(Avro::String(path)) = field(row, "manifest_path")
            {
                found.push(PathBuf::from(path.trim_start_matches("file://")));
            }
        });
        found
    }

    /// Makes one reference point to another place.
    pub fn point(&mut self, part: Part, place: &str) {
        let content = i32::from(matches!(part, Part::DeleteFile | Part::DeleteManifest));
        match part {
            Part::ManifestList => self.snapshot()["manifest-list"] = Value::from(place),
            Part::Manifest | Part::DeleteManifest => {
                let mut changed = 0;
                edit(&self.manifest_list(), |row| {
                    if field(row, "content").is_some_and(|value| *value == Avro::Int(content)) {
                        set(row, "manifest_path", place);
                        changed += 1;
                    }
                });
                assert!(changed > 0, "the table has no such manifest");
            }
            Part::DataFile | Part::DeleteFile => {
                let manifests = self.manifests(content);
                assert!(!manifests.is_empty(), "the table has no such file");
                manifests.iter().for_each(|manifest| edit(manifest, |row| set(row, "file_path", place)));
            }
        }
    }

    /// What a manifest says of a file: its size, so that a reader believes it.
    pub fn say_size(&mut self, size: u64) {
        let size = i64::try_from(size).expect("a size");
        for manifest in self.manifests(0) {
            edit(&manifest, |row| {
                if let Some(value) = field(row, "file_size_in_bytes") {
                    *value = Avro::Long(size);
                }
            });
        }
    }

    /// Writes the metadata file, and gives its location.
    pub fn save(&self) -> String {
        let file = self.dir.join("metadata/99999-forged.metadata.json");
        fs::write(&file, self.metadata.to_string()).expect("a metadata file");
        uri(&file)
    }
}

/// Enters a table into an embedded catalog, behind the back of the gateway that serves it.
pub async fn register(lake: &Path, namespace: &str, table: &str, location: &str) {
    let options = SqliteConnectOptions::new().filename(lake.join("catalog.db"));
    let database = SqlitePool::connect_with(options).await.expect("the catalog's database");
    sqlx::query(
        "INSERT OR REPLACE INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)
         VALUES ('polynya', ?, ?, ?, 'TABLE')",
    )
    .bind(namespace)
    .bind(table)
    .bind(location)
    .execute(&database)
    .await
    .expect("a row");
    database.close().await;
}

/// Changes each row of an Avro file in place; its schema and its own metadata stay.
pub fn edit(file: &Path, mut change: impl FnMut(&mut Avro)) {
    let bytes = fs::read(file).expect("an Avro file");
    let reader = Reader::new(&bytes[..]).expect("an Avro file");
    let (schema, head) = (reader.writer_schema().clone(), reader.user_metadata().clone());
    let mut writer = Writer::new(&schema, Vec::new());
    for (key, value) in head {
        writer.add_user_metadata(key, value).expect("a key");
    }
    for row in reader {
        let mut row = row.expect("a row");
        change(&mut row);
        writer.append(row).expect("a row");
    }
    fs::write(file, writer.into_inner().expect("an Avro file")).expect("a file");
}

/// Changes each text of an Avro file.
fn rewrite(file: &Path, change: impl Fn(&mut String)) {
    edit(file, |row| texts(row, &change));
}

fn texts(value: &mut Avro, change: &impl Fn(&mut String)) {
    match value {
        Avro::String(text) => change(text),
        Avro::Record(fields) => fields.iter_mut().for_each(|(_, value)| texts(value, change)),
        Avro::Array(items) => items.iter_mut().for_each(|item| texts(item, change)),
        Avro::Union(_, value) => texts(value, change),
        _ => {}
    }
}

/// A field of a record or of a record in it.
fn field<'a>(value: &'a mut Avro, name: &str) -> Option<&'a mut Avro> {
    match value {
        Avro::Record(fields) => {
            let at = fields.iter().position(|(field, _)| field == name);
            match at {
                Some(at) => Some(bare(&mut fields[at].1)),
                None => fields.iter_mut().find_map(|(_, value)| field(value, name)),
            }
        }
        Avro::Union(_, value) => field(value, name),
        _ => None,
    }
}

fn bare(value: &mut Avro) -> &mut Avro {
    match value {
        Avro::Union(_, inside) => inside,
        other => other,
    }
}

fn set(row: &mut Avro, name: &str, text: &str) {
    *field(row, name).unwrap_or_else(|| panic!("no {name}")) = Avro::String(text.to_owned());
}
