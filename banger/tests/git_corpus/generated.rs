//! Generated trees of ignore rules, whose lists are git's.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::explained::assert_explained_as_listed;
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
    fn random_ignore_rules_list_as_git(
        paths in prop::collection::btree_set(path(), 1..15),
        root in rules(),
        nested in prop::collection::btree_map(name(), rules(), 0..3),
        tracked in prop::collection::vec(any::<bool>(), 15),
        included in rules(),
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
        assert_explained_as_listed(&fixture);
        // Of what git ignores, no more travels than git itself finds by these rules.
        fixture.write(".worktreeinclude", included.join("\n"));
        let listed = |arguments: &[&str]| -> BTreeSet<String> {
            let listed = fixture.git(&[&["ls-files", "-z"], arguments].concat());
            String::from_utf8(listed).unwrap().split_terminator('\0').map(str::to_owned).collect()
        };
        let plain = listed(&["--cached", "--others", "--exclude-standard"]);
        let ignored = listed(&["--others", "--ignored", "--exclude-standard"]);
        let named = listed(&["--others", "--ignored", "--exclude-from=.worktreeinclude"]);
        for path in super::paths(&fixture.listing()) {
            assert!(plain.contains(&path) || (ignored.contains(&path) && named.contains(&path)), "{path}");
        }
        assert_explained_as_listed(&fixture);
    }
}
