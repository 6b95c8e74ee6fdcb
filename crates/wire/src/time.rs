//! Times in query parameters.

use longshore_model::{Error, Result};

use crate::query::parse_int;

/// Seconds since the epoch with an optional fraction (`1795466581.5`, `1795466581.000000042`) in nanoseconds. None for empty
/// text. The docker CLI turns dates and durations into this form before it asks.
///
/// # Errors
/// Go's text for a bad number.
pub fn parse(text: &str) -> Result<Option<i64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = parse_int(seconds)?;
    let nanos = match fraction {
        "" => 0,
        digits => {
            let value = parse_int(digits)?;
            match u32::try_from(digits.len()) {
                Ok(n @ ..=9) => value * 10i64.pow(9 - n),
                Ok(n @ 10..=18) => value / 10i64.pow(n - 9),
                _ => 0,
            }
        }
    };
    seconds
        .checked_mul(1_000_000_000)
        .and_then(|whole| whole.checked_add(nanos))
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("time {text:?} is out of range")))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn fractions() {
        for (text, want) in [
            ("", Ok(None)),
            ("0", Ok(Some(0))),
            ("5", Ok(Some(5_000_000_000))),
            ("5.5", Ok(Some(5_500_000_000))),
            ("5.000000042", Ok(Some(5_000_000_042))),
            ("5.0000000421", Ok(Some(5_000_000_042))),
            ("x", Err("strconv.ParseInt: parsing \"x\": invalid syntax")),
            (
                "5.x",
                Err("strconv.ParseInt: parsing \"x\": invalid syntax"),
            ),
            (
                "2026-01-01T00:00:00Z",
                Err("strconv.ParseInt: parsing \"2026-01-01T00:00:00Z\": invalid syntax"),
            ),
            (
                "9999999999999",
                Err("time \"9999999999999\" is out of range"),
            ),
        ] {
            assert_eq!(
                parse(text).map_err(|e| e.message),
                want.map_err(str::to_owned)
            );
        }
    }
}
