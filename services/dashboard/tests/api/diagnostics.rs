//! The three diagnostics, against answers worked out by hand and by a plain simulation.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tracking::{Fact, Rules, Timestamp, agent, model, verdicts::MARK_TTL_MS};

use crate::support::*;

const LATENCY: &str = "/metrics/gmail-proxy-latency";
const SIGNALS: &str = "/metrics/suppress-signals";
const DEBUG: &str = "/metrics/suppression-debug";

#[tokio::test]
async fn without_facts_all_is_empty() {
    let dashboard = Running::without_facts().await;
    assert_eq!(
        dashboard.json(LATENCY).await,
        json!({"count": 0, "min": null, "max": null, "avg": null, "p50": null, "p90": null, "p95": null, "p99": null})
    );
    assert_eq!(
        dashboard.json(SIGNALS).await,
        json!({"count": 0, "active_email_ids": 0, "ttl_ms": 10_000, "recent": []})
    );
    assert_eq!(
        dashboard.json(DEBUG).await,
        json!({"active_email_ids": 0, "ttl_ms": 10_000, "recent_events": 0, "by_email": {}})
    );
    assert_eq!(
        dashboard.get(LATENCY).await.header("cache-control"),
        Some("no-store")
    );
}

#[tokio::test]
async fn latency_is_from_the_mark_to_googles_hit_that_consumed_it() {
    let database = new_database().await;
    let mut facts = Facts::default();
    for (n, delta) in [250, 900, 300, 1_250].into_iter().enumerate() {
        let at = i64::try_from(n).unwrap() * 60_000;
        facts.mark("a", at).hit("a", at + delta, PROXY);
    }
    facts
        .mark("b", 0)
        .hit("b", 5_000, READER) // no proxy
        .mark("c", 0)
        .hit("c", 20_000, PROXY) // too late
        .mark("d", 0)
        .hit("d", 100, ("203.0.113.9", PROXY.1)) // says it is Google's, but is not
        .hit("e", 0, PROXY); // no mark
    facts.store(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    assert_eq!(
        dashboard.json(LATENCY).await,
        json!({"count": 4, "min": 250, "max": 1250, "avg": 675.0, "p50": 300, "p90": 1250, "p95": 1250, "p99": 1250})
    );
}

#[tokio::test]
async fn latency_looks_at_the_newest_thousand() {
    let database = new_database().await;
    let client = database.superuser().await;
    Facts::default().hit("a", 0, READER).store(&client).await;
    // The delta of the n-th is n ms: the newest thousand are 101 to 1100.
    client
        .batch_execute(
            "insert into hits (email_id, opened_at, event_id, dedup_key, google_proxy, is_duplicate, consumed_mark_at,
                               consumed_mark_id, compose_window, device_type)
             select 'a', at, gen_random_uuid(), 0, true, true, at - n * interval '1 ms', gen_random_uuid(), false, 'other'
             from (select n, timestamptz '2026-03-02T00:00Z' + n * interval '1 s' as at from generate_series(1, 1100) n) t",
        )
        .await
        .unwrap();
    let dashboard = Running::over(&database).await;
    assert_eq!(
        dashboard.json(LATENCY).await,
        json!({"count": 1000, "min": 101, "max": 1100, "avg": 600.5, "p50": 600, "p90": 1000, "p95": 1050, "p99": 1090})
    );
}

#[tokio::test]
async fn each_mark_is_consumed_replaced_expired_or_pending() {
    let database = new_database().await;
    let mut facts = Facts::default();
    facts
        .mark("a", 0)
        .hit("a", 700, PROXY) // consumes it
        .hit("a", 700, PROXY) // nothing left
        .mark("a", 20_000) // replaced, so it never expires
        .mark("a", 25_000) // expires at 35,000
        .mark("b", 40_000)
        .hit("b", 50_000, READER) // in the last millisecond of its time
        .mark("c", 41_000) // expires at 51,000: the hit comes 1 ms too late
        .hit("c", 51_001, READER)
        .mark("d", 55_000); // pending
    facts.store(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    dashboard.clock.set(Timestamp::from_millis(NOON + 60_000));
    let mark = |email_id: &str, at: i64| {
        json!({"event": "mark_suppress_next", "email_id": email_id, "at_ms": NOON + at, "ip": "198.51.100.4",
               "user_agent": "Chrome"})
    };
    let expired = |email_id: &str, at: i64| json!({"event": "suppression_expired", "email_id": email_id, "at_ms": NOON + at, "ip": null, "user_agent": null});
    let consumed = |email_id: &str, at: i64, delta: i64, who: (&str, &str)| {
        json!({"event": "suppression_consumed", "email_id": email_id, "at_ms": NOON + at, "ip": who.0,
               "user_agent": who.1, "delta_ms": delta})
    };
    let proxy = |pending: bool| {
        json!({"event": "google_proxy_hit", "email_id": "a", "at_ms": NOON + 700, "ip": PROXY.0, "user_agent": PROXY.1,
               "pending_suppression": pending})
    };
    let recent = json!([
        mark("a", 0),
        consumed("a", 700, 700, PROXY),
        proxy(true),
        proxy(false),
        mark("a", 20_000),
        mark("a", 25_000),
        expired("a", 35_000),
        mark("b", 40_000),
        mark("c", 41_000),
        consumed("b", 50_000, 10_000, READER),
        expired("c", 51_000),
        mark("d", 55_000),
    ]);
    assert_eq!(
        dashboard.json(SIGNALS).await,
        json!({"count": 12, "active_email_ids": 1, "ttl_ms": 10_000, "recent": recent})
    );
    let at = |at: i64| NOON + at;
    assert_eq!(
        dashboard.json(DEBUG).await,
        json!({"active_email_ids": 1, "ttl_ms": 10_000, "recent_events": 12, "by_email": {
            "a": {"marks": [at(0), at(20_000), at(25_000)], "google_proxy_hits": [at(700), at(700)],
                  "consumed": [at(700)], "expired": [at(35_000)]},
            "b": {"marks": [at(40_000)], "google_proxy_hits": [], "consumed": [at(50_000)], "expired": []},
            "c": {"marks": [at(41_000)], "google_proxy_hits": [], "consumed": [], "expired": [at(51_000)]},
            "d": {"marks": [at(55_000)], "google_proxy_hits": [], "consumed": [], "expired": []},
        }})
    );
    for (now, active, count) in [(65_000, 1, 12), (65_001, 0, 13)] {
        dashboard.clock.set(Timestamp::from_millis(NOON + now));
        let signals = dashboard.json(SIGNALS).await;
        assert_eq!(
            (&signals["active_email_ids"], &signals["count"]),
            (&json!(active), &json!(count)),
            "{now}"
        );
    }
}

#[tokio::test]
async fn signals_are_those_of_a_plain_simulation() {
    let database = new_database().await;
    let client = database.superuser().await;
    let dashboard = Running::over(&database).await;
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut facts = Facts::default();
        for _ in 0..random.random_range(1..40) {
            let email_id = ["a", "b", "c"][random.random_range(0..3)];
            // Times of few values, so that many facts meet in a millisecond and at the time to live's end.
            let at = random.random_range(0..30) * 2_500 + random.random_range(0..2);
            match random.random_range(0..4) {
                0 | 1 => facts.mark(email_id, at),
                2 => facts.hit(email_id, at, PROXY),
                _ => facts.hit(email_id, at, READER),
            };
        }
        client
            .batch_execute("truncate hits, marks, tracked_emails")
            .await
            .unwrap();
        facts.store(&client).await;
        let now = Timestamp::from_millis(NOON + random.random_range(0..80_000));
        dashboard.clock.set(now);
        let found = dashboard.json(SIGNALS).await;
        let (active, recent) = simulate(&facts.facts, now);
        assert_eq!(found["active_email_ids"], json!(active), "seed {seed}");
        assert_eq!(found["recent"], json!(recent), "seed {seed}");
    }
}

/// What happened to each mark, fact by fact, and how many emails have a pending one.
fn simulate(facts: &[Fact], now: Timestamp) -> (usize, Vec<Value>) {
    let verdicts = model::emails(&Rules::default(), facts);
    let mut by_email: BTreeMap<&str, Vec<&Fact>> = BTreeMap::new();
    for fact in facts {
        by_email.entry(fact.email_id()).or_default().push(fact);
    }
    let mut signals = Vec::new();
    let mut active = 0;
    for (email_id, mut timeline) in by_email {
        timeline.sort_by_key(|fact| (fact.at(), matches!(fact, Fact::Hit(_)), fact.id()));
        let mut is_active = false;
        for (position, fact) in timeline.iter().enumerate() {
            let at = fact.at();
            match fact {
                Fact::Mark(mark) => {
                    let signal = json!({"event": "mark_suppress_next", "email_id": email_id, "at_ms": at.as_millis(),
                                        "ip": mark.client_address, "user_agent": mark.user_agent});
                    signals.push(((at, 0, fact.id(), 0), signal));
                    let end = at.saturating_add_millis(MARK_TTL_MS);
                    let is_answered = timeline.get(position + 1).is_some_and(|next| next.at() <= end);
                    if !is_answered && now > end {
                        let signal = json!({"event": "suppression_expired", "email_id": email_id,
                                            "at_ms": end.as_millis(), "ip": null, "user_agent": null});
                        signals.push(((end, 2, fact.id(), 0), signal));
                    }
                    is_active |= !is_answered && now <= end;
                }
                Fact::Hit(hit) => {
                    let consumed = verdicts[email_id].verdicts[&hit.event_id].consumed_mark;
                    let signal = |event: &str| {
                        json!({"event": event, "email_id": email_id, "at_ms": at.as_millis(), "ip": hit.client_address,
                               "user_agent": hit.user_agent})
                    };
                    if let Some(mark) = consumed {
                        let mut signal = signal("suppression_consumed");
                        signal["delta_ms"] = json!(at.millis_since(mark.marked_at));
                        signals.push(((at, 1, fact.id(), 0), signal));
                    }
                    if agent::is_google_proxy_hit(hit.user_agent.as_deref(), hit.client_address) {
                        let mut signal = signal("google_proxy_hit");
                        signal["pending_suppression"] = json!(consumed.is_some());
                        signals.push(((at, 1, fact.id(), 1), signal));
                    }
                }
            }
        }
        active += usize::from(is_active);
    }
    signals.sort_by_key(|(order, _)| *order);
    (active, signals.into_iter().map(|(_, signal)| signal).collect())
}

#[tokio::test]
async fn signals_are_the_newest_five_thousand() {
    let database = new_database().await;
    let client = database.superuser().await;
    client
        .batch_execute(
            "insert into marks (email_id, marked_at, mark_id)
             select 'email-' || n, timestamptz '2026-03-01T12:00Z' + n * interval '1 ms', gen_random_uuid()
             from generate_series(0, 5999) n",
        )
        .await
        .unwrap();
    let dashboard = Running::over(&database).await;
    // While the marks are pending, only they themselves are there.
    dashboard.clock.set(Timestamp::from_millis(NOON + 9_000));
    let pending = dashboard.json(SIGNALS).await;
    assert_eq!(
        (&pending["count"], &pending["active_email_ids"]),
        (&json!(5_000), &json!(6_000))
    );
    assert_eq!(pending["recent"][0]["at_ms"], json!(NOON + 1_000));
    // Once all have expired, the end of a mark that is not among the newest marks is among the newest signals.
    dashboard.clock.set(Timestamp::from_millis(NOON + 60_000));
    let over = dashboard.json(SIGNALS).await;
    assert_eq!(
        (&over["count"], &over["active_email_ids"]),
        (&json!(5_000), &json!(0))
    );
    let recent = over["recent"].as_array().unwrap();
    assert!(
        recent
            .iter()
            .all(|signal| signal["event"] == "suppression_expired")
    );
    assert_eq!(
        (&recent[0]["at_ms"], &recent[4_999]["at_ms"]),
        (&json!(NOON + 11_000), &json!(NOON + 15_999))
    );
    assert_eq!(dashboard.json(DEBUG).await["recent_events"], json!(5_000));
}
