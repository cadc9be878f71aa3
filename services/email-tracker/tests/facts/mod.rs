//! A migrated database, and facts of all kinds recorded into it.
#![allow(dead_code, reason = "no test needs all of it")]

use std::num::NonZeroUsize;

use database::{Config, Database, RolePasswords, Session};
use recorder::{Recorder, RecorderConfig};
use service_kit::Metrics;
use test_support::{PrivatePostgres, TestDatabase};
use tracking::{Fact, Hit, Mark, Rules, Timestamp, Token, facts::new_id};

const PROXY: &str =
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";
const PHONE: &str =
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)";

/// A database with this version's schema and the services' roles.
pub(crate) async fn migrated(server: &PrivatePostgres) -> TestDatabase {
    let database = server.empty_database().await;
    let config = Config::new("DATABASE_URL", &database.url()).unwrap();
    let passwords = RolePasswords {
        recorder: Some("records".into()),
        dashboard: Some("reads".into()),
    };
    database::migrate(&config, &passwords).await.unwrap();
    database
}

/// Records into it.
pub(crate) fn recorder(database: &TestDatabase) -> Recorder {
    let config = Config::new("DATABASE_URL", &database.url())
        .unwrap()
        .session(Session::recorder());
    let metrics = Metrics::new("test").unwrap();
    let config_of_recorder = RecorderConfig {
        instance: "test".to_owned(),
        workers: NonZeroUsize::MIN,
        rules: Rules::default(),
        geoip_database: recorder::GeoDatabase::Off,
    };
    let database = Database::open(&config, metrics.meter()).unwrap();
    Recorder::new(database, config_of_recorder, metrics.meter()).unwrap()
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse_iso(text).unwrap()
}

fn hit(
    email: &str,
    opened_at: Timestamp,
    address: &str,
    user_agent: Option<&str>,
    referer: Option<&str>,
) -> Fact {
    let mut bits = [0; 10];
    for (bit, byte) in bits.iter_mut().zip(address.bytes().rev()) {
        *bit = byte;
    }
    Fact::Hit(Hit {
        event_id: new_id(opened_at, bits).unwrap(),
        opened_at,
        token: Token {
            user_id: "sender".into(),
            email_id: email.into(),
            recipient: "zoë@example.org, \"O'Neill\\\" <b@example.org>\t".into(),
            sent_at: "2026-01-02T03:04:05Z".into(),
            sender_email: (email != "1").then(|| "sender@example.com".into()),
        },
        client_address: address.parse().unwrap(),
        user_agent: user_agent.map(str::to_owned),
        referer_host: referer.map(str::to_owned),
    })
}

fn mark(email: &str, marked_at: Timestamp) -> Fact {
    Fact::Mark(Mark {
        mark_id: new_id(marked_at, [7; 10]).unwrap(),
        marked_at,
        email_id: email.into(),
        client_address: "2001:db8::7".parse().unwrap(),
        user_agent: Some("Chrome\n\\N".into()),
    })
}

/// Opens, duplicates, hits suppressed by marks and by the compose window, by proxies and by readers, over years; an email
/// never opened, one with a mark alone.
pub(crate) async fn record_all_kinds(database: &TestDatabase) {
    recorder(database).record(all_kinds()).await.unwrap();
}

/// The facts of that.
pub(crate) fn all_kinds() -> Vec<Fact> {
    let mut facts = Vec::new();
    for (email, begin) in [
        ("1", "2024-02-29T23:59:59.999Z"),
        ("2", "2026-03-01T00:00:00Z"),
        ("é\\3", "2025-12-31T12:00:00Z"),
    ] {
        let begin = at(begin);
        let after = |millis| begin.saturating_add_millis(millis);
        facts.extend([
            hit(
                email,
                begin,
                "203.0.113.1",
                Some("Chrome"),
                Some("mail.google.com"),
            ),
            hit(email, after(60_000), "203.0.113.7", Some(PHONE), None),
            hit(email, after(61_000), "203.0.113.7", Some(PHONE), None),
            mark(email, after(120_000)),
            hit(email, after(121_000), "66.249.84.1", Some(PROXY), None),
            hit(email, after(40 * 86_400_000), "66.249.84.2", Some(PROXY), None),
            hit(email, after(41 * 86_400_000), "2001:db8::1", None, None),
        ]);
    }
    facts.push(hit(
        "never",
        at("2026-02-02T00:00:00Z"),
        "203.0.113.1",
        None,
        Some("mail.google.com"),
    ));
    facts.push(mark("marked", at("2026-02-03T00:00:00Z")));
    facts
}

/// One open more.
pub(crate) async fn record_one(database: &TestDatabase, email: &str, opened_at: &str) {
    let fact = hit(email, at(opened_at), "203.0.113.99", None, None);
    recorder(database).record(vec![fact]).await.unwrap();
}
