//! What a worker process has given up, seen from outside, and what it cannot be made to give.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use tonic::Code;

use crate::harness::{Gateway, kill};

fn proc_text(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|e| panic!("/proc/{pid}/{file}: {e}"))
}

/// A line of `/proc/PID/status` or `limits`, from its second word.
fn line(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line[name.len()..].trim_matches([':', ' ', '\t']).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Files that a non-dumpable process keeps from its own user; none where it does, which is what is asked for.
fn guarded<T>(read: std::io::Result<T>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        Err(error) => panic!("{error}"),
    }
}

/// A gateway with a reader, an exclusive worker and a spare.
async fn with_workers() -> Gateway {
    let gateway = Gateway::with_env(&[], &[("PLANTED_SECRET", "canary-5e1f"), ("AWS_SECRET_ACCESS_KEY", "canary-5e1f")]);
    gateway.run("CREATE SCHEMA lake.gold").await;
    gateway.run("CREATE TABLE lake.gold.t AS SELECT 1 AS a").await;
    assert_eq!(gateway.value("SELECT a FROM lake.gold.t").await, "1");
    assert!(gateway.ready_workers().len() >= 2);
    gateway
}

#[tokio::test]
async fn a_worker_has_no_privileges_no_core_and_dies_first() {
    let gateway = with_workers().await;
    for pid in gateway.ready_workers() {
        let status = proc_text(pid, "status");
        assert_eq!(line(&status, "NoNewPrivs"), "1");
        assert_eq!(line(&status, "Umask"), "0077");
        assert_eq!(line(&proc_text(pid, "limits"), "Max core file size"), "0 0 bytes");
        assert_eq!(proc_text(pid, "oom_score_adj").trim(), "800");
    }
    assert_ne!(proc_text(gateway.pid(), "oom_score_adj").trim(), "800");
    // The kernel gives the files of a non-dumpable process to root. Where the tests run as root, this shows nothing.
    for pid in gateway.ready_workers().into_iter().chain([gateway.pid()]) {
        assert_eq!(fs::metadata(format!("/proc/{pid}/mem")).expect("a process").uid(), 0, "{pid} is dumpable");
    }
}

#[tokio::test]
async fn nothing_of_the_gateway_s_environment_reaches_a_worker() {
    let gateway = with_workers().await;
    for pid in gateway.ready_workers() {
        if let Some(environment) = guarded(fs::read(format!("/proc/{pid}/environ"))) {
            let environment = String::from_utf8_lossy(&environment);
            let names: Vec<&str> = environment.split('\0').filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
            assert!(names.iter().all(|name| *name == "LD_LIBRARY_PATH"), "{names:?}");
            assert!(!environment.contains("canary-5e1f"));
        }
        assert!(!proc_text(pid, "cmdline").contains("canary-5e1f"));
    }
    let status = gateway.query("SELECT getenv('PLANTED_SECRET')").await.expect_err("a refusal");
    assert!(!status.message().contains("canary-5e1f"), "{status}");
}

#[tokio::test]
async fn only_its_own_files_and_sockets_are_open_in_a_worker() {
    let gateway = with_workers().await;
    let listening = listening_sockets();
    let catalog = gateway.dir.path().join("lake");
    for pid in gateway.ready_workers() {
        let Some(files) = guarded(fs::read_dir(format!("/proc/{pid}/fd"))) else { continue };
        for file in files.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
            let name = file.to_string_lossy().into_owned();
            if let Some(inode) = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
                assert!(!listening.contains(inode), "worker {pid} listens on a TCP port");
                continue;
            }
            // Its log goes where the gateway's goes, and data files of the catalog are what it is there for.
            let is_data = file.starts_with(&catalog) && name.ends_with(".parquet");
            let is_own =
                name.contains("/polynya-") || name.ends_with("/log") || name == "/dev/null" || name.starts_with("anon_inode:");
            assert!(is_data || is_own, "worker {pid} has {name} open");
        }
    }
    assert!(!gateway.log().contains("hardening step is not available"), "{}", gateway.log());
}

#[tokio::test]
async fn a_file_that_the_gateway_was_started_with_does_not_reach_a_worker() {
    let planted = tempfile::NamedTempFile::new().expect("a file");
    let gateway = Gateway::with_open_file(planted.path());
    assert_eq!(gateway.value("SELECT 1").await, "1");
    let has_it = |pid: u32| {
        let files = guarded(fs::read_dir(format!("/proc/{pid}/fd")))?;
        Some(files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|path| path == planted.path())))
    };
    assert!(has_it(gateway.pid()).unwrap_or(true), "it did not even reach the gateway");
    for pid in gateway.ready_workers() {
        assert!(!has_it(pid).unwrap_or(false), "worker {pid} has it open");
    }
}

/// Every file and directory below one, with its mode.
fn modes(dir: &Path) -> Vec<(PathBuf, u32)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries.flat_map(|entry| if entry.path().is_dir() { modes(&entry.path()) } else { vec![own(&entry.path())] });
    below.chain([own(dir)]).collect()
}

fn own(path: &Path) -> (PathBuf, u32) {
    (path.to_owned(), fs::symlink_metadata(path).map_or(0, |found| found.mode() & 0o7777))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_spills_is_its_own() {
    let gateway = Gateway::with(&["pool.max_workers=2", "pool.memory_budget=180MiB"]);
    let sort = "SELECT hash(i) AS h, i FROM range(6000000) t(i) ORDER BY h";
    let mut client = gateway.client().await;
    let info = client.execute(sort.to_owned(), None).await.expect("a description");
    let sorted = client.do_get(info.endpoint[0].ticket.clone().expect("a ticket")).await.expect("a sorted result");
    let entries = fs::read_dir(gateway.dir.path()).expect("the directory").flatten();
    let gateways = entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains("/polynya-"));
    let found: Vec<_> = gateways.flat_map(|dir| modes(&dir)).collect();
    drop(sorted);
    assert!(found.iter().any(|(path, _)| path.to_string_lossy().contains("/spill/")), "nothing was spilt: {found:?}");
    for (path, mode) in found {
        assert_eq!(mode & 0o077, 0, "others may use {}: {mode:o}", path.display());
    }
}

#[tokio::test]
async fn a_data_file_that_leads_outside_is_not_followed() {
    let gateway = with_workers().await;
    let files: Vec<PathBuf> = modes(&gateway.dir.path().join("lake")).into_iter().map(|(path, _)| path).collect();
    let file = files.iter().find(|path| path.extension().is_some_and(|e| e == "parquet")).expect("a data file");
    // A link within the catalog's directory is as good as the file.
    let inside = file.with_extension("moved");
    fs::rename(file, &inside).expect("moved");
    symlink(&inside, file).expect("a link");
    let sql = "SELECT a FROM lake.gold.t WHERE a >= ";
    assert_eq!(gateway.value(&format!("{sql} 0")).await, "1");
    let outside = tempfile::tempdir().expect("a directory");
    fs::copy(&inside, outside.path().join("data")).expect("copied");
    fs::remove_file(file).and_then(|()| symlink(outside.path().join("data"), file)).expect("a link");
    // In workers that have the file neither open nor in memory.
    gateway.workers().into_iter().for_each(kill);
    let status = loop {
        match gateway.query(&format!("{sql} 1")).await {
            Err(status) if status.code() == Code::Unavailable && status.message().contains("run twice") => {}
            other => break other.expect_err("the kernel keeps it from there"),
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

/// Inodes of the TCP sockets of this machine that listen.
fn listening_sockets() -> HashSet<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields.get(3) == Some(&"0A")).filter_map(|fields| Some((*fields.get(9)?).to_owned())).collect()
}
