//! The fault of QEMU for which a test is repeated: before 8.1, two processors that QEMU
//! translates now and then disagree about code that the guest's kernel patches while they run it,
//! and the kernel dies of a breakpoint that nobody set. banger starts such a guest once more while
//! it boots; later, or the second time, the command fails and its test with it.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs};

/// What the guest's kernel prints on its console when it dies of the fault.
const PANIC: &str = "Oops: int3";
/// The first QEMU without the fault.
const FIXED_IN: (u32, u32) = (8, 1);

static SEEN: AtomicBool = AtomicBool::new(false);

/// Looks for the fault in what a guest's console, or a command that quotes it, says.
pub(crate) fn look_for_in(text: &str) {
    if text.contains(PANIC) {
        SEEN.store(true, Ordering::Relaxed);
    }
}

/// Has `scripts/test-runner` repeat the test, if it is failing and the fault was seen.
pub(crate) fn report() {
    if std::thread::panicking()
        && SEEN.load(Ordering::Relaxed)
        && let Some(note) = env::var_os("BANGER_TEST_QEMU_FAULT")
        && version(OsStr::new("qemu-system-x86_64")).is_some_and(|version| version < FIXED_IN)
    {
        let _ = fs::write(note, PANIC);
    }
}

/// Major and minor version of a QEMU.
fn version(qemu: &OsStr) -> Option<(u32, u32)> {
    let output = Command::new(qemu).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.split_once("version ")?.1.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
