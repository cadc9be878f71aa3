//! Where emails lie.
//!
//! In a plain PostgreSQL all lie in one place, and one statement may lock the rows of any of them. On Citus each email's
//! row, hits and marks lie together in one of many shards, and a statement that locks rows, or looks up something for each
//! of them, may concern one shard only. So there a transaction holds the emails of one shard, and its statements say so.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use database::{Database, Error, InStatement, Transaction, Work};
use tokio_postgres::error::SqlState;

/// How the emails of a database lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Layout {
    /// In one place.
    #[default]
    Whole,
    /// Each in one of many shards.
    Sharded,
}

/// Begins what a statement says only where emails lie in shards. Everywhere else it is a comment.
const IN_SHARDS: &str = "-- in shards: ";

impl Layout {
    /// `statement` as it is to be sent.
    pub(crate) fn form(self, statement: &'static str) -> Cow<'static, str> {
        match self {
            Self::Whole => Cow::Borrowed(statement),
            Self::Sharded => Cow::Owned(statement.replace(IN_SHARDS, "")),
        }
    }
}

/// Knows how the emails lie, and in which shard each.
#[derive(Debug, Default)]
pub(crate) struct Shards {
    layout: Mutex<Option<Layout>>,
}

/// The names of its transactions.
pub(crate) const NAMES: [&str; 2] = [ReadLayout::NAME, FindShards::NAME];

impl Shards {
    /// How the emails lie; asks once.
    pub(crate) async fn layout(&self, database: &Database) -> Result<Layout, Error> {
        let known = *self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = known {
            return Ok(layout);
        }
        let layout = database.transact(&ReadLayout).await?;
        if layout == Layout::Sharded {
            tracing::info!("emails lie in shards: each transaction records those of one");
        }
        *self.layout.lock().unwrap_or_else(PoisonError::into_inner) = Some(layout);
        Ok(layout)
    }

    /// Asks again next time, if a statement failed because the emails have been distributed since.
    pub(crate) fn look_again_after(&self, error: &Error) {
        if error.sqlstate() == Some(&SqlState::FEATURE_NOT_SUPPORTED) {
            *self.layout.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Puts together what is of emails of the same shard, by its number; in one place all have the number 0.
    pub(crate) async fn split<T: Sync>(
        &self,
        database: &Database,
        what: Vec<T>,
        email_id: impl Fn(&T) -> &str + Sync,
    ) -> Result<BTreeMap<i64, Vec<T>>, Error> {
        let mut by_shard: BTreeMap<i64, Vec<T>> = BTreeMap::new();
        if what.is_empty() {
            return Ok(by_shard);
        }
        if self.layout(database).await? == Layout::Whole {
            by_shard.insert(0, what);
            return Ok(by_shard);
        }
        let email_ids: Vec<&str> = what.iter().map(&email_id).collect();
        let shards = database
            .transact(&FindShards {
                email_ids: &email_ids,
            })
            .await?;
        for (shard, of_shard) in shards.into_iter().zip(what) {
            by_shard.entry(shard).or_default().push(of_shard);
        }
        Ok(by_shard)
    }
}

struct ReadLayout;

impl Work for ReadLayout {
    const NAME: &'static str = "read_layout";
    const READ_ONLY: bool = true;
    type Output = Layout;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Layout, Error> {
        let is_distributed = database::is_distributed(&**tx).await?;
        Ok(if is_distributed {
            Layout::Sharded
        } else {
            Layout::Whole
        })
    }
}

/// Citus's own function: the hash that it places rows by.
const SHARDS: &str = "-- shards: of emails
select get_shard_id_for_distribution_column('tracked_emails', email_id)
from unnest($1::text[]) with ordinality as given (email_id, place)
order by place";

/// The shard of each email, in the order given.
struct FindShards<'a> {
    email_ids: &'a [&'a str],
}

impl Work for FindShards<'_> {
    const NAME: &'static str = "find_shards";
    const READ_ONLY: bool = true;
    type Output = Vec<i64>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<i64>, Error> {
        let statement = tx.prepare_cached(SHARDS).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(&statement, &[&self.email_ids])
            .await
            .in_statement(Self::NAME)?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{addresses, erase, reassess, record, retention, steps, webhooks};

    /// How often a statement names a table of facts to read or change its rows. Its first line is its name.
    fn tables(statement: &str) -> usize {
        [
            "tracked_emails",
            "hits",
            "marks",
            "webhook_queues",
            "webhook_events",
        ]
        .iter()
        .flat_map(|table| [format!("from {table}"), format!("update {table}")])
        .map(|named| {
            statement
                .lines()
                .skip(1)
                .map(|line| line.matches(&named).count())
                .sum::<usize>()
        })
        .sum()
    }

    #[test]
    fn in_shards_each_statement_says_which_emails_it_is_about_for_each_table() {
        let statements: Vec<&str> = [
            record::PER_EMAIL,
            retention::PER_EMAIL,
            addresses::PER_EMAIL,
            reassess::PER_EMAIL,
            steps::PER_EMAIL,
            &webhooks::per_email(),
            erase::PER_EMAIL,
        ]
        .concat();
        for statement in statements {
            let sent = Layout::Sharded.form(statement);
            let said = sent.matches("email_id = any($").count();
            assert!(said > 0 && said == tables(&sent), "{sent}");
            assert!(!sent.contains(IN_SHARDS), "{sent}");
        }
    }

    #[test]
    fn elsewhere_that_is_a_comment() {
        let statement = "select\n  -- in shards: 1";
        assert_eq!(Layout::Whole.form(statement), statement);
        assert_eq!(Layout::Sharded.form(statement), "select\n  1");
    }
}
