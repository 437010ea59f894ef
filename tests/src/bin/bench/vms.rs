//! VMs by name: how far what leads into them is from the bare virtio-serial port, and what their
//! coming and going takes.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_tests::leftovers::HostSnapshot;
use banger_tests::{Home, Repository, eventually};

use super::floor::{Floor, LIMIT, Served};
use super::{BenchError, median, megabytes_per_second, ms, ratio, row, succeed, tenths};

/// The VM that is measured.
const NAME: &str = "measured";
/// What leads a forwarded port's bytes to a process of the guest's without banger.
const RELAY: &str = "a relay in the guest, from the port to TCP without frames";
/// Round trips of each kind, taken in turns.
const TRIPS: usize = 25;
/// Bytes that are copied, and rounds of that.
const BYTES: u64 = 200_000_000;
const ROUNDS: usize = 3;
/// How often a VM comes and goes, and how many do at once.
const CYCLES: usize = 20;
const AT_ONCE: usize = 6;

/// A running VM and its ways in, against the bare port of a guest that does nothing else.
pub(super) fn by_name(floor: &Floor) -> Result<Vec<Vec<String>>, BenchError> {
    let home = Home::new();
    let vm = Vm::new(&home)?;
    let mut rows = vm.round_trips(floor)?;
    rows.extend(vm.copies(floor)?);
    rows.extend(vm.forwarded(floor)?);
    vm.banger(&["vm", "delete", "--force", NAME])?;
    Ok(rows)
}

struct Vm<'a> {
    repository: Repository<'a>,
    ssh_config: PathBuf,
}

impl Vm<'_> {
    fn new(home: &Home) -> Result<Vm<'_>, BenchError> {
        let repository = home.repository("r");
        let vm = Vm { repository, ssh_config: home.path().join("ssh.config") };
        vm.banger(&["vm", "create", "--name", NAME])?;
        fs::write(&vm.ssh_config, vm.repository.run(["ssh-config"]).ok().stdout)?;
        // Services that have just started still have something to do.
        std::thread::sleep(Duration::from_secs(10));
        Ok(vm)
    }

    fn banger(&self, arguments: &[&str]) -> Result<(), BenchError> {
        succeed(self.repository.banger().args(arguments))
    }

    fn exec(&self) -> Result<Duration, BenchError> {
        took(|| self.banger(&["vm", "exec", NAME, "--", "true"]))
    }

    /// One of OpenSSH's programs.
    fn openssh(&self, program: &str) -> Command {
        let mut command = self.repository.home.command(program);
        command.args(["-q", "-F"]).arg(&self.ssh_config).args(["-o", "BatchMode=yes"]);
        command
    }

    /// A connection to where `floor.c` serves in the VM.
    fn connect(&self, floor: &Floor) -> Result<Served<TcpStream>, BenchError> {
        let program = floor.program.to_str().ok_or("a path that is no text")?;
        self.banger(&["vm", "cp", program, &format!("{NAME}:/root/floor")])?;
        self.banger(&["vm", "exec", NAME, "--", "/root/floor"])?;
        let added = self.repository.run(["vm", "port", "add", "--vm", NAME, "0:7000"]).ok().text();
        let stream = TcpStream::connect(added.trim())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Served(stream))
    }

    /// The echo is of one byte, to a process that waits for it in the other guest. Nothing is
    /// started there.
    fn round_trips(&self, floor: &Floor) -> Result<Vec<Vec<String>>, BenchError> {
        let mut port = floor.port()?;
        let (mut execs, mut sshs, mut echoes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TRIPS {
            execs.push(self.exec()?);
            echoes.extend(port.echo(10)?);
            sshs.push(took(|| succeed(self.openssh("ssh").arg(format!("{NAME}.banger")).arg("true")))?);
        }
        let started = self.started_there()?;
        let (exec, ssh, echo) = (median(execs), median(sshs), median(echoes));
        let over = ssh.saturating_sub(exec);
        Ok(vec![
            row([
                "`banger vm exec NAME -- true`, against an echo of a byte through the bare virtio-serial port",
                &tenths(exec),
                &format!("{:.2} ms", echo.as_secs_f64() * 1000.0),
                &ratio(exec, echo),
                "≤ 3×",
            ]),
            row([
                "the same, against a shell in that guest which runs `true`",
                &tenths(exec),
                &tenths(started),
                &ratio(exec, started),
                "",
            ]),
            row([
                "`ssh NAME.banger true`, over `banger vm exec NAME -- true`",
                &ms(ssh),
                &ms(exec),
                &format!("+{}", ms(over)),
                "≤ +150 ms",
            ]),
        ])
    }

    /// How long the guest itself takes for a process, each of which is told of by a line.
    fn started_there(&self) -> Result<Duration, BenchError> {
        let script = format!("i=0; while [ $i -le {TRIPS} ]; do i=$((i + 1)); /bin/true; echo; done");
        let mut command = self.repository.banger();
        command.args(["vm", "exec", NAME, "--", "sh", "-c", &script]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn()?;
        let lines = BufReader::new(shell.stdout.take().ok_or("it is a pipe")?).lines();
        let at: Vec<_> = lines.map(|line| line.map(|_| Instant::now())).collect::<Result<_, _>>()?;
        shell.wait()?;
        Ok(median(at.windows(2).map(|pair| pair[1] - pair[0]).collect()))
    }

    /// As many bytes as the file has go through the bare port, the same way, and no further than a
    /// process there.
    fn copies(&self, floor: &Floor) -> Result<Vec<Vec<String>>, BenchError> {
        let mut port = floor.port()?;
        let file = self.repository.home.path().join("copied");
        // In pieces: what this process has had in memory counts as that of its children.
        io::copy(&mut io::repeat(0x5a).take(BYTES), &mut File::create(&file)?)?;
        let there = format!("{NAME}.banger:/root/copied");
        let (mut into, mut out) = (Turns::default(), Turns::default());
        for _ in 0..ROUNDS {
            into.add([took(|| succeed(self.openssh("scp").arg(&file).arg(&there)))?, port.give(BYTES)?]);
            out.add([took(|| succeed(self.openssh("scp").arg(&there).arg(&file)))?, port.take(BYTES)?]);
        }
        fs::remove_file(&file)?;
        let ways = [("into a VM", into), ("out of it", out)].map(|(way, turns)| {
            let [ours, port] = turns.medians();
            throughput(&format!("scp of 200 MB {way}, against the bare port"), ours, port, "≥ 70 %")
        });
        Ok(ways.into())
    }

    /// The process at the other end is the same program with the same loops, here at a TCP port and
    /// there at the virtio-serial port.
    fn forwarded(&self, floor: &Floor) -> Result<Vec<Vec<String>>, BenchError> {
        let (mut port, mut relay, mut connection) = (floor.port()?, floor.relay()?, self.connect(floor)?);
        let (mut into, mut out, mut echoes) = (Turns::default(), Turns::default(), Turns::default());
        for _ in 0..ROUNDS {
            into.add([connection.give(BYTES)?, port.give(BYTES)?, relay.give(BYTES)?]);
            out.add([connection.take(BYTES)?, port.take(BYTES)?, relay.take(BYTES)?]);
        }
        for _ in 0..TRIPS {
            let turns = [connection.echo(20)?, port.echo(20)?, relay.echo(20)?];
            echoes.add(turns.map(median));
        }
        let mut rows = Vec::new();
        for (way, turns) in [("into a VM", into), ("out of it", out)] {
            let [ours, port, relay] = turns.medians();
            rows.push(throughput(
                &format!("forwarded port, 200 MB {way}, against the bare port"),
                ours,
                port,
                "≥ 70 %",
            ));
            rows.push(throughput(&format!("the same, against {RELAY}"), ours, relay, ""));
        }
        let [ours, port, relay] = echoes.medians();
        for (what, floor, aim) in [("the bare port", port, "≤ +2 ms"), (RELAY, relay, "")] {
            let what = format!("forwarded port, echo of a byte, over {what}");
            rows.push(row([
                &what,
                &tenths(ours),
                &tenths(floor),
                &format!("+{}", tenths(ours.saturating_sub(floor))),
                aim,
            ]));
        }
        Ok(rows)
    }
}

/// How long everybody took, in turns.
#[derive(Default)]
struct Turns<const N: usize>(Vec<[Duration; N]>);

impl<const N: usize> Turns<N> {
    fn add(&mut self, took: [Duration; N]) {
        self.0.push(took);
    }

    fn medians(&self) -> [Duration; N] {
        std::array::from_fn(|who| median(self.0.iter().map(|turn| turn[who]).collect()))
    }
}

fn throughput(what: &str, ours: Duration, floor: Duration, aim: &str) -> Vec<String> {
    let (ours, floor) = (megabytes_per_second(BYTES, ours), megabytes_per_second(BYTES, floor));
    let share = format!("{:.0} %", 100.0 * ours / floor);
    row([what, &format!("{ours:.0} MB/s"), &format!("{floor:.0} MB/s"), &share, aim])
}

fn took(run: impl FnOnce() -> Result<(), BenchError>) -> Result<Duration, BenchError> {
    let start = Instant::now();
    run().map(|()| start.elapsed())
}

/// What is done with a VM that comes and goes.
const STEPS: [(&str, &[&str]); 4] = [
    ("create", &["create", "--no-start", "--memory", "512M", "--name"]),
    ("start", &["start"]),
    ("exec", &["exec"]),
    ("delete", &["delete", "--force"]),
];

/// VMs that come and go, one after the other and at once, leave the machine as it was.
///
/// # Panics
/// If they do not.
pub(super) fn come_and_go() -> Result<Vec<Vec<String>>, BenchError> {
    let home = Home::new();
    let repository = home.repository("r");
    // What is kept for the next VM is made by the first.
    cycle(&repository, "first")?;
    let gone = || eventually("the end of the VMs' processes", || home.processes().is_empty());
    gone();
    let before = HostSnapshot::take(&home);
    let one_by_one: Vec<_> = (0..CYCLES).map(|number| cycle(&repository, &format!("v{number}"))).collect();
    gone();
    assert_eq!(HostSnapshot::take(&home), before, "after {CYCLES} VMs");
    let at_once = std::thread::scope(|scope| {
        let cycles: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let repository = &repository;
                scope.spawn(move || cycle(repository, &format!("w{number}")).map_err(|error| error.to_string()))
            })
            .collect();
        cycles.into_iter().map(|cycle| cycle.join().expect("it does not panic")).collect::<Vec<_>>()
    });
    gone();
    assert_eq!(HostSnapshot::take(&home), before, "after {AT_ONCE} VMs at once");
    let one_by_one = one_by_one.into_iter().collect::<Result<Vec<_>, _>>()?;
    let at_once = at_once.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut rows = steps(&format!("{CYCLES} VMs, one after the other"), &one_by_one);
    rows.extend(steps(&format!("{AT_ONCE} VMs at once"), &at_once));
    Ok(rows)
}

/// How long each step took.
fn cycle(repository: &Repository<'_>, name: &str) -> Result<[Duration; STEPS.len()], BenchError> {
    let mut times = [Duration::ZERO; STEPS.len()];
    for ((step, arguments), time) in STEPS.iter().zip(&mut times) {
        let mut command = repository.banger();
        command.arg("vm").args(*arguments).arg(name);
        if *step == "exec" {
            command.args(["--", "true"]);
        }
        *time = took(|| succeed(&mut command))?;
    }
    Ok(times)
}

/// With so few of them, the 99th percentile is the slowest.
fn steps(what: &str, cycles: &[[Duration; STEPS.len()]]) -> Vec<Vec<String>> {
    let row_of = |(index, (step, _)): (usize, &(&str, _))| {
        let mut times: Vec<_> = cycles.iter().map(|times| times[index]).collect();
        times.sort();
        let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
        row([&format!("{what}: {step}, p50 and p99"), &format!("{}, {}", ms(at(50)), ms(at(99))), "", "", ""])
    };
    STEPS.iter().enumerate().map(row_of).collect()
}
