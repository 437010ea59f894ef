//! The kinds of errors: what a program goes by.

use std::fmt;
use std::io;

/// The exit status of banger's own failures, as with `docker run` and `env`(1).
pub const FAILED: u8 = 125;
/// The exit status after `--timeout`, as with `timeout`(1).
pub const TIMED_OUT: u8 = 124;
/// The exit status for a command that exists and cannot be run, as a shell gives it.
pub const NOT_EXECUTABLE: u8 = 126;
/// The exit status for a command that does not exist, as a shell gives it.
pub const NOT_FOUND: u8 = 127;

macro_rules! kinds {
    ($($kind:ident, $name:literal, $status:expr, $meaning:literal;)+) => {
        /// What kind of thing went wrong. Names are stable: one may be added, none is renamed or
        /// reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $(#[doc = $meaning] $kind,)+
        }

        impl ErrorKind {
            /// All of them, in the order of the documentation.
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$kind),+];

            /// The name that `--json` gives.
            pub fn name(self) -> &'static str {
                match self { $(ErrorKind::$kind => $name,)+ }
            }

            /// Whether it may be the news that a VM has ended.
            pub fn is_of_vm(self) -> bool {
                matches!(self, ErrorKind::Agent | ErrorKind::VmFailed | ErrorKind::VmNotRunning)
            }

            /// What it means, for the documentation.
            pub fn meaning(self) -> &'static str {
                match self { $(ErrorKind::$kind => $meaning,)+ }
            }

            /// The exit status that it gives.
            pub fn status(self) -> u8 {
                match self { $(ErrorKind::$kind => $status,)+ }
            }
        }
    };
}

kinds! {
    Failed, "failed", FAILED, "Anything that has no kind of its own.";
    Usage, "usage", FAILED, "The command line, or a variable of banger's, is not as it may be.";
    UnknownCommand, "unknown_command", FAILED, "No built-in command, alias or plugin has this name.";
    NotSet, "not_set", FAILED, "The configuration has no such value.";
    AliasLoop, "alias_loop", FAILED, "Aliases lead to each other without end.";
    PluginLoop, "plugin_loop", FAILED, "Plugins run each other without end.";
    PluginNotExecutable, "plugin_not_executable", NOT_EXECUTABLE, "The plugin is there and cannot be run.";
    PluginNotFound, "plugin_not_found", NOT_FOUND, "The plugin's name is there, and leads to no file.";
    CommandNotExecutable, "command_not_executable", NOT_EXECUTABLE, "The command is there in the VM and cannot be run.";
    CommandNotFound, "command_not_found", NOT_FOUND, "The command does not exist in the VM.";
    Config, "config", FAILED, "A configuration file cannot be read, or says what it may not.";
    InputNeeded, "input_needed", FAILED, "There is a question to answer, and nobody to ask.";
    NoHome, "no_home", FAILED, "There is no home folder, and no variable says where to keep things.";
    Installation, "installation", FAILED, "A part of banger is missing, or does not fit the others.";
    MissingProgram, "missing_program", FAILED, "A program of this machine that banger needs is not installed.";
    NoWorkspace, "no_workspace", FAILED, "This is not in the worktree of a git repository.";
    UntrustedRepository, "untrusted_repository", FAILED, "The repository belongs to another user, or leads to a place outside of it without `banger trust`.";
    TrustNeeded, "trust_needed", FAILED, "The repository's `banger.toml` asks for something that needs `banger trust`.";
    RepositoryReplaced, "repository_replaced", FAILED, "The VM belongs to a repository that was here before this one.";
    Repository, "repository", FAILED, "The repository cannot be read.";
    FilesChanging, "files_changing", FAILED, "Files of the workspace change faster than they can be sent.";
    Conflict, "conflict", FAILED, "Both sides changed the same things; nothing was changed or run.";
    GuestChanges, "guest_changes", FAILED, "The VM has, or may have, changes that exist only there.";
    UnknownImage, "unknown_image", FAILED, "There is no image or kernel of this name.";
    Image, "image", FAILED, "An image or a kernel cannot be had.";
    ImageInUse, "image_in_use", FAILED, "VMs were made from the image.";
    ImageExists, "image_exists", FAILED, "An image has this name already.";
    KernelInUse, "kernel_in_use", FAILED, "Images or VMs need the kernel.";
    Catalog, "catalog", FAILED, "A catalog of images is not as it may be.";
    Registry, "registry", FAILED, "A registry, or a server of catalogs and bundles, cannot be reached, or refuses.";
    VmNotFound, "vm_not_found", FAILED, "There is no such VM, or not any more.";
    VmExists, "vm_exists", FAILED, "A VM has this name already.";
    VmRunning, "vm_running", FAILED, "It needs a VM that does not run.";
    VmNotRunning, "vm_not_running", FAILED, "It needs a VM that runs.";
    VmBusy, "vm_busy", FAILED, "Another command works on the VM.";
    VmEnded, "vm_ended", FAILED, "Another command stopped or deleted the VM meanwhile.";
    VmFailed, "vm_failed", FAILED, "The VM does not start, or its supervisor does not do what it is asked.";
    Port, "port", FAILED, "A port or socket of this machine cannot lead into a VM as was asked, or does not.";
    Agent, "agent", FAILED, "The VM's agent does not answer, or the connection to it broke.";
    Guest, "guest", FAILED, "The VM's agent could not do what it was asked.";
    Setup, "setup", FAILED, "A command of `setup` failed in the VM; the command that was asked for was not run.";
    NoSuchFolder, "no_such_folder", FAILED, "The folder to run in does not exist in the VM.";
    NoSuchUser, "no_such_user", FAILED, "The user to run as does not exist in the VM.";
    GuestFull, "guest_full", FAILED, "The VM's disk is full.";
    NoSpace, "no_space", FAILED, "A disk of this machine is full.";
    PermissionDenied, "permission_denied", FAILED, "This user may not do that on this machine.";
    UnsafePermissions, "unsafe_permissions", FAILED, "Another user could change banger's files or your configuration.";
    Io, "io", FAILED, "The operating system refused something else.";
    StateDamaged, "state_damaged", FAILED, "A state file is not what was written there.";
    StateNewer, "state_newer", FAILED, "A state file was written by a later version of banger.";
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<&io::Error> for ErrorKind {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
            _ => ErrorKind::Io,
        }
    }
}
