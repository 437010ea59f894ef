//! What systemd has to be told before it starts. All of it lives in `/run`: nothing is left in the
//! image or on the disk.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::BootError;
use super::filesystems::{create_folder, write_file};
use super::pid1::Init;
use super::ready::Boot;
use super::tree::Tree;

/// Units that would hurt here, and why.
const MASKED_UNITS: [&str; 5] = [
    // Mounts an empty tmpfs over the /tmp that commands may be using by then (Debian 13).
    "tmp.mount",
    // The console is a log: a login prompt there is noise, and would restart for ever.
    "serial-getty@ttyS0.service",
    // Asks questions on the console.
    "systemd-firstboot.service",
    // eth0 is up already and managed by neither: they would wait for two minutes, then fail.
    "systemd-networkd-wait-online.service",
    "NetworkManager-wait-online.service",
];

/// Replaces the distribution's file of that name (`tmpfiles.d(5)`). Debian 12 empties `/tmp`
/// seconds after boot, when commands run already; Debian 13 deletes what is ten days old.
const TMPFILES: (&str, &str) = ("/run/tmpfiles.d/tmp.conf", "d /tmp 1777 root root -\nd /var/tmp 1777 root root -\n");

/// Masks what harms and sets up how systemd reports that it has booted. Other inits get nothing:
/// a `/run/systemd/system` means to programs that systemd runs (`sd_booted(3)`).
pub(super) fn prepare(init: &Init, tree: &Tree) -> Result<Boot, BootError> {
    if !matches!(init, Init::Systemd(_)) {
        return Ok(Boot::none());
    }
    let units = Path::new("/run/systemd/system");
    create_folder(units, 0o755)?;
    // It runs where there are modules, and fails where there is no kmod.
    let without_kmod = (!tree.exists("/bin/kmod")).then_some("kmod-static-nodes.service");
    for unit in MASKED_UNITS.into_iter().chain(without_kmod) {
        let link = units.join(unit);
        symlink("/dev/null", &link).map_err(BootError::io("create", &link))?;
    }
    create_folder(Path::new("/run/tmpfiles.d"), 0o755)?;
    let (path, rules) = TMPFILES;
    write_file(Path::new(path), rules)?;
    Boot::listen()
}
