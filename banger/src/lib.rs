//! The repository you stand in, run inside a microVM.

pub mod git;
