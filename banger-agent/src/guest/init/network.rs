//! `lo` and `eth0`, over rtnetlink: the image may have no `ip`.

use std::net::Ipv4Addr;
use std::path::Path;

use futures::TryStreamExt;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::BootError;
use crate::net::NetInterface;

/// The only network card of a VM.
pub(super) const INTERFACE: &str = "eth0";

/// The kernel always makes `lo` first.
const LOOPBACK_INDEX: u32 = 1;

/// Brings `lo` up, and `eth0` with its address and route if there is a network.
///
/// The runtime has one thread, this one, and is gone on return: a fork comes next.
pub(super) fn configure(net: Option<NetInterface>) -> Result<(), BootError> {
    with_netlink(async |handle| {
        up(&handle, LOOPBACK_INDEX, "bring up lo").await?;
        match net {
            Some(net) => configure_interface(&handle, net).await,
            None => Ok(()),
        }
    })
}

/// Gives `eth0` another address and route, or takes them away. Blocks, outside of a runtime.
pub(super) fn reconfigure(from: Option<NetInterface>, to: Option<NetInterface>) -> Result<(), BootError> {
    with_netlink(async |handle| {
        if let Some(from) = from {
            remove_address(&handle, from).await?;
        }
        match to {
            Some(net) => configure_interface(&handle, net).await,
            None => Ok(()),
        }
    })
}

fn with_netlink(work: impl AsyncFnOnce(Handle) -> Result<(), BootError>) -> Result<(), BootError> {
    let failed = |source: std::io::Error| BootError::System {
        action: "talk to the network stack",
        source: nix::Error::try_from(source).unwrap_or(nix::Error::EIO),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        tokio::spawn(connection);
        work(handle).await
    })
}

/// Removes an address of `eth0`, if it is there. With the last one go the card's routes.
async fn remove_address(handle: &Handle, net: NetInterface) -> Result<(), BootError> {
    let failed = "take eth0's address";
    let addresses = handle.address().get().set_link_index_filter(interface_index()?);
    let addresses = addresses.set_address_filter(net.address.into()).set_prefix_length_filter(net.prefix).execute();
    let addresses: Vec<_> = addresses.try_collect().await.map_err(network(failed))?;
    for address in addresses {
        handle.address().del(address).execute().await.map_err(network(failed))?;
    }
    Ok(())
}

async fn configure_interface(handle: &Handle, net: NetInterface) -> Result<(), BootError> {
    let index = interface_index()?;
    up(handle, index, "bring up eth0").await?;
    handle
        .address()
        .add(index, net.address.into(), net.prefix)
        .execute()
        .await
        .map_err(network("give eth0 its address"))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(net.gateway).build();
    // Another address of the user's may have kept the former route.
    handle.route().add(route).replace().execute().await.map_err(network("set the default route"))
}

async fn up(handle: &Handle, index: u32, action: &'static str) -> Result<(), BootError> {
    let link = LinkUnspec::new_with_index(index).up().build();
    let set = handle.link().set(link).execute().await;
    set.map_err(network(action))
}

fn interface_index() -> Result<u32, BootError> {
    let path = Path::new("/sys/class/net").join(INTERFACE).join("ifindex");
    let read = std::fs::read_to_string(&path);
    let index = read.and_then(|text| text.trim().parse().map_err(std::io::Error::other));
    index.map_err(BootError::io("read", &path))
}

fn network(action: &'static str) -> impl FnOnce(rtnetlink::Error) -> BootError {
    move |source| BootError::Network { action, source: Box::new(source) }
}
