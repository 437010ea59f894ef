//! Waiting for the kernel to announce devices.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};

use super::BootError;

/// The kernel's own multicast group; group 2 carries what udev makes of it.
const KERNEL_GROUP: u32 = 1;

/// How long a device may take to appear. They all exist before the guest starts, so only a
/// configuration without the device comes near this.
const DEADLINE: Duration = Duration::from_secs(10);

/// A subscription to the kernel's device events (`netlink(7)`, `NETLINK_KOBJECT_UEVENT`).
pub(super) struct Uevents(OwnedFd);

impl Uevents {
    /// Subscribes. Done before the modules are loaded, so that no event is missed.
    pub(super) fn subscribe() -> Result<Self, BootError> {
        let failed = |source| BootError::Uevents { source };
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )
        .map_err(failed)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP)).map_err(failed)?;
        Ok(Uevents(socket))
    }

    /// Calls `find` now and after every event, until it finds `what` or the deadline passes.
    ///
    /// The events only say *when* to look: what is there is read from sysfs, so that one lost to
    /// a full queue does no harm.
    pub(super) fn wait_for<T>(&self, what: &str, mut find: impl FnMut() -> Option<T>) -> Result<T, BootError> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = find() {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BootError::NoDevice(what.to_owned()));
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, timeout) {
                Ok(_) | Err(Errno::EINTR) => self.drain(),
                Err(source) => return Err(BootError::Uevents { source }),
            }
        }
    }

    fn drain(&self) {
        let mut event = [0; 1];
        // ENOBUFS says that events were dropped: there may be more behind it.
        while matches!(recv(self.0.as_raw_fd(), &mut event, MsgFlags::empty()), Ok(_) | Err(Errno::ENOBUFS)) {}
    }
}
