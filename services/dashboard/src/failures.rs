//! Wrong tokens: who gave too many of them, and what that costs.
//!
//! At log-in it closes the door to an address for a while. In the header it does not: a wrong token is answered 401 and
//! the right one is let through, whoever else failed from the same address, for that may be all the world behind one
//! proxy. So the answer to a wrong one only takes longer, and the metric tells the operator. That slows who waits for
//! answers; against who does not, only the token's length helps.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::ConnectInfo,
    http::{Extensions, HeaderMap},
};
use tokio::{sync::Semaphore, time::sleep};
use tracking::Timestamp;

/// How often an address may give a wrong token within [`WINDOW_MS`].
const MOST_FAILURES: u32 = 10;
/// Ten minutes, in milliseconds.
const WINDOW_MS: i64 = 10 * 60 * 1_000;
/// How many addresses are remembered; beyond, the one that failed longest ago is forgotten.
const MOST_ADDRESSES: usize = 4_096;

/// How long the answer to a wrong token in the header takes, once there were too many.
const PAUSE: Duration = Duration::from_secs(1);
/// How many answers are held back at once; they hold connections.
const MOST_PAUSES: usize = 200;

/// Who gave too many wrong tokens. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Failures(Arc<Mutex<HashMap<IpAddr, Failed>>>);

struct Failed {
    first: Timestamp,
    count: u32,
}

impl Failed {
    const fn ends(&self) -> i64 {
        self.first.as_millis().saturating_add(WINDOW_MS)
    }
}

impl Failures {
    /// For how many seconds `client` may not try again, if so.
    pub(crate) fn wait(&self, client: IpAddr, now: Timestamp) -> Option<i64> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = failures
            .get(&client)
            .filter(|failed| failed.count >= MOST_FAILURES)?;
        let left = failed.ends().saturating_sub(now.as_millis());
        (left > 0).then(|| left / 1_000 + 1)
    }

    /// `client` gave a wrong token.
    pub(crate) fn note(&self, client: IpAddr, now: Timestamp) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, failed| failed.ends() > now.as_millis());
        if failures.len() >= MOST_ADDRESSES && !failures.contains_key(&client) {
            let oldest = failures.iter().min_by_key(|(_, failed)| failed.first);
            if let Some(oldest) = oldest.map(|(&client, _)| client) {
                failures.remove(&oldest);
            }
        }
        let failed = failures.entry(client).or_insert(Failed { first: now, count: 0 });
        failed.count = failed.count.saturating_add(1);
    }
}

/// Who asks: the peer, or, if that is a proxy (of a private network), whom the proxy says it speaks for. Neighbours of an
/// IPv6 network count as one.
pub(crate) fn client_of(extensions: &Extensions, headers: &HeaderMap) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |ConnectInfo(peer)| {
        peer.ip().to_canonical()
    });
    let is_near = match peer {
        IpAddr::V4(peer) => peer.is_loopback() || peer.is_private(),
        IpAddr::V6(peer) => peer.is_loopback() || peer.is_unique_local(),
    };
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
    let forwarded = forwarded
        .and_then(|line| line.to_str().ok()?.rsplit(',').next()?.trim().parse().ok())
        .map(|client: IpAddr| client.to_canonical());
    match forwarded.filter(|_| is_near).unwrap_or(peer) {
        IpAddr::V6(client) => IpAddr::V6(Ipv6Addr::from_bits(client.to_bits() & (u128::MAX << 64))),
        client @ IpAddr::V4(_) => client,
    }
}

/// Who showed wrong tokens in the header. Clones share it.
#[derive(Clone)]
pub(crate) struct Guesses {
    failures: Failures,
    pauses: Arc<Semaphore>,
}

impl Default for Guesses {
    fn default() -> Self {
        Self {
            failures: Failures::default(),
            pauses: Arc::new(Semaphore::new(MOST_PAUSES)),
        }
    }
}

impl Guesses {
    /// `client` showed a wrong token. Returns when it may be told so.
    pub(crate) async fn note(&self, client: IpAddr, now: Timestamp) {
        self.failures.note(client, now);
        if self.failures.wait(client, now).is_none() {
            return;
        }
        if let Ok(_place) = self.pauses.try_acquire() {
            sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_366_400_000);

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_many_guesses_takes_longer() {
        let guesses = Guesses::default();
        let client = IpAddr::from([203, 0, 113, 7]);
        let started = Instant::now();
        for _ in 1..MOST_FAILURES {
            guesses.note(client, NOW).await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        guesses.note(client, NOW).await;
        guesses.note(client, NOW).await;
        assert_eq!(started.elapsed(), 2 * PAUSE);
        guesses.note(IpAddr::from([203, 0, 113, 8]), NOW).await;
        let places = guesses.pauses.acquire_many(200).await.unwrap();
        guesses.note(client, NOW).await;
        assert_eq!(started.elapsed(), 2 * PAUSE, "neither others nor without bound");
        drop(places);
        guesses.note(client, NOW.saturating_add_millis(WINDOW_MS)).await;
        assert_eq!(started.elapsed(), 2 * PAUSE, "nor for ever");
    }

    #[test]
    fn failures_are_limited_and_their_memory_too() {
        let failures = Failures::default();
        let client = IpAddr::from([203, 0, 113, 7]);
        for _ in 0..MOST_FAILURES {
            assert_eq!(failures.wait(client, NOW), None);
            failures.note(client, NOW);
        }
        assert_eq!(failures.wait(client, NOW), Some(601));
        assert_eq!(failures.wait(client, NOW.saturating_add_millis(WINDOW_MS)), None);
        assert_eq!(failures.wait(IpAddr::from([203, 0, 113, 8]), NOW), None);
        for number in 0..5_000_u32 {
            let other = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            failures.note(other, NOW.saturating_add_millis(i64::from(number)));
        }
        assert_eq!(failures.0.lock().unwrap().len(), MOST_ADDRESSES);
    }

    #[test]
    fn a_proxy_nearby_says_for_whom_it_asks() {
        let asks = |peer: &str, forwarded: &str| {
            let mut extensions = Extensions::new();
            extensions.insert(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", forwarded.parse().unwrap());
            client_of(&extensions, &headers).to_string()
        };
        assert_eq!(asks("127.0.0.1:9", "198.51.100.1, 203.0.113.5"), "203.0.113.5");
        assert_eq!(asks("203.0.113.9:9", "198.51.100.1"), "203.0.113.9");
        assert_eq!(asks("[::1]:9", "2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(asks("10.0.0.3:9", "nobody"), "10.0.0.3");
    }
}
