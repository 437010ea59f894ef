//! `banger sync`: the working tree in the VM, without a command.

use banger_tests::{Home, Output, Repository};

/// What the guest has in a file, without syncing anything to it first.
fn guest_file(repository: &Repository<'_>, path: &str) -> Output {
    let vm = repository.only_vm();
    let name = vm.file_name().unwrap().to_str().unwrap();
    repository.run(["vm", "exec", name, "--", "cat", &format!("/root/repo/{path}")])
}

#[test]
fn sync_starts_the_vm_and_sends_what_changed() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    let first = repository.run(["sync"]).ok();
    assert_eq!((first.text().as_str(), first.sent().files), ("", 2), "{}", first.stderr);
    assert_eq!(guest_file(&repository, "sub/folder/file").ok().text(), "below\n");

    repository.run(["stop"]).ok();
    repository.write("README", "changed\n");
    repository.write("new", "new\n");
    let second = repository.run(["sync", "--json"]).ok();
    let answer = second.document();
    let numbers = ["files_listed", "files_sent", "files_removed", "files_kept", "references_moved", "bytes_sent"];
    assert_eq!(numbers.map(|key| answer[key].as_u64()), [3, 2, 0, 0, 0, 12].map(Some), "{answer}");
    assert_eq!(answer["workspace"], repository.root.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(guest_file(&repository, "README").ok().text(), "changed\n");
    assert_eq!(repository.run(["sync", "-q"]).ok().stderr, "");
    // A command finds nothing left to send.
    assert_eq!(repository.run(["--", "true"]).ok().sent().files, 0);
}

#[test]
fn sync_refuses_conflicts_unless_told_who_wins() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.sh("echo guest >README").ok();
    repository.write("README", "host\n");
    repository.write("other", "host\n");
    repository.run(["sync"]).refused(&["README (changed here, changed in the VM)", "--host-wins", "--guest-wins"]);
    let error = repository.run(["sync", "--json"]);
    assert_eq!(error.document()["kind"], "conflict", "{error:?}");
    // Nothing was sent.
    assert_ne!(guest_file(&repository, "other").status, 0);
    assert_eq!(repository.run(["sync", "--guest-wins"]).ok().sent().kept, 1);
    assert_eq!(guest_file(&repository, "README").ok().text(), "guest\n");
    repository.write("README", "host again\n");
    repository.run(["sync", "--host-wins"]).ok();
    assert_eq!(guest_file(&repository, "README").ok().text(), "host again\n");
}
