//! What it takes to make an ext4 image of an OCI image, and to get one that was published.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use banger_tests::Home;
use banger_tests::registry::Layout;
use banger_tests::web::WebServer;
use flate2::bufread::MultiGzDecoder;
use nix::libc;

use super::{BenchError, allocated, median, ms, ratio, row, succeed};

/// The image that every home shares.
const DEFAULT_IMAGE: &str = "debian-bookworm-minimal";
/// Rounds, in each of which everybody has one turn.
const ROUNDS: usize = 3;
/// Room for what mke2fs keeps beside the files, in blocks of 4096 bytes: as a file's size has to be
/// known beforehand.
const SPARE_BLOCKS: u64 = 50_000;

/// A whole Debian, from a layout on disk: against the usual chain of tools, and against what nobody
/// can do without.
pub(super) fn import() -> Result<Vec<Vec<String>>, BenchError> {
    let home = Home::with_own_images();
    let layout = Layout::new(home.path().join("layout"));
    layout.debian("debian", home.path());
    let repository = home.repository("r");
    let (mut ours, mut chains, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    let (mut memory, mut blocks) = (0, 0);
    for round in 0..ROUNDS {
        let name = format!("round-{round}");
        let mut pull = repository.banger();
        pull.args(["-q", "image", "pull", &layout.source("debian"), "--name", &name]);
        let (took, peak) = measured(&mut pull)?;
        ours.push(took);
        memory = memory.max(peak);
        blocks = allocated(&home.data().join("images").join(&name).join("rootfs.ext4"))?;
        succeed(repository.banger().args(["image", "delete", &name]))?;
        floors.push(unpack(&layout.largest_blob(), &home.path().join("floor"))?);
        chains.push(chain(&home, &layout)?);
    }
    let (ours, chain, floor) = (median(ours), median(chains), median(floors));
    let theirs = allocated(&home.path().join("chain.ext4"))?;
    let megabytes = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
    let what = "OCI image of 420 MB and 10,800 files to ext4";
    Ok(vec![
        row([
            &format!("{what}, against `skopeo copy`, `umoci unpack`, `mke2fs -d`"),
            &ms(ours),
            &ms(chain),
            &format!("{:.1}× faster", chain.as_secs_f64() / ours.as_secs_f64()),
            "≥ 2.5×",
        ]),
        row([
            &format!("{what}, against decompressing into a file"),
            &ms(ours),
            &ms(floor),
            &ratio(ours, floor),
            "≤ 1.3×",
        ]),
        row([&format!("{what}, memory"), &megabytes(memory), "", "", "≤ 150 MB"]),
        row([
            &format!("{what}, on disk, against `mke2fs -d`"),
            &megabytes(blocks),
            &megabytes(theirs),
            &format!("{:.2}×", blocks as f64 / theirs as f64),
            "≤ 1.05×",
        ]),
    ])
}

/// The minimal image as a bundle, from a web server on loopback: against the tools that do the same
/// by hand.
pub(super) fn bundle(shared: &Home) -> Result<Vec<Vec<String>>, BenchError> {
    let home = Home::with_own_images();
    let (public, by_hand) = (home.path().join("public"), home.path().join("by-hand"));
    fs::create_dir(&public)?;
    let file = public.join("base.tar.zst");
    let mut export = shared.repository("publisher").banger();
    let output = export.args(["-q", "image", "export", DEFAULT_IMAGE, "--output"]).arg(&file).output()?;
    // In a catalog of one's own it is the one image of this name.
    fs::write(public.join("catalog.toml"), &output.stdout)?;
    let web = WebServer::new(public);
    home.configure(&format!("catalog_url = \"{}\"\n", web.url("catalog.toml")));
    let repository = home.repository("r");
    let script = "mkdir $1; curl -sS $2 | zstd -dc | tar -x --sparse -C $1; sync $1/rootfs.ext4";
    let (mut ours, mut theirs, mut memory) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let (took, peak) = measured(repository.banger().args(["-q", "image", "pull", DEFAULT_IMAGE]))?;
        ours.push(took);
        memory = memory.max(peak);
        succeed(repository.banger().args(["image", "delete", DEFAULT_IMAGE]))?;
        let start = Instant::now();
        let mut tools = Command::new("sh");
        succeed(tools.args(["-euc", script, "sh"]).arg(&by_hand).arg(web.url("base.tar.zst")))?;
        theirs.push(start.elapsed());
        fs::remove_dir_all(&by_hand)?;
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let what = format!("bundle of {:.0} MB from a web server", fs::metadata(&file)?.len() as f64 / 1e6);
    Ok(vec![
        row([
            &format!("{what}, against `curl \\| zstd -d \\| tar -x --sparse`"),
            &ms(ours),
            &ms(theirs),
            &ratio(ours, theirs),
            "≤ 1.2×",
        ]),
        row([&format!("{what}, memory"), &format!("{:.0} MB", memory as f64 / 1e6), "", "", "≤ 150 MB"]),
    ])
}

/// How long a command takes, and the most memory that it has at a time, in bytes.
fn measured(command: &mut Command) -> Result<(Duration, u64), BenchError> {
    let start = Instant::now();
    let child = command.spawn()?;
    let (mut status, mut usage) = (0, nothing_used());
    // SAFETY: the child is ours and was not waited for; both places outlive the call.
    let waited = unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage) };
    if waited < 0 || !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0 {
        return Err(format!("{command:?} failed").into());
    }
    Ok((start.elapsed(), u64::try_from(usage.ru_maxrss)? * 1024))
}

fn nothing_used() -> libc::rusage {
    // SAFETY: plain numbers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// Decompresses a layer with the library that banger has, and makes it safe on disk.
fn unpack(blob: &Path, to: &Path) -> Result<Duration, BenchError> {
    let start = Instant::now();
    let mut file = File::create(to)?;
    let blob = BufReader::with_capacity(1 << 18, File::open(blob)?);
    io::copy(&mut BufReader::with_capacity(1 << 18, MultiGzDecoder::new(blob)), &mut file)?;
    file.sync_all()?;
    let took = start.elapsed();
    fs::remove_file(to)?;
    Ok(took)
}

/// Makes the file system with skopeo, umoci and mke2fs. Its file stays, so that its size can be
/// measured.
fn chain(home: &Home, layout: &Layout) -> Result<Duration, BenchError> {
    let (copy, bundle, image) = (home.path().join("copy"), home.path().join("bundle"), home.path().join("chain.ext4"));
    let start = Instant::now();
    let copied = format!("oci:{}:debian", copy.display());
    succeed(Command::new("skopeo").args(["copy", "--quiet", &layout.source("debian"), &copied]))?;
    let of_copy = format!("{}:debian", copy.display());
    succeed(Command::new("umoci").args(["unpack", "--rootless", "--image", &of_copy]).arg(&bundle))?;
    let rootfs = bundle.join("rootfs");
    let size = String::from_utf8(Command::new("du").args(["-s", "-B4096"]).arg(&rootfs).output()?.stdout)?;
    let blocks: u64 = size.split_whitespace().next().ok_or("du says nothing")?.parse()?;
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-d"]).arg(&rootfs).arg(&image);
    succeed(mke2fs.arg((blocks + SPARE_BLOCKS).to_string()))?;
    File::open(&image)?.sync_all()?;
    let took = start.elapsed();
    fs::remove_dir_all(&copy)?;
    fs::remove_dir_all(&bundle)?;
    Ok(took)
}
