//! Latencies by the phases of a steady load, the first of which is the measure for the others.

use std::time::Duration;

use super::{
    report::{Cell, Table},
    steady::{Latencies, Samples},
};

/// A part of the time of a load.
pub(super) struct Phase {
    name: &'static str,
    length: Duration,
    latencies: Latencies,
}

impl Phase {
    /// The part of a load between two times since its begin.
    pub(super) fn of(samples: &Samples, name: &'static str, from: Duration, to: Duration) -> Self {
        Self {
            name,
            length: to.saturating_sub(from),
            latencies: samples.between(from, to),
        }
    }
}

/// A row for each phase.
pub(super) fn table(phases: &[Phase]) -> Table {
    let p99 = |phase: &Phase| phase.latencies.permille(990);
    let typical = |phase: &Phase| phase.latencies.typical_second_p99;
    let rows = phases.iter().map(|phase| {
        vec![
            phase.name.into(),
            Cell::Time(phase.length),
            Cell::Count(phase.latencies.count()),
            Cell::Time(phase.latencies.permille(500)),
            Cell::Time(p99(phase)),
            Cell::Time(phase.latencies.permille(999)),
            Cell::Time(phase.latencies.permille(1_000)),
            Cell::Times(p99(phase).div_duration_f64(p99(&phases[0]))),
            Cell::Time(typical(phase)),
            Cell::Times(typical(phase).div_duration_f64(typical(&phases[0]))),
        ]
    });
    Table {
        rows: rows.collect(),
        columns: vec![
            "phase",
            "length",
            "hits",
            "p50",
            "p99",
            "p99.9",
            "longest",
            "p99 / first p99",
            "typical second's p99",
            "the same / first",
        ],
    }
}
