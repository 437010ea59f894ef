//! VMs: found, made, started and stopped ([`machine`]), in use ([`running`]), spoken to ([`agent`], [`guest_command`]),
//! and what is known of each.
//!
//! [`ownership`] knows whose a VM is, [`checkout`] which repositories are where in it,
//! [`unsynced`] what would be lost with it, and `post_mortem` what became of one that does not
//! answer any more. [`forwards`] has ports of this machine lead into one, and [`authorized_key`]
//! has an SSH server of the guest's own know its user.

pub mod agent;
pub mod authorized_key;
pub mod checkout;
pub mod forwards;
pub mod guest_command;
pub mod machine;
pub mod ownership;
pub(crate) mod post_mortem;
pub mod running;
#[cfg(test)]
pub(crate) mod test_host;
pub mod unsynced;
