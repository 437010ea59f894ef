//! Bytes in JSON: paths, arguments and variables of Linux are not always text.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are mostly text: JSON has them as a string, or as `{"hex": "…"}` when they are not
/// UTF-8.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireBytes(pub Vec<u8>);

impl WireBytes {
    /// Borrows the bytes as an operating-system string.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Debug for WireBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl fmt::Display for WireBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl From<&str> for WireBytes {
    fn from(text: &str) -> Self {
        WireBytes(text.as_bytes().to_vec())
    }
}

impl From<String> for WireBytes {
    fn from(text: String) -> Self {
        WireBytes(text.into_bytes())
    }
}

impl From<OsString> for WireBytes {
    fn from(text: OsString) -> Self {
        WireBytes(text.into_vec())
    }
}

impl From<&OsStr> for WireBytes {
    fn from(text: &OsStr) -> Self {
        WireBytes(text.as_bytes().to_vec())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum BytesForm {
    Text(String),
    Hex { hex: String },
}

impl Serialize for WireBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let hex = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
                BytesForm::Hex { hex }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for WireBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match BytesForm::deserialize(deserializer)? {
            BytesForm::Text(text) => Ok(WireBytes(text.into_bytes())),
            BytesForm::Hex { hex } => {
                let digits = hex.as_bytes().chunks(2);
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
                let bytes = digits.map(byte).collect::<Option<Vec<u8>>>();
                bytes.map(WireBytes).ok_or_else(|| serde::de::Error::custom("not hexadecimal"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_serialize_as_text_or_hex() {
        for (bytes, json) in [(&b"a/\xc3\xa9"[..], "\"a/é\""), (&b"\xff\x00"[..], "{\"hex\":\"ff00\"}")] {
            let bytes = WireBytes(bytes.to_vec());
            assert_eq!(serde_json::to_string(&bytes).unwrap(), json);
            assert_eq!(serde_json::from_str::<WireBytes>(json).unwrap(), bytes);
        }
        assert!(serde_json::from_str::<WireBytes>("{\"hex\":\"f\u{e9}\"}").is_err());
    }
}
