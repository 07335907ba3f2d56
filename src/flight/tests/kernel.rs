//! A stand-in for the query layer: knows a handful of statements, and counts what it runs.

use std::sync::{Arc, Mutex};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::FlightData;
use arrow_flight::utils::batches_to_flight_data;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::super::kernel::{ClientFrames, Kernel, broken_input};
use super::super::transport::results::whole_message;
use crate::names::{CatalogName, Namespace, RoleName, TableRef};
use crate::query::listing::{ListedSchemas, ListedTables};
use crate::query::{
    Caller, Description, Execution, Frame, IngestMode, Limits, ListedTable, QueryError, SessionChange, TableFilter,
};

/// One execution, as the kernel saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    pub principal: String,
    pub schema: String,
    pub sql: String,
    pub parameters: Bytes,
}

#[derive(Default)]
pub struct Counting {
    pub ran: Mutex<Vec<Ran>>,
    /// Messages of uploads that came, whole or not.
    pub frames: Mutex<usize>,
    /// Uploads that came to their end, with the number of their messages.
    pub ingested: Mutex<Vec<(TableRef, IngestMode, usize)>>,
    pub deadlines: Mutex<Vec<Limits>>,
}

impl Counting {
    pub fn texts(&self) -> Vec<String> {
        self.ran.lock().unwrap().iter().map(|ran| ran.sql.clone()).collect()
    }
}

fn column() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]))
}

fn frames(batches: Vec<RecordBatch>) -> Vec<Result<Frame, QueryError>> {
    let messages = batches_to_flight_data(&column(), batches).unwrap();
    let frame =
        |data: FlightData| Frame { message: whole_message(&data).unwrap(), header: data.data_header, body: data.data_body };
    messages.into_iter().map(|data| Ok(frame(data))).collect()
}

#[async_trait]
impl Kernel for Counting {
    fn check_open(&self) -> Result<(), QueryError> {
        Ok(())
    }

    async fn describe(&self, _: &Caller, sql: &str, limits: Limits) -> Result<Description, QueryError> {
        self.deadlines.lock().unwrap().push(limits);
        if sql.contains("nope") {
            return Err(broken_input(format!("column \"nope\" is not there: {sql}")));
        }
        let parameters = sql.matches('?').count();
        let parameters = (1..=parameters).map(|n| Field::new(n.to_string(), DataType::Int64, true)).collect::<Vec<_>>();
        let columns = sql.starts_with("select").then(column);
        Ok(Description { parameters: Arc::new(Schema::new(parameters)), columns, provisional: sql.contains("any") })
    }

    async fn execute(&self, caller: &Caller, sql: &str, parameters: Bytes, _: Limits) -> Result<Execution, QueryError> {
        self.ran.lock().unwrap().push(Ran {
            principal: caller.principal.to_string(),
            schema: format!("{}.{}", caller.catalog, caller.schema),
            sql: sql.to_owned(),
            parameters,
        });
        if sql.starts_with("select") {
            let batch = RecordBatch::try_new(column(), vec![Arc::new(Int64Array::from(vec![1, 2]))]).unwrap();
            let mut frames = frames(vec![batch.clone(), batch]);
            if sql.contains("breaks") {
                frames.pop();
                frames.push(Err(broken_input("cast failed in row 3".to_owned())));
            }
            return Ok(Execution::Rows(stream::iter(frames).boxed()));
        }
        let session =
            sql.strip_prefix("use ").map(|schema| SessionChange::Names { catalog: "lake".into(), schema: schema.to_owned() });
        Ok(Execution::Done { affected: sql.starts_with("insert").then_some(3), session })
    }

    async fn ingest(
        &self,
        _: &Caller,
        table: TableRef,
        mode: IngestMode,
        frames: ClientFrames,
        _: Limits,
    ) -> Result<u64, QueryError> {
        let frames: Vec<Frame> = frames.inspect(|_| *self.frames.lock().unwrap() += 1).try_collect().await?;
        self.ingested.lock().unwrap().push((table, mode, frames.len()));
        Ok(7)
    }

    fn catalogs(&self, caller: &Caller) -> Vec<CatalogName> {
        match caller.credential.role().map(RoleName::as_str) {
            Some("nothing") => Vec::new(),
            Some("historian") => vec!["archive".into()],
            _ => vec!["lake".into(), "archive".into()],
        }
    }

    async fn schemas(&self, _: &Caller, _: Option<&CatalogName>, _: Option<&str>) -> Result<ListedSchemas, QueryError> {
        let schemas = vec![("archive".into(), "y2020".to_owned()), ("lake".into(), "gold".to_owned())];
        Ok(stream::iter([Ok(schemas)]).boxed())
    }

    async fn tables(&self, _: &Caller, filter: &TableFilter) -> Result<ListedTables, QueryError> {
        let table = TableRef { catalog: "lake".into(), namespace: Namespace::from_schema("gold"), table: "orders".to_owned() };
        let listed = ListedTable { table, columns: filter.with_columns.then(column) };
        Ok(stream::iter([Ok(listed)]).boxed())
    }

    async fn schema_exists(&self, _: &Caller, _: &CatalogName, schema: &str) -> Result<bool, QueryError> {
        Ok(schema == "gold" || schema == "y2020")
    }
}
