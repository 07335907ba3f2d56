//! A real MinIO on loopback, with its STS. Ended when dropped.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use polynya::relay::storage::sign::{Keys, Signed, sha256};
use polynya::secret::SecretString;
use tempfile::TempDir;

/// The keys of its root user.
pub const KEY: &str = "polynya-root";
pub const SECRET: &str = "not-to-be-seen-anywhere";

/// How long it may take to come up on a loaded machine.
const START: Duration = Duration::from_secs(180);

/// How often it is started on other ports, when somebody else has taken those that were free.
const TRIES: usize = 5;

/// A running store.
pub struct Minio {
    child: Child,
    /// `http://127.0.0.1:<port>`.
    pub endpoint: String,
    dir: TempDir,
}

/// Temporary keys.
#[derive(Clone, Debug)]
pub struct Temporary {
    pub key: String,
    pub secret: String,
    pub token: String,
}

impl Minio {
    /// A store with this bucket, which takes any region.
    pub async fn start(bucket: &str) -> Self {
        Self::start_in(bucket, "").await
    }

    /// The same in a region, without which it refuses signatures.
    pub async fn start_in(bucket: &str, region: &str) -> Self {
        let program = std::env::var("POLYNYA_MINIO").expect("POLYNYA_MINIO is not set: run the tests by `make test`");
        let dir = TempDir::new().expect("a directory");
        // To MinIO a directory beside its own is a bucket.
        std::fs::create_dir(dir.path().join(bucket)).expect("a bucket");
        let (child, endpoint) = spawn(&program, &dir, region);
        let (mut minio, mut tries) = (Self { child, endpoint, dir }, 1);
        while !minio.comes_up().await {
            assert!(tries < TRIES, "MinIO has ended {tries} times");
            tries += 1;
            (minio.child, minio.endpoint) = spawn(&program, &minio.dir, region);
        }
        minio
    }

    /// Gives a bucket another name, as if the one of this name were gone.
    pub fn rename_bucket(&self, from: &str, to: &str) {
        std::fs::rename(self.dir.path().join(from), self.dir.path().join(to)).expect("a bucket");
    }

    /// Waits until it answers, or has ended: somebody else may have taken a port of its.
    async fn comes_up(&mut self) -> bool {
        let until = Instant::now() + START;
        let client = reqwest::Client::new();
        loop {
            let answer = client.get(format!("{}/minio/health/cluster", self.endpoint)).send().await;
            if self.child.try_wait().expect("a status").is_some() {
                return false;
            }
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            assert!(Instant::now() < until, "MinIO did not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Keys for 15 minutes, which is the least that STS gives.
    pub async fn assume_role(&self) -> Temporary {
        let body = "Action=AssumeRole&Version=2011-06-15&DurationSeconds=900";
        let host = self.endpoint.trim_start_matches("http://");
        let payload = sha256(body.as_bytes());
        let keys = Keys { id: KEY.to_owned(), secret: SecretString::from(SECRET), session_token: None };
        let signed =
            Signed { method: "POST", host, path: "/", query: "", payload: &payload, service: "sts", region: "us-east-1" };
        let mut request = reqwest::Client::new().post(format!("{}/", self.endpoint)).body(body);
        request = request.header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in keys.sign(&signed, SystemTime::now()) {
            request = request.header(name, value);
        }
        let text = request.send().await.expect("STS").text().await.expect("an answer");
        let part = |name: &str| {
            let inner = text.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
            inner.unwrap_or_else(|| panic!("no {name} in {text}")).0.to_owned()
        };
        Temporary { key: part("AccessKeyId"), secret: part("SecretAccessKey"), token: part("SessionToken") }
    }
}

/// A process that is on its way, and its endpoint.
fn spawn(program: &str, dir: &TempDir, region: &str) -> (Child, String) {
    let free = || TcpListener::bind("127.0.0.1:0").expect("a port");
    // Both are held until both are known, so that they differ.
    let [address, console] = [free(), free()].map(|port| port.local_addr().expect("a port"));
    let log = std::fs::File::create(dir.path().join("..").join(format!("minio-{}.log", address.port()))).ok();
    let child = Command::new(program)
        .args(["server", "--quiet", "--address", &address.to_string(), "--console-address", &console.to_string()])
        .arg(dir.path())
        .env("MINIO_ROOT_USER", KEY)
        .env("MINIO_ROOT_PASSWORD", SECRET)
        .env("MINIO_SITE_REGION", region)
        .env("MINIO_BROWSER", "off")
        .env("MINIO_UPDATE", "off")
        .env("MINIO_CI_CD", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.map_or_else(Stdio::null, Stdio::from))
        .spawn()
        .expect("MinIO");
    (child, format!("http://{address}"))
}

impl Drop for Minio {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
