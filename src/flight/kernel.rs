//! Owns what the Flight edge needs of the query layer, as a trait, so that the edge is tested over real connections without workers.
//! Refuses to add anything to it: the engine's methods are passed through one by one.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::names::{CatalogName, TableRef};
use crate::query::listing::{ListedSchemas, ListedTables};
use crate::query::{Caller, Description, Engine, Execution, Frame, IngestMode, Limits, QueryError, TableFilter};

/// The frames that a client sends up, schema first; `message` of each is empty.
pub(super) type ClientFrames = Pin<Box<dyn Stream<Item = Result<Frame, QueryError>> + Send>>;

/// The query layer as the edge sees it.
#[async_trait]
pub(super) trait Kernel: Send + Sync + 'static {
    /// Fails when new calls are refused because the gateway drains.
    fn check_open(&self) -> Result<(), QueryError>;

    async fn describe(&self, caller: &Caller, sql: &str, limits: Limits) -> Result<Description, QueryError>;

    async fn execute(&self, caller: &Caller, sql: &str, parameters: Bytes, limits: Limits) -> Result<Execution, QueryError>;

    async fn ingest(
        &self,
        caller: &Caller,
        table: TableRef,
        mode: IngestMode,
        frames: ClientFrames,
        limits: Limits,
    ) -> Result<u64, QueryError>;

    fn catalogs(&self, caller: &Caller) -> Vec<CatalogName>;

    async fn schemas(
        &self,
        caller: &Caller,
        catalog: Option<&CatalogName>,
        pattern: Option<&str>,
    ) -> Result<ListedSchemas, QueryError>;

    async fn tables(&self, caller: &Caller, filter: &TableFilter) -> Result<ListedTables, QueryError>;

    async fn schema_exists(&self, caller: &Caller, catalog: &CatalogName, schema: &str) -> Result<bool, QueryError>;
}

#[async_trait]
impl Kernel for Engine {
    fn check_open(&self) -> Result<(), QueryError> {
        self.check_open()
    }

    async fn describe(&self, caller: &Caller, sql: &str, limits: Limits) -> Result<Description, QueryError> {
        self.describe(caller, sql, limits).await
    }

    async fn execute(&self, caller: &Caller, sql: &str, parameters: Bytes, limits: Limits) -> Result<Execution, QueryError> {
        self.execute(caller, sql, parameters, limits).await
    }

    async fn ingest(
        &self,
        caller: &Caller,
        table: TableRef,
        mode: IngestMode,
        frames: ClientFrames,
        limits: Limits,
    ) -> Result<u64, QueryError> {
        self.ingest(caller, table, mode, frames, limits).await
    }

    fn catalogs(&self, caller: &Caller) -> Vec<CatalogName> {
        self.catalogs(caller)
    }

    async fn schemas(
        &self,
        caller: &Caller,
        catalog: Option<&CatalogName>,
        pattern: Option<&str>,
    ) -> Result<ListedSchemas, QueryError> {
        self.schemas(caller, catalog, pattern).await
    }

    async fn tables(&self, caller: &Caller, filter: &TableFilter) -> Result<ListedTables, QueryError> {
        self.tables(caller, filter).await
    }

    async fn schema_exists(&self, caller: &Caller, catalog: &CatalogName, schema: &str) -> Result<bool, QueryError> {
        self.schema_exists(caller, catalog, schema).await
    }
}

/// A client's input that cannot be read, as the query layer's own error.
pub(super) fn broken_input(reason: String) -> QueryError {
    QueryError::Input(reason)
}
