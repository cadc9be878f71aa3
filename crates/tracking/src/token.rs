//! The tracking token: what the extension wrote into the pixel's URL.

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::Value;
use thiserror::Error;

/// Longest token accepted, in characters of its base64 text.
pub const MAX_TOKEN_CHARS: usize = 16_384;
/// Longest recipient accepted, in bytes of UTF-8. It may hold several addresses.
pub const MAX_RECIPIENT_BYTES: usize = 10_240;
/// Longest of any other field accepted, in bytes of UTF-8.
pub const MAX_FIELD_BYTES: usize = 1_024;

/// Reads both alphabets after `decode` has turned the standard one into the URL-safe one. Trailing bits are not checked:
/// an encoder that leaves some set has still said all it had to say.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What a valid token says. Nothing of it is authenticated: anyone may write a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Who sent the mail, as the extension names them.
    pub user_id: String,
    /// The mail.
    pub email_id: String,
    /// One address or several, comma-separated, as the sender typed them.
    pub recipient: String,
    /// When the mail was sent: any non-empty text; the extension writes ISO 8601.
    pub sent_at: String,
    /// The sender's own address, if the extension knew it.
    pub sender_email: Option<String>,
}

/// Why a token is invalid. Invalid tokens are answered like any other and counted, not recorded.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN_CHARS`].
    #[error("token is longer than {MAX_TOKEN_CHARS} characters")]
    TooLong,
    /// Not base64.
    #[error("token is not URL-safe base64")]
    NotBase64,
    /// Base64 of something that is no JSON array or object.
    #[error("token does not hold a JSON array or object")]
    NotJson,
    /// A required field is missing, empty, or no string.
    #[error("token lacks {0}, or it is no non-empty string")]
    Missing(&'static str),
    /// A field is longer than allowed.
    #[error("{0} in the token is too long")]
    FieldTooLong(&'static str),
    /// A field holds a NUL, which PostgreSQL cannot store.
    #[error("{0} in the token holds a NUL character")]
    Nul(&'static str),
}

impl Token {
    /// Decodes the text between `/t/` and `.gif`.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        // A text is at least as many bytes long as characters.
        if text.len() > MAX_TOKEN_CHARS && text.chars().count() > MAX_TOKEN_CHARS {
            return Err(TokenError::TooLong);
        }
        // By bytes: a search for characters decodes each of them.
        let json = if text.bytes().any(|byte| matches!(byte, b'+' | b'/')) {
            BASE64.decode(text.replace('+', "-").replace('/', "_"))
        } else {
            BASE64.decode(text)
        };
        let json = json.map_err(|_| TokenError::NotBase64)?;
        let mut value: Value = serde_json::from_slice(&json).map_err(|_| TokenError::NotJson)?;
        if !(value.is_array() || value.is_object()) {
            return Err(TokenError::NotJson);
        }
        let mut field = |position: usize, key: &'static str| {
            let field = match &mut value {
                Value::Array(items) => items.get_mut(position),
                Value::Object(fields) => fields.get_mut(key),
                _ => None,
            };
            match field.map(Value::take) {
                Some(Value::String(text)) if !text.is_empty() => Ok(text),
                _ => Err(TokenError::Missing(key)),
            }
        };
        let token = Self {
            user_id: field(0, "user_id")?,
            email_id: field(1, "email_id")?,
            recipient: field(2, "recipient")?,
            sent_at: field(3, "sent_at")?,
            sender_email: field(4, "sender_email").ok(),
        };
        token.check()?;
        Ok(token)
    }

    /// Encodes this token as the extension does: a JSON array in URL-safe base64 without padding.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut fields = vec![&self.user_id, &self.email_id, &self.recipient, &self.sent_at];
        fields.extend(&self.sender_email);
        BASE64.encode(
            fields
                .into_iter()
                .map(String::as_str)
                .collect::<Value>()
                .to_string(),
        )
    }

    /// Checks what each field must keep to, wherever the token came from.
    pub fn check(&self) -> Result<(), TokenError> {
        let fields = [
            ("user_id", Some(&self.user_id), MAX_FIELD_BYTES),
            ("email_id", Some(&self.email_id), MAX_FIELD_BYTES),
            ("recipient", Some(&self.recipient), MAX_RECIPIENT_BYTES),
            ("sent_at", Some(&self.sent_at), MAX_FIELD_BYTES),
            ("sender_email", self.sender_email.as_ref(), MAX_FIELD_BYTES),
        ];
        for (name, text, max) in fields {
            let Some(text) = text else { continue };
            if text.is_empty() {
                return Err(TokenError::Missing(name));
            }
            if text.len() > max {
                return Err(TokenError::FieldTooLong(name));
            }
            if text.contains('\0') {
                return Err(TokenError::Nul(name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn decode_json(value: &Value) -> Result<Token, TokenError> {
        Token::decode(&URL_SAFE_NO_PAD.encode(value.to_string()))
    }

    fn token() -> Token {
        Token {
            user_id: "u".into(),
            email_id: "e".into(),
            recipient: "jörg@example.com, mia@example.com".into(),
            sent_at: "2026-03-01T09:30:00.000Z".into(),
            sender_email: Some("me@example.com".into()),
        }
    }

    #[test]
    fn reads_what_the_extension_writes() {
        let json = json!([
            "u",
            "e",
            "jörg@example.com, mia@example.com",
            "2026-03-01T09:30:00.000Z",
            "me@example.com"
        ]);
        assert_eq!(decode_json(&json), Ok(token()));
        assert_eq!(Token::decode(&token().encode()), Ok(token()));
    }

    #[test]
    fn reads_objects_padding_and_the_standard_alphabet() {
        let json =
            json!({"user_id": "u", "email_id": "??>>~~", "recipient": "r", "sent_at": "now"}).to_string();
        for text in [
            STANDARD.encode(&json),
            URL_SAFE.encode(&json),
            URL_SAFE_NO_PAD.encode(&json),
        ] {
            let token = Token::decode(&text).unwrap();
            assert_eq!((token.email_id.as_str(), token.sender_email), ("??>>~~", None));
        }
    }

    #[test]
    fn an_unusable_sender_is_no_sender() {
        for sender in [json!(null), json!(""), json!(7)] {
            assert_eq!(
                decode_json(&json!(["u", "e", "r", "s", sender]))
                    .unwrap()
                    .sender_email,
                None
            );
        }
    }

    #[test]
    fn refuses_what_is_missing_or_no_text() {
        for (json, missing) in [
            (json!([]), "user_id"),
            (json!(["u", "", "r", "s"]), "email_id"),
            (json!(["u", "e", 5, "s"]), "recipient"),
            (json!(["u", "e", "r", null]), "sent_at"),
            (json!({"user_id": "u"}), "email_id"),
        ] {
            assert_eq!(decode_json(&json), Err(TokenError::Missing(missing)));
        }
        for json in [json!("text"), json!(1), json!(null)] {
            assert_eq!(decode_json(&json), Err(TokenError::NotJson));
        }
    }

    #[test]
    fn refuses_beyond_each_limit_and_takes_what_is_at_it() {
        let with = |field: usize, text: String| {
            let mut json = json!(["u", "e", "r", "s", "m"]);
            json[field] = text.into();
            decode_json(&json)
        };
        for (field, name, max) in [
            (0, "user_id", MAX_FIELD_BYTES),
            (1, "email_id", MAX_FIELD_BYTES),
            (2, "recipient", MAX_RECIPIENT_BYTES),
            (3, "sent_at", MAX_FIELD_BYTES),
            (4, "sender_email", MAX_FIELD_BYTES),
        ] {
            assert!(with(field, "x".repeat(max)).is_ok(), "{name}");
            assert_eq!(
                with(field, "x".repeat(max + 1)),
                Err(TokenError::FieldTooLong(name))
            );
            assert_eq!(with(field, "x\0".into()), Err(TokenError::Nul(name)));
        }
        assert_eq!(
            Token::decode(&"A".repeat(MAX_TOKEN_CHARS + 1)),
            Err(TokenError::TooLong)
        );
        assert_eq!(
            Token::decode(&"A".repeat(MAX_TOKEN_CHARS)),
            Err(TokenError::NotJson)
        );
    }

    #[test]
    fn deep_nesting_is_refused_and_does_no_harm() {
        assert_eq!(
            Token::decode(&URL_SAFE_NO_PAD.encode("[".repeat(12_000))),
            Err(TokenError::NotJson)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_decoded_or_refused(text in "\\PC{0,200}") {
            let _ = Token::decode(&text);
        }

        #[test]
        fn what_is_encoded_is_decoded(user_id in "[^\0]{1,40}", email_id in "[^\0]{1,40}", recipient in "[^\0]{1,40}",
                                      sent_at in "[^\0]{1,40}", sender_email in proptest::option::of("[^\0]{1,40}")) {
            let token = Token { user_id, email_id, recipient, sent_at, sender_email };
            prop_assert_eq!(Token::decode(&token.encode()), Ok(token));
        }
    }
}
