//! Slots, which charts are drawn from: quarters of an hour, since the days and hours of every time zone are made of them.
//! The recorder counts opens by them and the dashboard reads them, so both have to mean the same.

use crate::Timestamp;

/// How long a slot is, in milliseconds.
pub const SLOT_MS: i64 = 15 * 60 * 1_000;
/// How long a day in UTC is, in milliseconds.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// When the slot of a time begins.
#[must_use]
pub fn slot_of(at: Timestamp) -> Timestamp {
    begin(at, SLOT_MS)
}

/// When the day of a time begins, in UTC.
#[must_use]
pub fn day_of(at: Timestamp) -> Timestamp {
    begin(at, DAY_MS)
}

fn begin(at: Timestamp, length_ms: i64) -> Timestamp {
    let into_it = at.as_millis().rem_euclid(length_ms);
    at.saturating_add_millis(-into_it)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_and_days_begin_at_round_times_also_before_the_epoch() {
        let at = |text: &str| Timestamp::parse_iso(text).unwrap();
        for (time, slot, day) in [
            (
                "2026-03-01T09:44:59.999Z",
                "2026-03-01T09:30:00Z",
                "2026-03-01T00:00:00Z",
            ),
            (
                "2026-03-01T00:00:00Z",
                "2026-03-01T00:00:00Z",
                "2026-03-01T00:00:00Z",
            ),
            (
                "1969-12-31T23:59:59.999Z",
                "1969-12-31T23:45:00Z",
                "1969-12-31T00:00:00Z",
            ),
        ] {
            assert_eq!(
                (slot_of(at(time)), day_of(at(time))),
                (at(slot), at(day)),
                "{time}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_time_lies_in_its_slot(millis: i64) {
            let at = Timestamp::from_millis(millis);
            let begun = slot_of(at);
            prop_assert!(begun <= at && (0..SLOT_MS).contains(&at.millis_since(begun)));
        }
    }
}
