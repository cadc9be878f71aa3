//! What must hold at the end of a schedule, whatever went wrong in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use test_support::{
    TestDatabase,
    tables::{StoredHit, StoredMark, stored_emails, stored_hits, stored_marks},
};
use tracking::{Fact, Hit, Mark, Rules, Timestamp, model};

use super::{
    carry_out::Mended,
    fake_clock::FakeClock,
    lanes::{Counts, Windows},
    schedule::{Flavor, Schedule},
    watch::Watched,
};
use crate::{
    client,
    load::{Sent, What, nonce_in},
    stack::{DASHBOARD_TOKEN, Ends, Line},
};

/// All that a schedule left behind.
pub(crate) struct Evidence {
    pub(crate) log: Vec<Sent>,
    pub(crate) watched: Watched,
    /// Of each pixel: how many facts it says it lost since its start.
    pub(crate) losses: Vec<u64>,
    pub(crate) faults: Counts,
    pub(crate) down: Vec<Arc<Windows>>,
    pub(crate) line_windows: Vec<(Ends, Windows)>,
    pub(crate) clocks: Vec<Option<Arc<FakeClock>>>,
    pub(crate) rules: Rules,
    /// What keeps on running until all is checked.
    pub(crate) mended: Mended,
    pub(crate) _lines: Arc<[Line]>,
    pub(crate) database: TestDatabase,
}

/// Every way in which the evidence is not as it must be, in one error; else a line that sums it up.
pub(crate) async fn check(schedule: &Schedule, evidence: &Evidence) -> anyhow::Result<String> {
    let client = evidence.mended.postgres.superuser(evidence.database.name()).await;
    let hits = stored_hits(&client, "").await;
    let marks = stored_marks(&client, "").await;
    let emails = stored_emails(&client, "").await;

    let mut wrong = Wrong::default();
    let log: BTreeMap<&str, &Sent> = evidence
        .log
        .iter()
        .map(|sent| (sent.nonce.as_str(), sent))
        .collect();
    let stored = check_hits(&mut wrong, evidence, &log, &hits);
    let stored_marks = check_marks(&mut wrong, evidence, &log, &marks);
    check_answers(&mut wrong, schedule, evidence);
    let counted = check_losses(&mut wrong, schedule, evidence, &stored, &stored_marks);
    wrong.note(check_model(evidence, &log, &hits, &marks, &emails));
    wrong.note(check_dashboard(evidence, &emails).await);
    wrong.done()?;

    let answered = evidence.log.iter().filter(|sent| sent.is_answered()).count();
    let failed = evidence.log.iter().filter(|sent| sent.outcome.is_err()).count();
    ensure!(
        answered > 100 && hits.len() > 100,
        "{answered} answers and {} hits prove nothing",
        hits.len()
    );
    let faults: u64 = evidence.faults.all().values().sum();
    Ok(format!(
        "{faults} faults; {} requests, {answered} answered, {failed} connections failed; {} hits and {} marks stored, \
         {counted} counted as lost; lists read {}, unchanged {}, refused {}; 0 lost, 0 doubled, 0 wrong",
        evidence.log.len(),
        hits.len(),
        marks.len(),
        evidence.watched.lists,
        evidence.watched.unchanged,
        evidence.watched.turned_away,
    ))
}

/// What is wrong, a line each, with a bound.
#[derive(Default)]
struct Wrong {
    lines: Vec<String>,
}

impl Wrong {
    fn say(&mut self, line: String) {
        self.lines.push(line);
    }

    fn note(&mut self, outcome: anyhow::Result<()>) {
        if let Err(error) = outcome {
            self.say(format!("{error:#}"));
        }
    }

    fn done(self) -> anyhow::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let mut text = format!("{} things are wrong:", self.lines.len());
        for line in self.lines.iter().take(20) {
            let _ = write!(text, "\n  {line}");
        }
        bail!(text)
    }
}

/// Stored hits are among those sent, each once, as they were sent, at a time between sending and answer by the pixel's
/// clock. Gives the nonces.
fn check_hits<'a>(
    wrong: &mut Wrong,
    evidence: &Evidence,
    log: &BTreeMap<&'a str, &'a Sent>,
    hits: &[StoredHit],
) -> BTreeSet<&'a str> {
    let mut stored = BTreeSet::new();
    for hit in hits {
        let Some(sent) = sent_of(log, hit.user_agent.as_deref(), hit.referer_host.as_deref()) else {
            wrong.say(format!("{hit:?} was never sent"));
            continue;
        };
        if !stored.insert(sent.nonce.as_str()) {
            wrong.say(format!("{} is stored twice", sent.nonce));
        }
        let as_sent = matches!(sent.what, What::Hit(_))
            && hit.email_id == sent.what.email_id()
            && hit.client_address == Some(sent.client_address)
            && hit.user_agent.as_ref() == Some(&sent.user_agent)
            && hit.referer_host == sent.referer_host;
        if !as_sent {
            wrong.say(format!("{hit:?} is not what was sent: {sent:?}"));
        }
        check_time(wrong, evidence, sent, hit.opened_at);
    }
    stored
}

fn check_marks<'a>(
    wrong: &mut Wrong,
    evidence: &Evidence,
    log: &BTreeMap<&'a str, &'a Sent>,
    marks: &[StoredMark],
) -> BTreeSet<&'a str> {
    let mut stored = BTreeSet::new();
    for mark in marks {
        let Some(sent) = sent_of(log, mark.user_agent.as_deref(), None) else {
            wrong.say(format!("{mark:?} was never sent"));
            continue;
        };
        if !stored.insert(sent.nonce.as_str()) {
            wrong.say(format!("{} is stored twice", sent.nonce));
        }
        if !matches!(sent.what, What::Mark { .. }) || mark.email_id != sent.what.email_id() {
            wrong.say(format!("{mark:?} is not what was sent: {sent:?}"));
        }
        let told = sent
            .outcome
            .as_ref()
            .ok()
            .and_then(|answered| answered.recorded_at_ms);
        if told.is_some_and(|told| told != mark.marked_at.as_millis()) {
            wrong.say(format!("{mark:?} is not of the time that was answered: {sent:?}"));
        }
        check_time(wrong, evidence, sent, mark.marked_at);
    }
    stored
}

fn sent_of<'a>(
    log: &BTreeMap<&'a str, &'a Sent>,
    user_agent: Option<&str>,
    referer_host: Option<&str>,
) -> Option<&'a Sent> {
    let nonce = user_agent
        .and_then(nonce_in)
        .or_else(|| referer_host.and_then(nonce_in))?;
    log.get(nonce).copied()
}

fn check_time(wrong: &mut Wrong, evidence: &Evidence, sent: &Sent, at: Timestamp) {
    let clock = evidence.clocks[sent.pixel].as_ref();
    let (least, greatest) = clock.map_or((0, 0), |clock| {
        clock.offsets(sent.begun.instant, sent.ended.instant)
    });
    let earliest = sent.begun.unix_ms + least;
    let latest = sent.ended.unix_ms + greatest;
    // A request whose connection failed may be served later than its sender gave up.
    let in_time = sent.outcome.is_err() || (earliest..=latest).contains(&at.as_millis());
    if !in_time {
        wrong.say(format!(
            "{} of pixel {} is of {at}, not between {} and {}",
            sent.nonce,
            sent.pixel,
            Timestamp::from_millis(earliest),
            Timestamp::from_millis(latest)
        ));
    }
}

/// Each status is 200, and connections fail only while the pixel is down or their line is disturbed.
fn check_answers(wrong: &mut Wrong, schedule: &Schedule, evidence: &Evidence) {
    for sent in &evidence.log {
        match &sent.outcome {
            Ok(answered) if answered.status == 200 => {}
            Ok(answered) => {
                // A mark that the disk does not take is refused, and its sender knows.
                let refused_mark = answered.status == 503
                    && matches!(sent.what, What::Mark { .. })
                    && schedule.flavor == Flavor::FullDisk
                    && sent.pixel == 0;
                if !refused_mark {
                    wrong.say(format!("{} was answered {}", sent.nonce, answered.status));
                }
            }
            Err(error) => {
                let (from, to) = (sent.connection_good_at, sent.ended.instant);
                let line = Ends::LoadToPixel(sent.pixel);
                let mut lines = evidence.line_windows.iter();
                // A half-closed connection may still give the answer under way, and end with the next request.
                let opened = sent.connection_opened_at;
                let excused = evidence.down[sent.pixel].meet(from, to)
                    || (sent.by_line
                        && lines.any(|(ends, windows)| *ends == line && windows.meet(opened, to)));
                if !excused {
                    let way = if sent.by_line { "its line" } else { "no line" };
                    wrong.say(format!(
                        "a connection to pixel {} by {way} failed while it was up, {:?} after the first request, {:?} after \
                         it last worked: {error} ({})",
                        sent.pixel,
                        sent.ended.instant - evidence.log.first().map_or(from, |first| first.begun.instant),
                        to - from,
                        sent.nonce
                    ));
                }
            }
        }
    }
}

/// What was answered is stored, except exactly as much as a pixel with a full disk has counted. Gives that count.
fn check_losses(
    wrong: &mut Wrong,
    schedule: &Schedule,
    evidence: &Evidence,
    stored: &BTreeSet<&str>,
    stored_marks: &BTreeSet<&str>,
) -> u64 {
    let mut missing = vec![0_u64; evidence.losses.len()];
    for sent in evidence.log.iter().filter(|sent| sent.is_answered()) {
        let is_hit = matches!(sent.what, What::Hit(_));
        let is_stored = if is_hit { stored } else { stored_marks }.contains(sent.nonce.as_str());
        if is_stored {
            continue;
        }
        let may_be_lost = is_hit && schedule.flavor == Flavor::FullDisk && sent.pixel == 0;
        if may_be_lost {
            missing[sent.pixel] += 1;
        } else {
            wrong.say(format!(
                "{} was answered by pixel {} and is lost",
                sent.nonce, sent.pixel
            ));
        }
    }
    for (pixel, (missing, counted)) in missing.iter().zip(&evidence.losses).enumerate() {
        if missing != counted {
            wrong.say(format!("pixel {pixel} lost {missing} hits and counted {counted}"));
        }
    }
    missing.iter().sum()
}

/// Every email, verdict and counter is the model's over the stored facts.
fn check_model(
    evidence: &Evidence,
    log: &BTreeMap<&str, &Sent>,
    hits: &[StoredHit],
    marks: &[StoredMark],
    emails: &BTreeMap<String, model::Email>,
) -> anyhow::Result<()> {
    let mut facts = Vec::with_capacity(hits.len() + marks.len());
    for hit in hits {
        let sent = sent_of(log, hit.user_agent.as_deref(), hit.referer_host.as_deref());
        let Some(What::Hit(token)) = sent.map(|sent| &sent.what) else {
            bail!("the model cannot be asked: {hit:?} was never sent");
        };
        facts.push(Fact::Hit(Hit {
            event_id: hit.event_id,
            opened_at: hit.opened_at,
            token: token.clone(),
            client_address: hit.client_address.context("a hit without an address")?,
            user_agent: hit.user_agent.clone(),
            referer_host: hit.referer_host.clone(),
        }));
    }
    for mark in marks {
        facts.push(Fact::Mark(Mark {
            mark_id: mark.mark_id,
            marked_at: mark.marked_at,
            email_id: mark.email_id.clone(),
            client_address: mark.client_address.context("a mark without an address")?,
            user_agent: mark.user_agent.clone(),
        }));
    }
    let expected = model::emails(&evidence.rules, &facts);
    ensure!(
        expected.keys().eq(emails.keys()),
        "the emails stored are not those of the model"
    );
    for (email_id, expected) in &expected {
        let found = &emails[email_id];
        for (event_id, verdict) in &expected.verdicts {
            let stored = found.verdicts.get(event_id);
            ensure!(
                stored == Some(verdict),
                "the verdict of {event_id} of {email_id} is {stored:?}, by the model {verdict:?}"
            );
        }
        ensure!(
            found == expected,
            "{email_id} is {found:?}, by the model {expected:?}"
        );
    }
    Ok(())
}

/// The dashboard's lists are the model's, too.
async fn check_dashboard(evidence: &Evidence, emails: &BTreeMap<String, model::Email>) -> anyhow::Result<()> {
    let list = api(evidence, "/dashboard/api/emails").await?;
    ensure!(
        list.len() == emails.len(),
        "the dashboard lists {} of {} emails",
        list.len(),
        emails.len()
    );
    for item in &list {
        let email_id = item["email_id"].as_str().context("an email id")?;
        let email = emails
            .get(email_id)
            .with_context(|| format!("{email_id} is listed"))?;
        let expected = serde_json::json!({
            "email_id": email_id,
            "user_id": email.user_id,
            "recipient": email.recipient,
            "sender_email": email.sender_email,
            "sent_at": email.sent_at,
            "unique_open_count": email.open_count,
            "total_open_events": email.open_count,
            "raw_open_events": email.hit_count,
            "last_opened_at": email.last_opened_at.map(|at| at.to_string()),
            "opened": email.open_count > 0,
            "created_at": email.created_at.to_string(),
            "human_open_count": email.human_open_count,
            "last_human_open_at": email.last_human_open_at.map(|at| at.to_string()),
        });
        ensure!(
            *item == expected,
            "the dashboard lists {item}, by the model {expected}"
        );
        let opens = api(
            evidence,
            &format!("/dashboard/api/open-events?email_id={email_id}"),
        )
        .await?;
        ensure!(
            i64::try_from(opens.len())? == email.open_count,
            "the dashboard shows {} opens of {email_id}, by the model {}",
            opens.len(),
            email.open_count
        );
        let latest = opens
            .first()
            .and_then(|open| open["opened_at"].as_str())
            .map(str::to_owned);
        ensure!(
            latest == email.last_opened_at.map(|at| at.to_string()),
            "the latest open of {email_id} is {latest:?}"
        );
    }
    Ok(())
}

async fn api(evidence: &Evidence, target: &str) -> anyhow::Result<Vec<Value>> {
    let answer = client::get(
        evidence.mended.dashboard.address,
        target,
        &[("x-tracker-token", DASHBOARD_TOKEN)],
    )
    .await
    .with_context(|| format!("asking for {target}"))?;
    ensure!(answer.status == 200, "{target} was answered {}", answer.status);
    let mut body: Value = serde_json::from_slice(&answer.body)?;
    match body["items"].take() {
        Value::Array(items) => Ok(items),
        other => bail!("{target} was answered with {other}"),
    }
}
