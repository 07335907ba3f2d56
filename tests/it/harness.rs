//! Starts what the tests talk to: real `polynya serve` processes on port 0, the Iceberg reference REST server, and programs that
//! drive stock clients. Everything ends with its value. A missing part fails the test and says how to get it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::{Stream, StreamExt, TryStreamExt};
use tempfile::TempDir;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

/// How long a server may take to come up on a loaded machine.
const START: Duration = Duration::from_secs(180);

/// Catalogs are asked how they are once, when a gateway starts: tests count what they are asked for.
const SELDOM: &str = "health.interval=1h";

/// A running gateway; killed when dropped.
pub struct Gateway {
    child: Child,
    /// `127.0.0.1:<port>`.
    pub addr: String,
    uri: String,
    /// Where its embedded catalog and log are; removed with the last gateway on it.
    pub dir: Arc<TempDir>,
}

/// A variable that `make test` sets.
pub fn part(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run the tests by `make test`, which fetches every part"))
}

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn polynya() -> Command {
    Command::new(env!("CARGO_BIN_EXE_polynya"))
}

/// `--set` pairs by which only the user `ada` with the password `correct horse` is let in.
pub fn user_ada() -> [String; 2] {
    // Each hash has a salt of its own, and a session ends with the hash that it was opened by.
    static ADA: OnceLock<[String; 2]> = OnceLock::new();
    ADA.get_or_init(hashed_ada).clone()
}

fn hashed_ada() -> [String; 2] {
    let mut child =
        polynya().arg("hash-password").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the polynya binary");
    std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), b"correct horse\n").expect("the password");
    let output = child.wait_with_output().expect("the hash");
    let hash = String::from_utf8(output.stdout).expect("text");
    ["auth.mode=users".to_owned(), format!("auth.users=[{{name: ada, password_hash: '{}'}}]", hash.trim())]
}

impl Gateway {
    /// A gateway on an embedded catalog of its own, open to everybody on loopback.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with `--set` pairs.
    pub fn with(set: &[&str]) -> Self {
        Self::in_dir(Arc::new(TempDir::new().expect("a directory")), set)
    }

    /// The same with variables in its environment.
    pub fn with_env(set: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::spawn(Arc::new(TempDir::new().expect("a directory")), polynya(), set, variables)
    }

    /// The same, started by a shell that leaves this file open as number 9.
    pub fn with_open_file(file: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec 9<\"$0\"; exec \"$@\""]).arg(file).arg(env!("CARGO_BIN_EXE_polynya"));
        Self::spawn(Arc::new(TempDir::new().expect("a directory")), shell, &[], &[])
    }

    /// A gateway whose embedded catalog lies in this directory.
    pub fn in_dir(dir: Arc<TempDir>, set: &[&str]) -> Self {
        Self::spawn(dir, polynya(), set, &[])
    }

    /// A gateway of these config files, with variables in its environment. It has the catalogs that they name, and no other.
    pub fn of_files(files: &[PathBuf], set: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = polynya();
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        files.iter().for_each(|file| {
            command.arg("--config").arg(file);
        });
        Self::serve(Arc::new(TempDir::new().expect("a directory")), command, set, variables)
    }

    fn spawn(dir: Arc<TempDir>, mut command: Command, set: &[&str], variables: &[(&str, &str)]) -> Self {
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--set"])
            .arg(format!("catalogs.lake.path={}", dir.path().join("lake").display()));
        Self::serve(dir, command, set, variables)
    }

    fn serve(dir: Arc<TempDir>, mut command: Command, set: &[&str], variables: &[(&str, &str)]) -> Self {
        command.envs(variables.iter().copied());
        command.arg("--set").arg(format!("pool.run_dir={}", dir.path().display()));
        for pair in [SELDOM].iter().chain(set) {
            command.args(["--set", pair]);
        }
        let log = std::fs::File::create(dir.path().join("log")).expect("a log file");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().expect("the polynya binary");
        let uri = first_line_with(&mut child, "Flight SQL at ").unwrap_or_else(|| {
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            panic!("the gateway did not come up:\n{log}")
        });
        let addr = uri.split("://").last().expect("an address").to_owned();
        Self { child, addr, uri, dir }
    }

    /// `grpc://…`, or `grpc+tls://…` when it serves TLS.
    pub fn uri(&self) -> String {
        self.uri.clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addr)).expect("an address").connect().await.expect("a connection")
    }

    /// A connection with TLS, if the handshake works.
    pub async fn tls_channel(&self, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
        Endpoint::from_shared(format!("https://{}", self.addr)).expect("an address").tls_config(tls)?.connect().await
    }

    pub async fn client(&self) -> FlightSqlServiceClient<Channel> {
        FlightSqlServiceClient::new(self.channel().await)
    }

    /// Rows of a query by an anonymous client.
    pub async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>, tonic::Status> {
        query(&mut self.client().await, sql).await
    }

    /// A statement that must work.
    pub async fn run(&self, sql: &str) {
        self.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}\n{}", self.log()));
    }

    /// One value as text.
    pub async fn value(&self, sql: &str) -> String {
        let batches = self.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}\n{}", self.log()));
        let batch = batches.iter().find(|b| b.num_rows() > 0).unwrap_or_else(|| panic!("{sql}: no row"));
        arrow::util::display::array_value_to_string(batch.column(0), 0).expect("a value")
    }

    /// SIGTERM; gives the exit status and the directory.
    pub fn terminate(self) -> (ExitStatus, Arc<TempDir>) {
        self.tell_to_end();
        let dir = Arc::clone(&self.dir);
        (self.ended(START).0, dir)
    }

    /// SIGTERM.
    pub fn tell_to_end(&self) {
        rustix::process::kill_process(pid(self.pid()), rustix::process::Signal::TERM).expect("a signal");
    }

    /// Waits until it has ended; gives the exit status and the log.
    pub fn ended(mut self, limit: Duration) -> (ExitStatus, String) {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return (status, self.log());
            }
            assert!(Instant::now() < until, "the gateway did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Process ids of its workers.
    pub fn workers(&self) -> Vec<u32> {
        children(self.pid())
    }

    /// The same when each of them is set up: a spare that was only just begun has given up nothing yet.
    #[track_caller]
    pub fn ready_workers(&self) -> Vec<u32> {
        let mut ready = Vec::new();
        until("all workers are set up", START, || {
            ready = self.workers();
            // It is the last thing that a worker makes before it says that it is ready.
            ready.len() == sockets(self.dir.path())
        });
        ready
    }

    /// Waits until a statement works that may be refused for a while.
    pub async fn runs_again(&self, what: &str, sql: &str) {
        runs_again(&mut self.client().await, what, sql).await;
    }
}

/// The same by this client.
pub async fn runs_again(client: &mut FlightSqlServiceClient<Channel>, what: &str, sql: &str) {
    let end = Instant::now() + START;
    while let Err(status) = query(client, sql).await {
        assert!(Instant::now() < end, "not within {START:?}: {what}: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn pid(pid: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid")
}

/// SIGKILL to a process that a test started.
pub fn kill(pid: u32) {
    let _ = rustix::process::kill_process(self::pid(pid), rustix::process::Signal::KILL);
}

/// A process that lives and does nothing until this is dropped.
pub struct Stopped(u32);

/// SIGSTOP.
pub fn stop(pid: u32) -> Stopped {
    let _ = rustix::process::kill_process(self::pid(pid), rustix::process::Signal::STOP);
    Stopped(pid)
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(pid(self.0), rustix::process::Signal::CONT);
    }
}

/// Waits until something is so, and fails when it is not in time.
#[track_caller]
pub fn until(what: &str, limit: Duration, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !reached() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// CPU time of a process in clock ticks.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.get(11).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0)
        + fields.get(12).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0)
}

/// A port of this machine that refuses connections, and that nobody else takes while this lives.
pub struct Nobody(tokio::net::TcpSocket);

impl Nobody {
    pub fn new() -> Self {
        // Bound, and not listened at.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        Self(socket)
    }

    /// `127.0.0.1:<port>`.
    pub fn addr(&self) -> std::net::SocketAddr {
        self.0.local_addr().expect("an address")
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub files: usize,
    pub threads: usize,
    pub resident_mb: u64,
    /// The most that was resident so far.
    pub peak_mb: u64,
}

/// What a process holds now.
pub fn held(pid: u32) -> Held {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let number = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of the status");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    // The gateway is not dumpable, which keeps the list of its files to root. Others see the size of the table, which grows in steps.
    let listed = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    let files = listed.unwrap_or_else(|_| usize::try_from(number("FDSize:")).expect("a size"));
    let threads = usize::try_from(number("Threads:")).expect("a number");
    Held { files, threads, resident_mb: number("VmRSS:") / 1024, peak_mb: number("VmHWM:") / 1024 }
}

/// How many workers have the socket by which they take statements, below a directory.
fn sockets(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let count = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => sockets(&entry.path()),
        _ => usize::from(entry.file_name() == "worker.sock"),
    };
    entries.map(count).sum()
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of the gateway ----\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An opened result.
pub async fn open(
    client: &mut FlightSqlServiceClient<Channel>,
    sql: &str,
) -> Result<impl Stream<Item = Result<RecordBatch, tonic::Status>> + use<>, tonic::Status> {
    let info = client.execute(sql.to_owned(), None).await.map_err(status)?;
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    Ok(client.do_get(ticket).await.map_err(status)?.map_err(status))
}

/// A result of which one batch was read.
pub async fn begun(
    client: &mut FlightSqlServiceClient<Channel>,
    sql: &str,
) -> Result<impl Stream<Item = Result<RecordBatch, tonic::Status>> + use<>, tonic::Status> {
    let mut stream = open(client, sql).await?;
    stream.next().await.expect("a batch")?;
    Ok(stream)
}

/// Rows of a query by this client.
pub async fn query(client: &mut FlightSqlServiceClient<Channel>, sql: &str) -> Result<Vec<RecordBatch>, tonic::Status> {
    let info = client.execute(sql.to_owned(), None).await.map_err(status)?;
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let ticket = endpoint.ticket.expect("a ticket");
        let stream = client.do_get(ticket).await.map_err(status)?;
        let rows: Vec<RecordBatch> = stream.try_collect().await.map_err(status)?;
        batches.extend(rows);
    }
    Ok(batches)
}

/// The status inside an error of the Flight client.
pub fn status(error: FlightError) -> tonic::Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => tonic::Status::unknown(other.to_string()),
    }
}

/// Waits for a line of the child's output with this word; gives what stands behind it, up to white space.
fn first_line_with(child: &mut Child, word: &str) -> Option<String> {
    let output = child.stdout.take().expect("a piped output");
    let (found, wait) = std::sync::mpsc::channel();
    let word = word.to_owned();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(at) = line.find(&word) {
                let rest = line[at + word.len()..].split_whitespace().next().unwrap_or_default().to_owned();
                // Nobody listens after the first; the thread goes on so that the child never blocks on its output.
                let _ = found.send(rest);
            }
        }
    });
    wait.recv_timeout(START).ok()
}

/// The Iceberg project's own reference REST catalog on a SQLite file; ended when dropped.
pub struct ReferenceRest {
    child: Child,
    pub port: u16,
    /// Its warehouse and database.
    pub dir: TempDir,
}

impl ReferenceRest {
    /// With its warehouse in its directory.
    pub fn start() -> Self {
        let dir = TempDir::new().expect("a directory");
        let warehouse = format!("file://{}", dir.path().join("warehouse").display());
        Self::spawn(dir, &warehouse)
    }

    /// With its warehouse elsewhere, such as `s3://bucket/warehouse`.
    pub fn start_on(warehouse: &str) -> Self {
        Self::spawn(TempDir::new().expect("a directory"), warehouse)
    }

    fn spawn(dir: TempDir, warehouse: &str) -> Self {
        let classpath = part("POLYNYA_ICEBERG_REST_CLASSPATH");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log file");
        let mut child = Command::new("java")
            .args(["-Xmx512m", "-cp", &classpath, "RestCatalogMain"])
            .arg(dir.path().join("catalog.db"))
            .arg(warehouse)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("java, from a JDK");
        let port = first_line_with(&mut child, "LISTENING ").unwrap_or_else(|| {
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            panic!("the reference REST server did not come up:\n{log}")
        });
        Self { child, port: port.parse().expect("a port"), dir }
    }

    /// `--set` pairs that add it as catalog `rest`, by its token endpoint.
    pub fn settings(&self) -> Vec<String> {
        vec![
            "catalogs.rest.type=rest".to_owned(),
            format!("catalogs.rest.uri=http://127.0.0.1:{}", self.port),
            "catalogs.rest.warehouse=main".to_owned(),
            "catalogs.rest.credentials={type: oauth2, client_id: gateway, client_secret: secret, scope: catalog}".to_owned(),
            format!("catalogs.rest.allowed_locations=['file://{}']", self.dir.path().join("warehouse").display()),
        ]
    }
}

impl Drop for ReferenceRest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "---- log of the reference server ----\n{}",
                std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program under `tests/clients/`, with the stock drivers of `make setup`.
pub struct Program {
    command: Command,
}

impl Program {
    pub fn python(name: &str, gateway: &Gateway) -> Self {
        let mut command = Command::new(part("POLYNYA_CLIENTS_PYTHON"));
        command.arg(root().join("tests/clients").join(name));
        command.env("POLYNYA_URI", gateway.uri());
        Self { command }
    }

    pub fn java(name: &str, gateway: &Gateway, options: &str) -> Self {
        let mut command = Command::new("java");
        command
            .args(["--add-opens=java.base/java.nio=ALL-UNNAMED", "-Xmx512m", "-cp", &part("POLYNYA_JDBC_JAR")])
            .arg(root().join("tests/clients").join(name))
            .arg(format!("jdbc:arrow-flight-sql://{}/?useEncryption={}{options}", gateway.addr, gateway.uri.contains("+tls")));
        Self { command }
    }

    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs it; it must not exit with 0. Gives what it wrote to standard output and standard error.
    pub fn fail(mut self) -> String {
        let output = self.command.stdin(Stdio::null()).output().expect("the program");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(!output.status.success(), "{:?} worked:\n{text}", self.command);
        text
    }

    /// Runs it; it must exit with 0. Gives its output.
    pub fn succeed(mut self) -> String {
        let output = self.command.stdin(Stdio::null()).output().expect("the program");
        succeeded(&self.command, output)
    }
}

/// Standard output of a command that must have worked.
pub fn succeeded(command: &Command, output: Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed ({}):\n{out}\n{err}", output.status);
    out.into_owned()
}
