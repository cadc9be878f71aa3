//! `reclassify`: who made the stored hits, by the rules of this version and the operator's networks.

use std::num::NonZeroUsize;

use anyhow::{Context as _, bail};
use recorder::{AGENT_NETWORKS, Recorder, RecorderConfig, read_agents};
use service_kit::{Reader, Setting, SystemClock, program, tasks::stop_on_signal};
use tracking::{Clock as _, Rules};

use crate::backup::{DatabaseSettings, open_as_recorder};

/// The settings of `reclassify`, for the table in the documentation.
pub(crate) const SETTINGS: [Setting; 1] = [AGENT_NETWORKS];

/// One for the step, one to spare.
const CONNECTIONS: usize = 2;

/// The whole command.
pub(crate) fn reclassify() -> anyhow::Result<()> {
    let mut reader = Reader::from_environment();
    let database = DatabaseSettings::read(&mut reader, "email-tracker reclassify");
    let rules = Rules {
        agents: read_agents(&mut reader),
        ..Rules::default()
    };
    let database = reader.finish(database)?;
    program::block_on(async {
        let stop = stop_on_signal()?;
        tokio::select! {
            done = run(&database, rules) => done,
            () = stop.cancelled() => bail!("stopped; what is classified stays, and the next `reclassify` goes on from here"),
        }
    })
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn run(settings: &DatabaseSettings, rules: Rules) -> anyhow::Result<()> {
    let config = settings.config()?;
    let (database, metrics) = open_as_recorder(&config, CONNECTIONS).await?;
    let recorder = RecorderConfig {
        instance: "reclassify".to_owned(),
        workers: NonZeroUsize::MIN,
        rules,
        geoip_database: recorder::GeoDatabase::Off,
    };
    let recorder = Recorder::new(database, recorder, metrics.meter())?;
    let now = SystemClock.now();
    let mut hits = 0;
    loop {
        let step = recorder.reclassify(now).await.context("cannot classify")?;
        hits += step.hits;
        if step.until.is_none() {
            println!("{config}: all hits are classified; {hits} changed");
            return Ok(());
        }
    }
}
