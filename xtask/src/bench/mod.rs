//! The benchmarks: each measures real processes and compares what it finds within one run. docs/performance.md says what
//! the figures mean. Nothing here judges a time; what is wrong ends a measurement: a status other than 200, counts that
//! do not agree.

mod backlog;
mod compose;
mod edge;
mod flood;
mod footprint;
mod growth;
mod headlines;
mod hits;
mod machine;
mod nginx;
mod opens;
mod outage;
mod phases;
mod pixel;
mod polls;
mod process;
mod psql;
mod reader;
mod reads;
mod recorder;
mod report;
mod start;
mod stats;
mod steady;
mod subject;
mod upkeep;
mod visible;
mod wrk;

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use self::{headlines::Headlines, report::Report};
use crate::programs::Programs;

/// The workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What to measure.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The measurements; all of them if none is named.
    names: Vec<Name>,
    /// How many hits `growth` stores beside a million: about 700 bytes of disk each.
    #[arg(long, default_value_t = 30_000_000)]
    hits: u32,
    /// The folder of programs that are built already, such as another revision's; else they are built.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// How long `upkeep` loads the database, in minutes.
    #[arg(long, default_value_t = 20)]
    minutes: u32,
    /// Wait for Enter once `growth` has filled its databases: what comes then wants the machine to itself.
    #[arg(long)]
    pause: bool,
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// The pixel's latency before, during and after an outage of recorder and PostgreSQL.
    Outage,
    /// The pixel with a backlog of a million hits: memory, start, latency while it drains.
    Backlog,
    /// The pixel against nginx serving a constant GIF.
    Pixel,
    /// The recorder against binary COPY of the same rows.
    Recorder,
    /// The dashboard's lists against psql, unchanged, compressed, by pages, and under load.
    Reads,
    /// From the pixel's answer until the open is in the dashboard's API.
    Visible,
    /// Batches, polls and pages with a million hits stored and with many.
    Growth,
    /// What a load leaves to vacuum, and retention while hits are recorded.
    Upkeep,
    /// The pixel by itself, through Caddy and through nginx. Needs Docker.
    Edge,
    /// Until everything answers, natively and by compose, and what the images weigh. Needs Docker.
    Start,
    /// Memory of the services, idle and under load.
    Footprint,
}

impl Name {
    async fn measure(self, bench: &Bench) -> anyhow::Result<Report> {
        match self {
            Self::Outage => outage::measure(bench).await,
            Self::Backlog => backlog::measure(bench).await,
            Self::Pixel => pixel::measure(bench).await,
            Self::Recorder => recorder::measure(bench).await,
            Self::Reads => reads::measure(bench).await,
            Self::Visible => visible::measure(bench).await,
            Self::Growth => growth::measure(bench).await,
            Self::Upkeep => upkeep::measure(bench).await,
            Self::Edge => edge::measure(bench).await,
            Self::Start => start::measure(bench).await,
            Self::Footprint => footprint::measure(bench).await,
        }
    }
}

/// What all measurements use.
struct Bench {
    programs: Programs,
    /// For results, and for what a measurement leaves on disk while it runs.
    folder: PathBuf,
    /// What has a goal.
    headlines: Headlines,
    options: Options,
}

impl Bench {
    /// Waits for Enter, if that was asked for.
    fn pause(&self, what: &str) -> anyhow::Result<()> {
        if self.options.pause {
            println!("{what}; press Enter to go on");
            std::io::stdin().read_line(&mut String::new())?;
        }
        Ok(())
    }
}

/// Measures, prints, and keeps the results as JSON in `target/bench`.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        return as_it_is_shipped();
    }
    let folder = Path::new(ROOT).join("target/bench");
    let programs = match &options.programs {
        Some(built) => Programs::built_in(built.clone()),
        None => Programs::build(true)?,
    };
    let programs = programs.copied_to(folder.join("programs"))?;
    let names = if options.names.is_empty() {
        Name::value_variants().to_vec()
    } else {
        options.names.clone()
    };
    let bench = Bench {
        programs,
        folder,
        headlines: Headlines::default(),
        options,
    };
    let machine = machine::facts()?;
    println!("{machine:#}\n");
    for name in names {
        let value = name.to_possible_value().context("a measurement with a name")?;
        let word = value.get_name();
        let load = machine::load_average();
        let mut report = name
            .measure(&bench)
            .await
            .with_context(|| format!("measuring {word}"))?;
        report
            .notes
            .push(format!("Load average of the machine before it began: {load}."));
        println!("{report}");
        let to = bench.folder.join(format!("{word}.json"));
        fs::create_dir_all(&bench.folder)?;
        report.save(&to, &machine)?;
    }
    if let Some(goals) = bench.headlines.report() {
        println!("{goals}");
        goals.save(&bench.folder.join("goals.json"), &machine)?;
    }
    Ok(())
}

/// Becomes the optimised build of this program: a load that is generated slowly measures itself.
fn as_it_is_shipped() -> anyhow::Result<()> {
    let built = Command::new(env!("CARGO"))
        .current_dir(ROOT)
        .args(["build", "--locked", "--quiet", "--release", "--package", "xtask"])
        .status()?;
    ensure!(built.success(), "xtask does not build");
    let this = std::env::current_exe()?;
    let target = this
        .parent()
        .and_then(Path::parent)
        .context("the target folder")?;
    let error = Command::new(target.join("release/xtask"))
        .args(std::env::args_os().skip(1))
        .exec();
    Err(error).context("cannot run the optimised xtask")
}
