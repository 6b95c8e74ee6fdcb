//! `platform` of the image endpoints: an OCI platform as JSON.

use longshore_model::{Error, Result};
use serde::Deserialize;

use crate::request::Request;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
    variant: String,
    #[serde(rename = "os.version")]
    os_version: String,
}

/// `{"os":"linux","architecture":"arm","variant":"v7"}` as `linux/arm/v7`.
///
/// # Errors
/// dockerd's texts for what is no platform, or half of one.
pub(super) fn parse(text: &str) -> Result<String> {
    let platform: Platform = serde_json::from_str(text)
        .map_err(|error| Error::invalid(format!("failed to parse platform: {error}")))?;
    let Platform {
        os,
        architecture,
        variant,
        os_version,
    } = platform;
    match (os.is_empty(), architecture.is_empty()) {
        (true, true) if !variant.is_empty() || !os_version.is_empty() => Err(Error::invalid(
            "optional platform fields provided, but OS and Architecture are missing",
        )),
        (true, _) | (_, true) => Err(Error::invalid("both OS and Architecture must be provided")),
        _ if variant.is_empty() => Ok(format!("{os}/{architecture}")),
        _ => Ok(format!("{os}/{architecture}/{variant}")),
    }
}

/// Every `platform` of a request. Clients before `since` (API 1.x) have none.
///
/// # Errors
/// As [`parse`].
pub(super) fn all(request: &Request, since: u32) -> Result<Vec<String>> {
    if request.version.before(since) {
        return Ok(Vec::new());
    }
    let given = request
        .query
        .all("platform")
        .filter(|text| !text.is_empty());
    given.map(parse).collect()
}

/// The one `platform` of a request.
///
/// # Errors
/// As [`parse`]; more than one.
pub(super) fn one(request: &Request, since: u32) -> Result<Option<String>> {
    let mut all = all(request, since)?;
    if all.len() > 1 {
        return Err(Error::invalid(
            "multiple platform parameters are not supported",
        ));
    }
    Ok(all.pop())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        for (text, want) in [
            (r#"{"os":"linux","architecture":"amd64"}"#, "linux/amd64"),
            (
                r#"{"os":"linux","architecture":"arm","variant":"v7"}"#,
                "linux/arm/v7",
            ),
        ] {
            assert_eq!(parse(text).unwrap(), want);
        }
        for bad in [
            "",
            "linux/amd64",
            "[]",
            "{}",
            r#"{"os":"linux"}"#,
            r#"{"architecture":"amd64"}"#,
            r#"{"variant":"v7"}"#,
            r#"{"os":1}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
