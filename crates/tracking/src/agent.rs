//! What a user agent gives away about who fetched the pixel.

use std::net::IpAddr;

/// What marks the fetcher of an image proxy, in lower case: Gmail's, which readers always come through.
const PROXY_AGENTS: [&str; 3] = [GOOGLE_IMAGE_PROXY, "google image proxy", "ggpht.com"];
const GOOGLE_IMAGE_PROXY: &str = "googleimageproxy";

/// Whether this is an image proxy's user agent. A proxy's address says nothing about its reader.
#[must_use]
pub fn is_proxy(user_agent: Option<&str>) -> bool {
    user_agent.is_some_and(|agent| {
        let agent = agent.to_ascii_lowercase();
        PROXY_AGENTS.iter().any(|proxy| agent.contains(proxy))
    })
}

/// Whether the user agent names Google's image proxy by its own name.
#[must_use]
pub fn is_google_image_proxy(user_agent: Option<&str>) -> bool {
    user_agent.is_some_and(|agent| agent.to_ascii_lowercase().contains(GOOGLE_IMAGE_PROXY))
}

/// Whether Gmail's image proxy made a hit: its own name, from one of the networks that it is seen to come from.
///
/// The diagnostics look at these hits alone, since anyone can write that name into a user agent.
#[must_use]
pub fn is_google_proxy_hit(user_agent: Option<&str>, client_address: IpAddr) -> bool {
    is_google_proxy_network(client_address) && is_google_image_proxy(user_agent)
}

/// Whether Gmail's image proxy is seen to come from there.
#[must_use]
pub fn is_google_proxy_network(client_address: IpAddr) -> bool {
    match client_address.to_canonical() {
        IpAddr::V4(address) => matches!(address.octets(), [66, 249, ..] | [64, 233, ..] | [74, 125, ..]),
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_google_proxy_hit_needs_name_and_network() {
        let agent = Some("Mozilla/5.0 (via ggpht.com GoogleImageProxy)");
        let from = |address: &str| is_google_proxy_hit(agent, address.parse().unwrap());
        for address in [
            "66.249.84.1",
            "64.233.160.9",
            "74.125.0.255",
            "::ffff:66.249.84.1",
        ] {
            assert!(from(address), "{address}");
        }
        for address in ["66.248.84.1", "74.126.0.1", "203.0.113.7", "2001:4860::1"] {
            assert!(!from(address), "{address}");
        }
        assert!(!is_google_proxy_hit(
            Some("via ggpht.com"),
            [66, 249, 84, 1].into()
        ));
        assert!(!is_google_proxy_hit(None, [66, 249, 84, 1].into()));
    }

    #[test]
    fn proxies_are_known_by_name_in_any_case() {
        for agent in [
            "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
            "GOOGLEIMAGEPROXY",
            "Google Image Proxy",
            "via GGPHT.com",
        ] {
            assert!(is_proxy(Some(agent)), "{agent}");
        }
        for agent in [None, Some(""), Some("Mozilla/5.0"), Some("google imageproxy")] {
            assert!(!is_proxy(agent), "{agent:?}");
        }
        assert!(!is_google_image_proxy(Some("via ggpht.com")));
        assert!(is_google_image_proxy(Some("x GoogleImageProxy")));
    }
}
