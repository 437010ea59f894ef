//! The console's log, read as it grows: across its turns, and across boots.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use banger_util::file;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::{LIMIT, LOG, OLDER};
use crate::error::{IoContext, Result};

/// What is read at a time, in bytes.
const CHUNK: u64 = 64 << 10;

/// A reader of a VM's console log that can wait for more.
#[derive(Debug)]
pub struct ConsoleLines {
    folder: PathBuf,
    log: Option<File>,
    inotify: Inotify,
    watched: Option<WatchDescriptor>,
}

/// Why a wait for more of the console has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// There may be more.
    More,
    /// The VM was deleted: there will be no more than can be read now.
    Deleted,
    /// Who was to read it is gone.
    Unwanted,
}

impl ConsoleLines {
    /// What the log of the VM in `vm` has now, and a reader that stands at its end.
    pub(crate) fn open(vm: &Path) -> Result<(Vec<u8>, Self)> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).at("watch", vm)?;
        let changes = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(vm, changes).at("watch", vm)?;
        let mut lines = ConsoleLines { folder: vm.to_owned(), log: None, inotify, watched: None };
        let mut bytes = Vec::new();
        let older = vm.join(OLDER);
        match File::open(&older) {
            Ok(file) => _ = file.take(LIMIT).read_to_end(&mut bytes).at("read", &older)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("read", &older),
        }
        while let Some(more) = lines.read()? {
            bytes.extend(more);
        }
        Ok((bytes, lines))
    }

    /// Reads what has been added to the log since the last read, at most 64 KiB of it. None:
    /// nothing.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let path = self.folder.join(LOG);
        loop {
            if let Some(log) = &mut self.log {
                // A log that has been turned away is at its end before the next one is begun.
                let is_current = file::is_at(log, &path);
                let mut bytes = Vec::new();
                log.take(CHUNK).read_to_end(&mut bytes).at("read", &path)?;
                if !bytes.is_empty() {
                    return Ok(Some(bytes));
                }
                if is_current {
                    return Ok(None);
                }
            }
            if let Some(watched) = self.watched.take() {
                // The kernel has dropped the watch if the file is gone.
                let _ = self.inotify.rm_watch(watched);
            }
            self.log = match File::open(&path) {
                Ok(log) => Some(log),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error).at("read", &path),
            };
            if self.log.is_none() {
                return Ok(None);
            }
            // One that is turned away at this moment announces itself in the folder.
            self.watched = self.inotify.add_watch(&path, AddWatchFlags::IN_MODIFY).ok();
        }
    }

    /// Waits until there may be more, or `output`, where it goes, has lost its reader.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn wait(&self, output: impl AsFd) -> Result<Followed> {
        loop {
            let mut ready = [
                PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
                // An error is reported without being asked for: poll(2).
                PollFd::new(output.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Err(nix::Error::EINTR) => continue,
                polled => polled.at("watch", &self.folder)?,
            };
            let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
            if ready[1].revents().is_some_and(|events| events.intersects(gone)) {
                return Ok(Followed::Unwanted);
            }
            let mut changed = false;
            for event in self.inotify.read_events().at("watch", &self.folder)? {
                let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
                if event.mask.intersects(gone) {
                    return Ok(Followed::Deleted);
                }
                // Other files of the folder come and go too.
                changed |= event.name.is_none_or(|name| name == LOG);
            }
            if changed {
                return Ok(Followed::More);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::ConsoleLog;
    use super::*;

    #[test]
    fn follow_reads_each_line_once_across_rotations_and_boots() {
        let folder = tempfile::tempdir().unwrap();
        let vm = folder.path().join("vm");
        fs::create_dir(&vm).unwrap();
        let (before, mut lines) = ConsoleLines::open(&vm).unwrap();
        assert!(before.is_empty() && lines.read().unwrap().is_none());
        let null = File::open("/dev/null").unwrap();

        let writer = std::thread::spawn({
            let vm = vm.clone();
            move || {
                let mut written = Vec::new();
                for boot in 0..3 {
                    let mut log = ConsoleLog::start(&vm).unwrap();
                    for line in 0..4_000 {
                        let line = format!("boot {boot} line {line} {}\n", "x".repeat(80));
                        log.write(line.as_bytes());
                        written.extend(line.into_bytes());
                        // A reader that is a whole file late misses one.
                        if written.len() % 5000 < 100 {
                            std::thread::sleep(std::time::Duration::from_millis(2));
                        }
                    }
                }
                fs::rename(&vm, vm.with_file_name("gone")).unwrap();
                written
            }
        });
        let mut read = Vec::new();
        let mut last = Followed::More;
        loop {
            while let Some(more) = lines.read().unwrap() {
                read.extend(more);
            }
            if last != Followed::More {
                break;
            }
            last = lines.wait(&null).unwrap();
        }
        assert_eq!(last, Followed::Deleted);
        let written = writer.join().unwrap();
        assert!(read == written, "{} of {} bytes", read.len(), written.len());
    }

    #[test]
    fn wait_ends_when_the_reader_closes() {
        let folder = tempfile::tempdir().unwrap();
        let (_, lines) = ConsoleLines::open(folder.path()).unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        assert_eq!(lines.wait(&writer).unwrap(), Followed::Unwanted);
    }
}
