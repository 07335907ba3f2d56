//! Tables as they were: by AT, by the session's `as_of`, and the functions that show a table's own metadata.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::Action;
use arrow_flight::sql::client::FlightSqlServiceClient;
use bytes::Bytes;
use futures::TryStreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{Gateway, Program, query, status};
use crate::identity::{House, shown};
use crate::stand_in::Setup;

type Client = FlightSqlServiceClient<Channel>;

/// One value as text.
async fn value(client: &mut Client, sql: &str) -> Result<String, Status> {
    let batches = query(client, sql).await?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap_or_else(|| panic!("{sql}: no row"));
    Ok(arrow::util::display::array_value_to_string(batch.column(0), 0).expect("a value"))
}

async fn is(client: &mut Client, sql: &str, expected: &str) {
    assert_eq!(value(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")), expected, "{sql}");
}

#[track_caller]
fn refused<T>(what: &str, outcome: Result<T, Status>, code: Code, words: &[&str]) {
    let error = outcome.err().unwrap_or_else(|| panic!("{what} was not refused"));
    assert_eq!(error.code(), code, "{what}: {error}");
    for word in words {
        assert!(error.message().contains(word), "{what}: {error} lacks {word}");
    }
}

/// The instant now, with a moment before and behind it in which nothing is committed.
async fn instant(gateway: &Gateway) -> String {
    tokio::time::sleep(Duration::from_millis(30)).await;
    let now = gateway.value("SELECT strftime(now() AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')").await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    now
}

/// A table of three snapshots that gets a column between the first and the second, and one that is younger; with an instant before all
/// of them, one behind the first snapshot, and one behind the second.
struct Scene {
    gateway: Gateway,
    before: String,
    first: String,
    second: String,
}

impl Scene {
    async fn new(set: &[&str]) -> Self {
        let gateway = Gateway::with(set);
        gateway.run("CREATE SCHEMA lake.bronze").await;
        let before = instant(&gateway).await;
        gateway.run("CREATE TABLE lake.bronze.t (a BIGINT)").await;
        gateway.run("INSERT INTO lake.bronze.t VALUES (1)").await;
        let first = instant(&gateway).await;
        gateway.run("ALTER TABLE lake.bronze.t ADD COLUMN b VARCHAR").await;
        gateway.run("INSERT INTO lake.bronze.t VALUES (2, 'x')").await;
        gateway.run("CREATE TABLE lake.bronze.empty (e INTEGER)").await;
        let second = instant(&gateway).await;
        gateway.run("INSERT INTO lake.bronze.t VALUES (3, 'y')").await;
        gateway.run("CREATE TABLE lake.bronze.young AS SELECT 9 AS n").await;
        Self { gateway, before, first, second }
    }

    async fn client(&self) -> Client {
        self.gateway.client().await
    }

    /// The ids of the snapshots, the oldest first.
    async fn snapshots(&self) -> Vec<String> {
        let sql = "SELECT string_agg(snapshot_id::VARCHAR, ' ' ORDER BY committed_at) FROM table_snapshots('lake.bronze.t')";
        self.gateway.value(sql).await.split(' ').map(str::to_owned).collect()
    }
}

async fn set_as_of(client: &mut Client, instant: &str) {
    query(client, &format!("SET as_of = '{instant}'")).await.expect("an instant");
}

#[tokio::test]
async fn at_reads_what_was_current_then_and_says_what_there_is() {
    let scene = Scene::new(&[]).await;
    let mut client = scene.client().await;
    let ids = scene.snapshots().await;
    let [one, two, three] = ids.as_slice() else { panic!("{ids:?}") };
    let (first, before) = (&scene.first, &scene.before);
    let told = "SELECT count(*) || ' ' || coalesce(max(a), 0)";
    for (sql, expected) in [
        (format!("{told} FROM lake.bronze.t AT (VERSION => {one})"), "1 1"),
        (format!("{told} FROM lake.bronze.t AT (VERSION => '{two}')"), "2 2"),
        (format!("{told} FROM lake.bronze.t AT (VERSION => {two} + 0)"), "2 2"),
        (format!("{told} FROM lake.bronze.t AT (VERSION => 'main')"), "3 3"),
        (format!("{told} FROM lake.bronze.t AT (TIMESTAMP => '{first}')"), "1 1"),
        (format!("{told} FROM lake.bronze.t AT (TIMESTAMP => '{first}'::TIMESTAMPTZ + INTERVAL 0 SECOND)"), "1 1"),
        (format!("{told} FROM lake.bronze.t AT (TIMESTAMP => now())"), "3 3"),
        (format!("WITH x AS (FROM lake.bronze.t AT (VERSION => {one})) {told} FROM x"), "1 1"),
        (format!("SELECT (SELECT max(a) FROM lake.bronze.t AT (VERSION => {two})) || ' ' || max(a) FROM lake.bronze.t"), "2 3"),
        (
            format!(
                "SELECT count(n.a) || ' ' || count(o.a) FROM lake.bronze.t AS o AT (VERSION => {one}) FULL JOIN lake.bronze.t AS n \
                 AT (VERSION => {three}) USING (a)"
            ),
            "3 1",
        ),
    ] {
        is(&mut client, &sql, expected).await;
    }
    // The columns are those of the time.
    refused(
        "b",
        query(&mut client, &format!("SELECT b FROM lake.bronze.t AT (VERSION => {one})")).await,
        Code::InvalidArgument,
        &["b"],
    );
    let columns = query(&mut client, &format!("FROM lake.bronze.t AT (TIMESTAMP => '{first}')")).await.expect("rows")[0].schema();
    assert_eq!(columns.fields().len(), 1);
    let table = "table \"bronze.t\" of catalog \"lake\"";
    for (at, words) in [
        ("VERSION => 5".to_owned(), vec![table, "has no snapshot 5: it has 3", one, three, "\"main\""]),
        ("VERSION => 'none'".to_owned(), vec![table, "has no branch or tag none"]),
        (format!("TIMESTAMP => '{before}'"), vec![table, "did not exist at"]),
        ("TIMESTAMP => DATE '2001-01-01'".to_owned(), vec![table, "did not exist at 2001-01-01T00:00:00.000Z"]),
    ] {
        let sql = format!("SELECT * FROM lake.bronze.t AT ({at})");
        refused(&sql, query(&mut client, &sql).await, Code::NotFound, &words);
        refused(&sql, client.prepare(sql.clone(), None).await.map(drop).map_err(status), Code::NotFound, &words);
    }
    for (at, words) in [("TIMESTAMP => 'soon'", "soon"), ("VERSION => NULL", "not NULL"), ("VERSION => x", "x")] {
        let sql = format!("SELECT * FROM lake.bronze.t AT ({at})");
        refused(&sql, query(&mut client, &sql).await, Code::InvalidArgument, &[words]);
    }
    let parameter = client.prepare("FROM lake.bronze.t AT (VERSION => ?)".to_owned(), None).await.map(drop);
    refused("?", parameter.map_err(status), Code::Unimplemented, &["AT takes no parameter", "as_of"]);
}

#[tokio::test]
async fn a_session_reads_every_table_at_its_instant_until_that_ends() {
    let scene = Scene::new(&[]).await;
    let mut client = scene.client().await;
    // Described before, so that it is remembered with the columns of now.
    let all = "SELECT * FROM lake.bronze.t";
    let columns = async |client: &mut Client| {
        let rows: Vec<RecordBatch> = query(client, all).await.expect("rows");
        rows[0].num_columns()
    };
    assert_eq!(columns(&mut client).await, 2);
    assert_eq!(columns(&mut client).await, 2);
    set_as_of(&mut client, &scene.first).await;
    assert_eq!(columns(&mut client).await, 1);
    is(&mut client, "SELECT count(*) FROM lake.bronze.t", "1").await;
    is(&mut client, "SELECT count(*) FROM lake.bronze.t AS o JOIN lake.bronze.t AS n USING (a)", "1").await;
    let described = query(&mut client, "DESCRIBE lake.bronze.t").await.expect("columns");
    assert_eq!(described.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    refused(
        "young",
        query(&mut client, "FROM lake.bronze.young").await,
        Code::NotFound,
        &["\"bronze.young\"", "did not exist at"],
    );
    refused("empty", query(&mut client, "FROM lake.bronze.empty").await, Code::NotFound, &["did not exist at"]);
    // Its own AT comes first.
    is(&mut client, "SELECT count(*) FROM lake.bronze.t AT (VERSION => 'main')", "3").await;
    set_as_of(&mut client, &scene.second).await;
    is(&mut client, "SELECT count(*) || max(b) FROM lake.bronze.t", "2x").await;
    is(&mut client, "SELECT count(*) FROM lake.bronze.empty", "0").await;
    is(&mut client, "SELECT count(bronze.empty.e) FROM lake.bronze.empty", "0").await;
    // By which a table without snapshots is kept empty: no row of one that has some.
    is(&mut client, "SELECT count(a) || ' ' || count(*) FROM lake.bronze.t TABLESAMPLE RESERVOIR(0 ROWS)", "0 0").await;
    query(&mut client, "USE lake.bronze").await.expect("a schema");
    is(&mut client, "SELECT count(*) FROM t", "2").await;
    query(&mut client, "RESET as_of").await.expect("an end");
    is(&mut client, "SELECT count(*) FROM t", "3").await;
    assert_eq!(columns(&mut client).await, 2);
}

#[tokio::test]
async fn a_session_in_the_past_writes_nothing() {
    let scene = Scene::new(&[]).await;
    let mut client = scene.client().await;
    set_as_of(&mut client, &scene.first).await;
    for sql in [
        "INSERT INTO lake.bronze.t VALUES (4, 'z')",
        "INSERT INTO lake.bronze.t SELECT * FROM lake.bronze.t",
        "UPDATE lake.bronze.t SET a = 5",
        "DELETE FROM lake.bronze.t",
        "CREATE TABLE lake.bronze.u (a INTEGER)",
        "DROP TABLE lake.bronze.t",
        "ALTER TABLE lake.bronze.t DROP COLUMN a",
    ] {
        refused(sql, query(&mut client, sql).await, Code::FailedPrecondition, &["as of", "RESET as_of"]);
        let prepared = client.prepare(sql.to_owned(), None).await.map(drop).map_err(status);
        refused(sql, prepared, Code::FailedPrecondition, &["RESET as_of"]);
        refused(
            sql,
            client.execute_update(sql.to_owned(), None).await.map_err(status),
            Code::FailedPrecondition,
            &["RESET as_of"],
        );
    }
    query(&mut client, "SET as_of = '~'").await.expect("an end");
    is(&mut client, "SELECT count(*) FROM lake.bronze.t", "3").await;
    query(&mut client, "INSERT INTO lake.bronze.t VALUES (4, 'z')").await.expect("a row");
    is(&mut client, "SELECT count(*) FROM lake.bronze.t", "4").await;
}

#[tokio::test]
async fn tickets_and_prepared_statements_keep_the_instant_that_they_were_made_at() {
    let scene = Scene::new(&[]).await;
    let mut client = scene.client().await;
    let sql = "SELECT count(*) FROM lake.bronze.t WHERE a < ?";
    set_as_of(&mut client, &scene.first).await;
    let ticket = client.execute("FROM lake.bronze.t".to_owned(), None).await.expect("described").endpoint[0].ticket.clone();
    let mut prepared = client.prepare(sql.to_owned(), None).await.expect("prepared");
    query(&mut client, "RESET as_of").await.expect("an end");
    let rows: Vec<RecordBatch> = client.do_get(ticket.expect("a ticket")).await.expect("rows").try_collect().await.expect("rows");
    assert_eq!((rows.iter().map(RecordBatch::num_rows).sum::<usize>(), rows[0].num_columns()), (1, 1));
    let hundred = arrow::array::record_batch!(("1", Int64, [100])).expect("a batch");
    prepared.set_parameters(hundred).expect("parameters");
    let info = prepared.execute().await.expect("a ticket");
    let rows: Vec<RecordBatch> =
        client.do_get(info.endpoint[0].ticket.clone().expect("a ticket")).await.expect("rows").try_collect().await.expect("rows");
    assert!(shown(&rows).contains("| 1 "), "{}", shown(&rows));
    is(&mut client, "SELECT count(*) FROM lake.bronze.t", "3").await;
}

#[tokio::test]
async fn a_header_says_as_of_for_its_call() {
    let scene = Scene::new(&[]).await;
    let mut client = scene.client().await;
    client.set_header("as_of", scene.first.as_str());
    is(&mut client, "SELECT count(*) FROM lake.bronze.t", "1").await;
    refused(
        "SET",
        query(&mut client, "SET as_of = '2026-01-01'").await,
        Code::InvalidArgument,
        &["sends as_of with each of its calls"],
    );
    refused("a write", query(&mut client, "DROP TABLE lake.bronze.t").await, Code::FailedPrecondition, &["as_of"]);
    let mut other = scene.client().await;
    set_as_of(&mut other, &scene.first).await;
    other.set_header("as_of", "~");
    is(&mut other, "SELECT count(*) FROM lake.bronze.t", "3").await;
    for (wrong, words) in [("soon", "such as 2026-03-01T12:00:00Z"), ("2200-01-01T00:00:00Z", "in the future")] {
        let mut client = scene.client().await;
        client.set_header("as_of", wrong);
        refused(wrong, query(&mut client, "SELECT 1").await, Code::InvalidArgument, &["as_of", words]);
        let mut client = scene.client().await;
        let set = query(&mut client, &format!("SET as_of = '{wrong}'")).await;
        refused(wrong, set, Code::InvalidArgument, &["as_of", words]);
        is(&mut client, "SELECT count(*) FROM lake.bronze.t", "3").await;
    }
}

async fn action(client: &mut Client, name: &str, body: Bytes) -> Vec<Bytes> {
    let results = client.do_action(Action { r#type: name.to_owned(), body }).await.expect("an answer");
    results.map_ok(|result| result.body).try_collect().await.expect("results")
}

/// `SetSessionOptionsRequest` with one text.
fn option(name: &str, value: &str) -> Bytes {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).expect("short")], bytes].concat();
    let entry = [field(1, name.as_bytes()), field(2, &field(1, value.as_bytes()))].concat();
    field(1, &entry).into()
}

#[tokio::test]
async fn as_of_is_an_option_of_the_session() {
    let scene = Scene::new(&[]).await;
    let mut client = scene.client().await;
    let shows = async |client: &mut Client, text: &str| {
        let answer = action(client, "GetSessionOptions", Bytes::new()).await;
        answer[0].windows(text.len()).any(|part| part == text.as_bytes())
    };
    assert!(!shows(&mut client, "as_of").await);
    for wrong in ["soon", "2200-01-01T00:00:00Z"] {
        assert!(!action(&mut client, "SetSessionOptions", option("as_of", wrong)).await[0].is_empty(), "{wrong}");
    }
    assert!(!shows(&mut client, "as_of").await);
    assert!(action(&mut client, "SetSessionOptions", option("as_of", &scene.first)).await[0].is_empty());
    // To the millisecond, which is what snapshots are told apart by.
    assert!(shows(&mut client, &scene.first[..scene.first.len() - 4]).await && shows(&mut client, "as_of").await);
    is(&mut client, "SELECT count(*) FROM lake.bronze.t", "1").await;
    assert!(action(&mut client, "SetSessionOptions", option("schema", "bronze")).await[0].is_empty());
    is(&mut client, "SELECT count(*) FROM t", "1").await;
    assert!(action(&mut client, "SetSessionOptions", option("as_of", "")).await[0].is_empty());
    is(&mut client, "SELECT count(*) FROM t", "3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_drivers_read_the_past_by_a_property_of_their_connection() {
    let scene = Scene::new(&[]).await;
    let gateway = &scene.gateway;
    let sql = "SELECT count(*) AS n FROM lake.bronze.t";
    let jdbc = tokio::task::block_in_place(|| {
        Program::java("JdbcQuery.java", gateway, &format!("&as_of={}", scene.first)).arg(sql).succeed()
    });
    assert_eq!(jdbc.lines().last(), Some("1"), "{jdbc}");
    let adbc = |instant: &str| {
        let option = format!("adbc.flight.sql.rpc.call_header.as_of={instant}");
        Program::python("adbc_query.py", gateway).env("POLYNYA_OPTIONS", &option).arg(sql)
    };
    assert_eq!(tokio::task::block_in_place(|| adbc(&scene.second).succeed()).trim(), "2");
    assert!(tokio::task::block_in_place(|| adbc("soon").fail()).contains("such as 2026-03-01T12:00:00Z"));
}

#[tokio::test]
async fn functions_show_a_table_s_own_metadata_and_compose() {
    let scene = Scene::new(&[]).await;
    let mut client = scene.client().await;
    let ids = scene.snapshots().await;
    let one = &ids[0];
    for (sql, expected) in [
        ("SELECT count(*) || ' ' || min(operation) || ' ' || count(parent_id) FROM table_snapshots('lake.bronze.t')".to_owned(), "3 append 2"),
        ("SELECT summary['total-records'] FROM table_snapshots('bronze.t') ORDER BY committed_at DESC LIMIT 1".to_owned(), "3"),
        ("SELECT count(*) FROM table_snapshots('bronze.t') WHERE manifest_list LIKE 'file:///%/metadata/snap-%'".to_owned(), "3"),
        ("SELECT count(*) || ' ' || bool_and(is_current_ancestor) FROM table_history('bronze.t')".to_owned(), "3 true"),
        ("SELECT sum(record_count)::BIGINT || ' ' || min(file_format) || ' ' || count(DISTINCT file_path) FROM table_files('bronze.t')".to_owned(), "3 PARQUET 3"),
        (format!("SELECT sum(record_count)::BIGINT FROM table_files('bronze.t', version => {one})"), "1"),
        ("SELECT sum(record_count)::BIGINT FROM table_files('bronze.t', version => 'main')".to_owned(), "3"),
        (
            "SELECT string_agg(f.record_count || s.operation, ' ' ORDER BY s.committed_at) FROM table_files('bronze.t') AS f JOIN \
             table_snapshots('bronze.t') AS s ON s.snapshot_id = f.added_snapshot_id"
                .to_owned(),
            "1append 1append 1append",
        ),
        ("SELECT count(*) FROM table_files('bronze.t') a, table_files('bronze.young') b".to_owned(), "3"),
        ("SELECT record_count || ' ' || file_count || ' ' || cardinality(partition) FROM table_partitions('bronze.t')".to_owned(), "3 3 0"),
        ("SELECT count(*) FROM table_files('bronze.empty')".to_owned(), "0"),
        ("SELECT count(*) FROM table_snapshots('bronze.empty')".to_owned(), "0"),
    ] {
        is(&mut client, &sql, expected).await;
    }
    for function in ["table_snapshots", "table_history", "table_files", "table_partitions"] {
        let sql = format!("SELECT * FROM {function}('lake.bronze.t')");
        let described = client.prepare(sql.clone(), None).await.expect("described");
        let rows = query(&mut client, &sql).await.expect("rows");
        assert_eq!(described.dataset_schema().expect("columns").fields().len(), rows[0].num_columns(), "{sql}");
        assert!(
            query(&mut client, &format!("EXPLAIN {sql}")).await.is_ok()
                && query(&mut client, &format!("CALL {function}('bronze.t')")).await.is_ok()
        );
        let missing = query(&mut client, &format!("FROM {function}('bronze.none')")).await;
        let itself = query(&mut client, "FROM bronze.none").await.expect_err("no such table");
        refused(function, missing, Code::NotFound, &[itself.message()]);
    }
    refused("5", query(&mut client, "FROM table_files('bronze.t', version => 5)").await, Code::NotFound, &["has no snapshot 5"]);
    // In the past files are those of then; what there has been is told in full.
    set_as_of(&mut client, &scene.second).await;
    is(&mut client, "SELECT count(*) FROM table_files('bronze.t')", "2").await;
    is(&mut client, "SELECT file_count FROM table_partitions('bronze.t')", "2").await;
    is(&mut client, "SELECT count(*) FROM table_snapshots('bronze.t')", "3").await;
    refused("young", query(&mut client, "FROM table_files('bronze.young')").await, Code::NotFound, &["did not exist at"]);
}

#[tokio::test]
async fn partitions_and_deleted_rows_are_counted() {
    let gateway = Gateway::start();
    for sql in [
        "CREATE SCHEMA lake.bronze",
        "CREATE TABLE lake.bronze.p (day DATE, at TIMESTAMP, s VARCHAR, n INTEGER)",
        "INSERT INTO lake.bronze.p VALUES (DATE '2025-01-01', TIMESTAMP '2025-01-01 05:00:00', 'early', 0)",
        "ALTER TABLE lake.bronze.p SET PARTITIONED BY (month(day), hour(at), s)",
        "INSERT INTO lake.bronze.p SELECT DATE '2026-03-01' + (31 * (i % 2))::INTEGER, TIMESTAMP '2026-03-01 12:30:00', CASE i % 2 WHEN 0 THEN 'a' END, i FROM range(100) r(i)",
        "DELETE FROM lake.bronze.p WHERE n = 50",
    ] {
        gateway.run(sql).await;
    }
    let mut client = gateway.client().await;
    let sql = "SELECT string_agg(concat_ws(',', partition.values(), record_count, file_count, position_delete_record_count), ' ' ORDER BY record_count, \
               position_delete_record_count) FROM (SELECT map_values(partition) AS v, * FROM table_partitions('bronze.p'))";
    let sql = sql.replace("partition.values()", "array_to_string(v, '/')");
    is(&mut client, &sql, ",1,1,0 2026-04/2026-03-01-12,50,1,0 2026-03/2026-03-01-12/a,50,1,1").await;
    let content = "SELECT string_agg(content || ':' || record_count, ' ' ORDER BY content, record_count, spec_id) FROM table_files('bronze.p')";
    is(&mut client, content, "0:1 0:50 0:50 1:1").await;
    is(
        &mut client,
        "SELECT count(*) FROM table_files('bronze.p') WHERE map_keys(partition) = ['month_day_1', 'hour_at_2', 'identity_s_3']",
        "3",
    )
    .await;
}

#[tokio::test]
async fn what_can_be_shown_of_one_table_has_a_ceiling() {
    let scene = Scene::new(&["query.listing_files=2"]).await;
    let mut client = scene.client().await;
    let told = query(&mut client, "SELECT count(*) FROM table_files('bronze.t')").await;
    refused("3 files", told, Code::ResourceExhausted, &["more than 2 files", "query.listing_files"]);
    is(&mut client, "SELECT file_count FROM table_partitions('bronze.t')", "3").await;
    set_as_of(&mut client, &scene.second).await;
    is(&mut client, "SELECT count(*) FROM table_files('bronze.t')", "2").await;
}

#[tokio::test]
async fn what_one_statement_may_ask_of_the_past_is_bounded() {
    let scene = Scene::new(&[]).await;
    let mut client = scene.client().await;
    let snapshot =
        value(&mut client, "SELECT max_by(snapshot_id, committed_at) FROM table_snapshots('bronze.t')").await.expect("one");
    let files = |calls: usize| {
        let version =
            |at: usize| format!("SELECT count(*) AS n FROM table_files('bronze.t', version => '{}{snapshot}')", " ".repeat(at));
        format!("SELECT sum(n) FROM ({})", (0..calls).map(version).collect::<Vec<_>>().join(" UNION ALL "))
    };
    is(&mut client, &files(16), "48").await;
    refused("17 calls", query(&mut client, &files(17)).await, Code::ResourceExhausted, &["more than 16 calls"]);
    let reads = |reads: usize| {
        let version = |at: usize| format!("SELECT 1 AS n FROM bronze.t AT (VERSION => '{}{snapshot}') LIMIT 0", " ".repeat(at));
        format!(
            "SELECT count(*) FROM ({})",
            (0..reads).map(|at| format!("({})", version(at))).collect::<Vec<_>>().join(" UNION ALL ")
        )
    };
    refused("65 reads", query(&mut client, &reads(65)).await, Code::ResourceExhausted, &["more than 64 reads of the past"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_a_table_sees_nothing_of_its_past() {
    let house = House::open(Setup::lakehouse(), &[]).await;
    let (mut analyst, mut engineer) = (house.log_in("analyst").await, house.log_in("engineer").await);
    let denied = query(&mut analyst, "SELECT * FROM rest.silver.orders").await.expect_err("no grant");
    let calls = ["table_snapshots", "table_history", "table_files", "table_partitions"]
        .map(|name| format!("FROM {name}('rest.silver.orders')"));
    let main = "FROM rest.silver.orders AT (VERSION => 'main')".to_owned();
    for sql in calls.iter().chain([&main]) {
        assert!(query(&mut engineer, sql).await.is_ok_and(|rows| rows.iter().any(|batch| batch.num_rows() > 0)), "{sql}");
        let told = query(&mut analyst, sql).await.expect_err(sql);
        assert_eq!((told.code(), told.message()), (denied.code(), denied.message()), "{sql}");
        let prepared = analyst.prepare(sql.clone(), None).await.map(drop).map_err(status).expect_err(sql);
        assert_eq!((prepared.code(), prepared.message()), (denied.code(), denied.message()), "{sql}");
    }
    let now = value(&mut engineer, "SELECT strftime(now() AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%SZ')").await.expect("a time");
    set_as_of(&mut analyst, &now).await;
    let told = query(&mut analyst, "SELECT * FROM rest.silver.orders").await.expect_err("no grant");
    assert_eq!((told.code(), told.message()), (denied.code(), denied.message()));
}
