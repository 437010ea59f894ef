//! What an image is for: operating system and processor.

use std::fmt;
use std::str::FromStr;

/// The platform that an image is for, such as `linux/amd64` or `linux/arm/v7` (OCI image
/// specification, "Image Index", `platform`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The operating system, a `GOOS` of Go.
    pub os: String,
    /// The processor architecture, a `GOARCH` of Go.
    pub architecture: String,
    /// The variant of the processor, such as `v7`.
    pub variant: Option<String>,
}

/// A variant as numbers that can be compared: `v8.2` is (8, 2).
pub(super) type Version = (u32, u32);

impl Platform {
    /// The platform of this host, without a variant.
    #[must_use]
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// The variant as numbers; without a variant, the one that its absence means. `None` if its
    /// form is unknown.
    pub(super) fn version(&self) -> Option<Version> {
        let variant = self.variant.as_deref().unwrap_or(match &*self.architecture {
            "arm" => "v7",
            "arm64" => "v8",
            _ => "v1",
        });
        let numbers = variant.strip_prefix('v').unwrap_or(variant);
        let (major, minor) = numbers.split_once('.').unwrap_or((numbers, "0"));
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Platform, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match parts[..] {
            [os, architecture] | [os, architecture, _] if parts.iter().all(is_word) => Ok(Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: parts.get(2).map(|&variant| variant.to_owned()),
            }),
            _ => Err("a platform is OS/ARCHITECTURE, such as linux/amd64".to_owned()),
        }
    }
}
