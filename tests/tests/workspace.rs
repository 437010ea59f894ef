//! The files of the workspace: what arrives in the guest, at first and later.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use banger_tests::{Home, Repository, SyncCounts};

fn set_mtime(repository: &Repository, path: &str, time: SystemTime) {
    fs::File::options().write(true).open(repository.root.join(path)).unwrap().set_modified(time).unwrap();
}

fn sent(files: u64, removed: u64) -> SyncCounts {
    SyncCounts { files, removed, kept: 0 }
}

/// Everything that is hard about a list of files, in one repository.
fn nasty<'a>(home: &'a Home) -> Repository<'a> {
    let repository = home.repository("a nasty 'repository'");
    let root = &repository.root;
    fs::write(home.path().join("excludes"), "*.user\n").unwrap();
    repository.git(["config", "--global", "core.excludesFile", "~/excludes"]);
    fs::write(root.join(".git/info/exclude"), "*.private\n").unwrap();
    repository.write(".gitignore", "*.o\n!keep.o\n/build/\nonly/*\n!only/this\n");
    repository.write("sub/.gitignore", "!*.o\nlocal\n!*.user\n");
    for path in ["x.o", "keep.o", "build/x", "only/this", "only/that", "sub/x.o", "sub/local", "sub/a.user", "a.user"] {
        repository.write(path, path);
    }
    repository.write("b.private", "");
    repository.write("empty", "");
    repository.write("Case", "upper");
    repository.write("case", "lower");
    repository.write("-rf", "an option");
    repository.write("new\nline", "");
    repository.write("\u{1b}[31mred", "");
    fs::write(root.join(OsStr::from_bytes(b"not \xff utf-8")), "bytes").unwrap();
    repository.write("tool", "#!/bin/sh\n");
    fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    repository.write("secret", "mine");
    fs::set_permissions(root.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    for (target, link) in
        [("nowhere", "dangling"), ("loop", "loop"), ("/etc/hostname", "absolute"), ("sub", "to-folder"), (".", "self")]
    {
        symlink(target, root.join(link)).unwrap();
    }
    let deep = format!("{}/end", vec!["d".repeat(200); 19].join("/"));
    repository.write(&deep, "deep");
    for folder in ["inner", "middle"] {
        let upstream = home.repository(&format!("upstream/{folder}"));
        upstream.write(".gitignore", "*.tmp\n");
        if folder == "middle" {
            upstream.git(["submodule", "--quiet", "add", "../inner", "inner"]);
        }
        upstream.commit("second");
    }
    repository.git(["submodule", "--quiet", "add", "../upstream/middle", "lib/middle"]);
    repository.git(["submodule", "--quiet", "add", "../upstream/inner", "absent"]);
    repository.commit("nasty");
    repository.git(["submodule", "--quiet", "update", "--init", "--recursive", "lib"]);
    repository.git(["submodule", "--quiet", "deinit", "--force", "absent"]);
    let embedded = home.at(root.join("embedded"));
    fs::create_dir(&embedded.root).unwrap();
    embedded.git(["init", "--quiet"]);
    embedded.write("file", "embedded");
    embedded.commit("embedded");
    // Then edits that are not committed.
    repository.write("README", "edited\n");
    repository.write("lib/middle/inner/untracked", "");
    repository.write("lib/middle/inner/ignored.tmp", "");
    repository.write("lib/middle/README", "edited in a submodule");
    repository.write("intent", "to add");
    repository.git(["add", "--intent-to-add", "intent"]);
    repository.git(["update-index", "--skip-worktree", "empty"]);
    fs::remove_file(root.join("case")).unwrap();
    repository
}

#[test]
fn guest_has_the_files_git_lists() {
    let home = Home::new();
    let repository = nasty(&home);
    repository.assert_same_files();
    repository.assert_same_git();
    let ignored = repository
        .sh("git check-ignore x.o y.user z.private; git -C lib/middle/inner check-ignore a.tmp; test -d absent");
    assert_eq!(ignored.ok().text(), "x.o\ny.user\nz.private\na.tmp\n");
    // The host's own path leads to the same files, also after a restart.
    let there = ["-q", "-w", repository.root.to_str().unwrap(), "--", "cat", "README"];
    assert_eq!(repository.run(there).ok().text(), "edited\n");
    repository.run(["stop"]).ok();
    assert_eq!(repository.run(there).ok().text(), "edited\n");

    fs::remove_dir_all(repository.root.join("embedded")).unwrap();
    repository.git(["submodule", "--quiet", "update", "--init", "absent"]);
    repository.git(["submodule", "--quiet", "deinit", "--force", "lib/middle"]);
    repository.git(["checkout", "--quiet", "case"]);
    repository.assert_same_files();
    repository.assert_same_git();
}

#[test]
fn incremental_sync_sends_only_changes() {
    let home = Home::new();
    let repository = home.repository("repo");
    let root = &repository.root;
    repository.write(".gitignore", "*.log\n");
    for path in
        ["gone/deep/er/a", "gone/b", "file-to-folder", "folder-to-file/a", "folder-to-link/a", "moved/a", "moved/b"]
    {
        repository.write(path, path);
    }
    for link in ["link-to-folder", "link-to-file", "link"] {
        symlink("README", root.join(link)).unwrap();
    }
    repository.write("tool", "#!/bin/sh\necho ran\n");
    repository.write("notes", "mine");
    repository.commit("second");
    repository.run(["--", "sh", "-c", "echo cache > built.log; mkdir -p gone/kept; echo cache > gone/kept/x.log"]).ok();
    assert_eq!(repository.run(["--", "true"]).ok().sent(), sent(0, 0));

    // Touched, not changed.
    set_mtime(&repository, "README", SystemTime::now() + Duration::from_secs(5));
    assert_eq!(repository.run(["--", "true"]).ok().sent(), sent(0, 0));

    // Edits of the same length that follow a sync at once.
    for round in 0..5 {
        repository.write("README", format!("round {round}\n"));
        let output = repository.run(["--", "cat", "README"]).ok();
        assert_eq!((output.text(), output.sent().files), (format!("round {round}\n"), 1));
    }

    fs::remove_dir_all(root.join("gone")).unwrap();
    fs::remove_file(root.join("file-to-folder")).unwrap();
    repository.write("file-to-folder/a", "a");
    for folder in ["folder-to-file", "folder-to-link"] {
        fs::remove_dir_all(root.join(folder)).unwrap();
    }
    repository.write("folder-to-file", "now a file");
    symlink("sub", root.join("folder-to-link")).unwrap();
    for link in ["link-to-folder", "link-to-file", "link"] {
        fs::remove_file(root.join(link)).unwrap();
    }
    repository.write("link-to-folder/a", "a");
    repository.write("link-to-file", "a");
    symlink("tool", root.join("link")).unwrap();
    fs::rename(root.join("moved"), root.join("renamed")).unwrap();
    fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = repository.sh("./tool; ls gone; test ! -e gone/deep && cat built.log").ok();
    assert_eq!(output.text(), "ran\nkept\ncache\n");
    assert_eq!(output.sent(), sent(9, 8));
    repository.sh("rm -r gone built.log").ok();
    repository.assert_same_files();
    repository.assert_same_git();

    // What is ignored from now on is the guest's own.
    repository.write(".gitignore", "*.log\nnotes\n");
    repository.git(["rm", "--quiet", "--cached", "notes"]);
    repository.write("notes", "edited");
    assert_eq!(repository.run(["--", "cat", "notes"]).ok().text(), "mine");
    repository.assert_same_git();
}

#[test]
fn sync_mtimes_let_make_rebuild_only_edited_files() {
    let home = Home::new();
    let repository = home.repository("repo");
    repository.write("Makefile", "all: a.o b.o\n%.o: %.c\n\tcp $< $@\n\t@echo built $@\n");
    repository.write(".gitignore", "*.o\n");
    repository.write("a.c", "1");
    repository.write("b.c", "1");
    repository.commit("second");
    let make = || {
        let text = repository.run(["--", "make"]).ok().text();
        text.lines().filter_map(|line| line.strip_prefix("built ").map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(make(), ["a.o", "b.o"]);
    assert!(make().is_empty());
    // An edit that is older than what was built in the guest meanwhile.
    repository.write("a.c", "2");
    set_mtime(&repository, "a.c", SystemTime::now() - Duration::from_secs(3600));
    assert_eq!(make(), ["a.o"]);
    assert!(make().is_empty());
    repository.git(["checkout", "--quiet", "a.c"]);
    assert_eq!(make(), ["a.o"]);
    repository.git(["commit", "--quiet", "--allow-empty", "--message", "third"]);
    assert!(make().is_empty());
    repository.assert_same_git();
}

#[test]
fn constantly_written_file_does_not_block_commands() {
    let home = Home::new();
    let repository = home.repository("repo");
    repository.write("log", "");
    let path = repository.root.join("log");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        let mut log = fs::File::options().append(true).open(path).unwrap();
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            log.write_all(b"another line\n").unwrap();
            if log.metadata().unwrap().len() > 1 << 20 {
                log.set_len(0).unwrap();
            }
        }
    });
    for _ in 0..3 {
        let text = repository.run(["--", "cat", "log"]).ok().text();
        assert!(text.lines().rev().skip(1).all(|line| line == "another line"));
    }
    drop(stop);
    writer.join().unwrap();
    repository.assert_same_files();
    repository.assert_same_git();
}

/// Starts a run, waits until banger has read this many bytes of the host's files, and lets
/// `interrupt` do its worst. Returns how it ended.
fn interrupt_after(
    repository: &Repository,
    bytes: u64,
    interrupt: impl FnOnce(&mut std::process::Child),
) -> ExitStatus {
    let mut child = repository.banger().args(["-q", "--", "true"]).spawn().unwrap();
    let process = child.id();
    let read = || {
        let io = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).unwrap_or_default()
    };
    let deadline = SystemTime::now() + Duration::from_secs(120);
    while read() < bytes {
        assert!(SystemTime::now() < deadline, "{} bytes were read", read());
        assert!(child.try_wait().unwrap().is_none(), "it ended before that");
        std::thread::sleep(Duration::from_millis(2));
    }
    interrupt(&mut child);
    child.wait().unwrap()
}

fn kill_vm(repository: &Repository) {
    let run = fs::read(repository.only_vm().join("run.json")).unwrap();
    let run: serde_json::Value = serde_json::from_slice(&run).unwrap();
    let pid = nix::unistd::Pid::from_raw(run["pid"].as_i64().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn interrupted_sync_leaves_no_torn_files() {
    const LARGE: usize = 64 << 20;
    const MIDDLE: u64 = 32 << 20;
    let home = Home::new();
    let repository = home.repository("repo");
    for file in 0..20_000 {
        repository.write(&format!("many/{}/{file}", file / 200), format!("{file}\n"));
    }
    let large = |byte: u8| repository.write("large", vec![byte; LARGE]);
    large(1);
    // The first sync, with banger killed in it, then the VM.
    interrupt_after(&repository, MIDDLE, |child| child.kill().unwrap());
    // Its command has not begun: it starts the VM again, and all over.
    assert!(interrupt_after(&repository, MIDDLE, |_| kill_vm(&repository)).success());
    let output = repository.run(["--", "sh", "-c", "wc -c <large; find many -type f | wc -l"]).ok();
    assert_eq!(output.text(), format!("{LARGE}\n20000\n"));
    assert_eq!(output.sent().files, 0);

    // Later ones, which also move the index and a branch.
    let change = |round: u8| {
        large(round);
        repository.write("staged", [round]);
        repository.git(["add", "staged"]);
        repository.git(["commit", "--quiet", "--message", "another"]);
        repository.write("staged", [round, round]);
        repository.git(["add", "staged"]);
    };
    // A changed file is read to be compared, and again to be sent.
    change(2);
    interrupt_after(&repository, LARGE as u64 + MIDDLE, |child| child.kill().unwrap());
    assert_eq!(repository.run(["-q", "--guest-wins", "--", "head", "-c1", "large"]).ok().stdout, [2]);
    change(3);
    // All is sent: the guest may apply it, and nobody hears that it did.
    interrupt_after(&repository, 2 * LARGE as u64, |child| child.kill().unwrap());
    change(4);
    interrupt_after(&repository, 2 * LARGE as u64, |_| kill_vm(&repository));
    change(5);
    assert_eq!(repository.run(["-q", "--", "head", "-c1", "large"]).ok().stdout, [5]);
    repository.write("larger", vec![6; 300 << 20]);
    repository.assert_same_git();
    repository.assert_same_files();
    assert_eq!(repository.run(["--", "true"]).ok().sent(), sent(0, 0));
}
