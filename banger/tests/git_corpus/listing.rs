//! What travels: the list of files, compared with git's own.

use super::*;

#[test]
fn an_empty_repository_has_no_files() {
    let fixture = Fixture::new();
    assert!(fixture.assert_lists_as_git().entries.is_empty());
}

#[test]
fn ignore_rules_of_every_source_list_as_git() {
    let fixture = Fixture::new();
    fs::write(fixture.home().join("excludes"), "*.user\n").unwrap();
    fixture.git(&["config", "--global", "core.excludesFile", "~/excludes"]);
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
fn default_excludes_file_is_in_xdg_config_home() {
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
fn ignore_files_in_odd_encodings_list_as_git() {
    let fixture = Fixture::new();
    fixture.write(".gitignore", b"\xef\xbb\xbfbom\r\ncrlf\r\nlast");
    fixture.write("s/.gitignore", b"a\nb\r");
    for path in ["bom", "crlf", "last", "other", "s/a", "s/b", "s/c"] {
        fixture.write(path, "");
    }
    fixture.assert_lists_as_git();
}

#[test]
fn ignore_file_that_is_a_symlink_or_directory_is_ignored() {
    let fixture = Fixture::new();
    fixture.write("rules", "a\n");
    fixture.write("a", "");
    fixture.write("s/a", "");
    symlink("rules", fixture.root.join(".gitignore")).unwrap();
    fixture.write("s/.gitignore/a", "");
    fixture.assert_lists_as_git();
}

#[test]
fn ignore_case_setting_is_honored() {
    let fixture = Fixture::new();
    fixture.git(&["config", "core.ignoreCase", "true"]);
    fixture.write(".gitignore", "*.TMP\nBuild/\n");
    fixture.write("a.tmp", "");
    fixture.write("build/a", "");
    assert_eq!(paths(&fixture.assert_lists_as_git()), [".gitignore"]);
}

#[test]
fn unusual_file_names_list_as_git() {
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
fn symlinks_are_listed_and_never_followed() {
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
fn file_and_directory_type_changes_list_as_git() {
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
fn special_files_are_counted_and_skipped() {
    let fixture = Fixture::new();
    fixture.write("a", "");
    nix::unistd::mkfifo(&fixture.root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(fixture.root.join("socket")).unwrap();
    let listing = fixture.assert_lists_as_git();
    assert_eq!((paths(&listing), listing.special_files), (vec!["a".to_owned()], 2));
}

#[test]
fn nested_and_unpopulated_submodules_are_listed() {
    let fixture = with_submodules();
    let listing = fixture.assert_lists_as_git();
    let nested: Vec<_> = listing.repositories.iter().map(|nested| nested.path.to_string()).collect();
    assert_eq!(nested, ["middle", "middle/inner"]);
    assert_eq!(listing.submodule_folders[0].to_string(), "absent");
}

#[test]
fn embedded_repositories_list_as_git() {
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
fn gitlink_without_gitmodules_lists_as_git() {
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
fn index_flags_list_as_git() {
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
fn sparse_checkouts_list_as_git() {
    for arguments in
        [&["set", "--cone", "a"][..], &["set", "--no-cone", "a/*", "!a/x"], &["set", "--cone", "--sparse-index", "a"]]
    {
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
fn index_formats_list_as_git() {
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
fn unreadable_directories_give_a_warning() {
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
fn twenty_thousand_files_list_as_git() {
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
fn configured_programs_are_never_executed() {
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
    repository.guest_index(&listing, &Default::default(), &|_| None).unwrap();
    let config = String::from_utf8(repository.guest_config().unwrap()).unwrap();
    assert!(!config.contains(hook), "{config}");
    assert!(!mark.exists());
}
