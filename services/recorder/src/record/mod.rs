//! The recording transaction: facts in, verdicts and counters out.
//!
//! What it leaves behind is a function of the stored facts alone, whatever order, batches and recorders they came in:
//!
//! 1. [`verdicts`]: the batch is judged as if nothing were stored near it, which is nearly always so. ([`judge_alone`]: before
//!    the transaction, while the one before it may still wait for the disk.)
//! 2. [`emails`]: the rows of the batch's emails are locked, in one order everywhere. Their hits are counted, and where that
//!    was so their opens too. From here on nobody else can add facts to these emails.
//!    [`erased`]: those never seen are added, unless they were erased.
//! 3. [`neighbours`]: for the other emails, what is stored around the new facts is read; facts already stored are found
//!    among it. Those emails are judged again, and the stored hits whose verdict the new facts change.
//! 4. [`marks`], [`hits`], [`verdicts`], [`counters`], [`revisions`]: the rest is written.
//! 5. [`opens`]: if anybody is to be told of opens, what there is to tell is left in the outbox.
//!
//! Each step is a round trip to the database at most: its statements are sent together and run in the order sent, each
//! with its own snapshot (READ COMMITTED), so that what is read is read under the locks.

mod batch;
mod counters;
mod emails;
mod erased;
mod hits;
mod marks;
mod neighbours;
mod opens;
mod revisions;
mod statements;
mod verdicts;

pub(crate) use batch::Batch;
pub(crate) use verdicts::judge_alone;

use database::{Error, Transaction, Work};
use recorder_api::Outcome;
use statements::Statements;
use tokio_postgres::error::SqlState;
use tracking::{Rules, verdicts::Neighbourhood};

use self::{counters::Change, emails::KnownEmail, neighbours::Spans, verdicts::Judged};
use crate::{shards::Layout, webhooks::Outbox};

/// One batch to be recorded in one transaction.
pub(crate) struct Recording<'a> {
    pub(crate) batch: &'a Batch,
    /// The batch as [`judge_alone`] judges it.
    pub(crate) alone: &'a [Judged<'a>],
    pub(crate) rules: &'a Rules,
    /// Where emails lie in shards, all of the batch lie in one.
    pub(crate) layout: Layout,
    /// Whose row of `revisions` to raise.
    pub(crate) writer: &'a str,
    /// Where to leave new opens for those who are to be told.
    pub(crate) outbox: Option<&'a Outbox>,
}

/// What a transaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// One for each fact, in the order given.
    pub(crate) outcomes: Vec<Outcome>,
    /// Emails that no fact had named before.
    pub(crate) new_emails: u64,
    /// Stored hits whose verdict changed.
    pub(crate) corrected: usize,
    /// Whether there is something to tell.
    pub(crate) to_tell: bool,
}

/// The recording transaction's name.
pub(crate) const NAME: &str = "record";

/// Its statements that look at stored rows of emails or change them.
#[cfg(test)]
pub(crate) const PER_EMAIL: &[&str] = &[
    emails::COUNT,
    erased::REMOVE,
    hits::STORED,
    marks::STORED,
    verdicts::CORRECT,
    counters::UPDATE,
];

/// Whether a transaction failed for want of a partition: nothing else of hits is checked.
pub(crate) fn is_missing_partition(error: &Error) -> bool {
    error.statement() == Some(hits::INSERT_NAME) && error.sqlstate() == Some(&SqlState::CHECK_VIOLATION)
}

impl Work for Recording<'_> {
    const NAME: &'static str = NAME;
    type Output = Recorded;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Recorded, Error> {
        let statements = &Statements::prepare(tx, self.layout).await?;
        let outbox = opens::prepare(tx, self.outbox, self.layout).await?;
        let (batch, alone) = (self.batch, self.alone);

        let unknown = KnownEmail::default();
        let changes: Vec<Change<'_>> = alone
            .iter()
            .map(|judged| counters::change(&unknown, judged))
            .collect();
        let mut standings = emails::count(tx, statements, batch, &changes, self.rules).await?;

        let reach_ms = self.rules.reach_ms();
        let spans = &Spans::around(batch, &standings, reach_ms, |_| true);
        let spans_of_marks = &Spans::around(batch, &standings, reach_ms, |known| known.has_marks_near);
        let (added, erased, stored_hits, stored_marks) = futures::try_join!(
            emails::add(tx, statements, &changes, &standings),
            erased::find(tx, statements, batch, &standings),
            hits::stored(tx, statements, batch, spans, self.rules),
            marks::stored(tx, statements, batch, spans_of_marks, self.rules),
        )?;
        drop(changes);
        erased::refuse(tx, batch, &mut standings, &erased).await?;
        let neighbourhoods: Vec<Neighbourhood> = stored_hits
            .into_iter()
            .zip(stored_marks)
            .map(|(hits, marks)| Neighbourhood { hits, marks })
            .collect();

        let judged = &verdicts::judge_near(self.rules, batch, alone, &standings, &neighbourhoods);
        let changes = &counters::changes_near(batch, &standings, judged);

        let (.., to_tell) = futures::try_join!(
            marks::insert(tx, statements, judged),
            hits::insert(tx, statements, judged),
            verdicts::correct(tx, statements, judged),
            counters::apply(tx, statements, changes),
            revisions::mark_slots(tx, statements, self, judged),
            revisions::raise(tx, statements, self, judged),
            opens::leave(tx, outbox, judged),
        )?;
        Ok(Recorded {
            outcomes: batch.outcomes(judged, &standings),
            new_emails: added.saturating_sub(u64::try_from(erased.len()).unwrap_or(u64::MAX)),
            corrected: judged.iter().map(|email| email.corrected.len()).sum(),
            to_tell,
        })
    }
}
