//! A receiver and recorders as programs of their own, on a database of their own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use database::{Database, RECORDER_ROLE};
use recorder::webhooks::SetAside;
use recorder_api::v1::{self, recorder_client::RecorderClient};
use serde_json::Value;
use test_support::{PrivatePostgres, Signal, Spawned, TestDatabase, eventually, free_port, http};
use tonic::{Request, transport::Channel};
use tracking::{Clock, Fact, Hit, Timestamp, facts::new_id};

use crate::common::{hit, migrate, pool};

/// What both sides know.
pub(crate) const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDQ4Nz9pcAEBE=";

/// The clock of this machine, for what takes one here.
pub(crate) use service_kit::SystemClock as SystemTime;

/// So many hits of the email that count, an hour apart.
pub(crate) fn opens_of(email_id: &str, count: usize) -> Vec<Fact> {
    let last = SystemTime.now().as_millis() / 86_400_000 * 86_400_000;
    let opened_at = |place: i64| Timestamp::from_millis(last - 30 * 3_600_000 + place * 3_600_000);
    // No two emails share an event id.
    let mut tie = [0; 10];
    for (byte, of_name) in tie.iter_mut().zip(email_id.bytes().rev()) {
        *byte = of_name;
    }
    let open = |place| {
        let opened_at = opened_at(place);
        Fact::Hit(Hit {
            event_id: new_id(opened_at, tie).unwrap(),
            ..hit(email_id, opened_at, 1)
        })
    };
    (0..).take(count).map(open).collect()
}

/// A database server for programs: they come by TCP or socket as anybody does.
pub(crate) struct Stage {
    server: PrivatePostgres,
    database: TestDatabase,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let server = PrivatePostgres::start().await;
        let database = server.database().await;
        migrate(database.url()).await;
        Self { server, database }
    }

    pub(crate) fn database(&self) -> &TestDatabase {
        &self.database
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        self.server.log()
    }

    pub(crate) fn pool(&self) -> Database {
        pool(&self.database, 2)
    }

    /// A recorder that tells `targets` on this machine.
    pub(crate) async fn recorder(&self, targets: &str) -> RecorderProgram {
        self.recorder_within(targets, "127.0.0.0/8").await
    }

    /// A recorder that tells `targets` within `networks`.
    pub(crate) async fn recorder_within(&self, targets: &str, networks: &str) -> RecorderProgram {
        let (port, admin) = (free_port(), free_port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_recorder"));
        command
            .env_clear()
            .env("DATABASE_URL", self.database.url_of(RECORDER_ROLE))
            .env("PORT", port.to_string())
            .env("ADMIN_PORT", admin.to_string())
            .env("WEBHOOKS", targets)
            .env("WEBHOOK_PRIVATE_NETWORKS", networks);
        let process = Spawned::start(&mut command);
        let admin = SocketAddr::from(([127, 0, 0, 1], admin));
        eventually("a recorder is ready", async || {
            let connected = tokio::net::TcpStream::connect(admin).await;
            connected.ok()?;
            (http::get(admin, "/ready").await.status == 200).then_some(())
        })
        .await;
        let uri = format!("http://127.0.0.1:{port}").parse().unwrap();
        RecorderProgram {
            process,
            admin,
            channel: Channel::builder(uri).connect_lazy(),
        }
    }

    /// Waits until everything is settled.
    pub(crate) async fn nothing_is_left(&self) {
        let client = self.database.superuser().await;
        let left = "select (select count(*) from webhook_events), (select count(*) from webhook_queues where due_at is not null)";
        eventually("nothing is left to tell", async || {
            let row = client.query_one(left, &[]).await.unwrap();
            (row.get::<_, i64>(0) == 0 && row.get::<_, i64>(1) == 0).then_some(())
        })
        .await;
    }

    /// Makes what waits older, and due.
    pub(crate) async fn all_were_queued_an_hour_ago(&self) {
        let client = self.database.superuser().await;
        client
            .batch_execute("update webhook_events set queued_at = queued_at - interval '61 minutes'")
            .await
            .unwrap();
    }
}

/// All that is set aside.
pub(crate) async fn set_aside(database: &Database) -> Vec<SetAside> {
    let mut found = Vec::new();
    recorder::webhooks::list(database, None, |event| found.push(event.clone()))
        .await
        .unwrap();
    found
}

/// A recorder that is a program.
pub(crate) struct RecorderProgram {
    pub(crate) process: Spawned,
    admin: SocketAddr,
    channel: Channel,
}

impl RecorderProgram {
    /// Has it record `facts`.
    pub(crate) async fn record(&self, facts: Vec<Fact>) {
        let facts: Vec<v1::Fact> = facts.into_iter().map(v1::Fact::from).collect();
        let request = Request::new(v1::RecordRequest { facts });
        RecorderClient::new(self.channel.clone())
            .record(request)
            .await
            .unwrap();
    }

    pub(crate) async fn metrics(&self) -> String {
        http::get(self.admin, "/metrics").await.text().to_owned()
    }

    /// At once, without a word.
    pub(crate) async fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.exit().await;
    }

    pub(crate) async fn stop(mut self) {
        self.process.signal(Signal::TERM);
        assert!(self.process.exit().await.success());
    }
}

/// A receiver that is a program: `receiver.py`.
pub(crate) struct Receiver {
    process: Spawned,
    port: u16,
    folder: tempfile::TempDir,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mode"), "ok").unwrap();
        std::fs::write(folder.path().join("log"), "").unwrap();
        let port = free_port();
        Self {
            process: run(port, folder.path()),
            port,
            folder,
        }
    }

    /// How it answers from now on.
    pub(crate) fn mode(&self, mode: &str) {
        let new = self.folder.path().join("mode.new");
        std::fs::write(&new, mode).unwrap();
        std::fs::rename(new, self.folder.path().join("mode")).unwrap();
    }

    /// One target that wants everything.
    pub(crate) fn targets(&self) -> String {
        format!("[{}]", self.target("opens", ""))
    }

    /// One target of this name, and path, with more fields.
    pub(crate) fn target(&self, name: &str, more: &str) -> String {
        let port = self.port;
        format!(r#"{{"name":"{name}","url":"http://127.0.0.1:{port}/{name}","secrets":["{SECRET}"]{more}}}"#)
    }

    /// All requests so far.
    pub(crate) fn log(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        let complete = log.rfind('\n').map_or("", |end| &log[..end]);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(crate) async fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.exit().await;
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_exit().is_some()
    }

    pub(crate) fn start_again(&mut self) {
        self.process = run(self.port, self.folder.path());
    }
}

fn run(port: u16, folder: &Path) -> Spawned {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/receiver.py");
    let mut command = Command::new("python3");
    command.arg(program).arg(port.to_string()).arg(SECRET).arg(folder);
    Spawned::start(&mut command)
}
