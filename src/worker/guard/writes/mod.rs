//! Owns what the statements that change rows have in common: a WITH clause before them, their target, and the parts that are judged one
//! by one. Refuses RETURNING and what else would need more than the table's own rows.

mod insert;
mod merge;
mod update;

pub(super) use self::insert::judge as insert;
pub(super) use self::merge::judge as merge;
pub(super) use self::update::{delete, truncate, update};

use super::grammar::{self, Cursor};
use super::query::{VIRTUAL_COLUMNS, fragment};
use super::{Parser, Reads, RealColumns, Refusal, Scope, Verdict, names};
use crate::wire::proto;

/// Judges the parts of one statement, and gathers what they read.
struct Parts<'a, 'p> {
    parser: &'a mut dyn Parser,
    scope: &'a Scope<'p>,
    /// The statement's WITH clause as the client wrote it, which every part may see.
    with: String,
    /// The same, judged, as it begins the text that runs.
    judged_with: String,
    reads: Reads,
    /// The target's alias, or its own name.
    target_name: String,
    /// The virtual columns that are named where they could be the target's.
    target_has: Vec<&'static str>,
}

/// The table that a statement changes.
struct Target {
    table: proto::TableName,
    /// In SQL, with the alias.
    sql: String,
}

impl<'a, 'p> Parts<'a, 'p> {
    /// Begins with the WITH clause, if there is one.
    fn begin(parser: &'a mut dyn Parser, scope: &'a Scope<'p>, cursor: &mut Cursor<'_>) -> Result<Self, Refusal> {
        let mut parts = Self {
            parser,
            scope,
            with: String::new(),
            judged_with: String::new(),
            reads: Reads::default(),
            target_name: String::new(),
            target_has: Vec::new(),
        };
        if cursor.peek_word() == "WITH" {
            let start = *cursor;
            grammar::skip_with(cursor);
            cursor.since(&start).clone_into(&mut parts.with);
            let with = fragment::with(parts.parser, scope, &parts.with)?;
            parts.reads.add(with.reads);
            parts.judged_with = with.sql;
        }
        Ok(parts)
    }

    /// `table [[AS] alias]`; what follows is one of these keywords.
    fn target(&mut self, cursor: &mut Cursor<'_>, follows: &[&str]) -> Result<Target, Refusal> {
        if cursor.take_words(&["ONLY"]) {
            return Err(Refusal::Unsupported("ONLY is not supported: leave it out, tables have no children".to_owned()));
        }
        let path = cursor.path("the name of a table")?;
        let table = self.scope.table(&path.iter().map(String::as_str).collect::<Vec<_>>())?;
        let has_alias = cursor.take_words(&["AS"]) || !(cursor.at_end() || follows.contains(&cursor.peek_word().as_str()));
        let mut sql = names::quote_table(&table);
        table.table.clone_into(&mut self.target_name);
        if has_alias {
            let alias = cursor.name("an alias of the table")?;
            sql = format!("{sql} AS {}", names::quote(&alias));
            self.target_name = alias;
        }
        Ok(Target { table, sql })
    }

    /// An expression up to one of these keywords, a comma or a closing parenthesis.
    fn expression(&mut self, cursor: &mut Cursor<'_>, ends: &[&str]) -> Result<String, Refusal> {
        let start = *cursor;
        let text = cursor.piece("an expression", ends)?;
        self.note_columns(cursor, &start);
        if text.eq_ignore_ascii_case("DEFAULT") && start.peek_word() == "DEFAULT" {
            return Err(Refusal::Unsupported(
                "DEFAULT is not supported as a value: columns have no defaults, write NULL".to_owned(),
            ));
        }
        let query = fragment::expression(self.parser, self.scope, &self.with, text)?;
        self.reads.add(query.reads);
        Ok(query.sql)
    }

    /// Notes the virtual columns that are named between two places and could be the target's.
    fn note_columns(&mut self, cursor: &Cursor<'_>, start: &Cursor<'_>) {
        let named = cursor.columns_since(start, &VIRTUAL_COLUMNS, &self.target_name);
        self.target_has.extend(named);
    }

    /// What stands behind FROM or USING: tables and subqueries, with commas and joins between them.
    fn source(&mut self, cursor: &mut Cursor<'_>, ends: &[&str]) -> Result<fragment::Source, Refusal> {
        let start = *cursor;
        cursor.piece("a table or a query in parentheses", ends)?;
        while cursor.take_symbol(',') {
            cursor.piece("a table or a query in parentheses", ends)?;
        }
        let mut source = fragment::source(self.parser, self.scope, &self.with, cursor.since(&start))?;
        self.reads.add(std::mem::take(&mut source.query.reads));
        Ok(source)
    }

    /// `column = expression, …`, as text.
    fn assignments(&mut self, cursor: &mut Cursor<'_>, ends: &[&str]) -> Result<String, Refusal> {
        let mut assignments = Vec::new();
        loop {
            if cursor.peek_word() == "(" {
                return Err(Refusal::Unsupported(
                    "SET of several columns at once is not supported: set each by itself, SET a = 1, b = 2".to_owned(),
                ));
            }
            let column = cursor.name("the name of a column")?;
            if [".", "["].contains(&cursor.peek_word().as_str()) {
                let message = "SET takes the plain name of a column: set a STRUCT or a list as a whole";
                return Err(Refusal::Unsupported(message.to_owned()));
            }
            cursor.expect_symbol('=')?;
            assignments.push(format!("{} = {}", names::quote(&column), self.expression(cursor, ends)?));
            if !cursor.take_symbol(',') {
                return Ok(assignments.join(", "));
            }
        }
    }

    /// The verdict on the whole statement, which must end here.
    fn verdict(self, cursor: &Cursor<'_>, target: proto::TableName, sql: &str) -> Result<Verdict, Refusal> {
        if cursor.peek_word() == "RETURNING" {
            return Err(Refusal::Unsupported("RETURNING is not supported: read the rows by a SELECT".to_owned()));
        }
        cursor.expect_end()?;
        let sql = format!("{}{sql}", self.judged_with);
        // The target itself cannot be read through a subquery, as the tables beside it are.
        let query = format!("SELECT * FROM {}", names::quote_table(&target));
        let target_has = (!self.target_has.is_empty()).then_some(RealColumns { query, names: self.target_has });
        Ok(Verdict { target: Some(target), target_has, ..super::verdict(proto::Class::OtherWrite, sql, self.reads) })
    }
}
