//! The recording transaction: facts in, verdicts and counters out.
//!
//! What it leaves behind is a function of the stored facts alone, whatever order, batches and recorders they came in:
//!
//! 1. [`emails`]: the rows of the batch's emails are locked, in one order everywhere. From here on nobody else can add
//!    facts to these emails.
//! 2. [`neighbours`]: what is stored around the new facts is read; facts already stored are found among it.
//! 3. [`verdicts`]: the new facts are judged, and the stored hits whose verdict they change.
//! 4. [`marks`], [`hits`], [`verdicts`], [`counters`], [`revisions`]: all of it is written.
//!
//! The first two are one round trip to the database and the fourth is another: statements are sent together and run in
//! the order sent, each with its own snapshot (READ COMMITTED), so that what is read is read under the locks.

mod batch;
mod counters;
mod emails;
mod hits;
mod marks;
mod neighbours;
mod revisions;
mod statements;
mod verdicts;

pub(crate) use batch::Batch;
pub(crate) use revisions::RAISE as RAISE_REVISION;

use database::{Error, Transaction, Work};
use recorder_api::Outcome;
use statements::Statements;
use tokio_postgres::error::SqlState;
use tracking::{Rules, verdicts::Neighbourhood};

/// One batch to be recorded in one transaction.
pub(crate) struct Recording<'a> {
    pub(crate) batch: &'a Batch,
    pub(crate) rules: &'a Rules,
    /// Whose row of `revisions` to raise.
    pub(crate) writer: &'a str,
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
}

/// The recording transaction's name.
pub(crate) const NAME: &str = "record";

/// Whether a transaction failed for want of a partition: nothing else of hits is checked.
pub(crate) fn is_missing_partition(error: &Error) -> bool {
    error.statement() == Some(hits::INSERT_NAME) && error.sqlstate() == Some(&SqlState::CHECK_VIOLATION)
}

impl Work for Recording<'_> {
    const NAME: &'static str = NAME;
    type Output = Recorded;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Recorded, Error> {
        let statements = &Statements::prepare(tx).await?;
        let batch = self.batch;

        let spans = &neighbours::Spans::around(batch, self.rules.reach_ms());
        let (new_emails, emails, stored_hits, stored_marks) = futures::try_join!(
            emails::add(tx, statements, batch),
            emails::lock(tx, statements, batch),
            hits::stored(tx, statements, batch, spans, self.rules),
            marks::stored(tx, statements, batch, spans, self.rules),
        )?;
        let neighbourhoods: Vec<Neighbourhood> = stored_hits
            .into_iter()
            .zip(stored_marks)
            .map(|(hits, marks)| Neighbourhood { hits, marks })
            .collect();

        let judged = &verdicts::judge(self.rules, batch, &neighbourhoods);
        let changes = &counters::changes(&emails, judged);

        futures::try_join!(
            marks::insert(tx, statements, judged),
            hits::insert(tx, statements, judged),
            verdicts::correct(tx, statements, judged),
            counters::apply(tx, statements, changes),
            revisions::raise(tx, statements, self.writer, changes),
        )?;
        Ok(Recorded {
            outcomes: batch.outcomes(judged),
            new_emails,
            corrected: judged.iter().map(|email| email.corrected.len()).sum(),
        })
    }
}
