//! A bundle's bytes as they come: counted, hashed, and gone on with where they were cut.

use std::io::{self, Read};

use bytes::Bytes;
use fs_err as fs;
use reqwest::Url;
use reqwest::header::HeaderMap;

use super::Bundle;
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::http::{Download, Http, Part, UNREACHABLE, fetch, is_loopback};
use crate::location::Place;
use crate::progress::Progress;

/// Bytes that are read of a file at a time.
const PIECE: usize = 256 << 10;
const WRONG: &str = "the catalog means another file, or it was changed on its way";

/// How a bundle comes.
pub(super) enum Transport<'a> {
    Web(Http, &'a Url),
    File(fs::File),
}

impl<'a> Transport<'a> {
    pub(super) fn open(bundle: &'a Bundle) -> Result<Transport<'a>> {
        match bundle.location.place() {
            Place::Web(url) => Ok(Transport::Web(Http::new(is_loopback(url))?, url)),
            Place::File(path) => {
                // Opening what is no file, such as a FIFO, may take forever.
                if !fs::metadata(path)?.is_file() {
                    return Err(bundle.wrong("it is no file"));
                }
                Ok(Transport::File(fs::File::open(path)?))
            }
        }
    }

    pub(super) fn phase(&self) -> &'static str {
        match self {
            Transport::Web(..) => "downloading and unpacking the bundle",
            Transport::File(_) => "unpacking the bundle",
        }
    }
}

/// See the module. At its end it is what the catalog says, or reading fails.
pub(super) struct Packed<'a> {
    bundle: &'a Bundle,
    from: Feed<'a>,
    what: String,
    progress: &'a dyn Progress,
    hasher: Hasher,
    /// How much has come and was handed on.
    received: u64,
    waiting: Bytes,
    is_whole: bool,
}

enum Feed<'a> {
    Web {
        http: &'a Http,
        url: &'a Url,
        download: Box<Download<'a>>,
        /// How much comes again, since the server does not know ranges.
        again: u64,
    },
    File(&'a fs::File),
}

impl<'a> Packed<'a> {
    pub(super) fn new(
        bundle: &'a Bundle,
        transport: &'a Transport<'a>,
        progress: &'a dyn Progress,
    ) -> Result<Packed<'a>> {
        let what = format!("cannot get the {bundle}");
        let from = match transport {
            Transport::Web(http, url) => {
                let download = Download::new(&what, bundle.size, 0, UNREACHABLE);
                Feed::Web { http, url, download: Box::new(download), again: 0 }
            }
            Transport::File(file) => {
                check_size(bundle, &what, file.metadata()?.len())?;
                Feed::File(file)
            }
        };
        let (hasher, waiting) = (Hasher::default(), Bytes::new());
        Ok(Packed { bundle, from, what, progress, hasher, received: 0, waiting, is_whole: false })
    }

    /// Whether its end was seen.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The next bytes; none at the end.
    fn next(&mut self) -> Result<Option<Bytes>> {
        match &mut self.from {
            Feed::File(file) => {
                let mut piece = Vec::with_capacity(PIECE);
                let left = self.bundle.size - self.received;
                file.take(left.min(PIECE as u64)).read_to_end(&mut piece)?;
                Ok(Some(Bytes::from(piece)).filter(|piece| !piece.is_empty()))
            }
            Feed::Web { http, url, download, again } => loop {
                let ask = |headers: &HeaderMap| {
                    let response = fetch(http, &self.what, url, headers)?;
                    let length = response.header("content-length").next().and_then(|length| length.parse().ok());
                    if let (200, Some(length)) = (response.status().as_u16(), length) {
                        check_size(self.bundle, &self.what, length)?;
                    }
                    Ok(response)
                };
                match download.next(ask)? {
                    Part::Bytes(mut bytes) => {
                        let known = usize::try_from(*again).unwrap_or(usize::MAX).min(bytes.len());
                        *again -= known as u64;
                        let new = bytes.split_off(known);
                        if !new.is_empty() {
                            return Ok(Some(new));
                        }
                    }
                    Part::Restart => *again = self.received,
                    Part::TooMuch => {
                        return Err(wrong(
                            &self.what,
                            format!("more came than the {} bytes that it should have", self.bundle.size),
                        ));
                    }
                    Part::End => return Ok(None),
                }
            },
        }
    }

    fn finish(&mut self) -> Result<()> {
        if self.received != self.bundle.size {
            let reason = format!("it ended after {} of {} bytes", self.received, self.bundle.size);
            return Err(wrong(&self.what, reason));
        }
        let is = std::mem::take(&mut self.hasher).finish();
        if is != self.bundle.sha256 {
            return Err(wrong(&self.what, format!("its content is {is}, and should be {}", self.bundle.sha256)));
        }
        self.is_whole = true;
        Ok(())
    }
}

impl Read for Packed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.waiting.is_empty() && !self.is_whole {
            match self.next().map_err(io::Error::other)? {
                Some(bytes) => {
                    self.hasher.update(&bytes);
                    self.received += bytes.len() as u64;
                    self.progress.advance(self.received, self.bundle.size);
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

fn check_size(bundle: &Bundle, what: &str, is: u64) -> Result<()> {
    if is == bundle.size {
        Ok(())
    } else {
        Err(wrong(what, format!("it has {is} bytes, and should have {}", bundle.size)))
    }
}

fn wrong(what: &str, reason: String) -> Error {
    Error::Server { what: what.to_owned(), reason, hint: Some(WRONG.to_owned()) }
}
