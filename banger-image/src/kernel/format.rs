//! What a file is that is to be booted: a bzImage, or an uncompressed kernel, an ELF.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::elf;
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
    /// The first version that has the extended flags. Earlier ones have the payload's place.
    pub(super) const WITH_XLOADFLAGS: u16 = 0x20c;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

/// A file that a VMM can boot, as far as its headers tell.
#[derive(Debug)]
pub(super) struct KernelFile {
    /// The kernel's own banner, the first word of which is its release. Empty for an ELF that is
    /// not Linux.
    pub(super) banner: String,
    /// What it is.
    pub(super) format: KernelFormat,
}

/// What a kernel's file is.
#[derive(Debug)]
pub(super) enum KernelFormat {
    /// A bzImage, and where in the file its compressed payload is.
    BzImage(Range<u64>),
    /// An uncompressed kernel.
    Elf {
        /// Whether it has an entry for PVH, without which QEMU does not load it.
        has_pvh_entry: bool,
    },
}

impl KernelFile {
    /// Reads the headers of the kernel at `path`.
    ///
    /// # Errors
    /// [`Error::NoKernel`] for what no VMM can boot; [`Error::Io`].
    pub(super) fn read(path: &Path) -> Result<KernelFile> {
        let refuse = |reason: &str| Error::NoKernel { path: path.to_owned(), reason: reason.to_owned() };
        let metadata = path.metadata().map_err(Error::of_input(path))?;
        if !metadata.is_file() {
            return Err(refuse("it is no file"));
        }
        if metadata.len() > MAX_BYTES {
            return Err(refuse("it has more than 2 GiB"));
        }
        let mut file = File::open(path).map_err(Error::of_input(path))?;
        let mut start = Vec::new();
        (&mut file).take(header::LENGTH as u64).read_to_end(&mut start)?;
        if start.starts_with(elf::MAGIC) {
            let elf::ElfKernel { has_pvh_entry } = elf::check(&file).map_err(|reason| refuse(&reason))?;
            file.seek(SeekFrom::Start(0))?;
            return Ok(KernelFile { banner: after_marker(file)?, format: KernelFormat::Elf { has_pvh_entry } });
        }
        let image = BzImage::read(&start, metadata.len()).map_err(|reason| refuse(&reason))?;
        file.seek(SeekFrom::Start(image.banner_at))?;
        let banner = text(&mut file)?;
        if banner.split_whitespace().next().is_none() {
            return Err(refuse("it does not say its version"));
        }
        Ok(KernelFile { banner, format: KernelFormat::BzImage(image.payload) })
    }

    /// What `uname -r` will say: the first word of the banner. `None` for an ELF that is not Linux.
    pub(super) fn release(&self) -> Option<&str> {
        self.banner.split_whitespace().next()
    }

    /// Whether QEMU can load it.
    pub(super) fn boots_in_qemu(&self) -> bool {
        matches!(self.format, KernelFormat::BzImage(_) | KernelFormat::Elf { has_pvh_entry: true })
    }
}

/// Where the parts of a bzImage are.
pub(super) struct BzImage {
    banner_at: u64,
    pub(super) payload: Range<u64>,
}

impl BzImage {
    /// Reads the header at the `start` of a file of `length` bytes.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence that names the file.
    pub(super) fn read(start: &[u8], length: u64) -> std::result::Result<BzImage, String> {
        let (place, magic) = header::MAGIC;
        if start.get(place..place + magic.len()) != Some(magic) {
            return Err("it is neither a bzImage nor an ELF of 64 bits".into());
        }
        let byte = |at: usize| start.get(at).copied().ok_or("it ends within its header");
        let word = |at: usize| Ok::<_, String>(u16::from_le_bytes([byte(at)?, byte(at + 1)?]));
        let double = |at: usize| Ok::<_, String>(u64::from(word(at)?) | u64::from(word(at + 2)?) << 16);
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
        let protected_mode_at = (sectors + 1) * 512;
        let needed = protected_mode_at + double(header::SYSSIZE)? * 16;
        if length < needed {
            return Err(format!("it has {length} bytes of {needed}: it is cut short"));
        }
        let payload_at = protected_mode_at + double(header::PAYLOAD_OFFSET)?;
        let payload = payload_at..payload_at + double(header::PAYLOAD_LENGTH)?;
        if payload.end > length {
            return Err("its payload leads beyond its end".into());
        }
        match word(header::KERNEL_VERSION)? {
            0 => Err("it does not say its version".into()),
            pointer => Ok(BzImage { banner_at: 0x200 + u64::from(pointer), payload }),
        }
    }
}

/// The text behind the first `Linux version ` that a digit follows; nothing if there is none.
fn after_marker(file: File) -> Result<String> {
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

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fixtures {
    use super::*;
    #[cfg(test)]
    use crate::kernel::elf::fixtures::elf;

    #[cfg(test)]
    pub(crate) const PAYLOAD_OFFSET: usize = header::PAYLOAD_OFFSET;
    #[cfg(test)]
    pub(crate) const PAYLOAD_LENGTH: usize = header::PAYLOAD_LENGTH;

    /// A bzImage that says this version, with an ELF in it.
    #[cfg(test)]
    pub(crate) fn bz_image(banner: &str) -> Vec<u8> {
        let elf = elf(18, b"a kernel");
        let mut payload = zstd::encode_all(&elf[..], 1).expect("an encoder");
        payload.extend((elf.len() as u32).to_le_bytes());
        bz_image_of(banner, &payload)
    }

    /// A bzImage that says this version, with this payload.
    pub(crate) fn bz_image_of(banner: &str, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(header::SETUP_SECTS, &[1]);
        put(header::MAGIC.0, header::MAGIC.1);
        put(header::VERSION, &0x20f_u16.to_le_bytes());
        put(header::KERNEL_VERSION, &0x100_u16.to_le_bytes());
        put(header::LOADFLAGS, &[header::LOADED_HIGH]);
        put(header::XLOADFLAGS, &[header::XLF_KERNEL_64]);
        // Something is before it, as the decompressor is in a real one.
        put(header::PAYLOAD_OFFSET, &16_u32.to_le_bytes());
        put(header::PAYLOAD_LENGTH, &(payload.len() as u32).to_le_bytes());
        put(0x300, banner.as_bytes());
        bytes.extend([0; 16]);
        bytes.extend(payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::fixtures::bz_image;
    use super::*;
    use crate::kernel::elf::fixtures::elf;

    fn of(bytes: &[u8]) -> std::result::Result<KernelFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, bytes).unwrap();
        KernelFile::read(&path).map_err(|error| match error {
            Error::NoKernel { reason, .. } => reason,
            other => panic!("{other}"),
        })
    }

    fn elf_of(kind: u32, version: &str) -> Vec<u8> {
        elf(kind, format!("%s version %s Linux version %d LiLinux version {version}\n").as_bytes())
    }

    #[test]
    fn kernel_version_is_read_from_bzimage_and_elf() {
        let image = of(&bz_image("6.12.1 (me) #1\0more")).unwrap();
        assert_eq!((image.banner.as_str(), image.release()), ("6.12.1 (me) #1", Some("6.12.1")));
        assert!(image.boots_in_qemu());
        let with_pvh = of(&elf_of(18, "6.1.0-x (me) #2")).unwrap();
        assert_eq!((with_pvh.banner.as_str(), with_pvh.release()), ("6.1.0-x (me) #2", Some("6.1.0-x")));
        assert!(with_pvh.boots_in_qemu());
        let without = of(&elf_of(17, "6.1.0-x (me) #2")).unwrap();
        assert_eq!((without.release(), without.boots_in_qemu()), (Some("6.1.0-x"), false));
        assert_eq!(of(&elf_of(18, "none")).unwrap().release(), None);
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
        refused(&with(header::SYSSIZE, 255), "cut short");
        refused(&with(header::SYSSIZE + 3, 255), "cut short");
        refused(&with(header::SETUP_SECTS, 0), "cut short");
        refused(&whole[..0x210], "within its header");
        refused(&with(header::PAYLOAD_OFFSET, 17), "payload");
        refused(&with(header::PAYLOAD_OFFSET + 3, 255), "payload");
        refused(&with(header::PAYLOAD_LENGTH + 3, 255), "payload");
        refused(&whole[..whole.len() - 1], "payload");
        refused(&with(0x20f, 0), "version");
        refused(&bz_image(""), "version");
        refused(&elf_of(18, "6.1")[..100], "within its header");
    }
}
