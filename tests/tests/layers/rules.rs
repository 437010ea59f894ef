//! The list of allowed imports, `tests/layers.toml`, and what of it is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml_edit::{DocumentMut, TableLike};

use crate::imports::{Import, Sources, Target};

/// Where the list is, from the root of the workspace.
pub(crate) const LIST: &str = "tests/layers.toml";

/// Allowed imports: of crates, and of the modules of some of them.
#[derive(Debug)]
pub(crate) struct Rules {
    /// What each crate may import, lowest crate first.
    crates: Layers,
    /// By crate, or module of a crate: what each module directly below it may import, lowest first.
    modules: BTreeMap<String, Layers>,
}

/// Names in layer order, each with what it may import.
#[derive(Debug, Default)]
struct Layers {
    all: Vec<(String, BTreeSet<String>)>,
    /// Imports from a lower layer to a higher one that are let pass, with the reason.
    exceptions: BTreeMap<(String, String), String>,
}

impl Rules {
    /// Reads the list.
    ///
    /// # Panics
    /// If the text is no TOML, or is not as its own heading says.
    pub(crate) fn parse(text: &str) -> Rules {
        let document: DocumentMut = text.parse().unwrap_or_else(|error| panic!("{LIST}: {error}"));
        let mut rules = Rules { crates: Layers::default(), modules: BTreeMap::new() };
        for (name, item) in document.iter() {
            let table = item.as_table_like().unwrap_or_else(|| panic!("{LIST}: `{name}` is no table"));
            match name {
                "crates" => rules.crates = Layers::parse(name, table),
                _ => _ = rules.modules.insert(name.to_owned(), Layers::parse(name, table)),
            }
        }
        rules
    }

    /// What is wrong, a paragraph each: imports that are not allowed, and parts of the list that
    /// nothing stands for. `sources` has the crates, by name; paths are shown from `root`.
    pub(crate) fn problems(&self, sources: &BTreeMap<String, Sources>, root: &Path) -> Vec<String> {
        let mut problems = self.crates.disorder("crates");
        problems.extend(self.crates.missing("crates", "crate", &sources.keys().cloned().collect()));
        let mut between = Vec::new();
        for (name, found) in sources {
            let of_crate = |import: &Import| match &import.to {
                Target::Crate(to) if to != &spelled(name) => {
                    Some((name.clone(), to.replace('_', "-"), place(import, root)))
                }
                _ => None,
            };
            between.extend(found.imports.iter().filter_map(of_crate));
        }
        problems.extend(self.crates.broken("crates", &between));
        for (name, layers) in &self.modules {
            let (crate_name, scope) = name.split_once("::").unwrap_or((name, ""));
            let scope: Vec<_> = scope.split("::").filter(|name| !name.is_empty()).collect();
            let Some(found) = sources.get(crate_name) else {
                problems.push(format!("{LIST}: [{name}] is no crate of the list [crates]"));
                continue;
            };
            problems.extend(layers.disorder(name));
            let all: BTreeSet<_> = found.modules.iter().filter_map(|path| below(path, &scope)).collect();
            problems.extend(layers.missing(name, "module", &all));
            let of_module = |import: &Import| {
                let Target::Module(to) = &import.to else { return None };
                let (from, to) = below(&import.from, &scope).zip(below(to, &scope))?;
                (from != to).then(|| (from, to, place(import, root)))
            };
            let within: Vec<_> = found.imports.iter().filter_map(of_module).collect();
            problems.extend(layers.broken(name, &within));
        }
        problems
    }
}

impl Layers {
    fn parse(of: &str, table: &dyn TableLike) -> Layers {
        let mut layers = Layers::default();
        for (name, item) in table.iter() {
            if name == "exceptions" {
                let exceptions =
                    item.as_table_like().unwrap_or_else(|| panic!("{LIST}: exceptions of [{of}] are no table"));
                for (edge, reason) in exceptions.iter() {
                    let (from, to) =
                        edge.split_once(" -> ").unwrap_or_else(|| panic!("{LIST}: `{edge}` is not `from -> to`"));
                    let reason = reason.as_str().filter(|reason| !reason.is_empty());
                    let reason = reason.unwrap_or_else(|| panic!("{LIST}: `{edge}` needs a reason"));
                    layers.exceptions.insert((from.to_owned(), to.to_owned()), reason.to_owned());
                }
                continue;
            }
            let imports = item.as_array().unwrap_or_else(|| panic!("{LIST}: `{name}` of [{of}] is no list"));
            let imports = imports.iter().map(|import| import.as_str().expect("a name").to_owned());
            layers.all.push((name.to_owned(), imports.collect()));
        }
        layers
    }

    /// What is there and not in the list, and what is in the list alone.
    fn missing(&self, of: &str, what: &str, there: &BTreeSet<String>) -> Vec<String> {
        let listed: BTreeSet<_> = self.all.iter().map(|(name, _)| name.clone()).collect();
        let lacks = |name: &String| {
            format!(
                "{LIST}: [{of}] lacks the {what} `{name}`. Add it above the first that imports it, with what it imports"
            )
        };
        let invents = |name: &String| format!("{LIST}: [{of}] lists `{name}`, and there is no such {what}. Remove it");
        (there - &listed).iter().map(lacks).chain((&listed - there).iter().map(invents)).collect()
    }

    fn level(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|(other, _)| other == name)
    }

    /// Entries of the list that do not lead downwards.
    fn disorder(&self, of: &str) -> Vec<String> {
        let mut problems = Vec::new();
        for (level, (name, imports)) in self.all.iter().enumerate() {
            for import in imports.iter().filter(|import| self.level(import).is_none_or(|other| other >= level)) {
                problems.push(format!(
                    "{LIST}: [{of}] lets `{name}` import `{import}`, which does not stand above it there: lower ones stand first. Reorder, or cut the import"
                ));
            }
        }
        for (from, to) in self.exceptions.keys() {
            if self.level(from).zip(self.level(to)).is_some_and(|(from, to)| from > to) {
                problems.push(format!(
                    "{LIST}: [{of}] has an exception `{from} -> {to}` that leads downwards: let `{from}` import `{to}`"
                ));
            }
        }
        problems
    }

    /// Imports that the list does not allow, and what it allows without need. `found` has who
    /// imports what, and where.
    fn broken(&self, of: &str, found: &[(String, String, String)]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut places: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
        for (from, to, place) in found {
            places.entry((from.clone(), to.clone())).or_default().insert(place);
        }
        for ((from, to), places) in &places {
            let listed = self.all.iter().any(|(name, imports)| name == from && imports.contains(to));
            if listed || self.exceptions.contains_key(&(from.clone(), to.clone())) {
                continue;
            }
            let what = match self.level(from).zip(self.level(to)) {
                Some((from_level, to_level)) if from_level < to_level => {
                    format!(
                        "`{from}` is the lower one and must not know `{to}`. Move what it needs down, or pass it in"
                    )
                }
                _ => format!("if `{from}` should know `{to}`, add it to `{from}` in [{of}] of {LIST}"),
            };
            let places: Vec<_> = places.iter().copied().collect();
            problems.push(format!("{}: `{from}` imports `{to}`: {what}", places.join(", ")));
        }
        let allowed =
            self.all.iter().flat_map(|(from, imports)| imports.iter().map(move |to| (from.clone(), to.clone())));
        for (from, to) in allowed.chain(self.exceptions.keys().cloned()).filter(|edge| !places.contains_key(edge)) {
            problems
                .push(format!("{LIST}: [{of}] lets `{from}` import `{to}`, which it does not any more. Remove that"));
        }
        problems
    }
}

/// The module directly below `scope` that `path` is, or leads into; none: `path` leads elsewhere.
fn below(path: &[String], scope: &[&str]) -> Option<String> {
    let is_within = path.len() > scope.len() && path.iter().zip(scope).all(|(name, other)| name == other);
    is_within.then(|| path[scope.len()].clone())
}

/// A package as paths spell it.
pub(crate) fn spelled(package: &str) -> String {
    package.replace('-', "_")
}

fn place(import: &Import, root: &Path) -> String {
    let file = import.file.strip_prefix(root).unwrap_or(&import.file);
    format!("{}:{}", file.display(), import.line)
}
