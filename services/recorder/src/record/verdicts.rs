//! Judging the new facts, and correcting what they change about stored hits.

use std::collections::{HashMap, HashSet};

use database::{Error, InStatement, Timestamptz, Transaction};
use tracking::{
    Mark, Rules, Verdict,
    agents::Confidence,
    verdicts::{HitKey, MarkKey, Neighbourhood, NewHit, judge as judge_facts},
};

use super::{Batch, Statements, batch::EmailFacts, emails::Standing};
use crate::describe::DescribedHit;

pub(super) const CORRECT: &str = "-- record: correct verdicts of stored hits
update hits
set is_duplicate = correct.is_duplicate, consumed_mark_at = correct.mark_at, consumed_mark_id = correct.mark_id
from unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::boolean[], $5::timestamptz[], $6::uuid[])
  as correct (email_id, opened_at, event_id, is_duplicate, mark_at, mark_id)
where hits.email_id = correct.email_id and hits.opened_at = correct.opened_at and hits.event_id = correct.event_id
  -- in shards: and hits.email_id = any($1)";

/// What the batch means for one email.
#[derive(Clone, Debug)]
pub(crate) struct Judged<'a> {
    pub(super) email_id: &'a str,
    /// In the timeline's order.
    pub(super) new_hits: Vec<JudgedHit<'a>>,
    pub(super) new_marks: Vec<&'a Mark>,
    /// Stored hits whose verdict changes.
    pub(super) corrected: Vec<Correction>,
}

/// A stored hit whose verdict changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Correction {
    pub(super) key: HitKey,
    pub(super) before: Verdict,
    pub(super) after: Verdict,
    pub(super) confidence: Confidence,
}

/// A new hit with its verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct JudgedHit<'a> {
    pub(super) described: &'a DescribedHit,
    pub(super) verdict: Verdict,
}

/// Judges the batch as if nothing were stored near it, email by email in its order.
pub(crate) fn judge_alone<'a>(rules: &Rules, batch: &'a Batch) -> Vec<Judged<'a>> {
    let nothing = Neighbourhood::default();
    batch
        .emails
        .iter()
        .map(|facts| judge_email(rules, facts, &nothing))
        .collect()
}

/// Judges again, by what was found, the emails that something is stored near to.
pub(super) fn judge_near<'a>(
    rules: &Rules,
    batch: &'a Batch,
    alone: &[Judged<'a>],
    standings: &[Standing],
    neighbourhoods: &[Neighbourhood],
) -> Vec<Judged<'a>> {
    let emails = batch.emails.iter().zip(alone);
    emails
        .zip(standings.iter().zip(neighbourhoods))
        .map(|((facts, judged), (standing, neighbourhood))| match standing {
            Standing::New | Standing::InOrder => judged.clone(),
            Standing::Erased => Judged {
                email_id: judged.email_id,
                new_hits: Vec::new(),
                new_marks: Vec::new(),
                corrected: Vec::new(),
            },
            Standing::Near(_) => judge_email(rules, facts, neighbourhood),
        })
        .collect()
}

/// Judges one email's facts by what is stored near them.
pub(super) fn judge_email<'a>(
    rules: &Rules,
    facts: &'a EmailFacts,
    neighbourhood: &Neighbourhood,
) -> Judged<'a> {
    let stored_hits: HashMap<HitKey, Confidence> = neighbourhood
        .hits
        .iter()
        .map(|hit| (hit.key, hit.confidence))
        .collect();
    let stored_marks: HashSet<&MarkKey> = neighbourhood.marks.iter().collect();
    let new_hits: Vec<&DescribedHit> = facts
        .hits
        .iter()
        .filter(|(key, _)| !stored_hits.contains_key(key))
        .map(|(_, hit)| hit.as_ref())
        .collect();
    let new_marks = || facts.marks.iter().filter(|(key, _)| !stored_marks.contains(key));

    let hits_to_judge: Vec<NewHit> = new_hits.iter().map(|hit| hit.to_judge(rules)).collect();
    let marks_to_judge: Vec<MarkKey> = new_marks().map(|(key, _)| *key).collect();
    let judgement = judge_facts(rules, neighbourhood, &hits_to_judge, &marks_to_judge);

    // Both are in the timeline's order.
    let new_hits = new_hits.into_iter().zip(judgement.new);
    Judged {
        email_id: &facts.email_id,
        new_hits: new_hits
            .map(|(described, (_, verdict))| JudgedHit { described, verdict })
            .collect(),
        new_marks: new_marks().map(|(_, mark)| mark).collect(),
        corrected: judgement
            .changed
            .into_iter()
            .filter_map(|(key, before, after)| {
                Some(Correction {
                    key,
                    before,
                    after,
                    confidence: *stored_hits.get(&key)?,
                })
            })
            .collect(),
    }
}

/// Writes the verdicts of stored hits that changed.
pub(super) async fn correct(
    tx: &Transaction<'_>,
    statements: &Statements,
    judged: &[Judged<'_>],
) -> Result<(), Error> {
    let corrected = || {
        judged.iter().flat_map(|email| {
            email
                .corrected
                .iter()
                .map(|correction| (email.email_id, &correction.key, &correction.after))
        })
    };
    if corrected().next().is_none() {
        return Ok(());
    }
    let email_id: Vec<&str> = corrected().map(|(email_id, ..)| email_id).collect();
    let opened_at: Vec<Timestamptz> = corrected().map(|(_, key, _)| key.opened_at.into()).collect();
    let event_id: Vec<_> = corrected().map(|(_, key, _)| key.event_id).collect();
    let is_duplicate: Vec<bool> = corrected().map(|(.., verdict)| verdict.is_duplicate).collect();
    let mark_at: Vec<Option<Timestamptz>> = corrected()
        .map(|(.., verdict)| verdict.consumed_mark.map(|mark| mark.marked_at.into()))
        .collect();
    let mark_id: Vec<_> = corrected()
        .map(|(.., verdict)| verdict.consumed_mark.map(|mark| mark.mark_id))
        .collect();
    tx.execute(
        &statements.correct_hits,
        &[
            &email_id,
            &opened_at,
            &event_id,
            &is_duplicate,
            &mark_at,
            &mark_id,
        ],
    )
    .await
    .in_statement("correct_hits")?;
    Ok(())
}
