//! Layers: which crate may import which, and which of its modules. The list is `tests/layers.toml`;
//! an import that it does not have fails here, with its place.

mod imports;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::DocumentMut;

use crate::imports::{Sources, read};
use crate::rules::{LIST, Rules, spelled};

/// The crates of the workspace in `root`: the name of each, and the directory of its sources.
fn crates(root: &Path) -> BTreeMap<String, PathBuf> {
    let manifest = |directory: &Path| -> DocumentMut {
        let path = directory.join("Cargo.toml");
        fs::read_to_string(&path).unwrap().parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let workspace = manifest(root);
    let members = workspace["workspace"]["members"].as_array().expect("the members of the workspace");
    let directories = members.iter().map(|member| root.join(member.as_str().expect("a path")));
    let named = |directory: PathBuf| {
        let name = manifest(&directory)["package"]["name"].as_str().expect("a name").to_owned();
        (name, directory.join("src"))
    };
    directories.map(named).collect()
}

/// What is wrong with the workspace in `root`, by its list.
fn problems(root: &Path) -> Vec<String> {
    let rules = Rules::parse(&fs::read_to_string(root.join(LIST)).unwrap());
    let crates = crates(root);
    let names: BTreeSet<_> = crates.keys().map(|name| spelled(name)).collect();
    let sources: BTreeMap<_, Sources> = crates.into_iter().map(|(name, src)| (name, read(&src, &names))).collect();
    rules.problems(&sources, root)
}

#[test]
fn modules_import_only_what_the_list_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let problems = problems(root);
    assert!(problems.is_empty(), "{} of {LIST}:\n\n{}\n", problems.len(), problems.join("\n\n"));
}

/// The problems of a workspace of one crate `one` with the modules `low` and `high`, and a crate
/// `two`: the text of `low`, that of `high`, and the list.
#[cfg(test)]
fn problems_of(low: &str, high: &str, list: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("Cargo.toml", "[workspace]\nmembers = [\"one\", \"two\"]\n");
    for name in ["one", "two"] {
        write(&format!("{name}/Cargo.toml"), &format!("[package]\nname = \"{name}\"\n"));
    }
    write("one/src/lib.rs", "mod low;\nmod high;\n");
    write("one/src/low.rs", low);
    write("one/src/high.rs", high);
    write("two/src/lib.rs", "use one::X;\n");
    write(LIST, list);
    problems(root)
}

const CRATES: &str = "[crates]\none = []\ntwo = [\"one\"]\n";

#[test]
fn planted_upward_import_is_reported_with_its_line() {
    let list = format!("{CRATES}[one]\nlow = []\nhigh = [\"low\"]\n");
    assert_eq!(problems_of("", "use crate::low;\n", &list), Vec::<String>::new());
    let planted = problems_of("\nuse crate::high;\n", "use crate::low;\n", &list);
    assert_eq!(planted.len(), 1, "{planted:?}");
    assert!(planted[0].starts_with("one/src/low.rs:2: `low` imports `high`: `low` is the lower one"), "{planted:?}");
    let crates = problems_of("use two::X;\n", "use crate::low;\n", &list);
    assert!(crates.len() == 1 && crates[0].starts_with("one/src/low.rs:1: `one` imports `two`"), "{crates:?}");
}

#[test]
fn planted_upward_import_between_modules_of_a_module_is_reported() {
    let list = format!("{CRATES}[\"one::high\"]\nfloor = []\nroof = [\"floor\"]\n");
    let high = |floor: &str| {
        format!("pub mod floor {{ {floor} }}\npub mod roof {{ use super::floor::F; }}\npub struct Own;\n")
    };
    assert_eq!(problems_of("use crate::high::roof::R;\n", &high("use super::Own;"), &list), Vec::<String>::new());
    let planted = problems_of("", &high("use crate::high::roof::R;"), &list);
    assert_eq!(planted.len(), 1, "{planted:?}");
    assert!(planted[0].starts_with("one/src/high.rs:1: `floor` imports `roof`"), "{planted:?}");
    assert!(problems_of("", "", &list).iter().any(|problem| problem.contains("lists `floor`")));
}

#[test]
fn allowed_import_that_nobody_uses_is_reported() {
    let list = format!("{CRATES}[one]\nlow = []\nhigh = [\"low\"]\n");
    let unused = problems_of("", "", &list);
    assert!(
        unused.len() == 1 && unused[0].contains("lets `high` import `low`, which it does not any more"),
        "{unused:?}"
    );
}

#[test]
fn list_that_allows_an_upward_import_is_refused_unless_it_has_a_reason() {
    let low = "use crate::high;\n";
    let upward = problems_of(low, "", &format!("{CRATES}[one]\nlow = [\"high\"]\nhigh = []\n"));
    assert!(
        upward.len() == 1 && upward[0].contains("lets `low` import `high`, which does not stand above"),
        "{upward:?}"
    );
    let exception = format!("{CRATES}[one]\nlow = []\nhigh = []\n[one.exceptions]\n\"low -> high\" = \"for now\"\n");
    assert_eq!(problems_of(low, "", &exception), Vec::<String>::new());
    assert!(problems_of("", "", &exception)[0].contains("which it does not any more"));
}

#[test]
fn modules_and_crates_that_the_list_lacks_or_invents_are_reported() {
    let lacking = problems_of("", "", &format!("{CRATES}[one]\nlow = []\nold = []\n"));
    assert_eq!(lacking.len(), 2, "{lacking:?}");
    assert!(lacking[0].contains("lacks the module `high`") && lacking[1].contains("lists `old`"), "{lacking:?}");
    let crates = problems_of("", "", "[crates]\none = []\n[one]\nlow = []\nhigh = []\n");
    assert!(crates.iter().any(|problem| problem.contains("lacks the crate `two`")), "{crates:?}");
}
