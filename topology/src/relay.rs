//! Who relays best between two hosts that do not hear each other, by estimated round trips alone.

use std::time::Duration;

use ringmesh_proto::HostId;

use crate::Coordinate;

/// The candidate with the least estimated round trip from one host over it to the other, and that round trip.
///
/// Of equals the one with the lowest id, so that both ends choose the same. `None` if there is no candidate; whether one
/// hears both ends the caller must know.
pub fn relay(
    from: &Coordinate,
    to: &Coordinate,
    candidates: impl IntoIterator<Item = (HostId, Coordinate)>,
) -> Option<(HostId, Duration)> {
    let over = |(host, at): (HostId, Coordinate)| (from.distance(&at) + at.distance(to), host);
    candidates.into_iter().map(over).min().map(|(rtt, host)| (host, rtt))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::coordinate::DIMENSIONS;

    fn at(x_us: i32, height_us: u32) -> Coordinate {
        Coordinate::new(
            &std::array::from_fn::<i32, DIMENSIONS, _>(|nth| if nth == 0 { x_us } else { 0 }),
            height_us,
            0,
            100,
        )
        .expect("within the bounds")
    }

    #[test]
    fn the_one_between_beats_the_one_beyond_and_the_one_behind_a_slow_access() {
        let (from, to) = (at(0, 10), at(1000, 10));
        let id = HostId::new;
        let candidates = [(id(1), at(2000, 10)), (id(2), at(500, 400)), (id(3), at(600, 10))];
        assert_eq!(relay(&from, &to, candidates), Some((id(3), Duration::from_micros(1040))));
        assert_eq!(relay(&from, &to, []), None);
        let equals = [(id(9), at(500, 10)), (id(4), at(500, 10))];
        assert_eq!(relay(&from, &to, equals).map(|(host, _)| host), Some(id(4)));
    }

    proptest! {
        #[test]
        fn no_candidate_is_better_and_both_ends_choose_the_same(
            ends: [(i16, u16); 2], all in prop::collection::btree_map(any::<u32>(), any::<(i16, u16)>(), 1..20),
        ) {
            let [from, to] = ends.map(|(x, height)| at(x.into(), height.into()));
            let all: Vec<_> = all.into_iter().map(|(id, (x, h))| (HostId::new(id), at(x.into(), h.into()))).collect();
            let (best, rtt) = relay(&from, &to, all.iter().copied()).expect("there are candidates");
            prop_assert_eq!(relay(&to, &from, all.iter().rev().copied()), Some((best, rtt)));
            for (_, other) in all {
                prop_assert!(rtt <= from.distance(&other) + other.distance(&to));
            }
        }
    }
}
