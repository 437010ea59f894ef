//! Makes a kernel from a recipe's tree: the image, its modules as a disk, and those for the boot.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err as fs;
use liblzma::read::XzDecoder;
use tar::Archive;

use crate::error::{Error, Result};
use crate::ext4::{self, Writer};
use crate::mmdebstrap::Recipe;
use crate::progress::Progress;

/// Longest module for the boot, decompressed, in bytes.
const MAX_MODULE: u64 = 64 << 20;

/// What was built in a folder, next to `vmlinuz`, `modules.ext4` and `boot/`.
pub(crate) struct Built {
    pub(crate) release: String,
    pub(crate) version: String,
    pub(crate) boot_modules: Vec<String>,
    pub(crate) vmlinuz_bytes: u64,
    pub(crate) vmlinuz_blake3: String,
}

/// Builds the kernel in `dir`, with `boot_modules` and what they depend on below `boot/`.
pub(crate) fn build(recipe: &Recipe, boot_modules: &[String], dir: &Path, progress: &dyn Progress) -> Result<Built> {
    let scratch = dir.join("scratch");
    fs::create_dir(&scratch)?;
    let vmlinuz = dir.join("vmlinuz");
    let mut modules = recipe.start_image(&dir.join("modules.ext4"))?;
    recipe.run(&scratch, progress, |stream| unpack(stream, &vmlinuz, &mut modules))?;

    progress.phase("writing the modules");
    let release = sole_folder(&modules)?;
    let boot_modules = extract_boot_modules(&mut modules, &release, boot_modules, &dir.join("boot"))?;
    modules.finish()?;
    fs::remove_dir_all(&scratch)?;

    let vmlinuz_blake3 = blake3::Hasher::new().update_reader(fs::File::open(&vmlinuz)?)?.finalize().to_string();
    Ok(Built {
        version: banner(&vmlinuz)?,
        vmlinuz_bytes: fs::metadata(&vmlinuz)?.len(),
        vmlinuz_blake3,
        boot_modules,
        release,
    })
}

/// Takes `boot/vmlinuz-*` and what is below `lib/modules` out of a tree of packages.
fn unpack(stream: &mut dyn Read, vmlinuz: &Path, modules: &mut Writer) -> Result<()> {
    let mut found = false;
    for entry in Archive::new(stream).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if let Some(inside) = module_path(&path) {
            ext4::add(modules, &mut entry, &inside, module_path)?;
        } else if is_vmlinuz(&path) && entry.header().entry_type().is_file() {
            if found {
                return Err(Error::Archive { entry: path.display().to_string(), reason: "a second kernel".into() });
            }
            io::copy(&mut entry, &mut fs::File::create_new(vmlinuz)?)?;
            found = true;
        }
    }
    if !found {
        return Err(Error::Archive { entry: "boot/vmlinuz-*".into(), reason: "there is no kernel".into() });
    }
    Ok(())
}

/// `./lib/modules/<rest>`, or the same below `usr`, as `<rest>`.
fn module_path(path: &Path) -> Option<PathBuf> {
    let path = ext4::relative(path)?;
    let path = path.strip_prefix("usr").unwrap_or(&path);
    path.strip_prefix("lib/modules").ok().map(Path::to_owned)
}

fn is_vmlinuz(path: &Path) -> bool {
    ext4::relative(path)
        .as_deref()
        .and_then(|path| path.strip_prefix("boot").ok()?.to_str())
        .is_some_and(|name| name.starts_with("vmlinuz-") && !name.contains('/'))
}

/// The release: the one folder that `lib/modules` holds.
fn sole_folder(modules: &Writer) -> Result<String> {
    let mut folders = modules.children(b"")?.map(|(name, _)| name);
    match (folders.next().and_then(|name| str::from_utf8(name).ok()), folders.next()) {
        (Some(release), None) => Ok(release.to_owned()),
        _ => Err(Error::Archive { entry: "lib/modules".into(), reason: "it does not hold one release".into() }),
    }
}

/// The content of a file of a release.
fn open<'a>(modules: &'a mut Writer, release: &str, path: &str) -> Result<impl Read + use<'a>> {
    let path = format!("{release}/{path}");
    modules
        .content(path.as_bytes())?
        .ok_or_else(|| Error::Archive { entry: path, reason: "there is no such file".into() })
}

/// A text file of a release.
fn read_text(modules: &mut Writer, release: &str, path: &str) -> Result<String> {
    let mut text = String::new();
    open(modules, release, path)?.take(MAX_MODULE).read_to_string(&mut text)?;
    Ok(text)
}

/// Decompresses the modules into `boot` as `NN-<name>.ko`, NN being the order, and returns these names.
fn extract_boot_modules(modules: &mut Writer, release: &str, wanted: &[String], boot: &Path) -> Result<Vec<String>> {
    let dependencies = read_text(modules, release, "modules.dep")?;
    let dependencies = Dependencies::parse(&dependencies);
    let builtin = read_text(modules, release, "modules.builtin")?;
    let builtin: Vec<String> = builtin.lines().map(module_name).collect();
    fs::create_dir(boot)?;
    let mut names = Vec::new();
    for path in dependencies.load_order(wanted.iter().filter(|name| !builtin.contains(name)))? {
        let name = format!("{:02}-{}.ko", names.len(), module_name(path));
        let mut file = fs::File::create_new(boot.join(&name))?;
        let source = open(modules, release, path)?;
        let written = if path.ends_with(".xz") {
            io::copy(&mut XzDecoder::new(source).take(MAX_MODULE), &mut file)?
        } else {
            io::copy(&mut source.take(MAX_MODULE), &mut file)?
        };
        if written == MAX_MODULE {
            return Err(Error::Archive { entry: path.to_owned(), reason: "the module is too large".into() });
        }
        names.push(name);
    }
    Ok(names)
}

/// A module's name as the kernel has it: `kernel/net/core/virtio-net.ko.xz` is `virtio_net`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// `modules.dep` (modules.dep(5)): each module's path, and the paths of those that must be there before it.
struct Dependencies<'a>(HashMap<String, (&'a str, Vec<&'a str>)>);

impl<'a> Dependencies<'a> {
    fn parse(text: &'a str) -> Dependencies<'a> {
        let modules = text.lines().filter_map(|line| line.split_once(':'));
        Dependencies(
            modules.map(|(path, needs)| (module_name(path), (path, needs.split_whitespace().collect()))).collect(),
        )
    }

    /// Paths of the wanted modules and all that they need, each once, needed ones first.
    fn load_order<'n>(&self, wanted: impl Iterator<Item = &'n String>) -> Result<Vec<&'a str>> {
        let mut order: Vec<&str> = Vec::new();
        for name in wanted {
            let Some((path, needs)) = self.0.get(name) else {
                let reason = format!("the kernel has no module `{name}`");
                return Err(Error::Archive { entry: "modules.dep".into(), reason });
            };
            // A line lists all that is needed, also indirectly, the first to load last.
            for path in needs.iter().rev().chain([path]) {
                if !order.contains(path) {
                    order.push(path);
                }
            }
        }
        Ok(order)
    }
}

/// The kernel's own banner, found as the x86 boot protocol says (Documentation/arch/x86/boot.rst, `kernel_version`).
fn banner(vmlinuz: &Path) -> Result<String> {
    let mut file = fs::File::open(vmlinuz)?;
    let mut pointer = [0; 2];
    file.seek(SeekFrom::Start(0x20e))?;
    file.read_exact(&mut pointer)?;
    file.seek(SeekFrom::Start(0x200 + u64::from(u16::from_le_bytes(pointer))))?;
    let mut text = Vec::new();
    file.take(256).read_to_end(&mut text)?;
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).replace(char::is_control, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/fs/over-lay.ko:
";

    #[test]
    fn dependencies_are_loaded_first_and_once() {
        let dependencies = Dependencies::parse(DEP);
        let wanted = ["failover", "virtio_net", "over_lay"].map(String::from);
        let order: Vec<_> = dependencies.load_order(wanted.iter()).unwrap().into_iter().map(module_name).collect();
        assert_eq!(order, ["failover", "net_failover", "virtio_net", "over_lay"]);
        assert!(dependencies.load_order([String::from("nvme")].iter()).is_err());
    }

    #[test]
    fn paths_of_a_merged_usr_are_known_too() {
        assert_eq!(module_path(Path::new("./lib/modules/6/a")).unwrap(), Path::new("6/a"));
        assert_eq!(module_path(Path::new("./usr/lib/modules/6/")).unwrap(), Path::new("6"));
        assert_eq!(module_path(Path::new("./usr/lib/x")), None);
        assert_eq!(module_path(Path::new("./lib/modules/../../x")), None);
        assert!(is_vmlinuz(Path::new("./boot/vmlinuz-6.12")));
        assert!(!is_vmlinuz(Path::new("./boot/config-6.12")));
        assert!(!is_vmlinuz(Path::new("./boot/vmlinuz-x/y")));
    }
}
