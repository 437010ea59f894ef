//! `/version`, and what a version has.

use std::fmt;

use serde::Deserialize;

use super::{ApiError, Client, Request};

/// A version of Firecracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// The first that banger runs: it knows all of the API that banger needs, and restores
    /// snapshots with other network interfaces.
    pub(crate) const OLDEST: Version = Version::new(1, 12, 0);
    /// The first that passes on a guest's vsock packets of more than 32 KiB unharmed (Firecracker's
    /// CHANGELOG, 1.14.0, #5485). banger's agent sends none.
    pub(crate) const RECOMMENDED: Version = Version::new(1, 14, 0);
    /// The first whose balloon takes reports of free pages (CHANGELOG, 1.14.0, #5491).
    pub(super) const FREE_PAGE_REPORTING: Version = Version::new(1, 14, 0);
    /// The versions after whose bare pause and resume no host reaches the guest over vsock any more
    /// (CHANGELOG, #6100).
    const LOSES_VSOCK_ON_RESUME: [Version; 2] = [Version::new(1, 16, 0), Version::new(1, 16, 1)];

    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version { major, minor, patch }
    }

    /// Reads `1.12.1`, with what builds from source put behind it, as in `1.17.0-dev`.
    pub(crate) fn parse(text: &str) -> Option<Version> {
        let number = text.split(['-', '+']).next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let version = Version::new(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }

    /// Whether a guest can be paused and go on.
    pub(crate) fn can_pause(self) -> bool {
        !Version::LOSES_VSOCK_ON_RESUME.contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { major, minor, patch } = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// `FirecrackerVersion` of the schema.
#[derive(Deserialize)]
struct FirecrackerVersion {
    firecracker_version: String,
}

impl Client {
    /// The version of the Firecracker that answers.
    pub(in crate::backend::firecracker) async fn version(&self) -> Result<Version, ApiError> {
        let request = Request::get("/version");
        let answer = self.call(&request).await?;
        let version = serde_json::from_slice(&answer).ok();
        let version = version.and_then(|version: FirecrackerVersion| Version::parse(&version.firecracker_version));
        version
            .ok_or_else(|| ApiError::Unreadable { request: request.to_string(), reason: "it names no version".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered_by_number() {
        let read = |text| Version::parse(text).unwrap();
        assert_eq!(read("1.12.1"), Version::new(1, 12, 1));
        assert_eq!(read("1.17.0-dev").to_string(), "1.17.0");
        assert!(
            read("1.9.9") < Version::OLDEST
                && read("1.12.0") >= Version::OLDEST
                && read("10.0.0") > Version::RECOMMENDED
        );
        for garbage in ["", "1.12", "1.12.1.1", "v1.12.1", "1.-2.3", "1.x.3", "99999999999.0.0", "1.12.1\n"] {
            assert_eq!(Version::parse(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn only_versions_that_lose_vsock_cannot_pause() {
        let cannot = |text| !Version::parse(text).unwrap().can_pause();
        assert!(cannot("1.16.0") && cannot("1.16.1"));
        assert!(!cannot("1.12.1") && !cannot("1.15.9") && !cannot("1.16.2") && !cannot("1.17.0-dev"));
    }
}
