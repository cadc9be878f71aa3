//! Time in whole milliseconds, and where it comes from.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

/// A moment in UTC: whole milliseconds since 1970-01-01T00:00:00Z.
///
/// Every time in the spool, in gRPC, in the verdicts and in JSON is one of these, so that nothing is lost or gained by
/// rounding on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest time a `UUIDv7` can carry (48 bits of milliseconds).
    pub const MAX_IN_ID: Self = Self((1 << 48) - 1);

    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This time moved by `millis` (negative: earlier), held at the ends of the range.
    #[must_use]
    pub const fn saturating_add_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this time; negative if `earlier` is later.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Parses an ISO 8601 / RFC 3339 time with an offset; finer than milliseconds is cut.
    #[must_use]
    pub fn parse_iso(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>()
            .ok()
            .map(|time| Self(time.as_millisecond()))
    }
}

/// ISO 8601 with milliseconds and `Z`, for example `2026-03-01T09:30:00.250Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(formatter, "{time:.3}"),
            Err(_) => write!(formatter, "{} ms", self.0), // beyond the year 9999: no fact can be, see `facts`
        }
    }
}

/// Where the time comes from. Everything that needs the time is given one; only the process's entry picks which.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// A clock that stands until it is moved; its clones share the hands.
#[derive(Clone, Debug, Default)]
pub struct MockClock(Arc<AtomicI64>);

impl MockClock {
    /// A clock standing at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.as_millis())))
    }

    /// Moves the clock by `millis`; negative turns it back.
    pub fn advance_millis(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the clock to `now`.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }
}

impl Clock for MockClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_milliseconds_always_and_z() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_710_000_000_000, "2024-03-09T16:00:00.000Z"),
            (1_710_000_000_007, "2024-03-09T16:00:00.007Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).to_string(), text);
            assert_eq!(Timestamp::parse_iso(text), Some(Timestamp::from_millis(millis)));
        }
    }

    #[test]
    fn parses_offsets_and_cuts_what_is_finer() {
        assert_eq!(
            Timestamp::parse_iso("2024-03-09T17:00:00.0079+01:00"),
            Some(Timestamp::from_millis(1_710_000_000_007))
        );
        for bad in ["", "yesterday", "2024-03-09", "2024-03-09T17:00:00"] {
            assert_eq!(Timestamp::parse_iso(bad), None, "{bad}");
        }
    }
}
