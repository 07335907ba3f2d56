//! Owns what manifest lists and manifests name. Refuses to read any file.

use iceberg::spec::{FormatVersion, Manifest, ManifestList};

/// The manifests of a list, each with its length in bytes. `None` when it is no manifest list.
#[must_use]
pub fn manifests(list: &[u8]) -> Option<Vec<(String, u64)>> {
    let versions = [FormatVersion::V2, FormatVersion::V3, FormatVersion::V1];
    let list = versions.into_iter().find_map(|version| ManifestList::parse_with_version(list, version).ok())?;
    let named = list.entries().iter().map(|manifest| (manifest.manifest_path.clone(), manifest.manifest_length));
    Some(named.map(|(path, length)| (path, u64::try_from(length).unwrap_or(u64::MAX))).collect())
}

/// The files of a manifest that are not deleted, each with its length in bytes. `None` when it is no manifest.
#[must_use]
pub fn files(manifest: &[u8]) -> Option<Vec<(String, u64)>> {
    let manifest = Manifest::parse_avro(manifest).ok()?;
    let alive = manifest.entries().iter().filter(|entry| entry.is_alive());
    Some(alive.map(|entry| (entry.file_path().to_owned(), entry.file_size_in_bytes())).collect())
}
