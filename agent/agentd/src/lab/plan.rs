//! Names, addresses and indexes of everything in a lab, computed from the lab's name and a host's number.
//!
//! Nothing is looked up and nothing is drawn by lot, so that any command can find its way with the name alone:
//!
//! ```text
//! namespace rm-LAB-sw                        namespace rm-LAB-hI
//!   br-a  ── hI-a ═══ veth ═══ up-a  10.77.0.I/24
//!   br-b  ── hI-b ═══ veth ═══ up-b  10.78.0.I/24
//!                                   ct0   10.200.I.1/24 ── container hI-cJ  10.200.I.(J+1)
//! ```

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use ringmesh_proto::Uplink;

/// The most hosts of a lab: its addresses and the neighbour table of one kernel allow no more at ease.
pub const MAX_HOSTS: u16 = 64;

/// The most containers of a host in a lab.
pub const MAX_CONTAINERS: u16 = 64;

/// Where records of labs are kept, and the files of labs that name no directory.
pub(super) const LABS: &str = "/run/ringmesh/labs";

/// The lab that is meant when none is named and none is there.
pub const DEFAULT_NAME: &str = "lab";

/// The bridge in a host's namespace that its containers are attached to.
pub(super) const CONTAINER_BRIDGE: &str = "ct0";

/// A host of a lab: 1 to [`MAX_HOSTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct HostNumber(u8);

impl HostNumber {
    /// `None` when it is out of range.
    pub(super) fn new(number: u16) -> Option<Self> {
        (1..=MAX_HOSTS).contains(&number).then_some(Self(number as u8))
    }

    /// The first `count`, at most [`MAX_HOSTS`].
    pub(super) fn first(count: u16) -> impl Iterator<Item = Self> {
        (1..=count).map_while(Self::new)
    }

    /// Reads "h7".
    pub(super) fn parse(name: &str) -> Option<Self> {
        let number = name.strip_prefix('h')?;
        let canonical = !number.starts_with(['0', '+']);
        number.parse().ok().filter(|_| canonical).and_then(Self::new)
    }

    /// 1 to [`MAX_HOSTS`].
    pub(super) fn get(self) -> u16 {
        self.0.into()
    }

    /// "h7".
    pub(super) fn name(self) -> String {
        format!("h{}", self.0)
    }

    /// Its zone in a lab of so many: "default" if there is only one, else "z1" and so on, in turn.
    pub(super) fn zone(self, zones: u16) -> String {
        if zones <= 1 { "default".into() } else { format!("z{}", (self.get() - 1) % zones + 1) }
    }

    /// Its namespace, as under /run/netns.
    pub(super) fn netns(self, lab: &str) -> String {
        format!("{}h{}", netns_prefix(lab), self.0)
    }

    /// Its directory below the lab's.
    pub(super) fn dir(self, lab_dir: &Path) -> PathBuf {
        lab_dir.join(self.name())
    }

    /// Its configuration.
    pub(super) fn config(self, lab_dir: &Path) -> PathBuf {
        self.dir(lab_dir).join("agent.toml")
    }

    /// What its agent must keep.
    pub(super) fn state_dir(self, lab_dir: &Path) -> PathBuf {
        self.dir(lab_dir).join("state")
    }

    /// What its agent prints.
    pub(super) fn log(self, lab_dir: &Path) -> PathBuf {
        self.dir(lab_dir).join("agent.log")
    }

    /// The unix socket of its API.
    pub(super) fn socket(self, lab_dir: &Path) -> PathBuf {
        self.dir(lab_dir).join("agent.sock")
    }

    /// Its API, as `--host` takes it.
    pub(super) fn api(self, lab_dir: &Path) -> String {
        format!("unix:{}", self.socket(lab_dir).display())
    }

    /// Its address on an uplink's segment, which is a /24.
    pub(super) fn address(self, uplink: Uplink) -> Ipv4Addr {
        let second = match uplink {
            Uplink::A => 77,
            Uplink::B => 78,
        };
        Ipv4Addr::new(10, second, 0, self.0)
    }

    /// Its hardware address on an uplink: locally administered, "rm" in the second and third byte.
    pub(super) fn mac(self, uplink: Uplink) -> [u8; 6] {
        [0x02, b'r', b'm', 0, uplink.index() as u8, self.0]
    }

    /// The hardware address of the switch's port to it.
    pub(super) fn port_mac(self, uplink: Uplink) -> [u8; 6] {
        [0x02, b'r', b'm', 1, uplink.index() as u8, self.0]
    }

    /// The interface index of an uplink in its namespace, where `lo` is 1.
    pub(super) fn interface(uplink: Uplink) -> u32 {
        2 + uplink.index() as u32
    }

    /// The interface index of the switch's port to it.
    pub(super) fn port(self, uplink: Uplink) -> u32 {
        10 + 2 * u32::from(self.0) + uplink.index() as u32
    }

    /// The name of the switch's port to it.
    pub(super) fn port_name(self, uplink: Uplink) -> String {
        format!("h{}-{uplink}", self.0)
    }

    /// The address of its container bridge, which its containers have as gateway.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, self.0, 1)
    }

    /// The address of its `nth` container, counted from 1, in a /24.
    pub(super) fn container_address(self, nth: u16) -> Ipv4Addr {
        debug_assert!((1..=MAX_CONTAINERS).contains(&nth), "checked when the lab was asked for");
        Ipv4Addr::new(10, 200, self.0, nth as u8 + 1)
    }

    /// The name of its `nth` container, counted from 1.
    pub(super) fn container_name(self, nth: u16) -> String {
        format!("h{}-c{nth}", self.0)
    }
}

/// The interface index of an uplink's bridge in the switch's namespace.
pub(super) fn bridge(uplink: Uplink) -> u32 {
    2 + uplink.index() as u32
}

/// The name of an uplink's interface in a host's namespace.
pub(super) fn interface_name(uplink: Uplink) -> String {
    format!("up-{uplink}")
}

/// The name of an uplink's bridge.
pub(super) fn bridge_name(uplink: Uplink) -> String {
    format!("br-{uplink}")
}

/// The namespace that holds the two bridges.
pub(super) fn switch_netns(lab: &str) -> String {
    format!("{}sw", netns_prefix(lab))
}

/// Whether a name under /run/netns belongs to this lab. Not by prefix alone: "x" and "x-h1" are both names of labs.
pub(super) fn is_netns_of(lab: &str, netns: &str) -> bool {
    netns.strip_prefix(&netns_prefix(lab)).is_some_and(|rest| rest == "sw" || HostNumber::parse(rest).is_some())
}

/// The last argument of a container's first process, by which it is known without asking its agent.
pub(super) fn container_mark(lab: &str, container: &str) -> String {
    format!("ringmesh-lab={lab}/{container}")
}

/// The directory that holds the record of a lab.
pub(super) fn record_dir(lab: &str) -> PathBuf {
    Path::new(LABS).join(lab)
}

fn netns_prefix(lab: &str) -> String {
    format!("rm-{lab}-")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nothing_is_given_twice() {
        let mut addresses = BTreeSet::new();
        let mut macs = BTreeSet::new();
        let mut ports = BTreeSet::from([1, bridge(Uplink::A), bridge(Uplink::B)]);
        for host in HostNumber::first(MAX_HOSTS) {
            for uplink in Uplink::BOTH {
                assert!(addresses.insert(host.address(uplink)));
                assert!(macs.insert(host.mac(uplink)) && macs.insert(host.port_mac(uplink)));
                assert!(ports.insert(host.port(uplink)));
                assert!(host.port_name(uplink).len() <= 15, "IFNAMSIZ");
            }
            assert!(addresses.insert(host.gateway()));
            for nth in 1..=MAX_CONTAINERS {
                assert!(addresses.insert(host.container_address(nth)));
            }
        }
    }

    #[test]
    fn host_names_read_back_and_others_are_refused() {
        for host in HostNumber::first(MAX_HOSTS) {
            assert_eq!(HostNumber::parse(&host.name()), Some(host));
        }
        for bad in ["h0", "h65", "h01", "h+1", "1", "H1", "h", "", "h-1", "h1 "] {
            assert_eq!(HostNumber::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_lab_knows_its_namespaces_from_those_of_a_lab_with_a_longer_name() {
        assert!(is_netns_of("x", "rm-x-h1") && is_netns_of("x", "rm-x-sw"));
        assert!(is_netns_of("x-h1", "rm-x-h1-sw"));
        for foreign in ["rm-x-h1-sw", "rm-x-h65", "rm-y-h1", "x-h1", "rm-x-"] {
            assert!(!is_netns_of("x", foreign), "{foreign}");
        }
    }
}
