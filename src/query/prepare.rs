//! Owns what happens between the guard's verdict and the run: the statement's tables are loaded into the relay's cache, all at
//! once and with typed errors, and the listings that it reads are made. Refuses to run anything.

use futures::future::try_join_all;

use super::{Caller, Engine, QueryError};
use crate::names::{CatalogName, Namespace, TableRef};
use crate::wire::proto::{Class, Judged, Proceed, TableName};

/// What a judged statement needs is ready.
pub(super) struct Prepared {
    /// Lets it go on.
    pub proceed: Proceed,
    /// Bytes in the data files of its tables, estimated from the summaries of their snapshots. A statement may read less: columns and
    /// rows that it does not ask for are left out as far as the files allow.
    pub data_bytes: u64,
}

impl Engine {
    /// Makes ready what a judged statement needs; less of it for one that is only `described`.
    pub(super) async fn prepare(&self, caller: &Caller, judged: &Judged, described: bool) -> Result<Prepared, QueryError> {
        let mut tables: Vec<TableRef> = judged.tables.iter().map(table_ref).collect();
        // DDL finds out itself whether its target is there; an INSERT into a missing table is told so here.
        if let Some(target) = &judged.target
            && matches!(judged.class(), Class::BlindInsert | Class::OtherWrite)
            && !judged.creates_target
        {
            tables.push(table_ref(target));
        }
        tables.sort();
        tables.dedup();
        let credential = caller.credential_of(judged.class());
        let loads = try_join_all(tables.iter().map(|table| self.relay().load_since(&credential, table, caller.begun)));
        let (sizes, mut listings) =
            tokio::try_join!(async { Ok(loads.await?) }, self.listings(caller, &judged.listings, &tables))?;
        // Behind the loads, so that a table is asked for once.
        let (about, versions) = self.past(caller, &credential, judged, described).await?;
        listings.extend(about);
        let data_bytes = sizes.into_iter().fold(0, u64::saturating_add);
        Ok(Prepared { proceed: Proceed { listings, versions }, data_bytes })
    }
}

pub(super) fn table_ref(name: &TableName) -> TableRef {
    TableRef {
        catalog: CatalogName::from(name.catalog.as_str()),
        namespace: Namespace::from_schema(&name.schema),
        table: name.table.clone(),
    }
}
