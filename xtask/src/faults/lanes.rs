//! The faults, done to whom they are meant for. Each target has a lane of its own, and mends what it broke before it ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use test_support::{Direction, PrivatePostgres, Signal, TestDatabase, eventually};
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use super::{
    disk::Disk,
    fake_clock::FakeClock,
    schedule::{Lane, LineFault, PixelFault, PostgresFault, ServiceFault, Timed},
};
use crate::stack::{Ends, Line, Service};

/// How often each kind of fault was injected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counts {
    fn add(&self, target: &str, fault: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(format!("{target}: {fault}")).or_default() += 1;
    }

    pub(crate) fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Times in which connections to a pixel may fail.
#[derive(Debug, Default)]
pub(crate) struct Windows(Mutex<Vec<(Instant, Option<Instant>)>>);

impl Windows {
    fn open(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((Instant::now(), None));
    }

    fn close(&self) {
        if let Some((_, end)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).last_mut() {
            *end = Some(Instant::now());
        }
    }

    /// Whether any of them meets the time from `from` to `to`.
    pub(crate) fn meet(&self, from: Instant, to: Instant) -> bool {
        let windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        windows
            .iter()
            .any(|(begin, end)| *begin <= to && end.is_none_or(|end| end >= from))
    }
}

/// One after the other, until the schedule's end.
pub(crate) struct Pacing {
    begun: Instant,
    lasts: Duration,
    pub(crate) counts: Counts,
}

impl Pacing {
    pub(crate) fn new(lasts: Duration, counts: Counts) -> Self {
        Self {
            begun: Instant::now(),
            lasts,
            counts,
        }
    }

    /// Waits for the fault's time and counts it; false if the schedule is over by then.
    async fn reach<F>(&self, timed: &Timed<F>, target: &str, name: &str) -> bool {
        sleep(timed.after).await;
        let in_time = self.begun.elapsed() < self.lasts;
        if in_time {
            self.counts.add(target, name);
        }
        in_time
    }
}

/// A pixel's lane, and what is special about it.
pub(crate) struct PixelLane {
    pub(crate) pixel: Service,
    pub(crate) down: Arc<Windows>,
    pub(crate) clock: Option<Arc<FakeClock>>,
    pub(crate) disk: Option<Disk>,
}

impl PixelLane {
    pub(crate) async fn run(mut self, pacing: &Pacing, lane: &Lane<PixelFault>) -> Self {
        for timed in lane {
            if !pacing.reach(timed, "pixel", timed.fault.name()).await {
                break;
            }
            match timed.fault {
                PixelFault::Service(ServiceFault::Freeze) => freeze(&mut self.pixel, timed.lasts).await,
                PixelFault::Service(fault) => {
                    self.down.open();
                    end_and_start(&mut self.pixel, fault, timed.lasts).await;
                    self.pixel.listening().await;
                    self.down.close();
                }
                PixelFault::Clock(offset) => {
                    if let Some(clock) = &self.clock {
                        clock.step_to(offset);
                    }
                }
                PixelFault::FullDisk => {
                    if let Some(disk) = &self.disk {
                        disk.fill();
                        sleep(timed.lasts).await;
                        disk.clear();
                    }
                }
            }
        }
        self
    }
}

/// The lane of a recorder or the dashboard.
pub(crate) async fn run_service(
    mut service: Service,
    target: &str,
    pacing: &Pacing,
    lane: &Lane<ServiceFault>,
) -> Service {
    for timed in lane {
        if !pacing.reach(timed, target, timed.fault.name()).await {
            break;
        }
        match timed.fault {
            ServiceFault::Freeze => freeze(&mut service, timed.lasts).await,
            fault => end_and_start(&mut service, fault, timed.lasts).await,
        }
    }
    service
}

async fn freeze(service: &mut Service, lasts: Duration) {
    service.signal(Signal::STOP);
    sleep(lasts).await;
    service.signal(Signal::CONT);
}

async fn end_and_start(service: &mut Service, fault: ServiceFault, lasts: Duration) {
    if fault == ServiceFault::Terminate {
        let status = service.end(Signal::TERM).await;
        let well = status.is_some_and(|status| status.success());
        assert!(well, "{} did not end well by SIGTERM: {status:?}", service.name);
    } else {
        service.end(Signal::KILL).await;
    }
    sleep(lasts).await;
    service.start();
}

/// The lane of a line. While its fault lasts and shortly after, connections by it may fail.
pub(crate) async fn run_line(line: &Line, windows: &Windows, pacing: &Pacing, faults: &Lane<LineFault>) {
    let target = match line.ends {
        Ends::LoadToPixel(_) => "line load-pixel",
        Ends::PixelToRecorder => "line pixel-recorder",
        Ends::ToPostgres => "line to PostgreSQL",
        Ends::LoadToDashboard => "line reader-dashboard",
    };
    for timed in faults {
        if !pacing.reach(timed, target, timed.fault.name()).await {
            break;
        }
        windows.open();
        let proxy = &line.proxy;
        match timed.fault {
            LineFault::Cut => proxy.cut(),
            LineFault::HalfClose(direction) => proxy.half_close(direction),
            LineFault::Delay(direction, delay) => {
                proxy.delay(direction, delay);
                sleep(timed.lasts).await;
                proxy.delay(direction, Duration::ZERO);
            }
            LineFault::Stall(direction) => {
                proxy.stall(direction);
                sleep(timed.lasts).await;
                proxy.resume(direction);
            }
            LineFault::Refuse => {
                proxy.refuse().await;
                sleep(timed.lasts).await;
                proxy.accept().await;
            }
        }
        // What a client notices of it, it may notice with its next request.
        sleep(Duration::from_millis(500)).await;
        windows.close();
    }
}

/// The lane of PostgreSQL.
pub(crate) struct PostgresLane {
    pub(crate) postgres: PrivatePostgres,
    pub(crate) standby: Option<PrivatePostgres>,
    pub(crate) lines: Arc<[Line]>,
    /// The database's name and the recorder's URL.
    pub(crate) database: String,
    pub(crate) recorder_url: String,
    pub(crate) random: StdRng,
}

const RECORDER_ROLE: &str = "email_tracker_recorder";

impl PostgresLane {
    pub(crate) fn new(
        postgres: PrivatePostgres,
        standby: Option<PrivatePostgres>,
        lines: Arc<[Line]>,
        database: &TestDatabase,
        seed: u64,
    ) -> Self {
        Self {
            postgres,
            standby,
            lines,
            database: database.name().to_owned(),
            recorder_url: database.url_of(RECORDER_ROLE),
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Does what the lane says; gives the server that is the primary at the end.
    pub(crate) async fn run(mut self, pacing: &Pacing, lane: &Lane<PostgresFault>) -> PrivatePostgres {
        for timed in lane {
            if !pacing.reach(timed, "PostgreSQL", timed.fault.name()).await {
                break;
            }
            self.inject(timed.fault, timed.lasts).await;
        }
        self.postgres
    }

    async fn inject(&mut self, fault: PostgresFault, lasts: Duration) {
        match fault {
            PostgresFault::Crash => {
                self.postgres.crash().await;
                self.back_after(lasts).await;
            }
            PostgresFault::Kill => {
                self.postgres.kill().await;
                self.back_after(lasts).await;
            }
            PostgresFault::Restart => {
                self.postgres.stop().await;
                self.back_after(lasts).await;
            }
            PostgresFault::KillBackend => {
                self.postgres.kill_backend_of(RECORDER_ROLE).await;
                eventually("PostgreSQL has recovered", async || {
                    self.postgres.answers().await.then_some(())
                })
                .await;
            }
            PostgresFault::Freeze => {
                self.postgres.freeze();
                sleep(lasts).await;
                self.postgres.thaw();
            }
            PostgresFault::CrashInCommit => self.crash_in_commit(lasts).await,
            PostgresFault::NoConnections => self.take_all_connections(lasts).await,
            PostgresFault::StatementTimeout => {
                let on = format!("alter role {RECORDER_ROLE} set statement_timeout = '2ms'");
                let off = format!("alter role {RECORDER_ROLE} reset statement_timeout");
                self.for_new_sessions(&on, &off, lasts).await;
            }
            PostgresFault::ReadOnly => {
                let on = format!("alter role {RECORDER_ROLE} set default_transaction_read_only = on");
                let off = format!("alter role {RECORDER_ROLE} reset default_transaction_read_only");
                self.for_new_sessions(&on, &off, lasts).await;
            }
            PostgresFault::Failover => self.fail_over(lasts).await,
        }
    }

    async fn back_after(&self, lasts: Duration) {
        sleep(lasts).await;
        self.postgres.start_again().await;
    }

    fn lines_to_postgres(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.ends == Ends::ToPostgres)
    }

    async fn crash_in_commit(&mut self, lasts: Duration) {
        for line in self.lines_to_postgres() {
            line.proxy.stall(Direction::ToClient);
        }
        let commits = Duration::from_millis(self.random.random_range(20..400));
        sleep(commits).await;
        self.postgres.crash().await;
        for line in self.lines_to_postgres() {
            line.proxy.cut(); // with the answers that were held back
            line.proxy.resume(Direction::ToClient);
        }
        self.back_after(lasts).await;
    }

    /// Ends the recorders' connections and takes every one there is.
    async fn take_all_connections(&self, lasts: Duration) {
        let admin = self.admin().await;
        let until = Instant::now() + lasts.max(Duration::from_millis(300));
        let mut taken = Vec::new();
        end_sessions(&admin).await;
        while Instant::now() < until {
            match tokio_postgres::connect(&self.recorder_url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    taken.push(client);
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Changes the recorder's role and ends its sessions, so that the next ones have it; later the same back.
    async fn for_new_sessions(&self, on: &str, off: &str, lasts: Duration) {
        let admin = self.admin().await;
        admin.batch_execute(on).await.expect("changing a role");
        end_sessions(&admin).await;
        sleep(lasts).await;
        admin.batch_execute(off).await.expect("changing a role back");
        end_sessions(&admin).await;
    }

    async fn fail_over(&mut self, lasts: Duration) {
        let Some(standby) = self.standby.take() else {
            return;
        };
        self.postgres.kill().await;
        for line in self.lines_to_postgres() {
            line.proxy.lead_to(standby.tcp_address());
        }
        sleep(lasts).await; // writers meet a server that only reads
        standby.promote().await;
        self.postgres = standby;
        let database = &self.database;
        self.recorder_url = self.postgres.url_of(RECORDER_ROLE, database);
    }

    async fn admin(&self) -> Client {
        self.postgres.superuser("postgres").await
    }
}

async fn end_sessions(admin: &Client) {
    let statement = "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1";
    admin
        .query(statement, &[&RECORDER_ROLE])
        .await
        .expect("ending sessions");
}
