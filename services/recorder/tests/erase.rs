//! Erasing: what is stored goes, and nothing brings it back, whoever records meanwhile and whatever a spool still holds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test may panic"
)]

mod common;

use std::time::Duration;

use common::{
    HeldCommits, at, facts, fresh_database, hit, log_plans, mark, migrate, planned_on_indexes, recorder,
    revision, stored_emails, stored_marks, waiting,
};
use hmac::{Hmac, KeyInit, Mac};
use recorder::{Erased, Erasure, Recorder, Subject};
use recorder_api::Outcome::{self, AlreadyKnown, Recorded};
use sha2::Sha256;
use test_support::{PrivatePostgres, TestDatabase, eventually};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tracking::{Fact, Rules, Timestamp, model, recipients::Address};

const PATIENCE: Duration = Duration::from_mins(5);

fn later(millis: i64) -> Timestamp {
    at("2026-03-01T00:00:00Z").saturating_add_millis(millis)
}

fn hit_at(email_id: &str, millis: i64) -> Fact {
    Fact::Hit(hit(email_id, later(millis), 1))
}

/// A hit of a mail to these recipients.
fn hit_to(email_id: &str, recipients: &str) -> Fact {
    let mut hit = hit(email_id, later(0), 1);
    recipients.clone_into(&mut hit.token.recipient);
    Fact::Hit(hit)
}

/// Hits, a duplicate and a mark of an email.
fn story(email_id: &str) -> Vec<Fact> {
    let hits = [0, 1_000, 100_000].map(|millis| hit(email_id, later(millis), 1));
    facts(hits, [mark(email_id, later(99_000), 1)])
}

async fn record(recorder: &Recorder, facts: &[Fact]) -> Vec<Outcome> {
    recorder.record(facts.to_vec()).await.unwrap()
}

async fn erase(recorder: &Recorder, subject: Subject) -> Erasure {
    recorder.erase(&subject, later(0), PATIENCE).await.unwrap()
}

fn email(email_id: &str) -> Subject {
    Subject::Email(email_id.to_owned())
}

fn recipient(address: &str) -> Subject {
    Subject::Recipient(Address::new(address).unwrap())
}

/// How many rows of any table name an email like this.
async fn rows(client: &Client, prefix: &str) -> i64 {
    let statement = "select (select count(*) from tracked_emails where starts_with(email_id, $1))
                          + (select count(*) from hits where starts_with(email_id, $1))
                          + (select count(*) from marks where starts_with(email_id, $1))";
    client.query_one(statement, &[&prefix]).await.unwrap().get(0)
}

fn count(emails: u64, hits: u64, marks: u64) -> Erased {
    Erased { emails, hits, marks }
}

#[tokio::test]
async fn an_erased_email_is_gone_and_never_comes_back() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    let recorder = recorder(&database, "r", &rules);
    let (gone, stays) = (story("gone"), story("stays"));
    record(&recorder, &gone).await;
    record(&recorder, &stays).await;
    let before = revision(&client).await;

    let done = erase(&recorder, email("gone")).await;
    assert!(done.is_complete);
    assert_eq!(done.erased, count(1, 3, 1));
    assert_eq!(rows(&client, "gone").await, 0);
    assert!(revision(&client).await > before, "lists have to notice");

    // Whatever a spool still holds of it, old or new, hits or a mark, alone or among others; by any recorder.
    let another = common::recorder(&database, "another", &rules);
    for recorder in [&recorder, &another] {
        assert_eq!(record(recorder, &gone).await, [Outcome::Erased; 4]);
        let fresh = [
            hit_at("gone", 900_000),
            Fact::Mark(mark("gone", later(800_000), 2)),
        ];
        assert_eq!(record(recorder, &fresh).await, [Outcome::Erased; 2]);
        let mixed = [&gone[..1], &stays[..1], &[hit_at("gone", 950_000)]].concat();
        assert_eq!(
            record(recorder, &mixed).await,
            [Outcome::Erased, AlreadyKnown, Outcome::Erased]
        );
    }
    let mixed = [hit_at("gone", 1), hit_at("new", 2), hit_at("stays", 900_000)];
    assert_eq!(
        record(&recorder, &mixed).await,
        [Outcome::Erased, Recorded, Recorded]
    );
    assert_eq!(rows(&client, "gone").await, 0);
    let all = [stays, vec![hit_at("new", 2), hit_at("stays", 900_000)]].concat();
    assert_eq!(stored_emails(&client, "").await, model::emails(&rules, &all));

    let again = erase(&recorder, email("gone")).await;
    assert_eq!(again.erased, count(0, 0, 0));
}

#[tokio::test]
async fn what_stays_is_a_keyed_hash_and_the_count() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    record(&recorder, &story("some email")).await;
    let done = erase(&recorder, email("some email")).await;

    let row = client
        .query_one("select inner_pad, outer_pad from erasure_keys", &[])
        .await
        .unwrap();
    let (inner, outer): (Vec<u8>, Vec<u8>) = (row.get(0), row.get(1));
    let key: Vec<u8> = inner.iter().map(|byte| byte ^ 0x36).collect();
    assert_eq!(key, outer.iter().map(|byte| byte ^ 0x5c).collect::<Vec<u8>>());
    assert!(
        key[..32].iter().any(|byte| *byte != 0) && key[32..] == [0; 32],
        "256 bits, and no more"
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(b"email some email");
    let hash = mac.finalize().into_bytes().to_vec();
    let row = client
        .query_one("select hash from erased_emails", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, Vec<u8>>(0), hash);

    let audit =
        "select id, kind, subject, emails, hits, marks, asked_at = finished_at, erasures::text from erasures";
    let row = client.query_one(audit, &[]).await.unwrap();
    assert_eq!(row.get::<_, uuid::Uuid>(0), done.id);
    assert_eq!((row.get(1), row.get(2)), ("email", hash));
    let counts: [i64; 3] = [row.get(3), row.get(4), row.get(5)];
    assert_eq!((counts, row.get(6)), ([1, 3, 1], true));
    assert!(!row.get::<_, &str>(7).contains("some"));
}

#[tokio::test]
async fn two_installations_have_two_keys() {
    let server = PrivatePostgres::start().await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let database = server.empty_database().await;
        migrate(database.url()).await;
        let client = database.superuser().await;
        let row = client
            .query_one("select inner_pad from erasure_keys", &[])
            .await
            .unwrap();
        keys.push(row.get::<_, Vec<u8>>(0));
    }
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn an_email_that_nobody_has_heard_of_is_refused_from_then_on() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    assert_eq!(erase(&recorder, email("later")).await.erased, count(0, 0, 0));
    assert_eq!(record(&recorder, &story("later")).await, [Outcome::Erased; 4]);
    assert_eq!(rows(&client, "later").await, 0);
}

#[tokio::test]
async fn everything_of_one_recipient_goes_and_nothing_else() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let of_many: Vec<Fact> = (0..1_150)
        .map(|number| hit_to(&format!("gone {number:04}"), "Zoë@Example.org"))
        .collect();
    let gone = [
        (
            "gone among others",
            "a@example.org, ZOË@EXAMPLE.ORG ,b@example.org",
        ),
        ("gone é", "zoë@example.org"),
    ];
    let stay = [
        ("stays 1", "zoe@example.org"),
        ("stays 2", "x-zoë@example.org"),
        ("stays 3", "zoë@example.org.uk,zoë"),
    ];
    let gone = gone.map(|(email_id, recipients)| hit_to(email_id, recipients));
    let stay = stay.map(|(email_id, recipients)| hit_to(email_id, recipients));
    for batch in [&of_many[..], &gone, &stay] {
        record(&recorder, batch).await;
    }
    record(&recorder, &[Fact::Mark(mark("marked", later(0), 1))]).await;

    // Without time for it, a part, and the rest when it is asked again.
    let subject = recipient(" zoË@example.ORG");
    let none = recorder.erase(&subject, later(0), Duration::ZERO).await.unwrap();
    assert!(!none.is_complete && none.erased == count(0, 0, 0));
    let done = erase(&recorder, subject).await;
    assert!(done.is_complete);
    assert_eq!(done.erased, count(1_152, 1_152, 0));
    assert_eq!(rows(&client, "gone").await, 0);
    assert_eq!(rows(&client, "stays").await, 6);
    assert_eq!(rows(&client, "marked").await, 2);
    assert_eq!(record(&recorder, &gone).await, [Outcome::Erased; 2]);
    let outcomes = record(&recorder, &of_many).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Erased));
    assert_eq!(rows(&client, "gone").await, 0);
}

/// More hits than one transaction removes, some of them in months that are dropped.
#[tokio::test]
async fn an_email_of_very_many_hits_goes_in_parts() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let january = Fact::Hit(hit("hot", at("2026-01-10T00:00:00Z"), 1));
    record(&recorder, &[january.clone(), hit_at("hot", 0), hit_at("cold", 0)]).await;
    recorder
        .remove_older_than(at("2026-02-01T00:00:00Z"), true)
        .await
        .unwrap();
    client
        .batch_execute(
            "insert into hits (email_id, opened_at, event_id, dedup_key, google_proxy, is_duplicate, compose_window, device_type)
             select 'hot', timestamptz '2026-03-02Z' + n * interval '1 s', gen_random_uuid(), n, false, false, false, 'other'
             from generate_series(1, 12000) n",
        )
        .await
        .unwrap();
    assert_eq!(erase(&recorder, email("hot")).await.erased, count(1, 12_001, 0));
    assert_eq!(rows(&client, "hot").await, 0);
    assert_eq!(
        record(&recorder, &[january, hit_at("hot", 5)]).await,
        [Outcome::Erased; 2]
    );
    assert_eq!(rows(&client, "hot").await, 0);
    assert_eq!(rows(&client, "cold").await, 2);
}

/// Two recorders and one who erases. Each has one worker: what it is given is recorded in one transaction.
struct Meeting {
    database: TestDatabase,
    client: Client,
    prober: Client,
    one: Recorder,
    two: Recorder,
}

impl Meeting {
    async fn new() -> Self {
        let database = fresh_database().await;
        let rules = Rules::default();
        let [one, two] = ["one", "two"].map(|name| common::recorder_of_workers(1, &database, name, &rules));
        for recorder in [&one, &two] {
            record(recorder, &[hit_at("a first", 0)]).await; // Partitions and plans are made.
        }
        Self {
            client: database.superuser().await,
            prober: database.superuser().await,
            database,
            one,
            two,
        }
    }

    fn recording(&self, facts: &[Fact]) -> JoinHandle<Vec<Outcome>> {
        let (recorder, facts) = (self.one.clone(), facts.to_vec());
        tokio::spawn(async move { recorder.record(facts).await.unwrap() })
    }

    fn erasing(&self, email_id: &str) -> JoinHandle<Erasure> {
        let (recorder, subject) = (self.two.clone(), email(email_id));
        tokio::spawn(async move { recorder.erase(&subject, later(0), PATIENCE).await.unwrap() })
    }

    async fn waits(&self, how_many: i64) {
        eventually("they wait", async || {
            (waiting(&self.prober).await == how_many).then_some(())
        })
        .await;
    }

    async fn is_gone(&self, facts: &[Fact]) {
        assert_eq!(rows(&self.client, "gone").await, 0);
        let of_it: Vec<Fact> = facts
            .iter()
            .filter(|fact| fact.email_id() == "gone")
            .cloned()
            .collect();
        for outcome in record(&self.one, &of_it).await {
            assert_eq!(outcome, Outcome::Erased);
        }
        assert_eq!(rows(&self.client, "gone").await, 0);
    }
}

/// The email is being added by a transaction that has looked for the note before there was one: whoever erases waits for it.
#[tokio::test]
async fn an_email_that_is_being_added_is_waited_for() {
    let meeting = Meeting::new().await;
    let commits = HeldCommits::of(&meeting.database).await;
    let batch = story("gone");
    let recording = meeting.recording(&batch);
    meeting.waits(1).await;
    let erasing = meeting.erasing("gone");
    meeting.waits(2).await;
    commits.release().await;
    assert_eq!(recording.await.unwrap(), [Recorded; 4]);
    assert_eq!(erasing.await.unwrap().erased, count(1, 3, 1));
    meeting.is_gone(&batch).await;
}

/// Facts that wait for an erasure, for the email's row or for one that is there so that they wait, are refused after it.
#[tokio::test]
async fn facts_that_wait_for_an_erasure_are_refused() {
    for is_known in [true, false] {
        let meeting = Meeting::new().await;
        let batch = story("gone");
        if is_known {
            record(&meeting.one, &batch[..1]).await;
        }
        erase(&meeting.two, email("another")).await; // its row of revisions, which is the last that an erasure locks
        let held = "begin; select from revisions where writer = 'two/upkeep' for update";
        meeting.client.batch_execute(held).await.unwrap();
        let erasing = meeting.erasing("gone");
        meeting.waits(1).await;
        let recording = meeting.recording(&batch);
        meeting.waits(2).await;
        meeting.client.batch_execute("commit").await.unwrap();
        assert_eq!(erasing.await.unwrap().erased.emails, u64::from(is_known));
        assert_eq!(recording.await.unwrap(), [Outcome::Erased; 4], "{is_known}");
        meeting.is_gone(&batch).await;
    }
}

/// The note is committed after the recorder has seen that there is no such email, and before it adds it.
#[tokio::test]
async fn an_email_that_is_erased_between_the_look_and_the_adding_is_not_added() {
    let meeting = Meeting::new().await;
    let held = "select from tracked_emails where email_id = 'a first' for no key update";
    meeting.client.batch_execute("begin").await.unwrap();
    meeting.client.query(held, &[]).await.unwrap();
    let batch = [vec![hit_at("a first", 100_000)], story("gone")].concat();
    let recording = meeting.recording(&batch);
    meeting.waits(1).await;
    record(&meeting.two, &story("gone")).await;
    assert_eq!(meeting.erasing("gone").await.unwrap().erased, count(1, 3, 1));
    meeting.client.batch_execute("commit").await.unwrap();
    let outcomes = recording.await.unwrap();
    assert_eq!(outcomes[0], Recorded);
    assert_eq!(outcomes[1..], [Outcome::Erased; 4]);
    meeting.is_gone(&batch).await;
}

/// The note is committed while the recorder's adding statement waits for another new email: a look that came with that
/// statement, or before it, would not have seen it.
#[tokio::test]
async fn an_email_that_is_erased_while_it_is_being_added_is_not_added() {
    let meeting = Meeting::new().await;
    let add = "begin; insert into tracked_emails (email_id) values ('b new')";
    meeting.client.batch_execute(add).await.unwrap();
    let batch = [vec![hit_at("b new", 0)], story("gone")].concat();
    let recording = meeting.recording(&batch);
    meeting.waits(1).await;
    assert_eq!(meeting.erasing("gone").await.unwrap().erased, count(0, 0, 0));
    meeting.client.batch_execute("rollback").await.unwrap();
    let outcomes = recording.await.unwrap();
    assert_eq!(outcomes[0], Recorded);
    assert_eq!(outcomes[1..], [Outcome::Erased; 4]);
    meeting.is_gone(&batch).await;
}

/// Two recorders get the same facts over and over while a third one erases every other email.
#[tokio::test]
async fn whatever_two_recorders_do_meanwhile_nothing_comes_back() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    let names: Vec<String> = (0..40).map(|number| format!("email {number:02}")).collect();
    let all: Vec<Fact> = names.iter().flat_map(|name| story(name)).collect();
    let mut running = tokio::task::JoinSet::new();
    for (number, step) in [(0, 7), (1, 11)] {
        let recorder = recorder(&database, &format!("r{number}"), &rules);
        let all = all.clone();
        running.spawn(async move {
            for round in 0..25 {
                // Other parts of the facts, in another order, each time.
                let mut some: Vec<Fact> = all
                    .iter()
                    .cycle()
                    .skip(round * step)
                    .step_by(step)
                    .take(60)
                    .cloned()
                    .collect();
                if round % 2 == 0 {
                    some.reverse();
                }
                recorder.record(some).await.unwrap();
            }
            recorder.record(all).await.unwrap();
        });
    }
    let third = recorder(&database, "third", &rules);
    let erased: Vec<&String> = names.iter().step_by(2).collect();
    for name in &erased {
        erase(&third, email(name)).await;
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    let kept: Vec<Fact> = all
        .iter()
        .filter(|fact| !erased.iter().any(|name| *name == fact.email_id()))
        .cloned()
        .collect();
    assert_eq!(stored_emails(&client, "").await, model::emails(&rules, &kept));
    assert_eq!(stored_marks(&client, "").await.len(), 20);
    for (fact, outcome) in all.iter().zip(record(&third, &all).await) {
        let is_erased = erased.iter().any(|name| *name == fact.email_id());
        assert_eq!(outcome == Outcome::Erased, is_erased, "{fact:?}");
    }
}

/// Cut off after the note: nothing comes back, and upkeep removes what is still there.
#[tokio::test]
async fn an_erasure_that_was_cut_off_is_finished() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    record(&recorder, &story("gone")).await;
    record(&recorder, &story("stays")).await;
    client
        .batch_execute(
            "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not now'; end $$;
             create trigger refuse before delete on tracked_emails for each row execute function refuse()",
        )
        .await
        .unwrap();
    let failed = recorder.erase(&email("gone"), later(0), PATIENCE).await;
    assert!(failed.is_err());
    client
        .batch_execute("drop trigger refuse on tracked_emails")
        .await
        .unwrap();
    assert_eq!(recorder.finish_erasures(later(0), later(1)).await.unwrap(), None);
    let finished = recorder.finish_erasures(later(1), later(1)).await.unwrap();
    assert_eq!(finished, Some(count(1, 3, 1)));
    assert_eq!(rows(&client, "gone").await, 0);
    assert_eq!(rows(&client, "stays").await, 5);
    assert_eq!(record(&recorder, &story("gone")).await, [Outcome::Erased; 4]);
    assert_eq!(recorder.finish_erasures(later(9), later(9)).await.unwrap(), None);
}

/// Whatever is in the tables, and in the statistics: with little, with much, and with much that nobody has counted yet.
#[tokio::test]
async fn every_statement_finds_its_rows_by_an_index() {
    let server = PrivatePostgres::start().await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    let client = database.superuser().await;
    log_plans(&client).await;
    for (round, prepare) in [(0, ""), (1, FILL), (2, "analyze")] {
        client.batch_execute(prepare).await.unwrap();
        let recorder = recorder(&database, "r", &Rules::default()); // plans anew
        for number in 0..7 {
            let name = format!("e{round} {number}");
            record(&recorder, &story(&name)).await;
            erase(&recorder, email(&name)).await;
            record(&recorder, &story(&name)).await;
        }
        erase(&recorder, email(&format!("never seen {round}"))).await;
        erase(&recorder, recipient("nobody@example.org")).await;
        client
            .batch_execute(
                "insert into erasures (id, kind, asked_at) values (gen_random_uuid(), 'restore', '2026-01-01Z')",
            )
            .await
            .unwrap();
        recorder.finish_erasures(later(0), later(0)).await.unwrap();
    }
    let log = eventually("the log has the last plan", async || {
        let log = server.log();
        (log.matches("erase: it is done").count() >= 27).then_some(log)
    })
    .await;
    let seen = planned_on_indexes(&log, &["erase: ", "record: "]);
    assert_eq!(seen.len(), 18, "{seen:?}");
}

/// Many emails, and many that are erased.
const FILL: &str = "
insert into tracked_emails (email_id, recipient) select 'filler' || n, 'r' || n || '@example.org' from generate_series(1, 5000) n;
insert into hits (email_id, opened_at, event_id, dedup_key, google_proxy, is_duplicate, compose_window, device_type)
select 'filler' || n % 5000, timestamptz '2026-03-01 00:00Z' + n * interval '17 s', gen_random_uuid(), n, false, false, false, 'other'
from generate_series(1, 60000) n;
insert into erased_emails select sha256(convert_to(n::text, 'UTF8')) from generate_series(1, 20000) n;
insert into erasures (id, kind, asked_at, finished_at)
select gen_random_uuid(), 'email', timestamptz '2026-01-01Z' + n * interval '1 s', timestamptz '2026-03-01Z' from generate_series(1, 5000) n;
";
