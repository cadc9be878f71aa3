//! A whole Email Tracker behind a front with TLS, in parts that can be stopped one by one, and a name server that names it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Output,
};

use database::{DASHBOARD_ROLE, RECORDER_ROLE};
use serde_json::Value;
use tempfile::TempDir;
use test_support::{PrivatePostgres, TestDatabase};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    certificates::{Certificate, certify},
    services::{TOKEN, is_ready, migrate, settings, socket, surroundings},
};

pub(crate) const NAME: &str = "track.test";
/// Another address than the one of the admin ports; on Linux all of 127/8 is there.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// What the recorder lets in.
const RECORDER_TOKEN: &str = "between-the-services";

/// What is different from a healthy one.
pub(crate) struct Plan {
    pub(crate) certificate: Certificate,
    /// Where the name server says that it is.
    pub(crate) dns: Ipv4Addr,
    pub(crate) pixel_admin: Ipv4Addr,
    /// Instead of a folder on the disk of other temporary files.
    pub(crate) spool_dir: Option<PathBuf>,
    pub(crate) dashboards_recorder: DashboardsRecorder,
}

/// What the dashboard is told of the recorder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DashboardsRecorder {
    Right,
    AnotherToken,
    Elsewhere,
    Nothing,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            certificate: Certificate::Good,
            dns: PUBLIC,
            pixel_admin: Ipv4Addr::LOCALHOST,
            spool_dir: None,
            dashboards_recorder: DashboardsRecorder::Right,
        }
    }
}

/// A running one. What runs ends with it.
pub(crate) struct Stack {
    pub(crate) database: TestDatabase,
    variables: BTreeMap<&'static str, String>,
    recorder: CancellationToken,
    recorder_admin: SocketAddr,
    /// Ends the front on the port with TLS.
    front: CancellationToken,
    folder: TempDir,
    tasks: JoinSet<()>,
}

impl Stack {
    pub(crate) async fn healthy() -> Self {
        Self::of(Plan::default()).await
    }

    pub(crate) async fn of(plan: Plan) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = PrivatePostgres::shared(migrate).await.database().await;
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        let recorder_stop = CancellationToken::new();
        let spool_dir = plan.spool_dir.unwrap_or_else(|| folder.path().join("spool"));
        let spool_dir = spool_dir.to_str().unwrap();

        let (given, recorder, recorder_admin) =
            surroundings("recorder", Ipv4Addr::LOCALHOST, &recorder_stop).await;
        let url = database.url_of(RECORDER_ROLE);
        let told = settings(
            &[("DATABASE_URL", &url), ("RECORDER_TOKEN", RECORDER_TOKEN)],
            recorder::Settings::read,
        );
        tasks.spawn(async move { recorder::run(told, given).await.unwrap() });

        let (given, dashboard, dashboard_admin) = surroundings("dashboard", Ipv4Addr::LOCALHOST, &stop).await;
        let url = database.url_of(DASHBOARD_ROLE);
        let recorder_url = format!("http://{recorder}");
        let (of_recorder, token) = match plan.dashboards_recorder {
            DashboardsRecorder::Right => (recorder_url.as_str(), RECORDER_TOKEN),
            DashboardsRecorder::AnotherToken => (recorder_url.as_str(), "another"),
            DashboardsRecorder::Elsewhere => ("http://127.0.0.1:1", RECORDER_TOKEN),
            DashboardsRecorder::Nothing => ("", ""),
        };
        let told = settings(
            &[
                ("DATABASE_URL", &url),
                ("DASHBOARD_TOKEN", TOKEN),
                ("RECORDER_URL", of_recorder),
                ("RECORDER_TOKEN", token),
            ],
            dashboard::Settings::read,
        );
        tasks.spawn(async move { dashboard::run(told, given).await.unwrap() });

        let (given, pixel, pixel_admin) = surroundings("pixel", plan.pixel_admin, &stop).await;
        let told = settings(
            &[
                ("SPOOL_DIR", spool_dir),
                ("RECORDER_URL", &recorder_url),
                ("RECORDER_TOKEN", RECORDER_TOKEN),
            ],
            pixel::Settings::read,
        );
        tasks.spawn(async move { pixel::run(told, given).await.unwrap() });

        let behind = Behind { pixel, dashboard };
        let (bare, bare_address) = socket(PUBLIC).await;
        tasks.spawn(serve(bare, None, behind));
        let (secure, secure_address) = socket(PUBLIC).await;
        let ca_file = folder.path().join("ca.pem");
        let (acceptor, root) = certify(plan.certificate, NAME);
        std::fs::write(&ca_file, root).unwrap();
        let front = CancellationToken::new();
        let ends = front.clone();
        tasks.spawn(async move {
            ends.run_until_cancelled(serve(secure, Some(acceptor), behind))
                .await;
        });
        let name_server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let name_server_address = name_server.local_addr().unwrap();
        tasks.spawn(answer_names(name_server, plan.dns));

        let admin = |port: u16| format!("http://127.0.0.1:{port}");
        let variables = BTreeMap::from([
            ("ADDRESS", format!("https://{NAME}:{}", secure_address.port())),
            ("PUBLIC_ADDRESS", PUBLIC.to_string()),
            ("DNS_SERVER", name_server_address.to_string()),
            ("PLAIN_PORT", bare_address.port().to_string()),
            ("CA_FILE", ca_file.to_str().unwrap().to_owned()),
            ("DASHBOARD_TOKEN", TOKEN.to_owned()),
            ("DATABASE_URL", database.url()),
            ("PIXEL_ADMIN_URL", admin(pixel_admin.port())),
            ("RECORDER_ADMIN_URL", admin(recorder_admin.port())),
            ("DASHBOARD_ADMIN_URL", admin(dashboard_admin.port())),
            ("ADMIN_PORTS", pixel_admin.port().to_string()),
            ("SPOOL_DIR", spool_dir.to_owned()),
            ("DATA_DIR", folder.path().to_str().unwrap().to_owned()),
        ]);
        for admin in [recorder_admin, dashboard_admin] {
            is_ready(admin).await;
        }
        is_ready(SocketAddr::from((Ipv4Addr::LOCALHOST, pixel_admin.port()))).await;
        Self {
            database,
            variables,
            recorder: recorder_stop,
            recorder_admin,
            front,
            folder,
            tasks,
        }
    }

    /// Tells `doctor` something else.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.variables.insert(name, value.to_owned());
    }

    /// Stops the recorder.
    pub(crate) async fn stop_recorder(&mut self) {
        self.recorder.cancel();
        is_closed(self.recorder_admin).await;
    }

    /// Closes the port with TLS.
    pub(crate) async fn close_port(&mut self) {
        self.front.cancel();
        let port = self.variables["ADDRESS"].rsplit_once(':').unwrap().1;
        is_closed((PUBLIC, port.parse().unwrap()).into()).await;
    }

    /// What the real program says.
    pub(crate) async fn doctor(&self, arguments: &[&str]) -> Output {
        assert!(!self.tasks.is_empty() && self.folder.path().exists());
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_email-tracker"))
            .arg("doctor")
            .arg(&self.variables["ADDRESS"])
            .args(arguments)
            .env_clear()
            .envs(&self.variables)
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let said = format!("{output:?}");
        assert!(!said.contains(TOKEN), "{said}");
        output
    }

    /// The same as JSON.
    pub(crate) async fn json(&self) -> Value {
        let output = self.doctor(&["--json"]).await;
        let json: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let code = i32::from(json["ok"] != true);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        json
    }
}

async fn is_closed(address: SocketAddr) {
    test_support::eventually("a port is closed", async || {
        TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
}

/// Where the front leads.
#[derive(Clone, Copy)]
struct Behind {
    pixel: SocketAddr,
    dashboard: SocketAddr,
}

/// Answers as the Caddyfile has it, as far as `doctor` looks.
async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, behind: Behind) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let tls = tls.clone();
        connections.spawn(async move {
            // Who breaks off has its reasons.
            let _ = match tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => pass_on(stream, behind).await,
                    Err(error) => Err(error),
                },
                None => pass_on(stream, behind).await,
            };
        });
    }
}

async fn pass_on(mut client: impl AsyncRead + AsyncWrite + Unpin, behind: Behind) -> std::io::Result<()> {
    let mut begin = vec![0; 64 << 10];
    let length = client.read(&mut begin).await?;
    begin.truncate(length);
    let path = String::from_utf8_lossy(&begin);
    let path = path.split(' ').nth(1).unwrap_or_default();
    let service = match path {
        "/health" => behind.pixel,
        _ if path.starts_with("/t/") => behind.pixel,
        _ if path.starts_with("/dashboard") => behind.dashboard,
        _ => {
            client
                .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await?;
            return client.shutdown().await;
        }
    };
    let mut server = TcpStream::connect(service).await?;
    server.write_all(&begin).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// Every name is at `address`, and nothing has IPv6.
async fn answer_names(socket: UdpSocket, address: Ipv4Addr) {
    const A: [u8; 2] = [0, 1];
    let mut buffer = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let question = &buffer[..length];
        let mut answer = question.to_vec();
        answer[2] = 0x81;
        if question[length - 4..length - 2] == A {
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
            answer.extend(address.octets());
        }
        socket.send_to(&answer, client).await.unwrap();
    }
}
