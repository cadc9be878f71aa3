//! One question over HTTP, with a limit on everything.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use axum::{
    body::Bytes,
    http::{HeaderMap, Request, StatusCode, header},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(super) const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// More than any answer that is asked for.
const MAX_BODY_BYTES: usize = 4 << 20;
const USER_AGENT: &str = concat!("email-tracker-doctor/", env!("CARGO_PKG_VERSION"));

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// A header's value, if it is there and readable.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What the body's JSON holds at `pointer`, as in RFC 6901; null if that is nothing, or if the body is no JSON.
    pub(super) fn json(&self, pointer: &str) -> serde_json::Value {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json.pointer(pointer).cloned().unwrap_or_default()
    }
}

/// Whom to ask.
pub(super) struct Server<'s> {
    pub(super) addresses: &'s [IpAddr],
    pub(super) port: u16,
    /// As in the header `Host`.
    pub(super) host: String,
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Connects to the first of the addresses that takes it.
async fn connect(addresses: &[IpAddr], port: u16) -> anyhow::Result<TcpStream> {
    let mut last = None;
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        let failed = match timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => anyhow::Error::new(error).context(format!("cannot connect to {address}")),
            Err(_) => anyhow::anyhow!("{address} has not answered within {CONNECT_PATIENCE:?}"),
        };
        last = Some(failed);
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("there is no address to connect to")))
}

impl Server<'_> {
    /// GETs `path`.
    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let mut request = Request::get(path)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .context("a value cannot be sent as a header")?;
        let asked = async {
            let stream = connect(self.addresses, self.port).await?;
            if self.tls.is_some() {
                exchange(self.secure(stream).await?, request).await
            } else {
                exchange(stream, request).await
            }
        };
        match timeout(ANSWER_PATIENCE, asked).await {
            Ok(answer) => answer,
            Err(_) => bail!("no answer within {ANSWER_PATIENCE:?}"),
        }
    }

    async fn secure(&self, stream: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
        let (connector, name) = self.tls.as_ref().context("this server is asked without TLS")?;
        let secured = connector.connect(name.clone(), stream).await;
        secured.context("no TLS handshake")
    }

    /// The certificates that the server shows.
    pub(super) async fn chain(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let shaken = async {
            let stream = self.secure(connect(self.addresses, self.port).await?).await?;
            let (_, connection) = stream.get_ref();
            let chain = connection.peer_certificates().unwrap_or_default();
            Ok(chain.iter().map(|one| one.clone().into_owned()).collect())
        };
        match timeout(ANSWER_PATIENCE, shaken).await {
            Ok(chain) => chain,
            Err(_) => bail!("no TLS handshake within {ANSWER_PATIENCE:?}"),
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> anyhow::Result<Answer> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let _ended = tokio_util::task::AbortOnDropHandle::new(connection);
    let (head, body) = sender
        .send_request(request)
        .await
        .context("no HTTP answer")?
        .into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body
        .map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?
        .to_bytes();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
    })
}
