//! Owns what a table's metadata say of its past: its snapshots, which of them was current when, and what names stand for them. Refuses to
//! open any file.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::LakeError;
use super::order::{of_list, put_log_in_order};
use super::trim::current_snapshot;
use super::types::{Column, columns_of_schema};
use crate::as_of::AsOf;

/// A table's metadata, read for its past by a statement that began then.
#[derive(Debug)]
pub struct History(Value, AsOf);

/// A state of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: i64,
    /// That of the snapshot that it was made on.
    pub parent: Option<i64>,
    /// When it was committed.
    pub committed: AsOf,
    /// What its commit did, such as `append`.
    pub operation: Option<String>,
    /// Where the list of its manifests lies.
    pub manifest_list: Option<String>,
    /// What its writer says of it, in order.
    pub summary: Vec<(String, String)>,
    /// The schema that it was written with.
    schema: Option<i64>,
}

/// A snapshot became the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub made_current: AsOf,
    /// Which.
    pub snapshot: i64,
    /// That of the snapshot that it was made on, as far as it is still known.
    pub parent: Option<i64>,
    /// The current snapshot comes from it.
    pub is_ancestor: bool,
}

/// Which state of a table is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// The current one.
    Now,
    /// The one that was current then.
    Instant(AsOf),
    /// The one of this id, or of the branch or tag of this name.
    Version(String),
}

impl History {
    /// Reads the answer to a load, for a statement that began then: nothing that it is shown was made later.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(answer: &[u8], begun: AsOf) -> Result<Self, LakeError> {
        let mut answer: Value = serde_json::from_slice(answer).map_err(|error| LakeError::Invalid(error.to_string()))?;
        Ok(Self(answer["metadata"].take(), begun))
    }

    /// All snapshots that are kept, in the order of their commits.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let mut snapshots: Vec<Snapshot> = self.raw_snapshots().iter().filter_map(snapshot).collect();
        snapshots.sort_by_key(|snapshot| (snapshot.committed, snapshot.parent.is_some(), snapshot.id));
        snapshots
    }

    /// When which snapshot was made the current one, the oldest first.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let known = self.known();
        let ancestors: HashSet<i64> = self.ancestors(&known).into_iter().map(|(id, _)| id).collect();
        of_list(&self.0, "snapshot-log")
            .map(|(id, ms)| Change {
                made_current: AsOf::from_ms(ms),
                snapshot: id,
                parent: known.get(&id).and_then(|(parent, _)| *parent),
                is_ancestor: ancestors.contains(&id),
            })
            .collect()
    }

    /// The state that is meant; `None` for a table that has never had a snapshot, and has no rows.
    ///
    /// # Errors
    /// With what there is instead, when there is no such state.
    pub fn at(&self, when: &When) -> Result<Option<Snapshot>, String> {
        match when {
            When::Now => current_snapshot(&self.0).map(|id| self.kept(id)).transpose(),
            When::Version(version) => self.version(version).map(Some),
            When::Instant(instant) => self.instant(*instant),
        }
    }

    /// The columns of a state.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn columns(&self, snapshot: Option<&Snapshot>) -> Result<Vec<Column>, LakeError> {
        columns_of_schema(&self.0, snapshot.and_then(|snapshot| snapshot.schema))
    }

    fn raw_snapshots(&self) -> &[Value] {
        self.0["snapshots"].as_array().map_or(&[][..], Vec::as_slice)
    }

    fn snapshot(&self, id: i64) -> Option<Snapshot> {
        self.raw_snapshots().iter().find(|snapshot| snapshot["snapshot-id"].as_i64() == Some(id)).and_then(snapshot)
    }

    /// The current snapshot, which is always kept.
    fn kept(&self, id: i64) -> Result<Snapshot, String> {
        self.snapshot(id).ok_or_else(|| format!("does not keep snapshot {id}, which is its current one: {}", self.there()))
    }

    fn version(&self, version: &str) -> Result<Snapshot, String> {
        let named = self.0["refs"][version]["snapshot-id"].as_i64();
        let id = named.or_else(|| version.trim().parse().ok());
        id.and_then(|id| self.snapshot(id)).ok_or_else(|| {
            let names: Vec<String> =
                self.0["refs"].as_object().into_iter().flatten().map(|(name, _)| format!("\"{name}\"")).collect();
            let names = if names.is_empty() { String::new() } else { format!("; branches and tags are {}", names.join(", ")) };
            let missing = if id.is_some() { "snapshot" } else { "branch or tag" };
            format!("has no {missing} {}: {}{names}", version.chars().take(64).collect::<String>(), self.there())
        })
    }

    /// What was current then by the log of the table, which knows of rollbacks; where a catalog keeps none, by the line of the current
    /// snapshot.
    fn instant(&self, instant: AsOf) -> Result<Option<Snapshot>, String> {
        let mut log: Vec<(i64, i64)> = of_list(&self.0, "snapshot-log").collect();
        if log.is_empty() {
            log = self.ancestors(&self.known()).into_iter().rev().map(|(id, committed)| (id, committed.ms())).collect();
        }
        // Writers' clocks differ, and one of them may be ahead of this one; the order of their commits is sure.
        put_log_in_order(&mut log, self.1.ms());
        let then = log.iter().rev().find(|(_, ms)| *ms <= instant.ms()).map(|(id, _)| *id);
        match then {
            Some(id) => self
                .snapshot(id)
                .map(Some)
                .ok_or_else(|| format!("does not keep snapshot {id} any more, which was current at {instant}: {}", self.there())),
            None if self.raw_snapshots().is_empty() && self.created().is_none_or(|created| created <= instant) => Ok(None),
            None => Err(match self.created().filter(|created| *created > instant) {
                Some(created) => format!("did not exist at {instant}: it is of {created}"),
                None => format!("has no snapshot of {instant} or before: {}", self.there()),
            }),
        }
    }

    /// When it was made, unless so many changes have been made since that this is forgotten.
    fn created(&self) -> Option<AsOf> {
        let log = self.0["metadata-log"].as_array().map_or(&[][..], Vec::as_slice);
        let first = log.first().map_or(&self.0["last-updated-ms"], |entry| &entry["timestamp-ms"]);
        // The first file of a table is numbered 0; others are kept only so long.
        let is_first = log.first().is_none_or(|entry| {
            let file = entry["metadata-file"].as_str().and_then(|file| file.rsplit('/').next()).unwrap_or_default();
            file.starts_with("00000-") || file.starts_with("v1.") || file.starts_with("v0.")
        });
        // A table that a catalog has taken over is older than what it knows of it.
        let oldest = self.snapshots().first().map(|snapshot| snapshot.committed);
        let created = first.as_i64().filter(|_| is_first).map(AsOf::from_ms);
        created.filter(|created| oldest.is_none_or(|oldest| *created <= oldest))
    }

    /// Each snapshot's parent, and when it was committed.
    fn known(&self) -> HashMap<i64, (Option<i64>, AsOf)> {
        let of = |raw: &Value| {
            let committed = AsOf::from_ms(raw["timestamp-ms"].as_i64()?);
            Some((raw["snapshot-id"].as_i64()?, (raw["parent-snapshot-id"].as_i64(), committed)))
        };
        self.raw_snapshots().iter().filter_map(of).collect()
    }

    /// The current snapshot and those that it comes from, the youngest first, each with when it was committed.
    fn ancestors(&self, known: &HashMap<i64, (Option<i64>, AsOf)>) -> Vec<(i64, AsOf)> {
        let mut found = Vec::new();
        let mut next = current_snapshot(&self.0);
        // No line is longer than there are snapshots, whatever the metadata say.
        while let Some((id, (parent, committed))) = next.and_then(|id| Some((id, known.get(&id)?))) {
            if found.len() >= known.len() {
                break;
            }
            found.push((id, *committed));
            next = *parent;
        }
        found
    }

    /// For messages: which snapshots there are.
    fn there(&self) -> String {
        let shown = |snapshot: &Snapshot| format!("{} of {}", snapshot.id, snapshot.committed);
        match self.snapshots().as_slice() {
            [] => "it has none".to_owned(),
            [only] => format!("its only one is {}", shown(only)),
            [oldest, .., newest] => {
                format!("it has {}, the oldest {}, the newest {}", self.raw_snapshots().len(), shown(oldest), shown(newest))
            }
        }
    }
}

fn snapshot(raw: &Value) -> Option<Snapshot> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let summary = raw["summary"].as_object().into_iter().flatten();
    let mut summary: Vec<(String, String)> = summary
        .filter(|(name, _)| *name != "operation")
        .map(|(name, value)| (name.clone(), text(value).unwrap_or_else(|| value.to_string())))
        .collect();
    summary.sort();
    Some(Snapshot {
        id: raw["snapshot-id"].as_i64()?,
        parent: raw["parent-snapshot-id"].as_i64(),
        committed: AsOf::from_ms(raw["timestamp-ms"].as_i64()?),
        operation: text(&raw["summary"]["operation"]),
        manifest_list: text(&raw["manifest-list"]),
        summary,
        schema: raw["schema-id"].as_i64(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Behind all that is in these tests.
    const LATER: AsOf = AsOf::from_ms(1 << 40);

    /// Created at 100; 1 at 200, 2 at 300, rolled back to 1 at 400, 3 on it at 500; 9 on a branch at 450.
    fn history() -> History {
        let snapshot = |id: i64, parent: Option<i64>, at: i64, schema: i64| {
            json!({ "snapshot-id": id, "parent-snapshot-id": parent, "timestamp-ms": at, "schema-id": schema,
                "manifest-list": format!("s3://w/t/{id}"), "summary": { "operation": "append", "total-records": "7" } })
        };
        let made = |id: i64, at: i64| json!({ "snapshot-id": id, "timestamp-ms": at });
        let field = |id: i64, name: &str| json!({ "id": id, "name": name, "type": "int", "required": false });
        History(
            json!({
                "current-snapshot-id": 3, "last-updated-ms": 500, "current-schema-id": 1,
                "snapshots": [snapshot(1, None, 200, 0), snapshot(2, Some(1), 300, 0), snapshot(9, Some(1), 450, 1), snapshot(3, Some(1), 500, 1)],
                "snapshot-log": [made(1, 200), made(2, 300), made(1, 400), made(3, 500)],
                "metadata-log": [{ "metadata-file": "s3://w/t/00000-x.metadata.json", "timestamp-ms": 100 }],
                "refs": { "main": { "snapshot-id": 3, "type": "branch" }, "audited": { "snapshot-id": 2, "type": "tag" } },
                "schemas": [{ "schema-id": 0, "fields": [field(1, "a")] }, { "schema-id": 1, "fields": [field(1, "a"), field(2, "b")] }],
            }),
            LATER,
        )
    }

    fn id(history: &History, when: When) -> Result<Option<i64>, String> {
        history.at(&when).map(|snapshot| snapshot.map(|snapshot| snapshot.id))
    }

    fn instant(ms: i64) -> When {
        When::Instant(AsOf::from_ms(ms))
    }

    #[test]
    fn what_was_current_then_knows_of_rollbacks_and_nothing_of_branches() {
        let history = history();
        for (at, expected) in [(200, 1), (299, 1), (300, 2), (399, 2), (400, 1), (450, 1), (499, 1), (500, 3), (10_000, 3)] {
            assert_eq!(id(&history, instant(at)), Ok(Some(expected)), "{at}");
        }
        assert_eq!(id(&history, When::Now), Ok(Some(3)));
        let told = id(&history, instant(150)).unwrap_err();
        assert!(told.contains("no snapshot of 1970-01-01T00:00:00.150Z or before: it has 4, the oldest 1 of"), "{told}");
        let told = id(&history, instant(99)).unwrap_err();
        assert_eq!(told, "did not exist at 1970-01-01T00:00:00.099Z: it is of 1970-01-01T00:00:00.100Z");
    }

    #[test]
    fn without_a_log_the_line_of_the_current_snapshot_counts() {
        let mut history = history();
        history.0["snapshot-log"] = json!([]);
        for (at, expected) in [(200, 1), (499, 1), (500, 3)] {
            assert_eq!(id(&history, instant(at)), Ok(Some(expected)), "{at}");
        }
        history.0["snapshots"][0]["parent-snapshot-id"] = json!(3);
        assert!(id(&history, instant(1)).is_err(), "a line that goes round in circles ends");
    }

    #[test]
    fn versions_are_ids_and_names() {
        let history = history();
        for (version, expected) in [("2", 2), ("9", 9), ("audited", 2), ("main", 3)] {
            assert_eq!(id(&history, When::Version(version.to_owned())), Ok(Some(expected)), "{version}");
        }
        let told = id(&history, When::Version("5".to_owned())).unwrap_err();
        assert!(
            told.starts_with("has no snapshot 5: it has 4, the oldest 1 of 1970") && told.contains("\"audited\", \"main\""),
            "{told}"
        );
        let told = id(&history, When::Version("x".to_owned())).unwrap_err();
        assert!(told.starts_with("has no branch or tag x: "), "{told}");
    }

    #[test]
    fn a_snapshot_that_has_expired_is_named() {
        let mut history = history();
        history.0["snapshots"].as_array_mut().unwrap().remove(1);
        let told = id(&history, instant(300)).unwrap_err();
        assert!(told.starts_with("does not keep snapshot 2 any more, which was current at"), "{told}");
    }

    #[test]
    fn a_current_snapshot_that_is_not_there_is_told() {
        let mut history = history();
        history.0["current-snapshot-id"] = json!(7);
        let told = id(&history, When::Now).unwrap_err();
        assert!(told.starts_with("does not keep snapshot 7, which is its current one: it has 4"), "{told}");
    }

    #[test]
    fn a_table_without_snapshots_is_empty_since_it_is_there() {
        let history = History(json!({ "snapshots": [], "last-updated-ms": 100 }), LATER);
        assert_eq!((id(&history, When::Now), id(&history, instant(100))), (Ok(None), Ok(None)));
        assert!(id(&history, instant(99)).unwrap_err().starts_with("did not exist at"));
        assert!(id(&history, When::Version("1".to_owned())).unwrap_err().ends_with("it has none"));
    }

    #[test]
    fn columns_are_those_of_the_snapshot() {
        let history = history();
        let names = |version: &str| {
            let snapshot = history.at(&When::Version(version.to_owned())).unwrap();
            history.columns(snapshot.as_ref()).unwrap().into_iter().map(|column| column.name).collect::<Vec<_>>()
        };
        assert_eq!((names("1"), names("3")), (vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn the_log_tells_ancestors_from_what_was_rolled_back() {
        let told: Vec<(i64, bool)> = history().changes().iter().map(|change| (change.snapshot, change.is_ancestor)).collect();
        assert_eq!(told, [(1, true), (2, false), (1, true), (3, true)]);
        assert_eq!(history().snapshots().iter().map(|snapshot| snapshot.id).collect::<Vec<_>>(), [1, 2, 9, 3]);
    }
}
