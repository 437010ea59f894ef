//! Why a path travels: the answer for each agrees with the list of all, and names git's rule.

use banger::git::{Explainer, Explanation, Reason, RelPath};

use super::*;

/// The explanation of a path of the fixture.
pub(crate) fn explained(fixture: &Fixture, path: &str) -> Explanation {
    Explainer::new(&fixture.workspace()).unwrap().explain(&RelPath::new(path).unwrap())
}

/// The explanation of every path in the working tree, links and directories too, agrees with the
/// listing.
#[track_caller]
pub(crate) fn assert_explained_as_listed(fixture: &Fixture) {
    let (workspace, listing) = (fixture.workspace(), fixture.listing());
    let mut explainer = Explainer::new(&workspace).unwrap();
    let mut pending = vec![fixture.root.clone()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let relative = path.strip_prefix(&fixture.root).unwrap().as_os_str().as_encoded_bytes();
            let relative = RelPath::new(relative).unwrap();
            let is_listed =
                listing.entry(relative.as_bytes()).is_some() || listing.submodule_folders.contains(&relative);
            let explanation = explainer.explain(&relative);
            assert_eq!(explanation.reason.travels(), is_listed, "{relative}: {explanation:?}");
            if entry.file_type().unwrap().is_dir() {
                pending.push(path);
            }
        }
    }
}

/// What `git check-ignore` says: the file, the line and the pattern.
fn check_ignore(fixture: &Fixture, path: &str) -> Option<(String, usize, String)> {
    let output = fixture.try_git_in(&fixture.root, &["check-ignore", "-v", "--no-index", path]);
    let text = String::from_utf8(output.stdout).unwrap();
    let (rule, _) = text.split_once('\t')?;
    let mut parts = rule.splitn(3, ':');
    let (file, line) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
    Some((file, line, parts.next()?.to_owned()))
}

#[test]
fn deciding_rule_is_that_of_git_check_ignore() {
    let fixture = Fixture::new();
    fs::write(fixture.home().join("excludes"), "# mine\n*.user\n").unwrap();
    fixture.git(&["config", "--global", "core.excludesFile", "~/excludes"]);
    fs::write(fixture.root.join(".git/info/exclude"), "\n*.private\n").unwrap();
    fixture.write(".gitignore", "*.o\n!keep.o\n/target/\n*.log  \r\n");
    fixture.write("sub/.gitignore", "!*.log\nlocal\n");
    let all = [
        "a.o",
        "keep.o",
        "target/x/y",
        "a.log",
        "sub/a.log",
        "sub/local/x",
        "sub/b.o",
        "u.user",
        "p.private",
        "plain",
        "sub/plain",
    ];
    for path in all {
        fixture.write(path, "");
    }
    for path in all {
        let ours = explained(&fixture, path).rule.map(|rule| {
            let file = rule.file.strip_prefix(&fixture.root).unwrap_or(&rule.file).display().to_string();
            (file, rule.line, String::from_utf8(rule.pattern).unwrap())
        });
        assert_eq!(ours, check_ignore(&fixture, path), "{path}");
    }
    let explanation = explained(&fixture, "target/x/y");
    assert!(matches!(&explanation.reason, Reason::Ignored { at } if at.as_bytes() == b"target"), "{explanation:?}");
    // A file that does not exist yet would be ignored by these.
    assert_eq!(explained(&fixture, "target/new").rule.unwrap().line, 3);
    assert_eq!(explained(&fixture, "new/new.o").rule.unwrap().line, 1);
    assert!(explained(&fixture, "new/new").rule.is_none());
    assert_explained_as_listed(&fixture);
    // What is tracked travels, ignored or not.
    fixture.git(&["add", "-f", "target/x/y", "a.o"]);
    for path in ["target/x/y", "a.o"] {
        assert!(matches!(explained(&fixture, path).reason, Reason::Tracked), "{path}");
    }
    fs::remove_file(fixture.root.join("a.o")).unwrap();
    fs::remove_file(fixture.root.join("sub/b.o")).unwrap();
    fixture.write(".gitignore", "*.o\nbuild/\n");
    for (path, is_tracked, at) in [
        ("a.o", true, None),
        ("b.o", false, Some("b.o")),
        ("sub/b.o", false, Some("sub/b.o")),
        ("build", false, Some("build")),
        ("sub/build/x", false, Some("sub/build")),
        ("other", false, None),
    ] {
        let expected = Reason::Absent { is_tracked, at: at.map(|at| RelPath::new(at).unwrap()), is_withheld: false };
        let explanation = explained(&fixture, path);
        assert_eq!(format!("{:?}", explanation.reason), format!("{expected:?}"), "{path}");
        assert_eq!(explanation.rule.is_some(), at.is_some(), "{path}");
    }
    assert_explained_as_listed(&fixture);
}

#[test]
fn submodules_nested_repositories_links_and_devices_are_explained() {
    let fixture = with_submodules();
    let embedded = fixture.root.join("embedded");
    fs::create_dir(&embedded).unwrap();
    fixture.git_in(&embedded, &["init", "-q"]);
    fixture.write("embedded/file", "");
    fixture.write("dir/file", "");
    fixture.write(".gitignore", "/out\n");
    fixture.write("out/x", "");
    fs::create_dir(fixture.root.join("out/clone")).unwrap();
    fixture.git_in(&fixture.root.join("out/clone"), &["init", "-q"]);
    fixture.write("out/clone/file", "");
    symlink("dir", fixture.root.join("link")).unwrap();
    symlink("/etc", fixture.root.join("etc")).unwrap();
    symlink("/etc", fixture.root.join("out/link")).unwrap();
    fixture.write("dir/.git/HEAD", "");
    nix::unistd::mkfifo(&fixture.root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_explained_as_listed(&fixture);
    let reason = |path: &str| format!("{:?}", explained(&fixture, path).reason);
    for (path, expected) in [
        ("middle/file", "Tracked"),
        ("middle/inner/untracked", "Untracked"),
        ("middle/ignored.o", "Ignored { at: \"middle/ignored.o\" }"),
        ("middle", "Repository"),
        ("embedded", "Repository"),
        ("embedded/file", "Untracked"),
        ("absent", "EmptySubmodule"),
        ("absent/file", "InEmptySubmodule { at: \"absent\" }"),
        ("dir", "Directory"),
        ("", "Directory"),
        ("link", "Untracked"),
        ("link/file", "BeyondLink { at: \"link\" }"),
        ("etc/passwd", "BeyondLink { at: \"etc\" }"),
        ("fifo", "Special"),
        (".git", "GitDirectory { at: \".git\" }"),
        (".git/config", "GitDirectory { at: \".git\" }"),
        ("embedded/.git/HEAD", "GitDirectory { at: \"embedded/.git\" }"),
        ("out/clone/file", "Ignored { at: \"out\" }"),
        ("out/clone/.git/HEAD", "Ignored { at: \"out\" }"),
        ("out/link/passwd", "Ignored { at: \"out\" }"),
        ("dir/.git/HEAD", "NoRepository { at: \"dir/.git\" }"),
        ("out/gone", "Absent { is_tracked: false, at: Some(\"out\"), is_withheld: false }"),
        ("dir/file/below", "Absent { is_tracked: false, at: None, is_withheld: false }"),
    ] {
        assert_eq!(reason(path), expected, "{path}");
    }
    let rule = explained(&fixture, "middle/ignored.o").rule.unwrap();
    assert_eq!(rule.file, fixture.root.join("middle/.gitignore"));
    // git finds nothing in the directory of a submodule that is not there.
    fixture.write("absent/file", "");
    assert_eq!(reason("absent/file"), "InEmptySubmodule { at: \"absent\" }");
    assert_explained_as_listed(&fixture);
}
