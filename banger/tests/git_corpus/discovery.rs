//! Finding the workspace around a folder.

use super::*;

#[test]
fn workspace_is_found_from_subdirectories_and_symlinks() {
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
fn unusable_directory_is_an_error_with_a_hint() {
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
fn foreign_owned_repository_needs_safe_directory() {
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
fn git_variables_of_a_hook_are_ignored() {
    let fixture = Fixture::new();
    fixture.write("a", "");
    fixture.commit("first");
    // As in a hook: git sets these for what it runs.
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "discovery::discovers_workspace_with_hook_variables_set", "--include-ignored"])
        .envs([("GIT_DIR", "/nowhere"), ("GIT_WORK_TREE", "/nowhere"), ("GIT_INDEX_FILE", "/nowhere")])
        .envs([("GIT_CONFIG_GLOBAL", "/nowhere"), ("GIT_OBJECT_DIRECTORY", "/nowhere")])
        .env("CORPUS_ROOT", &fixture.root)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "run by the test above, with `GIT_*` in its environment"]
fn discovers_workspace_with_hook_variables_set() {
    let root = std::env::var_os("CORPUS_ROOT").expect("set by the test above");
    let host = Host { path: std::env::var_os("PATH"), ..Host::default() };
    let workspace = Workspace::discover(Path::new(&root), host).unwrap();
    assert_eq!(workspace.root, Path::new(&root));
    assert_eq!(paths(&list(&workspace).unwrap()), ["a"]);
    assert!(workspace.repository.state().unwrap().refs.contains_key(&b"refs/heads/main"[..]));
}

#[test]
fn nested_repository_with_external_worktree_is_skipped() {
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
fn unknown_repository_formats_are_refused() {
    let fixture = Fixture::new();
    fixture.git(&["config", "core.repositoryFormatVersion", "1"]);
    fixture.git(&["config", "extensions.fromTheFuture", "yes"]);
    let error = Workspace::discover(&fixture.root, fixture.host()).unwrap_err();
    assert!(matches!(error, GitError::UnsupportedFormat { .. }), "{error}");
}
