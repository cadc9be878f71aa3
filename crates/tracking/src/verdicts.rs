//! The verdicts: which hits count, judged as facts arrive in any order.
//!
//! The rules are the contract's ("Verdicts: what counts"); [`crate::model`] states them over a whole email at once. Here
//! they are applied to the few facts around newly arrived ones, so that recording costs what arrives and not what is
//! stored. Two observations make that enough:
//!
//! - A hit can only make *later* hits with its key duplicates, and never un-make one.
//! - Which mark a hit consumes depends only on the fact just before it. So a new fact concerns its own next hit alone.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use crate::{
    DedupKey, Timestamp, agent,
    agents::{Agents, Confidence},
};

/// How old a mark may be, in milliseconds, to suppress the hit that comes next.
pub const MARK_TTL_MS: i64 = 10_000;

/// What the operator may set about verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Within how many milliseconds after a hit another one with the same key is its duplicate.
    pub dedup_window_ms: i64,
    /// Hosts whose pages load a pixel because the sender writes the mail there, in lower case.
    pub compose_window_hosts: BTreeSet<String>,
    /// Who fetches pixels. No verdict depends on it.
    pub agents: Agents,
    /// Of how many mails one address has to fetch the pixels within ten seconds to be a machine; 0: it never is for that.
    pub burst_mails: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            dedup_window_ms: 30_000,
            compose_window_hosts: BTreeSet::from(["mail.google.com".to_owned()]),
            agents: Agents::default(),
            burst_mails: 10,
        }
    }
}

impl Rules {
    /// Whether the sender's own compose window made this hit: its `Referer` says so, and no proxy stands between (Gmail's
    /// readers always come through one).
    #[must_use]
    pub fn is_compose_window(&self, referer_host: Option<&str>, user_agent: Option<&str>) -> bool {
        referer_host.is_some_and(|host| self.compose_window_hosts.contains(host))
            && !agent::is_proxy(user_agent)
    }

    /// How far from a new fact, in milliseconds either way, a stored one can matter to it or it to that.
    #[must_use]
    pub fn reach_ms(&self) -> i64 {
        self.dedup_window_ms.max(MARK_TTL_MS)
    }
}

/// A hit's place in its email's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HitKey {
    /// When it came.
    pub opened_at: Timestamp,
    /// Breaks ties of the same millisecond.
    pub event_id: Uuid,
}

/// A mark's place in its email's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkKey {
    /// When it came.
    pub marked_at: Timestamp,
    /// Breaks ties of the same millisecond.
    pub mark_id: Uuid,
}

/// What was found about one hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// An earlier hit with the same key lies within the dedup window before it.
    pub is_duplicate: bool,
    /// The mark that it consumed, if the fact just before it is a fresh one.
    pub consumed_mark: Option<MarkKey>,
    /// The sender's own compose window made it.
    pub compose_window: bool,
}

/// Why a hit does not count; the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuppressionReason {
    /// It repeats an earlier hit.
    Duplicate,
    /// It consumed a mark.
    MarkSuppressNext,
    /// The sender's compose window made it.
    ComposeWindow,
}

impl SuppressionReason {
    /// The reason in the API's words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::MarkSuppressNext => "mark_suppress_next",
            Self::ComposeWindow => "compose_window",
        }
    }
}

impl Verdict {
    /// Whether it is the sender's own look at the mail.
    #[must_use]
    pub const fn is_sender_suppressed(&self) -> bool {
        self.consumed_mark.is_some() || self.compose_window
    }

    /// Whether the hit is an open.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !self.is_duplicate && !self.is_sender_suppressed()
    }

    /// Why it is none, if it is none.
    #[must_use]
    pub const fn suppression_reason(&self) -> Option<SuppressionReason> {
        match self {
            Self {
                is_duplicate: true, ..
            } => Some(SuppressionReason::Duplicate),
            Self {
                consumed_mark: Some(_),
                ..
            } => Some(SuppressionReason::MarkSuppressNext),
            Self {
                compose_window: true, ..
            } => Some(SuppressionReason::ComposeWindow),
            _ => None,
        }
    }
}

/// A hit that has not been judged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewHit {
    /// Its place in the timeline.
    pub key: HitKey,
    /// Who it looks like.
    pub dedup_key: DedupKey,
    /// [`Rules::is_compose_window`] of it.
    pub compose_window: bool,
}

/// A hit that was judged before, with its verdict so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownHit {
    /// Its place in the timeline.
    pub key: HitKey,
    /// Who it looks like.
    pub dedup_key: DedupKey,
    /// What was found before.
    pub verdict: Verdict,
    /// How far it is believed if it is an open. It does not matter to any verdict.
    pub confidence: Confidence,
}

/// What is stored of one email around its new facts: at least every hit and mark within [`Rules::reach_ms`] of each of
/// them, before and after. More does no harm; the new facts themselves are not among it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbourhood {
    /// Stored hits, in any order.
    pub hits: Vec<KnownHit>,
    /// Stored marks, in any order.
    pub marks: Vec<MarkKey>,
}

/// What new facts make of one email.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict of each new hit, in the timeline's order.
    pub new: Vec<(HitKey, Verdict)>,
    /// Stored hits whose verdict the new facts change: before and after.
    pub changed: Vec<(HitKey, Verdict, Verdict)>,
}

/// One step of the timeline. Marks come before hits of the same millisecond.
#[derive(Clone, Copy)]
enum Step {
    Mark { key: MarkKey, is_new: bool },
    NewHit(NewHit),
    KnownHit(KnownHit),
}

impl Step {
    const fn order(&self) -> (Timestamp, bool, Uuid) {
        match self {
            Self::Mark { key, .. } => (key.marked_at, false, key.mark_id),
            Self::NewHit(NewHit { key, .. }) | Self::KnownHit(KnownHit { key, .. }) => {
                (key.opened_at, true, key.event_id)
            }
        }
    }

    const fn is_new(&self) -> bool {
        matches!(self, Self::NewHit(_) | Self::Mark { is_new: true, .. })
    }
}

/// When the latest hit of one reader was, so far in the timeline.
#[derive(Clone, Copy, Debug, Default)]
struct Latest {
    /// Of all his hits.
    any: Option<Timestamp>,
    /// Of the new ones.
    new: Option<Timestamp>,
}

/// Judges the new facts of one email, given what is stored around them. Each new fact is given once.
#[must_use]
pub fn judge(
    rules: &Rules,
    neighbourhood: &Neighbourhood,
    new_hits: &[NewHit],
    new_marks: &[MarkKey],
) -> Judgement {
    let mut timeline: Vec<Step> = neighbourhood
        .marks
        .iter()
        .map(|&key| Step::Mark { key, is_new: false })
        .chain(new_marks.iter().map(|&key| Step::Mark { key, is_new: true }))
        .chain(neighbourhood.hits.iter().copied().map(Step::KnownHit))
        .chain(new_hits.iter().copied().map(Step::NewHit))
        .collect();
    timeline.sort_unstable_by_key(Step::order);

    let mut judgement = Judgement::default();
    let mut latest: HashMap<DedupKey, Latest> = HashMap::new();
    let within_window = |earlier: Option<Timestamp>, at: Timestamp| {
        earlier.is_some_and(|earlier| at.millis_since(earlier) <= rules.dedup_window_ms)
    };
    let mut previous: Option<Step> = None;
    for step in timeline {
        match step {
            Step::Mark { .. } => {}
            Step::NewHit(NewHit {
                key,
                dedup_key,
                compose_window,
            }) => {
                let latest = latest.entry(dedup_key).or_default();
                let is_duplicate = within_window(latest.any, key.opened_at);
                let consumed_mark = consumed_mark(previous.as_ref(), key.opened_at);
                judgement.new.push((
                    key,
                    Verdict {
                        is_duplicate,
                        consumed_mark,
                        compose_window,
                    },
                ));
                latest.any = Some(key.opened_at);
                latest.new = Some(key.opened_at);
            }
            Step::KnownHit(KnownHit {
                key,
                dedup_key,
                verdict: before,
                ..
            }) => {
                let latest = latest.entry(dedup_key).or_default();
                let mut after = before;
                after.is_duplicate |= within_window(latest.new, key.opened_at);
                // Between a new fact and what lies further than the reach after it there may be facts not seen here, and
                // nothing that it could change.
                let is_new_and_near = |step: &Step| {
                    step.is_new() && key.opened_at.millis_since(step.order().0) <= rules.reach_ms()
                };
                if previous.as_ref().is_some_and(is_new_and_near) {
                    after.consumed_mark = consumed_mark(previous.as_ref(), key.opened_at);
                }
                if after != before {
                    judgement.changed.push((key, before, after));
                }
                latest.any = Some(key.opened_at);
            }
        }
        previous = Some(step);
    }
    judgement
}

/// The mark that a hit at `opened_at` consumes, if `previous`, the fact just before it, is a fresh one.
fn consumed_mark(previous: Option<&Step>, opened_at: Timestamp) -> Option<MarkKey> {
    match previous {
        Some(&Step::Mark { key, .. }) if opened_at.millis_since(key.marked_at) <= MARK_TTL_MS => Some(key),
        _ => None,
    }
}
