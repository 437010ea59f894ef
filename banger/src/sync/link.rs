//! Records over the link to a guest that runs, and how far a transfer is.

use std::cell::Cell;

use banger_agent::protocol::sync::{Kind, Record, RecordKind};

use super::SyncError;
use super::source::{Content, Sink};
use crate::vm::agent::DataWriter;

/// A transfer of less than this, in bytes, is over before anybody asks how far it is.
const LARGE: u64 = 64 << 20;
/// How many bytes are transferred before that is shown again.
const STEP: u64 = 4 << 20;
/// The longest piece of a sparse file, in bytes.
const PIECE: usize = 64 << 10;

/// How far a transfer is. A large one is shown.
pub(super) struct Meter<'a> {
    /// Bytes of files, holes included.
    total: u64,
    done: Cell<u64>,
    shown: Cell<u64>,
    show: &'a dyn Fn(u64, u64),
}

impl<'a> Meter<'a> {
    /// Of a transfer of `total` bytes, of which `show` is told how many are done, and how many
    /// there are.
    pub(super) fn new(total: u64, show: &'a dyn Fn(u64, u64)) -> Meter<'a> {
        Meter { total, done: Cell::new(0), shown: Cell::new(0), show }
    }

    /// So many bytes more are done.
    pub(super) fn advance(&self, bytes: u64) {
        let done = self.done.get() + bytes;
        self.done.set(done);
        if self.total >= LARGE && done - self.shown.get() >= STEP {
            self.shown.set(done);
            // Files may have become longer meanwhile.
            (self.show)(done.min(self.total), self.total);
        }
    }
}

/// The stream of contents: see [`Record`].
pub(super) struct Link<'a> {
    out: DataWriter<'a>,
    /// Whether the agent takes [`RecordKind::Sparse`].
    takes_holes: bool,
    meter: &'a Meter<'a>,
}

impl<'a> Link<'a> {
    pub(super) fn new(out: DataWriter<'a>, takes_holes: bool, meter: &'a Meter<'a>) -> Link<'a> {
        Link { out, takes_holes, meter }
    }

    /// Sends what is gathered.
    ///
    /// # Errors
    /// If the connection breaks.
    pub(super) fn flush(&mut self) -> Result<(), SyncError> {
        Ok(self.out.flush()?)
    }

    fn head(&mut self, record: &Record) -> Result<(), SyncError> {
        let head = postcard::to_stdvec(record).expect("plain data has a postcard form");
        self.out.write(&(head.len() as u32).to_le_bytes())?;
        Ok(self.out.write(&head)?)
    }

    /// Sends a content as pieces.
    fn pieces(&mut self, content: &mut Content<'_>) -> Result<(), SyncError> {
        let mut buffer = vec![0; PIECE];
        while content.left() > 0 {
            let hole = content.skip_hole()?;
            let count = content.read(&mut buffer)?;
            self.out.write(&hole.to_le_bytes())?;
            self.out.write(&(count as u32).to_le_bytes())?;
            self.out.write(&buffer[..count])?;
            self.meter.advance(hole + count as u64);
        }
        Ok(())
    }
}

impl Sink for Link<'_> {
    fn put(&mut self, record: &Record, content: &mut Content<'_>) -> Result<(), SyncError> {
        match record.kind {
            RecordKind::Content(Kind::File(permissions)) if self.takes_holes && content.is_sparse() => {
                self.head(&Record { kind: RecordKind::Sparse(permissions), ..record.clone() })?;
                self.pieces(content)?;
            }
            _ => {
                self.head(record)?;
                while content.left() > 0 {
                    let count = content.read(self.out.room())?;
                    self.out.filled(count)?;
                    self.meter.advance(count as u64);
                }
            }
        }
        Ok(self.out.write(&content.digest())?)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn only_large_transfers_show_progress() {
        let shown = RefCell::new(Vec::new());
        let show = |done, total| shown.borrow_mut().push((done, total));
        let small = Meter::new(LARGE - 1, &show);
        (0..100).for_each(|_| small.advance(1 << 20));
        assert!(shown.borrow().is_empty());
        let large = Meter::new(LARGE, &show);
        (0..100).for_each(|_| large.advance(1 << 20));
        let shown = shown.borrow();
        assert_eq!((shown.len(), shown[0], shown[24]), (25, (STEP, LARGE), (LARGE, LARGE)));
    }
}
