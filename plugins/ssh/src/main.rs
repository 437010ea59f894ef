//! `banger ssh`, `banger ssh-config` and `banger ssh-proxy`, one program of three names: real ssh
//! into VMs that have no server.
//!
//! The SSH server runs on the host, in the `ssh-proxy` that is ssh's ProxyCommand. [`server`] maps
//! SSH to operations of the VM's agent.

mod cli;
mod keys;
mod options;
mod proxy;
mod server;
mod ssh;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use banger::cli::Global;
use banger::error::CommandError;
use banger::host::paths::Paths;
use banger::output::command_output::CommandOutput;
use banger::output::ui::Ui;
use banger::plugin::{self, Program, Values};
use banger::vm::machine::Machines;

use crate::cli::{ConfigCli, ProxyCli, SshCli};

/// Completions for a VM.
const VMS: &[(&str, Values)] = &[("VM", |paths, ui, _| Machines::new(paths, ui).names())];

impl Program for SshCli {
    const VALUES: &[(&str, Values)] = VMS;

    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, paths: &Paths, ui: &Ui) -> Result<u8, CommandError> {
        match ssh::ssh(self, paths, ui)? {}
    }
}

impl Program for ConfigCli {
    const VALUES: &[(&str, Values)] = &[];

    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, paths: &Paths, ui: &Ui) -> Result<u8, CommandError> {
        options::config(paths)?.print(ui).map(|()| 0)
    }
}

impl Program for ProxyCli {
    const VALUES: &[(&str, Values)] = VMS;

    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, paths: &Paths, ui: &Ui) -> Result<u8, CommandError> {
        proxy::proxy(&self.name, self.global.verbose, paths, ui).map(|()| 0)
    }
}

fn main() -> ExitCode {
    // By whatever link: that of the plugin, or of its completer.
    let name = env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().unwrap_or_default().as_encoded_bytes() {
        name if name.ends_with(b"-ssh-config") => plugin::main::<ConfigCli>(),
        name if name.ends_with(b"-ssh-proxy") => plugin::main::<ProxyCli>(),
        _ => plugin::main::<SshCli>(),
    }
}
