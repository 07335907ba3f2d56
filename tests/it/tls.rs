//! TLS on the port: stock clients with and without certificates, what each is told when it is refused, certificates that are replaced
//! while clients read, and strangers who never finish a handshake.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{Int64Array, RecordBatch};
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::{Gateway, Program, begun, held, polynya, query, succeeded, until};
use crate::pki::{Authority, Certified, Files, trusting};

/// An authority, a gateway with a certificate of it, and the files of both.
struct Lake {
    authority: Authority,
    clients: Authority,
    files: Files,
    gateway: Gateway,
}

impl Lake {
    /// `client_certificates`, and further `--set` pairs.
    fn with(client_certificates: &str, more: &[&str]) -> Self {
        let (authority, clients, files) = (Authority::new("servers"), Authority::new("clients"), Files::new());
        files.write("ca.crt", &authority.pem);
        let [cert, key] = files.certified("server", &authority.server("first"));
        let mut set = vec![format!("flight.tls.cert_file={cert}"), format!("flight.tls.key_file={key}")];
        set.push("flight.tls.reload=100ms".to_owned());
        // A JVM on a busy machine takes a while to load what it needs for its first handshake.
        set.push("flight.handshake_timeout=2m".to_owned());
        if client_certificates != "none" {
            set.push(format!("flight.tls.client_certificates={client_certificates}"));
            set.push(format!("flight.tls.client_ca_file={}", files.write("clients.crt", &clients.pem)));
        }
        let set: Vec<&str> = set.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let gateway = Gateway::with(&set);
        Self { authority, clients, files, gateway }
    }

    fn open() -> Self {
        Self::with("none", &[])
    }

    async fn client(&self, shown: Option<&Certified>) -> Result<FlightSqlServiceClient<Channel>, tonic::transport::Error> {
        Ok(FlightSqlServiceClient::new(self.gateway.tls_channel(trusting(&self.authority, shown)).await?))
    }

    /// Whether a client with this certificate can run a statement.
    async fn lets_in(&self, shown: Option<&Certified>) -> bool {
        match self.client(shown).await {
            Ok(mut client) => query(&mut client, "SELECT 1").await.is_ok(),
            Err(_) => false,
        }
    }

    /// `polynya query` with the right authority and these options; what it wrote, and whether it worked.
    fn command_line(&self, options: &[&str]) -> (bool, String) {
        let ca = self.files.path("ca.crt").display().to_string();
        ask(&[&["--uri", &self.gateway.uri(), "--tls-ca", &ca], options].concat())
    }

    /// The certificate that a new connection gets, by its common name.
    fn served(&self) -> String {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
        let mut socket = TcpStream::connect(&self.gateway.addr).expect("a connection");
        while session.is_handshaking() {
            session.complete_io(&mut socket).expect("a handshake");
        }
        let certificate = session.peer_certificates().expect("a certificate")[0].clone();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).expect("a certificate");
        parsed.subject().iter_common_name().last().expect("a name").as_str().expect("text").to_owned()
    }

    fn replace_certificate(&self, certified: &Certified) {
        self.files.certified("server", certified);
    }

    fn refusals(&self, reason: &str) -> usize {
        self.gateway.log().lines().filter(|line| line.contains("a connection was refused") && line.contains(reason)).count()
    }
}

/// `polynya query 'SELECT 42 AS answer'` with these options.
fn ask(options: &[&str]) -> (bool, String) {
    let output = polynya().args(["query", "SELECT 42 AS answer", "--format", "csv"]).args(options).output().expect("the command");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

#[track_caller]
fn says(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "no {wanted:?} in: {text}");
    }
}

fn adbc(gateway: &Gateway, ca: &str, cert: Option<&[String; 2]>) -> Program {
    with_files(Program::python("adbc_query.py", gateway).arg("SELECT 42"), ca, cert)
}

fn with_files(program: Program, ca: &str, cert: Option<&[String; 2]>) -> Program {
    let program = program.env("POLYNYA_TLS_CA", ca);
    match cert {
        Some([cert, key]) => program.env("POLYNYA_TLS_CERT", cert).env("POLYNYA_TLS_KEY", key),
        None => program,
    }
}

fn jdbc(gateway: &Gateway, ca: &str, cert: Option<&[String; 2]>) -> Program {
    Program::java("JdbcQuery.java", gateway, &jdbc_options(ca, cert)).arg("SELECT 42")
}

fn jdbc_options(ca: &str, cert: Option<&[String; 2]>) -> String {
    let shown = cert.map(|[cert, key]| format!("&clientCertificate={cert}&clientKey={key}"));
    format!("&tlsRootCerts={ca}{}", shown.unwrap_or_default())
}

#[test]
fn the_stock_adbc_driver_does_all_that_its_users_do_with_certificates() {
    let lake = Lake::with("required", &[]);
    let shown = lake.files.certified("ada", &lake.clients.client("ada"));
    let ca = lake.files.write("ca.crt", &lake.authority.pem);
    with_files(Program::python("adbc_basic.py", &lake.gateway), &ca, Some(&shown)).succeed();
}

#[test]
fn the_stock_jdbc_driver_does_all_that_its_users_do_with_certificates() {
    let lake = Lake::with("required", &[]);
    let shown = lake.files.certified("ada", &lake.clients.client("ada"));
    let ca = lake.files.write("ca.crt", &lake.authority.pem);
    Program::java("JdbcBasic.java", &lake.gateway, &jdbc_options(&ca, Some(&shown))).succeed();
}

#[test]
fn each_client_knows_the_server_by_its_authority_only() {
    let lake = Lake::open();
    let right = lake.files.write("ca.crt", &lake.authority.pem);
    let wrong = lake.files.write("wrong.crt", &Authority::new("another").pem);
    says(&adbc(&lake.gateway, &right, None).succeed(), &["42"]);
    says(&adbc(&lake.gateway, &wrong, None).fail(), &["certificate signed by unknown authority"]);
    says(&jdbc(&lake.gateway, &right, None).succeed(), &["42"]);
    jdbc(&lake.gateway, &wrong, None).fail();

    let store = lake.files.path("store.p12").display().to_string();
    let mut keytool = std::process::Command::new("keytool");
    keytool.args(["-importcert", "-noprompt", "-alias", "lake", "-storepass", "changeit", "-file", &right, "-keystore", &store]);
    let output = keytool.output().expect("keytool, from a JDK");
    succeeded(&keytool, output);
    let by_store = format!("&useSystemTrustStore=false&trustStore={store}&trustStorePassword=changeit");
    says(&Program::java("JdbcQuery.java", &lake.gateway, &by_store).arg("SELECT 42").succeed(), &["42"]);

    assert_eq!(lake.command_line(&[]), (true, "answer\n42\n".to_owned()));
    let (worked, text) = ask(&["--uri", &lake.gateway.uri(), "--tls-ca", &wrong]);
    assert!(!worked);
    says(&text, &["comes from none of the trusted authorities", "--tls-ca"]);
    // Without an option the system's authorities count.
    assert!(!ask(&["--uri", &lake.gateway.uri()]).0);
    let mut by_variable = polynya();
    by_variable.args(["query", "SELECT 42 AS answer", "--uri", &lake.gateway.uri()]).env("SSL_CERT_FILE", &right);
    let output = by_variable.output().expect("the command");
    says(&succeeded(&by_variable, output), &["42"]);
    until("the log says why", Duration::from_secs(5), || lake.refusals("UnknownCA") > 0);
}

#[test]
fn the_host_name_is_checked() {
    let lake = Lake::open();
    lake.replace_certificate(&lake.authority.server_elsewhere("elsewhere.example.com"));
    until("the new certificate", Duration::from_secs(10), || {
        let (_, text) = lake.command_line(&[]);
        text.contains("is not for 127.0.0.1, but for") && text.contains("elsewhere.example.com")
    });
}

#[tokio::test]
async fn client_certificates_are_not_asked_for_or_optional_or_required() {
    for (setting, without, with, of_others) in
        [("none", true, true, true), ("optional", true, true, false), ("required", false, true, false)]
    {
        let lake = Lake::with(setting, &[]);
        let (known, stranger) = (lake.clients.client("ada"), Authority::new("another").client("ada"));
        assert_eq!(lake.lets_in(None).await, without, "{setting}: none shown");
        assert_eq!(lake.lets_in(Some(&known)).await, with, "{setting}: of the authority");
        assert_eq!(lake.lets_in(Some(&stranger)).await, of_others, "{setting}: of another authority");
        let expired = lake.clients.client_until("ada", SystemTime::now() - Duration::from_secs(60));
        assert_eq!(lake.lets_in(Some(&expired)).await, of_others, "{setting}: expired");
        if setting == "required" {
            until("the log says why", Duration::from_secs(5), || {
                ["UnknownIssuer", "expired", "no certificates"].iter().all(|reason| lake.refusals(reason) > 0)
            });
        }
    }
}

#[test]
fn clients_are_told_what_is_wrong_with_their_certificates() {
    let lake = Lake::with("required", &[]);
    let ca = lake.files.write("ca.crt", &lake.authority.pem);
    let [cert, key] = lake.files.certified("ada", &lake.clients.client("ada"));
    let [strange_cert, strange_key] = lake.files.certified("eve", &Authority::new("another").client("eve"));
    let (worked, text) = lake.command_line(&["--tls-cert", &cert, "--tls-key", &key]);
    assert!(worked, "{text}");
    let (worked, text) = lake.command_line(&[]);
    assert!(!worked);
    says(&text, &["asks for a client certificate", "--tls-cert"]);
    let (worked, text) = lake.command_line(&["--tls-cert", &strange_cert, "--tls-key", &strange_key]);
    assert!(!worked);
    says(&text, &["refuses the client certificate of --tls-cert"]);
    let (worked, text) = lake.command_line(&["--tls-cert", &cert, "--tls-key", &strange_key]);
    assert!(!worked);
    says(&text, &["does not fit", &cert, &strange_key]);
    let (worked, text) = lake.command_line(&["--tls-cert", &key, "--tls-key", &key]);
    assert!(!worked);
    says(&text, &["has no certificate"]);

    says(&adbc(&lake.gateway, &ca, None).fail(), &["certificate required"]);
    // It knows from the server which authorities count, and shows no certificate of another.
    says(&adbc(&lake.gateway, &ca, Some(&[strange_cert.clone(), strange_key.clone()])).fail(), &["certificate required"]);
    jdbc(&lake.gateway, &ca, None).fail();
    jdbc(&lake.gateway, &ca, Some(&[strange_cert, strange_key])).fail();
    says(&jdbc(&lake.gateway, &ca, Some(&[cert, key])).succeed(), &["42"]);
}

#[tokio::test]
async fn calls_are_refused_once_the_certificate_of_their_connection_has_expired() {
    let lake = Lake::with("required", &[]);
    // Its worker is there before the time begins to run.
    let mut early = lake.client(Some(&lake.clients.client("ada"))).await.expect("a connection");
    query(&mut early, "SELECT 1").await.expect("a row");
    let soon = SystemTime::now() + Duration::from_secs(12);
    let mut client = lake.client(Some(&lake.clients.client_until("ada", soon))).await.expect("a connection");
    query(&mut client, "SELECT 1").await.expect("a valid certificate");
    let mut stream = Box::pin(begun(&mut client, "SELECT * FROM range(200000)").await.expect("a stream"));
    let left = soon.duration_since(SystemTime::now()).expect("the certificate was valid when the stream began");
    tokio::time::sleep(left + Duration::from_secs(1)).await;
    let status = query(&mut client, "SELECT 1").await.expect_err("expired");
    assert_eq!(status.code(), Code::Unauthenticated);
    says(status.message(), &["certificate of this connection expired at", "connect again"]);
    while let Some(batch) = stream.next().await {
        batch.expect("what ran may end");
    }
}

const ROWS: i64 = 500_000;

/// A stream that waits for its client after the first batch.
async fn reader(lake: &Lake) -> impl Future<Output = i64> + use<> {
    let mut client = lake.client(None).await.expect("a connection");
    let sql = format!("SELECT * FROM range({ROWS})");
    let info = client.execute(sql, None).await.expect("a ticket");
    let mut stream = client.do_get(info.endpoint[0].ticket.clone().expect("a ticket")).await.expect("a stream");
    let sum = |batch: &RecordBatch| {
        let values: &Int64Array = batch.column(0).as_any().downcast_ref().expect("BIGINT");
        values.values().iter().sum::<i64>()
    };
    let first = sum(&stream.try_next().await.expect("a batch").expect("a batch"));
    async move {
        let _open = client;
        let mut total = first;
        while let Some(batch) = stream.try_next().await.expect("the stream goes on") {
            total += sum(&batch);
        }
        total
    }
}

#[tokio::test]
async fn a_new_certificate_is_served_and_no_stream_drops() {
    let lake = Lake::open();
    let streams = join_all((0..8).map(|_| reader(&lake))).await;
    assert_eq!(lake.served(), "first");
    lake.replace_certificate(&lake.authority.server("second"));
    until("the new certificate", Duration::from_secs(10), || lake.served() == "second");
    let totals = join_all(streams).await;
    assert_eq!(totals, [ROWS * (ROWS - 1) / 2; 8]);
    assert!(lake.lets_in(None).await);
    says(&lake.gateway.log(), &["new connections get this certificate", "CN=second", "not_after="]);
}

#[tokio::test]
async fn broken_files_leave_the_old_certificate_and_are_told_of_once() {
    let lake = Lake::open();
    let told = || lake.gateway.log().lines().filter(|line| line.contains("the changed files cannot be used")).count();
    let broken = [
        ("server.crt", "no certificate", "has no certificate"),
        ("server.crt", "-----BEGIN CERTIFICATE-----\n", "cut short"),
        ("server.key", &*lake.authority.server("another").key, "does not fit"),
    ];
    for (nth, (file, text, reason)) in broken.into_iter().enumerate() {
        lake.files.write(file, text);
        until(reason, Duration::from_secs(10), || told() > nth);
        assert_eq!(told(), nth + 1, "{}", lake.gateway.log());
        if file == "server.crt" {
            assert!(lake.gateway.log().contains(reason), "{}", lake.gateway.log());
        }
        assert_eq!(lake.served(), "first");
    }
    std::fs::remove_file(lake.files.path("server.key")).expect("removed");
    until("unreadable", Duration::from_secs(10), || told() > broken.len());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(told(), broken.len() + 1, "{}", lake.gateway.log());
    assert_eq!(lake.served(), "first");
    lake.replace_certificate(&lake.authority.server("second"));
    until("mended", Duration::from_secs(10), || lake.served() == "second");
}

#[test]
fn a_directory_that_is_swapped_by_a_link_is_noticed() {
    let (authority, files) = (Authority::new("servers"), Files::new());
    for version in ["one", "two"] {
        std::fs::create_dir(files.path(version)).expect("a directory");
        files.certified(&format!("{version}/tls"), &authority.server(version));
    }
    let point_to = |version: &str| {
        std::os::unix::fs::symlink(version, files.path("next")).expect("a link");
        std::fs::rename(files.path("next"), files.path("data")).expect("swapped");
    };
    point_to("one");
    let set = ["cert_file=data/tls.crt", "key_file=data/tls.key"].map(|pair| {
        let (key, file) = pair.split_once('=').expect("a pair");
        format!("flight.tls.{key}={}", files.path(file).display())
    });
    let gateway = Gateway::with(&[&set[0], &set[1], "flight.tls.reload=100ms"]);
    let lake = Lake { clients: Authority::new("clients"), authority, files, gateway };
    assert_eq!(lake.served(), "one");
    std::os::unix::fs::symlink("two", lake.files.path("next")).expect("a link");
    std::fs::rename(lake.files.path("next"), lake.files.path("data")).expect("swapped");
    until("the other directory", Duration::from_secs(10), || lake.served() == "two");
}

#[tokio::test]
async fn other_client_authorities_count_for_new_connections() {
    let lake = Lake::with("required", &[]);
    let (ada, others) = (lake.clients.client("ada"), Authority::new("others"));
    let bob = others.client("bob");
    let mut open = lake.client(Some(&ada)).await.expect("a connection");
    assert!(lake.lets_in(Some(&ada)).await && !lake.lets_in(Some(&bob)).await);
    lake.files.write("clients.crt", &others.pem);
    let end = Instant::now() + Duration::from_secs(10);
    while !lake.lets_in(Some(&bob)).await {
        assert!(Instant::now() < end, "the new authority does not count");
    }
    assert!(!lake.lets_in(Some(&ada)).await, "the old authority still counts");
    query(&mut open, "SELECT 1").await.expect("open connections go on");
}

#[tokio::test]
async fn handshakes_that_never_end_hold_up_nobody() {
    let lake = Lake::with("none", &["flight.handshake_timeout=60s", "flight.max_handshakes=8"]);
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&lake.gateway.addr).expect("a connection")).collect();
    let began = Instant::now();
    assert!(lake.lets_in(None).await);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "a client waited for {took:?}");
    until("the log says why", Duration::from_secs(20), || lake.refusals("others were waiting") >= 12);
    drop(silent);
}

#[test]
fn a_connection_that_does_not_begin_is_closed() {
    let lake = Lake::with("none", &["flight.handshake_timeout=1s"]);
    let plain = Gateway::with(&["flight.handshake_timeout=1s"]);
    for addr in [&lake.gateway.addr, &plain.addr] {
        for sent in [&b""[..], b"PRI * HT", b"\x16\x03\x01"] {
            let mut stream = TcpStream::connect(addr).expect("a connection");
            stream.write_all(sent).expect("written");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a deadline");
            let mut rest = Vec::new();
            // A reset is an end as well.
            let ended = stream.read_to_end(&mut rest);
            assert!(!matches!(&ended, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock), "{sent:?} stays open");
        }
    }
}

#[tokio::test]
async fn two_hundred_broken_handshakes_leave_nothing() {
    let lake = Lake::with("required", &["flight.handshake_timeout=5s", "flight.max_handshakes=64"]);
    let began = Instant::now();
    let known = lake.clients.client("ada");
    assert!(lake.lets_in(Some(&known)).await);
    // A worker that is still being started holds more of the gateway.
    lake.gateway.ready_workers();
    let before = held(lake.gateway.pid());
    let stranger = Authority::new("another").client("eve");
    for nth in 0..40 {
        drop(TcpStream::connect(&lake.gateway.addr).expect("a connection"));
        for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05nonsense"] {
            let mut stream = TcpStream::connect(&lake.gateway.addr).expect("a connection");
            stream.write_all(bytes).expect("written");
            if nth % 10 == 0 {
                // Left open for the deadline.
                std::mem::forget(stream);
            }
        }
        assert!(!lake.lets_in(Some(&stranger)).await);
    }
    until(&format!("what was held is given back, down to {before:?}"), Duration::from_secs(60), || {
        let now = held(lake.gateway.pid());
        now.files <= before.files && now.threads <= before.threads + 2 && now.resident_mb <= before.resident_mb + 50
    });
    let lines = lake.refusals("");
    let minutes = usize::try_from(began.elapsed().as_secs() / 60).expect("few");
    assert!((1..=20 * (1 + minutes)).contains(&lines), "{lines} lines: strangers fill the log");
    assert!(lake.lets_in(Some(&known)).await);
}

#[test]
fn plaintext_at_a_port_with_tls_is_told_so() {
    let lake = Lake::open();
    let plain = lake.gateway.uri().replace("+tls", "");
    let (worked, text) = ask(&["--uri", &plain]);
    assert!(!worked);
    says(&text, &["this port speaks TLS only", "grpc+tls://"]);
    says(
        &Program::python("adbc_query.py", &lake.gateway).arg("SELECT 1").env("POLYNYA_URI", &plain).fail(),
        &["speaks TLS only"],
    );
    let wrong_way = Program::java("JdbcQuery.java", &lake.gateway, "&useEncryption=false").arg("SELECT 1");
    says(&wrong_way.fail(), &["speaks TLS only"]);
    let mut browser = TcpStream::connect(&lake.gateway.addr).expect("a connection");
    browser.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("written");
    let mut text = String::new();
    browser.read_to_string(&mut text).expect("an answer");
    says(&text, &["400 Bad Request", "speaks TLS only"]);
    until("the log says why", Duration::from_secs(5), || lake.refusals("it speaks plaintext, and this port speaks TLS") >= 4);
}

#[test]
fn tls_at_a_port_without_is_told_so() {
    let gateway = Gateway::start();
    let files = Files::new();
    let ca = files.write("ca.crt", &Authority::new("servers").pem);
    let with_tls = gateway.uri().replace("grpc", "grpc+tls");
    let (worked, text) = ask(&["--uri", &with_tls, "--tls-ca", &ca]);
    assert!(!worked);
    says(&text, &["the server speaks plaintext; use", &gateway.uri()]);
    let (worked, text) = ask(&["--uri", &gateway.uri(), "--tls-ca", &ca]);
    assert!(!worked);
    says(&text, &["--tls-ca needs an address with TLS", &with_tls]);
    let adbc = adbc(&gateway, &ca, None).env("POLYNYA_URI", &with_tls);
    says(&adbc.fail(), &["first record does not look like a TLS handshake"]);
    let jdbc = Program::java("JdbcQuery.java", &gateway, "&useEncryption=true").arg("SELECT 1");
    jdbc.fail();
    until("the log says why", Duration::from_secs(5), || {
        gateway.log().contains("it speaks TLS, and this port has none: it needs grpc://")
    });
}

/// A token as large as some identity providers make them.
fn large_token() -> String {
    "x".repeat(16 << 10)
}

async fn large_token_works(channel: Channel) {
    let mut client = FlightSqlServiceClient::new(channel);
    client.set_token(large_token());
    for _ in 0..3 {
        query(&mut client, "SELECT 1").await.expect("a large token");
    }
}

#[tokio::test]
async fn tokens_of_16_kb_work_with_and_without_tls() {
    let (plain, lake) = (Gateway::start(), Lake::open());
    large_token_works(plain.channel().await).await;
    large_token_works(lake.gateway.tls_channel(trusting(&lake.authority, None)).await.expect("a connection")).await;
    let ca = lake.files.write("ca.crt", &lake.authority.pem);
    for gateway in [&plain, &lake.gateway] {
        let program = adbc(gateway, &ca, None).env("POLYNYA_TOKEN", &large_token());
        says(&program.succeed(), &["42"]);
        let program = jdbc(gateway, &ca, None).env("POLYNYA_TOKEN", &large_token());
        says(&program.succeed(), &["42"]);
    }
}

#[test]
fn idle_connections_are_probed_and_those_that_do_not_answer_are_closed() {
    let gateway = Gateway::with(&["flight.keepalive=1s"]);
    let mut stream = TcpStream::connect(&gateway.addr).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a deadline");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("a preface and empty settings");
    let (began, mut pings) = (Instant::now(), Vec::new());
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let mut body = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut body).expect("a whole frame");
        if head[3] == 6 {
            pings.push(began.elapsed());
        }
    }
    assert_eq!(pings.len(), 1, "one probe, which was not answered: {pings:?}");
    assert!(pings[0] < Duration::from_secs(15), "{pings:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "closed after {:?}", began.elapsed());
}
