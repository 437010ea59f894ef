//! Two versions of banger on one machine: the command is newer than what runs the VM.

use banger_tests::Home;

#[test]
fn vm_of_older_version_works_and_restart_upgrades_it() {
    let mut home = Home::with_second_version();
    let root = home.repository("r").root.clone();
    home.at(&root).sh("echo kept >/root/kept").ok();
    home.upgrade();
    let repository = home.at(&root);
    let version = repository.run(["--version"]).ok().text().trim().rsplit(' ').next().unwrap().to_owned();
    repository.write("changed", "here\n");
    // Everything that both know works, and it is said once a command, in one line.
    let output = repository.run(["--", "cat", "changed", "/root/kept"]).ok();
    assert_eq!(output.text(), "here\nkept\n");
    let said =
        format!("started by banger 0.0.1-second, this is banger {version}: `banger restart` brings it up to date");
    assert_eq!(output.stderr.matches(&said).count(), 1, "{}", output.stderr);
    assert!(repository.run(["status"]).ok().text().contains("running"));
    assert!(repository.run(["ls"]).ok().text().contains("running"));

    repository.run(["restart"]).ok();
    let output = repository.run(["--", "cat", "/root/kept"]).ok();
    assert!(output.text() == "kept\n" && !output.stderr.contains("0.0.1-second"), "{}", output.stderr);
    repository.run(["stop"]).ok();
    home.assert_at_rest();
}
