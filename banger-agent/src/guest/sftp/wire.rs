//! Packets of the SSH File Transfer Protocol, version 3: draft-ietf-secsh-filexfer-02.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;

/// The most bytes of a packet, as with OpenSSH's server.
pub(super) const MAX_PACKET: usize = 256 << 10;
/// The most bytes that one packet reads or writes of a file.
pub(super) const MAX_DATA: usize = MAX_PACKET - 1024;

/// Kinds of packets.
pub(super) mod kind {
    pub(in super::super) const INIT: u8 = 1;
    pub(in super::super) const VERSION: u8 = 2;
    pub(in super::super) const OPEN: u8 = 3;
    pub(in super::super) const CLOSE: u8 = 4;
    pub(in super::super) const READ: u8 = 5;
    pub(in super::super) const WRITE: u8 = 6;
    pub(in super::super) const LSTAT: u8 = 7;
    pub(in super::super) const FSTAT: u8 = 8;
    pub(in super::super) const SETSTAT: u8 = 9;
    pub(in super::super) const FSETSTAT: u8 = 10;
    pub(in super::super) const OPENDIR: u8 = 11;
    pub(in super::super) const READDIR: u8 = 12;
    pub(in super::super) const REMOVE: u8 = 13;
    pub(in super::super) const MKDIR: u8 = 14;
    pub(in super::super) const RMDIR: u8 = 15;
    pub(in super::super) const REALPATH: u8 = 16;
    pub(in super::super) const STAT: u8 = 17;
    pub(in super::super) const RENAME: u8 = 18;
    pub(in super::super) const READLINK: u8 = 19;
    pub(in super::super) const SYMLINK: u8 = 20;
    pub(in super::super) const STATUS: u8 = 101;
    pub(in super::super) const HANDLE: u8 = 102;
    pub(in super::super) const DATA: u8 = 103;
    pub(in super::super) const NAME: u8 = 104;
    pub(in super::super) const ATTRS: u8 = 105;
    pub(in super::super) const EXTENDED: u8 = 200;
    pub(in super::super) const EXTENDED_REPLY: u8 = 201;
}

/// What `SSH_FXP_STATUS` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

/// Why a request was not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) message: String,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let status = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Status::NoSuchFile,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Status::PermissionDenied,
            _ => Status::Failure,
        };
        Refusal { status, message: error.to_string() }
    }
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let message = match status {
            Status::Ok => "done",
            Status::Eof => "there is no more",
            Status::BadMessage => "the request is not understood",
            Status::Unsupported => "this server does not do that",
            _ => "that is not possible",
        };
        Refusal { status, message: message.to_owned() }
    }
}

/// The rest of a request.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Status::BadMessage)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn number(&mut self) -> Result<u32, Refusal> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    pub(super) fn long(&mut self) -> Result<u64, Refusal> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Refusal> {
        let length = self.number()? as usize;
        self.take(length)
    }

    pub(super) fn attributes(&mut self) -> Result<Attributes, Refusal> {
        let flags = self.number()?;
        let mut attributes = Attributes::default();
        if flags & SIZE != 0 {
            attributes.size = Some(self.long()?);
        }
        if flags & OWNER != 0 {
            attributes.owner = Some((self.number()?, self.number()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.permissions = Some(self.number()?);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((self.number()?, self.number()?));
        }
        Ok(attributes)
    }
}

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;

/// What a client wants a file to be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// User and group.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) permissions: Option<u32>,
    /// Of access and modification, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

/// An answer in the making, with room for its length.
pub(super) struct Answer(pub(super) Vec<u8>);

impl Answer {
    pub(super) fn new(kind: u8, id: u32) -> Answer {
        let mut answer = Answer(vec![0, 0, 0, 0, kind]);
        answer.number(id);
        answer
    }

    pub(super) fn status(id: u32, refusal: &Refusal) -> Answer {
        let mut answer = Answer::new(kind::STATUS, id);
        answer.number(refusal.status as u32);
        answer.bytes(refusal.message.as_bytes());
        // A language, as RFC 3066 writes it.
        answer.bytes(b"en");
        answer
    }

    pub(super) fn number(&mut self, number: u32) {
        self.0.extend(number.to_be_bytes());
    }

    pub(super) fn long(&mut self, number: u64) {
        self.0.extend(number.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u32);
        self.0.extend(bytes);
    }

    pub(super) fn attributes(&mut self, metadata: &Metadata) {
        self.number(SIZE | OWNER | PERMISSIONS | TIMES);
        self.long(metadata.len());
        self.number(metadata.uid());
        self.number(metadata.gid());
        self.number(metadata.mode());
        self.number(metadata.atime() as u32);
        self.number(metadata.mtime() as u32);
    }

    /// Its bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - 4) as u32;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}
