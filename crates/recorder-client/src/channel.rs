//! The channel to the recorders: every address of every `RECORDER_URL`, looked up again and again.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    time::Duration,
};

use http::Uri;
use tokio::{sync::mpsc, time::sleep};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, channel::Change};

/// How often names are looked up while there is an address, and while there is none.
const LOOK_UP_EVERY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(250));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(5));

/// Where recorders are: a URL of scheme and authority, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecorderUrl {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

/// Why a text is no URL of recorders.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no http:// or https:// URL of a host and a port, such as http://recorder:50051")]
pub struct NoRecorderUrl(String);

impl std::str::FromStr for RecorderUrl {
    type Err = NoRecorderUrl;

    fn from_str(text: &str) -> Result<Self, NoRecorderUrl> {
        let none = || NoRecorderUrl(text.to_owned());
        let uri: Uri = text.trim().parse().map_err(|_| none())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(none()),
        };
        let bare = uri.path() == "/" && uri.query().is_none();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let after_host = authority.rsplit(']').next().unwrap_or_default();
        let sound = !authority.contains('@') && after_host.contains(':') == uri.port_u16().is_some();
        let host = uri
            .host()
            .filter(|host| bare && sound && !host.is_empty())
            .ok_or_else(none)?;
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            uri,
        })
    }
}

impl std::fmt::Display for RecorderUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.uri.fmt(formatter)
    }
}

impl RecorderUrl {
    async fn addresses(&self) -> io::Result<HashSet<SocketAddr>> {
        Ok(tokio::net::lookup_host((self.host.as_str(), self.port))
            .await?
            .collect())
    }

    fn endpoint(&self, address: SocketAddr) -> Result<Endpoint, tonic::transport::Error> {
        let scheme = if self.tls { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .origin(self.uri.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .tcp_nodelay(true);
        if self.tls {
            let tls = ClientTlsConfig::new()
                .with_enabled_roots()
                .domain_name(self.host.clone());
            return endpoint.tls_config(tls);
        }
        Ok(endpoint)
    }
}

/// A channel that spreads its calls over all recorders. It lives as long as the task that this spawns, which ends with the
/// channel.
#[must_use]
pub fn channel(urls: Vec<RecorderUrl>) -> Channel {
    let (channel, changes) = Channel::balance_channel(64);
    tokio::spawn(keep_looking_up(urls, changes));
    channel
}

type Key = (usize, SocketAddr);

async fn keep_looking_up(urls: Vec<RecorderUrl>, changes: mpsc::Sender<Change<Key, Endpoint>>) {
    let mut known: HashMap<usize, HashSet<SocketAddr>> = HashMap::new();
    let mut failed = HashSet::new();
    while !changes.is_closed() {
        for (index, url) in urls.iter().enumerate() {
            match url.addresses().await {
                Ok(found) => {
                    failed.remove(&index);
                    let before = known.insert(index, found.clone()).unwrap_or_default();
                    for address in found.difference(&before) {
                        tracing::info!(%url, %address, "found a recorder");
                        match url.endpoint(*address) {
                            Ok(endpoint) => send(&changes, Change::Insert((index, *address), endpoint)).await,
                            Err(error) => tracing::error!(%url, %error, "cannot use RECORDER_URL"),
                        }
                    }
                    for address in before.difference(&found) {
                        tracing::info!(%url, %address, "a recorder is gone");
                        send(&changes, Change::Remove((index, *address))).await;
                    }
                }
                // The addresses of before stay in use: that the name service fails says nothing of the recorders.
                Err(error) if failed.insert(index) => {
                    tracing::warn!(%url, %error, "cannot look up RECORDER_URL; trying on");
                }
                Err(_) => {}
            }
        }
        let has_any = known.values().any(|addresses| !addresses.is_empty());
        let pause = if has_any { LOOK_UP_EVERY.0 } else { LOOK_UP_EVERY.1 };
        tokio::select! {
            () = sleep(pause) => {}
            () = changes.closed() => {}
        }
    }
}

async fn send(changes: &mpsc::Sender<Change<Key, Endpoint>>, change: Change<Key, Endpoint>) {
    let _ = changes.send(change).await; // The channel is gone: the caller sees that.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        for (text, host, port, tls) in [
            ("http://recorder:50051", "recorder", 50_051, false),
            (" https://recorder.example/ ", "recorder.example", 443, true),
            ("http://[::1]:7", "::1", 7, false),
        ] {
            let url: RecorderUrl = text.parse().unwrap();
            assert_eq!(
                (url.host.as_str(), url.port, url.tls),
                (host, port, tls),
                "{text}"
            );
        }
        for text in [
            "",
            "recorder:50051",
            "ftp://recorder",
            "http://",
            "http://recorder/path",
            "http://user:secret@recorder",
            "http://recorder:99999",
            "http://recorder?x",
        ] {
            assert_eq!(
                text.parse::<RecorderUrl>(),
                Err(NoRecorderUrl(text.to_owned())),
                "{text}"
            );
        }
    }
}
