//! `up`: pixel, recorder and dashboard in one process, on one public address and a PostgreSQL of their own.
//!
//! The pixel comes first: it answers, and keeps what it saw, while the database starts, which after a crash may take its
//! time. The order of the end is the reverse: first no more requests, then what the pixel still forwards, then the
//! recorder, then the database.

mod front;
mod greeting;
mod settings;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use database::{Config, DASHBOARD_ROLE, RECORDER_ROLE, RolePasswords};
use service_kit::{
    Metrics, Public, Reader, Sockets, Surroundings, SystemClock, Tasks,
    http::shared_socket,
    program::{self, listen, listen_public},
    tasks::stop_on_signal,
    telemetry::{self, LogLevel},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracking::Clock as _;

pub(crate) use self::settings::SETTINGS;
use self::{
    front::{Front, LateRouter},
    greeting::Greeting,
    settings::{DatabaseUrls, Settings, Wiring, spool_dir},
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
    let own_token = match settings.dashboard_token {
        Some(_) => None,
        None => Some(data_dir.dashboard_token()?),
    };
    let wiring = Wiring {
        spool_dir: spool_dir(data_dir.path()),
        recorder: sockets.behind.recorder.local_addr()?,
        recorder_token: random_token()?,
        dashboard_token: own_token.clone(),
    };
    let greeting = Greeting {
        address: sockets.public.local_addr()?,
        dashboard_token: own_token,
        now: SystemClock.now(),
    };
    let mut process = Process::new(&settings, logging.level(), stop.clone());
    let late = process.start_pixel(&wiring, sockets.public, sockets.pixel_admin)?;

    let database = match ready_database(&settings, &data_dir, &stop).await {
        Ok(database) => database,
        Err(error) => {
            let was_told = stop.is_cancelled();
            stop.cancel();
            let front = process.tasks.finish().await;
            return if was_told { front } else { Err(error) };
        }
    };
    let served = process
        .serve(&wiring, database.as_ref(), sockets.behind, late, &greeting)
        .await;
    if let Some(private) = database {
        private.postgres.stop().await;
    }
    served
}

/// All sockets are taken before anything is started: a port in use is known at once.
struct AllSockets {
    public: TcpListener,
    pixel_admin: std::net::TcpListener,
    behind: SocketsBehind,
}

/// Those of the services that need the database.
struct SocketsBehind {
    /// Between pixel and recorder.
    recorder: TcpListener,
    recorder_admin: std::net::TcpListener,
    dashboard_admin: std::net::TcpListener,
}

impl AllSockets {
    async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let admin = &settings.admin;
        Ok(Self {
            public: listen_public("PORT", settings.common.listen).await?,
            pixel_admin: listen("PIXEL_ADMIN_PORT", admin.pixel)?,
            behind: SocketsBehind {
                recorder: listen_public("loopback", SocketAddr::from(([127, 0, 0, 1], 0))).await?,
                recorder_admin: listen("RECORDER_ADMIN_PORT", admin.recorder)?,
                dashboard_admin: listen("DASHBOARD_ADMIN_PORT", admin.dashboard)?,
            },
        })
    }
}

/// The private server, with the logins of the services.
struct Private {
    postgres: PrivatePostgres,
    urls: DatabaseUrls,
}

/// A database with this build's schema: the given one, or a private one.
async fn ready_database(
    settings: &Settings,
    data_dir: &DataDir,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Private>> {
    let Some(given) = &settings.database else {
        return start_private(settings, data_dir, stop).await.map(Some);
    };
    let migrated = migrate::patiently(given, &RolePasswords::default(), DATABASE_PATIENCE).await;
    migrated.context("DATABASE_URL").map(|_| None)
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

/// What the services of this process share, and those that run.
struct Process {
    tasks: Tasks,
    log_level: LogLevel,
    stop: CancellationToken,
    /// When the public address has answered its last request.
    drained: CancellationToken,
    grace: Duration,
}

impl Process {
    fn new(settings: &Settings, log_level: LogLevel, stop: CancellationToken) -> Self {
        let grace = settings.common.grace;
        Self {
            tasks: Tasks::new(&stop, grace + BEYOND_GRACE),
            log_level,
            stop,
            drained: CancellationToken::new(),
            grace,
        }
    }

    fn surroundings(
        &self,
        name: &'static str,
        public: Public,
        admin: std::net::TcpListener,
    ) -> anyhow::Result<Surroundings> {
        Ok(Surroundings {
            sockets: Sockets {
                public,
                admin,
                log_level: Some(self.log_level.clone()),
            },
            clock: Arc::new(SystemClock),
            metrics: Metrics::new(name)?,
            stop: self.stop.clone(),
        })
    }

    /// Starts the pixel and the public address; the dashboard joins it later.
    fn start_pixel(
        &mut self,
        wiring: &Wiring,
        public: TcpListener,
        admin: std::net::TcpListener,
    ) -> anyhow::Result<LateRouter> {
        let settings = wiring.pixel(&Reader::from_environment)?;
        let (shared, mount) = shared_socket(self.drained.clone());
        let surroundings = self.surroundings("pixel", shared, admin)?;
        self.tasks.spawn("pixel", pixel::run(settings, surroundings));
        let front = Front {
            listener: public,
            pixel: mount,
            dashboard: LateRouter::default(),
        };
        let late = front.dashboard.clone();
        let (stop, drained, grace) = (self.stop.clone(), self.drained.clone(), self.grace / 2);
        self.tasks.spawn("http", async move {
            let _drained = drained.drop_guard();
            front.serve(grace, stop).await
        });
        Ok(late)
    }

    /// Starts recorder and dashboard, and runs everything until `stop`.
    async fn serve(
        mut self,
        wiring: &Wiring,
        database: Option<&Private>,
        sockets: SocketsBehind,
        late: LateRouter,
        greeting: &Greeting,
    ) -> anyhow::Result<()> {
        let (recorder, dashboard) =
            wiring.behind(&Reader::from_environment, database.map(|private| &private.urls))?;
        // The recorder ends after the pixel, which may still have something for it.
        let stop_recorder = CancellationToken::new();
        let surroundings = Surroundings {
            stop: stop_recorder.clone(),
            ..self.surroundings(
                "recorder",
                Public::Socket(sockets.recorder),
                sockets.recorder_admin,
            )?
        };
        let recorder = spawn_recorder(recorder, surroundings, self.stop.clone());

        let (shared, mount) = shared_socket(self.drained.clone());
        let surroundings = self.surroundings("dashboard", shared, sockets.dashboard_admin)?;
        self.tasks
            .spawn("dashboard", dashboard::run(dashboard, surroundings));
        // A dashboard that ends without one says itself why.
        if let Some(router) = mount.router().await {
            late.join(router);
            if !self.stop.is_cancelled() {
                greet(greeting);
            }
        }

        let front = self.tasks.finish().await;
        stop_recorder.cancel();
        front.and(ended(recorder, self.grace + BEYOND_GRACE).await)
    }
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

async fn ended(recorder: JoinHandle<anyhow::Result<()>>, limit: Duration) -> anyhow::Result<()> {
    match tokio::time::timeout(limit, recorder).await {
        Ok(ended) => ended.context("the recorder panicked")?,
        Err(_) => Err(anyhow!(
            "the recorder still ran {limit:?} after it was told to stop"
        )),
    }
}

fn greet(greeting: &Greeting) {
    // Nobody may be reading; that is no reason to end.
    let _ = write!(io::stdout(), "\n{greeting}");
}
