//! Owns the estimate of how much there is to read in a table, from the summary of its current snapshot. Refuses to open any file: an
//! estimate must cost nothing.

use serde_json::Value;

use super::trim::current_snapshot;

/// What a value takes in Parquet, about, in bytes.
const BYTES_PER_VALUE: u64 = 4;

/// Bytes in the data files of the current snapshot: `total-files-size` of its summary, or, as some writers leave that out,
/// `total-records` times the number of columns times 4. 0 for a table without a snapshot and where nothing is said.
#[must_use]
pub fn data_bytes(metadata: &Value, columns: usize) -> u64 {
    let Some(current) = current_snapshot(metadata) else { return 0 };
    let snapshots = metadata["snapshots"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(snapshot) = snapshots.iter().find(|snapshot| snapshot["snapshot-id"].as_i64() == Some(current)) else { return 0 };
    let stated = |name: &str| snapshot["summary"][name].as_str().and_then(|number| number.parse::<u64>().ok());
    let by_records = || stated("total-records").map(|records| records.saturating_mul(columns as u64 * BYTES_PER_VALUE));
    stated("total-files-size").or_else(by_records).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_current_snapshot_s_summary_tells_the_size() {
        let table = |summary: Value| {
            json!({ "current-snapshot-id": 2, "snapshots": [
                { "snapshot-id": 1, "summary": { "total-files-size": "7" } },
                { "snapshot-id": 2, "summary": summary },
            ] })
        };
        assert_eq!(data_bytes(&table(json!({ "total-files-size": "900", "total-records": "10" })), 3), 900);
        assert_eq!(data_bytes(&table(json!({ "total-records": "10" })), 3), 120);
        for unknown in [json!({}), json!({ "total-records": "many" }), Value::Null] {
            assert_eq!(data_bytes(&table(unknown), 3), 0);
        }
        assert_eq!(data_bytes(&json!({ "current-snapshot-id": -1, "snapshots": [] }), 3), 0);
        assert_eq!(data_bytes(&table(json!({ "total-records": u64::MAX.to_string() })), 3), u64::MAX);
    }
}
