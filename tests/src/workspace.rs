//! Compares a workspace on the host with its copy in a VM.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::{Output, Repository};

/// Prints, NUL-terminated, what is at every path below the current folder that is no folder and not
/// git's own: type, permission bits, size, target and path.
const LIST_GUEST: &str = r"find . -name .git -prune -o ! -type d -printf '%y %m %s %l\n%P\0'";

/// Questions to git on both sides, in whose answers versions of git do not differ.
const ASK_GIT: &str = r#"export GIT_OPTIONAL_LOCKS=0
ask() { printf '== git %s\n' "$*"; git "$@" 2>/dev/null; printf '== %s\n' $?; }
ask status --porcelain=v2 --branch
ask log -1 --decorate=full
ask describe --tags
ask diff
ask diff --cached
ask stash list
ask submodule status --recursive
ask ls-files -s -v
ask for-each-ref refs/heads refs/tags refs/remotes refs/stash
ask rev-parse --symbolic-full-name HEAD
ask fsck --no-dangling --no-progress
"#;

/// The counts in the line that banger prints about a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncCounts {
    /// Files that were sent to the guest.
    pub files: u64,
    /// Files that were removed in the guest.
    pub removed: u64,
    /// Files that were kept as the guest has them.
    pub kept: u64,
}

impl Output {
    /// The counts in the line about the sync on standard error.
    ///
    /// # Panics
    /// If there is no such line.
    #[track_caller]
    pub fn sent(&self) -> SyncCounts {
        let line = self.stderr.lines().find(|line| line.contains(" sent (")).unwrap_or_else(|| panic!("{self:?}"));
        let number = |label: &str| {
            let before = line.split_once(label).map_or("0", |(before, _)| before);
            let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            digits.parse().unwrap_or_else(|_| panic!("no number before `{label}` in: {line}"))
        };
        let files = if line.contains(" file sent") { number(" file sent") } else { number(" files sent") };
        SyncCounts { files, removed: number(" removed"), kept: number(" kept") }
    }

    /// Checks that banger has refused to run the command, and that its error names all of `named`.
    /// Returns the output unchanged.
    ///
    /// # Panics
    /// If the exit status is not 125, the command has printed something, or a name is missing.
    #[track_caller]
    pub fn refused(self, named: &[&str]) -> Self {
        assert_eq!((self.status, self.text().as_str()), (125, ""), "{}", self.stderr);
        for name in named {
            assert!(self.stderr.contains(name), "`{name}` is not named in:\n{}", self.stderr);
        }
        self
    }
}

impl Repository<'_> {
    /// The files that git lists in this workspace: type, mode, size and target, by path.
    fn listed(&self) -> BTreeMap<OsString, String> {
        let mut all = BTreeMap::new();
        self.list_into(&self.root, Path::new(""), &mut all);
        all
    }

    fn list_into(&self, folder: &Path, prefix: &Path, all: &mut BTreeMap<OsString, String>) {
        let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let output = self.home.command("git").args(arguments).current_dir(folder).output().expect("git runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for name in output.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = Path::new(OsStr::from_bytes(name));
            let here = folder.join(name);
            let Ok(metadata) = fs::symlink_metadata(&here) else { continue };
            let path = prefix.join(name);
            if metadata.is_dir() {
                if here.join(".git").exists() {
                    self.list_into(&here, &path, all);
                }
            } else if metadata.is_symlink() {
                let target = fs::read_link(&here).expect("a link");
                all.insert(path.into(), format!("l 777 {} {}", metadata.size(), target.to_string_lossy()));
            } else {
                let mode = metadata.permissions().mode() & 0o777;
                all.insert(path.into(), format!("f {mode:o} {} ", metadata.size()));
            }
        }
    }

    /// Checks that the guest has exactly the files that git lists on the host, with the same modes
    /// and contents.
    #[track_caller]
    pub fn assert_same_files(&self) {
        let guest = self.run(["-q", "--", "sh", "-c", LIST_GUEST]).ok().stdout;
        let guest: BTreeMap<OsString, String> = guest
            .split(|byte| *byte == 0)
            .filter_map(|record| {
                let newline = record.iter().position(|byte| *byte == b'\n')?;
                let path = OsString::from_vec(record[newline + 1..].to_vec());
                Some((path, String::from_utf8_lossy(&record[..newline]).into_owned()))
            })
            .collect();
        let host = self.listed();
        let differing: Vec<_> = host
            .keys()
            .chain(guest.keys())
            .filter(|path| host.get(*path) != guest.get(*path))
            .map(|path| (path, host.get(path), guest.get(path)))
            .collect();
        assert!(differing.is_empty(), "(path, host, guest): {differing:?}");

        let mut files: Vec<u8> = Vec::new();
        for (path, what) in &host {
            if what.starts_with('f') {
                files.extend(path.as_bytes());
                files.push(0);
            }
        }
        // Of the digests that say it, the one that an emulated processor has soonest.
        let script = "xargs -0 -r b2sum -z --";
        let guest = self.with_input(["-q", "-T", "--", "sh", "-c", script], &files).ok().stdout;
        let here = tempfile::tempfile().and_then(|mut list| {
            use std::io::{Seek, Write};
            list.write_all(&files)?;
            list.rewind()?;
            self.home.command("sh").args(["-c", script]).current_dir(&self.root).stdin(list).output()
        });
        assert!(guest == here.expect("b2sum runs").stdout, "contents differ");
    }

    /// Checks that git gives the same answers on the host and in the guest.
    #[track_caller]
    pub fn assert_same_git(&self) {
        let host = self.home.command("sh").args(["-c", ASK_GIT]).current_dir(&self.root).output();
        let host = Output::from(host.expect("sh runs")).text();
        let guest = self.run(["-q", "--", "sh", "-c", ASK_GIT]).ok().text();
        if host != guest {
            let answers = |text: &str| -> Vec<String> { text.split("== git ").map(str::to_owned).collect() };
            for (host, guest) in answers(&host).into_iter().zip(answers(&guest)) {
                assert_eq!(guest, host, "git's answers differ (left: guest, right: host)");
            }
        }
        assert_eq!(guest, host);
    }

    /// The directory of the only VM in this home.
    #[track_caller]
    pub fn only_vm(&self) -> PathBuf {
        let vms = self.home.vms();
        assert_eq!(vms.len(), 1, "{vms:?}");
        vms[0].clone()
    }

    /// How many files and references have changed in the guest alone, according to `banger status`.
    #[track_caller]
    pub fn guest_only(&self) -> (u64, u64) {
        let status = self.run(["status", "--json"]).ok();
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
        let only = &status["vm"]["guest_only"];
        (only["files"].as_u64().expect("a count"), only["references"].as_u64().expect("a count"))
    }
}
