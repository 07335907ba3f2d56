//! Owns the guard's DuckDB parser, on a tiny instance of its own that no client reaches, and a bounded memory of verdicts. Refuses to
//! judge: the guard does.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use serde_json::Value;

use super::binding::{Connection, EngineError, EngineResult, ErrorKind, Instance, Outcome, Prepared, Scalar};
use super::guard::{ParseError, Parser, Refusal, Scope, Verdict, read_ast};

/// Verdicts kept. The same text in the same place gets the same verdict.
const REMEMBERED_VERDICTS: u64 = 512;

/// Longer texts are judged each time.
const REMEMBERED_TEXT_BYTES: usize = 16 << 10;

/// The guard, or a test's stand-in for it.
pub type JudgeFn = fn(&mut dyn Parser, &Scope<'_>, &str) -> Result<Verdict, Refusal>;

/// What all connections of a worker share of judging.
#[derive(Clone)]
pub struct Bench {
    judge: JudgeFn,
    parsers: Instance,
    verdicts: moka::sync::Cache<Case, Arc<Verdict>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Case {
    sql: String,
    catalog: String,
    schema: String,
    in_the_past: bool,
}

/// Judges the statements of one connection.
pub struct Judge {
    judge: JudgeFn,
    parser: SqlParser,
    verdicts: moka::sync::Cache<Case, Arc<Verdict>>,
}

impl Bench {
    /// Opens the parser's instance.
    pub fn open(judge: JudgeFn) -> EngineResult<Self> {
        let settings = [
            ("threads", "1"),
            ("memory_limit", "256MB"),
            ("temp_directory", ""),
            ("autoinstall_known_extensions", "false"),
            ("autoload_known_extensions", "false"),
            ("enable_external_access", "false"),
        ];
        Ok(Self { judge, parsers: Instance::open(&settings)?, verdicts: moka::sync::Cache::new(REMEMBERED_VERDICTS) })
    }

    /// A judge for one connection.
    pub fn judge(&self) -> EngineResult<Judge> {
        Ok(Judge { judge: self.judge, parser: SqlParser::new(self.parsers.connect()?), verdicts: self.verdicts.clone() })
    }
}

impl Judge {
    /// The verdict on a text. The catalogs of a worker never change, so they are no part of what is remembered.
    pub fn judge(&mut self, scope: &Scope<'_>, sql: &str) -> Result<Arc<Verdict>, Refusal> {
        if sql.len() > REMEMBERED_TEXT_BYTES {
            return (self.judge)(&mut self.parser, scope, sql).map(Arc::new);
        }
        let case = Case {
            sql: sql.to_owned(),
            catalog: scope.default_catalog.to_owned(),
            schema: scope.default_schema.to_owned(),
            in_the_past: scope.is_in_the_past(),
        };
        if let Some(verdict) = self.verdicts.get(&case) {
            return Ok(verdict);
        }
        let verdict = Arc::new((self.judge)(&mut self.parser, scope, sql)?);
        self.verdicts.insert(case, Arc::clone(&verdict));
        Ok(verdict)
    }
}

impl Judge {
    /// The verdict on a text whose past reads are settled: it hangs on more than the text.
    pub fn judge_settled(&mut self, scope: &Scope<'_>, sql: &str) -> Result<Arc<Verdict>, Refusal> {
        (self.judge)(&mut self.parser, scope, sql).map(Arc::new)
    }
}

/// DuckDB's parser as functions of text. They are planned once: that takes longer than to parse a short statement.
struct SqlParser {
    connection: Connection,
    to_tree: Option<Prepared>,
    to_text: Option<Prepared>,
}

impl SqlParser {
    fn new(connection: Connection) -> Self {
        Self { connection, to_tree: None, to_text: None }
    }
}

/// What the planned function gives for a text; it is planned anew after one that failed.
fn call(connection: &Connection, planned: &mut Option<Prepared>, sql: &str, argument: &str) -> EngineResult<String> {
    let mut statement = planned.take().map_or_else(|| connection.prepare(sql), Ok)?;
    statement.bind(0, &Scalar::Varchar(argument))?;
    let text = only_text(statement.complete()?)?;
    *planned = Some(statement);
    Ok(text)
}

fn only_text(outcome: Outcome<'_>) -> EngineResult<String> {
    let Outcome::Rows(mut rows) = outcome else {
        return Err(no_text());
    };
    let batch = rows.next_batch()?.ok_or_else(no_text)?;
    let column = batch.column(0).as_string_opt::<i32>().filter(|column| column.is_valid(0)).ok_or_else(no_text)?;
    Ok(column.value(0).to_owned())
}

fn no_text() -> EngineError {
    EngineError::new(ErrorKind::Other, "the parser gave no text".to_owned())
}

impl Parser for SqlParser {
    fn ast(&mut self, select: &str) -> Result<Value, ParseError> {
        let sql = "SELECT CAST(json_serialize_sql(CAST($1 AS VARCHAR)) AS VARCHAR)";
        let text = call(&self.connection, &mut self.to_tree, sql, select).map_err(parse_error)?;
        read_ast(&text)
    }

    fn text(&mut self, ast: &Value) -> Result<String, ParseError> {
        let sql = "SELECT json_deserialize_sql(CAST($1 AS JSON))";
        call(&self.connection, &mut self.to_text, sql, &ast.to_string()).map_err(parse_error)
    }
}

fn parse_error(error: EngineError) -> ParseError {
    ParseError { message: error.message }
}
