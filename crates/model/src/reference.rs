//! Image references (`docker.io/library/nginx:1.27@sha256:...`), parsed and shortened as the distribution project specifies.
//!
//! Grammar: `[domain[:port]/]path[:tag][@digest]`. The first component is a registry's host only when it looks like one:
//! it holds a `.` or a `:`, an upper-case letter, or is `localhost`. Everything else is on Docker Hub.

use std::fmt;

use crate::{Error, Result};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
/// Bytes of a repository's path at most.
const PATH_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A parsed, normalised image reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Registry host with port; `docker.io` when none was given.
    pub domain: String,
    /// Path below the registry; `library/` is added for Docker Hub's short names.
    pub path: String,
    pub tag: Option<String>,
    /// `sha256:<64 hex>` (or sha384, sha512).
    pub digest: Option<String>,
}

impl Reference {
    /// Parses what a user typed. A reference with neither tag nor digest keeps both empty; see [`Self::or_latest`].
    ///
    /// # Errors
    /// `invalid reference format` and its variants, as the CLI matches them.
    pub fn parse(text: &str) -> Result<Self> {
        if is_identifier(text) {
            return Err(Error::invalid(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, remainder) = split_domain(text);
        let remote = remainder.split(':').next().unwrap_or_default();
        if remote.to_lowercase() != remote {
            return Err(Error::invalid(format!(
                "invalid reference format: repository name ({remote}) must be lowercase"
            )));
        }
        Self::from_parts(domain, &remainder)
    }

    fn from_parts(domain: &str, remainder: &str) -> Result<Self> {
        let invalid = || Error::invalid("invalid reference format");
        let (name, digest) = match remainder.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (remainder, None),
        };
        let (path, tag) = match name.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (name, None),
        };
        if !path.split('/').all(is_path_component)
            || tag.is_some_and(|tag| !is_tag(tag))
            || digest.is_some_and(|digest| !looks_like_digest(digest))
        {
            return Err(invalid());
        }
        // A first component that cannot be a host may still be a path: then there is no registry in the name at all.
        let (domain, path) = if is_domain(domain) {
            (domain.to_owned(), path.to_owned())
        } else if is_path_component(domain) {
            (String::new(), format!("{domain}/{path}"))
        } else {
            return Err(invalid());
        };
        if path.len() > PATH_MAX {
            return Err(Error::invalid(
                "repository name must not be more than 255 characters",
            ));
        }
        if let Some(digest) = digest {
            check_digest(digest)?;
        }
        Ok(Self {
            domain,
            path,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The repository with its registry: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        if self.domain.is_empty() {
            self.path.clone()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// The repository as users write it: `nginx`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            // Without its domain it would be read as another registry's.
            _ if self
                .path
                .split_once('/')
                .is_some_and(|(first, _)| is_host(first)) =>
            {
                self.name()
            }
            _ => self.path.clone(),
        }
    }

    /// The full form: `docker.io/library/nginx:1.27@sha256:...`.
    pub fn canonical(&self) -> String {
        self.with_suffix(self.name())
    }

    /// The short form that the CLI prints: `nginx:1.27`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// Adds the tag `latest` where there is neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.is_name_only() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// Neither tag nor digest.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// `invalid tag format`.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(Error::invalid("invalid tag format"));
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest);
        }
        name
    }
}

impl fmt::Display for Reference {
    /// The full form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

/// 64 lower-case hex digits: an id, never a name.
pub fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_hex)
}

/// `sha256:` and 64 lower-case hex digits (or sha384, sha512 with theirs).
///
/// # Errors
/// The texts of the digest library that Docker uses.
pub fn check_digest(digest: &str) -> Result<()> {
    let (algorithm, hex) = digest
        .split_once(':')
        .ok_or_else(|| Error::invalid("invalid checksum digest format"))?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(Error::invalid("unsupported digest algorithm")),
    };
    if hex.len() != length {
        return Err(Error::invalid("invalid checksum digest length"));
    }
    if !hex.bytes().all(is_hex) {
        return Err(Error::invalid("invalid checksum digest format"));
    }
    Ok(())
}

/// Does the first part of a name say where the registry is?
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase)
}

fn split_domain(text: &str) -> (&str, String) {
    let Some((first, rest)) = text.split_once('/') else {
        return (DEFAULT_DOMAIN, format!("{OFFICIAL}{text}"));
    };
    let (domain, remainder) = if first == LEGACY_DOMAIN {
        (DEFAULT_DOMAIN, rest)
    } else if is_host(first) {
        (first, rest)
    } else {
        (DEFAULT_DOMAIN, text)
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain, format!("{OFFICIAL}{remainder}"));
    }
    (domain, remainder.to_owned())
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// Runs of lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(*first)
        && alphanumeric(*last)
        && text
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// The wide form that references allow; [`check_digest`] is the strict one.
fn looks_like_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.split(['-', '_', '+', '.']).all(|part| {
            part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
                && part.bytes().all(|b| b.is_ascii_alphanumeric())
        }) && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn is_domain(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        ("ipv6", port)
    } else {
        text.find(':').map_or((text, ""), |at| text.split_at(at))
    };
    let port_fits = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    port_fits && host.split('.').all(is_domain_component)
}

fn is_domain_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "4bb436df9dab33a18aca484ca722c41675f3f906799a38735e2c7153611f31e4";

    #[test]
    fn forms() {
        for (text, canonical, familiar) in [
            ("nginx", "docker.io/library/nginx", "nginx"),
            ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
            ("foo/bar", "docker.io/foo/bar", "foo/bar"),
            ("docker.io/nginx", "docker.io/library/nginx", "nginx"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c", "a/b:c"),
            ("docker.io/a.io/b", "docker.io/a.io/b", "docker.io/a.io/b"),
            ("localhost/x", "localhost/x", "localhost/x"),
            (
                "localhost:5000/x:1",
                "localhost:5000/x:1",
                "localhost:5000/x:1",
            ),
            (
                "127.0.0.1:5000/library/busybox",
                "127.0.0.1:5000/library/busybox",
                "127.0.0.1:5000/library/busybox",
            ),
            ("[::1]:5000/x/y", "[::1]:5000/x/y", "[::1]:5000/x/y"),
            ("Host/x", "Host/x", "Host/x"),
            ("a_b.c/d", "a_b.c/d", "a_b.c/d"),
            (
                "a__b/c--d/e.f:_T",
                "docker.io/a__b/c--d/e.f:_T",
                "a__b/c--d/e.f:_T",
            ),
            (
                "docker.io/library/a/b",
                "docker.io/library/a/b",
                "library/a/b",
            ),
        ] {
            let parsed = Reference::parse(text).unwrap();
            assert_eq!(parsed.canonical(), canonical, "{text}");
            assert_eq!(parsed.familiar(), familiar, "{text}");
        }
        let digested = Reference::parse(&format!("a:b@sha256:{HEX}")).unwrap();
        assert_eq!(digested.tag.as_deref(), Some("b"));
        assert_eq!(digested.digest, Some(format!("sha256:{HEX}")));
        assert_eq!(digested.clone().or_latest(), digested);
        let named = Reference::parse("a").unwrap();
        assert!(named.is_name_only());
        assert_eq!(named.or_latest().familiar(), "a:latest");
    }

    #[test]
    fn errors() {
        let long = "a".repeat(256);
        for (text, want) in [
            ("", "invalid reference format"),
            (
                "INVALID",
                "invalid reference format: repository name (library/INVALID) must be lowercase",
            ),
            (
                "a/B:c",
                "invalid reference format: repository name (a/B) must be lowercase",
            ),
            ("a b", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a-", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("/a", "invalid reference format"),
            ("a/", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a:-b", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
            ("a@", "invalid reference format"),
            ("a@sha256:12", "invalid reference format"),
            ("host:x/y", "invalid reference format"),
            ("[::1/x", "invalid reference format"),
            ("é", "invalid reference format"),
            (
                &long,
                "repository name must not be more than 255 characters",
            ),
            (
                HEX,
                &format!(
                    "invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"
                ),
            ),
            (
                &format!("a@sha256:{}", &HEX[..40]),
                "invalid checksum digest length",
            ),
            (
                &format!("a@md5:{}", &HEX[..32]),
                "unsupported digest algorithm",
            ),
            (
                &format!("a@sha256:{}", HEX.to_uppercase()),
                "invalid checksum digest format",
            ),
        ] {
            assert_eq!(Reference::parse(text).unwrap_err().message, want, "{text}");
        }
        assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    #[test]
    fn new_tag() {
        let reference = Reference::parse(&format!("x@sha256:{HEX}")).unwrap();
        assert_eq!(reference.with_tag("v1").unwrap().familiar(), "x:v1");
        assert_eq!(
            reference.with_tag("/").unwrap_err().message,
            "invalid tag format"
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,80}") {
            let _ = Reference::parse(&text);
        }

        #[test]
        fn both_forms_read_back_alike(text in "([a-zA-Z.]{1,9}(:[0-9]{1,4})?/)?[a-z0-9]{1,8}([._/-][a-z0-9]{1,8}){0,3}(:[A-Za-z0-9_][a-z.-]{0,9})?") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.canonical()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }
    }
}
