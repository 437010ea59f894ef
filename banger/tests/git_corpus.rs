//! Nasty repositories, each compared with git's own answer.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use banger::git::{GitError, Host, Workspace, list};
use support::shallow::ShallowTwin;
use support::{Fixture, skipped, twin};

fn paths(listing: &banger::git::Listing) -> Vec<String> {
    listing.entries.iter().map(|entry| entry.path.to_string()).collect()
}

mod listing {
    use super::*;

    #[test]
    fn an_empty_repository_has_no_files() {
        let fixture = Fixture::new();
        assert!(fixture.assert_lists_as_git().entries.is_empty());
    }

    #[test]
    fn ignore_rules_of_every_source_and_form() {
        let fixture = Fixture::new();
        fs::write(fixture.home().join("excludes"), "*.user\n").unwrap();
        fixture.git(&["config", "core.excludesFile", "~/excludes"]);
        fs::write(fixture.root.join(".git/info/exclude"), "*.private\n").unwrap();
        fixture.write(
            ".gitignore",
            "*.o\n!keep.o\n/top\nbuild/\na/**/z\n**/deep\nspace \nescaped\\ \n\\#hash\n\\!bang\n[a-c].x\n\
             only/*\n!only/this\n# comment\n\n/abs/*/c\n*.log\nfoo\\\nq?.q\n",
        );
        fixture.write("sub/.gitignore", "!*.o\nlocal\n/anchored\n!*.user\n");
        for path in [
            "x.o",
            "keep.o",
            "top",
            "sub/top",
            "build/x",
            "sub/build/y",
            "build.d/z",
            "a/z",
            "a/b/z",
            "a/b/c/z",
            "deep",
            "q/deep/r",
            "space",
            "space ",
            "escaped ",
            "escaped",
            "#hash",
            "!bang",
            "a.x",
            "d.x",
            "only/this",
            "only/that",
            "abs/b/c",
            "abs/b/d",
            "sub/y.o",
            "sub/local",
            "sub/s/local",
            "sub/anchored",
            "sub/s/anchored",
            "u.user",
            "sub/u.user",
            "p.private",
            "l.log",
            "foo\\",
            "q1.q",
            "é",
        ] {
            fixture.write(path, "");
        }
        fixture.assert_lists_as_git();
        fixture.commit("some are tracked now");
        fixture.git(&["add", "-f", "x.o", "build/x", "only/that"]);
        fs::write(fixture.root.join("build/untracked"), "").unwrap();
        let listing = fixture.assert_lists_as_git();
        assert!(paths(&listing).contains(&"build/x".into()));
        assert!(!paths(&listing).contains(&"build/untracked".into()));
    }

    #[test]
    fn the_default_excludes_file_is_in_the_xdg_folder() {
        let fixture = Fixture::new();
        let folder = fixture.home().join(".config/git");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ignore"), "*.swp\n").unwrap();
        fixture.write("a.swp", "");
        fixture.write("a", "");
        assert_eq!(paths(&fixture.assert_lists_as_git()), ["a"]);
        let workspace = fixture.workspace();
        assert_eq!(workspace.repository.global_excludes().unwrap(), b"*.swp\n");
    }

    #[test]
    fn ignore_files_in_odd_encodings() {
        let fixture = Fixture::new();
        fixture.write(".gitignore", b"\xef\xbb\xbfbom\r\ncrlf\r\nlast");
        fixture.write("s/.gitignore", b"a\nb\r");
        for path in ["bom", "crlf", "last", "other", "s/a", "s/b", "s/c"] {
            fixture.write(path, "");
        }
        fixture.assert_lists_as_git();
    }

    #[test]
    fn an_ignore_file_that_is_a_link_or_folder_does_not_count() {
        let fixture = Fixture::new();
        fixture.write("rules", "a\n");
        fixture.write("a", "");
        fixture.write("s/a", "");
        symlink("rules", fixture.root.join(".gitignore")).unwrap();
        fixture.write("s/.gitignore/a", "");
        fixture.assert_lists_as_git();
    }

    #[test]
    fn ignoring_without_case() {
        let fixture = Fixture::new();
        fixture.git(&["config", "core.ignoreCase", "true"]);
        fixture.write(".gitignore", "*.TMP\nBuild/\n");
        fixture.write("a.tmp", "");
        fixture.write("build/a", "");
        assert_eq!(paths(&fixture.assert_lists_as_git()), [".gitignore"]);
    }

    #[test]
    fn strange_names() {
        let fixture = Fixture::new();
        let long = vec!["d".repeat(200); 19].join("/");
        fixture.write(&long, "");
        fixture.write(format!("{}/untracked", &long[..3700 / 201 * 201 - 1]), "");
        for name in
            [&b"new\nline"[..], b"esc\x1b[31m", b"\xff\xfe", b"quote\"", b" lead", b"trail ", b"tab\t", b"-rf", b"a\\b"]
        {
            fixture.write_bytes(name, "x");
        }
        fixture.write("README", "1");
        fixture.write("readme", "2");
        fixture.assert_lists_as_git();
        fixture.commit("all");
        fixture.write_bytes(b"d\xff/x", "");
        fixture.assert_lists_as_git();
    }

    #[test]
    fn links_are_listed_and_never_followed() {
        let fixture = Fixture::new();
        fixture.write("dir/file", "");
        for (target, name) in [("missing", "dangling"), ("loop", "loop"), ("dir", "to-dir"), ("/etc", "outside")] {
            symlink(target, fixture.root.join(name)).unwrap();
        }
        fixture.assert_lists_as_git();
        fixture.commit("all");
        // What is tracked below a folder that has become a link no longer exists.
        fs::rename(fixture.root.join("dir"), fixture.root.join("moved")).unwrap();
        symlink("moved", fixture.root.join("dir")).unwrap();
        let listing = fixture.assert_lists_as_git();
        assert!(!paths(&listing).contains(&"dir/file".into()));
    }

    #[test]
    fn files_become_folders_and_folders_files() {
        let fixture = Fixture::new();
        fixture.write("file", "");
        fixture.write("folder/a", "");
        fixture.write("gone", "");
        fixture.write("ignored/tracked", "");
        fixture.commit("all");
        fixture.write(".gitignore", "ignored\n");
        fs::remove_file(fixture.root.join("file")).unwrap();
        fixture.write("file/inside", "");
        fs::remove_dir_all(fixture.root.join("folder")).unwrap();
        fixture.write("folder", "");
        fs::remove_file(fixture.root.join("gone")).unwrap();
        assert_eq!(paths(&fixture.assert_lists_as_git()), [".gitignore", "file/inside", "folder", "ignored/tracked"]);
    }

    #[test]
    fn special_files_are_counted_and_left() {
        let fixture = Fixture::new();
        fixture.write("a", "");
        nix::unistd::mkfifo(&fixture.root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(fixture.root.join("socket")).unwrap();
        let listing = fixture.assert_lists_as_git();
        assert_eq!((paths(&listing), listing.special_files), (vec!["a".to_owned()], 2));
    }

    #[test]
    fn submodules_two_levels_deep_and_one_unpopulated() {
        let fixture = with_submodules();
        let listing = fixture.assert_lists_as_git();
        let nested: Vec<_> = listing.repositories.iter().map(|nested| nested.path.to_string()).collect();
        assert_eq!(nested, ["middle", "middle/inner"]);
        assert_eq!(listing.submodule_folders[0].to_string(), "absent");
    }

    #[test]
    fn embedded_repositories() {
        let fixture = Fixture::new();
        fixture.write(".gitignore", "ignored/\n");
        for name in ["with", "without", "ignored", "deep/er"] {
            fixture.write(format!("{name}/file"), "");
            fixture.write(format!("{name}/.gitignore"), "skip\n");
            fixture.write(format!("{name}/skip"), "");
            fixture.git_in(&fixture.root.join(name), &["init", "-q"]);
        }
        for arguments in [&["add", "file"][..], &["commit", "-qm", "x"]] {
            fixture.git_in(&fixture.root.join("with"), arguments);
        }
        let listing = fixture.assert_lists_as_git();
        assert_eq!(listing.repositories.len(), 3);
        fixture.write("broken/.git", "gitdir: nowhere\n");
        fixture.write("broken/file", "");
        fixture.write("hollow/.git/config", "");
        fixture.write("hollow/file", "");
        fixture.assert_lists_as_git();
    }

    #[test]
    fn a_repository_as_gitlink_without_gitmodules() {
        let fixture = Fixture::new();
        fixture.write("link/file", "");
        fixture.git_in(&fixture.root.join("link"), &["init", "-q"]);
        fixture.git_in(&fixture.root.join("link"), &["add", "file"]);
        fixture.git_in(&fixture.root.join("link"), &["commit", "-qm", "x"]);
        fixture.git(&["-c", "advice.addEmbeddedRepo=false", "add", "link"]);
        fixture.write(".gitignore", "link\n");
        assert_eq!(paths(&fixture.assert_lists_as_git()), [".gitignore", "link/file"]);
        // Ignored and replaced by a file, it is a tracked path like any other.
        fs::remove_dir_all(fixture.root.join("link")).unwrap();
        fixture.write("link", "");
        fixture.assert_lists_as_git();
    }

    #[test]
    fn index_flags() {
        let fixture = Fixture::new();
        for name in ["assumed", "skipped", "skipped-gone", "plain"] {
            fixture.write(name, name);
        }
        fixture.commit("all");
        fixture.git(&["update-index", "--assume-unchanged", "assumed"]);
        fixture.git(&["update-index", "--skip-worktree", "skipped", "skipped-gone"]);
        fs::remove_file(fixture.root.join("skipped-gone")).unwrap();
        fixture.write("intended", "x");
        fixture.git(&["add", "-N", "intended"]);
        fixture.assert_lists_as_git();
        twin::assert_same(&fixture);
    }

    #[test]
    fn sparse_checkouts() {
        for arguments in [
            &["set", "--cone", "a"][..],
            &["set", "--no-cone", "a/*", "!a/x"],
            &["set", "--cone", "--sparse-index", "a"],
        ] {
            let fixture = Fixture::new();
            for name in ["a/x", "a/y", "b/x", "b/c/y", "b/.gitignore", "top"] {
                fixture.write(name, name);
            }
            fixture.write("b/.gitignore", "*.o\n");
            fixture.commit("all");
            fixture.git(&[&["sparse-checkout"], arguments].concat());
            fixture.assert_lists_as_git();
            twin::assert_same(&fixture);
            // Rules that are only staged count, too.
            fixture.write("b/x.o", "");
            fixture.write("b/other", "");
            fixture.assert_lists_as_git();
        }
    }

    #[test]
    fn indexes_of_every_form() {
        for form in [
            &["update-index", "--split-index"][..],
            &["update-index", "--untracked-cache"],
            &["update-index", "--index-version", "4"],
            &["-c", "index.skipHash=true", "update-index", "--force-write-index"],
        ] {
            let fixture = Fixture::new();
            for number in 0..30 {
                fixture.write(format!("dir{}/file{number}", number % 3), "x");
            }
            fixture.commit("all");
            fixture.git(form);
            fixture.write("dir1/more", "y");
            fixture.git(&["add", "dir1/more"]);
            fixture.git(&["rm", "-q", "dir0/file0"]);
            fixture.write("untracked", "");
            fixture.assert_lists_as_git();
            twin::assert_same(&fixture);
        }
    }

    #[test]
    fn unreadable_folders_are_warned_of() {
        if nix::unistd::geteuid().is_root() {
            skipped("root can read every folder");
            return;
        }
        let fixture = Fixture::new();
        fixture.write("closed/file", "");
        fixture.write("open/file", "");
        let closed = fixture.root.join("closed");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let listing = fixture.listing();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(paths(&listing), ["open/file"]);
        assert_eq!(listing.warnings[0].path.to_string(), "closed");
    }

    #[test]
    fn twenty_thousand_files() {
        let fixture = Fixture::new();
        fixture.write(".gitignore", "*.o\n");
        for number in 0..20_000 {
            let suffix = if number % 10 == 0 { ".o" } else { ".c" };
            fixture.write(format!("d{}/e{}/f{number}{suffix}", number % 20, number % 400), "");
        }
        fixture.git(&["add", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"]);
        assert_eq!(fixture.assert_lists_as_git().entries.len(), 18_001);
    }

    #[test]
    fn nothing_that_is_configured_is_executed() {
        let fixture = Fixture::new();
        let mark = fixture.beside("executed");
        let hook = fixture.beside("hook");
        fs::write(&hook, format!("#!/bin/sh\ntouch '{}'\ncat\n", mark.display())).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        fixture.write("a.txt", "a");
        fixture.commit("all");
        fixture.write("a.txt", "b");
        fixture.write(".gitattributes", "* filter=evil diff=evil merge=evil\n");
        let hook = hook.to_str().unwrap();
        for key in [
            "core.fsmonitor",
            "core.pager",
            "core.editor",
            "core.sshCommand",
            "core.askPass",
            "filter.evil.clean",
            "filter.evil.smudge",
            "filter.evil.process",
            "diff.evil.textconv",
            "diff.evil.command",
            "diff.external",
            "credential.helper",
            "gpg.program",
            "uploadpack.packObjectsHook",
            "alias.status",
        ] {
            fixture.git(&["config", key, hook]);
        }
        fixture.git(&["config", "core.hooksPath", fixture.beside("").to_str().unwrap()]);
        let workspace = fixture.workspace();
        let listing = list(&workspace).unwrap();
        let repository = &workspace.repository;
        repository.state().unwrap();
        repository.fingerprint().unwrap();
        repository.guest_index(&listing, &|_| None).unwrap();
        let config = String::from_utf8(repository.guest_config().unwrap()).unwrap();
        assert!(!config.contains(hook), "{config}");
        assert!(!mark.exists());
    }
}

/// `middle` (which has `inner`) is populated, `absent` is not.
fn with_submodules() -> Fixture {
    let fixture = Fixture::new();
    for name in ["inner", "middle"] {
        let folder = fixture.beside(name);
        fs::create_dir(&folder).unwrap();
        fixture.git_in(&folder, &["init", "-q", "-b", "main"]);
        fs::write(folder.join("file"), name).unwrap();
        fs::write(folder.join(".gitignore"), "*.o\n").unwrap();
        fixture.git_in(&folder, &["add", "."]);
        fixture.git_in(&folder, &["commit", "-qm", name]);
    }
    let inner = fixture.beside("inner");
    fixture.git_in(&fixture.beside("middle"), &["submodule", "-q", "add", inner.to_str().unwrap(), "inner"]);
    fixture.git_in(&fixture.beside("middle"), &["commit", "-qm", "sub"]);
    for (from, to) in [("middle", "middle"), ("inner", "absent")] {
        fixture.git(&["submodule", "-q", "add", fixture.beside(from).to_str().unwrap(), to]);
    }
    fixture.commit("subs");
    fixture.git(&["submodule", "-q", "update", "--init", "--recursive", "middle"]);
    fixture.git(&["submodule", "-q", "deinit", "-f", "absent"]);
    fixture.write("middle/inner/untracked", "");
    fixture.write("middle/ignored.o", "");
    fixture.write("outer.o", "");
    fixture
}

mod discovery {
    use super::*;

    #[test]
    fn from_below_through_links_and_spaces() {
        let fixture = Fixture::empty("with space");
        fixture.git(&["init", "-q"]);
        fixture.write("a/b/c", "");
        symlink(fixture.root.join("a/b"), fixture.beside("shortcut")).unwrap();
        for start in [fixture.root.join("a/b"), fixture.beside("shortcut")] {
            let workspace = Workspace::discover(&start, fixture.host()).unwrap();
            assert_eq!(workspace.root, fixture.root);
            assert_eq!(workspace.identity, fixture.workspace().identity);
        }
        assert!(fixture.workspace().identity.inode > 0);
    }

    #[test]
    fn linked_worktrees_and_submodules_are_workspaces() {
        let fixture = with_submodules();
        let linked = fixture.beside("linked");
        fixture.git(&["worktree", "add", "-q", linked.to_str().unwrap(), "-b", "other"]);
        for folder in [&linked, &fixture.root.join("middle"), &fixture.root.join("middle/inner")] {
            let workspace = Workspace::discover(folder, fixture.host()).unwrap();
            assert_eq!(&workspace.root, folder);
            assert_ne!(workspace.identity, fixture.workspace().identity);
        }
        // The layout of a bare repository with worktrees around it.
        fixture.git(&["config", "core.bare", "true"]);
        assert_eq!(Workspace::discover(&linked, fixture.host()).unwrap().root, linked);
        let error = Workspace::discover(&fixture.root, fixture.host()).unwrap_err();
        assert!(matches!(error, GitError::Bare { .. }), "{error}");
    }

    #[test]
    fn what_is_no_workspace_is_an_error_with_a_hint() {
        let fixture = Fixture::empty("plain");
        fixture.git(&["init", "-q", "--bare", "../bare"]);
        fixture.git(&["init", "-q", "../ok"]);
        fixture.write("broken/.git", "gitdir: /nowhere\n");
        fixture.write("garbage/.git", "hello\n");
        let error = |folder: &Path| Workspace::discover(folder, fixture.host()).unwrap_err();
        for (folder, expected) in [
            (fixture.root.clone(), "is not in a git repository"),
            (fixture.beside("bare"), "is a bare repository"),
            (fixture.beside("ok/.git"), "is inside git's own folder"),
            (fixture.beside("ok/.git/objects"), "is inside git's own folder"),
            (fixture.root.join("broken"), "does not lead to a git repository"),
            (fixture.root.join("garbage"), "does not lead to a git repository"),
        ] {
            let error = error(&folder);
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn another_users_repository_needs_the_users_word() {
        if !nix::unistd::geteuid().is_root() {
            skipped("only root can give a folder away");
            return;
        }
        let fixture = Fixture::new();
        std::os::unix::fs::chown(&fixture.root, Some(12345), None).unwrap();
        let discover = |host: Host| Workspace::discover(&fixture.root, host);
        let error = discover(fixture.host()).unwrap_err();
        assert!(matches!(error, GitError::DubiousOwnership { owner: 12345, .. }), "{error}");
        assert!(error.hint().unwrap().contains("safe.directory"));
        assert!(discover(Host { sudo_uid: Some(12345), ..fixture.host() }).is_ok());
        // The repository itself has no say.
        fs::write(fixture.root.join(".git/config"), "[core]\nbare = false\n[safe]\ndirectory = *\n").unwrap();
        assert!(discover(fixture.host()).is_err());
        let config = fs::read_to_string(fixture.home().join(".gitconfig")).unwrap();
        let parent = fixture.root.parent().unwrap().display().to_string();
        for (value, trusted) in [
            (fixture.root.display().to_string(), true),
            ("*".into(), true),
            (format!("{parent}/*"), true),
            ("/elsewhere".into(), false),
            ("*\ndirectory =".into(), false),
        ] {
            fs::write(fixture.home().join(".gitconfig"), format!("{config}[safe]\ndirectory = {value}\n")).unwrap();
            assert_eq!(discover(fixture.host()).is_ok(), trusted, "{value}");
        }
    }

    #[test]
    fn the_index_of_a_running_commit_is_not_ours() {
        let fixture = Fixture::new();
        fixture.write("a", "");
        fixture.commit("first");
        // As in a hook: git sets these for what it runs.
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "discovery::in_a_hook", "--include-ignored"])
            .envs([("GIT_DIR", "/nowhere"), ("GIT_WORK_TREE", "/nowhere"), ("GIT_INDEX_FILE", "/nowhere")])
            .envs([("GIT_CONFIG_GLOBAL", "/nowhere"), ("GIT_OBJECT_DIRECTORY", "/nowhere")])
            .env("CORPUS_ROOT", &fixture.root)
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[test]
    #[ignore = "run by the test above, with `GIT_*` in its environment"]
    fn in_a_hook() {
        let root = std::env::var_os("CORPUS_ROOT").expect("set by the test above");
        let host = Host { path: std::env::var_os("PATH"), ..Host::default() };
        let workspace = Workspace::discover(Path::new(&root), host).unwrap();
        assert_eq!(workspace.root, Path::new(&root));
        assert_eq!(paths(&list(&workspace).unwrap()), ["a"]);
        assert!(workspace.repository.state().unwrap().refs.contains_key(&b"refs/heads/main"[..]));
    }

    #[test]
    fn a_worktree_elsewhere_does_not_travel() {
        let fixture = Fixture::new();
        fixture.write("nested/file", "");
        fixture.git_in(&fixture.root.join("nested"), &["init", "-q"]);
        let home = fixture.home();
        fixture.git_in(&fixture.root.join("nested"), &["config", "core.worktree", home.to_str().unwrap()]);
        let listing = fixture.listing();
        assert!(listing.entries.is_empty());
        assert!(matches!(listing.warnings[0].error, GitError::WorktreeElsewhere { .. }));
        let error = Workspace::discover(&fixture.root.join("nested"), fixture.host()).unwrap_err();
        assert!(matches!(error, GitError::WorktreeElsewhere { .. }), "{error}");
    }

    #[test]
    fn unknown_formats_are_refused() {
        let fixture = Fixture::new();
        fixture.git(&["config", "core.repositoryFormatVersion", "1"]);
        fixture.git(&["config", "extensions.fromTheFuture", "yes"]);
        let error = Workspace::discover(&fixture.root, fixture.host()).unwrap_err();
        assert!(matches!(error, GitError::UnsupportedFormat { .. }), "{error}");
    }
}

/// The guest's repository answers as the host's does.
mod twins {
    use super::*;

    fn with_history() -> Fixture {
        let fixture = Fixture::new();
        fixture.write("a", "1\n2\n3\n");
        fixture.write("dir/b", "b\n");
        fixture.write("empty", "");
        fixture.write("run.sh", "#!/bin/sh\n");
        fs::set_permissions(fixture.root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("a", fixture.root.join("link")).unwrap();
        fixture.commit("first");
        fixture.git(&["tag", "-a", "v1", "-m", "v1"]);
        fixture.write("a", "1\n2\n3\n4\n");
        fixture.commit("second");
        fixture
    }

    #[test]
    fn clean_and_dirty() {
        let fixture = with_history();
        fixture.git(&["gc", "-q"]);
        fixture.write("loose", "loose");
        fixture.commit("third");
        fixture.git(&["tag", "light"]);
        fixture.write("dir/b", "changed\n");
        fixture.git(&["add", "dir/b"]);
        fixture.write("dir/b", "changed again\n");
        fixture.write("empty", "no more");
        fixture.write("untracked", "");
        fs::remove_file(fixture.root.join("loose")).unwrap();
        fs::set_permissions(fixture.root.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
        let twin = twin::assert_same(&fixture);
        assert!(fixture.try_git_in(&twin, &["fsck", "--strict"]).status.success());
    }

    #[test]
    fn a_same_second_edit_of_the_same_size() {
        let fixture = with_history();
        fixture.write("a", "one");
        fixture.git(&["add", "a"]);
        fixture.write("a", "two");
        let twin = twin::assert_same(&fixture);
        let status = fixture.git_in(&twin, &["status", "--porcelain"]);
        assert_eq!(status, b"MM a\n");
    }

    #[test]
    fn unborn_and_empty() {
        let fixture = Fixture::new();
        twin::assert_same(&fixture);
        fs::remove_dir_all(fixture.beside("twin")).unwrap();
        fixture.write("a", "a");
        fixture.git(&["add", "a"]);
        fixture.git(&["symbolic-ref", "HEAD", "refs/heads/un/born"]);
        twin::assert_same(&fixture);
    }

    #[test]
    fn detached_and_stashed() {
        let fixture = with_history();
        for content in ["stash one", "stash two"] {
            fixture.write("a", content);
            fixture.git(&["stash", "-q"]);
        }
        fixture.git(&["checkout", "-q", "HEAD~1"]);
        let twin = twin::assert_same(&fixture);
        assert_eq!(fixture.git_in(&twin, &["stash", "list"]).split(|byte| *byte == b'\n').count(), 3);
        fixture.git_in(&twin, &["stash", "show", "-p", "stash@{1}"]);
    }

    fn in_conflict() -> Fixture {
        let fixture = with_history();
        fixture.git(&["checkout", "-q", "-b", "side", "HEAD~1"]);
        fixture.write("a", "1\n2\nside\n");
        fixture.commit("side");
        fixture.git(&["checkout", "-q", "main"]);
        fixture
    }

    #[test]
    fn mid_merge() {
        let fixture = in_conflict();
        assert!(!fixture.try_git_in(&fixture.root, &["merge", "side"]).status.success());
        let twin = twin::assert_same(&fixture);
        fixture.git_in(&twin, &["merge", "--abort"]);
        assert_eq!(fixture.git_in(&twin, &["status", "--porcelain"]), b"");
    }

    #[test]
    fn mid_rebase_cherry_pick_and_revert() {
        for arguments in
            [&["rebase", "side"][..], &["rebase", "--apply", "side"], &["cherry-pick", "side"], &["revert", "HEAD~1"]]
        {
            let fixture = in_conflict();
            assert!(!fixture.try_git_in(&fixture.root, arguments).status.success());
            let twin = twin::assert_same(&fixture);
            let [host, guest] = [&fixture.root, &twin].map(|root| fixture.git_in(root, &["status"]));
            assert_eq!(String::from_utf8(guest), String::from_utf8(host), "{arguments:?}");
            fixture.git_in(&twin, &[arguments[0], "--abort"]);
        }
    }

    #[test]
    fn bisecting_in_a_linked_worktree() {
        let fixture = with_history();
        let linked = fixture.beside("linked");
        fixture.git(&["bisect", "start", "HEAD", "HEAD~1"]);
        fixture.git(&["worktree", "add", "-q", linked.to_str().unwrap(), "-b", "other"]);
        let linked = fixture.at(&linked);
        linked.commit("on the branch");
        linked.commit("again");
        linked.git(&["bisect", "start", "HEAD", "HEAD~2"]);
        let twin = twin::assert_same(&linked);
        let [host, guest] = [&linked.root, &twin].map(|root| linked.git_in(root, &["bisect", "log"]));
        assert_eq!(guest, host);
        linked.git_in(&twin, &["bisect", "good"]);
    }

    #[test]
    fn submodules_absorbed_and_old_style() {
        let fixture = with_submodules();
        fixture.write("middle/file", "dirty");
        twin::assert_same(&fixture);
        fs::remove_dir_all(fixture.beside("twin")).unwrap();
        fixture.write("middle/inner/new", "x");
        fixture.git_in(&fixture.root.join("middle/inner"), &["add", "new"]);
        fixture.git_in(&fixture.root.join("middle/inner"), &["commit", "-qm", "moved on"]);
        twin::assert_same(&fixture);
        // The submodule one stands in is a workspace of its own.
        fs::remove_dir_all(fixture.beside("twin")).unwrap();
        twin::assert_same(&fixture.at(&fixture.root.join("middle")));
    }

    #[test]
    fn sha256() {
        let fixture = Fixture::init(&["--object-format=sha256"]);
        fixture.write("a", "a");
        fixture.commit("first");
        fixture.git(&["repack", "-qad"]);
        fixture.write("a", "b");
        fixture.commit("second");
        let twin = twin::assert_same(&fixture);
        assert!(fixture.try_git_in(&twin, &["fsck"]).status.success());
    }

    #[test]
    fn shallow_shared_and_partial_clones() {
        let origin = with_history();
        origin.git(&["config", "uploadpack.allowFilter", "true"]);
        let url = format!("file://{}", origin.root.display());
        for arguments in [&["--depth=1"][..], &["--shared"], &["--filter=blob:none"], &["--reference"]] {
            let clone = origin.beside("clone");
            let path = origin.root.to_str().unwrap();
            let source = if arguments == ["--shared"] { path } else { &url };
            let arguments = if arguments == ["--reference"] { &["--reference", path][..] } else { arguments };
            origin.git_in(origin.root.parent().unwrap(), &[&["clone", "-q"], arguments, &[source, "clone"]].concat());
            let twin = twin::assert_same(&origin.at(&clone));
            assert!(!twin.join(".git/objects/info/alternates").exists());
            fs::remove_dir_all(clone).unwrap();
            fs::remove_dir_all(twin).unwrap();
        }
    }

    #[test]
    fn reftable() {
        let fixture = Fixture::empty("repo");
        if !fixture.supports(&["init", "-q", "-b", "main", "--ref-format=reftable"]) {
            return;
        }
        twin::assert_same(&fixture);
        fs::remove_dir_all(fixture.beside("twin")).unwrap();
        fixture.write("a", "a");
        fixture.commit("first");
        fixture.git(&["branch", "other"]);
        fixture.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/heads/main"]);
        twin::assert_same(&fixture);
        fs::remove_dir_all(fixture.beside("twin")).unwrap();
        fixture.git(&["checkout", "-q", "--detach"]);
        twin::assert_same(&fixture);
    }

    #[test]
    fn refs_of_every_form() {
        let fixture = with_history();
        fixture.git(&["pack-refs", "--all"]);
        fixture.git(&["branch", "-f", "moved", "HEAD~1"]);
        fixture.git(&["pack-refs", "--all"]);
        fixture.git(&["branch", "-f", "moved", "HEAD"]);
        fixture.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/heads/main"]);
        fixture.git(&["notes", "add", "-m", "note"]);
        fixture.write(".git/refs/heads/locked.lock", "");
        fixture.write(".git/refs/heads/crashed", "");
        fixture.write(".git/MERGE_MSG.lock", "");
        let state = fixture.workspace().repository.state().unwrap();
        assert!(!state.refs.keys().any(|name| name.ends_with(b".lock") || name.ends_with(b"crashed")));
        assert!(!state.files.iter().any(|file| file.path.ends_with(b".lock")));
        fs::remove_file(fixture.root.join(".git/refs/heads/crashed")).unwrap();
        twin::assert_same(&fixture);
    }

    #[test]
    fn what_git_lists_after_an_edit_in_the_twin_is_that_edit() {
        let fixture = with_history();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fixture.git(&["status"]);
        let twin = twin::assert_same(&fixture);
        fs::write(twin.join("dir/b"), "B\n").unwrap();
        assert_eq!(fixture.git_in(&twin, &["status", "--porcelain"]), b" M dir/b\n");
    }
}

mod configuration {
    use super::*;

    fn guest_config(fixture: &Fixture) -> String {
        String::from_utf8(fixture.workspace().repository.guest_config().unwrap()).unwrap()
    }

    #[test]
    fn values_survive_whatever_they_contain() {
        let fixture = Fixture::new();
        let hostile = [
            "a\nb",
            "\"",
            "\\",
            "# no comment",
            "; nor this",
            " lead and trail ",
            "a\tb",
            "[core]\n\thooksPath = /x",
            "é\u{1b}",
        ];
        for (number, value) in hostile.iter().enumerate() {
            fixture.git(&["config", &format!("branch.b{number}.description"), value]);
            fixture.git(&["config", &format!("branch.{}.merge", value.replace('\n', "")), "refs/heads/x"]);
        }
        let path = fixture.beside("config");
        fs::write(&path, guest_config(&fixture)).unwrap();
        let ask =
            |arguments: &[&str]| fixture.git(&[&["config", "--file", path.to_str().unwrap()], arguments].concat());
        for (number, value) in hostile.iter().enumerate() {
            let answer = ask(&["-z", "--get", &format!("branch.b{number}.description")]);
            assert_eq!(answer, [value.as_bytes(), b"\0"].concat());
            ask(&["--get", &format!("branch.{}.merge", value.replace('\n', ""))]);
        }
        let keys = String::from_utf8(ask(&["--list", "--name-only"])).unwrap();
        assert!(!keys.contains("core.hookspath"), "{keys}");
    }

    #[test]
    fn levels_includes_and_conditions_are_resolved() {
        let fixture = Fixture::new();
        let root = fixture.root.display();
        fs::write(fixture.home().join("included"), "[user]\nname = Included\n[init]\ndefaultBranch = trunk\n").unwrap();
        fs::write(fixture.home().join("branchy"), "[user]\nemail = branch@example.org\n").unwrap();
        fs::write(
            fixture.home().join(".gitconfig"),
            format!(
                "[user]\nname = Home\nemail = home@example.org\n[includeIf \"gitdir:{root}/\"]\npath = included\n\
                 [includeIf \"onbranch:main\"]\npath = ~/branchy\n[includeIf \"gitdir:/elsewhere/\"]\npath = missing\n\
                 [core]\nautocrlf = input\n"
            ),
        )
        .unwrap();
        fixture.git(&["config", "core.autocrlf", "false"]);
        let config = guest_config(&fixture);
        for expected in [
            "name = \"Included\"",
            "email = \"branch@example.org\"",
            "autocrlf = \"false\"",
            "defaultbranch = \"trunk\"",
        ] {
            assert!(config.contains(expected), "{expected}: {config}");
        }
        assert!(!config.contains("include"), "{config}");
    }

    #[test]
    fn credentials_and_promisors_stay_behind() {
        let fixture = Fixture::new();
        for (key, value) in [
            ("remote.origin.url", "https://user:secret@example.org/x"),
            ("remote.origin.pushurl", "https://secret@example.org/x"),
            ("remote.origin.promisor", "true"),
            ("remote.origin.partialCloneFilter", "blob:none"),
            ("extensions.partialClone", "origin"),
            ("http.extraHeader", "Authorization: secret"),
            ("url.https://secret@example.org/.insteadOf", "https://example.org/"),
            ("credential.helper", "secret"),
            ("core.worktree", fixture.root.to_str().unwrap()),
            ("submodule.x.update", "!secret"),
        ] {
            fixture.git(&["config", key, value]);
        }
        let config = guest_config(&fixture);
        for absent in ["secret", "promisor", "partial", "worktree", "update ="] {
            assert!(!config.contains(absent), "{absent}: {config}");
        }
        assert!(config.contains("url = \"https://example.org/x\""), "{config}");
    }
}

mod change {
    use super::*;

    #[test]
    fn the_fingerprint_sees_git_and_ignores_the_worktree() {
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
    fn indexes_are_equal_by_what_is_staged() {
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
    fn a_hostile_index_is_an_error_and_no_more() {
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
}

mod generated {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "ab", "a.o", "b.o", "x", "[", "é", "a b"])
    }

    fn path() -> impl Strategy<Value = String> {
        prop::collection::vec(name(), 1..4).prop_map(|parts| parts.join("/"))
    }

    fn rule() -> impl Strategy<Value = String> {
        let atom = prop::sample::select(vec![
            "a",
            "b",
            "x",
            "*",
            "**",
            "?",
            "*.o",
            "[ab]",
            "[!a]",
            "[a-",
            "\\",
            "/",
            "/",
            "ab",
            "a*",
            "é",
            " ",
            "\\ ",
            "[[:alpha:]]",
        ]);
        let end = prop::sample::select(vec!["", "", "/", " ", "/*", "/**"]);
        (prop::bool::weighted(0.3), prop::collection::vec(atom, 1..5), end)
            .prop_map(|(negated, atoms, end)| format!("{}{}{end}", if negated { "!" } else { "" }, atoms.concat()))
    }

    fn rules() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(rule(), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn ignore_rules(
            paths in prop::collection::btree_set(path(), 1..15),
            root in rules(),
            nested in prop::collection::btree_map(name(), rules(), 0..3),
            tracked in prop::collection::vec(any::<bool>(), 15),
        ) {
            let fixture = Fixture::new();
            let mut made = BTreeSet::new();
            for path in &paths {
                let full = fixture.root.join(path);
                if fs::create_dir_all(full.parent().unwrap()).is_ok() && !full.is_dir() && fs::write(&full, "").is_ok() {
                    made.insert(path.as_str());
                }
            }
            let chosen: Vec<&str> = made.iter().zip(&tracked).filter(|(_, tracked)| **tracked).map(|(path, _)| *path).collect();
            if !chosen.is_empty() {
                fixture.git(&[&["--literal-pathspecs", "add", "-f", "--"], &chosen[..]].concat());
            }
            fixture.write(".gitignore", root.join("\n"));
            for (folder, rules) in &nested {
                if fixture.root.join(folder).is_dir() {
                    fixture.write(format!("{folder}/.gitignore"), rules.join("\n"));
                }
            }
            fixture.assert_lists_as_git();
        }
    }
}

#[test]
fn a_shallow_history_is_sound_and_follows() {
    for arguments in [&[][..], &["--object-format=sha256"]] {
        let fixture = Fixture::init(arguments);
        let mut twin = ShallowTwin::new(&fixture);
        // A branch without a commit, and an index with something in it.
        assert_eq!(twin.update(), 0);
        for number in 0..5 {
            fixture.write("sub/file", format!("{number}\n"));
            fixture.write(format!("old{number}"), format!("of {number}\n"));
            fixture.commit(&format!("commit {number}"));
        }
        fixture.git(&["tag", "-a", "-m", "a tag", "v1"]);
        fixture.git(&["tag", "-a", "-m", "a tag of a tag", "v1-again", "v1"]);
        fixture.git(&["tag", "old", "HEAD~2"]);
        fixture.git(&["branch", "other", "HEAD~1"]);
        fixture.write("staged", "staged\n");
        fixture.git(&["add", "staged"]);
        fixture.write("intended", "later\n");
        fixture.git(&["add", "-N", "intended"]);
        assert_eq!(twin.update(), 2);
        twin.assert_same();
        assert_eq!(twin.says(&["log", "--format=%s", "--all"]), "commit 4\n");
        assert_eq!(twin.says(&["tag"]), "v1\nv1-again\n");
        assert!(twin.says(&["describe"]).starts_with("v1"));
        assert_eq!(twin.update(), 0, "nothing is sent twice");

        fixture.write("empty", "");
        fixture.commit("next");
        twin.update();
        twin.assert_same();
        assert_eq!(twin.says(&["log", "--format=%s"]), "next\ncommit 4\n");
        // Two steps at once: the one between is not sent, so the history is cut again. What was there stays whole.
        fixture.git(&["branch", "before"]);
        fixture.git(&["commit", "-q", "--allow-empty", "-m", "between"]);
        fixture.git(&["commit", "-q", "--allow-empty", "-m", "tip"]);
        twin.update();
        twin.assert_same();
        assert_eq!(twin.says(&["log", "--format=%s"]), "tip\n");
        assert_eq!(twin.says(&["log", "--format=%s", "before"]), "next\ncommit 4\n");
        // A branch that one has been on stays where it was seen last.
        fixture.git(&["checkout", "-q", "other"]);
        twin.update();
        twin.assert_same();
        assert_eq!(twin.says(&["branch", "--format=%(refname:short)"]), "before\nmain\nother\n");
        fixture.git(&["branch", "-f", "before", "old"]);
        fixture.git(&["branch", "-D", "main"]);
        assert_eq!(twin.update(), 0);
        assert_eq!(twin.says(&["log", "-1", "--format=%s", "before"]), "next\n");
        assert_eq!(twin.says(&["branch", "--format=%(refname:short)"]), "before\nother\n");

        // In the middle of a merge both commits are needed.
        fixture.write("sub/file", "other\n");
        fixture.commit("on other");
        fixture.try_git_in(&fixture.root, &["merge", "v1"]);
        twin.update();
        assert!(twin.says(&["status"]).contains("both modified"), "{}", twin.says(&["status"]));
        assert_eq!(twin.says(&["log", "-1", "--format=%s", "MERGE_HEAD"]), "commit 4\n");
        let written = fixture.git(&["rev-parse", "--git-path", "objects/pack"]);
        let packs = fixture.root.join(String::from_utf8(written).unwrap().trim());
        assert_eq!(fs::read_dir(packs).unwrap().count(), 0, "nothing is written into the host's own repository");
    }
}
