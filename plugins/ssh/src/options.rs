//! Options for OpenSSH's client to reach VMs: ssh_config(5).

use std::path::Path;

use banger::error::{CommandError, ErrorKind};
use banger::host::paths::Paths;
use banger::output::command_output::{CommandOutput, Verbosity};
use banger::plugin;
use serde::Serialize;

use crate::keys::{HOST_ALIAS, Keys};

/// The suffix that makes the name of a VM a name of a host.
pub(crate) const SUFFIX: &str = ".banger";

/// The options for all VMs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SshConfig {
    /// The options as a file for `Include` in ssh_config(5).
    config: String,
}

/// The hosts that the options are for. A name with an apostrophe is none of them: it would end the
/// quotes around `%h`. Clients before OpenSSH 9.6 take such names from anywhere, a submodule's URL
/// for one (CVE-2023-51385).
const HOSTS: &str = r#"*.banger "!*'*""#;

/// A comment in the file, about options that cannot be set for VMs alone.
const NOTE: &str = "\
# Put `Include` of this file at the top of ~/.ssh/config: of an option, the first value counts.
# LocalForward, RemoteForward and DynamicForward add up: write `Host * !*.banger` above yours.
";

/// The options for all VMs. The keys that they name are made if they are missing.
///
/// # Errors
/// If a key cannot be made, or a path cannot be named in ssh's configuration.
pub(crate) fn config(paths: &Paths) -> Result<SshConfig, CommandError> {
    let lines = options(paths)?;
    let lines: String = lines.iter().map(|(name, value)| format!("    {name} {value}\n")).collect();
    Ok(SshConfig { config: format!("{NOTE}Host {HOSTS}\n{lines}") })
}

impl CommandOutput for SshConfig {
    fn text(&self, _verbosity: Verbosity) -> String {
        self.config.clone()
    }
}

/// The options: names and values.
pub(crate) fn options(paths: &Paths) -> Result<Vec<(&'static str, String)>, CommandError> {
    let keys = Keys::ensure(paths)?;
    let banger = plugin::banger()?;
    Ok(vec![
        // ssh has a shell run this, and puts the name into it as it is.
        ("ProxyCommand", format!("{} ssh-proxy -- '%h'", quoted(&banger)?)),
        ("User", "root".to_owned()),
        ("IdentityFile", quoted(&keys.identity)?),
        ("IdentitiesOnly", "yes".to_owned()),
        // The fastest that both ends have: ssh would take another.
        ("Ciphers", "aes256-gcm@openssh.com".to_owned()),
        ("PreferredAuthentications", "publickey".to_owned()),
        ("HostKeyAlias", HOST_ALIAS.to_owned()),
        ("UserKnownHostsFile", quoted(&keys.known_hosts)?),
        ("GlobalKnownHostsFile", "/dev/null".to_owned()),
        ("StrictHostKeyChecking", "yes".to_owned()),
        ("UpdateHostKeys", "no".to_owned()),
        // What the user's configuration forwards to every host is not for a guest. The command line
        // comes first: `-A` works.
        ("ForwardAgent", "no".to_owned()),
        ("ForwardX11", "no".to_owned()),
        ("Tunnel", "no".to_owned()),
    ])
}

/// Quotes a path as a value: ssh interprets `%` and quotes, and for ProxyCommand also a shell.
fn quoted(path: &Path) -> Result<String, CommandError> {
    let text = path.to_str().filter(|text| !text.contains(['"', '\\', '$', '`', '\n', '\r']));
    let text = text.ok_or_else(|| {
        let message = format!("`{}` has characters that ssh's configuration cannot have in a path", path.display());
        CommandError::new(message).kind(ErrorKind::Config)
    })?;
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_config_paths_are_quoted_or_refused() {
        assert_eq!(quoted(Path::new("/a b/50%")).unwrap(), "\"/a b/50%%\"");
        for path in ["/a\"b", "/a$b", "/a\nb"] {
            assert!(quoted(Path::new(path)).is_err(), "{path}");
        }
    }
}
