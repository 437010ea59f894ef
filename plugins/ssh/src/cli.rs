//! The command lines, as clap sees them: types only.

use std::ffi::OsString;

use banger::cli::Global;
use clap::Parser;

/// Log in to a VM with OpenSSH's client, or run a command there
#[derive(Debug, Parser)]
#[command(name = "banger ssh", bin_name = "banger ssh", version)]
#[command(after_help = "Examples:
  banger ssh                     a shell in this repository's VM
  banger ssh me@vm -- uname -a   a command in another one, as the user me
  banger ssh-config              what makes ssh, scp, sftp, rsync and editors know every VM as NAME.banger")]
pub(crate) struct SshCli {
    /// A VM, and the user to be there; this repository's, and root
    #[arg(value_name = "VM")]
    pub(crate) vm: Option<String>,
    /// Forward your SSH agent: the VM can use its keys while you are connected
    #[arg(short = 'A', long)]
    pub(crate) forward_agent: bool,
    /// Words for the user's shell
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Print what makes ssh know every VM as NAME.banger
#[derive(Debug, Parser)]
#[command(name = "banger ssh-config", bin_name = "banger ssh-config", version)]
#[command(after_help = "Example:
  banger ssh-config >~/.ssh/banger    and at the top of ~/.ssh/config: Include banger")]
pub(crate) struct ConfigCli {
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Be the SSH server of a VM, on standard input and output: for ssh's ProxyCommand
#[derive(Debug, Parser)]
#[command(name = "banger ssh-proxy", bin_name = "banger ssh-proxy", version)]
pub(crate) struct ProxyCli {
    /// The VM's name, which may end in .banger
    #[arg(value_name = "VM")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) global: Global,
}
