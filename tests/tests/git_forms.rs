//! Repositories whose files or objects are not all there in their own form: filters, Git LFS,
//! partial clones.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use banger_tests::{Home, Repository};

/// What git says in the guest.
#[track_caller]
fn status(repository: &Repository) -> String {
    repository.run(["-q", "--", "git", "status", "--porcelain"]).ok().text()
}

/// Gives a file a time that is another one for git too, which may know times by the second.
fn touch(repository: &Repository, path: &str) {
    static TIMES: AtomicU64 = AtomicU64::new(1);
    let file = fs::File::options().write(true).open(repository.root.join(path)).unwrap();
    let ago = Duration::from_secs(1000 * TIMES.fetch_add(1, Ordering::Relaxed));
    file.set_modified(SystemTime::now() - ago).unwrap();
}

#[test]
fn filtered_file_is_clean_in_guest_as_on_host() {
    let home = Home::with_process_guests();
    let repository = home.repository("r");
    let mark = home.path().join("mark");
    let clean = format!("echo >>'{}'; tr a-z A-Z", mark.display());
    repository.git(["config", "filter.x.clean", &clean]);
    repository.git(["config", "filter.x.smudge", "tr A-Z a-z"]);
    repository.write(".gitattributes", "*.nb filter=x\n");
    repository.write("a.nb", "abc\n");
    repository.write("b.nb", "content of b\n");
    repository.commit("filtered");
    // What is marked from here on was run by banger.
    let unmark = || _ = fs::remove_file(&mark);
    unmark();
    assert_eq!(status(&repository), "");
    // git there has written its index, and still says so.
    repository.write("untracked", "");
    assert_eq!(status(&repository), "?? untracked\n");
    fs::remove_file(repository.root.join("untracked")).unwrap();
    assert_eq!(
        repository.sh("git add -A; git diff --cached --stat; git stash; git status --porcelain").ok().text(),
        "No local changes to save\n"
    );

    touch(&repository, "a.nb");
    assert_eq!(status(&repository), "");
    repository.write("a.nb", "an edit\n");
    assert_eq!(status(&repository), " M a.nb\n");
    // What was there before is known, though git here has not looked.
    repository.write("a.nb", "abc\n");
    assert_eq!(status(&repository), "");
    assert_eq!(status(&repository), "");
    assert!(!mark.exists(), "banger ran what the repository's configuration names");

    repository.git(["checkout", "--quiet", "-b", "other"]);
    repository.write("a.nb", "on the other branch\n");
    repository.commit("other");
    unmark();
    assert_eq!((status(&repository), status(&repository)), (String::new(), String::new()));
    repository.git(["checkout", "--quiet", "-"]);
    assert_eq!((status(&repository), status(&repository)), (String::new(), String::new()));
    assert_eq!(repository.sh("cat a.nb; git cat-file blob HEAD:a.nb").ok().text(), "abc\nABC\n");

    // What is staged there only stays.
    repository.sh("echo own >own; git add own").ok();
    repository.write("b.nb", "another content of b\n");
    assert_eq!(status(&repository), " M b.nb\nA  own\n");
    repository.git(["commit", "--quiet", "--all", "--message", "b"]);
    repository.run(["--", "true"]).refused(&[".git/index"]);
    repository.run(["--host-wins", "--", "true"]).ok();
    assert_eq!(status(&repository), "?? own\n");
    assert_eq!(
        repository.sh("cat b.nb; git cat-file blob HEAD:b.nb").ok().text(),
        "another content of b\nANOTHER CONTENT OF B\n"
    );

    // A new VM, before git here has looked.
    repository.run(["delete", "--force"]).ok();
    touch(&repository, "b.nb");
    unmark();
    let output = repository.run(["--", "git", "status", "--porcelain"]).ok();
    assert!(output.stderr.contains("takes `b.nb` for changed"), "{}", output.stderr);
    assert_eq!(output.text(), " M b.nb\n");
    assert!(!mark.exists(), "banger ran what the repository's configuration names");
    assert_eq!(repository.git(["status", "--porcelain"]), "");
    assert_eq!(status(&repository), "");
    // Without the filter, git compares on both sides what is there.
    repository.git(["config", "--remove-section", "filter.x"]);
    touch(&repository, "b.nb");
    assert_eq!(repository.git(["status", "--porcelain"]), status(&repository));
    assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
}

#[test]
fn git_lfs_files_round_trip() {
    let home = Home::with_process_guests();
    let repository = home.repository("r");
    repository.git(["lfs", "install", "--local"]);
    repository.git(["lfs", "track", "*.bin"]);
    repository.write("large.bin", "large\n".repeat(10_000));
    repository.commit("with a large file");
    let pointer = repository.git(["cat-file", "blob", "HEAD:large.bin"]);
    assert!(pointer.starts_with("version https://git-lfs"), "{pointer}");
    assert_eq!(repository.sh("git status --porcelain; git cat-file blob HEAD:large.bin").ok().text(), pointer);
    repository.assert_same_files();
    // A pull, as it were: other content, and git here has not looked since.
    repository.write("large.bin", "larger\n".repeat(10_000));
    repository.commit("larger");
    touch(&repository, "large.bin");
    assert_eq!(status(&repository), "");
    repository.assert_same_files();
    // What is made there comes back by `banger cp`, and is a pointer here.
    repository.sh("echo made there >large.bin").ok();
    assert_eq!(status(&repository), " M large.bin\n");
    repository.run(["cp", ":large.bin", "large.bin"]).ok();
    repository.commit("made there");
    let stored = ["cat-file", "blob", "HEAD:large.bin"];
    assert!(repository.git(stored).contains("\nsize 11\n"));
    assert_eq!(repository.sh("git cat-file blob HEAD:large.bin").ok().text(), repository.git(stored));
}

#[test]
fn partial_clone_warns_once_and_syncs() {
    let home = Home::with_process_guests();
    let origin = home.repository("origin");
    origin.write("a", "one\n");
    origin.commit("one");
    origin.git(["tag", "v1"]);
    origin.write("a", "two\n");
    origin.commit("two");
    origin.git(["config", "uploadpack.allowFilter", "true"]);
    let url = format!("file://{}", origin.root.display());
    origin.git(["clone", "--quiet", "--filter=blob:none", &url, "../clone"]);
    fs::rename(&origin.root, home.path().join("moved")).unwrap();
    let clone = home.at(home.path().join("clone"));
    let script = "git checkout -q v1 2>/dev/null && exit 1; cat a; git status --porcelain";
    let output = clone.sh(script).ok();
    assert_eq!(output.text(), "two\n");
    let said = "this repository is a partial clone (`blob:none`): files of other commits that git has";
    assert!(output.stderr.contains(said), "{}", output.stderr);
    // Once is enough.
    assert!(!clone.run(["--", "true"]).ok().stderr.contains("partial"));
}
