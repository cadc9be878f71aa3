//! Who made stored hits, found anew: by rules that have changed since (`email-tracker reclassify`), and by what only shows
//! over many mails, that one address fetched the pixels of many of them within seconds.
//!
//! Neither changes what counts. The counters of opens that are not by machines, and of those by people, follow.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use tokio_postgres::Row;
use tracking::{
    Timestamp,
    agents::{Agent, AgentClass, Agents, Confidence},
};
use uuid::Uuid;

use crate::{
    revisions,
    shards::{Layout, Shards},
    slots,
    steps::{self, Progress, Span, Table},
};

/// Within which [`tracking::Rules::burst_mails`] of one address make a burst. Half of it is the most that a burst may last to be found wherever it begins.
const BURST_MS: i64 = 10_000;
/// The least that one look at bursts spans, so that what it reads besides is little.
const LEAST_SPAN_MS: i64 = 60_000;

const AGENTS_TASK: &str = "agents of hits";
const BURSTS_TASK: &str = "bursts of hits";

/// The task is there while it is not done.
const BEGIN: &str = "-- reassess: begin, or go on
insert into upkeep (task) values ($1) on conflict (task) do nothing";

const END: &str = "-- reassess: all is done
delete from upkeep where task = $1";

const HITS: &str = "-- reassess: hits of a step
select hit.email_id, hit.opened_at, hit.event_id, hit.agent, hit.confidence,
       hit.client_address, hit.user_agent, email.sent_at,
       num_nonnulls(hit.geo_country, hit.geo_region, hit.geo_city, hit.latitude) > 0
from hits as hit join tracked_emails as email on email.email_id = hit.email_id
where hit.opened_at >= $1 and hit.opened_at < $2";

/// Each hit lies in two windows, which begin half a window apart.
const BURSTS: &str = "-- reassess: hits in bursts
with seen as (
  select email_id, opened_at, event_id, agent, confidence, client_address
  from hits
  where opened_at >= $1 and opened_at < $2 and client_address is not null and agent = any($3)
), bursts as (
  select seen.client_address, burst.began_at
  from seen
  cross join lateral (values
    (date_bin($4::bigint * interval '1 ms', seen.opened_at, timestamptz 'epoch')),
    (date_bin($4::bigint * interval '1 ms', seen.opened_at, timestamptz 'epoch' + $4::bigint * interval '0.5 ms'))
  ) as burst (began_at)
  group by seen.client_address, burst.began_at
  having count(distinct seen.email_id) >= $5
)
select distinct seen.email_id, seen.opened_at, seen.event_id, seen.agent
from seen
join bursts on bursts.client_address = seen.client_address
  and seen.opened_at >= bursts.began_at and seen.opened_at < bursts.began_at + $4::bigint * interval '1 ms'
where seen.confidence <> 'automated'";

/// What is stored of them, under the lock of their emails.
const BEFORE: &str = "-- reassess: hits as they are
select new.place, hit.agent, hit.confidence, hit.is_open,
       num_nonnulls(hit.geo_country, hit.geo_region, hit.geo_city, hit.latitude) > 0
from unnest($1::text[], $2::timestamptz[], $3::uuid[]) with ordinality as new (email_id, opened_at, event_id, place)
join hits as hit
  on hit.email_id = new.email_id and hit.opened_at = new.opened_at and hit.event_id = new.event_id
  -- in shards: and hit.email_id = any($1)";

/// What comes through a proxy loses its place, which was the proxy's.
const UPDATE_HITS: &str = "-- reassess: update hits
update hits set agent = new.agent, confidence = new.confidence,
    geo_country = case when not new.hidden then hits.geo_country end,
    geo_region = case when not new.hidden then hits.geo_region end,
    geo_city = case when not new.hidden then hits.geo_city end,
    latitude = case when not new.hidden then hits.latitude end,
    longitude = case when not new.hidden then hits.longitude end
from unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::text[], $5::text[], $6::bool[])
  as new (email_id, opened_at, event_id, agent, confidence, hidden)
where hits.email_id = new.email_id and hits.opened_at = new.opened_at and hits.event_id = new.event_id
  -- in shards: and hits.email_id = any($1)";

/// The latest one is looked for among the hits; where those are gone that were counted, it stays as it was. So does an
/// earliest one from before all that is left.
const UPDATE_EMAILS: &str = "-- reassess: update emails
update tracked_emails as email
set credible_open_count = email.credible_open_count + change.credible,
    human_open_count = email.human_open_count + change.human,
    last_credible_open_at = case when email.credible_open_count + change.credible > 0 then coalesce((
        select max(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id and hit.is_open and hit.confidence <> 'automated'
          -- in shards: and hit.email_id = any($1)
      ), email.last_credible_open_at) end,
    last_human_open_at = case when email.human_open_count + change.human > 0 then coalesce((
        select max(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id and hit.is_open and hit.confidence in ('human', 'likely')
          -- in shards: and hit.email_id = any($1)
      ), email.last_human_open_at) end,
    earliest_credible_open_at = case
      when email.credible_open_count + change.credible = 0 then null
      when email.earliest_credible_open_at < (
        select min(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id
          -- in shards: and hit.email_id = any($1)
      ) then email.earliest_credible_open_at
      else (
        select min(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id and hit.is_open and hit.confidence <> 'automated'
          -- in shards: and hit.email_id = any($1)
      ) end,
    earliest_human_open_at = case
      when email.human_open_count + change.human = 0 then null
      when email.earliest_human_open_at < (
        select min(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id
          -- in shards: and hit.email_id = any($1)
      ) then email.earliest_human_open_at
      else (
        select min(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id and hit.is_open and hit.confidence in ('human', 'likely')
          -- in shards: and hit.email_id = any($1)
      ) end
from unnest($1::text[], $2::bigint[], $3::bigint[]) as change (email_id, credible, human)
where email.email_id = change.email_id
  -- in shards: and email.email_id = any($1)";

/// Its statements that lock or change rows of some emails.
#[cfg(test)]
pub(crate) const PER_EMAIL: &[&str] = &[UPDATE_HITS, UPDATE_EMAILS];

/// The names of its transactions.
pub(crate) const NAMES: [&str; 5] = [
    Begin::NAME,
    FindOutdated::NAME,
    FindBursts::NAME,
    Reassess::NAME,
    End::NAME,
];

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclassified {
    /// Hits that are by another agent now, believed otherwise, or without the place of a proxy.
    pub hits: u64,
    /// Up to when all hits are classified by the present rules; `None` if that is all of them.
    pub until: Option<Timestamp>,
}

/// One step of classifying all hits before `now` anew. The first one after the last begins at the first hit.
pub(crate) async fn reclassify(
    database: &Database,
    shards: &Shards,
    writer: &str,
    agents: &Agents,
    now: Timestamp,
) -> Result<Reclassified, Error> {
    database.transact(&Begin { task: AGENTS_TASK }).await?;
    let find = FindOutdated { agents, before: now };
    let Some(step) = database.transact(&find).await? else {
        database.transact(&End { task: AGENTS_TASK }).await?;
        return Ok(Reclassified { hits: 0, until: None });
    };
    let span = step.span;
    let hits = reassess(database, shards, writer, step.found).await?;
    database
        .transact(&Progress {
            task: AGENTS_TASK,
            span,
        })
        .await?;
    Ok(Reclassified {
        hits,
        until: Some(span.until.0),
    })
}

/// Finds the bursts before `before`, in so many steps at most; answers how many hits are taken for machines' now, and
/// whether there may be more.
pub(crate) async fn find_bursts(
    database: &Database,
    shards: &Shards,
    writer: &str,
    mails: u32,
    before: Timestamp,
    most_steps: u32,
) -> Result<(u64, bool), Error> {
    if mails == 0 {
        return Ok((0, false));
    }
    database.transact(&Begin { task: BURSTS_TASK }).await?;
    let mut hits = 0;
    for _ in 0..most_steps {
        let Some(step) = database.transact(&FindBursts { mails, before }).await? else {
            return Ok((hits, false));
        };
        let span = step.span;
        hits += reassess(database, shards, writer, step.found).await?;
        database
            .transact(&Progress {
                task: BURSTS_TASK,
                span,
            })
            .await?;
        if span.is_last() {
            return Ok((hits, false));
        }
    }
    Ok((hits, true))
}

async fn reassess(
    database: &Database,
    shards: &Shards,
    writer: &str,
    found: Vec<Finding>,
) -> Result<u64, Error> {
    let layout = shards.layout(database).await?;
    let mut changed = 0;
    for findings in shards
        .split(database, found, |finding| &finding.email_id)
        .await?
        .values()
    {
        changed += database
            .transact(&Reassess {
                findings,
                writer,
                layout,
            })
            .await?;
    }
    Ok(changed)
}

/// What is found about a stored hit.
struct Finding {
    email_id: String,
    opened_at: Timestamptz,
    event_id: Uuid,
    agent: Agent,
    confidence: Confidence,
}

struct Step {
    span: Span,
    found: Vec<Finding>,
}

struct Begin {
    task: &'static str,
}

impl Work for Begin {
    const NAME: &'static str = "begin_reassessing";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let begin = tx.prepare_cached(BEGIN).await.in_statement(Self::NAME)?;
        tx.execute(&begin, &[&self.task]).await.in_statement(Self::NAME)?;
        Ok(())
    }
}

struct End {
    task: &'static str,
}

impl Work for End {
    const NAME: &'static str = "end_reassessing";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let end = tx.prepare_cached(END).await.in_statement(Self::NAME)?;
        tx.execute(&end, &[&self.task]).await.in_statement(Self::NAME)?;
        Ok(())
    }
}

/// Finds the hits of one step that the rules see otherwise than what is stored.
struct FindOutdated<'a> {
    agents: &'a Agents,
    before: Timestamp,
}

impl Work for FindOutdated<'_> {
    const NAME: &'static str = "find_outdated_agents";
    const READ_ONLY: bool = true;
    type Output = Option<Step>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Option<Step>, Error> {
        let Some(span) = Span::next(tx, AGENTS_TASK, Table::Hits, self.before).await? else {
            return Ok(None);
        };
        let hits = tx.prepare_cached(HITS).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(&hits, &[&span.from, &span.until])
            .await
            .in_statement(Self::NAME)?;
        let mut found = Vec::new();
        for row in &rows {
            found.extend(outdated(self.agents, row)?);
        }
        Ok(Some(Step { span, found }))
    }
}

/// What the rules find, if it is not what is stored. A hit in a burst stays a machine's, unless it is a proxy's, behind
/// which there are many readers.
fn outdated(agents: &Agents, row: &Row) -> Result<Option<Finding>, Error> {
    let (before, confidence_before): (&str, &str) = (row.try_get(3)?, row.try_get(4)?);
    let opened_at: Timestamptz = row.try_get(1)?;
    let address: Option<IpAddr> = row.try_get(5)?;
    let sent_at: Option<&str> = row.try_get(7)?;
    let since_sent = sent_at
        .and_then(Timestamp::parse_iso)
        .map(|sent_at| opened_at.0.millis_since(sent_at));
    let agent = agents.of(
        row.try_get(6)?,
        address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        since_sent,
    );
    let was_in_burst = confidence_before == Confidence::Automated.as_str()
        && Agent::named(before).is_some_and(|before| !before.confidence().is_automated());
    let confidence = if was_in_burst && may_burst(agent) {
        Confidence::Automated
    } else {
        agent.confidence()
    };
    let is_misplaced = row.try_get(8)? && agent.class().hides_reader();
    if (agent.as_str(), confidence.as_str()) == (before, confidence_before) && !is_misplaced {
        return Ok(None);
    }
    Ok(Some(Finding {
        email_id: row.try_get(0)?,
        opened_at,
        event_id: row.try_get(2)?,
        agent,
        confidence,
    }))
}

/// Whether one of them is one reader, so that many mails at once are too many.
fn may_burst(agent: Agent) -> bool {
    matches!(
        agent.class(),
        AgentClass::Browser | AgentClass::MailClient | AgentClass::Unknown
    )
}

/// Finds the hits of one step that are part of a burst.
struct FindBursts {
    mails: u32,
    before: Timestamp,
}

impl Work for FindBursts {
    const NAME: &'static str = "find_bursts";
    const READ_ONLY: bool = true;
    type Output = Option<Step>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Option<Step>, Error> {
        let Some(span) = Span::next(tx, BURSTS_TASK, Table::Hits, self.before).await? else {
            return Ok(None);
        };
        let span = span.at_least(LEAST_SPAN_MS, self.before);
        let around = (
            Timestamptz(span.from.0.saturating_add_millis(-BURST_MS)),
            Timestamptz(span.until.0.saturating_add_millis(BURST_MS)),
        );
        let may_burst: Vec<&str> = Agent::ALL
            .into_iter()
            .filter(|agent| may_burst(*agent))
            .map(Agent::as_str)
            .collect();
        let bursts = tx.prepare_cached(BURSTS).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(
                &bursts,
                &[
                    &around.0,
                    &around.1,
                    &may_burst,
                    &BURST_MS,
                    &i64::from(self.mails),
                ],
            )
            .await
            .in_statement(Self::NAME)?;
        let mut found = Vec::new();
        for row in &rows {
            found.push(Finding {
                email_id: row.try_get(0)?,
                opened_at: row.try_get(1)?,
                event_id: row.try_get(2)?,
                agent: Agent::named(row.try_get(3)?).unwrap_or(Agent::Unfamiliar),
                confidence: Confidence::Automated,
            });
        }
        Ok(Some(Step { span, found }))
    }
}

/// Stores what was found about hits; answers of how many it was news.
struct Reassess<'a> {
    findings: &'a [Finding],
    writer: &'a str,
    layout: Layout,
}

impl Work for Reassess<'_> {
    const NAME: &'static str = "reassess";
    type Output = u64;

    async fn run(&self, tx: &Transaction<'_>) -> Result<u64, Error> {
        let news = self.news(tx).await?;
        if news.is_empty() {
            return Ok(0);
        }
        let email_id: Vec<&str> = news.iter().map(|(new, _)| new.email_id.as_str()).collect();
        let opened_at: Vec<&Timestamptz> = news.iter().map(|(new, _)| &new.opened_at).collect();
        let event_id: Vec<Uuid> = news.iter().map(|(new, _)| new.event_id).collect();
        let agent: Vec<&str> = news.iter().map(|(new, _)| new.agent.as_str()).collect();
        let confidence: Vec<&str> = news.iter().map(|(new, _)| new.confidence.as_str()).collect();
        let hidden: Vec<bool> = (news.iter())
            .map(|(new, _)| new.agent.class().hides_reader())
            .collect();
        let update = tx
            .prepare_cached(&self.layout.form(UPDATE_HITS))
            .await
            .in_statement("reassess_hits")?;
        tx.execute(
            &update,
            &[&email_id, &opened_at, &event_id, &agent, &confidence, &hidden],
        )
        .await
        .in_statement("reassess_hits")?;
        self.count(tx, &news).await?;
        // Besides opens, also those that no chart shows: there are few.
        slots::mark_stale(tx, opened_at.iter().map(|at| at.0)).await?;
        revisions::raise(tx, self.writer).await?;
        Ok(u64::try_from(news.len()).unwrap_or(u64::MAX))
    }
}

/// How far a stored hit was believed, if it is an open.
type OpenBefore = Option<Confidence>;

impl Reassess<'_> {
    /// Locks the emails, and leaves out the hits that are gone, or of which that was found already.
    async fn news(&self, tx: &Transaction<'_>) -> Result<Vec<(&Finding, OpenBefore)>, Error> {
        let email_id: Vec<&str> = self.findings.iter().map(|new| new.email_id.as_str()).collect();
        let opened_at: Vec<&Timestamptz> = self.findings.iter().map(|new| &new.opened_at).collect();
        let event_id: Vec<Uuid> = self.findings.iter().map(|new| new.event_id).collect();
        steps::lock(tx, &email_id).await?;
        let before = tx
            .prepare_cached(&self.layout.form(BEFORE))
            .await
            .in_statement("hits_before")?;
        let rows = tx
            .query(&before, &[&email_id, &opened_at, &event_id])
            .await
            .in_statement("hits_before")?;
        let mut news = Vec::new();
        for row in &rows {
            let place = usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or(usize::MAX);
            let Some(new) = self.findings.get(place) else {
                continue;
            };
            let (agent, confidence): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
            let is_misplaced = row.try_get(4)? && new.agent.class().hides_reader();
            if (agent, confidence) != (new.agent.as_str(), new.confidence.as_str()) || is_misplaced {
                let is_open: bool = row.try_get(3)?;
                let before = Confidence::named(confidence).unwrap_or(Confidence::Unclear);
                news.push((new, is_open.then_some(before)));
            }
        }
        Ok(news)
    }

    /// Counts by how much the opens of each email changed.
    async fn count(&self, tx: &Transaction<'_>, news: &[(&Finding, OpenBefore)]) -> Result<(), Error> {
        let mut changes: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for (new, before) in news {
            let Some(before) = before else { continue };
            let change = changes.entry(&new.email_id).or_default();
            let credible = |confidence: Confidence| i64::from(!confidence.is_automated());
            let human = |confidence: Confidence| i64::from(confidence.is_human());
            change.0 += credible(new.confidence) - credible(*before);
            change.1 += human(new.confidence) - human(*before);
        }
        changes.retain(|_, change| *change != (0, 0));
        if changes.is_empty() {
            return Ok(());
        }
        let email_id: Vec<&str> = changes.keys().copied().collect();
        let (credible, human): (Vec<i64>, Vec<i64>) = changes.into_values().unzip();
        let update = tx
            .prepare_cached(&self.layout.form(UPDATE_EMAILS))
            .await
            .in_statement("reassess_emails")?;
        tx.execute(&update, &[&email_id, &credible, &human])
            .await
            .in_statement("reassess_emails")?;
        Ok(())
    }
}
