//! `GET /images/search`

use longshore_model::{Error, Result};
use serde::Serialize;

use crate::{filters, query::parse_int, request::Request, response::Response};

const LIMIT: i64 = 25;

#[derive(Serialize)]
struct Found {
    star_count: i64,
    is_official: bool,
    name: String,
    is_automated: bool,
    description: String,
}

/// Host of the index (`None`: Docker Hub), and what to look for there.
fn place(term: &str) -> Result<(Option<&str>, &str)> {
    if term.contains("://") {
        return Err(Error::invalid(format!(
            "invalid repository name: repository name ({term}) should not have a scheme"
        )));
    }
    Ok(match term.split_once('/') {
        Some(("docker.io" | "index.docker.io", rest)) => (None, rest),
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
            (Some(host), rest)
        }
        _ => (None, term),
    })
}

/// `GET /images/search`
pub(crate) async fn search(request: Request) -> Result<Response> {
    let filters = filters::read(&request, &["is-automated", "is-official", "stars"])?;
    let automated = filters::boolean(&filters, "is-automated")?;
    let official = filters::boolean(&filters, "is-official")?;
    let mut stars = 0;
    for text in filters.get("stars").into_iter().flatten() {
        let wanted = text
            .parse::<i64>()
            .map_err(|_| Error::invalid(format!("invalid filter 'stars=[{text}]'")))?;
        stars = stars.max(wanted);
    }
    let limit = match request.query.get("limit") {
        "" | "0" => LIMIT,
        text => parse_int(text)?,
    };
    let asked = u32::try_from(limit).ok().filter(|n| (1..=100).contains(n));
    let asked = asked
        .ok_or_else(|| Error::invalid(format!("limit {limit} is outside the range of [1, 100]")))?;
    let (host, term) = place(request.query.get("term"))?;
    let found = request.engine.search_images(host, term, asked).await?;
    let found: Vec<Found> = found
        .into_iter()
        .filter(|one| automated.is_none_or(|want| want == one.is_automated))
        .filter(|one| official.is_none_or(|want| want == one.is_official))
        .filter(|one| one.star_count >= stars)
        .map(|one| Found {
            star_count: one.star_count,
            is_official: one.is_official,
            name: one.name,
            is_automated: one.is_automated,
            description: one.description,
        })
        .collect();
    Ok(Response::ok(&found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (term, want) in [
            ("busybox", (None, "busybox")),
            ("a/b", (None, "a/b")),
            ("docker.io/a/b", (None, "a/b")),
            ("127.0.0.1:5000/x", (Some("127.0.0.1:5000"), "x")),
            ("localhost/x", (Some("localhost"), "x")),
        ] {
            assert_eq!(place(term).unwrap(), want);
        }
        assert!(place("https://x/y").is_err());
    }
}
