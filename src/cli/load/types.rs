//! Owns SQL types as DuckDB writes them: reading them, and which of them Iceberg lacks, each with the nearest that it has. Refuses to
//! convert values.

use std::fmt;

/// A type that Iceberg tables can have, or a nested one whose parts may not be such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlType {
    /// A type without parts, under DuckDB's own name for it.
    Plain(String),
    /// Precision and scale.
    Decimal(u8, u8),
    /// A list of any length.
    List(Box<SqlType>),
    /// A list of one length.
    Array(Box<SqlType>, u64),
    /// Named fields.
    Struct(Vec<(String, SqlType)>),
    /// Keys and values.
    Map(Box<SqlType>, Box<SqlType>),
    /// A type with parts that are of no interest, because nothing but text can stand for it: ENUM, UNION.
    Opaque(String),
}

/// Why a text is not a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the type {0:?}")]
pub struct BadType(pub String);

impl SqlType {
    /// Reads a type, by DuckDB's names and their usual synonyms.
    ///
    /// # Errors
    /// When the text has another form. An unknown name is a type all the same: DuckDB knows more of them.
    pub fn parse(text: &str) -> Result<Self, BadType> {
        let bad = || BadType(text.to_owned());
        let mut reader = Reader { rest: text };
        let found = reader.read_type().ok_or_else(bad)?;
        if reader.rest.trim().is_empty() { Ok(found) } else { Err(bad()) }
    }

    /// The nearest type that Iceberg has: itself, where it is one.
    #[must_use]
    pub fn fitting(&self) -> Self {
        match self {
            Self::Plain(name) => fitting_plain(name),
            Self::Decimal(..) => self.clone(),
            Self::List(item) | Self::Array(item, _) => Self::List(Box::new(item.fitting())),
            Self::Struct(fields) => Self::Struct(fields.iter().map(|(name, field)| (name.clone(), field.fitting())).collect()),
            Self::Map(key, value) => Self::Map(Box::new(key.fitting()), Box::new(value.fitting())),
            Self::Opaque(_) => Self::Plain("VARCHAR".into()),
        }
    }
}

/// Exact where there is such a type; else text, which loses nothing either.
fn fitting_plain(name: &str) -> SqlType {
    let fitting = match name {
        "BOOLEAN"
        | "INTEGER"
        | "BIGINT"
        | "FLOAT"
        | "DOUBLE"
        | "DATE"
        | "TIME"
        | "TIMESTAMP"
        | "TIMESTAMP WITH TIME ZONE"
        | "VARCHAR"
        | "BLOB"
        | "UUID" => name,
        "TINYINT" | "SMALLINT" | "UTINYINT" | "USMALLINT" => "INTEGER",
        "UINTEGER" => "BIGINT",
        "UBIGINT" => return SqlType::Decimal(20, 0),
        "HUGEINT" => return SqlType::Decimal(38, 0),
        "TIMESTAMP_S" | "TIMESTAMP_MS" | "TIMESTAMP_NS" => "TIMESTAMP",
        _ => "VARCHAR",
    };
    SqlType::Plain(fitting.to_owned())
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(name) | Self::Opaque(name) => f.write_str(name),
            Self::Decimal(precision, scale) => write!(f, "DECIMAL({precision},{scale})"),
            Self::List(item) => write!(f, "{item}[]"),
            Self::Array(item, length) => write!(f, "{item}[{length}]"),
            Self::Map(key, value) => write!(f, "MAP({key}, {value})"),
            Self::Struct(fields) => {
                f.write_str("STRUCT(")?;
                for (at, (name, field)) in fields.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{} {field}", super::super::naming::quote_name(name))?;
                }
                f.write_str(")")
            }
        }
    }
}

/// DuckDB's own name for one of its synonyms; unknown names stay, in upper case.
fn canonical(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    let known = match upper.as_str() {
        "BOOL" | "LOGICAL" => "BOOLEAN",
        "INT1" => "TINYINT",
        "INT2" | "SHORT" => "SMALLINT",
        "INT" | "INT4" | "SIGNED" => "INTEGER",
        "INT8" | "LONG" => "BIGINT",
        "FLOAT4" | "REAL" => "FLOAT",
        "FLOAT8" | "DOUBLE PRECISION" => "DOUBLE",
        "TEXT" | "STRING" | "CHAR" | "BPCHAR" | "NVARCHAR" => "VARCHAR",
        "BYTEA" | "BINARY" | "VARBINARY" => "BLOB",
        "DATETIME" | "TIMESTAMP_US" | "TIMESTAMP WITHOUT TIME ZONE" => "TIMESTAMP",
        "TIMESTAMPTZ" => "TIMESTAMP WITH TIME ZONE",
        "TIME WITHOUT TIME ZONE" => "TIME",
        "TIMETZ" => "TIME WITH TIME ZONE",
        "\"NULL\"" => "NULL",
        _ => return upper,
    };
    known.to_owned()
}

/// Recursive descent over what is left of the text. `None`: it has another form.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn read_type(&mut self) -> Option<SqlType> {
        let name = self.read_words()?;
        let mut found = match (name.as_str(), self.take('(')) {
            ("DECIMAL" | "NUMERIC" | "DEC", true) => self.read_decimal()?,
            ("DECIMAL" | "NUMERIC" | "DEC", false) => SqlType::Decimal(18, 3),
            ("STRUCT" | "ROW", true) => self.read_struct()?,
            ("MAP", true) => self.read_map()?,
            // The length of a VARCHAR says nothing to DuckDB.
            ("VARCHAR", true) => self.skip_parts().map(|_| SqlType::Plain(name))?,
            (_, true) => SqlType::Opaque(format!("{name}({})", self.skip_parts()?)),
            (_, false) => SqlType::Plain(name),
        };
        while self.take('[') {
            let length = self.read_number();
            found = match length {
                Some(length) => SqlType::Array(Box::new(found), length),
                None => SqlType::List(Box::new(found)),
            };
            self.expect(']')?;
        }
        Some(found)
    }

    /// A name of one or more words: `BIGINT`, `TIMESTAMP WITH TIME ZONE`, `"NULL"`.
    fn read_words(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ' ' | '"');
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
        (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then(|| canonical(&name))
    }

    fn read_decimal(&mut self) -> Option<SqlType> {
        let precision = u8::try_from(self.read_number()?).ok()?;
        let scale = if self.take(',') { u8::try_from(self.read_number()?).ok()? } else { 0 };
        self.expect(')')?;
        ((1..=38).contains(&precision) && scale <= precision).then_some(SqlType::Decimal(precision, scale))
    }

    fn read_struct(&mut self) -> Option<SqlType> {
        let mut fields = Vec::new();
        loop {
            let name = self.read_field_name()?;
            fields.push((name, self.read_type()?));
            if self.take(')') {
                return Some(SqlType::Struct(fields));
            }
            self.expect(',')?;
        }
    }

    fn read_map(&mut self) -> Option<SqlType> {
        let key = self.read_type()?;
        self.expect(',')?;
        let value = self.read_type()?;
        self.expect(')')?;
        Some(SqlType::Map(Box::new(key), Box::new(value)))
    }

    fn read_field_name(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        if !self.rest.starts_with('"') {
            let end = self.rest.find(char::is_whitespace)?;
            let (name, rest) = self.rest.split_at(end);
            self.rest = rest;
            return (!name.contains(['(', ')', ',', '[', ']'])).then(|| name.to_owned());
        }
        let mut name = String::new();
        self.rest = &self.rest[1..];
        loop {
            let quote = self.rest.find('"')?;
            name.push_str(&self.rest[..quote]);
            self.rest = &self.rest[quote + 1..];
            match self.rest.strip_prefix('"') {
                Some(rest) => {
                    name.push('"');
                    self.rest = rest;
                }
                None => return Some(name),
            }
        }
    }

    /// Everything up to the parenthesis that closes the one just read; quotes of both kinds may hold parentheses.
    fn skip_parts(&mut self) -> Option<String> {
        let mut depth = 1;
        let mut quote = None;
        for (at, c) in self.rest.char_indices() {
            match (quote, c) {
                (Some(open), _) if open == c => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(c),
                (None, '(') => depth += 1,
                (None, ')') => depth -= 1,
                (None, _) => {}
            }
            if depth == 0 {
                let parts = self.rest[..at].to_owned();
                self.rest = &self.rest[at + 1..];
                return Some(parts);
            }
        }
        None
    }

    fn read_number(&mut self) -> Option<u64> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let number = self.rest[..end].parse().ok()?;
        self.rest = &self.rest[end..];
        Some(number)
    }

    fn take(&mut self, wanted: char) -> bool {
        match self.rest.trim_start().strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        self.take(wanted).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitting(text: &str) -> String {
        SqlType::parse(text).unwrap().fitting().to_string()
    }

    #[test]
    fn types_that_iceberg_has_fit_as_they_are() {
        for text in [
            "BOOLEAN",
            "INTEGER",
            "BIGINT",
            "FLOAT",
            "DOUBLE",
            "DECIMAL(15,2)",
            "DATE",
            "TIME",
            "TIMESTAMP",
            "TIMESTAMP WITH TIME ZONE",
            "VARCHAR",
            "BLOB",
            "UUID",
            "INTEGER[]",
            "VARCHAR[][]",
            "MAP(VARCHAR, DOUBLE)",
            "STRUCT(\"a\" INTEGER, \"b \"\"c\"\"\" VARCHAR[])",
        ] {
            assert_eq!(fitting(text), text);
        }
    }

    #[test]
    fn types_that_iceberg_lacks_get_the_nearest_that_keeps_every_value() {
        for (text, expected) in [
            ("TINYINT", "INTEGER"),
            ("SMALLINT", "INTEGER"),
            ("USMALLINT", "INTEGER"),
            ("UINTEGER", "BIGINT"),
            ("UBIGINT", "DECIMAL(20,0)"),
            ("HUGEINT", "DECIMAL(38,0)"),
            ("UHUGEINT", "VARCHAR"),
            ("JSON", "VARCHAR"),
            ("BIT", "VARCHAR"),
            ("INTERVAL", "VARCHAR"),
            ("TIME WITH TIME ZONE", "VARCHAR"),
            ("TIMESTAMP_NS", "TIMESTAMP"),
            ("ENUM('a', 'b)''c')", "VARCHAR"),
            ("UNION(num INTEGER, str VARCHAR)", "VARCHAR"),
            ("\"NULL\"", "VARCHAR"),
            ("INTEGER[3]", "INTEGER[]"),
            ("STRUCT(a UTINYINT, b JSON[])", "STRUCT(\"a\" INTEGER, \"b\" VARCHAR[])"),
            ("MAP(VARCHAR, SMALLINT)", "MAP(VARCHAR, INTEGER)"),
        ] {
            assert_eq!(fitting(text), expected, "{text}");
        }
    }

    #[test]
    fn synonyms_are_known_in_any_case() {
        for (text, expected) in [
            ("int", "INTEGER"),
            ("Text", "VARCHAR"),
            ("varchar(20)", "VARCHAR"),
            ("double precision", "DOUBLE"),
            ("timestamptz", "TIMESTAMP WITH TIME ZONE"),
            ("numeric(10)", "DECIMAL(10,0)"),
            ("decimal", "DECIMAL(18,3)"),
            ("long []", "BIGINT[]"),
        ] {
            assert_eq!(SqlType::parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_type_is_refused() {
        for text in [
            "",
            "INTEGER)",
            "DECIMAL(40,2)",
            "DECIMAL(5,6)",
            "INTEGER[",
            "STRUCT(a)",
            "MAP(VARCHAR)",
            "1",
            "INTEGER; DROP TABLE x",
        ] {
            assert!(SqlType::parse(text).is_err(), "{text}");
        }
    }
}
