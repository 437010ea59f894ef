//! The supervisor of one VM. [`banger_vmm::Vm::start`] spawns it; it is not for people.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_vmm::supervisor::run()
}
