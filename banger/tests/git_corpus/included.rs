//! `.worktreeinclude`: which ignored files it brings, what it never brings, and its limits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use banger::git::{Explainer, IncludePolicy, OutsidePolicy, Reason, RelPath, outside};

use super::explained::{assert_explained_as_listed, explained};
use super::*;

#[test]
fn worktree_include_opts_in_ignored_regular_files_only() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", ".env*\n/config/\n/target\nnode_modules\n*.key\n*.link\n");
    fixture.write(
        ".worktreeinclude",
        "# for the tests\n.env.test\nconfig/*.toml\n!config/secret.toml\n/target/keep/\n*.link\nplain\n*.fifo\n",
    );
    for path in [
        ".env",
        ".env.test",
        "sub/.env.test",
        "config/dev.toml",
        "config/secret.toml",
        "config/deep/dev.toml",
        "config/key.key",
        "target/x",
        "target/keep/a/b",
        "target/keep/nested/.git/config",
        "target/keep/nested/file",
        "node_modules/package/.env.test",
        "plain",
    ] {
        fixture.write(path, "");
    }
    fixture.git(&["add", "-f", "config/key.key"]);
    // A link to a file that git ignores, and a directory behind one.
    symlink(".env", fixture.root.join("a.link")).unwrap();
    symlink("../node_modules", fixture.root.join("target/keep/l")).unwrap();
    let clone = fixture.root.join("target/keep/clone");
    fs::create_dir(&clone).unwrap();
    fixture.git_in(&clone, &["init", "-q"]);
    fixture.write("target/keep/clone/file", "");
    let expected = [
        ".env.test",
        ".gitignore",
        ".worktreeinclude",
        "config/dev.toml",
        "config/key.key",
        "plain",
        "sub/.env.test",
        "target/keep/a/b",
    ];
    let listing = fixture.listing();
    assert_eq!(paths(&listing), expected);
    assert!(listing.withheld.is_empty() && listing.warnings.is_empty());
    assert_explained_as_listed(&fixture);
    // A file that does not exist yet would travel, too.
    assert!(matches!(explained(&fixture, "new/.env.test").reason, Reason::Absent { at: None, .. }));
    for (path, line) in [("config/dev.toml", 3), ("new/.env.test", 2)] {
        let rule = explained(&fixture, path).rule.unwrap();
        assert_eq!((rule.file, rule.line), (fixture.root.join(".worktreeinclude"), line), "{path}");
    }

    // Without trust they stay, and are named.
    let host = Host { include: IncludePolicy::Refuse, ..fixture.host() };
    let workspace = Workspace::discover(&fixture.root, host).unwrap();
    let listing = list(&workspace).unwrap();
    assert_eq!(paths(&listing), [".gitignore", ".worktreeinclude", "config/key.key", "plain"]);
    let withheld: Vec<_> = listing.withheld.iter().map(|path| path.to_string()).collect();
    assert_eq!(withheld, [".env.test", "config/dev.toml", "sub/.env.test", "target/keep/a/b"]);
    let reason = Explainer::new(&workspace).unwrap().explain(&RelPath::new(".env.test").unwrap()).reason;
    assert!(matches!(reason, Reason::Withheld), "{reason:?}");
}

#[test]
fn file_that_is_not_there_yet_is_explained_as_one_that_is() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", "/config/\n/dist/\n*.env\n");
    fixture.write(".worktreeinclude", "config/*.toml\n/dist/\n!a.env\n.env\n");
    let host = Host { include: IncludePolicy::Refuse, ..fixture.host() };
    let paths = ["config/a.toml", "config/deep/a.toml", "config/a.key", "dist/a/b", "a.env", ".env", "config/.env"];
    let listed = [true, false, false, true, false, true, true];
    let explain = |host: Host| {
        let workspace = Workspace::discover(&fixture.root, host).unwrap();
        let mut explainer = Explainer::new(&workspace).unwrap();
        paths.map(|path| explainer.explain(&RelPath::new(path).unwrap()).reason)
    };
    let absent = |is_withheld: bool| {
        let reasons = explain(if is_withheld { host.clone() } else { fixture.host() });
        reasons.map(|reason| match reason {
            Reason::Absent { is_tracked: false, at, is_withheld: withheld } => {
                assert!(!withheld || (is_withheld && at.is_none()));
                at.is_none() && withheld == is_withheld
            }
            reason => panic!("{reason:?}"),
        })
    };
    // Neither the directories exist, nor what is in them; then the directories do.
    for directory in ["config/deep", "dist"] {
        assert_eq!((absent(false), absent(true)), (listed, listed));
        fs::create_dir_all(fixture.root.join(directory)).unwrap();
    }
    assert_eq!((absent(false), absent(true)), (listed, listed));
    for path in paths {
        fixture.write(path, "");
    }
    assert_eq!(explain(fixture.host()).map(|reason| matches!(reason, Reason::Included)), listed);
    assert_eq!(explain(host).map(|reason| matches!(reason, Reason::Withheld)), listed);
}

#[test]
fn explanation_that_takes_too_much_is_no_answer_and_uses_up_nothing() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", "a*\n");
    let long = vec![format!("a{}", "a".repeat(250)); 12].join("/");
    fixture.write(&long, "");
    fixture.write(".worktreeinclude", format!("/a*/\n{}", format!("**/{}b\n", "z*/**/".repeat(30)).repeat(90)));
    let workspace = fixture.workspace();
    let mut explainer = Explainer::new(&workspace).unwrap();
    // Each of many answers has the whole of what matching may take.
    for _ in 0..100 {
        let reason = explainer.explain(&RelPath::new(&*long).unwrap()).reason;
        assert!(matches!(reason, Reason::Included), "{reason:?}");
    }
    fixture.write(".worktreeinclude", format!("a/**/zz\n{}", format!("**/{}b\n", "a*/**/".repeat(30)).repeat(90)));
    let deep = vec!["a"; 1_500].join("/");
    let workspace = fixture.workspace();
    let reason = Explainer::new(&workspace).unwrap().explain(&RelPath::new(&*deep).unwrap()).reason;
    assert!(matches!(reason, Reason::Unreadable { error: GitError::IncludeTooLarge { .. }, .. }), "{reason:?}");
}

#[test]
fn worktree_include_that_is_a_link_or_nested_does_not_count() {
    let fixture = with_submodules();
    fixture.write("middle/.worktreeinclude", "*.o\n");
    fixture.write("rules", "*.o\n");
    fixture.write(".gitignore", "*.o\n");
    let include = fixture.root.join(".worktreeinclude");
    let no_file = |make: &dyn Fn()| {
        make();
        let all = paths(&fixture.listing());
        assert!(!all.iter().any(|path| path.ends_with(".o")), "{all:?}");
        assert_explained_as_listed(&fixture);
    };
    no_file(&|| symlink("rules", &include).unwrap());
    fs::remove_file(&include).unwrap();
    no_file(&|| nix::unistd::mkfifo(&include, nix::sys::stat::Mode::S_IRWXU).unwrap());
    fs::remove_file(&include).unwrap();
    no_file(&|| fs::create_dir(&include).unwrap());
}

#[test]
fn worktree_include_brings_no_repository_and_no_special_file() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", "/out/\n/.GIT\n/GIT~1\n*.sock\n*.fifo\n*.env\n");
    fixture.write(".worktreeinclude", "/out/\n*.GIT\nGIT~1\n*.sock\n*.fifo\n*.env\n");
    for path in ["out/a", "out/.GIT/config", "out/x/.git /hooks", ".GIT", "GIT~1/config", "real.env"] {
        fixture.write(path, "");
    }
    let _socket = std::os::unix::net::UnixListener::bind(fixture.root.join("a.sock")).unwrap();
    nix::unistd::mkfifo(&fixture.root.join("a.fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    nix::unistd::mkfifo(&fixture.root.join("out/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::hard_link(fixture.root.join("real.env"), fixture.root.join("twin.env")).unwrap();
    fixture.write("REAL.env", "");
    let listing = fixture.listing();
    assert_eq!(
        paths(&listing),
        [".gitignore", ".worktreeinclude", "REAL.env", "out/a", "real.env", "twin.env"],
        "{listing:?}"
    );
    assert!(listing.warnings.is_empty());
    assert_explained_as_listed(&fixture);
}

#[test]
fn worktree_include_has_the_syntax_of_gitignore() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", "*.env\n/conf/\n/deep/\n*.bin\n");
    let rules = b"\xff*.env\n[\n\\\n/\n!\n*.env\n!secret.env\nconf/**/*.toml\ndeep/*/x/**\n\xc3\x28.bin\n".to_vec();
    fs::write(fixture.root.join(".worktreeinclude"), rules).unwrap();
    for path in [
        "a.env",
        "sub/b.env",
        "secret.env",
        "sub/secret.env",
        "conf/a.toml",
        "conf/x/y/b.toml",
        "conf/x/y/b.key",
        "deep/a/x/y/z",
        "deep/a/y",
        "deep/x",
        "b.bin",
    ] {
        fixture.write(path, "");
    }
    fs::write(fixture.root.join(OsStr::from_bytes(b"\xc3\x28.bin")), "").unwrap();
    let listing = fixture.listing();
    let listed: Vec<_> = listing.entries.iter().map(|entry| entry.path.as_bytes()).collect();
    let expected: [&[u8]; 8] = [
        b".gitignore",
        b".worktreeinclude",
        b"a.env",
        b"conf/a.toml",
        b"conf/x/y/b.toml",
        b"deep/a/x/y/z",
        b"sub/b.env",
        b"\xc3\x28.bin",
    ];
    assert_eq!(listed, expected);
    assert_explained_as_listed(&fixture);
}

#[test]
fn worktree_include_that_is_too_long_counts_for_nothing() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", "*.env\n");
    fixture.write("a.env", "");
    let rules = ["*.env\n", &format!("{}\n", "x".repeat(50)).repeat(99)].concat();
    fixture.write(".worktreeinclude", [&rules[..], &"#".repeat(1 << 10)].concat());
    assert_eq!(paths(&fixture.listing()), [".gitignore", ".worktreeinclude", "a.env"]);
    let ignored = |text: &str| {
        fixture.write(".worktreeinclude", text);
        let listing = fixture.listing();
        assert_eq!(paths(&listing), [".gitignore", ".worktreeinclude"]);
        assert_explained_as_listed(&fixture);
        listing.include_error.unwrap()
    };
    let error = ignored(&[&rules[..], "more\n"].concat());
    assert!(matches!(error, GitError::IncludeTooLarge { .. }) && error.to_string().contains("100 rules"), "{error}");
    let error = ignored(&format!("*.env\n{}\n", "x".repeat(201)));
    assert!(matches!(error, GitError::IncludeTooLarge { .. }) && error.to_string().contains("200 bytes"), "{error}");
    let error = ignored(&["*.env\n", &"#".repeat(64 << 10)].concat());
    assert!(matches!(error, GitError::TooLarge { limit: 65_536, .. }), "{error}");
}

/// What the `.worktreeinclude` exceeds: an error with trust, and without it no more than a warning.
#[track_caller]
fn assert_exceeds(fixture: &Fixture, what: &str) {
    let error = list(&fixture.workspace()).unwrap_err();
    assert!(matches!(error, GitError::IncludeTooLarge { .. }), "{error}");
    assert!(error.to_string().contains(".worktreeinclude") && error.to_string().contains(what), "{error}");
    let host = Host { include: IncludePolicy::Refuse, ..fixture.host() };
    let listing = list(&Workspace::discover(&fixture.root, host).unwrap()).unwrap();
    assert_eq!(paths(&listing), [".gitignore", ".worktreeinclude"]);
    assert!(listing.withheld.is_empty() && listing.warnings.is_empty(), "{listing:?}");
    assert!(listing.include_error.unwrap().to_string().contains(what));
}

#[test]
fn worktree_include_of_too_many_files_is_an_error() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", "/many/\n");
    fixture.write(".worktreeinclude", "/many/\n");
    fs::create_dir(fixture.root.join("many")).unwrap();
    for number in 0..9_999 {
        fs::write(fixture.root.join(format!("many/{number}")), "").unwrap();
    }
    assert_eq!(fixture.listing().entries.len(), 2 + 9_999);
    fs::write(fixture.root.join("many/more"), "").unwrap();
    assert_exceeds(&fixture, "more than 10000 ignored files");
}

#[test]
fn worktree_include_leads_into_directories_of_limited_size() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", "/many/\n");
    fixture.write(".worktreeinclude", "many/*.env\n");
    fs::create_dir(fixture.root.join("many")).unwrap();
    for number in 0..100_000 {
        fs::File::create(fixture.root.join(format!("many/{number}"))).unwrap();
    }
    assert_eq!(fixture.listing().entries.len(), 2);
    fs::write(fixture.root.join("many/secret.env"), "").unwrap();
    assert_exceeds(&fixture, "more than 100000 entries");
}

/// As many rules and wildcards as there may be, for long names and in deep directories.
#[test]
fn worktree_include_takes_limited_time_in_a_hostile_repository() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", "a*\n");
    let host = Host { include: IncludePolicy::Refuse, ..fixture.host() };
    let workspace = Workspace::discover(&fixture.root, host).unwrap();
    let mut deep = fixture.root.clone();
    deep.extend(std::iter::repeat_n("d", 1_000));
    fs::create_dir_all(&deep).unwrap();
    for number in 0..100 {
        fs::File::create(deep.join(format!("a{number}"))).unwrap();
    }
    fixture.write(".worktreeinclude", format!("**/{}b\n", "a/**/".repeat(30)).repeat(98));
    let error = list(&workspace).unwrap().include_error.unwrap();
    assert!(error.to_string().contains("too many wildcards"), "{error}");
    for number in 0..3_000 {
        fs::File::create(fixture.root.join(format!("{}{number}", "a".repeat(240)))).unwrap();
    }
    fixture.write(".worktreeinclude", format!("{}b\n", "*a".repeat(95)).repeat(98));
    assert_exceeds(&fixture, "too many wildcards");
}

#[test]
fn worktree_include_enters_no_directory_with_a_dot_git() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", "/out/\n");
    fixture.write(".worktreeinclude", "/out/\n");
    let beside = fixture.beside("outside");
    fs::create_dir(&beside).unwrap();
    fixture.git_in(&beside, &["init", "-q"]);
    for directory in ["plain", "clone", "broken", "file", "empty", "link", "dangling"] {
        fixture.write(format!("out/{directory}/secret"), "");
    }
    let out = |path: &str| fixture.root.join("out").join(path);
    fixture.git_in(&out("clone"), &["init", "-q"]);
    fs::create_dir(out("broken/.git")).unwrap();
    fs::write(out("file/.git"), format!("gitdir: {}\n", beside.join(".git").display())).unwrap();
    fs::write(out("empty/.git"), "").unwrap();
    symlink(beside.join(".git"), out("link/.git")).unwrap();
    symlink("gone", out("dangling/.git")).unwrap();
    // Nor is a link followed to a directory.
    symlink(&beside, out("outside")).unwrap();
    let collects = Host { outside: OutsidePolicy::Collect, ..fixture.host() };
    let workspace = Workspace::discover(&fixture.root, collects).unwrap();
    let listing = list(&workspace).unwrap();
    assert_eq!(paths(&listing), [".gitignore", ".worktreeinclude", "out/plain/secret"]);
    // None of it is looked at, so it leads nowhere.
    assert!(outside(&workspace, &listing).unwrap().is_empty());
    assert_explained_as_listed(&fixture);
}

#[test]
fn case_counts_in_worktree_include_whatever_the_repository_says() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", ".env*\n/Config/\n");
    fixture.write(".worktreeinclude", ".ENV.test\nconfig/*.x\n/CONFIG/\n");
    for path in [".env.test", ".ENV.test", "Config/a.x"] {
        fixture.write(path, "");
    }
    for ignores_case in ["false", "true"] {
        fixture.git(&["config", "core.ignoreCase", ignores_case]);
        let listed = paths(&fixture.listing());
        assert!(listed.contains(&".ENV.test".into()), "{listed:?}");
        assert!(!listed.iter().any(|path| path == ".env.test" || path == "Config/a.x"), "{listed:?}");
        assert_explained_as_listed(&fixture);
    }
}
