//! `git-remote-banger`, which git runs for `banger://NAME`: gitremote-helpers(7).
//!
//! It has one capability, `connect`, and connects to one service, `git-upload-pack`: it runs that in
//! the VM, in the repository that banger keeps there, and passes its streams on. Nothing that git
//! or the URL says becomes a part of the command. Another word, service or URL is an error.

mod advertisement;
mod relay;
mod url;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use banger_agent::protocol::exec::Exec;
use banger_vmm::Vm;

use self::relay::Limits;
pub use self::url::{SCHEME, url};
use crate::config::{Overrides, Settings, git_host};
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::vm::checkout::GuestCheckout;
use crate::vm::machine::{Machines, VmSpec, named};

/// The name that git gives the program: `git-remote-<scheme>`.
pub const PROGRAM: &str = "git-remote-banger";
/// The one service: it sends objects, and receives none.
const SERVICE: &str = "git-upload-pack";
/// The longest line that git says before a connection, in bytes.
const MAX_LINE: usize = 1024;

/// Whether a program that was called by `name` is the remote helper.
pub fn is_name(name: &OsStr) -> bool {
    Path::new(name).file_name() == Some(OsStr::new(PROGRAM))
}

/// Serves git on standard input and output. `arguments` are the remote's name and URL. A VM that
/// does not run is started, and is in use until git is done.
///
/// # Errors
/// If the URL names no VM, git wants another service, or the connection breaks.
pub fn serve(arguments: &[OsString], here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let [_, url] = arguments else {
        let error = CommandError::new("git did not say which VM").kind(ErrorKind::Usage);
        return Err(error.hint("git runs this program by itself: git fetch banger://NAME"));
    };
    let name = url::name(url)?;
    loop {
        let line = read_line().map_err(|error| broken(&error))?;
        match line.as_slice() {
            // The end of the commands.
            [] => return Ok(()),
            b"capabilities" => say("connect\n\n")?,
            line => match line.strip_prefix(b"connect ") {
                Some(service) if service == SERVICE.as_bytes() => return connect(name, here, paths, ui),
                Some(b"git-receive-pack") => return Err(no_push(name)),
                _ => {
                    let what = banger_vmm::printable(line);
                    let error = CommandError::new(format!("git asks for `{what}`, which `banger://` does not have"));
                    return Err(error.kind(ErrorKind::Usage).hint("use: git fetch"));
                }
            },
        }
    }
}

fn no_push(name: &str) -> CommandError {
    CommandError::new(format!("cannot push to the VM `{name}`: `banger://` is for `git fetch` only"))
        .kind(ErrorKind::Usage)
        .hint("commit or edit here: the next `banger` command syncs it into the VM")
}

/// Runs the service in the VM.
fn connect(name: &str, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let vm = named(name, &machines)?;
    // The configuration of a repository has no say: the keys are the user's alone.
    let settings = Settings::of_process(paths, None, &Overrides::default())?;
    let limits = Limits { bytes: settings.fetch_limit_bytes(), time: settings.fetch_timeout() };
    // Where git runs this program: in the working tree, if there is one.
    let root = Workspace::discover(here, git_host(paths)).map(|workspace| workspace.root);
    let repository = guest_repository(&vm, root.as_deref().unwrap_or(here))?;
    let machine = machines.start_found(&vm, &VmSpec::default())?;
    say("\n")?;
    relay::run(&machine.vm, upload_pack(&repository), limits)
}

/// The directory in a VM of the repository whose working tree here is `root`. From elsewhere, it is
/// that of the VM's own workspace.
///
/// # Errors
/// If the VM has no repository.
pub fn guest_repository(vm: &Vm, root: &Path) -> Result<PathBuf, CommandError> {
    GuestCheckout::around(vm, root).map(|checkout| checkout.folder(root)).ok_or_else(|| {
        let error = CommandError::new(format!("the VM `{}` has no repository of this machine", vm.name()));
        error.kind(ErrorKind::Guest).hint("to copy files out of it: banger cp NAME:PATH .")
    })
}

/// `git upload-pack` as root, whoever owns the files there.
fn upload_pack(repository: &Path) -> Exec {
    let argv = ["git", "-c", "safe.directory=*", "upload-pack"].map(Into::into).into_iter();
    let argv = argv.chain([repository.as_os_str().into()]).collect();
    Exec { argv, env: vec![("LC_ALL".into(), "C".into())], cwd: "/".into(), ..Exec::default() }
}

/// Reads a line of git's, without its end. Of what follows, nothing is read.
fn read_line() -> io::Result<Vec<u8>> {
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut line, mut byte) = (Vec::new(), [0]);
    while stdin.read(&mut byte)? > 0 && byte != *b"\n" {
        line.push(byte[0]);
        if line.len() > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
        }
    }
    Ok(line)
}

fn say(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| broken(&error))
}

fn broken(error: &io::Error) -> CommandError {
    CommandError::new(format!("the connection to git broke: {error}")).kind(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_known_by_the_name_that_git_gives_it() {
        assert!(is_name(OsStr::new("/usr/bin/git-remote-banger")) && is_name(OsStr::new(PROGRAM)));
        assert!(!is_name(OsStr::new("banger")) && !is_name(OsStr::new("")));
    }
}
