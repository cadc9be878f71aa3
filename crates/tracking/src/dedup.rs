//! The dedup key: which hits of an email look like the same reader.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::agent;

/// Hits of one email with equal keys look like one reader: the same client address and user agent, or any image proxy.
///
/// A key is the first 8 bytes (big-endian) of SHA-256 over the address as 16 bytes (IPv4 as IPv4-mapped IPv6), one byte
/// that says whether there is a user agent, and the user agent's bytes. It is stored beside each hit, so it must never
/// change; the tests hold vectors of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DedupKey(i64);

impl DedupKey {
    /// The one key of all image proxies.
    pub const PROXY: Self = Self(0);

    /// The key of a hit from `client_address` with `user_agent`.
    #[must_use]
    pub fn of(client_address: IpAddr, user_agent: Option<&str>) -> Self {
        if agent::is_proxy(user_agent) {
            Self::PROXY
        } else {
            Self::of_reader(client_address, user_agent)
        }
    }

    /// The same, of a user agent that is known to be no proxy's.
    #[must_use]
    pub fn of_reader(client_address: IpAddr, user_agent: Option<&str>) -> Self {
        let address = match client_address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let digest = Sha256::new()
            .chain_update(address.octets())
            .chain_update([u8::from(user_agent.is_some())])
            .chain_update(user_agent.unwrap_or_default())
            .finalize();
        let first = digest.first_chunk::<8>().copied().unwrap_or_default();
        match i64::from_be_bytes(first) {
            0 => Self(1), // 0 is the proxies' own
            key => Self(key),
        }
    }

    /// From the number stored in the database.
    #[must_use]
    pub const fn from_i64(key: i64) -> Self {
        Self(key)
    }

    /// The number to store.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str, user_agent: Option<&str>) -> i64 {
        DedupKey::of(address.parse().unwrap(), user_agent).as_i64()
    }

    /// Computed apart from this code, for example
    /// `python3 -c 'import hashlib; print(int.from_bytes(hashlib.sha256(b"\0"*10+b"\xff\xff\xcb\x00\x71\x07"+b"\1Mozilla/5.0").digest()[:8],"big",signed=True))'`
    #[test]
    fn keys_are_fixed() {
        assert_eq!(key("203.0.113.7", Some("Mozilla/5.0")), VECTORS[0]);
        assert_eq!(key("203.0.113.7", None), VECTORS[1]);
        assert_eq!(key("203.0.113.7", Some("")), VECTORS[2]);
        assert_eq!(key("2001:db8::7", Some("Mozilla/5.0")), VECTORS[3]);
    }

    const VECTORS: [i64; 4] = [
        -4_239_222_860_622_450_703,
        -6_871_472_204_015_160_488,
        1_694_974_262_088_921_120,
        -2_376_532_807_590_495_236,
    ];

    #[test]
    fn all_proxies_share_one_key() {
        assert_eq!(
            key("66.249.84.1", Some("x GoogleImageProxy")),
            DedupKey::PROXY.as_i64()
        );
        assert_eq!(
            key("2001:db8::7", Some("via ggpht.com")),
            DedupKey::PROXY.as_i64()
        );
    }

    #[test]
    fn absent_and_empty_agents_differ_and_mapped_addresses_do_not() {
        assert_ne!(key("203.0.113.7", None), key("203.0.113.7", Some("")));
        assert_eq!(key("203.0.113.7", None), key("::ffff:203.0.113.7", None));
    }
}
