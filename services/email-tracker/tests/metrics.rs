//! Each service's metrics: what docs/metrics.md says of them, and that they are there from the start.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod documented;
#[allow(dead_code, reason = "other tests use the rest")]
mod up;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
};

use test_support::{
    eventually,
    http::{Request, get},
};

use crate::{
    documented::assert_is_documented,
    up::{Account, Home, Up},
};

const SERVICES: [&str; 3] = ["pixel", "dashboard", "recorder"];

const BEFORE: &str = "\
# Metrics

Each service answers `/metrics` on its admin port, in Prometheus's text format. That port is for the operator: nothing public leads to it. [observability](../observability) has the scrape configuration, rules and a Grafana dashboard; [operations.md](operations.md#monitoring) says how to run them.

Every series of a counter or gauge is there from the start of its service, at zero, so a first error is seen as a rise. A histogram has no series until it has seen something. Counters begin anew when a process does. No label holds anything of a person, a mail or a request.

Labels are given with all values they have; `transaction`, `target` (the names in `WEBHOOKS`) and the versions are open. `_total` is a counter; a histogram `X` is `X_bucket` (with the label `le`), `X_sum` and `X_count`.

A test scrapes a running Email Tracker and compares it with these tables; `UPDATE=1 cargo test -p email-tracker --test metrics` writes them anew.
";

const AFTER: &str = "
## From elsewhere

What the alerts and the dashboard need beyond the services' own metrics, and what comes with it:

| metric | type | unit | comes from |
| --- | --- | --- | --- |
| `email_tracker_backup_last_success_timestamp_seconds` | gauge | seconds since 1970 | `email-tracker backup`, which writes it into `email_tracker_backup.prom` in `BACKUP_METRICS_DIR`, for the textfile collector of the node_exporter: when the newest good backup was begun |
| `email_tracker_backup_last_success_size_bytes` | gauge | bytes | the same: size of that backup |
| `email_tracker_backup_last_success_duration_seconds` | gauge | seconds | the same: how long it took |
| `probe_success` | gauge | 1 or 0 | the blackbox_exporter, which asks for `/health` of the public name over HTTPS as clients do; job `email-tracker-public` |
| `probe_ssl_earliest_cert_expiry` | gauge | seconds since 1970 | the same. Caddy's own metrics do not say when a certificate ends |
";

/// What Prometheus is told of a metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    help: String,
    /// Label names with the values seen.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// One `/metrics`, by name of the metric.
fn parse(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            help.clone_into(&mut metrics.entry(name.to_owned()).or_default().help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            kind.clone_into(&mut metrics.entry(name.to_owned()).or_default().kind);
        } else {
            let (series, _value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let stem = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|stem| metrics.contains_key(*stem)));
            let metric = metrics
                .get_mut(stem.unwrap_or(name))
                .unwrap_or_else(|| panic!("{line}: no TYPE"));
            // No value of a label holds a comma or a quotation mark: they are words of the code.
            for label in labels
                .trim_end_matches('}')
                .split(',')
                .filter(|label| !label.is_empty())
            {
                let (name, value) = label.split_once('=').unwrap();
                if name != "le" {
                    let values = metric.labels.entry(name.to_owned()).or_default();
                    values.insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    metrics
}

/// The series of counters and gauges in one `/metrics`.
fn series(text: &str) -> BTreeSet<String> {
    let metrics = parse(text);
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
        .filter(|series| metrics.contains_key(series.split('{').next().unwrap()))
        .collect()
}

/// The unit of a metric: part of its name, or the thing that is counted.
fn unit(name: &str) -> &'static str {
    const ENDINGS: [(&str, &str); 35] = [
        ("_seconds", "seconds"),
        ("_seconds_total", "seconds"),
        ("_bytes", "bytes"),
        ("_bytes_total", "bytes"),
        ("_info", "–"),
        ("_hits_total", "hits"),
        ("_verdicts_corrected_total", "hits"),
        ("_marks_total", "marks"),
        ("_facts", "facts"),
        ("_facts_total", "facts"),
        ("_facts_lost_total", "facts"),
        ("_facts_overdue", "facts"),
        ("_spool_records", "facts"),
        ("_spool_set_aside", "facts"),
        ("_spool_quarantined_total", "facts"),
        ("_emails_total", "emails"),
        ("_batches_total", "batches"),
        ("_forward_errors_total", "batches"),
        ("_partitions_made_total", "partitions"),
        ("_geoip_refused", "files"),
        ("_removed_total", "months, marks or emails"),
        ("_erased_total", "emails, hits or marks"),
        ("_erasures_total", "erasures"),
        ("_sessions_ended_total", "requests"),
        ("_upkeep_total", "rounds"),
        ("_webhook_events_total", "events"),
        ("_webhook_events_pending", "events"),
        ("_webhook_events_set_aside", "events"),
        ("_rows_total", "rows"),
        ("_streams_total", "lists"),
        ("_not_modified_total", "lists"),
        ("_reruns_total", "transactions"),
        ("_transaction_errors_total", "transactions"),
        ("_connections", "connections"),
        ("_accept_failures_total", "connections"),
    ];
    let counted = || match name {
        "process_open_fds" | "process_max_fds" => Some("file descriptors"),
        "process_threads" => Some("threads"),
        _ if name.ends_with("_requests_total") || name.ends_with("_tokens_total") => Some("requests"),
        _ if name.contains("_workers") => Some("workers"),
        _ => None,
    };
    let by_ending = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending));
    by_ending
        .map(|(_, unit)| *unit)
        .or_else(counted)
        .unwrap_or_else(|| panic!("{name}: say its unit here"))
}

fn describe_labels(metric: &Metric) -> String {
    let describe = |(name, values): (&String, &BTreeSet<String>)| {
        let is_open = name == "transaction"
            || name == "target"
            || metric.kind == "histogram"
            || metric.labels.contains_key("version");
        if is_open || name.starts_with("telemetry_") || name.starts_with("service_") {
            format!("`{name}`")
        } else {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            format!("`{name}`: {}", values.join(", "))
        }
    };
    let described: Vec<String> = metric.labels.iter().map(describe).collect();
    described.join("; ")
}

/// The page, of what each service shows.
fn page(shown: &[BTreeMap<String, Metric>; 3]) -> String {
    let mut page = BEFORE.to_owned();
    let chapters: [(&str, &[&str]); 5] = [
        ("Pixel", &["pixel"]),
        ("Recorder", &["recorder"]),
        ("Dashboard", &["dashboard"]),
        (
            "Recorder and dashboard: their database",
            &["dashboard", "recorder"],
        ),
        ("Every service", &SERVICES),
    ];
    let mut names: BTreeSet<&String> = shown.iter().flat_map(BTreeMap::keys).collect();
    for (title, services) in chapters {
        write!(
            page,
            "\n## {title}\n\n| metric | type | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n"
        )
        .unwrap();
        for name in names.clone() {
            let of: Vec<(&str, &Metric)> = (SERVICES.iter().zip(shown))
                .filter_map(|(service, metrics)| Some((*service, metrics.get(name)?)))
                .collect();
            if !of
                .iter()
                .map(|(service, _)| *service)
                .eq(services.iter().copied())
            {
                continue;
            }
            names.remove(name);
            let mut metric = of[0].1.clone();
            for (service, other) in of {
                assert_eq!(
                    (&metric.kind, &metric.help),
                    (&other.kind, &other.help),
                    "{name} of {service}"
                );
                for (label, values) in &other.labels {
                    metric
                        .labels
                        .entry(label.clone())
                        .or_default()
                        .extend(values.clone());
                }
            }
            let Metric { kind, help, .. } = &metric;
            let (unit, labels) = (unit(name), describe_labels(&metric));
            writeln!(page, "| `{name}` | {kind} | {unit} | {labels} | {help} |").unwrap();
        }
    }
    assert!(names.is_empty(), "no chapter for {names:?}");
    page + AFTER
}

/// `/metrics` of each service, once it answers.
async fn scrape(home: &Home) -> [String; 3] {
    let ports = home.admin_ports();
    let scraped = ports.map(async |port| {
        let answer = get(SocketAddr::from(([127, 0, 0, 1], port)), "/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text().to_owned()
    });
    let [pixel, dashboard, recorder] = scraped;
    [pixel.await, dashboard.await, recorder.await]
}

/// Does each thing that a histogram times.
async fn use_everything(up: &Up) {
    let mark = Request::post_json("/mark-suppress-next", r#"{"email_id":"metrics"}"#);
    assert_eq!(mark.send(up.address).await.status, 200);
    assert_eq!(get(up.address, &up.pixel_to_try).await.status, 200);
    eventually("the hit is recorded", async || {
        (!up.emails().await.is_empty()).then_some(())
    })
    .await;
    for path in ["/metrics/gmail-proxy-latency", "/metrics/suppress-signals"] {
        let asked = Request::get(path).header("x-tracker-token", &up.dashboard_token);
        assert_eq!(asked.send(up.address).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn the_documented_metrics_are_those_of_the_services_and_there_from_the_start() {
    let home = Home::of(Account::Own);
    let target = r#"[{"name":"example","url":"https://example.invalid/","secrets":["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"]}]"#;
    let up = home.up_with(&[("WEBHOOKS", target)]).await;
    let ready = async || {
        let port = SocketAddr::from(([127, 0, 0, 1], home.admin_ports()[2]));
        (get(port, "/ready").await.status == 200).then_some(())
    };
    eventually("the recorder is ready", ready).await;
    let at_first = scrape(&home).await;

    use_everything(&up).await;
    let delivered = async || {
        let [pixel, ..] = scrape(&home).await;
        pixel
            .contains("\nemail_tracker_pixel_spool_records 0\n")
            .then_some(())
    };
    eventually("the spool is empty", delivered).await;
    let later = scrape(&home).await;
    for ((service, first), later) in SERVICES.iter().zip(&at_first).zip(&later) {
        let added: Vec<String> = series(later).difference(&series(first)).cloned().collect();
        assert!(
            added.is_empty(),
            "the {service} shows only after some use: {added:#?}"
        );
    }

    let shown = later.each_ref().map(|text| parse(text));
    assert_is_documented(&page(&shown), "../../docs/metrics.md", "metrics");
    up.stop().await;
}
