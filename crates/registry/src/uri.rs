//! Addresses: enough of RFC 3986 to follow a `Location`, and to write queries.

use std::fmt::Write as _;

use hyper::Uri;

/// Where `location` leads from `base`.
pub fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?.as_str();
    let text = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let folder = base
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let joined: Uri = text.parse().ok()?;
    joined
        .host()
        .is_some_and(|h| !h.is_empty())
        .then_some(joined)
}

/// Host without brackets, and port (the scheme's when none is given).
pub fn host_and_port(uri: &Uri) -> (String, u16) {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let default = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    (host.to_ascii_lowercase(), uri.port_u16().unwrap_or(default))
}

/// Do both lead to the same server, in the same manner? Only then credentials go along.
pub fn same_server(a: &Uri, b: &Uri) -> bool {
    a.scheme_str() == b.scheme_str() && host_and_port(a) == host_and_port(b)
}

/// A value for a query.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// `url` with one more parameter.
pub fn with_query(url: &str, name: &str, value: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{name}={}", escape(value))
}

/// An address without what nobody should read: user, password, and the signed query of a storage service.
pub fn shown(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |a| a.as_str());
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let query = match uri.query() {
        Some(query) if !query.to_ascii_lowercase().contains("sig") => format!("?{query}"),
        Some(_) => "?...".to_owned(),
        None => String::new(),
    };
    format!(
        "{}://{authority}{}{query}",
        uri.scheme_str().unwrap_or("http"),
        uri.path()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/uploads/?x=1"
            .parse()
            .unwrap();
        for (location, want) in [
            ("/v2/b?c=d", Some("https://r.example:5000/v2/b?c=d")),
            ("http://cdn/x#y", Some("http://cdn/x")),
            ("//cdn:1/x", Some("https://cdn:1/x")),
            (
                "u-1?s=2",
                Some("https://r.example:5000/v2/a/blobs/uploads/u-1?s=2"),
            ),
            (
                "?s=2",
                Some("https://r.example:5000/v2/a/blobs/uploads/?s=2"),
            ),
            ("http://", None),
            ("http://a b/", None),
        ] {
            let joined = join(&base, location).map(|uri| uri.to_string());
            assert_eq!(joined.as_deref(), want, "{location}");
        }
    }

    #[test]
    fn servers() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert!(same_server(&uri("https://A/x"), &uri("https://a:443/y")));
        assert!(!same_server(&uri("https://a/x"), &uri("http://a/x")));
        assert!(!same_server(&uri("https://a/x"), &uri("https://a:444/x")));
        assert_eq!(
            host_and_port(&uri("http://[::1]:5/")),
            ("::1".to_owned(), 5)
        );
        assert_eq!(
            with_query("/x?a=1", "b", "c d/é"),
            "/x?a=1&b=c%20d%2F%C3%A9"
        );
        assert_eq!(
            shown(&uri("https://u:p@h/x?X-Amz-Signature=secret")),
            "https://h/x?..."
        );
    }
}
