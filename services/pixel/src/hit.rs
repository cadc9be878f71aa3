//! From a pixel's request to its facts.

use std::borrow::Cow;

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use tracking::{
    Token, TokenError,
    facts::{MAX_REFERER_HOST_BYTES, MAX_USER_AGENT_BYTES, cut},
};

/// Why a pixel's path holds no valid token. Such a request is answered and counted, not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum InvalidToken {
    /// The path is not `/t/{token}.gif`, or its token is empty.
    NoToken,
    TooLong,
    NotBase64,
    NotJson,
    FieldMissing,
    FieldTooLong,
    Nul,
}

impl InvalidToken {
    pub(crate) const ALL: [Self; 7] = [
        Self::NoToken,
        Self::TooLong,
        Self::NotBase64,
        Self::NotJson,
        Self::FieldMissing,
        Self::FieldTooLong,
        Self::Nul,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::TooLong => "too_long",
            Self::NotBase64 => "not_base64",
            Self::NotJson => "not_json",
            Self::FieldMissing => "field_missing",
            Self::FieldTooLong => "field_too_long",
            Self::Nul => "nul",
        }
    }
}

impl From<TokenError> for InvalidToken {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::TooLong => Self::TooLong,
            TokenError::NotBase64 => Self::NotBase64,
            TokenError::NotJson => Self::NotJson,
            TokenError::Missing(_) => Self::FieldMissing,
            TokenError::FieldTooLong(_) => Self::FieldTooLong,
            TokenError::Nul(_) => Self::Nul,
        }
    }
}

/// Decodes what follows `/t/` in a path. A `/` in it may be one of the standard base64 alphabet.
pub(crate) fn token_in(rest_of_path: &str) -> Result<Token, InvalidToken> {
    // Nearly no token is escaped, and to look for that is cheaper than to copy one.
    let decoded = if rest_of_path.as_bytes().contains(&b'%') {
        let decoded = percent_decode_str(rest_of_path).decode_utf8();
        decoded.map_err(|_| InvalidToken::NotBase64)?
    } else {
        Cow::Borrowed(rest_of_path)
    };
    match decoded.strip_suffix(".gif") {
        None | Some("") => Err(InvalidToken::NoToken),
        Some(token) => Ok(Token::decode(token)?),
    }
}

/// The user agent: bytes that are no UTF-8 replaced, then cut to what is kept.
pub(crate) fn user_agent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::USER_AGENT)?.as_bytes();
    // A character that the cut leaves incomplete would be replaced, so more than is kept is looked at.
    let value = value.get(..4 * MAX_USER_AGENT_BYTES).unwrap_or(value);
    let text = match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(value),
    };
    Some(cut(&text, MAX_USER_AGENT_BYTES).to_owned())
}

/// The host of the `Referer`, in lower case.
pub(crate) fn referer_host(headers: &HeaderMap) -> Option<String> {
    let referer = String::from_utf8_lossy(headers.get(header::REFERER)?.as_bytes());
    let (_, after_scheme) = referer.split_once("://")?;
    let authority = after_scheme.split(['/', '?', '#']).next()?;
    let host_and_port = authority.rsplit('@').next()?;
    let host = match host_and_port.split_once(']') {
        Some((bracketed, _)) => bracketed.trim_start_matches('['),
        None => host_and_port.split(':').next()?,
    };
    let host = cut(host, MAX_REFERER_HOST_BYTES);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn header(name: HeaderName, value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_bytes(value).unwrap())])
    }

    #[test]
    fn a_token_is_found_under_percent_escapes_and_not_elsewhere() {
        let token = Token {
            user_id: "u".into(),
            email_id: "??>>~~".into(),
            recipient: "r".into(),
            sent_at: "s".into(),
            sender_email: None,
        };
        let text = token.encode();
        let escaped = percent_encoding::percent_encode(text.as_bytes(), percent_encoding::NON_ALPHANUMERIC);
        let standard = text.replace('-', "+").replace('_', "/");
        for path in [
            format!("{text}.gif"),
            format!("{text}%2Egif"),
            format!("{escaped}.gif"),
            format!("{text}%3D%3D.gif"),
            format!("{standard}.gif"),
            standard.replace('/', "%2F") + ".gif",
        ] {
            assert_eq!(token_in(&path), Ok(token.clone()), "{path}");
        }
        for (path, why) in [
            (text.clone(), InvalidToken::NoToken),
            (format!("{text}.png"), InvalidToken::NoToken),
            (format!("{text}.GIF"), InvalidToken::NoToken),
            (String::new(), InvalidToken::NoToken),
            (".gif".into(), InvalidToken::NoToken),
            ("gif".into(), InvalidToken::NoToken),
            (format!("{text}%zz.gif"), InvalidToken::NotBase64),
            (format!("%{text}.gif"), InvalidToken::NotBase64),
            ("%ff%fe.gif".into(), InvalidToken::NotBase64),
            ("%00.gif".into(), InvalidToken::NotBase64),
            ("a/b/../c.gif".into(), InvalidToken::NotBase64),
            ("x".repeat(16_385) + ".gif", InvalidToken::TooLong),
        ] {
            assert_eq!(token_in(&path), Err(why), "{path}");
        }
    }

    #[test]
    fn a_user_agent_is_replaced_then_cut_between_characters() {
        let of = |value: &[u8]| user_agent(&header(header::USER_AGENT, value));
        assert_eq!(user_agent(&HeaderMap::new()), None);
        assert_eq!(of(b"").as_deref(), Some(""));
        assert_eq!(of(b"a\xffb").as_deref(), Some("a\u{fffd}b"));
        assert_eq!(of(&vec![b'x'; 65_536]).unwrap(), "x".repeat(1_024));
        let umlauts = "üx".repeat(1_000);
        assert_eq!(of(umlauts.as_bytes()).unwrap(), umlauts[..1_023]);
        assert_eq!(of(&[0xff; 2_000]).unwrap(), "\u{fffd}".repeat(341));
    }

    #[test]
    fn a_referer_gives_its_host() {
        for (referer, host) in [
            ("https://mail.google.com/", Some("mail.google.com")),
            (
                "https://MAIL.Google.com:443/mail/u/0/?a=b://c",
                Some("mail.google.com"),
            ),
            ("https://user:pass@mail.example?x", Some("mail.example")),
            ("http://[2001:DB8::1]:8080/", Some("2001:db8::1")),
            (
                "android-app://com.google.android.gm/",
                Some("com.google.android.gm"),
            ),
            ("mail.google.com", None),
            ("about:blank", None),
            ("https:///x", None),
            ("", None),
        ] {
            assert_eq!(
                referer_host(&header(header::REFERER, referer.as_bytes())).as_deref(),
                host,
                "{referer}"
            );
        }
        let long = format!("https://{}/", "h".repeat(300));
        assert_eq!(
            referer_host(&header(header::REFERER, long.as_bytes()))
                .unwrap()
                .len(),
            255
        );
    }
}
