//! Proxies of the environment, by the rules of Go's `httpproxy`.

use std::net::IpAddr;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::Uri;

use crate::uri::host_and_port;

/// A proxy to go through.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// TLS to the proxy itself.
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Which proxy for whom.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    pub http: String,
    pub https: String,
    /// Comma-separated: hosts, `.domain`, `*`, addresses, networks, each with an optional port.
    pub exceptions: String,
}

impl Proxies {
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, or the same in lower case.
    pub fn from_environment() -> Self {
        let read = |name: &str| {
            let value = std::env::var(name).or_else(|_| std::env::var(name.to_lowercase()));
            value.unwrap_or_default()
        };
        Self {
            http: read("HTTP_PROXY"),
            https: read("HTTPS_PROXY"),
            exceptions: read("NO_PROXY"),
        }
    }

    /// The proxy for an address.
    ///
    /// # Errors
    /// A proxy that is not an address, or of a kind that is not spoken.
    pub fn for_uri(&self, uri: &Uri) -> Result<Option<Proxy>, String> {
        let text = match uri.scheme_str() {
            Some("https") => &self.https,
            _ => &self.http,
        };
        let (host, port) = host_and_port(uri);
        if text.is_empty() || !self.applies(&host, port) {
            return Ok(None);
        }
        parse(text).map(Some)
    }

    fn applies(&self, host: &str, port: u16) -> bool {
        let address: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || address.is_some_and(|a| a.is_loopback()) {
            return false;
        }
        !self
            .exceptions
            .split([',', ' '])
            .map(str::trim)
            .filter(|rule| !rule.is_empty())
            .any(|rule| excepts(&rule.to_ascii_lowercase(), host, address, port))
    }
}

fn excepts(rule: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if rule == "*" {
        return true;
    }
    if let (Some(address), true) = (address, in_network(rule, host)) {
        let _ = address;
        return true;
    }
    let (name, wanted) = match rule.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => {
            (name, digits.parse::<u16>().ok())
        }
        _ => (rule, None),
    };
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if let Some(address) = address {
        return name.parse::<IpAddr>().is_ok_and(|other| other == address);
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    match name.strip_prefix('.') {
        Some(domain) => !domain.is_empty() && host.ends_with(&format!(".{domain}")),
        None => host == name || host.ends_with(&format!(".{name}")),
    }
}

/// Is an address (as text) in a network in CIDR notation? False for what is neither.
pub fn in_network(network: &str, host: &str) -> bool {
    let Some((base, bits)) = network.split_once('/') else {
        return false;
    };
    let bits_of = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let (Ok(base), Ok(host), Ok(bits)) = (
        base.parse::<IpAddr>(),
        host.parse::<IpAddr>(),
        bits.parse::<u32>(),
    ) else {
        return false;
    };
    let ((base, width), (host, other)) = (bits_of(base), bits_of(host));
    let mask = match bits {
        0 => 0,
        bits if bits <= width => u128::MAX << (128 - bits),
        _ => return false,
    };
    width == other && base & mask == host & mask
}

fn parse(text: &str) -> Result<Proxy, String> {
    let bad = || format!("invalid proxy address {:?}", text.rsplit('@').next());
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if !matches!(scheme, "http" | "https") {
        return Err(format!("proxies of the kind {scheme} are not supported"));
    }
    let rest = rest.split('/').next().unwrap_or_default();
    let (user, authority) = match rest.rsplit_once('@') {
        Some((user, authority)) => (Some(user), authority),
        None => (None, rest),
    };
    let uri: Uri = format!("{scheme}://{authority}/")
        .parse()
        .map_err(|_| bad())?;
    let (host, port) = host_and_port(&uri);
    if host.is_empty() {
        return Err(bad());
    }
    Ok(Proxy {
        tls: scheme == "https",
        host,
        port,
        authorization: user.map(|user| {
            let pair = unescape(user);
            let pair = if pair.contains(&b':') {
                pair
            } else {
                [pair, b":".to_vec()].concat()
            };
            format!("Basic {}", BASE64_STANDARD.encode(pair))
        }),
    })
}

fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                out.push(code);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> Proxies {
        Proxies {
            http: "proxy:3128".to_owned(),
            https: "http://us%65r:p%40ss@10.0.0.1:8080/".to_owned(),
            exceptions:
                "example.com, .only-below.org,10.1.0.0/16,192.168.0.7:5000,host:81,[fd00::1]"
                    .to_owned(),
        }
    }

    #[test]
    fn who_goes_direct() {
        for (url, through) in [
            ("http://a.b/", true),
            ("http://example.com/", false),
            ("http://r.example.com:5000/", false),
            ("http://notexample.com/", true),
            ("http://only-below.org/", true),
            ("http://x.only-below.org/", false),
            ("http://10.1.2.3/", false),
            ("http://10.2.2.3/", true),
            ("http://192.168.0.7:5000/", false),
            ("http://192.168.0.7/", true),
            ("http://host:81/", false),
            ("http://host:82/", true),
            ("http://[fd00::1]/", false),
            ("http://127.0.0.1:5000/", false),
            ("http://localhost/", false),
        ] {
            let uri: Uri = url.parse().unwrap();
            assert_eq!(proxies().for_uri(&uri).unwrap().is_some(), through, "{url}");
        }
        let all = Proxies {
            exceptions: "*".to_owned(),
            ..proxies()
        };
        assert_eq!(all.for_uri(&"http://a.b/".parse().unwrap()), Ok(None));
    }

    #[test]
    fn addresses() {
        let proxy = proxies()
            .for_uri(&"https://a.b/".parse().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(
            (proxy.host.as_str(), proxy.port, proxy.tls),
            ("10.0.0.1", 8080, false)
        );
        let wanted = format!("Basic {}", BASE64_STANDARD.encode("user:p@ss"));
        assert_eq!(proxy.authorization, Some(wanted));
        assert!(parse("socks5://x").unwrap_err().contains("socks5"));
        assert!(parse("http://:80").is_err());
    }
}
