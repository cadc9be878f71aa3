//! Cursors: where in a list the next page begins, as a text that says nothing to its holder.
//!
//! A cursor holds the place of the last row that was answered, by the list's own order, and not a count of rows; so
//! rows that come in meanwhile neither repeat nor hide any. Its checksum tells a mangled cursor from a good one. It is
//! no secret and no proof: a forged one only begins at another place of the same list.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tracking::Timestamp;
use uuid::Uuid;

/// The only version so far; another order of a list would be another one.
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 6;

/// The place of an email in the list of emails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EmailCursor {
    /// When it was first hit.
    pub(crate) created_at: Timestamp,
    /// Orders emails of the same millisecond.
    pub(crate) email_id: String,
}

/// The place of a hit in the list of opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HitCursor {
    /// When it came.
    pub(crate) opened_at: Timestamp,
    /// Orders hits of the same millisecond.
    pub(crate) event_id: Uuid,
}

impl EmailCursor {
    const KIND: u8 = b'e';

    /// The cursor as text.
    pub(crate) fn encode(&self) -> String {
        encode(Self::KIND, self.created_at, self.email_id.as_bytes())
    }

    /// The cursor in a text that [`EmailCursor::encode`] made.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let (created_at, key) = decode(Self::KIND, text)?;
        let email_id = String::from_utf8(key).ok().filter(|id| !id.contains('\0'))?;
        Some(Self { created_at, email_id })
    }
}

/// The place of an email in one of the page's orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OrderCursor {
    /// What the order goes by, never negative: milliseconds since the epoch, or opens.
    pub(crate) key: i64,
    /// Orders emails of the same key.
    pub(crate) email_id: String,
}

impl OrderCursor {
    /// The cursor as text; `kind` names the order.
    pub(crate) fn encode(&self, kind: u8) -> String {
        encode(kind, Timestamp::from_millis(self.key), self.email_id.as_bytes())
    }

    /// The cursor in a text that [`OrderCursor::encode`] made for the same order.
    pub(crate) fn decode(kind: u8, text: &str) -> Option<Self> {
        let (key, email_id) = decode(kind, text)?;
        let email_id = String::from_utf8(email_id).ok().filter(|id| !id.contains('\0'))?;
        Some(Self {
            key: key.as_millis(),
            email_id,
        })
    }
}

impl HitCursor {
    const KIND: u8 = b'h';

    /// The cursor as text.
    pub(crate) fn encode(&self) -> String {
        encode(Self::KIND, self.opened_at, self.event_id.as_bytes())
    }

    /// The cursor in a text that [`HitCursor::encode`] made.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let (opened_at, key) = decode(Self::KIND, text)?;
        let event_id = Uuid::from_slice(&key).ok()?;
        Some(Self { opened_at, event_id })
    }
}

fn encode(kind: u8, at: Timestamp, key: &[u8]) -> String {
    let mut bytes = vec![VERSION, kind];
    bytes.extend(at.as_millis().to_be_bytes());
    bytes.extend(key);
    bytes.extend(checksum(&bytes));
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(kind: u8, text: &str) -> Option<(Timestamp, Vec<u8>)> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    if checksum(content) != sum {
        return None;
    }
    let key_and_time = content.strip_prefix(&[VERSION, kind])?;
    let (millis, key) = key_and_time.split_first_chunk::<8>()?;
    let at = Timestamp::from_millis(i64::from_be_bytes(*millis));
    let is_possible = (Timestamp::default()..=Timestamp::MAX_IN_ID).contains(&at);
    is_possible.then(|| (at, key.to_vec()))
}

fn checksum(content: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(content);
    digest.iter().copied().take(CHECKSUM_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn email_cursor() -> EmailCursor {
        EmailCursor {
            created_at: Timestamp::from_millis(1_710_000_000_007),
            email_id: "jürgen-1".into(),
        }
    }

    fn hit_cursor() -> HitCursor {
        HitCursor {
            opened_at: Timestamp::MAX_IN_ID,
            event_id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
        }
    }

    #[test]
    fn cursors_come_back() {
        assert_eq!(
            EmailCursor::decode(&email_cursor().encode()),
            Some(email_cursor())
        );
        assert_eq!(HitCursor::decode(&hit_cursor().encode()), Some(hit_cursor()));
    }

    #[test]
    fn a_cursor_of_the_other_list_is_none() {
        assert_eq!(EmailCursor::decode(&hit_cursor().encode()), None);
        assert_eq!(HitCursor::decode(&email_cursor().encode()), None);
    }

    #[test]
    fn a_changed_cursor_is_none() {
        let good = email_cursor().encode();
        for position in 0..good.len() {
            let mut changed = good.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(EmailCursor::decode(&changed), None, "{changed}");
        }
        for text in [
            "",
            "A",
            "=",
            "ü",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}A"),
        ] {
            assert_eq!(EmailCursor::decode(text), None, "{text}");
        }
    }

    #[test]
    fn what_no_row_can_hold_is_none() {
        let nul = EmailCursor {
            email_id: "a\0b".into(),
            ..email_cursor()
        };
        assert_eq!(EmailCursor::decode(&nul.encode()), None);
        let early = EmailCursor {
            created_at: Timestamp::from_millis(-1),
            ..email_cursor()
        };
        assert_eq!(EmailCursor::decode(&early.encode()), None);
    }
}
