//! The network devices of a VMM, in a network namespace: two taps, of the VMM and of what connects
//! it to other machines. Neither needs a capability to be opened.
//!
//! The namespace routes between them. A bridge would not do: what connects a guest to other machines
//! takes a packet to 127.0.0.1 or 0.0.0.0 for one to the host's own services, and no option of it
//! changes that. A router drops such packets ("martians": RFC 1812, section 5.3.7). It also drops what
//! the guest sends in another's name.

use std::ffi::CString;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use futures::StreamExt;
use nix::libc;
use nix::unistd::{Uid, geteuid};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{AfSpecInet, AfSpecUnspec, InetDevConf, LinkAttribute};
use rtnetlink::packet_route::neighbour_table::{
    NeighbourTableAttribute, NeighbourTableMessage, NeighbourTableParameter,
};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::{DEVICE, Obstacle, TAP, UPLINK, USER_NETWORK};

/// The router's own address, which it asks for others with (ARP). Nothing listens there.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 14);

fn cannot<E: Display>(action: &'static str) -> impl FnOnce(E) -> Obstacle {
    move |error| Obstacle::other(&format!("cannot {action}: {error}"))
}

/// Makes the devices, for a VMM of this user. To be called in the network namespace, with the right
/// to administer it.
pub(crate) fn make(vmm: Uid) -> Result<(), Obstacle> {
    // Nobody is to speak to this namespace's own stack. Where that cannot be said, nothing in it
    // listens all the same.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    make_tap(TAP, vmm)?;
    make_tap(UPLINK, geteuid())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(cannot("talk to the network stack"))?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(cannot("talk to the network stack"))?;
        tokio::spawn(connection);
        connect(&handle).await
    })
}

async fn connect(handle: &Handle) -> Result<(), Obstacle> {
    let (tap, uplink) = (index(TAP)?, index(UPLINK)?);
    for index in [tap, uplink] {
        // It answers for the machines at the other side, whom both sides take for neighbours: proxy
        // ARP, RFC 1027. A packet from where its answer would not go is dropped: RFC 3704.
        let mut config = InetDevConf::default();
        (config.forwarding, config.proxy_arp, config.rp_filter) = (1, 1, 1);
        let config = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(config)]);
        let link = LinkUnspec::new_with_index(index).up();
        let link = link.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![config])).build();
        handle.link().set(link).execute().await.map_err(cannot("make a tap route"))?;
        let address = handle.address().add(index, ROUTER.into(), 32);
        address.execute().await.map_err(cannot("give a tap an address"))?;
        // Without this, an answer takes up to 0.8 seconds, and comes.
        let _ = answer_at_once(&mut handle.clone(), index).await;
    }
    let network = USER_NETWORK.gateway;
    for (address, prefix, device) in [(USER_NETWORK.address, 32, tap), (network, USER_NETWORK.prefix, uplink)] {
        let network = Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - u32::from(prefix))));
        let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(network, prefix);
        let route = route.output_interface(device).scope(RouteScope::Link).build();
        handle.route().add(route).execute().await.map_err(cannot("add a route"))?;
    }
    let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(USER_NETWORK.gateway).output_interface(uplink);
    handle.route().add(default.build()).execute().await.map_err(cannot("add the default route"))
}

/// Has a device answer for others without delay: `proxy_delay` of arp(7), which in a user namespace
/// has no file.
async fn answer_at_once(handle: &mut Handle, index: u32) -> Result<(), rtnetlink::Error> {
    let mut table = NeighbourTableMessage::default();
    table.header.family = AddressFamily::Inet;
    let parameters = vec![NeighbourTableParameter::Ifindex(index), NeighbourTableParameter::ProxyDelay(0)];
    table.attributes =
        vec![NeighbourTableAttribute::Name("arp_cache".into()), NeighbourTableAttribute::Parms(parameters)];
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::SetNeighbourTable(table));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = handle.request(message)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
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

/// Makes a tap that stays, and that a user may open: Documentation/networking/tuntap.rst of
/// Linux.
fn make_tap(name: &str, user: Uid) -> Result<(), Obstacle> {
    let device = open_tap(name)?;
    control(&device, libc::TUNSETOWNER, user.as_raw().into())?;
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
