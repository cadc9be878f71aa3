//! `GET /dashboard/api/v1/export/…`: a list as a file to keep, CSV or JSON, with the filters of the page.
//!
//! They are lists like the others (`list`), without limit and cursor: streamed, of one snapshot, and cut off visibly.

use std::{fmt, marker::PhantomData};

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

/// How a file is written.
pub(crate) trait Format: fmt::Debug + Send + Sync + 'static {
    /// The end of the file's name.
    const EXTENSION: &'static str;
    /// What it is.
    const CONTENT_TYPE: &'static str;
    /// What stands between two rows.
    const SEPARATOR: &'static [u8];
    /// What stands after the last row.
    const END: &'static [u8];

    /// Appends what stands before the first row.
    fn begin<L: Exported>(body: &mut Vec<u8>) -> Result<(), RowError>;
    /// Appends a row.
    fn write<L: Exported>(list: &L, row: &Row, body: &mut Vec<u8>) -> Result<(), RowError>;
}

/// A line for each row, after one with the names.
#[derive(Debug)]
pub(crate) struct Csv;

/// One array, with a line for each row.
#[derive(Debug)]
pub(crate) struct Json;

impl Format for Csv {
    const EXTENSION: &'static str = "csv";
    const CONTENT_TYPE: &'static str = "text/csv; charset=utf-8; header=present";
    const SEPARATOR: &'static [u8] = b"";
    const END: &'static [u8] = b"";

    fn begin<L: Exported>(body: &mut Vec<u8>) -> Result<(), RowError> {
        body.extend(BYTE_ORDER_MARK);
        Ok(write_line(L::COLUMNS.iter().copied().map(Cell::Text), body)?)
    }

    fn write<L: Exported>(list: &L, row: &Row, body: &mut Vec<u8>) -> Result<(), RowError> {
        Ok(write_line(list.cells(row)?, body)?)
    }
}

impl Format for Json {
    const EXTENSION: &'static str = "json";
    const CONTENT_TYPE: &'static str = "application/json";
    const SEPARATOR: &'static [u8] = b",\n";
    const END: &'static [u8] = b"\n]\n";

    fn begin<L: Exported>(body: &mut Vec<u8>) -> Result<(), RowError> {
        body.extend(b"[\n");
        Ok(())
    }

    fn write<L: Exported>(list: &L, row: &Row, body: &mut Vec<u8>) -> Result<(), RowError> {
        list.write(row, body)
    }
}

/// All of a list, in a format.
#[derive(Debug)]
pub(crate) struct File<L, F> {
    list: L,
    format: PhantomData<F>,
}

impl<L: Exported, F: Format> List for File<L, F> {
    const NAME: &'static str = L::NAME;
    const SEPARATOR: &'static [u8] = F::SEPARATOR;

    fn read(parameters: &Parameters<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            list: L::read_all(parameters)?,
            format: PhantomData,
        })
    }

    fn limit(&self) -> Option<usize> {
        None
    }

    fn sql(&self) -> &'static str {
        self.list.sql()
    }

    fn sql_parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.list.sql_parameters()
    }

    fn shows(&self, row: &Row) -> Result<bool, RowError> {
        self.list.shows(row)
    }

    fn begin(&self, body: &mut Vec<u8>) -> Result<(), RowError> {
        F::begin::<L>(body)
    }

    fn write(&self, row: &Row, body: &mut Vec<u8>) -> Result<(), RowError> {
        F::write(&self.list, row, body)
    }

    fn end(&self, _next: Option<&str>, body: &mut Vec<u8>) {
        body.extend(F::END);
    }

    fn cursor(&self, row: &Row) -> Result<String, RowError> {
        self.list.cursor(row)
    }
}

/// Answers the file. It is personal data, and as new as its name says: no cache keeps it or asks whether it still holds.
pub(crate) async fn answer<L: Exported, F: Format>(
    dashboard: Dashboard,
    file: File<L, F>,
    mut request: HeaderMap,
) -> Result<Response, ApiError> {
    request.remove(header::IF_NONE_MATCH);
    let name = file_name::<L, F>(dashboard.clock.now());
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
fn file_name<L: Exported, F: Format>(now: Timestamp) -> String {
    let time = now.to_string();
    let day = time.split('T').next().unwrap_or_default();
    format!("email-tracker-{}-{day}.{}", L::FILE, F::EXTENSION)
}
