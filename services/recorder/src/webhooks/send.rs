//! One POST: to an address that was looked at, over a connection of its own, within a time, and nowhere else.
//!
//! The name is looked up for each request, and the connection goes to the very addresses found and allowed, so a name that
//! leads elsewhere a moment later changes nothing. No redirect is followed, and no proxy of the environment is used.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tracking::Timestamp;

use super::{
    body::Message,
    networks::is_allowed,
    sign::signature,
    target::{Target, Url},
};

/// From the look-up of the name to the answer's head. Standard Webhooks has receivers answer within 15 s.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);
/// One address of several may not answer at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// An answer's body is of no interest; a little of it is read so that the receiver is not cut off in mid-sentence.
const BODY_LIMIT: usize = 64 * 1024;
const BODY_PATIENCE: Duration = Duration::from_secs(1);
/// The head of an answer, which is kept in memory.
const HEAD_LIMIT: usize = 32 * 1024;
/// A receiver may ask for more patience than anybody has.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// Why a message was not taken. `problem` is for the operator: it holds nothing of URL, secret or body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) problem: String,
    /// How long the receiver asked to be left alone.
    pub(super) retry_after: Option<Duration>,
}

/// What a failure means for other messages to the same target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// Nobody was reached, or nobody answered.
    Unreachable,
    /// Its address is none that a webhook may go to.
    Forbidden,
    /// It answered that it cannot for now.
    Unavailable,
    /// It answered that it does not want this message.
    Rejected,
}

impl FailureKind {
    /// All there are.
    pub(super) const ALL: [Self; 4] = [
        Self::Unreachable,
        Self::Forbidden,
        Self::Unavailable,
        Self::Rejected,
    ];

    /// Its name as a metric label.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
        }
    }

    /// Whether another message would fare no better.
    pub(super) const fn is_of_the_target(self) -> bool {
        !matches!(self, Self::Rejected)
    }
}

impl Failure {
    fn new(kind: FailureKind, problem: impl Into<String>) -> Self {
        Self {
            kind,
            problem: problem.into(),
            retry_after: None,
        }
    }

    fn unreachable(problem: impl Into<String>) -> Self {
        Self::new(FailureKind::Unreachable, problem)
    }
}

/// Sends messages.
pub(super) struct Sender {
    tls: TlsConnector,
    private_networks: Vec<IpNet>,
}

impl Sender {
    /// Trusts whom the system trusts.
    pub(super) fn new(private_networks: Vec<IpNet>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS for webhooks")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            private_networks,
        })
    }

    /// Sends one message, signed as of `now`; done when the receiver has answered with a success.
    pub(super) async fn send(
        &self,
        target: &Target,
        message: &Message,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let request = request(target, message, now)
            .map_err(|_| Failure::new(FailureKind::Rejected, "no request could be made of it"))?;
        let answered = timeout(DEADLINE, self.exchange(&target.url, request)).await;
        let mut answered = answered.unwrap_or_else(|_| {
            let problem = format!("no answer within {} s", DEADLINE.as_secs());
            Err(Failure::unreachable(problem))
        })?;
        let _ = timeout(BODY_PATIENCE, answered.skim()).await;
        judge(answered.answer.status(), answered.answer.headers())
    }

    async fn exchange(&self, url: &Url, request: Request<Full<Bytes>>) -> Result<Answered, Failure> {
        let stream = self.connect(url).await?;
        if !url.tls {
            return post(stream, request).await;
        }
        let name = ServerName::try_from(url.host.clone())
            .map_err(|_| Failure::unreachable("its host is no name for a certificate"))?;
        let stream = self
            .tls
            .connect(name, stream)
            .await
            .map_err(|error| Failure::unreachable(format!("TLS failed: {error}")))?;
        post(stream, request).await
    }

    /// To the first of its allowed addresses that answers.
    async fn connect(&self, url: &Url) -> Result<TcpStream, Failure> {
        let found: Vec<SocketAddr> = lookup_host((url.host.as_str(), url.port))
            .await
            .map_err(|_| Failure::unreachable("its name could not be looked up"))?
            .collect();
        let mut failure = Failure::unreachable("its name has no address");
        for address in found {
            if !is_allowed(address.ip(), &self.private_networks, url.tls) {
                failure = forbidden(address.ip(), url.tls);
                continue;
            }
            match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true); // a delay is no failure
                    return Ok(stream);
                }
                Ok(Err(error)) => failure = Failure::unreachable(format!("no connection: {}", error.kind())),
                Err(_) => failure = Failure::unreachable("no connection: nobody answers at its address"),
            }
        }
        Err(failure)
    }
}

fn forbidden(address: IpAddr, tls: bool) -> Failure {
    let why = if tls {
        format!("{address} is no public address, and not within WEBHOOK_PRIVATE_NETWORKS")
    } else {
        format!("{address} is not within WEBHOOK_PRIVATE_NETWORKS, and http:// goes nowhere else")
    };
    Failure::new(FailureKind::Forbidden, why)
}

fn request(
    target: &Target,
    message: &Message,
    now: Timestamp,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let seconds = now.as_millis().div_euclid(1_000);
    let mut request = Request::post(&target.url.path)
        .header(HOST, &target.url.authority)
        .header(USER_AGENT, concat!("email-tracker/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", &message.id)
        .header("webhook-timestamp", seconds);
    if !target.secrets.is_empty() {
        let signature = signature(&target.secrets, &message.id, seconds, &message.body);
        request = request.header("webhook-signature", signature);
    }
    request.body(Full::new(Bytes::copy_from_slice(&message.body)))
}

/// The head of an answer, and the connection, which ends with this.
struct Answered {
    answer: Response<Incoming>,
    _driver: JoinSet<Result<(), hyper::Error>>,
}

impl Answered {
    async fn skim(&mut self) {
        let mut read = 0;
        while let Some(Ok(frame)) = self.answer.body_mut().frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > BODY_LIMIT {
                return;
            }
        }
    }
}

async fn post<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answered, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Failure::unreachable("the connection broke"))?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| Failure::unreachable(no_answer(&error)))?;
    Ok(Answered {
        answer,
        _driver: driver,
    })
}

fn no_answer(error: &hyper::Error) -> &'static str {
    if error.is_parse() {
        "what it answered is no HTTP"
    } else {
        "the connection ended without an answer"
    }
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let kind = match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            FailureKind::Unavailable
        }
        status if status.is_server_error() => FailureKind::Unavailable,
        _ => FailureKind::Rejected,
    };
    let hint = if status.is_redirection() {
        "; redirects are not followed"
    } else {
        ""
    };
    Err(Failure {
        kind,
        problem: format!("it answered {}{hint}", status.as_u16()),
        retry_after: retry_after(headers),
    })
}

/// The form in seconds; a date would be by another clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_another_message_would_fare_better() {
        let judged = |status: u16, retry_after: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(text) = retry_after {
                headers.insert(RETRY_AFTER, text.parse().unwrap());
            }
            judge(StatusCode::from_u16(status).unwrap(), &headers)
                .map_err(|failure| (failure.kind, failure.retry_after.map(|wait| wait.as_secs())))
        };
        for status in [200, 201, 202, 204] {
            assert_eq!(judged(status, None), Ok(()));
        }
        for status in [301, 302, 307, 400, 401, 404, 410, 413] {
            assert_eq!(
                judged(status, None),
                Err((FailureKind::Rejected, None)),
                "{status}"
            );
        }
        for status in [408, 425, 429, 500, 502, 503] {
            assert_eq!(
                judged(status, None),
                Err((FailureKind::Unavailable, None)),
                "{status}"
            );
        }
        assert_eq!(judged(429, Some("7")), Err((FailureKind::Unavailable, Some(7))));
        assert_eq!(
            judged(503, Some("86400")),
            Err((FailureKind::Unavailable, Some(3_600)))
        );
        for odd in ["-1", "Wed, 21 Oct 2026 07:28:00 GMT", "1.5", "x"] {
            assert_eq!(
                judged(503, Some(odd)),
                Err((FailureKind::Unavailable, None)),
                "{odd}"
            );
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused_whatever_it_is_called() {
        let sender = Sender::new(Vec::new()).unwrap();
        for (url, address) in [
            ("https://localhost:9/", "::1 or 127.0.0.1"),
            ("https://127.0.0.1:9/", "127.0.0.1"),
            ("https://[::ffff:127.0.0.1]:9/", "127.0.0.1"),
            ("https://169.254.169.254/latest/meta-data", "169.254.169.254"),
            // In the forms that some programs take for addresses too.
            ("https://2130706433:9/", "127.0.0.1"),
            ("https://0x7f.1:9/", "127.0.0.1"),
            ("http://127.0.0.1:9/", "127.0.0.1"),
        ] {
            let failure = sender.connect(&Url::parse(url).unwrap()).await.unwrap_err();
            let unknown = failure.problem == "its name could not be looked up";
            assert!(
                failure.kind == FailureKind::Forbidden || unknown,
                "{url} {address}: {failure:?}"
            );
        }
    }
}
