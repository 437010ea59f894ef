//! The tools that a repository names for mise (<https://mise.jdx.dev>), installed in the guest.

use std::time::Instant;

use banger_agent::protocol::Bytes;
use banger_agent::protocol::exec::{DEFAULT_PATH, Exec, Exit};

use super::{Done, alone};
use crate::agent::AgentError;
use crate::error::CommandError;
use crate::job;
use crate::machine::Machine;
use crate::npm;
use crate::paths::Paths;
use crate::site::Site;
use crate::sync::Listed;
use crate::ui::Ui;
use crate::units::elapsed;

/// What an image gets that has no mise of its own: this version of the npm package `@jdxcode/mise-linux-x64`, whose archive has this digest.
const VERSION: &str = "2026.9.15";
const SHA512: &str = concat!(
    "06eb4f146cb3b4dd1193f1ce1ef1ee7fe5bcd0292f4110236c3587be11897373",
    "e72f77b62a10986483b28f1f303e486bf5525affbb09657a71b6de492e3b1f69"
);
/// The file of a VM that says what was last installed.
const MARK: &str = "tools";
/// Where mise puts a command for each of root's tools.
const SHIMS: &str = "/root/.local/share/mise/shims";

/// For sh(1) in the guest: the log, the archive's address, its digest, and the folder of commands.
///
/// A login shell sets its PATH anew, so it is told of the folder too.
const SCRIPT: &str = r#"set -u
log=$1 address=$2 digest=$3 shims=$4
mkdir -p "${log%/*}" && exec >"$log" 2>&1 </dev/null || exit
if [ -d /etc/profile.d ]; then
    printf 'case ":$PATH:" in *":%s:"*) ;; *) PATH="%s:$PATH" ;; esac\n' "$shims" "$shims" >/etc/profile.d/banger-mise.sh
fi
fetch() {
    if command -v curl; then curl -fsSL --retry 2 -o "$2" "$1"; else wget -nv -O "$2" "$1"; fi
}
if ! command -v mise; then
    echo "mise is not in this image; getting it from $address"
    [ "$(uname -m)" = x86_64 ] || { echo "there is none for $(uname -m)"; exit 1; }
    new=$(mktemp -d) && trap 'rm -rf "$new"' EXIT || exit
    fetch "$address" "$new/archive" || { echo "it cannot be had from there"; exit 1; }
    echo "$digest  $new/archive" | sha512sum -c - || { echo "it is not what it should be"; exit 1; }
    mkdir -p /usr/local/bin && tar -xzf "$new/archive" -C "$new" package/bin/mise || exit
    cp "$new/package/bin/mise" /usr/local/bin/.mise && chmod 755 /usr/local/bin/.mise && mv /usr/local/bin/.mise /usr/local/bin/mise || exit
fi
mise install --yes
"#;

/// What the repository asks of mise.
pub(super) struct Mise {
    /// Of the files that say it.
    digest: String,
    /// Where mise may believe them.
    trusted: Vec<u8>,
    log: String,
    archive: String,
}

impl Mise {
    /// What the listed files say; none if there is none for mise.
    pub(super) fn of(site: &Site, listed: &Listed, paths: &Paths) -> Result<Option<Mise>, CommandError> {
        let Some(files) = listed.digest(site.root(), &mut is_configuration)? else { return Ok(None) };
        let digest = blake3::keyed_hash(&files, VERSION.as_bytes()).to_hex().to_string();
        let trusted = trusted(site);
        let name = site.root().file_name().unwrap_or_default().to_string_lossy();
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c), "_");
        let which = if site.is_own() {
            String::new()
        } else {
            format!("-{}", &blake3::hash(site.guest_path().as_os_str().as_encoded_bytes()).to_hex()[..8])
        };
        let log = format!("/root/.cache/banger/vm-run-tooling-{name}{which}.log");
        let registry = npm::registry(paths.home.as_deref());
        let archive = format!("{registry}/@jdxcode/mise-linux-x64/-/mise-linux-x64-{VERSION}.tgz");
        Ok(Some(Mise { digest, trusted, log, archive }))
    }

    /// The tools are found, and mise asks nobody whether the files are to be believed.
    pub(super) fn variables(&self, of_image: &[(Bytes, Bytes)]) -> Vec<(Bytes, Bytes)> {
        variables(self.trusted.clone(), of_image)
    }

    /// Installs what is not there, unless that was tried for just these files. Where it failed, it is tried again once the VM was started
    /// anew.
    ///
    /// # Errors
    /// The VM's.
    pub(super) fn run(
        &self,
        machine: &Machine,
        site: &Site,
        variables: &[(Bytes, Bytes)],
        ui: &Ui,
    ) -> Result<(), CommandError> {
        let mut done = Done::open(&site.mark(MARK), ui)?;
        let failed = format!("failed {}", self.digest);
        if done.is(&self.digest) || (done.is(&failed) && machine.boot.is_none()) {
            return Ok(());
        }
        let _alone = alone(machine, ui)?;
        done.begin()?;
        ui.status("installing the tools that the repository names for mise");
        let start = Instant::now();
        let words = ["sh", "-c", SCRIPT, "sh", &self.log, &self.archive, SHA512, SHIMS];
        let exec = Exec {
            argv: words.map(Into::into).into(),
            env: variables.to_vec(),
            cwd: site.guest_path().as_os_str().into(),
            ..Exec::default()
        };
        let log = &self.log;
        match job::run(&machine.vm, exec, &[], |_| {}) {
            Ok(finished) if finished.exit == Exit::Code(0) => {
                ui.status(&format!("the tools are there; mise took {}", elapsed(start.elapsed())));
                done.note(&self.digest)
            }
            // An image without a shell, say.
            Err(AgentError::Refused(failure)) => {
                ui.warning(&format!("the repository's tools cannot be installed: {}", failure.message));
                done.note(&failed)
            }
            Ok(_) => {
                let name = machine.vm.name();
                ui.warning(&format!(
                    "mise could not install all of the repository's tools: banger vm exec {name} -- cat {log}"
                ));
                done.note(&failed)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The same for a workspace that a VM was prepared for before: none if it has no tools.
pub(super) fn variables_of(site: &Site, of_image: &[(Bytes, Bytes)]) -> Vec<(Bytes, Bytes)> {
    if site.mark(MARK).exists() { variables(trusted(site), of_image) } else { Vec::new() }
}

fn variables(trusted: Vec<u8>, of_image: &[(Bytes, Bytes)]) -> Vec<(Bytes, Bytes)> {
    let of_image = of_image.iter().rev().find(|(name, _)| name.0 == b"PATH").map(|(_, path)| &path.0[..]);
    let path = [SHIMS.as_bytes(), b":", of_image.unwrap_or(DEFAULT_PATH.as_bytes())].concat();
    vec![("PATH".into(), Bytes(path)), ("MISE_TRUSTED_CONFIG_PATHS".into(), Bytes(trusted))]
}

/// A list of paths: the workspace may be at its own path in the guest too. A colon cannot be part of one.
fn trusted(site: &Site) -> Vec<u8> {
    let paths = [site.guest_path(), site.root()].map(|path| path.as_os_str().as_encoded_bytes());
    let paths: Vec<_> = paths.into_iter().filter(|path| !path.contains(&b':')).collect();
    paths.join(&b':')
}

/// Whether mise reads its configuration from the file at `path`: <https://mise.jdx.dev/configuration.html>.
fn is_configuration(path: &[u8]) -> bool {
    let Ok(path) = std::str::from_utf8(path) else { return false };
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_of_kind = |stem: &str| {
        let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".toml").or(rest.strip_suffix(".lock")));
        rest.is_some_and(|environment| environment.is_empty() || environment.starts_with('.'))
    };
    match folder {
        "" => name == ".tool-versions" || is_of_kind("mise") || is_of_kind(".mise"),
        ".config" => is_of_kind("mise"),
        "mise" | ".mise" => is_of_kind("config"),
        ".config/mise" | ".config/mise/conf.d" | ".mise/conf.d" | "mise/conf.d" => {
            name.ends_with(".toml") || name.ends_with(".lock")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_mise_reads() {
        for path in [
            "mise.toml",
            ".mise.toml",
            "mise.local.toml",
            "mise.ci.toml",
            ".tool-versions",
            "mise.lock",
            ".config/mise.toml",
            ".config/mise/config.toml",
            ".config/mise/conf.d/a.toml",
            "mise/config.toml",
            ".mise/config.ci.toml",
        ] {
            assert!(is_configuration(path.as_bytes()), "{path}");
        }
        for path in ["misery.toml", "sub/mise.toml", "mise.txt", ".config/mise/tasks/build", "package.json"] {
            assert!(!is_configuration(path.as_bytes()), "{path}");
        }
    }
}
