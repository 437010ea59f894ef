//! `banger doctor`.

use banger_vmm::printable;
use serde::Serialize;

use crate::doctor::{Check, Health, examine};
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Verbosity};
use crate::output::ui::Ui;

/// The exit status when something does not work. banger's own failures have another one.
const UNWELL: u8 = 1;

/// What an examination of this machine has found.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// The worst health of all checks.
    pub health: Health,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// The exit status of the command: 1 if something does not work, else 0.
    pub fn status(&self) -> u8 {
        if self.health == Health::Fail { UNWELL } else { 0 }
    }
}

/// Examines what banger needs of this machine. With `fix`, problems that can be fixed without
/// losing data are fixed.
pub fn doctor(fix: bool, paths: &Paths, ui: &Ui) -> Diagnosis {
    let checks = examine(fix, paths, ui);
    let health = checks.iter().map(|check| check.health).max().unwrap_or(Health::Ok);
    Diagnosis { health, checks }
}

impl CommandOutput for Diagnosis {
    fn text(&self, _verbosity: Verbosity) -> String {
        text(self)
    }
}

fn text(answer: &Diagnosis) -> String {
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
    use super::super::test_home::TestHome;
    use super::*;

    #[test]
    fn checks_print_one_line_with_hints_below() {
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
        assert_eq!(text(&Diagnosis { health: Health::Warn, checks }), expected);
    }

    #[test]
    fn diagnosis_of_this_machine_is_data_with_two_printed_forms() {
        let home = TestHome::new();
        let diagnosis = doctor(false, &home.paths, &home.ui);
        let worst = diagnosis.checks.iter().map(|check| check.health).max();
        assert_eq!(Some(diagnosis.health), worst);
        assert_eq!(diagnosis.status() == 1, worst == Some(Health::Fail));
        let vms = diagnosis.checks.iter().find(|check| check.name == "vms").unwrap();
        assert_eq!((vms.health, vms.found.as_str()), (Health::Ok, "0 VMs, 0 running"));

        let json: serde_json::Value = serde_json::from_str(&diagnosis.json()).unwrap();
        assert_eq!(json["checks"].as_array().unwrap().len(), diagnosis.checks.len());
        let text = diagnosis.text(Verbosity::default());
        for check in &diagnosis.checks {
            assert!(text.lines().any(|line| line.split_whitespace().nth(1) == Some(check.name)), "{text}");
        }
    }

    #[test]
    fn diagnosis_in_json_is_the_worst_health_and_the_checks() {
        let check = Check { name: "kvm", health: Health::Fail, found: "none".into(), fix: None, fixed: false };
        let diagnosis = Diagnosis { health: Health::Fail, checks: vec![check] };
        let check = "{\"name\":\"kvm\",\"health\":\"fail\",\"found\":\"none\",\"fix\":null,\"fixed\":false}";
        assert_eq!(diagnosis.json(), format!("{{\"health\":\"fail\",\"checks\":[{check}]}}\n"));
        assert_eq!(diagnosis.status(), 1);
    }
}
