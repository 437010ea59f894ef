//! Paths whose symbolic links are followed inside the file system, whatever they say:
//! path_resolution(7), as in a chroot.

use super::Writer;
use super::error::{Error, Result};
use super::tree::{Content, ROOT};

/// The most links that one path may lead through: `MAXSYMLINKS` of the kernel's,
/// path_resolution(7).
const MAX_SYMLINKS: usize = 40;

impl Writer {
    /// The path of the directory that `path` leads to, without symbolic links. An absolute target
    /// starts at the file system's root, `..` ends there, and names that do not exist yet are kept
    /// as they are. Nothing is created.
    ///
    /// # Errors
    /// [`Error::NotADirectory`] if a part of the path is neither a folder nor a link;
    /// [`Error::TooManySymlinks`].
    pub fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        // Folders that exist, from the root on, and their names; then names that do not exist.
        let mut folders = vec![ROOT];
        let mut names: Vec<&[u8]> = Vec::new();
        let mut pending: Vec<&[u8]> = path.split(|&byte| byte == b'/').rev().collect();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            match name {
                b"" | b"." => continue,
                b".." => {
                    if names.pop().is_some() && names.len() + 1 < folders.len() {
                        folders.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let exists = folders.len() == names.len() + 1;
            let parent = folders[folders.len() - 1];
            let child = self.tree.children(parent).filter(|_| exists).and_then(|children| children.get(name));
            let Some(&child) = child else {
                names.push(name);
                continue;
            };
            match &self.tree.get(child).content {
                Content::Directory(_) => {
                    folders.push(child);
                    names.push(name);
                }
                Content::Symlink(target) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(Error::TooManySymlinks { path: path.to_owned() });
                    }
                    if target.starts_with(b"/") {
                        folders.truncate(1);
                        names.clear();
                    }
                    pending.extend(target.split(|&byte| byte == b'/').rev());
                }
                _ => {
                    names.push(name);
                    return Err(Error::NotADirectory {
                        path: path.to_owned(),
                        component: names.join(&b'/'),
                        symlink: false,
                    });
                }
            }
        }
        Ok(names.join(&b'/'))
    }
}
