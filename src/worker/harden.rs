//! Owns what a worker gives up before it does anything else. Refuses nothing by itself: a step that the kernel does not have is
//! logged and left out.

use std::fs;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};
use rustix::thread::set_no_new_privs;
use tracing::warn;

/// The kernel takes a worker before the gateway when memory runs out.
const OOM_SCORE_ADJ: &str = "800";

/// Gives up privileges, core dumps and readable memory. Call it before the first thread starts: children inherit, siblings do not.
pub fn harden() {
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
