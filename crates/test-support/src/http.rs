//! A raw HTTP/1.1 client: what it sends is what the test wrote, malformed or not.

use std::{fmt::Write, net::SocketAddr};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::PATIENCE;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body, without its transfer encoding.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header `name`, ignoring case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {:?}", String::from_utf8_lossy(&self.body)))
    }
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// A request of `method` for `target`, a path with its query.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    /// A GET.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A POST of JSON.
    pub fn post_json(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target)
            .header("content-type", "application/json")
            .body(body)
    }

    /// Adds a header; `host` replaces the default one.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body, and with it `content-length`.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends it on a connection of its own.
    pub async fn send(&self, to: SocketAddr) -> Answer {
        Connection::open(to).await.exchange(self).await
    }

    fn bytes(&self, host: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            let _ = write!(head, "host: {host}\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            let _ = write!(head, "content-length: {}\r\n", body.len());
        }
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// GETs `target` on a connection of its own.
pub async fn get(to: SocketAddr, target: &str) -> Answer {
    Request::get(target).send(to).await
}

/// Sends `bytes` as they are on a connection of their own. None if it is closed without an answer.
pub async fn send_raw(to: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut connection = Connection::open(to).await;
    connection.write(bytes).await;
    connection.try_answer(false).await
}

/// A connection for several requests.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    to: SocketAddr,
}

impl Connection {
    /// Connects.
    pub async fn open(to: SocketAddr) -> Self {
        let stream = patiently("connecting", TcpStream::connect(to)).await;
        let stream = stream.unwrap_or_else(|error| panic!("connecting to {to}: {error}"));
        Self {
            stream: BufReader::new(stream),
            to,
        }
    }

    /// Sends `request` and waits for its answer.
    pub async fn exchange(&mut self, request: &Request) -> Answer {
        self.write(&request.bytes(self.to)).await;
        self.try_answer(request.method == "HEAD")
            .await
            .expect("an answer before the connection's end")
    }

    /// Sends `bytes` as they are. A peer that closes early is no error: it may have answered.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = patiently("sending", self.stream.write_all(bytes)).await;
    }

    /// The next answer; none if the connection ends without one. That to a HEAD has no body.
    pub async fn try_answer(&mut self, to_head: bool) -> Option<Answer> {
        patiently("an answer", async {
            let start = self.line().await?;
            let status = start.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status: u16 = status.unwrap_or_else(|| panic!("no HTTP answer: {start:?}"));
            let mut answer = Answer {
                status,
                headers: Vec::new(),
                body: Vec::new(),
            };
            loop {
                let line = self.line().await.expect("a complete head");
                let Some((name, value)) = line.split_once(':') else {
                    break;
                };
                answer
                    .headers
                    .push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            if !(to_head || status < 200 || status == 204 || status == 304) {
                answer.body = self.body(&answer).await;
            }
            Some(answer)
        })
        .await
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = self.stream.read_until(b'\n', &mut line).await.unwrap_or(0); // a reset is an end
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        (read > 0).then_some(line)
    }

    async fn body(&mut self, answer: &Answer) -> Vec<u8> {
        let mut body = Vec::new();
        if answer.header("transfer-encoding").is_some() {
            loop {
                let size = self.line().await.expect("the size of a chunk");
                let size =
                    usize::from_str_radix(size.split(';').next().unwrap_or(""), 16).expect("a size in hex");
                let mut chunk = vec![0; size + 2]; // with its line end
                self.stream
                    .read_exact(&mut chunk)
                    .await
                    .expect("a complete chunk");
                if size == 0 {
                    return body;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        }
        match answer.header("content-length") {
            Some(length) => {
                body.resize(length.parse().expect("a content-length"), 0);
                self.stream.read_exact(&mut body).await.expect("a complete body");
            }
            None => {
                self.stream
                    .read_to_end(&mut body)
                    .await
                    .expect("a body up to the end");
            }
        }
        body
    }
}

async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}
