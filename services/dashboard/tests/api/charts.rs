//! The numbers of the charts: right whether slots are counted, stale or both, in the viewer's time zone.

use serde_json::{Value, json};
use test_support::{TestDatabase, http::Request};
use tokio_postgres::Client;
use tracking::Token;

use crate::support::*;

const CHARTS: &str = "/dashboard/api/v1/charts";
const BOT: (&str, &str) = (
    "203.0.113.9",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
);
const APPLE: (&str, &str) = ("17.58.0.1", "Mozilla/5.0");
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// What a recorder does from time to time, to all slots of which `which` is true.
pub(crate) async fn count_slots(client: &Client, which: &str) {
    client
        .batch_execute(&format!(
            "delete from slot_opens; delete from slot_kinds; delete from day_kinds;
             delete from stale_slots where {which};
             create temp table counted as
               select date_bin('15 minutes', opened_at, 'epoch') as slot_at, agent, device_type, geo_country,
                      (confidence = 'human')::int as human, (confidence = 'likely')::int as likely,
                      (confidence = 'unclear')::int as unclear, (confidence = 'automated')::int as automated
               from hits where is_open;
             insert into slot_opens select slot_at, sum(human), sum(likely), sum(unclear), sum(automated)
               from counted group by 1;
             insert into slot_kinds
               select slot_at, dimension, value, sum(human), sum(likely), sum(unclear), sum(automated)
               from counted cross join lateral
                 (values ('agent', agent), ('device', device_type), ('country', coalesce(geo_country, ''))) as k (dimension, value)
               group by 1, 2, 3;
             insert into day_kinds
               select date_bin('24 hours', slot_at, 'epoch'), dimension, value, sum(human), sum(likely), sum(unclear),
                      sum(automated)
               from slot_kinds group by 1, 2, 3;
             drop table counted;
             -- What is stale may say anything.
             update slot_opens set human = 1000 where slot_at in (select slot_at from stale_slots);
             update slot_kinds set human = 1000 where slot_at in (select slot_at from stale_slots);
             update day_kinds set human = 1000
               where day_at in (select date_bin('24 hours', slot_at, 'epoch') from stale_slots)"
        ))
        .await
        .unwrap();
}

/// Mails sent at 11:00 UTC on the first of March, whose hits begin at noon; and one sent at no time.
async fn facts(client: &Client) {
    let strange = Token {
        user_id: "user-1".into(),
        email_id: "strange".into(),
        recipient: "strange@example.org".into(),
        sent_at: "some day".into(),
        sender_email: None,
    };
    let mut facts = Facts::default();
    facts
        .hit("one", 0, READER)
        .hit("one", 1_000, READER) // a duplicate
        .hit("one", 14 * MINUTE, READER)
        .hit("one", 15 * MINUTE, READER)
        .hit("two", 16 * MINUTE, BOT)
        .hit("two", 20 * MINUTE, READER)
        .hit("three", 30 * MINUTE, APPLE)
        .hit("four", 10 * DAY, BOT)
        .hit_of(strange, 10 * DAY + MINUTE, READER)
        // 07:30, half past three in New York, where clocks went forward at two on that day.
        .hit("one", 7 * DAY - 4 * 60 * MINUTE - 30 * MINUTE, READER)
        .store(client)
        .await;
    client
        .batch_execute("update hits set geo_country = 'DE', device_type = 'phone' where email_id = 'one'")
        .await
        .unwrap();
}

async fn stored() -> (TestDatabase, Client, Running) {
    let database = new_database().await;
    let client = database.superuser().await;
    facts(&client).await;
    let dashboard = Running::over(&database).await;
    (database, client, dashboard)
}

fn opens(human: i64, unclear: i64, automated: i64) -> Value {
    json!({"human": human, "likely": 0, "unclear": unclear, "automated": automated})
}

fn bar(of: Value, human: i64, unclear: i64, automated: i64) -> Value {
    let mut bar = opens(human, unclear, automated);
    bar["of"] = of;
    bar
}

#[tokio::test]
async fn all_that_is_stored_is_counted_once_however_much_of_it_is_stale() {
    let (_database, client, dashboard) = stored().await;
    let all_stale = dashboard.json(CHARTS).await;
    assert_eq!(all_stale["ok"], json!(true));
    assert_eq!(all_stale["opens"], opens(6, 1, 2));
    assert_eq!(
        all_stale["over_time"],
        json!([
            bar(json!("2026-03-01T00:00:00.000Z"), 4, 1, 1),
            bar(json!("2026-03-08T00:00:00.000Z"), 1, 0, 0),
            bar(json!("2026-03-11T00:00:00.000Z"), 1, 0, 1),
        ])
    );
    assert_eq!(all_stale["hours"][12], opens(5, 1, 2));
    assert_eq!(all_stale["hours"][7], opens(1, 0, 0));
    assert_eq!(all_stale["weekdays"][6], opens(5, 1, 1), "Sundays");
    assert_eq!(all_stale["weekdays"][2], opens(1, 0, 1), "a Wednesday");
    assert_eq!(
        all_stale["classes"],
        json!([
            bar(json!("browser"), 6, 0, 0),
            bar(json!("bot"), 0, 0, 2),
            bar(json!("apple_privacy"), 0, 1, 0)
        ])
    );
    assert_eq!(
        all_stale["devices"],
        json!([bar(json!("other"), 2, 1, 2), bar(json!("phone"), 4, 0, 0)])
    );
    assert_eq!(
        all_stale["countries"],
        json!([bar(Value::Null, 2, 1, 2), bar(json!("DE"), 4, 0, 0)])
    );
    let some_time = "?zone=America/New_York&by=hour&since=2026-03-01T12:10:00Z&until=2026-03-11T12:14:00Z";
    let part = dashboard.json(&format!("{CHARTS}{some_time}")).await;
    for which in [
        "true",
        "slot_at < '2026-03-02'",
        "slot_at >= '2026-03-02'",
        "slot_at <> '2026-03-01T12:15Z'",
        "false",
    ] {
        facts_again(&client).await;
        count_slots(&client, which).await;
        assert_eq!(dashboard.json(CHARTS).await, all_stale, "counted: {which}");
        assert_eq!(
            dashboard.json(&format!("{CHARTS}{some_time}")).await,
            part,
            "counted: {which}"
        );
    }
}

/// All slots are stale again.
async fn facts_again(client: &Client) {
    client
        .batch_execute(
            "delete from stale_slots;
             insert into stale_slots select distinct date_bin('15 minutes', opened_at, 'epoch') from hits",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn hours_days_and_spans_are_the_viewers() {
    let (_database, client, dashboard) = stored().await;
    count_slots(&client, "slot_at < '2026-03-05'").await;
    let in_zone = async |query: &str| dashboard.json(&format!("{CHARTS}?{query}")).await;

    let new_york = in_zone("zone=America/New_York").await;
    assert_eq!(
        new_york["over_time"],
        json!([
            bar(json!("2026-03-01T05:00:00.000Z"), 4, 1, 1),
            bar(json!("2026-03-08T05:00:00.000Z"), 1, 0, 0), // this day has 23 hours there
            bar(json!("2026-03-11T04:00:00.000Z"), 1, 0, 1),
        ])
    );
    assert_eq!(new_york["hours"][7], opens(4, 1, 1), "noon in UTC, in winter");
    assert_eq!(new_york["hours"][8], opens(1, 0, 1), "noon in UTC, in summer");
    assert_eq!(
        new_york["hours"][3],
        opens(1, 0, 0),
        "after the hour that was left out"
    );

    let kathmandu = in_zone("zone=Asia/Kathmandu&by=hour&until=2026-03-02T00:00:00Z").await;
    assert_eq!(
        kathmandu["over_time"],
        json!([
            bar(json!("2026-03-01T11:15:00.000Z"), 2, 0, 0),
            bar(json!("2026-03-01T12:15:00.000Z"), 2, 1, 1)
        ]),
        "a quarter to six there"
    );
    assert_eq!(kathmandu["hours"][17], opens(2, 0, 0));

    let auckland = in_zone("zone=Pacific/Auckland&by=week").await;
    assert_eq!(
        auckland["over_time"][0],
        bar(json!("2026-03-01T11:00:00.000Z"), 5, 1, 1),
        "Monday there"
    );
    let months = in_zone("by=month").await;
    assert_eq!(
        months["over_time"],
        json!([bar(json!("2026-03-01T00:00:00.000Z"), 6, 1, 2)])
    );

    let day = in_zone("since=2026-03-08T00:00:00Z&until=2026-03-09T00:00:00Z").await;
    assert_eq!(day["opens"], opens(1, 0, 0));
    assert_eq!(day["classes"], json!([bar(json!("browser"), 1, 0, 0)]));
    assert_eq!(
        day["emails"]["tracked"],
        json!(0),
        "no mail was first seen that day"
    );
    let none = in_zone("since=2026-04-01T00:00:00Z").await;
    assert_eq!(none["opens"], opens(0, 0, 0));
    assert_eq!(none["over_time"], json!([]));
}

fn within(answer: &Value, seconds: Option<u32>) -> (i64, i64) {
    let bars = answer["first_opens"].as_array().unwrap();
    let bar = bars
        .iter()
        .find(|bar| bar["within_seconds"] == json!(seconds))
        .unwrap();
    (
        bar["emails"].as_i64().unwrap(),
        bar["by_people"].as_i64().unwrap(),
    )
}

#[tokio::test]
async fn emails_are_told_by_how_long_they_waited() {
    let (database, _client, counting) = stored().await;
    let answer = counting.json(CHARTS).await;
    assert_eq!(
        answer["emails"],
        json!({"tracked": 5, "opened": 5, "opened_by_people": 3})
    );
    assert_eq!(answer["first_opens"].as_array().unwrap().len(), 10);
    assert_eq!(
        within(&answer, Some(10_800)),
        (3, 2),
        "at noon, an hour after sending"
    );
    assert_eq!(within(&answer, None), (1, 0), "ten days later");
    assert_eq!(within(&answer, Some(60)), (0, 0));

    let url = database.url_of(database::DASHBOARD_ROLE);
    let not_counting = Running::with(settings(
        &url,
        &[("DASHBOARD_TOKEN", TOKEN), ("COUNT_AUTOMATED", "false")],
    ))
    .await;
    let answer = not_counting.json(CHARTS).await;
    assert_eq!(answer["opens"], opens(6, 1, 0));
    assert_eq!(
        answer["classes"],
        json!([
            bar(json!("browser"), 6, 0, 0),
            bar(json!("apple_privacy"), 0, 1, 0)
        ])
    );
    assert_eq!(
        answer["emails"],
        json!({"tracked": 5, "opened": 4, "opened_by_people": 3})
    );
    assert_eq!(within(&answer, Some(10_800)), (3, 2));
    assert_eq!(within(&answer, None), (0, 0));
}

#[tokio::test]
async fn who_holds_the_charts_is_told_so() {
    let (_database, client, dashboard) = stored().await;
    let first = dashboard.get(CHARTS).await;
    assert_eq!(first.header("cache-control"), Some("private, no-cache"));
    assert_eq!(first.header("content-type"), Some("application/json"));
    let etag = first.header("etag").unwrap().to_owned();
    let again = async |target: &str| {
        let request = authorized("GET", target).header("if-none-match", &etag);
        request.send(dashboard.address).await.status
    };
    assert_eq!(again(CHARTS).await, 304);
    count_slots(&client, "true").await;
    assert_eq!(again(CHARTS).await, 304, "counting changes nothing");
    assert_eq!(again(&format!("{CHARTS}?by=week")).await, 200, "another question");
    raise_revision(&client).await;
    assert_eq!(again(CHARTS).await, 200);
    let not_modified = "email_tracker_dashboard_not_modified_total{route=\"charts\"}";
    assert!(dashboard.metric(not_modified).await >= 2.0);
}

#[tokio::test]
async fn what_cannot_be_asked_is_named() {
    let dashboard = Running::without_facts().await;
    for (query, names) in [
        ("zone=Nowhere/Land", "zone is no time zone"),
        ("zone=a%27b", "zone is no time zone"),
        ("zone=", "zone is empty"),
        ("by=minute", "by must be hour or day or week or month"),
        ("since=yesterday", "since must be"),
        ("until=2026", "until must be"),
        ("zone=UTC&zone=UTC", "zone is given more than once"),
    ] {
        let answer = dashboard.get(&format!("{CHARTS}?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with(names), "{query}: {error}");
    }
    let refused = Request::get(CHARTS).send(dashboard.address).await;
    assert_eq!(refused.status, 401);
    for zone in [
        "UTC",
        "Etc/GMT%2B5",
        "America/Argentina/ComodRivadavia",
        "EST5EDT",
    ] {
        let answer = dashboard.get(&format!("{CHARTS}?zone={zone}")).await;
        assert_eq!(answer.status, 200, "{zone}: {}", answer.text());
    }
}
