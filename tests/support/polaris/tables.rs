//! Owns one warehouse and what can be asked about its tables: the embedded catalog, shown as Polaris shows a catalog, and checked
//! against the grants. Refuses to know tokens and faults.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::TimestampNanosecondArray;
use arrow::util::display::array_value_to_string;
use axum::http::header;
use moka::sync::Cache;
use polynya::lake::LakeError;
use polynya::lake::catalog::{Catalog, Change, Loaded, NewTable};
use polynya::names::Namespace;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::answer::{Answer, Problem};
use super::generated::{Generated, GeneratedSetup};
use super::identity::authorize::{Caller, Privilege, Securable, of_updates};
use super::identity::realm::Realm;
use super::setup::{S3Setup, WarehouseSetup};

type Result<T, E = Problem> = std::result::Result<T, E>;

/// Lists that Polaris always writes out, and the embedded catalog only when something is in them.
const ALWAYS_THERE: [&str; 5] = ["snapshots", "statistics", "partition-statistics", "snapshot-log", "metadata-log"];

/// How much shown metadata is kept.
const SHOWN_BYTES: u64 = 64 << 20;

/// What a Polaris says that it offers. The stand-in has those of namespaces and tables, and empty lists of views.
const ENDPOINTS: &[&str] = &[
    "GET /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "POST /v1/{prefix}/namespaces",
    "POST /v1/{prefix}/namespaces/{namespace}/properties",
    "DELETE /v1/{prefix}/namespaces/{namespace}",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "DELETE /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/tables/rename",
    "POST /v1/{prefix}/namespaces/{namespace}/register",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics",
    "POST /v1/{prefix}/transactions/commit",
    "GET /v1/{prefix}/namespaces/{namespace}/views",
    "GET /v1/{prefix}/namespaces/{namespace}/views/{view}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/views/{view}",
    "POST /v1/{prefix}/namespaces/{namespace}/views",
    "POST /v1/{prefix}/namespaces/{namespace}/views/{view}",
    "DELETE /v1/{prefix}/namespaces/{namespace}/views/{view}",
    "POST /v1/{prefix}/views/rename",
    "GET polaris/v1/{prefix}/namespaces/{namespace}/generic-tables",
    "POST polaris/v1/{prefix}/namespaces/{namespace}/generic-tables",
    "DELETE polaris/v1/{prefix}/namespaces/{namespace}/generic-tables/{generic-table}",
    "GET polaris/v1/{prefix}/namespaces/{namespace}/generic-tables/{generic-table}",
    "GET /polaris/v1/{prefix}/namespaces/{namespace}/policies",
    "POST /polaris/v1/{prefix}/namespaces/{namespace}/policies",
    "GET /polaris/v1/{prefix}/namespaces/{namespace}/policies/{policy-name}",
    "PUT /polaris/v1/{prefix}/namespaces/{namespace}/policies/{policy-name}",
    "DELETE /polaris/v1/{prefix}/namespaces/{namespace}/policies/{policy-name}",
    "PUT /polaris/v1/{prefix}/namespaces/{namespace}/policies/{policy-name}/mappings",
    "POST /polaris/v1/{prefix}/namespaces/{namespace}/policies/{policy-name}/mappings",
    "GET /polaris/v1/{prefix}/applicable-policies",
];

/// One catalog.
pub struct Warehouse {
    pub name: String,
    pub catalog: Catalog,
    s3: Option<S3Setup>,
    /// Whether a drop may delete files; a Polaris does so only when it is configured to.
    purge: bool,
    /// Tables that it only shows.
    pub(super) generated: Option<Generated>,
    /// Metadata location → metadata as it is shown. A metadata file never changes.
    shown: Cache<String, Arc<String>>,
}

/// A request whose caller is known, in its warehouse.
pub struct Visit<'a> {
    pub realm: &'a Realm,
    pub warehouse: &'a Warehouse,
    pub caller: &'a Caller,
    /// Whether vended credentials are asked for.
    pub delegation: bool,
}

/// A table in a body.
#[derive(Clone, Debug, Deserialize)]
pub struct Identifier {
    pub namespace: Vec<String>,
    pub name: String,
}

#[derive(Deserialize)]
struct ChangeRequest {
    #[serde(default)]
    identifier: Option<Identifier>,
    #[serde(default)]
    requirements: Vec<Value>,
    #[serde(default)]
    updates: Vec<Value>,
}

impl ChangeRequest {
    fn creates(&self) -> bool {
        self.requirements.iter().any(|requirement| requirement["type"] == "assert-create")
    }
}

impl Warehouse {
    pub(super) async fn open(setup: WarehouseSetup, scratch: &Path) -> Result<Self, LakeError> {
        let directory = setup.directory.as_deref().unwrap_or(scratch);
        let catalog = Catalog::open(directory).await?;
        let weight = |_: &String, metadata: &Arc<String>| u32::try_from(metadata.len()).unwrap_or(u32::MAX);
        let shown = Cache::builder().max_capacity(SHOWN_BYTES).weigher(weight).build();
        let generated = setup.generated.clone().map(Generated::new);
        let warehouse = Self { name: setup.name, catalog, s3: setup.s3, purge: setup.purge, generated, shown };
        let many = setup.generated.iter().flat_map(GeneratedSetup::namespaces);
        for namespace in setup.namespaces.iter().cloned().chain(many) {
            let namespace = Namespace::from_schema(&namespace);
            let properties = [("location".to_owned(), warehouse.place_of(&namespace))].into();
            match warehouse.catalog.create_namespace(&namespace, &properties).await {
                Err(LakeError::NamespaceExists(_)) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(warehouse)
    }

    /// Where its tables lie, as it is shown; with a slash at its end.
    pub fn base(&self) -> &str {
        self.s3.as_ref().map_or(self.catalog.uri(), |s3| &s3.base)
    }

    /// Where a namespace lies, as it is shown; with a slash at its end.
    pub(super) fn place_of(&self, namespace: &Namespace) -> String {
        format!("{}{}/", self.base(), namespace.levels().join("/"))
    }

    /// What a client is told of it at first.
    pub fn configuration(&self) -> Value {
        json!({
            "defaults": { "default-base-location": self.base() },
            "overrides": { "prefix": self.name },
            "endpoints": ENDPOINTS,
        })
    }

    /// Text of the catalog, with locations as they are shown.
    fn show(&self, text: String) -> String {
        if self.s3.is_some() { text.replace(self.catalog.uri(), self.base()) } else { text }
    }

    /// Text of a request, with locations as the catalog has them.
    fn stored(&self, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(body).into_owned();
        if self.s3.is_some() { text.replace(self.base(), self.catalog.uri()) } else { text }
    }

    pub(super) fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        serde_json::from_str(&self.stored(body))
            .map_err(|error| Problem::bad_request(format!("Cannot read the request: {error}")))
    }

    /// Metadata with every part that Polaris shows.
    fn shape(&self, bytes: &[u8]) -> Result<String> {
        let mut metadata: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| Problem::new(500, "RuntimeException", error.to_string()))?;
        metadata.entry("current-snapshot-id").or_insert(json!(-1));
        metadata.entry("refs").or_insert(json!({}));
        for part in ALWAYS_THERE {
            metadata.entry(part).or_insert(json!([]));
        }
        Ok(self.show(Value::Object(metadata).to_string()))
    }

    /// Configuration of a table's answer, and the credentials for it.
    fn access(&self, location: &str, refresh: Option<String>) -> (Value, Option<Value>) {
        let Some(s3) = &self.s3 else { return (json!({}), None) };
        let mut config = json!({ "client.region": s3.region, "s3.path-style-access": "true", "s3.endpoint": s3.endpoint });
        let Some(refresh) = refresh else { return (config, None) };
        let expires = (super::identity::token::now_s() + s3.lifetime_s) * 1000;
        let secrets = json!({
            "s3.access-key-id": s3.access_key_id,
            "s3.secret-access-key": s3.secret_access_key,
            "s3.session-token": s3.session_token,
            "expiration-time": expires.to_string(),
            "s3.session-token-expires-at-ms": expires.to_string(),
        });
        config["client.refresh-credentials-endpoint"] = Value::String(refresh);
        if let (Some(config), Some(secrets)) = (config.as_object_mut(), secrets.as_object()) {
            config.extend(secrets.clone());
        }
        (config, Some(json!([{ "prefix": location, "config": secrets }])))
    }

    /// The body about a table. Configuration is left out of answers to commits.
    fn table_body(&self, location: Option<&str>, metadata: &str, config: Option<&Value>, credentials: Option<&Value>) -> String {
        let mut body = String::from("{");
        if let Some(location) = location {
            body.push_str(&format!("\"metadata-location\":{},", Value::from(self.show(location.to_owned()))));
        }
        body.push_str("\"metadata\":");
        body.push_str(metadata);
        for (name, part) in [("config", config), ("storage-credentials", credentials)] {
            if let Some(part) = part {
                body.push_str(&format!(",\"{name}\":{part}"));
            }
        }
        body.push('}');
        body
    }

    /// Who makes up this table, if it is only shown.
    pub(super) fn generated(&self, namespace: &Namespace, table: &str) -> Option<&Generated> {
        self.generated.as_ref().filter(|generated| generated.has(namespace, table))
    }

    /// Where the metadata of a table lies, as the catalog has it.
    pub(super) async fn location_of(&self, namespace: &Namespace, table: &str) -> Result<String> {
        match self.generated(namespace, table) {
            Some(_) => Ok(format!("{}{}/{table}/metadata/0.metadata.json", self.catalog.uri(), namespace.levels().join("/"))),
            None => Ok(self.catalog.metadata_location(namespace, table).await?),
        }
    }

    async fn shown_metadata(&self, location: &str, namespace: &Namespace, table: &str) -> Result<(String, Arc<String>)> {
        if let Some(generated) = self.generated(namespace, table) {
            let metadata = generated.metadata(&format!("{}{table}", self.place_of(namespace)));
            return Ok((location.to_owned(), Arc::new(metadata)));
        }
        if let Some(shown) = self.shown.get(location) {
            return Ok((location.to_owned(), shown));
        }
        let loaded = self.catalog.load(namespace, table).await?;
        let shown = Arc::new(self.shape(&loaded.metadata)?);
        let location = loaded.location.unwrap_or_default();
        self.shown.insert(location.clone(), Arc::clone(&shown));
        Ok((location, shown))
    }
}

impl Visit<'_> {
    /// # Errors
    /// The refusal in Polaris' words.
    pub(super) fn may(&self, operation: &'static str, needed: &[(Privilege, Securable)]) -> Result<()> {
        Ok(self.realm.authorize(self.caller, &self.warehouse.name, operation, needed)?)
    }

    fn may_load(&self, target: &Securable) -> Result<()> {
        if !self.delegation {
            return self.may("LOAD_TABLE", &[(Privilege::TableReadProperties, target.clone())]);
        }
        self.may("LOAD_TABLE_WITH_WRITE_DELEGATION", &[(Privilege::TableWriteData, target.clone())])
            .or_else(|_| self.may("LOAD_TABLE_WITH_READ_DELEGATION", &[(Privilege::TableReadData, target.clone())]))
    }

    pub async fn load_table(
        &self,
        namespace: &Namespace,
        table: &str,
        known: Option<&str>,
        snapshots: Option<&str>,
    ) -> Result<Answer> {
        if known == Some("*") {
            return Err(Problem::bad_request("If-None-Match may not take the value of '*'"));
        }
        let location = self.warehouse.location_of(namespace, table).await?;
        self.may_load(&Securable::table(&namespace.to_string(), table))?;
        if known.is_some_and(|known| known.split(',').any(|one| one.trim() == etag(&location))) {
            return Ok(Answer::empty(304));
        }
        let (location, mut metadata) = self.warehouse.shown_metadata(&location, namespace, table).await?;
        match snapshots.unwrap_or("all") {
            "all" => {}
            "refs" => metadata = Arc::new(only_referenced(&metadata)),
            other => return Err(Problem::invalid(format!("Unrecognized snapshots: {other}"))),
        }
        let (config, credentials) = self.access_of(namespace, table, &metadata);
        let body = self.warehouse.table_body(Some(&location), &metadata, Some(&config), credentials.as_ref());
        Ok(Answer::text(body).with(header::ETAG, &etag(&location)))
    }

    fn access_of(&self, namespace: &Namespace, table: &str, metadata: &str) -> (Value, Option<Value>) {
        if self.warehouse.s3.is_none() {
            return (json!({}), None);
        }
        let location: Value = serde_json::from_str(metadata).unwrap_or_default();
        let place = namespace.levels().join("%1F");
        let refresh = format!("v1/{}/namespaces/{place}/tables/{table}/credentials", self.warehouse.name);
        self.warehouse.access(location["location"].as_str().unwrap_or_default(), self.delegation.then_some(refresh))
    }

    pub async fn table_exists(&self, namespace: &Namespace, table: &str) -> Result<Answer> {
        self.warehouse.location_of(namespace, table).await?;
        self.may("TABLE_EXISTS", &[(Privilege::TableList, Securable::table(&namespace.to_string(), table))])?;
        Ok(Answer::empty(204))
    }

    pub async fn load_credentials(&self, namespace: &Namespace, table: &str) -> Result<Answer> {
        let location = self.warehouse.location_of(namespace, table).await?;
        let visit = Visit { delegation: true, ..*self };
        visit.may_load(&Securable::table(&namespace.to_string(), table))?;
        let (_, metadata) = self.warehouse.shown_metadata(&location, namespace, table).await?;
        let (_, credentials) = visit.access_of(namespace, table, &metadata);
        Ok(Answer::json(&json!({ "storage-credentials": credentials.unwrap_or(json!([])) })))
    }

    pub async fn create_table(&self, namespace: &Namespace, body: &[u8]) -> Result<Answer> {
        self.warehouse.catalog.namespace_properties(namespace).await?;
        let mut request: Value = self.warehouse.parse(body)?;
        let staged = request["stage-create"] == true;
        let operation = match (staged, self.delegation) {
            (false, false) => "CREATE_TABLE_DIRECT",
            (false, true) => "CREATE_TABLE_DIRECT_WITH_WRITE_DELEGATION",
            (true, false) => "CREATE_TABLE_STAGED",
            (true, true) => "CREATE_TABLE_STAGED_WITH_WRITE_DELEGATION",
        };
        let place = Securable::namespace(&namespace.to_string());
        let mut needed = vec![(Privilege::TableCreate, place.clone())];
        needed.extend(self.delegation.then_some((Privilege::TableWriteData, place)));
        self.may(operation, &needed)?;
        let name = request["name"].as_str().unwrap_or_default().to_owned();
        if request["location"].is_null() {
            request["location"] = Value::String(self.new_location(namespace, &name));
        }
        let mut properties = json!({ "created-at": now_text(), "write.parquet.compression-codec": "zstd" });
        if let (Some(all), Some(given)) = (properties.as_object_mut(), request["properties"].as_object()) {
            all.extend(given.clone());
        }
        request["properties"] = properties;
        let table: NewTable = serde_json::from_value(request).map_err(|error| Problem::bad_request(error.to_string()))?;
        let Loaded { location, metadata } = self.warehouse.catalog.create_table(namespace, table).await?;
        let metadata = self.warehouse.shape(&metadata)?;
        let (config, credentials) = self.access_of(namespace, &name, &metadata);
        let answer = Answer::text(self.warehouse.table_body(location.as_deref(), &metadata, Some(&config), credentials.as_ref()));
        Ok(match location {
            Some(location) => answer.with(header::ETAG, &etag(&location)),
            None => answer,
        })
    }

    /// Where Polaris puts a table: below its namespace, by its name. Where a table of that name was before, another place.
    fn new_location(&self, namespace: &Namespace, name: &str) -> String {
        let uri = self.warehouse.catalog.uri();
        let place = format!("{uri}{}/{name}", namespace.levels().join("/"));
        let taken = place.strip_prefix("file://").is_none_or(|path| Path::new(path).exists());
        if taken { format!("{place}-{}", Uuid::new_v4().simple()) } else { place }
    }

    pub async fn commit_table(&self, namespace: &Namespace, table: &str, body: &[u8]) -> Result<Answer> {
        let request: ChangeRequest = self.warehouse.parse(body)?;
        if request.creates() {
            self.warehouse.catalog.namespace_properties(namespace).await?;
            let place = Securable::namespace(&namespace.to_string());
            self.may("UPDATE_TABLE_FOR_STAGED_CREATE", &[(Privilege::TableCreate, place)])?;
        } else {
            self.warehouse.catalog.metadata_location(namespace, table).await?;
            for (operation, privilege) in of_updates(&request.updates) {
                self.may(operation, &[(privilege, Securable::table(&namespace.to_string(), table))])?;
            }
        }
        let change = Change {
            namespace: namespace.clone(),
            table: table.to_owned(),
            requirements: request.requirements,
            updates: request.updates,
        };
        let committed = self.commit(&[change]).await?;
        let Some(Loaded { location, metadata }) = committed.into_iter().next() else {
            return Err(Problem::new(500, "RuntimeException", "the commit gave no table"));
        };
        let metadata = Arc::new(self.warehouse.shape(&metadata)?);
        if let Some(location) = &location {
            self.warehouse.shown.insert(location.clone(), Arc::clone(&metadata));
        }
        Ok(Answer::text(self.warehouse.table_body(location.as_deref(), &metadata, None, None)))
    }

    pub async fn commit_transaction(&self, body: &[u8]) -> Result<Answer> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Request {
            table_changes: Vec<ChangeRequest>,
        }
        let request: Request = self.warehouse.parse(body)?;
        let creates = request.table_changes.iter().any(ChangeRequest::creates);
        let mut changes: Vec<Change> = Vec::new();
        let mut needed = Vec::new();
        for ChangeRequest { identifier, requirements, updates } in request.table_changes {
            let Identifier { namespace, name } =
                identifier.ok_or_else(|| Problem::bad_request("Missing required field: identifier"))?;
            let namespace = Namespace::new(namespace);
            self.warehouse.catalog.metadata_location(&namespace, &name).await?;
            let target = Securable::table(&namespace.to_string(), &name);
            needed.extend([(Privilege::TableWriteProperties, target.clone()), (Privilege::TableCreate, target)]);
            match changes.iter_mut().find(|one| one.namespace == namespace && one.table == name) {
                Some(same) => {
                    same.requirements.extend(requirements);
                    same.updates.extend(updates);
                }
                None => changes.push(Change { namespace, table: name, requirements, updates }),
            }
        }
        self.may("COMMIT_TRANSACTION", &needed)?;
        if creates {
            return Err(Problem::bad_request("Unsupported operation: commitTranaction with updateForStagedCreate"));
        }
        self.commit(&changes).await?;
        Ok(Answer::empty(204))
    }

    async fn commit(&self, changes: &[Change]) -> Result<Vec<Loaded>> {
        match self.warehouse.catalog.commit(changes).await {
            Ok(committed) => Ok(committed),
            Err(LakeError::Conflict(_)) => Err(self.explain(changes).await),
            Err(other) => Err(other.into()),
        }
    }

    /// Which requirement does not hold, in the words of Iceberg's own library.
    async fn explain(&self, changes: &[Change]) -> Problem {
        for change in changes {
            let Ok(loaded) = self.warehouse.catalog.load(&change.namespace, &change.table).await else { continue };
            let metadata: Value = serde_json::from_slice(&loaded.metadata).unwrap_or_default();
            if let Some(reason) = change.requirements.iter().find_map(|requirement| unmet(requirement, &metadata)) {
                return Problem::new(409, "CommitFailedException", format!("Requirement failed: {reason}"));
            }
        }
        Problem::new(409, "CommitFailedException", "Cannot commit: stale table metadata")
    }

    pub async fn drop_table(&self, namespace: &Namespace, table: &str, purge: bool) -> Result<Answer> {
        self.warehouse.location_of(namespace, table).await?;
        let target = Securable::table(&namespace.to_string(), table);
        if purge {
            let needed = [(Privilege::TableDrop, target.clone()), (Privilege::TableWriteData, target)];
            self.may("DROP_TABLE_WITH_PURGE", &needed)?;
            if !self.warehouse.purge {
                let message = format!(
                    "Unable to purge entity: {table}. To enable this feature, set the Polaris configuration \
                     DROP_WITH_PURGE_ENABLED or the catalog configuration polaris.config.drop-with-purge.enabled"
                );
                return Err(Problem::new(403, "ForbiddenException", message));
            }
        } else {
            self.may("DROP_TABLE_WITHOUT_PURGE", &[(Privilege::TableDrop, target)])?;
        }
        if !self.warehouse.generated.as_ref().is_some_and(|generated| generated.drop_table(namespace, table)) {
            self.warehouse.catalog.drop_table(namespace, table, purge).await?;
        }
        self.realm.table_moved(&self.warehouse.name, (&namespace.to_string(), table), None);
        Ok(Answer::empty(204))
    }

    pub async fn rename_table(&self, body: &[u8]) -> Result<Answer> {
        #[derive(Deserialize)]
        struct Request {
            source: Identifier,
            destination: Identifier,
        }
        let Request { source, destination } = self.warehouse.parse(body)?;
        let (from, to) = (Namespace::new(source.namespace), Namespace::new(destination.namespace));
        let catalog = &self.warehouse.catalog;
        catalog.namespace_properties(&to).await?;
        // Polaris names the new name when the old one is missing.
        catalog.metadata_location(&from, &source.name).await.map_err(|_| Problem::no_table(&to, &destination.name))?;
        if catalog.metadata_location(&to, &destination.name).await.is_ok() {
            let message = format!("Cannot rename {from}.{} to {to}.{}. Table already exists", source.name, destination.name);
            return Err(Problem::new(409, "AlreadyExistsException", message));
        }
        let place = Securable::namespace(&to.to_string());
        let needed = [
            (Privilege::TableDrop, Securable::table(&from.to_string(), &source.name)),
            (Privilege::TableList, place.clone()),
            (Privilege::TableCreate, place),
        ];
        self.may("RENAME_TABLE", &needed)?;
        catalog.rename_table((&from, &source.name), (&to, &destination.name)).await?;
        let (old, new) = (from.to_string(), to.to_string());
        self.realm.table_moved(&self.warehouse.name, (&old, &source.name), Some((&new, &destination.name)));
        Ok(Answer::text("\"NO_CONTENT\"".to_owned()))
    }
}

/// The version of a table, for If-None-Match: it hangs on where its metadata lies, and on nothing else.
fn etag(location: &str) -> String {
    let digest = Sha256::digest(location.as_bytes());
    format!("W/\"{}\"", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Metadata without the snapshots that no branch or tag names.
fn only_referenced(metadata: &str) -> String {
    let mut metadata: Value = serde_json::from_str(metadata).unwrap_or_default();
    let named: Vec<Value> =
        metadata["refs"].as_object().into_iter().flatten().map(|(_, one)| one["snapshot-id"].clone()).collect();
    if let Some(snapshots) = metadata["snapshots"].as_array_mut() {
        snapshots.retain(|snapshot| named.contains(&snapshot["snapshot-id"]));
    }
    metadata.to_string()
}

/// What is wrong with a requirement, if anything.
fn unmet(requirement: &Value, metadata: &Value) -> Option<String> {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let differs = |what: &str, expected: &Value, found: &Value, between: &str| {
        (expected != found).then(|| format!("{what}: expected {between}{} != {}", plain(expected), plain(found)))
    };
    match requirement["type"].as_str()? {
        "assert-create" => Some("table already exists".to_owned()),
        // Here the library names what is there first.
        "assert-table-uuid" => differs("UUID does not match", &metadata["table-uuid"], &requirement["uuid"], ""),
        "assert-ref-snapshot-id" => {
            let name = plain(&requirement["ref"]);
            let (expected, found) = (&requirement["snapshot-id"], &metadata["refs"][&name]);
            if found.is_null() {
                let missing = format!("branch or tag {name} is missing, expected {}", plain(expected));
                return (!expected.is_null()).then_some(missing);
            }
            let kind = plain(&found["type"]);
            if expected.is_null() {
                return Some(format!("{kind} {name} was created concurrently"));
            }
            differs(&format!("{kind} {name} has changed"), expected, &found["snapshot-id"], "id ")
        }
        "assert-last-assigned-field-id" => {
            let expected = &requirement["last-assigned-field-id"];
            differs("last assigned field id changed", expected, &metadata["last-column-id"], "id ")
        }
        "assert-current-schema-id" => {
            differs("current schema changed", &requirement["current-schema-id"], &metadata["current-schema-id"], "id ")
        }
        "assert-last-assigned-partition-id" => {
            let expected = &requirement["last-assigned-partition-id"];
            differs("last assigned partition id changed", expected, &metadata["last-partition-id"], "id ")
        }
        "assert-default-spec-id" => {
            differs("default partition spec changed", &requirement["default-spec-id"], &metadata["default-spec-id"], "id ")
        }
        "assert-default-sort-order-id" => {
            let expected = &requirement["default-sort-order-id"];
            differs("default sort order changed", expected, &metadata["default-sort-order-id"], "id ")
        }
        _ => None,
    }
}

/// The time as Polaris writes it: in UTC, with nanoseconds.
fn now_text() -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let now = TimestampNanosecondArray::from(vec![i64::try_from(nanos).unwrap_or(i64::MAX)]).with_timezone("+00:00");
    array_value_to_string(&now, 0).unwrap_or_default()
}
