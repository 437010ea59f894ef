//! Adds the entries of a tar stream to a file system. For trees that this host has built, or whose
//! digest a catalog has: the reader is the crate `tar`, without limits.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use crate::error::{Error, Result};
use crate::ext4::{Metadata, Special, Timestamp, Writer};

/// The prefix of extended attributes in pax headers, as GNU tar, star and libarchive write them.
const PAX_XATTR: &[u8] = b"SCHILY.xattr.";

/// Adds all entries of a tar stream.
///
/// # Errors
/// [`Error::Archive`], [`Error::FileSystem`], [`Error::Io`].
pub(crate) fn unpack(stream: &mut dyn Read, writer: &mut Writer) -> Result<()> {
    for entry in Archive::new(stream).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let inside = relative(&path).ok_or_else(|| refuse(&path, "it leads out of the tree"))?;
        add(writer, &mut entry, &inside, relative)?;
    }
    Ok(())
}

/// Adds an archive's entry at `path`; `link_target` maps what a hard link names to a path in the
/// same file system.
pub(crate) fn add<R: Read>(
    writer: &mut Writer,
    entry: &mut Entry<'_, R>,
    path: &Path,
    link_target: impl FnOnce(&Path) -> Option<PathBuf>,
) -> Result<()> {
    let refuse = |reason: &str| refuse(path, reason);
    let metadata = metadata(entry, path)?;
    let bytes = path.as_os_str().as_bytes();
    let header = entry.header();
    let device = || -> Result<(u32, u32)> {
        match (header.device_major()?, header.device_minor()?) {
            (Some(major), Some(minor)) => Ok((major, minor)),
            _ => Err(refuse("a device without numbers")),
        }
    };
    match header.entry_type() {
        EntryType::Directory => writer.directory(bytes, metadata)?,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let size = entry.size();
            if writer.file(bytes, metadata, entry)? != size {
                return Err(refuse("it is shorter than announced"));
            }
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().ok_or_else(|| refuse("a symbolic link without a target"))?;
            writer.symlink(bytes, metadata, &target)?;
        }
        EntryType::Link => {
            let target = entry.link_name()?.as_deref().and_then(link_target);
            let target = target.ok_or_else(|| refuse("a hard link to something outside the tree"))?;
            writer.hard_link(bytes, target.as_os_str().as_bytes())?;
        }
        EntryType::Char => {
            let (major, minor) = device()?;
            writer.special(bytes, metadata, Special::CharacterDevice { major, minor })?;
        }
        EntryType::Block => {
            let (major, minor) = device()?;
            writer.special(bytes, metadata, Special::BlockDevice { major, minor })?;
        }
        EntryType::Fifo => writer.special(bytes, metadata, Special::Fifo)?,
        _ => return Err(refuse("an unknown type of entry")),
    }
    Ok(())
}

/// The metadata of an entry.
fn metadata<R: Read>(entry: &mut Entry<'_, R>, path: &Path) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    let mut exact_mtime = None;
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            // The crate tar cannot parse values with a line break: refused rather than lost.
            let extension = extension.map_err(|error| refuse(path, &format!("its extended attributes: {error}")))?;
            if let Some(name) = extension.key_bytes().strip_prefix(PAX_XATTR) {
                metadata.xattrs.push((name.to_owned(), extension.value_bytes().to_owned()));
            } else if extension.key_bytes() == b"mtime" {
                let value = extension.value().ok().and_then(timestamp);
                exact_mtime = Some(value.ok_or_else(|| refuse(path, "its time is no number"))?);
            }
        }
    }
    let header = entry.header();
    let id = |id: u64| u32::try_from(id).map_err(|_| refuse(path, "an owner beyond 32 bits"));
    metadata.mode = (header.mode()? & 0o7777) as u16;
    metadata.uid = id(header.uid()?)?;
    metadata.gid = id(header.gid()?)?;
    let whole_seconds = Timestamp { seconds: i64::try_from(header.mtime()?).unwrap_or(i64::MAX), nanoseconds: 0 };
    metadata.mtime = exact_mtime.unwrap_or(whole_seconds);
    Ok(metadata)
}

/// Parses a time of a pax header: seconds since 1970, possibly with a fraction (POSIX.1-2017, pax,
/// "mtime").
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = digits.parse().ok()?;
    // What is before 1970 counts backwards from the whole seconds.
    Some(match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => Timestamp { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds },
        _ => Timestamp { seconds, nanoseconds },
    })
}

/// An archive's path as one relative to its root: `./usr/bin/` is `usr/bin`. `None` if it leads
/// out.
pub(crate) fn relative(path: &Path) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(relative)
}

fn refuse(path: &Path, reason: &str) -> Error {
    Error::Archive { entry: path.to_string_lossy().into_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod image_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_normalizes_paths_and_refuses_escapes() {
        assert_eq!(relative(Path::new("./usr//bin/")).unwrap(), Path::new("usr/bin"));
        assert_eq!(relative(Path::new("./")).unwrap(), Path::new(""));
        assert_eq!(relative(Path::new("/usr")), None);
        assert_eq!(relative(Path::new("usr/..")), None);
    }

    #[test]
    fn timestamps_parse_fractions_and_negative_seconds() {
        let time = |seconds, nanoseconds| Some(Timestamp { seconds, nanoseconds });
        assert_eq!(timestamp("12"), time(12, 0));
        assert_eq!(timestamp("12.5"), time(12, 500_000_000));
        assert_eq!(timestamp("12.1234567899"), time(12, 123_456_789));
        assert_eq!(timestamp("-12.25"), time(-13, 750_000_000));
        assert_eq!(timestamp("-0.25"), time(-1, 750_000_000));
        assert_eq!(timestamp("-12"), time(-12, 0));
        for wrong in ["", "a", "1.a", "1.-5", "1.2.3"] {
            assert_eq!(timestamp(wrong), None, "{wrong}");
        }
    }
}
