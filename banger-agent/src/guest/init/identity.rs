//! Who this guest is, and whom it asks for names: machine-id, hostname, hosts, resolv.conf.

use std::error::Error;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::AtFlags;
use nix::mount::MsFlags;
use nix::sys::stat::fstatat;
use nix::unistd::sethostname;

use super::BootError;
use super::filesystems::{mount_from, write_file};
use super::network;
use super::tree::Tree;
use crate::boot_config::GuestIdentity;
use crate::guest::identity::{ApplyIdentity, IdentityChange};
use crate::net::NetInterface;

/// What is mounted over the guest's `/etc/resolv.conf`.
const RESOLV_CONF: &str = "/run/banger/resolv.conf";

/// Writes what the image cannot know. `agent` is the agent's folder on this VM's disk.
pub(super) fn write(identity: &GuestIdentity, tree: &Tree, agent: &OwnedFd) -> Result<(), BootError> {
    set_hostname(&identity.hostname)?;
    tree.create_folder("/etc", 0o755)?;
    if let Some(id) = &identity.machine_id {
        write_machine_id(tree, id)?;
    }
    // A name in the image is that of the machine which built it. One that was written in this VM
    // is its user's wish, and stays.
    if !is_in_upper(agent, "etc/hostname") {
        tree.write("/etc/hostname", &format!("{}\n", identity.hostname), 0o644)?;
    }
    let hosts = render_hosts(&tree.read("/etc/hosts")?, &identity.hostname);
    write_if_changed(tree, "/etc/hosts", &hosts, 0o644)?;
    match identity.net {
        Some(net) => bind_resolv_conf(tree, &render_resolv_conf(&net)),
        None => Ok(()),
    }
}

/// Changes who this guest is while it runs.
pub(super) struct RunningGuest;

impl ApplyIdentity for RunningGuest {
    fn apply(&mut self, change: &IdentityChange) -> Result<(), Box<dyn Error>> {
        let tree = Tree::open(Path::new("/"))?;
        match change {
            IdentityChange::Hostname { from, to } => {
                set_hostname(to)?;
                rename(&tree, from, to)?;
            }
            IdentityChange::MachineId(id) => write_machine_id(&tree, id)?,
            IdentityChange::Net { from, to } => {
                network::reconfigure(*from, *to)?;
                match (from, to) {
                    (_, None) => {}
                    (None, Some(net)) => bind_resolv_conf(&tree, &render_resolv_conf(net))?,
                    // It is mounted where the guest reads it.
                    (Some(_), Some(net)) => fs::write(RESOLV_CONF, render_resolv_conf(net))?,
                }
            }
        }
        Ok(())
    }
}

fn set_hostname(name: &str) -> Result<(), BootError> {
    sethostname(name).map_err(BootError::system("set the host name"))
}

/// systemd takes an empty one for a first boot, and a copy of the image's for another VM.
fn write_machine_id(tree: &Tree, id: &str) -> Result<(), BootError> {
    write_if_changed(tree, "/etc/machine-id", &format!("{id}\n"), 0o444)
}

/// Writes the host name `to` where `from` was written. Another name in `/etc/hostname` is the
/// user's wish, and stays.
fn rename(tree: &Tree, from: &str, to: &str) -> Result<(), BootError> {
    if tree.read("/etc/hostname")?.trim_end() == from {
        tree.write("/etc/hostname", &format!("{to}\n"), 0o644)?;
    }
    let hosts = tree.read("/etc/hosts")?.replace(&hosts_line("127.0.1.1", from), "");
    write_if_changed(tree, "/etc/hosts", &render_hosts(&hosts, to), 0o644)
}

fn render_resolv_conf(net: &NetInterface) -> String {
    format!("nameserver {}\n", net.dns)
}

/// Mounts a file of ours over `/etc/resolv.conf`, whatever that is. A link is covered itself, not
/// what it leads to: that may not exist, or belong to a service that will want to replace it.
fn bind_resolv_conf(tree: &Tree, content: &str) -> Result<(), BootError> {
    write_file(Path::new(RESOLV_CONF), content)?;
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
    mount_from(RESOLV_CONF, &place.path(), MsFlags::MS_BIND)
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
            hosts.push_str(&hosts_line(address, name));
        }
    }
    hosts
}

fn hosts_line(address: &str, name: &str) -> String {
    format!("{address}\t{name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_host_name_takes_the_place_of_the_former_and_of_no_other() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        let read = |path: &str| tree.read(path).unwrap();
        tree.write("/etc/hostname", "one\n", 0o644).unwrap();
        tree.write("/etc/hosts", &render_hosts("10.1.1.1\tone-db\n", "one"), 0o644).unwrap();
        rename(&tree, "one", "two").unwrap();
        assert_eq!(read("/etc/hostname"), "two\n");
        let hosts = "10.1.1.1\tone-db\n127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\ttwo\n";
        assert_eq!(read("/etc/hosts"), hosts);

        tree.write("/etc/hostname", "the-users\n", 0o644).unwrap();
        rename(&tree, "two", "three").unwrap();
        assert_eq!(read("/etc/hostname"), "the-users\n");
        assert_eq!(read("/etc/hosts"), hosts.replace("two", "three"));
    }

    #[test]
    fn another_machine_id_is_written_over_the_former() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        for id in ["1".repeat(32), "2".repeat(32)] {
            write_machine_id(&tree, &id).unwrap();
            assert_eq!(tree.read("/etc/machine-id").unwrap(), format!("{id}\n"));
        }
    }

    #[test]
    fn empty_hosts_file_gets_all_entries() {
        assert_eq!(render_hosts("", "repo"), "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\trepo\n");
    }

    #[test]
    fn hosts_file_keeps_entries_and_rendering_is_idempotent() {
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
