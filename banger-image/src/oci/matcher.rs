//! Which image of an index runs in a guest (OCI image specification, "Image Index"), decided as
//! containerd's `platforms.Only` decides.

use super::model::{Descriptor, PlatformFields};
use super::platform::{Platform, Version};
use crate::error::{Error, Result};

/// Which platforms are taken: the one that the user names, or those that run in any guest of this
/// host.
#[derive(Debug)]
pub(super) struct Matcher {
    /// The platform, as errors show it.
    wanted: Platform,
    /// The highest variant that is taken.
    highest: Version,
}

/// The x86-64 level (x86-64 psABI, "Low Level System Information") that every guest of this host
/// has, whatever accelerates it. QEMU's translator has level 2 in all versions that banger
/// supports, and level 3 only from 7.2 on; with KVM a guest has the host's processor. An image is
/// pulled before it is known how a VM runs, and may be run either way.
fn guest_level() -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") {
            return 2;
        }
    }
    1
}

impl Matcher {
    /// Takes the platform `named` and lower variants of it; without one, whatever runs in every
    /// guest of this host.
    pub(super) fn new(named: Option<&Platform>) -> Matcher {
        let wanted = named.cloned().unwrap_or_else(Platform::host);
        let highest = match named {
            None if wanted.architecture == "amd64" => (guest_level(), 0),
            _ => wanted.version().unwrap_or_default(),
        };
        Matcher { wanted, highest }
    }

    /// The platform that is taken, as errors show it.
    pub(super) fn wanted(&self) -> &Platform {
        &self.wanted
    }

    /// Whether an image for `offered` is taken. Of two ranks, the higher uses more of the
    /// processor.
    pub(super) fn rank(&self, offered: &Platform) -> Option<Version> {
        if (&offered.os, &offered.architecture) != (&self.wanted.os, &self.wanted.architecture) {
            return None;
        }
        match offered.version() {
            Some(version) => (version <= self.highest).then_some(version),
            // Of another kind of variants only the very one is known to run.
            None => (offered.variant == self.wanted.variant).then_some(self.highest),
        }
    }

    /// The entry of an index with the highest rank, of equal ones the first. If no entry has a
    /// platform, the only entry.
    ///
    /// # Errors
    /// [`Error::Platform`].
    pub(super) fn choose<'a>(&self, index: &'a [Descriptor]) -> Result<&'a Descriptor> {
        let images: Vec<_> = index.iter().filter(|entry| entry.is_image()).collect();
        let ranked = images.iter().filter_map(|entry| {
            let platform = entry.platform.as_ref()?;
            Some((self.rank(&platform.platform())?, *entry))
        });
        let best = ranked.reduce(|best, next| if next.0 > best.0 { next } else { best });
        if let Some((_, entry)) = best {
            return Ok(entry);
        }
        let mut silent = images.iter().filter(|entry| entry.platform.is_none());
        if let (Some(entry), None) = (silent.next(), silent.next()) {
            return Ok(entry);
        }
        let there = images.iter().filter_map(|entry| entry.platform.as_ref()).map(PlatformFields::platform);
        Err(Error::Platform { wanted: self.wanted.to_string(), there: there.map(|one| one.to_string()).collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::digest::Digest;
    use crate::oci::model::ATTESTATION;

    fn entry(platform: Option<&str>) -> Descriptor {
        let fields = platform.map(|text| {
            let Platform { os, architecture, variant } = text.parse().unwrap();
            PlatformFields { os, architecture, variant }
        });
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(platform.unwrap_or_default().as_bytes()),
            size: 1,
            platform: fields,
            annotations: BTreeMap::new(),
        }
    }

    fn chosen(wanted: Option<&str>, index: &[&str]) -> std::result::Result<String, String> {
        let entries: Vec<_> = index.iter().map(|platform| entry(Some(platform))).collect();
        let wanted = wanted.map(|wanted| wanted.parse::<Platform>().unwrap());
        let chosen = Matcher::new(wanted.as_ref()).choose(&entries).map_err(|error| error.to_string())?;
        Ok(chosen.platform.as_ref().unwrap().platform().to_string())
    }

    #[test]
    fn index_entry_of_the_wanted_platform_is_chosen() {
        let index = ["unknown/unknown", "linux/arm/v7", "linux/amd64"];
        assert_eq!(chosen(Some("linux/amd64"), &index).unwrap(), "linux/amd64");
        assert_eq!(chosen(Some("linux/arm/v7"), &index).unwrap(), "linux/arm/v7");
        let error = chosen(Some("linux/arm/v6"), &index).unwrap_err();
        assert!(error.contains("linux/arm/v6") && error.ends_with("for linux/arm/v7, linux/amd64"), "{error}");
        let silent = [entry(None)];
        assert_eq!(Matcher::new(None).choose(&silent).unwrap(), &silent[0]);
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/amd 64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn attestations_are_never_chosen() {
        let mut attestation = entry(None);
        attestation.annotations.insert(ATTESTATION.into(), "attestation-manifest".into());
        let index = [attestation, entry(None)];
        assert_eq!(Matcher::new(None).choose(&index).unwrap(), &index[1]);
        let attested = Descriptor { annotations: index[0].annotations.clone(), ..entry(Some("linux/amd64")) };
        let index = [attested, entry(Some("linux/amd64"))];
        let wanted = "linux/amd64".parse::<Platform>().unwrap();
        assert!(Matcher::new(Some(&wanted)).choose(&index).unwrap().annotations.is_empty());
    }

    #[test]
    fn highest_runnable_variant_is_chosen() {
        // As containerd's compare_test.go has it, in whatever order the index has them.
        for (wanted, index, expected) in [
            ("linux/amd64", &["linux/amd64/v4", "linux/amd64/v2", "linux/amd64"][..], Some("linux/amd64")),
            ("linux/amd64", &["linux/amd64/v1"], Some("linux/amd64/v1")),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], Some("linux/amd64/v2")),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v3"], Some("linux/amd64/v3")),
            ("linux/amd64/v2", &["linux/amd64/v3"], None),
            ("linux/arm", &["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], Some("linux/arm/v6")),
            ("linux/arm/v6", &["linux/arm"], None),
            ("linux/arm64", &["linux/arm64/v8"], Some("linux/arm64/v8")),
            ("linux/arm64/8", &["linux/arm64"], Some("linux/arm64")),
            ("linux/arm64", &["linux/arm64/v9", "linux/arm/v7"], None),
            ("linux/ppc64le/power9", &["linux/ppc64le/power10", "linux/ppc64le/power9"], Some("linux/ppc64le/power9")),
        ] {
            assert_eq!(chosen(Some(wanted), index).ok().as_deref(), expected, "{wanted} of {index:?}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn default_platform_is_one_the_guest_can_run() {
        let best = if guest_level() == 2 { "linux/amd64/v2" } else { "linux/amd64" };
        assert_eq!(chosen(None, &["linux/amd64/v4", "linux/amd64/v3", "linux/amd64"]).unwrap(), "linux/amd64");
        assert_eq!(chosen(None, &["linux/amd64", "linux/amd64/v2", "linux/amd64/v3"]).unwrap(), best);
        let error = chosen(None, &["linux/amd64/v4", "linux/arm64"]).unwrap_err();
        assert!(error.contains("for linux/amd64:") && error.contains("linux/amd64/v4"), "{error}");
    }
}
