//! What a file is that is to be booted: a bzImage, or an ELF with an entry for PVH, which are what
//! QEMU's `microvm` loads on x86-64.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use fs_err as fs;

use crate::error::{Error, Result};

/// The longest file that is taken for a kernel, in bytes. One with all debug information has less
/// than 1 GiB.
const MAX_BYTES: u64 = 2 << 30;
/// The longest banner, in bytes.
const MAX_BANNER: u64 = 256;
/// What precedes the banner in an ELF: `linux_banner` of init/version.c.
const BANNER: &[u8] = b"Linux version ";

/// Where the fields of a bzImage's header are, and what they hold: Documentation/arch/x86/boot.rst.
mod header {
    pub(super) const LENGTH: usize = 0x264;
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const SYSSIZE: usize = 0x1f4;
    pub(super) const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
    pub(super) const VERSION: usize = 0x206;
    pub(super) const KERNEL_VERSION: usize = 0x20e;
    pub(super) const LOADFLAGS: usize = 0x211;
    pub(super) const LOADED_HIGH: u8 = 1;
    pub(super) const XLOADFLAGS: usize = 0x236;
    pub(super) const XLF_KERNEL_64: u8 = 1;
    /// The first version that has the extended flags.
    pub(super) const WITH_XLOADFLAGS: u16 = 0x20c;
}

/// ELF, 64 bits, little endian: elf(5).
mod elf {
    pub(super) const MAGIC: &[u8] = b"\x7fELF\x02\x01";
    pub(super) const X86_64: u16 = 62;
    pub(super) const PROGRAM_HEADER: usize = 56;
    pub(super) const PT_NOTE: u32 = 4;
    /// The most program headers and bytes of notes that are looked at.
    pub(super) const MAX_HEADERS: u16 = 256;
    pub(super) const MAX_NOTES: u64 = 64 << 10;
    /// XEN_ELFNOTE_PHYS32_ENTRY: where PVH enters (include/xen/interface/elfnote.h).
    pub(super) const PVH_ENTRY: (&[u8], u32) = (b"Xen\0", 18);
}

/// The kernel's own banner, the first word of which is its release, having made sure that a VM can
/// boot the file.
pub(super) fn banner(path: &Path) -> Result<String> {
    let refuse = |reason: &str| Error::NoKernel { path: path.to_owned(), reason: reason.to_owned() };
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(refuse("it is no file"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(refuse("it has more than 2 GiB"));
    }
    let mut file = fs::File::open(path)?;
    let mut start = Vec::new();
    (&mut file).take(header::LENGTH as u64).read_to_end(&mut start)?;
    let banner = if start.starts_with(elf::MAGIC) {
        check_elf(&mut file, &start).map_err(|reason| refuse(&reason))?;
        file.seek(SeekFrom::Start(0))?;
        after_marker(file)?
    } else {
        let at = check_bz_image(&start, metadata.len()).map_err(|reason| refuse(&reason))?;
        file.seek(SeekFrom::Start(at))?;
        text(&mut file)?
    };
    if release(&banner).is_empty() {
        return Err(refuse("it does not say its version"));
    }
    Ok(banner)
}

/// What `uname -r` will say: the first word of the banner.
pub(super) fn release(banner: &str) -> &str {
    banner.split_whitespace().next().unwrap_or_default()
}

/// Where in a bzImage its banner is.
fn check_bz_image(start: &[u8], length: u64) -> std::result::Result<u64, String> {
    let (place, magic) = header::MAGIC;
    if start.get(place..place + magic.len()) != Some(magic) {
        return Err("it is neither a bzImage nor an ELF of 64 bits".into());
    }
    let byte = |at: usize| start.get(at).copied().ok_or("it ends within its header");
    let word = |at: usize| Ok::<_, String>(u16::from_le_bytes([byte(at)?, byte(at + 1)?]));
    let is_64_bit = word(header::VERSION)? >= header::WITH_XLOADFLAGS
        && byte(header::XLOADFLAGS)? & header::XLF_KERNEL_64 != 0
        && byte(header::LOADFLAGS)? & header::LOADED_HIGH != 0;
    if !is_64_bit {
        return Err("it is no bzImage for 64 bits".into());
    }
    // 0 stands for 4.
    let sectors = match byte(header::SETUP_SECTS)? {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let paragraphs = u64::from(word(header::SYSSIZE)?) | u64::from(word(header::SYSSIZE + 2)?) << 16;
    let needed = (sectors + 1) * 512 + paragraphs * 16;
    if length < needed {
        return Err(format!("it has {length} bytes of {needed}: it is cut short"));
    }
    match word(header::KERNEL_VERSION)? {
        0 => Err("it does not say its version".into()),
        pointer => Ok(0x200 + u64::from(pointer)),
    }
}

/// Makes sure that QEMU finds an entry in an ELF.
fn check_elf(file: &mut fs::File, start: &[u8]) -> std::result::Result<(), String> {
    let cut = "it ends within its header";
    let word =
        |at: usize| start.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes).ok_or(cut);
    if word(18)? != elf::X86_64 {
        return Err("it is for another machine than x86-64".into());
    }
    let table = start.get(32..40).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes).ok_or(cut)?;
    let count = word(56)?.min(elf::MAX_HEADERS);
    if usize::from(word(54)?) != elf::PROGRAM_HEADER {
        return Err("its program headers have a strange size".into());
    }
    let headers = read_at(file, table, u64::from(count) * elf::PROGRAM_HEADER as u64).map_err(|_| cut)?;
    for header in headers.chunks_exact(elf::PROGRAM_HEADER) {
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if u32::from_le_bytes(header[..4].try_into().expect("four bytes")) == elf::PT_NOTE {
            let notes =
                read_at(file, number(8), number(32).min(elf::MAX_NOTES)).map_err(|_| "its notes are cut short")?;
            if has_pvh_entry(&notes) {
                return Ok(());
            }
        }
    }
    Err("it has no entry for PVH, which a kernel built with CONFIG_PVH has; its bzImage can be used".into())
}

/// Whether notes have the entry; each is three lengths and two padded fields (elf(5),
/// `Elf64_Nhdr`).
fn has_pvh_entry(mut notes: &[u8]) -> bool {
    let padded = |length: u32| (length as usize).checked_next_multiple_of(4);
    while let Some((head, rest)) = notes.split_first_chunk::<12>() {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let (Some(name), Some(content)) = (padded(word(0)), padded(word(4))) else { return false };
        if rest.get(..word(0) as usize) == Some(elf::PVH_ENTRY.0) && word(8) == elf::PVH_ENTRY.1 {
            return true;
        }
        let Some(rest) = name.checked_add(content).and_then(|length| rest.get(length..)) else { return false };
        notes = rest;
    }
    false
}

fn read_at(file: &mut fs::File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    if file.take(length).read_to_end(&mut bytes)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// The text behind the first `Linux version ` that a digit follows; nothing if there is none.
fn after_marker(file: fs::File) -> Result<String> {
    let mut file = BufReader::with_capacity(1 << 20, file);
    // How much of the marker has been seen: its letters repeat in no way that would need to look
    // back.
    let mut seen = 0;
    for byte in (&mut file).bytes() {
        let byte = byte?;
        seen = match BANNER.get(seen) {
            Some(expected) if *expected == byte => seen + 1,
            None if byte.is_ascii_digit() => {
                let rest = text(&mut file)?;
                return Ok(format!("{}{rest}", char::from(byte)));
            }
            _ => usize::from(byte == BANNER[0]),
        };
    }
    Ok(String::new())
}

/// A text that ends with a NUL or a line.
fn text(file: &mut dyn Read) -> Result<String> {
    let mut text = Vec::new();
    file.take(MAX_BANNER).read_to_end(&mut text)?;
    let text = text.split(|&byte| byte == 0 || byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).replace(char::is_control, ""))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file with a bzImage's header that says this version.
    pub(crate) fn bz_image(banner: &str) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(header::SETUP_SECTS, &[1]);
        put(header::MAGIC.0, header::MAGIC.1);
        put(header::VERSION, &0x20f_u16.to_le_bytes());
        put(header::KERNEL_VERSION, &0x100_u16.to_le_bytes());
        put(header::LOADFLAGS, &[header::LOADED_HIGH]);
        put(header::XLOADFLAGS, &[header::XLF_KERNEL_64]);
        put(0x300, banner.as_bytes());
        bytes
    }

    /// An ELF with one note, of `kind`, and a banner.
    fn elf(kind: u32, banner: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(elf::MAGIC);
        bytes[18..20].copy_from_slice(&elf::X86_64.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..58].copy_from_slice(&[56, 0, 1, 0]);
        let mut header = [0; elf::PROGRAM_HEADER];
        header[..4].copy_from_slice(&elf::PT_NOTE.to_le_bytes());
        header[8..16].copy_from_slice(&120_u64.to_le_bytes());
        header[32..40].copy_from_slice(&40_u64.to_le_bytes());
        bytes.extend(header);
        // Another note before it, whose name needs padding.
        bytes.extend([2, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', 0, 0, 0, 1, 2, 3, 4]);
        bytes.extend([4, 0, 0, 0, 4, 0, 0, 0]);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(b"Xen\0\x01\x02\x03\x04");
        bytes.extend(b"%s version %s Linux version %d LiLinux version ");
        bytes.extend(banner.as_bytes());
        bytes.push(b'\n');
        bytes
    }

    fn of(bytes: &[u8]) -> std::result::Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, bytes).unwrap();
        banner(&path).map_err(|error| match error {
            Error::NoKernel { reason, .. } => reason,
            other => panic!("{other}"),
        })
    }

    #[test]
    fn kernel_version_is_read_from_bzimage_and_elf() {
        assert_eq!(of(&bz_image("6.12.1 (me) #1\0more")).unwrap(), "6.12.1 (me) #1");
        assert_eq!(of(&elf(18, "6.1.0-x (me) #2")).unwrap(), "6.1.0-x (me) #2");
        assert_eq!(release("6.1.0-x (me) #2"), "6.1.0-x");
    }

    #[test]
    fn unbootable_kernel_is_refused_with_a_reason() {
        let refused = |bytes: &[u8], reason: &str| {
            let is = of(bytes).unwrap_err();
            assert!(is.contains(reason), "{is}, and not: {reason}");
        };
        refused(b"", "neither");
        refused(&[0x7f; 5000], "neither");
        let whole = bz_image("6.12.1");
        let with = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            bytes
        };
        refused(&with(header::XLOADFLAGS, 0), "64 bits");
        refused(&with(header::LOADFLAGS, 0), "64 bits");
        refused(&with(header::VERSION, 0), "64 bits");
        refused(&with(header::SYSSIZE, 1), "cut short");
        refused(&with(header::SYSSIZE + 3, 255), "cut short");
        refused(&with(header::SETUP_SECTS, 0), "cut short");
        refused(&whole[..0x210], "within its header");
        refused(&with(0x20f, 0), "version");
        refused(&bz_image(""), "version");
        refused(&elf(17, "6.1"), "PVH");
        refused(&elf(18, "none"), "version");
        let mut foreign = elf(18, "6.1");
        foreign[18] = 0xb7;
        refused(&foreign, "another machine");
        refused(&elf(18, "6.1")[..100], "within its header");
        // Lengths that lead beyond everything.
        let mut huge = elf(18, "6.1");
        huge[32..40].copy_from_slice(&[0xff; 8]);
        refused(&huge, "header");
        let mut huge = elf(18, "6.1");
        huge[120..128].copy_from_slice(&[0xff; 8]);
        refused(&huge, "PVH");
    }
}
