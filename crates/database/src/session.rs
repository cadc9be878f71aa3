//! What a service sets on its connections.

use std::time::Duration;

/// Settings of the sessions of one service.
///
/// They are set once on each new connection. Behind PgBouncer in transaction mode, where a connection changes hands
/// between transactions, [`per_transaction`](Self::per_transaction) sets them in each transaction instead, at the cost
/// of a round trip; a URL with `pooling=transaction` asks for that. Statements are prepared by name, so PgBouncer has to
/// be 1.21 or newer there, with `max_prepared_statements` above zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    settings: Vec<(&'static str, String)>,
    generic_plans: bool,
    read_only: bool,
    per_transaction: bool,
}

impl Session {
    /// The recorder's: its statements look around single keys, so they must stay on the indexes whatever the planner's
    /// statistics say at the moment, for example just after a bulk load. They are planned once for each connection; but
    /// on Citus, which finds a statement's shards when it plans and for that needs its parameters, as the server likes.
    #[must_use]
    pub fn recorder() -> Self {
        let session = Self::default()
            .set("timezone", "UTC")
            .set("enable_seqscan", "off")
            .set("enable_hashjoin", "off")
            .set("enable_mergejoin", "off")
            .set("jit", "off");
        Self {
            generic_plans: true,
            ..session
        }
    }

    /// The dashboard's: it only reads, and no read may run longer than `statement_timeout`.
    #[must_use]
    pub fn dashboard(statement_timeout: Duration) -> Self {
        let session = Self::default()
            .set("timezone", "UTC")
            .set("jit", "off")
            .set(
                "statement_timeout",
                format!("{}ms", statement_timeout.as_millis()),
            )
            .set("default_transaction_read_only", "on");
        Self {
            read_only: true,
            ..session
        }
    }

    /// Adds the server setting `name`.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((name, value.into()));
        self
    }

    /// Sets everything in each transaction rather than once on each connection (for PgBouncer in transaction mode).
    #[must_use]
    pub const fn per_transaction(mut self) -> Self {
        self.per_transaction = true;
        self
    }

    pub(crate) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// To run on each new connection.
    pub(crate) fn on_connection(&self) -> Option<String> {
        (!self.per_transaction).then(|| self.statements(false)).flatten()
    }

    /// To run at the beginning of each transaction.
    pub(crate) fn on_transaction(&self) -> Option<String> {
        self.per_transaction.then(|| self.statements(true)).flatten()
    }

    fn statements(&self, local: bool) -> Option<String> {
        let set = if local { "set local" } else { "set" };
        let mut statements: Vec<String> = self
            .settings
            .iter()
            .map(|(name, value)| format!("{set} {name} = '{}'", value.replace('\'', "''")))
            .collect();
        if self.generic_plans {
            // A server that has loaded Citus knows its settings, whether this database is distributed yet or not.
            statements.push(format!(
                "select set_config('plan_cache_mode', case when current_setting('citus.shard_count', true) is null \
                 then 'force_generic_plan' else 'auto' end, {local})"
            ));
        }
        (!statements.is_empty()).then(|| statements.join("; "))
    }
}
