//! The facts: hits and marks, each with an id made once, at the pixel.

use std::net::IpAddr;

use thiserror::Error;
use uuid::Uuid;

use crate::{DedupKey, Timestamp, Token, TokenError, token::MAX_FIELD_BYTES};

/// Longest user agent kept, in bytes of UTF-8.
pub const MAX_USER_AGENT_BYTES: usize = 1_024;
/// Longest referer host kept, in bytes.
pub const MAX_REFERER_HOST_BYTES: usize = 255;

/// One GET of a pixel with a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// `UUIDv7` made at the pixel; its time is `opened_at`.
    pub event_id: Uuid,
    /// When the pixel got the request, by its clock.
    pub opened_at: Timestamp,
    /// What the token said.
    pub token: Token,
    /// Who asked: the mail client, or the proxy it fetches images through.
    pub client_address: IpAddr,
    /// The `User-Agent`, at most [`MAX_USER_AGENT_BYTES`].
    pub user_agent: Option<String>,
    /// The host of the `Referer` in lower case, at most [`MAX_REFERER_HOST_BYTES`].
    pub referer_host: Option<String>,
}

/// One "suppress next" signal: the sender is about to view their own mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// `UUIDv7` made at the pixel; its time is `marked_at`.
    pub mark_id: Uuid,
    /// When the pixel got the signal, by its clock.
    pub marked_at: Timestamp,
    /// The mail whose next hit must not count.
    pub email_id: String,
    /// Who sent the signal.
    pub client_address: IpAddr,
    /// The `User-Agent`, at most [`MAX_USER_AGENT_BYTES`].
    pub user_agent: Option<String>,
}

/// What the pixel sends and the recorder stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A hit.
    Hit(Hit),
    /// A mark.
    Mark(Mark),
}

/// Why a fact can never be stored as it is. A pixel of ours sends none such.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidFact {
    /// The id is no `UUIDv7`, or carries another time than the fact.
    #[error("the id {0} is no UUIDv7 of the fact's own time")]
    Id(Uuid),
    /// A field of the token breaks its limits.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A field is longer than the pixel would have sent it.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// A field holds a NUL, which PostgreSQL cannot store.
    #[error("{0} holds a NUL character")]
    Nul(&'static str),
}

/// An address that stands for many clients: of IPv4 the first 24 bits, of IPv6 the first 48, and zeros.
#[must_use]
pub fn shortened(client_address: IpAddr) -> IpAddr {
    match client_address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            [a, b, c, 0].into()
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            [a, b, c, 0, 0, 0, 0, 0].into()
        }
    }
}

/// Makes the id of a fact of time `at`: a `UUIDv7` whose other bits are `random`.
///
/// Ids of the same millisecond are in no particular order. Returns `None` for a time that an id cannot carry: before
/// 1970 or after the year 10889.
#[must_use]
pub fn new_id(at: Timestamp, random: [u8; 10]) -> Option<Uuid> {
    let millis = u64::try_from(at.as_millis()).ok()?;
    (at <= Timestamp::MAX_IN_ID)
        .then(|| uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

/// The time in a `UUIDv7`; `None` for any other kind of UUID.
#[must_use]
pub fn time_of_id(id: Uuid) -> Option<Timestamp> {
    if id.get_version_num() != 7 {
        return None;
    }
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    let millis = i64::try_from(seconds)
        .ok()?
        .checked_mul(1_000)?
        .checked_add(i64::from(nanos / 1_000_000))?;
    Some(Timestamp::from_millis(millis))
}

impl Fact {
    /// The email it belongs to.
    #[must_use]
    pub fn email_id(&self) -> &str {
        match self {
            Self::Hit(hit) => &hit.token.email_id,
            Self::Mark(mark) => &mark.email_id,
        }
    }

    /// Who sent it.
    pub const fn client_address_mut(&mut self) -> &mut IpAddr {
        match self {
            Self::Hit(hit) => &mut hit.client_address,
            Self::Mark(mark) => &mut mark.client_address,
        }
    }

    /// When it happened.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Hit(hit) => hit.opened_at,
            Self::Mark(mark) => mark.marked_at,
        }
    }

    /// Its id: the event id or the mark id.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        match self {
            Self::Hit(hit) => hit.event_id,
            Self::Mark(mark) => mark.mark_id,
        }
    }

    /// Checks what a pixel of ours guarantees, before anything is stored.
    pub fn check(&self) -> Result<(), InvalidFact> {
        if time_of_id(self.id()) != Some(self.at()) {
            return Err(InvalidFact::Id(self.id()));
        }
        match self {
            Self::Hit(hit) => {
                hit.token.check()?;
                check_text("user_agent", hit.user_agent.as_deref(), MAX_USER_AGENT_BYTES)?;
                check_text(
                    "referer_host",
                    hit.referer_host.as_deref(),
                    MAX_REFERER_HOST_BYTES,
                )
            }
            Self::Mark(mark) => {
                check_email_id(&mark.email_id)?;
                check_text("user_agent", mark.user_agent.as_deref(), MAX_USER_AGENT_BYTES)
            }
        }
    }
}

impl Hit {
    /// Which other hits of the email look like the same reader.
    #[must_use]
    pub fn dedup_key(&self) -> DedupKey {
        DedupKey::of(self.client_address, self.user_agent.as_deref())
    }
}

/// Checks an email id that came without a token, in a mark.
pub fn check_email_id(email_id: &str) -> Result<(), InvalidFact> {
    if email_id.is_empty() {
        return Err(TokenError::Missing("email_id").into());
    }
    check_text("email_id", Some(email_id), MAX_FIELD_BYTES)
}

fn check_text(name: &'static str, text: Option<&str>, max_bytes: usize) -> Result<(), InvalidFact> {
    match text {
        Some(text) if text.len() > max_bytes => Err(InvalidFact::TooLong(name)),
        Some(text) if text.contains('\0') => Err(InvalidFact::Nul(name)),
        _ => Ok(()),
    }
}

/// Cuts `text` to at most `max_bytes` bytes, between characters.
#[must_use]
pub fn cut(text: &str, max_bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(max_bytes)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(at: i64) -> Hit {
        let opened_at = Timestamp::from_millis(at);
        Hit {
            event_id: new_id(opened_at, [7; 10]).unwrap(),
            opened_at,
            token: Token {
                user_id: "u".into(),
                email_id: "e".into(),
                recipient: "r".into(),
                sent_at: "s".into(),
                sender_email: None,
            },
            client_address: "203.0.113.7".parse().unwrap(),
            user_agent: None,
            referer_host: None,
        }
    }

    #[test]
    fn an_id_carries_its_time_exactly() {
        for at in [0, 1, 999, 1_710_000_000_007, Timestamp::MAX_IN_ID.as_millis()] {
            assert_eq!(time_of_id(hit(at).event_id), Some(Timestamp::from_millis(at)));
        }
        assert_eq!(new_id(Timestamp::from_millis(-1), [0; 10]), None);
        assert_eq!(
            new_id(Timestamp::MAX_IN_ID.saturating_add_millis(1), [0; 10]),
            None
        );
        assert_eq!(time_of_id(Uuid::nil()), None);
    }

    #[test]
    fn a_fact_with_another_times_id_is_invalid() {
        let good = hit(1_000);
        let bad = Hit {
            opened_at: Timestamp::from_millis(1_001),
            ..good.clone()
        };
        assert_eq!(Fact::Hit(good).check(), Ok(()));
        assert_eq!(Fact::Hit(bad.clone()).check(), Err(InvalidFact::Id(bad.event_id)));
    }

    #[test]
    fn limits_hold() {
        let long = Hit {
            user_agent: Some("x".repeat(MAX_USER_AGENT_BYTES + 1)),
            ..hit(0)
        };
        assert_eq!(Fact::Hit(long).check(), Err(InvalidFact::TooLong("user_agent")));
        let nul = Hit {
            referer_host: Some("a\0".into()),
            ..hit(0)
        };
        assert_eq!(Fact::Hit(nul).check(), Err(InvalidFact::Nul("referer_host")));
        let mark = |email_id: String| {
            let marked_at = Timestamp::from_millis(5);
            let mark_id = new_id(marked_at, [0; 10]).unwrap();
            Fact::Mark(Mark {
                mark_id,
                marked_at,
                email_id,
                client_address: [127, 0, 0, 1].into(),
                user_agent: None,
            })
        };
        assert_eq!(mark("x".repeat(1_024)).check(), Ok(()));
        assert_eq!(
            mark("x".repeat(1_025)).check(),
            Err(InvalidFact::TooLong("email_id"))
        );
        assert_eq!(
            mark(String::new()).check(),
            Err(TokenError::Missing("email_id").into())
        );
    }

    #[test]
    fn cutting_keeps_characters_whole() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 3), "añ");
        assert_eq!(cut("añb", 9), "añb");
    }
}
