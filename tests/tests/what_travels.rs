//! What travels to the guest: what `banger why` says is what the guest gets, and `.worktreeinclude`
//! opts ignored files in.

use std::fs;
use std::os::unix::fs::symlink;

use banger_tests::{Home, Repository};

/// What `banger why` says of these paths: where they travel, the reason and the rule.
fn why<const N: usize>(repository: &Repository, paths: [&str; N]) -> [(String, String, Option<String>); N] {
    let mut arguments = vec!["why", "--json"];
    arguments.extend(paths);
    let answer = repository.banger().args(arguments).output().unwrap();
    assert!(answer.status.success(), "{answer:?}");
    let document: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut explained = document["paths"].as_array().unwrap().iter().map(|path| {
        let rule = path["rule"]
            .as_object()
            .map(|rule| format!("{}:{}: {}", text(&rule["file"]), rule["line"], text(&rule["pattern"])));
        (text(&path["travels"]), text(&path["reason"]), rule)
    });
    std::array::from_fn(|_| explained.next().unwrap())
}

#[test]
fn why_explains_what_the_guest_gets() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.write(".gitignore", "*.o\n/target\nbuild/\n");
    repository.write("src/main.c", "");
    repository.commit("sources");
    for path in ["src/new.c", "a.o", "target/x"] {
        repository.write(path, "");
    }
    symlink("src", repository.root.join("link")).unwrap();
    let rule = |text: &str| Some(text.to_owned());
    let expected = [
        ("src/main.c", "to_vm", "tracked", None),
        ("src/new.c", "to_vm", "untracked", None),
        ("a.o", "none", "ignored", rule(".gitignore:1: *.o")),
        ("target/x", "none", "ignored", rule(".gitignore:2: /target")),
        ("link", "to_vm", "untracked", None),
        ("link/main.c", "none", "beyond_link", None),
        (".git/config", "partly", "git_directory", None),
        ("gone.o", "none", "absent", rule(".gitignore:1: *.o")),
        ("../elsewhere", "none", "outside", None),
        ("src", "to_vm", "directory", None),
    ];
    let explained = why(&repository, std::array::from_fn::<_, 10, _>(|at| expected[at].0));
    for ((path, travels, reason, rule), explained) in expected.into_iter().zip(explained) {
        assert_eq!(explained, (travels.to_owned(), reason.to_owned(), rule), "{path}");
        if reason != "git_directory" {
            let there = repository.sh(&format!("test -L {path} || test -e {path}")).status == 0;
            assert_eq!(there, travels == "to_vm" || reason == "beyond_link", "{path} in the guest");
        }
    }
    let shown = repository.run(["why", "target/x", "src", "target/new", "new/build"]).ok().text();
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(
        lines[1..],
        [
            "target/x    no       in `target`, which is ignored (.gitignore:2: /target)",
            "src         to VM    a directory; 2 files travel in it",
            "target/new  no       does not exist; it would be in `target`, which is ignored (.gitignore:2: /target)",
            "new/build   no       does not exist; it would be ignored if it were a directory (.gitignore:3: build/)",
        ]
    );
}

#[test]
fn why_says_that_commits_travel_of_a_repository_without_files() {
    let home = Home::with_process_guests();
    let repository = home.repository("repo");
    repository.write(".gitignore", "/out/\n");
    repository.write("dir/nested/file", "");
    repository.git(["init", "-q", "dir/nested"]);
    repository.git(["-C", "dir/nested", "add", "."]);
    repository.git(["-C", "dir/nested", "commit", "-qm", "secret"]);
    repository.git(["-C", "dir/nested", "rm", "-q", "file"]);
    repository.git(["-C", "dir/nested", "commit", "-qm", "gone"]);
    fs::create_dir_all(repository.root.join("dir/nested")).unwrap();
    fs::create_dir(repository.root.join("out")).unwrap();
    fs::create_dir(repository.root.join("empty")).unwrap();
    let travels = why(&repository, ["dir/nested", "dir", "empty", "out"]).map(|(travels, ..)| travels);
    assert_eq!(travels, ["partly", "partly", "none", "none"]);
    assert_eq!(
        repository.sh("git -C dir/nested show HEAD~:file && git -C dir/nested rev-list --count HEAD").ok().text(),
        "2\n"
    );
    let shown = repository.run(["why", "dir/nested", "dir"]).ok().text();
    assert!(shown.contains("a repository in the repository; no file in it travels, but its commits do"), "{shown}");
    assert!(shown.contains("a directory; no file in it travels, but the commits of 1 repository do"), "{shown}");
}

#[test]
fn worktree_include_brings_ignored_files_once_trusted() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.write(".gitignore", ".env*\n");
    repository.write(".worktreeinclude", ".env.test\n");
    repository.commit("rules");
    repository.write(".env", "SECRET=1\n");
    repository.write(".env.test", "TEST=1\n");
    let there = "cat .env.test; test ! -e .env && git status --porcelain";
    // Without the user's word, the repository's file counts for nothing.
    let output = repository.sh("test ! -e .env.test").ok();
    assert!(
        output.stderr.contains("`.worktreeinclude` is ignored") && output.stderr.contains("banger trust"),
        "{}",
        output.stderr
    );
    assert_eq!(why(&repository, [".env.test"])[0].1, "not_trusted");
    // Nor does that of a script that has not said it.
    let refused = repository.run(["trust"]);
    assert!(refused.status == 125 && refused.stderr.contains("rule `.env.test`"), "{}", refused.stderr);
    assert_eq!(why(&repository, [".env.test", ".env.new"]).map(|(_, reason, _)| reason), ["not_trusted", "absent"]);
    let trusted = repository.run(["trust", "--force"]).ok();
    assert!(trusted.stderr.contains("worktreeinclude") && !trusted.stderr.contains("`.env`"), "{}", trusted.stderr);
    let rule = Some(".worktreeinclude:1: .env.test".to_owned());
    assert_eq!(why(&repository, [".env.test"]), [("to_vm".into(), "included".into(), rule)]);
    assert_eq!(why(&repository, [".env"])[0].1, "ignored");
    let output = repository.sh(there).ok();
    assert_eq!((output.text().as_str(), output.sent().files), ("TEST=1\n", 1));
    // A later sync sends what changed.
    repository.write(".env.test", "TEST=2\n");
    assert_eq!(repository.sh(there).ok().text(), "TEST=2\n");
    // What the guest changes is treated as in other files.
    repository.sh("echo TEST=guest >.env.test").ok();
    assert_eq!(repository.sh(there).ok().text(), "TEST=guest\n");
    assert_eq!(repository.guest_only(), (1, 0));
    repository.write(".env.test", "TEST=host\n");
    repository.sh("true").refused(&[".env.test ("]);
    repository.run(["--host-wins", "--", "true"]).ok();
    assert_eq!(repository.sh(there).ok().text(), "TEST=host\n");
    // Another content of the rules has to be trusted anew: nothing more goes, and what is there
    // stays there.
    repository.write(".worktreeinclude", ".env*\n");
    let output = repository.sh("test ! -e .env && cat .env.test").ok();
    assert!(output.stderr.contains("`.worktreeinclude` is ignored"), "{}", output.stderr);
    assert_eq!(output.text(), "TEST=host\n");
    repository.write(".worktreeinclude", ".env.test\n");
    repository.sh("true").ok();
    // A deletion travels.
    fs::remove_file(repository.root.join(".env.test")).unwrap();
    repository.sh("test ! -e .env.test").ok();
    // A link in its place does not.
    symlink(".env", repository.root.join(".env.test")).unwrap();
    repository.sh("test ! -L .env.test").ok();
    let revoked = repository.run(["trust", "--revoke"]).ok();
    assert!(revoked.stderr.contains("stay in the VM"), "{}", revoked.stderr);
    fs::remove_file(repository.root.join(".env.test")).unwrap();
    repository.write(".env.test", "TEST=3\n");
    repository.sh("test ! -e .env.test").ok();
    // A new VM does without it too.
    repository.run(["--rm", "--", "test", "!", "-e", ".env.test"]).ok();
}

#[test]
fn new_vm_gets_included_files_with_its_first_sync() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.write(".gitignore", ".env*\n/config\n");
    repository.write(".worktreeinclude", ".env.test\nconfig/*.toml\n");
    repository.commit("rules");
    for path in [".env", ".env.test", "config/dev.toml", "config/key.pem"] {
        repository.write(path, path);
    }
    repository.run(["trust", "--force"]).ok();
    let output = repository.run(["--rm", "--", "sh", "-c", "ls -A . config; git status --porcelain"]).ok();
    let text = output.text();
    assert!(text.contains(".env.test\n") && text.contains("dev.toml\n"), "{text}");
    assert!(!text.contains(".env\n") && !text.contains("key.pem"), "{text}");
    assert!(!text.contains("??"), "git ignores them in the guest too: {text}");
}

#[test]
fn trust_in_worktree_include_ends_with_the_repository() {
    let home = Home::with_process_guests();
    let repository = home.repository("repo");
    let fill = || {
        repository.write(".gitignore", ".env*\n");
        repository.write(".worktreeinclude", ".env.test\n");
        repository.write(".env.test", "TEST=1\n");
    };
    fill();
    repository.run(["trust", "--force"]).ok();
    assert_eq!(why(&repository, [".env.test"])[0].1, "included");
    // A new clone of the same content at the same place, with other ignored files.
    fs::rename(repository.root.join(".git"), home.path().join("former")).unwrap();
    repository.git(["init", "-q"]);
    assert_eq!(why(&repository, [".env.test"])[0].1, "not_trusted");
    let output = repository.sh("test ! -e .env.test").ok();
    assert!(output.stderr.contains("`.worktreeinclude` is ignored"), "{}", output.stderr);
    fs::remove_dir_all(repository.root.join(".git")).unwrap();
    fs::rename(home.path().join("former"), repository.root.join(".git")).unwrap();
    assert_eq!(why(&repository, [".env.test"])[0].1, "included");
}

#[test]
fn trust_list_shows_all_and_changes_nothing() {
    let home = Home::new();
    let repository = home.repository("repo");
    repository.write(".gitignore", "*.env\n");
    repository.write(".worktreeinclude", "# ours\n*.env\n!b\u{1b}[2J.env\n");
    for number in 0..40 {
        repository.write(&format!("{number}.env"), "");
    }
    let list = repository.run(["trust", "--list"]).ok().text();
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines[..4], ["KIND  WHAT", "rule  *.env", "rule  !b^[[2J.env", "file  0.env"], "{list}");
    assert_eq!(lines.len(), 3 + 40, "{list}");
    let document = repository.run(["trust", "--list", "--json"]).ok().document();
    assert_eq!((&document["trusted"], document["included"].as_array().unwrap().len()), (&false.into(), 40));
    assert_eq!(document["rules"], serde_json::json!(["*.env", "!b\u{1b}[2J.env"]));
    assert_eq!(why(&repository, ["0.env"])[0].1, "not_trusted");
    // More than a person reads is counted.
    let refused = repository.run(["trust"]);
    assert!(refused.stderr.contains("and 20 files more: 20 at the root"), "{}", refused.stderr);
    assert!(refused.status == 125 && refused.stderr.contains("banger trust --force"), "{}", refused.stderr);
    assert_eq!(repository.run(["trust", "--list", "--json"]).ok().document()["trusted"], false);
    repository.run(["trust", "--force"]).ok();
    assert_eq!(repository.run(["trust", "--list", "--json"]).ok().document()["trusted"], true);
    assert_eq!(repository.run(["trust", "--list", "--revoke"]).status, 125);
}

#[test]
fn worktree_include_that_cannot_be_trusted_keeps_nothing_else_from_it() {
    let home = Home::new();
    let repository = home.repository("repo");
    repository.write(".gitignore", "*.env\n");
    repository.write("banger.toml", "env_from_host = [\"HOME\"]\n");
    repository.write("a.env", "");
    let trusted = || repository.run(["trust", "--list", "--json"]).ok().document()["trusted"].clone();
    // With nobody to ask, all is trusted but the ignored files.
    repository.write(".worktreeinclude", "*.env\n");
    let refused = repository.run(["trust"]);
    assert_eq!(refused.status, 125);
    assert!(refused.stderr.contains("banger.toml` is trusted until it changes"), "{}", refused.stderr);
    assert_eq!((why(&repository, ["a.env"])[0].1.as_str(), trusted()), ("not_trusted", false.into()));
    repository.run(["trust", "--force"]).ok();
    // What is trusted needs no question.
    repository.run(["trust"]).ok();
    assert_eq!((why(&repository, ["a.env"])[0].1.as_str(), trusted()), ("included", true.into()));
    // Nobody reads so many rules, or one so long.
    for rules in ["*.env\n".repeat(101), format!("*.env\n{}\n", "x".repeat(201))] {
        repository.run(["trust", "--revoke"]).ok();
        repository.write(".worktreeinclude", &rules);
        let trust = repository.run(["trust", "--force"]).ok();
        let expected = ["warning: ", "`.worktreeinclude` is not trusted", "banger.toml` is trusted until it changes"];
        assert!(expected.iter().all(|text| trust.stderr.contains(text)), "{}", trust.stderr);
        assert!(repository.run(["config", "--json"]).ok().document()["repo"].is_string());
        assert_eq!((why(&repository, ["a.env"])[0].1.as_str(), trusted()), ("ignored", false.into()));
        repository.write(".worktreeinclude", "# none\n\n   \n");
        assert_eq!(repository.run(["trust", "--list"]).ok().text().lines().count(), 2);
    }
}

#[test]
fn why_neutralises_names_and_rules() {
    let home = Home::new();
    let repository = home.repository("repo");
    repository.write(".gitignore", "*.\u{1b}]0;owned\u{7}\n");
    let name = "two\nlines.\u{1b}]0;owned\u{7}";
    repository.write(name, "");
    let shown = repository.run(["why", name, "no\u{1b}[2Jne"]).ok().text();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert_eq!(shown.lines().count(), 3, "{shown:?}");
    assert!(shown.contains("two^Jlines.^[]0;owned^G") && shown.contains(".gitignore:1: *.^[]0;owned^G"), "{shown:?}");
}

#[test]
fn file_that_the_guest_made_is_not_overwritten_by_an_included_one() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.write(".gitignore", ".env*\n");
    repository.write(".worktreeinclude", ".env.test\n");
    repository.commit("rules");
    repository.sh("echo guest >.env.test").ok();
    repository.write(".env.test", "host\n");
    repository.run(["trust", "--force"]).ok();
    repository.sh("true").refused(&[".env.test ("]);
    repository.run(["--host-wins", "--", "true"]).ok();
    assert_eq!(repository.sh("cat .env.test").ok().text(), "host\n");
}
