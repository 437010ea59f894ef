//! `banger vm ssh`.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use banger::error::CommandError;
use banger::plugin;

/// Replaces this process by `banger ssh`, which is another plugin.
///
/// # Errors
/// Returns only if it cannot be executed.
pub(super) fn ssh(vm: &str, forward_agent: bool, command: &[OsString]) -> Result<Infallible, CommandError> {
    let mut ssh = Command::new(plugin::banger()?);
    ssh.args(["ssh", vm]);
    if forward_agent {
        ssh.arg("--forward-agent");
    }
    if !command.is_empty() {
        ssh.arg("--").args(command);
    }
    let error = ssh.exec();
    Err(CommandError::new(format!("cannot run `banger ssh`: {error}")).kind((&error).into()))
}
