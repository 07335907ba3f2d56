//! The escape list against a real gateway: every form in `tests/data/escapes.txt` is refused with a message, nothing reads or writes a file
//! that is not a table's, no worker ends, and the gateway still answers.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::{Gateway, root, status};

/// Stands in the canary files and nowhere else.
const SECRET: &str = "canary-5e1f0c77";

/// The forms that a query is tried in besides its own.
fn nested(sql: &str) -> Vec<String> {
    let mut forms = vec![sql.to_owned()];
    if sql.starts_with("SELECT * FROM") && !sql.contains(';') {
        forms.extend([
            format!("EXPLAIN {sql}"),
            format!("EXPLAIN ANALYZE {sql}"),
            format!("DESCRIBE {sql}"),
            format!("SUMMARIZE {sql}"),
            format!("WITH q AS ({sql}) SELECT count(*) FROM q"),
            format!("SELECT (SELECT count(*) FROM ({sql}) AS q)"),
            format!("INSERT INTO lake.bronze.t SELECT count(*), 'x' FROM ({sql}) AS q"),
            format!("CREATE TABLE lake.bronze.x AS {sql}"),
            format!("UPDATE lake.bronze.t SET a = (SELECT count(*) FROM ({sql}) AS q)"),
            format!("DELETE FROM lake.bronze.t WHERE EXISTS ({sql})"),
        ]);
    }
    forms
}

/// The first batch of an answer; a form that gets through may have no end.
async fn first_rows(client: &mut FlightSqlServiceClient<Channel>, sql: &str) -> Result<Option<RecordBatch>, tonic::Status> {
    let info = client.execute(sql.to_owned(), None).await.map_err(status)?;
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    client.do_get(ticket).await.map_err(status)?.try_next().await.map_err(status)
}

fn assert_refused(sql: &str, status: &tonic::Status) {
    let expected = matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented | Code::NotFound);
    assert!(expected && !status.message().is_empty(), "{sql}: {status:?}");
    let message = status.message();
    assert!(!message.contains(SECRET), "{sql}: {message}");
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn every_form_of_the_escape_list_is_refused() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    gateway.run("CREATE TABLE lake.bronze.t (a BIGINT, b VARCHAR)").await;
    gateway.run("INSERT INTO lake.bronze.t VALUES (1, 'x')").await;
    let outside = tempfile::TempDir::new().expect("a folder");
    let canary = outside.path().join("canary.txt");
    let lake = gateway.dir.path().join("lake");
    // The worker's DuckDB may open files below the catalog's folder: there the guard is the only wall.
    for file in [&canary, &lake.join("canary.csv")] {
        std::fs::write(file, format!("{SECRET}\n")).expect("a canary");
    }
    let before = (gateway.workers(), files(&lake).len());
    let list = std::fs::read_to_string(root().join("tests/data/escapes.txt")).expect("the escape list");
    let fill = |line: &str| {
        let out = outside.path().join("out").display().to_string();
        line.replace("{canary}", &canary.display().to_string())
            .replace("{lake}", &lake.display().to_string())
            .replace("{out}", &out)
    };
    let forms: Vec<String> = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(fill).collect();
    assert!(forms.len() >= 250, "only {} forms", forms.len());
    let mut client = gateway.client().await;
    let mut passed = Vec::new();
    for (number, form) in forms.iter().enumerate() {
        for sql in nested(form) {
            match first_rows(&mut client, &sql).await {
                Ok(rows) => passed.push(format!("{sql}: {rows:?}")),
                Err(status) => assert_refused(&sql, &status),
            }
        }
        if client.prepare(form.clone(), None).await.is_ok() {
            passed.push(format!("{form} can be prepared"));
        }
        if number % 25 == 0 {
            assert_eq!(gateway.value("SELECT 42").await, "42", "after {form}");
        }
    }
    assert!(passed.is_empty(), "not refused:\n{}", passed.join("\n"));
    assert_eq!(gateway.value("SELECT string_agg(a || b) FROM lake.bronze.t").await, "1x");
    let workers = gateway.workers();
    assert!(before.0.iter().all(|worker| workers.contains(worker)), "a worker ended: {before:?}, now {workers:?}");
    assert_eq!(files(&lake).len(), before.1, "a file came or went");
    assert_eq!(files(outside.path()), std::slice::from_ref(&canary));
    assert_eq!(std::fs::read_to_string(&canary).expect("the canary"), format!("{SECRET}\n"));
    assert!(!gateway.log().contains(SECRET), "the secret is in the log");
}

#[tokio::test]
async fn a_plan_shows_no_path_and_no_address() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    gateway.run("CREATE TABLE lake.bronze.t (a BIGINT, d DATE) PARTITIONED BY (day(d))").await;
    gateway.run("INSERT INTO lake.bronze.t VALUES (1, '2024-01-01'), (2, '2024-01-02')").await;
    let folder = gateway.dir.path().file_name().expect("a name").to_string_lossy().into_owned();
    for sql in [
        "EXPLAIN SELECT * FROM lake.bronze.t WHERE d = '2024-01-01'",
        "EXPLAIN (FORMAT json) SELECT * FROM lake.bronze.t AT (TIMESTAMP => now()) JOIN lake.bronze.t AS u USING (a)",
        "EXPLAIN ANALYZE SELECT * FROM lake.bronze.t WHERE d = '2024-01-01'",
        "EXPLAIN (ANALYZE, FORMAT json) SELECT * FROM lake.bronze.t AT (TIMESTAMP => now()) JOIN lake.bronze.t AS u USING (a)",
        "EXPLAIN ANALYZE SELECT count(*) FROM lake.bronze.t LEFT JOIN lake.information_schema.tables ON table_name = 'scan'",
        "EXPLAIN SELECT * FROM information_schema.columns",
        "EXPLAIN (FORMAT json) INSERT INTO lake.bronze.t SELECT * FROM lake.bronze.t",
        "EXPLAIN (FORMAT json) UPDATE lake.bronze.t SET a = 1",
        "EXPLAIN (FORMAT json) DELETE FROM lake.bronze.t WHERE a = 1",
        "EXPLAIN (FORMAT json) MERGE INTO lake.bronze.t USING (SELECT 1 AS a) AS s USING (a) WHEN MATCHED THEN DELETE",
    ] {
        let rows = gateway.query(sql).await.unwrap_or_else(|status| panic!("{sql}: {status}"));
        let plan = arrow::util::pretty::pretty_format_batches(&rows).expect("a table").to_string().to_lowercase();
        assert!(plan.contains("lake") || plan.contains("scan"), "{plan}");
        for word in [folder.to_lowercase().as_str(), "127.0.0.1", "http:", "file:", ".parquet", "token", "polynya_"] {
            assert!(!plan.contains(word), "{sql} shows {word}:\n{plan}");
        }
    }
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t").await, "2");
}
