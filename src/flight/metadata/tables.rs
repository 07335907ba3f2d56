//! Owns the rows of GetTables: they leave in batches as the query layer lists them, and no table is asked for before a client reads on.
//! Refuses to list anything itself.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BinaryBuilder, RecordBatch, StringBuilder};
use arrow::datatypes::Schema;
use arrow_flight::utils::batches_to_flight_data;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::time::Instant;
use tonic::Status;

use super::schema::listed_schema;
use super::{TABLE, TABLES, TABLES_WITH_SCHEMA};
use crate::flight::FlightError;
use crate::flight::transport::results::{Messages, whole_message};
use crate::flight::types::schema_message;
use crate::query::ListedTable;
use crate::query::listing::ListedTables;

/// A batch of tables is sent when their schemas take so many bytes.
const BATCH_BYTES: usize = 256 << 10;

/// How long the first tables wait for others to go with them, and those that follow.
const FIRST_WITHIN: Duration = Duration::from_millis(20);
const NEXT_WITHIN: Duration = Duration::from_millis(100);

/// The messages of these tables: the schema, then at least one batch.
pub(super) fn messages(tables: ListedTables, with_schema: bool) -> Messages {
    let schema = if with_schema { &TABLES_WITH_SCHEMA } else { &TABLES };
    let first = whole_message(&schema_message(schema));
    let batches = Batches { tables: Some(tables), with_schema, within: FIRST_WITHIN };
    let rest = stream::unfold(batches, |mut batches| async move {
        let message = batches.next().await.and_then(|batch| batch.map(message).transpose());
        if message.is_err() {
            batches.tables = None;
        }
        message.map_err(Status::from).transpose().map(|message| (message, batches))
    });
    stream::iter([first]).chain(rest).boxed()
}

/// A batch as a whole gRPC message.
pub(super) fn message(batch: RecordBatch) -> Result<Bytes, FlightError> {
    let messages = batches_to_flight_data(&batch.schema(), vec![batch])?;
    // The schema is the first of them.
    let last = messages.last().ok_or_else(|| FlightError::Defect("a batch without a message".to_owned()))?;
    whole_message(last).map_err(|status| FlightError::Defect(status.message().to_owned()))
}

/// Batches in the making.
struct Batches {
    /// `None` when all have come.
    tables: Option<ListedTables>,
    with_schema: bool,
    /// How long the next batch may wait once it has a table.
    within: Duration,
}

impl Batches {
    async fn next(&mut self) -> Result<Option<RecordBatch>, FlightError> {
        let is_first = self.within == FIRST_WITHIN;
        let Some(tables) = &mut self.tables else { return Ok(None) };
        let mut rows = TableRows::default();
        let mut leaves = None;
        while rows.bytes < BATCH_BYTES {
            let listed = match leaves {
                None => tables.next().await,
                Some(leaves) => match tokio::time::timeout_at(leaves, tables.next()).await {
                    Ok(listed) => listed,
                    Err(_) => break,
                },
            };
            let Some(listed) = listed.transpose()? else {
                self.tables = None;
                break;
            };
            rows.add(&listed, self.with_schema)?;
            leaves.get_or_insert_with(|| Instant::now() + self.within);
        }
        self.within = NEXT_WITHIN;
        if rows.bytes == 0 && !is_first {
            return Ok(None);
        }
        rows.finish(self.with_schema).map(Some)
    }
}

#[derive(Default)]
struct TableRows {
    catalogs: StringBuilder,
    schemas: StringBuilder,
    tables: StringBuilder,
    types: StringBuilder,
    columns: BinaryBuilder,
    bytes: usize,
}

impl TableRows {
    fn add(&mut self, ListedTable { table, columns }: &ListedTable, with_schema: bool) -> Result<(), FlightError> {
        let (catalog, namespace) = (table.catalog.as_str(), table.namespace.to_string());
        self.bytes += 64 + catalog.len() + namespace.len() + table.table.len();
        self.catalogs.append_value(catalog);
        self.schemas.append_value(namespace);
        self.tables.append_value(&table.table);
        self.types.append_value(TABLE);
        if with_schema {
            let bytes = match columns {
                Some(columns) => listed_schema(table, columns)?,
                None => listed_schema(table, &Schema::empty())?,
            };
            self.bytes += bytes.len();
            self.columns.append_value(bytes);
        }
        Ok(())
    }

    fn finish(mut self, with_schema: bool) -> Result<RecordBatch, FlightError> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.catalogs.finish()),
            Arc::new(self.schemas.finish()),
            Arc::new(self.tables.finish()),
            Arc::new(self.types.finish()),
        ];
        if with_schema {
            columns.push(Arc::new(self.columns.finish()));
        }
        let schema = if with_schema { &TABLES_WITH_SCHEMA } else { &TABLES };
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field};
    use arrow_flight::{FlightData, IpcMessage};
    use futures::TryStreamExt;
    use prost::Message;

    use super::*;
    use crate::names::{Namespace, TableRef};
    use crate::query::QueryError;

    fn listed(name: &str, fields: usize) -> ListedTable {
        let table = TableRef { catalog: "lake".into(), namespace: Namespace::from_schema("a.b"), table: name.to_owned() };
        let fields: Vec<Field> = (0..fields).map(|n| Field::new(format!("c{n}"), DataType::Int64, true)).collect();
        ListedTable { table, columns: (!fields.is_empty()).then(|| Arc::new(Schema::new(fields))) }
    }

    fn all(tables: Vec<ListedTable>) -> ListedTables {
        stream::iter(tables.into_iter().map(Ok)).boxed()
    }

    async fn batches(tables: ListedTables, with_schema: bool) -> Vec<RecordBatch> {
        let mut batches = Batches { tables: Some(tables), with_schema, within: FIRST_WITHIN };
        let mut found = Vec::new();
        while let Some(batch) = batches.next().await.unwrap() {
            found.push(batch);
        }
        found
    }

    #[tokio::test]
    async fn tables_have_schemas_that_carry_metadata() {
        let batches = batches(all(vec![listed("a", 2), listed("z", 0)]), true).await;
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].schema(), *TABLES_WITH_SCHEMA);
        let names: Vec<_> = batches[0].column(2).as_string::<i32>().iter().flatten().collect();
        assert_eq!(names, ["a", "z"]);
        let schema = |row: usize| {
            let bytes = batches[0].column(4).as_binary::<i32>().value(row);
            Schema::try_from(IpcMessage(Bytes::copy_from_slice(bytes))).unwrap()
        };
        assert_eq!(schema(0).field(1).metadata()["ARROW:FLIGHT:SQL:SCHEMA_NAME"], "a.b");
        assert_eq!(schema(1).fields().len(), 0, "a table that could not be loaded has no columns");
    }

    #[tokio::test]
    async fn many_wide_tables_leave_in_small_messages_before_the_last_is_listed() {
        static LISTED: AtomicUsize = AtomicUsize::new(0);
        let tables = stream::iter(0..200).map(|n| {
            LISTED.fetch_add(1, Ordering::SeqCst);
            Ok(listed(&format!("t{n:03}"), 100))
        });
        let mut messages = messages(tables.boxed(), true);
        for _ in 0..2 {
            messages.next().await.unwrap().unwrap();
        }
        let before = LISTED.load(Ordering::SeqCst);
        assert!((1..100).contains(&before), "{before} tables were listed for the first batch");
        let rest: Vec<Bytes> = messages.try_collect().await.unwrap();
        assert!(rest.len() > 2 && rest.iter().all(|message| message.len() < 2 * BATCH_BYTES));
        assert_eq!(LISTED.load(Ordering::SeqCst), 200);
    }

    #[tokio::test]
    async fn a_schema_with_a_long_name_makes_no_large_messages() {
        let table = |n| {
            let namespace = Namespace::from_schema(&"s".repeat(60_000));
            let table = TableRef { catalog: "lake".into(), namespace, table: format!("t{n}") };
            Ok(ListedTable { table, columns: None })
        };
        let messages: Vec<Bytes> = messages(stream::iter((0..100).map(table)).boxed(), false).try_collect().await.unwrap();
        assert!(messages.len() > 10 && messages.iter().all(|message| message.len() < 2 * BATCH_BYTES));
    }

    #[tokio::test]
    async fn tables_that_are_slow_to_come_do_not_keep_those_that_are_there() {
        let slow = stream::once(async {
            std::future::pending::<()>().await;
            Ok(listed("never", 1))
        });
        let mut messages = messages(all(vec![listed("a", 1)]).chain(slow).boxed(), true);
        messages.next().await.unwrap().unwrap();
        let batch = tokio::time::timeout(Duration::from_secs(20), messages.next()).await.expect("without the slow one");
        assert!(FlightData::decode(&batch.unwrap().unwrap()[5..]).unwrap().data_body.len() > 64);
    }

    #[tokio::test]
    async fn a_listing_that_breaks_off_ends_with_its_error() {
        let broken = stream::iter([Ok(listed("a", 0)), Err(QueryError::ListingTooLarge { what: "tables", limit: 1 })]);
        let answers: Vec<_> = messages(broken.boxed(), false).collect().await;
        assert_eq!(answers.len(), 2, "the schema and the error");
        assert_eq!(answers[1].as_ref().unwrap_err().code(), tonic::Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn no_tables_still_have_their_schema() {
        let batches = batches(all(Vec::new()), false).await;
        assert_eq!((batches.len(), batches[0].schema(), batches[0].num_rows()), (1, Arc::clone(&TABLES), 0));
    }
}
