//! The one line on every console that alarms and means nothing.

use std::borrow::Cow;

/// What Linux says first of all on a machine that has no PCI, as QEMU's `microvm` has none, at the
/// level of errors: arch/x86/pci/init.c. No parameter silences it but with all errors.
const NO_PCI: &[u8] = b"PCI: Fatal: No config space access function found";
/// It is among the first lines of a boot. Later ones are passed on as they come.
const LINES: usize = 64;
/// The longest time that the kernel puts before a line: `[    0.123456] `, printk_time of
/// kernel/printk.
const MAX_TIME: usize = 24;

/// Takes that line out of what a guest says.
#[derive(Debug, Default)]
pub(super) struct Harmless {
    /// Lines that have ended, and whether the one that was is taken out already.
    lines: usize,
    is_out: bool,
    /// The beginning of a line that may be the one.
    held: Vec<u8>,
    /// The line is another one: the rest of it is passed on.
    passes: bool,
}

impl Harmless {
    /// These bytes, after those before, without the line. What may be its beginning waits for what
    /// follows.
    pub(super) fn without<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.is_out || self.lines >= LINES {
            return Cow::Borrowed(bytes);
        }
        let mut kept = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            let done = self.is_out || self.lines >= LINES;
            if done || self.passes {
                kept.push(byte);
            } else {
                self.held.push(byte);
                let is_whole = byte == b'\n' && without_time(&self.held).trim_ascii_end() == NO_PCI;
                if is_whole {
                    self.is_out = true;
                    self.held.clear();
                } else if !may_be(&self.held) {
                    kept.append(&mut self.held);
                    self.passes = true;
                }
            }
            if byte == b'\n' {
                self.lines += 1;
                self.passes = false;
            }
        }
        Cow::Owned(kept)
    }
}

/// Whether a line that begins so may become the one.
fn may_be(line: &[u8]) -> bool {
    // A guest may add spaces without end.
    if line.len() > MAX_TIME + NO_PCI.len() + 2 {
        return false;
    }
    let is_time = |bytes: &[u8]| {
        bytes.len() < MAX_TIME && bytes.iter().all(|byte| matches!(byte, b'[' | b']' | b' ' | b'.' | b'0'..=b'9'))
    };
    let text = without_time(line);
    NO_PCI.starts_with(text) || text == [NO_PCI, b"\r"].concat() || (line.starts_with(b"[") && is_time(line))
}

fn without_time(line: &[u8]) -> &[u8] {
    let end = line.iter().take(MAX_TIME).position(|byte| *byte == b']').filter(|_| line.starts_with(b"["));
    end.map_or(line, |end| line[end + 1..].trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(pieces: &[&[u8]]) -> String {
        let mut harmless = Harmless::default();
        let kept: Vec<u8> = pieces.iter().flat_map(|piece| harmless.without(piece).into_owned()).collect();
        String::from_utf8(kept).unwrap()
    }

    #[test]
    fn only_the_first_pci_fatal_line_is_removed() {
        let line = "[    0.531000] PCI: Fatal: No config space access function found\r\n";
        let bare = "PCI: Fatal: No config space access function found\n";
        for line in [line, bare] {
            assert_eq!(through(&[line.as_bytes(), b"next"]), "next");
            assert_eq!(through(&[b"a\r\n", line.as_bytes(), b"b\n"]), "a\r\nb\n");
            let single: Vec<&[u8]> = line.as_bytes().chunks(1).collect();
            assert_eq!(through(&single), "");
            // Once: what a guest says later is its own.
            assert_eq!(through(&[line.as_bytes(), line.as_bytes()]), line);
        }
        for other in ["[    0.5] PCI: Fatal: another\n", "PCI\n", "[ 1.0] x\n", "[root@vm]# ", "\n\n[\n", "Press "] {
            assert_eq!(through(&[other.as_bytes(), b"\nmore\n"]), format!("{other}\nmore\n"), "{other:?}");
        }
    }

    #[test]
    fn endless_spaces_are_passed_on() {
        let mut harmless = Harmless::default();
        harmless.without(b"\n[1]");
        harmless.without(&[b' '; 100]);
        assert!(harmless.held.is_empty());
        assert_eq!(harmless.without(&[b' '; 4096]).len(), 4096);
    }

    #[test]
    fn later_prompt_is_not_held_back() {
        let many = "line\n".repeat(LINES);
        assert_eq!(through(&[many.as_bytes(), b"P"]), many + "P");
    }
}
