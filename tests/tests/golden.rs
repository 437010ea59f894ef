//! The image with everything, `debian-bookworm`, which a new VM has if nothing else is said: built
//! here by its recipe, and used.

use std::process::Command;

use banger_tests::registry::{Layout, run};
use banger_tests::{Home, Output, eventually};

#[test]
fn default_image_runs_docker_mise_opencode_and_sshd() {
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

    // Who has a key for VMs is let in by the image's own server too, from the next start on.
    banger(&["ssh-config"]).ok();
    banger(&["restart"]).ok();
    let port = banger(&["port", "add", "0:22"]).ok().text();
    let port = port.trim().rsplit(':').next().unwrap();
    let ssh = |options: &[&str]| {
        let mut ssh = home.command("ssh");
        ssh.args([
            "-p",
            port,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
        ]);
        Output::from(ssh.args(options).args(["root@127.0.0.1", "echo in"]).output().unwrap())
    };
    let key = home.path().join(".config/banger/ssh/id_ed25519");
    // The server starts beside the agent.
    eventually("an answer of the server's", || !ssh(&["-i", "/dev/null"]).stderr.contains("kex_exchange"));
    assert_eq!(ssh(&["-i", key.to_str().unwrap()]).ok().text(), "in\n");
    let refused = ssh(&["-o", "PubkeyAuthentication=no"]);
    assert!(refused.status == 255 && refused.stderr.contains("Permission denied (publickey)"), "{}", refused.stderr);
    let accepted = sh("sshd -T | grep -E '^(password|kbdinteractive)'").ok();
    assert_eq!(accepted.text(), "passwordauthentication no\nkbdinteractiveauthentication no\n");
}
