//! The list of functions against the pinned DuckDB.

use std::collections::BTreeSet;

use super::super::query::functions::{Kind, Place, judge, list};
use super::with_extensions;

#[test]
fn every_function_of_the_pinned_duckdb_is_classed() {
    let connection = with_extensions();
    let mut statement =
        connection.prepare("SELECT DISTINCT function_type, lower(function_name) FROM duckdb_functions()").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
    let there: BTreeSet<(String, String)> = rows
        .map(|row| {
            let (kind, name) = row.unwrap();
            let kind = match kind.as_str() {
                "scalar" | "macro" => "Scalar",
                "aggregate" => "Aggregate",
                "table" | "table_macro" => "Table",
                "pragma" => "Pragma",
                other => panic!("functions of the unknown kind {other}: {name}"),
            };
            (kind.to_owned(), name)
        })
        .collect();
    let classed: BTreeSet<(String, String)> = list()
        .keys()
        .filter(|(kind, _)| *kind != Kind::Syntax)
        .map(|(kind, name)| (format!("{kind:?}"), (*name).to_owned()))
        .collect();
    let unclassed: Vec<_> = there.difference(&classed).collect();
    let gone: Vec<_> = classed.difference(&there).collect();
    assert!(there.len() > 800, "only {} functions: an extension is missing", there.len());
    assert!(unclassed.is_empty(), "read up on these and class them in functions.txt: {unclassed:?}");
    assert!(gone.is_empty(), "functions.txt classes what is not there: {gone:?}");
}

#[test]
fn a_function_that_the_list_does_not_have_is_refused() {
    assert!(judge("no_such_function", Place::Expression).is_err());
    assert!(judge("sum", Place::Table).is_err());
    assert!(judge("range", Place::Table).is_ok());
    assert!(judge("read_csv", Place::Expression).unwrap_err().to_string().contains("reads files"));
    assert!(judge("SUM", Place::Window).is_ok());
}
