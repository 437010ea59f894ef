//! Places in the guest that both its start and the agent's operations know.

/// The directory on the disk that holds the workspace. It is made below `/run`, which comes along
/// into the guest's root.
pub(super) const WORKSPACE: &str = "/run/banger/workspace";
/// The directory in which the agent keeps additional workspaces, each in a directory of its own.
pub(super) const REPOSITORIES: &str = "/run/banger/repositories";
