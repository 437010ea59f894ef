//! As much of Firecracker's API as a supervisor needs: one file for each resource, as in
//! Firecracker's `vmm_config`, with the names of its schema (`firecracker.yaml`).
//!
//! Firecracker refuses a body with a field that it does not know, so a field that came with a later
//! [`Version`] is left out for an earlier one. The schemas of the versions are in
//! `tests/data/firecracker`.

mod actions;
mod balloon;
mod boot_source;
mod client;
mod drive;
mod entropy;
mod machine_config;
mod network_interface;
mod rate_limiter;
mod request;
mod snapshot;
mod version;
mod vm;
mod vsock;

pub(super) use actions::Action;
pub(super) use balloon::Balloon;
pub(super) use boot_source::BootSource;
pub(super) use client::{ApiError, Client};
pub(super) use drive::{CacheType, Drive};
pub(super) use entropy::EntropyDevice;
pub(super) use machine_config::MachineConfiguration;
pub(super) use network_interface::NetworkInterface;
pub(super) use rate_limiter::{RateLimiter, TokenBucket};
pub(super) use request::Request;
pub(super) use snapshot::{SnapshotCreateParams, SnapshotLoadParams};
pub(super) use version::Version;
pub(super) use vm::VmState;
pub(super) use vsock::Vsock;

#[cfg(test)]
mod schema_tests;
