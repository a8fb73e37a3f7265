//! Where replicas of the configuration stand: as many failure domains as there are, then the lower id.
//!
//! It knows no time and no health: who may be chosen, the caller has decided.

use std::collections::BTreeMap;

/// Hosts from which on five voters are chosen, so that two may be lost.
const HOSTS_FOR_FIVE: usize = 7;

/// Domains from which on five voters are chosen.
const DOMAINS_FOR_FIVE: usize = 5;

/// What fails together: hosts of one rack of one zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Domain {
    /// Its name.
    pub zone: String,
    /// Its name; empty if none is known.
    pub rack: String,
}

/// A host, and what it fails with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<T> {
    /// Which.
    pub host: T,
    /// In which domain.
    pub domain: Domain,
}

/// How many voters a cluster has by itself: one of fewer than three hosts, mostly three, five of many hosts or domains.
pub fn voters_for(hosts: usize, domains: usize) -> usize {
    match hosts {
        0..3 => 1,
        _ if hosts >= HOSTS_FOR_FIVE || (domains >= DOMAINS_FOR_FIVE && hosts >= DOMAINS_FOR_FIVE) => 5,
        _ => 3,
    }
}

/// The one of `candidates` that is to join those who are there: in the domain that has the fewest of them, of several the
/// first host. None if there is no candidate.
pub fn next<'a, T: Ord>(there: &[Domain], candidates: &'a [Place<T>]) -> Option<&'a T> {
    let count = |domain: &Domain| there.iter().filter(|taken| *taken == domain).count();
    let best = candidates.iter().min_by(|a, b| (count(&a.domain), &a.host).cmp(&(count(&b.domain), &b.host)));
    best.map(|place| &place.host)
}

/// Who of `there` is to go first when there are too many: of the domain that has the most of them, the last host.
pub fn surplus<T: Ord>(there: &[Place<T>]) -> Option<&T> {
    let counts = counts(there);
    let count = |place: &Place<T>| counts.get(&place.domain).copied().unwrap_or_default();
    let worst = there.iter().max_by(|a, b| (count(a), &a.host).cmp(&(count(b), &b.host)));
    worst.map(|place| &place.host)
}

/// Who of `there` is to give way to which of `candidates`, so that they are in more domains than before. None if that is
/// not to be had: a host that is as good displaces nobody.
pub fn improvement<'a, T: Ord>(there: &'a [Place<T>], candidates: &'a [Place<T>]) -> Option<(&'a T, &'a T)> {
    let counts = counts(there);
    let crowded = there.iter().filter(|place| counts.get(&place.domain).is_some_and(|count| *count > 1));
    let old = crowded.max_by(|a, b| a.host.cmp(&b.host))?;
    let fresh = candidates.iter().filter(|place| !counts.contains_key(&place.domain));
    let new = fresh.min_by(|a, b| a.host.cmp(&b.host))?;
    Some((&old.host, &new.host))
}

fn counts<T>(there: &[Place<T>]) -> BTreeMap<&Domain, usize> {
    let mut counts = BTreeMap::new();
    for place in there {
        *counts.entry(&place.domain).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain(rack: u8) -> Domain {
        Domain { zone: "z".into(), rack: rack.to_string() }
    }

    fn places(racks: &[u8]) -> Vec<Place<usize>> {
        racks.iter().enumerate().map(|(host, rack)| Place { host, domain: domain(*rack) }).collect()
    }

    #[test]
    fn small_clusters_have_one_voter_and_large_ones_five() {
        for (hosts, domains, voters) in
            [(0, 0, 1), (1, 1, 1), (2, 2, 1), (3, 1, 3), (6, 1, 3), (5, 5, 5), (7, 1, 5), (1000, 40, 5)]
        {
            assert_eq!(voters_for(hosts, domains), voters, "{hosts} hosts, {domains} domains");
        }
    }

    #[test]
    fn the_emptiest_domain_comes_first_and_then_the_first_host() {
        let candidates = places(&[1, 1, 2, 3]);
        assert_eq!(next(&[], &candidates), Some(&0));
        assert_eq!(next(&[domain(1)], &candidates), Some(&2));
        assert_eq!(next(&[domain(1), domain(2)], &candidates), Some(&3));
        assert_eq!(next(&[domain(1), domain(2), domain(3)], &candidates), Some(&0));
        assert_eq!(next::<usize>(&[], &[]), None);
    }

    #[test]
    fn who_goes_is_one_of_many_in_its_domain() {
        assert_eq!(surplus(&places(&[1, 2, 1, 3])), Some(&2));
        assert_eq!(surplus(&places(&[1, 2, 3])), Some(&2));
        assert_eq!(surplus::<usize>(&[]), None);
    }

    #[test]
    fn only_a_domain_that_is_new_displaces_anybody() {
        let there = places(&[1, 1, 2]);
        let other = |host, rack| Place { host, domain: domain(rack) };
        assert_eq!(improvement(&there, &[other(7, 1), other(8, 2)]), None);
        assert_eq!(improvement(&there, &[other(9, 3), other(8, 4)]), Some((&1, &8)));
        assert_eq!(improvement(&places(&[1, 2, 3]), &[other(9, 4)]), None);
    }

    proptest! {
        #[test]
        fn choosing_one_after_the_other_fills_as_many_domains_as_there_are(racks in prop::collection::vec(0_u8..6, 1..20), want in 1_usize..8) {
            let mut candidates = places(&racks);
            let mut there = Vec::new();
            while there.len() < want && !candidates.is_empty() {
                let host = *next(&there, &candidates).expect("there are some");
                let at = candidates.iter().position(|place| place.host == host).expect("it is one of them");
                there.push(candidates.remove(at).domain);
            }
            let filled: std::collections::BTreeSet<_> = there.iter().collect();
            let all: std::collections::BTreeSet<_> = racks.iter().collect();
            prop_assert_eq!(filled.len(), all.len().min(there.len()));
        }
    }
}
