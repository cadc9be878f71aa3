//! A question to one name server, for what the world is told rather than what this host's own files say.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{net::UdpSocket, time::timeout};

const PATIENCE: Duration = Duration::from_secs(2);
/// An answer by UDP may be lost.
const TRIES: usize = 2;
const A: u16 = 1;
const AAAA: u16 = 28;
const NO_SUCH_NAME: u8 = 3;

/// The addresses of `host`: by the system, or as `server` says.
pub(super) async fn addresses(server: Option<SocketAddr>, host: &str) -> anyhow::Result<Vec<IpAddr>> {
    let mut addresses = match server {
        Some(server) => {
            let mut found = ask(server, host, A).await?;
            found.extend(ask(server, host, AAAA).await?);
            found
        }
        None => timeout(PATIENCE * 3, tokio::net::lookup_host((host, 0)))
            .await
            .context("the system's resolver does not answer")?
            .context("the system's resolver finds nothing")?
            .map(|address| address.ip())
            .collect(),
    };
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

async fn ask(server: SocketAddr, host: &str, kind: u16) -> anyhow::Result<Vec<IpAddr>> {
    let id: u16 = rand::random();
    let question = question(id, host, kind).with_context(|| format!("{host} is no name of the DNS"))?;
    let any = if server.is_ipv4() {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    for _ in 0..TRIES {
        socket
            .send(&question)
            .await
            .with_context(|| format!("cannot ask {server}"))?;
        let mut buffer = [0; 4096];
        let received = timeout(PATIENCE, async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                // Whatever else arrives here is not for this question.
                if buffer.get(..2) == Some(id.to_be_bytes().as_slice()) {
                    return anyhow::Ok(length);
                }
            }
        });
        if let Ok(length) = received.await {
            let length = length.with_context(|| format!("{server} does not answer"))?;
            let answer = buffer.get(..length).unwrap_or_default();
            return read(answer, kind).with_context(|| format!("the answer of {server} cannot be read"))?;
        }
    }
    bail!("{server} has not answered within {:?}", PATIENCE * 2)
}

/// A recursive question; `None` if `host` cannot be asked for.
fn question(id: u16, host: &str, kind: u16) -> Option<Vec<u8>> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]); // recursion desired, one question
    for label in host.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]); // of the internet
    Some(bytes)
}

/// What is left of a message.
struct Cursor<'m>(&'m [u8]);

impl<'m> Cursor<'m> {
    fn take(&mut self, count: usize) -> Option<&'m [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// Names end with an empty label, or with a pointer to elsewhere.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            match self.byte()? {
                0 => return Some(()),
                0xc0.. => return self.take(1).map(drop),
                length => drop(self.take(length.into())?),
            }
        }
    }
}

/// The addresses of the wanted kind in an answer; the names they belong to are an alias's at most. `None`: it is no answer.
fn read(message: &[u8], wanted: u16) -> Option<anyhow::Result<Vec<IpAddr>>> {
    let mut cursor = Cursor(message);
    let _id = cursor.number()?;
    let [flags, code] = cursor.number()?.to_be_bytes();
    if flags & 0x80 == 0 {
        return None;
    }
    match code & 0xf {
        0 => {}
        NO_SUCH_NAME => return Some(Ok(Vec::new())),
        code => {
            return Some(Err(anyhow::anyhow!(
                "the name server answers with error code {code}"
            )));
        }
    }
    let (questions, answers) = (cursor.number()?, cursor.number()?);
    cursor.take(4)?;
    for _ in 0..questions {
        cursor.skip_name()?;
        cursor.take(4)?;
    }
    let mut addresses = Vec::new();
    for _ in 0..answers {
        cursor.skip_name()?;
        let kind = cursor.number()?;
        cursor.take(6)?; // class and lifetime
        let length = cursor.number()?;
        let data = cursor.take(length.into())?;
        match kind {
            A if wanted == A => addresses.push(<[u8; 4]>::try_from(data).ok()?.into()),
            AAAA if wanted == AAAA => addresses.push(<[u8; 16]>::try_from(data).ok()?.into()),
            _ => {}
        }
    }
    Some(Ok(addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with an alias and an address.
    fn answer() -> Vec<u8> {
        let mut bytes = question(7, "a.example", A).unwrap();
        bytes[2] = 0x81;
        bytes[7] = 2;
        bytes.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'b', 0xc0, 14]);
        bytes.extend([1, b'b', 0xc0, 14, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 7]);
        bytes
    }

    #[test]
    fn addresses_are_found_behind_aliases() {
        let found = read(&answer(), A).unwrap().unwrap();
        assert_eq!(found, ["203.0.113.7".parse::<IpAddr>().unwrap()]);
        assert!(read(&answer(), AAAA).unwrap().unwrap().is_empty());
    }

    #[test]
    fn no_cut_and_no_flipped_answer_does_more_than_fail() {
        let answer = answer();
        for end in 0..answer.len() {
            assert!(
                read(&answer[..end], A).is_none(),
                "{end} bytes are not the whole answer"
            );
        }
        for place in 0..answer.len() {
            for value in 0..=255 {
                let mut flipped = answer.clone();
                flipped[place] = value;
                drop(read(&flipped, A));
            }
        }
    }

    #[test]
    fn errors_are_told_from_a_name_that_is_not_there() {
        let with_code = |code| {
            let mut answer = answer();
            answer[3] = code;
            read(&answer, A).unwrap()
        };
        assert!(with_code(3).unwrap().is_empty());
        assert!(with_code(2).is_err());
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        for host in ["", "a..b", &"x".repeat(64)] {
            assert!(question(1, host, A).is_none(), "{host}");
        }
    }
}
