//! One schedule: everything is started, disturbed, mended and left to settle.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures::future::join_all;
use test_support::PrivatePostgres;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    ROOT,
    disk::Disk,
    fake_clock::{self, FakeClock},
    lanes::{Counts, Pacing, PixelLane, PostgresLane, Windows, run_line, run_service},
    schedule::{Flavor, PIXELS, RECORDERS, Schedule},
    verify::{self, Evidence},
    watch,
};
use crate::{
    load::{self, Sent, Shape, Way},
    programs::Programs,
    stack::{Ends, Line, PixelPlan, Plan, Service, Stack},
};

/// How long the pixels may take to bring everything to the recorders once nothing fails any more.
const SETTLE: Duration = Duration::from_mins(2);
/// Short, so that in half a minute there are hits within and beyond it.
const DEDUP_WINDOW_MS: i64 = 1_500;

/// What one schedule showed.
pub(super) struct Report {
    pub(super) summary: String,
    pub(super) faults: BTreeMap<String, u64>,
}

/// One schedule, from the empty database to the verdict.
pub(super) async fn schedule(programs: &Programs, schedule: &Schedule) -> anyhow::Result<Report> {
    let folder = fresh_folder(schedule.seed)?;
    let disk = (schedule.flavor == Flavor::FullDisk).then(|| Disk::mount(&folder.join("disk")));
    let clocks: Vec<Option<Arc<FakeClock>>> = (0..PIXELS)
        .map(|index| {
            let offset = if index == 0 { 0 } else { 7 };
            let file = folder.join(format!("clock-{index}"));
            (schedule.flavor == Flavor::Clocks).then(|| Arc::new(FakeClock::new(file, offset)))
        })
        .collect();
    let stack = Stack::start(programs, &plan(&folder, &clocks, disk.is_some()), &folder).await?;
    let evidence = inject(schedule, stack, clocks, disk).await?;
    let summary = verify::check(schedule, &evidence).await?;
    let faults = evidence.faults.all();
    drop(evidence);
    fs::remove_dir_all(&folder)?;
    Ok(Report { summary, faults })
}

fn fresh_folder(seed: u64) -> anyhow::Result<PathBuf> {
    let folder = Path::new(ROOT).join(format!("target/faults/seed-{seed}"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn plan(folder: &Path, clocks: &[Option<Arc<FakeClock>>], has_disk: bool) -> Plan {
    let library = fake_clock::library().unwrap_or_default();
    let pixels = clocks.iter().enumerate().map(|(index, clock)| {
        let mut pixel = PixelPlan::default();
        if let Some(clock) = clock {
            pixel.variables = clock.variables(&library);
        }
        if has_disk && index == 0 {
            pixel.spool = Some(folder.join("disk/spool"));
            // So small that it also fills up by itself while the recorders are away.
            pixel
                .variables
                .push(("SPOOL_MAX_BYTES".to_owned(), "256KiB".to_owned()));
        }
        pixel
    });
    Plan {
        pixels: pixels.collect(),
        recorders: vec![Vec::new(); RECORDERS],
        dedup_window_ms: DEDUP_WINDOW_MS,
        failing_lines: true,
    }
}

/// Runs the load and the faults, mends everything, and waits until all that was answered has been forwarded.
async fn inject(
    schedule: &Schedule,
    stack: Stack,
    clocks: Vec<Option<Arc<FakeClock>>>,
    disk: Option<Disk>,
) -> anyhow::Result<Evidence> {
    let lines: Arc<[Line]> = stack.lines.into();
    let line_windows: Vec<Windows> = lines.iter().map(|_| Windows::default()).collect();
    let down: Vec<Arc<Windows>> = stack.pixels.iter().map(|_| Arc::default()).collect();
    let stop = CancellationToken::new();
    let sending = tokio::spawn(send(schedule.seed, ways(&stack.pixels, &lines), stop.clone()));
    let to_dashboard = line_of(&lines, Ends::LoadToDashboard).proxy.address();
    let watching = tokio::spawn(watch::dashboard(to_dashboard, stop.clone()));

    let standby = match schedule.flavor {
        Flavor::Failover => Some(stack.postgres.standby().await),
        _ => None,
    };
    let mut disk = disk;
    let targets = Targets {
        pixels: stack
            .pixels
            .into_iter()
            .enumerate()
            .map(|(index, pixel)| PixelLane {
                pixel,
                down: Arc::clone(&down[index]),
                clock: clocks[index].clone(),
                disk: disk.take(),
            })
            .collect(),
        recorders: stack.recorders,
        dashboard: stack.dashboard,
        postgres: PostgresLane::new(
            stack.postgres,
            standby,
            Arc::clone(&lines),
            &stack.database,
            schedule.seed,
        ),
    };
    let pacing = Pacing::new(Duration::from_secs(schedule.seconds), Counts::default());
    let mut mended = targets.disturb(schedule, &pacing, &lines, &line_windows).await;
    stop.cancel();
    let log = sending.await.context("the load")?;
    let watched = watching.await.context("the dashboard's reader")??;

    for service in mended.services() {
        service.ready().await;
    }
    settle(&mended.pixels).await?;
    Ok(Evidence {
        log,
        watched,
        losses: losses(&mended.pixels).await?,
        faults: pacing.counts,
        down,
        line_windows: lines.iter().map(|line| line.ends).zip(line_windows).collect(),
        clocks,
        rules: tracking::Rules {
            dedup_window_ms: DEDUP_WINDOW_MS,
            ..tracking::Rules::default()
        },
        mended,
        _lines: lines,
        database: stack.database,
    })
}

/// Everything that faults are injected into.
struct Targets {
    pixels: Vec<PixelLane>,
    recorders: Vec<Service>,
    dashboard: Service,
    postgres: PostgresLane,
}

/// What runs after the last fault.
pub(super) struct Mended {
    pub(super) pixels: Vec<Service>,
    pub(super) recorders: Vec<Service>,
    pub(super) dashboard: Service,
    pub(super) postgres: PrivatePostgres,
    /// After the services, whose files are on them.
    _disks: Vec<Disk>,
}

impl Targets {
    /// All lanes at once, until the last one is through and the schedule's time is over.
    async fn disturb(
        self,
        schedule: &Schedule,
        pacing: &Pacing,
        lines: &[Line],
        line_windows: &[Windows],
    ) -> Mended {
        let pixels = self.pixels.into_iter().zip(&schedule.pixels);
        let recorders = self.recorders.into_iter().zip(&schedule.recorders);
        let lines = lines.iter().zip(line_windows).zip(&schedule.lines);
        let (pixels, recorders, dashboard, postgres, _, ()) = tokio::join!(
            join_all(pixels.map(|(pixel, lane)| pixel.run(pacing, lane))),
            join_all(recorders.map(|(recorder, lane)| run_service(recorder, "recorder", pacing, lane))),
            run_service(self.dashboard, "dashboard", pacing, &schedule.dashboard),
            self.postgres.run(pacing, &schedule.postgres),
            join_all(
                lines
                    .filter(|((line, _), _)| !is_spared(schedule, line))
                    .map(|((line, windows), lane)| run_line(line, windows, pacing, lane))
            ),
            sleep(Duration::from_secs(schedule.seconds)),
        );
        let (pixels, disks): (Vec<Service>, Vec<Option<Disk>>) =
            pixels.into_iter().map(|lane| (lane.pixel, lane.disk)).unzip();
        Mended {
            pixels,
            recorders,
            dashboard,
            postgres,
            _disks: disks.into_iter().flatten().collect(),
        }
    }
}

impl Mended {
    fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        self.recorders
            .iter_mut()
            .chain(&mut self.pixels)
            .chain([&mut self.dashboard])
    }
}

async fn send(seed: u64, ways: Vec<Way>, stop: CancellationToken) -> Vec<Sent> {
    let shape = Shape {
        seed,
        clients: 12,
        pause: Duration::from_millis(60),
        emails: 40,
    };
    load::run(&shape, &ways, stop).await
}

/// With a full disk each request to that pixel has to be answered, or losses could not be counted from outside.
fn is_spared(schedule: &Schedule, line: &Line) -> bool {
    schedule.flavor == Flavor::FullDisk && line.ends == Ends::LoadToPixel(0)
}

fn ways(pixels: &[Service], lines: &[Line]) -> Vec<Way> {
    pixels
        .iter()
        .enumerate()
        .map(|(index, pixel)| Way {
            direct: pixel.address,
            line: line_of(lines, Ends::LoadToPixel(index)).proxy.address(),
        })
        .collect()
}

fn line_of(lines: &[Line], ends: Ends) -> &Line {
    lines
        .iter()
        .find(|line| line.ends == ends)
        .expect("a stack with such a line")
}

/// Waits until the pixels have nothing left to forward.
async fn settle(pixels: &[Service]) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let mut unsent = 0.0;
        for pixel in pixels {
            for metric in [
                "email_tracker_pixel_spool_records",
                "email_tracker_pixel_facts_overdue",
            ] {
                unsent += pixel.metric(metric).await.unwrap_or(f64::INFINITY);
            }
        }
        if unsent == 0.0 {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < SETTLE,
            "{unsent} facts are still in the spools {SETTLE:?} after the last fault"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// What each pixel has counted as lost since it was started, or has set aside.
async fn losses(pixels: &[Service]) -> anyhow::Result<Vec<u64>> {
    let mut losses = Vec::new();
    for pixel in pixels {
        let metric = async |name: &str| -> anyhow::Result<u64> {
            let value = pixel
                .metric(name)
                .await
                .with_context(|| format!("{name} of {}", pixel.name))?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::as_conversions,
                reason = "a count"
            )]
            Ok(value as u64)
        };
        ensure!(
            metric("email_tracker_pixel_spool_set_aside").await? == 0,
            "{} has set facts aside",
            pixel.name
        );
        losses.push(metric("email_tracker_pixel_facts_lost_total").await?);
    }
    Ok(losses)
}
