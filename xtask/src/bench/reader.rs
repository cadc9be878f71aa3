//! A reader of the dashboard's API: one connection, kept, which takes answers as fast as they come and keeps nothing of
//! them unless asked to.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{client, stack::DASHBOARD_TOKEN};

const BUFFER: usize = 256 * 1_024;

/// A connection to the dashboard.
pub(super) struct Reader {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) status: u16,
    pub(super) etag: Option<String>,
    /// Of the body, as it came.
    pub(super) bytes: u64,
    pub(super) body: Vec<u8>,
    /// Until the head was there, and until all of it was.
    pub(super) head_after: Duration,
    pub(super) took: Duration,
}

impl Reader {
    pub(super) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(BUFFER, stream),
            address,
        })
    }

    /// Asks with the dashboard's token and these headers, and throws the body away.
    pub(super) async fn get(&mut self, target: &str, headers: &[(&str, &str)]) -> anyhow::Result<Read> {
        self.ask(target, headers, false).await
    }

    /// The same, and keeps the body. Fails unless the status is 200.
    pub(super) async fn body(&mut self, target: &str) -> anyhow::Result<Vec<u8>> {
        let read = self.ask(target, &[], true).await?;
        ensure!(read.status == 200, "{target} has status {}", read.status);
        Ok(read.body)
    }

    async fn ask(&mut self, target: &str, headers: &[(&str, &str)], keep: bool) -> anyhow::Result<Read> {
        let mut all = vec![("x-tracker-token", DASHBOARD_TOKEN)];
        all.extend(headers);
        let request = client::request("GET", target, self.address, &all, b"");
        let begun = Instant::now();
        self.stream.write_all(&request).await?;
        let (status, headers) = self.head().await?;
        let head_after = begun.elapsed();
        let header = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.as_str())
        };
        let mut read = Read {
            status,
            etag: header("etag").map(str::to_owned),
            bytes: 0,
            body: Vec::new(),
            head_after,
            took: Duration::ZERO,
        };
        if status != 304 {
            match header("content-length") {
                Some(length) => self.piece(length.parse()?, &mut read, keep).await?,
                None => self.chunks(&mut read, keep).await?,
            }
        }
        read.took = begun.elapsed();
        Ok(read)
    }

    async fn head(&mut self) -> anyhow::Result<(u16, Vec<(String, String)>)> {
        let first = self.line().await?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else {
                return Ok((status.context("an answer without a status")?, headers));
            };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn chunks(&mut self, read: &mut Read, keep: bool) -> anyhow::Result<()> {
        loop {
            let size = self.line().await?;
            let size = u64::from_str_radix(size.trim(), 16).context("a chunk without a size")?;
            self.piece(size, read, keep).await?;
            ensure!(self.line().await?.is_empty(), "a chunk without an end");
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn piece(&mut self, size: u64, read: &mut Read, keep: bool) -> anyhow::Result<()> {
        let mut piece = (&mut self.stream).take(size);
        let copied = if keep {
            tokio::io::copy_buf(&mut piece, &mut read.body).await?
        } else {
            tokio::io::copy_buf(&mut piece, &mut tokio::io::sink()).await?
        };
        ensure!(copied == size, "the answer was cut off");
        read.bytes += copied;
        Ok(())
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line).await?;
        ensure!(length > 0, "the dashboard hung up");
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(line)
    }
}
