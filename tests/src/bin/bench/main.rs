//! `make bench`: what banger takes, beside a floor or a peer measured in the same run. Prints a
//! table in Markdown.

mod backends;
mod floor;
mod images;
mod vms;
mod watch;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_tests::{Home, Repository};

use self::floor::Floor;

/// Runs of each measurement; the median counts.
const RUNS: usize = 5;
/// Bytes that are sent through the bare port, as many as a first sync sends.
const SYNCED_BYTES: u64 = 500_000_000;

type BenchError = Box<dyn std::error::Error>;

fn main() -> Result<(), BenchError> {
    let home = Home::new();
    let mut rows = running(&home)?;
    let floor = Floor::new(&home)?;
    rows.push(cold_start(&home, &floor)?);
    rows.extend(large(&home, &floor)?);
    rows.extend(backends::firecracker()?);
    rows.extend(backends::links()?);
    rows.extend(vms::by_name(&floor)?);
    rows.extend(vms::come_and_go()?);
    rows.extend(watch::watch()?);
    rows.push(version(&home)?);
    rows.push(plugin(&home)?);
    rows.push(list()?);
    rows.extend(images::import()?);
    rows.extend(images::bundle(&home)?);
    let mut out = std::io::stdout();
    writeln!(out, "| what | banger | floor or peer | ratio | aim |\n|---|---|---|---|---|")?;
    for row in rows {
        writeln!(out, "| {} |", row.join(" | "))?;
    }
    Ok(())
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn timed(mut run: impl FnMut() -> Result<(), BenchError>) -> Result<Duration, BenchError> {
    let times = (0..RUNS).map(|_| {
        let start = Instant::now();
        run().map(|()| start.elapsed())
    });
    Ok(median(times.collect::<Result<_, _>>()?))
}

fn succeed(command: &mut Command) -> Result<(), BenchError> {
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
}

fn ms(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}

fn ratio(a: Duration, b: Duration) -> String {
    format!("{:.2}×", a.as_secs_f64() / b.as_secs_f64())
}

fn megabytes_per_second(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

fn running(home: &Home) -> Result<Vec<Vec<String>>, BenchError> {
    let repository = home.repository("thousand-files");
    for number in 0..1000 {
        repository.write(&format!("d{}/f{number}", number % 50), format!("content {number}\n"));
    }
    repository.commit("a thousand files");
    succeed(repository.banger().args(["--ready", "system", "--", "true"]))?;
    let memory = supervisor_memory(home)?;
    let disk = home.vms().iter().map(|vm| allocated(&vm.join("disk.ext4"))).sum::<Result<u64, _>>()?;
    // Services that have just started still have something to do.
    std::thread::sleep(Duration::from_secs(5));
    let ours = timed(|| succeed(repository.banger().args(["--", "true"])))?;
    let git = timed(|| succeed(home.command("git").arg("status").current_dir(&repository.root)))?;
    let over = ours.saturating_sub(git);
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    Ok(vec![
        row([
            "running VM: `banger -- true`, 1,000 files, over `git status`",
            &ms(ours),
            &ms(git),
            &format!("+{}", ms(over)),
            "≤ +60 ms",
        ]),
        row(["memory of the supervisor", &megabytes(memory), "", "", "≤ 10 MB"]),
        row(["disk of a fresh VM, all services started", &megabytes(disk), "", "", "≤ 8 MB"]),
    ])
}

fn cold_start(home: &Home, floor: &Floor) -> Result<Vec<String>, BenchError> {
    let repository = home.repository("ten-files");
    for number in 0..8 {
        repository.write(&format!("f{number}"), "content\n");
    }
    repository.commit("ten files");
    // Taken in turns, so that both see the same machine.
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let start = Instant::now();
        succeed(repository.banger().args(["--rm", "--", "true"]))?;
        ours.push(start.elapsed());
        let start = Instant::now();
        floor.power_off()?;
        floors.push(start.elapsed());
    }
    let (ours, floors) = (median(ours), median(floors));
    let what = "cold start: `banger --rm -- true`, against the same QEMU and kernel powering off at once";
    Ok(row([what, &ms(ours), &ms(floors), &ratio(ours, floors), "≤ 1.3×"]))
}

fn large(home: &Home, floor: &Floor) -> Result<Vec<Vec<String>>, BenchError> {
    let repository = home.repository("large");
    write_noise(&repository);
    let port = megabytes_per_second(SYNCED_BYTES, floor.port()?.give(SYNCED_BYTES)?);
    let (_, first) = phases(&repository)?;
    let throughput = 500.0 / first.as_secs_f64();
    let git = || timed(|| succeed(home.command("git").args(["status", "--porcelain"]).current_dir(&repository.root)));
    repository.commit("noise");
    phases(&repository)?;
    let git = git()?;
    let mut unchanged = Vec::new();
    let mut changed = Vec::new();
    for round in 0..RUNS {
        let (list, sync) = phases(&repository)?;
        unchanged.push(list + sync);
        repository.write("d7/f7", format!("changed {round}\n"));
        let (list, sync) = phases(&repository)?;
        changed.push(list + sync);
    }
    let (unchanged, changed) = (median(unchanged), median(changed));
    succeed(repository.banger().args(["delete", "--force"]))?;
    Ok(vec![
        row([
            "first sync of 20,000 files, 500 MB, against the bare virtio-serial port",
            &format!("{throughput:.0} MB/s"),
            &format!("{port:.0} MB/s"),
            &format!("{:.0} %", 100.0 * throughput / port),
            "≥ 60 %",
        ]),
        row([
            "sync, nothing changed, 20,000 files, against `git status`",
            &ms(unchanged),
            &ms(git),
            &ratio(unchanged, git),
            "≤ 3×",
        ]),
        row([
            "sync, one file changed, 20,000 files, against `git status`",
            &ms(changed),
            &ms(git),
            &ratio(changed, git),
            "≤ 3×",
        ]),
    ])
}

/// 20,000 files of 25,000 bytes that nothing can compress, by xorshift64.
fn write_noise(repository: &Repository<'_>) {
    let mut state = 1_u64;
    let mut block = vec![0_u8; 25_000];
    for number in 0..20_000 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        repository.write(&format!("d{}/f{number}", number % 200), &block);
    }
}

/// Runs `true`, and reads from banger's own line how long listing and sync took.
fn phases(repository: &Repository<'_>) -> Result<(Duration, Duration), BenchError> {
    let output = repository.run(["--", "true"]);
    Ok((phase(&output.stderr, "list ")?, phase(&output.stderr, "sync ")?))
}

/// How long a phase took, by the line that banger writes about all of them.
fn phase(stderr: &str, name: &str) -> Result<Duration, BenchError> {
    let line = stderr.lines().find(|line| line.contains("; list "));
    let line = line.ok_or_else(|| format!("banger says nothing of its phases: {stderr}"))?;
    let rest = line.split(name).nth(1).ok_or("a phase is missing")?;
    let mut words = rest.trim_start().split([' ', ',', ';']);
    let number: f64 = words.next().ok_or("a number is missing")?.parse()?;
    Ok(Duration::from_secs_f64(if words.next() == Some("ms") { number / 1000.0 } else { number }))
}

fn version(home: &Home) -> Result<Vec<String>, BenchError> {
    let each = cpu(|| succeed(home.command(banger_tests::banger_binary()).arg("--version")))?;
    Ok(row(["`banger --version`, CPU", &tenths(each), "", "", "≤ 5 ms"]))
}

/// In a workspace, with an alias, so that all that a plugin's name takes is looked up.
fn plugin(home: &Home) -> Result<Vec<String>, BenchError> {
    let plugin = home.plugin("foo", "exit 0");
    home.configure("[alias]\nt = ['--', 'make', 'test']\n");
    let repository = home.repository("of-a-plugin");
    let ours = cpu(|| succeed(repository.with_plugins().arg("foo")))?;
    let floor = cpu(|| succeed(home.command(&plugin).current_dir(&repository.root)))?;
    let over = format!("+{}", tenths(ours.saturating_sub(floor)));
    Ok(row(["`banger foo` over `banger-foo`, CPU", &tenths(ours), &tenths(floor), &over, "≤ +3 ms"]))
}

/// Against the list of one VM.
fn list() -> Result<Vec<String>, BenchError> {
    const VMS: usize = 200;
    let home = Home::new();
    let repository = home.repository("listed");
    let absent = home.path().join("absent");
    let run = || timed(|| succeed(repository.banger().arg("list")));
    home.fake_vm("vm-0", &absent, Some(0));
    let floor = run()?;
    (1..VMS).for_each(|number| home.fake_vm(&format!("vm-{number}"), &absent, Some(0)));
    let ours = run()?;
    Ok(row(["`banger list`, 200 VMs, against one", &tenths(ours), &tenths(floor), &ratio(ours, floor), "≤ 30 ms"]))
}

fn tenths(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// The processor time of a child, on average.
fn cpu(mut run: impl FnMut() -> Result<(), BenchError>) -> Result<Duration, BenchError> {
    const TIMES: u32 = 50;
    let before = children_cpu();
    for _ in 0..TIMES {
        run()?;
    }
    Ok((children_cpu() - before) / TIMES)
}

fn children_cpu() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it cannot fail for one's own children");
    let time = |time: nix::sys::time::TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
    time(usage.user_time()) + time(usage.system_time())
}

fn run_info(home: &Home) -> Result<serde_json::Value, BenchError> {
    let vm = home.vms().pop().ok_or("no VM")?;
    Ok(serde_json::from_slice(&fs::read(vm.join("run.json"))?)?)
}

fn supervisor_memory(home: &Home) -> Result<u64, BenchError> {
    let status = fs::read_to_string(format!("/proc/{}/status", run_info(home)?["pid"]))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no memory in its status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn allocated(path: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(path)?.blocks() * 512)
}
