//! The service that the tests start.

use std::process::ExitCode;

use anyhow::bail;
use axum::{Router, routing::get};
use service_kit::{
    Common, Health, Program, Reader, Readiness, Secret, Setting, Surroundings, Tasks, admin, http::Limits,
};
use tokio::sync::mpsc;

const GREETING: Setting = Setting::new("GREETING", "hello", "What it answers.");
const TOKEN: Setting = Setting::secret("TOKEN", "", "Nobody's business.");

struct Settings {
    common: Common,
    greeting: String,
    _token: Option<Secret>,
}

impl Settings {
    fn read(reader: &mut Reader) -> Self {
        Self {
            common: Common::read(reader, 0, 0),
            greeting: reader.text(&GREETING).unwrap_or_else(|| "hello".to_owned()),
            _token: reader.secret(&TOKEN),
        }
    }
}

pub(crate) fn main() -> ExitCode {
    let program = Program {
        name: "greeter",
        about: "greets",
        read: Settings::read,
        common: |settings| &settings.common,
    };
    program.main(run)
}

async fn run(settings: Settings, surroundings: Surroundings) -> anyhow::Result<()> {
    let Surroundings {
        sockets,
        metrics,
        stop,
        ..
    } = surroundings;
    let (fail, mut failed) = mpsc::channel::<()>(1);
    let greeting = settings.greeting;
    let router = Router::new()
        .route("/", get(async move || greeting))
        // Answers once the whole body is there: a request that takes as long as a test wants.
        .route("/echo", get(async |body: String| body))
        .route("/debug", get(async || tracing::debug!("somebody looks closer")))
        .route(
            "/traced",
            get(async || tracing::info_span!("a traced piece of work").in_scope(|| {})),
        )
        .route(
            "/fail",
            get(async move || {
                fail.send(()).await.unwrap();
                std::future::pending::<()>().await;
            }),
        );
    let readiness = Readiness::new().check("greeting", async || Health::Ok);
    let grace = settings.common.grace;
    let mut tasks = Tasks::new(&stop, grace);
    tasks.spawn(
        "admin",
        admin::serve(sockets.admin, readiness, metrics, sockets.log_level, stop.clone()),
    );
    let told = stop.clone();
    tasks.spawn("worker", async move {
        tokio::select! {
            Some(()) = failed.recv() => bail!("out of luck"),
            () = told.cancelled() => Ok(()),
        }
    });
    // A part of the grace, so that what comes after the requests has some of it too.
    tasks.spawn(
        "http",
        sockets.public.serve(router, Limits::default(), grace / 2, stop),
    );
    tasks.finish().await
}
