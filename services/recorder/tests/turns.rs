//! Two that meet at one email, made to meet: a recorder is held up at its commit, when it has read and written everything,
//! and a second one begins, so that whatever it reads too early shows in the verdicts; or it is held up at one row, to see
//! which others it has locked by then.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;

use common::{
    HeldCommits, announcements, announces, at, facts, fresh_database, hit, mark, recorder,
    recorder_of_workers, stored_emails, waiting,
};
use recorder_api::Outcome;
use test_support::eventually;
use tracking::{Fact, Hit, Mark, Rules, Timestamp, model};

fn later(millis: i64) -> Timestamp {
    at("2026-03-01T00:00:00Z").saturating_add_millis(millis)
}

fn hit_at(email_id: &str, millis: i64) -> Fact {
    Fact::Hit(hit(email_id, later(millis), 1))
}

fn mark_at(email_id: &str, millis: i64) -> Fact {
    Fact::Mark(mark(email_id, later(millis), 1))
}

/// What it shows, and the two facts of an email.
type Pair = (&'static str, fn(&str) -> [Fact; 2]);

/// Gives each pair to two recorders, the second while the first is at its commit; for an email that nobody has heard of,
/// and for one with a hit of another day.
async fn in_turns(pairs: &[Pair]) {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    let recorders = [
        recorder(&database, "one", &rules),
        recorder(&database, "two", &rules),
    ];
    for (number, recorder) in recorders.iter().enumerate() {
        let known = pairs
            .iter()
            .map(|(name, _)| hit(&format!("known {number} {name}"), later(-86_400_000), 1));
        recorder.record(facts(known, [])).await.unwrap(); // Partitions and plans are made.
    }
    let commits = HeldCommits::of(&database).await;
    commits.release().await;
    for (name, pair) in pairs {
        for email_id in [format!("new {name}"), format!("known 0 {name}")] {
            commits.hold().await;
            let [first, second] = pair(&email_id);
            let begin = |number: usize, fact: &Fact| {
                let (recorder, batch) = (recorders.get(number).unwrap().clone(), vec![fact.clone()]);
                tokio::spawn(async move { recorder.record(batch).await })
            };
            let one = begin(0, &first);
            eventually("the first is at its commit", async || {
                (commits.waiting().await == 1).then_some(())
            })
            .await;
            let two = begin(1, &second);
            eventually("the second waits, or does not", async || {
                (two.is_finished() || commits.waiting().await == 2).then_some(())
            })
            .await;
            commits.release().await;
            assert_eq!(one.await.unwrap().unwrap(), [Outcome::Recorded], "{email_id}");
            assert_eq!(two.await.unwrap().unwrap(), [Outcome::Recorded], "{email_id}");

            let mut all = vec![first, second];
            if email_id.starts_with("known") {
                all.push(hit_at(&email_id, -86_400_000));
            }
            assert_eq!(
                stored_emails(&client, &email_id).await,
                model::emails(&rules, &all),
                "{email_id}"
            );
        }
    }
}

#[tokio::test]
async fn a_mark_and_the_hit_it_suppresses_wait_for_each_other() {
    in_turns(&[
        ("hit, then its mark", |email_id| {
            [hit_at(email_id, 1_000), mark_at(email_id, 0)]
        }),
        ("mark, then its hit", |email_id| {
            [mark_at(email_id, 0), hit_at(email_id, 1_000)]
        }),
        ("mark and hit of one millisecond", |email_id| {
            [mark_at(email_id, 0), hit_at(email_id, 0)]
        }),
    ])
    .await;
}

#[tokio::test]
async fn a_hit_and_its_duplicate_wait_for_each_other() {
    in_turns(&[
        ("hit, then its duplicate", |email_id| {
            [hit_at(email_id, 0), hit_at(email_id, 30_000)]
        }),
        ("duplicate, then what it repeats", |email_id| {
            [hit_at(email_id, 30_000), hit_at(email_id, 0)]
        }),
        ("a tie", |email_id| {
            [
                Fact::Hit(hit(email_id, later(0), 2)),
                Fact::Hit(hit(email_id, later(0), 1)),
            ]
        }),
    ])
    .await;
}

/// The same fact through both, as after a time-out: it is stored once, and only one of them says that it was new.
#[tokio::test]
async fn one_fact_given_to_two_recorders_is_recorded_by_one() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    let recorders = [
        recorder(&database, "one", &rules),
        recorder(&database, "two", &rules),
    ];
    let (hit, mark): (Hit, Mark) = (hit("a", later(1_000), 1), mark("a", later(0), 1));
    let batch = facts([hit], [mark]);
    let commits = HeldCommits::of(&database).await;
    let begin = |number: usize| {
        let (recorder, batch) = (recorders.get(number).unwrap().clone(), batch.clone());
        tokio::spawn(async move { recorder.record(batch).await })
    };
    let one = begin(0);
    eventually("the first is at its commit", async || {
        (commits.waiting().await == 1).then_some(())
    })
    .await;
    let two = begin(1);
    eventually("the second waits", async || {
        (two.is_finished() || commits.waiting().await == 2).then_some(())
    })
    .await;
    commits.release().await;
    assert_eq!(one.await.unwrap().unwrap(), [Outcome::Recorded; 2]);
    assert_eq!(two.await.unwrap().unwrap(), [Outcome::AlreadyKnown; 2]);
    assert_eq!(stored_emails(&client, "a").await, model::emails(&rules, &batch));
}

/// Bytewise, as the rows are locked; other orders of texts put several of them elsewhere.
const IN_ORDER: [&str; 8] = ["", " ", "B", "a", "a-b", "aa", "ab", "\u{e4}"];

/// Hits of all these emails, neither in their order nor in the reverse.
fn in_no_order(prefix: &str, millis: i64) -> Vec<Fact> {
    [3, 6, 0, 5, 7, 1, 4, 2]
        .map(|at: usize| hit_at(&format!("{prefix}{}", IN_ORDER.get(at).unwrap()), millis))
        .to_vec()
}

/// Everyone who locks emails goes through them in one order, so nobody who waits for one holds another that comes after it;
/// that is why there are no deadlocks. Each row in turn is held, and the rows behind it must be free then.
#[tokio::test]
async fn a_recorder_that_waits_for_a_row_holds_none_behind_it() {
    let database = fresh_database().await;
    let (holder, prober) = (database.superuser().await, database.superuser().await);
    let recorder = recorder_of_workers(1, &database, "one", &Rules::default());
    recorder.record(in_no_order("known", 0)).await.unwrap();
    for (place, suffix) in (0..).zip(IN_ORDER) {
        holder.batch_execute("begin").await.unwrap();
        let held = "select from tracked_emails where email_id = $1 for no key update";
        let email_id = format!("known{suffix}");
        assert_eq!(holder.query(held, &[&email_id]).await.unwrap().len(), 1);
        let recording = tokio::spawn({
            let (recorder, batch) = (recorder.clone(), in_no_order("known", 100_000 * (place + 1)));
            async move { recorder.record(batch).await }
        });
        eventually("it waits for the row", async || {
            (waiting(&prober).await == 1).then_some(())
        })
        .await;
        let free = "select email_id from tracked_emails order by email_id for no key update skip locked";
        let free: Vec<String> = prober
            .query(free, &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let behind: Vec<String> = IN_ORDER
            .iter()
            .map(|suffix| format!("known{suffix}"))
            .filter(|other| *other > email_id)
            .collect();
        assert_eq!(free, behind, "while {email_id:?} is held");
        holder.batch_execute("rollback").await.unwrap();
        recording.await.unwrap().unwrap();
    }
}

/// The same of rows that are not there yet: each in turn is being added by somebody else, and those behind it can still be
/// added.
#[tokio::test]
async fn a_recorder_that_waits_for_a_new_row_has_added_none_behind_it() {
    let database = fresh_database().await;
    let (holder, prober) = (database.superuser().await, database.superuser().await);
    prober.batch_execute("set lock_timeout = '10 s'").await.unwrap();
    let recorder = recorder_of_workers(1, &database, "one", &Rules::default());
    recorder.record(in_no_order("known", 0)).await.unwrap();
    let add = "insert into tracked_emails (email_id) values ($1)";
    for (place, suffix) in IN_ORDER.iter().enumerate() {
        let prefix = format!("new {place} ");
        let email_id = format!("{prefix}{suffix}");
        holder.batch_execute("begin").await.unwrap();
        holder.execute(add, &[&email_id]).await.unwrap();
        let recording = tokio::spawn({
            let (recorder, batch) = (recorder.clone(), in_no_order(&prefix, 0));
            async move { recorder.record(batch).await }
        });
        eventually("it waits for the row", async || {
            (waiting(&prober).await == 1).then_some(())
        })
        .await;
        prober.batch_execute("begin").await.unwrap();
        for behind in IN_ORDER.iter().skip(place + 1) {
            let behind = format!("{prefix}{behind}");
            let added = prober.execute(add, &[&behind]).await;
            assert!(added.is_ok(), "{behind:?} while {email_id:?} is held: {added:?}");
        }
        prober.batch_execute("rollback").await.unwrap();
        holder.batch_execute("rollback").await.unwrap();
        recording.await.unwrap().unwrap();
    }
}

/// Attaching a partition waits for the test before it is committed.
const HELD_ATTACHMENTS: &str = "
create function wait_for_the_test() returns event_trigger language plpgsql set lock_timeout = 0 as
  $$ begin perform pg_advisory_xact_lock_shared(2); end $$;
create event trigger wait_for_the_test on ddl_command_end when tag in ('ALTER TABLE')
  execute function wait_for_the_test();
select pg_advisory_lock(2)";

/// A session lists the partitions of hits just when one is attached: it has not found the new one, and gets notice of it
/// before its list is done, so that it would keep that list. To hold it there, it is kept from a table that it needs next,
/// which the announcement needs too; that this waits for the session is what the next test is for.
#[tokio::test]
async fn a_session_that_lists_the_months_while_one_is_added_finds_its_hits() {
    let database = fresh_database().await;
    let (reader, holder) = (database.superuser().await, database.superuser().await);
    let observer = database.superuser().await;
    let recorder = recorder(&database, "one", &Rules::default());
    let found = "select count(*) from hits where email_id = 'a'";
    recorder.record(vec![hit_at("a", 0)]).await.unwrap();

    // Whatever else a session needs before it lists the partitions it has looked up by then.
    reader
        .batch_execute(
            "create table others (like hits) partition by range (opened_at);
             create table others_1 partition of others for values from (minvalue) to (maxvalue);
             select count(*) from others where email_id = 'a';
             select pg_relation_size(indexrelid) from pg_index where indrelid = 'hits'::regclass",
        )
        .await
        .unwrap();
    let count = reader.prepare(found).await.unwrap();
    let pid: i32 = reader
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let waiting_for_catalog =
        format!("select count(*) from pg_locks where relation = 1259 and not granted and pid = {pid}");
    let waiting_for_catalog = observer.prepare(&waiting_for_catalog).await.unwrap();
    let attaching = "select count(*) from pg_locks
                     where database = (select oid from pg_database where datname = current_database())
                       and locktype = 'advisory' and objid = 2 and mode = 'ShareLock'";
    let attaching = observer.prepare(attaching).await.unwrap();
    let number = async |statement| -> i64 { observer.query_one(statement, &[]).await.unwrap().get(0) };
    assert_eq!(
        (number(&waiting_for_catalog).await, number(&attaching).await),
        (0, 0)
    );

    holder.batch_execute(HELD_ATTACHMENTS).await.unwrap();
    let recording = tokio::spawn({
        let recorder = recorder.clone();
        async move { recorder.record(vec![hit_at("a", 40 * 86_400_000)]).await }
    });
    eventually("the partition is attached, not committed", async || {
        (number(&attaching).await == 1).then_some(())
    })
    .await;
    holder
        .batch_execute("begin; lock table pg_class in access exclusive mode")
        .await
        .unwrap();
    let listing = tokio::spawn(async move {
        let row = reader.query_one(&count, &[]).await.unwrap();
        (row.get::<_, i64>(0), reader)
    });
    eventually("the reader is in the midst of its list", async || {
        (number(&waiting_for_catalog).await == 1).then_some(())
    })
    .await;
    holder
        .batch_execute("select pg_advisory_unlock(2)")
        .await
        .unwrap();
    eventually("the partition is committed", async || {
        (number(&attaching).await == 0).then_some(())
    })
    .await;
    holder.batch_execute("commit").await.unwrap();

    let (before, reader) = listing.await.unwrap();
    assert_eq!(before, 1, "it was in the midst of its list");
    assert_eq!(recording.await.unwrap().unwrap(), [Outcome::Recorded]);
    let after: i64 = reader.query_one(found, &[]).await.unwrap().get(0);
    assert_eq!(after, 2);
}

/// A new month waits for those who write hits, and for those who read them, but for these not for ever.
#[tokio::test]
async fn a_month_is_used_when_those_who_used_hits_have_ended_or_read_on_for_long() {
    let database = fresh_database().await;
    let (user, observer) = (database.superuser().await, database.superuser().await);
    let recorder = recorder(&database, "one", &Rules::default());
    recorder.record(vec![hit_at("a", 0)]).await.unwrap();
    let read = "select count(*) from hits";
    let write = "update hits set is_duplicate = true where email_id = 'nobody'";
    for (month, statement, waits_for) in [(1, read, 0.0), (2, write, 7.0)] {
        user.batch_execute(&format!("begin; {statement}")).await.unwrap();
        let recording = tokio::spawn({
            let (recorder, at) = (recorder.clone(), month * 31 * 86_400_000);
            async move { recorder.record(vec![hit_at("a", at)]).await }
        });
        eventually("the partition is being announced", async || {
            let such = announces(&observer, |one| one.took_seconds >= waits_for);
            such.await.then_some(())
        })
        .await;
        assert!(!recording.is_finished(), "{statement} has not ended");
        user.batch_execute("commit").await.unwrap();
        assert_eq!(
            recording.await.unwrap().unwrap(),
            [Outcome::Recorded],
            "{statement}"
        );
    }
    user.batch_execute(&format!("begin; {read}")).await.unwrap();
    let outcomes = recorder.record(vec![hit_at("a", 3 * 31 * 86_400_000)]).await;
    assert_eq!(
        outcomes.unwrap(),
        [Outcome::Recorded],
        "a reader who does not end"
    );
}

/// Somebody adds a month, and its commit is seen a moment before its notice is sent: his lock, which goes last, says so.
/// Whoever begins to use hits in that moment may not know the month, and is waited for, also by others who announce it.
#[tokio::test]
async fn whoever_announces_a_month_waits_for_those_who_came_before_its_notice() {
    let database = fresh_database().await;
    let (adder, user, observer) = (
        database.superuser().await,
        database.superuser().await,
        database.superuser().await,
    );
    let recorder = recorder(&database, "one", &Rules::default());
    recorder.record(vec![hit_at("a", 0)]).await.unwrap();
    for (is_announced, comment) in [(false, "null"), (true, "'announced'")] {
        let comment = format!("comment on table hits_2026_03 is {comment}");
        observer.batch_execute(&comment).await.unwrap();
        adder
            .batch_execute("begin; select pg_advisory_xact_lock(hashtext('add_hits_partition'))")
            .await
            .unwrap();
        let announcer = database.superuser().await;
        let announcing = tokio::spawn(async move {
            let announce = "-- announce_partitions\nselect announce_hits_partitions()";
            announcer.batch_execute(announce).await
        });
        let waits = async |event: &str| {
            let such = announces(&observer, |one| one.waits_for.as_deref() == Some(event));
            such.await.then_some(())
        };
        eventually("it waits for the notice", async || waits("advisory").await).await;
        user.batch_execute("begin; lock table hits in row exclusive mode")
            .await
            .unwrap();
        adder.batch_execute("commit").await.unwrap();
        if !is_announced {
            eventually("it waits for the one who came", async || waits("PgSleep").await).await;
            assert!(!announcing.is_finished());
        }
        user.batch_execute("commit").await.unwrap();
        announcing.await.unwrap().unwrap();
    }
}

/// Somebody writes hits for longer than a recorder waits. Its other workers do not begin to wait for as long again, when the
/// pixel has given up the call that all of them are for.
#[tokio::test]
async fn workers_share_an_announcement_that_fails() {
    let database = fresh_database().await;
    let (user, observer) = (database.superuser().await, database.superuser().await);
    let recorder = recorder(&database, "one", &Rules::default());
    let of_month = |month: i64| -> Vec<Fact> {
        let emails = (0..20).map(|number| format!("email {number}"));
        emails
            .map(|email_id| hit_at(&email_id, month * 31 * 86_400_000))
            .collect()
    };
    recorder.record(of_month(0)).await.unwrap();
    user.batch_execute("begin; lock table hits in row exclusive mode")
        .await
        .unwrap();
    let recording = tokio::spawn({
        let (recorder, batch) = (recorder.clone(), of_month(1));
        async move { recorder.record(batch).await }
    });
    let mut begun = BTreeSet::new();
    while !recording.is_finished() {
        let under_way = announcements(&observer).await;
        begun.extend(under_way.into_iter().map(|one| one.begun_at));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let error = recording.await.unwrap().unwrap_err();
    assert_eq!(begun.len(), 1, "{begun:?}; {error}");
    user.batch_execute("rollback").await.unwrap();
    let outcomes = recorder.record(of_month(1)).await.unwrap();
    assert_eq!(outcomes, [Outcome::Recorded; 20]);
}

/// The partition of April.
const APRIL: &str = "hits_2026_04";

/// What a month's comment tells recorders to come.
async fn comment_on(client: &tokio_postgres::Client, partition: &str) -> Option<String> {
    let comment = "select obj_description(to_regclass($1), 'pg_class')";
    client.query_one(comment, &[&partition]).await.unwrap().get(0)
}

/// Somebody vacuums a month that no recorder has met yet, or it is another owner's, so that nothing can be noted of it.
#[tokio::test]
async fn a_month_that_takes_no_comment_holds_no_hit_up() {
    let database = fresh_database().await;
    let (holder, client) = (database.superuser().await, database.superuser().await);
    let april = 31 * 86_400_000;
    client
        .batch_execute("select add_hits_partition('2026-04-01 00:00Z'); create role somebody")
        .await
        .unwrap();
    let owner: String = client
        .query_one(
            "select relowner::regrole::text from pg_class where relname = 'hits'",
            &[],
        )
        .await
        .unwrap()
        .get(0);

    holder
        .batch_execute(&format!(
            "begin; lock table {APRIL} in share update exclusive mode"
        ))
        .await
        .unwrap();
    let first = recorder(&database, "one", &Rules::default());
    assert_eq!(
        first.record(vec![hit_at("a", april)]).await.unwrap(),
        [Outcome::Recorded]
    );
    assert_eq!(comment_on(&client, APRIL).await, None);
    holder.batch_execute("rollback").await.unwrap();

    let own = async |owner: &str| {
        let change = format!("alter table {APRIL} owner to {owner}");
        client.batch_execute(&change).await.unwrap();
    };
    own("somebody").await;
    let grant = format!("grant all on {APRIL} to public");
    client.batch_execute(&grant).await.unwrap();
    let second = recorder(&database, "two", &Rules::default());
    assert_eq!(
        second.record(vec![hit_at("b", april)]).await.unwrap(),
        [Outcome::Recorded]
    );
    assert_eq!(comment_on(&client, APRIL).await, None);

    own(&owner).await;
    client.batch_execute("drop role somebody").await.unwrap();
    let third = recorder(&database, "three", &Rules::default());
    assert_eq!(
        third.record(vec![hit_at("c", april)]).await.unwrap(),
        [Outcome::Recorded]
    );
    assert_eq!(comment_on(&client, APRIL).await.as_deref(), Some("announced"));
}

/// Upkeep announces once more what was met since its last round, and then no longer.
#[tokio::test]
async fn upkeep_announces_once_more() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "one", &Rules::default());
    let now = later(0);
    // Its comment shows that it was announced.
    let forget = "comment on table hits_2026_03 is null";
    for announced in [true, true, false] {
        recorder.ensure_partitions_ahead(now).await.unwrap();
        let comment = comment_on(&client, "hits_2026_03").await;
        assert_eq!(comment.is_some(), announced);
        client.batch_execute(forget).await.unwrap();
    }
    assert!(
        comment_on(&client, APRIL).await.is_some(),
        "the next month is made"
    );
    recorder.record(vec![hit_at("a", 62 * 86_400_000)]).await.unwrap();
    client.batch_execute(forget).await.unwrap();
    recorder.ensure_partitions_ahead(now).await.unwrap();
    assert!(comment_on(&client, "hits_2026_03").await.is_some(), "May was met");
}
