//! The command line, as clap sees it: types only.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use banger::cli::{CommandOptions, Global, PortCommand, VmOptions, until};
use banger::vm::checkout::GUEST_ROOT;
use clap::{Parser, Subcommand, ValueHint};

/// Make, use and delete VMs by name
#[derive(Debug, Parser)]
#[command(name = "banger vm", bin_name = "banger vm", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a VM and run a command, or a shell, in it; with a folder of a git repository, in a copy
    /// of that
    #[command(
        mut_arg("workdir", |argument| argument.help(WORKDIR)),
        mut_arg("user", |argument| argument.help(USER)),
        after_help = "Examples:
  banger vm run                                a clean VM, and a shell in it
  banger vm run --rm --image alpine:3.22 -- sh -c 'cat /etc/os-release'
  banger vm run . --name try                   this repository in a VM of its own, and a shell in it
  banger vm run . --branch fix --from v1.2     on a new branch, which only the VM has

The VM stays, and runs on: `banger vm exec NAME` goes back into it. Without a command, a bare VM runs what its image names (entrypoint and arguments, as
docker does), or a shell; a command takes the place of the arguments. With a repository it is a shell, or the command, as root, in the folder that matches."
    )]
    Run {
        /// A folder of the git repository whose files the VM gets, at /root/repo
        #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
        path: Option<PathBuf>,
        /// What to call the VM [default: a name of two words]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Make this branch in the VM's repository, and check it out there
        #[arg(long, value_name = "BRANCH")]
        branch: Option<String>,
        /// Where that branch starts: a commit, or what leads to one [default: HEAD]
        #[arg(long, value_name = "REF")]
        from: Option<String>,
        /// Delete the VM when the command has ended
        #[arg(long)]
        rm: bool,
        #[command(flatten)]
        vm: VmOptions,
        #[command(flatten)]
        how: CommandOptions,
        /// Do not install the tools that the repository names for mise
        #[arg(long)]
        no_mise: bool,
        /// The command and its arguments
        #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::AnyPath)]
        command: Vec<OsString>,
    },
    /// Make a bare VM, start it, and print its name
    Create {
        /// What to call it [default: a name of two words]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        vm: VmOptions,
        /// Do not start it
        #[arg(long)]
        no_start: bool,
    },
    /// Start a VM that does not run
    Start {
        /// Its name
        #[arg(value_name = "VM")]
        vm: String,
    },
    /// Stop a VM; its disk stays
    Stop {
        /// Its name
        #[arg(value_name = "VM")]
        vm: String,
        /// Do not wait for the guest to shut down in order
        #[arg(short, long)]
        force: bool,
    },
    /// Stop a VM, and start it again
    Restart {
        /// Its name
        #[arg(value_name = "VM")]
        vm: String,
        /// Do not wait for the guest to shut down in order
        #[arg(short, long)]
        force: bool,
    },
    /// Run a command in a VM, or without one a shell; a VM that does not run is started, and
    /// nothing is synced
    #[command(
        mut_arg("workdir", |argument| argument.help(WORKDIR)),
        mut_arg("user", |argument| argument.help(USER)),
    )]
    Exec {
        /// Its name
        #[arg(value_name = "VM")]
        vm: String,
        #[command(flatten)]
        how: CommandOptions,
        /// The command and its arguments
        #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::AnyPath)]
        command: Vec<OsString>,
    },
    /// Log in to a VM with OpenSSH's client, or run a command there: `banger ssh`
    Ssh {
        /// Its name, and the user to be there: `me@NAME`
        #[arg(value_name = "VM")]
        vm: String,
        /// Forward your SSH agent: the VM can use its keys while you are connected
        #[arg(short = 'A', long)]
        forward_agent: bool,
        /// Words for the user's shell
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Copy files and folders out of a VM, or into it
    #[command(
        after_help = "NAME:PATH is in the VM of that name; a relative path is below the folder that its commands run in. A file here that has
a colon in its name: ./a:b. Folders, slashes and `-`, a tar archive, mean what they mean to `docker cp`.
An archive that is read may be compressed with gzip, bzip2, xz or zstd.
Out of a VM, files get at most the permissions 0755, less the umask, and a git repository is copied only if the path
names it: NAME:PATH/.git. An archive holds everything.

Examples:
  banger vm cp box:/etc/hosts .
  banger vm cp data box:/srv
  banger vm cp box:/var/log - | tar -t"
    )]
    Cp {
        /// What is copied
        #[arg(value_name = "FROM", value_hint = ValueHint::AnyPath)]
        from: OsString,
        /// Where to
        #[arg(value_name = "TO", value_hint = ValueHint::AnyPath)]
        to: OsString,
    },
    /// Delete a VM and its disk
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        #[arg(value_name = "VM")]
        vm: String,
        /// Delete even if a command runs in the VM, or it has unsynced changes
        #[arg(short, long)]
        force: bool,
    },
    /// List all VMs; with `--quiet` names only
    #[command(visible_alias = "ls")]
    List,
    /// Show what is known of a VM
    #[command(visible_alias = "inspect")]
    Show {
        /// Its name
        #[arg(value_name = "VM")]
        vm: String,
    },
    /// Show what VMs that run take of this machine at the moment
    Stats {
        /// Their names [default: all that run]
        #[arg(value_name = "VM")]
        vms: Vec<String>,
    },
    /// Print what a VM has said on its console, also after it has stopped
    Logs {
        /// Its name
        #[arg(value_name = "VM")]
        vm: String,
        /// Go on printing what it says, over stops and starts, until the VM is deleted
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<usize>,
    },
    /// Bring repositories into a VM that is there
    Workspace {
        #[command(subcommand)]
        command: WorkspaceCommand,
    },
    /// Have ports of this machine, and Unix sockets, lead into a VM
    Port {
        #[command(subcommand)]
        command: PortCommand,
    },
    /// Give a VM that does not run another name
    Rename {
        /// Its name
        #[arg(value_name = "VM")]
        vm: String,
        /// What to call it
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Remove the VMs that nobody needs: stopped ones whose repository is gone, and what killed
    /// commands left half-made. One by name goes only with `--filter`, and with what is nowhere
    /// else only with `--force`
    Prune {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Those too that were not used for this long: `until=168h`
        #[arg(long, value_name = "until=TIME", value_parser = until)]
        filter: Option<Duration>,
        /// Those too that have, or may have, something of their own
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Sync a repository's files into a VM, as `banger` does into its own, and install there what
    /// the repository asks for
    #[command(after_help = "Examples:
  banger vm workspace prepare box                                    this repository, at /root/repo
  banger vm workspace prepare box ../lib --guest-path /root/lib      another one beside it

The next time only what has changed is sent. Changes that were made in the VM stay there; where both sides changed the same, the sync stops and says so.
`banger vm exec box`, from a folder of one of its repositories, runs in the folder that matches.")]
    Prepare {
        /// The VM's name
        #[arg(value_name = "VM")]
        vm: String,
        /// A folder of the repository
        #[arg(value_name = "PATH", default_value = ".", value_hint = ValueHint::DirPath)]
        path: PathBuf,
        /// Where the repository's root is to be in the VM
        #[arg(long, value_name = "PATH", default_value = GUEST_ROOT)]
        guest_path: OsString,
        /// Where both sides changed a file, take this one's
        #[arg(long, conflicts_with = "guest_wins")]
        host_wins: bool,
        /// Where both sides changed a file, keep the VM's
        #[arg(long)]
        guest_wins: bool,
        /// Do not install the tools that the repository names for mise
        #[arg(long)]
        no_mise: bool,
    },
}

const WORKDIR: &str = "Run in this folder of the VM [default: that of the repository, or the image's]";
const USER: &str = "Run as this user, `name` or `uid`, either with `:group`; to write to the working tree as this \
    user, set `owner` [default: the image's in a bare VM, else root]";
