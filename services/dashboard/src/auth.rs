//! Who may read: whoever holds the dashboard's token, or a session that was given for it (`session`).

use std::sync::Arc;

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tracking::Timestamp;

use crate::session::{self, Key, Session};

/// The header that carries the token.
pub(crate) const TOKEN_HEADER: &str = "x-tracker-token";

/// The tokens that are accepted: the current one and, while it is being replaced, the previous one.
#[derive(Clone)]
pub(crate) struct Tokens {
    digests: Arc<[[u8; 32]]>,
    /// The keys of their sessions, in the same order.
    keys: Arc<[Key]>,
}

impl Tokens {
    /// Accepts each of `tokens`; an empty text is never accepted.
    pub(crate) fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        let digests: Arc<[_]> = tokens
            .into_iter()
            .filter(|token| !token.is_empty())
            .map(digest)
            .collect();
        let keys = digests.iter().map(|digest| session::key_of(digest)).collect();
        Self { digests, keys }
    }

    /// Whether any token is accepted at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Whether the request carries one accepted token, and nothing else under its name.
    ///
    /// Digests are compared, all of them and in constant time, so that the time taken says nothing about a token, its
    /// length included.
    pub(crate) fn accept(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(TOKEN_HEADER).iter();
        let (Some(token), None) = (given.next(), given.next()) else {
            return false;
        };
        let given = digest(token.as_bytes());
        let is_any = self
            .digests
            .iter()
            .fold(Choice::from(0), |found, accepted| found | accepted.ct_eq(&given));
        is_any.into()
    }

    /// The key of the sessions for `token`, if it is accepted.
    pub(crate) fn key_of(&self, token: &str) -> Option<Key> {
        let given = digest(token);
        let mut accepted = self.digests.iter().zip(self.keys.iter());
        let found = accepted.find(|(digest, _)| bool::from(digest.ct_eq(&given)));
        found.map(|(_, key)| *key)
    }

    /// The session whose cookie the request carries, if it holds at `now`.
    pub(crate) fn session(&self, headers: &HeaderMap, now: Timestamp) -> Option<Session> {
        Session::find(&self.keys, headers, now)
    }
}

fn digest(token: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(tokens: &Tokens, given: &[&[u8]]) -> bool {
        let mut headers = HeaderMap::new();
        for token in given {
            headers.append(TOKEN_HEADER, token.to_vec().try_into().unwrap());
        }
        tokens.accept(&headers)
    }

    #[test]
    fn each_configured_token_is_accepted_and_nothing_else() {
        let tokens = Tokens::new(["current", "previous"]);
        assert!(accepts(&tokens, &[b"current"]));
        assert!(accepts(&tokens, &[b"previous"]));
        for wrong in [
            &b"curren"[..],
            b"currents",
            b"CURRENT",
            b"",
            b"\xff\xfe",
            b"current,previous",
        ] {
            assert!(!accepts(&tokens, &[wrong]), "{wrong:?}");
        }
        assert!(!accepts(&tokens, &[]));
        assert!(!accepts(&tokens, &[b"current", b"current"]));
    }

    #[test]
    fn without_a_configured_token_nobody_is_accepted() {
        for tokens in [Tokens::new([]), Tokens::new([""])] {
            assert!(tokens.is_empty());
            assert!(!accepts(&tokens, &[b""]));
            assert!(!accepts(&tokens, &[]));
        }
    }
}
