//! Times as people read them: ages in one unit, stamps in UTC.

use std::time::Duration;

use jiff::Timestamp;

/// How long ago: "5s", "3m", "2h", "4d"; empty if unknown.
pub(crate) fn age(now: Timestamp, then: Option<&prost_types::Timestamp>) -> String {
    let Some(then) = then.and_then(timestamp) else { return String::new() };
    // Another host's clock may be ahead of ours.
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// "restoring, 12 s left"; empty if that is over or unknown.
pub(crate) fn restoring(now: Timestamp, until: Option<&prost_types::Timestamp>) -> String {
    let Some(until) = until.and_then(timestamp) else { return String::new() };
    let left_ms = until.as_millisecond() - now.as_millisecond();
    if left_ms <= 0 { String::new() } else { format!("restoring, {} s left", (left_ms + 999) / 1000) }
}

/// A point in time to the millisecond, in UTC; empty if unknown.
pub(crate) fn stamp(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(timestamp).map_or_else(String::new, |time| format!("{time:.3}"))
}

/// A point in time and its age; empty if unknown.
pub(crate) fn stamp_and_age(now: Timestamp, time: Option<&prost_types::Timestamp>) -> String {
    match time.and_then(timestamp) {
        Some(_) => format!("{} ({} ago)", stamp(time), age(now, time)),
        None => String::new(),
    }
}

/// "250µs", "1.2ms", "3s", "1h30m"; empty if unknown.
pub(crate) fn proto_duration(duration: Option<&prost_types::Duration>) -> String {
    duration.and_then(|duration| Duration::try_from(*duration).ok()).map_or_else(String::new, self::duration)
}

/// "250µs", "1.2ms", "3s", "1h30m"
pub(crate) fn duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros < 1000 {
        return format!("{micros}µs");
    }
    if micros < 1_000_000 {
        return tenths(micros / 100, "ms");
    }
    let seconds = duration.as_secs();
    if seconds < 60 {
        return tenths(micros / 100_000, "s");
    }
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

fn tenths(tenths: u128, unit: &str) -> String {
    // Past 100 nobody reads the tenth.
    if tenths >= 1000 || tenths.is_multiple_of(10) {
        return format!("{}{unit}", tenths / 10);
    }
    format!("{}.{}{unit}", tenths / 10, tenths % 10)
}

fn timestamp(time: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let now = Timestamp::from_second(1_000_000).expect("a valid time");
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (7200, "2h"), (200_000, "2d"), (-5, "0s")]
        {
            let then = prost_types::Timestamp { seconds: 1_000_000 - seconds, nanos: 0 };
            assert_eq!(age(now, Some(&then)), expected);
        }
        assert_eq!(age(now, None), "");
        assert_eq!(age(now, Some(&prost_types::Timestamp { seconds: i64::MAX, nanos: -1 })), "");
    }

    #[test]
    fn stamps() {
        let time = prost_types::Timestamp { seconds: 1_750_000_000, nanos: 123_456_789 };
        assert_eq!(stamp(Some(&time)), "2025-06-15T15:06:40.123Z");
    }

    #[test]
    fn durations() {
        for (micros, expected) in [
            (0, "0µs"),
            (250, "250µs"),
            (1_250, "1.2ms"),
            (2_000, "2ms"),
            (150_400, "150ms"),
            (1_500_000, "1.5s"),
            (10_000_000, "10s"),
            (90_000_000, "1m30s"),
            (3_600_000_000, "1h"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), expected);
        }
    }
}
