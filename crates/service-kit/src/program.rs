//! What the main of each service does: arguments, settings, logs, sockets, and the end.

use std::{
    future::Future,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;
use tracking::Clock;

use crate::{
    clock::SystemClock,
    http::Public,
    settings::{Common, Reader, SettingsError},
    tasks::stop_on_signal,
    telemetry::{self, LogLevel, Metrics},
};

/// The exit code for settings that are not accepted, as in BSD's `sysexits.h`.
pub const EXIT_USAGE: u8 = 64;

/// How long blocked threads may keep a program that has ended.
const LEFTOVERS: Duration = Duration::from_secs(2);

/// What a service listens on.
pub struct Sockets {
    /// Where the service itself is reached.
    pub public: Public,
    /// Where `/live`, `/ready` and `/metrics` are.
    pub admin: TcpListener,
    /// What `/log-level` shows and changes, if logs are this process's own.
    pub log_level: Option<LogLevel>,
}

/// What a service's `run` is given besides its settings.
pub struct Surroundings {
    /// What it listens on.
    pub sockets: Sockets,
    /// Where it takes the time from.
    pub clock: Arc<dyn Clock>,
    /// Where its instruments come from.
    pub metrics: Metrics,
    /// When it is to end.
    pub stop: CancellationToken,
}

/// A service as its main sees it.
pub struct Program<S> {
    /// Its name, in logs and metrics.
    pub name: &'static str,
    /// What it does, for `--help`.
    pub about: &'static str,
    /// Reads its settings.
    pub read: fn(&mut Reader) -> S,
    /// Picks what is common to all services out of them.
    pub common: fn(&S) -> &Common,
}

impl<S> Program<S> {
    /// The whole main: runs the service, or answers `healthcheck`, `--help` and `--version`.
    pub fn main<R: Future<Output = anyhow::Result<()>>>(
        self,
        run: impl FnOnce(S, Surroundings) -> R,
    ) -> ExitCode {
        let arguments = std::env::args_os().skip(1);
        let arguments: Vec<String> = arguments
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let mut reader = Reader::from_environment();
        let settings = (self.read)(&mut reader);
        let printable = reader.printable();
        match arguments
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .as_slice()
        {
            [] => match reader.finish(settings) {
                Ok(settings) => exit_code(self.run(settings, &printable, run)),
                Err(error) => refuse_settings(self.name, &error),
            },
            ["healthcheck"] => exit_code(healthcheck((self.common)(&settings).admin)),
            ["--version" | "-V"] => print(&format!("{} {}", self.name, crate::VERSION)),
            ["--help" | "-h"] => print(&format!(
                "{name}: {about}\n\nUsage: {name} [healthcheck]\n\n  healthcheck  ask the service on this machine whether it is \
                 ready\n\nSettings are environment variables: see docs/settings.md.",
                name = self.name,
                about = self.about,
            )),
            _ => {
                complain(&format!(
                    "{}: unknown arguments {arguments:?}; see --help",
                    self.name
                ));
                ExitCode::from(EXIT_USAGE)
            }
        }
    }

    fn run<R>(
        self,
        settings: S,
        printable: &str,
        run: impl FnOnce(S, Surroundings) -> R,
    ) -> anyhow::Result<()>
    where
        R: Future<Output = anyhow::Result<()>>,
    {
        block_on(async {
            let common = (self.common)(&settings);
            let logging = telemetry::logging(self.name, common)?;
            let public = listen_public("PORT", common.listen).await?;
            let admin = listen("ADMIN_PORT", common.admin)?;
            tracing::info!(
                service = self.name,
                version = crate::VERSION,
                listens = %public.local_addr()?,
                admin = %admin.local_addr()?,
                settings = printable,
                "starting"
            );
            let sockets = Sockets {
                public: Public::Socket(public),
                admin,
                log_level: Some(logging.level()),
            };
            let surroundings = Surroundings {
                sockets,
                clock: Arc::new(SystemClock),
                metrics: Metrics::new(self.name)?,
                stop: stop_on_signal()?,
            };
            run(settings, surroundings).await?;
            tracing::info!("stopped");
            Ok(())
        })
    }
}

/// Runs the whole of a program on a multi-threaded runtime, with as many open files as the system allows and as little
/// memory as it needs.
///
/// What still blocks a thread after the program's end, such as a sync of a disk that hangs, does not keep the process.
pub fn block_on<T>(program: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    raise_file_limit();
    without_huge_pages();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let ended = runtime.block_on(program);
    runtime.shutdown_timeout(LEFTOVERS);
    ended
}

/// Each connection is an open file, and the usual limit of 1,024 is only there for programs of the time of `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Refused only in a sandbox; then the lower limit holds, and `http::serve` keeps to it.
    let _refused = setrlimit(Resource::Nofile, raised);
}

/// Where the system backs whatever memory it can by huge pages, each thread's first allocations take megabytes.
fn without_huge_pages() {
    // Refused only in a sandbox; then the process is larger.
    let _refused = rustix::thread::disable_transparent_huge_pages(true);
}

/// Listens on `address`, which `setting` named.
pub fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| {
        format!("{setting}: cannot listen on {address}; set another one, or stop what uses it")
    })
}

/// Listens on `address`, which `setting` named, with room for many connections to be accepted.
pub async fn listen_public(setting: &str, address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await.with_context(|| {
        format!("{setting}: cannot listen on {address}; set another one, or stop what uses it")
    })
}

/// Says each problem of the settings on a line of its own.
#[must_use]
pub fn refuse_settings(name: &str, error: &SettingsError) -> ExitCode {
    for problem in &error.0 {
        complain(&format!("{name}: {problem}"));
    }
    ExitCode::from(EXIT_USAGE)
}

/// 0, or 1 with the error and its causes on one line of stderr.
#[must_use]
pub fn exit_code(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

/// Asks `/ready` on the admin port at `address`, as a health check in an image without a shell does.
pub fn healthcheck(address: SocketAddr) -> anyhow::Result<()> {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    let limit = Duration::from_secs(3);
    let mut stream =
        TcpStream::connect_timeout(&address, limit).with_context(|| format!("no connection to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("no answer from {address}"))?;
    if answer.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    bail!(
        "{address} is not ready: {}",
        answer.lines().last().unwrap_or_default()
    )
}

/// Prints what was asked for; a reader that is already gone is no failure.
fn print(text: &str) -> ExitCode {
    let _reader_is_gone = writeln!(io::stdout(), "{text}");
    ExitCode::SUCCESS
}

/// There is no log before the settings are read, and none after the end.
fn complain(text: &str) {
    let _reader_is_gone = writeln!(io::stderr(), "{text}");
}
