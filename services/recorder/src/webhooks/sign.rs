//! Signatures by the scheme of Standard Webhooks (<https://www.standardwebhooks.com>), symmetric form.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How a secret begins, so that it is known for one wherever it turns up.
const PREFIX: &str = "whsec_";

/// What both sides know.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<redacted>")
    }
}

impl SigningSecret {
    /// `whsec_` and 24 to 64 bytes in base64.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text.trim().strip_prefix(PREFIX)?).ok()?;
        (24..=64).contains(&bytes.len()).then_some(Self(bytes))
    }

    /// One signature, `v1,…`.
    fn sign(&self, id: &str, seconds: i64, body: &[u8]) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return String::new(); // HMAC takes keys of any length
        };
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The header `webhook-signature`: one signature by each secret, so that a receiver that knows one of them is content.
pub(super) fn signature(secrets: &[SigningSecret], id: &str, seconds: i64, body: &[u8]) -> String {
    let signatures: Vec<String> = secrets
        .iter()
        .map(|secret| secret.sign(id, seconds, body))
        .collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the specification's own reference libraries.
    #[test]
    fn it_is_the_published_example() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(
            &[secret.clone()],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            body,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let both = signature(
            &[secret.clone(), secret],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            body,
        );
        assert_eq!(both, format!("{signed} {signed}"));
    }

    #[test]
    fn a_secret_has_its_form() {
        let encode = |length| format!("whsec_{}", BASE64_STANDARD.encode(vec![7; length]));
        assert!(SigningSecret::parse(&encode(24)).is_some() && SigningSecret::parse(&encode(64)).is_some());
        for bad in [
            encode(23),
            encode(65),
            "whsec_".to_owned(),
            BASE64_STANDARD.encode([7; 32]),
            "whsec_!".to_owned(),
        ] {
            assert!(SigningSecret::parse(&bad).is_none(), "{bad}");
        }
        assert_eq!(
            format!("{:?}", SigningSecret::parse(&encode(32)).unwrap()),
            "<redacted>"
        );
    }
}
