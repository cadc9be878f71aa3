//! The one place where the wire's facts become the domain's, and back.

use std::net::IpAddr;

use prost::Message;
use thiserror::Error;
use tracking::{Fact, Hit, Mark, Timestamp, Token};
use uuid::Uuid;

use crate::v1;

/// Why bytes or a message hold no fact at all. What a fact says is checked by [`Fact::check`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MalformedFact {
    /// The bytes are no protobuf message of the interface.
    #[error("cannot be decoded: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// Neither a hit nor a mark.
    #[error("is neither a hit nor a mark")]
    Empty,
    /// The id is not 16 bytes long.
    #[error("has an id that is not 16 bytes long")]
    Id,
    /// The client address is neither 4 nor 16 bytes long.
    #[error("has a client address that is neither 4 nor 16 bytes long")]
    ClientAddress,
}

/// What became of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Stored by this call.
    Recorded,
    /// Stored before.
    AlreadyKnown,
    /// Can never be stored as it is.
    Invalid,
    /// Older than what is retained.
    Expired,
    /// Its email was erased.
    Erased,
    /// Too far in the future, or before any mail could have been tracked.
    OutOfRange,
}

impl Outcome {
    /// All of them, for metrics that start at zero.
    pub const ALL: [Self; 6] = [
        Self::Recorded,
        Self::AlreadyKnown,
        Self::Invalid,
        Self::Expired,
        Self::Erased,
        Self::OutOfRange,
    ];

    /// Its name as a metric label, in logs, and in what the spool sets aside.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::AlreadyKnown => "already_known",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Erased => "erased",
            Self::OutOfRange => "out_of_range",
        }
    }

    /// Whether the fact was refused, and will be each time.
    #[must_use]
    pub const fn is_refused(self) -> bool {
        !matches!(self, Self::Recorded | Self::AlreadyKnown)
    }
}

impl From<Outcome> for v1::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Recorded => Self::Recorded,
            Outcome::AlreadyKnown => Self::AlreadyKnown,
            Outcome::Invalid => Self::RefusedInvalid,
            Outcome::Expired => Self::RefusedExpired,
            Outcome::Erased => Self::RefusedErased,
            Outcome::OutOfRange => Self::RefusedOutOfRange,
        }
    }
}

impl v1::Outcome {
    /// The outcome in the domain's words; `None` if a newer recorder says something this build does not know.
    #[must_use]
    pub const fn known(self) -> Option<Outcome> {
        Some(match self {
            Self::Unspecified => return None,
            Self::Recorded => Outcome::Recorded,
            Self::AlreadyKnown => Outcome::AlreadyKnown,
            Self::RefusedInvalid => Outcome::Invalid,
            Self::RefusedExpired => Outcome::Expired,
            Self::RefusedErased => Outcome::Erased,
            Self::RefusedOutOfRange => Outcome::OutOfRange,
        })
    }
}

impl From<Fact> for v1::Fact {
    fn from(fact: Fact) -> Self {
        let fact = match fact {
            Fact::Hit(hit) => v1::fact::Fact::Hit(v1::Hit {
                event_id: hit.event_id.as_bytes().to_vec(),
                opened_at_ms: hit.opened_at.as_millis(),
                user_id: hit.token.user_id,
                email_id: hit.token.email_id,
                recipient: hit.token.recipient,
                sent_at: hit.token.sent_at,
                sender_email: hit.token.sender_email,
                client_address: address_bytes(hit.client_address),
                user_agent: hit.user_agent,
                referer_host: hit.referer_host,
            }),
            Fact::Mark(mark) => v1::fact::Fact::Mark(v1::Mark {
                mark_id: mark.mark_id.as_bytes().to_vec(),
                marked_at_ms: mark.marked_at.as_millis(),
                email_id: mark.email_id,
                client_address: address_bytes(mark.client_address),
                user_agent: mark.user_agent,
            }),
        };
        Self { fact: Some(fact) }
    }
}

impl TryFrom<v1::Fact> for Fact {
    type Error = MalformedFact;

    fn try_from(fact: v1::Fact) -> Result<Self, MalformedFact> {
        match fact.fact.ok_or(MalformedFact::Empty)? {
            v1::fact::Fact::Hit(hit) => Ok(Self::Hit(Hit {
                event_id: id(&hit.event_id)?,
                opened_at: Timestamp::from_millis(hit.opened_at_ms),
                token: Token {
                    user_id: hit.user_id,
                    email_id: hit.email_id,
                    recipient: hit.recipient,
                    sent_at: hit.sent_at,
                    sender_email: hit.sender_email,
                },
                client_address: address(&hit.client_address)?,
                user_agent: hit.user_agent,
                referer_host: hit.referer_host,
            })),
            v1::fact::Fact::Mark(mark) => Ok(Self::Mark(Mark {
                mark_id: id(&mark.mark_id)?,
                marked_at: Timestamp::from_millis(mark.marked_at_ms),
                email_id: mark.email_id,
                client_address: address(&mark.client_address)?,
                user_agent: mark.user_agent,
            })),
        }
    }
}

impl v1::Fact {
    /// Encodes it, as a record of the spool.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// Decodes what [`to_bytes`](Self::to_bytes) made.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedFact> {
        Ok(Self::decode(bytes)?)
    }
}

fn id(bytes: &[u8]) -> Result<Uuid, MalformedFact> {
    Uuid::from_slice(bytes).map_err(|_| MalformedFact::Id)
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, MalformedFact> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).map(IpAddr::from),
    }
    .map_err(|_| MalformedFact::ClientAddress)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracking::facts::new_id;

    use super::*;

    fn fact(at: i64, random: [u8; 10], address: IpAddr, text: Option<String>, is_hit: bool) -> Fact {
        let at = Timestamp::from_millis(at);
        let id = new_id(at, random).unwrap();
        let field = |name: &str| format!("{name}{}", text.as_deref().unwrap_or("-"));
        if is_hit {
            Fact::Hit(Hit {
                event_id: id,
                opened_at: at,
                token: Token {
                    user_id: field("user"),
                    email_id: field("email"),
                    recipient: field("recipient"),
                    sent_at: field("sent"),
                    sender_email: text.clone(),
                },
                client_address: address,
                user_agent: text.clone(),
                referer_host: text,
            })
        } else {
            Fact::Mark(Mark {
                mark_id: id,
                marked_at: at,
                email_id: field("email"),
                client_address: address,
                user_agent: text,
            })
        }
    }

    proptest! {
        #[test]
        fn a_fact_survives_the_wire(at in 0_i64..1 << 48, random: [u8; 10], address: IpAddr,
                                    text in proptest::option::of(".{0,20}"), is_hit: bool) {
            let fact = fact(at, random, address, text, is_hit);
            let bytes = v1::Fact::from(fact.clone()).encode_to_vec();
            prop_assert_eq!(Fact::try_from(v1::Fact::from_bytes(&bytes).unwrap()), Ok(fact));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
            let _ = v1::Fact::from_bytes(&bytes).and_then(Fact::try_from);
        }
    }

    #[test]
    fn outcomes_survive_the_wire() {
        for outcome in Outcome::ALL {
            assert_eq!(v1::Outcome::from(outcome).known(), Some(outcome));
        }
        assert_eq!(v1::Outcome::Unspecified.known(), None);
    }

    #[test]
    fn what_is_no_fact_is_named() {
        assert_eq!(Fact::try_from(v1::Fact { fact: None }), Err(MalformedFact::Empty));
        let mut mark = v1::Mark {
            mark_id: vec![0; 15],
            client_address: vec![0; 4],
            ..v1::Mark::default()
        };
        let of = |mark: &v1::Mark| {
            Fact::try_from(v1::Fact {
                fact: Some(v1::fact::Fact::Mark(mark.clone())),
            })
        };
        assert_eq!(of(&mark), Err(MalformedFact::Id));
        mark.mark_id.push(0);
        mark.client_address = vec![0; 5];
        assert_eq!(of(&mark), Err(MalformedFact::ClientAddress));
    }
}
