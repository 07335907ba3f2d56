//! Owns the user's file: its format, the SQL that reads it, the casts that the user wants, and whether its columns fit Iceberg.
//! Refuses to run anything.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::super::error::CliError;
use super::super::naming::{quote_name, quote_text};
use super::types::SqlType;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// Text with separators; dialect and types are found out unless options give them.
    Csv,
    /// An array of objects, or objects one after the other.
    Json,
    /// One object per line.
    Jsonl,
}

impl FileFormat {
    /// The format that a file's name says, behind `.gz` or `.zst` too.
    #[must_use]
    pub fn of_file(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "parquet" | "pq" => Some(Self::Parquet),
            "csv" | "tsv" => Some(Self::Csv),
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// A cast: `NAME:TYPE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnCast {
    /// The column.
    pub name: String,
    /// The type that it gets; one that Iceberg has.
    pub to: SqlType,
}

impl FromStr for ColumnCast {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, to) = text.rsplit_once(':').ok_or("want NAME:TYPE, as in amount:DECIMAL(12,2)")?;
        let to = SqlType::parse(to).map_err(|error| error.to_string())?;
        let fitting = to.fitting();
        if name.is_empty() {
            Err("the column's name is missing".into())
        } else if fitting != to {
            Err(format!("Iceberg has no type {to}; the nearest is {fitting}"))
        } else {
            Ok(Self { name: name.to_owned(), to })
        }
    }
}

/// How a CSV file is written; what is not given is found out from the file.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "CSV files (found out from the file unless given)")]
pub struct CsvArgs {
    /// What separates the columns, as in ';' or '\t'
    #[arg(long, value_name = "TEXT")]
    pub delimiter: Option<String>,

    /// What surrounds values that hold the delimiter
    #[arg(long, value_name = "CHARACTER")]
    pub quote: Option<String>,

    /// Whether the first line holds the names
    #[arg(long, value_name = "true|false")]
    pub header: Option<bool>,

    /// The text that stands for NULL
    #[arg(long, value_name = "TEXT")]
    pub null: Option<String>,

    /// Rows to look at for finding out the types; -1 for all
    #[arg(long, value_name = "ROWS", allow_negative_numbers = true)]
    pub sample_rows: Option<i64>,
}

/// A file to be read and how.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    format: FileFormat,
    csv: CsvArgs,
    casts: Vec<ColumnCast>,
}

/// A column as DuckDB found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundColumn {
    /// Its name.
    pub name: String,
    /// Its type as DuckDB writes it.
    pub sql_type: String,
}

impl Source {
    /// A file of this format, or of the one that its name says.
    ///
    /// # Errors
    /// When it is not there, is no file, or has an unknown format.
    pub fn open(path: &Path, format: Option<FileFormat>, csv: CsvArgs, casts: Vec<ColumnCast>) -> Result<Self, CliError> {
        let found = path.canonicalize().map_err(CliError::io(format!("read {}", path.display())))?;
        if found.is_dir() {
            return Err(CliError::Usage(format!("{} is a directory, not a file", path.display())));
        }
        let unknown = || CliError::Usage(format!("what format {} has is not in its name: add --format", path.display()));
        let format = format.or_else(|| FileFormat::of_file(path)).ok_or_else(unknown)?;
        Ok(Self { path: found, format, csv, casts })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The statement that says which columns the file has, before casts.
    ///
    /// # Errors
    /// When the path is not UTF-8.
    pub fn describe_sql(&self) -> Result<String, CliError> {
        Ok(format!("DESCRIBE SELECT * FROM {}", self.table_function(&[], &[])?))
    }

    /// The statement that reads the file, with its casts.
    ///
    /// # Errors
    /// When the path is not UTF-8.
    pub fn select_sql(&self, columns: &[FoundColumn]) -> Result<String, CliError> {
        // In the file's own spelling, which the CSV reader wants.
        let casts = columns.iter().filter_map(|column| {
            let to = self.cast_of(&column.name)?.clone();
            Some(ColumnCast { name: column.name.clone(), to })
        });
        let casts: Vec<_> = casts.collect();
        let list = columns.iter().map(|column| {
            let name = quote_name(&column.name);
            match self.cast_of(&column.name) {
                Some(to) => format!("CAST({name} AS {to}) AS {name}"),
                None => name,
            }
        });
        Ok(format!("SELECT {} FROM {}", list.collect::<Vec<_>>().join(", "), self.table_function(&casts, columns)?))
    }

    /// DuckDB's text on a file that does not read as it began, with this command's options in place of DuckDB's.
    #[must_use]
    pub fn explain(&self, text: &str) -> String {
        let text = text
            .strip_prefix("Invalid Input Error: Attempting to execute an unsuccessful or closed pending query result\nError: ")
            .unwrap_or(text);
        let Some((text, _)) = text.split_once("\nPossible solutions:") else { return text.to_owned() };
        let remedy = "Give the column a type (--column NAME:VARCHAR), let more rows decide (--sample-rows -1), or name what stands for \
                      NULL (--null TEXT)";
        format!("{}\n{remedy}", text.trim_end())
    }

    fn cast_of(&self, column: &str) -> Option<&SqlType> {
        self.casts.iter().find(|cast| same_name(&cast.name, column)).map(|cast| &cast.to)
    }

    /// What stands after FROM.
    fn table_function(&self, casts: &[ColumnCast], columns: &[FoundColumn]) -> Result<String, CliError> {
        let path = self.path.to_str().ok_or_else(|| CliError::Usage(format!("{} is not UTF-8", self.path.display())))?;
        let path = quote_text(&escape_glob(path));
        Ok(match self.format {
            FileFormat::Parquet => format!("read_parquet({path})"),
            FileFormat::Json => format!("read_json({path}, format = 'auto'{})", json_columns(casts, columns)),
            FileFormat::Jsonl => format!("read_json({path}, format = 'newline_delimited'{})", json_columns(casts, columns)),
            FileFormat::Csv => format!("read_csv({path}{})", self.csv_options(casts)),
        })
    }

    fn csv_options(&self, casts: &[ColumnCast]) -> String {
        let mut options = String::new();
        let texts = [("delim", &self.csv.delimiter), ("quote", &self.csv.quote), ("nullstr", &self.csv.null)];
        for (name, text) in texts {
            if let Some(text) = text {
                let text = text.replace("\\t", "\t");
                write!(options, ", {name} = {}", quote_text(&text)).ok();
            }
        }
        if let Some(header) = self.csv.header {
            write!(options, ", header = {header}").ok();
        }
        if let Some(rows) = self.csv.sample_rows {
            write!(options, ", sample_size = {rows}").ok();
        }
        // The reader itself has to know the types: 007 read as a number and then cast to text would be 7.
        if !casts.is_empty() {
            let types = casts.iter().map(|cast| format!("{}: {}", quote_text(&cast.name), quote_text(&cast.to.to_string())));
            write!(options, ", types = {{{}}}", types.collect::<Vec<_>>().join(", ")).ok();
        }
        options
    }

    /// Checks that each cast has its column, and that each column has a type that Iceberg has.
    ///
    /// # Errors
    /// Naming every column that does not fit, each with the option that mends it.
    pub fn check(&self, columns: &[FoundColumn]) -> Result<(), CliError> {
        for cast in &self.casts {
            if !columns.iter().any(|column| same_name(&column.name, &cast.name)) {
                return Err(no_such_column(&cast.name, columns));
            }
        }
        let mut lacking = String::new();
        for column in columns.iter().filter(|column| self.cast_of(&column.name).is_none()) {
            let Ok(found) = SqlType::parse(&column.sql_type) else {
                return Err(CliError::Usage(format!("column {} has the unknown type {}", column.name, column.sql_type)));
            };
            let fitting = found.fitting();
            if fitting != found {
                let option = shell_quote(&format!("{}:{fitting}", column.name));
                write!(lacking, "\n  column {} is {}: --column {option}", column.name, shorten(&column.sql_type)).ok();
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        Err(CliError::Usage(format!("Iceberg has no such types; cast the columns by these options:{lacking}")))
    }
}

/// DuckDB's names differ by more than case.
/// The reader itself has to know the types: an object read as a struct and then cast to a map would have the keys of every other
/// row. It takes all columns or none.
fn json_columns(casts: &[ColumnCast], columns: &[FoundColumn]) -> String {
    if casts.is_empty() {
        return String::new();
    }
    let of = |column: &FoundColumn| match casts.iter().find(|cast| cast.name == column.name) {
        Some(cast) => cast.to.to_string(),
        None => column.sql_type.clone(),
    };
    let types = columns.iter().map(|column| format!("{}: {}", quote_text(&column.name), quote_text(&of(column))));
    format!(", columns = {{{}}}", types.collect::<Vec<_>>().join(", "))
}

fn same_name(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

fn no_such_column(name: &str, columns: &[FoundColumn]) -> CliError {
    let nearest = columns.iter().map(|column| (strsim::jaro_winkler(&column.name, name), &column.name));
    let nearest = nearest.filter(|(likeness, _)| *likeness > 0.7).max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest {
        Some((_, nearest)) => format!("; did you mean {nearest}?"),
        None => format!("; it has {}", columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")),
    };
    CliError::Usage(format!("the file has no column {name}{hint}"))
}

/// DuckDB takes paths as patterns; a bracket with one character in it stands for that character.
fn escape_glob(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '*' | '?' | '[' => escaped.extend(['[', c, ']']),
            c => escaped.push(c),
        }
    }
    escaped
}

/// So that the suggested option can be pasted into a shell.
fn shell_quote(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-' | '.' | ','));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// An ENUM lists all of its values.
fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 { text.to_owned() } else { text.chars().take(59).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(format: FileFormat, casts: &[&str]) -> Source {
        let casts = casts.iter().map(|cast| cast.parse().unwrap()).collect();
        Source { path: "/data/it's.x".into(), format, csv: CsvArgs::default(), casts }
    }

    fn columns(columns: &[(&str, &str)]) -> Vec<FoundColumn> {
        columns.iter().map(|(name, sql_type)| FoundColumn { name: (*name).into(), sql_type: (*sql_type).into() }).collect()
    }

    #[test]
    fn the_format_is_in_the_name() {
        for (name, expected) in [
            ("a.parquet", Some(FileFormat::Parquet)),
            ("A.CSV.GZ", Some(FileFormat::Csv)),
            ("a.json", Some(FileFormat::Json)),
            ("a.ndjson.zst", Some(FileFormat::Jsonl)),
            ("a.gz", None),
            ("a", None),
        ] {
            assert_eq!(FileFormat::of_file(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn a_cast_needs_a_type_that_iceberg_has() {
        assert_eq!("a:b:BIGINT".parse::<ColumnCast>().unwrap().name, "a:b");
        assert!("a".parse::<ColumnCast>().is_err());
        assert!(":INT".parse::<ColumnCast>().is_err());
        assert!("a:USMALLINT".parse::<ColumnCast>().unwrap_err().contains("INTEGER"));
    }

    #[test]
    fn columns_are_cast_in_the_select() {
        let sql = source(FileFormat::Parquet, &["B:bigint"])
            .select_sql(&columns(&[("a \"x\"", "VARCHAR"), ("b", "UINTEGER")]))
            .unwrap();
        assert_eq!(sql, r#"SELECT "a ""x""", CAST("b" AS BIGINT) AS "b" FROM read_parquet('/data/it''s.x')"#);
    }

    #[test]
    fn csv_casts_are_types_of_the_reader() {
        let source = source(FileFormat::Csv, &["zip:text"]);
        assert_eq!(source.describe_sql().unwrap(), "DESCRIBE SELECT * FROM read_csv('/data/it''s.x')");
        let sql = source.select_sql(&columns(&[("zip", "BIGINT")])).unwrap();
        let expected = r#"SELECT CAST("zip" AS VARCHAR) AS "zip" FROM read_csv('/data/it''s.x', types = {'zip': 'VARCHAR'})"#;
        assert_eq!(sql, expected);
    }

    #[test]
    fn json_casts_are_types_of_the_reader_with_all_other_columns() {
        let source = source(FileFormat::Json, &["m:MAP(VARCHAR, INTEGER)"]);
        let sql = source.select_sql(&columns(&[("m", "STRUCT(k BIGINT)"), ("a", "BIGINT")])).unwrap();
        assert!(sql.ends_with("format = 'auto', columns = {'m': 'MAP(VARCHAR, INTEGER)', 'a': 'BIGINT'})"), "{sql}");
    }

    #[test]
    fn csv_options_are_passed_on() {
        let mut source = source(FileFormat::Csv, &[]);
        source.csv = CsvArgs {
            delimiter: Some("\\t".into()),
            quote: None,
            header: Some(false),
            null: Some("N/A".into()),
            sample_rows: Some(-1),
        };
        let sql = source.table_function(&[], &[]).unwrap();
        assert_eq!(sql, "read_csv('/data/it''s.x', delim = '\t', nullstr = 'N/A', header = false, sample_size = -1)");
    }

    #[test]
    fn every_column_that_iceberg_lacks_is_named_with_its_cast() {
        let found = columns(&[("id", "UBIGINT"), ("ok", "VARCHAR"), ("doc", "JSON"), ("s", "STRUCT(a SMALLINT)")]);
        let text = source(FileFormat::Parquet, &[]).check(&found).unwrap_err().to_string();
        let expected = [
            "column id is UBIGINT: --column 'id:DECIMAL(20,0)'",
            "column doc is JSON: --column doc:VARCHAR",
            "column s is STRUCT(a SMALLINT): --column 's:STRUCT(\"a\" INTEGER)'",
        ];
        assert!(expected.iter().all(|line| text.contains(line)) && !text.contains("column ok"), "{text}");
        let mended = source(FileFormat::Parquet, &["id:DECIMAL(20,0)", "doc:VARCHAR", "s:STRUCT(a INT)"]);
        assert!(mended.check(&found).is_ok());
    }

    #[test]
    fn a_cast_of_no_column_names_the_nearest() {
        let error = source(FileFormat::Json, &["amuont:BIGINT"]).check(&columns(&[("amount", "BIGINT")])).unwrap_err();
        assert!(error.to_string().contains("did you mean amount?"), "{error}");
    }

    #[test]
    fn duckdbs_advice_is_put_in_terms_of_this_command() {
        let text = "Conversion Error: CSV Error on Line: 7\nOriginal Line: x\n\nPossible solutions:\n* types={'a': 'VARCHAR'}\n\n file = a";
        let explained = source(FileFormat::Csv, &[]).explain(text);
        assert!(
            explained.starts_with("Conversion Error: CSV Error on Line: 7\nOriginal Line: x\nGive the column a type"),
            "{explained}"
        );
        assert!(!explained.contains("types="));
    }

    #[test]
    fn a_path_is_never_a_pattern() {
        assert_eq!(escape_glob("/a/[1]*.csv"), "/a/[[]1][*].csv");
    }
}
