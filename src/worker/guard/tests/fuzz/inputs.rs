//! Owns what the guard is fuzzed with: texts made by a small grammar of SQL, known statements with random changes, and parts of known
//! statements put into each other. The same seed makes the same text. Refuses to judge any.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::super::mutated::{PIECES, SEEDS};
use super::super::{allowed, refused};

/// Statements of the integration tests; of these files only the lines that are SQL matter.
const SLT: [&str; 6] = [
    include_str!("../../../../../tests/slt/select.slt"),
    include_str!("../../../../../tests/slt/tables.slt"),
    include_str!("../../../../../tests/slt/writes.slt"),
    include_str!("../../../../../tests/slt/plans.slt"),
    include_str!("../../../../../tests/slt/catalog.slt"),
    include_str!("../../../../../tests/slt/statements.slt"),
];

const ESCAPES: &str = include_str!("../../../../../tests/data/escapes.txt");

const FUNCTIONS: &str = include_str!("../../query/functions.txt");

const CATALOGS: [&str; 7] = ["lake", "Gold", "\"LAKE\"", "memory", "temp", "system", "vault"];
const SCHEMAS: [&str; 7] = ["bronze", "main", "silver", "information_schema", "pg_catalog", "vault", "\"a.b\""];
const TABLES: [&str; 14] = [
    "t",
    "u",
    "\"t\"",
    "T",
    "a",
    "b",
    "tables",
    "columns",
    "secret",
    "duckdb_settings",
    "sqlite_master",
    "pg_class",
    "\"t.csv\"",
    "\"\u{eb}\"",
];
const COLUMNS: [&str; 12] = ["a", "b", "x", "y", "d", "t.a", "bronze.t.b", "*", "t.*", "\"a b\"", "current_schema", "rowid"];
const TYPES: [&str; 14] = [
    "INTEGER",
    "VARCHAR",
    "DECIMAL(10, 2)",
    "DATE",
    "TIMESTAMPTZ",
    "STRUCT(a INT)",
    "INT[]",
    "INT[3]",
    "MAP(INT, VARCHAR)",
    "JSON",
    "UNION(a INT)",
    "\"main\".\"x\"",
    "ENUM('a')",
    "VARIANT",
];
const OPERATORS: [&str; 18] = [
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "||",
    "=",
    "<>",
    "<",
    "AND",
    "OR",
    "LIKE",
    "IS DISTINCT FROM",
    "->",
    "->>",
    "^@",
    "SIMILAR TO",
];
const JOINS: [&str; 8] = [",", "JOIN", "LEFT JOIN", "CROSS JOIN", "NATURAL JOIN", "POSITIONAL JOIN", "SEMI JOIN", "ASOF JOIN"];

/// What a text may stand in; `{}` is the place.
const FRAMES: [&str; 16] = [
    "SELECT ({})",
    "SELECT * FROM ({}) AS q",
    "WITH q AS ({}) FROM q",
    "WITH RECURSIVE q AS ({} UNION ALL {}) FROM q",
    "SELECT EXISTS ({})",
    "SELECT 1 WHERE 1 IN ({})",
    "INSERT INTO t {}",
    "CREATE TABLE n AS {}",
    "UPDATE t SET a = ({})",
    "DELETE FROM t WHERE a IN ({})",
    "MERGE INTO t USING ({}) AS s ON s.a = t.a WHEN MATCHED THEN DELETE",
    "EXPLAIN {}",
    "DESCRIBE {}",
    "SUMMARIZE {}",
    "SELECT list_transform([1], e -> ({}))",
    "{}; {}",
];

/// Known statements and names to make new ones from.
pub(super) struct Corpus {
    texts: Vec<String>,
    allowed: Vec<&'static str>,
    refused: Vec<&'static str>,
    files: Vec<String>,
}

impl Corpus {
    /// With these names of files and addresses where a statement could name one.
    pub(super) fn new(files: Vec<String>) -> Self {
        let escapes = ESCAPES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut texts: Vec<String> = escapes
            .map(|line| ["{canary}", "{lake}", "{out}"].iter().fold(line.to_owned(), |text, name| text.replace(name, &files[0])))
            .collect();
        texts.extend(allowed::CASES.iter().map(|(sql, ..)| (*sql).to_owned()));
        texts.extend(refused::HOSTILE.iter().map(|sql| (*sql).to_owned()));
        texts.extend(SEEDS.map(str::to_owned));
        texts.extend(SLT.iter().flat_map(|file| statements(file)));
        let (mut allowed, mut refused, mut heading) = (Vec::new(), Vec::new(), "");
        for line in FUNCTIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let is_name = line.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            match line.strip_prefix('[') {
                Some(text) => heading = text,
                None if is_name && heading.starts_with("allowed") => allowed.push(line),
                None if is_name => refused.push(line),
                None => {}
            }
        }
        Self { texts, allowed, refused, files }
    }

    /// The text of a seed.
    pub(super) fn text(&self, seed: u64) -> String {
        let mut maker = Maker { corpus: self, random: SmallRng::seed_from_u64(seed) };
        match maker.random.random_range(0..10) {
            0..3 => {
                let text = maker.known();
                maker.mutated(&text)
            }
            3..6 => maker.statement(),
            6 => {
                let text = maker.statement();
                maker.mutated(&text)
            }
            7 | 8 => maker.spliced(),
            _ => maker.framed(),
        }
    }
}

/// The SQL of a test file of sqllogictest: what stands between `query` or `statement` and a line of dashes or an empty one.
fn statements(file: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut current: Option<String> = None;
    for line in file.lines() {
        match &mut current {
            None if line.starts_with("query") || line.starts_with("statement") => current = Some(String::new()),
            None => {}
            Some(_) if line.is_empty() || line == "----" => all.extend(current.take()),
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    all.extend(current);
    all
}

struct Maker<'a> {
    corpus: &'a Corpus,
    random: SmallRng,
}

impl Maker<'_> {
    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.random).expect("something to choose from")
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn known(&mut self) -> String {
        self.corpus.texts.choose(&mut self.random).expect("a known text").clone()
    }

    fn file(&mut self) -> String {
        self.corpus.files.choose(&mut self.random).expect("a file").clone()
    }

    /// A few characters removed, doubled, or put in.
    fn mutated(&mut self, text: &str) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        for _ in 0..self.random.random_range(1..5) {
            if chars.is_empty() {
                break;
            }
            let at = self.random.random_range(0..chars.len());
            let end = (at + self.random.random_range(1..8)).min(chars.len());
            match self.random.random_range(0..5) {
                0 => drop(chars.drain(at..end)),
                1 => {
                    let copy: Vec<char> = chars[at..end].to_vec();
                    let to = self.random.random_range(0..chars.len());
                    chars.splice(to..to, copy);
                }
                2 => {
                    let function = self.function();
                    chars.splice(at..at, function.chars());
                }
                _ => {
                    let piece = self.one(&PIECES);
                    chars.splice(at..at, piece.chars());
                }
            }
        }
        chars.into_iter().collect()
    }

    /// A part of one known text in parentheses, in place of such a part of another.
    fn spliced(&mut self) -> String {
        let (into, from) = (self.known(), self.known());
        let part = self.part(&from).map_or(from.clone(), |(start, end)| from[start..end].to_owned());
        match self.part(&into) {
            Some((start, end)) => format!("{}{part}{}", &into[..start], &into[end..]),
            None => format!("{into} {part}"),
        }
    }

    /// The inside of some pair of parentheses.
    fn part(&mut self, text: &str) -> Option<(usize, usize)> {
        let mut open = Vec::new();
        let mut parts = Vec::new();
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                b'(' => open.push(at + 1),
                b')' => parts.extend(open.pop().map(|start| (start, at))),
                _ => {}
            }
        }
        parts.choose(&mut self.random).copied()
    }

    fn framed(&mut self) -> String {
        let frame = self.one(&FRAMES);
        let parts: Vec<&str> = frame.split("{}").collect();
        let mut text = parts[0].to_owned();
        for part in &parts[1..] {
            let inside = if self.chance(50) { self.known() } else { self.query(2) };
            text.push_str(&inside);
            text.push_str(part);
        }
        text
    }

    fn statement(&mut self) -> String {
        let (table, query, condition) = (self.table_name(), self.query(3), self.expression(2));
        match self.random.random_range(0..22) {
            0 => format!("INSERT INTO {table} {query}"),
            1 => format!("INSERT INTO {table} (a, b) VALUES ({}, {condition})", self.expression(1)),
            2 => format!("UPDATE {table} SET a = {condition}, b = ({query})"),
            3 => format!("UPDATE {table} AS q SET a = {condition} FROM {} WHERE {}", self.source(2), self.expression(2)),
            4 => format!("DELETE FROM {table} USING {} WHERE {condition}", self.source(1)),
            5 => format!(
                "MERGE INTO {table} USING {} ON {condition} WHEN MATCHED AND {} THEN UPDATE SET a = {} WHEN NOT MATCHED THEN INSERT VALUES ({})",
                self.source(1),
                self.expression(1),
                self.expression(1),
                self.expression(1)
            ),
            6 => format!("CREATE TABLE {table} AS {query}"),
            7 => format!("CREATE TABLE {table} (a {}, b {})", self.one(&TYPES), self.one(&TYPES)),
            8 => format!("ALTER TABLE {table} ADD COLUMN z {}", self.one(&TYPES)),
            9 => {
                format!("{} {query}", self.one(&["EXPLAIN", "DESCRIBE", "SUMMARIZE", "EXPLAIN ANALYZE", "EXPLAIN (FORMAT json)"]))
            }
            10 => {
                format!("{} {table}", self.one(&["DESCRIBE", "SUMMARIZE", "SHOW TABLES FROM", "TRUNCATE", "DROP TABLE", "TABLE"]))
            }
            _ => query,
        }
    }

    fn query(&mut self, depth: u32) -> String {
        let mut text = String::new();
        if self.chance(25) && depth > 0 {
            let (name, inner) = (self.one(&TABLES), self.query(depth - 1));
            let recursive = self.one(&["", "RECURSIVE "]);
            text.push_str(&format!("WITH {recursive}{name} AS ({inner}) "));
        }
        if self.chance(6) {
            return format!("{text}VALUES ({}, {})", self.expression(1), self.expression(1));
        }
        let items: Vec<String> = (0..self.random.random_range(1..4)).map(|_| self.item(depth)).collect();
        text.push_str(&format!("SELECT {}", items.join(", ")));
        if self.chance(85) {
            text.push_str(&format!(" FROM {}", self.source(depth)));
        }
        for (clause, percent) in
            [("WHERE", 30), ("GROUP BY", 12), ("HAVING", 6), ("QUALIFY", 4), ("ORDER BY", 15), ("LIMIT", 15), ("OFFSET", 4)]
        {
            if self.chance(percent) {
                text.push_str(&format!(" {clause} {}", self.expression(depth.min(2))));
            }
        }
        if self.chance(10) && depth > 0 {
            let set = self.one(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT ALL", "UNION BY NAME"]);
            text.push_str(&format!(" {set} {}", self.query(depth - 1)));
        }
        text
    }

    fn item(&mut self, depth: u32) -> String {
        match self.random.random_range(0..8) {
            0 => "*".to_owned(),
            1 => format!("{} AS {}", self.expression(depth.min(2)), self.one(&TABLES)),
            2 => format!("COLUMNS({})", self.expression(1)),
            3 => format!("* REPLACE ({} AS a)", self.expression(1)),
            _ => self.expression(depth.min(3)),
        }
    }

    fn source(&mut self, depth: u32) -> String {
        let one = match self.random.random_range(0..11) {
            0 | 1 if depth > 0 => format!("({}) AS q", self.query(depth - 1)),
            2 => format!("{}({}) AS f(a)", self.function(), self.expression(1)),
            3 => format!("(VALUES ({}, {})) AS v(a, b)", self.expression(1), self.expression(1)),
            4 if depth > 0 => format!("{} {} {}", self.source(depth - 1), self.one(&JOINS), self.source(depth - 1)),
            5 if depth > 0 => format!("({} PIVOT (sum(a) FOR b IN (1, 2)))", self.source(depth - 1)),
            6 if self.chance(20) => format!("'{}'", self.file()),
            7 => format!("range({})", self.expression(0)),
            _ => self.table_name(),
        };
        match self.random.random_range(0..20) {
            0 => format!("{one} TABLESAMPLE 10%"),
            1 => format!("{one} AT (VERSION => {})", self.expression(0)),
            2 => format!("{one} JOIN {} USING (a)", self.table_name()),
            3 => format!("{one} JOIN {} ON {}", self.table_name(), self.expression(1)),
            _ => one,
        }
    }

    fn table_name(&mut self) -> String {
        let table = self.one(&TABLES);
        match self.random.random_range(0..12) {
            0 => format!("{}.{}.{table}", self.one(&CATALOGS), self.one(&SCHEMAS)),
            1 => format!("{}.{table}", self.one(&SCHEMAS)),
            2 if self.chance(20) => format!("\"{}\"", self.file()),
            _ => self
                .one(&["t", "u", "bronze.t", "lake.bronze.t", "Gold.mart.t", "information_schema.tables", "pg_class"])
                .to_owned(),
        }
    }

    fn function(&mut self) -> String {
        let corpus = self.corpus;
        let name = if self.chance(93) { self.one(&corpus.allowed) } else { self.one(&corpus.refused) };
        match self.random.random_range(0..24) {
            0 => format!("{}.{name}", self.one(&["main", "system.main", "pg_catalog", "lake.bronze", "vault.main", "temp.main"])),
            1 => format!("\"{name}\""),
            2 => name.to_uppercase(),
            _ => name.to_owned(),
        }
    }

    fn expression(&mut self, depth: u32) -> String {
        if depth == 0 || self.chance(15) {
            return self.leaf();
        }
        let below = depth - 1;
        match self.random.random_range(0..20) {
            0..4 => format!("({} {} {})", self.expression(below), self.one(&OPERATORS), self.expression(below)),
            4..9 => {
                let arguments: Vec<String> = (0..self.random.random_range(0..4)).map(|_| self.expression(below)).collect();
                format!("{}({})", self.function(), arguments.join(", "))
            }
            9 => format!(
                "CASE WHEN {} THEN {} ELSE {} END",
                self.expression(below),
                self.expression(below),
                self.expression(below)
            ),
            10 => format!("CAST({} AS {})", self.expression(below), self.one(&TYPES)),
            11 => format!("({})", self.query(below)),
            12 => format!("{} IN ({})", self.expression(below), self.query(below)),
            13 => format!("EXISTS ({})", self.query(below)),
            14 => format!("list_transform([{}], e -> {})", self.expression(below), self.expression(below)),
            15 => format!("[{} FOR e IN {} IF {}]", self.expression(below), self.expression(below), self.expression(0)),
            16 => format!("{}({}) OVER (ORDER BY {})", self.function(), self.expression(below), self.expression(below)),
            17 => format!(
                "{}({} ORDER BY {}) FILTER (WHERE {})",
                self.function(),
                self.expression(0),
                self.expression(below),
                self.expression(0)
            ),
            18 => format!("{{'a': {}, 'b': {}}}.a", self.expression(below), self.expression(below)),
            _ => format!("{}.{}({})", self.leaf(), self.function(), self.expression(below)),
        }
    }

    fn leaf(&mut self) -> String {
        match self.random.random_range(0..12) {
            0 | 1 => self.random.random_range(-3..100).to_string(),
            2 => format!("'{}'", self.file()),
            3 => self
                .one(&["NULL", "true", "1.5", "1e3", "DATE '2024-01-01'", "INTERVAL 1 DAY", "''", "'a''b'", "E'\\n'", "$$x$$"])
                .to_owned(),
            4 => self.one(&["?", "$1", "$name"]).to_owned(),
            5 => "'SELECT * FROM vault.main.secret'".to_owned(),
            _ => self.one(&COLUMNS).to_owned(),
        }
    }
}
