//! The leases as all replicas know them: no deadlines.

use std::collections::{BTreeMap, BTreeSet};

use super::Refusal;

/// What a shorter TTL is raised to, in seconds: one and a half elections, rounded up, as etcd does.
pub const TTL_MIN_S: i64 = 2;

/// The longest TTL, in seconds, as etcd's.
pub const TTL_MAX_S: i64 = 9_000_000_000;

/// About what a lease takes in memory, its deadline at the leader included. Keys are counted where they are.
const LEASE_BYTES: u64 = 128;

/// Which leases there are, and which keys end with them.
#[derive(Debug, Default)]
pub struct LeaseTable {
    leases: BTreeMap<i64, Lease>,
}

#[derive(Debug)]
struct Lease {
    ttl_s: i64,
    keys: BTreeSet<Box<[u8]>>,
}

impl LeaseTable {
    /// The TTL of a lease in seconds.
    pub fn ttl_s(&self, lease: i64) -> Option<i64> {
        self.leases.get(&lease).map(|lease| lease.ttl_s)
    }

    /// The keys of a lease, in order.
    pub fn keys(&self, lease: i64) -> impl Iterator<Item = &[u8]> {
        self.leases.get(&lease).into_iter().flat_map(|lease| lease.keys.iter().map(AsRef::as_ref))
    }

    /// All leases with their TTL in seconds, by id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, i64)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl_s))
    }

    /// About the bytes that the quota counts.
    pub(super) fn size_bytes(&self) -> u64 {
        self.leases.len() as u64 * LEASE_BYTES
    }

    /// Whether a key may be put with a lease: 0 is none.
    pub(super) fn check(&self, lease: i64) -> Result<(), Refusal> {
        if lease != 0 && !self.leases.contains_key(&lease) { Err(Refusal::LeaseNotFound) } else { Ok(()) }
    }

    /// Makes a lease. Returns its TTL in seconds.
    pub(super) fn grant(&mut self, lease: i64, ttl_s: i64) -> Result<i64, Refusal> {
        if lease == 0 {
            return Err(Refusal::LeaseNotFound);
        }
        if ttl_s > TTL_MAX_S {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&lease) {
            return Err(Refusal::LeaseExists);
        }
        let ttl_s = ttl_s.max(TTL_MIN_S);
        self.load(lease, ttl_s);
        Ok(ttl_s)
    }

    /// A lease from disk.
    pub(super) fn load(&mut self, lease: i64, ttl_s: i64) {
        self.leases.insert(lease, Lease { ttl_s, keys: BTreeSet::new() });
    }

    /// Ends a lease, whose keys have been deleted.
    pub(super) fn revoke(&mut self, lease: i64) {
        let lease = self.leases.remove(&lease);
        debug_assert!(lease.is_none_or(|lease| lease.keys.is_empty()), "the keys of a lease go before it");
    }

    /// A key's lease was one, and is another: 0 of none. Returns whether the new one is there.
    pub(super) fn move_key(&mut self, key: &[u8], from: i64, to: i64) -> bool {
        if from == to {
            return true;
        }
        if let Some(lease) = self.leases.get_mut(&from) {
            lease.keys.remove(key);
        }
        match self.leases.get_mut(&to) {
            Some(lease) => lease.keys.insert(key.into()),
            None => to == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_has_limits() {
        let mut table = LeaseTable::default();
        for (lease, ttl_s, expected) in [
            (0, 10, Err(Refusal::LeaseNotFound)),
            (1, TTL_MAX_S + 1, Err(Refusal::LeaseTtlTooLarge)),
            (1, TTL_MAX_S, Ok(TTL_MAX_S)),
            (1, 10, Err(Refusal::LeaseExists)),
            (2, -1, Ok(TTL_MIN_S)),
            (3, 3, Ok(3)),
        ] {
            assert_eq!(table.grant(lease, ttl_s), expected, "{lease} {ttl_s}");
        }
        assert_eq!(table.iter().collect::<Vec<_>>(), [(1, TTL_MAX_S), (2, TTL_MIN_S), (3, 3)]);
    }

    #[test]
    fn a_key_is_of_one_lease() {
        let mut table = LeaseTable::default();
        (1..3).for_each(|lease| _ = table.grant(lease, 10));
        assert!(table.move_key(b"a", 0, 1) && table.move_key(b"b", 0, 1) && table.move_key(b"a", 1, 2));
        assert_eq!(table.keys(1).collect::<Vec<_>>(), [b"b"]);
        assert_eq!(table.keys(2).collect::<Vec<_>>(), [b"a"]);
        assert!(table.move_key(b"a", 2, 0) && !table.move_key(b"a", 0, 3));
        assert_eq!(table.keys(2).count(), 0);
    }
}
