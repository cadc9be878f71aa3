//! What the lists say, as facts.
//!
//! The lists hold the opens, and of all other hits only how many there were. One of those is known better: an email was
//! listed from its first hit on, so where no open is that old, there was a hit at `created_at` which did not count. It
//! is made up as a mark and a hit at that moment, so that the email keeps its time and is listed even if it was never
//! opened.
//!
//! Ids are made of what the older server says, not at random: importing once more brings the same facts.

use std::net::{IpAddr, Ipv4Addr};

use sha2::{Digest as _, Sha256};
use tracking::{
    Fact, Hit, Mark, Timestamp, Token,
    facts::{MAX_USER_AGENT_BYTES, cut, new_id},
    token::{MAX_FIELD_BYTES, MAX_RECIPIENT_BYTES},
};
use uuid::Uuid;

use super::lists::{ListedEmail, ListedOpen};

/// In the place of an address that the list does not have; it is not stored.
pub(super) const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// How the first hit of an email is named, where the older server does not list it.
pub(super) const FIRST_HIT: &str = "email-tracker import (first hit, not listed by the older server)";
/// An older server may have made the email's row a moment before its first hit.
const SAME_MOMENT_MS: i64 = 1_000;

/// 2000-01-01T00:00:00Z, as the recorder has it.
const EARLIEST: Timestamp = Timestamp::from_millis(946_684_800_000);
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// What an open brings besides its fact.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) country: Option<String>,
    pub(super) region: Option<String>,
    pub(super) city: Option<String>,
    pub(super) latitude: Option<f64>,
    pub(super) longitude: Option<f64>,
}

/// One hit of an email, or the mark before its first one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Imported {
    pub(super) fact: Fact,
    /// Of a listed open.
    pub(super) place: Option<Place>,
}

/// An email as facts, in the order of time, and what was to be changed or left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Converted {
    pub(super) facts: Vec<Imported>,
    /// Hits among them; the rest of `raw_open_events` is lost.
    pub(super) hits: u64,
    pub(super) first_hit_made_up: bool,
    pub(super) recipient_shortened: bool,
    /// Opens without a time, or with one at which no mail was tracked.
    pub(super) without_time: u64,
}

/// The facts of `email` with its listed `opens`; an error says why there can be none.
pub(super) fn convert(
    email: &ListedEmail,
    opens: &[ListedOpen],
    now: Timestamp,
) -> Result<Converted, String> {
    let mut converted = Converted::default();
    let token = token(email, &mut converted)?;
    let mut hits: Vec<(Hit, Place)> = Vec::new();
    for open in opens {
        match open.opened_at.filter(|at| in_range(*at, now)) {
            Some(at) => hits.push((hit(&token, open, at), place(open))),
            None => converted.without_time += 1,
        }
    }
    hits.sort_by_key(|(hit, _)| (hit.opened_at, hit.event_id));
    hits.dedup_by_key(|(hit, _)| hit.event_id);

    let first_open = hits.first().map(|(hit, _)| hit.opened_at);
    if let Some(at) = unlisted_first_hit(email, hits.len(), first_open).filter(|at| in_range(*at, now)) {
        converted.first_hit_made_up = true;
        converted.facts.extend(made_up(&token, at));
    } else if hits.is_empty() {
        return Err("it has no open and no time of its first hit".to_owned());
    }
    converted.hits = u64::try_from(hits.len()).unwrap_or_default() + u64::from(converted.first_hit_made_up);
    converted
        .facts
        .extend(hits.into_iter().map(|(hit, place)| Imported {
            fact: Fact::Hit(hit),
            place: Some(place),
        }));
    match converted
        .facts
        .iter()
        .find_map(|imported| imported.fact.check().err())
    {
        Some(error) => Err(error.to_string()),
        None => Ok(converted),
    }
}

fn in_range(at: Timestamp, now: Timestamp) -> bool {
    at >= EARLIEST && at <= now.saturating_add_millis(DAY_MS)
}

/// When the email was first hit, if that hit is not among the opens.
fn unlisted_first_hit(email: &ListedEmail, opens: usize, first_open: Option<Timestamp>) -> Option<Timestamp> {
    let created_at = email.created_at;
    let Some(first_open) = first_open else {
        return created_at.or_else(|| super::lists::parse_time(email.sent_at.as_deref()?));
    };
    let is_one_more = email
        .raw_open_events
        .is_some_and(|raw| usize::try_from(raw).is_ok_and(|raw| raw > opens));
    created_at.filter(|created_at| is_one_more && first_open.millis_since(*created_at) > SAME_MOMENT_MS)
}

fn token(email: &ListedEmail, converted: &mut Converted) -> Result<Token, String> {
    let required = |name: &str, value: &Option<String>| value.clone().ok_or(format!("it has no {name}"));
    let mut recipient = required("recipient", &email.recipient)?;
    if recipient.len() > MAX_RECIPIENT_BYTES {
        let kept = cut(&recipient, MAX_RECIPIENT_BYTES);
        let kept = kept.rsplit_once(',').map_or(kept, |(whole, _)| whole).to_owned();
        recipient = kept;
        converted.recipient_shortened = true;
    }
    let sender = email.sender_email.clone();
    Ok(Token {
        user_id: required("user_id", &email.user_id)?,
        email_id: required("email_id", &email.email_id)?,
        recipient,
        sent_at: required("sent_at", &email.sent_at)?,
        sender_email: sender.filter(|sender| sender.len() <= MAX_FIELD_BYTES && !sender.contains('\0')),
    })
}

fn hit(token: &Token, open: &ListedOpen, at: Timestamp) -> Hit {
    let user_agent = open
        .user_agent
        .as_deref()
        .map(|agent| agent.replace('\0', "\u{fffd}"));
    let address = open.ip_address.as_deref().map(str::trim);
    Hit {
        event_id: id_of(
            at,
            &[
                Some(&token.email_id),
                open.id.as_deref(),
                // Enough to tell opens apart that have no id.
                open.ip_address.as_deref().filter(|_| open.id.is_none()),
                open.user_agent.as_deref().filter(|_| open.id.is_none()),
            ],
        ),
        opened_at: at,
        token: token.clone(),
        client_address: address
            .and_then(|address| address.parse::<IpAddr>().ok())
            .map_or(NO_ADDRESS, |address| address.to_canonical()),
        user_agent: user_agent.map(|agent| cut(&agent, MAX_USER_AGENT_BYTES).to_owned()),
        referer_host: None,
    }
}

/// A mark, and the hit that it keeps from counting.
fn made_up(token: &Token, at: Timestamp) -> [Imported; 2] {
    let mark = Mark {
        mark_id: id_of(at, &[Some(&token.email_id), Some("mark")]),
        marked_at: at,
        email_id: token.email_id.clone(),
        client_address: NO_ADDRESS,
        user_agent: Some(FIRST_HIT.to_owned()),
    };
    let hit = Hit {
        event_id: id_of(at, &[Some(&token.email_id), Some("first hit")]),
        opened_at: at,
        token: token.clone(),
        client_address: NO_ADDRESS,
        user_agent: Some(FIRST_HIT.to_owned()),
        referer_host: None,
    };
    [Fact::Mark(mark), Fact::Hit(hit)].map(|fact| Imported { fact, place: None })
}

fn place(open: &ListedOpen) -> Place {
    let text = |text: &Option<String>| text.clone().filter(|text| !text.contains('\0'));
    Place {
        country: text(&open.geo_country),
        region: text(&open.geo_region),
        city: text(&open.geo_city),
        latitude: open.latitude,
        longitude: open.longitude,
    }
}

/// A `UUIDv7` of time `at` whose other bits are a hash of `of`; times out of an id's range were left out before.
fn id_of(at: Timestamp, of: &[Option<&str>]) -> Uuid {
    let mut hasher = Sha256::new_with_prefix(b"email-tracker import\0");
    for part in of {
        match part {
            Some(text) => {
                hasher.update(text.len().to_be_bytes());
                hasher.update(text);
            }
            None => hasher.update(u64::MAX.to_be_bytes()),
        }
    }
    let mut bits = [0; 10];
    for (bit, hashed) in bits.iter_mut().zip(hasher.finalize()) {
        *bit = hashed;
    }
    new_id(at, bits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
    const AT: i64 = 1_710_000_000_000;

    fn email(created_at: i64, raw: u64) -> ListedEmail {
        ListedEmail {
            email_id: Some("e".into()),
            user_id: Some("u".into()),
            recipient: Some("r@example.com".into()),
            sender_email: None,
            sent_at: Some("2024-03-09T16:00:00Z".into()),
            created_at: Some(Timestamp::from_millis(created_at)),
            raw_open_events: Some(raw),
        }
    }

    fn open(id: &str, at: i64) -> ListedOpen {
        ListedOpen {
            id: Some(id.into()),
            email_id: Some("e".into()),
            opened_at: Some(Timestamp::from_millis(at)),
            ..ListedOpen::default()
        }
    }

    fn converted(email: &ListedEmail, opens: &[ListedOpen]) -> Converted {
        convert(email, opens, NOW).unwrap()
    }

    #[test]
    fn the_same_lists_are_the_same_facts_in_any_order() {
        let (one, two) = (open("1", AT), open("2", AT + 60_000));
        let forth = converted(&email(AT, 2), &[one.clone(), two.clone()]);
        assert_eq!(forth, converted(&email(AT, 2), &[two, one.clone(), one]));
        assert_eq!((forth.hits, forth.facts.len()), (2, 2));
        assert!(!forth.first_hit_made_up);
        assert_ne!(forth.facts[0].fact.id(), forth.facts[1].fact.id());
    }

    #[test]
    fn opens_without_an_id_are_told_apart_by_what_they_have() {
        let mut one = open("", AT);
        one.id = None;
        let mut other = one.clone();
        other.user_agent = Some("another".into());
        assert_eq!(converted(&email(AT, 2), &[one.clone(), other]).hits, 2);
        assert_eq!(converted(&email(AT, 2), &[one.clone(), one]).hits, 1);
    }

    #[test]
    fn an_email_that_was_never_opened_keeps_its_first_hit() {
        let never = converted(&email(AT, 3), &[]);
        assert!(never.first_hit_made_up);
        assert_eq!((never.hits, never.facts.len()), (1, 2));
        let mut unknown = email(AT, 0);
        (unknown.created_at, unknown.sent_at) = (None, Some("Monday".into()));
        assert!(convert(&unknown, &[], NOW).unwrap_err().contains("no open"));
    }

    #[test]
    fn a_first_hit_is_made_up_only_where_there_was_one() {
        let later = [open("1", AT + 5_000)];
        assert!(converted(&email(AT, 2), &later).first_hit_made_up);
        assert!(
            !converted(&email(AT, 1), &later).first_hit_made_up,
            "raw says it was the only one"
        );
        assert!(
            !converted(&email(AT + 4_500, 2), &later).first_hit_made_up,
            "the row came a moment before"
        );
        assert!(!converted(&email(AT + 9_000, 2), &later).first_hit_made_up);
    }

    #[test]
    fn what_is_beyond_limits_is_shortened_left_out_or_refused() {
        let mut many = email(AT, 1);
        many.recipient = Some("someone@example.com,".repeat(1_000));
        let shortened = converted(&many, &[open("1", AT)]);
        assert!(shortened.recipient_shortened);
        let Fact::Hit(hit) = &shortened.facts[0].fact else {
            panic!("a hit")
        };
        assert!(hit.token.recipient.len() > 10_000 && hit.token.recipient.ends_with("@example.com"));

        let mut long = email(AT, 1);
        long.user_id = Some("x".repeat(1_025));
        assert!(
            convert(&long, &[open("1", AT)], NOW)
                .unwrap_err()
                .contains("user_id")
        );
        let mut nameless = email(AT, 1);
        nameless.recipient = None;
        assert!(convert(&nameless, &[], NOW).unwrap_err().contains("no recipient"));

        let mut timeless = open("2", AT);
        timeless.opened_at = None;
        let ancient = open("3", 1_000);
        let some = converted(&email(AT, 3), &[open("1", AT), timeless, ancient]);
        assert_eq!((some.hits, some.without_time), (1, 2));
    }

    #[test]
    fn addresses_and_agents_that_are_missing_or_odd_are_taken_as_they_can_be() {
        let mut odd = open("1", AT);
        odd.ip_address = Some("::ffff:203.0.113.7".into());
        odd.user_agent = Some(format!("a\0{}", "é".repeat(1_000)));
        let facts = converted(&email(AT, 1), &[odd, open("2", AT + 1)]).facts;
        let (Fact::Hit(odd), Fact::Hit(bare)) = (&facts[0].fact, &facts[1].fact) else {
            panic!("hits")
        };
        assert_eq!(odd.client_address.to_string(), "203.0.113.7");
        assert_eq!(odd.user_agent.as_ref().unwrap().len(), 1_024);
        assert_eq!((bare.client_address, &bare.user_agent), (NO_ADDRESS, &None));
    }
}
