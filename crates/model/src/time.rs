//! Points in time as Docker prints them.

use serde::{Deserialize, Serialize};

/// Nanoseconds since the epoch; 0 stands for Go's zero time (`0001-01-01T00:00:00Z`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub fn now() -> Self {
        let elapsed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self(i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX))
    }
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }
    /// RFC 3339 with as many fraction digits as needed (Go's RFC3339Nano), in UTC.
    pub fn rfc3339(self) -> String {
        if self.is_zero() {
            return "0001-01-01T00:00:00Z".to_owned();
        }
        jiff::Timestamp::from_nanosecond(i128::from(self.0))
            .map(|t| t.to_string())
            .unwrap_or_default()
    }
    /// Reads RFC 3339 text; Go's zero time gives 0.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        if text.starts_with("0001-01-01T00:00:00") {
            return Some(Self(0));
        }
        let stamp: jiff::Timestamp = text.parse().ok()?;
        i64::try_from(stamp.as_nanosecond()).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn prints_like_go() {
        assert_eq!(Timestamp(0).rfc3339(), "0001-01-01T00:00:00Z");
        assert_eq!(
            Timestamp(1_795_466_465_006_579_400).rfc3339(),
            "2026-11-23T20:41:05.0065794Z"
        );
        assert_eq!(
            Timestamp(1_795_466_465_000_000_000).rfc3339(),
            "2026-11-23T20:41:05Z"
        );
        assert_eq!(
            Timestamp::parse_rfc3339("2026-11-23T20:41:05.0065794Z"),
            Some(Timestamp(1_795_466_465_006_579_400))
        );
    }
}
