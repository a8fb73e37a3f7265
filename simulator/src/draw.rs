//! Randomness: a generator of its own for each host and purpose, each from the run's seed.
//!
//! So nothing that one host draws moves what another draws: a scenario without one of its faults, or without one of its
//! hosts, is otherwise the same scenario. Shrinking rests on that.

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The seeds of a host's lives.
    Life,
    /// What becomes of what a host sends over uplink A.
    SendA,
    /// Over uplink B.
    SendB,
    /// What becomes of what a host receives over uplink A.
    ReceiveA,
    /// Over uplink B.
    ReceiveB,
    /// How long probes of its services take.
    Probe,
    /// Its faults of the kind with this number.
    Fault(u8),
    /// A whole scenario; of no host.
    Scenario,
}

impl Purpose {
    fn number(self) -> u64 {
        match self {
            Self::Life => 1,
            Self::SendA => 2,
            Self::SendB => 3,
            Self::ReceiveA => 4,
            Self::ReceiveB => 5,
            Self::Probe => 6,
            Self::Scenario => 7,
            Self::Fault(kind) => 256 + u64::from(kind),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): eight bytes of state, so that a million of them cost nothing.
#[derive(Clone, Debug)]
pub struct Draw(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Draw {
    /// The generator of a host, from 0, for a purpose.
    pub fn new(seed: u64, host: u32, purpose: Purpose) -> Self {
        let start = mix(mix(seed.wrapping_add(GOLDEN)) ^ u64::from(host));
        Self(mix(start.wrapping_add(GOLDEN) ^ purpose.number().wrapping_mul(GOLDEN)))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Less than `bound`, or 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.any()) * u128::from(bound)) >> 64) as u64
    }

    /// At least 0 and less than 1.
    pub fn unit(&mut self) -> f64 {
        (self.any() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// Exponentially distributed with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

/// Its output function: every bit of the result depends on every bit of `z`.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generators_of_hosts_and_purposes_differ() {
        let mut first = Vec::new();
        for seed in 0..10 {
            for host in 0..100 {
                for purpose in [Purpose::Life, Purpose::SendA, Purpose::SendB, Purpose::Fault(0), Purpose::Fault(1)] {
                    first.push(Draw::new(seed, host, purpose).any());
                }
            }
        }
        let count = first.len();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), count);
    }

    #[test]
    fn means_are_what_they_should_be() {
        let mut draw = Draw::new(1, 2, Purpose::Probe);
        let mean = |f: &mut dyn FnMut() -> f64| (0..100_000).map(|_| f()).sum::<f64>() / 100_000.0;
        assert!((mean(&mut || draw.unit()) - 0.5).abs() < 0.01);
        assert!((mean(&mut || draw.below(1000) as f64) - 499.5).abs() < 5.0);
        assert!((mean(&mut || draw.exponential(3.0)) - 3.0).abs() < 0.1);
        assert!((mean(&mut || f64::from(u8::from(draw.chance(0.2)))) - 0.2).abs() < 0.01);
    }
}
