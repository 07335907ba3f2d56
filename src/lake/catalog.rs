//! Owns the embedded catalog: namespaces and tables in one SQLite database, metadata and data files beside it. A commit is a
//! compare-and-swap on where a table's metadata lies, for all its tables in one database transaction. Refuses to know HTTP.
//!
//! The database has the layout that `iceberg-catalog-sql` makes and PyIceberg shares, so other tools can open it. The statements
//! are this file's own: that crate swallows errors when it commits, has no commit of several tables, and no compare-and-swap that
//! keeps a metadata file which lost.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use iceberg::CatalogBuilder as _;
use iceberg::io::LocalFsStorageFactory;
use iceberg::spec::TableMetadata;
use iceberg_catalog_sql::{SQL_CATALOG_PROP_URI, SqlBindStyle, SqlCatalogBuilder};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::files::Warehouse;
pub use super::metadata::NewTable;
use super::{LakeError, metadata};
use crate::names::Namespace;

/// Under which name the catalog stands in its own database. Fixed: what users call it is the gateway's business and may change.
const SELF: &str = "polynya";

/// The row by which the database layout says that a namespace is there, whatever properties it has.
const EXISTS: &str = "exists";

/// How often a commit is tried on a head that moved although its requirements still hold.
const MOVED_HEADS: usize = 5;

/// What a path keeps in a database address.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');

/// A catalog in a directory.
pub struct Catalog {
    warehouse: Warehouse,
    database: SqlitePool,
    /// Held for a commit's read-check-write, so that commits of one process queue instead of failing each other's swap.
    commits: Mutex<()>,
}

/// The requested changes of one table.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where the table is.
    pub namespace: Namespace,
    /// Its name.
    pub table: String,
    /// Iceberg table requirements.
    pub requirements: Vec<Value>,
    /// Iceberg table updates.
    pub updates: Vec<Value>,
}

/// A table's current state.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where the metadata file lies; `None` for a table that is only staged.
    pub location: Option<String>,
    /// The metadata file's bytes (JSON).
    pub metadata: Vec<u8>,
}

/// A commit made ready: its metadata file is written, the catalog does not know it yet.
struct Prepared {
    namespace: String,
    table: String,
    old: Option<String>,
    new: String,
    metadata: Vec<u8>,
}

impl Catalog {
    /// Opens the catalog of a directory, and makes both if need be.
    ///
    /// # Errors
    /// When the directory cannot be used or the database not be opened.
    pub async fn open(root: &Path) -> Result<Self, LakeError> {
        let warehouse = Warehouse::open(root)?;
        let path = warehouse.database();
        let shown = path.display().to_string();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| LakeError::Open { path: shown.clone(), source };
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let database =
            SqlitePoolOptions::new().max_connections(4).connect_with(options).await.map_err(|error| failed(error.into()))?;
        let address = format!("sqlite://{}", utf8_percent_encode(&path.to_string_lossy(), PATH));
        SqlCatalogBuilder::default()
            .sql_bind_style(SqlBindStyle::QMark)
            .with_storage_factory(Arc::new(LocalFsStorageFactory))
            .load(SELF, HashMap::from([(SQL_CATALOG_PROP_URI.to_owned(), address)]))
            .await
            .map_err(|error| failed(error.into()))?;
        Ok(Self { warehouse, database, commits: Mutex::new(()) })
    }

    /// The location of its directory, `file:///…/`.
    #[must_use]
    pub fn uri(&self) -> &str {
        self.warehouse.uri()
    }

    /// The namespaces directly below `parent`, or the outermost ones, in order.
    ///
    /// # Errors
    /// When the parent is not there or the database fails.
    pub async fn list_namespaces(&self, parent: Option<&Namespace>) -> Result<Vec<Namespace>, LakeError> {
        if let Some(parent) = parent {
            self.must_exist(parent).await?;
        }
        let depth = parent.map_or(0, |parent| parent.levels().len());
        let all = self.all_namespaces().await?;
        Ok(all
            .into_iter()
            .filter(|namespace| {
                let levels = namespace.levels();
                levels.len() == depth + 1 && parent.is_none_or(|parent| levels.starts_with(parent.levels()))
            })
            .collect())
    }

    /// Makes a namespace; its parent must be there.
    ///
    /// # Errors
    /// When it is there already, its parent is not, or its name cannot be used.
    pub async fn create_namespace(&self, namespace: &Namespace, properties: &BTreeMap<String, String>) -> Result<(), LakeError> {
        check_levels(namespace)?;
        if let [parent @ .., _] = namespace.levels()
            && !parent.is_empty()
        {
            self.must_exist(&Namespace::new(parent.to_vec())).await?;
        }
        let mut transaction = self.write().await?;
        let made = put_property(&mut transaction, namespace, EXISTS, "true", "DO NOTHING").await?;
        if made == 0 {
            return Err(LakeError::NamespaceExists(namespace.clone()));
        }
        for (key, value) in properties.iter().filter(|(key, _)| *key != EXISTS) {
            put_property(&mut transaction, namespace, key, value, "DO NOTHING").await?;
        }
        transaction.commit().await.map_err(LakeError::Unsettled)
    }

    /// The properties of a namespace.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn namespace_properties(&self, namespace: &Namespace) -> Result<BTreeMap<String, String>, LakeError> {
        let rows: Vec<(String, Option<String>)> = sqlx::query_as(
            "SELECT property_key, property_value FROM iceberg_namespace_properties WHERE catalog_name = ? AND namespace = ?",
        )
        .bind(SELF)
        .bind(namespace.to_string())
        .fetch_all(&self.database)
        .await?;
        if rows.is_empty() {
            self.must_exist(namespace).await?;
        }
        Ok(rows.into_iter().filter(|(key, _)| key != EXISTS).map(|(key, value)| (key, value.unwrap_or_default())).collect())
    }

    /// Removes and sets properties of a namespace in one step.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn update_namespace(
        &self,
        namespace: &Namespace,
        removals: &[String],
        updates: &BTreeMap<String, String>,
    ) -> Result<(), LakeError> {
        self.must_exist(namespace).await?;
        let mut transaction = self.write().await?;
        for key in removals.iter().filter(|key| *key != EXISTS) {
            sqlx::query("DELETE FROM iceberg_namespace_properties WHERE catalog_name = ? AND namespace = ? AND property_key = ?")
                .bind(SELF)
                .bind(namespace.to_string())
                .bind(key)
                .execute(&mut *transaction)
                .await?;
        }
        let overwrite = "(catalog_name, namespace, property_key) DO UPDATE SET property_value = excluded.property_value";
        for (key, value) in updates.iter().filter(|(key, _)| *key != EXISTS) {
            put_property(&mut transaction, namespace, key, value, overwrite).await?;
        }
        transaction.commit().await.map_err(LakeError::Unsettled)
    }

    /// Drops an empty namespace.
    ///
    /// # Errors
    /// When it is not there, or holds tables or namespaces.
    pub async fn drop_namespace(&self, namespace: &Namespace) -> Result<(), LakeError> {
        self.must_exist(namespace).await?;
        let below = format!("{namespace}.");
        let mut transaction = self.write().await?;
        let (held,): (i64,) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM iceberg_tables
                     WHERE catalog_name = ?1 AND (table_namespace = ?2 OR substr(table_namespace, 1, length(?3)) = ?3))
                  + (SELECT count(*) FROM iceberg_namespace_properties
                     WHERE catalog_name = ?1 AND substr(namespace, 1, length(?3)) = ?3)",
        )
        .bind(SELF)
        .bind(namespace.to_string())
        .bind(below)
        .fetch_one(&mut *transaction)
        .await?;
        if held > 0 {
            return Err(LakeError::NamespaceNotEmpty(namespace.clone()));
        }
        sqlx::query("DELETE FROM iceberg_namespace_properties WHERE catalog_name = ? AND namespace = ?")
            .bind(SELF)
            .bind(namespace.to_string())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await.map_err(LakeError::Unsettled)
    }

    /// The names of a namespace's tables, in order.
    ///
    /// # Errors
    /// When the namespace is not there.
    pub async fn list_tables(&self, namespace: &Namespace) -> Result<Vec<String>, LakeError> {
        self.must_exist(namespace).await?;
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT table_name FROM iceberg_tables
             WHERE catalog_name = ? AND table_namespace = ? AND coalesce(iceberg_type, 'TABLE') = 'TABLE' ORDER BY table_name",
        )
        .bind(SELF)
        .bind(namespace.to_string())
        .fetch_all(&self.database)
        .await?;
        Ok(rows.into_iter().map(|(name,)| name).collect())
    }

    /// Where a table's metadata lies now.
    ///
    /// # Errors
    /// When the table is not there.
    pub async fn metadata_location(&self, namespace: &Namespace, table: &str) -> Result<String, LakeError> {
        self.find(namespace, table).await?.ok_or_else(|| LakeError::NoSuchTable(namespace.clone(), table.to_owned()))
    }

    /// A table's current metadata.
    ///
    /// # Errors
    /// When the table is not there or its metadata cannot be read.
    pub async fn load(&self, namespace: &Namespace, table: &str) -> Result<Loaded, LakeError> {
        let location = self.metadata_location(namespace, table).await?;
        Ok(Loaded { metadata: self.warehouse.read(&location).await?, location: Some(location) })
    }

    /// Creates a table, or only chooses its place and first metadata when the request stages it.
    ///
    /// # Errors
    /// When the table is there, its namespace is not, or the request is not valid.
    pub async fn create_table(&self, namespace: &Namespace, table: NewTable) -> Result<Loaded, LakeError> {
        self.must_exist(namespace).await?;
        check_name(&table.name)?;
        let name = table.name.clone();
        if self.find(namespace, &name).await?.is_some() {
            return Err(LakeError::TableExists(namespace.clone(), name));
        }
        let staged = table.stage_create;
        let location = table.location.clone().unwrap_or_else(|| self.warehouse.new_location(namespace, &name));
        let location = location.trim_end_matches('/').to_owned();
        let metadata = metadata::create(table, location.clone())?;
        // DuckDB does not make directories on a local file system.
        self.warehouse.make_table_directories(&location)?;
        if staged {
            return Ok(Loaded { location: None, metadata: to_bytes(&metadata)? });
        }
        let prepared = self.prepare(namespace, &name, None, &metadata).await?;
        let loaded = Loaded { location: Some(prepared.new.clone()), metadata: prepared.metadata.clone() };
        self.swap(std::slice::from_ref(&prepared)).await.map_err(|error| match error {
            LakeError::Conflict(_) => LakeError::TableExists(namespace.clone(), name),
            other => other,
        })?;
        Ok(loaded)
    }

    /// Commits all changes or none, and gives each table's new state.
    ///
    /// # Errors
    /// `Conflict` when a requirement does not hold; `Unsettled` when the database failed at the very end.
    pub async fn commit(&self, changes: &[Change]) -> Result<Vec<Loaded>, LakeError> {
        let _turn = self.commits.lock().await;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut prepared = Vec::with_capacity(changes.len());
            for change in changes {
                match self.prepare_change(change).await {
                    Ok(one) => prepared.push(one),
                    Err(error) => {
                        let unused: Vec<String> = prepared.into_iter().map(|one: Prepared| one.new).collect();
                        self.warehouse.discard(unused).await;
                        return Err(error);
                    }
                }
            }
            match self.swap(&prepared).await {
                // Another process moved a head: whether the requirements still hold is for the next round to say.
                Err(LakeError::Conflict(_)) if tries < MOVED_HEADS => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    let loaded = |one: Prepared| Loaded { location: Some(one.new), metadata: one.metadata };
                    return Ok(prepared.into_iter().map(loaded).collect());
                }
            }
        }
    }

    /// Drops a table; with `purge` its files too.
    ///
    /// # Errors
    /// When the table is not there.
    pub async fn drop_table(&self, namespace: &Namespace, table: &str, purge: bool) -> Result<(), LakeError> {
        let _turn = self.commits.lock().await;
        let loaded = if purge { Some(self.load(namespace, table).await?) } else { None };
        let dropped = sqlx::query("DELETE FROM iceberg_tables WHERE catalog_name = ? AND table_namespace = ? AND table_name = ?")
            .bind(SELF)
            .bind(namespace.to_string())
            .bind(table)
            .execute(&self.database)
            .await
            .map_err(LakeError::Unsettled)?;
        if dropped.rows_affected() == 0 {
            return Err(LakeError::NoSuchTable(namespace.clone(), table.to_owned()));
        }
        // The table is gone; files that stay behind cost disk and nothing else.
        if let Some(loaded) = loaded
            && let Err(error) = self.purge(&loaded.metadata).await
        {
            tracing::warn!(%namespace, table, %error, "files of a dropped table stay behind");
        }
        Ok(())
    }

    /// Gives a table another name, perhaps in another namespace. Its files stay where they are.
    ///
    /// # Errors
    /// When the table or the other namespace is not there, or the new name is taken.
    pub async fn rename_table(&self, from: (&Namespace, &str), to: (&Namespace, &str)) -> Result<(), LakeError> {
        check_name(to.1)?;
        self.must_exist(to.0).await?;
        let _turn = self.commits.lock().await;
        if self.find(to.0, to.1).await?.is_some() {
            return Err(LakeError::TableExists(to.0.clone(), to.1.to_owned()));
        }
        let renamed = sqlx::query(
            "UPDATE OR IGNORE iceberg_tables SET table_namespace = ?, table_name = ?
             WHERE catalog_name = ? AND table_namespace = ? AND table_name = ?",
        )
        .bind(to.0.to_string())
        .bind(to.1)
        .bind(SELF)
        .bind(from.0.to_string())
        .bind(from.1)
        .execute(&self.database)
        .await
        .map_err(LakeError::Unsettled)?;
        if renamed.rows_affected() == 0 {
            return Err(LakeError::NoSuchTable(from.0.clone(), from.1.to_owned()));
        }
        Ok(())
    }

    async fn prepare_change(&self, change: &Change) -> Result<Prepared, LakeError> {
        let Change { namespace, table, requirements, updates } = change;
        let old = self.find(namespace, table).await?;
        let next = match &old {
            None if metadata::creates(requirements) => {
                self.must_exist(namespace).await?;
                check_name(table)?;
                metadata::first(updates, || self.warehouse.new_location(namespace, table))?
            }
            None => return Err(LakeError::NoSuchTable(namespace.clone(), table.clone())),
            Some(location) => {
                let base: TableMetadata = serde_json::from_slice(&self.warehouse.read(location).await?)
                    .map_err(|error| LakeError::Invalid(format!("metadata file {location} cannot be read: {error}")))?;
                metadata::next(base, location, requirements, updates)?
            }
        };
        self.warehouse.path_of(next.location())?;
        self.prepare(namespace, table, old, &next).await
    }

    async fn prepare(
        &self,
        namespace: &Namespace,
        table: &str,
        old: Option<String>,
        metadata: &TableMetadata,
    ) -> Result<Prepared, LakeError> {
        let version = old.as_deref().and_then(version_of).map_or(0, |version| version.saturating_add(1));
        let directory = metadata.location().trim_end_matches('/');
        let new = format!("{directory}/metadata/{version:05}-{}.metadata.json", Uuid::new_v4());
        let bytes = to_bytes(metadata)?;
        self.warehouse.write(&new, bytes.clone()).await?;
        Ok(Prepared { namespace: namespace.to_string(), table: table.to_owned(), old, new, metadata: bytes })
    }

    /// Makes the prepared metadata files the current ones, all or none. The files of a swap that certainly was not done are
    /// deleted.
    async fn swap(&self, prepared: &[Prepared]) -> Result<(), LakeError> {
        let swapped = self.try_swap(prepared).await;
        if !matches!(swapped, Ok(()) | Err(LakeError::Unsettled(_))) {
            let unused: Vec<String> = prepared.iter().map(|one| one.new.clone()).collect();
            self.warehouse.discard(unused).await;
        }
        swapped
    }

    async fn try_swap(&self, prepared: &[Prepared]) -> Result<(), LakeError> {
        let mut transaction = self.write().await?;
        for one in prepared {
            let query = match &one.old {
                Some(old) => sqlx::query(
                    "UPDATE iceberg_tables SET metadata_location = ?1, previous_metadata_location = ?4
                     WHERE catalog_name = ?5 AND table_namespace = ?2 AND table_name = ?3 AND metadata_location = ?4",
                )
                .bind(&one.new)
                .bind(&one.namespace)
                .bind(&one.table)
                .bind(old)
                .bind(SELF),
                None => sqlx::query(
                    "INSERT INTO iceberg_tables (metadata_location, table_namespace, table_name, catalog_name, iceberg_type)
                     VALUES (?1, ?2, ?3, ?4, 'TABLE') ON CONFLICT DO NOTHING",
                )
                .bind(&one.new)
                .bind(&one.namespace)
                .bind(&one.table)
                .bind(SELF),
            };
            if query.execute(&mut *transaction).await?.rows_affected() == 0 {
                return Err(LakeError::Conflict(format!(
                    "table \"{}.{}\" was changed by another commit",
                    one.namespace, one.table
                )));
            }
        }
        transaction.commit().await.map_err(LakeError::Unsettled)
    }

    async fn find(&self, namespace: &Namespace, table: &str) -> Result<Option<String>, LakeError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = ? AND table_namespace = ? AND table_name = ?
             AND metadata_location IS NOT NULL AND coalesce(iceberg_type, 'TABLE') = 'TABLE'",
        )
        .bind(SELF)
        .bind(namespace.to_string())
        .bind(table)
        .fetch_optional(&self.database)
        .await?;
        Ok(row.map(|(location,)| location))
    }

    async fn all_namespaces(&self) -> Result<Vec<Namespace>, LakeError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT namespace FROM iceberg_namespace_properties WHERE catalog_name = ?1
             UNION SELECT table_namespace FROM iceberg_tables WHERE catalog_name = ?1 ORDER BY 1",
        )
        .bind(SELF)
        .fetch_all(&self.database)
        .await?;
        Ok(rows.into_iter().map(|(name,)| Namespace::from_schema(&name)).collect())
    }

    async fn must_exist(&self, namespace: &Namespace) -> Result<(), LakeError> {
        let (there,): (bool,) = sqlx::query_as(
            "SELECT EXISTS (SELECT 1 FROM iceberg_namespace_properties WHERE catalog_name = ?1 AND namespace = ?2)
                 OR EXISTS (SELECT 1 FROM iceberg_tables WHERE catalog_name = ?1 AND table_namespace = ?2)",
        )
        .bind(SELF)
        .bind(namespace.to_string())
        .fetch_one(&self.database)
        .await?;
        if there { Ok(()) } else { Err(LakeError::NoSuchNamespace(namespace.clone())) }
    }

    /// A transaction that has the write lock from its start: one that takes it later can be refused it in the middle.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, LakeError> {
        Ok(self.database.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Deletes a dropped table's files, unless another table's metadata lies among them.
    async fn purge(&self, metadata: &[u8]) -> Result<(), LakeError> {
        let metadata: Value = serde_json::from_slice(metadata).map_err(|error| LakeError::Invalid(error.to_string()))?;
        let location = metadata["location"].as_str().unwrap_or_default().trim_end_matches('/');
        let (others,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM iceberg_tables WHERE substr(metadata_location, 1, length(?1)) = ?1")
                .bind(format!("{location}/"))
                .fetch_one(&self.database)
                .await?;
        if others == 0 { self.warehouse.purge(location).await } else { Ok(()) }
    }
}

async fn put_property(
    transaction: &mut Transaction<'static, Sqlite>,
    namespace: &Namespace,
    key: &str,
    value: &str,
    on_conflict: &'static str,
) -> Result<u64, LakeError> {
    let statement = format!(
        "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value)
         VALUES (?, ?, ?, ?) ON CONFLICT {on_conflict}"
    );
    let done =
        sqlx::query(&statement).bind(SELF).bind(namespace.to_string()).bind(key).bind(value).execute(&mut **transaction).await?;
    Ok(done.rows_affected())
}

/// The database joins levels by dots, so a level must not have one.
fn check_levels(namespace: &Namespace) -> Result<(), LakeError> {
    let bad = |level: &String| level.is_empty() || level.contains(['.', '\u{1f}', '\0']);
    if namespace.levels().is_empty() || namespace.levels().iter().any(bad) {
        return Err(LakeError::Invalid(format!(
            "\"{namespace}\" cannot name a namespace: each level needs a letter and must not contain a dot or a control character"
        )));
    }
    Ok(())
}

fn check_name(table: &str) -> Result<(), LakeError> {
    if table.is_empty() || table.contains(['\u{1f}', '\0']) {
        return Err(LakeError::Invalid(format!("\"{table}\" cannot name a table")));
    }
    Ok(())
}

/// The number at the start of a metadata file's name.
fn version_of(location: &str) -> Option<u32> {
    location.rsplit('/').next()?.split('-').next()?.parse().ok()
}

fn to_bytes(metadata: &TableMetadata) -> Result<Vec<u8>, LakeError> {
    serde_json::to_vec(metadata).map_err(|error| LakeError::Invalid(format!("the new metadata cannot be written: {error}")))
}
