//! Files of known length and digest, from a web server or from a disk. They are read, counted and
//! hashed in one pass; a download that is cut is resumed.

use std::fmt;
use std::io::{self, Read};

use bytes::Bytes;
use fs_err as fs;
use reqwest::Url;
use reqwest::header::HeaderMap;

use crate::archive::decompress;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::fetch::http::{Download, DownloadEvent, Http, UNREACHABLE, fetch, is_loopback};
use crate::fetch::location::{Address, Location};
use crate::progress::Progress;

/// Bytes that are read of a file at a time.
const PIECE: usize = 256 << 10;
const WRONG: &str = "what names it means another file, or it was changed on its way";

/// A file of known length and digest, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Where it is.
    pub location: Location,
    /// Its SHA-256.
    pub sha256: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// The fields of a catalog that make a [`Pinned`].
#[derive(Debug)]
pub(crate) struct PinnedTable {
    pub(crate) url: String,
    pub(crate) sha256: String,
    pub(crate) size: u64,
}

impl PinnedTable {
    /// Parses the fields. The URL may be relative to `base`, if there is one.
    ///
    /// # Errors
    /// The reason, as text.
    pub(crate) fn read(self, base: Option<&Location>) -> std::result::Result<Pinned, String> {
        let location = base.map_or_else(|| self.url.parse(), |base| base.join(&self.url))?;
        let hex = self.sha256.strip_prefix("sha256:").unwrap_or(&self.sha256);
        Ok(Pinned { location, sha256: format!("sha256:{hex}").parse()?, size: self.size })
    }
}

impl Pinned {
    /// Opens the file, or makes a client for it, and reports a phase: that `what` is unpacked, or
    /// downloaded and unpacked.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Image`] for what is no file, [`Error::Server`].
    pub(crate) fn open<'a>(&'a self, what: &str, progress: &dyn Progress) -> Result<Transport<'a>> {
        match self.location.address() {
            Address::Url(url) => {
                progress.phase(&format!("downloading and unpacking {what}"));
                Ok(Transport::Web(Http::new(is_loopback(url))?, url))
            }
            Address::Path(path) => {
                // Opening what is no file, such as a FIFO, may take forever.
                if !fs::metadata(path)?.is_file() {
                    return Err(Error::Image { what: self.to_string(), reason: "it is no file".to_owned() });
                }
                progress.phase(&format!("unpacking {what}"));
                Ok(Transport::File(fs::File::open(path)?))
            }
        }
    }
}

impl Pinned {
    /// Lets `read` read the decompressed file while it is downloaded. `what` names the file in
    /// phases.
    ///
    /// # Errors
    /// `too_large()` for more than `limit` decompressed bytes; `wrong(reason)` for a file that is
    /// damaged; [`Error::Server`] for another length or digest; errors of `read`.
    pub(crate) fn unpack<T>(
        &self,
        what: &str,
        limit: u64,
        too_large: impl Fn() -> Error,
        wrong: impl Fn(String) -> Error,
        progress: &dyn Progress,
        read: impl FnOnce(&mut dyn Read) -> Result<T>,
    ) -> Result<T> {
        // Hardly anything is larger when it is compressed.
        if self.size > limit {
            return Err(too_large());
        }
        let transport = self.open(what, progress)?;
        let mut reader = PinnedReader::new(self, &transport, progress)?;
        let unpacked = decompress::read_decompressed(&mut reader, limit, too_large, None, read);
        let (done, _) = unpacked.map_err(|error| blame(error, &wrong))?;
        if reader.is_whole() { Ok(done) } else { Err(wrong("it goes on behind its end".to_owned())) }
    }
}

/// Turns an error of a stream into one of the file, but for those that this host is to blame for.
fn blame(error: Error, wrong: impl Fn(String) -> Error) -> Error {
    use io::ErrorKind::{InvalidData, Other, UnexpectedEof};
    match error {
        Error::Io(error) if matches!(error.kind(), InvalidData | Other | UnexpectedEof) => {
            wrong(format!("it cannot be unpacked: {error}"))
        }
        other => other,
    }
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.location.fmt(f)
    }
}

/// An opened source of a [`Pinned`] file.
pub(crate) enum Transport<'a> {
    Web(Http, &'a Url),
    File(fs::File),
}

/// Reads a [`Pinned`] file, and fails at its end unless length and digest are as expected.
pub(crate) struct PinnedReader<'a> {
    pinned: &'a Pinned,
    from: ByteSource<'a>,
    what: String,
    progress: &'a dyn Progress,
    hasher: Hasher,
    /// Bytes that were received and hashed.
    received: u64,
    waiting: Bytes,
    is_whole: bool,
}

enum ByteSource<'a> {
    Web {
        http: &'a Http,
        url: &'a Url,
        download: Box<Download<'a>>,
        /// Bytes that are received once more, since the server cannot resume.
        again: u64,
    },
    File(&'a fs::File),
}

impl<'a> PinnedReader<'a> {
    pub(crate) fn new(
        pinned: &'a Pinned,
        transport: &'a Transport<'a>,
        progress: &'a dyn Progress,
    ) -> Result<PinnedReader<'a>> {
        let what = format!("cannot get {pinned}");
        let from = match transport {
            Transport::Web(http, url) => {
                let download = Download::new(&what, pinned.size, 0, UNREACHABLE);
                ByteSource::Web { http, url, download: Box::new(download), again: 0 }
            }
            Transport::File(file) => {
                check_size(pinned, &what, file.metadata()?.len())?;
                ByteSource::File(file)
            }
        };
        let (hasher, waiting) = (Hasher::default(), Bytes::new());
        Ok(PinnedReader { pinned, from, what, progress, hasher, received: 0, waiting, is_whole: false })
    }

    /// Whether the end was reached, and length and digest were right.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The next bytes; `None` at the end.
    fn next(&mut self) -> Result<Option<Bytes>> {
        match &mut self.from {
            ByteSource::File(file) => {
                let mut piece = Vec::with_capacity(PIECE);
                let left = self.pinned.size - self.received;
                file.take(left.min(PIECE as u64)).read_to_end(&mut piece)?;
                Ok(Some(Bytes::from(piece)).filter(|piece| !piece.is_empty()))
            }
            ByteSource::Web { http, url, download, again } => loop {
                let ask = |headers: &HeaderMap| {
                    let response = fetch(http, &self.what, url, headers)?;
                    let length = response.header("content-length").next().and_then(|length| length.parse().ok());
                    if let (200, Some(length)) = (response.status().as_u16(), length) {
                        check_size(self.pinned, &self.what, length)?;
                    }
                    Ok(response)
                };
                match download.next(ask)? {
                    DownloadEvent::Bytes(mut bytes) => {
                        let known = usize::try_from(*again).unwrap_or(usize::MAX).min(bytes.len());
                        *again -= known as u64;
                        let new = bytes.split_off(known);
                        if !new.is_empty() {
                            return Ok(Some(new));
                        }
                    }
                    DownloadEvent::Restart => *again = self.received,
                    DownloadEvent::TooMuch => {
                        return Err(wrong(
                            &self.what,
                            format!("more came than the {} bytes that it should have", self.pinned.size),
                        ));
                    }
                    DownloadEvent::End => return Ok(None),
                }
            },
        }
    }

    fn finish(&mut self) -> Result<()> {
        if self.received != self.pinned.size {
            let reason = format!("it ended after {} of {} bytes", self.received, self.pinned.size);
            return Err(wrong(&self.what, reason));
        }
        let is = std::mem::take(&mut self.hasher).finish();
        if is != self.pinned.sha256 {
            return Err(wrong(&self.what, format!("its content is {is}, and should be {}", self.pinned.sha256)));
        }
        self.is_whole = true;
        Ok(())
    }
}

impl Read for PinnedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.waiting.is_empty() && !self.is_whole {
            match self.next().map_err(io::Error::other)? {
                Some(bytes) => {
                    self.hasher.update(&bytes);
                    self.received += bytes.len() as u64;
                    self.progress.advance(self.received, self.pinned.size);
                    self.waiting = bytes;
                }
                None => self.finish().map_err(io::Error::other)?,
            }
        }
        let length = buffer.len().min(self.waiting.len());
        buffer[..length].copy_from_slice(&self.waiting.split_to(length));
        Ok(length)
    }
}

fn check_size(pinned: &Pinned, what: &str, is: u64) -> Result<()> {
    if is == pinned.size {
        Ok(())
    } else {
        Err(wrong(what, format!("it has {is} bytes, and should have {}", pinned.size)))
    }
}

fn wrong(what: &str, reason: String) -> Error {
    Error::Server { what: what.to_owned(), reason, hint: Some(WRONG.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::http::server::{Server, response};
    use crate::progress::Silent;

    #[test]
    fn oversized_file_is_not_downloaded() {
        let server = Server::new(|_, _| response("200 OK", "", b""));
        let location = format!("http://{}/x", server.address).parse().unwrap();
        for size in [u64::MAX, (1 << 20) + 1] {
            let pinned = Pinned { location: Location::clone(&location), sha256: Digest::of(b""), size };
            let wrong = |reason| Error::Image { what: String::new(), reason };
            let too_large = || Error::ImageTooLarge { limit: 1 << 20 };
            let unpacked = pinned.unpack("it", 1 << 20, too_large, wrong, &Silent, |_| Ok(()));
            assert!(matches!(unpacked, Err(Error::ImageTooLarge { .. })));
        }
        assert!(server.requests().is_empty());
    }
}
