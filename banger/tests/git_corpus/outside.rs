//! Layouts that lead outside of a workspace for good reasons: silently where git's back link proves
//! them, else after the user's word.

use super::*;
use banger::git::{OutsidePolicy, outside};

/// Checks that the fixture's repository is refused without trust, by an error that names `what`,
/// and that with trust it is as git has it. Returns the trusting fixture.
#[track_caller]
fn assert_needs_trust(fixture: &Fixture, what: &str) -> Fixture {
    let refused = Workspace::discover(&fixture.root, fixture.host()).and_then(|workspace| {
        let listing = list(&workspace)?;
        for repository in std::iter::once(&workspace.repository).chain(&listing.repositories) {
            repository.state()?;
            repository.object_files()?;
        }
        Ok(())
    });
    let error = refused.expect_err(what);
    assert!(matches!(error, GitError::Outside { .. }) && error.to_string().contains(what), "{error}");
    assert!(error.hint().unwrap().contains("banger trust"));
    let trusting = fixture.trusting();
    twin::assert_same(&trusting);
    fs::remove_dir_all(fixture.beside("twin")).unwrap();
    trusting
}

fn with_history() -> Fixture {
    let fixture = Fixture::new();
    fixture.write("a", "1\n");
    fixture.write("dir/b", "b\n");
    fixture.commit("first");
    fixture.git(&["tag", "-a", "v1", "-m", "v1"]);
    fixture.write("a", "2\n");
    fixture.commit("second");
    fixture
}

#[test]
fn shared_clones_need_trust() {
    let origin = with_history();
    let path = origin.root.to_str().unwrap();
    for arguments in [&["clone", "-q", "--shared", path][..], &["clone", "-q", "--reference", path, path]] {
        let clone = origin.beside("clone");
        origin.git_in(origin.root.parent().unwrap(), &[arguments, &["clone"]].concat());
        let trusting = assert_needs_trust(&origin.at(&clone), "`.git/objects/info/alternates`");
        // Another alternate is another question.
        let other = origin.beside("other");
        fs::create_dir_all(other.join("objects")).unwrap();
        let list = clone.join(".git/objects/info/alternates");
        let listed = fs::read_to_string(&list).unwrap();
        fs::write(list, format!("{listed}{}\n", other.join("objects").display())).unwrap();
        let error = trusting.workspace().repository.object_files().unwrap_err();
        assert!(error.to_string().contains(other.to_str().unwrap()), "{error}");
        fs::remove_dir_all(clone).unwrap();
        fs::remove_dir_all(other).unwrap();
    }
}

#[test]
fn alternate_inside_the_repository_needs_no_trust() {
    let fixture = with_history();
    fs::create_dir_all(fixture.root.join("store/info")).unwrap();
    fs::rename(fixture.root.join(".git/objects/pack"), fixture.root.join("store/pack")).unwrap();
    fixture.write(".git/objects/info/alternates", "../../store\n");
    twin::assert_same(&fixture);
}

#[test]
fn git_new_workdir_checkout_needs_trust() {
    let origin = with_history();
    origin.git(&["pack-refs", "--all"]);
    let root = origin.beside("workdir");
    fs::create_dir_all(root.join(".git/logs")).unwrap();
    // As contrib/workdir/git-new-workdir of git has it.
    for name in ["config", "refs", "logs/refs", "objects", "info", "hooks", "packed-refs"] {
        symlink(origin.root.join(".git").join(name), root.join(".git").join(name)).unwrap();
    }
    fs::copy(origin.root.join(".git/HEAD"), root.join(".git/HEAD")).unwrap();
    let workdir = origin.at(&root);
    workdir.git(&["checkout", "-qf"]);
    let trusting = assert_needs_trust(&workdir, "`.git/");
    // What is added there is seen: it is the same as far as git goes.
    let before = trusting.workspace().repository.fingerprint().unwrap();
    origin.git(&["branch", "another"]);
    let workspace = trusting.workspace();
    assert_ne!(workspace.repository.fingerprint().unwrap(), before);
    assert!(workspace.repository.state().unwrap().refs.contains_key(&b"refs/heads/another"[..]));
}

#[test]
fn gerrit_repo_checkout_needs_trust() {
    let origin = with_history();
    let top = origin.beside("top");
    let (projects, objects) = (top.join(".repo/projects/x.git"), top.join(".repo/project-objects/x.git"));
    fs::create_dir_all(&objects).unwrap();
    fs::create_dir_all(projects.parent().unwrap()).unwrap();
    fs::rename(origin.root.join(".git"), &projects).unwrap();
    fs::rename(projects.join("objects"), objects.join("objects")).unwrap();
    symlink("../../project-objects/x.git/objects", projects.join("objects")).unwrap();
    let root = top.join("x");
    fs::rename(&origin.root, &root).unwrap();
    symlink("../.repo/projects/x.git", root.join(".git")).unwrap();
    assert_needs_trust(&origin.at(&root), "`.git`");
}

#[test]
fn separate_git_dir_needs_trust_without_back_link() {
    let fixture = Fixture::empty("repo");
    fixture.git(&["init", "-q", "-b", "main", "--separate-git-dir", "../elsewhere.git"]);
    fixture.write("a", "a");
    fixture.commit("first");
    assert_needs_trust(&fixture, "`.git`");
    // With git's own back link there is no question.
    fixture.git(&["config", "core.worktree", fixture.root.to_str().unwrap()]);
    twin::assert_same(&fixture);
}

#[test]
fn worktrees_and_submodules_need_no_trust() {
    let fixture = with_submodules();
    for folder in ["", "middle", "middle/inner"] {
        let place = fixture.at(&fixture.root.join(folder));
        twin::assert_same(&place);
        fs::remove_dir_all(fixture.beside("twin")).unwrap();
    }
    let bare = fixture.beside("bare.git");
    fixture.git(&["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    for (from, name) in [(&fixture.root, "linked"), (&bare, "of-bare")] {
        let linked = fixture.beside(name);
        fixture.git_in(from, &["worktree", "add", "-q", linked.to_str().unwrap(), "-b", name]);
        let place = fixture.at(&linked);
        place.git(&["submodule", "-q", "update", "--init", "--recursive", "middle"]);
        twin::assert_same(&place);
        fs::remove_dir_all(fixture.beside("twin")).unwrap();
    }
}

#[test]
fn symlink_refs_need_no_trust() {
    let fixture = with_history();
    fs::remove_file(fixture.root.join(".git/HEAD")).unwrap();
    symlink("refs/heads/main", fixture.root.join(".git/HEAD")).unwrap();
    symlink("refs/heads/main", fixture.root.join(".git/refs/heads/alias")).unwrap();
    let state = fixture.workspace().repository.state().unwrap();
    assert_eq!(state.head, b"ref: refs/heads/main\n");
    assert_eq!(state.refs[&b"refs/heads/alias"[..]], b"ref: refs/heads/main");
    fixture.workspace().repository.fingerprint().unwrap();
}

#[test]
fn config_named_files_outside_need_trust() {
    for (key, what) in [("core.excludesFile", "`core.excludesFile`"), ("core.attributesFile", "`core.attributesFile`")]
    {
        let fixture = with_history();
        fs::write(fixture.home().join("own"), "*.user\n").unwrap();
        fixture.git(&["config", key, "~/own"]);
        let error = fixture.workspace().repository.fingerprint().unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        fixture.trusting().workspace().repository.fingerprint().unwrap();
        // In the work tree, and in the user's own configuration, it is nobody else's.
        fixture.write("own", "*.x\n");
        fixture.git(&["config", key, "own"]);
        let repository = fixture.workspace().repository;
        assert_eq!([repository.global_excludes().unwrap(), repository.global_attributes().unwrap()].concat(), b"*.x\n");
        fixture.git(&["config", "--unset", key]);
        fixture.git(&["config", "--global", key, "~/own"]);
        let repository = fixture.workspace().repository;
        assert_eq!(
            [repository.global_excludes().unwrap(), repository.global_attributes().unwrap()].concat(),
            b"*.user\n"
        );
    }
}

#[test]
fn collect_lists_all_outside_paths() {
    let fixture = with_history();
    let collect = |fixture: &Fixture| {
        let host = Host { outside: OutsidePolicy::Collect, ..fixture.host() };
        let workspace = Workspace::discover(&fixture.root, host).unwrap();
        outside(&workspace, &list(&workspace).unwrap()).unwrap()
    };
    assert_eq!(collect(&fixture), []);
    let store = fixture.beside("store");
    fs::create_dir_all(store.join("info")).unwrap();
    symlink(&store, fixture.root.join(".git/rebase-merge")).unwrap();
    fixture.write(".git/objects/info/alternates", format!("{}\n/nowhere\n", store.display()));
    let found: Vec<_> = collect(&fixture).into_iter().map(|place| (place.target, place.from)).collect();
    let from = |name: &str| (store.clone(), format!("`{name}`"));
    assert_eq!(found, [from(".git/objects/info/alternates"), from(".git/rebase-merge")]);
}

#[test]
fn directory_swapped_for_a_symlink_is_not_followed() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let fixture = with_history();
    let secret = fixture.beside("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("b"), "secret").unwrap();
    let (dir, aside) = (fixture.root.join("dir"), fixture.root.join("aside"));
    let workspace = fixture.workspace();
    let boundary = workspace.repository.boundary();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::rename(&dir, &aside).unwrap();
                symlink(&secret, &dir).unwrap();
                fs::remove_file(&dir).unwrap();
                fs::rename(&aside, &dir).unwrap();
            }
        });
        let (mut read, mut refused) = (0, 0);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        // Until both were met often; never the secret.
        while (read < 200 || refused < 200) && std::time::Instant::now() < end {
            match boundary.open_file(&dir.join("b")).and_then(std::io::read_to_string) {
                Ok(text) => {
                    assert_eq!(text, "b\n");
                    read += 1;
                }
                Err(_) => refused += 1,
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(read >= 200 && refused >= 200, "{read} read, {refused} refused");
    });
}
