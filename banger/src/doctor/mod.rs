//! Checks of what banger needs on this host.

mod host;
mod namespaces;
mod store;

use serde::Serialize;

use crate::config::{Overrides, Settings};
use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;

/// How well something works. A later one is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It works.
    Ok,
    /// It works, but slower than it could, or not in every case.
    Warn,
    /// It does not work.
    Fail,
}

/// The result of one check of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked, in a word.
    pub name: &'static str,
    /// How well it works.
    pub health: Health,
    /// What was found, one line.
    pub found: String,
    /// What fixes a problem: commands, or advice.
    pub fix: Option<String>,
    /// Whether a problem was fixed by this examination.
    pub fixed: bool,
}

impl Check {
    fn new(name: &'static str, health: Health, found: impl Into<String>) -> Check {
        Check { name, health, found: found.into(), fix: None, fixed: false }
    }

    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check::new(name, Health::Ok, found)
    }

    fn warn(name: &'static str, found: impl Into<String>) -> Check {
        Check::new(name, Health::Warn, found)
    }

    fn fail(name: &'static str, found: impl Into<String>) -> Check {
        Check::new(name, Health::Fail, found)
    }

    fn with_fix(mut self, fix: impl Into<String>) -> Check {
        self.fix = Some(fix.into());
        self
    }

    /// Fixes a problem by `fix`, which returns what is found then, if that is `wanted`; otherwise
    /// names the command that does.
    fn fix_if(self, wanted: bool, fix: impl FnOnce() -> Result<String, CommandError>) -> Check {
        if !wanted {
            return self.with_fix("banger doctor --fix");
        }
        match fix() {
            Ok(done) => Check { health: Health::Ok, found: done, fixed: true, ..self },
            Err(error) => Check { health: Health::Fail, found: format!("{}: {}", self.found, error.message), ..self },
        }
    }
}

/// Examines everything that banger needs of this machine. With `fix`, problems that can be fixed
/// without losing data are fixed.
pub fn examine(fix: bool, paths: &Paths, ui: &Ui) -> Vec<Check> {
    let settings = Settings::of_process(paths, None, &Overrides::default());
    let mut checks = vec![host::parts(), host::configuration(settings.as_ref().err())];
    let kvm = host::kvm(fix, paths);
    let translates = kvm.as_ref().is_none_or(|kvm| kvm.health != Health::Ok);
    checks.extend(kvm);
    // What it would say is said already.
    let settings = settings.ok();
    let is_needed = !settings.as_ref().is_some_and(|settings| store::has_all(settings, paths, ui));
    let installation = host::installation(settings.as_ref(), paths);
    let has_firecracker = installation.is_ok();
    checks.push(host::firecracker(settings.as_ref(), !translates, installation));
    let network = host::network(settings.as_ref(), !translates);
    let has_network = network.as_ref().is_some_and(|network| network.health == Health::Ok);
    let qemu = host::qemu(translates);
    let has_qemu = qemu.health != Health::Fail;
    checks.extend(network);
    checks.extend([
        qemu,
        host::backend(settings.as_ref(), &host::Found { has_kvm: !translates, has_firecracker, has_network, has_qemu }),
        host::confinement(),
        host::git(),
        host::ssh(settings.as_ref(), paths),
        host::builder(is_needed),
        namespaces::namespaces(is_needed),
        store::permissions(paths),
        store::space(paths),
        store::images(settings.as_ref(), paths, ui),
        store::kernels(paths, ui),
        store::vms(fix, paths, ui),
    ]);
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fix_runs_only_if_requested() {
        let check = || Check::warn("state", "two leftovers");
        let left = check().fix_if(false, || unreachable!());
        assert_eq!((left.health, left.fix.as_deref(), left.fixed), (Health::Warn, Some("banger doctor --fix"), false));
        let fixed = check().fix_if(true, || Ok("removed two".into()));
        assert_eq!((fixed.health, fixed.found.as_str(), fixed.fixed), (Health::Ok, "removed two", true));
        let failed = check().fix_if(true, || Err(CommandError::new("it is read-only")));
        assert_eq!((failed.health, failed.found.as_str()), (Health::Fail, "two leftovers: it is read-only"));
    }
}
