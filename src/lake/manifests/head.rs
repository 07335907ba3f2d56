//! Owns what the head of a file may say, before a decoder believes it: schemas are held in memory with names that are copied into each
//! other, and a specification makes values in each record that no record holds. Refuses to read records.

use serde_json::Value;

use super::Unreadable;
use super::container::Container;
use crate::lake::bounds::{self, Excess};

/// Bytes of a name, of a namespace, or of another name for the same. The names of columns are among them.
const MAX_NAME: usize = 1024;

/// A namespace goes into every name below it.
const MAX_NAMESPACE: usize = 256;
const MAX_ALIASES: usize = 16;

/// Fields by which a table is partitioned: each is a value of each record, whether it is there or not.
const MAX_PARTITION_FIELDS: usize = 200;

/// What a head says that can be believed.
pub(super) struct Head {
    /// What records look like, in Avro's words.
    pub(super) schema: Value,
    /// How many values a reader adds to each record.
    pub(super) filled_in: u64,
}

impl Head {
    /// # Errors
    /// When the head says what would cost far more than its bytes, or nothing of records.
    pub(super) fn read(container: &Container<'_>) -> Result<Self, Unreadable> {
        let schema = read(container.schema().ok_or(Unreadable::Broken)?.as_bytes())?;
        check_names(&schema)?;
        for table in container.said(b"schema") {
            bounds::check_schema(&read(table)?).map_err(|excess| match excess {
                Excess::Depth => Unreadable::Deep,
                Excess::Names => Unreadable::Said("MB of names of fields", bounds::MAX_PATHS >> 20),
            })?;
        }
        let mut filled_in = 0;
        for spec in container.said(b"partition-spec") {
            let spec = read(spec)?;
            let fields = spec.get("fields").unwrap_or(&spec).as_array().map_or(0, Vec::len);
            if fields > MAX_PARTITION_FIELDS {
                return Err(Unreadable::Said("partition fields", MAX_PARTITION_FIELDS));
            }
            filled_in = filled_in.max(fields as u64);
        }
        Ok(Self { schema, filled_in })
    }
}

fn read(json: &[u8]) -> Result<Value, Unreadable> {
    serde_json::from_slice(json).map_err(|_| Unreadable::Broken)
}

/// Of an Avro schema, as deep as JSON goes.
fn check_names(schema: &Value) -> Result<(), Unreadable> {
    match schema {
        Value::Array(all) => all.iter().try_for_each(check_names),
        Value::Object(object) => {
            let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
            let name = text("name");
            if name.len() > MAX_NAME {
                return Err(Unreadable::Said("bytes in a name", MAX_NAME));
            }
            let before = name.rsplit_once('.').map_or("", |(before, _)| before);
            if before.len().max(text("namespace").len()) > MAX_NAMESPACE {
                return Err(Unreadable::Said("bytes in a namespace", MAX_NAMESPACE));
            }
            // Its bytes lie there as they are, and the decoder looks for a length.
            if (text("type"), text("logicalType")) == ("fixed", "uuid") {
                return Err(Unreadable::Unsupported("a column of UUIDs"));
            }
            let aliases = object.get("aliases").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let is_long = |alias: &Value| alias.as_str().is_some_and(|alias| alias.len() > MAX_NAME);
            if aliases.len() > MAX_ALIASES || aliases.iter().any(is_long) {
                return Err(Unreadable::Said("other names for one", MAX_ALIASES));
            }
            object.values().try_for_each(check_names)
        }
        _ => Ok(()),
    }
}
