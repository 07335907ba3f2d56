//! Owns what a worker gives up before it does anything else. Refuses nothing by itself: a step that the kernel does not have is
//! logged and left out.

use std::fs;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, NetPort, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
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

/// Keeps a governed worker within its directory, its extensions and its catalogs' local directories, from running programs, from
/// listening on TCP ports, from connecting to others than it needs where they are known, and from signals to other processes. For this
/// thread and those that it starts, for good.
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
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(LANDLOCK))?.handle_access(AccessNet::BindTcp)?;
    if !init.connect_ports.is_empty() {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    let ports = init.connect_ports.iter().filter_map(|port| u16::try_from(*port).ok());
    let ruleset: RulesetCreated = ruleset
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(ports.map(|port| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::ConnectTcp))))?
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
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::process::Command;
    use std::thread;

    use rustix::process::{Pid, Signal, getppid, kill_process};
    use tempfile::TempDir;

    use super::*;

    /// The places of a worker, and one that is not its own with a secret in it.
    struct Places {
        run: TempDir,
        local: TempDir,
        extensions: TempDir,
        outside: TempDir,
        /// The worker's own relay, and somebody else's server.
        relay: TcpListener,
        server: TcpListener,
    }

    impl Places {
        fn new() -> Self {
            let dir = || tempfile::tempdir().unwrap();
            let port = || TcpListener::bind("127.0.0.1:0").unwrap();
            let places = Self { run: dir(), local: dir(), extensions: dir(), outside: dir(), relay: port(), server: port() };
            fs::write(places.extensions.path().join("x.duckdb_extension"), "code").unwrap();
            fs::write(places.canary(), "secret").unwrap();
            places
        }

        fn canary(&self) -> std::path::PathBuf {
            self.outside.path().join("canary")
        }

        fn init(&self) -> Init {
            let path = |dir: &TempDir| dir.path().to_str().unwrap().to_owned();
            Init {
                run_dir: path(&self.run),
                extension_dir: path(&self.extensions),
                local_directories: vec![format!("{}/made/later", path(&self.local))],
                connect_ports: vec![u32::from(self.relay.local_addr().unwrap().port())],
                ..Init::default()
            }
        }
    }

    /// What a thread got done after it was confined, by name. Landlock binds a thread and what it starts, so the other tests do not
    /// notice. None where the kernel has no Landlock.
    fn confined_thread(init: &Init, tries: impl FnOnce() -> Vec<(&'static str, bool)> + Send) -> Option<Vec<&'static str>> {
        let outcome = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let status = confined(init).unwrap();
                (status, tries())
            });
            thread.join().unwrap()
        });
        let (status, tried) = outcome;
        if status == RulesetStatus::NotEnforced {
            eprintln!("no Landlock in this kernel: nothing to test");
            return None;
        }
        if status == RulesetStatus::PartiallyEnforced {
            eprintln!("this kernel has a part of Landlock only");
        }
        Some(tried.into_iter().filter(|(_, done)| *done).map(|(what, _)| what).collect())
    }

    #[test]
    fn a_confined_worker_has_what_it_needs() {
        let places = Places::new();
        let (run, local) = (places.run.path(), places.local.path());
        let tries = || {
            fs::create_dir_all(run.join("spill")).unwrap();
            let _socket = UnixListener::bind(run.join("worker.sock")).unwrap();
            vec![
                ("spills", fs::write(run.join("spill/file"), "rows").is_ok()),
                ("moves", fs::rename(run.join("spill/file"), run.join("file")).is_ok()),
                ("makes directories", fs::create_dir_all(local.join("made/later")).is_ok()),
                ("writes data", fs::write(local.join("made/later/data"), "rows").is_ok()),
                ("loads extensions", fs::read(places.extensions.path().join("x.duckdb_extension")).is_ok()),
                ("takes connections", UnixStream::connect(run.join("worker.sock")).is_ok()),
                ("reaches the relay", TcpStream::connect(places.relay.local_addr().unwrap()).is_ok()),
                ("knows itself", fs::read("/proc/self/stat").is_ok()),
            ]
        };
        let Some(done) = confined_thread(&places.init(), tries) else { return };
        assert_eq!(done.len(), 8, "only: {done:?}");
    }

    #[test]
    fn no_way_round_leads_a_confined_worker_to_a_file_outside() {
        let places = Places::new();
        let (run, outside, canary) = (places.run.path(), places.outside.path(), places.canary());
        let open_before = fs::File::open(&canary).unwrap();
        let directory_before = fs::File::open(outside).unwrap();
        let reads = |path: std::path::PathBuf| fs::read(path).is_ok();
        let tries = || {
            fs::write(run.join("own"), "rows").unwrap();
            symlink(&canary, run.join("link")).unwrap();
            symlink(outside, run.join("directory")).unwrap();
            let below = |place: &str| std::path::PathBuf::from(format!("{place}{}", canary.display()));
            let up = run.join("../".repeat(run.components().count())).join(canary.strip_prefix("/").unwrap());
            vec![
                ("read", reads(canary.clone())),
                ("written", fs::write(&canary, "").is_ok()),
                ("cut", fs::OpenOptions::new().write(true).truncate(true).open(&canary).is_ok()),
                ("appended", fs::OpenOptions::new().append(true).open(&canary).is_ok()),
                ("removed", fs::remove_file(&canary).is_ok()),
                ("listed", fs::read_dir(outside).is_ok() || fs::read_dir("/").is_ok()),
                ("read by a link", reads(run.join("link"))),
                ("written by a link", fs::write(run.join("link"), "").is_ok()),
                ("read through a linked directory", reads(run.join("directory/canary"))),
                ("read by ..", reads(up)),
                ("linked in", fs::hard_link(&canary, run.join("hard")).is_ok() && reads(run.join("hard"))),
                ("moved in", fs::rename(&canary, run.join("moved")).is_ok()),
                ("moved out", fs::rename(run.join("own"), outside.join("own")).is_ok()),
                ("swapped", fs::rename(run.join("own"), &canary).is_ok()),
                ("made", fs::write(outside.join("new"), "").is_ok() || fs::create_dir(outside.join("dir")).is_ok()),
                ("read by the root of /proc", reads(below("/proc/self/root"))),
                ("opened again by its number", reads(format!("/proc/self/fd/{}", open_before.as_raw_fd()).into())),
                ("read by a directory's number", reads(format!("/proc/self/fd/{}/canary", directory_before.as_raw_fd()).into())),
                ("read of the accounts", reads("/etc/passwd".into())),
                ("read of a neighbour's memory", getppid().is_some_and(|parent| reads(of_process(parent, "mem")))),
                ("read of a neighbour's variables", getppid().is_some_and(|parent| reads(of_process(parent, "environ")))),
            ]
        };
        let Some(done) = confined_thread(&places.init(), tries) else { return };
        assert_eq!(done, Vec::<&str>::new());
        assert_eq!(fs::read(&canary).unwrap(), b"secret");
    }

    fn of_process(pid: Pid, file: &str) -> std::path::PathBuf {
        format!("/proc/{}/{file}", pid.as_raw_nonzero()).into()
    }

    #[test]
    fn a_confined_worker_reaches_no_other_process() {
        let places = Places::new();
        let abstract_name = SocketAddr::from_abstract_name(format!("polynya-test-{}", std::process::id())).unwrap();
        let _somebody = UnixListener::bind_addr(&abstract_name).unwrap();
        let program = places.run.path().join("program");
        fs::copy("/bin/true", &program).unwrap();
        let tries = || {
            vec![
                ("listened", TcpListener::bind("127.0.0.1:0").is_ok()),
                ("connected", TcpStream::connect(places.server.local_addr().unwrap()).is_ok()),
                ("spoke to an abstract socket", UnixStream::connect_addr(&abstract_name).is_ok()),
                // Harmless if it gets through.
                ("signalled", getppid().is_some_and(|parent| kill_process(parent, Signal::CONT).is_ok())),
                ("ran a program", Command::new("/bin/true").status().is_ok()),
                ("ran a program of its own", Command::new(&program).status().is_ok()),
            ]
        };
        let Some(done) = confined_thread(&places.init(), tries) else { return };
        assert_eq!(done, Vec::<&str>::new());
    }

    #[test]
    fn a_worker_that_reads_object_stores_may_connect_anywhere() {
        let places = Places::new();
        let init = Init { connect_ports: Vec::new(), ..places.init() };
        let tries = || vec![("connected", TcpStream::connect(places.server.local_addr().unwrap()).is_ok())];
        let Some(done) = confined_thread(&init, tries) else { return };
        assert_eq!(done, ["connected"]);
    }
}
