//! Owns how a statement is described before it runs:
//!
//! ```text
//! remembered ─┬─ yes ─▶ its tables still have those columns ─▶ told
//!             └─ no ──▶ ask a reader ─▶ Judged ─┬─ its table's own columns ─▶ load the table ─┬─▶ told
//!                                               │                                          └─ unclear ─▶ ask again, to bind
//!                                               ├─ the past ─▶ ask an exclusive worker ─▶ as below
//!                                               └─ else ─▶ load its tables ─▶ proceed ─▶ Described
//! ```
//!
//! A description whose worker is lost is asked for once more, on an exclusive one. Refuses to run anything.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_ipc::convert::try_schema_from_ipc_buffer;
use tokio::time::Instant;

use super::descriptions::Basis;
use super::log::{DESCRIBE, StatementLog};
use super::statement::{Losses, asked, last_moment, within};
use super::{Caller, Description, Engine, Limits, QueryError, is_write};
use crate::lake::Column;
use crate::pool::connection::Reply;
use crate::pool::{Lease, PoolError, WorkerClass};
use crate::relay::lease::LeaseTerms;
use crate::wire::proto::{Class, Describe, Described, Judged, Request, ShownColumn, TableColumns, request};

/// Tables with more columns are bound: what it takes to tell them is better spent in a worker.
const MAX_COLUMNS: usize = 4096;

/// What came of asking a worker.
enum Answer {
    Described(Description, Option<Basis>),
    /// The columns of the statement's table say it.
    ByColumns(Box<Judged>),
    /// Readers have no metadata of the past.
    NeedsThePast,
}

impl Engine {
    /// Judges and binds a statement without running it.
    ///
    /// # Errors
    /// When it is refused, does not bind, or names what is not there.
    pub async fn describe(&self, caller: &Caller, sql: &str, limits: Limits) -> Result<Description, QueryError> {
        let mut log = self.begin(caller, DESCRIBE, sql)?;
        let (deadline, cut) = (self.deadline(limits), log.cut());
        let description = async {
            match self.recall(caller, sql, last_moment(deadline)).await? {
                Some(description) => Ok(description),
                None => self.describe_anew(caller, sql, deadline, &mut log).await,
            }
        };
        match within(deadline, &cut, description).await {
            Ok(description) => {
                log.end(None);
                Ok(description)
            }
            Err(error) => {
                log.fail(&error);
                Err(error)
            }
        }
    }

    async fn describe_anew(
        &self,
        caller: &Caller,
        sql: &str,
        deadline: Instant,
        log: &mut StatementLog,
    ) -> Result<Description, QueryError> {
        let mut losses = Losses::default();
        let (mut worker, mut again, mut bind) = (WorkerClass::Reader, false, false);
        let (description, basis) = loop {
            let lease =
                if again { self.lease_again(caller, log).await? } else { self.lease(caller, Class::Read, worker, log).await? };
            // A reader hands the past back unseen.
            let all_but_the_past = if lease.class() == WorkerClass::Reader { &[Class::Read, Class::Session][..] } else { &[] };
            let request = asked(caller, sql, all_but_the_past, request::Action::Describe(Describe { bind }));
            match self.described(caller, request, lease, deadline, log).await {
                Ok(Answer::Described(description, basis)) => break (description, basis),
                Ok(Answer::NeedsThePast) => (worker, again) = (WorkerClass::Exclusive, false),
                Ok(Answer::ByColumns(judged)) => match self.by_columns(caller, &judged, deadline, log).await? {
                    Some((description, basis)) => break (description, Some(basis)),
                    // It has DuckDB's names and types, or an error in its words.
                    None => bind = true,
                },
                Err(QueryError::Pool(lost @ PoolError::Lost { .. })) => {
                    losses.bear(lost)?;
                    again = worker == WorkerClass::Reader;
                }
                Err(error) => return Err(error),
            }
        };
        if let Some(basis) = basis {
            self.remember(caller, sql, basis, &description).await;
        }
        Ok(description)
    }

    async fn described(
        &self,
        caller: &Caller,
        request: Request,
        mut lease: Lease,
        deadline: Instant,
        log: &mut StatementLog,
    ) -> Result<Answer, QueryError> {
        let mut basis = None;
        let terms = LeaseTerms { whole_metadata: true, ..LeaseTerms::default() };
        lease.ask(request, terms, deadline.into_std()).await?;
        loop {
            match lease.next().await? {
                Reply::Judged(judged) if judged.handed_back && judged.columns.is_some() => {
                    return Ok(Answer::ByColumns(Box::new(judged)));
                }
                Reply::Judged(judged)
                    if lease.class() == WorkerClass::Reader && (judged.handed_back || needs_the_past(&judged)) =>
                {
                    return Ok(Answer::NeedsThePast);
                }
                Reply::Judged(judged) => {
                    log.classed(judged.class().as_str_name());
                    if is_write(judged.class()) {
                        self.check_may_write(caller)?;
                    }
                    if judged.waiting {
                        let prepared = self.prepared(caller, &judged, true, deadline, &log.cut()).await?;
                        basis = self.basis(caller, &judged).await;
                        lease.proceed(&prepared.proceed).await?;
                    } else {
                        basis = self.basis(caller, &judged).await;
                    }
                }
                Reply::Described(described) => return Ok(Answer::Described(description(&described)?, basis)),
                _ => return Err(PoolError::Protocol("a Describe was answered with rows").into()),
            }
        }
    }

    /// `None` when the columns cannot be had or do not say it: one is not there, or is not written as it is called, or has a type of which
    /// DuckDB has more to say.
    async fn by_columns(
        &self,
        caller: &Caller,
        judged: &Judged,
        deadline: Instant,
        log: &mut StatementLog,
    ) -> Result<Option<(Description, Basis)>, QueryError> {
        log.classed(judged.class().as_str_name());
        self.prepared(caller, judged, true, deadline, &log.cut()).await?;
        let basis = self.basis(caller, judged).await;
        Ok(basis.zip(judged.columns.as_ref()).and_then(|(basis, wanted)| {
            let columns = shown(basis.only_table()?, wanted)?;
            Some((Description { parameters: Arc::new(Schema::empty()), columns: Some(columns), provisional: false }, basis))
        }))
    }
}

/// The columns of a result that are those of a table.
fn shown(columns: &[Column], wanted: &TableColumns) -> Option<SchemaRef> {
    if columns.len() > MAX_COLUMNS || !columns.iter().all(|column| column.is_read_so) {
        return None;
    }
    let by_name: HashMap<String, &Column> = columns.iter().map(|column| (column.name.to_ascii_lowercase(), column)).collect();
    // DuckDB has no table with two columns that differ in their letters only.
    let all_differ = by_name.len() == columns.len();
    let named = |name: &str| by_name.get(&name.to_ascii_lowercase()).copied().filter(|column| column.name == name);
    if !all_differ || !wanted.needed.iter().all(|name| named(name).is_some()) {
        return None;
    }
    let mut fields = Vec::new();
    for ShownColumn { name, alias } in &wanted.shown {
        if name.is_empty() {
            fields.extend(columns.iter().map(|column| field(column, "")).collect::<Option<Vec<_>>>()?);
        } else {
            fields.push(field(named(name)?, alias)?);
        }
    }
    (!fields.is_empty()).then(|| Arc::new(Schema::new(fields)))
}

/// A column as results have it. What is nested has names that DuckDB may have chosen.
fn field(column: &Column, alias: &str) -> Option<Field> {
    let name = if alias.is_empty() { &column.name } else { alias };
    (!column.data_type.is_nested()).then(|| Field::new(name, column.data_type.clone(), true))
}

fn needs_the_past(judged: &Judged) -> bool {
    judged.class() == Class::TimeTravel || judged.whole_metadata
}

fn description(described: &Described) -> Result<Description, QueryError> {
    let columns = if described.result_schema.is_empty() { None } else { Some(schema(&described.result_schema)?) };
    let parameters =
        if described.parameter_schema.is_empty() { Arc::new(Schema::empty()) } else { schema(&described.parameter_schema)? };
    Ok(Description { parameters, columns, provisional: described.provisional })
}

fn schema(message: &[u8]) -> Result<SchemaRef, QueryError> {
    let schema = try_schema_from_ipc_buffer(message);
    schema.map(Arc::new).map_err(|e| QueryError::Defect(format!("a worker's schema cannot be read: {e}")))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;

    fn column(name: &str, data_type: DataType) -> Column {
        Column { name: name.to_owned(), sql_type: String::new(), data_type, nullable: false, comment: None, is_read_so: true }
    }

    fn wanted(shown: &[(&str, &str)], needed: &[&str]) -> TableColumns {
        let shown = shown.iter().map(|(name, alias)| ShownColumn { name: (*name).to_owned(), alias: (*alias).to_owned() });
        TableColumns { shown: shown.collect(), needed: needed.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn only_columns_that_can_be_nothing_else_are_told_without_binding() {
        let list = DataType::List(Arc::new(Field::new("l", DataType::Int32, true)));
        let mut columns = vec![column("a", DataType::Int32), column("b", DataType::Utf8), column("list", list)];
        let told = |columns: &[Column], shown_columns: &[(&str, &str)], needed: &[&str]| {
            let schema = shown(columns, &wanted(shown_columns, needed))?;
            Some(
                schema.fields().iter().map(|f| format!("{}:{}:{}", f.name(), f.data_type(), f.is_nullable())).collect::<Vec<_>>(),
            )
        };
        let plain = [("b", ""), ("a", "x"), ("a", "")];
        assert_eq!(told(&columns, &plain, &["list"]).unwrap(), ["b:Utf8:true", "x:Int32:true", "a:Int32:true"]);
        assert_eq!(told(&columns[..2], &[("", ""), ("b", "")], &[]).unwrap(), ["a:Int32:true", "b:Utf8:true", "b:Utf8:true"]);
        for name in ["nope", "A", "list", ""] {
            assert_eq!(told(&columns, &[("a", ""), (name, "")], &[]), None, "{name}");
        }
        assert_eq!(told(&columns, &plain, &["nope"]), None);
        assert_eq!(told(&[], &[("", "")], &[]), None);
        columns.push(column("LIST", DataType::Int32));
        assert_eq!(told(&columns, &plain, &[]), None, "a table that DuckDB cannot have");
        columns[3] = Column { is_read_so: false, ..column("other", DataType::Int32) };
        assert_eq!(told(&columns, &plain, &[]), None, "a table that DuckDB may not read");
        let many: Vec<Column> = (0..=MAX_COLUMNS).map(|n| column(&format!("c{n}"), DataType::Int32)).collect();
        assert_eq!(shown(&many[1..], &wanted(&[("", "")], &["c7"])).unwrap().fields().len(), MAX_COLUMNS);
        assert_eq!(shown(&many, &wanted(&[("c1", "")], &[])), None);
    }
}
