//! Owns the search for planted secrets and tokens in everything that the gateway and its workers show or leave: the log, what clients are
//! told, files, environments, command lines, the memory of workers. Each search is shown to find what may be there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use arrow_flight::sql::client::FlightSqlServiceClient;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tempfile::TempDir;
use tonic::Code;

use crate::callers::token_of;
use crate::harness::{Gateway, begun, query};
use crate::identity::{Client, House, shown, tables};
use crate::stand_in::{HOME, PrincipalSetup, S3Setup, Setup, StandIn, WarehouseSetup};

const ANALYST: &str = "planted-analyst-9c04d1";
const ENGINEER: &str = "planted-engineer-77ab20";
const SERVICE: &str = "planted-service-1e5b83";
const GUESS: &str = "planted-guess-60fd12";
const VENDED: &str = "planted-vended-ab31c9";

/// 32 bytes, as `auth.key` wants them.
const KEY: &str = "planted-sealing-key-0a1b2c3d4e5f";

/// With what every token of the stand-in begins: `{"typ":"JWT","alg":"HS256"}`.
const JWT: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9";

/// No secret: it is where it may be, so that a search which finds nothing is known to work.
const CONTROL: &str = "control_5f19e2";

/// By what it is, what must not be found. Basic log-ins are in the list as they travel.
type Needles = BTreeMap<&'static str, String>;

fn needles(engineers_token: &str, session_token: &str) -> Needles {
    let basic = |id: &str, secret: &str| BASE64_STANDARD.encode(format!("{id}:{secret}")).trim_end_matches('=').to_owned();
    let signature = engineers_token.rsplit('.').next().expect("a signature");
    BTreeMap::from([
        ("the analyst's secret", ANALYST.to_owned()),
        ("the analyst's log-in", basic("analyst-client-id", ANALYST)),
        ("the engineer's secret", ENGINEER.to_owned()),
        ("the engineer's log-in", basic("engineer-client-id", ENGINEER)),
        ("the gateway's secret", SERVICE.to_owned()),
        ("a guessed secret", GUESS.to_owned()),
        ("the guessed log-in", basic("engineer-client-id", GUESS)),
        ("a key of the storage", VENDED.to_owned()),
        ("auth.key", KEY.to_owned()),
        ("auth.key as written", BASE64_STANDARD.encode(KEY)),
        ("a token of the catalog", JWT.to_owned()),
        ("the engineer's token", signature.to_owned()),
        ("a session token", session_token.to_owned()),
    ])
}

/// Which of the needles are in what `feed` writes.
fn search(needles: &Needles, feed: impl FnOnce(&mut dyn Write)) -> BTreeSet<&'static str> {
    // Hundreds of megabytes of memory: in a program that is made for it. Lines end with NUL, of which memory is full.
    let mut command = Command::new("grep");
    command.args(["-z", "-a", "-o", "-F"]).env("LC_ALL", "C");
    needles.values().for_each(|needle| {
        command.args(["-e", needle]);
    });
    let mut grep = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("grep");
    let mut output = grep.stdout.take().expect("its output");
    let reader = std::thread::spawn(move || {
        let mut found = Vec::new();
        output.read_to_end(&mut found).map(|_| found)
    });
    feed(&mut grep.stdin.take().expect("its input"));
    let found = reader.join().expect("no panic").expect("what was found");
    let status = grep.wait().expect("its end").code();
    assert!(matches!(status, Some(0 | 1)), "grep ended with {status:?}");
    let found: BTreeSet<&[u8]> = found.split(|byte| *byte == 0).collect();
    needles.iter().filter(|(_, needle)| found.contains(needle.as_bytes())).map(|(name, _)| *name).collect()
}

fn search_bytes(needles: &Needles, bytes: &[u8]) -> BTreeSet<&'static str> {
    search(needles, |input| input.write_all(bytes).expect("written"))
}

/// Everything that a process can write to. `None` where its memory is kept from this user too.
fn search_memory(needles: &Needles, pid: u32) -> Option<BTreeSet<&'static str>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = 0;
    let found = search(needles, |input| {
        let mut chunk = vec![0; 1 << 20];
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (range, rights) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let hex = |text: &str| u64::from_str_radix(text, 16).expect("an address");
            let Some((from, to)) = range.split_once('-').filter(|_| rights.starts_with("rw")) else { continue };
            let (mut at, end) = (hex(from), hex(to));
            while at < end {
                let wanted = usize::try_from((end - at).min(1 << 20)).expect("a chunk");
                // What went away meanwhile, or cannot be read, such as memory of a device.
                if memory.seek(SeekFrom::Start(at)).and_then(|_| memory.read_exact(&mut chunk[..wanted])).is_err() {
                    break;
                }
                input.write_all(&chunk[..wanted]).expect("written");
                bytes += wanted;
                at += wanted as u64;
            }
            input.write_all(&[0]).expect("written");
        }
    });
    eprintln!("process {pid}: {} MB of memory searched", bytes >> 20);
    (bytes > 0).then_some(found)
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The gateway before a catalog of local files, and one in a bucket that hands out keys for it.
struct Scene {
    house: House,
    engineers_token: String,
    /// Everything that clients were told.
    told: Vec<String>,
    _secrets: TempDir,
}

fn setup() -> Setup {
    let mut setup = Setup::lakehouse();
    let realm = &mut setup.realms[0];
    let mut bucket = WarehouseSetup::three_layers("bucket");
    bucket.s3 = Some(S3Setup {
        base: "s3://lake1/bucket/".to_owned(),
        endpoint: "http://127.0.0.1:9".to_owned(),
        region: "us-east-1".to_owned(),
        access_key_id: format!("{VENDED}-id"),
        secret_access_key: VENDED.to_owned(),
        session_token: format!("{VENDED}-session"),
        lifetime_s: 900,
    });
    realm.warehouses.push(bucket);
    realm.principal_roles.get_mut("engineers").expect("a role").insert("bucket.content_writer".to_owned());
    for principal in &mut realm.principals {
        principal.client_secret = match principal.name.as_str() {
            "analyst" => ANALYST.to_owned(),
            "engineer" => ENGINEER.to_owned(),
            other => format!("{other}-secret"),
        };
    }
    realm.principals.push(PrincipalSetup { client_secret: SERVICE.to_owned(), ..PrincipalSetup::named("service", "engineers") });
    setup
}

impl Scene {
    async fn open() -> Self {
        let secrets = TempDir::new().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = secrets.path().join(name);
            fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let (key, secret) = (file("key", &BASE64_STANDARD.encode(KEY)), file("secret", SERVICE));
        let polaris = StandIn::start(setup()).await;
        let base = polaris.realm(HOME).warehouse("lakehouse").expect("a warehouse").base().to_owned();
        let credentials = format!("{{type: oauth2, client_id: service-client-id, client_secret: {{file: '{secret}'}}}}");
        let catalog = |name: &str, warehouse: &str, more: &str| {
            let uri = polaris.uri();
            format!("catalogs.{name}={{type: rest, uri: '{uri}', warehouse: {warehouse}, credentials: {credentials}{more}}}")
        };
        let pairs = [
            "auth.mode=polaris".to_owned(),
            "auth.remember_logins=0s".to_owned(),
            format!("auth.key={{file: '{key}'}}"),
            "telemetry.level=debug".to_owned(),
            "relay.max_staleness=100ms".to_owned(),
            catalog("rest", "lakehouse", &format!(", allowed_locations: ['{base}']")),
            catalog("vended", "bucket", ""),
        ];
        let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
        let gateway = Gateway::with_env(&pairs, &[("PLANTED_CONTROL", CONTROL)]);
        let engineers_token = token_of(&polaris, "engineer").await;
        let fields = json!([{ "id": 1, "name": "id", "required": false, "type": "long" }]);
        let body = json!({ "name": "t", "schema": { "type": "struct", "schema-id": 0, "fields": fields } });
        let uri = format!("{}/v1/bucket/namespaces/gold/tables", polaris.uri());
        let made = reqwest::Client::new().post(uri).bearer_auth(&engineers_token).json(&body).send().await.expect("an answer");
        assert_eq!(made.status(), 200);
        Self { house: House { polaris, gateway }, engineers_token, told: Vec::new(), _secrets: secrets }
    }

    async fn tell(&mut self, client: &mut Client, sql: &str) -> Option<Code> {
        match query(client, sql).await {
            Ok(rows) => {
                self.told.push(format!("{sql}: {}", shown(&rows)));
                None
            }
            Err(status) => {
                self.told.push(format!("{sql}: {status:?}"));
                Some(status.code())
            }
        }
    }

    /// Log-ins that fail in each of the ways there are.
    async fn fail_to_log_in(&mut self) {
        let wrong = [("engineer-client-id", GUESS), ("nobody", GUESS), ("analyst-client-id", ENGINEER), ("", SERVICE)];
        for (id, secret) in wrong {
            let error = self.house.try_log_in(id, secret).await.map(drop).expect_err("a stranger");
            self.told.push(format!("{error:?}"));
        }
        let cut = self.engineers_token[..self.engineers_token.len() - 4].to_owned();
        for token in [format!("{cut}AAAA"), cut, GUESS.to_owned(), format!("{JWT}.{GUESS}.{GUESS}")] {
            let mut client = self.house.gateway.client().await;
            client.set_token(token);
            let code = self.tell(&mut client, "SELECT 1").await;
            assert_eq!(code, Some(Code::Unauthenticated));
        }
    }

    /// What must be answered, and what must not.
    async fn work(&mut self, analyst: &mut Client, engineer: &mut Client) {
        for sql in [
            "CREATE TABLE rest.gold.t AS SELECT 1 AS a".to_owned(),
            "CREATE TABLE rest.silver.t AS SELECT 2 AS a".to_owned(),
            format!("SELECT a AS {CONTROL} FROM rest.gold.t"),
            "SELECT * FROM vended.gold.t".to_owned(),
            "EXPLAIN SELECT * FROM rest.gold.t".to_owned(),
            "EXPLAIN ANALYZE SELECT * FROM rest.gold.t".to_owned(),
            "EXPLAIN SELECT * FROM vended.gold.t".to_owned(),
            "DESCRIBE vended.gold.t".to_owned(),
            "SHOW ALL TABLES".to_owned(),
            "SELECT * FROM information_schema.columns".to_owned(),
            "SHOW DATABASES".to_owned(),
        ] {
            let code = self.tell(engineer, &sql).await;
            assert_eq!(code, None, "{sql}: {:?}", self.told.last());
        }
        for sql in [
            "SELECT * FROM duckdb_secrets()",
            "SELECT * FROM duckdb_settings()",
            "SELECT * FROM duckdb_databases()",
            "SELECT * FROM duckdb_logs()",
            "SELECT * FROM duckdb_variables()",
            "SELECT * FROM duckdb_memory()",
            "SELECT * FROM pragma_database_list()",
            "PRAGMA database_list",
            "SELECT * FROM which_secret('s3://lake1/bucket/x', 's3')",
            "SELECT current_setting('s3_secret_access_key')",
            "SELECT getenv('PLANTED_CONTROL')",
            "SELECT * FROM read_text('/proc/self/environ')",
            "SELECT * FROM iceberg_to_ducklake('rest', 'x')",
            "SELECT * FROM nowhere.at.all",
            "SELEC 1",
        ] {
            for client in [&mut *analyst, &mut *engineer] {
                let code = self.tell(client, sql).await;
                assert!(code.is_some(), "{sql} was answered: {:?}", self.told.last());
            }
        }
        let code = self.tell(analyst, "SELECT * FROM rest.silver.t").await;
        assert_eq!(code, Some(Code::PermissionDenied));
        let code = self.tell(analyst, "INSERT INTO rest.gold.t VALUES (3)").await;
        assert_eq!(code, Some(Code::PermissionDenied));
        for client in [analyst, engineer] {
            let listed = tables(client, None, true).await;
            self.told.push(format!("{listed:?}"));
        }
    }

    /// Errors of a catalog that is out of order.
    async fn suffer(&mut self, engineer: &mut Client) {
        self.house.polaris.down().await;
        let code = self.tell(engineer, "CREATE TABLE rest.gold.never (a INTEGER)").await;
        assert_eq!(code, Some(Code::Unavailable));
        let error = self.house.try_log_in("engineer-client-id", ENGINEER).await.map(drop).expect_err("nobody can say");
        self.told.push(format!("{error:?}"));
        self.house.polaris.up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_secrets_and_tokens_appear_nowhere() {
    let mut scene = Scene::open().await;
    scene.fail_to_log_in().await;
    let mut analyst = scene.house.log_in("analyst").await;
    let mut engineer: Client = FlightSqlServiceClient::new(scene.house.gateway.channel().await);
    engineer.set_token(scene.engineers_token.clone());
    let mut by_password = scene.house.log_in("engineer").await;
    scene.work(&mut analyst, &mut engineer).await;
    let code = scene.tell(&mut by_password, "SELECT * FROM rest.silver.t").await;
    assert_eq!(code, None);
    // A worker of each credential has a statement while it is searched.
    let endless = format!("SELECT i AS {CONTROL} FROM range(1000000000) r(i)");
    let mut running = Vec::new();
    for client in [&mut analyst, &mut engineer, &mut by_password] {
        running.push(begun(client, &endless).await.expect("rows"));
    }
    let session_token = analyst.token().expect("a token").clone();
    let needles = needles(&scene.engineers_token, &session_token);
    let control = Needles::from([("the control", CONTROL.to_owned())]);
    let gateway = &scene.house.gateway;
    let nothing = BTreeSet::new();

    let workers = gateway.ready_workers();
    assert!(workers.len() >= 3, "{workers:?}");
    let mut controls = 0;
    for &pid in &workers {
        assert_eq!(search_memory(&needles, pid).unwrap_or_default(), nothing, "in the memory of worker {pid}");
        controls += search_memory(&control, pid).map_or(0, |found| found.len());
        for file in ["environ", "cmdline"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert_eq!(search_bytes(&needles, &bytes), nothing, "{file} of worker {pid}");
            assert_eq!(search_bytes(&control, &bytes), nothing, "{file} of worker {pid}");
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        assert!(has_no_core(&limits), "{limits}");
    }
    of_the_gateway(gateway, &needles, &control, controls);
    drop(running);

    scene.suffer(&mut by_password).await;
    let told = scene.told.join("\n");
    assert_eq!(search_bytes(&needles, told.as_bytes()), nothing, "{told}");
    assert!(told.contains("lacks TABLE_READ_DATA") && told.contains(CONTROL));
    // The realm is named by the catalog's address; the relay's is nobody's business.
    assert!(!told.replace(&scene.house.polaris.uri(), "").contains("http://127.0.0.1:"), "{told}");
    assert_eq!(workers_token(&told), None, "{told}");
    let gateway = &scene.house.gateway;
    for file in files(gateway.dir.path()) {
        let found = search_bytes(&needles, &fs::read(&file).unwrap_or_default());
        assert_eq!(found, nothing, "in {}", file.display());
    }
    let log = gateway.log();
    assert!(log.contains("DEBUG") && log.contains(CONTROL) && log.contains("logged in"), "{log}");
    assert_eq!(workers_token(&log), None);
}

/// A run of 64 hexadecimal digits: what a worker shows the relay.
fn workers_token(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_hexdigit()).find(|run| run.len() == 64)
}

fn has_no_core(limits: &str) -> bool {
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    line.split_whitespace().skip(4).take(2).eq(["0", "0"])
}

/// The gateway's own process, whose memory has what the workers' must not have.
fn of_the_gateway(gateway: &Gateway, needles: &Needles, control: &Needles, controls_in_workers: usize) {
    let pid = gateway.pid();
    match search_memory(needles, pid) {
        Some(found) => {
            for name in ["the analyst's secret", "the engineer's token", "a token of the catalog"] {
                assert!(found.contains(name), "the search does not find {name} in the gateway: {found:?}");
            }
            assert!(controls_in_workers >= 3, "the search finds the control in {controls_in_workers} workers");
        }
        // Only root may look into processes that have given up being looked into.
        None => eprintln!("the memory of other processes is kept from this user, and was not searched"),
    }
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).expect("a process");
    assert_eq!(search_bytes(needles, &cmdline), BTreeSet::new());
    assert!(String::from_utf8_lossy(&cmdline).contains("auth.mode=polaris"));
    if let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) {
        assert_eq!(search_bytes(needles, &environ), BTreeSet::new());
        assert!(!search_bytes(control, &environ).is_empty(), "the control is not found where it is");
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    assert!(has_no_core(&limits), "{limits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_statement_stays_out_of_the_log() {
    let gateway = Gateway::start();
    for sql in [
        format!("CREATE SECRET s (TYPE s3, KEY_ID 'x', SECRET '{GUESS}')"),
        format!("/* mine */ create or replace persistent secret s (TYPE iceberg, TOKEN '{GUESS}')"),
        format!("CREATE SECRET (TYPE s3 SECRET '{GUESS}'"),
        format!("ATTACH 'w' AS x (TYPE iceberg, CLIENT_SECRET '{GUESS}', TOKEN '{GUESS}')"),
        format!("SET s3_secret_access_key = '{GUESS}'"),
        format!("PRAGMA add_parquet_key('k', '{GUESS}')"),
        format!("COPY (SELECT 1) TO 's3://b/x?s3_secret_access_key={GUESS}'"),
    ] {
        let error = query(&mut gateway.client().await, &sql).await.expect_err("refused");
        assert!(!error.message().contains(GUESS), "{sql}: {error}");
        assert!(!gateway.log().contains(GUESS), "{sql}:\n{}", gateway.log());
    }
    gateway.run(&format!("SELECT 1 AS {CONTROL}")).await;
    assert!(gateway.log().contains(CONTROL), "other statements are in the log");
}
