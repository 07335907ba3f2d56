//! Owns what manifest lists and manifests say: which files make up a snapshot, how large they are, and in which partition they lie.
//! Refuses to read any file.

mod container;
mod head;
mod shape;
mod slim;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use iceberg::spec::{
    DataContentType, Datum, FormatVersion, Literal, Manifest, ManifestList, PartitionField, PrimitiveLiteral, PrimitiveType,
    StructType, Transform, Type,
};

use self::slim::{Limits, slimmed};

/// Unpacked, nine tenths of a manifest and more are statistics of columns, which are left out before it is parsed. Writers aim at
/// manifests of 8 MB, packed.
const MANIFEST: Limits = Limits {
    // The schema of the table takes some 100 bytes a column, and more with comments.
    head: 4 << 20,
    unpacked: 256 << 20,
    left: 96 << 20,
    records: 200_000,
    values: 8_000_000,
    of_record: 20_000,
    passed: 400_000_000,
};
/// All records of a list are trees of values at once.
const LIST: Limits =
    Limits { head: 64 << 10, unpacked: 64 << 20, left: 64 << 20, records: 200_000, values: 4_000_000, ..MANIFEST };

/// Bytes of one value.
const MAX_VALUE: usize = 4 << 20;

/// Why a manifest or a list is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It cannot be.
    #[error("it is broken, or no such file")]
    Broken,
    /// Its head is too long.
    #[error("its head has more than {0} bytes")]
    Head(u64),
    /// It is too large.
    #[error("it has more than {0} bytes when it is unpacked")]
    Bytes(u64),
    /// It is too large even without statistics.
    #[error("it has more than {0} bytes without the statistics of columns")]
    Left(u64),
    /// There are too many records.
    #[error("it has more than {0} records")]
    Records(u64),
    /// There are too many values.
    #[error("it has more than {0} values")]
    Values(u64),
    /// There are too many values in one record.
    #[error("it has a record of more than {0} values")]
    OfRecord(u64),
    /// Its head says more of this than is believed.
    #[error("its head has more than {1} {0}")]
    Said(&'static str, usize),
    /// The library that decodes it does not know how.
    #[error("its table is partitioned by {0}, which is not supported here")]
    Unsupported(&'static str),
    /// Its schema goes too deep.
    #[error("its values lie too deep in each other")]
    Deep,
}

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
    pub partition: Vec<(Arc<str>, Option<String>)>,
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
/// too large.
#[must_use]
pub fn manifests(list: &[u8], max_unpacked: u64) -> Option<Vec<(String, u64)>> {
    let listed = listed(list, Limits { unpacked: max_unpacked.min(LIST.unpacked), ..LIST }).ok()?;
    Some(listed.into_iter().map(|manifest| (manifest.location, manifest.length)).collect())
}

/// The manifests of a list.
///
/// # Errors
/// When it is no manifest list, or too large.
pub fn manifest_list(list: &[u8]) -> Result<Vec<ManifestAt>, Unreadable> {
    listed(list, LIST)
}

fn listed(list: &[u8], limits: Limits) -> Result<Vec<ManifestAt>, Unreadable> {
    let read = contained(|| {
        let list = slimmed(list, limits)?;
        let versions = [FormatVersion::V2, FormatVersion::V3, FormatVersion::V1];
        let read = versions.into_iter().find_map(|version| ManifestList::parse_with_version(&list, version).ok());
        read.ok_or(Unreadable::Broken)
    })?;
    let named = read.consume_entries().into_iter().map(|manifest| ManifestAt {
        location: manifest.manifest_path,
        length: u64::try_from(manifest.manifest_length).unwrap_or(u64::MAX),
        added_by: manifest.added_snapshot_id,
        spec: manifest.partition_spec_id,
    });
    Ok(named.collect())
}

/// The files that a manifest says are there.
///
/// # Errors
/// When it is no manifest, or too large.
pub fn live_files(at: &ManifestAt, manifest: &[u8]) -> Result<Vec<LiveFile>, Unreadable> {
    contained(|| live_files_of(at, manifest))
}

fn live_files_of(at: &ManifestAt, manifest: &[u8]) -> Result<Vec<LiveFile>, Unreadable> {
    let (entries, metadata) = parsed(manifest, MANIFEST)?.into_parts();
    let spec = metadata.partition_spec();
    let types = spec.partition_type(metadata.schema()).map_err(|_| Unreadable::Broken)?;
    // A name may be long, and the files many.
    let names: Vec<Arc<str>> = spec.fields().iter().map(|field| Arc::from(field.name.as_str())).collect();
    let live = entries.into_iter().filter(|entry| entry.is_alive()).map(|entry| {
        let file = entry.data_file();
        LiveFile {
            content: file.content_type() as i32,
            path: file.file_path().to_owned(),
            format: file.file_format().to_string().to_uppercase(),
            spec: at.spec,
            partition: names.iter().cloned().zip(partition(spec.fields(), &types, file.partition().fields())).collect(),
            records: file.record_count(),
            bytes: file.file_size_in_bytes(),
            sort_order: file.sort_order_id(),
            added_by: entry.snapshot_id().unwrap_or(at.added_by),
        }
    });
    Ok(live.collect())
}

fn partition<'a>(
    fields: &'a [PartitionField],
    types: &'a StructType,
    values: &'a [Option<Literal>],
) -> impl Iterator<Item = Option<String>> {
    fields.iter().enumerate().map(|(at, field)| {
        let value = values.get(at).and_then(Option::as_ref).zip(types.fields().get(at));
        value.and_then(|(value, type_of)| text(field.transform, &type_of.field_type, value))
    })
}

/// A value for people.
fn human(type_of: &Type, value: &Literal, primitive: &PrimitiveLiteral) -> String {
    // Of times with a zone it cannot write those before 1970 with a part of a second; zones are all UTC.
    let (written_as, zone) = match (type_of, primitive) {
        (Type::Primitive(PrimitiveType::Timestamptz), PrimitiveLiteral::Long(n)) if n % 1_000_000 < 0 => {
            (&Type::Primitive(PrimitiveType::Timestamp), " UTC")
        }
        (Type::Primitive(PrimitiveType::TimestamptzNs), PrimitiveLiteral::Long(n)) if n % 1_000_000_000 < 0 => {
            (&Type::Primitive(PrimitiveType::TimestampNs), " UTC")
        }
        _ => (type_of, ""),
    };
    // It panics at points in time that are too far away.
    catch_unwind(|| Transform::Identity.to_human_string(written_as, Some(value)) + zone).unwrap_or_else(|_| number(primitive))
}

fn number(primitive: &PrimitiveLiteral) -> String {
    match primitive {
        PrimitiveLiteral::Int(number) => number.to_string(),
        PrimitiveLiteral::Long(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// A value as Iceberg writes it into paths.
fn text(transform: Transform, type_of: &Type, value: &Literal) -> Option<String> {
    let Literal::Primitive(primitive) = value else { return None };
    if !type_of.is_primitive() {
        return None;
    }
    let text = human(type_of, value, primitive);
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

/// A data file of a manifest, with its length in bytes, if it has one.
///
/// # Errors
/// When it is no manifest, or too large.
pub fn data_file(manifest: &[u8]) -> Result<Option<(String, u64)>, Unreadable> {
    let manifest = parsed(manifest, MANIFEST)?;
    let mut alive = manifest.entries().iter().filter(|entry| entry.is_alive());
    let entry = alive.find(|entry| entry.content_type() == DataContentType::Data);
    Ok(entry.map(|entry| (entry.file_path().to_owned(), entry.file_size_in_bytes())))
}

/// The files of a manifest that are not deleted, each with its length in bytes. `None` when it is no manifest, or has more than so many
/// bytes unpacked.
#[must_use]
pub fn files(manifest: &[u8], max_unpacked: u64) -> Option<Vec<(String, u64)>> {
    let manifest = parsed(manifest, Limits { unpacked: max_unpacked.min(MANIFEST.unpacked), ..MANIFEST }).ok()?;
    let alive = manifest.entries().iter().filter(|entry| entry.is_alive());
    Some(alive.map(|entry| (entry.file_path().to_owned(), entry.file_size_in_bytes())).collect())
}

/// A manifest, without statistics.
fn parsed(manifest: &[u8], limits: Limits) -> Result<Manifest, Unreadable> {
    contained(|| Manifest::parse_avro(&slimmed(manifest, limits)?).map_err(|_| Unreadable::Broken))
}

/// Reads by a decoder that panics at some files, such as those whose schema has a name that is none.
fn contained<T>(read: impl FnOnce() -> Result<T, Unreadable>) -> Result<T, Unreadable> {
    // No value that it is told the length of is longer, one of a file that it takes for another least of all.
    apache_avro::util::max_allocation_bytes(MAX_VALUE);
    // Nothing that it has changed is left behind: it reads bytes and makes its own values.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(Unreadable::Broken))
}
