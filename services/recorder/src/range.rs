//! Which times a fact may have.

use recorder_api::Outcome;
use tracking::{Clock, Timestamp};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// 2000-01-01T00:00:00Z: no mail was tracked before.
const EARLIEST: Timestamp = Timestamp::from_millis(946_684_800_000);

/// How far ahead of this recorder's clock a pixel's may be.
const MOST_AHEAD_MS: i64 = DAY_MS;

/// Facts outside this range are refused: beyond its ends they would ask for partitions without end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// How long facts are kept; `None`: for ever.
    retention_days: Option<u32>,
}

impl Range {
    pub(crate) fn new(retention_days: Option<u32>) -> Self {
        Self { retention_days }
    }

    /// Why a fact of time `at` is refused now, if it is.
    pub(crate) fn refusal(self, clock: &dyn Clock, at: Timestamp) -> Option<Outcome> {
        let now = clock.now();
        if at < EARLIEST || at > now.saturating_add_millis(MOST_AHEAD_MS) {
            Some(Outcome::OutOfRange)
        } else if self.floor(now).is_some_and(|floor| at < floor) {
            Some(Outcome::Expired)
        } else {
            None
        }
    }

    /// The time before which nothing is kept, if there is one.
    pub(crate) fn floor(self, now: Timestamp) -> Option<Timestamp> {
        self.retention_days
            .map(|days| now.saturating_add_millis(-DAY_MS * i64::from(days)))
    }
}

#[cfg(test)]
mod tests {
    use tracking::MockClock;

    use super::*;

    #[test]
    fn facts_are_taken_from_the_floor_to_a_day_ahead() {
        let now = Timestamp::parse_iso("2026-03-01T12:00:00Z").unwrap();
        let clock = MockClock::at(now);
        let refusal = |days, at: &str| Range::new(days).refusal(&clock, Timestamp::parse_iso(at).unwrap());
        assert_eq!(refusal(None, "2026-03-02T12:00:00.000Z"), None);
        assert_eq!(
            refusal(None, "2026-03-02T12:00:00.001Z"),
            Some(Outcome::OutOfRange)
        );
        assert_eq!(refusal(None, "2000-01-01T00:00:00.000Z"), None);
        assert_eq!(
            refusal(None, "1999-12-31T23:59:59.999Z"),
            Some(Outcome::OutOfRange)
        );
        assert_eq!(refusal(Some(30), "2026-01-30T12:00:00.000Z"), None);
        assert_eq!(
            refusal(Some(30), "2026-01-30T11:59:59.999Z"),
            Some(Outcome::Expired)
        );
        assert_eq!(
            refusal(Some(30), "1999-12-31T23:59:59.999Z"),
            Some(Outcome::OutOfRange)
        );
    }
}
