//! Judges each statement of a client before DuckDB binds anything of it, and writes the text that runs.
//!
//! It owns the question what a statement may be: its kind, every node of its queries, every function, every table's name. It works
//! by allow-lists only, and what runs is text rebuilt from what was judged, never the client's bytes. It refuses to run anything,
//! and to know whether a table exists.
//!
//! - `token`: cuts the text, finds a second statement.
//! - `query`: judges a query on DuckDB's own syntax tree, writes it out, and checks that the text means the same.
//! - `names`: what the name of a table means.
//! - `past`: tables that are read as they were, and functions that show their past.
//! - `system`: the system tables, and what makes them.
//! - `grammar`, `writes`, `ddl`, `types`, `explain`, `listing`, `session`: the kinds of statement that DuckDB gives no tree for.

mod ddl;
mod explain;
mod grammar;
mod listing;
mod names;
mod past;
mod query;
mod session;
mod system;
mod token;
mod types;
mod writes;

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::Value;

use self::grammar::Cursor;
pub use self::past::{PastAt, PastRead};
use self::query::Reads;
pub use self::system::SystemObject;
use crate::wire::proto;

/// Longest statement in bytes.
pub const MAX_STATEMENT_BYTES: usize = 1 << 20;

/// Deepest syntax tree, in levels of JSON lists and objects; an operator or a call takes two. DuckDB itself stops at 1,000 nested
/// expressions.
pub const MAX_AST_DEPTH: usize = 2_048;

/// The stack that judging needs: each step over a tree is recursive, up to [`MAX_AST_DEPTH`], in DuckDB's reader and writer of trees
/// as well.
pub const STACK_BYTES: usize = 32 << 20;

/// The kinds of statement that there are, for messages.
const SUPPORTED: &str = "supported are SELECT, WITH, VALUES, FROM, INSERT, UPDATE, DELETE, MERGE, TRUNCATE, CREATE SCHEMA, CREATE TABLE, \
                         CREATE TABLE AS, ALTER TABLE, DROP TABLE, DROP SCHEMA, EXPLAIN, SHOW, DESCRIBE, SUMMARIZE, CALL, USE, SET schema and SET as_of";

/// DuckDB's parser, reached by `json_serialize_sql` and `json_deserialize_sql`. Neither binds anything.
pub trait Parser {
    /// The tree of a text, as `json_serialize_sql` gives it; [`read_ast`] makes it of the function's answer.
    ///
    /// # Errors
    /// DuckDB's message, if the text cannot be parsed or is outside the SELECT family.
    fn ast(&mut self, select: &str) -> Result<Value, ParseError>;

    /// The text of a tree, as `json_deserialize_sql` gives it.
    ///
    /// # Errors
    /// DuckDB's message, if it takes the tree for malformed.
    fn text(&mut self, ast: &Value) -> Result<String, ParseError>;
}

/// What DuckDB's parser says against a text.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// DuckDB's own words, with the position where there is one.
    pub message: String,
}

/// Reads the answer of `json_serialize_sql`, which reports errors as JSON too.
///
/// # Errors
/// DuckDB's message with the position in bytes; or that the tree is too deep.
pub fn read_ast(json: &str) -> Result<Value, ParseError> {
    if json_depth(json) > MAX_AST_DEPTH {
        return Err(ParseError { message: "the statement is nested too deeply".to_owned() });
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    // Its own limit is 128 levels; the one above holds here.
    reader.disable_recursion_limit();
    let ast = Value::deserialize(&mut reader).map_err(|error| ParseError {
        message: format!("the statement has a number out of range, or a tree that cannot be read: {error}"),
    })?;
    if ast.get("error") != Some(&Value::Bool(true)) {
        return Ok(ast);
    }
    let message = ast.get("error_message").and_then(Value::as_str).unwrap_or("syntax error");
    let position = ast.get("position").and_then(Value::as_str).map(|position| format!(" (at byte {position})"));
    Err(ParseError { message: format!("{message}{}", position.unwrap_or_default()) })
}

/// Levels of lists and objects in a JSON text, read without recursion.
fn json_depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(inside) = bytes.next().filter(|inside| *inside != b'"') {
                    if inside == b'\\' {
                        bytes.next();
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// Where a statement runs.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The catalogs that are attached, as their owner writes them.
    pub catalogs: &'a [String],
    /// Where names without a catalog are looked up.
    pub default_catalog: &'a str,
    /// Where names without a schema are looked up.
    pub default_schema: &'a str,
    /// The statement has the name of a virtual column somewhere: its tables show their own columns only.
    hides_virtual_columns: bool,
    /// Tables without an AT of their own are read as they were at the session's instant.
    in_the_past: bool,
    /// Which snapshots stand for the past reads of the statement, once that is known; `None` for a table without snapshots, which has
    /// no rows, whatever is committed to it meanwhile.
    versions: Option<&'a [(PastRead, Option<i64>)]>,
}

impl<'a> Scope<'a> {
    /// Attached catalogs, default catalog, default schema.
    #[must_use]
    pub fn new(catalogs: &'a [String], default_catalog: &'a str, default_schema: &'a str) -> Self {
        Self { catalogs, default_catalog, default_schema, hides_virtual_columns: false, in_the_past: false, versions: None }
    }

    /// The same in a session that reads the past, or does not.
    #[must_use]
    pub fn in_the_past(self, in_the_past: bool) -> Self {
        Self { in_the_past, ..self }
    }

    /// The same for a statement that was judged before, with the snapshots that stand for its past reads.
    #[must_use]
    pub fn with_versions(self, versions: &'a [(PastRead, Option<i64>)]) -> Self {
        Self { versions: Some(versions), ..self }
    }

    /// Whether the session reads the past.
    #[must_use]
    pub fn is_in_the_past(&self) -> bool {
        self.in_the_past
    }
}

/// A statement that may run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// What it needs of a worker.
    pub class: proto::Class,
    /// The text to run, rebuilt, with all names in full. Empty for SESSION.
    pub sql: String,
    /// The lakehouse tables that it reads, each once. Case as the client wrote it, catalogs as their owner does.
    pub tables: Vec<proto::TableName>,
    /// The table that it writes, creates or drops; `None` for schemas.
    pub target: Option<proto::TableName>,
    /// It creates its target.
    pub creates_target: bool,
    /// The listings that it reads as `temp.main.listed_<name>`.
    pub listings: Vec<proto::WantedListing>,
    /// The system tables and functions that it names in `temp.main`, made of the listings.
    pub system: Vec<SystemObject>,
    /// For SESSION: what changes.
    pub session: Option<proto::SessionChange>,
    /// Parameters that are cast to one type, each with a NULL of that type as an expression. DuckDB types no parameter of a
    /// statement in which it cannot type one.
    pub parameter_types: Vec<(String, String)>,
    /// It reads the past of a table, whatever its class.
    pub time_travel: bool,
    /// Its past reads, each once. Its text is one to run only when it is judged again with the snapshots that stand for them.
    pub past: Vec<PastRead>,
    /// The text gives DuckDB's plan as JSON, of which the client gets a part in this form.
    pub plan: Option<PlanForm>,
    /// What the target must have for the statement to run.
    pub target_has: Option<RealColumns>,
    /// For READ: it looks at a few rows of its table only, or counts them.
    pub glance: bool,
    /// For READ: a query of nothing but constants. Its plan hangs on the text alone.
    pub constant: bool,
    /// The text is a query without parameters, which gives the same rows as a part of another one.
    pub embeds: bool,
    /// For READ: the columns of its table that are those of its result. Nothing else of it can fail to bind.
    pub columns: Option<proto::TableColumns>,
}

/// How a plan is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanForm {
    /// A tree of operators by indentation.
    Text,
    /// JSON as DuckDB's.
    Json,
}

/// Columns that a table must really have: a table without one of them would show a virtual column of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealColumns {
    /// A query that gives all columns of the table.
    pub query: String,
    /// The names, in lower case.
    pub names: Vec<&'static str>,
}

/// Why a statement may not run. The texts are for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be parsed; DuckDB's own words where it was asked.
    #[error("{0}")]
    Syntax(String),
    /// Nobody may do this.
    #[error("{0}")]
    Refused(String),
    /// There is no support for this; the text says what there is.
    #[error("{0}")]
    Unsupported(String),
    /// It names what is not there; the text says what is.
    #[error("{0}")]
    NotFound(String),
}

/// Judges one statement.
///
/// # Errors
/// Why it may not run.
pub fn judge(parser: &mut dyn Parser, scope: &Scope<'_>, sql: &str) -> Result<Verdict, Refusal> {
    if sql.len() > MAX_STATEMENT_BYTES {
        return Err(Refusal::Refused(format!("the statement has {} bytes; the most is {MAX_STATEMENT_BYTES}", sql.len())));
    }
    let tokens = token::statement(sql)?;
    let scope = &Scope { hides_virtual_columns: query::names_virtual_column(sql), ..*scope };
    let mut cursor = Cursor::new(sql, &tokens);
    let kind = if cursor.peek_word() == "WITH" { grammar::after_with(cursor) } else { cursor.peek_word() };
    if matches!(kind.as_str(), "UPDATE" | "DELETE" | "MERGE") && tokens.iter().any(|token| token.is_bare_parameter(sql)) {
        // Their parts are judged one by one: the parameters get their numbers while they are still together.
        return judge(parser, scope, &token::numbered(sql, &tokens)?);
    }
    match kind.as_str() {
        "SELECT" | "FROM" | "VALUES" | "TABLE" | "PIVOT" | "UNPIVOT" | "(" => bare_query(parser, scope, cursor.rest()),
        "INSERT" => writes::insert(parser, scope, &mut cursor),
        "UPDATE" => writes::update(parser, scope, &mut cursor),
        "DELETE" => writes::delete(parser, scope, &mut cursor),
        "MERGE" => writes::merge(parser, scope, &mut cursor),
        "TRUNCATE" => writes::truncate(parser, scope, &mut cursor),
        _ if cursor.peek_word() == "WITH" => query(parser, scope, cursor.rest()),
        "CREATE" => ddl::create(parser, scope, &mut cursor),
        "ALTER" => ddl::alter(scope, &mut cursor),
        "DROP" => ddl::drop(scope, &mut cursor),
        "SHOW" | "DESCRIBE" | "DESC" | "SUMMARIZE" => listing::judge(parser, scope, &mut cursor),
        "EXPLAIN" => explain::judge(parser, scope, &mut cursor),
        "CALL" => call(parser, scope, &mut cursor),
        "USE" | "SET" | "RESET" => session::judge(scope, &mut cursor),
        word => Err(other_kind(parser, word, cursor.rest())),
    }
}

/// Refuses the name of a table that no statement may name. For tables that are written without a statement.
///
/// # Errors
/// What is wrong with it.
pub fn judge_table_name(table: &proto::TableName) -> Result<(), Refusal> {
    names::refuse_odd_name(&table.table)?;
    names::refuse_file(table)
}

/// A query that runs as it is.
fn bare_query(parser: &mut dyn Parser, scope: &Scope<'_>, text: &str) -> Result<Verdict, Refusal> {
    let mut query = query::judge(parser, scope, text)?;
    let (constant, columns) = (query.reads.constant, query.reads.columns.take());
    Ok(Verdict { constant, columns, embeds: query.reads.embeds, ..read(query) })
}

/// A query that its caller puts something around.
fn query(parser: &mut dyn Parser, scope: &Scope<'_>, text: &str) -> Result<Verdict, Refusal> {
    let query = query::judge(parser, scope, text)?;
    Ok(Verdict { embeds: query.reads.embeds, ..read(query) })
}

fn read(query: query::Query) -> Verdict {
    let query::Query { sql, mut reads } = query;
    reads.pin_the_present();
    let class = if reads.past.is_empty() { proto::Class::Read } else { proto::Class::TimeTravel };
    verdict(class, sql, reads)
}

/// `CALL function(…)` of a table function that queries may read from: the rows of `SELECT * FROM function(…)`.
fn call(parser: &mut dyn Parser, scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    cursor.expect_words(&["CALL"])?;
    let source = query::fragment::source(parser, scope, "", cursor.rest())?;
    if !source.is_call {
        return Err(cursor.unexpected("the call of one table function"));
    }
    Ok(read(query::Query { sql: format!("SELECT * FROM {}", source.query.sql), reads: source.query.reads }))
}

/// A verdict without a target.
fn verdict(class: proto::Class, sql: String, reads: Reads) -> Verdict {
    let Reads { tables, listings, system, past, present: _, casts, glance, constant: _, embeds: _, columns: _ } = reads;
    let (parameter_types, time_travel) = (agreed(casts), !past.is_empty());
    Verdict { class, sql, tables, listings, system, time_travel, past, glance, parameter_types, ..Verdict::default() }
}

/// Each parameter that all its casts agree on.
fn agreed(mut casts: Vec<(String, String)>) -> Vec<(String, String)> {
    casts.sort();
    casts.dedup();
    let is_alone = |name: &str| casts.iter().filter(|(other, _)| other == name).count() == 1;
    casts.iter().filter(|(name, _)| is_alone(name)).cloned().collect()
}

/// For the first word of a statement that is none of the supported kinds. A word that DuckDB doesn't know either is a syntax error
/// in DuckDB's words.
fn other_kind(parser: &mut dyn Parser, word: &str, text: &str) -> Refusal {
    const KNOWN: [&str; 35] = [
        "ABORT",
        "ANALYZE",
        "ATTACH",
        "BEGIN",
        "CHECKPOINT",
        "CLUSTER",
        "COMMENT",
        "COMMIT",
        "COPY",
        "DEALLOCATE",
        "DECLARE",
        "DETACH",
        "DO",
        "END",
        "EXECUTE",
        "EXPORT",
        "FORCE",
        "GRANT",
        "IMPORT",
        "INSTALL",
        "LOAD",
        "LOCK",
        "PRAGMA",
        "PREPARE",
        "REFRESH",
        "REINDEX",
        "RELEASE",
        "RENAME",
        "RESET",
        "REVOKE",
        "ROLLBACK",
        "SAVEPOINT",
        "START",
        "UPSERT",
        "VACUUM",
    ];
    if KNOWN.contains(&word) {
        return unsupported_kind(word);
    }
    match parser.ast(text) {
        Err(error) => Refusal::Syntax(error.message),
        Ok(_) => unsupported_kind(word),
    }
}

fn unsupported_kind(word: &str) -> Refusal {
    let reason = match word {
        "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "SAVEPOINT" | "RELEASE" => {
            "transactions are not supported yet"
        }
        "PREPARE" | "EXECUTE" | "DEALLOCATE" => "prepared statements are made by the client's driver, not in SQL",
        "COPY" | "EXPORT" | "IMPORT" => "statements do not read or write files: `polynya load` brings a file into a table",
        "ATTACH" | "DETACH" | "INSTALL" | "LOAD" | "PRAGMA" | "SET" | "RESET" | "CHECKPOINT" | "FORCE" | "VACUUM" | "ANALYZE" => {
            let message = format!("{word} is refused: clients do not change the workers; {SUPPORTED}");
            return Refusal::Refused(message);
        }
        _ => "it is no kind of statement that there is here",
    };
    Refusal::Unsupported(format!("{word} is not supported: {reason}; {SUPPORTED}"))
}
