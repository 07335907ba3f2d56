//! What an analyst without a right to `silver` tries, to see or to change something of it: statements, prepared statements, uploads,
//! and what other people's sessions gave out. After each one nothing of it was seen and nothing of it has changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use arrow::array::record_batch;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, CommandPreparedStatementQuery,
    ProstMessageExt as _,
};
use arrow_flight::{Action, FlightDescriptor};
use bytes::Bytes;
use futures::TryStreamExt;
use prost::Message as _;
use tonic::{Code, Request, Status};

use super::{Client, House, MARKER, fetched, ingest, shown, tables};
use crate::harness::{query, status};
use crate::stand_in::{Operation, Setup};

/// Must be refused. `{dir}` is where the files of `silver` lie, `{data}` and `{metadata}` are two of them.
const REFUSED: &[&str] = &[
    // Names, and how they are spelled.
    "SELECT * FROM rest.silver.orders",
    "SELECT * FROM REST.Silver.ORDERS",
    "SELECT * FROM \"rest\".\"silver\".\"orders\"",
    "SELECT * FROM \"rest.silver.orders\"",
    "SELECT * FROM silver.orders",
    "SELECT * FROM rest . /* gold */ silver -- gold\n . orders",
    "FROM silver.orders",
    "FROM silver.orders SELECT hidden_word",
    "TABLE rest.silver.orders",
    "SELECT * FROM silver.orders AS sales(region, amount, more)",
    "SELECT orders FROM silver.orders",
    "SELECT COLUMNS('hid.*') FROM silver.orders",
    "SELECT count(*) FROM silver.orders",
    "SELECT 1 FROM silver.orders LIMIT 0",
    "SELECT * FROM silver.orders WHERE false",
    "SELECT * FROM silver.orders TABLESAMPLE 10%",
    "SELECT * FROM rest.silver.orders.hidden_word",
    "SELECT rest.silver.orders.hidden_word",
    "SELECT * FROM rest.\"silver\u{1f}orders\".orders",
    "SELECT * FROM rest.\"gold/../silver\".orders",
    "SELECT * FROM rest.gold.\"../../silver/tables/orders\"",
    "SELECT * FROM rest.gold.\"sales?x=/../../../namespaces/silver/tables/orders\"",
    "SELECT * FROM rest.\"gold%2F..%2Fsilver\".orders",
    // Joins and sets.
    "SELECT * FROM gold.sales, silver.orders",
    "SELECT * FROM gold.sales JOIN silver.orders ON true",
    "SELECT region FROM gold.sales LEFT JOIN silver.orders ON false",
    "SELECT * FROM gold.sales POSITIONAL JOIN silver.orders",
    "SELECT * FROM gold.sales s ASOF JOIN silver.orders o ON s.amount >= o.id",
    "SELECT region FROM gold.sales SEMI JOIN silver.orders ON amount > id",
    "SELECT region FROM gold.sales ANTI JOIN silver.orders ON amount = id",
    "SELECT * FROM gold.sales s, LATERAL (SELECT * FROM silver.orders o WHERE o.id < s.amount) x",
    "SELECT region FROM gold.sales UNION ALL SELECT hidden_word FROM silver.orders",
    "SELECT * FROM gold.sales UNION ALL BY NAME SELECT * FROM silver.orders",
    "SELECT region FROM gold.sales EXCEPT SELECT hidden_word FROM silver.orders",
    "SELECT region FROM gold.sales INTERSECT SELECT hidden_word FROM silver.orders",
    // Subqueries in every clause.
    "SELECT (SELECT max(hidden_word) FROM silver.orders)",
    "SELECT region FROM gold.sales WHERE region IN (SELECT hidden_word FROM silver.orders)",
    "SELECT region FROM gold.sales WHERE EXISTS (FROM silver.orders)",
    "SELECT region FROM gold.sales WHERE amount > ALL (SELECT id FROM silver.orders)",
    "SELECT region FROM gold.sales GROUP BY region, (SELECT min(id) FROM silver.orders)",
    "SELECT region FROM gold.sales GROUP BY region HAVING count(*) > (SELECT count(*) FROM silver.orders)",
    "SELECT region FROM gold.sales ORDER BY (SELECT max(hidden_word) FROM silver.orders)",
    "SELECT region FROM gold.sales LIMIT (SELECT count(*) FROM silver.orders)",
    "SELECT region FROM gold.sales LIMIT 1 OFFSET (SELECT count(*) FROM silver.orders)",
    "SELECT region FROM gold.sales QUALIFY row_number() OVER (ORDER BY (SELECT min(id) FROM silver.orders)) = 1",
    "SELECT sum(amount) FILTER (EXISTS (FROM silver.orders)) FROM gold.sales",
    "SELECT CASE WHEN EXISTS (FROM silver.orders) THEN 1 END",
    "SELECT list_transform([1], x -> x + (SELECT count(*) FROM silver.orders))",
    "SELECT ARRAY(SELECT hidden_word FROM silver.orders)",
    "SELECT unnest((SELECT list(hidden_word) FROM silver.orders))",
    "SELECT * FROM range((SELECT count(*) FROM silver.orders))",
    "VALUES ((SELECT max(hidden_word) FROM silver.orders))",
    "SELECT error((SELECT max(hidden_word) FROM silver.orders))",
    "SELECT CAST((SELECT max(hidden_word) FROM silver.orders) AS INTEGER)",
    // Common table expressions, also named like tables.
    "WITH q AS (SELECT * FROM silver.orders) SELECT * FROM q",
    "WITH q AS MATERIALIZED (SELECT * FROM silver.orders) SELECT count(*) FROM q",
    "WITH q AS (SELECT * FROM silver.orders) SELECT 1",
    "WITH orders AS (SELECT * FROM silver.orders) SELECT * FROM orders",
    "WITH orders AS (SELECT 1 AS id) SELECT * FROM silver.orders",
    "WITH silver AS (SELECT 1 AS orders) SELECT * FROM silver.orders",
    "WITH RECURSIVE r AS (SELECT id FROM silver.orders UNION ALL SELECT id + 1 FROM r WHERE id < 3) SELECT * FROM r",
    "WITH sales AS (SELECT * FROM rest.silver.orders) SELECT * FROM sales JOIN gold.sales g ON true",
    // Other shapes of a query.
    "PIVOT silver.orders ON hidden_word USING sum(hidden_amount)",
    "SELECT * FROM (PIVOT silver.orders ON id USING count(*))",
    "UNPIVOT silver.orders ON hidden_amount INTO NAME n VALUE v",
    "SUMMARIZE silver.orders",
    "SELECT * FROM (SUMMARIZE silver.orders)",
    "DESCRIBE silver.orders",
    "DESCRIBE SELECT * FROM silver.orders",
    "SELECT * FROM (DESCRIBE silver.orders)",
    "EXPLAIN SELECT * FROM silver.orders",
    "EXPLAIN ANALYZE SELECT * FROM silver.orders",
    "EXPLAIN (FORMAT json) SELECT * FROM silver.orders",
    "SELECT * FROM silver.orders AT (TIMESTAMP => now())",
    "SELECT * FROM silver.orders AT (VERSION => 1)",
    "SELECT 1; SELECT * FROM silver.orders",
    // Functions that take names or files as text.
    "SELECT * FROM query('SELECT * FROM rest.silver.orders')",
    "SELECT * FROM query_table('rest.silver.orders')",
    "SELECT * FROM query_table(['rest.gold.sales', 'rest.silver.orders'])",
    "SELECT * FROM iceberg_snapshots(rest.silver.orders)",
    "SELECT * FROM iceberg_snapshots('rest.silver.orders')",
    "SELECT * FROM iceberg_metadata(rest.silver.orders)",
    "SELECT * FROM iceberg_scan('{metadata}')",
    "SELECT * FROM iceberg_scan('{dir}/orders', allow_moved_paths = true)",
    "SELECT * FROM read_parquet('{data}')",
    "SELECT * FROM parquet_metadata('{data}')",
    "SELECT * FROM '{data}'",
    "SELECT * FROM '{dir}/*/data/*.parquet'",
    "SELECT * FROM read_text('{metadata}')",
    "SELECT * FROM read_json('{metadata}')",
    "SELECT * FROM glob('{dir}/**')",
    "SELECT * FROM duckdb_tables()",
    "SELECT * FROM duckdb_columns()",
    "SELECT * FROM pragma_table_info('rest.silver.orders')",
    "PRAGMA table_info('rest.silver.orders')",
    "SELECT * FROM pragma_storage_info('rest.silver.orders')",
    "SELECT nextval('rest.silver.orders')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM rest.silver.orders'))",
    "SELECT getvariable('x') FROM silver.orders",
    // Ways to another session, another catalog, other rights.
    "SET search_path = 'rest.silver'",
    "SET VARIABLE x = (SELECT max(hidden_word) FROM silver.orders)",
    "PREPARE p AS SELECT * FROM silver.orders",
    "ATTACH '' AS other (TYPE ICEBERG)",
    "SELECT * FROM lake.main.t",
    "USE lake",
    "CALL pragma_version()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM which_secret('{data}', 'file')",
    "BEGIN",
];

/// Changes of `silver`, and changes that carry it elsewhere; must be refused, as an update too.
const CHANGES: &[&str] = &[
    "INSERT INTO silver.orders VALUES (9, 'x', 1)",
    "INSERT INTO silver.orders SELECT 1, region, amount FROM gold.sales",
    "UPDATE silver.orders SET hidden_amount = 0",
    "DELETE FROM silver.orders",
    "DELETE FROM silver.orders WHERE false",
    "TRUNCATE silver.orders",
    "MERGE INTO silver.orders AS o USING gold.sales AS s ON o.id = s.amount WHEN MATCHED THEN DELETE",
    "MERGE INTO gold.sales AS s USING silver.orders AS o ON o.id = s.amount WHEN NOT MATCHED THEN INSERT VALUES (o.hidden_word, 1)",
    "INSERT INTO gold.sales SELECT hidden_word, id FROM silver.orders",
    "INSERT INTO gold.sales VALUES ('x', (SELECT count(*) FROM silver.orders))",
    "UPDATE gold.sales SET region = (SELECT max(hidden_word) FROM silver.orders)",
    "UPDATE gold.sales SET region = o.hidden_word FROM silver.orders AS o",
    "DELETE FROM gold.sales USING silver.orders AS o WHERE amount > o.id",
    "CREATE TABLE gold.copy AS SELECT * FROM silver.orders",
    "CREATE TABLE silver.mine (a INTEGER)",
    "CREATE TABLE silver.mine AS SELECT 1 AS a",
    "CREATE TEMP TABLE mine AS SELECT * FROM silver.orders",
    "CREATE VIEW gold.v AS SELECT * FROM silver.orders",
    "CREATE OR REPLACE TABLE silver.orders AS SELECT 1 AS a",
    "CREATE MACRO m() AS TABLE SELECT * FROM rest.silver.orders",
    "ALTER TABLE silver.orders ADD COLUMN x INTEGER",
    "ALTER TABLE silver.orders RENAME TO mine",
    "ALTER TABLE silver.orders SET ('x' = 'y')",
    "DROP TABLE silver.orders",
    "DROP SCHEMA silver",
    "DROP SCHEMA silver CASCADE",
    "CREATE SCHEMA rest.mine",
    "COMMENT ON TABLE silver.orders IS 'x'",
    "COPY silver.orders TO '/tmp/never.csv'",
    "COPY (SELECT * FROM silver.orders) TO '/tmp/never.parquet'",
    "COPY silver.orders FROM '{data}'",
    "EXPORT DATABASE '/tmp/never'",
];

/// May be answered, with nothing of `silver` in the answer but its name.
const BLIND: &[&str] = &[
    // Where names are looked up is no right to what is found there.
    "USE rest.silver",
    "SHOW TABLES",
    "FROM orders",
    "USE rest.gold",
    "SET schema = 'silver'",
    "SELECT hidden_word FROM orders",
    "USE rest.main",
    "SHOW ALL TABLES",
    "SHOW TABLES FROM rest.gold",
    "SHOW TABLES FROM rest.silver",
    "SELECT * FROM information_schema.schemata",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM information_schema.columns",
    "SELECT * FROM information_schema.columns WHERE table_schema <> 'gold'",
    "SELECT * FROM information_schema.tables WHERE table_schema LIKE 's%'",
    "SELECT * FROM information_schema.tables t JOIN information_schema.columns c USING (table_name)",
    "SELECT (SELECT string_agg(table_name, ',') FROM information_schema.tables)",
    "SELECT * FROM pg_catalog.pg_tables",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM pg_catalog.pg_attribute",
    "SELECT * FROM pg_catalog.pg_namespace",
    "SELECT * FROM sqlite_master",
    "WITH tables AS (SELECT * FROM information_schema.tables) SELECT * FROM tables",
    "SELECT current_catalog(), current_schema()",
];

/// A house with an analyst who means no good.
struct Scene {
    house: House,
    analyst: Client,
    /// Files of `silver` before it began.
    files: BTreeSet<PathBuf>,
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { BTreeSet::from([path]) }).collect()
}

impl Scene {
    async fn open() -> Self {
        let house = House::open(Setup::lakehouse(), &[]).await;
        let analyst = house.log_in("analyst").await;
        let files = files(&house.place_of("silver"));
        assert!(files.len() >= 4, "{files:?}");
        house.polaris.log().clear();
        Self { house, analyst, files }
    }

    fn filled(&self, sql: &str) -> String {
        let dir = self.house.place_of("silver");
        let of = |ending: &str| {
            let mut fitting = self.files.iter().filter(|file| file.to_string_lossy().ends_with(ending));
            fitting.next_back().expect("a file").display().to_string()
        };
        sql.replace("{dir}", &dir.display().to_string())
            .replace("{data}", &of(".parquet"))
            .replace("{metadata}", &of(".metadata.json"))
    }

    /// What must hold after each try.
    fn unseen(&self, what: &str, told: &str) {
        assert!(!told.contains(MARKER), "{what} gave a row of silver:\n{told}");
        for name in ["hidden_word", "hidden_amount", "orders"] {
            assert!(what.contains(name) || !told.contains(name), "{what} told of {name}:\n{told}");
        }
    }

    fn unchanged(&self, what: &str) {
        assert_eq!(files(&self.house.place_of("silver")), self.files, "{what} has changed the files of silver");
        for call in self.house.polaris.log().calls() {
            let of_analyst = call.principal.as_deref() == Some("analyst") && call.status.is_some_and(|status| status < 300);
            let reads = matches!(
                call.operation,
                Operation::Token
                    | Operation::Config
                    | Operation::ListNamespaces
                    | Operation::LoadNamespace
                    | Operation::NamespaceExists
                    | Operation::ListTables
                    | Operation::LoadTable
                    | Operation::TableExists
                    | Operation::ListViews
            );
            assert!(!of_analyst || reads, "{what}: the catalog has carried out {call:?}");
            let is_silvers = call.target.as_deref().is_some_and(|target| target.starts_with("silver."));
            assert!(!of_analyst || !is_silvers, "{what}: the catalog has answered {call:?}");
        }
        self.house.polaris.log().clear();
    }

    /// A statement on each of the ways by which it can be sent.
    async fn tried(&mut self, sql: &str, by_update: bool) -> Vec<Result<String, Status>> {
        let mut outcomes = vec![query(&mut self.analyst, sql).await.map(|rows| shown(&rows))];
        outcomes.push(self.prepared(sql).await);
        if by_update {
            let rows = self.analyst.execute_update(sql.to_owned(), None).await;
            outcomes.push(rows.map(|rows| format!("{rows} rows")).map_err(status));
        }
        outcomes
    }

    async fn prepared(&mut self, sql: &str) -> Result<String, Status> {
        let mut prepared = self.analyst.prepare(sql.to_owned(), None).await.map_err(status)?;
        let columns = format!("{:?}", prepared.dataset_schema());
        let info = prepared.execute().await;
        let rows = fetched(&mut self.analyst, info).await?;
        prepared.close().await.map_err(status)?;
        Ok(columns + &rows)
    }

    async fn end(self) {
        let mut engineer = self.house.log_in("engineer").await;
        for (sql, expected) in [
            ("SELECT 'n=' || count(*) || ' ' || sum(hidden_amount) || ' ' || min(hidden_word) FROM rest.silver.orders", MARKER),
            ("SELECT 'n=' || count(*) || ' ' || sum(hidden_amount) FROM rest.silver.orders", "n=3 22.5"),
            ("SELECT 'n=' || count(*) || ' ' || sum(amount) FROM rest.gold.sales", "n=2 33"),
            ("SELECT 'n=' || count(*) FROM information_schema.tables", "n=2"),
        ] {
            let rows = shown(&query(&mut engineer, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")));
            assert!(rows.contains(expected), "{sql}:\n{rows}");
        }
        let log = self.house.gateway.log();
        assert!(!log.contains(MARKER) && !log.contains("panicked"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_hostile_statements_find_no_way_round() {
    let mut scene = Scene::open().await;
    let mut wrong = Vec::new();
    let began = std::time::Instant::now();
    for (sql, by_update) in REFUSED.iter().map(|sql| (sql, false)).chain(CHANGES.iter().map(|sql| (sql, true))) {
        let sql = scene.filled(sql);
        for outcome in scene.tried(&sql, by_update).await {
            match outcome {
                Ok(rows) => {
                    scene.unseen(&sql, &rows);
                    wrong.push(format!("{sql} gave {rows}"));
                }
                Err(status) => {
                    scene.unseen(&sql, status.message());
                    let codes = [Code::PermissionDenied, Code::InvalidArgument, Code::NotFound, Code::Unimplemented];
                    if !codes.contains(&status.code()) {
                        wrong.push(format!("{sql}: {:?} {}", status.code(), status.message()));
                    }
                }
            }
        }
        scene.unchanged(&sql);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for sql in BLIND {
        for outcome in scene.tried(sql, false).await {
            let told = outcome.unwrap_or_else(|status| status.message().to_owned());
            scene.unseen(sql, &told);
        }
        scene.unchanged(sql);
    }
    eprintln!("{} statements, prepared and not, in {:?}", REFUSED.len() + CHANGES.len() + BLIND.len(), began.elapsed());
    assert!(REFUSED.len() + CHANGES.len() >= 60);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_as_parameters_and_uploads_find_no_way_round_either() {
    let mut scene = Scene::open().await;
    for sql in [
        "SELECT * FROM information_schema.tables WHERE table_schema = ?",
        "SELECT * FROM information_schema.columns WHERE table_schema = ?",
        "SELECT * FROM query_table(?)",
        "SELECT * FROM query(?)",
        "SELECT * FROM iceberg_snapshots(?)",
        "SELECT * FROM read_parquet(?)",
        "SELECT ?",
    ] {
        for value in ["silver", "rest.silver.orders", "SELECT * FROM rest.silver.orders", &scene.filled("{data}")] {
            let Ok(mut prepared) = scene.analyst.prepare(sql.to_owned(), None).await else { continue };
            let bound = record_batch!(("1", Utf8, [value])).expect("a batch");
            prepared.set_parameters(bound).expect("parameters");
            let info = prepared.execute().await;
            let told = fetched(&mut scene.analyst, info).await.unwrap_or_else(|status| status.message().to_owned());
            scene.unseen(&format!("{sql} with {value}"), &told);
            scene.unchanged(sql);
        }
    }
    for (table, creates) in [("orders", false), ("orders", true), ("mine", true)] {
        let status = ingest(&mut scene.analyst, "silver", table, creates).await.expect_err("no grant");
        assert_eq!(status.code(), Code::PermissionDenied, "{table}: {status}");
        scene.unchanged(table);
    }
    for (pattern, with_columns) in [(None, true), (Some("silver"), true), (Some("s%"), true), (Some("%"), false)] {
        let told = tables(&mut scene.analyst, pattern, with_columns).await;
        scene.unseen("GetTables", &told.unwrap_or_else(|status| status.message().to_owned()));
        scene.unchanged("GetTables");
    }
    scene.end().await;
}

async fn action(client: &mut Client, name: &str, body: Bytes) -> Result<Vec<Bytes>, Status> {
    let results = client.do_action(Action { r#type: name.to_owned(), body }).await.map_err(status)?;
    results.map_ok(|result| result.body).try_collect().await
}

/// `SetSessionOptionsRequest` with one text.
fn option(name: &str, value: &str) -> Bytes {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).expect("short")], bytes].concat();
    let entry = [field(1, name.as_bytes()), field(2, &field(1, value.as_bytes()))].concat();
    field(1, &entry).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engineers_session_gave_out_is_worth_nothing_to_the_analyst() {
    let mut scene = Scene::open().await;
    let mut engineer = scene.house.log_in("engineer").await;
    let sql = "SELECT * FROM rest.silver.orders";
    // A ticket, also of a statement that has run already and of a listing.
    let ticket = engineer.execute(sql.to_owned(), None).await.expect("described").endpoint[0].ticket.clone().expect("a ticket");
    let listing = engineer.execute("SHOW TABLES FROM rest.silver".to_owned(), None).await.expect("described");
    for ticket in [ticket, listing.endpoint[0].ticket.clone().expect("a ticket")] {
        let rows = engineer.do_get(ticket.clone()).await.expect("his own").try_collect::<Vec<_>>().await.expect("rows");
        assert!(shown(&rows).contains(MARKER) || shown(&rows).contains("orders"));
        let outcome = match scene.analyst.do_get(ticket).await {
            Ok(stream) => stream.try_collect::<Vec<_>>().await.map(|rows| shown(&rows)),
            Err(error) => Err(error),
        };
        let error = status(outcome.expect_err("another's ticket"));
        assert!(matches!(error.code(), Code::PermissionDenied | Code::InvalidArgument | Code::Unauthenticated), "{error}");
        scene.unseen("a ticket", error.message());
    }
    // The handle of a prepared statement.
    let request = ActionCreatePreparedStatementRequest { query: sql.to_owned(), transaction_id: None };
    let bodies = action(&mut engineer, "CreatePreparedStatement", request.as_any().encode_to_vec().into()).await.expect("made");
    let made: ActionCreatePreparedStatementResult =
        Any::decode(bodies[0].clone()).expect("a message").unpack().expect("its type").expect("a result");
    let command = CommandPreparedStatementQuery { prepared_statement_handle: made.prepared_statement_handle };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    for (token, works) in [(engineer.token(), true), (scene.analyst.token(), false)] {
        let mut request = Request::new(descriptor.clone());
        let header = format!("Bearer {}", token.expect("a token")).parse().expect("a header");
        request.metadata_mut().insert("authorization", header);
        let info = FlightServiceClient::new(scene.house.gateway.channel().await).get_flight_info(request).await;
        assert_eq!(info.is_ok(), works, "{info:?}");
        if let Err(error) = info {
            assert_eq!(error.code(), Code::NotFound, "{error}");
        }
    }
    // His token with one letter changed, and the analyst's with his in it.
    let (his, own) = (engineer.token().expect("a token").clone(), scene.analyst.token().expect("a token").clone());
    let half = his.len().min(own.len()) / 2;
    let changed = |at: usize| {
        let letter = if his.as_bytes()[at] == b'A' { "B" } else { "A" };
        format!("{}{letter}{}", &his[..at], &his[at + 1..])
    };
    for token in [changed(half), changed(his.len() - 2), changed(2), [&own[..half], &his[half..]].concat()] {
        let mut forger = scene.house.gateway.client().await;
        forger.set_token(token);
        let error = query(&mut forger, sql).await.expect_err("a forged token");
        assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    }
    // Options of his own session.
    for (name, value, is_taken) in
        [("catalog", "lake", false), ("catalog", "silver", false), ("principal", "engineer", false), ("schema", "silver", true)]
    {
        let told = action(&mut scene.analyst, "SetSessionOptions", option(name, value)).await.expect("an answer");
        // An empty answer is one without errors.
        assert_eq!(told[0].is_empty(), is_taken, "{name}={value}: {told:?}");
        let error = query(&mut scene.analyst, "SELECT * FROM orders").await.expect_err("not found by its bare name");
        scene.unseen("orders", error.message());
    }
    scene.unchanged("what was stolen");
    scene.end().await;
}
