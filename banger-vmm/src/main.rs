//! The supervisor of one VM. [`banger_vmm::Vm::start`] spawns it; it is not for people.

use std::env;
use std::process::ExitCode;

use banger_vmm::{CONFINE, kvm, network};

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some(kvm::PROBE) => kvm::run_probe(),
        Some(network::PROBE) => banger_vmm::run_network_probe(),
        Some(CONFINE) => banger_vmm::run_launcher(),
        _ => banger_vmm::supervisor::run(),
    }
}
