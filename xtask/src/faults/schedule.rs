//! What goes wrong, when, and for how long: all of it follows from the seed.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use test_support::Direction;

/// Pixels and recorders of a schedule.
pub(crate) const PIXELS: usize = 2;
pub(crate) const RECORDERS: usize = 2;

/// One run of the suite.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) flavor: Flavor,
    pub(crate) pixels: Vec<Lane<PixelFault>>,
    pub(crate) recorders: Vec<Lane<ServiceFault>>,
    pub(crate) dashboard: Lane<ServiceFault>,
    pub(crate) postgres: Lane<PostgresFault>,
    /// In the order in which the stack has its lines.
    pub(crate) lines: Vec<Lane<LineFault>>,
}

/// What a schedule has beyond the rest: each needs something to be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavor {
    Plain,
    /// The pixels' clocks disagree and step.
    Clocks,
    /// The first pixel's spool is small, on a small disk that fills up. That pixel is not ended, so that its count of
    /// losses can be read at the end.
    FullDisk,
    /// The primary dies for good and its standby takes over, after a while of being read-only.
    Failover,
}

/// Faults of one target, one after the other.
pub(crate) type Lane<F> = Vec<Timed<F>>;

/// A fault that begins some time after the one before it has been mended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timed<F> {
    pub(crate) after: Duration,
    pub(crate) fault: F,
    pub(crate) lasts: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceFault {
    Kill,
    Terminate,
    Freeze,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PixelFault {
    Service(ServiceFault),
    /// The clock is this many seconds off from now on.
    Clock(i64),
    FullDisk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostgresFault {
    Crash,
    Kill,
    KillBackend,
    Restart,
    Freeze,
    /// The answers to commits are held back, and then the server crashes: it has committed, and nobody was told.
    CrashInCommit,
    NoConnections,
    StatementTimeout,
    ReadOnly,
    Failover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineFault {
    Cut,
    Delay(Direction, Duration),
    HalfClose(Direction),
    Stall(Direction),
    Refuse,
}

impl ServiceFault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Terminate => "SIGTERM",
            Self::Freeze => "SIGSTOP",
        }
    }
}

impl PixelFault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Service(fault) => fault.name(),
            Self::Clock(_) => "clock steps",
            Self::FullDisk => "disk full",
        }
    }
}

impl PostgresFault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Kill => "kill -9",
            Self::KillBackend => "kill -9 of a backend",
            Self::Restart => "restart",
            Self::Freeze => "SIGSTOP",
            Self::CrashInCommit => "crash in mid-commit",
            Self::NoConnections => "connections exhausted",
            Self::StatementTimeout => "statement time-outs",
            Self::ReadOnly => "read-only",
            Self::Failover => "failover to the standby",
        }
    }
}

impl LineFault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Delay(..) => "delay",
            Self::HalfClose(_) => "half-close",
            Self::Stall(_) => "stall",
            Self::Refuse => "refuse",
        }
    }
}

impl Schedule {
    /// The schedule of this seed.
    pub(crate) fn of(seed: u64, seconds: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed);
        let flavor = match seed % 4 {
            0 => Flavor::FullDisk,
            1 => Flavor::Clocks,
            2 => Flavor::Failover,
            _ => Flavor::Plain,
        };
        let pixels = (0..PIXELS)
            .map(|index| lane(random, seconds, 5.0, |random| pixel_fault(random, flavor, index)))
            .collect();
        let recorders = (0..RECORDERS)
            .map(|_| lane(random, seconds, 5.0, service_fault))
            .collect();
        let dashboard = lane(random, seconds, 8.0, service_fault);
        let mut postgres = lane(random, seconds, 5.0, postgres_fault);
        if flavor == Flavor::Failover {
            let failover = Timed {
                after: millis(random, 1_000, 3_000),
                fault: PostgresFault::Failover,
                lasts: millis(random, 500, 2_500),
            };
            let among = postgres.len().min(2);
            postgres.insert(random.random_range(0..=among), failover);
        }
        // Each recorder to PostgreSQL, each pixel to each recorder and the load to it, the dashboard to PostgreSQL and its
        // reader to it.
        let lines = RECORDERS + PIXELS * (RECORDERS + 1) + 2;
        let lines = (0..lines)
            .map(|_| lane(random, seconds, 9.0, line_fault))
            .collect();
        Self {
            seed,
            seconds,
            flavor,
            pixels,
            recorders,
            dashboard,
            postgres,
            lines,
        }
    }
}

/// Faults until the time is over, at random distances. One lane in five stays calm.
fn lane<F>(
    random: &mut StdRng,
    seconds: u64,
    mean_gap: f64,
    mut pick: impl FnMut(&mut StdRng) -> (F, Duration),
) -> Lane<F> {
    let calm = random.random_bool(0.2);
    let (mut lane, mut at) = (Vec::new(), Duration::ZERO);
    loop {
        let after = Duration::from_secs_f64(0.3 + 2.0 * mean_gap * random.random::<f64>());
        let (fault, lasts) = pick(random);
        at += after + lasts;
        if calm || at >= Duration::from_secs(seconds) {
            return lane;
        }
        lane.push(Timed { after, fault, lasts });
    }
}

fn pixel_fault(random: &mut StdRng, flavor: Flavor, index: usize) -> (PixelFault, Duration) {
    match flavor {
        Flavor::Clocks if random.random_bool(0.5) => {
            let steps = [-40 * 86_400, -3_600, -31, -5, -1, 0, 1, 5, 31, 3_600, 20 * 3_600];
            let offset = *steps.choose(random).expect("some");
            (PixelFault::Clock(offset), Duration::ZERO)
        }
        Flavor::FullDisk if index == 0 => {
            if random.random_bool(0.6) {
                return (PixelFault::FullDisk, millis(random, 200, 3_000));
            }
            (
                PixelFault::Service(ServiceFault::Freeze),
                millis(random, 50, 3_000),
            )
        }
        _ => {
            let (fault, lasts) = service_fault(random);
            (PixelFault::Service(fault), lasts)
        }
    }
}

fn service_fault(random: &mut StdRng) -> (ServiceFault, Duration) {
    let faults = [ServiceFault::Kill, ServiceFault::Terminate, ServiceFault::Freeze];
    (*faults.choose(random).expect("some"), millis(random, 0, 3_000))
}

fn postgres_fault(random: &mut StdRng) -> (PostgresFault, Duration) {
    let faults = [
        PostgresFault::Crash,
        PostgresFault::Kill,
        PostgresFault::KillBackend,
        PostgresFault::Restart,
        PostgresFault::Freeze,
        PostgresFault::CrashInCommit,
        PostgresFault::NoConnections,
        PostgresFault::StatementTimeout,
        PostgresFault::ReadOnly,
    ];
    (*faults.choose(random).expect("some"), millis(random, 0, 3_000))
}

fn line_fault(random: &mut StdRng) -> (LineFault, Duration) {
    let directions = [Direction::ToServer, Direction::ToClient];
    let direction = *directions.choose(random).expect("some");
    let faults = [
        LineFault::Cut,
        LineFault::Delay(direction, millis(random, 1, 300)),
        LineFault::HalfClose(direction),
        LineFault::Stall(direction),
        LineFault::Refuse,
    ];
    let fault = *faults.choose(random).expect("some");
    match fault {
        LineFault::Cut | LineFault::HalfClose(_) => (fault, Duration::ZERO),
        _ => (fault, millis(random, 50, 3_000)),
    }
}

fn millis(random: &mut StdRng, least: u64, most: u64) -> Duration {
    Duration::from_millis(random.random_range(least..=most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_and_four_seeds_every_flavor() {
        let schedules: Vec<_> = (8..12).map(|seed| Schedule::of(seed, 30)).collect();
        for schedule in &schedules {
            assert_eq!(*schedule, Schedule::of(schedule.seed, 30));
        }
        let flavors: Vec<_> = schedules.iter().map(|schedule| schedule.flavor).collect();
        for flavor in [Flavor::Plain, Flavor::Clocks, Flavor::FullDisk, Flavor::Failover] {
            assert!(flavors.contains(&flavor), "{flavor:?} in {flavors:?}");
        }
    }

    #[test]
    fn the_pixel_whose_losses_are_read_is_not_ended() {
        for seed in (0..400).step_by(4) {
            let schedule = Schedule::of(seed, 60);
            assert_eq!(schedule.flavor, Flavor::FullDisk);
            let ends = schedule.pixels[0].iter().any(|timed| {
                matches!(
                    timed.fault,
                    PixelFault::Service(ServiceFault::Kill | ServiceFault::Terminate)
                )
            });
            assert!(!ends, "seed {seed}");
        }
    }

    #[test]
    fn no_fault_lasts_beyond_the_schedule() {
        for seed in 0..40 {
            let schedule = Schedule::of(seed, 30);
            for lane in &schedule.lines {
                let total: Duration = lane.iter().map(|timed| timed.after + timed.lasts).sum();
                assert!(total < Duration::from_secs(30));
            }
        }
    }
}
