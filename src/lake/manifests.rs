//! Owns what manifest lists and manifests say: which files make up a snapshot, how large they are, and in which partition they lie.
//! Refuses to read any file.

use iceberg::spec::{
    DataContentType, Datum, FormatVersion, Literal, Manifest, ManifestList, PartitionField, StructType, Transform, Type,
};

/// The most that a list and a manifest may be unpacked, in bytes. Writers aim at manifests of 8 MB, packed.
const MAX_LIST: u64 = 64 << 20;
const MAX_MANIFEST: u64 = 256 << 20;
/// The most records of a list or a manifest: parsed, each takes a kilobyte and more, however little it takes in the file.
const MAX_RECORDS: u64 = 200_000;

/// A manifest, as the list of its snapshot names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestAt {
    /// Where it lies.
    pub location: String,
    /// How long it is, in bytes.
    pub length: u64,
    /// The snapshot that added it: that of files which do not say it themselves.
    pub added_by: i64,
    /// How its snapshot's files are partitioned.
    pub spec: i32,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveFile {
    /// 0: rows; 1: positions of rows that are deleted; 2: values by which rows are deleted.
    pub content: i32,
    /// Where it lies.
    pub path: String,
    /// Such as `PARQUET`.
    pub format: String,
    /// How it is partitioned.
    pub spec: i32,
    /// The values of its partition as text, each with the name of its field; empty in a table without partitions.
    pub partition: Vec<(String, Option<String>)>,
    /// Its rows.
    pub records: u64,
    /// Its bytes.
    pub bytes: u64,
    /// The order of its rows, if they have one.
    pub sort_order: Option<i32>,
    /// The snapshot that added it.
    pub added_by: i64,
}

/// The manifests of a list of so many bytes unpacked at the most, each with its length in bytes. `None` when it is no manifest list, or
/// too large. Parsed it takes up to a hundred times as much memory.
#[must_use]
pub fn manifests(list: &[u8], max_unpacked: u64) -> Option<Vec<(String, u64)>> {
    Some(listed(list, max_unpacked)?.into_iter().map(|manifest| (manifest.location, manifest.length)).collect())
}

/// The manifests of a list. `None` when it is no manifest list, or too large.
#[must_use]
pub fn manifest_list(list: &[u8]) -> Option<Vec<ManifestAt>> {
    listed(list, MAX_LIST)
}

fn listed(list: &[u8], max_unpacked: u64) -> Option<Vec<ManifestAt>> {
    super::container::unpacked_bytes(list, max_unpacked, MAX_RECORDS)?;
    let versions = [FormatVersion::V2, FormatVersion::V3, FormatVersion::V1];
    let list = versions.into_iter().find_map(|version| ManifestList::parse_with_version(list, version).ok())?;
    let named = list.entries().iter().map(|manifest| ManifestAt {
        location: manifest.manifest_path.clone(),
        length: u64::try_from(manifest.manifest_length).unwrap_or(u64::MAX),
        added_by: manifest.added_snapshot_id,
        spec: manifest.partition_spec_id,
    });
    Some(named.collect())
}

/// The files that a manifest says are there. `None` when it cannot be read, or is too large.
#[must_use]
pub fn live_files(at: &ManifestAt, manifest: &[u8]) -> Option<Vec<LiveFile>> {
    let (entries, metadata) = parsed(manifest, MAX_MANIFEST)?.into_parts();
    let spec = metadata.partition_spec();
    let types = spec.partition_type(metadata.schema()).ok()?;
    let live = entries.iter().filter(|entry| entry.is_alive()).map(|entry| {
        let file = entry.data_file();
        LiveFile {
            content: file.content_type() as i32,
            path: file.file_path().to_owned(),
            format: file.file_format().to_string().to_uppercase(),
            spec: at.spec,
            partition: partition(spec.fields(), &types, file.partition().fields()),
            records: file.record_count(),
            bytes: file.file_size_in_bytes(),
            sort_order: file.sort_order_id(),
            added_by: entry.snapshot_id().unwrap_or(at.added_by),
        }
    });
    Some(live.collect())
}

fn partition(fields: &[PartitionField], types: &StructType, values: &[Option<Literal>]) -> Vec<(String, Option<String>)> {
    let value = |(at, field): (usize, &PartitionField)| {
        let value = values.get(at).and_then(Option::as_ref).zip(types.fields().get(at));
        let text = value.and_then(|(value, type_of)| text(field.transform, &type_of.field_type, value));
        (field.name.clone(), text)
    };
    fields.iter().enumerate().map(value).collect()
}

/// A value as Iceberg writes it into paths.
fn text(transform: Transform, type_of: &Type, value: &Literal) -> Option<String> {
    if !type_of.is_primitive() {
        return None;
    }
    let text = Transform::Identity.to_human_string(type_of, Some(value));
    let number = || text.parse::<i64>().ok();
    match transform {
        Transform::Void => None,
        Transform::Year => Some(number().map_or(text.clone(), |years| (1970 + years).to_string())),
        Transform::Month => Some(
            number()
                .map_or(text.clone(), |months| format!("{:04}-{:02}", 1970 + months.div_euclid(12), 1 + months.rem_euclid(12))),
        ),
        Transform::Hour => Some(number().map_or(text.clone(), |hours| {
            let day = Datum::date(i32::try_from(hours.div_euclid(24)).unwrap_or_default()).to_human_string();
            format!("{day}-{:02}", hours.rem_euclid(24))
        })),
        _ => Some(text),
    }
}

/// A data file of a manifest, with its length in bytes; `None` when it has none, or is no manifest.
#[must_use]
pub fn data_file(manifest: &[u8]) -> Option<(String, u64)> {
    let manifest = parsed(manifest, MAX_MANIFEST)?;
    let mut alive = manifest.entries().iter().filter(|entry| entry.is_alive());
    let entry = alive.find(|entry| entry.content_type() == DataContentType::Data)?;
    Some((entry.file_path().to_owned(), entry.file_size_in_bytes()))
}

/// The files of a manifest that are not deleted, each with its length in bytes. `None` when it is no manifest, or has more than so many
/// bytes unpacked.
#[must_use]
pub fn files(manifest: &[u8], max_unpacked: u64) -> Option<Vec<(String, u64)>> {
    let manifest = parsed(manifest, max_unpacked)?;
    let alive = manifest.entries().iter().filter(|entry| entry.is_alive());
    Some(alive.map(|entry| (entry.file_path().to_owned(), entry.file_size_in_bytes())).collect())
}

/// A manifest; `None` when it is none, or too large to be unpacked.
fn parsed(manifest: &[u8], max_unpacked: u64) -> Option<Manifest> {
    super::container::unpacked_bytes(manifest, max_unpacked, MAX_RECORDS)?;
    Manifest::parse_avro(manifest).ok()
}
