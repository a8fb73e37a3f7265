//! The lab's networks in switched mode: two bridges in one namespace, and a cable from each to every host.
//!
//! Every host knows the hardware address of every other from the start: namespaces share the kernel's one neighbour
//! table, and learnt entries overflow it. The interfaces do no ARP, so that none can be lost to a fault either. A cut
//! takes the switch's port out of its bridge. Frames are then lost in both directions and the carrier stays up, which
//! is the harder case for the agents; unlike a port set to "disabled" it also stays cut when a carrier comes and goes.

use std::{fs, io, net::Ipv4Addr, os::fd::AsRawFd};

use ringmesh_proto::Uplink;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::{
    error::LabError,
    netlink::{Batch, Intent},
    netns,
    plan::{self, HostNumber},
};

/// Makes the namespace with the two bridges.
pub(super) fn create_switch(lab: &str) -> Result<(), LabError> {
    let name = plan::switch_netns(lab);
    netns::create(&name, || {
        set_ipv6(false);
        let mut batch = Batch::default();
        for uplink in Uplink::BOTH {
            batch.push(new_bridge(uplink), Intent::Create);
        }
        batch.execute()
    })
    .map_err(LabError::system(format!("make namespace {name} with two bridges")))
}

/// Makes a host's namespace, with a cable from each bridge to it. `all` are the hosts that it is to know.
pub(super) fn create_host(lab: &str, host: HostNumber, all: &[HostNumber]) -> Result<(), LabError> {
    let name = host.netns(lab);
    let make = || {
        let switch = fs::File::open(netns::path(&plan::switch_netns(lab)))?;
        netns::create(&name, || {
            // Without addresses that nobody asked for, there is no traffic that nobody asked for.
            set_ipv6(false);
            let mut batch = Batch::default();
            batch.push(up(1), Intent::Change);
            for uplink in Uplink::BOTH {
                batch.push(new_cable(host, uplink, &switch), Intent::Create);
                batch.push(new_address(host, uplink), Intent::Create);
            }
            for other in all.iter().filter(|other| **other != host) {
                push_neighbour(&mut batch, *other);
            }
            batch.execute()?;
            set_ipv6(true);
            Ok(())
        })
    };
    make().map_err(LabError::system(format!("make namespace {name} with two uplinks")))
}

/// Tells a host of another that was made later.
pub(super) fn introduce(lab: &str, host: HostNumber, newcomer: HostNumber) -> Result<(), LabError> {
    let name = host.netns(lab);
    netns::enter(&name, || {
        let mut batch = Batch::default();
        push_neighbour(&mut batch, newcomer);
        batch.execute()
    })
    .map_err(LabError::system(format!("add a neighbour in namespace {name}")))
}

/// Plugs hosts into, or pulls them out of, the bridges of `uplinks`. What is so already stays so.
pub(super) fn connect(lab: &str, hosts: &[HostNumber], uplinks: &[Uplink], plugged: bool) -> Result<(), LabError> {
    let name = plan::switch_netns(lab);
    netns::enter(&name, || {
        let mut batch = Batch::default();
        for host in hosts {
            for uplink in uplinks {
                let bridge = if plugged { plan::bridge(*uplink) } else { 0 };
                let mut link = up_message(host.port(*uplink));
                link.attributes.push(LinkAttribute::Controller(bridge));
                batch.push(RouteNetlinkMessage::SetLink(link), Intent::Change);
            }
        }
        batch.execute()
    })
    .map_err(LabError::system(format!("change the bridges in namespace {name}")))
}

/// Sets the switch's port to a host up or down: the other end of that cable, the host's, has a carrier or none.
pub(super) fn carry(lab: &str, host: HostNumber, uplink: Uplink, carrier: bool) -> Result<(), LabError> {
    let name = plan::switch_netns(lab);
    netns::enter(&name, || {
        let mut link = up_message(host.port(uplink));
        if !carrier {
            link.header.flags.remove(LinkFlags::Up);
        }
        let mut batch = Batch::default();
        batch.push(RouteNetlinkMessage::SetLink(link), Intent::Change);
        batch.execute()
    })
    .map_err(LabError::system(format!("change a port in namespace {name}")))
}

fn new_bridge(uplink: Uplink) -> RouteNetlinkMessage {
    let mut link = up_message(plan::bridge(uplink));
    link.attributes = vec![
        LinkAttribute::IfName(plan::bridge_name(uplink)),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::ForwardDelay(0), InfoBridge::MulticastSnooping(false)])),
        ]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

fn new_cable(host: HostNumber, uplink: Uplink, switch: &fs::File) -> RouteNetlinkMessage {
    // The kernel refuses a peer that is to be up at once; it comes up when it is plugged in.
    let mut port = LinkMessage::default();
    port.header.index = host.port(uplink);
    port.attributes = vec![
        LinkAttribute::IfName(host.port_name(uplink)),
        LinkAttribute::Address(host.port_mac(uplink).to_vec()),
        LinkAttribute::NetNsFd(switch.as_raw_fd()),
    ];
    let mut link = up_message(HostNumber::interface(uplink));
    link.header.flags |= LinkFlags::Noarp;
    link.header.change_mask |= LinkFlags::Noarp;
    link.attributes = vec![
        LinkAttribute::IfName(plan::interface_name(uplink)),
        LinkAttribute::Address(host.mac(uplink).to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(port))),
        ]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

fn new_address(host: HostNumber, uplink: Uplink) -> RouteNetlinkMessage {
    let own = host.address(uplink);
    let [a, b, c, _] = own.octets();
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = 24;
    address.header.index = HostNumber::interface(uplink);
    address.attributes = vec![
        AddressAttribute::Local(own.into()),
        AddressAttribute::Address(own.into()),
        AddressAttribute::Broadcast(Ipv4Addr::new(a, b, c, 255)),
    ];
    RouteNetlinkMessage::NewAddress(address)
}

fn push_neighbour(batch: &mut Batch, other: HostNumber) {
    for uplink in Uplink::BOTH {
        let mut neighbour = NeighbourMessage::default();
        neighbour.header.family = AddressFamily::Inet;
        neighbour.header.ifindex = HostNumber::interface(uplink);
        neighbour.header.state = NeighbourState::Permanent;
        neighbour.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(other.address(uplink))),
            NeighbourAttribute::LinkLayerAddress(other.mac(uplink).to_vec()),
        ];
        batch.push(RouteNetlinkMessage::NewNeighbour(neighbour), Intent::Put);
    }
}

fn up(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(up_message(index))
}

fn up_message(index: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

/// Whether interfaces that are made from now on in the calling thread's namespace have IPv6. A kernel without IPv6 has
/// no such file, and needs none.
fn set_ipv6(enabled: bool) {
    let value = if enabled { "0" } else { "1" };
    let written: io::Result<()> = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", value);
    if let Err(error) = written {
        tracing::debug!(%error, "IPv6 of new interfaces is left as it is");
    }
}
