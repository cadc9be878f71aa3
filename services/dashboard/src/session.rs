//! Sessions of people who gave the token on the page: a signed cookie instead of the header.
//!
//! A cookie says until when it holds and which generation it is of, and is signed with a key made of the token that was
//! given; so a token that is no longer accepted ends its sessions, and any dashboard behind one address knows them. Nothing is
//! stored of a session but the generation that all have: at log-out the recorder makes it another one. What changes
//! something needs the session's CSRF token too, which the page asks for and other sites cannot read.

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use database::{Database, Error, InStatement, Transaction, Work};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tracking::Timestamp;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    api::{errors::ApiError, list::IsoTime},
    auth::TOKEN_HEADER,
    failures::client_of,
    http::Dashboard,
    metrics::Shown,
    openapi::schemas,
};

/// The cookie's name.
pub(crate) const COOKIE: &str = "email-tracker-session";
/// The header that carries the session's CSRF token.
pub(crate) const CSRF_HEADER: &str = "x-csrf-token";
const GENERATION: &str = "-- sessions: which hold
select generation from dashboard_sessions";

/// A week, in milliseconds.
const LIFETIME_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// The key of one token's sessions.
pub(crate) type Key = [u8; 32];

/// A session that holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Session {
    generation: i64,
    expires_at: Timestamp,
    csrf_token: String,
}

/// The key that signs sessions of the token with this digest.
pub(crate) fn key_of(token_digest: &[u8]) -> Key {
    sign(token_digest, "email-tracker session key", "")
}

fn sign(key: &[u8], purpose: &str, text: &str) -> Key {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of any length");
    };
    mac.update(purpose.as_bytes());
    mac.update(b"\0");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

impl Session {
    /// Begins one of `generation` at `now`; answers the cookie's value as well.
    fn begin(key: &Key, generation: i64, now: Timestamp) -> (Self, String) {
        let expires_at = now.saturating_add_millis(LIFETIME_MS);
        let content = format!(
            "{}.{generation}.{}",
            expires_at.as_millis(),
            Uuid::now_v7().simple()
        );
        let value = format!("{content}.{}", BASE64.encode(sign(key, "cookie", &content)));
        (Self::of(key, generation, expires_at, &content), value)
    }

    fn of(key: &Key, generation: i64, expires_at: Timestamp, content: &str) -> Self {
        Self {
            generation,
            expires_at,
            csrf_token: BASE64.encode(sign(key, "csrf", content)),
        }
    }

    /// The session whose cookie the request carries, if one of `keys` signed it and its time at `now` is not over. Whether it
    /// holds the stored generation says.
    pub(crate) fn find(keys: &[Key], headers: &HeaderMap, now: Timestamp) -> Option<Self> {
        cookies(headers).find_map(|value| Self::read(keys, value, now))
    }

    fn read(keys: &[Key], value: &str, now: Timestamp) -> Option<Self> {
        let (content, signature) = value.rsplit_once('.')?;
        let signature = BASE64.decode(signature).ok()?;
        let key = keys
            .iter()
            .find(|key| bool::from(sign(*key, "cookie", content).ct_eq(&signature)))?;
        let mut parts = content.split('.');
        let expires_at = Timestamp::from_millis(parts.next()?.parse().ok()?);
        let generation = parts.next()?.parse().ok()?;
        parts.next()?;
        (now < expires_at).then(|| Self::of(key, generation, expires_at, content))
    }

    /// Whether it was not ended since it began.
    async fn holds(&self, database: &Database) -> Result<bool, ApiError> {
        Ok(self.generation == database.transact(&ReadGeneration).await?)
    }

    fn answer(&self, dashboard: &Dashboard) -> Json<Opened<'_>> {
        Json(Opened {
            ok: true,
            csrf_token: &self.csrf_token,
            expires_at: self.expires_at.to_string(),
            can_erase: dashboard.recorder.is_some(),
        })
    }

    fn has_csrf_token(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(CSRF_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
        self.csrf_token.as_bytes().ct_eq(given).into()
    }
}

/// The values of all cookies of our name.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(|(name, value)| (name == COOKIE).then_some(value))
}

/// Whether a page of this very origin asks, or no browser at all. Browsers say where a request comes from; those that do
/// not send `Sec-Fetch-Site` (to plain http, for example) send `Origin` with whatever changes something.
pub(crate) fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = text(header::ORIGIN) else {
        return true;
    };
    let host = origin.split_once("://").map(|(_, host)| host);
    host.is_some() && host == text(header::HOST)
}

/// What the page is told of its session.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub(crate) struct Opened<'s> {
    #[schema(schema_with = schemas::always_true)]
    ok: bool,
    /// What to send in `X-CSRF-Token` with whatever changes something.
    #[schema(min_length = 1)]
    csrf_token: &'s str,
    #[schema(value_type = IsoTime)]
    expires_at: String,
    /// Whether there is a recorder to ask for it.
    can_erase: bool,
}

/// What is sent to log in.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Credentials {
    /// The value of `DASHBOARD_TOKEN`.
    token: String,
}

const FOREIGN: ApiError =
    ApiError::Refused(StatusCode::FORBIDDEN, "Only the dashboard's own page may do this");

/// `POST /dashboard/session`: gives a session for the token.
pub(crate) async fn log_in(
    State(dashboard): State<Dashboard>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    if !is_own_page(&headers) {
        return Err(FOREIGN);
    }
    let now = dashboard.clock.now();
    let client = client_of(&extensions, &headers);
    if let Some(seconds) = dashboard.failures.wait(client, now) {
        return Err(ApiError::TooManyFailures { seconds });
    }
    let given: Credentials = read_json(&headers, body, "The body must be {\"token\":\"…\"}")?;
    let Some(key) = dashboard.tokens.key_of(&given.token) else {
        dashboard.failures.note(client, now);
        dashboard.metrics.wrong_token(Shown::AtLogIn);
        return Err(ApiError::Unauthorized);
    };
    let generation = dashboard.database.transact(&ReadGeneration).await?;
    let (session, value) = Session::begin(&key, generation, now);
    let cookie = set_cookie(&headers, &value, LIFETIME_MS / 1_000)?;
    Ok((cookie, session.answer(&dashboard)).into_response())
}

/// The generation of the sessions that hold.
pub(crate) struct ReadGeneration;

impl Work for ReadGeneration {
    const NAME: &'static str = "sessions";
    const READ_ONLY: bool = true;
    type Output = i64;

    async fn run(&self, tx: &Transaction<'_>) -> Result<i64, Error> {
        let read = tx.prepare_cached(GENERATION).await.in_statement(Self::NAME)?;
        let row = tx.query_one(&read, &[]).await.in_statement(Self::NAME)?;
        Ok(row.try_get(0)?)
    }
}

/// What is sent as JSON; `problem` is what is said of anything else.
pub(crate) fn read_json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    problem: &'static str,
) -> Result<T, ApiError> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    // A form of another site cannot send this type.
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        let problem = "The body must be application/json";
        return Err(ApiError::Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem));
    }
    let body = body.map_err(|rejected| ApiError::Refused(rejected.status(), "The body cannot be read"))?;
    serde_json::from_slice(&body).map_err(|_| ApiError::Refused(StatusCode::BAD_REQUEST, problem))
}

/// `GET /dashboard/session`: the session that the cookie is of.
pub(crate) async fn show(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let session = current(&dashboard, &headers)?;
    if !session.holds(&dashboard.database).await? {
        return Err(ApiError::Unauthorized);
    }
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((no_store, session.answer(&dashboard)).into_response())
}

/// `DELETE /dashboard/session`: takes the cookie away, and has all sessions ended if there is a recorder to do it.
pub(crate) async fn log_out(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let session = current(&dashboard, &headers)?;
    if !session.has_csrf_token(&headers) {
        return Err(FOREIGN);
    }
    let all_sessions_ended = match session.holds(&dashboard.database).await {
        Ok(true) => end_all(&dashboard).await,
        Ok(false) => return Err(ApiError::Unauthorized),
        Err(error) => {
            tracing::warn!(%error, "a log-out took a cookie away, and ended no other session");
            false
        }
    };
    let cookie = set_cookie(&headers, "", 0)?;
    let done = Json(serde_json::json!({"ok": true, "all_sessions_ended": all_sessions_ended}));
    Ok((cookie, done).into_response())
}

/// Answers whether all sessions that had begun are ended.
async fn end_all(dashboard: &Dashboard) -> bool {
    let Some(recorder) = &dashboard.recorder else {
        return false;
    };
    let ended = recorder.end_sessions().await;
    if let Err(error) = &ended {
        tracing::warn!(%error, "a log-out took a cookie away, and ended no other session");
    }
    ended.is_ok()
}

/// The session of the request, its generation not looked at.
fn current(dashboard: &Dashboard, headers: &HeaderMap) -> Result<Session, ApiError> {
    if !is_own_page(headers) {
        return Err(FOREIGN);
    }
    let found = dashboard.tokens.session(headers, dashboard.clock.now());
    found.ok_or(ApiError::Unauthorized)
}

/// The cookie is for the dashboard alone: no pixel is asked for with it.
fn set_cookie(
    request: &HeaderMap,
    value: &str,
    seconds: i64,
) -> Result<[(HeaderName, HeaderValue); 2], ApiError> {
    let is_https = request
        .get("x-forwarded-proto")
        .is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"));
    let secure = if is_https { "; Secure" } else { "" };
    let cookie =
        format!("{COOKIE}={value}; Path=/dashboard; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let cookie = HeaderValue::try_from(cookie).map_err(ApiError::defect)?;
    let no_store = HeaderValue::from_static("no-store");
    Ok([(header::SET_COOKIE, cookie), (header::CACHE_CONTROL, no_store)])
}

/// Lets a request read: by its header if it has one, else by its session.
pub(crate) async fn may_read(dashboard: &Dashboard, headers: &HeaderMap) -> Result<(), ApiError> {
    let is_admitted = if headers.contains_key(TOKEN_HEADER) {
        dashboard.tokens.accept(headers)
    } else if let Ok(session) = current(dashboard, headers) {
        session.holds(&dashboard.database).await?
    } else {
        false
    };
    is_admitted.then_some(()).ok_or(ApiError::Unauthorized)
}

/// Lets a request that may read change something: one with a session needs its CSRF token as well.
pub(crate) fn may_change(dashboard: &Dashboard, headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(TOKEN_HEADER) || current(dashboard, headers)?.has_csrf_token(headers) {
        Ok(())
    } else {
        Err(FOREIGN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_366_400_000);

    fn with_cookie(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let line = format!("other=1; {COOKIE}={value}; more=2");
        headers.insert(header::COOKIE, line.parse().unwrap());
        headers
    }

    #[test]
    fn a_session_holds_for_a_week_and_for_its_key_alone() {
        let (mine, other) = (key_of(b"mine"), key_of(b"other"));
        let (session, value) = Session::begin(&mine, 1, NOW);
        let headers = with_cookie(&value);
        let later = |ms| NOW.saturating_add_millis(ms);
        assert_eq!(
            Session::find(&[other, mine], &headers, later(LIFETIME_MS - 1)),
            Some(session)
        );
        assert_eq!(Session::find(&[mine], &headers, later(LIFETIME_MS)), None);
        assert_eq!(Session::find(&[other], &headers, NOW), None);
        assert_eq!(Session::find(&[], &headers, NOW), None);
    }

    #[test]
    fn a_changed_cookie_is_none() {
        let key = key_of(b"token");
        let (_, value) = Session::begin(&key, 1, NOW);
        for place in 0..value.len() {
            let mut changed = value.clone().into_bytes();
            changed[place] = if changed[place] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character of base64 has bits that say nothing, and such a text is refused as well.
            assert_eq!(
                Session::find(&[key], &with_cookie(&changed), NOW),
                None,
                "{changed}"
            );
        }
        for garbage in ["", ".", "..", "1.2.3", "1.2.3.4", "9999999999999.1.x."] {
            assert_eq!(Session::find(&[key], &with_cookie(garbage), NOW), None);
        }
    }

    #[test]
    fn only_the_own_page_and_programs_may_change_something() {
        let own = |lines: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.insert(*name, value.parse().unwrap());
            }
            is_own_page(&headers)
        };
        assert!(own(&[]));
        assert!(own(&[("sec-fetch-site", "same-origin")]));
        assert!(own(&[("origin", "http://localhost:1"), ("host", "localhost:1")]));
        for site in ["cross-site", "same-site", "", "SAME-ORIGIN"] {
            assert!(!own(&[("sec-fetch-site", site)]), "{site}");
        }
        for origin in ["null", "http://localhost:2", "http://evil.example", ""] {
            assert!(!own(&[("origin", origin), ("host", "localhost:1")]), "{origin}");
        }
    }
}
