//! How long it takes from nothing until everything answers, natively and by compose, and what the images weigh.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;
use test_support::{Signal, Spawned, free_port};
use tokio::time::sleep;

use super::{
    Bench,
    compose::Compose,
    report::{Cell, Report, Table},
    stats::Times,
};
use crate::client;

const STARTS: usize = 3;
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let mut rows = native(bench).await?;
    let compose = Compose::build(bench)?;
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        compose.down(true)?;
        first.push(compose.up()?);
        compose.down(false)?;
        again.push(compose.up()?);
    }
    rows.push(row("docker compose up, no volumes yet", first));
    rows.push(row("docker compose up, volumes exist", again));
    let images = Compose::images()?.into_iter().map(|image| {
        vec![
            image.name.into(),
            image.base.into(),
            Cell::Count(image.own_layers),
            Cell::Bytes(image.own_bytes),
            Cell::Bytes(image.bytes),
        ]
    });
    Ok(Report {
        title: "start: until everything answers, and what the images weigh",
        notes: vec![
            format!(
                "{STARTS} starts each. Natively: from the making of the process until pixel and dashboard say that they are well. By \
                 compose: until `docker compose up -d --wait` ends, with images built; it asks each container twice a second."
            ),
            "Own layers: those that are not the base image's.".to_owned(),
        ],
        tables: vec![
            Table {
                columns: vec!["start", "shortest", "median", "longest"],
                rows,
            },
            Table {
                columns: vec!["image", "base", "own layers", "their size", "size with the base"],
                rows: images.collect(),
            },
        ],
    })
}

fn row(name: &str, times: Vec<Duration>) -> Vec<Cell> {
    let times = Times::of(times);
    vec![
        name.into(),
        Cell::Time(times.permille(0)),
        Cell::Time(times.median()),
        Cell::Time(times.longest()),
    ]
}

/// `email-tracker up` on a folder that does not exist, and again on what the first run left.
async fn native(bench: &Bench) -> anyhow::Result<Vec<Vec<Cell>>> {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        // PostgreSQL's socket wants a short path.
        let folder = tempfile::Builder::new().prefix("up-").tempdir()?;
        let data = folder.path().join("data");
        first.push(up(bench, &data).await?);
        again.push(up(bench, &data).await?);
    }
    Ok(vec![
        row("email-tracker up, no data yet", first),
        row("email-tracker up, data exist", again),
    ])
}

async fn up(bench: &Bench, data: &Path) -> anyhow::Result<Duration> {
    let port = free_port();
    let mut command = bench.programs.command("email-tracker");
    command
        .arg("up")
        .env("DATA_DIR", data)
        .env("PORT", port.to_string());
    for admin in ["PIXEL_ADMIN_PORT", "DASHBOARD_ADMIN_PORT", "RECORDER_ADMIN_PORT"] {
        command.env(admin, "0");
    }
    let begun = Instant::now();
    let mut process = Spawned::start(&mut command);
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    for path in ["/health", "/dashboard/health"] {
        while !client::get(address, path, &[])
            .await
            .is_ok_and(|answer| answer.status == 200)
        {
            let ended = process.try_exit();
            ensure!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "email-tracker up does not answer: {}",
                process.stderr()
            );
            sleep(Duration::from_millis(2)).await;
        }
    }
    let took = begun.elapsed();
    process.signal(Signal::INT);
    process.exit().await;
    Ok(took)
}
