//! What travels to the guest: what `banger why` says is what the guest gets.

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
