//! Who asks: the peer, or whom a trusted proxy says it speaks for.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address.
///
/// `X-Forwarded-For` counts only from a peer in `trusted`. It is read from the right, where the nearest proxy wrote:
/// trusted addresses are passed over, and the first other one is the client. What is no address ends the reading, so that
/// nothing to the left of it, which anyone may have written, is believed.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let mut nearest = peer.to_canonical();
    if !is_trusted(nearest) {
        return nearest;
    }
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    for entry in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(address) = parse(entry) else { break };
        nearest = address;
        if !is_trusted(address) {
            break;
        }
    }
    nearest
}

/// An address, perhaps in brackets, perhaps with a port.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_ascii();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = bare
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// The client's address behind a peer of 10.0.0.1, where `10.0.0.0/8` and `fd00::/8` are trusted.
    fn behind_proxy(lines: &[&str]) -> String {
        of("10.0.0.1", lines)
    }

    fn of(peer: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_a_trusted_peer_speaks_for_others() {
        assert_eq!(of("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(of("::ffff:203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(of("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(behind_proxy(&[]), "10.0.0.1");
    }

    #[test]
    fn is_read_from_the_right_over_trusted_addresses_and_repeated_headers() {
        assert_eq!(behind_proxy(&["1.1.1.1, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            behind_proxy(&["1.1.1.1, 198.51.100.1, 10.2.3.4 ,fd00::1"]),
            "198.51.100.1"
        );
        assert_eq!(
            behind_proxy(&["1.1.1.1", "198.51.100.1, 10.2.3.4"]),
            "198.51.100.1"
        );
        assert_eq!(behind_proxy(&["198.51.100.1", "10.2.3.4"]), "198.51.100.1");
    }

    #[test]
    fn if_all_are_trusted_the_leftmost_is_the_client() {
        assert_eq!(behind_proxy(&["10.9.9.9, 10.2.3.4"]), "10.9.9.9");
    }

    #[test]
    fn what_is_no_address_stops_the_reading() {
        assert_eq!(behind_proxy(&["198.51.100.1, unknown, 10.2.3.4"]), "10.2.3.4");
        assert_eq!(behind_proxy(&["198.51.100.1, garbage"]), "10.0.0.1");
        assert_eq!(behind_proxy(&["198.51.100.1,"]), "10.0.0.1");
        assert_eq!(behind_proxy(&[""]), "10.0.0.1");
        assert_eq!(behind_proxy(&["198.51.100.1, \u{fc}, 10.2.3.4"]), "10.2.3.4");
        let thousand = vec!["10.1.1.1"; 1_000].join(",");
        assert_eq!(
            behind_proxy(&[&format!("198.51.100.1,{thousand}")]),
            "198.51.100.1"
        );
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_unwrapped() {
        for (entry, address) in [
            ("198.51.100.1:4711", "198.51.100.1"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("::ffff:198.51.100.1", "198.51.100.1"),
            ("[::ffff:198.51.100.1]:1", "198.51.100.1"),
        ] {
            assert_eq!(behind_proxy(&[entry]), address, "{entry}");
        }
        for garbage in [
            "198.51.100.1:99999",
            "[198.51.100.1",
            "2001:db8::7]:1",
            "256.1.1.1",
            "1.2.3",
        ] {
            assert_eq!(behind_proxy(&[garbage]), "10.0.0.1", "{garbage}");
        }
    }
}
