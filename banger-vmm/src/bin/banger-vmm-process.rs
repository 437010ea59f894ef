//! A supervisor of guests that are processes of this host, with the agent beside it. Never
//! installed but by tests, as `banger-vmm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let agent = std::env::current_exe().map(|own| own.with_file_name("banger-agent"));
    agent.map_or(ExitCode::FAILURE, banger_vmm::supervisor::run_as_processes)
}
