//! The supervisor: the process that owns one running VM.
//!
//! It is told what to start on its standard input, reports on its standard output how the start
//! goes, and then serves the VM's socket until the VM ends. The VMM dies with it, and it goes when
//! the VMM does:
//!
//! ```text
//!   detach ──► boot ──► monitor ──► tidy up, exit
//!               │         │ the agent is lost: failed, until somebody stops it
//!               └─────────┴ somebody wants it to stop; nobody has used it for long; the VMM ends
//! ```

mod boot;
mod daemon;
mod life;
mod monitor;
mod owner;
mod ports;
mod shutdown;
mod shutdown_requests;
mod snapshot;
mod socket;
mod state;
mod usage;
mod ways;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use nix::sys::prctl;

use crate::backend::{self, Backend};
use crate::error::{Failure, Result};
use crate::launch::{Launch, StartEvent};
use crate::program::Programs;
use crate::record::BackendKind;

/// The whole of the binary `banger-vmm`: returns when the VM is gone.
pub fn run() -> ExitCode {
    // Nothing that it starts has, or needs, more rights than it has itself.
    if prctl::set_no_new_privs().is_err() {
        return ExitCode::FAILURE;
    }
    run_with(&backend::find)
}

/// Like [`run`], but what QEMU would run is a process of this host: see
/// [`crate::backend::process`]. `agent` is the binary `banger-agent-process`.
#[cfg(feature = "process")]
pub fn run_as_processes(agent: std::path::PathBuf) -> ExitCode {
    run_with(&|kind, programs| match kind {
        BackendKind::Firecracker => backend::find(kind, programs),
        BackendKind::Qemu => Ok(Box::new(backend::process::Process { agent: agent.clone() })),
    })
}

/// Like [`run`], but QEMU's machines look like Firecracker's: see [`crate::backend::qemu::vsock`].
/// `device` is vhost-device-vsock.
#[cfg(feature = "vsock")]
pub fn run_with_vsock(device: std::path::PathBuf) -> ExitCode {
    run_with(&|kind, programs| match kind {
        BackendKind::Firecracker => backend::find(kind, programs),
        BackendKind::Qemu => {
            let qemu = backend::qemu::Qemu::find(programs)?;
            Ok(Box::new(backend::qemu::vsock::VsockQemu { qemu, device: device.clone() }))
        }
    })
}

/// Finds the backend for a kind, among these programs.
type FindBackend<'a> = &'a dyn Fn(BackendKind, &Programs) -> Result<Box<dyn Backend>>;

/// Does what waits for a disk or a process on a thread of its own: the supervisor's only thread
/// serves all streams.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down, and this with it.
        Err(_) => std::future::pending().await,
    }
}

fn run_with(find: FindBackend<'_>) -> ExitCode {
    let Ok((input, output)) = daemon::detach() else { return ExitCode::FAILURE };
    let mut report = StartReport(Some(output));
    match serde_json::from_slice::<Launch>(&input) {
        Ok(launch) => life::live(&launch, find, report),
        Err(error) => {
            let failure = Failure::new(format!("its supervisor was told what it does not understand: {error}"));
            report.send(&StartEvent::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

/// Where the start is reported, to the command that spawned the supervisor. If that has ended, the
/// VM starts all the same.
struct StartReport(Option<File>);

impl StartReport {
    fn send(&mut self, event: &StartEvent) {
        let Some(file) = &mut self.0 else { return };
        let mut line = serde_json::to_vec(event).expect("events have a JSON form");
        line.push(b'\n');
        if file.write_all(&line).is_err() {
            self.close();
        }
    }

    /// Ends the report.
    fn close(&mut self) {
        self.0 = None;
    }
}
