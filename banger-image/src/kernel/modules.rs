//! The modules that a boot needs, out of all those of a release: as depmod(8) describes them,
//! decompressed, in the order to load them.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufReader, Read};
use std::path::Path;

use banger_util::file::{Durability, replace_exclusive};
use ext4_view::{Ext4, Ext4Error};
use flate2::bufread::MultiGzDecoder;
use fs_err as fs;
use liblzma::read::XzDecoder;

use crate::error::{Error, Result};
use crate::ext4::Writer;

/// The longest module for the boot, decompressed, in bytes; also the longest list of depmod's.
const MAX_MODULE: u64 = 64 << 20;
/// The most modules for the boot: their names have two digits.
const MAX_MODULES: usize = 100;
/// What precedes the release that a module was built for (include/linux/module.h, `MODULE_INFO`).
const VERMAGIC: &[u8] = b"\0vermagic=";

/// Where the modules of a release are.
pub(super) trait ModuleTree {
    /// The content of the file at `path`, such as `6.12.1/modules.dep`; `None` if there is none.
    fn open(&mut self, path: &str) -> Result<Option<Box<dyn Read + '_>>>;
}

/// Modules that are about to be written to the disk of a kernel.
impl ModuleTree for Writer {
    fn open(&mut self, path: &str) -> Result<Option<Box<dyn Read + '_>>> {
        Ok(self.content(path.as_bytes())?.map(|content| Box::new(content) as Box<dyn Read>))
    }
}

/// The disk of a stored kernel.
impl ModuleTree for Ext4 {
    fn open(&mut self, path: &str) -> Result<Option<Box<dyn Read + '_>>> {
        match Ext4::open(self, format!("/{path}").as_str()) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(Ext4Error::NotFound) => Ok(None),
            Err(error) => Err(Error::Modules { reason: format!("`{path}` cannot be read: {error}") }),
        }
    }
}

/// The modules for the boot that were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct BootModules {
    /// Their files, `NN-<name>.ko`, NN being the order.
    pub(super) files: Vec<String>,
    /// Names of the optional modules that are neither there nor built in.
    pub(super) missing: Vec<String>,
}

/// Decompresses modules and what they need into the directory `boot`: those that are `required`,
/// and behind them those that are `optional`. What is built into the kernel is left out. Files that
/// are there already stay as they are.
///
/// # Errors
/// [`Error::MissingModules`] names all required ones that are neither there nor built in.
/// [`Error::Modules`]: they are not as depmod leaves them, or of another release.
pub(super) fn extract<S: AsRef<str>>(
    modules: &mut dyn ModuleTree,
    release: &str,
    required: &[S],
    optional: &[&str],
    boot: &Path,
) -> Result<BootModules> {
    let index = ModuleIndex::read(modules, release)?;
    let (order, missing) = index.load_order(required.iter().map(AsRef::as_ref), optional.iter().copied())?;
    if order.len() > MAX_MODULES {
        return Err(Error::Modules { reason: format!("the boot would need {} modules", order.len()) });
    }
    fs::create_dir_all(boot)?;
    let mut files = Vec::new();
    for path in order {
        let name = format!("{:02}-{}.ko", files.len(), module_name(path));
        let content = decompressed(modules, release, path)?;
        check_release(&content, release).map_err(|reason| Error::Modules { reason: format!("`{path}` {reason}") })?;
        let file = boot.join(&name);
        if !file.exists() {
            // A directory that is in use gets whole files only.
            replace_exclusive(&file, &content, 0o644, Durability::Synced)?;
        }
        files.push(name);
    }
    Ok(BootModules { files, missing })
}

/// The name of a module by the file that [`extract`] made of it.
pub(super) fn name_of_file(file: &str) -> String {
    module_name(file.split_once('-').map_or(file, |(_, name)| name))
}

/// A module's content.
fn decompressed(modules: &mut dyn ModuleTree, release: &str, path: &str) -> Result<Vec<u8>> {
    let missing = || Error::Modules { reason: format!("modules.dep names `{path}`, which is not there") };
    let source = open(modules, release, path)?.ok_or_else(missing)?;
    let source: Box<dyn Read> = match path.rsplit('.').next() {
        Some("xz") => Box::new(XzDecoder::new(source)),
        Some("zst") => Box::new(zstd::Decoder::new(source)?),
        Some("gz") => Box::new(MultiGzDecoder::new(BufReader::new(source))),
        _ => Box::new(source),
    };
    let mut content = Vec::new();
    let read = source.take(MAX_MODULE + 1).read_to_end(&mut content);
    read.map_err(|error| Error::Modules { reason: format!("`{path}` cannot be decompressed: {error}") })?;
    if content.len() as u64 > MAX_MODULE {
        return Err(Error::Modules { reason: format!("`{path}` has more than 64 MiB") });
    }
    Ok(content)
}

/// Makes sure that a module was built for a kernel: another one may load it, and crash.
fn check_release(module: &[u8], release: &str) -> std::result::Result<(), String> {
    if !module.starts_with(b"\x7fELF") {
        return Err("is no module".into());
    }
    let Some(at) = module.windows(VERMAGIC.len()).position(|window| window == VERMAGIC) else {
        return Err("does not say which kernel it is for".into());
    };
    let is = module[at + VERMAGIC.len()..].split(|byte| matches!(byte, b' ' | 0)).next().unwrap_or_default();
    match is == release.as_bytes() {
        true => Ok(()),
        false => Err(format!("is for {}, and the kernel is {release}", String::from_utf8_lossy(is).escape_debug())),
    }
}

/// The content of a file of a release.
fn open<'a>(modules: &'a mut dyn ModuleTree, release: &str, path: &str) -> Result<Option<Box<dyn Read + 'a>>> {
    modules.open(&format!("{release}/{path}"))
}

/// A module's name as the kernel has it: `kernel/net/core/virtio-net.ko.xz` is `virtio_net`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// The lists that depmod(8) and the kernel's own build leave beside modules.
struct ModuleIndex {
    /// `modules.dep` (modules.dep(5)): each module's path, and the paths of those that must be
    /// there before it, the first to load last.
    dependencies: HashMap<String, (String, Vec<String>)>,
    /// `modules.builtin`.
    builtin: HashSet<String>,
    /// `modules.softdep` (modprobe.d(5)): what should be there before a module; a name or an alias
    /// of a module each.
    soft: HashMap<String, Vec<String>>,
    /// `modules.alias`, but for those with wildcards, which are for devices.
    aliases: HashMap<String, Vec<String>>,
}

impl ModuleIndex {
    fn read(modules: &mut dyn ModuleTree, release: &str) -> Result<ModuleIndex> {
        let mut text = |name: &str| -> Result<Option<String>> {
            let Some(content) = open(modules, release, name)? else { return Ok(None) };
            let mut text = String::new();
            let read = content.take(MAX_MODULE).read_to_string(&mut text);
            read.map_err(|error: io::Error| Error::Modules { reason: format!("`{name}` cannot be read: {error}") })?;
            Ok(Some(text))
        };
        let missing = || Error::Modules { reason: "there is no modules.dep, which depmod(8) makes".into() };
        let dependencies = text("modules.dep")?.ok_or_else(missing)?;
        let [builtin, soft, aliases] = ["modules.builtin", "modules.softdep", "modules.alias"].map(text);
        let or_none = |text: Result<Option<String>>| text.map(Option::unwrap_or_default);
        Ok(ModuleIndex::parse(&dependencies, &or_none(builtin)?, &or_none(soft)?, &or_none(aliases)?))
    }

    fn parse(dependencies: &str, builtin: &str, soft: &str, aliases: &str) -> ModuleIndex {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let modules = dependencies.lines().filter_map(|line| line.split_once(':'));
        let mut by_alias: HashMap<String, Vec<String>> = HashMap::new();
        for line in aliases.lines() {
            if let [keyword, alias, module] = &words(line)[..]
                && keyword == "alias"
                && !alias.contains(['*', '?', '['])
            {
                by_alias.entry(alias.clone()).or_default().push(module.replace('-', "_"));
            }
        }
        let mut before: HashMap<String, Vec<String>> = HashMap::new();
        for line in soft.lines() {
            let line = words(line);
            if let [keyword, module, rest @ ..] = &line[..]
                && keyword == "softdep"
            {
                let from = rest.iter().position(|word| word == "pre:").map_or(rest.len(), |place| place + 1);
                let names = rest[from..].iter().take_while(|word| !word.ends_with(':')).cloned();
                before.entry(module.replace('-', "_")).or_default().extend(names);
            }
        }
        ModuleIndex {
            dependencies: modules.map(|(path, needs)| (module_name(path), (path.to_owned(), words(needs)))).collect(),
            builtin: builtin.lines().map(module_name).collect(),
            soft: before,
            aliases: by_alias,
        }
    }

    /// Paths of the modules and all that they need, each once, needed ones first, and the names of
    /// the optional ones that are missing.
    fn load_order<'n>(
        &self,
        required: impl Iterator<Item = &'n str>,
        optional: impl Iterator<Item = &'n str>,
    ) -> Result<(Vec<&str>, Vec<String>)> {
        let mut order = LoadOrder { index: self, paths: Vec::new(), seen: HashSet::new() };
        let mut add_all = |names: &mut dyn Iterator<Item = &'n str>| -> Vec<String> {
            let missing = names.filter(|name| !self.builtin.contains(*name) && !order.add(name));
            missing.map(str::to_owned).collect()
        };
        let (mut required, mut optional) = (required, optional);
        let (missing, missing_optional) = (add_all(&mut required), add_all(&mut optional));
        match missing.is_empty() {
            true => Ok((order.paths, missing_optional)),
            false => Err(Error::MissingModules { names: missing }),
        }
    }

    /// The module that something which should be there stands for. Of several that do the same, the
    /// generic one works anywhere.
    fn provider<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let name = name.trim();
        if self.dependencies.contains_key(&name.replace('-', "_")) {
            return Some(name);
        }
        let modules = self.aliases.get(name)?;
        modules.iter().find(|module| module.ends_with("generic")).or(modules.first()).map(String::as_str)
    }
}

struct LoadOrder<'a> {
    index: &'a ModuleIndex,
    paths: Vec<&'a str>,
    /// The names of those that are there, or are being added.
    seen: HashSet<String>,
}

impl LoadOrder<'_> {
    /// Adds a module, behind what it needs. Returns whether there is one.
    fn add(&mut self, name: &str) -> bool {
        let name = name.replace('-', "_");
        let Some((path, needs)) = self.index.dependencies.get(&name) else { return false };
        if !self.seen.insert(name.clone()) {
            return true;
        }
        // What should be there and is not may be built in.
        for soft in self.index.soft.get(&name).into_iter().flatten() {
            if let Some(provider) = self.index.provider(soft) {
                self.add(provider);
            }
        }
        for needed in needs.iter().rev() {
            self.add(&module_name(needed));
        }
        self.paths.push(path);
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/fs/over-lay.ko:
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko
kernel/fs/jbd2/jbd2.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
";

    fn order(wanted: &[&str], builtin: &str, soft: &str, aliases: &str) -> Result<Vec<String>> {
        let index = ModuleIndex::parse(DEP, builtin, soft, aliases);
        let (order, _) = index.load_order(wanted.iter().copied(), [].into_iter())?;
        Ok(order.into_iter().map(module_name).collect())
    }

    /// What the kernel's build puts into a module of that release.
    pub(crate) fn module(release: &str) -> Vec<u8> {
        [b"\x7fELF code\0name=x\0vermagic=", release.as_bytes(), b" SMP mod_unload \0more"].concat()
    }

    #[test]
    fn dependencies_are_loaded_first_and_once() {
        let all = order(&["failover", "virtio_net", "over_lay"], "", "", "").unwrap();
        assert_eq!(all, ["failover", "net_failover", "virtio_net", "over_lay"]);
        assert_eq!(order(&["ext4"], "kernel/fs/ext4/ext4.ko\n", "", "").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn all_missing_modules_are_named() {
        let error = order(&["nvme", "ext4", "vsock"], "", "", "").unwrap_err();
        assert!(error.to_string().contains("`nvme`, `vsock`"), "{error}");
    }

    #[test]
    fn optional_modules_follow_required_ones_and_may_be_missing() {
        let index = ModuleIndex::parse(DEP, "kernel/vsock.ko\n", "", "");
        let optional = ["vsock", "nvme", "virtio_net", "failover"];
        let (order, missing) = index.load_order(["failover", "ext4"].into_iter(), optional.into_iter()).unwrap();
        let order: Vec<String> = order.into_iter().map(module_name).collect();
        assert_eq!(order, ["failover", "jbd2", "ext4", "net_failover", "virtio_net"]);
        assert_eq!(missing, ["nvme"]);
        assert_eq!(name_of_file("03-net_failover.ko"), "net_failover");
    }

    #[test]
    fn softdeps_and_aliases_are_loaded_first() {
        let soft = "# a comment\nsoftdep ext4 pre: crc32c unknown post: failover\nsoftdep crc32c_generic pre: ext4\n";
        let aliases = "alias pci:v*d* net_failover\nalias crc32c crc32c_intel\nalias crc32c crc32c_generic\n";
        assert_eq!(order(&["ext4"], "", soft, aliases).unwrap(), ["crc32c_generic", "jbd2", "ext4"]);
        assert_eq!(order(&["ext4"], "", soft, "alias crc32c crc32c-intel").unwrap(), ["crc32c_intel", "jbd2", "ext4"]);
        assert_eq!(order(&["ext4"], "", soft, "").unwrap(), ["jbd2", "ext4"]);
    }

    #[test]
    fn module_of_another_kernel_release_is_refused() {
        check_release(&module("6.12.1"), "6.12.1").unwrap();
        assert!(check_release(&module("6.12.10"), "6.12.1").unwrap_err().contains("is for 6.12.10"));
        assert!(check_release(b"\x7fELF\0vermagic=6.12.1", "6.12.1").is_ok());
        assert!(check_release(b"\x7fELF", "6.12.1").is_err());
        assert!(check_release(&module("6.12.1")[1..], "6.12.1").is_err());
    }
}
