//! The pixel by itself, and through what stands before it: Caddy as compose ships it, and nginx by nginx.conf.example.
//! All of them in containers on one network, in interleaved rounds.

mod generators;
mod nginx;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tracking::Token;

use self::{
    generators::{Found, Way, h2load_kept, h2load_new, wrk},
    nginx::Nginx,
};
use super::{
    Bench,
    compose::Compose,
    process::cpu_time,
    report::{Cell, Report, Table},
    stats::Rounds,
};
use crate::load;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
/// With a connection for each.
const NEW_CONNECTIONS: u32 = 2_000;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    /// The pixel's own port, plain.
    None,
    Caddy,
    /// Caddy's port for a proxy of the user's own, plain.
    CaddyPlain,
    /// nginx straight to the pixel, as before `email-tracker up`.
    Nginx,
    /// nginx to Caddy's plain port, as before compose.
    NginxAndCaddy,
}

impl Front {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "the pixel itself, plain",
            Self::Caddy => "Caddy, TLS",
            Self::CaddyPlain => "Caddy, plain (port 8090)",
            Self::Nginx => "nginx, TLS",
            Self::NginxAndCaddy => "nginx, TLS, before Caddy's 8090",
        }
    }
}

/// How it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// HTTP/1.1 over so many connections that are kept.
    Kept(u32),
    /// HTTP/2 over 64 connections, four requests at a time on each.
    Http2,
    /// HTTP/1.1, a new connection for each request.
    New,
    /// HTTP/2, likewise.
    NewHttp2,
}

impl Load {
    fn name(self) -> String {
        match self {
            Self::Kept(connections) => format!("HTTP/1.1, {connections} connections kept"),
            Self::Http2 => "HTTP/2, 64 connections kept, 4 requests at once on each".to_owned(),
            Self::New => "HTTP/1.1, a new connection each".to_owned(),
            Self::NewHttp2 => "HTTP/2, a new connection each".to_owned(),
        }
    }
}

const LOADS: [(Load, &[Front]); 5] = [
    (
        Load::Kept(64),
        &[
            Front::None,
            Front::Caddy,
            Front::CaddyPlain,
            Front::Nginx,
            Front::NginxAndCaddy,
        ],
    ),
    (Load::Kept(1_024), &[Front::None, Front::Caddy, Front::Nginx]),
    (Load::Http2, &[Front::None, Front::Caddy, Front::Nginx]),
    (Load::New, &[Front::None, Front::Caddy, Front::Nginx]),
    (Load::NewHttp2, &[Front::None, Front::Caddy, Front::Nginx]),
];

/// One front in one round.
#[derive(Clone, Copy, Debug)]
struct Run {
    found: Found,
    /// Seconds of processor time for each request: the front's, and the pixel's.
    front_cpu: f64,
    pixel_cpu: f64,
}

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let compose = Compose::build(bench)?;
    compose.up()?;
    // What is delivered meanwhile would be paid for by the cores that are measured.
    compose.run(&["stop", "recorder", "dashboard", "backup"])?;
    let edge = Edge::start(&compose)?;
    let mut rows = Vec::new();
    for (load, fronts) in LOADS {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let mut round = Vec::new();
            for front in fronts {
                round.push(edge.run(load, *front).await?);
            }
            rounds.push(round);
        }
        for (index, front) in fronts.iter().enumerate() {
            let pairs: Vec<(Run, Run)> = rounds.iter().map(|round| (round[0], round[index])).collect();
            rows.push(row(load, *front, &pairs));
        }
    }
    Ok(Report {
        title: "edge: the pixel through what stands before it",
        notes: vec![
            format!(
                "Containers of docker-compose.yml ({}), nginx {} by nginx.conf.example with room for 8,192 connections in each \
                 worker; wrk and h2load on the same cores ask the containers' addresses, for hits that are synced in the spool. \
                 Recorder and dashboard are stopped.",
                edge.caddy_version, edge.nginx.version
            ),
            format!(
                "{ROUNDS} interleaved rounds of {} s, or of {NEW_CONNECTIONS} new connections. Ratios are medians of the rounds' \
                 ratios to the pixel itself, with the lowest and the highest; other figures are medians. The pixel speaks no TLS \
                 and, by itself, HTTP/1.1 only: where HTTP/2 is asked for, it is compared by HTTP/1.1 over as many connections.",
                ROUND.as_secs()
            ),
        ],
        tables: vec![Table {
            columns: vec![
                "load",
                "front",
                "requests",
                "× direct",
                "lowest",
                "highest",
                "front's CPU µs per request",
                "pixel's CPU µs per request",
                "p50",
                "p99",
            ],
            rows,
        }],
    })
}

struct Edge {
    pixel: (IpAddr, u32),
    caddy: (IpAddr, u32),
    nginx: Nginx,
    nginx_and_caddy: Nginx,
    https_port: u16,
    caddy_version: String,
    folder: std::path::PathBuf,
}

impl Edge {
    fn start(compose: &Compose) -> anyhow::Result<Self> {
        let of = |service: &str| anyhow::Ok((compose.address(service)?, compose.process(service)?));
        let (pixel, caddy) = (of("pixel")?, of("caddy")?);
        let folder = compose.folder.path();
        let version = compose.run(&["exec", "-T", "caddy", "caddy", "version"])?;
        let version = version.split(' ').next().unwrap_or_default();
        Ok(Self {
            nginx: Nginx::start(&folder.join("nginx"), (pixel.0, 8_081).into())?,
            nginx_and_caddy: Nginx::start(&folder.join("nginx-and-caddy"), (caddy.0, 8_090).into())?,
            pixel,
            caddy,
            https_port: compose.https_port,
            caddy_version: format!("Caddy {version}"),
            folder: folder.to_owned(),
        })
    }

    async fn run(&self, load: Load, front: Front) -> anyhow::Result<Run> {
        let processes = match front {
            Front::None => vec![],
            Front::Caddy | Front::CaddyPlain => vec![self.caddy.1],
            Front::Nginx => vec![self.nginx.process],
            Front::NginxAndCaddy => vec![self.nginx_and_caddy.process, self.caddy.1],
        };
        let cpu_of_fronts = || -> anyhow::Result<Duration> { processes.iter().map(|id| cpu_time(*id)).sum() };
        let way = self.way(front);
        let (front_before, pixel_before) = (cpu_of_fronts()?, cpu_time(self.pixel.1)?);
        let found = match load {
            Load::Kept(connections) => wrk(&self.folder, &way, connections, ROUND).await?,
            Load::Http2 if front == Front::None => wrk(&self.folder, &way, 64, ROUND).await?,
            Load::Http2 => h2load_kept(&way, 64, 4, ROUND).await?,
            Load::New => h2load_new(&way, NEW_CONNECTIONS, false).await?,
            Load::NewHttp2 => h2load_new(&way, NEW_CONNECTIONS, front != Front::None).await?,
        };
        let each = |before: Duration, after: Duration| {
            after.saturating_sub(before).as_secs_f64() / f64::from(found.requests)
        };
        Ok(Run {
            found,
            front_cpu: each(front_before, cpu_of_fronts()?),
            pixel_cpu: each(pixel_before, cpu_time(self.pixel.1)?),
        })
    }

    fn way(&self, front: Front) -> Way {
        let (scheme, address, published): (_, SocketAddr, _) = match front {
            Front::None => ("http", (self.pixel.0, 8_081).into(), None),
            Front::CaddyPlain => ("http", (self.caddy.0, 8_090).into(), None),
            Front::Caddy => ("https", (self.caddy.0, 443).into(), Some(self.https_port)),
            Front::Nginx => ("https", self.nginx.address, Some(self.nginx.published)),
            Front::NginxAndCaddy => (
                "https",
                self.nginx_and_caddy.address,
                Some(self.nginx_and_caddy.published),
            ),
        };
        let authority = match published {
            Some(port) => format!("localhost:{port}"),
            None => address.to_string(),
        };
        Way {
            url: format!("{scheme}://{authority}{}", target()),
            address,
        }
    }
}

fn target() -> String {
    load::target(&Token {
        user_id: "user-1".to_owned(),
        email_id: "0b0e7a51-0000-4000-8000-000000000001".to_owned(),
        recipient: "reader@example.com".to_owned(),
        sent_at: "2026-01-02T03:04:05.678Z".to_owned(),
        sender_email: Some("sender@example.org".to_owned()),
    })
}

/// `pairs` are the pixel itself and the front in each round.
fn row(load: Load, front: Front, pairs: &[(Run, Run)]) -> Vec<Cell> {
    let of = |value: fn(&Run) -> f64| Rounds::of(pairs.iter().map(|(_, own)| value(own))).median();
    let ratios = Rounds::of(
        pairs
            .iter()
            .map(|(direct, own)| own.found.per_second / direct.found.per_second),
    );
    let time = |value: fn(&Run) -> Option<Duration>| {
        let times: Option<Vec<f64>> = pairs
            .iter()
            .map(|(_, own)| value(own).map(|time| time.as_secs_f64()))
            .collect();
        times.map_or(Cell::None, |times| {
            Cell::Time(Duration::from_secs_f64(Rounds::of(times).median()))
        })
    };
    vec![
        Cell::Text(load.name()),
        front.name().into(),
        Cell::PerSecond(of(|run| run.found.per_second)),
        Cell::Times(ratios.median()),
        Cell::Times(ratios.lowest()),
        Cell::Times(ratios.highest()),
        if front == Front::None {
            Cell::None
        } else {
            Cell::Times(of(|run| run.front_cpu * 1e6))
        },
        Cell::Times(of(|run| run.pixel_cpu * 1e6)),
        time(|run| run.found.p50),
        time(|run| run.found.p99),
    ]
}
