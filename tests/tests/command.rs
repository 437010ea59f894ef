//! `banger -- command`: streams, status, folders.

use banger_tests::Home;

#[test]
fn a_command_runs_in_the_matching_folder_with_its_own_status() {
    let home = Home::new();
    let repository = home.repository("my repo");
    let output = repository.sh("pwd; cat README; echo problem >&2; exit 7");
    assert_eq!(output.status, 7, "{}", output.stderr);
    assert_eq!(output.text(), "/root/repo\na repository\n");
    assert!(output.stderr.contains("problem\n"), "{}", output.stderr);
    let below = repository
        .banger()
        .current_dir(repository.root.join("sub/folder"))
        .args(["-q", "--", "cat", "file"])
        .output()
        .unwrap();
    assert_eq!(
        (below.status.code(), below.stdout.as_slice(), below.stderr.as_slice()),
        (Some(0), &b"below\n"[..], &b""[..])
    );
}
