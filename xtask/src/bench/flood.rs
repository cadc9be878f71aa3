//! As many hits as the pixel takes: each connection sends the next one when the last is answered.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::hits::{Answer, Hits, answer_in};

/// Sends `count` hits over `connections`; gives the time this took. Fails if one is not answered by a GIF.
pub(super) async fn flood(
    hits: &Arc<Hits>,
    to: SocketAddr,
    count: u64,
    connections: u32,
) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let sent = Arc::new(AtomicU64::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        senders.spawn(send(Arc::clone(hits), to, count, Arc::clone(&sent)));
    }
    while let Some(ended) = senders.join_next().await {
        ended?.context("a hit of the flood")?;
    }
    Ok(begun.elapsed())
}

/// Opens so many connections, has a hit answered on each, and keeps them open.
pub(super) async fn hold(
    hits: &Arc<Hits>,
    to: SocketAddr,
    connections: usize,
) -> anyhow::Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(connections);
    while held.len() < connections {
        let mut opening = JoinSet::new();
        for _ in 0..(connections - held.len()).min(64) {
            let request = hits.take(to);
            opening.spawn(async move {
                let mut stream = connect(to).await?;
                exchange(&mut stream, &request, &mut Vec::new()).await?;
                io::Result::Ok(stream)
            });
        }
        while let Some(opened) = opening.join_next().await {
            held.push(opened?.context("a connection to be held")?);
        }
    }
    Ok(held)
}

/// One hit on a connection of its own.
pub(super) async fn hit(to: SocketAddr, request: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    exchange(&mut stream, request, &mut Vec::new()).await.map(drop)
}

async fn send(hits: Arc<Hits>, to: SocketAddr, count: u64, sent: Arc<AtomicU64>) -> io::Result<()> {
    let mut stream = connect(to).await?;
    let mut buffer = Vec::with_capacity(1_024);
    while sent.fetch_add(1, Ordering::Relaxed) < count {
        let closes = exchange(&mut stream, &hits.take(to), &mut buffer).await?;
        if closes {
            stream = connect(to).await?;
        }
    }
    Ok(())
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether the server closes the connection after its answer.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> io::Result<bool> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Answer::Whole { closes } = answer_in(buffer)? {
            return Ok(closes);
        }
    }
}
