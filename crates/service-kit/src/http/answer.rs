//! What answers the requests of a listener.

use std::{convert::Infallible, future::Future, net::SocketAddr};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    response::Response,
};
use tower::ServiceExt;

/// Answers requests. A [`Router`] does, and so does whatever has too few routes to pay for one with each request.
pub trait Answer: Clone + Send + Sync + 'static {
    /// Answers one request of `peer`. The future is moved about, so whatever is large is best dropped before it is made.
    fn answer(&self, peer: SocketAddr, request: Request) -> impl Future<Output = Response> + Send;

    /// The same as a router, for a socket that several services share.
    fn into_router(self) -> Router {
        Router::new().fallback(
            move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request| {
                let answers = self.clone();
                async move { answers.answer(peer, request).await }
            },
        )
    }
}

/// Handlers find the peer's address as axum's `ConnectInfo<SocketAddr>`.
impl Answer for Router {
    async fn answer(&self, peer: SocketAddr, mut request: Request) -> Response {
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = self.clone().oneshot(request).await;
        answer.unwrap_or_else(|never: Infallible| match never {})
    }

    fn into_router(self) -> Router {
        self
    }
}
