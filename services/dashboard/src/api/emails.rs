//! `GET /dashboard/api/emails`: the emails with their counters, the latest first.

use database::Timestamptz;
use serde::Serialize;
use tokio_postgres::{Row, types::ToSql};
use tracking::token::{MAX_FIELD_BYTES, MAX_RECIPIENT_BYTES};
use utoipa::ToSchema;

use super::{
    cells::{Cell, optional, own},
    cursor::EmailCursor,
    errors::ApiError,
    list::{IsoTime, List, RowError, sql_limit},
    parameters::Parameters,
};

/// Filters on texts let a few rows too many through ([`Emails::shows`] decides): the server's `lower` knows ASCII only
/// under a collation that every server has. What `doctor` leaves for an hour (`tracking::doctor`) is shown if asked for.
const SQL: &str = r#"-- emails
select email_id, user_id, recipient, sender_email, sent_at,
       case when $10::boolean then open_count else credible_open_count end,
       hit_count,
       case when $10::boolean then last_opened_at else last_credible_open_at end,
       first_opened_at, human_open_count, last_human_open_at
from tracked_emails
where first_opened_at is not null
  and ($1::timestamptz is null or (first_opened_at <= $1 and (first_opened_at < $1 or email_id > $2::text)))
  and ($3::text is null or user_id = $3)
  and ($4::boolean is null or (case when $10::boolean then open_count else credible_open_count end > 0) = $4)
  and ($5::timestamptz is null or first_opened_at >= $5)
  and ($6::text is null
       or octet_length(recipient) <> char_length(recipient)
       or strpos(lower(recipient collate "C"), $6) > 0)
  and ($7::text is null
       or octet_length(recipient || email_id) <> char_length(recipient || email_id)
       or strpos(lower(recipient collate "C"), $7) > 0
       or strpos(lower(email_id), $7) > 0)
  and ($9::boolean or user_id <> 'doctor' or not starts_with(email_id, 'doctor-'))
order by first_opened_at desc, email_id
limit $8::bigint
"#;

/// What is asked of the list.
#[derive(Debug)]
pub(crate) struct Emails {
    limit: Option<usize>,
    after_time: Option<Timestamptz>,
    after_id: Option<String>,
    user_id: Option<String>,
    opened: Option<bool>,
    since: Option<Timestamptz>,
    /// In lower case.
    recipient: Option<String>,
    /// In lower case.
    q: Option<String>,
    sql_limit: Option<i64>,
    include_doctor: bool,
    count_automated: bool,
}

/// One email as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Email)]
pub(crate) struct Item<'r> {
    #[schema(min_length = 1, max_length = 1024)]
    email_id: &'r str,
    /// Who sent it.
    #[schema(min_length = 1, max_length = 1024)]
    user_id: &'r str,
    /// To whom: one address, or several with commas between them.
    #[schema(min_length = 1, max_length = 10240)]
    recipient: &'r str,
    #[schema(required, min_length = 1, max_length = 1024)]
    sender_email: Option<&'r str>,
    /// When it was sent, in the sender's words.
    #[schema(min_length = 1, max_length = 1024)]
    sent_at: &'r str,
    /// Its opens: hits that count.
    #[schema(minimum = 0)]
    unique_open_count: i64,
    /// The same number.
    #[schema(minimum = 0)]
    total_open_events: i64,
    /// Its hits, whether they count or not.
    #[schema(minimum = 1)]
    raw_open_events: i64,
    #[schema(required)]
    last_opened_at: Option<IsoTime>,
    /// Whether it has an open.
    opened: bool,
    /// When it was first hit.
    created_at: IsoTime,
    /// Its opens that are people's.
    #[schema(minimum = 0)]
    human_open_count: i64,
    #[schema(required)]
    last_human_open_at: Option<IsoTime>,
}

impl List for Emails {
    const NAME: &'static str = "emails";

    fn read(parameters: &Parameters<'_>) -> Result<Self, ApiError> {
        let limit = parameters.limit()?;
        let after = parameters.cursor(EmailCursor::decode)?;
        let recipient = parameters.text("recipient", MAX_RECIPIENT_BYTES)?;
        let q = parameters.text("q", MAX_RECIPIENT_BYTES)?;
        let is_exact_in_sql = recipient.is_none() && q.is_none();
        Ok(Self {
            limit,
            after_time: after.as_ref().map(|after| Timestamptz(after.created_at)),
            after_id: after.map(|after| after.email_id),
            user_id: parameters.text("user_id", MAX_FIELD_BYTES)?,
            opened: parameters.choice("opened", &[("true", true), ("false", false)])?,
            since: parameters.time("since")?.map(Timestamptz),
            recipient: recipient.map(|recipient| recipient.trim().to_lowercase()),
            q: q.map(|q| q.to_lowercase()),
            sql_limit: sql_limit(limit.filter(|_| is_exact_in_sql)),
            include_doctor: parameters
                .choice("include", &[("doctor", true)])?
                .unwrap_or(false),
            count_automated: parameters.count_automated(),
        })
    }

    fn limit(&self) -> Option<usize> {
        self.limit
    }

    fn sql(&self) -> &'static str {
        SQL
    }

    fn sql_parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![
            &self.after_time,
            &self.after_id,
            &self.user_id,
            &self.opened,
            &self.since,
            &self.recipient,
            &self.q,
            &self.sql_limit,
            &self.include_doctor,
            &self.count_automated,
        ]
    }

    fn shows(&self, row: &Row) -> Result<bool, RowError> {
        if self.recipient.is_none() && self.q.is_none() {
            return Ok(true);
        }
        let recipient = row.try_get::<_, &str>(2)?.to_lowercase();
        let is_recipient = self
            .recipient
            .as_ref()
            .is_none_or(|wanted| recipient.split(',').any(|address| address.trim() == wanted));
        let is_found = match &self.q {
            Some(q) => recipient.contains(q) || row.try_get::<_, &str>(0)?.to_lowercase().contains(q),
            None => true,
        };
        Ok(is_recipient && is_found)
    }

    fn write(&self, row: &Row, json: &mut Vec<u8>) -> Result<(), RowError> {
        write_email(row, json)
    }

    fn cursor(&self, row: &Row) -> Result<String, RowError> {
        let cursor = EmailCursor {
            created_at: row.try_get::<_, Timestamptz>(8)?.0,
            email_id: row.try_get(0)?,
        };
        Ok(cursor.encode())
    }
}

/// Writes one email. The row's columns are those that [`SQL`] selects, in its order.
pub(super) fn write_email(row: &Row, json: &mut Vec<u8>) -> Result<(), RowError> {
    Ok(serde_json::to_writer(json, &item(row)?)?)
}

fn item(row: &Row) -> Result<Item<'_>, RowError> {
    let open_count: i64 = row.try_get(5)?;
    Ok(Item {
        email_id: row.try_get(0)?,
        user_id: row.try_get(1)?,
        recipient: row.try_get(2)?,
        sender_email: row.try_get(3)?,
        sent_at: row.try_get(4)?,
        unique_open_count: open_count,
        total_open_events: open_count,
        raw_open_events: row.try_get(6)?,
        last_opened_at: row.try_get::<_, Option<Timestamptz>>(7)?.map(IsoTime::from),
        opened: open_count > 0,
        created_at: row.try_get::<_, Timestamptz>(8)?.into(),
        human_open_count: row.try_get(9)?,
        last_human_open_at: row.try_get::<_, Option<Timestamptz>>(10)?.map(IsoTime::from),
    })
}

/// The fields of one email in an export.
pub(super) const COLUMNS: [&str; 13] = [
    "email_id",
    "user_id",
    "recipient",
    "sender_email",
    "sent_at",
    "unique_open_count",
    "total_open_events",
    "raw_open_events",
    "last_opened_at",
    "opened",
    "created_at",
    "human_open_count",
    "last_human_open_at",
];

/// One email, in the order of [`COLUMNS`].
pub(super) fn email_cells(row: &Row) -> Result<[Cell<'_>; COLUMNS.len()], RowError> {
    let item = item(row)?;
    Ok([
        item.email_id.into(),
        item.user_id.into(),
        item.recipient.into(),
        optional(item.sender_email, Cell::from),
        item.sent_at.into(),
        own(item.unique_open_count),
        own(item.total_open_events),
        own(item.raw_open_events),
        optional(item.last_opened_at, own),
        own(item.opened),
        own(item.created_at),
        own(item.human_open_count),
        optional(item.last_human_open_at, own),
    ])
}
