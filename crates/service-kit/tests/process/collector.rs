//! The receiving end of OTLP over gRPC: as much of a collector as shows what arrives.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use http_body_util::{BodyExt, StreamBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::child::PATIENCE;

/// Path and body of a call.
type Call = (String, String);

pub(crate) struct Collector {
    address: SocketAddr,
    calls: Receiver<Call>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, calls) = channel();
        thread::spawn(move || serve(listener, &sender));
        Self { address, calls }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn received(&self) -> Call {
        self.calls.recv_timeout(PATIENCE).expect("a call")
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(listener: TcpListener, calls: &Sender<Call>) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let calls = calls.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, calls.clone()));
            let served = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(served); // The service's process is gone.
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    calls: Sender<Call>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let _test_is_over = calls.send((path, String::from_utf8_lossy(&body).into_owned()));
    // An empty message, uncompressed, and the status that gRPC sends after it.
    let message = Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0]));
    let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    let frames = [message, Frame::trailers(status)].map(Ok);
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
