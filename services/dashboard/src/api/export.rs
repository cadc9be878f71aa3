//! `GET /dashboard/api/v1/export/…`: a list as a file to keep, CSV or JSON, with the filters of the page.
//!
//! They are lists like the others (`list`), without limit and cursor: streamed, of one snapshot, and cut off visibly.

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use tokio_postgres::{Row, types::ToSql};
use tracking::Timestamp;

use super::{
    cells::{Cell, write_line},
    errors::ApiError,
    list::{self, List, RowError},
    parameters::Parameters,
};
use crate::http::Dashboard;

/// Excel takes a CSV file for one in the encoding of its country, unless it begins with this.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A list that can be kept as a file.
pub(crate) trait Exported: List {
    /// What the file is of, as in its name.
    const FILE: &'static str;
    /// The fields of a row, in the order of [`Exported::cells`]; the names are the API's.
    const COLUMNS: &'static [&'static str];

    /// Reads the question; there is no limit.
    fn read_all(parameters: &Parameters<'_>) -> Result<Self, ApiError>;
    /// The row's fields.
    fn cells<'r>(&self, row: &'r Row) -> Result<impl IntoIterator<Item = Cell<'r>>, RowError>;
}

/// How the file is written.
pub(crate) trait Format: List {
    /// The end of the file's name.
    const EXTENSION: &'static str;
    /// What it is of.
    const FILE: &'static str;
    /// What it is.
    const CONTENT_TYPE: &'static str;
}

/// A line for each row, after one with the names.
#[derive(Debug)]
pub(crate) struct Csv<L>(L);

/// One array, with a line for each row.
#[derive(Debug)]
pub(crate) struct Json<L>(L);

impl<L: Exported> Format for Csv<L> {
    const EXTENSION: &'static str = "csv";
    const FILE: &'static str = L::FILE;
    const CONTENT_TYPE: &'static str = "text/csv; charset=utf-8; header=present";
}

impl<L: Exported> Format for Json<L> {
    const EXTENSION: &'static str = "json";
    const FILE: &'static str = L::FILE;
    const CONTENT_TYPE: &'static str = "application/json";
}

impl<L: Exported> List for Csv<L> {
    const NAME: &'static str = L::NAME;
    const SEPARATOR: &'static [u8] = b"";

    fn read(parameters: &Parameters<'_>) -> Result<Self, ApiError> {
        L::read_all(parameters).map(Self)
    }

    fn limit(&self) -> Option<usize> {
        None
    }

    fn sql(&self) -> &'static str {
        self.0.sql()
    }

    fn sql_parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.0.sql_parameters()
    }

    fn shows(&self, row: &Row) -> Result<bool, RowError> {
        self.0.shows(row)
    }

    fn begin(&self, body: &mut Vec<u8>) -> Result<(), RowError> {
        body.extend(BYTE_ORDER_MARK);
        Ok(write_line(L::COLUMNS.iter().copied().map(Cell::Text), body)?)
    }

    fn write(&self, row: &Row, body: &mut Vec<u8>) -> Result<(), RowError> {
        Ok(write_line(self.0.cells(row)?, body)?)
    }

    fn end(&self, _next: Option<&str>, _body: &mut Vec<u8>) {}

    fn cursor(&self, row: &Row) -> Result<String, RowError> {
        self.0.cursor(row)
    }
}

impl<L: Exported> List for Json<L> {
    const NAME: &'static str = L::NAME;
    const SEPARATOR: &'static [u8] = b",\n";

    fn read(parameters: &Parameters<'_>) -> Result<Self, ApiError> {
        L::read_all(parameters).map(Self)
    }

    fn limit(&self) -> Option<usize> {
        None
    }

    fn sql(&self) -> &'static str {
        self.0.sql()
    }

    fn sql_parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.0.sql_parameters()
    }

    fn shows(&self, row: &Row) -> Result<bool, RowError> {
        self.0.shows(row)
    }

    fn begin(&self, body: &mut Vec<u8>) -> Result<(), RowError> {
        body.extend(b"[\n");
        Ok(())
    }

    fn write(&self, row: &Row, body: &mut Vec<u8>) -> Result<(), RowError> {
        self.0.write(row, body)
    }

    fn end(&self, _next: Option<&str>, body: &mut Vec<u8>) {
        body.extend(b"\n]\n");
    }

    fn cursor(&self, row: &Row) -> Result<String, RowError> {
        self.0.cursor(row)
    }
}

/// Answers the file. It is personal data, and as new as its name says: no cache keeps it or asks whether it still holds.
pub(crate) async fn answer<F: Format>(
    dashboard: Dashboard,
    file: F,
    mut request: HeaderMap,
) -> Result<Response, ApiError> {
    request.remove(header::IF_NONE_MATCH);
    let name = file_name::<F>(dashboard.clock.now());
    let mut response = list::answer(dashboard.database, dashboard.metrics, file, request).await?;
    let headers = response.headers_mut();
    headers.remove(header::ETAG);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(F::CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let disposition = format!("attachment; filename=\"{name}\"");
    let disposition = HeaderValue::try_from(disposition).map_err(ApiError::defect)?;
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

/// Of the day in UTC.
fn file_name<F: Format>(now: Timestamp) -> String {
    let time = now.to_string();
    let day = time.split('T').next().unwrap_or_default();
    format!("email-tracker-{}-{day}.{}", F::FILE, F::EXTENSION)
}
