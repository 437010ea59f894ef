//! What tells that a repository has changed.

use super::*;

#[test]
fn fingerprint_covers_git_state_but_not_the_working_tree() {
    let fixture = Fixture::new();
    fixture.write("a", "a");
    fixture.commit("first");
    let take = || fixture.workspace().repository.fingerprint().unwrap();
    let mut last = take();
    fixture.write("a", "changed");
    assert_eq!(take(), last);
    let mut changed = |what: &str| {
        let now = take();
        assert_ne!(now, last, "{what}");
        last = now;
    };
    for arguments in [
        &["add", "a"][..],
        &["commit", "-qm", "second"],
        &["branch", "deep/er"],
        &["pack-refs", "--all"],
        &["gc", "-q"],
        &["config", "user.name", "Other"],
        &["stash", "-q"],
        &["checkout", "-q", "--detach"],
    ] {
        fixture.git(arguments);
        changed(arguments[0]);
    }
    fixture.write(".git/info/exclude", "x");
    changed("info/exclude");
    fixture.write(".git/MERGE_MSG", "x");
    changed("MERGE_MSG");
}

#[test]
fn index_digest_depends_only_on_staged_content() {
    let fixture = Fixture::new();
    fixture.write("a", "a");
    fixture.write("b/c", "c");
    fixture.git(&["add", "."]);
    let repository = fixture.workspace().repository;
    let digest = || repository.index_digest(&fs::read(fixture.root.join(".git/index")).unwrap()).unwrap();
    let first = digest();
    fixture.write("a", "a");
    fixture.git(&["update-index", "--refresh"]);
    fixture.git(&["update-index", "--index-version", "4", "--force-write-index"]);
    assert_eq!(digest(), first);
    fixture.git(&["update-index", "--chmod=+x", "a"]);
    assert_ne!(digest(), first);
}

#[test]
fn damaged_index_never_panics() {
    let fixture = Fixture::new();
    for number in 0..20 {
        fixture.write(format!("d{number}/{number}"), "x");
    }
    fixture.commit("tree extension");
    let repository = fixture.workspace().repository;
    let index = fs::read(fixture.root.join(".git/index")).unwrap();
    for length in 0..index.len() {
        let _ = repository.index_digest(&index[..length]);
    }
    for position in 0..index.len() {
        for value in [0, 0x7f, 0xff, b'l'] {
            let mut bytes = index.clone();
            bytes[position] = value;
            let _ = repository.index_digest(&bytes);
        }
    }
    fixture.git(&["update-index", "--split-index"]);
    let split = fs::read(fixture.root.join(".git/index")).unwrap();
    assert!(repository.index_digest(&split).is_err());
}
