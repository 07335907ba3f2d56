//! Owns tables that a warehouse shows without having them: thousands, each made up when it is asked for. They can be listed, loaded,
//! read as empty tables and dropped. Refuses to change them in any other way.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use polynya::names::Namespace;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// How many there are: `many_000.t_0000` and so on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratedSetup {
    pub namespaces: usize,
    /// In each namespace.
    pub tables: usize,
    /// Of each table.
    pub columns: usize,
}

impl GeneratedSetup {
    /// The names of the namespaces, in order.
    pub fn namespaces(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.namespaces).map(|number| format!("many_{number:03}"))
    }
}

/// The tables of a warehouse.
pub struct Generated {
    setup: GeneratedSetup,
    /// Held for a look.
    dropped: Mutex<HashSet<(String, String)>>,
}

const TYPES: [&str; 6] = ["long", "string", "decimal(12, 2)", "date", "timestamptz", "double"];

impl Generated {
    pub fn new(setup: GeneratedSetup) -> Self {
        Self { setup, dropped: Mutex::default() }
    }

    /// The names of a namespace's tables, in order.
    pub fn tables(&self, namespace: &Namespace) -> Vec<String> {
        let namespace = namespace.to_string();
        if !self.has_namespace(&namespace) {
            return Vec::new();
        }
        let dropped = self.dropped();
        let is_there = |table: &String| !dropped.contains(&(namespace.clone(), table.clone()));
        (0..self.setup.tables).map(|number| format!("t_{number:04}")).filter(is_there).collect()
    }

    pub fn has(&self, namespace: &Namespace, table: &str) -> bool {
        let namespace = namespace.to_string();
        number(table, "t_", 4).is_some_and(|number| number < self.setup.tables)
            && self.has_namespace(&namespace)
            && !self.dropped().contains(&(namespace, table.to_owned()))
    }

    /// Drops one; says whether it was there.
    pub fn drop_table(&self, namespace: &Namespace, table: &str) -> bool {
        self.has(namespace, table) && self.dropped().insert((namespace.to_string(), table.to_owned()))
    }

    /// Metadata of a table that lies here, as a Polaris shows it.
    pub fn metadata(&self, location: &str) -> String {
        let digest = Sha256::digest(location.as_bytes());
        let uuid = Uuid::from_slice(&digest[..16]).unwrap_or_default();
        let mut fields = String::new();
        for number in 1..=self.setup.columns {
            let (comma, of) = (if number == 1 { "" } else { "," }, TYPES[number % TYPES.len()]);
            let _ = write!(fields, r#"{comma}{{"id":{number},"name":"column_{number:02}","required":false,"type":"{of}"}}"#);
        }
        format!(
            r#"{{"format-version":2,"table-uuid":"{uuid}","location":"{location}","last-sequence-number":0,"last-updated-ms":1700000000000,"last-column-id":{columns},"current-schema-id":0,"schemas":[{{"type":"struct","schema-id":0,"fields":[{fields}]}}],"default-spec-id":0,"partition-specs":[{{"spec-id":0,"fields":[]}}],"last-partition-id":999,"default-sort-order-id":0,"sort-orders":[{{"order-id":0,"fields":[]}}],"properties":{{}},"current-snapshot-id":-1,"refs":{{}},"snapshots":[],"statistics":[],"partition-statistics":[],"snapshot-log":[],"metadata-log":[]}}"#,
            columns = self.setup.columns
        )
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        number(namespace, "many_", 3).is_some_and(|number| number < self.setup.namespaces)
    }

    fn dropped(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number in a name such as `t_0042`.
fn number(name: &str, before: &str, digits: usize) -> Option<usize> {
    name.strip_prefix(before).filter(|rest| rest.len() >= digits)?.parse().ok()
}
