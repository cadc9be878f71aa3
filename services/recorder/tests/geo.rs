//! Places as the running recorder stores them: from the shipped countries, from the operator's file as it changes, and
//! none of what came through a proxy.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use common::{at, facts, fresh_database, hit, pool};
use database::RECORDER_ROLE;
use recorder::{GeoDatabase, Recorder, RecorderConfig, Settings};
use recorder_api::v1::{self, recorder_client::RecorderClient};
use service_kit::{Metrics, Public, Reader, Sockets, Surroundings};
use test_support::{TestDatabase, eventually, http};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracking::{Fact, Hit, MockClock, Rules, Timestamp, agents::Agents};

/// In the shipped database: GB.
const LONDON: [u8; 4] = [81, 2, 69, 142];
/// In the shipped database: NL.
const AMSTERDAM: [u8; 4] = [193, 0, 6, 139];

/// The recorder as its main runs it, stopped with the test.
struct Service {
    channel: Channel,
    admin: SocketAddr,
    stop: CancellationToken,
}

impl Service {
    async fn start(database: &TestDatabase, more: &[(&str, &str)]) -> Self {
        let url = database.url_of(RECORDER_ROLE);
        let variables = [("DATABASE_URL", url.as_str())];
        let mut reader = Reader::from_variables(variables.into_iter().chain(more.iter().copied()));
        let settings = Settings::read(&mut reader);
        let settings = reader.finish(settings).unwrap();
        let public = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Self {
            channel: Channel::builder(
                format!("http://{}", public.local_addr().unwrap())
                    .parse()
                    .unwrap(),
            )
            .connect_lazy(),
            admin: admin.local_addr().unwrap(),
            stop: CancellationToken::new(),
        };
        let surroundings = Surroundings {
            sockets: Sockets {
                public: Public::Socket(public),
                admin,
                log_level: None,
            },
            clock: Arc::new(MockClock::at(noon())),
            metrics: Metrics::new("recorder").unwrap(),
            stop: service.stop.clone(),
        };
        tokio::spawn(recorder::run(settings, surroundings));
        eventually("the recorder is ready", async || {
            (http::get(service.admin, "/ready").await.status == 200).then_some(())
        })
        .await;
        service
    }

    async fn record(&self, hits: Vec<Hit>) {
        let facts = hits
            .into_iter()
            .map(|hit| v1::Fact::from(Fact::Hit(hit)))
            .collect();
        RecorderClient::new(self.channel.clone())
            .record(v1::RecordRequest { facts })
            .await
            .unwrap();
    }

    async fn metric(&self, name: &str) -> u64 {
        let answer = http::get(self.admin, "/metrics").await;
        let of = |line: &str| Some(line.strip_prefix(name)?.trim().parse().unwrap());
        answer.text().lines().find_map(of).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn noon() -> Timestamp {
    at("2026-11-01T12:00:00.000Z")
}

fn from(email_id: &str, address: [u8; 4], user_agent: &str) -> Hit {
    Hit {
        client_address: address.into(),
        user_agent: Some(user_agent.to_owned()),
        ..hit(email_id, noon(), 1)
    }
}

fn by_browser(email_id: &str, address: [u8; 4]) -> Hit {
    let chrome = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";
    from(email_id, address, chrome)
}

async fn country(database: &TestDatabase, email_id: &str) -> Option<String> {
    let client = database.superuser().await;
    let statement = "select geo_country from hits where email_id = $1";
    client.query_one(statement, &[&email_id]).await.unwrap().get(0)
}

#[tokio::test]
async fn countries_are_known_without_any_setting_but_not_of_proxies() {
    let database = fresh_database().await;
    let service = Service::start(&database, &[]).await;
    assert!(
        service
            .metric("email_tracker_recorder_geoip_built_timestamp_seconds ")
            .await
            > 1_700_000_000
    );
    assert_eq!(service.metric("email_tracker_recorder_geoip_refused ").await, 0);
    let outlook = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";
    service
        .record(vec![
            by_browser("browser", LONDON),
            from("program", AMSTERDAM, "curl/8.5.0"),
            from(
                "gmail",
                LONDON,
                "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
            ),
            from(
                "yahoo",
                LONDON,
                "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
            ),
            from("apple", LONDON, "Mozilla/5.0"),
            from("outlook", [40, 94, 1, 1], outlook),
        ])
        .await;
    assert_eq!(country(&database, "browser").await.as_deref(), Some("GB"));
    assert_eq!(country(&database, "program").await.as_deref(), Some("NL"));
    for proxied in ["gmail", "yahoo", "apple", "outlook"] {
        assert_eq!(country(&database, proxied).await, None, "{proxied}");
    }
}

#[tokio::test]
async fn places_stay_unknown_if_that_is_wanted() {
    let database = fresh_database().await;
    let service = Service::start(&database, &[("GEOIP_DATABASE", "off")]).await;
    assert_eq!(
        service
            .metric("email_tracker_recorder_geoip_built_timestamp_seconds ")
            .await,
        0
    );
    service.record(vec![by_browser("browser", LONDON)]).await;
    assert_eq!(country(&database, "browser").await, None);
}

/// The shipped database with another code for the United Kingdom.
fn write_renamed(path: &Path, code: [u8; 2]) {
    let mut bytes = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/data/geo/countries.mmdb")).unwrap();
    let text = b"\x42GB"; // a text of two bytes
    let start = bytes.windows(3).rposition(|window| window == text).unwrap();
    bytes[start + 1..start + 3].copy_from_slice(&code);
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_new_file_is_taken_over_and_a_broken_one_is_not() {
    let database = fresh_database().await;
    let folder = tempfile::tempdir().unwrap();
    let (path, new) = (folder.path().join("own.mmdb"), folder.path().join("new"));
    write_renamed(&path, *b"AA");
    let service = Service::start(&database, &[("GEOIP_DATABASE", path.to_str().unwrap())]).await;
    service.record(vec![by_browser("first", LONDON)]).await;
    assert_eq!(country(&database, "first").await.as_deref(), Some("AA"));

    fs::write(&new, "nothing of the kind").unwrap();
    fs::rename(&new, &path).unwrap();
    let refused = async |value| {
        eventually("the file is refused or taken over", async || {
            let refused = service.metric("email_tracker_recorder_geoip_refused ").await;
            (refused == value).then_some(())
        })
        .await;
    };
    refused(1).await;
    service.record(vec![by_browser("second", LONDON)]).await;
    assert_eq!(country(&database, "second").await.as_deref(), Some("AA"));

    write_renamed(&new, *b"BB");
    fs::rename(&new, &path).unwrap();
    refused(0).await;
    service.record(vec![by_browser("third", LONDON)]).await;
    assert_eq!(country(&database, "third").await.as_deref(), Some("BB"));
}

/// What an earlier version stored of a proxy, or what new rules find to be one.
#[tokio::test]
async fn reclassifying_takes_the_places_of_proxies_away() {
    let database = fresh_database().await;
    let recorder = |rules: &Rules| {
        let config = RecorderConfig {
            instance: "r".to_owned(),
            workers: std::num::NonZeroUsize::MIN,
            rules: rules.clone(),
            geoip_database: GeoDatabase::Shipped,
        };
        Recorder::new(pool(&database, 3), config, Metrics::new("test").unwrap().meter()).unwrap()
    };
    let before = recorder(&Rules::default());
    let safari = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)";
    let hits = [by_browser("reader", LONDON), from("relay", AMSTERDAM, safari)];
    before.record(facts(hits, [])).await.unwrap();
    assert_eq!(country(&database, "relay").await.as_deref(), Some("NL"));

    let after = recorder(&Rules {
        agents: Agents::with_networks("apple\t193.0.6.0/24").unwrap(),
        ..Rules::default()
    });
    assert_eq!(
        after.reclassify(noon()).await.unwrap().hits,
        0,
        "that is before all hits"
    );
    let later = noon().saturating_add_millis(1);
    while after.reclassify(later).await.unwrap().until.is_some() {}
    assert_eq!(country(&database, "relay").await, None);
    assert_eq!(country(&database, "reader").await.as_deref(), Some("GB"));

    // Left by a version that stored it all the same.
    let client = database.superuser().await;
    let statement = "update hits set geo_country = 'NL', geo_city = 'Amsterdam', latitude = 52, longitude = 5 where email_id = 'relay'";
    client.execute(statement, &[]).await.unwrap();
    let mut hits = 0;
    loop {
        let step = after.reclassify(later).await.unwrap();
        hits += step.hits;
        if step.until.is_none() {
            break;
        }
    }
    assert_eq!(hits, 1);
    let left =
        "select num_nonnulls(geo_country, geo_city, latitude, longitude) from hits where email_id = 'relay'";
    let left: i32 = client.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}
