//! Firecracker.

mod api;
