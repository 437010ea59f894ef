//! What is done for each request. No attempt is made to keep the client anywhere: it may do what
//! its user may.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, chown, fchown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, futimens, utimensat};
use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};
use nix::sys::time::TimeSpec;

use super::listing::long_name;
use super::wire::{Answer, Attributes, Fields, MAX_DATA, MAX_PACKET, Refusal, Status, kind};
use crate::guest::users::User;

/// The version of the protocol.
const VERSION: u32 = 3;
/// How many files and folders a client may have open.
const MAX_HANDLES: usize = 1000;
/// How many names of a folder are answered at a time.
const NAMES: usize = 100;
/// What is done beyond the protocol, as OpenSSH's file PROTOCOL describes it.
const EXTENSIONS: [(&str, &str); 8] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

/// What a client has open.
#[derive(Default)]
pub(super) struct Server {
    last: u32,
    open: HashMap<u32, Handle>,
}

enum Handle {
    /// `append`: what is written goes to the end, wherever the client says.
    File {
        file: File,
        append: bool,
    },
    Folder {
        path: PathBuf,
        names: Box<dyn Iterator<Item = io::Result<OsString>>>,
    },
}

type Answered = Result<Answer, Refusal>;

impl Server {
    /// The answer to a packet; none: it has no place for one.
    pub(super) fn answer(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let (kind, rest) = packet.split_first()?;
        let mut fields = Fields(rest);
        if *kind == kind::INIT {
            let mut answer = Answer::new(kind::VERSION, VERSION);
            for (name, version) in EXTENSIONS {
                answer.bytes(name.as_bytes());
                answer.bytes(version.as_bytes());
            }
            return Some(answer.finish());
        }
        let id = fields.number().ok()?;
        Some(self.done(*kind, id, &mut fields).unwrap_or_else(|refusal| Answer::status(id, &refusal)).finish())
    }

    fn done(&mut self, kind: u8, id: u32, fields: &mut Fields<'_>) -> Answered {
        match kind {
            kind::OPEN => self.open(id, path(fields)?, fields.number()?, fields.attributes()?),
            kind::CLOSE => {
                let handle = fields.bytes()?;
                self.number(handle).and_then(|number| self.open.remove(&number)).ok_or(Status::Failure)?;
                Ok(done(id))
            }
            kind::READ => self.read(id, fields.bytes()?, fields.long()?, fields.number()?),
            kind::WRITE => self.write(id, fields.bytes()?, fields.long()?, fields.bytes()?),
            kind::LSTAT => Ok(attributes(id, &fs::symlink_metadata(path(fields)?)?)),
            kind::STAT => Ok(attributes(id, &fs::metadata(path(fields)?)?)),
            kind::FSTAT => match self.handle(fields.bytes()?)? {
                Handle::File { file, .. } => Ok(attributes(id, &file.metadata()?)),
                Handle::Folder { path, .. } => Ok(attributes(id, &fs::metadata(path)?)),
            },
            kind::SETSTAT => set(path(fields)?, fields.attributes()?).map(|()| done(id)),
            kind::FSETSTAT => match self.handle(fields.bytes()?)? {
                Handle::File { file, .. } => set_open(file, fields.attributes()?).map(|()| done(id)),
                Handle::Folder { path, .. } => set(path, fields.attributes()?).map(|()| done(id)),
            },
            kind::OPENDIR => {
                let path = path(fields)?.to_owned();
                let entries = fs::read_dir(&path)?;
                let own = [".", ".."].map(|name| Ok(OsString::from(name)));
                let names = own.into_iter().chain(entries.map(|entry| entry.map(|entry| entry.file_name())));
                self.opened(id, Handle::Folder { path, names: Box::new(names) })
            }
            kind::READDIR => self.list(id, fields.bytes()?),
            kind::REMOVE => removed(path(fields)?).map(|()| done(id)),
            kind::MKDIR => {
                let (path, attributes) = (path(fields)?, fields.attributes()?);
                fs::DirBuilder::new().mode(attributes.permissions.unwrap_or(0o777) & 0o7777).create(path)?;
                Ok(done(id))
            }
            kind::RMDIR => Ok(fs::remove_dir(path(fields)?).map(|()| done(id))?),
            kind::REALPATH => {
                let path = path(fields)?;
                let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
                Ok(name(id, real(path)?.as_os_str()))
            }
            kind::RENAME => {
                let (from, to) = (path(fields)?, path(fields)?);
                renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)?;
                Ok(done(id))
            }
            kind::READLINK => Ok(name(id, fs::read_link(path(fields)?)?.as_os_str())),
            kind::SYMLINK => {
                // The draft has them the other way round: clients do as OpenSSH does.
                let (target, link) = (path(fields)?, path(fields)?);
                Ok(symlink(target, link).map(|()| done(id))?)
            }
            kind::EXTENDED => self.extended(id, fields),
            _ => Err(Status::Unsupported.into()),
        }
    }

    fn extended(&mut self, id: u32, fields: &mut Fields<'_>) -> Answered {
        match fields.bytes()? {
            b"posix-rename@openssh.com" => {
                let (from, to) = (path(fields)?, path(fields)?);
                Ok(fs::rename(from, to).map(|()| done(id))?)
            }
            b"statvfs@openssh.com" => Ok(file_system(id, &statvfs(path(fields)?)?)),
            b"fstatvfs@openssh.com" => match self.handle(fields.bytes()?)? {
                Handle::File { file, .. } => Ok(file_system(id, &fstatvfs(file.as_fd())?)),
                Handle::Folder { path, .. } => Ok(file_system(id, &statvfs(path.as_path())?)),
            },
            b"hardlink@openssh.com" => {
                let (from, to) = (path(fields)?, path(fields)?);
                Ok(fs::hard_link(from, to).map(|()| done(id))?)
            }
            b"fsync@openssh.com" => match self.handle(fields.bytes()?)? {
                Handle::File { file, .. } => Ok(file.sync_all().map(|()| done(id))?),
                Handle::Folder { .. } => Err(Status::Failure.into()),
            },
            b"lsetstat@openssh.com" => set_link(path(fields)?, fields.attributes()?).map(|()| done(id)),
            b"limits@openssh.com" => {
                let mut answer = Answer::new(kind::EXTENDED_REPLY, id);
                [MAX_PACKET, MAX_DATA, MAX_DATA, MAX_HANDLES].iter().for_each(|limit| answer.long(*limit as u64));
                Ok(answer)
            }
            b"expand-path@openssh.com" => Ok(name(id, real(&expanded(fields.bytes()?)?)?.as_os_str())),
            _ => Err(Status::Unsupported.into()),
        }
    }

    fn open(&mut self, id: u32, path: &Path, flags: u32, attributes: Attributes) -> Answered {
        let is_set = |flag: u32| flags & flag != 0;
        let (read, append) = (is_set(1), is_set(4));
        let write = is_set(2) || append;
        let mut options = OpenOptions::new();
        options.read(read).write(write && !append).append(append).truncate(is_set(0x10) && write && !append);
        options.create(is_set(8) && write).create_new(is_set(8) && is_set(0x20) && write);
        options.mode(attributes.permissions.unwrap_or(0o666) & 0o7777);
        let file = options.open(path)?;
        self.opened(id, Handle::File { file, append })
    }

    fn opened(&mut self, id: u32, handle: Handle) -> Answered {
        if self.open.len() >= MAX_HANDLES {
            let message = "too many files are open".to_owned();
            return Err(Refusal { status: Status::Failure, message });
        }
        self.last = self.last.wrapping_add(1);
        self.open.insert(self.last, handle);
        let mut answer = Answer::new(kind::HANDLE, id);
        answer.bytes(&self.last.to_be_bytes());
        Ok(answer)
    }

    fn number(&self, handle: &[u8]) -> Option<u32> {
        Some(u32::from_be_bytes(handle.try_into().ok()?))
    }

    fn handle(&mut self, handle: &[u8]) -> Result<&mut Handle, Refusal> {
        let number = self.number(handle).ok_or(Status::Failure)?;
        self.open.get_mut(&number).ok_or_else(|| Status::Failure.into())
    }

    fn read(&mut self, id: u32, handle: &[u8], offset: u64, length: u32) -> Answered {
        let Handle::File { file, .. } = self.handle(handle)? else { return Err(Status::Failure.into()) };
        let mut answer = Answer::new(kind::DATA, id);
        let start = answer.0.len() + 4;
        answer.0.resize(start + (length as usize).min(MAX_DATA), 0);
        let count = file.read_at(&mut answer.0[start..], offset)?;
        if count == 0 && length > 0 {
            return Err(Status::Eof.into());
        }
        answer.0.truncate(start + count);
        answer.0[start - 4..start].copy_from_slice(&(count as u32).to_be_bytes());
        Ok(answer)
    }

    fn write(&mut self, id: u32, handle: &[u8], offset: u64, bytes: &[u8]) -> Answered {
        match self.handle(handle)? {
            Handle::File { file, append: true } => io::Write::write_all(file, bytes)?,
            Handle::File { file, append: false } => file.write_all_at(bytes, offset)?,
            Handle::Folder { .. } => return Err(Status::Failure.into()),
        }
        Ok(done(id))
    }

    fn list(&mut self, id: u32, handle: &[u8]) -> Answered {
        let Handle::Folder { path, names } = self.handle(handle)? else { return Err(Status::Failure.into()) };
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs() as i64);
        let mut answer = Answer::new(kind::NAME, id);
        let count_at = answer.0.len();
        answer.number(0);
        let mut count: u32 = 0;
        for entry in names.by_ref() {
            let entry = entry?;
            // One that has gone since is none any more.
            let Ok(metadata) = fs::symlink_metadata(path.join(&entry)) else { continue };
            answer.bytes(entry.as_bytes());
            answer.bytes(&long_name(entry.as_bytes(), &metadata, now));
            answer.attributes(&metadata);
            count += 1;
            if count as usize == NAMES {
                break;
            }
        }
        if count == 0 {
            return Err(Status::Eof.into());
        }
        answer.0[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
        Ok(answer)
    }
}

fn path<'a>(fields: &mut Fields<'a>) -> Result<&'a Path, Refusal> {
    Ok(Path::new(OsStr::from_bytes(fields.bytes()?)))
}

fn done(id: u32) -> Answer {
    Answer::status(id, &Status::Ok.into())
}

fn attributes(id: u32, metadata: &Metadata) -> Answer {
    let mut answer = Answer::new(kind::ATTRS, id);
    answer.attributes(metadata);
    answer
}

/// A path alone, which is a list of one without attributes.
fn name(id: u32, path: &OsStr) -> Answer {
    let mut answer = Answer::new(kind::NAME, id);
    answer.number(1);
    answer.bytes(path.as_bytes());
    answer.bytes(path.as_bytes());
    answer.number(0);
    answer
}

fn file_system(id: u32, found: &Statvfs) -> Answer {
    let mut answer = Answer::new(kind::EXTENDED_REPLY, id);
    // Of the kernel's flags the protocol knows ST_RDONLY and ST_NOSUID, by the same numbers.
    let flags = found.flags().bits() & 3;
    let numbers = [
        found.block_size(),
        found.fragment_size(),
        found.blocks(),
        found.blocks_free(),
        found.blocks_available(),
        found.files(),
        found.files_free(),
        found.files_available(),
        found.filesystem_id(),
        flags,
        found.name_max(),
    ];
    numbers.iter().for_each(|number| answer.long(*number));
    answer
}

/// Removes what is no folder.
fn removed(path: &Path) -> Result<(), Refusal> {
    Ok(fs::remove_file(path)?)
}

/// The absolute path without links, of which the last name need not be there.
fn real(path: &Path) -> Result<PathBuf, Refusal> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let missing = || Refusal::from(error);
            let Some(name) = path.file_name() else { return Err(missing()) };
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok(folder.canonicalize().map_err(|_| missing())?.join(name))
        }
        real => Ok(real?),
    }
}

/// `~` and `~user` at the beginning stand for a home.
fn expanded(path: &[u8]) -> Result<PathBuf, Refusal> {
    let Some(rest) = path.strip_prefix(b"~") else { return Ok(OsStr::from_bytes(path).into()) };
    let (user, rest) = match rest.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&rest[..slash], &rest[slash + 1..]),
        None => (rest, &[][..]),
    };
    let name = match std::str::from_utf8(user).map_err(|_| Status::NoSuchFile)? {
        "" => nix::unistd::geteuid().to_string(),
        name => name.to_owned(),
    };
    let missing =
        |failure: crate::protocol::AgentFailure| Refusal { status: Status::NoSuchFile, message: failure.message };
    Ok(User::find(Some(&name)).map_err(missing)?.home.join(OsString::from_vec(rest.to_vec())))
}

fn mode(permissions: u32) -> Permissions {
    Permissions::from_mode(permissions & 0o7777)
}

fn time_specs((access, modification): (u32, u32)) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(access.into(), 0), TimeSpec::new(modification.into(), 0))
}

fn set(path: &Path, wanted: Attributes) -> Result<(), Refusal> {
    if let Some(size) = wanted.size {
        OpenOptions::new().write(true).open(path)?.set_len(size)?;
    }
    if let Some(permissions) = wanted.permissions {
        fs::set_permissions(path, mode(permissions))?;
    }
    if let Some(times) = wanted.times {
        let (access, modification) = time_specs(times);
        utimensat(AT_FDCWD, path, &access, &modification, UtimensatFlags::FollowSymlink)?;
    }
    if let Some((user, group)) = wanted.owner {
        chown(path, Some(user), Some(group))?;
    }
    Ok(())
}

fn set_open(file: &File, wanted: Attributes) -> Result<(), Refusal> {
    if let Some(size) = wanted.size {
        file.set_len(size)?;
    }
    if let Some(permissions) = wanted.permissions {
        file.set_permissions(mode(permissions))?;
    }
    if let Some(times) = wanted.times {
        let (access, modification) = time_specs(times);
        futimens(file, &access, &modification)?;
    }
    if let Some((user, group)) = wanted.owner {
        fchown(file, Some(user), Some(group))?;
    }
    Ok(())
}

/// Of a link itself, where `path` is one. A link has no size to be set.
fn set_link(path: &Path, wanted: Attributes) -> Result<(), Refusal> {
    if wanted.size.is_some() {
        return Err(Status::BadMessage.into());
    }
    if let Some(permissions) = wanted.permissions {
        fchmodat(AT_FDCWD, path, Mode::from_bits_truncate(permissions & 0o7777), FchmodatFlags::NoFollowSymlink)?;
    }
    if let Some(times) = wanted.times {
        let (access, modification) = time_specs(times);
        utimensat(AT_FDCWD, path, &access, &modification, UtimensatFlags::NoFollowSymlink)?;
    }
    if let Some((user, group)) = wanted.owner {
        lchown(path, Some(user), Some(group))?;
    }
    Ok(())
}
