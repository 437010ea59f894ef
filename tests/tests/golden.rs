//! The image with everything, `debian-bookworm`, which a new VM has if nothing else is said: built here by its recipe, and used.

use std::process::Command;

use banger_tests::registry::{Layout, run};
use banger_tests::{Home, Output};

#[test]
fn docker_mise_opencode_and_an_ssh_server_work_in_it() {
    let home = Home::with_own_images();
    let repository = home.repository("r");
    // As a user has it who has set nothing.
    let banger = |arguments: &[&str]| {
        let mut command = repository.banger();
        command.env_remove("BANGER_DEFAULT_IMAGE_NAME").args(arguments);
        Output::from(command.output().expect("banger runs"))
    };
    banger(&["image", "pull", "debian-bookworm"]).ok();

    // An image for the Docker in the VM travels with the repository.
    let layout = Layout::new(home.path().join("layout"));
    layout.busybox("box", home.path());
    let archive = format!("docker-archive:{}:box:1", repository.root.join("box.tar").display());
    run(Command::new("skopeo").args(["copy", "--quiet", &layout.source("box"), &archive]));

    let sh = |script: &str| banger(&["-q", "--", "bash", "-ec", script]);
    let no_unit_has_failed = "systemctl is-system-running; systemctl --failed --no-legend";
    assert_eq!(sh(no_unit_has_failed).ok().text(), "running\n");
    let tools =
        sh("mise --version; opencode --version; for tool in git jq tmux gcc make; do command -v $tool; done").ok();
    assert_eq!(tools.text().lines().count(), 7, "{}", tools.text());

    let docker = sh("docker load -qi box.tar; docker run --rm box:1 echo in a container").ok();
    assert_eq!(docker.text(), "Loaded image: box:1\nin a container\n");
    assert_eq!(sh(no_unit_has_failed).ok().text(), "running\n");

    let ssh = "ssh -o StrictHostKeyChecking=no -o BatchMode=yes";
    let script = format!(
        "ssh-keygen -q -t ed25519 -N '' -f key; install -D -m 600 key.pub /root/.ssh/authorized_keys\n\
         {ssh} -i key root@127.0.0.1 echo in\n\
         if {ssh} -o PubkeyAuthentication=no root@127.0.0.1 true; then exit 9; fi; sshd -T | grep -E '^(password|kbdinteractive)'"
    );
    let by_key = sh(&script).ok();
    assert_eq!(by_key.text(), "in\npasswordauthentication no\nkbdinteractiveauthentication no\n", "{}", by_key.stderr);
    assert!(by_key.stderr.contains("Permission denied (publickey)"), "{}", by_key.stderr);
}
