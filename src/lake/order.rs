//! Owns the order in time of a table's history, for who reads it by time or writes behind it. Refuses to know where the metadata comes
//! from.
//!
//! DuckDB takes the youngest snapshot that is not younger than its transaction, by the worker's own clock. Writers' clocks differ: a
//! commit made under one that is ahead would be invisible, and one made under a clock that is behind would be passed over for the one
//! before it, so that an UPDATE changes rows of the past or none. The history is in the order of the commits; times are made to agree
//! with it, by as little as possible. What readers get of a table instead is in [`trim`](super::trim).

use std::collections::HashMap;

use serde_json::{Value, json};

use super::trim::current_snapshot;

/// When the table was changed last, in milliseconds since 1970, if the times of its history agree with their order.
#[must_use]
pub fn last_ms(metadata: &Value) -> Option<i64> {
    let updated_ms = metadata["last-updated-ms"].as_i64().unwrap_or_default();
    let Some(head) = current_snapshot(metadata) else { return Some(updated_ms) };
    let snapshots: Vec<(i64, i64)> = of_list(metadata, "snapshots").collect();
    let (_, head_ms) = *snapshots.iter().find(|(id, _)| *id == head)?;
    let is_youngest = snapshots.iter().all(|(id, ms)| *id == head || *ms < head_ms);
    let log: Vec<(i64, i64)> = of_list(metadata, "snapshot-log").collect();
    let rises = log.windows(2).all(|pair| pair[0].1 < pair[1].1);
    let ends = log.last().is_none_or(|last| *last == (head, head_ms));
    (is_youngest && rises && ends).then_some(head_ms.max(updated_ms))
}

/// Makes the times of a history agree with its order, and none younger than `now_ms`.
pub fn put_in_order(metadata: &mut Value, now_ms: i64) {
    // DuckDB takes metadata that is younger than its transaction for one that it must not see, whatever is in it.
    if let Some(updated_ms) = metadata["last-updated-ms"].as_i64() {
        metadata["last-updated-ms"] = json!(updated_ms.min(now_ms));
    }
    let Some(head) = current_snapshot(metadata) else { return };
    let mut log: Vec<(i64, i64)> = of_list(metadata, "snapshot-log").collect();
    let is_logged = !log.is_empty();
    if log.last().is_none_or(|(id, _)| *id != head) {
        let of_head = of_list(metadata, "snapshots").find(|(id, _)| *id == head);
        log.extend(of_head);
    }
    put_log_in_order(&mut log, now_ms);
    let Some((_, head_ms)) = log.last().copied() else { return };
    if is_logged {
        metadata["snapshot-log"] = log.iter().map(|(id, ms)| json!({ "snapshot-id": id, "timestamp-ms": ms })).collect();
    }
    // Of one that was current twice, when it last became so.
    let times: HashMap<i64, i64> = log.into_iter().collect();
    for snapshot in metadata.get_mut("snapshots").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some((id, ms)) = dated(snapshot) else { continue };
        snapshot["timestamp-ms"] = json!(times.get(&id).copied().unwrap_or_else(|| ms.min(head_ms - 1)));
    }
}

/// Makes the times of these changes rise, and none younger than `now_ms`.
pub fn put_log_in_order(log: &mut [(i64, i64)], now_ms: i64) {
    for at in 1..log.len() {
        log[at].1 = log[at].1.max(log[at - 1].1 + 1);
    }
    let mut bound_ms = now_ms;
    for (_, ms) in log.iter_mut().rev() {
        *ms = bound_ms.min(*ms);
        bound_ms = *ms - 1;
    }
}

/// Ids and times of a list in metadata.
pub(super) fn of_list<'a>(metadata: &'a Value, list: &str) -> impl Iterator<Item = (i64, i64)> + use<'a> {
    metadata[list].as_array().into_iter().flatten().filter_map(dated)
}

fn dated(one: &Value) -> Option<(i64, i64)> {
    Some((one["snapshot-id"].as_i64()?, one["timestamp-ms"].as_i64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(log: &[(i64, i64)], beside: &[(i64, i64)]) -> Value {
        let list = |of: &[(i64, i64)]| -> Vec<Value> {
            of.iter().map(|(id, ms)| json!({ "snapshot-id": id, "timestamp-ms": ms })).collect()
        };
        let mut snapshots: Vec<(i64, i64)> = Vec::new();
        for one in log.iter().chain(beside) {
            if !snapshots.iter().any(|(id, _)| *id == one.0) {
                snapshots.push(*one);
            }
        }
        json!({ "current-snapshot-id": log.last().unwrap().0, "snapshots": list(&snapshots), "snapshot-log": list(log) })
    }

    fn ordered(log: &[(i64, i64)], beside: &[(i64, i64)], now_ms: i64) -> Value {
        let mut metadata = history(log, beside);
        put_in_order(&mut metadata, now_ms);
        assert!(last_ms(&metadata).unwrap() <= now_ms, "{metadata}");
        metadata
    }

    fn times(metadata: &Value) -> Vec<(i64, i64)> {
        of_list(metadata, "snapshots").collect()
    }

    #[test]
    fn a_history_in_order_stays_as_it_is() {
        let log = [(1, 100), (2, 200), (3, 300)];
        assert_eq!(last_ms(&history(&log, &[(9, 150)])), Some(300));
        assert_eq!(ordered(&log, &[(9, 150)], 300), history(&log, &[(9, 150)]));
        let mut empty = json!({ "current-snapshot-id": null, "snapshots": [], "last-updated-ms": 900 });
        assert_eq!(last_ms(&empty), Some(900));
        put_in_order(&mut empty, 400);
        assert_eq!(empty, json!({ "current-snapshot-id": null, "snapshots": [], "last-updated-ms": 400 }));
    }

    #[test]
    fn a_commit_under_a_clock_ahead_is_not_younger_than_now() {
        let metadata = ordered(&[(1, 100), (2, 5000), (3, 5001)], &[], 400);
        assert_eq!(times(&metadata), [(1, 100), (2, 399), (3, 400)]);
    }

    #[test]
    fn a_commit_under_a_clock_behind_is_younger_than_the_one_before_it() {
        assert_eq!(last_ms(&history(&[(1, 100), (2, 300), (3, 200)], &[])), None);
        let metadata = ordered(&[(1, 100), (2, 300), (3, 200)], &[], 400);
        assert_eq!(times(&metadata), [(1, 100), (2, 300), (3, 301)]);
    }

    #[test]
    fn a_table_that_was_rolled_back_has_its_head_and_no_branch_is_younger() {
        assert_eq!(last_ms(&history(&[(1, 100), (2, 200), (1, 300)], &[])), None);
        let metadata = ordered(&[(1, 100), (2, 200), (1, 300)], &[(7, 350)], 400);
        assert_eq!(times(&metadata), [(1, 300), (2, 200), (7, 299)]);
    }

    #[test]
    fn a_history_without_a_log_gets_none() {
        let mut metadata = history(&[(1, 100), (2, 900)], &[]);
        metadata["snapshot-log"] = json!([]);
        put_in_order(&mut metadata, 400);
        assert_eq!((times(&metadata), &metadata["snapshot-log"]), (vec![(1, 100), (2, 400)], &json!([])));
    }
}
