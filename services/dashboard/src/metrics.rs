//! The dashboard's instruments.

use std::time::Duration;

use axum::http::StatusCode;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};

use crate::page::is_page;

/// From a 304 to the complete list of a large installation.
const SECONDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// What is asked for, as few words as there are endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// The list of emails.
    Emails,
    /// The list of opens.
    OpenEvents,
    /// The list of emails as the page searches it.
    Search,
    /// The charts.
    Charts,
    /// A list as a file.
    Export,
    /// Listening to changes.
    Live,
    /// The API's description.
    Document,
    /// Erasing, and what was erased.
    Erasures,
    /// Logging in and out.
    Session,
    /// One of the diagnostics.
    Diagnostics,
    /// The page and what it loads.
    Page,
    /// The health.
    Health,
    /// Anything else.
    Unknown,
}

impl Route {
    const ALL: [Self; 13] = [
        Self::Emails,
        Self::OpenEvents,
        Self::Search,
        Self::Charts,
        Self::Export,
        Self::Live,
        Self::Document,
        Self::Erasures,
        Self::Session,
        Self::Diagnostics,
        Self::Page,
        Self::Health,
        Self::Unknown,
    ];

    /// Those that answer 304 to who holds the answer already.
    const LISTS: [Self; 4] = [Self::Emails, Self::OpenEvents, Self::Search, Self::Charts];

    /// The route of a path.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/dashboard/api/emails" => Self::Emails,
            "/dashboard/api/open-events" => Self::OpenEvents,
            "/dashboard/api/v1/emails" => Self::Search,
            "/dashboard/api/v1/charts" => Self::Charts,
            "/dashboard/api/v1/live" => Self::Live,
            "/dashboard/api/v1/openapi.json" => Self::Document,
            _ if path.starts_with("/dashboard/api/v1/export/") => Self::Export,
            "/dashboard/api/v1/erasures" | "/dashboard/api/v1/erasures/preview" => Self::Erasures,
            "/dashboard/session" => Self::Session,
            "/dashboard/health" => Self::Health,
            "/metrics/gmail-proxy-latency" | "/metrics/suppress-signals" | "/metrics/suppression-debug" => {
                Self::Diagnostics
            }
            path if is_page(path) => Self::Page,
            _ => Self::Unknown,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Emails => "emails",
            Self::OpenEvents => "open_events",
            Self::Search => "search",
            Self::Charts => "charts",
            Self::Export => "export",
            Self::Live => "live",
            Self::Document => "document",
            Self::Erasures => "erasures",
            Self::Session => "session",
            Self::Diagnostics => "diagnostics",
            Self::Page => "page",
            Self::Health => "health",
            Self::Unknown => "unknown",
        }
    }
}

/// How a list that was sent in parts ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// At its end.
    Complete,
    /// The client closed the connection.
    ClientGone,
    /// The client read too slowly.
    ClientSlow,
    /// The database failed on the way.
    DatabaseFailed,
    /// A row could not be understood.
    Defect,
}

impl StreamEnd {
    const ALL: [Self; 5] = [
        Self::Complete,
        Self::ClientGone,
        Self::ClientSlow,
        Self::DatabaseFailed,
        Self::Defect,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::ClientSlow => "client_slow",
            Self::DatabaseFailed => "database_failed",
            Self::Defect => "defect",
        }
    }
}

/// Where a wrong token was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// In the header.
    InHeader,
    /// To log in.
    AtLogIn,
}

impl Shown {
    const ALL: [Self; 2] = [Self::InHeader, Self::AtLogIn];

    const fn label(self) -> &'static str {
        match self {
            Self::InHeader => "header",
            Self::AtLogIn => "log_in",
        }
    }
}

const STATUS_CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// The instruments; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Counter<u64>,
    duration: Histogram<f64>,
    not_modified: Counter<u64>,
    rows: Counter<u64>,
    streams: Counter<u64>,
    wrong_tokens: Counter<u64>,
}

impl Metrics {
    /// Makes the instruments; every series begins at zero.
    pub(crate) fn new(meter: &Meter) -> Self {
        let counter = |name: &'static str, description: &'static str| {
            meter.u64_counter(name).with_description(description).build()
        };
        let metrics = Self {
            requests: counter(
                "email_tracker.dashboard.requests",
                "Requests answered, by what was asked for and class of the status",
            ),
            duration: meter
                .f64_histogram("email_tracker.dashboard.request.duration")
                .with_unit("s")
                .with_description("Time from a request's head to its answer's, by what was asked for")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            not_modified: counter(
                "email_tracker.dashboard.not_modified",
                "Lists that the client held already (status 304), by list",
            ),
            rows: counter(
                "email_tracker.dashboard.rows",
                "Rows of lists written for clients",
            ),
            streams: counter(
                "email_tracker.dashboard.streams",
                "Lists sent in parts, by how they ended; all but `complete` were cut off",
            ),
            wrong_tokens: counter(
                "email_tracker.dashboard.wrong_tokens",
                "Wrong tokens, by where they were shown; many mean that somebody guesses, or uses an old one",
            ),
        };
        for route in Route::ALL {
            for class in STATUS_CLASSES {
                metrics.requests.add(0, &request_labels(route, class));
            }
        }
        for route in Route::LISTS {
            metrics
                .not_modified
                .add(0, &[KeyValue::new("route", route.label())]);
        }
        metrics.rows.add(0, &[]);
        for end in StreamEnd::ALL {
            metrics.streams.add(0, &[KeyValue::new("end", end.label())]);
        }
        for shown in Shown::ALL {
            let label = [KeyValue::new("where", shown.label())];
            metrics.wrong_tokens.add(0, &label);
        }
        metrics
    }

    /// A wrong token was shown.
    pub(crate) fn wrong_token(&self, shown: Shown) {
        let label = [KeyValue::new("where", shown.label())];
        self.wrong_tokens.add(1, &label);
    }

    /// A request was answered.
    pub(crate) fn answered(&self, route: Route, status: StatusCode, time: Duration) {
        let class = match status.as_u16() {
            ..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.requests.add(1, &request_labels(route, class));
        let label = [KeyValue::new("route", route.label())];
        self.duration.record(time.as_secs_f64(), &label);
        if status == StatusCode::NOT_MODIFIED && Route::LISTS.contains(&route) {
            self.not_modified.add(1, &label);
        }
    }

    /// Rows were written for a client.
    pub(crate) fn rows_sent(&self, count: usize) {
        self.rows.add(u64::try_from(count).unwrap_or(u64::MAX), &[]);
    }

    /// A list sent in parts ended.
    pub(crate) fn stream_ended(&self, end: StreamEnd) {
        self.streams.add(1, &[KeyValue::new("end", end.label())]);
    }
}

fn request_labels(route: Route, class: &'static str) -> [KeyValue; 2] {
    [
        KeyValue::new("route", route.label()),
        KeyValue::new("status", class),
    ]
}
