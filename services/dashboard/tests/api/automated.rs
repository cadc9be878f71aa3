//! Opens by machines: shown as such, and left out of what counts where the operator says so.

use serde_json::{Value, json};

use crate::support::*;

const EMAILS: &str = "/dashboard/api/emails";
const OPENS: &str = "/dashboard/api/open-events";
const SEARCH: &str = "/dashboard/api/v1/emails";
const SCANNER: (&str, &str) = (
    "203.0.113.9",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
);
const APPLE: (&str, &str) = ("17.58.0.1", "Mozilla/5.0");

/// `read` by a person and then by a machine, `prefetched` by Apple, `scanned` by a machine alone.
async fn dashboards() -> (Running, Running, test_support::TestDatabase) {
    let database = new_database().await;
    let client = database.superuser().await;
    let mut facts = Facts::default();
    facts
        .hit("read", 0, READER)
        .hit("read", 100_000, SCANNER)
        .hit("prefetched", 200_000, APPLE)
        .hit("scanned", 300_000, SCANNER)
        .hit("scanned", 301_000, SCANNER) // a duplicate
        .store(&client)
        .await;
    let url = database.url_of(database::DASHBOARD_ROLE);
    let with = async |count: &str| {
        let settings = settings(&url, &[("DASHBOARD_TOKEN", TOKEN), ("COUNT_AUTOMATED", count)]);
        Running::with(settings).await
    };
    (with("true").await, with("false").await, database)
}

async fn of_emails(dashboard: &Running, target: &str, names: &[&str]) -> Vec<Vec<Value>> {
    let list = dashboard.json(target).await;
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| names.iter().map(|name| item[*name].clone()).collect())
        .collect()
}

#[tokio::test]
async fn all_opens_count_unless_the_operator_says_otherwise() {
    let (counting, not_counting, _database) = dashboards().await;
    let names = [
        "email_id",
        "unique_open_count",
        "total_open_events",
        "raw_open_events",
        "opened",
        "last_opened_at",
        "human_open_count",
    ];
    let at = |seconds: i64| {
        json!(format!(
            "2026-03-01T12:0{}:{:02}.000Z",
            seconds / 60,
            seconds % 60
        ))
    };
    let row = |id: &str, opens: i64, raw: i64, last: Value, human: i64| {
        vec![
            json!(id),
            json!(opens),
            json!(opens),
            json!(raw),
            json!(opens > 0),
            last,
            json!(human),
        ]
    };
    for target in [EMAILS, SEARCH] {
        assert_eq!(
            of_emails(&counting, target, &names).await,
            [
                row("scanned", 1, 2, at(300), 0),
                row("prefetched", 1, 1, at(200), 0),
                row("read", 2, 2, at(100), 1)
            ]
        );
        assert_eq!(
            of_emails(&not_counting, target, &names).await,
            [
                row("scanned", 0, 2, Value::Null, 0),
                row("prefetched", 1, 1, at(200), 0),
                row("read", 1, 2, at(0), 1)
            ]
        );
    }
}

#[tokio::test]
async fn filters_and_orders_go_by_what_counts() {
    let (counting, not_counting, _database) = dashboards().await;
    for (query, with, without) in [
        (
            "?opened=true",
            &["scanned", "prefetched", "read"][..],
            &["prefetched", "read"][..],
        ),
        ("?opened=false", &[], &["scanned"]),
        (
            "?sort=last_open",
            &["scanned", "prefetched", "read"],
            &["prefetched", "read", "scanned"],
        ),
        (
            "?sort=opens",
            &["read", "prefetched", "scanned"],
            &["prefetched", "read", "scanned"],
        ),
        ("?class=bot", &["scanned", "read"], &["scanned", "read"]),
        ("?human=true", &["read"], &["read"]),
    ] {
        let target = format!("{SEARCH}{query}");
        assert_eq!(counting.column(&target, "email_id").await, with, "{query}");
        assert_eq!(not_counting.column(&target, "email_id").await, without, "{query}");
        // Page by page it is the same list.
        let separator = if query.is_empty() { "?" } else { "&" };
        let mut paged = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = not_counting
                .json(&format!("{target}{separator}limit=1{cursor}"))
                .await;
            paged.extend(
                page["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|item| item["email_id"].clone()),
            );
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(paged, without, "{query}");
    }
}

#[tokio::test]
async fn each_hit_says_who_made_it_and_why_it_is_believed() {
    let (counting, not_counting, database) = dashboards().await;
    let names = ["email_id", "agent_class", "confidence"];
    assert_eq!(
        of_emails(&counting, OPENS, &names).await,
        [
            ["scanned", "bot", "automated"],
            ["prefetched", "apple_privacy", "unclear"],
            ["read", "bot", "automated"],
            ["read", "browser", "human"],
        ]
    );
    assert_eq!(
        of_emails(&not_counting, OPENS, &names).await,
        [
            ["prefetched", "apple_privacy", "unclear"],
            ["read", "browser", "human"]
        ]
    );
    let all = format!("{OPENS}?include=all");
    assert_eq!(
        of_emails(&not_counting, &all, &names).await.len(),
        5,
        "all hits are all hits"
    );

    let reasons = of_emails(&counting, OPENS, &["reason"]).await;
    assert_eq!(
        reasons[0][0],
        "A program that fetches pages by itself fetched it."
    );
    let client = database.superuser().await;
    client
        .batch_execute(
            "update hits set confidence = 'automated' where agent = 'browser';
             update hits set agent = 'of tomorrow' where agent = 'apple_privacy'",
        )
        .await
        .unwrap();
    let reasons = of_emails(&counting, OPENS, &["reason", "agent_class"]).await;
    assert_eq!(
        reasons[3][0],
        "The same address fetched the pixels of many mails within seconds, which a scanner does and no reader."
    );
    assert_eq!(
        reasons[1],
        ["What fetched it has a name that tells nothing.", "unknown"]
    );
}
