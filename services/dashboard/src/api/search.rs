//! `GET /dashboard/api/v1/emails`: the emails as the page searches them, in one of a few orders, a page at a time.

use database::Timestamptz;
use tokio_postgres::{Row, types::ToSql};
use tracking::{
    agents::{Agent, AgentClass},
    token::{MAX_FIELD_BYTES, MAX_RECIPIENT_BYTES},
};

use super::{
    cells::Cell,
    cursor::OrderCursor,
    emails::{COLUMNS, email_cells, write_email},
    errors::ApiError,
    export::Exported,
    list::{List, RowError, sql_limit},
    parameters::Parameters,
};

/// Rows of a page that names no limit.
const DEFAULT_LIMIT: usize = 50;

/// The statement for one order. An index holds the order of creation; the others read all emails and keep the first ones
/// (docs/adr/0011). As in the list of emails, [`Search::shows`] has the last word on texts. A place in an order is a
/// number: milliseconds, or opens.
macro_rules! search_sql {
    ($order:literal, $after:literal) => {
        concat!(
            r#"-- search
select email_id, user_id, recipient, sender_email, sent_at,
       counted.opens, hit_count, counted.last_opened_at, first_opened_at, human_open_count, last_human_open_at
from tracked_emails
cross join lateral (select
  case when $10::boolean then open_count else credible_open_count end as opens,
  case when $10::boolean then tracked_emails.last_opened_at else last_credible_open_at end as last_opened_at) as counted
where first_opened_at is not null
  and ($1::bigint is null or "#,
            $after,
            r#")
  and ($3::boolean is null or (counted.opens > 0) = $3)
  and ($4::timestamptz is null or first_opened_at >= $4)
  and ($5::timestamptz is null or first_opened_at < $5)
  and ($6::text is null
       or octet_length(sender_email) <> char_length(sender_email)
       or lower(sender_email collate "C") = $6)
  and ($7::text is null
       or octet_length(recipient || email_id) <> char_length(recipient || email_id)
       or strpos(lower(recipient collate "C"), $7) > 0
       or strpos(lower(email_id), $7) > 0)
  and ($8::text is null
       or exists (select from hits
                  where hits.email_id = tracked_emails.email_id and hits.is_open and hits.device_type = $8))
  and ($11::text[] is null
       or exists (select from hits
                  where hits.email_id = tracked_emails.email_id and hits.is_open and hits.agent = any($11)))
  and ($12::boolean is null or (human_open_count > 0) = $12)
  and ($13::text is null or email_id = $13)
  and (user_id <> 'doctor' or not starts_with(email_id, 'doctor-'))
order by "#,
            $order,
            "\nlimit $9::bigint\n"
        )
    };
}

const BY_CREATION: &str = search_sql!(
    "first_opened_at desc, email_id",
    "(first_opened_at <= timestamptz 'epoch' + $1 * interval '1 ms'
          and (first_opened_at < timestamptz 'epoch' + $1 * interval '1 ms' or email_id > $2::text))"
);
const BY_LAST_OPEN: &str = search_sql!(
    "coalesce(counted.last_opened_at, timestamptz 'epoch') desc, email_id",
    "(coalesce(counted.last_opened_at, timestamptz 'epoch') <= timestamptz 'epoch' + $1 * interval '1 ms'
          and (coalesce(counted.last_opened_at, timestamptz 'epoch') < timestamptz 'epoch' + $1 * interval '1 ms'
               or email_id > $2::text))"
);
const BY_OPENS: &str = search_sql!(
    "counted.opens desc, email_id",
    "(counted.opens < $1 or (counted.opens = $1 and email_id > $2::text))"
);

/// The order of the emails, each with the greatest first and then by `email_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Creation,
    LastOpen,
    Opens,
}

impl Order {
    /// Of its cursors.
    const fn kind(self) -> u8 {
        match self {
            Self::Creation => b'c',
            Self::LastOpen => b'l',
            Self::Opens => b'o',
        }
    }
}

/// What is asked of the list.
#[derive(Debug)]
pub(crate) struct Search {
    order: Order,
    limit: Option<usize>,
    after_key: Option<i64>,
    after_id: Option<String>,
    opened: Option<bool>,
    since: Option<Timestamptz>,
    until: Option<Timestamptz>,
    /// In lower case.
    sender: Option<String>,
    /// In lower case.
    q: Option<String>,
    device: Option<&'static str>,
    /// The agents of the class that is asked for.
    agents: Option<Vec<&'static str>>,
    human: Option<bool>,
    email_id: Option<String>,
    count_automated: bool,
    sql_limit: Option<i64>,
}

impl List for Search {
    const NAME: &'static str = "search";

    fn read(parameters: &Parameters<'_>) -> Result<Self, ApiError> {
        let limit = parameters.limit()?.unwrap_or(DEFAULT_LIMIT);
        let all = Self::read_all(parameters)?;
        let after = parameters.cursor(|text| OrderCursor::decode(all.order.kind(), text))?;
        let is_exact_in_sql = all.sender.is_none() && all.q.is_none();
        Ok(Self {
            limit: Some(limit),
            after_key: after.as_ref().map(|after| after.key),
            after_id: after.map(|after| after.email_id),
            sql_limit: sql_limit(Some(limit).filter(|_| is_exact_in_sql)),
            ..all
        })
    }

    fn limit(&self) -> Option<usize> {
        self.limit
    }

    fn sql(&self) -> &'static str {
        match self.order {
            Order::Creation => BY_CREATION,
            Order::LastOpen => BY_LAST_OPEN,
            Order::Opens => BY_OPENS,
        }
    }

    fn sql_parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![
            &self.after_key,
            &self.after_id,
            &self.opened,
            &self.since,
            &self.until,
            &self.sender,
            &self.q,
            &self.device,
            &self.sql_limit,
            &self.count_automated,
            &self.agents,
            &self.human,
            &self.email_id,
        ]
    }

    fn shows(&self, row: &Row) -> Result<bool, RowError> {
        if let Some(wanted) = &self.sender {
            let sender = row.try_get::<_, Option<&str>>(3)?;
            if sender.is_none_or(|sender| sender.to_lowercase() != *wanted) {
                return Ok(false);
            }
        }
        let Some(q) = &self.q else {
            return Ok(true);
        };
        let is_in = |text: &str| text.to_lowercase().contains(q);
        Ok(is_in(row.try_get(2)?) || is_in(row.try_get(0)?))
    }

    fn write(&self, row: &Row, json: &mut Vec<u8>) -> Result<(), RowError> {
        write_email(row, json)
    }

    fn cursor(&self, row: &Row) -> Result<String, RowError> {
        let millis = |time: Timestamptz| time.0.as_millis();
        let key = match self.order {
            Order::Creation => millis(row.try_get(8)?),
            Order::LastOpen => row.try_get::<_, Option<Timestamptz>>(7)?.map_or(0, millis),
            Order::Opens => row.try_get(5)?,
        };
        let email_id = row.try_get(0)?;
        Ok(OrderCursor { key, email_id }.encode(self.order.kind()))
    }
}

impl Exported for Search {
    const FILE: &'static str = "emails";
    const COLUMNS: &'static [&'static str] = &COLUMNS;

    fn read_all(parameters: &Parameters<'_>) -> Result<Self, ApiError> {
        let orders = [
            ("created", Order::Creation),
            ("last_open", Order::LastOpen),
            ("opens", Order::Opens),
        ];
        let order = parameters.choice("sort", &orders)?.unwrap_or(Order::Creation);
        let sender = parameters.text("sender", MAX_FIELD_BYTES)?;
        let q = parameters.text("q", MAX_RECIPIENT_BYTES)?;
        let classes = AgentClass::ALL.map(|class| (class.as_str(), class));
        let agents = |class: AgentClass| class.agents().map(Agent::as_str).collect();
        let devices = ["phone", "computer", "other"].map(|device| (device, device));
        Ok(Self {
            order,
            limit: None,
            after_key: None,
            after_id: None,
            opened: parameters.choice("opened", &[("true", true), ("false", false)])?,
            since: parameters.time("since")?.map(Timestamptz),
            until: parameters.time("until")?.map(Timestamptz),
            sender: sender.map(|sender| sender.trim().to_lowercase()),
            q: q.map(|q| q.to_lowercase()),
            device: parameters.choice("device", &devices)?,
            agents: parameters.choice("class", &classes)?.map(agents),
            human: parameters.choice("human", &[("true", true), ("false", false)])?,
            email_id: parameters.text("email_id", MAX_FIELD_BYTES)?,
            count_automated: parameters.count_automated(),
            sql_limit: None,
        })
    }

    fn cells<'r>(&self, row: &'r Row) -> Result<impl IntoIterator<Item = Cell<'r>>, RowError> {
        email_cells(row)
    }
}
