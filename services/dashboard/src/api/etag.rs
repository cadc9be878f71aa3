//! Entity tags of the lists, and whether the client already holds what it asks for.

use std::fmt::{self, Write};

use axum::http::{HeaderMap, HeaderValue, header};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// To be raised with any change of what the lists' JSON says about unchanged rows, so that no client keeps the old.
const FORMAT: u8 = 1;
const DIGEST_BYTES: usize = 16;

/// How often each recorder worker has changed what lists show; together they name one state of the lists.
pub(crate) type Revisions = Vec<(String, i64)>;

/// A weak entity tag: of the data and the question, not of the bytes (which may be compressed or not).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ETag(String);

impl ETag {
    /// The tag of the answer that `list` gives to `question` in the state that `revisions` (in order) name.
    pub(crate) fn new(list: &'static str, question: &impl fmt::Debug, revisions: &Revisions) -> Self {
        let mut content = format!("{FORMAT} {list} {question:?}");
        for (writer, revision) in revisions {
            // `Debug` quotes texts, so no two states have one content.
            let _ = write!(content, " {writer:?}={revision}");
        }
        let digest = Sha256::digest(content);
        let digest: Vec<u8> = digest.iter().copied().take(DIGEST_BYTES).collect();
        Self(BASE64_URL_SAFE_NO_PAD.encode(digest))
    }

    /// The tag's text, without quotes.
    pub(crate) fn into_text(self) -> String {
        self.0
    }

    /// The header's value.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("W/\"{}\"", self.0)).ok()
    }

    /// Whether `If-None-Match` names this tag, compared weakly. A header that cannot be read names none.
    pub(crate) fn is_known(&self, request: &HeaderMap) -> bool {
        request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.trim() == "*" || opaque_tags(value).any(|tag| tag == self.0))
    }
}

/// The tags of a list like `"a", W/"b"`, without quotes and weakness, up to the first that is malformed.
fn opaque_tags(mut list: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let tag = list.trim_start_matches([' ', '\t', ',']);
        let (tag, rest) = tag
            .strip_prefix("W/")
            .unwrap_or(tag)
            .strip_prefix('"')?
            .split_once('"')?;
        list = rest;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(question: &str, revisions: &[(&str, i64)]) -> ETag {
        let revisions = revisions
            .iter()
            .map(|&(writer, revision)| (writer.to_owned(), revision))
            .collect();
        ETag::new("emails", &question, &revisions)
    }

    fn is_known(tag: &ETag, if_none_match: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in if_none_match {
            headers.append(header::IF_NONE_MATCH, value.parse().unwrap());
        }
        tag.is_known(&headers)
    }

    #[test]
    fn the_tag_changes_with_anything_it_names() {
        let base = tag("q", &[("a", 1), ("b", 2)]);
        assert_eq!(base, tag("q", &[("a", 1), ("b", 2)]));
        for other in [
            tag("p", &[("a", 1), ("b", 2)]),
            tag("q", &[("a", 2), ("b", 2)]),
            tag("q", &[("a", 1)]),
            tag("q", &[("a", 1), ("b", 2), ("c", 0)]),
            tag("q", &[("a\"=1 \"b", 2)]),
            ETag::new("opens", &"q", &vec![("a".into(), 1), ("b".into(), 2)]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn known_tags_are_found_in_lists_and_compared_weakly() {
        let tag = tag("q", &[("a", 1)]);
        let weak = tag.header().unwrap().to_str().unwrap().to_owned();
        let strong = weak.strip_prefix("W/").unwrap();
        assert!(is_known(&tag, &[&weak]));
        assert!(is_known(&tag, &[strong]));
        assert!(is_known(&tag, &["*"]));
        assert!(is_known(&tag, &[&format!("\"a,b\" ,W/\"c\",, {weak} , \"d\"")]));
        assert!(is_known(&tag, &["\"other\"", &weak]));
    }

    #[test]
    fn other_or_broken_tags_are_not_known() {
        let tag = tag("q", &[("a", 1)]);
        let weak = tag.header().unwrap().to_str().unwrap().to_owned();
        let bare = weak.trim_start_matches("W/").trim_matches('"');
        assert!(!is_known(&tag, &[]));
        assert!(!is_known(&tag, &[""]));
        assert!(!is_known(&tag, &[bare]));
        assert!(!is_known(&tag, &["\"other\", \"*\""]));
        assert!(!is_known(&tag, &[&format!("broken {weak}")]));
        assert!(!is_known(&tag, &[&weak[..weak.len() - 1]]));
    }
}
