//! Who this guest is, and whom it asks for names: machine-id, hostname, hosts, resolv.conf.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::AtFlags;
use nix::mount::MsFlags;
use nix::sys::stat::fstatat;
use nix::unistd::sethostname;

use super::BootError;
use super::filesystems::{RUN_DIR, mount_from, write_file};
use super::tree::Tree;
use crate::boot_config::GuestIdentity;

/// Writes what the image cannot know. `agent` is the agent's folder on this VM's disk.
pub(super) fn write(identity: &GuestIdentity, tree: &Tree, agent: &OwnedFd) -> Result<(), BootError> {
    sethostname(&identity.hostname).map_err(BootError::system("set the host name"))?;
    tree.create_folder("/etc", 0o755)?;
    if let Some(id) = &identity.machine_id {
        // systemd takes an empty one for a first boot, and a copy of the image's for another VM.
        write_if_changed(tree, "/etc/machine-id", &format!("{id}\n"), 0o444)?;
    }
    // A name in the image is that of the machine which built it. One that was written in this VM
    // is its user's wish, and stays.
    if !is_in_upper(agent, "etc/hostname") {
        tree.write("/etc/hostname", &format!("{}\n", identity.hostname), 0o644)?;
    }
    let hosts = render_hosts(&tree.read("/etc/hosts")?, &identity.hostname);
    write_if_changed(tree, "/etc/hosts", &hosts, 0o644)?;
    match identity.net {
        Some(net) => bind_resolv_conf(tree, &format!("nameserver {}\n", net.dns)),
        None => Ok(()),
    }
}

/// Mounts a file of ours over `/etc/resolv.conf`, whatever that is. A link is covered itself, not
/// what it leads to: that may not exist, or belong to a service that will want to replace it.
fn bind_resolv_conf(tree: &Tree, content: &str) -> Result<(), BootError> {
    let source = format!("{RUN_DIR}/resolv.conf");
    write_file(Path::new(&source), content)?;
    let path = "/etc/resolv.conf";
    if tree.is_folder(path) {
        tree.set_aside(path)?;
    }
    let place = match tree.place_itself(path) {
        Ok(place) => place,
        Err(_) => {
            tree.write(path, "", 0o644)?;
            tree.place_itself(path)?
        }
    };
    mount_from(&source, &place.path(), MsFlags::MS_BIND)
}

/// Writing what is there already would copy the file up to the VM's disk for nothing.
fn write_if_changed(tree: &Tree, path: &str, content: &str, mode: u32) -> Result<(), BootError> {
    if tree.read(path)? == content {
        return Ok(());
    }
    tree.write(path, content, mode)
}

fn is_in_upper(agent: &OwnedFd, path: &str) -> bool {
    let path = format!("../upper/{path}");
    fstatat(agent.as_fd(), path.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}

/// Adds what `hosts(5)` needs at least: `localhost`, and this machine by its name. As Debian does,
/// the name gets 127.0.1.1.
fn render_hosts(existing: &str, hostname: &str) -> String {
    let mut hosts = existing.to_owned();
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    let wanted = [("127.0.0.1", "localhost"), ("::1", "localhost"), ("127.0.1.1", hostname)];
    for (address, name) in wanted {
        // The name of the machine may be at any address; localhost is needed at both.
        let found = existing.lines().any(|line| {
            let mut words = line.split('#').next().unwrap_or("").split_ascii_whitespace();
            let at = words.next();
            (at == Some(address) || name == hostname) && words.any(|word| word == name)
        });
        if !found {
            hosts.push_str(&format!("{address}\t{name}\n"));
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_made_where_there_are_none() {
        assert_eq!(render_hosts("", "repo"), "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\trepo\n");
    }

    #[test]
    fn hosts_keep_what_is_there_and_are_complete_after_once() {
        let image = "127.0.0.1 localhost\n# ::1 localhost\n10.1.1.1 db repo2";
        let once = render_hosts(image, "repo");
        assert_eq!(once, format!("{image}\n::1\tlocalhost\n127.0.1.1\trepo\n"));
        assert_eq!(render_hosts(&once, "repo"), once);
        assert_eq!(
            render_hosts("127.0.0.1 localhost\n::1 localhost\n10.1.1.1 repo\n", "repo"),
            "127.0.0.1 localhost\n::1 localhost\n10.1.1.1 repo\n"
        );
    }
}
