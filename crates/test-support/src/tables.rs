//! What the recorder's tables say, in the terms of the reference model.

use std::{collections::BTreeMap, net::IpAddr};

use tokio_postgres::{Client, Row};
use tracking::{Timestamp, Verdict, agents::Agent, model::Email, verdicts::MarkKey};
use uuid::Uuid;

/// A stored hit, as the pixel sent it. What its token said beyond the email id is kept with the email alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHit {
    /// The hit's id.
    pub event_id: Uuid,
    /// The email it is of.
    pub email_id: String,
    /// By the pixel's clock.
    pub opened_at: Timestamp,
    /// Who asked.
    pub client_address: Option<IpAddr>,
    /// What it called itself.
    pub user_agent: Option<String>,
    /// The host of the page that showed it.
    pub referer_host: Option<String>,
}

/// A stored mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMark {
    /// The mark's id.
    pub mark_id: Uuid,
    /// The email it is of.
    pub email_id: String,
    /// By the pixel's clock.
    pub marked_at: Timestamp,
    /// Who sent it.
    pub client_address: Option<IpAddr>,
    /// What it called itself.
    pub user_agent: Option<String>,
}

/// The hits of the emails whose id begins with `prefix`, by email and time.
pub async fn stored_hits(client: &Client, prefix: &str) -> Vec<StoredHit> {
    let rows = client
        .query(
            "select event_id, email_id, (extract(epoch from opened_at) * 1000)::bigint, host(client_address),
                    user_agent, referer_host
             from hits where starts_with(email_id, $1) order by email_id, opened_at, event_id",
            &[&prefix],
        )
        .await
        .expect("reading the hits");
    rows.iter()
        .map(|row| StoredHit {
            event_id: row.get(0),
            email_id: row.get(1),
            opened_at: Timestamp::from_millis(row.get(2)),
            client_address: address(row.get(3)),
            user_agent: row.get(4),
            referer_host: row.get(5),
        })
        .collect()
}

/// The marks of the emails whose id begins with `prefix`, by email and time.
pub async fn stored_marks(client: &Client, prefix: &str) -> Vec<StoredMark> {
    let rows = client
        .query(
            "select mark_id, email_id, (extract(epoch from marked_at) * 1000)::bigint, host(client_address), user_agent
             from marks where starts_with(email_id, $1) order by email_id, marked_at, mark_id",
            &[&prefix],
        )
        .await
        .expect("reading the marks");
    rows.iter()
        .map(|row| StoredMark {
            mark_id: row.get(0),
            email_id: row.get(1),
            marked_at: Timestamp::from_millis(row.get(2)),
            client_address: address(row.get(3)),
            user_agent: row.get(4),
        })
        .collect()
}

fn address(text: Option<String>) -> Option<IpAddr> {
    text.map(|text| text.parse().expect("an address"))
}

/// What the tables say of the emails whose id begins with `prefix`, verdicts and counters included; emails that are not
/// shown are left out. Fails if a row is wrong about when its email's latest hit and mark were, which no list shows.
pub async fn stored_emails(client: &Client, prefix: &str) -> BTreeMap<String, Email> {
    latest_times_are_right(client, prefix).await;
    let mut verdicts = stored_verdicts(client, prefix).await;
    let mut agents = stored_agents(client, prefix).await;
    let rows = client
        .query(
            "select email_id, user_id, recipient, sent_at, (extract(epoch from first_opened_at) * 1000)::bigint,
                    sender_email, open_count, hit_count, (extract(epoch from last_opened_at) * 1000)::bigint,
                    credible_open_count, (extract(epoch from last_credible_open_at) * 1000)::bigint,
                    human_open_count, (extract(epoch from last_human_open_at) * 1000)::bigint,
                    (extract(epoch from earliest_open_at) * 1000)::bigint,
                    (extract(epoch from earliest_credible_open_at) * 1000)::bigint,
                    (extract(epoch from earliest_human_open_at) * 1000)::bigint,
                    (extract(epoch from sent_time) * 1000)::bigint
             from tracked_emails where starts_with(email_id, $1) and first_opened_at is not null",
            &[&prefix],
        )
        .await
        .expect("reading the emails");
    let emails = rows
        .iter()
        .map(|row| {
            let email_id: String = row.get(0);
            let time = |column| row.get::<_, Option<i64>>(column).map(Timestamp::from_millis);
            assert_eq!(
                time(16),
                Timestamp::parse_iso(row.get(3)),
                "the time that {email_id} was sent at"
            );
            let email = Email {
                user_id: row.get(1),
                recipient: row.get(2),
                sent_at: row.get(3),
                created_at: Timestamp::from_millis(row.get(4)),
                sender_email: row.get(5),
                open_count: row.get(6),
                hit_count: row.get(7),
                last_opened_at: time(8),
                credible_open_count: row.get(9),
                last_credible_open_at: time(10),
                human_open_count: row.get(11),
                last_human_open_at: time(12),
                earliest_open_at: time(13),
                earliest_credible_open_at: time(14),
                earliest_human_open_at: time(15),
                agents: agents.remove(&email_id).unwrap_or_default(),
                verdicts: verdicts.remove(&email_id).unwrap_or_default(),
            };
            (email_id, email)
        })
        .collect();
    assert!(
        verdicts.is_empty(),
        "hits of emails that are not shown: {verdicts:?}"
    );
    emails
}

/// Who made each hit. Fails if a hit is not believed as far as its agent is.
async fn stored_agents(client: &Client, prefix: &str) -> BTreeMap<String, BTreeMap<Uuid, Agent>> {
    let rows = client
        .query(
            "select email_id, event_id, agent, confidence from hits where starts_with(email_id, $1)",
            &[&prefix],
        )
        .await
        .expect("reading the hits' agents");
    let mut agents: BTreeMap<String, BTreeMap<Uuid, Agent>> = BTreeMap::new();
    for row in &rows {
        let agent = Agent::named(row.get(2)).expect("an agent");
        assert_eq!(agent.confidence().as_str(), row.get::<_, &str>(3), "{agent:?}");
        agents.entry(row.get(0)).or_default().insert(row.get(1), agent);
    }
    agents
}

/// By these times the recorder knows that a batch comes after all that is stored.
async fn latest_times_are_right(client: &Client, prefix: &str) {
    let wrong = client
        .query(
            "select email_id from tracked_emails as email
             where starts_with(email_id, $1)
               and (last_hit_at is distinct from
                      (select max(opened_at) from hits where hits.email_id = email.email_id)
                    or last_marked_at is distinct from
                      (select max(marked_at) from marks where marks.email_id = email.email_id))",
            &[&prefix],
        )
        .await
        .expect("reading the latest times");
    let wrong: Vec<String> = wrong.iter().map(|row| row.get(0)).collect();
    assert!(
        wrong.is_empty(),
        "the latest hit or mark was at another time: {wrong:?}"
    );
}

async fn stored_verdicts(client: &Client, prefix: &str) -> BTreeMap<String, BTreeMap<Uuid, Verdict>> {
    let mut verdicts: BTreeMap<String, BTreeMap<Uuid, Verdict>> = BTreeMap::new();
    let rows = client
        .query(
            "select email_id, event_id, is_duplicate, (extract(epoch from consumed_mark_at) * 1000)::bigint,
                    consumed_mark_id, compose_window, is_open
             from hits where starts_with(email_id, $1)",
            &[&prefix],
        )
        .await
        .expect("reading the verdicts");
    for row in rows {
        let verdict = verdict(&row);
        assert_eq!(
            row.get::<_, bool>(6),
            verdict.is_open(),
            "is_open follows from the rest"
        );
        let twice = verdicts
            .entry(row.get(0))
            .or_default()
            .insert(row.get(1), verdict);
        assert_eq!(twice, None, "a hit is stored twice");
    }
    verdicts
}

fn verdict(row: &Row) -> Verdict {
    let mark_at: Option<i64> = row.get(3);
    let mark_id: Option<Uuid> = row.get(4);
    assert_eq!(
        mark_at.is_some(),
        mark_id.is_some(),
        "a mark has a time and an id"
    );
    Verdict {
        is_duplicate: row.get(2),
        consumed_mark: mark_at.zip(mark_id).map(|(at, mark_id)| MarkKey {
            marked_at: Timestamp::from_millis(at),
            mark_id,
        }),
        compose_window: row.get(5),
    }
}
