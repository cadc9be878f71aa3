//! Opens counted by quarters of an hour: what is not marked stale is right, at any moment, whatever happens to hits.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{
    at, facts, fresh_database, hit, log_plans, mark, migrate, planned_on_indexes, recorder, revision,
};
use database::Config;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use recorder::{Erased, Recorder, Subject};
use test_support::{CITUS_STAND_IN, PrivatePostgres, TestDatabase, eventually};
use tokio_postgres::Client;
use tracking::{Fact, Hit, Rules, Timestamp, agents::Agents, recipients::Address};

const GMAIL: &str =
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";
const BOT: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";

/// The stored counts that are wrong although nobody has marked them stale, in one snapshot.
const WRONG: &str = "
with opens as (
  select date_bin('15 minutes', opened_at, 'epoch') as slot_at, agent, device_type, geo_country, confidence
  from hits where is_open and not starts_with(email_id, 'doctor-')
), kinds as (
  select slot_at, '' as dimension, '' as value, confidence from opens
  union all select slot_at, 'agent', agent, confidence from opens
  union all select slot_at, 'device', device_type, confidence from opens
  union all select slot_at, 'country', coalesce(geo_country, ''), confidence from opens
), truth as (
  select slot_at, dimension, value,
         count(*) filter (where confidence = 'human') as human, count(*) filter (where confidence = 'likely') as likely,
         count(*) filter (where confidence = 'unclear') as unclear,
         count(*) filter (where confidence = 'automated') as automated
  from kinds group by 1, 2, 3
), stored as (
  select slot_at, '' as dimension, '' as value, human, likely, unclear, automated from slot_opens
  union all select * from slot_kinds
), days as (
  select date_bin('24 hours', slot_at, 'epoch') as day_at, dimension, value,
         sum(human) as human, sum(likely) as likely, sum(unclear) as unclear, sum(automated) as automated
  from truth where dimension <> '' group by 1, 2, 3
)
select 'slot ' || slot_at || ' ' || dimension || ' ' || value from truth full join stored using (slot_at, dimension, value)
where (truth.human, truth.likely, truth.unclear, truth.automated)
      is distinct from (stored.human, stored.likely, stored.unclear, stored.automated)
  and slot_at not in (select slot_at from stale_slots)
union all
select 'day ' || day_at || ' ' || dimension || ' ' || value from days full join day_kinds using (day_at, dimension, value)
where (days.human, days.likely, days.unclear, days.automated)
      is distinct from (day_kinds.human, day_kinds.likely, day_kinds.unclear, day_kinds.automated)
  and day_at not in (select date_bin('24 hours', slot_at, 'epoch') from stale_slots)";

async fn assert_right(client: &Client, what: &str) {
    let rows = client.query(WRONG, &[]).await.unwrap();
    let wrong: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(wrong.is_empty(), "{what}: {wrong:?}");
}

async fn number(client: &Client, sql: &str) -> i64 {
    let row = client.query_one(&format!("select ({sql})::bigint"), &[]).await;
    row.unwrap().get(0)
}

async fn stale(client: &Client) -> i64 {
    number(client, "select count(distinct slot_at) from stale_slots").await
}

/// Counts all that is stale; answers how many slots were.
async fn recount(recorder: &Recorder) -> u64 {
    let (slots, more) = recorder
        .recount_slots(Timestamp::MAX_IN_ID, u32::MAX)
        .await
        .unwrap();
    assert!(!more);
    slots
}

async fn erase(recorder: &Recorder, subject: Subject) -> Erased {
    let done = recorder.erase(&subject, begin(), Duration::from_mins(5)).await;
    let done = done.unwrap();
    assert!(done.is_complete);
    done.erased
}

fn begin() -> Timestamp {
    at("2026-03-01T12:00:00.000Z")
}

/// Hits by all kinds of agents within some days, duplicates among them, and marks that withdraw opens.
fn some(random: &mut SmallRng, count: u8) -> Vec<Fact> {
    let mut all = Vec::new();
    for tie in 0..count {
        let email_id = format!("e{}", random.random_range(0..12));
        // Many within the same quarters, the rest over three days.
        let span = if random.random() {
            2_000_000
        } else {
            3 * 86_400_000
        };
        let opened_at = begin().saturating_add_millis(random.random_range(0..span));
        let mut made: Hit = hit(&email_id, opened_at, tie);
        made.user_agent = match random.random_range(0..4) {
            0 => Some(GMAIL.to_owned()),
            1 => Some(BOT.to_owned()),
            2 => None,
            _ => made.user_agent,
        };
        if random.random_range(0..3) == 0 {
            let before = opened_at.saturating_add_millis(-random.random_range(0..12_000));
            all.push(Fact::Mark(mark(&email_id, before, tie)));
        }
        all.push(Fact::Hit(made));
    }
    all
}

#[tokio::test]
async fn what_is_not_stale_is_right_whatever_comes() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let first = recorder(&database, "r", &Rules::default());
    let mut random = SmallRng::seed_from_u64(18);
    for round in 0..30 {
        let mut facts = some(&mut random, 25);
        let (now, later) = facts.split_at_mut(random.random_range(1..20));
        first.record(now.to_vec()).await.unwrap();
        assert_right(&client, "after a batch").await;
        if round % 2 == 0 {
            assert!(recount(&first).await > 0);
            assert_eq!(stale(&client).await, 0);
            assert_right(&client, "after a recount").await;
        }
        first.record(later.to_vec()).await.unwrap(); // marks of hits that were counted, among others
        assert_right(&client, "after late facts").await;
        first.record(now.to_vec()).await.unwrap();
    }
    recount(&first).await;
    let before = revision(&client).await;
    first
        .record(some(&mut SmallRng::seed_from_u64(18), 5))
        .await
        .unwrap();
    assert_eq!(stale(&client).await, 0, "what is known already changes nothing");
    assert_eq!(revision(&client).await, before);
    assert!(number(&client, "select count(*) from slot_opens").await > 100);

    let scanners = Rules {
        agents: Agents::with_networks("scanner\t203.0.113.0/24").unwrap(),
        ..Rules::default()
    };
    let other = recorder(&database, "other", &scanners);
    other.reclassify(at("2026-06-01T00:00:00.000Z")).await.unwrap();
    assert!(stale(&client).await > 10, "other confidences");
    assert_right(&client, "after other rules").await;
    recount(&first).await;
    assert_right(&client, "after their recount").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_while_many_record_and_count() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let (first, second) = (
        recorder(&database, "r", &Rules::default()),
        recorder(&database, "s", &Rules::default()),
    );
    let record = async |recorder: &Recorder, seed| {
        let mut random = SmallRng::seed_from_u64(seed);
        for _ in 0..40 {
            recorder.record(some(&mut random, 20)).await.unwrap();
        }
    };
    let count = async |recorder: &Recorder| {
        for _ in 0..6 {
            recorder.recount_slots(Timestamp::MAX_IN_ID, 1_000).await.unwrap();
        }
    };
    let forget = async |recorder: &Recorder| {
        for number in 0..6 {
            erase(recorder, Subject::Email(format!("e{number}"))).await;
        }
    };
    let check = async {
        for _ in 0..40 {
            assert_right(&client, "meanwhile").await;
        }
    };
    // The latter half of the emails stays.
    tokio::join!(
        record(&first, 1),
        record(&second, 2),
        count(&first),
        count(&second),
        forget(&second),
        check
    );
    recount(&first).await;
    assert_eq!(stale(&client).await, 0);
    assert_right(&client, "at the end").await;
}

#[tokio::test]
async fn counts_outlive_their_hits_if_the_operator_keeps_counts() {
    let floor = at("2026-03-15T12:00:00.000Z");
    for keep in [true, false] {
        let database = fresh_database().await;
        let client = database.superuser().await;
        let recorder = recorder(&database, "r", &Rules::default());
        let january = at("2026-01-10T00:00:00.000Z");
        let hits = [hit("old", january, 1), hit("new", floor, 2)];
        recorder.record(facts(hits, [])).await.unwrap();
        // Not counted yet when its hits go.
        recorder.remove_older_than(floor, keep).await.unwrap();
        client
            .execute("insert into stale_slots values ('2026-01-10T00:00:00Z')", &[])
            .await
            .unwrap();
        recount(&recorder).await;
        let opens = "select coalesce(sum(human + likely + unclear + automated), 0) from";
        for table in [
            "slot_opens",
            "slot_kinds where dimension = 'agent'",
            "day_kinds where dimension = 'agent'",
        ] {
            let counted = number(&client, &format!("{opens} {table}")).await;
            assert_eq!(counted, if keep { 2 } else { 1 }, "{table}");
        }
    }
}

#[tokio::test]
async fn a_slot_is_counted_once_it_is_over() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let (first, second) = (at("2026-03-01T12:05:00.000Z"), at("2026-03-01T12:20:00.000Z"));
    recorder
        .record(facts([hit("e", first, 1), hit("f", second, 2)], []))
        .await
        .unwrap();
    for (now, counted, left) in [
        ("2026-03-01T12:14:59.999Z", 0, 2),
        ("2026-03-01T12:29:59.999Z", 1, 1),
        ("2026-03-01T12:29:59.999Z", 0, 1),
        ("2026-03-01T12:30:00.000Z", 1, 0),
    ] {
        let done = recorder.recount_slots(at(now), u32::MAX).await.unwrap();
        assert_eq!(done, (counted, false), "at {now}");
        assert_eq!(stale(&client).await, left, "at {now}");
        assert_right(&client, now).await;
    }
}

#[tokio::test]
async fn a_round_says_whether_there_may_be_more() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let hits = [
        hit("e", at("2026-03-01T12:05:00.000Z"), 1),
        hit("f", at("2026-03-01T12:20:00.000Z"), 2),
    ];
    recorder.record(facts(hits, [])).await.unwrap();
    let recount = async |most| recorder.recount_slots(Timestamp::MAX_IN_ID, most).await.unwrap();

    client.batch_execute(COUNT_ALONE).await.unwrap();
    assert_eq!(recount(5).await, (0, true), "somebody else counts");
    client.batch_execute("commit").await.unwrap();

    assert_eq!(recount(1).await, (1, true));
    let left = "select count(*) from stale_slots where slot_at = '2026-03-01T12:00:00Z'";
    assert_eq!(number(&client, left).await, 1, "the latest comes first");
    assert_right(&client, "one slot of a day").await;
    assert_eq!(recount(2).await, (1, false));
    assert_eq!(stale(&client).await, 0);
    assert_right(&client, "both").await;
}

/// A mark may also come for a slot whose hits are gone.
#[tokio::test]
async fn a_days_sums_are_stored_with_the_last_of_its_slots() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let begin = at("2026-03-01T00:05:00.000Z");
    let hits = (0..4_u8).map(|quarter| {
        let later = i64::from(quarter) * 900_000;
        hit(
            &format!("e{quarter}"),
            begin.saturating_add_millis(later),
            quarter,
        )
    });
    recorder.record(facts(hits, [])).await.unwrap();
    let sums = "select coalesce(sum(human + likely + unclear + automated), 0) from day_kinds where dimension = 'agent'";
    let recount = async |most| recorder.recount_slots(Timestamp::MAX_IN_ID, most).await.unwrap();
    assert_eq!(recount(3).await, (3, true));
    assert_eq!(number(&client, sums).await, 0);
    client.batch_execute("drop table hits_2026_03").await.unwrap();
    assert_eq!(recount(3).await, (1, false));
    assert_eq!(number(&client, sums).await, 3, "all that was counted before");
}

/// Takes the lock of those who count (`recorder::slots`), until the transaction ends.
const COUNT_ALONE: &str = "begin; select pg_advisory_xact_lock(x'736c6f74735f5f31'::bigint)";

/// As while a backlog drains.
#[tokio::test]
async fn a_round_counts_each_slot_once_whatever_comes_meanwhile() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let days = ["2026-03-01T12:05:00.000Z", "2026-03-02T12:05:00.000Z"];
    let hits = (1..).zip(days).map(|(number, day)| hit("e", at(day), number));
    recorder.record(facts(hits, [])).await.unwrap();
    client
        .batch_execute(
            "create function mark_again() returns trigger language plpgsql as
               $$ begin insert into stale_slots values (new.slot_at); return null; end $$;
             create trigger mark_again after insert on slot_opens for each row execute function mark_again()",
        )
        .await
        .unwrap();
    let done = recorder.recount_slots(Timestamp::MAX_IN_ID, 10).await.unwrap();
    assert_eq!(done, (2, false));
    assert_eq!(stale(&client).await, 2);
    assert_eq!(
        number(
            &client,
            "select sum(human + likely + unclear + automated) from slot_opens"
        )
        .await,
        2
    );
}

/// Retention by one recorder, while another one counts.
#[tokio::test]
async fn a_month_stays_until_it_is_counted() {
    let floor = at("2026-03-15T12:00:00.000Z");
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let hits = [
        hit("old", at("2026-01-10T00:00:00.000Z"), 1),
        hit("new", floor, 2),
    ];
    recorder.record(facts(hits, [])).await.unwrap();

    let other = database.superuser().await;
    other.batch_execute(COUNT_ALONE).await.unwrap();
    let removing = tokio::spawn(async move { recorder.remove_older_than(floor, true).await });
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                   and database = (select oid from pg_database where datname = current_database())";
    eventually("retention waits", async || {
        (number(&client, waiting).await == 1).then_some(())
    })
    .await;
    assert_eq!(number(&client, "select count(*) from hits").await, 2);
    other.batch_execute("commit").await.unwrap();
    assert_eq!(removing.await.unwrap().unwrap().months, 1);
    assert_eq!(number(&client, "select count(*) from hits").await, 1);
    let opens = "select sum(human + likely + unclear + automated) from slot_opens";
    assert_eq!(number(&client, opens).await, 1, "what was counted before it went");
}

#[tokio::test]
async fn doctors_mails_are_in_no_chart() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let mut of_doctor = hit("doctor-1", begin(), 1);
    of_doctor.token.user_id = "doctor".to_owned();
    recorder
        .record(facts([of_doctor, hit("e", begin(), 2)], []))
        .await
        .unwrap();
    recount(&recorder).await;
    assert_eq!(
        number(
            &client,
            "select sum(human + likely + unclear + automated) from slot_opens"
        )
        .await,
        1
    );
    recorder
        .remove_doctor_emails(at("2026-03-02T00:00:00.000Z"))
        .await
        .unwrap();
    assert_right(&client, "after doctor's mails are gone").await;
}

async fn what_is_erased_is_in_no_chart(is_sharded: bool) {
    let database = fresh_database().await;
    let client = database.superuser().await;
    if is_sharded {
        distribute(&database, &client).await;
    }
    let recorder = recorder(&database, "r", &Rules::default());
    recorder
        .record(some(&mut SmallRng::seed_from_u64(5), 100))
        .await
        .unwrap();
    // Of this one there is a day of its own.
    let of_one = [0, 60_000, 3_600_000].map(|millis| {
        let april = at("2026-04-02T08:20:00.000Z").saturating_add_millis(millis);
        let mut hit = hit("one", april, 1);
        "one@example.org".clone_into(&mut hit.token.recipient);
        hit
    });
    recorder.record(facts(of_one.clone(), [])).await.unwrap();
    recount(&recorder).await;
    assert_right(&client, "before").await;
    let of_day = "select (select count(*) from slot_opens where slot_at >= '2026-04-01Z')
                       + (select count(*) from slot_kinds where slot_at >= '2026-04-01Z')
                       + (select count(*) from day_kinds where day_at >= '2026-04-01Z')";
    assert_eq!(number(&client, of_day).await, 2 + 2 * 3 + 3);

    let address = Address::new("one@example.org").unwrap();
    assert_eq!(erase(&recorder, Subject::Recipient(address)).await.hits, 3);
    assert_eq!(stale(&client).await, 2, "of three hits two are in one quarter");
    for number in 0..4 {
        let erased = erase(&recorder, Subject::Email(format!("e{number}"))).await;
        assert!(erased.hits > 0, "e{number}");
        assert_right(&client, "after an email was erased").await;
    }
    recount(&recorder).await;
    assert_right(&client, "after what was erased is counted").await;
    assert_eq!(number(&client, of_day).await, 0);

    recorder.record(facts(of_one, [])).await.unwrap();
    recount(&recorder).await;
    assert_right(&client, "after an erased email came again").await;
    assert_eq!(number(&client, of_day).await, 0);
}

#[tokio::test]
async fn what_is_erased_is_in_no_chart_on_one_server() {
    what_is_erased_is_in_no_chart(false).await;
}

#[tokio::test]
async fn what_is_erased_is_in_no_chart_in_shards() {
    what_is_erased_is_in_no_chart(true).await;
}

async fn distribute(database: &TestDatabase, client: &Client) {
    client.batch_execute(CITUS_STAND_IN).await.unwrap();
    let owner = Config::new("DATABASE_URL", &database.url()).unwrap();
    database::distribute(&owner, 8).await.unwrap();
}

#[tokio::test]
async fn in_shards_the_slots_of_a_batch_are_stale_even_if_nothing_is_new() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    distribute(&database, &client).await;
    let recorder = recorder(&database, "r", &Rules::default());
    let batch = some(&mut SmallRng::seed_from_u64(3), 40);
    recorder.record(batch.clone()).await.unwrap();
    recount(&recorder).await;
    assert_right(&client, "in shards").await;
    recorder.record(batch).await.unwrap();
    assert!(
        stale(&client).await > 0,
        "a shard may have committed what the coordinator had not"
    );
    recount(&recorder).await;
    assert_right(&client, "in shards, again").await;
}

/// A few slots among very many hits are counted by the index of hits' times.
#[tokio::test]
async fn a_recount_reads_what_it_counts() {
    let server = PrivatePostgres::start().await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    recorder.record(facts([hit("e", begin(), 1)], [])).await.unwrap();
    client
        .batch_execute(
            "insert into hits (email_id, opened_at, event_id, dedup_key, google_proxy, is_duplicate, compose_window,
                               device_type, agent, confidence)
             select 'm' || n % 500, timestamptz '2026-03-01' + n * interval '50 s', gen_random_uuid(), n, false, false,
                    false, 'other', 'unnamed', 'unclear'
             from generate_series(1, 50000) n;
             insert into slot_opens select distinct date_bin('15 minutes', opened_at, 'epoch'), 0, 0, 18, 0 from hits
             on conflict do nothing;
             insert into slot_kinds select slot_at, 'agent', 'unnamed', 0, 0, 18, 0 from slot_opens;
             insert into day_kinds select distinct date_bin('24 hours', slot_at, 'epoch'), 'agent', 'unnamed', 0, 0, 1, 0
               from slot_opens;
             insert into stale_slots
               select timestamptz '2027-01-01' + n * interval '15 minutes' from generate_series(1, 35000) n;
             analyze",
        )
        .await
        .unwrap();
    log_plans(&client).await;
    let recorder = common::recorder(&database, "planned", &Rules::default());
    let done = recorder
        .recount_slots(at("2026-12-31T00:00:00.000Z"), u32::MAX)
        .await;
    assert_eq!(done.unwrap(), (1, false));
    let planned = planned_on_indexes(
        &server.log(),
        &[
            "slots: count",
            "slots: find",
            "slots: forget",
            "slots: store days",
            "slots: take a",
            "slots: whether its day",
        ],
    );
    let expected = [
        "slots: count opens",
        "slots: find stale ones",
        "slots: forget days",
        "slots: forget kinds",
        "slots: forget opens",
        "slots: store days",
        "slots: take a stale one",
        "slots: whether its day has more stale ones",
    ];
    assert_eq!(
        planned,
        expected.map(str::to_owned).into_iter().collect::<BTreeSet<_>>()
    );
}
