//! Repositories that were made elsewhere, to have banger read the user's own files. Each is looked
//! at as a sync does, and nothing of the marked files may be among what that finds.

use super::*;

/// What is in every file that is not the repository's.
const SECRET: &str = "SECRET-OF-THE-USER";

/// Where a link of a fixture leads.
type Target = Box<dyn Fn(&Fixture) -> std::path::PathBuf>;

/// A repository with a commit, beside the user's keys (`home/.ssh`) and a repository of theirs
/// (`private`).
fn victim() -> Fixture {
    let fixture = Fixture::new();
    fixture.write("file", "harmless\n");
    fixture.commit("first");
    let keys = fixture.home().join(".ssh");
    fs::create_dir(&keys).unwrap();
    for name in ["id_ed25519", "config"] {
        fs::write(keys.join(name), format!("{SECRET}\n")).unwrap();
    }
    let private = fixture.beside("private");
    fs::create_dir(&private).unwrap();
    fixture.git_in(&private, &["init", "-q", "-b", "main"]);
    // Stored as it is, so that the marker would be seen in an object's file.
    fixture.git_in(&private, &["config", "core.compression", "0"]);
    fs::write(private.join(SECRET), SECRET).unwrap();
    fixture.git_in(&private, &["add", "."]);
    fixture.git_in(&private, &["commit", "-qm", SECRET]);
    fixture.git_in(&private, &["branch", SECRET]);
    fixture
}

/// All that a sync of the workspace reads.
fn read_all(fixture: &Fixture) -> Result<Vec<u8>, GitError> {
    let workspace = Workspace::discover(&fixture.root, fixture.host())?;
    let listing = list(&workspace)?;
    let mut all = Vec::new();
    for entry in &listing.entries {
        all.extend(entry.path.as_bytes());
        // Links travel as links.
        if entry.kind == EntryKind::File {
            all.extend(fs::read(entry.path.under(&workspace.root)).unwrap_or_default());
        }
    }
    for repository in std::iter::once(&workspace.repository).chain(&listing.repositories) {
        repository.fingerprint()?;
        all.extend(repository.guest_config()?);
        all.extend(repository.global_excludes()?);
        all.extend(repository.global_attributes()?);
        all.extend(repository.guest_index(&listing, &Default::default(), &|_| None)?.bytes);
        let state = repository.state()?;
        all.extend(state.head);
        all.extend(state.refs.into_iter().flat_map(|(name, value)| [name, value].concat()));
        all.extend(state.files.into_iter().flat_map(|file| [file.path, file.bytes].concat()));
        for object in repository.object_files()? {
            all.extend(object.name.as_bytes());
            all.extend(fs::read(object.path).unwrap_or_default());
        }
    }
    Ok(all)
}

/// Nothing of the user's is read. If that is an error, it says `what` and how to allow it.
#[track_caller]
fn assert_nothing_is_read(fixture: &Fixture, what: &str) {
    match read_all(fixture) {
        Ok(all) => {
            let found = all.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            assert!(!found, "{what}: read");
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(what), "{what}: {text}");
            assert!(error.hint().is_some_and(|hint| hint.contains("banger trust")), "{text}");
            assert!(!text.contains(SECRET), "{text}");
        }
    }
}

fn move_and_link(fixture: &Fixture, name: &str, target: &Path) {
    let path = fixture.root.join(name);
    if path.exists() {
        fs::rename(&path, fixture.beside("moved")).unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

#[test]
fn symlinked_git_files_outside_are_not_read() {
    let keys = |fixture: &Fixture| fixture.home().join(".ssh");
    let key = move |fixture: &Fixture| keys(fixture).join("id_ed25519");
    let private = |name: &'static str| move |fixture: &Fixture| fixture.beside("private/.git").join(name);
    let cases: Vec<(&str, Target)> = vec![
        (".git/rebase-merge", Box::new(keys)),
        (".git/rebase-apply", Box::new(keys)),
        (".git/sequencer", Box::new(keys)),
        (".git/MERGE_MSG", Box::new(key)),
        (".git/info/exclude", Box::new(key)),
        (".git/info/attributes", Box::new(key)),
        (".git/info", Box::new(keys)),
        (".git/logs", Box::new(private("logs"))),
        (".git/objects/pack", Box::new(private("objects/pack"))),
        (".git/objects", Box::new(private("objects"))),
        (".git/refs", Box::new(private("refs"))),
        (".git/refs/heads", Box::new(private("refs/heads"))),
        (".git/refs/heads/x", Box::new(private("refs/heads"))),
        (".git/packed-refs", Box::new(private("packed-refs"))),
        (".git/index", Box::new(private("index"))),
        (".git/config", Box::new(private("config"))),
        (".git/shallow", Box::new(key)),
        (".git", Box::new(private(""))),
        (".gitignore", Box::new(key)),
    ];
    for (link, target) in cases {
        let fixture = victim();
        fixture.git_in(&fixture.beside("private"), &["pack-refs", "--all", "--no-prune"]);
        fixture.git_in(&fixture.beside("private"), &["repack", "-q"]);
        fixture.git_in(&fixture.beside("private"), &["config", "user.name", SECRET]);
        fixture.git(&["config", "core.attributesFile", "file"]);
        if link == ".git/info" {
            fs::write(keys(&fixture).join("exclude"), SECRET).unwrap();
        }
        if link == ".git/logs" {
            fs::create_dir_all(fixture.beside("private/.git/logs/refs")).unwrap();
            fs::write(fixture.beside("private/.git/logs/refs/stash"), SECRET).unwrap();
        }
        move_and_link(&fixture, link, &target(&fixture));
        assert_nothing_is_read(&fixture, link);
    }
}

#[test]
fn config_named_files_outside_are_not_read() {
    for key in ["core.excludesFile", "core.attributesFile", "include.path"] {
        for value in ["~/.ssh/id_ed25519", "../home/.ssh/id_ed25519", "link"] {
            let fixture = victim();
            if key == "include.path" {
                fs::write(fixture.home().join(".ssh/id_ed25519"), format!("[user]\nname = {SECRET}\n")).unwrap();
            }
            symlink("../home/.ssh/id_ed25519", fixture.root.join("link")).unwrap();
            // An include is relative to the file that has it.
            let value = match (key, value.starts_with('~')) {
                ("include.path", false) => format!("../{value}"),
                _ => value.to_owned(),
            };
            fixture.git(&["config", key, &value]);
            assert_nothing_is_read(&fixture, key);
        }
    }
    // By way of files that the configuration includes, by the worktree's own, and of git's own
    // files.
    let fixture = victim();
    fixture.write("settings", "[core]\nattributesFile = ../home/.ssh/id_ed25519\n");
    fixture.git(&["config", "include.path", "../settings"]);
    assert_nothing_is_read(&fixture, "core.attributesFile");
    let fixture = victim();
    fixture.write("settings", "[include]\npath = ~/.ssh/id_ed25519\n");
    fs::write(fixture.home().join(".ssh/id_ed25519"), format!("[user]\nname = {SECRET}\n")).unwrap();
    fixture.git(&["config", "include.path", "../settings"]);
    assert_nothing_is_read(&fixture, "include.path");
    let fixture = victim();
    fixture.git(&["config", "extensions.worktreeConfig", "true"]);
    fixture.git(&["config", "core.repositoryFormatVersion", "1"]);
    fixture.git(&["config", "--worktree", "core.excludesFile", "~/.ssh/id_ed25519"]);
    assert_nothing_is_read(&fixture, "core.excludesFile");
    let fixture = victim();
    fixture.git(&["config", "http.extraHeader", SECRET]);
    fixture.git(&["config", "core.excludesFile", ".git/config"]);
    assert_nothing_is_read(&fixture, "core.excludesFile");
    // The user's own setting, which the repository answers.
    let fixture = victim();
    let config = fs::read_to_string(fixture.home().join(".gitconfig")).unwrap();
    fs::write(fixture.home().join(".gitconfig"), format!("{config}[core]\nexcludesFile = .ignore\n")).unwrap();
    symlink("../home/.ssh/id_ed25519", fixture.root.join(".ignore")).unwrap();
    assert_nothing_is_read(&fixture, "core.excludesFile");
}

#[test]
fn alternates_and_commondir_outside_are_not_read() {
    for (file, content, what) in [
        (".git/objects/info/alternates", "../../../private/.git/objects\n", "alternates"),
        (".git/objects/info/alternates", "\"../../../private/.git/objects\"\n", "alternates"),
        (".git/commondir", "../../private/.git\n", ".git/commondir"),
    ] {
        let fixture = victim();
        fixture.write(file, content);
        assert_nothing_is_read(&fixture, what);
    }
    // An alternate of an alternate.
    let fixture = victim();
    fixture.write(".git/objects/info/alternates", "../../more\n");
    fixture.write("more/info/alternates", "../../private/.git/objects\n");
    assert_nothing_is_read(&fixture, "more/info/alternates");
}

/// A sparse index is expanded by objects, which are looked for by gix.
#[test]
fn nested_alternates_outside_are_not_read() {
    let fixture = victim();
    fixture.write("folder/file", "");
    fixture.commit("second");
    fixture.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "other"]);
    assert!(fixture.listing().entries.iter().any(|entry| entry.path.to_string() == "file"));
    fixture.write(".git/objects/info/alternates", "../../more\n");
    // For git below `more`, where it is not, and for gix below `.git/objects`.
    fixture.write("more/info/alternates", "../../../private/.git/objects\n");
    let error = read_all(&fixture).unwrap_err();
    assert!(error.to_string().contains("more/info/alternates"), "{error}");
    assert_nothing_is_read(&fixture, "more/info/alternates");
}

#[test]
fn git_file_naming_another_repository_is_refused() {
    let linked = |fixture: &Fixture| {
        let linked = fixture.beside("linked");
        fixture.git_in(&fixture.beside("private"), &["worktree", "add", "-q", linked.to_str().unwrap(), "-b", "x"]);
    };
    for target in ["../private/.git", "../private/.git/worktrees/linked"] {
        // At the root.
        let fixture = victim();
        linked(&fixture);
        fs::rename(fixture.root.join(".git"), fixture.beside("moved")).unwrap();
        fixture.write(".git", format!("gitdir: {target}\n"));
        assert_nothing_is_read(&fixture, "`.git`");
        // In a subdirectory, untracked and as a submodule.
        for name in ["vendor/lib", "sub"] {
            let fixture = victim();
            linked(&fixture);
            let up = "../".repeat(name.split('/').count());
            if name == "sub" {
                let commit = String::from_utf8(fixture.git(&["rev-parse", "HEAD"])).unwrap();
                fixture.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{},sub", commit.trim())]);
            }
            fixture.write(format!("{name}/.git"), format!("gitdir: {up}{target}\n"));
            assert_nothing_is_read(&fixture, &format!("`{name}/.git`"));
        }
    }
    let fixture = victim();
    fs::create_dir(fixture.root.join("vendor")).unwrap();
    symlink(fixture.beside("private/.git"), fixture.root.join("vendor/.git")).unwrap();
    assert_nothing_is_read(&fixture, "`vendor/.git`");
    // Its back link names another work tree; a repository inside that does is not the user's.
    let fixture = victim();
    linked(&fixture);
    fs::rename(fixture.root.join(".git"), fixture.root.join("git")).unwrap();
    fixture.write("git/commondir", "../../private/.git\n");
    fixture.write("git/gitdir", format!("{}/.git\n", fixture.root.display()));
    fixture.write(".git", "gitdir: git\n");
    assert_nothing_is_read(&fixture, "commondir");
}

/// Has the only entry of the index, whose path is as long, named `path`.
fn rename_in_index(fixture: &Fixture, from: &str, to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let index = fixture.root.join(".git/index");
    let mut bytes = fs::read(&index).unwrap();
    while let Some(at) = bytes.windows(from.len()).position(|window| window == from.as_bytes()) {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    fs::write(index, bytes).unwrap();
}

#[test]
fn index_paths_that_git_refuses_are_errors() {
    let long = "x".repeat(64);
    let cases: Vec<(Vec<u8>, &str)> = [
        ("../home/.ssh/id_ed25519", "100644"),
        ("/etc/hostname", "100644"),
        (".git/config", "100644"),
        ("a/.GIT/config", "100644"),
        ("a/git~1/config", "100644"),
        ("a/.g\u{200c}it/config", "100644"),
        ("a/./b", "100644"),
        ("a//b", "100644"),
        ("a/b/", "100644"),
        ("../private", "160000"),
        ("a\0b", "100644"),
        (".gitmodules", "120000"),
    ]
    .into_iter()
    .map(|(path, mode)| (path.as_bytes().to_vec(), mode))
    .collect();
    for (path, mode) in cases {
        let fixture = victim();
        fixture.git(&["rm", "-q", "--cached", "file"]);
        let stand_in = &long[..path.len()];
        let id = String::from_utf8(fixture.git(&["rev-parse", "HEAD:file"])).unwrap();
        fixture.git(&["update-index", "--add", "--cacheinfo", &format!("{mode},{},{stand_in}", id.trim())]);
        rename_in_index(&fixture, stand_in, &path);
        let Err(error) = read_all(&fixture) else { panic!("{:?} was taken", path.escape_ascii()) };
        let text = error.to_string();
        assert!(text.contains("path that git refuses"), "{text}");
        assert!(error.hint().unwrap().contains("git reset"), "{text}");
    }
    // What only looks like it.
    let fixture = victim();
    for name in [".gitignore", "a/.github/x", "...", "a/..b", "git~2", ".gitmodules"] {
        fixture.write(name, "");
    }
    fixture.commit("all");
    fixture.assert_lists_as_git();
}

#[test]
fn damaged_index_is_an_error() {
    let fixture = Fixture::new();
    for number in 0..300 {
        fixture.write(format!("d{}/f{number}", number % 7), "");
    }
    // With the offsets by which more than one thread may read it.
    fixture.git(&["-c", "index.threads=2", "add", "-A"]);
    let index = fixture.root.join(".git/index");
    let whole = fs::read(&index).unwrap();
    let workspace = fixture.workspace();
    // These two had threads panic, by those offsets alone: their entries are sound.
    let found = [&include_bytes!("data/damaged-index-1")[..], include_bytes!("data/damaged-index-2")];
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        bytes
    };
    let ends = (0..32).chain(whole.len() - 300..whole.len());
    let cut = (0..whole.len() / 2).step_by(97).map(|at| whole[..at].to_vec());
    for bytes in found {
        fs::write(&index, bytes).unwrap();
        workspace.repository.guest_index(&Default::default(), &Default::default(), &|_| None).unwrap();
    }
    for bytes in ends.map(changed).chain(cut) {
        fs::write(&index, &bytes).unwrap();
        if let Err(error) = workspace.repository.guest_index(&Default::default(), &Default::default(), &|_| None) {
            assert!(error.hint().is_some_and(|hint| hint.contains("git reset")), "{error}");
        } else {
            assert!(bytes.len() > whole.len() / 2, "{} bytes of {} were taken", bytes.len(), whole.len());
        }
    }
}

/// A few trees of which each names the next many times stand for more files than memory has room
/// for.
#[test]
fn sparse_index_expansion_is_limited() {
    let fixture = Fixture::new();
    fixture.write("file", "");
    fixture.write("folder/file", "");
    fixture.commit("all");
    let bytes = |hex: &[u8]| -> Vec<u8> {
        let hex = std::str::from_utf8(hex).unwrap();
        (0..40).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    fixture.write(".git/object", "");
    let mut object = bytes(&fixture.git(&["hash-object", "-w", ".git/object"]));
    for level in 0..5 {
        let mode = if level == 0 { "100644" } else { "40000" };
        let entry = |number| [format!("{mode} {number:03}{}\0", "n".repeat(200)).as_bytes(), &object].concat();
        fixture.write(".git/object", (0..100).map(entry).collect::<Vec<_>>().concat());
        object = bytes(&fixture.git(&["hash-object", "-w", "-t", "tree", ".git/object"]));
    }
    fixture.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "other"]);
    let old = fixture.git(&["rev-parse", "HEAD:folder"]);
    let index = fixture.root.join(".git/index");
    let mut content = fs::read(&index).unwrap();
    let old = bytes(&old);
    let at = content.windows(20).position(|window| window == old).unwrap();
    content[at..at + 20].copy_from_slice(&object);
    fs::write(&index, content).unwrap();
    let error = list(&fixture.workspace()).unwrap_err().to_string();
    assert!(error.contains("too many files"), "{error}");
}

/// A relative path is taken from where an include is written to be, and not from where a link there
/// leads.
#[test]
fn includes_resolve_as_in_git_and_are_limited() {
    let fixture = victim();
    fixture.git(&["config", "include.path", "link/config"]);
    fs::create_dir_all(fixture.root.join("deep/deeper")).unwrap();
    // git looks for what it names beside the link, which leads out, and not beside the file.
    fixture.write("deep/deeper/config", "[include]\n\tpath = ../../../home/.ssh/config\n");
    symlink("../deep/deeper", fixture.root.join(".git/link")).unwrap();
    assert_nothing_is_read(&fixture, "include.path");

    let fixture = victim();
    fixture.git(&["config", "include.path", "first"]);
    for number in 0..200 {
        let name = if number == 0 { "first".to_owned() } else { number.to_string() };
        fixture.write(format!(".git/{name}"), format!("[include]\n\tpath = {}\n", number + 1));
    }
    let error = read_all(&fixture).unwrap_err().to_string();
    assert!(error.contains("too many files"), "{error}");
}

/// Of a split index, the half that is shared: its caches could exhaust the stack, as the index's
/// own.
#[test]
fn deeply_nested_shared_index_trees_are_ignored() {
    let fixture = Fixture::new();
    fixture.write("file", "");
    fixture.commit("all");
    fixture.git(&["update-index", "--split-index"]);
    let before = paths(&fixture.listing());
    let mut files = fs::read_dir(fixture.root.join(".git")).unwrap().map(|entry| entry.unwrap().path());
    let shared = files.find(|path| path.to_string_lossy().contains("sharedindex.")).unwrap();
    let whole = fs::read(&shared).unwrap();
    let (body, hash) = whole.split_at(whole.len() - 20);
    let tree = b"a\0-1 1\n".repeat(200_000);
    let tree = [&b"TREE"[..], &(tree.len() as u32).to_be_bytes(), &tree].concat();
    fs::write(&shared, [body, &tree, hash].concat()).unwrap();
    assert_eq!(paths(&fixture.listing()), before);
    // A link to the user's own is no half of it.
    fs::rename(&shared, fixture.beside("shared")).unwrap();
    symlink(fixture.beside("shared"), &shared).unwrap();
    let error = list(&fixture.workspace()).unwrap_err();
    assert!(error.to_string().contains("sharedindex."), "{error}");
}

#[test]
fn reading_a_fifo_does_not_block() {
    use nix::sys::stat::Mode;
    for name in [
        ".git/HEAD",
        ".git/config",
        ".git/index",
        ".git/packed-refs",
        ".git/commondir",
        ".git/info/exclude",
        ".git/MERGE_MSG",
        ".git/refs/heads/x",
        ".git/objects/info/alternates",
        ".gitignore",
        "sub/.git",
        "sub/.git/HEAD",
        "sub/.git/commondir",
    ] {
        let fixture = victim();
        if let Some(file) = name.strip_prefix("sub/.git/") {
            fixture.write("sub/file", "");
            fixture.git_in(&fixture.root.join("sub"), &["init", "-q"]);
            let _ = fs::remove_file(fixture.root.join("sub/.git").join(file));
        }
        let path = fixture.root.join(name);
        let _ = fs::remove_file(&path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        let (root, host) = (fixture.root.clone(), fixture.host());
        std::thread::spawn(move || {
            let _ = send.send(Workspace::discover(&root, host).and_then(|workspace| {
                let listing = list(&workspace)?;
                workspace.repository.state()?;
                workspace.repository.object_files()?;
                workspace.repository.fingerprint()?;
                Ok(listing)
            }));
        });
        let outcome = receive.recv_timeout(std::time::Duration::from_secs(30));
        assert!(outcome.is_ok(), "`{name}` is waited for");
    }
}

#[test]
fn missing_objects_are_not_fetched_and_nothing_runs() {
    let fixture = victim();
    let mark = fixture.beside("executed");
    // An object that is missing is fetched when it is asked for, with a program that the
    // configuration names.
    let missing = "1".repeat(40);
    fixture.git(&["update-index", "--add", "--cacheinfo", &format!("100644,{missing},missing")]);
    let uploadpack = format!("touch '{}'; git-upload-pack", mark.display());
    for (key, value) in [
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", fixture.beside("private").to_str().unwrap()),
        ("remote.origin.uploadpack", &uploadpack),
        ("protocol.allow", "always"),
        ("protocol.file.allow", "always"),
    ] {
        fixture.git(&["config", key, value]);
    }
    // As git before 2.45 is: it does not know `GIT_NO_LAZY_FETCH`.
    let programs = fixture.beside("programs");
    fs::create_dir(&programs).unwrap();
    let path = std::env::var("PATH").unwrap();
    let git = format!("#!/bin/sh\nunset GIT_NO_LAZY_FETCH\nPATH='{path}'\nexec git \"$@\"\n");
    fs::write(programs.join("git"), git).unwrap();
    fs::set_permissions(programs.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let ask = |path: String| {
        let host = Host { path: Some(path.into()), ..fixture.host() };
        let workspace = Workspace::discover(&fixture.root, host).unwrap();
        workspace.repository.shallow(banger::git::Sent::default(), &fixture.beside("packs")).map(|_| ())
    };
    let _ = ask(format!("{}:{path}", programs.display()));
    assert!(!mark.exists(), "what the configuration names was run");
}

/// Runs `work` in a thread, which may wait for a FIFO without end.
#[track_caller]
fn assert_ends<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    receive.recv_timeout(std::time::Duration::from_secs(30)).unwrap_or_else(|_| panic!("{what} is waited for"))
}

fn make_fifo(fixture: &Fixture, name: &str) {
    let path = fixture.root.join(name);
    let _ = fs::remove_file(&path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

#[test]
fn git_subprocess_does_not_block_on_a_fifo() {
    for (fifo, setting) in [
        ("sub/.gitattributes", ""),
        (".git/info/attributes", ""),
        ("fifo", "[core]\nattributesFile = fifo\n"),
        ("fifo", "[include]\npath = ../fifo\n"),
        ("fifo", "[includeIf \"onbranch:**\"]\npath = ../fifo\n"),
    ] {
        let fixture = Fixture::new();
        fixture.write(".gitattributes", "*.nb filter=x\n");
        fixture.write("sub/deep/a.nb", "abc\n");
        fixture.write("b.nb", "abc\n");
        fixture.commit("first");
        let config = fs::read_to_string(fixture.root.join(".git/config")).unwrap();
        fixture.write(".git/config", format!("{config}[filter \"x\"]\nclean = cat\n{setting}"));
        make_fifo(&fixture, fifo);
        let (root, host) = (fixture.root.clone(), fixture.host());
        let found = assert_ends(&format!("{fifo} {setting}"), move || {
            let workspace = Workspace::discover(&root, host)?;
            workspace.repository.filtered_files(&list(&workspace)?)
        });
        match found {
            Ok(files) => {
                let paths: Vec<_> = files.unwrap().into_iter().map(|file| file.path.to_string()).collect();
                assert_eq!((fifo, paths), ("sub/.gitattributes", vec!["b.nb".to_owned()]));
            }
            Err(error) => assert!(error.to_string().contains("no regular file"), "{fifo}: {error}"),
        }
    }
    // The list of stashes in a reftable is read with `git log`, which maps names.
    let fixture = Fixture::empty("repo");
    if !fixture.supports(&["init", "-q", "-b", "main", "--ref-format=reftable"]) {
        return;
    }
    fixture.write("file", "first\n");
    fixture.commit("first");
    fixture.write("file", "second\n");
    fixture.git(&["stash", "-q"]);
    fixture.git(&["config", "mailmap.file", "fifo"]);
    make_fifo(&fixture, "fifo");
    let (root, host) = (fixture.root.clone(), fixture.host());
    let state = assert_ends("mailmap.file", move || Workspace::discover(&root, host)?.repository.state()).unwrap();
    assert!(state.files.iter().any(|file| file.path == b"logs/refs/stash"));
}
