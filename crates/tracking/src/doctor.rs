//! Emails that nobody sent: `email-tracker doctor` fetches the pixel of one, to see that it is recorded and shown.
//!
//! Both the user and the form of the id are theirs. An id alone can be anybody's; a user alone could be given to an email
//! that exists, by whoever knows its id before its first open, and would hide it.

use crate::{Timestamp, Token};

/// Their user.
pub const USER_ID: &str = "doctor";
/// How their ids begin.
pub const EMAIL_ID_PREFIX: &str = "doctor-";
/// The first text, bytewise, after every one that begins with [`EMAIL_ID_PREFIX`].
pub const EMAIL_ID_END: &str = "doctor.";
/// How long one is kept, in milliseconds after its first hit.
pub const KEPT_MS: i64 = 3_600_000;

/// The token of such an email; `name` tells it from others.
#[must_use]
pub fn token(name: &str, now: Timestamp) -> Token {
    Token {
        user_id: USER_ID.to_owned(),
        email_id: format!("{EMAIL_ID_PREFIX}{name}"),
        recipient: "doctor@example.invalid".to_owned(),
        sent_at: now.to_string(),
        sender_email: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_are_a_range_of_bytes() {
        let token = token("x", Timestamp::from_millis(0));
        assert!((EMAIL_ID_PREFIX..EMAIL_ID_END).contains(&token.email_id.as_str()));
        assert!((EMAIL_ID_PREFIX..EMAIL_ID_END).contains(&"doctor-\u{10ffff}"));
        for other in ["doctor", "doctor.", "doctor,x", "Doctor-x"] {
            assert!(!(EMAIL_ID_PREFIX..EMAIL_ID_END).contains(&other), "{other}");
        }
    }
}
