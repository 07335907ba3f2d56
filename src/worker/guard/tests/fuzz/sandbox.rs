//! Owns a DuckDB as a worker has it, with tripwires about: files that nobody may open, a port that nobody may reach, and names that no
//! statement may mean. Everything that the guard lets through is run in it, for a moment. Refuses to judge texts.

use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::inotify;

use crate::wire::proto::Init;
use crate::worker::binding::{Connection, EngineResult, Instance, Outcome, Scalar};
use crate::worker::database;
use crate::worker::guard::SystemObject;

/// How long a statement may run.
const MOMENT: Duration = Duration::from_millis(60);

/// How often the state of the instance is looked at, in statements.
const LOOK_EVERY: u64 = 200;

/// Batches fetched of a result.
const BATCHES: usize = 4;

/// Tables of the lakehouse in the sandbox; plain ones, as the Iceberg extension is not what is tried.
const TABLES: [&str; 6] =
    ["lake.bronze.t", "lake.bronze.u", "lake.silver.t", "lake.main.t", "\"Gold\".bronze.t", "\"Gold\".mart.t"];

/// Names that statements give to CTEs: to DuckDB's own catalog each is a view over a file that nobody may open.
const TRAPS: [&str; 19] =
    ["t", "u", "v", "w", "a", "b", "c", "q", "r", "s", "x", "e", "tables", "columns", "secret", "cte", "n", "f", "csv"];

pub(super) struct Sandbox {
    connection: Connection,
    files: tempfile::TempDir,
    watch: OwnedFd,
    port: TcpListener,
    running: Running,
    statements: u64,
    state: String,
}

/// Since when a statement runs. Who interrupts it holds the lock, so that no interrupt comes when it has ended.
type Running = Arc<Mutex<Option<Instant>>>;

impl Sandbox {
    pub(super) fn open() -> Self {
        Self::with(MOMENT)
    }

    /// One whose statements may run for so long.
    fn with(moment: Duration) -> Self {
        // Statements are made from its name, too: with names of one length and of letters only they are much the same in each run.
        let letters: String = (0..12).map(|_| rand::random_range('a'..='z')).collect();
        let files = tempfile::Builder::new().prefix(&letters).rand_bytes(0).tempdir().unwrap();
        std::fs::write(files.path().join("canary.csv"), "a,b\n1,secret\n").unwrap();
        let run_dir = files.path().join("run");
        std::fs::create_dir_all(run_dir.join("spill")).unwrap();
        let trap = files.path().join("trap");
        std::fs::create_dir(&trap).unwrap();
        std::fs::rename(files.path().join("canary.csv"), trap.join("canary.csv")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        port.set_nonblocking(true).unwrap();

        let library = std::env::var("DUCKDB_LIB_DIR").expect("DUCKDB_LIB_DIR names the directory of libduckdb.so");
        let init = Init {
            extension_dir: format!("{library}/extensions"),
            run_dir: run_dir.display().to_string(),
            memory_limit_bytes: 256 << 20,
            spill_limit_bytes: 16 << 20,
            threads: 1,
            extensions: ["icu", "avro", "httpfs", "iceberg"].map(str::to_owned).to_vec(),
            ..Init::default()
        };
        let instance = database::open(&init).unwrap();
        let connection = instance.connect().unwrap();
        furnish(&connection, &trap.display().to_string(), port.local_addr().unwrap().port());
        let running = Running::default();
        watch_the_time(&instance, &connection, Arc::clone(&running), moment);

        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, &trap, inotify::WatchFlags::ALL_EVENTS).unwrap();
        let mut sandbox = Self { connection, files, watch, port, running, statements: 0, state: String::new() };
        sandbox.state = sandbox.look();
        sandbox
    }

    /// Names of tripwires, for statements to try.
    pub(super) fn tripwires(&self) -> Vec<String> {
        let trap = self.files.path().join("trap");
        let port = self.port.local_addr().unwrap().port();
        vec![
            trap.join("canary.csv").display().to_string(),
            trap.join("*").display().to_string(),
            format!("file://{}", trap.join("canary.csv").display()),
            trap.join("out").display().to_string(),
            format!("http://127.0.0.1:{port}/canary.csv"),
            "vault.main.secret".to_owned(),
        ]
    }

    /// Runs a statement for a moment, and says which tripwire it has touched. Whether it works is not asked.
    pub(super) fn run(&mut self, sql: &str, system: &[SystemObject]) -> Result<(), String> {
        self.connection.run("BEGIN").map_err(|error| format!("no transaction: {}", error.message))?;
        *self.running.lock().unwrap() = Some(Instant::now());
        for SystemObject { kind, name, definition } in system {
            // What cannot be made is missing when the statement runs.
            let _ = self.connection.run(&format!("CREATE TEMP {kind} {name}{definition}"));
        }
        let done = self.try_run(sql);
        *self.running.lock().unwrap() = None;
        // An interrupt that came too late would end the roll-back.
        while self.connection.run("ROLLBACK").is_err_and(|error| error.message.contains("Interrupt")) {}
        if let Err(error) = done
            && error.message.contains("one statement at a time")
        {
            return Err(error.message);
        }
        self.touched()?;
        self.statements += 1;
        if self.statements.is_multiple_of(LOOK_EVERY) {
            let state = self.look();
            if state != self.state {
                return Err(format!("the instance was changed by one of {LOOK_EVERY}: {} is now {state}", self.state));
            }
        }
        Ok(())
    }

    fn try_run(&self, sql: &str) -> EngineResult<()> {
        let mut statement = self.connection.prepare(sql)?;
        for at in 0..statement.parameter_count() {
            statement.bind(at, &Scalar::Null)?;
        }
        if let Outcome::Rows(mut rows) = statement.stream()? {
            for _ in 0..BATCHES {
                if rows.next_batch()?.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn touched(&self) -> Result<(), String> {
        let mut events = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.watch, &mut events);
        if let Ok(event) = reader.next() {
            return Err(format!("a file was touched: {:?} {:?}", event.file_name(), event.events()));
        }
        if let Ok((_, peer)) = self.port.accept() {
            return Err(format!("the port was reached from {peer}"));
        }
        Ok(())
    }

    /// What no statement of a client may change.
    fn look(&self) -> String {
        let text = |sql: &str| {
            let mut statement = self.connection.prepare(sql).unwrap();
            let Outcome::Rows(mut rows) = statement.complete().unwrap() else { panic!("no rows of {sql}") };
            let batch = rows.next_batch().unwrap().unwrap();
            arrow::util::display::array_value_to_string(batch.column(0), 0).unwrap()
        };
        [
            "SELECT md5(string_agg(name || '=' || value, ';' ORDER BY name)) FROM duckdb_settings()",
            "SELECT string_agg(database_name || coalesce(path, ''), ';' ORDER BY 1) FROM duckdb_databases()",
            "SELECT count(*) || '' FROM duckdb_secrets()",
            "SELECT string_agg(table_name, ';' ORDER BY ALL) FROM duckdb_tables()",
            "SELECT count(*) || '' FROM duckdb_views()",
            "SELECT count(*) || '' FROM duckdb_functions()",
        ]
        .map(text)
        .join(" | ")
    }
}

fn furnish(connection: &Connection, trap: &str, port: u16) {
    let run = |sql: &str| connection.run(sql).unwrap_or_else(|error| panic!("{sql}: {}", error.message));
    for catalog in ["lake", "\"Gold\"", "vault"] {
        run(&format!("ATTACH ':memory:' AS {catalog}"));
    }
    for schema in ["lake.bronze", "lake.silver", "\"Gold\".bronze", "\"Gold\".mart"] {
        run(&format!("CREATE SCHEMA {schema}"));
    }
    for table in TABLES {
        run(&format!("CREATE TABLE {table} (a BIGINT, b VARCHAR, x INTEGER, y DOUBLE, d DATE)"));
        run(&format!("INSERT INTO {table} SELECT i, 'b' || i, i % 3, i / 2, DATE '2024-01-01' FROM range(20) r(i)"));
    }
    run(
        "CREATE TEMP TABLE listed_schemata AS SELECT 'lake' AS catalog_name, 'bronze' AS schema_name;
         CREATE TEMP TABLE listed_tables AS SELECT 'lake' AS table_catalog, 'bronze' AS table_schema, 't' AS table_name, 'BASE TABLE' AS table_type;
         CREATE TEMP TABLE listed_columns AS SELECT 'lake' AS table_catalog, 'bronze' AS table_schema, 't' AS table_name, 'a' AS column_name,
             1 AS ordinal_position, NULL::VARCHAR AS column_default, 'YES' AS is_nullable, 'BIGINT' AS data_type, NULL::VARCHAR AS comment;
         CREATE TEMP TABLE listed_described AS FROM listed_columns",
    );
    let traps = TRAPS.iter().map(|name| format!("memory.main.{name}"));
    for name in traps.chain(["vault.main.secret", "vault.main.t", "temp.main.secret"].map(str::to_owned)) {
        let kind = if name.starts_with("temp") { "TEMP VIEW" } else { "VIEW" };
        run(&format!("CREATE {kind} {name} AS SELECT * FROM read_csv('{trap}/canary.csv')"));
    }
    run("SET GLOBAL http_timeout = 1");
    run("SET GLOBAL http_retries = 0");
    // What a worker's lock-down closes, and the tripwires left open: the guard is the only wall before them.
    run(&format!("SET GLOBAL allowed_directories = ['{trap}/', 'http://127.0.0.1:{port}/']"));
    run("SET GLOBAL enable_external_access = false");
    run("SET GLOBAL lock_configuration = true");
}

/// Interrupts what runs for longer than a moment, for as long as the instance is there.
fn watch_the_time(instance: &Instance, connection: &Connection, running: Running, moment: Duration) {
    let (instance, interrupter) = (instance.clone(), connection.interrupter());
    std::thread::spawn(move || {
        let _instance = instance;
        loop {
            std::thread::sleep(Duration::from_millis(5));
            let since = running.lock().unwrap();
            if since.is_some_and(|since| since.elapsed() > moment) {
                interrupter.interrupt();
            }
        }
    });
}

/// The wires do trip: without it, their silence would say nothing.
#[test]
fn the_tripwires_trip() {
    // A moment may be too short to get as far as the wire on a busy machine.
    let mut sandbox = Sandbox::with(Duration::from_secs(5));
    let wires = sandbox.tripwires();
    for (sql, touched) in [
        ("SELECT * FROM lake.bronze.t".to_owned(), false),
        ("SELECT count(*) FROM range(100000000000)".to_owned(), false),
        (format!("SELECT * FROM read_text('{}')", wires[0]), true),
        (format!("SELECT * FROM glob('{}')", wires[1]), true),
        ("SELECT 1 FROM t".to_owned(), true),
        ("SELECT 1 FROM vault.main.secret LIMIT 0".to_owned(), true),
        (format!("SELECT * FROM read_text('{}')", wires[4]), true),
        (format!("COPY (SELECT 1) TO '{}' (FORMAT csv)", wires[3]), true),
        ("SELECT 1; SELECT 2".to_owned(), true),
    ] {
        let outcome = sandbox.run(&sql, &[]);
        assert_eq!(outcome.is_err(), touched, "{sql}: {outcome:?}");
        while sandbox.touched().is_err() {}
    }
}
