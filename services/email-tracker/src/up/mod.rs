//! `up`: pixel, recorder and dashboard in one process, on one public address and a PostgreSQL of their own.
//!
//! The order of the end is the reverse of the order of the start: first no more requests, then what the pixel still
//! forwards, then the recorder, then the database.

mod front;
mod greeting;
mod settings;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use database::{Config, DASHBOARD_ROLE, RECORDER_ROLE, RolePasswords};
use service_kit::{
    Metrics, Public, Reader, Sockets, Surroundings, SystemClock, Tasks,
    http::{self, Limits, Mount, shared_socket},
    program::{self, listen, listen_public},
    tasks::stop_on_signal,
    telemetry::{self, LogLevel},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracking::Clock as _;

pub(crate) use self::settings::SETTINGS;
use self::{
    front::join,
    greeting::Greeting,
    settings::{DatabaseUrls, Services, Settings, Wiring, spool_dir},
};
use crate::{
    data_dir::{DataDir, random_token},
    migrate,
    postgres::{self, DATABASE, OWNER, PrivatePostgres},
};

/// How long a given database may take to answer at the start.
const DATABASE_PATIENCE: Duration = Duration::from_secs(10);
/// What the services may take beyond their own grace period before they are cut off.
const BEYOND_GRACE: Duration = Duration::from_secs(5);

/// The whole command.
pub(crate) fn up() -> anyhow::Result<()> {
    let settings = Settings::read(&Reader::from_environment)?;
    program::block_on(run(settings))
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let logging = telemetry::logging(crate::NAME, &settings.common)?;
    let stop = stop_on_signal()?;
    let data_dir = DataDir::open(&settings.data_dir)?;
    let sockets = AllSockets::bind(&settings).await?;
    let private = match &settings.database {
        Some(given) => {
            let migrated = migrate::patiently(given, &RolePasswords::default(), DATABASE_PATIENCE).await;
            migrated.context("DATABASE_URL")?;
            None
        }
        None => Some(start_private(&settings, &data_dir, &stop).await?),
    };
    let database = private.as_ref().map(|private| private.urls.clone());
    let served = serve(&settings, &data_dir, sockets, database, logging.level(), stop).await;
    if let Some(private) = private {
        private.postgres.stop().await;
    }
    served
}

/// All sockets are taken before anything is started: a port in use is known at once.
struct AllSockets {
    public: TcpListener,
    /// Between pixel and recorder.
    recorder: TcpListener,
    pixel_admin: std::net::TcpListener,
    dashboard_admin: std::net::TcpListener,
    recorder_admin: std::net::TcpListener,
}

impl AllSockets {
    async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let admin = &settings.admin;
        Ok(Self {
            public: listen_public("PORT", settings.common.listen).await?,
            recorder: listen_public("loopback", SocketAddr::from(([127, 0, 0, 1], 0))).await?,
            pixel_admin: listen("PIXEL_ADMIN_PORT", admin.pixel)?,
            dashboard_admin: listen("DASHBOARD_ADMIN_PORT", admin.dashboard)?,
            recorder_admin: listen("RECORDER_ADMIN_PORT", admin.recorder)?,
        })
    }
}

struct Private {
    postgres: PrivatePostgres,
    urls: DatabaseUrls,
}

async fn start_private(
    settings: &Settings,
    data_dir: &DataDir,
    stop: &CancellationToken,
) -> anyhow::Result<Private> {
    let made_by = postgres::made_by(&postgres::cluster_folder(data_dir.path()))?;
    let programs = postgres::find(settings.pg_bin.as_deref(), &settings.path, made_by)?;
    tracing::info!("starts {programs}");
    let postgres = PrivatePostgres::start(data_dir.path(), programs, stop).await?;
    let url = |role: &str| {
        format!(
            "postgres://{role}@/{DATABASE}?host={}",
            postgres.socket_folder().display()
        )
    };
    let migrated = async {
        let owner = Config::new("DATA_DIR", &url(OWNER))?;
        // Nobody needs to know them: whoever can reach the socket is let in.
        let passwords = RolePasswords {
            recorder: Some(random_token()?),
            dashboard: Some(random_token()?),
        };
        migrate::patiently(&owner, &passwords, DATABASE_PATIENCE).await
    };
    match migrated.await {
        Ok(_) => {
            let urls = DatabaseUrls {
                recorder: url(RECORDER_ROLE),
                dashboard: url(DASHBOARD_ROLE),
            };
            Ok(Private { postgres, urls })
        }
        Err(error) => {
            postgres.stop().await;
            Err(error)
        }
    }
}

/// Runs the three services until `stop`.
async fn serve(
    settings: &Settings,
    data_dir: &DataDir,
    sockets: AllSockets,
    database: Option<DatabaseUrls>,
    log_level: LogLevel,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let own_token = match settings.dashboard_token {
        Some(_) => None,
        None => Some(data_dir.dashboard_token()?),
    };
    let wiring = Wiring {
        spool_dir: spool_dir(data_dir.path()),
        recorder: sockets.recorder.local_addr()?,
        recorder_token: random_token()?,
        dashboard_token: own_token.clone(),
        database,
    };
    let Services {
        pixel,
        recorder,
        dashboard,
    } = wiring.services(&Reader::from_environment)?;
    let address = sockets.public.local_addr()?;

    let surroundings = |name, public, admin, stop: &CancellationToken| -> anyhow::Result<Surroundings> {
        Ok(Surroundings {
            sockets: Sockets {
                public,
                admin,
                log_level: Some(log_level.clone()),
            },
            clock: Arc::new(SystemClock),
            metrics: Metrics::new(name)?,
            stop: stop.clone(),
        })
    };
    // The recorder ends after the pixel, which may still have something for it.
    let stop_recorder = CancellationToken::new();
    let recorder = spawn_recorder(
        recorder,
        surroundings(
            "recorder",
            Public::Socket(sockets.recorder),
            sockets.recorder_admin,
            &stop_recorder,
        )?,
        stop.clone(),
    );

    let grace = settings.common.grace;
    let drained = CancellationToken::new();
    let (pixel_public, pixel_mount) = shared_socket(drained.clone());
    let (dashboard_public, dashboard_mount) = shared_socket(drained.clone());
    let mut tasks = Tasks::new(&stop, grace + BEYOND_GRACE);
    tasks.spawn(
        "pixel",
        pixel::run(
            pixel,
            surroundings("pixel", pixel_public, sockets.pixel_admin, &stop)?,
        ),
    );
    tasks.spawn(
        "dashboard",
        dashboard::run(
            dashboard,
            surroundings("dashboard", dashboard_public, sockets.dashboard_admin, &stop)?,
        ),
    );
    let greeting = Greeting {
        address,
        dashboard_token: own_token.as_deref(),
        now: SystemClock.now(),
    }
    .to_string();
    tasks.spawn("http", async move {
        let _drained = drained.drop_guard();
        serve_public(
            sockets.public,
            pixel_mount,
            dashboard_mount,
            &greeting,
            grace / 2,
            stop,
        )
        .await
    });
    let front = tasks.finish().await;
    stop_recorder.cancel();
    let back = tokio::time::timeout(grace + BEYOND_GRACE, recorder)
        .await
        .map_err(|_| {
            anyhow!(
                "the recorder still ran {:?} after it was told to stop",
                grace + BEYOND_GRACE
            )
        })
        .and_then(|ended| ended.context("the recorder panicked")?);
    front.and(back)
}

/// A recorder that ends, however it does, ends everything.
fn spawn_recorder(
    settings: recorder::Settings,
    surroundings: Surroundings,
    stop: CancellationToken,
) -> JoinHandle<anyhow::Result<()>> {
    tokio::spawn(async move {
        let _everything = stop.drop_guard();
        recorder::run(settings, surroundings)
            .await
            .context("recorder failed")
    })
}

/// Takes both services' routers, says where they are, and serves them until `stop`.
async fn serve_public(
    listener: TcpListener,
    pixel: Mount,
    dashboard: Mount,
    greeting: &str,
    grace: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let routers = async { Some(join(pixel.router().await?, dashboard.router().await?)) };
    let router = tokio::select! {
        router = routers => router,
        () = stop.cancelled() => None,
    };
    let Some(router) = router else {
        // A service that ended without a router says itself why, and ends everything.
        stop.cancelled().await;
        return Ok(());
    };
    greet(greeting);
    http::serve(listener, router, Limits::default(), grace, stop).await
}

#[expect(clippy::print_stdout, reason = "for the user who started it")]
fn greet(greeting: &str) {
    println!("\n{greeting}");
}
