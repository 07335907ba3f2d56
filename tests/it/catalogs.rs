//! Several catalogs behind one gateway: in two tiers of config, for the same project in several environments; where sessions begin, by
//! role, and what switches them; statements that reach into more than one. Refuses to test what one catalog does by itself.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tonic::Code;

use crate::forge::{Forged, Part, made_by_gateway, register, uri};
use crate::harness::{Gateway, Program, ReferenceRest, polynya, query, root, succeeded, user_ada};
use crate::s3_front::minio::{KEY, Minio, SECRET};
use crate::sessions::{log_in, run, with_token};
use crate::stand_in::{HOME, Setup, StandIn, WarehouseSetup};

/// A stand-in with two warehouses, `sales` and `crm`, which its principal `engineer` may write.
async fn polaris() -> StandIn {
    let polaris = StandIn::start(Setup::lakehouse()).await;
    let realm = polaris.realm(HOME);
    for warehouse in ["sales", "crm"] {
        realm.add_warehouse(WarehouseSetup::three_layers(warehouse), polaris.scratch()).await.expect("a warehouse");
        realm.set_use("engineers", warehouse, "content_writer", true);
    }
    polaris
}

fn base(polaris: &StandIn, warehouse: &str) -> String {
    polaris.realm(HOME).warehouse(warehouse).expect("a warehouse").base().to_owned()
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("a file");
    path
}

/// The platform of an environment with a Polaris. Its secret is in the environment variable `POLARIS_SECRET`.
fn platform(polaris: &StandIn, dir: &Path) -> PathBuf {
    let (client_id, _) = polaris.realm(HOME).credentials("engineer").expect("a principal");
    // The warehouses' directories lie in one, as the folders of a bucket.
    let all = base(polaris, "sales").trim_end_matches('/').strip_suffix("/sales").expect("a directory").to_owned();
    let text = format!(
        "platform:
  endpoints:
    lakehouse:
      type: rest
      uri: {}
      credentials: {{ type: oauth2, client_id: {client_id}, client_secret: {{ env: POLARIS_SECRET }} }}
  layers:
    all: {{ location: '{all}' }}
    sales: {{ location: '{}' }}
",
        polaris.uri(),
        base(polaris, "sales"),
    );
    write(dir, "platform-prod.yaml", &text)
}

fn secret(polaris: &StandIn) -> String {
    polaris.realm(HOME).credentials("engineer").expect("a principal").1
}

const PROJECT: &str = "
catalogs:
  sales: { endpoint: lakehouse, warehouse: sales, layers: [sales] }
  crm: { endpoint: lakehouse, warehouse: crm, layers: [all/crm] }
default_catalog: sales
default_schema: gold
";

const DEV: &str = "platform: { endpoints: { lakehouse: { type: embedded, path: lakes } }, layers: { all: {}, sales: {} } }";

/// What a project's job does, wherever it runs.
async fn job(gateway: &Gateway, rows: u32) -> String {
    for sql in [
        "CREATE SCHEMA IF NOT EXISTS sales.gold",
        "CREATE SCHEMA IF NOT EXISTS crm.gold",
        "CREATE TABLE crm.gold.customers AS SELECT i AS id, 'customer ' || i AS name FROM range(3) r(i)",
        &format!("CREATE TABLE orders AS SELECT i AS id, i % 3 AS customer, i * 10 AS amount FROM range({rows}) r(i)"),
        "INSERT INTO orders VALUES (1000, 2, 5)",
    ] {
        gateway.run(sql).await;
    }
    let told = "SELECT string_agg(name || '=' || total, ' ' ORDER BY name) FROM (SELECT name, sum(amount)::BIGINT AS total FROM orders \
                JOIN crm.gold.customers c ON c.id = customer GROUP BY name)";
    gateway.value(told).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_project_runs_in_every_environment() {
    let dir = TempDir::new().expect("a directory");
    let project = write(dir.path(), "project.yaml", PROJECT);
    let dev = Gateway::of_files(&[project.clone(), write(dir.path(), "platform-dev.yaml", DEV)], &[], &[]);
    assert_eq!(job(&dev, 3).await, "customer 0=0 customer 1=10 customer 2=25");
    for warehouse in ["sales", "crm"] {
        assert!(
            dir.path().join("lakes").join(warehouse).join("catalog.db").exists(),
            "{warehouse} lies beside the file that says so"
        );
    }

    let polaris = polaris().await;
    let (platform, secret) = (platform(&polaris, dir.path()), secret(&polaris));
    let prod = Gateway::of_files(&[project.clone(), platform.clone()], &[], &[("POLARIS_SECRET", &secret)]);
    assert_eq!(job(&prod, 6).await, "customer 0=30 customer 1=50 customer 2=75");
    assert_eq!(dev.value("SELECT count(*) FROM orders").await, "4");
    assert_eq!(prod.value("SELECT count(*) FROM sales.gold.orders").await, "7");
    assert_eq!(dev.value("SHOW DATABASES").await, prod.value("SHOW DATABASES").await);

    // What the catalogs came to is shown, and no secret.
    let mut check = polynya();
    check.arg("check-config").arg("--config").arg(&platform).arg("--config").arg(&project).env("POLARIS_SECRET", &secret);
    let output = check.output().expect("the polynya binary");
    let shown = succeeded(&check, output);
    assert!(!shown.contains(&secret), "{shown}");
    let shown: serde_json::Value = serde_saphyr::from_str(&shown).expect("YAML");
    let crm = &shown["catalogs"]["crm"];
    assert_eq!((&crm["uri"], &crm["warehouse"]), (&polaris.uri().into(), &"crm".into()));
    assert_eq!(crm["credentials"]["client_secret"]["env"], "POLARIS_SECRET");
    assert_eq!(crm["allowed_locations"], serde_json::json!([base(&polaris, "crm")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_a_developers_machine_runs_as_it_is() {
    let dir = TempDir::new().expect("a directory");
    let copied = ["example-project.yaml", "example-platform-dev.yaml"].map(|name| {
        let to = dir.path().join(name);
        fs::copy(root().join("config").join(name), &to).expect("a copy");
        to
    });
    let gateway = Gateway::of_files(&copied, &[], &[]);
    gateway.run("CREATE SCHEMA crm.tickets").await;
    gateway.run("CREATE TABLE crm.tickets.open AS SELECT 7 AS n").await;
    assert_eq!(gateway.value("SELECT n FROM crm.tickets.open").await, "7");
    assert_eq!(gateway.value("SELECT current_catalog()").await, "sales");
}

/// Gateway with the catalogs `dev` and `staging`, embedded, and `prod` at a Polaris.
async fn three() -> (Gateway, StandIn, TempDir) {
    let (polaris, dir) = (polaris().await, TempDir::new().expect("a directory"));
    let project = "
platform: { endpoints: { local: { type: embedded, path: lakes } } }
catalogs:
  dev: { endpoint: local }
  staging: { endpoint: local }
  prod: { endpoint: lakehouse, warehouse: sales, layers: [sales] }
default_catalog: dev
default_schema: gold
";
    let files = [write(dir.path(), "project.yaml", project), platform(&polaris, dir.path())];
    let gateway = Gateway::of_files(&files, &[], &[("POLARIS_SECRET", &secret(&polaris))]);
    for (catalog, number) in [("dev", 1), ("staging", 2), ("prod", 3)] {
        gateway.run(&format!("CREATE SCHEMA IF NOT EXISTS {catalog}.gold")).await;
        gateway.run(&format!("CREATE TABLE {catalog}.gold.t AS SELECT i AS id, {number} * i AS n FROM range(1, 4) r(i)")).await;
    }
    (gateway, polaris, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_reads_any_catalogs_and_writes_one() {
    let (gateway, _polaris, _dir) = three().await;
    let joined = "SELECT sum(d.n + s.n + p.n)::BIGINT FROM t d JOIN staging.gold.t s USING (id) JOIN prod.gold.t p USING (id)";
    assert_eq!(gateway.value(joined).await, "36");
    let rows =
        async |table: &str| gateway.value(&format!("SELECT string_agg(id || ':' || n, ' ' ORDER BY id, n) FROM {table}")).await;
    // Into each from another, embedded or not, by every statement that reads and writes.
    for (into, from) in [("prod", "dev"), ("dev", "staging"), ("staging", "prod")] {
        let (t, u) = (format!("{into}.gold.copy"), format!("{from}.gold.t"));
        gateway.run(&format!("CREATE TABLE {t} AS SELECT * FROM {u} WHERE id < 3")).await;
        let factor = if from == "dev" {
            1
        } else if from == "staging" {
            2
        } else {
            3
        };
        assert_eq!(rows(&t).await, format!("1:{factor} 2:{}", 2 * factor));
        gateway.run(&format!("INSERT INTO {t} SELECT id, n FROM {u} WHERE id = 3")).await;
        gateway.run(&format!("UPDATE {t} SET n = o.n * 100 FROM {u} o WHERE copy.id = o.id AND o.id = 1")).await;
        gateway.run(&format!("DELETE FROM {t} USING {u} o WHERE copy.id = o.id AND o.id = 2")).await;
        assert_eq!(rows(&t).await, format!("1:{} 3:{}", 100 * factor, 3 * factor), "{into} from {from}");
        let merge = format!(
            "MERGE INTO {t} USING {u} o ON copy.id = o.id WHEN MATCHED THEN UPDATE SET n = o.n WHEN NOT MATCHED THEN INSERT VALUES (o.id, o.n)"
        );
        gateway.run(&merge).await;
        assert_eq!(rows(&t).await, rows(&u).await, "{into} from {from}");
    }
    for (catalog, number) in [("dev", 1), ("staging", 2), ("prod", 3)] {
        let untouched = format!("1:{number} 2:{} 3:{}", 2 * number, 3 * number);
        assert_eq!(rows(&format!("{catalog}.gold.t")).await, untouched, "what was read only");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_write_two_catalogs_is_refused_and_writes_none() {
    let (gateway, _polaris, _dir) = three().await;
    for (sql, expected) in [
        ("ALTER TABLE dev.gold.t RENAME TO staging.gold.u", "moving a table from catalog dev to catalog staging"),
        ("ALTER TABLE dev.gold.t RENAME TO PROD.u", "moving a table from catalog dev to catalog prod"),
        ("INSERT INTO dev.gold.t VALUES (9, 9); INSERT INTO prod.gold.t VALUES (9, 9)", "one statement at a time"),
        ("DROP TABLE dev.gold.t, prod.gold.t", "dropping several things at once"),
        ("TRUNCATE dev.gold.t, prod.gold.t", "TRUNCATE"),
        ("WITH w AS (INSERT INTO dev.gold.t VALUES (9, 9) RETURNING id) INSERT INTO prod.gold.t SELECT id, id FROM w", ""),
        ("BEGIN", "transactions are not supported yet"),
    ] {
        let refused = gateway.query(sql).await.expect_err(sql);
        assert!(matches!(refused.code(), Code::InvalidArgument | Code::Unimplemented), "{sql}: {refused}");
        assert!(refused.message().contains(expected), "{sql}: {refused}");
    }
    for catalog in ["dev", "staging", "prod"] {
        assert_eq!(gateway.value(&format!("SELECT count(*) FROM {catalog}.gold.t")).await, "3", "{catalog}");
    }
}

/// A gateway with the embedded catalogs `lake`, `sales` and `crm` for users of one password: `ada` is an analyst, `bob` of support, `cy`
/// a guest.
fn with_roles(dir: &Path) -> Gateway {
    let [_, users] = user_ada();
    let ada = users.split_once("=[").expect("a list").1.trim_end_matches(']').to_owned();
    let others = ["bob", "cy"].map(|name| ada.replace("name: ada", &format!("name: {name}")));
    let text = format!(
        "
catalogs:
  lake: {{ type: embedded, path: lake }}
  sales: {{ type: embedded, path: sales }}
  crm: {{ type: embedded, path: crm }}
roles:
  analyst: {{ catalogs: {{ lake: {{}}, sales: {{}}, crm: {{}} }}, default_catalog: sales, default_schema: gold }}
  support: {{ catalogs: {{ lake: {{}}, crm: {{}} }}, default_schema: tickets }}
  guest: {{ catalogs: {{ sales: {{}}, crm: {{}} }} }}
auth:
  mode: mapped
  users: [{ada}, {}]
  mappings: [{{ user: ada, role: analyst }}, {{ user: bob, role: support }}, {{ user: cy, role: guest }}]
",
        others.join(", ")
    );
    Gateway::of_files(&[write(dir, "config.yaml", &text)], &[], &[])
}

const WHERE: &str = "SELECT current_catalog() || '.' || current_schema()";

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_where_its_role_says_and_goes_where_it_is_told() {
    let dir = TempDir::new().expect("a directory");
    let gateway = with_roles(dir.path());
    let token = async |user: &str| log_in(&gateway, user, "correct horse").await.expect("a session");
    let (ada, bob, cy) = (token("ada").await, token("bob").await, token("cy").await);
    let is_at = async |token: &str, place: &str| assert_eq!(run(&gateway, token, WHERE).await.expect("a place"), place);
    is_at(&ada, "sales.gold").await;
    is_at(&bob, "lake.tickets").await;
    // The role does not open the default catalog.
    is_at(&cy, "crm.main").await;

    // Names without a catalog and a schema are looked up there.
    let mut client = with_token(&gateway, &ada).await;
    for sql in
        ["CREATE SCHEMA gold", "CREATE TABLE t AS SELECT 1 AS n", "CREATE SCHEMA crm.tickets", "CREATE SCHEMA lake.tickets"]
    {
        query(&mut client, sql).await.expect(sql);
    }
    query(&mut client, "CREATE TABLE crm.tickets.t AS SELECT 2 AS n").await.expect("a table");
    assert_eq!(run(&gateway, &ada, "SELECT n FROM t").await.expect("a row"), "1");
    assert_eq!(run(&gateway, &cy, "SELECT n FROM sales.gold.t").await.expect("a row"), "1");

    // USE switches this session, and no other of the same user.
    query(&mut client, "USE crm.tickets").await.expect("a schema");
    assert_eq!(run(&gateway, &ada, "SELECT n FROM t").await.expect("a row"), "2");
    is_at(&token("ada").await, "sales.gold").await;
    let refused = run(&gateway, &bob, "USE sales.gold").await.expect_err("a catalog that the role does not open");
    assert!(refused.message().contains("there are: crm, lake"), "{refused}");
    is_at(&bob, "lake.tickets").await;
    stock_drivers(&gateway);
}

/// Stock drivers begin where the role says, too, and switch by session options.
fn stock_drivers(gateway: &Gateway) {
    let as_ada = |program: Program| program.env("POLYNYA_USER", "ada").env("POLYNYA_PASSWORD", "correct horse");
    let adbc = |more: &[&str]| {
        let program = as_ada(Program::python("adbc_query.py", gateway)).arg(WHERE);
        more.iter().fold(program, |program, arg| program.arg(arg))
    };
    assert_eq!(adbc(&[]).succeed().trim(), "sales.gold");
    assert_eq!(adbc(&["crm"]).succeed().trim(), "crm.gold");
    assert_eq!(adbc(&["crm", "tickets"]).succeed().trim(), "crm.tickets");
    assert!(adbc(&["nowhere"]).fail().contains("INVALID"), "an unknown catalog");
    let jdbc = |options: &str| as_ada(Program::java("JdbcQuery.java", gateway, options)).arg(WHERE);
    assert!(jdbc("").succeed().ends_with("\nsales.gold\n"));
    // With this option the driver fails when it closes the session, whatever it is answered.
    let told = jdbc("&catalog=crm").fail();
    assert!(told.contains("\ncrm.gold\n") && told.contains("Channel shutdown invoked"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_at_the_endpoint_opens_all_its_catalogs_and_begins_where_its_role_says() {
    let (polaris, dir) = (polaris().await, TempDir::new().expect("a directory"));
    let project = format!(
        "{PROJECT}
auth: {{ mode: polaris, realm: home, mappings: [{{ any: true, role: newcomer }}] }}
roles: {{ newcomer: {{ catalogs: {{}}, default_catalog: crm, default_schema: silver }} }}
"
    );
    let files = [write(dir.path(), "project.yaml", &project), platform(&polaris, dir.path())];
    let (client_id, secret) = polaris.realm(HOME).credentials("engineer").expect("a principal");
    let realm = "platform.endpoints.lakehouse.realm=home";
    let gateway = Gateway::of_files(&files, &[realm], &[("POLARIS_SECRET", "not needed by callers")]);
    let engineer = log_in(&gateway, &client_id, &secret).await.expect("a session");
    assert_eq!(run(&gateway, &engineer, WHERE).await.expect("a place"), "crm.silver");
    let mut client = with_token(&gateway, &engineer).await;
    for sql in ["CREATE TABLE t AS SELECT 4 AS n", "CREATE TABLE sales.gold.t AS SELECT n + 1 AS n FROM t"] {
        query(&mut client, sql).await.expect(sql);
    }
    assert_eq!(run(&gateway, &engineer, "SELECT n FROM sales.gold.t").await.expect("a row"), "5");
    // The catalog knows the analyst, who has no grant in these two.
    let (client_id, secret) = polaris.realm(HOME).credentials("analyst").expect("a principal");
    let refused = match log_in(&gateway, &client_id, &secret).await {
        Ok(analyst) => run(&gateway, &analyst, "SELECT n FROM sales.gold.t").await.expect_err("no grant"),
        Err(refused) => refused,
    };
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

/// Three catalogs of one endpoint: one has all of a store's folder, one a folder in it, one another folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_carries_its_store_and_its_keys_and_no_more_than_its_folder() {
    let minio = Minio::start("lake").await;
    let rest = tokio::task::block_in_place(|| ReferenceRest::start_on("s3://lake/warehouse"));
    let dir = TempDir::new().expect("a directory");
    let store = format!(
        "endpoint: '{}', region: us-east-1, path_style: true, access_key_id: {KEY}, secret_access_key: {{ env: STORE_SECRET }}",
        minio.endpoint
    );
    let text = format!(
        "platform:
  endpoints:
    rest: {{ type: rest, uri: 'http://127.0.0.1:{}', warehouse: main, access_delegation: none }}
  layers:
    all: {{ location: s3://lake/warehouse, {store} }}
    other: {{ location: s3://lake/other/, {store} }}
catalogs:
  whole: {{ endpoint: rest, layers: [all] }}
  part: {{ endpoint: rest, layers: [all/gold] }}
  other: {{ endpoint: rest, layers: [other] }}
default_catalog: whole
",
        rest.port
    );
    let gateway = Gateway::of_files(&[write(dir.path(), "all.yaml", &text)], &[], &[("STORE_SECRET", SECRET)]);
    for schema in ["gold", "silver"] {
        gateway.run(&format!("CREATE SCHEMA {schema}")).await;
        gateway.run(&format!("CREATE TABLE {schema}.t AS SELECT '{schema}' AS s")).await;
        assert_eq!(gateway.value(&format!("SELECT s FROM {schema}.t")).await, schema);
    }
    assert_eq!(gateway.value("SELECT s FROM part.gold.t").await, "gold");
    gateway.run("INSERT INTO part.gold.t SELECT s FROM silver.t").await;
    assert_eq!(gateway.value("SELECT count(*) FROM part.gold.t").await, "2");
    for table in ["part.silver.t", "other.gold.t", "other.silver.t"] {
        for sql in [format!("SELECT s FROM {table}"), format!("INSERT INTO {table} VALUES ('x')")] {
            let refused = gateway.query(&sql).await.expect_err(&sql);
            assert!(refused.message().contains("outside"), "{sql}: {refused}");
        }
    }
    assert_eq!(gateway.value("SELECT count(*) FROM silver.t").await, "1");
    assert!(!gateway.log().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_does_not_reach_into_the_layers_of_another() {
    let (polaris, dir) = (polaris().await, TempDir::new().expect("a directory"));
    let (platform, secret) = (platform(&polaris, dir.path()), secret(&polaris));
    let honest =
        Gateway::of_files(&[write(dir.path(), "project.yaml", PROJECT), platform.clone()], &[], &[("POLARIS_SECRET", &secret)]);
    for sql in ["CREATE TABLE sales.gold.t AS SELECT 1 AS n", "CREATE TABLE crm.gold.t AS SELECT 2 AS n"] {
        honest.run(sql).await;
    }
    // The same warehouse through the layers of another: its tables lie outside.
    let wrong = PROJECT.replace("all/crm", "sales");
    let gateway = Gateway::of_files(&[write(dir.path(), "wrong.yaml", &wrong), platform], &[], &[("POLARIS_SECRET", &secret)]);
    assert_eq!(gateway.value("SELECT n FROM sales.gold.t").await, "1");
    for sql in ["SELECT * FROM crm.gold.t", "INSERT INTO crm.gold.t VALUES (3)", "CREATE TABLE crm.gold.u AS SELECT 1 AS n"] {
        let refused = gateway.query(sql).await.expect_err(sql);
        assert!(refused.message().contains("crm") && refused.message().contains("outside"), "{sql}: {refused}");
    }
    assert_eq!(honest.value("SELECT count(*) FROM crm.gold.t").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_points_into_another_catalogs_directory_is_not_read() {
    let dir = TempDir::new().expect("a directory");
    let gateway = with_roles(dir.path());
    let ada = log_in(&gateway, "ada", "correct horse").await.expect("a session");
    let mut client = with_token(&gateway, &ada).await;
    for sql in [
        "CREATE SCHEMA sales.gold",
        "CREATE SCHEMA crm.gold",
        "CREATE TABLE sales.gold.wages AS SELECT 123456 AS n",
        "CREATE TABLE crm.gold.t AS SELECT 2 AS n",
    ] {
        query(&mut client, sql).await.expect(sql);
    }
    let (sales, crm) = (dir.path().join("sales"), dir.path().join("crm"));
    let wages = made_by_gateway(&sales.join("gold"), "wages");
    let metadata = crate::forge::files(&wages.join("metadata"), ".metadata.json").pop().expect("metadata");
    let data = crate::forge::files(&wages.join("data"), ".parquet").pop().expect("a data file");
    register(&crm, "gold", "whole", &uri(&metadata)).await;
    let mut forged = Forged::copy(&made_by_gateway(&crm.join("gold"), "t"), &crm.join("gold/forged"));
    forged.point(Part::DataFile, &uri(&data));
    register(&crm, "gold", "part", &forged.save()).await;
    // bob's role opens crm and not sales.
    let bob = log_in(&gateway, "bob", "correct horse").await.expect("a session");
    for table in ["whole", "part"] {
        let refused = run(&gateway, &bob, &format!("SELECT n FROM crm.gold.{table}")).await.expect_err(table);
        assert!(!refused.message().contains("123456"), "{table}: {refused}");
    }
    assert_eq!(run(&gateway, &bob, "SELECT n FROM crm.gold.t").await.expect("a row"), "2");
    let refused = run(&gateway, &ada, "SELECT n FROM crm.gold.whole").await.expect_err("metadata elsewhere");
    assert!(refused.message().contains("outside"), "{refused}");
}
