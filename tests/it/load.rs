//! `polynya load`: a user's own Parquet, CSV and JSON file with every type of the type map goes in, and the same rows come back by
//! ADBC and JDBC; types that Iceberg lacks are refused with the column's name and a cast.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Gateway, Program, part, polynya, root, succeeded};

/// Makes the files with Python's DuckDB, and the expected rows as JSON beside them.
fn make_files(dir: &Path) {
    let mut command = Command::new(part("POLYNYA_CLIENTS_PYTHON"));
    command.arg(root().join("tests/clients/make_files.py")).arg(dir).stdin(Stdio::null());
    let output = command.output().expect("python");
    succeeded(&command, output);
}

fn load(gateway: &Gateway, file: &Path, table: &str, more: &[&str]) -> Command {
    let mut command = polynya();
    command.arg("load").arg(file).args(["--table", table, "--uri", &gateway.uri(), "--mode", "create"]).args(more);
    command.stdin(Stdio::null());
    command
}

fn loaded(mut command: Command) -> String {
    let output = command.output().expect("the binary");
    succeeded(&command, output)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_goes_in_by_parquet_csv_and_json_and_comes_back() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    let dir = tempfile::TempDir::new().expect("a directory");
    make_files(dir.path());
    tokio::task::block_in_place(|| {
        for (kind, file) in [("parquet", "all.parquet"), ("csv", "all.csv"), ("json", "all.json")] {
            let table = format!("lake.bronze.from_{kind}");
            // CSV and JSON carry no types: the user names those that a reader cannot guess.
            let casts: Vec<String> = casts(dir.path(), kind);
            let casts: Vec<&str> = casts.iter().flat_map(|cast| ["--column", cast.as_str()]).collect();
            let text = loaded(load(&gateway, &dir.path().join(file), &table, &casts));
            assert!(text.contains("rows"), "{text}");
            let expected: PathBuf = dir.path().join(format!("{kind}.expect.json"));
            Program::python("adbc_types.py", &gateway)
                .arg("--query")
                .arg(format!("SELECT * FROM {table} ORDER BY id"))
                .arg("--expect")
                .arg(&expected)
                .succeed();
            assert_eq!(by_jdbc(&gateway, &format!("SELECT {COMMON} FROM {table} ORDER BY id")), ROWS);
            if kind == "parquet" {
                assert_eq!(by_jdbc(&gateway, &format!("SELECT huge, bytes FROM {table} ORDER BY id")), WIDE_ROWS);
            }
        }
    });
}

/// The columns that all three formats bring. The driver has no times with fractions and no nested values as objects.
const COMMON: &str = "id, flag, big, \"real\", \"double\", price, name, day, clock::VARCHAR, \"at\", at_utc::VARCHAR, uid, list::VARCHAR, \
                      pair::VARCHAR";

/// What the stock JDBC driver shows of them.
const ROWS: [&str; 3] = [
    "1\ttrue\t9223372036854775807\t1.5\t3.141592653589793\t1234567890.12\tplain\t2024-02-29\t23:59:59.999999\t\
     2024-02-29 12:34:56.789012\t2024-02-29 12:34:56.789012+00\t6b1e2c4e-0f5f-4d0b-9c39-5d9a5f6b7c8d\t[1, NULL, 3]\t\
     {'a': 1, 'b': x}",
    "2\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N",
    "3\tfalse\t-9223372036854775808\t-0.25\t-1.0E300\t-0.01\tümlaut, \"quoted\" 'text'\t1969-12-31\t00:00:00\t\
     1969-12-31 23:59:59.0\t2024-06-30 22:00:00+00\t00000000-0000-0000-0000-000000000000\t[]\t{'a': NULL, 'b': ''}",
];

/// Of the columns that only Parquet brings.
const WIDE_ROWS: [&str; 3] = ["1234567890123456789012345678.0123456789\t00ff", "\\N\t\\N", "-1.0000000000\t"];

fn by_jdbc(gateway: &Gateway, sql: &str) -> Vec<String> {
    let text = Program::java("JdbcQuery.java", gateway, "").env("TZ", "UTC").arg(sql).succeed();
    // Labels and types come first.
    text.lines().skip(2).map(str::to_owned).collect()
}

fn casts(dir: &Path, kind: &str) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join(format!("{kind}.casts"))).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_iceberg_lacks_names_the_column_and_a_cast() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    let dir = tempfile::TempDir::new().expect("a directory");
    make_files(dir.path());
    for (file, column, cast) in [("ubigint.parquet", "big", "DECIMAL(20,0)"), ("interval.parquet", "took", "VARCHAR")] {
        let output = load(&gateway, &dir.path().join(file), "lake.bronze.lacks", &[]).output().expect("the binary");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{file} went in");
        assert!(error.contains(column) && error.contains(cast), "{error}");
    }
    gateway.query("SELECT * FROM lake.bronze.lacks").await.expect_err("nothing was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_schema_and_a_missing_file_say_what_to_do() {
    let gateway = Gateway::start();
    let dir = tempfile::TempDir::new().expect("a directory");
    std::fs::write(dir.path().join("a.csv"), "id\n1\n").expect("a file");
    let output = load(&gateway, &dir.path().join("a.csv"), "lake.nowhere.t", &[]).output().expect("the binary");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("nowhere") && error.contains("--create-schema"), "{error}");
    let output = load(&gateway, &dir.path().join("b.csv"), "lake.nowhere.t", &[]).output().expect("the binary");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("b.csv"), "{error}");
}
