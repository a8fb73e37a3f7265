//! The one place where the daemon reads clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ringmesh_proto::{self as proto, Now, UnixMillis};

/// Turns the platform's clocks into what the machines are told.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock {
    /// Both clocks.
    pub fn now(&self) -> Now {
        Now { instant: self.instant(), unix: unix() }
    }

    /// Time since this clock was made.
    pub fn instant(&self) -> proto::Instant {
        let nanos = self.origin.elapsed().as_nanos();
        proto::Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The platform's form of a deadline.
    pub fn deadline(&self, at: proto::Instant) -> Instant {
        self.origin + at.since(proto::Instant::ZERO)
    }
}

/// Wall-clock time; zero if the clock stands before 1970.
pub fn unix() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
