//! The load of the fault suite: senders' and readers' requests, each with a nonce of its own, and a log of what was
//! answered.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use tracking::Token;

use crate::client::{self, Connection};

/// The agents of readers; the nonce is the referer's host then, so that some of them repeat themselves.
const READERS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
];
const PROXY_AGENT: &str =
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";

/// How much of what.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) seed: u64,
    /// Clients at once.
    pub(crate) clients: usize,
    /// How long a client waits between two requests, at most.
    pub(crate) pause: Duration,
    /// How many emails there are; half of the requests are for the first few.
    pub(crate) emails: u32,
}

/// Where a pixel is: by itself, and behind a line that may fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) direct: SocketAddr,
    pub(crate) line: SocketAddr,
}

/// A moment by this machine's clock, and by one that never steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) unix_ms: i64,
    pub(crate) instant: Instant,
}

impl Moment {
    #[expect(
        clippy::disallowed_methods,
        reason = "it is the clock that the pixels' clocks are held against"
    )]
    pub(crate) fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock after 1970");
        Self {
            unix_ms: i64::try_from(since.as_millis()).expect("a clock of this age"),
            instant: Instant::now(),
        }
    }
}

/// What a request was for.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Hit(Token),
    Mark { email_id: String },
}

impl What {
    pub(crate) fn email_id(&self) -> &str {
        match self {
            Self::Hit(token) => &token.email_id,
            Self::Mark { email_id } => email_id,
        }
    }
}

/// A line of the log.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) nonce: String,
    pub(crate) what: What,
    /// The client's address and agent, and the referer's host, as the pixel has to see them.
    pub(crate) client_address: std::net::IpAddr,
    pub(crate) user_agent: String,
    pub(crate) referer_host: Option<String>,
    /// The index of the pixel, and whether the failing line led there.
    pub(crate) pixel: usize,
    pub(crate) by_line: bool,
    pub(crate) begun: Moment,
    pub(crate) ended: Moment,
    /// When the connection was last known to work: at its last answer, or, if it is new, when this was sent.
    pub(crate) connection_good_at: Instant,
    /// When the connection was opened.
    pub(crate) connection_opened_at: Instant,
    /// The status and, for a mark, its time; or how the connection failed.
    pub(crate) outcome: Result<Answered, String>,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) recorded_at_ms: Option<i64>,
}

impl Sent {
    /// Whether the product has promised that this is recorded.
    pub(crate) fn is_answered(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|answered| answered.status == 200)
    }
}

/// The nonce in an agent or a referer's host, if there is one.
pub(crate) fn nonce_in(text: &str) -> Option<&str> {
    let at = text.find("nonce-")?;
    let rest = text.get(at..)?;
    rest.split(|byte: char| !(byte.is_ascii_alphanumeric() || byte == '-'))
        .next()
}

/// Sends until told to stop; gives the log.
pub(crate) async fn run(shape: &Shape, ways: &[Way], stop: CancellationToken) -> Vec<Sent> {
    let ways: Arc<[Way]> = ways.into();
    let mut clients = JoinSet::new();
    for number in 0..shape.clients {
        let (shape, ways, stop) = (shape.clone(), Arc::clone(&ways), stop.clone());
        clients.spawn(async move { Client::new(shape, ways, number).run(stop).await });
    }
    clients.join_all().await.concat()
}

/// One client: one connection to each pixel, one request after the other.
struct Client {
    shape: Shape,
    number: usize,
    ways: Arc<[Way]>,
    connections: Vec<Option<Kept>>,
    random: StdRng,
    count: u64,
}

/// A connection that has given an answer.
struct Kept {
    connection: Connection,
    opened_at: Instant,
    good_at: Instant,
}

impl Client {
    fn new(shape: Shape, ways: Arc<[Way]>, number: usize) -> Self {
        let seed = shape
            .seed
            .wrapping_mul(1_000)
            .wrapping_add(u64::try_from(number).unwrap());
        Self {
            random: StdRng::seed_from_u64(seed),
            connections: ways.iter().map(|_| None).collect(),
            shape,
            number,
            ways,
            count: 0,
        }
    }

    async fn run(mut self, stop: CancellationToken) -> Vec<Sent> {
        let mut log = Vec::new();
        while !stop.is_cancelled() {
            let sent = self.send().await;
            let failed = sent.outcome.is_err();
            log.push(sent);
            let pause = self.shape.pause.mul_f64(self.random.random());
            sleep(if failed {
                pause + Duration::from_millis(20)
            } else {
                pause
            })
            .await;
        }
        log
    }

    async fn send(&mut self) -> Sent {
        let mut sent = self.next_request();
        let request = bytes(&sent, self.ways[sent.pixel].direct);
        sent.begun = Moment::now();
        let kept = self.connections[sent.pixel].as_ref();
        sent.connection_good_at = kept.map_or(sent.begun.instant, |kept| kept.good_at);
        sent.connection_opened_at = kept.map_or(sent.begun.instant, |kept| kept.opened_at);
        let outcome = self.exchange(&sent, &request).await;
        sent.ended = Moment::now();
        sent.outcome = outcome.map_err(|error| error.to_string());
        sent
    }

    async fn exchange(&mut self, sent: &Sent, request: &[u8]) -> std::io::Result<Answered> {
        let way = self.ways[sent.pixel];
        let mut connection = match self.connections[sent.pixel].take() {
            Some(kept) => kept.connection,
            None => Connection::open(if sent.by_line { way.line } else { way.direct }).await?,
        };
        let answer = connection.exchange(request).await?;
        if !answer.closes {
            self.connections[sent.pixel] = Some(Kept {
                connection,
                opened_at: sent.connection_opened_at,
                good_at: Instant::now(),
            });
        }
        let recorded_at_ms = match &sent.what {
            What::Hit(_) => None,
            What::Mark { .. } => serde_json::from_slice::<serde_json::Value>(&answer.body)
                .ok()
                .and_then(|body| body.get("recorded_at_ms")?.as_i64()),
        };
        Ok(Answered {
            status: answer.status,
            recorded_at_ms,
        })
    }

    fn next_request(&mut self) -> Sent {
        self.count += 1;
        let nonce = format!("nonce-{:x}-{}-{}", self.shape.seed, self.number, self.count);
        let random = &mut self.random;
        let hot = self.shape.emails.div_ceil(10);
        let among = if random.random_bool(0.5) {
            hot
        } else {
            self.shape.emails
        };
        let email = random.random_range(0..among);
        let email_id = format!("mail-{email}");
        let what = if random.random_bool(0.08) {
            What::Mark { email_id }
        } else {
            What::Hit(token(email_id, random))
        };
        let (mut user_agent, mut referer_host) = (format!("{PROXY_AGENT} {nonce}"), None);
        match random.random_range(0..10) {
            0..4 => {}
            4..7 => user_agent = format!("{} {nonce}", READERS[0]),
            _ => {
                READERS[random.random_range(0..READERS.len())].clone_into(&mut user_agent);
                referer_host = Some(format!("{nonce}.example"));
            }
        }
        if matches!(what, What::Mark { .. }) {
            user_agent = format!("{} {nonce}", READERS[2]);
            referer_host = None;
        } else if referer_host.is_none() && random.random_bool(0.1) {
            referer_host = Some("mail.google.com".to_owned());
        }
        let now = Moment::now();
        Sent {
            nonce,
            what,
            client_address: [203, 0, 113, random.random_range(1..5)].into(),
            user_agent,
            referer_host,
            pixel: random.random_range(0..self.ways.len()),
            // Half of the clients reach the pixels by lines that may fail, so that the other half must not see it.
            by_line: self.number % 2 == 1,
            begun: now,
            ended: now,
            connection_good_at: now.instant,
            connection_opened_at: now.instant,
            outcome: Err("not sent".to_owned()),
        }
    }
}

/// A token; several are in use for one email, as if some were forged.
fn token(email_id: String, random: &mut StdRng) -> Token {
    let variant: u32 = random.random_range(0..3);
    Token {
        user_id: format!("user-{variant}"),
        recipient: format!("reader-{variant}@example.com, zoë@example.org"),
        sent_at: format!("2026-01-0{}T00:00:00.000Z", variant + 1),
        sender_email: (variant == 1).then(|| "sender@example.com".to_owned()),
        email_id,
    }
}

fn bytes(sent: &Sent, host: SocketAddr) -> Vec<u8> {
    let address = sent.client_address.to_string();
    let referer = sent
        .referer_host
        .as_ref()
        .map(|host| format!("https://{host}/page"));
    let mut headers = vec![
        ("user-agent", sent.user_agent.as_str()),
        ("x-forwarded-for", &address),
    ];
    if let Some(referer) = &referer {
        headers.push(("referer", referer));
    }
    match &sent.what {
        What::Hit(token) => client::request("GET", &target(token), host, &headers, b""),
        What::Mark { email_id } => {
            headers.push(("content-type", "application/json"));
            let body = format!(r#"{{"email_id":"{email_id}"}}"#);
            client::request("POST", "/mark-suppress-next", host, &headers, body.as_bytes())
        }
    }
}

/// The path of the pixel with this token.
pub(crate) fn target(token: &Token) -> String {
    let mut fields = vec![&token.user_id, &token.email_id, &token.recipient, &token.sent_at];
    fields.extend(&token.sender_email);
    let json = serde_json::to_vec(&fields).expect("strings");
    format!("/t/{}.gif", URL_SAFE_NO_PAD.encode(json))
}
