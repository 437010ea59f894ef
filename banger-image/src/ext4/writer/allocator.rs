//! Allocates the blocks of a file system, and knows which of them are in use.

use std::collections::BTreeMap;

/// Consecutive blocks: the number of the first, and how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) length: u64,
}

impl Run {
    pub(super) fn end(self) -> u64 {
        self.start + self.length
    }
}

/// Allocates blocks: released ones first, then ever higher ones.
pub(super) struct BlockAllocator {
    /// Blocks with a fixed use, in order and apart; they are in use from the start.
    reserved: Vec<Run>,
    /// Everything from here on is free, but for what is reserved.
    next: u64,
    /// How many of `reserved` lie before `next`.
    passed: usize,
    /// Blocks below `next` that were released: start and length.
    free: BTreeMap<u64, u64>,
    /// Where the file system ends.
    end: u64,
}

impl BlockAllocator {
    /// Everything is free from block 0 to `end`, but for `reserved`.
    pub(super) fn new(reserved: Vec<Run>, end: u64) -> BlockAllocator {
        BlockAllocator { reserved, next: 0, passed: 0, free: BTreeMap::new(), end }
    }

    /// Allocates one run of at most `most` blocks; `None` if the file system is full.
    pub(super) fn take(&mut self, most: u64) -> Option<Run> {
        if let Some((&start, &length)) = self.free.first_key_value() {
            self.free.remove(&start);
            if length > most {
                self.free.insert(start + most, length - most);
            }
            return Some(Run { start, length: length.min(most) });
        }
        let room = self.room_ahead();
        (room > 0).then(|| self.advance(room.min(most)))
    }

    /// Allocates one run of `length` blocks that were never in use; `None` if there is none.
    pub(super) fn take_fresh(&mut self, length: u64) -> Option<Run> {
        loop {
            let room = self.room_ahead();
            if room >= length {
                return Some(self.advance(length));
            }
            if room == 0 {
                return None;
            }
            let skipped = self.advance(room);
            self.release(skipped);
        }
    }

    /// Makes blocks free again.
    pub(super) fn release(&mut self, mut run: Run) {
        if let Some((&start, &length)) = self.free.range(..run.start).next_back()
            && start + length == run.start
        {
            self.free.remove(&start);
            run = Run { start, length: length + run.length };
        }
        if let Some(length) = self.free.remove(&run.end()) {
            run.length += length;
        }
        self.free.insert(run.start, run.length);
    }

    /// Blocks below the highest in use that are free.
    pub(super) fn gaps(&self) -> impl Iterator<Item = Run> {
        self.free.iter().map(|(&start, &length)| Run { start, length })
    }

    /// The block behind the highest that was ever taken.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Makes the file system end at `end`.
    pub(super) fn set_end(&mut self, end: u64) {
        self.end = end;
    }

    /// Which blocks of `from..to` are in use, as runs in order.
    pub(super) fn used(&self, from: u64, to: u64) -> Vec<Run> {
        let mut used = Vec::new();
        let mut at = from;
        let below = self.next.clamp(from, to);
        let before = self.free.range(..from).next_back().map(|(&start, &length)| (start, length));
        let within = self.free.range(from..below).map(|(&start, &length)| (start, length));
        for (start, length) in before.into_iter().chain(within) {
            if start > at {
                used.push(Run { start: at, length: start - at });
            }
            at = at.max(start + length);
        }
        if at < below {
            used.push(Run { start: at, length: below - at });
        }
        for run in &self.reserved[self.passed..] {
            let start = run.start.clamp(below, to);
            let end = run.end().clamp(below, to);
            if start < end {
                used.push(Run { start, length: end - start });
            }
        }
        used
    }

    /// Moves past what is reserved, and says how many free blocks come then.
    fn room_ahead(&mut self) -> u64 {
        while let Some(run) = self.reserved.get(self.passed) {
            if self.next < run.start {
                return run.start.min(self.end).saturating_sub(self.next);
            }
            self.next = run.end();
            self.passed += 1;
        }
        self.end.saturating_sub(self.next)
    }

    fn advance(&mut self, length: u64) -> Run {
        let run = Run { start: self.next, length };
        self.next += length;
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, length: u64) -> Run {
        Run { start, length }
    }

    #[test]
    fn reserved_blocks_are_skipped() {
        let mut space = BlockAllocator::new(vec![run(0, 2), run(5, 5)], 20);
        assert_eq!(space.take(100), Some(run(2, 3)));
        assert_eq!(space.take_fresh(4), Some(run(10, 4)));
        assert_eq!(space.take_fresh(7), None);
        assert_eq!(space.take(100), Some(run(14, 6)));
        assert_eq!(space.take(1), None);
    }

    #[test]
    fn freed_blocks_are_reused_first() {
        let mut space = BlockAllocator::new(vec![run(0, 1)], 100);
        assert_eq!(space.take(10), Some(run(1, 10)));
        space.release(run(2, 2));
        space.release(run(6, 2));
        space.release(run(4, 2));
        assert_eq!(space.gaps().collect::<Vec<_>>(), [run(2, 6)]);
        assert_eq!(space.used(0, 40), [run(0, 2), run(8, 3)]);
        assert_eq!(space.used(3, 9), [run(8, 1)]);
        assert_eq!(space.take_fresh(1), Some(run(11, 1)));
        assert_eq!(space.take(4), Some(run(2, 4)));
        assert_eq!(space.take(4), Some(run(6, 2)));
        assert_eq!(space.take(4), Some(run(12, 4)));
    }

    #[test]
    fn reserved_blocks_ahead_count_as_used() {
        let mut space = BlockAllocator::new(vec![run(0, 2), run(50, 10)], 100);
        space.take(3);
        assert_eq!(space.used(0, 100), [run(0, 5), run(50, 10)]);
        assert_eq!(space.used(55, 58), [run(55, 3)]);
    }
}
