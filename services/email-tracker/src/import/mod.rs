//! `import`: the emails and opens that an older server lists, as facts of this installation.
//!
//! They go through the recording transaction, so that counts and verdicts are what they would be had the pixel seen them.

mod client;
mod facts;
mod lists;
mod store;

use std::{collections::HashMap, num::NonZeroUsize};

use anyhow::{Context as _, bail};
use recorder::{Recorder, RecorderConfig};
use service_kit::{Reader, Secret, Setting, SystemClock, program, tasks::stop_on_signal};
use tracking::{Clock as _, Rules, Timestamp};

pub(crate) use self::client::Source;
use self::{
    lists::{ListedEmail, ListedOpen},
    store::{Store, Stored},
};
use crate::{
    backup::{DatabaseSettings, open_as_recorder},
    migrate,
};

const IMPORT_TOKEN: Setting = Setting::secret(
    "IMPORT_TOKEN",
    "",
    "The older server's dashboard token. Required.",
);
const DEDUP_WINDOW_MS: Setting = Setting::new(
    "DEDUP_WINDOW_MS",
    "30000",
    "As the recorder has it: imported opens closer than this are duplicates here too.",
);

/// The settings of `import` beyond those by which `backup` finds the database.
pub(crate) const SETTINGS: [Setting; 3] = [IMPORT_TOKEN, DEDUP_WINDOW_MS, recorder::AGENT_NETWORKS];

/// How many facts are collected before they are recorded, in whole emails.
const ENOUGH: usize = 1_000;
/// How many emails that cannot be imported are named.
const NAMED: u64 = 20;
const WORKERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// What `import` is asked.
#[derive(Debug, clap::Args)]
#[expect(
    clippy::doc_markdown,
    reason = "these lines are the help text, which is plain"
)]
#[allow(rustdoc::bare_urls, reason = "the same")]
pub(crate) struct Arguments {
    /// The older server's base address, such as https://old.example.com
    url: Source,
}

/// The whole command.
pub(crate) fn import(arguments: &Arguments) -> anyhow::Result<()> {
    let mut reader = Reader::from_environment();
    let database = DatabaseSettings::read(&mut reader, "email-tracker import");
    let token = reader.secret(&IMPORT_TOKEN);
    if token.is_none() {
        reader.refuse(&IMPORT_TOKEN, "missing; it is the older server's DASHBOARD_TOKEN");
    }
    let dedup_window_ms = reader.number(&DEDUP_WINDOW_MS, Rules::default().dedup_window_ms, 0, 86_400_000);
    let rules = Rules {
        dedup_window_ms,
        agents: recorder::read_agents(&mut reader),
        ..Rules::default()
    };
    let (database, token) = reader.finish((database, token))?;
    let token = token.unwrap_or_else(|| Secret::new(""));
    program::block_on(async {
        let stop = stop_on_signal()?;
        tokio::select! {
            done = run(&arguments.url, &token, &database, rules) => done,
            () = stop.cancelled() => bail!("stopped; what was recorded stays, and importing again goes on"),
        }
    })
}

async fn run(
    source: &Source,
    token: &Secret,
    database: &DatabaseSettings,
    rules: Rules,
) -> anyhow::Result<()> {
    let store = open_store(database, rules).await?;
    // First the opens: an email that comes between the two lists is then in the second at least.
    let opens: Vec<ListedOpen> = list(source, token, "/dashboard/api/open-events").await?;
    let emails: Vec<ListedEmail> = list(source, token, "/dashboard/api/emails").await?;
    let now = SystemClock.now();
    let summary = record(&store, emails, opens, now).await?;
    summary.print();
    if summary.refused > 0 {
        bail!("{} emails could not be imported", summary.refused);
    }
    Ok(())
}

async fn open_store(database: &DatabaseSettings, rules: Rules) -> anyhow::Result<Store> {
    let config = database.config()?;
    let (database, metrics) = open_as_recorder(&config, WORKERS.get() + 1).await?;
    let is_distributed = database::is_distributed(&**database.client().await?).await?;
    migrate::refuse_distributed(is_distributed, "`import`")?;
    let recorder = RecorderConfig {
        instance: "import".to_owned(),
        workers: WORKERS,
        rules,
        geoip_database: recorder::GeoDatabase::Off,
    };
    let recorder = Recorder::new(database.clone(), recorder, metrics.meter())?;
    Ok(Store { recorder, database })
}

async fn list<T: serde::de::DeserializeOwned>(
    source: &Source,
    token: &Secret,
    path: &str,
) -> anyhow::Result<Vec<T>> {
    let body = source.get(path, token.expose()).await?;
    lists::items(&body).with_context(|| format!("{path} is no list as the older server makes it"))
}

/// What was done, and what the lists could not tell.
#[derive(Debug, Default)]
struct Summary {
    emails: u64,
    opens: u64,
    stored: Stored,
    refused: u64,
    first_hits_made_up: u64,
    recipients_shortened: u64,
    opens_without_time: u64,
    opens_without_email: u64,
    /// Hits that the older server counted and does not list.
    unlisted: u64,
    emails_with_unlisted: u64,
}

async fn record(
    store: &Store,
    emails: Vec<ListedEmail>,
    opens: Vec<ListedOpen>,
    now: Timestamp,
) -> anyhow::Result<Summary> {
    let mut summary = Summary {
        opens: u64::try_from(opens.len())?,
        ..Summary::default()
    };
    let mut opens_of: HashMap<String, Vec<ListedOpen>> = HashMap::new();
    for open in opens {
        match &open.email_id {
            Some(email_id) => opens_of.entry(email_id.clone()).or_default().push(open),
            None => summary.opens_without_email += 1,
        }
    }
    let mut collected = Vec::new();
    for email in emails {
        summary.emails += 1;
        let opens = email.email_id.as_ref().and_then(|id| opens_of.remove(id));
        match facts::convert(&email, &opens.unwrap_or_default(), now) {
            Ok(converted) => {
                let unlisted = email
                    .raw_open_events
                    .unwrap_or_default()
                    .saturating_sub(converted.hits);
                summary.unlisted += unlisted;
                summary.emails_with_unlisted += u64::from(unlisted > 0);
                summary.first_hits_made_up += u64::from(converted.first_hit_made_up);
                summary.recipients_shortened += u64::from(converted.recipient_shortened);
                summary.opens_without_time += converted.without_time;
                collected.extend(converted.facts);
            }
            Err(reason) => {
                summary.refused += 1;
                if summary.refused <= NAMED {
                    note(&format!(
                        "email {:?} is left out: {reason}",
                        email.email_id.unwrap_or_default()
                    ));
                }
            }
        }
        if collected.len() >= ENOUGH {
            store
                .add(std::mem::take(&mut collected), &mut summary.stored)
                .await?;
        }
    }
    store.add(collected, &mut summary.stored).await?;
    let orphans: usize = opens_of.values().map(Vec::len).sum();
    summary.opens_without_email += u64::try_from(orphans)?;
    Ok(summary)
}

impl Summary {
    #[expect(clippy::print_stdout, reason = "the command's answer")]
    fn print(&self) {
        let Stored {
            recorded,
            already_known,
            erased,
            not_counting,
        } = self.stored;
        println!(
            "the older server lists {} emails and {} opens; {recorded} hits were recorded now, {already_known} were there \
             already",
            self.emails, self.opens
        );
        let told = [
            (
                self.unlisted,
                "hits of the older server's raw_open_events (duplicates and suppressed ones) are not in its lists; they are not \
                 in raw_open_events here",
            ),
            (self.emails_with_unlisted, "emails have such hits"),
            (
                self.first_hits_made_up,
                "emails had a first hit that did not count; it was made up at their created_at, so that they are listed",
            ),
            (erased, "hits were left out: their emails were erased here"),
            (
                not_counting,
                "listed opens are duplicates by the rules here and do not count",
            ),
            (
                self.recipients_shortened,
                "emails have fewer recipients here: the list was too long",
            ),
            (
                self.opens_without_time,
                "opens were left out: without a time, or with one that cannot be",
            ),
            (
                self.opens_without_email,
                "opens were left out: their email is not listed",
            ),
            (self.refused, "emails were left out, see above"),
        ];
        for (number, what) in told {
            if number > 0 {
                println!("{number} {what}");
            }
        }
    }
}

#[expect(clippy::print_stderr, reason = "standard output is for the summary")]
fn note(text: &str) {
    eprintln!("{text}");
}
