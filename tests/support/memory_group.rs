//! A control group of the kernel's that bounds the memory of one process, as `MemoryMax` in a unit does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// So many MiB, if it is set.
const VARIABLE: &str = "HOSTILE_MEMORY_MAX_MIB";

/// One group, gone with the value.
pub struct MemoryGroup {
    dir: PathBuf,
    peak: &'static str,
}

impl MemoryGroup {
    /// One of the bound that is asked for. `None`, and why is printed, where this user may not make one.
    pub fn asked_for() -> Option<MemoryGroup> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mib: u64 = std::env::var(VARIABLE).ok()?.parse().expect("a number of MiB");
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let (root, max, peak) = match unified {
            true => ("/sys/fs/cgroup", "memory.max", "memory.peak"),
            false => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
        };
        let name = format!("grasp-sync-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let group = MemoryGroup { dir: Path::new(root).join(name), peak };
        // It may be delegated already, and of the first version there is nothing to delegate.
        let _ = fs::write(Path::new(root).join("cgroup.subtree_control"), "+memory");
        let made = fs::create_dir(&group.dir).and_then(|()| fs::write(group.dir.join(max), (mib << 20).to_string()));
        match made {
            Ok(()) => Some(group),
            Err(error) => {
                eprintln!("skipped: no bound of memory: {}: {error}", group.dir.display());
                None
            }
        }
    }

    /// The file that a process joins by writing its number there.
    pub fn processes(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// The most bytes that it had, with what the kernel keeps for it: sockets and cached files.
    pub fn peak(&self) -> u64 {
        let text = fs::read_to_string(self.dir.join(self.peak)).expect("the group has its files");
        text.trim().parse().expect("a number of bytes")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}
