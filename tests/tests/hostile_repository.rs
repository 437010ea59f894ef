//! Repositories whose git files lead out of them: nothing of that is read without `banger trust`.

use std::fs;
use std::os::unix::fs::symlink;

use banger_tests::Home;

#[test]
fn git_paths_outside_repository_need_trust() {
    let home = Home::with_process_guests();
    let origin = home.repository("origin");
    origin.write("file", "content\n");
    origin.commit("of the origin");
    let clone = home.repository("clone");
    fs::remove_dir_all(&clone.root).unwrap();
    origin.git(["clone", "--quiet", "--shared", ".", clone.root.to_str().unwrap()]);

    // The link, where it leads and what to do.
    let objects = origin.root.join(".git/objects");
    let named = ["`.git/objects/info/alternates`", objects.to_str().unwrap(), "hint: ", "banger trust"];
    clone.run(["--", "true"]).refused(&named);
    let trusted = clone.run(["trust"]).ok();
    assert!(trusted.stderr.contains(objects.to_str().unwrap()), "{}", trusted.stderr);
    assert_eq!(clone.run(["--", "cat", "file"]).ok().text(), "content\n");
    // Trust is in this place, not in the next one.
    let keys = home.path().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::write(keys.join("id"), "secret\n").unwrap();
    symlink(&keys, clone.root.join(".git/rebase-merge")).unwrap();
    clone.run(["--", "true"]).refused(&["`.git/rebase-merge`", keys.to_str().unwrap(), "banger trust"]);
    fs::remove_file(clone.root.join(".git/rebase-merge")).unwrap();
    clone.run(["--", "true"]).ok();
    clone.run(["trust", "--revoke"]).ok();
    clone.run(["--", "true"]).refused(&named);
    // In a repository that leads nowhere else there is nothing to trust.
    assert!(origin.run(["trust"]).ok().stderr.contains("nothing to trust"));
    clone.run(["delete", "--force"]);
}

#[test]
fn damaged_index_is_an_error_not_a_panic() {
    let home = Home::with_process_guests();
    let repository = home.repository("r");
    repository.write("file", "content\n");
    repository.commit("first");
    let index = repository.root.join(".git/index");
    let whole = fs::read(&index).unwrap();
    for damage in [&whole[..whole.len() / 2], &b"DIRC\0\0\0\x02\xff\xff\xff\xff"[..], b""] {
        fs::write(&index, damage).unwrap();
        let refused = repository.run(["--", "true"]).refused(&["the index", "git fsck"]);
        assert!(
            !refused.stderr.contains("panicked") && !refused.stderr.contains("internal error"),
            "{}",
            refused.stderr
        );
    }
    // One whose entries are sound, and whose offsets for threads are not: git reads it too.
    fs::write(&index, include_bytes!("../../banger/tests/git_corpus/data/damaged-index-1")).unwrap();
    repository.run(["--", "true"]).ok();
}
