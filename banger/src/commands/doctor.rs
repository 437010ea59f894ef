//! `banger doctor`.

use banger_vmm::printable;
use serde::Serialize;

use crate::doctor::{Check, Health, examine};
use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;

/// What it ends with if something does not work. That banger itself failed is another status.
const UNWELL: u8 = 1;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    /// The worst of all.
    health: Health,
    checks: Vec<Check>,
}

/// Looks at what banger needs of this machine, and mends what can be with `fix`. Returns the exit
/// status: 1 if something does not work.
///
/// # Errors
/// If the answer cannot be printed.
pub fn doctor(fix: bool, paths: &Paths, ui: &Ui) -> Result<u8, CommandError> {
    let checks = examine(fix, paths, ui);
    let health = checks.iter().map(|check| check.health).max().unwrap_or(Health::Ok);
    let answer = Answer { health, checks };
    ui.answer(&answer, || text(&answer))?;
    Ok(if health == Health::Fail { UNWELL } else { 0 })
}

fn text(answer: &Answer) -> String {
    let width = answer.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let lines = answer.checks.iter().map(|check| {
        let health = match check.health {
            Health::Ok if check.fixed => "fixed",
            Health::Ok => "ok",
            Health::Warn => "warn",
            Health::Fail => "fail",
        };
        let found = printable(check.found.as_bytes());
        let fix = check.fix.iter().filter(|fix| !fix.is_empty());
        let fix = fix.map(|fix| format!("{:7}{:width$}  hint: {}\n", "", "", printable(fix.as_bytes())));
        format!("{health:<5}  {:<width$}  {found}\n", check.name) + &fix.collect::<String>()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_has_a_line_and_what_is_to_be_done_another() {
        let check = |name, health, fix: Option<&str>, fixed| Check {
            name,
            health,
            found: "so\x1b".into(),
            fix: fix.map(str::to_owned),
            fixed,
        };
        let checks = vec![
            check("kvm", Health::Warn, Some("do this"), false),
            check("images", Health::Ok, None, false),
            check("vms", Health::Ok, None, true),
        ];
        let expected = "warn   kvm     so^[\n               hint: do this\nok     images  so^[\nfixed  vms     so^[\n";
        assert_eq!(text(&Answer { health: Health::Warn, checks }), expected);
    }
}
