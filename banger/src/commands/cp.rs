//! `banger cp`.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write, stdin, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_agent::protocol::Bytes;
use banger_agent::protocol::copy::Copied;

use crate::copy;
use crate::error::{CommandError, ErrorKind};
use crate::machine::{Machines, Wanted};
use crate::paths::Paths;
use crate::run::matching_folder;
use crate::ui::Ui;
use crate::units::{bytes, count};

/// One side of a copy.
enum Place<'a> {
    /// A path in the VM, without its colon.
    Guest(&'a OsStr),
    /// A path here.
    Host(&'a Path),
    /// A tar archive on standard input or output.
    Stream,
}

impl<'a> Place<'a> {
    fn new(text: &'a OsStr) -> Place<'a> {
        match text.as_bytes() {
            [b':', path @ ..] => Place::Guest(OsStr::from_bytes(path)),
            b"-" => Place::Stream,
            _ => Place::Host(Path::new(text)),
        }
    }
}

/// Copies between this machine and the workspace's VM, which is started if need be. Nothing is synced.
///
/// # Errors
/// If the places are not one here and one there, or something cannot be read or written.
pub fn cp(from: &OsStr, to: &OsStr, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let places = (Place::new(from), Place::new(to));
    if matches!(places, (Place::Guest(_), Place::Guest(_)))
        || !matches!(places, (Place::Guest(_), _) | (_, Place::Guest(_)))
    {
        let error = CommandError::new("one of the two places is in the VM, and the other here").kind(ErrorKind::Usage);
        return Err(error.hint("a path in the VM starts with a colon: banger cp notes.txt :/tmp"));
    }
    if matches!(places.1, Place::Stream) && ui.is_json() {
        let error = CommandError::new("standard output cannot be both the archive and the answer");
        return Err(error.kind(ErrorKind::Usage).hint("leave out --json"));
    }
    if matches!(places.1, Place::Stream) && stdout().is_terminal() {
        let error = CommandError::new("an archive is nothing for a terminal").kind(ErrorKind::Usage);
        return Err(error.hint("for example: banger cp :PATH - | tar -t"));
    }
    let machines = Machines::new(paths, ui);
    let (workspace, vm) = super::vm_of(here, paths, &machines)?;
    let vm = vm.ok_or_else(|| {
        let error = CommandError::new("this repository has no VM").kind(ErrorKind::VmNotFound);
        error.hint("make it, and run something there: banger -- true")
    })?;
    let machine = machines.start_found(&vm, &Wanted::default())?;
    let inside = |path: &OsStr| -> Bytes {
        let folder = matching_folder(here, &workspace.root);
        // Nothing is the folder itself; a slash or dot at the end means something.
        if path.is_empty() { folder.as_os_str().into() } else { folder.join(path).as_os_str().into() }
    };
    let copied = match places {
        (Place::Guest(path), Place::Host(to)) => copy::to_host(&machine.vm, inside(path), to)?,
        (Place::Guest(path), _) => {
            let mut out = Output { is_wanted: true };
            match copy::to_archive(&machine.vm, inside(path), &mut out) {
                // Who has read enough may go.
                Err(_) if !out.is_wanted => return Ok(()),
                copied => copied?,
            }
        }
        (Place::Host(from), Place::Guest(path)) => copy::to_guest(&machine.vm, from, inside(path))?,
        (_, Place::Guest(path)) => copy::from_archive(&machine.vm, &mut stdin().lock(), inside(path))?,
        _ => unreachable!("one of them is in the VM"),
    };
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

/// Standard output, which may lose its reader.
struct Output {
    is_wanted: bool,
}

impl Output {
    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.is_wanted &= !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        result
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = stdout().write(bytes);
        self.noted(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = stdout().flush();
        self.noted(flushed)
    }
}
