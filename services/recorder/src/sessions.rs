//! Which sessions of the dashboard hold: those of the present generation.

use database::{Database, Error, InStatement, Transaction, Work};
use tracking::Timestamp;

/// Another one than there ever was, so that no restored database makes ended sessions hold again.
const RAISE: &str = "-- sessions: end all
update dashboard_sessions set generation = greatest(generation + 1, $1)";

/// The names of its transactions.
pub(crate) const NAMES: [&str; 1] = [EndSessions::NAME];

/// Ends all sessions that have begun before.
pub(crate) async fn end(database: &Database, now: Timestamp) -> Result<(), Error> {
    database.transact(&EndSessions { now }).await
}

struct EndSessions {
    now: Timestamp,
}

impl Work for EndSessions {
    const NAME: &'static str = "end_sessions";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let raise = tx.prepare_cached(RAISE).await.in_statement(Self::NAME)?;
        tx.execute(&raise, &[&self.now.as_millis()])
            .await
            .in_statement(Self::NAME)?;
        Ok(())
    }
}
