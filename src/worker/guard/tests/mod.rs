//! The guard against DuckDB's own parser, with the extensions that a worker loads.

mod allowed;
mod functions;
mod fuzz;
mod mutated;
mod past;
mod queries;
mod refused;
mod statements;
mod system;
mod writes;

use duckdb::{Config, Connection};
use serde_json::Value;

use super::{ParseError, Parser, Refusal, Scope, Verdict, judge, read_ast};

/// A parser on a connection of its own.
pub(super) struct DuckParser {
    pub connection: Connection,
}

impl DuckParser {
    pub fn new() -> Self {
        Self { connection: Connection::open_in_memory().unwrap() }
    }
}

impl Parser for DuckParser {
    fn ast(&mut self, select: &str) -> Result<Value, ParseError> {
        let json: String = self
            .connection
            .prepare_cached("SELECT json_serialize_sql(?::VARCHAR)")
            .and_then(|mut statement| statement.query_row([select], |row| row.get(0)))
            .map_err(|error| ParseError { message: error.to_string() })?;
        read_ast(&json)
    }

    fn text(&mut self, ast: &Value) -> Result<String, ParseError> {
        self.connection
            .prepare_cached("SELECT json_deserialize_sql(?::JSON)")
            .and_then(|mut statement| statement.query_row([ast.to_string()], |row| row.get(0)))
            .map_err(|error| ParseError { message: error.to_string() })
    }
}

/// Opens a database with the extensions of a worker. Their files stand beside the library.
pub(super) fn with_extensions() -> Connection {
    let library = std::env::var("DUCKDB_LIB_DIR").expect("DUCKDB_LIB_DIR names the directory of libduckdb.so");
    let directory = std::path::Path::new(&library).join("extensions");
    let connection = Connection::open_in_memory_with_flags(Config::default().allow_unsigned_extensions().unwrap()).unwrap();
    for name in ["icu", "avro", "httpfs", "iceberg", "tpch"] {
        let file = directory.join(format!("{name}.duckdb_extension"));
        connection.execute_batch(&format!("LOAD '{}'", file.display())).unwrap();
    }
    connection
}

/// Two catalogs, defaults `lake` and `bronze`.
pub(super) fn judged(sql: &str) -> Result<Verdict, Refusal> {
    judged_by(&mut DuckParser::new(), sql)
}

pub(super) fn judged_by(parser: &mut DuckParser, sql: &str) -> Result<Verdict, Refusal> {
    let catalogs = ["lake".to_owned(), "Gold".to_owned()];
    judge(parser, &Scope::new(&catalogs, "lake", "bronze"), sql)
}

/// The tables of a verdict as text.
pub(super) fn tables(verdict: &Verdict) -> Vec<String> {
    verdict.tables.iter().map(|table| format!("{}.{}.{}", table.catalog, table.schema, table.table)).collect()
}

/// The names of the listings that a verdict wants.
pub(super) fn listings(verdict: &Verdict) -> Vec<&str> {
    verdict.listings.iter().map(|listing| listing.name.as_str()).collect()
}
