//! What the host and the guest change at the same time: three states are compared, and nothing is
//! lost, holes of files neither.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::time::{Duration, Instant, SystemTime};

use banger_tests::{Home, Repository};

/// What the guest has in a file, without syncing anything to it first.
fn guest_file(repository: &Repository, path: &str) -> String {
    repository.run(["-q", "--guest-wins", "--", "cat", path]).ok().text()
}

#[test]
fn sync_skips_holes_of_sparse_files() {
    const SIZE: u64 = 64 << 30;
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.run(["--", "true"]).ok();
    let file = fs::File::create(repository.root.join("vm.img")).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(b"first", SIZE / 2).unwrap();
    // Size, whether it has few blocks, and what is at the two places.
    let script = "stat -c %s vm.img; [ $(stat -c %b vm.img) -lt 1024 ] && echo sparse; \
                  tail -c $((32 << 30)) vm.img | head -c 5; tail -c 3 vm.img | tr '\\0' .";
    let start = Instant::now();
    let sent = repository.sh(script).ok();
    assert_eq!(sent.text(), format!("{SIZE}\nsparse\nfirst..."));
    // One byte changes, and then nothing but the time, on both sides.
    file.write_all_at(b"!", SIZE - 1).unwrap();
    assert_eq!(repository.sh(script).ok().text(), format!("{SIZE}\nsparse\nfirst..!"));
    repository.sh("touch vm.img").ok();
    file.set_modified(SystemTime::now()).unwrap();
    assert_eq!(repository.sh(script).ok().text(), format!("{SIZE}\nsparse\nfirst..!"));
    // What has the other file's holes is another file.
    repository.sh("truncate -s +1 vm.img").ok();
    file.write_all_at(b"?", SIZE - 1).unwrap();
    repository.sh("true").refused(&["vm.img ("]);
    // To read so much would take minutes.
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn sync_keeps_guest_write_made_during_transfer() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.write("file", "base\n");
    // It waits until files have begun to come.
    let script = "while [ ! -e /run/banger/workspace/stage ]; do :; done; echo guest >file";
    repository.sh(&format!("setsid sh -c '{script}' >/dev/null 2>&1 &")).ok();
    repository.write("file", "host\n");
    repository.write("large", vec![7; 128 << 20]);
    repository.sh("true").refused(&["file ("]);
    assert_eq!(guest_file(&repository, "file"), "guest\n");
}

#[test]
fn files_changed_on_both_sides_are_conflicts() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    for path in ["both", "both-too", "host-deletes", "guest-deletes", "guest", "same", "same-gone"] {
        repository.write(path, "base\n");
    }
    repository.commit("second");
    let in_guest = "for f in both both-too host-deletes guest; do echo guest >$f; done; rm guest-deletes same-gone; \
                    echo alike >same; echo guest >made-by-both; echo guest >made-by-guest";
    repository.sh(in_guest).ok();
    // Changed only in the guest: kept, and counted.
    let output = repository.run(["--", "cat", "guest"]).ok();
    assert_eq!((output.text().as_str(), output.sent().files), ("guest\n", 0));
    assert_eq!(repository.guest_only(), (9, 0));

    for path in ["both", "both-too", "guest-deletes", "made-by-both"] {
        repository.write(path, "host\n");
    }
    repository.write("same", "alike\n");
    fs::remove_file(repository.root.join("host-deletes")).unwrap();
    fs::remove_file(repository.root.join("same-gone")).unwrap();
    repository.write("only-here", "host\n");
    let names =
        ["both (", "both-too (", "guest-deletes (", "host-deletes (", "made-by-both (", "--host-wins", "--guest-wins"];
    for _ in 0..2 {
        let output = repository.sh("touch ran").refused(&names);
        for name in ["same", "guest (", "only-here"] {
            assert!(!output.stderr.lines().any(|line| line.trim().starts_with(name)), "{}", output.stderr);
        }
    }
    let script = "cat both host-deletes guest; ls guest-deletes only-here ran 2>/dev/null; true";
    let output = repository.run(["--guest-wins", "--", "sh", "-c", script]).ok();
    assert_eq!(output.text(), "guest\nguest\nguest\nonly-here\n");
    assert_eq!(output.sent().kept, 5);
    // That settled it.
    let output = repository.run(["--", "cat", "both"]).ok();
    assert_eq!((output.text().as_str(), output.sent().files), ("guest\n", 0));

    // The next edit of the same file is a conflict again, and the host may win.
    repository.write("both", "host again\n");
    repository.sh("true").refused(&["both ("]);
    repository.run(["--host-wins", "--", "true"]).ok();
    assert_eq!(repository.run(["--", "cat", "both", "both-too"]).ok().text(), "host again\nguest\n");
    // Where the guest comes round to the host's content, there is nothing to settle.
    repository.sh("echo new >both").ok();
    repository.write("both", "new\n");
    assert_eq!(repository.run(["--", "true"]).ok().sent().files, 0);
    repository.write("both", "newer\n");
    assert_eq!(repository.run(["--", "cat", "both"]).ok().text(), "newer\n");
}

#[test]
fn sync_preserves_file_modes_exactly() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    let chmod = |path: &str, mode: u32| {
        std::fs::set_permissions(repository.root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    repository.write("shared", "x");
    chmod("shared", 0o664);
    repository.run(["--", "true"]).ok();
    repository.write("later", "x");
    chmod("later", 0o777);
    repository.assert_same_files();
    assert_eq!(repository.guest_only(), (0, 0));
    // A mode that the guest has changed is a change as any other.
    repository.sh("chmod 755 README").ok();
    repository.write("README", "host\n");
    repository.run(["--", "true"]).refused(&["README"]);
    repository.run(["--host-wins", "--", "true"]).ok();
    repository.assert_same_files();
}

#[test]
fn file_and_directory_at_the_same_path_conflict() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    let root = &repository.root;
    repository.write(".gitignore", "*.o\n");
    repository.write("dir/a", "a\n");
    repository.write("to-link/a", "a\n");
    repository.commit("second");
    // The guest makes files where the host will make folders, and the other way around.
    repository
        .sh("echo guest >x; mkdir y; echo guest >y/file; echo built >dir/a.o; mkfifo pipe; echo built >to-link/a.o")
        .ok();
    repository.write("x/below", "host\n");
    repository.write("y", "host\n");
    repository.write("pipe", "host\n");
    fs::remove_dir_all(root.join("dir")).unwrap();
    repository.write("dir", "a file now\n");
    fs::remove_dir_all(root.join("to-link")).unwrap();
    symlink("sub", root.join("to-link")).unwrap();
    repository.sh("true").refused(&["x (", "y/file (", "pipe (", "dir/a.o (", "to-link/a.o ("]);
    assert_eq!(guest_file(&repository, "x"), "guest\n");
    let script = "cat y/file dir/a.o; test -p pipe";
    assert_eq!(repository.run(["-q", "--", "sh", "-c", script]).ok().text(), "guest\nbuilt\n");

    for path in ["x/below", "y", "pipe", "dir"] {
        repository.write(path, "host again\n");
    }
    fs::remove_file(root.join("to-link")).unwrap();
    symlink("./sub", root.join("to-link")).unwrap();
    repository.sh("true").refused(&["x (", "y/file (", "pipe (", "dir/a.o ("]);
    repository.run(["--host-wins", "--", "true"]).ok();
    repository.assert_same_files();
    repository.assert_same_git();
}

#[test]
fn sync_never_loses_guest_commits() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.sh("git commit -q --allow-empty -m guest-1; git tag guest-tag; git branch guest-branch").ok();
    let tip = repository.sh("git rev-parse main").ok().text();
    assert_eq!(repository.guest_only(), (0, 3));
    // An edit of a file does not concern them.
    repository.write("README", "edited\n");
    assert_eq!(repository.sh("git rev-parse main").ok().text(), tip);

    // The host's branch moves too.
    repository.git(["commit", "--quiet", "--all", "--message", "host-1"]);
    let output = repository.sh("touch ran").refused(&[".git/refs/heads/main ("]);
    assert!(!output.stderr.contains("guest-branch"), "{}", output.stderr);
    repository.run(["--host-wins", "--", "true"]).ok();
    let script = "git log -1 --format=%s main; git for-each-ref --format='%(refname)' refs/banger; test ! -e ran; \
                  git rev-parse refs/banger/guest/1/refs/heads/main guest-tag guest-branch";
    let expected = format!("host-1\nrefs/banger/guest/1/refs/heads/main\n{tip}{tip}{tip}");
    assert_eq!(repository.sh(script).ok().text(), expected);
    assert_eq!(repository.guest_only().0, 0);

    // The host switches the branch, while the guest has commits on the former.
    repository.sh("echo more >more; git add more; git commit -qm guest-2").ok();
    let second = repository.sh("git rev-parse main").ok().text();
    repository.git(["checkout", "--quiet", "-b", "feature"]);
    assert_eq!(repository.sh("git rev-parse main").ok().text(), second);
    repository.write("feature", "");
    repository.git(["add", "feature"]);
    repository.sh("true").refused(&[".git/index ("]);
    repository.run(["--host-wins", "--", "true"]).ok();
    assert_eq!(repository.sh("git rev-parse main").ok().text(), second);
    assert_eq!(repository.sh("git diff --cached --name-only; cat more").ok().text(), "feature\nmore\n");

    // A commit on no branch, when the host's HEAD moves; a branch that the host deletes; names in
    // each other's way.
    repository.git(["commit", "--quiet", "--message", "feature"]);
    repository.git(["branch", "topic"]);
    let script = "git checkout -q --detach; git commit -q --allow-empty -m detached; git branch -f topic; git branch a/b; \
                  git branch plain";
    repository.sh(script).ok();
    let third = repository.sh("git rev-parse HEAD").ok().text();
    repository.git(["branch", "--quiet", "-D", "topic"]);
    repository.git(["branch", "a"]);
    repository.git(["branch", "plain/below"]);
    repository.git(["checkout", "--quiet", "main"]);
    repository.sh("true").refused(&[".git/HEAD (", "refs/heads/topic (", "refs/heads/a/b (", "refs/heads/plain ("]);
    repository.run(["--host-wins", "--", "true"]).ok();
    let script = "git for-each-ref --format='%(objectname)' refs/banger/guest/ | grep -c $0; git rev-parse --verify a plain/below; \
                  git rev-parse --symbolic-full-name HEAD; git fsck --no-progress --no-dangling";
    let text = repository.run(["-q", "--", "sh", "-c", script, third.trim()]).ok().text();
    assert!(text.starts_with("4\n") && text.ends_with("refs/heads/main\n"), "{text}");
    repository.run(["--", "true"]).ok();

    // With --guest-wins the branch stays, and the next run has nothing to say.
    repository.sh("git commit -q --allow-empty -m guest-3").ok();
    repository.git(["commit", "--quiet", "--allow-empty", "--message", "host-3"]);
    repository.sh("true").refused(&["refs/heads/main ("]);
    let subject = ["-q", "--guest-wins", "--", "git", "log", "-1", "--format=%s"];
    assert_eq!(repository.run(subject).ok().text(), "guest-3\n");
    assert_eq!(repository.sh("git log -1 --format=%s").ok().text(), "guest-3\n");
}

#[test]
fn host_wins_resets_branch_together_with_index() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.sh("echo guest >guest; git add guest; git commit -qm guest").ok();
    let tip = repository.sh("git rev-parse main").ok().text();
    repository.write("staged", "");
    repository.git(["add", "staged"]);
    repository.sh("true").refused(&[".git/index ("]);
    repository.run(["--host-wins", "--", "true"]).ok();
    let script = "git status --porcelain; git rev-parse refs/banger/guest/1/refs/heads/main; git show $(git rev-parse main):README";
    let expected = format!("A  staged\n?? guest\n{tip}a repository\n");
    assert_eq!(repository.sh(script).ok().text(), expected);
    assert_eq!(repository.guest_only(), (1, 1));

    // One that is too long to be looked at has changed, whatever is in it.
    repository.sh("truncate --size 40M .git/index").ok();
    repository.write("later", "");
    repository.git(["add", "later"]);
    repository.sh("true").refused(&[".git/index ("]);
    repository.run(["--host-wins", "--", "true"]).ok();
    assert_eq!(repository.sh("git diff --cached --name-only").ok().text(), "later\nstaged\n");
}

#[test]
fn files_deleted_in_guest_can_be_restored() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.write("folder/file", "");
    repository.commit("second");
    let inner = home.at(repository.root.join("inner"));
    fs::create_dir(&inner.root).unwrap();
    inner.git(["init", "--quiet"]);
    inner.write("file", "");
    inner.commit("first");
    repository.run(["--", "true"]).ok();

    // Without git's folder nothing works in it, whoever removed that.
    repository.sh("rm -rf .git inner/.git").ok();
    let output = repository.run(["--", "git", "status", "--short"]).ok();
    assert_eq!(output.text(), "?? inner/\n");
    for path in ["/root/repo/.git", "/root/repo/inner/.git"] {
        assert!(output.stderr.contains(&format!("`{path}` was gone")), "{}", output.stderr);
    }
    assert!(!repository.run(["--", "true"]).ok().stderr.contains("gone"));
    repository.assert_same_git();
    assert_eq!(
        repository.sh("git -C inner log -1 --format=%s; git -C inner status --porcelain").ok().text(),
        "first\n"
    );

    // Files may be deleted. They come back if the host is to have its way.
    repository.sh("rm -rf .git * .gitignore").ok();
    assert_eq!(repository.run(["--", "ls"]).ok().text(), "");
    repository.run(["--host-wins", "--", "true"]).ok();
    repository.assert_same_files();
    repository.assert_same_git();
    assert_eq!(repository.guest_only(), (0, 0));
}
