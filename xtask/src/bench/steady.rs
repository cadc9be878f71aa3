//! A steady load: hits at a constant rate, whatever the pixel makes of it.
//!
//! Each hit is due at its own time, and its latency counts from then, also if it had to wait for the answer to the one
//! before on its connection: a pixel that stands still for a second is seen by every hit that was due in that second.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

use super::hits::{Answer, Hits, answer_in};

/// Connections, each with a thread that sleeps until its next hit is due: a timer of the async runtime would be a
/// millisecond late.
const CONNECTIONS: u32 = 64;
/// How long an answer may take before the measurement fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A load under way.
pub(super) struct Steady {
    begun: Instant,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<Vec<Sample>>>>,
}

/// One hit.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// When it was due, from the load's begin.
    due: Duration,
    /// How long after that it was answered.
    took: Duration,
}

impl Steady {
    /// Begins to send `per_second` hits.
    pub(super) fn start(hits: &Arc<Hits>, to: SocketAddr, per_second: u32) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let every = Duration::from_secs(1) * CONNECTIONS / per_second;
        let mut threads = Vec::new();
        for number in 0..CONNECTIONS {
            let lane = Lane {
                hits: Arc::clone(hits),
                to,
                begun,
                first: every * number / CONNECTIONS,
                every,
                stop: Arc::clone(&stop),
            };
            threads.push(thread::Builder::new().name("steady".into()).spawn(move || {
                let outcome = lane.run();
                if outcome.is_err() {
                    lane.stop.store(true, Ordering::Relaxed);
                }
                outcome
            })?);
        }
        Ok(Self { begun, stop, threads })
    }

    /// The time since its begin.
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits for `time`; sooner if the load has failed, which [`stop`](Self::stop) then tells.
    pub(super) async fn go_on_for(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.has_failed() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether a hit was not answered as it should.
    pub(super) fn has_failed(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends it; an error if any hit was not answered by a GIF with status 200.
    pub(super) fn stop(self) -> anyhow::Result<Samples> {
        self.stop.store(true, Ordering::Relaxed);
        let mut samples = Vec::new();
        for thread in self.threads {
            let lane = thread
                .join()
                .map_err(|_| anyhow!("a thread of the load panicked"))?;
            samples.extend(lane.context("the steady load failed")?);
        }
        Ok(Samples(samples))
    }
}

/// One connection's share.
struct Lane {
    hits: Arc<Hits>,
    to: SocketAddr,
    begun: Instant,
    first: Duration,
    every: Duration,
    stop: Arc<AtomicBool>,
}

impl Lane {
    fn run(&self) -> anyhow::Result<Vec<Sample>> {
        let mut samples = Vec::new();
        let mut connection = None;
        let mut due = self.first;
        let mut buffer = Vec::with_capacity(1_024);
        while !self.stop.load(Ordering::Relaxed) {
            thread::sleep(due.saturating_sub(self.begun.elapsed()));
            let request = self.hits.take(self.to);
            let stream = match connection.take() {
                Some(stream) => stream,
                None => connect(self.to)?,
            };
            let closes = exchange(&stream, &request, &mut buffer)?;
            let took = self.begun.elapsed().saturating_sub(due);
            samples.push(Sample { due, took });
            connection = (!closes).then_some(stream);
            due += self.every;
        }
        Ok(samples)
    }
}

fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(to).context("connecting to the pixel")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether the server closes the connection after its answer.
fn exchange(mut stream: &TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> anyhow::Result<bool> {
    stream.write_all(request).context("sending a hit")?;
    buffer.clear();
    loop {
        let mut piece = [0; 1_024];
        let read = stream.read(&mut piece).context("waiting for a GIF")?;
        if read == 0 {
            return Err(anyhow!("the pixel closed the connection instead of an answer"));
        }
        buffer.extend_from_slice(&piece[..read]);
        if let Answer::Whole { closes } = answer_in(buffer)? {
            return Ok(closes);
        }
    }
}

/// All hits of a load.
pub(super) struct Samples(Vec<Sample>);

impl Samples {
    /// The latencies of the hits due in a part of the time.
    pub(super) fn between(&self, from: Duration, to: Duration) -> Latencies {
        let mut due: Vec<Sample> = self
            .0
            .iter()
            .copied()
            .filter(|sample| (from..to).contains(&sample.due))
            .collect();
        due.sort_unstable_by_key(|sample| sample.due);
        let mut seconds: Vec<Duration> = due
            .chunk_by(|one, next| one.due.as_secs() == next.due.as_secs())
            .map(|second| sorted(second).nearest_rank(990))
            .collect();
        seconds.sort_unstable();
        Latencies {
            all: sorted(&due),
            typical_second_p99: Sorted(seconds).nearest_rank(500),
        }
    }
}

/// Latencies of a part of the time.
pub(super) struct Latencies {
    all: Sorted,
    /// The median of the 99th percentiles of each second: what others do on the machine in a few seconds does not show.
    pub(super) typical_second_p99: Duration,
}

impl Latencies {
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.all.0.len()).unwrap_or(u64::MAX)
    }

    /// The latency that this many of a thousand hits stay within.
    pub(super) fn permille(&self, permille: usize) -> Duration {
        self.all.nearest_rank(permille)
    }
}

struct Sorted(Vec<Duration>);

fn sorted(samples: &[Sample]) -> Sorted {
    let mut sorted: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
    sorted.sort_unstable();
    Sorted(sorted)
}

impl Sorted {
    fn nearest_rank(&self, permille: usize) -> Duration {
        let rank = (self.0.len() * permille).div_ceil(1_000);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}
