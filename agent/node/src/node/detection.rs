//! The longest time from a fault to the verdict of those who watch, as it follows from the timers.
//!
//! The timers follow from measured round trips, and none from the number of hosts; so does this. It is what
//! `ringmesh host show` prints, and the simulator's tests hold the measured times against it.

use std::time::Duration;

use super::watch::{REFUSED_AFTER, SILENT_AFTER, STUCK_AFTER, TRY_INTERVAL};
use crate::overlay::{HEARD_FOR, MISSES_OF_MANY, TIMEOUT, UPLINK_SILENCE};

/// What the times depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The longest smoothed round trip of the links concerned.
    pub rtt: Duration,
    /// The largest mean deviation of it.
    pub deviation: Duration,
    /// A fault of an uplink that lasts for less is none.
    pub hold_off: Duration,
    /// What the daemon may put off a timer by.
    pub tick: Duration,
}

/// The longest time to a verdict. It is for one fault at a time, an uplink that did not change within its guard time, and
/// an agent that gets to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detection {
    /// To its own host's word that an uplink is down, over which nothing passes although its carrier is up.
    pub silent_uplink: Duration,
    /// To the votes against a host whose agent is gone and whose kernel says so.
    pub refused_port: Duration,
    /// To the votes against a host without power, or cut off.
    pub dead_host: Duration,
    /// To the votes against a host whose kernel answers and whose agent does not.
    pub stuck_agent: Duration,
}

impl Detection {
    /// As the timers of this build have it.
    pub fn worst_case(path: Path) -> Self {
        let answer = (path.rtt + path.deviation * 4).clamp(TIMEOUT.0, TIMEOUT.1);
        // What was on its way still arrives; then silence, a first link that does not answer, and the others.
        let silent_uplink = path.rtt + UPLINK_SILENCE + answer * (1 + MISSES_OF_MANY) + path.hold_off;
        // The end of a link that is not the one that probes asks last; patience counts from its question, in steps.
        let host = |patience: Duration| path.rtt + HEARD_FOR + path.tick + patience + TRY_INTERVAL;
        Self {
            silent_uplink,
            refused_port: host(REFUSED_AFTER),
            dead_host: host(SILENT_AFTER),
            stuck_agent: host(STUCK_AFTER),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn on_a_quiet_local_network() {
        let path = Path { rtt: Duration::from_millis(1), tick: Duration::from_millis(100), ..Path::default() };
        let Detection { silent_uplink, refused_port, dead_host, stuck_agent } = Detection::worst_case(path);
        let ms = [silent_uplink, refused_port, dead_host, stuck_agent].map(|time| time.as_millis());
        assert_eq!(ms, [421, 2101, 2901, 6901]);
    }

    proptest! {
        #[test]
        fn a_longer_round_trip_never_makes_it_shorter(rtt in 0..2000u64, more in 0..2000u64, deviation in 0..500u64) {
            let at = |rtt| {
                let ms = Duration::from_millis;
                Detection::worst_case(Path { rtt: ms(rtt), deviation: ms(deviation), ..Path::default() })
            };
            let (near, far) = (at(rtt), at(rtt + more));
            prop_assert!(near.silent_uplink <= far.silent_uplink && near.dead_host <= far.dead_host);
            prop_assert!(far.refused_port < far.dead_host && far.dead_host < far.stuck_agent);
        }
    }
}
