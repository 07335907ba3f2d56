//! Owns the reading of a statement's head, token by token: keywords, names, lists, and where an embedded query begins. Refuses to
//! judge; each kind of statement does that with what it has read.

use super::Refusal;
use super::token::{Kind, Token};

/// A place in the tokens of one statement.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    sql: &'a str,
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(sql: &'a str, tokens: &'a [Token]) -> Self {
        Self { sql, tokens, at: 0 }
    }

    pub fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    pub fn next(&mut self) -> Option<&'a Token> {
        let token = self.tokens.get(self.at);
        self.at += usize::from(token.is_some());
        token
    }

    pub fn at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// The next token as an upper-case keyword or symbol; empty for names in quotes, strings, numbers and the end.
    pub fn peek_word(&self) -> String {
        match self.peek().map(|token| &token.kind) {
            Some(Kind::Word(word)) => word.to_uppercase(),
            Some(Kind::Symbol(symbol)) => symbol.to_string(),
            _ => String::new(),
        }
    }

    /// Takes these keywords if all of them come next.
    pub fn take_words(&mut self, words: &[&str]) -> bool {
        let found = words
            .iter()
            .enumerate()
            .all(|(offset, word)| self.tokens.get(self.at + offset).is_some_and(|token| token.is_word(word)));
        self.at += if found { words.len() } else { 0 };
        found
    }

    pub fn take_symbol(&mut self, symbol: char) -> bool {
        let found = self.peek().is_some_and(|token| token.is_symbol(symbol));
        self.at += usize::from(found);
        found
    }

    pub fn expect_words(&mut self, words: &[&str]) -> Result<(), Refusal> {
        if self.take_words(words) { Ok(()) } else { Err(self.unexpected(&words.join(" "))) }
    }

    pub fn expect_symbol(&mut self, symbol: char) -> Result<(), Refusal> {
        if self.take_symbol(symbol) { Ok(()) } else { Err(self.unexpected(&format!("\"{symbol}\""))) }
    }

    pub fn expect_end(&self) -> Result<(), Refusal> {
        if self.at_end() { Ok(()) } else { Err(self.unexpected("the end of the statement")) }
    }

    /// A name, plain or in double quotes. A string in its place could be a file's name.
    pub fn name(&mut self, what: &str) -> Result<String, Refusal> {
        match self.peek().map(|token| &token.kind) {
            Some(Kind::Word(name) | Kind::Quoted(name)) => {
                self.at += 1;
                Ok(name.clone())
            }
            Some(Kind::Text(text)) => Err(super::names::file_refused(text)),
            _ => Err(self.unexpected(what)),
        }
    }

    /// A name of several parts, joined by dots.
    pub fn path(&mut self, what: &str) -> Result<Vec<String>, Refusal> {
        let mut parts = vec![self.name(what)?];
        while self.take_symbol('.') {
            parts.push(self.name(what)?);
        }
        Ok(parts)
    }

    /// A string.
    pub fn text(&mut self, what: &str) -> Result<String, Refusal> {
        match self.peek().map(|token| &token.kind) {
            Some(Kind::Text(text)) => {
                self.at += 1;
                Ok(text.clone())
            }
            _ => Err(self.unexpected(what)),
        }
    }

    /// A whole number without a sign.
    pub fn number(&mut self, what: &str) -> Result<u64, Refusal> {
        match self.peek().map(|token| &token.kind) {
            Some(Kind::Number(number)) if number.len() <= 18 && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.at += 1;
                number.parse().map_err(|_| self.unexpected(what))
            }
            _ => Err(self.unexpected(what)),
        }
    }

    /// One or more items between parentheses, separated by commas.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Refusal>) -> Result<Vec<T>, Refusal> {
        self.expect_symbol('(')?;
        let mut items = vec![item(self)?];
        while self.take_symbol(',') {
            items.push(item(self)?);
        }
        self.expect_symbol(')')?;
        Ok(items)
    }

    /// The client's bytes from here to the end; only for DuckDB's parser.
    pub fn rest(&self) -> &'a str {
        match (self.peek(), self.tokens.last()) {
            (Some(first), Some(last)) => &self.sql[first.start..last.end],
            _ => "",
        }
    }

    /// The client's bytes between two places; only for DuckDB's parser.
    pub fn since(&self, start: &Self) -> &'a str {
        match (start.peek(), self.at.checked_sub(1).and_then(|last| self.tokens.get(last))) {
            (Some(first), Some(last)) if first.start < last.end => &self.sql[first.start..last.end],
            _ => "",
        }
    }

    /// Those of these names, in lower case, that stand between `start` and here as a column that could be one of the table `owner`:
    /// alone, or behind its name.
    pub fn columns_since(&self, start: &Self, names: &[&'static str], owner: &str) -> Vec<&'static str> {
        let name_at = |at: usize| match self.tokens.get(at).map(|token| &token.kind) {
            Some(Kind::Word(name) | Kind::Quoted(name)) => Some(name.as_str()),
            _ => None,
        };
        let is_elsewhere = |at: usize| {
            let behind_dot = at >= 2 && self.tokens[at - 1].is_symbol('.');
            behind_dot && name_at(at - 2).is_some_and(|table| !table.eq_ignore_ascii_case(owner))
        };
        let is_there = |name: &&&'static str| {
            (start.at..self.at).any(|at| name_at(at).is_some_and(|word| word.eq_ignore_ascii_case(name)) && !is_elsewhere(at))
        };
        names.iter().filter(is_there).copied().collect()
    }

    /// The places outside parentheses where these keywords stand one after the other: a cursor behind each.
    pub fn behind_words(&self, words: &[&str]) -> Vec<Self> {
        let mut found = Vec::new();
        let mut ahead = *self;
        while !ahead.at_end() {
            let mut behind = ahead;
            if behind.take_words(words) {
                found.push(behind);
            }
            ahead.skip_one();
        }
        found
    }

    /// Skips a token, or all of a pair of parentheses.
    pub fn skip_one(&mut self) {
        let mut depth = 0_usize;
        while let Some(token) = self.next() {
            depth += usize::from(token.is_symbol('('));
            depth = depth.saturating_sub(usize::from(token.is_symbol(')')));
            if depth == 0 {
                return;
            }
        }
    }

    /// The client's bytes of an expression, or of what stands behind FROM: up to a comma, a closing bracket or one of these keywords
    /// outside brackets and CASE, or up to the end. Only for DuckDB's parser, which sees whether they are a whole.
    pub fn piece(&mut self, what: &str, ends: &[&str]) -> Result<&'a str, Refusal> {
        let start = *self;
        let (mut brackets, mut cases) = (0_usize, 0_usize);
        while !self.at_end() {
            let word = self.peek_word();
            let before = self.at.checked_sub(1).and_then(|before| self.tokens.get(before));
            // Behind a dot every word is the name of a column.
            let is_name = before.is_some_and(|token| token.is_symbol('.'));
            let is_distinct_from = word == "FROM" && before.is_some_and(|token| token.is_word("DISTINCT"));
            if brackets == 0 && cases == 0 && !is_name && !is_distinct_from && ends.contains(&word.as_str()) {
                break;
            }
            match word.as_str() {
                "," | ")" | "]" | "}" if brackets == 0 && cases == 0 => break,
                "(" | "[" | "{" => brackets += 1,
                ")" | "]" | "}" => brackets = brackets.saturating_sub(1),
                "CASE" if !is_name => cases += 1,
                "END" if !is_name => cases = cases.saturating_sub(1),
                _ => {}
            }
            self.next();
        }
        match self.since(&start) {
            "" => Err(self.unexpected(what)),
            text => Ok(text),
        }
    }

    pub fn unexpected(&self, wanted: &str) -> Refusal {
        Refusal::Syntax(match self.peek() {
            Some(token) => format!(
                "syntax error at or near {:?} (at byte {}): expected {wanted}",
                &self.sql[token.start..token.end],
                token.start
            ),
            None => format!("syntax error at the end of the statement: expected {wanted}"),
        })
    }
}

/// The keyword that follows a WITH clause: the kind of its statement. Empty if the clause is not as it should be; DuckDB's parser
/// says why.
pub(super) fn after_with(mut cursor: Cursor<'_>) -> String {
    skip_with(&mut cursor);
    cursor.peek_word()
}

/// Goes over a WITH clause: `WITH [RECURSIVE] name [(columns)] [USING KEY (…)] AS [[NOT] MATERIALIZED] (query), …`.
pub(super) fn skip_with(cursor: &mut Cursor<'_>) {
    cursor.take_words(&["WITH"]);
    cursor.take_words(&["RECURSIVE"]);
    loop {
        cursor.next();
        if cursor.peek_word() == "(" {
            cursor.skip_one();
        }
        if cursor.take_words(&["USING", "KEY"]) {
            cursor.skip_one();
        }
        cursor.take_words(&["AS"]);
        let _ = cursor.take_words(&["NOT", "MATERIALIZED"]) || cursor.take_words(&["MATERIALIZED"]);
        cursor.skip_one();
        if !cursor.take_symbol(',') {
            return;
        }
    }
}
