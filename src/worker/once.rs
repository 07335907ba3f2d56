//! Owns the way by which DuckDB plans a query once. What is prepared is planned when it is prepared and, as the catalogs of a lakehouse
//! have no version by which a plan could be known to be still right, again when it runs: a second request to the catalog, and near to half
//! of the time of a small read. Here a frame is prepared that has nothing to plan before it has its parameter, which is the query.
//! Refuses statements that are no queries, or that have parameters or listings of their own.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};

use super::binding::{Connection, EngineError, EngineResult, ErrorKind, Instance, Prepared, Scalar};
use super::guard::Verdict;
use crate::wire::proto::Run;

/// What is prepared in place of a query.
pub const FRAME: &str = "FROM query($1)";

/// Whether a statement gives the same rows within the frame.
pub fn is_possible(verdict: &Verdict, run: &Run) -> bool {
    verdict.embeds && !verdict.constant && verdict.listings.is_empty() && run.parameters.is_empty()
}

/// The query in its frame, to be run once.
pub fn prepare(engine: &Connection, sql: &str) -> EngineResult<Prepared> {
    let mut frame = engine.prepare(FRAME)?;
    frame.bind(0, &Scalar::Varchar(sql))?;
    Ok(frame)
}

/// What is told of a query that failed before its first row. An excerpt that DuckDB gives is one of the frame, so a query that cannot be
/// planned is planned as it is, for the sake of the error.
pub fn explained(engine: &Connection, sql: &str, error: EngineError) -> EngineError {
    match error.kind {
        ErrorKind::Invalid | ErrorKind::Catalog | ErrorKind::NotImplemented => engine.prepare(sql).err().unwrap_or(error),
        _ => error,
    }
}

/// The schema under the query's own names. Within the frame no two columns have the same name: the later one gets a number, `id_1`. Where
/// one looks like that, the names are asked for on a connection of their own, as the query is running on the other.
pub fn with_own_names(instance: &Instance, sql: &str, schema: SchemaRef) -> EngineResult<SchemaRef> {
    if !may_be_numbered(&schema) {
        return Ok(schema);
    }
    let engine = instance.connect()?;
    let own = engine.prepare(sql)?.columns().unwrap_or_default();
    if own.len() != schema.fields().len() {
        return Err(EngineError::new(ErrorKind::Other, "a query has other columns than when it was begun".to_owned()));
    }
    let named = |(field, (name, _)): (&Arc<Field>, &(String, _))| field.as_ref().clone().with_name(name);
    Ok(Arc::new(Schema::new(schema.fields().iter().zip(&own).map(named).collect::<Vec<_>>())))
}

/// Whether a column is named as another one before it, with a number.
fn may_be_numbered(schema: &Schema) -> bool {
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().to_lowercase()).collect();
    names.iter().enumerate().any(|(at, name)| {
        let base = name.rsplit_once('_').filter(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
        base.is_some_and(|(base, _)| names[..at].iter().any(|before| before == base))
    })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::super::binding::Outcome;
    use super::*;

    const SQL: &str = "SELECT a, b, a FROM late ORDER BY a DESC";

    #[test]
    fn nothing_is_planned_before_the_query_runs_and_its_names_are_its_own() {
        let instance = Instance::open(&[]).unwrap();
        let engine = instance.connect().unwrap();
        let mut query = prepare(&engine, SQL).unwrap();
        assert!(engine.prepare(SQL).is_err(), "there is no such table yet");
        engine.run("CREATE TABLE late AS SELECT * FROM (VALUES (1, 'x'), (2, 'it''s')) AS t(a, b)").unwrap();
        let Outcome::Rows(mut rows) = query.stream().unwrap() else { panic!("no rows") };
        let schema = with_own_names(&instance, SQL, Arc::clone(rows.schema())).unwrap();
        assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["a", "b", "a"]);
        let batch = rows.next_batch().unwrap().unwrap();
        assert_eq!(format!("{:?}", batch.column(0)), format!("{:?}", arrow::array::Int32Array::from(vec![2, 1])));
    }

    #[test]
    fn an_error_is_the_one_of_the_query_itself() {
        let engine = Instance::open(&[]).unwrap().connect().unwrap();
        let told = |sql: &str| {
            let mut query = prepare(&engine, sql).unwrap();
            let error = query.stream().err().unwrap();
            explained(&engine, sql, error).message
        };
        assert!(told("SELECT nope FROM range(3) t(i)").contains("LINE 1: SELECT nope FROM range(3) t(i)"));
        assert!(told("SELECT i::INTEGER FROM (SELECT 'x' AS i) AS t ORDER BY 1").contains("'x'"));
    }

    #[test]
    fn only_a_number_behind_a_name_that_is_there_is_one_of_duckdbs() {
        let is = |names: &[&str]| {
            may_be_numbered(&Schema::new(names.iter().map(|name| Field::new(*name, DataType::Int32, true)).collect::<Vec<_>>()))
        };
        assert!(is(&["id", "x", "id_1"]) && is(&["ID", "id_12"]) && is(&["count_star()", "count_star()_1"]));
        assert!(!is(&["id", "id_"]) && !is(&["id_1", "id"]) && !is(&["l_1", "l_2"]) && !is(&["id", "id_x1"]) && !is(&[]));
    }
}
