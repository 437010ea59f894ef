//! The fork: PID 1 becomes the guest's init, its child the agent.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, execve, fork, setsid};

use super::filesystems::write_to_console;
use super::ready::NOTIFY_SOCKET;
use super::tree::Tree;
use super::{ServeContext, power};

/// Where an init is looked for, in this order.
const CANDIDATES: [&str; 3] = ["/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"];

/// The agent's name in the process list. systemd spares at shutdown what begins with `@` (see its
/// "Storage Daemons for the Root File System"), so that the host can be told until the end.
const AGENT_NAME: &CStr = c"@banger-agent";

/// What PID 1 of the guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init {
    /// systemd, at this path.
    Systemd(PathBuf),
    /// Another init of the image's, at this path.
    Other(PathBuf),
    /// The image has none: banger's own, which reaps orphans and powers off.
    Minimal,
}

impl Init {
    /// The first candidate that this machine could run.
    pub(super) fn find(tree: &Tree) -> Self {
        let Some(path) = CANDIDATES.into_iter().find(|path| is_program(tree, path)) else {
            return Init::Minimal;
        };
        let target = tree.canonical(path).unwrap_or_default();
        if target.file_name().is_some_and(|name| name == "systemd") {
            Init::Systemd(path.into())
        } else {
            Init::Other(path.into())
        }
    }
}

/// A script, or an ELF file for the machine that this very program was built for.
fn is_program(tree: &Tree, path: &str) -> bool {
    let Ok(file) = tree.open_file(path) else {
        return false;
    };
    let executable = file.metadata().is_ok_and(|metadata| {
        use std::os::unix::fs::PermissionsExt;
        metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
    });
    let mut header = Vec::new();
    let read = file.take(20).read_to_end(&mut header);
    executable && read.is_ok() && (header.starts_with(b"#!") || is_native_elf(&header))
}

/// Class, byte order and machine are at the offsets 4, 5 and 18 (`elf(5)`).
fn is_native_elf(header: &[u8]) -> bool {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    header.starts_with(b"\x7fELF\x02\x01") && header.get(18..20) == Some(&machine.to_le_bytes()[..])
}

/// Forks. The child serves; this process becomes the init.
pub(super) fn split(mut context: ServeContext, serve: impl FnOnce(ServeContext)) -> ! {
    // SAFETY: this process has a single thread, so the child may do whatever the parent could.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            become_agent();
            if let Err(error) = context.boot.watch() {
                write_to_console(&format!("banger: cannot follow systemd's start: {error}\n"));
            }
            serve(context);
            std::process::exit(0)
        }
        Ok(ForkResult::Parent { .. }) => {
            let init = context.init.clone();
            // The port and the disk are the agent's alone from here on.
            drop(context);
            become_init(&init)
        }
        Err(errno) => {
            write_to_console(&format!("banger: the guest cannot boot: cannot fork: {errno}\n"));
            power::power_off_now()
        }
    }
}

/// Best effort: an agent under another name still serves.
fn become_agent() {
    let _ = setsid();
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    rename(AGENT_NAME);
}

/// Makes `/proc/<pid>/cmdline` and `comm` read `name` (`PR_SET_MM(2const)`).
fn rename(name: &CStr) {
    // The kernel reads arguments from anonymous memory only, which static data is not.
    let bytes = name.to_bytes_with_nul().to_vec().leak();
    let bounds = bytes.as_ptr_range();
    // The start goes first: the heap lies below the stack, so it never passes the end.
    let words = [(libc::PR_SET_MM_ARG_START, bounds.start), (libc::PR_SET_MM_ARG_END, bounds.end)];
    for (word, address) in words {
        // SAFETY: it moves a bound that only the kernel reads, to memory that is never freed.
        unsafe { libc::prctl(libc::PR_SET_MM, libc::c_ulong::try_from(word).unwrap_or(0), address, 0, 0) };
    }
    let _ = nix::sys::prctl::set_name(name);
}

fn become_init(init: &Init) -> ! {
    let (path, environment) = match init {
        Init::Systemd(path) => (path, format!("NOTIFY_SOCKET={NOTIFY_SOCKET}")),
        Init::Other(path) => (path, "SHELL=/bin/sh".to_owned()),
        Init::Minimal => minimal_init(),
    };
    let Err(errno) = exec(path, environment);
    write_to_console(&format!("banger: cannot run {}: {errno}\n", path.display()));
    minimal_init()
}

fn exec(path: &Path, environment: String) -> nix::Result<Infallible> {
    let program = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let environment = CString::new(environment).map_err(|_| Errno::EINVAL)?;
    let environment =
        [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", c"HOME=/", c"TERM=dumb", &environment];
    execve(&program, &[&program], &environment)
}

/// For images without an init: reaps orphans until it is told to power off.
fn minimal_init() -> ! {
    let signals = match blocked([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]) {
        Ok(signals) => signals,
        Err(errno) => {
            write_to_console(&format!("banger: the guest cannot wait for signals: {errno}\n"));
            power::power_off_now()
        }
    };
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        match signals.read_signal() {
            Ok(Some(got)) if got.ssi_signo != Signal::SIGCHLD as u32 => power::leave_and_finish(),
            _ => continue,
        }
    }
}

/// Where these signals are read from. Blocked signals wait for us even though PID 1 ignores them by
/// default.
///
/// Trap: in sigwait(3) they are not blocked as long as it waits, so nobody could see that they are
/// waited for.
pub(super) fn blocked<const N: usize>(signals: [Signal; N]) -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    signals.into_iter().for_each(|signal| set.add(signal));
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn first_executable_init_is_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        assert_eq!(Init::find(&tree), Init::Minimal);

        fs::create_dir_all(folder.path().join("usr/lib/systemd")).unwrap();
        fs::create_dir(folder.path().join("sbin")).unwrap();
        symlink("/lib/systemd/systemd", folder.path().join("sbin/init")).unwrap();
        let systemd = folder.path().join("usr/lib/systemd/systemd");
        fs::copy(std::env::current_exe().unwrap(), &systemd).unwrap();
        assert_eq!(Init::find(&tree), Init::Systemd("/usr/lib/systemd/systemd".into()));

        symlink("usr/lib", folder.path().join("lib")).unwrap();
        assert_eq!(Init::find(&tree), Init::Systemd("/sbin/init".into()));

        fs::set_permissions(&systemd, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Init::find(&tree), Init::Minimal);

        fs::remove_file(folder.path().join("sbin/init")).unwrap();
        let script = folder.path().join("sbin/init");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(Init::find(&tree), Init::Other("/sbin/init".into()));
    }

    #[test]
    fn elf_of_another_architecture_is_not_native() {
        let mut header = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\0\0";
        assert!(!is_native_elf(&header));
        assert!(!is_native_elf(b"\x7fELF"));
        header[18] = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
        assert!(is_native_elf(&header));
    }
}
