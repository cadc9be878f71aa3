//! Webhooks: recorders that are programs of their own tell a receiver that is one too. Any of them may be killed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;
mod telling;

use std::collections::{BTreeMap, BTreeSet};

use common::{at, hit, log_plans, mark, planned_on_indexes};
use database::Config;
use test_support::{CITUS_STAND_IN, Signal, eventually};
use tracking::{Fact, Hit};

use crate::telling::{Receiver, Stage, SystemTime, opens_of};

/// The events that a receiver accepted, each once, in the order in which it had them first.
fn accepted(receiver: &Receiver) -> Vec<(String, String, String)> {
    let mut seen = BTreeSet::new();
    let mut events = Vec::new();
    for request in receiver.log() {
        assert_eq!(request["valid"], true, "{request}");
        if request["accepted"] == true && seen.insert(request["id"].as_str().unwrap().to_owned()) {
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let body = &request["body"];
            events.push((
                text(&body["data"]["email_id"]),
                text(&body["type"]),
                text(&body["data"]["opened_at"]),
            ));
        }
    }
    events
}

/// By email, in order.
fn by_email(events: Vec<(String, String, String)>) -> BTreeMap<String, Vec<(String, String)>> {
    let mut emails: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (email, kind, at) in events {
        emails.entry(email).or_default().push((kind, at));
    }
    emails
}

/// What a target of all events is to be told of `opens` per email.
fn expected(emails: &[String], opens: usize) -> BTreeMap<String, Vec<(String, String)>> {
    let of_email = |email: &String| {
        let mut told = Vec::new();
        for (place, open) in opens_of(email, opens).iter().enumerate() {
            let at = open.at().to_string();
            if place == 0 {
                told.push(("email.first_open".to_owned(), at.clone()));
            }
            told.push(("email.open".to_owned(), at));
        }
        (email.clone(), told)
    };
    emails.iter().map(of_email).collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("email {number}")).collect()
}

/// Every event arrives, in order per email, with a valid signature, whoever is killed meanwhile.
#[tokio::test]
async fn whoever_is_killed_every_event_arrives_in_order() {
    let stage = Stage::new().await;
    let mut receiver = Receiver::start();
    let mut recorders = vec![
        stage.recorder(&receiver.targets()).await,
        stage.recorder(&receiver.targets()).await,
        stage.recorder(&receiver.targets()).await,
    ];
    let emails = names(20);
    let opens = 6;
    for place in 0..opens {
        let facts: Vec<Fact> = emails
            .iter()
            .map(|email| opens_of(email, opens).swap_remove(place))
            .collect();
        let recorder = place % recorders.len();
        recorders[recorder].record(facts).await;
        match place {
            // In the middle of its requests, without a word.
            1 => receiver.kill().await,
            2 => receiver.start_again(),
            // A recorder that is telling at this moment.
            3 => {
                receiver.mode("slow");
                let before = receiver.log().len();
                eventually("requests are under way", async || {
                    (receiver.log().len() > before).then_some(())
                })
                .await;
                recorders[recorder].kill().await;
                receiver.mode("ok");
                recorders[recorder] = stage.recorder(&receiver.targets()).await;
            }
            // It accepts one message and dies before it says so.
            4 => {
                receiver.mode("die-after");
                eventually("the receiver has died", async || {
                    receiver.has_ended().then_some(())
                })
                .await;
                receiver.mode("ok");
                receiver.start_again();
            }
            _ => {}
        }
    }
    let expected = expected(&emails, opens);
    let told = eventually("all is told", async || {
        let told = by_email(accepted(&receiver));
        (told.values().map(Vec::len).sum::<usize>() == expected.values().map(Vec::len).sum::<usize>())
            .then_some(told)
    })
    .await;
    assert_eq!(told, expected);
    stage.nothing_is_left().await;
    for recorder in recorders {
        recorder.stop().await;
    }
}

#[tokio::test]
async fn whatever_it_answers_it_gets_everything_in_the_end() {
    let stage = Stage::new().await;
    let receiver = Receiver::start();
    let recorder = stage.recorder(&receiver.targets()).await;
    let mut emails = Vec::new();
    for mode in [
        "500", "404", "429 1", "redirect", "garbage", "huge", "slow", "hang",
    ] {
        receiver.mode(mode);
        let email = format!("at {mode}");
        recorder.record(opens_of(&email, 2)).await;
        let first_word = mode.split(' ').next().unwrap();
        eventually("it was asked in this mode", async || {
            let asked = receiver.log().iter().any(|request| {
                request["mode"] == first_word && request["body"]["data"]["email_id"] == *email
            });
            asked.then_some(())
        })
        .await;
        emails.push(email);
        receiver.mode("ok");
        let expected = expected(&emails, 2);
        let told = eventually("all is told", async || {
            let told = by_email(accepted(&receiver));
            (told.values().map(Vec::len).sum::<usize>() == 3 * emails.len()).then_some(told)
        })
        .await;
        assert_eq!(told, expected, "{mode}");
    }
    let elsewhere = receiver
        .log()
        .iter()
        .filter(|request| request["path"] != "/opens")
        .count();
    assert_eq!(elsewhere, 0, "a redirect was followed");
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn one_email_that_is_rejected_holds_up_no_other() {
    let stage = Stage::new().await;
    let receiver = Receiver::start();
    receiver.mode("400-for poison");
    let recorder = stage.recorder(&receiver.targets()).await;
    recorder.record(opens_of("poison", 2)).await;
    let others = names(30);
    for email in &others {
        recorder.record(opens_of(email, 2)).await;
    }
    let told = eventually("the others are told", async || {
        let told = by_email(accepted(&receiver));
        (told.values().map(Vec::len).sum::<usize>() == 90).then_some(told)
    })
    .await;
    assert_eq!(told, expected(&others, 2));
    let of_poison: BTreeSet<String> = receiver
        .log()
        .iter()
        .filter(|request| request["body"]["data"]["email_id"] == "poison")
        .map(|request| request["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(of_poison.len(), 1, "its later events wait for its first");

    receiver.mode("ok");
    eventually("it is told too", async || {
        (accepted(&receiver).len() == 93).then_some(())
    })
    .await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn a_target_is_told_of_what_it_wants() {
    let stage = Stage::new().await;
    let receiver = Receiver::start();
    let targets = format!(
        "[{},{},{}]",
        receiver.target("first", r#","events":["first_open"]"#),
        receiver.target("people", r#","automated":false,"events":["first_open","open"]"#),
        receiver.target("chat", r#","format":"discord","events":["open"]"#),
    );
    let recorder = stage.recorder(&targets).await;
    let by_machine = Hit {
        user_agent: Some("python-requests/2.32.0".to_owned()),
        ..hit("e", at("2026-11-01T10:00:00.000Z"), 1)
    };
    let by_person = hit("e", at("2026-11-01T11:00:00.000Z"), 2);
    let doctor = Hit {
        token: tracking::doctor::token("x", at("2026-11-01T10:00:00.000Z")),
        ..hit("doctor-x", at("2026-11-01T10:00:00.000Z"), 3)
    };
    for fact in [by_machine, by_person, doctor] {
        recorder.record(vec![Fact::Hit(fact)]).await;
    }
    eventually("all is told", async || (receiver.log().len() >= 5).then_some(())).await;
    stage.nothing_is_left().await;
    let mut told: Vec<(String, String)> = receiver
        .log()
        .iter()
        .map(|request| {
            let path = request["path"].as_str().unwrap().to_owned();
            let body = &request["body"];
            let what = match body["content"].as_str() {
                Some(content) => content.split(' ').next().unwrap().to_owned(),
                None => format!("{} {}", body["type"], body["data"]["opened_at"]).replace('"', ""),
            };
            (path, what)
        })
        .collect();
    told.sort();
    let expected = [
        ("/chat", "Open"),
        ("/chat", "Open"),
        ("/first", "email.first_open 2026-11-01T10:00:00.000Z"),
        ("/people", "email.first_open 2026-11-01T11:00:00.000Z"),
        ("/people", "email.open 2026-11-01T11:00:00.000Z"),
    ];
    assert_eq!(
        told,
        expected.map(|(path, what)| (path.to_owned(), what.to_owned()))
    );
}

#[tokio::test]
async fn what_is_withdrawn_or_gone_before_it_is_told_is_told_to_nobody() {
    let stage = Stage::new().await;
    let receiver = Receiver::start();
    receiver.mode("500");
    let recorder = stage.recorder(&receiver.targets()).await;
    let (first, second) = (at("2026-11-01T10:00:00.000Z"), at("2026-11-01T11:00:00.000Z"));
    recorder
        .record(vec![
            Fact::Hit(hit("withdrawn", first, 1)),
            Fact::Hit(hit("erased", first, 2)),
        ])
        .await;
    // The sender's own look, it turns out.
    let own_look = mark("withdrawn", first.saturating_add_millis(-1_000), 3);
    recorder.record(vec![Fact::Mark(own_look)]).await;
    let client = stage.database().superuser().await;
    client
        .batch_execute(
            "delete from hits where email_id = 'erased'; delete from tracked_emails where email_id = 'erased'",
        )
        .await
        .unwrap();
    stage.nothing_is_left().await;
    receiver.mode("ok");
    assert!(accepted(&receiver).is_empty());

    // The next one is the first then.
    recorder
        .record(vec![Fact::Hit(hit("withdrawn", second, 4))])
        .await;
    let told = eventually("it is told", async || {
        let told = accepted(&receiver);
        (told.len() == 2).then_some(told)
    })
    .await;
    let of = |kind: &str| ("withdrawn".to_owned(), kind.to_owned(), second.to_string());
    assert_eq!(told, [of("email.first_open"), of("email.open")]);

    // What was told stays: a late mark withdraws it, and the open after that is no first one again.
    let late = mark("withdrawn", second.saturating_add_millis(-1_000), 5);
    recorder.record(vec![Fact::Mark(late)]).await;
    let third = at("2026-11-01T12:00:00.000Z");
    recorder.record(vec![Fact::Hit(hit("withdrawn", third, 6))]).await;
    eventually("it is told", async || {
        (accepted(&receiver).len() == 3).then_some(())
    })
    .await;
    stage.nothing_is_left().await;
    let told = accepted(&receiver);
    assert_eq!(
        told[2],
        ("withdrawn".to_owned(), "email.open".to_owned(), third.to_string())
    );
}

#[tokio::test]
async fn what_fails_for_too_long_is_set_aside_and_sent_again_by_hand() {
    let stage = Stage::new().await;
    let receiver = Receiver::start();
    receiver.mode("503");
    let hour = format!("[{}]", receiver.target("opens", r#","patience_hours":1"#));
    let recorder = stage.recorder(&hour).await;
    let emails = names(12);
    for email in &emails {
        recorder.record(opens_of(email, 1)).await;
    }
    stage.all_were_queued_an_hour_ago().await;
    let database = stage.pool();
    eventually("all is set aside", async || {
        (telling::set_aside(&database).await.len() == 24).then_some(())
    })
    .await;
    let listed = telling::set_aside(&database).await;
    assert!(
        listed
            .iter()
            .all(|event| event.problem == "it answered 503" && event.target == "opens")
    );
    eventually("it is counted", async || {
        let metrics = recorder.metrics().await;
        let counted = |series: &str| metrics.lines().any(|line| line == series);
        let all =
            counted(r#"email_tracker_recorder_webhook_events_total{outcome="set_aside",target="opens"} 24"#)
                && counted(r#"email_tracker_recorder_webhook_events_set_aside{target="opens"} 24"#)
                && counted(r#"email_tracker_recorder_webhook_events_pending{target="opens"} 0"#);
        all.then_some(())
    })
    .await;

    receiver.mode("ok");
    assert_eq!(
        recorder::webhooks::resend(&database, Some("other"), &SystemTime)
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        recorder::webhooks::resend(&database, Some("opens"), &SystemTime)
            .await
            .unwrap(),
        24
    );
    let told = eventually("all is told", async || {
        let told = by_email(accepted(&receiver));
        (told.values().map(Vec::len).sum::<usize>() == 24).then_some(told)
    })
    .await;
    assert_eq!(told, expected(&emails, 1));
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn it_goes_nowhere_inside_and_says_no_secret() {
    let stage = Stage::new().await;
    let receiver = Receiver::start();
    let targets = receiver
        .targets()
        .replace("http://127.0.0.1", "https://localhost");
    let mut recorder = stage.recorder_within(&targets, "10.0.0.0/8").await;
    recorder.record(opens_of("e", 1)).await;
    let forbidden = r#"email_tracker_recorder_webhook_requests_total{outcome="forbidden",target="opens"} "#;
    eventually("it was refused", async || {
        let metrics = recorder.metrics().await;
        metrics
            .lines()
            .any(|line| line.strip_prefix(forbidden).is_some_and(|count| count != "0"))
            .then_some(())
    })
    .await;
    assert!(receiver.log().is_empty());
    recorder.process.line_with("a webhook fails").await;
    let said = recorder.process.stdout() + &recorder.process.stderr();
    for secret in [telling::SECRET, "/opens", "localhost", "recipient"] {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
    assert!(said.contains("WEBHOOKS=<set>"), "{said}");
    recorder.process.signal(Signal::TERM);
    assert!(recorder.process.exit().await.success());
}

#[tokio::test]
async fn where_emails_lie_in_shards_it_is_the_same() {
    let stage = Stage::new().await;
    let client = stage.database().superuser().await;
    client.batch_execute(CITUS_STAND_IN).await.unwrap();
    let owner = Config::new("DATABASE_URL", &stage.database().url()).unwrap();
    database::distribute(&owner, 8).await.unwrap();
    let receiver = Receiver::start();
    let recorder = stage.recorder(&receiver.targets()).await;
    let emails = names(20);
    for place in 0..2 {
        let facts = emails
            .iter()
            .map(|email| opens_of(email, 2).swap_remove(place))
            .collect();
        recorder.record(facts).await;
    }
    let told = eventually("all is told", async || {
        let told = by_email(accepted(&receiver));
        (told.values().map(Vec::len).sum::<usize>() == 60).then_some(told)
    })
    .await;
    assert_eq!(told, expected(&emails, 2));
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn statements_stay_on_the_indexes_whatever_the_statistics_say() {
    let stage = Stage::new().await;
    let client = stage.database().superuser().await;
    log_plans(&client).await;
    let receiver = Receiver::start();
    receiver.mode("503");
    let hour = format!("[{}]", receiver.target("opens", r#","patience_hours":1"#));
    let recorder = stage.recorder(&hour).await;
    recorder.record(opens_of("e", 3)).await;
    stage.all_were_queued_an_hour_ago().await;
    let database = stage.pool();
    eventually("all is set aside", async || {
        (telling::set_aside(&database).await.len() == 4).then_some(())
    })
    .await;
    receiver.mode("ok");
    recorder::webhooks::resend(&database, None, &SystemTime)
        .await
        .unwrap();
    stage.nothing_is_left().await;
    let seen = planned_on_indexes(&stage.log(), &["webhooks: "]);
    for name in [
        "queues of new opens",
        "events of new opens",
        "due queues",
        "lock queues",
        "lease queues",
        "events of a queue",
        "hold a queue",
        "remove events that are settled",
        "release a queue",
        "how the events stand",
        "overdue events",
        "old events",
        "events that are set aside",
        "set events aside",
        "revive events",
        "revive queues",
    ] {
        assert!(seen.contains(&format!("webhooks: {name}")), "{name}: {seen:?}");
    }
}
