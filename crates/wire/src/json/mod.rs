//! JSON as Go reads and writes it: keys in any case, null for zero, dockerd's error texts; sorted maps and escaped HTML
//! characters on the way out.

mod de;
mod parse;
mod ser;

use longshore_model::{Error, Result};
use serde::de::DeserializeOwned;

pub use parse::Value;
pub use ser::{to_line, to_vec};

use crate::request::{JSON_LIMIT, Request};

/// The request's JSON body. No body at all gives the default: every field is optional to Go's decoder too.
///
/// `root` is the name of the Go type, which error texts show (`""` for create's wrapper).
///
/// # Errors
/// Content type, syntax and type errors as dockerd words them; too large a body.
pub async fn read<T: DeserializeOwned>(request: &mut Request, root: &str) -> Result<T> {
    check_content_type(request)?;
    if request.body.is_empty() {
        return decode(parse::Value::Null, root);
    }
    let body = request.body.collect(JSON_LIMIT).await?;
    from_slice(&body, root).map_err(|error| match error.message.as_str() {
        "invalid JSON: EOF" => Error::invalid("invalid JSON: got EOF while reading request body"),
        _ => error,
    })
}

/// As [`read`], but a body must be there: container create says `invalid JSON: EOF` without one.
///
/// # Errors
/// As [`read`].
pub async fn read_required<T: DeserializeOwned>(request: &mut Request, root: &str) -> Result<T> {
    from_slice(&read_bytes(request).await?, root)
}

/// The body behind [`read_required`], for a handler that keeps the accepted text.
///
/// # Errors
/// Wrong content type, too large a body.
pub async fn read_bytes(request: &mut Request) -> Result<bytes::Bytes> {
    check_content_type(request)?;
    request.body.collect(JSON_LIMIT).await
}

/// Decodes one JSON value that fills `bytes`.
///
/// # Errors
/// `invalid JSON: ...`, `unexpected content after JSON`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], root: &str) -> Result<T> {
    decode(parse_body(bytes)?, root)
}

/// The body as a tree.
///
/// # Errors
/// As [`from_slice`].
pub fn parse_body(bytes: &[u8]) -> Result<Value> {
    let (value, rest) =
        parse::first(bytes).map_err(|e| Error::invalid(format!("invalid JSON: {e}")))?;
    // Go's Decoder.More takes a stray closing bracket for the end of something.
    match rest.iter().find(|b| !b.is_ascii_whitespace()) {
        None | Some(b'}' | b']') => Ok(value),
        Some(_) => Err(Error::invalid("unexpected content after JSON")),
    }
}

/// A tree as a type.
///
/// # Errors
/// `invalid JSON: json: cannot unmarshal ...`
pub fn decode<T: DeserializeOwned>(value: Value, root: &str) -> Result<T> {
    de::from_value(value, root).map_err(|e| Error::invalid(format!("invalid JSON: {e}")))
}

/// Plain decoding of text that is not a request body (`X-Registry-Auth`, filters); the error is Go's.
///
/// # Errors
/// Go's text, without `invalid JSON`.
pub fn from_text<T: DeserializeOwned>(text: &[u8]) -> std::result::Result<T, String> {
    let (value, rest) = parse::first(text).map_err(|e| e.to_string())?;
    if let Some(byte) = rest.iter().find(|b| !b.is_ascii_whitespace()) {
        return Err(parse::bad_character(*byte, "after top-level value"));
    }
    de::from_value(value, "").map_err(|e| e.to_string())
}

/// JSON must be called JSON. No content type is fine as long as there is no body.
fn check_content_type(request: &Request) -> Result<()> {
    let given = request.header("content-type");
    if given.is_empty() && request.body.is_empty() {
        return Ok(());
    }
    media_type(given)
}

fn media_type(given: &str) -> Result<()> {
    let kind = given.split(';').next().unwrap_or_default().trim();
    if kind.is_empty() {
        return Err(Error::invalid(format!(
            "malformed Content-Type header ({given}): mime: no media type"
        )));
    }
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "unsupported Content-Type header ({given}): must be 'application/json'"
    )))
}

#[cfg(test)]
mod tests;
