//! `polynya check-catalog` on set-ups that are broken in one way each: it names what is at fault and what to do, and shows no secret.
//! The catalogs are the stand-in, with and without TLS, and the reference server with its files in a real MinIO.

mod callers;
mod tiers;

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::harness::{Gateway, Nobody, ReferenceRest, polynya};
use crate::pki::{Authority, Files};
use crate::s3_front::Front;
use crate::s3_front::minio::{KEY, Minio, SECRET};
use crate::s3_front::vending::Vending;
use crate::stand_in::{Fault, Grant, HOME, Operation, PrincipalSetup, Privilege, Rule, Setup, StandIn};

/// The steps of a REST catalog, in order.
const STEPS: [&str; 11] =
    ["config", "reach", "tls", "clock", "token", "refresh", "warehouse", "list", "load", "credentials", "read"];

/// What the command said and how it ended.
struct Told {
    code: i32,
    text: String,
    json: Value,
}

impl Told {
    fn of(output: &Output) -> Self {
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = serde_json::from_str(&out).unwrap_or_default();
        let text = out + &String::from_utf8_lossy(&output.stderr);
        Self { code: output.status.code().expect("an end by itself"), text, json }
    }

    fn check(&self, step: &str) -> &Value {
        let checks = self.json["checks"].as_array().into_iter().flatten();
        checks.into_iter().find(|check| check["name"] == step).unwrap_or_else(|| panic!("no step {step}: {}", self.text))
    }

    fn steps(&self) -> Vec<&str> {
        self.json["checks"].as_array().into_iter().flatten().filter_map(|check| check["name"].as_str()).collect()
    }

    /// The first step that failed is this one, by this fault, with advice that has this in it.
    #[track_caller]
    fn names(&self, step: &str, fault: &str, advice: &str) -> &Self {
        assert_eq!((self.code, &self.json["ok"]), (1, &Value::Bool(false)), "{}", self.text);
        let failed = self.json["checks"].as_array().expect("checks").iter().find(|check| check["status"] == "failed");
        let failed = failed.unwrap_or_else(|| panic!("nothing failed: {}", self.text));
        assert_eq!((&failed["name"], &failed["fault"]), (&Value::from(step), &Value::from(fault)), "{}", self.text);
        let said = failed["advice"].as_str().expect("advice");
        assert!(said.contains(advice), "{said}");
        assert!(failed["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{failed}");
        self
    }

    #[track_caller]
    fn is_well(&self) -> &Self {
        assert_eq!((self.code, &self.json["ok"]), (0, &Value::Bool(true)), "{}", self.text);
        self
    }
}

/// `polynya check-catalog NAME --json` with `--set` pairs; later ones over earlier ones.
fn check(name: &str, set: &[String], arguments: &[&str]) -> Told {
    check_with(name, set, arguments, &[])
}

/// The same with environment variables.
fn check_with(name: &str, set: &[String], arguments: &[&str], variables: &[(&str, &str)]) -> Told {
    let mut command = command(name, set);
    let told =
        Told::of(&command.args(arguments).arg("--json").envs(variables.iter().copied()).output().expect("the polynya binary"));
    for secret in ["-secret", SECRET, "eyJ", "not-a-secret"] {
        assert!(!told.text.contains(secret), "a secret shows: {}", told.text);
    }
    told
}

fn command(name: &str, set: &[String]) -> std::process::Command {
    let mut command = polynya();
    command.args(["check-catalog", name]).env("STORE_SECRET", SECRET).stdin(Stdio::null());
    for pair in set {
        command.args(["--set", pair]);
    }
    command
}

/// The pairs with others in the place of those of the same key, which would be merged.
fn with(set: &[String], more: &[&str]) -> Vec<String> {
    let key = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let kept = set.iter().filter(|pair| more.iter().all(|other| key(other) != key(pair)));
    kept.cloned().chain(more.iter().map(|pair| (*pair).to_owned())).collect()
}

/// A stand-in with a table of rows in `gold` and one in `silver`.
async fn filled(setup: Setup) -> (StandIn, Vec<String>) {
    let polaris = StandIn::start(setup).await;
    let mut set = polaris.settings("rest", "lakehouse", "engineer");
    let files = Files::new();
    if let Some(certificate) = polaris.certificate() {
        set.push(format!("catalogs.rest.ca_file={}", files.write("ca.pem", certificate)));
    }
    let maker = Gateway::with(&set.iter().map(String::as_str).collect::<Vec<_>>());
    maker.run("CREATE TABLE rest.gold.t AS SELECT range AS v FROM range(10)").await;
    maker.run("CREATE TABLE rest.silver.t AS SELECT 1 AS v").await;
    set.retain(|pair| !pair.contains("ca_file"));
    (polaris, set)
}

fn client(id: &str, secret: &str) -> String {
    format!("catalogs.rest.credentials={{type: oauth2, client_id: {id}, client_secret: {secret}}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_well_passes_every_step_and_is_left_as_it_was() {
    let (polaris, set) = filled(Setup::lakehouse()).await;
    let told = check("rest", &set, &[]);
    told.is_well();
    assert_eq!(told.steps(), STEPS);
    assert!(told.check("read")["detail"].as_str().is_some_and(|detail| detail.contains(".parquet")), "{}", told.text);
    assert!(told.check("token")["detail"].as_str().is_some_and(|detail| detail.contains("engineer-client-id")), "{}", told.text);

    polaris.log().clear();
    let told = check("rest", &set, &["--table", "gold.t", "--write"]);
    told.is_well();
    let written = told.check("write")["detail"].as_str().expect("a detail");
    assert!(written.contains("rest.gold.polynya_check_") && written.contains("dropped"), "{written}");
    assert_eq!(polaris.log().count(Operation::DropTable, "engineer"), 1);
    let left = Gateway::with(&set.iter().map(String::as_str).collect::<Vec<_>>());
    let count = "SELECT count(*) FROM information_schema.tables WHERE table_catalog = 'rest'";
    assert_eq!(left.value(count).await, "2", "the scratch table is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_on_the_way_to_a_catalog_is_named() {
    let (polaris, set) = filled(Setup::lakehouse()).await;
    let at = |pairs: &[&str]| check("rest", &with(&set, pairs), &[]);

    at(&["catalogs.rest.uri=http://catalog.invalid:8181/api/catalog"]).names("reach", "wrong_host", "catalogs.rest.uri");
    let nobody = Nobody::new();
    let told = at(&[&format!("catalogs.rest.uri=http://{}/api/catalog", nobody.addr())]);
    told.names("reach", "wrong_port", "port in catalogs.rest.uri");
    assert_eq!(told.check("token")["status"], "skipped");
    assert_eq!(told.check("read")["detail"], "not tried: reach failed");

    at(&[&client("engineer-client-id", "not-a-secret")]).names("token", "bad_secret", "client_secret");
    at(&[&client("nobody", "not-a-secret")]).names("token", "bad_secret", "client_id");
    at(&["catalogs.rest.credentials.scope=all-of-it"]).names("token", "bad_scope", "PRINCIPAL_ROLE:ALL");
    let elsewhere = format!("catalogs.rest.credentials.token_uri={}/nowhere", polaris.uri());
    at(&[&elsewhere]).names("token", "wrong_token_uri", "token_uri");
    at(&["catalogs.rest.credentials={type: oauth2, client_id: a, client_secret: {env: NOT_SET_ANYWHERE}}"]).names(
        "config",
        "bad_config",
        "check-config",
    );

    at(&["catalogs.rest.warehouse=elsewhere"]).names("warehouse", "no_warehouse", "catalogs.rest.warehouse");
    at(&["catalogs.rest.warehouse=~"]).names("warehouse", "no_warehouse", "catalogs.rest.warehouse");
    at(&["catalogs.rest.credentials={type: none}"]).names("warehouse", "bad_login", "catalogs.rest.credentials");
    let wrong_token = "catalogs.rest.credentials={type: bearer, token: not-a-secret}";
    at(&[wrong_token]).names("warehouse", "bad_secret", "token");

    polaris.realm(HOME).create_principal(PrincipalSetup { roles: Default::default(), ..PrincipalSetup::named("nobody", "") });
    at(&[&client("nobody-client-id", "nobody-secret")]).names("list", "no_grants", "TABLE_READ_DATA");
    let analyst = with(&set, &[&client("analyst-client-id", "analyst-secret")]);
    check("rest", &analyst, &[]).is_well();
    check("rest", &analyst, &["--table", "silver.t"]).names("load", "no_grants", "TABLE_READ_DATA");
    let told = check("rest", &analyst, &["--write"]);
    told.names("write", "read_only", "TABLE_CREATE");
    assert!(told.check("write")["detail"].as_str().is_some_and(|detail| detail.contains("making rest.gold.")), "{}", told.text);
    // Who may make a table and write no row of it.
    polaris.realm(HOME).grant("lakehouse", "gold_reader", Grant::on_namespace(Privilege::TableDrop, "gold"));
    check("rest", &analyst, &["--write"]).names("write", "read_only", "TABLE_WRITE_DATA");

    let outside = "catalogs.rest.allowed_locations=['s3://lake/']";
    at(&[outside]).names("load", "outside_locations", "allowed_locations");
    for off in [1200, -1200] {
        polaris.faults().add(Rule::new(Fault::ClockOffS(off)));
        at(&[]).names("clock", "clock_off", "NTP");
        polaris.faults().clear();
    }
    polaris.faults().add(Rule::new(Fault::Status(503)).on([Operation::ListNamespaces]));
    at(&[]).names("list", "failing", "log of the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_to_be_trusted_is_named() {
    let (polaris, set) = filled(Setup::lakehouse().with_tls()).await;
    let files = Files::new();
    let right = format!("catalogs.rest.ca_file={}", files.write("right.pem", polaris.certificate().expect("TLS")));
    let told = check("rest", &with(&set, &[&right]), &[]);
    told.is_well();
    assert_eq!(told.check("tls")["status"], "ok");

    check("rest", &set, &[]).names("tls", "bad_ca", "catalogs.rest.ca_file");
    let other = format!("catalogs.rest.ca_file={}", files.write("other.pem", &Authority::new("another").pem));
    check("rest", &with(&set, &[&other]), &[]).names("tls", "bad_ca", "catalogs.rest.ca_file");
    let broken = format!("catalogs.rest.ca_file={}", files.write("broken.pem", "no certificate"));
    check("rest", &with(&set, &[&broken]), &[]).names("config", "bad_config", "check-config");
    let plain = format!("catalogs.rest.uri={}", polaris.uri().replace("https://", "http://"));
    check("rest", &with(&set, &[&plain]), &[]).names("reach", "wrong_scheme", "https://");
    // And the other way round.
    let (plain, set) = filled(Setup::lakehouse()).await;
    let with_tls = format!("catalogs.rest.uri={}", plain.uri().replace("http://", "https://"));
    check("rest", &with(&set, &[&with_tls]), &[]).names("reach", "wrong_scheme", "http://");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_store_is_named() {
    let minio = Arc::new(Minio::start_in("lake", "us-east-1").await);
    let front = Front::of(&minio.endpoint).await;
    let rest = tokio::task::block_in_place(|| ReferenceRest::start_on("s3://lake/warehouse"));
    let plain = format!("http://127.0.0.1:{}", rest.port);
    let vending = Vending::of(&plain, Arc::clone(&minio), &front.endpoint).await;
    let base = |uri: &str| {
        let pairs = ["catalogs.rest.type=rest", "catalogs.rest.allowed_locations=['s3://lake/warehouse']"];
        with(&pairs.map(str::to_owned), &[&format!("catalogs.rest.uri={uri}")])
    };
    let store = |region: &str, secret: &str, endpoint: &str| {
        format!(
            "catalogs.rest.storage=[{{endpoint: '{endpoint}', region: {region}, path_style: true, access_key_id: {KEY}, \
             secret_access_key: {secret}}}]"
        )
    };
    let own = "{env: STORE_SECRET}";
    let fixed = with(&base(&plain), &[&store("us-east-1", own, &front.endpoint)]);
    let maker = Gateway::with_env(&fixed.iter().map(String::as_str).collect::<Vec<_>>(), &[("STORE_SECRET", SECRET)]);
    maker.run("CREATE SCHEMA rest.gold").await;
    maker.run("CREATE TABLE rest.gold.t AS SELECT range AS v FROM range(1000)").await;
    drop(maker);

    let vended = base(&vending.uri);
    let told = check("rest", &vended, &["--write"]);
    told.is_well();
    assert!(told.check("credentials")["detail"].as_str().is_some_and(|detail| detail.contains("good for 1")), "{}", told.text);
    let told = check("rest", &fixed, &[]);
    told.is_well();
    assert!(told.check("credentials")["detail"].as_str().is_some_and(|detail| detail.contains("configured")), "{}", told.text);

    // Where both are there, the configured ones are shown.
    let told = check("rest", &with(&vended, &[&store("us-east-1", own, &front.endpoint)]), &[]);
    told.is_well();
    let keys = told.check("credentials");
    assert!(keys["status"] == "ok" && keys["detail"].as_str().is_some_and(|detail| detail.starts_with("configured")), "{keys}");

    check("rest", &base(&plain), &[]).names("credentials", "no_vending", "vended-credentials");
    let at = |region, secret, endpoint| check("rest", &with(&base(&plain), &[&store(region, secret, endpoint)]), &[]);
    at("eu-north-1", own, &front.endpoint).names("read", "wrong_region", "region in catalogs.rest.storage");
    let region = format!("catalogs.rest.storage=[{{endpoint: '{}', region: eu-north-1, path_style: true}}]", front.endpoint);
    check("rest", &with(&vended, &[&region]), &[]).names("read", "wrong_region", "region in catalogs.rest.storage");
    at("us-east-1", "not-a-secret", &front.endpoint).names("read", "bad_keys", "catalogs.rest.storage");
    let nobody = Nobody::new();
    at("us-east-1", own, &format!("http://{}", nobody.addr())).names(
        "read",
        "store_unreachable",
        "endpoint in catalogs.rest.storage",
    );
    let others = with(&vended, &["catalogs.rest.allowed_endpoints=['https://s3.example.com']"]);
    check("rest", &others, &[]).names("credentials", "wrong_store", "allowed_endpoints");

    front.faults().skewed = true;
    let told = check("rest", &vended, &[]);
    told.names("read", "clock_off", "NTP");
    // The store repeats the token that it was shown, or the beginning of it.
    assert!(vending.vended().iter().all(|keys| !told.text.contains(&keys.token[..40])), "a token shows: {}", told.text);
    front.faults().skewed = false;
    front.faults().read_only = true;
    check("rest", &vended, &[]).is_well();
    check("rest", &vended, &["--write"]).names("write", "read_only", "s3:PutObject");
    front.faults().read_only = false;
    tiers::a_layer_is_named_where_its_region_is_wrong(&plain, &front.endpoint);
    minio.rename_bucket("lake", "elsewhere");
    check("rest", &fixed, &[]).names("read", "bucket_gone", "bucket");
    minio.rename_bucket("elsewhere", "lake");

    let told = check("rest", &vended, &[]);
    told.is_well();
    let secrets = vending.vended().into_iter().flat_map(|keys| [keys.secret, keys.token]);
    for secret in secrets {
        assert!(!told.text.contains(&secret), "a vended key shows: {}", told.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_comes_when_its_step_has_ended() {
    let (polaris, set) = filled(Setup::lakehouse()).await;
    polaris.faults().add(Rule::new(Fault::Hang).on([Operation::ListNamespaces]));
    let mut child = command("rest", &set).stdout(Stdio::piped()).spawn().expect("the polynya binary");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let seen: Vec<String> = tokio::task::block_in_place(|| lines.by_ref().take(8).map(|line| line.expect("a line")).collect());
    assert_eq!(seen[0], "catalog rest");
    for (line, step) in seen[1..].iter().zip(STEPS) {
        assert_eq!(line.split_whitespace().nth(1), Some(step), "{seen:?}");
    }
    assert!(child.try_wait().expect("a status").is_none(), "it still lists");
    polaris.faults().clear();
    let rest: Vec<String> = tokio::task::block_in_place(|| lines.map(|line| line.expect("a line")).collect());
    assert!(child.wait().expect("a status").success(), "{rest:?}");
    assert_eq!(rest.last().map(String::as_str), Some("catalog rest: all is well"));
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_callers_and_all_catalogs_are_looked_at_as_they_are_configured() {
    let (polaris, set) = filled(Setup::lakehouse()).await;
    let role = "roles={reader: {catalogs: {rest: {credentials: {type: oauth2, client_id: analyst-client-id, client_secret: \
                analyst-secret}}}}}";
    let as_role = with(&set, &[role]);
    let told = check("rest", &as_role, &["--role", "reader"]);
    told.is_well();
    assert!(told.check("token")["detail"].as_str().is_some_and(|detail| detail.contains("analyst-client-id")), "{}", told.text);
    check("rest", &as_role, &["--role", "reader", "--write"]).names("write", "read_only", "TABLE_CREATE");
    assert_eq!(check("rest", &as_role, &["--role", "nobody"]).code, 2);
    assert_eq!(check("nowhere", &set, &[]).code, 2);
    assert_eq!(check("rest", &with(&set, &["catalogs.rest.urii=x"]), &[]).code, 2);

    let callers = with(&set, &["catalogs.rest.credentials={type: none}", "auth.mode=polaris"]);
    let told = check("rest", &callers, &["--write"]);
    told.is_well();
    assert_eq!(told.steps(), [&STEPS[..], &["write"]].concat(), "each step once");
    assert_eq!(told.check("write")["status"], "skipped");
    assert_eq!(told.check("warehouse")["detail"], "the catalog answers, and asks for a log-in");
    for step in ["token", "list", "read", "write"] {
        assert!(
            told.check(step)["detail"].as_str().is_some_and(|detail| detail.contains("pass --user CLIENT_ID")),
            "{}",
            told.text
        );
    }

    // Without a name, all of them: a directory that is not there yet, and the other catalog.
    let files = Files::new();
    let lake = format!("catalogs.lake.path={}", files.path("lake").display());
    let all = |lake: &str| {
        let mut command = polynya();
        command.args(["check-catalog", "--json"]);
        for pair in with(&set, &[lake]) {
            command.args(["--set", &pair]);
        }
        Told::of(&command.output().expect("the polynya binary"))
    };
    let told = all(&lake);
    assert_eq!((told.code, &told.json["ok"]), (0, &Value::Bool(true)), "{}", told.text);
    let catalogs = told.json["catalogs"].as_array().expect("catalogs");
    assert_eq!((&catalogs[0]["catalog"], &catalogs[1]["catalog"]), (&Value::from("lake"), &Value::from("rest")));
    assert_eq!(catalogs[0]["checks"][0]["status"], "warning");
    assert!(!files.path("lake").exists(), "looking makes nothing");
    polaris.down().await;
    assert_eq!(all(&lake).code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_catalog_is_looked_at_too() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.gold").await;
    gateway.run("CREATE TABLE lake.gold.t AS SELECT 1 AS v").await;
    let set = vec![format!("catalogs.lake.path={}", gateway.dir.path().join("lake").display())];
    let told = check("lake", &set, &["--write"]);
    told.is_well();
    assert!(told.check("read")["detail"].as_str().is_some_and(|detail| detail.contains(".parquet")), "{}", told.text);
    assert!(told.check("write")["detail"].as_str().is_some_and(|detail| detail.contains("dropped")), "{}", told.text);

    let files = Files::new();
    let file = files.write("file", "no directory");
    check("lake", &[format!("catalogs.lake.path={file}")], &[]).names("reach", "directory", "catalogs.lake.path");
    check("lake", &[format!("catalogs.lake.path={file}/lake")], &[]).names("reach", "directory", "catalogs.lake.path");
}
