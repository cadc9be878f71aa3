//! `healthcheck URL`: for containers whose image has no shell and no curl.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, bail};

const LIMIT: Duration = Duration::from_secs(3);
/// The status line is all that matters.
const ANSWER_BYTES: u64 = 256;

/// An address to ask, `http://HOST:PORT/PATH`.
#[derive(Clone, Debug)]
pub(crate) struct HealthUrl {
    /// Host and port.
    authority: String,
    path: String,
}

impl FromStr for HealthUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text
            .strip_prefix("http://")
            .ok_or("expected http://HOST:PORT/PATH")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("expected http://HOST:PORT/PATH");
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            authority,
            path: path.to_owned(),
        })
    }
}

/// Succeeds if the answer is a success (2xx).
pub(crate) fn check(url: &HealthUrl) -> anyhow::Result<()> {
    let HealthUrl { authority, path } = url;
    let address = authority
        .to_socket_addrs()
        .with_context(|| format!("cannot find {authority}"))?
        .next()
        .with_context(|| format!("{authority} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)
        .with_context(|| format!("cannot connect to {authority}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .with_context(|| format!("cannot ask {authority}"))?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES)
        .read_to_end(&mut answer)
        .with_context(|| format!("{authority} does not answer"))?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    if status.starts_with("HTTP/1.1 2") {
        return Ok(());
    }
    bail!("http://{authority}{path} answered {status:?}")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// Answers one request on a socket of its own.
    fn answers(status: &'static str) -> (HealthUrl, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/ready?x=1", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // All of the request is read: a socket closed on unread bytes takes its answer back.
            let mut request = String::new();
            let mut lines = BufReader::new(&stream);
            while !request.ends_with("\r\n\r\n") {
                assert!(
                    lines.read_line(&mut request).unwrap() > 0,
                    "the request ends early"
                );
            }
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
            request
        });
        (url, server)
    }

    #[test]
    fn a_success_is_well() {
        let (url, server) = answers("204 No Content");
        check(&url).unwrap();
        assert!(
            server
                .join()
                .unwrap()
                .starts_with("GET /ready?x=1 HTTP/1.1\r\nhost: 127.0.0.1:")
        );
    }

    #[test]
    fn anything_else_is_not() {
        let (url, server) = answers("503 Service Unavailable");
        assert!(check(&url).unwrap_err().to_string().contains("503"));
        server.join().unwrap();
        assert!(check(&"http://127.0.0.1:1/".parse().unwrap()).is_err());
    }

    #[test]
    fn addresses() {
        let of = |text: &str| text.parse::<HealthUrl>().map(|url| (url.authority, url.path));
        assert_eq!(
            of("http://pixel:8081/health").unwrap(),
            ("pixel:8081".into(), "/health".into())
        );
        assert_eq!(of("http://[::1]").unwrap(), ("[::1]:80".into(), "/".into()));
        for wrong in [
            "https://x/",
            "pixel:8081",
            "http:///health",
            "http://a/b c",
            "http://a/\r\nx:y",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
