//! Network coordinates: where a host stands by its round trips, so that any host can estimate the round trip of any two.
//!
//! Vivaldi (Dabek, Cox, Kaashoek, Morris, 2004) with the height vector, and the median filter, gravity and adjustment that
//! serf takes from Ledlie and from Lee. It owns the arithmetic and its bounds; it knows neither who measures nor how a
//! coordinate travels. docs/rfc-notes.md says where we differ from the papers.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use ringmesh_proto::{HostId, Uplink};

use crate::hash::hash;

/// Dimensions of a position, besides the height. With two, hosts with so few neighbours get folded over each other; with
/// more there is more to fit than is measured.
pub const DIMENSIONS: usize = 3;

/// No part of a coordinate is beyond this: round trips of more than 10 s are none.
pub const MAX_US: u32 = 10_000_000;

/// The most that one measurement moves a coordinate, whatever the other end says: 5 ms, and never more than was measured.
pub const MAX_STEP: Duration = Duration::from_millis(5);

/// The most error that a coordinate has: that of a host that has measured nothing. 1,000 is as much as the round trip.
pub const MAX_ERROR_PERMILLE: u16 = 1500;

/// The least that is believed, so that one who claims to be sure weighs little more than one who is.
const MIN_ERROR_PERMILLE: u16 = 10;

/// The least height: also neighbours on one switch have a way to it.
const MIN_HEIGHT_US: u32 = 10;

/// The share of a force that is followed, c_c in the paper.
const POSITION_GAIN: f64 = 0.25;

/// The share of a sample in the error, c_e in the paper.
const ERROR_GAIN: f64 = 0.25;

/// Round trips of which the median counts.
const FILTER: usize = 3;

/// The most links of which round trips are filtered; as many as a host's record has.
const MAX_FILTERS: usize = 64;

/// Measurements from which the adjustment is made.
const ADJUSTMENT_WINDOW: usize = 20;

/// At so many microseconds from the origin gravity pulls by one a measurement.
const GRAVITY_US: f64 = 150_000.0;

/// A coordinate is not believed if it is farther away than what was measured by more than this.
const IMPLAUSIBLE_US: f64 = 1_000_000.0;

/// What a host publishes: whole microseconds within bounds, so that it is never NaN and encodes in few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coordinate {
    position_us: [i32; DIMENSIONS],
    height_us: u32,
    adjustment_us: i32,
    error_permille: u16,
}

impl Coordinate {
    /// Of a host that has measured nothing.
    pub const ORIGIN: Self = Self {
        position_us: [0; DIMENSIONS],
        height_us: MIN_HEIGHT_US,
        adjustment_us: 0,
        error_permille: MAX_ERROR_PERMILLE,
    };

    /// What another host says of itself; `None` if a part is out of bounds.
    pub fn new(position_us: &[i32], height_us: u32, adjustment_us: i32, error_permille: u32) -> Option<Self> {
        let position_us: [i32; DIMENSIONS] = position_us.try_into().ok()?;
        let bounded = position_us.iter().all(|part| part.unsigned_abs() <= MAX_US)
            && height_us <= MAX_US
            && adjustment_us.unsigned_abs() <= MAX_US;
        let error_permille = u16::try_from(error_permille).ok().filter(|error| *error <= MAX_ERROR_PERMILLE)?;
        let error_permille = error_permille.max(MIN_ERROR_PERMILLE);
        bounded.then_some(Self { position_us, height_us: height_us.max(MIN_HEIGHT_US), adjustment_us, error_permille })
    }

    /// The place in the plane of fast paths, in microseconds.
    pub fn position_us(&self) -> [i32; DIMENSIONS] {
        self.position_us
    }

    /// The way from the host to that plane, in microseconds.
    pub fn height_us(&self) -> u32 {
        self.height_us
    }

    /// What the measured round trips have beyond the computed ones, halved, in microseconds.
    pub fn adjustment_us(&self) -> i32 {
        self.adjustment_us
    }

    /// How far off its estimates are, in thousandths of the round trip.
    pub fn error_permille(&self) -> u16 {
        self.error_permille
    }

    /// The estimated round trip between two hosts. Symmetric; at least that of the two heights, less what both adjust.
    pub fn distance(&self, other: &Self) -> Duration {
        let raw = self.raw(other);
        let adjusted = raw + f64::from(self.adjustment_us) + f64::from(other.adjustment_us);
        Duration::from_micros(if adjusted > 0.0 { adjusted } else { raw }.round() as u64)
    }

    /// How far a host has moved between two coordinates of it.
    pub fn moved(&self, before: &Self) -> Duration {
        let way = Point::from(self).minus(&Point::from(before)).length();
        let heights = f64::from(self.height_us.abs_diff(before.height_us));
        Duration::from_micros((way + heights).round() as u64)
    }

    /// Without adjustments.
    fn raw(&self, other: &Self) -> f64 {
        Point::from(self).minus(&Point::from(other)).norm()
    }
}

/// Why a measurement was not used. The coordinate is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// None, or more than 10 s.
    RoundTrip,
    /// The other end says that it is more than a second farther away than it is.
    Implausible,
}

/// Finds this host's coordinate from the round trips that it measures.
///
/// With eight neighbours and two hundred measurements of each, half of the estimates of any two hosts are within a tenth
/// of the round trip, and nine in ten within a half (`coordinate/tests.rs`).
#[derive(Clone, Debug)]
pub struct Vivaldi {
    point: Point,
    /// 1.0 is as much as the round trip.
    error: f64,
    adjustment: f64,
    /// What was measured beyond what was computed, newest last.
    residues: VecDeque<f64>,
    filters: BTreeMap<(HostId, Uplink), VecDeque<Duration>>,
    seed: u64,
    draws: u64,
}

impl Vivaldi {
    /// At the origin. The seed gives the direction in which a host leaves a place that another one has, too.
    pub fn new(seed: u64) -> Self {
        Self {
            point: Point::from(&Coordinate::ORIGIN),
            error: error_of(MAX_ERROR_PERMILLE),
            adjustment: 0.0,
            residues: VecDeque::with_capacity(ADJUSTMENT_WINDOW),
            filters: BTreeMap::new(),
            seed,
            draws: 0,
        }
    }

    /// Where this host stands now.
    pub fn coordinate(&self) -> Coordinate {
        let most = f64::from(MAX_US);
        Coordinate {
            // A cast of a float saturates, and makes zero of NaN.
            position_us: self.point.position.map(|part| part.clamp(-most, most).round() as i32),
            height_us: (self.point.height.round() as u32).clamp(MIN_HEIGHT_US, MAX_US),
            adjustment_us: self.adjustment.clamp(-most, most).round() as i32,
            error_permille: ((self.error * 1000.0).round() as u16).clamp(MIN_ERROR_PERMILLE, MAX_ERROR_PERMILLE),
        }
    }

    /// Takes a round trip to a host over an uplink, and where that host says that it stands.
    ///
    /// Moves this host by at most [`MAX_STEP`] and the round trip, and a pull to the origin of the same bound.
    pub fn update(&mut self, host: HostId, uplink: Uplink, rtt: Duration, theirs: &Coordinate) -> Result<(), Refused> {
        if rtt.is_zero() || rtt.as_micros() > u128::from(MAX_US) {
            return Err(Refused::RoundTrip);
        }
        let apart = self.point.minus(&theirs.into());
        if apart.norm() - micros(rtt) > IMPLAUSIBLE_US {
            return Err(Refused::Implausible);
        }
        let rtt = micros(self.filter(host, uplink, rtt)).max(1.0);
        let bound = rtt.min(micros(MAX_STEP));
        let weight = self.error / (self.error + error_of(theirs.error_permille));
        let excess = rtt - apart.norm();
        let sample = (excess.abs() / rtt).min(error_of(MAX_ERROR_PERMILLE));
        let gain = ERROR_GAIN * weight;
        self.error = (sample * gain + self.error * (1.0 - gain))
            .clamp(error_of(MIN_ERROR_PERMILLE), error_of(MAX_ERROR_PERMILLE));
        self.push(&apart, (POSITION_GAIN * weight * excess).clamp(-bound, bound));
        self.adjust((rtt - self.point.minus(&theirs.into()).norm()).clamp(-bound, bound));
        self.fall();
        Ok(())
    }

    /// Forgets what was measured on links for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(HostId, Uplink) -> bool) {
        self.filters.retain(|(host, uplink), _| keep(*host, *uplink));
    }

    /// The median of the last round trips: one that waited in a queue says nothing of the way (Ledlie).
    fn filter(&mut self, host: HostId, uplink: Uplink, rtt: Duration) -> Duration {
        if self.filters.len() >= MAX_FILTERS && !self.filters.contains_key(&(host, uplink)) {
            return rtt;
        }
        let samples = self.filters.entry((host, uplink)).or_default();
        if samples.len() == FILTER {
            samples.pop_front();
        }
        samples.push_back(rtt);
        let mut sorted: Vec<Duration> = samples.iter().copied().collect();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    }

    /// Moves by `force` microseconds away from the other end, `apart` being the way from it.
    fn push(&mut self, apart: &Point, force: f64) {
        let length = apart.length();
        let (direction, share) = if length >= 1.0 {
            (apart.position.map(|part| part / length), length / apart.norm())
        } else if force > 0.0 {
            // Two hosts in one place: any direction will do.
            (self.random_direction(), 1.0)
        } else {
            ([0.0; DIMENSIONS], 0.0)
        };
        for (part, towards) in self.point.position.iter_mut().zip(direction) {
            *part += towards * force * share;
        }
        self.point.height += force * (1.0 - share);
        self.point.bound();
    }

    /// Gravity (Ledlie): coordinates do not drift away from the origin together.
    fn fall(&mut self) {
        let length = self.point.length();
        if length >= 1.0 {
            let pull = (length / GRAVITY_US).powi(2).min(length).min(micros(MAX_STEP));
            self.point.position = self.point.position.map(|part| part - part / length * pull);
        }
    }

    /// Half of the mean of what is measured beyond what is computed, for each end has its half (Lee et al., 2010).
    fn adjust(&mut self, residue: f64) {
        if self.residues.len() == ADJUSTMENT_WINDOW {
            self.residues.pop_front();
        }
        self.residues.push_back(residue);
        self.adjustment = self.residues.iter().sum::<f64>() / (2 * ADJUSTMENT_WINDOW) as f64;
    }

    fn random_direction(&mut self) -> [f64; DIMENSIONS] {
        self.draws += 1;
        let mut direction = [0.0; DIMENSIONS];
        for (part, nth) in direction.iter_mut().zip(0..) {
            // The upper 53 bits of a hash as a number from -1 to 1.
            *part = (hash(&[self.seed, self.draws, nth]) >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
        }
        let length = direction.iter().map(|part| part * part).sum::<f64>().sqrt();
        if length < 1e-9 {
            return std::array::from_fn(|nth| if nth == 0 { 1.0 } else { 0.0 });
        }
        direction.map(|part| part / length)
    }
}

/// A height vector of the paper, in microseconds: subtracting two adds their heights.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    position: [f64; DIMENSIONS],
    height: f64,
}

impl Point {
    fn minus(&self, other: &Self) -> Self {
        let position = std::array::from_fn(|nth| self.position[nth] - other.position[nth]);
        Self { position, height: self.height + other.height }
    }

    /// Of the position alone.
    fn length(&self) -> f64 {
        self.position.iter().map(|part| part * part).sum::<f64>().sqrt()
    }

    fn norm(&self) -> f64 {
        self.length() + self.height
    }

    fn bound(&mut self) {
        let most = f64::from(MAX_US);
        self.position = self.position.map(|part| part.clamp(-most, most));
        self.height = self.height.clamp(f64::from(MIN_HEIGHT_US), most);
    }
}

impl From<&Coordinate> for Point {
    fn from(coordinate: &Coordinate) -> Self {
        Self { position: coordinate.position_us.map(f64::from), height: f64::from(coordinate.height_us) }
    }
}

fn error_of(permille: u16) -> f64 {
    f64::from(permille) / 1000.0
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests;
