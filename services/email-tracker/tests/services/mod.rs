//! The services in this process, each from its own settings, as `up` and their programs run them.
#![allow(dead_code, reason = "no test needs all of it")]

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as BlockingListener},
    path::Path,
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use database::{Config, DASHBOARD_ROLE, RECORDER_ROLE, RolePasswords};
use serde_json::Value;
use service_kit::{Metrics, Public, Reader, Sockets, Surroundings, SystemClock};
use test_support::{
    TestDatabase, eventually, free_port,
    http::{Request, get},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// What the dashboards accept.
pub(crate) const TOKEN: &str = "the-dashboard-token";

pub(crate) async fn migrate(url: String) {
    let config = Config::new("DATABASE_URL", &url).unwrap();
    let passwords = RolePasswords {
        recorder: Some("recorder".into()),
        dashboard: Some("dashboard".into()),
    };
    database::migrate(&config, &passwords).await.unwrap();
}

pub(crate) async fn socket(address: Ipv4Addr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A service's surroundings, with where it will be and where its admin port is.
pub(crate) async fn surroundings(
    name: &'static str,
    admin: Ipv4Addr,
    stop: &CancellationToken,
) -> (Surroundings, SocketAddr, SocketAddr) {
    let (public, address) = socket(Ipv4Addr::LOCALHOST).await;
    let admin = BlockingListener::bind((admin, 0)).unwrap();
    let admin_address = admin.local_addr().unwrap();
    let surroundings = Surroundings {
        sockets: Sockets {
            public: Public::Socket(public),
            admin,
            log_level: None,
        },
        clock: Arc::new(SystemClock),
        metrics: Metrics::new(name).unwrap(),
        stop: stop.clone(),
    };
    (surroundings, address, admin_address)
}

pub(crate) fn settings<T>(variables: &[(&str, &str)], read: fn(&mut Reader) -> T) -> T {
    let mut reader = Reader::from_variables(variables.iter().copied());
    reader.set("SHUTDOWN_GRACE_SECONDS", "1");
    let settings = read(&mut reader);
    reader.finish(settings).unwrap()
}

/// Waits until the service with this admin port says so.
pub(crate) async fn is_ready(admin: SocketAddr) {
    eventually("a service is ready", async || {
        let answer = get(admin, "/ready").await;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// Pixel, recorder and dashboard of one Email Tracker; they end with this value.
pub(crate) struct Services {
    pub(crate) pixel: SocketAddr,
    pixel_admin: SocketAddr,
    /// Always the same, for the pixel.
    recorder: SocketAddr,
    behind: Behind,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Those who need the database.
struct Behind {
    recorder_admin: SocketAddr,
    dashboard: SocketAddr,
    dashboard_admin: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Behind {
    async fn start(recorder_url: &str, dashboard_url: &str, recorder: SocketAddr) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (mut given, _, recorder_admin) = surroundings("recorder", Ipv4Addr::LOCALHOST, &stop).await;
        given.sockets.public = Public::Socket(TcpListener::bind(recorder).await.unwrap());
        let told = settings(&[("DATABASE_URL", recorder_url)], recorder::Settings::read);
        tasks.spawn(async move { recorder::run(told, given).await.unwrap() });

        let (given, dashboard, dashboard_admin) = surroundings("dashboard", Ipv4Addr::LOCALHOST, &stop).await;
        let told = settings(
            &[
                ("DATABASE_URL", dashboard_url),
                ("DASHBOARD_TOKEN", TOKEN),
                ("RECORDER_URL", &format!("http://{recorder}")),
            ],
            dashboard::Settings::read,
        );
        tasks.spawn(async move { dashboard::run(told, given).await.unwrap() });
        Self {
            recorder_admin,
            dashboard,
            dashboard_admin,
            stop,
            tasks,
        }
    }

    async fn are_ready(&self) {
        for admin in [self.recorder_admin, self.dashboard_admin] {
            is_ready(admin).await;
        }
    }
}

impl Services {
    /// With the recorder at the one URL and the dashboard at the other, once all are ready.
    pub(crate) async fn between(recorder_url: &str, dashboard_url: &str, spool_dir: &Path) -> Self {
        let services = Self::begun(recorder_url, dashboard_url, spool_dir).await;
        services.behind.are_ready().await;
        services
    }

    /// The same, once the pixel answers.
    pub(crate) async fn begun(recorder_url: &str, dashboard_url: &str, spool_dir: &Path) -> Self {
        let recorder = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let behind = Behind::start(recorder_url, dashboard_url, recorder).await;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (given, pixel, pixel_admin) = surroundings("pixel", Ipv4Addr::LOCALHOST, &stop).await;
        let url = format!("http://{recorder}");
        let told = settings(
            &[
                ("SPOOL_DIR", spool_dir.to_str().unwrap()),
                ("RECORDER_URL", &url),
                ("TRUSTED_PROXIES", "127.0.0.1"),
            ],
            pixel::Settings::read,
        );
        tasks.spawn(async move { pixel::run(told, given).await.unwrap() });
        is_ready(pixel_admin).await;
        Self {
            pixel,
            pixel_admin,
            recorder,
            behind,
            stop,
            tasks,
        }
    }

    /// Stops the recorder and the dashboard, and waits for their end.
    pub(crate) async fn stop_behind(&mut self) {
        self.behind.stop.cancel();
        while let Some(ended) = self.behind.tasks.join_next().await {
            ended.unwrap();
        }
    }

    /// Starts them again, at these URLs, and waits until they are ready.
    pub(crate) async fn start_behind(&mut self, recorder_url: &str, dashboard_url: &str) {
        self.behind = Behind::start(recorder_url, dashboard_url, self.recorder).await;
        self.behind.are_ready().await;
    }

    /// A hit of the email by the reader with this number, answered by the GIF.
    pub(crate) async fn hit(&self, token: &str, reader: u8) {
        let request = Request::get(&format!("/t/{token}.gif"));
        let request = request.header("x-forwarded-for", &format!("203.0.113.{reader}"));
        let answer = request.header("user-agent", "a browser").send(self.pixel).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("image/gif"))
        );
    }

    /// A list of the API; none while the database is away.
    pub(crate) async fn items(&self, target: &str) -> Vec<Value> {
        assert!(!self.tasks.is_empty());
        let request = Request::get(target).header("x-tracker-token", TOKEN);
        let answer = request.send(self.behind.dashboard).await;
        if answer.status == 503 {
            return Vec::new();
        }
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer.json()["items"].as_array().unwrap().clone()
    }

    /// Waits until the one email there is has so many hits and opens.
    pub(crate) async fn shows(&self, hits: u64, opens: u64) {
        eventually("all hits are shown", async || {
            let emails = self.items("/dashboard/api/emails").await;
            let email = emails.first()?;
            let counted = (
                email["raw_open_events"].as_u64()?,
                email["unique_open_count"].as_u64()?,
            );
            assert!(counted.0 <= hits && emails.len() == 1, "{emails:?}");
            (counted == (hits, opens)).then_some(())
        })
        .await;
    }

    /// How often the recorder has answered batches with `code`.
    pub(crate) async fn batches(&self, code: &str) -> u64 {
        let series = format!("email_tracker_recorder_batches_total{{code=\"{code}\"}}");
        self.recorders(&series).await
    }

    /// A number of the recorder's metrics.
    pub(crate) async fn recorders(&self, series: &str) -> u64 {
        metric(self.behind.recorder_admin, series).await
    }

    /// A number of the pixel's metrics.
    pub(crate) async fn pixels(&self, series: &str) -> u64 {
        metric(self.pixel_admin, series).await
    }

    /// Where the dashboard is.
    pub(crate) fn dashboard_url(&self) -> String {
        format!("http://{}", self.behind.dashboard)
    }
}

async fn metric(admin: SocketAddr, series: &str) -> u64 {
    let metrics = get(admin, "/metrics").await;
    let start = format!("{series} ");
    let found = metrics.text().lines().find_map(|line| line.strip_prefix(&start));
    found.map_or(0, |number| number.parse().unwrap())
}

/// Erases by a recorder and a dashboard of their own, which end after it.
pub(crate) async fn erase_elsewhere(recorder_url: &str, dashboard_url: &str, wish: &Value) -> Value {
    let recorder = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let behind = Behind::start(recorder_url, dashboard_url, recorder).await;
    behind.are_ready().await;
    let request = Request::post_json("/dashboard/api/v1/erasures", wish.to_string());
    let answer = request
        .header("x-tracker-token", TOKEN)
        .send(behind.dashboard)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    behind.stop.cancel();
    answer.json()
}

/// What the extension puts into a pixel's address.
pub(crate) fn token(email_id: &str) -> String {
    let json = format!(r#"["user","{email_id}","someone@example.com","2026-01-01T00:00:00Z"]"#);
    BASE64_URL_SAFE_NO_PAD.encode(json)
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop.cancel();
        self.behind.stop.cancel();
    }
}

/// The URLs of the recorder's role and the dashboard's.
pub(crate) fn urls(database: &TestDatabase) -> (String, String) {
    (database.url_of(RECORDER_ROLE), database.url_of(DASHBOARD_ROLE))
}
