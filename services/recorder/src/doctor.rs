//! Removes the emails that `email-tracker doctor` made up, an hour after their first hit.

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use tracking::{Timestamp, doctor};

use crate::revisions;

/// The most that one round removes; the rest waits for the next.
const AT_ONCE: i64 = 1_000;

/// By the primary key; there are few of them.
const FIND: &str = "-- doctor: find emails
select email_id from tracked_emails
where email_id >= $1 and email_id < $2 and user_id = $3 and first_opened_at < $4
order by email_id
limit $5";

/// From here on nobody can add facts to the email. Its first hit may have become an earlier one, of another user.
const LOCK: &str = "-- doctor: lock an email
select from tracked_emails where email_id = $1 and user_id = $2 and first_opened_at < $3
for update";

const DELETE: [(&str, &str); 3] = [
    (
        "doctor_hits",
        "-- doctor: remove hits\ndelete from hits where email_id = $1",
    ),
    (
        "doctor_marks",
        "-- doctor: remove marks\ndelete from marks where email_id = $1",
    ),
    (
        "doctor_email",
        "-- doctor: remove an email\ndelete from tracked_emails where email_id = $1",
    ),
];

/// Removes those whose first hit is before `before`; answers how many there were.
pub(crate) async fn remove(database: &Database, writer: &str, before: Timestamp) -> Result<u64, Error> {
    let mut removed = 0;
    for email_id in database.transact(&Find { before }).await? {
        // Each by itself, so that nobody who records waits for more than one, and a distributed table needs one shard.
        let remove = Remove {
            email_id: &email_id,
            before,
            writer,
        };
        removed += u64::from(database.transact(&remove).await?);
    }
    Ok(removed)
}

/// The names of its transactions.
pub(crate) const NAMES: [&str; 2] = [Find::NAME, Remove::NAME];

struct Find {
    before: Timestamp,
}

impl Work for Find {
    const NAME: &'static str = "find_doctor_emails";
    type Output = Vec<String>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<String>, Error> {
        let find = tx.prepare_cached(FIND).await.in_statement(Self::NAME)?;
        let range = (doctor::EMAIL_ID_PREFIX, doctor::EMAIL_ID_END);
        let rows = tx
            .query(
                &find,
                &[
                    &range.0,
                    &range.1,
                    &doctor::USER_ID,
                    &Timestamptz(self.before),
                    &AT_ONCE,
                ],
            )
            .await
            .in_statement(Self::NAME)?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

struct Remove<'a> {
    email_id: &'a str,
    before: Timestamp,
    writer: &'a str,
}

impl Work for Remove<'_> {
    const NAME: &'static str = "remove_doctor_email";
    /// Whether it was still there.
    type Output = bool;

    async fn run(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        let lock = tx.prepare_cached(LOCK).await.in_statement("doctor_lock")?;
        let locked = tx
            .query_opt(
                &lock,
                &[&self.email_id, &doctor::USER_ID, &Timestamptz(self.before)],
            )
            .await
            .in_statement("doctor_lock")?;
        if locked.is_none() {
            return Ok(false);
        }
        for (name, sql) in DELETE {
            let statement = tx.prepare_cached(sql).await.in_statement(name)?;
            tx.execute(&statement, &[&self.email_id])
                .await
                .in_statement(name)?;
        }
        revisions::raise(tx, self.writer).await?;
        Ok(true)
    }
}
