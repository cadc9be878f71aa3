//! The proxy that fails on demand.
#![allow(clippy::expect_used, reason = "test helpers")]

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use test_support::{Direction, FaultProxy, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Answers what it is sent, and "end" once the sender has ended its side.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                    let _ = to.write_all(b"end").await;
                }
            });
        }
    });
    address
}

async fn exchange(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer).expect("an echo"))
}

#[tokio::test]
async fn all_goes_through_to_the_very_end() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
    assert_eq!(exchange(&mut stream, "hello").await.expect("echoed"), "hello");
    assert_eq!(proxy.connections(), 1);

    let long = vec![7; 3_000_000];
    let (mut from, mut to) = stream.split();
    let sent = async {
        to.write_all(&long).await.expect("sent");
        to.shutdown().await.expect("ended");
    };
    let mut answer = Vec::new();
    let (read, ()) = tokio::join!(from.read_to_end(&mut answer), sent);
    assert_eq!(read.expect("read"), long.len() + 3);
    assert!(answer.ends_with(b"end"));
    eventually("the connection is over", async || {
        (proxy.connections() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cut_resets_what_there_is_and_nothing_else() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
    exchange(&mut stream, "hello").await.expect("echoed");
    proxy.cut();
    let error = stream.read(&mut [0; 8]).await.expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let mut next = TcpStream::connect(proxy.address()).await.expect("connected");
    assert_eq!(exchange(&mut next, "again").await.expect("echoed"), "again");
}

#[tokio::test]
async fn refused_until_accepted_while_others_go_on() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut early = TcpStream::connect(proxy.address()).await.expect("connected");
    exchange(&mut early, "hello").await.expect("echoed");
    proxy.refuse().await;
    let refused = TcpStream::connect(proxy.address())
        .await
        .expect_err("nothing listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(
        exchange(&mut early, "still here").await.expect("echoed"),
        "still here"
    );

    proxy.accept().await;
    let mut late = TcpStream::connect(proxy.address()).await.expect("connected");
    assert_eq!(exchange(&mut late, "hello").await.expect("echoed"), "hello");
}

#[tokio::test]
async fn a_stalled_direction_holds_back_and_the_other_does_not() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = FaultProxy::start(server.local_addr().expect("bound")).await;
    let mut client = TcpStream::connect(proxy.address()).await.expect("connected");
    let (mut peer, _) = server.accept().await.expect("connected through");

    proxy.stall(Direction::ToClient);
    peer.write_all(b"answer").await.expect("sent");
    client.write_all(b"request").await.expect("sent");
    let mut request = [0; 7];
    peer.read_exact(&mut request).await.expect("this direction flows");
    let nothing = client.try_read(&mut [0; 8]).expect_err("held back");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);

    proxy.resume(Direction::ToClient);
    let mut answer = [0; 6];
    client.read_exact(&mut answer).await.expect("let go");
    assert_eq!(&answer, b"answer");
}

#[tokio::test]
async fn half_closed_one_way_open_the_other() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
    exchange(&mut stream, "hello").await.expect("echoed");
    proxy.half_close(Direction::ToServer);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("an orderly end");
    assert_eq!(rest, "end");
}

#[tokio::test]
async fn a_delay_is_only_that() {
    let proxy = FaultProxy::start(echo().await).await;
    proxy.delay(Direction::ToServer, Duration::from_millis(30));
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
    let started = std::time::Instant::now();
    assert_eq!(exchange(&mut stream, "hello").await.expect("echoed"), "hello");
    assert!(started.elapsed() >= Duration::from_millis(30));
}
