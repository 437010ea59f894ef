//! The guest's files by the SSH File Transfer Protocol: a program of its own, run as the user whose
//! files it serves.
//!
//! It is the agent's and not a crate's: names are any bytes here, and what cannot be parsed is
//! answered as what it is.

#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing;
mod listing;
mod server;
mod wire;

use std::env;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;

use self::server::Server;
use self::wire::MAX_PACKET;

/// How the agent's program is called to be this one.
pub const NAME: &str = "@banger-sftp";
/// What is read ahead, in bytes: requests are short, but for those that write.
const BUFFER: usize = 64 << 10;

/// Whether this process is one.
pub fn is_wanted() -> bool {
    env::args_os().next().is_some_and(|name| name == NAME)
}

/// Serves standard input and output until the client has gone. The working folder is what relative
/// paths start from.
///
/// # Errors
/// If the streams fail, or bring what can be no packet.
pub fn serve() -> io::Result<()> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    serve_on(&mut BufReader::with_capacity(BUFFER, input), &output)
}

fn serve_on(input: &mut impl Read, mut output: impl Write) -> io::Result<()> {
    let mut server = Server::default();
    let mut packet = Vec::new();
    loop {
        let mut length = [0; 4];
        match input.read_exact(&mut length) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let length = u32::from_be_bytes(length) as usize;
        if !(1..=MAX_PACKET).contains(&length) {
            return Err(io::Error::other(format!("a packet of {length} bytes")));
        }
        packet.resize(length, 0);
        input.read_exact(&mut packet)?;
        match server.answer(&packet) {
            Some(answer) => output.write_all(&answer)?,
            None => return Err(io::Error::other("a packet without the number of its request")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::wire::{Answer, Fields, Status, kind};
    use super::*;

    /// A client of a server in this process.
    struct Client {
        server: Server,
        last: u32,
    }

    /// The number of an answer's status, if that is what it is.
    fn status(answer: &[u8]) -> Option<u32> {
        (answer[4] == kind::STATUS).then(|| u32::from_be_bytes(answer[9..13].try_into().unwrap()))
    }

    impl Client {
        fn new() -> Client {
            let mut server = Server::default();
            let answer = server.answer(&[kind::INIT, 0, 0, 0, 3]).unwrap();
            assert_eq!(answer[4..9], [kind::VERSION, 0, 0, 0, 3]);
            Client { server, last: 0 }
        }

        fn ask(&mut self, kind: u8, fill: impl FnOnce(&mut Answer)) -> Vec<u8> {
            self.last += 1;
            let mut request = Answer::new(kind, self.last);
            fill(&mut request);
            let answer = self.server.answer(&request.finish()[4..]).unwrap();
            assert_eq!(answer[..4], (answer.len() as u32 - 4).to_be_bytes());
            assert_eq!(answer[5..9], self.last.to_be_bytes());
            answer
        }

        fn with_path(&mut self, kind: u8, path: &Path) -> Vec<u8> {
            self.ask(kind, |request| request.bytes(path.as_os_str().as_bytes()))
        }

        fn open(&mut self, path: &Path, flags: u32) -> Vec<u8> {
            self.ask(kind::OPEN, |request| {
                request.bytes(path.as_os_str().as_bytes());
                request.number(flags);
                request.number(0);
            })
        }

        fn handle(&mut self, path: &Path, flags: u32) -> Vec<u8> {
            let answer = self.open(path, flags);
            assert_eq!(answer[4], kind::HANDLE);
            Fields(&answer[9..]).bytes().unwrap().to_vec()
        }
    }

    const READ: u32 = 1;
    const WRITE: u32 = 2;
    const CREATE: u32 = 8;
    const EXCLUSIVE: u32 = 0x20;

    #[test]
    fn file_is_written_and_read_at_any_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(std::ffi::OsStr::from_bytes(b"not \xff text"));
        let mut client = Client::new();
        let handle = client.handle(&path, READ | WRITE | CREATE);
        for (offset, bytes) in [(3_u64, "def"), (0, "abc")] {
            let written = client.ask(kind::WRITE, |request| {
                request.bytes(&handle);
                request.long(offset);
                request.bytes(bytes.as_bytes());
            });
            assert_eq!(status(&written), Some(Status::Ok as u32));
        }
        let read = |client: &mut Client, offset: u64| {
            client.ask(kind::READ, |request| {
                request.bytes(&handle);
                request.long(offset);
                request.number(u32::MAX);
            })
        };
        assert_eq!(read(&mut client, 2)[9..], *b"\0\0\0\x04cdef");
        assert_eq!(status(&read(&mut client, 6)), Some(Status::Eof as u32));
        let closed = |client: &mut Client| status(&client.ask(kind::CLOSE, |request| request.bytes(&handle)));
        assert_eq!(closed(&mut client), Some(Status::Ok as u32));
        assert_eq!(closed(&mut client), Some(Status::Failure as u32));
        assert_eq!(fs::read(&path).unwrap(), b"abcdef");
        assert_eq!(status(&client.open(&path, WRITE | CREATE | EXCLUSIVE)), Some(Status::Failure as u32));
        assert_eq!(status(&client.open(&folder.path().join("no"), READ)), Some(Status::NoSuchFile as u32));
        assert_eq!(status(&client.open(&path, 0)), Some(Status::Failure as u32));
    }

    #[test]
    fn directory_listing_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..250 {
            fs::write(folder.path().join(number.to_string()), "x").unwrap();
        }
        symlink("nowhere", folder.path().join("link")).unwrap();
        let mut client = Client::new();
        let opened = client.with_path(kind::OPENDIR, folder.path());
        let handle = Fields(&opened[9..]).bytes().unwrap().to_vec();
        let mut names = Vec::new();
        loop {
            let answer = client.ask(kind::READDIR, |request| request.bytes(&handle));
            if answer[4] == kind::STATUS {
                assert_eq!(status(&answer), Some(Status::Eof as u32));
                break;
            }
            let mut fields = Fields(&answer[9..]);
            for _ in 0..fields.number().unwrap() {
                let name = fields.bytes().unwrap().to_vec();
                assert!(fields.bytes().unwrap().ends_with(&name));
                let is_link = fields.attributes().unwrap().permissions.unwrap() & 0o170_000 == 0o120_000;
                assert_eq!(is_link, name == b"link");
                names.push(name);
            }
            assert!(fields.0.is_empty());
        }
        assert_eq!(names.len(), 253);
        let read = client.with_path(kind::READLINK, &folder.path().join("link"));
        assert!(read[9..].starts_with(b"\0\0\0\x01\0\0\0\x07nowhere"));
    }

    #[test]
    fn rename_replaces_only_with_posix_rename() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        let mut client = Client::new();
        let (from, to) = (a.as_os_str().as_bytes(), b.as_os_str().as_bytes());
        let renamed = client.ask(kind::RENAME, |request| {
            request.bytes(from);
            request.bytes(to);
        });
        assert_eq!(status(&renamed), Some(Status::Failure as u32));
        let renamed = client.ask(kind::EXTENDED, |request| {
            request.bytes(b"posix-rename@openssh.com");
            request.bytes(from);
            request.bytes(to);
        });
        assert_eq!(status(&renamed), Some(Status::Ok as u32));
        assert_eq!(fs::read(&b).unwrap(), b"a");
    }

    #[test]
    fn setstat_sets_all_attributes_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "0123456789").unwrap();
        let mut client = Client::new();
        let set = client.ask(kind::SETSTAT, |request| {
            request.bytes(path.as_os_str().as_bytes());
            request.number(1 | 4 | 8);
            request.long(4);
            request.number(0o100_751);
            request.number(1_000_000_000);
            request.number(1_000_000_001);
        });
        assert_eq!(status(&set), Some(Status::Ok as u32));
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o7777), (4, 0o751));
        assert_eq!((metadata.atime(), metadata.mtime()), (1_000_000_000, 1_000_000_001));
    }

    #[test]
    fn realpath_resolves_paths_with_missing_last_component() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        symlink(&root, root.join("loop")).unwrap();
        let mut client = Client::new();
        let place = |client: &mut Client, path: &str| {
            let answer = client.with_path(kind::REALPATH, &root.join(path));
            Fields(&answer[13..]).bytes().unwrap().to_vec()
        };
        assert_eq!(place(&mut client, "loop/./loop/new"), root.join("new").as_os_str().as_bytes());
        assert_eq!(place(&mut client, "loop/.."), root.parent().unwrap().as_os_str().as_bytes());
        let answer = client.with_path(kind::REALPATH, &root.join("no/new"));
        assert_eq!(status(&answer), Some(Status::NoSuchFile as u32));
    }

    #[test]
    fn invalid_packet_ends_the_session() {
        for packet in [&b"\0\0\0\0"[..], b"\x7f\xff\xff\xff", b"\0\0\0\x02\x05\0"] {
            assert!(serve_on(&mut &*packet, io::sink()).is_err(), "{packet:?}");
        }
        serve_on(&mut &b"\0\0\0\x05\xfa\0\0\0\x01"[..], io::sink()).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

        /// Only kinds that change nothing but what the client names, and names in no folder.
        #[test]
        fn random_packets_get_an_answer(kinds in vec((1u8..22, vec(any::<u8>(), 0..40)), 1..20)) {
            let mut server = Server::default();
            for (kind, rest) in kinds {
                let mut packet = vec![kind, 0, 0, 0, 9];
                packet.extend(rest.into_iter().map(|byte| if byte == b'/' || byte == b'.' { 0 } else { byte }));
                let answer = server.answer(&packet).unwrap();
                prop_assert!(answer.len() > 8);
            }
        }
    }
}
