//! `/dashboard/api/open-events`.

use serde_json::{Value, json};
use tracking::{Timestamp, Token};

use crate::support::*;

const OPENS: &str = "/dashboard/api/open-events";

#[tokio::test]
async fn a_hit_looks_as_the_contract_says() {
    let database = new_database().await;
    let client = database.superuser().await;
    let mut facts = Facts::default();
    facts.hit("one", 7, READER).store(&client).await;
    client
        .batch_execute(
            "update hits set id = 9007199254740991, geo_country = 'DE', geo_region = 'Berlin', geo_city = 'Berlin',
                             latitude = 52.52, longitude = -13.405, device_type = 'computer'",
        )
        .await
        .unwrap();
    let dashboard = Running::over(&database).await;
    let expected = json!({"ok": true, "items": [{
        "id": 9_007_199_254_740_991_i64, "email_id": "one", "user_id": "user-1", "recipient": "one@example.org",
        "opened_at": "2026-03-01T12:00:00.007Z", "ip_address": "203.0.113.7", "user_agent": READER.1,
        "geo_country": "DE", "geo_region": "Berlin", "geo_city": "Berlin", "latitude": 52.52, "longitude": -13.405,
        "device_type": "computer", "is_duplicate": 0, "is_sender_suppressed": 0, "suppression_reason": null,
        "agent_class": "browser", "confidence": "human", "reason": "A browser fetched it."
    }]});
    assert_eq!(dashboard.json(&format!("{OPENS}?email_id=one")).await, expected);

    client
        .batch_execute(
            "update hits set id = 1, client_address = null, user_agent = null, geo_country = null, geo_region = null,
                             geo_city = null, latitude = null, longitude = null",
        )
        .await
        .unwrap();
    let items = &dashboard.json(OPENS).await["items"];
    for field in [
        "ip_address",
        "user_agent",
        "geo_country",
        "geo_region",
        "geo_city",
        "latitude",
        "longitude",
        "suppression_reason",
    ] {
        assert_eq!(items[0][field], Value::Null, "{field}");
    }
    assert_eq!(keys(&items[0]).len(), 19);
}

#[tokio::test]
async fn the_latest_is_first_and_ties_go_by_event_id() {
    let database = new_database().await;
    let client = database.superuser().await;
    let mut facts = Facts::default();
    let client_of = |last: &'static str| (last, "Firefox");
    facts
        .hit("a", 5, client_of("203.0.113.1"))
        .hit("b", 5, client_of("203.0.113.2"))
        .hit("a", 9, client_of("203.0.113.3"))
        .hit("a", 5, client_of("2001:db8::4"))
        .hit("b", 1, client_of("203.0.113.5"));
    facts.store(&client).await;
    // The id is never an order: here it is the opposite.
    client
        .batch_execute("update hits set id = 1000 - id, opened_at = opened_at")
        .await
        .unwrap();
    let dashboard = Running::over(&database).await;
    let order = [
        "203.0.113.3",
        "2001:db8::4",
        "203.0.113.2",
        "203.0.113.1",
        "203.0.113.5",
    ];
    assert_eq!(dashboard.column(OPENS, "ip_address").await, order);
    assert_eq!(
        dashboard
            .column(&format!("{OPENS}?email_id=a"), "ip_address")
            .await,
        ["203.0.113.3", "2001:db8::4", "203.0.113.1"]
    );
    let mut paged = Vec::new();
    let mut target = format!("{OPENS}?limit=1");
    loop {
        let page = dashboard.json(&target).await;
        paged.extend(column(&page, "ip_address"));
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        facts.hit("c", 1_000, READER).store(&client).await; // newer than all pages
        target = format!("{OPENS}?limit=1&cursor={cursor}");
    }
    assert_eq!(paged, order);
}

#[tokio::test]
async fn what_does_not_count_is_shown_on_request_with_its_reason() {
    let database = new_database().await;
    let mut facts = Facts::default();
    facts
        .hit("one", 0, READER)
        .hit("one", 100, READER) // a duplicate
        .mark("one", 50_000)
        .hit("one", 50_700, PROXY) // by the mark
        .mark("one", 60_000)
        .hit("one", 60_100, PROXY) // by the mark, and a duplicate
        .hit("one", 200_000, READER)
        .on_page_of("mail.google.com")
        .hit("one", 300_000, PROXY);
    facts.store(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    assert_eq!(
        dashboard.column(OPENS, "opened_at").await,
        ["2026-03-01T12:05:00.000Z", "2026-03-01T12:00:00.000Z"]
    );
    let all = dashboard.json(&format!("{OPENS}?email_id=one&include=all")).await;
    let verdicts: Vec<_> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            json!([
                item["is_duplicate"],
                item["is_sender_suppressed"],
                item["suppression_reason"]
            ])
        })
        .collect();
    let expected = [
        json!([0, 0, null]),
        json!([0, 1, "compose_window"]),
        json!([1, 1, "duplicate"]),
        json!([0, 1, "mark_suppress_next"]),
        json!([1, 0, "duplicate"]),
        json!([0, 0, null]),
    ];
    assert_eq!(verdicts, expected);
}

#[tokio::test]
async fn an_unknown_email_has_no_opens() {
    let dashboard = Running::without_facts().await;
    let nothing = json!({"ok": true, "items": []});
    assert_eq!(dashboard.json(&format!("{OPENS}?email_id=nobody")).await, nothing);
    let tag = dashboard.get(OPENS).await.header("etag").unwrap().to_owned();
    let again = authorized("GET", OPENS).header("if-none-match", &tag);
    assert_eq!(again.send(dashboard.address).await.status, 304);
}

#[tokio::test]
async fn what_doctor_leaves_is_shown_if_asked_for() {
    let database = new_database().await;
    let mut facts = Facts::default();
    let doctor = tracking::doctor::token("one", Timestamp::from_millis(NOON));
    let with_id = |email_id: &str, user_id: &str| Token {
        email_id: email_id.into(),
        user_id: user_id.into(),
        ..doctor.clone()
    };
    facts
        .hit_of(doctor.clone(), 0, READER)
        .hit_of(with_id("doctor-of-medicine", "user-1"), 1, READER)
        .hit_of(with_id("two", "doctor"), 2, READER);
    facts.store(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    for list in [OPENS, "/dashboard/api/emails"] {
        let ids = async |query: &str| dashboard.column(&format!("{list}{query}"), "email_id").await;
        assert_eq!(ids("").await, ["two", "doctor-of-medicine"], "{list}");
        assert_eq!(ids("?limit=2").await, ["two", "doctor-of-medicine"], "{list}");
        assert_eq!(
            ids("?include=doctor").await,
            ["two", "doctor-of-medicine", "doctor-one"],
            "{list}"
        );
    }
    for (query, expected) in [
        ("email_id=doctor-one", vec!["doctor-one"]),
        ("include=all", vec!["two", "doctor-of-medicine"]),
    ] {
        let shown = dashboard.column(&format!("{OPENS}?{query}"), "email_id").await;
        assert_eq!(shown, expected, "{query}");
    }
}
