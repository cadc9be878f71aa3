//! `/dashboard/api/v1/erasures`: what was erased, what would be, and erasing. It is the recorder that does it; here it is
//! asked for.

use axum::{
    Json,
    body::Bytes,
    extract::{RawQuery, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use database::{Error, InStatement, Timestamptz, Transaction, Work};
use futures::TryStreamExt;
use recorder_client::{Erased, Subject};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tracking::{
    recipients::Address,
    token::{MAX_FIELD_BYTES, MAX_RECIPIENT_BYTES},
};
use utoipa::ToSchema;

use super::{errors::ApiError, list::IsoTime, parameters::Parameters};
use crate::{
    http::Dashboard,
    openapi::schemas,
    session::{self, read_json},
};

/// Most that the list shows, the latest.
pub(crate) const MOST_SHOWN: i64 = 100;

const LIST: &str = "-- erasures
select id::text, kind, asked_at, finished_at, emails, hits, marks
from erasures order by asked_at desc, id desc limit $1";

const OF_EMAIL: &str = "-- erasures: how much of an email there is
select count(*), coalesce(sum(hit_count), 0)::bigint from tracked_emails where email_id = $1";

/// Lets some too many through, as in the list of emails: [`Address`] decides.
const OF_RECIPIENT: &str = "-- erasures: emails that may be of a recipient
select recipient, hit_count from tracked_emails
where octet_length(recipient) <> char_length(recipient) or strpos(lower(recipient collate \"C\"), $1) > 0";

/// The names of its transactions.
pub(crate) const NAMES: [&str; 2] = [ReadErasures::NAME, Preview::NAME];

/// What is asked to be erased, as it comes.
#[derive(Deserialize)]
pub(crate) struct Wish {
    email_id: Option<String>,
    recipient: Option<String>,
}

impl Wish {
    /// Reads it from a query.
    pub(crate) fn read(parameters: &Parameters<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            email_id: parameters.text("email_id", MAX_FIELD_BYTES)?,
            recipient: parameters.text("recipient", MAX_RECIPIENT_BYTES)?,
        })
    }

    fn subject(self) -> Result<Subject, ApiError> {
        match (self.email_id, self.recipient) {
            (Some(email_id), None) => {
                check("email_id", &email_id, MAX_FIELD_BYTES)?;
                Ok(Subject::Email(email_id))
            }
            (None, Some(recipient)) => {
                check("recipient", &recipient, MAX_RECIPIENT_BYTES)?;
                address(&recipient)?;
                Ok(Subject::Recipient(recipient))
            }
            _ => Err(ApiError::parameter(
                "email_id",
                "or recipient must be given, and not both",
            )),
        }
    }
}

fn check(name: &'static str, text: &str, most: usize) -> Result<(), ApiError> {
    if text.is_empty() || text.len() > most || text.contains('\0') {
        let problem = format!("must have 1 to {most} bytes, none of them NUL");
        return Err(ApiError::parameter(name, problem));
    }
    Ok(())
}

fn address(text: &str) -> Result<Address, ApiError> {
    Address::new(text).ok_or_else(|| ApiError::parameter("recipient", "must be one address, without commas"))
}

/// What is stored of what is to be erased.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = ErasureAmount)]
pub(crate) struct Amount {
    #[schema(schema_with = schemas::always_true)]
    ok: bool,
    #[schema(minimum = 0)]
    emails: i64,
    #[schema(minimum = 0)]
    hits: i64,
}

/// One erasure as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Erasure)]
pub(crate) struct Item {
    #[schema(schema_with = schemas::uuid)]
    id: String,
    #[schema(schema_with = schemas::erasure_kind)]
    kind: String,
    asked_at: IsoTime,
    #[schema(required)]
    finished_at: Option<IsoTime>,
    #[schema(minimum = 0)]
    emails: i64,
    #[schema(minimum = 0)]
    hits: i64,
    #[schema(minimum = 0)]
    marks: i64,
}

#[derive(Serialize)]
struct Items {
    ok: bool,
    items: Vec<Item>,
}

/// What an erasure has done.
#[derive(Serialize, ToSchema)]
#[schema(as = Erased)]
pub(crate) struct Done {
    #[schema(schema_with = schemas::always_true)]
    ok: bool,
    emails: u64,
    hits: u64,
    marks: u64,
    /// Whether that was all; else the same request erases more.
    complete: bool,
}

/// `GET /dashboard/api/v1/erasures`: those that were asked for, the latest first.
pub(crate) async fn show(State(dashboard): State<Dashboard>) -> Result<Response, ApiError> {
    let items = dashboard.database.transact(&ReadErasures).await?;
    Ok(unkept(Items { ok: true, items }))
}

/// `GET /dashboard/api/v1/erasures/preview`: how much would be erased.
pub(crate) async fn preview(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = Parameters::of(query.as_deref(), dashboard.count_automated);
    let subject = Wish::read(&parameters)?.subject()?;
    let preview = match subject {
        Subject::Email(email_id) => Preview::Email(email_id),
        Subject::Recipient(recipient) => Preview::Recipient(address(&recipient)?),
    };
    Ok(unkept(dashboard.database.transact(&preview).await?))
}

/// `POST /dashboard/api/v1/erasures`: erases.
pub(crate) async fn erase(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    session::may_change(&dashboard, &headers)?;
    let problem = "The body must be {\"email_id\":\"…\"} or {\"recipient\":\"…\"}";
    let wish: Wish = read_json(&headers, body, problem)?;
    let subject = wish.subject()?;
    let Some(recorder) = &dashboard.recorder else {
        let problem = "Erasing is not set up: the dashboard's RECORDER_URL is not set";
        return Err(ApiError::Refused(StatusCode::SERVICE_UNAVAILABLE, problem));
    };
    let Erased {
        emails,
        hits,
        marks,
        complete,
    } = recorder.erase(subject).await?;
    Ok(unkept(Done {
        ok: true,
        emails,
        hits,
        marks,
        complete,
    }))
}

fn unkept(answer: impl Serialize) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

struct ReadErasures;

impl Work for ReadErasures {
    const NAME: &'static str = "erasures";
    const READ_ONLY: bool = true;
    type Output = Vec<Item>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<Item>, Error> {
        let list = tx.prepare_cached(LIST).await.in_statement(Self::NAME)?;
        let rows = tx.query(&list, &[&MOST_SHOWN]).await.in_statement(Self::NAME)?;
        rows.iter().map(item).collect()
    }
}

fn item(row: &Row) -> Result<Item, Error> {
    Ok(Item {
        id: row.try_get(0)?,
        kind: row.try_get(1)?,
        asked_at: row.try_get::<_, Timestamptz>(2)?.into(),
        finished_at: row.try_get::<_, Option<Timestamptz>>(3)?.map(IsoTime::from),
        emails: row.try_get(4)?,
        hits: row.try_get(5)?,
        marks: row.try_get(6)?,
    })
}

enum Preview {
    Email(String),
    Recipient(Address),
}

impl Work for Preview {
    const NAME: &'static str = "preview_erasure";
    const READ_ONLY: bool = true;
    type Output = Amount;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Amount, Error> {
        let mut amount = Amount {
            ok: true,
            ..Amount::default()
        };
        match self {
            Self::Email(email_id) => {
                let count = tx.prepare_cached(OF_EMAIL).await.in_statement(Self::NAME)?;
                let row = tx.query_one(&count, &[email_id]).await.in_statement(Self::NAME)?;
                amount.emails = row.try_get(0)?;
                amount.hits = row.try_get(1)?;
            }
            Self::Recipient(address) => {
                let find = tx.prepare_cached(OF_RECIPIENT).await.in_statement(Self::NAME)?;
                let rows = tx
                    .query_raw(&find, [address.as_str()])
                    .await
                    .in_statement(Self::NAME)?;
                let mut rows = std::pin::pin!(rows);
                while let Some(row) = rows.try_next().await.in_statement(Self::NAME)? {
                    if address.is_among(row.try_get(0)?) {
                        amount.emails += 1;
                        amount.hits += row.try_get::<_, i64>(1)?;
                    }
                }
            }
        }
        Ok(amount)
    }
}
