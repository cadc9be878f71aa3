//! A running dashboard over a database whose rows are what the reference model makes of given facts.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
};

use dashboard::Settings;
use database::{Config, RolePasswords, Timestamptz};
use service_kit::{Metrics, Public, Reader, Sockets, Surroundings};
use test_support::{
    PrivatePostgres, TestDatabase,
    http::{Answer, Request},
};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracking::{Fact, Hit, Mark, MockClock, Rules, Timestamp, Token, facts::new_id, model};

/// What the running dashboards accept.
pub const TOKEN: &str = "a-token-for-tests";
/// Where the clock stands at first: 2026-03-01T12:00:00Z. Facts of tests lie in March 2026.
pub const NOON: i64 = 1_772_366_400_000;

/// A dashboard of a test's own; it ends with the value.
pub struct Running {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub clock: MockClock,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    /// If nobody else keeps it.
    database: Option<TestDatabase>,
}

/// A fresh database of the current schema.
pub async fn new_database() -> TestDatabase {
    PrivatePostgres::shared(migrate).await.database().await
}

/// Migrates the database at `url`, its owner's.
pub async fn migrate(url: String) {
    let config = Config::new("DATABASE_URL", &url).expect("the owner's URL");
    let passwords = RolePasswords {
        recorder: None,
        dashboard: Some("only-for-tests".into()),
    };
    database::migrate(&config, &passwords)
        .await
        .expect("a migrated database");
}

/// The settings of a dashboard that reads at `database_url`.
pub fn settings(database_url: &str, more: &[(&str, &str)]) -> Settings {
    let mut reader =
        Reader::from_variables([("DATABASE_URL", database_url), ("SHUTDOWN_GRACE_SECONDS", "1")]);
    for (name, value) in more {
        reader.set(name, *value);
    }
    let settings = Settings::read(&mut reader);
    reader.finish(settings).expect("settings")
}

impl Running {
    /// Over `database`, as the dashboard's role, with [`TOKEN`].
    pub async fn over(database: &TestDatabase) -> Self {
        let url = database.url_of(database::DASHBOARD_ROLE);
        Self::with(settings(&url, &[("DASHBOARD_TOKEN", TOKEN)])).await
    }

    /// Over a database without any fact.
    pub async fn without_facts() -> Self {
        let database = new_database().await;
        let mut running = Self::over(&database).await;
        running.database = Some(database);
        running
    }

    /// With these settings.
    pub async fn with(settings: Settings) -> Self {
        let public = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, admin_address) = (public.local_addr().unwrap(), admin.local_addr().unwrap());
        let clock = MockClock::at(Timestamp::from_millis(NOON));
        let stop = CancellationToken::new();
        let surroundings = Surroundings {
            sockets: Sockets {
                public: Public::Socket(public),
                admin,
                log_level: None,
            },
            clock: Arc::new(clock.clone()),
            metrics: Metrics::new("dashboard").unwrap(),
            stop: stop.clone(),
        };
        Self {
            address,
            admin: admin_address,
            clock,
            task: tokio::spawn(dashboard::run(settings, surroundings)),
            stop,
            database: None,
        }
    }

    /// A GET with the token.
    pub async fn get(&self, target: &str) -> Answer {
        authorized("GET", target).send(self.address).await
    }

    /// The JSON of a successful GET with the token.
    pub async fn json(&self, target: &str) -> serde_json::Value {
        let answer = self.get(target).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{target}"
        );
        answer.json()
    }

    /// One field of each item of a list.
    pub async fn column(&self, target: &str, field: &str) -> Vec<String> {
        column(&self.json(target).await, field)
    }

    /// What Prometheus would read.
    pub async fn metrics(&self) -> String {
        test_support::http::get(self.admin, "/metrics")
            .await
            .text()
            .to_owned()
    }

    /// The number in the metrics' line that begins with `series`.
    pub async fn metric(&self, series: &str) -> f64 {
        let metrics = self.metrics().await;
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("{series} ")));
        let line = line.unwrap_or_else(|| panic!("no {series} in\n{metrics}"));
        line[series.len()..].trim().parse().unwrap()
    }

    /// Stops it and tells how it ended.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        (&mut self.task).await.expect("no panic")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A request that carries the token.
pub fn authorized(method: &str, target: &str) -> Request {
    Request::new(method, target).header("x-tracker-token", TOKEN)
}

/// One field of each item, as text.
pub fn column(list: &serde_json::Value, field: &str) -> Vec<String> {
    let items = list["items"].as_array().expect("items");
    items
        .iter()
        .map(|item| match &item[field] {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect()
}

/// Facts as the pixel made them; ids count up, so that facts of one millisecond are in the order they were added.
#[derive(Clone, Default)]
pub struct Facts {
    pub facts: Vec<Fact>,
    count: u32,
}

/// Who asked for a pixel.
pub const READER: (&str, &str) = ("203.0.113.7", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0");
/// Gmail's image proxy.
pub const PROXY: (&str, &str) = ("66.249.84.1", "Mozilla/5.0 (via ggpht.com GoogleImageProxy)");

impl Facts {
    fn next_id(&mut self, at: Timestamp) -> uuid::Uuid {
        self.count += 1;
        let mut random = [0; 10];
        random[2..6].copy_from_slice(&self.count.to_be_bytes());
        new_id(at, random).unwrap()
    }

    /// A hit at `NOON + at` by `who`, of a mail to `EMAIL_ID@example.org`.
    pub fn hit(&mut self, email_id: &str, at: i64, who: (&str, &str)) -> &mut Self {
        let token = Token {
            user_id: "user-1".into(),
            email_id: email_id.into(),
            recipient: format!("{email_id}@example.org"),
            sent_at: "2026-03-01T11:00:00.000Z".into(),
            sender_email: None,
        };
        self.hit_of(token, at, who)
    }

    /// A hit with this token.
    pub fn hit_of(&mut self, token: Token, at: i64, (address, user_agent): (&str, &str)) -> &mut Self {
        let opened_at = Timestamp::from_millis(NOON + at);
        let hit = Hit {
            event_id: self.next_id(opened_at),
            opened_at,
            token,
            client_address: address.parse().unwrap(),
            user_agent: Some(user_agent.to_owned()).filter(|agent| !agent.is_empty()),
            referer_host: None,
        };
        self.facts.push(Fact::Hit(hit));
        self
    }

    /// The last added hit came from a page of `host`.
    pub fn on_page_of(&mut self, host: &str) -> &mut Self {
        if let Some(Fact::Hit(hit)) = self.facts.last_mut() {
            hit.referer_host = Some(host.into());
        }
        self
    }

    /// A mark at `NOON + at`.
    pub fn mark(&mut self, email_id: &str, at: i64) -> &mut Self {
        let marked_at = Timestamp::from_millis(NOON + at);
        let mark = Mark {
            mark_id: self.next_id(marked_at),
            marked_at,
            email_id: email_id.into(),
            client_address: IpAddr::from([198, 51, 100, 4]),
            user_agent: Some("Chrome".into()),
        };
        self.facts.push(Fact::Mark(mark));
        self
    }

    /// Stores all facts with the model's verdicts, as the recorder would have, and raises the revision.
    pub async fn store(&self, client: &Client) {
        let emails = model::emails(&Rules::default(), &self.facts);
        client
            .batch_execute("begin; select add_hits_partition('2026-03-01T00:00Z')")
            .await
            .unwrap();
        for (email_id, email) in &emails {
            store_email(client, email_id, email).await;
        }
        for fact in &self.facts {
            match fact {
                Fact::Hit(hit) => store_hit(client, hit, &emails[&hit.token.email_id]).await,
                Fact::Mark(mark) => store_mark(client, mark).await,
            }
        }
        raise_revision(client).await;
        client.batch_execute("commit").await.unwrap();
    }
}

async fn store_email(client: &Client, email_id: &str, email: &model::Email) {
    client
        .execute(
            "insert into tracked_emails (email_id, user_id, recipient, sent_at, first_opened_at, sender_email,
                                         open_count, hit_count, last_opened_at, credible_open_count,
                                         last_credible_open_at, human_open_count, last_human_open_at,
                                         sent_time, earliest_open_at, earliest_credible_open_at,
                                         earliest_human_open_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
             on conflict (email_id) do update
             set open_count = $7, hit_count = $8, last_opened_at = $9, credible_open_count = $10,
                 last_credible_open_at = $11, human_open_count = $12, last_human_open_at = $13,
                 sent_time = $14, earliest_open_at = $15, earliest_credible_open_at = $16,
                 earliest_human_open_at = $17",
            &[
                &email_id,
                &email.user_id,
                &email.recipient,
                &email.sent_at,
                &Timestamptz(email.created_at),
                &email.sender_email,
                &email.open_count,
                &email.hit_count,
                &email.last_opened_at.map(Timestamptz),
                &email.credible_open_count,
                &email.last_credible_open_at.map(Timestamptz),
                &email.human_open_count,
                &email.last_human_open_at.map(Timestamptz),
                &Timestamp::parse_iso(&email.sent_at).map(Timestamptz),
                &email.earliest_open_at.map(Timestamptz),
                &email.earliest_credible_open_at.map(Timestamptz),
                &email.earliest_human_open_at.map(Timestamptz),
            ],
        )
        .await
        .unwrap();
}

async fn store_hit(client: &Client, hit: &Hit, email: &model::Email) {
    let stale = "insert into stale_slots values (date_bin('15 minutes', $1, 'epoch'))";
    client
        .execute(stale, &[&Timestamptz(hit.opened_at)])
        .await
        .unwrap();
    let verdict = &email.verdicts[&hit.event_id];
    let agent = email.agents[&hit.event_id];
    let mark = verdict.consumed_mark;
    client
        .execute(
            "insert into hits (email_id, opened_at, event_id, client_address, user_agent, referer_host,
                               dedup_key, google_proxy, is_duplicate, consumed_mark_at, consumed_mark_id,
                               compose_window, device_type, agent, confidence)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'other', $13, $14)
             on conflict do nothing",
            &[
                &hit.token.email_id,
                &Timestamptz(hit.opened_at),
                &hit.event_id,
                &hit.client_address,
                &hit.user_agent,
                &hit.referer_host,
                &hit.dedup_key().as_i64(),
                &tracking::agent::is_google_proxy_hit(hit.user_agent.as_deref(), hit.client_address),
                &verdict.is_duplicate,
                &mark.map(|mark| Timestamptz(mark.marked_at)),
                &mark.map(|mark| mark.mark_id),
                &verdict.compose_window,
                &agent.as_str(),
                &agent.confidence().as_str(),
            ],
        )
        .await
        .unwrap();
}

async fn store_mark(client: &Client, mark: &Mark) {
    let email = "insert into tracked_emails (email_id) values ($1) on conflict do nothing";
    client.execute(email, &[&mark.email_id]).await.unwrap();
    client
        .execute(
            "insert into marks (email_id, marked_at, mark_id, client_address, user_agent)
             values ($1, $2, $3, $4, $5) on conflict do nothing",
            &[
                &mark.email_id,
                &Timestamptz(mark.marked_at),
                &mark.mark_id,
                &mark.client_address,
                &mark.user_agent,
            ],
        )
        .await
        .unwrap();
}

/// What a recorder worker does in each of its transactions.
pub async fn raise_revision(client: &Client) {
    client
        .batch_execute(
            "insert into revisions values ('worker-1', 1)
             on conflict (writer) do update set revision = revisions.revision + 1",
        )
        .await
        .unwrap();
}

/// Stores `count` emails of one hit each, without that hit; their recipients have `recipient_length` characters.
pub async fn store_many_emails(client: &Client, count: i32, recipient_length: i32) {
    client
        .execute(
            "insert into tracked_emails (email_id, user_id, recipient, sent_at, first_opened_at, open_count, hit_count,
                                         last_opened_at)
             select 'email-' || n, 'user-1', rpad('person' || n || '@example.org', $2, '.x'), '2026-03-01T11:00:00.000Z',
                    at, 1, 1, at
             from (select n, timestamptz '2026-03-01T00:00Z' + n * interval '1 ms' as at
                   from generate_series(1, $1) n) emails",
            &[&count, &recipient_length],
        )
        .await
        .unwrap();
    client.batch_execute("analyze tracked_emails").await.unwrap();
}

/// A JSON object's keys, sorted.
pub fn keys(object: &serde_json::Value) -> Vec<&str> {
    let sorted: BTreeMap<_, _> = object.as_object().expect("an object").iter().collect();
    sorted.into_keys().map(String::as_str).collect()
}
