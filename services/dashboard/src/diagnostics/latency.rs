//! `GET /metrics/gmail-proxy-latency`: how long after a mark Google's proxy fetched the pixel.

use database::{Error, InStatement, Timestamptz, Transaction, Work};
use serde::Serialize;
use utoipa::ToSchema;

/// The newest samples that are looked at.
const SAMPLES: i64 = 1_000;

const SQL: &str = "-- gmail_proxy_latency
select opened_at, consumed_mark_at
from hits
where consumed_mark_at is not null and google_proxy
order by opened_at desc, event_id desc
limit $1
";

/// The newest samples, in milliseconds.
pub(crate) struct ReadLatencies;

impl Work for ReadLatencies {
    const NAME: &'static str = "gmail_proxy_latency";
    const READ_ONLY: bool = true;
    type Output = Vec<i64>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<i64>, Error> {
        let statement = tx.prepare_cached(SQL).await.in_statement(Self::NAME)?;
        let rows = tx.query(&statement, &[&SAMPLES]).await.in_statement(Self::NAME)?;
        rows.iter()
            .map(|row| {
                let opened_at: Timestamptz = row.try_get(0)?;
                let marked_at: Timestamptz = row.try_get(1)?;
                Ok(opened_at.0.millis_since(marked_at.0))
            })
            .collect()
    }
}

/// How the samples are distributed, in milliseconds; all null where there are none.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct Latencies {
    /// Samples, at most the newest 1,000.
    #[schema(maximum = 1000)]
    count: usize,
    #[schema(required, minimum = 0)]
    min: Option<i64>,
    #[schema(required, minimum = 0)]
    max: Option<i64>,
    #[schema(required, minimum = 0)]
    avg: Option<f64>,
    #[schema(required, minimum = 0)]
    p50: Option<i64>,
    #[schema(required, minimum = 0)]
    p90: Option<i64>,
    #[schema(required, minimum = 0)]
    p95: Option<i64>,
    #[schema(required, minimum = 0)]
    p99: Option<i64>,
}

impl Latencies {
    /// Sums up `samples`.
    pub(crate) fn of(mut samples: Vec<i64>) -> Self {
        samples.sort_unstable();
        let percentile = |percent| nearest_rank(&samples, percent);
        Self {
            count: samples.len(),
            min: samples.first().copied(),
            max: samples.last().copied(),
            avg: average(&samples),
            p50: percentile(50),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
        }
    }
}

/// The smallest sample that at least `percent` % of the samples do not exceed.
fn nearest_rank(sorted: &[i64], percent: usize) -> Option<i64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// To two decimals, halves away from zero.
fn average(samples: &[i64]) -> Option<f64> {
    let count = i128::try_from(samples.len()).ok().filter(|count| *count > 0)?;
    let sum: i128 = samples.iter().copied().map(i128::from).sum();
    let hundredths = (sum.abs() * 100 + count / 2) / count * sum.signum();
    // Through text, so that 1.1 is the double nearest to 1.1.
    format!("{hundredths}e-2").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_samples_all_is_null() {
        assert_eq!(Latencies::of(vec![]), Latencies::default());
    }

    #[test]
    fn one_sample_is_every_percentile() {
        let latencies = Latencies::of(vec![7]);
        let sevens = [
            latencies.min,
            latencies.max,
            latencies.p50,
            latencies.p90,
            latencies.p95,
            latencies.p99,
        ];
        assert_eq!(sevens, [Some(7); 6]);
        assert_eq!((latencies.count, latencies.avg), (1, Some(7.0)));
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let hundred = Latencies::of((1..=100).rev().collect());
        let percentiles = [hundred.p50, hundred.p90, hundred.p95, hundred.p99];
        assert_eq!(percentiles, [Some(50), Some(90), Some(95), Some(99)]);
        let five = Latencies::of(vec![15, 20, 35, 40, 50]);
        assert_eq!([five.p50, five.p90, five.p99], [Some(35), Some(50), Some(50)]);
        assert_eq!(Latencies::of(vec![1, 2]).p50, Some(1));
    }

    #[test]
    fn averages_have_two_decimals() {
        for (samples, avg) in [
            (vec![1, 2], 1.5),
            (vec![0, 0, 1], 0.33),
            (vec![1, 1, 0], 0.67),
            (vec![1, 0, 0, 0, 0, 0, 0, 0], 0.13),
            (vec![0; 3], 0.0),
        ] {
            assert_eq!(Latencies::of(samples.clone()).avg, Some(avg), "{samples:?}");
        }
    }
}
