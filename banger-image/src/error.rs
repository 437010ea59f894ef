//! The errors of this crate, and hints for them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::ext4;
use crate::kind::Kind;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image or a kernel cannot be found, made, stored or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name could not be that of an image or a kernel.
    #[error("{name:?} is not a valid {kind} name")]
    InvalidName {
        /// What was named.
        kind: Kind,
        /// The name as it was given.
        name: String,
    },

    /// Neither the store nor the catalog has it.
    #[error("no {kind} is named `{name}`")]
    Unknown {
        /// What was named.
        kind: Kind,
        /// The name as it was given.
        name: String,
        /// The names of the catalog.
        known: Vec<String>,
        /// The one that was probably meant.
        nearest: Option<String>,
    },

    /// The catalog or a recipe in it is not as it should be.
    #[error("catalog: {what}: {reason}")]
    Catalog {
        /// The file or the entry.
        what: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A program of the host that a build needs is not installed.
    #[error("`{tool}` is needed to build this, and was not found")]
    MissingTool {
        /// The program's name.
        tool: &'static str,
        /// The Debian package it comes in.
        package: &'static str,
    },

    /// A program of the host failed.
    #[error("`{tool}` failed ({status}){}", quoted(tail))]
    ToolFailed {
        /// The program's name.
        tool: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote to its standard error.
        tail: Vec<String>,
        /// What to do, if one of its lines told the cause.
        hint: Option<String>,
    },

    /// A tree to make a file system of holds something that must not or cannot be in one.
    #[error("archive entry `{}`: {reason}", entry.escape_debug())]
    Archive {
        /// The entry's path.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A file system could not be written, or cannot hold an entry.
    #[error(transparent)]
    FileSystem(#[from] ext4::Error),

    /// A text is no reference of an image.
    #[error("`{}` is no reference of an image: {reason}", text.escape_debug())]
    Reference {
        /// The text as it was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },

    /// An image of a registry or an archive is not as it should be.
    #[error("the image cannot be used: {what}: {reason}")]
    Image {
        /// Which part of it.
        what: String,
        /// What is wrong with it.
        reason: String,
    },

    /// What a source names is not of the form that it says.
    #[error("`{}` cannot be used as an image: {reason}", path.display())]
    Source {
        /// The file or folder.
        path: PathBuf,
        /// What it is.
        reason: String,
        /// What to do.
        hint: Option<String>,
    },

    /// A layer of an image cannot be unpacked.
    #[error("{layer} of `{image}` cannot be unpacked: {reason}")]
    Layer {
        /// Which one: its number and its digest.
        layer: String,
        /// The image.
        image: String,
        /// What is wrong with it.
        reason: Box<Error>,
    },

    /// An image is there for other platforms only.
    #[error("there is no image for {wanted}: {}", offered(there))]
    Platform {
        /// What was wanted, such as `linux/amd64`.
        wanted: String,
        /// What there is.
        there: Vec<String>,
    },

    /// An image's layers have more than they may.
    #[error("the image is larger than {limit} bytes when it is unpacked")]
    ImageTooLarge {
        /// The most that it may have, in bytes.
        limit: u64,
    },

    /// A server refuses, or cannot be reached.
    #[error("{what}: {reason}")]
    Server {
        /// What was tried.
        what: String,
        /// Why that did not work.
        reason: String,
        /// What to do.
        hint: Option<String>,
    },

    /// A registry wants credentials, or others than it was shown.
    #[error("{what}: {reason}")]
    Unauthorized {
        /// What was tried.
        what: String,
        /// What the registry says.
        reason: String,
        /// What to do.
        hint: String,
    },

    /// A registry sends other content than the image's manifest says.
    #[error("{what}: {reason}")]
    WrongContent {
        /// What was fetched.
        what: String,
        /// How it differs.
        reason: String,
    },

    /// A registry does not have an image.
    #[error("the registry has no `{reference}`")]
    NotInRegistry {
        /// The image.
        reference: String,
    },

    /// An image that is pulled or registered cannot have this name.
    #[error("the image cannot be named `{name}`: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// Why not.
        reason: String,
    },

    /// An image has this name already.
    #[error("an image named `{name}` is here already")]
    Exists {
        /// The name.
        name: String,
    },

    /// The store has it, but not all of its files as they were made.
    #[error("the {kind} `{name}` is incomplete: files of it are missing or cut short")]
    Incomplete {
        /// What it is.
        kind: Kind,
        /// Its name.
        name: String,
    },

    /// The store has no such image or kernel.
    #[error("no {kind} named `{name}` is here")]
    NotHere {
        /// What was named.
        kind: Kind,
        /// The name as it was given.
        name: String,
        /// The one that was probably meant.
        nearest: Option<String>,
    },

    /// VMs were made from an image that is to be deleted.
    #[error("the image `{name}` is in use by {}", quoted_names(vms))]
    InUse {
        /// The image.
        name: String,
        /// The VMs.
        vms: Vec<String>,
    },

    /// Images or VMs need a kernel that is to be deleted.
    #[error("the kernel `{name}` is in use by {}", users.join(", "))]
    KernelInUse {
        /// The kernel.
        name: String,
        /// What needs it, such as ``VM `a` ``.
        users: Vec<String>,
    },

    /// A kernel cannot have this name.
    #[error("a kernel cannot be imported as `{name}`: {reason}")]
    KernelName {
        /// The name.
        name: String,
        /// Why not.
        reason: String,
    },

    /// A file is no kernel that a VM can boot.
    #[error("`{}` cannot be used as a kernel: {reason}", path.display())]
    NoKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A kernel's modules are not as they should be.
    #[error("the kernel's modules cannot be used: {reason}")]
    Modules {
        /// What is wrong with them.
        reason: String,
    },

    /// A kernel lacks what a VM needs to boot.
    #[error("the kernel has no {}, neither built in nor as modules", quoted_names(names))]
    MissingModules {
        /// The names of modules.
        names: Vec<String>,
    },

    /// What is stored is not what was written there.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file in question.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A file or directory that the caller names cannot be opened.
    #[error("cannot open `{}`: {source}", path.display())]
    Input {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// The operating system refused; the message names the operation and the path.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for Error {
    /// An error of this crate that went through a reader is itself again.
    fn from(error: io::Error) -> Error {
        error.downcast().unwrap_or_else(Error::Io)
    }
}

impl Error {
    /// The failure to open what the caller names.
    pub(crate) fn of_input(path: &Path) -> impl Fn(io::Error) -> Error {
        move |source| Error::Input { path: path.to_owned(), source }
    }

    /// Whether a later attempt may succeed and resume: the server was not reached, or refused.
    pub(crate) fn is_interruption(&self) -> bool {
        matches!(self, Error::Server { .. } | Error::Unauthorized { .. })
    }

    /// What the user can do about it, as one sentence, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::InvalidName { .. } => {
                Some("names start with a-z or 0-9, go on with these or . _ -, and end at 64 characters".into())
            }
            Error::Unknown { nearest, known, .. } => Some(match nearest {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("the catalog has: {}", known.join(", ")),
            }),
            Error::MissingTool { package, .. } => Some(format!("install it: `sudo apt-get install {package}`")),
            Error::ToolFailed { hint, .. } => hint.clone(),
            Error::Damaged { path, .. } => {
                path.parent().map(|folder| format!("remove `{}`; the next run makes it anew", folder.display()))
            }
            Error::Io(source) | Error::FileSystem(ext4::Error::Image(source)) => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("free some disk space, or point XDG_DATA_HOME at a larger disk".into())
                }
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    Some("make the folder writable, or point XDG_DATA_HOME at one that is".into())
                }
                _ => None,
            },
            Error::Reference { .. } => Some(
                "a reference is [REGISTRY/]REPOSITORY[:TAG][@DIGEST], such as debian:12 or ghcr.io/owner/name:v1"
                    .into(),
            ),
            Error::Platform { wanted, there } => {
                let higher = there.iter().find(|there| there.starts_with(&format!("{wanted}/")))?;
                Some(format!("it needs a newer processor; if VMs have such a one here: --platform {higher}"))
            }
            Error::ImageTooLarge { .. } => {
                Some("if it is meant to be so large: banger image pull --max-size SIZE".into())
            }
            Error::Server { hint, .. } | Error::Source { hint, .. } => hint.clone(),
            Error::Layer { reason, .. } => reason.hint(),
            Error::Unauthorized { hint, .. } => Some(hint.clone()),
            Error::WrongContent { .. } => {
                Some("the registry, or something on the way to it, sends wrong content".into())
            }
            Error::NotInRegistry { .. } => Some("check its name and tag; a private one may need `docker login`".into()),
            Error::BadName { .. } => Some("give it another one: --name NAME".into()),
            Error::Exists { name } => {
                Some(format!("delete it before, `banger image delete {name}`, or give the new one another name"))
            }
            Error::NotHere { kind, nearest, .. } => Some(match nearest {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("for a list: banger {kind} list"),
            }),
            Error::Incomplete { kind, name } => {
                Some(format!("delete it, then pull or import it again: banger {kind} delete {name}"))
            }
            Error::InUse { .. } => Some("delete the VMs before: banger delete VM".into()),
            Error::KernelInUse { .. } => {
                Some("delete these before: banger delete VM, banger image delete IMAGE".into())
            }
            Error::KernelName { .. } => Some("give it another one: --name NAME".into()),
            Error::NoKernel { .. } => Some("a kernel is a bzImage or an uncompressed ELF (vmlinux) for x86-64".into()),
            Error::Modules { .. } => {
                Some("modules are a folder as `make modules_install` and depmod leave it: …/lib/modules/RELEASE".into())
            }
            Error::MissingModules { .. } => Some("build the kernel with these, best not as modules".into()),
            Error::Catalog { .. }
            | Error::Archive { .. }
            | Error::FileSystem(_)
            | Error::Image { .. }
            | Error::Input { .. } => None,
        }
    }
}

/// The hint for a line of `mmdebstrap` or `apt`, if its cause is known.
pub(crate) fn hint_for(line: &str) -> Option<String> {
    const KNOWN: [(&str, &str); 5] = [
        ("No space left on device", "free some disk space"),
        ("Temporary failure resolving", "check the network: Debian's archive was not reachable"),
        ("Could not connect", "check the network: Debian's archive was not reachable"),
        ("is not valid yet", "check this machine's clock"),
        (
            "/etc/subuid",
            "give your user subordinate ids: `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`",
        ),
    ];
    KNOWN.iter().find(|(text, _)| line.contains(text)).map(|(_, hint)| (*hint).to_owned())
}

/// What an index or an image is for.
fn offered(platforms: &[String]) -> String {
    match platforms {
        [] => "its index says of no entry what it is for".to_owned(),
        _ => format!(
            "it is for {}",
            platforms.iter().take(20).map(|one| one.escape_debug().to_string()).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// `a`, `b`
fn quoted_names(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The lines, indented, below whatever precedes them.
fn quoted(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n    {line}")).collect()
}
