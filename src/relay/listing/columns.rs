//! Owns the columns of one table for listings: read out of a load answer, of which nothing else is kept. Refuses to hand tables to
//! workers, so it does not look at where their files lie.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::lake::{self, Column};
use crate::names::{CatalogName, TableRef};
use crate::relay::cache::remembered::{Outcome, Value};
use crate::relay::error::CatalogError;
use crate::relay::table::LARGE_BYTES;
use crate::relay::upstream::{Answer, Purpose, Upstream};

/// The columns of a table.
pub(super) struct Listed {
    /// The catalog's own mark of the state that they are of.
    etag: Option<String>,
    /// Or why they cannot be read.
    columns: Result<Arc<[Column]>, String>,
}

impl Value for Listed {
    fn weight(&self) -> usize {
        self.columns.as_ref().map_or(0, |columns| columns.iter().map(Column::weight).sum())
    }
}

impl Listed {
    /// With an error that names the table.
    pub(super) fn columns(&self, catalog: &CatalogName) -> Result<Arc<[Column]>, CatalogError> {
        self.columns.clone().map_err(|reason| CatalogError::BadAnswer { catalog: catalog.clone(), reason })
    }
}

/// Asks for a table's columns, unless they are what is known.
pub(super) async fn load(upstream: &dyn Upstream, table: &TableRef, known: Option<Arc<Listed>>) -> Outcome<Listed> {
    let etag = known.as_ref().and_then(|known| known.etag.clone());
    let purpose = if upstream.tells_data_from_columns() { Purpose::Columns } else { Purpose::Data };
    match (upstream.load_table(table, etag.as_deref(), purpose).await?, known) {
        (Answer::Fresh { body, etag }, _) => Ok(Arc::new(Listed { etag, columns: read(table, body).await })),
        (Answer::NotModified, Some(known)) => Ok(known),
        (Answer::NotModified, None) => Err(CatalogError::BadAnswer {
            catalog: table.catalog.clone(),
            reason: format!("it says that table \"{table}\" has not changed, although nothing was known of it"),
        }),
    }
}

async fn read(table: &TableRef, answer: Bytes) -> Result<Arc<[Column]>, String> {
    let read = if answer.len() < LARGE_BYTES {
        read_now(&answer)
    } else {
        tokio::task::spawn_blocking(move || read_now(&answer)).await.unwrap_or_else(|panic| Err(panic.to_string()))
    };
    read.map_err(|reason| format!("the columns of table \"{table}\" cannot be read: {reason}"))
}

fn read_now(answer: &[u8]) -> Result<Arc<[Column]>, String> {
    /// Snapshots and the like are skipped, not held.
    #[derive(Deserialize)]
    struct LoadAnswer {
        metadata: Part,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Part {
        #[serde(default)]
        current_schema_id: Json,
        #[serde(default)]
        schemas: Json,
        #[serde(default)]
        schema: Option<Json>,
    }
    let answer: LoadAnswer = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let Part { current_schema_id, schemas, schema } = answer.metadata;
    let mut metadata = Map::from_iter([("current-schema-id".to_owned(), current_schema_id), ("schemas".to_owned(), schemas)]);
    metadata.extend(schema.map(|schema| ("schema".to_owned(), schema)));
    lake::columns(&Json::Object(metadata)).map(Arc::from).map_err(|error| error.to_string())
}
