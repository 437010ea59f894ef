//! What was fetched from a VM becomes refs of the user's repository, below `refs/banger/<vm>/`.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Serialize;

use super::quarantine::{Quarantine, RECEIVED, Remote};
use super::{GitError, Repository, Result};

/// The refs that were fetched from VMs.
pub(super) const FETCHED: &[u8] = b"refs/banger/";

/// The longest name of a ref below `refs/banger/`, and the longest part of one: each part is a file
/// or directory, for which Linux has 255 bytes, and git adds `.lock`.
const MAX_NAME: (usize, usize) = (1000, 250);

/// A ref of the repository that a fetch changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefChange {
    /// Its full name.
    pub name: String,
    /// What becomes of it.
    pub change: RefChangeKind,
    /// The object that it names before; none: it is new.
    pub old: Option<String>,
    /// The object that it names afterwards; none: it is deleted.
    pub new: Option<String>,
}

/// What becomes of a ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefChangeKind {
    /// It was not there.
    New,
    /// It moves forward.
    Updated,
    /// It moves to what is not after the former object.
    Forced,
    /// The VM has it no more.
    Deleted,
}

/// What a fetch from a VM brings.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// The changes, sorted by name.
    pub(crate) changes: Vec<RefChange>,
    /// Names of refs in the VM that cannot be refs here.
    pub(crate) skipped: Vec<Vec<u8>>,
    /// Of each change that brings an object, the number below [`RECEIVED`].
    numbers: Vec<Option<usize>>,
}

impl Quarantine<'_> {
    /// Fetches what the VM called `vm` has and the repository lacks: branches, tags that are not
    /// here, and a commit that is checked out on no branch.
    ///
    /// # Errors
    /// As [`Quarantine::list`] and [`Quarantine::fetch`].
    pub(crate) fn receive(&self, remote: &Remote<'_>, vm: &str) -> Result<Incoming> {
        let prefix = prefix(vm)?;
        let here = self.repository.ref_store()?.refs;
        let (wanted, skipped) = wanted(self.list(remote)?, &prefix, &here);
        let is_known = |name: &[u8], id: &str| here.get(name).is_some_and(|known| known == id.as_bytes());
        let new: Vec<_> = wanted.iter().filter(|(name, (_, id))| !is_known(name, id)).collect();
        let sources: Vec<&[u8]> = new.iter().map(|(_, (source, _))| &source[..]).collect();
        // What the VM says now: it may have moved on since it was asked.
        let received = if sources.is_empty() { Vec::new() } else { self.fetch(remote, &sources)? };
        let mut incoming = Incoming { skipped, ..Incoming::default() };
        for (number, ((name, _), id)) in new.into_iter().zip(received).enumerate() {
            let old = here.get(name).map(|old| String::from_utf8_lossy(old).into_owned());
            let change = match &old {
                None => RefChangeKind::New,
                Some(old) if !old.starts_with("ref:") && self.is_ancestor(old, &id)? => RefChangeKind::Updated,
                Some(_) => RefChangeKind::Forced,
            };
            let name = String::from_utf8_lossy(name).into_owned();
            incoming.changes.push(RefChange { name, change, old, new: Some(id) });
            incoming.numbers.push(Some(number));
        }
        for (name, old) in here.iter().filter(|(name, _)| name.starts_with(&prefix) && !wanted.contains_key(*name)) {
            let (name, old) = [name, old].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).into();
            incoming.changes.push(RefChange { name, change: RefChangeKind::Deleted, old: Some(old), new: None });
            incoming.numbers.push(None);
        }
        Ok(incoming)
    }

    /// Makes the changes in the user's repository. Refs that are deleted go first, since one that
    /// comes may have the name of a directory of theirs; those that come are changed all at once.
    ///
    /// Hooks do not run, of which `reference-transaction` would be asked: in banger's hands git runs
    /// no program that a repository names.
    ///
    /// # Errors
    /// [`GitError::Command`].
    pub(crate) fn adopt(&self, incoming: &Incoming) -> Result<()> {
        // A symbolic ref is not followed: it may lead to a branch of the user's.
        let is_symbolic = |change: &RefChange| change.old.as_ref().is_some_and(|old| old.starts_with("ref:"));
        let mut deletions = Vec::new();
        for change in incoming.changes.iter().filter(|change| change.new.is_none() || is_symbolic(change)) {
            let old = change.old.as_ref().filter(|_| !is_symbolic(change));
            let old = old.map(|old| format!(" {old}")).unwrap_or_default();
            deletions.extend(format!("option no-deref\ndelete {}{old}\n", change.name).into_bytes());
        }
        if !deletions.is_empty() {
            self.repository.git_with(&["update-ref", "--stdin"], &deletions, None)?;
        }
        let mut refspecs = Vec::new();
        for (change, number) in incoming.changes.iter().zip(&incoming.numbers) {
            if let Some(number) = number {
                refspecs.extend(format!("+{RECEIVED}{number}:{}\n", change.name).into_bytes());
            }
        }
        if refspecs.is_empty() {
            return Ok(());
        }
        self.repository.fetch_local(&self.git_dir.to_string_lossy(), &refspecs)
    }
}

impl Repository {
    /// Fetches from the repository at `path`, which is banger's own. What this repository's
    /// configuration could say of a fetch does not count: other programs to run
    /// (`remote.<path>.uploadpack`, `core.alternateRefsCommand`), other servers to ask
    /// (`fetch.bundleURI`, submodules), or other things to do (`gc.auto`).
    fn fetch_local(&self, path: &str, refspecs: &[u8]) -> Result<()> {
        let arguments = [
            "-c",
            "protocol.file.allow=always",
            "-c",
            "core.alternateRefsCommand=true",
            "-c",
            "fetch.bundleURI=",
            "-c",
            "fetch.writeCommitGraph=false",
            "-c",
            "gc.auto=0",
            "-c",
            "maintenance.auto=false",
            "fetch",
            "--quiet",
            "--atomic",
            "--no-tags",
            "--no-prune",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--upload-pack=git-upload-pack",
            "--stdin",
            path,
        ];
        let mut command: Command = self.command(&arguments);
        // It says more than the configuration may.
        command.env("GIT_ALLOW_PROTOCOL", "file");
        let output = self.run_command(command, &arguments, refspecs, None)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(self.failed(&["fetch"], String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }
}

/// Where the refs of the VM called `vm` are.
fn prefix(vm: &str) -> Result<Vec<u8>> {
    let prefix = [FETCHED, vm.as_bytes(), b"/"].concat();
    match is_name(&[&prefix, &b"HEAD"[..]].concat()) {
        true => Ok(prefix),
        false => Err(GitError::malformed("the name", vm, "a part of a branch's name cannot be called so")),
    }
}

/// A ref of a VM, and its object.
type Source = (Vec<u8>, String);

/// By the name here, which refs of a VM are taken over; and those that cannot be.
fn wanted(
    listed: Vec<Source>,
    prefix: &[u8],
    here: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> (BTreeMap<Vec<u8>, Source>, Vec<Vec<u8>>) {
    let mut wanted = BTreeMap::new();
    let mut skipped = Vec::new();
    let on_branch = |id: &str| listed.iter().any(|(name, tip)| name.starts_with(b"refs/heads/") && tip == id);
    let head = listed.iter().find(|(name, id)| name == b"HEAD" && !on_branch(id)).cloned();
    for (source, id) in listed {
        let is_tag = source.starts_with(b"refs/tags/");
        if !(is_tag || source.starts_with(b"refs/heads/")) {
            continue;
        }
        // Of the tags, the VM has all that were here.
        if is_tag && here.get(&source).is_some_and(|known| known == id.as_bytes()) {
            continue;
        }
        let name = [prefix, &source[b"refs/".len()..]].concat();
        if is_name(&name) {
            wanted.insert(name, (source, id));
        } else {
            skipped.push(source);
        }
    }
    wanted.extend(head.map(|(source, id)| ([prefix, &source[..]].concat(), (source, id))));
    // No repository has a ref whose name is a directory of another's.
    let parents: Vec<_> = wanted.keys().filter(|name| parent(name, &wanted)).cloned().collect();
    for name in parents {
        skipped.extend(wanted.remove(&name).map(|(source, _)| source));
    }
    (wanted, skipped)
}

/// Whether a directory of `name` is one of the names.
fn parent<T>(name: &[u8], names: &BTreeMap<Vec<u8>, T>) -> bool {
    let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &name[..at]).any(|parent| names.contains_key(parent))
}

/// Whether a ref can have this name, and be told on a line.
fn is_name(name: &[u8]) -> bool {
    name.len() <= MAX_NAME.0
        && name.split(|byte| *byte == b'/').all(|part| part.len() <= MAX_NAME.1)
        && std::str::from_utf8(name).is_ok()
        && gix::validate::reference::name(gix::bstr::BStr::new(name)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Vec<Source> {
        names.iter().map(|name| (name.as_bytes().to_vec(), "a".repeat(40))).collect()
    }

    #[test]
    fn only_names_that_can_be_refs_are_wanted() {
        let long = format!("refs/heads/{}", "x".repeat(251));
        let bad = ["refs/heads/../../heads/main", "refs/heads/a b", "refs/heads/x\u{7}", "refs/heads/x.lock", &long];
        let listed =
            [&bad[..], &["refs/heads/d/f", "refs/heads/d", "refs/heads/-x", "refs/banger/box/heads/y"]].concat();
        let (wanted, skipped) = wanted(ids(&listed), &prefix("box").unwrap(), &BTreeMap::new());
        let names: Vec<_> = wanted.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["refs/banger/box/heads/-x", "refs/banger/box/heads/d"]);
        assert_eq!(skipped.len(), bad.len() + 1);
    }

    #[test]
    fn known_tags_and_heads_of_branches_are_left_out() {
        let here = BTreeMap::from([(b"refs/tags/v1".to_vec(), "a".repeat(40).into_bytes())]);
        let listed = ids(&["HEAD", "refs/heads/main", "refs/tags/v1", "refs/tags/v2"]);
        let names = |listed| wanted(listed, b"refs/banger/x/", &here).0.into_keys().collect::<Vec<_>>();
        assert_eq!(names(listed), [&b"refs/banger/x/heads/main"[..], b"refs/banger/x/tags/v2"]);
        assert_eq!(names(ids(&["HEAD"])), [b"refs/banger/x/HEAD"]);
    }

    #[test]
    fn vm_name_that_is_no_part_of_a_ref_is_an_error() {
        for name in ["a..b", "a.lock"] {
            assert!(prefix(name).is_err(), "{name}");
        }
    }
}
