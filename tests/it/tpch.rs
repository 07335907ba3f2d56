//! TPC-H: the demo makes the data, and all 22 queries over ADBC give the rows that DuckDB itself gives, on both upstreams.

use std::process::Stdio;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::harness::{Gateway, Program, ReferenceRest, part, polynya, succeeded};

/// Scale factor of the data.
const SCALE: &str = "0.01";

/// A directory with the demo's catalog, made once by `polynya demo`.
fn demo_data() -> &'static (TempDir, String) {
    static DATA: OnceLock<(TempDir, String)> = OnceLock::new();
    DATA.get_or_init(|| {
        let dir = TempDir::new().expect("a directory");
        let mut command = polynya();
        command.args(["demo", "--scale", SCALE, "--listen", "127.0.0.1:0", "--dir"]).arg(dir.path().join("lake"));
        command.env("POLYNYA_EXTENSION_DIR", part("POLYNYA_EXTENSION_DIR"));
        let output = command.stdin(Stdio::null()).output().expect("the binary");
        let text = succeeded(&command, output);
        (dir, text)
    })
}

/// A gateway on the catalog that the demo made.
fn gateway_on_demo_data(set: &[&str]) -> Gateway {
    let (data, _) = demo_data();
    let path = format!("catalogs.lake.path={}", data.path().join("lake").display());
    let mut all = vec![path.as_str()];
    all.extend(set);
    Gateway::with(&all)
}

#[test]
fn the_demo_ends_with_results_and_says_how_to_connect() {
    let (data, text) = demo_data();
    for word in ["lineitem", "gold", "adbc", "jdbc:arrow-flight-sql"] {
        assert!(text.to_lowercase().contains(word), "`{word}` is not in:\n{text}");
    }
    assert!(data.path().join("lake").exists());
}

#[test]
fn the_22_queries_give_duckdb_s_rows_on_the_embedded_catalog() {
    let gateway = gateway_on_demo_data(&[]);
    Program::python("adbc_tpch.py", &gateway)
        .arg("--sf")
        .arg(SCALE)
        .arg("--catalog")
        .arg("lake")
        .arg("--schema")
        .arg("bronze")
        .succeed();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_22_queries_give_duckdb_s_rows_on_the_reference_rest_catalog() {
    let rest = ReferenceRest::start();
    let settings = rest.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let gateway = gateway_on_demo_data(&settings);
    gateway.run("CREATE SCHEMA rest.bronze").await;
    for table in ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"] {
        gateway.run(&format!("CREATE TABLE rest.bronze.{table} AS SELECT * FROM lake.bronze.{table}")).await;
    }
    tokio::task::block_in_place(|| {
        Program::python("adbc_tpch.py", &gateway)
            .arg("--sf")
            .arg(SCALE)
            .arg("--catalog")
            .arg("rest")
            .arg("--schema")
            .arg("bronze")
            .succeed()
    });
}
