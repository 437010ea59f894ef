//! Landlock: the kernel's Documentation/userspace-api/landlock.rst, and landlock(7).
//!
//! What a kernel does not know of the rules is left out; [`super::Confinement`] says what that
//! means.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::ptr;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    make_bitflags, path_beneath_rules,
};
use nix::libc;

use super::Rules;

/// The version of the interface whose rights are asked for.
const KNOWN: ABI = ABI::V6;
/// The version of the interface that came with the scope of signals.
pub(super) const SIGNALS: u32 = 6;

/// The version of the interface that this kernel has; none: it has no Landlock, or it is switched
/// off.
pub(super) fn kernel_abi() -> Option<u32> {
    /// `LANDLOCK_CREATE_RULESET_VERSION` of landlock_create_ruleset(2): makes no rule set, and
    /// returns the version.
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no attributes.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0_usize, VERSION) };
    u32::try_from(abi).ok().filter(|abi| *abi > 0)
}

/// A set of rules that allows what `rules` names, and none of the rest that Landlock knows. None
/// where the kernel has no Landlock.
pub(super) fn ruleset(rules: &Rules) -> io::Result<Option<OwnedFd>> {
    let build = || -> Result<Option<OwnedFd>, RulesetError> {
        let read: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});
        let write: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate});
        let device: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
        let directory: BitFlags<AccessFs> =
            make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeSock});
        let tcp = if rules.network { AccessNet::BindTcp.into() } else { AccessNet::from_all(KNOWN) };
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(tcp)?
            .scope(Scope::from_all(KNOWN))?
            .create()?
            .add_rules(path_beneath_rules(&rules.readable, read))?
            .add_rules(path_beneath_rules(&rules.writable, write))?
            .add_rules(path_beneath_rules(&rules.devices, device))?
            .add_rules(path_beneath_rules(&rules.directories, directory))?;
        Ok(ruleset.into())
    };
    build().map_err(io::Error::other)
}

/// Puts a set of rules in force for this process. It makes one system call, and does not allocate.
pub(super) fn restrict(ruleset: RawFd) -> io::Result<()> {
    // SAFETY: the call takes a descriptor and no flags.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0_u32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
