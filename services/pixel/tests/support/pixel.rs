//! A pixel as `run` makes it, on sockets of its own, and a client that sends exactly the bytes it is given.

use std::{net::SocketAddr, path::Path, sync::Arc};

use pixel::{
    Settings,
    spool::files::{DiskFiles, Files},
};
use service_kit::{Metrics, Public, Sockets, Surroundings, SystemClock};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracking::{Clock, Token};

pub struct Pixel {
    pub public: SocketAddr,
    pub admin: SocketAddr,
    pub stop: CancellationToken,
    pub ended: JoinHandle<anyhow::Result<()>>,
}

/// What a test sets; everything else has its default.
pub async fn start(folder: &Path, variables: &[(&str, &str)]) -> Pixel {
    start_at(Arc::new(SystemClock), folder, variables).await
}

pub async fn start_at(clock: Arc<dyn Clock>, folder: &Path, variables: &[(&str, &str)]) -> Pixel {
    start_on(Arc::new(DiskFiles), clock, folder, variables).await
}

pub async fn start_on(
    files: Arc<dyn Files>,
    clock: Arc<dyn Clock>,
    folder: &Path,
    variables: &[(&str, &str)],
) -> Pixel {
    let mut reader = service_kit::Reader::from_variables(variables.iter().copied());
    reader.set("SPOOL_DIR", folder.to_str().unwrap());
    let settings = Settings::read(&mut reader);
    let settings = reader.finish(settings).expect("the settings are accepted");
    let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stop = CancellationToken::new();
    let addresses = (public.local_addr().unwrap(), admin.local_addr().unwrap());
    let surroundings = Surroundings {
        sockets: Sockets {
            public: Public::Socket(public),
            admin,
            log_level: None,
        },
        clock,
        metrics: Metrics::new("pixel").unwrap(),
        stop: stop.clone(),
    };
    let ended = tokio::spawn(pixel::run_on(files, settings, surroundings));
    Pixel {
        public: addresses.0,
        admin: addresses.1,
        stop,
        ended,
    }
}

/// A URL that nobody answers at.
pub const NO_RECORDER: (&str, &str) = ("RECORDER_URL", "http://127.0.0.1:1");

/// A pixel without a recorder, on a folder of its own.
pub async fn start_alone() -> (Pixel, TempDir) {
    let folder = TempDir::new().unwrap();
    (start(folder.path(), &[NO_RECORDER]).await, folder)
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(it, _)| it == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice");
        value
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The GIF with all that belongs to it, and nothing else.
    pub fn assert_gif(&self, of: &str) {
        assert_eq!(self.status, 200, "{of}");
        assert_eq!(self.body, pixel::GIF, "{of}");
        self.assert_gif_headers(of);
    }

    pub fn assert_gif_headers(&self, of: &str) {
        for (name, value) in [
            ("content-type", "image/gif"),
            ("content-length", "43"),
            ("cache-control", "no-store, no-cache, must-revalidate, max-age=0"),
            ("pragma", "no-cache"),
            ("expires", "0"),
        ] {
            assert_eq!(self.header(name), Some(value), "{name} of {of}");
        }
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 6, "{names:?}"); // And `date`.
        assert!(self.header("date").is_some());
    }
}

/// Sends `request` on a connection of its own and reads the answer until the other side closes.
pub async fn send_raw(to: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The other side may answer and close before it has read all.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

pub fn parse(answer: &[u8]) -> Answer {
    let end = answer
        .windows(4)
        .position(|it| it == b"\r\n\r\n")
        .expect("the end of the headers");
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .filter(|(name, _)| !name.eq_ignore_ascii_case("connection"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer {
        status,
        headers,
        body: answer[end + 4..].to_vec(),
    }
}

/// One request with these header lines (each ends with CR LF).
pub async fn request(to: SocketAddr, line: &str, headers: &str, body: &[u8]) -> Answer {
    let mut request =
        format!("{line} HTTP/1.1\r\nHost: track.example\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    request.extend_from_slice(body);
    parse(&send_raw(to, &request).await)
}

pub async fn get(to: SocketAddr, path: &str) -> Answer {
    request(to, &format!("GET {path}"), "", b"").await
}

pub async fn mark(to: SocketAddr, body: &[u8]) -> Answer {
    let headers = format!(
        "Content-Type: application/json\r\nOrigin: chrome-extension://abc\r\nContent-Length: {}\r\n",
        body.len()
    );
    request(to, "POST /mark-suppress-next", &headers, body).await
}

pub fn token(email_id: &str) -> Token {
    Token {
        user_id: "user".into(),
        email_id: email_id.into(),
        recipient: "jörg@example.com, mia@example.com".into(),
        sent_at: "2026-03-01T09:30:00.000Z".into(),
        sender_email: Some("me@example.com".into()),
    }
}

pub fn path_of(email_id: &str) -> String {
    format!("/t/{}.gif", token(email_id).encode())
}

impl Pixel {
    /// The value of a series of `/metrics`, such as `email_tracker_pixel_hits_total`.
    pub async fn metric(&self, series: &str) -> usize {
        let answer = get(self.admin, "/metrics").await;
        let mut values = answer
            .text()
            .lines()
            .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        values
            .next()
            .unwrap_or_else(|| panic!("no {series} in {}", answer.text()))
    }

    /// The body of `/ready`.
    pub async fn ready(&self) -> (u16, String) {
        let answer = get(self.admin, "/ready").await;
        (answer.status, answer.text().to_owned())
    }

    /// Stops it and waits for its end.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.ended.await.unwrap()
    }
}

/// The facts that a stopped pixel has left in its spool.
pub fn left_in(folder: &Path) -> Vec<tracking::Fact> {
    let mut reader = pixel::spool::Folder::open(folder, Arc::new(DiskFiles))
        .unwrap()
        .into_reader();
    let mut facts = Vec::new();
    loop {
        let batch = reader.read(2_000, 1 << 20).unwrap();
        if batch.facts.is_empty() {
            return facts;
        }
        facts.extend(batch.facts.iter().map(|bytes| {
            recorder_api::v1::Fact::from_bytes(bytes)
                .unwrap()
                .try_into()
                .unwrap()
        }));
    }
}
