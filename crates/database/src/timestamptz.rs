//! Times between the domain and PostgreSQL, to the millisecond.

use std::error::Error;

use postgres_types::{FromSql, IsNull, ToSql, Type, accepts, private::BytesMut, to_sql_checked};
use tracking::Timestamp;

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A [`Timestamp`] as a `timestamptz` parameter or column.
///
/// What is written is read back exactly. A time finer than milliseconds, which nothing of ours writes, is cut to the
/// millisecond before it. A time that `timestamptz` cannot hold, and `infinity`, are errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamptz(pub Timestamp);

impl From<Timestamp> for Timestamptz {
    fn from(time: Timestamp) -> Self {
        Self(time)
    }
}

impl From<Timestamptz> for Timestamp {
    fn from(time: Timestamptz) -> Self {
        time.0
    }
}

impl ToSql for Timestamptz {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let micros = self
            .0
            .as_millis()
            .checked_mul(1_000)
            .and_then(|micros| micros.checked_sub(POSTGRES_EPOCH_MICROS))
            .ok_or("the time is beyond what timestamptz can hold")?;
        postgres_protocol::types::timestamp_to_sql(micros, out);
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Timestamptz {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = postgres_protocol::types::timestamp_from_sql(raw)?;
        if micros == i64::MAX || micros == i64::MIN {
            return Err("the time is infinite".into());
        }
        let micros = micros
            .checked_add(POSTGRES_EPOCH_MICROS)
            .ok_or("the time is beyond what milliseconds since 1970 can hold")?;
        Ok(Self(Timestamp::from_millis(micros.div_euclid(1_000))))
    }

    accepts!(TIMESTAMPTZ);
}
