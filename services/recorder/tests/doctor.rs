//! What `email-tracker doctor` leaves is removed after an hour, and nothing else is.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{at, facts, fresh_database, hit, mark, recorder, revision, stored_emails, stored_marks};
use tracking::{Hit, Rules, Timestamp, doctor};

fn now() -> Timestamp {
    at("2026-03-01T00:30:00.000Z")
}

fn before(millis: i64) -> Timestamp {
    now().saturating_add_millis(-millis)
}

/// A hit of the doctor's email `name`.
fn doctor_hit(name: &str, opened_at: Timestamp, tie: u8) -> Hit {
    Hit {
        token: doctor::token(name, opened_at),
        ..hit("", opened_at, tie)
    }
}

#[tokio::test]
async fn it_is_removed_after_an_hour_and_nothing_else_is() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    // In the month before, so that more than one partition is gone through.
    let old = before(doctor::KEPT_MS + 1);
    let its_user_only = {
        let mut hit = hit("real", old, 3);
        doctor::USER_ID.clone_into(&mut hit.token.user_id);
        hit
    };
    let hits = [
        doctor_hit("old", old, 1),
        doctor_hit("old", before(10), 2),
        doctor_hit("young", before(doctor::KEPT_MS), 4),
        its_user_only,
        hit("doctor-of-somebody-else", old, 5),
        hit("a", old, 6),
    ];
    let marks = [mark("doctor-old", old, 7), mark("doctor-marked-only", old, 8)];
    recorder.record(facts(hits, marks)).await.unwrap();
    let mut expected = stored_emails(&client, "").await;
    let (revision_before, emails_before) = (revision(&client).await, expected.len());

    assert_eq!(recorder.remove_doctor_emails(now()).await.unwrap(), 1);
    expected.remove("doctor-old").unwrap();
    assert_eq!(stored_emails(&client, "").await, expected);
    assert_eq!(expected.len(), emails_before - 1);
    let left = client
        .query_one("select count(*) from hits where email_id = 'doctor-old'", &[])
        .await
        .unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
    let marks = stored_marks(&client, "").await;
    let marked: Vec<&str> = marks.iter().map(|(email_id, _)| email_id.as_str()).collect();
    assert_eq!(marked, ["doctor-marked-only"]);
    let revision_after = revision(&client).await;
    assert!(revision_after > revision_before, "lists have changed");

    assert_eq!(recorder.remove_doctor_emails(now()).await.unwrap(), 0);
    assert_eq!(revision(&client).await, revision_after, "nothing has changed");
}

#[tokio::test]
async fn one_that_arrives_late_is_recorded_and_removed_again() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    for tie in 1..3 {
        let late = doctor_hit("late", before(doctor::KEPT_MS + 1), tie);
        recorder.record(facts([late], [])).await.unwrap();
        assert_eq!(stored_emails(&client, "").await.len(), 1);
        assert_eq!(recorder.remove_doctor_emails(now()).await.unwrap(), 1);
        assert_eq!(stored_emails(&client, "").await.len(), 0);
    }
}
