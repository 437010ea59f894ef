//! The list of refs that `git upload-pack` begins with, which git holds in memory.

/// The longest list, in bytes: a million refs.
const MAX: u64 = 64 << 20;
/// The length of a packet's length.
const HEADER: usize = 4;

/// Follows the packets of a list of refs to its end, a flush packet: gitprotocol-common(5).
#[derive(Debug, Default)]
pub(super) struct Advertisement {
    header: Vec<u8>,
    /// The first bytes of all.
    start: Vec<u8>,
    /// How much of the current packet is to come.
    rest: usize,
    seen: u64,
    is_over: bool,
}

/// How a server begins that speaks protocol version 2, in which the list comes later. Nobody asked
/// for that: gitprotocol-v2(5).
const VERSION_2: &[u8] = b"000eversion 2";

/// A list that is longer than git is given, or none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid(pub(super) &'static str);

impl Advertisement {
    /// Looks at what comes next. What follows the list is not looked at.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> Result<(), Invalid> {
        while !self.is_over && !bytes.is_empty() {
            let count = match self.rest {
                0 => bytes.len().min(HEADER - self.header.len()),
                rest => bytes.len().min(rest),
            };
            let (taken, left) = bytes.split_at(count);
            bytes = left;
            self.seen += count as u64;
            self.start.extend(taken.iter().take(VERSION_2.len() - self.start.len()));
            if self.start == VERSION_2 {
                return Err(Invalid("it does not speak the version of git's protocol that it was asked for"));
            }
            if self.seen > MAX {
                return Err(Invalid("its list of branches and tags does not end"));
            }
            if self.rest > 0 {
                self.rest -= count;
                continue;
            }
            self.header.extend_from_slice(taken);
            if self.header.len() < HEADER {
                continue;
            }
            let length = std::str::from_utf8(&self.header).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
            match length {
                Some(0) => self.is_over = true,
                Some(length @ 4..) => self.rest = length - HEADER,
                _ => return Err(Invalid("it does not speak git's protocol")),
            }
            self.header.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_ends_with_a_flush_packet() {
        let list = b"0009line\n0006a\n0000PACK is not looked at";
        for size in [1, 3, 5, list.len()] {
            let mut advertisement = Advertisement::default();
            for piece in list.chunks(size) {
                advertisement.check(piece).unwrap();
            }
            assert!(advertisement.is_over);
        }
    }

    #[test]
    fn list_without_end_and_other_protocols_are_refused() {
        let mut advertisement = Advertisement::default();
        let packet = [b"fff0".to_vec(), vec![b'x'; 0xfff0 - HEADER]].concat();
        let error = (0..2000).find_map(|_| advertisement.check(&packet).err());
        assert_eq!(error, Some(Invalid("its list of branches and tags does not end")));
        assert!(Advertisement::default().check(b"SSH-2.0").is_err());
        assert!(Advertisement::default().check(b"0001").is_err());
        assert!(Advertisement::default().check(b"000eversion 2\n000cls-refs\n0000").is_err());
        assert!(Advertisement::default().check(b"000eversion 1\n0000").is_ok());
    }
}
