//! `GET /dashboard/api/v1/charts`: the numbers that charts are drawn from, for a span of time and in a time zone.

mod read;

use std::collections::BTreeMap;

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use database::{Database, Timestamptz, Work as _};
use serde::Serialize;
use tracking::{Timestamp, agents::Agent, slots::slot_of};

use self::read::{Found, OfDelay, OfKind, Opens, ReadCharts};
use super::{
    errors::ApiError,
    etag::{ETag, Revisions},
    list::{IsoTime, cache_headers},
    parameters::{Parameters, unknown_zone},
};

/// The name of its transaction.
pub(crate) const READ_CHARTS: &str = ReadCharts::NAME;
const NAME: &str = "charts";

/// What one bar of the chart over time spans.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Period {
    Hour,
    Day,
    Week,
    Month,
}

impl Period {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// As `date_trunc` calls it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Charts {
    since: Timestamptz,
    until: Timestamptz,
    zone: String,
    period: Period,
    count_automated: bool,
}

impl Charts {
    /// Seconds from sending to the first open: what is below the first is one bar, and so on; what is not below the last
    /// is the last bar.
    const DELAYS: [u32; 9] = [60, 300, 900, 3_600, 10_800, 43_200, 86_400, 259_200, 604_800];

    /// Reads the question.
    pub(crate) fn read(parameters: &Parameters<'_>) -> Result<Self, ApiError> {
        let period = parameters.choice("by", &Period::ALL.map(|period| (period.as_str(), period)))?;
        let since = parameters.time("since")?.unwrap_or_default();
        let until = parameters.time("until")?.unwrap_or(Timestamp::MAX_IN_ID);
        Ok(Self {
            since: slot_of(since).into(),
            until: slot_of(until).into(),
            zone: parameters.zone()?.unwrap_or_else(|| "UTC".to_owned()),
            period: period.unwrap_or(Period::Day),
            count_automated: parameters.count_automated(),
        })
    }
}

/// Answers the charts, or 304 if the client holds them already.
pub(crate) async fn answer(
    database: &Database,
    charts: &Charts,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let etag = |revisions: &Revisions| ETag::new(NAME, charts, revisions);
    let work = ReadCharts {
        charts,
        is_known: &|revisions| etag(revisions).is_known(headers),
    };
    let (revisions, found) = match database.transact(&work).await {
        Err(error) if read::is_unknown_zone(&error) => return Err(unknown_zone()),
        read => read?,
    };
    let mut response = match found {
        Some(found) => Json(Answer::of(charts, found)).into_response(),
        None => StatusCode::NOT_MODIFIED.into_response(),
    };
    cache_headers(response.headers_mut(), &etag(&revisions));
    Ok(response)
}

/// How many opens are believed how far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Counts {
    human: i64,
    likely: i64,
    unclear: i64,
    automated: i64,
}

impl Counts {
    fn add(&mut self, more: Self) {
        self.human += more.human;
        self.likely += more.likely;
        self.unclear += more.unclear;
        self.automated += more.automated;
    }

    const fn is_empty(self) -> bool {
        self.human + self.likely + self.unclear + self.automated == 0
    }
}

/// The answer.
#[derive(Serialize)]
struct Answer {
    ok: bool,
    zone: String,
    by: &'static str,
    opens: Counts,
    emails: Emails,
    over_time: Vec<Bar<IsoTime>>,
    hours: Vec<Counts>,
    weekdays: Vec<Counts>,
    first_opens: Vec<FirstOpens>,
    classes: Vec<Bar<String>>,
    devices: Vec<Bar<String>>,
    countries: Vec<Bar<Option<String>>>,
}

/// The emails whose first hit lies in the span.
#[derive(Default, Serialize)]
struct Emails {
    tracked: i64,
    opened: i64,
    opened_by_people: i64,
}

/// One bar of a chart.
#[derive(Serialize)]
struct Bar<T> {
    /// When its period begins, or what it is about.
    of: T,
    #[serde(flatten)]
    opens: Counts,
}

/// The emails that were first opened so long after they were sent.
#[derive(Serialize)]
struct FirstOpens {
    /// Below how many seconds; null for those beyond the last limit.
    within_seconds: Option<u32>,
    emails: i64,
    by_people: i64,
}

impl Answer {
    fn of(charts: &Charts, found: Found) -> Self {
        let counts = |opens: Opens| Counts {
            human: opens.human,
            likely: opens.likely,
            unclear: opens.unclear,
            automated: if charts.count_automated {
                opens.automated
            } else {
                0
            },
        };
        let mut all = Counts::default();
        let mut over_time = Vec::with_capacity(found.periods.len());
        for period in found.periods {
            let opens = counts(period.opens);
            all.add(opens);
            if !opens.is_empty() {
                over_time.push(Bar {
                    of: period.at.into(),
                    opens,
                });
            }
        }
        let mut hours = vec![Counts::default(); 24];
        let mut weekdays = vec![Counts::default(); 7];
        for hour in found.hours {
            add(&mut hours, hour.hour, counts(hour.opens));
            add(&mut weekdays, hour.weekday - 1, counts(hour.opens));
        }
        Self {
            ok: true,
            zone: charts.zone.clone(),
            by: charts.period.as_str(),
            opens: all,
            emails: emails(&found.delays),
            over_time,
            hours,
            weekdays,
            first_opens: first_opens(&found.delays),
            classes: kinds(&found.kinds, "agent", counts, |agent| {
                // A name that a newer recorder gave is none that this build knows.
                let agent = Agent::named(agent).unwrap_or(Agent::Unfamiliar);
                agent.class().as_str().to_owned()
            }),
            devices: kinds(&found.kinds, "device", counts, str::to_owned),
            countries: kinds(&found.kinds, "country", counts, |country| {
                Some(country.to_owned()).filter(|country| !country.is_empty())
            }),
        }
    }
}

fn add(bars: &mut [Counts], place: i32, opens: Counts) {
    if let Some(bar) = usize::try_from(place).ok().and_then(|place| bars.get_mut(place)) {
        bar.add(opens);
    }
}

fn emails(delays: &[OfDelay]) -> Emails {
    let mut emails = Emails::default();
    for delay in delays {
        emails.tracked += delay.emails;
        if delay.first_open != Some(-1) {
            emails.opened += delay.emails;
        }
        if delay.first_human_open != Some(-1) {
            emails.opened_by_people += delay.emails;
        }
    }
    emails
}

fn first_opens(delays: &[OfDelay]) -> Vec<FirstOpens> {
    let limits = Charts::DELAYS.iter().copied().map(Some).chain([None]);
    (0..)
        .zip(limits)
        .map(|(place, limit)| {
            let of = |place_of: fn(&OfDelay) -> Option<i32>| {
                let wanted = delays.iter().filter(|delay| place_of(delay) == Some(place));
                wanted.map(|delay| delay.emails).sum()
            };
            FirstOpens {
                within_seconds: limit,
                emails: of(|delay| delay.first_open),
                by_people: of(|delay| delay.first_human_open),
            }
        })
        .collect()
}

/// The kinds of one dimension, those with most opens first.
fn kinds<T: Ord + Clone>(
    kinds: &[OfKind],
    dimension: &str,
    counts: impl Fn(Opens) -> Counts,
    name: impl Fn(&str) -> T,
) -> Vec<Bar<T>> {
    let mut by_name: BTreeMap<T, Counts> = BTreeMap::new();
    for kind in kinds.iter().filter(|kind| kind.dimension == dimension) {
        by_name
            .entry(name(&kind.value))
            .or_default()
            .add(counts(kind.opens));
    }
    let mut bars: Vec<Bar<T>> = by_name
        .into_iter()
        .filter(|(_, opens)| !opens.is_empty())
        .map(|(of, opens)| Bar { of, opens })
        .collect();
    bars.sort_by_key(|bar| {
        let Counts {
            human,
            likely,
            unclear,
            automated,
        } = bar.opens;
        std::cmp::Reverse(human + likely + unclear + automated)
    });
    bars
}
