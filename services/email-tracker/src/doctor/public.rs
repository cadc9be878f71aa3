//! What clients see, through the public address.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use service_kit::SystemClock;
use tracking::{Clock as _, Timestamp};

use super::{
    Patient,
    http::{Answer, Server},
    report::Finding,
};

/// As the contract has them.
const PIXEL_HEADERS: [(&str, &str); 5] = [
    ("content-type", "image/gif"),
    ("content-length", "43"),
    ("cache-control", "no-store, no-cache, must-revalidate, max-age=0"),
    ("pragma", "no-cache"),
    ("expires", "0"),
];
const FORBIDDEN_PIXEL_HEADERS: [&str; 3] = ["set-cookie", "etag", "location"];
const GIF_BEGIN: &[u8] = b"GIF89a";
const PIXEL_ADVICE: &str =
    "let the proxy in front pass /t/* on to the pixel as it is, without cookies, caching or rewriting";

const EMAILS: &str = "/dashboard/api/emails?limit=1&include=doctor";
/// The pixel sends a batch at once, unless it waits after failures.
const SELF_TEST_PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(200);

impl Patient {
    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.server()?.get(path, headers).await
    }

    pub(super) async fn health(&self, path: &str, service: &str) -> Finding {
        let advice =
            format!("look at the logs of Caddy and of the {service}: `docker compose logs caddy {service}`");
        match self.get(path, &[]).await {
            Ok(answer) if answer.status == StatusCode::OK && answer.json("/ok") == true => {
                Finding::ok("200, as it should be")
            }
            Ok(answer) if answer.status == StatusCode::OK => Finding::failed(
                "200, but it is not Email Tracker who answers",
                format!("let the address lead to Email Tracker; {advice}"),
            ),
            Ok(answer) => Finding::failed(format!("status {}", answer.status), advice),
            Err(error) => Finding::failed(format!("{error:#}"), advice),
        }
    }

    pub(super) async fn pixel(&mut self) -> Finding {
        let before = SystemClock.now();
        let answer = self.get(&self.test.pixel, &[]).await;
        self.test.fetched = Some((before, SystemClock.now()));
        judge_pixel(answer)
    }

    pub(super) async fn plain_pixel(&self) -> Finding {
        let server = Server {
            addresses: &self.addresses,
            port: self.settings.plain_port,
            host: self.address.host.clone(),
            tls: None,
        };
        judge_pixel(server.get(&self.test.pixel, &[]).await)
    }

    pub(super) async fn token(&self) -> Finding {
        let Some(token) = &self.settings.dashboard_token else {
            return Finding::needs("DASHBOARD_TOKEN");
        };
        match self.get(EMAILS, &[("x-tracker-token", token.expose())]).await {
            Ok(answer) if answer.status == StatusCode::OK => Finding::ok("accepted"),
            Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => Finding::failed(
                "refused",
                "use the DASHBOARD_TOKEN that the dashboard was started with; after a change, restart the dashboard",
            ),
            Ok(answer) => Finding::failed(format!("status {}", answer.status), "look at the dashboard's log"),
            Err(error) => Finding::failed(format!("{error:#}"), "look at the dashboard's log"),
        }
    }

    pub(super) async fn wrong_token(&self) -> Finding {
        let wrong = format!("wrong-{:016x}", rand::random::<u64>());
        for headers in [&[][..], &[("x-tracker-token", wrong.as_str())]] {
            match self.get(EMAILS, headers).await {
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => {}
                Ok(answer) => {
                    return Finding::failed(
                        format!("status {} instead of 401", answer.status),
                        "nothing in front may answer for the dashboard or add a token to requests",
                    );
                }
                Err(error) => return Finding::failed(format!("{error:#}"), "look at the dashboard's log"),
            }
        }
        Finding::ok("refused")
    }

    /// Waits until the dashboard shows the open of the pixel that was fetched.
    pub(super) async fn self_test(&mut self) -> Finding {
        let Some(token) = &self.settings.dashboard_token else {
            return Finding::needs("DASHBOARD_TOKEN");
        };
        let path = format!("/dashboard/api/open-events?email_id={}", self.test.email_id);
        let since = Instant::now();
        let mut last = "it does not show".to_owned();
        while since.elapsed() < SELF_TEST_PATIENCE {
            match self.get(&path, &[("x-tracker-token", token.expose())]).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    if let Some(opened_at) = answer.json("/items/0/opened_at").as_str() {
                        self.test.opened_at = Timestamp::parse_iso(opened_at);
                        return Finding::ok(format!("it shows, of {}", self.test.email_id));
                    }
                }
                Ok(answer) => last = format!("status {}", answer.status),
                Err(error) => last = format!("{error:#}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Finding::failed(
            format!("after {SELF_TEST_PATIENCE:?}: {last}"),
            "look at the logs of pixel and recorder: the pixel keeps what no recorder takes; set RECORDER_ADMIN_URL and \
             PIXEL_ADMIN_URL for a closer look",
        )
    }

    /// What is for the operator must not be there for everybody.
    pub(super) async fn public_paths(&self) -> Finding {
        let mut answers = Vec::new();
        for path in ["/metrics", "/ready", "/live"] {
            match self.get(path, &[]).await {
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => {}
                Ok(answer) => answers.push(format!("{path} answers with status {}", answer.status)),
                Err(error) => answers.push(format!("{path}: {error:#}")),
            }
        }
        if answers.is_empty() {
            return Finding::ok("404 each");
        }
        Finding::failed(
            answers.join(", "),
            "let the proxy in front pass on the paths of the Caddyfile only, and answer 404 to all others",
        )
    }
}

fn judge_pixel(answer: anyhow::Result<Answer>) -> Finding {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Finding::failed(format!("{error:#}"), PIXEL_ADVICE),
    };
    if answer.status.is_redirection() {
        return Finding::failed(
            format!("redirected, with status {}", answer.status),
            "answer pixels on this port too: mail proxies do not follow redirects",
        );
    }
    if answer.status != StatusCode::OK {
        return Finding::failed(format!("status {}", answer.status), PIXEL_ADVICE);
    }
    let mut wrong: Vec<String> = Vec::new();
    for (name, expected) in PIXEL_HEADERS {
        match answer.header(name) {
            Some(value) if value == expected => {}
            Some(value) => wrong.push(format!("{name}: {value} instead of {expected}")),
            None => wrong.push(format!("no {name}")),
        }
    }
    let superfluous = FORBIDDEN_PIXEL_HEADERS
        .iter()
        .filter(|name| answer.headers.contains_key(**name));
    wrong.extend(superfluous.map(|name| format!("{name} is there")));
    if !answer.body.starts_with(GIF_BEGIN) {
        wrong.push("the body is no GIF".to_owned());
    }
    if wrong.is_empty() {
        return Finding::ok("a GIF that nobody may cache");
    }
    Finding::failed(wrong.join(", "), PIXEL_ADVICE)
}
