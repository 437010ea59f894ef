//! `banger cp`.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write, stdin, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_agent::protocol::Bytes;
use banger_agent::protocol::copy::Copied;
use banger_vmm::is_name;
use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::copy::{self, FreeSpace, GuestSource};
use crate::error::{CommandError, ErrorKind};
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::output::units::{bytes, count};
use crate::run;
use crate::store::images::Images;
use crate::vm::machine::{Machines, VmSpec};
use crate::vm::post_mortem;

/// One side of a copy.
enum Place<'a> {
    /// A path in the VM of this name, or without one in the workspace's.
    Guest(Option<&'a str>, &'a OsStr),
    /// A path here.
    Host(&'a Path),
    /// A tar archive on standard input or output.
    Stream,
}

impl<'a> Place<'a> {
    fn new(text: &'a OsStr) -> Place<'a> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        match colon.map(|at| (str::from_utf8(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..]))) {
            Some((Ok(""), path)) => Place::Guest(None, path),
            Some((Ok(name), path)) if is_name(name) => Place::Guest(Some(name), path),
            _ if bytes == b"-" => Place::Stream,
            _ => Place::Host(Path::new(text)),
        }
    }
}

/// Copies between this machine and a VM, which is started if need be. Nothing is synced.
///
/// # Errors
/// If the places are not one here and one there, or something cannot be read or written.
pub fn cp(from: &OsStr, to: &OsStr, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let places = (Place::new(from), Place::new(to));
    let name = match places {
        (Place::Guest(name, _), Place::Host(_) | Place::Stream) => Some(name),
        (Place::Host(_) | Place::Stream, Place::Guest(name, _)) => Some(name),
        _ => None,
    };
    let Some(name) = name else {
        let error = CommandError::new("one of the two places is in the VM, and the other here").kind(ErrorKind::Usage);
        return Err(error
            .hint("a path in the VM starts with a colon, after the VM's name if it has one: banger cp notes.txt :/tmp")
            .hint("a file here whose name has a colon: ./a:b"));
    };
    if matches!(places.1, Place::Stream) && ui.is_json() {
        let error = CommandError::new("standard output cannot be both the archive and the answer");
        return Err(error.kind(ErrorKind::Usage).hint("leave out --json"));
    }
    if matches!(places.1, Place::Stream) && stdout().is_terminal() {
        let error = CommandError::new("an archive is nothing for a terminal").kind(ErrorKind::Usage);
        return Err(error.hint("for example: banger cp :PATH - | tar -t"));
    }
    let machines = Machines::new(paths, ui);
    let vm = super::existing(name, here, paths, &machines)?;
    let copied = post_mortem::unless_stopped(|| {
        let machine = machines.start_found(&vm, &VmSpec::default())?;
        let place = run::folder(&vm, here, &Images::new(paths, ui));
        let folder = &place.path;
        let inside = |path: &OsStr| -> Bytes {
            // Nothing is the folder itself; a slash or dot at the end means something.
            if path.is_empty() { folder.as_os_str().into() } else { folder.join(path).as_os_str().into() }
        };
        // Whoever made an image has no say in what a copy is called here.
        let source = |path: &OsStr| {
            let is_banger_to_say = path.is_empty() && !place.is_of_image;
            let asked = if is_banger_to_say { folder.file_name().unwrap_or_default() } else { path };
            GuestSource { path: inside(path), asked: asked.to_owned() }
        };
        let copied = match places {
            (Place::Guest(_, path), Place::Host(to)) => copy::to_host(&machine.vm, source(path), to),
            (Place::Guest(_, path), _) => {
                let mut out = Output::new();
                match copy::to_archive(&machine.vm, source(path), &mut out) {
                    // Who has read enough may go.
                    Err(_) if !out.is_wanted => return Ok(None),
                    copied => copied,
                }
            }
            (Place::Host(from), Place::Guest(_, path)) => copy::to_guest(&machine.vm, from, inside(path)),
            (_, Place::Guest(_, path)) => copy::from_archive(&machine.vm, stdin(), inside(path)),
            _ => unreachable!("one of them is in the VM"),
        };
        match copied {
            Err(error) if error.kind == ErrorKind::VmEnded => Err(error),
            copied => Ok(Some(copied.map_err(|error| post_mortem::explained(error, &machine)))),
        }
    })?;
    let Some(copied) = copied.transpose()? else { return Ok(()) };
    if copied.skipped > 0 {
        let what = count(copied.skipped, "device, FIFO or socket", "devices, FIFOs and sockets");
        ui.warning(&format!("{what} stayed behind"));
    }
    ui.status(&summary(&copied));
    if matches!(Place::new(to), Place::Stream) {
        return Ok(());
    }
    ui.answer(&copied, String::new)
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
