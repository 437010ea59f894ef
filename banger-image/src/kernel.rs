//! Makes a kernel from a recipe's tree: the image, its modules as a disk, and those for the boot.

mod format;
mod import;
mod modules;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use fs_err as fs;
use tar::Archive;

#[cfg(test)]
pub(crate) use self::format::tests::bz_image;
pub(crate) use self::import::import;

use crate::error::{Error, Result};
use crate::ext4::{self, Writer};
use crate::mmdebstrap::Recipe;
use crate::progress::Progress;

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
    let boot_modules = modules::extract(&mut modules, &release, boot_modules, &dir.join("boot"))?;
    modules.finish()?;
    fs::remove_dir_all(&scratch)?;

    let vmlinuz_blake3 = blake3::Hasher::new().update_reader(fs::File::open(&vmlinuz)?)?.finalize().to_string();
    Ok(Built {
        version: format::banner(&vmlinuz)?,
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

#[cfg(test)]
mod tests {
    use super::*;

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
