//! Foreign text, made fit for a terminal.

use std::fmt::Write as _;

/// Foreign bytes as text that a terminal can be given: control characters in caret notation, bytes
/// that are no UTF-8 as `\xNN`.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => text.push(' '),
                '\0'..='\x1f' => text.extend(['^', char::from(c as u8 + b'@')]),
                '\x7f' => text.push_str("^?"),
                c if is_deceptive(c) => {
                    write!(text, "\\u{{{:x}}}", u32::from(c)).expect("strings take what they are given");
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("strings take what they are given");
        }
    }
    text
}

/// Whether a terminal shows something else in place of this character, or nothing: C1 controls, the
/// marks that turn the direction of writing around, separators of lines, and what has no width.
pub fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{feff}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_escapes_untrusted_bytes() {
        let nasty = b"\x1b]52;c;eA==\x07 a\tb\r \x7f \xff \xc2\x9b1m \xe2\x80\xaetxt \xc3\xa9";
        assert_eq!(printable(nasty), "^[]52;c;eA==^G a b^M ^? \\xff \\u{9b}1m \\u{202e}txt \u{e9}");
        for c in ['\u{ad}', '\u{61c}', '\u{200b}', '\u{2028}', '\u{2029}', '\u{feff}'] {
            assert_eq!(printable(format!("a{c}b").as_bytes()), format!("a\\u{{{:x}}}b", u32::from(c)));
        }
        // These join and part letters of some scripts, and the parts of emoji.
        assert_eq!(printable("\u{200c}\u{200d}".as_bytes()), "\u{200c}\u{200d}");
    }
}
