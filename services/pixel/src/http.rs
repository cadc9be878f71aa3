//! The public port: each request from its route to its answer.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ipnet::IpNet;
use prost::Message;
use recorder_api::v1;
use service_kit::http::Answer;
use tokio::runtime::Handle;
use tracking::{Clock, Fact, Hit, Mark, Token, facts::new_id};

use crate::{
    client_address::client_address,
    gif::GifResponse,
    hit::{self, InvalidToken},
    mark::{self, MarkError},
    metrics::{Loss, MarkOutcome, RequestCounts},
    spool::{AppendError, Spool},
};

/// What answers requests.
pub(crate) struct App {
    pub(crate) spool: Spool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counts: Arc<RequestCounts>,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) gif: GifResponse,
    /// Where what outlives its request goes on.
    pub(crate) background: Handle,
}

/// [`App`] as all connections share it.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<App>);

/// What to do for a request, once all that can be said at once has been taken from it.
enum Next {
    Answer(Response),
    /// A hit, as the spool takes it.
    Append(Vec<u8>),
    Mark(Request),
}

/// Nothing is logged and no span is made: the same happens thousands of times a second.
impl Answer for Shared {
    fn answer(&self, peer: SocketAddr, request: Request) -> impl Future<Output = Response> + Send {
        let Self(app) = self;
        let next = app.look_at(peer.ip(), request);
        async move {
            match next {
                Next::Answer(response) => response,
                Next::Append(fact) => {
                    app.append_hit(fact).await;
                    app.gif.make()
                }
                Next::Mark(request) => Box::pin(app.mark(peer.ip(), request)).await,
            }
        }
    }
}

impl App {
    /// Any request.
    fn look_at(&self, peer: IpAddr, request: Request) -> Next {
        let path = request.uri().path();
        let (is_get, is_head) = (request.method() == Method::GET, request.method() == Method::HEAD);
        if let Some(rest) = path.strip_prefix("/t/") {
            let hit = match (is_get, is_head) {
                (true, _) => self.hit(hit::token_in(rest), peer, request.headers()),
                (_, true) => None,
                _ => return Next::Answer(method_not_allowed("GET, HEAD")),
            };
            return hit.map_or_else(|| Next::Answer(self.gif.make()), Next::Append);
        }
        Next::Answer(match path {
            "/mark-suppress-next" if request.method() == Method::POST => return Next::Mark(request),
            "/mark-suppress-next" => method_not_allowed("POST"),
            "/health" if is_get || is_head => json(StatusCode::OK, r#"{"status":"ok","ok":true}"#),
            "/health" => method_not_allowed("GET, HEAD"),
            _ => json(StatusCode::NOT_FOUND, r#"{"ok":false,"error":"Not found"}"#),
        })
    }

    /// The hit as the spool takes it, if there is one to record.
    fn hit(&self, token: Result<Token, InvalidToken>, peer: IpAddr, headers: &HeaderMap) -> Option<Vec<u8>> {
        let token = match token {
            Ok(token) => token,
            Err(why) => {
                self.counts.invalid_token(why);
                return None;
            }
        };
        self.counts.hit();
        let opened_at = self.clock.now();
        let Some(event_id) = new_id(opened_at, rand::random()) else {
            self.counts.lost(Loss::Clock);
            return None;
        };
        let hit = Fact::Hit(Hit {
            event_id,
            opened_at,
            token,
            client_address: client_address(peer, headers, &self.trusted_proxies),
            user_agent: hit::user_agent(headers),
            referer_host: hit::referer_host(headers),
        });
        Some(v1::Fact::from(hit).encode_to_vec())
    }

    /// Returns when the hit is in the spool, or is known not to get there, or has waited long enough: whatever happens, the
    /// GIF follows.
    async fn append_hit(&self, fact: Vec<u8>) {
        match self.spool.append(fact).await {
            Ok(()) => {}
            Err(AppendError::Failed(failure)) => self.counts.lost(Loss::Spool(failure)),
            Err(AppendError::Overdue(overdue)) => {
                // Answered now; whether it is lost is known when the disk answers.
                self.counts.overdue();
                let counts = Arc::clone(&self.counts);
                // Not in the lane of this request, which ends with the last connection.
                self.background.spawn(async move {
                    if let Err(failure) = overdue.outcome().await {
                        counts.lost(Loss::Spool(failure));
                    }
                    counts.no_longer_overdue();
                });
            }
        }
    }

    async fn mark(&self, peer: IpAddr, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let client_address = client_address(peer, &head.headers, &self.trusted_proxies);
        match self.record_mark(client_address, &head.headers, body).await {
            Ok(response) => {
                self.counts.mark(MarkOutcome::Recorded);
                response
            }
            Err(error) => {
                let not_stored = error == MarkError::NotStored;
                self.counts.mark(if not_stored {
                    MarkOutcome::NotStored
                } else {
                    MarkOutcome::Refused
                });
                error.into_response()
            }
        }
    }

    async fn record_mark(
        &self,
        client_address: IpAddr,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, MarkError> {
        let email_id = mark::read_email_id(headers, body).await?;
        let marked_at = self.clock.now();
        let mark = Mark {
            mark_id: new_id(marked_at, rand::random()).ok_or(MarkError::NotStored)?,
            marked_at,
            email_id,
            client_address,
            user_agent: hit::user_agent(headers),
        };
        let answer = mark::recorded(&mark.email_id, marked_at.as_millis());
        let bytes = v1::Fact::from(Fact::Mark(mark)).encode_to_vec();
        // One that is overdue may still get there; marking twice does no harm.
        self.spool.append(bytes).await.map_err(|_| MarkError::NotStored)?;
        Ok(answer)
    }
}

fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = StatusCode::METHOD_NOT_ALLOWED.into_response();
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

fn json(status: StatusCode, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body).into_response()
}
