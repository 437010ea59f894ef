//! `banger vm create`.

use std::time::Duration;

use banger::cli::VmOptions;
use banger::config::Settings;
use banger::error::CommandError;
use banger::host::paths::Paths;
use banger::output::command_output::{CommandOutput, Message, Millis, Verbosity};
use banger::output::ui::Ui;
use banger::output::units::elapsed;
use banger::store::images::Images;
use banger::vm::forwards::{check_forwards, publish};
use banger::vm::machine::{Machines, VmSpec};
use serde::Serialize;

/// A VM that was made.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CreatedVm {
    /// The VM's name.
    vm: String,
    /// The name of its image.
    image: String,
    /// Whether the VM was started too.
    started: bool,
    /// How long the start took; none: the VM was not started.
    boot_ms: Option<Millis>,
}

/// Makes a bare VM, named `name` or with a name of its own, and starts it unless `no_start` is set.
///
/// # Errors
/// If the name is taken or invalid, the options cannot be fulfilled, or the VM does not start:
/// then it is gone again.
pub(super) fn create(
    name: Option<&str>,
    options: &VmOptions,
    no_start: bool,
    paths: &Paths,
    ui: &Ui,
) -> Result<CreatedVm, CommandError> {
    check_forwards(&options.publish)?;
    let settings = Settings::of_process(paths, None, &options.into())?;
    settings.warnings.iter().for_each(|warning| ui.warning(warning));
    let (machines, spec) = (Machines::new(paths, ui), VmSpec::from(&settings));
    let vm = machines.create_by_name(name, None, &spec, false)?;
    let image = Images::new(paths, ui).name_of(&vm.record()?.image);
    let boot_ms = match no_start {
        true => None,
        false => Some(Millis(machines.start_new(&vm, &spec)?.boot.unwrap_or_default())),
    };
    publish(&vm, &options.publish, ui).inspect_err(|_| {
        // It has nothing of anybody's; that it could not be removed is not the news.
        let _ = machines.remove(&vm, Duration::ZERO);
    })?;
    Ok(CreatedVm { vm: vm.name().to_owned(), image, started: boot_ms.is_some(), boot_ms })
}

impl CommandOutput for CreatedVm {
    fn messages(&self) -> Vec<Message> {
        let and_started = self.boot_ms.map(|Millis(boot)| format!("; boot {}", elapsed(boot))).unwrap_or_default();
        vec![Message::status(format!("made `{}` from `{}`{and_started}", self.vm, self.image))]
    }

    fn text(&self, _verbosity: Verbosity) -> String {
        format!("{}\n", self.vm)
    }
}
