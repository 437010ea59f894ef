//! `banger changed`: names what changed in the VM alone and would be lost with it.
//!
//! The exit status is that of `diff`: 0 if there is nothing, 1 if there is something, 125 if that
//! cannot be found out.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, io};

use banger::banger_agent::protocol::AgentRequest;
use banger::banger_agent::protocol::sync::GuestOnly;
use banger::banger_vmm::{VmState, printable};
use banger::cli::Global;
use banger::config::git_host;
use banger::error::{CommandError, ErrorKind};
use banger::git::Workspace;
use banger::host::paths::Paths;
use banger::output::ui::Ui;
use banger::plugin::API;
use banger::vm::agent::Call;
use banger::vm::machine::Machines;
use clap::Parser;
use serde::Serialize;

/// Name what exists only in the VM
#[derive(Parser)]
#[command(name = "banger changed", version)]
struct Options {
    #[command(flatten)]
    global: Global,
}

#[derive(Default, Serialize)]
struct Answer {
    vm: Option<String>,
    files: u64,
    references: u64,
    /// The first hundred, or all.
    named: Vec<String>,
}

fn main() -> io::Result<ExitCode> {
    if env::args_os().nth(1).is_some_and(|word| word == "--banger-describe") {
        writeln!(io::stdout(), r#"{{"api": {API}, "description": "Name what exists only in the VM"}}"#)?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse();
    let ui = Ui::new(&options.global);
    let answer = changed(&ui).and_then(|answer| {
        ui.answer(&answer, || answer.named.iter().map(|name| format!("{name}\n")).collect())?;
        Ok(answer)
    });
    Ok(match answer {
        Ok(answer) => ExitCode::from(u8::from(answer.files + answer.references > 0)),
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.status())
        }
    })
}

fn changed(ui: &Ui) -> Result<Answer, CommandError> {
    let paths = Paths::from_env()?;
    let here = env::var_os("BANGER_WORKSPACE_ROOT").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let workspace = Workspace::discover(&here, git_host(&paths))?;
    let Some(vm) = Machines::new(&paths, ui).find(&workspace)? else {
        ui.status("this repository has no VM");
        return Ok(Answer::default());
    };
    if !matches!(vm.state()?, VmState::Running { .. }) {
        let error = CommandError::new(format!("`{}` does not run, so it cannot be asked", vm.name()));
        return Err(error.kind(ErrorKind::VmNotRunning).hint("start it: banger -- true"));
    }
    let only: GuestOnly = Call::ask(&vm, &AgentRequest::GuestOnly)?;
    let more = (only.counts.files + only.counts.references).saturating_sub(only.named.len() as u64);
    if more > 0 {
        ui.status(&format!("and {more} more"));
    }
    Ok(Answer {
        vm: Some(vm.name().to_owned()),
        files: only.counts.files,
        references: only.counts.references,
        // Names are the guest's: no command to the terminal.
        named: only.named.iter().map(|path| printable(&path.0)).collect(),
    })
}
