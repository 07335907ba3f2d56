//! Owns what a worker gives up before it does anything else. Refuses nothing by itself: a step that the kernel does not have is
//! logged and left out.

use std::fs;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope, path_beneath_rules,
};
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};
use rustix::thread::set_no_new_privs;
use tracing::{debug, info, warn};

use super::binding::close_inherited;
use crate::wire::proto::{Init, Mode as WorkerMode};

/// The kernel takes a worker before the gateway when memory runs out.
const OOM_SCORE_ADJ: &str = "800";

/// What Landlock is asked for; an older kernel gives what it has.
const LANDLOCK: ABI = ABI::V6;

/// What the C library and the extensions read by themselves: names of hosts, certificates, libraries, the size of the machine.
const READ_BY_LIBRARIES: [&str; 22] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/proc/self",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
];

const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// Gives up privileges, core dumps and readable memory. Call it before the first thread starts: children inherit, siblings do not.
pub fn harden() {
    report("closing inherited files", close_inherited().err());
    umask(Mode::from_raw_mode(0o077));
    // Before the process becomes non-dumpable, which takes the files of /proc/self away from it.
    report("oom_score_adj", fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).err());
    report("no_new_privs", set_no_new_privs(true).err());
    report("core size", setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).err());
    report("non-dumpable", set_dumpable_behavior(DumpableBehavior::NotDumpable).err());
}

fn report(step: &'static str, error: Option<impl std::fmt::Display>) {
    if let Some(error) = error {
        warn!(step, %error, "a hardening step is not available here");
    }
}

/// Keeps a governed worker within its directory, its extensions and its catalogs' local directories, from listening on TCP ports
/// and from signals to other processes. For this thread and those that it starts, for good.
pub fn confine(init: &Init) {
    if init.mode() != WorkerMode::Governed {
        return;
    }
    match confined(init) {
        Ok(RulesetStatus::FullyEnforced) => debug!("confined by Landlock"),
        // The kernel stays as it is for all workers of a gateway, so it is no warning for each.
        Ok(status) => info!(?status, "this kernel confines workers in part only, or not at all"),
        Err(error) => warn!(%error, "the worker is not confined"),
    }
}

fn confined(init: &Init) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::from_read(LANDLOCK) & !AccessFs::Execute;
    let read_write = AccessFs::from_all(LANDLOCK) & !AccessFs::Execute;
    let local = init.local_directories.iter().map(|directory| existing(Path::new(directory)));
    let ruleset: RulesetCreated = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules([Path::new(&init.run_dir)], read_write))?
        .add_rules(path_beneath_rules(local, read_write))?
        .add_rules(path_beneath_rules([Path::new(&init.extension_dir)], read))?
        .add_rules(path_beneath_rules(READ_BY_LIBRARIES, read))?
        .add_rules(path_beneath_rules(DEVICES, AccessFs::ReadFile | AccessFs::WriteFile))?;
    Ok(ruleset.restrict_self()?.ruleset)
}

/// The directory, or where it will be made: a rule needs something that is there.
fn existing(directory: &Path) -> &Path {
    directory.ancestors().find(|place| place.exists()).unwrap_or(directory)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use rustix::process::{Signal, getppid, kill_process};

    use super::*;

    /// What a confined thread reports.
    struct Tried {
        status: RulesetStatus,
        own: bool,
        local: bool,
        extension: bool,
        outside: bool,
        listed: bool,
        account: bool,
        made_outside: bool,
        listened: bool,
        signalled: bool,
    }

    #[test]
    fn a_confined_worker_reaches_its_own_places_and_no_others() {
        let (run, local, extensions, outside) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
        );
        fs::write(extensions.path().join("x.duckdb_extension"), "code").unwrap();
        fs::write(outside.path().join("canary"), "secret").unwrap();
        let path = |dir: &tempfile::TempDir| dir.path().to_str().unwrap().to_owned();
        let init = Init {
            run_dir: path(&run),
            extension_dir: path(&extensions),
            local_directories: vec![format!("{}/made/later", path(&local))],
            ..Init::default()
        };
        // Landlock binds a thread and what it starts, so the other tests do not notice.
        let tried = thread::scope(|scope| {
            scope.spawn(|| tries(&init, run.path(), local.path(), extensions.path(), outside.path())).join()
        });
        let tried = tried.unwrap();
        if tried.status == RulesetStatus::NotEnforced {
            eprintln!("no Landlock in this kernel: nothing to test");
            return;
        }
        assert!(tried.own && tried.local && tried.extension, "kept from its own places");
        assert!(!tried.outside && !tried.listed && !tried.account && !tried.made_outside, "reached a file outside");
        if tried.status == RulesetStatus::FullyEnforced {
            assert!(!tried.listened, "listens on a port");
            assert!(!tried.signalled, "may signal another process");
        }
    }

    fn tries(init: &Init, run: &Path, local: &Path, extensions: &Path, outside: &Path) -> Tried {
        let status = confined(init).unwrap();
        fs::create_dir_all(run.join("spill")).unwrap();
        let _socket = UnixListener::bind(run.join("worker.sock")).unwrap();
        Tried {
            status,
            own: fs::write(run.join("spill/file"), "rows").is_ok()
                && fs::rename(run.join("spill/file"), run.join("file")).is_ok(),
            local: fs::create_dir_all(local.join("made/later")).is_ok()
                && fs::write(local.join("made/later/data"), "rows").is_ok(),
            extension: fs::read(extensions.join("x.duckdb_extension")).is_ok(),
            outside: fs::read(outside.join("canary")).is_ok() || fs::write(outside.join("canary"), "").is_ok(),
            listed: fs::read_dir(outside).is_ok() || fs::read_dir("/").is_ok(),
            account: fs::read("/etc/passwd").is_ok(),
            made_outside: fs::write(outside.join("new"), "").is_ok() || fs::create_dir(outside.join("dir")).is_ok(),
            listened: TcpListener::bind("127.0.0.1:0").is_ok(),
            // Harmless if it gets through.
            signalled: getppid().is_some_and(|parent| kill_process(parent, Signal::CONT).is_ok()),
        }
    }
}
