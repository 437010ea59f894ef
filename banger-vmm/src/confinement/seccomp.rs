//! A filter of system calls, seccomp(2): for what Landlock does not reach, on any kernel. A call
//! that it forbids fails with EPERM.
//!
//! It names what is forbidden, since what a VMM and its libraries need differs from version to
//! version. QEMU's own filter (`-sandbox`) comes on top of it, once QEMU has started; that one also
//! ends who makes calls of the x32 interface.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// Forbidden whatever the arguments are.
const FORBIDDEN: &[libc::c_long] = &[
    // Sockets could be made and connected through it, past this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Who may do what with a file, and a file's length by its name: Landlock does not know the
    // first, and the second only from version 3 of its interface on.
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_chown,
    libc::SYS_fchown,
    libc::SYS_lchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_utimensat,
    libc::SYS_truncate,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Memory and messages of System V and POSIX, which are every process's of a user: X11 and
    // databases share theirs so.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // The user's keys in the kernel.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Interfaces that have often had holes, and namespaces, in which a user is root.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_open_by_handle_at,
];

/// What Firecracker's jailer does before it runs the VMM, whose own filter forbids it.
const OF_JAILER: &[libc::c_long] = &[
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_chown,
    libc::SYS_fchown,
    libc::SYS_mount,
    libc::SYS_pivot_root,
    libc::SYS_unshare,
];

/// What Landlock keeps a VMM from too, on kernels that have it: the names in a directory that it may
/// write to. Of a name that it could change, the supervisor would be led elsewhere.
const NAMES: &[libc::c_long] = &[
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

/// More of them, which Firecracker's jailer makes.
const MADE_NAMES: &[libc::c_long] =
    &[libc::SYS_mkdir, libc::SYS_mkdirat, libc::SYS_rmdir, libc::SYS_mknod, libc::SYS_mknodat];

/// A filter for a VMM that has a network, or none, and may make Unix sockets, or not. Without either
/// it makes no socket. With a network it makes sockets of the internet protocols. A Unix socket
/// leads to the session bus, the Docker daemon or an SSH agent, none of which Landlock keeps from
/// it before version 9 of its interface: only a root of its own does.
pub(super) fn filter(network: bool, unix_sockets: bool) -> io::Result<BpfProgram> {
    let forbidden = FORBIDDEN.iter().chain(NAMES).chain(MADE_NAMES).map(|&call| (call, Vec::new())).collect();
    with_sockets(forbidden, network, unix_sockets).map_err(io::Error::other)
}

/// A filter for the jailer and such a VMM, which the jailer runs: what the jailer does is allowed,
/// but for a user namespace, and what Landlock would forbid is not.
pub(super) fn jailer_filter(network: bool, unix_sockets: bool) -> io::Result<BpfProgram> {
    let build = || -> Result<BpfProgram, seccompiler::BackendError> {
        let forbidden = FORBIDDEN.iter().filter(|call| !OF_JAILER.contains(call)).chain(NAMES);
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = forbidden.map(|&call| (call, Vec::new())).collect();
        let user = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        let is_user = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(user), user)?;
        rules.insert(libc::SYS_unshare, vec![SeccompRule::new(vec![is_user])?]);
        with_sockets(rules, network, unix_sockets)
    };
    build().map_err(io::Error::other)
}

fn with_sockets(
    mut rules: BTreeMap<i64, Vec<SeccompRule>>,
    network: bool,
    unix_sockets: bool,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let is_not = |family: &libc::c_int| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(family.cast_unsigned()))
    };
    let internet = if network { &[libc::AF_INET, libc::AF_INET6][..] } else { &[] };
    let families = internet.iter().chain(unix_sockets.then_some(&libc::AF_UNIX));
    let others = families.map(is_not).collect::<Result<Vec<_>, _>>()?;
    // A rule without conditions is not a rule: no rules mean whatever the arguments are.
    let other_families = if others.is_empty() { Vec::new() } else { vec![SeccompRule::new(others)?] };
    rules.insert(libc::SYS_socket, other_families);
    // Both ends of a pair of datagram sockets can send to any other of the host; those of
    // streams cannot. The type is in the lower bits, flags are above.
    let is_datagram = SeccompCondition::new(
        1,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(0xf),
        u64::from(libc::SOCK_DGRAM.cast_unsigned()),
    );
    rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(vec![is_datagram?])?]);
    // A limit of processor time ends another process as a signal does.
    let is_other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0);
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![is_other?])?]);
    let forbidden = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, forbidden, TargetArch::x86_64)?.try_into()
}

/// Puts a filter in force for this process. It makes two system calls, and does not allocate.
pub(super) fn apply(filter: &BpfProgram) -> io::Result<()> {
    match apply_filter(filter) {
        Ok(()) => Ok(()),
        Err(Error::Prctl(error) | Error::Seccomp(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}
