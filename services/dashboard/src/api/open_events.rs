//! `GET /dashboard/api/open-events`: the opens of one email or of all, the latest first.

use std::net::IpAddr;

use database::Timestamptz;
use serde::Serialize;
use tokio_postgres::{Row, types::ToSql};
use tracking::{
    SuppressionReason, Verdict,
    agents::{Agent, BURST_REASON, Confidence},
    token::MAX_FIELD_BYTES,
    verdicts::MarkKey,
};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    cells::{Cell, optional, own},
    cursor::HitCursor,
    errors::ApiError,
    export::Exported,
    list::{IsoTime, List, RowError, sql_limit},
    parameters::Parameters,
};
use crate::openapi::schemas;

/// `opened_at <= $2` says nothing that the row comparison does not; it is there for partitions to be left out. What
/// `doctor` leaves for an hour (`tracking::doctor`) is shown if asked for, by `include=doctor` or by its id.
const SQL: &str = "-- open_events
select h.id, h.email_id, e.user_id, e.recipient, h.opened_at, h.event_id, h.client_address, h.user_agent,
       h.geo_country, h.geo_region, h.geo_city, h.latitude, h.longitude, h.device_type,
       h.is_duplicate, h.consumed_mark_at, h.consumed_mark_id, h.compose_window, h.agent, h.confidence
from hits h
join tracked_emails e on e.email_id = h.email_id
where ($1::text is null or h.email_id = $1)
  and ($2::timestamptz is null or (h.opened_at <= $2 and (h.opened_at, h.event_id) < ($2, $3::uuid)))
  and ($4::boolean or (h.is_open and ($7::boolean or h.confidence <> 'automated')))
  and ($1 is not null or $6::boolean or e.user_id <> 'doctor' or not starts_with(h.email_id, 'doctor-'))
order by h.opened_at desc, h.event_id desc
limit $5::bigint
";

/// What is asked of the list.
#[derive(Debug)]
pub(crate) struct OpenEvents {
    limit: Option<usize>,
    email_id: Option<String>,
    after_time: Option<Timestamptz>,
    after_id: Option<Uuid>,
    include_all: bool,
    include_doctor: bool,
    count_automated: bool,
    sql_limit: Option<i64>,
}

/// What is shown besides opens of real emails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Include {
    /// Hits that do not count.
    All,
    /// Opens of the emails that `doctor` makes up.
    Doctor,
}

/// The fields of one hit in an export.
const COLUMNS: [&str; 19] = [
    "id",
    "email_id",
    "user_id",
    "recipient",
    "opened_at",
    "ip_address",
    "user_agent",
    "geo_country",
    "geo_region",
    "geo_city",
    "latitude",
    "longitude",
    "device_type",
    "is_duplicate",
    "is_sender_suppressed",
    "suppression_reason",
    "agent_class",
    "confidence",
    "reason",
];

/// One hit as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenEvent)]
pub(crate) struct Item<'r> {
    /// Names it, and is no order.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    id: i64,
    #[schema(min_length = 1, max_length = 1024)]
    email_id: &'r str,
    /// Who sent the email.
    #[schema(min_length = 1, max_length = 1024)]
    user_id: &'r str,
    /// To whom the email went.
    #[schema(min_length = 1, max_length = 10240)]
    recipient: &'r str,
    opened_at: IsoTime,
    #[schema(required, schema_with = schemas::address_or_null)]
    ip_address: Option<IpAddr>,
    #[schema(required, max_length = 1024)]
    user_agent: Option<&'r str>,
    /// ISO 3166-1, two letters.
    #[schema(required)]
    geo_country: Option<&'r str>,
    #[schema(required)]
    geo_region: Option<&'r str>,
    #[schema(required)]
    geo_city: Option<&'r str>,
    #[schema(required, minimum = -90, maximum = 90)]
    latitude: Option<f64>,
    #[schema(required, minimum = -180, maximum = 180)]
    longitude: Option<f64>,
    #[schema(schema_with = schemas::device_type)]
    device_type: &'r str,
    #[schema(schema_with = schemas::flag)]
    is_duplicate: u8,
    /// Whether it is the sender's own look.
    #[schema(schema_with = schemas::flag)]
    is_sender_suppressed: u8,
    /// Why it does not count.
    #[schema(required, schema_with = schemas::suppression_reason)]
    suppression_reason: Option<&'static str>,
    /// What fetched it.
    #[schema(schema_with = schemas::agent_class)]
    agent_class: &'static str,
    /// How far it is to be believed.
    #[schema(schema_with = schemas::confidence)]
    confidence: &'r str,
    /// Why, in words.
    #[schema(min_length = 1)]
    reason: &'static str,
}

impl OpenEvents {
    fn ask(
        parameters: &Parameters<'_>,
        limit: Option<usize>,
        after: Option<HitCursor>,
    ) -> Result<Self, ApiError> {
        let include = parameters.choice("include", &[("all", Include::All), ("doctor", Include::Doctor)])?;
        Ok(Self {
            limit,
            email_id: parameters.text("email_id", MAX_FIELD_BYTES)?,
            after_time: after.map(|after| Timestamptz(after.opened_at)),
            after_id: after.map(|after| after.event_id),
            include_all: include == Some(Include::All),
            include_doctor: include == Some(Include::Doctor),
            count_automated: parameters.count_automated(),
            sql_limit: sql_limit(limit),
        })
    }
}

impl List for OpenEvents {
    const NAME: &'static str = "open-events";

    fn read(parameters: &Parameters<'_>) -> Result<Self, ApiError> {
        let limit = parameters.limit()?;
        let after = parameters.cursor(HitCursor::decode)?;
        Self::ask(parameters, limit, after)
    }

    fn limit(&self) -> Option<usize> {
        self.limit
    }

    fn sql(&self) -> &'static str {
        SQL
    }

    fn sql_parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![
            &self.email_id,
            &self.after_time,
            &self.after_id,
            &self.include_all,
            &self.sql_limit,
            &self.include_doctor,
            &self.count_automated,
        ]
    }

    fn write(&self, row: &Row, json: &mut Vec<u8>) -> Result<(), RowError> {
        Ok(serde_json::to_writer(json, &item(row)?)?)
    }

    fn cursor(&self, row: &Row) -> Result<String, RowError> {
        let cursor = HitCursor {
            opened_at: row.try_get::<_, Timestamptz>(4)?.0,
            event_id: row.try_get(5)?,
        };
        Ok(cursor.encode())
    }
}

impl Exported for OpenEvents {
    const FILE: &'static str = "opens";
    const COLUMNS: &'static [&'static str] = &COLUMNS;

    fn read_all(parameters: &Parameters<'_>) -> Result<Self, ApiError> {
        Self::ask(parameters, None, None)
    }

    fn cells<'r>(&self, row: &'r Row) -> Result<impl IntoIterator<Item = Cell<'r>>, RowError> {
        let item = item(row)?;
        let cells: [Cell<'r>; COLUMNS.len()] = [
            own(item.id),
            item.email_id.into(),
            item.user_id.into(),
            item.recipient.into(),
            own(item.opened_at),
            optional(item.ip_address, own),
            optional(item.user_agent, Cell::from),
            optional(item.geo_country, Cell::from),
            optional(item.geo_region, Cell::from),
            optional(item.geo_city, Cell::from),
            optional(item.latitude, own),
            optional(item.longitude, own),
            item.device_type.into(),
            own(item.is_duplicate),
            own(item.is_sender_suppressed),
            optional(item.suppression_reason, Cell::from),
            item.agent_class.into(),
            item.confidence.into(),
            item.reason.into(),
        ];
        Ok(cells)
    }
}

fn item(row: &Row) -> Result<Item<'_>, RowError> {
    let verdict = verdict(row)?;
    // A name that a newer recorder gave is none that this build knows.
    let agent = Agent::named(row.try_get(18)?).unwrap_or(Agent::Unfamiliar);
    let confidence: &str = row.try_get(19)?;
    Ok(Item {
        id: row.try_get(0)?,
        email_id: row.try_get(1)?,
        user_id: row.try_get(2)?,
        recipient: row.try_get(3)?,
        opened_at: row.try_get::<_, Timestamptz>(4)?.into(),
        ip_address: row.try_get(6)?,
        user_agent: row.try_get(7)?,
        geo_country: row.try_get(8)?,
        geo_region: row.try_get(9)?,
        geo_city: row.try_get(10)?,
        latitude: row.try_get(11)?,
        longitude: row.try_get(12)?,
        device_type: row.try_get(13)?,
        is_duplicate: verdict.is_duplicate.into(),
        is_sender_suppressed: verdict.is_sender_suppressed().into(),
        suppression_reason: verdict.suppression_reason().map(SuppressionReason::as_str),
        agent_class: agent.class().as_str(),
        confidence,
        reason: reason(agent, confidence),
    })
}

/// Why it is believed so far. Only a burst makes a machine of what is none by itself.
fn reason(agent: Agent, confidence: &str) -> &'static str {
    if confidence == Confidence::Automated.as_str() && !agent.confidence().is_automated() {
        BURST_REASON
    } else {
        agent.reason()
    }
}

fn verdict(row: &Row) -> Result<Verdict, RowError> {
    let marked_at: Option<Timestamptz> = row.try_get(15)?;
    let mark_id: Option<Uuid> = row.try_get(16)?;
    Ok(Verdict {
        is_duplicate: row.try_get(14)?,
        consumed_mark: marked_at.zip(mark_id).map(|(marked_at, mark_id)| MarkKey {
            marked_at: marked_at.0,
            mark_id,
        }),
        compose_window: row.try_get(17)?,
    })
}
