//! Owns what a reader gets to see of a table's metadata: the snapshots that can be read by name, as if they had always been there.
//! Refuses to know where the metadata comes from.
//!
//! DuckDB chooses a snapshot by comparing timestamps with the start of its transaction, by the worker's own clock. A commit a moment
//! younger than the transaction, or made under another clock, would be invisible. Backdated, the current snapshot is always old
//! enough. It must never be done for `AT (TIMESTAMP …)`, which would quietly read the wrong snapshot.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// The time of everything in trimmed metadata, in milliseconds since 1970.
const LONG_AGO_MS: i64 = 1;

/// Keeps the current snapshot and those that a branch or tag names, and backdates what is left.
pub fn trim(metadata: &mut Value) {
    let current = current_snapshot(metadata);
    let mut kept: BTreeSet<i64> = current.into_iter().collect();
    if let Some(refs) = metadata.get("refs").and_then(Value::as_object) {
        kept.extend(refs.values().filter_map(|reference| reference["snapshot-id"].as_i64()));
    }
    if let Some(snapshots) = metadata.get_mut("snapshots").and_then(Value::as_array_mut) {
        snapshots.retain(|snapshot| snapshot["snapshot-id"].as_i64().is_some_and(|id| kept.contains(&id)));
        for snapshot in snapshots {
            snapshot["timestamp-ms"] = json!(LONG_AGO_MS);
        }
    }
    if metadata.is_object() {
        let log = current.map(|id| json!({ "snapshot-id": id, "timestamp-ms": LONG_AGO_MS }));
        metadata["snapshot-log"] = Value::Array(log.into_iter().collect());
        metadata["metadata-log"] = json!([]);
        metadata["last-updated-ms"] = json!(LONG_AGO_MS);
    }
}

/// The current snapshot's id; `None` for a table without one, which some catalogs write as -1.
#[must_use]
pub fn current_snapshot(metadata: &Value) -> Option<i64> {
    metadata["current-snapshot-id"].as_i64().filter(|id| *id >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimmed_metadata_holds_the_current_and_named_snapshots_and_is_backdated() {
        let mut metadata = json!({
            "location": "file:///w/t",
            "last-updated-ms": 400,
            "last-sequence-number": 4,
            "current-snapshot-id": 3,
            "refs": {
                "main": { "snapshot-id": 3, "type": "branch" },
                "audited": { "snapshot-id": 1, "type": "tag" },
            },
            "snapshots": [
                { "snapshot-id": 1, "timestamp-ms": 100, "manifest-list": "a" },
                { "snapshot-id": 2, "timestamp-ms": 200, "manifest-list": "b" },
                { "snapshot-id": 3, "timestamp-ms": 300, "manifest-list": "c", "sequence-number": 3 },
            ],
            "snapshot-log": [
                { "snapshot-id": 1, "timestamp-ms": 100 },
                { "snapshot-id": 3, "timestamp-ms": 300 },
            ],
            "metadata-log": [{ "metadata-file": "x", "timestamp-ms": 100 }],
        });
        trim(&mut metadata);
        assert_eq!(
            metadata,
            json!({
                "location": "file:///w/t",
                "last-updated-ms": 1,
                "last-sequence-number": 4,
                "current-snapshot-id": 3,
                "refs": {
                    "main": { "snapshot-id": 3, "type": "branch" },
                    "audited": { "snapshot-id": 1, "type": "tag" },
                },
                "snapshots": [
                    { "snapshot-id": 1, "timestamp-ms": 1, "manifest-list": "a" },
                    { "snapshot-id": 3, "timestamp-ms": 1, "manifest-list": "c", "sequence-number": 3 },
                ],
                "snapshot-log": [{ "snapshot-id": 3, "timestamp-ms": 1 }],
                "metadata-log": [],
            })
        );
    }

    #[test]
    fn a_table_without_a_snapshot_stays_without_one() {
        for none in [json!(-1), Value::Null] {
            let mut metadata = json!({ "current-snapshot-id": none, "refs": {}, "snapshots": [], "last-updated-ms": 7 });
            trim(&mut metadata);
            assert_eq!(metadata["snapshots"], json!([]));
            assert_eq!(metadata["snapshot-log"], json!([]));
            assert_eq!(metadata["last-updated-ms"], json!(1));
        }
    }
}
