//! The network devices of a VMM, in a network namespace: two taps, of the VMM and of what connects
//! it to other machines, and a bridge between them. None of them needs a capability to be opened.

use std::ffi::CString;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::unistd::geteuid;
use rtnetlink::{Handle, LinkBridge, LinkUnspec};

use super::{DEVICE, Obstacle, TAP, UPLINK};

const BRIDGE: &str = "br0";

fn cannot<E: Display>(action: &'static str) -> impl FnOnce(E) -> Obstacle {
    move |error| Obstacle::other(&format!("cannot {action}: {error}"))
}

/// Makes the devices. To be called in the network namespace, with the right to administer it.
pub(crate) fn make() -> Result<(), Obstacle> {
    // Nobody is to speak to this namespace's own stack. Where that cannot be said, nothing in it
    // listens all the same.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    for name in [TAP, UPLINK] {
        make_tap(name)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(cannot("talk to the network stack"))?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(cannot("talk to the network stack"))?;
        tokio::spawn(connection);
        connect(&handle).await
    })
}

async fn connect(handle: &Handle) -> Result<(), Obstacle> {
    handle.link().add(LinkBridge::new(BRIDGE).build()).execute().await.map_err(|error| Obstacle::no_bridge(&error))?;
    let bridge = index(BRIDGE)?;
    for name in [TAP, UPLINK] {
        let link = LinkUnspec::new_with_index(index(name)?).controller(bridge).up().build();
        handle.link().set(link).execute().await.map_err(cannot("add a tap to the bridge"))?;
    }
    Ok(())
}

fn index(name: &str) -> Result<u32, Obstacle> {
    let name = CString::new(name).map_err(cannot("name a device"))?;
    // SAFETY: the name outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(cannot("find a device")(io::Error::last_os_error())),
        index => Ok(index),
    }
}

/// Makes a tap that stays, and that this user may open: Documentation/networking/tuntap.rst of
/// Linux.
fn make_tap(name: &str) -> Result<(), Obstacle> {
    let device = open_tap(name)?;
    control(&device, libc::TUNSETOWNER, geteuid().as_raw().into())?;
    control(&device, libc::TUNSETPERSIST, 1)
}

/// Opens a tap, and makes it where there is none.
pub(crate) fn open_tap(name: &str) -> Result<File, Obstacle> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| Obstacle::no_tun(&error))?;
    // SAFETY: all of it is numbers and bytes, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    control(&device, libc::TUNSETIFF, (&raw mut request).addr() as libc::c_ulong)?;
    Ok(device)
}

fn control(device: &File, request: libc::Ioctl, argument: libc::c_ulong) -> Result<(), Obstacle> {
    // SAFETY: `TUNSETIFF` takes a pointer to an `ifreq`, which outlives the call, and the others
    // take numbers.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), request, argument) };
    if done == -1 { Err(cannot("make a tap")(io::Error::last_os_error())) } else { Ok(()) }
}
