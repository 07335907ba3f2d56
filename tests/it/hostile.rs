//! Hostile tables: their metadata is in place, but something in it points elsewhere: to files of the machine, to addresses, out of the
//! warehouse by dots, links and spellings. Nothing elsewhere is read or asked, and the other tables go on.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::{Rng, SeedableRng};
use serde_json::json;
use tonic::{Code, Status};

use crate::forge::{Forged, Part, files, made_by_gateway, register, uri};
use crate::harness::{Gateway, ReferenceRest};

/// Stands in the files outside, and is never written in one piece elsewhere.
const SECRET: &str = "canary-77c0f1e5";

/// A lake with honest tables to forge from, and places that no table may reach.
struct Scene {
    gateway: Gateway,
    lake: PathBuf,
    /// Beside the lake: `secret.parquet`, and honest files of a table under plain names.
    outside: PathBuf,
    listener: Listener,
    forged: usize,
}

/// Takes connections on a port and counts them.
struct Listener {
    port: u16,
    taken: Arc<AtomicUsize>,
}

impl Listener {
    fn open() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        std::thread::spawn(move || {
            for _ in socket.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, taken }
    }
}

impl Scene {
    async fn open(set: &[&str]) -> Self {
        let gateway = Gateway::with(set);
        gateway.run("CREATE SCHEMA lake.bronze").await;
        // One with a data file only, one with a Parquet file of deletes, one with a Puffin file of deletes.
        for (table, options) in [("plain", ""), ("deletes", ""), ("vectors", " WITH ('format-version' = 3)")] {
            gateway.run(&format!("CREATE TABLE lake.bronze.{table} (a BIGINT, b VARCHAR){options}")).await;
            gateway.run(&format!("INSERT INTO lake.bronze.{table} VALUES (1, 'one'), (2, 'two'), (3, 'three')")).await;
        }
        for table in ["deletes", "vectors"] {
            gateway.run(&format!("DELETE FROM lake.bronze.{table} WHERE a = 2")).await;
        }
        let (front, back) = SECRET.split_at(5);
        gateway.run(&format!("CREATE TABLE lake.bronze.secret AS SELECT 7::BIGINT AS a, '{front}' || '{back}' AS b")).await;
        let lake = gateway.dir.path().join("lake");
        let outside = gateway.dir.path().join("outside");
        std::fs::create_dir(&outside).expect("a directory");
        let take = |from: &Path, ending: &str, name: &str| {
            let file = files(from, ending).pop().expect("a file");
            std::fs::copy(file, outside.join(name)).expect("a copy");
        };
        let table = |name: &str| made_by_gateway(&lake.join("bronze"), name);
        take(&table("secret").join("data"), ".parquet", "secret.parquet");
        take(&table("deletes").join("data"), "-deletes.parquet", "deletes.parquet");
        take(&table("vectors").join("data"), ".puffin", "vectors.puffin");
        for (name, table) in [("plain", table("plain")), ("deletes", table("deletes"))] {
            let mut honest = Forged::copy(&table, &gateway.dir.path().join(format!("honest-{name}")));
            std::fs::copy(honest.manifest_list(), outside.join(format!("{name}-list.avro"))).expect("a copy");
            std::fs::copy(&honest.manifests(0)[0], outside.join(format!("{name}-manifest.avro"))).expect("a copy");
            if let Some(manifest) = honest.manifests(1).first() {
                std::fs::copy(manifest, outside.join("delete-manifest.avro")).expect("a copy");
            }
        }
        gateway.run("DROP TABLE lake.bronze.secret").await;
        Self { gateway, lake, outside, listener: Listener::open(), forged: 0 }
    }

    /// A copy of one of the honest tables, still unknown to the catalog.
    fn forge(&mut self, original: &str) -> Forged {
        self.forged += 1;
        let bronze = self.lake.join("bronze");
        Forged::copy(&made_by_gateway(&bronze, original), &bronze.join(format!("forged{}", self.forged)))
    }

    /// Enters the table that was forged last, and gives its name.
    async fn enter(&self, location: &str) -> String {
        let name = format!("forged{}", self.forged);
        register(&self.lake, "bronze", &name, location).await;
        format!("lake.bronze.{name}")
    }

    async fn rows(&self, sql: &str) -> Result<String, Status> {
        let rows = self.gateway.query(sql).await?;
        Ok(arrow::util::pretty::pretty_format_batches(&rows).expect("a table").to_string())
    }

    /// Reads and changes a table; each must fail in one of the ways that a client can do something about.
    async fn refused(&self, table: &str, what: &str) -> Status {
        let mut last = None;
        for sql in [format!("SELECT * FROM {table}"), format!("UPDATE {table} SET b = 'x' WHERE a >= 0")] {
            let status = match self.rows(&sql).await {
                Ok(rows) => panic!("{what}: {sql} gave\n{rows}"),
                Err(status) => status,
            };
            let message = status.message();
            assert!(!message.is_empty() && !message.contains(SECRET), "{what}: {status}");
            last.get_or_insert(status);
        }
        last.expect("a status")
    }

    /// What must hold after all of it.
    async fn unharmed(&self) {
        assert_eq!(self.listener.taken.load(Ordering::SeqCst), 0, "something has connected");
        for table in ["plain", "deletes", "vectors"] {
            let rows = if table == "plain" { "123" } else { "13" };
            let sql = format!("SELECT string_agg(a, '' ORDER BY a) FROM lake.bronze.{table}");
            assert_eq!(self.gateway.value(&sql).await, rows, "{table}");
        }
        let log = self.gateway.log();
        assert!(!log.contains(SECRET) && !log.contains("panicked"), "{log}");
    }
}

/// Spellings of places outside of the lake where `file` lies, as far as the machine knows them.
fn places(scene: &Scene, file: &str) -> Vec<String> {
    let (outside, lake) = (scene.outside.display().to_string(), scene.lake.display().to_string());
    let up = "../".repeat(12);
    let port = scene.listener.port;
    // The second time they are there.
    let _ = std::os::unix::fs::symlink(scene.outside.join(file), scene.lake.join(format!("link-{file}")));
    let _ = std::os::unix::fs::symlink(&scene.outside, scene.lake.join("bronze/linked"));
    vec![
        format!("file://{outside}/{file}"),
        format!("file:{outside}/{file}"),
        format!("file:/{outside}/{file}"),
        format!("file:///{outside}/{file}"),
        format!("FILE://{outside}/{file}"),
        format!("file://localhost{outside}/{file}"),
        format!("{outside}/{file}"),
        format!("//{outside}//{file}"),
        format!("file://{lake}/../outside/{file}"),
        format!("{lake}/../outside/{file}"),
        format!("{lake}/bronze/../../outside/{file}"),
        format!("{lake}/./.././outside/{file}"),
        format!("file://{lake}//..//outside//{file}"),
        format!("file://{lake}/%2e%2e/outside/{file}"),
        format!("file://{lake}/%2E%2E%2Foutside%2F{file}"),
        format!("file://{lake}/%252e%252e/outside/{file}"),
        format!("file://{lake}/bronze/linked/{file}"),
        format!("{lake}/link-{file}"),
        format!("{up}{outside}/{file}"),
        format!("/proc/self/root{outside}/{file}"),
        format!("/proc/self/cwd/{up}{outside}/{file}"),
        format!("{outside}/*"),
        format!("{outside}/{file}\0{lake}/x"),
        format!("{file}"),
        "data".to_owned(),
        "file:///etc/passwd".to_owned(),
        "/dev/stdin".to_owned(),
        "/dev/zero".to_owned(),
        "/proc/self/environ".to_owned(),
        format!("http://127.0.0.1:{port}/{file}"),
        format!("HTTP://127.0.0.1:{port}/{file}"),
        format!("https://127.0.0.1:{port}/{file}"),
        format!("s3://bucket/{file}?s3_endpoint=127.0.0.1:{port}&s3_use_ssl=false&s3_url_style=path"),
        format!("s3a://bucket/{file}?s3_endpoint=127.0.0.1:{port}&s3_use_ssl=false&s3_url_style=path"),
        format!("gcs://bucket/{file}?s3_endpoint=127.0.0.1:{port}&s3_use_ssl=false&s3_url_style=path"),
        format!("r2://bucket/{file}?s3_endpoint=127.0.0.1:{port}&s3_use_ssl=false&s3_url_style=path"),
        format!("hf://datasets/x/y/{file}"),
        format!("zip://{outside}/{file}"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_file_elsewhere_is_not_read() {
    let mut scene = Scene::open(&[]).await;
    let size = std::fs::metadata(scene.outside.join("secret.parquet")).expect("the secret").len();
    for place in places(&scene, "secret.parquet") {
        let mut table = scene.forge("plain");
        table.point(Part::DataFile, &place);
        table.say_size(size);
        let name = scene.enter(&table.save()).await;
        scene.refused(&name, &place).await;
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_and_deletes_elsewhere_are_not_read() {
    let mut scene = Scene::open(&[]).await;
    for (part, original, file) in [
        (Part::ManifestList, "plain", "plain-list.avro"),
        (Part::Manifest, "plain", "plain-manifest.avro"),
        (Part::DeleteManifest, "deletes", "delete-manifest.avro"),
        (Part::DeleteFile, "deletes", "deletes.parquet"),
        (Part::DeleteFile, "vectors", "vectors.puffin"),
    ] {
        let mut places = places(&scene, file);
        if part == Part::Manifest {
            // Each costs two workers: the Iceberg extension ends its process when a manifest of data files cannot be read.
            places = [0, 13, 16, 17, 24, 25, 29, 32].map(|at| places[at].clone()).to_vec();
        }
        for place in places {
            let mut table = scene.forge(original);
            table.point(part, &place);
            let name = scene.enter(&table.save()).await;
            scene.refused(&name, &format!("{part:?} at {place}")).await;
        }
    }
    scene.unharmed().await;
}

/// Puts a place into metadata.
type Change = fn(&mut serde_json::Value, &str);

#[tokio::test(flavor = "multi_thread")]
async fn metadata_elsewhere_is_not_read() {
    let mut scene = Scene::open(&[]).await;
    let honest = scene.forge("plain");
    std::fs::copy(honest.save().trim_start_matches("file://"), scene.outside.join("plain.metadata.json")).expect("a copy");
    for place in places(&scene, "plain.metadata.json") {
        scene.forge("plain");
        let name = scene.enter(&place).await;
        scene.refused(&name, &place).await;
    }
    let outside = uri(&scene.outside);
    let changes: [(&str, Change); 6] = [
        ("location", |metadata, place| metadata["location"] = place.into()),
        ("write.data.path", |metadata, place| metadata["properties"] = json!({ "write.data.path": place })),
        ("write.metadata.path", |metadata, place| metadata["properties"] = json!({ "write.metadata.path": place })),
        ("statistics", |metadata, place| metadata["statistics"] = json!([{ "snapshot-id": 1, "statistics-path": place }])),
        ("partition statistics", |metadata, place| {
            metadata["partition-statistics"] = json!([{ "snapshot-id": 1, "statistics-path": place }]);
        }),
        ("manifests of version 1", |metadata, place| {
            let snapshot = &mut metadata["snapshots"][0];
            snapshot["manifest-list"].take();
            snapshot["manifests"] = json!([format!("{place}/plain-manifest.avro")]);
        }),
    ];
    for (what, change) in changes {
        let mut table = scene.forge("plain");
        change(&mut table.metadata, &outside);
        let name = scene.enter(&table.save()).await;
        let status = scene.refused(&name, what).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
    }
    scene.unharmed().await;
}

/// A catalog whose tables may lie in a bucket: what stands behind a question mark must not choose the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_location_does_not_choose_its_server() {
    let bucket = "catalogs.bucket={type: rest, uri: 'http://127.0.0.1:9', warehouse: w, allowed_locations: ['s3://bucket/']}";
    let mut scene = Scene::open(&[bucket]).await;
    let port = scene.listener.port;
    for scheme in ["s3", "s3a", "s3n", "gcs", "gs", "r2"] {
        for server in ["s3_endpoint", "s3_url_style=path&s3_endpoint"] {
            let mut table = scene.forge("plain");
            table.point(Part::DataFile, &format!("{scheme}://bucket/x.parquet?s3_use_ssl=false&{server}=127.0.0.1:{port}"));
            let name = scene.enter(&table.save()).await;
            scene.refused(&name, scheme).await;
        }
    }
    scene.unharmed().await;
}

/// Pointing inside the catalog's own places is no escape: cloned tables and tables with files that were added share them.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_table_of_the_catalogs_is_read() {
    let gold = tempfile::TempDir::new().expect("a directory");
    let mut scene = Scene::open(&[&format!("catalogs.gold={{type: embedded, path: '{}'}}", gold.path().display())]).await;
    scene.gateway.run("CREATE SCHEMA gold.mart").await;
    scene.gateway.run("CREATE TABLE gold.mart.other AS SELECT 9::BIGINT AS a, 'nine' AS b").await;
    for (namespace, table, a) in [(scene.lake.join("bronze"), "deletes", "123"), (gold.path().join("mart"), "other", "9")] {
        let file = files(&made_by_gateway(&namespace, table).join("data"), ".parquet")
            .into_iter()
            .find(|file| !file.to_string_lossy().ends_with("-deletes.parquet"))
            .expect("a data file");
        let mut forged = scene.forge("plain");
        forged.point(Part::DataFile, &uri(&file));
        forged.say_size(std::fs::metadata(&file).expect("a file").len());
        let name = scene.enter(&forged.save()).await;
        assert_eq!(scene.gateway.value(&format!("SELECT string_agg(a, '' ORDER BY a) FROM {name}")).await, a);
    }
    scene.unharmed().await;
}

/// What a forged table may make of the gateway's own hands: its files are written and removed by the gateway itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_writes_and_removes_nothing_behind_a_link() {
    let mut scene = Scene::open(&[]).await;
    let kept = scene.outside.join("kept");
    Forged::copy(&made_by_gateway(&scene.lake.join("bronze"), "plain"), &kept);
    let mut table = scene.forge("plain");
    let link = scene.lake.join("bronze/elsewhere");
    std::os::unix::fs::symlink(&kept, &link).expect("a link");
    table.metadata["location"] = uri(&link).into();
    let before = files(&kept.join("metadata"), "");
    let name = scene.enter(&table.save()).await;
    for sql in [
        format!("INSERT INTO {name} VALUES (4, 'four')"),
        format!("ALTER TABLE {name} ADD COLUMN c INTEGER"),
        format!("DELETE FROM {name} WHERE a = 1"),
    ] {
        let status = scene.rows(&sql).await.expect_err("the table lies elsewhere");
        assert!(matches!(status.code(), Code::PermissionDenied | Code::FailedPrecondition), "{sql}: {status}");
    }
    scene.gateway.run(&format!("DROP TABLE {name}")).await;
    assert_eq!(files(&kept.join("metadata"), ""), before);
    assert!(!files(&kept.join("data"), ".parquet").is_empty());
    scene.unharmed().await;
}

/// Dropping a table whose metadata says that it lies where another one does must not take that one's files.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_takes_no_other_s_files() {
    let mut scene = Scene::open(&[]).await;
    let bronze = scene.lake.join("bronze");
    for place in [made_by_gateway(&bronze, "plain"), bronze.clone(), scene.lake.clone()] {
        let mut table = scene.forge("plain");
        table.metadata["location"] = uri(&place).into();
        let name = scene.enter(&table.save()).await;
        // Refused or done: nothing but the forged table's own files may be gone.
        let _ = scene.rows(&format!("DROP TABLE {name}")).await;
    }
    scene.unharmed().await;
}

/// Files with bytes changed, cut and doubled: a worker at most is lost, and the next statement finds another.
#[tokio::test(flavor = "multi_thread")]
async fn broken_files_cost_a_worker_at_most() {
    // What makes a worker read for ever is to end before the test does.
    let mut scene = Scene::open(&["query.statement_timeout=60s"]).await;
    let mut random = rand::rngs::SmallRng::seed_from_u64(7);
    let (mut read, mut failed, mut lost) = (0, 0, 0);
    for round in 0..100 {
        let original = ["plain", "deletes", "vectors"][round % 3];
        let mut table = scene.forge(original);
        let mut victims = vec![table.manifest_list()];
        victims.extend(table.manifests(0));
        victims.extend(table.manifests(1));
        victims.extend(files(&table.dir.join("data"), ""));
        let victim = &victims[random.random_range(0..victims.len())];
        let mut bytes = std::fs::read(victim).expect("a file");
        spoil(&mut bytes, &mut random);
        std::fs::write(victim, bytes).expect("a file");
        let name = scene.enter(&table.save()).await;
        match scene.rows(&format!("SELECT * FROM {name}")).await {
            Ok(_) => read += 1,
            Err(status) if status.code() == Code::Unavailable && status.message().contains("worker") => lost += 1,
            Err(_) => failed += 1,
        }
    }
    eprintln!("{read} read, {failed} failed, {lost} lost their workers");
    assert!(failed + lost > 10, "hardly any file was broken");
    scene.unharmed().await;
}

fn spoil(bytes: &mut Vec<u8>, random: &mut impl Rng) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = [0x00, 0x7f, 0x80, 0xff][random.random_range(0..4)],
            2 => bytes.truncate(at.max(1)),
            _ => {
                let copy = bytes[at..(at + 16).min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}

/// The same by a catalog behind HTTP, which hands on what it was given.
#[tokio::test(flavor = "multi_thread")]
async fn a_rest_catalog_s_hostile_tables_are_not_read() {
    let rest = ReferenceRest::start();
    let settings = rest.settings();
    let scene = Scene::open(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await;
    scene.gateway.run("CREATE SCHEMA rest.bronze").await;
    scene.gateway.run("CREATE TABLE rest.bronze.plain (a BIGINT, b VARCHAR)").await;
    scene.gateway.run("INSERT INTO rest.bronze.plain VALUES (1, 'one'), (2, 'two'), (3, 'three')").await;
    let bronze = rest.dir.path().join("warehouse/bronze");
    let http = reqwest::Client::new();
    let register = format!("http://127.0.0.1:{}/v1/namespaces/bronze/register", rest.port);
    let mut number = 0;
    for (part, file) in [(Part::DataFile, "secret.parquet"), (Part::ManifestList, "plain-list.avro")] {
        for place in places(&scene, file) {
            number += 1;
            let name = format!("forged{number}");
            let mut table = Forged::copy(&bronze.join("plain"), &bronze.join(&name));
            table.point(part, &place);
            let body = json!({ "name": name, "metadata-location": table.save() });
            let answer = http.post(&register).json(&body).send().await.expect("an answer");
            assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
            scene.refused(&format!("rest.bronze.{name}"), &format!("{part:?} at {place}")).await;
        }
    }
    assert_eq!(scene.gateway.value("SELECT count(*) FROM rest.bronze.plain").await, "3");
    scene.unharmed().await;
}
