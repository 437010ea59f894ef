//! The tools that a repository names for mise (<https://mise.jdx.dev>), installed in the guest.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use banger_agent::protocol::WireBytes;
use banger_agent::protocol::exec::{DEFAULT_PATH, Exec, Exit};
use banger_vmm::Vm;

use super::{Stamp, alone};
use crate::error::CommandError;
use crate::host::npm;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::output::units::elapsed;
use crate::sync::Listed;
use crate::vm::agent::{AgentError, read_file};
use crate::vm::checkout::GuestCheckout;
use crate::vm::guest_command;
use crate::vm::running::RunningVm;

/// What an image gets that has no mise of its own: this version of the npm package
/// `@jdxcode/mise-linux-x64`, whose archive has this digest.
const VERSION: &str = "2026.9.15";
const SHA512: &str = concat!(
    "06eb4f146cb3b4dd1193f1ce1ef1ee7fe5bcd0292f4110236c3587be11897373",
    "e72f77b62a10986483b28f1f303e486bf5525affbb09657a71b6de492e3b1f69"
);
/// The file of a VM that says what was last installed.
const MARK: &str = "tools";
/// Where mise puts a command for each of root's tools.
const SHIMS: &str = "/root/.local/share/mise/shims";

/// What mise sets is no longer, in bytes.
const MAX_ENVIRONMENT: u64 = 64 << 10;

/// For sh(1) in the guest: the log, the archive's address, its digest, the folder of commands, and
/// the file for what mise sets.
///
/// A login shell sets its PATH anew, so it is told of the folder too.
const SCRIPT: &str = r#"set -u
log=$1 address=$2 digest=$3 shims=$4 environment=$5
rm -f "$environment"
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
status=$?
mise env --json >"$environment.new" && mv "$environment.new" "$environment"
exit $status
"#;

/// What the repository asks of mise.
pub(super) struct Mise {
    place: MiseDirectory,
    /// Of the files that say it.
    digest: String,
    /// Where mise may believe them.
    trusted: Vec<u8>,
    archive: String,
}

/// The innermost directory of a repository with files for mise, of those around the directory that
/// a command runs in: mise goes by all of them. Relative to the repository's root.
pub(super) struct MiseDirectory(PathBuf);

impl MiseDirectory {
    /// The file that says what was installed there.
    fn mark(&self, checkout: &GuestCheckout) -> PathBuf {
        checkout.mark(&format!("{MARK}{}", suffix(&self.0)))
    }

    /// What tells the files in the guest that are about it from those about others.
    fn name(&self, checkout: &GuestCheckout) -> String {
        let name = checkout.root().file_name().unwrap_or_default().to_string_lossy();
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c), "_");
        let which = if checkout.is_own() { String::new() } else { suffix(checkout.guest_path()) };
        format!("{name}{which}{}", suffix(&self.0))
    }

    fn log(&self, checkout: &GuestCheckout) -> String {
        format!("/root/.cache/banger/vm-run-tooling-{}.log", self.name(checkout))
    }

    fn environment(&self, checkout: &GuestCheckout) -> String {
        format!("/root/.cache/banger/mise-env-{}.json", self.name(checkout))
    }
}

/// What tells one path from others in a file's name; nothing for the root.
fn suffix(path: &Path) -> String {
    let digest = |path: &Path| format!("-{}", &blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()[..8]);
    if path.as_os_str().is_empty() { String::new() } else { digest(path) }
}

/// The directories of the repository around `folder` in the guest, the innermost first; the root
/// alone if it is somewhere else.
fn around<'a>(checkout: &GuestCheckout, folder: &'a Path) -> impl Iterator<Item = &'a Path> {
    // The VM's own workspace is at its own path too.
    let below = folder.strip_prefix(checkout.guest_path()).or_else(|_| folder.strip_prefix(checkout.root()));
    let is_plain = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    below.ok().filter(is_plain).unwrap_or(Path::new("")).ancestors()
}

impl Mise {
    /// What the listed files say; none if there is none for mise.
    pub(super) fn of(
        checkout: &GuestCheckout,
        folder: &Path,
        listed: &Listed,
        paths: &Paths,
    ) -> Result<Option<Mise>, CommandError> {
        let has = |directory: &&Path, is: fn(&[u8]) -> bool, path: &[u8]| within(directory, path).is_some_and(is);
        let place =
            around(checkout, folder).find(|place| listed.paths().any(|path| has(place, is_configuration, path)));
        let Some(place) = place else { return Ok(None) };
        let is_input = |path: &[u8]| is_configuration(path) || is_dotenv(path);
        let wanted = |path: &[u8]| place.ancestors().any(|directory| within(directory, path).is_some_and(is_input));
        let Some(files) = listed.digest(checkout.root(), &mut |path| wanted(path))? else { return Ok(None) };
        // What mise sets was not written down by versions of before.
        let digest = blake3::keyed_hash(&files, format!("{VERSION} env").as_bytes()).to_hex().to_string();
        let trusted = trusted(checkout);
        let registry = npm::registry(paths.home.as_deref());
        let archive = format!("{registry}/@jdxcode/mise-linux-x64/-/mise-linux-x64-{VERSION}.tgz");
        Ok(Some(Mise { place: MiseDirectory(place.to_owned()), digest, trusted, archive }))
    }

    /// The tools are found, and mise asks nobody whether the files are to be believed.
    pub(super) fn variables(&self, of_image: &[(WireBytes, WireBytes)]) -> Vec<(WireBytes, WireBytes)> {
        variables(self.trusted.clone(), of_image)
    }

    /// What mise sets, once it was installed: `[env]`, and what tools need.
    pub(super) fn environment(&self, vm: &Vm, checkout: &GuestCheckout, ui: &Ui) -> Vec<(WireBytes, WireBytes)> {
        environment(vm, checkout, &self.place, ui)
    }

    /// Installs what is not there, unless that was tried for just these files. Where it failed, it
    /// is tried again once the VM was started anew.
    ///
    /// # Errors
    /// The VM's.
    pub(super) fn run(
        &self,
        machine: &RunningVm,
        checkout: &GuestCheckout,
        variables: &[(WireBytes, WireBytes)],
        ui: &Ui,
    ) -> Result<(), CommandError> {
        let mut stamp = Stamp::open(&self.place.mark(checkout), ui)?;
        let failed = format!("failed {}", self.digest);
        if stamp.is(&self.digest) || (stamp.is(&failed) && machine.boot.is_none()) {
            return Ok(());
        }
        let _alone = alone(machine, ui)?;
        stamp.begin()?;
        ui.status("installing the tools that the repository names for mise");
        let start = Instant::now();
        let (log, environment) = (&self.place.log(checkout), &self.place.environment(checkout));
        let words = ["sh", "-c", SCRIPT, "sh", log, &self.archive, SHA512, SHIMS, environment];
        let exec = Exec {
            argv: words.map(Into::into).into(),
            env: variables.to_vec(),
            cwd: checkout.guest_path().join(&self.place.0).as_os_str().into(),
            ..Exec::default()
        };
        match guest_command::run(&machine.vm, exec, &[], |_| {}) {
            Ok(finished) if finished.exit == Exit::Code(0) => {
                ui.status(&format!("the tools are there; mise took {}", elapsed(start.elapsed())));
                stamp.note(&self.digest)
            }
            // An image without a shell, say.
            Err(AgentError::Refused(failure)) => {
                ui.warning(&format!("the repository's tools cannot be installed: {}", failure.message));
                stamp.note(&failed)
            }
            Ok(finished) => {
                let name = machine.vm.name();
                let why = if finished.out_of_memory { ", as the VM ran out of memory" } else { "" };
                ui.warning(&format!(
                    "mise could not install all of the repository's tools{why}: banger vm exec {name} -- cat {log}"
                ));
                stamp.note(&failed)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The variables that mise sets for a command in `folder` in the guest, of a workspace that the VM
/// was prepared for before. Empty if that workspace has no tools.
pub(super) fn variables_of(
    vm: &Vm,
    checkout: &GuestCheckout,
    folder: &Path,
    of_image: &[(WireBytes, WireBytes)],
    ui: &Ui,
) -> Vec<(WireBytes, WireBytes)> {
    let mut places = around(checkout, folder).map(|place| MiseDirectory(place.to_owned()));
    let Some(place) = places.find(|place| place.mark(checkout).exists()) else { return Vec::new() };
    let mut all = variables(trusted(checkout), of_image);
    all.extend(environment(vm, checkout, &place, ui));
    all
}

/// What the guest has written down of what mise sets there. It goes back to the guest only.
fn environment(vm: &Vm, checkout: &GuestCheckout, place: &MiseDirectory, ui: &Ui) -> Vec<(WireBytes, WireBytes)> {
    let path = place.environment(checkout);
    let text = read_file(vm, path.as_bytes(), MAX_ENVIRONMENT).unwrap_or_else(|error| {
        ui.detail(&format!("what mise sets cannot be read: {error}"));
        None
    });
    parsed(&text.unwrap_or_default())
}

/// The variables in what `mise env --json` printed.
fn parsed(json: &[u8]) -> Vec<(WireBytes, WireBytes)> {
    let all: BTreeMap<String, String> = serde_json::from_slice(json).unwrap_or_default();
    let is_variable =
        |name: &str, value: &str| !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
    all.into_iter().filter(|(name, value)| is_variable(name, value)).map(|(n, v)| (n.into(), v.into())).collect()
}

fn variables(trusted: Vec<u8>, of_image: &[(WireBytes, WireBytes)]) -> Vec<(WireBytes, WireBytes)> {
    let of_image = of_image.iter().rev().find(|(name, _)| name.0 == b"PATH").map(|(_, path)| &path.0[..]);
    let path = [SHIMS.as_bytes(), b":", of_image.unwrap_or(DEFAULT_PATH.as_bytes())].concat();
    vec![("PATH".into(), WireBytes(path)), ("MISE_TRUSTED_CONFIG_PATHS".into(), WireBytes(trusted))]
}

/// A list of paths: the workspace may be at its own path in the guest too. A colon cannot be part
/// of one.
fn trusted(checkout: &GuestCheckout) -> Vec<u8> {
    let paths = [checkout.guest_path(), checkout.root()].map(|path| path.as_os_str().as_encoded_bytes());
    let paths: Vec<_> = paths.into_iter().filter(|path| !path.contains(&b':')).collect();
    paths.join(&b':')
}

/// The rest of a path that is in a directory of the repository.
fn within<'a>(directory: &Path, path: &'a [u8]) -> Option<&'a [u8]> {
    let directory = directory.as_os_str().as_encoded_bytes();
    if directory.is_empty() { Some(path) } else { path.strip_prefix(directory)?.strip_prefix(b"/") }
}

/// Whether `_.file` of a configuration tends to name the file at `path`.
fn is_dotenv(path: &[u8]) -> bool {
    path == b".env" || (path.starts_with(b".env.") && !path.contains(&b'/'))
}

/// Whether mise reads its configuration from the file at `path`:
/// <https://mise.jdx.dev/configuration.html>.
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
    fn mise_files_apply_to_their_directory_and_below() {
        assert_eq!(within(Path::new(""), b"mise.toml"), Some(&b"mise.toml"[..]));
        assert_eq!(within(Path::new("a/b"), b"a/b/mise.toml"), Some(&b"mise.toml"[..]));
        assert_eq!(within(Path::new("a/b"), b"a/bc/mise.toml"), None);
        assert!(suffix(Path::new("")).is_empty() && suffix(Path::new("a")) != suffix(Path::new("b")));
        assert!(is_dotenv(b".env") && is_dotenv(b".env.local") && !is_dotenv(b"a/.env") && !is_dotenv(b".envrc"));
    }

    #[test]
    fn mise_env_json_is_parsed() {
        let json = br#"{"PATH": "/tools:/bin", "A": "b c\n", "": "x", "B=": "x", "NUL": "\u0000"}"#;
        let read: Vec<_> = parsed(json).iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        assert_eq!(read, [("A".into(), "b c\n".into()), ("PATH".into(), "/tools:/bin".to_owned())]);
        for broken in [&b""[..], b"{", b"[]", b"{\"A\": 1}"] {
            assert!(parsed(broken).is_empty());
        }
    }

    #[test]
    fn mise_configuration_files_are_recognized() {
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
