//! Whom to tell of what, in which form: the operator's `WEBHOOKS`.
//!
//! The URL of a chat's webhook is all that it takes to write there, so a URL is a secret here, like what signs: neither is
//! printed, nor is any other value of the setting, in which one may have been put by mistake.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use hyper::Uri;
use serde_json::{Map, Value};

use super::sign::SigningSecret;

/// More than an operator has; each name is a value of a metric's label.
const MOST_TARGETS: usize = 16;
const LONGEST_NAME: usize = 32;
const DEFAULT_PATIENCE_HOURS: u64 = 72;
/// Less than what is kept of an event at all.
const MOST_PATIENCE_HOURS: u64 = 14 * 24;

/// One who is told.
#[derive(Clone)]
pub struct Target {
    /// What the operator calls it.
    pub name: String,
    /// Where it is.
    pub url: Url,
    /// What it is told of.
    pub events: Events,
    /// In which form.
    pub format: Format,
    /// What signs, one or, while it changes, two.
    pub secrets: Vec<SigningSecret>,
    /// Whether it is told of opens by machines too.
    pub automated: bool,
    /// For how long a failing event is tried again.
    pub patience: Duration,
}

/// Which opens a target is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The first of each email.
    pub first_open: bool,
    /// Each.
    pub open: bool,
}

/// What a body looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// This project's own JSON.
    Generic,
    /// What Slack's incoming webhooks take.
    Slack,
    /// What Discord's webhooks take.
    Discord,
}

/// Where a target is, in the parts that a request needs.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub(super) tls: bool,
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// For the header `Host`.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
}

impl fmt::Debug for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Target({})", self.name)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<redacted>")
    }
}

/// Reads the whole setting; answers what is wrong, a line each.
pub(super) fn parse(text: &str) -> Result<Vec<Arc<Target>>, Vec<String>> {
    let document: Value = serde_json::from_str(text).map_err(|error| {
        vec![format!(
            "no JSON: line {}, column {}",
            error.line(),
            error.column()
        )]
    })?;
    let Value::Array(items) = document else {
        return Err(vec![
            "expected a JSON array of objects, one for each target".to_owned(),
        ]);
    };
    if items.len() > MOST_TARGETS {
        return Err(vec![format!("{} targets; at most {MOST_TARGETS}", items.len())]);
    }
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    let mut targets = Vec::new();
    for (number, item) in (1..).zip(items) {
        let Value::Object(fields) = item else {
            problems.push(format!("target {number} is no object"));
            continue;
        };
        let mut fields = Fields::new(number, fields, &mut problems);
        let target = fields.target();
        fields.refuse_others();
        if let Some(target) = target {
            if !names.insert(target.name.clone()) {
                problems.push(format!("{}: two targets have this name", target.name));
            }
            targets.push(Arc::new(target));
        }
    }
    if problems.is_empty() {
        Ok(targets)
    } else {
        Err(problems)
    }
}

/// The fields of one target, each taken out when it is read.
struct Fields<'a> {
    number: usize,
    fields: Map<String, Value>,
    problems: &'a mut Vec<String>,
}

impl<'a> Fields<'a> {
    fn new(number: usize, fields: Map<String, Value>, problems: &'a mut Vec<String>) -> Self {
        Self {
            number,
            fields,
            problems,
        }
    }

    /// All of it; every field is looked at, whatever is wrong with the others.
    fn target(&mut self) -> Option<Target> {
        let name = self.name();
        let url = self.url();
        let events = self.events();
        let format = self.format();
        let secrets = self.secrets();
        let automated = self.automated();
        let patience = self.patience();
        let (format, secrets) = (format?, secrets?);
        if format == Format::Generic && secrets.is_empty() {
            self.refuse(
                "secrets",
                "missing; expected one or two such as \"whsec_…\": docs/webhooks.md says how to make one",
            );
            return None;
        }
        Some(Target {
            name: name?,
            url: url?,
            events: events?,
            format,
            secrets,
            automated: automated?,
            patience: patience?,
        })
    }

    fn name(&mut self) -> Option<String> {
        let is_name = |name: &String| {
            let mut bytes = name.bytes();
            (1..=LONGEST_NAME).contains(&name.len())
                && bytes
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
        };
        let name = self.text("name").filter(is_name);
        self.expect(
            "name",
            name,
            "up to 32 lower-case letters, digits, - and _, which name it in logs and metrics",
        )
    }

    fn url(&mut self) -> Option<Url> {
        let url = self.text("url").and_then(|text| Url::parse(&text));
        self.expect(
            "url",
            url,
            "https://HOST/PATH, or http:// within WEBHOOK_PRIVATE_NETWORKS, without user name and password",
        )
    }

    fn events(&mut self) -> Option<Events> {
        let accepted = "an array of \"first_open\" and \"open\"; without it, both";
        let Some(given) = self.fields.remove("events") else {
            return Some(Events {
                first_open: true,
                open: true,
            });
        };
        let mut events = Events::default();
        for event in given.as_array().into_iter().flatten() {
            match event.as_str() {
                Some("first_open") => events.first_open = true,
                Some("open") => events.open = true,
                _ => return self.expect("events", None, accepted),
            }
        }
        let events = (events != Events::default()).then_some(events);
        self.expect("events", events, accepted)
    }

    fn format(&mut self) -> Option<Format> {
        let Some(given) = self.fields.remove("format") else {
            return Some(Format::Generic);
        };
        let format = match given.as_str() {
            Some("generic") => Some(Format::Generic),
            Some("slack") => Some(Format::Slack),
            Some("discord") => Some(Format::Discord),
            _ => None,
        };
        self.expect("format", format, "\"generic\", \"slack\" or \"discord\"")
    }

    fn secrets(&mut self) -> Option<Vec<SigningSecret>> {
        let Some(given) = self.fields.remove("secrets") else {
            return Some(Vec::new());
        };
        let secrets: Option<Vec<_>> = given.as_array().and_then(|secrets| {
            let parsed = secrets
                .iter()
                .map(|secret| SigningSecret::parse(secret.as_str()?));
            parsed.collect()
        });
        self.expect(
            "secrets",
            secrets.filter(|secrets| (1..=2).contains(&secrets.len())),
            "an array of one or two, the new one first, each \"whsec_\" and 24 to 64 bytes in base64",
        )
    }

    fn automated(&mut self) -> Option<bool> {
        let Some(given) = self.fields.remove("automated") else {
            return Some(true);
        };
        self.expect("automated", given.as_bool(), "true or false")
    }

    fn patience(&mut self) -> Option<Duration> {
        let hours = match self.fields.remove("patience_hours") {
            None => Some(DEFAULT_PATIENCE_HOURS),
            Some(given) => given
                .as_u64()
                .filter(|hours| (1..=MOST_PATIENCE_HOURS).contains(hours)),
        };
        self.expect(
            "patience_hours",
            hours.map(Duration::from_hours),
            "a whole number from 1 to 336",
        )
    }

    fn text(&mut self, field: &str) -> Option<String> {
        match self.fields.remove(field)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    fn expect<T>(&mut self, field: &str, value: Option<T>, accepted: &str) -> Option<T> {
        if value.is_none() {
            self.refuse(field, format_args!("expected {accepted}"));
        }
        value
    }

    fn refuse(&mut self, field: &str, problem: impl fmt::Display) {
        self.problems
            .push(format!("target {}, {field}: {problem}", self.number));
    }

    fn refuse_others(mut self) {
        for name in std::mem::take(&mut self.fields).keys() {
            // Even a name may be a secret that was put in the wrong place.
            let known = name.len() <= LONGEST_NAME
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let shown = if known { name } else { "a field" };
            self.refuse(
                shown,
                "not known; there are name, url, events, format, secrets, automated, patience_hours",
            );
        }
    }
}

impl Url {
    /// Whether it goes nowhere but to the operator's own networks.
    pub(super) const fn needs_private_network(&self) -> bool {
        !self.tls
    }

    /// Of `http` or `https`, with nothing in it that a request would not say.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() || authority.as_str().contains('@') || text.contains('#') {
            return None;
        }
        Some(Self {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: uri
                .path_and_query()
                .map_or("/", hyper::http::uri::PathAndQuery::as_str)
                .to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";

    fn problems(text: &str) -> Vec<String> {
        parse(text).unwrap_err()
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let text =
            format!(r#"[{{"name":"crm","url":"https://crm.example.com/hooks?k=1","secrets":["{SECRET}"]}}]"#);
        let targets = parse(&text).unwrap();
        let target = &*targets[0];
        assert_eq!((&*target.url.host, target.url.port), ("crm.example.com", 443));
        assert_eq!(target.url.path, "/hooks?k=1");
        assert!(target.events.first_open && target.events.open && target.automated);
        assert_eq!(target.format, Format::Generic);
        assert_eq!(target.patience, Duration::from_hours(72));
        assert!(parse("[]").unwrap().is_empty());
    }

    #[test]
    fn chats_need_no_secret_of_ours() {
        let text = r#"[{"name":"chat","url":"https://hooks.slack.com/services/T/B/x","format":"slack",
                        "events":["first_open"],"automated":false,"patience_hours":2}]"#;
        let targets = parse(text).unwrap();
        let target = &*targets[0];
        assert!(target.secrets.is_empty() && !target.automated);
        let only_first = Events {
            first_open: true,
            open: false,
        };
        assert_eq!(target.events, only_first);
        assert_eq!(target.patience, Duration::from_hours(2));
    }

    #[test]
    fn every_mistake_is_named_and_no_value_is_repeated() {
        let text = r#"[
            {"name":"S3CRET","url":"https://user:S3CRET@x/","events":["S3CRET"],"format":"S3CRET","secrets":"S3CRET",
             "automated":"S3CRET","patience_hours":0,"whsec_S3CRET":1,"secret":1},
            "S3CRET",
            {"name":"a","url":"ftp://S3CRET/"}]"#;
        let problems = problems(text);
        assert!(
            problems.iter().all(|problem| !problem.contains("S3CRET")),
            "{problems:#?}"
        );
        for expected in [
            "target 1, name: expected up to 32",
            "target 1, url: expected https://",
            "target 1, events: expected",
            "target 1, format: expected",
            "target 1, secrets: expected an array",
            "target 1, automated: expected",
            "target 1, patience_hours: expected",
            "target 1, a field: not known",
            "target 1, secret: not known",
            "target 2 is no object",
            "target 3, url: expected",
            "target 3, secrets: missing",
        ] {
            let found = problems
                .iter()
                .filter(|problem| problem.starts_with(expected))
                .count();
            assert_eq!(found, 1, "{expected}: {problems:#?}");
        }
    }

    #[test]
    fn a_document_that_is_none_is_refused() {
        assert_eq!(problems("{"), ["no JSON: line 1, column 1"]);
        assert!(problems("{}")[0].starts_with("expected a JSON array"));
        let target = format!(r#"{{"name":"a","url":"https://x/","secrets":["{SECRET}"]}}"#);
        assert_eq!(
            problems(&format!("[{target},{target}]")),
            ["a: two targets have this name"]
        );
        let many = vec![target; 17].join(",");
        assert_eq!(problems(&format!("[{many}]")), ["17 targets; at most 16"]);
    }

    #[test]
    fn nothing_secret_shows_in_debug() {
        let text =
            format!(r#"[{{"name":"crm","url":"https://crm.example.com/s3cret","secrets":["{SECRET}"]}}]"#);
        let shown = format!("{:?}", parse(&text).unwrap());
        assert_eq!(shown, "[Target(crm)]");
        assert_eq!(format!("{:?}", parse(&text).unwrap()[0].url), "<redacted>");
    }

    #[test]
    fn a_url_is_taken_apart() {
        let url = Url::parse("http://[::1]:8080").unwrap();
        assert_eq!(
            (&*url.host, url.port, &*url.path, url.tls),
            ("::1", 8_080, "/", false)
        );
        for bad in [
            "",
            "x",
            "https://",
            "https://a@b/",
            "https://a/#b",
            "file:///etc/passwd",
            "https:///x",
        ] {
            assert!(Url::parse(bad).is_none(), "{bad}");
        }
    }
}
