//! Fuzz targets for what the guest sends of its repositories. `fuzz/` runs them under libFuzzer,
//! and the test `fuzzing` of `banger-tests` for a bounded number of inputs. `docs/fuzzing.md` says
//! how.
//!
//! A target takes any bytes and panics if a promise is broken. It never fails on bad input.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::repository::Format;
use super::{Boundary, Host, RelPath, Repository};

/// A target: its name, its function, and inputs to start from.
pub type Target = (&'static str, fn(&[u8]), Vec<Vec<u8>>);

/// All targets of this crate.
pub fn targets() -> Vec<Target> {
    vec![("index_digest", index_digest, index_seeds())]
}

/// The guest's index, in repositories of both formats. A digest depends on nothing but the bytes.
pub fn index_digest(data: &[u8]) {
    for object_hash in [gix::hash::Kind::Sha1, gix::hash::Kind::Sha256] {
        let host = Host::default();
        let repository = Repository {
            boundary: Arc::new(Boundary::new(Path::new("/"), &host)),
            path: RelPath::root(),
            worktree: PathBuf::new(),
            git_dir: PathBuf::new(),
            common_dir: PathBuf::new(),
            format: Format { object_hash, reftable: false, worktree_config: false },
            host: Arc::new(host),
        };
        if let Ok(digest) = repository.index_digest(data) {
            assert_eq!(repository.index_digest(data).ok(), Some(digest));
        }
    }
}

/// Indexes as gitformat-index(5) describes them.
fn index_seeds() -> Vec<Vec<u8>> {
    let index = |version: u32, hash: usize, paths: &[&str], extensions: &[(&[u8; 4], &[u8])]| {
        let mut bytes = [&b"DIRC"[..], &version.to_be_bytes(), &(paths.len() as u32).to_be_bytes()].concat();
        for path in paths {
            let start = bytes.len();
            // Times, device, inode; mode; owner and size; the object.
            bytes.extend([[0; 24].as_slice(), &0o100_644_u32.to_be_bytes(), &[0; 12], &vec![7; hash]].concat());
            bytes.extend((path.len() as u16).to_be_bytes());
            if version == 4 {
                // Nothing of the path before it is kept.
                bytes.extend([&[0], path.as_bytes(), &[0]].concat());
            } else {
                bytes.extend(path.as_bytes());
                let length = bytes.len() - start;
                bytes.resize(start + (length / 8 + 1) * 8, 0);
            }
        }
        for (name, content) in extensions {
            bytes.extend([&name[..], &(content.len() as u32).to_be_bytes(), content].concat());
        }
        bytes.resize(bytes.len() + hash, 0);
        bytes
    };
    let tree = [b"\0", &b"1 0\n"[..], &[7; 20]].concat();
    let link = [&[7; 20][..], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    let end = [&12_u32.to_be_bytes()[..], &[7; 20]].concat();
    let offsets = [1_u32, 12, 1].map(u32::to_be_bytes).concat();
    vec![
        index(2, 20, &["a", "b/c"], &[(b"TREE", &tree)]),
        index(4, 20, &["a", "b/c"], &[(b"IEOT", &offsets), (b"EOIE", &end)]),
        index(2, 20, &[], &[(b"link", &link)]),
        index(3, 32, &["a/b"], &[(b"sdir", b"")]),
        index(2, 20, &["a"], &[(b"UNTR", b"\x01\0"), (b"REUC", b"a\x00100644\x000\x000\x00"), (b"FSMN", &[0; 12])]),
    ]
}
