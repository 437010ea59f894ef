//! A plan: what the host wants changed in the guest, and where the content comes from.

use banger_agent::frame::MAX_DATA;
use banger_agent::protocol::sync::{Change, Digest, Item, Kind, MAX_PATH, Verdict};

use super::source::Source;

/// Items and their sources.
#[derive(Debug, Default)]
pub(super) struct Plan(Vec<(Item, Source)>);

impl Plan {
    pub(super) fn put(&mut self, path: &[u8], digest: Digest, kind: Kind, base: Option<Digest>, source: Source) {
        let change = Change::Put { digest, kind, base, verdict: Verdict::Compare };
        self.0.push((Item { path: path.to_vec(), change }, source));
    }

    pub(super) fn delete(&mut self, path: &[u8], base: Digest) {
        let change = Change::Delete { base: Some(base) };
        self.0.push((Item { path: path.to_vec(), change }, Source::None));
    }

    pub(super) fn folder(&mut self, path: &[u8]) {
        self.0.push((Item { path: path.to_vec(), change: Change::Folder }, Source::None));
    }

    /// The repository whose `.git` is at `path` is gone.
    pub(super) fn no_repository(&mut self, path: &[u8]) {
        self.0.push((Item { path: path.to_vec(), change: Change::NoRepository }, Source::None));
    }

    pub(super) fn extend(&mut self, items: Vec<(Item, Source)>) {
        self.0.extend(items);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, number: usize) -> &(Item, Source) {
        &self.0[number]
    }

    /// The items in batches that fit into frames.
    pub(super) fn batches(&self) -> impl Iterator<Item = Vec<u8>> {
        // The longest item: a path, a reference's name and values, and some numbers.
        const LONGEST: usize = 2 * MAX_PATH + 512;
        self.0.chunks(MAX_DATA / LONGEST).map(|chunk| {
            let items: Vec<&Item> = chunk.iter().map(|(item, _)| item).collect();
            postcard::to_stdvec(&items).expect("plain data has a postcard form")
        })
    }
}
