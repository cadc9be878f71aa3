//! Hits as a recorder gets them: in the order of their times, most of them of another email than the one before.

use std::{collections::VecDeque, net::IpAddr};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tracking::{Hit, Timestamp, Token, facts::new_id};

/// 2026-03-01T00:00:00Z: whatever is taken stays within the month.
const BEGIN_MS: i64 = 1_772_323_200_000;
/// So many hits come within twenty seconds.
const RECENT: usize = 20_000;
const REPEATS_PERCENT: u32 = 25;
const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
];

/// Who opened what.
#[derive(Clone, Copy, Debug)]
struct Open {
    email: u64,
    address: IpAddr,
    agent: usize,
}

/// A stream of hits, a thousand a second by its own clock.
#[derive(Debug)]
pub(super) struct Opens {
    emails: u64,
    taken: u64,
    random: SmallRng,
    recent: VecDeque<Open>,
}

impl Opens {
    pub(super) fn of(emails: u64) -> Self {
        Self {
            emails,
            taken: 0,
            random: SmallRng::seed_from_u64(emails),
            recent: VecDeque::new(),
        }
    }

    /// How many hits were made.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// A hit of each email.
    pub(super) fn first_of_each(&mut self) -> Vec<Hit> {
        (0..self.emails)
            .map(|email| {
                let open = self.open_of(email);
                self.hit(open)
            })
            .collect()
    }

    /// The next hits.
    pub(super) fn take(&mut self, count: usize) -> Vec<Hit> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Hit {
        let repeats = self.random.random_range(0..100) < REPEATS_PERCENT;
        let open = if repeats && !self.recent.is_empty() {
            self.recent[self.random.random_range(0..self.recent.len())]
        } else {
            let email = self.random.random_range(0..self.emails);
            self.open_of(email)
        };
        self.hit(open)
    }

    fn open_of(&mut self, email: u64) -> Open {
        Open {
            email,
            address: std::net::Ipv4Addr::from_bits(0x0a00_0000 | self.random.random_range(0..1 << 24)).into(),
            agent: self.random.random_range(0..AGENTS.len()),
        }
    }

    fn hit(&mut self, open: Open) -> Hit {
        let opened_at = Timestamp::from_millis(BEGIN_MS + i64::try_from(self.taken).unwrap_or_default());
        self.taken += 1;
        self.recent.push_back(open);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let email = open.email;
        let scattered = email.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Hit {
            event_id: new_id(opened_at, self.random.random()).expect("a time of this century"),
            opened_at,
            token: Token {
                user_id: format!("user-{}", email % 100),
                email_id: format!("{:08x}-0000-4000-8000-{email:012x}", scattered >> 32),
                recipient: format!("reader-{email}@example.com"),
                sent_at: "2026-01-02T03:04:05.678Z".to_owned(),
                sender_email: Some("sender@example.org".to_owned()),
            },
            client_address: open.address,
            user_agent: Some(AGENTS[open.agent].to_owned()),
            referer_host: None,
        }
    }
}
