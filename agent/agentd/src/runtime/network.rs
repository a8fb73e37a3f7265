//! A container's interface: a veth pair from a bridge of the host to `eth0` in the container.
//!
//! The host's end vanishes with the container's network namespace.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags},
        link::{InfoData, InfoVeth, LinkMessage},
    },
};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Mutex, oneshot},
    task::JoinHandle,
};

use super::driver::{DriverError, one_line};
use crate::config::Network;

/// The interface's name in the container.
const INSIDE: &str = "eth0";

/// The name of the host's end: 15 bytes, of which 52 bits tell containers and instances apart.
pub(super) fn interface_name(instance: &str, container: &str) -> String {
    let hash = hash(instance, container);
    hash.iter().take(7).fold(String::from("rm"), |name, byte| format!("{name}{byte:02x}"))[..15].to_owned()
}

/// The hardware address of a bridge, or of whoever has an address, locally administered. It goes with the address: neighbours
/// would talk to the container that had it before until their caches expire.
fn mac(instance: &str, name: &str) -> Vec<u8> {
    let mut mac = hash(instance, name)[..6].to_vec();
    mac[0] = mac[0] & 0xfc | 0x02;
    mac
}

fn hash(instance: &str, name: &str) -> [u8; 32] {
    // Neither name can hold the zero byte that keeps them apart.
    Sha256::new().chain_update(instance).chain_update([0]).chain_update(name).finalize().into()
}

/// Gives the network namespace of `pid` its interface; makes the bridge if it is not there.
pub(super) async fn attach(
    instance: &str,
    container: &str,
    pid: u32,
    network: &Network,
    bridges: &Mutex<()>,
) -> Result<(), DriverError> {
    let path = format!("/proc/{pid}/ns/net");
    let netns: OwnedFd = File::open(&path).map_err(DriverError::io("open", path))?.into();
    let netlink = Netlink::open()?;
    let (address, length) = network
        .prefix()
        .ok_or_else(|| failed("understand the address", format!("\"{}\" is not ADDRESS/LENGTH", network.address)))?;
    let bridge = {
        let _one_at_a_time = bridges.lock().await;
        netlink.bridge(network, length, mac(instance, &network.bridge)).await?
    };
    let interface = interface_name(instance, container);
    let peer = || {
        LinkMessageBuilder::<LinkUnspec>::new()
            .name(INSIDE)
            .address(mac(instance, &address.to_string()))
            .setns_by_fd(netns.as_raw_fd())
            .build()
    };
    netlink.veth(&interface, bridge, &network.bridge, peer).await?;
    in_netns(netns, address, length, network.gateway).await
}

/// Removes interfaces by name; those that are not there are no error.
pub(super) async fn remove(interfaces: &[String]) -> Result<(), DriverError> {
    let netlink = Netlink::open()?;
    for interface in interfaces {
        netlink.remove(interface).await?;
    }
    Ok(())
}

/// A netlink socket in the network namespace of the thread that opens it.
struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    fn open() -> Result<Self, DriverError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(DriverError::io("open", "a netlink socket"))?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    async fn index(&self, interface: &str) -> Result<Option<u32>, DriverError> {
        let links = self.handle.link().get().match_name(interface).execute();
        match std::pin::pin!(links).try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is(&error, nix::errno::Errno::ENODEV) => Ok(None),
            Err(error) => Err(refused(format!("look for {interface}"), &error)),
        }
    }

    async fn must_index(&self, interface: &str) -> Result<u32, DriverError> {
        let index = self.index(interface).await?;
        index.ok_or_else(|| failed(format!("find {interface}"), "it is not there".into()))
    }

    async fn up(&self, index: u32, name: &str) -> Result<(), DriverError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(|e| refused(format!("set {name} up"), &e))
    }

    async fn bridge(&self, network: &Network, length: u8, mac: Vec<u8>) -> Result<u32, DriverError> {
        let name = &network.bridge;
        let index = match self.index(name).await? {
            Some(index) => index,
            None => {
                // Without an address of its own it would take that of a port, and change it as ports come and go.
                let message = LinkBridge::new(name).address(mac).up().build();
                let made = self.handle.link().add(message).execute().await;
                match made {
                    // Another agent of this host may have been faster.
                    Err(error) if !is(&error, nix::errno::Errno::EEXIST) => {
                        return Err(refused(format!("make bridge {name}"), &error));
                    }
                    _ => self.must_index(name).await?,
                }
            }
        };
        if let Some(gateway) = network.gateway {
            self.address(index, gateway, length, name).await?;
        }
        Ok(index)
    }

    async fn address(&self, index: u32, address: IpAddr, length: u8, name: &str) -> Result<(), DriverError> {
        let mut request = self.handle.address().add(index, address, length);
        if address.is_ipv6() {
            // We know that it is there once; waiting for duplicates would delay the first connection by a second.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        match request.execute().await {
            Err(error) if !is(&error, nix::errno::Errno::EEXIST) => {
                Err(refused(format!("give {name} the address {address}/{length}"), &error))
            }
            _ => Ok(()),
        }
    }

    async fn veth(
        &self,
        name: &str,
        bridge: u32,
        bridge_name: &str,
        peer: impl Fn() -> LinkMessage,
    ) -> Result<(), DriverError> {
        let message = || {
            LinkVeth::new(name, INSIDE)
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer())))
                .controller(bridge)
                .up()
                .build()
        };
        let what = || format!("make veth {name} on bridge {bridge_name}");
        match self.handle.link().add(message()).execute().await {
            // Of the container's last life: its namespace is still being taken down.
            Err(error) if is(&error, nix::errno::Errno::EEXIST) => {
                self.remove(name).await?;
                self.handle.link().add(message()).execute().await.map_err(|error| refused(what(), &error))
            }
            result => result.map_err(|error| refused(what(), &error)),
        }
    }

    async fn remove(&self, name: &str) -> Result<(), DriverError> {
        let Some(index) = self.index(name).await? else { return Ok(()) };
        match self.handle.link().del(index).execute().await {
            Err(error) if !is(&error, nix::errno::Errno::ENODEV) => Err(refused(format!("remove {name}"), &error)),
            _ => Ok(()),
        }
    }

    async fn inside(&self, address: IpAddr, length: u8, gateway: Option<IpAddr>) -> Result<(), DriverError> {
        let (lo, eth0) = (self.must_index("lo").await?, self.must_index(INSIDE).await?);
        self.up(lo, "lo").await?;
        self.address(eth0, address, length, INSIDE).await?;
        self.up(eth0, INSIDE).await?;
        let route = match gateway {
            None => return Ok(()),
            Some(IpAddr::V4(gateway)) => RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(gateway).build(),
            Some(IpAddr::V6(gateway)) => RouteMessageBuilder::<std::net::Ipv6Addr>::new().gateway(gateway).build(),
        };
        let added = self.handle.route().add(route).execute().await;
        added.map_err(|error| refused("add the default route".into(), &error))
    }
}

/// Configures the container's end on a thread that enters its namespace and ends there.
async fn in_netns(netns: OwnedFd, address: IpAddr, length: u8, gateway: Option<IpAddr>) -> Result<(), DriverError> {
    let (sender, receiver) = oneshot::channel();
    let work = move || -> Result<(), DriverError> {
        setns(&netns, CloneFlags::CLONE_NEWNET)
            .map_err(|e| failed("enter the container's namespace", e.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.map_err(DriverError::io("make", "an event loop"))?;
        runtime.block_on(async { Netlink::open()?.inside(address, length, gateway).await })
    };
    let thread = std::thread::Builder::new().name("netns".into()).spawn(move || {
        // Nobody listens if the start was given up.
        let _ = sender.send(work());
    });
    thread.map_err(DriverError::io("start", "a thread"))?;
    receiver.await.unwrap_or_else(|_| Err(failed("configure the container's interface", "the thread ended".into())))
}

fn is(error: &rtnetlink::Error, errno: nix::errno::Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -(errno as i32))
}

fn refused(what: String, error: &rtnetlink::Error) -> DriverError {
    let message = if let rtnetlink::Error::NetlinkError(message) = error {
        message.to_io().to_string()
    } else {
        error.to_string()
    };
    failed(what, message)
}

fn failed(what: impl Into<String>, message: String) -> DriverError {
    DriverError::Network { what: what.into(), message: one_line(&message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_are_short_stable_and_apart() {
        let name = interface_name("lab-h1", "web");
        assert_eq!(name.len(), 15);
        assert_eq!(name, interface_name("lab-h1", "web"));
        let others =
            [interface_name("lab-h2", "web"), interface_name("lab-h1", "web2"), interface_name("lab-h1w", "eb")];
        assert!(others.iter().all(|other| *other != name));
    }

    #[test]
    fn hardware_addresses_are_local_and_of_one_station() {
        for name in ["a", "b", "c", "d", "e", "f"] {
            let mac = mac("lab-h1", name);
            assert_eq!((mac.len(), mac[0] & 0x03), (6, 0x02));
            assert_ne!(mac, super::mac("lab-h2", name));
        }
    }
}
