//! What `up` prints once everything answers.

use std::{
    fmt::{self, Display, Formatter},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tracking::{Timestamp, Token};

/// Everything that a user needs for a first try.
pub(super) struct Greeting {
    /// Where everything is served.
    pub(super) address: SocketAddr,
    /// The token of the data folder; `None` if the user gave one, who knows it then.
    pub(super) dashboard_token: Option<String>,
    /// Now: when the mail was sent that the pixel to try belongs to.
    pub(super) now: Timestamp,
}

impl Greeting {
    fn base_url(&self) -> String {
        let host = match self.address.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        format!("http://{}", SocketAddr::new(host, self.address.port()))
    }

    fn token_to_try(&self) -> String {
        let token = Token {
            user_id: "me".to_owned(),
            email_id: format!("try-{}", self.now.as_millis()),
            recipient: "someone@example.com".to_owned(),
            sent_at: self.now.to_string(),
            sender_email: None,
        };
        token.encode()
    }
}

impl Display for Greeting {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let base = self.base_url();
        let shown = self
            .dashboard_token
            .as_deref()
            .unwrap_or("(as given in DASHBOARD_TOKEN)");
        let sent = self.dashboard_token.as_deref().unwrap_or("$DASHBOARD_TOKEN");
        writeln!(formatter, "Email Tracker runs at {base}")?;
        writeln!(formatter)?;
        writeln!(formatter, "  dashboard         {base}/dashboard")?;
        writeln!(formatter, "  dashboard token   {shown}")?;
        writeln!(
            formatter,
            "  a pixel to try    {base}/t/{}.gif",
            self.token_to_try()
        )?;
        writeln!(
            formatter,
            "  what it recorded  curl -H \"X-Tracker-Token: {sent}\" {base}/dashboard/api/emails"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(address: &str, dashboard_token: Option<&str>) -> String {
        let dashboard_token = dashboard_token.map(str::to_owned);
        let address = address.parse().unwrap();
        Greeting {
            address,
            dashboard_token,
            now: Timestamp::from_millis(1_710_000_000_000),
        }
        .to_string()
    }

    #[test]
    fn it_names_what_a_first_try_needs() {
        let text = greeting("127.0.0.1:8090", Some("abc"));
        assert!(text.contains("runs at http://127.0.0.1:8090\n"), "{text}");
        assert!(text.contains("dashboard token   abc\n"), "{text}");
        assert!(
            text.contains("curl -H \"X-Tracker-Token: abc\" http://127.0.0.1:8090/dashboard/api/emails\n"),
            "{text}"
        );
        let pixel = text.split("/t/").nth(1).unwrap().split(".gif").next().unwrap();
        let token = Token::decode(pixel).unwrap();
        assert_eq!(token.sent_at, "2024-03-09T16:00:00.000Z");
    }

    #[test]
    fn an_address_for_all_is_shown_as_one_to_use() {
        assert!(greeting("0.0.0.0:80", None).contains("http://127.0.0.1:80/"));
        assert!(greeting("[::]:80", None).contains("http://[::1]:80/"));
    }

    #[test]
    fn a_given_token_is_not_repeated() {
        let text = greeting("127.0.0.1:8090", None);
        assert!(text.contains("X-Tracker-Token: $DASHBOARD_TOKEN"), "{text}");
    }
}
