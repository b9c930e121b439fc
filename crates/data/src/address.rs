//! URLs: one spelling for each address, and the registrable domain.

use url::Url;

/// Query parameters that follow a reader and do not change the page.
const TRACKING: &[&str] = &[
    "fbclid",
    "gclid",
    "dclid",
    "msclkid",
    "yclid",
    "igshid",
    "mc_cid",
    "mc_eid",
    "sessionid",
    "phpsessid",
    "jsessionid",
    "sid",
    "ref_src",
    "_ga",
    "_gl",
    "spm",
    "wt_mc",
    "xtor",
];

/// One spelling for all spellings of an address: no scheme, `www.`, default port, fragment, tracking parameter, trailing
/// slash or `index.html`; lower-case host; parameters in order. `None` if it is no web address.
pub fn normalize(address: &str) -> Option<String> {
    let url = Url::parse(address.trim()).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let host = url.host_str()?.trim_end_matches('.');
    let host = host.strip_prefix("www.").unwrap_or(host);
    let mut out = host.to_string();
    if let Some(port) = url.port() {
        out.push_str(&format!(":{port}"));
    }
    let path = url.path();
    let path =
        ["index.html", "index.htm", "index.php"].iter().find_map(|i| path.strip_suffix(i)).unwrap_or(path);
    let path = path.split_once(";jsessionid=").map_or(path, |(before, _)| before);
    out.push_str(path.trim_end_matches('/'));
    let mut pairs: Vec<(String, String)> = url
        .query_pairs()
        .map(|(k, v)| (k.into_owned(), v.into_owned()))
        .filter(|(key, _)| !is_tracking(key))
        .collect();
    pairs.sort();
    for (n, (key, value)) in pairs.iter().enumerate() {
        out.push(if n == 0 { '?' } else { '&' });
        let pair = url::form_urlencoded::Serializer::new(String::new()).append_pair(key, value).finish();
        out.push_str(&pair);
    }
    Some(out)
}

fn is_tracking(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.starts_with("utm_") || TRACKING.contains(&key.as_str())
}

/// The domain that somebody registered: `news.bbc.co.uk` gives `bbc.co.uk` (Public Suffix List). Hosts without one, such
/// as IP addresses, stand for themselves.
pub fn registrable_domain(address: &str) -> Option<String> {
    let url = Url::parse(address.trim()).ok()?;
    let host = url.host_str()?.trim_end_matches('.').to_ascii_lowercase();
    if url.domain().is_none() {
        return Some(host);
    }
    Some(psl::domain_str(&host).unwrap_or(&host).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_are_one() {
        let one = normalize("https://www.Example.org/a/b/").unwrap();
        for other in [
            "http://example.org/a/b",
            "https://example.org:443/a/b#part",
            "https://example.org/a/./c/../b?utm_source=x&utm_medium=y",
            "https://EXAMPLE.org./a/b/index.html",
            "https://example.org/a/b;jsessionid=1A2B",
        ] {
            assert_eq!(normalize(other).unwrap(), one, "{other}");
        }
        assert_eq!(normalize("http://a.example/?b=2&a=1"), normalize("https://a.example/?a=1&b=2"));
        assert_ne!(normalize("http://a.example/?id=1"), normalize("http://a.example/?id=2"));
        assert_ne!(normalize("http://a.example/x"), normalize("http://a.example:8080/x"));
        assert_eq!(normalize("mailto:a@example.org"), None);
        assert_eq!(normalize("not an address"), None);
    }

    #[test]
    fn the_registrable_domain_follows_the_public_suffix_list() {
        assert_eq!(registrable_domain("https://news.bbc.co.uk/x").as_deref(), Some("bbc.co.uk"));
        assert_eq!(registrable_domain("http://a.b.github.io").as_deref(), Some("b.github.io"));
        assert_eq!(registrable_domain("http://192.0.2.7/").as_deref(), Some("192.0.2.7"));
    }
}
