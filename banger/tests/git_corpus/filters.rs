//! Files that git stores in another form: the guest has no program for them, and says what is said
//! here.

use std::time::{Duration, SystemTime};

use banger::git::{Evidence, OpenObjects};

use super::*;

/// A filter that the repository's own configuration names. It leaves a mark whenever it is run.
fn with_filter() -> Fixture {
    let fixture = Fixture::new();
    let mark = fixture.beside("mark").display().to_string();
    fixture.git(&["config", "filter.x.clean", &format!("echo >>'{mark}'; tr a-z A-Z")]);
    fixture.git(&["config", "filter.x.smudge", "tr A-Z a-z"]);
    fixture.write(".gitattributes", "*.nb filter=x\n");
    fixture.write("a.nb", "abc\n");
    fixture.write("sub/b.nb", "content\n");
    fixture.write("plain", "plain\n");
    fixture.commit("first");
    fixture
}

/// Builds the twin; what banger does for that runs no filter. Git in it is asked after git here,
/// which may run them.
#[track_caller]
fn assert_same(fixture: &Fixture) -> std::path::PathBuf {
    let twin = fixture.beside("twin");
    if twin.exists() {
        fs::remove_dir_all(&twin).unwrap();
    }
    let mark = fixture.beside("mark");
    let _ = fs::remove_file(&mark);
    let twin = twin::build(fixture);
    assert!(!mark.exists(), "a filter was run");
    for question in [&["status", "--porcelain=v2"][..], &["diff", "--stat"], &["diff", "--cached"], &["ls-files", "-s"]]
    {
        let [host, guest] =
            [&fixture.root, &twin].map(|root| String::from_utf8(fixture.git_in(root, question)).unwrap());
        match question[0] {
            // The content differs from what is stored in another way.
            "diff" => assert_eq!(guest.lines().count(), host.lines().count(), "git {question:?}: {guest}"),
            _ => assert_eq!(guest, host, "git {question:?}"),
        }
    }
    twin
}

fn evidence(fixture: &Fixture) -> Vec<(String, Evidence)> {
    let files = fixture.workspace().repository.filtered_files(&fixture.listing()).unwrap().unwrap();
    files.into_iter().map(|file| (file.path.to_string(), file.evidence)).collect()
}

#[test]
fn filtered_files_match_after_commit_switch_and_edit() {
    let fixture = with_filter();
    // All in one second.
    let twin = assert_same(&fixture);
    // What is stored stays in the right form.
    let before = fixture.git(&["ls-files", "-s"]);
    fixture.git_in(&twin, &["add", "-A"]);
    assert_eq!(fixture.git_in(&twin, &["ls-files", "-s"]), before);
    fs::write(twin.join("plain"), "edited\n").unwrap();
    fixture.git_in(&twin, &["stash", "-q"]);
    fixture.git_in(&twin, &["stash", "pop", "-q"]);
    assert_eq!(fixture.git_in(&twin, &["status", "--porcelain"]), b" M plain\n");
    fs::write(twin.join("a.nb"), "edited there\n").unwrap();
    assert_eq!(fixture.git_in(&twin, &["status", "--porcelain"]), b" M a.nb\n M plain\n");

    fixture.git(&["checkout", "-q", "-b", "other"]);
    fixture.write("a.nb", "on other\n");
    fixture.commit("second");
    assert_same(&fixture);
    fixture.git(&["checkout", "-q", "main"]);
    assert_same(&fixture);
    fixture.write("a.nb", "an edit, longer\n");
    fixture.write("plain", "too\n");
    assert_same(&fixture);
    fixture.git(&["add", "a.nb"]);
    fixture.write("sub/b.nb", "longer than it was\n");
    assert_same(&fixture);
    fs::remove_file(fixture.root.join("a.nb")).unwrap();
    assert_same(&fixture);
}

#[test]
fn filtered_files_are_clean_right_after_a_clone() {
    let origin = with_filter();
    for number in 0..50 {
        origin.write(format!("many/{number}.nb"), format!("content {number}\n"));
    }
    origin.commit("many");
    let url = origin.root.to_str().unwrap();
    let clean = "filter.x.clean=tr a-z A-Z";
    let settings = ["-c", clean, "-c", "filter.x.smudge=tr A-Z a-z"];
    origin.git_in(&origin.home(), &[&["clone", "-q"], &settings[..], &["--no-local", url, "../clone"]].concat());
    let clone = origin.at(&origin.beside("clone"));
    let twin = assert_same(&clone);
    assert_eq!(clone.git_in(&twin, &["status", "--porcelain"]), b"");
    assert_eq!(fs::read_to_string(twin.join("many/7.nb")).unwrap(), "content 7\n");
}

#[test]
fn touched_file_is_clean_after_git_refresh_or_if_remembered() {
    let fixture = with_filter();
    std::thread::sleep(Duration::from_millis(20));
    fixture.git(&["status"]);
    let touched = SystemTime::now() - Duration::from_secs(100);
    fs::File::options().write(true).open(fixture.root.join("a.nb")).unwrap().set_modified(touched).unwrap();
    let expected = [("a.nb".to_owned(), Evidence::SameSize), ("sub/b.nb".to_owned(), Evidence::Likely)];
    let found = evidence(&fixture);
    assert_eq!(found[0], expected[0]);
    assert!(matches!(found[1].1, Evidence::Likely | Evidence::Clean), "{found:?}");
    let workspace = fixture.workspace();
    let files = workspace.repository.filtered_files(&fixture.listing()).unwrap().unwrap();
    let mut objects = OpenObjects::default();
    assert!(!workspace.repository.is_as_staged(&files[0], false, &mut objects).unwrap());
    assert!(workspace.repository.is_as_staged(&files[0], true, &mut objects).unwrap());
    // As the user would; the fixture's own git takes no optional locks.
    fixture.git(&["update-index", "-q", "--refresh"]);
    assert_same(&fixture);
}

#[test]
fn repository_without_filters_runs_no_git() {
    let fixture = Fixture::new();
    fixture.write("a", "a");
    fixture.write(".gitattributes", "*.c text\n");
    fixture.commit("first");
    let host = Host { path: Some("/nowhere".into()), ..fixture.host() };
    let workspace = Workspace::discover(&fixture.root, host).unwrap();
    let files = || workspace.repository.filtered_files(&list(&workspace).unwrap()).unwrap().map(|files| files.len());
    assert_eq!(files(), None);
    // One that has no program here.
    fixture.write(".gitattributes", "a filter=none\n");
    fixture.git(&["config", "filter.none.smudge", "cat"]);
    fixture.git(&["config", "filter.none.clean", ""]);
    assert_eq!(files(), Some(0));
}

#[test]
fn attributes_are_found_in_all_git_locations() {
    for place in [".gitattributes", "sub/.gitattributes", ".git/info/attributes", "../home/.config/git/attributes"] {
        let fixture = Fixture::new();
        fixture.git(&["config", "filter.x.clean", "tr a-z A-Z"]);
        fixture.write(
            place,
            "[attr]special filter=x\n*.nb special\n*.no -filter\n".replace(
                "[attr]special filter=x\n*.nb special",
                if place.starts_with("sub/") { "*.nb filter=x" } else { "[attr]special filter=x\n*.nb special" },
            ),
        );
        fixture.write("sub/a.nb", "abc\n");
        fixture.write("sub/a.no", "abc\n");
        fixture.commit("first");
        assert_eq!(evidence(&fixture).iter().map(|(path, _)| &path[..]).collect::<Vec<_>>(), ["sub/a.nb"], "{place}");
    }
}

#[test]
fn filters_of_submodules_are_found() {
    let fixture = with_submodules();
    let inner = fixture.root.join("middle/inner");
    fixture.git_in(&inner, &["config", "filter.x.clean", "tr a-z A-Z"]);
    fixture.write("middle/inner/.gitattributes", "*.nb filter=x\n");
    fixture.write("middle/inner/a.nb", "abc\n");
    fixture.git_in(&inner, &["add", "-A"]);
    let listing = fixture.listing();
    let found: Vec<_> = listing
        .repositories
        .iter()
        .filter_map(|repository| repository.filtered_files(&listing).unwrap())
        .flatten()
        .map(|file| file.path.to_string())
        .collect();
    assert_eq!(found, ["middle/inner/a.nb"]);
    twin::assert_same(&fixture);
}

#[test]
fn git_lfs_files_are_clean_in_the_twin() {
    let fixture = Fixture::new();
    if !fixture.supports(&["lfs", "version"]) {
        return;
    }
    fixture.git(&["lfs", "install", "--local"]);
    fixture.git(&["lfs", "track", "*.bin"]);
    fixture.write("large.bin", vec![7; 100_000]);
    fixture.write("sub/small.bin", "small\n");
    fixture.write("empty.bin", "");
    fixture.write("plain", "plain\n");
    fixture.commit("first");
    let pointer = fixture.git(&["cat-file", "blob", "HEAD:large.bin"]);
    assert!(pointer.starts_with(b"version https://git-lfs"), "{}", String::from_utf8_lossy(&pointer));
    let twin = assert_same(&fixture);
    assert_eq!(fs::read(twin.join("large.bin")).unwrap(), vec![7; 100_000]);
    assert_eq!(fixture.git_in(&twin, &["cat-file", "blob", "HEAD:large.bin"]), pointer);
    // Written again: git here has not looked, and the pointer says what it is.
    fixture.write("large.bin", vec![7; 100_000]);
    fixture.write("sub/small.bin", "SMALL\n");
    let twin = assert_same(&fixture);
    assert_eq!(fixture.git_in(&twin, &["status", "--porcelain"]), b" M sub/small.bin\n");
    fixture.commit("second");
    assert_same(&fixture);
    // A pointer in the work tree, as of who skips the smudge filter.
    fixture.write("large.bin", &pointer);
    assert_same(&fixture);
    // A copy of the repository, of which no stat is right.
    fixture.git(&["checkout", "-q", "-f", "HEAD"]);
    let copy = fixture.beside("copy");
    let status = std::process::Command::new("cp").arg("-r").args([&fixture.root, &copy]).status().unwrap();
    assert!(status.success());
    let twin = assert_same(&fixture.at(&copy));
    assert_eq!(fixture.git_in(&twin, &["status", "--porcelain"]), b"");
}

/// A blob in place of a pointer may have any size, and so may a file without a block.
#[test]
fn git_lfs_skips_large_blobs_and_holes() {
    const MIB: u64 = 1 << 20;
    let fixture = Fixture::new();
    fixture.git(&["config", "filter.lfs.clean", "git-lfs clean -- %f"]);
    fixture.write(".gitattributes", "*.bin filter=lfs\n");
    let resize = |name: &str, size| {
        let file = fs::File::options().write(true).create(true).truncate(false).open(fixture.root.join(name));
        file.unwrap().set_len(size).unwrap();
    };
    let stage = |name: &str| {
        let id = String::from_utf8(fixture.git(&["hash-object", "-w", "--no-filters", ".git/blob"])).unwrap();
        fixture.git(&["update-index", "--add", "--cacheinfo", &format!("100644,{},{name}", id.trim())]);
    };
    let size = MIB << 20;
    let digest = "0".repeat(64);
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n");
    fixture.write(".git/blob", pointer);
    stage("holes.bin");
    resize("holes.bin", size);
    resize(".git/blob", 64 * MIB);
    stage("large.bin");
    fixture.write("large.bin", "short\n");

    let workspace = fixture.workspace();
    let files = workspace.repository.filtered_files(&fixture.listing()).unwrap().unwrap();
    assert_eq!(files.len(), 2);
    let most_memory = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    };
    let (begin, before) = (std::time::Instant::now(), most_memory());
    let mut objects = OpenObjects::default();
    for file in files {
        assert!(!workspace.repository.is_as_staged(&file, false, &mut objects).unwrap(), "{}", file.path);
    }
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert!(most_memory() < before + 24 * MIB, "{before} -> {}", most_memory());
}
