//! API versions: which one a request speaks, and what changed with which.

use std::fmt;

/// A version of the Engine API. The major number is 1 for all that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u32,
    minor: u32,
}

impl ApiVersion {
    /// The newest version; a path without a version means it.
    pub const MAX: Self = Self::v1(55);
    /// The oldest version that is served.
    pub const MIN: Self = Self::v1(24);

    /// `1.<minor>`
    pub const fn v1(minor: u32) -> Self {
        Self { major: 1, minor }
    }

    /// Reads `1.41`. As in dockerd missing parts are 0 and what follows the second part does not matter.
    /// None when the text has other characters than digits and dots (then it is no version prefix at all).
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return None;
        }
        let mut parts = text.split('.').map(|part| match part {
            "" => 0,
            digits => digits.parse().unwrap_or(u32::MAX),
        });
        Some(Self {
            major: parts.next().unwrap_or(0),
            minor: parts.next().unwrap_or(0),
        })
    }

    /// True before `1.<minor>`.
    pub fn before(self, minor: u32) -> bool {
        self < Self::v1(minor)
    }

    /// True from `1.<minor>` on.
    pub fn since(self, minor: u32) -> bool {
        !self.before(minor)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::ApiVersion;

    #[test]
    fn parse_and_order() {
        let v = |text| ApiVersion::parse(text).unwrap();
        assert!(v("1.9") < v("1.24"));
        assert!(v("1.100") > ApiVersion::MAX);
        assert!(v("2.0") > ApiVersion::MAX);
        assert_eq!(v("1.41.0"), ApiVersion::v1(41));
        assert_eq!(v("1"), ApiVersion::v1(0));
        assert_eq!(v("1.99999999999999"), ApiVersion::v1(u32::MAX));
        assert!(ApiVersion::parse("1.4x").is_none());
        assert!(v("1.51").before(52) && v("1.52").since(52));
    }
}
