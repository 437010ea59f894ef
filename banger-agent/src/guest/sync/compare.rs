//! Three states compared: what the last sync left, what the host wants, and what the guest has now.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::records::{Records, SyncedFile};
use super::references::References;
use super::tree::{PathState, Stamp, Tree, split};
use crate::protocol::WireBytes;
use crate::protocol::sync::{Change, Conflict, Digest, Item, Kind, Policy, Side, Verdict};

/// What to do about one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is so already; the record is to say this.
    Adopt(Option<SyncedFile>),
    /// Its content is needed, and put there.
    Put,
    /// What is there goes.
    Delete,
    /// The reference moves. These of the guest, by name and value, are kept under another name
    /// first: its own, or those whose names do not go together with it.
    Move { keep: Vec<(String, String)> },
    /// The guest's state stays, though the host's is another.
    Keep,
}

/// The decisions, item by item, and what both sides changed.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) decisions: Vec<Decision>,
    pub(super) conflicts: Vec<Conflict>,
}

impl Comparison {
    /// Whether what was decided to be replaced, moved or deleted still is, by a `later` comparison
    /// of the same plan, or is what was wanted already.
    pub(super) fn holds(&self, later: &Comparison) -> bool {
        let harmless = |was: &Decision| matches!(was, Decision::Adopt(_) | Decision::Keep);
        let mut both = self.decisions.iter().zip(&later.decisions);
        both.all(|(was, is)| was == is || harmless(was) || matches!(is, Decision::Adopt(_)))
            && later.conflicts.len() <= self.conflicts.len()
    }
}

/// Compares every item of a plan.
///
/// # Errors
/// If the guest's tree cannot be read.
pub(super) fn compare(root: &Path, records: &Records, items: &[Item], policy: Policy) -> io::Result<Comparison> {
    let mut comparer = Comparer {
        root,
        tree: Tree::open(root)?,
        records,
        leaving: items.iter().filter(|item| leaves(item)).map(|item| &item.path[..]).collect(),
        removed: HashSet::new(),
        overruled: HashSet::new(),
        policy,
        conflicts: Vec::new(),
    };
    let decisions = items.iter().map(|item| comparer.decide(item)).collect::<io::Result<_>>()?;
    Ok(Comparison { decisions, conflicts: comparer.conflicts })
}

/// Whether what is at the item's path now will be gone, or be something else.
fn leaves(item: &Item) -> bool {
    matches!(item.change, Change::Delete { .. } | Change::Put { .. } | Change::NoRepository)
}

struct Comparer<'a> {
    root: &'a Path,
    tree: Tree,
    records: &'a Records,
    /// Paths that the plan deletes or replaces.
    leaving: HashSet<&'a [u8]>,
    /// References that will be gone, with their repository's path. Removals come first in a plan.
    removed: HashSet<(&'a [u8], &'a str)>,
    /// Repositories, by the path of `.git`, whose index was changed by both sides and becomes the
    /// host's. It comes before the references.
    overruled: HashSet<&'a [u8]>,
    policy: Policy,
    conflicts: Vec<Conflict>,
}

impl<'a> Comparer<'a> {
    fn decide(&mut self, item: &'a Item) -> io::Result<Decision> {
        match &item.change {
            Change::Put { digest, kind, base, verdict } => self.put(item, *digest, *kind, *base, *verdict),
            Change::Delete { base } => self.delete(item, *base),
            Change::Object { size } => Ok(match self.tree.find(&item.path)? {
                PathState::File(_, stamp) if stamp.size == *size => Decision::Adopt(None),
                _ => Decision::Put,
            }),
            Change::Folder => Ok(Decision::Adopt(None)),
            Change::NoRepository => Ok(match self.tree.find(&item.path)? {
                PathState::Folder if self.is_untouched_repository(&item.path)? => Decision::Delete,
                // With commits of the guest's own it is the guest's own repository.
                PathState::Folder => Decision::Keep,
                _ => Decision::Adopt(None),
            }),
            Change::Ref { name, base, new } => {
                let decision = self.reference(item, name, base.as_deref(), new.as_deref())?;
                if new.is_none() && decision != Decision::Keep {
                    self.removed.insert((&item.path, name));
                }
                Ok(decision)
            }
        }
    }

    fn put(
        &mut self,
        item: &'a Item,
        digest: Digest,
        kind: Kind,
        base: Option<Digest>,
        verdict: Verdict,
    ) -> io::Result<Decision> {
        let known = self.records.files.get(&item.path).cloned();
        let wanted = |stamp: Stamp| Decision::Adopt(Some(SyncedFile { digest, kind, stamp: Some(stamp) }));
        match verdict {
            Verdict::Compare => {}
            Verdict::Found(found) => {
                let is_known =
                    found.is_none() || found == base || self.candidates(&item.path).any(|k| Some(k.digest) == found);
                if is_known {
                    return Ok(Decision::Put);
                }
                let decision = self.conflict(&item.path, Side::Changed, Side::Changed, Decision::Put);
                if decision == Decision::Put {
                    self.overruled.insert(split(&item.path).0);
                }
                return Ok(decision);
            }
        }
        let host_changed = known.as_ref().is_none_or(|known| (known.digest, known.kind) != (digest, kind));
        match self.tree.find(&item.path)? {
            PathState::Absent if known.is_none() => Ok(Decision::Put),
            PathState::Absent if !host_changed && self.policy == Policy::HostWins => Ok(Decision::Put),
            PathState::Absent if !host_changed => Ok(Decision::Keep),
            PathState::Absent => Ok(self.conflict(&item.path, Side::Deleted, Side::Changed, Decision::Put)),
            PathState::Blocked(end) => {
                let blocker = item.path[..end].to_vec();
                if self.leaving.contains(&blocker[..]) && self.is_untouched(&blocker)? {
                    return Ok(Decision::Put);
                }
                Ok(self.conflict(&blocker, Side::Changed, Side::Changed, Decision::Put))
            }
            PathState::Folder => {
                // All that would be lost is named.
                let mut decision = Decision::Put;
                for path in self.tree.files_beneath(&item.path)? {
                    if !self.may_go(&path)? {
                        decision = self.conflict(&path, Side::Changed, Side::Deleted, Decision::Put);
                    }
                }
                Ok(decision)
            }
            PathState::Special => Ok(self.conflict(&item.path, Side::Changed, Side::Changed, Decision::Put)),
            PathState::File(now, stamp) => {
                if self.is_known_by_stamp(&item.path, now, &stamp) {
                    return Ok(match host_changed {
                        true => Decision::Put,
                        false => wanted(stamp),
                    });
                }
                let current = self.tree.digest(&item.path, now)?;
                if (current, now) == (digest, kind) {
                    return Ok(wanted(stamp));
                }
                // What the host says of the last sync knows nothing of modes.
                let is_base = Some(current) == base && known.as_ref().is_none_or(|known| known.kind == now);
                if self.is_known_by_content(&item.path, now, current) || is_base {
                    return Ok(if host_changed { Decision::Put } else { Decision::Keep });
                }
                if known.is_some() && !host_changed {
                    return Ok(Decision::Keep);
                }
                let side = if known.is_some() { Side::Changed } else { Side::Added };
                Ok(self.conflict(&item.path, side, side, Decision::Put))
            }
        }
    }

    fn delete(&mut self, item: &Item, base: Option<Digest>) -> io::Result<Decision> {
        match self.tree.find(&item.path)? {
            // Nothing is there to delete, or something of the guest's own that is not the host's
            // file.
            PathState::Absent | PathState::Blocked(_) | PathState::Folder | PathState::Special => {
                Ok(Decision::Adopt(None))
            }
            PathState::File(now, stamp) => {
                if self.is_known_by_stamp(&item.path, now, &stamp) {
                    return Ok(Decision::Delete);
                }
                let current = self.tree.digest(&item.path, now)?;
                if self.is_known_by_content(&item.path, now, current) || Some(current) == base {
                    return Ok(Decision::Delete);
                }
                Ok(self.conflict(&item.path, Side::Changed, Side::Deleted, Decision::Delete))
            }
        }
    }

    fn reference(&mut self, item: &Item, name: &str, base: Option<&str>, new: Option<&str>) -> io::Result<Decision> {
        let references = References::new(self.root.join(WireBytes(item.path.clone()).as_os_str()));
        let current = references.read(name)?;
        let recorded = self.records.references.get(&(item.path.clone(), name.to_owned())).map(String::as_str);
        if current.as_deref() == new {
            return Ok(Decision::Adopt(None));
        }
        if recorded == new && recorded.is_some() && !self.is_overruled(&item.path, name) {
            return Ok(Decision::Keep);
        }
        let in_the_way = if current.is_none() { self.in_the_way(&references, item, name)? } else { Vec::new() };
        if let [(other, _), ..] = &in_the_way[..] {
            let path = [&item.path[..], b"/", other.as_bytes()].concat();
            return Ok(self.conflict(&path, Side::Added, Side::Added, Decision::Move { keep: in_the_way }));
        }
        if current.as_deref() == base || current.as_deref() == recorded {
            return Ok(Decision::Move { keep: Vec::new() });
        }
        let side = |value: Option<&str>| match (value, base.or(recorded)) {
            (None, _) => Side::Deleted,
            (Some(_), None) => Side::Added,
            (Some(_), Some(_)) => Side::Changed,
        };
        let (guest, host) = (side(current.as_deref()), side(new));
        let path = [&item.path[..], b"/", name.as_bytes()].concat();
        let keep = current.map(|tip| (name.to_owned(), tip)).into_iter().collect();
        Ok(self.conflict(&path, guest, host, Decision::Move { keep }))
    }

    /// Whether a reference that the guest alone moved goes back, because the index is to be the
    /// host's: under another commit, its entries would show the guest's work undone.
    fn is_overruled(&self, git: &[u8], name: &str) -> bool {
        let head = self.records.references.get(&(git.to_vec(), "HEAD".to_owned()));
        let is_checked_out = || head.is_some_and(|head| head.strip_prefix("ref: ") == Some(name));
        self.overruled.contains(git) && (name == "HEAD" || is_checked_out())
    }

    /// The guest's references that cannot be beside one of this name: a name is no folder of
    /// another's.
    fn in_the_way(&self, references: &References, item: &Item, name: &str) -> io::Result<Vec<(String, String)>> {
        let beneath = |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('/'));
        let stays = |other: &str| !self.removed.contains(&(&item.path[..], other));
        let all = references.all()?.into_iter();
        Ok(all.filter(|(other, _)| (beneath(other, name) || beneath(name, other)) && stays(other)).collect())
    }

    /// Whether the plan takes the file at `path` away, and nothing of the guest's own with it.
    fn may_go(&mut self, path: &[u8]) -> io::Result<bool> {
        let gits = path.windows(5).enumerate().filter(|(_, part)| *part == b"/.git").map(|(at, part)| at + part.len());
        for end in gits.filter(|end| path.get(*end) == Some(&b'/')) {
            if self.leaving.contains(&path[..end]) {
                return self.is_untouched_repository(&path[..end]);
            }
        }
        Ok(self.leaving.contains(path) && self.is_untouched(path)?)
    }

    /// Whether the repository whose `.git` is at `path` has no commits but the host's.
    fn is_untouched_repository(&self, path: &[u8]) -> io::Result<bool> {
        let now = References::new(self.root.join(WireBytes(path.to_vec()).as_os_str())).all()?;
        let known = |name: &String| self.records.references.get(&(path.to_vec(), name.clone()));
        Ok(now.iter().all(|(name, value)| known(name) == Some(value)))
    }

    /// Whether the file at `path` is what some sync put there.
    fn is_untouched(&mut self, path: &[u8]) -> io::Result<bool> {
        let PathState::File(kind, stamp) = self.tree.find(path)? else { return Ok(false) };
        if self.is_known_by_stamp(path, kind, &stamp) {
            return Ok(true);
        }
        let digest = self.tree.digest(path, kind)?;
        Ok(self.is_known_by_content(path, kind, digest))
    }

    /// The states that may have been put at `path`: one, but for a sync that was cut short.
    fn candidates(&self, path: &[u8]) -> impl Iterator<Item = &SyncedFile> {
        let in_doubt = self.records.in_doubt.get(path).and_then(Option::as_ref);
        self.records.files.get(path).into_iter().chain(in_doubt)
    }

    fn is_known_by_stamp(&self, path: &[u8], kind: Kind, now: &Stamp) -> bool {
        self.candidates(path).any(|known| known.kind == kind && known.stamp.is_some_and(|stamp| stamp.is_still(now)))
    }

    fn is_known_by_content(&self, path: &[u8], kind: Kind, digest: Digest) -> bool {
        self.candidates(path).any(|known| known.stamp.is_some() && (known.kind, known.digest) == (kind, digest))
    }

    /// Notes a conflict, and settles it by the policy.
    fn conflict(&mut self, path: &[u8], guest: Side, host: Side, host_wins: Decision) -> Decision {
        self.conflicts.push(Conflict { path: WireBytes(path.to_vec()), guest, host });
        if self.policy == Policy::HostWins { host_wins } else { Decision::Keep }
    }
}
