//! A host's network coordinate between its measurements and its record: when it is worth telling, and how it is written.
//!
//! The arithmetic is `ringmesh-topology`'s; who measures is the overlay's.

use std::time::Duration;

use ringmesh_proto::{Instant, v1};
use ringmesh_topology::{Coordinate, Vivaldi, coordinate::MAX_STEP};

/// After a record for the coordinate's sake the next one waits for so long; then twice as long, and so on up to
/// [`MAX_WAIT`]. So a new host is soon known to stand where it does, and a jittery one costs no more than the refresh.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// The time after which the record is written anyway.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A coordinate that moved by a fifth of the last round trip is news.
const NEWS_SHARE: u32 = 5;

/// Where this host stands, and where others were told that it stands.
pub(crate) struct Place {
    vivaldi: Vivaldi,
    told: Coordinate,
    told_at: Instant,
    wait: Duration,
    /// The last that was measured.
    rtt: Duration,
}

impl Place {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            vivaldi: Vivaldi::new(seed),
            told: Coordinate::ORIGIN,
            told_at: Instant::ZERO,
            wait: FIRST_WAIT,
            rtt: MAX_STEP,
        }
    }

    pub(crate) fn vivaldi(&mut self) -> &mut Vivaldi {
        &mut self.vivaldi
    }

    pub(crate) fn coordinate(&self) -> Coordinate {
        self.vivaldi.coordinate()
    }

    pub(crate) fn measured(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }

    /// Whether the coordinate has moved so far that others should know.
    pub(crate) fn is_news(&self, now: Instant) -> bool {
        now.since(self.told_at) >= self.wait && self.coordinate().moved(&self.told) > self.rtt / NEWS_SHARE
    }

    /// The record says this now.
    pub(crate) fn tell(&mut self, now: Instant) -> Coordinate {
        if self.is_news(now) {
            self.wait = (self.wait * 2).min(MAX_WAIT);
        }
        self.told = self.coordinate();
        self.told_at = now;
        self.told
    }
}

/// As in a record.
pub(crate) fn encode(coordinate: &Coordinate) -> v1::Coordinate {
    v1::Coordinate {
        position_us: coordinate.position_us().to_vec(),
        height_us: coordinate.height_us(),
        adjustment_us: coordinate.adjustment_us(),
        error_permille: coordinate.error_permille().into(),
    }
}

/// What a record says; `None` if it says nothing, or what cannot be.
pub(crate) fn decode(coordinate: Option<&v1::Coordinate>) -> Option<Coordinate> {
    let v1::Coordinate { position_us, height_us, adjustment_us, error_permille } = coordinate?;
    Coordinate::new(position_us, *height_us, *adjustment_us, *error_permille)
}

/// An estimate as the API has it, in microseconds.
pub(crate) fn estimate_us(one: &Coordinate, other: &Coordinate) -> u32 {
    u32::try_from(one.distance(other).as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use ringmesh_proto::{HostId, Uplink, peer::HostRecord};

    use super::*;

    /// The bytes that a coordinate adds to a record.
    fn cost(coordinate: &Coordinate) -> usize {
        let with = HostRecord { coordinate: Some(encode(coordinate)), ..HostRecord::default() };
        with.encoded_len() - HostRecord::default().encoded_len()
    }

    #[test]
    fn a_coordinate_is_read_as_it_was_written_and_takes_few_bytes() {
        let most = ringmesh_topology::coordinate::MAX_US as i32;
        let room = Coordinate::new(&[-230, 170, 410], 60, -8, 210).expect("within the bounds");
        let far = Coordinate::new(&[-most; 3], most as u32, -most, 1500).expect("within the bounds");
        for coordinate in [Coordinate::ORIGIN, room, far] {
            assert_eq!(decode(Some(&encode(&coordinate))), Some(coordinate));
        }
        assert_eq!((cost(&room), cost(&far)), (18, 30));
        assert_eq!(decode(None), None);
        assert_eq!(decode(Some(&v1::Coordinate::default())), None, "no position");
    }

    #[test]
    fn news_is_told_ever_more_rarely() {
        let mut place = Place::new(1);
        let mut now = Instant::ZERO;
        let mut told = Vec::new();
        for second in 0..120u64 {
            now += Duration::from_secs(1);
            // The other end is never where one thinks: this host is always on the move.
            let x = if second % 2 == 0 { 90_000 } else { -90_000 };
            let theirs = Coordinate::new(&[x, 0, 0], 10, 0, 10).expect("within the bounds");
            let rtt = Duration::from_millis(2);
            place.vivaldi().update(HostId::new(2), Uplink::A, rtt, &theirs).expect("plausible");
            place.measured(rtt);
            if place.is_news(now) {
                place.tell(now);
                told.push(second);
            }
        }
        assert!((4..=8).contains(&told.len()), "{told:?}");
    }
}
