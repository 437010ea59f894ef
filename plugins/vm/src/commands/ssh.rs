//! `banger vm ssh`.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use banger::error::CommandError;
use banger::plugin;

/// Becomes `banger ssh`, which is a plugin of its own.
///
/// # Errors
/// Returns only with the reason why that cannot be.
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
