//! The public port: each request from its route to its answer.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ipnet::IpNet;
use prost::Message;
use recorder_api::v1;
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
}

impl App {
    /// Answers any request. Nothing is logged and no span is made: the same happens thousands of times a second.
    pub(crate) async fn answer(self: Arc<Self>, request: Request) -> Response {
        let path = request.uri().path();
        let (is_get, is_head) = (request.method() == Method::GET, request.method() == Method::HEAD);
        if let Some(rest) = path.strip_prefix("/t/") {
            match (is_get, is_head) {
                (true, _) => {
                    let client_address = self.client_of(&request);
                    self.record_hit(hit::token_in(rest), client_address, request.headers())
                        .await;
                }
                (_, true) => {}
                _ => return method_not_allowed("GET, HEAD"),
            }
            return self.gif.make();
        }
        match path {
            "/mark-suppress-next" if request.method() == Method::POST => self.mark(request).await,
            "/mark-suppress-next" => method_not_allowed("POST"),
            "/health" if is_get || is_head => json(StatusCode::OK, r#"{"status":"ok","ok":true}"#),
            "/health" => method_not_allowed("GET, HEAD"),
            _ => json(StatusCode::NOT_FOUND, r#"{"ok":false,"error":"Not found"}"#),
        }
    }

    /// Returns when the hit is in the spool, or is known not to get there, or has waited long enough: whatever happens, the
    /// GIF follows.
    async fn record_hit(
        &self,
        token: Result<Token, InvalidToken>,
        client_address: IpAddr,
        headers: &HeaderMap,
    ) {
        let token = match token {
            Ok(token) => token,
            Err(why) => return self.counts.invalid_token(why),
        };
        self.counts.hit();
        let opened_at = self.clock.now();
        let Some(event_id) = new_id(opened_at, rand::random()) else {
            return self.counts.lost(Loss::Clock);
        };
        let hit = Fact::Hit(Hit {
            event_id,
            opened_at,
            token,
            client_address,
            user_agent: hit::user_agent(headers),
            referer_host: hit::referer_host(headers),
        });
        match self.spool.append(v1::Fact::from(&hit).encode_to_vec()).await {
            Ok(()) => {}
            Err(AppendError::Failed(failure)) => self.counts.lost(Loss::Spool(failure)),
            Err(AppendError::Overdue(overdue)) => {
                // Answered now; whether it is lost is known when the disk answers.
                self.counts.overdue();
                let counts = Arc::clone(&self.counts);
                tokio::spawn(async move {
                    if let Err(failure) = overdue.outcome().await {
                        counts.lost(Loss::Spool(failure));
                    }
                    counts.no_longer_overdue();
                });
            }
        }
    }

    async fn mark(&self, request: Request) -> Response {
        let client_address = self.client_of(&request);
        let (head, body) = request.into_parts();
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
        let bytes = v1::Fact::from(&Fact::Mark(mark)).encode_to_vec();
        // One that is overdue may still get there; marking twice does no harm.
        self.spool.append(bytes).await.map_err(|_| MarkError::NotStored)?;
        Ok(answer)
    }

    fn client_of(&self, request: &Request) -> IpAddr {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip());
        client_address(peer, request.headers(), &self.trusted_proxies)
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
