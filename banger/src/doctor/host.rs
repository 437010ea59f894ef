//! Checks of the host: its processor, its programs, and what it allows its users.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use banger_agent::VERSION;
use banger_vmm::kvm::{self, KvmSupport};
use banger_vmm::network::{self, NetworkSupport};
use banger_vmm::{BackendChoice, Confinement, Failure, FirecrackerInstallation, Gap, Programs};
use nix::unistd::Uid;

use super::{Check, Health};
use crate::config::{Settings, expanded};
use crate::error::CommandError;
use crate::host::paths::{Paths, helper, search_path, user_config};
use crate::output::confinement::describe;
use crate::vm::authorized_key;

/// The oldest QEMU that banger is tested with: that of Debian 12.
const OLDEST_QEMU: (u32, u32) = (7, 2);
/// The first QEMU whose translated processors do not run code that another one is just changing:
/// QEMU's commit deba78709a, "accel/tcg: Always lock pages before translation".
const SOUND_TCG: (u32, u32) = (8, 1);

/// Checks that all parts of banger are installed.
pub(super) fn parts() -> Check {
    match helper("banger-vmm").and(helper("banger-agent")) {
        Ok(_) => Check::ok("banger", format!("version {VERSION}, installed whole")),
        Err(error) => Check::fail("banger", error.message).with_fix(error.hints.join("; ")),
    }
}

/// Checks that the user's configuration file can be read; `error` is why it cannot.
pub(super) fn configuration(error: Option<&CommandError>) -> Check {
    if let Some(error) = error {
        return Check::fail("configuration", &error.message).with_fix(error.hints.join("; "));
    }
    let file = user_config().filter(|file| file.is_file());
    let file = file.map_or_else(|| "none, and none is needed".to_owned(), |file| file.display().to_string());
    Check::ok("configuration", file)
}

/// Checks that KVM runs a guest, and shows what was found out about that before. `None` without the
/// supervisor, which is needed to try it, and for which another check fails.
pub(super) fn kvm(fix: bool, paths: &Paths) -> Option<Check> {
    const NAME: &str = "kvm";
    let host = paths.data.join("host");
    let supervisor = helper("banger-vmm").ok()?;
    let slower = "VMs run on TCG, which is slower";
    let probed = kvm::probe(&supervisor);
    let known = kvm::remembered(&host);
    Some(match (probed, known) {
        (KvmSupport::Unusable(problem), _) => {
            let check = Check::warn(NAME, format!("{problem}; {slower}"));
            let elsewhere = "on a machine with KVM, or nested virtualisation, VMs start several times faster";
            check.with_fix(kvm::access_hint().unwrap_or_else(|| elsewhere.to_owned()))
        }
        // The guest of a few instructions works: it was a whole one that did not.
        (_, KvmSupport::Unusable(problem)) => {
            Check::warn(NAME, format!("{problem}; {slower} until this machine starts again")).fix_if(fix, || {
                kvm::forget(&host).map_err(|error| CommandError::io("forget", &host, &error))?;
                Ok("the next VM tries it again".to_owned())
            })
        }
        (_, KvmSupport::Works) => Check::ok(NAME, "runs guests"),
        (_, KvmSupport::Unknown) => {
            Check::ok(NAME, "runs a guest of a few instructions; the first VM will tell whether a whole one")
        }
    })
}

/// The Firecracker that the configuration leads to.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn installation(settings: Option<&Settings>, paths: &Paths) -> Result<FirecrackerInstallation, Failure> {
    let wanted = settings.and_then(Settings::firecracker_bin).map(|path| expanded(path, paths.home.as_deref()));
    let jailer_user = settings.and_then(Settings::jailer_user).map(str::to_owned);
    FirecrackerInstallation::find(&Programs::new(search_path()).with_firecracker(wanted).with_jailer_user(jailer_user))
}

/// Checks whether Firecracker can run VMs here, for which QEMU stands in. `has_kvm`: KVM runs guests.
pub(super) fn firecracker(
    settings: Option<&Settings>,
    has_kvm: bool,
    installation: Result<FirecrackerInstallation, Failure>,
) -> Check {
    const NAME: &str = "firecracker";
    let is_wanted = settings.and_then(Settings::firecracker_bin).is_some()
        || settings.and_then(Settings::jailer_user).is_some()
        || settings.and_then(Settings::backend) == Some(BackendChoice::Firecracker);
    match installation {
        Ok(found) if !has_kvm => {
            let program = found.program.display();
            Check::ok(NAME, format!("version {}, {program}: not used without KVM", found.version()))
        }
        Ok(found) => {
            let shown = format!("version {}, {}", found.version(), found.program.display());
            match found.advice() {
                Some(advice) => Check::warn(NAME, shown).with_fix(advice),
                None => Check::ok(NAME, shown),
            }
        }
        Err(failure) if is_wanted => Check::fail(NAME, failure.message).with_fix(failure.hint.unwrap_or_default()),
        Err(failure) if has_kvm => {
            let shown = format!("{}: QEMU runs the VMs, which start slower", failure.message);
            Check::warn(NAME, shown).with_fix(failure.hint.unwrap_or_default())
        }
        Err(_) => Check::ok(NAME, "not used without KVM"),
    }
}

/// What other checks have found.
pub(super) struct Found {
    /// KVM runs guests.
    pub(super) has_kvm: bool,
    /// Firecracker can be used where KVM runs guests.
    pub(super) has_firecracker: bool,
    /// A VM under Firecracker can have a network.
    pub(super) has_network: bool,
    /// QEMU can be used.
    pub(super) has_qemu: bool,
}

/// Says what runs VMs here, by the configuration and by what was found.
pub(super) fn backend(settings: Option<&Settings>, found: &Found) -> Check {
    const NAME: &str = "backend";
    let Found { has_kvm, has_firecracker, has_network, has_qemu } = *found;
    let has_firecracker = has_kvm && has_firecracker;
    let choice = settings.and_then(Settings::backend).unwrap_or_default();
    match choice {
        BackendChoice::Firecracker if !has_firecracker => {
            let why = if has_kvm { "which cannot be used" } else { "which needs KVM" };
            Check::fail(NAME, format!("the configuration says `backend = \"firecracker\"`, {why}: no VM starts"))
                .with_fix("banger config set backend auto")
        }
        BackendChoice::Firecracker => Check::ok(NAME, "VMs run on Firecracker with KVM"),
        BackendChoice::Auto if has_firecracker && has_network => Check::ok(NAME, "VMs run on Firecracker with KVM"),
        BackendChoice::Auto if has_firecracker && has_qemu => {
            Check::ok(NAME, "VMs with a network run on QEMU with KVM, others on Firecracker")
        }
        _ if !has_qemu => Check::fail(NAME, "there is no program that can run VMs: install QEMU"),
        _ => Check::ok(NAME, format!("VMs run on QEMU with {}", if has_kvm { "KVM" } else { "TCG" })),
    }
}

/// Checks that a VM under Firecracker can have a network, which matters where Firecracker is used.
/// `None` without the supervisor, which is needed to try it, and for which another check fails.
pub(super) fn network(settings: Option<&Settings>, has_kvm: bool) -> Option<Check> {
    const NAME: &str = "network";
    let supervisor = helper("banger-vmm").ok()?;
    Some(match network::support(&supervisor, &Programs::new(search_path())) {
        NetworkSupport::Works(program) => {
            Check::ok(NAME, format!("{} can connect VMs under Firecracker", program.name()))
        }
        NetworkSupport::Unusable { reason, hint } => {
            let found = format!("VMs under Firecracker have none, and QEMU runs those that need one: {reason}");
            let has_firecracker =
                find("firecracker").is_some() || settings.and_then(Settings::firecracker_bin).is_some();
            if has_kvm && has_firecracker { Check::warn(NAME, found).with_fix(hint) } else { Check::ok(NAME, found) }
        }
    })
}

/// Checks that QEMU is installed and new enough. `translates`: guests do not run with KVM.
pub(super) fn qemu(translates: bool) -> Check {
    const NAME: &str = "qemu";
    let package = "sudo apt-get install qemu-system-x86";
    let Some(path) = find("qemu-system-x86_64") else {
        return Check::fail(NAME, "there is no `qemu-system-x86_64`").with_fix(package);
    };
    let Some(said) = first_line(&path, "--version") else {
        return Check::fail(NAME, format!("{} does not run", path.display())).with_fix(package);
    };
    match version(&said) {
        Some(version) if version >= OLDEST_QEMU && translates && version < SOUND_TCG => Check::warn(
            NAME,
            format!(
                "{said}: under TCG it lets about one guest in a hundred panic, in \"int3\"; the next command starts it again"
            ),
        )
        .with_fix(format!(
            "QEMU {}.{} or later, where the distribution has one, as in Debian 13",
            SOUND_TCG.0, SOUND_TCG.1
        )),
        Some(version) if version >= OLDEST_QEMU => Check::ok(NAME, said),
        Some(_) => Check::warn(
            NAME,
            format!("{said}: older than {}.{}, which banger is tested with", OLDEST_QEMU.0, OLDEST_QEMU.1),
        ),
        None => Check::warn(NAME, format!("it does not say its version: {said}")),
    }
}

/// Checks that the kernel can confine a VMM to its VM's own files (Landlock).
pub(super) fn confinement() -> Check {
    const NAME: &str = "confinement";
    let confinement = Confinement::of_kernel();
    let found = format!("VMs are confined by {}", describe(&confinement));
    match &confinement.missing[..] {
        [] => Check::ok(NAME, found),
        missing if missing.contains(&Gap::Files) => Check::warn(NAME, found)
            .with_fix("Linux 6.12 or later, with `landlock` among the modules in /sys/kernel/security/lsm"),
        _ => Check::warn(NAME, found).with_fix("Linux 6.12 or later"),
    }
}

/// Checks that git is installed.
pub(super) fn git() -> Check {
    match find("git").and_then(|path| first_line(&path, "--version")) {
        Some(version) => Check::ok("git", version),
        None => Check::fail("git", "there is no `git`, which makes packs and reads what only it can")
            .with_fix("sudo apt-get install git"),
    }
}

/// Checks that OpenSSH's client is installed, and that its key for VMs can be used.
pub(super) fn ssh(settings: Option<&Settings>, paths: &Paths) -> Check {
    const NAME: &str = "ssh";
    if find("ssh").is_none() {
        return Check::warn(NAME, "there is no `ssh`, which `banger ssh` runs")
            .with_fix("sudo apt-get install openssh-client");
    }
    let wanted = settings.and_then(|settings| settings.ssh_key_path(paths.home.as_deref()));
    let is_own = wanted.is_none();
    let Some(key) = wanted.or_else(authorized_key::own) else {
        return Check::warn(NAME, "there is no home folder to keep a key in");
    };
    let shown = key.display();
    match fs::metadata(&key) {
        // ssh takes no key that others can read.
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            Check::fail(NAME, format!("others may read the key {shown}, so ssh does not take it"))
                .with_fix(format!("chmod 600 {shown}"))
        }
        Ok(_) => Check::ok(NAME, format!("the key {shown}")),
        Err(_) if is_own => Check::ok(NAME, format!("the key {shown} is made when it is first wanted")),
        Err(error) => Check::fail(NAME, format!("the key {shown}, which `ssh_key_path` names: {error}"))
            .with_fix("banger config get ssh_key_path"),
    }
}

/// Checks that the tools are installed that build images and kernels of recipes. `is_needed`: the
/// next VM needs a build.
pub(super) fn builder(is_needed: bool) -> Check {
    const NAME: &str = "builder";
    let mut missing = Vec::new();
    for (program, package) in [("mmdebstrap", "mmdebstrap"), ("unshare", "util-linux"), ("newuidmap", "uidmap")] {
        let is_of_root = program == "newuidmap" && Uid::effective().is_root();
        if !is_of_root && find(program).is_none() {
            missing.push((program, package));
        }
    }
    if missing.is_empty() {
        return Check::ok(NAME, "mmdebstrap builds the images and kernels of banger's own catalog");
    }
    let [programs, packages] = [
        missing.iter().map(|(program, _)| *program).collect::<Vec<_>>(),
        missing.iter().map(|(_, package)| *package).collect(),
    ];
    without(is_needed)(NAME, format!("no image of banger's own catalog can be built without {}", programs.join(", ")))
        .with_fix(format!("sudo apt-get install {}", packages.join(" ")))
}

/// The result if builds are impossible.
pub(super) fn without(is_needed: bool) -> impl Fn(&'static str, String) -> Check {
    let health = if is_needed { Health::Fail } else { Health::Warn };
    move |name, found| Check::new(name, health, found)
}

/// A program, by the name that it and its package have.
fn find(program: &'static str) -> Option<PathBuf> {
    Programs::new(search_path()).find(program, program).ok()
}

/// The first line that a program prints about its version.
fn first_line(program: &PathBuf, option: &str) -> Option<String> {
    let output = Command::new(program).arg(option).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().filter(|_| output.status.success()).map(str::to_owned)
}

/// The first two numbers of the first word that begins with a digit.
fn version(text: &str) -> Option<(u32, u32)> {
    let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut numbers = word.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_version_parses_distribution_formats() {
        for (text, expected) in [
            ("QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7+deb12u16)", Some((7, 2))),
            ("QEMU emulator version 10.0.2", Some((10, 0))),
            ("QEMU emulator version 11.0-rc1", Some((11, 0))),
            ("QEMU", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
    }
}
