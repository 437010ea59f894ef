//! What is done to a VM before a command because the repository asks for it: its tools (mise), and
//! its set-up.
//!
//! Each is done when what asks for it has changed since it was last done in this VM, and only then.
//! All of it runs in the guest.

pub mod certificates;
mod mise;
mod setup;
mod sshd;
mod stamp;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use banger_agent::protocol::{AgentRequest, Own, WireBytes};
use banger_vmm::Vm;

use self::mise::Mise;
use self::setup::Setup;
pub(crate) use self::sshd::start as start_sshd;
pub(crate) use self::stamp::Stamp;
use crate::config::Settings;
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::host::file::lock_or_wait;
use crate::host::paths::Paths;
use crate::output::report::{RunPhase, RunReport};
use crate::output::ui::Ui;
use crate::sync::Listed;
use crate::vm::agent::Call;
use crate::vm::checkout::GuestCheckout;
use crate::vm::running::RunningVm;

/// How long a guest may take to give all files of a workspace to a user.
const OWN_LIMIT: Duration = Duration::from_secs(600);

/// What a command says that waits for another one's preparation of the VM.
const WAITING: &str = "waiting for another command, which prepares the VM";

/// Held while something is done to a VM: of what two repositories ask for, one would be in the
/// other's way (apt, mise).
fn alone(machine: &RunningVm, ui: &Ui) -> Result<File, CommandError> {
    let folder = machine.vm.folder();
    let lock = File::open(folder).and_then(|folder| lock_or_wait(&folder, || ui.status(WAITING)).map(|()| folder));
    lock.map_err(|error| CommandError::io("lock", folder, &error))
}

/// Gives the working tree of `checkout` to the user of the guest called `owner`: what was synced is
/// root's.
///
/// # Errors
/// If the guest has no such user, or the VM fails.
pub fn give_to(checkout: &GuestCheckout, owner: &str, vm: &Vm) -> Result<(), CommandError> {
    let request = Own { root: checkout.guest_path().as_os_str().into(), user: owner.to_owned() };
    let given: Result<u64, _> = Call::ask_within(vm, &AgentRequest::Own(request), OWN_LIMIT);
    given.map(drop).map_err(|error| match CommandError::from(error) {
        error if error.kind == ErrorKind::NoSuchUser => {
            error.hint("`owner` of the configuration names a user of the VM")
        }
        error => error,
    })
}

/// What a repository asks for.
pub struct Preparation {
    checkout: GuestCheckout,
    mise: Option<Mise>,
    setup: Option<Setup>,
}

impl Preparation {
    /// Finds out what the workspace, whose files are `listed`, asks for at `checkout`, for commands
    /// in `folder` in the guest.
    ///
    /// # Errors
    /// If a file that has a say in it cannot be read.
    pub fn of(
        workspace: &Workspace,
        checkout: &GuestCheckout,
        folder: &Path,
        listed: &Listed,
        settings: &Settings,
        paths: &Paths,
        ui: &Ui,
    ) -> Result<Preparation, CommandError> {
        let mise = if settings.mise() { Mise::of(checkout, folder, listed, paths)? } else { None };
        let setup = Setup::of(workspace, listed, settings, ui)?;
        Ok(Preparation { checkout: checkout.clone(), mise, setup })
    }

    /// See [`give_to`].
    ///
    /// # Errors
    /// As [`give_to`].
    pub fn give_to(&self, owner: &str, vm: &Vm) -> Result<(), CommandError> {
        give_to(&self.checkout, owner, vm)
    }

    /// Variables for what runs in the guest: where the tools are.
    pub fn variables(&self, of_image: &[(WireBytes, WireBytes)]) -> Vec<(WireBytes, WireBytes)> {
        self.mise.as_ref().map(|mise| mise.variables(of_image)).unwrap_or_default()
    }

    /// What the tools set for commands, once all is done.
    pub fn environment(&self, vm: &Vm, ui: &Ui) -> Vec<(WireBytes, WireBytes)> {
        self.mise.as_ref().map(|mise| mise.environment(vm, &self.checkout, ui)).unwrap_or_default()
    }

    /// Both for a workspace that the VM was prepared for before, and a command in `folder` in the
    /// guest.
    pub fn variables_of(
        vm: &Vm,
        checkout: &GuestCheckout,
        folder: &Path,
        of_image: &[(WireBytes, WireBytes)],
        ui: &Ui,
    ) -> Vec<(WireBytes, WireBytes)> {
        mise::variables_of(vm, checkout, folder, of_image, ui)
    }

    /// Does what has to be done, with the variables that commands have.
    ///
    /// # Errors
    /// If the set-up fails, or the VM. Tools that cannot be installed are only said.
    pub fn run(
        &self,
        machine: &RunningVm,
        variables: &[(WireBytes, WireBytes)],
        account: &RunReport,
        ui: &Ui,
    ) -> Result<(), CommandError> {
        if let Some(mise) = &self.mise {
            account.time(RunPhase::Tools, || mise.run(machine, &self.checkout, variables, ui))?;
        }
        if let Some(setup) = &self.setup {
            account.time(RunPhase::Setup, || setup.run(machine, &self.checkout, variables, ui))?;
        }
        Ok(())
    }
}
