//! The hits of a measurement, by number: what each asks for, what has to come back, and what the dashboard has to say
//! once all of them are recorded.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tracking::Token;

use crate::{
    client,
    load::target,
    stack::{DASHBOARD_TOKEN, Stack},
};

/// How long the pixel's GIF is.
const GIF_BYTES: usize = 43;
/// Of a hundred hits, how many are for one of the few emails that everybody opens.
const HOT_PERCENT: u64 = 2;
const HOT_EMAILS: u64 = 16;
const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
];

/// Hits that follow from their numbers, counted as they are taken. Who takes one sends it and fails the measurement
/// unless it is answered: so what was taken is what the dashboard has to count.
#[derive(Debug)]
pub(super) struct Hits {
    emails: u64,
    taken: AtomicU64,
}

impl Hits {
    /// Hits of this many emails: most get a few, [`HOT_EMAILS`] of them many.
    pub(super) const fn of(emails: u64) -> Self {
        Self {
            emails,
            taken: AtomicU64::new(0),
        }
    }

    /// The bytes of the next hit's request.
    pub(super) fn take(&self, host: SocketAddr) -> Vec<u8> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let random = mixed(number ^ 0x5eed);
        let email = self.email(number);
        let [a, b, c, ..] = random.to_le_bytes();
        let address = Ipv4Addr::new(10, a, b, c).to_string();
        let agent = AGENTS[usize::from(random.to_le_bytes()[7]) % AGENTS.len()];
        let token = Token {
            user_id: format!("user-{}", email % 100),
            email_id: email_id(email),
            recipient: format!("reader-{email}@example.com"),
            sent_at: "2026-01-02T03:04:05.678Z".to_owned(),
            sender_email: Some("sender@example.org".to_owned()),
        };
        let headers = [
            ("user-agent", agent),
            ("accept", "image/avif,image/webp,image/*;q=0.8"),
            ("x-forwarded-for", &address),
        ];
        client::request("GET", &target(&token), host, &headers, b"")
    }

    /// How many were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Fails unless the dashboard counts exactly the hits taken, email by email. The spools have to be empty.
    pub(super) async fn agree_with_the_dashboard(&self, stack: &Stack) -> anyhow::Result<()> {
        let mut expected: HashMap<String, u64> = HashMap::new();
        for number in 0..self.taken() {
            *expected.entry(email_id(self.email(number))).or_default() += 1;
        }
        let token = [("x-tracker-token", DASHBOARD_TOKEN)];
        let answer = client::get(stack.dashboard.address, "/dashboard/api/emails", &token)
            .await
            .context("the dashboard's list")?;
        ensure!(
            answer.status == 200,
            "the dashboard's list has status {}",
            answer.status
        );
        let list: List = serde_json::from_slice(&answer.body).context("the dashboard's list")?;
        ensure!(
            list.items.len() == expected.len(),
            "{} emails were hit, the dashboard lists {}",
            expected.len(),
            list.items.len()
        );
        for email in list.items {
            let hits = expected.get(&email.id).copied().unwrap_or_default();
            ensure!(
                hits == email.raw_open_events && email.total_open_events <= hits,
                "{hits} hits of {} were answered, the dashboard says {email:?}",
                email.id
            );
        }
        Ok(())
    }

    fn email(&self, number: u64) -> u64 {
        let random = mixed(number);
        if random % 100 < HOT_PERCENT {
            (random >> 32) % HOT_EMAILS
        } else {
            (random >> 32) % self.emails
        }
    }
}

#[derive(Deserialize)]
struct List {
    items: Vec<Email>,
}

#[derive(Debug, Deserialize)]
struct Email {
    #[serde(rename = "email_id")]
    id: String,
    raw_open_events: u64,
    total_open_events: u64,
}

fn email_id(email: u64) -> String {
    format!("{:08x}-0000-4000-8000-{email:012x}", mixed(email) >> 32)
}

/// A number that looks random, from one that does not (the finalizer of `SplitMix64`).
const fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How much of an answer there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Partial,
    Whole {
        /// Whether the server closes the connection after it.
        closes: bool,
    },
}

/// What `bytes` hold of the answer to a hit; an error if that is no GIF with status 200.
pub(super) fn answer_in(bytes: &[u8]) -> io::Result<Answer> {
    let wrong = || {
        let text = format!("the answer is no GIF: {}", String::from_utf8_lossy(bytes));
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let Some(head_end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > 4_096 {
            Err(wrong())
        } else {
            Ok(Answer::Partial)
        };
    };
    let (head, body) = (&bytes[..head_end], &bytes[head_end + 4..]);
    if !head.starts_with(b"HTTP/1.1 200 ") || body.len() > GIF_BYTES {
        return Err(wrong());
    }
    if body.len() < GIF_BYTES {
        return Ok(Answer::Partial);
    }
    if !body.starts_with(b"GIF89a") {
        return Err(wrong());
    }
    let closes = head
        .windows(17)
        .any(|window| window.eq_ignore_ascii_case(b"connection: close"));
    Ok(Answer::Whole { closes })
}
