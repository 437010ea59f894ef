//! `banger vm create`.

use std::time::Duration;

use banger::cli::VmOptions;
use banger::config::Settings;
use banger::error::CommandError;
use banger::host::paths::Paths;
use banger::output::ui::Ui;
use banger::output::units::elapsed;
use banger::store::images::Images;
use banger::vm::forwards::{check_forwards, publish};
use banger::vm::machine::{Machines, VmSpec};
use serde::Serialize;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Created<'a> {
    vm: &'a str,
    image: String,
    started: bool,
    /// How long that took; none: it was not started.
    boot_ms: Option<u128>,
}

pub(super) fn create(
    name: Option<&str>,
    options: &VmOptions,
    no_start: bool,
    paths: &Paths,
    ui: &Ui,
) -> Result<(), CommandError> {
    check_forwards(&options.publish)?;
    let settings = Settings::of_process(paths, None, &options.into())?;
    settings.warnings.iter().for_each(|warning| ui.warning(warning));
    let (machines, spec) = (Machines::new(paths, ui), VmSpec::from(&settings));
    let vm = machines.create_by_name(name, None, &spec, false)?;
    let image = Images::new(paths, ui).name_of(&vm.record()?.image);
    let boot = match no_start {
        true => None,
        false => Some(machines.start_new(&vm, &spec)?.boot.unwrap_or_default()),
    };
    publish(&vm, &options.publish, ui).inspect_err(|_| {
        // It has nothing of anybody's; that it could not be removed is not the news.
        let _ = machines.remove(&vm, Duration::ZERO);
    })?;
    let and_started = boot.map(|boot| format!("; boot {}", elapsed(boot))).unwrap_or_default();
    ui.status(&format!("made `{}` from `{image}`{and_started}", vm.name()));
    let boot_ms = boot.map(|boot| boot.as_millis());
    let created = Created { vm: vm.name(), image, started: boot.is_some(), boot_ms };
    ui.answer(&created, || format!("{}\n", vm.name()))
}
