//! Holds a VM's directory as its supervisor does, speaks the real wire, and lies: the fast way to
//! see what a guest or a supervisor that has gone astray does to commands. No VM runs.
//!
//! `fake-supervisor VM-FOLDER CASE`. It serves until it is killed, and says `ready` on standard
//! output when it can be asked.

#![expect(clippy::print_stdout, reason = "who starts it waits for a line")]

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let mut arguments = env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().expect("a VM's folder"));
    let case = arguments.next().and_then(|case| case.into_string().ok()).expect("a case");
    let lock = File::create(folder.join("supervisor.lock"))?;
    lock.lock()?;
    fs::write(folder.join("run.json"), serde_json::to_vec(&run_info()?)?)?;
    let listener = UnixListener::bind(folder.join("s"))?;
    println!("ready");
    for client in listener.incoming() {
        let (client, case) = (client?, case.clone());
        // A client that goes has had enough.
        thread::spawn(move || serve(client, &case));
    }
    drop(lock);
    Ok(())
}

/// What the supervisor of a VM that runs writes down.
fn run_info() -> io::Result<Value> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // proc_pid_stat(5): the 22nd field, the second ending with the last parenthesis.
    let start_time: Option<u64> =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    let agent = json!({"version": "0.1.0", "guest_boot_ms": 1, "boot_ms": 1});
    Ok(json!({
        "format_version": 1, "pid": std::process::id(), "start_time": start_time,
        "boot_id": fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim(), "backend": "fake", "started": 1,
        "phase": {"phase": "running", "accelerator": "tcg", "agent": agent}, "restores_socket": true,
    }))
}

fn serve(mut client: UnixStream, case: &str) -> io::Result<()> {
    let request = read(&mut client, 0)?;
    match (request["op"].as_str(), case) {
        (_, "supervisor-silent") => forever(),
        (_, "supervisor-drips") => drip(&mut client, &[0, 0, 0x40, 0]),
        (Some("agent"), _) => {
            reply(&mut client)?;
            let request = read(&mut client, 1)?;
            match (request["op"].as_str(), case) {
                (_, "agent-silent") => forever(),
                (_, "agent-drips") => drip(&mut client, &[0, 0, 0x0f, 0, 0]),
                (Some("guest_only"), _) => {
                    let only = json!({"counts": {"files": u64::MAX, "references": 1}, "named": ["work"]});
                    let answer = json!({"ok": only}).to_string();
                    client.write_all(&[&[0], &(answer.len() as u32).to_be_bytes()[..], answer.as_bytes()].concat())
                }
                _ => Ok(()),
            }
        }
        _ => reply(&mut client),
    }
}

/// A message of JSON, after `skipped` bytes and its length.
fn read(client: &mut UnixStream, skipped: usize) -> io::Result<Value> {
    let mut header = vec![0; skipped + 4];
    client.read_exact(&mut header)?;
    let length = header[skipped..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let mut json = vec![0; length];
    client.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// The supervisor's answer that what was asked is done.
fn reply(client: &mut UnixStream) -> io::Result<()> {
    let json = br#"{"ok":null}"#;
    client.write_all(&[&(json.len() as u32).to_be_bytes()[..], json].concat())
}

/// Begins a message, and adds a byte of it every now and then for as long as somebody reads.
fn drip(client: &mut UnixStream, begin: &[u8]) -> io::Result<()> {
    client.write_all(begin)?;
    loop {
        thread::sleep(Duration::from_millis(200));
        client.write_all(b" ")?;
    }
}

fn forever() -> ! {
    loop {
        thread::park();
    }
}
