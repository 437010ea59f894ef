//! `setup`: commands of the configuration that prepare a VM for its repository.

use std::io::{Write, stderr};

use banger_agent::protocol::WireBytes;
use banger_agent::protocol::exec::{Exec, Exit};
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::{Stamp, alone};
use crate::config::Settings;
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::output::ui::Ui;
use crate::sync::Listed;
use crate::vm::checkout::GuestCheckout;
use crate::vm::guest_command;
use crate::vm::post_mortem;
use crate::vm::running::RunningVm;

/// Commands, and a digest of them and of the files that they depend on.
pub(super) struct Setup {
    commands: Vec<String>,
    digest: String,
}

impl Setup {
    /// What the configuration says; none if it says nothing.
    pub(super) fn of(
        workspace: &Workspace,
        listed: &Listed,
        settings: &Settings,
        ui: &Ui,
    ) -> Result<Option<Setup>, CommandError> {
        let commands = settings.setup().to_vec();
        if commands.is_empty() {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        for command in &commands {
            hasher.update(&(command.len() as u64).to_le_bytes()).update(command.as_bytes());
        }
        for input in settings.setup_inputs() {
            let pattern = pattern(input)?;
            let digest = listed.digest(&workspace.root, &mut |path| {
                pattern.matched_path_or_any_parents(WireBytes(path.to_vec()).as_os_str(), false).is_ignore()
            })?;
            if digest.is_none() {
                ui.warning(&format!("no file is `{input}`, which `setup_inputs` names"));
            }
            hasher.update(&digest.unwrap_or_default());
        }
        Ok(Some(Setup { commands, digest: hasher.finalize().to_hex().to_string() }))
    }

    /// Runs the commands one after the other, unless they have been run for just these inputs. What
    /// they print goes to standard error.
    ///
    /// # Errors
    /// If one of them fails: what comes after it is not run, and the next time all are.
    pub(super) fn run(
        &self,
        machine: &RunningVm,
        checkout: &GuestCheckout,
        variables: &[(WireBytes, WireBytes)],
        ui: &Ui,
    ) -> Result<(), CommandError> {
        let mut stamp = Stamp::open(&checkout.mark("setup"), ui)?;
        if stamp.is(&self.digest) {
            return Ok(());
        }
        let _alone = alone(machine, ui)?;
        stamp.begin()?;
        for command in &self.commands {
            ui.status(&format!("set-up: {command}"));
            let exec = Exec {
                argv: vec!["sh".into(), "-c".into(), command.as_str().into()],
                env: variables.to_vec(),
                cwd: checkout.guest_path().as_os_str().into(),
                ..Exec::default()
            };
            let finished = guest_command::run(&machine.vm, exec, &[], |output| {
                if !ui.is_quiet() {
                    // Whoever has closed standard error does not want it.
                    let _ = stderr().write_all(output);
                }
            })?;
            let how = match finished.exit {
                Exit::Code(0) => continue,
                Exit::Code(code) => format!("ended with exit status {code}"),
                Exit::Signal(signal) => format!("was ended by signal {signal}"),
            };
            let error = CommandError::new(format!("`{command}`, of `setup`, {how}"));
            let error = post_mortem::of_memory(error, &machine.vm, finished.out_of_memory);
            let error = error.kind(ErrorKind::Setup).hint("without it: the same command with BANGER_SETUP='[]'");
            return Err(if ui.is_quiet() { error.details(finished.last_lines()) } else { error });
        }
        stamp.note(&self.digest)
    }
}

/// A path from the root of the repository; a folder stands for all in it, and `*`, `?`, `[…]` and
/// `**` for what they do in `.gitignore`.
fn pattern(input: &str) -> Result<Gitignore, CommandError> {
    let mut builder = GitignoreBuilder::new("");
    let added = builder.add_line(None, &format!("/{input}")).and_then(|builder| builder.build());
    added.map_err(|error| {
        CommandError::new(format!("`{input}`, of `setup_inputs`, is no pattern: {error}")).kind(ErrorKind::Config)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setup_inputs_match_files_directories_and_globs() {
        let is = |input: &str, path: &str| pattern(input).unwrap().matched_path_or_any_parents(path, false).is_ignore();
        assert!(is("package-lock.json", "package-lock.json"));
        assert!(!is("package-lock.json", "inner/package-lock.json"));
        assert!(is("requirements", "requirements/dev/all.txt"));
        assert!(is("requirements/*.txt", "requirements/all.txt"));
        assert!(!is("requirements/*.txt", "requirements/dev/all.txt"));
        assert!(is("**/Cargo.toml", "a/b/Cargo.toml"));
        assert!(!is("#x", "x"));
    }
}
