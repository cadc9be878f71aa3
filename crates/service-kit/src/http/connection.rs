//! One connection, from its first byte to its end.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{HeaderValue, header::CONNECTION},
    response::Response,
};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, PollSemaphore};
use tower::ServiceExt;

use super::{CONNECTIONS, Limits};

/// A head up to this many bytes fits into the buffer that hyper begins with.
const SMALL_HEAD: usize = 8 << 10;
/// How many connections of a listener may have read a larger one. hyper's buffer of a connection grows and never shrinks:
/// without this bound, all connections together could be made to hold gigabytes.
const LARGE_HEADS: usize = 64;

/// What all connections of a listener share.
pub(super) struct Server {
    router: Router,
    limits: Limits,
    stop: CancellationToken,
    large_heads: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(router: Router, limits: Limits, stop: CancellationToken) -> Self {
        Self {
            router,
            limits,
            stop,
            large_heads: Arc::new(Semaphore::new(LARGE_HEADS)),
        }
    }

    pub(super) async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        _permit: OwnedSemaphorePermit,
    ) {
        let _open = OpenConnection::count();
        // Until a connection says something, it costs a small fraction of what hyper takes.
        let mut first = [0];
        let said = timeout(self.limits.head_time, stream.peek(&mut first));
        if let Some(Ok(Ok(1))) = self.stop.run_until_cancelled(said).await {
            Box::pin(self.answer(stream, peer)).await;
        }
    }

    async fn answer(&self, stream: TcpStream, peer: SocketAddr) {
        // Answers are one small packet each; waiting to fill it up only delays them.
        let _without = stream.set_nodelay(true);
        let head = Arc::new(Head::default());
        let bounded = BoundedStream {
            stream,
            head: Arc::clone(&head),
            large_heads: PollSemaphore::new(Arc::clone(&self.large_heads)),
            permit: None,
        };
        let service = service_fn(move |request| {
            head.ends();
            let answer = self.router.clone().oneshot(with_peer(request, peer));
            let head = Arc::clone(&head);
            async move {
                let mut response = answer.await.unwrap_or_else(|never| match never {});
                head.close_if_large(&mut response);
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_time)
            .max_headers(self.limits.header_lines)
            .max_buf_size(self.limits.head_bytes)
            .max_header_size(self.limits.head_bytes)
            // A client that has said all it has to say still gets its answer.
            .half_close(true);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(bounded), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

fn with_peer(mut request: Request<Incoming>, peer: SocketAddr) -> Request<axum::body::Body> {
    request.extensions_mut().insert(ConnectInfo(peer));
    request.map(axum::body::Body::new)
}

/// The head that is being read.
#[derive(Default)]
struct Head {
    bytes: AtomicUsize,
    was_large: AtomicBool,
}

impl Head {
    /// It is complete; what is read from here on is a body, or the next one.
    fn ends(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Gives the large buffer back by the end of the connection.
    fn close_if_large(&self, response: &mut Response) {
        if self.was_large.load(Ordering::Relaxed) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
    }
}

/// A stream that waits for its turn before it reads more than a small head.
struct BoundedStream {
    stream: TcpStream,
    head: Arc<Head>,
    large_heads: PollSemaphore,
    permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.permit.is_none() && this.head.bytes.load(Ordering::Relaxed) >= SMALL_HEAD {
            this.permit = ready!(this.large_heads.poll_acquire(context));
            this.head.was_large.store(true, Ordering::Relaxed);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        this.head.bytes.fetch_add(read, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Counts a connection as open as long as it lives.
struct OpenConnection;

impl OpenConnection {
    fn count() -> Self {
        CONNECTIONS.open.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        CONNECTIONS.open.fetch_sub(1, Ordering::Relaxed);
    }
}
