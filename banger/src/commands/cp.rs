//! `banger cp`.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write, stdin, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_agent::protocol::WireBytes;
use banger_agent::protocol::copy::Copied;
use banger_vmm::is_name;
use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::copy::{self, FreeSpace, GuestSource};
use crate::error::{CommandError, ErrorKind};
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Message};
use crate::output::ui::Ui;
use crate::output::units::{bytes, count};
use crate::run;
use crate::store::images::Images;
use crate::vm::machine::{Machines, VmSpec};
use crate::vm::post_mortem;

/// One end of a copy.
enum CopyEnd<'a> {
    /// A path in the VM of this name, or without a name in the workspace's VM.
    Guest(Option<&'a str>, &'a OsStr),
    /// A path on this machine.
    Host(&'a Path),
    /// A tar archive on standard input or output.
    Stream,
}

impl<'a> CopyEnd<'a> {
    fn new(text: &'a OsStr) -> CopyEnd<'a> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        match colon.map(|at| (str::from_utf8(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..]))) {
            Some((Ok(""), path)) => CopyEnd::Guest(None, path),
            Some((Ok(name), path)) if is_name(name) => CopyEnd::Guest(Some(name), path),
            _ if bytes == b"-" => CopyEnd::Stream,
            _ => CopyEnd::Host(Path::new(text)),
        }
    }
}

/// Copies between this machine and a VM, which is started if it does not run. Nothing is synced.
/// One of `from` and `to` is a path in a VM, such as `:src` or `box:src`; the other is a path on
/// this machine, or `-`: an archive on standard input or output. None: the reader of the archive
/// went away before its end.
///
/// # Errors
/// If not exactly one of the paths is in a VM, or something cannot be read or written.
pub fn cp(from: &OsStr, to: &OsStr, here: &Path, paths: &Paths, ui: &Ui) -> Result<Option<Copied>, CommandError> {
    let ends = (CopyEnd::new(from), CopyEnd::new(to));
    let name = match ends {
        (CopyEnd::Guest(name, _), CopyEnd::Host(_) | CopyEnd::Stream) => Some(name),
        (CopyEnd::Host(_) | CopyEnd::Stream, CopyEnd::Guest(name, _)) => Some(name),
        _ => None,
    };
    let Some(name) = name else {
        let error = CommandError::new("one of the two places is in the VM, and the other here").kind(ErrorKind::Usage);
        return Err(error
            .hint("a path in the VM starts with a colon, after the VM's name if it has one: banger cp notes.txt :/tmp")
            .hint("a file here whose name has a colon: ./a:b"));
    };
    if matches!(ends.1, CopyEnd::Stream) && ui.is_json() {
        let error = CommandError::new("standard output cannot be both the archive and the answer");
        return Err(error.kind(ErrorKind::Usage).hint("leave out --json"));
    }
    if matches!(ends.1, CopyEnd::Stream) && stdout().is_terminal() {
        let error = CommandError::new("an archive is nothing for a terminal").kind(ErrorKind::Usage);
        return Err(error.hint("for example: banger cp :PATH - | tar -t"));
    }
    let machines = Machines::new(paths, ui);
    let vm = super::existing(name, here, paths, &machines)?;
    let copied = post_mortem::unless_stopped(|| {
        let machine = machines.start_found(&vm, &VmSpec::default())?;
        let place = run::folder(&vm, here, &Images::new(paths, ui));
        let folder = &place.path;
        let inside = |path: &OsStr| -> WireBytes {
            // Nothing is the folder itself; a slash or dot at the end means something.
            if path.is_empty() { folder.as_os_str().into() } else { folder.join(path).as_os_str().into() }
        };
        // Whoever made an image has no say in what a copy is called here.
        let source = |path: &OsStr| {
            let is_banger_to_say = path.is_empty() && !place.is_of_image;
            let asked = if is_banger_to_say { folder.file_name().unwrap_or_default() } else { path };
            GuestSource { path: inside(path), asked: asked.to_owned() }
        };
        let copied = match ends {
            (CopyEnd::Guest(_, path), CopyEnd::Host(to)) => copy::to_host(&machine.vm, source(path), to),
            (CopyEnd::Guest(_, path), _) => {
                let mut out = Output::new();
                match copy::to_archive(&machine.vm, source(path), &mut out) {
                    // Who has read enough may go.
                    Err(_) if !out.is_wanted => return Ok(None),
                    copied => copied,
                }
            }
            (CopyEnd::Host(from), CopyEnd::Guest(_, path)) => copy::to_guest(&machine.vm, from, inside(path)),
            (_, CopyEnd::Guest(_, path)) => copy::from_archive(&machine.vm, stdin(), inside(path)),
            _ => unreachable!("one of them is in the VM"),
        };
        match copied {
            Err(error) if error.kind == ErrorKind::VmEnded => Err(error),
            copied => Ok(Some(copied.map_err(|error| post_mortem::explained(error, &machine)))),
        }
    })?;
    copied.transpose()
}

impl CommandOutput for Copied {
    fn messages(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        if self.skipped > 0 {
            let what = count(self.skipped, "device, FIFO or socket", "devices, FIFOs and sockets");
            messages.push(Message::warning(format!("{what} stayed behind")));
        }
        messages.push(Message::status(summary(self)));
        messages
    }
}

fn summary(copied: &Copied) -> String {
    let links = (copied.links > 0).then(|| format!(", {}", count(copied.links, "link", "links")));
    let folders = (copied.folders > 0).then(|| format!(", {}", count(copied.folders, "folder", "folders")));
    let files = count(copied.files, "file", "files");
    let (links, folders) = (links.unwrap_or_default(), folders.unwrap_or_default());
    format!("copied {files}{links}{folders} ({})", bytes(copied.bytes))
}

/// Standard output, which may lose its reader, or be a file on a disk that is not to become full.
struct Output {
    is_wanted: bool,
    free_space: Option<FreeSpace>,
}

impl Output {
    fn new() -> Self {
        let is_file = |stat: FileStat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        let free_space = fstat(stdout()).is_ok_and(is_file).then(FreeSpace::default);
        Output { is_wanted: true, free_space }
    }

    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.is_wanted &= !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        result
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(free_space) = &mut self.free_space {
            free_space.take(stdout(), bytes.len() as u64)?;
        }
        let written = stdout().write(bytes);
        self.noted(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = stdout().flush();
        self.noted(flushed)
    }
}
