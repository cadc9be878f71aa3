//! Everything that runs: a private PostgreSQL, recorders, pixels and a dashboard, each a process of its own, with lines
//! between them that can be made to fail.

mod service;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use test_support::{FaultProxy, OWNER_PASSWORD, PrivatePostgres, TestDatabase, free_port};

pub(crate) use self::service::Service;
use crate::programs::Programs;

pub(crate) const RECORDER_TOKEN: &str = "recorder-of-the-stack";
const RECORDER_PASSWORD: &str = "recorder@stack";
/// Of the dashboard's role at PostgreSQL.
pub(crate) const DASHBOARD_PASSWORD: &str = "dashboard@stack";
/// What the dashboard wants to be shown.
pub(crate) const DASHBOARD_TOKEN: &str = "dashboard-of-the-stack";

/// What a stack is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) pixels: Vec<PixelPlan>,
    /// The environment that each has beyond what all have.
    pub(crate) recorders: Vec<Vec<(String, String)>>,
    pub(crate) dedup_window_ms: i64,
    /// Whether bytes go through proxies that can fail, rather than directly.
    pub(crate) failing_lines: bool,
}

/// What is special about a pixel.
#[derive(Clone, Debug, Default)]
pub(crate) struct PixelPlan {
    /// Where its spool is, if not in the stack's folder.
    pub(crate) spool: Option<PathBuf>,
    /// Added to its environment.
    pub(crate) variables: Vec<(String, String)>,
}

/// What runs. Dropped, all of it ends and its folder goes.
pub(crate) struct Stack {
    pub(crate) pixels: Vec<Service>,
    pub(crate) recorders: Vec<Service>,
    pub(crate) dashboard: Service,
    pub(crate) lines: Vec<Line>,
    pub(crate) database: TestDatabase,
    pub(crate) postgres: PrivatePostgres,
}

/// A line between two parties, through a proxy.
pub(crate) struct Line {
    pub(crate) ends: Ends,
    pub(crate) proxy: FaultProxy,
}

/// Which kinds of parties a line is between; the first connects to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// The load to the pixel of this index.
    LoadToPixel(usize),
    PixelToRecorder,
    ToPostgres,
    LoadToDashboard,
}

impl Stack {
    /// Starts everything, and waits until all of it is ready. Logs and spools are kept below `folder`.
    pub(crate) async fn start(programs: &Programs, plan: &Plan, folder: &Path) -> anyhow::Result<Self> {
        Self::start_on(PrivatePostgres::start().await, programs, plan, folder).await
    }

    /// [`start`](Self::start) on a PostgreSQL with settings of the caller's.
    pub(crate) async fn start_on(
        postgres: PrivatePostgres,
        programs: &Programs,
        plan: &Plan,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let database = postgres.database().await;
        migrate(programs, &database)?;
        let mut maker = Maker {
            programs,
            plan,
            folder,
            lines: Vec::new(),
        };
        let mut recorders = Vec::new();
        for (index, special) in plan.recorders.iter().enumerate() {
            recorders.push(maker.recorder(index, special, &postgres, &database).await);
        }
        let mut pixels = Vec::new();
        for (index, special) in plan.pixels.iter().enumerate() {
            pixels.push(maker.pixel(index, special, &recorders).await?);
        }
        let dashboard = maker.dashboard(&postgres, &database).await;
        let mut stack = Self {
            pixels,
            recorders,
            dashboard,
            lines: maker.lines,
            database,
            postgres,
        };
        for service in stack.services_mut() {
            service.start();
        }
        for service in stack.services_mut() {
            service.ready().await;
        }
        Ok(stack)
    }

    pub(crate) fn services_mut(&mut self) -> impl Iterator<Item = &mut Service> {
        self.recorders
            .iter_mut()
            .chain(&mut self.pixels)
            .chain([&mut self.dashboard])
    }
}

/// Makes the services of a stack, and the lines between them.
struct Maker<'a> {
    programs: &'a Programs,
    plan: &'a Plan,
    folder: &'a Path,
    lines: Vec<Line>,
}

impl Maker<'_> {
    async fn recorder(
        &mut self,
        index: usize,
        special: &[(String, String)],
        postgres: &PrivatePostgres,
        database: &TestDatabase,
    ) -> Service {
        let way = self.line(Ends::ToPostgres, postgres.tcp_address()).await;
        let mut variables = owned(&[
            ("RECORDER_TOKEN", RECORDER_TOKEN),
            (
                "DATABASE_URL",
                &database.tcp_url_through("email_tracker_recorder", way),
            ),
            ("DATABASE_PASSWORD", RECORDER_PASSWORD),
            ("DEDUP_WINDOW_MS", &self.plan.dedup_window_ms.to_string()),
            // The model judges each hit by itself.
            ("BURST_MAILS", "0"),
        ]);
        variables.extend(special.iter().cloned());
        self.service("recorder", &format!("recorder-{index}"), variables)
    }

    async fn pixel(
        &mut self,
        index: usize,
        special: &PixelPlan,
        recorders: &[Service],
    ) -> anyhow::Result<Service> {
        let mut urls = Vec::new();
        for recorder in recorders {
            let way = self.line(Ends::PixelToRecorder, recorder.address).await;
            urls.push(format!("http://{way}"));
        }
        let own = self.folder.join(format!("spool-{index}"));
        let spool = special.spool.as_ref().unwrap_or(&own);
        let mut variables = owned(&[
            ("RECORDER_URL", &urls.join(",")),
            ("RECORDER_TOKEN", RECORDER_TOKEN),
            ("SPOOL_DIR", spool.to_str().context("a path in UTF-8")?),
            ("TRUSTED_PROXIES", "127.0.0.0/8"),
        ]);
        variables.extend(special.variables.iter().cloned());
        let pixel = self.service("pixel", &format!("pixel-{index}"), variables);
        self.line(Ends::LoadToPixel(index), pixel.address).await;
        Ok(pixel)
    }

    async fn dashboard(&mut self, postgres: &PrivatePostgres, database: &TestDatabase) -> Service {
        let way = self.line(Ends::ToPostgres, postgres.tcp_address()).await;
        let variables = owned(&[
            (
                "DASHBOARD_DATABASE_URL",
                &database.tcp_url_through("email_tracker_dashboard", way),
            ),
            ("DASHBOARD_DB_PASSWORD", DASHBOARD_PASSWORD),
            ("DASHBOARD_TOKEN", DASHBOARD_TOKEN),
        ]);
        let dashboard = self.service("dashboard", "dashboard", variables);
        self.line(Ends::LoadToDashboard, dashboard.address).await;
        dashboard
    }

    fn service(&self, program: &'static str, name: &str, mut variables: Vec<(String, String)>) -> Service {
        // Ports of its own, the same whenever it is started.
        variables.extend(owned(&[
            ("LISTEN", &Ipv4Addr::LOCALHOST.to_string()),
            ("PORT", &free_port().to_string()),
            ("ADMIN_PORT", &free_port().to_string()),
            ("SHUTDOWN_GRACE_SECONDS", "5"),
        ]));
        Service::new(self.programs, program, name, variables, self.folder)
    }

    /// The address by which to reach `to`: its own, or that of a proxy before it.
    async fn line(&mut self, ends: Ends, to: SocketAddr) -> SocketAddr {
        if !self.plan.failing_lines {
            return to;
        }
        let proxy = FaultProxy::start(to).await;
        let address = proxy.address();
        self.lines.push(Line { ends, proxy });
        address
    }
}

/// Gives the roles and tables to the database.
fn migrate(programs: &Programs, database: &TestDatabase) -> anyhow::Result<()> {
    let done = programs
        .command("email-tracker")
        .arg("migrate")
        .env("DATABASE_URL", database.tcp_url_of(test_support::OWNER))
        .env("DATABASE_PASSWORD", OWNER_PASSWORD)
        .env("RECORDER_DB_PASSWORD", RECORDER_PASSWORD)
        .env("DASHBOARD_DB_PASSWORD", DASHBOARD_PASSWORD)
        .output()?;
    anyhow::ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Adds the variables to the command.
pub(crate) fn with(mut command: Command, variables: &[(String, String)]) -> Command {
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command
}
