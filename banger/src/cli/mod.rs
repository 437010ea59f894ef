//! The command line, as clap sees it: types only. Help, manual pages, `docs/reference/cli.md` and
//! completions are all made of it; an argument whose value name is `VM` or `IMAGE` is completed
//! with the names of these.

pub(crate) mod line;

use std::ffi::OsString;
use std::time::Duration;

use banger_vmm::{BackendChoice, NetMode, PortForward, PortName};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::config::Overrides;
pub use crate::output::options::{Color, Global};
use crate::output::units::{self, option};

/// Run the repository you stand in inside a microVM of its own.
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    version = banger_agent::VERSION,
    override_usage = "banger [OPTIONS] [-- <COMMAND>...]\n       banger [OPTIONS] <COMMAND> [ARGUMENTS]",
    after_help = "Examples:
  banger                     a shell in the VM, in the folder you stand in
  banger -- make test        a command, with its own exit status
  banger --rm -- cargo test  in a VM that is thrown away afterwards
  banger --watch -- npm start  with your edits in the VM while it runs

Exit status: the command's own; 128+n if a signal ended it; 124 after --timeout; 125 if banger itself failed;
126 if the command cannot be run; 127 if it does not exist.

Environment: BANGER_ACCELERATOR=kvm|tcg forces what runs the VM; BANGER_BOOT_TIMEOUT=5m lets a slow machine take its time.

More commands: `banger --list` shows aliases and plugins too: image, kernel, ssh, vm, and any banger-NAME on PATH."
)]
pub struct Cli {
    /// What to do; without it, a command or a shell is run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
    /// List all commands: built-in ones, aliases and plugins; with `--quiet` names only
    #[arg(long)]
    pub list: bool,
    /// What to print.
    #[command(flatten)]
    pub global: Global,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a VM
    Status {
        /// The VM [default: this repository's]
        #[arg(value_name = "VM")]
        vm: Option<String>,
    },
    /// List all VMs; with `--quiet` names only
    #[command(visible_alias = "ls")]
    List,
    /// Copy files and folders out of a VM, or into it
    #[command(
        after_help = "A place that starts with a colon is in this repository's VM; there, a relative one is below the folder that matches where you stand.
NAME:PATH is in the VM of that name, below the folder that its commands run in. A file here that has a colon in its name: ./a:b. Folders, slashes and `-`, a tar archive, mean what they mean to `docker cp`. An archive that is read may be compressed with gzip, bzip2, xz or zstd.
Out of a VM, files get at most the permissions 0755, less the umask, and a git repository is copied only if the path names it: :PATH/.git. An archive holds everything.

Examples:
  banger cp :target/release/app .    a file out of the VM
  banger cp data :/srv               a folder into it
  banger cp box:/etc/hosts .         out of the VM `box`
  banger cp :/var/log - | tar -t     as a tar archive"
    )]
    Cp {
        /// What is copied
        #[arg(value_name = "FROM", value_hint = ValueHint::AnyPath)]
        from: OsString,
        /// Where to
        #[arg(value_name = "TO", value_hint = ValueHint::AnyPath)]
        to: OsString,
    },
    /// Fetch commits, branches and tags that were made in a VM
    #[command(
        after_help = "Branches and tags of the VM NAME become refs/banger/NAME/heads/… and refs/banger/NAME/tags/…; a commit that is checked out there on no branch, refs/banger/NAME/HEAD. Your branches, files and index stay as they are. A VM that does not run is started.
git checks all that comes before this repository gets any of it. A branch that was rewound or deleted in the VM is so here too.

Examples:
  banger fetch --dry-run                       what is new there
  banger fetch
  git log -p main..refs/banger/NAME/heads/main
  git merge refs/banger/NAME/heads/main

`git fetch banger://NAME` works too."
    )]
    Fetch {
        /// The VM [default: this repository's]
        #[arg(value_name = "VM")]
        vm: Option<String>,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Explain whether files travel to the VM, and which rule decides
    #[command(
        after_help = "TRAVELS is `to VM` for what a sync sends, `partly` for git's own directory, or `no`. A rule is named by its file, its line and its text.

Examples:
  banger why src/main.c .env
  banger why --json target"
    )]
    Why {
        /// Files and directories of the repository, which need not exist
        #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
        paths: Vec<std::path::PathBuf>,
    },
    /// Show what VMs, images, kernels and caches take of the disk
    #[command(
        after_help = "A VM that runs on Firecracker keeps the disk space of files that it deletes. To free it, run fstrim on QEMU once:
  banger stop
  banger --backend qemu -- fstrim -a"
    )]
    Du,
    /// Look at what banger needs of this machine; the exit status is 1 if something does not work
    #[command(
        after_help = "A line for each thing: `ok`; `warn`, if banger works without it, but slower or with less; `fail`. Below it stands what to do."
    )]
    Doctor {
        /// Mend what can be mended without losing anything
        #[arg(long)]
        fix: bool,
    },
    /// Print what a VM has said on its console, also after it has stopped
    Logs {
        /// The VM [default: this repository's]
        #[arg(value_name = "VM")]
        vm: Option<String>,
        /// Go on printing what it says, over stops and starts, until the VM is deleted
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<usize>,
    },
    /// Bring the working tree into the VM, as is done before a command
    #[command(after_help = "A VM that does not run is started; a repository without a VM gets one.

Examples:
  banger sync              send what changed since the last sync
  banger sync --watch      and go on with what changes from now on, until Ctrl-C
  banger sync --host-wins  overwrite what the VM changed too")]
    Sync {
        /// Where both sides changed a file, take this one's
        #[arg(long, conflicts_with = "guest_wins")]
        host_wins: bool,
        /// Where both sides changed a file, keep the VM's
        #[arg(long)]
        guest_wins: bool,
        /// Go on syncing what changes, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Have ports of this machine, and Unix sockets, lead into a VM
    Port {
        /// What to do.
        #[command(subcommand)]
        command: PortCommand,
    },
    /// Start a VM that does not run
    Start {
        /// The VM [default: this repository's]
        #[arg(value_name = "VM")]
        vm: Option<String>,
    },
    /// Stop a VM, and start it again
    Restart {
        /// The VM [default: this repository's]
        #[arg(value_name = "VM")]
        vm: Option<String>,
        /// Do not wait for the guest to shut down in order
        #[arg(short, long)]
        force: bool,
    },
    /// Stop a VM; its disk stays
    Stop {
        /// The VM [default: this repository's]
        #[arg(value_name = "VM")]
        vm: Option<String>,
        /// Do not wait for the guest to shut down in order
        #[arg(short, long)]
        force: bool,
    },
    /// Remove what nobody needs: stopped VMs whose repository is gone, what killed commands left
    /// half-made, and what was downloaded from registries. A VM with changes that exist only there
    /// stays
    Prune {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// VMs too that were not used for this long, and of downloads these only: `until=168h`
        #[arg(long, value_name = "until=TIME", value_parser = until)]
        filter: Option<Duration>,
        /// Those too that have, or may have, changes of their own
        #[arg(short, long)]
        force: bool,
    },
    /// Delete a VM and its disk
    #[command(visible_alias = "rm")]
    Delete {
        /// The VM [default: this repository's]
        #[arg(value_name = "VM")]
        vm: Option<String>,
        /// Delete even if a command runs in the VM, or it has unsynced changes
        #[arg(short, long)]
        force: bool,
    },
    /// Show the configuration that holds here, or change it
    Config {
        /// What to do; without it, all values are shown, each with where it is from.
        #[command(subcommand)]
        command: Option<ConfigCommand>,
    },
    /// Trust the current `banger.toml` with what it names of this machine, the current
    /// `.worktreeinclude` with the ignored files that it names, and git's files with the places
    /// outside that they lead to
    Trust {
        /// Revoke trust
        #[arg(long)]
        revoke: bool,
        /// List everything that needs trust, and change nothing
        #[arg(long, conflicts_with = "revoke")]
        list: bool,
        /// Trust all of it without a question; with nobody to ask, `.worktreeinclude` needs this
        #[arg(short, long, conflicts_with_all = ["revoke", "list"])]
        force: bool,
    },
    /// Print a script that has a shell complete what is typed behind `banger`
    #[command(after_help = "For this shell alone:
  bash  source <(banger completions bash)
  zsh   source <(banger completions zsh)
  fish  banger completions fish | source")]
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// What to do with ports.
#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// Have some more lead into the VM, from now on and whenever it runs; where they do is printed
    #[command(
        after_help = "A FORWARD is [ADDRESS:]HOST:GUEST. HOST is a port of this machine, at 127.0.0.1 unless an address is said, or 0 for any that is free; GUEST is a port of
the VM's own loopback. Either may be the absolute path of a Unix socket instead.

Examples:
  banger port add 8080:80                              http://127.0.0.1:8080
  banger port add --vm box 0.0.0.0:2222:22             for other machines too
  banger port add /tmp/docker.sock:/run/docker.sock    DOCKER_HOST=unix:///tmp/docker.sock"
    )]
    Add {
        /// What leads where
        #[arg(required = true, value_name = "FORWARD")]
        forwards: Vec<PortForward>,
        /// The VM [default: this repository's]
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
    },
    /// Have some lead nowhere any more; their connections end
    #[command(visible_alias = "rm")]
    Remove {
        /// Ports of this machine, with the address if only one is meant, or paths
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<PortName>,
        /// The VM [default: this repository's]
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
    },
    /// List those that lead into the VM; with `--quiet` only where on this machine
    #[command(visible_alias = "ls")]
    List {
        /// The VM [default: this repository's]
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
    },
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show one value
    Get {
        /// Such as `memory`, or `env.NAME`
        key: String,
    },
    /// Write a value into your configuration file
    Set {
        /// Such as `memory`, or `env.NAME`
        key: String,
        /// Such as `4G`; of a list, `["one", "two"]`
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// Into the repository's `banger.toml` instead
        #[arg(long)]
        repo: bool,
    },
    /// Remove a value from your configuration file
    Unset {
        /// Such as `memory`, or `env.NAME`
        key: String,
        /// From the repository's `banger.toml` instead
        #[arg(long)]
        repo: bool,
    },
    /// Print a JSON schema of your configuration file, for editors
    Schema {
        /// Of the repository's `banger.toml` instead
        #[arg(long)]
        repo: bool,
    },
}

/// Parses the filter of `prune`, which is written as docker(1) has it.
///
/// # Errors
/// Of anything else: what it may be.
pub fn until(text: &str) -> Result<Duration, String> {
    let time = text.strip_prefix("until=").ok_or("a filter is `until=` and a time, such as `until=168h`")?;
    option(units::duration)(time)
}

/// The shells that completions are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "clap would print them as a help of many lines")]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// How to run a command.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct CommandOptions {
    /// Set a variable for the command; without a value, pass the one that is set here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    /// Read variables from a file, a NAME=VALUE or NAME a line, which may begin with `export`; a
    /// value is taken as it stands, quotes too, and a line that begins with `#` is a comment
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub env_file: Vec<std::path::PathBuf>,
    /// Run in this folder of the VM [default: the one that matches where you stand]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<std::path::PathBuf>,
    /// Run as this user, `name` or `uid`, either with `:group`; to write to the working tree as
    /// this user, set `owner` [default: root]
    #[arg(short, long)]
    pub user: Option<String>,
    /// End the command after this long (`90`, `90s`, `5m`, `1h`), with exit status 124
    #[arg(long, value_name = "TIME", value_parser = option(units::duration))]
    pub timeout: Option<Duration>,
    /// Do not use a terminal, even on one
    #[arg(short = 'T', long)]
    pub no_tty: bool,
    /// Have ports that something begins to listen at in the VM while the command runs lead there
    /// from this machine until it ends, and print where [default: none]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub ports: Option<Ports>,
}

/// What a VM shall be like.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct VmOptions {
    /// Image of a new VM: a name; a reference in a registry, such as `debian:12`; or `oci:FOLDER`,
    /// `oci-archive:FILE`, `docker-archive:FILE`
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Processors of the VM
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: Option<u32>,
    /// Memory of the VM (`512M`, `4G`)
    #[arg(long, value_name = "SIZE", value_parser = option(units::mebibytes))]
    pub memory: Option<u64>,
    /// Size of each of the VM's two disks (`64G`); they can grow, and never shrink
    #[arg(long, value_name = "SIZE", value_parser = option(units::disk))]
    pub disk: Option<u64>,
    /// What runs the VM, from its next start on [default: what it has; a new VM: auto]
    #[arg(long, value_parser = backend(), value_name = "BACKEND")]
    pub backend: Option<BackendChoice>,
    /// Network of a new VM: through this machine, or none [default: user]
    #[arg(long, value_parser = net_mode(), value_name = "MODE")]
    pub net: Option<NetMode>,
    /// Have a port of this machine lead into the VM, from now on: [ADDRESS:]HOST:GUEST, as of
    /// `banger port add`
    #[arg(short, long, value_name = "FORWARD")]
    pub publish: Vec<PortForward>,
}

/// How to run a command in the workspace's VM.
#[derive(Debug, Default, PartialEq, Args)]
pub struct Run {
    /// The command's own.
    #[command(flatten)]
    pub how: CommandOptions,
    /// Write an account of the run to this file, as JSON: its phases, counts and exit status
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Option<std::path::PathBuf>,
    /// Use a VM of its own and delete it afterwards
    #[arg(long)]
    pub rm: bool,
    /// The VM's own.
    #[command(flatten)]
    pub vm: VmOptions,
    /// Run once the VM's agent answers, or once its services have started too [default: the
    /// image's]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub ready: Option<Ready>,
    /// Do not install the tools that the repository names for mise
    #[arg(long)]
    pub no_mise: bool,
    /// Where both sides changed a file, take this one's
    #[arg(long, conflicts_with = "guest_wins")]
    pub host_wins: bool,
    /// Where both sides changed a file, keep the VM's
    #[arg(long)]
    pub guest_wins: bool,
    /// Sync changes of the working tree while the command runs
    #[arg(long)]
    pub watch: bool,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::AnyPath)]
    pub command: Vec<OsString>,
}

/// Parses the name of a network mode, and lets clap list the names.
fn net_mode() -> impl TypedValueParser<Value = NetMode> {
    let names = PossibleValuesParser::new(NetMode::ALL.map(NetMode::name));
    names.map(|name| NetMode::from_name(&name).expect("only names of modes pass the parser"))
}

/// Parses the name of a backend, and lets clap list the names.
fn backend() -> impl TypedValueParser<Value = BackendChoice> {
    let names = PossibleValuesParser::new(BackendChoice::ALL.map(BackendChoice::name));
    names.map(|name| BackendChoice::from_name(&name).expect("only names of backends pass the parser"))
}

impl From<&Run> for Overrides {
    fn from(run: &Run) -> Self {
        Overrides {
            mise: run.no_mise.then_some(false),
            ports_by_themselves: run.how.ports.map(|ports| ports == Ports::Auto),
            ready: run.ready.map(|ready| match ready {
                Ready::Agent => banger_vmm::Ready::Agent,
                Ready::System => banger_vmm::Ready::System,
            }),
            ..Overrides::from(&run.vm)
        }
    }
}

impl From<&VmOptions> for Overrides {
    fn from(vm: &VmOptions) -> Self {
        Overrides {
            image: vm.image.clone(),
            cpus: vm.cpus,
            memory_mib: vm.memory,
            disk_mib: vm.disk,
            net: vm.net,
            backend: vm.backend,
            ..Overrides::default()
        }
    }
}

/// Which ports of a VM are forwarded without being named: none, or all that something begins to
/// listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "clap would print them as a help of many lines")]
pub enum Ports {
    None,
    Auto,
}

/// When a VM counts as started: its agent answers, while services may still be starting, or all
/// services have started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "clap would print them as a help of many lines")]
pub enum Ready {
    Agent,
    System,
}
