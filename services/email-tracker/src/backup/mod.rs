//! `backup`: the database in a file, checksummed, beside the earlier ones, once or on a schedule.

mod database;
mod dump;
mod folder;
mod metrics;
mod programs;
mod schedule;

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use service_kit::{Common, Reader, Setting, SystemClock, program, tasks::stop_on_signal, telemetry};
use tracking::Clock as _;

pub(crate) use self::{
    database::{DatabaseSettings, open_as_recorder},
    folder::{Complete, Counts, Folder, Manifest},
    programs::{Programs, reason},
};
use self::{
    dump::{By, made},
    metrics::MetricsFile,
};

const BACKUP_DIR: Setting = Setting::new(
    "BACKUP_DIR",
    "./backups",
    "Folder of the backups, unless the command names one.",
);
const BACKUP_KEEP: Setting = Setting::new(
    "BACKUP_KEEP",
    "14",
    "How many backups are kept, 1 to 100000; older ones are removed after each backup that succeeded.",
);
const BACKUP_KEEP_DAYS: Setting = Setting::new(
    "BACKUP_KEEP_DAYS",
    "",
    "Days, 1 to 36500, after which a backup is removed, never the newest; unset: by number alone.",
);
const BACKUP_METRICS_DIR: Setting = Setting::new(
    "BACKUP_METRICS_DIR",
    "",
    "Folder of the node_exporter's textfile collector, where `email_tracker_backup.prom` is written; unset: nowhere.",
);

/// The settings of `backup` and `restore`, for the table in the documentation.
pub(crate) const SETTINGS: [Setting; 8] = [
    database::DATABASE_URL,
    database::DATABASE_PASSWORD,
    database::DATA_DIR,
    database::PG_BIN,
    BACKUP_DIR,
    BACKUP_KEEP,
    BACKUP_KEEP_DAYS,
    BACKUP_METRICS_DIR,
];

const DAY: Duration = Duration::from_hours(24);

/// What `backup` is asked.
#[derive(Debug, clap::Args)]
#[expect(
    clippy::doc_markdown,
    reason = "these lines are the help text, which is plain"
)]
pub(crate) struct Arguments {
    /// Folder to keep it in, instead of BACKUP_DIR
    folder: Option<PathBuf>,
    /// Go on for ever, with a backup each time that the newest one is so old: 90m, 24h or 7d, for example
    #[arg(long, value_name = "TIME", value_parser = span)]
    every: Option<Duration>,
    /// Make none: succeed if the newest complete backup is younger than this, for a health check
    #[arg(long, value_name = "TIME", value_parser = span, conflicts_with = "every")]
    fresh: Option<Duration>,
}

struct Settings {
    database: DatabaseSettings,
    folder: PathBuf,
    metrics: Option<MetricsFile>,
    keep: usize,
    keep_for: Option<Duration>,
    common: Common,
}

impl Settings {
    fn read(reader: &mut Reader, arguments: &Arguments) -> Self {
        let days = reader.optional(
            &BACKUP_KEEP_DAYS,
            "a whole number of days from 1 to 36500",
            |text| text.parse().ok().filter(|days| (1..=36_500_u32).contains(days)),
        );
        let configured = reader.path(&BACKUP_DIR);
        let folder = arguments.folder.clone().or(configured);
        Self {
            database: DatabaseSettings::read(reader, "email-tracker backup"),
            folder: folder.unwrap_or_else(|| PathBuf::from(BACKUP_DIR.default)),
            metrics: reader
                .path(&BACKUP_METRICS_DIR)
                .as_deref()
                .map(MetricsFile::in_folder),
            keep: reader.number(&BACKUP_KEEP, 14, 1, 100_000),
            keep_for: days.map(|days| DAY * days),
            common: Common::read(reader, 0, 0),
        }
    }
}

/// The whole command.
pub(crate) fn backup(arguments: &Arguments) -> anyhow::Result<()> {
    let mut reader = Reader::from_environment();
    let settings = Settings::read(&mut reader, arguments);
    let settings = reader.finish(settings)?;
    if let Some(age) = arguments.fresh {
        return check_fresh(&settings.folder, age);
    }
    program::block_on(async {
        let stop = stop_on_signal()?;
        let Some(every) = arguments.every else {
            return tokio::select! {
                done = once(&settings, By::Hand) => done.map(report),
                () = stop.cancelled() => bail!("stopped before the backup was complete; nothing of it is left"),
            };
        };
        let _logging = telemetry::logging(crate::NAME, &settings.common)?;
        schedule::run(&settings, every, &stop).await;
        Ok(())
    })
}

/// Makes one backup, and removes those that are no longer to be kept.
async fn once(settings: &Settings, by: By) -> anyhow::Result<Complete> {
    let folder = Folder::lock(&settings.folder)?;
    let since = tokio::time::Instant::now();
    let complete = made(&settings.database, &folder, by).await?;
    if let Some(metrics) = &settings.metrics {
        metrics.succeeded(&complete, since.elapsed())?;
    }
    folder.prune(settings.keep, settings.keep_for, SystemClock.now())?;
    Ok(complete)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
#[expect(clippy::needless_pass_by_value, reason = "the end of its way")]
fn report(complete: Complete) {
    println!("{}: {}", complete.path.display(), complete.manifest);
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn check_fresh(folder: &std::path::Path, age: Duration) -> anyhow::Result<()> {
    let Some(newest) = Folder::look_into(folder)?.newest()? else {
        bail!("{} holds no complete backup", folder.display());
    };
    let old = newest.age(SystemClock.now());
    if old > age {
        bail!(
            "the newest backup, {}, is {} minutes old",
            newest.path.display(),
            old.as_secs() / 60
        );
    }
    println!("{}", newest.path.display());
    Ok(())
}

/// `90s`, `15m`, `24h`, `7d`.
fn span(text: &str) -> Result<Duration, &'static str> {
    const ACCEPTED: &str = "expected a number with s, m, h or d, such as 24h";
    let at = text
        .find(|character: char| !character.is_ascii_digit())
        .ok_or(ACCEPTED)?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(ACCEPTED),
    };
    let number: u32 = number.parse().map_err(|_| ACCEPTED)?;
    if number == 0 {
        return Err("expected more than nothing");
    }
    Ok(Duration::from_secs(seconds * u64::from(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("24h"), Ok(DAY));
        assert_eq!(span("7d"), Ok(DAY * 7));
        for bad in ["", "24", "h", "0h", "-1h", "1.5h", "24hours"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
