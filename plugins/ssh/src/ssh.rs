//! `banger ssh`.

use std::convert::Infallible;
use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use banger::error::{CommandError, ErrorKind};
use banger::host::paths::Paths;
use banger::output::ui::Ui;
use banger::vm::machine::{Machines, existing};

use crate::cli::SshCli;
use crate::options::{SUFFIX, options};

/// Replaces this process by ssh.
///
/// # Errors
/// Returns only if ssh cannot be executed.
pub(crate) fn ssh(cli: &SshCli, paths: &Paths, ui: &Ui) -> Result<Infallible, CommandError> {
    let wanted = cli.vm.as_deref();
    let (user, name) = match wanted.and_then(|wanted| wanted.split_once('@')) {
        Some((user, name)) => (Some(user).filter(|user| !user.is_empty()), Some(name)),
        None => (None, wanted),
    };
    let here =
        env::current_dir().map_err(|error| CommandError::new(format!("cannot find out where this is: {error}")))?;
    let machines = Machines::new(paths, ui);
    // A VM may be called as ssh knows another one.
    let is_there = |name: &str| machines.named(name).is_ok_and(|vm| vm.is_some());
    let as_ssh = |name| if is_there(name) { name } else { name.strip_suffix(SUFFIX).unwrap_or(name) };
    let name = name.filter(|name| !name.is_empty()).map(as_ssh);
    let vm = existing(name, &here, paths, &machines)?;
    let mut ssh = Command::new("ssh");
    if cli.forward_agent {
        ssh.arg("-A");
    }
    // Forwards of the user's configuration add up, and this is all that takes them back. The agent
    // is none of them.
    ssh.args(["-o", "ClearAllForwardings=yes"]);
    for (option, value) in options(paths)? {
        // The first of a name counts.
        match (option, user) {
            ("User", Some(user)) => ssh.arg("-l").arg(user),
            _ => ssh.arg("-o").arg(format!("{option}={value}")),
        };
    }
    ssh.arg(format!("{}{SUFFIX}", vm.name()));
    if !cli.command.is_empty() {
        ssh.arg("--").args(&cli.command);
    }
    let error = ssh.exec();
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    let failed = CommandError::new(format!("cannot run ssh: {error}"));
    Err(match missing {
        true => failed.kind(ErrorKind::MissingProgram).hint("install it: apt-get install openssh-client"),
        false => failed.kind((&error).into()),
    })
}
