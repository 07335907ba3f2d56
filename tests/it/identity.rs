//! Owns what each caller may see and do through one gateway before a catalog with principals and grants: an analyst, an engineer and
//! strangers, each by the catalog's own log-in. Refuses to test the relay by itself (`upstreams`) and the stand-in (`polaris`).

mod hostile;
mod together;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, record_batch};
use arrow::util::pretty::pretty_format_batches;
use arrow_flight::FlightInfo;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetTables, CommandStatementIngest, TableDefinitionOptions};
use arrow_flight::sql::{TableExistsOption, TableNotExistOption};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{TryStreamExt, stream};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{Gateway, query, status};
use crate::stand_in::{Grant, HOME, PrincipalSetup, Privilege, Setup, StandIn};

pub type Client = FlightSqlServiceClient<Channel>;

/// Stands in every row of `silver.orders`, and in one piece nowhere else.
pub const MARKER: &str = "mk-4c1e9b77";

/// How old what the gateway knows may be, in these tests.
pub const STALENESS: Duration = Duration::from_millis(300);

/// A stand-in for Polaris and a gateway that knows no credential of its own for it.
pub struct House {
    pub polaris: StandIn,
    pub gateway: Gateway,
}

impl House {
    /// With tables `gold.sales` and `silver.orders`, made by the engineer.
    pub async fn open(setup: Setup, set: &[&str]) -> Self {
        let house = Self::empty(setup, set).await;
        let mut engineer = house.log_in("engineer").await;
        let (front, back) = MARKER.split_at(5);
        for sql in [
            "CREATE TABLE rest.gold.sales (region VARCHAR, amount BIGINT)".to_owned(),
            "INSERT INTO rest.gold.sales VALUES ('north', 11), ('south', 22)".to_owned(),
            "CREATE TABLE rest.silver.orders (id BIGINT, hidden_word VARCHAR, hidden_amount DOUBLE)".to_owned(),
            format!("INSERT INTO rest.silver.orders SELECT i, '{front}' || '{back}', 7.5 FROM range(3) r(i)"),
        ] {
            query(&mut engineer, &sql).await.unwrap_or_else(|e| panic!("{sql}: {e}\n{}", house.gateway.log()));
        }
        house
    }

    /// Without tables.
    pub async fn empty(setup: Setup, set: &[&str]) -> Self {
        let polaris = StandIn::start(setup).await;
        let base = polaris.realm(HOME).warehouse("lakehouse").expect("a warehouse").base().to_owned();
        let catalog = format!(
            "catalogs.rest={{type: rest, uri: '{}', warehouse: lakehouse, allowed_locations: ['{base}']}}",
            polaris.uri()
        );
        let staleness = format!("relay.max_staleness={}ms", STALENESS.as_millis());
        let fixed = ["auth.mode=polaris", &catalog, &staleness, "relay.negative_ttl=100ms", "auth.remember_logins=500ms"];
        let pairs: Vec<&str> = fixed.into_iter().chain(set.iter().copied()).collect();
        let gateway = Gateway::with(&pairs);
        Self { polaris, gateway }
    }

    /// Whoever has these as user name and password.
    pub async fn try_log_in(&self, id: &str, secret: &str) -> Result<Client, Status> {
        let channel = self.gateway.channel().await;
        let mut request = tonic::Request::new(stream::empty());
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}")));
        request.metadata_mut().insert("authorization", basic.parse().expect("a header"));
        let answer = FlightServiceClient::new(channel.clone()).handshake(request).await?;
        let token = answer.metadata().get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let mut client = FlightSqlServiceClient::new(channel);
        client.set_token(token.expect("a token").to_owned());
        Ok(client)
    }

    /// A principal in a session of its own.
    pub async fn log_in(&self, principal: &str) -> Client {
        let (id, secret) = self.polaris.realm(HOME).credentials(principal).expect("a principal");
        self.try_log_in(&id, &secret).await.unwrap_or_else(|e| panic!("{principal}: {e}\n{}", self.gateway.log()))
    }

    /// Where the files of a schema lie.
    pub fn place_of(&self, schema: &str) -> PathBuf {
        let base = self.polaris.realm(HOME).warehouse("lakehouse").expect("a warehouse").base().to_owned();
        Path::new(base.trim_start_matches("file://")).join(schema)
    }

    async fn until_stale(&self) {
        tokio::time::sleep(STALENESS + Duration::from_millis(50)).await;
    }
}

/// A table as people read it.
pub fn shown(rows: &[RecordBatch]) -> String {
    pretty_format_batches(rows).expect("a table").to_string()
}

/// What an answer to a metadata call holds.
pub async fn fetched(client: &mut Client, info: Result<FlightInfo, arrow_flight::error::FlightError>) -> Result<String, Status> {
    let info = info.map_err(status)?;
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let rows: Vec<RecordBatch> = client.do_get(ticket).await.map_err(status)?.try_collect().await.map_err(status)?;
    Ok(shown(&rows))
}

/// Tables by the metadata call.
pub async fn tables(client: &mut Client, schema: Option<&str>, with_columns: bool) -> Result<String, Status> {
    let command = CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: schema.map(str::to_owned),
        table_name_filter_pattern: None,
        table_types: Vec::new(),
        include_schema: with_columns,
    };
    let info = client.get_tables(command).await;
    fetched(client, info).await
}

/// Rows that go into a table as an upload; gives what the server says.
pub async fn ingest(client: &mut Client, schema: &str, table: &str, creates: bool) -> Result<i64, Status> {
    let missing = if creates { TableNotExistOption::Create } else { TableNotExistOption::Fail };
    let options = TableDefinitionOptions { if_not_exist: missing.into(), if_exists: TableExistsOption::Append.into() };
    let command = CommandStatementIngest {
        table: table.to_owned(),
        schema: Some(schema.to_owned()),
        catalog: Some("rest".to_owned()),
        table_definition_options: Some(options),
        ..CommandStatementIngest::default()
    };
    // The columns of tables that are there.
    let rows = if table == "sales" { record_batch!(("amount", Int64, [1, 2])) } else { record_batch!(("id", Int64, [1, 2])) };
    let rows = rows.expect("a batch");
    client.execute_ingest(command, stream::iter([Ok(rows)])).await.map_err(status)
}

async fn text(client: &mut Client, sql: &str) -> Result<String, Status> {
    Ok(shown(&query(client, sql).await?))
}

/// A refusal that must come, with all of these in its words and nothing secret.
#[track_caller]
fn refused(what: &str, outcome: Result<String, Status>, code: Code, parts: &[&str]) {
    let status = match outcome {
        Ok(rows) => panic!("{what} gave\n{rows}"),
        Err(status) => status,
    };
    assert_eq!(status.code(), code, "{what}: {status}");
    for part in parts {
        assert!(status.message().contains(part), "{what}: {part:?} is not in: {}", status.message());
    }
    for secret in ["analyst-secret", "engineer-secret", "eyJ", MARKER] {
        assert!(!status.message().contains(secret), "{what}: {status}");
    }
}

const HELP: &str = "an administrator of the catalog can grant it";

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_what_the_grants_say() {
    let house = House::open(Setup::lakehouse(), &[]).await;
    let (mut analyst, mut engineer) = (house.log_in("analyst").await, house.log_in("engineer").await);
    for client in [&mut analyst, &mut engineer] {
        assert!(text(client, "SELECT sum(amount) FROM rest.gold.sales").await.expect("a sum").contains("33"));
        assert!(text(client, "DESCRIBE rest.gold.sales").await.expect("columns").contains("region"));
        assert!(text(client, "EXPLAIN SELECT * FROM rest.gold.sales").await.is_ok());
    }
    assert!(text(&mut engineer, "SELECT * FROM rest.silver.orders").await.expect("rows").contains(MARKER));
    let denied = text(&mut analyst, "SELECT * FROM rest.silver.orders").await.expect_err("no grant");
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(
        denied.message(),
        "catalog \"rest\" does not allow it: principal \"analyst\" lacks TABLE_READ_DATA on table \"silver.orders\" (principal \
         roles: analysts; grants by way of: analysts, gold_reader); an administrator of the catalog can grant it"
    );
    for sql in [
        "SELECT count(*) FROM rest.silver.orders",
        "EXPLAIN SELECT * FROM rest.silver.orders",
        "EXPLAIN ANALYZE SELECT * FROM rest.silver.orders",
        "SELECT * FROM rest.silver.orders AT (TIMESTAMP => now())",
        "SUMMARIZE rest.silver.orders",
        "DESCRIBE SELECT * FROM rest.silver.orders",
    ] {
        let parts = ["catalog \"rest\"", "principal \"analyst\"", "TABLE_READ_DATA", "\"silver.orders\"", HELP];
        refused(sql, text(&mut analyst, sql).await, Code::PermissionDenied, &parts);
    }
    let parts = ["catalog \"rest\"", "principal \"analyst\"", "\"silver.orders\"", HELP];
    refused("DESCRIBE", text(&mut analyst, "DESCRIBE rest.silver.orders").await, Code::PermissionDenied, &parts);
    refused("a table that is not there", text(&mut analyst, "FROM rest.gold.none").await, Code::NotFound, &["gold.none", "rest"]);
    // What is not of the caller's realm is not there.
    for client in [&mut analyst, &mut engineer] {
        let outcome = text(client, "SELECT * FROM lake.main.t").await;
        let status = outcome.expect_err("another realm's catalog");
        assert!(matches!(status.code(), Code::NotFound | Code::InvalidArgument), "{status}");
        assert!(!status.message().contains(&*house.gateway.dir.path().to_string_lossy()), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_told_that_the_catalog_does_not_know_them_and_nothing_else() {
    let house = House::open(Setup::lakehouse(), &["pool.spares=0"]).await;
    let before = house.gateway.workers().len();
    for (id, secret) in [("nobody", "nothing"), ("analyst-client-id", "guessed-pw-1"), ("analyst", "analyst-secret"), ("", "")] {
        let error = house.try_log_in(id, secret).await.map(drop).expect_err("a stranger");
        assert_eq!(error.code(), Code::Unauthenticated, "{id}: {error}");
        assert!(secret.is_empty() || !error.message().contains(secret), "{error}");
        assert!(!error.message().contains("engineer"), "{error}");
    }
    let mut nobody = house.gateway.client().await;
    let error = query(&mut nobody, "SELECT 1").await.expect_err("nothing was shown");
    assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    nobody.set_token("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJlbmdpbmVlciJ9.AAAA".to_owned());
    let error = query(&mut nobody, "SELECT 1").await.expect_err("a made-up token");
    assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    assert!(!error.message().contains("eyJ"), "{error}");
    assert_eq!(house.gateway.workers().len(), before, "nobody has got a worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_hold_what_the_grants_say() {
    let house = House::open(Setup::lakehouse(), &[]).await;
    let (mut analyst, mut engineer) = (house.log_in("analyst").await, house.log_in("engineer").await);
    for (client, all) in [(&mut analyst, false), (&mut engineer, true)] {
        let info = client.get_catalogs().await;
        let catalogs = fetched(client, info).await.expect("catalogs");
        assert!(catalogs.contains("rest") && !catalogs.contains("lake "), "{catalogs}");
        let schemas = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None };
        let info = client.get_db_schemas(schemas).await;
        let schemas = fetched(client, info).await.expect("schemas");
        // NAMESPACE_LIST is granted on the whole catalog.
        assert!(["bronze", "silver", "gold"].iter().all(|name| schemas.contains(name)), "{schemas}");
        for with_columns in [false, true] {
            let listed = tables(client, None, with_columns).await.expect("tables");
            assert!(listed.contains("sales"), "{listed}");
            assert_eq!(listed.contains("orders"), all, "{listed}");
            assert!(tables(client, Some("g%"), with_columns).await.expect("tables").contains("sales"));
        }
        for sql in [
            "SELECT table_schema, table_name FROM information_schema.tables",
            "SELECT * FROM information_schema.columns",
            "SELECT * FROM pg_catalog.pg_tables",
            "SELECT relname FROM pg_catalog.pg_class",
            "SELECT attname, relname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON a.attrelid = c.oid",
            "SHOW ALL TABLES",
        ] {
            let listed = text(client, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            assert!(listed.contains("sales"), "{sql}:\n{listed}");
            assert_eq!(listed.contains("orders") || listed.contains("hidden_"), all, "{sql}:\n{listed}");
        }
        assert!(text(client, "SHOW TABLES FROM rest.gold").await.expect("tables").contains("sales"));
    }
    // What may not be listed is not in a listing, also where it is asked for by its name.
    assert!(!tables(&mut analyst, Some("silver"), false).await.expect("an empty list").contains("orders"));
    assert!(!text(&mut analyst, "SHOW TABLES FROM rest.silver").await.expect("an empty list").contains("orders"));
    assert!(tables(&mut engineer, Some("silver"), true).await.expect("tables").contains("orders"));
    assert!(text(&mut engineer, "SHOW TABLES FROM rest.silver").await.expect("tables").contains("orders"));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_need_grants_and_refusals_name_them() {
    let house = House::open(Setup::lakehouse(), &[]).await;
    let (mut analyst, mut engineer) = (house.log_in("analyst").await, house.log_in("engineer").await);
    for (sql, lacking) in [
        ("CREATE TABLE rest.gold.mine (a INTEGER)", "TABLE_CREATE"),
        ("CREATE TABLE rest.gold.mine AS SELECT 1 AS a", "TABLE_CREATE"),
        ("CREATE SCHEMA rest.mine", "NAMESPACE_CREATE"),
        ("INSERT INTO rest.gold.sales VALUES ('x', 1)", "TABLE_"),
        ("UPDATE rest.gold.sales SET amount = 0", "TABLE_"),
        ("DELETE FROM rest.gold.sales WHERE amount > 0", "TABLE_"),
        ("TRUNCATE rest.gold.sales", "TABLE_"),
        ("ALTER TABLE rest.gold.sales ADD COLUMN c INTEGER", "TABLE_"),
        ("ALTER TABLE rest.gold.sales RENAME TO other", "TABLE_"),
        ("DROP TABLE rest.gold.sales", "TABLE_DROP"),
        ("DROP SCHEMA rest.bronze", "NAMESPACE_DROP"),
        ("INSERT INTO rest.silver.orders VALUES (9, 'x', 1)", "TABLE_"),
        ("DROP TABLE rest.silver.orders", "TABLE_"),
    ] {
        let parts = ["catalog \"rest\"", "principal \"analyst\"", lacking, HELP];
        refused(sql, text(&mut analyst, sql).await, Code::PermissionDenied, &parts);
        let updated = analyst.execute_update(sql.to_owned(), None).await;
        refused(sql, updated.map(|n| n.to_string()).map_err(status), Code::PermissionDenied, &parts);
    }
    for (schema, table, creates) in [("gold", "sales", false), ("gold", "mine", true), ("silver", "orders", false)] {
        let parts = ["catalog \"rest\"", "principal \"analyst\"", "TABLE_", HELP];
        let outcome = ingest(&mut analyst, schema, table, creates).await.map(|rows| rows.to_string());
        refused(&format!("an upload to {schema}.{table}"), outcome, Code::PermissionDenied, &parts);
    }
    assert!(text(&mut engineer, "SELECT sum(amount), count(*) FROM rest.gold.sales").await.expect("a sum").contains("33"));
    assert!(text(&mut engineer, "SELECT 'n=' || count(*) FROM rest.silver.orders").await.expect("a number").contains("n=3"));
    for sql in [
        "CREATE TABLE rest.bronze.own AS SELECT 1::BIGINT AS id",
        "INSERT INTO rest.bronze.own VALUES (2)",
        "UPDATE rest.bronze.own SET id = 3 WHERE id = 2",
        "DELETE FROM rest.bronze.own WHERE id = 3",
        "ALTER TABLE rest.bronze.own ADD COLUMN more VARCHAR",
        "DROP TABLE rest.bronze.own",
    ] {
        text(&mut engineer, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}\n{}", house.gateway.log()));
    }
    assert_eq!(ingest(&mut engineer, "bronze", "uploaded", true).await.expect("an upload"), 2);
}

fn gold_reading() -> Grant {
    Grant::on_namespace(Privilege::TableReadData, "gold")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_grant_is_gone_within_the_staleness_bound_for_prepared_statements_too() {
    let house = House::open(Setup::lakehouse(), &[]).await;
    let realm = house.polaris.realm(HOME);
    let mut analyst = house.log_in("analyst").await;
    let sql = "SELECT * FROM rest.gold.sales";
    let prepared = |mut client: Client| async move { client.prepare("SELECT * FROM rest.gold.sales".to_owned(), None).await };
    let mut before = prepared(analyst.clone()).await.expect("prepared");
    let info = before.execute().await;
    assert!(fetched(&mut analyst, info).await.expect("rows").contains("north"));
    // Described, and not yet asked for.
    let described = analyst.execute(sql.to_owned(), None).await.expect("a description");

    assert!(realm.revoke("lakehouse", "gold_reader", &gold_reading()));
    house.until_stale().await;
    let parts = ["principal \"analyst\"", "TABLE_READ_DATA", "\"gold.sales\"", HELP];
    refused("a ticket from before", fetched(&mut analyst, Ok(described)).await, Code::PermissionDenied, &parts);
    refused("a statement", text(&mut analyst, sql).await, Code::PermissionDenied, &parts);
    let info = before.execute().await;
    refused("a statement prepared before", fetched(&mut analyst, info).await, Code::PermissionDenied, &parts);
    let outcome = prepared(analyst.clone()).await.map(|_| String::new()).map_err(status);
    refused("a statement prepared after", outcome, Code::PermissionDenied, &parts);
    assert!(!tables(&mut analyst, None, true).await.is_ok_and(|listed| listed.contains("region")), "columns are of the table");

    realm.grant("lakehouse", "gold_reader", gold_reading());
    house.until_stale().await;
    let info = before.execute().await;
    assert!(fetched(&mut analyst, info).await.expect("rows again").contains("north"));

    realm.set_use("analysts", "lakehouse", "gold_reader", false);
    house.until_stale().await;
    let parts = ["principal \"analyst\"", "principal roles: analysts", HELP];
    refused("without its catalog role", text(&mut analyst, sql).await, Code::PermissionDenied, &parts);
    realm.set_role("analyst", "analysts", false);
    house.polaris.realm(HOME).set_use("analysts", "lakehouse", "gold_reader", true);
    house.until_stale().await;
    refused("without its principal role", text(&mut analyst, sql).await, Code::PermissionDenied, &["principal \"analyst\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_and_a_deactivated_principal_end_what_was_logged_in_with_them() {
    let house = House::open(Setup::lakehouse().with_token_lifetime(3), &[]).await;
    let realm = house.polaris.realm(HOME);
    let sql = "SELECT * FROM rest.gold.sales";
    let mut old = house.log_in("analyst").await;
    assert!(text(&mut old, sql).await.expect("rows").contains("north"));
    realm.rotate_secret("analyst", "another-pw-77");
    let mut new = house.try_log_in("analyst-client-id", "another-pw-77").await.expect("the new secret");
    assert!(text(&mut new, sql).await.expect("rows").contains("north"));
    // Longer than a log-in is remembered, and than the token lives that was had with the old secret.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let error = house.try_log_in("analyst-client-id", "analyst-secret").await.map(drop).expect_err("the old secret");
    assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let parts = ["catalog \"rest\"", "log in again"];
    refused("a session by the old secret", text(&mut old, sql).await, Code::Unauthenticated, &parts);
    assert!(text(&mut new, sql).await.expect("rows").contains("north"), "the new one is not shut out by the old one");

    realm.set_active("analyst", false);
    house.until_stale().await;
    refused("a deactivated principal", text(&mut new, sql).await, Code::Unauthenticated, &parts);
    let listed = tables(&mut new, None, false).await;
    refused("its listings", listed, Code::Unauthenticated, &parts);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let error = house.try_log_in("analyst-client-id", "another-pw-77").await.map(drop).expect_err("it is not active");
    assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    let mut engineer = house.log_in("engineer").await;
    assert!(text(&mut engineer, sql).await.expect("others go on").contains("north"));
    realm.set_active("analyst", true);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut back = house.try_log_in("analyst-client-id", "another-pw-77").await.expect("it is active again");
    assert!(text(&mut back, sql).await.expect("rows").contains("north"));
}

/// Of each statement in the query log, its principal and its worker.
fn workers_by_principal(log: &str) -> BTreeMap<String, BTreeSet<String>> {
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!(" {name}="))?.1;
        Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
    };
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains(" statement=")) {
        if let (Some(principal), Some(worker)) = (field(line, "principal"), field(line, "worker")) {
            found.entry(principal).or_default().insert(worker);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_of_one_credential_is_never_anothers() {
    let mut setup = Setup::lakehouse();
    setup.realms[0].principals.push(PrincipalSetup::named("second", "analysts"));
    // Fewer places than credentials, so that workers make room for others all the time.
    let set = ["pool.max_workers=2", "pool.exclusive_per_key=1", "pool.turn=200ms", "pool.queue_timeout=60s"];
    let house = House::open(setup, &set).await;
    let end = Instant::now() + Duration::from_secs(4);
    let clients = ["analyst", "analyst", "engineer", "engineer", "second"].map(async |principal| {
        let mut client = house.log_in(principal).await;
        let mut runs = 0;
        // However slow the machine is, each has got a worker more than once.
        while Instant::now() < end || runs < 3 {
            let rows = text(&mut client, "SELECT * FROM rest.gold.sales").await;
            assert!(rows.unwrap_or_else(|e| panic!("{principal}: {e}")).contains("north"));
            runs += 1;
        }
        runs
    });
    let runs = futures::future::join_all(clients).await;
    let used = workers_by_principal(&house.gateway.log());
    eprintln!("{runs:?} statements; workers: {used:?}");
    assert_eq!(used.len(), 3, "{used:?}");
    for (principal, own) in &used {
        assert!(!own.is_empty());
        for (other, theirs) in used.iter().filter(|(other, _)| *other != principal) {
            assert!(own.is_disjoint(theirs), "{principal} and {other} share a worker: {used:?}");
        }
    }
}
