//! A guest that is no friend of its host. Built static by the tests; standard library only. It is
//! the `/init` of a VM, or a process of the host in its place: `hostile DIRECTORY HOSTNAME`, with
//! the link as standard input and the console as output, and then it does nothing but talk.
//!
//! What it does before there is a link is said by the VM's host name (see [`main`]). After that it
//! syncs like an agent that has nothing, and each command's name says what becomes of the command
//! (see [`Guest::exec`]).

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null;
use std::thread::sleep;
use std::time::Duration;

unsafe extern "C" {
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn reboot(command: c_int) -> c_int;
}

const SYS_FINIT_MODULE: c_long = 313;
const POWER_OFF: c_int = 0x4321_fedc;

fn main() {
    let name = if is_init() { mount_and_read_name() } else { std::env::args().nth(2).unwrap() };
    println!("\x1b]0;a guest that {name}\x07");
    match name.as_str() {
        "panics" => panic!("as it should"),
        "hangs" => forever(),
        // What would change the terminal, hide a line, or be a line of another's; and one that does
        // not end.
        "box" => {
            println!("\x1b[2J\u{202e}txt.exe\u{9b}31m");
            println!("a line\rbanger: error: forged");
            let mut out = std::io::stdout();
            out.write_all(b"\xff\xfe\n").and_then(|()| out.write_all(&[b'z'; 40 << 10])).and_then(|()| out.flush()).unwrap();
        }
        _ => {}
    }
    let port = if is_init() {
        load_modules();
        open_port()
    } else {
        File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap())
    };
    let mut guest = Guest { port, next_sync: String::new(), bounds: Bounds::default() };
    match name.as_str() {
        // A byte a second: the host must not wait for the end of a line that never comes.
        "drips" => loop {
            guest.write(b"b");
            sleep(Duration::from_secs(1));
        },
        "floods" => loop {
            guest.write(&[b'x'; 4096]);
        },
        _ => {}
    }
    guest.greet();
    guest.serve()
}

/// Whether this is the `/init` of a VM, which alone may do something to its kernel.
fn is_init() -> bool {
    std::process::id() == 1
}

/// The VM's host name.
fn mount_and_read_name() -> String {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        let (kind, target) = (CString::new(kind).unwrap(), CString::new(target).unwrap());
        // SAFETY: the strings live until the call is over.
        unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, null()) };
    }
    let line = fs::read_to_string("/proc/cmdline").unwrap();
    line.split_whitespace().find_map(|word| word.strip_prefix("banger.hostname=")).unwrap().to_owned()
}

fn power_off() -> ! {
    if is_init() {
        // SAFETY: reboot(2) takes a number.
        unsafe { reboot(POWER_OFF) };
        forever()
    }
    std::process::exit(0)
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

/// yamux: the types and flags of its frames (github.com/hashicorp/yamux, spec.md).
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;
const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;

/// Somebody has connected, it says: with an address that is none.
const INCOMING: &str = r#"{"token":18446744073709551615,"address":"\u001b[2J","port":65535}"#;

struct Guest {
    port: File,
    /// What becomes of the next sync, as a command has ordered it.
    next_sync: String,
    bounds: Bounds,
}

/// What is kept for the cases about limits: see [`Guest::bounds`].
#[derive(Default)]
struct Bounds {
    /// A stream whose window is not given back.
    deaf: Option<u32>,
    /// What becomes of the sync that goes on.
    sync: String,
    /// What becomes of questions what changed in the guest alone: commands ask, and so does the
    /// supervisor.
    look: String,
    /// What came while something else was waited for.
    next: Option<(u32, Vec<u8>)>,
}

impl Guest {
    fn write(&mut self, bytes: &[u8]) {
        self.port.write_all(bytes).unwrap();
    }

    fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        // A host that has hung up ends nothing: to leave would be a panic of the kernel's.
        if self.port.read_exact(&mut bytes).is_err() {
            forever();
        }
        bytes
    }

    /// Answers the host's greeting with its own nonce.
    fn greet(&mut self) {
        let mut line = String::new();
        while !line.starts_with("banger ") || !line.ends_with('\n') {
            let byte = char::from(self.read(1)[0]);
            line.push(byte);
            if line == "\n" {
                line.clear();
            }
        }
        let nonce = line.split("\"nonce\":\"").nth(1).unwrap().split('"').next().unwrap();
        let version = line.split("\"version\":\"").nth(1).unwrap().split('"').next().unwrap();
        let answer = format!("\nbanger {{\"nonce\":\"{nonce}\",\"version\":\"{version}\",\"protocol\":1,\"uptime_ms\":1}}\n");
        self.write(answer.as_bytes());
    }

    /// Answers the first frame of every stream.
    fn serve(&mut self) -> ! {
        loop {
            let (id, bytes) = self.receive();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if self.bounds(id, &text) {
                continue;
            }
            if text.contains("\"op\":\"sync_further\"") {
                // The disk is that of the VM's own repository.
                self.control(id, r#"{"ok":{"mode":"fresh","seed":true,"guest_only":null}}"#);
            } else if text.contains("\"op\":\"listeners\"") {
                self.listeners(id);
            } else if text.contains("\"op\":\"listen\"") {
                self.listen(id);
            } else if text.contains("\"op\":\"accept\"") {
                // Whoever takes a connection waits for it.
                continue;
            } else if text.contains("\"op\":\"sync\"") {
                match std::mem::take(&mut self.next_sync).as_str() {
                    "silence" => continue,
                    "deep-json" => self.frame(id, 0, "[".repeat(100_000).as_bytes()),
                    "no-space" => self.control(id, r#"{"error":{"kind":"no_space","message":"full \u001b[2J of it"}}"#),
                    "asks-for-more" => {
                        self.control(id, r#"{"ok":{"mode":"delta","guest_only":null}}"#);
                        self.frame(id, 1, &[0xff; 4]);
                    }
                    "lost" => self.lost(id),
                    _ => self.control(id, r#"{"ok":{"mode":"fresh","guest_only":null}}"#),
                }
            } else if text.contains("\"type\":\"commit\"") {
                self.control(id, r#"{"type":"applied","written":1,"deleted":0,"references":0,"kept":0}"#);
            } else if text.contains("\"op\":\"exec\"") {
                self.exec(id, &text);
            } else if text.contains("\"op\":\"copy_out\"") {
                self.copy_out(id, text.split("\"path\":\"").nth(1).unwrap().split('"').next().unwrap());
            } else if text.contains("\"op\":\"stat\"") {
                self.control(id, r#"{"ok":{"commands":0,"disk_total":1,"disk_free":1,"memory_total":1,"memory_available":1}}"#);
            } else if text.contains("\"op\":\"shutdown\"") {
                power_off()
            }
        }
    }

    fn exec(&mut self, id: u32, request: &str) {
        const STARTED: &str = r#"{"ok":{"pid":1}}"#;
        const EXITED: &str = r#"{"type":"exited","code":0}"#;
        let argument = |place: usize| request.split("\"argv\":[").nth(1).unwrap().split('"').nth(2 * place + 1).unwrap();
        match argument(0) {
            "true" => {
                self.control(id, STARTED);
                self.control(id, EXITED);
            }
            "next-sync" => {
                self.next_sync = argument(1).to_owned();
                self.control(id, STARTED);
                self.control(id, EXITED);
            }
            "silence" => {}
            "listens" => {
                self.control(id, STARTED);
                // The host hears of listeners no more than twice a second.
                sleep(Duration::from_secs(3));
                self.control(id, EXITED);
            }
            "length-max" => {
                self.control(id, STARTED);
                self.data(id, &[1, 0xff, 0xff, 0xff, 0xff, b'x']);
            }
            "length-over" => self.data(id, &[&[0], &(1_u32 << 20 | 1).to_be_bytes()[..]].concat()),
            "truncated" => {
                self.control(id, STARTED);
                self.data(id, b"\x01\0\0\0\x64half");
                self.mux(DATA, FIN, id, 0, &[]);
            }
            "unknown-type" => {
                self.control(id, STARTED);
                self.control(id, r#"{"type":"\u001b[31mteleport"}"#);
            }
            // A connection where none was asked for.
            "incoming" => {
                self.control(id, STARTED);
                self.control(id, INCOMING);
            }
            "not-utf8" => self.frame(id, 0, b"{\"ok\":{\"pid\":\"\xff\"}}"),
            "deep-json" => {
                self.control(id, STARTED);
                self.frame(id, 0, "[".repeat(100_000).as_bytes());
            }
            "status-300" => {
                self.control(id, STARTED);
                self.control(id, r#"{"type":"exited","code":300}"#);
            }
            "data-first" => self.frame(id, 1, b"out of turn"),
            "exits-twice" => {
                self.control(id, STARTED);
                self.frame(id, 1, b"before\n");
                self.frame(id, 9, b"on no channel");
                self.control(id, r#"{"type":"exited","code":5}"#);
                self.control(id, r#"{"type":"exited","code":6}"#);
                self.frame(id, 1, b"after\n");
            }
            "stranger" => {
                self.control(id, STARTED);
                // For streams that nobody has opened, and one that is of no kind at all.
                self.mux(WINDOW_UPDATE, 0, 4242, 100, &[]);
                self.mux(DATA, 0, 4243, 4, b"hey!");
                self.control(id, EXITED);
            }
            "breaks-the-window" => {
                self.control(id, STARTED);
                // A host that does not read gives no room for more than 256 KiB.
                for _ in 0..100 {
                    self.frame(id, 1, &[b'y'; 60 << 10]);
                }
            }
            "opens-a-stream" => self.mux(WINDOW_UPDATE, SYN, 2, 0, &[]),
            other => panic!("what is {other}?"),
        }
    }

    /// Something listens at ever other ports, at all of them, and at those that are none.
    fn listeners(&mut self, id: u32) {
        self.control(id, r#"{"ok":{"ports":[]}}"#);
        for first in (20_000..60_000).step_by(2_000) {
            let ports: Vec<_> = (first..first + 500).rev().map(|port| port.to_string()).collect();
            self.control(id, &format!(r#"{{"ports":[0,1,22,22,{}]}}"#, ports.join(",")));
        }
        self.control(id, r#"{"ports":[65536,-1]}"#);
    }

    /// Listens elsewhere than it was asked to, and has many connections at once.
    fn listen(&mut self, id: u32) {
        self.control(id, r#"{"ok":{"at":{"tcp":{"host":"\u001b[2J","port":22}}}}"#);
        for _ in 0..500 {
            self.control(id, INCOMING);
        }
    }

    /// Has lost repositories that it never had, and does the rest in order.
    fn lost(&mut self, id: u32) {
        let strange = r#""../../etc",{"hex":"1b5b324a"},"#;
        let many = vec![r#""a/.git""#; 20_000].join(",");
        self.control(id, &format!(r#"{{"ok":{{"mode":"delta","lost":[{strange}{many}],"guest_only":null}}}}"#));
        self.control(id, r#"{"type":"compared","conflicts":[],"conflict_count":0,"now_ns":1}"#);
    }

    /// Answers with files of which the first folder of `path` says what is wrong with them: a case,
    /// and what it needs, separated by commas. The rest is a directory of the host's, not to be
    /// touched.
    fn copy_out(&mut self, id: u32, path: &str) {
        let (case, outside) = path[1..].split_at(path[1..].find('/').unwrap());
        let contents = outside.ends_with("/.");
        let outside = outside.trim_end_matches("/.");
        let (case, words) = case.split_once(',').unwrap_or((case, ""));
        let words: Vec<_> = words.split(',').collect();
        let source = |name: &str, is_folder: bool, contents: bool| {
            format!(r#"{{"ok":{{"name":"{name}","is_folder":{is_folder},"contents":{contents}}}}}"#)
        };
        let asked = if contents { "" } else { &outside[outside.rfind('/').unwrap() + 1..] };
        self.control(id, &match case {
            // What it is called instead, with `!` for a slash; whether it is a directory; whether
            // it is only what is in that.
            "lie" => source(&words[0].replace('!', "/"), words[1] == "directory", words[2] == "contents"),
            "announced" => source(asked, false, contents),
            "modes" => source(asked, words[0] == "directory", contents),
            _ => source(asked, true, contents),
        });
        let victim = format!("{outside}/victim");
        // For git, which runs this when it looks for changes.
        let config = format!("[core]\n\trepositoryformatversion = 0\n\tfsmonitor = \"touch {outside}/run-by-git; false\"\n");
        let attack = |below: &str| file_of(&format!("{below}config"), 0o644, config.as_bytes());
        let entries = match case {
            "parent" => vec![folder(""), file("../evil")],
            "absolute" => vec![folder(""), file(&victim)],
            "dots" => vec![folder(""), folder("a"), file("a/../../evil")],
            "link" => vec![folder(""), link("d\x1b[2J", outside), file("d\x1b[2J/victim")],
            "becomes-link" => vec![folder(""), folder("d"), link("d", outside), file("d/victim")],
            "root-link" => vec![link("", outside), file("victim")],
            // There is no kind of entry for hard links or devices.
            "kind" => vec![folder(""), entry("null", &[&[3], &number(0o666)[..], &number(259)].concat())],
            "announced" => vec![folder(""), file("evil")],
            "lie" if words[1] == "directory" => vec![folder(""), attack(""), folder("hooks"), file("hooks/post-checkout")],
            "lie" => vec![file_of("", 0o644, b"gitdir: evil\n")],
            // A repository of this name, or a link of this name into one.
            "repository" => vec![folder(""), folder(words[0]), attack(&format!("{}/", words[0]))],
            "git-file" => vec![folder(""), file_of(words[0], 0o644, b"gitdir: evil\n")],
            "git-link" => vec![folder(""), link("l", "../.git/hooks")],
            "bare" => vec![folder(""), attack(""), folder("objects"), folder("refs"), file_of("HEAD", 0o644, b"ref: refs/heads/x\n")],
            "modes" if words[0] == "directory" => vec![folder(""), folder("d"), file("d/f")],
            "modes" => vec![file("")],
            "head" => vec![vec![0xff; 4]],
            "size" => vec![folder(""), entry("evil", &[&[1], &number(0o644)[..], &number(1 << 62)].concat()), piece(1 << 62, b"x")],
            "hole" => vec![folder(""), entry("evil", &[&[1], &number(0o644)[..], &number(4)].concat()), piece(0, b"evil"), piece(1 << 40, b"")],
            // What the host gives room for, so that it is the host that ends it.
            "endless" => {
                let head = entry("evil", &[&[1], &number(0o644)[..], &number(1)].concat());
                [folder(""), head].into_iter().chain((0..6).map(|at| piece(at * (32 << 10), &[b'x'; 32 << 10]))).collect()
            }
            other => panic!("what is {other}?"),
        };
        for bytes in entries {
            self.frame(id, 1, &bytes);
        }
        if case != "endless" {
            self.control(id, r#"{"type":"done","files":1,"folders":1,"links":0,"bytes":4,"skipped":0}"#);
            // A VM has not as many streams as there are lies.
            self.mux(DATA, FIN, id, 0, &[]);
        }
    }

    /// The cases about limits: what takes too long, too much or does not add up. False: it is none
    /// of them.
    fn bounds(&mut self, id: u32, text: &str) -> bool {
        const STARTED: &str = r#"{"ok":{"pid":1}}"#;
        const EXITED: &str = r#"{"type":"exited","code":0}"#;
        const COMPARED: &str = r#"{"type":"compared","conflicts":[],"conflict_count":0,"now_ns":-9223372036854775808}"#;
        if text.contains("\"op\":\"sync\"") {
            self.bounds.sync = self.next_sync.clone();
            let lost: Vec<_> = (0..1000).map(|number| format!("\"lost-{number}/.git\"")).collect();
            match self.next_sync.as_str() {
                "drips" => self.drip(id, 0, 1000),
                "numbers" => self.control(
                    id,
                    &format!(
                        r#"{{"ok":{{"mode":"delta","seed":true,"lost":[{}],"guest_only":{{"files":18446744073709551615,"references":1}}}}}}"#,
                        lost.join(",")
                    ),
                ),
                _ => return false,
            }
            self.next_sync.clear();
            return true;
        }
        if text.contains("\"type\":\"plan_ends\"") && self.bounds.sync == "numbers" {
            self.control(id, COMPARED);
            return true;
        }
        if text.contains("\"type\":\"commit\"") && self.bounds.sync == "compares" {
            for _ in 0..10 {
                self.control(id, COMPARED);
            }
            return true;
        }
        if text.contains("\"op\":\"guest_only\"") {
            match self.bounds.look.as_str() {
                "drips" => self.drip(id, 0, 1000),
                "silence" => {}
                _ => self.control(id, r#"{"ok":{"counts":{"files":18446744073709551615,"references":1},"named":["work"]}}"#),
            }
            return true;
        }
        if !text.contains("\"op\":\"exec\"") {
            return false;
        }
        let argument = |place: usize| text.split("\"argv\":[").nth(1).unwrap().split('"').nth(2 * place + 1).unwrap();
        match argument(0) {
            "next-look" => {
                self.bounds.look = argument(1).to_owned();
                self.control(id, STARTED);
                self.control(id, EXITED);
            }
            "drips" => self.drip(id, 0, 1000),
            // It takes no input, and hears no signal behind it.
            "deaf" => {
                self.bounds.deaf = Some(id);
                self.control(id, STARTED);
            }
            "drips-data" => {
                self.control(id, STARTED);
                self.drip(id, 1, 1000);
            }
            "crumbs" => {
                self.control(id, STARTED);
                self.crumbs(id);
            }
            _ => return false,
        }
        true
    }

    /// Begins a frame, and adds a byte of it every second, for ever.
    fn drip(&mut self, id: u32, kind: u8, length: u32) {
        self.data(id, &[&[kind][..], &length.to_be_bytes()].concat());
        let mut port = self.port.try_clone().unwrap();
        std::thread::spawn(move || {
            loop {
                sleep(Duration::from_secs(1));
                // In one call, so that nothing comes in between.
                let frame = [&[0, DATA, 0, 0][..], &id.to_be_bytes(), &1_u32.to_be_bytes(), b" "].concat();
                port.write_all(&frame).unwrap();
            }
        });
    }

    /// Prints without end, each byte in a mux frame of its own, as far as the host gives room.
    fn crumbs(&mut self, id: u32) {
        let output = [&[1][..], &1024_u32.to_be_bytes(), &[b'z'; 1024]].concat();
        let mut output = output.iter().copied().cycle();
        let mut room = 200 << 10;
        loop {
            while room > 0 {
                let count = room.min(2000);
                let crumb = |byte| [&[0, DATA, 0, 0][..], &id.to_be_bytes(), &1_u32.to_be_bytes(), &[byte]].concat();
                let crumbs: Vec<u8> = output.by_ref().take(count).flat_map(crumb).collect();
                self.write(&crumbs);
                room -= count;
            }
            let header = self.read(12);
            let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            match (header[1], number(4), number(8)) {
                (WINDOW_UPDATE, of, more) if of == id => room += more as usize,
                (PING, _, ping) if header[3] == SYN as u8 => self.mux(PING, ACK, 0, ping, &[]),
                (DATA, of, length @ 1..) => {
                    let bytes = self.read(length as usize);
                    self.mux(WINDOW_UPDATE, 0, of, length, &[]);
                    self.bounds.next = Some((of, bytes));
                    return;
                }
                _ => {}
            }
        }
    }

    /// The next data of a stream; everything else on the link is taken care of.
    fn receive(&mut self) -> (u32, Vec<u8>) {
        if let Some(next) = self.bounds.next.take() {
            return next;
        }
        loop {
            let header = self.read(12);
            let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            let (id, length) = (number(4), number(8));
            if header[1] == PING && u16::from(header[3]) == SYN {
                self.mux(PING, ACK, 0, length, &[]);
            }
            if header[1] == DATA && length > 0 {
                let bytes = self.read(length as usize);
                if self.bounds.deaf == Some(id) {
                    continue;
                }
                // Windows are given back at once: what is sent is small.
                self.mux(WINDOW_UPDATE, 0, id, length, &[]);
                return (id, bytes);
            }
        }
    }

    fn control(&mut self, id: u32, json: &str) {
        self.frame(id, 0, json.as_bytes());
    }

    fn frame(&mut self, id: u32, kind: u8, payload: &[u8]) {
        self.data(id, &[&[kind], &(payload.len() as u32).to_be_bytes()[..], payload].concat());
    }

    fn data(&mut self, id: u32, bytes: &[u8]) {
        self.mux(DATA, 0, id, bytes.len() as u32, bytes);
    }

    fn mux(&mut self, kind: u8, flags: u16, id: u32, length: u32, payload: &[u8]) {
        let header = [&[0, kind][..], &flags.to_be_bytes(), &id.to_be_bytes(), &length.to_be_bytes(), payload].concat();
        self.write(&header);
    }
}

/// A number as postcard has it: LEB128.
fn number(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn bytes(bytes: &[u8]) -> Vec<u8> {
    [number(bytes.len() as u64), bytes.to_vec()].concat()
}

/// The head of an entry of a copy, with its length before it: path, kind, time.
fn entry(path: &str, kind: &[u8]) -> Vec<u8> {
    let head = [bytes(path.as_bytes()), kind.to_vec(), number(0)].concat();
    [&(head.len() as u32).to_le_bytes()[..], &head].concat()
}

fn folder(path: &str) -> Vec<u8> {
    entry(path, &[&[0], &number(0o7777)[..]].concat())
}

fn link(path: &str, target: &str) -> Vec<u8> {
    entry(path, &[&[2], &bytes(target.as_bytes())[..]].concat())
}

fn file(path: &str) -> Vec<u8> {
    file_of(path, 0o7777, b"evil")
}

fn file_of(path: &str, mode: u64, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u64;
    let kind = [&[1], &number(mode)[..], &number(length)].concat();
    [entry(path, &kind), piece(0, content), piece(length, b"")].concat()
}

fn piece(offset: u64, content: &[u8]) -> Vec<u8> {
    [&offset.to_le_bytes()[..], &(content.len() as u32).to_le_bytes(), content].concat()
}

fn forever() -> ! {
    loop {
        sleep(Duration::from_secs(3600));
    }
}
