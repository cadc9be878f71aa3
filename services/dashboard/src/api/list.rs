//! How a list is answered: read in one snapshot, written as it is read, and never cut off unseen.
//!
//! The rows come from a portal in a read-only transaction, a few hundred at a time, and go to the client before the next
//! ones are fetched. So memory is bounded whatever the list's length, and a slow client slows nothing but itself. A task
//! of its own does this. It holds the database connection until the last row is read, the client is gone, or the client
//! has been too slow for too long; what it leaves unfinished ends as a broken connection, never as a shorter list.

use std::{
    fmt::{self, Display},
    io,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use database::{Database, InStatement, IsolationLevel, Timestamptz, Transaction, Work};
use futures::{StreamExt, stream};
use serde::{Serialize, Serializer};
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_postgres::{Row, types::ToSql};
use tracking::Timestamp;

use super::{
    errors::ApiError,
    etag::{ETag, Revisions},
    parameters::Parameters,
};
use crate::metrics::{Metrics, StreamEnd};

/// Rows fetched at once. A list of no more is answered whole, after its connection is free again.
const ROWS_AT_ONCE: i32 = 500;
/// Longest that a client may leave what is written for it unread.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often a list is begun again that the database broke off before any of it was sent. A standby does so when a read
/// is in the way of what it has to replay.
const MAX_RERUNS: u32 = 3;
/// Longest that one list may take, whatever its pace.
const LONGEST_ANSWER: Duration = Duration::from_mins(10);

const REVISIONS: &str = r#"-- revisions
select writer, revision from revisions order by writer collate "C"
"#;

/// A list of the API: what may be asked of it, and how its rows look in JSON.
pub(crate) trait List: fmt::Debug + Send + Sync + Sized + 'static {
    /// Its name in the API.
    const NAME: &'static str;

    /// Reads the question.
    fn read(parameters: &Parameters<'_>) -> Result<Self, ApiError>;
    /// How many rows are asked for at most.
    fn limit(&self) -> Option<usize>;
    /// Its rows in order, those after the cursor only; one of a few texts.
    fn sql(&self) -> &'static str;
    /// The parameters of [`List::sql`].
    fn sql_parameters(&self) -> Vec<&(dyn ToSql + Sync)>;
    /// Whether the row belongs to the answer, where the SQL lets through too much.
    fn shows(&self, _row: &Row) -> Result<bool, RowError> {
        Ok(true)
    }
    /// Appends the row's JSON.
    fn write(&self, row: &Row, json: &mut Vec<u8>) -> Result<(), RowError>;
    /// The cursor that continues after the row.
    fn cursor(&self, row: &Row) -> Result<String, RowError>;

    /// What stands between two rows.
    const SEPARATOR: &'static [u8] = b",";
    /// Appends what stands before the first row.
    fn begin(&self, body: &mut Vec<u8>) -> Result<(), RowError> {
        body.extend(br#"{"ok":true,"items":["#);
        Ok(())
    }
    /// Appends what stands after the last row; `next` is the cursor that continues, if there are more.
    fn end(&self, next: Option<&str>, body: &mut Vec<u8>) {
        body.push(b']');
        if self.limit().is_some() {
            // A cursor is of characters that JSON does not escape.
            let next = next.map_or("null".to_owned(), |next| format!("\"{next}\""));
            body.extend(format!(",\"next_cursor\":{next}").as_bytes());
        }
        body.push(b'}');
    }
}

/// Why a row could not be read or written: a defect, or a schema that is not ours.
#[derive(Debug, Error)]
pub(crate) enum RowError {
    /// The row's columns are not what the code reads.
    #[error("reading a row")]
    Read(#[from] tokio_postgres::Error),
    /// The row could not be written as JSON.
    #[error("writing a row as JSON")]
    Write(#[from] serde_json::Error),
    /// The row could not be written as a line of CSV.
    #[error("writing a row as CSV")]
    Line(#[from] csv::Error),
}

/// Why a list ended before its end.
#[derive(Debug, Error)]
enum Cut {
    #[error(transparent)]
    Database(#[from] database::Error),
    #[error(transparent)]
    Row(#[from] RowError),
    #[error("the client took nothing for {LONGEST_PAUSE:?}")]
    SlowClient,
    #[error("the answer was not finished within {LONGEST_ANSWER:?}")]
    TooLong,
    #[error("the client is gone")]
    ClientGone,
}

impl From<tokio_postgres::Error> for Cut {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Cut {
    const fn end(&self) -> StreamEnd {
        match self {
            Self::Database(_) => StreamEnd::DatabaseFailed,
            Self::Row(_) => StreamEnd::Defect,
            Self::SlowClient | Self::TooLong => StreamEnd::ClientSlow,
            Self::ClientGone => StreamEnd::ClientGone,
        }
    }
}

impl From<Cut> for ApiError {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Database(error) => Self::from(error),
            other => Self::defect(other),
        }
    }
}

/// A time as the API writes it.
pub(crate) struct IsoTime(Timestamp);

impl From<Timestamptz> for IsoTime {
    fn from(time: Timestamptz) -> Self {
        Self(time.0)
    }
}

impl Display for IsoTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for IsoTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the SQL may stop at: one row more than is shown tells whether there are more.
pub(crate) fn sql_limit(limit: Option<usize>) -> Option<i64> {
    i64::try_from(limit?.saturating_add(1)).ok()
}

/// Answers a list: 304 if the client holds it already, else all of it.
pub(crate) async fn answer<L: List>(
    database: Database,
    metrics: Metrics,
    list: L,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (starts, started) = oneshot::channel();
    let mut producer = Producer {
        task: tokio::spawn(produce(database, metrics.clone(), list, headers, starts)),
        metrics,
        is_done: false,
    };
    let start = started.await; // given up here, the producer counts as one whose client is gone
    match start {
        Ok(Ok(start)) => Ok(start.into_response(producer)),
        Ok(Err(error)) => {
            producer.is_done = true;
            Err(error)
        }
        Err(_) => {
            producer.is_done = true;
            Err(ApiError::defect(
                "the task that writes a list ended without a word",
            ))
        }
    }
}

/// How an answer begins.
enum Start {
    Unchanged(ETag),
    Whole(ETag, Vec<u8>),
    Parts(ETag, mpsc::Receiver<Part>),
}

/// One piece of a body. A body without [`Part::End`] is cut off.
enum Part {
    Bytes(Vec<u8>),
    End,
}

impl Start {
    fn into_response(self, mut producer: Producer) -> Response {
        let is_unchanged = matches!(self, Self::Unchanged(_));
        let (etag, mut response) = match self {
            Self::Unchanged(etag) => {
                producer.is_done = true;
                (etag, StatusCode::NOT_MODIFIED.into_response())
            }
            Self::Whole(etag, body) => {
                producer.is_done = true;
                (etag, Body::from(body).into_response())
            }
            Self::Parts(etag, parts) => (etag, body_of(parts, producer).into_response()),
        };
        let headers = response.headers_mut();
        cache_headers(headers, &etag);
        if !is_unchanged {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        response
    }
}

/// What a client may keep, and how it asks whether that still holds.
pub(crate) fn cache_headers(headers: &mut HeaderMap, etag: &ETag) {
    if let Some(etag) = etag.header() {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
    headers.insert(
        header::VARY,
        HeaderValue::from_static("X-Tracker-Token, Cookie, Accept-Encoding"),
    );
}

/// A body of parts, which fails if they stop before their end.
fn body_of(parts: mpsc::Receiver<Part>, producer: Producer) -> Body {
    let state = Some((parts, producer));
    let chunks = stream::unfold(state, |state| async {
        let (mut parts, mut producer) = state?;
        match parts.recv().await {
            Some(Part::Bytes(bytes)) => Some((Ok(Bytes::from(bytes)), Some((parts, producer)))),
            Some(Part::End) => {
                producer.is_done = true;
                None
            }
            None => {
                producer.is_done = true;
                Some((Err(io::Error::other("the list was cut off")), None))
            }
        }
    });
    // The compression asks once more after the end.
    Body::from_stream(chunks.fuse())
}

/// The task that writes a list; it ends with the answer that needs it.
struct Producer {
    task: JoinHandle<()>,
    metrics: Metrics,
    is_done: bool,
}

impl Drop for Producer {
    fn drop(&mut self) {
        if !self.is_done && !self.task.is_finished() {
            self.task.abort();
            self.metrics.stream_ended(StreamEnd::ClientGone);
        }
    }
}

/// Writes `list` for a client: the start to `starts`, what follows to where the start says.
async fn produce<L: List>(
    database: Database,
    metrics: Metrics,
    list: L,
    headers: HeaderMap,
    starts: oneshot::Sender<Result<Start, ApiError>>,
) {
    let mut reader = Reader::Waiting(starts);
    let written = timeout(
        LONGEST_ANSWER,
        write_patiently(&database, &metrics, &list, &headers, &mut reader),
    )
    .await;
    let end = match (written.unwrap_or(Err(Cut::TooLong)), reader) {
        (Ok(()), Reader::Reading(_)) => StreamEnd::Complete,
        (Ok(()), _) => return,
        (Err(cut), Reader::Waiting(starts)) => {
            let _ = starts.send(Err(cut.into()));
            return;
        }
        (Err(cut), _) => {
            let end = cut.end();
            if end == StreamEnd::ClientGone {
                tracing::debug!(list = L::NAME, "a list's client is gone");
            } else {
                tracing::warn!(list = L::NAME, error = %cut, "a list was cut off");
            }
            end
        }
    };
    metrics.stream_ended(end);
}

async fn write_patiently<L: List>(
    database: &Database,
    metrics: &Metrics,
    list: &L,
    headers: &HeaderMap,
    reader: &mut Reader,
) -> Result<(), Cut> {
    let mut reruns = 0;
    loop {
        match write(database, metrics, list, headers, reader).await {
            Err(Cut::Database(error))
                if error.is_transient() && reruns < MAX_RERUNS && matches!(reader, Reader::Waiting(_)) =>
            {
                reruns += 1;
                tracing::debug!(list = L::NAME, %error, reruns, "a list is begun again");
            }
            done => return done,
        }
    }
}

async fn write<L: List>(
    database: &Database,
    metrics: &Metrics,
    list: &L,
    headers: &HeaderMap,
    reader: &mut Reader,
) -> Result<(), Cut> {
    let mut connection = database.client().await?;
    if headers.contains_key(header::IF_NONE_MATCH) {
        let statement = connection.prepare_cached(REVISIONS).await?;
        let etag = ETag::new(
            L::NAME,
            list,
            &revisions(&connection.query(&statement, &[]).await?)?,
        );
        if etag.is_known(headers) {
            return reader.unchanged(etag);
        }
    }
    let snapshot = database
        .begin(&mut connection, IsolationLevel::RepeatableRead, true)
        .await?;
    let statement = snapshot.prepare_cached(REVISIONS).await?;
    let etag = ETag::new(
        L::NAME,
        list,
        &revisions(&snapshot.query(&statement, &[]).await?)?,
    );
    let statement = snapshot.prepare_cached(list.sql()).await?;
    let portal = snapshot.bind(&statement, &list.sql_parameters()).await?;
    let mut page = Page::new(list)?;
    loop {
        let rows = snapshot.query_portal(&portal, ROWS_AT_ONCE).await?;
        let is_last = i32::try_from(rows.len()).is_ok_and(|count| count < ROWS_AT_ONCE);
        let shown_before = page.count;
        let is_full = page.add(&rows)?;
        metrics.rows_sent(page.count - shown_before);
        if is_last || is_full {
            break;
        }
        if !page.body.is_empty() {
            reader.send(&etag, std::mem::take(&mut page.body)).await?;
        }
    }
    drop(portal);
    drop(snapshot);
    drop(connection); // before the client has read the rest
    reader.finish(etag, page.finish()).await
}

/// The present state of all that lists show.
pub(crate) struct ReadRevisions;

impl Work for ReadRevisions {
    const NAME: &'static str = "revisions";
    const READ_ONLY: bool = true;
    type Output = Revisions;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Revisions, database::Error> {
        let statement = tx.prepare_cached(REVISIONS).await.in_statement(Self::NAME)?;
        let rows = tx.query(&statement, &[]).await.in_statement(Self::NAME)?;
        Ok(revisions(&rows)?)
    }
}

fn revisions(rows: &[Row]) -> Result<Revisions, tokio_postgres::Error> {
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// The body of a list as it grows.
struct Page<'l, L> {
    list: &'l L,
    body: Vec<u8>,
    count: usize,
    /// Continues after the last row that the limit allows.
    last: Option<String>,
    next: Option<String>,
}

impl<'l, L: List> Page<'l, L> {
    fn new(list: &'l L) -> Result<Self, RowError> {
        let mut body = Vec::new();
        list.begin(&mut body)?;
        Ok(Self {
            list,
            body,
            count: 0,
            last: None,
            next: None,
        })
    }

    /// Adds rows; answers whether the page is full and more rows are known to follow it.
    fn add(&mut self, rows: &[Row]) -> Result<bool, RowError> {
        for row in rows {
            if !self.list.shows(row)? {
                continue;
            }
            if self.last.is_some() {
                self.next = self.last.take();
                return Ok(true);
            }
            if self.count > 0 {
                self.body.extend(L::SEPARATOR);
            }
            self.list.write(row, &mut self.body)?;
            self.count += 1;
            if Some(self.count) == self.list.limit() {
                self.last = Some(self.list.cursor(row)?);
            }
        }
        Ok(false)
    }

    fn finish(mut self) -> Vec<u8> {
        self.list.end(self.next.as_deref(), &mut self.body);
        self.body
    }
}

/// The other end of an answer.
enum Reader {
    /// Nothing was sent yet: a failure can still be told.
    Waiting(oneshot::Sender<Result<Start, ApiError>>),
    /// The head is out and parts of the body are on their way.
    Reading(mpsc::Sender<Part>),
    /// All was said.
    Done,
}

impl Reader {
    fn start(&mut self, start: Start, then: Self) -> Result<(), Cut> {
        match std::mem::replace(self, then) {
            Self::Waiting(starts) => starts.send(Ok(start)).map_err(|_| Cut::ClientGone),
            _ => Ok(()),
        }
    }

    fn unchanged(&mut self, etag: ETag) -> Result<(), Cut> {
        self.start(Start::Unchanged(etag), Self::Done)
    }

    async fn send(&mut self, etag: &ETag, bytes: Vec<u8>) -> Result<(), Cut> {
        if matches!(self, Self::Waiting(_)) {
            let (sender, receiver) = mpsc::channel(1);
            self.start(Start::Parts(etag.clone(), receiver), Self::Reading(sender))?;
        }
        self.part(Part::Bytes(bytes)).await
    }

    async fn finish(&mut self, etag: ETag, bytes: Vec<u8>) -> Result<(), Cut> {
        if matches!(self, Self::Waiting(_)) {
            return self.start(Start::Whole(etag, bytes), Self::Done);
        }
        self.part(Part::Bytes(bytes)).await?;
        self.part(Part::End).await
    }

    async fn part(&self, part: Part) -> Result<(), Cut> {
        let Self::Reading(parts) = self else {
            return Ok(());
        };
        match timeout(LONGEST_PAUSE, parts.send(part)).await {
            Ok(sent) => sent.map_err(|_| Cut::ClientGone),
            Err(_) => Err(Cut::SlowClient),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (sender, mut receiver) = mpsc::channel(1);
        let reader = Reader::Reading(sender);
        reader.part(Part::Bytes(vec![1])).await.unwrap();
        let cut = reader.part(Part::Bytes(vec![2])).await.unwrap_err();
        assert_eq!(cut.end(), StreamEnd::ClientSlow);
        assert!(matches!(receiver.recv().await, Some(Part::Bytes(first)) if first == [1]));
        reader.part(Part::Bytes(vec![3])).await.unwrap();
        drop(receiver);
        let cut = reader.part(Part::Bytes(vec![4])).await.unwrap_err();
        assert_eq!(cut.end(), StreamEnd::ClientGone);
    }

    #[tokio::test]
    async fn a_body_without_its_end_is_an_error() {
        for is_complete in [true, false] {
            let (sender, receiver) = mpsc::channel(2);
            sender.send(Part::Bytes(b"[1".to_vec())).await.unwrap();
            if is_complete {
                sender.send(Part::End).await.unwrap();
            }
            drop(sender);
            let producer = Producer {
                task: tokio::spawn(async {}),
                metrics: Metrics::new(&opentelemetry::global::meter("test")),
                is_done: false,
            };
            let body = axum::body::to_bytes(body_of(receiver, producer), usize::MAX).await;
            assert_eq!(body.is_ok(), is_complete);
        }
    }
}
