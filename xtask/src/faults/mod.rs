//! The fault suite: real services under load while things go wrong, and then the tables held against the log of the load
//! and the reference model. docs/faults.md says what it shows.

mod carry_out;
mod disk;
mod fake_clock;
mod lanes;
mod schedule;
mod verify;
mod watch;

use std::{
    collections::BTreeMap, os::unix::process::CommandExt, path::Path, process::Command, sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
};

use self::schedule::{Flavor, Schedule};
use crate::programs::Programs;

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
                spawn_blocking(move || Handle::current().block_on(carry_out::schedule(&programs, &schedule)))
                    .await;
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
