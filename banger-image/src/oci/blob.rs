//! Content in a file, or in a part of a file.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use fs_err::File;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

/// A part of a file, which is read from its start.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Blob {
    pub(super) fn new(file: Arc<File>, start: u64, length: u64) -> Blob {
        Blob { file, at: start, left: length }
    }

    pub(super) fn len(&self) -> u64 {
        self.left
    }

    /// Checks size and digest.
    ///
    /// # Errors
    /// [`Error::Image`], which `what` begins.
    pub(super) fn verify(self, what: &str, digest: Digest, size: u64) -> Result<Blob> {
        let wrong = |reason: String| Error::Image { what: what.to_owned(), reason };
        if self.left != size {
            return Err(wrong(format!("it has {} bytes, and should have {size}", self.left)));
        }
        let mut hasher = Hasher::default();
        hasher.update_from(self.clone())?;
        let is = hasher.finish();
        if is != digest {
            return Err(wrong(format!("its content is {is}, and should be {digest}")));
        }
        Ok(self)
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// [`Error::Image`] if it has more than `most` bytes.
    pub(super) fn bytes(mut self, what: &str, most: u64) -> Result<Vec<u8>> {
        if self.left > most {
            let reason = format!("it has {} bytes, and {most} are the most", self.left);
            return Err(Error::Image { what: what.to_owned(), reason });
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.file().read_at(&mut buffer[..length], self.at)?;
        if read == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
