//! Addresses from which a tenant's clones get theirs.
//!
//! It keeps no books: what no container of this host has is free, so an address is returned by the container's removal.

use std::{collections::BTreeSet, net::IpAddr};

/// The most addresses of a pool that are looked at for a free one: a host has at most 32,000 containers.
const MAX_SEARCH: u128 = 65_536;

/// Addresses of one tenant on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Whose; empty for containers of nobody.
    pub tenant: String,
    /// The first address of the prefix.
    pub network: IpAddr,
    /// Bits that all its addresses share.
    pub length: u8,
    /// Never given to a container.
    pub reserved: BTreeSet<IpAddr>,
}

impl Pool {
    /// A free address of the same family as `like`; `None` if there is none.
    pub fn pick(&self, like: IpAddr, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let bits = if self.network.is_ipv4() { 32 } else { 128 };
        if like.is_ipv4() != self.network.is_ipv4() || u32::from(self.length) >= bits {
            return None;
        }
        let size = 1_u128.checked_shl(bits - u32::from(self.length)).unwrap_or(u128::MAX);
        // The first is the network's own; the last of an IPv4 prefix is everybody's.
        let last = if self.network.is_ipv4() { size - 1 } else { size };
        (1..last.min(MAX_SEARCH))
            .filter_map(|offset| self.at(offset))
            .find(|address| !self.reserved.contains(address) && !used.contains(address))
    }

    fn at(&self, offset: u128) -> Option<IpAddr> {
        match self.network {
            IpAddr::V4(first) => Some(IpAddr::V4(u32::from(first).checked_add(u32::try_from(offset).ok()?)?.into())),
            IpAddr::V6(first) => Some(IpAddr::V6(u128::from(first).checked_add(offset)?.into())),
        }
    }
}

/// A container's address and prefix length from "ADDRESS/LENGTH".
pub(super) fn split(address: &str) -> Option<(IpAddr, &str)> {
    let (address, length) = address.split_once('/')?;
    Some((address.parse().ok()?, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_first_that_nobody_has_is_given() {
        let pool =
            Pool { tenant: String::new(), network: ip("10.1.3.0"), length: 29, reserved: [ip("10.1.3.1")].into() };
        let mut used = BTreeSet::new();
        let mut given = Vec::new();
        while let Some(address) = pool.pick(ip("10.9.9.9"), &used) {
            used.insert(address);
            given.push(address.to_string());
        }
        assert_eq!(given, ["10.1.3.2", "10.1.3.3", "10.1.3.4", "10.1.3.5", "10.1.3.6"]);
        assert_eq!(pool.pick(ip("fd00::1"), &BTreeSet::new()), None, "of another family");
    }

    #[test]
    fn the_largest_and_the_smallest_prefix_work() {
        let all = Pool { tenant: String::new(), network: ip("::"), length: 0, reserved: BTreeSet::new() };
        assert_eq!(all.pick(ip("::9"), &BTreeSet::new()), Some(ip("::1")));
        let one = Pool { network: ip("10.0.0.1"), length: 32, ..all };
        assert_eq!(one.pick(ip("10.0.0.9"), &BTreeSet::new()), None);
    }
}
