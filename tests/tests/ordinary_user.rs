//! What root does not see: files that may not be read, directories that may not be written to, and
//! the modes of what banger makes. `scripts/test` runs these as an ordinary user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use banger_tests::{Home, Output, Repository};
use nix::unistd::geteuid;

/// `banger <arguments>` with this umask.
fn with_umask(repository: &Repository<'_>, umask: &str, arguments: &[&str]) -> Output {
    assert!(!geteuid().is_root(), "root may do everything: run `make test`");
    let banger = repository.banger();
    let mut command = repository.home.command("sh");
    command.args(["-c", "umask \"$0\"; exec \"$@\"", umask]).arg(banger.get_program()).args(arguments);
    command.envs(banger.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(&repository.root).output().unwrap().into()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What others may do with something below `directory`, by `find`; links may be read by everybody.
fn open_to_others(directory: &Path) -> String {
    let mut find = Command::new("find");
    find.arg(directory).args(["!", "-type", "l", "-perm", "/077", "-printf", "%m %P\n"]);
    Output::from(find.output().unwrap()).ok().text()
}

#[test]
fn ordinary_user_runs_with_any_umask_and_unreadable_files() {
    let home = Home::new();
    let repository = home.repository("r");
    // The first run of this home, by somebody who opens all that they make to everybody.
    let script = "id -u; git status --short; cat README";
    let output = with_umask(&repository, "000", &["--", "sh", "-c", script]).ok();
    assert_eq!(output.text(), "0\na repository\n", "{}", output.stderr);
    assert_eq!(open_to_others(&home.data().join("vms")), "");
    assert_eq!(open_to_others(&home.path().join(".cache")), "");

    // What this user may not read stays behind, and what was sent of it before stays in the guest.
    repository.write("folder/file", "");
    repository.write("closed", "before");
    with_umask(&repository, "077", &["--", "true"]).ok();
    repository.write("closed", "after");
    for name in ["closed", "folder"] {
        set_mode(&repository.root.join(name), 0o000);
    }
    let output = with_umask(&repository, "077", &["--", "cat", "closed", "folder/file"]).ok();
    assert_eq!(output.text(), "before");
    for note in ["r/closed`: Permission denied", "`folder` stays behind"] {
        assert!(output.stderr.contains(note), "{}", output.stderr);
    }

    // A new file that cannot be read shifts nothing: what is recorded of the others is theirs.
    repository.write("middle", "1");
    repository.write("next", "1");
    with_umask(&repository, "077", &["--", "true"]).ok();
    repository.write("aaa", "");
    set_mode(&repository.root.join("aaa"), 0o000);
    for (path, content) in [("middle", "2"), ("next", "2"), ("zzz", "1"), ("zzz", "2")] {
        repository.write(path, content);
        let output = with_umask(&repository, "077", &["--", "cat", path]).ok();
        assert_eq!(output.text(), content, "{}", output.stderr);
        assert!(output.stderr.contains("r/aaa`: Permission denied"), "{}", output.stderr);
    }

    // A copy goes where this user may write, and nowhere else.
    let (closed, copy) =
        (home.path().join("closed"), |to: &str| with_umask(&repository, "022", &["cp", ":README", to]));
    fs::create_dir(&closed).unwrap();
    set_mode(&closed, 0o555);
    let output = copy(closed.to_str().unwrap());
    assert!(output.status == 125 && output.stderr.contains("Permission denied"), "{output:?}");
    let open = home.path().join("open");
    copy(open.to_str().unwrap()).ok();
    assert_eq!(fs::read(open).unwrap(), b"a repository\n");

    let stopped = with_umask(&repository, "022", &["stop"]).ok();
    assert!(stopped.stderr.contains("stopped"), "{}", stopped.stderr);
    home.assert_at_rest();
    with_umask(&repository, "022", &["delete", "--force"]).ok();

    // A home that nothing can be written to.
    let vms = home.data().join("vms");
    set_mode(&vms, 0o500);
    let output = with_umask(&repository, "022", &["--", "true"]);
    assert_eq!((output.status, output.text().as_str()), (125, ""), "{output:?}");
    assert!(output.stderr.contains("Permission denied") && output.stderr.contains("writable"), "{output:?}");
    // What is closed could not be removed.
    set_mode(&vms, 0o700);
    set_mode(&repository.root.join("folder"), 0o700);
    set_mode(&closed, 0o700);
}

#[test]
fn unreadable_repository_is_an_error() {
    let home = Home::new();
    let repository = home.repository("r");
    set_mode(&repository.root.join(".git/config"), 0o000);
    let output = with_umask(&repository, "022", &["--", "true"]);
    assert!(output.status == 125 && output.stderr.contains("Permission denied"), "{output:?}");
    assert!(home.vms().is_empty());
}
