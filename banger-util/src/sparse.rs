//! Files with holes: what reads as zeros takes no room on the disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::unistd::{Whence, lseek};

/// What holds nothing but zeros is left out in units of this.
const BLOCK: usize = 4096;
const ZEROS: [u8; BLOCK] = [0; BLOCK];
/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

mod ioctl {
    // ioctl_ficlone(2)
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// Writes `bytes` at the offset `at` into a file that reads as zeros there; blocks of zeros are
/// left out.
///
/// # Errors
/// The file system's refusal; some of the bytes may have been written.
pub fn write(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    for run in nonzero(at, bytes) {
        file.write_all_at(&bytes[run.clone()], at + run.start as u64)?;
    }
    Ok(())
}

/// The parts of `bytes`, which are a file's from `at` on, that are blocks with something in them.
fn nonzero(at: u64, bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let mut run: Option<Range<usize>> = None;
        while next < bytes.len() {
            let within = ((at + next as u64) % BLOCK as u64) as usize;
            let block = next..bytes.len().min(next + BLOCK - within);
            let is_zero = bytes[block.clone()] == ZEROS[..block.len()];
            match &mut run {
                Some(_) if is_zero => break,
                Some(run) => run.end = block.end,
                None if is_zero => {}
                None => run = Some(block.clone()),
            }
            next = block.end;
        }
        run
    })
}

/// Reads all that a file may have other than zeros, from the start on: `take` is given the offset
/// of each piece, and its bytes.
///
/// # Errors
/// The file system's refusal, or what `take` returns.
pub fn read(file: &File, mut take: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    loop {
        let data = match lseek(file, at, Whence::SeekData) {
            Ok(data) => data.cast_unsigned(),
            Err(nix::Error::ENXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let hole = lseek(file, data.cast_signed(), Whence::SeekHole)?;
        let mut next = data;
        while next < hole.cast_unsigned() {
            let length = usize::try_from(hole.cast_unsigned() - next).unwrap_or(usize::MAX).min(PIECE);
            file.read_exact_at(&mut buffer[..length], next)?;
            take(next, &buffer[..length])?;
            next += length as u64;
        }
        at = hole;
    }
}

/// The ranges of a file that are not zeros, in order. Between two of them are at least `gap` bytes.
/// They depend on the file's content alone, and not on where the file system has holes.
///
/// # Errors
/// The file system's refusal.
pub fn pieces(file: &File, gap: u64) -> io::Result<Vec<Range<u64>>> {
    let mut pieces: Vec<Range<u64>> = Vec::new();
    read(file, |at, bytes| {
        for run in nonzero(at, bytes) {
            let run = at + run.start as u64..at + run.end as u64;
            match pieces.last_mut() {
                Some(last) if run.start - last.end < gap => last.end = run.end,
                _ => pieces.push(run),
            }
        }
        Ok(())
    })?;
    Ok(pieces)
}

/// Copies a file into an empty one. Where the file system can, the copy shares the blocks of the
/// original (a reflink); elsewhere it has holes for what reads as zeros.
///
/// # Errors
/// The file system's refusal, such as a full disk.
pub fn copy(source: &File, target: &File) -> io::Result<()> {
    copy_while(source, target, || Ok(()))
}

/// [`copy`], which ends with the error that `check` returns: it is called now and then.
///
/// # Errors
/// The file system's refusal, or the error of `check`.
pub fn copy_while(source: &File, target: &File, check: impl Fn() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: FICLONE takes a descriptor as its argument, and this one is open.
    if unsafe { ioctl::ficlone(target.as_raw_fd(), source.as_raw_fd() as nix::sys::ioctl::ioctl_param_type) }.is_ok() {
        return Ok(());
    }
    target.set_len(source.metadata()?.len())?;
    read(source, |at, bytes| {
        check()?;
        write(target, at, bytes)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Seek};
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zeros_become_holes_and_pieces_follow_content() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        write(&file, 0, &vec![0; 1 << 20]).unwrap();
        write(&file, 5000, b"x").unwrap();
        // Zeros that do take room.
        file.write_all_at(&[0; 20_000], 1 << 20).unwrap();
        write(&file, (2 << 20) - 2, b"abcd").unwrap();
        let [first, second] = &pieces(&file, 1 << 16).unwrap()[..] else { panic!() };
        assert_eq!((first, second), (&(4096..8192), &((2 << 20) - 4096..(2 << 20) + 4096)));
        let copy = tempfile::tempfile().unwrap();
        super::copy(&file, &copy).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), 10 << 20);
        assert!(copy.metadata().unwrap().blocks() * 512 <= 64 << 10);
        assert_eq!(pieces(&copy, 1).unwrap(), pieces(&file, 1).unwrap());
    }

    #[test]
    fn sparse_copy_equals_its_source() {
        let source = tempfile::tempfile().unwrap();
        let target = tempfile::NamedTempFile::new().unwrap();
        source.set_len(10 << 20).unwrap();
        for (at, data) in [(0, vec![1; 5]), (5 << 20, vec![2; 9000]), ((10 << 20) - 3, vec![3; 3])] {
            source.write_all_at(&data, at).unwrap();
        }
        copy(&source, target.as_file()).unwrap();
        let mut original = Vec::new();
        (&source).rewind().unwrap();
        (&source).read_to_end(&mut original).unwrap();
        assert!(fs::read(target.path()).unwrap() == original);
    }

    proptest! {
        #[test]
        fn sparse_writes_read_back_unchanged(runs in proptest::collection::vec((0u64..30_000, 0u8..2, 1usize..9000), 0..4)) {
            let (file, mut expected) = (tempfile::tempfile().unwrap(), vec![0; 160_000]);
            let mut at = 0;
            for (gap, byte, length) in runs {
                at += gap;
                write(&file, at, &vec![byte; length]).unwrap();
                expected[at as usize..][..length].fill(byte);
                at += length as u64;
            }
            file.set_len(expected.len() as u64).unwrap();
            let mut is = vec![0; expected.len()];
            read(&file, |at, bytes| { is[at as usize..][..bytes.len()].copy_from_slice(bytes); Ok(()) }).unwrap();
            prop_assert!(is == expected);
            let mut by_pieces = vec![0; expected.len()];
            for piece in pieces(&file, 1 << 14).unwrap() {
                let range = piece.start as usize..piece.end as usize;
                by_pieces[range.clone()].copy_from_slice(&expected[range]);
            }
            prop_assert!(by_pieces == expected);
        }
    }
}
