//! Query parameters by Go's and dockerd's rules.

use longshore_model::{Error, Result};

/// The decoded parameters of a query, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=1&b=x%20y`.
    ///
    /// # Errors
    /// `invalid URL escape "%zz"`, `invalid semicolon separator in query`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            if part.contains(';') {
                return Err(Error::invalid("invalid semicolon separator in query"));
            }
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(key, true)?, decode(value, true)?));
        }
        Ok(Self(pairs))
    }
    /// The first value of `key`, empty when there is none.
    pub fn get(&self, key: &str) -> &str {
        self.opt(key).unwrap_or_default()
    }
    /// The first value of `key`, if it was given at all.
    pub fn opt(&self, key: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(name, _)| name == key)?;
        Some(&pair.1)
    }
    /// Every value of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }
    /// dockerd's idea of a boolean: empty, `0`, `no`, `false` and `none` are false, everything else is true.
    pub fn bool(&self, key: &str) -> bool {
        let value = self.get(key).trim().to_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }
    /// As [`Self::bool`], with a default for a missing or empty parameter.
    pub fn bool_or(&self, key: &str, default: bool) -> bool {
        match self.get(key) {
            "" => default,
            _ => self.bool(key),
        }
    }
    /// A number; 0 when it is missing or no number.
    pub fn int_or_zero(&self, key: &str) -> i64 {
        self.get(key).parse().unwrap_or(0)
    }
    /// A number, None when it is missing or empty.
    ///
    /// # Errors
    /// Go's text for a bad number.
    pub fn int(&self, key: &str) -> Result<Option<i64>> {
        match self.get(key) {
            "" => Ok(None),
            text => parse_int(text).map(Some),
        }
    }
}

/// A decimal number.
///
/// # Errors
/// `strconv.ParseInt: parsing "x": invalid syntax`, or `value out of range`.
pub fn parse_int(text: &str) -> Result<i64> {
    text.parse::<i64>().map_err(|error| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Error::invalid(format!("strconv.ParseInt: parsing {text:?}: {why}"))
    })
}

/// Percent-decoding; `+` is a space in a query. Bytes that are no UTF-8 become U+FFFD.
///
/// # Errors
/// `invalid URL escape "%zz"`.
pub fn decode(text: &str, query: bool) -> Result<String> {
    if !text.contains(['%', '+']) {
        return Ok(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
                let (Some(high), Some(low)) = (hex(bytes.get(at + 1)), hex(bytes.get(at + 2)))
                else {
                    let bad = &bytes[at..bytes.len().min(at + 3)];
                    let bad = String::from_utf8_lossy(bad);
                    return Err(Error::invalid(format!("invalid URL escape {bad:?}")));
                };
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            b'+' if query => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Ok(String::from_utf8(out)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let query = Query::parse("a=1&b=x%20y+z&a=2&empty=&flag&t=3x").unwrap();
        assert_eq!(query.get("a"), "1");
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.get("b"), "x y z");
        assert_eq!(query.opt("empty"), Some(""));
        assert_eq!(query.opt("none"), None);
        assert_eq!(query.int_or_zero("t"), 0);
        assert_eq!(
            query.int("t").unwrap_err().message,
            "strconv.ParseInt: parsing \"3x\": invalid syntax"
        );
    }

    #[test]
    fn booleans() {
        for (text, want) in [
            ("", false),
            ("0", false),
            ("no", false),
            ("False", false),
            ("none", false),
            ("1", true),
            ("true", true),
            ("yes", true),
            ("x", true),
        ] {
            let query = Query::parse(&format!("k={text}")).unwrap();
            assert_eq!(query.bool("k"), want, "{text}");
        }
        assert!(Query::default().bool_or("k", true));
    }

    #[test]
    fn bad_escapes() {
        for (text, bad) in [("a=%zz", "%zz"), ("a=%1", "%1"), ("%", "%")] {
            let error = Query::parse(text).unwrap_err();
            assert_eq!(error.message, format!("invalid URL escape \"{bad}\""));
        }
    }
}
