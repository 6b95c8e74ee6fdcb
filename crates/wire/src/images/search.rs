//! `GET /images/search`

use longshore_model::{Error, Result};

use crate::{filters, request::Request, response::Response};

/// The index of Docker Hub.
const INDEX: &str = "index.docker.io";
const LIMIT: i64 = 25;

/// Host of the index, and what to look for there.
fn place(term: &str) -> Result<(String, String)> {
    if term.contains("://") {
        return Err(Error::invalid(format!(
            "invalid repository name: repository name ({term}) should not have a scheme"
        )));
    }
    let (host, rest) = match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => (INDEX, term),
    };
    let host = match host {
        "docker.io" | "index.docker.io" => INDEX,
        other => other,
    };
    Ok((host.to_owned(), rest.to_owned()))
}

/// `GET /images/search`: no registry but Docker Hub has an index that can be searched, and there is no client for that one
/// here. The answer is what dockerd says when it cannot reach it.
pub(crate) async fn search(request: Request) -> Result<Response> {
    let filters = filters::read(&request, &["is-automated", "is-official", "stars"])?;
    for name in ["is-automated", "is-official"] {
        filters::boolean(&filters, name)?;
    }
    for stars in filters.get("stars").into_iter().flatten() {
        if stars.parse::<i64>().is_err() {
            return Err(Error::invalid(format!("invalid filter 'stars=[{stars}]'")));
        }
    }
    let limit = match request.query.get("limit") {
        "" => LIMIT,
        text => crate::query::parse_int(text)?,
    };
    let limit = if limit == 0 { LIMIT } else { limit };
    if !(1..=100).contains(&limit) {
        return Err(Error::invalid(format!(
            "limit {limit} is outside the range of [1, 100]"
        )));
    }
    let term = request.query.get("term");
    if term.is_empty() {
        return Err(Error::invalid("invalid search term: it is empty"));
    }
    let (host, name) = place(term)?;
    Err(Error::system(format!(
        "Get \"https://{host}/v1/search?q={name}&n={limit}\": searching an index is not implemented by longshore"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (term, host, name) in [
            ("busybox", INDEX, "busybox"),
            ("a/b", INDEX, "a/b"),
            ("docker.io/a/b", INDEX, "a/b"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000", "x"),
            ("localhost/x", "localhost", "x"),
        ] {
            assert_eq!(place(term).unwrap(), (host.to_owned(), name.to_owned()));
        }
        assert!(place("https://x/y").is_err());
    }
}
