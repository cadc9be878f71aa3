//! Asks the older server for a list: one GET over HTTP/1.1, with TLS or without.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, HOST, LOCATION},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// For a connection, and for each piece of an answer: a complete list may take the older server a while.
const PATIENCE: Duration = Duration::from_mins(2);

/// The older server's base address, `https://track.example.com`.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    host: String,
    authority: String,
    port: u16,
    tls: bool,
    /// Before `/dashboard`, without a slash at its end.
    base: String,
}

impl std::str::FromStr for Source {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ACCEPTED: &str = "expected the older server's base address, such as https://track.example.com";
        let uri: Uri = text.parse().map_err(|_| ACCEPTED)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(ACCEPTED),
        };
        let authority = uri.authority().ok_or(ACCEPTED)?;
        if authority.as_str().contains('@') || uri.query().is_some() || authority.host().is_empty() {
            return Err(ACCEPTED);
        }
        let base = uri.path().trim_end_matches('/');
        let base = base.strip_suffix("/dashboard").unwrap_or(base);
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            authority: authority.as_str().to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            base: base.to_owned(),
        })
    }
}

impl Source {
    /// The whole body of a GET of `path` with `token`.
    pub(super) async fn get(&self, path: &str, token: &str) -> anyhow::Result<Vec<u8>> {
        let target = format!("{}{path}", self.base);
        let asked = format!(
            "{}://{}{target}",
            if self.tls { "https" } else { "http" },
            self.authority
        );
        self.ask(&target, token)
            .await
            .with_context(|| format!("cannot read {asked}"))
    }

    async fn ask(&self, target: &str, token: &str) -> anyhow::Result<Vec<u8>> {
        let connected = timeout(PATIENCE, TcpStream::connect((self.host.as_str(), self.port))).await;
        let stream = connected
            .map_err(|_| anyhow!("no connection within {} s", PATIENCE.as_secs()))?
            .context("no connection")?;
        if self.tls {
            let name = ServerName::try_from(self.host.clone()).context("no name for a certificate")?;
            let stream = TlsConnector::from(Arc::new(trusting_the_system()?))
                .connect(name, stream)
                .await
                .context("TLS failed")?;
            self.exchange(stream, target, token).await
        } else {
            self.exchange(stream, target, token).await
        }
    }

    async fn exchange<S>(&self, stream: S, target: &str, token: &str) -> anyhow::Result<Vec<u8>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection); // its failure is the answer's
        let request = Request::get(target)
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json")
            .header("x-tracker-token", token)
            .body(Empty::<Bytes>::new())
            .context("IMPORT_TOKEN cannot go into a header")?;
        let answer = timeout(PATIENCE, sender.send_request(request)).await;
        let answer = answer.map_err(|_| silent())?.context("no answer")?;
        refuse_all_but_ok(&answer)?;
        whole(answer.into_body()).await
    }
}

fn refuse_all_but_ok(answer: &Response<Incoming>) -> anyhow::Result<()> {
    match answer.status() {
        StatusCode::OK => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            bail!("the token was refused: IMPORT_TOKEN is to be the older server's DASHBOARD_TOKEN")
        }
        status if status.is_redirection() => {
            let to = answer.headers().get(LOCATION);
            let to = to.and_then(|to| to.to_str().ok()).unwrap_or("elsewhere");
            bail!("it sends to {to}: give that server's base address")
        }
        status => bail!("it answered {status}"),
    }
}

async fn whole(mut body: Incoming) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = timeout(PATIENCE, body.frame()).await.map_err(|_| silent())? {
        let frame = frame.context("the answer broke off")?;
        if let Some(piece) = frame.data_ref() {
            bytes.extend_from_slice(piece);
        }
    }
    Ok(bytes)
}

fn silent() -> anyhow::Error {
    anyhow!("silent for {} s", PATIENCE.as_secs())
}

fn trusting_the_system() -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_address_is_understood_in_the_forms_people_have_it() {
        for (text, host, port, base) in [
            ("https://track.example.com", "track.example.com", 443, ""),
            ("http://127.0.0.1:8090/", "127.0.0.1", 8090, ""),
            ("http://[::1]:8090/dashboard", "::1", 8090, ""),
            ("https://example.com/mail/", "example.com", 443, "/mail"),
        ] {
            let source: Source = text.parse().unwrap();
            assert_eq!((&*source.host, source.port, &*source.base), (host, port, base));
        }
        for bad in [
            "",
            "track.example.com",
            "ftp://x",
            "https://u:p@x/",
            "https://x/?token=y",
        ] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }
}
