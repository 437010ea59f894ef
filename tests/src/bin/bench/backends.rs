//! Firecracker, and the agent's link over vsock beside the one over virtio-serial.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use banger_tests::firecracker_guests::why_not;
use banger_tests::{Home, Repository};

use super::{BenchError, median, megabytes_per_second, ms, phase, ratio, row, succeed, tenths};

/// Commands of each kind, taken in turns.
const COMMANDS: usize = 15;
/// Bytes that go through the link, and rounds of that.
const BYTES: u64 = 100_000_000;
const ROUNDS: usize = 3;
/// Starts on Firecracker.
const STARTS: usize = 11;
/// A mapping of this many bytes or more in Firecracker is the guest's memory.
const GUEST_MEMORY: u64 = 64 << 20;

/// What a VM on real Firecracker takes, with the guest of the tests.
pub(super) fn firecracker() -> Result<Vec<Vec<String>>, BenchError> {
    const BOOT: &str = "Firecracker, the tests' guest: from the start of the supervisor to the agent's answer";
    const MEMORY: &str = "Firecracker: memory of supervisor, launcher and Firecracker beside the guest's";
    if let Some(reason) = why_not() {
        return Ok([BOOT, MEMORY].map(|what| row([what, &reason, "", "", ""])).into());
    }
    let home = Home::with_firecracker_guests();
    let repository = home.repository("r");
    let mut boots = Vec::new();
    let mut memory = 0;
    for _ in 0..STARTS {
        let output = repository.run(["--", "true"]).ok();
        boots.push(phase(&output.stderr, "boot ")?);
        let (supervisor, _) = home.supervisor_and_vmm();
        memory = descendants(supervisor.as_raw())?.into_iter().map(own_memory).sum::<Result<u64, _>>()?;
        repository.run(["stop"]).ok();
    }
    let megabytes = format!("{:.1} MB", memory as f64 / 1e6);
    Ok(vec![row([BOOT, &ms(median(boots)), "", "", "≤ 60 ms"]), row([MEMORY, &megabytes, "", "", "≤ 10 MB"])])
}

/// A process, and all that it has started.
fn descendants(pid: i32) -> Result<Vec<i32>, BenchError> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        all.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        next += 1;
    }
    Ok(all)
}

/// The process's share of what it has in memory, in bytes, without its guest's memory. See proc(5),
/// `/proc/pid/smaps`.
fn own_memory(pid: i32) -> Result<u64, BenchError> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let bytes = |line: &str, key: &str| -> Option<u64> {
        Some(line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    };
    let (mut size, mut own) = (0, 0);
    for line in smaps.lines() {
        size = bytes(line, "Size:").unwrap_or(size);
        own += bytes(line, "Pss:").filter(|_| size < GUEST_MEMORY).unwrap_or(0);
    }
    Ok(own)
}

/// Two VMs that differ in the device of the agent's link.
pub(super) fn links() -> Result<Vec<Vec<String>>, BenchError> {
    let homes = [Home::with_vsock_guests(), Home::new()];
    let repositories = homes.each_ref().map(|home| home.repository("r"));
    for repository in &repositories {
        succeed(repository.banger().args(["--ready", "system", "--", "true"]))?;
    }
    // Services that have just started still have something to do.
    std::thread::sleep(Duration::from_secs(10));

    let mut commands = [Vec::new(), Vec::new()];
    let (mut into, mut out) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let file = homes[0].path().join("bytes");
    io::copy(&mut io::Read::take(io::repeat(0x5a), BYTES), &mut File::create(&file)?)?;
    for _ in 0..COMMANDS {
        for (repository, took) in repositories.iter().zip(&mut commands) {
            took.push(command(repository, "true", None)?);
        }
    }
    for _ in 0..ROUNDS {
        for (who, repository) in repositories.iter().enumerate() {
            into[who].push(command(repository, "cat >/dev/null", Some(&file))?);
            out[who].push(command(repository, &format!("head -c {BYTES} /dev/zero"), None)?);
        }
    }
    let [vsock, serial] = commands.map(median);
    let what = "running VM, link over vsock: `banger -- true`, against one over virtio-serial";
    let mut rows = vec![row([what, &tenths(vsock), &tenths(serial), &ratio(vsock, serial), "≤ 1.2×"])];
    for (way, took) in [("into a VM", into), ("out of it", out)] {
        let [vsock, serial] = took.map(|took| megabytes_per_second(BYTES, median(took)));
        let what = format!("a command's stream of 100 MB {way}, link over vsock, against virtio-serial");
        let share = format!("{:.0} %", 100.0 * vsock / serial);
        rows.push(row([&what, &format!("{vsock:.0} MB/s"), &format!("{serial:.0} MB/s"), &share, ""]));
    }
    Ok(rows)
}

/// How long a command takes in the repository's VM.
fn command(repository: &Repository<'_>, script: &str, input: Option<&Path>) -> Result<Duration, BenchError> {
    let mut banger = repository.banger();
    banger.args(["--", "sh", "-c", script]);
    banger.stdin(input.map_or_else(|| Ok(Stdio::null()), |path| File::open(path).map(Stdio::from))?);
    let start = Instant::now();
    succeed(&mut banger)?;
    Ok(start.elapsed())
}
