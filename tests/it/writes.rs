//! Writes under contention: every acknowledged one is there exactly once, every lost race says so, and readers never see half of one.

use tonic::Code;

use crate::harness::Gateway;

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_insert_is_there_exactly_once() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    gateway.run("CREATE TABLE lake.bronze.t (writer INTEGER, n INTEGER)").await;
    let insert = async |writer: i32| {
        let (mut done, mut lost) = (0, 0);
        for n in 0..8 {
            loop {
                match gateway.query(&format!("INSERT INTO lake.bronze.t VALUES ({writer}, {n}), ({writer}, {n})")).await {
                    Ok(_) => break done += 1,
                    // A lost race is told as one, and nothing of it was written.
                    Err(status) if status.code() == Code::Aborted => lost += 1,
                    Err(status) => panic!("{status}"),
                }
            }
        }
        (done, lost)
    };
    let (one, two, three, four) = tokio::join!(insert(1), insert(2), insert(3), insert(4));
    assert_eq!([one.0, two.0, three.0, four.0], [8; 4]);
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t").await, "64");
    assert_eq!(gateway.value("SELECT count(*) FROM (SELECT DISTINCT writer, n FROM lake.bronze.t)").await, "32");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_all_of_a_commit_or_nothing() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    gateway.run("CREATE TABLE lake.bronze.t (n INTEGER)").await;
    let write = async {
        for _ in 0..12 {
            gateway.run("INSERT INTO lake.bronze.t SELECT i FROM range(1000) r(i)").await;
        }
    };
    let read = async {
        let mut last = 0;
        while last < 12_000 {
            let rows: i64 = gateway.value("SELECT count(*) FROM lake.bronze.t").await.parse().expect("a number");
            assert!(rows % 1000 == 0 && rows >= last, "{rows} rows after {last}");
            last = rows;
        }
    };
    tokio::join!(write, read);
}

/// The id of the oldest snapshot in the newest metadata file below a directory with one table.
fn first_snapshot(dir: &std::path::Path) -> i64 {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.to_string_lossy().ends_with(".metadata.json") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    let text = std::fs::read_to_string(files.last().expect("a metadata file")).expect("its text");
    let metadata: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    metadata["snapshots"]
        .as_array()
        .expect("snapshots")
        .iter()
        // They stand there in any order.
        .min_by_key(|snapshot| snapshot["sequence-number"].as_i64())
        .and_then(|snapshot| snapshot["snapshot-id"].as_i64())
        .expect("a snapshot")
}

#[tokio::test]
async fn time_travel_reads_the_snapshot_that_it_names() {
    let gateway = Gateway::start();
    gateway.run("CREATE SCHEMA lake.bronze").await;
    gateway.run("CREATE TABLE lake.bronze.t (n INTEGER)").await;
    gateway.run("INSERT INTO lake.bronze.t VALUES (1)").await;
    let between = gateway.value("SELECT (now() AT TIME ZONE 'UTC')::VARCHAR").await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    gateway.run("INSERT INTO lake.bronze.t VALUES (2)").await;
    assert_eq!(gateway.value("SELECT count(*) FROM lake.bronze.t").await, "2");
    let sql = format!("SELECT count(*) FROM lake.bronze.t AT (TIMESTAMP => TIMESTAMP '{between}')");
    assert_eq!(gateway.value(&sql).await, "1");
    let first = first_snapshot(&gateway.dir.path().join("lake"));
    assert_eq!(gateway.value(&format!("SELECT sum(n)::BIGINT FROM lake.bronze.t AT (VERSION => {first})")).await, "1");
}
