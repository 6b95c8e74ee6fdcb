//! From a request to its handler: path patterns, version prefix, the errors of both.

use std::{future::Future, pin::Pin};

use hyper::{
    StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};
use longshore_model::Result;

use crate::{error, request::Request, response::Response, table, version::ApiVersion};

/// What a handler's future looks like in the table.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

/// One endpoint.
pub struct Route {
    pub method: &'static str,
    /// `/containers/{name}/json`; `{name}` is one segment, `{name:.*}` may hold slashes.
    pub pattern: &'static str,
    /// The version that brought it: `1.<since>`. For the documentation; dockerd does not check it either.
    pub since: u32,
    pub handler: fn(Request) -> HandlerFuture,
    /// False for what answers 501.
    pub built: bool,
}

/// An endpoint that works: `on!(GET "/_ping", 24, system::ping)`.
macro_rules! on {
    ($method:ident $pattern:literal, $since:literal, $($handler:tt)+) => {
        $crate::route::Route {
            method: stringify!($method),
            pattern: $pattern,
            since: $since,
            handler: |request| Box::pin($($handler)+(request)),
            built: true,
        }
    };
}

/// An endpoint that Docker has and we do not have yet: it answers 501.
macro_rules! not_yet {
    ($method:ident $pattern:literal, $since:literal) => {
        $crate::route::Route {
            method: stringify!($method),
            pattern: $pattern,
            since: $since,
            handler: |request| Box::pin($crate::route::not_implemented(request)),
            built: false,
        }
    };
}

pub(crate) use {not_yet, on};

/// The answer of [`not_yet!`] endpoints.
pub(crate) async fn not_implemented(request: Request) -> Result<Response> {
    let method = request.route.method;
    let path = request.route.pattern.replace(":.*}", "}");
    Err(longshore_model::Error::not_implemented(format!(
        "{method} {path} is not implemented by longshore yet"
    )))
}

/// What a path leads to.
pub(crate) enum Found {
    Route {
        route: &'static Route,
        args: Vec<String>,
        version: ApiVersion,
        /// The path behind the version prefix.
        path: String,
    },
    /// A route, but at a version that is not served.
    BadVersion(Response),
    /// No such path, or not with this method.
    Nothing,
}

/// Looks a decoded path up. The route comes first, the version second, as in dockerd: an unknown path is "page not found"
/// at any version.
pub(crate) fn find(method: &str, path: &str) -> Found {
    let (asked, rest) = split_version(path);
    let Some((route, args)) = table::routes().find_map(|route| {
        (route.method == method)
            .then(|| matches(route.pattern, rest))
            .flatten()
            .map(|args| (route, args))
    }) else {
        return Found::Nothing;
    };
    let version = match asked {
        None => ApiVersion::MAX,
        Some((_, version)) if (ApiVersion::MIN..=ApiVersion::MAX).contains(&version) => version,
        Some((text, version)) => return Found::BadVersion(bad_version(text, version)),
    };
    Found::Route {
        route,
        args,
        version,
        path: rest.to_owned(),
    }
}

/// `/v1.41/x` -> ((`1.41`, its value), `/x`)
fn split_version(path: &str) -> (Option<(&str, ApiVersion)>, &str) {
    let found = path.strip_prefix("/v").and_then(|rest| {
        let (text, _) = rest.split_once('/')?;
        Some((text, ApiVersion::parse(text)?, &rest[text.len()..]))
    });
    match found {
        Some((text, version, rest)) => (Some((text, version)), rest),
        None => (None, path),
    }
}

/// Matches a whole path; the result is what the wildcards stand for. `{x}` takes one segment that is not empty,
/// `{x:.*}` anything up to the literal text that follows it at the pattern's end.
fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (head, tail) = match pattern.split_once("{name:.*}") {
        Some((head, tail)) => (head, Some(tail)),
        None => (pattern, None),
    };
    let Some(tail) = tail else {
        return segments(head, path);
    };
    let name = path.strip_prefix(head)?.strip_suffix(tail)?;
    Some(vec![name.to_owned()])
}

fn segments(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut args = Vec::new();
    let (mut want, mut have) = (pattern.split('/'), path.split('/'));
    loop {
        match (want.next(), have.next()) {
            (None, None) => return Some(args),
            (Some(wild), Some(segment)) if wild.starts_with('{') => {
                if segment.is_empty() {
                    return None;
                }
                args.push(segment.to_owned());
            }
            (Some(literal), Some(segment)) if literal == segment => {}
            _ => return None,
        }
    }
}

/// The two texts for a version that is not served. What is older than 1.24 predates JSON errors and gets plain text.
fn bad_version(text: &str, version: ApiVersion) -> Response {
    if version > ApiVersion::MAX {
        let max = ApiVersion::MAX;
        let text =
            format!("client version {text} is too new. Maximum supported API version is {max}");
        return error::message(StatusCode::BAD_REQUEST, &text);
    }
    let min = ApiVersion::MIN;
    let text = format!(
        "client version {text} is too old. Minimum supported API version is {min}, please upgrade your client to a newer version\n"
    );
    Response::bytes(StatusCode::BAD_REQUEST, "", text)
        .with(CONTENT_TYPE, "text/plain; charset=utf-8")
        .with_header("x-content-type-options", "nosniff")
}

/// The path without empty, `.` and `..` segments, when it has any. A slash at its end stays.
pub(crate) fn cleaned(path: &str) -> Option<String> {
    let mut segments = path.strip_prefix('/')?.split('/').peekable();
    let mut out: Vec<&str> = Vec::new();
    while let Some(segment) = segments.next() {
        match segment {
            "" if segments.peek().is_none() => out.push(""),
            "" | "." => {}
            ".." => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    let clean = format!("/{}", out.join("/"));
    (clean != path).then_some(clean)
}

/// dockerd sends clients with an untidy path to the tidy one (an empty name, a base URL that ends in a slash).
pub(crate) fn moved(clean: &str, query: Option<&str>) -> Response {
    let mut to = String::new();
    for byte in clean.bytes() {
        match byte {
            b'/' | b':' | b'@' | b'-' | b'.' | b'_' | b'~' => to.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => to.push(char::from(byte)),
            byte => to.push_str(&format!("%{byte:02X}")),
        }
    }
    if let Some(query) = query {
        to = format!("{to}?{query}");
    }
    let mut response = Response::empty(StatusCode::MOVED_PERMANENTLY).with(LOCATION, &to);
    response.bare = true;
    response
}

/// 404 for a path that does not exist; it has none of the API's headers.
pub(crate) fn page_not_found() -> Response {
    let mut response = error::message(StatusCode::NOT_FOUND, "page not found");
    response.bare = true;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(method: &str, path: &str) -> Option<(&'static str, Vec<String>)> {
        match find(method, path) {
            Found::Route { route, args, .. } => Some((route.pattern, args)),
            _ => None,
        }
    }

    #[test]
    fn patterns() {
        for (method, path, want) in [
            ("GET", "/_ping", Some(("/_ping", vec![]))),
            ("GET", "/v1.41/_ping", Some(("/_ping", vec![]))),
            (
                "GET",
                "/containers/json",
                Some(("/containers/json", vec![])),
            ),
            (
                "GET",
                "/v1.41/containers/abc/json",
                Some(("/containers/{name:.*}/json", vec!["abc"])),
            ),
            (
                "GET",
                "/images/127.0.0.1:5000/a/b:t/json",
                Some(("/images/{name:.*}/json", vec!["127.0.0.1:5000/a/b:t"])),
            ),
            ("GET", "/images/json", Some(("/images/json", vec![]))),
            (
                "DELETE",
                "/images/a/b",
                Some(("/images/{name:.*}", vec!["a/b"])),
            ),
            ("PUT", "/containers/json", None),
            ("GET", "/nosuch", None),
            ("GET", "/", None),
            ("GET", "", None),
            (
                "DELETE",
                "/containers/parent/alias",
                Some(("/containers/{name:.*}", vec!["parent/alias"])),
            ),
            ("GET", "/vx/_ping", None),
            ("GET", "/v1.41", None),
        ] {
            let want = want.map(|(p, a): (&str, Vec<&str>)| {
                (p, a.into_iter().map(str::to_owned).collect::<Vec<_>>())
            });
            assert_eq!(pattern(method, path), want, "{method} {path}");
        }
    }

    #[test]
    fn untidy_paths() {
        for (path, want) in [
            ("/info", None),
            ("/networks/", None),
            ("/", None),
            ("//containers/json", Some("/containers/json")),
            ("/containers//start", Some("/containers/start")),
            ("/containers/../info", Some("/info")),
            ("/../..", Some("/")),
            ("/a/./b/", Some("/a/b/")),
            ("*", None),
        ] {
            assert_eq!(cleaned(path).as_deref(), want, "{path}");
        }
        let response = moved("/images/a b/json", Some("x=1"));
        assert_eq!(response.headers()["location"], "/images/a%20b/json?x=1");
    }

    #[test]
    fn versions() {
        assert!(matches!(find("GET", "/v1.99/info"), Found::BadVersion(_)));
        assert!(matches!(find("GET", "/v1.12/info"), Found::BadVersion(_)));
        assert!(matches!(find("GET", "/v1.99/nosuch"), Found::Nothing));
        for (path, want) in [
            ("/info", ApiVersion::MAX),
            ("/v1.24/info", ApiVersion::v1(24)),
            ("/v1.55/info", ApiVersion::v1(55)),
        ] {
            assert!(matches!(find("GET", path), Found::Route { version, .. } if version == want));
        }
    }
}
