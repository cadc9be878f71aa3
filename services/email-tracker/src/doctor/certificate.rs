//! The handshake, the clock that certificates are judged by, and the certificate.

use rustls::pki_types::{ServerName, UnixTime};
use service_kit::SystemClock;
use tracking::Clock as _;

use super::{
    Patient,
    report::Finding,
    tls::{Dates, Gap, Shown},
};

/// Caddy renews with a third of the time left, which is more than this.
const SOON_MS: i64 = 14 * 24 * 3_600_000;
/// `Date` has whole seconds, and answers take their time.
const SKEW_SEEN_MS: i64 = 5_000;
/// Marks are matched with hits within ten seconds.
const SKEW_TOO_LARGE_MS: i64 = 30_000;

const NEEDS_HTTPS: &str = "an https:// address";

impl Patient {
    pub(super) async fn tls(&mut self) -> Finding {
        if !self.address.is_https {
            return Finding::needs(NEEDS_HTTPS);
        }
        let chain = match self.anybody() {
            Ok(server) => server.chain().await,
            Err(error) => Err(error),
        };
        let shown = chain.and_then(|chain| {
            let name = ServerName::try_from(self.address.host.clone())?;
            Ok(Shown { chain, name })
        });
        match shown {
            Ok(shown) => {
                let found = format!("done; {} certificate(s)", shown.chain.len());
                self.shown = Some((shown, UnixTime::since_unix_epoch(std::time::Duration::ZERO)));
                Finding::ok(found)
            }
            Err(error) => Finding::failed(
                format!("{error:#}"),
                "look at Caddy's log: it may still wait for a certificate, or another program has the port",
            ),
        }
    }

    pub(super) async fn clock(&self) -> Finding {
        let before = SystemClock.now();
        let answer = match self.anybody() {
            Ok(server) => server.get("/health", &[]).await,
            Err(error) => Err(error),
        };
        let after = SystemClock.now();
        let date = answer.as_ref().ok().and_then(|answer| answer.header("date"));
        let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
            return Finding::warning(
                "the server does not say its time",
                "compare the clocks by hand: `date -u`",
            );
        };
        let since = date
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let theirs = i64::try_from(since).unwrap_or(i64::MAX);
        // Between the two readings of our clock it was some time of that second.
        let ahead = before.as_millis().saturating_sub(theirs.saturating_add(999));
        let behind = theirs.saturating_sub(after.as_millis());
        judge_skew(ahead, behind, "the server's")
    }

    pub(super) fn pixel_clock(&self) -> Finding {
        let (Some((before, after)), Some(opened_at)) = (self.test.fetched, self.test.opened_at) else {
            return Finding::needs("DASHBOARD_TOKEN");
        };
        let ahead = before.millis_since(opened_at);
        let behind = opened_at.millis_since(after);
        judge_skew(ahead, behind, "the pixel's")
    }

    pub(super) fn certificate_chain(&mut self) -> Finding {
        let Some((shown, valid_at)) = &mut self.shown else {
            return Finding::needs(NEEDS_HTTPS);
        };
        let Some(trust) = &self.settings.trust else {
            return Finding::failed(
                "this system trusts no authority",
                "install ca-certificates, or set CA_FILE",
            );
        };
        match trust.chain(shown, SystemClock.now()) {
            Ok(at) => {
                *valid_at = at;
                Finding::ok("complete")
            }
            Err(Gap::MissingIntermediate(issuer)) => Finding::failed(
                format!(
                    "an intermediate certificate is missing: {issuer}, which issued the server's own, was not sent and is no \
                         known authority"
                ),
                "configure the full chain (such as fullchain.pem), the server's own certificate first; if that is an authority \
                 of your own, name its certificate in CA_FILE",
            ),
            Err(Gap::UnknownRoot(issuer)) => Finding::failed(
                format!("unknown root: the chain leads to {issuer}, which is trusted by nobody here"),
                "use a certificate of a public authority; if that one is your own, name its certificate in CA_FILE",
            ),
            Err(Gap::Other(problem)) => {
                Finding::failed(problem, "have the certificate issued anew; look at Caddy's log")
            }
        }
    }

    pub(super) fn certificate_dates(&self) -> Finding {
        let (Some((shown, _)), Some(trust)) = (&self.shown, &self.settings.trust) else {
            return Finding::needs(NEEDS_HTTPS);
        };
        let now = SystemClock.now();
        let renew =
            "look at Caddy's log for why it is not renewed; the authority needs port 80 or 443 from outside";
        match trust.dates(shown, now) {
            Dates::Ended(at) => return Finding::failed(format!("expired: it ended {at}"), renew),
            Dates::NotBegun(at) => {
                return Finding::failed(format!("it begins {at} only"), "look at the clocks, or wait");
            }
            Dates::Valid => {}
        }
        match trust.dates(shown, now.saturating_add_millis(SOON_MS)) {
            Dates::Ended(at) => Finding::warning(format!("it ends {at}, in less than 14 days"), renew),
            _ => Finding::ok(match trust.end(shown, now) {
                Some(end) => format!("valid until {end}"),
                None => "valid".to_owned(),
            }),
        }
    }

    pub(super) fn certificate_name(&self) -> Finding {
        let (Some((shown, valid_at)), Some(trust)) = (&self.shown, &self.settings.trust) else {
            return Finding::needs(NEEDS_HTTPS);
        };
        match trust.foreign_names(shown, *valid_at) {
            None => Finding::ok("that is its name"),
            Some(names) => Finding::failed(
                format!("it is for {names}"),
                "set DOMAIN to the name that clients use, and restart Caddy",
            ),
        }
    }
}

/// `ahead` and `behind`: by how much this host's clock differs for certain, in milliseconds; what is not is negative.
fn judge_skew(ahead: i64, behind: i64, whose: &str) -> Finding {
    let skew = ahead.max(behind);
    let direction = if ahead > behind { "ahead of" } else { "behind" };
    let found = format!("{} s {direction} {whose}", skew / 1_000);
    let advice = "set both clocks by NTP: `timedatectl set-ntp true`";
    if skew > SKEW_TOO_LARGE_MS {
        Finding::failed(found, advice)
    } else if skew > SKEW_SEEN_MS {
        Finding::warning(found, advice)
    } else {
        Finding::ok("they agree")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_differ_by_what_is_certain() {
        assert_eq!(judge_skew(-10, -900, "x"), Finding::ok("they agree"));
        assert!(
            matches!(judge_skew(6_000, -7_000, "x"), Finding::Warning { found, .. } if found == "6 s ahead of x")
        );
        assert!(
            matches!(judge_skew(-40_000, 31_000, "x"), Finding::Failed { found, .. } if found == "31 s behind x")
        );
    }
}
