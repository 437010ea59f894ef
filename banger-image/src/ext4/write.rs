//! Writes a staged tree as a file system, by e2fsprogs.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitStatus;

use fs_err as fs;

use crate::error::{Error, Result};
use crate::ext4::debugfs::Script;
use crate::ext4::size::{self, BLOCK, INODE};
use crate::ext4::tree::Tree;
use crate::tool::{DEBUGFS, MKE2FS};

/// Makes sure that [`write`] has its tools, before the long way to it.
pub(crate) fn require_tools() -> Result<()> {
    MKE2FS.require()?;
    DEBUGFS.require()
}

/// Writes `tree` to the new file `output`. Files that it needs meanwhile go to the folder `scratch`.
pub(crate) fn write(tree: &Tree, output: &Path, scratch: &Path) -> Result<()> {
    let size = size::of(tree.nodes());
    let mut arguments: Vec<OsString> = [
        "-q",
        "-t",
        "ext4",
        "-b",
        &BLOCK.to_string(),
        "-I",
        &INODE.to_string(),
        "-N",
        &size.inodes.to_string(),
        "-m",
        "0",
        // It is never written to or grown, so it needs neither a journal nor room for more descriptors.
        "-O",
        "metadata_csum,^has_journal,^resize_inode",
        "-E",
        "lazy_itable_init=0",
        "-d",
    ]
    .map(OsString::from)
    .into();
    arguments.extend([tree.root().into(), output.into(), size.blocks.to_string().into()]);
    MKE2FS.run(&arguments)?;

    let values = scratch.join("xattrs");
    fs::create_dir(&values)?;
    let staged = fs::metadata(tree.root())?;
    let mut script = Script::new(values, staged.uid(), staged.gid());
    for (path, node) in tree.nodes() {
        script.add(path, node)?;
    }
    let script_file = scratch.join("debugfs");
    fs::write(&script_file, script.into_bytes())?;
    let arguments: [OsString; 4] = ["-w".into(), "-f".into(), script_file.into(), output.into()];
    let complaints: Vec<String> = DEBUGFS.run(&arguments)?.into_iter().filter(|line| !is_banner(line)).collect();
    if complaints.is_empty() {
        Ok(())
    } else {
        // debugfs ends with 0 whatever happened to its commands.
        Err(Error::ToolFailed { tool: "debugfs", status: ExitStatus::default(), tail: complaints, hint: None })
    }
}

/// The line that debugfs starts with, such as `debugfs 1.47.0 (5-Feb-2023)`.
fn is_banner(line: &str) -> bool {
    line.strip_prefix("debugfs ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}
