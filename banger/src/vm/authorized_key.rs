//! The user's key for an SSH server of the guest's own: an image that has one lets in who is let
//! into VMs by banger's.

use std::fs;
use std::path::{Path, PathBuf};

use banger_agent::protocol::{AgentRequest, Authorize};
use banger_vmm::Vm;

use crate::config::{Overrides, Settings};
use crate::host::paths::{Paths, user_config};
use crate::output::ui::Ui;
use crate::vm::agent::Call;

/// In [`folder`]: the user's key, where they have not named another.
pub const OWN: &str = "id_ed25519";
/// No public key is longer, in bytes.
const MAX_LENGTH: usize = 16 << 10;

/// Puts the user's key, if there is one, into a VM that has a server, or is to get one (`awaited`).
/// Without it the VM does as well.
pub(crate) fn put(vm: &Vm, awaited: bool, paths: &Paths, ui: &Ui) {
    let Some(key) = Settings::of_process(paths, None, &Overrides::default()).ok().and_then(|settings| {
        let path = settings.ssh_key_path(paths.home.as_deref()).or_else(own)?;
        fs::read_to_string(with_pub(&path)).ok()
    }) else {
        return;
    };
    put_key(vm, &key, awaited, ui);
}

/// Authorizes `key`, a line of a `.pub` file, in a VM that has an SSH server, or is to get one
/// (`awaited`). A failure is only a detail for the user: the VM works without it.
pub fn put_key(vm: &Vm, key: &str, awaited: bool, ui: &Ui) {
    let Some(key) = line(key) else { return };
    match Call::ask::<bool>(vm, &AgentRequest::Authorize(Authorize { key, awaited })) {
        Ok(true) => ui.detail("the VM's own SSH server knows your key"),
        Ok(false) => {}
        Err(error) => ui.detail(&format!("the VM's own SSH server does not know your key: {error}")),
    }
}

/// Where banger keeps keys of its own.
pub fn folder() -> Option<PathBuf> {
    Some(user_config()?.parent()?.join("ssh"))
}

/// banger's own, which is made when ssh is first asked for.
pub fn own() -> Option<PathBuf> {
    Some(folder()?.join(OWN))
}

/// Where the public half of a key is: beside it.
pub fn with_pub(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// The line for the server. The comment, which tends to name a person and a machine, stays here.
fn line(key: &str) -> Option<String> {
    let mut words = key.split_whitespace();
    let (kind, body) = (words.next()?, words.next()?);
    let is_plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-+/=.@".contains(&byte));
    // What is none, such as a private key or an option of sshd's, begins otherwise.
    let is_kind = kind.starts_with(|c: char| c.is_ascii_lowercase());
    (key.len() <= MAX_LENGTH && is_kind && is_plain(kind) && is_plain(body)).then(|| format!("{kind} {body} banger"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorized_key_line_drops_the_comment() {
        assert_eq!(line("ssh-ed25519 AAAA+/= me@here\n").unwrap(), "ssh-ed25519 AAAA+/= banger");
        assert_eq!(line("sk-ssh-ed25519@openssh.com AAAA").unwrap(), "sk-ssh-ed25519@openssh.com AAAA banger");
        for none in ["", "ssh-ed25519", "command=\"x\" y", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA"] {
            assert_eq!(line(none), None, "{none}");
        }
    }
}
