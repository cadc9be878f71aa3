//! What is sent: this project's own JSON, or what a chat shows.

use serde::Serialize;
use serde_json::{Value, json};
use tracking::Timestamp;

use super::{
    outbox::Kind,
    queue::{Event, Open},
    target::Format,
};

/// The most characters of a recipient or sender in a chat; a mail may go to hundreds.
const MOST_CHARACTERS: usize = 200;

/// A message, ready to be sent.
#[derive(Debug)]
pub(super) struct Message {
    /// The same whenever this is sent again.
    pub(super) id: String,
    pub(super) body: Vec<u8>,
}

/// The generic form, as Standard Webhooks has it: what happened, when, and what there is to say of it. Names are those of
/// the dashboard's API.
#[derive(Serialize)]
struct Generic<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    email_id: &'a str,
    user_id: &'a str,
    recipient: &'a str,
    sender_email: Option<&'a str>,
    sent_at: &'a str,
    event_id: String,
    opened_at: String,
    unique_open_count: i64,
    human_open_count: i64,
    device_type: &'a str,
    agent_class: &'static str,
    confidence: &'static str,
    reason: &'static str,
    geo_country: Option<&'a str>,
    geo_region: Option<&'a str>,
    geo_city: Option<&'a str>,
}

/// The message that tells of `open`.
pub(super) fn message(format: Format, email_id: &str, event: &Event, open: &Open) -> Message {
    let body = match format {
        Format::Generic => generic(email_id, event, open),
        Format::Slack => slack(&sentence(event, open, escaped_for_slack)),
        Format::Discord => discord(&sentence(event, open, escaped_for_discord)),
    };
    Message {
        id: format!("{}_{}", event.kind.as_str(), event.event_id.simple()),
        body: body.to_string().into_bytes(),
    }
}

/// A message by which an operator sees whether a target is reached.
pub(super) fn test_message(format: Format, id: &str, now: Timestamp) -> Message {
    const SENTENCE: &str = "A test of Email Tracker: it reaches this webhook.";
    let body = match format {
        Format::Generic => json!({"type": "test", "timestamp": now.to_string(), "data": {}}),
        Format::Slack => slack(SENTENCE),
        Format::Discord => discord(SENTENCE),
    };
    Message {
        id: format!("test_{id}"),
        body: body.to_string().into_bytes(),
    }
}

fn generic(email_id: &str, event: &Event, open: &Open) -> Value {
    let generic = Generic {
        kind: match event.kind {
            Kind::FirstOpen => "email.first_open",
            Kind::Open => "email.open",
        },
        timestamp: event.opened_at.to_string(),
        data: Data {
            email_id,
            user_id: &open.user_id,
            recipient: &open.recipient,
            sender_email: open.sender_email.as_deref(),
            sent_at: &open.sent_at,
            event_id: event.event_id.to_string(),
            opened_at: event.opened_at.to_string(),
            unique_open_count: open.open_count,
            human_open_count: open.human_open_count,
            device_type: &open.device_type,
            agent_class: open.agent.class().as_str(),
            confidence: open.confidence.as_str(),
            reason: open.reason(),
            geo_country: open.country.as_deref(),
            geo_region: open.region.as_deref(),
            geo_city: open.city.as_deref(),
        },
    };
    serde_json::to_value(generic).unwrap_or_default() // strings and numbers always can
}

fn slack(sentence: &str) -> Value {
    json!({"text": sentence, "unfurl_links": false, "unfurl_media": false})
}

fn discord(sentence: &str) -> Value {
    // No mention calls anybody, and no link is unfolded (flag 4).
    json!({"content": sentence, "allowed_mentions": {"parse": []}, "flags": 4})
}

fn sentence(event: &Event, open: &Open, escaped: fn(&str) -> String) -> String {
    let what = match event.kind {
        Kind::FirstOpen => "First open",
        Kind::Open => "Open",
    };
    let recipient = escaped(&shown(&open.recipient));
    let sender = match &open.sender_email {
        Some(sender) => format!(" from {}", escaped(&shown(sender))),
        None => String::new(),
    };
    let sent_at = escaped(&shown(&open.sent_at));
    format!(
        "{what} of the mail{sender} to {recipient}, sent {sent_at}: at {}. {} Confidence: {}. Opens so far: {}.",
        event.opened_at,
        open.reason(),
        open.confidence.as_str(),
        open.open_count,
    )
}

/// What anybody could have put into a token, as far as a chat should show it: on one line, not too long, and no link.
fn shown(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|character| {
            if character.is_control() || is_invisible(character) {
                ' '
            } else {
                character
            }
        })
        .collect();
    let mut shown: String = clean
        .replace("://", ": //")
        .chars()
        .take(MOST_CHARACTERS)
        .collect();
    if clean.chars().count() > MOST_CHARACTERS {
        shown.push('…');
    }
    shown
}

/// Marks that turn the direction of writing, or have no width.
const fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Slack's own three; without `<` nothing is a mention or a link with another text.
fn escaped_for_slack(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn escaped_for_discord(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if r"\*_~`|<>#-[]()@:".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use tracking::{
        agents::{Agent, Confidence},
        facts::new_id,
    };

    use super::*;

    fn event(kind: Kind) -> (Event, Open) {
        let opened_at = Timestamp::parse_iso("2026-03-01T09:30:00.250Z").unwrap();
        let open = Open {
            user_id: "user".into(),
            recipient: "a@example.com, <!channel> & <https://evil.example|b> *@everyone*\n> x".into(),
            sender_email: Some("me@example.com".into()),
            sent_at: "2026-03-01T09:00:00Z".into(),
            open_count: 2,
            human_open_count: 1,
            agent: Agent::GmailProxy,
            confidence: Confidence::Likely,
            device_type: "other".into(),
            country: None,
            region: None,
            city: None,
        };
        let event = Event {
            number: 7,
            kind,
            opened_at,
            event_id: new_id(opened_at, [7; 10]).unwrap(),
            queued_at: opened_at,
            open: Some(open.clone()),
        };
        (event, open)
    }

    fn sent(format: Format, kind: Kind) -> (String, Value) {
        let (event, open) = event(kind);
        let message = message(format, "email 1", &event, &open);
        (message.id, serde_json::from_slice(&message.body).unwrap())
    }

    #[test]
    fn the_generic_body_says_what_the_api_says() {
        let (id, body) = sent(Format::Generic, Kind::FirstOpen);
        let event_id = event(Kind::Open).0.event_id;
        assert_eq!(id, format!("first_open_{}", event_id.simple()));
        assert_eq!(body["type"], "email.first_open");
        assert_eq!(body["timestamp"], "2026-03-01T09:30:00.250Z");
        let expected = json!({
            "email_id": "email 1", "user_id": "user",
            "recipient": "a@example.com, <!channel> & <https://evil.example|b> *@everyone*\n> x",
            "sender_email": "me@example.com", "sent_at": "2026-03-01T09:00:00Z", "event_id": event_id.to_string(),
            "opened_at": "2026-03-01T09:30:00.250Z", "unique_open_count": 2, "human_open_count": 1,
            "device_type": "other", "agent_class": "gmail_proxy", "confidence": "likely",
            "reason": Agent::GmailProxy.reason(), "geo_country": null, "geo_region": null, "geo_city": null,
        });
        assert_eq!(body["data"], expected);
        assert_eq!(sent(Format::Generic, Kind::Open).1["type"], "email.open");
    }

    #[test]
    fn nobody_is_called_by_what_a_token_says() {
        let (_, slack) = sent(Format::Slack, Kind::Open);
        let text = slack["text"].as_str().unwrap();
        assert!(
            text.starts_with(
                "Open of the mail from me@example.com to a@example.com, &lt;!channel&gt; &amp; "
            ),
            "{text}"
        );
        assert!(!text.contains(['<', '\n']) && !text.contains("://"), "{text}");

        let (_, discord) = sent(Format::Discord, Kind::FirstOpen);
        let text = discord["content"].as_str().unwrap();
        assert!(
            text.contains(r"\*\@everyone\*") && text.contains(r"\<!channel\>"),
            "{text}"
        );
        assert!(!text.contains("://") && !text.contains('\n'), "{text}");
        assert_eq!(discord["allowed_mentions"], json!({"parse": []}));
    }

    #[test]
    fn a_long_list_of_recipients_is_cut() {
        let long = "x".repeat(10_000);
        assert_eq!(shown(&long).chars().count(), MOST_CHARACTERS + 1);
        assert_eq!(shown("a\u{202e}b\u{0}c"), "a b c");
    }

    #[test]
    fn a_machine_in_a_burst_says_so() {
        let (_, mut open) = event(Kind::Open);
        open.confidence = Confidence::Automated;
        assert_eq!(open.reason(), tracking::agents::BURST_REASON);
    }
}
