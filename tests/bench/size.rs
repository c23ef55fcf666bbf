//! The release binary.

use super::common::{Bench, mib, note};
use std::path::Path;
use std::process::Command;

/// Bytes of the binary without its symbols, and for which further targets the toolchain is complete.
pub fn run(bench: &mut Bench) {
    let binary = Path::new(env!("CARGO_BIN_EXE_grasp-sync"));
    let stripped = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stripped-{}", std::process::id()));
    let done = Command::new("strip").arg("-o").arg(&stripped).arg(binary).status();
    assert!(done.is_ok_and(|status| status.success()), "`strip`, of binutils, is needed");
    let bytes = std::fs::metadata(&stripped).expect("`strip` wrote it").len();
    let _ = std::fs::remove_file(&stripped);
    for target in ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-gnu", "aarch64-unknown-linux-musl"] {
        note(&format!(
            "{target}: {}",
            if has_target(target) { "its standard library is installed" } else { "not installed" }
        ));
    }
    let row = format!("the release binary has {:.2} MiB stripped (at most 8)", mib(bytes));
    bench.check(mib(bytes) <= 8.0, &row);
}

fn has_target(target: &str) -> bool {
    let printed = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    printed.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}
