//! An SSH server that the image's own package manager installs, beside the first command.

use std::fs;
use std::time::Duration;

use banger_tests::registry::Layout;
use banger_tests::{Home, eventually, within};

const LOG: &str = "/var/log/banger-sshd.log";

#[test]
fn first_boot_sshd_is_installed_in_the_background() {
    let home = Home::new();
    home.configure("first_boot_sshd = true\n");
    let repository = home.repository("r");
    // The first command is not kept waiting.
    let first = repository.run(["--", "sh", "-c", "test ! -e /usr/sbin/sshd; echo $?"]).ok();
    assert_eq!(first.text(), "0\n");
    let is_active = || repository.run(["-q", "--", "systemctl", "is-active", "--quiet", "ssh"]).status == 0;
    within(Duration::from_secs(400), "the server runs", is_active);
    let effective = repository.run(["-q", "--", "sh", "-c", "sshd -T | grep -i passwordauthentication"]).ok();
    assert_eq!(effective.text(), "passwordauthentication no\n");
    assert!(repository.run(["-q", "--", "cat", LOG]).ok().text().contains("openssh-server"));
}

#[test]
fn first_boot_sshd_supports_each_package_manager() {
    let home = Home::with_own_images();
    let layout = Layout::new(home.path().join("layout"));
    layout.busybox("box", home.path());
    for tool in ["mkdir", "printf", "rm", "chmod", "grep"] {
        layout.insert("box", "/bin/busybox".as_ref(), &format!("/bin/{tool}"));
    }
    let repository = home.repository("r");
    repository.run(["image", "pull", &layout.source("box"), "--name", "box", "--with-sshd"]).ok();
    let run = |script: &str| repository.run(["-q", "--image", "box", "--", "sh", "-c", script]);
    // Who has a key for VMs is let in, from the first start on, and by a line that is there once.
    repository.run(["ssh-config"]).ok();
    let public = fs::read_to_string(home.path().join(".config/banger/ssh/id_ed25519.pub")).unwrap();
    let line = format!("{} banger\n", public.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
    let authorized = || run("cat /root/.ssh/authorized_keys").ok().text();
    let seen = |word: &str| eventually(word, || run(&format!("grep -q -- '{word}' {LOG}")).status == 0);
    run("true").ok();
    seen("no package manager");
    assert_eq!(authorized(), line);
    // Stand-ins: they say what they were asked, and leave a server behind that says that it was
    // started.
    for (manager, asked) in [
        ("apk", "add --no-cache openssh-server"),
        ("dnf", "-y install openssh-server"),
        ("pacman", "-Sy --noconfirm openssh"),
        ("zypper", "--non-interactive install openssh-server"),
    ] {
        let stand_in = format!(
            "#!/bin/sh\necho \"{manager} $*\"\nmkdir -p /usr/sbin\nprintf '#!/bin/sh\\necho the server has started\\n' >/usr/sbin/sshd\nchmod 755 /usr/sbin/sshd\n"
        );
        fs::write(repository.root.join("stand-in"), stand_in).unwrap();
        run(&format!("rm -f {LOG} /bin/apk /bin/dnf /bin/pacman /bin/zypper /usr/sbin/sshd; cat stand-in >/bin/{manager}; chmod 755 /bin/{manager}")).ok();
        repository.run(["stop"]).ok();
        run("true").ok();
        seen(&format!("^{manager} {asked}$"));
        seen("^the server has started$");
        assert_eq!(authorized(), line);
    }
    // Who logs in through banger's server may do so through that one.
    run("rm -r /root/.ssh").ok();
    repository.run(["ssh", "--", "true"]).ok();
    assert_eq!(authorized(), line);
}
