//! What a user agent gives away about who fetched the pixel.

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

#[cfg(test)]
mod tests {
    use super::*;

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
