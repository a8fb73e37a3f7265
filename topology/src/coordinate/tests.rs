use proptest::prelude::*;

use super::*;
use crate::{Chords, DualRing, Racks, graph::Graph};

/// Hosts with known round trips, each of which measures some others.
struct Field {
    rtt_us: Vec<Vec<f64>>,
    hosts: Vec<Vivaldi>,
    /// As the overlay has them: both rings, and two chords a host.
    neighbours: Vec<Vec<usize>>,
    draws: u64,
}

impl Field {
    fn new(rtt_us: Vec<Vec<f64>>) -> Self {
        let hosts = (0..rtt_us.len() as u64).map(Vivaldi::new).collect();
        let rings = DualRing::switched(11, (0..rtt_us.len() as u32).map(HostId::new));
        let mut neighbours = vec![Vec::new(); rtt_us.len()];
        for (one, other, _) in Graph::of(&rings, Chords::Auto, &Racks::new()).edges() {
            neighbours[one.raw() as usize].push(other.raw() as usize);
            neighbours[other.raw() as usize].push(one.raw() as usize);
        }
        Self { rtt_us, hosts, neighbours, draws: 0 }
    }

    /// Hosts on a plane of 60 ms by 60 ms, each behind an access of 0.2 to 5 ms.
    fn plane(hosts: usize, seed: u64) -> Self {
        let draw = |host: usize, what: u64| (hash(&[seed, host as u64, what]) >> 11) as f64 / (1u64 << 53) as f64;
        let at = |host| (draw(host, 0) * 60_000.0, draw(host, 1) * 60_000.0, 200.0 + draw(host, 2) * 4_800.0);
        let rtt = |a: usize, b: usize| {
            let (one, other) = (at(a), at(b));
            (one.0 - other.0).hypot(one.1 - other.1) + one.2 + other.2
        };
        Self::new((0..hosts).map(|a| (0..hosts).map(|b| if a == b { 0.0 } else { rtt(a, b) }).collect()).collect())
    }

    /// Racks of eight: 100 µs within, 300 µs between, in one room. With eight neighbours anywhere, few measure their rack.
    fn room(hosts: usize) -> Self {
        let rtt = |a: usize, b: usize| if a / 8 == b / 8 { 100.0 } else { 300.0 };
        Self::new((0..hosts).map(|a| (0..hosts).map(|b| if a == b { 0.0 } else { rtt(a, b) }).collect()).collect())
    }

    fn draw(&mut self) -> f64 {
        self.draws += 1;
        (hash(&[99, self.draws]) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Each host measures its neighbours once, in a network that adds up to `noise` of the round trip, and now and
    /// then ten times as much; `lies` may say another coordinate for a host.
    fn round(&mut self, noise: f64, lies: impl Fn(usize, Coordinate) -> Coordinate) {
        let hosts = self.hosts.len();
        for host in 0..hosts {
            for peer in self.neighbours[host].clone() {
                let spike = if self.draw() < 0.02 { 10.0 } else { 1.0 };
                let rtt = self.rtt_us[host][peer] * (1.0 + (self.draw() - 0.5) * noise) * spike;
                let theirs = lies(peer, self.hosts[peer].coordinate());
                let rtt = Duration::from_nanos((rtt * 1000.0) as u64);
                let _ = self.hosts[host].update(HostId::new(peer as u32), Uplink::A, rtt, &theirs);
            }
        }
    }

    /// Relative errors of the estimates of all pairs for which `count` is true, ascending.
    fn errors(&self, count: impl Fn(usize) -> bool) -> Vec<f64> {
        let at: Vec<Coordinate> = self.hosts.iter().map(Vivaldi::coordinate).collect();
        let mut errors = Vec::new();
        for a in (0..at.len()).filter(|host| count(*host)) {
            for b in (0..a).filter(|host| count(*host)) {
                let estimate = micros(at[a].distance(&at[b]));
                errors.push((estimate - self.rtt_us[a][b]).abs() / self.rtt_us[a][b]);
            }
        }
        errors.sort_by(f64::total_cmp);
        errors
    }
}

fn percentile(errors: &[f64], percent: usize) -> f64 {
    errors[(errors.len() - 1) * percent / 100]
}

fn place(x: i32, y: i32) -> [i32; DIMENSIONS] {
    std::array::from_fn(|nth| {
        if nth == 0 {
            x
        } else if nth == 1 {
            y
        } else {
            0
        }
    })
}

fn honest(_: usize, coordinate: Coordinate) -> Coordinate {
    coordinate
}

#[test]
fn on_a_plane_of_64_hosts_half_of_the_estimates_are_within_a_tenth_after_two_hundred_rounds() {
    for seed in 0..5 {
        let mut field = Field::plane(64, seed);
        for _ in 0..200 {
            field.round(0.1, honest);
        }
        let errors = field.errors(|_| true);
        let (half, most) = (percentile(&errors, 50), percentile(&errors, 90));
        assert!(half < 0.10 && most < 0.50, "seed {seed}: median {half:.3}, 90 % within {most:.3}");
        // What each host says of its own error is of the size of the true one.
        let own: Vec<u16> = field.hosts.iter().map(|host| host.coordinate().error_permille()).collect();
        assert!(own.iter().all(|error| *error < 400), "seed {seed}: {own:?}");
    }
}

#[test]
fn in_one_room_estimates_are_of_the_right_size() {
    let mut field = Field::room(64);
    for _ in 0..200 {
        field.round(0.2, honest);
    }
    let errors = field.errors(|_| true);
    let (half, most) = (percentile(&errors, 50), percentile(&errors, 90));
    assert!(half < 0.25 && most < 0.8, "median {half:.3}, 90 % within {most:.3}");
}

#[test]
fn one_liar_of_32_spoils_little() {
    let far = |_: usize| Coordinate::new(&place(900_000, -300_000), 0, 0, 0).expect("within the bounds");
    let mut field = Field::plane(32, 3);
    for _ in 0..300 {
        field.round(0.1, |peer, coordinate| if peer == 0 { far(peer) } else { coordinate });
    }
    let errors = field.errors(|host| host != 0);
    let (half, most) = (percentile(&errors, 50), percentile(&errors, 90));
    assert!(half < 0.25, "median {half:.3}, 90 % within {most:.3}");
}

#[test]
fn what_is_out_of_bounds_or_absurd_is_refused_and_moves_nothing() {
    let most = MAX_US as i32;
    assert!(Coordinate::new(&place(most, -most), MAX_US, most, 1500).is_some());
    assert_eq!(Coordinate::new(&place(most + 1, 0), 0, 0, 0), None);
    assert_eq!(Coordinate::new(&place(i32::MIN, 0), 0, 0, 0), None);
    assert_eq!(Coordinate::new(&place(0, 0), MAX_US + 1, 0, 0), None);
    assert_eq!(Coordinate::new(&place(0, 0), 0, i32::MIN, 0), None);
    assert_eq!(Coordinate::new(&place(0, 0), 0, 0, 1501), None);
    assert_eq!(Coordinate::new(&[0; DIMENSIONS + 1], 0, 0, 0), None);
    assert_eq!(Coordinate::new(&[], 0, 0, 0), None);

    let mut host = Vivaldi::new(1);
    let before = host.coordinate();
    let peer = HostId::new(2);
    let ms = Duration::from_millis;
    let absurd = Coordinate::new(&place(most, 0), 0, 0, 0).expect("within the bounds");
    assert_eq!(host.update(peer, Uplink::A, ms(1), &absurd), Err(Refused::Implausible));
    assert_eq!(host.update(peer, Uplink::A, Duration::ZERO, &Coordinate::ORIGIN), Err(Refused::RoundTrip));
    assert_eq!(host.update(peer, Uplink::A, ms(10_001), &Coordinate::ORIGIN), Err(Refused::RoundTrip));
    assert_eq!(host.coordinate(), before);
}

#[test]
fn a_single_late_answer_is_filtered_out() {
    let mut host = Vivaldi::new(1);
    let peer = HostId::new(2);
    let theirs = Coordinate::new(&place(1000, 0), 10, 0, 100).expect("within the bounds");
    for _ in 0..100 {
        host.update(peer, Uplink::A, Duration::from_millis(1), &theirs).expect("plausible");
    }
    let before = host.coordinate().distance(&theirs);
    host.update(peer, Uplink::A, Duration::from_secs(2), &theirs).expect("plausible");
    assert!(host.coordinate().distance(&theirs).abs_diff(before) < Duration::from_micros(50));
}

#[test]
fn filters_have_a_bound() {
    let mut host = Vivaldi::new(1);
    for peer in 0..1000 {
        let _ = host.update(HostId::new(peer), Uplink::B, Duration::from_millis(1), &Coordinate::ORIGIN);
    }
    assert_eq!(host.filters.len(), MAX_FILTERS);
    host.retain(|peer, uplink| peer == HostId::new(3) && uplink == Uplink::B);
    assert_eq!(host.filters.len(), 1);
}

fn any_coordinate() -> impl Strategy<Value = Coordinate> {
    let part = -(MAX_US as i32)..=MAX_US as i32;
    (
        std::array::from_fn::<_, DIMENSIONS, _>(|_| prop_oneof![part.clone(), -1000i32..1000]),
        0..=MAX_US,
        part,
        0u32..=1500,
    )
        .prop_map(|(position, height, adjustment, error)| {
            Coordinate::new(&position, height, adjustment, error).expect("within the bounds")
        })
}

fn rtt() -> impl Strategy<Value = Duration> {
    prop_oneof![0u64..1000, 0u64..20_000_000_000, Just(u64::MAX)].prop_map(Duration::from_nanos)
}

proptest! {
    #[test]
    fn nothing_leaves_the_bounds_and_no_measurement_moves_a_host_by_more_than_the_bound(
        seed: u64, steps in prop::collection::vec((0u32..4, rtt(), any_coordinate()), 1..200),
    ) {
        let mut host = Vivaldi::new(seed);
        for (peer, rtt, theirs) in steps {
            let before = host.point;
            let result = host.update(HostId::new(peer), Uplink::A, rtt, &theirs);
            let now = host.coordinate();
            prop_assert!(host.point.position.iter().all(|part| part.is_finite()) && host.point.height.is_finite());
            prop_assert!(host.error.is_finite() && host.adjustment.is_finite());
            prop_assert!(Coordinate::new(&now.position_us(), now.height_us(), now.adjustment_us(),
                u32::from(now.error_permille())) == Some(now));
            let moved = Point { height: 0.0, ..host.point.minus(&before) }.length()
                + (host.point.height - before.height).abs();
            // A force and gravity, and nothing when it was refused.
            let bound = if result.is_ok() { 2.0 * micros(MAX_STEP) } else { 0.0 };
            prop_assert!(moved <= bound + 1e-6, "moved by {moved} µs");
            prop_assert!(now.adjustment_us().unsigned_abs() <= MAX_STEP.as_micros() as u32 / 2 + 1);
        }
    }

    #[test]
    fn distance_is_symmetric_and_has_an_end(one in any_coordinate(), other in any_coordinate()) {
        prop_assert_eq!(one.distance(&other), other.distance(&one));
        prop_assert!(one.distance(&other) <= Duration::from_secs(80));
    }

    #[test]
    fn a_lie_moves_a_settled_host_by_no_more_than_the_round_trip(
        lie in any_coordinate(), rtt_us in 50u64..2000,
    ) {
        let mut host = Vivaldi::new(1);
        let peer = HostId::new(2);
        let rtt = Duration::from_micros(rtt_us);
        let theirs = Coordinate::new(&place(300, 0), 20, 0, 100).expect("within the bounds");
        for _ in 0..50 {
            host.update(peer, Uplink::A, rtt, &theirs).expect("plausible");
        }
        let before = host.point;
        let _ = host.update(peer, Uplink::A, rtt, &lie);
        let moved = Point { height: 0.0, ..host.point.minus(&before) }.length();
        prop_assert!(moved <= rtt_us as f64 + 1.0, "moved by {} µs", moved);
    }
}
