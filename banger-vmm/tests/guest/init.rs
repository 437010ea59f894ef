//! An `/init` that behaves, or does not, as the VM's host name says. Built static by the tests;
//! standard library only.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::null;
use std::thread::sleep;
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn reboot(command: c_int) -> c_int;
    fn ioctl(descriptor: c_int, request: c_ulong, range: *const [u64; 2]) -> c_int;
}

const SYS_FINIT_MODULE: c_long = 313;
const POWER_OFF: c_int = 0x4321_fedc;
/// Of linux/fs.h.
const BLKDISCARD: c_ulong = 0x1277;

fn main() {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        let (kind, target) = (CString::new(kind).unwrap(), CString::new(target).unwrap());
        // SAFETY: the strings live until the call is over.
        unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, null()) };
    }
    let line = fs::read_to_string("/proc/cmdline").unwrap();
    let name = line.split_whitespace().find_map(|word| word.strip_prefix("banger.hostname=")).unwrap().to_owned();
    println!("a guest that {name}");
    match name.as_str() {
        "panics" => panic!("as it should"),
        "hangs" => forever(),
        "powers-off" => power_off(),
        "shouts" => shout(),
        _ => {}
    }
    load_modules();
    let mut port = open_port();
    match name.as_str() {
        "keeps-silent" => forever(),
        "babbles" => loop {
            let _ = port.write_all(&[b'x'; 4096]);
        },
        "drops-the-port" => {
            greet(&mut port);
            drop(port);
            forever()
        }
        "breaks-the-mux" => {
            greet(&mut port);
            let _ = port.write_all(&[0xff; 4096]);
            forever()
        }
        "is-stubborn" => {
            greet(&mut port);
            forever()
        }
        "counts" => count(port),
        "measures-its-disks" => {
            greet(&mut port);
            measure();
            forever()
        }
        // Whatever else: as an agent that knows only how to shut down.
        _ => {
            greet(&mut port);
            let mut heard: Vec<u8> = Vec::new();
            let mut buffer = [0; 4096];
            while !heard.windows(8).any(|bytes| bytes == b"shutdown") {
                let read = port.read(&mut buffer).unwrap();
                heard.extend(&buffer[..read]);
            }
            power_off()
        }
    }
}

fn load_modules() {
    let mut modules: Vec<_> = fs::read_dir("/modules").unwrap().map(|entry| entry.unwrap().path()).collect();
    modules.sort();
    for module in modules {
        let file = File::open(module).unwrap();
        // SAFETY: finit_module(2) takes a descriptor, a string and flags.
        unsafe { syscall(SYS_FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0) };
    }
}

fn open_port() -> File {
    loop {
        if let Ok(port) = OpenOptions::new().read(true).write(true).open("/dev/vport0p1") {
            return port;
        }
        sleep(Duration::from_millis(10));
    }
}

/// Answers the host's greeting with its own nonce.
fn greet(port: &mut File) {
    let mut heard = String::new();
    let mut buffer = [0; 4096];
    while !heard.trim_start().contains('\n') {
        let read = port.read(&mut buffer).unwrap();
        heard.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    answer(port, &heard);
}

fn answer(port: &mut File, heard: &str) {
    let nonce = heard.split("\"nonce\":\"").nth(1).unwrap().split('"').next().unwrap();
    let answer = format!("\nbanger {{\"nonce\":\"{nonce}\",\"version\":\"test\",\"protocol\":1,\"uptime_ms\":1}}\n");
    port.write_all(answer.as_bytes()).unwrap();
}

/// Counts in memory and on the disk, and says so; greets every host that comes, as an agent does.
fn count(mut port: File) -> ! {
    let token = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    std::thread::spawn(move || {
        let disk = OpenOptions::new().write(true).open("/dev/vdb").unwrap();
        for number in 1.. {
            disk.write_all_at(format!("{number:9}\n").as_bytes(), 1 << 30).unwrap();
            disk.sync_all().unwrap();
            println!("alive {} {number}", token.trim());
            sleep(Duration::from_millis(100));
        }
    });
    let mut heard: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = port.read(&mut buffer).unwrap();
        heard.extend(&buffer[..read]);
        while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = heard.drain(..=end).collect();
            if line.starts_with(b"banger {") {
                answer(&mut port, std::str::from_utf8(&line).unwrap());
            }
        }
        if heard.windows(8).any(|bytes| bytes == b"shutdown") {
            power_off();
        }
    }
}

/// Uses both disks at once, and says how long that took.
fn measure() {
    const START: u64 = 1 << 30;
    const BLOCK: usize = 1 << 20;
    let open = |path| OpenOptions::new().read(true).write(true).open(path).unwrap();
    let disks = ["/dev/vdb", "/dev/vdc"].map(open);
    let on_both = |what, work: fn(&File)| {
        let start = Instant::now();
        std::thread::scope(|scope| disks.iter().for_each(|disk| _ = scope.spawn(move || work(disk))));
        println!("{what} in {} ms", start.elapsed().as_millis());
    };
    on_both("wrote", |disk| {
        (0..8).for_each(|at| disk.write_all_at(&[7; BLOCK], START + (at << 20)).unwrap());
        disk.sync_all().unwrap();
    });
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    on_both("read", |disk| {
        let mut block = vec![0; BLOCK];
        for at in 0..8 {
            disk.read_exact_at(&mut block, START + (at << 20)).unwrap();
            assert!(block.iter().all(|byte| *byte == 7));
        }
    });
    on_both("wrote small blocks", |disk| {
        for at in 0..50 {
            disk.write_all_at(&[8; 4096], START + (at << 20)).unwrap();
            disk.sync_all().unwrap();
        }
    });
    on_both("discarded", |disk| {
        // SAFETY: BLKDISCARD takes where to begin, and how many bytes.
        assert_eq!(unsafe { ioctl(disk.as_raw_fd(), BLKDISCARD, &[START, 8 << 30]) }, 0);
    });
}

/// Says more than the host wants to keep.
fn shout() {
    let line = [b'!'; 1023];
    for _ in 0..3000 {
        println!("{}", std::str::from_utf8(&line).unwrap());
    }
    println!("\x1b[2Jthe last word");
}

fn power_off() -> ! {
    // SAFETY: reboot(2) takes a number.
    unsafe { reboot(POWER_OFF) };
    forever()
}

fn forever() -> ! {
    loop {
        sleep(Duration::from_secs(3600));
    }
}
