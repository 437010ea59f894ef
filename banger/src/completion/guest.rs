//! Completions that come from a VM: files of a running guest for `cp`, and forwards from the VM's
//! directory. No VM is started, and a guest that does not list its files within a second has none.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use banger_agent::frame::Frame;
use banger_agent::protocol::exec::{Exec, FromCommand, STDOUT, Started, ToCommand};
use banger_agent::protocol::{AgentRequest, WireBytes, now_ns};
use banger_vmm::{Vm, VmState, is_name};

use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::run;
use crate::store::images::Images;
use crate::vm::agent::{Call, Limits};
use crate::vm::machine::{Machines, existing};

/// How long a completion waits for the guest.
const LIMIT: Duration = Duration::from_secs(1);
/// The most that a listing may have, in bytes.
const MAX_LISTING: usize = 256 << 10;

/// The host ports and sockets that are forwarded to a VM: the one of the option `--vm` among
/// `words`, or that of the workspace around the directory `here`.
pub fn hosts(words: &[OsString], here: &Path, paths: &Paths, ui: &Ui) -> Vec<String> {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let value = words.iter().position(|word| word == "--vm").and_then(|at| words.get(at + 1).map(|word| &**word));
    let name = value.or_else(|| words.iter().find_map(|word| word.strip_prefix("--vm=")));
    let vm = existing(name, here, paths, &Machines::new(paths, ui));
    let ports = vm.ok().and_then(|vm| vm.ports().ok()).unwrap_or_default();
    // A port is enough of a name, unless several addresses have it.
    let number = |host: &banger_vmm::HostEnd| {
        let is_same = |other: &&banger_vmm::PortState| other.forward.host.port() == host.port();
        host.port().filter(|_| ports.iter().filter(is_same).count() == 1)
    };
    let name = |host| number(host).map_or_else(|| host.to_string(), |port| port.to_string());
    ports.iter().map(|port| name(&port.forward.host)).collect()
}

/// Completions, as whole words, of `word`, a path in a VM such as `:src/` or `box:/etc/h`; `None`
/// if it is no such path. A word without a colon is completed to names of VMs with a colon.
pub fn places(word: &str, here: &Path, paths: &Paths, ui: &Ui) -> Option<Vec<String>> {
    if !word.contains([':', '/']) {
        let names = Machines::new(paths, ui).names().unwrap_or_default();
        return Some(names.into_iter().map(|name| format!("{name}:")).collect());
    }
    let (name, path) = word.split_once(':').filter(|(name, _)| name.is_empty() || is_name(name))?;
    let (folder, _) = path.rsplit_once('/').map_or(("", path), |(folder, _)| path.split_at(folder.len() + 1));
    let start = format!("{name}:{folder}");
    let name = Some(name).filter(|name| !name.is_empty());
    let found = existing(name, here, paths, &Machines::new(paths, ui)).ok();
    let running = found.filter(|vm| matches!(vm.state(), Ok(VmState::Running { .. })));
    let listed = running.and_then(|vm| {
        let base = run::folder(&vm, here, &Images::new(paths, ui)).path;
        list(&vm, &base.join(folder))
    });
    Some(listed.unwrap_or_default().into_iter().map(|entry| format!("{start}{entry}")).collect())
}

/// The names in a directory of a guest, those of directories with a slash at the end; `None` if the
/// guest does not answer in time.
fn list(vm: &Vm, folder: &Path) -> Option<Vec<String>> {
    let end = Instant::now() + LIMIT;
    let limits = Limits { silence: LIMIT, frame: LIMIT };
    let argv = ["ls", "-1Ap", "--"].map(WireBytes::from);
    let argv = argv.into_iter().chain([folder.as_os_str().into()]).collect();
    let exec = Exec { argv, cwd: "/".into(), clock_ns: now_ns(), ..Exec::default() };
    let mut call = Call::on(vm.watch_agent(LIMIT).ok()?, &AgentRequest::Exec(exec), limits).ok()?;
    call.end_within(end.saturating_duration_since(Instant::now()));
    let left = end.saturating_duration_since(Instant::now());
    let _: Started = call.answer_within(left).ok()?;
    call.say(&ToCommand::StdinClosed).ok()?;
    let mut listing = Vec::new();
    while listing.len() <= MAX_LISTING {
        match call.receive().ok()?? {
            Frame::Data(STDOUT, chunk) => listing.extend_from_slice(&chunk),
            Frame::Data(..) => {}
            frame => {
                if let FromCommand::Exited(_) = frame.message().ok()? {
                    return Some(names(&listing));
                }
            }
        }
    }
    None
}

/// Leaves out names that a shell could take for something else than a word.
fn names(listing: &[u8]) -> Vec<String> {
    let lines = listing.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
    let is_word = |name: &&str| !name.is_empty() && !name.contains(char::is_control);
    lines.filter(is_word).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unprintable_names_in_guest_listing_are_dropped() {
        assert_eq!(names(b"a b\ndir/\n\x1b[2J\n\n\xff\nc\tlast"), ["a b", "dir/"]);
    }
}
