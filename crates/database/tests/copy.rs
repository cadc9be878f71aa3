//! Binary COPY, against a real server.
#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use common::{migrated, open};
use database::{CopyIn, Error, InStatement, Transaction, Work};
use tokio_postgres::types::Type;

const TYPES: [Type; 3] = [Type::INT8, Type::TEXT, Type::BOOL];

/// How a copy goes.
enum Copy {
    /// All of so many rows; every third one has no text.
    Whole(i64),
    /// Dropped after a row.
    Dropped,
    /// A row of fewer values than columns.
    Short,
    /// A value of another type than its column.
    OtherType,
}

impl Work for Copy {
    const NAME: &'static str = "copy";
    /// How many rows the server says it took, how many are there, the sum of their numbers, and the length of their texts.
    type Output = (u64, i64, i64, i64);

    async fn run(&self, tx: &Transaction<'_>) -> Result<Self::Output, Error> {
        tx.batch_execute("create temp table copied (number bigint, text text, flag boolean) on commit drop")
            .await?;
        let copy = tx.prepare("copy copied from stdin with (format binary)").await?;
        let mut rows = CopyIn::begin(tx, &copy, &TYPES).await?;
        let copied = match self {
            Self::Whole(count) => {
                for number in 0..*count {
                    let text = (number % 3 > 0).then(|| format!("{number:0300}"));
                    rows.row(&[&number, &text, &(number % 2 == 0)]).await?;
                }
                rows.finish().await.in_statement("copy")?
            }
            Self::Dropped => {
                rows.row(&[&1_i64, &"one", &true]).await?;
                drop(rows);
                0
            }
            Self::Short => {
                rows.row(&[&1_i64, &"one"]).await?;
                0
            }
            Self::OtherType => {
                rows.row(&[&"secret@example.com", &"one", &true]).await?;
                0
            }
        };
        let found = tx
            .query_one(
                "select count(*), coalesce(sum(number), 0)::bigint, coalesce(sum(length(text)), 0)::bigint from copied",
                &[],
            )
            .await?;
        Ok((copied, found.try_get(0)?, found.try_get(1)?, found.try_get(2)?))
    }
}

#[tokio::test]
async fn all_rows_arrive_however_many_pieces_they_take() {
    let test = migrated().await;
    let database = open(&test);
    for count in [0, 1, 3, 5_000] {
        let copied = database.transact(&Copy::Whole(count)).await.expect("copied");
        let texts = count - (count + 2) / 3;
        let expected = (count.unsigned_abs(), count, count * (count - 1) / 2, 300 * texts);
        assert_eq!(copied, expected);
    }
}

#[tokio::test]
async fn what_is_not_finished_or_does_not_fit_stores_nothing_and_says_no_values() {
    let test = migrated().await;
    let database = open(&test);
    for copy in [Copy::Dropped, Copy::Short, Copy::OtherType] {
        let error = database.transact(&copy).await.expect_err("an error");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    // The connection is as good as before.
    assert!(database.transact(&Copy::Whole(1)).await.is_ok());
}
