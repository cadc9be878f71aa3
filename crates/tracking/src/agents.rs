//! Who fetched a pixel: a person's mail client or browser, a proxy that fetches for a person, or a machine by itself.
//!
//! Nothing is dropped for it: a hit is stored, and counts, whoever made it. What is found here says how far its open is to
//! be believed.
//!
//! What it goes by: the user agent (`data/agents.tsv`), the network that the hit came from (`data/networks.tsv`, which the
//! operator may replace), and how long after sending it came. It is a function of these three and of the two files, so the
//! order in which hits arrive does not matter.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use aho_corasick::AhoCorasick;
use ipnet::IpNet;
use thiserror::Error;

use crate::{Hit, Timestamp};

/// Within how many milliseconds after sending a hit says little: gateways look at once, people hardly do. The mail's own
/// time is that of the sender's computer.
pub const AT_ONCE_MS: i64 = 5_000;
/// Within how many milliseconds after sending mail is prefetched and scanned.
pub const DELIVERY_MS: i64 = 60_000;
/// Up to which version Chrome is too old for a person to use it today: Microsoft's scanners call themselves 64 and 72.
const STALE_CHROME: u32 = 79;

const RULES: &str = include_str!("../data/agents.tsv");
const NETWORKS: &str = include_str!("../data/networks.tsv");

/// Who fetched a pixel, and under which circumstances: each has one class, one confidence and one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "class(), confidence() and reason() say what each is")]
pub enum Agent {
    Browser,
    BrowserAtOnce,
    MailClient,
    MailClientAtOnce,
    WebKit,
    WebKitAtDelivery,
    GmailProxy,
    YahooProxy,
    MicrosoftProxy,
    MicrosoftAtDelivery,
    MicrosoftScanner,
    ApplePrivacy,
    Scanner,
    ScannerNetwork,
    Bot,
    Library,
    Unfamiliar,
    Unnamed,
}

/// What kind of client an [`Agent`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentClass {
    /// A person's browser.
    Browser,
    /// A person's mail client.
    MailClient,
    /// Gmail's image proxy, which fetches when a person opens the mail.
    GmailProxy,
    /// Yahoo's.
    YahooProxy,
    /// Outlook's.
    MicrosoftProxy,
    /// Microsoft's look at mail that it delivers.
    MicrosoftScanner,
    /// Apple Mail Privacy Protection, which fetches whether or not anybody reads.
    ApplePrivacy,
    /// A security product.
    SecurityScanner,
    /// A program.
    Bot,
    /// Nobody knows.
    Unknown,
}

/// How far an open is to be believed: from a person's own client to a machine by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Confidence {
    /// A person opened the mail.
    Human,
    /// Nearly always a person.
    Likely,
    /// It may be either.
    Unclear,
    /// A machine by itself.
    Automated,
}

impl Agent {
    /// All there are.
    pub const ALL: [Self; 18] = [
        Self::Browser,
        Self::BrowserAtOnce,
        Self::MailClient,
        Self::MailClientAtOnce,
        Self::WebKit,
        Self::WebKitAtDelivery,
        Self::GmailProxy,
        Self::YahooProxy,
        Self::MicrosoftProxy,
        Self::MicrosoftAtDelivery,
        Self::MicrosoftScanner,
        Self::ApplePrivacy,
        Self::Scanner,
        Self::ScannerNetwork,
        Self::Bot,
        Self::Library,
        Self::Unfamiliar,
        Self::Unnamed,
    ];

    /// Its name in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::BrowserAtOnce => "browser_at_once",
            Self::MailClient => "mail_client",
            Self::MailClientAtOnce => "mail_client_at_once",
            Self::WebKit => "webkit",
            Self::WebKitAtDelivery => "webkit_at_delivery",
            Self::GmailProxy => "gmail_proxy",
            Self::YahooProxy => "yahoo_proxy",
            Self::MicrosoftProxy => "microsoft_proxy",
            Self::MicrosoftAtDelivery => "microsoft_at_delivery",
            Self::MicrosoftScanner => "microsoft_scanner",
            Self::ApplePrivacy => "apple_privacy",
            Self::Scanner => "scanner",
            Self::ScannerNetwork => "scanner_network",
            Self::Bot => "bot",
            Self::Library => "library",
            Self::Unfamiliar => "unfamiliar",
            Self::Unnamed => "unnamed",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|agent| agent.as_str() == name)
    }

    /// What kind of client it is.
    #[must_use]
    pub const fn class(self) -> AgentClass {
        match self {
            Self::Browser | Self::BrowserAtOnce => AgentClass::Browser,
            Self::MailClient | Self::MailClientAtOnce | Self::WebKit => AgentClass::MailClient,
            Self::GmailProxy => AgentClass::GmailProxy,
            Self::YahooProxy => AgentClass::YahooProxy,
            Self::MicrosoftProxy => AgentClass::MicrosoftProxy,
            Self::MicrosoftAtDelivery | Self::MicrosoftScanner => AgentClass::MicrosoftScanner,
            Self::ApplePrivacy | Self::WebKitAtDelivery => AgentClass::ApplePrivacy,
            Self::Scanner | Self::ScannerNetwork => AgentClass::SecurityScanner,
            Self::Bot | Self::Library => AgentClass::Bot,
            Self::Unfamiliar | Self::Unnamed => AgentClass::Unknown,
        }
    }

    /// How far an open by it is to be believed, as far as this hit alone tells.
    #[must_use]
    pub const fn confidence(self) -> Confidence {
        match self {
            Self::Browser | Self::MailClient => Confidence::Human,
            Self::WebKit | Self::GmailProxy | Self::YahooProxy | Self::MicrosoftProxy => Confidence::Likely,
            Self::BrowserAtOnce
            | Self::MailClientAtOnce
            | Self::WebKitAtDelivery
            | Self::MicrosoftAtDelivery
            | Self::ApplePrivacy
            | Self::Unfamiliar
            | Self::Unnamed => Confidence::Unclear,
            Self::MicrosoftScanner | Self::Scanner | Self::ScannerNetwork | Self::Bot | Self::Library => {
                Confidence::Automated
            }
        }
    }

    /// Why, for a person to read.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Browser => "A browser fetched it.",
            Self::BrowserAtOnce => {
                "A browser, it says, fetched it within seconds of sending, when gateways look and people hardly do."
            }
            Self::MailClient => "A mail client fetched it.",
            Self::MailClientAtOnce => {
                "A mail client, it says, fetched it within seconds of sending, when gateways look and people hardly do."
            }
            Self::WebKit => "Apple Mail or Outlook fetched it, long after the mail was delivered.",
            Self::WebKitAtDelivery => {
                "Apple Mail or Outlook fetched it around the time of delivery, which both also do by themselves."
            }
            Self::GmailProxy => "Gmail's image proxy fetched it, which it does when somebody opens the mail.",
            Self::YahooProxy => "Yahoo's image proxy fetched it, which it does when somebody opens the mail.",
            Self::MicrosoftProxy => {
                "It was fetched from Microsoft's network long after delivery, as Outlook's image proxy does when somebody \
                 opens the mail."
            }
            Self::MicrosoftAtDelivery => {
                "It was fetched from Microsoft's network around the time of delivery: a scanner, or a reader who was quick."
            }
            Self::MicrosoftScanner => {
                "It was fetched from Microsoft's network by a browser of years ago, which is what its scanners call \
                 themselves."
            }
            Self::ApplePrivacy => {
                "Apple's privacy protection fetched it, which it does whether or not anybody reads the mail."
            }
            Self::Scanner => "A security scanner fetched it.",
            Self::ScannerNetwork => "It was fetched from the network of a security scanner.",
            Self::Bot => "A program that fetches pages by itself fetched it.",
            Self::Library => "A program fetched it, with a library for programs.",
            Self::Unfamiliar => "What fetched it has a name that tells nothing.",
            Self::Unnamed => "What fetched it did not say what it is.",
        }
    }
}

/// Why a hit is taken for automated that would not be by itself: see [`Confidence`] as stored.
pub const BURST_REASON: &str =
    "The same address fetched the pixels of many mails within seconds, which a scanner does and no reader.";

impl AgentClass {
    /// All there are.
    pub const ALL: [Self; 10] = [
        Self::Browser,
        Self::MailClient,
        Self::GmailProxy,
        Self::YahooProxy,
        Self::MicrosoftProxy,
        Self::MicrosoftScanner,
        Self::ApplePrivacy,
        Self::SecurityScanner,
        Self::Bot,
        Self::Unknown,
    ];

    /// Its name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::MailClient => "mail_client",
            Self::GmailProxy => "gmail_proxy",
            Self::YahooProxy => "yahoo_proxy",
            Self::MicrosoftProxy => "microsoft_proxy",
            Self::MicrosoftScanner => "microsoft_scanner",
            Self::ApplePrivacy => "apple_privacy",
            Self::SecurityScanner => "security_scanner",
            Self::Bot => "bot",
            Self::Unknown => "unknown",
        }
    }

    /// Whether what is fetched this way comes from a provider's machines, whose address says nothing of where a reader is.
    #[must_use]
    pub const fn hides_reader(self) -> bool {
        match self {
            Self::GmailProxy
            | Self::YahooProxy
            | Self::MicrosoftProxy
            | Self::MicrosoftScanner
            | Self::ApplePrivacy => true,
            Self::Browser | Self::MailClient | Self::SecurityScanner | Self::Bot | Self::Unknown => false,
        }
    }

    /// The agents of this class.
    pub fn agents(self) -> impl Iterator<Item = Agent> {
        Agent::ALL.into_iter().filter(move |agent| agent.class() == self)
    }
}

impl Confidence {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Human, Self::Likely, Self::Unclear, Self::Automated];

    /// Its name in the database and in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Likely => "likely",
            Self::Unclear => "unclear",
            Self::Automated => "automated",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|confidence| confidence.as_str() == name)
    }

    /// Whether an open is counted among those of people.
    #[must_use]
    pub const fn is_human(self) -> bool {
        matches!(self, Self::Human | Self::Likely)
    }

    /// Whether an open is counted among those of machines.
    #[must_use]
    pub const fn is_automated(self) -> bool {
        matches!(self, Self::Automated)
    }
}

/// What a user agent says by itself, whoever sent it and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the classes say what each is")]
pub enum Sign {
    Browser,
    MailClient,
    WebKit,
    GmailProxy,
    YahooProxy,
    MicrosoftProxy,
    ApplePrivacy,
    Scanner,
    Bot,
    Library,
}

impl Sign {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "browser" => Self::Browser,
            "mail_client" => Self::MailClient,
            "webkit" => Self::WebKit,
            "gmail_proxy" => Self::GmailProxy,
            "yahoo_proxy" => Self::YahooProxy,
            "microsoft_proxy" => Self::MicrosoftProxy,
            "apple_privacy" => Self::ApplePrivacy,
            "scanner" => Self::Scanner,
            "bot" => Self::Bot,
            "library" => Self::Library,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Is,
    Has,
    Starts,
}

/// Whose network an address is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Apple,
    Microsoft,
    Scanner,
}

/// A line of a file of rules that cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {what}")]
pub struct InvalidRules {
    line: usize,
    what: &'static str,
}

/// The rules. Clones share them.
#[derive(Clone)]
pub struct Agents(Arc<Inner>);

struct Inner {
    texts: AhoCorasick,
    /// Of each text: what it means, and where it must stand.
    rules: Vec<(Sign, Test)>,
    networks: Vec<(IpNet, Network)>,
    /// To tell rules apart.
    source: String,
}

impl fmt::Debug for Agents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Agents({} rules, {} networks)",
            self.0.rules.len(),
            self.0.networks.len()
        )
    }
}

impl PartialEq for Agents {
    fn eq(&self, other: &Self) -> bool {
        self.0.source == other.0.source
    }
}

impl Eq for Agents {}

impl Default for Agents {
    fn default() -> Self {
        static BUILT_IN: LazyLock<Agents> = LazyLock::new(|| {
            Agents::read(RULES, NETWORKS).unwrap_or_else(|_| {
                // A test reads both.
                Agents(Arc::new(Inner {
                    texts: AhoCorasick::new([""; 0])
                        .unwrap_or_else(|_| unreachable!("no pattern is no error")),
                    rules: Vec::new(),
                    networks: Vec::new(),
                    source: String::new(),
                }))
            })
        });
        BUILT_IN.clone()
    }
}

impl Agents {
    /// The built-in rules with the operator's own networks, each line `whose`, a tab and the network; more columns, and
    /// lines that begin with `#`, say nothing.
    ///
    /// # Errors
    /// Names the first line that cannot be read.
    pub fn with_networks(networks: &str) -> Result<Self, InvalidRules> {
        Self::read(RULES, networks)
    }

    fn read(rules: &str, networks: &str) -> Result<Self, InvalidRules> {
        let mut texts = Vec::new();
        let mut signs = Vec::new();
        for (line, columns) in lines(rules) {
            let invalid = |what| InvalidRules { line, what };
            let [sign, test, words, ..] = columns.as_slice() else {
                return Err(invalid("fewer than three columns"));
            };
            let sign = Sign::named(sign).ok_or(invalid("the first column is no kind of agent"))?;
            let test = match *test {
                "is" => Test::Is,
                "has" => Test::Has,
                "starts" => Test::Starts,
                _ => return Err(invalid("the second column is not is, has or starts")),
            };
            if words.is_empty() {
                return Err(invalid("the third column is empty"));
            }
            texts.push(*words);
            signs.push((sign, test));
        }
        let texts = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(&texts)
            .map_err(|_| InvalidRules {
                line: 0,
                what: "the texts are too many",
            })?;
        Ok(Self(Arc::new(Inner {
            texts,
            rules: signs,
            networks: read_networks(networks)?,
            source: format!("{rules}\n{networks}"),
        })))
    }

    /// Who made `hit`, by what its own token says of when the mail was sent.
    #[must_use]
    pub fn of_hit(&self, hit: &Hit) -> Agent {
        self.of_signed_hit(self.sign(hit.user_agent.as_deref()), hit)
    }

    /// [`of_hit`](Self::of_hit) by what its user agent says, for who has looked at that before.
    #[must_use]
    pub fn of_signed_hit(&self, sign: Option<Sign>, hit: &Hit) -> Agent {
        let sent_at = Timestamp::parse_iso(&hit.token.sent_at);
        let since_sent_ms = sent_at.map(|sent_at| hit.opened_at.millis_since(sent_at));
        self.of_signed(sign, hit.user_agent.as_deref(), hit.client_address, since_sent_ms)
    }

    /// Who it was, by user agent, address, and milliseconds since the mail was sent; a hit before that says that one of the
    /// clocks is wrong, and nothing else.
    #[must_use]
    pub fn of(&self, user_agent: Option<&str>, client_address: IpAddr, since_sent_ms: Option<i64>) -> Agent {
        self.of_signed(self.sign(user_agent), user_agent, client_address, since_sent_ms)
    }

    fn of_signed(
        &self,
        sign: Option<Sign>,
        user_agent: Option<&str>,
        client_address: IpAddr,
        since_sent_ms: Option<i64>,
    ) -> Agent {
        let user_agent = user_agent.unwrap_or_default().trim();
        let network = self.network(client_address);
        let within = |span_ms: i64| since_sent_ms.is_some_and(|since| (0..=span_ms).contains(&since));
        match (sign, network) {
            // Whoever says what they are is believed, unless it is what everybody says.
            (Some(Sign::GmailProxy), _) => Agent::GmailProxy,
            (Some(Sign::YahooProxy), _) => Agent::YahooProxy,
            (Some(Sign::MicrosoftProxy), _) => Agent::MicrosoftProxy,
            (Some(Sign::ApplePrivacy), _) | (Some(Sign::WebKit), Some(Network::Apple)) => Agent::ApplePrivacy,
            (Some(Sign::Scanner), _) => Agent::Scanner,
            (Some(Sign::Bot), _) => Agent::Bot,
            (Some(Sign::Library), _) => Agent::Library,
            (_, Some(Network::Scanner)) => Agent::ScannerNetwork,
            (Some(Sign::Browser), Some(Network::Microsoft)) if is_stale_chrome(user_agent) => {
                Agent::MicrosoftScanner
            }
            (Some(Sign::Browser | Sign::WebKit), Some(Network::Microsoft)) if within(DELIVERY_MS) => {
                Agent::MicrosoftAtDelivery
            }
            (Some(Sign::Browser | Sign::WebKit), Some(Network::Microsoft)) => Agent::MicrosoftProxy,
            (Some(Sign::WebKit), _) if within(DELIVERY_MS) => Agent::WebKitAtDelivery,
            (Some(Sign::WebKit), _) => Agent::WebKit,
            (Some(Sign::Browser), _) if within(AT_ONCE_MS) => Agent::BrowserAtOnce,
            (Some(Sign::Browser), _) => Agent::Browser,
            (Some(Sign::MailClient), _) if within(AT_ONCE_MS) => Agent::MailClientAtOnce,
            (Some(Sign::MailClient), _) => Agent::MailClient,
            (None, _) if user_agent.is_empty() => Agent::Unnamed,
            (None, _) => Agent::Unfamiliar,
        }
    }

    /// What the first rule says that fits the user agent.
    #[must_use]
    pub fn sign(&self, user_agent: Option<&str>) -> Option<Sign> {
        let user_agent = user_agent.unwrap_or_default().trim();
        let fits = |test: Test, start: usize, end: usize| match test {
            Test::Has => true,
            Test::Starts => start == 0,
            Test::Is => start == 0 && end == user_agent.len(),
        };
        self.0
            .texts
            .find_overlapping_iter(user_agent)
            .filter_map(|found| {
                let rule = found.pattern().as_usize();
                let (sign, test) = *self.0.rules.get(rule)?;
                fits(test, found.start(), found.end()).then_some((rule, sign))
            })
            .min_by_key(|(rule, _)| *rule)
            .map(|(_, sign)| sign)
    }

    fn network(&self, address: IpAddr) -> Option<Network> {
        let address = address.to_canonical();
        self.0
            .networks
            .iter()
            .find(|(network, _)| network.contains(&address))
            .map(|(_, whose)| *whose)
    }
}

fn read_networks(text: &str) -> Result<Vec<(IpNet, Network)>, InvalidRules> {
    let mut networks = Vec::new();
    for (line, columns) in lines(text) {
        let invalid = |what| InvalidRules { line, what };
        let [whose, network, ..] = columns.as_slice() else {
            return Err(invalid("fewer than two columns, which tabs part"));
        };
        let whose = match *whose {
            "apple" => Network::Apple,
            "microsoft" => Network::Microsoft,
            "scanner" => Network::Scanner,
            _ => return Err(invalid("the first column is not apple, microsoft or scanner")),
        };
        let network = network
            .parse()
            .map_err(|_| invalid("the second column is no network, for example 192.0.2.0/24"))?;
        networks.push((network, whose));
    }
    Ok(networks)
}

/// The columns of each line that says something, with its number.
fn lines(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|(number, line)| (number, line.split('\t').collect()))
}

fn is_stale_chrome(user_agent: &str) -> bool {
    user_agent
        .split_once("Chrome/")
        .map(|(_, version)| {
            version
                .split(|character: char| !character.is_ascii_digit())
                .next()
        })
        .and_then(|major| major?.parse::<u32>().ok())
        .is_some_and(|major| major <= STALE_CHROME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_rules_can_be_read() {
        let agents = Agents::read(RULES, NETWORKS).unwrap();
        assert_eq!(agents, Agents::default());
        assert!(
            agents.0.rules.len() > 50 && agents.0.networks.len() > 10,
            "{agents:?}"
        );
    }

    #[test]
    fn each_rule_has_a_source_and_a_date() {
        for (columns, text) in [(5, RULES), (4, NETWORKS)] {
            for (line, found) in lines(text) {
                assert_eq!(found.len(), columns, "line {line}");
                let date = found.last().unwrap();
                assert!(date.parse::<jiff::civil::Date>().is_ok(), "line {line}: {date}");
                assert!(!found[columns - 2].is_empty(), "line {line} has no source");
            }
        }
    }

    /// A rule that an earlier one always precedes would say nothing.
    #[test]
    fn each_rule_says_something() {
        let agents = Agents::default();
        for (line, columns) in lines(RULES) {
            let sign = agents.sign(Some(columns[2]));
            assert_eq!(sign, Sign::named(columns[0]), "line {line}: {}", columns[2]);
        }
    }

    #[test]
    fn the_operators_networks_go_by_themselves() {
        let agents = Agents::with_networks("# mine\nscanner\t198.51.100.0/24\n").unwrap();
        let browser = Some("Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0");
        let of = |address: [u8; 4]| agents.of(browser, address.into(), None);
        assert_eq!(of([198, 51, 100, 9]), Agent::ScannerNetwork);
        assert_eq!(of([209, 222, 82, 10]), Agent::Browser, "that was a built-in one");
        let mapped = "::ffff:198.51.100.9".parse().unwrap();
        assert_eq!(agents.of(browser, mapped, None), Agent::ScannerNetwork);
        for (text, line) in [
            ("apple", 1),
            ("\n\nnobody\t10.0.0.0/8", 3),
            ("apple\t10.0.0.0/33", 1),
        ] {
            assert_eq!(Agents::with_networks(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn names_and_their_things_go_together() {
        for agent in Agent::ALL {
            assert_eq!(Agent::named(agent.as_str()), Some(agent));
            assert!(agent.class().agents().any(|other| other == agent));
            assert!(agent.reason().ends_with('.'));
        }
        for confidence in Confidence::ALL {
            assert_eq!(Confidence::named(confidence.as_str()), Some(confidence));
        }
        assert_eq!(Agent::named("nobody"), None);
        for class in AgentClass::ALL {
            assert!(class.agents().next().is_some(), "{class:?}");
        }
    }

    #[test]
    fn a_hit_before_its_mail_was_sent_says_nothing_about_time() {
        let agents = Agents::default();
        let browser = Some("Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0");
        let of = |since| agents.of(browser, [203, 0, 113, 7].into(), since);
        assert_eq!(of(Some(-1)), Agent::Browser);
        assert_eq!(of(Some(0)), Agent::BrowserAtOnce);
        assert_eq!(of(Some(AT_ONCE_MS)), Agent::BrowserAtOnce);
        assert_eq!(of(Some(AT_ONCE_MS + 1)), Agent::Browser);
        assert_eq!(of(None), Agent::Browser);
    }

    #[test]
    fn every_proxy_of_the_verdicts_is_one_here() {
        for text in ["GoogleImageProxy", "x Google Image Proxy", "via ggpht.com"] {
            assert!(crate::agent::is_proxy(Some(text)));
            assert_eq!(
                Agents::default().of(Some(text), [66, 249, 84, 1].into(), None),
                Agent::GmailProxy
            );
        }
    }
}
