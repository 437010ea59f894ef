//! Recipes, and running them: `mmdebstrap` (1) fetches and verifies Debian packages and hands over
//! a tree as tar.

use std::io::Read;
use std::path::Path;

use fs_err as fs;
use serde::Deserialize;

use super::namespace;
use super::npm::Package;
use super::tool::MMDEBSTRAP;
use crate::error::Result;
use crate::ext4::{Options, Writer};
use crate::progress::Progress;

/// How to make a tree of Debian packages: the arguments of `mmdebstrap`, as data.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// The release, such as `bookworm`; its updates and security updates are used too.
    suite: String,
    /// `extract` only unpacks, `minbase` installs the essential packages and `apt` as well.
    variant: String,
    /// Packages to add.
    packages: Vec<String>,
    /// Lines for dpkg's configuration, which stay in force in the tree.
    #[serde(default)]
    dpkg_options: Vec<String>,
    /// Shell commands for after unpacking, with the tree's folder as `$1`.
    extract_hook: Option<String>,
    /// Shell commands for after installing, with the tree's folder as `$1`.
    customize_hook: Option<String>,
    /// Programs that Debian does not have.
    #[serde(default)]
    pub(crate) npm: Vec<Package>,
}

impl Recipe {
    /// Builds the tree below the directory `scratch`, and lets `consume` read it as a tar stream.
    ///
    /// # Errors
    /// [`Error::MissingTool`](crate::Error::MissingTool),
    /// [`Error::ToolFailed`](crate::Error::ToolFailed), errors of `consume`.
    pub(crate) fn run<T>(
        &self,
        scratch: &Path,
        progress: &dyn Progress,
        consume: impl FnOnce(&mut dyn Read) -> Result<T>,
    ) -> Result<T> {
        MMDEBSTRAP.require()?;
        let wrapper = namespace::wrapper(scratch)?;
        let mut parser = OutputParser::new(progress);
        MMDEBSTRAP.stream(&wrapper, &self.arguments(), |line| parser.line(line), consume)
    }

    /// Starts the image for the tree in a new file at `path`. Its UUID is derived from the recipe.
    pub(crate) fn start_image(&self, path: &Path) -> Result<Writer> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let parts = self.arguments().into_iter().chain(self.npm.iter().map(|package| package.sha256.to_string()));
        let options = Options::image().derived_from(parts.collect::<Vec<_>>().join("\0").as_bytes());
        Ok(Writer::new(file.into_file(), options)?)
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--verbose".to_owned(),
            "--format=tar".to_owned(),
            "--mode=root".to_owned(),
            format!("--variant={}", self.variant),
            format!("--include={}", self.packages.join(",")),
        ];
        arguments.extend(self.dpkg_options.iter().map(|option| format!("--dpkgopt={option}")));
        arguments.extend(self.extract_hook.iter().map(|hook| format!("--extract-hook={hook}")));
        arguments.extend(self.customize_hook.iter().map(|hook| format!("--customize-hook={hook}")));
        arguments.extend([self.suite.clone(), "-".to_owned()]);
        arguments
    }
}

/// Parses the output of `mmdebstrap --verbose`, apt and dpkg into phases and steps.
struct OutputParser<'a> {
    progress: &'a dyn Progress,
    done: u64,
    total: u64,
}

impl<'a> OutputParser<'a> {
    fn new(progress: &'a dyn Progress) -> Self {
        OutputParser { progress, done: 0, total: 0 }
    }

    fn line(&mut self, line: &str) {
        if let Some(phase) = line.strip_prefix("I: ").and_then(phase) {
            self.progress.phase(phase);
            (self.done, self.total) = (0, 0);
        } else if let Some(packages) = newly_installed(line) {
            // Each is unpacked, and later set up.
            (self.done, self.total) = (0, 2 * packages);
        } else if line.starts_with("Unpacking ") || line.starts_with("Setting up ") {
            self.done += 1;
            if self.done <= self.total {
                self.progress.advance(self.done, self.total);
            }
        }
    }
}

/// What to call a step of `mmdebstrap`; `None` for one that is not worth telling.
fn phase(step: &str) -> Option<&'static str> {
    const PHASES: [(&str, &str); 6] = [
        ("running apt-get update", "reading package lists"),
        ("downloading packages", "downloading packages"),
        ("extracting archives", "extracting packages"),
        ("installing essential", "installing the base system"),
        ("installing remaining", "installing packages"),
        ("creating tarball", "copying the tree"),
    ];
    PHASES.iter().find(|(start, _)| step.starts_with(start)).map(|(_, phase)| *phase)
}

/// The count of apt's `0 upgraded, 129 newly installed, 0 to remove and 0 not upgraded.`
fn newly_installed(line: &str) -> Option<u64> {
    let (before, _) = line.split_once(" newly installed, ")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl Progress for Log {
        fn phase(&self, what: &str) {
            self.0.lock().unwrap().push(what.to_owned());
        }
        fn advance(&self, done: u64, total: u64) {
            self.0.lock().unwrap().push(format!("{done}/{total}"));
        }
        fn message(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }

    #[test]
    fn mmdebstrap_output_is_reported_as_phases_and_steps() {
        let log = Log::default();
        let mut parser = OutputParser::new(&log);
        for line in [
            "I: automatically chosen mode: root",
            "I: running apt-get update...",
            "Get:1 http://mirror.example/debian bookworm InRelease [151 kB]",
            "I: installing remaining packages inside the chroot...",
            "0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.",
            "Unpacking jq (1.6-2.1) ...",
            "Setting up jq (1.6-2.1) ...",
            "Setting up again (1) ...",
        ] {
            parser.line(line);
        }
        let log = log.0.into_inner().unwrap();
        assert_eq!(log, ["reading package lists", "installing packages", "1/2", "2/2"]);
    }
}
