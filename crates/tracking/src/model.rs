//! The reference: what counts, said over all facts of one email at once, as simply as it can be said.
//!
//! Nothing in production calls this. Tests hold the recorder's tables against it, whatever order, batches, replays and
//! concurrency the facts came in.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    DedupKey, Fact, Hit, Mark, Rules, Timestamp, Verdict,
    agents::{Agent, Confidence},
    verdicts::{MARK_TTL_MS, MarkKey},
};

/// What is shown of one email.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// Of its earliest hit, as are `recipient`, `sent_at` and `created_at`.
    pub user_id: String,
    /// Of its earliest hit.
    pub recipient: String,
    /// Of its earliest hit.
    pub sent_at: String,
    /// `opened_at` of its earliest hit.
    pub created_at: Timestamp,
    /// The earliest one that any hit's token named.
    pub sender_email: Option<String>,
    /// How many hits are opens.
    pub open_count: i64,
    /// How many hits there are.
    pub hit_count: i64,
    /// When the latest open was, if there is any.
    pub last_opened_at: Option<Timestamp>,
    /// When the earliest open was.
    pub earliest_open_at: Option<Timestamp>,
    /// How many opens are not by machines.
    pub credible_open_count: i64,
    /// When the latest one of them was.
    pub last_credible_open_at: Option<Timestamp>,
    /// When the earliest one of them was.
    pub earliest_credible_open_at: Option<Timestamp>,
    /// How many opens are by people.
    pub human_open_count: i64,
    /// When the latest one of them was.
    pub last_human_open_at: Option<Timestamp>,
    /// When the earliest one of them was.
    pub earliest_human_open_at: Option<Timestamp>,
    /// Who made each hit, by event id.
    pub agents: BTreeMap<Uuid, Agent>,
    /// The verdict of each hit, by event id.
    pub verdicts: BTreeMap<Uuid, Verdict>,
}

/// All emails that have a hit, by email id, from facts in any order and repeated at will.
#[must_use]
pub fn emails<'a>(rules: &Rules, facts: impl IntoIterator<Item = &'a Fact>) -> BTreeMap<String, Email> {
    // A hit and a mark may carry the same id: each kind has its own. Of two hits with one id, the first is the fact.
    let mut by_email: BTreeMap<&str, BTreeMap<(bool, Uuid), &Fact>> = BTreeMap::new();
    for fact in facts {
        by_email
            .entry(fact.email_id())
            .or_default()
            .entry((matches!(fact, Fact::Hit(_)), fact.id()))
            .or_insert(fact);
    }
    by_email
        .into_iter()
        .filter_map(|(email_id, facts)| Some((email_id.to_owned(), email(rules, facts.into_values())?)))
        .collect()
}

/// One email from its facts, each given once; `None` if no hit is among them.
fn email<'a>(rules: &Rules, facts: impl Iterator<Item = &'a Fact>) -> Option<Email> {
    let mut timeline: Vec<&Fact> = facts.collect();
    timeline.sort_by_key(|fact| (fact.at(), matches!(fact, Fact::Hit(_)), fact.id()));
    let hits: Vec<&Hit> = timeline
        .iter()
        .filter_map(|fact| match fact {
            Fact::Hit(hit) => Some(hit),
            Fact::Mark(_) => None,
        })
        .collect();
    let first = hits.first()?;
    let dedup_keys: BTreeMap<Uuid, DedupKey> =
        hits.iter().map(|hit| (hit.event_id, hit.dedup_key())).collect();

    let mut verdicts = BTreeMap::new();
    for (position, fact) in timeline.iter().enumerate() {
        let Fact::Hit(hit) = fact else { continue };
        let just_before = position.checked_sub(1).and_then(|before| timeline.get(before));
        verdicts.insert(
            hit.event_id,
            Verdict {
                is_duplicate: hits
                    .iter()
                    .take_while(|earlier| earlier.event_id != hit.event_id)
                    .any(|earlier| {
                        dedup_keys.get(&earlier.event_id) == dedup_keys.get(&hit.event_id)
                            && hit.opened_at.millis_since(earlier.opened_at) <= rules.dedup_window_ms
                    }),
                consumed_mark: match just_before {
                    Some(Fact::Mark(Mark {
                        marked_at, mark_id, ..
                    })) if hit.opened_at.millis_since(*marked_at) <= MARK_TTL_MS => Some(MarkKey {
                        marked_at: *marked_at,
                        mark_id: *mark_id,
                    }),
                    _ => None,
                },
                compose_window: rules
                    .is_compose_window(hit.referer_host.as_deref(), hit.user_agent.as_deref()),
            },
        );
    }
    let agents: BTreeMap<Uuid, Agent> = hits
        .iter()
        .map(|hit| (hit.event_id, rules.agents.of_hit(hit)))
        .collect();
    let opens = || {
        hits.iter()
            .filter(|hit| verdicts.get(&hit.event_id).is_some_and(Verdict::is_open))
    };
    let opens_by = |whom: fn(Confidence) -> bool| -> Vec<Timestamp> {
        let is_by = |hit: &&&Hit| {
            agents
                .get(&hit.event_id)
                .is_some_and(|agent| whom(agent.confidence()))
        };
        opens().filter(is_by).map(|hit| hit.opened_at).collect()
    };
    let credible = opens_by(|confidence| !confidence.is_automated());
    let human = opens_by(Confidence::is_human);
    Some(Email {
        user_id: first.token.user_id.clone(),
        recipient: first.token.recipient.clone(),
        sent_at: first.token.sent_at.clone(),
        created_at: first.opened_at,
        sender_email: hits.iter().find_map(|hit| hit.token.sender_email.clone()),
        open_count: i64::try_from(opens().count()).unwrap_or(i64::MAX),
        hit_count: i64::try_from(hits.len()).unwrap_or(i64::MAX),
        last_opened_at: opens().map(|hit| hit.opened_at).max(),
        earliest_open_at: opens().map(|hit| hit.opened_at).min(),
        credible_open_count: i64::try_from(credible.len()).unwrap_or(i64::MAX),
        last_credible_open_at: credible.iter().copied().max(),
        earliest_credible_open_at: credible.into_iter().min(),
        human_open_count: i64::try_from(human.len()).unwrap_or(i64::MAX),
        last_human_open_at: human.iter().copied().max(),
        earliest_human_open_at: human.into_iter().min(),
        agents,
        verdicts,
    })
}
