//! The guard under random statements: what it lets through must be clean by a second opinion, must be judged the same when it is judged
//! again, and must touch no tripwire when it is run.
//!
//! `POLYNYA_FUZZ_SECONDS` says for how long (by default 20, and longer where a slow machine has not tried enough by then),
//! `POLYNYA_FUZZ_SEED` with which seed to begin. Each statement has a seed of its own; a finding names it, and the same seed with 0 seconds
//! makes the same statement again. Findings become cases of `refused` or `allowed`.

mod inputs;
mod sandbox;
mod walk;

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::super::STACK_BYTES;
use super::{DuckParser, judged_by};
use crate::wire::proto;
use crate::worker::guard::{Parser as _, Verdict};
use inputs::Corpus;
use sandbox::Sandbox;
use walk::Functions;

/// The first seed of the tests, so that a run on another day tries the same.
const FIRST_SEED: u64 = 1;

/// So many statements are tried at least if nobody says for how long.
const LEAST: u64 = 2_000;

/// From so many on it counts how many were let through: by then it is no accident.
const MANY: u64 = 1_000;

/// How many statements are to be tried at least, for the process that does the work.
const LEAST_LEFT: &str = "POLYNYA_FUZZ_LEAST";

/// Set for the process that does the work.
const INNER: &str = "POLYNYA_FUZZ_INNER";

/// How often DuckDB may bring its process down before the run is called off.
const MAX_ENGINE_DEATHS: u32 = 20;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Runs the loop in a process of its own: a statement that brings DuckDB down is worth a line, but it is no fault of the guard, and a worker
/// is what it would cost.
#[test]
fn whatever_the_guard_lets_through_is_clean() {
    if let Ok(journal) = std::env::var(INNER) {
        // As deep as judging may go.
        let work = std::thread::Builder::new().stack_size(2 * STACK_BYTES).spawn(move || fuzz(&journal.into()));
        return work.unwrap().join().unwrap();
    }
    let (seconds, mut seed) = (number("POLYNYA_FUZZ_SECONDS", 20), number("POLYNYA_FUZZ_SEED", FIRST_SEED));
    let enough = seed + if std::env::var_os("POLYNYA_FUZZ_SECONDS").is_some() { 0 } else { LEAST };
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let end = Instant::now() + Duration::from_secs(seconds);
    for _ in 0..MAX_ENGINE_DEATHS {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "worker::guard::tests::fuzz::whatever_the_guard_lets_through_is_clean"])
            .envs([(INNER, journal.display().to_string()), ("POLYNYA_FUZZ_SECONDS", left.to_string())])
            .env("POLYNYA_FUZZ_SEED", seed.to_string())
            .env(LEAST_LEFT, enough.saturating_sub(seed).to_string())
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let (last, text) = last_entry(&journal);
        let Some(signal) = output.status.signal() else {
            assert!(output.status.success(), "{said}");
            eprintln!("{}", said.lines().filter(|line| line.starts_with("fuzzed")).collect::<String>());
            return;
        };
        eprintln!("DuckDB ended its process by signal {signal} at seed {last}: {text:?}");
        seed = last + 1;
        if left == 0 && seed >= enough {
            return;
        }
    }
    panic!("DuckDB has ended {MAX_ENGINE_DEATHS} processes");
}

/// Seed and text of the statement that was tried last.
fn last_entry(journal: &PathBuf) -> (u64, String) {
    let entry = std::fs::read_to_string(journal).unwrap_or_default();
    let (seed, text) = entry.split_once('\n').unwrap_or(("0", ""));
    (seed.parse().unwrap_or(0), text.to_owned())
}

fn fuzz(journal: &PathBuf) {
    let (seconds, first) = (number("POLYNYA_FUZZ_SECONDS", 0), number("POLYNYA_FUZZ_SEED", FIRST_SEED));
    let least = number(LEAST_LEFT, 0);
    let mut parser = DuckParser::new();
    let (mut sandbox, functions) = (Sandbox::open(), Functions::read());
    let corpus = Corpus::new(sandbox.tripwires());
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut seed, mut passed) = (first, 0_u64);
    loop {
        let sql = corpus.text(seed);
        std::fs::write(journal, format!("{seed}\n{sql}")).unwrap();
        let tried = catch_unwind(AssertUnwindSafe(|| check(&mut parser, &mut sandbox, &functions, &sql)));
        match tried {
            Ok(Ok(let_through)) => passed += u64::from(let_through),
            Ok(Err(finding)) => panic!("POLYNYA_FUZZ_SEED={seed} POLYNYA_FUZZ_SECONDS=0: {finding}\nof {sql:?}"),
            Err(_) => panic!("POLYNYA_FUZZ_SEED={seed} POLYNYA_FUZZ_SECONDS=0: a panic\nof {sql:?}"),
        }
        seed += 1;
        if Instant::now() >= end && seed - first >= least {
            break;
        }
    }
    let tried = seed - first;
    eprintln!("fuzzed {tried} statements from seed {first}, {passed} let through");
    assert!(tried < MANY || passed * 50 > tried, "hardly anything gets through: the inputs are too wild to test anything");
}

/// Judges a text and looks after what is let through. Says whether it was.
fn check(parser: &mut DuckParser, sandbox: &mut Sandbox, functions: &Functions, sql: &str) -> Result<bool, String> {
    let Ok(verdict) = judged_by(parser, sql) else { return Ok(false) };
    if verdict.sql.is_empty() {
        return if verdict.session.is_some() { Ok(true) } else { Err("a verdict without a text".to_owned()) };
    }
    let finding = |what: String| format!("{what}\nin {:?}", verdict.sql);
    judged_again(parser, &verdict).map_err(finding)?;
    second_opinion(parser, functions, &verdict.sql).map_err(finding)?;
    if let Some(table) = named(&verdict).find(|table| !["lake", "Gold"].contains(&table.as_str())) {
        return Err(finding(format!("a table of the catalog {table}")));
    }
    sandbox.run(&verdict.sql, &verdict.system).map_err(finding)?;
    Ok(true)
}

fn named(verdict: &Verdict) -> impl Iterator<Item = &String> {
    verdict.tables.iter().chain(&verdict.target).map(|table| &table.catalog)
}

/// The text that runs is one that may run, and it is its own.
fn judged_again(parser: &mut DuckParser, verdict: &Verdict) -> Result<(), String> {
    let again = judged_by(parser, &as_a_client_writes(verdict))
        .map_err(|refusal| format!("refused when it is judged again: {refusal}"))?;
    // SHOW and DESCRIBE make their text by themselves, from listings that no client can name, or from the names of the catalogs.
    let databases = verdict.sql.starts_with("SELECT unnest(CAST(['lake', 'Gold'] AS VARCHAR[])) AS database_name");
    let made = databases || (verdict.system.is_empty() && !verdict.listings.is_empty());
    // Each judging puts a subquery around tables whose virtual columns could be meant.
    let hides = ["filename", "file_row_number", "file_index"].iter().any(|name| verdict.sql.to_lowercase().contains(name));
    let made = made || hides;
    let same = again.sql == verdict.sql && again.tables == verdict.tables && again.target == verdict.target;
    if again.class == verdict.class && (made || same) { Ok(()) } else { Err(format!("judged again it is {again:?}")) }
}

/// The text with the names that a client has for what is made for the statement. Other names that look so are the client's own.
fn as_a_client_writes(verdict: &Verdict) -> String {
    let listings = [
        ("listed_described", "information_schema.columns"),
        ("listed_tables", "information_schema.tables"),
        ("listed_columns", "information_schema.columns"),
        ("listed_schemata", "information_schema.schemata"),
    ];
    let listings = listings.iter().filter(|_| !verdict.listings.is_empty());
    let mut names: Vec<(String, String)> = listings.map(|(made, named)| ((*made).to_owned(), (*named).to_owned())).collect();
    for object in &verdict.system {
        let prefixes =
            [("listed_information_schema_", "information_schema."), ("listed_pg_catalog_", "pg_catalog."), ("listed_", "")];
        let prefix = prefixes.iter().find(|(prefix, _)| object.name.starts_with(prefix));
        let (prefix, schema) = prefix.expect("a name of what is made");
        names.push((object.name.clone(), format!("{schema}{}", &object.name[prefix.len()..])));
    }
    for listing in &verdict.listings {
        if let Some(call) = listing.about.as_ref().and_then(call_of) {
            names.push((format!("listed_{}", listing.name), call));
        }
    }
    // The longer of two names that begin alike goes first.
    names.sort_by_key(|(made, _)| std::cmp::Reverse(made.len()));
    let mut text = verdict.sql.clone();
    for (made, named) in names {
        for temp in ["\"temp\".main.", "temp.main."] {
            text = text.replace(&format!("{temp}{made}"), &named);
        }
    }
    text
}

/// The function that shows this of a table, as a client calls it.
fn call_of(about: &proto::TableMetadata) -> Option<String> {
    let table = about.table.as_ref()?;
    let name = [&table.catalog, &table.schema, &table.table].map(|part| format!("\"{}\"", part.replace('"', "\"\""))).join(".");
    let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let version = if about.version.is_empty() { String::new() } else { format!(", version => {}", text(&about.version)) };
    Some(format!("table_{}({}{version})", about.part, text(&name)))
}

/// DuckDB's tree where it has one, of the statement or of the query in it, and the bare text.
fn second_opinion(parser: &mut DuckParser, functions: &Functions, sql: &str) -> Result<(), String> {
    functions.text(sql)?;
    // DuckDB reads these as a look into its catalog; what stands behind them is a query.
    let sql = ["DESCRIBE ", "SUMMARIZE ", "EXPLAIN (FORMAT json) ", "EXPLAIN (ANALYZE, FORMAT json) ", "EXPLAIN "]
        .iter()
        .find_map(|word| sql.strip_prefix(word))
        .unwrap_or(sql);
    let starts = ["SELECT", "WITH", "FROM", "VALUES", "(", "PIVOT", "UNPIVOT"];
    let is_query = starts.iter().any(|word| sql.starts_with(word));
    let places = sql.match_indices([' ', '(']).map(|(at, _)| at + 1);
    let candidates = std::iter::once(0).chain(places.filter(|_| !is_query));
    for at in candidates.filter(|at| starts.iter().any(|word| sql[*at..].starts_with(word))) {
        if let Ok(tree) = parser.ast(&sql[at..]) {
            return functions.tree(&tree);
        }
    }
    // Behind WITH may stand a change, for which there is no tree.
    if is_query && !sql.starts_with("WITH") { Err("no tree of a query".to_owned()) } else { Ok(()) }
}

#[test]
fn the_second_opinion_sees_what_is_wrong() {
    let (mut parser, functions) = (DuckParser::new(), Functions::read());
    for (sql, clean) in [
        ("WITH q AS (SELECT abs(a) FROM lake.bronze.t) SELECT * FROM q, range(3)", true),
        ("INSERT INTO lake.bronze.t SELECT sum(a) FROM lake.bronze.u", true),
        ("SELECT ';' AS \";\", 1 AS \"(\"", true),
        ("SELECT * FROM q", false),
        ("SELECT * FROM memory.main.t", false),
        ("SELECT getvariable('x')", false),
        ("SELECT * FROM read_csv('x')", false),
        ("SELECT abs(1) FROM abs(1)", false),
        ("SELECT lake.bronze.abs(1)", false),
        ("INSERT INTO lake.bronze.t SELECT * FROM memory.main.t", false),
        ("UPDATE lake.bronze.t SET a = getvariable('x')", false),
        ("DELETE FROM lake.bronze.t; DELETE FROM lake.bronze.u", false),
    ] {
        let opinion = second_opinion(&mut parser, &functions, sql);
        assert_eq!(opinion.is_ok(), clean, "{sql}: {opinion:?}");
    }
}
