//! The older server's two lists, as leniently as they can be understood.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use tracking::Timestamp;

/// An email of `/dashboard/api/emails`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ListedEmail {
    #[serde(default, deserialize_with = "text")]
    pub(super) email_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) user_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) recipient: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) sender_email: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) sent_at: Option<String>,
    #[serde(default, deserialize_with = "time")]
    pub(super) created_at: Option<Timestamp>,
    /// All hits, those that do not count too.
    #[serde(default, deserialize_with = "count")]
    pub(super) raw_open_events: Option<u64>,
}

/// An open of `/dashboard/api/open-events`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ListedOpen {
    #[serde(default, deserialize_with = "text")]
    pub(super) id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) email_id: Option<String>,
    #[serde(default, deserialize_with = "time")]
    pub(super) opened_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "text")]
    pub(super) ip_address: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) user_agent: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) geo_country: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) geo_region: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) geo_city: Option<String>,
    #[serde(default, deserialize_with = "number")]
    pub(super) latitude: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    pub(super) longitude: Option<f64>,
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

/// The items of an answer.
pub(super) fn items<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<Vec<T>> {
    serde_json::from_slice::<List<T>>(body).map(|list| list.items)
}

fn text<'d, D: Deserializer<'d>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::String(text) if !text.is_empty() => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(word) => Some(word.to_string()),
        _ => None,
    })
}

fn count<'d, D: Deserializer<'d>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(text(from)?.and_then(|text| text.trim().parse().ok()))
}

fn number<'d, D: Deserializer<'d>>(from: D) -> Result<Option<f64>, D::Error> {
    let number: Option<f64> = text(from)?.and_then(|text| text.trim().parse().ok());
    Ok(number.filter(|number| number.is_finite()))
}

fn time<'d, D: Deserializer<'d>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(text(from)?.and_then(|text| parse_time(text.trim())))
}

/// ISO 8601; without an offset it is UTC, as databases print it; a number is milliseconds since 1970, or seconds where
/// milliseconds would still be in 1973.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    const SECONDS_BELOW: i64 = 100_000_000_000;
    if let Ok(number) = text.parse::<i64>() {
        let is_seconds = number.abs() < SECONDS_BELOW;
        let millis = if is_seconds {
            number.checked_mul(1_000)?
        } else {
            number
        };
        return Some(Timestamp::from_millis(millis));
    }
    let dashed = text.replacen(' ', "T", 1);
    Timestamp::parse_iso(&dashed).or_else(|| Timestamp::parse_iso(&format!("{dashed}Z")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_in_many_forms() {
        for text in [
            "2024-03-09T16:00:00.007Z",
            "2024-03-09T17:00:00.007+01:00",
            "2024-03-09 16:00:00.007",
            "2024-03-09T16:00:00.007123",
            "2024-03-09 16:00:00.007+00:00",
            "1710000000007",
        ] {
            assert_eq!(
                parse_time(text),
                Some(Timestamp::from_millis(1_710_000_000_007)),
                "{text}"
            );
        }
        assert_eq!(
            parse_time("1710000000"),
            Some(Timestamp::from_millis(1_710_000_000_000))
        );
        assert_eq!(parse_time("yesterday"), None);
    }

    #[test]
    fn an_item_lacks_what_cannot_be_understood() {
        let body = br#"{"ok":true,"more":1,"items":[
            {"id":7,"email_id":"e","opened_at":null,"ip_address":"","user_agent":null,"latitude":"52.5","is_duplicate":0},
            {"id":"x","email_id":12,"opened_at":1710000000007,"latitude":"north"}, {}]}"#;
        let items: Vec<ListedOpen> = items(body).unwrap();
        assert_eq!(items.len(), 3);
        assert_eq!(items[0].id.as_deref(), Some("7"));
        assert_eq!((items[0].opened_at, items[0].latitude), (None, Some(52.5)));
        assert_eq!(items[0].ip_address, None);
        assert_eq!(items[1].email_id.as_deref(), Some("12"));
        assert_eq!(items[1].latitude, None);
        assert!(super::items::<ListedOpen>(b"<html>").is_err());
    }
}
