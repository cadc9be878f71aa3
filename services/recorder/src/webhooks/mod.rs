//! Webhooks: whom the operator wants told of opens is told.
//!
//! 1. [`outbox`]: the recording transaction leaves an event for each new open and target.
//! 2. [`deliver`]: each recorder leases emails whose events are due ([`queue`]), tells them in order ([`body`], [`sign`],
//!    [`send`], [`networks`]), and settles what became of them.
//! 3. [`keep`]: what was given up is listed, sent again by hand, and in the end removed.

mod body;
mod deliver;
mod keep;
mod metrics;
mod networks;
mod outbox;
mod queue;
mod send;
mod sign;
mod target;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use database::{Database, Error};
use ipnet::IpNet;
use opentelemetry::metrics::Meter;
use service_kit::{Reader, Setting};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracking::Clock;

pub(crate) use self::outbox::{NewOpen, OpensOfEmail, Outbox, Statements as OutboxStatements, forget};
use self::{
    deliver::{Common, Delivery},
    metrics::{End, Metrics},
    send::Sender,
};
pub use self::{
    keep::SetAside,
    sign::SigningSecret,
    target::{Events, Format, Target, Url},
};
use crate::shards::Shards;

const WEBHOOKS: Setting = Setting::secret(
    "WEBHOOKS",
    "",
    "Whom to tell of opens: a JSON array of targets, as docs/webhooks.md describes them. A secret, because the URLs are.",
);
const WEBHOOK_PRIVATE_NETWORKS: Setting = Setting::new(
    "WEBHOOK_PRIVATE_NETWORKS",
    "",
    "Networks that are not public to which webhooks may go all the same, separated by commas; `http://` goes nowhere else.",
);

/// The settings of webhooks, for the table in the documentation.
pub const SETTINGS: [Setting; 2] = [WEBHOOKS, WEBHOOK_PRIVATE_NETWORKS];

/// How often what there is of events is counted.
const COUNT_PERIOD: Duration = Duration::from_secs(15);
/// After how many times what is too old is looked for: ten minutes.
const REMOVE_EVERY: u32 = 40;

/// The names of the transactions.
pub(crate) fn names() -> Vec<&'static str> {
    [&queue::NAMES[..], &keep::NAMES[..]].concat()
}

/// The statements that look at stored rows of some emails or change them.
#[cfg(test)]
pub(crate) fn per_email() -> Vec<&'static str> {
    [outbox::PER_EMAIL, queue::PER_EMAIL, keep::PER_EMAIL].concat()
}

/// Whom to tell, and where they may be.
#[derive(Clone, Debug, Default)]
pub struct Webhooks {
    /// None of them: nothing is queued and nothing is told.
    pub targets: Vec<Arc<Target>>,
    /// Addresses beside the public ones.
    pub private_networks: Vec<IpNet>,
}

impl Webhooks {
    /// Reads them; `reader` keeps what is wrong.
    pub fn read(reader: &mut Reader) -> Self {
        let private_networks = reader.networks(&WEBHOOK_PRIVATE_NETWORKS, Vec::new());
        let targets = match reader.secret(&WEBHOOKS).map(|text| target::parse(text.expose())) {
            None => Vec::new(),
            Some(Ok(targets)) => targets,
            Some(Err(problems)) => {
                for problem in problems {
                    reader.refuse(&WEBHOOKS, problem);
                }
                Vec::new()
            }
        };
        for target in &targets {
            if target.url.needs_private_network() && private_networks.is_empty() {
                reader.refuse(
                    &WEBHOOKS,
                    format_args!(
                        "{}, url: http:// goes to WEBHOOK_PRIVATE_NETWORKS only, which names none",
                        target.name
                    ),
                );
            }
        }
        Self {
            targets,
            private_networks,
        }
    }

    /// Connections to the database that telling takes.
    pub(crate) fn connections(&self) -> usize {
        if self.targets.is_empty() {
            0
        } else {
            deliver::CONNECTIONS
        }
    }

    /// What recording leaves for them, and who takes it from there; nothing if nobody is to be told.
    pub fn start(
        &self,
        database: Database,
        clock: Arc<dyn Clock>,
        meter: &Meter,
        stop: CancellationToken,
    ) -> anyhow::Result<Option<Telling>> {
        if self.targets.is_empty() {
            return Ok(None);
        }
        let names: Vec<&str> = self.targets.iter().map(|target| target.name.as_str()).collect();
        let common = Arc::new(Common {
            database,
            shards: Shards::default(),
            sender: Sender::new(self.private_networks.clone())?,
            clock: Arc::clone(&clock),
            metrics: Metrics::new(meter, &names),
            turns: Semaphore::new(deliver::CONNECTIONS),
            stop,
        });
        let wakes: Vec<(Arc<Target>, Arc<Notify>)> = self
            .targets
            .iter()
            .map(|target| (Arc::clone(target), Arc::new(Notify::new())))
            .collect();
        Ok(Some(Telling {
            outbox: Arc::new(Outbox::new(wakes.clone(), clock)),
            wakes,
            common,
        }))
    }

    /// Sends a message to the target called `name` that says that it is a test.
    pub async fn test(&self, name: &str, clock: &dyn Clock) -> anyhow::Result<()> {
        let target = self.targets.iter().find(|target| target.name == name);
        let target = target.with_context(|| {
            let names: Vec<&str> = self.targets.iter().map(|target| target.name.as_str()).collect();
            format!("WEBHOOKS has no target {name}; it has: {}", names.join(", "))
        })?;
        let sender = Sender::new(self.private_networks.clone())?;
        let id = format!("{:032x}", rand::random::<u128>());
        let message = body::test_message(target.format, &id, clock.now());
        sender
            .send(target, &message, clock.now())
            .await
            .map_err(|failure| anyhow::anyhow!("{name} was not told: {}", failure.problem))
    }
}

/// The deliveries of a recorder, ready to run.
pub struct Telling {
    outbox: Arc<Outbox>,
    wakes: Vec<(Arc<Target>, Arc<Notify>)>,
    common: Arc<Common>,
}

impl Telling {
    /// Where the recording transaction leaves what there is to tell.
    pub(crate) fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }

    /// Tells the targets until told to stop; what is under way then has `patience` to end.
    pub async fn run(self, patience: Duration) -> anyhow::Result<()> {
        let stop = self.common.stop.clone();
        let mut running = JoinSet::new();
        for (target, wake) in self.wakes {
            let delivery = Delivery {
                target,
                wake,
                common: Arc::clone(&self.common),
            };
            running.spawn(Arc::new(delivery).run());
        }
        let common = Arc::clone(&self.common);
        running.spawn(async move {
            let stop = common.stop.clone();
            stop.run_until_cancelled(count_and_remove(&common)).await;
        });
        let all = async {
            while let Some(ended) = running.join_next().await {
                ended.context("telling a webhook failed")?;
            }
            Ok(())
        };
        let too_long = async {
            stop.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        tokio::select! {
            ended = all => ended,
            // What is cut off is told again.
            () = too_long => Ok(()),
        }
    }
}

async fn count_and_remove(common: &Common) {
    for round in (0..REMOVE_EVERY).cycle() {
        let done = match round {
            0 => remove(common).await,
            _ => Ok(()),
        };
        if let Err(error) = done.and(count(common).await) {
            tracing::debug!(%error, "the events of webhooks could not be counted");
        }
        tokio::time::sleep(COUNT_PERIOD).await;
    }
}

async fn remove(common: &Common) -> Result<(), Error> {
    let _turn = common.turns.acquire().await;
    let now = common.clock.now();
    let before = now.saturating_add_millis(-keep::KEPT_MS);
    let removed = keep::remove_old(&common.database, &common.shards, before).await?;
    if !removed.is_empty() {
        tracing::warn!(
            count = removed.len(),
            "events of webhooks were removed after 30 days"
        );
    }
    for place in &removed {
        common.metrics.ended(&place.target, End::Removed, 1);
    }
    Ok(())
}

async fn count(common: &Common) -> Result<(), Error> {
    let _turn = common.turns.acquire().await;
    let now = common.clock.now();
    let standings = keep::standings(&common.database, now).await?;
    let mut standings: BTreeMap<_, _> = standings.into_iter().collect();
    for name in common.metrics.names() {
        common
            .metrics
            .stand(name, standings.remove(name).unwrap_or_default());
    }
    Ok(())
}

/// Calls `each` with every event that is set aside, of `target` or of all.
pub async fn list(
    database: &Database,
    target: Option<&str>,
    mut each: impl FnMut(&SetAside),
) -> Result<(), Error> {
    let mut last: Option<SetAside> = None;
    loop {
        let found = keep::find_set_aside(database, target, last.as_ref()).await?;
        found.iter().for_each(&mut each);
        match found.into_iter().next_back() {
            Some(event) => last = Some(event),
            None => return Ok(()),
        }
    }
}

/// Has every event that is set aside told again, of `target` or of all; answers how many.
pub async fn resend(database: &Database, target: Option<&str>, clock: &dyn Clock) -> Result<u64, Error> {
    let shards = Shards::default();
    let mut last: Option<SetAside> = None;
    let mut revived = 0;
    loop {
        let found = keep::find_set_aside(database, target, last.as_ref()).await?;
        revived += keep::revive(database, &shards, &found, clock.now()).await?;
        match found.into_iter().next_back() {
            Some(event) => last = Some(event),
            None => return Ok(revived),
        }
    }
}
