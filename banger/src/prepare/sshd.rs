//! An SSH server in the guest, by the image's own package manager.

use banger_agent::protocol::WireBytes;
use banger_agent::protocol::exec::Exec;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::vm::agent::AgentError;
use crate::vm::authorized_key;
use crate::vm::guest_command;
use crate::vm::running::RunningVm;

/// Where the guest says what came of it.
const LOG: &str = "/var/log/banger-sshd.log";

/// Starts what follows it beside whatever else the guest does.
const DETACHED: &str = r#"sh -c "$1" sh "$2" >/dev/null 2>&1 </dev/null &"#;

/// For sh(1) in the guest: the log. What was interrupted by the VM's end is gone on with at its
/// next start. systemd starts a server that is there by itself; without systemd, this does.
const SCRIPT: &str = r"
there() { [ -x /usr/sbin/sshd ] || command -v sshd; }
if there && [ -d /run/systemd/system ]; then exit; fi
mkdir -p ${1%/*} /etc/ssh/sshd_config.d && exec >$1 2>&1 || exit
printf '%s\n' 'PasswordAuthentication no' 'KbdInteractiveAuthentication no' >/etc/ssh/sshd_config.d/00-banger.conf
if there; then
    :
elif command -v apt-get; then
    export DEBIAN_FRONTEND=noninteractive
    dpkg --configure -a
    apt-get -q update
    apt-get -q -y -o DPkg::Lock::Timeout=600 install --no-install-recommends openssh-server
elif command -v apk; then
    apk add --no-cache openssh-server
elif command -v dnf; then
    dnf -y install openssh-server
elif command -v pacman; then
    pacman -Sy --noconfirm openssh
elif command -v zypper; then
    zypper --non-interactive install openssh-server
else
    echo 'this image has no package manager that banger knows: apt-get, apk, dnf, pacman, zypper'
fi
there || exit
if [ -d /run/systemd/system ]; then
    systemctl enable --now ssh || systemctl enable --now sshd
else
    ssh-keygen -A
    mkdir -p /run/sshd
    $(command -v sshd || echo /usr/sbin/sshd)
fi
";

/// Brings it about in a VM that has just booted, and does not wait for it.
///
/// # Errors
/// The VM's. A guest without a shell goes without.
pub(crate) fn start(
    machine: &RunningVm,
    variables: &[(WireBytes, WireBytes)],
    paths: &Paths,
    ui: &Ui,
) -> Result<(), CommandError> {
    if machine.boot.is_none() {
        return Ok(());
    }
    authorized_key::put(&machine.vm, true, paths, ui);
    let argv = ["sh", "-c", DETACHED, "sh", SCRIPT, LOG].map(Into::into).into();
    let exec = Exec { argv, env: variables.to_vec(), cwd: "/".into(), ..Exec::default() };
    match guest_command::run(&machine.vm, exec, &[], |_| {}) {
        Ok(_) => ui.detail(&format!("an SSH server is seen to beside the command: `{LOG}` in the VM")),
        Err(AgentError::Refused(failure)) => ui.detail(&format!("no SSH server: {}", failure.message)),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
