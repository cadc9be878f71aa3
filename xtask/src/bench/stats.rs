//! Medians and their spread.

use std::time::Duration;

/// The values of some rounds, in order; there is at least one.
#[derive(Clone, Debug)]
pub(super) struct Rounds(Vec<f64>);

impl Rounds {
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub(super) fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    pub(super) fn lowest(&self) -> f64 {
        self.0[0]
    }

    pub(super) fn highest(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

/// Some durations, in order; there is at least one.
#[derive(Clone, Debug)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub(super) fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }

    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.0.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn median(&self) -> Duration {
        self.permille(500)
    }

    pub(super) fn longest(&self) -> Duration {
        self.0[self.0.len() - 1]
    }

    /// What so many of a thousand stay within, by nearest rank.
    pub(super) fn permille(&self, permille: usize) -> Duration {
        let rank = (self.0.len() * permille).div_ceil(1_000);
        self.0[rank.saturating_sub(1)]
    }
}

/// Events a second.
pub(super) fn rate(count: u64, time: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / time.as_secs_f64()
}
