//! A supervisor of guests on machines that look like Firecracker's, with vhost-device-vsock beside
//! it. Never installed but by tests, as `banger-vmm`.

use std::env;
use std::process::ExitCode;

use banger_vmm::kvm;

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(kvm::PROBE) {
        return kvm::run_probe();
    }
    let device = env::current_exe().map(|own| own.with_file_name("vhost-device-vsock"));
    device.map_or(ExitCode::FAILURE, banger_vmm::supervisor::run_with_vsock)
}
