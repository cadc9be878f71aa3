//! The pixel against nginx's `empty_gif` on the same cores, in interleaved rounds.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use test_support::Signal;
use tracking::Token;

use super::{
    Bench,
    flood::hold,
    headlines::{Goal, Headlines},
    hits::Hits,
    nginx::Nginx,
    process::{cpu_time, forget_peak, memory},
    report::{Cell, Report, Table},
    stats::Rounds,
    subject::Subject,
    wrk::{Found, wrk},
};
use crate::load;

const CONNECTIONS: [u32; 2] = [64, 1_024];
/// At rest, to see what each takes of memory.
const HELD: [usize; 3] = [1, 64, 10_000];
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);

/// Who answers what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    Nginx,
    /// The hit is synced in the spool before the answer.
    Durable,
    /// The token is no token, so nothing goes to the spool.
    Invalid,
}

impl Contestant {
    const ALL: [Self; 3] = [Self::Nginx, Self::Durable, Self::Invalid];

    const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx empty_gif",
            Self::Durable => "pixel, hits synced in the spool",
            Self::Invalid => "pixel, invalid token (no spool)",
        }
    }
}

/// One contestant in one round.
#[derive(Clone, Copy, Debug)]
struct Run {
    found: Found,
    /// Seconds of processor time for each request.
    cpu: f64,
    peak: u64,
}

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let mut subject = Subject::start(bench).await?;
    let nginx = Nginx::start(subject.folder.path()).await?;
    // Alone: what is delivered meanwhile would be paid for by the pixel's cores, and nginx delivers nothing.
    subject.kill_recorder().await;
    let mut rows = Vec::new();
    let mut durable = 0;
    for connections in CONNECTIONS {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let mut round = Vec::new();
            for contestant in Contestant::ALL {
                let run = run(contestant, connections, &mut subject, &nginx).await?;
                if contestant == Contestant::Durable {
                    durable += u64::from(run.found.requests);
                }
                round.push(run);
            }
            rounds.push(round);
        }
        for (index, contestant) in Contestant::ALL.into_iter().enumerate() {
            let pairs: Vec<(Run, Run)> = rounds.iter().map(|round| (round[0], round[index])).collect();
            note_goals(&bench.headlines, connections, contestant, &pairs);
            rows.push(row(connections, contestant, &pairs));
        }
    }
    let spooled = subject.unsent().await?;
    // wrk hangs up in the middle of its last requests.
    ensure!(
        spooled >= durable,
        "{durable} hits were answered, {spooled} are in the spool"
    );
    let lost = subject
        .pixel()
        .metric("email_tracker_pixel_facts_lost_total")
        .await;
    ensure!(lost == Some(0.0), "the pixel has lost {lost:?} hits");
    let memory_rows = memory_at_rest(&mut subject).await?;
    Ok(Report {
        title: "pixel: against nginx empty_gif",
        notes: vec![
            format!(
                "wrk with two threads on the same cores; {ROUNDS} rounds of {} s each, interleaved. Ratios are medians of the \
                 rounds' ratios, with the lowest and the highest; other figures are medians.",
                ROUND.as_secs()
            ),
            "nginx: a worker for each core, no access log, the same headers. The recorder is away."
                .to_owned(),
            format!(
                "{spooled} hits are in the spool, at least as many as the {durable} that wrk saw answered; none was lost."
            ),
        ],
        tables: vec![
            Table {
                columns: vec![
                    "connections",
                    "server",
                    "requests",
                    "× nginx",
                    "lowest",
                    "highest",
                    "CPU µs per request",
                    "nginx's CPU / its",
                    "p50",
                    "p99",
                    "p99.9",
                    "p99 / nginx's",
                    "peak memory",
                ],
                rows,
            },
            Table {
                columns: vec!["connections, each answered once and kept", "resident", "peak"],
                rows: memory_rows,
            },
        ],
    })
}

/// What a pixel that was just started takes of memory while connections wait for their next request.
async fn memory_at_rest(subject: &mut Subject) -> anyhow::Result<Vec<Vec<Cell>>> {
    let files = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files,
            maximum: files,
        },
    )?;
    subject.pixel().end(Signal::TERM).await;
    subject.pixel().start();
    subject.pixel().ready().await;
    let hits = Arc::new(Hits::of(1_000));
    let (address, id) = (
        subject.pixel().address,
        subject.pixel().id().context("a pixel that runs")?,
    );
    let (mut rows, mut held) = (Vec::new(), Vec::new());
    for connections in HELD {
        held.extend(hold(&hits, address, connections - held.len()).await?);
        let memory = memory(id)?;
        rows.push(vec![
            Cell::Count(u64::try_from(connections)?),
            Cell::Bytes(memory.resident),
            Cell::Bytes(memory.peak),
        ]);
    }
    Ok(rows)
}

async fn run(
    contestant: Contestant,
    connections: u32,
    subject: &mut Subject,
    nginx: &Nginx,
) -> anyhow::Result<Run> {
    let pixel = subject.pixel();
    let (address, id) = match contestant {
        Contestant::Nginx => (nginx.address, nginx.id()),
        _ => (pixel.address, pixel.id().context("a pixel that runs")?),
    };
    forget_peak(id)?;
    let before = cpu_time(id)?;
    let found = wrk(
        subject.folder.path(),
        address,
        &target(contestant),
        connections,
        ROUND,
    )
    .await?;
    let cpu = cpu_time(id)?.saturating_sub(before).as_secs_f64() / f64::from(found.requests);
    let peak = memory(id)?.peak;
    Ok(Run { found, cpu, peak })
}

fn target(contestant: Contestant) -> String {
    let target = load::target(&Token {
        user_id: "user-1".to_owned(),
        email_id: "0b0e7a51-0000-4000-8000-000000000001".to_owned(),
        recipient: "reader@example.com".to_owned(),
        sent_at: "2026-01-02T03:04:05.678Z".to_owned(),
        sender_email: Some("sender@example.org".to_owned()),
    });
    match contestant {
        Contestant::Invalid => target.replacen("/t/", "/t/A", 1),
        _ => target,
    }
}

/// Of the contestant's value to nginx's in the same round.
fn ratio(pairs: &[(Run, Run)], value: fn(&Run) -> f64) -> Rounds {
    Rounds::of(pairs.iter().map(|(nginx, own)| value(own) / value(nginx)))
}

/// How much more processor time than the contestant nginx takes for a request.
fn spared(pairs: &[(Run, Run)]) -> f64 {
    1.0 / ratio(pairs, |run| run.cpu).median()
}

fn note_goals(headlines: &Headlines, connections: u32, contestant: Contestant, pairs: &[(Run, Run)]) {
    let name = contestant.name();
    let note = |what: &str, goal, found| {
        let what = format!("{name}, {connections} connections: {what}");
        headlines.note(what, goal, Cell::Times(found));
    };
    match contestant {
        Contestant::Nginx => {}
        Contestant::Durable => {
            let rates = ratio(pairs, |run| run.found.per_second).median();
            if connections == 64 {
                note("requests / nginx's", Goal::AtLeast(0.5), rates);
            } else {
                let p99 = ratio(pairs, |run| run.found.p99.as_secs_f64()).median();
                note("requests / nginx's", Goal::AtLeast(0.75), rates);
                note("p99 / nginx's", Goal::AtMost(3.0), p99);
            }
        }
        Contestant::Invalid => note("nginx's CPU / its", Goal::AtLeast(0.9), spared(pairs)),
    }
}

/// `pairs` are nginx and the contestant in each round.
fn row(connections: u32, contestant: Contestant, pairs: &[(Run, Run)]) -> Vec<Cell> {
    let own = |value: fn(&Run) -> f64| Rounds::of(pairs.iter().map(|(_, own)| value(own))).median();
    let time = |value: fn(&Run) -> f64| Cell::Time(Duration::from_secs_f64(own(value)));
    let rates = ratio(pairs, |run| run.found.per_second);
    let peak = pairs.iter().map(|(_, own)| own.peak).max().unwrap_or_default();
    vec![
        Cell::Count(u64::from(connections)),
        contestant.name().into(),
        Cell::PerSecond(own(|run| run.found.per_second)),
        Cell::Times(rates.median()),
        Cell::Times(rates.lowest()),
        Cell::Times(rates.highest()),
        Cell::Times(own(|run| run.cpu) * 1e6),
        Cell::Times(spared(pairs)),
        time(|run| run.found.p50.as_secs_f64()),
        time(|run| run.found.p99.as_secs_f64()),
        time(|run| run.found.p999.as_secs_f64()),
        Cell::Times(ratio(pairs, |run| run.found.p99.as_secs_f64()).median()),
        // nginx's memory is mostly that of its workers, which are processes of their own.
        if contestant == Contestant::Nginx {
            Cell::None
        } else {
            Cell::Bytes(peak)
        },
    ]
}
