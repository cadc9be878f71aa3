//! New opens, for those who are to be told.

use database::{Error, Transaction};

use super::verdicts::{Correction, Judged};
use crate::{
    shards::Layout,
    webhooks::{NewOpen, OpensOfEmail, Outbox, OutboxStatements},
};

/// The outbox with its statements, if there is one.
pub(super) async fn prepare<'a>(
    tx: &Transaction<'_>,
    outbox: Option<&'a Outbox>,
    layout: Layout,
) -> Result<Option<(&'a Outbox, OutboxStatements)>, Error> {
    match outbox {
        Some(outbox) => Ok(Some((outbox, OutboxStatements::prepare(tx, layout).await?))),
        None => Ok(None),
    }
}

/// Leaves what there is to tell; the emails are counted before this runs. Answers whether it was anything.
pub(super) async fn leave(
    tx: &Transaction<'_>,
    outbox: Option<(&Outbox, OutboxStatements)>,
    judged: &[Judged<'_>],
) -> Result<bool, Error> {
    let Some((outbox, statements)) = outbox else {
        return Ok(false);
    };
    let emails: Vec<OpensOfEmail<'_>> = judged.iter().filter_map(opens_of).collect();
    outbox.leave(tx, &statements, &emails).await
}

/// What became an open by this batch: new hits, and stored ones of which a late fact says so.
fn opens_of<'a>(judged: &Judged<'a>) -> Option<OpensOfEmail<'a>> {
    let recorded = judged.new_hits.iter().filter(|hit| hit.verdict.is_open());
    let recorded = recorded.map(|hit| NewOpen {
        opened_at: hit.described.hit.opened_at.into(),
        event_id: hit.described.hit.event_id,
        credible: !hit.described.agent.confidence().is_automated(),
    });
    let turned = |into_open: bool| {
        let is_one =
            move |hit: &&Correction| hit.before.is_open() != into_open && hit.after.is_open() == into_open;
        judged.corrected.iter().filter(is_one)
    };
    let corrected = turned(true).map(|hit| NewOpen {
        opened_at: hit.key.opened_at.into(),
        event_id: hit.key.event_id,
        credible: !hit.confidence.is_automated(),
    });
    let mut new: Vec<NewOpen> = recorded.chain(corrected).collect();
    if new.is_empty() {
        return None;
    }
    new.sort_unstable_by_key(|open| (open.opened_at, open.event_id));
    let withdrawn = |credible: bool| {
        let withdrawn = turned(false).filter(|hit| !(credible && hit.confidence.is_automated()));
        number(withdrawn.count())
    };
    let credible = new.iter().filter(|open| open.credible).count();
    Some(OpensOfEmail {
        email_id: judged.email_id,
        opens: number(new.len()) - withdrawn(false),
        credible_opens: number(credible) - withdrawn(true),
        new,
    })
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
