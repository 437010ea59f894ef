//! Tar archives from entries, and entries from tar archives.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use banger_agent::copy::{CopyError, Entries, Entry, EntryKind, MAX_ENTRIES, MAX_PIECE, write_piece};
use banger_agent::protocol::WireBytes;
use banger_agent::protocol::copy::{Copied, Source};
use banger_agent::rooted_dir::{MAX_PATH, is_plain, split};
use banger_image::archive::{Reader, Type};
use banger_image::decompressed;
use tar::{Builder, EntryType, Header};

use super::rules::MODE;

/// Writes what `input` brings as an archive, under the name of the copied thing.
pub(super) fn write(source: &Source, input: &mut dyn Read, out: &mut dyn Write) -> Result<Copied, CopyError> {
    let root = &source.name.0[..];
    if !source.contents && (!is_plain(root) || root.contains(&b'/')) {
        let why = "what is copied has no name of its own: give its path, or a path that ends with `/.`";
        return Err(CopyError::Place { path: "-".into(), why });
    }
    let mut copied = Copied::default();
    let mut builder = Builder::new(out);
    let mut entries = Entries::new(input, source.is_folder);
    while let Some(entry) = entries.entry()? {
        let path = match (source.contents, entry.path.is_empty()) {
            // The folder that is unpacked to.
            (true, true) => continue,
            (true, false) => entry.path,
            (false, true) => root.to_vec(),
            (false, false) => [root, b"/", &entry.path].concat(),
        };
        let mut header = Header::new_gnu();
        header.set_mtime(u64::try_from(entry.mtime_ns / 1_000_000_000).unwrap_or(0));
        header.set_uid(0);
        header.set_gid(0);
        let shown = WireBytes(path);
        let name = std::path::Path::new(shown.as_os_str());
        match entry.kind {
            EntryKind::Folder { mode } => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(mode & MODE);
                header.set_size(0);
                builder.append_data(&mut header, name, io::empty()).map_err(CopyError::Stream)?;
                copied.folders += 1;
            }
            EntryKind::Link { target } => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                let target = WireBytes(target);
                builder.append_link(&mut header, name, target.as_os_str()).map_err(CopyError::Stream)?;
                copied.links += 1;
            }
            EntryKind::HardLink { .. } => {
                return Err(CopyError::Malformed("a guest sends no hard links"));
            }
            EntryKind::File { mode, size } => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(mode & MODE);
                header.set_size(size);
                let mut content = Content::new(&mut entries, size);
                let appended = builder.append_data(&mut header, name, &mut content);
                if let Some(error) = content.failed.take() {
                    return Err(error);
                }
                appended.map_err(CopyError::Stream)?;
                content.drain()?;
                copied.bytes += content.bytes;
                copied.files += 1;
            }
        }
    }
    builder.into_inner().and_then(|out| out.flush()).map_err(CopyError::Stream)?;
    Ok(copied)
}

/// A file's content with its holes, as long as its header has said: filled with zeros, where it
/// changed meanwhile.
struct Content<'a, 'b> {
    entries: &'a mut Entries<'b>,
    size: u64,
    /// Where the archive is.
    at: u64,
    /// Where the piece in the buffer begins, and what is in it; none: there are no more.
    piece: Option<(u64, usize)>,
    bytes: u64,
    buffer: Box<[u8; MAX_PIECE]>,
    failed: Option<CopyError>,
}

impl<'a, 'b> Content<'a, 'b> {
    fn new(entries: &'a mut Entries<'b>, size: u64) -> Self {
        Content { entries, size, at: 0, piece: Some((0, 0)), bytes: 0, buffer: Box::new([0; MAX_PIECE]), failed: None }
    }

    fn next_piece(&mut self) -> Result<(), CopyError> {
        let piece = self.entries.piece(&mut self.buffer)?;
        self.bytes += piece.length as u64;
        self.piece = (piece.length > 0).then_some((piece.offset, piece.length));
        Ok(())
    }

    fn drain(&mut self) -> Result<(), CopyError> {
        while self.piece.is_some() {
            self.next_piece()?;
        }
        Ok(())
    }
}

impl Read for Content<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.size - self.at).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        while let Some((offset, length)) = self.piece
            && offset + length as u64 <= self.at
        {
            if let Err(error) = self.next_piece() {
                self.failed = Some(error);
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let count = match self.piece {
            Some((offset, length)) if offset <= self.at => {
                let start = (self.at - offset) as usize;
                let count = wanted.min(length - start);
                buffer[..count].copy_from_slice(&self.buffer[start..start + count]);
                count
            }
            piece => {
                let hole = piece.map_or(u64::MAX, |(offset, _)| offset - self.at);
                let count = wanted.min(usize::try_from(hole).unwrap_or(usize::MAX));
                buffer[..count].fill(0);
                count
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// How many bytes behind an archive are read: the rest of its last record, and where the checksum
/// of a compressed one is found. Writers fill up a record of 10 KiB; 512 KiB is the longest that
/// tar(1) writes.
const MAX_TRAILER: u64 = 1 << 20;

/// Reads an archive, which may be compressed, and writes its entries, the folders to each before
/// it. Devices and the like are left out. A hard link is one to what came before it in the archive,
/// and to nothing else.
pub(super) fn read(input: impl Read + Send, out: &mut dyn Write) -> Result<Copied, CopyError> {
    let mut copied = Copied::default();
    let mut stream = Counted { inner: decompressed(input).map_err(unreadable)?, bytes: 0 };
    let mut seen = Seen::default();
    Entry { path: Vec::new(), kind: EntryKind::Folder { mode: 0o755 }, mtime_ns: 0 }.write(out)?;
    let mut archive = Reader::new(&mut stream);
    while let Some(entry) =
        archive.next().map_err(|error| if seen.entries == 0 { other(error) } else { unreadable(error) })?
    {
        seen.entry()?;
        let mode = u32::from(entry.mode & 0o777);
        let mtime_ns = entry.mtime.seconds.saturating_mul(1_000_000_000).saturating_add(entry.mtime.nanoseconds.into());
        let path = plain(&entry.path)?;
        if path.is_empty() {
            continue;
        }
        let kind = match entry.kind {
            Type::Directory => EntryKind::Folder { mode },
            Type::File => EntryKind::File { mode, size: entry.size },
            Type::Symlink => {
                if entry.link.is_empty() || entry.link.len() > MAX_PATH || entry.link.contains(&0) {
                    return Err(refused(path, "the link leads nowhere"));
                }
                EntryKind::Link { target: entry.link }
            }
            Type::HardLink => {
                let target = plain(&entry.link)?;
                if !seen.files.contains(&key(&target)) {
                    return Err(refused(path, "it is a hard link to what is not in the archive before it"));
                }
                if target == path {
                    continue;
                }
                EntryKind::HardLink { target }
            }
            Type::CharacterDevice | Type::BlockDevice | Type::Fifo => {
                copied.skipped += 1;
                continue;
            }
        };
        seen.parents(&path, out)?;
        match &kind {
            EntryKind::Folder { .. } if !seen.folders.insert(key(&path)) => continue,
            EntryKind::Folder { .. } => copied.folders += 1,
            EntryKind::Link { .. } => copied.links += 1,
            EntryKind::File { .. } | EntryKind::HardLink { .. } => copied.files += 1,
        }
        if !matches!(kind, EntryKind::Folder { .. }) {
            seen.files.insert(key(&path));
        }
        let is_file = matches!(kind, EntryKind::File { .. });
        Entry { path, kind, mtime_ns }.write(out)?;
        if is_file {
            copied.bytes += content(&mut archive, entry.size, out)?;
        }
    }
    io::copy(&mut (&mut stream).take(MAX_TRAILER), &mut io::sink()).map_err(unreadable)?;
    if stream.bytes == 0 {
        return Err(unreadable(io::Error::new(io::ErrorKind::UnexpectedEof, "there is nothing in the stream")));
    }
    out.flush().map_err(CopyError::Stream)?;
    Ok(copied)
}

/// What an archive has brought, each path by its digest: that is shorter, and nobody chooses which
/// are alike.
#[derive(Default)]
struct Seen {
    entries: u64,
    folders: HashSet<[u8; 16]>,
    /// Files and links.
    files: HashSet<[u8; 16]>,
}

impl Seen {
    /// Counts an entry: a few bytes that are compressed may be very many.
    fn entry(&mut self) -> Result<(), CopyError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(unreadable(io::Error::other(format!("it has more than {MAX_ENTRIES} entries"))));
        }
        Ok(())
    }

    /// Writes the folders to `path` that were not written yet.
    fn parents(&mut self, path: &[u8], out: &mut dyn Write) -> Result<(), CopyError> {
        let parent = split(path).0;
        if parent.is_empty() || self.folders.contains(&key(parent)) {
            return Ok(());
        }
        self.parents(parent, out)?;
        self.folders.insert(key(parent));
        Entry { path: parent.to_vec(), kind: EntryKind::Folder { mode: 0o755 }, mtime_ns: 0 }.write(out)
    }
}

fn key(path: &[u8]) -> [u8; 16] {
    let digest = blake3::hash(path);
    std::array::from_fn(|byte| digest.as_bytes()[byte])
}

/// A stream, and how much of it was read.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Writes the content of the archive's current entry, which is `size` bytes long, without its
/// holes.
fn content(archive: &mut Reader<impl Read>, size: u64, out: &mut dyn Write) -> Result<u64, CopyError> {
    let mut buffer = vec![0; MAX_PIECE];
    let (mut offset, mut bytes) = (0, 0);
    loop {
        offset += archive.skip_hole();
        let read = match archive.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(unreadable)?,
        };
        if read == 0 {
            break;
        }
        write_piece(out, offset, &buffer[..read])?;
        offset += read as u64;
        bytes += read as u64;
    }
    if offset < size {
        return Err(unreadable(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle of a file")));
    }
    write_piece(out, offset, &[])?;
    Ok(bytes)
}

/// A path of an archive without what means nothing: leading slashes, as tar(1) leaves them out, and
/// dots.
fn plain(path: &[u8]) -> Result<Vec<u8>, CopyError> {
    let parts: Vec<_> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    let plain = parts.join(&b'/');
    if plain.is_empty() || is_plain(&plain) {
        Ok(plain)
    } else {
        Err(refused(path.to_vec(), "the path leads elsewhere"))
    }
}

fn refused(path: Vec<u8>, why: &'static str) -> CopyError {
    CopyError::Io { action: "unpack", path: WireBytes(path), source: io::Error::other(why) }
}

/// What no archive begins with.
fn other(error: io::Error) -> CopyError {
    let why = "it is no tar archive, neither plain nor compressed with gzip, bzip2, xz or zstd";
    unreadable(io::Error::new(error.kind(), format!("{why} ({error})")))
}

fn unreadable(source: io::Error) -> CopyError {
    CopyError::Io { action: "read", path: "the archive".into(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use banger_agent::copy::{AsSent, Opened, Target, receive, send};

    use super::*;

    /// GNU tar, fed with `input`.
    fn tar(folder: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("tar");
        command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input));
            child.wait_with_output().unwrap()
        });
        assert!(output.status.success());
        output.stdout
    }

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("src/a/b")).unwrap();
        fs::write(root.join("src/a/b/file"), vec![3; 150_000]).unwrap();
        fs::write(root.join("src").join("n".repeat(200)), "long name").unwrap();
        std::os::unix::fs::symlink("a/b/file", root.join("src/link")).unwrap();
        let sparse = fs::File::create(root.join("src/sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 300_000).unwrap();
        sparse.set_len(500_000).unwrap();
    }

    fn archived(path: &Path) -> Vec<u8> {
        let opened = Opened::new(path).unwrap();
        let source = opened.source.clone();
        let (mut wire, mut archive) = (Vec::new(), Vec::new());
        send(opened, &mut wire).unwrap();
        write(&source, &mut &wire[..], &mut archive).unwrap();
        archive
    }

    fn assert_same(one: &Path, other: &Path) {
        let output = Command::new("diff").arg("-r").arg("--no-dereference").args([one, other]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    #[test]
    fn what_is_written_tar_reads_and_what_tar_writes_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        tree(root);
        fs::create_dir(root.join("unpacked")).unwrap();
        tar(&root.join("unpacked"), &["-x"], &archived(&root.join("src")));
        assert_same(&root.join("src"), &root.join("unpacked/src"));
        assert!(tar(root, &["-t"], &archived(&root.join("src/."))).starts_with(b"link\n"));
        assert_eq!(tar(root, &["-t"], &archived(&root.join("src/link"))), b"link\n");

        for options in
            [&["-c", "src"][..], &["-c", "--format=pax", "./src"], &["-c", "-S", "src"], &["-c", "src/a/b/file"]]
        {
            let archive = tar(root, options, b"");
            let source = Source { name: WireBytes::default(), is_folder: true, contents: true };
            let into = tempfile::tempdir().unwrap();
            let mut wire = Vec::new();
            let sent = read(&archive[..], &mut wire).unwrap();
            let received = receive(Target::find(into.path(), &source).unwrap(), &mut &wire[..], &mut AsSent).unwrap();
            assert_eq!((sent.files, sent.bytes), (received.files, received.bytes));
            if options.contains(&"src/a/b/file") {
                assert_eq!(fs::read(into.path().join("src/a/b/file")).unwrap().len(), 150_000);
            } else {
                assert_same(&root.join("src"), &into.path().join("src"));
            }
        }
    }

    #[test]
    fn a_file_that_changed_while_it_was_read_has_the_length_of_its_header() {
        for pieces in [&[(0, 100)][..], &[(0, 1000), (2000, 1000)], &[]] {
            let mut wire = Vec::new();
            let kind = EntryKind::File { mode: 0o7777, size: 4000 };
            Entry { path: Vec::new(), kind, mtime_ns: 0 }.write(&mut wire).unwrap();
            for (offset, length) in pieces {
                write_piece(&mut wire, *offset, &vec![1; *length]).unwrap();
            }
            write_piece(&mut wire, 3500, &[]).unwrap();
            let source = Source { name: "f".into(), is_folder: false, contents: false };
            let mut archive = Vec::new();
            write(&source, &mut &wire[..], &mut archive).unwrap();
            let mut archive = tar::Archive::new(&archive[..]);
            let entries = archive.entries().unwrap().map(Result::unwrap);
            let entries: Vec<_> = entries.map(|entry| (entry.size(), entry.header().mode().unwrap())).collect();
            assert_eq!(entries, [(4000, 0o755)]);
        }
    }

    #[test]
    fn a_stream_that_lies_is_no_archive() {
        let head = |kind: &EntryKind, path: &str| {
            let mut wire = Vec::new();
            Entry { path: path.into(), kind: kind.clone(), mtime_ns: 0 }.write(&mut wire).unwrap();
            wire
        };
        let (folder, file) = (EntryKind::Folder { mode: 0o755 }, EntryKind::File { mode: 0o644, size: 1 });
        let mut long = Vec::new();
        write_piece(&mut long, 0, b"xx").unwrap();
        let mut hole = Vec::new();
        write_piece(&mut hole, 1 << 40, b"").unwrap();
        for (wire, is_folder) in [
            (head(&folder, ""), false),
            (head(&file, ""), true),
            (head(&folder, "x"), true),
            ([head(&folder, ""), head(&folder, "")].concat(), true),
            ([head(&file, ""), long].concat(), false),
            ([head(&file, ""), hole].concat(), false),
            (Vec::new(), true),
        ] {
            let source = Source { name: "f".into(), is_folder, contents: false };
            write(&source, &mut &wire[..], &mut Vec::new()).unwrap_err();
        }
        for name in ["", "..", "a/b"] {
            let source = Source { name: name.into(), is_folder: true, contents: false };
            write(&source, &mut &head(&folder, "")[..], &mut Vec::new()).unwrap_err();
        }
    }

    /// What an archive makes of an empty directory.
    fn unpacked(archive: &[u8]) -> Result<(tempfile::TempDir, Copied), CopyError> {
        let into = tempfile::tempdir().unwrap();
        let source = Source { name: WireBytes::default(), is_folder: true, contents: true };
        let mut wire = Vec::new();
        read(archive, &mut wire)?;
        let copied = receive(Target::find(into.path(), &source).unwrap(), &mut &wire[..], &mut AsSent)?;
        Ok((into, copied))
    }

    /// What a program makes of `input`.
    fn filter(program: &str, input: &[u8]) -> Vec<u8> {
        let mut child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input));
            child.wait_with_output().unwrap()
        });
        assert!(output.status.success(), "{program}");
        output.stdout
    }

    #[test]
    fn compressed_archives_are_unpacked_and_checked_to_their_end() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path());
        let plain = tar(folder.path(), &["-c", "src"], b"");
        for program in ["gzip", "bzip2", "xz", "zstd"] {
            let packed = filter(program, &plain);
            let (into, _) = unpacked(&packed).unwrap_or_else(|error| panic!("{program}: {error}"));
            assert_same(&folder.path().join("src"), &into.path().join("src"));
            for cut in [packed.len() / 2, packed.len() - 2] {
                assert!(unpacked(&packed[..cut]).is_err(), "{program} cut at {cut}");
            }
        }
        for nothing in [Vec::new(), filter("gzip", b"")] {
            let error = unpacked(&nothing).err().unwrap().to_string();
            assert!(error.contains("there is nothing in the stream"), "{error}");
        }
        // An archive without entries is one.
        assert_eq!(unpacked(&tar(folder.path(), &["-c", "-T", "/dev/null"], b"")).unwrap().1, Copied::default());
        let error = unpacked(&filter("gzip", b"no archive")).err().unwrap().to_string();
        assert!(error.contains("no tar archive"), "{error}");
        let error = unpacked(&plain[..plain.len() / 2]).err().unwrap().to_string();
        assert!(error.contains("in the middle of a file"), "{error}");
    }

    #[test]
    fn a_few_compressed_bytes_take_no_more_memory_than_an_archive_may() {
        // A name of 4 GiB of zeros, and a hole of as many.
        let mut header = Header::new_gnu();
        header.set_path("././@LongLink").unwrap();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(4 << 30);
        header.set_cksum();
        let bomb = [header.as_bytes(), &[0; 100_000][..]].concat();
        let error = unpacked(&filter("gzip", &bomb)).err().unwrap().to_string();
        assert!(error.contains("more than 1 MiB"), "{error}");

        let folder = tempfile::tempdir().unwrap();
        fs::File::create(folder.path().join("hole")).unwrap().set_len(4 << 30).unwrap();
        let (into, copied) = unpacked(&tar(folder.path(), &["-c", "-S", "hole"], b"")).unwrap();
        assert_eq!((copied.bytes, fs::metadata(into.path().join("hole")).unwrap().len()), (0, 4 << 30));
    }

    #[test]
    fn hard_links_are_made_within_an_archive_and_never_out_of_it() {
        use std::os::unix::fs::MetadataExt;

        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        tree(root);
        fs::hard_link(root.join("src/a/b/file"), root.join("src/a/other")).unwrap();
        fs::hard_link(root.join("src/link"), root.join("src/other-link")).unwrap();
        let (into, copied) = unpacked(&tar(root, &["-c", "src"], b"")).unwrap();
        assert_same(&root.join("src"), &into.path().join("src"));
        let inode = |path: &str| fs::symlink_metadata(into.path().join(path)).unwrap().ino();
        assert_eq!(inode("src/a/b/file"), inode("src/a/other"));
        assert_eq!(inode("src/link"), inode("src/other-link"));
        assert_eq!((copied.files, copied.links), (5, 1));
        // Again, over what is there.
        let source = Source { name: WireBytes::default(), is_folder: true, contents: true };
        let mut wire = Vec::new();
        read(&tar(root, &["-c", "src"], b"")[..], &mut wire).unwrap();
        receive(Target::find(into.path(), &source).unwrap(), &mut &wire[..], &mut AsSent).unwrap();
        assert_eq!(inode("src/a/b/file"), inode("src/a/other"));
        assert_same(&root.join("src"), &into.path().join("src"));

        for target in ["/etc/passwd", "../victim", "absent", "later", "d", "d/../../victim", ""] {
            let mut archive = Builder::new(Vec::new());
            let mut add = |name: &str, kind: EntryType, link: Option<&str>| {
                let mut header = Header::new_gnu();
                header.set_entry_type(kind);
                header.set_mode(0o755);
                header.set_size(0);
                header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
                let link = link.unwrap_or_default().as_bytes();
                header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link);
                header.set_cksum();
                archive.append(&header, io::empty()).unwrap();
            };
            add("d", EntryType::Directory, None);
            add("hard", EntryType::Link, Some(target));
            add("later", EntryType::Regular, None);
            let error = unpacked(&archive.into_inner().unwrap()).err();
            assert!(error.is_some(), "{target}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for (path, plain_path) in [("/etc/x", "etc/x"), ("./a//b/", "a/b"), (".", ""), ("a/./b", "a/b")] {
            assert_eq!(plain(path.as_bytes()).unwrap(), plain_path.as_bytes());
        }
        for path in ["../x", "a/../../x", "a/.."] {
            assert!(plain(path.as_bytes()).is_err(), "{path}");
        }
        let nothing = read(&b"this is no archive"[..], &mut Vec::new());
        assert!(nothing.unwrap_err().to_string().contains("the archive"));
    }
}
