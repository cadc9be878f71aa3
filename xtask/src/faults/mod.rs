//! The fault suite: real services under load while things go wrong, and then the tables held against the log of the load
//! and the reference model. docs/faults.md says what it shows.

mod disk;
mod fake_clock;
mod lanes;
mod schedule;
mod verify;
mod watch;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use futures::future::join_all;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::{
    disk::Disk,
    fake_clock::FakeClock,
    lanes::{Counts, Pacing, PixelLane, PostgresLane, Windows, run_line, run_service},
    schedule::{Flavor, PIXELS, RECORDERS, Schedule},
    verify::Evidence,
};
use crate::{
    load::{self, Shape, Way},
    programs::Programs,
    stack::{Ends, Line, PixelPlan, Plan, Service, Stack},
};

/// How long the pixels may take to bring everything to the recorders once nothing fails any more.
const SETTLE: Duration = Duration::from_mins(2);
/// Short, so that in half a minute there are hits within and beyond it.
const DEDUP_WINDOW_MS: i64 = 1_500;

/// The workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// How much of it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The first schedule's seed; the next ones follow. A seed gives the same faults at the same times again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many schedules.
    #[arg(long, default_value_t = 4)]
    schedules: u64,
    /// How long faults go on in each, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How many schedules run side by side.
    #[arg(long, default_value_t = 2)]
    at_once: usize,
    /// Runs the services as they are shipped rather than as they are debugged.
    #[arg(long)]
    release: bool,
    /// Set by the suite itself: its mounts are seen by nobody else.
    #[arg(long, hide = true)]
    own_mounts: bool,
}

/// What one schedule showed.
pub(crate) struct Report {
    pub(crate) summary: String,
    pub(crate) faults: BTreeMap<String, u64>,
}

/// Runs the schedules. The last line is `test result: …`, as of any test program.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    if is_root && !options.own_mounts {
        return in_own_mount_namespace();
    }
    ensure!(
        fake_clock::library().is_some(),
        "the clocks of pixels are faked by libfaketime: please install it (apt-get install libfaketime)"
    );
    let programs =
        Programs::build(options.release)?.copied_to(Path::new(ROOT).join("target/faults/programs"))?;
    let turns = Arc::new(Semaphore::new(options.at_once));
    let mut running = JoinSet::new();
    let mut left_out = 0;
    for seed in options.seed..options.seed + options.schedules {
        let schedule = Schedule::of(seed, options.seconds);
        if schedule.flavor == Flavor::FullDisk && !is_root {
            left_out += 1;
            continue;
        }
        let (programs, turns) = (programs.clone(), Arc::clone(&turns));
        running.spawn(async move {
            let _turn = turns.acquire_owned().await;
            let flavor = schedule.flavor;
            // A thread of its own, so that a panic is this schedule's alone.
            let outcome =
                spawn_blocking(move || Handle::current().block_on(run_schedule(programs, schedule))).await;
            (
                seed,
                flavor,
                outcome.context("it could not be carried out").flatten(),
            )
        });
    }
    if left_out > 0 {
        println!(
            "{left_out} schedules fill a disk, for which a small one is mounted: they need root, and are left out"
        );
    }
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    let mut failed = 0;
    let begun = Instant::now();
    while let Some(ended) = running.join_next().await {
        let (seed, flavor, outcome) = ended.context("a schedule's task")?;
        match outcome {
            Ok(report) => {
                println!("test seed {seed} ({flavor:?}) ... ok: {}", report.summary);
                for (name, count) in report.faults {
                    *faults.entry(name).or_default() += count;
                }
            }
            Err(error) => {
                failed += 1;
                println!("test seed {seed} ({flavor:?}) ... FAILED\n{error:#}");
            }
        }
    }
    println!("\nfaults injected:");
    for (name, count) in &faults {
        println!("{count:6} {name}");
    }
    println!(
        "{:6} in all, in {:?}",
        faults.values().sum::<u64>(),
        begun.elapsed()
    );
    let passed = options.schedules - failed - left_out;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; {left_out} ignored");
    if failed > 0 {
        bail!("{failed} schedules failed; their logs are below target/faults");
    }
    Ok(())
}

/// Starts this program again where what it mounts is seen by nobody else and goes with it.
fn in_own_mount_namespace() -> anyhow::Result<()> {
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--own-mounts")
        .exec();
    Err(error).context("cannot run unshare (of util-linux)")
}

/// One schedule, from the empty database to the verdict.
async fn run_schedule(programs: Programs, schedule: Schedule) -> anyhow::Result<Report> {
    let folder = fresh_folder(schedule.seed)?;
    let disk = (schedule.flavor == Flavor::FullDisk).then(|| Disk::mount(&folder.join("disk")));
    let clocks: Vec<Option<Arc<FakeClock>>> = (0..PIXELS)
        .map(|index| {
            let offset = if index == 0 { 0 } else { 7 };
            let file = folder.join(format!("clock-{index}"));
            (schedule.flavor == Flavor::Clocks).then(|| Arc::new(FakeClock::new(file, offset)))
        })
        .collect();
    let stack = Stack::start(&programs, &plan(&folder, &clocks, disk.is_some()), &folder).await?;
    let evidence = inject(&schedule, stack, clocks, disk).await?;
    let summary = verify::check(&schedule, &evidence).await?;
    let faults = evidence.faults.all();
    drop(evidence);
    fs::remove_dir_all(&folder)?;
    Ok(Report { summary, faults })
}

fn fresh_folder(seed: u64) -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    let folder = root.join(format!("target/faults/seed-{seed}"));
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
        recorders: RECORDERS,
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
    let Stack {
        pixels,
        recorders,
        dashboard,
        lines,
        database,
        postgres,
    } = stack;
    let lines: Arc<[Line]> = lines.into();
    let ways = ways(&pixels, &lines);
    let standby = match schedule.flavor {
        Flavor::Failover => Some(postgres.standby().await),
        _ => None,
    };
    let down: Vec<Arc<Windows>> = pixels.iter().map(|_| Arc::default()).collect();
    let line_faults: Vec<Windows> = lines.iter().map(|_| Windows::default()).collect();

    let stop = CancellationToken::new();
    let shape = Shape {
        seed: schedule.seed,
        clients: 12,
        pause: Duration::from_millis(60),
        emails: 40,
    };
    let sending = tokio::spawn({
        let stop = stop.clone();
        async move { load::run(&shape, &ways, stop).await }
    });
    let to_dashboard = line_of(&lines, Ends::LoadToDashboard).proxy.address();
    let watching = tokio::spawn(watch::dashboard(to_dashboard, stop.clone()));

    let lasts = Duration::from_secs(schedule.seconds);
    let pacing = Pacing::new(lasts, Counts::default());
    let mut disk = disk;
    let pixel_lanes = pixels.into_iter().enumerate().map(|(index, pixel)| PixelLane {
        pixel,
        down: Arc::clone(&down[index]),
        clock: clocks[index].clone(),
        disk: disk.take(),
    });
    let pixel_lanes: Vec<PixelLane> = pixel_lanes.collect();
    let postgres_lane = PostgresLane::new(postgres, standby, Arc::clone(&lines), &database, schedule.seed);
    let (pixel_lanes, mut recorders, mut dashboard, postgres, _, ()) = tokio::join!(
        join_all(
            pixel_lanes
                .into_iter()
                .zip(&schedule.pixels)
                .map(|(it, lane)| it.run(&pacing, lane))
        ),
        join_all(
            recorders
                .into_iter()
                .zip(&schedule.recorders)
                .map(|(recorder, lane)| run_service(recorder, "recorder", &pacing, lane))
        ),
        run_service(dashboard, "dashboard", &pacing, &schedule.dashboard),
        postgres_lane.run(&pacing, &schedule.postgres),
        join_all(
            lines
                .iter()
                .zip(&line_faults)
                .zip(&schedule.lines)
                .filter(|((line, _), _)| !is_spared(schedule, line))
                .map(|((line, windows), lane)| run_line(line, windows, &pacing, lane))
        ),
        sleep(lasts),
    );
    stop.cancel();
    let log = sending.await.context("the load")?;
    let watched = watching.await.context("the dashboard's reader")??;

    let mut pixels: Vec<Service> = Vec::new();
    let mut disks = Vec::new();
    for lane in pixel_lanes {
        pixels.push(lane.pixel);
        disks.extend(lane.disk);
    }
    for service in recorders.iter_mut().chain(&mut pixels).chain([&mut dashboard]) {
        service.ready().await;
    }
    settle(&pixels).await?;
    let losses = losses(&pixels).await?;
    Ok(Evidence {
        log,
        watched,
        losses,
        faults: pacing.counts.clone(),
        down,
        line_faults: lines
            .iter()
            .zip(line_faults)
            .filter_map(|(line, windows)| match line.ends {
                Ends::LoadToPixel(pixel) => Some((pixel, windows)),
                _ => None,
            })
            .collect(),
        clocks,
        rules: tracking::Rules {
            dedup_window_ms: DEDUP_WINDOW_MS,
            ..tracking::Rules::default()
        },
        database_name: database.name().to_owned(),
        dashboard,
        _pixels: pixels,
        _recorders: recorders,
        _disks: disks,
        _lines: lines,
        _database: database,
        postgres,
    })
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
