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
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderValue, header::CONNECTION},
};
use futures::{StreamExt, stream::FuturesUnordered};
use hyper::{
    body::{Body as _, Bytes, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, PollSemaphore};

use super::{Answer, CONNECTIONS, Limits, door::Accepted};

/// A head up to this many bytes fits into the buffer that hyper begins with.
const SMALL_HEAD: usize = 8 << 10;
/// How many connections of a listener may have read a larger one. hyper's buffer of a connection grows and never shrinks:
/// without this bound, all connections together could be made to hold gigabytes.
const LARGE_HEADS: usize = 64;

/// Up to how many bytes a body surely fits into what the system keeps of a connection.
const SMALL_BODY: u64 = 16 << 10;

/// How often a head is looked at, within the time that it may take.
const LOOKS: u32 = 4;

/// How long a connection that came after the stop may say nothing.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What all connections of a listener share.
pub(super) struct Server<A> {
    answers: A,
    limits: Limits,
    /// From here on each answer is the last one of its connection.
    stop: CancellationToken,
    /// From here on a connection without a request is closed.
    hang_up: CancellationToken,
    large_heads: Arc<Semaphore>,
}

impl<A: Answer> Server<A> {
    pub(super) fn new(
        answers: A,
        limits: Limits,
        stop: CancellationToken,
        hang_up: CancellationToken,
    ) -> Self {
        Self {
            answers,
            limits,
            stop,
            hang_up,
            large_heads: Arc::new(Semaphore::new(LARGE_HEADS)),
        }
    }

    pub(super) async fn serve(self: Arc<Self>, accepted: Accepted) {
        let Accepted { stream, peer, permit } = accepted;
        let _open = OpenConnection::count(permit);
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                CONNECTIONS.not_accepted();
                tracing::warn!(%error, "a connection could not be served");
                return;
            }
        };
        // Until a connection says something, it costs a small fraction of what hyper takes.
        let mut first = [0];
        let said = if self.stop.is_cancelled() {
            // Who came so late came to ask.
            timeout(LAST_WORDS, stream.peek(&mut first)).await
        } else {
            tokio::select! {
                biased;
                said = timeout(self.limits.head_time, stream.peek(&mut first)) => said,
                () = self.hang_up.cancelled() => return,
            }
        };
        if let Ok(Ok(1)) = said {
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
        let head = &head;
        let service = service_fn(|request: hyper::Request<Incoming>| {
            head.is_read();
            let answer = self.answers.answer(peer, request.map(body));
            async move {
                let mut response = answer.await;
                if head.was_large() || self.stop.is_cancelled() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                if is_sent_at_once(response.body()) {
                    head.is_answered();
                } else {
                    let head = Arc::clone(head);
                    response = response.map(|body| Body::new(LongBody { body, head }));
                }
                Ok::<_, Infallible>(response)
            }
        });
        // For up to 100 header lines, of which hyper's own bound is made, it keeps them on the stack. A bound that is set, even
        // to that number, costs two allocations of that size, and their filling, for each request.
        let mut builder = http1::Builder::new();
        builder
            // hyper would make a timer for each request.
            .header_read_timeout(None)
            .max_buf_size(self.limits.head_bytes)
            .max_header_size(self.limits.head_bytes)
            // A client that has said all it has to say still gets its answer.
            .half_close(true);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(bounded), service));
        // Asked only when something has happened to them: to ask a token takes a lock, which all connections share.
        let mut seldom = FuturesUnordered::from_iter([self.next_event(head, false)]);
        let ended = loop {
            tokio::select! {
                biased; // What has come is read before anybody hangs up.
                ended = connection.as_mut() => break ended,
                Some(event) = seldom.next() => match event {
                    Seldom::HangUp => {
                        // hyper would also close one whose next head has come in part. That one gets an answer, which ends it.
                        if head.is_empty() {
                            connection.as_mut().graceful_shutdown();
                        }
                        seldom.push(self.next_event(head, true));
                    }
                    Seldom::Overdue => {
                        tracing::debug!("a connection was silent for too long");
                        return;
                    }
                },
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    async fn next_event(&self, head: &Head, is_hung_up: bool) -> Seldom {
        tokio::select! {
            () = self.hang_up.cancelled(), if !is_hung_up => Seldom::HangUp,
            () = head.is_overdue(self.limits.head_time) => Seldom::Overdue,
        }
    }
}

/// What may befall a connection from elsewhere.
enum Seldom {
    /// The server ends.
    HangUp,
    /// The client took too long for a head.
    Overdue,
}

/// Most requests have none, and an empty one is not allocated.
fn body(incoming: Incoming) -> Body {
    if incoming.is_end_stream() {
        Body::empty()
    } else {
        Body::new(incoming)
    }
}

/// Whether the system takes all of an answer from us at once, however slowly the client reads.
fn is_sent_at_once(body: &Body) -> bool {
    body.size_hint().exact().is_some_and(|bytes| bytes <= SMALL_BODY)
}

/// The body of an answer that may take a while: its head is not answered before it is dropped.
struct LongBody {
    body: Body,
    head: Arc<Head>,
}

impl hyper::body::Body for LongBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LongBody {
    fn drop(&mut self) {
        self.head.is_answered();
    }
}

/// The head that is being read.
#[derive(Default)]
struct Head {
    bytes: AtomicUsize,
    was_large: AtomicBool,
    /// How often a head or an answer has ended: even while a head is awaited or read.
    turns: AtomicUsize,
}

impl Head {
    /// What is read from here on is a body.
    fn is_read(&self) {
        self.next_turn();
    }

    /// What is read from here on is the next head.
    fn is_answered(&self) {
        self.next_turn();
    }

    fn next_turn(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns once a head has taken `limit`, or up to a quarter longer: a look from time to time costs less than a timer for
    /// each head.
    async fn is_overdue(&self, limit: Duration) {
        let (mut seen, mut looks) = (None, 0);
        while looks < LOOKS {
            let turns = self.turns.load(Ordering::Relaxed);
            let is_the_same_head = turns.is_multiple_of(2) && seen == Some(turns);
            looks = if is_the_same_head { looks + 1 } else { 0 };
            seen = Some(turns);
            if looks < LOOKS {
                sleep(limit / LOOKS).await;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == 0
    }

    /// Whether the connection holds a large buffer, which it gives back by its end.
    fn was_large(&self) -> bool {
        self.was_large.load(Ordering::Relaxed)
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

/// Counts a connection as open, and holds its place, as long as it lives.
struct OpenConnection {
    _place: OwnedSemaphorePermit,
}

impl OpenConnection {
    fn count(place: OwnedSemaphorePermit) -> Self {
        CONNECTIONS.open.fetch_add(1, Ordering::Relaxed);
        Self { _place: place }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        CONNECTIONS.open.fetch_sub(1, Ordering::Relaxed);
    }
}
