//! What the guest's twin of a repository consists of, and what of it has changed since the last
//! sync.

use std::collections::{BTreeMap, BTreeSet};

use banger_agent::protocol::AgentFailureKind;
use banger_agent::protocol::sync::{Change, Digest, Item, Kind, Verdict};
use banger_agent::sparse;
use banger_vmm::Vm;

use super::SyncError;
use super::filters::Answer;
use super::history::Histories;
use super::manifest::SyncedRepository;
use super::source::Source;
use crate::git::{
    Entry, FilteredFiles, GuestIndex, GuestStat, History, Listing, ObjectFile, RelPath, Repository, RepositoryState,
    Sent, Shallow,
};
use crate::vm::agent::{AgentError, read_file};

/// The longest index that is fetched from a guest has this many bytes and twice those of the
/// host's. To compare it takes up to five times that in memory. A guest that stages much more than
/// the host has some 300,000 files below that.
const INDEX_FLOOR: u64 = 32 << 20;
/// What is said to be the digest of an index that is longer: it is nobody's, so such an index has
/// changed.
const LONG_INDEX: Digest = [0xff; 32];
/// Where a repository's own copies of the user's files are, below `.git`, and the keys that name
/// them.
const EXCLUDES: (&str, &str) = ("banger/excludes", "excludesFile");
const ATTRIBUTES: (&str, &str) = ("banger/attributes", "attributesFile");

/// A repository of the host, read for a sync.
pub(super) struct Snapshot<'a> {
    pub(super) repository: &'a Repository,
    /// The path of `.git` in the guest.
    pub(super) git: Vec<u8>,
    state: RepositoryState,
    objects: Vec<ObjectFile>,
    config: Vec<u8>,
    /// Copies of the user's own files, by name below `.git`.
    copies: Vec<(&'static str, Vec<u8>)>,
    index: Digest,
    /// The length of the index, in bytes.
    index_size: u64,
    /// What the guest has of it then, where that is not all.
    sent: Option<Sent>,
    fingerprint: [u8; 32],
    /// What stat says in the guest of files with a filter, by its own index.
    guest_stats: BTreeMap<RelPath, GuestStat>,
}

/// The path of a repository's `.git` in the guest.
pub(super) fn git_path(repository: &Repository) -> Vec<u8> {
    repository.path.join(b".git").into_bytes()
}

impl<'a> Snapshot<'a> {
    /// Reads as much of `repository`, whose files are in `listing`, as the guest shall have by
    /// `histories`.
    ///
    /// # Errors
    /// If git's own files cannot be read.
    pub(super) fn read(
        repository: &'a Repository,
        listing: &Listing,
        root: &[u8],
        histories: &Histories,
    ) -> Result<Self, SyncError> {
        let fingerprint = histories.fingerprint(repository)?;
        let git = git_path(repository);
        let (state, objects, sent) = match histories.kind() {
            History::Shallow => {
                let folder = histories.packs().join(blake3::hash(&git).to_hex().as_str());
                let Shallow { sent, state, objects } = repository.shallow(histories.sent(&git), &folder)?;
                (state, objects, Some(sent))
            }
            History::Full | History::None => (repository.state()?, repository.object_files()?, None),
        };
        let mut config = repository.guest_config()?;
        let mut copies = Vec::new();
        for ((name, key), content) in
            [(EXCLUDES, repository.global_excludes()?), (ATTRIBUTES, repository.global_attributes()?)]
        {
            if !content.is_empty() {
                let path = String::from_utf8_lossy(&[root, b"/", &git, b"/", name.as_bytes()].concat()).into_owned();
                let quoted = path.replace('\\', "\\\\").replace('"', "\\\"");
                config.extend(format!("[core]\n\t{key} = \"{quoted}\"\n").into_bytes());
                copies.push((name, content));
            }
        }
        let bytes = repository.guest_index(listing, &FilteredFiles::new(), &|_| None)?.bytes;
        let (index, index_size) = (repository.index_digest(&bytes)?, bytes.len() as u64);
        Ok(Snapshot {
            git,
            state,
            objects,
            sent,
            config,
            copies,
            index,
            index_size,
            fingerprint,
            repository,
            guest_stats: BTreeMap::new(),
        })
    }

    /// What the guest has after this sync, by the path of `.git`; none: all that there is.
    pub(super) fn sent(&self) -> Option<(&[u8], &Sent)> {
        self.sent.as_ref().map(|sent| (&self.git[..], sent))
    }

    /// `HEAD` and every reference, by name.
    pub(super) fn references(&self) -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        let mut all: BTreeMap<_, _> = self.state.refs.iter().map(|(name, value)| (text(name), text(value))).collect();
        all.insert("HEAD".into(), text(&self.state.head));
        all
    }

    /// Files below `.git`, with their contents: configuration and what git is in the middle of.
    pub(super) fn files(&self) -> Vec<(Vec<u8>, Kind, Vec<u8>)> {
        let path = |name: &[u8]| [&self.git[..], b"/", name].concat();
        let mut files = vec![(path(b"config"), Kind::File(0o644), self.config.clone())];
        let copies = self.copies.iter();
        files.extend(copies.map(|(name, content)| (path(name.as_bytes()), Kind::File(0o644), content.clone())));
        files.extend(self.state.files.iter().map(|file| (path(&file.path), Kind::File(file.mode), file.bytes.clone())));
        files
    }

    /// The object store's files, with their paths in the guest.
    pub(super) fn objects(&self) -> impl Iterator<Item = (Vec<u8>, &ObjectFile)> {
        self.objects.iter().map(|object| ([&self.git[..], b"/objects/", object.name.as_bytes()].concat(), object))
    }

    /// Where the content of an object's file is: in the repository, or in a pack made for this
    /// guest.
    pub(super) fn object_source(&self, object: &ObjectFile) -> Source {
        match self.sent {
            Some(_) => Source::Pack(object.path.clone()),
            None => Source::File(object.path.clone(), self.repository.boundary().clone()),
        }
    }

    /// The path of the index in the guest.
    pub(super) fn index_path(&self) -> Vec<u8> {
        [&self.git[..], b"/index"].concat()
    }

    /// The index for the guest, as it is now, and its digest by meaning.
    ///
    /// # Errors
    /// If it cannot be read any more.
    pub(super) fn index(
        &self,
        listing: &Listing,
        filtered: &FilteredFiles,
        stat_of: &dyn Fn(&Entry) -> Option<GuestStat>,
    ) -> Result<(GuestIndex, Digest), SyncError> {
        let stat_of = |entry: &Entry| stat_of(entry).or_else(|| self.guest_stats.get(&entry.path).copied());
        let index = self.repository.guest_index(listing, filtered, &stat_of)?;
        let digest = self.repository.index_digest(&index.bytes)?;
        Ok((index, digest))
    }

    /// What the guest has of the repository after a sync that sent all of this snapshot.
    pub(super) fn known(&self) -> SyncedRepository {
        SyncedRepository {
            fingerprint: self.fingerprint,
            references: self.references(),
            files: self.files().into_iter().map(|(path, _, bytes)| (path, sparse::digest(&bytes))).collect(),
            index: Some(self.index),
            objects: self.objects.iter().map(|object| object.name.clone()).collect(),
        }
    }

    /// The fingerprint of the repository.
    pub(super) fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    /// What has to change in the guest. `base` is the last sync's state; `everything` asks for all
    /// there is, the guest being at another state than `base`. Of files with a filter `filtered`
    /// says what the guest has to be told.
    ///
    /// # Errors
    /// If the guest's index cannot be read.
    pub(super) fn changes(
        &mut self,
        vm: &Vm,
        root: &[u8],
        base: &SyncedRepository,
        everything: bool,
        filtered: &Answer,
    ) -> Result<Vec<(Item, Source)>, SyncError> {
        let mut plan = Vec::new();
        for (path, object) in self.objects() {
            if everything || !base.objects.contains(&object.name) {
                let change = Change::Object { size: object.size };
                plan.push((Item { path, change }, self.object_source(object)));
            }
        }
        let mut gone: BTreeSet<_> = base.files.keys().cloned().collect();
        for (path, kind, bytes) in self.files() {
            gone.remove(&path);
            let (digest, base) = (sparse::digest(&bytes), base.files.get(&path).copied());
            if everything || base != Some(digest) {
                // git itself keeps only the last one of these, whoever left it.
                let is_fleeting = path.ends_with(b"/ORIG_HEAD") || path.ends_with(b"/AUTO_MERGE");
                let verdict = if is_fleeting { Verdict::Found(None) } else { Verdict::Compare };
                let change = Change::Put { digest, kind, base, verdict };
                plan.push((Item { path, change }, Source::Bytes(bytes)));
            }
        }
        plan.extend(gone.into_iter().map(|path| {
            let base = base.files.get(&path).copied();
            (Item { path, change: Change::Delete { base } }, Source::None)
        }));
        plan.extend(self.index_change(vm, root, base, everything, filtered)?);
        plan.extend(self.moved_references(base, everything));
        Ok(plan)
    }

    /// git writes its index anew whenever it looks at the files, so its bytes say nothing: the
    /// entries are compared, here.
    fn index_change(
        &mut self,
        vm: &Vm,
        root: &[u8],
        base: &SyncedRepository,
        everything: bool,
        filtered: &Answer,
    ) -> Result<Option<(Item, Source)>, SyncError> {
        let (digest, path) = (self.index, self.index_path());
        let is_same = base.index == Some(digest);
        if !everything && !filtered.is_news && is_same {
            return Ok(None);
        }
        let guest = match read_file(vm, &[root, b"/", &path].concat(), longest_index(self.index_size)) {
            Err(AgentError::Refused(failure)) if failure.kind == AgentFailureKind::TooLong => Some(LONG_INDEX),
            read => {
                let read = read?;
                if let Some(bytes) = read.as_ref().filter(|_| !filtered.files.is_empty()) {
                    self.guest_stats = self.repository.guest_stats(bytes, &filtered.files)?;
                }
                read.map(|bytes| self.repository.index_digest(&bytes)).transpose()?
            }
        };
        // Where everything is asked for, what is not named is taken for deleted.
        let guest_has_it = guest == Some(digest);
        // What the guest staged itself stays, where nothing else was staged here.
        if !everything && (if guest_has_it { !filtered.is_news } else { is_same }) {
            return Ok(None);
        }
        let verdict = Verdict::Found(guest);
        let base = if guest_has_it && !everything { guest } else { base.index };
        let change = Change::Put { digest, kind: Kind::File(0o644), base, verdict };
        Ok(Some((Item { path, change }, Source::Index(self.git.clone()))))
    }

    /// Removals first: a name may be a folder of another's.
    fn moved_references(&self, base: &SyncedRepository, everything: bool) -> Vec<(Item, Source)> {
        let item = |name: &String, base: Option<&String>, new: Option<&String>| {
            let change = Change::Ref { name: name.clone(), base: base.cloned(), new: new.cloned() };
            (Item { path: self.git.clone(), change }, Source::None)
        };
        let now = self.references();
        let gone = base.references.iter().filter(|(name, _)| !now.contains_key(*name));
        let mut plan: Vec<_> = gone.map(|(name, value)| item(name, Some(value), None)).collect();
        for (name, value) in &now {
            let before = base.references.get(name);
            if everything || before != Some(value) {
                plan.push(item(name, before, Some(value)));
            }
        }
        plan
    }
}

/// The longest index that is fetched from a guest where the host's has `size` bytes.
fn longest_index(size: u64) -> u64 {
    size.saturating_mul(2).saturating_add(INDEX_FLOOR)
}

/// The references in the format of git's `packed-refs`, and the symbolic ones, which it cannot
/// hold, as files.
pub(super) fn reference_files(snapshot: &Snapshot<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let path = |name: &str| [&snapshot.git[..], b"/", name.as_bytes()].concat();
    let mut packed = String::from("# pack-refs with: sorted \n");
    let mut files = Vec::new();
    let references = snapshot.references();
    for (name, value) in references.iter().filter(|(name, _)| *name != "HEAD") {
        if value.starts_with("ref: ") {
            files.push((path(name), format!("{value}\n").into_bytes()));
        } else {
            packed.push_str(&format!("{value} {name}\n"));
        }
    }
    files.push((path("packed-refs"), packed.into_bytes()));
    files.push((path("HEAD"), format!("{}\n", references["HEAD"]).into_bytes()));
    files
}
