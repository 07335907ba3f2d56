//! Bad input: a clear message that names what was wrong and what would be right, with the right gRPC code.

use std::process::Stdio;

use tonic::Code;

use crate::harness::{Gateway, Nobody, held, polynya, user_ada};

async fn refused(gateway: &Gateway, sql: &str) -> tonic::Status {
    match gateway.query(sql).await {
        Ok(_) => panic!("{sql} was not refused"),
        Err(status) => status,
    }
}

#[track_caller]
fn says(status: &tonic::Status, code: Code, words: &[&str]) {
    assert_eq!(status.code(), code, "{status}");
    for word in words {
        assert!(status.message().contains(word), "`{word}` is not in: {}", status.message());
    }
}

fn serve_fails(arguments: &[&str]) -> String {
    let output = polynya().arg("serve").args(arguments).stdin(Stdio::null()).output().expect("the binary");
    assert!(!output.status.success(), "serve {arguments:?} should have failed");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_bad_config_names_the_key_and_the_nearest_known_one() {
    let error = serve_fails(&["--set", "pool.max_worker=3"]);
    assert!(error.contains("max_worker") && error.contains("did you mean `max_workers`"), "{error}");
    let error = serve_fails(&["--set", "pool.queue_timeout=soon"]);
    assert!(error.contains("pool.queue_timeout"), "{error}");
    let error = serve_fails(&["--config", "does-not-exist.yaml"]);
    assert!(error.contains("does-not-exist.yaml"), "{error}");
}

#[test]
fn nobody_is_let_in_without_a_password_beyond_loopback() {
    let error = serve_fails(&["--listen", "0.0.0.0:0"]);
    assert!(error.contains("127.0.0.1") && error.contains("auth.mode"), "{error}");
}

#[tokio::test]
async fn bad_sql_says_where() {
    let gateway = Gateway::start();
    says(&refused(&gateway, "SELEC 1").await, Code::InvalidArgument, &["SELEC"]);
    says(&refused(&gateway, "SELECT nope FROM (SELECT 1 AS a)").await, Code::InvalidArgument, &["nope"]);
    says(&refused(&gateway, "SELECT 1; SELECT 2").await, Code::InvalidArgument, &["one statement"]);
    assert_eq!(gateway.value("SELECT 42").await, "42");
}

#[tokio::test]
async fn a_missing_table_schema_or_catalog_is_not_found() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    says(&refused(&gateway, "SELECT * FROM lake.bronze.nothing").await, Code::NotFound, &["nothing"]);
    says(&refused(&gateway, "SELECT * FROM lake.nowhere.nothing").await, Code::NotFound, &["nowhere"]);
    says(&refused(&gateway, "INSERT INTO lake.bronze.nothing VALUES (1)").await, Code::NotFound, &["nothing"]);
    let status = refused(&gateway, "SELECT * FROM mars.bronze.nothing").await;
    assert!(status.message().contains("mars") && status.message().contains("lake"), "{status}");
}

#[tokio::test]
async fn what_the_guard_refuses_says_what_is_allowed() {
    let gateway = Gateway::start();
    for sql in [
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "ATTACH '/tmp/x.db'",
        "SET memory_limit = '1TB'",
        "COMMENT ON TABLE lake.main.t IS 'x'",
    ] {
        let status = refused(&gateway, sql).await;
        assert!(matches!(status.code(), Code::Unimplemented | Code::PermissionDenied), "{sql}: {status}");
        assert!(status.message().contains("SELECT"), "{sql}: {status}");
    }
    says(&refused(&gateway, "SELECT * FROM read_csv('/etc/passwd')").await, Code::PermissionDenied, &["read_csv"]);
    says(&refused(&gateway, "SELECT getenv('HOME')").await, Code::PermissionDenied, &["getenv"]);
}

#[tokio::test]
async fn a_wrong_password_is_unauthenticated() {
    let gateway = Gateway::with(&user_ada().each_ref().map(String::as_str));
    let mut client = gateway.client().await;
    let error = client.handshake("ada", "wrong").await.expect_err("a refusal").to_string();
    assert!(error.to_lowercase().contains("password"), "{error}");
    client.handshake("ada", "correct horse").await.expect("the right password");
    let error = gateway.query("SELECT 1").await.expect_err("no credentials");
    says(&error, Code::Unauthenticated, &[]);
}

#[tokio::test]
async fn a_wrong_number_of_parameters_says_how_many() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let mut statement = client.prepare("SELECT ?::INTEGER + ?::INTEGER".to_owned(), None).await.expect("prepared");
    let one = arrow::array::record_batch!(("1", Int32, [7])).expect("a batch");
    statement.set_parameters(one).expect("parameters");
    let error = statement.execute().await.expect_err("one of two parameters was accepted").to_string();
    assert!(error.contains("takes 2 parameter(s), but 1 were bound"), "{error}");
    let mut statement = client.prepare("SELECT ?::INTEGER".to_owned(), None).await.expect("prepared");
    let error = statement.execute().await.expect_err("an unbound parameter was accepted").to_string();
    assert!(error.contains("takes 1 parameter(s), but 0 were bound"), "{error}");
}

#[tokio::test]
async fn an_unreachable_catalog_is_unavailable_and_names_it() {
    let nobody = Nobody::new();
    let uri = format!("catalogs.far.uri=http://{}", nobody.addr());
    let gateway = Gateway::with(&["catalogs.far.type=rest", &uri, "catalogs.far.warehouse=gold"]);
    says(&refused(&gateway, "SELECT * FROM far.gold.t").await, Code::Unavailable, &["far"]);
    assert_eq!(gateway.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn an_error_in_mid_stream_arrives_with_its_message() {
    let gateway = Gateway::start();
    let sql = "SELECT CASE WHEN i = 1000000 THEN 'x' ELSE '1' END::INTEGER AS v FROM range(1100000) t(i)";
    let status = refused(&gateway, sql).await;
    says(&status, Code::InvalidArgument, &["Could not convert string 'x'"]);
    assert_eq!(gateway.value("SELECT 42").await, "42");
}

#[tokio::test]
async fn deep_expressions_run_and_too_deep_ones_are_refused() {
    let gateway = Gateway::start();
    assert_eq!(gateway.value(&format!("SELECT ({}0)::BIGINT", "1 + ".repeat(500))).await, "500");
    assert_eq!(gateway.value(&format!("SELECT length({}'')", "'x' || ".repeat(500))).await, "500");
    for sql in [format!("SELECT {}1{}", "(".repeat(30_000), ")".repeat(30_000)), format!("SELECT {}true", "NOT ".repeat(30_000))]
    {
        assert!(!refused(&gateway, &sql).await.message().is_empty());
    }
    assert_eq!(gateway.value("SELECT 42").await, "42");
}

/// Each field's whole path is kept by what reads schemas: a long name over many fields would take gigabytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_names_multiply_is_refused_and_costs_nobody_anything() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.s").await;
    let fields: Vec<String> = (0..5_000).map(|number| format!("a{number} INTEGER")).collect();
    let sql = format!("CREATE TABLE lake.s.t (\"{}\" STRUCT({}))", "n".repeat(200_000), fields.join(", "));
    let told = refused(&gateway, &sql).await;
    says(&told, Code::InvalidArgument, &["take shorter names"]);
    assert!(told.message().len() < 2000, "{} bytes", told.message().len());
    let deep = format!("CREATE TABLE lake.s.t (a INTEGER{})", "[]".repeat(100));
    says(&refused(&gateway, &deep).await, Code::Unimplemented, &["nested more than"]);
    assert_eq!(gateway.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn of_an_error_of_many_megabytes_the_beginning_is_told() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.gold").await;
    let (peak, logged) = (held(gateway.pid()).peak_mb, gateway.log().len());
    for sql in [
        "SELECT CAST(repeat('x', 40000000) AS INTEGER)",
        "SELECT a::INTEGER FROM (SELECT repeat('x', 40000000) AS a)",
        "CREATE TABLE lake.gold.t AS SELECT repeat('x', 40000000)::DATE AS a",
    ] {
        let error = gateway.query(sql).await.expect_err(sql);
        assert_eq!(error.code(), Code::InvalidArgument, "{sql}: {}", error.message());
        assert!(error.message().contains("xxx") && error.message().len() < 8192, "{sql}: {} bytes", error.message().len());
    }
    let grown = held(gateway.pid()).peak_mb - peak;
    assert!(grown < 40, "the gateway took {grown} MB");
    assert!(gateway.log().len() - logged < 1 << 20, "the log has it whole");
}

#[tokio::test]
async fn a_statement_of_very_many_columns_or_parameters_is_refused() {
    let gateway = Gateway::start();
    let columns: Vec<String> = (0..1_000).map(|n| format!("{n} AS c{n}")).collect();
    let sql = |stars: usize| format!("SELECT {} FROM (SELECT {})", vec!["*"; stars].join(", "), columns.join(", "));
    let error = gateway.query(&sql(21)).await.expect_err("21,000 columns");
    assert_eq!(error.code(), Code::InvalidArgument, "{}", error.message());
    assert!(error.message().contains("more than 20000 columns"), "{}", error.message());
    let mut client = gateway.client().await;
    assert!(client.prepare(sql(21), None).await.is_err());
    let parameters = format!("SELECT 1 WHERE 1 IN ({})", vec!["?"; 20_001].join(", "));
    let error = client.prepare(parameters, None).await.expect_err("20,001 parameters").to_string();
    assert!(error.contains("20001 parameters; the most is 20000"), "{error}");
    // Each parameter has the type that it is compared with.
    let fields: Vec<String> = (0..1_000).map(|n| format!("'f{n}': 1")).collect();
    let structs = |count: usize| format!("SELECT 1 WHERE {{{}}} IN ({})", fields.join(", "), vec!["?"; count].join(", "));
    let error = client.prepare(structs(100), None).await.expect_err("100,100 fields").to_string();
    assert!(error.contains("100000 with what is nested in them"), "{error}");
    let some = client.prepare(structs(2), None).await.expect("2,002 fields");
    assert_eq!(some.parameter_schema().expect("parameters").fields().len(), 2);
    let few = client.prepare(sql(3), None).await.expect("3,000 columns");
    assert_eq!(few.dataset_schema().expect("columns").fields().len(), 3_000);
}
