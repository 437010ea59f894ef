//! Which plugins may be asked to describe themselves, and what they answered.
//!
//! A program on `$PATH` whose name begins with `banger-` need not be a plugin, and who wants a list
//! has not asked for it to be run. So only those are asked that are beside `banger`, as its own
//! are, and those that the user has run.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_agent::VERSION;
use banger_util::file::create_private_directory;
use serde::{Deserialize, Serialize};

use super::Description;
use crate::host::file::replace;

/// No record is longer, in bytes.
const MAX_LENGTH: u64 = 16 << 10;

/// What is known of plugins, a file for each in a folder of the cache.
#[derive(Clone, Debug)]
pub struct KnownPlugins {
    /// Where it is kept; none: nothing is.
    folder: Option<PathBuf>,
    beside: Option<PathBuf>,
}

/// What is kept of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The program that it is of. Another one in its place was never run.
    program: Stamp,
    /// The banger that asked: to another one it may say something else.
    banger: String,
    /// What it says; none: it was not asked, or said nothing.
    description: Option<Description>,
}

/// By what a program is told from another one that takes its place: inode(7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(program: &Path) -> Option<Stamp> {
        let metadata = fs::metadata(program).ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl KnownPlugins {
    /// Those that are noted below `cache`, if there is one, and those in the folder of `banger`,
    /// which is `beside` them.
    pub fn new(cache: Option<&Path>, beside: Option<&Path>) -> KnownPlugins {
        KnownPlugins { folder: cache.map(|cache| cache.join("plugins")), beside: beside.map(Path::to_owned) }
    }

    /// Notes that the user runs this program. That it cannot be noted is no reason not to run it.
    pub fn note(&self, program: &Path) {
        if self.record(program).is_none() {
            self.write(program, None);
        }
    }

    /// Whether it may be asked.
    pub fn may_ask(&self, program: &Path) -> bool {
        let is_beside = self.beside.is_some() && program.parent() == self.beside.as_deref();
        is_beside || self.record(program).is_some()
    }

    /// What it said when it was asked before, by this version of banger.
    pub fn description(&self, program: &Path) -> Option<Description> {
        self.record(program).filter(|record| record.banger == VERSION)?.description
    }

    /// Keeps what it says.
    pub fn keep(&self, program: &Path, description: &Description) {
        self.write(program, Some(description.clone()));
    }

    fn place(&self, program: &Path) -> Option<PathBuf> {
        let name = blake3::hash(program.as_os_str().as_bytes()).to_hex();
        self.folder.as_ref().map(|folder| folder.join(name.as_str()))
    }

    fn record(&self, program: &Path) -> Option<Record> {
        let mut json = Vec::new();
        File::open(self.place(program)?).ok()?.take(MAX_LENGTH).read_to_end(&mut json).ok()?;
        let record: Record = serde_json::from_slice(&json).ok()?;
        (Some(&record.program) == Stamp::of(program).as_ref()).then_some(record)
    }

    fn write(&self, program: &Path, description: Option<Description>) {
        let (Some(stamp), Some(folder), Some(place)) = (Stamp::of(program), &self.folder, self.place(program)) else {
            return;
        };
        let record = Record { program: stamp, banger: VERSION.to_owned(), description };
        let json = serde_json::to_vec(&record).expect("plain data has a JSON form");
        let made = create_private_directory(folder);
        // Without it the program is not asked, or asked again.
        let _ = made.and_then(|()| replace(&place, &json, 0o600));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bundled_or_previously_run_plugins_are_queried() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("bin")).unwrap();
        let [beside, elsewhere] = [at("bin/banger-a"), at("banger-b")];
        for program in [&beside, &elsewhere] {
            fs::write(program, "#!/bin/sh\n").unwrap();
        }
        let known = KnownPlugins::new(Some(&at("cache")), Some(&at("bin")));
        assert!(known.may_ask(&beside) && !known.may_ask(&elsewhere));
        known.note(&elsewhere);
        assert!(known.may_ask(&elsewhere));
        assert_eq!(known.description(&elsewhere), None);
        let description = Description { api: 1, description: "does".to_owned() };
        known.keep(&elsewhere, &description);
        known.note(&elsewhere);
        assert_eq!(known.description(&elsewhere), Some(description));
        // Another program in its place was never run.
        fs::remove_file(&elsewhere).unwrap();
        fs::write(&elsewhere, "#!/bin/sh\n# another\n").unwrap();
        assert!(!known.may_ask(&elsewhere) && known.description(&elsewhere).is_none());
        fs::write(known.place(&elsewhere).unwrap(), "{").unwrap();
        assert!(!known.may_ask(&elsewhere));
        assert!(!KnownPlugins::new(Some(&at("cache")), None).may_ask(&beside));
        // Without a place for it nothing is kept.
        let known = KnownPlugins::new(None, Some(&at("bin")));
        known.note(&elsewhere);
        assert!(known.may_ask(&beside) && !known.may_ask(&elsewhere));
    }
}
