//! ELF kernels: elf(5), 64 bits, little endian.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How such a file begins: the magic number, 64 bits, little endian.
pub(super) const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const HEADER: usize = 64;
const EXECUTABLE: u16 = 2;
const X86_64: u16 = 62;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
/// The most program headers and bytes of notes that are looked at.
const MAX_HEADERS: u16 = 256;
const MAX_NOTES: u64 = 64 << 10;
/// XEN_ELFNOTE_PHYS32_ENTRY: where PVH enters (include/xen/interface/elfnote.h).
const PVH_ENTRY: (&[u8], u32) = (b"Xen\0", 18);

/// An ELF that a VMM can load.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ElfKernel {
    /// Whether it has an entry for PVH, without which QEMU does not load it.
    pub(super) has_pvh_entry: bool,
}

/// A program header (`Elf64_Phdr`).
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    physical: u64,
    in_file: u64,
    in_memory: u64,
}

/// Makes sure that a VMM can load `file`: an executable for x86-64 whose segments are in the file
/// and have its entry.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence that names the file.
pub(super) fn check(file: &File) -> Result<ElfKernel, String> {
    let cut = "it ends within its header";
    let length = file.metadata().map_err(|error| format!("it cannot be read: {error}"))?.len();
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).map_err(|_| cut)?;
    if !header.starts_with(MAGIC) {
        return Err("it is no ELF of 64 bits".into());
    }
    if u16_at(&header, 18) != X86_64 {
        return Err("it is for another machine than x86-64".into());
    }
    if u16_at(&header, 16) != EXECUTABLE {
        return Err("it is no executable".into());
    }
    if usize::from(u16_at(&header, 54)) != PROGRAM_HEADER {
        return Err("its program headers have a strange size".into());
    }
    let count = u16_at(&header, 56);
    if count > MAX_HEADERS {
        return Err(format!("it has {count} program headers"));
    }
    let mut table = vec![0; usize::from(count) * PROGRAM_HEADER];
    file.read_exact_at(&mut table, u64_at(&header, 32)).map_err(|_| cut)?;
    let segments: Vec<Segment> = table.chunks_exact(PROGRAM_HEADER).map(Segment::read).collect();

    if segments.iter().any(|segment| segment.kind == PT_INTERP) {
        return Err("it is a program that needs an interpreter".into());
    }
    let loaded = || segments.iter().filter(|segment| segment.kind == PT_LOAD);
    if loaded().next().is_none() {
        return Err("it has no segment to load".into());
    }
    if !loaded().all(|segment| segment.is_sane(length)) {
        return Err("it is cut short, or its segments are not as they should be".into());
    }
    let entry = u64_at(&header, 24);
    if !loaded().any(|segment| segment.contains(entry)) {
        return Err("its entry is in none of its segments".into());
    }
    let mut has_pvh_entry = false;
    for note in segments.iter().filter(|segment| segment.kind == PT_NOTE) {
        let mut notes = vec![0; note.in_file.min(MAX_NOTES) as usize];
        file.read_exact_at(&mut notes, note.offset).map_err(|_| "its notes are cut short")?;
        has_pvh_entry |= lists_pvh_entry(&notes);
    }
    Ok(ElfKernel { has_pvh_entry })
}

impl Segment {
    /// Reads a header of [`PROGRAM_HEADER`] bytes.
    fn read(header: &[u8]) -> Segment {
        Segment {
            kind: u32_at(header, 0),
            offset: u64_at(header, 8),
            address: u64_at(header, 16),
            physical: u64_at(header, 24),
            in_file: u64_at(header, 32),
            in_memory: u64_at(header, 40),
        }
    }

    /// Whether its bytes are in a file of `length` bytes, and fit into its place in memory.
    fn is_sane(&self, length: u64) -> bool {
        self.offset.checked_add(self.in_file).is_some_and(|end| end <= length)
            && self.in_file <= self.in_memory
            && self.physical.checked_add(self.in_memory).is_some()
    }

    /// Whether an address is in its place in memory. Linux says its entry as a physical address,
    /// others as a virtual one.
    fn contains(&self, entry: u64) -> bool {
        [self.physical, self.address]
            .iter()
            .any(|start| entry.checked_sub(*start).is_some_and(|at| at < self.in_memory))
    }
}

/// Whether notes have the entry; each is three lengths and two padded fields (elf(5),
/// `Elf64_Nhdr`).
fn lists_pvh_entry(mut notes: &[u8]) -> bool {
    let padded = |length: u32| (length as usize).checked_next_multiple_of(4);
    while let Some((head, rest)) = notes.split_first_chunk::<12>() {
        let (Some(name), Some(content)) = (padded(u32_at(head, 0)), padded(u32_at(head, 4))) else { return false };
        if rest.get(..u32_at(head, 0) as usize) == Some(PVH_ENTRY.0) && u32_at(head, 8) == PVH_ENTRY.1 {
            return true;
        }
        let Some(rest) = name.checked_add(content).and_then(|length| rest.get(length..)) else { return false };
        notes = rest;
    }
    false
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fixtures {
    use super::*;

    /// Where the fields of [`elf`] are that tests change.
    pub(crate) const LOAD: usize = HEADER;
    pub(crate) const NOTES: usize = HEADER + 2 * PROGRAM_HEADER;

    /// An ELF with one segment, two notes, the second of which is of `kind`, and a text.
    pub(crate) fn elf(kind: u32, text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; NOTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, MAGIC);
        put(16, &EXECUTABLE.to_le_bytes());
        put(18, &X86_64.to_le_bytes());
        put(24, &0x100_0000_u64.to_le_bytes());
        put(32, &(HEADER as u64).to_le_bytes());
        put(54, &[PROGRAM_HEADER as u8, 0, 2, 0]);
        let length = (NOTES + 40 + text.len()) as u64;
        put(LOAD, &PT_LOAD.to_le_bytes());
        put(LOAD + 16, &0xffff_ffff_8100_0000_u64.to_le_bytes());
        put(LOAD + 24, &0x100_0000_u64.to_le_bytes());
        put(LOAD + 32, &length.to_le_bytes());
        put(LOAD + 40, &length.to_le_bytes());
        let note = LOAD + PROGRAM_HEADER;
        put(note, &PT_NOTE.to_le_bytes());
        put(note + 8, &(NOTES as u64).to_le_bytes());
        put(note + 32, &40_u64.to_le_bytes());
        // A note before it, whose name needs padding.
        bytes.extend([2, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', 0, 0, 0, 1, 2, 3, 4]);
        bytes.extend([4, 0, 0, 0, 4, 0, 0, 0]);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(b"Xen\0\x01\x02\x03\x04");
        bytes.extend(text);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::fixtures::{LOAD, NOTES, elf};
    use super::*;

    fn of(bytes: &[u8]) -> Result<ElfKernel, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check(&file)
    }

    #[test]
    fn pvh_entry_is_found_among_notes() {
        assert_eq!(of(&elf(18, b"")), Ok(ElfKernel { has_pvh_entry: true }));
        assert_eq!(of(&elf(17, b"")), Ok(ElfKernel { has_pvh_entry: false }));
        // A name whose length leads beyond everything.
        let mut huge = elf(18, b"");
        huge[NOTES..NOTES + 8].fill(0xff);
        assert_eq!(of(&huge), Ok(ElfKernel { has_pvh_entry: false }));
    }

    #[test]
    fn unloadable_elf_is_refused_with_a_reason() {
        let whole = elf(18, b"text");
        let refused = |at: usize, field: &[u8], reason: &str| {
            let mut bytes = whole.clone();
            bytes[at..at + field.len()].copy_from_slice(field);
            let is = of(&bytes).unwrap_err();
            assert!(is.contains(reason), "{is}, and not: {reason}");
        };
        refused(4, &[1], "no ELF of 64 bits");
        refused(5, &[2], "no ELF of 64 bits");
        refused(18, &[0xb7], "another machine");
        refused(16, &[3], "no executable");
        refused(54, &[55], "strange size");
        refused(56, &[0xff, 0xff], "65535 program headers");
        refused(56, &[0, 0], "no segment");
        refused(56, &[200], "within its header");
        refused(32, &[0xff; 8], "within its header");
        refused(LOAD, &[2], "no segment");
        refused(LOAD, &[3], "interpreter");
        refused(LOAD + 8, &[1], "cut short");
        refused(LOAD + 8, &[0xff; 8], "cut short");
        refused(LOAD + 24, &[0xff; 8], "cut short");
        refused(LOAD + 40, &[0], "cut short");
        refused(24, &[0xff; 8], "entry");
        refused(LOAD + PROGRAM_HEADER + 8, &[0xff; 8], "notes");
        refused(LOAD + PROGRAM_HEADER + 32, &[0xff; 8], "notes");
        for length in 0..whole.len() {
            of(&whole[..length]).unwrap_err();
        }
    }
}
