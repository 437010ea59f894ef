//! The Firecracker of a host: where it is, and whether banger can run it.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_util::text::printable;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::api::Version;
use super::jailer::Jailer;
use crate::error::{Failure, FailureKind};
use crate::program::Programs;

/// What to do without a Firecracker that can be run.
pub(super) const INSTALL: &str = "install Firecracker from https://github.com/firecracker-microvm/firecracker/releases \
                       and have `firecracker_bin` in the configuration name it";
/// How long it may take to say its version. It takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// It says no more than that, in bytes: a version, and what its logger adds.
const MAX_OUTPUT: usize = 4 << 10;
/// As much of what is no version is quoted, in bytes.
pub(super) const MAX_QUOTE: usize = 80;

/// A Firecracker that banger can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirecrackerInstallation {
    /// The program.
    pub program: PathBuf,
    version: Version,
    /// What runs it as another user; none: it runs as the supervisor's.
    pub(super) jailer: Option<Jailer>,
}

impl FirecrackerInstallation {
    /// The one that the configuration names, else the first among the host's programs. Runs it to
    /// ask for its version, which takes some milliseconds.
    ///
    /// # Errors
    /// There is none, or it cannot be run here, or it is too old, or the configuration names a user
    /// whom no jailer can have it run as.
    pub fn find(programs: &Programs) -> Result<Self, Failure> {
        let program = match programs.firecracker() {
            Some(program) => program.to_owned(),
            None => programs.find("firecracker", "firecracker").map_err(|_| missing())?,
        };
        check_type(&program)?;
        let first_line = first_line(&program).map_err(|error| not_run(&program, &error))?;
        let found = FirecrackerInstallation::that_said(program, &first_line)?;
        let jailer = programs.jailer_user().map(|user| Jailer::find(programs, user, &found.program, found.version));
        Ok(FirecrackerInstallation { jailer: jailer.transpose()?, ..found })
    }

    fn that_said(program: PathBuf, first_line: &[u8]) -> Result<Self, Failure> {
        let text = std::str::from_utf8(first_line).ok().and_then(|line| line.strip_prefix("Firecracker v"));
        let Some(version) = text.and_then(Version::parse) else {
            let quote = printable(&first_line[..first_line.len().min(MAX_QUOTE)]);
            let message = format!("{} is not Firecracker: `--version` says `{quote}`", program.display());
            return Err(Failure::new(message).with_hint(INSTALL));
        };
        if version < Version::OLDEST {
            let message = format!("{} is Firecracker {version}, which is too old", program.display());
            let hint = format!(
                "install Firecracker {} or later ({} or later recommended)",
                Version::OLDEST,
                Version::RECOMMENDED
            );
            return Err(Failure::new(message).with_hint(hint));
        }
        Ok(FirecrackerInstallation { program, version, jailer: None })
    }

    /// Its version, as in `1.14.0`.
    pub fn version(&self) -> String {
        self.version.to_string()
    }

    /// What another version does better; nothing: none does.
    pub fn advice(&self) -> Option<String> {
        let version = self.version;
        if version < Version::RECOMMENDED {
            let recommended = Version::RECOMMENDED;
            return Some(format!(
                "Firecracker {version} can corrupt data that programs in a guest send over vsock in packets of more \
                 than 32 KiB; banger itself sends smaller ones: install {recommended} or later"
            ));
        }
        (!version.can_pause()).then(|| {
            format!(
                "Firecracker {version} cannot pause VMs or take snapshots, because no connection reaches a VM that \
                 was resumed: install a later version"
            )
        })
    }
}

fn missing() -> Failure {
    Failure::new("`firecracker` was not found on this machine").with_hint(INSTALL).of_kind(FailureKind::ProgramMissing)
}

/// Refuses what is there and is no regular file: execve(2) says the same of it, EACCES, as of a
/// program without permission.
fn check_type(program: &Path) -> Result<(), Failure> {
    let what = match program.metadata() {
        Ok(metadata) if metadata.is_dir() => "is a directory, not a program",
        Ok(metadata) if !metadata.is_file() => "is not a regular file",
        // Running it tells what is wrong.
        _ => return Ok(()),
    };
    Err(Failure::new(format!("{} {what}", program.display())).with_hint(INSTALL))
}

/// Why the program could not be run.
pub(super) fn not_run(program: &Path, error: &io::Error) -> Failure {
    let name = program.display();
    match error.raw_os_error() {
        Some(libc::ENOENT) if !program.exists() => {
            let failure = Failure::new(format!("{name} does not exist")).with_hint(INSTALL);
            failure.of_kind(FailureKind::ProgramMissing)
        }
        Some(libc::EACCES) => Failure::new(format!("{name} is not executable")).with_hint(format!("chmod +x {name}")),
        // execve(2): the format is not recognised, or is for another architecture.
        Some(libc::ENOEXEC) => {
            let machine = std::env::consts::ARCH;
            Failure::new(format!("{name} is not a program for this machine's architecture, {machine}"))
                .with_hint(INSTALL)
        }
        _ => Failure::new(format!("cannot run {name}: {error}")).with_hint(INSTALL),
    }
}

/// The first line of what `program --version` writes.
pub(super) fn first_line(program: &Path) -> io::Result<Vec<u8>> {
    let mut output = first_output(program)?;
    output.truncate(output.iter().position(|&byte| byte == b'\n').unwrap_or(output.len()));
    Ok(output)
}

/// The beginning of what `program --version` writes, without any of the caller's variables.
fn first_output(program: &Path) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut command = Command::new(program);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.process_group(0).spawn()?;
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut output = Vec::new();
    let read = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => {
                break Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("it did not say its version within {} s", PATIENCE.as_secs()),
                ));
            }
            Ok(_) => {}
            Err(nix::Error::EINTR) => continue,
            Err(error) => break Err(error.into()),
        }
        let mut buffer = [0; 1024];
        match stdout.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(read) => output.extend(&buffer[..read]),
            Err(error) => break Err(error),
        }
        if output.len() >= MAX_OUTPUT {
            break Ok(());
        }
    };
    // It may have closed its output, or have more to say, and go on.
    // Until it is waited for, nobody else has the group's number.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let _ = child.wait();
    read.map(|()| output)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn program(directory: &Path, contents: &[u8], mode: u32) -> PathBuf {
        let path = directory.join("firecracker");
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// What comes of a program with this contents, and how long that takes.
    fn find(contents: &[u8], mode: u32) -> (Result<FirecrackerInstallation, Failure>, Duration) {
        let directory = tempfile::tempdir().unwrap();
        let path = program(directory.path(), contents, mode);
        let start = Instant::now();
        // Another thread of the tests may be forking with the file open for writing: ETXTBSY.
        let found = loop {
            match find_at(&path) {
                Err(failure) if failure.message.contains("busy") => std::thread::yield_now(),
                found => break found,
            }
        };
        (found, start.elapsed())
    }

    fn find_at(path: &Path) -> Result<FirecrackerInstallation, Failure> {
        FirecrackerInstallation::find(&Programs::new("/nonexistent").with_firecracker(Some(path.to_owned())))
    }

    fn refused(contents: &[u8], mode: u32) -> Failure {
        find(contents, mode).0.unwrap_err()
    }

    #[test]
    fn version_is_that_of_the_program() {
        let said = b"#!/bin/sh\n[ \"$*\" = --version ] && printf 'Firecracker v1.16.1\\n\\nlog line\\n'";
        assert_eq!(find(said, 0o755).0.unwrap().version(), "1.16.1");
    }

    #[test]
    fn missing_program_is_named_with_where_to_get_it() {
        let failure = FirecrackerInstallation::find(&Programs::new("/nonexistent")).unwrap_err();
        assert_eq!(failure.message, "`firecracker` was not found on this machine");
        let failure = find_at(Path::new("/nonexistent/fc")).unwrap_err();
        assert_eq!(failure.message, "/nonexistent/fc does not exist");
        assert_eq!((failure.kind, failure.hint.as_deref()), (FailureKind::ProgramMissing, Some(INSTALL)));
    }

    #[test]
    fn program_that_cannot_be_executed_is_refused() {
        let failure = refused(b"#!/bin/sh\n", 0o644);
        assert!(failure.message.ends_with("/firecracker is not executable"), "{failure:?}");
        assert!(failure.hint.unwrap().starts_with("chmod +x /"));
    }

    #[test]
    fn what_is_no_regular_file_is_no_program() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let path = directory.path();
        for (path, what) in [
            (path, "is a directory, not a program"),
            (&fifo, "is not a regular file"),
            (Path::new("/dev/null"), "is not a regular file"),
        ] {
            let failure = find_at(path).unwrap_err();
            assert_eq!(failure.message, format!("{} {what}", path.display()));
            assert_eq!(failure.hint.as_deref(), Some(INSTALL));
        }
    }

    #[test]
    fn program_for_another_architecture_is_refused() {
        // An ELF header of a machine that no host of banger's is: SPARC, elf(5).
        let mut elf = fs::read("/proc/self/exe").unwrap();
        elf[18] = 2;
        for contents in [&elf[..4096], b"\x7fELF", b"no program at all", b""] {
            let failure = refused(contents, 0o755);
            assert!(failure.message.contains("not a program for this machine's architecture"), "{failure:?}");
        }
    }

    #[test]
    fn old_version_is_refused_with_what_is_supported() {
        let failure = refused(b"#!/bin/sh\necho Firecracker v1.11.9", 0o755);
        assert!(failure.message.ends_with("is Firecracker 1.11.9, which is too old"), "{failure:?}");
        assert_eq!(failure.hint.unwrap(), "install Firecracker 1.12.0 or later (1.14.0 or later recommended)");
    }

    #[test]
    fn output_that_is_no_version_is_quoted_printably() {
        for (script, quote) in [
            ("printf '\\033[2Jhello'", "`^[[2Jhello`"),
            ("echo Firecracker vNext", "`Firecracker vNext`"),
            ("echo QEMU emulator version 10", "`QEMU emulator version 10`"),
            ("exit 1", "``"),
            ("head -c 100000000 /dev/zero", "^@"),
            ("kill -9 $$", "``"),
        ] {
            let failure = refused(format!("#!/bin/sh\n{script}\n").as_bytes(), 0o755);
            let is_quoted =
                failure.message.contains("is not Firecracker: `--version` says `") && failure.message.contains(quote);
            assert!(is_quoted && failure.message.len() < 500, "{failure:?}");
        }
    }

    #[test]
    fn program_that_does_not_answer_is_killed_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("alive");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let alive = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
        // The program and its children have the FIFO open for writing while they live.
        let script = format!("#!/bin/sh\nexec 3>{}\nsleep 60 &\nsleep 60\n", fifo.display());
        let (found, took) = find(script.as_bytes(), 0o755);
        assert!(found.unwrap_err().message.contains("did not say its version within 5 s"));
        assert!((PATIENCE..PATIENCE * 3).contains(&took), "{took:?}");
        let mut ended = [PollFd::new(alive.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut ended, PollTimeout::from(10_000_u16)), Ok(1), "a child is left");
        assert_eq!(ended[0].revents(), Some(PollFlags::POLLHUP));
    }

    #[test]
    fn advice_is_given_for_versions_with_known_faults() {
        let advice = |text: &str| {
            let line = format!("Firecracker v{text}");
            FirecrackerInstallation::that_said("/fc".into(), line.as_bytes()).unwrap().advice()
        };
        assert!(advice("1.13.2").unwrap().contains("install 1.14.0 or later"));
        assert!(advice("1.16.1").unwrap().contains("cannot pause"));
        assert_eq!(
            [advice("1.14.0"), advice("1.15.1"), advice("1.16.2"), advice("1.17.0-dev")],
            [None, None, None, None]
        );
    }
}
