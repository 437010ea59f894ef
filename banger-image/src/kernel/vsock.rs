//! Whether a kernel that came without modules has the driver of virtio's vsock.

use std::io::{self, Read};
use std::path::Path;

use fs_err as fs;
use memchr::memmem::Finder;

use super::format::KernelFile;
use super::import::VSOCK_TRANSPORT;
use crate::error::Result;

/// Bytes that are searched at a time.
const PIECE: usize = 1 << 20;

/// Whether the kernel `file`, uncompressed at `vmlinux`, may have the driver built in. A driver has
/// its name in it (`KBUILD_MODNAME`). What is not Linux has what it has.
pub(super) fn may_be_built_in(vmlinux: &Path, file: &KernelFile) -> Result<bool> {
    Ok(file.release().is_none() || contains(fs::File::open(vmlinux)?, format!("\0{VSOCK_TRANSPORT}\0").as_bytes())?)
}

/// Whether a text is somewhere in a file.
fn contains(mut file: impl Read, text: &[u8]) -> io::Result<bool> {
    let finder = Finder::new(text);
    let mut bytes = Vec::with_capacity(PIECE + text.len());
    loop {
        let read = (&mut file).take(PIECE as u64).read_to_end(&mut bytes)?;
        if finder.find(&bytes).is_some() {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        // The text may go on in the next piece.
        bytes.drain(..bytes.len().saturating_sub(text.len() - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_across_pieces() {
        for at in [0, 5, PIECE - 3, PIECE, PIECE + 1, 3 * PIECE - 1] {
            let mut bytes = vec![b'a'; 3 * PIECE + 100];
            bytes[at..at + 4].copy_from_slice(b"text");
            assert!(contains(&bytes[..], b"text").unwrap(), "{at}");
            bytes[at + 3] = b'T';
            assert!(!contains(&bytes[..], b"text").unwrap(), "{at}");
        }
        assert!(!contains(&b"tex"[..], b"text").unwrap());
    }
}
