//! `--watch`: from a save on the host to a process in the guest, and many files at once.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use banger_tests::guest_program::compile;
use banger_tests::{Home, Repository};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{BenchError, median, ms, ratio, row, succeed};

/// Saves, one after the other.
const SAVES: usize = 200;
/// Files of the working tree.
const FILES: usize = 20_000;
/// Of them, those that a branch switch changes.
const SWITCHED: usize = 10_000;
/// Branch switches of each kind.
const SWITCHES: usize = 3;
/// How long nothing changes.
const IDLE: Duration = Duration::from_secs(10);

pub(super) fn watch() -> Result<Vec<Vec<String>>, BenchError> {
    let home = Home::new();
    let repository = home.repository("watched");
    let write = |count: usize, text: &str| {
        (0..count)
            .for_each(|number| repository.write(&format!("d{}/f{number}", number % 200), format!("{text}{number}\n")));
    };
    write(FILES, "one ");
    compile("seen", &repository.root.join("seen"));
    repository.commit("one");
    repository.git(["checkout", "--quiet", "-b", "other"]);
    write(SWITCHED, "other ");
    repository.commit("other");
    succeed(repository.banger().arg("sync"))?;
    let mut rows = saves(&repository)?;
    rows.push(switches(&repository)?);
    Ok(rows)
}

/// The guest says on standard output what it sees, so the way back counts too.
fn saves(repository: &Repository<'_>) -> Result<Vec<Vec<String>>, BenchError> {
    let mut command = repository.banger();
    command.args(["--watch", "--", "./seen", "d7", "f7", &SAVES.to_string()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut seen = BufReader::new(child.stdout.take().ok_or("it is a pipe")?).lines();
    let mut next = || seen.next().ok_or("the program has ended")?.map_err(BenchError::from);
    next()?;
    std::thread::sleep(IDLE / 5);
    let before = cpu_of(child.id())?;
    std::thread::sleep(IDLE);
    let idle = cpu_of(child.id())? - before;
    let mut times = Vec::new();
    for save in 0..SAVES {
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        fs::write(repository.root.join("d7/f7"), format!("save {save}\n"))?;
        next()?;
        times.push(start.elapsed());
    }
    child.wait()?;
    repository.git(["checkout", "--quiet", "--", "d7/f7"]);
    times.sort();
    let at = |percent: usize| ms(times[(times.len() * percent).div_ceil(100) - 1]);
    let what = "`--watch`, 20,000 files: from a save here to a process in the VM and its answer back";
    Ok(vec![
        row([&format!("{what}, p50"), &at(50), "", "", "≤ 40 ms"]),
        row([&format!("{what}, p99"), &at(99), "", "", "≤ 100 ms"]),
        row(["`--watch`, 10 s without a change, CPU", &ms(idle), "", "", "0"]),
    ])
}

/// A branch switch under a watch, from the end of git's work, against `banger sync` after one.
fn switches(repository: &Repository<'_>) -> Result<Vec<String>, BenchError> {
    let switch = |round: usize| repository.git(["checkout", "--quiet", ["main", "other"][round % 2]]);
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    succeed(repository.banger().arg("sync"))?;
    for round in 0..SWITCHES * 2 {
        switch(round);
        let start = Instant::now();
        succeed(repository.banger().arg("sync"))?;
        plain.push(start.elapsed());
    }
    let mut child = repository.banger().args(["sync", "--watch"]).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("it is a pipe")?);
    wait_for(&mut lines, "watching ")?;
    for round in 0..SWITCHES * 2 {
        std::thread::sleep(Duration::from_secs(2));
        switch(round);
        let start = Instant::now();
        wait_for(&mut lines, &format!("{SWITCHED} files sent"))?;
        ours.push(start.elapsed());
    }
    end(&mut child)?;
    let (ours, plain) = (median(ours), median(plain));
    let what = "`sync --watch`, branch switch of 10,000 files, against `banger sync` after one";
    Ok(row([what, &ms(ours), &ms(plain), &ratio(ours, plain), "≤ 1.5×"]))
}

fn wait_for(lines: &mut impl BufRead, part: &str) -> Result<(), BenchError> {
    let mut line = String::new();
    while !line.contains(part) {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Err(format!("banger never said `{part}`").into());
        }
    }
    Ok(())
}

fn end(child: &mut Child) -> Result<(), BenchError> {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT)?;
    child.wait()?;
    Ok(())
}

/// The processor time of a process so far: proc(5), `/proc/pid/schedstat` of its threads.
fn cpu_of(pid: u32) -> Result<Duration, BenchError> {
    let mut total = 0;
    for task in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))? {
        let mut text = String::new();
        fs::File::open(task?.path().join("schedstat"))?.read_to_string(&mut text)?;
        total += text.split_whitespace().next().ok_or("no time")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}
