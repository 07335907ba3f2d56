//! Owns the making of table metadata: a new table from a create request, a new table from the updates of its first commit, and the
//! next version from a commit's requirements and updates. Refuses to know where metadata is kept.

use std::collections::HashMap;

use iceberg::spec::{FormatVersion, Schema, SortOrder, TableMetadata, TableMetadataBuilder, UnboundPartitionSpec};
use iceberg::{ErrorKind, TableCreation, TableRequirement, TableUpdate};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{LakeError, bounds};

/// The last partition field id of an unpartitioned table, by the Iceberg specification.
const NO_PARTITION_FIELD: i64 = 999;

/// The body of a create-table request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NewTable {
    /// The table's name.
    pub name: String,
    /// Where it shall lie; the catalog chooses when it is not given.
    #[serde(default)]
    pub location: Option<String>,
    /// An Iceberg schema.
    pub schema: Value,
    /// An Iceberg partition spec.
    #[serde(default)]
    pub partition_spec: Option<Value>,
    /// An Iceberg sort order.
    #[serde(default)]
    pub write_order: Option<Value>,
    /// Whether the table comes into being only with its first commit.
    #[serde(default)]
    pub stage_create: bool,
    /// Table properties; `format-version` chooses the format and is not kept.
    #[serde(default)]
    pub properties: Option<HashMap<String, String>>,
}

/// First metadata of a table as a create request describes it.
pub(super) fn create(table: NewTable, location: String) -> Result<TableMetadata, LakeError> {
    let mut properties = table.properties.unwrap_or_default();
    let format_version = match properties.remove("format-version").as_deref() {
        None | Some("2") => FormatVersion::V2,
        Some("1") => FormatVersion::V1,
        Some("3") => FormatVersion::V3,
        Some(other) => return Err(LakeError::Invalid(format!("format version {other} is not supported; 1, 2 and 3 are"))),
    };
    bounds::check_schema(&table.schema)?;
    let creation = TableCreation {
        name: table.name,
        location: Some(location),
        schema: parse::<Schema>("schema", table.schema)?,
        partition_spec: table.partition_spec.map(|spec| parse::<UnboundPartitionSpec>("partition spec", spec)).transpose()?,
        sort_order: table.write_order.map(|order| parse::<SortOrder>("write order", order)).transpose()?,
        properties,
        format_version,
    };
    let built = TableMetadataBuilder::from_table_creation(creation).and_then(TableMetadataBuilder::build).map_err(refused)?;
    Ok(built.metadata)
}

/// The metadata after a commit on `base`, whose file is `base_location`.
pub(super) fn next(
    base: TableMetadata,
    base_location: &str,
    requirements: &[Value],
    updates: &[Value],
) -> Result<TableMetadata, LakeError> {
    for requirement in requirements {
        let requirement: TableRequirement = parse("requirement", requirement.clone())?;
        requirement.check(Some(&base)).map_err(|error| LakeError::Conflict(short(&error)))?;
    }
    check_schemas(updates)?;
    apply(base.into_builder(Some(base_location.to_owned())), updates.iter().cloned())
}

fn check_schemas(updates: &[Value]) -> Result<(), LakeError> {
    Ok(updates.iter().filter_map(|update| update.get("schema")).try_for_each(bounds::check_schema)?)
}

/// The first metadata of a table whose creation was staged. Nothing is remembered from the staging: the commit says everything
/// again, and with the field ids under which its data files are already written.
pub(super) fn first(updates: &[Value], location: impl FnOnce() -> String) -> Result<TableMetadata, LakeError> {
    check_schemas(updates)?;
    let mut seed = Seed::default();
    let mut rest = Vec::new();
    for update in updates {
        if !seed.take(update) {
            rest.push(update.clone());
        }
    }
    let base: TableMetadata = parse("first commit", seed.metadata(location)?)?;
    apply(base.into_builder(None), rest)
}

/// Whether the commit is the first one of its table.
pub(super) fn creates(requirements: &[Value]) -> bool {
    requirements.iter().any(|requirement| requirement["type"] == "assert-create")
}

fn apply(mut builder: TableMetadataBuilder, updates: impl IntoIterator<Item = Value>) -> Result<TableMetadata, LakeError> {
    for update in updates {
        let update: TableUpdate = parse("update", update)?;
        builder = update.apply(builder).map_err(refused)?;
    }
    Ok(builder.build().map_err(refused)?.metadata)
}

/// The parts of a first commit that make up a table before its first snapshot.
#[derive(Default)]
struct Seed {
    uuid: Option<String>,
    format_version: Option<i64>,
    schema: Option<Value>,
    spec: Option<Value>,
    order: Option<Value>,
    location: Option<String>,
    properties: serde_json::Map<String, Value>,
}

impl Seed {
    /// Takes what belongs to the seed; says `false` when the update must be applied to it afterwards.
    fn take(&mut self, update: &Value) -> bool {
        match update["action"].as_str().unwrap_or_default() {
            "assign-uuid" => self.uuid = update["uuid"].as_str().map(str::to_owned),
            "upgrade-format-version" => self.format_version = update["format-version"].as_i64(),
            "set-location" => self.location = update["location"].as_str().map(str::to_owned),
            "add-schema" if self.schema.is_none() => self.schema = Some(update["schema"].clone()),
            "set-current-schema" => return is_seed(&self.schema, "schema-id", &update["schema-id"]),
            "add-spec" if self.spec.is_none() => self.spec = Some(update["spec"].clone()),
            "set-default-spec" => return is_seed(&self.spec, "spec-id", &update["spec-id"]),
            "add-sort-order" if self.order.is_none() => self.order = Some(update["sort-order"].clone()),
            "set-default-sort-order" => return is_seed(&self.order, "order-id", &update["sort-order-id"]),
            "set-properties" => self.properties.extend(update["updates"].as_object().cloned().unwrap_or_default()),
            _ => return false,
        }
        true
    }

    fn metadata(mut self, location: impl FnOnce() -> String) -> Result<Value, LakeError> {
        let mut schema = self.schema.ok_or_else(|| LakeError::Invalid("the first commit of a table has no schema".to_owned()))?;
        default_to(&mut schema, "schema-id", 0);
        let mut spec = self.spec.unwrap_or_else(|| json!({ "fields": [] }));
        default_to(&mut spec, "spec-id", 0);
        let mut last_partition_id = NO_PARTITION_FIELD;
        for field in spec["fields"].as_array_mut().into_iter().flatten() {
            default_to(field, "field-id", last_partition_id + 1);
            last_partition_id = last_partition_id.max(field["field-id"].as_i64().unwrap_or_default());
        }
        let mut order = self.order.unwrap_or_else(|| json!({ "fields": [] }));
        let unsorted = order["fields"].as_array().is_none_or(Vec::is_empty);
        default_to(&mut order, "order-id", i64::from(!unsorted));
        let stated = self.properties.remove("format-version").and_then(|version| version.as_str()?.parse().ok());
        let format_version = self.format_version.or(stated).unwrap_or(2);
        let mut metadata = json!({
            "format-version": format_version,
            "table-uuid": self.uuid.unwrap_or_else(|| Uuid::now_v7().to_string()),
            "location": self.location.unwrap_or_else(location),
            "last-sequence-number": 0,
            "last-updated-ms": 0,
            "last-column-id": highest_id(&schema),
            "current-schema-id": schema["schema-id"],
            "schemas": [schema],
            "default-spec-id": spec["spec-id"],
            "partition-specs": [spec],
            "last-partition-id": last_partition_id,
            "default-sort-order-id": order["order-id"],
            "sort-orders": [order],
            "properties": self.properties,
            "snapshots": [],
        });
        if format_version >= 3 {
            metadata["next-row-id"] = json!(0);
        }
        Ok(metadata)
    }
}

/// Whether an id names the seed's own part, by its id or as "the last one added".
fn is_seed(part: &Option<Value>, key: &str, id: &Value) -> bool {
    part.as_ref().is_some_and(|part| id.as_i64() == Some(-1) || part.get(key).is_none() || part[key] == *id)
}

fn default_to(object: &mut Value, key: &str, value: i64) {
    if let Some(object) = object.as_object_mut()
        && object.get(key).is_none_or(Value::is_null)
    {
        object.insert(key.to_owned(), json!(value));
    }
}

/// The highest field id in a schema, nested ones included.
fn highest_id(schema: &Value) -> i64 {
    match schema {
        Value::Object(members) => members
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "initial-default" | "write-default"))
            .map(|(key, value)| match key.as_str() {
                "id" | "element-id" | "key-id" | "value-id" => value.as_i64().unwrap_or_default(),
                _ => highest_id(value),
            })
            .max()
            .unwrap_or_default(),
        Value::Array(items) => items.iter().map(highest_id).max().unwrap_or_default(),
        _ => 0,
    }
}

fn parse<T: DeserializeOwned>(what: &str, value: Value) -> Result<T, LakeError> {
    serde_json::from_value(value).map_err(|error| LakeError::Invalid(format!("the {what} cannot be read: {error}")))
}

fn refused(error: iceberg::Error) -> LakeError {
    match error.kind() {
        ErrorKind::CatalogCommitConflicts => LakeError::Conflict(short(&error)),
        _ => LakeError::Invalid(short(&error)),
    }
}

/// The message without the backtrace that the crate's own text may carry.
fn short(error: &iceberg::Error) -> String {
    error.message().to_owned()
}
