//! The query's parameters: each at most once, each within its limits, or an answer that names it.
//!
//! Parameters that an endpoint does not know are ignored, whatever they hold: the API grows by adding some, and a
//! client may add its own against caches.

use std::{borrow::Cow, cell::RefCell};

use percent_encoding::percent_decode_str;
use tracking::Timestamp;

use super::errors::ApiError;

/// Most rows that `limit` may ask for.
pub(crate) const MAX_LIMIT: usize = 1_000;
/// Of the names of time zones the longest has 32 characters.
pub(crate) const MAX_ZONE_BYTES: usize = 64;

/// The parameters of one request, as they came.
pub(crate) struct Parameters<'q> {
    /// Decoded names; values as they came, because one that nobody asks for may be anything.
    pairs: Vec<(Cow<'q, str>, &'q str)>,
    /// What the operator set, which no client may.
    count_automated: bool,
    /// What was asked for so far, where somebody wants to know.
    asked: Option<RefCell<Vec<Asked>>>,
}

/// A parameter that an endpoint reads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it may hold.
    pub(crate) kind: Kind,
}

/// What a parameter may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A text of 1 to so many bytes.
    Text(usize),
    /// One of these words.
    Words(Vec<String>),
    /// A whole number from 1 to so many.
    Number(usize),
    /// A time in ISO 8601.
    Time,
    /// What the endpoint gave as `next_cursor`.
    Cursor,
    /// The name of a time zone.
    Zone,
}

impl<'q> Parameters<'q> {
    /// Splits the query of a request's URI.
    pub(crate) fn of(query: Option<&'q str>, count_automated: bool) -> Self {
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((decoded(name)?, value))
            })
            .collect();
        Self {
            pairs,
            count_automated,
            asked: None,
        }
    }

    /// What `read` asks for, in that order.
    pub(crate) fn asked_by<T>(read: impl FnOnce(&Self) -> Result<T, ApiError>) -> Vec<Asked> {
        let nothing = Self {
            asked: Some(RefCell::default()),
            ..Self::of(None, true)
        };
        // Without any parameter nothing is wrong with one.
        let _ = read(&nothing);
        nothing.asked.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Whether machines' opens count.
    pub(crate) const fn count_automated(&self) -> bool {
        self.count_automated
    }

    /// The decoded value of `name`, if it is there.
    fn value(&self, name: &'static str, kind: impl FnOnce() -> Kind) -> Result<Option<String>, ApiError> {
        if let Some(asked) = &self.asked {
            let kind = kind();
            asked.borrow_mut().push(Asked { name, kind });
        }
        let mut values = self.pairs.iter().filter(|(given, _)| given == name);
        let Some((_, value)) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(ApiError::parameter(name, "is given more than once"));
        }
        let Some(value) = decoded(value) else {
            return Err(ApiError::parameter(name, "is not percent-encoded UTF-8"));
        };
        if value.contains('\0') {
            return Err(ApiError::parameter(name, "holds a NUL character"));
        }
        Ok(Some(value.into_owned()))
    }

    /// A text of 1 to `max_bytes` bytes.
    pub(crate) fn text(&self, name: &'static str, max_bytes: usize) -> Result<Option<String>, ApiError> {
        match self.value(name, || Kind::Text(max_bytes))? {
            Some(text) if text.is_empty() => Err(ApiError::parameter(name, "is empty")),
            Some(text) if text.len() > max_bytes => Err(ApiError::parameter(
                name,
                format!("is longer than {max_bytes} bytes"),
            )),
            text => Ok(text),
        }
    }

    /// One of the words of `choices`.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &'static str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ApiError> {
        let words = || -> Vec<String> { choices.iter().map(|(word, _)| (*word).to_owned()).collect() };
        let Some(text) = self.value(name, || Kind::Words(words()))? else {
            return Ok(None);
        };
        let found = choices.iter().find(|(word, _)| *word == text);
        found
            .map(|(_, choice)| Some(*choice))
            .ok_or_else(|| ApiError::parameter(name, format!("must be {}", words().join(" or "))))
    }

    /// `limit`: how many rows to answer at most.
    pub(crate) fn limit(&self) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.value("limit", || Kind::Number(MAX_LIMIT))? else {
            return Ok(None);
        };
        let number = text
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse().ok())
            .flatten()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit));
        match number {
            Some(limit) => Ok(Some(limit)),
            None => Err(ApiError::parameter(
                "limit",
                format!("must be a whole number from 1 to {MAX_LIMIT}"),
            )),
        }
    }

    /// A time in ISO 8601 with an offset.
    pub(crate) fn time(&self, name: &'static str) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.value(name, || Kind::Time)? else {
            return Ok(None);
        };
        match Timestamp::parse_iso(&text) {
            // No fact can lie outside these, and the database need not know years beyond its own range.
            Some(time) => Ok(Some(time.clamp(Timestamp::default(), Timestamp::MAX_IN_ID))),
            None => Err(ApiError::parameter(
                name,
                "must be an ISO 8601 time with an offset, for example 2026-03-01T00:00:00Z (write + as %2B)",
            )),
        }
    }

    /// `cursor`, read by `parse`.
    pub(crate) fn cursor<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, ApiError> {
        let Some(text) = self.value("cursor", || Kind::Cursor)? else {
            return Ok(None);
        };
        match parse(&text) {
            Some(cursor) => Ok(Some(cursor)),
            None => Err(ApiError::parameter(
                "cursor",
                "is not one that this endpoint gave as next_cursor",
            )),
        }
    }

    /// `zone`: what may be the name of a time zone. Which there are, the database knows.
    pub(crate) fn zone(&self) -> Result<Option<String>, ApiError> {
        let zone = self.value("zone", || Kind::Zone)?;
        let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-/".contains(&byte);
        match zone {
            Some(zone) if zone.is_empty() => Err(ApiError::parameter("zone", "is empty")),
            Some(zone) if zone.len() > MAX_ZONE_BYTES || !zone.bytes().all(may_be) => Err(unknown_zone()),
            zone => Ok(zone),
        }
    }
}

/// What is wrong with `zone`.
pub(crate) fn unknown_zone() -> ApiError {
    ApiError::parameter("zone", "is no time zone, such as Europe/Berlin")
}

/// Undoes form encoding; `None` if there is a `%` without two hex digits, or the bytes are no UTF-8.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    let is_escaped = |rest: &str| {
        let mut digits = rest.bytes();
        (0..2).all(|_| digits.next().is_some_and(|digit| digit.is_ascii_hexdigit()))
    };
    if !text.split('%').skip(1).all(is_escaped) {
        return None;
    }
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
        return Some(Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(text).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem<T>(result: Result<T, ApiError>) -> String {
        result.err().expect("a bad parameter").to_string()
    }

    #[test]
    fn values_are_form_decoded() {
        let parameters = Parameters::of(Some("q=a%2Bb+c%25%5F&recipient=J%C3%BCrgen&x"), true);
        assert_eq!(parameters.text("q", 100).unwrap().as_deref(), Some("a+b c%_"));
        assert_eq!(
            parameters.text("recipient", 100).unwrap().as_deref(),
            Some("Jürgen")
        );
        assert_eq!(parameters.text("email_id", 100).unwrap(), None);
        assert_eq!(Parameters::of(None, true).limit().unwrap(), None);
    }

    #[test]
    fn garbage_is_refused_by_name() {
        for (query, expected) in [
            ("q=%", "q is not percent-encoded UTF-8"),
            ("q=%4", "q is not percent-encoded UTF-8"),
            ("q=%+1", "q is not percent-encoded UTF-8"),
            ("q=%zz", "q is not percent-encoded UTF-8"),
            ("q=%ff", "q is not percent-encoded UTF-8"),
            ("q=a%00b", "q holds a NUL character"),
            ("q=a&q=a", "q is given more than once"),
            ("%71=a&q=a", "q is given more than once"),
        ] {
            assert_eq!(
                problem(Parameters::of(Some(query), true).text("q", 100)),
                expected,
                "{query}"
            );
        }
    }

    #[test]
    fn what_is_asked_for_is_known_without_a_request() {
        let asked = Parameters::asked_by(|parameters| {
            parameters.text("q", 7)?;
            parameters.choice("opened", &[("true", true), ("false", false)])?;
            parameters.time("since")?;
            parameters.cursor(|_| Some(()))?;
            parameters.limit()
        });
        let words = Kind::Words(vec!["true".into(), "false".into()]);
        let kinds = [
            ("q", Kind::Text(7)),
            ("opened", words),
            ("since", Kind::Time),
            ("cursor", Kind::Cursor),
            ("limit", Kind::Number(MAX_LIMIT)),
        ];
        assert_eq!(asked, kinds.map(|(name, kind)| Asked { name, kind }));
    }

    #[test]
    fn what_nobody_asks_for_may_be_anything() {
        let parameters = Parameters::of(Some("%ff=1&_=%&_=%zz&=&&limit=7"), true);
        assert_eq!(parameters.limit().unwrap(), Some(7));
    }

    #[test]
    fn limits_are_whole_numbers_in_range() {
        for (text, limit) in [("1", 1), ("1000", 1_000), ("007", 7)] {
            let query = format!("limit={text}");
            assert_eq!(Parameters::of(Some(&query), true).limit().unwrap(), Some(limit));
        }
        for text in [
            "",
            "0",
            "1001",
            "-1",
            "%2B5",
            "5.0",
            "1e2",
            "ten",
            "99999999999999999999",
            "%EF%BC%95",
        ] {
            let query = format!("limit={text}");
            assert_eq!(
                problem(Parameters::of(Some(&query), true).limit()),
                "limit must be a whole number from 1 to 1000",
                "{text}"
            );
        }
    }

    #[test]
    fn texts_have_lengths() {
        let parameters = Parameters::of(Some("email_id=abc&user_id="), true);
        assert!(parameters.text("email_id", 3).unwrap().is_some());
        assert_eq!(
            problem(parameters.text("email_id", 2)),
            "email_id is longer than 2 bytes"
        );
        assert_eq!(problem(parameters.text("user_id", 2)), "user_id is empty");
    }

    #[test]
    fn choices_are_the_given_words() {
        let choices = [("true", true), ("false", false)];
        let choice = |query: &str| Parameters::of(Some(query), true).choice("opened", &choices);
        assert_eq!(choice("opened=true").unwrap(), Some(true));
        assert_eq!(choice("opened=false").unwrap(), Some(false));
        assert_eq!(choice("").unwrap(), None);
        for query in ["opened", "opened=TRUE", "opened=1"] {
            assert_eq!(problem(choice(query)), "opened must be true or false");
        }
    }

    #[test]
    fn times_need_an_offset_and_are_held_in_range() {
        let time = |query: &str| Parameters::of(Some(query), true).time("since");
        assert_eq!(
            time("since=2024-03-09T17:00:00%2B01:00").unwrap(),
            Some(Timestamp::from_millis(1_710_000_000_000))
        );
        assert_eq!(
            time("since=-009000-01-01T00:00:00Z").unwrap(),
            Some(Timestamp::default())
        );
        for query in [
            "since=",
            "since=yesterday",
            "since=2024-03-09",
            "since=2024-03-09T17:00:00+01:00",
        ] {
            assert!(
                problem(time(query)).starts_with("since must be an ISO 8601 time"),
                "{query}"
            );
        }
    }
}
