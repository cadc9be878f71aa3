//! What went wrong with the database, sorted by what a caller can do about it.

use std::{
    error::Error as StdError,
    fmt::{self, Write},
    io,
};

use deadpool_postgres::{HookError, PoolError, TimeoutType};
use tokio_postgres::error::{DbError, SqlState};

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A serialization failure, a deadlock, or [`Error::overtaken`]: the same transaction may succeed when rerun.
    /// [`Database::transact`](crate::Database::transact) has rerun it already.
    Transient,
    /// There is no connection, or it broke: whether a running transaction took effect is unknown.
    LostConnection,
    /// The values cannot be stored (SQLSTATE classes 22, 23 and 54): repeating them is useless.
    Data,
    /// The role may not do this, or its password is wrong.
    Permission,
    /// A write in a read-only transaction or on a standby.
    ReadOnly,
    /// The server, or the pool, has no connection left.
    TooManyConnections,
    /// A statement or lock time-out, or a cancellation.
    TimedOut,
    /// Anything else: most likely a bug, or a schema of another version.
    Other,
}

impl ErrorKind {
    /// All kinds, for metrics that begin at zero.
    pub const ALL: [Self; 8] = [
        Self::Transient,
        Self::LostConnection,
        Self::Data,
        Self::Permission,
        Self::ReadOnly,
        Self::TooManyConnections,
        Self::TimedOut,
        Self::Other,
    ];

    /// The kind as a metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::LostConnection => "lost_connection",
            Self::Data => "data",
            Self::Permission => "permission",
            Self::ReadOnly => "read_only",
            Self::TooManyConnections => "too_many_connections",
            Self::TimedOut => "timed_out",
            Self::Other => "other",
        }
    }

    fn of_sqlstate(code: &SqlState) -> Self {
        match *code {
            SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED => Self::Transient,
            SqlState::READ_ONLY_SQL_TRANSACTION => Self::ReadOnly,
            SqlState::TOO_MANY_CONNECTIONS => Self::TooManyConnections,
            SqlState::INSUFFICIENT_PRIVILEGE => Self::Permission,
            SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE => Self::TimedOut,
            SqlState::ADMIN_SHUTDOWN
            | SqlState::CRASH_SHUTDOWN
            | SqlState::CANNOT_CONNECT_NOW
            | SqlState::IDLE_SESSION_TIMEOUT
            | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => Self::LostConnection,
            _ => match code.code().get(..2) {
                Some("08") => Self::LostConnection,
                Some("22" | "23" | "54") => Self::Data,
                Some("28") => Self::Permission,
                _ => Self::Other,
            },
        }
    }
}

/// A failed use of the database.
///
/// It names the transaction, the statement and the SQLSTATE, and holds no values: PostgreSQL puts those of parameters
/// and rows, recipients' addresses among them, into the `DETAIL` of its errors and into the text of class 22. Both are
/// left out, here and in `Debug`, and there is no `source()` that would bring them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    transaction: Option<&'static str>,
    statement: Option<&'static str>,
    sqlstate: Option<SqlState>,
    what: String,
}

impl Error {
    /// An answer that the caller did not expect of the database. `what` must not hold values of rows.
    pub fn unexpected(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Other, what)
    }

    /// What was found has changed meanwhile: the transaction has to begin again. `what` must not hold values of rows.
    pub fn overtaken(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Transient, what)
    }

    /// Nothing came for so long that the server counts as gone.
    pub(crate) fn silent(limit: std::time::Duration) -> Self {
        Self::new(
            ErrorKind::LostConnection,
            format!("the server has not answered for {limit:?}"),
        )
    }

    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            transaction: None,
            statement: None,
            sqlstate: None,
            what: what.into(),
        }
    }

    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same transaction may succeed when rerun at once.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind == ErrorKind::Transient
    }

    /// The server's code, if the server refused it.
    #[must_use]
    pub const fn sqlstate(&self) -> Option<&SqlState> {
        self.sqlstate.as_ref()
    }

    /// The statement's name, if it was given by [`InStatement`].
    #[must_use]
    pub const fn statement(&self) -> Option<&'static str> {
        self.statement
    }

    pub(crate) fn in_transaction(mut self, name: &'static str) -> Self {
        self.transaction.get_or_insert(name);
        self
    }

    pub(crate) fn refused(refusal: &DbError) -> Self {
        let code = refusal.code();
        // Class 22 repeats the value that it dislikes.
        let mut what = match code.code().get(..2) {
            Some("22") => "the server refused a value".to_owned(),
            _ => refusal.message().to_owned(),
        };
        for (name, value) in [
            ("table", refusal.table()),
            ("column", refusal.column()),
            ("constraint", refusal.constraint()),
        ] {
            if let Some(value) = value {
                let _ = write!(what, ", {name} {value}");
            }
        }
        Self {
            sqlstate: Some(code.clone()),
            ..Self::new(ErrorKind::of_sqlstate(code), what)
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("database")?;
        for name in [self.transaction, self.statement].into_iter().flatten() {
            write!(formatter, ", {name}")?;
        }
        write!(formatter, ": {}", self.what)?;
        match &self.sqlstate {
            Some(code) => write!(formatter, " (SQLSTATE {})", code.code()),
            None => Ok(()),
        }
    }
}

impl StdError for Error {}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(refusal) = error.as_db_error() {
            return Self::refused(refusal);
        }
        let source = error.source();
        let lost = error.is_closed() || source.is_some_and(<dyn StdError>::is::<io::Error>);
        let kind = if lost {
            ErrorKind::LostConnection
        } else {
            ErrorKind::Other
        };
        match source {
            Some(source) => Self::new(kind, format!("{error}: {source}")),
            None => Self::new(kind, error.to_string()),
        }
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => error.into(),
            PoolError::Timeout(TimeoutType::Wait) => Self::new(
                ErrorKind::TooManyConnections,
                "all connections of the pool stayed in use",
            ),
            PoolError::Timeout(_) => Self::new(
                ErrorKind::LostConnection,
                "the server did not answer a new connection in time",
            ),
            other => Self::new(ErrorKind::Other, other.to_string()),
        }
    }
}

/// Names the statement that failed.
pub trait InStatement<T> {
    /// Turns the error into an [`Error`] of the statement `name`.
    fn in_statement(self, name: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<Error>> InStatement<T> for Result<T, E> {
    fn in_statement(self, name: &'static str) -> Result<T, Error> {
        self.map_err(|error| Error {
            statement: Some(name),
            ..error.into()
        })
    }
}
