//! The imports of a crate's modules, read from its sources.
//!
//! An import is a path that names another module of the crate, or another crate of the workspace:
//! in a `use`, an expression, a type, or the tokens of a macro call. Code that only tests have
//! (`#[cfg(test)]`, `#[test]`) is left out, and so are attributes and comments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, UseTree};

/// One use of another module or crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// The source file, as it was opened.
    pub(crate) file: PathBuf,
    /// The line in the file, from 1.
    pub(crate) line: usize,
    /// The module that the import is in, from the crate's root; empty: the root, or a binary.
    pub(crate) from: Vec<String>,
    /// What is imported.
    pub(crate) to: Target,
}

/// What an import names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A module of the same crate, from its root.
    Module(Vec<String>),
    /// Another crate of the workspace, as paths spell it (`banger_vmm`).
    Crate(String),
}

/// A crate as its sources have it.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The modules of the library, or of the program if there is none, each from the root.
    pub(crate) modules: BTreeSet<Vec<String>>,
    /// All imports, those of binaries included.
    pub(crate) imports: Vec<Import>,
}

/// Reads the crate whose sources are in the directory `src`. `crates` are the crates of the
/// workspace, as paths spell them.
///
/// # Panics
/// If a source file is missing, or is not Rust.
pub(crate) fn read(src: &Path, crates: &BTreeSet<String>) -> Sources {
    let mut roots = vec![src.join("lib.rs"), src.join("main.rs")];
    roots.extend(fs::read_dir(src.join("bin")).into_iter().flatten().flatten().map(|entry| entry.path()));
    roots.retain(|root| root.is_file());
    roots[1..].sort();
    let mut sources = Sources::default();
    for (index, root) in roots.iter().enumerate() {
        // A binary beside a library stands above all of its modules.
        let is_layered = index == 0;
        let (mut modules, mut exports, mut found) = (BTreeSet::new(), Exports::new(), Vec::new());
        let mut files = vec![(root.clone(), Vec::new())];
        while let Some((file, module)) = files.pop() {
            let mut reader = Reader { module, ..Reader::default() };
            reader.visit_file(&parse(&file));
            modules.extend(reader.modules);
            exports.extend(reader.exports);
            files.extend(reader.outlines.into_iter().map(|module| (file_of(root, &module), module)));
            found.extend(reader.paths.into_iter().map(|path| (file.clone(), path)));
        }
        for (file, Written { line, segments, module }) in found {
            let target = match &segments[..] {
                [own, names @ ..] if own == "crate" => Some(Target::Module(module_of(names, &modules, &exports))),
                [name, ..] if crates.contains(name) => Some(Target::Crate(name.clone())),
                _ => None,
            };
            let from = if is_layered { module } else { Vec::new() };
            let is_own = |to: &Target| matches!(to, Target::Module(to) if !is_layered || from.starts_with(to));
            if let Some(to) = target.filter(|to| !is_own(to)) {
                sources.imports.push(Import { file, line, from, to });
            }
        }
        if is_layered {
            sources.modules = modules;
        }
    }
    sources
}

/// Names that a module has from a module below it: by module and name, the one below.
type Exports = BTreeMap<(Vec<String>, String), String>;

/// The module that `names`, a path from the crate's root, leads into. What a module defines itself
/// is its own; what it only gives on is of the module that it has that from.
fn module_of(names: &[String], modules: &BTreeSet<Vec<String>>, exports: &Exports) -> Vec<String> {
    let mut module: Vec<String> = Vec::new();
    for name in names {
        let below = |name: &String| [&module[..], std::slice::from_ref(name)].concat();
        if modules.contains(&below(name)) {
            module.push(name.clone());
            continue;
        }
        let from = exports.get(&(module.clone(), name.clone())).filter(|from| modules.contains(&below(from)));
        module.extend(from.cloned());
        break;
    }
    module
}

fn parse(file: &Path) -> syn::File {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
    syn::parse_file(&text).unwrap_or_else(|error| panic!("cannot parse {}: {error}", file.display()))
}

/// The file of a module that is declared without a body.
fn file_of(root: &Path, module: &[String]) -> PathBuf {
    let path = module.iter().fold(root.with_file_name(""), |path, name| path.join(name));
    let [beside, within] = [path.with_extension("rs"), path.join("mod.rs")];
    if beside.is_file() { beside } else { within }
}

/// A path in a source file.
struct Written {
    line: usize,
    /// From the root of a crate, which is `crate` for the file's own.
    segments: Vec<String>,
    /// The module that the path is in, from the crate's root.
    module: Vec<String>,
}

/// Collects the paths of one file.
#[derive(Default)]
struct Reader {
    /// The module that is being read, from the crate's root.
    module: Vec<String>,
    paths: Vec<Written>,
    /// All modules that are declared.
    modules: Vec<Vec<String>>,
    /// Those among them whose body is in another file.
    outlines: Vec<Vec<String>>,
    exports: Exports,
}

impl Reader {
    /// Notes a path, unless it is relative to the module that it is in.
    fn note(&mut self, segments: Vec<&Ident>) {
        let Some(first) = segments.first() else { return };
        let line = first.span().start().line;
        let names: Vec<_> = segments.iter().map(|segment| segment.to_string()).collect();
        let up = names.iter().take_while(|name| *name == "super").count();
        let segments = match names[0].as_str() {
            "super" if up <= self.module.len() => {
                let above = self.module[..self.module.len() - up].iter().cloned();
                std::iter::once("crate".to_owned()).chain(above).chain(names[up..].iter().cloned()).collect()
            }
            "self" | "super" => return,
            _ => names,
        };
        self.paths.push(Written { line, segments, module: self.module.clone() });
    }

    fn note_tree<'a>(&mut self, before: &mut Vec<&'a Ident>, tree: &'a UseTree) {
        match tree {
            UseTree::Path(path) => {
                before.push(&path.ident);
                self.note_tree(before, &path.tree);
                before.pop();
            }
            UseTree::Name(name) => self.note(before.iter().copied().chain([&name.ident]).collect()),
            UseTree::Rename(name) => self.note(before.iter().copied().chain([&name.ident]).collect()),
            UseTree::Glob(_) => self.note(before.clone()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(before, tree)),
        }
    }

    /// Notes the paths in the tokens of a macro call, as far as they begin with a crate or `super`.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if let TokenTree::Group(group) = &tokens[at] {
                self.note_tokens(group.stream());
            }
            let mut segments = Vec::new();
            while let Some(TokenTree::Ident(name)) = tokens.get(at) {
                segments.push(name);
                let is_colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
                if !is_colon(at + 1) || !is_colon(at + 2) {
                    break;
                }
                at += 3;
            }
            if segments.len() > 1 {
                self.note(segments);
            }
            at += 1;
        }
    }

    /// The names that a `use` of a module gives to what is in a module below it.
    fn note_exports(&mut self, tree: &UseTree, module: Option<&Ident>) {
        match tree {
            UseTree::Path(path) if path.ident == "self" => self.note_exports(&path.tree, None),
            UseTree::Path(path) if path.ident == "crate" && self.module.is_empty() => {
                self.note_exports(&path.tree, None);
            }
            UseTree::Path(path) if module.is_none() && (path.ident == "crate" || path.ident == "super") => {}
            UseTree::Path(path) => self.note_exports(&path.tree, module.or(Some(&path.ident))),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_exports(tree, module)),
            UseTree::Name(name) => self.export(&name.ident, module),
            UseTree::Rename(name) => self.export(&name.rename, module),
            UseTree::Glob(_) => {}
        }
    }

    fn export(&mut self, name: &Ident, module: Option<&Ident>) {
        let key = (self.module.clone(), name.to_string());
        self.exports.extend(module.map(|module| (key, module.to_string())));
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Fn(item) => &item.attrs[..],
            syn::ImplItem::Const(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        self.modules.push(self.module.clone());
        if item.content.is_none() {
            self.outlines.push(self.module.clone());
        }
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&mut Vec::new(), &item.tree);
        self.note_exports(&item.tree, None);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.note(path.segments.iter().map(|segment| &segment.ident).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_macro(self, call);
        self.note_tokens(call.tokens.clone());
    }

    /// `pub(in crate::module)` gives, and imports nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// Whether an item is there only when tests are built.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg");
        attribute.path().is_ident("test")
            || (is_cfg && attribute.parse_args::<syn::Meta>().is_ok_and(|condition| needs_test(&condition)))
    })
}

fn needs_test(condition: &syn::Meta) -> bool {
    match condition {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("all") => {
            let parse = syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
            list.parse_args_with(parse).is_ok_and(|all| all.iter().any(needs_test))
        }
        _ => false,
    }
}

fn attributes(item: &syn::Item) -> &[Attribute] {
    use syn::Item;
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The imports of a library with these files, as `file:line from -> to`.
    fn imports(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let crates = ["other_crate".to_owned()].into();
        let shown = |import: &Import| {
            let file = import.file.strip_prefix(directory.path()).unwrap().display();
            let to = match &import.to {
                Target::Module(path) if path.is_empty() => "root".to_owned(),
                Target::Module(path) => path.join("::"),
                Target::Crate(name) => format!("crate {name}"),
            };
            let from = if import.from.is_empty() { "root".to_owned() } else { import.from.join("::") };
            format!("{file}:{} {from} -> {to}", import.line)
        };
        let mut all: Vec<_> = read(directory.path(), &crates).imports.iter().map(shown).collect();
        all.sort();
        all
    }

    #[test]
    fn uses_expressions_types_and_macros_are_imports() {
        let found = imports(&[
            ("lib.rs", "mod a; mod b; mod c; mod d;\npub const VERSION: u8 = 1;"),
            (
                "a.rs",
                "use crate::{b::B, c};\nuse super::d as other;\nfn f(_: crate::b::B) {\n    println!(\"{}\", crate::c::C);\n    super::d::f();\n    other_crate::f(crate::VERSION);\n}",
            ),
            ("b.rs", "/// Not [`crate::c`].\npub struct B;"),
            ("c.rs", "pub const C: u8 = 1;"),
            ("d.rs", "pub fn f() {}"),
        ]);
        assert_eq!(
            found,
            [
                "a.rs:1 a -> b",
                "a.rs:1 a -> c",
                "a.rs:2 a -> d",
                "a.rs:3 a -> b",
                "a.rs:4 a -> c",
                "a.rs:5 a -> d",
                "a.rs:6 a -> crate other_crate"
            ]
        );
    }

    #[test]
    fn code_of_tests_is_left_out_and_its_files_too() {
        let found = imports(&[
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "#[cfg(test)]\nmod tests;\n#[cfg(all(test, unix))]\nmod more { use crate::b; }\n#[cfg(test)]\nuse crate::b;\nimpl A {\n#[cfg(test)] fn f() { crate::b::f() }\n#[cfg(not(test))] fn g() { crate::b::f() } }",
            ),
            ("b.rs", ""),
        ]);
        assert_eq!(found, ["a.rs:9 a -> b"]);
    }

    #[test]
    fn imports_of_submodules_name_the_modules_from_the_root() {
        let found = imports(&[
            ("lib.rs", "mod a { pub mod x { use super::super::b; use super::Y; } pub mod z; struct Y; }\nmod b;"),
            ("a/z.rs", "use crate::a::Y;\nuse crate::b::deep::D;"),
            ("b/mod.rs", "pub mod deep;"),
            ("b/deep.rs", "use super::super::a;"),
        ]);
        assert_eq!(found, ["a/z.rs:2 a::z -> b::deep", "b/deep.rs:1 b::deep -> a", "lib.rs:1 a::x -> b"]);
    }

    #[test]
    fn reexport_of_the_root_counts_for_its_module() {
        let found = imports(&[
            ("lib.rs", "mod a; mod b;\npub use self::b::{B, deep::C as Renamed};"),
            ("a.rs", "use crate::B;\nuse crate::Renamed;"),
            ("b.rs", ""),
            ("main.rs", "use other_crate::X;"),
        ]);
        assert_eq!(found, ["a.rs:1 a -> b", "a.rs:2 a -> b", "main.rs:1 root -> crate other_crate"]);
    }

    #[test]
    fn reexport_of_a_module_counts_for_the_module_below() {
        let found = imports(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::{B, Own};"),
            ("b/mod.rs", "mod deep;\npub use self::deep::B;\nuse crate::a::deep::X;\npub struct Own;"),
            ("b/deep.rs", ""),
        ]);
        assert_eq!(found, ["a.rs:1 a -> b", "a.rs:1 a -> b::deep", "b/mod.rs:3 b -> a"]);
    }
}
