//! Statements with random changes: the guard must answer, and what passes must still be clean.

use super::super::token::{self, Kind};
use super::{DuckParser, judged_by, tables};

pub(super) const SEEDS: [&str; 12] = [
    "WITH a AS (SELECT x, 'it''s' AS s FROM bronze.t WHERE x > ?) SELECT *, list_transform([1], e -> e + 1) FROM a JOIN u USING (x) ORDER BY 1 LIMIT 3;",
    "INSERT INTO lake.bronze.t (a, \"b\") VALUES (1, 'x'), (2, $$y$$) -- end",
    "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a, u",
    "CREATE TABLE IF NOT EXISTS s.t (a DECIMAL(10, 2) NOT NULL, b STRUCT(c INT[])) PARTITIONED BY (bucket(4, a)) WITH ('format-version' = 2)",
    "CREATE TABLE t AS SELECT /* all */ * FROM u AT (VERSION => 3)",
    "DROP TABLE IF EXISTS gold.mart.t",
    "SHOW TABLES FROM gold.mart",
    "WITH a AS (SELECT 1 AS x) UPDATE t AS q SET b = CASE WHEN q.x = ? THEN 'y' ELSE b END, c = [1, 2] FROM a, u WHERE a.x = q.x",
    "DELETE FROM bronze.t USING u WHERE u.a = t.a AND t.b IS NOT DISTINCT FROM 'x'",
    "MERGE INTO t USING (SELECT 1 AS x) AS s ON s.x = t.x WHEN MATCHED AND s.x > 0 THEN UPDATE SET a = 1 WHEN NOT MATCHED THEN INSERT (a) VALUES (s.x)",
    "ALTER TABLE t ADD COLUMN IF NOT EXISTS z DECIMAL(10, 2)",
    "SELECT * FROM (VALUES (1, 2)) AS v(a, b) PIVOT (sum(a) FOR b IN (1, 2))",
];

pub(super) const PIECES: [&str; 28] = [
    "'",
    "\"",
    ";",
    "--",
    "\n",
    "/*",
    "*/",
    "$$",
    "$a$",
    "(",
    ")",
    ",",
    ".",
    "E'\\",
    "\u{a0}",
    "é",
    "\u{2019}",
    "\0",
    " read_csv('x') ",
    " FROM 'x.csv' ",
    " \"x.parquet\" ",
    "INSERT INTO t ",
    "WITH a AS (",
    " UNION SELECT ",
    " glob('*') ",
    "; ATTACH 'x' ",
    " duckdb_secrets() ",
    "SELECT ",
];

/// Not random enough for anything but this, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

fn mutate(random: &mut Random, seed: &str) -> String {
    let mut chars: Vec<char> = seed.chars().collect();
    for _ in 0..=random.below(3) {
        let at = random.below(chars.len());
        match random.below(4) {
            0 => drop(chars.drain(at..(at + 1 + random.below(6)).min(chars.len()))),
            1 => {
                let copy: Vec<char> = chars[at..(at + 1 + random.below(20)).min(chars.len())].to_vec();
                let to = random.below(chars.len());
                chars.splice(to..to, copy);
            }
            _ => drop(chars.splice(at..at, PIECES[random.below(PIECES.len())].chars()).collect::<Vec<_>>()),
        }
        if chars.is_empty() {
            return String::new();
        }
    }
    chars.into_iter().collect()
}

#[test]
fn mutated_statements_are_answered_and_what_passes_is_clean() {
    let mut parser = DuckParser::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut passed = 0;
    for round in 0..4_000 {
        let sql = mutate(&mut random, SEEDS[round % SEEDS.len()]);
        let Ok(verdict) = judged_by(&mut parser, &sql) else { continue };
        passed += 1;
        if verdict.sql.is_empty() {
            continue;
        }
        let tokens =
            token::statement(&verdict.sql).unwrap_or_else(|refusal| panic!("{sql:?} became {:?}: {refusal}", verdict.sql));
        for three in tokens.windows(3) {
            let (Kind::Word(name) | Kind::Quoted(name)) = &three[1].kind else { continue };
            // Behind AS it is the alias of a table, with names for its columns.
            let is_call = three[2].is_symbol('(') && !three[0].is_word("AS");
            let refused = ["read_csv", "glob", "duckdb_secrets"].contains(&name.as_str()) && is_call;
            assert!(!refused, "{sql:?} became {:?}", verdict.sql);
        }
        assert!(
            tables(&verdict).iter().all(|table| !table.ends_with(".csv") && !table.ends_with(".parquet")),
            "{sql:?} reads {:?}",
            verdict.tables
        );
    }
    assert!(passed > 100, "only {passed} passed: the changes are too wild to test anything");
}
