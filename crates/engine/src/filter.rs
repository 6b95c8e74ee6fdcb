//! The ways in which Docker's list and prune filters compare.

use std::collections::BTreeMap;

use longshore_model::{Error, Result, Timestamp};

use crate::api::Filters;

/// `label=k`, `label=k=v` (all needed) and `label!=...` (none may match).
pub(crate) fn labels(have: &BTreeMap<String, String>, filters: &Filters) -> bool {
    let matches = |wanted: &str| match wanted.split_once('=') {
        Some((key, value)) => have.get(key).is_some_and(|v| v == value),
        None => have.contains_key(wanted),
    };
    let all = filters
        .get("label")
        .is_none_or(|values| values.iter().all(|v| matches(v)));
    let none = filters
        .get("label!")
        .is_none_or(|values| !values.iter().any(|v| matches(v)));
    all && none
}

/// A boolean filter; None when it is not given.
///
/// # Errors
/// `invalid filter 'name=[x]'` for other words.
pub(crate) fn boolean(filters: &Filters, name: &str) -> Result<Option<bool>> {
    let Some(values) = filters.get(name).filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let read: Option<Vec<bool>> = values.iter().map(|v| truth(v)).collect();
    match read.as_deref() {
        Some([first, rest @ ..]) if rest.iter().all(|v| v == first) => Ok(Some(*first)),
        _ => Err(Error::invalid(format!(
            "invalid filter '{name}=[{}]'",
            values.join(" ")
        ))),
    }
}

/// Go's strconv.ParseBool words.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `until=<unix seconds | RFC 3339 | duration ago>` in nanoseconds.
///
/// # Errors
/// More than one value, or one that is no time.
pub(crate) fn until(filters: &Filters) -> Result<Option<i64>> {
    let Some(values) = filters.get("until").filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let [only] = values.as_slice() else {
        return Err(Error::invalid("more than one until filter specified"));
    };
    moment(only)
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("invalid filter 'until={only}'")))
}

/// A point in time as clients write it.
fn moment(text: &str) -> Option<i64> {
    if let Some(ago) = duration(text) {
        return Some(Timestamp::now().0.saturating_sub(ago));
    }
    // A date may end after its day, hour, minute or second; it is UTC then.
    let rest = match text.len() {
        10 => "T00:00:00Z",
        13 => ":00:00Z",
        16 => ":00Z",
        19 => "Z",
        _ => "",
    };
    if let Some(stamp) = Timestamp::parse_rfc3339(&format!("{text}{rest}")) {
        return Some(stamp.0);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    seconds
        .parse::<i64>()
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(nanos)
}

/// Go's duration text (`1h30m`, `10s`, `1.5h`) in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_length = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len() - digits);
        let factor = match &rest[digits..digits + unit_length] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * factor;
        rest = &rest[digits + unit_length..];
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, which is what an absurd duration means"
    )]
    (!text.is_empty()).then_some(total as i64)
}

/// `8080`, `8080/tcp`, `8000-8100/udp` against a port.
pub(crate) fn port(wanted: &str, number: u16, protocol: &str) -> bool {
    let (range, wanted_protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let within = first.parse::<u16>().is_ok_and(|f| f <= number)
        && last.parse::<u16>().is_ok_and(|l| number <= l);
    within && wanted_protocol == protocol && number != 0
}

/// Docker takes `name` and `id` filters as regular expressions, searched anywhere. See `regex_lite` for what is understood.
pub(crate) fn pattern(pattern: &str, text: &str) -> bool {
    pattern == text || regex_lite::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (wanted, text, want) in [
            ("^web$", "web", true),
            ("^/web$", "web", false),
            ("we", "web", true),
            ("^x", "web", false),
            ("w.b", "web", true),
            ("a|web", "web", true),
            ("[", "web", false),
        ] {
            assert_eq!(pattern(wanted, text), want, "{wanted}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(duration("10s"), Some(10_000_000_000));
        assert_eq!(duration("12"), None);
        assert_eq!(moment("12.5"), Some(12_500_000_000));
        for text in [
            "1970-01-02",
            "1970-01-02T00",
            "1970-01-02T00:00",
            "1970-01-02T00:00:00",
            "1970-01-02T01:00:00+01:00",
        ] {
            assert_eq!(moment(text), Some(86_400_000_000_000), "{text}");
        }
    }

    #[test]
    fn ports() {
        assert!(port("8000-8100/udp", 8050, "udp"));
        assert!(port("80", 80, "tcp"));
        assert!(!port("80", 80, "udp"));
    }
}
