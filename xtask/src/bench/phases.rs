//! Latencies by the phases of a steady load, the first of which is the measure for the others.

use std::time::Duration;

use anyhow::ensure;

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

    /// The latency that 99 of 100 of its hits stay within.
    pub(super) fn p99(&self) -> Duration {
        self.latencies.permille(990)
    }
}

/// With half of the hits of the first phase later than this, the load itself is what waits.
const NOT_BORNE: Duration = Duration::from_millis(500);

/// A row for each phase. Fails if the machine did not bear the load even in the first one: then the latencies say how long
/// the measurement went on, and nothing about the pixel.
pub(super) fn table(phases: &[Phase]) -> anyhow::Result<Table> {
    let usual = phases[0].latencies.permille(500);
    ensure!(
        usual < NOT_BORNE,
        "the load is more than this machine bears now: half of the hits took longer than {usual:.1?} in the phase {:?}, \
         before anything was disturbed. Measure again when nothing else runs",
        phases[0].name
    );
    for phase in phases {
        ensure!(
            phase.latencies.count() > 0,
            "no hit was due in the phase {:?}",
            phase.name
        );
    }
    let typical = |phase: &Phase| phase.latencies.typical_second_p99;
    let rows = phases.iter().map(|phase| {
        vec![
            phase.name.into(),
            Cell::Time(phase.length),
            Cell::Count(phase.latencies.count()),
            Cell::Time(phase.latencies.permille(500)),
            Cell::Time(phase.p99()),
            Cell::Time(phase.latencies.permille(999)),
            Cell::Time(phase.latencies.permille(1_000)),
            Cell::Times(phase.p99().div_duration_f64(phases[0].p99())),
            Cell::Time(typical(phase)),
            Cell::Times(typical(phase).div_duration_f64(typical(&phases[0]))),
        ]
    });
    Ok(Table {
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
    })
}
