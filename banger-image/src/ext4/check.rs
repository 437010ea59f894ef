//! Whether a file is an ext4 file system that a kernel will mount read-only, and is there to its
//! end.
//!
//! What tells a damaged or cut image from a good one at once is looked at: the superblock, the
//! descriptors of all groups with their checksums, and the root folder's inode
//! (Documentation/filesystems/ext4/super.rst, group_descr.rst, inodes.rst). Reading all of it is
//! e2fsck(8)'s job.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::writer::checksum::{START, crc16, crc32c};

/// Where the superblock is, and its length.
const SUPERBLOCK: u64 = 1024;
const LEN: usize = 1024;

const RECOVER: u32 = 0x4;
const META_BG: u32 = 0x10;
const WIDE: u32 = 0x80;
const CHECKSUM_SEED: u32 = 0x2000;
/// What a kernel must know to read it, and Linux 6.12 does: filetype, recover, meta_bg, extent,
/// 64bit, mmp, flex_bg, ea_inode, metadata_csum_seed, large_dir, inline_data, encrypt, casefold.
const KNOWN: u32 = 0x2
    | RECOVER
    | META_BG
    | 0x40
    | WIDE
    | 0x100
    | 0x200
    | 0x400
    | CHECKSUM_SEED
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
const GROUP_CHECKSUMS: u32 = 0x10;
const METADATA_CHECKSUMS: u32 = 0x400;
const ROOT_INODE: u64 = 2;

/// Why a file is no file system that a VM can boot from.
#[derive(Debug)]
pub(crate) enum CheckError {
    /// What is wrong with the file.
    Reason(String),
    /// The file could not be read.
    Io(io::Error),
}

impl From<io::Error> for CheckError {
    fn from(error: io::Error) -> CheckError {
        CheckError::Io(error)
    }
}

fn unfit<T>(reason: impl Into<String>) -> Result<T, CheckError> {
    Err(CheckError::Reason(reason.into()))
}

/// Checks that a file is a complete ext4 file system, as far as the module says.
///
/// # Errors
/// [`CheckError`].
pub(crate) fn check(file: &File) -> Result<(), CheckError> {
    let length = file.metadata()?.len();
    if length < SUPERBLOCK + LEN as u64 {
        return unfit("it is no ext4 file system: it is too short for one");
    }
    let mut block = [0; LEN];
    file.read_exact_at(&mut block, SUPERBLOCK)?;
    let superblock = Superblock::read(&block)?;
    if superblock.blocks.checked_mul(superblock.block_size).is_none_or(|bytes| bytes > length) {
        let (blocks, size) = (superblock.blocks, superblock.block_size);
        return unfit(format!(
            "it is cut short: its file system has {blocks} blocks of {size} bytes, and it has {length} bytes"
        ));
    }
    // Their descriptors are all over the disk.
    let scattered = superblock.incompat & META_BG != 0;
    for group in 0..if scattered { 1 } else { superblock.groups() } {
        superblock.check_descriptor(file, group)?;
    }
    superblock.check_root(file)
}

/// The fields of a superblock that are needed here.
struct Superblock {
    blocks: u64,
    block_size: u64,
    first_block: u64,
    blocks_per_group: u64,
    inode_size: u64,
    descriptor_size: usize,
    incompat: u32,
    ro_compat: u32,
    uuid: [u8; 16],
    /// What checksums of metadata start with.
    seed: u32,
}

impl Superblock {
    fn read(block: &[u8; LEN]) -> Result<Superblock, CheckError> {
        let (u16_at, u32_at) = (|at| get16(block, at), |at| get32(block, at));
        if u16_at(0x38) != 0xef53 {
            return unfit("it is no ext4 file system");
        }
        let (incompat, ro_compat) = (u32_at(0x60), u32_at(0x64));
        if ro_compat & METADATA_CHECKSUMS != 0 && u32_at(LEN - 4) != crc32c(START, &block[..LEN - 4]) {
            return unfit("its superblock is damaged: it has not the checksum that it should have");
        }
        if incompat & !KNOWN != 0 {
            return unfit(format!("its file system has features that are not known: {:#x}", incompat & !KNOWN));
        }
        if incompat & RECOVER != 0 || u16_at(0x3a) & 1 == 0 {
            return unfit("it was not unmounted in order: run `e2fsck -f` on it before");
        }
        if u16_at(0x3a) & 2 != 0 {
            return unfit("its file system has errors: run `e2fsck -f` on it before");
        }
        let block_size = 1024u64.checked_shl(u32_at(0x18)).filter(|size| (1024..=65536).contains(size));
        let wide = incompat & WIDE != 0;
        let uuid: [u8; 16] = block[0x68..0x78].try_into().expect("16 bytes");
        let superblock = Superblock {
            blocks: u64::from(u32_at(0x04)) | if wide { u64::from(u32_at(0x150)) << 32 } else { 0 },
            block_size: block_size.unwrap_or(0),
            first_block: u32_at(0x14).into(),
            blocks_per_group: u32_at(0x20).into(),
            inode_size: if u32_at(0x4c) == 0 { 128 } else { u16_at(0x58).into() },
            descriptor_size: if wide { u16_at(0xfe).into() } else { 32 },
            incompat,
            ro_compat,
            uuid,
            seed: if incompat & CHECKSUM_SEED != 0 { u32_at(0x270) } else { crc32c(START, &uuid) },
        };
        let is_sound = superblock.block_size > 0
            && superblock.first_block < superblock.blocks
            && (256..=superblock.block_size * 8).contains(&superblock.blocks_per_group)
            && (128..=superblock.block_size).contains(&superblock.inode_size)
            && (32..=1024).contains(&superblock.descriptor_size);
        if is_sound { Ok(superblock) } else { unfit("its superblock is damaged: its numbers cannot be") }
    }

    fn groups(&self) -> u64 {
        (self.blocks - self.first_block).div_ceil(self.blocks_per_group)
    }

    fn descriptor(&self, file: &File, group: u64) -> io::Result<Vec<u8>> {
        let mut fields = vec![0; self.descriptor_size];
        let table = (self.first_block + 1) * self.block_size;
        file.read_exact_at(&mut fields, table + group * self.descriptor_size as u64)?;
        Ok(fields)
    }

    fn check_descriptor(&self, file: &File, group: u64) -> Result<(), CheckError> {
        let damaged =
            || unfit(format!("its file system is damaged: the descriptor of its group {group} is not as it should be"));
        let Ok(fields) = self.descriptor(file, group) else { return damaged() };
        let blocks = [self.block_number(&fields, 0), self.block_number(&fields, 4), self.block_number(&fields, 8)];
        if !blocks.iter().all(|block| (self.first_block + 1..self.blocks).contains(block)) {
            return damaged();
        }
        let number = (group as u32).to_le_bytes();
        let (before, after) = (&fields[..0x1e], &fields[0x20..]);
        let is = if self.ro_compat & METADATA_CHECKSUMS != 0 {
            let crc = crc32c(crc32c(crc32c(self.seed, &number), before), &[0; 2]);
            crc32c(crc, after) as u16
        } else if self.ro_compat & GROUP_CHECKSUMS != 0 {
            crc16(crc16(crc16(crc16(!0, &self.uuid), &number), before), after)
        } else {
            return Ok(());
        };
        if is == get16(&fields, 0x1e) { Ok(()) } else { damaged() }
    }

    /// The number of a block in the descriptor `fields`, whose lower 32 bits are at `at`.
    fn block_number(&self, fields: &[u8], at: usize) -> u64 {
        let high = if fields.len() >= 64 { u64::from(get32(fields, at + 0x20)) << 32 } else { 0 };
        u64::from(get32(fields, at)) | high
    }

    fn check_root(&self, file: &File) -> Result<(), CheckError> {
        let table = self.block_number(&self.descriptor(file, 0)?, 8) * self.block_size;
        let mut mode = [0; 2];
        file.read_exact_at(&mut mode, table + (ROOT_INODE - 1) * self.inode_size)?;
        if u16::from_le_bytes(mode) & 0xf000 == 0x4000 {
            Ok(())
        } else {
            unfit("its file system is damaged: it has no root folder")
        }
    }
}

fn get16(fields: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([fields[at], fields[at + 1]])
}

fn get32(fields: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(fields[at..at + 4].try_into().expect("four bytes"))
}

/// The checksum that a superblock of these bytes has, if its metadata have any.
#[cfg(feature = "fuzzing")]
pub(crate) fn checksum(superblock: &[u8]) -> u32 {
    crc32c(START, superblock)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::ext4::{Metadata, Options, Writer};

    fn own(path: &Path, options: Options) -> File {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        let mut writer = Writer::new(file, options).unwrap();
        writer.file(b"etc/hostname", Metadata::default(), &mut &b"x\n"[..]).unwrap();
        writer.finish().unwrap()
    }

    fn reason(file: &File) -> String {
        match check(file) {
            Ok(()) => "fit".to_owned(),
            Err(CheckError::Reason(reason)) => reason,
            Err(CheckError::Io(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn check_accepts_file_systems_of_mke2fs_and_writer() {
        let folder = tempfile::tempdir().unwrap();
        own(&folder.path().join("own"), Options::image());
        let kinds = [
            "-t ext4",
            "-t ext4 -b 1024",
            "-t ext4 -O ^64bit",
            "-t ext4 -O ^metadata_csum,uninit_bg",
            "-t ext4 -O ^metadata_csum",
            "-t ext4 -O metadata_csum_seed",
            "-t ext4 -O meta_bg,^resize_inode",
            "-t ext2 -I 128",
        ];
        for (number, kind) in kinds.iter().enumerate() {
            let path = folder.path().join(number.to_string());
            let made = Command::new("/usr/sbin/mke2fs")
                .args(["-q", "-F"])
                .args(kind.split(' '))
                .arg(&path)
                .arg("300M")
                .status();
            assert!(made.unwrap().success());
        }
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(reason(&File::open(&path).unwrap()), "fit", "{}", path.display());
        }
    }

    #[test]
    fn check_names_each_kind_of_damage() {
        let folder = tempfile::tempdir().unwrap();
        let file = own(&folder.path().join("i"), Options::image());
        let length = file.metadata().unwrap().len();
        let mut whole = vec![0; length as usize];
        file.read_exact_at(&mut whole, 0).unwrap();
        let with = |at: usize, byte: u8| {
            file.write_all_at(&whole, 0).unwrap();
            file.write_all_at(&[byte], at as u64).unwrap();
            reason(&file)
        };
        assert!(with(1024 + 0x38, 0).contains("no ext4 file system"));
        assert!(with(1024 + 0x78, b'!').contains("superblock is damaged"));
        assert!(with(4096 + 8, 1).contains("descriptor of its group 0"));
        file.set_len(length - 4096).unwrap();
        file.write_all_at(&whole[..8192], 0).unwrap();
        assert!(reason(&file).contains("cut short"));
        file.set_len(100).unwrap();
        assert!(reason(&file).contains("too short"));
        // Without checksums the numbers themselves must make sense.
        let options = Options { metadata_checksums: false, ..Options::image() };
        let file = own(&folder.path().join("plain"), options);
        file.write_all_at(&[40], 1024 + 0x18).unwrap();
        assert!(reason(&file).contains("cannot be"));
        file.write_all_at(&[2, 0, 0, 0], 1024 + 0x18).unwrap();
        file.write_all_at(&[0], 1024 + 0x3a).unwrap();
        assert!(reason(&file).contains("not unmounted"));
        file.write_all_at(&[3], 1024 + 0x3a).unwrap();
        assert!(reason(&file).contains("has errors"));
        file.write_all_at(&[1], 1024 + 0x3a).unwrap();
        file.write_all_at(&[0xc2, 2, 1, 0], 1024 + 0x60).unwrap();
        assert_eq!(reason(&file), "fit");
        file.write_all_at(&[0xc3], 1024 + 0x60).unwrap();
        assert!(reason(&file).contains("not known: 0x1"));
    }

    proptest! {
        #[test]
        fn random_superblock_never_panics(fields in proptest::collection::vec((0usize..1020, any::<u8>()), 0..12)) {
            let folder = tempfile::tempdir().unwrap();
            let options = Options { metadata_checksums: false, ..Options::image() };
            let file = own(&folder.path().join("i"), options);
            file.set_len(64 << 30).unwrap();
            for (at, byte) in fields {
                file.write_all_at(&[byte], (1024 + at) as u64).unwrap();
            }
            let _ = check(&file);
        }
    }
}
