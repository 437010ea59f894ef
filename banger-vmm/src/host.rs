//! What the kernel says about this host and its processes.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::{IoContext, Result};

/// Changes with every boot of the host: proc(5).
pub(crate) fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).at("read", path)?.trim().to_owned())
}

/// A process's start, in clock ticks since the host's boot: field 22 of `/proc/<pid>/stat`.
pub(crate) fn start_time(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let path = Path::new(&path);
    let stat = fs::read_to_string(path).at("read", path)?;
    // The second field is a name in parentheses, and may hold anything but a NUL.
    let field = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(19)?.parse().ok());
    field.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)).at("read", path)
}

/// What a process takes of memory, in bytes: the second field of `/proc/<pid>/statm`. 0 for one that is gone.
pub(crate) fn resident_bytes(pid: i32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}
