//! Owns the memory of how queries were described, so that a dashboard's GetFlightInfo needs no worker. A description hangs on the text,
//! on where and when its names are looked up, and on the columns of the tables that it reads; these are loaded anew with the caller's own
//! rights each time. Refuses to remember what hangs on anything else: listings, time travel, types that only values settle.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::try_join_all;
use tokio::time::Instant;

use super::prepare::table_ref;
use super::{Caller, Description, Engine, QueryError};
use crate::as_of::AsOf;
use crate::lake::Column;
use crate::names::{CatalogName, CredentialId, TableRef};
use crate::relay::CatalogError;
use crate::wire::proto::{Class, Judged};

/// Longer texts are described each time.
const TEXT_BYTES: usize = 16 << 10;

/// About what all of them may take.
const MEMORY_BYTES: u64 = 16 << 20;

/// The descriptions of one engine.
pub(super) struct Descriptions(moka::sync::Cache<Asked, Arc<Remembered>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Asked {
    credential: CredentialId,
    catalog: CatalogName,
    schema: String,
    as_of: Option<AsOf>,
    sql: String,
}

struct Remembered {
    tables: Columns,
    description: Description,
}

/// Tables with their columns.
type Columns = Vec<(TableRef, Arc<[Column]>)>;

impl Descriptions {
    pub(super) fn new() -> Self {
        let weight = |asked: &Asked, remembered: &Arc<Remembered>| {
            let of_tables: usize = remembered.tables.iter().flat_map(|(_, columns)| columns.iter().map(Column::weight)).sum();
            let of_result = remembered.description.columns.as_ref().map_or(0, |schema| schema.fields().size());
            u32::try_from(asked.sql.len() + of_tables + of_result + 512).unwrap_or(u32::MAX)
        };
        Self(moka::sync::Cache::builder().max_capacity(MEMORY_BYTES).weigher(weight).build())
    }
}

fn asked(caller: &Caller, sql: &str) -> Asked {
    Asked {
        credential: caller.credential.id().clone(),
        catalog: caller.catalog.clone(),
        schema: caller.schema.clone(),
        as_of: caller.as_of,
        sql: sql.to_owned(),
    }
}

/// What a description hangs on, once its statement is judged; `None` when it is not to be remembered.
pub(super) struct Basis(Columns);

impl Basis {
    /// The columns of the statement's table, if it has one only.
    pub(super) fn only_table(&self) -> Option<&[Column]> {
        if let [(_, columns)] = &self.0[..] { Some(columns) } else { None }
    }
}

impl Engine {
    /// The description of a query whose tables have the columns that they had.
    ///
    /// # Errors
    /// When one of its tables cannot be loaded any longer, or not until `deadline`.
    pub(super) async fn recall(&self, caller: &Caller, sql: &str, deadline: Instant) -> Result<Option<Description>, QueryError> {
        if sql.len() > TEXT_BYTES {
            return Ok(None);
        }
        let Some(remembered) = self.descriptions().0.get(&asked(caller, sql)) else { return Ok(None) };
        let tables: Vec<TableRef> = remembered.tables.iter().map(|(table, _)| table.clone()).collect();
        let began = Instant::now();
        let silent = || {
            let catalogs: BTreeSet<CatalogName> = remembered.tables.iter().map(|(table, _)| table.catalog.clone()).collect();
            QueryError::SilentCatalog { catalogs: catalogs.into_iter().collect(), after: began.elapsed() }
        };
        let credential = caller.reads();
        let asked = async {
            try_join_all(tables.iter().map(|table| self.relay().load(&credential, table))).await?;
            self.columns_of(caller, tables.clone()).await
        };
        let now = tokio::time::timeout_at(deadline, asked).await.map_err(|_| silent())?;
        let same = now? == remembered.tables;
        Ok(same.then(|| remembered.description.clone()))
    }

    /// To be asked for when the statement's tables are loaded and before the worker binds it.
    pub(super) async fn basis(&self, caller: &Caller, judged: &Judged) -> Option<Basis> {
        if judged.class() != Class::Read || !judged.listings.is_empty() {
            return None;
        }
        let tables = judged.tables.iter().map(table_ref).collect();
        self.columns_of(caller, tables).await.ok().map(Basis)
    }

    /// Keeps a description, unless its tables have changed while it was made.
    pub(super) async fn remember(&self, caller: &Caller, sql: &str, basis: Basis, description: &Description) {
        if sql.len() > TEXT_BYTES || description.provisional || description.columns.is_none() {
            return;
        }
        let tables = basis.0.iter().map(|(table, _)| table.clone()).collect();
        if self.columns_of(caller, tables).await.is_ok_and(|now| now == basis.0) {
            let remembered = Remembered { tables: basis.0, description: description.clone() };
            self.descriptions().0.insert(asked(caller, sql), Arc::new(remembered));
        }
    }

    /// As the statement has them whose tables were loaded ahead.
    async fn columns_of(&self, caller: &Caller, tables: Vec<TableRef>) -> Result<Columns, CatalogError> {
        let loads = tables.into_iter().map(async |table| {
            let columns = self.relay().loaded_columns(&caller.reads(), &table).await?;
            Ok((table, columns))
        });
        try_join_all(loads).await
    }
}
