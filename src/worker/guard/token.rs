//! Owns the cutting of a statement's text into tokens, as DuckDB's own lexer cuts it, so that the grammar of the other files can
//! split a head from an embedded query. Refuses what a lexer could read in two ways: control characters, spaces and quotes from
//! outside ASCII, and anything left open at the end.

use super::Refusal;

/// Deepest nesting of block comments: DuckDB's lexer takes time by the square of it.
const MAX_COMMENT_DEPTH: usize = 16;

/// What a token is. Values are without quotes and escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a plain identifier, as written.
    Word(String),
    /// An identifier in double quotes.
    Quoted(String),
    /// A string: `'…'`, `E'…'` or dollar-quoted.
    Text(String),
    /// A number, as written.
    Number(String),
    /// `?`, `$1` or `$name`.
    Parameter,
    /// One character of punctuation or of an operator.
    Symbol(char),
}

/// One token and the bytes of the statement that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    /// Whether this is the unquoted keyword `word`, given in upper case.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(text) if text.eq_ignore_ascii_case(word))
    }

    /// Whether this is the symbol.
    pub fn is_symbol(&self, symbol: char) -> bool {
        self.kind == Kind::Symbol(symbol)
    }
}

impl Token {
    /// Whether this is `?` without a number.
    pub fn is_bare_parameter(&self, sql: &str) -> bool {
        self.kind == Kind::Parameter && &sql[self.start..self.end] == "?"
    }
}

/// The statement with its `?` written as `$1`, `$2`, … from left to right.
pub(super) fn numbered(sql: &str, tokens: &[Token]) -> Result<String, Refusal> {
    let mut text = String::with_capacity(sql.len() + tokens.len());
    let (mut copied, mut number) = (0, 0);
    for token in tokens.iter().filter(|token| token.kind == Kind::Parameter) {
        if !token.is_bare_parameter(sql) {
            return Err(Refusal::Unsupported("parameters are written either all as ? or all as $1, $2, …".to_owned()));
        }
        number += 1;
        text.push_str(&sql[copied..token.start]);
        text.push_str(&format!("${number} "));
        copied = token.end;
    }
    text.push_str(&sql[copied..]);
    Ok(text)
}

/// The tokens of the one statement in `sql`, without semicolons at its end. Two statements and none are refused.
pub(super) fn statement(sql: &str) -> Result<Vec<Token>, Refusal> {
    let mut tokens = Lexer { sql, at: 0 }.all()?;
    while tokens.last().is_some_and(|token| token.is_symbol(';')) {
        tokens.pop();
    }
    if tokens.is_empty() {
        return Err(Refusal::Syntax("the statement is empty".to_owned()));
    }
    if let Some(second) = tokens.iter().find(|token| token.is_symbol(';')) {
        let message = format!("one statement at a time: a second one begins after the semicolon at byte {}", second.start + 1);
        return Err(Refusal::Syntax(message));
    }
    Ok(tokens)
}

struct Lexer<'a> {
    sql: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn all(mut self) -> Result<Vec<Token>, Refusal> {
        let mut tokens = Vec::new();
        loop {
            self.skip_blanks()?;
            let start = self.at;
            let Some(kind) = self.next()? else { return Ok(tokens) };
            tokens.push(Token { kind, start, end: self.at });
        }
    }

    fn rest(&self) -> &str {
        &self.sql[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Takes characters as long as `wanted` holds.
    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let rest = self.rest();
        let len = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        let taken = rest[..len].to_owned();
        self.at += len;
        taken
    }

    /// Spaces and comments. Line comments end at a line feed or a carriage return, block comments nest, as in DuckDB.
    fn skip_blanks(&mut self) -> Result<(), Refusal> {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c'));
            if self.rest().starts_with("--") {
                let comment = self.take_while(|c| !matches!(c, '\n' | '\r'));
                refuse_controls(&comment, self.at - comment.len())?;
            } else if self.rest().starts_with("/*") {
                self.skip_block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), Refusal> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            if self.rest().starts_with("/*") {
                depth += 1;
                self.at += 2;
                if depth > MAX_COMMENT_DEPTH {
                    return Err(Refusal::Refused(format!("comments are nested more than {MAX_COMMENT_DEPTH} levels deep")));
                }
            } else if self.rest().starts_with("*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return refuse_controls(&self.sql[start..self.at], start);
                }
            } else if let Some(c) = self.peek() {
                self.at += c.len_utf8();
            } else {
                return Err(open("comment", start));
            }
        }
    }

    fn next(&mut self) -> Result<Option<Kind>, Refusal> {
        let Some(c) = self.peek() else { return Ok(None) };
        let start = self.at;
        let kind = match c {
            '\'' => Kind::Text(self.quoted('\'', "string")?),
            '"' => Kind::Quoted(self.quoted('"', "quoted name")?),
            'e' | 'E' if self.rest()[1..].starts_with('\'') => {
                self.at += 1;
                Kind::Text(self.escaped()?)
            }
            // The prefixes of bit, byte and national strings: DuckDB reads them, and nothing in this grammar needs them.
            'b' | 'B' | 'x' | 'X' | 'n' | 'N' | 'u' | 'U' if is_string_prefix(self.rest()) => {
                self.at += 1;
                return self.next();
            }
            '$' => self.dollar()?,
            '?' => {
                self.at += 1;
                self.take_while(|c| c.is_ascii_digit());
                Kind::Parameter
            }
            '0'..='9' => Kind::Number(self.number()),
            '.' if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => Kind::Number(self.number()),
            c if starts_word(c) => {
                Kind::Word(self.take_while(|c| starts_word(c) || c.is_ascii_digit() || c.is_numeric() || c == '$'))
            }
            c if c.is_ascii_graphic() => {
                self.at += 1;
                Kind::Symbol(c)
            }
            other => return Err(odd(other, start)),
        };
        Ok(Some(kind))
    }

    /// A string or name in single or double quotes; a quote inside is doubled.
    fn quoted(&mut self, quote: char, what: &str) -> Result<String, Refusal> {
        let start = self.at;
        self.at += 1;
        let mut value = String::new();
        loop {
            value.push_str(&self.take_while(|c| c != quote));
            if self.peek().is_none() {
                return Err(open(what, start));
            }
            self.at += 1;
            if self.peek() != Some(quote) {
                refuse_nul(&value, start)?;
                return Ok(value);
            }
            self.at += 1;
            value.push(quote);
        }
    }

    /// `E'…'` from its quote on. Only the escapes of single characters are read; nothing in the grammar needs more, and a string
    /// with others never becomes part of a rebuilt statement by this value.
    fn escaped(&mut self) -> Result<String, Refusal> {
        let start = self.at;
        self.at += 1;
        let mut value = String::new();
        loop {
            value.push_str(&self.take_while(|c| c != '\'' && c != '\\'));
            let Some(c) = self.peek() else { return Err(open("string", start)) };
            self.at += 1;
            if c == '\\' {
                let Some(escaped) = self.peek() else { return Err(open("string", start)) };
                self.at += escaped.len_utf8();
                value.push(escaped);
            } else if self.peek() == Some('\'') {
                self.at += 1;
                value.push('\'');
            } else {
                refuse_nul(&value, start)?;
                return Ok(value);
            }
        }
    }

    /// `$1`, `$name`, `$$…$$` or `$tag$…$tag$`.
    fn dollar(&mut self) -> Result<Kind, Refusal> {
        let start = self.at;
        self.at += 1;
        let tag = self.take_while(|c| starts_word(c) || c.is_numeric());
        let is_quote = self.peek() == Some('$') && !tag.starts_with(char::is_numeric);
        if !is_quote {
            return if tag.is_empty() { Err(syntax_near("$", start)) } else { Ok(Kind::Parameter) };
        }
        self.at += 1;
        let delimiter = format!("${tag}$");
        let Some(len) = self.rest().find(&delimiter) else { return Err(open("dollar-quoted string", start)) };
        let value = self.rest()[..len].to_owned();
        refuse_nul(&value, start)?;
        self.at += len + delimiter.len();
        Ok(Kind::Text(value))
    }

    fn number(&mut self) -> String {
        let start = self.at;
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        if self.sql[start..self.at].ends_with(['e', 'E']) && self.rest().starts_with(['+', '-']) {
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        self.sql[start..self.at].to_owned()
    }
}

fn is_string_prefix(rest: &str) -> bool {
    let after = &rest[1..];
    after.starts_with('\'') || (rest.starts_with(['u', 'U']) && (after.starts_with("&'") || after.starts_with("&\"")))
}

fn starts_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic() || (!c.is_ascii() && c.is_alphabetic())
}

fn refuse_nul(text: &str, start: usize) -> Result<(), Refusal> {
    if text.contains('\0') { Err(odd('\0', start)) } else { Ok(()) }
}

/// In comments nothing is read, so only what could end one early elsewhere is refused.
fn refuse_controls(text: &str, start: usize) -> Result<(), Refusal> {
    match text.chars().find(|c| matches!(c, '\0' | '\u{85}' | '\u{2028}' | '\u{2029}')) {
        Some(c) => Err(odd(c, start)),
        None => Ok(()),
    }
}

fn open(what: &str, start: usize) -> Refusal {
    Refusal::Syntax(format!("the {what} that begins at byte {start} does not end"))
}

fn syntax_near(text: &str, start: usize) -> Refusal {
    Refusal::Syntax(format!("syntax error at or near \"{text}\" at byte {start}"))
}

fn odd(c: char, start: usize) -> Refusal {
    Refusal::Syntax(format!(
        "the character U+{:04X} at byte {start} is not allowed outside strings and quoted names; use plain ASCII spaces, quotes and operators",
        u32::from(c)
    ))
}
